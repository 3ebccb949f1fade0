//! `full`: bus numbers, interrupt lines, addresses, and COMMAND.

use super::resource::{Apertures, Demand, Kind, Tree, low, slot};
use super::scan::{self, Work};
use super::size::{
    CLOSED_MEM, COMMAND_IO, COMMAND_MASTER, COMMAND_MEM, COMMAND_SERR, bar_register, size_bar,
};
use super::{Config, Routing, Summary, Unplaced, reg};
use crate::error::Result;

/// Does what [`super::scan()`] does, and gives addresses to all BARs, windows and
/// expansion ROMs. ROMs stay off.
///
/// `scratch` holds the tree meanwhile: 5.5 KiB, 16 bytes a BAR and 48 a bridge. COMMAND
/// lets a device decode ports or memory if all its BARs of that kind have an address,
/// and makes a bridge a master too. [`Summary::unplaced`] counts BARs without an
/// address. Call it before QEMU's ACPI tables are read: they announce what is
/// programmed.
///
/// # Errors
/// [`Error::PciTooMany`](crate::error::Error::PciTooMany) if `scratch` has no room for
/// the tree.
pub fn full<C: Config>(
    config: &mut C,
    extra_roots: u8,
    routing: Routing,
    apertures: &Apertures,
    scratch: &mut [u8],
    summary: &mut Summary,
) -> Result<()> {
    let mut tree = Tree::new(scratch, apertures)?;
    let work = Work::Addresses(&mut tree);
    scan::walk(config, extra_roots, routing, work, summary)?;
    summary.unplaced = tree.solve();
    program(config, &tree);
    if summary.unplaced != 0 {
        summary.first_unplaced = tree.missing().next().map(|demand| measure(config, demand));
    }
    Ok(())
}

/// Sizes a BAR without an address again: the tree does not keep sizes that can never be
/// placed. The BAR does not decode, and is left at 0.
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

/// Writes the addresses of each function, and then its COMMAND.
///
/// From the back, so that a bridge opens after everything behind it is in place: QEMU
/// rebuilds its memory map at each COMMAND, and faster while the bridge is closed.
///
/// Ports and memory are switched on separately: many devices without ports work by
/// their memory.
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
                    // A bridge has to forward the memory accesses of devices behind it.
                    on |= COMMAND_MASTER | if size != 0 { space } else { 0 };
                }
                _ if size != 0 => on |= space,
                _ => off |= space,
            }
        }
        let command = on & !off;
        if command != 0 {
            config.write16(bdf, reg::COMMAND, u16::from(command) | COMMAND_SERR);
        }
    }
}

/// Writes one address; `size` is 0 if there is none.
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
            // Base and limit in MiB, at bit 4 and bit 20.
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
