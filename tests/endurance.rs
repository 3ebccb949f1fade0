//! Boot after boot: each leaves the registers and the memory of the first, and
//! takes as many instructions.
//!
//! 25 of each kind run with every test; `cargo test --package qboot-tests
//! --test endurance -- --ignored` runs 1,000.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qboot_tests::machines::*;
use qboot_tests::{Kind, Probe, noise};
use rstest::rstest;
use rstest_reuse::apply;
use xtask::probe::{self, Mode, RECORD_LEN, Record, SUM_LEN};
use xtask::qemu::{Accel, Qemu};

/// Instructions of the probe from its RDTSC to the reset: five for each word that
/// it sums, and the rest of `probe.S`, REP OUTSB counting as often as it repeats.
const OWN: u64 = 5 * (0x2_a000 + 0x2_0000 + 0xc000 + 0x10_0000) / 4 + 278;
/// Long enough for 1,000 boots on a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(600);

/// A machine of the size whose memory the probe sums, that counts instructions.
fn start(machine: Machine, kind: Kind, mode: Mode) -> Result<(Qemu, Probe)> {
    let probe = Probe::from_bytes(kind, &kind.image(mode)?)?;
    let initrd = probe.file("initrd", &noise(70_000, 1))?;
    let qemu = machine.qemu()?.kernel(probe.path()).initrd(initrd);
    let qemu = qemu.append("console=ttyS0").memory_mib(16);
    Ok((probe::ports(qemu.accel(Accel::Icount { shift: 0 })), probe))
}

/// What a boot left: the record, and the sum of memory.
fn parse(report: &[u8]) -> Result<(Record, [u8; SUM_LEN])> {
    let (record, sum) = report.split_at_checked(RECORD_LEN).context("no record")?;
    Ok((Record::parse(record)?, sum.try_into()?))
}

/// Every boot in a QEMU of its own.
fn cold_boots(machine: Machine, kind: Kind, count: usize) -> Result<()> {
    let (qemu, _probe) = start(machine, kind, Mode::Sum)?;
    let mut first = None;
    for n in 0..count {
        let mut vm = qemu.spawn()?;
        probe::wait_end(&mut vm, TIMEOUT)?;
        // Its counter is the number of instructions since reset.
        let found = parse(&vm.debugcon(probe::REPORT_PORT))?;
        let first = first.get_or_insert_with(|| found.clone());
        ensure!(found == *first, "boot {n}: {found:x?} after {first:x?}");
    }
    Ok(())
}

/// Instructions that find no guest to wake, where the boot before left a note.
const NOTHING_TO_WAKE: u64 = 34;

/// One machine that resets itself when it has reported.
///
/// QEMU's counter goes on over a reset. From one report to the next it counts the
/// probe's instructions and the firmware's, and nothing else: unless QEMU takes
/// so long to reset that the idle machine is moved on to the timer's next edge,
/// one period after the reset before. Then it has counted that period, less
/// the firmware's instructions of the one boot and with those of the other. The
/// first boot, which finds no note, is one of the two in the first step only.
fn warm_resets(machine: Machine, kind: Kind, count: usize) -> Result<()> {
    const LEN: usize = RECORD_LEN + SUM_LEN;
    let (qemu, _probe) = start(machine, kind, Mode::SumAndReset)?;
    let mut vm = qemu.reboot().spawn()?;
    let report = vm.wait_debugcon(probe::REPORT_PORT, (count + 1) * LEN, TIMEOUT)?;
    ensure!(vm.serial().is_empty(), "{}", vm.report());
    let mut first = None;
    let mut counters = Vec::new();
    for (n, report) in report.chunks_exact(LEN).take(count + 1).enumerate() {
        let (mut record, sum) = parse(report)?;
        counters.push(record.tsc);
        (record.tsc, record.eax, record.edx) = (0, 0, 0);
        let found = (record, sum);
        let first = first.get_or_insert_with(|| found.clone());
        ensure!(found == *first, "boot {n}: {found:x?} after {first:x?}");
    }
    let can_sleep = machine.acpi == Acpi::Full;
    let asks = if can_sleep { NOTHING_TO_WAKE } else { 0 };
    let expected = counters[0] + OWN + asks;
    let mut steps = BTreeMap::new();
    for (n, pair) in counters.windows(2).enumerate() {
        let mut step = pair[1] - pair[0];
        if n == 0 && step != expected {
            step -= asks;
        }
        *steps.entry(step).or_insert(0) += 1;
    }
    println!(
        "{machine} {kind:?}: {} instructions, then {steps:?}",
        counters[0]
    );
    // One instruction more or less in any boot makes a third number.
    ensure!(steps.len() <= 2, "{steps:?} from boot to boot");
    let least = steps.first_key_value().map(|(least, _)| *least);
    ensure!(
        least == Some(expected),
        "{steps:?}, but {expected} by the cold boot"
    );
    Ok(())
}

#[apply(each_machine_and_kernel)]
fn cold(machine: Machine, kind: Kind) -> Result<()> {
    cold_boots(machine, kind, 25)
}

#[apply(each_machine_and_kernel)]
fn warm(machine: Machine, kind: Kind) -> Result<()> {
    warm_resets(machine, kind, 25)
}

#[test]
#[ignore = "takes minutes"]
fn a_thousand_cold_boots() -> Result<()> {
    for (n, machine) in ALL.into_iter().enumerate() {
        let kind = [Kind::BzImage, Kind::Pvh][n % 2];
        cold_boots(machine, kind, 1000).context(machine)?;
    }
    Ok(())
}

#[test]
#[ignore = "takes minutes"]
fn a_thousand_warm_resets() -> Result<()> {
    for machine in ALL {
        for kind in [Kind::BzImage, Kind::Pvh] {
            let name = format!("{machine} {kind:?}");
            warm_resets(machine, kind, 1000).context(name)?;
        }
    }
    Ok(())
}
