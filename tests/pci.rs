//! What the ROM makes of PCI when it assigns everything: QEMU's `info pci` shows the
//! result, and SeaBIOS on the same machine shows another firmware's.

use std::fs;

use anyhow::{Context as _, Result};
use qboot_tests::machines::*;
use qboot_tests::pci::{Functions, check, parse, same_as_seabios};
use qboot_tests::{DEBUG_CONSOLE, Kind, PROBE_TIMEOUT, Probe};
use xtask::qemu::Qemu;

#[path = "pci/boots.rs"]
mod boots;
#[path = "pci/buses.rs"]
mod buses;
#[path = "pci/linux.rs"]
mod linux;

/// What a test starts.
struct Setup {
    machine: Machine,
    devices: Vec<String>,
    args: &'static [&'static str],
}

impl Setup {
    fn new<S: Into<String>>(machine: Machine, devices: impl IntoIterator<Item = S>) -> Self {
        Self {
            machine,
            devices: devices.into_iter().map(Into::into).collect(),
            args: &[],
        }
    }

    /// Adds the devices; objects that they use come first.
    fn plug(&self, qemu: Qemu) -> Qemu {
        qemu.args(self.args).devices(&self.devices)
    }

    /// Boots a probe with the ROM, told to assign everything.
    fn ours(&self) -> Result<Outcome> {
        let probe = Probe::new(Kind::Pvh)?;
        let qemu = probe.machine(self.machine)?.option("pci", "full");
        let qemu = self.plug(qemu).trace("memory_region_ops_*");
        let (_, mut vm) = probe.boot(&qemu)?;
        let text = vm.monitor("info pci")?;
        let tree = vm.monitor("info mtree -f")?;
        let trace = fs::read_to_string(vm.trace_path())?;
        let accesses = trace.matches("'pcie-mmcfg-mmio'").count();
        // What has no place is warned of.
        assert_eq!(vm.serial(), "", "{text}");
        let functions = parse(&text)?;
        let ports = !self.machine.is(MICROVM);
        check(&functions, ports).with_context(|| text.clone())?;
        vm.quit()?;
        Ok(Outcome {
            accesses,
            functions,
            text,
            tree,
        })
    }

    /// Lets SeaBIOS set the same machine up.
    fn seabios(&self) -> Result<Functions> {
        let qemu = Qemu::new(&self.machine.to_string()).serial("none").qmp();
        let mut vm = self.plug(qemu).debugcon(DEBUG_CONSOLE).spawn()?;
        // It counts the processors after PCI is done.
        vm.wait_for("SeaBIOS past PCI", PROBE_TIMEOUT, |vm| {
            String::from_utf8_lossy(&vm.debugcon(DEBUG_CONSOLE)).contains("max supported")
        })?;
        let text = vm.monitor("info pci")?;
        vm.quit()?;
        parse(&text)
    }

    /// Boots with the ROM, and compares with SeaBIOS.
    fn compare(&self) -> Result<Outcome> {
        let ours = self.ours()?;
        same_as_seabios(&ours.functions, &self.seabios()?);
        Ok(ours)
    }
}

struct Outcome {
    /// Of the ECAM.
    accesses: usize,
    functions: Functions,
    text: String,
    tree: String,
}

const VARIETY: [&str; 12] = [
    "VGA",
    "e1000",
    "virtio-net-pci,disable-modern=on",
    "virtio-rng-pci",
    "nvme,serial=1",
    "qemu-xhci",
    "ich9-ahci",
    "pci-bridge,id=b1,chassis_nr=1,addr=0x10",
    "pci-bridge,id=b2,chassis_nr=2,bus=b1,addr=3",
    "e1000,bus=b2,addr=5",
    "virtio-rng-pci,bus=b1,addr=9",
    "lsi53c895a,bus=b2,addr=7",
];

#[test]
fn pc_with_bridges() -> Result<()> {
    Setup::new(PC, VARIETY).compare()?;
    Ok(())
}

#[test]
fn q35_with_a_switch() -> Result<()> {
    if !qboot_tests::has_device("qxl")? {
        let reason = "this QEMU has no qxl; in Debian 13 it is in qemu-system-modules-spice";
        qboot_tests::skip("q35_with_a_switch", reason);
        return Ok(());
    }
    let switch = [
        "pcie-root-port,id=p1,slot=1,addr=0x12.0,multifunction=on",
        "pcie-root-port,id=p2,slot=2,addr=0x12.1",
        "x3130-upstream,id=u1,bus=p1",
        "xio3130-downstream,id=d1,bus=u1,chassis=11,slot=11",
        "xio3130-downstream,id=d2,bus=u1,chassis=12,slot=12",
        "virtio-net-pci,bus=d1",
        "e1000e,bus=d2",
        "pcie-pci-bridge,id=pb,bus=p2",
        "virtio-rng-pci,bus=pb,addr=4",
        "qxl,bus=pb,addr=6",
        "ich9-intel-hda,addr=0x1b",
    ];
    Setup::new(Q35, VARIETY.into_iter().chain(switch)).compare()?;
    Ok(())
}

