//! What is printed, in full.

use super::*;
use crate::log::warn;
use crate::pci::{Summary, Unplaced};

/// What a boot prints, with a log of this kind. The machine has every type of memory, a
/// table of ACPI's, an initrd, and names that are not known.
fn printed(log: &[u8]) -> String {
    let mut fw_cfg = FakeFwCfg::new();
    let mut map = e820(64 << 20);
    for (kind, base) in [
        (2, 0xfeff_c000),
        (3, 0xff00_0000),
        (4, 0xff01_0000),
        (7, 1 << 40),
    ] {
        map.extend(e820_entry(base, 0x1000, kind));
    }
    fw_cfg.file("etc/e820", &map);
    let (table, script) = mcfg();
    fw_cfg.file("etc/acpi/tables", &table);
    fw_cfg.file("etc/table-loader", &script);
    fw_cfg.file("opt/org.qboot/pcie", b"full");
    fw_cfg.file("opt/org.qboot/log", log);
    let mut guest = Guest::new(Board::Q35, fw_cfg, 64 << 20);
    for devices in guest.machine.io.pci.roots.values_mut() {
        devices.retain(|devfn, _| [0, 0xf8].contains(devfn));
    }
    guest.command_line(b"quiet qboot.log=all");
    guest.initrd(&[7; 12345]);
    guest.kernel(&small_bzimage());
    let result = guest.run();
    assert!(result.is_ok(), "{result:?}");
    guest.machine.printed.replace("\r\n", "\n")
}

/// The simulated time is the number of bytes printed.
const ALL: &str = "\
qboot: 0 ticks, machine: Q35, 5 files
qboot:   unknown option opt/org.qboot/pcie
qboot:   file etc/e820, 100 bytes
qboot:   file etc/acpi/tables, 60 bytes
qboot:   file etc/table-loader, 256 bytes
qboot:   file opt/org.qboot/pcie, 4 bytes
qboot:   file opt/org.qboot/log, 3 bytes
qboot: 248 ticks, e820: 9 entries, 64 MiB
qboot:   range 0x0000000000000000-0x000000000009fc00, RAM
qboot:   range 0x000000000009fc00-0x00000000000a0000, reserved
qboot:   range 0x00000000000f0000-0x0000000000100000, reserved
qboot:   range 0x0000000000100000-0x0000000004000000, RAM
qboot:   range 0x00000000b0000000-0x00000000b4000000, reserved
qboot:   range 0x00000000feffc000-0x00000000feffd000, reserved
qboot:   range 0x00000000ff000000-0x00000000ff001000, ACPI data
qboot:   range 0x00000000ff010000-0x00000000ff011000, ACPI NVS
qboot:   range 0x0000010000000000-0x0000010000001000, of another type
qboot: 574 ticks, kernel: bzImage, protocol 0x0000020f, at 0x00100000-0x00104000
qboot:   command line quiet qboot.log=all
qboot: 43 ticks, pci: buses for Linux with ACPI, 2 functions, last bus 0
qboot:   unknown parameter qboot.log=all
qboot:   function 00:00.0 8086:29c0 00000000 06000000 00000000 00000000 00000000 00000000 \
00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
qboot:   function 00:1f.0 8086:2918 00000000 06010000 00800000 00000000 00000000 00000000 \
00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
qboot: 386 ticks, acpi: 1 tables, RSDP 0x00000000
qboot:   table MCFG 0x03fff000, 60 bytes
qboot: 42 ticks, smbios: entry point 0x000ffc60
qboot: 0 ticks, loaded: entry 0x00100000, zero page 0x0009ec00, initrd 0x03ffb000, 12345 bytes
qboot:   range 0x0000000000000000-0x000000000009fc00, RAM
qboot:   range 0x000000000009fc00-0x00000000000a0000, reserved
qboot:   range 0x00000000000f0000-0x0000000000100000, reserved
qboot:   range 0x0000000000100000-0x0000000003fff000, RAM
qboot:   range 0x0000000003fff000-0x0000000004000000, reserved
qboot:   range 0x00000000b0000000-0x00000000b4000000, reserved
qboot:   range 0x00000000feffc000-0x00000000feffd000, reserved
qboot:   range 0x00000000ff000000-0x00000000ff001000, ACPI data
qboot:   range 0x00000000ff010000-0x00000000ff011000, ACPI NVS
qboot:   range 0x0000010000000000-0x0000010000001000, of another type
qboot:   taken 0x00100000-0x01800000
qboot:   taken 0x0009e400-0x0009fc00
qboot:   taken 0x03fff000-0x04000000
qboot:   taken 0x03ffb000-0x03ffe039
";

