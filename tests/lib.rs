//! Boot tests of the firmware under QEMU.
//!
//! `QBOOT_ROM` names another image to test than the one built from this source,
//! `QBOOT_QEMU` another QEMU than the one on the path.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use anyhow::{Context, Error, Result, ensure};
use fastrand::Rng;
use object::{Object, ObjectSymbol};
use qboot::error::{BadValue, Length, Room};
use regex::Regex;
use tempfile::TempDir;
use xtask::deadline::Deadline;
use xtask::probe::{BzImage, Elf, Mode, Multiboot, Record, hdr};
use xtask::process::run;
use xtask::qemu::{Qemu, Vm};
use xtask::{build, probe, workspace};

use crate::machines::Machine;

pub mod guest;
pub mod machines;
#[path = "matrix/mod.rs"]
pub mod matrix;

#[path = "oracle/acpi.rs"]
pub mod acpi;
#[path = "oracle/handover.rs"]
pub mod handover;
#[path = "oracle/loader.rs"]
pub mod loader;
#[path = "oracle/pci.rs"]
pub mod pci;
#[path = "oracle/smbios.rs"]
pub mod smbios;

/// For errors whose details a test does not compare.
pub const ROOM: Room = Room::UNKNOWN;
/// As [`ROOM`].
pub const LENGTH: Length = Length::new(0, 0);
/// As [`ROOM`].
pub const VALUE: BadValue = BadValue::UNKNOWN;

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

/// The host program of this source, built anew.
///
/// # Errors
/// It does not build.
pub fn program() -> Result<PathBuf> {
    let mut build = Command::new(workspace::cargo());
    let build = build.args(["build", "--quiet", "--package", "qboot-cli"]);
    run(build.current_dir(workspace::root()))?;
    Ok(workspace::target().join("debug/qboot"))
}

/// The symbols of the ROM built from this source: their names, mangled, and addresses.
///
/// # Errors
/// The ROM does not build.
pub fn symbols() -> Result<Vec<(String, u64)>> {
    let elf = std::fs::read(build::rom(&[])?.elf)?;
    let file = object::File::parse(elf.as_slice())?;
    let named = |symbol: object::Symbol| Some((symbol.name().ok()?.to_owned(), symbol.address()));
    Ok(file.symbols().filter_map(named).collect())
}

/// The address of the ROM's symbol `name`, which is not mangled.
///
/// # Errors
/// The ROM does not build, or has no such symbol.
pub fn symbol(name: &str) -> Result<u32> {
    let symbols = symbols()?;
    let found = symbols.iter().find(|(symbol, _)| symbol == name);
    let (_, address) = found.with_context(|| format!("the ROM has no {name}"))?;
    Ok(u32::try_from(*address)?)
}

/// Polls `done` until it returns true. The error says `what` was waited for.
///
/// # Errors
/// [`PROBE_TIMEOUT`] passes, or `done` fails.
pub fn wait_until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let mut deadline = Deadline::new(PROBE_TIMEOUT);
    while !done()? {
        ensure!(deadline.pause(), "waited in vain until {what}");
    }
    Ok(())
}

/// Tests that may be skipped, and why: any other skip fails. Both are compared by how
/// they begin.
const SKIPS: [(&str, &str); 12] = [
    ("a_skip", "this is for the count"),
    ("builds_are_reproducible", "this is no git checkout"),
    ("every_cell_keeps_its_budget", "QEMU "),
    ("many_functions_and_deep_trees: 960", "a process may open"),
    ("q35_with_a_switch", "this QEMU has no qxl"),
    ("samples_in_the_documentation_are_real", "QEMU "),
    ("the_debian_package_", "this is no Debian"),
    (
        "the_package_has_them_where_debian_looks",
        "this is no Debian",
    ),
    ("under_kvm ", "/dev/kvm does not open"),
    // Cells of the matrix with a TPM.
    ("", "swtpm is not installed"),
    // Shells' completions.
    ("", "no zsh"),
    ("", "no fish"),
];

