mod check;
mod command;
mod properties;

use super::*;
use crate::error::Error;
use crate::pci::Bdf;
use crate::pci::sim::{
    Bar, Bus, Function as SimFunction, Mapping, Port, Reserve, Sim, Span, io_window, mem_window,
    pref_window,
};
use check::check;
use std::vec;
use std::vec::Vec;

const VIRTIO: u32 = 0x1041_1af4;

fn full<C: Config>(
    config: &mut C,
    extra_roots: u8,
    routing: Routing,
    apertures: &Apertures,
    scratch: &mut [u8],
) -> Result<Summary> {
    let mut summary = Summary::default();
    super::full(
        config,
        extra_roots,
        routing,
        apertures,
        scratch,
        &mut summary,
    )?;
    Ok(summary)
}

fn dev(device: u8) -> u8 {
    device << 3
}

fn virtio() -> SimFunction {
    SimFunction::device(VIRTIO, 0x0200)
        .bar(1, Bar::Mem32, 12)
        .bar(4, Bar::Pref64, 14)
        .rom(18)
        .pin(1)
}

/// A root port as QEMU has it on q35: an MSI-X BAR, 4 KiB of ports.
fn root_port(behind: Bus) -> SimFunction {
    SimFunction::port(Port::Root, behind)
        .bar(0, Bar::Mem32, 12)
        .pin(1)
        .reserve(Reserve {
            io: Some(4096),
            ..Reserve::default()
        })
}

fn q35_apertures() -> Apertures {
    Apertures::q35(0x2000_0000, 0, 40)
}

fn run(sim: &mut Sim, extra: u8, apertures: &Apertures) -> Summary {
    let mut scratch = vec![0xa5; 0x4_0000];
    full(sim, extra, Routing::Ich9, apertures, &mut scratch).unwrap()
}

fn mapping(sim: &Sim, bdf: Bdf, bar: u8) -> Mapping {
    let all = sim.mappings();
    *all.iter()
        .find(|m| m.bdf == bdf && m.bar == bar)
        .unwrap_or_else(|| panic!("{bdf:?} {bar} in {all:#x?}"))
}

#[test]
fn a_device_gets_all_it_asks_for() {
    let mut sim = Sim::new(Bus::from([(dev(2), virtio().bar(0, Bar::Io, 5))]));
    let summary = run(&mut sim, 0, &q35_apertures());
    assert_eq!(summary.unplaced, 0);
    check(&sim, &q35_apertures());
    let function = sim.function(Bdf::new(0, 2, 0)).unwrap();
    assert_eq!(function.dword(4) & 0xffff, 0x103);
    assert_eq!(function.dword(0x10), 0xc001);
    // The ROM, 256 KiB, first; the three fill the room to the I/O APIC.
    assert_eq!(function.dword(0x30), 0xfeb8_0000);
    assert_eq!(function.dword(0x20), 0xfebc_000c);
    assert_eq!(function.dword(0x14), 0xfebc_4000);
}

#[test]
fn a_64_gib_bar_works_on_both_machines() {
    let gpu = || {
        SimFunction::device(0x1234_10de, 0x0302)
            .bar(0, Bar::Mem32, 24)
            .bar(1, Bar::Pref64, 36)
            .bar(3, Bar::Pref64, 25)
    };
    for apertures in [
        Apertures::i440fx(0xc000_0000, 0x1_8000_0000, 40),
        Apertures::q35(0x8000_0000, 0, 40),
    ] {
        let mut sim = Sim::new(Bus::from([
            (dev(2), gpu()),
            (dev(3), root_port(Bus::from([(0, gpu())]))),
        ]));
        assert_eq!(run(&mut sim, 0, &apertures).unplaced, 0);
        check(&sim, &apertures);
        for bdf in [Bdf::new(0, 2, 0), Bdf::new(1, 0, 0)] {
            let start = mapping(&sim, bdf, 1).span.start;
            assert!(start >= apertures.mem64().start);
        }
        // What fits below stays below.
        assert!(mapping(&sim, Bdf::new(0, 2, 0), 3).span.end < 1 << 32);
    }
}

#[test]
fn a_64_gib_bar_without_prefetch_works_behind_a_port() {
    let device = SimFunction::device(VIRTIO, 0x0500).bar(2, Bar::Mem64, 36);
    let mut sim = Sim::new(Bus::from([(dev(3), root_port(Bus::from([(0, device)])))]));
    assert_eq!(run(&mut sim, 0, &q35_apertures()).unplaced, 0);
    check(&sim, &q35_apertures());
}

