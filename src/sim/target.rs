//! What fuzzing drives: each function takes any bytes, and stops with a
//! sentence where an invariant does not hold.

mod boot;
mod directory;
mod kernel;
mod loader;
mod memory_map;
mod pci;
mod smbios;

pub use boot::{RAW, boot, encode};
pub use directory::directory;
pub use kernel::{bzimage, elf, elf_image, header};
pub use loader::loader;
pub use memory_map::e820_map;
pub use pci::pci_tree;
pub use smbios::smbios_tables;

use super::{Board, Guest, Memory};

use crate::acpi::{Allocator, Zone};
use crate::error::{Error, Result};
use crate::fw_cfg::fake::FakeFwCfg;
use crate::layout;
use crate::phys::{GuestMemory as _, PhysRange, align_up};
use arbitrary::{Result as Arbitrary, Unstructured};
use std::vec::Vec;

/// A target: takes any bytes.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const ALL: [(&str, Target); 8] = [
    ("directory", directory),
    ("loader", loader),
    ("e820", e820_map),
    ("smbios", smbios_tables),
    ("header", header),
    ("elf", elf),
    ("pci", pci_tree),
    ("boot", boot),
];

/// Names that a script and the items of a machine draw on.
const NAMES: [&str; 10] = [
    "etc/acpi/rsdp",
    "etc/acpi/tables",
    "etc/table-loader",
    "etc/e820",
    "etc/vmgenid_addr",
    "etc/smbios/smbios-anchor",
    "etc/smbios/smbios-tables",
    "etc/extra-pci-roots",
    "etc/reserved-memory-end",
    "opt/org.qboot/pci",
];

/// Gives out two ranges, upwards.
struct Arena {
    high: PhysRange,
    fseg: PhysRange,
    given: Vec<PhysRange>,
}

impl Allocator for Arena {
    fn alloc(&mut self, zone: Zone, len: u32, align: u32) -> Result<PhysRange> {
        assert!(align.is_power_of_two());
        let from = match zone {
            Zone::High => &mut self.high,
            Zone::Fseg => &mut self.fseg,
        };
        let range = align_up(from.start(), align)
            .and_then(|start| PhysRange::new(start, len))
            .filter(|range| from.contains(*range))
            .ok_or(Error::TablesTooBig)?;
        *from = PhysRange::between(range.end(), from.end()).ok_or(Error::TablesTooBig)?;
        self.given.push(range);
        Ok(range)
    }
}

fn arena(memory: &mut Memory) -> Arena {
    let high = PhysRange::fixed(layout::HIGH_RAM, 0x40_0000);
    memory.open(high);
    Arena {
        high,
        fseg: layout::F_TABLES,
        given: Vec::new(),
    }
}

fn judge(guest: &mut Guest) {
    let result = guest.run();
    let verdict = guest.check(result);
    assert!(verdict.is_ok(), "{result:x?}: {verdict:?}");
}
