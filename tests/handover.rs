//! What a kernel finds at its entry, on every machine: probe kernels report it,
//! and the guest's memory is read back.

use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use qboot_tests::acpi::Tables;
use qboot_tests::handover::Handover;
use qboot_tests::machines::*;
use qboot_tests::{Kind, PROBE_TIMEOUT, Probe, noise, skip};
use rstest::rstest;
use rstest_reuse::apply;
use xtask::probe::{self, Mode, PAYLOAD_LEN, hdr};
use xtask::qemu::{self, Accel, Qemu, Vm};

#[path = "handover/kernels.rs"]
mod kernels;
#[path = "handover/tables.rs"]
mod tables;

/// Memory that the usual probe takes.
fn taken(handover: &Handover) -> Range<u64> {
    let start = u64::from(handover.record.entry);
    let len = match handover.kind {
        Kind::BzImage => 1 << 20,
        _ => PAYLOAD_LEN as u64,
    };
    start..start + len
}

/// Everything that holds for every handover.
fn check(handover: &Handover, memory_mib: u64) -> Result<()> {
    handover.check_registers()?;
    handover.check_e820(memory_mib)?;
    handover.check_placement(taken(handover))?;
    // Default type write-back, enabled: without it Linux leaves PAT off.
    let mtrr = handover.record.mtrr_def_type;
    ensure!(mtrr & 0xc00 != 0 && mtrr & 0xff == 6, "MTRRs {mtrr:#x}");
    Ok(())
}

/// The 32-bit code came over byte for byte, but for the probe's own record.
fn check_payload(vm: &mut Vm, handover: &Handover, mode: Mode) -> Result<()> {
    let mut found = vm.memory(handover.record.entry.into(), PAYLOAD_LEN)?;
    let mut expected = probe::code(mode)?;
    let record = probe::RECORD_OFFSET..probe::RECORD_OFFSET + probe::RECORD_LEN;
    for bytes in [&mut found, &mut expected] {
        bytes[record.clone()].fill(0);
        if handover.kind != Kind::BzImage {
            // Notes lie there.
            bytes[0x400..0x500].fill(0);
        }
    }
    ensure!(found == expected, "the kernel's code differs");
    Ok(())
}

fn check_initrd(vm: &mut Vm, handover: &Handover, expected: &[u8]) -> Result<()> {
    let range = handover.initrd.clone().context("no initrd")?;
    let len = range.end - range.start;
    ensure!(len == expected.len() as u64, "an initrd of {len} bytes");
    let found = vm.memory(range.start, expected.len())?;
    if found != expected {
        let at = (0..found.len()).find(|at| found[*at] != expected[*at]);
        bail!("the initrd at {range:x?} differs from byte {at:x?} on");
    }
    Ok(())
}

/// Boots with an initrd of this length, which comes over byte for byte.
fn boot_with_initrd(probe: &Probe, qemu: Qemu, len: usize) -> Result<(Handover, Vm)> {
    let initrd = noise(len, 7);
    let qemu = qemu.initrd(probe.file("initrd", &initrd)?);
    let (handover, mut vm) = probe.boot(&qemu)?;
    check_initrd(&mut vm, &handover, &initrd)?;
    Ok((handover, vm))
}

#[rstest]
fn every_machine(
    #[values(PC, Q35, MICROVM, MICROVM.with("acpi=off"), MICROVM_PCIE, MICROVM.with("pit=off,pic=off,rtc=off"))]
    machine: Machine,
    #[values(Kind::BzImage, Kind::Pvh)] kind: Kind,
    #[values(false, true)] default_devices: bool,
) -> Result<()> {
    let probe = Probe::new(kind)?;
    let mut qemu = probe.machine(machine)?.append("console=ttyS0 quiet");
    if default_devices {
        qemu = qemu.default_devices();
    }
    let (handover, mut vm) = probe.boot(&qemu)?;
    check(&handover, 512)?;
    check_payload(&mut vm, &handover, Mode::Halt)?;
    ensure!(handover.cmdline == b"console=ttyS0 quiet");
    ensure!(handover.initrd.is_none());
    ensure!(vm.serial().is_empty(), "output on success: {}", vm.serial());
    Ok(())
}

/// RAM sizes, each with an initrd that leaves little room for a page's rounding.
#[apply(each_machine_and_kernel)]
fn memory_sizes(
    machine: Machine,
    kind: Kind,
    #[values(64, 127, 1024, 2048, 3071, 3584, 4096, 8192)] memory_mib: u64,
) -> Result<()> {
    let probe = Probe::new(kind)?;
    let qemu = probe.machine(machine)?.memory_mib(memory_mib).append("x");
    let (handover, mut vm) = boot_with_initrd(&probe, qemu, (5 << 20) + 4095)?;
    check(&handover, memory_mib)?;
    Tables::read(&mut vm, &handover)?;
    Ok(())
}

#[rstest]
fn initrd_sizes(
    #[values(PC, Q35, MICROVM, MICROVM.with("acpi=off"))] machine: Machine,
    #[values(Kind::BzImage, Kind::Pvh)] kind: Kind,
    #[values(1, 4096, 0x40_1001, 64 << 20, 200 << 20)] len: usize,
) -> Result<()> {
    let probe = Probe::new(kind)?;
    let (handover, mut vm) = boot_with_initrd(&probe, probe.machine(machine)?, len)?;
    check(&handover, 512)?;
    if handover.rsdp != 0 {
        Tables::read(&mut vm, &handover)?;
    }
    Ok(())
}

