//! PCI trees.

use super::{Arbitrary, Unstructured};
use crate::pci::sim::{Bar, Bus, Function, Mapping, Port, Reserve, Sim};
use crate::pci::{self, Apertures, Routing, Summary};
use std::vec;

/// PCI functions with bridges. Unless they are `sane`, registers may hold anything.
#[expect(clippy::too_many_lines, reason = "a list of choices")]
pub(super) fn bus(
    u: &mut Unstructured<'_>,
    depth: u8,
    budget: &mut u32,
    sane: bool,
) -> Arbitrary<Bus> {
    let mut bus = Bus::new();
    for _ in 0..u.int_in_range(0..=6)? {
        if u.is_empty() || *budget == 0 {
            break;
        }
        *budget -= 1;
        let devfn: u8 = match u.arbitrary::<u8>()? {
            n @ 0..200 => n & 0xf8,
            n => n,
        };
        let mut function = match u.int_in_range(0..=9)? {
            0..=1 if depth < 12 => {
                let behind = self::bus(u, depth + 1, budget, sane)?;
                Function::bridge(0x0001_1b36, behind)
            }
            2..=3 if depth < 12 => {
                let port =
                    *u.choose(&[Port::Root, Port::Upstream, Port::Downstream, Port::ToPci])?;
                let behind = self::bus(u, depth + 1, budget, sane)?;
                Function::port(port, behind)
            }
            _ => Function::device(0x1000_1af4, u.arbitrary()?),
        };
        for _ in 0..u.int_in_range(0..=3)? {
            let kind = *u.choose(&[Bar::Io, Bar::Mem32, Bar::Pref32, Bar::Mem64, Bar::Pref64])?;
            let order = match kind {
                Bar::Io => u.int_in_range(2..=16)?,
                Bar::Mem32 | Bar::Pref32 => u.int_in_range(4..=31)?,
                Bar::Mem64 | Bar::Pref64 => u.int_in_range(4..=63)?,
            };
            let bar = if function.behind().is_some() {
                0
            } else {
                u.int_in_range(0..=2)? * 2
            };
            // Two BARs cannot share a register.
            if !function.bars().iter().any(|(b, ..)| *b == bar) {
                function = function.bar(bar, kind, order);
            }
        }
        if u.ratio(1, 4)? {
            function = function.pin(u.arbitrary()?);
        }
        if u.ratio(1, 8)? {
            function = function.rom(u.int_in_range(11..=24)?);
        }
        if u.ratio(1, 8)? {
            function = function.reserve(Reserve {
                buses: u.arbitrary()?,
                io: u.arbitrary()?,
                mem: u.arbitrary()?,
                pref32: u.arbitrary()?,
                pref64: u.arbitrary()?,
            });
        }
        if u.ratio(1, 8)? {
            function = function.multi();
        }
        if !sane && u.ratio(1, 16)? {
            // Any register holds anything.
            let (at, bytes) = (u.arbitrary::<u8>()?, u.arbitrary::<[u8; 2]>()?);
            if at < 254 {
                function = function.preset(at, &bytes);
            }
        }
        bus.insert(devfn, function);
    }
    Ok(bus)
}

/// The PCI tree.
pub fn pci_tree(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let _ = pci_run(&mut u);
}

fn pci_run(u: &mut Unstructured<'_>) -> Arbitrary<()> {
    let mut budget = *u.choose(&[8, 8, 8, 8, 8, 30, 200])?;
    let extra: u8 = *u.choose(&[0, 0, 0, 0, 0, 0, 1, 3])?;
    let sane = u.arbitrary()?;
    let mut sim = Sim::new(bus(u, 0, &mut budget, sane)?);
    for _ in 0..u.int_in_range(0..=2)? {
        let number = u.arbitrary()?;
        sim = sim.root(number, bus(u, 0, &mut budget, sane)?);
    }
    let routing = *u.choose(&[Routing::Piix, Routing::Ich9, Routing::Gpex(16)])?;
    let low = u.choose(&[0x1000_0000_u32, 0xb000_0000, 0xc000_0000])?;
    let apertures = match u.int_in_range(0..=2)? {
        0 => Apertures::i440fx(*low, 1 << 33, 40),
        1 => Apertures::q35(*low, 0, u.int_in_range(32..=52)?),
        _ => Apertures::microvm(u.int_in_range(32..=48)?),
    };
    let mut again = sim.clone();
    let (mut first, mut second) = (Summary::default(), Summary::default());
    let scanned = pci::scan(&mut sim, extra, routing, &mut first);
    assert!(sim.accesses < 1_000_000, "{} accesses", sim.accesses);
    let mut scratch = vec![0; 0x4_0000];
    let placed = pci::full(
        &mut again,
        extra,
        routing,
        &apertures,
        &mut scratch,
        &mut second,
    );
    assert!(again.accesses < 2_000_000, "{} accesses", again.accesses);
    if scanned.is_ok() && placed.is_ok() {
        assert_eq!(first.last_bus, second.last_bus);
        assert_eq!(first.functions, second.functions);
        let mut mappings = again.mappings();
        mappings.retain(|mapping| sane && mapping.reachable);
        for (n, one) in mappings.iter().enumerate() {
            let meets = |other: &&Mapping| one.io == other.io && one.span.overlaps(other.span);
            let other = mappings.iter().skip(n + 1).find(meets);
            assert!(other.is_none(), "{one:x?} meets {other:x?}");
        }
    }
    Ok(())
}
