//! Writes the figures of README.md and docs/benchmarks.md, and their chart, from
//! `target/bench/results.json`.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result, ensure};

use crate::bench::{OURS, Outcome, REFERENCE, Results, grouped};
use crate::{chart, measure, workspace};

const START: &str = "<!-- figures -->\n";
const END: &str = "<!-- /figures -->";

/// Writes the last benchmark's figures to the pages.
///
/// # Errors
/// There are no results, or a page has no place for them.
pub fn publish() -> Result<()> {
    workspace::require_source("writing to the documentation")?;
    let path = workspace::target().join("bench/results.json");
    let text = fs::read_to_string(&path)
        .with_context(|| format!("reading {} (scripts/bench.sh writes it)", path.display()))?;
    let results: Results = serde_json::from_str(&text)?;
    for name in [OURS, REFERENCE] {
        ensure!(
            results.firmware.iter().any(|one| one == name),
            "{} has nothing of {name}: scripts/bench.sh measures it",
            path.display()
        );
    }
    chart::benchmark(&results, &path.with_extension("svg"), true)?;
    let (bare, more) = sections(&results);
    for (name, section) in [("README.md", bare), ("docs/benchmarks.md", more)] {
        let path = workspace::root().join(name);
        let page = fs::read_to_string(&path)?;
        let page = replaced(&page, &section).with_context(|| format!("{name} has no figures"))?;
        workspace::write_atomically(&path, page.as_bytes())?;
    }
    Ok(())
}

/// `page` with `section` between the two marks.
fn replaced(page: &str, section: &str) -> Option<String> {
    let (before, rest) = page.split_once(START)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{START}{section}{END}{after}"))
}

/// README.md gets the boots of the bare machines to user space. docs/benchmarks.md
/// gets the other boots, the counts to the kernel on bare machines, and the cells
/// where C qboot is cheaper.
fn sections(results: &Results) -> (String, String) {
    let bare = measure::core_cells();
    let is_bare = |name: &str| bare.iter().any(|cell| cell.name == *name);
    let readme = lead(results) + &boots(results, is_bare);
    let mut text = boots(results, |name| !is_bare(name));
    text.push_str("\nAccesses / instructions from reset to the kernel's first instruction:\n\n");
    text.push_str(&columns(results));
    let mut dearer = Vec::new();
    let mut pages = Vec::new();
    let mut ratios = Vec::new();
    for cell in &results.cells {
        if is_bare(cell) {
            text.push_str(&row(results, cell, entry));
        }
        let outcomes = results.results.get(cell);
        let outcome = |name: &str| outcomes.and_then(|by| by.get(name));
        let (Some(ours), Some(theirs)) = (outcome(OURS), outcome(REFERENCE)) else {
            continue;
        };
        if let (Some(ours), Some(theirs)) = (&ours.counts, &theirs.counts)
            && (ours.accesses > theirs.accesses || ours.instructions > theirs.instructions)
        {
            dearer.push(cell.as_str());
        }
        if let (Some(ours), Some(theirs)) = (ours.pages, theirs.pages)
            && ours > theirs
        {
            let (ours, theirs) = (grouped(ours), grouped(theirs));
            pages.push(format!("{cell} ({ours} instead of {theirs})"));
        }
        if let (Some(ours), Some(theirs)) = (&ours.kvm, &theirs.kvm) {
            ratios.push(ours.ms.median / theirs.ms.median);
        }
    }
    let _ = match dearer.as_slice() {
        [] => writeln!(text, "\nIn no cell is {REFERENCE} cheaper."),
        cells => writeln!(text, "\n{REFERENCE} is cheaper in: {}.", cells.join("; ")),
    };
    if !pages.is_empty() {
        let pages = pages.join("; ");
        let _ = writeln!(
            text,
            "\nIt touches more guest pages than {REFERENCE} in: {pages}."
        );
    }
    ratios.sort_by(f64::total_cmp);
    if let [least, .., most] = ratios.as_slice() {
        let _ = writeln!(
            text,
            "\nTime under KVM, as a share of {REFERENCE}'s in the same run: {least:.2} to {most:.2}."
        );
    }
    (readme, text)
}

fn columns(results: &Results) -> String {
    let mut text = String::from("| machine and kernel |");
    for name in &results.firmware {
        let _ = write!(text, " {name} |");
    }
    text.push('\n');
    text.push_str(&"|---".repeat(results.firmware.len() + 1));
    text.push_str("|\n");
    text
}

/// The table of the boots to user space of the cells that `keep` accepts.
fn boots(results: &Results, keep: impl Fn(&str) -> bool) -> String {
    let mut table = format!(
        "Exits / accesses from reset to user space, Linux {}, {}:\n\n{}",
        results.linux,
        results.qemu,
        columns(results)
    );
    for cell in results.cells.iter().filter(|cell| keep(cell)) {
        let by_firmware = results.results.get(cell);
        let mut outcomes = by_firmware.into_iter().flat_map(|by| by.values());
        if outcomes.any(|one| one.user_space.is_some()) {
            table.push_str(&row(results, cell, booted));
        }
    }
    table
}

