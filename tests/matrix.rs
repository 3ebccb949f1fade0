//! The compatibility matrix: every cell of `tests/matrix.toml` is a test, `row@machine`.
//! A cell has to do what `tests/matrix-results.toml` has recorded of it.
//!
//!     cargo test --package qboot-tests --test matrix                 continuous integration's cells
//!     cargo test --package qboot-tests --test matrix -- --list
//!     cargo test --package qboot-tests --test matrix -- --include-ignored vmgenid
//!
//! `cargo xtask matrix` starts it with what else it understands:
//!
//! - `QBOOT_FIRMWARE`: firmwares to run the cells with, with commas between them: `ours`
//!   (default), `qboot`, `seabios`, or an image;
//! - `QBOOT_QEMU`: the QEMU to start, or `backports` or `sid` for that of Debian's suite;
//! - `QBOOT_RECORD`: `all` to record what comes of the cells and to write the pages, `missing`
//!   for those only that were not run with this QEMU.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Completion, Trial};
use qboot_tests::guest::Tpm;
use qboot_tests::matrix::record::{OURS, Record, WORKS};
use qboot_tests::matrix::table::Cell;
use qboot_tests::matrix::{boot, pages, qemu, table};
use qboot_tests::{rom, skip};
use xtask::workspace;

fn main() -> Result<()> {
    let arguments = Arguments::from_args();
    let recording = std::env::var("QBOOT_RECORD").ok();
    let cells = table::cells(&table::rows()?);
    let mut trials = Vec::new();
    for cell in cells.clone() {
        let (recording, cells) = (recording.clone(), cells.clone());
        let ignored = !cell.row.ci;
        let trial = Trial::ignorable_test(cell.id(), move || {
            let done = match recording.as_deref() {
                None => compare(&cell),
                Some(which) => record(&cell, which == "missing", &cells),
            };
            done.map_err(|error| format!("{error:#}").into())
        });
        trials.push(trial.with_ignored_flag(ignored));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if recording.is_some() && !arguments.list {
        Record::read()?.write(&cells)?;
        pages::write()?;
    }
    conclusion.exit()
}

/// Runs a cell with the firmwares asked for; each has to do what is recorded of it.
fn compare(cell: &Cell) -> Result<Completion> {
    let (program, version) = qemu::program(cell)?;
    if let Some(reason) = cannot_run(cell, &version) {
        return Ok(Completion::ignored_with(reason));
    }
    let record = Record::read()?;
    let firmwares = std::env::var("QBOOT_FIRMWARE").unwrap_or_else(|_| OURS.to_owned());
    let mut differs = String::new();
    for firmware in firmwares.split(',') {
        let (outcome, report) = run(cell, firmware, &program, &version)?;
        let expected = record.expected(&version, &cell.id(), firmware);
        if outcome != expected {
            differs += &format!("{firmware}: {outcome} (recorded: {expected})\n{report}");
        }
    }
    ensure!(differs.is_empty(), "{differs}");
    Ok(Completion::Completed)
}

/// Runs a cell and records what comes of it.
fn record(cell: &Cell, only_missing: bool, cells: &[Cell]) -> Result<Completion> {
    let (program, version) = qemu::program(cell)?;
    if let Some(reason) = cannot_run(cell, &version) {
        return Ok(Completion::ignored_with(reason));
    }
    let (id, before) = (cell.id(), Record::read()?);
    if only_missing && before.get(&version, &id, OURS).is_some() {
        return Ok(Completion::ignored_with("recorded"));
    }
    let mut outcomes = Vec::new();
    for firmware in before.firmwares(&version, &id) {
        let (outcome, _) = run(cell, &firmware, &program, &version)?;
        outcomes.push((firmware, outcome));
    }
    let outcomes: Vec<(&str, &str)> = outcomes.iter().map(|(a, b)| (&**a, &**b)).collect();
    // Each for itself: a run of all cells is long, and other cells may run beside this one.
    let _lock = workspace::lock("matrix-results")?;
    let mut record = Record::read()?;
    record.set(&version, &id, &outcomes);
    record.write(cells)?;
    Ok(Completion::Completed)
}

/// Why a cell cannot be tried here.
fn cannot_run(cell: &Cell, version: &str) -> Option<String> {
    if !cell.is_for(version) {
        return Some(format!("not for QEMU {version}"));
    }
    if cell.row.swtpm && !Tpm::is_installed() {
        let reason = "swtpm is not installed (scripts/setup.sh test)";
        skip(&cell.id(), reason);
        return Some(reason.to_owned());
    }
    None
}

/// Runs a cell with a firmware: the outcome, and a report if it does not work.
fn run(cell: &Cell, firmware: &str, program: &Path, version: &str) -> Result<(String, String)> {
    let started = Instant::now();
    let failure = boot::cell(cell, &image(firmware, cell)?, program)?;
    let (outcome, report) = match failure {
        None => (WORKS.to_owned(), String::new()),
        Some(failure) => (failure.how, failure.report),
    };
    // What is recorded of other firmwares, or of this one, need not be that it works.
    if firmware != OURS || outcome != WORKS {
        let (id, seconds) = (cell.id(), started.elapsed().as_secs_f64());
        eprintln!("{id}, {firmware}, QEMU {version}: {outcome} ({seconds:.1} s)");
    }
    Ok((outcome, report))
}

/// The image of a firmware for a cell's machine.
fn image(firmware: &str, cell: &Cell) -> Result<PathBuf> {
    let image: PathBuf = match firmware {
        OURS => return rom(),
        "qboot" => "/usr/share/qemu/qboot.rom".into(),
        "seabios" => Path::new("/usr/share/seabios").join(cell.machine()?.seabios),
        path => path.into(),
    };
    ensure!(image.is_file(), "no firmware {}", image.display());
    Ok(image)
}
