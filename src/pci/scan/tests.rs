use super::*;
use crate::pci::Access;
use crate::pci::sim::{Bar, Bus, Function as Sim1, Port, Reserve, Sim};
use proptest::prelude::*;
use std::vec::Vec;

const HOST: u32 = 0x29c0_8086;
const NIC: u32 = 0x1000_1af4;

fn scan<C: Config>(config: &mut C, extra_roots: u8, routing: Routing) -> Result<Summary> {
    let mut summary = Summary::default();
    super::scan(config, extra_roots, routing, &mut summary)?;
    Ok(summary)
}

fn number<C: Config>(config: &mut C, routing: Routing) -> Result<Summary> {
    let mut summary = Summary::default();
    super::number(config, routing, &mut summary)?;
    Ok(summary)
}

fn nic() -> Sim1 {
    Sim1::device(NIC, 0x0200).bar(0, Bar::Mem32, 12).pin(1)
}

fn root_port(behind: Bus) -> Sim1 {
    Sim1::port(Port::Root, behind).pin(1)
}

fn dev(device: u8, function: u8) -> u8 {
    device << 3 | function
}

/// Root ports 1 and 2, the second with a switch, a conventional bridge
/// in a bridge at device 30.
fn tree() -> Sim {
    let switch = Sim1::port(
        Port::Upstream,
        Bus::from([
            (
                dev(0, 0),
                Sim1::port(Port::Downstream, Bus::from([(0, nic())])),
            ),
            (dev(1, 0), Sim1::port(Port::Downstream, Bus::new())),
        ]),
    );
    let inner = Sim1::bridge(0x0001_1b36, Bus::from([(dev(3, 0), nic().pin(2))]));
    let outer = Sim1::bridge(0x244e_8086, Bus::from([(dev(5, 0), inner)]));
    Sim::new(Bus::from([
        (0, Sim1::device(HOST, 0x0600)),
        (dev(1, 0), root_port(Bus::from([(0, nic())])).multi()),
        (dev(1, 1), root_port(Bus::from([(0, switch)]))),
        (dev(30, 0), outer),
        (dev(31, 0), Sim1::device(0x2918_8086, 0x0601).multi()),
        (dev(31, 2), Sim1::device(0x2922_8086, 0x0106).pin(1)),
    ]))
}

fn buses(sim: &mut Sim, bus: u8, devfn: u8) -> [u8; 3] {
    let function = sim.function(Bdf::on_bus(bus, devfn)).unwrap();
    let [primary, secondary, subordinate, _] = function.dword(0x18).to_le_bytes();
    [primary, secondary, subordinate]
}

fn line(sim: &mut Sim, bus: u8, devfn: u8) -> u8 {
    let function = sim.function(Bdf::on_bus(bus, devfn)).unwrap();
    function.dword(0x3c).to_le_bytes()[0]
}

#[test]
fn bridges_are_numbered_depth_first() {
    let mut sim = tree();
    let summary = scan(&mut sim, 0, Routing::Ich9).unwrap();
    assert_eq!(summary.last_bus, 7);
    assert_eq!(summary.functions, 13);
    assert_eq!(buses(&mut sim, 0, dev(1, 0)), [0, 1, 1]);
    assert_eq!(buses(&mut sim, 0, dev(1, 1)), [0, 2, 5]);
    assert_eq!(buses(&mut sim, 2, 0), [2, 3, 5]);
    assert_eq!(buses(&mut sim, 3, dev(0, 0)), [3, 4, 4]);
    assert_eq!(buses(&mut sim, 3, dev(1, 0)), [3, 5, 5]);
    assert_eq!(buses(&mut sim, 0, dev(30, 0)), [0, 6, 7]);
    assert_eq!(buses(&mut sim, 6, dev(5, 0)), [6, 7, 7]);
}

