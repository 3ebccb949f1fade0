//! Everything a firmware owes its PCI devices: bus numbers, interrupt lines,
//! addresses, and COMMAND.

use super::resource::{Apertures, Bridge, Demand, Kind, Sized, Tree, low, slot};
use super::scan::{self, BridgeCaps, Function, HEADER_BRIDGE, HEADER_DEVICE, reserve};
use super::{Bdf, Config, Routing, Summary, Unplaced, reg};
use crate::error::Result;

/// COMMAND (PCI Local Bus 3.0, section 6.2.2).
const COMMAND_IO: u8 = 1;
const COMMAND_MEM: u8 = 2;
const COMMAND_MASTER: u8 = 4;
/// Upper byte: report errors with SERR#.
const COMMAND_SERR: u8 = 1;

const CLASS_DISPLAY: u8 = 0x03;

/// What an empty hot-plug slot has to hold, as SeaBIOS has it, in pages and
/// ports.
const SLOT_MEM: u32 = (2 << 20) >> 12;
const SLOT_IO: u32 = 4096;

/// What closes a window: its base above its limit.
const CLOSED_IO: u32 = 0x00f0;
const CLOSED_MEM: u32 = 0x0000_fff0;

/// Does what [`super::scan`] does and gives addresses to all BARs and
/// windows, expansion ROMs included, which stay off.
///
/// `scratch` holds the tree while it runs: 5.5 KiB, 16 bytes a BAR and 48 a
/// bridge. COMMAND lets a device decode ports or memory when all its BARs of
/// that kind have an address, and a bridge be master too;
/// [`Summary::unplaced`] counts the BARs that have none. It has to come
/// before QEMU's ACPI tables are read: they announce what is programmed.
///
/// # Errors
/// [`Error::PciTooMany`](crate::error::Error::PciTooMany) when `scratch` does not hold the tree,
/// [`Error::PciTooDeep`](crate::error::Error::PciTooDeep).
#[cold]
pub fn full<C: Config>(
    config: &mut C,
    extra_roots: u8,
    routing: Routing,
    apertures: &Apertures,
    scratch: &mut [u8],
) -> Result<Summary> {
    let mut tree = Tree::new(scratch, apertures)?;
    let mut summary = scan::walk(config, extra_roots, routing, Some(&mut tree))?;
    summary.unplaced = tree.solve();
    program(config, &tree);
    if summary.unplaced != 0 {
        summary.first_unplaced = tree.missing().next().map(|demand| measure(config, demand));
    }
    Ok(summary)
}

/// Sizes a BAR that has no address once more: the tree keeps no size that
/// can never be placed. It does not decode, and is left at 0.
#[cold]
fn measure<C: Config>(config: &mut C, demand: &Demand) -> Unplaced {
    let (bdf, bar) = (demand.bdf(), demand.slot());
    let sized = size_bar(config, bdf, bar, slot::ROM);
    write_place(config, demand, 0, 0);
    Unplaced {
        bdf,
        bar,
        order: sized.map_or(0, |sized| sized.order),
    }
}

