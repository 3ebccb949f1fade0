//! The figures of README.md and docs/benchmarks.md and their charts, from what the
//! benchmark and the timeline have found last.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result, ensure};

use crate::firmware::{OURS, REFERENCE};
use crate::results::{
    BOOTS, Boots, CELL, Outcome, RESULTS, Results, TIMELINES, Timeline, grouped, read, table,
};
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
    let boots: Vec<Boots> = read(BOOTS, "cargo xtask boots")?;
    let timelines: Vec<Timeline> = read(TIMELINES, "cargo xtask timeline")?;
    for name in [OURS, REFERENCE] {
        ensure!(
            results.firmware.iter().any(|one| one == name),
            "target/bench/{RESULTS} has nothing of {name}: scripts/bench.sh measures it"
        );
    }
    let first = boots.first().context("no boots: cargo xtask boots")?;
    chart::benchmark(&results, first).write(&root.join("docs/benchmark.svg"))?;
    chart::timelines(&timelines).write(&root.join("docs/timeline.svg"))?;
    let (bare, more) = sections(&results, first, &boots, &timelines);
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

/// README.md gets the first boots on bare machines. docs/benchmarks.md gets all other
/// boots, their times, the counts to the kernel on bare machines, and the cells where
/// C qboot is cheaper.
fn sections(
    results: &Results,
    first: &Boots,
    boots: &[Boots],
    timelines: &[Timeline],
) -> (String, String) {
    let is_bare = |cell: &&String| measure::is_bare(cell);
    let section =
        |boots: &Boots, cells: &[&String]| format!("{}\n\n{}", boots.head(), boots.table(cells));
    let (in_readme, more): (Vec<_>, Vec<_>) = first.cells.iter().partition(is_bare);
    let readme = lead(first) + &section(first, &in_readme);
    let mut page = section(first, &more);
    for boots in boots.iter().skip(1) {
        page += "\n";
        page += &section(boots, &boots.cells.iter().collect::<Vec<_>>());
    }
    page += &format!("\n{}", regions(boots));
    let cells: Vec<_> = results.cells.iter().filter(is_bare).collect();
    let counts = results.table(&cells, Outcome::to_kernel);
    let (times, compared) = (times(timelines), compared(results));
    let head = "Accesses / instructions from reset to the kernel's first instruction:";
    page += &format!("\n{times}\n{head}\n\n{counts}{compared}");
    (readme, page)
}

/// Regions with fewer accesses than this in every boot are added up.
const FEW: u64 = 20;
/// The cell whose regions are shown: the one where firmware differs most.
const SHOWN: &str = "q35 PVH";

/// The accesses of [`SHOWN`] by region, with each kernel.
fn regions(boots: &[Boots]) -> String {
    let Some(first) = boots.first() else {
        return String::new();
    };
    let mut most: BTreeMap<&str, u64> = BTreeMap::new();
    for one in boots.iter().filter_map(|boots| boots.results.get(SHOWN)) {
        for (region, count) in one.values().flat_map(|boot| &boot.regions) {
            let most = most.entry(region).or_default();
            *most = (*most).max(*count);
        }
    }
    let (many, few): (Vec<_>, Vec<_>) = most.into_iter().partition(|(_, most)| *most >= FEW);
    let few: Vec<&str> = few.into_iter().map(|(region, _)| region).collect();
    let others = format!("{} others", few.len());
    let rows: Vec<String> = many
        .iter()
        .map(|(region, _)| (*region).to_owned())
        .collect();
    let rows: Vec<&String> = rows.iter().chain([&others]).collect();
    let entry = |row: &str, name: &str| {
        let counts = boots.iter().map(|boots| {
            let boot = boots.outcome(SHOWN, name)?;
            let of = |region: &str| boot.regions.get(region).copied().unwrap_or(0);
            Some(match row == others {
                true => few.iter().map(|region| of(region)).sum(),
                false => of(row),
            })
        });
        let counts = counts.map(|count| count.map_or("–".to_owned(), grouped));
        Some(counts.collect::<Vec<_>>().join(" / "))
    };
    let table = table("region", &first.firmware, &rows, entry);
    let kernels: Vec<_> = boots.iter().map(Boots::version).collect();
    let kernels = kernels.join(" / ");
    format!("Accesses by region on a bare q35, PVH, Linux {kernels}:\n\n{table}")
}

