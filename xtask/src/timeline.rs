//! The time from QEMU's start to user space by stages, for each machine and firmware,
//! with a bzImage and with the vmlinux inside it.
//!
//! QEMU's trace gives every write to a device its time. The firmware ends with its
//! last fw_cfg transfer: the kernel that it jumps to makes none.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use crate::firmware::{self, Firmware, OURS};
use crate::measure::user_space::{self, Linux};
use crate::measure::{self, Access, Cell, Kernel, Spread};
use crate::output::say;
use crate::probe::REPORT_PORT;
use crate::qemu::Accel;
use crate::results::{STAGES, Stage, TIMELINES, Timeline, directory, write};
use crate::{chart, progress};

/// Options of `timeline`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// bzImage to boot, as it is and as the vmlinux inside it [default: Debian's cloud kernel]
    #[arg(short, long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Machine to boot on
    #[arg(long, value_name = "MACHINE", default_values_t = MACHINES.map(str::to_owned))]
    pub machine: Vec<String>,
    /// Boots of each, by turns
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub runs: usize,
    /// Boot under KVM
    #[arg(long)]
    pub kvm: bool,
}

const MACHINES: [&str; 3] = ["microvm", "pc", "q35"];

/// Measures, prints and draws the boots.
///
/// # Errors
/// The ROM does not build, a boot does not reach user space, or a file cannot be
/// written.
pub fn run(options: &Options) -> Result<()> {
    let (firmware, ..) = firmware::all(&[])?;
    let linux = Linux::new(options.kernel.as_deref())?;
    let accel = if options.kvm { Accel::Kvm } else { Accel::Tcg };
    let mut timelines = Vec::new();
    for machine in &options.machine {
        for kernel in ["vmlinux", "bzImage"] {
            let boots = boots(&linux, &firmware, (machine, kernel), accel, options.runs);
            timelines.extend(boots?);
        }
    }

    let columns = STAGES.join(" | ");
    say!(
        "| boot, milliseconds | {columns} | in all, median (least to most) | more than ours, by turns |"
    )?;
    say!("|---|---|---|---|---|---|")?;
    for one in &timelines {
        let stages = one.stages.iter().map(|stage| format!("{:.1}", stage.ms));
        let stages = stages.collect::<Vec<_>>().join(" | ");
        say!(
            "| {} {}, {} | {stages} | {} | {} |",
            one.machine,
            one.kernel,
            one.firmware,
            one.spread,
            one.more
        )?;
    }
    let (release, runs) = (linux.release()?, options.runs);
    say!("{accel:?}, Linux {release}, {runs} boots of each by turns")?;
    if accel == Accel::Tcg {
        say!("Under TCG only the shares mean something.")?;
    }

    write(TIMELINES, &timelines)?;
    chart::timelines(&timelines).write(&directory().join("timeline.svg"))
}

/// Boots each firmware `runs` times, by turns; without those that do not reach user
/// space.
fn boots(
    linux: &Linux,
    firmware: &[Firmware],
    (machine, kernel): (&str, &str),
    accel: Accel,
    runs: usize,
) -> Result<Vec<Timeline>> {
    let step = progress::step(format!("booting the {kernel} on {machine}"));
    let wrapped = match kernel {
        "bzImage" => Kernel::BzImage,
        _ => Kernel::Pvh,
    };
    let cells = measure::core_cells();
    let cell = cells
        .iter()
        .find(|cell| cell.machine == machine && cell.kernel == wrapped)
        .context("the machine is not measured")?;
    let mut taken = vec![Vec::new(); firmware.len()];
    // On a microvm SeaBIOS may put its tables over the initrd.
    let mut left_out = BTreeSet::new();
    for _ in 0..runs {
        for (one, list) in firmware.iter().zip(&mut taken) {
            if left_out.contains(&one.name) {
                continue;
            }
            match boot(linux, one.image(machine), cell, accel) {
                Err(error) if one.name != OURS => {
                    eprintln!("{}, left out: {error:#}", one.name);
                    left_out.insert(one.name.clone());
                    list.clear();
                }
                points => list.push(points?),
            }
        }
    }
    step.done(&format!("{runs} boots of each"));
    let total = |points: &Vec<f64>| (points[STAGES.len()] - points[0]) * 1e3;
    let booted = firmware.iter().zip(&taken);
    let booted = booted.filter(|(_, list)| !list.is_empty());
    let timelines = booted.map(|(one, list)| {
        let stages = STAGES.iter().enumerate().map(|(n, name)| {
            let ms = list.iter().map(|points| (points[n + 1] - points[n]) * 1e3);
            let ms = Spread::of(ms.collect()).context("no boots")?.min;
            let name = (*name).to_owned();
            Ok(Stage { name, ms })
        });
        let ours = taken.first().into_iter().flatten().map(total);
        let more = list
            .iter()
            .map(total)
            .zip(ours)
            .map(|(this, ours)| this - ours);
        Ok(Timeline {
            machine: machine.to_owned(),
            kernel: kernel.to_owned(),
            firmware: one.name.clone(),
            stages: stages.collect::<Result<_>>()?,
            spread: Spread::of(list.iter().map(total).collect()).context("no boots")?,
            more: Spread::of(more.collect()).context("no boots")?,
        })
    });
    timelines.collect()
}

