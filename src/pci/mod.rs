//! PCI: configuration access, bus numbers, interrupt lines.
//!
//! Specifications: PCI Local Bus 3.0 (chapter 6), PCI-to-PCI Bridge 1.2 (chapter 3),
//! PCI Express Base 4.0 (section 7.2.2, ECAM). Every configuration access is an exit to
//! the host, so the walk reads only registers that it needs. Through ports 0xcf8 and
//! 0xcfc it takes two accesses, of which KVM collects the first.

#[deny(clippy::arithmetic_side_effects)]
mod access;
#[deny(clippy::arithmetic_side_effects)]
mod full;
#[deny(clippy::arithmetic_side_effects)]
mod function;
mod interrupt;
mod list;
#[deny(clippy::arithmetic_side_effects)]
mod resource;
mod scan;
mod set_up;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
#[deny(clippy::arithmetic_side_effects)]
mod size;

use crate::byte_set::ByteSet;
use crate::chipset::PIRQ_IRQS;
pub use access::Access;
pub use full::full;
pub use interrupt::{Interrupt, interrupts};
pub use list::list;
pub use resource::Apertures;
pub use scan::{number, scan};
pub use set_up::{access, set_up};

/// Bus, device and function: bits 15:8, 7:3 and 2:0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bdf(u16);

impl Bdf {
    /// From its parts: `device` below 32, `function` below 8. Higher bits are dropped.
    #[must_use]
    pub const fn new(bus: u8, device: u8, function: u8) -> Self {
        Self::on_bus(bus, (device & 31) << 3 | (function & 7))
    }

    /// The function `devfn` (device and function in one byte) of a bus.
    #[must_use]
    pub const fn on_bus(bus: u8, devfn: u8) -> Self {
        Self((bus as u16) << 8 | devfn as u16)
    }

    /// From the 16 bits that the hardware uses.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// The 16 bits that the hardware uses.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Bus number.
    #[must_use]
    pub const fn bus(self) -> u8 {
        self.0.to_be_bytes()[0]
    }

    /// Device and function in one byte.
    #[must_use]
    pub const fn devfn(self) -> u8 {
        self.0.to_be_bytes()[1]
    }

    /// Device number, below 32.
    #[must_use]
    pub const fn device(self) -> u8 {
        self.devfn() >> 3
    }

    /// Function number, below 8.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.devfn() & 7
    }
}

/// Registers of the configuration header (PCI Local Bus 3.0, section 6.1;
/// PCI-to-PCI Bridge 1.2, section 3.2), as offsets of dwords.
pub mod reg {
    /// Vendor (15:0) and device (31:16).
    pub const ID: u16 = 0x00;
    /// Command (15:0) and status (31:16, write one to clear).
    pub const COMMAND: u16 = 0x04;
    /// Revision (7:0), interface (15:8), class (31:16).
    pub const CLASS: u16 = 0x08;
    /// Header type in 23:16, its bit 7 for several functions.
    pub const HEADER: u16 = 0x0c;
    /// First base address register.
    pub const BAR0: u16 = 0x10;
    /// Bridge: primary (7:0), secondary (15:8), subordinate (23:16) bus.
    pub const BUSES: u16 = 0x18;
    /// Bridge: I/O base (7:0) and limit (15:8), secondary status (31:16).
    pub const IO_WINDOW: u16 = 0x1c;
    /// Bridge: memory base (15:0) and limit (31:16).
    pub const MEM_WINDOW: u16 = 0x20;
    /// Bridge: prefetchable memory base (15:0) and limit (31:16).
    pub const PREF_WINDOW: u16 = 0x24;
    /// Bridge: upper half of the prefetchable base.
    pub const PREF_BASE_HIGH: u16 = 0x28;
    /// Bridge: upper half of the prefetchable limit.
    pub const PREF_LIMIT_HIGH: u16 = 0x2c;
    /// Expansion ROM of a device.
    pub const ROM: u16 = 0x30;
    /// First capability in 7:0.
    pub const CAPABILITIES: u16 = 0x34;
    /// Expansion ROM of a bridge.
    pub const BRIDGE_ROM: u16 = 0x38;
    /// Interrupt line (7:0) and pin (15:8); bridge control (31:16).
    pub const INTERRUPT: u16 = 0x3c;
}

