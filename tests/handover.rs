//! What a kernel finds at its entry, on every machine: probe kernels report it,
//! and the guest's memory is read back.

use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use qboot::error::Error;
use qboot_tests::acpi::Tables;
use qboot_tests::handover::Handover;
use qboot_tests::smbios::Smbios;
use qboot_tests::{Kind, PROBE_TIMEOUT, Probe, noise, skip};
use rstest::rstest;
use xtask::probe::{self, BzImage, Elf, Mode, PAYLOAD_LEN, Segment, hdr};
use xtask::qemu::{self, Accel, Vm};

/// Memory that a probe of [`BzImage::minimal`] or [`Elf::new`] takes.
fn taken(handover: &Handover) -> Range<u64> {
    let start = u64::from(handover.record.entry);
    let len = match handover.kind {
        Kind::BzImage => 1 << 20,
        _ => PAYLOAD_LEN as u64,
    };
    start..start + len
}

/// Everything that holds for every handover.
fn check(handover: &Handover, memory_mib: u64) -> Result<()> {
    handover.check_registers()?;
    handover.check_e820(memory_mib)?;
    handover.check_placement(taken(handover))?;
    // Default type write-back, enabled: without it Linux leaves PAT off.
    let mtrr = handover.record.mtrr_def_type;
    ensure!(mtrr & 0xc00 != 0 && mtrr & 0xff == 6, "MTRRs {mtrr:#x}");
    Ok(())
}

/// The 32-bit code came over byte for byte, but for the probe's own record.
fn check_payload(vm: &mut Vm, handover: &Handover) -> Result<()> {
    let mut found = vm.memory(handover.record.entry.into(), PAYLOAD_LEN)?;
    let mut expected = probe::code(Mode::Halt)?;
    let record = probe::RECORD_OFFSET..probe::RECORD_OFFSET + probe::RECORD_LEN;
    for bytes in [&mut found, &mut expected] {
        bytes[record.clone()].fill(0);
        if handover.kind != Kind::BzImage {
            // Notes lie there.
            bytes[0x400..0x500].fill(0);
        }
    }
    ensure!(found == expected, "the kernel's code differs");
    Ok(())
}

fn check_initrd(vm: &mut Vm, handover: &Handover, expected: &[u8]) -> Result<()> {
    let range = handover.initrd.clone().context("no initrd")?;
    let len = range.end - range.start;
    ensure!(len == expected.len() as u64, "an initrd of {len} bytes");
    let found = vm.memory(range.start, expected.len())?;
    if found != expected {
        let at = (0..found.len()).find(|at| found[*at] != expected[*at]);
        bail!("the initrd at {range:x?} differs from byte {at:x?} on");
    }
    Ok(())
}

#[rstest]
fn every_machine(
    #[values(
        "pc",
        "q35",
        "microvm",
        "microvm,acpi=off",
        "microvm,pcie=on",
        "microvm,pit=off,pic=off,rtc=off"
    )]
    machine: &str,
    #[values(Kind::BzImage, Kind::Pvh)] kind: Kind,
    #[values(false, true)] default_devices: bool,
) -> Result<()> {
    let probe = Probe::new(kind)?;
    let mut qemu = probe.machine(machine)?.append("console=ttyS0 quiet");
    if default_devices {
        qemu = qemu.default_devices();
    }
    let (handover, mut vm) = probe.boot(&qemu)?;
    check(&handover, 512)?;
    check_payload(&mut vm, &handover)?;
    ensure!(handover.cmdline == b"console=ttyS0 quiet");
    ensure!(handover.initrd.is_none());
    ensure!(vm.serial().is_empty(), "output on success: {}", vm.serial());
    Ok(())
}