/// A PVH kernel says nothing of its limit; Linux's own is 2047.
#[rstest]
fn command_lines(
    #[values(Q35, MICROVM)] machine: Machine,
    #[values(Kind::BzImage, Kind::Pvh)] kind: Kind,
    #[values(1, 255, 2047)] len: usize,
) -> Result<()> {
    check_command_line(machine, &Probe::new(kind)?, len)
}

/// As long as the header's limit allows, or long.
#[rstest]
fn command_lines_of_the_kernels_own_limit(
    #[values(Q35, MICROVM)] machine: Machine,
    #[values((255, 255), (65_535, 16_000))] limit_and_len: (u32, usize),
) -> Result<()> {
    let (limit, len) = limit_and_len;
    let probe = Probe::with_header(|image| image.set_u32(hdr::CMDLINE_SIZE, limit))?;
    check_command_line(machine, &probe, len)
}

fn check_command_line(machine: Machine, probe: &Probe, len: usize) -> Result<()> {
    let line: String = (b'!'..=b'~').cycle().take(len).map(char::from).collect();
    let (handover, _vm) = probe.boot(&probe.machine(machine)?.append(&line))?;
    check(&handover, 512)?;
    ensure!(handover.cmdline == line.as_bytes());
    Ok(())
}

#[apply(each_machine)]
fn processors(
    machine: Machine,
    #[values("1", "2", "8", "64", "6,sockets=2,cores=3")] topology: &str,
) -> Result<()> {
    let probe = Probe::new(Kind::Pvh)?;
    let (handover, mut vm) = probe.boot(&probe.machine(machine)?.smp(topology))?;
    check(&handover, 512)?;
    let count: usize = topology.split(',').next().unwrap_or_default().parse()?;
    ensure!(Tables::read(&mut vm, &handover)?.processors()? == count);
    Ok(())
}

/// QEMU 7.2 keeps an ELF kernel's first bytes in memory that it has given up,
/// and these devices' set-up writes over them.
#[rstest]
#[case(MICROVM, "virtio-net-device")]
#[case(PC, "virtio-net-pci")]
#[case(Q35, "virtio-net-pci")]
#[case(Q35, "e1000e")]
#[case(Q35, "virtio-scsi-pci")]
fn pvh_beside(
    #[case] machine: Machine,
    #[case] device: &str,
    #[values(1, 2, 4)] count: usize,
) -> Result<()> {
    let probe = Probe::new(Kind::Pvh)?;
    let qemu = probe.machine(machine)?.memory_mib(64);
    let qemu = qemu.devices(vec![device; count]);
    let (handover, mut vm) = boot_with_initrd(&probe, qemu, 50 << 20)?;
    check(&handover, 64)?;
    check_payload(&mut vm, &handover, Mode::Halt)
}

#[apply(each_machine_and_kernel)]
fn without_dma(machine: Machine, kind: Kind) -> Result<()> {
    let probe = Probe::new(kind)?;
    let qemu = probe.machine(machine)?.append("bytewise");
    let qemu = qemu.args(["-global", "fw_cfg_io.dma_enabled=off"]);
    let (handover, mut vm) = boot_with_initrd(&probe, qemu, 100_003)?;
    check(&handover, 512)?;
    check_payload(&mut vm, &handover, Mode::Halt)?;
    ensure!(handover.cmdline == b"bytewise");
    Tables::read(&mut vm, &handover)?;
    Ok(())
}

/// Every reset hands over the same, whatever the run before left in memory.
#[rstest]
fn warm_resets(
    #[values(PC, Q35, MICROVM, MICROVM.with("acpi=off"))] machine: Machine,
    #[values(Kind::BzImage, Kind::Pvh)] kind: Kind,
) -> Result<()> {
    let probe = Probe::new(kind)?;
    let initrd = noise(70_000, 6);
    let qemu = probe
        .machine(machine)?
        .reboot()
        .append("again")
        .initrd(probe.file("initrd", &initrd)?);
    let (first, mut vm) = probe.boot(&qemu)?;
    for n in 1..=25 {
        vm.reset()?;
        let record = probe::wait(&mut vm, n + 1, PROBE_TIMEOUT)
            .with_context(|| format!("after {n} resets"))?;
        let handover = Handover::read(&mut vm, kind, record)?;
        check(&handover, 512).with_context(|| format!("after {n} resets"))?;
        check_initrd(&mut vm, &handover, &initrd)?;
        ensure!(handover.e820 == first.e820, "another memory map");
        ensure!(handover.rsdp == first.rsdp, "another RSDP");
        ensure!(handover.cmdline == first.cmdline, "another command line");
    }
    if first.rsdp != 0 {
        Tables::read(&mut vm, &first)?;
    }
    Ok(())
}

#[apply(each_machine_and_kernel)]
fn under_kvm(machine: Machine, kind: Kind) -> Result<()> {
    if let Some(reason) = qemu::kvm_missing() {
        skip(&format!("under_kvm {machine} {kind:?}"), &reason);
        return Ok(());
    }
    let mode = Mode::HaltWithoutX87;
    let probe = Probe::from_bytes(kind, &kind.image(mode)?)?;
    let qemu = probe.machine(machine)?.accel(Accel::Kvm).append("kvm");
    let (handover, mut vm) = probe.boot(&qemu)?;
    check(&handover, 512)?;
    check_payload(&mut vm, &handover, mode)?;
    Tables::read(&mut vm, &handover)?;
    Ok(())
}
