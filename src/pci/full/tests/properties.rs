//! Trees of any shape.

use super::check::check_command;
use super::*;
use crate::pci::Access;
use proptest::prelude::*;

/// Whatever is read, it ends and stays inside the apertures.
struct Garbage(u64, usize);

impl Config for Garbage {
    fn read32(&mut self, _: Bdf, _: u16) -> u32 {
        self.1 = self.1.wrapping_add(1);
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0 >> 32).unwrap()
    }
    fn write16(&mut self, _: Bdf, _: u16, _: u16) {}
    fn write32(&mut self, _: Bdf, _: u16, _: u32) {}
}

fn arb_bar() -> impl Strategy<Value = (Bar, u8)> {
    prop_oneof![
        (Just(Bar::Io), 2..9_u8),
        (Just(Bar::Io), 2..17_u8),
        (Just(Bar::Mem32), 4..32_u8),
        (Just(Bar::Mem32), 4..20_u8),
        (Just(Bar::Pref32), 4..30_u8),
        (Just(Bar::Mem64), 4..24_u8),
        (Just(Bar::Mem64), 4..45_u8),
        (Just(Bar::Pref64), 12..40_u8),
        (Just(Bar::Pref64), 4..64_u8),
    ]
}

fn arb_reserve() -> impl Strategy<Value = Option<Reserve>> {
    proptest::option::of(
        (any::<u8>(), 0..40_u8, 0..32_u8, 0..50_u8, any::<u8>()).prop_map(
            |(buses, io, mem, pref, which)| Reserve {
                buses: (which & 1 != 0).then_some((buses & 15).into()),
                io: (which & 2 != 0).then_some((1 << io) + 1),
                mem: (which & 4 != 0).then_some((1 << mem) + 1),
                pref32: (which & 24 == 8).then_some(1 << (pref & 31)),
                pref64: (which & 24 == 16).then_some((1 << pref) + 1),
            },
        ),
    )
}

fn arb_device() -> impl Strategy<Value = SimFunction> {
    (
        proptest::collection::vec(arb_bar(), 0..4),
        proptest::option::of(11..20_u8),
        0..5_u8,
    )
        .prop_map(|(bars, rom, pin)| {
            let mut function = SimFunction::device(VIRTIO, 0x0200).pin(pin);
            let mut at = 0;
            for (kind, order) in bars {
                let wide = u8::from(matches!(kind, Bar::Mem64 | Bar::Pref64));
                if at + wide < 6 {
                    function = function.bar(at, kind, order);
                }
                at += 1 + wide;
            }
            match rom {
                Some(rom) => function.rom(rom),
                None => function,
            }
        })
}

fn arb_function() -> impl Strategy<Value = SimFunction> {
    arb_device().prop_recursive(4, 40, 6, |inner| {
        (
            proptest::collection::btree_map(0..32_u8, inner, 0..6),
            0..6_u8,
            arb_reserve(),
            any::<bool>(),
        )
            .prop_map(|(behind, kind, reserve, bar)| {
                let behind: Bus = behind.into_iter().map(|(d, f)| (d << 3, f)).collect();
                let mut function = match kind {
                    0 => SimFunction::port(Port::Root, behind),
                    1 => SimFunction::port(Port::Upstream, behind),
                    2 => SimFunction::port(Port::Downstream, behind).without_io_window(),
                    3 => SimFunction::bridge(0x0001_1b36, behind).shpc(),
                    4 => SimFunction::bridge(0x0026_1011, behind).with_pref32_window(),
                    _ => SimFunction::port(Port::ToPci, behind),
                };
                if bar {
                    function = function.bar(0, Bar::Mem64, 8);
                }
                match reserve {
                    Some(reserve) => function.reserve(reserve),
                    None => function,
                }
            })
    })
}

fn arb_sim() -> impl Strategy<Value = Sim> {
    let bus = || {
        proptest::collection::btree_map(0..32_u8, arb_function(), 0..8)
            .prop_map(|bus| bus.into_iter().map(|(d, f)| (d << 3, f)).collect::<Bus>())
    };
    (bus(), proptest::option::of(bus())).prop_map(|(root, extra)| {
        let sim = Sim::new(root);
        match extra {
            Some(extra) => sim.root(0x80, extra),
            None => sim,
        }
    })
}

fn arb_apertures() -> impl Strategy<Value = Apertures> {
    prop_oneof![
        Just(Apertures::i440fx(0x2000_0000, 0, 36)),
        Just(Apertures::i440fx(0xe000_0000, 0x1_2000_0000, 40)),
        Just(Apertures::q35(0x8000_0000, 0x2_8000_0000, 46)),
        Just(Apertures::q35(0x8000_0000, 0, 32)),
        Just(Apertures::microvm(40)),
        Just(Apertures::microvm(46)),
        Just(Apertures::q35(0x8000_0000, 0, 52)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn every_tree_is_laid_out(mut sim in arb_sim(), apertures in arb_apertures()) {
        let summary = run(&mut sim, 1, &apertures);
        check(&sim, &apertures);
        check_command(&sim.roots[&0], 0);
        let first = sim.mappings();
        sim.reset();
        let again = run(&mut sim, 1, &apertures);
        prop_assert_eq!(summary, again);
        prop_assert_eq!(first, sim.mappings());
        // Both mechanisms see the same.
        sim.reset();
        let mut scratch = vec![0; 0x4_0000];
        let ports = full(&mut Access::cam(&mut sim), 1, Routing::Ich9, &apertures, &mut scratch);
        prop_assert_eq!(ports, Ok(summary));
    }

    #[test]
    fn garbage_ends(seed: u64) {
        let mut config = Garbage(seed | 1, 0);
        let mut scratch = vec![0; 0x4_0000];
        let _ = full(&mut config, 3, Routing::Ich9, &q35_apertures(), &mut scratch);
        prop_assert!(config.1 < 65536 * 100);
    }
}
