//! Linux finds behind bridges what it finds with SeaBIOS, plugs devices in, and is told
//! of errors.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qboot_tests::Kind;
use qboot_tests::guest;
use qboot_tests::machines::*;
use xtask::initramfs::{Arch, Initramfs};
use xtask::kernel::Flavour;
use xtask::linux::Time;

const TIMEOUT: Duration = Duration::from_secs(180);

/// A switch, a PCIe-to-PCI bridge with a PCI bridge behind it, free ports, cards.
const DEVICES: [&str; 16] = [
    "pcie-root-port,id=p1,chassis=1,addr=2",
    "x3130-upstream,id=u,bus=p1",
    "xio3130-downstream,id=d1,bus=u,chassis=11",
    "xio3130-downstream,id=d2,bus=u,chassis=12",
    "nvme,serial=1,bus=d1",
    "pcie-root-port,id=p2,chassis=2,addr=3",
    "pcie-pci-bridge,id=b,bus=p2",
    "virtio-rng-pci,bus=b,addr=3",
    "pci-bridge,id=b2,bus=b,addr=5,chassis_nr=21",
    "virtio-rng-pci,bus=b2,addr=2",
    "pcie-root-port,id=p3,chassis=3,addr=4",
    "e1000e,bus=p3",
    "pcie-root-port,id=p4,chassis=4,addr=5",
    "pcie-root-port,id=p5,chassis=5,addr=6",
    "pcie-root-port,id=p6,chassis=6,addr=7",
    "virtio-balloon-pci,id=card,bus=p6,aer=on",
];

/// What comes later.
const STEPS: [&str; 5] = [
    "device_add nvme,serial=2,bus=p4",
    "device_add nvme,serial=3,bus=d2",
    "pcie_aer_inject_error p5 MALF_TLP",
    "pcie_aer_inject_error d1 MALF_TLP",
    "pcie_aer_inject_error card MALF_TLP",
];

/// What Linux knows of each function: driver, size of the configuration space, sizes of
/// BARs and of the ROM. And whose the features of PCI Express are.
const SCRIPT: &str = r#"#!/bin/sh
dmesg | sed -n 's/.*_OSC: /found _OSC: /p'
# The balloon reports errors: device control, behind its PCI Express capability (10).
card=$(dirname $(grep -l 0x1045 /sys/bus/pci/devices/*/device))
byte() { hexdump -s $1 -n 1 -e '1/1 "%d"' $card/config; }
at=$(byte 52)
until [ $(byte $at) = 16 ]; do at=$(byte $((at + 1))); done
printf '\017' | dd of=$card/config bs=1 seek=$((at + 8)) conv=notrunc 2>/dev/null
functions() { set -- /sys/bus/pci/devices/*; echo $#; }
before=$(functions)
echo "ready for more"
reports() { dmesg | grep -o 'error message received from .*'; }
until [ $(functions) -ge $((before + 2)) ] && [ $(reports | wc -l) = 3 ]; do sleep 1; done
reports | sort | sed 's/^/found /'
for d in /sys/bus/pci/devices/*; do
    driver=$(readlink $d/driver)
    echo "found ${d##*/} $(cat $d/vendor $d/device $d/class | tr '\n' ' ') ${driver##*/}" \
        $(stat -c %s $d/config) $(head -7 $d/resource | while read start end _; do echo $((end - start)); done)
done
"#;

/// What Linux finds with this firmware instead of ours.
fn found(firmware: Option<&str>) -> Result<Vec<String>> {
    let dir = tempfile::tempdir()?;
    let initrd = dir.path().join("initrd");
    let archive = Initramfs::standard(Arch::Amd64)?.file("look", 0o755, SCRIPT);
    fs::write(&initrd, archive.archive()?)?;
    let words = "quiet qboot.do=poweroff qboot.run=/look";
    let qemu = guest::boot(Q35, Flavour::CloudAmd64, Kind::Pvh, Time::Host, words)?;
    let mut qemu = qemu.initrd(&initrd).qmp();
    if let Some(firmware) = firmware {
        qemu = qemu.bios(firmware);
    }
    let mut vm = qemu.devices(DEVICES).spawn()?;
    vm.wait_serial("ready for more", TIMEOUT)?;
    for step in STEPS {
        let answer = vm.monitor(step)?;
        ensure!(
            answer.trim().is_empty() || answer.starts_with("OK"),
            "{step}: {answer}"
        );
    }
    let serial = guest::wait_end(&mut vm, TIMEOUT).with_context(|| vm.serial())?;
    let lines = serial.lines().filter(|line| line.starts_with("found "));
    Ok(lines.map(str::to_owned).collect())
}

#[test]
fn linux_finds_what_it_finds_with_seabios() -> Result<()> {
    let ours = found(None)?;
    for part in ["OS now controls [PME AER ", "error message received"] {
        ensure!(
            ours.iter().any(|line| line.contains(part)),
            "no {part}: {ours:#?}"
        );
    }
    let seabios = found(Some(Q35.seabios))?;
    ensure!(ours == seabios, "{ours:#?}\nSeaBIOS: {seabios:#?}");
    Ok(())
}
