//! Resets, stops, migrations and snapshots at any moment of a boot.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use qboot::layout;
use qboot::phys::PhysRange;
use qboot_tests::{GENERATIONS, generation_address, restored, save};

use super::*;

/// A machine whose probe halts, busy for some milliseconds with its initrd.
fn busy(machine: Machine, kind: Kind) -> Result<(Qemu, Probe)> {
    let probe = Probe::new(kind)?;
    let initrd = probe.file("initrd", &vec![0x5a; 16 << 20])?;
    let qemu = probe.machine(machine)?.memory_mib(64).initrd(initrd);
    Ok((qemu.reboot(), probe))
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
    vm.wait_for("the probe's record", PROBE_TIMEOUT, |vm| {
        last(vm).is_some() || !vm.serial().is_empty()
    })?;
    ensure!(vm.serial().is_empty(), "{}", vm.report());
    last(vm).context("no record")
}

#[test]
fn resets_while_booting() -> Result<()> {
    let mut rng = Rng::with_seed(0x4e5e7);
    for machine in ALL {
        for kind in [Kind::BzImage, Kind::Pvh] {
            let (qemu, _probe) = busy(machine, kind)?;
            let mut vm = qemu.spawn()?;
            let first = entered(&mut vm, 0)?;
            let mut seen = 0;
            for _ in 0..40 {
                vm.reset()?;
                sleep(Duration::from_micros(rng.u64(..12_000)));
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
    let mut rng = Rng::with_seed(0x5709);
    for machine in ALL {
        let (qemu, _probe) = busy(machine, Kind::BzImage)?;
        let mut vm = qemu.arg("-S").spawn()?;
        for _ in 0..30 {
            vm.monitor("cont")?;
            sleep(Duration::from_micros(rng.u64(..1_000)));
            vm.monitor("stop")?;
        }
        vm.monitor("cont")?;
        entered(&mut vm, 0).with_context(|| machine)?;
    }
    Ok(())
}

/// The machine goes on in another QEMU from wherever it was.
#[test]
fn migrations_while_booting() -> Result<()> {
    let mut rng = Rng::with_seed(0x316);
    let mut inside = 0;
    for machine in ALL {
        for kind in [Kind::BzImage, Kind::Pvh] {
            let (qemu, probe) = busy(machine, kind)?;
            for _ in 0..3 {
                let state = probe.file("state", b"")?;
                let mut vm = qemu.clone().arg("-S").spawn()?;
                vm.monitor("cont")?;
                sleep(Duration::from_micros(rng.u64(..8_000)));
                vm.monitor("stop")?;
                let seen = vm.debugcon(REPORT_PORT).len();
                save(&mut vm, &state)?;
                ensure!(vm.serial().is_empty(), "{}", vm.report());
                drop(vm);
                if seen > 0 {
                    // It had got to the kernel already.
                    continue;
                }
                let mut vm = restored(qemu.clone(), &state)?;
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

/// An empty disk for snapshots: qcow2 of 1 MiB (QEMU `docs/interop/qcow2.txt`).
fn qcow2() -> Vec<u8> {
    const CLUSTER: u64 = 1 << 16;
    let mut image = vec![0; 4 * CLUSTER as usize];
    let mut put =
        |at: u64, bytes: &[u8]| image[at as usize..][..bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb\0\0\0\x02");
    // Bits of a cluster's size; the disk's; L1 table: entries, place; table of
    // refcount blocks: place, clusters.
    put(20, &16_u32.to_be_bytes());
    put(24, &(1_u64 << 20).to_be_bytes());
    put(36, &1_u32.to_be_bytes());
    put(40, &(3 * CLUSTER).to_be_bytes());
    put(48, &CLUSTER.to_be_bytes());
    put(56, &1_u32.to_be_bytes());
    put(CLUSTER, &(2 * CLUSTER).to_be_bytes());
    // The four clusters are in use.
    put(2 * CLUSTER, &[0, 1, 0, 1, 0, 1, 0, 1]);
    image
}

/// What the kernel got: the record's addresses, and memory but for the page of
/// the probe's own record and for what is the firmware's.
fn handed(vm: &mut Vm, record: &Record) -> Result<([u32; 3], Vec<Vec<u8>>)> {
    let ranges = [
        layout::LOW_FREE,
        layout::LOW_FREE_TOP,
        layout::EBDA,
        PhysRange::fixed(0x11_0000, 64 << 20),
    ];
    let memory = ranges.map(|range| vm.memory(range.start().into(), range.len() as usize));
    let memory: Result<_> = memory.into_iter().collect();
    Ok(([record.entry, record.esi, record.ebx], memory?))
}

/// `savevm` while the firmware is at work, some time after its reset; then `loadvm` in
/// the same QEMU when it has entered the kernel, and in another. `false` if the kernel
/// was entered before.
fn snapshot(qemu: &Qemu, disk: &Path, wait: Duration) -> Result<bool> {
    std::fs::write(disk, qcow2())?;
    let drive = format!("if=none,id=snap,format=qcow2,file={}", disk.display());
    let qemu = qemu.clone().args(["-drive", &drive]);
    let mut vm = qemu.clone().arg("-S").spawn()?;
    vm.monitor("cont")?;
    sleep(wait);
    vm.monitor("stop")?;
    let said = vm.monitor("savevm firmware")?;
    ensure!(said.is_empty(), "savevm: {said}");
    if !vm.debugcon(REPORT_PORT).is_empty() {
        return Ok(false);
    }
    let registers = vm.monitor("info registers")?;
    let eip = registers.split_whitespace().find(|r| r.starts_with("EIP="));
    println!("{wait:?}: {}", eip.unwrap_or("no EIP"));
    vm.monitor("cont")?;
    let record = entered(&mut vm, 0)?;
    let first = handed(&mut vm, &record)?;
    for _ in 0..2 {
        let seen = vm.debugcon(REPORT_PORT).len();
        let said = vm.monitor("loadvm firmware")?;
        ensure!(said.is_empty(), "loadvm: {said}");
        let record = entered(&mut vm, seen)?;
        let again = handed(&mut vm, &record)?;
        ensure!(again == first, "another kernel after loadvm: {record:x?}");
    }
    // It holds the lock of the file.
    vm.quit()?;
    let mut vm = qemu.args(["-loadvm", "firmware"]).spawn()?;
    let record = entered(&mut vm, 0)?;
    let other = handed(&mut vm, &record)?;
    ensure!(
        other == first,
        "another kernel in another QEMU: {record:x?}"
    );
    Ok(true)
}

/// A snapshot of the firmware at work goes on as if nothing had happened.
#[test]
fn snapshots_while_booting() -> Result<()> {
    let mut rng = Rng::with_seed(0x5a9e);
    for machine in ALL {
        for kind in [Kind::BzImage, Kind::Pvh] {
            let (qemu, probe) = busy(machine, kind)?;
            let disk = probe.file("snapshots", b"")?;
            let (mut inside, mut most) = (0, 8_000);
            for _ in 0..12 {
                let wait = Duration::from_micros(rng.u64(..most));
                let context = || format!("{machine} {kind:?} after {wait:?}");
                if snapshot(&qemu, &disk, wait).with_context(context)? {
                    inside += 1;
                } else {
                    // It is faster than was thought.
                    most = most * 3 / 4;
                }
                if inside == 2 {
                    break;
                }
            }
            ensure!(inside == 2, "{machine} {kind:?}: {inside} snapshots");
        }
    }
    Ok(())
}

/// A machine that is restored is of a new generation: QEMU writes it to the
/// address that the firmware has told it before, and again after a reset.
#[test]
fn the_generation_follows_a_migration() -> Result<()> {
    let [(first, old), (second, new)] = GENERATIONS;
    let device = |guid| [format!("vmgenid,guid={guid}")];
    for machine in CHIPSETS {
        let (qemu, probe) = busy(machine, Kind::Pvh)?;
        let mut vm = qemu.clone().devices(device(first)).spawn()?;
        entered(&mut vm, 0)?;
        let addr = generation_address(&mut vm, &old)?;
        let state = probe.file("generation", b"")?;
        vm.monitor("stop")?;
        save(&mut vm, &state)?;
        drop(vm);
        let mut vm = restored(qemu.devices(device(second)), &state)?;
        let shown = vm.monitor("info vm-generation-id")?;
        ensure!(shown.contains(second), "{shown}");
        ensure!(vm.memory(addr, 16)? == new, "{machine}: not at {addr:#x}");
        let seen = vm.debugcon(REPORT_PORT).len();
        vm.monitor("cont")?;
        vm.monitor("system_reset")?;
        entered(&mut vm, seen)?;
        ensure!(vm.memory(addr, 16)? == new, "{machine}: gone by a reset");
    }
    Ok(())
}

/// QEMU keeps the upper half of the DMA address over a reset. A generation identifier
/// needs DMA: its address is written back.
#[test]
fn a_dma_address_that_a_guest_has_left() -> Result<()> {
    for machine in ALL {
        let probe = Probe::new(Kind::BzImage)?;
        let mut qemu = probe.machine(machine)?.memory_mib(64).reboot();
        if !machine.is(MICROVM) {
            qemu = qemu.devices(["vmgenid,guid=auto"]);
        }
        let mut vm = qemu.spawn()?;
        entered(&mut vm, 0)?;
        for upper in ["1", "0x01000000"] {
            vm.monitor(&format!("o /w 0x514 {upper}"))?;
            let seen = vm.debugcon(REPORT_PORT).len();
            vm.reset()?;
            entered(&mut vm, seen).with_context(|| machine)?;
        }
    }
    Ok(())
}
