//! The walk over the tree: bus numbers, interrupt lines.

use super::resource::Tree;
use super::{Bdf, Config, Roots, Routing, Summary, full, reg};
use crate::error::{Error, Result};
use arrayvec::ArrayVec;

/// Header types, without the bit for several functions.
pub(super) const HEADER_DEVICE: u8 = 0;
pub(super) const HEADER_BRIDGE: u8 = 1;

const CLASS_IDE: u16 = 0x0101;
const PIIX3_IDE: u32 = 0x7010_8086;
const PIIX4_IDE: u32 = 0x7111_8086;
const PIIX4_PM: u32 = 0x7113_8086;
/// PIIX4's SCI is wired to this ISA interrupt whatever its pin says.
const PIIX4_SCI: u8 = 9;

/// Bridge control: forward SERR#.
const BRIDGE_SERR: u32 = 2 << 16;

/// A function as the walk finds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function {
    pub(super) bdf: Bdf,
    /// Header type without its top bit.
    pub(super) header: u8,
    /// Base class (15:8) and subclass (7:0); 0 for a bridge.
    pub(super) class: u16,
    /// IDE: its first four BARs are legacy ports.
    pub(super) ide: bool,
}

/// What a bridge's capabilities say (PCI Local Bus 3.0, section 6.7; PCI
/// Express Base 4.0, section 7.5.3.2; QEMU `docs/pcie_pci_bridge.txt`).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BridgeCaps {
    /// Root or downstream port: only device 0 can be behind it.
    pub(super) downstream: bool,
    /// A PCI Express slot.
    pub(super) slot: bool,
    /// A standard hot-plug controller.
    pub(super) shpc: bool,
    /// Offset of the Red Hat resource reservation, 0 without one.
    pub(super) reserve: u16,
}

/// Gives bridges their bus numbers and functions their interrupt lines.
///
/// `extra_roots` is the number of further root buses, from
/// `etc/extra-pci-roots`. Bridges must be as reset leaves them, without bus
/// numbers. IDE controllers get the legacy ports. Numbers are given out depth
/// first in the order of device numbers, as SeaBIOS does; C qboot starts with
/// the last bridge of each bus.
///
/// # Errors
/// [`Error::PciTooDeep`].
#[cold]
pub fn scan<C: Config>(config: &mut C, extra_roots: u8, routing: Routing) -> Result<Summary> {
    walk(config, extra_roots, routing, None)
}

