//! The table of cells, `tests/matrix.toml`, whose head explains the fields.

use std::collections::BTreeSet;
use std::fs;

use crate::machines::Machine;
use anyhow::{Context, Result, ensure};
use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use xtask::workspace;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cell: Vec<Row>,
}

/// One entry of the file: a cell on each of its machines.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    pub name: String,
    pub group: String,
    pub text: String,
    pub machines: Vec<String>,
    pub kernel: String,
    #[serde(default = "yes")]
    pub linux: bool,
    #[serde(default)]
    pub append: String,
    pub initrd: Option<String>,
    #[serde(default = "no_size")]
    pub initrd_sizes: Vec<String>,
    pub guest: Option<String>,
    #[serde(default)]
    pub files: Vec<String>,
    #[serde(default)]
    pub modules: Vec<String>,
    #[serde(default = "memory")]
    pub memory: Vec<String>,
    #[serde(default = "one")]
    pub smp: String,
    pub accel: Option<Accel>,
    #[serde(default)]
    pub default_devices: bool,
    #[serde(default)]
    pub reboot: bool,
    #[serde(default)]
    pub options: Vec<String>,
    #[serde(default)]
    pub generated: Vec<String>,
    #[serde(default)]
    pub swtpm: bool,
    #[serde(default)]
    pub qemu: u32,
    pub before_qemu: Option<u32>,
    #[serde(default)]
    pub steps: Vec<Step>,
    pub expect: Vec<String>,
    #[serde(default)]
    pub never: Vec<String>,
    #[serde(default)]
    pub end: End,
    #[serde(default = "timeout")]
    pub timeout: u64,
    #[serde(default)]
    pub ci: bool,
}

fn yes() -> bool {
    true
}

fn no_size() -> Vec<String> {
    vec![String::new()]
}

fn memory() -> Vec<String> {
    vec!["512M".to_owned()]
}

fn one() -> String {
    "1".to_owned()
}

fn timeout() -> u64 {
    120
}

/// A command for QEMU's monitor in the course of a boot.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Output after which it is given.
    pub after: String,
    /// The command.
    pub monitor: String,
    /// What the answer must match.
    #[serde(default)]
    pub answer: String,
}

/// How the run has to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// QEMU ends by itself, with status 0.
    #[default]
    Itself,
    /// Everything expected was seen; the test ends QEMU.
    Seen,
    /// QEMU ends with this status, as isa-debug-exit sets it.
    Status(i32),
}

/// How translated processors are run, other than on a thread of the host each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accel {
    /// In turn, on one thread.
    Single,
    /// In counted time.
    Icount,
}

/// A row on one machine.
#[derive(Clone, Debug)]
pub struct Cell {
    pub row: Row,
    /// The value of `-M`.
    pub machine: String,
}

impl Cell {
    /// Its name everywhere: `row@machine`.
    pub fn id(&self) -> String {
        format!("{}@{}", self.row.name, self.machine)
    }

    /// What the tests know of its machine.
    pub fn machine(&self) -> Result<Machine> {
        known(&self.machine)
    }

    /// Whether it can be tried with a QEMU of this version, `7.2`.
    pub fn is_for(&self, version: &str) -> bool {
        let major = version.split('.').next().and_then(|n| n.parse().ok());
        let before = self.row.before_qemu.unwrap_or(u32::MAX);
        major.is_some_and(|major: u32| major >= self.row.qemu && major < before)
    }
}

fn known(machine: &str) -> Result<Machine> {
    Machine::named(machine).with_context(|| format!("no machine is called {machine:?}"))
}

/// An expression of the table; `^` and `$` are a line's.
pub fn regex(text: &str) -> Result<Regex> {
    RegexBuilder::new(text)
        .multi_line(true)
        .crlf(true)
        .build()
        .with_context(|| format!("the expression {text:?}"))
}

/// Every row of the table.
pub fn rows() -> Result<Vec<Row>> {
    let path = workspace::root().join("tests/matrix.toml");
    parse(&fs::read_to_string(path)?).context("tests/matrix.toml")
}

fn parse(text: &str) -> Result<Vec<Row>> {
    let rows = toml::from_str::<File>(text)?.cell;
    let mut names = BTreeSet::new();
    for row in &rows {
        ensure!(names.insert(&row.name), "two cells named {}", row.name);
        ensure!(!row.machines.is_empty(), "{}: no machine", row.name);
        ensure!(!row.expect.is_empty(), "{}: expects nothing", row.name);
        for machine in &row.machines {
            known(machine).with_context(|| row.name.clone())?;
        }
        let steps = row.steps.iter();
        let steps = steps.flat_map(|step| [&step.after, &step.answer]);
        for text in row.expect.iter().chain(&row.never).chain(steps) {
            regex(text).with_context(|| row.name.clone())?;
        }
    }
    Ok(rows)
}

/// Every cell of these rows, in the file's order.
pub fn cells(rows: &[Row]) -> Vec<Cell> {
    let of = |row: &Row| {
        let cells = row.machines.iter().map(|machine| Cell {
            row: row.clone(),
            machine: machine.clone(),
        });
        cells.collect::<Vec<_>>()
    };
    rows.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: &str = "[[cell]]\nname='a'\ngroup='g'\ntext='t'\nmachines=['pc']\nkernel='k'\n";

    #[test]
    fn refuses_mistakes() {
        let good = format!("{ROW}expect=['x']\n");
        assert_eq!(parse(&good).unwrap()[0].end, End::Itself);
        assert!(parse(&good.repeat(2)).is_err(), "the same name twice");
        assert!(parse(&format!("{ROW}expect=[]")).is_err());
        assert!(parse(&format!("{ROW}expect=['(']")).is_err());
        assert!(parse(&good.replace("pc", "pcx")).is_err());
        assert!(parse(&format!("{good}expected=['x']")).is_err());
        let status = parse(&format!("{good}end={{status=3}}")).unwrap();
        assert_eq!(status[0].end, End::Status(3));
    }

    #[test]
    fn knows_versions_of_qemu() {
        let rows = parse(&format!("{ROW}expect=['x']\nqemu=8\nbefore_qemu=11\n")).unwrap();
        let versions = ["7.2", "8.0", "10.2", "11.1", "?"];
        let tried = versions.map(|version| cells(&rows)[0].is_for(version));
        assert_eq!(tried, [false, true, true, false, false]);
    }

    #[test]
    fn ends_lines_as_a_serial_console_does() {
        assert!(regex("^b$").unwrap().is_match("a\r\nb\r\nc\r\n"));
    }
}
