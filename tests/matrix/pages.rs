//! The tables of `docs/compatibility.md`, made from the record.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use xtask::workspace;

use super::record::{FIRMWARES, OURS, Record, WORKS};
use super::table::{self, Row};

const START: &str = "<!-- compatibility -->\n";
const END: &str = "<!-- /compatibility -->";

/// Writes the tables into the page.
pub fn write() -> Result<()> {
    let (path, content) = page()?;
    workspace::write_atomically(&path, content.as_bytes())
}

/// The page with its tables: path and content.
fn page() -> Result<(PathBuf, String)> {
    let (rows, record) = (table::rows()?, Record::read()?);
    let path = workspace::root().join("docs/compatibility.md");
    let page = fs::read_to_string(&path).context("reading docs/compatibility.md")?;
    let (before, rest) = page.split_once(START).context("no tables")?;
    let (_, after) = rest.split_once(END).context("no end of the tables")?;
    let tables = format!("{}\n{}", summary(&rows, &record), whole(&rows, &record));
    Ok((path, format!("{before}{START}{tables}{END}{after}")))
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

/// How many cells of each group work with the oldest QEMU.
fn summary(rows: &[Row], record: &Record) -> String {
    let mut text = head(&["cells that work"]);
    for group in groups(rows) {
        let _ = write!(text, "| {group} |");
        for (firmware, _) in FIRMWARES {
            let (mut good, mut all) = (0, 0);
            for (_, id) in rows.iter().filter(|row| row.group == group).flat_map(ids) {
                let first = record.versions(&id).first();
                if let Some(outcome) = first.and_then(|first| record.get(first, &id, firmware)) {
                    all += 1;
                    good += u32::from(outcome == WORKS);
                }
            }
            let _ = write!(text, " {good} of {all} |");
        }
        text.push('\n');
    }
    text
}

/// Every cell; machines of a row on which all firmwares do the same share a line. What
/// all of them boot is a list below the table.
fn whole(rows: &[Row], record: &Record) -> String {
    let mut text = String::new();
    let all: BTreeSet<&String> = record.cells().flat_map(|id| record.versions(id)).collect();
    for group in groups(rows) {
        let _ = write!(text, "## {group}\n\n{}", head(&["what", "machine"]));
        let mut list = String::new();
        for row in rows.iter().filter(|row| row.group == group) {
            let mut lines: Vec<(Vec<&str>, String, [String; 3])> = Vec::new();
            for (machine, id) in ids(row) {
                let outcomes = FIRMWARES.map(|(firmware, _)| outcomes(record, &id, firmware));
                let versions = match record.versions(&id) {
                    run if run.len() == all.len() => String::new(),
                    fewer => format!(" (QEMU {})", fewer.join(", ")),
                };
                let same = |line: &&mut (_, String, [String; 3])| {
                    (&line.1, &line.2) == (&versions, &outcomes)
                };
                match lines.iter_mut().find(same) {
                    Some((machines, ..)) => machines.push(machine),
                    None => lines.push((vec![machine], versions, outcomes)),
                }
            }
            for (machines, versions, outcomes) in lines {
                let machines = machines.join(", ");
                let _ = if outcomes.iter().all(|outcome| outcome == "yes") {
                    writeln!(list, "- {}: {machines}{versions}", row.text)
                } else {
                    let outcomes = outcomes.join(" | ");
                    writeln!(text, "| {} | {machines}{versions} | {outcomes} |", row.text)
                };
            }
        }
        if !list.is_empty() {
            let _ = write!(text, "\nAll three boot:\n\n{list}");
        }
        text.push('\n');
    }
    text
}

/// What a firmware does in a cell, and with which QEMU where they differ.
fn outcomes(record: &Record, id: &str, firmware: &str) -> String {
    let mut found: Vec<(&str, Vec<&str>)> = Vec::new();
    for version in record.versions(id) {
        let Some(outcome) = record.get(version, id, firmware) else {
            continue;
        };
        let outcome = match outcome {
            WORKS => "yes",
            "prints nothing" => "silent",
            _ => "no",
        };
        match found.iter_mut().find(|(same, _)| *same == outcome) {
            Some((_, versions)) => versions.push(version),
            None => found.push((outcome, vec![version])),
        }
    }
    match found.as_slice() {
        [(outcome, _)] => (*outcome).to_owned(),
        more => {
            let each = more.iter();
            let each = each.map(|(what, versions)| format!("{}: {what}", versions.join(", ")));
            each.collect::<Vec<_>>().join("; ")
        }
    }
}

pub fn are_in_accord_with_the_record() {
    let (path, content) = page().unwrap();
    let page = fs::read_to_string(&path).unwrap();
    assert!(
        page == content,
        "{}: cargo xtask matrix --pages",
        path.display()
    );
}

pub fn tell_what_works_and_how_the_rest_fails() {
    let row = |name: &str| {
        let text = format!(
            "name='{name}'\ngroup='G'\ntext='T{name}'\nmachines=['pc','q35']\nkernel='k'\nexpect=['x']"
        );
        toml::from_str::<Row>(&text).unwrap()
    };
    let rows = [row("a"), row("b"), row("c")];
    let mut record = Record::default();
    for id in ["a@pc", "a@q35", "b@pc"] {
        record.set("7.2", id, &[("qboot", "prints nothing")]);
        record.set("10.0", id, &[(OURS, WORKS)]);
    }
    record.set("10.0", "b@pc", &[(OURS, "prints nothing")]);
    record.set("7.2", "b@q35", &[(OURS, "ends without `a|b`")]);
    record.set("7.2", "c@pc", &[]);
    let text = summary(&rows, &record);
    assert!(text.contains("| G | 4 of 5 | 2 of 5 | 5 of 5 |"), "{text}");
    let text = whole(&rows, &record);
    let line = "| Ta | pc, q35 | yes | silent | yes |";
    assert!(text.contains(line), "{text}");
    let line = "| Tb | pc | 7.2: yes; 10.0: silent | silent | yes |";
    assert!(text.contains(line), "{text}");
    let line = "| Tb | q35 (QEMU 7.2) | no | yes | yes |";
    assert!(text.contains(line), "{text}");
    assert!(
        text.contains("\n\nAll three boot:\n\n- Tc: pc (QEMU 7.2)\n"),
        "{text}"
    );
}