/// Says that a test was not run and why, in a form that scripts count.
///
/// # Panics
/// The skip is not one of `SKIPS`, or the file that scripts read cannot be written.
pub fn skip(test: &str, reason: &str) {
    let expected = |(name, why): &(&str, &str)| test.starts_with(name) && reason.starts_with(why);
    assert!(
        SKIPS.iter().any(expected),
        "{test} may not be skipped for {reason:?}"
    );
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
    let mut qemu = Command::new(xtask::qemu::binary());
    let output = qemu.args(["-device", "help"]).output();
    let output = output.context("starting QEMU")?;
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

impl Kind {
    /// The usual image of a probe.
    ///
    /// # Errors
    /// It does not build.
    pub fn image(self, mode: Mode) -> Result<Vec<u8>> {
        match self {
            Self::BzImage => Ok(BzImage::minimal(mode)?.bytes()),
            Self::Pvh => Elf::new(mode)?.bytes(),
            Self::Multiboot => Ok(Multiboot::new(mode)?.bytes()),
        }
    }

    /// A kernel that does not pass for Linux, with this code at its entry and the
    /// probe's behind it.
    ///
    /// # Errors
    /// It does not build.
    pub fn other_than_linux(self, mode: Mode, code: &[u8]) -> Result<Vec<u8>> {
        let mut payload = probe::code(mode)?;
        payload[..code.len()].copy_from_slice(code);
        match self {
            Self::BzImage => {
                let mut image = BzImage::minimal(mode)?;
                image.payload = payload;
                // Linux has a compressed payload.
                image.set_u32(hdr::PAYLOAD_OFFSET, 0);
                image.set_u32(hdr::PAYLOAD_LENGTH, 0);
                Ok(image.bytes())
            }
            Self::Pvh => Elf {
                guest_os: Some("another".to_owned()),
                payload,
                ..Elf::new(mode)?
            }
            .bytes(),
            Self::Multiboot => Ok(Multiboot {
                payload,
                ..Multiboot::new(mode)?
            }
            .bytes()),
        }
    }
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
        Self::from_bytes(kind, &kind.image(Mode::Halt)?)
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

    /// A bzImage whose header is changed, such as by `|image| image.set_u16(…)`.
    ///
    /// # Errors
    /// It does not build.
    pub fn with_header(change: impl FnOnce(&mut BzImage) -> &mut BzImage) -> Result<Self> {
        let mut image = BzImage::minimal(Mode::Halt)?;
        Self::from_bytes(Kind::BzImage, &change(&mut image).bytes())
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
    pub fn machine(&self, machine: Machine) -> Result<Qemu> {
        Ok(probe::ports(machine.qemu()?.kernel(self.path()).qmp()))
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

/// Starts a machine that stands still until gdb comes to this socket.
///
/// # Errors
/// QEMU does not start.
pub fn for_gdb(qemu: Qemu, socket: &Path) -> Result<Vm> {
    let stub = format!("unix:{},server=on,wait=off", socket.display());
    let mut vm = qemu.args(["-S", "-gdb", &stub]).spawn()?;
    vm.wait_for("gdb's socket", PROBE_TIMEOUT, |_| socket.exists())?;
    Ok(vm)
}

/// Generation identifiers: QEMU names one as a UUID, and the guest has its first three
/// fields in its own byte order.
pub const GENERATIONS: [(&str, [u8; 16]); 2] = [
    (
        "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87",
        *b"\xaf\x6e\x4e\x32\xd1\xd1\xf6\x4b\xbf\x41\xb9\xbb\x6c\x91\xfb\x87",
    ),
    (
        "5a1b7c93-0e2d-4f68-8a4c-d3e95b706142",
        *b"\x93\x7c\x1b\x5a\x2d\x0e\x68\x4f\x8a\x4c\xd3\xe9\x5b\x70\x61\x42",
    ),
];

/// Where an identifier is in the memory of a guest of 64 MiB.
///
/// # Errors
/// It is nowhere.
pub fn generation_address(vm: &mut Vm, bytes: &[u8; 16]) -> Result<u64> {
    let memory = vm.memory(0, 64 << 20)?;
    let mut places = (0..memory.len()).step_by(8);
    let found = places.find(|at| memory[*at..].starts_with(bytes));
    Ok(found.context("no generation identifier in memory")? as u64)
}

/// Saves a stopped machine to the file `state`.
///
/// # Errors
/// QEMU does not.
pub fn save(vm: &mut Vm, state: &Path) -> Result<()> {
    vm.monitor("migrate_set_parameter max-bandwidth 10G")?;
    vm.monitor(&format!("migrate \"exec:cat >{}\"", state.display()))?;
    wait_until("the machine is saved", || {
        let status = vm.monitor("info migrate")?;
        ensure!(!status.contains("failed"), "{status}");
        Ok(status.contains("completed"))
    })
}

/// The machine that was saved to `state` in a QEMU of its own, stopped.
///
/// # Errors
/// It does not come in.
pub fn restored(qemu: Qemu, state: &Path) -> Result<Vm> {
    let incoming = format!("exec:cat {}", state.display());
    let mut vm = qemu.args(["-incoming".into(), incoming]).spawn()?;
    wait_until("the machine is restored", || {
        Ok(!vm.monitor("info status")?.contains("inmigrate"))
    })?;
    Ok(vm)
}

/// Debug console of SeaBIOS and OVMF, where the firmware's lines go too.
pub const DEBUG_CONSOLE: u16 = 0x402;

/// The code and the one line of an error that has ended QEMU, which must have said
/// nothing else and have the code in its status.
///
/// # Errors
/// It ended in another way.
pub fn error_line(serial: &str, status: Option<i32>) -> Result<(u8, String)> {
    let line = serial.trim_end();
    let rest = line.strip_prefix("qboot: error ");
    let rest = rest.with_context(|| format!("unexpected output {serial:?}"))?;
    let (code, text) = rest.split_once(": ").context("a line without a message")?;
    ensure!(!text.contains('\n') && text.len() > 10, "{serial:?}");
    let code = u8::from_str_radix(code, 16)?;
    // isa-debug-exit gives twice the value and one.
    let expected = i32::from(code) << 1 | 1;
    ensure!(
        status == Some(expected & 0xff),
        "QEMU ended with {status:?}, not {expected}"
    );
    Ok((code, line.to_owned()))
}

/// Bytes that differ from page to page, the same for the same seed.
#[must_use]
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    // A block of a length that shares no factor with a page's, over and over.
    const BLOCK: usize = 65_521;
    let mut block = vec![0; BLOCK];
    Rng::with_seed(seed).fill(&mut block);
    let mut bytes = block.repeat(len.div_ceil(BLOCK));
    bytes.truncate(len);
    bytes
}

/// Reads numbers from bytes.
#[expect(missing_docs, reason = "the number of this width at an offset")]
#[expect(clippy::missing_errors_doc, reason = "the bytes end before")]
pub trait Field {
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

/// A line without what differs from boot to boot: its numbers, and the gaps before them.
#[must_use]
pub fn shape(line: &str) -> String {
    static NUMBER: LazyLock<Regex> =
        LazyLock::new(|| Regex::new("0x[0-9a-f]+|[0-9]+").expect("it is right"));
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    NUMBER.replace_all(&line, "#").into_owned()
}

/// Targets of the links in a page that lead to files of this project.
#[must_use]
pub fn links(text: &str) -> Vec<&str> {
    let mut in_code = false;
    let mut found = Vec::new();
    for line in text.lines() {
        in_code ^= line.starts_with("```");
        let targets = line
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        found.extend(targets.filter(|target| !in_code && !target.contains("://")));
    }
    found
}

/// Every file below `dir`.
///
/// # Errors
/// A directory cannot be read.
pub fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files_below(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

/// The sum of bytes modulo 256, which tables with a checksum make 0.
#[must_use]
pub fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

#[test]
#[should_panic(expected = "may not be skipped")]
fn other_skips_fail() {
    skip("sixteen_bit_entry pc", "this ROM has no 16-bit services");
}
