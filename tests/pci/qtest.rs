//! Ports and memory of a QEMU whose processor stands still: one access a line,
//! answered with `OK` and the value.

use qboot_tests::PROBE_TIMEOUT;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;

use anyhow::{Context as _, Result};
use qboot::platform::Io;
use xtask::patience::Patience;

/// One access a line, answered with `OK` and the value.
pub(super) struct Qtest {
    pub(super) answers: BufReader<UnixStream>,
    pub(super) accesses: usize,
}

impl Qtest {
    pub(super) fn connect(path: &std::path::Path) -> Result<Self> {
        let mut patience = Patience::new(PROBE_TIMEOUT);
        loop {
            match UnixStream::connect(path) {
                Ok(stream) => {
                    return Ok(Self {
                        answers: BufReader::new(stream),
                        accesses: 0,
                    });
                }
                Err(error) if !patience.pause() => return Err(error.into()),
                Err(_) => {}
            }
        }
    }

    pub(super) fn command(&mut self, line: &str) -> Result<u32> {
        self.accesses += 1;
        self.answers.get_mut().write_all(line.as_bytes())?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        let value = answer
            .trim()
            .strip_prefix("OK")
            .with_context(|| format!("{line:?}: {answer:?}"))?
            .trim();
        let hex = value.strip_prefix("0x").unwrap_or("0");
        Ok(u64::from_str_radix(hex, 16)? as u32)
    }

    pub(super) fn ask(&mut self, line: std::fmt::Arguments<'_>) -> u32 {
        self.command(&format!("{line}\n")).expect("qtest answers")
    }
}

impl Io for Qtest {
    fn in8(&mut self, port: u16) -> u8 {
        self.ask(format_args!("inb {port:#x}")) as u8
    }
    fn in16(&mut self, port: u16) -> u16 {
        self.ask(format_args!("inw {port:#x}")) as u16
    }
    fn in32(&mut self, port: u16) -> u32 {
        self.ask(format_args!("inl {port:#x}"))
    }
    fn out8(&mut self, port: u16, value: u8) {
        self.ask(format_args!("outb {port:#x} {value:#x}"));
    }
    fn out16(&mut self, port: u16, value: u16) {
        self.ask(format_args!("outw {port:#x} {value:#x}"));
    }
    fn out32(&mut self, port: u16, value: u32) {
        self.ask(format_args!("outl {port:#x} {value:#x}"));
    }
    fn read8(&mut self, addr: u32) -> u8 {
        self.ask(format_args!("readb {addr:#x}")) as u8
    }
    fn read16(&mut self, addr: u32) -> u16 {
        self.ask(format_args!("readw {addr:#x}")) as u16
    }
    fn read32(&mut self, addr: u32) -> u32 {
        self.ask(format_args!("readl {addr:#x}"))
    }
    fn write8(&mut self, addr: u32, value: u8) {
        self.ask(format_args!("writeb {addr:#x} {value:#x}"));
    }
    fn write16(&mut self, addr: u32, value: u16) {
        self.ask(format_args!("writew {addr:#x} {value:#x}"));
    }
    fn write32(&mut self, addr: u32, value: u32) {
        self.ask(format_args!("writel {addr:#x} {value:#x}"));
    }
}
