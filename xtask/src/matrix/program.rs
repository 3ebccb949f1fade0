//! The QEMU that a cell runs under: the installed one, or one of Debian's later
//! suites, unpacked beside it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

use super::artefact;
use super::table::Cell;
use crate::{debian, qemu, workspace};

/// A QEMU and its version, `7.2`.
pub type Program = (PathBuf, String);

/// Names of QEMUs that are fetched.
const BACKPORTS: &str = "backports";
const SID: &str = "sid";

/// The QEMU for a cell: the one asked for, or the usual one, or that of the
/// backports where it is too old.
///
/// # Errors
/// It does not start, or cannot be had.
pub fn program(cell: &Cell, asked: Option<&str>) -> Result<Program> {
    let found = known(asked)?;
    let major = found.1.split('.').next().unwrap_or_default();
    match major.parse::<u32>()? < cell.row.qemu {
        true => known(Some(BACKPORTS)),
        false => Ok(found),
    }
}

/// What `asked` stands for; asked again, the same.
fn known(asked: Option<&str>) -> Result<Program> {
    static KNOWN: Mutex<Vec<(Option<String>, Program)>> = Mutex::new(Vec::new());
    let mut list = KNOWN.lock().ok().context("fetching QEMU died")?;
    let name = asked.map(str::to_owned);
    if let Some((_, program)) = list.iter().find(|(other, _)| *other == name) {
        return Ok(program.clone());
    }
    let path = match asked {
        Some(BACKPORTS) => backports()?,
        Some(SID) => sid()?,
        Some(path) => path.into(),
        None => qemu::binary().into(),
    };
    let version = version(&path)?;
    list.push((name, (path.clone(), version.clone())));
    Ok((path, version))
}

fn version(program: &Path) -> Result<String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.with_context(|| format!("starting {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = text.split_whitespace();
    let number = words.filter(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    let number = number.take(1).next().context("QEMU names no version")?;
    Ok(number.split('.').take(2).collect::<Vec<_>>().join("."))
}

fn suite(suite: &str) -> debian::Lists {
    debian::Lists::Suite {
        suite: suite.to_owned(),
        arch: "amd64".to_owned(),
    }
}

/// QEMU from bookworm-backports, which runs with the release's libraries.
fn backports() -> Result<PathBuf> {
    let mut roots = Vec::new();
    for name in ["qemu-system-x86", "qemu-system-common", "qemu-system-data"] {
        let (name, lists) = (name.to_owned(), suite("bookworm-backports"));
        roots.push(debian::unpack(&debian::Package { name, lists })?);
    }
    let [programs, common, data] = roots.as_slice() else {
        bail!("not three packages");
    };
    starter(
        BACKPORTS,
        &format!(
            "export QEMU_MODULE_DIR={}/usr/lib/x86_64-linux-gnu/qemu\n\
             exec {}/usr/bin/qemu-system-x86_64 -L {}/usr/share/qemu -L /usr/share/seabios \"$@\"\n",
            common.display(),
            programs.display(),
            data.display()
        ),
    )
}

/// QEMU from Debian's unstable suite, with all its libraries and their loader:
/// the release's C library is older than it asks for.
fn sid() -> Result<PathBuf> {
    let root = debian::unpack_with_dependencies(&debian::Package {
        name: "qemu-system-x86".to_owned(),
        lists: suite(SID),
    })?;
    let root = root.display();
    starter(
        SID,
        &format!(
            "export QEMU_MODULE_DIR={root}/usr/lib/x86_64-linux-gnu/qemu\n\
             exec {root}/usr/lib64/ld-linux-x86-64.so.2 --library-path {root}/usr/lib/x86_64-linux-gnu \\\n  \
             {root}/usr/bin/qemu-system-x86_64 -L {root}/usr/share/qemu -L {root}/usr/share/seabios \"$@\"\n",
        ),
    )
}

/// A program that starts an unpacked QEMU with its own modules and data.
fn starter(name: &str, commands: &str) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let path = artefact::directory()?.join(format!("qemu-{name}"));
    let script = format!("#!/bin/sh\n{commands}");
    if std::fs::read(&path).ok().as_deref() != Some(script.as_bytes()) {
        workspace::write_atomically(&path, script.as_bytes())?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(path)
}