#[test]
fn twenty_root_ports_cost_less_than_a_plain_scan_of_qboot() {
    let mut bus: Bus = (1..=20)
        .map(|device| (dev(device), root_port(Bus::new())))
        .collect();
    bus.insert(dev(0), SimFunction::device(0x29c0_8086, 0x0600));
    bus.insert(dev(31), SimFunction::device(0x2918_8086, 0x0601).multi());
    bus.insert(
        dev(31) | 2,
        SimFunction::device(0x2922_8086, 0x0106)
            .bar(4, Bar::Io, 5)
            .bar(5, Bar::Mem32, 12)
            .pin(1),
    );
    bus.insert(
        dev(31) | 3,
        SimFunction::device(0x2930_8086, 0x0c05)
            .bar(4, Bar::Io, 6)
            .pin(1),
    );
    let mut sim = Sim::new(bus);
    let summary = run(&mut sim, 0, &q35_apertures());
    assert_eq!(summary.unplaced, 0);
    assert!(sim.accesses <= 1_000, "{}", sim.accesses);
    check(&sim, &q35_apertures());
    // There is room for 14 times 4 KiB, and the devices need some of
    // it; all have memory.
    let ports = &sim.roots[&0];
    let with = |window: fn(&SimFunction) -> Span| {
        ports
            .values()
            .filter(|f| f.behind().is_some() && window(f).start <= window(f).end)
            .count()
    };
    assert_eq!(with(io_window), 13);
    assert_eq!(with(mem_window), 20);
    assert_eq!(with(pref_window), 20);
}

#[test]
fn hot_plug_slots_get_room() {
    let mut sim = Sim::new(Bus::from([
        (dev(1), SimFunction::port(Port::Root, Bus::new())),
        (dev(2), SimFunction::bridge(0x0001_1b36, Bus::new()).shpc()),
        (dev(3), SimFunction::bridge(0x0001_1b36, Bus::new())),
    ]));
    run(&mut sim, 0, &q35_apertures());
    let size = |window: Span| (window.end + 1).saturating_sub(window.start);
    let sizes = |sim: &mut Sim, device| {
        let f = sim.function(Bdf::new(0, device, 0)).unwrap();
        (
            size(io_window(f)),
            size(mem_window(f)),
            size(pref_window(f)),
        )
    };
    assert_eq!(sizes(&mut sim, 1), (0, 2 << 20, 2 << 20));
    assert_eq!(sizes(&mut sim, 2), (4096, 2 << 20, 2 << 20));
    assert_eq!(sizes(&mut sim, 3), (0, 0, 0));
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one machine, looked at from all sides"
)]
fn reservations_are_honoured() {
    let port = |reserve| SimFunction::port(Port::Root, Bus::new()).reserve(reserve);
    let inner = port(Reserve {
        pref64: Some(3 << 30),
        ..Reserve::default()
    });
    let switch = SimFunction::port(Port::Upstream, Bus::from([(0, inner)]));
    let mut sim = Sim::new(Bus::from([
        (
            dev(1),
            port(Reserve {
                pref64: Some(64 << 30),
                mem: Some(5 << 20),
                io: Some(8192),
                ..Reserve::default()
            }),
        ),
        (
            dev(2),
            port(Reserve {
                pref32: Some(32 << 20),
                ..Reserve::default()
            }),
        ),
        (
            dev(3),
            SimFunction::port(Port::Root, Bus::from([(0, switch)])),
        ),
        (
            dev(4),
            port(Reserve {
                pref64: Some(u64::MAX - 1),
                mem: Some(u32::MAX - 1),
                io: Some(1 << 40),
                ..Reserve::default()
            }),
        ),
        (
            dev(5),
            port(Reserve {
                pref64: Some(4 << 20),
                ..Reserve::default()
            }),
        ),
    ]));
    run(&mut sim, 0, &q35_apertures());
    check(&sim, &q35_apertures());
    let f = |device| &sim.roots[&0][&dev(device)];
    assert_eq!(
        pref_window(f(1)).end - pref_window(f(1)).start,
        (64 << 30) - 1
    );
    assert_eq!(mem_window(f(1)).end - mem_window(f(1)).start, (5 << 20) - 1);
    assert_eq!(io_window(f(1)).end - io_window(f(1)).start, 8191);
    assert_eq!(
        pref_window(f(2)).end - pref_window(f(2)).start,
        (32 << 20) - 1
    );
    assert!(pref_window(f(2)).end < 1 << 32);
    assert!(pref_window(f(3)).start >= 1 << 32);
    assert!(pref_window(f(3)).end - pref_window(f(3)).start >= (3 << 30) - 1);
    // Nonsense is as if nothing had been said.
    assert!(pref_window(f(4)).start > pref_window(f(4)).end);
    // Asked for 64 bits, gets them.
    assert!(pref_window(f(5)).start >= 1 << 32);
}

