//! The PCI library on real device models, without a processor: QEMU's qtest
//! protocol stands for ports and memory, `info pci` shows the result, and
//! SeaBIOS on the same machine shows another firmware's.

use anyhow::{Context as _, Result, bail};
use qboot::layout::{MICROVM_ECAM, Q35_ECAM};
use qboot::pci::{self, Access, Apertures, Bdf, Config as _, Routing, Summary};
use qboot::sim::Board;
use qboot_tests::machines::*;
use qboot_tests::pci::{Functions, check, parse, same_as_seabios};
use qboot_tests::{DEBUG_CONSOLE, Kind, Options, PROBE_TIMEOUT, Probe};
use xtask::qemu::Qemu;

#[path = "pci/boots.rs"]
mod boots;
#[path = "pci/buses.rs"]
mod buses;
#[path = "pci/linux.rs"]
mod linux;
#[path = "pci/qtest.rs"]
mod qtest;

use qtest::Qtest;

/// What a test starts.
struct Setup {
    machine: Machine,
    extra_roots: u8,
    devices: Vec<String>,
    args: &'static [&'static str],
}

impl Setup {
    fn new<S: Into<String>>(machine: Machine, devices: impl IntoIterator<Item = S>) -> Self {
        Self {
            machine,
            extra_roots: 0,
            devices: devices.into_iter().map(Into::into).collect(),
            args: &[],
        }
    }

    fn with_roots(self, extra_roots: u8) -> Self {
        Self {
            extra_roots,
            ..self
        }
    }

    /// Adds the devices; objects that they use come first.
    fn plug(&self, qemu: Qemu) -> Qemu {
        qemu.args(self.args).devices(&self.devices)
    }

    /// The machine with another firmware than ours.
    fn qemu(&self) -> Qemu {
        let qemu = Qemu::new(&self.machine.to_string());
        self.plug(qemu.serial("none").qmp())
    }

    /// Runs the library on a machine that stands still.
    fn ours(&self) -> Result<Outcome> {
        const RAM_END: u32 = 512 << 20;
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("qtest");
        let mut vm = self
            .qemu()
            .args(["-S", "-qtest-log", "/dev/null", "-qtest"])
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .spawn()?;
        let mut qtest = Qtest::connect(&socket)?;
        let mut scratch = vec![0xa5; 0x4_0000];
        if self.machine.is(Q35) {
            let bar = Q35_ECAM.start() | 1;
            Access::cam(&mut qtest).write32(Bdf::default(), 0x60, bar);
        }
        qtest.accesses = 0;
        let (mut config, routing, apertures) = match self.machine.board {
            Board::Q35 => (
                Access::ecam(&mut qtest, Q35_ECAM.start(), u8::MAX),
                Routing::Ich9,
                Apertures::q35(RAM_END, 0, 40),
            ),
            Board::Pc => (
                Access::cam(&mut qtest),
                Routing::Piix,
                Apertures::i440fx(RAM_END, 0, 40),
            ),
            // microvm, whose second I/O APIC takes the lower inputs' place.
            Board::Microvm => (
                Access::ecam(&mut qtest, MICROVM_ECAM.start(), u8::MAX),
                Routing::Gpex(if self.machine.options.contains("ioapic2=off") {
                    12
                } else {
                    16
                }),
                Apertures::microvm(40),
            ),
        };
        let roots = self.extra_roots;
        let summary = pci::full(&mut config, roots, routing, &apertures, &mut scratch);
        let accesses = qtest.accesses;
        let summary = match summary {
            Ok(summary) => summary,
            Err(error) => bail!("{}", error.message()),
        };
        let text = vm.monitor("info pci")?;
        let tree = vm.monitor("info mtree -f")?;
        let functions = parse(&text)?;
        let ports = !self.machine.is(MICROVM);
        check(&functions, ports).with_context(|| text.clone())?;
        assert_eq!(summary.unplaced, 0, "{text}");
        vm.quit()?;
        Ok(Outcome {
            summary,
            accesses,
            functions,
            text,
            tree,
        })
    }

    /// Boots a probe with the ROM, told to assign everything.
    fn rom(&self) -> Result<Functions> {
        let probe = Probe::new(Kind::Pvh)?;
        let qemu = probe.machine(self.machine)?.option("pci", "full");
        let (_, mut vm) = probe.boot(&self.plug(qemu))?;
        let text = vm.monitor("info pci")?;
        vm.quit()?;
        parse(&text)
    }

    /// Lets SeaBIOS set the same machine up.
    fn seabios(&self) -> Result<Functions> {
        let mut vm = self.qemu().debugcon(DEBUG_CONSOLE).spawn()?;
        // It counts the processors after PCI is done.
        vm.wait_for("SeaBIOS past PCI", PROBE_TIMEOUT, |vm| {
            String::from_utf8_lossy(&vm.debugcon(DEBUG_CONSOLE)).contains("max supported")
        })?;
        let text = vm.monitor("info pci")?;
        vm.quit()?;
        parse(&text)
    }

    /// Runs the library, and compares with SeaBIOS.
    fn compare(&self) -> Result<Outcome> {
        let ours = self.ours()?;
        same_as_seabios(&ours.functions, &self.seabios()?);
        Ok(ours)
    }
}

struct Outcome {
    summary: Summary,
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
    assert_eq!(ours.summary.last_bus, 20);
    // What C qboot takes to number the buses alone.
    assert!(ours.accesses <= 2_084, "{} accesses", ours.accesses);
    println!("20 root ports: {} accesses", ours.accesses);
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
    for setup in [Setup::new(PC, pc), Setup::new(Q35, q35)] {
        let setup = setup.with_roots(2);
        let ours = setup.compare()?;
        let roots: Vec<u8> = ours.summary.roots.iter().collect();
        assert_eq!(roots, [0, 0x40, 0x80]);
        println!("{}: {} accesses", setup.machine, ours.accesses);
    }
    Ok(())
}

/// More ports than there is I/O space for, which halts SeaBIOS.
#[test]
fn eighty_bridges() -> Result<()> {
    let devices = root_ports(80).chain(["e1000e,bus=b80".to_owned()]);
    let ours = Setup::new(Q35, devices).ours()?;
    println!("80 root ports: {} accesses", ours.accesses);
    Ok(())
}

#[test]
fn microvm_with_pcie() -> Result<()> {
    let devices = [
        "virtio-net-pci",
        "pci-testdev,membar=64G",
        "pcie-root-port,id=p1,slot=1",
        "nvme,serial=1,bus=p1",
    ];
    Setup::new(MICROVM_PCIE, devices).ours()?;
    Ok(())
}