#[test]
fn every_mechanism_leaves_the_same() {
    let mut direct = tree();
    scan(&mut direct, 0, Routing::Ich9).unwrap();
    let mut ports = tree();
    scan(&mut Access::cam(&mut ports), 0, Routing::Ich9).unwrap();
    let mut memory = tree();
    memory.ecam = Some(0xb000_0000);
    scan(
        &mut Access::ecam(&mut memory, 0xb000_0000, 255),
        0,
        Routing::Ich9,
    )
    .unwrap();
    assert_eq!(memory.accesses, direct.accesses);
    assert!(ports.accesses < 2 * direct.accesses);
    for (bus, devfn) in [
        (0, 8),
        (0, 9),
        (2, 0),
        (3, 0),
        (3, 8),
        (6, 40),
        (7, 24),
        (4, 0),
    ] {
        let bdf = Bdf::on_bus(bus, devfn);
        for at in [0x18, 0x3c] {
            let expected = direct.function(bdf).unwrap().dword(at);
            assert_eq!(ports.function(bdf).unwrap().dword(at), expected);
            assert_eq!(memory.function(bdf).unwrap().dword(at), expected);
        }
    }
}

#[test]
fn interrupt_lines_follow_the_swizzle() {
    let mut sim = tree();
    scan(&mut sim, 0, Routing::Ich9).unwrap();
    // INTA# of device 31 is PIRQA.
    assert_eq!(line(&mut sim, 0, dev(31, 2)), 10);
    // Device 1, INTA#: PIRQF.
    assert_eq!(line(&mut sim, 0, dev(1, 0)), 10);
    // INTA# of device 0 behind device 1: PIRQF again.
    assert_eq!(line(&mut sim, 1, 0), 10);
    // INTB# of device 3 behind device 5 behind device 30:
    // 1 + 3 + 5 = 9, INTB# of device 30, PIRQF.
    assert_eq!(line(&mut sim, 7, dev(3, 0)), 10);
    let mut sim = tree();
    scan(&mut sim, 0, Routing::Piix).unwrap();
    // Device 1 starts at PIRQA, device 31 at PIRQC.
    assert_eq!(line(&mut sim, 0, dev(1, 0)), 10);
    assert_eq!(line(&mut sim, 0, dev(31, 2)), 11);
    // 1 + 3 + 5 + 30 - 1 = 38: PIRQC.
    assert_eq!(line(&mut sim, 7, dev(3, 0)), 11);
}

#[test]
fn global_interrupts() {
    assert_eq!(Routing::Piix.gsi(0, 3, 0), 11);
    assert_eq!(Routing::Ich9.gsi(0, 31, 1), 17);
    assert_eq!(Routing::Ich9.gsi(0, 30, 1), 21);
    assert_eq!(Routing::Ich9.gsi(0, 2, 3), 21);
    assert_eq!(Routing::Ich9.gsi(0x40, 31, 1), 20);
    assert_eq!(Routing::Gpex(16).gsi(0, 2, 1), 19);
}

#[test]
fn a_port_is_asked_for_one_device_only() {
    let mut sim = Sim::new(Bus::from([(8, root_port(Bus::new()))]));
    scan(&mut sim, 0, Routing::Ich9).unwrap();
    // 32 ids; header, pin and line, capabilities, COMMAND, numbers, and the one behind.
    assert_eq!(sim.accesses, 32 + 1 + 2 + 2 + 1 + 1 + 1);
}

/// Linux does not switch SERR# on. Devices on bus 0 have no root port to report to.
/// Bridges are masters, devices are not.
#[test]
fn bridges_and_what_is_behind_them_report_errors() {
    for walk in [
        |sim: &mut Sim| number(sim, Routing::Ich9),
        |sim: &mut Sim| scan(sim, 0, Routing::Ich9),
    ] {
        let bridge = Sim1::bridge(0x0001_1b36, Bus::new());
        let switch = Sim1::port(Port::Upstream, Bus::from([(0, nic()), (8, bridge)]));
        let port = root_port(Bus::from([(0, switch)]));
        let mut sim = Sim::new(Bus::from([(8, port), (16, nic())]));
        walk(&mut sim).unwrap();
        let at = [(0, 1), (1, 0), (2, 0), (2, 1), (0, 2)];
        let found = at.map(|(bus, device)| {
            let function = sim.function(Bdf::new(bus, device, 0)).unwrap();
            function.dword(0x04) & 0xffff
        });
        assert_eq!(found, [0x104, 0x104, 0x100, 0x104, 0]);
    }
}

