//! Every error of the firmware, provoked on a real QEMU: one line on the serial
//! port and the debug consoles, and the host is told.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qboot::error::Error;
use qboot_tests::{Kind, PROBE_TIMEOUT, Probe, noise, rom, skip};
use rstest::rstest;
use xtask::patience::Patience;
use xtask::probe::{BzImage, Elf, Mode, Segment, hdr};
use xtask::qemu::Qemu;

#[path = "errors/gdb.rs"]
mod gdb;
#[path = "errors/rest.rs"]
mod rest;

const TIMEOUT: Duration = PROBE_TIMEOUT;
/// Debug console of SeaBIOS and OVMF, where the message goes too.
const DEBUG_CONSOLE: u16 = 0x402;

/// Runs a machine that must end with this error; `extra` is what follows the message.
fn fails_with(qemu: &Qemu, error: Error, extra: &str) -> Result<()> {
    let qemu = qemu
        .clone()
        .debugcon(DEBUG_CONSOLE)
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1"]);
    let mut vm = qemu.spawn()?;
    let status = vm.wait_exit(TIMEOUT)?;
    let serial = vm.serial();
    let line = format!("qboot: error {:02x}: {}", error.code(), error.message());
    ensure!(
        serial.trim_end().starts_with(&line) && serial.contains(extra),
        "expected {line:?} and {extra:?}\n{}",
        vm.report()
    );
    ensure!(
        serial.lines().count() == 1,
        "more than one line: {serial:?}"
    );
    ensure!(
        vm.debugcon(DEBUG_CONSOLE) == serial.as_bytes(),
        "the debug console says something else"
    );
    // isa-debug-exit gives twice the value and one.
    let expected = i32::from(error.code()) << 1 | 1;
    ensure!(
        status.code() == Some(expected & 0xff),
        "QEMU ended with {status}, not {expected}"
    );
    Ok(())
}

fn machine(name: &str) -> Result<Qemu> {
    Ok(Qemu::new(name).bios(rom()?))
}

/// A machine with a `-kernel` of these bytes. The probe keeps the file.
fn with_kernel(name: &str, bytes: &[u8]) -> Result<(Qemu, Probe)> {
    let probe = Probe::from_bytes(Kind::BzImage, bytes)?;
    Ok((machine(name)?.kernel(probe.path()), probe))
}

#[rstest]
fn no_kernel(#[values("pc", "q35", "microvm")] name: &str) -> Result<()> {
    fails_with(&machine(name)?, Error::NoKernel, "-kernel")
}

#[rstest]
fn a_pe_image(#[values("pc", "q35", "microvm")] name: &str) -> Result<()> {
    // The head of a UKI: MZ stub, PE signature for x86-64.
    let mut bytes = noise(64 << 10, 1);
    bytes[..0x400].fill(0);
    bytes[..2].copy_from_slice(b"MZ");
    bytes[0x3c..0x40].copy_from_slice(&0x80u32.to_le_bytes());
    bytes[0x80..0x86].copy_from_slice(b"PE\0\0\x64\x86");
    let (qemu, _probe) = with_kernel(name, &bytes)?;
    fails_with(&qemu, Error::KernelIsPe, "UEFI")
}

#[rstest]
fn an_unknown_format(#[values("pc", "q35", "microvm")] name: &str) -> Result<()> {
    let mut bytes = noise(64 << 10, 1);
    bytes[hdr::SETUP_SECTS] = 1;
    let (qemu, _probe) = with_kernel(name, &bytes)?;
    fails_with(&qemu, Error::UnknownKernel, "")
}

/// QEMU itself refuses such an ELF, but for machine types that know no PVH.
#[test]
fn an_elf_without_pvh() -> Result<()> {
    let elf = Elf {
        entry_note: false,
        ..Elf::new(Mode::Halt)?
    };
    let (qemu, _probe) = with_kernel("pc-i440fx-3.1", &elf.bytes()?)?;
    fails_with(&qemu, Error::ElfWithoutPvh, "CONFIG_PVH")
}

#[rstest]
fn a_kernel_too_big(#[values("pc", "q35", "microvm")] name: &str) -> Result<()> {
    let mut image = BzImage::minimal(Mode::Halt)?;
    image.set_u32(hdr::INIT_SIZE, 80 << 20);
    let (qemu, _probe) = with_kernel(name, &image.bytes())?;
    let qemu = qemu.memory_mib(64);
    fails_with(&qemu, Error::KernelTooBig, " KiB, has ")
}

