//! Where the repository and its build products are, and how this program was called.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

/// The source tree, if this program is part of one.
///
/// Cargo names the running package's directory at run time, so a moved checkout works.
/// A program started by hand looks for the tree around `target/debug`. An installed one
/// has none.
pub fn source() -> Option<PathBuf> {
    let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let program = env::current_exe().ok();
    let is_ours = |dir: &&Path| dir.join("boot16.S").is_file() && dir.join("cli").is_dir();
    [package, program]
        .iter()
        .flatten()
        .find_map(|start| start.ancestors().find(is_ours))
        .map(Path::to_path_buf)
}

/// The source tree, or an error.
///
/// # Errors
/// There is none; the error says where to do `what`.
pub fn require_source(what: &str) -> Result<PathBuf> {
    source().with_context(|| {
        format!("{what} needs the source tree: start this in a checkout, as `cargo xtask`")
    })
}

/// A script that stands for one command passes its own name in this variable, as it was
/// typed.
pub const SCRIPT: &str = "QBOOT_SCRIPT";

/// What the user types before a command: `scripts/xtask.sh`, cargo's alias, or the
/// installed program.
pub fn program_name() -> String {
    match env::var(SCRIPT) {
        Ok(script) => match script.rsplit_once('/') {
            Some((scripts, _)) => format!("{scripts}/xtask.sh"),
            None => script,
        },
        Err(_) if source().is_some() => "cargo xtask".to_owned(),
        Err(_) => "qboot".to_owned(),
    }
}

/// The cargo that started this program, or the one on the path.
pub fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// The repository's root; without one, the current directory.
pub fn root() -> PathBuf {
    source()
        .or_else(|| env::current_dir().ok())
        .unwrap_or_else(|| PathBuf::from("."))
}

/// The directory of generated files, which may be deleted: `target/`, or the user's
/// cache without a source tree.
pub fn target() -> PathBuf {
    if let Some(source) = source() {
        return source.join("target");
    }
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|dir| dir.is_absolute())
        .or_else(home)
        .unwrap_or_else(env::temp_dir)
        .join("qboot")
}

/// The ROM that was installed with this program, `../share/qemu/qboot-rs.rom`, or
/// where packages put it: `cargo install` brings none.
pub fn installed_rom() -> Option<PathBuf> {
    let program = env::current_exe().ok();
    let prefix = program
        .as_deref()
        .and_then(|program| program.parent()?.parent());
    let prefixes = prefix
        .into_iter()
        .chain([Path::new("/usr/local"), Path::new("/usr")]);
    let mut roms = prefixes.map(|prefix| prefix.join("share/qemu/qboot-rs.rom"));
    roms.find(|rom| rom.is_file())
}

/// An exclusive lock named `name`, held until the value is dropped.
///
/// Several test processes may need the same kernel or ROM at once. The first makes it;
/// the others wait.
///
/// # Errors
/// The lock file cannot be created under `target/locks/`.
pub fn lock(name: &str) -> Result<File> {
    let dir = target().join("locks");
    fs::create_dir_all(&dir).with_context(|| match source() {
        Some(_) => format!("creating {}", dir.display()),
        None => format!(
            "creating {} (XDG_CACHE_HOME may name another place than ~/.cache)",
            dir.display()
        ),
    })?;
    let path = dir.join(name);
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    let locking = || format!("locking {}", path.display());
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            eprintln!("waiting for {}, which is in use ...", path.display());
            file.lock().with_context(locking)?;
        }
        tried => tried.with_context(locking)?,
    }
    Ok(file)
}

/// Writes `bytes` to `path` so that no reader ever sees a part.
///
/// # Errors
/// The file cannot be written or renamed into place.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().context("a file path without a directory")?;
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    // Threads and processes that write the same file must not share a partial one.
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}-{count}.part", std::process::id()));
    let partial = PathBuf::from(partial);
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        fs::rename(&partial, path)
    };
    let written = write();
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written.with_context(|| format!("writing {}", path.display()))
}

/// As [`write_atomically`], but an unchanged file keeps its time stamp.
///
/// # Errors
/// As [`write_atomically`].
pub fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<()> {
    match fs::read(path) {
        Ok(there) if there == bytes => Ok(()),
        _ => write_atomically(path, bytes),
    }
}

/// Reads a file.
///
/// # Errors
/// It cannot be read; the error names it.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// Writes a file that the user has named. A device, a pipe or a link's target is
/// written to rather than replaced. No directory is made, since its name may be
/// mistyped.
///
/// # Errors
/// The file cannot be written.
pub fn write_named(path: &Path, bytes: &[u8]) -> Result<()> {
    let writing = || format!("writing {}", path.display());
    match fs::symlink_metadata(path) {
        Ok(there) if !there.is_file() => fs::write(path, bytes).with_context(writing),
        _ => {
            let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
            let dir = dir.unwrap_or(Path::new("."));
            fs::metadata(dir).with_context(writing)?;
            write_atomically(path, bytes)
        }
    }
}

/// Opens a file that the user has named, such as a distribution's kernel, which only
/// root may read on some systems.
///
/// # Errors
/// It cannot be opened. The error says what to do about missing permissions.
pub fn open_named(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => anyhow::Error::new(error).context(format!(
            "not yours to read (sudo install -m 644 {} . makes a copy that is)",
            path.display()
        )),
        _ => error.into(),
    })
}

/// SHA-256 of `bytes` in lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = hmac_sha256::Hash::hash(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_of_one_file_do_not_disturb_each_other() {
        let path = target()
            .join("tests")
            .join(format!("atomic-{}", std::process::id()));
        std::thread::scope(|scope| {
            let path = &path;
            for byte in 0..8_u8 {
                scope.spawn(move || {
                    for _ in 0..50 {
                        write_atomically(path, &[byte; 4096]).unwrap();
                        let read = fs::read(path).unwrap();
                        assert_eq!(read.len(), 4096);
                        assert!(read.iter().all(|b| *b == read[0]));
                    }
                });
            }
        });
        fs::remove_file(path).unwrap();
    }
}
