//! PCI beyond what a sensible machine has.

use super::*;
use xtask::probe::{BzImage, Elf, Mode};

fn with(name: &str, machine: &str, setup: &str, devices: &[String], end: End) -> Result<Case> {
    let image = BzImage::minimal(Mode::Exit)?.bytes();
    let mut case = case(format!("{name}, {setup}"), machine, &image, end)?;
    for device in devices {
        case.qemu = case.qemu.arg("-device").arg(device);
    }
    let option = format!("name=opt/org.qboot/pci,string={setup}");
    Ok(case.with(|qemu| qemu.arg("-fw_cfg").arg(option)))
}

/// `count` devices behind each of `buses`.
fn many(device: &str, buses: &[String], slots: std::ops::Range<u32>) -> Vec<String> {
    let each = |bus: &String| {
        let bus = bus.clone();
        slots.clone().flat_map(move |slot| {
            let bus = bus.clone();
            (0..8).map(move |function| (bus.clone(), slot, function))
        })
    };
    buses
        .iter()
        .flat_map(each)
        .map(|(bus, slot, function)| {
            format!("{device},bus={bus},addr={slot:#x}.{function},multifunction=on")
        })
        .collect()
}

/// Bridges, each behind the one before.
fn chain(bridge: &str, first: &str, levels: usize) -> Vec<String> {
    (0..levels)
        .map(|n| {
            let bus = if n == 0 {
                first.to_owned()
            } else {
                format!("c{}", n - 1)
            };
            format!("{bridge},id=c{n},bus={bus},chassis_nr={}", n + 1)
        })
        .collect()
}

/// Files that QEMU holds open for 960 `pci-testdev`, each of which has some for
/// its events.
const FILES: u64 = 8192;

/// Lets this process, and the QEMUs that it starts, open as many files as the
/// system allows at most, and tells how many: 1,024 are usual before.
fn allow_open_files() -> Result<u64> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

#[test]
fn many_functions_and_deep_trees() -> Result<()> {
    use End::{Either, Entered};
    let mut cases = Vec::new();
    let root = ["pci.0".to_owned()];
    let files = allow_open_files()?;
    if files < FILES {
        let reason = format!("a process may open {files} files; QEMU needs {FILES}");
        qboot_tests::skip("many_functions_and_deep_trees: 960 functions", &reason);
    }
    // Four bridges of 30 slots with eight functions each: 960 in all.
    let mut thousand: Vec<String> = (0..4)
        .map(|n| {
            format!(
                "pci-bridge,id=b{n},bus=pci.0,chassis_nr={},addr={:#x}",
                n + 1,
                n + 4
            )
        })
        .collect();
    let behind: Vec<String> = (0..4).map(|n| format!("b{n}")).collect();
    thousand.extend(many("pci-testdev", &behind, 1..31));
    for setup in ["auto", "none", "scan", "full"] {
        let flat = many("pci-testdev", &root, 3..31);
        cases.push(with("224 functions", "pc", setup, &flat, Either)?);
        if files >= FILES {
            cases.push(with("960 functions", "pc", setup, &thousand, Either)?);
        }
        for levels in [4, 12, 30] {
            let chain = chain("pci-bridge", "pci.0", levels);
            let name = format!("{levels} levels");
            cases.push(with(&name, "pc", setup, &chain, Either)?);
        }
    }
    let ports: Vec<String> = (0..80)
        .map(|n| {
            let (slot, function) = (n / 8 + 2, n % 8);
            let addr = format!("addr={slot:#x}.{function},multifunction=on");
            format!("pcie-root-port,id=p{n},bus=pcie.0,chassis={n},{addr}")
        })
        .collect();
    for setup in ["none", "scan", "full"] {
        let end = if setup == "none" { Entered } else { Either };
        cases.push(with("80 root ports", "q35", setup, &ports, end)?);
    }
    run(&cases)
}

