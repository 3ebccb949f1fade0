//! Faults that no input brings about, put in over QEMU's debugging stub.
//!
//! Protocol: GDB manual, appendix E, "GDB Remote Serial Protocol".

use super::*;
use object::{Object, ObjectSymbol};
use qboot::layout;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use xtask::build;

/// A connection to the stub of a machine that stands at its reset vector.
struct Gdb(UnixStream);

impl Gdb {
    fn connect(path: &std::path::Path) -> Result<Self> {
        let mut patience = Patience::new(TIMEOUT);
        loop {
            match UnixStream::connect(path) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(TIMEOUT))?;
                    return Ok(Self(stream));
                }
                Err(error) if !patience.pause() => return Err(error.into()),
                Err(_) => {}
            }
        }
    }

    /// Sends a packet, and gives the answer's content.
    fn ask(&mut self, packet: &str) -> Result<String> {
        let sum = packet.bytes().fold(0, u8::wrapping_add);
        write!(self.0, "${packet}#{sum:02x}")?;
        let mut byte = || -> Result<u8> {
            let mut byte = [0];
            self.0.read_exact(&mut byte)?;
            Ok(byte[0])
        };
        while byte()? != b'$' {}
        let mut answer = Vec::new();
        loop {
            match byte()? {
                b'#' => break,
                other => answer.push(other),
            }
        }
        // Two digits of a sum.
        byte()?;
        byte()?;
        // Behind the last answer QEMU may have ended already.
        let _ = self.0.write_all(b"+");
        Ok(String::from_utf8(answer)?)
    }

    fn command(&mut self, packet: &str) -> Result<()> {
        let answer = self.ask(packet)?;
        ensure!(answer == "OK", "{packet}: {answer}");
        Ok(())
    }
}

/// The first Rust function, in the F segment.
const MAIN: &str = "9rust_main17h";
/// What it calls, below 4 GiB.
const RUN: &str = "5qboot3run17h";

/// Address of the function with this in its name.
fn address(function: &str) -> Result<u64> {
    let elf = std::fs::read(build::rom(&[])?.elf)?;
    let file = object::File::parse(elf.as_slice())?;
    let symbol = file
        .symbols()
        .find(|symbol| symbol.name().is_ok_and(|name| name.contains(function)));
    let symbol = symbol.with_context(|| format!("no {function}"))?;
    Ok(symbol.address())
}

/// Lets the machine come to [`MAIN`], changes memory there, and looks how
/// it ends.
fn ends_with(name: &str, addr: u64, bytes: &str, error: Error) -> Result<()> {
    let probe = Probe::new(Kind::BzImage)?;
    let socket = probe.file("gdb", b"")?;
    std::fs::remove_file(&socket)?;
    let qemu = machine(name)?.kernel(probe.path()).args([
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=1",
        "-S",
        "-gdb",
        &format!("unix:{},server=on,wait=off", socket.display()),
    ]);
    let mut vm = qemu.spawn()?;
    let mut gdb = Gdb::connect(&socket)?;
    let main = address(MAIN)?;
    gdb.command(&format!("Z0,{main:x},1"))?;
    let stop = gdb.ask("c")?;
    ensure!(stop.starts_with("T05"), "stopped with {stop}");
    gdb.command(&format!("z0,{main:x},1"))?;
    gdb.command(&format!("M{addr:x},{:x}:{bytes}", bytes.len() / 2))?;
    gdb.command("D")?;
    let status = vm.wait_exit(TIMEOUT)?;
    let serial = vm.serial();
    let line = format!("qboot: error {:02x}: {}", error.code(), error.message());
    ensure!(
        serial.lines().any(|found| found == line),
        "expected {line:?}\n{}",
        vm.report()
    );
    ensure!(
        status.code() == Some((i32::from(error.code()) << 1 | 1) & 0xff),
        "QEMU ended with {status}"
    );
    Ok(())
}

/// The guard at the stack's end is written over.
#[rstest]
fn a_stack_that_ran_over(#[values("pc", "q35", "microvm")] name: &str) -> Result<()> {
    let guard = layout::STACK.start().into();
    ends_with(name, guard, "00000000", Error::StackOverflow)
}

/// An instruction that is none, in either place where the firmware runs.
#[rstest]
fn an_exception_of_the_firmware(
    #[values("pc", "q35", "microvm")] name: &str,
    #[values(MAIN, RUN)] function: &str,
) -> Result<()> {
    let at = address(function)?;
    let high = at >> 16 == 0xffff;
    ensure!(high == (function == RUN), "{function} at {at:#x}");
    ends_with(name, at, "0f0b", Error::Exception)
}