#[rstest]
fn the_zero_page_keeps_the_header(#[values("pc", "q35", "microvm")] machine: &str) -> Result<()> {
    let mut image = BzImage::minimal(Mode::Halt)?;
    image.set_u16(hdr::XLOADFLAGS, 0x2a).set_u32(0x23c, 0);
    let probe = Probe::from_bytes(Kind::BzImage, &image.bytes())?;
    let qemu = probe.machine(machine)?.append("a");
    let (handover, _vm) = probe.boot(&qemu)?;
    let page = &handover.zero_page;
    ensure!(page[hdr::HEADER..hdr::HEADER + 4] == *b"HdrS");
    ensure!(page[hdr::VERSION..hdr::VERSION + 2] == [0x0f, 0x02]);
    ensure!(
        page[hdr::TYPE_OF_LOADER] != 0,
        "type_of_loader is not filled in"
    );
    // Fields that only the kernel writes come over as they are.
    for field in [
        hdr::SETUP_SECTS..hdr::SETUP_SECTS + 1,
        hdr::KERNEL_ALIGNMENT..hdr::CMDLINE_SIZE + 4,
        hdr::PAYLOAD_OFFSET..hdr::SETUP_DATA,
        hdr::PREF_ADDRESS..hdr::HANDOVER_OFFSET + 4,
    ] {
        let (found, expected) = (&page[field.clone()], &image.setup[field.clone()]);
        ensure!(
            found == expected,
            "{field:#x?}: {found:x?} instead of {expected:x?}"
        );
    }
    // What the protocol calls "must be zero" outside the known fields.
    for zeroes in [0x1ec..0x1ef, 0x290..0x2d0] {
        ensure!(
            page[zeroes.clone()].iter().all(|byte| *byte == 0),
            "{zeroes:#x?} is not zero: {:x?}",
            &page[zeroes.clone()]
        );
    }
    Ok(())
}

