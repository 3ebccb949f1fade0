//! `qboot run` as a person or a script starts it: real kernel, real QEMU, our ROM.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use expectrl::{Eof, Expect, Regex, Session};

fn qboot(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qboot"));
    command.args(arguments);
    command
}

/// Starts `qboot run` with neither end on a terminal.
fn run(arguments: &[&str]) -> (Output, String) {
    let output = qboot(&["run"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("qboot starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output, text)
}

#[test]
fn without_a_terminal_the_guest_reports_and_powers_off() {
    for machine in ["pc", "q35", "microvm"] {
        for kernel in [&[][..], &["--bzimage"]] {
            let (output, text) = run(&[&["--machine", machine], kernel].concat());
            let case = format!("{machine} {kernel:?}:\n{text}");
            assert!(output.status.success(), "{case}");
            for line in [
                "kernel: ",
                "command line: console=ttyS0",
                "CPUs: ",
                "memory: ",
                "ACPI tables:  APIC DSDT FACP",
                "DMI product: ",
                "PCI devices:",
                "qboot: user space reached: kernel=",
                "accelerator: ",
            ] {
                assert!(text.contains(line), "no {line:?} in {case}");
            }
        }
    }
}

#[test]
fn options_reach_the_guest_and_qemu() {
    let (output, text) = run(&[
        "--cpus=2",
        "--memory=256M",
        "--append=one=1 two=2",
        "--log=steps",
        "--",
        "-device",
        "virtio-rng-pci",
    ]);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("one=1 two=2\n"), "{text}");
    assert!(text.contains(" cpus=2 memory_kib=2"), "{text}");
    assert!(text.contains("1af4:1005"), "{text}");
    assert!(text.contains(" machine: Q35, "), "{text}");
}

#[test]
fn a_fast_boot_leaves_out_what_its_help_says() {
    for machine in ["pc", "q35,hpet=on", "microvm"] {
        let (output, text) = run(&["--fast", "--machine", machine]);
        assert!(output.status.success(), "{machine}:\n{text}");
        assert!(text.contains(" quiet"), "{text}");
        assert!(text.contains(" pci=noearly "), "{text}");
        assert!(!text.contains(" class 010601"), "{text}");
        assert!(!text.contains(" class 0c0500"), "{text}");
    }
    let dry = |arguments: &[&str]| run(&[&["--dry-run"], arguments].concat()).1;
    let line = dry(&["--fast", "--machine=q35,hpet=on"]);
    assert!(
        line.contains(" -machine q35,hpet=on,i8042=off,sata=off,smbus=off "),
        "{line}"
    );
    let line = dry(&["--fast", "--accel=kvm", "--machine=pc-i440fx-7.2"]);
    assert!(line.contains(" -cpu host,+invtsc "), "{line}");
    assert!(line.contains(" -machine pc-i440fx-7.2,hpet=off,"), "{line}");
    let line = dry(&["--accel=kvm"]);
    assert!(
        line.contains(" -machine q35 ") && line.contains(" -cpu host "),
        "{line}"
    );
    // Safe everywhere, so without being asked for.
    let line = dry(&["--machine=microvm"]);
    assert!(line.contains(" -machine microvm,rtc=on "), "{line}");
    let line = dry(&["--machine=microvm,rtc=off"]);
    assert!(line.contains(" -machine microvm,rtc=off "), "{line}");
}

#[test]
fn a_boot_that_fails_is_told_and_has_a_status() {
    // The firmware gives up.
    let (output, text) = run(&["--memory=32M"]);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("qboot: error "), "{text}");
    assert!(text.contains("user space was not reached"), "{text}");
    // The kernel starts but finds no first process.
    let (output, text) = run(&["--append=rdinit=/nothing"]);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("Kernel panic"), "{text}");
    assert!(text.contains("user space was not reached"), "{text}");
    // User space neither reports nor ends.
    let (output, text) = run(&["--timeout=20", "--append=qboot.run=/bin/cat"]);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("was ended after 20 s"), "{text}");
}

#[test]
fn on_a_terminal_the_guest_gives_a_shell() {
    let mut session = Session::spawn(qboot(&["run", "--machine=q35"])).expect("qboot starts");
    session.set_expect_timeout(Some(Duration::from_secs(120)));
    session.expect("to leave:").expect("how to leave is said");
    session.expect("guest# ").expect("a prompt");
    session.send_line("echo $((6 * 7)) on $(tty)").unwrap();
    session.expect("42 on /dev/ttyS0").expect("an answer");
    session.expect("guest# ").expect("a prompt");
    // Ctrl-C is the guest's. Sent before the program runs it would be lost, so it is
    // sent until it works.
    session.send_line("echo started; sleep 1000").unwrap();
    session
        .expect(Regex("started\r+\n"))
        .expect("the command runs");
    session.set_expect_timeout(Some(Duration::from_secs(3)));
    let interrupted = (0..20).any(|_| {
        session.send("\x03").unwrap();
        session.expect("guest# ").is_ok()
    });
    assert!(interrupted, "Ctrl-C does not reach the guest");
    session.set_expect_timeout(Some(Duration::from_secs(120)));
    session.send_line("reboot -f").unwrap();
    session.expect("guest# ").expect("a prompt after a restart");
    session.send_line("exit").unwrap();
    session.expect(Eof).expect("QEMU ends");
    let status = session.get_process_mut().wait().expect("a status");
    assert!(
        matches!(status, expectrl::process::unix::WaitStatus::Exited(_, 0)),
        "{status:?}"
    );
}

#[test]
fn a_dry_run_prints_what_a_shell_takes_as_it_is() {
    let words = [
        "a b", "", "*", "$(id)", "$HOME", "`id`", "a;b", "a&b", "it's", "(me)", "#", "<", "~", "\\",
    ];
    let kernel = env!("CARGO_BIN_EXE_qboot");
    let mut dry = qboot(&["run", "--dry-run", "--qemu=echo", "--accel=tcg"]);
    let dry = dry.args(["--kernel", kernel, "--initrd", kernel, "--"]);
    let output = dry.args(words).output().expect("qboot starts");
    let line = String::from_utf8(output.stdout).expect("text");
    // QEMU loads an ELF again to wake it.
    assert!(line.contains(".disable_s3=1"), "{line}");
    let script = format!("echo() {{ printf '%s\\n' \"$@\"; }}\n{line}");
    let shell = Command::new("sh").args(["-c", &script]).output();
    let taken = String::from_utf8(shell.expect("a shell").stdout).expect("text");
    assert!(
        taken.ends_with(&format!("\n{}\n", words.join("\n"))),
        "{line}{taken}"
    );
}
