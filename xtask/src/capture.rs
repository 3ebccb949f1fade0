//! Captures what a QEMU machine hands to its firmware through fw_cfg.
//!
//! The processor never runs: QEMU's test protocol (qtest) accesses ports and memory
//! from outside. Like the firmware, this first programs the registers that the ACPI
//! tables depend on: the PM base, and on q35 the base of the ECAM.
//!
//! A capture is a gzip stream of records, each a name of 56 bytes padded with
//! zeroes, the selector (`u16`) and the size (`u32`), both little endian, and
//! the content. Items that are not files have an empty name.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use flate2::{Compression, write::GzEncoder};

use crate::output::say;
use crate::qemu;
use crate::workspace;

/// What to capture.
#[derive(Args, Debug)]
pub struct Options {
    /// File to write, such as tests/data/pc.fw_cfg.gz
    file: PathBuf,
    /// Options for QEMU, which makes no default devices
    #[arg(last = true)]
    qemu: Vec<OsString>,
}

/// Items that firmware reads and that are not files, with their sizes: CPUs,
/// highest number of CPUs, RAM size, IRQ0 override.
const ITEMS: [(u16, u32); 4] = [(0x05, 2), (0x0f, 2), (0x03, 8), (0x8002, 4)];
/// Items of a `-kernel` that are four bytes: address, entry point.
const KERNEL: [u16; 2] = [0x07, 0x10];
/// Items of a kernel, an initrd, a command line and setup code: size, content.
const SIZED: [(u16, u16); 4] = [(0x08, 0x11), (0x0b, 0x12), (0x14, 0x15), (0x17, 0x18)];
const DIRECTORY: u16 = 0x19;
/// Bytes of a directory entry.
const ENTRY: usize = 64;

/// Where transfers go; no machine that is worth capturing has less RAM.
const DESCRIPTOR: u32 = 0x7000;
const BUFFER: u32 = 0x10_0000;

/// Captures a machine, prints its files and writes them.
///
/// # Errors
/// QEMU does not start or does not answer as the protocol says, or the file
/// cannot be written.
pub fn run(options: &Options) -> Result<()> {
    let capture = capture(&options.qemu)?;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    for item in &capture {
        if !item.name.is_empty() {
            say!(
                "{:#06x} {:>9}  {}",
                item.selector,
                item.data.len(),
                item.name
            )?;
        }
        let mut name = item.name.clone().into_bytes();
        name.resize(56, 0);
        gzip.write_all(&name)?;
        gzip.write_all(&item.selector.to_le_bytes())?;
        gzip.write_all(&u32::try_from(item.data.len())?.to_le_bytes())?;
        gzip.write_all(&item.data)?;
    }
    let bytes = gzip.finish()?;
    workspace::write_named(&options.file, &bytes)?;
    say!("{}: {} bytes", options.file.display(), bytes.len())?;
    Ok(())
}

/// An item or a file.
#[derive(Clone, Debug)]
pub struct Item {
    /// The file's name; empty for other items.
    pub name: String,
    /// The selector.
    pub selector: u16,
    /// The content.
    pub data: Vec<u8>,
}

/// Starts QEMU with these options and reads all files, the fixed items that
/// firmware needs, and what it is to boot.
///
/// # Errors
/// As [`run`].
pub fn capture(options: &[OsString]) -> Result<Vec<Item>> {
    let mut vm = Machine::start(options)?;
    vm.program_chipset()?;
    // Reading a table builds all of them anew, and sizes may change with it.
    for (name, selector, _) in vm.directory()? {
        if name.starts_with("etc/acpi/") {
            vm.read(selector, 1)?;
        }
    }
    let mut items = Vec::new();
    for (selector, size) in ITEMS {
        items.push(Item {
            name: String::new(),
            selector,
            data: vm.read(selector, size)?,
        });
    }
    items.extend(vm.kernel()?);
    for (name, selector, size) in vm.directory()? {
        // Option ROMs and device trees are no business of this firmware.
        if name.starts_with("genroms/") || name == "etc/fdt" {
            continue;
        }
        let data = vm.read(selector, size)?;
        items.push(Item {
            name,
            selector,
            data,
        });
    }
    Ok(items)
}

/// A QEMU whose processor stands still.
struct Machine {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Nothing is lost with it, and it may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Machine {
    fn start(options: &[OsString]) -> Result<Self> {
        let binary = qemu::binary();
        let mut child = Command::new(&binary)
            .args(["-accel", "tcg", "-S", "-display", "none", "-nodefaults"])
            .args(["-qtest", "stdio", "-qtest-log", "none"])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", Path::new(&binary).display()))?;
        let commands = child.stdin.take().context("no standard input")?;
        let answers = child.stdout.take().context("no standard output")?;
        Ok(Self {
            child,
            commands,
            answers: BufReader::new(answers),
        })
    }

    /// Sends a command; gives its answer without the leading `OK`.
    fn command(&mut self, command: &str) -> Result<String> {
        writeln!(self.commands, "{command}").context("QEMU has ended")?;
        loop {
            let mut line = String::new();
            if self.answers.read_line(&mut line)? == 0 {
                bail!("QEMU has ended; see what it printed");
            }
            if let Some(answer) = line.strip_prefix("OK") {
                return Ok(answer.trim().to_owned());
            }
            ensure!(
                line.starts_with("IRQ"),
                "unexpected answer to {command}: {line}"
            );
        }
    }

