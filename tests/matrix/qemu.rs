//! The QEMU that a cell runs under: the installed one, or one of Debian's later
//! suites, unpacked beside it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::{Context, Result};
use xtask::qemu::debian;

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
        "backports" => debian::of("bookworm-backports")?.program,
        "sid" => debian::of("sid")?.program,
        path => path.into(),
    };
    let version = xtask::qemu::numbers(path.as_os_str())?;
    let program = (path, version);
    known.insert(name.to_owned(), program.clone());
    Ok(program)
}
