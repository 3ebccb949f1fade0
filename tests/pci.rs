//! The PCI library on real device models, without a processor: QEMU's qtest
//! protocol stands for ports and memory, `info pci` shows the result, and
//! SeaBIOS on the same machine shows another firmware's.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use qboot::layout::{MICROVM_ECAM, Q35_ECAM};
use qboot::pci::{self, Access, Apertures, Bdf, Config as _, Routing, Summary};
use qboot_tests::{Kind, PROBE_TIMEOUT, Probe};
use xtask::qemu::{Qemu, Vm};

#[path = "pci/boots.rs"]
mod boots;
#[path = "pci/info.rs"]
mod info;
#[path = "pci/qtest.rs"]
mod qtest;

use info::{Function, check, parse, same_as_seabios};
use qtest::Qtest;

const I440FX: u32 = 0x1237_8086;
const Q35: u32 = 0x29c0_8086;

/// What a test starts.
struct Machine<'a> {
    name: &'a str,
    memory_mib: u64,
    extra_roots: u8,
    args: &'a [&'a str],
}

impl Machine<'_> {
    fn qemu(&self) -> Qemu {
        Qemu::new(self.name)
            .memory_mib(self.memory_mib)
            .no_serial()
            .qmp()
            .args(self.args.iter().copied())
    }

    /// Runs the library on a machine that stands still.
    fn ours(&self) -> Result<Outcome> {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("qtest");
        let mut vm = self
            .qemu()
            .args(["-S", "-qtest-log", "/dev/null", "-qtest"])
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .spawn()?;
        let mut qtest = Qtest::connect(&socket)?;
        let mut scratch = vec![0xa5; 0x4_0000];
        let low = u32::try_from((self.memory_mib << 20).min(0x8000_0000))?;
        let bridge = Access::cam(&mut qtest).read32(Bdf::default(), 0);
        if bridge == Q35 {
            let bar = Q35_ECAM.start() | 1;
            Access::cam(&mut qtest).write32(Bdf::default(), 0x60, bar);
        }
        qtest.accesses = 0;
        let (mut config, routing, apertures) = match bridge {
            Q35 => (
                Access::ecam(&mut qtest, Q35_ECAM.start()),
                Routing::Ich9,
                Apertures::q35(low, 0, 40),
            ),
            I440FX => (
                Access::cam(&mut qtest),
                Routing::Piix,
                Apertures::i440fx(low, 0, 40),
            ),
            // microvm, whose second I/O APIC takes the lower inputs' place.
            _ => (
                Access::ecam(&mut qtest, MICROVM_ECAM.start()),
                Routing::Gpex(if self.name.contains("ioapic2=off") {
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
        let ports = !self.name.starts_with("microvm");
        check(&functions, ports).with_context(|| text.clone())?;
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
    fn rom(&self) -> Result<BTreeMap<u16, Function>> {
        let probe = Probe::new(Kind::Pvh)?;
        let qemu = probe
            .machine(self.name)?
            .memory_mib(self.memory_mib)
            .args(["-fw_cfg", "name=opt/org.qboot/pci,string=full"])
            .args(self.args.iter().copied());
        let (_, mut vm) = probe.boot(&qemu)?;
        let text = vm.monitor("info pci")?;
        vm.quit()?;
        parse(&text)
    }

    /// Lets SeaBIOS set the same machine up.
    fn seabios(&self) -> Result<BTreeMap<u16, Function>> {
        const CONSOLE: u16 = 0x402;
        let mut vm: Vm = self.qemu().debugcon(CONSOLE).spawn()?;
        // It counts the processors after PCI is done.
        vm.wait_for("SeaBIOS past PCI", PROBE_TIMEOUT, |vm| {
            String::from_utf8_lossy(&vm.debugcon(CONSOLE)).contains("max supported")
        })?;
        let text = vm.monitor("info pci")?;
        vm.quit()?;
        parse(&text)
    }
}

struct Outcome {
    summary: Summary,
    accesses: usize,
    functions: BTreeMap<u16, Function>,
    text: String,
    tree: String,
}

const VARIETY: &[&str] = &[
    "-device",
    "VGA",
    "-device",
    "e1000",
    "-device",
    "virtio-net-pci,disable-modern=on",
    "-device",
    "virtio-rng-pci",
    "-device",
    "nvme,serial=1",
    "-device",
    "qemu-xhci",
    "-device",
    "ich9-ahci",
    "-device",
    "pci-bridge,id=b1,chassis_nr=1,addr=0x10",
    "-device",
    "pci-bridge,id=b2,chassis_nr=2,bus=b1,addr=3",
    "-device",
    "e1000,bus=b2,addr=5",
    "-device",
    "virtio-rng-pci,bus=b1,addr=9",
    "-device",
    "lsi53c895a,bus=b2,addr=7",
];

#[test]
fn pc_with_bridges() -> Result<()> {
    let machine = Machine {
        name: "pc",
        memory_mib: 512,
        extra_roots: 0,
        args: VARIETY,
    };
    let ours = machine.ours()?;
    assert_eq!(ours.summary.unplaced, 0);
    same_as_seabios(&ours.functions, &machine.seabios()?);
    Ok(())
}

#[test]
fn q35_with_a_switch() -> Result<()> {
    if !qboot_tests::has_device("qxl")? {
        let reason = "this QEMU has no qxl; in Debian 13 it is in qemu-system-modules-spice";
        qboot_tests::skip("q35_with_a_switch", reason);
        return Ok(());
    }
    let mut args = VARIETY.to_vec();
    args.extend([
        "-device",
        "pcie-root-port,id=p1,slot=1,addr=0x12.0,multifunction=on",
        "-device",
        "pcie-root-port,id=p2,slot=2,addr=0x12.1",
        "-device",
        "x3130-upstream,id=u1,bus=p1",
        "-device",
        "xio3130-downstream,id=d1,bus=u1,chassis=11,slot=11",
        "-device",
        "xio3130-downstream,id=d2,bus=u1,chassis=12,slot=12",
        "-device",
        "virtio-net-pci,bus=d1",
        "-device",
        "e1000e,bus=d2",
        "-device",
        "pcie-pci-bridge,id=pb,bus=p2",
        "-device",
        "virtio-rng-pci,bus=pb,addr=4",
        "-device",
        "qxl,bus=pb,addr=6",
        "-device",
        "ich9-intel-hda,addr=0x1b",
    ]);
    let machine = Machine {
        name: "q35",
        memory_mib: 512,
        extra_roots: 0,
        args: &args,
    };
    let ours = machine.ours()?;
    assert_eq!(ours.summary.unplaced, 0);
    same_as_seabios(&ours.functions, &machine.seabios()?);
    Ok(())
}

#[test]
fn twenty_root_ports() -> Result<()> {
    let ports: Vec<String> = (1..=20)
        .map(|slot| format!("pcie-root-port,id=p{slot},chassis={slot},slot={slot}"))
        .collect();
    let mut args = Vec::new();
    for port in &ports {
        args.extend(["-device", port.as_str()]);
    }
    let machine = Machine {
        name: "q35",
        memory_mib: 512,
        extra_roots: 0,
        args: &args,
    };
    let ours = machine.ours()?;
    assert_eq!(ours.summary.unplaced, 0);
    assert_eq!(ours.summary.last_bus, 20);
    // What C qboot takes to number the buses alone.
    assert!(ours.accesses <= 2_084, "{} accesses", ours.accesses);
    println!("20 root ports: {} accesses", ours.accesses);
    Ok(())
}

#[test]
fn large_bars() -> Result<()> {
    for name in ["pc", "q35"] {
        let mut args = vec!["-device", "pci-testdev,membar=64G"];
        // Real memory, for QEMU's map to show; it is never touched.
        args.extend([
            "-object",
            "memory-backend-ram,id=m,size=64G,share=on,reserve=off",
        ]);
        if name == "q35" {
            args.extend([
                "-device", "pcie-root-port,id=p1,slot=1",
                "-device", "ivshmem-plain,memdev=m,bus=p1",
                "-device", "pcie-root-port,id=p2,slot=2,pref64-reserve=32G,mem-reserve=8M,io-reserve=8K,bus-reserve=3",
                "-device", "pcie-root-port,id=p3,slot=3,pref32-reserve=16M",
            ]);
        } else {
            args.extend([
                "-device",
                "pci-bridge,id=b1,chassis_nr=1",
                "-device",
                "ivshmem-plain,memdev=m,bus=b1,addr=3",
            ]);
        }
        let machine = Machine {
            name,
            memory_mib: 512,
            extra_roots: 0,
            args: &args,
        };
        let ours = machine.ours()?;
        assert_eq!(ours.summary.unplaced, 0);
        let large = ours
            .functions
            .values()
            .flat_map(|function| function.bars.values());
        let large: Vec<u64> = large
            .filter(|(_, start, end)| end.wrapping_sub(*start) == (64 << 30) - 1)
            .map(|(_, start, _)| *start)
            .collect();
        assert_eq!(large.len(), 2, "{}", ours.text);
        assert!(large.iter().all(|start| *start >= 1 << 32));
        // QEMU has the one behind the bridge on its map.
        let seen = large.iter().any(|start| {
            let line = format!("{start:016x}-{:016x} (prio 1, ram)", start + (64 << 30) - 1);
            ours.tree.contains(&line)
        });
        assert!(seen, "{large:x?} {}", ours.tree);
        if name == "q35" {
            let port = ours.functions.values().find(|function| {
                function
                    .buses
                    .is_some_and(|(first, last)| last == first + 3)
            });
            let windows = &port.context("a port with three buses more")?.windows;
            let size = |index: usize| windows[index].1 - windows[index].0 + 1;
            assert_eq!([size(0), size(1), size(2)], [8 << 10, 8 << 20, 32 << 30]);
        }
        same_as_seabios(&ours.functions, &machine.seabios()?);
    }
    Ok(())
}

#[test]
fn expander_buses() -> Result<()> {
    let pc = Machine {
        name: "pc",
        memory_mib: 512,
        extra_roots: 2,
        args: &[
            "-device",
            "pxb,id=x1,bus_nr=0x40",
            "-device",
            "pxb,id=x2,bus_nr=0x80,bus=pci.0",
            "-device",
            "e1000,bus=x1,addr=3",
            "-device",
            "virtio-rng-pci,bus=x2,addr=4",
        ],
    };
    let q35 = Machine {
        name: "q35",
        memory_mib: 512,
        extra_roots: 2,
        args: &[
            "-device",
            "pxb-pcie,id=x1,bus_nr=0x40",
            "-device",
            "pxb-pcie,id=x2,bus_nr=0x80,bus=pcie.0",
            "-device",
            "pcie-root-port,id=p1,slot=1,bus=x1",
            "-device",
            "pcie-root-port,id=p2,slot=2,bus=x2,addr=5",
            "-device",
            "e1000e,bus=p1",
            "-device",
            "virtio-rng-pci,bus=p2",
        ],
    };
    for machine in [pc, q35] {
        let ours = machine.ours()?;
        let roots: Vec<u8> = ours.summary.roots.iter().collect();
        assert_eq!(roots, [0, 0x40, 0x80]);
        assert_eq!(ours.summary.unplaced, 0);
        println!("{}: {} accesses", machine.name, ours.accesses);
        same_as_seabios(&ours.functions, &machine.seabios()?);
    }
    Ok(())
}

#[test]
fn eighty_bridges() -> Result<()> {
    // More ports than there is I/O space for, which halts SeaBIOS.
    let mut args: Vec<String> = Vec::new();
    for port in 0..80 {
        let (device, function) = (port / 8 + 2, port % 8);
        args.extend([
            "-device".into(),
            format!(
                "pcie-root-port,id=p{port},chassis={port},slot={port},addr={device:#x}.{function}{}",
                if function == 0 { ",multifunction=on" } else { "" }
            ),
        ]);
    }
    args.extend(["-device".into(), "e1000e,bus=p79".into()]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let machine = Machine {
        name: "q35",
        memory_mib: 512,
        extra_roots: 0,
        args: &args,
    };
    let ours = machine.ours()?;
    assert_eq!(ours.summary.unplaced, 0);
    println!("80 root ports: {} accesses", ours.accesses);
    Ok(())
}

#[test]
fn microvm_with_pcie() -> Result<()> {
    let machine = Machine {
        name: "microvm,pcie=on",
        memory_mib: 512,
        extra_roots: 0,
        args: &[
            "-device",
            "virtio-net-pci",
            "-device",
            "pci-testdev,membar=64G",
            "-device",
            "pcie-root-port,id=p1,slot=1",
            "-device",
            "nvme,serial=1,bus=p1",
        ],
    };
    let ours = machine.ours()?;
    assert_eq!(ours.summary.unplaced, 0, "{}", ours.text);
    Ok(())
}
