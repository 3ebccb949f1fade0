//! The compatibility matrix: a table of machines and kernels, run with this
//! firmware and with the others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};

use crate::output::say;
use crate::{bench, build, workspace};

pub mod artefact;
pub mod boot;
mod generate;
pub mod program;
pub mod results;
pub mod table;

use boot::Outcome;
use program::Program;
use results::{Results, WORKS};
use table::Cell;

/// Options of `matrix`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Only cells whose name, such as vmgenid@q35, contains this
    #[arg(long, value_name = "TEXT", value_delimiter = ' ')]
    pub filter: Vec<String>,
    /// Only the cells of continuous integration
    #[arg(long)]
    pub ci: bool,
    /// ours, qboot, seabios or an image; several with commas [default: ours, with --update all three]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub firmware: Vec<String>,
    /// QEMU to start, or "backports" or "sid" for that of Debian's suite, fetched without installing it
    #[arg(long, value_name = "PROGRAM")]
    pub qemu: Option<String>,
    /// Record the outcomes in tests/matrix-results.toml and write the pages
    #[arg(long)]
    pub update: bool,
    /// Only cells that have no recorded outcome yet
    #[arg(long)]
    pub missing: bool,
    /// Only write the pages from the record
    #[arg(long)]
    pub pages: bool,
    /// Only list the cells
    #[arg(long)]
    pub list: bool,
    /// How many boots at a time
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub jobs: usize,
}

/// Runs the cells that `options` choose.
///
/// # Errors
/// Something that a cell needs cannot be had, or a cell of this firmware does
/// not come out as recorded.
pub fn run(options: &Options) -> Result<()> {
    workspace::require_source("the matrix")?;
    let all = table::cells()?;
    if options.pages {
        return write_pages();
    }
    let mut cells = all.clone();
    cells.retain(|cell| {
        let id = cell.id();
        let named = options.filter.iter().any(|text| id.contains(text));
        (named || options.filter.is_empty()) && (cell.row.ci || !options.ci)
    });
    ensure!(
        !cells.is_empty(),
        "no cell has such a name; --list without --filter shows all"
    );
    if options.list {
        for cell in cells {
            say!("{}: {}: {}", cell.id(), cell.row.group, cell.row.text)?;
        }
        return Ok(());
    }
    let firmwares = firmwares(options)?;
    let before = Results::read()?;
    let mut jobs = Vec::new();
    for cell in &cells {
        for firmware in &firmwares {
            let programs = program::program(cell, options.qemu.as_deref())?;
            let known = before.get(&programs.1, &cell.id(), firmware).is_some();
            let left_out = cell.row.only.as_ref();
            if cell.is_for(&programs.1)
                && left_out.is_none_or(|only| only.contains(firmware))
                && !(options.missing && known)
            {
                jobs.push((cell, firmware.as_str(), programs));
            }
        }
    }
    let record = |one: &Taken| match options.update {
        true => one.record(&all),
        false => Ok(()),
    };
    let taken = perform(&jobs, options.jobs.max(1), &record)?;
    finish(options, &before, &taken)
}

fn firmwares(options: &Options) -> Result<Vec<String>> {
    let names = match (options.firmware.as_slice(), options.update) {
        ([], false) => vec!["ours".to_owned()],
        ([], true) => results::FIRMWARES.map(|(id, _)| id.to_owned()).to_vec(),
        (names, _) => names.to_vec(),
    };
    for name in &names {
        let known = results::FIRMWARES.iter().any(|(id, _)| id == name);
        ensure!(known || !options.update, "--update records no {name}");
        ensure!(known || Path::new(name).is_file(), "no firmware {name}");
    }
    Ok(names)
}

/// The image of a firmware for a machine.
///
/// # Errors
/// It does not build, or is not there.
pub fn image(firmware: &str, machine: &str) -> Result<PathBuf> {
    let peers = bench::peers();
    let peer = match firmware {
        "ours" => return ours(),
        "qboot" => &peers[0],
        "seabios" => &peers[1],
        path => return Ok(path.into()),
    };
    let image = match &peer.microvm {
        Some(image) if machine.starts_with("microvm") => image.clone(),
        // SeaBIOS's 256 KiB do not fit there.
        Some(_) if machine.starts_with("isapc") => peer.image.with_file_name("bios.bin"),
        _ => peer.image.clone(),
    };
    let shown = image.display();
    ensure!(image.is_file(), "{} is not at {shown}", peer.name);
    Ok(image)
}

fn ours() -> Result<PathBuf> {
    static BUILT: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut built = BUILT.lock().ok().context("a build died")?;
    if let Some(image) = built.as_ref() {
        return Ok(image.clone());
    }
    Ok(built.insert(build::rom(&[])?.image).clone())
}

/// A run's outcome: QEMU's version, cell, firmware, what came of it, seconds.
struct Taken {
    version: String,
    cell: String,
    firmware: String,
    outcome: Outcome,
    seconds: f64,
}

impl Taken {
    /// The outcome as it is recorded; `None` when there is none.
    fn outcome(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Works => Some(WORKS),
            Outcome::Fails { how, .. } => Some(how),
            Outcome::Skipped(_) => None,
        }
    }

    /// Writes it down at once: a run of all cells is long.
    fn record(&self, all: &[Cell]) -> Result<()> {
        let _lock = workspace::lock("matrix-results")?;
        let mut record = Results::read()?;
        if let Some(outcome) = self.outcome() {
            record.set(&self.version, &self.cell, &self.firmware, outcome);
        }
        record.write(all)
    }
}

