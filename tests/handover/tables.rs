//! ACPI, SMBIOS and the MP table as kernels find them.

use anyhow::{Context, Result, ensure};
use qboot_tests::acpi::Tables;
use qboot_tests::machines::*;
use qboot_tests::smbios::Smbios;
use qboot_tests::{Field, GENERATIONS, Kind, Probe, generation_address};
use rstest::rstest;
use rstest_reuse::apply;

#[rstest]
fn acpi(
    #[values(PC, Q35, MICROVM, MICROVM_PCIE)] machine: Machine,
    #[values(Kind::BzImage, Kind::Pvh)] kind: Kind,
) -> Result<()> {
    let probe = Probe::new(kind)?;
    let (handover, mut vm) = probe.boot(&probe.machine(machine)?.smp(3))?;
    let tables = Tables::read(&mut vm, &handover)?;
    ensure!(tables.processors()? == 3);
    ensure!(!tables.get("DSDT")?.is_empty());
    let fadt = tables.get("FACP")?;
    if machine.acpi == Acpi::Reduced {
        ensure!(fadt.u32(112)? & 1 << 20 != 0, "not hardware-reduced");
    } else {
        // PM1a_EVT_BLK, PM1a_CNT_BLK, PM_TMR_BLK.
        for (at, port) in [(56, 0x600), (64, 0x604), (76, 0x608)] {
            ensure!(fadt.u32(at)? == port, "{:#x} at {at}", fadt.u32(at)?);
        }
    }
    if let Some(base) = machine.mcfg {
        let found = tables.get("MCFG")?.u64(44)?;
        ensure!(found == base, "ECAM at {found:#x}");
    }
    Ok(())
}

/// MTRRs are not taken for granted, and nothing newer than a 486 is.
#[apply(each_machine)]
fn old_processors(
    machine: Machine,
    #[values("486", "pentium", "pentium2", "pentium3", "athlon", "qemu32", "max")] processor: &str,
) -> Result<()> {
    let probe = Probe::new(Kind::BzImage)?;
    let qemu = probe.machine(machine)?.args(["-cpu", processor]);
    let (handover, mut vm) = probe.boot(&qemu)?;
    handover.check_registers()?;
    Tables::read(&mut vm, &handover)?.get("DSDT")?;
    if machine.has_smbios {
        Smbios::read(&mut vm)?.context("no SMBIOS")?.get(0)?;
    }
    Ok(())
}

#[rstest]
#[case::nvdimm(Q35.with("nvdimm=on"), &["-object", "memory-backend-ram,id=nv0,size=16M", "-device", "nvdimm,memdev=nv0", "-m", "512M,slots=2,maxmem=2G"])]
#[case::numa(Q35, &["-object", "memory-backend-ram,id=m0,size=256M", "-object", "memory-backend-ram,id=m1,size=256M", "-numa", "node,memdev=m0", "-numa", "node,memdev=m1"])]
#[case::large(Q35, &["-device", "pxb-pcie,id=pxb,bus_nr=8"])]
fn acpi_of_devices(
    #[case] machine: Machine,
    #[case] arguments: &[&str],
    #[values(Kind::BzImage, Kind::Pvh)] kind: Kind,
) -> Result<()> {
    let probe = Probe::new(kind)?;
    let (handover, mut vm) = probe.boot(&probe.machine(machine)?.args(arguments))?;
    handover.check_registers()?;
    Tables::read(&mut vm, &handover)?;
    Ok(())
}

/// The firmware tells QEMU where the identifier lies, and QEMU writes it there.
#[apply(each_chipset)]
fn vm_generation_id(
    machine: Machine,
    #[values(Kind::BzImage, Kind::Pvh)] kind: Kind,
) -> Result<()> {
    let probe = Probe::new(kind)?;
    let (uuid, bytes) = GENERATIONS[0];
    let qemu = probe.machine(machine)?.memory_mib(64);
    let (handover, mut vm) = probe.boot(&qemu.devices([format!("vmgenid,guid={uuid}")]))?;
    handover.check_registers()?;
    Tables::read(&mut vm, &handover)?;
    generation_address(&mut vm, &bytes)?;
    Ok(())
}

/// Tables of 252 KiB, twice as large as the directory says before a reset has
/// set up the bridges.
#[test]
fn acpi_that_grows() -> Result<()> {
    let probe = Probe::new(Kind::Pvh)?;
    let (handover, mut vm) = probe.boot(&probe.machine(PC)?.devices(bridges(80)))?;
    handover.check_registers()?;
    let dsdt = Tables::read(&mut vm, &handover)?.get("DSDT")?.len();
    ensure!(dsdt > 0x2_0000, "a DSDT of {dsdt} bytes");
    Ok(())
}

const SMBIOS_2: &str = "smbios-entry-point-type=32";
const SMBIOS_3: &str = "smbios-entry-point-type=64";

#[apply(each_chipset)]
fn smbios(
    machine: Machine,
    #[values((SMBIOS_2, "_SM_"), (SMBIOS_3, "_SM3_"))] entry_point: (&'static str, &str),
    #[values(Kind::BzImage, Kind::Pvh)] kind: Kind,
) -> Result<()> {
    let (option, anchor) = entry_point;
    let probe = Probe::new(kind)?;
    let credential = "io.systemd.credential:probe=Zm9v";
    let qemu = probe.machine(machine.with(option))?.args([
        "-smbios",
        "type=1,product=probe-product,serial=probe-serial",
        "-smbios",
        &format!("type=11,value={credential}"),
    ]);
    let (_, mut vm) = probe.boot(&qemu)?;
    let smbios = Smbios::read(&mut vm)?.context("no SMBIOS entry point")?;
    ensure!(smbios.anchor == anchor, "{}", smbios.anchor);
    smbios.check_one_type_0()?;
    for (kind, text) in [(1, "probe-product"), (11, credential)] {
        let strings = &smbios.get(kind)?.strings;
        ensure!(strings.iter().any(|s| s == text), "{kind}: {strings:?}");
    }
    Ok(())
}

#[rstest]
fn smbios_keeps_a_type_0_of_the_user(
    #[values(SMBIOS_2, SMBIOS_3)] entry: &'static str,
) -> Result<()> {
    let probe = Probe::new(Kind::Pvh)?;
    let qemu = probe.machine(Q35.with(entry))?;
    let (_, mut vm) = probe.boot(&qemu.args(["-smbios", "type=0,vendor=probe-vendor"]))?;
    let smbios = Smbios::read(&mut vm)?.context("no SMBIOS entry point")?;
    smbios.check_one_type_0()?;
    ensure!(smbios.get(0)?.strings.iter().any(|s| s == "probe-vendor"));
    Ok(())
}
