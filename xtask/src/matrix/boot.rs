//! One cell with one firmware: every boot that it takes, and what came of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use regex::Regex;
use tempfile::TempDir;

use super::table::{self, Cell, End, Step, regex};
use super::{artefact, generate};
use crate::linux::{self, Time};
use crate::patience::Patience;
use crate::qemu::{Accel, Qemu, Vm};

/// What came of a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All that it expects came true.
    Works,
    /// It did not.
    Fails {
        /// In a few words, the same at every run.
        how: String,
        /// QEMU's command line and its last output.
        report: String,
    },
    /// It could not be tried here.
    Skipped(String),
}

/// How long a guest may neither print nor compute until it counts as hung.
const STILL: Duration = Duration::from_secs(20);
/// Share of the time that QEMU itself takes while its guest is halted, and some more.
const STILL_TICKS: u64 = 40;
const POLL: Duration = Duration::from_millis(20);

/// Runs `cell` with the firmware at `rom` under the QEMU `program`.
///
/// # Errors
/// Something that the cell needs cannot be had.
pub fn cell(cell: &Cell, rom: &Path, program: &Path) -> Result<Outcome> {
    for helper in &cell.row.helpers {
        if let Some(reason) = missing(helper)? {
            return Ok(Outcome::Skipped(reason));
        }
    }
    let plain = vec![String::new()];
    let sizes = match cell.row.initrd_sizes.as_slice() {
        [] => &plain,
        sizes => sizes,
    };
    for memory in &cell.row.memory {
        for size in sizes {
            let boot = Boot::prepare(cell, memory, size)?;
            let outcome = boot.run(rom, program)?;
            if let Outcome::Fails { mut how, report } = outcome {
                if cell.row.memory.len() > 1 {
                    how = format!("with {memory} of RAM: {how}");
                }
                if sizes.len() > 1 {
                    how = format!("with an initrd of {size}: {how}");
                }
                return Ok(Outcome::Fails { how, report });
            }
        }
    }
    Ok(Outcome::Works)
}