    fn out_u32(&mut self, port: u16, value: u32) -> Result<()> {
        self.command(&format!("outl {port:#x} {value:#x}"))?;
        Ok(())
    }

    /// Writes a register of configuration space; `register` is a multiple of 4.
    fn config(&mut self, device: u32, function: u32, register: u32, value: u32) -> Result<()> {
        self.out_u32(0xcf8, 1 << 31 | device << 11 | function << 8 | register)?;
        self.out_u32(0xcfc, value)
    }

    /// PM base at 0x600, enabled, and ECAM.
    fn program_chipset(&mut self) -> Result<()> {
        self.out_u32(0xcf8, 1 << 31)?;
        let id = self.command("inl 0xcfc")?;
        match id.as_str() {
            "0x12378086" => {
                self.config(1, 3, 0x40, 0x601)?;
                self.config(1, 3, 0x80, 1)
            }
            "0x29c08086" => {
                self.config(0, 0, 0x60, 0xb000_0005)?;
                self.config(31, 0, 0x40, 0x601)?;
                self.config(31, 0, 0x44, 0x80)
            }
            // No PCI, or none that ACPI takes anything from.
            _ => Ok(()),
        }
    }

    /// Reads `len` bytes from the start of an item.
    fn read(&mut self, selector: u16, len: u32) -> Result<Vec<u8>> {
        const SELECT_AND_READ: u32 = 8 | 2;
        if len == 0 {
            return Ok(Vec::new());
        }
        let mut descriptor = Vec::new();
        let control = u32::from(selector) << 16 | SELECT_AND_READ;
        descriptor.extend(control.to_be_bytes());
        descriptor.extend(len.to_be_bytes());
        descriptor.extend(u64::from(BUFFER).to_be_bytes());
        self.command(&format!(
            "write {DESCRIPTOR:#x} 16 0x{}",
            hex::encode(descriptor.as_slice())
        ))?;
        // The doorbell is big endian.
        self.out_u32(0x518, DESCRIPTOR.swap_bytes())?;
        let control = self.command(&format!("read {DESCRIPTOR:#x} 4"))?;
        ensure!(
            control == "0x00000000",
            "transfer of {selector:#x}: {control}"
        );
        let bytes = self.command(&format!("read {BUFFER:#x} {len:#x}"))?;
        unhex(&bytes)
    }

    /// What `-kernel`, `-initrd` and `-append` give, where they are.
    fn kernel(&mut self) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        let mut add = |selector, data| {
            items.push(Item {
                name: String::new(),
                selector,
                data,
            });
        };
        for (size, content) in SIZED {
            let data = self.read(size, 4)?;
            let len = u32::from_le_bytes(data.as_slice().try_into()?);
            if len != 0 {
                add(size, data);
                add(content, self.read(content, len)?);
            }
        }
        for selector in KERNEL {
            let data = self.read(selector, 4)?;
            if data != [0; 4] {
                add(selector, data);
            }
        }
        Ok(items)
    }

    /// Name, selector and size of each file.
    fn directory(&mut self) -> Result<Vec<(String, u16, u32)>> {
        let count = self.read(DIRECTORY, 4)?;
        let count = u32::from_be_bytes(count.as_slice().try_into()?) as usize;
        let bytes = self.read(DIRECTORY, u32::try_from(4 + count * ENTRY)?)?;
        let (entries, _) = bytes[4..].as_chunks::<ENTRY>();
        entries
            .iter()
            .map(|entry| {
                let size = u32::from_be_bytes([entry[0], entry[1], entry[2], entry[3]]);
                let selector = u16::from_be_bytes([entry[4], entry[5]]);
                let name = entry[8..].split(|byte| *byte == 0).next();
                let name = String::from_utf8(name.unwrap_or_default().to_vec())?;
                Ok((name, selector, size))
            })
            .collect()
    }
}

/// A number as the protocol gives it.
fn unhex(text: &str) -> Result<Vec<u8>> {
    let digits = text.strip_prefix("0x").context("no hexadecimal number")?;
    Ok(hex::decode(digits)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_both_ways() {
        let bytes = [0x00, 0x7f, 0x80, 0xff];
        assert_eq!(unhex(&format!("0x{}", hex::encode(bytes))).unwrap(), bytes);
        assert!(unhex("0x0").is_err() && unhex("00").is_err() && unhex("0x0g").is_err());
    }

    #[test]
    fn a_machine_is_read_whole() {
        let items = capture(&["-M".into(), "pc".into()]).unwrap();
        let find = |name| items.iter().find(|item| item.name == name).unwrap();
        assert_eq!(find("etc/acpi/rsdp").data[..8], *b"RSD PTR ");
        assert_eq!(find("etc/acpi/tables").data.len(), 0x2_0000);
        assert_eq!(find("etc/smbios/smbios-anchor").data[..4], *b"_SM_");
    }
}
