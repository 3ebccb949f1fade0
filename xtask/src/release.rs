//! Makes a release in `target/release-VERSION/`, and checks it by boots of the unpacked
//! files.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::dist::{self, NAME, VERSION};
use crate::inspect::Identity;
use crate::output::say;
use crate::probe::{self, BzImage, Elf, Mode};
use crate::process::{self, stdout_of};
use crate::qemu::Qemu;
use crate::{build, package, progress, workspace};

/// The command line of `release`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Make it although files differ from the commit
    #[arg(long)]
    pub dirty: bool,
}

/// Longest that a probe may take to be entered.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Makes the release and checks it.
///
/// # Errors
/// Files differ from the commit, a step fails, or a check does.
pub fn run(options: &Options) -> Result<()> {
    let source = workspace::require_source("making a release")?;
    for tool in ["cargo-about", "cargo-cyclonedx"] {
        let found = Command::new(tool).arg("--version").output();
        found.with_context(|| format!("{tool} is missing: cargo install --locked {tool}"))?;
    }
    let rom = build::rom(&[])?;
    let image = fs::read(&rom.image)?;
    let identity = Identity::read(&image).context("the ROM does not say which build it is")?;
    if !options.dirty {
        let clean = stdout_of(
            Command::new("git")
                .args(["status", "--porcelain"])
                .current_dir(&source),
        )?;
        ensure!(
            clean.is_empty() && !identity.commit.ends_with('+'),
            "files differ from commit {}: commit them, or say --dirty\n{clean}",
            identity.commit
        );
    }
    let dir = workspace::target().join(format!("release-{VERSION}"));
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;

    let root = format!("{NAME}-{VERSION}");
    let files = dir.join(&root);
    dist::collect(&package::tool()?, &files)?;
    fs::copy(
        build::rom(&["markers"])?.image,
        files.join("qboot-markers.rom"),
    )?;
    fs::write(files.join("NOTICES.txt"), notices(&source)?)?;
    let step = progress::step("packing");
    let epoch = package::epoch(&identity.date)?;
    let archive = dir.join(format!("{root}.tar.gz"));
    pack(&dir, &root, &archive, &epoch)?;
    package::debian(&files, &dir)?;
    for name in ["qboot.rom", "qboot-markers.rom", "qboot.elf"] {
        fs::rename(files.join(name), dir.join(name))?;
    }
    fs::remove_dir_all(&files)?;
    bills(&source, &dir, &epoch)?;
    write_sums(&dir)?;
    step.done("archive, Debian package, bills of materials, sums");

    check(&dir)?;
    for name in names(&dir)? {
        let bytes = fs::metadata(dir.join(&name))?.len();
        say!("{bytes:>10}  {name}")?;
    }
    say!("{}: checked", dir.display())?;
    Ok(())
}

/// The released parts: package directory and build arguments.
const PARTS: [(&str, &str, &[&str]); 2] = [
    ("qboot.rom", ".", &["--features", "rom"]),
    ("qboot", "cli", &[]),
];

/// The licence texts of the released crates: most demand to be included.
fn notices(source: &Path) -> Result<String> {
    let mut text = String::new();
    for (part, dir, arguments) in PARTS {
        let about = source.join("xtask");
        let terms = stdout_of(
            Command::new("cargo")
                .current_dir(source.join(dir))
                .args(["about", "generate", "--fail", "--config"])
                .arg(about.join("about.toml"))
                .args(arguments)
                .arg(about.join("about.hbs")),
        )?;
        text.push_str(&format!(
            "{part} is linked with these crates and with Rust's standard library (MIT or \
             Apache-2.0,\nhttps://www.rust-lang.org/policies/licenses).\n\n{}\n\n",
            terms.trim_end()
        ));
    }
    Ok(text)
}

/// The bills of materials: the released crates.
fn bills(source: &Path, dir: &Path, epoch: &str) -> Result<()> {
    const BILL: &str = "bill-of-materials";
    let cargo = workspace::cargo();
    for (part, package, arguments) in PARTS {
        let target = if part == "qboot" { HOST } else { build::TARGET };
        let bill = Command::new(&cargo)
            .current_dir(source.join(package))
            .args(["cyclonedx", "--format", "json", "--spec-version", "1.5"])
            .args(["--override-filename", BILL, "--target", target])
            .args(arguments)
            .env("SOURCE_DATE_EPOCH", epoch)
            .output();
        let bill = bill.context("starting cargo cyclonedx")?;
        // The tool writes one beside every manifest of the workspace.
        let mut text = None;
        for member in [".", "cli", "xtask", "tests"] {
            let file = source.join(member).join(format!("{BILL}.json"));
            let found = fs::read_to_string(&file);
            let _ = fs::remove_file(&file);
            if member == package {
                text = found.ok();
            }
        }
        let said = String::from_utf8_lossy(&bill.stderr);
        let text =
            text.with_context(|| format!("cargo cyclonedx wrote no bill of {part}\n{said}"))?;
        // The same text in every directory.
        let text = text.replace(&format!("file://{}", source.display()), "file:///qboot-rs");
        fs::write(dir.join(format!("{part}-{VERSION}.cdx.json")), text)?;
    }
    Ok(())
}

