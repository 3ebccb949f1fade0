//! What a whole boot costs: accesses from reset to the first instruction of user
//! space, and the time from QEMU's start to it.
//!
//! The kernel makes most of them. The firmware's tables decide how many.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tempfile::{NamedTempFile, TempDir};

use super::cells::root_ports;
use super::{
    Access, Cell, Kernel, Spread, accesses, all_cells, equipped, is_bare, named, sums, wait_for_end,
};
use crate::debian::Package;
use crate::initramfs::Initramfs;
use crate::linux::{self, Time};
use crate::output::say;
use crate::qemu::debian::Unpacked;
use crate::qemu::{self, Accel, Qemu};
use crate::{extract, hdr, kernel, probe};

/// One processor at 10^9 instructions a second. The kernel is told this frequency.
const COUNTED: Accel = Accel::Icount { shift: 0 };
const COMMAND_LINE: &str = "quiet panic=-1 rdinit=/init";
const CLOCK: &str = "no_timer_check lpj=1000000 tsc=reliable tsc_early_khz=1000000";
/// The same clock and random numbers in every run, so that the counts repeat.
const REPEATABLE: [&str; 4] = ["-rtc", "base=2026-01-01,clock=vm", "-seed", "1"];
/// The kernel polls these to calibrate its clocks, alike with every firmware: the HPET
/// as often as it can in two or three milliseconds, the PIT only without kvmclock.
const CALIBRATION: [&str; 2] = ["hpet", "pit"];
/// Longest that a boot may take: SeaBIOS and a traced kernel on a busy host.
const TIMEOUT: Duration = Duration::from_secs(300);

/// The same for a boot whose time counts: it takes seconds, or hangs.
const TIMED: Duration = Duration::from_secs(60);
/// Follows the error of one.
const HANGS: &str = "if it hangs: on a busy host Linux can miss the ticks by which it sets its \
     clock (docs/users/qemu.md, microvm); run it again";

/// A kernel and the initrd whose only program reports.
pub struct Linux {
    dir: TempDir,
    bzimage: PathBuf,
    vmlinux: Option<PathBuf>,
    qemu: PathBuf,
    append: String,
    arguments: Vec<String>,
}

impl Linux {
    /// The kernel at `bzimage`, or Debian's cloud kernel.
    ///
    /// # Errors
    /// The kernel cannot be fetched or read, or there is no assembler.
    pub fn new(bzimage: Option<&Path>) -> Result<Self> {
        let bzimage = match bzimage {
            Some(path) => path.to_owned(),
            None => super::kernel()?,
        };
        let vmlinux = extract::cached(&bzimage)?;
        let dir = tempfile::tempdir()?;
        let archive = Initramfs::empty()
            .directory("dev")
            .file("init", 0o755, init()?)
            .archive()?;
        fs::write(dir.path().join("initrd"), archive)?;
        Ok(Self {
            dir,
            bzimage,
            vmlinux,
            qemu: qemu::binary().into(),
            append: String::new(),
            arguments: Vec::new(),
        })
    }

    /// The cloud kernel of a suite of Debian's under that suite's QEMU.
    ///
    /// # Errors
    /// The kernel cannot be fetched, or as for [`Linux::new`].
    pub fn of(suite: &str, qemu: &Unpacked) -> Result<Self> {
        let package = Package::of_suite(suite, "amd64", "linux-image-cloud-amd64");
        let kernel = kernel::newest(&package)?;
        Ok(Self {
            qemu: qemu.program.clone(),
            ..Self::new(Some(&kernel.bzimage))?
        })
    }

    /// The first line that the QEMU it runs under prints of its version.
    ///
    /// # Errors
    /// QEMU does not start.
    pub fn qemu(&self) -> Result<String> {
        qemu::version(self.qemu.as_os_str())
    }

    /// The kernel's release, such as `6.1.0-1-cloud-amd64`.
    ///
    /// # Errors
    /// The kernel has no setup header, or it names no version.
    pub fn release(&self) -> Result<String> {
        let image = fs::read(&self.bzimage)?;
        let field = image.get(hdr::KERNEL_VERSION..hdr::KERNEL_VERSION + 2);
        let field = field.context("too short for a kernel")?;
        // Boot protocol 2.00: the text's offset from 0x200.
        let at = 0x200 + usize::from(u16::from_le_bytes([field[0], field[1]]));
        let text = image.get(at..).unwrap_or_default();
        let end = text.iter().position(|b| *b == b' ' || *b == 0);
        let text = String::from_utf8_lossy(&text[..end.unwrap_or(0)]).into_owned();
        ensure!(!text.is_empty(), "the kernel names no version");
        Ok(text)
    }