#[test]
fn absurd_bars_leave_the_others_alone() {
    let mut sim = Sim::new(Bus::from([
        (dev(1), virtio()),
        (
            dev(2),
            SimFunction::device(VIRTIO, 0x0200).bar(0, Bar::Pref64, 62),
        ),
        (
            dev(3),
            SimFunction::device(VIRTIO, 0x0200).bar(0, Bar::Mem32, 31),
        ),
        (
            dev(4),
            SimFunction::device(VIRTIO, 0x0200)
                .bar(0, Bar::Io, 20)
                .bar(1, Bar::Mem32, 12),
        ),
    ]));
    let summary = run(&mut sim, 0, &q35_apertures());
    assert_eq!(summary.unplaced, 3);
    check(&sim, &q35_apertures());
    let command =
        |sim: &mut Sim, device| sim.function(Bdf::new(0, device, 0)).unwrap().dword(4) & 7;
    assert_eq!(command(&mut sim, 1), 2);
    assert_eq!(command(&mut sim, 2), 0);
    assert_eq!(command(&mut sim, 3), 0);
    // Its memory works without its ports.
    assert_eq!(command(&mut sim, 4), 2);
}

#[test]
fn too_much_drops_the_largest() {
    let big = || SimFunction::device(VIRTIO, 0x0200).bar(0, Bar::Mem32, 28);
    let mut bus: Bus = (1..=5).map(|device| (dev(device), big())).collect();
    bus.insert(dev(9), virtio());
    let mut sim = Sim::new(bus);
    assert_eq!(run(&mut sim, 0, &q35_apertures()).unplaced, 5);
    check(&sim, &q35_apertures());
    assert!(mapping(&sim, Bdf::new(0, 9, 0), 1).reachable);
}

#[test]
fn expanders_share_the_apertures() {
    let expander = Bus::from([(
        0,
        SimFunction::bridge(0x0001_1b36, Bus::from([(dev(2), virtio())])),
    )]);
    let mut sim = Sim::new(Bus::from([(dev(1), virtio())])).root(0x80, expander);
    assert_eq!(run(&mut sim, 1, &q35_apertures()).unplaced, 0);
    check(&sim, &q35_apertures());
    assert!(mapping(&sim, Bdf::new(0x81, 2, 0), 4).reachable);
}

#[test]
fn legacy_ports_are_decoded() {
    let ide = SimFunction::device(0x7010_8086, 0x0101)
        .scratch(0x40, 4)
        .bar(4, Bar::Io, 4);
    let vga = SimFunction::device(0x1111_1234, 0x0300).bar(0, Bar::Pref32, 24);
    let isa = SimFunction::device(0x7000_8086, 0x0601)
        .scratch(4, 2)
        .preset(4, &[7]);
    let mut sim = Sim::new(Bus::from([
        (dev(1) | 1, ide),
        (dev(1), isa.multi()),
        (dev(2), vga),
    ]));
    run(&mut sim, 0, &Apertures::i440fx(0x2000_0000, 0, 40));
    let command = |sim: &mut Sim, bdf| sim.function(bdf).unwrap().dword(4) & 0xffff;
    assert_eq!(command(&mut sim, Bdf::new(0, 1, 1)), 0x101);
    assert_eq!(command(&mut sim, Bdf::new(0, 2, 0)), 0x103);
    assert_eq!(command(&mut sim, Bdf::new(0, 1, 0)), 7);
}

#[test]
fn what_decodes_is_moved() {
    let device = virtio().preset(4, &[2]).preset(0x14, &[0, 0, 0, 0xe0]);
    let mut sim = Sim::new(Bus::from([(dev(1), device)]));
    run(&mut sim, 0, &q35_apertures());
    check(&sim, &q35_apertures());
}

#[test]
fn an_old_bridge_forwards_everything_below_4_gib() {
    let old = SimFunction::bridge(0x0026_1011, Bus::from([(dev(1), virtio())]))
        .without_io_window()
        .with_pref32_window();
    let mut sim = Sim::new(Bus::from([(dev(1), old)]));
    assert_eq!(run(&mut sim, 0, &q35_apertures()).unplaced, 0);
    check(&sim, &q35_apertures());
}

