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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::sim::{Bus, Function, Sim};
    use crate::sim::Devices;

    const AT: Bdf = Bdf::new(0, 2, 3);

    /// A function with registers that keep what is written.
    fn sim() -> Sim {
        let function = Function::device(0x1234_5678, 0)
            .scratch(0, 4)
            .scratch(0xf0, 8);
        let mut sim = Sim::new(Bus::from([(0x13, function)]));
        sim.ecam = Some(0xb000_0000);
        sim
    }

    #[test]
    fn both_mechanisms_reach_the_same_registers() {
        for ecam in [false, true] {
            let mut sim = sim();
            let mut access = match ecam {
                true => Access::ecam(&mut sim, 0xb000_0000, u8::MAX),
                false => Access::cam(&mut sim),
            };
            access.write32(AT, 0xf0, 0x1122_3344);
            access.write16(AT, 0xf6, 0xbbaa);
            access.write16(AT, 0xf4, 0x9988);
            assert_eq!(access.read32(AT, 0xf0), 0x1122_3344);
            assert_eq!(access.read32(AT, 0xf4), 0xbbaa_9988);
            assert_eq!(access.read32(Bdf::new(0, 2, 2), 0xf0), u32::MAX);
            let function = sim.function(AT).map(|f| (f.dword(0xf0), f.dword(0xf4)));
            assert_eq!(function, Some((0x1122_3344, 0xbbaa_9988)));
        }
    }

    /// Ports have 256 registers a function: what lies behind is not another one.
    #[test]
    fn ports_reach_no_extended_register() {
        let mut sim = sim();
        let mut access = Access::cam(&mut sim);
        access.write16(AT, 0x100, 0);
        access.write32(AT, 0x100, 0);
        assert_eq!(access.read32(AT, 0x100), u32::MAX);
        assert_eq!(access.read32(AT, 0), 0x1234_5678);
    }

    #[test]
    fn a_bus_behind_the_ecams_end_opens_all_once() {
        let mut devices = Devices::default();
        let mut access = Access::ecam(&mut devices, 0xb000_0000, 63);
        access.reach(63);
        access.reach(64);
        access.reach(255);
        assert_eq!(devices.writes, [(0xb000_0060, 0xb000_0001)]);
    }
}
