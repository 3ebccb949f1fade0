//! The chipset: i440FX with PIIX, Q35 with ICH9, or none.
//!
//! The entry code has read the host bridge's id and opened the F segment;
//! on Q35 it has also placed the ECAM, so that everything here is one access
//! a register. Power management comes before ACPI tables are read: QEMU
//! writes the FADT from what is programmed here.

use crate::io::{Mmio, PortIo};
use crate::layout;
use crate::pci::{CAM_ADDRESS, CAM_DATA, PIRQ_IRQS};
use crate::phys::PhysRange;

/// The i440FX's dword at register 0: device id above vendor id.
pub const I440FX_ID: u32 = 0x1237_8086;
/// Q35's.
pub const Q35_ID: u32 = 0x29c0_8086;

/// Which host bridge answers at 00:00.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chipset {
    /// 8086:1237, machine type `pc`.
    I440fx,
    /// 8086:29c0, machine type `q35`.
    Q35,
    /// Nothing answers: `microvm`, `isapc`.
    None,
    /// A bridge that this firmware does not know.
    Unknown,
}

impl Chipset {
    /// From the dword at register 0 of 00:00.0.
    #[must_use]
    pub const fn from_id(id: u32) -> Self {
        match id {
            I440FX_ID => Self::I440fx,
            Q35_ID => Self::Q35,
            0xffff_ffff => Self::None,
            _ => Self::Unknown,
        }
    }

    /// Where configuration space is in memory, for the E820 map: Linux trusts
    /// the MCFG table only where its range is reserved. Empty without one.
    #[must_use]
    pub const fn ecam(self) -> PhysRange {
        match self {
            Self::Q35 => layout::Q35_ECAM,
            Self::I440fx | Self::None | Self::Unknown => PhysRange::fixed(0, 0),
        }
    }
}

/// Base of the ACPI power management ports, bit 0 marks I/O space.
const PM_BASE: u32 = 0x600 | 1;
/// Routes of PIRQA to PIRQD, and of PIRQE to PIRQH.
const PIRQ_ROUTES: u32 = u32::from_le_bytes(PIRQ_IRQS);

/// A configuration register of bus 0 and what it is set to.
struct Register {
    device: u8,
    function: u8,
    offset: u8,
    value: u32,
}

const fn register(device: u8, function: u8, offset: u8, value: u32) -> Register {
    Register {
        device,
        function,
        offset,
        value,
    }
}

/// PIIX3 at 00:01.0 and PIIX4 power management at 00:01.3 (Intel 82371AB
/// datasheet, 4.1 and 7.1).
const PIIX: [Register; 3] = [
    register(1, 0, 0x60, PIRQ_ROUTES), // PIRQRC[A:D]
    register(1, 3, 0x40, PM_BASE),     // PMBA
    register(1, 3, 0x80, 1),           // PMREGMISC: PMIOSE
];

/// ICH9 LPC at 00:1f.0 (Intel ICH9 datasheet, 13.1).
const ICH9: [Register; 4] = [
    register(0x1f, 0, 0x40, PM_BASE),     // PMBASE
    register(0x1f, 0, 0x44, 0x80),        // ACPI_CNTL: ACPI_EN, SCI on IRQ 9
    register(0x1f, 0, 0x60, PIRQ_ROUTES), // PIRQ[A:D]_ROUT
    register(0x1f, 0, 0x68, PIRQ_ROUTES), // PIRQ[E:H]_ROUT
];

/// PIIX4 SMBus: base address and host enable (82371AB, 7.1).
const PIIX_SMBUS: [Register; 2] = [register(1, 3, 0x90, 0x701), register(1, 3, 0xd0, 9 << 16)];

#[inline(always)]
fn cam_write<P: PortIo>(ports: &mut P, r: &Register) {
    let function = (u32::from(r.device) << 11) | (u32::from(r.function) << 8);
    ports.out32(CAM_ADDRESS, 1 << 31 | function | u32::from(r.offset));
    ports.out32(CAM_DATA, r.value);
}

#[inline(always)]
fn ecam_write<M: Mmio>(mmio: &mut M, r: &Register) {
    let function = (u32::from(r.device) << 15) | (u32::from(r.function) << 12);
    mmio.write32(
        layout::Q35_ECAM.start() | function | u32::from(r.offset),
        r.value,
    );
}

/// Routes interrupts and switches power management on: what every kernel
/// needs, with and without ACPI.
pub fn set_up<I: PortIo + Mmio>(io: &mut I, chipset: Chipset) {
    match chipset {
        // Written out rather than looped over: each becomes one constant.
        Chipset::I440fx => {
            let [pirqs, pm_base, pm_enable] = &PIIX;
            cam_write(io, pirqs);
            cam_write(io, pm_base);
            cam_write(io, pm_enable);
        }
        Chipset::Q35 => {
            let [pm_base, acpi_enable, pirqs, more_pirqs] = &ICH9;
            ecam_write(io, pm_base);
            ecam_write(io, acpi_enable);
            ecam_write(io, pirqs);
            ecam_write(io, more_pirqs);
        }
        Chipset::None | Chipset::Unknown => {}
    }
}

/// Registers of the local APIC (Intel SDM volume 3, 11.4.1): spurious vector
/// with the enable bit, LINT0 passing the 8259A's interrupts on, LINT1 NMIs.
const VIRTUAL_WIRE: [(u32, u32); 3] = [(0xf0, 0x1ff), (0x350, 0x700), (0x360, 0x400)];

/// What only kernels without ACPI need: the interrupt controllers in their
/// PC state, PCI's interrupts level-triggered, the PIIX4's SMBus in place.
/// Linux with ACPI does all of it itself.
#[cold]
pub fn set_up_legacy<I: PortIo + Mmio>(io: &mut I, chipset: Chipset) {
    // Virtual wire mode (MultiProcessor Specification 1.4, 3.6.2.2): after a
    // reset the local APIC keeps the 8259A's interrupts from the processor,
    // and a kernel that leaves the APIC alone would never see its timer.
    for (register, value) in VIRTUAL_WIRE {
        io.write32(layout::LOCAL_APIC.start() | register, value);
    }
    if matches!(chipset, Chipset::None | Chipset::Unknown) {
        return;
    }
    // 8259A: ICW1 (edge, cascade, ICW4), ICW2 (vectors 0x08 and 0x70),
    // ICW3 (slave on IRQ 2), ICW4 (8086 mode), all masked but the cascade.
    for (port, value) in [
        (0x20, 0x11),
        (0xa0, 0x11),
        (0x21, 0x08),
        (0xa1, 0x70),
        (0x21, 0x04),
        (0xa1, 0x02),
        (0x21, 0x01),
        (0xa1, 0x01),
        (0x21, 0xfb),
        (0xa1, 0xff),
    ] {
        io.out8(port, value);
    }
    // ELCR: IRQ 10 and 11 are level-triggered.
    io.out16(0x4d0, 0x0c00);
    if chipset == Chipset::I440fx {
        PIIX_SMBUS.iter().for_each(|r| cam_write(io, r));
    }
}
