//! Debian's cloud kernel to user space, and back out of it by power-off and reboot.
//!
//! The compatibility matrix boots it too (`cloud-*`, `smp`, `warm-reboot`), to compare
//! firmware. Those cells are not among those of continuous integration: here the same
//! boots are looked at closer, for what the kernel complains of and what it counts.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qboot_tests::Kind;
use qboot_tests::guest::{self, wait_end};
use qboot_tests::machines::*;
use rstest::rstest;
use rstest_reuse::apply;
use xtask::initramfs::MARKER;
use xtask::kernel::Flavour;
use xtask::linux::Time;
use xtask::qemu::{Accel, Qemu};

/// Longest that a kernel may take to its user space, on a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(240);

/// A machine that boots Linux with these words on its command line.
fn start(machine: Machine, kind: Kind, cpus: u32, words: &str) -> Result<Qemu> {
    // On microvm counted time is steadier still than being told of the host's, but
    // more than one processor does not come up in it.
    let (accel, time) = match (machine.is(MICROVM), cpus) {
        (true, 1) => (Accel::Icount { shift: 1 }, Time::Counted),
        _ => (Accel::Tcg, Time::Host),
    };
    let qemu = guest::boot(machine, Flavour::CloudAmd64, kind, time, words)?;
    Ok(qemu.smp(cpus).accel(accel))
}

/// Boots to the report of init and lets the machine end; what was said.
fn report(machine: Machine, kind: Kind, cpus: u32, words: &str) -> Result<String> {
    let words = format!("{words} qboot.do=report");
    let mut vm = start(machine, kind, cpus, &words)?.spawn()?;
    vm.wait_serial(MARKER, TIMEOUT)?;
    let serial = wait_end(&mut vm, TIMEOUT)?;
    let mut lines = serial.lines();
    let line = lines.find(|line| line.starts_with(MARKER));
    let line = line.context("no marker at a line's start")?;
    ensure!(line.contains(&format!("cpus={cpus} ")), "{line}");
    Ok(serial)
}

#[apply(each_machine_and_kernel)]
fn power_off(machine: Machine, kind: Kind, #[values(1, 4)] cpus: u32) -> Result<()> {
    let serial = report(machine, kind, cpus, "")?;
    let acpi = serial.contains("ACPI tables:  ") && !serial.contains("ACPI tables:  -");
    ensure!(acpi, "no ACPI tables in user space");
    if machine.has_smbios {
        let dmi = serial.contains("DMI product:  Standard PC");
        ensure!(dmi, "no DMI product in user space");
    }
    if machine.acpi == Acpi::Full {
        let off = serial.contains("reboot: Power down");
        ensure!(off, "no power-off through ACPI");
    }
    Ok(())
}

#[apply(each_machine_and_kernel)]
fn reboot(machine: Machine, kind: Kind) -> Result<()> {
    let qemu = start(machine, kind, 1, "qboot.do=reboot quiet")?.reboot();
    let mut vm = qemu.spawn()?;
    vm.wait_for("user space after a reboot", TIMEOUT, |vm| {
        vm.serial().matches(MARKER).count() >= 2
    })
}

/// `reboot=bios` goes back to real mode and jumps to F000:FFF0.
#[apply(each_chipset)]
fn reboot_by_the_bios(machine: Machine) -> Result<()> {
    let qemu = start(machine, Kind::Pvh, 1, "reboot=b qboot.do=reboot quiet")?;
    let mut vm = qemu.spawn()?;
    vm.wait_serial("reboot: Restarting system", TIMEOUT)?;
    // Which the machine has done when QEMU, told not to restart, ends.
    wait_end(&mut vm, TIMEOUT)?;
    Ok(())
}

/// Without ACPI a reset ends the run. One processor comes up: Debian's cloud
/// kernel is built without CONFIG_X86_MPPARSE and does not read the MP table.
#[rstest]
#[case::without_acpi(MICROVM.with("acpi=off"), "acpi=off")]
#[case::pcie(MICROVM_PCIE, "")]
#[case::without_legacy(MICROVM.with("pit=off,pic=off,rtc=off"), "")]
fn other_microvms(
    #[case] machine: Machine,
    #[case] words: &str,
    #[values(Kind::BzImage, Kind::Pvh)] kind: Kind,
) -> Result<()> {
    report(machine, kind, 1, words)?;
    Ok(())
}

#[apply(each_machine)]
fn memory(machine: Machine, #[values(128, 2048, 8192)] memory_mib: u64) -> Result<()> {
    let qemu = start(machine, Kind::Pvh, 1, "qboot.do=poweroff quiet")?.memory_mib(memory_mib);
    let mut vm = qemu.spawn()?;
    vm.wait_serial("memory_kib=", TIMEOUT)?;
    let serial = wait_end(&mut vm, TIMEOUT)?;
    let kib: u64 = serial
        .split("memory_kib=")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next())
        .context("no memory size")?
        .parse()?;
    // The kernel keeps its own code and page structures: some 60 MiB and 2 %.
    let least = (memory_mib << 10) * 97 / 100 - (64 << 10);
    ensure!(kib >= least, "{kib} KiB of {memory_mib} MiB");
    Ok(())
}

/// So many processors come up. 64 take two minutes.
#[rstest]
#[case(16)]
#[ignore = "takes minutes"]
#[case(64)]
fn many_processors(#[case] cpus: u32) -> Result<()> {
    report(Q35, Kind::Pvh, cpus, "quiet")?;
    Ok(())
}
