//! Command line of the developer's program; the work is in the library. The user's
//! program compiles and starts it, and lists its commands beside its own.

mod examples;

use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use examples::EXAMPLES;
use qboot_cli::commands::{self, DEVELOPER};
use xtask::{bench, boots, capture, figures, matrix, measure, release, timeline};

fn main() -> ExitCode {
    commands::main(program(), perform)
}

fn program() -> Command {
    let tasks = DEVELOPER.map(|(name, about)| {
        let task = Command::new(name);
        let task = match EXAMPLES.iter().find(|(of, _)| *of == name) {
            Some((_, examples)) => task.after_help(*examples),
            None => task,
        };
        let task = match name {
            "measure" => measure::Options::augment_args(task),
            "bench" => bench::Options::augment_args(task),
            "boots" => boots::Options::augment_args(task),
            "timeline" => timeline::Options::augment_args(task),
            "matrix" => matrix::Options::augment_args(task),
            "capture" => capture::Options::augment_args(task),
            "release" => release::Options::augment_args(task),
            _ => task,
        };
        // Replaces the comment on the options.
        task.about(about).long_about(None)
    });
    Command::new("xtask")
        .max_term_width(100)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(tasks)
}

fn perform(name: &str, found: &ArgMatches) -> Result<ExitCode> {
    fn options<T: FromArgMatches>(found: &ArgMatches) -> T {
        T::from_arg_matches(found).unwrap_or_else(|error| error.exit())
    }
    match name {
        "measure" => measure::run(&options(found))?,
        "bench" => bench::run(&options(found))?,
        "boots" => boots::run(&options(found))?,
        "timeline" => timeline::run(&options(found))?,
        "figures" => figures::publish()?,
        "matrix" => matrix::run(&options(found))?,
        "capture" => capture::run(&options(found))?,
        _ => release::run(&options(found))?,
    }
    Ok(ExitCode::SUCCESS)
}
