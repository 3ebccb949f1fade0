//! The Debian package: what `scripts/install.sh` puts under `/usr`, wrapped by
//! `dpkg-deb`. Every Debian has it, and it makes the same bytes from the same source.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::dist::{NAME, VERSION};
use crate::inspect::Identity;
use crate::process::said;
use crate::{progress, workspace};

/// Builds the host program as it is handed out.
///
/// # Errors
/// There is no source tree, or it does not compile.
pub fn tool() -> Result<PathBuf> {
    let source = workspace::require_source("building the host program")?;
    let step = progress::step("building the host program".to_owned());
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = workspace::target();
    said(
        Command::new(cargo)
            .current_dir(&source)
            .args(["build", "--locked", "--release", "--package", "qboot-cli"])
            .arg("--target-dir")
            .arg(&target)
            // No path of this machine in messages of panics.
            .env(
                "CARGO_ENCODED_RUSTFLAGS",
                format!("--remap-path-prefix={}=.", source.display()),
            )
            .env_remove("RUSTFLAGS"),
    )?;
    let tool = target.join("release/qboot");
    step.done("target/release/qboot");
    Ok(tool)
}

/// Makes the Debian package of what [`dist`] has collected in `files`, in the
/// directory `to`.
///
/// # Errors
/// `dpkg-deb` is not here, or a step fails; or the crates' terms are not among them.
pub fn debian(files: &Path, to: &Path) -> Result<PathBuf> {
    let image = fs::read(files.join("qboot.rom"))?;
    let identity = Identity::read(&image).context("the ROM does not say which build it is")?;
    let notices = files.join("NOTICES.txt");
    fs::metadata(&notices).with_context(|| format!("{}", notices.display()))?;
    let root = tempdir(to)?;
    let staged = root.join("root");
    let mut install = Command::new(files.join("install.sh"));
    said(install.args(["--prefix", "/usr"]).env("DESTDIR", &staged))?;
    let arch = said(Command::new("dpkg").arg("--print-architecture"))?;
    let arch = arch.trim();
    let doc = staged.join("usr/share/doc").join(NAME);
    fs::write(doc.join("copyright"), copyright(files)?)?;
    let changes = doc.join("changelog");
    fs::write(&changes, changelog(&identity.date))?;
    // Without name and time: the same text, the same bytes.
    said(Command::new("gzip").arg("-9n").arg(&changes))?;
    let overrides = staged.join("usr/share/lintian/overrides");
    fs::create_dir_all(&overrides)?;
    fs::write(overrides.join(NAME), OVERRIDES)?;
    let mut control = format!(
        "Package: {NAME}\n\
         Version: {VERSION}\n\
         Architecture: {arch}\n\
         Maintainer: {MAINTAINER}\n\
         Installed-Size: {}\n\
         Section: misc\n\
         Priority: optional\n\
         Recommends: qemu-system-x86\n",
        kib(&staged)?
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
    said(
        Command::new("dpkg-deb")
            .args(["--root-owner-group", "-Zxz", "--build"])
            .arg(&staged)
            .arg(&package)
            .env("SOURCE_DATE_EPOCH", epoch(&identity.date).to_string()),
    )
    .context("making the Debian package (dpkg-deb is in the package dpkg)")?;
    fs::remove_dir_all(&root)?;
    Ok(package)
}

/// A package has to name somebody to write to; there is no such address.
const MAINTAINER: &str = "The qboot-rs developers <qboot-rs@invalid>";
/// For lintian.
const OVERRIDES: &str = "\
# There is no address to write to.
qboot-rs: bogus-mail-host
qboot-rs: bogus-mail-host-in-debian-changelog
";

/// Both licences in Debian's machine-readable format; every Debian has the text of
/// Apache's.
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

/// The package's own changes, in Debian's format; the project's are beside it.
fn changelog(date: &str) -> String {
    format!(
        "{NAME} ({VERSION}) unstable; urgency=medium\n\n  \
         * The changes are in CHANGELOG.md.\n\n \
         -- {MAINTAINER}  {}\n",
        rfc_5322(date)
    )
}

/// The start of a day, `YYYY-MM-DD`, as a message's header has it.
fn rfc_5322(date: &str) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let days = usize::try_from(epoch(date) / 86_400).unwrap_or(0);
    let mut parts = date.split('-');
    let (year, month) = (parts.next(), parts.next());
    let month = month.and_then(|month| month.parse::<usize>().ok());
    let month = month.and_then(|month| MONTHS.get(month.checked_sub(1)?));
    match (year, month, parts.next()) {
        (Some(year), Some(month), Some(day)) => {
            format!("{}, {day} {month} {year} 00:00:00 +0000", DAYS[days % 7])
        }
        _ => "Thu, 01 Jan 1970 00:00:00 +0000".to_owned(),
    }
}

/// The libraries that `program` needs, by Debian's names: asked of
/// `dpkg-shlibdeps` where it is, otherwise what every Rust program needs.
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

/// The start of a day, `YYYY-MM-DD`, in seconds since 1970.
#[must_use]
pub fn epoch(date: &str) -> i64 {
    let numbers: Vec<i64> = date
        .split('-')
        .filter_map(|part| part.parse().ok())
        .collect();
    let [year, month, day] = numbers[..] else {
        return 0;
    };
    // Days since 0000-03-01, in years that begin in March.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    (days - 719_468) * 86_400
}

/// For those who check an installation, as `dpkg --verify` does.
fn md5sums(staged: &Path) -> Result<String> {
    let list = "find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum";
    said(Command::new("sh").args(["-c", list]).current_dir(staged))
}

/// What `dir` takes, in KiB.
fn kib(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() {
            kib(&entry.path())? * 1024
        } else {
            metadata.len()
        };
    }
    Ok(bytes.div_ceil(1024))
}

/// An empty directory for work beside what is made in `to`.
fn tempdir(to: &Path) -> Result<PathBuf> {
    let dir = to.join(format!(".package-{}", std::process::id()));
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_count_as_in_the_calendar() {
        assert_eq!(epoch("1970-01-01"), 0);
        assert_eq!(epoch("2000-03-01"), 951_868_800);
        assert_eq!(epoch("2026-11-21"), 1_795_219_200);
        assert_eq!(epoch("unknown"), 0);
        assert_eq!(rfc_5322("2026-11-21"), "Sat, 21 Nov 2026 00:00:00 +0000");
        assert_eq!(rfc_5322("2000-02-29"), "Tue, 29 Feb 2000 00:00:00 +0000");
        assert_eq!(rfc_5322("unknown"), "Thu, 01 Jan 1970 00:00:00 +0000");
    }
}
