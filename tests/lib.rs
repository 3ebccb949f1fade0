//! Boot tests of the firmware under QEMU.
//!
//! `QBOOT_ROM` names another image to test than the one built from this source,
//! `QBOOT_QEMU` another QEMU than the one on the path.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use tempfile::TempDir;
use xtask::probe::{BzImage, Elf, Mode, Multiboot, Record};
use xtask::qemu::{Qemu, Vm};
use xtask::{build, probe};

#[path = "oracle/acpi.rs"]
pub mod acpi;
#[path = "oracle/handover.rs"]
pub mod handover;
#[path = "oracle/smbios.rs"]
pub mod smbios;

/// Longest that a probe may take to be entered: TCG on a loaded machine.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(60);

/// The ROM under test: `QBOOT_ROM`, or the one built from this source.
///
/// # Errors
/// It does not build.
pub fn rom() -> Result<PathBuf> {
    static ROM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = ROM.get_or_init(|| match std::env::var_os("QBOOT_ROM") {
        Some(path) => Ok(path.into()),
        None => match build::rom(&[]) {
            Ok(rom) => Ok(rom.image),
            Err(error) => Err(format!("{error:#}")),
        },
    });
    found.clone().map_err(Error::msg)
}

/// Says that a test was not run and why, in a form that scripts count.
///
/// # Panics
/// The file that they read cannot be written.
pub fn skip(test: &str, reason: &str) {
    // Standard error of a passing test is swallowed by the test runner, so the
    // line is written to the terminal's file descriptor itself.
    use std::io::Write;
    let line = format!("SKIPPED {test}: {reason}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    // scripts/boots.sh counts them at its end, and none may get lost.
    if let Some(list) = std::env::var_os("QBOOT_SKIPPED") {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(list);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .expect("QBOOT_SKIPPED cannot be written");
    }
}

/// Whether the QEMU under test has the device `name`.
///
/// # Errors
/// It does not start.
pub fn has_device(name: &str) -> Result<bool> {
    let program = xtask::qemu::binary();
    let output = std::process::Command::new(program)
        .args(["-device", "help"])
        .output()
        .context("starting QEMU")?;
    // Its status says nothing.
    let known = String::from_utf8_lossy(&output.stdout);
    Ok(known.contains(&format!("name \"{name}\"")))
}

/// A probe kernel's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 32-bit boot protocol, with a header of our own.
    BzImage,
    /// PVH.
    Pvh,
    /// Multiboot.
    Multiboot,
}

/// A probe that halts, in a file of a directory of its own.
pub struct Probe {
    /// Its kind.
    pub kind: Kind,
    dir: TempDir,
}

impl Probe {
    /// A probe with the usual header.
    ///
    /// # Errors
    /// It does not build.
    pub fn new(kind: Kind) -> Result<Self> {
        let bytes = match kind {
            Kind::BzImage => BzImage::minimal(Mode::Halt)?.bytes(),
            Kind::Pvh => Elf::new(Mode::Halt)?.bytes()?,
            Kind::Multiboot => Multiboot::new(Mode::Halt)?.bytes(),
        };
        Self::from_bytes(kind, &bytes)
    }

    /// A probe from an image's bytes.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn from_bytes(kind: Kind, bytes: &[u8]) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("kernel"), bytes)?;
        Ok(Self { kind, dir })
    }

    /// The image file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("kernel")
    }

    /// Writes a file beside the image, such as an initrd.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn file(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes)?;
        Ok(path)
    }

    /// A machine that boots this probe with the ROM under test.
    ///
    /// # Errors
    /// The ROM does not build.
    pub fn machine(&self, machine: &str) -> Result<Qemu> {
        let qemu = Qemu::new(machine).bios(rom()?).kernel(self.path()).qmp();
        Ok(probe::ports(qemu))
    }

    /// Starts a machine and waits for the probe: what it was handed, and the
    /// halted machine to read memory from.
    ///
    /// # Errors
    /// The probe is not entered, or what it was handed cannot be read.
    pub fn boot(&self, qemu: &Qemu) -> Result<(handover::Handover, Vm)> {
        let mut vm = qemu.spawn()?;
        // A firmware that gives up says so at once.
        vm.wait_for("the probe's record", PROBE_TIMEOUT, |vm| {
            vm.debugcon(probe::REPORT_PORT).len() >= probe::RECORD_LEN || vm.serial().contains('\n')
        })?;
        let record = Record::parse(&vm.debugcon(probe::REPORT_PORT))
            .with_context(|| format!("the probe was not entered\n{}", vm.report()))?;
        let handover = handover::Handover::read(&mut vm, self.kind, record)
            .with_context(|| format!("what the kernel was handed\n{}", vm.report()))?;
        Ok((handover, vm))
    }
}

/// Bytes that differ from page to page, the same for the same seed.
#[must_use]
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    // A block of a length that shares no factor with a page's, over and over.
    const BLOCK: usize = 65_521;
    let mut state = seed | 1;
    let mut block = Vec::with_capacity(BLOCK + 8);
    while block.len() < BLOCK {
        // xorshift64 (Marsaglia).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block.extend(state.to_le_bytes());
    }
    block.truncate(BLOCK);
    let mut bytes = block.repeat(len.div_ceil(BLOCK));
    bytes.truncate(len);
    bytes
}

/// Reads numbers from bytes.
pub(crate) trait Field {
    fn u8(&self, at: usize) -> Result<u8>;
    fn u16(&self, at: usize) -> Result<u16>;
    fn u32(&self, at: usize) -> Result<u32>;
    fn u64(&self, at: usize) -> Result<u64>;
}

impl Field for [u8] {
    fn u8(&self, at: usize) -> Result<u8> {
        Ok(take::<1>(self, at)?[0])
    }
    fn u16(&self, at: usize) -> Result<u16> {
        Ok(u16::from_le_bytes(take(self, at)?))
    }
    fn u32(&self, at: usize) -> Result<u32> {
        Ok(u32::from_le_bytes(take(self, at)?))
    }
    fn u64(&self, at: usize) -> Result<u64> {
        Ok(u64::from_le_bytes(take(self, at)?))
    }
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    bytes
        .get(at..at + N)
        .and_then(|slice| slice.try_into().ok())
        .ok_or_else(|| anyhow::anyhow!("{N} bytes at {at} of {}", bytes.len()))
}

/// The sum of bytes modulo 256, which tables with a checksum make 0.
pub(crate) fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}
