//! What the image itself must be, and what it may cost.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use qboot::layout;
use qboot_tests::machines::*;
use qboot_tests::smbios::Smbios;
use qboot_tests::{Kind, Probe, skip, sum};
use rstest::rstest;
use xtask::inspect::Identity;
use xtask::measure::budget::{self, Budget};
use xtask::measure::{self, Kit};
use xtask::{build, elf, workspace};

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
    let bytes = fs::read(build::rom(&[])?.elf)?;
    // Symbols that panics of Rust's core library leave behind, of any size.
    let symbols = symbol_names(&bytes)?;
    ensure!(symbols.len() > 20, "the ELF file has no symbol table");
    let panics: Vec<_> = symbols
        .iter()
        .filter(|name| name.contains("panicking") || name.contains("panic_"))
        .collect();
    ensure!(panics.is_empty(), "{panics:?}");
    for part in elf::sections(&bytes)? {
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

/// Nothing in the image but its SMBIOS passes for a table that kernels look
/// for in the F segment, which is the image itself on microvm and isapc.
#[test]
fn one_table_is_found_in_the_image() -> Result<()> {
    let image = fs::read(build::rom(&[])?.image)?;
    let own = (layout::OWN_SMBIOS.start() - layout::F_SEGMENT.start()) as usize;
    let mut found_own = 0;
    // The length's place and unit.
    let signatures: [(&[u8], usize, usize); 7] = [
        (b"_SM_", 5, 1),
        (b"_DMI_", 0, 15),
        (b"_SM3_", 6, 1),
        (b"RSD PTR ", 0, 20),
        (b"_32_", 9, 16),
        (b"_MP_", 8, 16),
        (b"$PIR", 6, 1),
    ];
    for paragraph in (0..image.len()).step_by(16) {
        let found = &image[paragraph..];
        for (signature, at, unit) in signatures {
            if !found.starts_with(signature) {
                continue;
            }
            let len = if at == 0 {
                unit
            } else {
                usize::from(found[at]) * unit
            };
            let sum = sum(&found[..len.min(found.len())]);
            if sum == 0 && (paragraph == own || paragraph == own + 16) {
                found_own += 1;
                continue;
            }
            ensure!(
                len == 0 || sum != 0,
                "{} at {paragraph:#x}",
                String::from_utf8_lossy(signature)
            );
        }
    }
    ensure!(found_own == 2, "no entry point of our own at {own:#x}");
    Ok(())
}

/// The image names the commit and its date, and so does SMBIOS.
#[rstest]
fn the_rom_says_which_build_it_is(#[values(PC, MICROVM)] machine: Machine) -> Result<()> {
    let image = fs::read(build::rom(&[])?.image)?;
    let identity = Identity::read(&image).context("the image does not say what it is")?;
    ensure!(
        identity.version == env!("CARGO_PKG_VERSION"),
        "{identity:?}"
    );
    ensure!(identity.features.is_empty(), "{identity:?}");
    if let Ok(head) = git(&workspace::root(), &["log", "-1", "--format=%H %cs"]) {
        let (hash, date) = head.trim().split_once(' ').context("no commit")?;
        let commit = identity.commit.trim_end_matches('+');
        ensure!(
            hash[..12] == *commit && date == identity.date,
            "{identity:?} of {head}"
        );
    }
    let [year, month, day] = identity.date.split('-').collect::<Vec<_>>()[..] else {
        bail!("no date in {identity:?}");
    };
    let probe = Probe::new(Kind::Pvh)?;
    let own = probe.machine(machine)?.bios(build::rom(&[])?.image);
    let (_, mut vm) = probe.boot(&own)?;
    let smbios = Smbios::read(&mut vm)?.context("no SMBIOS entry point")?;
    let expected = [
        "qboot-rs",
        &identity.version,
        &format!("{month}/{day}/{year}"),
    ];
    ensure!(
        smbios.get(0)?.strings == expected,
        "{:?}, expected {expected:?}",
        smbios.get(0)?.strings
    );
    Ok(())
}

/// The same source in another directory makes the same bytes: unpacked from
/// an archive, without git; or where files have been changed since the
/// commit, as the archive knows nothing of them, in a clone with the changes.
#[test]
fn builds_are_reproducible() -> Result<()> {
    let root = workspace::root();
    let Ok(changes) = git(&root, &["status", "--porcelain"]) else {
        skip("builds_are_reproducible", "this is no git checkout to copy");
        return Ok(());
    };
    let here = build::rom(&[])?;
    let dir = tempfile::tempdir()?;
    let copy = dir.path().join("elsewhere");
    if changes.is_empty() {
        let archive = dir.path().join("source.tar");
        let output = format!("--output={}", archive.display());
        git(&root, &["archive", "--format=tar", &output, "HEAD"])?;
        fs::create_dir(&copy)?;
        let unpacked = Command::new("tar")
            .arg("-xf")
            .arg(&archive)
            .current_dir(&copy)
            .status()?;
        ensure!(unpacked.success(), "tar fails on the archive");
    } else {
        let (from, to) = (root.to_string_lossy(), copy.to_string_lossy());
        git(&root, &["clone", "--quiet", "--no-checkout", &from, &to])?;
        git(&copy, &["reset", "--quiet"])?;
        for file in tracked(&root)? {
            let to = copy.join(&file);
            fs::create_dir_all(to.parent().context("a file without a directory")?)?;
            fs::copy(root.join(&file), to)?;
        }
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--package", "qboot-cli"])
        .current_dir(&root)
        .status()?;
    ensure!(built.success(), "the host program does not build");
    // The host program finds its workspace by this variable.
    let output = Command::new(workspace::target().join("debug/qboot"))
        .arg("build")
        .env("CARGO_MANIFEST_DIR", copy.join("cli"))
        .env_remove("CARGO_TARGET_DIR")
        .current_dir(&copy)
        .output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    let there = fs::read(copy.join("target/qboot.rom"))?;
    ensure!(
        workspace::sha256(&there) == here.sha256,
        "two builds of one source differ: {:?}, {:?}",
        Identity::read(&fs::read(&here.image)?),
        Identity::read(&there)
    );
    let elf = fs::read(copy.join("target/qboot.elf"))?;
    ensure!(
        elf == fs::read(&here.elf)?,
        "their debug information differs"
    );
    names_no_directory(&there, &[&copy, &root])?;
    names_no_directory(&elf, &[&copy, &root])
}

/// What debug information calls the directories of the crates, the compiler and
/// the source; and of the one compiler-rt routine that cold code uses (a 64-bit
/// shift), as whoever built the toolchain had it.
const NAMED: [&[u8]; 4] = [b"/cargo/", b"/rustc/", b"/qboot-rs", b"/checkout/"];

/// What is handed out says nothing of the machine that it was built on: no
/// directory of this one's, and no absolute path but those that are meant.
fn names_no_directory(file: &[u8], more: &[&Path]) -> Result<()> {
    let home = ["HOME", "CARGO_HOME"].map(|name| std::env::var_os(name).map(PathBuf::from));
    let dirs = home.iter().flatten().map(PathBuf::as_path);
    for dir in dirs.chain(more.iter().copied()) {
        let name = dir.as_os_str().as_encoded_bytes();
        let named = name.len() > 4 && file.windows(name.len()).any(|part| part == name);
        ensure!(!named, "{} is named", dir.display());
    }
    let texts = file
        .split(|byte| *byte == 0)
        .filter(|text| text.len() > 4 && text.iter().all(|byte| matches!(byte, b' '..=b'~')));
    for text in texts {
        let words = text.split(|byte| b" =:,\"'(".contains(byte));
        // A line of text may have a slash of its own, and numbers among debug
        // information that happen to be letters make short words with one.
        let paths = words
            .filter(|word| matches!(word, [b'/', next, _, _, ..] if next.is_ascii_alphanumeric()));
        for path in paths {
            ensure!(
                NAMED.iter().any(|named| path.starts_with(named)),
                "{} is named",
                String::from_utf8_lossy(path)
            );
        }
    }
    Ok(())
}

/// The files of the source.
fn tracked(root: &Path) -> Result<Vec<String>> {
    let text = git(
        root,
        &[
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ],
    )?;
    Ok(text
        .split('\0')
        .filter(|name| !name.is_empty() && root.join(name).is_file())
        .map(str::to_owned)
        .collect())
}

/// What git says in `dir`.
fn git(dir: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(dir)
        .output()
        .context("git does not start")?;
    ensure!(
        output.status.success(),
        "git {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
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
