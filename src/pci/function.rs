//! Reads what a function is, and a bridge's capabilities.

use super::{Bdf, Config, reg};

/// Header types, without [`SEVERAL_FUNCTIONS`].
pub(super) const HEADER_DEVICE: u8 = 0;
pub(super) const HEADER_BRIDGE: u8 = 1;
/// The header type's bit for several functions.
pub(super) const SEVERAL_FUNCTIONS: u8 = 0x80;

/// Whether a function answered: all ones and all zeroes are no vendor id.
pub(super) const fn present(id: u32) -> bool {
    let vendor = id & 0xffff;
    vendor != 0xffff && vendor != 0
}

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

/// A bridge's capabilities (PCI Local Bus 3.0, section 6.7; PCI Express Base 4.0,
/// section 7.5.3.2; QEMU `docs/pcie_pci_bridge.txt`).
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

const CAP_VENDOR: u8 = 0x09;
const CAP_SHPC: u8 = 0x0c;
const CAP_EXPRESS: u8 = 0x10;
const RED_HAT: u32 = 0x1b36;
/// QEMU's reservation capability: its type, in byte 3, and its least length.
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

/// Follows a bridge's capability list, a dword each. In a port it ends at the PCI
/// Express capability: QEMU lists the reservation before it.
pub(super) fn read_caps<C: Config>(config: &mut C, bdf: Bdf) -> BridgeCaps {
    let mut caps = BridgeCaps::default();
    let [mut at, ..] = config.read32(bdf, reg::CAPABILITIES).to_le_bytes();
    // 48 capabilities fill the space: a longer list has a loop.
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
                if caps.downstream {
                    break;
                }
            }
            CAP_SHPC => caps.shpc = true,
            // Other vendors' capabilities may look the same.
            CAP_VENDOR
                if high == RESERVE_TYPE
                    && low >= RESERVE_LEN
                    && config.read32(bdf, reg::ID) & 0xffff == RED_HAT =>
            {
                caps.reserve = at.into();
            }
            _ => {}
        }
        at = next;
    }
    caps
}

/// `bus-reserve` of a port, in buses besides its secondary one.
pub(super) fn reserved_buses<C: Config>(config: &mut C, bdf: Bdf, caps: &BridgeCaps) -> u8 {
    if caps.reserve == 0 {
        return 0;
    }
    let buses = config.read32(bdf, caps.reserve.wrapping_add(reserve::BUSES));
    // All ones means none; more buses than exist are ignored.
    u8::try_from(buses).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{Bdf, BridgeCaps, read_caps};
    use crate::pci::sim::{Bus, Function, Port, Reserve, Sim};

    /// The capabilities of a bridge.
    fn caps(bridge: Function) -> BridgeCaps {
        read_caps(&mut Sim::new(Bus::from([(0, bridge)])), Bdf::new(0, 0, 0))
    }

    /// Bit 0 of a capability's fourth byte says that there is a slot.
    #[test]
    fn only_a_port_that_leads_down_has_a_slot() {
        for (port, slot, expected) in [
            (Port::Root, 0x01, (true, true)),
            (Port::Root, 0xfe, (true, false)),
            (Port::Downstream, 0x01, (true, true)),
            (Port::Downstream, 0x00, (true, false)),
            (Port::Upstream, 0x01, (false, false)),
            (Port::ToPci, 0x01, (false, false)),
        ] {
            let caps = caps(Function::port(port, Bus::new()).preset(0x43, &[slot]));
            assert_eq!((caps.downstream, caps.slot), expected, "{port:?} {slot:#x}");
            assert!(!caps.shpc && caps.reserve == 0);
        }
    }

    #[test]
    fn a_reservation_is_red_hats_of_this_type_and_length() {
        for (id, len, kind, found) in [
            (0x0001_1b36, 32, 1, true),
            (0x0001_1b36, 40, 1, true),
            (0x0001_1b36, 31, 1, false),
            (0x0001_1b36, 32, 2, false),
            (0x0001_1b37, 32, 1, false),
        ] {
            let bridge = Function::bridge(id, Bus::new()).reserve(Reserve::default());
            let caps = caps(bridge.preset(0x42, &[len, kind]));
            assert_eq!(
                caps.reserve,
                if found { 0x40 } else { 0 },
                "{id:x} {len} {kind}"
            );
        }
    }
}
