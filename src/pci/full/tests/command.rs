//! Which functions decode their addresses in the end, and when.

use super::*;

/// Configuration space where no BAR may decode while it is sized: it would hide other
/// devices.
struct Strict(Sim);

impl Config for Strict {
    fn read32(&mut self, bdf: Bdf, register: u16) -> u32 {
        self.0.read32(bdf, register)
    }
    fn write16(&mut self, bdf: Bdf, register: u16, value: u16) {
        self.0.write16(bdf, register, value);
    }
    fn write32(&mut self, bdf: Bdf, register: u16, value: u32) {
        if (reg::BAR0..reg::PREF_BASE_HIGH).contains(&register) && value == u32::MAX {
            let space = match self.0.read32(bdf, register) & 1 {
                0 => 2,
                _ => 1,
            };
            let on = self.0.read32(bdf, reg::COMMAND) & space != 0;
            assert!(!on, "{register:#x} is sized while it decodes");
        }
        self.0.write32(bdf, register, value);
    }
}

/// COMMAND of a device that had `before` there, and the summary.
fn command(device: SimFunction, before: u8, apertures: &Apertures) -> (u32, Summary) {
    let device = device.preset(4, &[before]);
    let mut config = Strict(Sim::new(Bus::from([(dev(2), device)])));
    let mut scratch = vec![0xa5; 0x4_0000];
    let summary = full(&mut config, 0, Routing::Ich9, apertures, &mut scratch).unwrap();
    let device = config.0.function(Bdf::new(0, 2, 0)).unwrap();
    (device.dword(4) & 0xffff, summary)
}

fn device() -> SimFunction {
    SimFunction::device(VIRTIO, 0x0200)
}

#[test]
fn a_device_decodes_what_has_a_place_and_keeps_its_other_bits() {
    let memory = || device().bar(0, Bar::Mem32, 12);
    let huge = || device().bar(0, Bar::Mem32, 31);
    for (device, on) in [
        (memory(), 0x102),
        (device().bar(0, Bar::Io, 5), 0x101),
        (memory().bar(1, Bar::Io, 5), 0x103),
        (huge(), 0x100),
        // Ports have no room, or memory has none.
        (memory().bar(1, Bar::Io, 16), 0x102),
        (huge().bar(1, Bar::Io, 5), 0x101),
        (memory().rom(16), 0x102),
        // Legacy ports.
        (
            SimFunction::device(VIRTIO, 0x0300).bar(0, Bar::Pref32, 24),
            0x103,
        ),
    ] {
        for before in 0..8 {
            let (command, _) = command(device.clone(), before, &q35_apertures());
            let on = match on | u32::from(before & 4) {
                // Nothing is on, so nothing is written.
                0x100 => 0,
                on => on,
            };
            assert_eq!(command, on, "{before} {device:x?}");
        }
    }
}

#[test]
fn a_device_without_bars_stays_as_it_was() {
    for before in 0..8 {
        let (command, _) = command(device(), before, &q35_apertures());
        assert_eq!(command, before.into());
    }
}

/// Also ports without BARs of their own, and with nothing behind.
#[test]
fn bridges_and_what_is_behind_them_report_errors() {
    let empty = SimFunction::port(Port::Downstream, Bus::new());
    let card = SimFunction::port(Port::Downstream, Bus::from([(0, virtio())]));
    let switch = Bus::from([(dev(0), empty), (dev(1), card)]);
    let switch = SimFunction::port(Port::Upstream, switch);
    let old = SimFunction::bridge(0x0001_1b36, Bus::new());
    let port = root_port(Bus::from([(0, switch)]));
    let mut sim = Sim::new(Bus::from([(dev(2), port), (dev(3), old)]));
    run(&mut sim, 0, &q35_apertures());
    for (bus, device) in [(0, 2), (0, 3), (1, 0), (2, 0), (2, 1), (4, 0)] {
        let function = sim.function(Bdf::new(bus, device, 0)).unwrap();
        let command = function.dword(4);
        assert_eq!(command & 0x100, 0x100, "{bus}:{device} has {command:#x}");
    }
}

