//! Tables and files that the user gives: nonsense, in every place where QEMU
//! takes it.

use super::*;
use xtask::probe::{BzImage, Mode};

fn plain(name: &str, machine: &str, end: End) -> Result<Case> {
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
    let mut cases = Vec::new();
    let tables = [
        ("empty data", "data", Vec::new()),
        ("one byte", "data", vec![0]),
        (
            "60,000 bytes of noise",
            "data",
            qboot_tests::noise(60_000, 1),
        ),
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
        for machine in ["pc", "q35"] {
            let sig = if kind == "data" { "sig=TEST," } else { "" };
            let case = plain(name, machine, End::Entered)?;
            cases.push(case.with_file("table", &bytes, |path| {
                ["-acpitable".into(), format!("{sig}{kind}={path}")]
            })?);
        }
    }
    let mut many = plain("200 tables", "q35", End::Entered)?;
    for n in 0..200 {
        many = many.with_file("many", &[n; 64], |path| {
            ["-acpitable".into(), format!("sig=T{n:03},data={path}")]
        })?;
    }
    cases.push(many);
    run(&cases)
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
    let mut cases = Vec::new();
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
        for machine in ["pc", "q35,smbios-entry-point-type=64"] {
            let case = plain(name, machine, End::Either)?;
            cases.push(case.with_file("smbios", &bytes, |path| {
                ["-smbios".into(), format!("file={path}")]
            })?);
        }
    }
    run(&cases)
}

#[test]
fn files_named_like_ours() -> Result<()> {
    let mut cases = Vec::new();
    let noise = qboot_tests::noise(4096, 3);
    let option = End::Fails(Error::BadOption);
    let script = End::Fails(Error::BadLoaderScript);
    for (machine, name, bytes, end) in [
        ("pc", "opt/org.qboot/pci", &b"much"[..], option),
        ("pc", "opt/org.qboot/pci", &noise, option),
        ("q35", "opt/org.qboot/pci", b"none\0", End::Entered),
        ("q35", "opt/org.qboot/pci", b"full\n\n\n", End::Either),
        ("q35", "opt/org.qboot/pci", b"full", End::Entered),
        ("microvm", "opt/org.qboot/pci", b"full", End::Entered),
        ("pc", "opt/org.qboot/entry", b"64", option),
        ("pc", "opt/org.qboot/entry", b"32", End::Entered),
        ("pc", "opt/org.qboot/entry", b"16", End::Entered),
        ("q35", "opt/org.qboot/pcix", &noise, End::Entered),
        ("q35", "opt/org.qboot/", &noise, End::Entered),
        ("q35", "etc/e820x", &noise, End::Entered),
        ("q35", "etc/e82", &noise, End::Entered),
        ("pc", "etc/table-loader2", &noise, End::Entered),
        (
            "pc",
            "a name of fifty-five characters: the longest that fits.",
            &noise,
            End::Entered,
        ),
        ("pc,acpi=off", "etc/table-loader", b"x", script),
        ("pc,acpi=off", "etc/table-loader", &noise[..127], script),
        ("pc,acpi=off", "etc/table-loader", &noise, End::Either),
        ("pc,acpi=off", "etc/table-loader", &[0; 128], End::Either),
        (
            "pc,acpi=off",
            "etc/table-loader",
            &[0; 0x4_0000],
            End::Either,
        ),
        (
            "q35,acpi=off",
            "etc/table-loader",
            &[0xff; 0x10_0000],
            End::Either,
        ),
        ("q35,acpi=off", "etc/acpi/tables", &noise, End::Entered),
        ("q35,acpi=off", "etc/acpi/rsdp", &noise, End::Entered),
        ("microvm,acpi=off", "etc/table-loader", &noise, End::Either),
        ("microvm", "etc/smbios/smbios-anchor", b"", End::Either),
        (
            "microvm",
            "etc/smbios/smbios-anchor",
            &noise[..31],
            End::Either,
        ),
        ("microvm", "etc/smbios/smbios-tables", &noise, End::Either),
        ("q35", "etc/extra-pci-roots", b"", End::Entered),
        ("q35", "etc/extra-pci-roots", &[0xff; 8], End::Either),
        ("q35", "etc/reserved-memory-end", &[0xff; 8], End::Either),
    ] {
        let case = plain(&format!("{name}, {} bytes", bytes.len()), machine, end)?;
        cases.push(case.with_item(name, bytes)?);
    }
    run(&cases)
}

