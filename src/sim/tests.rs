//! Captured machines booted on the host.

mod buses;
mod corpus;
mod elf;
mod log;
mod multiboot;
mod placement;
mod realmode;
mod refused;
mod setup_data;
mod unified;
mod wake;

use super::*;
use crate::capture;
use crate::pci::Bdf;
use crate::platform::GuestMemory as _;

/// A bzImage of a few KiB with a likely header.
fn small_bzimage() -> Vec<u8> {
    let mut image = std::vec![0; 1024 + 0x4000];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x66]);
    put(0x202, b"HdrS");
    put(0x206, &0x20f_u16.to_le_bytes());
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x230, &0x20_0000_u32.to_le_bytes());
    put(0x234, &[1, 21]);
    put(0x238, &2047_u32.to_le_bytes());
    put(0x24c, &0x1000_u32.to_le_bytes());
    put(0x258, &0x100_0000_u64.to_le_bytes());
    put(0x260, &0x80_0000_u32.to_le_bytes());
    image
}

const CAPTURES: [(&str, Board); 10] = [
    ("pc", Board::Pc),
    ("q35", Board::Q35),
    ("microvm", Board::Microvm),
    ("pc-numa-64cpus", Board::Pc),
    ("q35-nvdimm-vmgenid", Board::Q35),
    ("pc-80-bridges", Board::Pc),
    ("q35-smbios3", Board::Q35),
    ("pc-smbios-60k", Board::Pc),
    ("q35-smbios3-60k", Board::Q35),
    ("pc-acpitable", Board::Pc),
];

/// Bytes of RAM of a captured machine.
fn ram_of(name: &str) -> u32 {
    if name == "pc-numa-64cpus" {
        1024 << 20
    } else {
        512 << 20
    }
}

#[test]
fn captured_machines_boot_and_hand_over_a_consistent_kernel() {
    for (name, board) in CAPTURES {
        let mut guest = Guest::new(board, capture::device(name), ram_of(name));
        guest.genuine = true;
        guest.command_line(b"console=ttyS0");
        guest.initrd(&std::vec![7; 12345]);
        guest.kernel(&small_bzimage());
        let result = guest.run();
        assert!(
            matches!(result, Ok(Handoff::Linux { .. })),
            "{name}: {result:?}"
        );
        assert_eq!(guest.check(result), Ok(()), "{name}");
    }
}

/// Linux with ACPI begins by switching all routes off, so it is spared them.
#[test]
fn interrupts_are_routed_where_lines_name_them() {
    for (name, board, bridge) in [("pc", Board::Pc, 0x08), ("q35", Board::Q35, 0xf8)] {
        for (line, expected) in [
            ("", 0),
            ("pci=noacpi", 0x0b0b_0a0a),
            ("acpi=off", 0x0b0b_0a0a),
            ("qboot.pci=scan", 0x0b0b_0a0a),
        ] {
            let mut guest = Guest::new(board, capture::device(name), ram_of(name));
            guest.command_line(line.as_bytes());
            guest.kernel(&small_bzimage());
            assert!(guest.run().is_ok(), "{name} {line}");
            let function = guest.machine.io.pci.function(Bdf::on_bus(0, bridge));
            assert_eq!(
                function.map(|f| f.dword(0x60)),
                Some(expected),
                "{name} {line}"
            );
        }
    }
}

/// An MCFG table that names 256 buses, as `etc/acpi/tables`, and the script to load it.
fn mcfg() -> (Vec<u8>, Vec<u8>) {
    const LEN: u8 = 60;
    let mut table = b"MCFG".to_vec();
    table.extend([LEN, 0, 0, 0]);
    table.resize(LEN.into(), 0);
    table[55] = 0xff;
    let name = "etc/acpi/tables";
    let script = [
        loader_command(1, &[name], &[(60, &[16]), (64, &[1])]),
        loader_command(3, &[name], &[(60, &[9]), (68, &[LEN])]),
    ];
    (table, script.concat())
}

/// Whether x2APIC mode is turned on by a boot with this MADT entry.
fn turns_x2apic_on(entry: &[u8], line: &[u8], has_it: bool) -> bool {
    let mut madt = b"APIC".to_vec();
    madt.extend((44 + 8 + entry.len() as u32).to_le_bytes());
    madt.resize(44, 0);
    // A local APIC comes first.
    madt.extend([0, 8, 0, 0, 1, 0, 0, 0]);
    madt.extend(entry);
    let tables = "etc/acpi/tables";
    let len = (madt.len() as u32).to_le_bytes();
    let script = [
        loader_command(1, &[tables], &[(60, &[16]), (64, &[1])]),
        loader_command(3, &[tables], &[(60, &[9]), (68, &len)]),
    ];
    let mut fw_cfg = FakeFwCfg::new();
    fw_cfg.file("etc/e820", &e820(64 << 20));
    fw_cfg.file(tables, &madt);
    fw_cfg.file("etc/table-loader", &script.concat());
    let mut guest = Guest::new(Board::Pc, fw_cfg, 64 << 20);
    guest.machine.cpuid = match has_it {
        true => |leaf, _| [0xd, 0, u32::from(leaf == 1) << 21, 0],
        false => |leaf, _| [0xd, 0, !(1 << 21), leaf],
    };
    guest.command_line(line);
    guest.kernel(&small_bzimage());
    let result = guest.run();
    assert!(result.is_ok(), "{result:?}");
    guest.machine.x2apic
}

