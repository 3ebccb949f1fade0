//! The MP table, against what QEMU's MADT says of the same machine.

use anyhow::{Context, Result, ensure};
use qboot_tests::acpi::Tables;
use qboot_tests::machines::*;
use qboot_tests::{Field, Kind, Probe, sum};
use rstest::rstest;
use xtask::probe::Mode;
use xtask::qemu::Vm;

/// An I/O APIC: id, address, first global system interrupt.
type IoApic = (u8, u32, u32);

/// What both tables tell of a machine.
#[derive(Debug, Default, PartialEq)]
struct Wiring {
    /// Local APIC ids of processors that are there.
    processors: Vec<u8>,
    io_apics: Vec<IoApic>,
    /// Global system interrupts of ISA's 0 to 15.
    isa: Vec<(u8, u32)>,
    /// Those of PCI, whose inputs are nobody else's in the MP table.
    pci: Vec<u32>,
}

/// The entries of the MP table (MP specification 1.4, chapter 4); `None`
/// without one.
fn mp_entries(vm: &mut Vm) -> Result<Option<Vec<Vec<u8>>>> {
    let segment = vm.memory(0xf_0000, 0x1_0000)?;
    let mut pointers = segment.chunks(16);
    let pointer = pointers.find(|bytes| bytes.starts_with(b"_MP_") && sum(bytes) == 0);
    let Some(pointer) = pointer else {
        return Ok(None);
    };
    let addr = pointer.u32(4)?;
    let head = vm.memory(addr.into(), 44)?;
    ensure!(head.starts_with(b"PCMP"), "no MP table at {addr:#x}");
    let len = head.u16(4)?;
    let table = vm.memory(addr.into(), len.into())?;
    ensure!(sum(&table) == 0, "checksum of the MP table");
    let mut entries = Vec::new();
    let mut rest = &table[44..];
    while let Some(kind) = rest.first() {
        let (entry, more) = rest.split_at(if *kind == 0 { 20 } else { 8 });
        entries.push(entry.to_vec());
        rest = more;
    }
    Ok(Some(entries))
}

fn from_mp(entries: &[Vec<u8>]) -> Result<Wiring> {
    let mut wiring = Wiring::default();
    let mut isa_bus = None;
    for entry in entries {
        match entry[0] {
            0 if entry[3] & 1 != 0 => wiring.processors.push(entry[1]),
            1 if entry[2..].starts_with(b"ISA") => isa_bus = Some(entry[1]),
            // Kernels count inputs on in the order of the entries.
            2 => {
                let first = 24 * wiring.io_apics.len() as u32;
                wiring.io_apics.push((entry[1], entry.u32(4)?, first));
            }
            3 => {
                let mut all = wiring.io_apics.iter();
                let io_apic = all.find(|(id, ..)| *id == entry[6]);
                let (_, _, first) = io_apic.context("an interrupt without an I/O APIC")?;
                let gsi = first + u32::from(entry[7]);
                match entry[5] {
                    _ if Some(entry[4]) != isa_bus => wiring.pci.push(gsi),
                    irq @ 0..16 => wiring.isa.push((irq, gsi)),
                    irq => ensure!(gsi == u32::from(irq), "interrupt {irq} at {gsi}"),
                }
            }
            _ => {}
        }
    }
    Ok(wiring)
}

/// The MADT's entries (ACPI specification, 5.2.12).
fn from_madt(madt: &[u8]) -> Result<Wiring> {
    let mut wiring = Wiring::default();
    let mut moved = Vec::new();
    let mut rest = &madt[44..];
    while rest.len() >= 2 {
        let (entry, more) = rest.split_at(rest[1].into());
        match entry[0] {
            0 if entry[4] & 1 != 0 => wiring.processors.push(entry[3]),
            1 => {
                let first = entry.u32(8)?;
                wiring.io_apics.push((entry[2], entry.u32(4)?, first));
            }
            2 => moved.push((entry[3], entry.u32(4)?)),
            _ => {}
        }
        rest = more;
    }
    let taken = |irq: u8| moved.iter().any(|(_, gsi)| *gsi == u32::from(irq));
    for irq in 0..16 {
        match moved.iter().find(|(other, _)| *other == irq) {
            Some(entry) => wiring.isa.push(*entry),
            None if taken(irq) => {}
            None => wiring.isa.push((irq, irq.into())),
        }
    }
    Ok(wiring)
}

/// As [`Wiring`], with what the tables need not agree in: I/O APICs' own ids.
fn comparable(mut wiring: Wiring) -> Wiring {
    wiring.io_apics.iter_mut().for_each(|apic| apic.0 = 0);
    wiring.processors.sort_unstable();
    wiring
}

