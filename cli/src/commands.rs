//! The command line: the commands, and what each calls.

use std::env;
use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command as Program, ExitCode};

use anyhow::{Context, Result, bail};
use clap::builder::EnumValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::examples::*;
use crate::json::Json;
use crate::kernel::{self, Flavour};
use crate::output::{is_broken_pipe, put};
use crate::process::run_telling;
use crate::run::{self, Outcome};
use crate::uki::Pe;
use crate::{build, dist, doctor, extract, inspect, manual, workspace};

/// The commands of `xtask`, which is compiled when one is called.
pub const DEVELOPER: [(&str, &str); 8] = [
    (
        "measure",
        "Count device accesses by region and instructions up to a kernel's first instruction",
    ),
    (
        "bench",
        "Measure all firmware side by side: tables and target/bench/results.json",
    ),
    (
        "boots",
        "Count accesses to user space with all firmware and several kernels: target/bench/boots.json",
    ),
    (
        "timeline",
        "Show where the time goes from QEMU's start to user space: a table and a chart",
    ),
    ("figures", "Write the last benchmark's figures to the pages"),
    (
        "matrix",
        "Boot the table of machines and kernels in tests/matrix.toml",
    ),
    (
        "capture",
        "Capture what QEMU hands to its firmware through fw_cfg, as test data",
    ),
    (
        "release",
        "Make and check the files of a release: target/release-VERSION/",
    ),
];

/// The whole command line of `qboot`. An installed program has no developer's commands.
#[must_use]
pub fn program() -> Command {
    let is_source = workspace::source().is_some();
    let developer = DEVELOPER.map(|(name, about)| {
        let rest = Arg::new("rest").num_args(0..).hide(true);
        let rest = rest.value_parser(value_parser!(OsString));
        Command::new(name)
            .about(about)
            .hide(!is_source)
            // The developer's program prints its own help.
            .disable_help_flag(true)
            .arg(rest.trailing_var_arg(true).allow_hyphen_values(true))
    });
    head().subcommands(commands()).subcommands(developer)
}

/// The command line of an installed program, for its manual and completions.
fn public() -> Command {
    let shown = commands().into_iter().filter(|task| !task.is_hide_set());
    head().subcommands(shown)
}

fn head() -> Command {
    Command::new("qboot")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Boots, inspects and builds qboot-rs, firmware for QEMU's x86 machines.")
        .max_term_width(100)
        .after_help(EXAMPLES)
        .subcommand_required(true)
        .arg_required_else_help(true)
}

#[expect(clippy::too_many_lines, reason = "a list")]
fn commands() -> Vec<Command> {
    let file = |name: &'static str| Arg::new(name).value_parser(value_parser!(PathBuf));
    let json = || {
        let json = Arg::new("json").long("json").help("Print JSON");
        json.action(ArgAction::SetTrue)
    };
    vec![
        run::command(),
        Command::new("build")
            .about("Build the firmware, from its source tree: target/qboot.rom and target/qboot.elf")
            .after_help(BUILD_EXAMPLES)
            .arg(
                Arg::new("features")
                    .long("features")
                    .value_name("NAME")
                    .value_delimiter(',')
                    .action(ArgAction::Append)
                    .help("Feature of the firmware to build in, such as markers"),
            ),
        Command::new("inspect")
            .about("Tell what a ROM or a unified kernel image is made of")
            .long_about(
                "Tell what a ROM or a unified kernel image is made of: a ROM's size by section and \
                 by symbol, an image's sections and command line\n\n\
                 The exit status is 1 when the file is neither a qboot-rs nor such an image.",
            )
            .after_help(INSPECT_EXAMPLES)
            .arg(file("rom").help(
                "The ROM, with its ELF file beside it [default: the one installed, or built from \
                 this source tree]",
            ))
            .arg(
                Arg::new("symbols")
                    .short('n')
                    .long("symbols")
                    .value_name("N")
                    .default_value("20")
                    .value_parser(value_parser!(usize))
                    .help("How many symbols to list, largest first"),
            )
            .arg(json()),
        Command::new("extract")
            .about("Take the vmlinux out of a bzImage or a unified kernel image")
            .long_about(
                "Take the vmlinux out of a bzImage or a unified kernel image\n\n\
                 The result boots by PVH, without the decompressor that a bzImage runs first. The \
                 exit status is 3 when the kernel has no PVH entry point; it is written all the same.",
            )
            .after_help(EXTRACT_EXAMPLES)
            .arg(
                Arg::new("initrd")
                    .long("initrd")
                    .value_name("FILE")
                    .value_parser(value_parser!(PathBuf))
                    .help("Write the initrd of a unified kernel image there"),
            )
            .arg(file("bzimage").required(true).help(
                "The bzImage, such as /boot/vmlinuz, or the unified kernel image",
            ))
            .arg(file("vmlinux").required(true).help("File to write")),
        Command::new("kernel")
            .about("Fetch a Debian kernel without installing it, and print its bzImage's path")
            .after_help(KERNEL_EXAMPLES)
            .arg(
                Arg::new("flavour")
                    .value_parser(EnumValueParser::<Flavour>::new())
                    .default_value("cloud-amd64"),
            ),
        Command::new("doctor")
            .about("Tell what this machine has and lacks, and what fixes that")
            .arg(json()),
        Command::new("completions")
            .about("Print the completions of this command line for a shell")
            .after_help(COMPLETIONS_EXAMPLES)
            .arg(
                Arg::new("shell")
                    .required(true)
                    .value_parser(value_parser!(clap_complete::Shell)),
            ),
        Command::new("dist")
            .about("Write everything that is installed to a directory, for scripts/install.sh")
            .hide(true)
            .arg(file("dir").required(true)),
    ]
}