#[test]
fn x2apic_is_on_for_ids_that_need_it() {
    let x2apic: [u8; 16] = [9, 16, 0, 0, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    let io_apic = [1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0];
    assert!(turns_x2apic_on(&x2apic, b"", true));
    assert!(turns_x2apic_on(
        &[&io_apic[..], &x2apic].concat(),
        b"",
        true
    ));
    assert!(!turns_x2apic_on(&io_apic, b"", true));
    // An entry without a length ends the list.
    assert!(!turns_x2apic_on(
        &[&[4, 0][..], &x2apic].concat(),
        b"",
        true
    ));
    assert!(!turns_x2apic_on(&x2apic, b"", false), "without x2APIC");
    // Without ACPI the MP table has no room for such ids, so the mode is useless.
    assert!(!turns_x2apic_on(&x2apic, b"acpi=off", true));
}

/// An ELF with one segment at 1 MiB and Linux's notes in it.
fn small_elf() -> Vec<u8> {
    let mut file = std::vec![0; 0x3000];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x01\x01\x01");
    put(0x1c, &52_u32.to_le_bytes());
    put(0x2a, &32_u16.to_le_bytes());
    put(0x2c, &2_u16.to_le_bytes());
    let mut header = |at, fields: [u32; 8]| {
        for (i, field) in fields.iter().enumerate() {
            put(at + 4 * i, &field.to_le_bytes());
        }
    };
    header(
        52,
        [1, 0x1000, 0x10_0000, 0x10_0000, 0x2000, 0x8000, 7, 0x1000],
    );
    header(84, [4, 0x1400, 0x10_0400, 0x10_0400, 44, 44, 4, 4]);
    let mut notes = Vec::new();
    for (kind, desc) in [
        (6_u32, &b"linux\0\0\0"[..]),
        (18, &0x10_0000_u32.to_le_bytes()),
    ] {
        for word in [4, desc.len() as u32, kind] {
            notes.extend(word.to_le_bytes());
        }
        notes.extend(b"Xen\0");
        notes.extend(desc);
    }
    put(0x1400, &notes);
    file
}

#[test]
fn a_long_map_takes_start_info_elsewhere() {
    for holes in [0, 20, 27, 28, 100, 123] {
        let mut guest = Guest::new(Board::Microvm, capture::device("microvm"), 64 << 20);
        // The last boot's content.
        const FREE: PhysRange = layout::LOW_FREE_TOP;
        let free = FREE.start() as usize..FREE.end() as usize;
        guest.machine.memory.bytes[free.clone()].fill(0xa5);
        guest.command_line(b"quiet");
        assert!(guest.elf(&small_elf(), 0x10_0000));
        let mut map = e820(64 << 20);
        for hole in 0..holes {
            map.extend(e820_entry((5 << 30) + (hole << 20), 0x1000, 2));
        }
        let selector = guest.machine.fw_cfg.selector("etc/e820").unwrap();
        guest.machine.fw_cfg.item(selector, &map);
        let mut dir = guest.machine.fw_cfg.data(item::FILE_DIR).to_vec();
        let at = dir.windows(9).position(|name| name == b"etc/e820\0");
        let size = at.unwrap() - 8;
        dir[size..size + 4].copy_from_slice(&(map.len() as u32).to_be_bytes());
        guest.machine.fw_cfg.item(item::FILE_DIR, &dir);
        let result = guest.run();
        assert!(
            matches!(result, Ok(Handoff::Pvh { .. })),
            "{holes}: {result:x?}"
        );
        assert_eq!(guest.check(result), Ok(()), "{holes}");
        let Ok(Handoff::Pvh { start_info, .. }) = result else {
            continue;
        };
        assert_eq!(start_info < 0x9_f000, holes > 27, "{start_info:x}");
        // The next guest gets this memory, which must be zero.
        guest.machine.memory.bytes[free].fill(0);
    }
}

#[test]
fn captured_machines_boot_elf_kernels() {
    for (name, board) in CAPTURES {
        let mut guest = Guest::new(board, capture::device(name), ram_of(name));
        guest.genuine = true;
        guest.command_line(b"root=/dev/vda");
        guest.initrd(&std::vec![7; 4096]);
        assert!(guest.elf(&small_elf(), 0x10_0000));
        let result = guest.run();
        assert!(
            matches!(
                result,
                Ok(Handoff::Pvh {
                    entry: 0x10_0000,
                    ..
                })
            ),
            "{name}: {result:?}"
        );
        assert_eq!(guest.check(result), Ok(()), "{name}");
    }
}

#[test]
fn a_kernel_that_reads_no_map_is_told_of_its_memory() {
    let mut fw_cfg = FakeFwCfg::new();
    fw_cfg.file("etc/e820", &e820(64 << 20));
    let mut guest = Guest::new(Board::Microvm, fw_cfg, 64 << 20);
    guest.kernel(&small_bzimage());
    let Ok(Handoff::Linux { boot_params, .. }) = guest.run() else {
        panic!("no boot");
    };
    let alt_mem_k = PhysRange::fixed(boot_params + 0x1e0, boot_params + 0x1e4);
    let found = u32_at(guest.machine.memory.peek(alt_mem_k), 0);
    assert_eq!(found, Some(63 << 10));
}

/// The oracle has to notice damage.
#[test]
fn the_oracle_sees_damage() {
    let boot = || {
        let mut guest = Guest::new(Board::Pc, capture::device("pc"), 512 << 20);
        guest.genuine = true;
        guest.command_line(b"console=ttyS0");
        guest.initrd(&std::vec![7; 12345]);
        guest.kernel(&small_bzimage());
        let result = guest.run();
        assert_eq!(guest.check(result), Ok(()));
        (guest, result)
    };
    let (_, result) = boot();
    let Ok(Handoff::Linux { boot_params, .. }) = result else {
        panic!("{result:?}");
    };
    let at = |guest: &Guest, offset: u32| {
        let range = PhysRange::fixed(boot_params + offset, boot_params + offset + 4);
        u32_at(guest.machine.memory.peek(range), 0).unwrap()
    };
    // The damaged address, and a word of the oracle's message.
    let kernel = |_: &Guest| 0x10_0010;
    let line = |guest: &Guest| at(guest, 0x228);
    let initrd = |guest: &Guest| at(guest, 0x218) + 12344;
    let rsdp = |guest: &Guest| at(guest, 0x70) + 9;
    let map = |_: &Guest| boot_params + 0x2d0 + 11;
    type Place<'a> = &'a dyn Fn(&Guest) -> u32;
    let damage: [(Place<'_>, &str); 5] = [
        (&kernel, "kernel"),
        (&line, "command line"),
        (&initrd, "initrd"),
        (&rsdp, "RSDP"),
        (&map, "E820"),
    ];
    for (place, word) in damage {
        let (mut guest, result) = boot();
        let at = place(&guest) as usize;
        guest.machine.memory.bytes[at] ^= 0x5a;
        let verdict = guest.check(result).unwrap_err();
        assert!(verdict.contains(word), "{word}: {verdict}");
    }
    // A write elsewhere is reported as memory that nobody owns.
    let (mut guest, result) = boot();
    guest
        .machine
        .memory
        .bytes(PhysRange::fixed(0x180_0000, 0x180_0004))
        .unwrap();
    let verdict = guest.check(result).unwrap_err();
    assert!(verdict.contains("nobody"), "{verdict}");
    // A request for the firmware's own memory is refused and reported.
    assert!(guest.machine.memory.bytes(layout::STACK).is_err());
    assert!(guest.check(Err(Error::NotOurMemory)).is_err());
}

#[test]
fn ram_does_not_reach_into_registers() {
    // QEMU does not say this, but a host might. 32-bit tests lack the memory.
    if usize::BITS < 64 {
        return;
    }
    for (board, end) in [(Board::Q35, 0xb000_0000), (Board::Pc, 0xfec0_0000)] {
        let mut fw_cfg = FakeFwCfg::new();
        fw_cfg.sparse = true;
        fw_cfg.file("etc/e820", &e820_entry(0, 0xffff_f000, 1));
        let mut guest = Guest::new(board, fw_cfg, 0xffff_f000);
        guest.machine.memory.max_written = 1 << 20;
        guest.command_line(b"x");
        guest.initrd(&[1; 4096]);
        assert!(guest.elf(&small_elf(), 0x10_0000));
        let result = guest.run();
        assert_eq!(guest.check(result), Ok(()));
        let touched = guest.machine.memory.touched.iter();
        assert_eq!(touched.map(|r| r.end()).max(), Some(end));
    }
}

#[test]
fn the_log_lists_the_functions_of_every_board() {
    for (name, board, functions) in [
        (
            "pc",
            Board::Pc,
            &["00:00.0 8086:1237", "00:01.0 8086:7000"][..],
        ),
        (
            "q35",
            Board::Q35,
            &["00:00.0 8086:29c0", "00:1f.2 8086:2922"],
        ),
        ("microvm", Board::Microvm, &[]),
    ] {
        let mut guest = Guest::new(board, capture::device(name), ram_of(name));
        guest.machine.fw_cfg.file("opt/org.qboot/log", b"all");
        guest.kernel(&small_bzimage());
        let result = guest.run();
        assert!(result.is_ok(), "{name}: {result:?}");
        let listed: Vec<_> = guest
            .machine
            .printed
            .lines()
            .filter_map(|line| line.strip_prefix("qboot:   function "))
            .collect();
        assert_eq!(listed.is_empty(), functions.is_empty(), "{listed:?}");
        for function in functions {
            let line = listed.iter().find(|line| line.starts_with(function));
            // Its header from the second dword on.
            let line = line.expect(function);
            assert_eq!(line.split(' ').count(), 2 + 15, "{line}");
        }
    }
}
