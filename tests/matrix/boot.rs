//! One cell with one firmware: every boot that it takes, and what came of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use crate::guest::Tpm;
use crate::machines::MICROVM;
use anyhow::{Result, bail};
use regex::Regex;
use tempfile::TempDir;
use xtask::deadline::Deadline;
use xtask::linux::{self, Time};
use xtask::qemu::{Accel, Qemu, Vm};

use super::table::{self, Cell, End, Step, regex};
use super::{files, generate};

/// What went wrong in a boot.
#[derive(Debug)]
pub struct Failure {
    /// In a few words, the same at every run.
    pub how: String,
    /// QEMU's command line and its last output.
    pub report: String,
}

/// How long a guest may neither print nor compute until it counts as hung.
const STILL: Duration = Duration::from_secs(20);
/// Share of the time that QEMU itself takes while its guest is halted, and some more.
const STILL_TICKS: u64 = 40;
const POLL: Duration = Duration::from_millis(20);

/// Runs `cell` with the firmware at `rom` under the QEMU `program`: every
/// combination of its sizes, up to the first that fails.
///
/// # Errors
/// Something that the cell needs cannot be had.
pub fn cell(cell: &Cell, rom: &Path, program: &Path) -> Result<Option<Failure>> {
    let row = &cell.row;
    for memory in &row.memory {
        for size in &row.initrd_sizes {
            let Some(mut failure) = Boot::prepare(cell, memory, size)?.run(rom, program)? else {
                continue;
            };
            if row.memory.len() > 1 {
                failure.how = format!("with {memory} of RAM: {}", failure.how);
            }
            if row.initrd_sizes.len() > 1 {
                failure.how = format!("with an initrd of {size}: {}", failure.how);
            }
            return Ok(Some(failure));
        }
    }
    Ok(None)
}

struct Boot<'a> {
    cell: &'a Cell,
    memory: &'a str,
    dir: TempDir,
    kernel: PathBuf,
    initrd: Option<String>,
    expect: Vec<Regex>,
    never: Vec<Regex>,
}

impl<'a> Boot<'a> {
    fn prepare(cell: &'a Cell, memory: &'a str, size: &str) -> Result<Self> {
        let row = &cell.row;
        let dir = tempfile::Builder::new().prefix("qboot-cell-").tempdir()?;
        let initrd = match &row.initrd {
            Some(text) => Some(files::filled(text, dir.path())?),
            None if row.linux && !size.is_empty() => {
                let to = dir.path().join("initrd");
                files::enlarged(&files::initramfs(row)?, size, &to)?;
                Some(to.display().to_string())
            }
            None if row.linux => Some(files::initramfs(row)?.display().to_string()),
            None => None,
        };
        let all = |list: &[String]| list.iter().map(|text| regex(text)).collect::<Result<_>>();
        Ok(Self {
            kernel: files::file(&row.kernel)?,
            initrd,
            expect: all(&row.expect)?,
            never: all(&row.never)?,
            cell,
            memory,
            dir,
        })
    }

    fn accel(&self) -> Result<Accel> {
        let row = &self.cell.row;
        let is_microvm = self.cell.machine()?.is(MICROVM);
        Ok(match row.accel {
            Some(table::Accel::Single) => Accel::TcgSingle,
            Some(table::Accel::Icount) => Accel::Icount { shift: 1 },
            None if is_microvm && row.linux && row.smp == "1" => Accel::Icount { shift: 1 },
            None => Accel::Tcg,
        })
    }

    /// What the kernel is told, word by word.
    fn parameters(&self, accel: Accel) -> Vec<String> {
        let row = &self.cell.row;
        let mut words = Vec::new();
        if row.linux {
            words.push("console=ttyS0 panic=-1".to_owned());
            if row.guest.is_some() || !row.modules.is_empty() {
                words.push("qboot.run=/guest".to_owned());
            }
            let time = match accel {
                Accel::Icount { .. } => Time::Counted,
                _ => Time::Host,
            };
            let has_acpi = !row.append.contains("acpi=off");
            words.extend(linux::parameters(&self.cell.machine, time, has_acpi));
        }
        if !row.append.is_empty() {
            words.push(row.append.clone());
        }
        words
    }

    fn qemu(&self, rom: &Path, program: &Path) -> Result<Qemu> {
        let row = &self.cell.row;
        let accel = self.accel()?;
        let words = self.parameters(accel);
        let mut qemu = Qemu::new(&self.cell.machine)
            .program(program)
            .bios(rom)
            .kernel(&self.kernel)
            .accel(accel)
            .smp(&row.smp)
            .args(["-m", self.memory]);
        if !words.is_empty() {
            qemu = qemu.append(&words.join(" "));
        }
        if let Some(initrd) = &self.initrd {
            qemu = qemu.initrd(initrd);
        }
        if row.default_devices {
            qemu = qemu.default_devices();
        }
        if row.reboot {
            qemu = qemu.reboot();
        }
        if !row.steps.is_empty() {
            qemu = qemu.qmp();
        }
        for option in &row.options {
            // An option's value may hold spaces.
            let (option, value) = option.split_once(' ').unwrap_or((option, ""));
            qemu = qemu.arg(option);
            if !value.is_empty() {
                qemu = qemu.arg(files::filled(value, self.dir.path())?);
            }
        }
        for spec in &row.generated {
            qemu = qemu.args(generate::options(spec, self.dir.path())?);
        }
        Ok(qemu)
    }

