//! The boot sequence: from a set-up processor to a kernel's entry point.
//!
//! The reason for a step's place is written beside it. `docs/boot-flow.md` describes
//! the same boot with the entry code and the handoff.

use crate::chipset::Chipset;
use crate::error::{Error, Result};
use crate::fw_cfg::{Directory, file};
use crate::kernel::{Handoff, Kernel, Loaded, Loader};
use crate::log::{self, Log};
use crate::memory::map::MemoryMap;
use crate::pci::{self, Summary};
use crate::platform::Platform;
use crate::settings::command_line::CommandLine;
use crate::settings::options::Options;
use crate::settings::policy::{Facts, PciSetup};
use crate::tables::acpi::{self, Tables};
use crate::tables::space::TableSpace;
use crate::tables::{low_memory, mptable, pcibios, smbios};
use crate::wake;

/// Boots: sets up the chipset, loads everything, and fills in the block that the kernel
/// gets. `host_bridge` is the dword at register 0 of 00:00.0. `scratch` is working
/// memory, free again afterwards.
///
/// # Errors
/// Any [`Error`]. Only free memory has been written then.
pub fn boot<P: Platform>(p: &mut P, host_bridge: u32, scratch: &mut [u8]) -> Result<Handoff> {
    let chipset = Chipset::find(host_bridge).ok_or(Error::UnknownMachine)?;
    // Before any ACPI file is read: QEMU builds the tables from these registers.
    chipset.set_up(p);

    let (dir, scratch) = Directory::read(p, scratch)?;
    let options = Options::read(&dir, p)?;
    let mut log = Log::new(options.log);
    log.files(p, chipset, &dir);

    let mut map = MemoryMap::new();
    read_memory_map(p, &dir, chipset, &mut map, scratch)?;
    log.map(p, &map);

    // The kernel claims its memory before the tables: its place is given, theirs is
    // not. Its command line is read with it, since that may ask for PCI.
    let (kernel, scratch) = Kernel::claim(&mut Loader::new(p, &mut map), options.entry, scratch)?;
    log.kernel(p, &kernel);

    // PCI before the tables: QEMU builds them from what is programmed.
    let script = dir.find(file::TABLE_LOADER);
    let line = p.bytes(kernel.command_line());
    let facts = Facts {
        option: options.pci,
        guest: kernel.guest(),
        has_acpi: script.is_some(),
        line: line.map_or(CommandLine::default(), |line| CommandLine::parse(line)),
        has_expanders: chipset.pci.is_some() && dir.find(file::EXTRA_PCI_ROOTS).is_some(),
        has_ecam: !chipset.ecam.is_empty(),
    };
    let setup = facts.pci_setup()?;
    let all_buses = facts.needs_all_buses(options.buses);
    let is_legacy = facts.needs_legacy_setup(setup);
    if is_legacy {
        chipset.set_up_legacy(p);
    }
    if all_buses {
        chipset.open_all_buses(p, &mut map)?;
    }
    let mut summary = Summary::default();
    pci::set_up(p, chipset, setup, &dir, &mut map, scratch, &mut summary)?;
    log::warn(p, &summary);
    log.pci(p, chipset, &facts, setup, &summary);

    let mut space = TableSpace::new(&mut map);
    if setup > PciSetup::Buses {
        serve_pci(p, chipset, &mut space, summary.last_bus)?;
    }
    let knows_buses = setup != PciSetup::None && !all_buses && summary.unnumbered == 0;
    let mut tables = Tables::new(knows_buses.then_some(summary.last_bus));
    if let Some(script) = script {
        acpi::load(p, &dir, script, &mut space, scratch, &mut tables)?;
    }
    log.acpi(p, &tables);
    reach_processors(p, &facts, &tables);
    // Without a host bridge the F segment is the image, which has SMBIOS structures of
    // its own.
    let entry_point = smbios::load(p, &dir, &mut space, chipset.pci.is_none())?;
    log.smbios(p, entry_point);
    // Last, since it may fill the rest of the F segment.
    if facts.needs_mp_table() && mptable::offer(p, chipset, &summary.roots, &mut space)? {
        log.mp_table(p);
    }
    space.finish()?;

    #[cfg(feature = "markers")]
    crate::markers::loading(p);
    let rsdp = tables.rsdp.unwrap_or(0);
    let loaded = kernel.load(&mut Loader::new(p, &mut map), rsdp)?;
    log.loaded(p, &loaded, &map);
    note_for_wake_up(p, chipset, &tables, &map, loaded, is_legacy)?;
    Ok(loaded.handoff)
}

/// Reads the memory map, and opens the RAM that it shows.
fn read_memory_map<P: Platform>(
    p: &mut P,
    dir: &Directory<'_>,
    chipset: &Chipset,
    map: &mut MemoryMap,
    scratch: &mut [u8],
) -> Result<()> {
    let file = dir.find(file::E820).ok_or(Error::BadE820)?;
    let raw = scratch.get_mut(..file.size as usize);
    let raw = raw.ok_or(Error::TooManyE820Entries)?;
    p.read(file.selector, raw)?;
    // Linux trusts the MCFG table only if the ECAM is reserved.
    map.fill(raw, chipset.ecam)?;
    p.open(map.high());
    Ok(())
}

/// Gives the BIOS services for PCI what they need.
fn serve_pci<P: Platform>(
    p: &mut P,
    chipset: &Chipset,
    space: &mut TableSpace<'_>,
    last_bus: u8,
) -> Result<()> {
    low_memory::set_last_bus(p, last_bus)?;
    if chipset.pci.is_some() {
        pcibios::offer(p, space, last_bus)?;
    }
    Ok(())
}

/// Leaves a note on machines that can sleep. On others [`wake`] must not run, because
/// tables overwrite its code (`linker.ld`).
fn note_for_wake_up<P: Platform>(
    p: &mut P,
    chipset: &Chipset,
    tables: &Tables,
    map: &MemoryMap,
    loaded: Loaded,
    is_legacy: bool,
) -> Result<()> {
    if chipset.pci.is_none() {
        return Ok(());
    }
    wake::note(p, tables, map, &loaded.handoff, is_legacy)
}

/// Turns x2APIC mode on if a processor has an APIC id above 254: otherwise Linux leaves
/// such processors out.
fn reach_processors<P: Platform>(p: &mut P, facts: &Facts, tables: &Tables) {
    /// CPUID leaf 1, ECX: the processor has x2APIC.
    const X2APIC: u32 = 1 << 21;
    if facts.reads_acpi() && tables.has_x2apic_ids(p) {
        let [_, _, features, _] = p.cpuid(1, 0);
        if features & X2APIC != 0 {
            p.enable_x2apic();
        }
    }
}
