//! PCI: configuration access, bus numbers, interrupt lines.
//!
//! Specifications: PCI Local Bus 3.0 (chapter 6), PCI-to-PCI Bridge 1.2
//! (chapter 3), PCI Express Base 4.0 (section 7.2.2, ECAM). Every
//! configuration access is an exit to the host, two through ports 0xcf8 and
//! 0xcfc: the walk reads no register that decides nothing.

use crate::io::{Mmio, PortIo};

mod full;
mod interrupt;
mod resource;
mod scan;
#[cfg(any(test, not(feature = "rom")))]
pub mod sim;

pub use full::full;
pub use interrupt::{Interrupt, interrupts};
pub use resource::{Aperture, Apertures};
pub use scan::scan;

/// Bus, device and function: bits 15:8, 7:3 and 2:0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bdf(u16);

impl Bdf {
    /// From its parts; `device` below 32 and `function` below 8, higher bits
    /// are dropped.
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

/// Configuration space. `register` is a multiple of the access width; a
/// function that is not there reads all ones and ignores writes.
pub trait Config {
    /// Reads a dword.
    fn read32(&mut self, bdf: Bdf, register: u16) -> u32;
    /// Writes a byte.
    fn write8(&mut self, bdf: Bdf, register: u16, value: u8);
    /// Writes two bytes.
    fn write16(&mut self, bdf: Bdf, register: u16, value: u16);
    /// Writes a dword.
    fn write32(&mut self, bdf: Bdf, register: u16, value: u32);
}

/// Configuration mechanism 1 (PCI Local Bus 3.0, section 3.2.2.3.2): 256
/// bytes a function.
///
/// The address register keeps its value, so going on in the same dword costs
/// one exit instead of two.
pub struct Cam<'a, P: PortIo> {
    ports: &'a mut P,
    address: u32,
}

impl<'a, P: PortIo> Cam<'a, P> {
    const ADDRESS: u16 = 0xcf8;
    const DATA: u16 = 0xcfc;

    /// Access through `ports`.
    pub const fn new(ports: &'a mut P) -> Self {
        // Bit 31 clear: no address is selected yet.
        Self { ports, address: 0 }
    }

    /// Selects the dword of `register`; gives the port of its byte, or `None`
    /// where this mechanism does not reach.
    fn select(&mut self, bdf: Bdf, register: u16) -> Option<u16> {
        if register > 0xff {
            return None;
        }
        let address = 1 << 31 | u32::from(bdf.bits()) << 8 | u32::from(register & 0xfc);
        if address != self.address {
            self.ports.out32(Self::ADDRESS, address);
            self.address = address;
        }
        Some(Self::DATA | register & 3)
    }
}

impl<P: PortIo> Config for Cam<'_, P> {
    fn read32(&mut self, bdf: Bdf, register: u16) -> u32 {
        match self.select(bdf, register) {
            Some(port) => self.ports.in32(port),
            None => u32::MAX,
        }
    }

    fn write8(&mut self, bdf: Bdf, register: u16, value: u8) {
        if let Some(port) = self.select(bdf, register) {
            self.ports.out8(port, value);
        }
    }

    fn write16(&mut self, bdf: Bdf, register: u16, value: u16) {
        if let Some(port) = self.select(bdf, register) {
            self.ports.out16(port, value);
        }
    }

    fn write32(&mut self, bdf: Bdf, register: u16, value: u32) {
        if let Some(port) = self.select(bdf, register) {
            self.ports.out32(port, value);
        }
    }
}

/// ECAM of `microvm,pcie=on` (QEMU `include/hw/i386/microvm.h`); that of q35
/// is [`crate::layout::Q35_ECAM`].
pub const MICROVM_ECAM: u32 = 0xe000_0000;

/// Enhanced configuration access: 4 KiB a function, 256 MiB for all buses,
/// one exit an access.
pub struct Ecam<'a, M: Mmio> {
    mmio: &'a mut M,
    base: u32,
}

impl<'a, M: Mmio> Ecam<'a, M> {
    /// Access through the 256 MiB at `base`, a multiple of that size.
    pub const fn new(mmio: &'a mut M, base: u32) -> Self {
        Self { mmio, base }
    }

    const fn addr(&self, bdf: Bdf, register: u16) -> u32 {
        // Disjoint bits of an aligned base: `or` cannot leave the window.
        self.base | (bdf.bits() as u32) << 12 | (register & 0xfff) as u32
    }
}

impl<M: Mmio> Config for Ecam<'_, M> {
    fn read32(&mut self, bdf: Bdf, register: u16) -> u32 {
        self.mmio.read32(self.addr(bdf, register))
    }

    fn write8(&mut self, bdf: Bdf, register: u16, value: u8) {
        self.mmio.write8(self.addr(bdf, register), value);
    }

    fn write16(&mut self, bdf: Bdf, register: u16, value: u16) {
        self.mmio.write16(self.addr(bdf, register), value);
    }

    fn write32(&mut self, bdf: Bdf, register: u16, value: u32) {
        self.mmio.write32(self.addr(bdf, register), value);
    }
}

