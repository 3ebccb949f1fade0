//! The I/O APIC inputs of the devices, for the MP table.

use super::function::{HEADER_BRIDGE, present};
use super::{Bdf, Config, Routing, reg};
use crate::byte_set::ByteSet;

/// An interrupt pin of a device on a root bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// The root bus.
    pub bus: u8,
    /// Device number, below 32.
    pub device: u8,
    /// 0 for INTA# to 3 for INTD#.
    pub intx: u8,
    /// Input, counted over all I/O APICs.
    pub gsi: u8,
}

/// Calls `visit` for every pin of a device on a root bus, and for all four of a bridge,
/// which stand for the pins behind it.
///
/// A kernel that reads the MP table follows bridges itself (MultiProcessor
/// Specification 1.4, section D.3), so nothing behind one is listed. The order is bus,
/// device, pin; a bus has at most 128.
pub fn interrupts<C: Config>(
    config: &mut C,
    roots: &ByteSet,
    routing: Routing,
    mut visit: impl FnMut(Interrupt),
) {
    for bus in roots.iter() {
        for device in 0..32 {
            let pins = device_pins(config, bus, device);
            for intx in 0..4 {
                if pins & 1 << intx != 0 {
                    visit(Interrupt {
                        bus,
                        device,
                        intx,
                        gsi: routing.gsi(bus, device, intx),
                    });
                }
            }
        }
    }
}

/// The pins of a device, all functions together; bit 0 is INTA#.
fn device_pins<C: Config>(config: &mut C, bus: u8, device: u8) -> u8 {
    let mut pins = 0;
    for function in 0..8 {
        let bdf = Bdf::new(bus, device, function);
        let there = present(config.read32(bdf, reg::ID));
        if there {
            let [_, _, header, _] = config.read32(bdf, reg::HEADER).to_le_bytes();
            if header & 0x7f == HEADER_BRIDGE {
                pins = 15;
            }
            let [_, pin, ..] = config.read32(bdf, reg::INTERRUPT).to_le_bytes();
            if matches!(pin, 1..=4) {
                pins |= 1 << (pin & 7).wrapping_sub(1);
            }
            if function == 0 && header & 0x80 == 0 {
                break;
            }
        } else if function == 0 {
            break;
        }
    }
    pins
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::sim::{Bus, Function, Port, Sim};
    use std::vec::Vec;

    #[test]
    fn pins_of_the_root_buses() {
        let nic = || Function::device(0x1000_1af4, 0x0200);
        let mut sim = Sim::new(Bus::from([
            (3 << 3, nic().pin(1).multi()),
            (3 << 3 | 5, nic().pin(3)),
            (4 << 3, nic()),
            (4 << 3 | 1, nic().pin(1)),
            (31 << 3, nic().pin(2)),
        ]))
        .root(
            0x20,
            Bus::from([(
                0,
                Function::port(Port::Root, Bus::from([(0, nic().pin(1))])),
            )]),
        );
        let mut roots = ByteSet::default();
        roots.insert(0);
        roots.insert(0x20);
        let mut seen = Vec::new();
        interrupts(&mut sim, &roots, Routing::Ich9, |i| {
            seen.push((i.bus, i.device, i.intx, i.gsi));
        });
        assert_eq!(
            seen,
            [
                (0, 3, 0, 23),
                (0, 3, 2, 21),
                (0, 31, 1, 17),
                (0x20, 0, 0, 20),
                (0x20, 0, 1, 21),
                (0x20, 0, 2, 22),
                (0x20, 0, 3, 23),
            ]
        );
    }
}
