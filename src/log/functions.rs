//! The PCI functions there are, and what each has been given.

use crate::io::Terminal;
use crate::text::print;

/// The bit of a configuration address that makes the ports answer (PCI Local Bus
/// 3.0, 3.2.2.3.2).
const BY_PORTS: u32 = 1 << 31;

/// Lists the functions of the buses up to `last_bus`, each with its header's
/// dwords from the second on. Every function is asked for: QEMU's do not answer
/// for one another.
#[cold]
#[inline(never)]
pub fn list<T: Terminal>(terminal: &mut T, last_bus: u8) {
    let end = u32::from(last_bus) << 16 | 0xff00;
    // Where the mechanism of ports has no host bridge, ECAM alone may have one.
    let by_ports = if terminal.pci(BY_PORTS) == u32::MAX {
        0
    } else {
        BY_PORTS
    };
    let mut address = 0;
    while address <= end {
        // Bus, device, function and register, each at its place.
        let enabled = by_ports | address;
        let id = terminal.pci(enabled);
        if id != u32::MAX {
            let values = [
                address >> 16,
                address >> 11 & 31,
                address >> 8 & 7,
                id,
                id >> 16,
            ];
            print(terminal, "qboot:   function %:%.# ~:~", &values);
            for dword in 1..16 {
                let value = terminal.pci(enabled | dword << 2);
                print(terminal, " $", &[value]);
            }
            terminal.print(b"\r\n");
        }
        address = address.wrapping_add(0x100);
    }
}