/// Either mechanism: one type, so that everything above exists once in the
/// ROM.
pub enum Access<'a, I: PortIo + Mmio> {
    /// Mechanism 1.
    Cam(Cam<'a, I>),
    /// ECAM.
    Ecam(Ecam<'a, I>),
}

impl<I: PortIo + Mmio> Config for Access<'_, I> {
    #[cold]
    #[inline(never)]
    fn read32(&mut self, bdf: Bdf, register: u16) -> u32 {
        match self {
            Self::Cam(cam) => cam.read32(bdf, register),
            Self::Ecam(ecam) => ecam.read32(bdf, register),
        }
    }

    #[cold]
    #[inline(never)]
    fn write8(&mut self, bdf: Bdf, register: u16, value: u8) {
        match self {
            Self::Cam(cam) => cam.write8(bdf, register, value),
            Self::Ecam(ecam) => ecam.write8(bdf, register, value),
        }
    }

    #[cold]
    #[inline(never)]
    fn write16(&mut self, bdf: Bdf, register: u16, value: u16) {
        match self {
            Self::Cam(cam) => cam.write16(bdf, register, value),
            Self::Ecam(ecam) => ecam.write16(bdf, register, value),
        }
    }

    #[cold]
    #[inline(never)]
    fn write32(&mut self, bdf: Bdf, register: u16, value: u32) {
        match self {
            Self::Cam(cam) => cam.write32(bdf, register, value),
            Self::Ecam(ecam) => ecam.write32(bdf, register, value),
        }
    }
}

/// The ISA interrupts of PIRQA to PIRQD, and of PIRQE to PIRQH: what the
/// chipset's routing registers are set to.
pub const PIRQ_IRQS: [u8; 4] = [10, 10, 11, 11];

/// How a machine connects interrupt pins of its root buses.
///
/// `intx` is 0 for INTA# to 3 for INTD#; `device` is the device number on a
/// root bus, of the bridge for what is behind one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routing {
    /// i440FX with PIIX3 or PIIX4: four PIRQs, offset so that the chipset's
    /// own device 1 starts at PIRQA (QEMU `hw/isa/piix3.c`).
    Piix,
    /// Q35 with ICH9: devices 25 to 31 have PIRQA to PIRQD, device 30 and all
    /// others PIRQE to PIRQH (QEMU `hw/isa/lpc_ich9.c`).
    Ich9,
    /// microvm's generic host: four interrupts from this one on (QEMU
    /// `hw/i386/microvm.c`).
    Gpex(u8),
}

impl Routing {
    /// The PIRQ, 0 to 7 for A to H.
    const fn pirq(self, root_bus: u8, device: u8, intx: u8) -> u8 {
        let swizzled = device.wrapping_add(intx) & 3;
        match self {
            Self::Piix => swizzled.wrapping_sub(1) & 3,
            // Expander buses do not have the fixed devices.
            Self::Ich9 if root_bus == 0 && device == 30 => intx & 3 | 4,
            Self::Ich9 if root_bus == 0 && device >= 25 => intx & 3,
            Self::Ich9 => swizzled | 4,
            Self::Gpex(_) => swizzled,
        }
    }

    /// What a kernel without ACPI finds in the interrupt line register.
    #[must_use]
    pub const fn line(self, root_bus: u8, device: u8, intx: u8) -> u8 {
        let pirq = self.pirq(root_bus, device, intx);
        match self {
            Self::Gpex(first) => first.wrapping_add(pirq),
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

    /// The I/O APIC input, counted over all I/O APICs: what the MP table
    /// says.
    #[must_use]
    pub const fn gsi(self, root_bus: u8, device: u8, intx: u8) -> u8 {
        match self {
            // PIIX has no PIRQ inputs at the I/O APIC: ISA's are used.
            Self::Piix | Self::Gpex(_) => self.line(root_bus, device, intx),
            Self::Ich9 => self.pirq(root_bus, device, intx).wrapping_add(16),
        }
    }
}

/// What a walk over the tree found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The highest bus number in use.
    pub last_bus: u8,
    /// Functions found.
    pub functions: u16,
    /// Bridges that got no bus number because all were used up; what is
    /// behind them stays out of reach.
    pub unnumbered: u16,
    /// BARs that found no room; their devices stay switched off.
    pub unplaced: u16,
    /// The root buses.
    pub roots: Roots,
}

/// A set of root buses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roots([u32; 8]);

impl Roots {
    /// Adds a bus.
    pub fn insert(&mut self, bus: u8) {
        if let Some(word) = self.0.get_mut(usize::from(bus >> 5)) {
            *word |= 1 << (bus & 31);
        }
    }

    /// Whether it is in the set.
    #[must_use]
    pub fn contains(&self, bus: u8) -> bool {
        self.0
            .get(usize::from(bus >> 5))
            .is_some_and(|word| word & 1 << (bus & 31) != 0)
    }

    /// The buses in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        (0..=u8::MAX).filter(|bus| self.contains(*bus))
    }
}