    fn machine(&self, rom: &Path, cell: &Cell, accel: Accel) -> Result<Qemu> {
        let kernel = match cell.kernel {
            Kernel::BzImage => &self.bzimage,
            Kernel::Pvh => self
                .vmlinux
                .as_ref()
                .context("the kernel has no PVH entry point")?,
        };
        let mut words = vec![COMMAND_LINE.to_owned()];
        words.extend(match accel {
            COUNTED => vec![CLOCK.to_owned()],
            Accel::Kvm => linux::parameters(cell.machine, Time::Processor, true),
            _ => linux::parameters(cell.machine, Time::Host, true),
        });
        words.push(self.append.clone());
        Ok(equipped(rom, cell)
            .program(&self.qemu)
            .kernel(kernel)
            .initrd(self.dir.path().join("initrd"))
            .append(words.join(" ").trim())
            .accel(accel)
            .args(&self.arguments))
    }
}

fn init() -> Result<Vec<u8>> {
    let ports = format!(
        ".set REPORT_PORT, {:#x}\n.set EXIT_PORT, {:#x}\n.set EXIT_VALUE, {:#x}\n",
        probe::REPORT_PORT,
        probe::EXIT_PORT,
        probe::EXIT_STATUS >> 1
    );
    probe::assemble("init.S", &(ports + include_str!("init.S")))
}

/// The cells with one processor.
#[must_use]
pub fn cells() -> Vec<Cell> {
    let mut cells = all_cells();
    cells.retain(|cell| cell.smp == 1);
    cells.push(root_ports(Kernel::BzImage));
    cells
}

/// The budget's cells: bare machines, whose counts take seconds.
#[must_use]
pub fn budget_cells() -> Vec<Cell> {
    let mut cells = cells();
    let names = ["microvm PVH", "pc PVH", "q35 PVH"];
    cells.retain(|cell| names.contains(&cell.name.as_str()));
    cells
}

/// What one boot to user space costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserSpace {
    /// Port and MMIO accesses from reset to user space, without `CALIBRATION`.
    pub accesses: u64,
    /// Those of them that KVM would hand to QEMU, see `exits`.
    pub exits: u64,
    /// The accesses by the memory region's name.
    pub regions: BTreeMap<String, u64>,
}

impl UserSpace {
    fn of(list: &[Access]) -> Self {
        let list: Vec<_> = list
            .iter()
            .filter(|access| !CALIBRATION.contains(&access.region.as_str()))
            .collect();
        Self {
            accesses: list.len() as u64,
            regions: sums(list.iter().copied()),
            exits: exits(list.into_iter()),
        }
    }

    /// Accesses, exits, and the accesses by region.
    #[must_use]
    pub fn summary(&self) -> String {
        format!(
            "{:>7} accesses {:>7} exits under KVM   {}",
            self.accesses,
            self.exits,
            super::counts::by_region(&self.regions)
        )
    }
}

/// Interrupt controllers and timers that KVM itself serves.
const IN_KERNEL: [&str; 6] = ["apic-msi", "ioapic", "pic", "elcr", "pit", "pcspk"];
/// The kernel reads the power management timer until it moves: some two hundred times
/// under TCG, some thirty if each read is an exit.
const POLLED: &str = "acpi-tmr";
/// Regions whose writes KVM collects until the next exit.
const COALESCED: [&str; 2] = ["pci-conf-idx", "rtc-index"];

/// How many of these accesses would be exits to QEMU under KVM with its in-kernel
/// interrupt controllers, without [`POLLED`]. This number does not depend on time: it
/// changes only if the firmware hands over something else.
fn exits<'a>(list: impl Iterator<Item = &'a Access>) -> u64 {
    let spared = |access: &&Access| {
        let region = access.region.as_str();
        IN_KERNEL.contains(&region)
            || region == POLLED
            || access.write && COALESCED.contains(&region)
    };
    list.filter(|access| !spared(access)).count() as u64
}

/// Boots a cell to user space and counts.
///
/// # Errors
/// User space is not reached.
pub fn count(linux: &Linux, rom: &Path, cell: &Cell) -> Result<UserSpace> {
    let mut vm = linux
        .machine(rom, cell, COUNTED)?
        .args(REPEATABLE)
        .trace("memory_region_ops_*")
        .spawn()?;
    wait_for_end(&mut vm, rom, cell, TIMEOUT)?;
    let list = accesses(&vm).with_context(|| cell.name.clone())?;
    Ok(UserSpace::of(&list))
}

