//! The `acpi` crate reads what the linker-loader makes of captured machines.
//!
//! It is the one place outside the ROM with `unsafe`: the crate's seam to
//! physical memory asks for it.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test may panic"
)]

use std::ptr::NonNull;
use std::rc::Rc;

use acpi::fadt::Fadt;
use acpi::madt::{Madt, MadtEntry};
use acpi::mcfg::Mcfg;
use acpi::{AcpiHandler, AcpiTables, HpetInfo, PhysicalMapping};
use qboot::fw_cfg;
use qboot::fw_cfg::Directory;
use qboot::memory::map::MemoryMap;
use qboot::phys::PhysRange;
use qboot::platform::GuestMemory as _;
use qboot::sim::{Machine, Memory, e820};
use qboot::tables::acpi::{Tables, load};
use qboot::tables::space::TableSpace;

#[path = "../src/capture.rs"]
mod capture;

const HIGH: PhysRange = PhysRange::fixed(0x10_0000, 0x40_0000);
const ALL: PhysRange = PhysRange::fixed(0xf_0000, HIGH.end());

/// Linked memory from [`ALL`]'s start, never changed again.
#[derive(Clone, Debug)]
struct Linked(Rc<[u8]>);

impl AcpiHandler for Linked {
    unsafe fn map_physical_region<T>(
        &self,
        physical_address: usize,
        size: usize,
    ) -> PhysicalMapping<Self, T> {
        let start = physical_address - ALL.start() as usize;
        let bytes = &self.0[start..start + size];
        let start = NonNull::from(bytes).cast();
        // SAFETY: the mapping holds a clone of `self`, which keeps the bytes;
        // the crate's table types are packed, and it only reads them.
        unsafe { PhysicalMapping::new(physical_address, start, size, size, self.clone()) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

fn link(name: &str) -> AcpiTables<Linked> {
    let mut machine = Machine {
        fw_cfg: capture::device(name),
        memory: Memory::new(HIGH.end()),
        ..Machine::default()
    };
    machine.open(HIGH);
    let mut map = MemoryMap::new();
    map.fill(&e820(HIGH.end().into()), PhysRange::EMPTY)
        .unwrap();
    let mut scratch = vec![0; 65536];
    let (dir, scratch) = Directory::read(&mut machine, &mut scratch).unwrap();
    let mut space = TableSpace::new(&mut map);
    let script = dir.find(fw_cfg::file::TABLE_LOADER);
    let mut tables = Tables::new(None);
    let script = script.unwrap();
    load(&mut machine, &dir, script, &mut space, scratch, &mut tables).unwrap();
    let linked = Linked(machine.memory.peek(ALL).into());
    // SAFETY: `map_physical_region` panics outside the linked memory.
    unsafe { AcpiTables::from_rsdp(linked, tables.rsdp.unwrap() as usize) }.unwrap()
}

/// Signatures of all tables whose checksums the crate found right.
fn signatures(tables: &AcpiTables<Linked>) -> Vec<String> {
    let headers = tables.headers();
    headers
        .map(|header| header.signature.as_str().into())
        .collect()
}

/// Enabled processors.
fn processors(tables: &AcpiTables<Linked>) -> usize {
    let madt = tables.find_table::<Madt>().unwrap();
    let entries = madt.get().entries();
    entries
        .filter(|entry| matches!(entry, MadtEntry::LocalApic(apic) if { apic.flags } & 1 != 0))
        .count()
}

#[test]
fn every_table_is_valid() {
    for (name, expected) in [
        ("microvm", &["FACP", "APIC"][..]),
        ("microvm-pcie", &["FACP", "APIC"]),
        ("pc", &["FACP", "APIC", "HPET", "WAET"]),
        ("pc-80-bridges", &["FACP", "APIC", "HPET", "WAET"]),
        ("pc-acpitable", &["FACP", "APIC", "HPET", "WAET", "TEST"]),
        (
            "pc-numa-64cpus",
            &["FACP", "APIC", "SSDT", "HPET", "SRAT", "WAET"],
        ),
        ("q35", &["FACP", "APIC", "HPET", "MCFG", "WAET"]),
        (
            "q35-nvdimm-vmgenid",
            &[
                "FACP", "APIC", "SSDT", "HPET", "SRAT", "MCFG", "DMAR", "SSDT", "NFIT", "WAET",
            ],
        ),
    ] {
        let tables = link(name);
        let mut found = signatures(&tables);
        let mut expected = expected.to_vec();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{name}");
        let dsdt = tables.dsdt().unwrap();
        assert!(dsdt.length > 100, "{name}: {dsdt:?}");
        let ssdts = expected.iter().filter(|name| **name == "SSDT").count();
        assert_eq!(tables.ssdts().count(), ssdts, "{name}");
        let fadt = tables.find_table::<Fadt>().unwrap();
        fadt.validate().unwrap();
        if !name.starts_with("microvm") {
            let facs = fadt.facs_address().unwrap();
            assert!(facs.is_multiple_of(64), "{name}: {facs:#x}");
            // The PM timer is where the capture has put the PM base.
            let timer = fadt.pm_timer_block().unwrap().unwrap();
            assert_eq!(timer.address, 0x608, "{name}");
            HpetInfo::new(&tables).unwrap();
        }
    }
}

#[test]
fn processors_and_ecam() {
    for (name, expected) in [("microvm-pcie", 4), ("pc", 1), ("pc-numa-64cpus", 64)] {
        assert_eq!(processors(&link(name)), expected, "{name}");
    }
    let tables = link("q35");
    let mcfg = tables.find_table::<Mcfg>().unwrap();
    let [entry] = mcfg.entries() else {
        panic!("{:?}", mcfg.entries());
    };
    let (base, first, last) = (
        entry.base_address,
        entry.bus_number_start,
        entry.bus_number_end,
    );
    assert_eq!((base, first, last), (0xb000_0000, 0, 255));
}
