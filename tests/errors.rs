//! Every error of the firmware, provoked on a real QEMU: one line on the serial
//! port and the debug consoles, and the host is told.

use anyhow::{Context, Result, ensure};
use qboot::error::Error;
use qboot::settings::command_line::CommandLine;
use qboot::settings::options;
use qboot_tests::loader::{add_checksum, add_pointer, allocate};
use qboot_tests::machines::*;
use qboot_tests::{
    DEBUG_CONSOLE, Kind, LENGTH, PROBE_TIMEOUT, Probe, ROOM, VALUE, error_line, noise, wait_until,
};
use rstest::rstest;
use rstest_reuse::apply;
use xtask::probe::{BzImage, Elf, Mode, Segment, hdr};
use xtask::qemu::{Qemu, Vm};
use xtask::{extract, run, uki};

#[path = "errors/gdb.rs"]
mod gdb;
#[path = "errors/rest.rs"]
mod rest;

/// Runs a machine that must end with this error; `extra` is what follows the message.
fn fails_with(qemu: &Qemu, error: Error, extra: &str) -> Result<()> {
    let mut vm = qemu.clone().debugcon(DEBUG_CONSOLE).debug_exit().spawn()?;
    let status = vm.wait_exit(PROBE_TIMEOUT)?;
    let serial = vm.serial();
    let (_, line) = error_line(&serial, status.code()).with_context(|| vm.report())?;
    let expected = format!("qboot: error {:02x}: {}", error.code(), error.message());
    ensure!(
        line.starts_with(&expected) && line.contains(extra),
        "expected {expected:?} and {extra:?}\n{}",
        vm.report()
    );
    ensure!(
        vm.debugcon(DEBUG_CONSOLE) == serial.as_bytes(),
        "the debug console says something else"
    );
    Ok(())
}

/// A machine with a `-kernel` of these bytes. The probe keeps the file.
fn with_kernel(machine: Machine, bytes: &[u8]) -> Result<(Qemu, Probe)> {
    let probe = Probe::from_bytes(Kind::BzImage, bytes)?;
    Ok((machine.qemu()?.kernel(probe.path()), probe))
}

/// A machine with these files in fw_cfg, under names that may be QEMU's own.
fn with_items(machine: Machine, items: &[(&str, &[u8])]) -> Result<(Qemu, Probe)> {
    let probe = Probe::new(Kind::BzImage)?;
    let mut qemu = machine.qemu()?.kernel(probe.path()).memory_mib(16);
    for (name, bytes) in items {
        let file = probe.file(&name.replace('/', "-"), bytes)?;
        qemu = qemu.fw_cfg_file(name, &file);
    }
    Ok((qemu, probe))
}

#[apply(each_machine)]
fn no_kernel(machine: Machine) -> Result<()> {
    fails_with(&machine.qemu()?, Error::NoKernel, "-kernel")
}

/// A register of COM1.
fn com1(vm: &mut Vm, register: u16) -> Result<u8> {
    let said = vm.monitor(&format!("i /b {:#x}", 0x3f8 + register))?;
    let (_, value) = said.trim().split_once("= 0x").context(said.clone())?;
    Ok(u8::from_str_radix(value, 16)?)
}

/// 115,200 bits a second, 8 bits without parity, FIFOs, no interrupts. QEMU prints at any
/// speed, so the registers are compared.
#[apply(each_machine)]
fn the_serial_console_is_set_up(machine: Machine) -> Result<()> {
    let mut vm = machine.qemu()?.qmp().spawn()?;
    vm.wait_serial("qboot: error", PROBE_TIMEOUT)?;
    ensure!(com1(&mut vm, 1)? == 0, "interrupts");
    ensure!(com1(&mut vm, 2)? & 0xc0 == 0xc0, "no FIFOs");
    ensure!(com1(&mut vm, 3)? == 0x03, "another format");
    ensure!(com1(&mut vm, 4)? == 0x0b, "other modem lines");
    vm.monitor("o /b 0x3fb 0x83")?;
    let divisor = [com1(&mut vm, 0)?, com1(&mut vm, 1)?];
    ensure!(divisor == [1, 0], "divisor {divisor:?}");
    Ok(())
}

#[apply(each_machine)]
fn a_pe_image(machine: Machine) -> Result<()> {
    // The head of a UKI: MZ stub, PE signature for x86-64.
    let mut bytes = noise(64 << 10, 1);
    bytes[..0x400].fill(0);
    bytes[..2].copy_from_slice(b"MZ");
    bytes[0x3c..0x40].copy_from_slice(&0x80u32.to_le_bytes());
    bytes[0x80..0x86].copy_from_slice(b"PE\0\0\x64\x86");
    let (qemu, _probe) = with_kernel(machine, &bytes)?;
    fails_with(&qemu, Error::KernelIsPe, "UEFI")
}

