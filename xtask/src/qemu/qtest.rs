//! QEMU's test protocol: ports and memory of a machine whose processor stands still, a
//! command a line.

use std::io::{BufRead, BufReader, Read, Write};

use anyhow::{Context, Result, bail, ensure};

/// The two ends of a connection.
pub struct Qtest<R, W> {
    answers: BufReader<R>,
    commands: W,
}

impl<R: Read, W: Write> Qtest<R, W> {
    /// Talks to a QEMU that was started with `-qtest`.
    pub fn new(answers: R, commands: W) -> Self {
        Self {
            answers: BufReader::new(answers),
            commands,
        }
    }

    /// Sends a command; gives its answer without the leading `OK`.
    ///
    /// # Errors
    /// QEMU has ended, or does not know the command.
    pub fn command(&mut self, command: &str) -> Result<String> {
        writeln!(self.commands, "{command}").context("QEMU has ended")?;
        loop {
            let mut line = String::new();
            if self.answers.read_line(&mut line)? == 0 {
                bail!("QEMU has ended; see what it printed");
            }
            if let Some(answer) = line.strip_prefix("OK") {
                return Ok(answer.trim().to_owned());
            }
            ensure!(
                line.starts_with("IRQ"),
                "unexpected answer to {command}: {line}"
            );
        }
    }
}
