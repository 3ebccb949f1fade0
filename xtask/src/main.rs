//! Command line of the host program; the work is in the library.

mod examples;
mod manual;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};
use examples::*;
use xtask::kernel::Flavour;
use xtask::output::{is_broken_pipe, put};
use xtask::run::Outcome;
#[cfg(feature = "measure")]
use xtask::{bench, figures, matrix, measure, release, timeline};
use xtask::{build, capture, doctor, extract, inspect, kernel, package, run, workspace};

/// Boots, inspects and builds qboot-rs, firmware for QEMU's x86 machines.
#[derive(Parser)]
#[command(name = "qboot", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Boot a kernel under QEMU with the firmware
    ///
    /// On a terminal the guest gives an interactive shell. Without one it prints a short report and
    /// powers off; the exit status is 0 when user space was reached and the guest ended by itself.
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<run::Options>),
    /// Build the firmware, from its source tree: target/qboot.rom and target/qboot.elf
    #[command(after_help = BUILD_EXAMPLES)]
    Build {
        /// Feature of the firmware to build in, such as markers
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        features: Vec<String>,
    },
    /// Tell what a ROM is made of: size by section and by symbol
    ///
    /// The exit status is 1 when the file is no qboot-rs.
    #[command(after_help = INSPECT_EXAMPLES)]
    Inspect {
        /// The ROM, with its ELF file beside it [default: the one installed, or built from this source tree]
        rom: Option<PathBuf>,
        /// How many symbols to list, largest first
        #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
        symbols: usize,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Take the vmlinux out of a bzImage
    ///
    /// The result boots by PVH, without the decompressor that a bzImage runs first. The exit status
    /// is 3 when the kernel has no PVH entry point; it is written all the same.
    #[command(after_help = EXTRACT_EXAMPLES)]
    Extract {
        /// The bzImage, such as /boot/vmlinuz
        bzimage: PathBuf,
        /// File to write
        vmlinux: PathBuf,
    },
    /// Fetch a Debian kernel without installing it, and print its bzImage's path
    #[command(after_help = KERNEL_EXAMPLES)]
    Kernel {
        #[arg(value_enum, default_value = "cloud-amd64")]
        flavour: Flavour,
    },
    /// Tell what this machine has and lacks, and what fixes that
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Count device accesses by region and instructions up to a kernel's first instruction
    #[cfg(feature = "measure")]
    #[command(after_help = MEASURE_EXAMPLES)]
    Measure(measure::Options),
    /// Measure all firmware side by side: a table, target/bench/results.json and a chart
    #[cfg(feature = "measure")]
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(bench::Options),
    /// Show where the time goes from QEMU's start to user space: a table and a chart
    #[cfg(feature = "measure")]
    #[command(after_help = TIMELINE_EXAMPLES)]
    Timeline(timeline::Options),
    /// Write the last benchmark's figures to README.md
    #[cfg(feature = "measure")]
    Figures,
    /// Boot the table of machines and kernels in tests/matrix.toml
    ///
    /// Fails when a cell does not come out as recorded in tests/matrix-results.toml.
    #[cfg(feature = "measure")]
    #[command(after_help = MATRIX_EXAMPLES)]
    Matrix(matrix::Options),
    /// Capture what QEMU hands to its firmware through fw_cfg, as test data
    #[command(after_help = CAPTURE_EXAMPLES)]
    Capture(capture::Options),
    /// Make and check the files of a release: target/release-VERSION/
    #[cfg(feature = "measure")]
    Release(release::Options),
    /// Measuring needs the source tree: start this in a checkout, as `cargo xtask`
    #[cfg(not(feature = "measure"))]
    #[command(hide = true, aliases = ["figures", "matrix", "measure", "release", "timeline"])]
    Bench {
        #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
        _all: Vec<String>,
    },
    /// Print the completions of this command line for a shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions { shell: clap_complete::Shell },
    /// Write the manual pages of this program to a directory
    #[command(hide = true)]
    Manual { dir: PathBuf },
    /// Write everything that is installed to a directory, for scripts/install.sh
    #[command(hide = true)]
    Dist { dir: PathBuf },
}

/// The command line as its users know it: installed, as `qboot`, without the
/// commands that only this repository's scripts give.
fn public() -> clap::Command {
    let whole = Cli::command();
    let shown = whole.get_subcommands().filter(|task| !task.is_hide_set());
    clap::Command::new("qboot")
        .version(env!("CARGO_PKG_VERSION"))
        .about(whole.get_about().cloned().unwrap_or_default())
        .after_help(EXAMPLES)
        .subcommand_required(true)
        .subcommands(shown.cloned())
}

/// Completions of values that stand by themselves, such as a kernel's flavour: for
/// fish, `clap_complete` has only those of options.
fn fish_values() -> String {
    let mut text = String::new();
    for task in public().get_subcommands() {
        for value in task.get_positionals().flat_map(Arg::get_possible_values) {
            let help = value.get_help().map(ToString::to_string);
            let (task, name) = (task.get_name(), value.get_name());
            let help = help.unwrap_or_default().replace('\'', "\\'");
            text.push_str(&format!(
                "complete -c qboot -n '__fish_qboot_using_subcommand {task}' -f -a '{name}' -d '{help}'\n"
            ));
        }
    }
    text
}

/// The kernel was extracted but cannot be booted by PVH.
const NO_PVH: u8 = 3;

