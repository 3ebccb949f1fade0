//! What a boot decides about buses, and what shows it.

use super::*;
use crate::pci::sim::{Bus, Function};

/// What shows the decisions of a boot.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// What the log says was done about PCI.
    pci: String,
    /// The last bus that the MCFG table names. QEMU's table names all.
    last_bus: u8,
    /// Whether the ECAM is reserved for all.
    all_buses: bool,
    /// Whether there is a 32-bit PCI BIOS.
    pci_bios: bool,
    /// Whether there is an MP table.
    mp_table: bool,
}

/// A boot with this option and command line, on a board with `ports` bridges more. Behind
/// the last of them are those for which bus 0 has no room.
fn boot(board: Board, ports: u16, option: (&str, &str), line: &str) -> Seen {
    let mut fw_cfg = FakeFwCfg::new();
    fw_cfg.file("etc/e820", &e820(64 << 20));
    let (table, script) = mcfg();
    fw_cfg.file("etc/acpi/tables", &table);
    fw_cfg.file("etc/table-loader", &script);
    fw_cfg.file("opt/org.qboot/log", b"all");
    fw_cfg.file(
        &std::format!("opt/org.qboot/{}", option.0),
        option.1.as_bytes(),
    );
    let mut guest = Guest::new(board, fw_cfg, 64 << 20);
    guest.machine.memory.pci_bios = &[0x90; 64];
    let root = guest.machine.io.pci.roots.get_mut(&0).unwrap();
    let bridge = |behind| Function::bridge(0x0001_1b36, behind).multi();
    let bridges = |count| {
        (0..count)
            .map(|devfn| (devfn, bridge(Bus::new())))
            .collect()
    };
    let here = ports.min(100);
    for n in 0..here as u8 {
        let behind = if u16::from(n) + 1 == here {
            ports - here
        } else {
            0
        };
        root.insert(0x10 + n, bridge(bridges(behind as u8)));
    }
    guest.command_line(line.as_bytes());
    guest.kernel(&small_bzimage());
    let result = guest.run();
    assert!(result.is_ok(), "{result:?}");
    let printed = &guest.machine.printed;
    let between = |start, end| {
        let (_, rest) = printed.split_once(start).unwrap();
        let (found, _) = rest.split_once(end).unwrap();
        found.to_string()
    };
    let table = u32::from_str_radix(&between("table MCFG 0x", ","), 16).unwrap();
    let memory = &guest.machine.memory;
    let tables = memory.peek(layout::F_TABLES);
    let has = |signature| tables.chunks(16).any(|line| line.starts_with(signature));
    let mp_table = has(b"_MP_");
    assert_eq!(printed.contains(" ticks, mptable: built\r\n"), mp_table);
    Seen {
        pci: between("pci: ", " for Linux"),
        last_bus: memory.peek(PhysRange::fixed(table, table + 60))[55],
        all_buses: printed.contains("range 0x00000000b0000000-0x00000000c0000000, reserved"),
        pci_bios: has(b"_32_"),
        mp_table,
    }
}

#[test]
fn the_mcfg_table_names_the_buses_that_are_known() {
    for (board, ports, option, line, pci, last_bus, all_buses) in [
        (Board::Q35, 0, ("pci", "auto"), "", "buses", 0, false),
        (Board::Q35, 5, ("pci", "auto"), "", "buses", 5, false),
        (Board::Q35, 70, ("pci", "auto"), "", "buses", 70, true),
        // One of them has no number, so a kernel may look for it.
        (Board::Q35, 256, ("pci", "auto"), "", "buses", 255, true),
        (Board::Q35, 5, ("pci", "full"), "", "full", 5, false),
        (Board::Q35, 5, ("buses", "256"), "", "buses", 255, true),
        (
            Board::Q35,
            5,
            ("buses", "auto"),
            "pci=assign-busses",
            "none",
            255,
            true,
        ),
        (Board::Q35, 5, ("pci", "none"), "", "none", 255, false),
        (Board::Pc, 5, ("pci", "auto"), "", "none", 255, false),
        (Board::Pc, 5, ("pci", "scan"), "", "scan", 5, false),
    ] {
        let seen = boot(board, ports, option, line);
        let found = (&seen.pci[..], seen.last_bus, seen.all_buses);
        assert_eq!(
            found,
            (pci, last_bus, all_buses),
            "{board:?} {ports} {option:?} {line}"
        );
    }
}

#[test]
fn a_kernel_without_acpi_gets_tables_of_its_own() {
    for (board, line, pci_bios, mp_table) in [
        (Board::Q35, "", false, false),
        (Board::Pc, "", false, false),
        (Board::Q35, "acpi=off", true, true),
        (Board::Pc, "acpi=off", true, true),
        (Board::Pc, "pci=noacpi", true, false),
        (Board::Q35, "qboot.pci=scan", true, false),
    ] {
        let seen = boot(board, 1, ("pci", "auto"), line);
        let found = (seen.pci_bios, seen.mp_table);
        assert_eq!(found, (pci_bios, mp_table), "{board:?} {line}");
    }
}