#[test]
fn reserved_buses_stay_free() {
    let reserve = |buses| Reserve {
        buses: Some(buses),
        ..Reserve::default()
    };
    let mut sim = Sim::new(Bus::from([
        (dev(1, 0), root_port(Bus::new()).reserve(reserve(3))),
        (dev(2, 0), root_port(Bus::new()).reserve(reserve(255))),
        (dev(3, 0), root_port(Bus::new())),
    ]));
    let summary = scan(&mut sim, 0, Routing::Ich9).unwrap();
    assert_eq!(buses(&mut sim, 0, dev(1, 0)), [0, 1, 4]);
    assert_eq!(buses(&mut sim, 0, dev(2, 0)), [0, 5, 5]);
    assert_eq!(buses(&mut sim, 0, dev(3, 0)), [0, 6, 6]);
    assert_eq!(summary.last_bus, 6);
}

#[test]
fn expanders_are_found_and_kept_apart() {
    let expander = Bus::from([(
        0,
        Sim1::bridge(0x0001_1b36, Bus::from([(dev(2, 0), nic())])),
    )]);
    let late = Bus::from([(dev(7, 0), root_port(Bus::from([(0, nic())])))]);
    let mut sim = tree().root(0x40, expander).root(0xf0, late);
    let summary = scan(&mut sim, 2, Routing::Ich9).unwrap();
    assert_eq!(summary.roots.iter().collect::<Vec<_>>(), [0, 0x40, 0xf0]);
    assert_eq!(buses(&mut sim, 0x40, 0), [0x40, 0x41, 0x41]);
    assert_eq!(buses(&mut sim, 0xf0, dev(7, 0)), [0xf0, 0xf1, 0xf1]);
    assert_eq!(summary.last_bus, 0xf1);
    // Behind an expander nothing adds the expander's own device number.
    assert_eq!(
        line(&mut sim, 0x41, dev(2, 0)),
        Routing::Ich9.line(0x40, 0, 2)
    );
}

#[test]
fn a_root_never_numbers_into_the_next() {
    let ports = |n: u8| -> Bus {
        (1..=n)
            .map(|i| (dev(i, 0), root_port(Bus::new())))
            .collect()
    };
    let mut sim = Sim::new(ports(9)).root(5, Bus::from([(0, nic().pin(3))]));
    let summary = scan(&mut sim, 1, Routing::Ich9).unwrap();
    assert_eq!(summary.unnumbered, 5);
    assert!(summary.first_unnumbered.is_some());
    assert_eq!(buses(&mut sim, 0, dev(4, 0)), [0, 4, 4]);
    assert_eq!(buses(&mut sim, 0, dev(5, 0)), [0, 0, 0]);
    assert_eq!(line(&mut sim, 5, 0), 11);
}

#[test]
fn legacy_devices() {
    let ide = |id| Sim1::device(id, 0x0101).scratch(0x40, 4).pin(1);
    let native = ide(0x0646_1095)
        .bar(0, Bar::Io, 3)
        .bar(1, Bar::Io, 2)
        .bar(2, Bar::Io, 3)
        .bar(3, Bar::Io, 2);
    let mut sim = Sim::new(Bus::from([
        (dev(1, 0), Sim1::device(0x7000_8086, 0x0601).multi()),
        (dev(1, 1), ide(PIIX3_IDE)),
        (dev(1, 3), Sim1::device(PIIX4_PM, 0x0680).pin(1)),
        (dev(4, 0), native),
    ]));
    scan(&mut sim, 0, Routing::Piix).unwrap();
    assert_eq!(line(&mut sim, 0, dev(1, 3)), 9);
    let piix = sim.function(Bdf::new(0, 1, 1)).unwrap();
    assert_eq!(piix.dword(0x40), 0x8000_8000);
    let native = sim.function(Bdf::new(0, 4, 0)).unwrap();
    assert_eq!(native.dword(0x10), 0x1f1);
    assert_eq!(native.dword(0x1c), 0x375);
    assert_eq!(native.dword(0x40), 0);
}

