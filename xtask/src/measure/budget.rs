//! The budget: the highest cost of each cell, in `tests/budget.toml`.
//!
//! A test fails if a cell costs more. `cargo xtask measure --update-budget` writes
//! today's counts, so a change shows its cost.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::counts::Counts;
use crate::{qemu, workspace};

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// QEMU's version: others make other tables.
    pub qemu: String,
    /// Bytes of the ROM that hold code or data.
    pub rom_used_bytes: u64,
    /// By name.
    pub cells: BTreeMap<String, Counts>,
    /// Whole boots.
    pub user_space: UserSpace,
}

/// Whole boots, in a few cells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserSpace {
    /// Kernel that was booted: others access other devices.
    pub linux: String,
    /// Exits from reset to user space as KVM would have them, by the cell's name.
    pub exits: BTreeMap<String, u64>,
}

const HEAD: &str = "\
# What the firmware may cost at most, from reset to the kernel's first 32-bit
# instruction, and how many exits KVM would have in a whole boot to user space. Written by
# `cargo xtask measure --update-budget`.

";

/// Where the budget is kept.
#[must_use]
pub fn path() -> PathBuf {
    workspace::root().join("tests/budget.toml")
}

/// Version of the QEMU in use as the budget names it: `7.2`.
///
/// # Errors
/// QEMU does not start, or names no version.
pub fn qemu_version() -> Result<String> {
    qemu::numbers(&qemu::binary())
}

impl Budget {
    /// Reads the budget.
    ///
    /// # Errors
    /// The file is missing or malformed.
    pub fn read() -> Result<Self> {
        let path = path();
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("parsing {}", path.display()))
    }

    /// Writes the budget.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self) -> Result<()> {
        let path = path();
        let text = format!("{HEAD}{}", toml::to_string(self)?);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// Where `measured` is dearer than this budget, each with the region that
    /// grew; and where it is cheaper.
    #[must_use]
    pub fn compare(&self, measured: &Self) -> Comparison {
        let mut found = Comparison::default();
        found.add(
            "ROM: used bytes",
            self.rom_used_bytes,
            measured.rom_used_bytes,
            "",
        );
        // Counts with another kernel cannot be compared.
        if self.user_space.linux == measured.user_space.linux {
            for (name, now) in &measured.user_space.exits {
                let budget = self.user_space.exits.get(name).copied().unwrap_or(0);
                let what = format!("{name}: exits to user space");
                found.add(&what, budget, *now, "");
            }
        }
        for (name, now) in &measured.cells {
            let Some(budget) = self.cells.get(name) else {
                found.worse.push(format!("{name}: not in the budget"));
                continue;
            };
            let grown = grown(&budget.regions, &now.regions);
            found.add(
                &format!("{name}: accesses"),
                budget.accesses,
                now.accesses,
                &grown,
            );
            found.add(
                &format!("{name}: instructions"),
                budget.instructions,
                now.instructions,
                "",
            );
        }
        found
    }
}

/// The result of a comparison with the budget.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Dearer than the budget allows.
    pub worse: Vec<String>,
    /// Cheaper: the budget can be lowered.
    pub better: Vec<String>,
}

impl Comparison {
    fn add(&mut self, what: &str, budget: u64, now: u64, grown: &str) {
        let text = format!("{what} {now}, budget {budget}{grown}");
        match now.cmp(&budget) {
            std::cmp::Ordering::Greater => self.worse.push(text),
            std::cmp::Ordering::Less => self.better.push(text),
            std::cmp::Ordering::Equal => {}
        }
    }
}

/// The regions that are accessed more often than before.
fn grown(budget: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> String {
    let texts: Vec<_> = now
        .iter()
        .filter_map(|(region, n)| {
            let before = budget.get(region).copied().unwrap_or(0);
            (*n > before).then(|| format!("{region} {before} -> {n}"))
        })
        .collect();
    if texts.is_empty() {
        String::new()
    } else {
        format!(" (grew: {})", texts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(dma: u64, instructions: u64) -> Budget {
        let counts = Counts {
            accesses: dma + 2,
            regions: [("fwcfg.dma".to_owned(), dma), ("io".to_owned(), 2)].into(),
            instructions,
        };
        Budget {
            qemu: "7.2".to_owned(),
            rom_used_bytes: 1000,
            cells: [("pc PVH".to_owned(), counts)].into(),
            user_space: UserSpace {
                linux: "6.1".to_owned(),
                exits: [("pc PVH".to_owned(), 2_000)].into(),
            },
        }
    }

    #[test]
    fn a_dearer_cell_names_the_region_that_grew() {
        let found = budget(9, 500).compare(&budget(10, 500));
        assert_eq!(
            found.worse,
            ["pc PVH: accesses 12, budget 11 (grew: fwcfg.dma 9 -> 10)"]
        );
        assert!(found.better.is_empty());
    }

    #[test]
    fn a_cheaper_cell_is_no_failure() {
        let found = budget(9, 500).compare(&budget(9, 499));
        assert!(found.worse.is_empty());
        assert_eq!(found.better, ["pc PVH: instructions 499, budget 500"]);
    }

    #[test]
    fn a_cell_without_a_budget_fails() {
        let found = Budget {
            rom_used_bytes: 1000,
            ..Budget::default()
        }
        .compare(&budget(9, 500));
        assert_eq!(found.worse, ["pc PVH: not in the budget"]);
    }

    #[test]
    fn a_dearer_boot_to_user_space_fails_with_the_same_kernel_only() {
        let mut now = budget(9, 500);
        now.user_space.exits.insert("pc PVH".to_owned(), 2_001);
        let found = budget(9, 500).compare(&now);
        assert_eq!(
            found.worse,
            ["pc PVH: exits to user space 2001, budget 2000"]
        );
        now.user_space.linux = "6.2".to_owned();
        assert!(budget(9, 500).compare(&now).worse.is_empty());
    }

    #[test]
    fn the_file_reads_back_what_was_written() {
        let budget = budget(9, 500);
        let text = toml::to_string(&budget).unwrap();
        assert_eq!(toml::from_str::<Budget>(&text).unwrap(), budget);
    }
}
