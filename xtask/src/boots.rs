//! Boots to user space with all firmware, with the kernels and QEMUs of Debian's
//! releases: `target/bench/boots.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

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
        let (linux, firmware) = match suite.as_str() {
            SYSTEM => (Linux::new(None)?, usual.clone()),
            suite => {
                let qemu = qemu::debian::of(suite)?;
                let mut firmware = usual.clone();
                let others = firmware::peers(&qemu.root);
                for one in &mut firmware {
                    if let Some(theirs) = others.iter().find(|theirs| theirs.name == one.name) {
                        *one = theirs.clone();
                    }
                }
                (Linux::of(suite, &qemu)?, firmware)
            }
        };
        let mut boots = Boots {
            suite: suite.clone(),
            linux: linux.release()?,
            qemu: linux.qemu()?,
            firmware: firmware.iter().map(|one| one.name.clone()).collect(),
            cells: cells.iter().map(|cell| cell.name.clone()).collect(),
            results: BTreeMap::new(),
            skipped: skipped.clone(),
        };
        for one in &firmware {
            boot(&linux, one, &cells, &mut boots);
        }
        let ours = |cell: &&String| boots.outcome(cell, OURS).is_none();
        missed.extend(boots.cells.iter().filter(ours).cloned());
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
        match counted {
            Ok(counted) => {
                let outcomes = boots.results.entry(cell.name.clone()).or_default();
                outcomes.insert(name.clone(), counted);
            }
            Err(error) => {
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