/// Milliseconds from QEMU's start to its end by the first instructions of user space.
///
/// # Errors
/// User space is not reached.
fn time(linux: &Linux, rom: &Path, cell: &Cell, accel: Accel) -> Result<f64> {
    let qemu = linux.machine(rom, cell, accel)?;
    let start = Instant::now();
    let mut vm = qemu.spawn()?;
    wait_for_end(&mut vm, rom, cell, TIMED).context(HANGS)?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// Boots a cell and keeps the trace of its writes, each with its time.
///
/// # Errors
/// User space is not reached.
pub(crate) fn timed(linux: &Linux, rom: &Path, cell: &Cell, accel: Accel) -> Result<NamedTempFile> {
    let mut vm = linux
        .machine(rom, cell, accel)?
        .trace("memory_region_ops_write")
        .trace("vm_state_notify")
        .args(["-msg", "timestamp=on"])
        .spawn()?;
    wait_for_end(&mut vm, rom, cell, TIMED).context(HANGS)?;
    // The machine's files go with it.
    let kept = NamedTempFile::new()?;
    fs::copy(vm.trace_path(), kept.path())?;
    Ok(kept)
}

/// Prints the counts of each cell, or with `runs` the times.
///
/// # Errors
/// A cell does not reach user space.
pub(super) fn run(options: &super::Options) -> Result<()> {
    let mut chosen = cells();
    if !options.all {
        chosen.retain(|cell| is_bare(&cell.name));
    }
    let cells = &named(chosen, options.cell.as_deref())?;
    let roms = &options.roms()?;
    let linux = Linux {
        append: options.append.clone().unwrap_or_default(),
        arguments: options.qemu.clone(),
        ..Linux::new(options.kernel.as_deref())?
    };
    if options.runs != 0 {
        let accel = if options.kvm { Accel::Kvm } else { Accel::Tcg };
        return print_times(&linux, roms, cells, accel, options.runs);
    }
    if !options.json {
        say!("Linux {}", linux.release()?)?;
    }
    let count = |rom: &Path, cell: &Cell| count(&linux, rom, cell);
    super::print(options, roms, cells, count, UserSpace::summary)
}

/// Prints the spread of each image's times, and of the differences from the first image
/// in the same turn.
fn print_times(
    linux: &Linux,
    roms: &[PathBuf],
    cells: &[Cell],
    accel: Accel,
    runs: usize,
) -> Result<()> {
    for cell in cells {
        say!("{}, ms, median (least to most) of {runs}", cell.name)?;
        let mut lists = vec![Vec::new(); roms.len()];
        // By turns, so that the host's load affects all alike.
        for _ in 0..runs {
            for (rom, list) in roms.iter().zip(&mut lists) {
                list.push(time(linux, rom, cell, accel)?);
            }
        }
        for (rom, list) in roms.iter().zip(&lists) {
            let pairs = lists.first().into_iter().flatten().zip(list);
            let more = Spread::of(pairs.map(|(first, this)| this - first).collect());
            if let (Some(ms), Some(more)) = (Spread::of(list.clone()), more) {
                say!("  {ms}; {more} more than the first: {}", rom.display())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(write: bool, region: &str) -> Access {
        Access {
            by_guest: true,
            write,
            addr: 0,
            value: 0,
            size: 4,
            region: region.to_owned(),
        }
    }

    #[test]
    fn what_kvm_serves_or_collects_is_no_exit() {
        let list = [
            access(true, "pci-conf-idx"),
            access(false, "pci-conf-data"),
            access(false, "pci-conf-idx"),
            access(true, "apic-msi"),
            access(true, "rtc-index"),
            access(false, "rtc"),
            access(false, "acpi-tmr"),
            access(false, "hpet"),
        ];
        let one = UserSpace::of(&list);
        assert_eq!((one.accesses, one.exits), (7, 3));
        assert_eq!(one.regions["pci-conf-idx"], 2);
        assert!(!one.regions.contains_key("hpet"));
    }

    #[test]
    fn the_first_process_is_an_elf_file_that_ends_where_it_says() {
        use object::{Object, ObjectSegment};
        let bytes = init().unwrap();
        let file = object::File::parse(bytes.as_slice()).unwrap();
        let segments: Vec<_> = file.segments().map(|s| (s.address(), s.size())).collect();
        assert_eq!(segments, [(0x40_0000, bytes.len() as u64)]);
        assert_eq!(file.entry(), 0x40_0078);
    }
}
