//! Tables and files that the user gives: nonsense, in every place where QEMU
//! takes it.

use qboot_tests::loader::{add_checksum, add_pointer, allocate, write_pointer};

use super::*;

fn plain(name: &str, machine: Machine, end: End) -> Result<Case> {
    case(name, machine, &BzImage::minimal(Mode::Exit)?.bytes(), end)
}

/// An ACPI table with this signature and length field, which may lie.
fn table(signature: &[u8; 4], length: u32, bytes: usize) -> Vec<u8> {
    let mut table = signature.to_vec();
    table.extend(length.to_le_bytes());
    table.resize(bytes.max(36), 0x5a);
    table
}

#[test]
fn acpi_tables() -> Result<()> {
    let mut cases = Cases::default();
    let tables = [
        ("empty data", "data", Vec::new()),
        ("one byte", "data", vec![0]),
        ("60,000 bytes of noise", "data", noise(60_000, 1)),
        ("a table of 0 bytes", "file", table(b"ZERO", 0, 36)),
        ("a table of 4 GiB", "file", table(b"HUGE", u32::MAX, 36)),
        (
            "a table longer than its file",
            "file",
            table(b"LONG", 4096, 40),
        ),
        ("a second DSDT", "file", table(b"DSDT", 64, 64)),
        ("a second FADT", "file", table(b"FACP", 116, 116)),
        ("a second RSDT", "file", table(b"RSDT", 40, 40)),
        ("a SLIC", "file", table(b"SLIC", 374, 374)),
        ("an MCFG", "file", table(b"MCFG", 60, 60)),
        (
            "60,000 bytes of table",
            "file",
            table(b"LRGE", 60_000, 60_000),
        ),
    ];
    for (name, kind, bytes) in tables {
        for machine in CHIPSETS {
            let sig = if kind == "data" { "sig=TEST," } else { "" };
            let case = plain(name, machine, End::Entered)?;
            cases.push(case.with_file("table", &bytes, |path| {
                ["-acpitable".into(), format!("{sig}{kind}={path}")]
            })?);
        }
    }
    let mut many = plain("200 tables", Q35, End::Entered)?;
    for n in 0..200 {
        many = many.with_file("many", &[n; 64], |path| {
            ["-acpitable".into(), format!("sig=T{n:03},data={path}")]
        })?;
    }
    cases.push(many);
    cases.run()
}

/// An SMBIOS structure whose formatted part has this length, in its header and
/// truly, and what follows it.
fn structure(kind: u8, says: u8, bytes: usize, text: &[u8]) -> Vec<u8> {
    let mut structure = vec![kind, says, 0x34, 0x12];
    structure.resize(bytes.max(4), 1);
    structure.extend(text);
    structure
}

#[test]
fn smbios_tables() -> Result<()> {
    let mut cases = Cases::default();
    for (name, bytes) in [
        ("no text behind it", structure(200, 8, 8, b"")),
        ("one NUL behind it", structure(200, 8, 8, b"\0")),
        ("text without an end", structure(200, 8, 8, b"text")),
        ("text with one NUL", structure(200, 8, 8, b"text\0")),
        ("a length of 4", structure(200, 4, 4, b"\0\0")),
        ("shorter than its header", structure(200, 3, 8, b"\0\0")),
        ("a length of 0", structure(200, 0, 8, b"\0\0")),
        ("longer than the file", structure(200, 255, 8, b"\0\0")),
        (
            "an end in the middle",
            structure(127, 4, 4, b"\0\0more\0\0"),
        ),
        ("60,000 bytes", structure(200, 8, 8, &[b'x'; 60_000])),
        (
            "60,000 bytes, ended",
            structure(200, 8, 8, &[&[b'x'; 60_000][..], b"\0\0"].concat()),
        ),
    ] {
        for machine in [PC, Q35.with("smbios-entry-point-type=64")] {
            let case = plain(name, machine, End::Either)?;
            cases.push(case.with_file("smbios", &bytes, |path| {
                ["-smbios".into(), format!("file={path}")]
            })?);
        }
    }
    cases.run()
}

fn run_items(items: &[(Machine, &str, &[u8], End)]) -> Result<()> {
    let mut cases = Cases::default();
    for (machine, name, bytes, end) in items {
        let case = plain(&format!("{name}, {} bytes", bytes.len()), *machine, *end)?;
        cases.push(case.with_item(name, bytes)?);
    }
    cases.run()
}

#[test]
fn values_of_options() -> Result<()> {
    use End::{Either, Entered, Fails};
    const PCI: &str = "opt/org.qboot/pci";
    const ENTRY: &str = "opt/org.qboot/entry";
    let noise = &noise(4096, 3)[..];
    let bad = Fails(Error::BadOption(qboot_tests::VALUE));
    run_items(&[
        (PC, PCI, b"much", bad),
        (PC, PCI, noise, bad),
        (Q35, PCI, b"none\0", Entered),
        (Q35, PCI, b"full\n\n\n", Either),
        (Q35, PCI, b"full", Entered),
        (MICROVM, PCI, b"full", Entered),
        (PC, ENTRY, b"64", bad),
        (PC, ENTRY, b"32", Entered),
        (PC, ENTRY, b"16", Entered),
        (Q35, "opt/org.qboot/pcix", noise, Entered),
        (Q35, "opt/org.qboot/", noise, Entered),
    ])
}

