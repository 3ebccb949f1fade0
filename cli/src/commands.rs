//! The command line: its commands, their options, and help.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::builder::EnumValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::examples::*;
use crate::kernel::Flavour;
use crate::output::is_broken_pipe;
use crate::{manual, run, workspace};

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
    let program_name = workspace::program_name();
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

/// The completions of an installed program for `shell`.
pub fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut public(), "qboot", &mut text);
    if shell == clap_complete::Shell::Fish {
        text.extend(fish_values().into_bytes());
    }
    text
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
