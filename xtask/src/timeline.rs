//! Where the time goes from QEMU's start to user space, for a bzImage and for
//! the vmlinux inside it.
//!
//! The ROM with the feature `markers` writes bytes to ports 0xf5 and 0xf4 as the
//! tools of this field read them; QEMU's trace gives every write its time, those
//! to the serial port too, so the kernel's own output dates the rest.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, Table};
use serde::Serialize;

use crate::initramfs::{self, Arch, MARKER};
use crate::measure::{self, Access};
use crate::output::say;
use crate::progress;
use crate::qemu::{Accel, Qemu};
use crate::{build, chart, extract, workspace};

/// Marks of the firmware: 1 at its start, 5 before it loads the kernel.
const FIRMWARE_PORT: u64 = 0xf5;
/// Marks right before the jump: 2 multiboot, 3 bzImage, 4 PVH.
const KERNEL_PORT: u64 = 0xf4;
/// First serial port's data register.
const SERIAL_PORT: u64 = 0x3f8;
/// Longest that a boot may take.
const TIMEOUT: Duration = Duration::from_secs(180);

/// One stretch of a boot.
#[derive(Clone, Debug, Serialize)]
pub struct Stage {
    /// What runs.
    pub name: &'static str,
    /// How long, in milliseconds.
    pub ms: f64,
}

/// One boot.
#[derive(Clone, Debug, Serialize)]
pub struct Timeline {
    /// Kernel's format.
    pub kernel: &'static str,
    /// In order, from QEMU's start to the first process.
    pub stages: Vec<Stage>,
}

impl Timeline {
    /// From the start to the end.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.stages.iter().map(|stage| stage.ms).sum()
    }
}

/// What is booted.
pub const MACHINE: &str = "q35";

/// Options of `timeline`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// bzImage to boot, as it is and as the vmlinux inside it [default: Debian's cloud kernel]
    #[arg(short, long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Keep the chart in docs/, where the README shows it
    #[arg(long)]
    pub docs: bool,
}

/// Measures, prints and draws the boots.
///
/// # Errors
/// The ROM with marks does not build, a boot does not reach user space, or a
/// file cannot be written.
pub fn run(options: &Options) -> Result<()> {
    let rom = build::rom(&["markers"])?;
    let bzimage = measure::donor(options.kernel.as_deref())?;
    let vmlinux = extract::cached(&bzimage)?.path;
    let mut timelines = vec![boot("bzImage", &rom.image, &bzimage)?];
    match vmlinux {
        Some(path) => timelines.push(boot("vmlinux (PVH)", &rom.image, &path)?),
        None => say!("skipped vmlinux: the kernel has no PVH entry point")?,
    }

    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    let mut head = vec![Cell::new("stage, milliseconds")];
    head.extend(timelines.iter().map(|one| Cell::new(one.kernel)));
    table.set_header(head);
    let names = timelines.iter().flat_map(|one| &one.stages);
    let mut seen = Vec::new();
    for name in names.map(|stage| stage.name) {
        if seen.contains(&name) {
            continue;
        }
        seen.push(name);
        let mut row = vec![Cell::new(name)];
        row.extend(timelines.iter().map(|one| {
            let ms = one.stages.iter().find(|stage| stage.name == name);
            number(ms.map(|stage| stage.ms))
        }));
        table.add_row(row);
    }
    let mut row = vec![Cell::new("user space after")];
    row.extend(timelines.iter().map(|one| number(Some(one.total()))));
    table.add_row(row);
    say!("{table}")?;
    say!("{MACHINE} under TCG: a translator's milliseconds, of which the shares count.")?;

    let dir = workspace::target().join("bench");
    fs::create_dir_all(&dir)?;
    let json = dir.join("timeline.json");
    fs::write(&json, serde_json::to_string_pretty(&timelines)? + "\n")?;
    let svg = dir.join("timeline.svg");
    chart::timelines(&timelines, &svg, options.docs)?;
    for file in [json, svg] {
        let file = file.strip_prefix(workspace::root()).unwrap_or(&file);
        say!("wrote {}", file.display())?;
    }
    Ok(())
}

fn number(ms: Option<f64>) -> Cell {
    let text = ms.map_or("-".to_owned(), |ms| format!("{ms:.1}"));
    Cell::new(text).set_alignment(CellAlignment::Right)
}

/// Boots once and dates the stages.
fn boot(kernel: &'static str, rom: &Path, image: &Path) -> Result<Timeline> {
    let step = progress::step(format!("booting the {kernel}"));
    let qemu = Qemu::new(MACHINE)
        .bios(rom)
        .kernel(image)
        .initrd(initramfs::standard(Arch::Amd64)?)
        // Early output dates the kernel's start; the decompressor says nothing then.
        .append("console=ttyS0 earlyprintk=serial,ttyS0,115200 panic=-1 qboot.do=poweroff")
        .accel(Accel::Tcg)
        .trace("memory_region_ops_write")
        .trace("vm_state_notify")
        .args(["-msg", "timestamp=on"]);
    let started = seconds(SystemTime::now())?;
    let mut vm = qemu.spawn()?;
    vm.wait_exit(TIMEOUT)?;
    let report = vm.report();
    let events = Events::read(&vm.trace_path())?;
    let timeline = events
        .stages(kernel, started)
        .with_context(|| format!("{kernel}\n{report}"))?;
    step.done(&format!("user space after {:.0} ms", timeline.total()));
    Ok(timeline)
}

