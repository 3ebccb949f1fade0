//! The QEMU that a cell runs under: the installed one, or one of Debian's later
//! suites, unpacked beside it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::{Context, Result};
use xtask::debian;

use super::files;
use super::table::Cell;

/// A QEMU and its version, `7.2`.
pub type Program = (PathBuf, String);

/// The QEMU for a cell: the usual one, which `QBOOT_QEMU` names, or that of the
/// backports where it is too old.
pub fn program(cell: &Cell) -> Result<Program> {
    let usual = named(&xtask::qemu::binary().to_string_lossy())?;
    let major = usual.1.split('.').next().unwrap_or_default();
    match major.parse::<u32>()? < cell.row.qemu {
        true => named("backports"),
        false => Ok(usual),
    }
}

/// The QEMU that `name` stands for: a suite of Debian's, or a program.
fn named(name: &str) -> Result<Program> {
    static KNOWN: Mutex<BTreeMap<String, Program>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().ok().context("fetching QEMU died")?;
    if let Some(program) = known.get(name) {
        return Ok(program.clone());
    }
    let path = match name {
        "backports" => backports()?,
        "sid" => sid()?,
        path => path.into(),
    };
    let version = xtask::qemu::numbers(path.as_os_str())?;
    let program = (path, version);
    known.insert(name.to_owned(), program.clone());
    Ok(program)
}

/// QEMU from bookworm-backports, which runs with the release's libraries.
fn backports() -> Result<PathBuf> {
    let unpacked = |name| debian::unpack(&files::of_suite("bookworm-backports", "amd64", name));
    let programs = unpacked("qemu-system-x86")?;
    let common = unpacked("qemu-system-common")?;
    let data = unpacked("qemu-system-data")?;
    starter(
        "backports",
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
    let root =
        debian::unpack_with_dependencies(&files::of_suite("sid", "amd64", "qemu-system-x86"))?;
    let root = root.display();
    starter(
        "sid",
        &format!(
            "export QEMU_MODULE_DIR={root}/usr/lib/x86_64-linux-gnu/qemu\n\
             exec {root}/usr/lib64/ld-linux-x86-64.so.2 --library-path {root}/usr/lib/x86_64-linux-gnu \\\n  \
             {root}/usr/bin/qemu-system-x86_64 -L {root}/usr/share/qemu -L {root}/usr/share/seabios \"$@\"\n",
        ),
    )
}

/// A program that starts an unpacked QEMU with its own modules and data.
fn starter(name: &str, commands: &str) -> Result<PathBuf> {
    let path = files::directory()?.join(format!("qemu-{name}"));
    files::write_once(&path, format!("#!/bin/sh\n{commands}").as_bytes())?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}
