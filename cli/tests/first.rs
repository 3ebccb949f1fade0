//! What the scripts say in a checkout where nothing is compiled yet.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use qboot_cli::commands::{DEVELOPER, program};
use qboot_cli::deadline::Deadline;
use qboot_cli::workspace;
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

/// The longest wait for a line.
const LIMIT: Duration = Duration::from_secs(2);

/// The source tree without its build products.
fn checkout() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for entry in fs::read_dir(workspace::root()).expect("a source tree") {
        let entry = entry.expect("an entry");
        let name = entry.file_name();
        if name != "target" && name != ".git" && name != "scripts" {
            symlink(entry.path(), dir.path().join(name)).expect("a link");
        }
    }
    // A script looks for its checkout around itself.
    let scripts = dir.path().join("scripts");
    fs::create_dir(&scripts).expect("a directory");
    for entry in fs::read_dir(workspace::root().join("scripts")).expect("scripts") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), scripts.join(entry.file_name())).expect("a copy");
    }
    dir
}

/// The script `line` in `checkout`, with its arguments.
fn script(checkout: &TempDir, line: &str) -> Command {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().expect("a script"));
    command.args(words).current_dir(checkout.path());
    for name in ["CARGO_TARGET_DIR", "CARGO_MANIFEST_DIR", "QBOOT_SCRIPT"] {
        command.env_remove(name);
    }
    command
}

/// The first line of its standard error that `wanted` is part of, in time. Then the
/// script is ended.
fn first(command: &mut Command, wanted: &'static str) -> Option<String> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null());
    let command = command.stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().expect("bash");
    let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    let (sender, said) = mpsc::channel();
    thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let mut deadline = Deadline::new(LIMIT);
    let mut found = None;
    while found.is_none() && deadline.pause() {
        found = said.try_iter().find(|line| line.contains(wanted));
    }
    let group = Pid::from_raw(i32::try_from(child.id()).expect("a number"));
    let _ = kill_process_group(group.expect("a process"), Signal::KILL);
    child.wait().expect("its end");
    found
}

#[test]
fn wrong_usage_is_told_before_anything_is_compiled() {
    let checkout = checkout();
    for (line, wanted) in [
        ("scripts/run.sh --nonsense", "'--nonsense'"),
        ("scripts/run.sh --log steps --appendd x", "'--appendd'"),
        ("scripts/run.sh -mm -zz", "'-zz'"),
        ("scripts/run.sh --log nonsense", "'nonsense'"),
        ("scripts/run.sh --log=steps --mode=nonsense", "'nonsense'"),
        ("scripts/xtask.sh nonsense", "'nonsense'"),
        ("scripts/build.sh --feature=markers", "'--feature=markers'"),
    ] {
        let output = script(&checkout, line).output().expect("bash");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{line}: {said}");
        assert!(said.contains(wanted), "{line}: {said}");
        let help = line.split(' ').next().expect("a script");
        assert!(said.contains(&format!("{help} --help")), "{line}: {said}");
    }
    assert!(!checkout.path().join("target").exists());
}

#[test]
fn the_script_knows_what_the_program_takes() {
    let text = fs::read_to_string(workspace::root().join("scripts/xtask.sh")).expect("a script");
    let list = |name: &str| -> BTreeSet<String> {
        let (_, rest) = text.split_once(&format!("\n{name}=(")).expect("a list");
        let (list, _) = rest.split_once(')').expect("its end");
        list.split_whitespace().map(str::to_owned).collect()
    };
    let developer: BTreeSet<String> = DEVELOPER.map(|(name, _)| name.to_owned()).into();
    assert_eq!(list("developer"), developer);
    let program = program();
    let own = program.get_subcommands();
    let own: Vec<_> = own
        .filter(|command| !developer.contains(command.get_name()))
        .collect();
    let names = own.iter().map(|command| command.get_name().to_owned());
    assert_eq!(list("commands"), names.collect());
    let arguments = own.iter().flat_map(|command| command.get_arguments());
    let options = arguments.flat_map(|argument| {
        let long = argument.get_long().map(|name| format!("--{name}"));
        let short = argument.get_short().map(|name| format!("-{name}"));
        [long, short].into_iter().flatten()
    });
    assert_eq!(list("options"), options.collect());
    let arguments = own.iter().flat_map(|command| command.get_arguments());
    for (name, known) in arguments.filter_map(|argument| {
        let known = argument.get_possible_values();
        let takes_one = argument.get_action().takes_values() && !known.is_empty();
        Some((argument.get_long().filter(|_| takes_one)?, known))
    }) {
        let known: Vec<_> = known.iter().map(|value| value.get_name()).collect();
        let entry = format!("[--{name}]=\"{}\"", known.join(" "));
        assert!(text.contains(&entry), "no {entry}");
    }
}

#[test]
fn a_first_compilation_is_told_at_once() {
    let checkout = checkout();
    for (line, wanted) in [
        ("scripts/xtask.sh kernel", "compiling the program qboot"),
        ("scripts/xtask.sh kernel", "Compiling "),
        // Kernel parameters may look like options.
        ("scripts/xtask.sh run --append --log=x -a -n", "compiling"),
        ("scripts/xtask.sh run -a --log -m 1G", "compiling"),
    ] {
        let mut command = script(&checkout, line);
        assert!(first(&mut command, wanted).is_some(), "no {wanted:?}");
    }
}

#[test]
fn waiting_for_another_cargo_is_told_at_once() {
    let checkout = checkout();
    let debug = checkout.path().join("target/debug");
    fs::create_dir_all(&debug).expect("a directory");
    let held = File::create(debug.join(".cargo-lock")).expect("a file");
    held.lock().expect("a lock");
    // For a first compilation, and for a program that is there.
    for _ in 0..2 {
        let mut command = script(&checkout, "scripts/xtask.sh kernel");
        let line = first(&mut command, "waiting for file lock");
        assert!(line.is_some(), "not a word on the lock");
        fs::copy(env!("CARGO_BIN_EXE_qboot"), debug.join("qboot")).expect("a copy");
    }
}
