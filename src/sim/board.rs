//! The boards, with their PCI functions.

use crate::layout;
use crate::pci::sim::{Bus, Function, Sim};

/// Host bridges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Board {
    /// i440FX.
    Pc,
    /// Q35.
    Q35,
    /// No PCI.
    Microvm,
}

impl Board {
    pub(super) const fn host_bridge(self) -> u32 {
        match self {
            Self::Pc => 0x1237_8086,
            Self::Q35 => 0x29c0_8086,
            Self::Microvm => u32::MAX,
        }
    }

    pub(super) fn pci(self) -> Sim {
        let mut bus = Bus::new();
        match self {
            Self::Pc => {
                bus.insert(0x00, Function::device(0x1237_8086, 0x0600));
                let piix3 = Function::device(0x7000_8086, 0x0601).scratch(0x60, 4);
                bus.insert(0x08, piix3.multi());
                let piix4 = Function::device(0x7113_8086, 0x0680);
                let piix4 = piix4.scratch(0x40, 4).scratch(0x80, 4).scratch(0x90, 4);
                bus.insert(0x0b, piix4.scratch(0xd0, 4));
            }
            Self::Q35 => {
                bus.insert(0x00, Function::device(0x29c0_8086, 0x0600));
                let ich9 = Function::device(0x2918_8086, 0x0601).multi();
                bus.insert(0xf8, ich9.scratch(0x40, 8).scratch(0x60, 12));
                // SATA and SMBus, whose interrupts an MP table lists.
                bus.insert(0xfa, Function::device(0x2922_8086, 0x0106).pin(1));
                bus.insert(0xfb, Function::device(0x2930_8086, 0x0c05).pin(1));
            }
            Self::Microvm => return Sim::default(),
        }
        let mut sim = Sim::new(bus);
        if self == Self::Q35 {
            sim.ecam = Some(layout::Q35_ECAM.start());
        }
        sim
    }
}
