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

/// Every cell with this firmware, a list for each group. Cells with the same text and
/// result share a line.
fn whole(rows: &[Row], record: &Record) -> String {
    let mut text = String::new();
    let all: BTreeSet<&String> = record.cells().flat_map(|id| record.versions(id)).collect();
    for group in groups(rows) {
        let _ = write!(text, "## {group}\n\n");
        let mut lines: Vec<(&str, String, Vec<&str>)> = Vec::new();
        for row in rows.iter().filter(|row| row.group == group) {
            for (machine, id) in ids(row) {
                let mut result = match record.versions(&id) {
                    run if run.len() == all.len() => String::new(),
                    fewer => format!(" (QEMU {})", fewer.join(", ")),
                };
                result.push_str(&failure(record, &id));
                let line = lines
                    .iter_mut()
                    .find(|(text, same, _)| *text == row.text && *same == result);
                match line {
                    Some((.., machines)) if machines.contains(&machine) => {}
                    Some((.., machines)) => machines.push(machine),
                    None => lines.push((&row.text, result, vec![machine])),
                }
            }
        }
        for (what, result, machines) in lines {
            let _ = writeln!(text, "- {what}: {}{result}", machines.join(", "));
        }
        text.push('\n');
    }
    text
}

/// With which QEMU a cell does not boot with this firmware; empty if it boots with all.
fn failure(record: &Record, id: &str) -> String {
    let versions = record.versions(id).iter();
    let boots = |version: &&String| record.get(version, id, OURS) == Some(WORKS);
    let (good, bad): (Vec<&String>, Vec<&String>) = versions.partition(boots);
    if bad.is_empty() {
        return String::new();
    }
    let mut text = "; **does not boot**".to_owned();
    if !good.is_empty() {
        let bad: Vec<&str> = bad.into_iter().map(String::as_str).collect();
        let _ = write!(text, " with QEMU {}", bad.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_in_accord_with_the_record() {
        let (path, content) = page().unwrap();
        let page = fs::read_to_string(&path).unwrap();
        assert!(
            page == content,
            "{}: cargo xtask matrix --pages",
            path.display()
        );
    }

    #[test]
    fn tell_what_works_and_how_the_rest_fails() {
        let row = |name: &str, text: &str| {
            let row = format!(
                "name='{name}'\ngroup='G'\ntext='{text}'\nmachines=['pc','q35']\nkernel='k'\nexpect=['x']"
            );
            toml::from_str::<Row>(&row).unwrap()
        };
        let rows = [
            row("a", "Ta"),
            row("b", "Tb"),
            row("c", "Tc"),
            row("d", "Ta"),
        ];
        let mut record = Record::default();
        for id in ["a@pc", "a@q35", "b@pc", "d@pc", "d@q35"] {
            record.set("7.2", id, &[("qboot", "prints nothing")]);
            record.set("10.0", id, &[(OURS, WORKS)]);
        }
        record.set("10.0", "b@pc", &[(OURS, "prints nothing")]);
        record.set("7.2", "b@q35", &[(OURS, "ends without `a|b`")]);
        record.set("7.2", "c@pc", &[]);
        let text = summary(&rows, &record);
        assert!(text.contains("| G | 6 of 7 | 2 of 7 | 7 of 7 |"), "{text}");
        let text = whole(&rows, &record);
        let lines = [
            "- Ta: pc, q35",
            "- Tb: pc; **does not boot** with QEMU 10.0",
            "- Tb: q35 (QEMU 7.2); **does not boot**",
            "- Tc: pc (QEMU 7.2)",
        ];
        let expected = format!("## G\n\n{}\n", lines.join("\n"));
        assert!(text.starts_with(&expected), "{text}");
    }
}
