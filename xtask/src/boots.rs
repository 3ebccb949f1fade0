//! Boots to user space with all firmware, with the kernels and QEMUs of Debian's
//! releases: `target/bench/boots.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::firmware::{self, Firmware, OURS};
use crate::measure::user_space::{self, Linux, UserSpace};
use crate::measure::{self, Cell};
use crate::output::say;
use crate::results::{BOOTS, Boots, read, write};
use crate::{progress, qemu};

/// Options of `boots`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Where kernel, QEMU and other firmware are from: a suite of Debian's, or the system itself;
    /// results of others are kept
    #[arg(long, value_name = "NAME", default_values_t = SUITES.map(str::to_owned))]
    pub suite: Vec<String>,
    /// Only cells whose name contains this, such as "q35 PVH"
    #[arg(long, value_name = "TEXT")]
    pub cell: Option<String>,
    /// Only with this firmware, after a change of it: the others' last results are kept
    #[arg(long, conflicts_with = "rom")]
    pub ours: bool,
    /// Another firmware to boot with beside the usual ones
    #[arg(long, value_name = "FILE")]
    pub rom: Vec<PathBuf>,
}

/// What is installed; the others are fetched.
const SYSTEM: &str = "system";
const SUITES: [&str; 3] = [SYSTEM, "trixie", "trixie-backports"];

/// Boots, prints and writes everything.
///
/// # Errors
/// The ROM does not build or does not reach user space, or something cannot be fetched.
pub fn run(options: &Options) -> Result<()> {
    let (usual, skipped, _) = firmware::all(&options.rom)?;
    let cells = measure::named(user_space::cells(), options.cell.as_deref())?;
    let mut kept: Vec<Boots> = read(BOOTS, "").unwrap_or_default();
    let mut missed = Vec::new();
    for suite in &options.suite {
        let (linux, mut firmware) = of_suite(suite, &usual)?;
        let mut boots = Boots {
            suite: suite.clone(),
            linux: linux.release()?,
            qemu: linux.qemu()?,
            firmware: firmware.iter().map(|one| one.name.clone()).collect(),
            cells: cells.iter().map(|cell| cell.name.clone()).collect(),
            results: BTreeMap::new(),
            skipped: skipped.clone(),
        };
        if options.ours {
            let mut others = kept.iter().filter(|one| one.is_like(&boots));
            let others = others.next().with_context(|| {
                format!("{suite}: no results with this kernel and QEMU to keep, leave out --ours")
            })?;
            boots.cells.clone_from(&others.cells);
            boots.results.clone_from(&others.results);
            firmware.retain(|one| one.name == OURS);
        }
        for one in &firmware {
            boot(&linux, one, &cells, &mut boots);
        }
        let is_missed = |cell: &&Cell| boots.outcome(&cell.name, OURS).is_none();
        missed.extend(cells.iter().filter(is_missed).map(|cell| cell.name.clone()));
        print(&boots)?;
        kept.retain(|one| one.suite != boots.suite);
        kept.push(boots);
        let place = |one: &Boots| SUITES.iter().position(|suite| *suite == one.suite);
        kept.sort_by_key(|one| place(one).unwrap_or(SUITES.len()));
        write(BOOTS, &kept)?;
    }
    ensure!(missed.is_empty(), "no user space reached in {missed:?}");
    Ok(())
}

/// The kernel of a suite, and `usual` firmware as the suite has it.
fn of_suite(suite: &str, usual: &[Firmware]) -> Result<(Linux, Vec<Firmware>)> {
    let mut firmware = usual.to_vec();
    if suite == SYSTEM {
        return Ok((Linux::new(None)?, firmware));
    }
    let qemu = qemu::debian::of(suite)?;
    let peers = firmware::peers(&qemu.root);
    for one in &mut firmware {
        if let Some(peer) = peers.iter().find(|peer| peer.name == one.name) {
            *one = peer.clone();
        }
    }
    Ok((Linux::of(suite, &qemu)?, firmware))
}

/// Boots the cells with one firmware.
fn boot(linux: &Linux, firmware: &Firmware, cells: &[Cell], boots: &mut Boots) {
    let name = &firmware.name;
    let step = progress::step(format!("booting {} with {name} under TCG", boots.linux));
    let list = measure::two_at_a_time(cells.len(), |n| {
        let rom: &Path = firmware.image(cells[n].machine);
        user_space::count(linux, rom, &cells[n])
    });
    step.done(&format!("{} cells", cells.len()));
    for (cell, counted) in cells.iter().zip(list) {
        let outcomes = boots.results.entry(cell.name.clone()).or_default();
        match counted {
            Ok(counted) => {
                outcomes.insert(name.clone(), counted);
            }
            Err(error) => {
                outcomes.remove(name);
                eprintln!("{name}: {error:#}");
                let reason = format!("{name} in {}: no user space reached", cell.name);
                boots.skipped.push(reason);
            }
        }
    }
}

fn print(boots: &Boots) -> Result<()> {
    let (head, table) = (
        boots.head(),
        boots.table(&boots.cells.iter().collect::<Vec<_>>()),
    );
    say!("{head}\n\n{table}\n{} skipped", boots.skipped.len())?;
    for reason in &boots.skipped {
        say!("  skipped {reason}")?;
    }
    for (cell, outcomes) in &boots.results {
        for (firmware, boot) in outcomes {
            say!("{cell}, {firmware}: {}", UserSpace::summary(boot))?;
        }
    }
    Ok(())
}