/// What the released program runs on.
const HOST: &str = "x86_64-unknown-linux-gnu";

/// An archive of the directory `root` in `dir`, the same bytes for the same files.
fn pack(dir: &Path, root: &str, archive: &Path, epoch: &str) -> Result<()> {
    process::run(
        Command::new("tar")
            .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
            .args(["--mode=go=rX,u+rw,a-s", &format!("--mtime=@{epoch}")])
            .arg("--use-compress-program=gzip -9n")
            .arg("-cf")
            .arg(archive)
            .arg("-C")
            .arg(dir)
            .arg(root),
    )
}

/// The files of a release, in alphabetical order.
fn names(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn write_sums(dir: &Path) -> Result<()> {
    let mut sums = String::new();
    for name in names(dir)? {
        let sum = workspace::sha256(&fs::read(dir.join(&name))?);
        sums.push_str(&format!("{sum}  {name}\n"));
    }
    fs::write(dir.join("SHA256SUMS"), sums)?;
    Ok(())
}

/// Checks the files in `dir`: sums, then boots of the archive's and the package's ROM
/// on every machine.
///
/// # Errors
/// A check fails.
pub fn check(dir: &Path) -> Result<()> {
    process::run(
        Command::new("sha256sum")
            .args(["--check", "--quiet", "SHA256SUMS"])
            .current_dir(dir),
    )?;
    let scratch = tempfile::tempdir()?;
    let released = fs::read(dir.join("qboot.rom"))?;
    let find = |suffix: &str| {
        let names = names(dir)?;
        let found = names.into_iter().find(|name| name.ends_with(suffix));
        found.with_context(|| format!("no {suffix} in {}", dir.display()))
    };

    let step = progress::step("booting what is in the archive");
    let archive = dir.join(find(".tar.gz")?);
    let unpacked = scratch.path().join("archive");
    fs::create_dir(&unpacked)?;
    process::run(
        Command::new("tar")
            .arg("-xf")
            .arg(archive)
            .arg("-C")
            .arg(&unpacked),
    )?;
    let unpacked = unpacked.join(format!("{NAME}-{VERSION}"));
    let prefix = scratch.path().join("prefix");
    let install = ["--prefix".as_ref(), prefix.as_os_str()];
    process::run(Command::new(unpacked.join("install.sh")).args(install))?;
    check_installed(&prefix, &released)?;
    process::run(
        Command::new(unpacked.join("install.sh"))
            .args(install)
            .arg("--uninstall"),
    )?;
    ensure!(
        !prefix.join("bin").exists(),
        "the program is not uninstalled"
    );
    step.done("installed, booted, uninstalled");

    let step = progress::step("booting what is in the package");
    let root = scratch.path().join("package");
    process::run(
        Command::new("dpkg-deb")
            .arg("-x")
            .arg(dir.join(find(".deb")?))
            .arg(&root),
    )?;
    check_installed(&root.join("usr"), &released)?;
    step.done("unpacked, booted");
    Ok(())
}

/// Boots what is installed under `prefix`, and asks the program about it.
///
/// # Errors
/// A part is missing, or a boot fails.
pub fn check_installed(prefix: &Path, released: &[u8]) -> Result<()> {
    let rom = prefix.join("share/qemu/qboot-rs.rom");
    ensure!(
        fs::read(&rom)? == released,
        "another ROM than the one released"
    );
    for machine in ["pc", "q35", "microvm"] {
        boot(&rom, machine)?;
    }
    let identity = Identity::read(released).context("no identity")?;
    let mut program = Command::new(prefix.join("bin/qboot"));
    // As the user starts it, without cargo.
    program.env_remove("CARGO_MANIFEST_DIR").current_dir("/");
    let shown = stdout_of(program.args(["inspect"]))?;
    ensure!(
        shown.contains(&identity.version) && shown.contains(&rom.display().to_string()),
        "the program inspects something else:\n{shown}"
    );
    for file in ["man/man1/qboot.1.gz", "doc/qboot-rs/NOTICES.txt"] {
        ensure!(prefix.join("share").join(file).is_file(), "no {file}");
    }
    let descriptor = prefix.join("share/qemu/firmware/60-qboot-rs.json");
    let descriptor: serde_json::Value = serde_json::from_slice(&fs::read(descriptor)?)?;
    let named = descriptor["mapping"]["filename"]
        .as_str()
        .unwrap_or_default();
    ensure!(
        named.ends_with("/share/qemu/qboot-rs.rom"),
        "the descriptor names {named}"
    );
    Ok(())
}

/// Boots a probe of each kind with `rom`.
fn boot(rom: &Path, machine: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let kernel = dir.path().join("kernel");
    for bytes in [
        BzImage::minimal(Mode::Halt)?.bytes(),
        Elf::new(Mode::Halt)?.bytes()?,
    ] {
        fs::write(&kernel, bytes)?;
        let qemu = probe::ports(Qemu::new(machine).bios(rom).kernel(&kernel));
        let mut vm = qemu.spawn()?;
        if let Err(error) = probe::wait(&mut vm, 1, TIMEOUT) {
            bail!(
                "{machine}: the probe was not entered: {error:#}\n{}",
                vm.report()
            );
        }
    }
    Ok(())
}
