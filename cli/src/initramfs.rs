//! The small user space that the boots reach: busybox and one `/init`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cpio::newc;
use elf::ElfBytes;
use elf::abi::PT_INTERP;
use elf::endian::LittleEndian;
use elf::file::Class;

use crate::debian::{self, Lists, Package};
use crate::workspace;

/// `/init`, whose head lists the `qboot.*` parameters that it reads from the
/// kernel's command line.
pub const INIT: &str = include_str!("init.sh");

/// Begins the line that `/init` prints in user space. `kernel=… cpus=… memory_kib=…`
/// follow.
pub const MARKER: &str = "qboot: user space reached:";

/// Which kernels can run the programs in an archive.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Arch {
    /// 64-bit kernels.
    Amd64,
    /// 32-bit kernels.
    I386,
}

/// Makes an initial RAM file system: a cpio archive in the `newc` format (the kernel's
/// `Documentation/driver-api/early-userspace/buffer-format.rst`).
///
/// The same entries make the same bytes, whatever the host and the time.
#[derive(Clone, Debug, Default)]
pub struct Initramfs {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    path: String,
    mode: u32,
    rdev: (u32, u32),
    contents: Vec<u8>,
}

const S_IFCHR: u32 = 0o020_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

impl Initramfs {
    /// An archive without entries.
    pub fn empty() -> Self {
        Self::default()
    }

    /// busybox, the directories that `/init` mounts on, and [`INIT`].
    ///
    /// # Errors
    /// There is no statically linked busybox, see [`busybox`].
    pub fn standard(arch: Arch) -> Result<Self> {
        let contents = workspace::read(&busybox(arch)?)?;
        Ok(Self::empty()
            .directory("bin")
            .directory("dev")
            .directory("proc")
            .directory("sys")
            .directory("tmp")
            // The kernel opens it for /init before anything is mounted.
            .character_device("dev/console", 0o600, 5, 1)
            .file("bin/busybox", 0o755, contents)
            .symlink("bin/sh", "busybox")
            .file("init", 0o755, INIT))
    }

    /// Adds a regular file. `path` has no leading slash; add its directory first.
    #[must_use]
    pub fn file(self, path: &str, permissions: u32, contents: impl Into<Vec<u8>>) -> Self {
        self.entry(path, S_IFREG | permissions, (0, 0), contents.into())
    }

    /// Adds a directory.
    #[must_use]
    pub fn directory(self, path: &str) -> Self {
        self.entry(path, S_IFDIR | 0o755, (0, 0), Vec::new())
    }

    /// Adds a symbolic link to `to`.
    #[must_use]
    pub fn symlink(self, path: &str, to: &str) -> Self {
        self.entry(path, S_IFLNK | 0o777, (0, 0), to.into())
    }

    /// Adds a character device.
    #[must_use]
    pub fn character_device(self, path: &str, permissions: u32, major: u32, minor: u32) -> Self {
        self.entry(path, S_IFCHR | permissions, (major, minor), Vec::new())
    }

    fn entry(mut self, path: &str, mode: u32, rdev: (u32, u32), contents: Vec<u8>) -> Self {
        self.entries.push(Entry {
            path: path.to_owned(),
            mode,
            rdev,
            contents,
        });
        self
    }

    /// The archive's bytes, uncompressed.
    ///
    /// # Errors
    /// A file is too large for the format (4 GiB).
    pub fn archive(&self) -> Result<Vec<u8>> {
        let mut inputs = Vec::with_capacity(self.entries.len());
        for (ino, entry) in (1..).zip(&self.entries) {
            ensure!(
                u32::try_from(entry.contents.len()).is_ok(),
                "{} is too large for a cpio archive",
                entry.path
            );
            let builder = newc::Builder::new(&entry.path)
                .ino(ino)
                .mode(entry.mode)
                .rdev_major(entry.rdev.0)
                .rdev_minor(entry.rdev.1);
            inputs.push((builder, std::io::Cursor::new(entry.contents.as_slice())));
        }
        cpio::write_cpio(inputs.into_iter(), Vec::new()).context("writing the cpio archive")
    }
}

