//! Ports and registers: PCI configuration space; all other accesses are only counted.

use crate::layout::{IO_APIC_STEP, IO_APICS};
use crate::pci::sim::Sim;
use crate::platform::Io;
use std::vec::Vec;

/// Ports and registers in memory.
#[derive(Clone, Debug, Default)]
pub struct Devices {
    /// Configuration space.
    pub pci: Sim,
    /// I/O APICs.
    pub io_apics: u32,
    /// The CMOS register for the reason of a reset, and which one is selected.
    pub shutdown_status: (u8, u8),
    /// Accesses so far.
    pub accesses: u64,
    /// Writes other than to PCI's ports and ECAM.
    pub writes: Vec<(u32, u32)>,
    /// What reads of these ports, and of these registers in memory, return.
    pub answers: Vec<(u32, u32)>,
}

impl Devices {
    fn port(&mut self, port: u16, value: u32) {
        self.accesses += 1;
        if !(0xcf8..=0xcff).contains(&port) {
            self.writes.push((port.into(), value));
        }
    }

    fn answer(&self, addr: u32) -> Option<u32> {
        let mut answers = self.answers.iter();
        answers.find(|(at, _)| *at == addr).map(|(_, value)| *value)
    }

    fn register(&mut self, addr: u32, value: u32) {
        self.accesses += 1;
        let ecam = self.pci.ecam;
        if ecam.is_none_or(|base| addr.wrapping_sub(base) >= 1 << 28) {
            self.writes.push((addr, value));
        }
    }
}

impl Io for Devices {
    fn in8(&mut self, port: u16) -> u8 {
        self.accesses += 1;
        match (port, self.shutdown_status, self.answer(port.into())) {
            (0x71, (status, 0x0f), _) => status,
            (_, _, Some(value)) => value.to_le_bytes()[0],
            _ => self.pci.in8(port),
        }
    }
    fn in16(&mut self, port: u16) -> u16 {
        self.accesses += 1;
        self.pci.in16(port)
    }
    fn in32(&mut self, port: u16) -> u32 {
        self.accesses += 1;
        self.pci.in32(port)
    }
    fn out8(&mut self, port: u16, value: u8) {
        self.port(port, value.into());
        match (port, &mut self.shutdown_status) {
            (0x70, (_, selected)) => *selected = value,
            (0x71, (status, 0x0f)) => *status = value,
            _ => self.pci.out8(port, value),
        }
    }
    fn out16(&mut self, port: u16, value: u16) {
        self.port(port, value.into());
        self.pci.out16(port, value);
    }
    fn out32(&mut self, port: u16, value: u32) {
        self.port(port, value);
        self.pci.out32(port, value);
    }
    fn read8(&mut self, addr: u32) -> u8 {
        self.accesses += 1;
        match self.answer(addr) {
            Some(value) => value.to_le_bytes()[0],
            None => Io::read8(&mut self.pci, addr),
        }
    }
    fn read16(&mut self, addr: u32) -> u16 {
        self.accesses += 1;
        Io::read16(&mut self.pci, addr)
    }
    fn read32(&mut self, addr: u32) -> u32 {
        self.accesses += 1;
        // The version, which is all that the firmware reads.
        let io_apic = |n: &u32| addr == IO_APICS.start() + n * IO_APIC_STEP + 0x10;
        if (0..self.io_apics).any(|n| io_apic(&n)) {
            return 0x0017_0020;
        }
        match self.answer(addr) {
            Some(value) => value,
            None => Io::read32(&mut self.pci, addr),
        }
    }
    fn write8(&mut self, addr: u32, value: u8) {
        self.register(addr, value.into());
        Io::write8(&mut self.pci, addr, value);
    }
    fn write16(&mut self, addr: u32, value: u16) {
        self.register(addr, value.into());
        Io::write16(&mut self.pci, addr, value);
    }
    fn write32(&mut self, addr: u32, value: u32) {
        self.register(addr, value);
        Io::write32(&mut self.pci, addr, value);
    }
}
