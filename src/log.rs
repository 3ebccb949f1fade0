//! The log: how long each step of a boot took and what it found, if `opt/org.qboot/log`
//! asks for it.

use crate::chipset::Chipset;
use crate::error::Warning;
use crate::fw_cfg::Directory;
use crate::kernel::{Handoff, Kernel, Loaded};
use crate::memory::map::{Kind, MemoryMap};
use crate::pci::{self, Bdf, Summary};
use crate::phys::halves;
use crate::platform::{Platform, Terminal};
use crate::settings::command_line::AcpiUse;
use crate::settings::options::{self, LogOption};
use crate::settings::policy::{Facts, Guest, PciSetup};
use crate::tables::acpi::Tables;
use crate::text::{print, print_foreign};

/// A log on the platform's terminal.
#[derive(Debug)]
pub struct Log {
    option: LogOption,
    /// When the last line was printed.
    last: u64,
}

impl Log {
    /// A log that has printed nothing yet.
    #[must_use]
    pub const fn new(option: LogOption) -> Self {
        Self { option, last: 0 }
    }

    /// Whether there is no log.
    fn is_off(&self) -> bool {
        self.option == LogOption::Off
    }

    /// Starts a step's line with the time that the step took, printing not counted.
    fn begin(&self, terminal: &mut dyn Terminal, format: &str, values: &[u32]) {
        let ticks = terminal.ticks().wrapping_sub(self.last);
        let ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
        print(terminal, "qboot: # ticks, ", &[ticks]);
        print(terminal, format, values);
    }

    /// Ends the line; `false` if no details are asked for.
    fn end(&mut self, terminal: &mut dyn Terminal) -> bool {
        terminal.print(b"\r\n");
        self.last = terminal.ticks();
        self.option == LogOption::All
    }

    /// The host bridge is known, the file directory read.
    pub fn files<P: Platform>(&mut self, p: &mut P, chipset: &Chipset, dir: &Directory<'_>) {
        if self.is_off() {
            return;
        }
        self.begin(p, "machine: ", &[]);
        p.print(chipset.name.as_bytes());
        print(p, ", # files", &[count(dir.entries().len())]);
        let all = self.end(p);
        for entry in dir.entries() {
            if options::is_unknown(entry.name()) {
                p.print(b"qboot:   unknown option ");
                print_foreign(p, entry.name());
                p.print(b"\r\n");
            }
        }
        if all {
            for entry in dir.entries() {
                p.print(b"qboot:   file ");
                print_foreign(p, entry.name());
                print(p, ", # bytes\r\n", &[entry.file().size]);
            }
        }
    }

    /// The memory map is complete.
    pub fn map<P: Platform>(&mut self, p: &mut P, map: &MemoryMap) {
        if self.is_off() {
            return;
        }
        let ram = map.entries().iter().filter(|e| e.kind() == Kind::RAM);
        let bytes: u64 = ram.fold(0, |sum, entry| sum.saturating_add(entry.len()));
        // Rounds up: part of the first MiB is not RAM.
        let mib = u32::try_from(bytes.saturating_add(0xf_ffff) >> 20).unwrap_or(u32::MAX);
        let entries = count(map.entries().len());
        self.begin(p, "e820: # entries, # MiB", &[entries, mib]);
        if self.end(p) {
            ranges(p, map);
        }
    }

    /// The kernel is identified, its memory claimed, its command line read.
    pub fn kernel<P: Platform>(&mut self, p: &mut P, kernel: &Kernel<'_>) {
        if self.is_off() {
            return;
        }
        let (format, number, at) = match kernel {
            Kernel::BzImage(kernel) => {
                let protocol = kernel.header.protocol().into();
                let format = if kernel.image.is_unified {
                    "kernel: UKI, protocol 0x$"
                } else {
                    "kernel: bzImage, protocol 0x$"
                };
                (format, protocol, kernel.code())
            }
            Kernel::RealMode(kernel) => {
                let protocol = kernel.header.protocol().into();
                ("kernel: 16-bit, protocol 0x$", protocol, kernel.code())
            }
            Kernel::Pvh(kernel) => ("kernel: PVH, entry 0x$", kernel.entry, kernel.span),
            Kernel::Multiboot(kernel) => ("kernel: multiboot, protocol 0x$", 1, kernel.image()),
        };
        self.begin(p, format, &[number]);
        print(p, ", at 0x$-0x$", &[at.start(), at.end()]);
        if self.end(p) {
            p.print(b"qboot:   command line ");
            // Byte by byte: the platform lends the line's bytes, and prints too.
            let line = kernel.command_line();
            for offset in 0..line.len() {
                let byte = line.part(offset, 1).and_then(|at| p.bytes(at).ok());
                match byte.and_then(|byte| byte.first().copied()) {
                    None | Some(0) => break,
                    Some(byte) => print_foreign(p, &[byte]),
                }
            }
            p.print(b"\r\n");
        }
    }