/// Answers every read with what a function of address and count gives.
struct Garbage<F: FnMut(Bdf, u16) -> u32>(F, usize);

impl<F: FnMut(Bdf, u16) -> u32> Config for Garbage<F> {
    fn read32(&mut self, bdf: Bdf, register: u16) -> u32 {
        self.1 = self.1.wrapping_add(1);
        (self.0)(bdf, register)
    }
    fn write16(&mut self, _: Bdf, _: u16, _: u16) {}
    fn write32(&mut self, _: Bdf, _: u16, _: u32) {}
}

#[test]
fn a_tree_without_end_ends() {
    // Every function of every bus is a bridge, with a looping
    // capability list.
    let mut config = Garbage(
        |_, register| match register {
            0x0c => 0x0081_0000,
            0x34 => 0x40,
            0x40 => 0x4001,
            _ => 0x0001_1b36,
        },
        0,
    );
    let summary = scan(&mut config, 255, Routing::Ich9).unwrap();
    assert_eq!(summary.roots.iter().count(), 256);
    assert!(config.1 < 65536 * 60);
    let summary = scan(&mut config, 0, Routing::Ich9).unwrap();
    assert_eq!(summary.last_bus, 255);
}

#[test]
fn nobody_there() {
    let mut config = Garbage(|_, _| u32::MAX, 0);
    let summary = scan(&mut config, 0, Routing::Ich9).unwrap();
    assert_eq!((summary.functions, config.1), (0, 32));
    let mut config = Garbage(|_, _| 0, 0);
    assert_eq!(scan(&mut config, 1, Routing::Ich9).unwrap().functions, 0);
    assert_eq!(config.1, 32 * 255 + 32);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]
    #[test]
    fn garbage_terminates(seed: u64, roots: u8) {
        let mut state = seed | 1;
        let mut config = Garbage(|_, _| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            u32::try_from(state >> 32).unwrap()
        }, 0);
        scan(&mut config, roots, Routing::Piix).unwrap();
        prop_assert!(config.1 < 65536 * 60 + 32 * 255);
    }
}

/// Root ports 1 and 2, the second with a switch; no device is touched.
#[test]
fn buses_alone_are_numbered_by_reads_of_header_types() {
    let (mut numbered, mut scanned) = (tree(), tree());
    let first = number(&mut numbered, Routing::Ich9).unwrap();
    let second = scan(&mut scanned, 0, Routing::Ich9).unwrap();
    assert_eq!(
        (first.last_bus, first.functions),
        (second.last_bus, second.functions)
    );
    for (bus, devfn) in [(0, 8), (0, 9), (2, 0), (3, dev(0, 0)), (0, dev(30, 0))] {
        assert_eq!(
            buses(&mut numbered, bus, devfn),
            buses(&mut scanned, bus, devfn)
        );
    }
    assert_eq!(line(&mut numbered, 1, 0), 0, "an interrupt line is set");
    assert!(numbered.accesses < scanned.accesses);
}

/// What an empty Q35 costs: 30 slots and seven functions of device 31.
#[test]
fn an_empty_q35_is_looked_through_in_37_reads() {
    let mut sim = Sim::new(Bus::from([
        (0, Sim1::device(HOST, 0x0600)),
        (dev(31, 0), Sim1::device(0x2918_8086, 0x0601).multi()),
        (dev(31, 2), Sim1::device(0x2922_8086, 0x0106)),
    ]));
    let summary = number(&mut sim, Routing::Ich9).unwrap();
    assert_eq!((summary.last_bus, summary.functions), (0, 3));
    assert_eq!(sim.accesses, 37);
}

