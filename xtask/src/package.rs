//! The Debian package: what `scripts/install.sh` puts under `/usr`, wrapped by
//! `dpkg-deb`. Every Debian has it, and it makes the same bytes from the same source.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::dist::{NAME, VERSION};
use crate::inspect::Identity;
use crate::process::{run, stdout_of};
use crate::{debian, progress, workspace};

/// Builds the host program for a release.
///
/// # Errors
/// There is no source tree, or it does not compile.
pub fn tool() -> Result<PathBuf> {
    let source = workspace::require_source("building the host program")?;
    let step = progress::step("building the host program");
    let target = workspace::target();
    run(Command::new(workspace::cargo())
        .current_dir(&source)
        .args(["build", "--locked", "--release", "--package", "qboot-cli"])
        .arg("--target-dir")
        .arg(&target)
        // Panic messages must not have this machine's paths.
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            format!("--remap-path-prefix={}=.", source.display()),
        )
        .env_remove("RUSTFLAGS"))?;
    let tool = target.join("release/qboot");
    step.done("target/release/qboot");
    Ok(tool)
}

/// Makes the Debian package of what `cargo xtask dist` has collected in `files`, in the
/// directory `to`.
///
/// # Errors
/// There is no `dpkg-deb`, a step fails, or the crates' terms are missing.
pub fn debian(files: &Path, to: &Path) -> Result<PathBuf> {
    let image = fs::read(files.join("qboot.rom"))?;
    let identity = Identity::read(&image).context("the ROM does not say which build it is")?;
    let notices = files.join("NOTICES.txt");
    fs::metadata(&notices).with_context(|| format!("{}", notices.display()))?;
    fs::create_dir_all(to)?;
    let root = tempfile::tempdir_in(to)?;
    let staged = root.path().join("root");
    let mut install = Command::new(files.join("install.sh"));
    run(install.args(["--prefix", "/usr"]).env("DESTDIR", &staged))?;
    let arch = debian::host_arch()?;
    let doc = staged.join("usr/share/doc").join(NAME);
    fs::write(doc.join("copyright"), copyright(files)?)?;
    let changes = doc.join("changelog");
    fs::write(&changes, changelog(&identity.date)?)?;
    // Without name and time, so that the same text gives the same bytes.
    run(Command::new("gzip").arg("-9n").arg(&changes))?;
    let overrides = staged.join("usr/share/lintian/overrides");
    fs::create_dir_all(&overrides)?;
    fs::write(overrides.join(NAME), OVERRIDES)?;
    let kib = stdout_of(
        Command::new("du")
            .args(["-sk", "--apparent-size"])
            .arg(&staged),
    )?;
    let mut control = format!(
        "Package: {NAME}\n\
         Version: {VERSION}\n\
         Architecture: {arch}\n\
         Maintainer: {MAINTAINER}\n\
         Installed-Size: {}\n\
         Section: misc\n\
         Priority: optional\n\
         Recommends: qemu-system-x86\n",
        kib.split('\t').next().unwrap_or_default()
    );
    if let Some(depends) = depends(&staged.join("usr/bin/qboot")) {
        control.push_str(&format!("Depends: {depends}\n"));
    }
    control.push_str(&format!(
        "Description: fast boot firmware for x86 QEMU, direct kernel boot only\n \
         The ROM takes a kernel from QEMU and starts it: bzImage, PVH, multiboot.\n \
         Given with -bios; the program qboot runs and inspects it.\n .\n \
         Built from commit {} of {}.\n",
        identity.commit, identity.date
    ));
    let debian = staged.join("DEBIAN");
    fs::create_dir(&debian)?;
    fs::write(debian.join("md5sums"), md5sums(&staged)?)?;
    fs::write(debian.join("control"), control)?;
    let package = to.join(format!("{NAME}_{VERSION}_{arch}.deb"));
    run(Command::new("dpkg-deb")
        .args(["--root-owner-group", "-Zxz", "--build"])
        .arg(&staged)
        .arg(&package)
        .env("SOURCE_DATE_EPOCH", epoch(&identity.date)?))
    .context("making the Debian package (dpkg-deb is in the package dpkg)")?;
    Ok(package)
}

