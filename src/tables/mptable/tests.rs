//! Tables read back entry by entry, as a kernel does.

use super::*;
use crate::chipset;
use crate::memory::map::tests::map_of;
use crate::pci::sim::{Bus, Function, Sim};
use crate::phys::{u16_at, u32_at};
use crate::sim::Machine;
use proptest::collection::vec as vec_of;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::vec;
use std::vec::Vec;

/// Builds into `room` bytes; gives the entries, all else found right.
fn entries(room: usize, apic_ids: &[u32], wiring: &Wiring<'_>) -> Option<Vec<Vec<u8>>> {
    let mut buffer = vec![0xa5; room + 64];
    let len = build(&mut buffer[..room], apic_ids.iter().copied(), wiring);
    assert!(buffer[room..].iter().all(|byte| *byte == 0xa5));
    let len = len?;
    assert!(buffer[len..].iter().all(|byte| *byte == 0xa5));
    Some(parse(&buffer[..len]))
}

/// The entries of a table, all else found right.
fn parse(table: &[u8]) -> Vec<Vec<u8>> {
    assert_eq!(table[..4], *b"PCMP");
    assert_eq!(byte_sum(table), 0);
    assert_eq!(u16_at(table, 4).map(usize::from), Some(table.len()));
    assert_eq!(table[6], 4);
    assert_eq!(u32_at(table, 36), Some(0xfee0_0000));

    let mut found = Vec::new();
    let mut rest = &table[44..];
    while !rest.is_empty() {
        let (entry, more) = rest.split_at(if rest[0] == 0 { 20 } else { 8 });
        found.push(entry.to_vec());
        rest = more;
    }
    assert_eq!(u16_at(table, 34).map(usize::from), Some(found.len()));
    assert!(found.is_sorted_by_key(|entry| entry[0]));
    found
}

fn of_kind(entries: &[Vec<u8>], kind: u8) -> Vec<&[u8]> {
    let entries = entries.iter().map(Vec::as_slice);
    entries.filter(|entry| entry[0] == kind).collect()
}

#[test]
fn the_pointer_is_found_by_signature_and_sum() {
    let mut pointer = [0xa5; 16];
    point_at(0x1234_5670, &mut pointer).unwrap();
    assert_eq!(pointer[..4], *b"_MP_");
    assert_eq!(byte_sum(&pointer), 0);
    assert_eq!(u32_at(&pointer, 4), Some(0x1234_5670));
    assert_eq!((pointer[8], pointer[9]), (1, 4));
    assert_eq!(pointer[11..], [0; 5]);
    assert_eq!(point_at(0, &mut pointer[1..]), None);
}

#[test]
fn a_machine_without_pci() {
    let wiring = Wiring {
        cpu_signature: 0x663,
        cpu_features: 0x078b_fbfd,
        irq0_override: true,
        io_apics: 1,
        pci: &[],
    };
    let found = entries(4096, &[0], &wiring).unwrap();
    let mut processor = vec![0, 0, 0x14, 3];
    processor.extend(0x663_u32.to_le_bytes());
    processor.extend(0x078b_fbfd_u32.to_le_bytes());
    processor.extend([0; 8]);
    assert_eq!(of_kind(&found, 0), [&processor]);
    assert_eq!(of_kind(&found, 1), [b"\x01\x00ISA   "]);
    assert_eq!(of_kind(&found, 2), [[2, 1, 0x20, 1, 0, 0, 0xc0, 0xfe]]);
    let pins: Vec<_> = of_kind(&found, 3)
        .iter()
        .map(|entry| (entry[5], entry[7]))
        .collect();
    let expected = (0..16)
        .filter(|irq| *irq != 2)
        .map(|irq| (irq, if irq == 0 { 2 } else { irq }));
    assert_eq!(pins, expected.collect::<Vec<_>>());
    assert!(
        of_kind(&found, 3)
            .iter()
            .all(|entry| entry[1..5] == [0; 4] && entry[6] == 1)
    );
    assert_eq!(
        of_kind(&found, 4),
        [[4, 3, 0, 0, 0, 0, 0, 0], [4, 1, 0, 0, 0, 0, 0xff, 1]]
    );

    let wiring = Wiring {
        irq0_override: false,
        ..wiring
    };
    let found = entries(4096, &[0], &wiring).unwrap();
    let pins: Vec<_> = of_kind(&found, 3)
        .iter()
        .map(|entry| (entry[5], entry[7]))
        .collect();
    assert_eq!(pins, (0..16).map(|irq| (irq, irq)).collect::<Vec<_>>());
}