    fn run(&self, rom: &Path, program: &Path) -> Result<Option<Failure>> {
        let _tpm = match self.cell.row.swtpm {
            true => Some(Tpm::start(self.dir.path(), true)?),
            false => None,
        };
        let mut vm = self.qemu(rom, program)?.spawn()?;
        let how = self.watch(&mut vm)?;
        let report = vm.report();
        Ok(how.map(|how| Failure { how, report }))
    }

    /// Waits for the end; what is wrong with the run.
    fn watch(&self, vm: &mut Vm) -> Result<Option<String>> {
        let mut deadline = Deadline::new(Duration::from_secs(self.cell.row.timeout)).every(POLL);
        let mut activity = Activity::new(vm);
        let mut steps = self.cell.row.steps.iter().peekable();
        loop {
            // The state of the process is read first, so that what it wrote before
            // its end is still seen.
            let ended = vm.ended()?;
            let text = output(vm);
            if let Some(bad) = self.never.iter().find_map(|never| never.find(&text)) {
                return Ok(Some(format!("prints {:?}", bad.as_str())));
            }
            if ended.is_none()
                && let Some(step) = steps.peek()
                && regex(&step.after)?.is_match(&text)
            {
                if let Some(how) = perform(vm, step)? {
                    return Ok(Some(how));
                }
                steps.next();
                continue;
            }
            let missing = self.expect.iter().find(|expect| !expect.is_match(&text));
            if self.cell.row.end == End::Seen && missing.is_none() && steps.peek().is_none() {
                return Ok(None);
            }
            let still = activity.has_stopped(vm, text.len());
            if ended.is_none() && !still && deadline.pause() {
                continue;
            }
            let code = ended.map(|status| status.code());
            if code == Some(Some(1)) && text.trim().is_empty() && !vm.stderr().is_empty() {
                // Not the firmware's doing, so not an outcome.
                bail!("QEMU does not start this machine\n{}", vm.report());
            }
            return Ok(self.failure(code, &text, missing, steps.peek().is_some()));
        }
    }

    /// What is wrong with the end of a run; `None` when it is as it should be.
    /// `code` is QEMU's status, if it ended by itself, and that of a signal is `None`.
    fn failure(
        &self,
        code: Option<Option<i32>>,
        text: &str,
        missing: Option<&Regex>,
        steps: bool,
    ) -> Option<String> {
        if let Some(line) = text.lines().find(|line| line.contains("qboot: error")) {
            return Some(line.trim().to_owned());
        }
        let wanted = match self.cell.row.end {
            End::Itself => Some(0),
            End::Status(status) => Some(status),
            End::Seen => None,
        };
        if code == Some(None) {
            return Some("QEMU crashes".to_owned());
        }
        if let Some(missing) = missing {
            let what = missing.as_str();
            return Some(match code {
                _ if text.trim().is_empty() => "prints nothing".to_owned(),
                None => format!("hangs before `{what}`"),
                Some(_) => format!("ends without `{what}`"),
            });
        }
        match code {
            None if self.cell.row.end == End::Seen && !steps => None,
            None => Some("does not end".to_owned()),
            Some(_) if steps => Some("ends before the monitor's command".to_owned()),
            Some(code) if wanted.is_some() && code == wanted => None,
            Some(code) => Some(format!("QEMU ends with status {}", code.unwrap_or(-1))),
        }
    }
}

/// What the guest has printed, without the terminal's control sequences.
fn output(vm: &Vm) -> String {
    static CONTROL: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\x1b\[[0-?]*[ -/]*[@-~]|\r").expect("it is right"));
    CONTROL.replace_all(&vm.serial(), "").into_owned()
}

/// Gives the monitor's command; what is wrong with the answer.
fn perform(vm: &mut Vm, step: &Step) -> Result<Option<String>> {
    let Ok(answer) = vm.monitor(&step.monitor) else {
        return Ok(Some(format!("`{}` is not answered", step.monitor)));
    };
    let good = regex(&step.answer)?.is_match(&answer);
    Ok((!good).then(|| format!("`{}` answers {:?}", step.monitor, answer.trim())))
}

/// Tells a guest that is halted for good from one that computes.
struct Activity {
    deadline: Deadline,
    printed: usize,
    ticks: u64,
}

impl Activity {
    fn new(vm: &Vm) -> Self {
        Self {
            deadline: Deadline::new(STILL),
            printed: 0,
            ticks: ticks(vm.id()),
        }
    }

    fn has_stopped(&mut self, vm: &Vm, printed: usize) -> bool {
        if printed != self.printed || ticks(vm.id()) > self.ticks + STILL_TICKS {
            *self = Self {
                printed,
                ..Self::new(vm)
            };
        }
        self.deadline.is_over()
    }
}

/// Processor time of a process in clock ticks (proc(5), `/proc/PID/stat`, utime and stime).
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let fields = fields.split_whitespace().skip(11).take(2);
    fields.filter_map(|field| field.parse::<u64>().ok()).sum()
}
