//! PCI beyond what a sensible machine has.

use super::*;

fn with(
    name: &str,
    machine: Machine,
    setup: &str,
    devices: &[impl AsRef<str>],
    end: End,
) -> Result<Case> {
    let image = Kind::BzImage.image(Mode::Exit)?;
    let case = case(format!("{name}, {setup}"), machine, &image, end)?;
    Ok(case.with(|qemu| qemu.devices(devices).option("pci", setup)))
}

/// Eight functions in each of these slots of a bus.
fn many(device: &str, bus: &str, slots: std::ops::Range<u32>) -> Vec<String> {
    let functions = slots.flat_map(|slot| (0..8).map(move |function| (slot, function)));
    let named = functions.map(|(slot, function)| {
        format!("{device},bus={bus},addr={slot:#x}.{function},multifunction=on")
    });
    named.collect()
}

/// Conventional bridges side by side from slot 5 on, and such functions behind each.
fn behind_bridges(count: usize, root: &str, device: &str, slots: u32) -> Vec<String> {
    let bridge = |n| PC.bridge(n, root) + &format!(",addr={:#x}", n + 4);
    let mut devices: Vec<String> = (1..=count).map(bridge).collect();
    for n in 1..=count {
        devices.extend(many(device, &format!("b{n}"), 1..slots));
    }
    devices
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
    let mut cases = Cases::default();
    let files = allow_open_files()?;
    if files < FILES {
        let reason = format!("a process may open {files} files; QEMU needs {FILES}");
        qboot_tests::skip("many_functions_and_deep_trees: 960 functions", &reason);
    }
    // Four bridges of 30 slots with eight functions each: 960 in all.
    let thousand = behind_bridges(4, "pci.0", "pci-testdev", 31);
    for setup in ["auto", "none", "scan", "full"] {
        let flat = many("pci-testdev", "pci.0", 3..31);
        cases.push(with("224 functions", PC, setup, &flat, Either)?);
        if files >= FILES {
            cases.push(with("960 functions", PC, setup, &thousand, Either)?);
        }
        for levels in [4, 12, 30] {
            let chain = PC.chain(levels, "pci.0");
            let name = format!("{levels} levels");
            cases.push(with(&name, PC, setup, &chain, Either)?);
        }
    }
    let ports: Vec<String> = root_ports(80).collect();
    for setup in ["none", "scan", "full"] {
        let end = if setup == "none" { Entered } else { Either };
        cases.push(with("80 root ports", Q35, setup, &ports, end)?);
    }
    cases.run()
}

/// 9 bridges of 31 slots with eight functions each. Their ports do not fit, by
/// far: that is a warning. (QEMU itself gives up where thousands of memory
/// BARs get their addresses, and a descriptor for each event of a `pci-testdev`.)
#[test]
fn thousands_of_functions() -> Result<()> {
    let other = Kind::Pvh.other_than_linux(Mode::Exit, &[])?;
    let mut cases = Cases::default();
    for machine in CHIPSETS {
        let root = machine.pci.context("no PCI")?.root;
        let devices = behind_bridges(9, root, "am53c974", 32);
        for setup in ["none", "scan", "full"] {
            let name = format!("{} functions", devices.len());
            cases.push(with(&name, machine, setup, &devices, End::Entered)?);
        }
        // Another kernel than Linux has them set up unasked.
        let name = format!("{} functions, not Linux", devices.len());
        let case = case(name, machine, &other, End::Entered)?;
        cases.push(case.with(|qemu| qemu.devices(&devices)));
    }
    cases.run()
}

#[test]
fn absurd_bars() -> Result<()> {
    let mut cases = Cases::default();
    for (machine, devices) in [
        (PC, &["pci-testdev,membar=1T"][..]),
        (
            PC,
            &[
                "pci-testdev,membar=4G",
                "pci-testdev,membar=4G",
                "pci-testdev,membar=256G",
            ],
        ),
        (Q35, &["pci-testdev,membar=256T"]),
        (
            Q35,
            &[
                "pcie-root-port,id=p,chassis=1",
                "pci-testdev,membar=1T,bus=p",
            ],
        ),
        (
            Q35,
            &["pcie-root-port,id=p,chassis=1,pref64-reserve=7E,io-reserve=4G"],
        ),
        (Q35, &["pcie-root-port,id=p,chassis=1,bus-reserve=255"]),
        (Q35, &["pcie-root-port,id=p,chassis=1,mem-reserve=4095M"]),
        (MICROVM_PCIE, &["pci-testdev,membar=8T"]),
        // 512 MiB windows each, more than lies below 4 GiB.
        (PC, &["secondary-vga,vgamem_mb=512"; 8]),
    ] {
        for setup in ["none", "scan", "full"] {
            let name = devices.join(" ");
            cases.push(with(&name, machine, setup, devices, End::Either)?);
        }
    }
    cases.run()
}

/// Roots whose numbers lie where bridges' buses come to lie.
#[test]
fn bus_numbers_that_meet() -> Result<()> {
    let mut cases = Cases::default();
    for machine in CHIPSETS {
        let Pci { root, expander, .. } = machine.pci.context("no PCI")?;
        for roots in [&[1][..], &[2, 3, 4], &[255], &[1, 128, 254, 255]] {
            let expanders = roots.iter();
            let expanders = expanders.map(|n| format!("{expander},id=x{n},bus_nr={n},bus={root}"));
            let mut devices: Vec<String> = expanders.collect();
            devices.extend((1..7).map(|n| machine.bridge(n, root)));
            if machine == Q35 {
                devices.push(machine.bridge(7, &format!("x{}", roots[0])));
            }
            for setup in ["scan", "full"] {
                let name = format!("roots {roots:?}");
                cases.push(with(&name, machine, setup, &devices, End::Either)?);
            }
        }
    }
    cases.run()
}