#[test]
fn each_kind_of_log_is_printed_in_full() {
    assert_eq!(printed(b"off"), "");
    assert_eq!(printed(b"all"), ALL);
    // The times without those of the details.
    let steps = ALL
        .lines()
        .filter_map(|line| match line.split_once(" ticks, ") {
            Some((_, step)) => Some(step),
            None => line.contains("unknown").then_some(line),
        });
    let printed = printed(b"steps");
    let lines = printed.lines();
    let lines = lines.map(|line| line.split_once(" ticks, ").map_or(line, |(_, step)| step));
    assert!(lines.eq(steps), "{printed}");
}

#[test]
fn the_log_names_what_each_kernel_is_entered_at() {
    let last = |mut guest: Guest| {
        guest.machine.fw_cfg.file("opt/org.qboot/log", b"steps");
        let result = guest.run();
        assert!(result.is_ok(), "{result:?}");
        let printed = guest.machine.printed;
        let named = |name| {
            let line = printed.lines().find(|line| line.contains(name));
            let (_, rest) = line.unwrap().split_once(" ticks, ").unwrap();
            rest.to_owned()
        };
        [named("kernel: "), named("pci: "), named("loaded: ")]
    };
    let guest = || {
        let mut fw_cfg = FakeFwCfg::new();
        fw_cfg.file("etc/e820", &e820(64 << 20));
        Guest::new(Board::Microvm, fw_cfg, 64 << 20)
    };
    let mut real_mode = guest();
    real_mode.machine.fw_cfg.file("opt/org.qboot/entry", b"16");
    real_mode.command_line(b"acpi=off qboot.pci=none");
    real_mode.kernel(&small_bzimage());
    assert_eq!(
        last(real_mode),
        [
            "kernel: 16-bit, protocol 0x0000020f, at 0x00100000-0x00104000",
            "pci: none for Linux without ACPI",
            "loaded: entry 0x00010200, setup code 0x00010000",
        ]
    );
    let mut pvh = guest();
    pvh.command_line(b"");
    assert!(pvh.elf(&small_elf(), 0x10_0000));
    assert_eq!(
        last(pvh),
        [
            "kernel: PVH, entry 0x00100000, at 0x00100000-0x00108000",
            "pci: scan for Linux without ACPI, 0 functions, last bus 0",
            "loaded: entry 0x00100000, start_info 0x0009f8a0",
        ]
    );
}

#[test]
fn warnings_give_the_size_in_its_unit() {
    for (order, size) in [(5, "32"), (12, "4 KiB"), (25, "32 MiB"), (38, "256 GiB")] {
        let mut machine = Machine::default();
        let first = Unplaced {
            bdf: Bdf::new(1, 2, 3),
            bar: 4,
            order,
        };
        let summary = Summary {
            unplaced: 3,
            first_unplaced: Some(first),
            unnumbered: 2,
            first_unnumbered: Some(Bdf::new(5, 6, 7)),
            ..Summary::default()
        };
        warn(&mut machine, &summary);
        let lines: Vec<_> = machine.printed.split("\r\n").collect();
        let [unplaced, unnumbered, ""] = lines[..] else {
            panic!("{lines:?}");
        };
        let end = std::format!(" (3, the first 01:02.3 BAR 4 of {size})");
        assert!(unplaced.starts_with("qboot: warning 43: ") && unplaced.ends_with(&end));
        let end = " (2, the first 05:06.7)";
        assert!(unnumbered.starts_with("qboot: warning 44: ") && unnumbered.ends_with(end));
    }
    let mut machine = Machine::default();
    warn(&mut machine, &Summary::default());
    assert_eq!(machine.printed, "");
}
