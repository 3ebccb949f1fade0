//! What does not fit, and what Linux makes of the rest.

use std::time::Duration;

use anyhow::{Result, ensure};
use qboot_tests::guest;
use qboot_tests::machines::*;
use qboot_tests::{Kind, PROBE_TIMEOUT, Probe};
use rstest::rstest;
use rstest_reuse::apply;
use xtask::initramfs::MARKER;
use xtask::kernel::Flavour;
use xtask::linux::Time;
use xtask::probe;

use super::Setup;

/// A boot goes on without what does not fit, and names the first of it.
#[rstest]
#[case::bar(PC, &["pci-testdev,addr=4,membar=1T"], &[
    "qboot: warning 43: ", "(1, the first 00:04.0 BAR 2 of 1024 GiB)\r\n",
])]
#[case::buses(Q35, &[
    "pxb-pcie,id=x1,bus_nr=3,addr=2,bus=pcie.0",
    "pcie-root-port,id=p0,slot=9,bus=x1",
    "pcie-root-port,id=p1,slot=1,addr=3,bus=pcie.0",
    "pcie-root-port,id=p2,slot=2,addr=4,bus=pcie.0",
    "pcie-root-port,id=p3,slot=3,addr=5,bus=pcie.0",
    "pcie-root-port,id=p4,slot=4,addr=6,bus=pcie.0",
], &["qboot: warning 44: ", "(2, the first 00:05.0)\r\n"])]
#[case::neither(Q35, &["pci-testdev,addr=4,membar=64G"], &[])]
fn what_does_not_fit_is_named(
    #[case] machine: Machine,
    #[case] devices: &[&str],
    #[case] words: &[&str],
) -> Result<()> {
    // Not Linux, so the firmware sets PCI up unasked.
    let probe = Probe::new(Kind::Multiboot)?;
    let qemu = probe
        .machine(machine)?
        .args(["-cpu", "qemu64,phys-bits=40"]);
    let mut vm = qemu.devices(devices).spawn()?;
    probe::wait(&mut vm, 1, PROBE_TIMEOUT)?;
    let serial = vm.serial();
    for words in words {
        ensure!(serial.contains(words), "no {words:?} in {serial:?}");
    }
    ensure!(
        serial.lines().count() == usize::from(!words.is_empty()),
        "{serial:?}"
    );
    Ok(())
}

/// Debian's cloud kernel to user space; gives what it and its init said.
fn boot_linux(setup: &Setup, pci: &str, words: &str) -> Result<String> {
    let timeout = Duration::from_secs(180);
    let machine = setup.machine;
    let qemu = guest::boot(
        machine,
        Flavour::CloudAmd64,
        Kind::BzImage,
        Time::Host,
        words,
    )?;
    let qemu = qemu.option("pci", pci);
    let mut vm = setup.plug(qemu).spawn()?;
    vm.wait_serial(MARKER, timeout)?;
    vm.wait_exit(timeout)?;
    Ok(vm.serial())
}

#[apply(each_chipset)]
fn linux_without_acpi(
    machine: Machine,
    #[values(("auto", "acpi=off"), ("auto", "pci=noacpi"), ("full", "acpi=off"))] how: (&str, &str),
) -> Result<()> {
    // Behind a bridge: firmware has to have numbered its bus, and a timer
    // interrupt has to get through.
    let devices = [
        "pci-bridge,id=b1,chassis_nr=1,addr=5",
        "virtio-rng-pci,bus=b1,addr=3",
    ];
    let (pci, words) = how;
    let serial = boot_linux(&Setup::new(machine, devices), pci, words)?;
    ensure!(serial.contains("01:03.0 1af4:1005"), "{serial}");
    Ok(())
}

#[apply(each_chipset)]
fn linux_keeps_large_bars_where_they_are(machine: Machine) -> Result<()> {
    let bridge = machine.bridge_at(1, 5);
    let slot = machine.slot_behind_bridge();
    let devices = [
        "pci-testdev,membar=64G,addr=4".to_owned(),
        bridge,
        format!("pci-testdev,membar=64G,bus=b1,addr={slot}"),
    ];
    let serial = boot_linux(&Setup::new(machine, devices), "full", "")?;
    for complaint in ["no space", "failed to assign", "can't claim"] {
        ensure!(!serial.contains(complaint), "{complaint}: {serial}");
    }
    // What QEMU's ACPI tables announce covers both.
    let window = "root bus resource [mem 0x1000000000-0x2fffffffff window]";
    ensure!(serial.contains(window), "{serial}");
    Ok(())
}