#[test]
fn files_named_like_qemus() -> Result<()> {
    use End::{Either, Entered, Fails};
    const SCRIPT: &str = "etc/table-loader";
    const ANCHOR: &str = "etc/smbios/smbios-anchor";
    const LONGEST: &str = "a name of fifty-five characters: the longest that fits.";
    let [pc, q35, microvm] = ALL.map(|machine| machine.with("acpi=off"));
    let noise = &noise(4096, 3)[..];
    let bad = Fails(Error::BadLoaderScript);
    run_items(&[
        (Q35, "etc/e820x", noise, Entered),
        (Q35, "etc/e82", noise, Entered),
        (PC, "etc/table-loader2", noise, Entered),
        (PC, LONGEST, noise, Entered),
        (pc, SCRIPT, b"x", bad),
        (pc, SCRIPT, &noise[..127], bad),
        (pc, SCRIPT, noise, Either),
        (pc, SCRIPT, &[0; 128], Either),
        (pc, SCRIPT, &[0; 0x4_0000], Either),
        (q35, SCRIPT, &[0xff; 0x10_0000], Either),
        (q35, "etc/acpi/tables", noise, Entered),
        (q35, "etc/acpi/rsdp", noise, Entered),
        (microvm, SCRIPT, noise, Either),
        (MICROVM, ANCHOR, b"", Either),
        (MICROVM, ANCHOR, &noise[..31], Either),
        (MICROVM, "etc/smbios/smbios-tables", noise, Either),
        (Q35, "etc/extra-pci-roots", b"", Entered),
        (Q35, "etc/extra-pci-roots", &[0xff; 8], Either),
        (Q35, "etc/reserved-memory-end", &[0xff; 8], Either),
    ])
}

/// Both parts of SMBIOS, of which one lies about the other.
#[test]
fn smbios_that_contradicts_itself() -> Result<()> {
    let mut cases = Cases::default();
    let noise = &noise(4096, 3)[..];
    for (long, says) in [
        (false, 0),
        (false, 0xffff),
        (true, 0),
        (true, u32::MAX),
        (true, 16),
    ] {
        let mut anchor = vec![0; if long { 24 } else { 31 }];
        let (mark, at): (&[u8], _) = if long {
            (b"_SM3_", 12)
        } else {
            (b"_SM_", 0x16)
        };
        anchor[..mark.len()].copy_from_slice(mark);
        anchor[at..at + 2].copy_from_slice(&(says as u16).to_le_bytes());
        let name = format!(
            "an SMBIOS anchor of {} bytes that says {says:#x}",
            anchor.len()
        );
        let case = plain(&name, MICROVM, End::Either)?;
        let case = case.with_item("etc/smbios/smbios-anchor", &anchor)?;
        cases.push(case.with_item("etc/smbios/smbios-tables", noise)?);
    }
    cases.run()
}

#[test]
fn full_directories() -> Result<()> {
    let mut cases = Cases::default();
    for (files, end) in [(60, End::Entered), (100, End::Entered), (3000, End::Either)] {
        let mut case = plain(&format!("{files} files"), Q35, end)?;
        case.qemu = case.qemu.args(["-global", "fw_cfg_io.x-file-slots=4000"]);
        for n in 0..files {
            case.qemu = case.qemu.fw_cfg(&format!("opt/file{n}"), "x");
        }
        cases.push(case);
    }
    cases.run()
}

/// Scripts of commands that are each nearly right.
#[test]
fn table_loader_scripts() -> Result<()> {
    const NAMES: [&str; 4] = ["etc/acpi/tables", "etc/acpi/rsdp", "etc/e820", "opt/none"];
    let mut rng = Rng::with_seed(0xac91);
    let mut cases = Cases::default();
    for n in 0..30 {
        let mut script = [allocate(NAMES[0], 16, 1), allocate(NAMES[1], 16, 2)].concat();
        for _ in 0..rng.u32(..12) {
            let [one, two] = [0, 1].map(|_| NAMES[rng.usize(..6).min(4) % 4]);
            let mut number = || match rng.u32(..4) {
                0 => 4096 - rng.u32(..9),
                1 => u32::MAX - rng.u32(..3),
                _ => rng.u32(..4096),
            };
            let [a, b, c] = [0; 3].map(|_| number());
            let width = [1, 2, 4, 8, 3][rng.usize(..5)];
            script.extend(match rng.u32(..4) {
                0 => allocate(one, 1 << rng.u32(..8), 1),
                1 => add_pointer(one, two, a, width),
                2 => add_checksum(one, a, b, c),
                _ => write_pointer(one, two, a, b, width),
            });
        }
        let machine = cases.turn().with("acpi=off");
        let case = plain(&format!("script {n}"), machine, End::Either)?;
        let case = case.with_item("etc/table-loader", &script)?;
        let case = case.with_item("etc/acpi/tables", &noise(4096, 5))?;
        cases.push(case.with_item("etc/acpi/rsdp", &[0; 36])?);
    }
    cases.run()
}