/// 9 bridges of 31 slots with eight functions each. Their ports do not fit, by
/// far: that is a warning. (QEMU itself gives up where thousands of memory
/// BARs get their addresses, and a descriptor for each event of a `pci-testdev`.)
#[test]
fn thousands_of_functions() -> Result<()> {
    let elf = Elf {
        guest_os: None,
        ..Elf::new(Mode::Exit)?
    };
    let mut cases = Vec::new();
    for (machine, root) in [("pc", "pci.0"), ("q35", "pcie.0")] {
        let bridge = |n| {
            format!(
                "pci-bridge,id=b{n},bus={root},chassis_nr={},addr={:#x}",
                n + 1,
                n + 4
            )
        };
        let mut devices: Vec<String> = (0..9).map(bridge).collect();
        let behind: Vec<String> = (0..9).map(|n| format!("b{n}")).collect();
        devices.extend(many("am53c974", &behind, 1..32));
        for setup in ["none", "scan", "full"] {
            let name = format!("{} functions", devices.len());
            cases.push(with(&name, machine, setup, &devices, End::Entered)?);
        }
        // Another kernel than Linux has them set up unasked.
        let name = format!("{} functions, not Linux", devices.len());
        let mut case = case(name, machine, &elf.bytes()?, End::Entered)?;
        case.qemu = case.qemu.args(devices.iter().flat_map(|d| ["-device", d]));
        cases.push(case);
    }
    run(&cases)
}

#[test]
fn absurd_bars() -> Result<()> {
    let mut cases = Vec::new();
    for (machine, devices) in [
        ("pc", &["pci-testdev,membar=1T"][..]),
        (
            "pc",
            &[
                "pci-testdev,membar=4G",
                "pci-testdev,membar=4G",
                "pci-testdev,membar=256G",
            ],
        ),
        ("q35", &["pci-testdev,membar=256T"]),
        (
            "q35",
            &[
                "pcie-root-port,id=p,chassis=1",
                "pci-testdev,membar=1T,bus=p",
            ],
        ),
        (
            "q35",
            &["pcie-root-port,id=p,chassis=1,pref64-reserve=7E,io-reserve=4G"],
        ),
        ("q35", &["pcie-root-port,id=p,chassis=1,bus-reserve=255"]),
        ("q35", &["pcie-root-port,id=p,chassis=1,mem-reserve=4095M"]),
        ("microvm,pcie=on", &["pci-testdev,membar=8T"]),
        // 512 MiB windows each, more than lies below 4 GiB.
        ("pc", &["secondary-vga,vgamem_mb=512"; 8]),
    ] {
        for setup in ["none", "scan", "full"] {
            let devices: Vec<String> = devices.iter().map(|d| (*d).to_owned()).collect();
            cases.push(with(
                &devices.join(" "),
                machine,
                setup,
                &devices,
                End::Either,
            )?);
        }
    }
    run(&cases)
}

/// Roots whose numbers lie where bridges' buses come to lie.
#[test]
fn bus_numbers_that_meet() -> Result<()> {
    let mut cases = Vec::new();
    for (machine, expander, bus) in [("pc", "pxb", "pci.0"), ("q35", "pxb-pcie", "pcie.0")] {
        for roots in [&[1][..], &[2, 3, 4], &[255], &[1, 128, 254, 255]] {
            let mut devices: Vec<String> = roots
                .iter()
                .map(|n| format!("{expander},id=x{n},bus_nr={n},bus={bus}"))
                .collect();
            let bridge = |n: usize, bus: &str| match machine {
                "pc" => format!("pci-bridge,id=b{n},bus={bus},chassis_nr={}", n + 1),
                _ => format!("pcie-root-port,id=b{n},bus={bus},chassis={n}"),
            };
            for n in 0..6 {
                devices.push(bridge(n, bus));
            }
            if machine == "q35" {
                devices.push(bridge(6, &format!("x{}", roots[0])));
            }
            for setup in ["scan", "full"] {
                let name = format!("roots {roots:?}");
                cases.push(with(&name, machine, setup, &devices, End::Either)?);
            }
        }
    }
    run(&cases)
}
