//! Resets, stops and migrations at any moment of a boot.

use super::*;
use std::thread::sleep;
use std::time::Instant;
use xtask::probe::{BzImage, Elf, Mode};

/// A machine whose probe halts, busy for some milliseconds with its initrd.
fn busy(machine: &str, kind: Kind) -> Result<(Qemu, Probe)> {
    let image = match kind {
        Kind::Pvh => Elf::new(Mode::Halt)?.bytes()?,
        _ => BzImage::minimal(Mode::Halt)?.bytes(),
    };
    let probe = Probe::from_bytes(kind, &image)?;
    let initrd = probe.file("initrd", &vec![0x5a; 16 << 20])?;
    let qemu = probe.machine(machine)?.memory_mib(64).initrd(initrd);
    Ok((qemu.reboot(), probe))
}

fn pause(dice: &mut Dice) {
    sleep(Duration::from_micros(dice.below(12_000)));
}

/// Waits for a whole record behind the first `seen` bytes of report.
fn entered(vm: &mut Vm, seen: usize) -> Result<Record> {
    // A reset may have cut a record short.
    let last = |vm: &Vm| {
        let report = vm.debugcon(REPORT_PORT);
        let record = report
            .len()
            .checked_sub(RECORD_LEN)
            .filter(|at| *at >= seen);
        record.and_then(|at| Record::parse(&report[at..]).ok())
    };
    vm.wait_for("the probe's record", TIMEOUT, |vm| {
        last(vm).is_some() || !vm.serial().is_empty()
    })?;
    ensure!(vm.serial().is_empty(), "{}", vm.report());
    last(vm).context("no record")
}

#[test]
fn resets_while_booting() -> Result<()> {
    let mut dice = Dice(0x4e5e7);
    for machine in MACHINES {
        for kind in [Kind::BzImage, Kind::Pvh] {
            let (qemu, _probe) = busy(machine, kind)?;
            let mut vm = qemu.spawn()?;
            let first = entered(&mut vm, 0)?;
            let mut seen = 0;
            for _ in 0..40 {
                vm.reset()?;
                pause(&mut dice);
                seen = vm.debugcon(REPORT_PORT).len();
            }
            // What ran when the last was asked for may still have reported.
            vm.reset()?;
            let last = entered(&mut vm, seen)?;
            ensure!(
                (first.entry, first.esi, first.ebx) == (last.entry, last.esi, last.ebx),
                "{machine}: {first:x?} and then {last:x?}"
            );
        }
    }
    Ok(())
}

#[test]
fn stops_while_booting() -> Result<()> {
    let mut dice = Dice(0x5709);
    for machine in MACHINES {
        let (qemu, _probe) = busy(machine, Kind::BzImage)?;
        let mut vm = qemu.arg("-S").spawn()?;
        for _ in 0..30 {
            vm.monitor("cont")?;
            sleep(Duration::from_micros(dice.below(1_000)));
            vm.monitor("stop")?;
        }
        vm.monitor("cont")?;
        entered(&mut vm, 0).with_context(|| machine.to_owned())?;
    }
    Ok(())
}

fn migrated(vm: &mut Vm) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let status = vm.monitor("info migrate")?;
        if status.contains("status: completed") {
            return Ok(());
        }
        let failed = status.contains("status: failed") || Instant::now() > deadline;
        ensure!(!failed, "{status}");
        sleep(Duration::from_millis(5));
    }
}

/// The machine goes on in another QEMU from wherever it was.
#[test]
fn migrations_while_booting() -> Result<()> {
    let mut dice = Dice(0x316);
    let mut inside = 0;
    for machine in MACHINES {
        for kind in [Kind::BzImage, Kind::Pvh] {
            let (qemu, probe) = busy(machine, kind)?;
            for _ in 0..3 {
                let state = probe.file("state", b"")?;
                let state = state.display();
                let mut vm = qemu.clone().arg("-S").spawn()?;
                vm.monitor("cont")?;
                sleep(Duration::from_micros(dice.below(8_000)));
                vm.monitor("stop")?;
                let seen = vm.debugcon(REPORT_PORT).len();
                vm.monitor("migrate_set_parameter max-bandwidth 10G")?;
                vm.monitor(&format!("migrate \"exec:cat >{state}\""))?;
                migrated(&mut vm)?;
                ensure!(vm.serial().is_empty(), "{}", vm.report());
                drop(vm);
                if seen > 0 {
                    // It had got to the kernel already.
                    continue;
                }
                let incoming = ["-incoming".into(), format!("exec:cat {state}")];
                let mut vm = qemu.clone().args(incoming).spawn()?;
                while vm.monitor("info status")?.contains("inmigrate") {
                    sleep(Duration::from_millis(5));
                }
                vm.monitor("cont")?;
                inside += 1;
                let context = || format!("{machine} {kind:?}");
                entered(&mut vm, 0).with_context(context)?;
            }
        }
    }
    // Others had got to the kernel before they were stopped.
    ensure!(inside > 0, "no migration of a firmware at work");
    println!("{inside} migrations");
    Ok(())
}