#[test]
fn two_io_apics() {
    let wiring = Wiring {
        io_apics: 2,
        ..Wiring::default()
    };
    for ids in [&[0, 1, 2, 4][..], &(0..255).collect::<Vec<_>>()] {
        let found = entries(8192, ids, &wiring).unwrap();
        let [first, second] = of_kind(&found, 2)[..] else {
            panic!("{found:x?}");
        };
        assert_eq!(first[4..], 0xfec0_0000_u32.to_le_bytes());
        assert_eq!(second[4..], 0xfec1_0000_u32.to_le_bytes());
        assert_ne!(first[1], second[1]);
        if ids.len() == 4 {
            assert_eq!((first[1], second[1]), (3, 5));
        }
        let inputs: Vec<_> = of_kind(&found, 3)
            .iter()
            .filter(|entry| entry[6] == second[1])
            .map(|entry| (entry[1], entry[2], entry[5], entry[7]))
            .collect();
        assert_eq!(
            inputs,
            (0..24).map(|n| (0, 0b1101, 24 + n, n)).collect::<Vec<_>>()
        );
    }
}

#[test]
fn apic_ids_need_not_be_indices() {
    // -smp 6,sockets=2,cores=3, and ids that only ACPI can name.
    let ids = [0, 1, 2, 4, 5, 6, 4, 255, 256, 300];
    let found = entries(4096, &ids, &Wiring::default()).unwrap();
    let processors: Vec<_> = of_kind(&found, 0)
        .iter()
        .map(|entry| (entry[1], entry[3]))
        .collect();
    assert_eq!(processors, [(0, 3), (1, 1), (2, 1), (4, 1), (5, 1), (6, 1)]);
    assert_eq!(of_kind(&found, 2)[0][1], 3);
    assert_eq!(entries(4096, &[], &Wiring::default()), None);
    assert_eq!(entries(4096, &[256], &Wiring::default()), None);
}

#[test]
fn pci_interrupts() {
    let pin = |bus, device, pin, line| PciInterrupt {
        bus,
        device,
        pin,
        line,
    };
    let pci = [
        pin(0, 1, 1, 10),
        pin(0, 1, 4, 11),
        pin(2, 31, 2, 11),
        pin(2, 31, 0, 0),  // no interrupt
        pin(2, 31, 5, 11), // no such pin
        pin(2, 32, 1, 11), // no such device
        pin(3, 0, 1, 0),   // routed nowhere
        pin(3, 0, 1, 255),
    ];
    let wiring = Wiring {
        irq0_override: true,
        pci: &pci,
        ..Wiring::default()
    };
    let found = entries(4096, &[0, 1], &wiring).unwrap();
    let buses: Vec<_> = of_kind(&found, 1)
        .iter()
        .map(|entry| (entry[1], &entry[2..]))
        .collect();
    assert_eq!(buses, [(0, &b"PCI   "[..]), (2, b"PCI   "), (1, b"ISA   ")]);
    let interrupts = of_kind(&found, 3);
    assert_eq!(
        interrupts[..3],
        [
            [3, 0, 0x0d, 0, 0, 1 << 2, 2, 10],
            [3, 0, 0x0d, 0, 0, 1 << 2 | 3, 2, 11],
            [3, 0, 0x0d, 0, 2, 31 << 2 | 1, 2, 11],
        ]
    );
    let isa: Vec<_> = interrupts[3..].iter().map(|entry| entry[5]).collect();
    assert_eq!(isa, [0, 1, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15]);
}

#[test]
fn too_little_room_gives_none() {
    let need = usize::try_from(room(2, 0).unwrap()).unwrap();
    let wiring = Wiring {
        io_apics: 2,
        ..Wiring::default()
    };
    assert!(entries(need, &[0, 1], &wiring).is_some());
    for room in 0..need {
        assert_eq!(entries(room, &[0, 1], &wiring), None);
    }
    assert_eq!(room(u32::MAX, 1), None);
    assert_eq!(room(0, u32::MAX), None);
}

/// The entries of the table that a machine gets.
fn offered(machine: &mut Machine, chipset: &Chipset) -> Option<Vec<Vec<u8>>> {
    let mut map = map_of(64 << 20);
    let mut space = TableSpace::new(&mut map);
    let mut roots = ByteSet::default();
    roots.insert(0);
    if !offer(machine, chipset, &roots, &mut space).unwrap() {
        assert!(machine.memory.touched.is_empty());
        return None;
    }
    let tables = machine.memory.peek(layout::F_TABLES);
    assert_eq!(tables[..4], *b"_MP_");
    let start = u32_at(tables, 4).unwrap() - layout::F_TABLES.start();
    let table = &tables[start as usize..];
    let len = u16_at(table, 4).unwrap();
    Some(parse(&table[..len.into()]))
}