fn missing(helper: &str) -> Result<Option<String>> {
    let program = match helper {
        "swtpm" => "swtpm",
        _ => bail!("no helper is called {helper:?}"),
    };
    let found = Command::new(program).arg("--version").output().is_ok();
    Ok((!found).then(|| format!("{program} is not installed (scripts/setup.sh test)")))
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

/// A helper's process, ended with the boot.
struct Helper(Child);

impl Drop for Helper {
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl<'a> Boot<'a> {
    fn prepare(cell: &'a Cell, memory: &'a str, size: &str) -> Result<Self> {
        let row = &cell.row;
        let dir = tempfile::Builder::new().prefix("qboot-cell-").tempdir()?;
        let own = |name: &str| own(name, dir.path());
        let initrd = match row.initrd.as_deref() {
            Some("none") => None,
            Some(text) => Some(artefact::filled(text, dir.path(), &own)?),
            None if row.linux && !size.is_empty() => {
                let to = dir.path().join("initrd");
                artefact::enlarged(&artefact::initramfs(row)?, size, &to)?;
                Some(to.display().to_string())
            }
            None if row.linux => Some(artefact::initramfs(row)?.display().to_string()),
            None => None,
        };
        let all = |list: &[String]| list.iter().map(|text| regex(text)).collect::<Result<_>>();
        Ok(Self {
            kernel: artefact::file(&row.kernel)?,
            initrd,
            expect: all(&row.expect)?,
            never: all(&row.never)?,
            cell,
            memory,
            dir,
        })
    }

    fn is_microvm(&self) -> bool {
        self.cell.machine.starts_with("microvm")
    }

    fn accel(&self) -> Accel {
        let row = &self.cell.row;
        match row.accel {
            Some(table::Accel::Threads) => Accel::Tcg,
            Some(table::Accel::Single) => Accel::TcgSingle,
            Some(table::Accel::Icount) => Accel::Icount { shift: 1 },
            None if self.is_microvm() && row.linux && row.smp == "1" => Accel::Icount { shift: 1 },
            None => Accel::Tcg,
        }
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
        let machine = &self.cell.machine;
        let accel = self.accel();
        let words = self.parameters(accel);
        let mut qemu = Qemu::new(machine)
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
        if let Some(port) = row.debugcon {
            qemu = qemu.debugcon(port);
        }
        if !row.steps.is_empty() {
            qemu = qemu.qmp();
        }
        let own = |name: &str| own(name, self.dir.path());
        for option in &row.options {
            // An option's value may hold spaces.
            let (option, value) = option.split_once(' ').unwrap_or((option, ""));
            qemu = qemu.arg(option);
            if !value.is_empty() {
                qemu = qemu.arg(artefact::filled(value.trim(), self.dir.path(), &own)?);
            }
        }
        for spec in &row.generated {
            qemu = qemu.args(generate::options(spec, self.dir.path())?);
        }
        Ok(qemu)
    }

    fn helpers(&self) -> Result<Vec<Helper>> {
        let mut helpers = Vec::new();
        for name in &self.cell.row.helpers {
            let dir = self.dir.path();
            let mut command = match name.as_str() {
                "swtpm" => swtpm(dir),
                _ => bail!("no helper is called {name:?}"),
            };
            let child = command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .with_context(|| format!("starting {name}"))?;
            helpers.push(Helper(child));
            let socket = dir.join(name);
            let mut patience = Patience::new(STILL);
            while !socket.exists() {
                if !patience.pause() {
                    bail!("{name} opens no socket");
                }
            }
        }
        Ok(helpers)
    }

    fn run(&self, rom: &Path, program: &Path) -> Result<Outcome> {
        let _helpers = self.helpers()?;
        let mut vm = self.qemu(rom, program)?.spawn()?;
        let mut patience = Patience::new(Duration::from_secs(self.cell.row.timeout)).every(POLL);
        let mut watch = Watch::new(&vm);
        let mut steps = self.cell.row.steps.iter().peekable();
        loop {
            // The state of the process is read first, so that what it wrote before
            // its end is still seen.
            let ended = vm.ended()?;
            let text = self.output(&vm);
            if let Some(bad) = self.never.iter().find_map(|never| never.find(&text)) {
                return Ok(fails(&vm, format!("prints {:?}", bad.as_str())));
            }
            if ended.is_none()
                && let Some(step) = steps.peek()
                && regex(&step.after)?.is_match(&text)
            {
                if let Some(how) = perform(&mut vm, step)? {
                    return Ok(fails(&vm, how));
                }
                steps.next();
                continue;
            }
            let missing = self.expect.iter().find(|expect| !expect.is_match(&text));
            if self.cell.row.end == End::Seen && missing.is_none() && steps.peek().is_none() {
                return Ok(Outcome::Works);
            }
            let still = watch.still(&vm, text.len());
            if ended.is_none() && !still && patience.pause() {
                continue;
            }
            let code = ended.map(|status| status.code());
            if code == Some(Some(1)) && text.trim().is_empty() && !vm.stderr().is_empty() {
                // Not the firmware's doing, so not an outcome.
                bail!("QEMU does not start this machine\n{}", vm.report());
            }
            let Some(how) = self.judge(code, &text, missing, steps.peek().is_some()) else {
                return Ok(Outcome::Works);
            };
            return Ok(fails(&vm, how));
        }
    }

    /// What the guest has printed, without the terminal's control sequences.
    fn output(&self, vm: &Vm) -> String {
        let mut text = vm.serial();
        if let Some(port) = self.cell.row.debugcon {
            text.push('\n');
            text.push_str(&String::from_utf8_lossy(&vm.debugcon(port)));
        }
        static CONTROL: LazyLock<Regex> =
            LazyLock::new(|| Regex::new(r"\x1b\[[0-?]*[ -/]*[@-~]|\r").expect("it is right"));
        CONTROL.replace_all(&text, "").into_owned()
    }

    /// What is wrong with the end of a run; `None` when it is as it should be.
    /// `code` is QEMU's status, if it ended by itself, and that of a signal is `None`.
    fn judge(
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

/// What a cell's own names in braces stand for.
fn own(name: &str, dir: &Path) -> Option<String> {
    match name {
        "dir" => Some(dir.display().to_string()),
        "swtpm" => Some(dir.join("swtpm").display().to_string()),
        _ => None,
    }
}

fn swtpm(dir: &Path) -> Command {
    let mut command = Command::new("swtpm");
    command.args(["socket", "--tpm2", "--tpmstate"]);
    command.arg(format!("dir={}", dir.display()));
    command.arg("--ctrl");
    command.arg(format!("type=unixio,path={}", dir.join("swtpm").display()));
    command
}

fn perform(vm: &mut Vm, step: &Step) -> Result<Option<String>> {
    let answer = match vm.monitor(&step.monitor) {
        Ok(answer) => answer,
        Err(_) => return Ok(Some(format!("`{}` is not answered", step.monitor))),
    };
    let good = regex(&step.answer)?.is_match(&answer);
    Ok((!good).then(|| format!("`{}` answers {:?}", step.monitor, answer.trim())))
}

fn fails(vm: &Vm, how: String) -> Outcome {
    let report = vm.report();
    Outcome::Fails { how, report }
}

/// Tells a guest that is halted for good from one that computes.
struct Watch {
    patience: Patience,
    printed: usize,
    ticks: u64,
}

impl Watch {
    fn new(vm: &Vm) -> Self {
        Self {
            patience: Patience::new(STILL),
            printed: 0,
            ticks: ticks(vm.id()),
        }
    }

    fn still(&mut self, vm: &Vm, printed: usize) -> bool {
        let ticks = ticks(vm.id());
        if printed != self.printed || ticks > self.ticks + STILL_TICKS {
            *self = Self {
                patience: Patience::new(STILL),
                printed,
                ticks,
            };
        }
        self.patience.is_over()
    }
}

/// Processor time of a process in clock ticks (proc(5), `/proc/PID/stat`, utime and stime).
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let fields = fields.split_whitespace().skip(11).take(2);
    fields.filter_map(|field| field.parse::<u64>().ok()).sum()
}
