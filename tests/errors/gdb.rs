//! Faults that no input brings about, put in by gdb.

use std::process::{Command, Stdio};

use qboot::layout;
use qboot_tests::{for_gdb, symbols};

use super::*;

/// The first Rust function.
const MAIN: &str = "9rust_main17h";

/// Address of the function with this in its name.
fn address(function: &str) -> Result<u64> {
    let mut symbols = symbols()?.into_iter();
    let symbol = symbols.find(|(name, _)| name.contains(function));
    Ok(symbol.with_context(|| format!("no {function}"))?.1)
}

/// Lets the machine come to [`MAIN`], writes a word to memory there, and looks how it
/// ends.
fn ends_with(machine: Machine, addr: u64, word: u32, error: Error) -> Result<()> {
    let probe = Probe::new(Kind::BzImage)?;
    let socket = probe.path().with_file_name("gdb");
    let qemu = machine.qemu()?.kernel(probe.path()).debug_exit();
    let mut vm = for_gdb(qemu, &socket)?;
    let mut gdb = Command::new("gdb");
    gdb.args(["-q", "-nx", "-batch"]);
    for command in [
        format!("target remote {}", socket.display()),
        format!("hbreak *{:#x}", address(MAIN)?),
        "continue".to_owned(),
        "delete".to_owned(),
        format!("set {{unsigned int}}{addr:#x} = {word:#x}"),
        "detach".to_owned(),
    ] {
        gdb.args(["-ex", &command]);
    }
    let said = gdb.stdin(Stdio::null()).output().context("gdb")?;
    // QEMU may have ended before it has answered the last, of which gdb complains.
    let text = String::from_utf8_lossy(&said.stdout);
    ensure!(text.contains("Breakpoint 1, "), "{said:?}");
    let status = vm.wait_exit(PROBE_TIMEOUT)?;
    // An exception says where it was in a line before.
    let serial = vm.serial();
    let (_, line) = error_line(serial.lines().last().unwrap_or_default(), status.code())?;
    let expected = format!("qboot: error {:02x}: {}", error.code(), error.message());
    ensure!(line == expected, "expected {expected:?}\n{}", vm.report());
    Ok(())
}

/// The guard at the stack's end is written over.
#[apply(each_machine)]
fn a_stack_that_ran_over(machine: Machine) -> Result<()> {
    let guard = layout::STACK.start().into();
    ends_with(machine, guard, 0, Error::StackOverflow)
}

/// An undefined instruction where the firmware runs.
#[apply(each_machine)]
fn an_exception_of_the_firmware(machine: Machine) -> Result<()> {
    ends_with(machine, address(MAIN)?, 0x0b0f, Error::Exception)
}
