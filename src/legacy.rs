//! What kernels need that do not read ACPI, or do not set PCI up themselves.
//!
//! All of it is cold: Linux with ACPI never comes here.

use crate::chipset::Chipset;
use crate::cpu::{Cpuid, Topology, phys_bits};
use crate::e820::MemoryMap;
use crate::error::{Error, Result};
use crate::fw_cfg::{Directory, FileName, FwCfg, file, file_name, item};
use crate::io::{Mmio, PortIo};
use crate::layout;
use crate::machine::Machine;
use crate::mptable::{self, PciInterrupt, Wiring};
use crate::pci::{self, Access, Apertures, Roots, Routing, Summary};
use crate::phys::{GuestMemory, PhysRange, u64_at};
use crate::policy::PciSetup;
use crate::realmode;
use arrayvec::ArrayVec;

/// First interrupt of microvm's PCIe host, with one I/O APIC and with two,
/// as it has unless told otherwise (QEMU `hw/i386/microvm.c`).
const MICROVM_PCIE_IRQ: [u8; 2] = [12, 16];
/// An I/O APIC's register of version and last input (82093AA datasheet,
/// section 3.2.2), its index and its window from the first register.
const IO_APIC_VERSION: u32 = 1;
const IO_APIC_WINDOW: u32 = 0x10;
/// The last input that QEMU's I/O APICs have.
const IO_APIC_LAST: u32 = 23;
/// Vendor and device of QEMU's generic PCIe host bridge.
const GPEX_HOST: u32 = 0x0008_1b36;
/// Interrupt pins that the MP table lists.
const MAX_PINS: usize = 128;
/// Root buses beyond the first that QEMU can have.
const MAX_EXTRA_ROOTS: u64 = 255;

/// Sets up PCI before QEMU's ACPI tables are read, which announce what is
/// programmed; gives what was found.
///
/// # Errors
/// [`Error::PciTooMany`].
#[cold]
#[inline(never)]
pub fn set_up_pci<I: PortIo + Mmio, F: FwCfg, M: GuestMemory>(
    machine: &mut Machine<I, F, M>,
    chipset: Chipset,
    setup: PciSetup,
    dir: &Directory<'_>,
    map: &MemoryMap,
    cpuid: Cpuid,
    scratch: &mut [u8],
) -> Result<Summary> {
    let extra_roots = read_number(machine, dir, &file::EXTRA_PCI_ROOTS)?.min(MAX_EXTRA_ROOTS);
    let extra_roots = u8::try_from(extra_roots).unwrap_or(u8::MAX);
    let low_end = map.high().end();
    let high_end = map.ram_end().max(read_number(
        machine,
        dir,
        &file_name("etc/reserved-memory-end"),
    )?);
    let bits = if setup == PciSetup::Full {
        phys_bits(cpuid)
    } else {
        0
    };
    let apertures = match chipset {
        Chipset::I440fx => Apertures::i440fx(low_end, high_end, bits),
        Chipset::Q35 => Apertures::q35(low_end, high_end, bits),
        Chipset::None | Chipset::Unknown => Apertures::microvm(bits),
    };
    let Some((mut config, routing)) = access(&mut machine.io, chipset) else {
        return Ok(Summary::default());
    };
    let summary = match setup {
        PciSetup::None => return Ok(Summary::default()),
        PciSetup::Scan => pci::scan(&mut config, extra_roots, routing)?,
        PciSetup::Full => pci::full(&mut config, extra_roots, routing, &apertures, scratch)?,
    };
    realmode::set_last_bus(&mut machine.memory, summary.last_bus)?;
    Ok(summary)
}

/// How a machine's configuration space is reached and its interrupts routed;
/// `None` without PCI.
fn access<I: PortIo + Mmio>(io: &mut I, chipset: Chipset) -> Option<(Access<'_, I>, Routing)> {
    match chipset {
        Chipset::I440fx => Some((Access::cam(io), Routing::Piix)),
        Chipset::Q35 => {
            let ecam = Access::ecam(io, layout::Q35_ECAM.start());
            Some((ecam, Routing::Ich9))
        }
        Chipset::None if io.read32(layout::MICROVM_ECAM.start()) == GPEX_HOST => {
            let [one, two] = MICROVM_PCIE_IRQ;
            let first = if has_io_apic(io, 1) { two } else { one };
            let ecam = Access::ecam(io, layout::MICROVM_ECAM.start());
            Some((ecam, Routing::Gpex(first)))
        }
        Chipset::None | Chipset::Unknown => None,
    }
}