/// A package needs a maintainer's address; this one is invalid on purpose.
const MAINTAINER: &str = "The qboot-rs developers <qboot-rs@invalid>";
/// For lintian.
const OVERRIDES: &str = "\
# There is no address to write to.
qboot-rs: bogus-mail-host
qboot-rs: bogus-mail-host-in-debian-changelog
";

/// Both licences in Debian's machine-readable format. Debian itself has the Apache
/// text.
fn copyright(files: &Path) -> Result<String> {
    let mit = fs::read_to_string(files.join("LICENSE-MIT"))?;
    let paragraphs: Vec<&str> = mit.split("\n\n").map(str::trim).collect();
    let ["MIT License", holder, terms @ ..] = paragraphs.as_slice() else {
        bail!("LICENSE-MIT does not begin with its name and whose it is");
    };
    let holder = holder.trim_start_matches("Copyright ");
    let terms = terms.join("\n\n");
    let terms = terms.lines().map(|line| match line {
        "" => " .\n".to_owned(),
        line => format!(" {line}\n"),
    });
    Ok(format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
         Upstream-Name: {NAME}\n\
         Comment: The program and the ROM are linked with crates of others. Which,\n \
         whose they are and their terms: /usr/share/doc/{NAME}/NOTICES.txt\n\n\
         Files: *\n\
         Copyright: {holder}\n\
         License: Expat or Apache-2.0\n\n\
         License: Expat\n\
         {}\n\
         License: Apache-2.0\n \
         On Debian systems its text is in /usr/share/common-licenses/Apache-2.0.\n",
        terms.collect::<String>()
    ))
}

/// The package's changes, in Debian's format.
fn changelog(day: &str) -> Result<String> {
    Ok(format!(
        "{NAME} ({VERSION}) unstable; urgency=medium\n\n  \
         * The changes are in CHANGELOG.md.\n\n \
         -- {MAINTAINER}  {}\n",
        date("--rfc-email", day)?
    ))
}

/// The start of a day, `YYYY-MM-DD`, in seconds since 1970.
///
/// # Errors
/// `date` does not start.
pub fn epoch(day: &str) -> Result<String> {
    date("+%s", day)
}

/// The start of a day, by `date`. A source that is neither a checkout nor an archive
/// has no date.
fn date(format: &str, day: &str) -> Result<String> {
    let day = if day == "unknown" { "1970-01-01" } else { day };
    let mut date = Command::new("date");
    let date = date
        .args(["--utc", format, "--date", day])
        .env("LC_ALL", "C");
    Ok(stdout_of(date)?.trim().to_owned())
}

/// The libraries that `program` needs, by Debian's names: from `dpkg-shlibdeps`, or
/// without it those of every Rust program.
fn depends(program: &Path) -> Option<String> {
    let work = program.ancestors().nth(4)?;
    fs::create_dir_all(work.join("debian")).ok()?;
    fs::write(work.join("debian/control"), "Source: qboot-rs\n").ok()?;
    let found = Command::new("dpkg-shlibdeps")
        .args(["-O", "--ignore-missing-info"])
        .arg(program)
        .current_dir(work)
        .output();
    let found = found.ok().filter(|output| output.status.success());
    let text = found.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let depends = text
        .as_deref()
        .and_then(|text| text.trim().strip_prefix("shlibs:Depends="));
    Some(depends.unwrap_or("libc6, libgcc-s1").to_owned())
}

/// The sums that `dpkg --verify` checks.
fn md5sums(staged: &Path) -> Result<String> {
    let list = "find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum";
    stdout_of(Command::new("sh").args(["-c", list]).current_dir(staged))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_written_as_debian_wants_them() {
        assert_eq!(epoch("2026-11-21").unwrap(), "1795219200");
        assert_eq!(epoch("unknown").unwrap(), "0");
        let changes = changelog("2026-11-21").unwrap();
        assert!(
            changes.ends_with("  Sat, 21 Nov 2026 00:00:00 +0000\n"),
            "{changes}"
        );
    }
}
