//! The walk over the tree: bus numbers, interrupt lines.

use super::function::{
    Function, HEADER_BRIDGE, HEADER_DEVICE, SEVERAL_FUNCTIONS, present, read_caps, reserved_buses,
};
use super::resource::Tree;
use super::size::{self, COMMAND_MASTER, COMMAND_SERR};
use super::{Bdf, Config, Routing, Summary, reg};
use crate::byte_set::ByteSet;
use crate::error::{Error, Result};
use arrayvec::ArrayVec;

const CLASS_IDE: u16 = 0x0101;
const PIIX3_IDE: u32 = 0x7010_8086;
const PIIX4_IDE: u32 = 0x7111_8086;
const PIIX4_PM: u32 = 0x7113_8086;
/// PIIX4's SCI is always wired to this ISA interrupt.
const PIIX4_SCI: u8 = 9;

/// Bridge control: forward SERR#.
const BRIDGE_SERR: u32 = 2 << 16;

/// Gives bridges their bus numbers and functions their interrupt lines.
///
/// `extra_roots` is the number of further root buses, from `etc/extra-pci-roots`.
/// Bridges must be as reset leaves them, without bus numbers. IDE controllers get the
/// legacy ports. Buses are numbered depth first, in the order of device numbers.
/// `summary`, empty at first, gets what is found.
///
/// # Errors
/// [`Error::PciTooMany`], which no tree can cause.
pub fn scan<C: Config>(
    config: &mut C,
    extra_roots: u8,
    routing: Routing,
    summary: &mut Summary,
) -> Result<()> {
    walk(config, extra_roots, routing, Work::Interrupts, summary)
}

/// Gives bridges their bus numbers as [`scan`] does, and no more: one read a function,
/// two a device behind bridges, and some five a bridge.
///
/// # Errors
/// As [`scan`].
pub fn number<C: Config>(config: &mut C, routing: Routing, summary: &mut Summary) -> Result<()> {
    walk(config, 0, routing, Work::Numbers, summary)
}

/// What the walk does besides numbering buses.
pub(super) enum Work<'w, 't> {
    /// Nothing.
    Numbers,
    /// Does all that [`scan`] does.
    Interrupts,
    /// Does all that [`scan`] does, and collects demands for addresses.
    Addresses(&'w mut Tree<'t>),
}

/// A bus that the walk is on.
#[derive(Clone, Copy)]
struct Level {
    bus: u8,
    /// One past the last device and function to visit.
    end: u16,
    /// The bridge that leads here.
    bridge: Bdf,
    /// Whether the bridge's device has several functions.
    multi: bool,
    /// Device number on the root bus that leads here.
    root_device: u8,
    /// Device numbers of the bridges in between, summed.
    swizzle: u8,
    /// Buses to keep free for hot-plug.
    reserve: u8,
    /// Its index in the allocator's tree.
    index: u8,
}

/// Each level takes a bus number, so no tree is deeper than 256.
type Levels = ArrayVec<Level, 256>;

/// The walk over all root buses.
pub(super) fn walk<C: Config>(
    config: &mut C,
    extra_roots: u8,
    routing: Routing,
    mut work: Work<'_, '_>,
    summary: &mut Summary,
) -> Result<()> {
    summary.roots = find_roots(config, extra_roots);
    let mut root = 0;
    loop {
        let next = summary.roots.after(root);
        // Buses behind this root have numbers below the next root.
        let limit = next.map_or(u8::MAX, |next| next - 1);
        summary.last_bus = root;
        walk_root(config, root, limit, routing, &mut work, summary)?;
        match next {
            Some(next) => root = next,
            None => return Ok(()),
        }
    }
}

/// The root buses: 0, and `extra` others that answer while no bridge forwards
/// anything yet.
///
/// Asks device 0 on every bus first: an expander usually has its internal bridge or
/// first root port there. That takes at most 255 accesses.
fn find_roots<C: Config>(config: &mut C, extra: u8) -> ByteSet {
    let mut roots = ByteSet::default();
    roots.insert(0);
    let mut found: u8 = 0;
    for device in 0..32 {
        for bus in 1..=u8::MAX {
            if found == extra {
                return roots;
            }
            if !roots.contains(bus) && present(config.read32(Bdf::new(bus, device, 0), reg::ID)) {
                roots.insert(bus);
                found += 1;
            }
        }
    }
    roots
}

