//! The figures of README.md and docs/benchmarks.md and their charts, from what the
//! benchmark and the timeline have found last.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result, ensure};

use crate::firmware::{OURS, REFERENCE};
use crate::results::{Outcome, RESULTS, Results, TIMELINES, Timeline, grouped, read};
use crate::{chart, measure, workspace};

const START: &str = "<!-- figures -->\n";
const END: &str = "<!-- /figures -->";

/// Writes the last benchmark's figures to the pages, and draws the charts there.
///
/// # Errors
/// There are no results, or a page has no place for them.
pub fn publish() -> Result<()> {
    let root = workspace::require_source("writing to the documentation")?;
    let results: Results = read(RESULTS, "scripts/bench.sh")?;
    let timelines: Vec<Timeline> = read(TIMELINES, "cargo xtask timeline")?;
    for name in [OURS, REFERENCE] {
        ensure!(
            results.firmware.iter().any(|one| one == name),
            "target/bench/{RESULTS} has nothing of {name}: scripts/bench.sh measures it"
        );
    }
    chart::benchmark(&results).write(&root.join("docs/benchmark.svg"))?;
    chart::timelines(&timelines).write(&root.join("docs/timeline.svg"))?;
    let (bare, more) = sections(&results);
    for (name, section) in [("README.md", bare), ("docs/benchmarks.md", more)] {
        let path = root.join(name);
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
    let is_bare = |cell: &&String| bare.iter().any(|one| one.name == **cell);
    let (bare, more): (Vec<_>, Vec<_>) = results.cells.iter().partition(is_bare);
    let counts = results.table(&bare, Outcome::to_kernel);
    let readme = lead(results) + &boots(results, &bare);
    let boots = boots(results, &more);
    let compared = compared(results);
    let head = "Accesses / instructions from reset to the kernel's first instruction:";
    (readme, format!("{boots}\n{head}\n\n{counts}{compared}"))
}

/// The boots of these cells to user space.
fn boots(results: &Results, cells: &[&String]) -> String {
    let table = results.table(cells, Outcome::boot);
    let (linux, qemu) = (&results.linux, &results.qemu);
    format!("Exits / accesses from reset to user space, Linux {linux}, {qemu}:\n\n{table}")
}

/// Where C qboot is cheaper, and how its times are to ours.
fn compared(results: &Results) -> String {
    let (mut dearer, mut pages, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for cell in &results.cells {
        let both = [OURS, REFERENCE].map(|name| results.outcome(cell, name));
        let [Some(ours), Some(theirs)] = both else {
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
    let mut text = match dearer.as_slice() {
        [] => format!("\nIn no cell is {REFERENCE} cheaper.\n"),
        cells => format!("\n{REFERENCE} is cheaper in: {}.\n", cells.join("; ")),
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

/// The README's first figure.
fn lead(results: &Results) -> String {
    let exits = |name: &String| {
        let outcome = results.outcome("q35 PVH", name)?;
        let exits = grouped(outcome.user_space.as_ref()?.exits);
        Some(format!("{exits} with {name}"))
    };
    let texts: Vec<_> = results.firmware.iter().filter_map(exits).collect();
    let texts = texts.join(", ");
    format!("**Exits until user space on a bare q35: {texts}.**\n\n")
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