/// Its place is for the kernel, which switches it on.
#[test]
fn a_rom_stays_off() {
    let (command, summary) = command(device().rom(16), 0, &q35_apertures());
    assert_eq!((command, summary.unplaced), (0, 0));
}

#[test]
fn the_first_bar_without_a_place_is_told() {
    let bdf = Bdf::new(0, 2, 0);
    let none = |device| command(device, 3, &q35_apertures()).1;
    let memory = device().bar(0, Bar::Mem32, 12);
    let summary = none(memory.clone().bar(2, Bar::Mem32, 31).bar(3, Bar::Io, 16));
    let first = Unplaced {
        bdf,
        bar: 2,
        order: 31,
    };
    assert_eq!((summary.unplaced, summary.first_unplaced), (2, Some(first)));
    // Kernels do without the ROM.
    let summary = none(memory.rom(31));
    assert_eq!((summary.unplaced, summary.first_unplaced), (0, None));
}

#[test]
fn a_machine_without_ports_misses_none() {
    let apertures = Apertures::microvm(40);
    let ports = device().bar(0, Bar::Io, 5);
    assert_eq!(command(ports.clone(), 0, &apertures).1.unplaced, 0);
    let both = ports.bar(1, Bar::Mem32, 31);
    assert_eq!(command(both, 0, &apertures).1.unplaced, 1);
}

/// A 64-bit BAR needs a second register: behind the last one there is another.
#[test]
fn the_last_bar_is_not_a_wide_one() {
    let device = device().bar(5, Bar::Mem32, 12).preset(0x24, &[4]);
    let device = device.scratch(0x28, 4).preset(0x28, &[1, 2, 3, 4]);
    let mut sim = Sim::new(Bus::from([(dev(1), device)]));
    run(&mut sim, 0, &q35_apertures());
    let device = sim.function(Bdf::new(0, 1, 0)).unwrap();
    assert_eq!(device.dword(0x24) & !0xf, 0xfebf_f000);
    assert_eq!(device.dword(0x28), 0x0403_0201);
}

#[test]
fn memory_that_is_not_prefetchable_stays_in_its_window() {
    for (kind, is_prefetchable) in [(Bar::Mem64, false), (Bar::Pref64, true)] {
        let inner = device().bar(0, kind, 20);
        let port = root_port(Bus::from([(0, inner)]));
        let mut sim = Sim::new(Bus::from([(dev(1), port)]));
        run(&mut sim, 0, &q35_apertures());
        let place = mapping(&sim, Bdf::new(1, 0, 0), 0).span.start;
        let port = sim.function(Bdf::new(0, 1, 0)).unwrap();
        let window = if is_prefetchable {
            pref_window(port)
        } else {
            mem_window(port)
        };
        assert!((window.start..=window.end).contains(&place), "{kind:?}");
        // It fits below 4 GiB, so it is there.
        assert!(window.end < 1 << 32, "{kind:?}");
    }
}

/// There is room for ten, and the buses are served in their order.
#[test]
fn as_many_reservations_as_fit_are_kept() {
    for ports in 1..=30 {
        let reserve = Reserve {
            mem: Some(100 << 20),
            ..Reserve::default()
        };
        let port = |device| {
            (
                dev(device),
                SimFunction::port(Port::Root, Bus::new()).reserve(reserve),
            )
        };
        let mut sim = Sim::new((1..=ports).map(port).collect());
        run(&mut sim, 0, &q35_apertures());
        for device in 1..=ports {
            let port = sim.function(Bdf::new(0, device, 0)).unwrap();
            let window = mem_window(port);
            let len = (window.end + 1).saturating_sub(window.start);
            assert_eq!(len >= 100 << 20, device <= 10, "{device} of {ports}");
        }
    }
}

