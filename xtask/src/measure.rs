//! Counts a firmware's cost up to a kernel's first 32-bit instruction: device accesses
//! by region, instructions, and under KVM exits and time.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use tempfile::TempDir;

use crate::build;
use crate::kernel::{self, Flavour};
use crate::output::say;
use crate::probe::{self, BzImage, Elf, Mode};
use crate::qemu::{Accel, Qemu, Vm};

pub mod budget;
mod cells;
mod counts;
mod kvm;
pub mod user_space;

use budget::{Budget, Comparison};
pub use cells::{Cell, Kernel, all_cells, core_cells, is_bare, named};
use counts::sums;
pub use counts::{Access, Counts};
pub(crate) use kvm::time_of;
pub use kvm::{KvmRun, Spread, kvm_run};

/// The files that the cells boot: probes and an initrd, in a directory of their own.
pub struct Kit {
    dir: TempDir,
    kernel: Option<PathBuf>,
    arguments: Vec<String>,
}

impl Kit {
    /// Builds the probes, the bzImages behind the header and 16-bit code of
    /// [`kernel()`].
    ///
    /// # Errors
    /// A probe does not build, or the kernel cannot be fetched.
    pub fn new() -> Result<Self> {
        let donor = kernel()?;
        let dir = tempfile::tempdir()?;
        for mode in [Mode::Exit, Mode::Bare] {
            let path = |kernel| dir.path().join(file_name(kernel, mode));
            fs::write(path(Kernel::BzImage), BzImage::of(&donor, mode)?.bytes())?;
            fs::write(path(Kernel::Pvh), Elf::new(mode)?.bytes()?)?;
        }
        Ok(Self {
            dir,
            kernel: None,
            arguments: Vec::new(),
        })
    }

    /// The same with `kernel`, which starts a probe, in the probes' place, and further
    /// options for QEMU.
    #[must_use]
    fn with(self, kernel: Option<PathBuf>, arguments: &[String]) -> Self {
        Self {
            kernel,
            arguments: arguments.to_vec(),
            ..self
        }
    }

    fn initrd(&self, mib: u64) -> Result<PathBuf> {
        let path = self.dir.path().join(format!("initrd-{mib}"));
        if !path.exists() {
            File::create(&path)?.set_len(mib << 20)?;
        }
        Ok(path)
    }

    /// The machine of a cell, without an accelerator.
    ///
    /// # Errors
    /// The initrd cannot be made.
    pub fn machine(&self, rom: &Path, cell: &Cell, mode: Mode) -> Result<Qemu> {
        let probe = || self.dir.path().join(file_name(cell.kernel, mode));
        let mut qemu = equipped(rom, cell)
            .kernel(self.kernel.clone().unwrap_or_else(probe))
            .append("console=ttyS0")
            .args(&self.arguments);
        if cell.initrd_mib != 0 {
            qemu = qemu.initrd(self.initrd(cell.initrd_mib)?);
        }
        Ok(qemu)
    }
}

/// A cell's machine and devices, and the ports that its kernel reports to.
fn equipped(rom: &Path, cell: &Cell) -> Qemu {
    let mut qemu = Qemu::new(cell.machine)
        .bios(rom)
        .memory_mib(cell.memory_mib)
        .smp(cell.smp)
        .serial("none");
    for device in &cell.devices {
        for disk in ["disk0", "disk1"] {
            if device.contains(&format!("drive={disk}")) {
                let drive = format!("if=none,id={disk},driver=null-co,size=1M");
                qemu = qemu.args(["-drive", &drive]);
            }
        }
        qemu = qemu.devices([device]);
    }
    // Only a failing firmware writes here.
    probe::ports(qemu).debugcon(COMPLAINTS)
}

/// Debug console at QEMU's default port, where a failing firmware says why.
const COMPLAINTS: u16 = 0xe9;

/// The kernel that is measured: Debian's cloud kernel.
///
/// # Errors
/// It cannot be fetched.
pub fn kernel() -> Result<PathBuf> {
    Ok(kernel::debian(Flavour::CloudAmd64)?.bzimage)
}

