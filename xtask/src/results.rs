//! What the benchmark and the timeline have found, as they leave it in `target/bench/`
//! for the charts and the pages.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::measure::user_space::UserSpace;
use crate::measure::{Counts, Spread};
use crate::output::say;
use crate::workspace;

/// File of [`Results`].
pub const RESULTS: &str = "results.json";
/// File of the [`Boots`].
pub const BOOTS: &str = "boots.json";
/// File of the [`Timeline`]s.
pub const TIMELINES: &str = "timeline.json";

/// Where results are kept.
#[must_use]
pub fn directory() -> PathBuf {
    workspace::target().join("bench")
}

/// Writes results.
///
/// # Errors
/// The file cannot be written.
pub fn write(name: &str, found: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(found)? + "\n";
    workspace::write_atomically(&directory().join(name), text.as_bytes())?;
    say!("wrote target/bench/{name}")
}

/// Reads the last results; `by` is the command that writes them.
///
/// # Errors
/// There are none, or another version wrote them.
pub fn read<T: DeserializeOwned>(name: &str, by: &str) -> Result<T> {
    let path = directory().join(name);
    let text = fs::read_to_string(&path);
    let text = text.with_context(|| format!("reading {} ({by} writes it)", path.display()))?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

/// Time and exits under KVM.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kvm {
    /// Exits to QEMU, the median of all runs.
    pub exits: u64,
    /// Milliseconds from the start of the processors to the kernel.
    pub ms: Spread,
    /// Runs that these were taken from.
    pub runs: usize,
}

/// What one firmware costs in one cell.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Accesses and instructions; absent when the kernel was not reached.
    pub counts: Option<Counts>,
    /// Pages of guest RAM that were touched first between reset and kernel.
    pub pages: Option<u64>,
    /// Absent without KVM.
    pub kvm: Option<Kvm>,
}

/// Everything that one run of the benchmark found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// What `qemu --version` says.
    pub qemu: String,
    /// Used bytes of our ROM.
    pub rom_used_bytes: u64,
    /// Firmware names in the order of the table.
    pub firmware: Vec<String>,
    /// Cell names in the order of the table.
    pub cells: Vec<String>,
    /// By cell and firmware.
    pub results: BTreeMap<String, BTreeMap<String, Outcome>>,
    /// What was not measured, and why.
    pub skipped: Vec<String>,
}

/// What a table says of an outcome, if anything.
pub type Entry = fn(&Outcome) -> Option<String>;

impl Results {
    /// What a firmware costs in a cell, where it was measured.
    #[must_use]
    pub fn outcome(&self, cell: &str, firmware: &str) -> Option<&Outcome> {
        self.results.get(cell)?.get(firmware)
    }

    /// What `entry` says of each firmware in each of `cells`.
    #[must_use]
    pub fn table(&self, cells: &[&String], entry: Entry) -> String {
        table(CELL, &self.firmware, cells, |cell, name| {
            self.outcome(cell, name).and_then(entry)
        })
    }
}

/// Head of a table's first column.
pub const CELL: &str = "machine and kernel";

/// A table in Markdown of what `entry` says of each row and firmware. Rows without any
/// entry are left out. `head` is above the rows' names.
#[must_use]
pub fn table(
    head: &str,
    firmware: &[String],
    rows: &[&String],
    entry: impl Fn(&str, &str) -> Option<String>,
) -> String {
    let mut text = format!("| {head} | {} |\n", firmware.join(" | "));
    text += &"|---".repeat(firmware.len() + 1);
    text += "|\n";
    for row in rows {
        let entries = firmware.iter().map(|name| entry(row, name));
        let entries: Vec<_> = entries.collect();
        if entries.iter().any(Option::is_some) {
            let entries = entries.into_iter();
            let entries = entries.map(|entry| entry.unwrap_or_else(|| "–".to_owned()));
            let entries = entries.collect::<Vec<_>>().join(" | ");
            text += &format!("| {row} | {entries} |\n");
        }
    }
    text
}

/// Boots to user space of one kernel under one QEMU.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Boots {
    /// Where kernel and QEMU are from.
    pub suite: String,
    /// The kernel's release.
    pub linux: String,
    /// What `qemu --version` says.
    pub qemu: String,
    /// Firmware names in the order of the table.
    pub firmware: Vec<String>,
    /// Cell names in the order of the table.
    pub cells: Vec<String>,
    /// By cell and firmware; absent where user space was not reached.
    pub results: BTreeMap<String, BTreeMap<String, UserSpace>>,
    /// What was not measured, and why.
    pub skipped: Vec<String>,
}

impl Boots {
    /// Whether these are boots of the same kernel under the same QEMU.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        (&self.suite, &self.linux, &self.qemu) == (&other.suite, &other.linux, &other.qemu)
    }

    /// What a boot costs, if user space was reached.
    #[must_use]
    pub fn outcome(&self, cell: &str, firmware: &str) -> Option<&UserSpace> {
        self.results.get(cell)?.get(firmware)
    }

    /// The kernel's version, `6.1`.
    #[must_use]
    pub fn version(&self) -> String {
        let parts: Vec<_> = self.linux.split('.').take(2).collect();
        parts.join(".")
    }

    /// The line above a table of [`Boots::table`].
    #[must_use]
    pub fn head(&self) -> String {
        let (linux, qemu) = (&self.linux, &self.qemu);
        format!("Exits / accesses from reset to user space, Linux {linux}, {qemu}:")
    }

    /// Exits / accesses in `cells`.
    #[must_use]
    pub fn table(&self, cells: &[&String]) -> String {
        table(CELL, &self.firmware, cells, |cell, name| {
            let boot = self.outcome(cell, name)?;
            let (exits, accesses) = (grouped(boot.exits), grouped(boot.accesses));
            Some(format!("{exits} / {accesses}"))
        })
    }
}

impl Outcome {
    /// Accesses / instructions to the kernel.
    #[must_use]
    pub fn to_kernel(&self) -> Option<String> {
        let counts = self.counts.as_ref()?;
        let (accesses, instructions) = (grouped(counts.accesses), grouped(counts.instructions));
        Some(format!("{accesses} / {instructions}"))
    }
}

/// One stretch of a boot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stage {
    /// What runs.
    pub name: String,
    /// How long, in milliseconds: the least of all boots, since load only adds.
    pub ms: f64,
}

/// Boots of one kernel on one machine with one firmware.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Timeline {
    /// Machine type.
    pub machine: String,
    /// Kernel's format.
    pub kernel: String,
    /// Firmware's name.
    pub firmware: String,
    /// In order, from QEMU's start to the first process.
    pub stages: Vec<Stage>,
    /// From the start to the end, in milliseconds.
    pub spread: Spread,
    /// How much more than ours in the same turn, in milliseconds.
    pub more: Spread,
}

/// The stages of a timeline. The second, the firmware, differs most.
pub const STAGES: [&str; 3] = ["QEMU", "firmware", "kernel"];

/// A number with a comma at each thousand.
#[must_use]
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n != 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        let texts: Vec<_> = [0, 999, 1000, 1_234_567].map(grouped).into();
        assert_eq!(texts, ["0", "999", "1,000", "1,234,567"]);
    }
}
