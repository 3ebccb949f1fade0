//! The PCI functions there are, and what each has been given.

use crate::io::Terminal;
use crate::pci::reg;
use crate::text::print;

/// Lists the functions of the buses up to `last_bus`. Every function is asked
/// for: QEMU's do not answer for one another.
#[cold]
#[inline(never)]
pub fn list<T: Terminal>(terminal: &mut T, last_bus: u8) {
    let end = u32::from(last_bus) << 16 | 0xff00;
    let mut address = 0;
    while address <= end {
        // Bus, device, function and register, each at its place.
        let mut read = |register| terminal.pci(1 << 31 | address | register);
        let id = read(0);
        if id != u32::MAX {
            let class = read(reg::CLASS.into());
            let line = read(reg::INTERRUPT.into());
            let is_bridge = read(reg::HEADER.into()) >> 16 & 0x7f == 1;
            function(terminal, address, is_bridge, [id, class, line]);
        }
        address = address.wrapping_add(0x100);
    }
}

/// One line. A bridge has two BARs, then its buses and windows.
fn function<T: Terminal>(terminal: &mut T, address: u32, is_bridge: bool, of: [u32; 3]) {
    let [id, class, line] = of;
    let values = [
        address >> 16,
        address >> 11 & 31,
        address >> 8 & 7,
        id,
        id >> 16,
        class >> 16,
        line & 0xff,
    ];
    let format = "qboot:   function %:%.# ~:~ class ~ line # BARs";
    print(terminal, format, &values);
    let mut at = 0x10;
    while at < if is_bridge { 0x30 } else { 0x28 } {
        let value = terminal.pci(1 << 31 | address | at);
        if is_bridge && at == 0x18 {
            print(terminal, " buses %-% windows", &[value >> 8, value >> 16]);
        } else {
            print(terminal, " $", &[value]);
        }
        at = at.wrapping_add(4);
    }
    terminal.print(b"\r\n");
}
