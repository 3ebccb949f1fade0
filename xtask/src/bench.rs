//! All firmware side by side in one run: a table, `target/bench/results.json`
//! and a chart.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell as Entry, CellAlignment, ColumnConstraint, ContentArrangement, Table};

use crate::firmware::{self, Firmware, OURS, REFERENCE};
use crate::measure::user_space::{self, Linux};
use crate::measure::{self, Cell, Kit, Spread};
use crate::output::say;
use crate::results::{Kvm, Outcome, RESULTS, Results, directory, grouped, write};
use crate::{chart, progress, qemu};

/// Options of `bench`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Another firmware to measure beside the usual ones
    #[arg(long, value_name = "FILE")]
    pub rom: Vec<PathBuf>,
    /// Only cells whose name contains this, such as "q35 PVH"
    #[arg(long, value_name = "TEXT")]
    pub cell: Option<String>,
    /// Only the bare machines: no server devices, 8 GiB or initrd
    #[arg(long)]
    pub bare: bool,
    /// Runs under KVM of each firmware in each cell; 0 leaves KVM out
    #[arg(long, value_name = "N", default_value_t = 15)]
    pub runs: usize,
}

/// A firmware that takes longer than this under KVM gets fewer runs.
const SLOW_MS: f64 = 1000.0;
/// Runs that a slow firmware gets.
const SLOW_RUNS: usize = 5;

/// Measures, prints and writes everything.
///
/// # Errors
/// The ROM does not build or does not reach a kernel, or a file cannot be written.
pub fn run(options: &Options) -> Result<()> {
    let (firmware, skipped, used) = firmware::all(&options.rom)?;
    let cells = if options.bare {
        measure::core_cells()
    } else {
        measure::all_cells()
    };
    let cells = measure::named(cells, options.cell.as_deref())?;

    let kit = Kit::new()?;
    let linux = Linux::new(None)?;
    let mut results = Results {
        qemu: qemu::version()?,
        linux: linux.release()?,
        rom_used_bytes: used,
        firmware: firmware.iter().map(|one| one.name.clone()).collect(),
        cells: cells.iter().map(|cell| cell.name.clone()).collect(),
        results: BTreeMap::new(),
        skipped,
    };
    count(&kit, &firmware, &cells, &mut results)?;
    boot(&linux, &firmware, &cells, &mut results);
    if options.runs == 0 {
        results.skipped.push("KVM: no runs".to_owned());
    } else if let Some(reason) = qemu::kvm_missing() {
        results.skipped.push(format!("KVM: {reason}"));
    } else {
        time(&kit, &firmware, &cells, options.runs, &mut results)?;
    }

    report(&results)?;
    let missed: Vec<_> = results
        .results
        .iter()
        .filter(|(_, by)| by.get(OURS).is_none_or(|one| one.counts.is_none()))
        .map(|(cell, _)| cell.as_str())
        .collect();
    ensure!(missed.is_empty(), "no kernel reached in {missed:?}");
    Ok(())
}

/// Prints the results and writes the files.
fn report(results: &Results) -> Result<()> {
    let table = table(results);
    say!("{table}")?;
    if is_narrow(&table) {
        say!("Pages, exits and regions are in target/bench/results.json, or on a wider terminal.")?;
    }
    say!(
        "{}, {} bytes of the ROM used",
        results.qemu,
        grouped(results.rom_used_bytes)
    )?;
    say!(
        "Exits: as KVM would have them, from reset to user space, Linux {}.",
        results.linux
    )?;
    say!("Each other count is from reset to the kernel's first 32-bit instruction.")?;
    say!("{} skipped", results.skipped.len())?;
    for reason in &results.skipped {
        say!("  skipped {reason}")?;
    }
    write(RESULTS, results)?;
    chart::benchmark(results).write(&directory().join("results.svg"))
}

fn count(kit: &Kit, firmware: &[Firmware], cells: &[Cell], results: &mut Results) -> Result<()> {
    for one in firmware {
        let step = progress::step(format!("counting {} under TCG", one.name));
        let images: Vec<_> = cells.iter().map(|cell| one.image(cell.machine)).collect();
        let list = measure::counts(kit, &images, cells);
        step.done(&format!("{} cells", cells.len()));
        for ((cell, image), counts) in cells.iter().zip(images).zip(list) {
            let counts = match counts {
                Ok(counts) => Some(counts),
                Err(error) => {
                    eprintln!("{}: {error:#}", one.name);
                    let reason = format!("{} in {}: no kernel reached", one.name, cell.name);
                    results.skipped.push(reason);
                    None
                }
            };
            let pages = match &counts {
                Some(_) => Some(measure::pages(kit, image, cell)?),
                None => None,
            };
            let outcome = Outcome {
                counts,
                pages,
                user_space: None,
                kvm: None,
            };
            let by_firmware = results.results.entry(cell.name.clone()).or_default();
            by_firmware.insert(one.name.clone(), outcome);
        }
    }
    Ok(())
}

