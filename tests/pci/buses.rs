//! The buses that the MCFG table names, and what is reserved for them.

use anyhow::{Result, ensure};
use qboot_tests::acpi::Tables;
use qboot_tests::machines::*;
use qboot_tests::pci::parse;
use qboot_tests::{Kind, Probe};
use rstest::rstest;

/// Four root ports on bus 0.
const FOUR_PORTS: [&str; 4] = [
    "pcie-root-port,id=p1,chassis=1,addr=2",
    "pcie-root-port,id=p2,chassis=2,addr=3",
    "pcie-root-port,id=p3,chassis=3,addr=4",
    "pcie-root-port,id=p4,chassis=4,addr=5",
];

/// Boots a kernel that calls itself Linux; gives the last bus that the MCFG table
/// names, the MiB that are reserved for the ECAM, and QEMU's `info pci`.
fn boot<S: AsRef<str>>(
    devices: &[S],
    options: &[(&str, &str)],
    line: &str,
) -> Result<(u8, u64, String)> {
    let probe = Probe::new(Kind::Pvh)?;
    let qemu = probe.machine(Q35)?.append(line);
    let qemu = qemu.options(options).devices(devices);
    let (handover, mut vm) = probe.boot(&qemu)?;
    let tables = Tables::read(&mut vm, &handover)?;
    let mcfg = tables.get("MCFG")?;
    ensure!(
        mcfg.len() == 60 && mcfg[44..52] == 0xb000_0000_u64.to_le_bytes(),
        "{mcfg:x?}"
    );
    let reserved = handover.e820.iter().find(|entry| entry.addr == 0xb000_0000);
    let mib = reserved.map_or(0, |entry| entry.len >> 20);
    let text = vm.monitor("info pci")?;
    Ok((mcfg[55], mib, text))
}

#[rstest]
#[case::none(&[], 0)]
#[case::devices(&["virtio-rng-pci", "virtio-net-pci"], 0)]
#[case::root_ports(&FOUR_PORTS, 4)]
#[case::in_the_chipset_device(&["pcie-root-port,addr=1f.4,chassis=1"], 1)]
#[case::behind_a_device(&[
    "virtio-rng-pci,addr=5.0,multifunction=on", "pcie-root-port,addr=5.3,chassis=1",
], 1)]
#[case::nested(&[
    "pcie-root-port,id=p1,chassis=1,addr=2", "x3130-upstream,id=u1,bus=p1",
    "xio3130-downstream,id=d1,bus=u1,chassis=2", "pcie-pci-bridge,id=b1,bus=d1",
    "pci-bridge,id=b2,bus=b1,chassis_nr=3,addr=4",
], 5)]
#[case::reserved(&["pcie-root-port,chassis=1,addr=2,bus-reserve=5"], 6)]
fn the_table_names_the_buses_that_there_are(
    #[case] devices: &[&str],
    #[case] last_bus: u8,
) -> Result<()> {
    let (end, mib, text) = boot(devices, &[], "")?;
    ensure!((end, mib) == (last_bus, 64), "{end}, {mib} MiB\n{text}");
    // What Linux finds is numbered already.
    let bridges = parse(&text)?
        .into_values()
        .filter_map(|function| function.buses);
    let highest = bridges.map(|(_, subordinate)| subordinate).max();
    ensure!(highest.unwrap_or(0) == last_bus, "{text}");
    Ok(())
}

#[rstest]
#[case::the_last_of_64(63, 64)]
#[case::one_more(64, 256)]
#[case::many(72, 256)]
fn more_than_64_buses_get_more_room(#[case] count: usize, #[case] expected: u64) -> Result<()> {
    let (end, mib, text) = boot(&root_ports(count).collect::<Vec<_>>(), &[], "")?;
    ensure!(
        (usize::from(end), mib) == (count, expected),
        "{end}, {mib} MiB\n{text}"
    );
    Ok(())
}

/// Where nothing tells which buses will be used, the table names all.
#[rstest]
#[case::expander(&["pxb-pcie,id=x1,bus_nr=0x80"], &[], "")]
#[case::option(&FOUR_PORTS, &[("buses", "256")], "")]
#[case::numbers_by_linux(&FOUR_PORTS, &[], "pci=hpbussize=4")]
fn all_buses_are_named(
    #[case] devices: &[&str],
    #[case] options: &[(&str, &str)],
    #[case] line: &str,
) -> Result<()> {
    let (end, mib, _) = boot(devices, options, line)?;
    ensure!((end, mib) == (255, 256), "{end}, {mib} MiB");
    Ok(())
}

/// QEMU fills the tables of IOMMUs from the bridges' bus numbers: they are as with
/// SeaBIOS, which numbers the same buses. pc numbers them only with the option.
#[rstest]
#[case::virtio(Q35, "virtio-iommu-pci,addr=8", "VIOT")]
#[case::intel(Q35, "intel-iommu", "DMAR")]
#[case::amd(Q35, "amd-iommu", "IVRS")]
#[case::virtio_on_pc(PC, "virtio-iommu-pci,addr=8", "VIOT")]
fn the_tables_of_iommus_name_the_same_buses(
    #[case] machine: Machine,
    #[case] iommu: &str,
    #[case] table: &str,
) -> Result<()> {
    let slot = machine.slot_behind_bridge();
    let device = |n| format!("virtio-rng-pci,bus=b{n},addr={slot}");
    let bridges = [machine.bridge_at(1, 2), machine.bridge_at(2, 3)];
    let probe = Probe::new(Kind::Pvh)?;
    let read = |rom: Option<&str>| -> Result<Vec<u8>> {
        let mut qemu = probe.machine(machine)?;
        if machine.is(PC) {
            qemu = qemu.option("pci", "buses");
        }
        if let Some(rom) = rom {
            qemu = qemu.bios(rom);
        }
        let qemu = qemu.devices([iommu]).devices(&bridges);
        let (handover, mut vm) = probe.boot(&qemu.devices([device(1), device(2)]))?;
        Ok(Tables::read(&mut vm, &handover)?.get(table)?.to_vec())
    };
    let (ours, seabios) = (read(None)?, read(Some(machine.seabios))?);
    ensure!(ours == seabios, "{ours:x?}\nSeaBIOS {seabios:x?}");
    Ok(())
}