#[rstest]
fn a_kernel_over_the_firmware(#[values("pc", "q35", "microvm")] name: &str) -> Result<()> {
    let elf = Elf {
        segments: vec![Segment {
            addr: 0x1000,
            data: noise(0x9000, 1),
            memory_len: 0x9_0000,
        }],
        ..Elf::new(Mode::Halt)?
    };
    let (qemu, _probe) = with_kernel(name, &elf.bytes()?)?;
    fails_with(&qemu, Error::KernelOverlapsFirmware, "1 MiB")
}

#[rstest]
fn an_initrd_too_big(
    #[values("pc", "q35", "microvm")] name: &str,
    #[values(Kind::BzImage, Kind::Pvh)] kind: Kind,
) -> Result<()> {
    let mut image = BzImage::minimal(Mode::Halt)?;
    image.set_u32(hdr::INIT_SIZE, 40 << 20);
    let mut elf = Elf::new(Mode::Halt)?;
    elf.memory_len = 40 << 20;
    let bytes = match kind {
        Kind::BzImage => image.bytes(),
        _ => elf.bytes()?,
    };
    let (qemu, probe) = with_kernel(name, &bytes)?;
    let initrd = probe.file("initrd", &noise(30 << 20, 1))?;
    let qemu = qemu.memory_mib(64).initrd(initrd);
    fails_with(
        &qemu,
        Error::InitrdTooBig,
        &format!("(needs {} KiB", 30 << 10),
    )
}

#[rstest]
fn a_command_line_too_long(#[values("pc", "q35", "microvm")] name: &str) -> Result<()> {
    let mut image = BzImage::minimal(Mode::Halt)?;
    image.set_u32(hdr::CMDLINE_SIZE, 255);
    let (qemu, _probe) = with_kernel(name, &image.bytes())?;
    let qemu = qemu.append(&"x".repeat(256));
    fails_with(&qemu, Error::CommandLineTooLong, "-append")
}

/// One command of a table-loader script: 128 bytes.
fn command(kind: u32, fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    for field in fields {
        bytes.extend(*field);
    }
    bytes.resize(128, 0);
    bytes
}

/// A file name in a command: 56 bytes.
fn name(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(56, 0);
    bytes
}

/// A machine whose ACPI is not QEMU's but this script and one file of 4 KiB.
fn with_script(commands: &[Vec<u8>]) -> Result<(Qemu, Probe)> {
    let probe = Probe::new(Kind::BzImage)?;
    let script = probe.file("script", &commands.concat())?;
    let tables = probe.file("tables", &noise(4096, 1))?;
    let option =
        |name: &str, file: &std::path::Path| format!("name={name},file={}", file.display());
    let qemu = machine("pc,acpi=off")?.kernel(probe.path()).args([
        "-fw_cfg",
        &option("etc/table-loader", &script),
        "-fw_cfg",
        &option("etc/acpi/tables", &tables),
    ]);
    Ok((qemu, probe))
}

fn allocate(file: &str) -> Vec<u8> {
    command(1, &[&name(file), &16u32.to_le_bytes(), &[1]])
}

#[test]
fn a_script_with_an_alignment_of_3() -> Result<()> {
    let bad = command(1, &[&name("etc/acpi/tables"), &3u32.to_le_bytes(), &[1]]);
    let (qemu, _probe) = with_script(&[bad])?;
    fails_with(&qemu, Error::BadLoaderScript, "")
}

#[test]
fn a_script_that_names_no_file() -> Result<()> {
    let (qemu, _probe) = with_script(&[allocate("etc/acpi/nothing")])?;
    fails_with(&qemu, Error::LoaderFileMissing, "")
}

