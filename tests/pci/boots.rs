//! The ROM's own set-up, and what Linux makes of it.

use std::time::Duration;

use anyhow::{Result, ensure};
use qboot_tests::{Kind, PROBE_TIMEOUT, Probe, rom};
use rstest::rstest;
use xtask::initramfs::{self, Arch, MARKER};
use xtask::kernel::{self, Flavour};
use xtask::linux::{self, Time};
use xtask::qemu::Qemu;

use super::{Machine, VARIETY};

#[test]
fn the_rom_does_the_same() -> Result<()> {
    let microvm = ["-device", "virtio-net-pci", "-device", "nvme,serial=1"];
    let q35 = [
        "-device",
        "pxb-pcie,id=x1,bus_nr=0x40",
        "-device",
        "pcie-root-port,id=p1,slot=1,bus=x1",
        "-device",
        "e1000e,bus=p1",
        "-device",
        "pci-testdev,membar=64G,bus=pcie.0",
    ];
    for (name, extra_roots, args) in [
        ("pc", 0, VARIETY),
        ("q35", 1, &q35[..]),
        ("microvm,pcie=on", 0, &microvm[..]),
        ("microvm,pcie=on,ioapic2=off", 0, &microvm[..]),
    ] {
        let machine = Machine {
            name,
            memory_mib: 512,
            extra_roots,
            args,
        };
        assert_eq!(machine.rom()?, machine.ours()?.functions, "{name}");
    }
    Ok(())
}

/// A boot goes on without what does not fit, and names the first of it.
#[rstest]
#[case::bar("pc", &["-device", "pci-testdev,addr=4,membar=1T"], &[
    "qboot: warning 43: ", "(1, the first 00:04.0 BAR 2 of 1024 GiB)\r\n",
])]
#[case::buses("q35", &[
    "-device", "pxb-pcie,id=x1,bus_nr=3,addr=2,bus=pcie.0",
    "-device", "pcie-root-port,id=p0,slot=9,bus=x1",
    "-device", "pcie-root-port,id=p1,slot=1,addr=3,bus=pcie.0",
    "-device", "pcie-root-port,id=p2,slot=2,addr=4,bus=pcie.0",
    "-device", "pcie-root-port,id=p3,slot=3,addr=5,bus=pcie.0",
    "-device", "pcie-root-port,id=p4,slot=4,addr=6,bus=pcie.0",
], &["qboot: warning 44: ", "(2, the first 00:05.0)\r\n"])]
#[case::neither("q35", &["-device", "pci-testdev,addr=4,membar=64G"], &[])]
fn what_does_not_fit_is_named(
    #[case] name: &str,
    #[case] args: &[&str],
    #[case] words: &[&str],
) -> Result<()> {
    // Not Linux, so the firmware sets PCI up unasked.
    let probe = Probe::new(Kind::Multiboot)?;
    let mut vm = probe
        .machine(name)?
        .args(["-cpu", "qemu64,phys-bits=40"])
        .args(args.iter().copied())
        .spawn()?;
    xtask::probe::wait(&mut vm, 1, PROBE_TIMEOUT)?;
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
fn boot_linux(machine: &Machine<'_>, setup: &str, words: &str) -> Result<String> {
    let timeout = Duration::from_secs(180);
    let has_acpi = !words.contains("acpi=off");
    let needed = linux::parameters(machine.name, Time::Host, has_acpi).join(" ");
    let mut vm = Qemu::new(machine.name)
        .memory_mib(machine.memory_mib)
        .bios(rom()?)
        .kernel(kernel::debian(Flavour::CloudAmd64)?.bzimage)
        .initrd(initramfs::standard(Arch::Amd64)?)
        .append(&format!("console=ttyS0 panic=-1 {needed} {words}"))
        .args(["-fw_cfg", &format!("name=opt/org.qboot/pci,string={setup}")])
        .args(machine.args.iter().copied())
        .spawn()?;
    vm.wait_serial(MARKER, timeout)?;
    vm.wait_exit(timeout)?;
    Ok(vm.serial())
}

#[test]
fn linux_without_acpi() -> Result<()> {
    // Behind a bridge: firmware has to have numbered its bus, and a timer
    // interrupt has to get through.
    let args = [
        "-device",
        "pci-bridge,id=b1,chassis_nr=1,addr=5",
        "-device",
        "virtio-rng-pci,bus=b1,addr=3",
    ];
    for name in ["pc", "q35"] {
        let machine = Machine {
            name,
            memory_mib: 512,
            extra_roots: 0,
            args: &args,
        };
        for (setup, words) in [
            ("auto", "acpi=off"),
            ("auto", "pci=noacpi"),
            ("full", "acpi=off"),
        ] {
            let serial = boot_linux(&machine, setup, words)?;
            ensure!(
                serial.contains("01:03.0 1af4:1005"),
                "{name} {words}: {serial}"
            );
        }
    }
    Ok(())
}

#[test]
fn linux_keeps_large_bars_where_they_are() -> Result<()> {
    for (name, bridge) in [
        ("pc", "pci-bridge,id=b1,chassis_nr=1,addr=5"),
        ("q35", "pcie-root-port,id=b1,addr=5"),
    ] {
        let behind = if name == "pc" {
            "pci-testdev,membar=64G,bus=b1,addr=3"
        } else {
            "pci-testdev,membar=64G,bus=b1"
        };
        let args = [
            "-device",
            "pci-testdev,membar=64G,addr=4",
            "-device",
            bridge,
            "-device",
            behind,
        ];
        let machine = Machine {
            name,
            memory_mib: 512,
            extra_roots: 0,
            args: &args,
        };
        let serial = boot_linux(&machine, "full", "")?;
        for complaint in ["no space", "failed to assign", "can't claim"] {
            ensure!(!serial.contains(complaint), "{name}: {complaint}: {serial}");
        }
        // What QEMU's ACPI tables announce covers both.
        let window = "root bus resource [mem 0x1000000000-0x2fffffffff window]";
        ensure!(serial.contains(window), "{name}: {serial}");
    }
    Ok(())
}
