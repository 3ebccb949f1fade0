//! The cells of the compatibility matrix that continuous integration runs, one
//! test each: `cargo test --package qboot-tests --test matrix vmgenid`.

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use qboot_tests::{rom, skip};
use xtask::matrix::boot::{self, Outcome};
use xtask::matrix::results::{Results, WORKS};
use xtask::matrix::table::{self, Cell};

fn main() -> Result<()> {
    let arguments = Arguments::from_args();
    let cells = table::cells()?;
    let trials = cells.into_iter().filter(|cell| cell.row.ci).map(|cell| {
        Trial::test(cell.id(), move || {
            run(&cell).map_err(|error| Failed::from(format!("{error:#}")))
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

/// A cell has to do what is recorded of it.
fn run(cell: &Cell) -> Result<()> {
    let (program, version) = xtask::matrix::program::program(cell, None)?;
    let record = Results::read()?;
    let recorded = record.get(&version, &cell.id(), "ours").unwrap_or(WORKS);
    match boot::cell(cell, &rom()?, &program).context("preparing the cell")? {
        Outcome::Works => ensure!(
            recorded == WORKS,
            "works, but is recorded as {recorded:?}: cargo xtask matrix --update"
        ),
        Outcome::Fails { how, report } => ensure!(recorded == how, "{how}\n{report}"),
        Outcome::Skipped(reason) => skip(&cell.id(), &reason),
    }
    Ok(())
}