/// The start of one boot and its stages' ends.
fn boot(linux: &Linux, rom: &Path, cell: &Cell, accel: Accel) -> Result<Vec<f64>> {
    let mut points = vec![seconds(SystemTime::now())?];
    let trace = user_space::timed(linux, rom, cell, accel)?;
    points.extend(Points::read(trace.path())?.ordered()?);
    Ok(points)
}

fn seconds(time: SystemTime) -> Result<f64> {
    Ok(time.duration_since(UNIX_EPOCH)?.as_secs_f64())
}

/// The times of the stages' ends, in seconds since 1970.
#[derive(Debug, Default)]
struct Points {
    running: Option<f64>,
    transfer: Option<f64>,
    user_space: Option<f64>,
}

impl Points {
    fn read(trace: &Path) -> Result<Self> {
        let mut this = Self::default();
        for text in BufReader::new(File::open(trace)?).lines() {
            let text = text?;
            let Some(time) = measure::time_of(&text) else {
                continue;
            };
            if text.contains("vm_state_notify running 1") {
                this.running.get_or_insert(time);
            }
            match Access::parse(&text) {
                Some(access) if access.addr == u64::from(REPORT_PORT) => {
                    this.user_space.get_or_insert(time);
                }
                Some(access) if access.region.starts_with("fwcfg") => this.transfer = Some(time),
                _ => {}
            }
        }
        Ok(this)
    }

    /// The stages' ends.
    fn ordered(&self) -> Result<[f64; STAGES.len()]> {
        let running = self.running.context("the machine did not start")?;
        let transfer = self.transfer.context("the firmware read nothing")?;
        let user_space = self.user_space.context("user space was not reached")?;
        ensure!(
            running <= transfer && transfer <= user_space,
            "a stage ends before it starts"
        );
        Ok([running, transfer, user_space])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(lines: &[String]) -> Points {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for line in lines {
            std::io::Write::write_all(&mut file, format!("{line}\n").as_bytes()).unwrap();
        }
        Points::read(file.path()).unwrap()
    }

    fn write(time: &str, addr: &str, region: &str) -> String {
        format!(
            "1@{time}:memory_region_ops_write cpu 0 mr 0x1 addr {addr} value 0x1 size 1 name '{region}'"
        )
    }

    #[test]
    fn the_last_transfer_ends_the_firmware() {
        let running = "1@10.5:vm_state_notify running 1 reason 9 (running)".to_owned();
        let lines = [
            running.clone(),
            write("10.6", "0x518", "fwcfg.dma"),
            write("10.7", "0x510", "fwcfg"),
            write("10.8", "0xcf8", "pci-conf-idx"),
            write("10.9", "0xe0", "io"),
        ];
        assert_eq!(points(&lines).ordered().unwrap(), [10.5, 10.7, 10.9]);
        let error = points(&lines[..4]).ordered().unwrap_err();
        assert!(error.to_string().contains("user space"), "{error}");
        let error = points(&[running]).ordered().unwrap_err();
        assert!(error.to_string().contains("read nothing"), "{error}");
    }
}
