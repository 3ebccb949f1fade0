//! The program `qboot`; the work is in the library.

use std::process::ExitCode;

use qboot_cli::{commands, perform};

fn main() -> ExitCode {
    commands::main(commands::program(), perform::perform)
}
