//! What the image itself must be, and what it may cost.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use qboot_tests::skip;
use xtask::budget::{self, Budget};
use xtask::measure::{self, Kit};
use xtask::{build, inspect, workspace};

#[test]
fn the_image_is_a_rom_of_64_kib() -> Result<()> {
    let rom = build::rom(&[])?;
    let image = fs::read(&rom.image)?;
    ensure!(image.len() == 65_536, "{} bytes", image.len());
    // How many may be used is in the budget.
    ensure!(rom.used <= 65_536, "{} bytes used", rom.used);
    // A jump at the reset vector.
    ensure!(
        matches!(image[0xfff0], 0xe9..=0xeb),
        "{:#x} at the reset vector",
        image[0xfff0]
    );
    Ok(())
}

#[test]
fn no_panic_and_no_initialised_statics() -> Result<()> {
    let elf = fs::read(build::rom(&[])?.elf)?;
    // Symbols that panics of Rust's core library leave behind, of any size.
    let symbols = symbol_names(&elf)?;
    ensure!(symbols.len() > 20, "the ELF file has no symbol table");
    let panics: Vec<_> = symbols
        .iter()
        .filter(|name| name.contains("panicking") || name.contains("panic_"))
        .collect();
    ensure!(panics.is_empty(), "{panics:?}");
    for part in inspect::sections(&elf)? {
        let data = part.name.starts_with(".data") || part.name.starts_with(".got");
        ensure!(
            !data || part.len == 0,
            "{} has {} bytes",
            part.name,
            part.len
        );
    }
    Ok(())
}

fn symbol_names(elf: &[u8]) -> Result<Vec<String>> {
    use object::{Object, ObjectSymbol};
    let file = object::File::parse(elf)?;
    Ok(file
        .symbols()
        .filter_map(|symbol| Some(symbol.name().ok()?.to_owned()))
        .collect())
}

/// The same source in another directory makes the same bytes.
#[test]
fn builds_are_reproducible() -> Result<()> {
    let root = workspace::root();
    let here = build::rom(&[])?;
    let dir = tempfile::tempdir()?;
    let copy = dir.path().join("elsewhere");
    for file in tracked(&root)? {
        let to = copy.join(&file);
        fs::create_dir_all(to.parent().context("a file without a directory")?)?;
        fs::copy(root.join(&file), to)?;
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--package", "xtask"])
        .current_dir(&root)
        .status()?;
    ensure!(built.success(), "the host program does not build");
    // The host program finds its workspace by this variable.
    let output = Command::new(workspace::target().join("debug/xtask"))
        .arg("build")
        .env("CARGO_MANIFEST_DIR", copy.join("xtask"))
        .env_remove("CARGO_TARGET_DIR")
        .current_dir(&copy)
        .output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    let there = fs::read(copy.join("target/qboot.rom"))?;
    ensure!(
        workspace::sha256(&there) == here.sha256,
        "two builds of one source differ"
    );
    Ok(())
}

/// The files of the source: git's, or where there is no git all but `target`.
fn tracked(root: &Path) -> Result<Vec<String>> {
    let output = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root)
        .output()
        .context("git does not start")?;
    ensure!(output.status.success(), "this is no git checkout");
    let text = String::from_utf8(output.stdout)?;
    Ok(text
        .split('\0')
        .filter(|name| !name.is_empty() && root.join(name).is_file())
        .map(str::to_owned)
        .collect())
}

/// No cell costs more than `tests/budget.toml` says.
#[test]
fn every_cell_keeps_its_budget() -> Result<()> {
    let budget = Budget::read()?;
    let version = budget::qemu_version()?;
    if version != budget.qemu {
        skip(
            "every_cell_keeps_its_budget",
            &format!("QEMU {version} gives other tables than {}", budget.qemu),
        );
        return Ok(());
    }
    let kit = Kit::new(&measure::donor(None)?)?;
    let found = budget.compare(&measure::budget(&kit)?);
    for text in &found.better {
        println!("cheaper: {text}");
    }
    ensure!(
        found.worse.is_empty(),
        "dearer than tests/budget.toml allows:\n  {}\n\
         If it is worth it: cargo xtask measure --update-budget",
        found.worse.join("\n  ")
    );
    Ok(())
}