fn file_name(kernel: Kernel, mode: Mode) -> String {
    format!("{kernel:?}-{mode:?}")
}

/// Longest a measured boot may take: SeaBIOS on q35 with a full trace takes seconds.
const TIMEOUT: Duration = Duration::from_secs(180);

/// Counts a cell's accesses and instructions, and lists the accesses in order.
///
/// # Errors
/// The probe is not reached.
pub fn trace(kit: &Kit, rom: &Path, cell: &Cell) -> Result<(Counts, Vec<Access>)> {
    let mut vm = kit
        .machine(rom, cell, Mode::Exit)?
        .accel(Accel::Icount { shift: 0 })
        .trace("memory_region_ops_*")
        .spawn()?;
    wait_for_end(&mut vm, rom, cell, TIMEOUT)?;
    let record = probe::Record::parse(&vm.debugcon(probe::REPORT_PORT))?;
    let mut list = accesses(&vm).with_context(|| cell.name.clone())?;
    list.retain(|access| access.by_guest);
    let counts = Counts {
        accesses: list.len() as u64,
        regions: sums(list.iter()),
        instructions: record.tsc,
    };
    Ok((counts, list))
}

/// Waits until the cell's kernel has reported and ended QEMU.
fn wait_for_end(vm: &mut Vm, rom: &Path, cell: &Cell, timeout: Duration) -> Result<()> {
    let which = || format!("{} with {}", cell.name, rom.display());
    vm.wait_for("the kernel's report", timeout, |vm| {
        vm.debugcon(COMPLAINTS).contains(&b'\n')
    })
    .or_else(|error| match vm.ended() {
        Ok(Some(_)) => Ok(()),
        _ => Err(error),
    })
    .with_context(which)?;
    let complaint = String::from_utf8_lossy(&vm.debugcon(COMPLAINTS)).into_owned();
    ensure!(complaint.is_empty(), "{}: {complaint}", which());
    probe::wait_end(vm, timeout).with_context(which)
}

/// The accesses up to the kernel's report, in order.
fn accesses(vm: &Vm) -> Result<Vec<Access>> {
    let mut list = Vec::new();
    for line in BufReader::new(File::open(vm.trace_path())?).lines() {
        let Some(access) = Access::parse(&line?) else {
            continue;
        };
        if access.write && access.addr == u64::from(probe::REPORT_PORT) {
            return Ok(list);
        }
        list.push(access);
    }
    bail!("no report in the trace")
}

/// Pages of 4 KiB of guest RAM that are first touched between reset and the probe's
/// end, by the firmware, its transfers, and the probe.
///
/// # Errors
/// The probe is not reached.
pub fn pages(kit: &Kit, rom: &Path, cell: &Cell) -> Result<u64> {
    // Only shared memory counts reads too: elsewhere a page that is only read stays a
    // hole.
    let shared = Path::new("/dev/shm");
    let dir = if shared.is_dir() {
        tempfile::tempdir_in(shared)?
    } else {
        tempfile::tempdir()?
    };
    let machine = |ram: &Path| -> Result<Qemu> {
        let (size, path) = (cell.memory_mib, ram.display());
        let ram = format!("memory-backend-file,id=ram,size={size}M,share=on,mem-path={path}");
        let qemu = kit.machine(rom, cell, Mode::Exit)?;
        Ok(qemu.args(["-object", &ram, "-machine", "memory-backend=ram"]))
    };
    // What QEMU touches before the reset.
    let ram = dir.path().join("before");
    let vm = machine(&ram)?.qmp().arg("-S").spawn()?;
    let before = fs::metadata(&ram)?.blocks();
    vm.quit()?;
    fs::remove_file(&ram)?;
    let ram = dir.path().join("after");
    machine(&ram)?.spawn()?.wait_exit(TIMEOUT)?;
    let after = fs::metadata(&ram)?.blocks();
    Ok(after.saturating_sub(before) * 512 / 4096)
}

