//! What was measured: `tests/matrix-results.toml`, and the pages made from it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::table::{Cell, Row};
use crate::workspace;

/// What is written for a cell that works.
pub const WORKS: &str = "works";

/// The firmwares by the names of the results, and as pages name them.
pub const FIRMWARES: [(&str, &str); 3] = [
    ("ours", "qboot-rs"),
    ("qboot", "C qboot"),
    ("seabios", "SeaBIOS"),
];

type ByFirmware = BTreeMap<String, String>;

/// Recorded outcomes by version of QEMU, cell and firmware.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Results(pub BTreeMap<String, BTreeMap<String, ByFirmware>>);

const HEAD: &str = "\
# What each firmware does in each cell of tests/matrix.toml, by version of QEMU.
# Written by `cargo xtask matrix --update`, never by hand.

";

fn path() -> PathBuf {
    workspace::root().join("tests/matrix-results.toml")
}

impl Results {
    /// Reads the record.
    ///
    /// # Errors
    /// It is malformed.
    pub fn read() -> Result<Self> {
        match fs::read_to_string(path()) {
            Ok(text) => toml::from_str(&text).context("parsing tests/matrix-results.toml"),
            Err(_) => Ok(Self::default()),
        }
    }

    /// Writes the record without cells that the table no longer has.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&mut self, cells: &[Cell]) -> Result<()> {
        for by_cell in self.0.values_mut() {
            by_cell.retain(|id, _| cells.iter().any(|cell| cell.id() == *id));
        }
        let text = format!("{HEAD}{}", toml::to_string(self)?);
        workspace::write_atomically(&path(), text.as_bytes())
    }

    /// Records one outcome.
    pub fn set(&mut self, version: &str, cell: &str, firmware: &str, outcome: &str) {
        let by_cell = self.0.entry(version.to_owned()).or_default();
        let by_firmware = by_cell.entry(cell.to_owned()).or_default();
        by_firmware.insert(firmware.to_owned(), outcome.to_owned());
    }

    /// The recorded outcome.
    #[must_use]
    pub fn get(&self, version: &str, cell: &str, firmware: &str) -> Option<&str> {
        let by_cell = self.0.get(version)?;
        by_cell.get(cell)?.get(firmware).map(String::as_str)
    }

    /// The outcome under the oldest QEMU that has one.
    fn first(&self, cell: &str, firmware: &str) -> Option<(&str, &str)> {
        self.versions()
            .into_iter()
            .find_map(|version| Some((version, self.get(version, cell, firmware)?)))
    }

    fn versions(&self) -> Vec<&str> {
        let mut versions: Vec<&str> = self.0.keys().map(String::as_str).collect();
        versions.sort_by_key(|version| number(version));
        versions
    }
}

fn number(version: &str) -> Vec<u32> {
    let parts = version.split('.');
    parts.map(|part| part.parse().unwrap_or(0)).collect()
}

const START: &str = "<!-- compatibility -->\n";
const END: &str = "<!-- /compatibility -->";

/// The pages with the generated parts: path and content.
///
/// # Errors
/// A page cannot be read, or has no place for its part.
pub fn pages(rows: &[Row], results: &Results) -> Result<Vec<(PathBuf, String)>> {
    let parts = [
        ("README.md", summary(rows, results)),
        ("docs/compatibility.md", whole(rows, results)),
    ];
    let mut pages = Vec::new();
    for (name, part) in parts {
        let path = workspace::root().join(name);
        let page = fs::read_to_string(&path).with_context(|| format!("reading {name}"))?;
        let (before, rest) = page.split_once(START).context(name)?;
        let (_, after) = rest.split_once(END).context(name)?;
        pages.push((path, format!("{before}{START}{part}{END}{after}")));
    }
    Ok(pages)
}

fn groups(rows: &[Row]) -> Vec<&str> {
    let mut groups: Vec<&str> = Vec::new();
    for row in rows {
        if !groups.contains(&row.group.as_str()) {
            groups.push(&row.group);
        }
    }
    groups
}

fn ids(row: &Row) -> impl Iterator<Item = (&str, String)> {
    let machines = row.machines.iter();
    machines.map(|machine| (machine.as_str(), format!("{}@{machine}", row.name)))
}

fn head(first: &[&str]) -> String {
    let names = FIRMWARES.map(|(_, name)| name);
    let columns: Vec<&str> = first.iter().copied().chain(names).collect();
    let rule = "|---".repeat(columns.len());
    format!("| {} |\n{rule}|\n", columns.join(" | "))
}

/// How many cells of each group work.
fn summary(rows: &[Row], results: &Results) -> String {
    let mut text = head(&["cells that work"]);
    for group in groups(rows) {
        let _ = write!(text, "| {group} |");
        for (firmware, _) in FIRMWARES {
            let (mut good, mut all) = (0, 0);
            for row in rows.iter().filter(|row| row.group == group) {
                for (_, id) in ids(row) {
                    if let Some((_, outcome)) = results.first(&id, firmware) {
                        all += 1;
                        good += u32::from(outcome == WORKS);
                    }
                }
            }
            let _ = write!(text, " {good} of {all} |");
        }
        text.push('\n');
    }
    text
}

