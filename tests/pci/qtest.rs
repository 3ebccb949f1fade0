//! QEMU's test protocol as the library's access to a machine.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::Result;
use qboot::platform::Io;
use qboot_tests::wait_until;
use xtask::qemu;

/// One access a command.
pub(super) struct Qtest {
    protocol: qemu::Qtest<UnixStream, UnixStream>,
    pub(super) accesses: usize,
}

impl Qtest {
    pub(super) fn connect(path: &Path) -> Result<Self> {
        let mut stream = Err(io::ErrorKind::NotFound.into());
        wait_until("QEMU opens its socket", || {
            stream = UnixStream::connect(path);
            Ok(stream.is_ok())
        })?;
        let stream = stream?;
        Ok(Self {
            protocol: qemu::Qtest::new(stream.try_clone()?, stream),
            accesses: 0,
        })
    }

    fn ask(&mut self, command: std::fmt::Arguments<'_>) -> u32 {
        self.accesses += 1;
        let answer = self.protocol.command(&command.to_string());
        let answer = answer.expect("qtest answers");
        let digits = answer.strip_prefix("0x").unwrap_or("0");
        u64::from_str_radix(digits, 16).expect("a number") as u32
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