fn main() -> ExitCode {
    // A name under which the reader can start it: the scripts hide this program's.
    let name = match workspace::source() {
        Some(_) => "cargo xtask",
        None => "qboot",
    };
    let renamed = |task: clap::Command| {
        let examples = task.get_after_help().map(ToString::to_string);
        match examples {
            Some(text) => task.after_help(text.replace("qboot ", &format!("{name} "))),
            None => task,
        }
    };
    let command = renamed(Cli::command().bin_name(name)).mut_subcommands(renamed);
    let matches = command.get_matches();
    let done = Cli::from_arg_matches(&matches).map_err(|error| error.exit());
    match done.and_then(|cli| cli.command.perform()) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Task {
    fn perform(self) -> Result<ExitCode> {
        match self {
            Task::Build { features } => build(&features)?,
            Task::Run(options) => {
                if run::run(&options)? != Outcome::Reached {
                    return Ok(ExitCode::FAILURE);
                }
            }
            Task::Capture(options) => capture::run(&options)?,
            #[cfg(feature = "measure")]
            Task::Measure(options) => measure::run(&options)?,
            #[cfg(feature = "measure")]
            Task::Bench(options) => bench::run(&options)?,
            #[cfg(feature = "measure")]
            Task::Timeline(options) => timeline::run(&options)?,
            #[cfg(feature = "measure")]
            Task::Matrix(options) => matrix::run(&options)?,
            #[cfg(not(feature = "measure"))]
            Task::Bench { .. } => {
                bail!("measuring needs the source tree: start this in a checkout, as `cargo xtask`")
            }
            #[cfg(feature = "measure")]
            Task::Figures => figures::publish()?,
            Task::Completions { shell } => {
                let mut text = Vec::new();
                clap_complete::generate(shell, &mut public(), "qboot", &mut text);
                if shell == clap_complete::Shell::Fish {
                    text.extend(fish_values().into_bytes());
                }
                put(text)?;
            }
            Task::Manual { dir } => {
                let pages = public().bin_name("qboot").disable_help_subcommand(true);
                manual::write(pages, &dir)?;
            }
            // This program itself: who installs from a checkout waits for no other build.
            Task::Dist { dir } => package::dist(&std::env::current_exe()?, &dir)?,
            #[cfg(feature = "measure")]
            Task::Release(options) => release::run(&options)?,
            Task::Doctor { json } => return doctor(json),
            Task::Inspect { rom, symbols, json } => return inspect(rom, symbols, json),
            Task::Kernel { flavour } => {
                let path = kernel::debian(flavour)?.bzimage;
                put(format!("{}\n", path.display()))?;
            }
            Task::Extract { bzimage, vmlinux } => return extract(&bzimage, &vmlinux),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn build(features: &[String]) -> Result<()> {
    let features: Vec<&str> = features.iter().map(String::as_str).collect();
    let rom = build::rom(&features)?;
    let root = workspace::root();
    let image = rom.image.strip_prefix(&root).unwrap_or(&rom.image);
    let (image, size) = (image.display(), build::ROM_SIZE);
    let used = format!("{image}: {} of {size} bytes used", rom.used);
    put(format!("{used}\nsha256 {}\n", rom.sha256))
}

fn doctor(json: bool) -> Result<ExitCode> {
    let findings = doctor::findings();
    put(match json {
        true => format!("{:#}\n", doctor::json(&findings)),
        false => doctor::shown(&findings),
    })?;
    let lacks = |finding: &doctor::Finding| finding.state.is_err() && !finding.optional;
    Ok(match findings.iter().any(lacks) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

fn inspect(rom: Option<PathBuf>, symbols: usize, json: bool) -> Result<ExitCode> {
    let rom = match rom {
        Some(rom) => rom,
        None if workspace::source().is_some() => build::rom(&[])?.image,
        None => workspace::installed_rom().context(
            "no ROM is installed with this program (scripts/install.sh does that): name one",
        )?,
    };
    let elf = Some(rom.with_extension("elf")).filter(|elf| elf.is_file());
    let found = inspect::describe(&rom, elf.as_deref(), symbols)?;
    put(match json {
        true => format!("{:#}\n", found.json()),
        false => found.text(),
    })?;
    Ok(match found.identity {
        Some(_) => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    })
}

fn extract(bzimage: &Path, vmlinux: &Path) -> Result<ExitCode> {
    let mut bytes = Vec::new();
    workspace::open_named(bzimage)
        .and_then(|mut file| Ok(file.read_to_end(&mut bytes)?))
        .with_context(|| format!("reading {}", bzimage.display()))?;
    let file = |path: &Path| path.canonicalize().ok();
    if file(vmlinux).is_some_and(|there| file(bzimage) == Some(there)) {
        bail!(
            "{} would be overwritten: name another file to write",
            bzimage.display()
        );
    }
    if extract::format(&bytes) == extract::Format::Elf {
        bail!("{} is an ELF file already", bzimage.display());
    }
    let kernel =
        extract::vmlinux(&bytes).with_context(|| format!("extracting {}", bzimage.display()))?;
    workspace::write_named(vmlinux, &kernel.elf)?;
    put(format!(
        "{}: {} bytes, was compressed with {}\n",
        vmlinux.display(),
        kernel.elf.len(),
        kernel.compression
    ))?;
    if let Some(entry) = kernel.pvh_entry {
        let entry = format!("PVH entry point at {entry:#x}");
        put(format!("{entry}: boots with QEMU's -kernel\n"))?;
        Ok(ExitCode::SUCCESS)
    } else {
        put("no PVH entry point (built without CONFIG_PVH): QEMU cannot boot this vmlinux\n")?;
        Ok(ExitCode::from(NO_PVH))
    }
}