/// Sizes the BARs of a function on the bus with this index; gives what its
/// COMMAND is to hold besides ports and memory.
#[cold]
#[inline(never)]
pub(super) fn add_function<C: Config>(
    config: &mut C,
    tree: &mut Tree<'_>,
    bus: u8,
    function: &Function,
) -> Result<u8> {
    let Function {
        bdf,
        header,
        class,
        ide,
    } = *function;
    let (bars, rom, rom_slot) = match header {
        HEADER_DEVICE => (6, reg::ROM, slot::ROM),
        HEADER_BRIDGE => (2, reg::BRIDGE_ROM, slot::BRIDGE_ROM),
        // CardBus and what is unknown: nothing to give.
        _ => return Ok(0),
    };
    let [old, ..] = config.read32(bdf, reg::COMMAND).to_le_bytes();
    let decoding = old & (COMMAND_IO | COMMAND_MEM);
    if decoding != 0 {
        // What decodes while it is sized hides something else.
        config.write16(bdf, reg::COMMAND, (old ^ decoding).into());
    }
    let mut command = old ^ decoding;
    let [_, base_class] = class.to_le_bytes();
    if ide || base_class == CLASS_DISPLAY {
        // Legacy ports, which no BAR stands for.
        command |= COMMAND_IO;
    }
    let before = tree.demands().len();
    let mut bar = if ide { 4 } else { 0 };
    while bar < bars {
        let found = size_bar(config, bdf, bar, bars);
        let mut wide = false;
        if let Some(sized) = found {
            wide = sized.wide;
            tree.add_bar(bus, bdf, bar, sized, command)?;
        }
        bar = bar.saturating_add(if wide { 2 } else { 1 });
    }
    // Bit 0 stays clear: it would switch the ROM on.
    config.write32(bdf, rom, 0xffff_f800);
    let mask = config.read32(bdf, rom) & 0xffff_f800;
    if let Some(order) = lowest_bit(mask) {
        let sized = Sized {
            kind: Kind::Mem,
            order,
            wide: false,
        };
        tree.add_bar(bus, bdf, rom_slot, sized, command)?;
    }
    if decoding != 0 && tree.demands().len() == before {
        config.write16(bdf, reg::COMMAND, old.into());
    }
    Ok(command)
}

/// Adds a bridge that is on the bus with index `parent`; gives the index of
/// the bus behind it.
#[cold]
#[inline(never)]
pub(super) fn add_bridge<C: Config>(
    config: &mut C,
    tree: &mut Tree<'_>,
    parent: u8,
    function: &Function,
    caps: &BridgeCaps,
) -> Result<u8> {
    let command = add_function(config, tree, parent, function)?;
    let bdf = function.bdf;
    config.write32(bdf, reg::IO_WINDOW, CLOSED_IO);
    let io = config.read32(bdf, reg::IO_WINDOW) & 0xf0 != 0;
    config.write32(bdf, reg::PREF_WINDOW, CLOSED_MEM);
    let pref = config.read32(bdf, reg::PREF_WINDOW);
    let mut bridge = Bridge {
        io,
        pref64: pref & 0xfff0 != 0 && pref & 0xf == 1,
        ..Bridge::default()
    };
    let [io, mem, pref] = &mut bridge.reserve;
    if caps.slot || caps.shpc {
        (*mem, *pref) = (SLOT_MEM, SLOT_MEM);
    }
    if caps.shpc {
        *io = SLOT_IO;
    }
    if caps.reserve != 0 {
        read_reserve(config, bdf, caps.reserve, &mut bridge);
    }
    tree.add_bridge(parent, bdf, &bridge, command)
}

/// Sizes a BAR (PCI Local Bus 3.0, section 6.2.5.1). It is left with all bits
/// set: whoever has an address gets it written later.
#[cold]
fn size_bar<C: Config>(config: &mut C, bdf: Bdf, bar: u8, bars: u8) -> Option<Sized> {
    let register = bar_register(bar);
    config.write32(bdf, register, u32::MAX);
    let value = config.read32(bdf, register);
    if value & 1 != 0 {
        return Some(Sized {
            kind: Kind::Io,
            order: lowest_bit(value & !3)?,
            wide: false,
        });
    }
    let wide = value & 6 == 4 && bar.saturating_add(1) < bars;
    let mut order = lowest_bit(value & !15);
    if wide && order.is_none() {
        // 4 GiB or more: only the upper half tells.
        let upper = register.wrapping_add(4);
        config.write32(bdf, upper, u32::MAX);
        let bit = lowest_bit(config.read32(bdf, upper))?;
        order = Some(bit.wrapping_add(32));
    }
    let order = order?;
    // A bridge forwards what is not prefetchable below 4 GiB only. What is
    // too large for there has the prefetchable window of a PCI Express port,
    // which is allowed to (PCI Express Base 4.0, section 7.5.1.2.1, note).
    let kind = if wide && (value & 8 != 0 || order >= 30) {
        Kind::High
    } else {
        Kind::Mem
    };
    Some(Sized { kind, order, wide })
}

fn bar_register(bar: u8) -> u16 {
    u16::from(bar).wrapping_mul(4).wrapping_add(reg::BAR0)
}

