//! The PCI functions there are, and what each has been given.

use crate::io::{Mmio, PortIo, Terminal};
use crate::layout::MICROVM_ECAM;
use crate::pci::{Access, Bdf, Config as _, reg};
use crate::text::print;

/// Lists the functions of the buses up to `last_bus`, each with its header's
/// dwords from the second on. Every function is asked for: QEMU's do not answer
/// for one another.
#[cold]
#[inline(never)]
pub fn list<T: Terminal, I: PortIo + Mmio>(terminal: &mut T, io: &mut I, last_bus: u8) {
    // Where the mechanism of ports has no host bridge, ECAM alone may have one.
    let mut config = match Access::cam(io).read32(Bdf::default(), reg::ID) {
        u32::MAX => Access::ecam(io, MICROVM_ECAM.start()),
        _ => Access::cam(io),
    };
    let end = u32::from(last_bus).wrapping_add(1) << 8;
    for bits in 0..end {
        let [devfn, bus, ..] = bits.to_le_bytes();
        let bdf = Bdf::on_bus(bus, devfn);
        let id = config.read32(bdf, reg::ID);
        if id != u32::MAX {
            let values = [bits >> 8, bits >> 3 & 31, bits & 7, id, id >> 16];
            print(terminal, "qboot:   function %:%.# ~:~", &values);
            for dword in 1..16 {
                print(terminal, " $", &[config.read32(bdf, dword << 2)]);
            }
            terminal.print(b"\r\n");
        }
    }
}
