//! The boot sequence: from a set-up processor to a kernel's entry point.
//!
//! It reads like `docs/boot-flow.md`: chipset, files, memory map, kernel, PCI,
//! tables, loading, handoff. Each step stands where it does for a reason,
//! written beside it.

mod tables;

use self::tables::TableSpace;
use crate::acpi;
use crate::chipset::{self, Chipset};
use crate::command_line::CommandLine;
use crate::cpu::Cpuid;
use crate::e820::MemoryMap;
use crate::error::{Error, Result, Shortfall};
use crate::fw_cfg::{Directory, File, FwCfg, item};
use crate::io::{Mmio, PortIo, Terminal};
use crate::kernel::{Handoff, Kernel, Loader};
use crate::layout;
use crate::legacy;
use crate::log::{Log, Quiet, Step, Watch};
use crate::machine::Machine;
use crate::options::{EntryOption, Options};
use crate::pci::{Roots, Summary};
use crate::pcibios;
use crate::phys::{GuestMemory, PhysRange};
use crate::policy::{self, PciDecision, PciSetup};
use crate::smbios;

/// What the entry code has found out.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Dword at register 0 of 00:00.0, all ones where nothing answers.
    pub host_bridge: u32,
    /// The processor's CPUID instruction.
    pub cpuid: Cpuid,
    /// Turns the local APIC's x2APIC mode on.
    pub enable_x2apic: fn(),
}

/// One boot.
struct Boot<'b, I, F, M> {
    machine: &'b mut Machine<I, F, M>,
    shortfall: &'b mut Shortfall,
    map: &'b mut MemoryMap,
    f_segment: PhysRange,
    cpuid: Cpuid,
    enable_x2apic: fn(),
}

/// Bytes of ACPI tables from which on APIC ids of 255 and more are looked for, a
/// transfer that smaller machines are spared. A hundred processors take as much,
/// which is fewer than reach such ids in any but contrived topologies.
const TABLES_OF_MANY_PROCESSORS: u32 = 16 << 10;

/// Boots: everything from chipset to the filled-in block that the kernel
/// gets. `terminal` is where a log is printed if there is an option for one;
/// `scratch` is working memory that is free again afterwards; `shortfall` gets
/// sizes where an error is about room.
///
/// # Errors
/// Whatever [`Error`] names; nothing of the guest's has been overwritten
/// then but free memory.
pub fn boot<I: PortIo + Mmio, F: FwCfg, M: GuestMemory, T: Terminal>(
    machine: &mut Machine<I, F, M>,
    found: Found,
    terminal: T,
    scratch: &mut [u8],
    shortfall: &mut Shortfall,
) -> Result<Handoff> {
    let chipset = Chipset::from_id(found.host_bridge);
    if chipset == Chipset::Unknown {
        return Err(Error::UnknownMachine);
    }
    // Before anything reads an ACPI file: QEMU builds them from this.
    chipset::set_up(&mut machine.io, chipset);

    let mut map = MemoryMap::new();
    let mut dir = Directory::default();
    let scratch = dir.fill(&mut machine.fw_cfg, scratch)?;
    let boot = Boot {
        machine,
        shortfall,
        map: &mut map,
        f_segment: layout::F_TABLES,
        cpuid: found.cpuid,
        enable_x2apic: found.enable_x2apic,
    };
    if dir.has_options() {
        return boot.run_as_asked(chipset, &dir, terminal, scratch);
    }
    boot.run(chipset, &dir, Options::default(), Quiet(terminal), scratch)
}

