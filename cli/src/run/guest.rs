//! The running guest: its console, its end, and whether the boot succeeded.

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use super::{Options, Plan};
use crate::deadline::Deadline;
use crate::process::is_installed;
use crate::{initramfs, workspace};

/// Begins the line that the firmware prints when it gives up.
const FIRMWARE_ERROR: &str = "qboot: error ";
/// Lines of a guest that did not print why it ended.
const FEW: usize = 3;
/// Options for more output.
const LISTEN: &str = "to see more: --log steps, of the kernel --append 'loglevel=7 earlyprintk=serial', \
     of a fault before its output -- -d int,cpu_reset -D qemu.log";
/// The time between two polls of QEMU.
const POLL: Duration = Duration::from_millis(20);

/// Whether the console's output shows that a first process ran.
///
/// The standard `/init` prints a line. For any other the kernel prints that it starts
/// it, unless `quiet` hides that. It always prints that a process asked to power off or
/// restart; a panic restarts without these words.
fn shows_user_space(output: &str) -> bool {
    const ASKED_FOR: [&str; 3] = [
        "reboot: Power down",
        "reboot: Restarting system",
        "reboot: System halted",
    ];
    output.lines().any(|line| {
        line.contains(initramfs::MARKER)
            || (line.contains("Run /") && line.trim_end().ends_with(" as init process"))
            || ASKED_FOR.iter().any(|words| line.contains(words))
    })
}

pub(super) fn shell(plan: &Plan, options: &Options) -> Result<bool> {
    let log = serial_log();
    workspace::write_atomically(&log, b"")?;
    eprintln!("to leave: exit (or Ctrl-D) in the guest's shell; Ctrl-A X ends QEMU at once");
    let mut child = spawn(plan, Stdio::inherit(), Stdio::inherit())?;
    let stop = stop_on_signal()?;
    // At a terminal there is no limit.
    let timeout = Duration::from_secs(options.timeout);
    let timeout = Some(timeout).filter(|_| !io::stdin().is_terminal());
    let ended = wait(&mut child, timeout, &stop)?;
    let output = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    Ok(has_succeeded(&ended, &output, options))
}

pub(super) fn report(plan: &Plan, options: &Options) -> Result<bool> {
    let mut child = spawn(plan, Stdio::null(), Stdio::piped())?;
    let stop = stop_on_signal()?;
    let stdout = child.stdout.take().context("QEMU has no output")?;
    let reader = thread::spawn(move || forward(stdout));
    let timeout = Duration::from_secs(options.timeout);
    let ended = wait(&mut child, Some(timeout), &stop)?;
    let output = reader
        .join()
        .map_err(|_| anyhow::anyhow!("the console's reader died"))?;
    Ok(has_succeeded(&ended, &output, options))
}

/// Looks for QEMU before anything is built.
pub(super) fn find(program: &Path) -> Result<()> {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .with_context(|| missing(program))?;
    Ok(())
}

/// How to install QEMU here.
pub fn qemu_package() -> &'static str {
    if workspace::source().is_some() {
        "scripts/setup.sh"
    } else if is_installed("apt-get") {
        "sudo apt-get install --no-install-recommends qemu-system-x86"
    } else {
        "your system's package qemu-system-x86 (Debian, Fedora and Arch call it so)"
    }
}

fn missing(program: &Path) -> String {
    format!(
        "starting {}: get QEMU with {}, or name another with --qemu",
        program.display(),
        qemu_package()
    )
}

fn spawn(plan: &Plan, stdin: Stdio, stdout: Stdio) -> Result<Child> {
    Command::new(&plan.program)
        .args(&plan.arguments)
        .stdin(stdin)
        .stdout(stdout)
        .spawn()
        .with_context(|| missing(&plan.program))
}

/// Copies the console to standard output as it comes, and keeps it.
fn forward(mut console: impl Read) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    let mut stdout = io::stdout();
    while let Ok(count) = console.read(&mut buffer) {
        if count == 0 {
            break;
        }
        let text: Vec<u8> = buffer[..count]
            .iter()
            .copied()
            .filter(|byte| *byte != b'\r')
            .collect();
        // The reader may be gone; the boot goes on.
        let _ = stdout.write_all(&text).and_then(|()| stdout.flush());
        kept.extend_from_slice(&text);
    }
    if kept.last().is_some_and(|last| *last != b'\n') {
        // The guest's last line may lack its end.
        let _ = stdout.write_all(b"\n");
    }
    String::from_utf8_lossy(&kept).into_owned()
}

enum Ended {
    Itself(std::process::ExitStatus),
    TimedOut,
    Stopped,
}

fn stop_on_signal() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        flag::register(signal, Arc::clone(&stop)).context("watching for signals")?;
    }
    Ok(stop)
}

fn wait(child: &mut Child, timeout: Option<Duration>, stop: &AtomicBool) -> Result<Ended> {
    let mut deadline = Deadline::new(timeout.unwrap_or(Duration::MAX)).every(POLL);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Ended::Itself(status));
        }
        if stop.load(Ordering::Relaxed) {
            terminate(child)?;
            return Ok(Ended::Stopped);
        }
        if !deadline.pause() {
            terminate(child)?;
            return Ok(Ended::TimedOut);
        }
    }
}

/// Asks QEMU to end, which restores the terminal, and kills it after two seconds.
fn terminate(child: &mut Child) -> Result<()> {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::TERM);
    }
    let mut deadline = Deadline::new(Duration::from_secs(2)).every(POLL);
    while deadline.pause() {
        if child.try_wait()?.is_some() {
            return Ok(());
        }
    }
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// Whether user space was reached and QEMU ended by itself without an error; says why not.
fn has_succeeded(ended: &Ended, output: &str, options: &Options) -> bool {
    let reached = shows_user_space(output);
    let how = match ended {
        Ended::Itself(status) if status.success() && reached => return true,
        Ended::Itself(_) if output.lines().any(|line| line.contains(FIRMWARE_ERROR)) => {
            "the firmware gave up, see its message above".to_owned()
        }
        // A reset ends QEMU under -no-reboot.
        Ended::Itself(status) if status.success() => {
            "the guest restarted, on purpose or by a fault, or powered off".to_owned()
        }
        Ended::Itself(status) => format!("QEMU ended with {status}"),
        Ended::TimedOut => format!("QEMU was ended after {} s", options.timeout),
        Ended::Stopped => "QEMU was ended by a signal".to_owned(),
    };
    if reached {
        eprintln!("user space was reached, but {how}");
        return false;
    }
    eprintln!("user space was not reached: {how}");
    let silent = match ended {
        Ended::Itself(status) => status.success(),
        Ended::TimedOut => true,
        Ended::Stopped => false,
    };
    if silent && output.lines().count() < FEW {
        eprintln!("{LISTEN}");
    }
    false
}

pub(super) fn serial_log() -> PathBuf {
    workspace::target().join("run").join("serial.log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_space_is_told_by_our_init_or_by_the_kernel() {
        let marker = format!("{} kernel=6.1 cpus=1", initramfs::MARKER);
        assert!(shows_user_space(&format!("one\n{marker}\nthree")));
        assert!(shows_user_space(
            "[    0.6] Run /sbin/init as init process\r\n"
        ));
        assert!(shows_user_space("[    1.9] reboot: Power down"));
        assert!(!shows_user_space(
            "[    0.6] Kernel panic - not syncing: No working init found."
        ));
        assert!(!shows_user_space(""));
    }
}
