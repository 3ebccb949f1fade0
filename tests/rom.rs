//! What the image itself must be, and what it may cost.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use qboot::layout;
use qboot_tests::machines::*;
use qboot_tests::smbios::Smbios;
use qboot_tests::{Kind, Probe, skip, sum, symbols};
use rstest::rstest;
use xtask::inspect::Identity;
use xtask::measure::budget::{self, Budget};
use xtask::measure::{self, Kit};
use xtask::process::{run, stdout_of};
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
    let symbols = symbols()?;
    ensure!(symbols.len() > 20, "the ELF file has no symbol table");
    let names = symbols.iter().map(|(name, _)| name);
    let panics: Vec<_> = names
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

/// The image names the commit and its date; SMBIOS has the version, and the date that
/// guests know.
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
    let probe = Probe::new(Kind::Pvh)?;
    let own = probe.machine(machine)?.bios(build::rom(&[])?.image);
    let (_, mut vm) = probe.boot(&own)?;
    let smbios = Smbios::read(&mut vm)?.context("no SMBIOS entry point")?;
    let expected = ["qboot-rs", &identity.version, "04/01/2014"];
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
        let mut tar = Command::new("tar");
        run(tar.arg("-xf").arg(&archive).current_dir(&copy))?;
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
    // The host program finds its workspace by this variable.
    run(Command::new(qboot_tests::program()?)
        .arg("build")
        .env("CARGO_MANIFEST_DIR", copy.join("cli"))
        .env_remove("CARGO_TARGET_DIR")
        .current_dir(&copy))?;
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
    for name in ["target/qboot.rom", "target/qboot.elf"] {
        names_no_directory(&copy.join(name), &[&copy, &root])?;
    }
    Ok(())
}

/// What debug information calls the directories of the crates, the compiler and
/// the source; and of the one compiler-rt routine that cold code uses (a 64-bit
/// shift), as whoever built the toolchain had it.
const NAMED: [&[u8]; 4] = [b"/cargo/", b"/rustc/", b"/qboot-rs", b"/checkout/"];

/// What is handed out says nothing of the machine that it was built on: no
/// directory of this one's, and no absolute path but those that are meant.
fn names_no_directory(file: &Path, more: &[&Path]) -> Result<()> {
    let bytes = fs::read(file)?;
    let home = ["HOME", "CARGO_HOME"].map(|name| std::env::var_os(name).map(PathBuf::from));
    let dirs = home.iter().flatten().map(PathBuf::as_path);
    for dir in dirs.chain(more.iter().copied()) {
        let name = dir.as_os_str().as_encoded_bytes();
        let named = name.len() > 4 && bytes.windows(name.len()).any(|part| part == name);
        ensure!(!named, "{} is named", dir.display());
    }
    let is_elf = bytes.starts_with(b"\x7fELF");
    let texts = match is_elf {
        true => strings(file, &bytes)?,
        false => bytes,
    };
    let words = texts.split(|byte| !byte.is_ascii_graphic() || b"=:,\"'(".contains(byte));
    for word in words {
        let [b'/', rest @ ..] = word else {
            continue;
        };
        let is_path = rest.first().is_some_and(u8::is_ascii_alphanumeric);
        // Bytes of code are letters now and then, but hardly a directory and a file.
        if is_path && (is_elf || rest.contains(&b'/')) {
            ensure!(
                NAMED.iter().any(|named| word.starts_with(named)),
                "{} is named",
                String::from_utf8_lossy(word)
            );
        }
    }
    Ok(())
}

/// The texts of an ELF file: the sections of strings, and the directories that
/// `.debug_line` has among its numbers.
fn strings(file: &Path, elf: &[u8]) -> Result<Vec<u8>> {
    use object::{Object, ObjectSection};
    let mut texts = Vec::new();
    for section in object::File::parse(elf)?.sections() {
        let name = section.name()?;
        if name == ".comment" || name.ends_with("str") || name.ends_with("strtab") {
            texts.extend(section.data()?);
        }
    }
    let lines = stdout_of(
        Command::new("readelf")
            .arg("--debug-dump=rawline")
            .arg(file),
    )?;
    ensure!(lines.contains("The Directory Table"), "{lines}");
    texts.extend(lines.into_bytes());
    Ok(texts)
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
    stdout_of(Command::new("git").args(arguments).current_dir(dir))
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
    let kit = Kit::new()?;
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