/// As much as there is at all, and no more.
#[test]
fn a_request_for_a_whole_aperture_is_met() {
    let apertures = q35_apertures();
    let all = apertures.mem32();
    let len = u32::try_from(all.end - all.start).unwrap();
    for (mem, granted) in [(len, true), (len + 1, false)] {
        let reserve = Reserve {
            mem: Some(mem),
            ..Reserve::default()
        };
        let port = SimFunction::port(Port::Root, Bus::new()).reserve(reserve);
        let mut sim = Sim::new(Bus::from([(dev(1), port)]));
        run(&mut sim, 0, &apertures);
        let window = mem_window(sim.function(Bdf::new(0, 1, 0)).unwrap());
        assert_eq!(
            (window.start, window.end + 1) == (all.start, all.end),
            granted
        );
    }
    // Above 4 GiB there are another 4.
    let device = device().bar(0, Bar::Pref64, 32);
    let mut sim = Sim::new(Bus::from([(dev(1), device)]));
    run(&mut sim, 0, &Apertures::q35(0x2000_0000, 0, 33));
    assert_eq!(mapping(&sim, Bdf::new(0, 1, 0), 0).span.start, 1 << 32);
}

/// Neither a reservation below 4 GiB nor a window of 32 bits goes above.
#[test]
fn what_has_to_be_low_stays_low() {
    let low = Reserve {
        pref32: Some(600 << 20),
        ..Reserve::default()
    };
    let port = || SimFunction::port(Port::Root, Bus::new()).reserve(low);
    let high = Reserve {
        pref64: Some(32 << 20),
        ..Reserve::default()
    };
    let narrow = SimFunction::bridge(0x0001_1b36, Bus::new()).with_pref32_window();
    let inner = Bus::from([
        (dev(0), narrow.reserve(high)),
        (dev(1), device().bar(0, Bar::Pref64, 20)),
    ]);
    let outer = SimFunction::bridge(0x0001_1b36, inner);
    let mut sim = Sim::new(Bus::from([
        (dev(1), port()),
        (dev(2), port()),
        (dev(3), outer),
    ]));
    run(&mut sim, 0, &q35_apertures());
    check(&sim, &q35_apertures());
    let windows = [1, 2, 3].map(|at| pref_window(sim.function(Bdf::new(0, at, 0)).unwrap()));
    for window in windows {
        let is_open = window.start <= window.end;
        assert!(!is_open || window.end < 1 << 32, "{window:x?}");
    }
    // One of the two has room.
    let open = windows[..2].iter().filter(|w| w.start <= w.end);
    assert_eq!(open.count(), 1);
    assert!(windows[2].start <= windows[2].end);
}

/// Two of the three would fit above 4 GiB, but none has a right to it before the others.
#[test]
fn what_does_not_fit_above_4_gib_stays_without_a_place() {
    let apertures = Apertures::q35(0x2000_0000, 0, 33);
    let large = |at| (dev(at), device().bar(0, Bar::Pref64, 31));
    let mut sim = Sim::new((1..=3).map(large).collect());
    assert_eq!(run(&mut sim, 0, &apertures).unplaced, 3);
    check(&sim, &apertures);
}

/// Neither a port's own reservation nor that of one behind it.
#[test]
fn no_ports_are_kept_where_they_cannot_go() {
    let reserve = Reserve {
        io: Some(4096),
        ..Reserve::default()
    };
    let port = |behind| SimFunction::port(Port::Root, behind).reserve(reserve);
    let narrow = port(Bus::from([(0, port(Bus::new()))])).without_io_window();
    let mut sim = Sim::new(Bus::from([(dev(1), narrow), (dev(2), port(Bus::new()))]));
    run(&mut sim, 0, &q35_apertures());
    let places = [Bdf::new(0, 1, 0), Bdf::new(1, 0, 0), Bdf::new(0, 2, 0)];
    let commands = places.map(|bdf| sim.function(bdf).unwrap().dword(4) & 1);
    assert_eq!(commands, [0, 0, 1]);
    let behind = io_window(sim.function(Bdf::new(1, 0, 0)).unwrap());
    assert!(behind.start > behind.end, "{behind:x?}");
}
