//! What came of the cells: `tests/matrix-results.toml`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use xtask::workspace;

use crate::matrix::table::Cell;

/// What is said of a cell that works.
pub const WORKS: &str = "works";
/// This firmware's name in the record.
pub const OURS: &str = "ours";
/// The firmwares by the names of the record, and as pages name them.
pub const FIRMWARES: [(&str, &str); 3] = [
    (OURS, "qboot-rs"),
    ("qboot", "C qboot"),
    ("seabios", "SeaBIOS"),
];

/// Outcomes of cells, by firmware and version of QEMU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The versions that each cell was run with, oldest first: this firmware with all of
    /// them, the others with the first.
    run: BTreeMap<String, Vec<String>>,
    /// By version and firmware: the cells that do not work, and what happens.
    fails: BTreeMap<String, BTreeMap<String, BTreeMap<String, String>>>,
}

const HEAD: &str = "\
# What comes of the cells of tests/matrix.toml. Written by `cargo xtask matrix --update`.
#
# run: the versions of QEMU that a cell was run with. This firmware was run with all of
# them, C qboot and SeaBIOS with the first.
# fails: what happens in the cells that do not work. All others that were run do.

";

fn path() -> PathBuf {
    workspace::root().join("tests/matrix-results.toml")
}

impl Record {
    /// Reads the record.
    pub fn read() -> Result<Self> {
        let text = fs::read_to_string(path()).context("tests/matrix-results.toml")?;
        toml::from_str(&text).context("tests/matrix-results.toml")
    }

    /// Writes the record, without what is not of `cells`.
    pub fn write(mut self, cells: &[Cell]) -> Result<()> {
        self.run
            .retain(|id, _| cells.iter().any(|cell| cell.id() == *id));
        for (version, firmwares) in &mut self.fails {
            for (firmware, outcomes) in firmwares.iter_mut() {
                outcomes.retain(|id, _| was_run(&self.run, version, id, firmware));
            }
            firmwares.retain(|_, outcomes| !outcomes.is_empty());
        }
        self.fails.retain(|_, firmwares| !firmwares.is_empty());
        let text = format!("{HEAD}{}", toml::to_string(&self)?);
        workspace::write_atomically(&path(), text.as_bytes())
    }

    /// Records what came of a cell with all firmwares that [`Record::firmwares`] names.
    pub fn set(&mut self, version: &str, id: &str, outcomes: &[(&str, &str)]) {
        let versions = self.run.entry(id.to_owned()).or_default();
        if !versions.iter().any(|known| known == version) {
            versions.push(version.to_owned());
            versions.sort_by_key(|version| number(version));
        }
        let firmwares = self.fails.entry(version.to_owned()).or_default();
        for (firmware, outcome) in outcomes {
            let fails = firmwares.entry((*firmware).to_owned()).or_default();
            fails.remove(id);
            if *outcome != WORKS {
                fails.insert(id.to_owned(), (*outcome).to_owned());
            }
        }
    }

    /// The firmwares to record a cell of: the others are run with the oldest QEMU only.
    pub fn firmwares(&self, version: &str, id: &str) -> Vec<String> {
        let oldest = self.versions(id).first().map(|first| number(first));
        let all = oldest.is_none_or(|oldest| number(version) <= oldest);
        let names = FIRMWARES.map(|(name, _)| name.to_owned());
        names[..if all { 3 } else { 1 }].to_vec()
    }

    /// The versions of QEMU that a cell was run with, oldest first.
    pub fn versions(&self, id: &str) -> &[String] {
        self.run.get(id).map_or(&[], Vec::as_slice)
    }

    /// The cells that were run.
    pub fn cells(&self) -> impl Iterator<Item = &String> {
        self.run.keys()
    }

    /// What came of a cell, if it was run.
    pub fn get(&self, version: &str, id: &str, firmware: &str) -> Option<&str> {
        let fails = || self.fails.get(version)?.get(firmware)?.get(id);
        was_run(&self.run, version, id, firmware).then(|| fails().map_or(WORKS, String::as_str))
    }

    /// What a run has to come to: what it came to before, with the oldest QEMU if there was
    /// none with this one.
    pub fn expected(&self, version: &str, id: &str, firmware: &str) -> &str {
        let first = || self.get(self.versions(id).first()?, id, firmware);
        self.get(version, id, firmware)
            .or_else(first)
            .unwrap_or(WORKS)
    }
}

fn was_run(run: &BTreeMap<String, Vec<String>>, version: &str, id: &str, firmware: &str) -> bool {
    let mut versions = run.get(id).into_iter().flatten();
    match firmware {
        OURS => versions.any(|known| known == version),
        _ => versions.next().is_some_and(|first| first == version),
    }
}

fn number(version: &str) -> Vec<u32> {
    let parts = version.split('.');
    parts.map(|part| part.parse().unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_every_cell_and_no_other() {
        let record = Record::read().unwrap();
        let rows = crate::matrix::table::rows().unwrap();
        let mut cells: Vec<String> = crate::matrix::table::cells(&rows)
            .iter()
            .map(Cell::id)
            .collect();
        cells.sort();
        let recorded: Vec<String> = record.cells().cloned().collect();
        assert_eq!(cells, recorded, "cargo xtask matrix --missing --update");
    }

    #[test]
    fn keeps_what_differs() {
        let mut record = Record::default();
        let all = |record: &Record, version| record.firmwares(version, "a@pc").len();
        assert_eq!(all(&record, "10.0"), 3);
        assert_eq!(record.get("10.0", "a@pc", OURS), None);
        assert_eq!(record.expected("10.0", "a@pc", OURS), WORKS);
        record.set(
            "10.0",
            "a@pc",
            &[(OURS, WORKS), ("qboot", "prints nothing")],
        );
        assert_eq!(
            [
                all(&record, "7.2"),
                all(&record, "10.0"),
                all(&record, "11.1")
            ],
            [3, 3, 1]
        );
        assert_eq!(record.get("10.0", "a@pc", "qboot"), Some("prints nothing"));
        assert_eq!(record.expected("11.1", "a@pc", "qboot"), "prints nothing");
        assert_eq!(record.expected("11.1", "a@pc", OURS), WORKS);
        // The others' outcomes are those with the oldest.
        record.set("7.2", "a@pc", &[(OURS, "hangs"), ("qboot", WORKS)]);
        assert_eq!(record.get("10.0", "a@pc", "qboot"), None);
        assert_eq!(record.expected("10.0", "a@pc", "qboot"), WORKS);
        assert_eq!(record.get("10.0", "a@pc", OURS), Some(WORKS));
        assert_eq!(record.get("7.2", "a@pc", OURS), Some("hangs"));
        record.set("7.2", "a@pc", &[(OURS, WORKS)]);
        assert_eq!(record.get("7.2", "a@pc", OURS), Some(WORKS));
    }
}
