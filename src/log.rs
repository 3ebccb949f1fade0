//! The log: what each step of a boot took and found, where
//! `opt/org.qboot/log` asks for it.
//!
//! The sequence tells a [`Watch`] about its steps. Where no option is given
//! that is [`Quiet`], of which nothing is left in the code; the sequence with
//! a [`Log`] is compiled a second time and stays in the ROM.

mod functions;

use crate::chipset::Chipset;
use crate::command_line::CommandLine;
use crate::e820::{Kind, MemoryMap};
use crate::error::Warning;
use crate::fw_cfg::Directory;
use crate::io::{Mmio, PortIo, Terminal};
use crate::kernel::{Claimed, Handoff, Kernel};
use crate::machine::Machine;
use crate::options::LogOption;
use crate::pci::{Bdf, Summary};
use crate::phys::{GuestMemory, PhysRange, u32_at};
use crate::policy::{Guest, PciDecision, PciSetup};
use crate::text::{print, print_foreign};

/// A step that is done, and what it found.
#[derive(Clone, Copy, Debug)]
pub enum Step<'s> {
    /// The host bridge is known, the file directory read.
    Files(Chipset, &'s Directory<'s>),
    /// The memory map is complete.
    Map(&'s MemoryMap),
    /// The kernel is identified, its memory claimed, its command line read.
    Kernel(&'s Kernel<'s>, &'s Claimed),
    /// What was decided about PCI, and what came of it where it was set up.
    Pci(PciDecision, Option<&'s Summary>),
    /// The ACPI tables are loaded; the RSDP's address, 0 without any.
    Acpi(u32),
    /// An MP table was built.
    MpTable,
    /// SMBIOS is there: its entry point's address.
    Smbios(u32),
    /// Everything is loaded.
    Loaded(Handoff, &'s MemoryMap),
}

/// Who is told about steps.
pub trait Watch {
    /// `step` is done.
    fn note<I, F, M>(&mut self, machine: &mut Machine<I, F, M>, step: Step<'_>)
    where
        I: PortIo + Mmio,
        M: GuestMemory;
    /// PCI was set up; what of it has no place is to be known in any case.
    fn warn(&mut self, summary: &Summary);
}

/// Nobody, but for warnings.
#[derive(Clone, Copy, Debug)]
pub struct Quiet<T>(pub T);

impl<T: Terminal> Watch for Quiet<T> {
    #[inline(always)]
    fn note<I, F, M>(&mut self, _: &mut Machine<I, F, M>, _: Step<'_>)
    where
        I: PortIo + Mmio,
        M: GuestMemory,
    {
    }

    fn warn(&mut self, summary: &Summary) {
        warn(&mut self.0, summary);
    }
}

/// Prints what the guest will miss.
#[cold]
#[inline(never)]
fn warn<T: Terminal>(terminal: &mut T, summary: &Summary) {
    if let Some(first) = summary.first_unplaced {
        begin_warning(terminal, Warning::PciUnplaced, summary.unplaced, first.bdf);
        let (unit, order) = match first.order {
            30.. => (" GiB", first.order.wrapping_sub(30)),
            20..30 => (" MiB", first.order.wrapping_sub(20)),
            10..20 => (" KiB", first.order.wrapping_sub(10)),
            _ => ("", first.order),
        };
        let size = 1_u32.checked_shl(order.into()).unwrap_or(u32::MAX);
        print(terminal, " BAR # of #", &[first.bar.into(), size]);
        terminal.print(unit.as_bytes());
        terminal.print(")\r\n".as_bytes());
    }
    if let Some(first) = summary.first_unnumbered {
        let count = summary.unnumbered;
        begin_warning(terminal, Warning::PciUnnumbered, count, first);
        terminal.print(")\r\n".as_bytes());
    }
}

#[cold]
#[inline(never)]
fn begin_warning<T: Terminal>(terminal: &mut T, warning: Warning, count: u16, first: Bdf) {
    print(terminal, "qboot: warning %: ", &[warning.code().into()]);
    terminal.print(warning.message().as_bytes());
    let [bus, device, function] = [first.bus(), first.device(), first.function()].map(u32::from);
    let values = [count.into(), bus, device, function];
    print(terminal, " (#, the first %:%.#", &values);
}

/// A log on a terminal.
#[derive(Debug)]
pub struct Log<T> {
    terminal: T,
    option: LogOption,
    /// When the last line was printed.
    last: u64,
}

impl<T: Terminal> Watch for Log<T> {
    #[inline(never)]
    fn note<I, F, M>(&mut self, machine: &mut Machine<I, F, M>, step: Step<'_>)
    where
        I: PortIo + Mmio,
        M: GuestMemory,
    {
        if self.option == LogOption::Off {
            return;
        }
        // The time that the step took, without what printing it takes.
        let ticks = self.terminal.ticks().wrapping_sub(self.last);
        self.add("qboot: # ", &[u32::try_from(ticks).unwrap_or(u32::MAX)]);
        let Machine { io, memory, .. } = machine;
        match step {
            Step::Files(chipset, dir) => self.files(chipset, dir),
            Step::Map(map) => self.map(map),
            Step::Kernel(kernel, claimed) => self.kernel(memory, kernel, claimed),
            Step::Pci(decision, summary) => self.pci(io, decision, summary),
            Step::Acpi(rsdp) => self.acpi(memory, rsdp),
            Step::MpTable => self.say("mptable: built\r\n"),
            Step::Smbios(entry) => self.add("smbios: entry point 0x$\r\n", &[entry]),
            Step::Loaded(handoff, map) => self.loaded(memory, handoff, map),
        }
        self.last = self.terminal.ticks();
    }

    fn warn(&mut self, summary: &Summary) {
        warn(&mut self.terminal, summary);
    }
}

impl<T: Terminal> Log<T> {
    /// A log that has printed nothing yet.
    pub const fn new(terminal: T, option: LogOption) -> Self {
        Self {
            terminal,
            option,
            last: 0,
        }
    }

    /// Whether each thing found gets a line of its own.
    fn is_detailed(&self) -> bool {
        self.option == LogOption::All
    }

    fn say(&mut self, text: &str) {
        self.terminal.print(text.as_bytes());
    }

    fn add(&mut self, format: &str, values: &[u32]) {
        print(&mut self.terminal, format, values);
    }

    fn files(&mut self, chipset: Chipset, dir: &Directory<'_>) {
        let name = match chipset {
            Chipset::I440fx => "machine: i440FX",
            Chipset::Q35 => "machine: Q35",
            Chipset::None | Chipset::Unknown => "machine: no host bridge",
        };
        self.say(name);
        let count = u32::try_from(dir.entries().len()).unwrap_or(u32::MAX);
        self.add(", # files\r\n", &[count]);
        if self.is_detailed() {
            for entry in dir.entries() {
                self.say("qboot:   file ");
                print_foreign(&mut self.terminal, entry.name());
                self.add(", # bytes\r\n", &[entry.file().size]);
            }
        }
    }

    fn map(&mut self, map: &MemoryMap) {
        let ram = map.entries().iter().filter(|e| e.kind() == Kind::RAM);
        let bytes: u64 = ram.fold(0, |sum, entry| sum.saturating_add(entry.len()));
        // What of the first MiB is no RAM rounds away.
        let mib = bytes.saturating_add(0xf_ffff) >> 20;
        let count = u32::try_from(map.entries().len()).unwrap_or(u32::MAX);
        let mib = u32::try_from(mib).unwrap_or(u32::MAX);
        self.add("e820: # entries, # MiB\r\n", &[count, mib]);
        self.ranges(map);
    }

    fn ranges(&mut self, map: &MemoryMap) {
        if !self.is_detailed() {
            return;
        }
        for entry in map.entries() {
            let [base, end] = [entry.base(), entry.end()].map(halves);
            let values = [base[0], base[1], end[0], end[1], entry.kind().number()];
            self.add("qboot:   range 0x$$-0x$$, type #\r\n", &values);
        }
    }

    fn kernel<M: GuestMemory>(&mut self, memory: &mut M, kernel: &Kernel<'_>, claimed: &Claimed) {
        let (name, number, at) = match kernel {
            Kernel::Linux(header) => ("bzImage", header.protocol().into(), claimed.image()),
            Kernel::RealMode(header) => ("16-bit", header.protocol().into(), claimed.image()),
            Kernel::Elf { entry, span, .. } => ("PVH", *entry, Some(*span)),
            Kernel::Multiboot(_) => ("multiboot", 1, claimed.image()),
        };
        let what = match kernel {
            Kernel::Elf { .. } => ", entry 0x$",
            _ => ", protocol 0x$",
        };
        self.say("kernel: ");
        self.say(name);
        self.add(what, &[number]);
        let at = at.map_or([0; 2], |at| [at.start(), at.end()]);
        self.add(", at 0x$-0x$\r\n", &at);
        if self.is_detailed()
            && let Ok(line) = claimed.command_line(memory)
        {
            self.say("qboot:   command line ");
            print_foreign(&mut self.terminal, line);
            self.say("\r\n");
        }
    }

    fn pci<I: PortIo + Mmio>(
        &mut self,
        io: &mut I,
        decision: PciDecision,
        summary: Option<&Summary>,
    ) {
        let setup = match decision.setup {
            PciSetup::None => "pci: none",
            PciSetup::Scan => "pci: scan",
            PciSetup::Full => "pci: full",
        };
        self.say(setup);
        self.say(match decision.guest {
            Guest::Linux => " for Linux",
            Guest::Linux32 => " for 32-bit Linux",
            Guest::Other => " for another kernel",
        });
        let line = decision.line;
        let acpi = match decision.has_acpi {
            true if line.contains(CommandLine::ACPI_OFF) => " with acpi=off",
            true if line.contains(CommandLine::PCI_WITHOUT_ACPI) => " with ACPI, not for PCI",
            true => " with ACPI",
            false => " without ACPI",
        };
        self.say(acpi);
        let mut last_bus = 0;
        if let Some(summary) = summary {
            last_bus = summary.last_bus;
            // What has no number or no place is told in a warning.
            let counts = [summary.functions.into(), last_bus.into()];
            self.add(", # functions, last bus #", &counts);
        }
        self.say("\r\n");
        if self.is_detailed() {
            functions::list(&mut self.terminal, io, last_bus);
        }
    }

    /// What the RSDP leads to (ACPI 6.5, 5.2.5 to 5.2.9).
    fn acpi<M: GuestMemory>(&mut self, memory: &mut M, rsdp: u32) {
        // The RSDT, or where there is none the XSDT, which lies below 4 GiB.
        let (root, shift) = match dword(memory, rsdp, 16) {
            0 => (dword(memory, rsdp, 24), 3),
            root => (root, 2),
        };
        let count = dword(memory, root, 4).saturating_sub(36) >> shift;
        self.add("acpi: # tables, RSDP 0x$\r\n", &[count, rsdp]);
        if !self.is_detailed() {
            return;
        }
        for index in 0..count.min(MAX_TABLES) {
            let offset = (index << shift).saturating_add(36);
            let table = dword(memory, root, offset);
            self.table(memory, table);
            // What the FADT points to is not in the root table.
            if dword(memory, table, 0) == u32::from_le_bytes(*b"FACP") {
                for field in [36, 40] {
                    let other = dword(memory, table, field);
                    self.table(memory, other);
                }
            }
        }
    }

    fn table<M: GuestMemory>(&mut self, memory: &mut M, addr: u32) {
        if addr == 0 {
            return;
        }
        self.say("qboot:   table ");
        let name = dword(memory, addr, 0).to_le_bytes();
        print_foreign(&mut self.terminal, &name);
        self.add(" 0x$, # bytes\r\n", &[addr, dword(memory, addr, 4)]);
    }

    fn loaded<M: GuestMemory>(&mut self, memory: &mut M, handoff: Handoff, map: &MemoryMap) {
        let (name, entry, block, initrd) = match handoff {
            Handoff::Linux { entry, boot_params } => {
                // ramdisk_image and ramdisk_size.
                let initrd = [0x218, 0x21c].map(|field| dword(memory, boot_params, field));
                ("zero page", entry, boot_params, initrd)
            }
            Handoff::Pvh { entry, start_info } => {
                // start_info's first module (Xen, `start_info.h`); without
                // one its address is that of no memory of ours.
                let module = dword(memory, start_info, 16);
                let initrd = [0, 8].map(|field| dword(memory, module, field));
                ("start_info", entry, start_info, initrd)
            }
            Handoff::Multiboot { entry, info } => ("multiboot information", entry, info, [0; 2]),
            Handoff::RealMode { segment, .. } => {
                let base = u32::from(segment) << 4;
                ("setup code", base.saturating_add(0x200), base, [0; 2])
            }
        };
        self.add("loaded: entry 0x$, ", &[entry]);
        self.say(name);
        self.add(" 0x$", &[block]);
        if initrd != [0; 2] {
            self.add(", initrd 0x$, # bytes", &initrd);
        }
        self.say("\r\n");
        self.ranges(map);
        if self.is_detailed() {
            for held in map.claims() {
                self.add("qboot:   taken 0x$-0x$\r\n", &[held.start(), held.end()]);
            }
        }
    }
}

/// The upper and the lower half.
fn halves(value: u64) -> [u32; 2] {
    let upper = u32::try_from(value >> 32).unwrap_or(u32::MAX);
    let lower = u32::try_from(value & 0xffff_ffff).unwrap_or(u32::MAX);
    [upper, lower]
}

/// Tables that are listed at most: a root table may say anything.
const MAX_TABLES: u32 = 64;

/// The dword at `offset` from `addr`, 0 where no memory is that can be read.
#[cold]
#[inline(never)]
fn dword<M: GuestMemory>(memory: &mut M, addr: u32, offset: u32) -> u32 {
    let range = PhysRange::new(addr.saturating_add(offset), 4);
    let bytes = range.and_then(|range| memory.bytes(range).ok());
    bytes.and_then(|bytes| u32_at(bytes, 0)).unwrap_or(0)
}