/// Whether there is an I/O APIC of this index, 0 or 1: isapc has none, microvm
/// may have two.
// With the address known, nothing is left of the check that it is a device's.
#[inline(always)]
fn has_io_apic<I: Mmio>(io: &mut I, index: u32) -> bool {
    let offset = layout::IO_APIC_STEP.wrapping_mul(index);
    let start = layout::IO_APICS.start().wrapping_add(offset);
    io.write32(start, IO_APIC_VERSION);
    let version = io.read32(start.wrapping_add(IO_APIC_WINDOW));
    version >> 16 & 0xff == IO_APIC_LAST
}

/// A file that holds a little-endian 64-bit number; 0 without it.
fn read_number<I, F: FwCfg, M>(
    machine: &mut Machine<I, F, M>,
    dir: &Directory<'_>,
    name: &FileName,
) -> Result<u64> {
    let Some(file) = dir.find(name) else {
        return Ok(0);
    };
    let mut bytes = [0; 8];
    machine.fw_cfg.read(file.selector, &mut bytes)?;
    Ok(u64_at(&bytes, 0).unwrap_or(0))
}

/// Builds the MP table in `room`, a part of the F segment; gives what is
/// left of it. Without an I/O APIC there is none: kernels take every entry of
/// the table for true, and Linux stops at an I/O APIC that is not there.
///
/// # Errors
/// [`Error::TablesTooBig`] when it does not fit.
#[cold]
#[inline(never)]
pub fn build_mp_table<I: PortIo + Mmio, F: FwCfg, M: GuestMemory>(
    machine: &mut Machine<I, F, M>,
    chipset: Chipset,
    roots: &Roots,
    cpuid: Cpuid,
    room: PhysRange,
) -> Result<PhysRange> {
    if !has_io_apic(&mut machine.io, 0) {
        return Ok(room);
    }
    let io_apics = if has_io_apic(&mut machine.io, 1) {
        2
    } else {
        1
    };
    let mut count = [0; 2];
    machine.fw_cfg.read(item::NB_CPUS, &mut count)?;
    let irq0_override = machine.fw_cfg.read_u32(item::IRQ0_OVERRIDE)? & 0xff != 0;

    let mut pins = ArrayVec::<PciInterrupt, MAX_PINS>::new();
    let push = |pin: pci::Interrupt| {
        let _ = pins.try_push(PciInterrupt {
            bus: pin.bus,
            device: pin.device,
            pin: pin.intx.saturating_add(1),
            line: pin.gsi,
        });
    };
    // microvm has no PCI that a kernel without ACPI finds.
    if chipset != Chipset::None
        && let Some((mut config, routing)) = access(&mut machine.io, chipset)
    {
        pci::interrupts(&mut config, roots, routing, push);
    }
    let [cpu_signature, _, _, cpu_features] = cpuid(1, 0);
    let wiring = Wiring {
        cpu_signature,
        cpu_features,
        irq0_override,
        io_apics,
        pci: &pins,
    };
    let ids = Topology::read(cpuid).apic_ids(u16::from_le_bytes(count).max(1));
    let start = crate::phys::align_up(room.start(), 16).ok_or(Error::TablesTooBig)?;
    let room = PhysRange::between(start, room.end()).ok_or(Error::TablesTooBig)?;
    let bytes = machine.memory.bytes(room)?;
    let len = mptable::build(bytes, start, ids, &wiring).ok_or(Error::TablesTooBig)?;
    let used = u32::try_from(len).map_err(|_| Error::TablesTooBig)?;
    let end = start.checked_add(used).ok_or(Error::TablesTooBig)?;
    PhysRange::between(end, room.end()).ok_or(Error::TablesTooBig)
}