/// The number of the lowest bit that is set.
fn lowest_bit(value: u32) -> Option<u8> {
    let bit = value.trailing_zeros().to_le_bytes()[0];
    (value != 0).then_some(bit)
}

/// Adds what a port reserves; all ones is "nothing said".
#[cold]
fn read_reserve<C: Config>(config: &mut C, bdf: Bdf, cap: u16, bridge: &mut Bridge) {
    let mut read = |register: u16| config.read32(bdf, cap.wrapping_add(register));
    let [io, mem, pref] = &mut bridge.reserve;
    let said = read(reserve::IO);
    if read(reserve::IO.wrapping_add(4)) == 0 {
        *io = said;
    }
    let said = read(reserve::MEM);
    if said != u32::MAX {
        *mem = pages(said, 0).max(*mem);
    }
    let said = read(reserve::PREF32);
    if said != u32::MAX {
        *pref = pages(said, 0).max(*pref);
        bridge.pref_low = true;
    }
    let said = read(reserve::PREF64);
    let above = read(reserve::PREF64.wrapping_add(4));
    if said & above != u32::MAX {
        *pref = pages(said, above).max(*pref);
        bridge.pref_high = said | above != 0;
    }
}

/// Bytes, lower and upper half, as pages; as many as there can be at most.
fn pages(bytes: u32, above: u32) -> u32 {
    if above >> 12 != 0 {
        return u32::MAX;
    }
    let part = u32::from(bytes & 0xfff != 0);
    (above << 20 | bytes >> 12).saturating_add(part)
}

/// Writes addresses and, after those of a function, its COMMAND.
///
/// From the back, so a bridge opens after all behind it is in place: QEMU
/// renews its map of memory at each COMMAND, and what no open bridge leads to
/// is not on it yet.
///
/// Ports and memory are switched on each for itself: many devices that have
/// found no ports work by their memory.
#[cold]
fn program<C: Config>(config: &mut C, tree: &Tree<'_>) {
    let mut rest = tree.demands();
    while let [.., last] = rest {
        let bdf = last.bdf();
        let mut on = last.command();
        let mut off = 0;
        while let [before @ .., demand] = rest {
            if demand.bdf() != bdf {
                break;
            }
            rest = before;
            let (start, size) = tree.place(demand);
            write_place(config, demand, start, size);
            let space = match demand.kind() {
                Kind::Io => COMMAND_IO,
                Kind::Mem | Kind::High => COMMAND_MEM,
            };
            match demand.slot() {
                slot::ROM | slot::BRIDGE_ROM => {}
                slot::IO_WINDOW.. => {
                    // A bridge has to pass on what the devices behind it ask
                    // of memory.
                    on |= COMMAND_MASTER | if size != 0 { space } else { 0 };
                }
                _ if size != 0 => on |= space,
                _ => off |= space,
            }
        }
        let command = on & !off;
        if command != 0 {
            config.write16(
                bdf,
                reg::COMMAND,
                u16::from_le_bytes([command, COMMAND_SERR]),
            );
        }
    }
}

/// Writes one address; `size` is 0 for what has none.
#[cold]
fn write_place<C: Config>(config: &mut C, demand: &Demand, start: u64, size: u64) {
    let bdf = demand.bdf();
    let last = start.wrapping_add(size).wrapping_sub(1);
    let mut value = low(start);
    let mut upper = None;
    let register = match demand.slot() {
        slot::ROM => reg::ROM,
        slot::BRIDGE_ROM => reg::BRIDGE_ROM,
        slot::MEM_WINDOW if size == 0 => {
            value = CLOSED_MEM;
            reg::MEM_WINDOW
        }
        // The windows for ports and prefetchable memory are closed already.
        slot::IO_WINDOW.. if size == 0 => return,
        slot::IO_WINDOW => {
            value = value >> 8 & 0xf0 | low(last) & 0xf000;
            reg::IO_WINDOW
        }
        window @ slot::MEM_WINDOW.. => {
            // In MiB from bit 4 and bit 20 on.
            value = value >> 16 & 0xfff0 | low(last) & 0xfff0_0000;
            if window == slot::MEM_WINDOW {
                reg::MEM_WINDOW
            } else {
                if last > u32::MAX.into() {
                    config.write32(bdf, reg::PREF_LIMIT_HIGH, low(last >> 32));
                    upper = Some(reg::PREF_BASE_HIGH);
                }
                reg::PREF_WINDOW
            }
        }
        bar => {
            let register = bar_register(bar);
            if demand.is_wide() {
                upper = Some(register.wrapping_add(4));
            }
            register
        }
    };
    config.write32(bdf, register, value);
    if let Some(upper) = upper {
        config.write32(bdf, upper, low(start >> 32));
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "overflow fails the test")]
mod tests {
    extern crate std;
    use super::*;
    use crate::error::Error;
    use crate::pci::Access;
    use crate::pci::sim::{
        Bar, Bus, Function as SimFunction, Mapping, Port, Reserve, Sim, Span, io_window,
        mem_window, pref_window,
    };
    use core::ops::Range;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    const VIRTIO: u32 = 0x1041_1af4;

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