/// Configuration space. `register` is a multiple of the access width. A missing
/// function reads as all ones and ignores writes.
pub trait Config {
    /// Makes the functions of `bus` reachable.
    fn reach(&mut self, _bus: u8) {}
    /// Reads a dword.
    fn read32(&mut self, bdf: Bdf, register: u16) -> u32;
    /// Writes two bytes.
    fn write16(&mut self, bdf: Bdf, register: u16, value: u16);
    /// Writes a dword.
    fn write32(&mut self, bdf: Bdf, register: u16, value: u32);
}

/// How a machine connects interrupt pins of its root buses.
///
/// `intx` is 0 for INTA# to 3 for INTD#. `device` is the number on the root bus, of the
/// device or of the bridge before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routing {
    /// i440FX with PIIX3 or PIIX4: four PIRQs, offset so that the chipset's
    /// own device 1 starts at PIRQA (QEMU `hw/isa/piix3.c`).
    Piix,
    /// Q35 with ICH9: devices 25 to 31 have PIRQA to PIRQD, device 30 and all
    /// others PIRQE to PIRQH (QEMU `hw/isa/lpc_ich9.c`).
    Ich9,
    /// microvm's generic host: four interrupts, this one the first (QEMU
    /// `hw/i386/microvm.c`).
    Gpex(u8),
}

impl Routing {
    /// The PIRQ, 0 to 7 for A to H.
    const fn pirq(self, root_bus: u8, device: u8, intx: u8) -> u8 {
        let swizzled = (device + intx) & 3;
        match self {
            Self::Piix => swizzled.wrapping_sub(1) & 3,
            // Expander buses do not have the fixed devices.
            Self::Ich9 if root_bus == 0 && device == 30 => intx & 3 | 4,
            Self::Ich9 if root_bus == 0 && device >= 25 => intx & 3,
            Self::Ich9 => swizzled | 4,
            Self::Gpex(_) => swizzled,
        }
    }

    /// The interrupt line register, for kernels without ACPI.
    #[must_use]
    pub const fn line(self, root_bus: u8, device: u8, intx: u8) -> u8 {
        let pirq = self.pirq(root_bus, device, intx);
        match self {
            Self::Gpex(first) => first + pirq,
            Self::Piix | Self::Ich9 => {
                let [a, b, c, d] = PIRQ_IRQS;
                match pirq & 3 {
                    0 => a,
                    1 => b,
                    2 => c,
                    _ => d,
                }
            }
        }
    }

    /// The I/O APIC input, counted over all I/O APICs, for the MP table.
    #[must_use]
    pub const fn gsi(self, root_bus: u8, device: u8, intx: u8) -> u8 {
        match self {
            // PIIX has no PIRQ inputs at the I/O APIC: ISA's are used.
            Self::Piix | Self::Gpex(_) => self.line(root_bus, device, intx),
            Self::Ich9 => self.pirq(root_bus, device, intx) + 16,
        }
    }
}

/// The result of a walk over the tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The highest bus number in use.
    pub last_bus: u8,
    /// Functions found.
    pub functions: u16,
    /// Bridges without a bus number, because all were used up. What is behind them
    /// stays out of reach.
    pub unnumbered: u16,
    /// The first of them.
    pub first_unnumbered: Option<Bdf>,
    /// BARs without room; their devices stay switched off.
    pub unplaced: u16,
    /// The first of them.
    pub first_unplaced: Option<Unplaced>,
    /// The root buses.
    pub roots: ByteSet,
}

/// A BAR without an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unplaced {
    /// The function.
    pub bdf: Bdf,
    /// The BAR, 0 to 5.
    pub bar: u8,
    /// Its size in bytes or ports, as a power of two.
    pub order: u8,
}
