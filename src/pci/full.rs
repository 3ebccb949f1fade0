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

/// Does what [`super::scan()`] does and gives addresses to all BARs and
/// windows, expansion ROMs included, which stay off.
///
/// `scratch` holds the tree while it runs: 5.5 KiB, 16 bytes a BAR and 48 a
/// bridge. COMMAND lets a device decode ports or memory when all its BARs of
/// that kind have an address, and a bridge be master too;
/// [`Summary::unplaced`] counts the BARs that have none. It has to come
/// before QEMU's ACPI tables are read: they announce what is programmed.
///
/// # Errors
/// [`Error::PciTooMany`](crate::error::Error::PciTooMany) when `scratch` does not hold the tree.
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
mod tests;