/// Both parts of SMBIOS, of which one lies about the other.
#[test]
fn smbios_that_contradicts_itself() -> Result<()> {
    let mut cases = Vec::new();
    let noise = qboot_tests::noise(4096, 3);
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
        let case = plain(&name, "microvm", End::Either)?;
        let case = case.with_item("etc/smbios/smbios-anchor", &anchor)?;
        cases.push(case.with_item("etc/smbios/smbios-tables", &noise)?);
    }
    run(&cases)
}

#[test]
fn full_directories() -> Result<()> {
    let mut cases = Vec::new();
    for (files, end) in [(60, End::Entered), (100, End::Entered), (3000, End::Either)] {
        let mut case = plain(&format!("{files} files"), "q35", end)?;
        case.qemu = case.qemu.args(["-global", "fw_cfg_io.x-file-slots=4000"]);
        for n in 0..files {
            case.qemu = case
                .qemu
                .arg("-fw_cfg")
                .arg(format!("name=opt/file{n},string=x"));
        }
        cases.push(case);
    }
    run(&cases)
}

/// A command of the table loader.
fn command(number: u32, names: [&str; 2], fields: &[(usize, &[u8])]) -> Vec<u8> {
    let mut command = vec![0; 128];
    command[..4].copy_from_slice(&number.to_le_bytes());
    for (name, slot) in names.iter().zip(command[4..].chunks_mut(56)) {
        slot[..name.len()].copy_from_slice(name.as_bytes());
    }
    for (at, field) in fields {
        command[*at..at + field.len()].copy_from_slice(field);
    }
    command
}

/// Scripts of commands that are each nearly right.
#[test]
fn table_loader_scripts() -> Result<()> {
    const NAMES: [&str; 4] = ["etc/acpi/tables", "etc/acpi/rsdp", "etc/e820", "opt/none"];
    let mut dice = Dice(0xac91);
    let mut cases = Vec::new();
    for n in 0..30 {
        let mut script = command(1, [NAMES[0], ""], &[(60, &[16]), (64, &[1])]);
        script.extend(command(1, [NAMES[1], ""], &[(60, &[16]), (64, &[2])]));
        for _ in 0..dice.below(12) {
            let names = [0, 1].map(|_| NAMES[dice.below(6).min(4) as usize % 4]);
            let mut number = || match dice.below(4) {
                0 => 4096 - dice.below(9) as u32,
                1 => u32::MAX - dice.below(3) as u32,
                _ => dice.below(4096) as u32,
            };
            let [a, b, c] = [0; 3].map(|_| number().to_le_bytes());
            let width = [[1, 2, 4, 8, 3][dice.below(5) as usize]];
            script.extend(match dice.below(4) {
                0 => command(1, names, &[(60, &[1 << dice.below(8)]), (64, &[1])]),
                1 => command(2, names, &[(116, &a), (120, &width)]),
                2 => command(3, names, &[(60, &a), (64, &b), (68, &c)]),
                _ => command(4, names, &[(116, &a), (120, &b), (124, &width)]),
            });
        }
        let machine = ["pc,acpi=off", "q35,acpi=off", "microvm,acpi=off"][n % 3];
        let case = plain(&format!("script {n}"), machine, End::Either)?;
        let case = case.with_item("etc/table-loader", &script)?;
        let case = case.with_item("etc/acpi/tables", &qboot_tests::noise(4096, 5))?;
        cases.push(case.with_item("etc/acpi/rsdp", &[0; 36])?);
    }
    run(&cases)
}