#[rstest]
fn debian_header(#[values("pc", "q35", "microvm")] machine: &str) -> Result<()> {
    let image = BzImage::of(&xtask::measure::donor(None)?, Mode::Halt)?;
    let init_size = u32::from_le_bytes(image.setup[hdr::INIT_SIZE..][..4].try_into()?);
    let probe = Probe::from_bytes(Kind::BzImage, &image.bytes())?;
    let initrd = noise(300_001, 3);
    let qemu = probe
        .machine(machine)?
        .append("root=/dev/vda")
        .memory_mib(256)
        .initrd(probe.file("initrd", &initrd)?);
    let (handover, mut vm) = probe.boot(&qemu)?;
    handover.check_registers()?;
    handover.check_e820(256)?;
    let entry = u64::from(handover.record.entry);
    handover.check_placement(entry..entry + u64::from(init_size))?;
    check_initrd(&mut vm, &handover, &initrd)
}

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
#[rstest]
fn old_processors(
    #[values("pc", "q35", "microvm")] machine: &str,
    #[values("486", "pentium", "pentium2")] processor: &str,
) -> Result<()> {
    let probe = Probe::new(Kind::BzImage)?;
    let qemu = probe.machine(machine)?.args(["-cpu", processor]);
    let (handover, mut vm) = probe.boot(&qemu)?;
    handover.check_registers()?;
    ensure!(!Tables::read(&mut vm, &handover)?.get("DSDT")?.is_empty());
    if machine != "microvm" {
        Smbios::read(&mut vm)?.context("no SMBIOS")?.get(0)?;
    }
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
fn no_acpi(#[values(Kind::BzImage, Kind::Pvh)] kind: Kind) -> Result<()> {
    let probe = Probe::new(kind)?;
    let (handover, mut vm) = probe.boot(&probe.machine("microvm,acpi=off")?.smp(4))?;
    ensure!(handover.rsdp == 0, "an RSDP at {:#x}", handover.rsdp);
    // Without ACPI the processors are in the MP table (MP specification 1.4, 4).
    let segment = vm.memory(0xf_0000, 0x1_0000)?;
    let at = (0..segment.len())
        .step_by(16)
        .find(|at| segment[*at..].starts_with(b"_MP_"))
        .context("no MP floating pointer")?;
    let pointer = &segment[at..at + 16];
    let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |a, b| a.wrapping_add(*b));
    ensure!(sum(pointer) == 0, "checksum of the MP floating pointer");
    let addr = u32::from_le_bytes(pointer[4..8].try_into()?);
    let head = vm.memory(addr.into(), 44)?;
    ensure!(head.starts_with(b"PCMP"), "no MP table at {addr:#x}");
    let len = u16::from_le_bytes(head[4..6].try_into()?);
    let table = vm.memory(addr.into(), len.into())?;
    ensure!(sum(&table) == 0, "checksum of the MP table");
    let (mut at, mut processors) = (44, 0);
    while at < table.len() {
        match table[at] {
            0 => {
                processors += usize::from(table[at + 3] & 1);
                at += 20;
            }
            _ => at += 8,
        }
    }
    ensure!(processors == 4, "{processors} processors");
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

/// RAM sizes, each with an initrd that leaves little room for a page's rounding.
#[rstest]
fn memory_sizes(
    #[values("pc", "q35", "microvm")] machine: &str,
    #[values(Kind::BzImage, Kind::Pvh)] kind: Kind,
    #[values(64, 127, 1024, 2048, 3071, 3584, 4096, 8192)] memory_mib: u64,
) -> Result<()> {
    let probe = Probe::new(kind)?;
    let initrd = noise((5 << 20) + 4095, memory_mib);
    let qemu = probe
        .machine(machine)?
        .memory_mib(memory_mib)
        .append("x")
        .initrd(probe.file("initrd", &initrd)?);
    let (handover, mut vm) = probe.boot(&qemu)?;
    check(&handover, memory_mib)?;
    check_initrd(&mut vm, &handover, &initrd)?;
    Tables::read(&mut vm, &handover)?;
    Ok(())
}

#[rstest]
fn initrd_sizes(
    #[values("pc", "q35", "microvm", "microvm,acpi=off")] machine: &str,
    #[values(Kind::BzImage, Kind::Pvh)] kind: Kind,
    #[values(1, 4096, 0x40_1001, 64 << 20, 200 << 20)] len: usize,
) -> Result<()> {
    let probe = Probe::new(kind)?;
    let initrd = noise(len, 7);
    let qemu = probe
        .machine(machine)?
        .initrd(probe.file("initrd", &initrd)?);
    let (handover, mut vm) = probe.boot(&qemu)?;
    check(&handover, 512)?;
    check_initrd(&mut vm, &handover, &initrd)?;
    if handover.rsdp != 0 {
        Tables::read(&mut vm, &handover)?;
    }
    Ok(())
}

#[rstest]
fn an_initrd_stays_below_the_kernels_limit(
    #[values("pc", "q35", "microvm")] machine: &str,
    #[values(0x037f_ffff, 0x0fff_ffff)] limit: u32,
) -> Result<()> {
    let mut image = BzImage::minimal(Mode::Halt)?;
    image.set_u32(hdr::INITRD_ADDR_MAX, limit);
    let probe = Probe::from_bytes(Kind::BzImage, &image.bytes())?;
    let initrd = noise((8 << 20) + 1, 9);
    let qemu = probe
        .machine(machine)?
        .initrd(probe.file("initrd", &initrd)?);
    let (handover, mut vm) = probe.boot(&qemu)?;
    check(&handover, 512)?;
    check_initrd(&mut vm, &handover, &initrd)?;
    let end = handover.initrd.context("no initrd")?.end;
    ensure!(end <= u64::from(limit) + 1, "the initrd ends at {end:#x}");
    Ok(())
}

#[rstest]
// A PVH kernel says nothing of its limit; Linux's own is 2047.
fn command_lines(
    #[values("q35", "microvm")] machine: &str,
    #[values(Kind::BzImage, Kind::Pvh)] kind: Kind,
    #[values(1, 255, 2047)] len: usize,
) -> Result<()> {
    check_command_line(machine, &Probe::new(kind)?, len)
}

#[rstest]
fn a_long_command_line(#[values("q35", "microvm")] machine: &str) -> Result<()> {
    let mut image = BzImage::minimal(Mode::Halt)?;
    image.set_u32(hdr::CMDLINE_SIZE, 65_535);
    let probe = Probe::from_bytes(Kind::BzImage, &image.bytes())?;
    check_command_line(machine, &probe, 16_000)
}

fn check_command_line(machine: &str, probe: &Probe, len: usize) -> Result<()> {
    let line: String = (b'!'..=b'~').cycle().take(len).map(char::from).collect();
    let (handover, _vm) = probe.boot(&probe.machine(machine)?.append(&line))?;
    check(&handover, 512)?;
    ensure!(handover.cmdline == line.as_bytes());
    Ok(())
}

/// As long as the header's limit allows, and no byte longer.
#[test]
fn a_command_line_of_the_kernels_own_limit() -> Result<()> {
    let mut image = BzImage::minimal(Mode::Halt)?;
    image.set_u32(hdr::CMDLINE_SIZE, 255);
    let probe = Probe::from_bytes(Kind::BzImage, &image.bytes())?;
    let line = "x".repeat(255);
    let (handover, _vm) = probe.boot(&probe.machine("microvm")?.append(&line))?;
    ensure!(handover.cmdline == line.as_bytes());
    Ok(())
}

#[rstest]
fn processors(
    #[values("pc", "q35", "microvm")] machine: &str,
    #[values("1", "2", "8", "64", "6,sockets=2,cores=3")] topology: &str,
) -> Result<()> {
    let probe = Probe::new(Kind::Pvh)?;
    let (handover, mut vm) = probe.boot(&probe.machine(machine)?.smp(topology))?;
    check(&handover, 512)?;
    let count: usize = topology.split(',').next().unwrap_or_default().parse()?;
    ensure!(Tables::read(&mut vm, &handover)?.processors()? == count);
    Ok(())
}

/// A header that wants its kernel elsewhere than at 1 MiB.
#[rstest]
fn preferred_address(#[values("pc", "q35", "microvm")] machine: &str) -> Result<()> {
    const INIT_SIZE: u32 = 100 << 20;
    let mut image = BzImage::minimal(Mode::Halt)?;
    image
        .set_u64(hdr::PREF_ADDRESS, 16 << 20)
        .set_u32(hdr::INIT_SIZE, INIT_SIZE);
    let probe = Probe::from_bytes(Kind::BzImage, &image.bytes())?;
    let initrd = noise(10 << 20, 5);
    let qemu = probe
        .machine(machine)?
        .memory_mib(256)
        .initrd(probe.file("initrd", &initrd)?);
    let (handover, mut vm) = probe.boot(&qemu)?;
    handover.check_registers()?;
    // Wherever it is loaded, a kernel may run in place at its preferred address
    // (boot.rst, `init_size`), so neither may be taken.
    let entry = u64::from(handover.record.entry);
    handover.check_placement(entry..(16 << 20) + u64::from(INIT_SIZE))?;
    check_initrd(&mut vm, &handover, &initrd)
}

/// Protocols from before most of today's fields, as old kernels have them.
#[rstest]
fn old_protocols(
    #[values("pc", "microvm")] machine: &str,
    #[values(0x0205, 0x0206, 0x0208, 0x020a, 0x020c)] version: u16,
) -> Result<()> {
    let mut image = BzImage::minimal(Mode::Halt)?;
    image.set_u16(hdr::VERSION, version);
    let probe = Probe::from_bytes(Kind::BzImage, &image.bytes())?;
    let initrd = noise(123_456, u64::from(version));
    let qemu = probe
        .machine(machine)?
        .append("old")
        .initrd(probe.file("initrd", &initrd)?);
    let (handover, mut vm) = probe.boot(&qemu)?;
    handover.check_registers()?;
    handover.check_e820(512)?;
    ensure!(handover.cmdline == b"old");
    check_initrd(&mut vm, &handover, &initrd)
}

/// Kernels that only their own 16-bit code may enter: older than protocol 2.05,
/// or not relocatable. That code asks the BIOS for the memory map itself.
#[rstest]
fn sixteen_bit_entry(
    #[values("pc", "q35", "microvm")] machine: &str,
    #[values((0x0202, 1), (0x0203, 1), (0x020f, 0))] header: (u16, u8),
) -> Result<()> {
    let (version, relocatable) = header;
    let mut image = BzImage::minimal(Mode::Halt)?;
    image
        .set_u16(hdr::VERSION, version)
        .set_u8(hdr::RELOCATABLE_KERNEL, relocatable);
    let probe = Probe::from_bytes(Kind::BzImage, &image.bytes())?;
    let initrd = noise(123_456, 3);
    let qemu = probe
        .machine(machine)?
        .append("sixteen bits")
        .initrd(probe.file("initrd", &initrd)?);
    let (handover, mut vm) = match probe.boot(&qemu) {
        Err(error) if format!("{error:#}").contains(Error::Needs16BitEntry.message()) => {
            let test = format!("sixteen_bit_entry {machine} {version:#x}");
            skip(&test, "this ROM has no 16-bit services");
            return Ok(());
        }
        result => result?,
    };
    handover.check_registers()?;
    ensure!(handover.record.entry == 0x10_0000);
    ensure!(handover.cmdline == b"sixteen bits");
    check_initrd(&mut vm, &handover, &initrd)
}

/// QEMU 7.2 keeps an ELF kernel's first bytes in memory that it has given up,
/// and these devices' set-up writes over them.
#[rstest]
#[case("microvm", "virtio-net-device")]
#[case("pc", "virtio-net-pci")]
#[case("q35", "virtio-net-pci")]
#[case("q35", "e1000e")]
#[case("q35", "virtio-scsi-pci")]
fn pvh_beside(
    #[case] machine: &str,
    #[case] device: &str,
    #[values(1, 2, 4)] count: usize,
) -> Result<()> {
    let probe = Probe::new(Kind::Pvh)?;
    let initrd = noise(50 << 20, 1);
    let mut qemu = probe
        .machine(machine)?
        .memory_mib(64)
        .initrd(probe.file("initrd", &initrd)?);
    for _ in 0..count {
        qemu = qemu.args(["-device", device]);
    }
    let (handover, mut vm) = probe.boot(&qemu)?;
    check(&handover, 64)?;
    check_payload(&mut vm, &handover)?;
    check_initrd(&mut vm, &handover, &initrd)
}

#[rstest]
fn elf_variants(
    #[values("pc", "q35", "microvm")] machine: &str,
    #[values(false, true)] elf64: bool,
    #[values(None, Some("linux"), Some("other"))] guest_os: Option<&str>,
) -> Result<()> {
    let elf = Elf {
        elf64,
        guest_os: guest_os.map(str::to_owned),
        addr: 16 << 20,
        segments: vec![Segment {
            addr: 64 << 20,
            data: noise(10_000, 1),
            memory_len: 32 << 20,
        }],
        ..Elf::new(Mode::Halt)?
    };
    let probe = Probe::from_bytes(Kind::Pvh, &elf.bytes()?)?;
    let initrd = noise(4 << 20, 2);
    let qemu = probe
        .machine(machine)?
        .memory_mib(128)
        .initrd(probe.file("initrd", &initrd)?);
    let (handover, mut vm) = probe.boot(&qemu)?;
    check(&handover, 128)?;
    check_initrd(&mut vm, &handover, &initrd)?;
    // The second segment with its cleared tail is the kernel's too.
    ensure!(vm.memory(64 << 20, 10_000)? == noise(10_000, 1));
    handover.check_placement(64 << 20..96 << 20)
}

#[rstest]
fn without_dma(
    #[values("pc", "q35", "microvm")] machine: &str,
    #[values(Kind::BzImage, Kind::Pvh)] kind: Kind,
) -> Result<()> {
    let probe = Probe::new(kind)?;
    let initrd = noise(100_003, 4);
    let qemu = probe
        .machine(machine)?
        .args(["-global", "fw_cfg_io.dma_enabled=off"])
        .append("bytewise")
        .initrd(probe.file("initrd", &initrd)?);
    let (handover, mut vm) = probe.boot(&qemu)?;
    check(&handover, 512)?;
    check_payload(&mut vm, &handover)?;
    check_initrd(&mut vm, &handover, &initrd)?;
    ensure!(handover.cmdline == b"bytewise");
    Tables::read(&mut vm, &handover)?;
    Ok(())
}

/// `hdr.setup_data` comes from QEMU when there is a device tree, and is kept.
#[test]
fn setup_data_of_a_device_tree() -> Result<()> {
    let probe = Probe::new(Kind::BzImage)?;
    let tree = noise(3000, 8);
    let qemu = probe
        .machine("q35")?
        .arg("-dtb")
        .arg(probe.file("tree", &tree)?);
    let (handover, mut vm) = probe.boot(&qemu)?;
    let page = &handover.zero_page;
    let mut addr = u64::from_le_bytes(page[hdr::SETUP_DATA..][..8].try_into()?);
    ensure!(addr != 0, "no setup_data");
    let mut found = false;
    while addr != 0 {
        let head = vm.memory(addr, 16)?;
        let kind = u32::from_le_bytes(head[8..12].try_into()?);
        let len = u32::from_le_bytes(head[12..16].try_into()?);
        if kind == 2 {
            found = vm.memory(addr + 16, len as usize)? == tree;
        }
        addr = u64::from_le_bytes(head[..8].try_into()?);
    }
    ensure!(found, "the device tree is not behind setup_data");
    Ok(())
}

/// Every reset hands over the same, whatever the run before left in memory.
#[rstest]
fn warm_resets(
    #[values("pc", "q35", "microvm", "microvm,acpi=off")] machine: &str,
    #[values(Kind::BzImage, Kind::Pvh)] kind: Kind,
) -> Result<()> {
    let probe = Probe::new(kind)?;
    let initrd = noise(70_000, 6);
    let qemu = probe
        .machine(machine)?
        .reboot()
        .append("again")
        .initrd(probe.file("initrd", &initrd)?);
    let (first, mut vm) = probe.boot(&qemu)?;
    for n in 1..=25 {
        vm.reset()?;
        let record = probe::wait(&mut vm, n + 1, PROBE_TIMEOUT)
            .with_context(|| format!("after {n} resets"))?;
        let handover = Handover::read(&mut vm, kind, record)?;
        check(&handover, 512).with_context(|| format!("after {n} resets"))?;
        check_initrd(&mut vm, &handover, &initrd)?;
        ensure!(handover.e820 == first.e820, "another memory map");
        ensure!(handover.rsdp == first.rsdp, "another RSDP");
        ensure!(handover.cmdline == first.cmdline, "another command line");
    }
    if first.rsdp != 0 {
        Tables::read(&mut vm, &first)?;
    }
    Ok(())
}

#[rstest]
fn under_kvm(
    #[values("pc", "q35", "microvm")] machine: &str,
    #[values(Kind::BzImage, Kind::Pvh)] kind: Kind,
) -> Result<()> {
    if let Some(reason) = qemu::kvm_missing() {
        skip(&format!("under_kvm {machine} {kind:?}"), &reason);
        return Ok(());
    }
    let probe = Probe::new(kind)?;
    let qemu = probe.machine(machine)?.accel(Accel::Kvm).append("kvm");
    let (handover, mut vm) = probe.boot(&qemu)?;
    check(&handover, 512)?;
    check_payload(&mut vm, &handover)?;
    Tables::read(&mut vm, &handover)?;
    Ok(())
}