#[expect(
    clippy::too_many_lines,
    reason = "one loop, whose state is the walk: levels instead of recursion"
)]
fn walk_root<C: Config>(
    config: &mut C,
    root: u8,
    limit: u8,
    routing: Routing,
    work: &mut Work<'_, '_>,
    summary: &mut Summary,
) -> Result<()> {
    let mut levels = Levels::new();
    let mut level = Level {
        bus: root,
        end: 256,
        bridge: Bdf::on_bus(root, 0),
        multi: false,
        root_device: 0,
        swizzle: 0,
        reserve: 0,
        index: 0,
    };
    // Device and function, and whether the device has several of these.
    let mut at: u16 = 0;
    let mut multi = false;
    loop {
        let Some(devfn) = u8::try_from(at).ok().filter(|_| at < level.end) else {
            // This bus is done: back to the bridge that led here.
            let Some(parent) = levels.pop() else {
                return Ok(());
            };
            // A reservation beyond the last bus number is ignored whole.
            let last = level.bus.checked_add(level.reserve);
            let last = last.filter(|bus| *bus <= limit).unwrap_or(0);
            summary.last_bus = summary.last_bus.max(last);
            if summary.last_bus != level.bus {
                set_buses(config, level.bridge, level.bus, summary.last_bus);
            }
            at = next(level.bridge.devfn().into(), level.multi);
            multi = level.multi;
            level = parent;
            continue;
        };
        let bdf = Bdf::on_bus(level.bus, devfn);
        let Some((header, id)) = probe(config, bdf, routing, work) else {
            // Without function 0 there is no device.
            at = next(at, multi && bdf.function() != 0);
            continue;
        };
        if bdf.function() == 0 {
            multi = header & SEVERAL_FUNCTIONS != 0;
        }
        at = next(at, multi);
        summary.functions = summary.functions.wrapping_add(1);
        let mut root_device = level.root_device;
        let mut swizzle = level.swizzle.wrapping_add(bdf.device());
        let mut inner_swizzle = swizzle;
        if levels.is_empty() {
            (root_device, swizzle, inner_swizzle) = (bdf.device(), 0, 0);
        }
        let mut found = Function {
            bdf,
            header: header & 0x7f,
            class: 0,
            ide: false,
        };
        // With addresses all of COMMAND is written at the end.
        if !matches!(work, Work::Addresses(_)) {
            set_command(config, &found, levels.is_empty());
        }
        if !matches!(work, Work::Numbers) {
            let line = |intx: u8| routing.line(root, root_device, intx.wrapping_add(swizzle) & 3);
            set_up_function(config, &mut found, id, line);
        }
        if found.header != HEADER_BRIDGE {
            if let Work::Addresses(tree) = work {
                size::add_function(config, tree, level.index, &found)?;
            }
            continue;
        }
        let Some(bus) = summary.last_bus.checked_add(1).filter(|bus| *bus <= limit) else {
            // A bridge without a number forwards nothing.
            summary.unnumbered = summary.unnumbered.wrapping_add(1);
            summary.first_unnumbered = summary.first_unnumbered.or(Some(bdf));
            continue;
        };
        // A bridge forwards its own bus only, until a bridge is found behind it: most
        // have none there.
        if summary.last_bus == level.bus && !levels.is_empty() {
            set_buses(config, level.bridge, level.bus, limit);
        }
        summary.last_bus = bus;
        config.reach(bus);
        let caps = read_caps(config, bdf);
        let mut index = 0;
        if let Work::Addresses(tree) = work {
            index = size::add_bridge(config, tree, level.index, &found, &caps)?;
        }
        set_buses(config, bdf, bus, bus);
        levels.try_push(level).map_err(|_| Error::PciTooMany)?;
        level = Level {
            bus,
            end: if caps.downstream { 8 } else { 256 },
            bridge: bdf,
            multi,
            root_device,
            swizzle: inner_swizzle,
            reserve: reserved_buses(config, bdf, &caps),
            index,
        };
        at = 0;
    }
}