/// The README's first figure.
fn lead(results: &Results) -> String {
    const CELL: &str = "q35 PVH";
    let exits = |name: &String| {
        let outcome = results.results.get(CELL)?.get(name)?;
        let exits = grouped(outcome.user_space.as_ref()?.exits);
        Some(format!("{exits} with {name}"))
    };
    let texts: Vec<_> = results.firmware.iter().filter_map(exits).collect();
    format!(
        "**Exits until user space on a bare q35: {}.**\n\n",
        texts.join(", ")
    )
}

fn booted(outcome: &Outcome) -> String {
    outcome.user_space.as_ref().map_or_else(dash, |one| {
        format!("{} / {}", grouped(one.exits), grouped(one.accesses))
    })
}

fn row(results: &Results, cell: &str, entry: fn(&Outcome) -> String) -> String {
    let outcomes = results.results.get(cell);
    let outcome = |name| outcomes.and_then(|by| by.get(name));
    let entries = results.firmware.iter();
    let entries = entries.map(|name| outcome(name).map_or_else(dash, entry));
    format!("| {cell} | {} |\n", entries.collect::<Vec<_>>().join(" | "))
}

fn dash() -> String {
    "–".to_owned()
}

fn entry(outcome: &Outcome) -> String {
    outcome.counts.as_ref().map_or_else(dash, |counts| {
        format!(
            "{} / {}",
            grouped(counts.accesses),
            grouped(counts.instructions)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Counts;
    use crate::measure::user_space::UserSpace;
    use std::collections::BTreeMap;

    fn outcome(accesses: u64) -> Outcome {
        let counts = Counts {
            accesses,
            regions: BTreeMap::new(),
            instructions: 1_000,
        };
        Outcome {
            counts: Some(counts),
            user_space: Some(UserSpace {
                accesses: 20 * accesses,
                exits: 10 * accesses,
                regions: BTreeMap::new(),
            }),
            pages: Some(accesses),
            kvm: None,
        }
    }

    fn results(ours: u64) -> Results {
        let by_firmware = [(OURS, outcome(ours)), (REFERENCE, outcome(5))];
        let by_firmware = by_firmware.map(|(name, outcome)| (name.to_owned(), outcome));
        Results {
            qemu: "QEMU".to_owned(),
            linux: "6.1".to_owned(),
            rom_used_bytes: 0,
            firmware: vec![OURS.to_owned(), REFERENCE.to_owned()],
            cells: vec!["q35 PVH".to_owned()],
            results: BTreeMap::from([("q35 PVH".to_owned(), by_firmware.into())]),
            skipped: Vec::new(),
        }
    }

    #[test]
    fn a_cell_that_is_dearer_is_named() {
        let (bare, more) = sections(&results(6));
        assert!(
            more.contains("| q35 PVH | 6 / 1,000 | 5 / 1,000 |"),
            "{more}"
        );
        assert!(bare.starts_with("**Exits until user space on a bare q35: 60 with qboot-rs, 50"));
        assert!(bare.contains("| q35 PVH | 60 / 120 | 50 / 100 |"), "{bare}");
        assert!(more.contains("is cheaper in: q35 PVH."), "{more}");
        assert!(more.contains("q35 PVH (6 instead of 5)"), "{more}");
        let (_, more) = sections(&results(5));
        assert!(
            more.contains("In no cell") && !more.contains("pages"),
            "{more}"
        );
    }

    #[test]
    fn the_readme_has_one_table_of_bare_machines() {
        let mut results = results(5);
        let one = results.results["q35 PVH"].clone();
        results.cells.push("q35 PVH, more".to_owned());
        results.results.insert("q35 PVH, more".to_owned(), one);
        let (readme, more) = sections(&results);
        let tables = |text: &str| text.matches("\n|---").count();
        assert_eq!((tables(&readme), tables(&more)), (1, 2), "{readme}{more}");
        assert!(readme.contains("| q35 PVH | 50 / 100 |") && !readme.contains("more |"));
        assert!(more.contains("| q35 PVH, more | 50 / 100 |"), "{more}");
        assert!(!more.contains("| q35 PVH | 50 / 100 |"), "{more}");
        assert!(more.contains("| q35 PVH | 5 / 1,000 |"), "{more}");
        assert!(!more.contains("| q35 PVH, more | 5 / 1,000 |"), "{more}");
    }

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let page = format!("a\n{START}old\n{END}\nb\n");
        let expected = format!("a\n{START}new\n{END}\nb\n");
        assert_eq!(replaced(&page, "new\n"), Some(expected));
        assert_eq!(replaced("no marks", ""), None);
    }
}