/// `qboot run` says of a file what the firmware would, and knows the same options.
#[test]
fn the_users_program_says_the_same() -> Result<()> {
    let pe = |machine| uki::build(machine, &[(".text", &[0; 600])]);
    let elf = Elf {
        entry_note: false,
        ..Elf::new(Mode::Halt)?
    };
    let mut arm = vec![0; 1000];
    arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
    for (bytes, error) in [
        (pe(0x8664), Error::KernelIsPe),
        (pe(0xaa64), Error::KernelForOtherMachine),
        (pe(0x8664)[..0x300].to_vec(), Error::KernelTruncated),
        (arm, Error::KernelForOtherMachine),
        (noise(1000, 1), Error::UnknownKernel),
        (b"\x1f\x8b\x08".to_vec(), Error::UnknownKernel),
        (elf.bytes()?, Error::ElfWithoutPvh),
    ] {
        let said = extract::doubt(&bytes).context("no doubt")?;
        ensure!(said.starts_with(error.message()), "{said:?}, {error:?}");
    }
    for name in run::OPTIONS {
        let mut file = [0; 56];
        let name = format!("opt/org.qboot/{name}");
        file[..name.len()].copy_from_slice(name.as_bytes());
        ensure!(!options::is_unknown(&file), "{name}");
    }
    for name in run::PARAMETERS {
        let line = format!("qboot.{name}=auto");
        let line = CommandLine::parse(line.as_bytes());
        ensure!(line.unknown.is_none(), "{name}");
    }
    Ok(())
}

#[apply(each_machine)]
fn an_unknown_format(machine: Machine) -> Result<()> {
    let mut bytes = noise(64 << 10, 1);
    bytes[hdr::SETUP_SECTS] = 1;
    let (qemu, _probe) = with_kernel(machine, &bytes)?;
    fails_with(&qemu, Error::UnknownKernel, "")
}

/// QEMU itself refuses such an ELF, but for machine types that know no PVH.
#[test]
fn an_elf_without_pvh() -> Result<()> {
    let old = Machine {
        name: "pc-i440fx-3.1",
        ..PC
    };
    let elf = Elf {
        entry_note: false,
        ..Elf::new(Mode::Halt)?
    };
    let (qemu, _probe) = with_kernel(old, &elf.bytes()?)?;
    fails_with(&qemu, Error::ElfWithoutPvh, "CONFIG_PVH")
}

#[apply(each_machine)]
fn a_kernel_too_big(machine: Machine) -> Result<()> {
    let probe = Probe::with_header(|image| image.set_u32(hdr::INIT_SIZE, 80 << 20))?;
    let qemu = machine.qemu()?.kernel(probe.path()).memory_mib(64);
    fails_with(&qemu, Error::KernelTooBig(ROOM), " KiB, has ")
}

/// Setup code that is too long for its segment, in a kernel that has to start there.
#[apply(each_machine)]
fn setup_code_without_room(machine: Machine) -> Result<()> {
    let mut image = BzImage::minimal(Mode::Halt)?;
    image.setup.resize(128 * 512, 0);
    image.set_u8(hdr::SETUP_SECTS, 127);
    image.set_u8(hdr::RELOCATABLE_KERNEL, 0);
    let (qemu, _probe) = with_kernel(machine, &image.bytes())?;
    fails_with(&qemu, Error::Needs16BitEntry, "640 KiB")
}

/// A zImage, for which the user demands the 32-bit entry that it does not have.
#[apply(each_machine)]
fn a_zimage_entered_in_32_bits(machine: Machine) -> Result<()> {
    let probe = Probe::with_header(|image| image.set_u8(hdr::LOADFLAGS, 0))?;
    let qemu = machine.qemu()?.kernel(probe.path());
    fails_with(&qemu.option("entry", "32"), Error::Needs16BitEntry, "")
}

#[apply(each_machine)]
fn a_kernel_over_the_firmware(machine: Machine) -> Result<()> {
    let elf = Elf {
        segments: vec![Segment {
            addr: 0x1000,
            data: noise(0x9000, 1),
            memory_len: 0x9_0000,
        }],
        ..Elf::new(Mode::Halt)?
    };
    let (qemu, _probe) = with_kernel(machine, &elf.bytes()?)?;
    fails_with(&qemu, Error::KernelOverlapsFirmware, "1 MiB")
}

#[apply(each_machine_and_kernel)]
fn an_initrd_too_big(machine: Machine, kind: Kind) -> Result<()> {
    let mut image = BzImage::minimal(Mode::Halt)?;
    image.set_u32(hdr::INIT_SIZE, 40 << 20);
    let mut elf = Elf::new(Mode::Halt)?;
    elf.memory_len = 40 << 20;
    let bytes = match kind {
        Kind::BzImage => image.bytes(),
        _ => elf.bytes()?,
    };
    let (qemu, probe) = with_kernel(machine, &bytes)?;
    let initrd = probe.file("initrd", &noise(30 << 20, 1))?;
    let qemu = qemu.memory_mib(64).initrd(initrd);
    fails_with(
        &qemu,
        Error::InitrdTooBig(ROOM),
        &format!("(needs {} KiB", 30 << 10),
    )
}

#[apply(each_machine)]
fn a_command_line_too_long(machine: Machine) -> Result<()> {
    let probe = Probe::with_header(|image| image.set_u32(hdr::CMDLINE_SIZE, 255))?;
    let qemu = machine.qemu()?.kernel(probe.path());
    let qemu = qemu.append(&"x".repeat(256));
    fails_with(&qemu, Error::CommandLineTooLong(LENGTH), "-append")
}

