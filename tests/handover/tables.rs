//! ACPI, SMBIOS and the MP table as kernels find them.

use anyhow::{Context, Result, ensure};
use qboot_tests::acpi::Tables;
use qboot_tests::smbios::Smbios;
use qboot_tests::{Kind, Probe};
use rstest::rstest;
use xtask::qemu::Accel;

#[rstest]
fn acpi(
    #[values("pc", "q35", "microvm", "microvm,pcie=on")] machine: &str,
    #[values(Kind::BzImage, Kind::Pvh)] kind: Kind,
) -> Result<()> {
    let probe = Probe::new(kind)?;
    let (handover, mut vm) = probe.boot(&probe.machine(machine)?.smp(3))?;
    let tables = Tables::read(&mut vm, &handover)?;
    ensure!(tables.processors()? == 3);
    ensure!(!tables.get("DSDT")?.is_empty());
    let fadt = tables.get("FACP")?;
    let port = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| fadt[at + n]));
    if machine.starts_with("microvm") {
        ensure!(
            port(112) & 1 << 20 != 0,
            "microvm is not hardware-reduced ACPI"
        );
    } else {
        ensure!(port(56) == 0x600, "PM1a_EVT_BLK {:#x}", port(56));
        ensure!(port(64) == 0x604, "PM1a_CNT_BLK {:#x}", port(64));
        ensure!(port(76) == 0x608, "PM_TMR_BLK {:#x}", port(76));
    }
    if machine == "q35" {
        let mcfg = tables.get("MCFG")?;
        let base = u64::from_le_bytes(mcfg[44..52].try_into()?);
        ensure!(base == 0xb000_0000, "ECAM at {base:#x}");
    }
    Ok(())
}

/// Neither MMX nor MTRRs are taken for granted: checksums are right without.
///
/// QEMU's translator runs PSADBW on every processor, so that it is not used is
/// seen by the instructions: the plain sum takes one for each byte.
#[rstest]
fn old_processors(
    #[values("pc", "q35", "microvm")] machine: &str,
    #[values("486", "pentium", "pentium2", "pentium3", "athlon", "qemu32", "max")] processor: &str,
) -> Result<()> {
    let probe = Probe::new(Kind::BzImage)?;
    let boot = |processor: &str| {
        let qemu = probe.machine(machine)?.accel(Accel::Icount { shift: 0 });
        probe.boot(&qemu.args(["-cpu", processor]))
    };
    let (handover, mut vm) = boot(processor)?;
    handover.check_registers()?;
    let tables = Tables::read(&mut vm, &handover)?;
    let bytes = tables.get("DSDT")?.len() as u64;
    if machine != "microvm" {
        Smbios::read(&mut vm)?.context("no SMBIOS")?.get(0)?;
    }
    drop(vm);
    let (with_mmx, _vm) = boot("pentium3")?;
    let more = handover.record.tsc.saturating_sub(with_mmx.record.tsc);
    // QEMU's athlon, qemu32 and max, of a model that had none, have SSE.
    let plain = matches!(processor, "486" | "pentium" | "pentium2");
    ensure!(
        (more > bytes / 2) == plain,
        "{more} instructions more than with MMX, and a DSDT of {bytes} bytes"
    );
    Ok(())
}

