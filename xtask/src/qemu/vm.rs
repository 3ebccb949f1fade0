//! A running QEMU: its output, and its QMP.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use qapi::{Qmp, Stream, qmp};
use tempfile::TempDir;

use super::debugcon_path;
use crate::deadline::{self, Deadline};
use crate::process::quoted;

type QmpStream = Stream<BufReader<TimedStream>, UnixStream>;

/// A running QEMU and the files that it writes. Dropping it kills QEMU.
pub struct Vm {
    pub(super) child: Child,
    pub(super) dir: TempDir,
    pub(super) qmp: Option<Qmp<QmpStream>>,
    pub(super) program: OsString,
    pub(super) args: Vec<OsString>,
}

/// The longest time for QEMU to answer or to end, on a busy host.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Longest that one read from QMP waits before it counts against [`TIMEOUT`].
const READ: Duration = deadline::COUNTED;

/// What QEMU sends, waited for with [`Deadline`].
pub(super) struct TimedStream(UnixStream);

impl Read for TimedStream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut deadline = Deadline::new(TIMEOUT);
        loop {
            match self.0.read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && deadline.pause() => {}
                result => return result,
            }
        }
    }
}

impl Vm {
    pub(super) fn connect(&mut self) -> Result<()> {
        let socket = self.dir.path().join("qmp");
        let mut deadline = Deadline::new(TIMEOUT);
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) => {
                    if let Some(status) = self.child.try_wait()? {
                        bail!("QEMU ended with {status} at start\n{}", self.report());
                    }
                    if !deadline.pause() {
                        bail!("no QMP socket: {error}\n{}", self.report());
                    }
                }
            }
        };
        stream.set_read_timeout(Some(READ))?;
        let reader = BufReader::new(TimedStream(stream.try_clone()?));
        let mut qmp = Qmp::new(Stream::new(reader, stream));
        qmp.handshake()
            .with_context(|| format!("QMP handshake\n{}", self.report()))?;
        self.qmp = Some(qmp);
        Ok(())
    }

    fn execute<C: qmp::QmpCommand>(&mut self, command: &C) -> Result<C::Ok> {
        let qmp = self.qmp.as_mut().context("QEMU was started without QMP")?;
        qmp.execute(command)
            .with_context(|| format!("QMP {}\n{}", C::NAME, self.report()))
    }

    /// Process id of QEMU.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The directory of QEMU's files, gone with the machine.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What the guest wrote to its first serial port.
    #[must_use]
    pub fn serial(&self) -> String {
        self.text("serial")
    }

    /// QEMU's standard error.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.text("stderr")
    }

    fn text(&self, name: &str) -> String {
        let bytes = fs::read(self.dir.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What the guest wrote to the debug console at this port.
    #[must_use]
    pub fn debugcon(&self, iobase: u16) -> Vec<u8> {
        fs::read(debugcon_path(self.dir.path(), iobase)).unwrap_or_default()
    }

    /// The file of trace events.
    #[must_use]
    pub fn trace_path(&self) -> PathBuf {
        self.dir.path().join("trace")
    }

    /// The command line that started this machine.
    #[must_use]
    pub fn command_line(&self) -> String {
        let mut line = self.program.to_string_lossy().into_owned();
        for arg in &self.args {
            line.push(' ');
            line.push_str(&quoted(&arg.to_string_lossy()));
        }
        line
    }

    /// The command line, and the end of QEMU's and the guest's output: the body of
    /// every error.
    #[must_use]
    pub fn report(&self) -> String {
        // A long command line would hide what follows.
        let mut line = self.command_line();
        if let Some((at, _)) = line.char_indices().nth(2000) {
            line.truncate(at);
            line.push_str(" ...");
        }
        let mut text = format!("  command: {line}");
        for (name, content) in [("QEMU", self.stderr()), ("serial", self.serial())] {
            let lines: Vec<&str> = content.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(25)..).unwrap_or(&[]);
            text.push_str(&format!("\n  {name}, last of {} lines:", lines.len()));
            for line in tail {
                text.push_str("\n    ");
                text.push_str(line.trim_end());
            }
        }
        text
    }

    /// Whether QEMU has ended.
    ///
    /// # Errors
    /// The process cannot be waited for.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for QEMU to end.
    ///
    /// # Errors
    /// It does not within `timeout`; the error has [`Vm::report`].
    pub fn wait_exit(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let mut deadline = Deadline::new(timeout);
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if !deadline.pause() {
                bail!("QEMU still runs after {timeout:?}\n{}", self.report());
            }
        }
    }

    /// Waits until `done` holds.
    ///
    /// # Errors
    /// QEMU ends first, or `timeout` passes; the error names `what` and has
    /// [`Vm::report`].
    pub fn wait_for(
        &mut self,
        what: &str,
        timeout: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<()> {
        let mut deadline = Deadline::new(timeout);
        loop {
            // The state of the process is read first, so that what it wrote
            // before its end is still seen.
            let ended = self.child.try_wait()?;
            if done(self) {
                return Ok(());
            }
            if let Some(status) = ended {
                bail!("QEMU ended with {status} before {what}\n{}", self.report());
            }
            if !deadline.pause() {
                bail!("no {what} within {timeout:?}\n{}", self.report());
            }
        }
    }

    /// Waits until the serial output contains `marker`.
    ///
    /// # Errors
    /// See [`Vm::wait_for`].
    pub fn wait_serial(&mut self, marker: &str, timeout: Duration) -> Result<()> {
        self.wait_for(&format!("{marker:?} on the serial port"), timeout, |vm| {
            vm.serial().contains(marker)
        })
    }

    /// Waits until the debug console at `iobase` has given `len` bytes.
    ///
    /// # Errors
    /// See [`Vm::wait_for`].
    pub fn wait_debugcon(&mut self, iobase: u16, len: usize, timeout: Duration) -> Result<Vec<u8>> {
        let what = format!("{len} bytes on the debug console at {iobase:#x}");
        self.wait_for(&what, timeout, |vm| vm.debugcon(iobase).len() >= len)?;
        Ok(self.debugcon(iobase))
    }

    /// Guest-physical memory, read over QMP.
    ///
    /// # Errors
    /// QEMU was started without QMP, or it refuses.
    pub fn memory(&mut self, addr: u64, len: usize) -> Result<Vec<u8>> {
        let path = self.dir.path().join("memory");
        self.execute(&qmp::pmemsave {
            val: addr,
            size: u64::try_from(len)?,
            filename: path.display().to_string(),
        })
        .with_context(|| format!("pmemsave of {len} bytes at {addr:#x}"))?;
        let bytes = fs::read(&path)?;
        if bytes.len() != len {
            bail!("pmemsave gave {} of {len} bytes at {addr:#x}", bytes.len());
        }
        Ok(bytes)
    }

    /// Presses the reset button.
    ///
    /// # Errors
    /// QEMU was started without QMP, or it refuses.
    pub fn reset(&mut self) -> Result<()> {
        self.execute(&qmp::system_reset {})?;
        Ok(())
    }

    /// Whether the machine runs, has shut down or panicked, in QEMU's words
    /// (`running`, `shutdown`, `guest-panicked`, …).
    ///
    /// # Errors
    /// QEMU was started without QMP, or it refuses.
    pub fn state(&mut self) -> Result<String> {
        Ok(format!("{:?}", self.execute(&qmp::query_status {})?.status))
    }

    /// One command of QEMU's human monitor, for what QMP has no command for.
    ///
    /// # Errors
    /// QEMU was started without QMP, or it refuses.
    pub fn monitor(&mut self, command: &str) -> Result<String> {
        self.execute(&qmp::human_monitor_command {
            command_line: command.to_owned(),
            cpu_index: None,
        })
    }

    /// Ends QEMU.
    ///
    /// # Errors
    /// It does not end.
    pub fn quit(mut self) -> Result<()> {
        if self.qmp.is_some() {
            // QEMU may close the socket before its answer is read.
            let _ = self.execute(&qmp::quit {});
            self.wait_exit(TIMEOUT)?;
        }
        Ok(())
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Both fail only if the process has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
