//! The README's figures: from `target/bench/results.json` into the page.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result, ensure};

use crate::bench::{OURS, Outcome, REFERENCE, Results, grouped};
use crate::measure;
use crate::workspace;

const START: &str = "<!-- figures -->\n";
const END: &str = "<!-- /figures -->";

/// Writes the last benchmark's figures to the README.
///
/// # Errors
/// There are no results, or the README has no place for them.
pub fn publish() -> Result<()> {
    workspace::require_source("writing to README.md")?;
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
    let readme = workspace::root().join("README.md");
    let page = fs::read_to_string(&readme)?;
    let page = replaced(&page, &section(&results)).context("README.md has no figures section")?;
    workspace::write_atomically(&readme, page.as_bytes())
}

/// `page` with `section` between the two marks.
fn replaced(page: &str, section: &str) -> Option<String> {
    let (before, rest) = page.split_once(START)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{START}{section}{END}{after}"))
}

/// The table, and every cell in which C qboot is the cheaper one. The cells beyond
/// the bare machines are a second table that a reader opens.
#[must_use]
pub fn section(results: &Results) -> String {
    let bare = measure::core_cells();
    let is_bare = |name: &String| bare.iter().any(|cell| cell.name == *name);
    let mut text = format!("Accesses / instructions, {}:\n\n", results.qemu);
    text.push_str(&columns(results));
    let mut more = String::new();
    let mut dearer = Vec::new();
    let mut pages = Vec::new();
    let mut ratios = Vec::new();
    for cell in &results.cells {
        let outcomes = results.results.get(cell);
        let outcome = |name: &str| outcomes.and_then(|by| by.get(name));
        let table = if is_bare(cell) { &mut text } else { &mut more };
        table.push_str(&row(results, cell));
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
    if !more.is_empty() {
        let _ = writeln!(
            text,
            "\n<details><summary>With more devices, processors and memory</summary>\n\n{}{more}\n</details>",
            columns(results)
        );
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
    text
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

fn row(results: &Results, cell: &str) -> String {
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
    use std::collections::BTreeMap;

    fn outcome(accesses: u64) -> Outcome {
        let counts = Counts {
            accesses,
            regions: BTreeMap::new(),
            instructions: 1_000,
        };
        Outcome {
            counts: Some(counts),
            pages: Some(accesses),
            kvm: None,
        }
    }

    fn results(ours: u64) -> Results {
        let by_firmware = [(OURS, outcome(ours)), (REFERENCE, outcome(5))];
        let by_firmware = by_firmware.map(|(name, outcome)| (name.to_owned(), outcome));
        Results {
            qemu: "QEMU".to_owned(),
            rom_used_bytes: 0,
            firmware: vec![OURS.to_owned(), REFERENCE.to_owned()],
            cells: vec!["q35 PVH".to_owned()],
            results: BTreeMap::from([("q35 PVH".to_owned(), by_firmware.into())]),
            skipped: Vec::new(),
        }
    }

    #[test]
    fn a_cell_that_is_dearer_is_named() {
        let text = section(&results(6));
        assert!(
            text.contains("| q35 PVH | 6 / 1,000 | 5 / 1,000 |"),
            "{text}"
        );
        assert!(text.contains("is cheaper in: q35 PVH."), "{text}");
        assert!(text.contains("q35 PVH (6 instead of 5)"), "{text}");
        let text = section(&results(5));
        assert!(
            text.contains("In no cell") && !text.contains("pages"),
            "{text}"
        );
    }

    #[test]
    fn cells_beyond_the_bare_machines_are_folded() {
        let mut results = results(5);
        let bare = section(&results);
        assert!(!bare.contains("<details>"), "{bare}");
        let one = results.results["q35 PVH"].clone();
        results.cells.push("q35 PVH, more".to_owned());
        results.results.insert("q35 PVH, more".to_owned(), one);
        let text = section(&results);
        let (before, folded) = text.split_once("<details>").expect("folded cells");
        assert!(before.contains("| q35 PVH |"), "{text}");
        assert!(
            !before.contains("more |") && folded.contains("| q35 PVH, more |"),
            "{text}"
        );
    }

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let page = format!("a\n{START}old\n{END}\nb\n");
        let expected = format!("a\n{START}new\n{END}\nb\n");
        assert_eq!(replaced(&page, "new\n"), Some(expected));
        assert_eq!(replaced("no marks", ""), None);
    }
}