/// Writes [`Initramfs::standard`] under `target/`, unless it is there already, and
/// returns its path.
///
/// # Errors
/// As [`Initramfs::standard`], or the file cannot be written.
pub fn standard(arch: Arch) -> Result<PathBuf> {
    let archive = Initramfs::standard(arch)?.archive()?;
    let path = workspace::target().join(match arch {
        Arch::Amd64 => "initramfs.cpio",
        Arch::I386 => "initramfs-i386.cpio",
    });
    workspace::write_if_changed(&path, &archive)?;
    Ok(path)
}

/// A statically linked busybox: the system's, or Debian's `busybox-static`
/// unpacked without being installed (it and `busybox` exclude one another).
///
/// # Errors
/// The system has none, and there is no apt to fetch it.
pub fn busybox(arch: Arch) -> Result<PathBuf> {
    if arch == Arch::Amd64
        && let Some(installed) = installed_busybox()
    {
        return Ok(installed);
    }
    debian::require_apt(
        "busybox-static",
        "install a statically linked busybox as /bin/busybox, or name an initrd of your own with --initrd",
    )?;
    let package = Package {
        name: "busybox-static".into(),
        lists: match arch {
            Arch::Amd64 => Lists::system(),
            Arch::I386 => Lists::of("i386"),
        },
    };
    let root = debian::unpack(&package)?;
    ["bin/busybox", "usr/bin/busybox"]
        .iter()
        .map(|path| root.join(path))
        .find(|path| path.is_file())
        .context("the package busybox-static holds no busybox")
}

/// The system's busybox, if it is 64-bit and statically linked.
pub fn installed_busybox() -> Option<PathBuf> {
    ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| is_static(path))
}

/// Whether the 64-bit program at `path` is statically linked: it has no interpreter
/// segment.
fn is_static(path: &Path) -> bool {
    let Ok(bytes) = fs::read(path) else {
        return false;
    };
    let Ok(file) = ElfBytes::<LittleEndian>::minimal_parse(&bytes) else {
        return false;
    };
    let mut segments = file.segments().into_iter().flatten();
    file.ehdr.class == Class::ELF64 && segments.all(|segment| segment.p_type != PT_INTERP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_lists_what_was_added() {
        let archive = Initramfs::empty()
            .directory("dev")
            .character_device("dev/console", 0o600, 5, 1)
            .file("init", 0o755, "#!/bin/sh\n")
            .symlink("sh", "init")
            .archive()
            .unwrap();
        let mut rest = archive.as_slice();
        let mut seen = Vec::new();
        loop {
            let mut reader = newc::Reader::new(rest).unwrap();
            let entry = reader.entry();
            if entry.is_trailer() {
                break;
            }
            let (name, mode) = (entry.name().to_owned(), entry.mode());
            let rdev = (entry.rdev_major(), entry.rdev_minor());
            let mut contents = Vec::new();
            std::io::copy(&mut reader, &mut contents).unwrap();
            seen.push((name, mode, rdev, contents));
            rest = reader.finish().unwrap();
        }
        let expected = [
            ("dev", 0o040_755, (0, 0), ""),
            ("dev/console", 0o020_600, (5, 1), ""),
            ("init", 0o100_755, (0, 0), "#!/bin/sh\n"),
            ("sh", 0o120_777, (0, 0), "init"),
        ]
        .map(|(name, mode, rdev, contents)| {
            (name.to_owned(), mode, rdev, contents.as_bytes().to_vec())
        });
        assert_eq!(seen, expected);
    }

    #[test]
    fn the_script_says_the_marker_that_the_host_looks_for() {
        assert!(INIT.contains(&format!("echo \"{MARKER}")));
    }
}