/// Every cell; machines of a row on which all firmwares do the same share a line.
fn whole(rows: &[Row], results: &Results) -> String {
    let mut text = String::new();
    for group in groups(rows) {
        let _ = write!(text, "## {group}\n\n{}", head(&["what", "machine", "QEMU"]));
        for row in rows.iter().filter(|row| row.group == group) {
            let mut lines: Vec<(Vec<&str>, String)> = Vec::new();
            for (machine, id) in ids(row) {
                let outcomes = FIRMWARES.map(|(firmware, _)| outcomes(results, &id, firmware));
                let line = format!("{} | {}", run_with(results, &id), outcomes.join(" | "));
                match lines.iter_mut().find(|(_, same)| *same == line) {
                    Some((machines, _)) => machines.push(machine),
                    None => lines.push((vec![machine], line)),
                }
            }
            for (machines, line) in lines {
                let _ = writeln!(text, "| {} | {} | {line} |", row.text, machines.join(", "));
            }
        }
        text.push('\n');
    }
    text
}

/// The versions of QEMU that a cell was run with.
fn run_with(results: &Results, id: &str) -> String {
    let mut versions = results.versions();
    versions.retain(|version| results.0[*version].contains_key(id));
    versions.join(", ")
}

/// What a firmware does in a cell, and with which QEMU where they differ.
fn outcomes(results: &Results, id: &str, firmware: &str) -> String {
    let mut found: Vec<(String, Vec<&str>)> = Vec::new();
    for version in results.versions() {
        let Some(outcome) = results.get(version, id, firmware) else {
            continue;
        };
        let outcome = entry(outcome);
        match found.iter_mut().find(|(same, _)| *same == outcome) {
            Some((_, versions)) => versions.push(version),
            None => found.push((outcome, vec![version])),
        }
    }
    match found.as_slice() {
        [] => "–".to_owned(),
        [(outcome, _)] => outcome.clone(),
        more => {
            let each = more.iter();
            let each = each.map(|(what, versions)| format!("{}: {what}", versions.join(", ")));
            each.collect::<Vec<_>>().join("; ")
        }
    }
}

fn entry(outcome: &str) -> String {
    match outcome {
        WORKS => "yes".to_owned(),
        // A bar ends a table's cell even in code.
        how => how.replace('|', "\\|"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::table;

    #[test]
    fn the_pages_are_in_accord_with_the_record() {
        let results = Results::read().unwrap();
        for (path, content) in pages(&table::rows().unwrap(), &results).unwrap() {
            let page = fs::read_to_string(&path).unwrap();
            let path = path.display();
            assert!(
                page == content,
                "{path} is out of date: cargo xtask matrix --pages"
            );
        }
    }

    #[test]
    fn every_cell_is_recorded_and_nothing_else() {
        let results = Results::read().unwrap();
        let cells: Vec<String> = table::cells().unwrap().iter().map(Cell::id).collect();
        for id in &cells {
            let known = results.first(id, "ours").is_some();
            assert!(known, "{id} is not recorded: cargo xtask matrix --update");
        }
        for id in results.0.values().flat_map(BTreeMap::keys) {
            assert!(cells.contains(id), "{id} is not in the table");
        }
    }

    fn rows() -> Vec<Row> {
        let row = |name: &str| {
            let text = format!(
                "name='{name}'\ngroup='G'\ntext='T{name}'\nmachines=['pc','q35']\nkernel='k'\nexpect=['x']"
            );
            toml::from_str(&text).unwrap()
        };
        vec![row("a"), row("b")]
    }

    #[test]
    fn pages_tell_what_works_and_how_the_rest_fails() {
        let mut results = Results::default();
        for id in ["a@pc", "a@q35", "b@pc"] {
            results.set("7.2", id, "ours", WORKS);
            results.set("7.2", id, "qboot", "prints nothing");
            results.set("10.0", id, "ours", WORKS);
            results.set("10.0", id, "qboot", "prints nothing");
        }
        results.set("10.0", "b@pc", "ours", "prints nothing");
        results.set("7.2", "b@q35", "ours", "ends without `a|b`");
        let text = summary(&rows(), &results);
        assert!(text.contains("| G | 3 of 4 | 0 of 3 | 0 of 0 |"), "{text}");
        let text = whole(&rows(), &results);
        let line = "| Ta | pc, q35 | 7.2, 10.0 | yes | prints nothing | – |";
        assert!(text.contains(line), "{text}");
        let line = "| Tb | pc | 7.2, 10.0 | 7.2: yes; 10.0: prints nothing | prints nothing | – |";
        assert!(text.contains(line), "{text}");
        let line = "| Tb | q35 | 7.2 | ends without `a\\|b` | – | – |";
        assert!(text.contains(line), "{text}");
    }
}
