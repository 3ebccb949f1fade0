//! Configuration space through ports or memory.

use super::{Bdf, Config};
use crate::chipset::{CAM_ADDRESS, CAM_DATA, PCIEXBAR, PCIEXBAR_256};
use crate::platform::Io;

/// Configuration space through ports or memory.
///
/// One type for both, so that the ROM has its users only once.
#[derive(Debug)]
pub struct Access<'a, I> {
    io: &'a mut I,
    /// The ECAM's address; 0 for ports.
    ecam: u32,
    /// The last bus that the ECAM reaches.
    last_bus: u8,
    /// The content of port 0xcf8; bit 31 is clear while it is unknown.
    address: u32,
}

impl<'a, I: Io> Access<'a, I> {
    /// Configuration mechanism 1 (PCI Local Bus 3.0, section 3.2.2.3.2): 256 bytes a
    /// function, two port accesses each, or one in the same dword as before, because the
    /// address register keeps its value.
    pub const fn cam(io: &'a mut I) -> Self {
        Self {
            io,
            ecam: 0,
            last_bus: u8::MAX,
            address: 0,
        }
    }

    /// Enhanced configuration access: 4 KiB a function, one access each. `base` is a
    /// multiple of 256 MiB and not 0. It reaches the buses up to `last_bus`; Q35's can
    /// be made to reach all.
    pub const fn ecam(io: &'a mut I, base: u32, last_bus: u8) -> Self {
        Self {
            io,
            ecam: base,
            last_bus,
            address: 0,
        }
    }

    /// Selects a register for port access; returns its port.
    fn select(&mut self, bdf: Bdf, register: u16) -> u16 {
        let address = 1 << 31 | u32::from(bdf.bits()) << 8 | u32::from(register & 0xfc);
        if address != self.address {
            self.io.out32(CAM_ADDRESS, address);
            self.address = address;
        }
        CAM_DATA | register & 3
    }

    /// The bits are disjoint and the base is aligned, so this stays in the window.
    const fn addr(&self, bdf: Bdf, register: u16) -> u32 {
        self.ecam | (bdf.bits() as u32) << 12 | (register & 0xfff) as u32
    }
}

impl<I: Io> Config for Access<'_, I> {
    fn reach(&mut self, bus: u8) {
        if bus > self.last_bus {
            self.last_bus = u8::MAX;
            self.io.write32(self.ecam | PCIEXBAR, PCIEXBAR_256);
        }
    }

    fn read32(&mut self, bdf: Bdf, register: u16) -> u32 {
        if self.ecam != 0 {
            self.io.read32(self.addr(bdf, register))
        } else if register < 0x100 {
            let port = self.select(bdf, register);
            self.io.in32(port)
        } else {
            u32::MAX
        }
    }

    fn write8(&mut self, bdf: Bdf, register: u16, value: u8) {
        if self.ecam != 0 {
            self.io.write8(self.addr(bdf, register), value);
        } else if register < 0x100 {
            let port = self.select(bdf, register);
            self.io.out8(port, value);
        }
    }

    fn write16(&mut self, bdf: Bdf, register: u16, value: u16) {
        if self.ecam != 0 {
            self.io.write16(self.addr(bdf, register), value);
        } else if register < 0x100 {
            let port = self.select(bdf, register);
            self.io.out16(port, value);
        }
    }

    fn write32(&mut self, bdf: Bdf, register: u16, value: u32) {
        if self.ecam != 0 {
            self.io.write32(self.addr(bdf, register), value);
        } else if register < 0x100 {
            let port = self.select(bdf, register);
            self.io.out32(port, value);
        }
    }
}