#[rstest]
#[case::vmgenid("q35", &["-device", "vmgenid,guid=324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87"])]
#[case::vmgenid("pc", &["-device", "vmgenid,guid=324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87"])]
#[case::nvdimm("q35,nvdimm=on", &["-object", "memory-backend-ram,id=nv0,size=16M", "-device", "nvdimm,memdev=nv0", "-m", "512M,slots=2,maxmem=2G"])]
#[case::numa("q35", &["-object", "memory-backend-ram,id=m0,size=256M", "-object", "memory-backend-ram,id=m1,size=256M", "-numa", "node,memdev=m0", "-numa", "node,memdev=m1"])]
#[case::large("q35", &["-device", "pxb-pcie,id=pxb,bus_nr=8"])]
fn acpi_of_devices(
    #[case] machine: &str,
    #[case] arguments: &[&str],
    #[values(Kind::BzImage, Kind::Pvh)] kind: Kind,
) -> Result<()> {
    let probe = Probe::new(kind)?;
    let vmgenid = arguments.iter().any(|arg| arg.starts_with("vmgenid"));
    let memory_mib = if vmgenid { 64 } else { 512 };
    let qemu = probe.machine(machine)?.memory_mib(memory_mib);
    let (handover, mut vm) = probe.boot(&qemu.args(arguments))?;
    handover.check_registers()?;
    Tables::read(&mut vm, &handover)?;
    if vmgenid {
        // The guest tells QEMU where the identifier lies, and QEMU wrote it there.
        let guid = [
            0xaf, 0x6e, 0x4e, 0x32, 0xd1, 0xd1, 0xf6, 0x4b, 0xbf, 0x41, 0xb9, 0xbb, 0x6c, 0x91,
            0xfb, 0x87,
        ];
        let found = vm.memory(0, 64 << 20)?;
        ensure!(
            (0..found.len())
                .step_by(8)
                .any(|at| found[at..].starts_with(&guid)),
            "the generation identifier is nowhere in memory"
        );
    }
    Ok(())
}

/// Tables of 252 KiB, twice as large as the directory says before a reset has
/// set up the bridges.
#[rstest]
fn acpi_that_grows() -> Result<()> {
    let probe = Probe::new(Kind::Pvh)?;
    let bridge = |n: u32| {
        let (bus, slot) = match n {
            0..20 => ("pci.0".to_owned(), n + 4),
            _ => (format!("b{}", n / 20 - 1), n % 20 + 1),
        };
        let chassis = n + 1;
        format!("pci-bridge,id=b{n},bus={bus},addr={slot:#x},chassis_nr={chassis}")
    };
    let arguments: Vec<_> = (0..80)
        .flat_map(|n| ["-device".into(), bridge(n)])
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (handover, mut vm) = probe.boot(&probe.machine("pc")?.args(&arguments))?;
    handover.check_registers()?;
    let dsdt = Tables::read(&mut vm, &handover)?.get("DSDT")?.len();
    ensure!(dsdt > 0x2_0000, "a DSDT of {dsdt} bytes");
    Ok(())
}

#[rstest]
fn smbios(
    #[values("pc", "q35")] machine: &str,
    #[values("32", "64")] entry_point: &str,
    #[values(Kind::BzImage, Kind::Pvh)] kind: Kind,
) -> Result<()> {
    let probe = Probe::new(kind)?;
    let machine = format!("{machine},smbios-entry-point-type={entry_point}");
    let credential = "io.systemd.credential:probe=Zm9v";
    let qemu = probe.machine(&machine)?.args([
        "-smbios",
        "type=1,product=probe-product,serial=probe-serial",
        "-smbios",
        &format!("type=11,value={credential}"),
    ]);
    let (_, mut vm) = probe.boot(&qemu)?;
    let smbios = Smbios::read(&mut vm)?.context("no SMBIOS entry point")?;
    let anchor = if entry_point == "64" { "_SM3_" } else { "_SM_" };
    ensure!(smbios.anchor == anchor, "{}", smbios.anchor);
    ensure!(
        smbios.structures.iter().filter(|s| s.kind == 0).count() == 1,
        "not one type 0"
    );
    let strings = &smbios.get(1)?.strings;
    ensure!(
        strings.iter().any(|s| s == "probe-product"),
        "type 1: {strings:?}"
    );
    let strings = &smbios.get(11)?.strings;
    ensure!(
        strings.iter().any(|s| s == credential),
        "type 11: {strings:?}"
    );
    Ok(())
}

#[rstest]
fn smbios_keeps_a_type_0_of_the_user(#[values("32", "64")] entry_point: &str) -> Result<()> {
    let probe = Probe::new(Kind::Pvh)?;
    let machine = format!("q35,smbios-entry-point-type={entry_point}");
    let qemu = probe
        .machine(&machine)?
        .args(["-smbios", "type=0,vendor=probe-vendor"]);
    let (_, mut vm) = probe.boot(&qemu)?;
    let smbios = Smbios::read(&mut vm)?.context("no SMBIOS entry point")?;
    ensure!(smbios.structures.iter().filter(|s| s.kind == 0).count() == 1);
    ensure!(smbios.get(0)?.strings.iter().any(|s| s == "probe-vendor"));
    Ok(())
}