#[rstest]
fn tells_what_the_madt_tells(
    #[values(PC, Q35, MICROVM, MICROVM.with("ioapic2=off"), MICROVM.with("ioapic2=on"))]
    machine: Machine,
) -> Result<()> {
    let probe = Probe::new(Kind::BzImage)?;
    let qemu = probe.machine(machine)?.append("acpi=off");
    let (handover, mut vm) = probe.boot(&qemu.smp("6,sockets=2,cores=3"))?;
    let entries = mp_entries(&mut vm)?.context("no MP table")?;
    let mp = from_mp(&entries)?;
    let madt = from_madt(Tables::read(&mut vm, &handover)?.get("APIC")?)?;
    ensure!(mp.processors.len() == 6, "{mp:?}");
    // Every id is one APIC's.
    let mut ids: Vec<u8> = mp.io_apics.iter().map(|apic| apic.0).collect();
    ids.extend(&mp.processors);
    ids.sort_unstable();
    ids.dedup();
    ensure!(ids.len() == mp.io_apics.len() + 6, "{mp:?}");
    if let Some((id, ..)) = mp.io_apics.get(1) {
        let inputs: Vec<u8> = entries
            .iter()
            .filter(|entry| entry[0] == 3 && entry[6] == *id)
            .map(|entry| entry[7])
            .collect();
        ensure!(inputs == (0..24).collect::<Vec<_>>(), "{inputs:?}");
    }
    let (mut mp, mut madt) = (comparable(mp), comparable(madt));
    madt.isa.retain(|(_, gsi)| !mp.pci.contains(gsi));
    mp.pci.clear();
    if machine.is(MICROVM) {
        // fw_cfg says that the timer arrives at input 2, which is so (QEMU
        // hw/intc/ioapic.c); this MADT does not.
        ensure!(mp.isa.first() == Some(&(0, 2)), "{mp:?}");
        mp.isa.retain(|(irq, _)| *irq != 0);
        madt.isa.retain(|(irq, _)| ![0, 2].contains(irq));
    }
    ensure!(mp == madt, "{mp:#?}\n{madt:#?}");
    Ok(())
}

#[rstest]
fn stands_in_for_acpi(#[values(Kind::BzImage, Kind::Pvh)] kind: Kind) -> Result<()> {
    let probe = Probe::new(kind)?;
    let (handover, mut vm) = probe.boot(&probe.machine(MICROVM.with("acpi=off"))?.smp(4))?;
    ensure!(handover.rsdp == 0, "an RSDP at {:#x}", handover.rsdp);
    let mp = from_mp(&mp_entries(&mut vm)?.context("no MP table")?)?;
    ensure!(mp.processors.len() == 4, "{mp:?}");
    ensure!(mp.io_apics.len() == 1, "{mp:?}");
    Ok(())
}

/// So long a table has no room in the F segment, where its pointer has to be.
#[test]
fn has_room_for_as_many_processors_as_it_can_name() -> Result<()> {
    let probe = Probe::new(Kind::BzImage)?;
    let (_, mut vm) = probe.boot(&probe.machine(MICROVM.with("acpi=off"))?.smp(255))?;
    let mp = from_mp(&mp_entries(&mut vm)?.context("no MP table")?)?;
    ensure!(mp.processors == (0..255).collect::<Vec<_>>(), "{mp:?}");
    Ok(())
}

/// A kernel that is not Linux may read nothing else, as xv6 does, though QEMU has
/// ACPI tables.
#[rstest]
fn stands_beside_acpi_for_others(
    #[values(PC, Q35, MICROVM)] machine: Machine,
    #[values(Kind::Pvh, Kind::Multiboot)] kind: Kind,
) -> Result<()> {
    let probe = Probe::from_bytes(kind, &kind.other_than_linux(Mode::Halt, &[])?)?;
    let (handover, mut vm) = probe.boot(&probe.machine(machine)?.smp(4))?;
    let mp = from_mp(&mp_entries(&mut vm)?.context("no MP table")?)?;
    ensure!(mp.processors.len() == 4, "{mp:?}");
    ensure!(kind == Kind::Multiboot || handover.rsdp != 0, "no RSDP");
    Ok(())
}

/// Linux takes a fault where the table has an I/O APIC that the machine has not.
#[test]
fn is_left_out_without_an_io_apic() -> Result<()> {
    let probe = Probe::new(Kind::BzImage)?;
    let (_, mut vm) = probe.boot(&probe.machine(ISAPC)?)?;
    ensure!(mp_entries(&mut vm)?.is_none(), "an MP table");
    Ok(())
}
