//! The PCI library on real device models, without a processor: QEMU's qtest
//! protocol stands for ports and memory, `info pci` shows the result, and
//! SeaBIOS on the same machine shows another firmware's.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use qboot::io::{Mmio, PortIo};
use qboot::layout::{MICROVM_ECAM, Q35_ECAM};
use qboot::pci::{self, Access, Apertures, Bdf, Config as _, Routing, Summary};
use qboot_tests::{Kind, Probe, rom};
use rstest::rstest;
use xtask::initramfs::{self, Arch, MARKER};
use xtask::kernel::{self, Flavour};
use xtask::qemu::{Qemu, Vm};

/// One access a line, answered with `OK` and the value.
struct Qtest {
    answers: BufReader<UnixStream>,
    accesses: usize,
}

impl Qtest {
    fn connect(path: &std::path::Path) -> Result<Self> {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            match UnixStream::connect(path) {
                Ok(stream) => {
                    return Ok(Self {
                        answers: BufReader::new(stream),
                        accesses: 0,
                    });
                }
                Err(error) if Instant::now() > end => return Err(error.into()),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn command(&mut self, line: &str) -> Result<u32> {
        self.accesses += 1;
        self.answers.get_mut().write_all(line.as_bytes())?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        let value = answer
            .trim()
            .strip_prefix("OK")
            .with_context(|| format!("{line:?}: {answer:?}"))?
            .trim();
        let hex = value.strip_prefix("0x").unwrap_or("0");
        Ok(u64::from_str_radix(hex, 16)? as u32)
    }

    fn ask(&mut self, line: std::fmt::Arguments<'_>) -> u32 {
        self.command(&format!("{line}\n")).expect("qtest answers")
    }
}

impl PortIo for Qtest {
    fn in8(&mut self, port: u16) -> u8 {
        self.ask(format_args!("inb {port:#x}")) as u8
    }
    fn in16(&mut self, port: u16) -> u16 {
        self.ask(format_args!("inw {port:#x}")) as u16
    }
    fn in32(&mut self, port: u16) -> u32 {
        self.ask(format_args!("inl {port:#x}"))
    }
    fn out8(&mut self, port: u16, value: u8) {
        self.ask(format_args!("outb {port:#x} {value:#x}"));
    }
    fn out16(&mut self, port: u16, value: u16) {
        self.ask(format_args!("outw {port:#x} {value:#x}"));
    }
    fn out32(&mut self, port: u16, value: u32) {
        self.ask(format_args!("outl {port:#x} {value:#x}"));
    }
}

impl Mmio for Qtest {
    fn read8(&mut self, addr: u32) -> u8 {
        self.ask(format_args!("readb {addr:#x}")) as u8
    }
    fn read16(&mut self, addr: u32) -> u16 {
        self.ask(format_args!("readw {addr:#x}")) as u16
    }
    fn read32(&mut self, addr: u32) -> u32 {
        self.ask(format_args!("readl {addr:#x}"))
    }
    fn write8(&mut self, addr: u32, value: u8) {
        self.ask(format_args!("writeb {addr:#x} {value:#x}"));
    }
    fn write16(&mut self, addr: u32, value: u16) {
        self.ask(format_args!("writew {addr:#x} {value:#x}"));
    }
    fn write32(&mut self, addr: u32, value: u32) {
        self.ask(format_args!("writel {addr:#x} {value:#x}"));
    }
}

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
        vm.wait_for("SeaBIOS past PCI", Duration::from_secs(60), |vm| {
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

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Function {
    id: String,
    line: Option<String>,
    buses: Option<(u8, u8)>,
    /// I/O, memory, prefetchable: first and last address.
    windows: Vec<(u64, u64)>,
    /// By number: what it is, first and last address.
    bars: BTreeMap<u8, (String, u64, u64)>,
}

fn number(text: &str) -> Result<u64> {
    let text = text.trim_matches(|c: char| !c.is_ascii_hexdigit() && c != 'x');
    match text.strip_prefix("0x") {
        Some(hex) => Ok(u64::from_str_radix(hex, 16)?),
        None => Ok(text.parse()?),
    }
}

/// Reads the monitor's `info pci`.
fn parse(text: &str) -> Result<BTreeMap<u16, Function>> {
    let mut all = BTreeMap::new();
    let mut at = 0;
    for line in text.lines() {
        let line = line.trim();
        let words: Vec<&str> = line.split_whitespace().collect();
        if line.starts_with("Bus ") && line.ends_with(':') {
            // Bus  0, device   3, function 0:
            let [bus, device, function] = [1, 3, 5].map(|word| number(words[word]));
            at = Bdf::new(bus? as u8, device? as u8, function? as u8).bits();
            let old = all.insert(at, Function::default());
            ensure!(old.is_none(), "two functions at {at:#x}:\n{text}");
            continue;
        }
        let Some(current) = all.get_mut(&at) else {
            continue;
        };
        if let Some((_, id)) = line.split_once(": PCI device ") {
            current.id = id.to_owned();
        } else if line.starts_with("IRQ ") {
            current.line = Some(line.to_owned());
        } else if line.starts_with("secondary bus ") {
            current.buses = Some((number(words[2])? as u8, 0));
        } else if line.starts_with("subordinate bus ") {
            let secondary = current.buses.map_or(0, |(secondary, _)| secondary);
            current.buses = Some((secondary, number(words[2])? as u8));
        } else if let Some((_, range)) = line.split_once("range [") {
            let (start, end) = range.split_once(", ").context("a range")?;
            current.windows.push((number(start)?, number(end)?));
        } else if let Some(bar) = line.strip_prefix("BAR") {
            let (index, rest) = bar.split_once(": ").context("a BAR")?;
            let (kind, place) = rest.split_once(" at ").context("a BAR's place")?;
            let (start, end) = place.split_once(" [").context("a BAR's end")?;
            let range = (kind.to_owned(), number(start)?, number(end)?);
            current.bars.insert(index.parse()?, range);
        }
    }
    Ok(all)
}

const UNMAPPED: u64 = u64::MAX;

/// Everything is somewhere of its own, and behind its bridge; `ports` says
/// that there are any.
fn check(functions: &BTreeMap<u16, Function>, ports: bool) -> Result<()> {
    let mut taken: Vec<(bool, u64, u64, String)> = Vec::new();
    for (bdf, function) in functions {
        let bridge = functions.iter().find(|(_, bridge)| {
            bridge.buses.is_some_and(|(secondary, _)| {
                secondary == Bdf::from_bits(*bdf).bus() && secondary != 0
            })
        });
        let inside = |io: bool, start: u64, end: u64| {
            bridge.is_none_or(|(_, bridge)| {
                let windows = if io {
                    &bridge.windows[..1]
                } else {
                    &bridge.windows[1..]
                };
                windows
                    .iter()
                    .any(|(first, last)| *first <= start && end <= *last)
            })
        };
        for (bar, (kind, start, end)) in &function.bars {
            let name = format!("{bdf:#06x} {} BAR{bar} {start:#x}", function.id);
            let io = kind.starts_with("I/O");
            if *start == UNMAPPED {
                // Only expansion ROMs are off.
                ensure!(*bar == 6 || io && !ports, "{name} is not mapped");
                continue;
            }
            ensure!(
                inside(io, *start, *end),
                "{name} is outside its bridge's windows"
            );
            for (other_io, first, last, other) in &taken {
                ensure!(
                    *other_io != io || end < first || last < start,
                    "{name} overlaps {other}"
                );
            }
            taken.push((io, *start, *end, name));
        }
        for (window, (start, end)) in function.windows.iter().enumerate() {
            if start <= end {
                ensure!(
                    inside(window == 0, *start, *end),
                    "window {window} of {bdf:#06x} is outside its bridge's"
                );
            }
        }
    }
    Ok(())
}

/// Buses, interrupt lines, and which BARs have an address are as under
/// SeaBIOS.
fn same_as_seabios(ours: &Outcome, theirs: &BTreeMap<u16, Function>) {
    let view = |functions: &BTreeMap<u16, Function>| {
        let mut view = String::new();
        for (bdf, function) in functions {
            let Function {
                id,
                line,
                buses,
                bars,
                ..
            } = function;
            write!(view, "{bdf:#06x} {id} {line:?} {buses:?}").unwrap();
            for (bar, (kind, start, end)) in bars {
                let mapped = *start != UNMAPPED;
                let last = if mapped { end - start } else { end + 1 };
                write!(view, ", BAR{bar} {kind} {mapped} {last:#x}").unwrap();
            }
            view.push('\n');
        }
        view
    };
    assert_eq!(view(&ours.functions), view(theirs));
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
    same_as_seabios(&ours, &machine.seabios()?);
    Ok(())
}

#[test]
fn q35_with_a_switch() -> Result<()> {
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
    same_as_seabios(&ours, &machine.seabios()?);
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
        same_as_seabios(&ours, &machine.seabios()?);
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
        same_as_seabios(&ours, &machine.seabios()?);
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
    xtask::probe::wait(&mut vm, 1, Duration::from_secs(60))?;
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
    let mut vm = Qemu::new(machine.name)
        .memory_mib(machine.memory_mib)
        .bios(rom()?)
        .kernel(kernel::debian(Flavour::CloudAmd64)?.bzimage)
        .initrd(initramfs::standard(Arch::Amd64)?)
        .append(&format!("console=ttyS0 panic=-1 {words}"))
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