    /// What must hold of every result.
    fn check(sim: &Sim, apertures: &Apertures) {
        let mappings = sim.mappings();
        let inside = |mapping: &Mapping, aperture: Range<u64>| {
            aperture.start <= mapping.span.start && mapping.span.end < aperture.end
        };
        for (i, one) in mappings.iter().enumerate() {
            assert!(one.reachable, "{one:x?}");
            let size = one.span.end - one.span.start + 1;
            assert_eq!(one.span.start & (size - 1), 0, "{one:x?}");
            let fits = if one.io {
                apertures.io().any(|io| inside(one, io))
            } else {
                inside(one, apertures.mem32()) || inside(one, apertures.mem64())
            };
            assert!(fits, "{one:x?}");
            for other in &mappings[..i] {
                assert!(
                    one.io != other.io || !one.span.overlaps(other.span),
                    "{one:x?} {other:x?}"
                );
            }
        }
        for bus in sim.roots.values() {
            check_windows(bus);
        }
    }

    /// Open windows of siblings and their BARs are apart.
    fn check_windows(bus: &Bus) {
        let mut io: Vec<Span> = Vec::new();
        let mut mem: Vec<Span> = Vec::new();
        for function in bus.values() {
            let Some(behind) = function.behind() else {
                continue;
            };
            let command = function.dword(4);
            for (window, on) in [
                (io_window(function), 1),
                (mem_window(function), 2),
                (pref_window(function), 2),
            ] {
                let seen = if on == 1 { &mut io } else { &mut mem };
                if command & on != 0 && window.start <= window.end {
                    assert!(seen.iter().all(|other| !other.overlaps(window)));
                    seen.push(window);
                }
            }
            check_windows(behind);
        }
    }

    /// Ports and memory are on exactly where every BAR of that kind has a
    /// place.
    fn check_command(bus: &Bus, number: u8) {
        for (devfn, function) in bus {
            let bridge = function.behind();
            for (io, bit) in [(true, 1), (false, 2)] {
                let bars: Vec<bool> = function
                    .bars()
                    .iter()
                    .filter(|(_, kind, _)| (*kind == Bar::Io) == io)
                    .map(|(bar, kind, _)| {
                        let low = function.dword(0x10 + 4 * bar) & if io { !3 } else { !15 };
                        let wide = matches!(kind, Bar::Mem64 | Bar::Pref64);
                        low != 0 || wide && function.dword(0x14 + 4 * bar) != 0
                    })
                    .collect();
                let all = bars.iter().all(|placed| *placed);
                let on = function.dword(4) & bit != 0;
                let at = (number, devfn, &bars);
                assert!(all || !on, "{at:?}");
                assert!(on || !all || bars.is_empty() || bridge.is_some(), "{at:?}");
            }
            if let Some(behind) = bridge {
                let [_, secondary, ..] = function.dword(0x18).to_le_bytes();
                if secondary != 0 {
                    check_command(behind, secondary);
                }
            }
        }
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
        let old =
            SimFunction::bridge(0x0026_1011, Bus::from([(dev(1), gpu())])).with_pref32_window();
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
        fn write8(&mut self, _: Bdf, _: u16, _: u8) {}
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
}
