//! All firmware side by side in one run up to the kernel: tables and
//! `target/bench/results.json`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::firmware::{self, Firmware, OURS};
use crate::measure::{self, Cell, Kit, Spread};
use crate::output::say;
use crate::results::{Entry, Kvm, Outcome, RESULTS, Results, grouped, write};
use crate::{progress, qemu};

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
    let mut results = Results {
        qemu: qemu::version(&qemu::binary())?,
        rom_used_bytes: used,
        firmware: firmware.iter().map(|one| one.name.clone()).collect(),
        cells: cells.iter().map(|cell| cell.name.clone()).collect(),
        results: BTreeMap::new(),
        skipped,
    };
    count(&kit, &firmware, &cells, &mut results)?;
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
    let cells: Vec<_> = results.cells.iter().collect();
    for (what, entry) in QUANTITIES {
        let found = results.results.values().flat_map(BTreeMap::values);
        if found.filter_map(entry).next().is_some() {
            say!("{what}:\n\n{}", results.table(&cells, entry))?;
        }
    }
    let used = grouped(results.rom_used_bytes);
    say!("{}, {used} bytes of the ROM used", results.qemu)?;
    say!("{} skipped", results.skipped.len())?;
    for reason in &results.skipped {
        say!("  skipped {reason}")?;
    }
    write(RESULTS, results)
}

fn count(kit: &Kit, firmware: &[Firmware], cells: &[Cell], results: &mut Results) -> Result<()> {
    for one in firmware {
        let step = progress::step(format!("counting {} under TCG", one.name));
        let images: Vec<_> = cells.iter().map(|cell| one.image(cell.machine)).collect();
        let list = measure::counts(kit, &images, cells);
        step.done(&format!("{} cells", cells.len()));
        for ((cell, image), counts) in cells.iter().zip(images).zip(list) {
            let outcome = match counts {
                Ok(counts) => Outcome {
                    counts: Some(counts),
                    pages: Some(measure::pages(kit, image, cell)?),
                    kvm: None,
                },
                Err(error) => {
                    eprintln!("{}: {error:#}", one.name);
                    let reason = format!("{} in {}: no kernel reached", one.name, cell.name);
                    results.skipped.push(reason);
                    Outcome::default()
                }
            };
            let by_firmware = results.results.entry(cell.name.clone()).or_default();
            by_firmware.insert(one.name.clone(), outcome);
        }
    }
    Ok(())
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

/// What is printed: a table each.
const QUANTITIES: [(&str, Entry); 3] = [
    (
        "Accesses / instructions to the kernel's first instruction",
        Outcome::to_kernel,
    ),
    ("Pages of guest RAM touched until then", |one| {
        one.pages.map(grouped)
    }),
    (
        "Exits, and ms, median (min to max), until then under KVM",
        |one| {
            let Kvm { exits, ms, runs } = one.kvm.as_ref()?;
            Some(format!("{}, {ms} in {runs} runs", grouped(*exits)))
        },
    ),
];
