//! Exits and time under KVM.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{Cell, Kit, TIMEOUT, wait_for_end};
use crate::probe::Mode;
use crate::qemu::Accel;

/// One run under KVM.
#[derive(Clone, Copy, Debug)]
pub struct KvmRun {
    /// Exits to QEMU before the probe's own.
    pub exits: u64,
    /// From the start of the processors to the probe's first access, in milliseconds.
    pub ms: f64,
}

/// Runs a cell under KVM.
///
/// # Errors
/// KVM cannot be used, or the probe is not reached.
pub fn kvm_run(kit: &Kit, rom: &Path, cell: &Cell) -> Result<KvmRun> {
    let mut vm = kit
        .machine(rom, cell, Mode::Bare)?
        .accel(Accel::Kvm)
        .trace("kvm_run_exit")
        .trace("vm_state_notify")
        .args(["-msg", "timestamp=on"])
        .spawn()?;
    wait_for_end(&mut vm, rom, cell, TIMEOUT).context("under KVM")?;
    let mut start = None;
    let mut last = None;
    let mut exits = 0u64;
    for line in BufReader::new(File::open(vm.trace_path())?).lines() {
        let line = line?;
        if line.contains("vm_state_notify running 1") {
            start = time_of(&line);
        } else if line.contains("kvm_run_exit") {
            last = time_of(&line);
            exits += 1;
        }
    }
    let (Some(start), Some(last)) = (start, last) else {
        bail!("{}: no exits in the trace\n{}", cell.name, vm.report());
    };
    Ok(KvmRun {
        exits: exits.saturating_sub(1),
        ms: (last - start) * 1e3,
    })
}

/// The time of a trace line in seconds: `PID@SECONDS.MICROSECONDS:event …`.
pub(crate) fn time_of(line: &str) -> Option<f64> {
    line.split_once('@')?.1.split_once(':')?.0.parse().ok()
}

/// Median, least and most of a list.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named as what they are")]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, min, max } = self;
        write!(f, "{median:.1} ({min:.1} to {max:.1})")
    }
}

impl Spread {
    /// In whole numbers.
    #[must_use]
    pub fn whole(&self) -> String {
        let Self { median, min, max } = self;
        format!("{median:.0} ({min:.0} to {max:.0})")
    }

    /// Of at least one value.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        Some(Self {
            median: *values.get(values.len() / 2)?,
            min: *values.first()?,
            max: *values.last()?,
        })
    }
}
