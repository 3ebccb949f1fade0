//! Fuzz targets: each takes any bytes, and panics if an invariant does not hold.

mod boot;
mod directory;
mod kernel;
mod loader;
mod memory_map;
mod pci;
mod smbios;

pub use boot::{RAW, boot, encode};
pub use directory::directory;
pub use kernel::{bzimage, elf, elf_image, header, uki_image, unified};
pub use loader::loader;
pub use memory_map::e820_map;
pub use pci::pci_tree;
pub use smbios::smbios_tables;

use super::{Board, Guest, Machine, Memory, e820};

use crate::fw_cfg::fake::FakeFwCfg;
use crate::layout;
use crate::memory::map::MemoryMap;
use crate::phys::PhysRange;
use crate::platform::GuestMemory as _;
use arbitrary::{Result as Arbitrary, Unstructured};

/// A target: takes any bytes.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const ALL: [(&str, Target); 9] = [
    ("directory", directory),
    ("loader", loader),
    ("e820", e820_map),
    ("smbios", smbios_tables),
    ("header", header),
    ("elf", elf),
    ("uki", uki_image),
    ("pci", pci_tree),
    ("boot", boot),
];

/// File names for scripts and items.
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

/// End of RAM for targets that only load tables.
const RAM_END: u32 = 0x40_0000;

/// A machine with these items, and its map.
fn machine(fw_cfg: FakeFwCfg) -> (Machine, MemoryMap) {
    let mut machine = Machine {
        fw_cfg,
        memory: Memory::new(RAM_END),
        ..Machine::default()
    };
    let mut map = MemoryMap::new();
    let filled = map.fill(&e820(RAM_END.into()), PhysRange::EMPTY);
    assert!(filled.is_ok(), "{filled:?}");
    machine.open(map.high());
    (machine, map)
}

/// Whether tables may lie there: in the F segment, or in what was claimed.
fn is_given(map: &MemoryMap, range: PhysRange) -> bool {
    let inside = |claim: &PhysRange| claim.contains(range);
    range.is_empty() || layout::F_TABLES.contains(range) || map.claims().iter().any(inside)
}

fn run_and_check(guest: &mut Guest) {
    let result = guest.run();
    let verdict = guest.check(result);
    assert!(verdict.is_ok(), "{result:x?}: {verdict:?}");
}