/// A bus that the walk is on.
#[derive(Clone, Copy)]
struct Level {
    bus: u8,
    /// One past the last device and function to look at.
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

/// One level takes one bus number, so all 256 fit and no tree is too deep.
type Levels = ArrayVec<Level, 256>;

/// The walk of [`scan`], which collects in `tree` what wants an address.
///
/// One instance serves both, as the ROM has room for one only.
#[cold]
#[inline(never)]
pub(super) fn walk<C: Config>(
    config: &mut C,
    extra_roots: u8,
    routing: Routing,
    mut tree: Option<&mut Tree<'_>>,
) -> Result<Summary> {
    let mut summary = Summary {
        roots: find_roots(config, extra_roots),
        ..Summary::default()
    };
    let mut root = 0;
    loop {
        let next = summary.roots.after(root);
        // What is behind this root has to stay below the next one.
        let limit = next.map_or(u8::MAX, |next| next.wrapping_sub(1));
        summary.last_bus = root;
        walk_root(config, root, limit, routing, &mut tree, &mut summary)?;
        match next {
            Some(next) => root = next,
            None => return Ok(summary),
        }
    }
}

/// The root buses: 0, and `extra` others that answer while no bridge forwards
/// anything yet.
///
/// Device 0 is asked on every bus first: an expander's internal bridge or
/// first root port usually is there, and 255 accesses are then the most.
#[cold]
fn find_roots<C: Config>(config: &mut C, extra: u8) -> Roots {
    let mut roots = Roots::default();
    roots.insert(0);
    let mut found: u8 = 0;
    for device in 0..32 {
        for bus in 1..=u8::MAX {
            if found == extra {
                return roots;
            }
            if !roots.contains(bus) && present(config.read32(Bdf::new(bus, device, 0), reg::ID)) {
                roots.insert(bus);
                found = found.wrapping_add(1);
            }
        }
    }
    roots
}

/// Whether a vendor id is one: all ones and all zeroes mean nobody answered.
pub(super) const fn present(id: u32) -> bool {
    let vendor = id & 0xffff;
    vendor != 0xffff && vendor != 0
}

#[cold]
fn walk_root<C: Config>(
    config: &mut C,
    root: u8,
    limit: u8,
    routing: Routing,
    tree: &mut Option<&mut Tree<'_>>,
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
            set_buses(config, level.bridge, level.bus, summary.last_bus);
            at = next(level.bridge.devfn().into(), level.multi);
            multi = level.multi;
            level = parent;
            continue;
        };
        let bdf = Bdf::on_bus(level.bus, devfn);
        let id = config.read32(bdf, reg::ID);
        if !present(id) {
            // Without function 0 there is no device.
            at = next(at, multi && bdf.function() != 0);
            continue;
        }
        let [_, _, header, _] = config.read32(bdf, reg::HEADER).to_le_bytes();
        if bdf.function() == 0 {
            multi = header & 0x80 != 0;
        }
        at = next(at, multi);
        summary.functions = summary.functions.wrapping_add(1);
        let mut root_device = level.root_device;
        let mut swizzle = level.swizzle.wrapping_add(bdf.device());
        let mut inner_swizzle = swizzle;
        if levels.is_empty() {
            (root_device, swizzle, inner_swizzle) = (bdf.device(), 0, 0);
        }
        let line = |intx: u8| routing.line(root, root_device, intx.wrapping_add(swizzle) & 3);
        let found = set_up_function(config, bdf, id, header & 0x7f, line);
        if found.header != HEADER_BRIDGE {
            if let Some(tree) = tree {
                full::add_function(config, tree, level.index, &found)?;
            }
            continue;
        }
        let Some(bus) = summary.last_bus.checked_add(1).filter(|bus| *bus <= limit) else {
            // Without a number it forwards nothing and is left alone.
            summary.unnumbered = summary.unnumbered.wrapping_add(1);
            summary.first_unnumbered = summary.first_unnumbered.or(Some(bdf));
            continue;
        };
        summary.last_bus = bus;
        let caps = read_caps(config, bdf, id);
        let mut index = 0;
        if let Some(tree) = tree {
            index = full::add_bridge(config, tree, level.index, &found, &caps)?;
        }
        // Open for every bus there may be behind it.
        set_buses(config, bdf, bus, limit);
        levels.try_push(level).map_err(|_| Error::PciTooDeep)?;
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

/// The function to look at after this one.
const fn next(at: u16, multi: bool) -> u16 {
    // The last of a device leads on to the next by itself.
    if multi {
        at.wrapping_add(1)
    } else {
        (at | 7).wrapping_add(1)
    }
}

#[cold]
#[inline(never)]
fn set_buses<C: Config>(config: &mut C, bridge: Bdf, secondary: u8, subordinate: u8) {
    let buses = u32::from_le_bytes([bridge.bus(), secondary, subordinate, 0]);
    config.write32(bridge, reg::BUSES, buses);
}

/// Interrupt line, bridge control and IDE ports; tells what it is.
#[cold]
fn set_up_function<C: Config>(
    config: &mut C,
    bdf: Bdf,
    id: u32,
    header: u8,
    line: impl Fn(u8) -> u8,
) -> Function {
    let mut found = Function {
        bdf,
        header,
        class: 0,
        ide: false,
    };
    let old = config.read32(bdf, reg::INTERRUPT);
    let [_, pin, ..] = old.to_le_bytes();
    let mut new = old;
    if id == PIIX4_PM {
        new = old & !0xff | u32::from(PIIX4_SCI);
    } else if matches!(pin, 1..=4) {
        new = old & !0xff | u32::from(line(pin.wrapping_sub(1)));
    }
    if header == HEADER_BRIDGE {
        new |= BRIDGE_SERR;
    }
    if new != old {
        config.write32(bdf, reg::INTERRUPT, new);
    }
    if header != HEADER_DEVICE {
        return found;
    }
    let [_, _, sub, base] = config.read32(bdf, reg::CLASS).to_le_bytes();
    found.class = u16::from_be_bytes([base, sub]);
    found.ide = found.class == CLASS_IDE;
    if id == PIIX3_IDE || id == PIIX4_IDE {
        // IDETIM of both channels: decode the legacy ports (82371AB
        // datasheet, section 4.2). BARs for them do not exist.
        config.write32(bdf, 0x40, 0x8000_8000);
    } else if found.ide {
        for (bar, port) in [(0x10, 0x1f0), (0x14, 0x3f4), (0x18, 0x170), (0x1c, 0x374)] {
            config.write32(bdf, bar, port);
        }
    }
    found
}

const CAP_VENDOR: u8 = 0x09;
const CAP_SHPC: u8 = 0x0c;
const CAP_EXPRESS: u8 = 0x10;
const RED_HAT: u32 = 0x1b36;
/// QEMU's reservation capability: type in byte 3, its least length.
const RESERVE_TYPE: u8 = 1;
const RESERVE_LEN: u8 = 32;

/// Registers of the reservation, from the capability's start.
pub(super) mod reserve {
    /// Buses, `u32`.
    pub(in super::super) const BUSES: u16 = 4;
    /// I/O, `u64`.
    pub(in super::super) const IO: u16 = 8;
    /// Memory, `u32`.
    pub(in super::super) const MEM: u16 = 16;
    /// Prefetchable memory below 4 GiB, `u32`.
    pub(in super::super) const PREF32: u16 = 20;
    /// Prefetchable memory anywhere, `u64`.
    pub(in super::super) const PREF64: u16 = 24;
}

/// Follows a bridge's capability list, a dword each.
#[cold]
fn read_caps<C: Config>(config: &mut C, bdf: Bdf, id: u32) -> BridgeCaps {
    let mut caps = BridgeCaps::default();
    let [mut at, ..] = config.read32(bdf, reg::CAPABILITIES).to_le_bytes();
    // 48 capabilities fill the space: a list that is longer loops.
    for _ in 0..48 {
        at &= 0xfc;
        if at < 0x40 {
            break;
        }
        let [cap, next, low, high] = config.read32(bdf, at.into()).to_le_bytes();
        match cap {
            CAP_EXPRESS => {
                let port = low >> 4;
                caps.downstream = port == 4 || port == 6;
                caps.slot = caps.downstream && high & 1 != 0;
            }
            CAP_SHPC => caps.shpc = true,
            // Other vendors' capabilities may look the same.
            CAP_VENDOR if high == RESERVE_TYPE && low >= RESERVE_LEN && id & 0xffff == RED_HAT => {
                caps.reserve = at.into();
            }
            _ => {}
        }
        at = next;
    }
    caps
}

/// `bus-reserve` of a port, in buses besides its secondary one.
#[cold]
fn reserved_buses<C: Config>(config: &mut C, bdf: Bdf, caps: &BridgeCaps) -> u8 {
    if caps.reserve == 0 {
        return 0;
    }
    let buses = config.read32(bdf, caps.reserve.wrapping_add(reserve::BUSES));
    // All ones is "none"; more than there are is nonsense.
    u8::try_from(buses).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::pci::Access;
    use crate::pci::sim::{Bar, Bus, Function as Sim1, Port, Reserve, Sim};
    use proptest::prelude::*;
    use std::vec::Vec;

    const HOST: u32 = 0x29c0_8086;
    const NIC: u32 = 0x1000_1af4;

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
            &mut Access::ecam(&mut memory, 0xb000_0000),
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
        // 32 ids; header, pin and line, capabilities, numbers twice, and the
        // one behind.
        assert_eq!(sim.accesses, 32 + 1 + 2 + 2 + 2 + 1);
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
        fn write8(&mut self, _: Bdf, _: u16, _: u8) {}
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
}