    /// What was decided about PCI, and the result.
    pub fn pci<P: Platform>(
        &mut self,
        p: &mut P,
        chipset: &Chipset,
        facts: &Facts,
        setup: PciSetup,
        summary: &Summary,
    ) {
        if self.is_off() {
            return;
        }
        let setup_name = match setup {
            PciSetup::None => "pci: none",
            PciSetup::Buses => "pci: buses",
            PciSetup::Scan => "pci: scan",
            PciSetup::Full => "pci: full",
        };
        self.begin(p, setup_name, &[]);
        p.print(match facts.guest {
            Guest::Linux => b" for Linux",
            Guest::Linux32 => b" for 32-bit Linux",
            Guest::Other => b" for another kernel",
        });
        p.print(match facts.line.acpi {
            _ if !facts.has_acpi => b" without ACPI",
            AcpiUse::Off => b" with acpi=off",
            AcpiUse::NotForPci => b" with ACPI, not for PCI",
            AcpiUse::Full => b" with ACPI",
        });
        if setup != PciSetup::None {
            // Warnings report what has no number or no place.
            let counts = [summary.functions.into(), summary.last_bus.into()];
            print(p, ", # functions, last bus #", &counts);
        }
        let all = self.end(p);
        if let Some(name) = facts.line.unknown {
            p.print(b"qboot:   unknown parameter qboot.");
            print_foreign(p, &name);
            p.print(b"\r\n");
        }
        if all {
            pci::list(p, chipset, summary.last_bus);
        }
    }

    /// The ACPI tables are loaded.
    pub fn acpi<P: Platform>(&mut self, p: &mut P, tables: &Tables) {
        if self.is_off() {
            return;
        }
        let facs = tables.facs(p);
        let all = || tables.all.iter().chain(&facs);
        let found = [count(all().count()), tables.rsdp.unwrap_or(0)];
        self.begin(p, "acpi: # tables, RSDP 0x$", &found);
        if self.end(p) {
            for table in all() {
                p.print(b"qboot:   table ");
                print_foreign(p, &table.signature);
                let (start, len) = (table.range.start(), table.range.len());
                print(p, " 0x$, # bytes\r\n", &[start, len]);
            }
        }
    }

    /// An MP table was built.
    pub fn mp_table<P: Platform>(&mut self, p: &mut P) {
        if !self.is_off() {
            self.begin(p, "mptable: built", &[]);
            self.end(p);
        }
    }

    /// SMBIOS is there: its entry point's address.
    pub fn smbios<P: Platform>(&mut self, p: &mut P, entry_point: u32) {
        if !self.is_off() {
            self.begin(p, "smbios: entry point 0x$", &[entry_point]);
            self.end(p);
        }
    }

    /// Everything is loaded.
    pub fn loaded<P: Platform>(&mut self, p: &mut P, loaded: &Loaded, map: &MemoryMap) {
        if self.is_off() {
            return;
        }
        let (format, entry, block) = match loaded.handoff {
            Handoff::Linux { entry, boot_params } => (", zero page 0x$", entry, boot_params),
            Handoff::Pvh { entry, start_info } => (", start_info 0x$", entry, start_info),
            Handoff::Multiboot { entry, info } => (", multiboot information 0x$", entry, info),
            Handoff::RealMode { segment, .. } => {
                let base = u32::from(segment) << 4;
                (", setup code 0x$", base.saturating_add(0x200), base)
            }
        };
        self.begin(p, "loaded: entry 0x$", &[entry]);
        print(p, format, &[block]);
        let initrd = loaded.initrd;
        if !initrd.is_empty() {
            print(p, ", initrd 0x$, # bytes", &[initrd.start(), initrd.len()]);
        }
        if self.end(p) {
            ranges(p, map);
            for held in map.claims() {
                print(p, "qboot:   taken 0x$-0x$\r\n", &[held.start(), held.end()]);
            }
        }
    }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn ranges(terminal: &mut dyn Terminal, map: &MemoryMap) {
    for entry in map.entries() {
        let [base, end] = [entry.base(), entry.end()].map(halves);
        let values = [base[0], base[1], end[0], end[1]];
        print(terminal, "qboot:   range 0x$$-0x$$, ", &values);
        terminal.print(entry.kind().name().as_bytes());
        terminal.print(b"\r\n");
    }
}

/// Prints warnings about PCI, with a log and without.
pub fn warn(terminal: &mut dyn Terminal, summary: &Summary) {
    if let Some(first) = summary.first_unplaced {
        begin_warning(terminal, Warning::PciUnplaced, summary.unplaced, first.bdf);
        let (unit, order) = match first.order {
            30.. => (" GiB", first.order.saturating_sub(30)),
            20..30 => (" MiB", first.order.saturating_sub(20)),
            10..20 => (" KiB", first.order.saturating_sub(10)),
            _ => ("", first.order),
        };
        let size = 1_u32.checked_shl(order.into()).unwrap_or(u32::MAX);
        print(terminal, " BAR # of #", &[first.bar.into(), size]);
        terminal.print(unit.as_bytes());
        terminal.print(b")\r\n");
    }
    if let Some(first) = summary.first_unnumbered {
        let count = summary.unnumbered;
        begin_warning(terminal, Warning::PciUnnumbered, count, first);
        terminal.print(b")\r\n");
    }
}

fn begin_warning(terminal: &mut dyn Terminal, warning: Warning, count: u16, first: Bdf) {
    print(terminal, "qboot: warning %: ", &[warning.code().into()]);
    terminal.print(warning.message().as_bytes());
    let [bus, device, function] = [first.bus(), first.device(), first.function()].map(u32::from);
    let values = [count.into(), bus, device, function];
    print(terminal, " (#, the first %:%.#", &values);
}
