//! Sizes BARs and windows, and adds them to the tree as demands.

use super::function::{BridgeCaps, Function, HEADER_BRIDGE, HEADER_DEVICE, reserve};
use super::resource::{BarSize, Bridge, Kind, Tree, slot};
use super::{Bdf, Config, reg};
use crate::error::Result;

/// COMMAND (PCI Local Bus 3.0, section 6.2.2).
pub(super) const COMMAND_IO: u8 = 1;
pub(super) const COMMAND_MEM: u8 = 2;
/// Access memory, and for a bridge: let devices behind it do so.
pub(super) const COMMAND_MASTER: u8 = 4;
/// Report errors with SERR#.
pub(super) const COMMAND_SERR: u16 = 1 << 8;

const CLASS_DISPLAY: u8 = 0x03;

/// Pages and ports for an empty hot-plug slot.
const SLOT_MEM: u32 = (2 << 20) >> 12;
const SLOT_IO: u32 = 4096;

/// A closed window: base above limit.
const CLOSED_IO: u32 = 0x00f0;
pub(super) const CLOSED_MEM: u32 = 0x0000_fff0;

/// Sizes the BARs of a function on the bus with this index; returns the bits for its
/// COMMAND besides ports and memory.
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
        // CardBus and unknown types get nothing.
        _ => return Ok(0),
    };
    let [old, ..] = config.read32(bdf, reg::COMMAND).to_le_bytes();
    let decoding = old & (COMMAND_IO | COMMAND_MEM);
    if decoding != 0 {
        // A BAR that decodes while it is sized hides other devices.
        config.write16(bdf, reg::COMMAND, (old ^ decoding).into());
    }
    let mut command = old ^ decoding;
    let [_, base_class] = class.to_le_bytes();
    if ide || base_class == CLASS_DISPLAY {
        // Legacy ports, which have no BAR.
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
        let sized = BarSize {
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

/// Adds a bridge on the bus with index `parent`; returns the index of the bus behind
/// it.
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
        // Zero without such a window.
        pref64: pref & 0xf == 1,
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

/// Sizes a BAR (PCI Local Bus 3.0, section 6.2.5.1), and leaves all its bits set. Its
/// address is written later.
pub(super) fn size_bar<C: Config>(config: &mut C, bdf: Bdf, bar: u8, bars: u8) -> Option<BarSize> {
    let register = bar_register(bar);
    config.write32(bdf, register, u32::MAX);
    let value = config.read32(bdf, register);
    if value & 1 != 0 {
        return Some(BarSize {
            kind: Kind::Io,
            order: lowest_bit(value & !3)?,
            wide: false,
        });
    }
    let wide = value & 6 == 4 && bar.saturating_add(1) < bars;
    let mut order = lowest_bit(value & !15);
    if wide && order.is_none() {
        // 4 GiB or more: the upper half has the size.
        let upper = register.wrapping_add(4);
        config.write32(bdf, upper, u32::MAX);
        let bit = lowest_bit(config.read32(bdf, upper))?;
        order = Some(bit.wrapping_add(32));
    }
    let order = order?;
    // A bridge forwards memory that is not prefetchable only below 4 GiB. A BAR too
    // large for there goes into a PCI Express port's prefetchable window, which the
    // specification allows (PCI Express Base 4.0, section 7.5.1.2.1, note).
    let kind = if wide && (value & 8 != 0 || order >= 30) {
        Kind::High
    } else {
        Kind::Mem
    };
    Some(BarSize { kind, order, wide })
}

pub(super) fn bar_register(bar: u8) -> u16 {
    u16::from(bar).wrapping_mul(4).wrapping_add(reg::BAR0)
}

/// The number of the lowest set bit.
fn lowest_bit(value: u32) -> Option<u8> {
    let bit = value.trailing_zeros().to_le_bytes()[0];
    (value != 0).then_some(bit)
}

/// Adds a port's reservations; all ones means none.
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

/// Bytes, given by halves, as pages, limited to the highest number.
fn pages(bytes: u32, above: u32) -> u32 {
    if above >> 12 != 0 {
        return u32::MAX;
    }
    let part = u32::from(bytes & 0xfff != 0);
    (above << 20 | bytes >> 12).saturating_add(part)
}