/// A bridge hides in any function, of the chipset's own device too.
#[test]
fn a_bridge_in_any_function_is_numbered() {
    for (devfn, first) in [
        (dev(31, 4), None),
        (dev(31, 2), None),
        (dev(5, 3), Some(dev(5, 0))),
    ] {
        let mut bus = Bus::from([
            (0, Sim1::device(HOST, 0x0600)),
            (dev(31, 0), Sim1::device(0x2918_8086, 0x0601).multi()),
            (devfn, root_port(Bus::from([(0, nic())]))),
        ]);
        if let Some(first) = first {
            bus.insert(first, nic().multi());
        }
        let mut sim = Sim::new(bus);
        assert_eq!(
            number(&mut sim, Routing::Ich9).unwrap().last_bus,
            1,
            "{devfn:x}"
        );
        assert_eq!(buses(&mut sim, 0, devfn), [0, 1, 1]);
    }
}

/// Beyond bus 63 the ECAM is made larger, and not before.
#[test]
fn more_than_64_buses_are_reached() {
    for ports in [63_u8, 64, 72] {
        let mut root = Bus::from([(0, Sim1::device(HOST, 0x0600).scratch(0x60, 4))]);
        for n in 0..ports {
            let port = root_port(Bus::from([(0, nic())])).multi();
            root.insert(8 + n, port);
        }
        let mut sim = Sim::new(root);
        sim.ecam = Some(0xb000_0000);
        let mut config = Access::ecam(&mut sim, 0xb000_0000, 63);
        assert_eq!(number(&mut config, Routing::Ich9).unwrap().last_bus, ports);
        let pciexbar = sim.function(Bdf::default()).unwrap().dword(0x60);
        assert_eq!(pciexbar, if ports > 63 { 0xb000_0001 } else { 0 });
    }
}

/// A device's first function has number 0, also behind one with several.
#[test]
fn a_function_without_function_0_is_none() {
    let mut sim = Sim::new(Bus::from([
        (dev(1, 0), nic().multi()),
        (dev(1, 1), nic()),
        (dev(2, 1), nic()),
        (dev(3, 0), nic()),
    ]));
    let summary = scan(&mut sim, 0, Routing::Ich9).unwrap();
    assert_eq!(summary.functions, 3);
    assert_eq!(line(&mut sim, 0, dev(2, 1)), 0);
}

#[test]
fn no_more_roots_are_taken_than_there_are() {
    for extra in 0..=3 {
        let mut sim = Sim::new(Bus::new());
        for root in [0x20, 0x40, 0x60] {
            sim = sim.root(root, Bus::from([(0, nic())]));
        }
        let summary = scan(&mut sim, extra, Routing::Ich9).unwrap();
        let roots: Vec<_> = summary.roots.iter().collect();
        assert_eq!(roots, [0, 0x20, 0x40, 0x60][..=usize::from(extra)]);
    }
}

/// The line is set; pin, bridge control and what a device has in its place stay.
#[test]
fn an_interrupt_line_leaves_the_other_bytes() {
    const PIIX4_PM: u32 = 0x7113_8086;
    let old = |pin: u8| [0xff, pin, 0x34, 0x12];
    let device = |id| Sim1::device(id, 0x0200).scratch(0x3c, 4);
    let bridge = Sim1::bridge(0x0001_1b36, Bus::new()).scratch(0x3c, 4);
    let mut sim = Sim::new(Bus::from([
        (dev(1, 0), device(NIC).preset(0x3c, &old(1))),
        (dev(2, 0), device(PIIX4_PM).preset(0x3c, &old(1))),
        (dev(3, 0), device(NIC).preset(0x3c, &old(0))),
        (dev(4, 0), bridge.preset(0x3c, &old(1))),
    ]));
    scan(&mut sim, 0, Routing::Ich9).unwrap();
    let found = [1, 2, 3, 4].map(|at| sim.function(Bdf::new(0, at, 0)).unwrap().dword(0x3c));
    // SERR# is reported by the bridge.
    assert_eq!(found, [0x1234_010a, 0x1234_0109, 0x1234_00ff, 0x1236_010a]);
}
