//! Finds a machine's PCI, and sets it up as the policy says.

use super::{Access, Apertures, Routing, Summary, full, number, scan};
use crate::chipset::{Chipset, PciHost, has_io_apic};
use crate::error::Result;
use crate::fw_cfg::{Directory, file};
use crate::layout;
use crate::memory::map::MemoryMap;
use crate::platform::Platform;
use crate::settings::policy::PciSetup;

/// First interrupt of microvm's PCIe host: with one I/O APIC, and with two, the default
/// (QEMU `hw/i386/microvm.c`).
const MICROVM_PCIE_IRQ: [u8; 2] = [12, 16];
/// Vendor and device of QEMU's generic PCIe host bridge.
const GPEX_HOST: u32 = 0x0008_1b36;

/// Sets up PCI; returns what it found. Call it before QEMU's ACPI tables are read: they
/// announce what is programmed. `scratch` is free again afterwards.
///
/// # Errors
/// [`Error::PciTooMany`](crate::error::Error::PciTooMany), and the transfers'.
pub fn set_up<P: Platform>(
    platform: &mut P,
    chipset: &Chipset,
    setup: PciSetup,
    dir: &Directory<'_>,
    map: &mut MemoryMap,
    scratch: &mut [u8],
) -> Result<Summary> {
    let summary = walk(platform, chipset, setup, dir, map, scratch)?;
    if summary.last_bus > chipset.last_bus {
        // The walk has opened all buses on its way.
        chipset.open_all_buses(platform, map)?;
    }
    Ok(summary)
}

fn walk<P: Platform>(
    platform: &mut P,
    chipset: &Chipset,
    setup: PciSetup,
    dir: &Directory<'_>,
    map: &MemoryMap,
    scratch: &mut [u8],
) -> Result<Summary> {
    if setup == PciSetup::None {
        return Ok(Summary::default());
    }
    if setup == PciSetup::Buses {
        return match access(platform, chipset) {
            Some((mut config, routing)) => number(&mut config, routing),
            None => Ok(Summary::default()),
        };
    }
    // The lines below name these.
    chipset.route_interrupts(platform);
    let extra_roots = dir.read_number(platform, file::EXTRA_PCI_ROOTS)?;
    let extra_roots = u8::try_from(extra_roots).unwrap_or(u8::MAX);
    let mut apertures = None;
    if setup == PciSetup::Full {
        apertures = Some(find_apertures(platform, chipset, dir, map)?);
    }
    let Some((mut config, routing)) = access(platform, chipset) else {
        return Ok(Summary::default());
    };
    match apertures {
        Some(apertures) => full(&mut config, extra_roots, routing, &apertures, scratch),
        None => scan(&mut config, extra_roots, routing),
    }
}

/// The address ranges for PCI devices.
fn find_apertures<P: Platform>(
    platform: &mut P,
    chipset: &Chipset,
    dir: &Directory<'_>,
    map: &MemoryMap,
) -> Result<Apertures> {
    let low_end = map.high().end();
    let reserved_end = dir.read_number(platform, file::RESERVED_MEMORY_END)?;
    let high_end = map.ram_end().max(reserved_end);
    let bits = phys_bits(platform);
    Ok(match chipset.pci {
        Some(PciHost::I440fx) => Apertures::i440fx(low_end, high_end, bits),
        Some(PciHost::Q35) => Apertures::q35(low_end, high_end, bits),
        None => Apertures::microvm(bits),
    })
}

/// How a machine's configuration space is reached and its interrupts routed;
/// `None` without PCI.
pub fn access<'p, P: Platform>(
    platform: &'p mut P,
    chipset: &Chipset,
) -> Option<(Access<'p, P>, Routing)> {
    match chipset.pci {
        Some(PciHost::I440fx) => Some((Access::cam(platform), Routing::Piix)),
        Some(PciHost::Q35) => {
            let ecam = Access::ecam(platform, chipset.ecam.start(), chipset.last_bus);
            Some((ecam, Routing::Ich9))
        }
        None if platform.read32(layout::MICROVM_ECAM.start()) == GPEX_HOST => {
            let [one, two] = MICROVM_PCIE_IRQ;
            let first = if has_io_apic(platform, 1) { two } else { one };
            let ecam = Access::ecam(platform, layout::MICROVM_ECAM.start(), u8::MAX);
            Some((ecam, Routing::Gpex(first)))
        }
        None => None,
    }
}

/// Bits of a physical address (CPUID leaf 0x8000_0008); 36 if the processor lacks the
/// leaf.
fn phys_bits<P: Platform>(platform: &mut P) -> u8 {
    const ADDRESS_SIZES: u32 = 0x8000_0008;
    let [highest, ..] = platform.cpuid(0x8000_0000, 0);
    if highest < ADDRESS_SIZES {
        return 36;
    }
    let [sizes, ..] = platform.cpuid(ADDRESS_SIZES, 0);
    let [bits, ..] = sizes.to_le_bytes();
    bits.clamp(32, 52)
}