/// Runs the command `name`.
///
/// # Errors
/// The command fails.
pub fn perform(name: &str, found: &ArgMatches) -> Result<ExitCode> {
    let path = |name| found.get_one::<PathBuf>(name).cloned();
    let needed = |name| path(name).context("a file has to be named");
    match name {
        "run" => {
            if run::run(&run::Options::of(found))? != Outcome::Reached {
                return Ok(ExitCode::FAILURE);
            }
        }
        "build" => {
            let features = found.get_many::<String>("features").into_iter().flatten();
            build(&features.map(String::as_str).collect::<Vec<_>>())?;
        }
        "inspect" => {
            let symbols = found.get_one("symbols").copied().unwrap_or_default();
            return inspect(path("rom"), symbols, found.get_flag("json"));
        }
        "extract" => {
            let initrd = path("initrd");
            return extract(&needed("bzimage")?, &needed("vmlinux")?, initrd.as_deref());
        }
        "kernel" => {
            let flavour = found.get_one("flavour").copied();
            let kernel = kernel::debian(flavour.unwrap_or(Flavour::CloudAmd64))?;
            put(format!("{}\n", kernel.bzimage.display()))?;
        }
        "doctor" => return doctor(found.get_flag("json")),
        "completions" => {
            let shell = found.get_one::<clap_complete::Shell>("shell").copied();
            completions(shell.context("a shell has to be named")?)?;
        }
        "dist" => dist::collect(&env::current_exe()?, &needed("dir")?)?,
        _ => return developer(name, found),
    }
    Ok(ExitCode::SUCCESS)
}

/// Parses this process's arguments, runs the command, and reports failure.
pub fn main(program: Command, perform: fn(&str, &ArgMatches) -> Result<ExitCode>) -> ExitCode {
    let (task, found) = parse(program);
    match perform(&task, &found) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The command and its arguments. Help and wrong usage end the process. They show the
/// name that was typed: a script for one command (scripts/run.sh) or for all
/// (scripts/xtask.sh), cargo's alias, or the installed program.
fn parse(program: Command) -> (String, ArgMatches) {
    let mut arguments = env::args_os().skip(1).peekable();
    let task = arguments.peek().and_then(|task| task.to_str());
    let task = task.map(str::to_owned).unwrap_or_default();
    let script = env::var(workspace::SCRIPT).ok();
    let own_script = script
        .as_ref()
        .filter(|script| !script.ends_with("xtask.sh"));
    let program_name = workspace::typed();
    let task_name = match own_script {
        Some(script) => script.clone(),
        None => format!("{program_name} {task}"),
    };
    let renamed = |command: Command| {
        let examples = command.get_after_help().map(ToString::to_string);
        match examples {
            Some(text) => {
                let text = text.replace(&format!("qboot {task} "), &format!("{task_name} "));
                command.after_help(text.replace("qboot ", &format!("{program_name} ")))
            }
            None => command,
        }
    };
    let program = renamed(program.bin_name(&program_name)).mut_subcommands(renamed);
    if own_script.is_some()
        && let Some(command) = program.find_subcommand(&task)
    {
        let command = command.clone().bin_name(&task_name);
        let arguments = [OsString::from(task_name)]
            .into_iter()
            .chain(arguments.skip(1));
        return (task, command.get_matches_from(arguments));
    }
    let mut found = program.get_matches();
    found.remove_subcommand().unwrap_or_default()
}

/// Compiles and starts the developer's program.
fn developer(name: &str, found: &ArgMatches) -> Result<ExitCode> {
    let source = workspace::require_source(name)?;
    let target = workspace::target();
    let mut cargo = Program::new(workspace::cargo());
    let cargo = cargo
        .current_dir(source)
        .args(["build", "--package", "xtask"]);
    run_telling(cargo.arg("--target-dir").arg(&target), |line| {
        !line.trim_start().starts_with("Finished")
    })?;
    let rest = found.get_many::<OsString>("rest").into_iter().flatten();
    let mut program = Program::new(target.join("debug/xtask"));
    Err(program.arg(name).args(rest).exec()).context("starting target/debug/xtask")
}

fn build(features: &[&str]) -> Result<()> {
    let rom = build::rom(features)?;
    let root = workspace::root();
    let image = rom.image.strip_prefix(&root).unwrap_or(&rom.image);
    let (image, size) = (image.display(), build::ROM_SIZE);
    let used = format!("{image}: {} of {size} bytes used", rom.used);
    put(format!("{used}\nsha256 {}\n", rom.sha256))
}

fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut public(), "qboot", &mut text);
    if shell == clap_complete::Shell::Fish {
        text.extend(fish_values().into_bytes());
    }
    put(text)
}