#[test]
fn what_no_bridge_forwards_costs_nobody_else() {
    let gpu = || SimFunction::device(VIRTIO, 0x0302).bar(0, Bar::Pref64, 36);
    let old = SimFunction::bridge(0x0026_1011, Bus::from([(dev(1), gpu())])).with_pref32_window();
    let mut sim = Sim::new(Bus::from([(dev(1), old), (dev(2), gpu())]));
    assert_eq!(run(&mut sim, 0, &q35_apertures()).unplaced, 1);
    check(&sim, &q35_apertures());
    assert!(mapping(&sim, Bdf::new(0, 2, 0), 0).reachable);
}

#[test]
fn a_window_reserved_below_4_gib_stays_there() {
    let reserve = Reserve {
        pref32: Some(512 << 20),
        ..Reserve::default()
    };
    let port = SimFunction::port(Port::Root, Bus::new()).reserve(reserve);
    let other = SimFunction::device(VIRTIO, 0x0302)
        .bar(0, Bar::Pref64, 28)
        .bar(2, Bar::Pref64, 28)
        .bar(4, Bar::Pref64, 28);
    let mut sim = Sim::new(Bus::from([(dev(1), port), (dev(2), other)]));
    assert_eq!(run(&mut sim, 0, &q35_apertures()).unplaced, 0);
    check(&sim, &q35_apertures());
    let window = pref_window(&sim.roots[&0][&dev(1)]);
    assert_eq!(window.end - window.start, (512 << 20) - 1);
    assert!(window.end < 1 << 32);
    assert!(mapping(&sim, Bdf::new(0, 2, 0), 0).span.start >= 1 << 32);
}

#[test]
fn ports_behind_a_bridge_without_them_are_not_placed() {
    let inner = root_port(Bus::from([(
        0,
        SimFunction::device(VIRTIO, 0x0200)
            .bar(0, Bar::Io, 5)
            .bar(1, Bar::Mem32, 12),
    )]));
    let outer = SimFunction::port(Port::Root, Bus::from([(0, inner)])).without_io_window();
    let mut sim = Sim::new(Bus::from([
        (dev(1), outer),
        (dev(2), root_port(Bus::from([(0, virtio())]))),
    ]));
    assert_eq!(run(&mut sim, 0, &q35_apertures()).unplaced, 1);
    check(&sim, &q35_apertures());
    assert!(mapping(&sim, Bdf::new(3, 0, 0), 1).reachable);
}

#[test]
fn scratch_is_the_limit() {
    let bus: Bus = (0..=255).map(|devfn| (devfn, virtio().multi())).collect();
    let mut sim = Sim::new(bus);
    let mut scratch = vec![0xa5; 0x2000 + 16 * 3 * 256];
    let mut attempt = |len: usize| {
        sim.reset();
        full(
            &mut sim,
            0,
            Routing::Piix,
            &q35_apertures(),
            &mut scratch[..len],
        )
    };
    assert_eq!(attempt(100), Err(Error::PciTooMany));
    assert_eq!(attempt(0x2000), Err(Error::PciTooMany));
    assert_eq!(attempt(0x2000 + 16 * 3 * 256).unwrap().functions, 256);
}

#[test]
fn apertures_of_the_machines() {
    let pc = Apertures::i440fx(0x2000_0000, 0, 40);
    assert_eq!(pc.mem32(), 0x8000_0000..0xfec0_0000);
    assert_eq!(pc.mem64(), 1 << 32..1 << 40);
    let pc = Apertures::i440fx(0xc000_0000, 0x1_4000_0000, 36);
    assert_eq!(pc.mem32(), 0xc000_0000..0xfec0_0000);
    assert_eq!(pc.mem64(), 0x1_4000_0000..1 << 36);
    let q35 = Apertures::q35(0x8000_0000, 0x1_8010_0000, 52);
    assert_eq!(q35.mem32(), 0xc000_0000..0xfec0_0000);
    assert_eq!(q35.mem64(), 0x1_c000_0000..(1 << 44) - 4096);
    assert!(Apertures::q35(0x8000_0000, 0, 32).mem64().is_empty());
    assert!(Apertures::q35(0x8000_0000, 0, 0).mem64().is_empty());
    assert!(Apertures::q35(0x8000_0000, u64::MAX, 40).mem64().is_empty());
    let microvm = Apertures::microvm(40);
    assert_eq!(microvm.mem64(), 3 << 38..(1 << 40) - 4096);
    let large = Apertures::microvm(46).mem64();
    assert_eq!(large, 3 << 44..(1 << 46) - 4096);
    assert!(Apertures::microvm(32).mem64().is_empty());
}
