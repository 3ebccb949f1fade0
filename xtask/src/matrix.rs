//! Starts the compatibility matrix, a test: `tests/matrix.rs`.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::workspace;

/// Options of `matrix`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Only cells whose name, such as vmgenid@q35, contains this
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Only the cells of continuous integration
    #[arg(long)]
    pub ci: bool,
    /// ours, qboot, seabios or an image; several with commas [default: ours]
    #[arg(long, value_name = "NAMES", conflicts_with_all = ["update", "missing"])]
    pub firmware: Option<String>,
    /// QEMU to start, or "backports" or "sid" for that of Debian's suite, fetched without installing it
    #[arg(long, value_name = "PROGRAM")]
    pub qemu: Option<String>,
    /// Record the outcomes in tests/matrix-results.toml and write the pages: this firmware's, and
    /// with the oldest QEMU that a cell was run with also the others'
    #[arg(long)]
    pub update: bool,
    /// The same for cells that have no recorded outcome with this QEMU
    #[arg(long)]
    pub missing: bool,
    /// Only write the pages from the record
    #[arg(long)]
    pub pages: bool,
    /// Only list the cells
    #[arg(long, conflicts_with = "ci")]
    pub list: bool,
    /// How many boots at a time
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub jobs: usize,
}

/// The release with the record's kernels and programs.
const DEBIAN: &str = "bookworm";

/// Runs the chosen cells.
///
/// # Errors
/// A cell's result differs from the record, or something that it needs could not be
/// fetched.
pub fn run(options: &Options) -> Result<()> {
    let root = workspace::require_source("the matrix")?;
    let mut command = Command::new(workspace::cargo());
    command.current_dir(root);
    if std::env::var_os("QBOOT_DEBIAN").is_none() {
        command.env("QBOOT_DEBIAN", DEBIAN);
    }
    for (name, value) in [
        ("QBOOT_FIRMWARE", &options.firmware),
        ("QBOOT_QEMU", &options.qemu),
    ] {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    if options.missing {
        command.env("QBOOT_RECORD", "missing");
    } else if options.update || options.pages {
        command.env("QBOOT_RECORD", "all");
    }
    command.args([
        "test",
        "--quiet",
        "--package",
        "qboot-tests",
        "--test",
        "matrix",
        "--",
    ]);
    command.args([
        "--format=pretty",
        &format!("--test-threads={}", options.jobs),
    ]);
    if options.pages {
        command.args(["--exact", "no cell"]);
    }
    command.args(&options.filter);
    if !options.ci {
        command.arg("--include-ignored");
    }
    if options.list {
        command.arg("--list");
    }
    let status = command.status().context("starting cargo")?;
    ensure!(status.success(), "the matrix differs from its record");
    Ok(())
}
