//! Programs run to their end, whose failure is an error that says what they said.

use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};

/// Runs a program.
///
/// # Errors
/// It cannot be started, or fails: with what it wrote to standard error.
pub fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// What a program prints.
///
/// # Errors
/// As [`run`]; or that is not text, or more than 16 MiB.
pub fn said(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    let program = command.get_program().to_string_lossy();
    ensure!(output.stdout.len() < 1 << 24, "{program} says too much");
    Ok(String::from_utf8(output.stdout)?)
}

fn output(command: &mut Command) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("starting {program}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{program} failed ({})\n{}",
            output.status,
            stderr.trim_end()
        );
    }
    Ok(output)
}