/// The boots' times.
fn times(timelines: &[Timeline]) -> String {
    let cell = |one: &Timeline| format!("{} {}", one.machine, one.kernel);
    let mut cells: Vec<String> = timelines.iter().map(cell).collect();
    cells.dedup();
    let mut firmware: Vec<String> = Vec::new();
    for one in timelines {
        if !firmware.contains(&one.firmware) {
            firmware.push(one.firmware.clone());
        }
    }
    let entry = |of: &str, name: &str| {
        let mut list = timelines.iter();
        let one = list.find(|one| cell(one) == of && one.firmware == name)?;
        let all = one.spread.whole();
        let is_first = firmware.first().is_some_and(|first| first == name);
        Some(match is_first {
            true => all,
            false => format!("{all}, {} more", one.more.whole()),
        })
    };
    let table = table(CELL, &firmware, &cells.iter().collect::<Vec<_>>(), entry);
    format!(
        "Milliseconds from QEMU's start to user space under TCG, by turns, median (least to most), \
         and how much more than {OURS} in the same turn:\n\n{table}"
    )
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
fn lead(boots: &Boots) -> String {
    let exits = |name: &String| {
        let exits = grouped(boots.outcome("q35 PVH", name)?.exits);
        Some(format!("{exits} with {name}"))
    };
    let texts: Vec<_> = boots.firmware.iter().filter_map(exits).collect();
    let texts = texts.join(", ");
    format!("**Exits until user space on a bare q35: {texts}.**\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::user_space::UserSpace;
    use crate::measure::{Counts, Spread};

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

    /// Boots of these cells.
    fn boots(cells: &[&str]) -> Boots {
        let boot = |exits| UserSpace {
            accesses: 2 * exits,
            exits,
            regions: BTreeMap::from([("rtc".to_owned(), 74), ("pic".to_owned(), 3)]),
        };
        let both = BTreeMap::from([
            (OURS.to_owned(), boot(60)),
            (REFERENCE.to_owned(), boot(50)),
        ]);
        let cells: Vec<_> = cells.iter().map(ToString::to_string).collect();
        Boots {
            suite: "system".to_owned(),
            linux: "6.1.0-48".to_owned(),
            qemu: "QEMU".to_owned(),
            firmware: vec![OURS.to_owned(), REFERENCE.to_owned()],
            results: cells
                .iter()
                .map(|cell| (cell.clone(), both.clone()))
                .collect(),
            cells,
            skipped: Vec::new(),
        }
    }

    fn timeline(firmware: &str, ms: f64) -> Timeline {
        Timeline {
            machine: "q35".to_owned(),
            kernel: "vmlinux".to_owned(),
            firmware: firmware.to_owned(),
            stages: Vec::new(),
            spread: Spread::of(vec![ms]).unwrap(),
            more: Spread::of(vec![ms - 10.0]).unwrap(),
        }
    }

    fn sections(results: &Results, boots: &[Boots]) -> (String, String) {
        let timelines = [timeline(OURS, 10.0), timeline(REFERENCE, 12.0)];
        super::sections(results, &boots[0], boots, &timelines)
    }

    #[test]
    fn a_cell_that_is_dearer_is_named() {
        let boots = [boots(&["q35 PVH"])];
        let (bare, more) = sections(&results(6), &boots);
        assert!(
            more.contains("| q35 PVH | 6 / 1,000 | 5 / 1,000 |"),
            "{more}"
        );
        assert!(bare.starts_with("**Exits until user space on a bare q35: 60 with qboot-rs, 50"));
        assert!(bare.contains("| q35 PVH | 60 / 120 | 50 / 100 |"), "{bare}");
        assert!(more.contains("is cheaper in: q35 PVH."), "{more}");
        assert!(more.contains("q35 PVH (6 instead of 5)"), "{more}");
        let (_, more) = sections(&results(5), &boots);
        assert!(
            more.contains("In no cell") && !more.contains("pages"),
            "{more}"
        );
    }

    #[test]
    fn the_readme_has_the_first_boots_on_bare_machines() {
        let cells = ["q35 PVH", "q35 PVH, more"];
        let (readme, more) = sections(&results(5), &[boots(&cells), boots(&cells[..1])]);
        let tables = |text: &str| text.matches("\n|---").count();
        assert_eq!((tables(&readme), tables(&more)), (1, 5), "{readme}{more}");
        assert!(more.contains("q35, PVH, Linux 6.1 / 6.1:"), "{more}");
        assert!(more.contains("| rtc | 74 / 74 | 74 / 74 |"), "{more}");
        assert!(more.contains("| 1 others | 3 / 3 | 3 / 3 |"), "{more}");
        assert!(readme.contains("| q35 PVH | 60 / 120 |") && !readme.contains("more |"));
        let (first, rest) = more.split_once("\n\nExits").unwrap();
        assert!(first.contains("| q35 PVH, more | 60 / 120 |"), "{more}");
        assert!(!first.contains("| q35 PVH | 60 / 120 |"), "{more}");
        assert!(rest.contains("| q35 PVH | 60 / 120 |"), "{more}");
        let times = "| q35 vmlinux | 10 (10 to 10) | 12 (12 to 12), 2 (2 to 2) more |";
        assert!(rest.contains(times), "{more}");
        assert!(rest.contains("| q35 PVH | 5 / 1,000 |"), "{more}");
    }

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let page = format!("a\n{START}old\n{END}\nb\n");
        let expected = format!("a\n{START}new\n{END}\nb\n");
        assert_eq!(replaced(&page, "new\n"), Some(expected));
        assert_eq!(replaced("no marks", ""), None);
    }
}
