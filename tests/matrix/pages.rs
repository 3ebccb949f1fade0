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

/// How many cells of each group work with the oldest QEMU.
fn summary(rows: &[Row], record: &Record) -> String {
    let names = FIRMWARES.map(|(_, name)| name).join(" | ");
    let mut text = format!("| cells that boot | {names} |\n|---|---|---|---|\n");
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

/// Every cell, in lists by the firmwares that boot it. Machines of a row on which all
/// firmwares do the same share a line.
fn whole(rows: &[Row], record: &Record) -> String {
    let mut text = String::new();
    let all: BTreeSet<&String> = record.cells().flat_map(|id| record.versions(id)).collect();
    for group in groups(rows) {
        let _ = write!(text, "## {group}\n\n");
        let mut lists: Vec<(String, String)> = Vec::new();
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
                let heading = boots(&outcomes);
                let line = format!("- {}: {}{versions}\n", row.text, machines.join(", "));
                match lists.iter_mut().find(|(known, _)| *known == heading) {
                    Some((_, list)) => list.push_str(&line),
                    None => lists.push((heading, line)),
                }
            }
        }
        for (heading, list) in lists {
            let _ = write!(text, "{heading}:\n\n{list}\n");
        }
    }
    text
}

/// Which firmwares boot a cell with these outcomes; how it ends where that depends on
/// QEMU's version.
fn boots(outcomes: &[String; 3]) -> String {
    let named = || FIRMWARES.iter().map(|(_, name)| *name).zip(outcomes);
    let good = named().filter(|(_, outcome)| *outcome == "yes");
    let good: Vec<&str> = good.map(|(name, _)| name).collect();
    let mut heading = match good[..] {
        [] => "Boots with none".to_owned(),
        [one] => format!("Boots with {one} alone"),
        [one, other] => format!("Boots with {one} and {other}"),
        _ => "Boots with all three".to_owned(),
    };
    for (name, outcome) in named().filter(|(_, outcome)| outcome.contains(':')) {
        let _ = write!(heading, "; {name}: {outcome}");
    }
    heading
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
            let each = each.map(|(what, versions)| format!("{}: {what}", versions.join(" and ")));
            each.collect::<Vec<_>>().join(", ")
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
    let list = "\n\nBoots with qboot-rs and SeaBIOS:\n\n- Ta: pc, q35\n\n";
    assert!(text.contains(list), "{text}");
    let list = "\n\nBoots with SeaBIOS alone; qboot-rs: 7.2: yes, 10.0: no:\n\n- Tb: pc\n\n";
    assert!(text.contains(list), "{text}");
    let list = "\n\nBoots with C qboot and SeaBIOS:\n\n- Tb: q35 (QEMU 7.2)\n\n";
    assert!(text.contains(list), "{text}");
    let list = "\n\nBoots with all three:\n\n- Tc: pc (QEMU 7.2)\n\n";
    assert!(text.contains(list), "{text}");
}
