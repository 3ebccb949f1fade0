//! The scripts of captured machines, and the tables that they make.

use super::model::compare_with_model;
use super::*;
use crate::capture;
use crate::phys::u64_at;
use std::collections::BTreeMap;
use std::string::String;

/// A run over the capture called `name`.
fn run_capture(name: &str) -> (Run, Vec<u8>) {
    let items = capture::items(name);
    let script = &items
        .iter()
        .find(|item| item.0 == "etc/table-loader")
        .unwrap()
        .2;
    (run(capture::device(name), script), script.clone())
}

/// The table at `at`, its checksum found right.
fn table(memory: &Memory, at: u32) -> Vec<u8> {
    let header = memory.peek(PhysRange::new(at, 36).unwrap());
    let len = u32_at(header, 4).unwrap();
    let table = memory.peek(PhysRange::new(at, len).unwrap()).to_vec();
    let name = String::from_utf8_lossy(&table[..4]).into_owned();
    assert_eq!(byte_sum(&table), 0, "checksum of {name} at {at:#x}");
    table
}

/// All tables that the RSDP at `at` leads to.
fn tables(memory: &Memory, at: u32) -> BTreeMap<String, Vec<u8>> {
    let rsdp = memory.peek(PhysRange::new(at, 36).unwrap());
    assert_eq!(rsdp[..8], *b"RSD PTR ");
    assert_eq!(byte_sum(&rsdp[..20]), 0);
    let mut roots = vec![(u32_at(rsdp, 16).unwrap(), 4)];
    if rsdp[15] != 0 {
        assert_eq!(byte_sum(rsdp), 0);
        roots.push((u32::try_from(u64_at(rsdp, 24).unwrap()).unwrap(), 8));
    }
    let mut found = BTreeMap::new();
    for (root, width) in roots {
        if root == 0 {
            continue;
        }
        for pointer in table(memory, root)[36..].chunks(width) {
            let at = u32_at(pointer, 0).unwrap();
            let bytes = table(memory, at);
            if bytes[..4] == *b"FACP" {
                let (facs, dsdt) = (u32_at(&bytes, 36).unwrap(), u32_at(&bytes, 40).unwrap());
                let long = u64_at(&bytes, 140).unwrap_or(0);
                assert!(long == 0 || dsdt == 0 || long == u64::from(dsdt));
                let dsdt = if dsdt == 0 {
                    u32::try_from(long).unwrap()
                } else {
                    dsdt
                };
                if facs != 0 {
                    let facs = memory.peek(PhysRange::new(facs, 64).unwrap());
                    assert_eq!(facs[..4], *b"FACS");
                }
                found.insert("DSDT".into(), table(memory, dsdt));
            }
            found.insert(String::from_utf8(bytes[..4].to_vec()).unwrap(), bytes);
        }
    }
    found
}

#[test]
fn captured_machines_link() {
    for (name, expected) in [
        ("microvm", &["APIC", "DSDT", "FACP"][..]),
        ("microvm-pcie", &["APIC", "DSDT", "FACP"]),
        ("pc", &["APIC", "DSDT", "FACP", "HPET", "WAET"]),
        ("pc-80-bridges", &["APIC", "DSDT", "FACP", "HPET", "WAET"]),
        (
            "pc-acpitable",
            &["APIC", "DSDT", "FACP", "HPET", "TEST", "WAET"],
        ),
        (
            "pc-numa-64cpus",
            &["APIC", "DSDT", "FACP", "HPET", "SRAT", "SSDT", "WAET"],
        ),
        ("q35", &["APIC", "DSDT", "FACP", "HPET", "MCFG", "WAET"]),
        (
            "q35-nvdimm-vmgenid",
            &[
                "APIC", "DMAR", "DSDT", "FACP", "HPET", "MCFG", "NFIT", "SRAT", "SSDT", "WAET",
            ],
        ),
    ] {
        std::println!("{name}");
        let (mut run, script) = run_capture(name);
        let rsdp = run.result.unwrap().unwrap();
        assert_eq!(rsdp, FSEG.start(), "{name}");
        let tables = tables(&run.machine.memory, rsdp);
        let found: Vec<_> = tables.keys().map(String::as_str).collect();
        assert_eq!(found, expected, "{name}");
        // One transfer a file is all that a real machine takes.
        assert_eq!(run.machine.fw_cfg.transfers, run.given.len(), "{name}");
        compare_with_model(&capture::device(name), &script, &mut run);
    }
}

#[test]
fn only_the_used_part_is_transferred() {
    for name in ["pc", "q35", "q35-nvdimm-vmgenid", "pc-80-bridges"] {
        let (run, _) = run_capture(name);
        let largest = run.given.iter().max_by_key(|range| range.len());
        let bytes = run.machine.memory.peek(*largest.unwrap());
        let used = bytes.iter().rposition(|byte| *byte != 0xa5).unwrap();
        let last = bytes.rchunks(4096).take_while(|page| untouched(page));
        let untouched = last.count();
        std::println!(
            "{name}: {used} of {} bytes, {untouched} pages untouched",
            bytes.len()
        );
        if name != "pc-80-bridges" {
            assert!(used < 0x8000, "{name}: {used} bytes transferred");
        }
        assert!(untouched != 0);
    }
}

#[test]
fn vmgenid_reaches_host_and_guest() {
    let (run, _) = run_capture("q35-nvdimm-vmgenid");
    let guid = [
        0xaf, 0x6e, 0x4e, 0x32, 0xd1, 0xd1, 0xf6, 0x4b, 0xbf, 0x41, 0xb9, 0xbb, 0x6c, 0x91, 0xfb,
        0x87,
    ];
    let [(_, 0, address)] = run.machine.fw_cfg.written.as_slice() else {
        panic!("{:?}", run.machine.fw_cfg.written);
    };
    let address = u32::try_from(u64_at(address, 0).unwrap()).unwrap();
    let told = PhysRange::new(address, 16).unwrap();
    let file = run.given.iter().find(|given| given.contains(told));
    let file = run.machine.memory.peek(*file.unwrap());
    assert!(file.windows(16).any(|bytes| bytes == guid));
}