/// Completions of positional values, such as a kernel's flavour: for fish,
/// `clap_complete` completes only options.
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

/// Writes the manual pages to `dir`.
///
/// # Errors
/// A file cannot be written.
pub fn manual(dir: &Path) -> Result<()> {
    let pages = public().bin_name("qboot").disable_help_subcommand(true);
    manual::write(pages, dir)
}

/// Prints `json` or `text`.
fn show(is_json: bool, json: &Json, text: String) -> Result<()> {
    put(if is_json { format!("{json}\n") } else { text })
}

fn doctor(json: bool) -> Result<ExitCode> {
    let findings = doctor::findings();
    show(json, &doctor::json(&findings), doctor::shown(&findings))?;
    let lacks = |finding: &doctor::Finding| finding.state.is_err() && !finding.optional;
    Ok(match findings.iter().any(lacks) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

fn inspect(rom: Option<PathBuf>, symbols: usize, json: bool) -> Result<ExitCode> {
    let rom = match rom {
        Some(rom) => rom,
        None => run::default_rom()?,
    };
    if let Some(found) = inspect::unified(&rom)? {
        show(json, &found.json(), found.text())?;
        return Ok(ExitCode::SUCCESS);
    }
    let elf = Some(rom.with_extension("elf")).filter(|elf| elf.is_file());
    let found = inspect::describe(&rom, elf.as_deref(), symbols)?;
    show(json, &found.json(), found.text())?;
    Ok(match found.identity {
        Some(_) => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    })
}

/// The kernel was extracted but cannot be booted by PVH.
const NO_PVH: u8 = 3;

fn extract(bzimage: &Path, vmlinux: &Path, initrd: Option<&Path>) -> Result<ExitCode> {
    let mut bytes = Vec::new();
    workspace::open_named(bzimage)
        .and_then(|mut file| Ok(file.read_to_end(&mut bytes)?))
        .with_context(|| format!("reading {}", bzimage.display()))?;
    let file = |path: &Path| path.canonicalize().ok();
    let outputs = [Some(vmlinux), initrd].into_iter().flatten();
    if outputs
        .filter_map(file)
        .any(|there| file(bzimage) == Some(there))
    {
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
    let unified = match extract::format(&bytes) {
        extract::Format::Unified => Pe::read(&bytes)?,
        _ => None,
    };
    let found = unified.as_ref().and_then(Pe::initrd);
    if let Some(path) = initrd {
        let found = found.as_ref();
        let found = found.with_context(|| format!("{} holds no initrd", bzimage.display()))?;
        workspace::write_named(path, found)?;
        put(format!("{}: {} bytes\n", path.display(), found.len()))?;
    }
    if let Some(pe) = &unified {
        put(format!("command line: {}\n", pe.command_line()))?;
        if found.is_some() && initrd.is_none() {
            put("it holds an initrd, too: --initrd FILE writes it\n")?;
        }
    }
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