impl<I: PortIo + Mmio, F: FwCfg, M: GuestMemory> Boot<'_, I, F, M> {
    /// The sequence from the memory map on. Compiled twice: without options,
    /// where nothing of `options` and `watch` is left, and as asked for.
    #[inline(always)]
    fn run<W: Watch>(
        mut self,
        chipset: Chipset,
        dir: &Directory<'_>,
        options: Options,
        mut watch: W,
        scratch: &mut [u8],
    ) -> Result<Handoff> {
        watch.note(self.machine, Step::Files(chipset, dir));
        let e820 = dir.e820().ok_or(Error::BadE820)?;
        self.read_memory_map(e820, chipset.ecam(), scratch)?;
        self.machine.memory.open(self.map.high());
        watch.note(self.machine, Step::Map(self.map));

        // The kernel's memory before the tables': its place is given, theirs
        // is not. Its command line before PCI, which it may ask for.
        let Machine { fw_cfg, memory, .. } = &mut *self.machine;
        // Both are used where they lie: moving them out costs as much as
        // many a step.
        let mut identified = Kernel::identify(fw_cfg, memory, scratch);
        let (kernel, scratch) = match &mut identified {
            Ok((kernel, scratch)) => (kernel, scratch),
            Err(error) => return Err(*error),
        };
        if options.entry != EntryOption::Auto {
            kernel.enter_as(options.entry)?;
        }
        let claimed = kernel.claim(&mut self.loader());
        let claimed = match &claimed {
            Ok(claimed) => claimed,
            Err(error) => return Err(*error),
        };
        watch.note(self.machine, Step::Kernel(kernel, claimed));

        let line = CommandLine::parse(claimed.command_line(&mut self.machine.memory)?);

        // PCI before the tables: QEMU writes what is programmed into them.
        let script = dir.table_loader();
        let has_acpi = script.is_some();
        let guest = kernel.guest();
        let has_expanders = || chipset != Chipset::None && dir.extra_pci_roots().is_some();
        let setup = policy::pci_setup(options.pci, guest, has_acpi, line, has_expanders)?;
        let pic = policy::needs_8259a(guest, has_acpi, line);
        let summary = match setup {
            PciSetup::None => None,
            _ => Some(self.set_up_pci(chipset, (setup, pic), dir, &mut watch, scratch)?),
        };
        let decision = PciDecision {
            setup,
            guest,
            has_acpi,
            line,
        };
        watch.note(self.machine, Step::Pci(decision, summary.as_ref()));
        let rsdp = self.load_acpi(dir, script, line.contains(CommandLine::ACPI_OFF), scratch)?;
        watch.note(self.machine, Step::Acpi(rsdp));
        if !has_acpi || line.contains(CommandLine::ACPI_OFF) {
            let roots = summary.map_or_else(Roots::default, |summary| summary.roots);
            let (cpuid, room) = (self.cpuid, self.f_segment);
            self.f_segment = legacy::build_mp_table(self.machine, chipset, &roots, cpuid, room)?;
            watch.note(self.machine, Step::MpTable);
        }
        let entry_point = self.load_smbios(chipset, dir)?;
        watch.note(self.machine, Step::Smbios(entry_point));
        #[cfg(feature = "markers")]
        crate::markers::loading(&mut self.machine.io);
        let handoff = kernel.load(claimed, rsdp, &mut self.loader());
        if let Ok(done) = handoff {
            watch.note(self.machine, Step::Loaded(done, self.map));
        }
        handoff
    }

    /// The sequence as the options ask for it, with its log.
    #[cold]
    #[inline(never)]
    fn run_as_asked<T: Terminal>(
        self,
        chipset: Chipset,
        dir: &Directory<'_>,
        terminal: T,
        scratch: &mut [u8],
    ) -> Result<Handoff> {
        let options = Options::read(dir, &mut self.machine.fw_cfg)?;
        let log = Log::new(terminal, options.log);
        self.run(chipset, dir, options, log, scratch)
    }

    /// Sets up PCI, and offers it as a service.
    #[cold]
    #[inline(never)]
    fn set_up_pci<W: Watch>(
        &mut self,
        chipset: Chipset,
        (setup, pic): (PciSetup, bool),
        dir: &Directory<'_>,
        watch: &mut W,
        scratch: &mut [u8],
    ) -> Result<Summary> {
        if pic {
            chipset::set_up_legacy(&mut self.machine.io, chipset);
        }
        let summary = legacy::set_up_pci(
            self.machine,
            chipset,
            setup,
            dir,
            self.map,
            self.cpuid,
            scratch,
        )?;
        watch.warn(&summary);
        if chipset != Chipset::None {
            let memory = &mut self.machine.memory;
            self.f_segment = pcibios::offer(memory, self.f_segment, summary.last_bus)?;
        }
        Ok(summary)
    }

    fn loader(&mut self) -> Loader<'_, F, M> {
        Loader {
            fw_cfg: &mut self.machine.fw_cfg,
            memory: &mut self.machine.memory,
            map: self.map,
            shortfall: self.shortfall,
        }
    }

    #[inline(always)]
    fn read_memory_map(&mut self, file: File, ecam: PhysRange, scratch: &mut [u8]) -> Result<()> {
        let raw = scratch
            .get_mut(..file.size as usize)
            .ok_or(Error::TooManyE820Entries)?;
        self.machine.fw_cfg.read_inline(file.selector, raw)?;
        self.map.fill(raw, ecam)
    }

    /// Loads the ACPI tables; gives the RSDP's address, 0 without one.
    #[inline(always)]
    fn load_acpi(
        &mut self,
        dir: &Directory<'_>,
        script: Option<File>,
        acpi_off: bool,
        scratch: &mut [u8],
    ) -> Result<u32> {
        let Some(script) = script else { return Ok(0) };
        let Machine { fw_cfg, memory, .. } = &mut *self.machine;
        let script = acpi::read_script(script, fw_cfg, scratch)?;
        let mut space = TableSpace::new(self.map, self.shortfall, &mut self.f_segment);
        let rsdp = acpi::load(script, dir, fw_cfg, memory, &mut space)?;
        space.finish()?;
        if space.used >= TABLES_OF_MANY_PROCESSORS && !acpi_off {
            self.reach_processors()?;
        }
        Ok(rsdp.unwrap_or(0))
    }

    /// Turns x2APIC mode on where a processor has an APIC id of 255 or more:
    /// Linux leaves such processors out unless it is on already.
    #[cold]
    #[inline(never)]
    fn reach_processors(&mut self) -> Result<()> {
        let mut limit = [0; 2];
        self.machine.fw_cfg.read(item::MAX_CPUS, &mut limit)?;
        // Leaf 1, ECX: the processor has x2APIC.
        if u16::from_le_bytes(limit) > 255 && (self.cpuid)(1, 0)[2] & 1 << 21 != 0 {
            (self.enable_x2apic)();
        }
        Ok(())
    }

    /// Loads or makes SMBIOS; gives its entry point's address.
    #[inline(always)]
    fn load_smbios(&mut self, chipset: Chipset, dir: &Directory<'_>) -> Result<u32> {
        let Machine { fw_cfg, memory, .. } = &mut *self.machine;
        let Some(files) = dir.smbios() else {
            // systemd and cloud-init look for it on microvm too, where QEMU has
            // none, and where the F segment is the image with our own.
            if chipset != Chipset::None {
                smbios::put_minimal(memory)?;
            }
            return Ok(layout::OWN_SMBIOS.start());
        };
        let mut space = TableSpace::new(self.map, self.shortfall, &mut self.f_segment);
        let entry_point = smbios::load(files, fw_cfg, memory, &mut space)?;
        space.finish()?;
        Ok(entry_point)
    }
}