#[rstest]
#[case::pointer(command(2, &[&name("etc/acpi/tables"), &name("etc/acpi/tables"), &4093u32.to_le_bytes(), &[4]]))]
#[case::checksum(command(3, &[&name("etc/acpi/tables"), &0u32.to_le_bytes(), &0u32.to_le_bytes(), &4097u32.to_le_bytes()]))]
#[case::checksum_wraps(command(3, &[&name("etc/acpi/tables"), &0u32.to_le_bytes(), &16u32.to_le_bytes(), &u32::MAX.to_le_bytes()]))]
#[case::result(command(3, &[&name("etc/acpi/tables"), &4096u32.to_le_bytes(), &0u32.to_le_bytes(), &16u32.to_le_bytes()]))]
fn a_script_that_points_outside(#[case] bad: Vec<u8>) -> Result<()> {
    let (qemu, _probe) = with_script(&[allocate("etc/acpi/tables"), bad])?;
    fails_with(&qemu, Error::LoaderOutOfBounds, "")
}

/// RAM too small for the tables: a kernel that takes almost all of it.
#[test]
fn tables_too_big() -> Result<()> {
    let probe = Probe::new(Kind::BzImage)?;
    let script = probe.file("script", &allocate("etc/acpi/tables"))?;
    let tables = probe.file("tables", &noise(9 << 20, 1))?;
    let option =
        |name: &str, file: &std::path::Path| format!("name={name},file={}", file.display());
    let qemu = machine("pc,acpi=off")?
        .memory_mib(8)
        .kernel(probe.path())
        .args([
            "-fw_cfg",
            &option("etc/table-loader", &script),
            "-fw_cfg",
            &option("etc/acpi/tables", &tables),
        ]);
    fails_with(&qemu, Error::TablesTooBig, "(needs")
}

/// Asks until the answer has `wanted` in it: what follows the printed line takes a
/// busy host its time.
fn soon(wanted: &str, mut ask: impl FnMut() -> Result<String>) -> Result<()> {
    let mut patience = Patience::new(TIMEOUT);
    loop {
        let answer = ask()?;
        if answer.contains(wanted) {
            return Ok(());
        }
        ensure!(patience.pause(), "no {wanted}: {answer}");
    }
}

/// pvpanic tells the host where QEMU has it.
#[test]
fn pvpanic() -> Result<()> {
    let qemu = machine("q35")?
        .args(["-device", "pvpanic", "-action", "panic=pause"])
        .qmp();
    let mut vm = qemu.spawn()?;
    vm.wait_serial("\n", TIMEOUT)?;
    soon("guest_panicked", || vm.state())
}

/// A kernel's own early exception is not called the firmware's, and resets.
#[rstest]
#[case::without_error_code(&[0x0f, 0x0b], "exception 06")]
#[case::with_error_code(&[0xb8, 0xf8, 0, 0, 0, 0x8e, 0xd8], "exception 0d")]
fn an_exception_of_the_kernel(
    #[values("pc", "q35", "microvm")] name: &str,
    #[case] code: &[u8],
    #[case] vector: &str,
) -> Result<()> {
    let mut elf = Elf::new(Mode::Halt)?;
    elf.payload[..code.len()].copy_from_slice(code);
    let (qemu, _probe) = with_kernel(name, &elf.bytes()?)?;
    let debug_exit = ["-device", "isa-debug-exit,iobase=0xf4,iosize=1"];
    let mut vm = qemu.args(debug_exit).spawn()?;
    let status = vm.wait_exit(TIMEOUT)?;
    let serial = vm.serial();
    ensure!(
        serial.starts_with(&format!("qboot: {vector} at "))
            && serial.trim_end().ends_with("the machine resets")
            && serial.lines().count() == 1,
        "{serial:?}"
    );
    // With -no-reboot the reset ends QEMU.
    ensure!(status.code() == Some(0), "QEMU ended with {status}");
    Ok(())
}

/// Without any of those devices the machine says its line and halts.
#[test]
fn a_halt() -> Result<()> {
    let mut vm = machine("pc")?.qmp().spawn()?;
    vm.wait_serial("\n", TIMEOUT)?;
    soon("HLT=1", || vm.monitor("info registers"))?;
    ensure!(vm.ended()?.is_none(), "QEMU has ended");
    let line = vm.serial();
    let line = line.lines().next().context("no line")?;
    ensure!(line.ends_with(Error::NoKernel.message()), "{line}");
    Ok(())
}

#[test]
fn no_fw_cfg() -> Result<()> {
    skip(
        "no_fw_cfg",
        "every x86 machine of QEMU that takes a -bios has fw_cfg",
    );
    Ok(())
}