#[test]
fn twenty_root_ports() -> Result<()> {
    let ports = (1..=20).map(|n| Q35.bridge(n, "pcie.0"));
    let ours = Setup::new(Q35, ports).ours()?;
    let buses = ours.functions.values().filter_map(|one| one.buses);
    assert_eq!(buses.map(|(_, last)| last).max(), Some(20));
    // What C qboot takes to number the buses alone.
    assert!(
        ours.accesses > 0 && ours.accesses <= 2_084,
        "{} accesses",
        ours.accesses
    );
    Ok(())
}

/// Two BARs of 64 GiB: one on the root bus, one behind a bridge.
fn large_bars(machine: Machine, devices: &[&str]) -> Result<Outcome> {
    let setup = Setup {
        // Real memory, for QEMU's map to show; it is never touched.
        args: &[
            "-object",
            "memory-backend-ram,id=m,size=64G,share=on,reserve=off",
        ],
        ..Setup::new(machine, devices.iter().copied())
    };
    let ours = setup.compare()?;
    let bars = ours.functions.values().flat_map(|f| f.bars.values());
    let large = bars.filter(|(_, start, end)| end.wrapping_sub(*start) == (64 << 30) - 1);
    let large: Vec<u64> = large.map(|(_, start, _)| *start).collect();
    assert_eq!(large.len(), 2, "{}", ours.text);
    assert!(large.iter().all(|start| *start >= 1 << 32));
    // QEMU has the one behind the bridge on its map.
    let seen = large.iter().any(|start| {
        let line = format!("{start:016x}-{:016x} (prio 1, ram)", start + (64 << 30) - 1);
        ours.tree.contains(&line)
    });
    assert!(seen, "{large:x?} {}", ours.tree);
    Ok(ours)
}

#[test]
fn large_bars_on_pc() -> Result<()> {
    let devices = [
        "pci-testdev,membar=64G",
        "pci-bridge,id=b1,chassis_nr=1",
        "ivshmem-plain,memdev=m,bus=b1,addr=3",
    ];
    large_bars(PC, &devices)?;
    Ok(())
}

#[test]
fn large_bars_and_reserved_windows_on_q35() -> Result<()> {
    let devices = [
        "pci-testdev,membar=64G",
        "pcie-root-port,id=p1,slot=1",
        "ivshmem-plain,memdev=m,bus=p1",
        "pcie-root-port,id=p2,slot=2,pref64-reserve=32G,mem-reserve=8M,io-reserve=8K,bus-reserve=3",
        "pcie-root-port,id=p3,slot=3,pref32-reserve=16M",
    ];
    let ours = large_bars(Q35, &devices)?;
    let three = |buses: Option<(u8, u8)>| buses.is_some_and(|(first, last)| last == first + 3);
    let mut ports = ours.functions.values();
    let port = ports.find(|function| three(function.buses));
    let windows = &port.context("a port with three buses more")?.windows;
    let sizes: Vec<u64> = windows.iter().map(|(start, end)| end - start + 1).collect();
    assert_eq!(sizes, [8 << 10, 8 << 20, 32 << 30]);
    Ok(())
}

#[test]
fn expander_buses() -> Result<()> {
    let pc = [
        "pxb,id=x1,bus_nr=0x40",
        "pxb,id=x2,bus_nr=0x80,bus=pci.0",
        "e1000,bus=x1,addr=3",
        "virtio-rng-pci,bus=x2,addr=4",
    ];
    let q35 = [
        "pxb-pcie,id=x1,bus_nr=0x40",
        "pxb-pcie,id=x2,bus_nr=0x80,bus=pcie.0",
        "pcie-root-port,id=p1,slot=1,bus=x1",
        "pcie-root-port,id=p2,slot=2,bus=x2,addr=5",
        "e1000e,bus=p1",
        "virtio-rng-pci,bus=p2",
    ];
    Setup::new(PC, pc).compare()?;
    Setup::new(Q35, q35).compare()?;
    Ok(())
}

/// More ports than there is I/O space for, which halts SeaBIOS.
#[test]
fn eighty_bridges() -> Result<()> {
    let devices = root_ports(80).chain(["e1000e,bus=b80".to_owned()]);
    Setup::new(Q35, devices).ours()?;
    Ok(())
}

/// The second I/O APIC, if there is one, has PCI's interrupts.
#[test]
fn microvm_with_pcie() -> Result<()> {
    let devices = [
        "virtio-net-pci",
        "pci-testdev,membar=64G",
        "pcie-root-port,id=p1,slot=1",
        "nvme,serial=1,bus=p1",
    ];
    for (machine, lines) in [
        (MICROVM_PCIE, 16..20),
        (MICROVM.with("pcie=on,ioapic2=off"), 12..16),
    ] {
        let ours = Setup::new(machine, devices).ours()?;
        let found = ours.functions.values().filter_map(|one| one.line.as_ref());
        let found: Vec<_> = found.collect();
        let is_right = |line: &&String| {
            let mut irqs = lines.clone().map(|irq| format!("IRQ {irq}, "));
            irqs.any(|irq| line.starts_with(&irq))
        };
        assert!(found.len() > 2 && found.iter().all(is_right), "{found:?}");
    }
    Ok(())
}