/// Counts several cells, each with its image, two at a time; in the cells' order.
pub fn counts(kit: &Kit, images: &[&Path], cells: &[Cell]) -> Vec<Result<Counts>> {
    two_at_a_time(cells.len(), |n| {
        trace(kit, images[n], &cells[n]).map(|(counts, _)| counts)
    })
}

/// The results of `job` with each number below `len`, in their order.
pub(crate) fn two_at_a_time<T: Send>(len: usize, job: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= len {
                        break;
                    }
                    let result = job(n);
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    results.insert(n, result);
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.into_values().collect()
}

/// Options of `measure`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Firmware to measure [default: the ROM, built from this source tree]
    #[arg(long, value_name = "FILE")]
    pub rom: Vec<PathBuf>,
    /// Only cells whose name contains this, such as "q35 PVH"
    #[arg(long, value_name = "TEXT")]
    pub cell: Option<String>,
    /// Also the cells with server devices, 8 vCPUs, 8 GiB and a 64 MiB initrd
    #[arg(long)]
    pub all: bool,
    /// List every access in order
    #[arg(long)]
    pub trace: bool,
    /// Print JSON: for each firmware and cell its counts
    #[arg(long, conflicts_with = "trace")]
    pub json: bool,
    /// Build the ROM, count all cells and write them to tests/budget.toml
    #[arg(long, conflicts_with_all = ["rom", "cell", "trace", "json"])]
    pub update_budget: bool,
    /// Count up to the first instruction of user space, with Debian's cloud kernel
    #[arg(long, conflicts_with_all = ["update_budget", "trace", "probe"])]
    pub user_space: bool,
    /// With --user-space: boot each firmware N times by turns, and print milliseconds
    #[arg(long, value_name = "N", default_value_t = 0, requires = "user_space")]
    pub runs: usize,
    /// With --runs: under KVM
    #[arg(long, requires = "runs")]
    pub kvm: bool,
    /// Boot this file, a boot loader that starts the probe from a disk; with --user-space
    /// this bzImage, and the vmlinux inside it
    #[arg(long, value_name = "FILE", conflicts_with = "update_budget")]
    pub kernel: Option<PathBuf>,
    /// Only write the bzImage probe to this file, for such a disk
    #[arg(long, value_name = "FILE", conflicts_with = "update_budget")]
    pub probe: Option<PathBuf>,
    /// With --user-space: more words for the kernel's command line
    #[arg(
        long,
        value_name = "PARAMETERS",
        allow_hyphen_values = true,
        requires = "user_space"
    )]
    pub append: Option<String>,
    /// Options handed to QEMU as they are, after a lone --
    #[arg(
        last = true,
        value_name = "QEMU OPTIONS",
        conflicts_with = "update_budget"
    )]
    pub qemu: Vec<String>,
}

impl Options {
    /// The images that were named, or the ROM of this source tree.
    fn roms(&self) -> Result<Vec<PathBuf>> {
        for rom in &self.rom {
            fs::metadata(rom).with_context(|| format!("the firmware {}", rom.display()))?;
        }
        if self.rom.is_empty() {
            return Ok(vec![build::rom(&[])?.image]);
        }
        Ok(self.rom.clone())
    }
}

/// Builds the ROM and counts all cells, as the budget records them.
///
/// # Errors
/// The ROM does not build, or a cell's probe or user space is not reached.
pub fn budget(kit: &Kit) -> Result<Budget> {
    let rom = build::rom(&[])?;
    let cells = all_cells();
    let images = vec![rom.image.as_path(); cells.len()];
    let linux = user_space::Linux::new(None)?;
    let mut measured = Budget {
        qemu: budget::qemu_version()?,
        rom_used_bytes: rom.used,
        cells: BTreeMap::new(),
        user_space: budget::UserSpace {
            linux: linux.release()?,
            exits: BTreeMap::new(),
        },
    };
    let booted = user_space::budget_cells();
    let results = two_at_a_time(booted.len(), |n| {
        user_space::count(&linux, &rom.image, &booted[n])
    });
    for (cell, result) in booted.iter().zip(results) {
        measured
            .user_space
            .exits
            .insert(cell.name.clone(), result?.exits);
    }
    for (cell, result) in cells.iter().zip(counts(kit, &images, &cells)) {
        measured.cells.insert(cell.name.clone(), result?);
    }
    Ok(measured)
}

