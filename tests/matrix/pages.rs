//! The tables of `README.md` and `docs/compatibility.md`, made from the record.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use xtask::workspace;

use super::record::{FIRMWARES, OURS, Record, WORKS};
use super::table::{self, Row};

const START: &str = "<!-- compatibility -->\n";
const END: &str = "<!-- /compatibility -->";

/// Writes the tables into the pages.
pub fn write() -> Result<()> {
    for (path, content) in pages()? {
        workspace::write_atomically(&path, content.as_bytes())?;
    }
    Ok(())
}

/// The pages with their tables: path and content.
fn pages() -> Result<Vec<(PathBuf, String)>> {
    let (rows, record) = (table::rows()?, Record::read()?);
    let tables = [
        ("README.md", summary(&rows, &record)),
        ("docs/compatibility.md", whole(&rows, &record)),
    ];
    let mut pages = Vec::new();
    for (name, table) in tables {
        let path = workspace::root().join(name);
        let page = fs::read_to_string(&path).with_context(|| format!("reading {name}"))?;
        let (before, rest) = page.split_once(START).context(name)?;
        let (_, after) = rest.split_once(END).context(name)?;
        pages.push((path, format!("{before}{START}{table}{END}{after}")));
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

/// Every cell; machines of a row on which all firmwares do the same share a line.
fn whole(rows: &[Row], record: &Record) -> String {
    let mut text = String::new();
    for group in groups(rows) {
        let _ = write!(text, "## {group}\n\n{}", head(&["what", "machine", "QEMU"]));
        for row in rows.iter().filter(|row| row.group == group) {
            let mut lines: Vec<(Vec<&str>, String)> = Vec::new();
            for (machine, id) in ids(row) {
                let outcomes = FIRMWARES.map(|(firmware, _)| outcomes(record, &id, firmware));
                let versions = record.versions(&id).join(", ");
                let line = format!("{versions} | {}", outcomes.join(" | "));
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

/// What a firmware does in a cell, and with which QEMU where they differ.
fn outcomes(record: &Record, id: &str, firmware: &str) -> String {
    let mut found: Vec<(String, Vec<&str>)> = Vec::new();
    for version in record.versions(id) {
        let Some(outcome) = record.get(version, id, firmware) else {
            continue;
        };
        let outcome = match outcome {
            WORKS => "yes".to_owned(),
            // A bar ends a table's cell even in code.
            how => how.replace('|', "\\|"),
        };
        match found.iter_mut().find(|(same, _)| *same == outcome) {
            Some((_, versions)) => versions.push(version),
            None => found.push((outcome, vec![version])),
        }
    }
    match found.as_slice() {
        [(outcome, _)] => outcome.clone(),
        more => {
            let each = more.iter();
            let each = each.map(|(what, versions)| format!("{}: {what}", versions.join(", ")));
            each.collect::<Vec<_>>().join("; ")
        }
    }
}

pub fn are_in_accord_with_the_record() {
    for (path, content) in pages().unwrap() {
        let page = fs::read_to_string(&path).unwrap();
        let path = path.display();
        assert!(page == content, "{path}: cargo xtask matrix --pages");
    }
}

pub fn tell_what_works_and_how_the_rest_fails() {
    let row = |name: &str| {
        let text = format!(
            "name='{name}'\ngroup='G'\ntext='T{name}'\nmachines=['pc','q35']\nkernel='k'\nexpect=['x']"
        );
        toml::from_str::<Row>(&text).unwrap()
    };
    let rows = [row("a"), row("b")];
    let mut record = Record::default();
    for id in ["a@pc", "a@q35", "b@pc"] {
        record.set("7.2", id, &[("qboot", "prints nothing")]);
        record.set("10.0", id, &[(OURS, WORKS)]);
    }
    record.set("10.0", "b@pc", &[(OURS, "prints nothing")]);
    record.set("7.2", "b@q35", &[(OURS, "ends without `a|b`")]);
    let text = summary(&rows, &record);
    assert!(text.contains("| G | 3 of 4 | 1 of 4 | 4 of 4 |"), "{text}");
    let text = whole(&rows, &record);
    let line = "| Ta | pc, q35 | 7.2, 10.0 | yes | prints nothing | yes |";
    assert!(text.contains(line), "{text}");
    let line = "| Tb | pc | 7.2, 10.0 | 7.2: yes; 10.0: prints nothing | prints nothing | yes |";
    assert!(text.contains(line), "{text}");
    let line = "| Tb | q35 | 7.2 | ends without `a\\|b` | yes | yes |";
    assert!(text.contains(line), "{text}");
}