const SCRIPT: &str = "etc/table-loader";
const TABLES: &str = "etc/acpi/tables";
const NO_ACPI: Machine = PC.with("acpi=off");

/// A machine whose ACPI is not QEMU's but this script and one file of 4 KiB.
fn script_fails(commands: &[Vec<u8>], error: Error) -> Result<()> {
    let (script, tables) = (commands.concat(), noise(4096, 1));
    let (qemu, _probe) = with_items(NO_ACPI, &[(SCRIPT, &script), (TABLES, &tables)])?;
    fails_with(&qemu, error, "")
}

#[test]
fn a_script_with_an_alignment_of_3() -> Result<()> {
    script_fails(&[allocate(TABLES, 3, 1)], Error::BadLoaderScript)
}

#[test]
fn a_script_that_names_no_file() -> Result<()> {
    let bad = allocate("etc/acpi/nothing", 16, 1);
    script_fails(&[bad], Error::LoaderFileMissing)
}

#[rstest]
#[case::pointer(add_pointer(TABLES, TABLES, 4093, 4))]
#[case::checksum(add_checksum(TABLES, 0, 0, 4097))]
#[case::checksum_wraps(add_checksum(TABLES, 0, 16, u32::MAX))]
#[case::result(add_checksum(TABLES, 4096, 0, 16))]
fn a_script_that_points_outside(#[case] bad: Vec<u8>) -> Result<()> {
    script_fails(&[allocate(TABLES, 16, 1), bad], Error::LoaderOutOfBounds)
}

/// More work than a second's: each is harmless.
#[test]
fn a_script_of_many_checksums() -> Result<()> {
    let mut commands = vec![allocate(TABLES, 16, 1)];
    commands.resize(258, add_checksum(TABLES, 0, 0, 1 << 20));
    let (script, tables) = (commands.concat(), noise(1 << 20, 1));
    let (qemu, _probe) = with_items(NO_ACPI, &[(SCRIPT, &script), (TABLES, &tables)])?;
    fails_with(&qemu, Error::BadLoaderScript, "")
}

#[test]
fn tables_too_big() -> Result<()> {
    let (script, tables) = (allocate(TABLES, 16, 1), noise(9 << 20, 1));
    let (qemu, _probe) = with_items(NO_ACPI, &[(SCRIPT, &script), (TABLES, &tables)])?;
    fails_with(&qemu.memory_mib(8), Error::TablesTooBig(ROOM), "(needs")
}

/// pvpanic tells the host where QEMU has it.
#[test]
fn pvpanic() -> Result<()> {
    let qemu = Q35.qemu()?.devices(["pvpanic"]);
    let mut vm = qemu.args(["-action", "panic=pause"]).qmp().spawn()?;
    vm.wait_serial("\n", PROBE_TIMEOUT)?;
    // What follows the printed line takes a busy host its time.
    wait_until("the host knows", || {
        Ok(vm.state()?.contains("guest_panicked"))
    })
}

/// A kernel that faults before it has an interrupt table resets the machine: nothing
/// of the firmware runs again.
#[apply(each_machine)]
#[case::undefined(&[0x0f, 0x0b])]
#[case::protection(&[0xb8, 0xf8, 0, 0, 0, 0x8e, 0xd8])]
// Its stack pointer is 0: there is no room for a frame.
#[case::without_a_stack(&[0x31, 0xe4, 0x0f, 0x0b])]
fn an_exception_of_the_kernel(
    machine: Machine,
    #[values(Kind::BzImage, Kind::Pvh, Kind::Multiboot)] kind: Kind,
    #[case] code: &[u8],
) -> Result<()> {
    let probe = Probe::from_bytes(kind, &kind.other_than_linux(Mode::Halt, code)?)?;
    let log = probe.file("log", b"")?;
    let qemu = machine.qemu()?.kernel(probe.path()).debug_exit();
    let qemu = qemu.args(["-d", "cpu_reset", "-D"]).arg(&log);
    let mut vm = qemu.spawn()?;
    let status = vm.wait_exit(PROBE_TIMEOUT)?;
    ensure!(vm.serial().is_empty(), "{}", vm.report());
    // With -no-reboot the reset ends QEMU.
    ensure!(status.code() == Some(0), "QEMU ended with {status}");
    let log = std::fs::read_to_string(log)?;
    ensure!(log.contains("Triple fault"), "{log}");
    Ok(())
}

/// Without any of those devices the machine says its line and halts.
#[test]
fn a_halt() -> Result<()> {
    let mut vm = PC.qemu()?.qmp().spawn()?;
    vm.wait_serial("\n", PROBE_TIMEOUT)?;
    wait_until("it halts", || {
        Ok(vm.monitor("info registers")?.contains("HLT=1"))
    })?;
    ensure!(vm.ended()?.is_none(), "QEMU has ended");
    let line = vm.serial();
    let line = line.lines().next().context("no line")?;
    ensure!(line.ends_with(Error::NoKernel.message()), "{line}");
    Ok(())
}
