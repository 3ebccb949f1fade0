//! Lists the PCI functions with their configuration, for the log.

use super::{Bdf, Config as _, access, reg};
use crate::chipset::Chipset;
use crate::platform::Platform;
use crate::text::print;

/// Lists the functions of the buses up to `last_bus`, with the dwords of their headers
/// from the second on.
pub fn list<P: Platform>(platform: &mut P, chipset: &Chipset, last_bus: u8) {
    for bits in 0..=u16::from_be_bytes([last_bus, 0xff]) {
        let bdf = Bdf::from_bits(bits);
        let Some((mut config, _)) = access(platform, chipset) else {
            return;
        };
        let id = config.read32(bdf, reg::ID);
        if id == u32::MAX {
            continue;
        }
        let mut header = [0; 15];
        for (register, value) in (reg::COMMAND..).step_by(4).zip(&mut header) {
            *value = config.read32(bdf, register);
        }
        let [bus, device, function] = [bdf.bus(), bdf.device(), bdf.function()].map(u32::from);
        let ids = [bus, device, function, id, id >> 16];
        print(platform, "qboot:   function %:%.# ~:~", &ids);
        for &value in &header {
            print(platform, " $", &[value]);
        }
        platform.print(b"\r\n");
    }
}