fn perform(
    jobs: &[(&Cell, &str, Program)],
    at_a_time: usize,
    record: &(dyn Fn(&Taken) -> Result<()> + Sync),
) -> Result<Vec<Taken>> {
    let next = Mutex::new((0, jobs.iter()));
    let taken = Mutex::new(Vec::new());
    let worker = || -> Result<()> {
        loop {
            let Some((n, (cell, firmware, (path, version)))) = take(&next) else {
                return Ok(());
            };
            let started = Instant::now();
            let rom = image(firmware, &cell.machine)?;
            let outcome = boot::cell(cell, &rom, path).with_context(|| cell.id())?;
            let seconds = started.elapsed().as_secs_f64();
            let shown = match &outcome {
                Outcome::Works => WORKS.to_owned(),
                Outcome::Fails { how, report } if *firmware == "ours" => {
                    format!("FAILS: {how}\n{report}")
                }
                Outcome::Fails { how, .. } => format!("fails: {how}"),
                Outcome::Skipped(reason) => format!("skipped: {reason}"),
            };
            let (of, id) = (jobs.len(), cell.id());
            eprintln!("{n}/{of} {id}, {firmware}, QEMU {version}: {shown} ({seconds:.1} s)");
            let entry = Taken {
                version: version.clone(),
                cell: id,
                firmware: (*firmware).to_owned(),
                outcome,
                seconds,
            };
            record(&entry)?;
            if let Ok(mut list) = taken.lock() {
                list.push(entry);
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..at_a_time).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            match worker.join() {
                Ok(result) => result?,
                Err(_) => bail!("a worker died"),
            }
        }
        Ok(())
    })?;
    taken.into_inner().ok().context("a worker died")
}

fn take<'a, T>(next: &Mutex<(usize, std::slice::Iter<'a, T>)>) -> Option<(usize, &'a T)> {
    let mut next = next.lock().ok()?;
    let item = next.1.next()?;
    next.0 += 1;
    Some((next.0, item))
}

fn finish(options: &Options, before: &Results, taken: &[Taken]) -> Result<()> {
    let json: Vec<_> = taken
        .iter()
        .map(|one| {
            let (outcome, report) = match &one.outcome {
                Outcome::Works => (WORKS.to_owned(), None),
                Outcome::Fails { how, report } => (how.clone(), Some(report)),
                Outcome::Skipped(reason) => (format!("skipped: {reason}"), None),
            };
            serde_json::json!({
                "qemu": one.version, "cell": one.cell, "firmware": one.firmware,
                "outcome": outcome, "seconds": one.seconds, "report": report,
            })
        })
        .collect();
    let path = artefact::directory()?.join("results.json");
    workspace::write_atomically(
        &path,
        (serde_json::to_string_pretty(&json)? + "\n").as_bytes(),
    )?;

    if let Some(table) = side_by_side(taken) {
        say!("{table}")?;
    }
    let mut counts = BTreeMap::<&str, usize>::new();
    let mut changed = Vec::new();
    for one in taken {
        let word = match &one.outcome {
            Outcome::Works => WORKS,
            Outcome::Fails { .. } => "fail",
            Outcome::Skipped(_) => "skipped",
        };
        *counts.entry(word).or_default() += 1;
        let Some(outcome) = one.outcome() else {
            continue;
        };
        let recorded = before.get(&one.version, &one.cell, &one.firmware);
        if recorded.unwrap_or(WORKS) != outcome {
            let recorded = recorded.unwrap_or("not recorded");
            let (cell, firmware) = (&one.cell, &one.firmware);
            changed.push(format!(
                "{cell}, {firmware}: {outcome} (recorded: {recorded})"
            ));
        }
    }
    let counts: Vec<_> = counts
        .iter()
        .map(|(word, n)| format!("{n} {word}"))
        .collect();
    say!("{}; target/matrix/results.json", counts.join(", "))?;
    for line in &changed {
        say!("not as recorded: {line}")?;
    }
    if options.update {
        return write_pages();
    }
    ensure!(changed.is_empty(), "{} not as recorded", changed.len());
    Ok(())
}

/// The outcomes of several firmware as a table; `None` where there is one.
fn side_by_side(taken: &[Taken]) -> Option<Table> {
    let mut names: Vec<&str> = Vec::new();
    let mut rows: Vec<[&str; 2]> = Vec::new();
    for one in taken {
        let row = [one.cell.as_str(), one.version.as_str()];
        if !names.contains(&one.firmware.as_str()) {
            names.push(&one.firmware);
        }
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    if names.len() < 2 {
        return None;
    }
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(["cell", "QEMU"].iter().chain(&names));
    for row in rows {
        let outcome = |name: &&str| {
            let is_it = |one: &&Taken| {
                [&*one.cell, &*one.version, &*one.firmware] == [row[0], row[1], *name]
            };
            let one = taken.iter().find(is_it);
            one.map_or("–", |one| one.outcome().unwrap_or("skipped"))
        };
        table.add_row(row.into_iter().chain(names.iter().map(outcome)));
    }
    Some(table)
}

fn write_pages() -> Result<()> {
    for (path, content) in results::pages(&table::rows()?, &Results::read()?)? {
        workspace::write_atomically(&path, content.as_bytes())?;
    }
    Ok(())
}
