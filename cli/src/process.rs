//! Runs programs to their end. An error has their output.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// Whether there is a program of this name. It has to know `--version`.
pub fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

/// A word of a command line, quoted for a shell where that is needed.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_=.,:/+%@".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Runs a program.
///
/// # Errors
/// It cannot be started, or fails; the error has its standard error.
pub fn run(command: &mut Command) -> Result<()> {
    output(command, whole).map(drop)
}

/// As [`run`], for a program that may print a line for each of many files.
///
/// # Errors
/// As [`run`], with the first and the last lines.
pub fn run_gist(command: &mut Command) -> Result<()> {
    output(command, gist).map(drop)
}

/// As [`run`], for a program that may take long: lines of its standard error that
/// `told` chooses are printed at once.
///
/// # Errors
/// As [`run`].
pub fn run_telling(command: &mut Command, told: fn(&str) -> bool) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    let stderr = child.stderr.take().context("no standard error")?;
    let mut said = String::new();
    for line in BufReader::new(stderr).lines() {
        let line = line?;
        if told(&line) {
            eprintln!("{line}");
        }
        said.push_str(&line);
        said.push('\n');
    }
    let status = child.wait()?;
    ensure!(
        status.success(),
        "{program} failed ({status})\n{}",
        whole(&said)
    );
    Ok(())
}

/// What a program prints.
///
/// # Errors
/// As [`run`]; or the output is not text, or more than 16 MiB.
pub fn stdout_of(command: &mut Command) -> Result<String> {
    let output = output(command, whole)?;
    let program = command.get_program().to_string_lossy();
    ensure!(output.stdout.len() < 1 << 24, "{program} says too much");
    Ok(String::from_utf8(output.stdout)?)
}

/// The first and last lines: on a full disk tar prints one for every file.
fn gist(stderr: &str) -> String {
    const HEAD: usize = 3;
    const TAIL: usize = 3;
    let lines: Vec<&str> = stderr.trim_end().lines().collect();
    let Some(left_out) = lines.len().checked_sub(HEAD + TAIL).filter(|n| *n > 0) else {
        return whole(stderr);
    };
    let (head, tail) = (&lines[..HEAD], &lines[lines.len() - TAIL..]);
    let middle = format!("... {left_out} lines ...");
    [head.join("\n"), middle, tail.join("\n")].join("\n")
}

fn whole(stderr: &str) -> String {
    stderr.trim_end().to_owned()
}

fn output(command: &mut Command, shown: fn(&str) -> String) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("starting {program}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{program} failed ({})\n{}", output.status, shown(&stderr));
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_said_is_cut_in_the_middle() {
        assert_eq!(gist("one\ntwo\n"), "one\ntwo");
        let many: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let cut = gist(&many.join("\n"));
        assert!(cut.starts_with("0\n1\n2\n...") && cut.ends_with("...\n97\n98\n99"));
        assert!(cut.contains("... 94 lines ..."), "{cut}");
    }
}