fn seconds(time: SystemTime) -> Result<f64> {
    Ok(time.duration_since(UNIX_EPOCH)?.as_secs_f64())
}

/// When what happened, in seconds since 1970.
#[derive(Debug, Default)]
struct Events {
    running: Option<f64>,
    marks: Vec<(u64, u64, f64)>,
    /// Start of each line on the serial port.
    lines: Vec<(f64, String)>,
}

impl Events {
    fn read(trace: &Path) -> Result<Self> {
        let mut this = Self::default();
        let mut line = (0.0, String::new());
        for text in BufReader::new(File::open(trace)?).lines() {
            let text = text?;
            let Some(time) = measure::time_of(&text) else {
                continue;
            };
            if text.contains("vm_state_notify running 1") {
                this.running.get_or_insert(time);
            }
            let Some(access) = Access::parse(&text) else {
                continue;
            };
            match access.addr {
                FIRMWARE_PORT | KERNEL_PORT => {
                    this.marks.push((access.addr, access.value, time));
                }
                SERIAL_PORT => match u8::try_from(access.value).unwrap_or(0) {
                    b'\n' => this.lines.push(std::mem::take(&mut line)),
                    // Also the divisor latch: bytes of the port's set-up.
                    byte if byte < b' ' => {}
                    byte => {
                        if line.1.is_empty() {
                            line.0 = time;
                        }
                        line.1.push(char::from(byte));
                    }
                },
                _ => {}
            }
        }
        Ok(this)
    }

    fn mark(&self, port: u64, values: &[u64]) -> Option<f64> {
        let found = self
            .marks
            .iter()
            .find(|(at, value, _)| *at == port && values.contains(value));
        found.map(|(_, _, time)| *time)
    }

    fn line(&self, text: &str) -> Option<f64> {
        let found = self.lines.iter().find(|(_, line)| line.contains(text));
        found.map(|(time, _)| *time)
    }

    fn stages(&self, kernel: &'static str, started: f64) -> Result<Timeline> {
        let points = [
            ("QEMU", self.running.context("the machine did not start")?),
            (
                "reset stub",
                self.mark(FIRMWARE_PORT, &[1])
                    .context("no mark of the firmware's start")?,
            ),
            (
                "firmware",
                self.mark(FIRMWARE_PORT, &[5])
                    .context("no mark before the kernel's loading")?,
            ),
            (
                "loading",
                self.mark(KERNEL_PORT, &[2, 3, 4])
                    .context("no mark before the jump")?,
            ),
            (
                "decompressor and early kernel",
                self.line("Linux version")
                    .context("the kernel said nothing")?,
            ),
            (
                "kernel",
                self.line(" as init process")
                    .context("no first process was started")?,
            ),
            ("init", self.line(MARKER).context("init said nothing")?),
        ];
        let mut before = started;
        let mut stages = Vec::new();
        for (name, time) in points {
            ensure!(time >= before, "{name} ends before it starts");
            stages.push(Stage {
                name,
                ms: (time - before) * 1e3,
            });
            before = time;
        }
        Ok(Timeline { kernel, stages })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(lines: &[&str]) -> Events {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for line in lines {
            std::io::Write::write_all(&mut file, format!("{line}\n").as_bytes()).unwrap();
        }
        Events::read(file.path()).unwrap()
    }

    fn write(time: &str, addr: &str, value: u32) -> String {
        format!(
            "1@{time}:memory_region_ops_write cpu 0 mr 0x1 addr {addr} value {value:#x} size 1 name 'io'"
        )
    }

    #[test]
    fn stages_are_the_distances_between_marks() {
        let mut lines = vec![
            "1@10.500000:vm_state_notify running 1 reason 9 (running)".to_owned(),
            write("10.501000", "0xf5", 1),
            write("10.502000", "0xf5", 5),
            write("10.503000", "0xf4", 3),
        ];
        let output = [
            ("10.600000", "Linux version 6.1\n".to_owned()),
            ("10.800000", "Run /init as init process\n".to_owned()),
            ("10.900000", format!("{MARKER} cpus=1\n")),
        ];
        for (time, text) in &output {
            lines.extend(text.bytes().map(|byte| write(time, "0x3f8", byte.into())));
        }
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        let timeline = trace(&lines).stages("bzImage", 10.0).unwrap();
        let ms: Vec<_> = timeline.stages.iter().map(|s| s.ms.round()).collect();
        assert_eq!(ms, [500.0, 1.0, 1.0, 1.0, 97.0, 200.0, 100.0]);
    }

    #[test]
    fn a_rom_without_marks_is_named() {
        let error = trace(&["1@10.5:vm_state_notify running 1 reason 9 (running)"])
            .stages("bzImage", 10.0)
            .unwrap_err();
        assert!(error.to_string().contains("no mark"), "{error}");
    }
}