#[test]
fn a_machines_table_has_what_it_says() {
    let machine = |io_apics, cpus: u16, irq0_override: u32| {
        let mut machine = Machine::default();
        machine.io.io_apics = io_apics;
        machine.fw_cfg.item(item::NB_CPUS, &cpus.to_le_bytes());
        let irq0_override = irq0_override.to_le_bytes();
        machine.fw_cfg.item(item::IRQ0_OVERRIDE, &irq0_override);
        machine
    };
    for (io_apics, cpus, irq0_override, timer) in [
        (1, 1, 1, 2),
        (2, 3, 0x0000_0101, 2),
        (2, 0, 0, 0),
        (1, 4, 0xffff_ff00, 0),
    ] {
        let mut machine = machine(io_apics, cpus, irq0_override);
        let found = offered(&mut machine, &chipset::NONE).unwrap();
        assert_eq!(of_kind(&found, 0).len(), cpus.max(1).into());
        assert_eq!(of_kind(&found, 2).len(), io_apics as usize);
        assert_eq!(of_kind(&found, 3)[0][7], timer, "{irq0_override:x}");
    }
    assert_eq!(offered(&mut machine(0, 1, 1), &chipset::NONE), None);
    // A device on bus 0, whose pin is INTB#; only `pc` is known to have PCI.
    for (chipset, pins) in [
        (&chipset::I440FX, &[[0, 2 << 2 | 1]][..]),
        (&chipset::NONE, &[]),
    ] {
        let mut machine = machine(1, 1, 1);
        let device = Function::device(0x1041_1af4, 0x0200).pin(2);
        machine.io.pci = Sim::new(Bus::from([(0x10, device)]));
        let found = offered(&mut machine, chipset).unwrap();
        let pci = of_kind(&found, 1).iter().any(|bus| bus[2..] == *b"PCI   ");
        assert_eq!(pci, !pins.is_empty());
        let interrupts = of_kind(&found, 3);
        let level = interrupts.iter().filter(|entry| entry[2] == 0x0d);
        let level: Vec<_> = level.map(|entry| [entry[4], entry[5]]).collect();
        assert_eq!(level, pins);
    }
}

#[test]
fn as_many_processors_as_the_table_can_name() {
    let ids: Vec<u32> = (0..1000).collect();
    let need = usize::try_from(room(255, 0).unwrap()).unwrap();
    let found = entries(need, &ids, &Wiring::default()).unwrap();
    assert_eq!(of_kind(&found, 0).len(), 255);
    assert_eq!(of_kind(&found, 2)[0][1], 0);
}

proptest! {
    #[test]
    fn any_machine_fits_its_room(
        ids in vec_of(0..300_u32, 1..40),
        pins in vec_of((any::<u8>(), 0..40_u8, 0..6_u8, 0..24_u8), 0..40),
        irq0_override in any::<bool>(),
        io_apics in 1..=2_u8,
        less in 0..400_usize,
    ) {
        let pci: Vec<_> = pins
            .iter()
            .map(|(bus, device, pin, line)| PciInterrupt {
                bus: *bus, device: *device, pin: *pin, line: *line,
            })
            .collect();
        let wiring = Wiring { irq0_override, io_apics, pci: &pci, ..Wiring::default() };
        let need = room(ids.len().try_into().unwrap(), pci.len().try_into().unwrap());
        let need = usize::try_from(need.unwrap()).unwrap();
        let found = entries(need, &ids, &wiring);
        prop_assert_eq!(found.is_some(), ids.iter().any(|id| *id < 255));
        if let Some(found) = found {
            let apics: BTreeSet<_> = of_kind(&found, 0).iter().map(|entry| entry[1]).collect();
            let expected: BTreeSet<_> = ids.iter().filter_map(|id| u8::try_from(*id).ok()).collect();
            prop_assert!(apics.is_subset(&expected) && !apics.contains(&255));
            let buses: BTreeSet<_> = of_kind(&found, 1).iter().map(|entry| entry[1]).collect();
            prop_assert_eq!(buses.len(), of_kind(&found, 1).len());
            prop_assert!(found.iter().all(|entry| entry[0] != 3 || buses.contains(&entry[4])));
        }
        // With less room there is a table or none, and never more bytes.
        entries(need.saturating_sub(less), &ids, &wiring);
    }
}