/// The header type of a function, with [`SEVERAL_FUNCTIONS`], and its id, which
/// numbering does not read; `None` if there is no function.
fn probe<C: Config>(
    config: &mut C,
    bdf: Bdf,
    routing: Routing,
    work: &Work<'_, '_>,
) -> Option<(u8, u32)> {
    const HOST_BRIDGE: Bdf = Bdf::new(0, 0, 0);
    const LPC: Bdf = Bdf::new(0, 0x1f, 0);
    let mut id = 0;
    match (work, routing, bdf) {
        // Q35 always has these two.
        (Work::Numbers, Routing::Ich9, HOST_BRIDGE) => return Some((HEADER_DEVICE, id)),
        (Work::Numbers, Routing::Ich9, LPC) => return Some((SEVERAL_FUNCTIONS, id)),
        (Work::Numbers, _, _) => {}
        _ => {
            id = config.read32(bdf, reg::ID);
            if !present(id) {
                return None;
            }
        }
    }
    let [_, _, header, _] = config.read32(bdf, reg::HEADER).to_le_bytes();
    // No function has this header type.
    (header != 0xff).then_some((header, id))
}

/// Lets a function report errors.
///
/// QEMU before 8.0 passes a device's error (AER) to its root port only if both, and all
/// bridges between them, have SERR# on. Linux leaves it as it is. It makes bridges masters,
/// though: one write less for it.
fn set_command<C: Config>(config: &mut C, found: &Function, is_on_root: bool) {
    let command = match found.header {
        HEADER_BRIDGE => COMMAND_SERR | u16::from(COMMAND_MASTER),
        _ if is_on_root => return,
        _ => COMMAND_SERR,
    };
    config.write16(found.bdf, reg::COMMAND, command);
}

/// The function to visit after this one.
const fn next(at: u16, multi: bool) -> u16 {
    // Behind a device's last function comes the next device.
    if multi { at + 1 } else { (at | 7) + 1 }
}

fn set_buses<C: Config>(config: &mut C, bridge: Bdf, secondary: u8, subordinate: u8) {
    let buses = u32::from_le_bytes([bridge.bus(), secondary, subordinate, 0]);
    config.write32(bridge, reg::BUSES, buses);
}

/// Sets interrupt line, bridge control and IDE ports, and completes `found`.
fn set_up_function<C: Config>(
    config: &mut C,
    found: &mut Function,
    id: u32,
    line: impl Fn(u8) -> u8,
) {
    let (bdf, header) = (found.bdf, found.header);
    let old = config.read32(bdf, reg::INTERRUPT);
    let [_, pin, ..] = old.to_le_bytes();
    let mut new = old;
    if id == PIIX4_PM {
        new = old & !0xff | u32::from(PIIX4_SCI);
    } else if matches!(pin, 1..=4) {
        new = old & !0xff | u32::from(line(pin - 1));
    }
    if header == HEADER_BRIDGE {
        new |= BRIDGE_SERR;
    }
    if new != old {
        config.write32(bdf, reg::INTERRUPT, new);
    }
    if header != HEADER_DEVICE {
        return;
    }
    let [_, _, sub, base] = config.read32(bdf, reg::CLASS).to_le_bytes();
    found.class = u16::from_be_bytes([base, sub]);
    found.ide = found.class == CLASS_IDE;
    if id == PIIX3_IDE || id == PIIX4_IDE {
        // IDETIM of both channels: decode the legacy ports (82371AB
        // datasheet, section 4.2). BARs for them do not exist.
        config.write32(bdf, 0x40, 0x8000_8000);
    } else if found.ide {
        for &(bar, port) in &[(0x10, 0x1f0), (0x14, 0x3f4), (0x18, 0x170), (0x1c, 0x374)] {
            config.write32(bdf, bar, port);
        }
    }
}

#[cfg(test)]
mod tests;