/// Boots each firmware to user space in the cells with one processor.
fn boot(linux: &Linux, firmware: &[Firmware], cells: &[Cell], results: &mut Results) {
    let cells: Vec<_> = cells.iter().filter(|cell| cell.smp == 1).collect();
    for one in firmware {
        let step = progress::step(format!("booting {} to user space under TCG", one.name));
        let list = measure::two_at_a_time(cells.len(), |n| {
            user_space::count(linux, one.image(cells[n].machine), cells[n])
        });
        step.done(&format!("{} cells", cells.len()));
        for (cell, counted) in cells.iter().zip(list) {
            let outcomes = results.results.entry(cell.name.clone()).or_default();
            match (counted, outcomes.get_mut(&one.name)) {
                (Ok(counted), Some(outcome)) => outcome.user_space = Some(counted),
                (Err(error), _) => {
                    eprintln!("{}: {error:#}", one.name);
                    let reason = format!("{} in {}: no user space reached", one.name, cell.name);
                    results.skipped.push(reason);
                }
                _ => {}
            }
        }
    }
}

/// Runs all firmware in turn, so that the host's load affects all alike.
fn time(
    kit: &Kit,
    firmware: &[Firmware],
    cells: &[Cell],
    runs: usize,
    results: &mut Results,
) -> Result<()> {
    for cell in cells {
        let Some(outcomes) = results.results.get_mut(&cell.name) else {
            continue;
        };
        let step = progress::step(format!("timing {} under KVM", cell.name));
        let mut taken: BTreeMap<&str, Vec<measure::KvmRun>> = BTreeMap::new();
        for _ in 0..runs {
            for one in firmware {
                let name = one.name.as_str();
                let reached = outcomes.get(name).is_some_and(|o| o.counts.is_some());
                let list = taken.entry(name).or_default();
                let slow = list.first().is_some_and(|run| run.ms > SLOW_MS);
                if reached && !(slow && list.len() >= SLOW_RUNS) {
                    list.push(measure::kvm_run(kit, one.image(cell.machine), cell)?);
                }
            }
        }
        step.done(&format!("{runs} runs of each"));
        for (name, list) in taken {
            let mut exits: Vec<_> = list.iter().map(|run| run.exits).collect();
            exits.sort_unstable();
            let ms = Spread::of(list.iter().map(|run| run.ms).collect());
            if let (Some(outcome), Some(ms)) = (outcomes.get_mut(name), ms) {
                outcome.kvm = Some(Kvm {
                    exits: exits[exits.len() / 2],
                    ms,
                    runs: list.len(),
                });
            }
        }
    }
    Ok(())
}

/// Columns of the table that are empty without KVM.
const KVM_COLUMNS: std::ops::Range<usize> = 6..9;
/// Columns that do not fit into 80 columns: pages, exits, regions.
const WIDE_COLUMNS: [usize; 3] = [5, 6, 9];

/// The results as a table for a terminal.
#[must_use]
pub fn table(results: &Results) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header([
            "cell",
            "firmware",
            "exits to user space",
            "accesses",
            "instructions",
            "pages touched",
            "KVM exits",
            "KVM ms, median (min to max)",
            "ms, C qboot = 1",
            "accesses by region",
        ]);
    for cell in &results.cells {
        let Some(outcomes) = results.results.get(cell) else {
            continue;
        };
        let reference = outcomes
            .get(REFERENCE)
            .and_then(|one| one.kvm.as_ref())
            .map(|kvm| kvm.ms.median);
        for (n, name) in results.firmware.iter().enumerate() {
            let Some(one) = outcomes.get(name) else {
                continue;
            };
            let right = |text: String| Entry::new(text).set_alignment(CellAlignment::Right);
            let number = |value: Option<u64>| right(value.map_or("-".to_owned(), grouped));
            let counts = one.counts.as_ref();
            let kvm = one.kvm.as_ref();
            table.add_row([
                Entry::new(if n == 0 { cell } else { "" }),
                Entry::new(name),
                number(one.user_space.as_ref().map(|u| u.exits)),
                number(counts.map(|c| c.accesses)),
                number(counts.map(|c| c.instructions)),
                number(one.pages),
                number(kvm.map(|k| k.exits)),
                right(kvm.map_or("-".to_owned(), |k| {
                    let Spread { median, min, max } = k.ms;
                    format!("{median:.1} ({min:.1} to {max:.1}), {} runs", k.runs)
                })),
                right(match (kvm, reference) {
                    (Some(k), Some(reference)) => format!("{:.2}", k.ms.median / reference),
                    _ => "-".to_owned(),
                }),
                Entry::new(counts.map_or("no kernel reached".to_owned(), |c| c.by_region(6))),
            ]);
        }
    }
    hide_columns(&mut table, results);
    table
}

/// Hides columns that are empty or do not fit.
fn hide_columns(table: &mut Table, results: &Results) {
    let mut outcomes = results.results.values().flat_map(BTreeMap::values);
    let mut hidden = Vec::new();
    if outcomes.all(|one| one.kvm.is_none()) {
        hidden.extend(KVM_COLUMNS);
    }
    if is_narrow(table) {
        hidden.extend(WIDE_COLUMNS);
    }
    for column in hidden {
        if let Some(column) = table.column_mut(column) {
            column.set_constraint(ColumnConstraint::Hidden);
        }
    }
}

/// Whether the terminal would wrap the numbers.
fn is_narrow(table: &Table) -> bool {
    table.width().is_some_and(|columns| columns < 140)
}
