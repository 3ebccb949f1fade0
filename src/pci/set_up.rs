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

/// Sets up PCI; `summary`, empty at first, gets what is found. Call it before QEMU's
/// ACPI tables are read: they announce what is programmed. `scratch` is free again
/// afterwards.
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
    summary: &mut Summary,
) -> Result<()> {
    if setup == PciSetup::None {
        return Ok(());
    }
    walk(platform, chipset, setup, dir, map, scratch, summary)?;
    if summary.last_bus > chipset.last_bus {
        // The walk has opened all buses on its way.
        chipset.open_all_buses(platform, map)?;
    }
    Ok(())
}

fn walk<P: Platform>(
    platform: &mut P,
    chipset: &Chipset,
    setup: PciSetup,
    dir: &Directory<'_>,
    map: &MemoryMap,
    scratch: &mut [u8],
    summary: &mut Summary,
) -> Result<()> {
    let mut extra_roots = 0;
    let mut apertures = None;
    if setup > PciSetup::Buses {
        // The interrupt lines below name these.
        chipset.route_interrupts(platform);
        let count = dir.read_number(platform, file::EXTRA_PCI_ROOTS)?;
        extra_roots = u8::try_from(count).unwrap_or(u8::MAX);
    }
    if setup == PciSetup::Full {
        apertures = Some(find_apertures(platform, chipset, dir, map)?);
    }
    let Some((mut config, routing)) = access(platform, chipset) else {
        return Ok(());
    };
    match apertures {
        Some(apertures) => full(
            &mut config,
            extra_roots,
            routing,
            &apertures,
            scratch,
            summary,
        ),
        None if setup == PciSetup::Buses => number(&mut config, routing, summary),
        None => scan(&mut config, extra_roots, routing, summary),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chipset::{I440FX, NONE, Q35, has_all_buses};
    use crate::memory::map::tests::map_of;
    use crate::pci::Bdf;
    use crate::pci::sim::{Bar, Bus, Function, Port, Sim};
    use crate::sim::Machine;

    const RAM: u64 = 256 << 20;
    const DEVICE: Bdf = Bdf::new(0, 2, 0);

    fn machine(bus: Bus, chipset: &Chipset) -> Machine {
        let mut machine = Machine::default();
        machine.io.pci = Sim::new(bus);
        machine.io.pci.ecam = match chipset.pci {
            Some(PciHost::I440fx) => None,
            Some(PciHost::Q35) => Some(chipset.ecam.start()),
            None => Some(layout::MICROVM_ECAM.start()),
        };
        machine
    }

    fn run(
        machine: &mut Machine,
        chipset: &Chipset,
        setup: PciSetup,
        map: &mut MemoryMap,
    ) -> Summary {
        let mut scratch = std::vec![0; 0x1_0000];
        let (dir, scratch) = Directory::read(machine, &mut scratch).unwrap();
        let mut summary = Summary::default();
        set_up(machine, chipset, setup, &dir, map, scratch, &mut summary).unwrap();
        summary
    }

    #[test]
    fn each_set_up_does_what_the_one_before_does_and_more() {
        for (chipset, line, place) in [
            (&I440FX, 10, 0xfebf_f000),
            (&Q35, 11, 0xfebf_f000),
            (&NONE, 14, 0xdfff_f000),
        ] {
            for setup in [
                PciSetup::None,
                PciSetup::Buses,
                PciSetup::Scan,
                PciSetup::Full,
            ] {
                let host = Function::device(0x0008_1b36, 0x0600);
                let lpc = Function::device(0x2918_8086, 0x0601);
                let device = Function::device(0x1041_1af4, 0)
                    .bar(0, Bar::Mem32, 12)
                    .pin(1);
                let mut machine =
                    machine(Bus::from([(0, host), (0x10, device), (0xf8, lpc)]), chipset);
                let mut map = map_of(RAM);
                let summary = run(&mut machine, chipset, setup, &mut map);
                let expected = match setup {
                    PciSetup::None => 0,
                    _ => 3,
                };
                assert_eq!(summary.functions, expected, "{} {setup:?}", chipset.name);
                let function = machine.io.pci.function(DEVICE).unwrap();
                let found = (function.dword(0x3c) & 0xff, function.dword(0x10));
                let expected = match setup {
                    PciSetup::None | PciSetup::Buses => (0, 0),
                    PciSetup::Scan => (line, 0),
                    PciSetup::Full => (line, place),
                };
                assert_eq!(found, expected, "{} {setup:?}", chipset.name);
            }
        }
    }

    #[test]
    fn more_than_64_buses_open_the_whole_ecam() {
        for ports in [62, 63, 64, 65] {
            let port = |n| (n + 8, Function::port(Port::Root, Bus::new()).multi());
            let mut bus: Bus = (0..ports).map(port).collect();
            bus.insert(0, Function::device(0x29c0_8086, 0x0600));
            let mut machine = machine(bus, &Q35);
            let mut map = map_of(RAM);
            let summary = run(&mut machine, &Q35, PciSetup::Buses, &mut map);
            assert_eq!(summary.last_bus, ports);
            assert_eq!(has_all_buses(&map), ports > 63, "{ports}");
        }
    }

    #[test]
    fn microvms_pci_is_known_by_its_host() {
        for (id, io_apics, routing) in [
            (GPEX_HOST, 1, Some(Routing::Gpex(12))),
            (GPEX_HOST, 2, Some(Routing::Gpex(16))),
            (0x0009_1b36, 1, None),
        ] {
            let mut machine = machine(Bus::from([(0, Function::device(id, 0x0600))]), &NONE);
            machine.io.io_apics = io_apics;
            let found = access(&mut machine, &NONE).map(|(_, routing)| routing);
            assert_eq!(found, routing, "{id:x}");
        }
    }

    #[test]
    fn the_processor_says_how_long_addresses_are() {
        type Cpuid = fn(u32, u32) -> [u32; 4];
        let with: [(Cpuid, u8); 5] = [
            (|_, _| [0x8000_0007, 0, 0, 0], 36),
            (
                |leaf, _| {
                    [
                        if leaf & 0xff == 0 {
                            0x8000_0008
                        } else {
                            0x3027
                        },
                        0,
                        0,
                        0,
                    ]
                },
                39,
            ),
            (
                |leaf, _| {
                    [
                        if leaf & 0xff == 0 {
                            0x8000_001f
                        } else {
                            0x3027
                        },
                        0,
                        0,
                        0,
                    ]
                },
                39,
            ),
            (
                |leaf, _| [if leaf & 0xff == 0 { 0x8000_0008 } else { 0 }, 0, 0, 0],
                32,
            ),
            (
                |leaf, _| [if leaf & 0xff == 0 { 0x8000_0008 } else { 64 }, 0, 0, 0],
                52,
            ),
        ];
        for (cpuid, bits) in with {
            let mut machine = Machine {
                cpuid,
                ..Machine::default()
            };
            assert_eq!(phys_bits(&mut machine), bits);
        }
    }
}