/// Counts all cells, prints the changes, and writes the budget.
fn update_budget(kit: &Kit) -> Result<()> {
    let measured = budget(kit)?;
    let found = match Budget::read() {
        Ok(before) => before.compare(&measured),
        Err(_) => Comparison::default(),
    };
    for (kind, list) in [("dearer", found.worse), ("cheaper", found.better)] {
        for text in list {
            say!("{kind}: {text}")?;
        }
    }
    measured.write()
}

/// Prints every access of each cell.
fn list(kit: &Kit, roms: &[PathBuf], cells: &[Cell]) -> Result<()> {
    for rom in roms {
        say!("{}", rom.display())?;
        for cell in cells {
            let (counts, list) = trace(kit, rom, cell)?;
            say!("{}: {}", cell.name, counts.summary())?;
            for access in list {
                say!("  {access}")?;
            }
        }
    }
    Ok(())
}

/// Prints accesses by region and instructions for each cell.
///
/// # Errors
/// A cell's probe is not reached.
pub fn run(options: &Options) -> Result<()> {
    if options.user_space {
        return user_space::run(options);
    }
    if let Some(file) = &options.probe {
        return Ok(fs::write(
            file,
            BzImage::of(&kernel()?, Mode::Exit)?.bytes(),
        )?);
    }
    let kit = Kit::new()?.with(options.kernel.clone(), &options.qemu);
    if options.update_budget {
        return update_budget(&kit);
    }
    let cells = if options.all {
        all_cells()
    } else {
        core_cells()
    };
    let cells = named(cells, options.cell.as_deref())?;
    let roms = options.roms()?;
    if options.trace {
        return list(&kit, &roms, &cells);
    }
    let count = |rom: &Path, cell: &Cell| Ok(trace(&kit, rom, cell)?.0);
    print(options, &roms, &cells, count, Counts::summary)
}

/// Prints what `count` finds in each cell with each image, two cells at a time.
fn print<T: Serialize + Send>(
    options: &Options,
    roms: &[PathBuf],
    cells: &[Cell],
    count: impl Fn(&Path, &Cell) -> Result<T> + Sync,
    summary: fn(&T) -> String,
) -> Result<()> {
    let mut failed = 0;
    let mut found = BTreeMap::new();
    for rom in roms {
        if !options.json {
            say!("{}", rom.display())?;
        }
        let results = two_at_a_time(cells.len(), |n| count(rom, &cells[n]));
        let by_cell: &mut BTreeMap<_, _> = found.entry(rom).or_default();
        for (cell, result) in cells.iter().zip(results) {
            match result {
                Ok(one) => {
                    if !options.json {
                        say!("  {:<40} {}", cell.name, summary(&one))?;
                    }
                    by_cell.insert(&cell.name, one);
                }
                Err(error) => {
                    failed += 1;
                    eprintln!("  {:<40} {error:#}", cell.name);
                }
            }
        }
    }
    if options.json {
        say!("{}", serde_json::to_string_pretty(&found)?)?;
    }
    ensure!(failed == 0, "{failed} cells did not reach their end");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_is_read() {
        let line = "1234@1700000000.250000:kvm_run_exit cpu_index 0, reason 2";
        assert!((time_of(line).unwrap() - 1_700_000_000.25).abs() < 1e-6);
    }

    #[test]
    fn a_spread_has_the_middle_and_the_ends() {
        let spread = Spread::of(vec![3.0, 1.0, 2.0]).unwrap();
        assert_eq!((spread.median, spread.min, spread.max), (2.0, 1.0, 3.0));
        assert!(Spread::of(Vec::new()).is_none());
    }
}
