//! Errors of unusual machines: too little memory, too many files or tables.

use std::fs;

use qboot_tests::{files_below, sum};
use xtask::workspace;

use super::*;

/// A machine that boots a probe, with this much memory as `-m` takes it.
fn with_memory(machine: Machine, memory: &str) -> Result<(Qemu, Probe)> {
    let (qemu, probe) = with_items(machine, &[])?;
    Ok((qemu.args(["-m", memory]), probe))
}

/// The same, with this many files of the user's in fw_cfg.
fn with_files(machine: Machine, files: u32) -> Result<(Qemu, Probe)> {
    let (qemu, probe) = with_memory(machine, "64M")?;
    let qemu = qemu.args(["-global", "fw_cfg.x-file-slots=6000"]);
    let qemu = (0..files).fold(qemu, |qemu, n| qemu.fw_cfg(&format!("opt/a{n}"), "x"));
    Ok((qemu, probe))
}

/// fw_cfg cannot write where there is no RAM.
#[test]
fn a_failing_transfer() -> Result<()> {
    let (qemu, _probe) = with_memory(PC, "128K")?;
    fails_with(&qemu, Error::FwCfgTransfer, "")
}

#[test]
fn half_a_mebibyte() -> Result<()> {
    let (qemu, _probe) = with_memory(ISAPC, "512K")?;
    fails_with(&qemu, Error::BadE820, "1 MiB")
}

/// The command line may ask about PCI too.
#[test]
fn an_unknown_value_on_the_command_line() -> Result<()> {
    let (qemu, _probe) = with_memory(MICROVM, "64M")?;
    let qemu = qemu.append("quiet qboot.pci=ful x=y");
    fails_with(&qemu, Error::BadOption(VALUE), "qboot.pci=")
}

#[test]
fn too_many_files() -> Result<()> {
    let (qemu, _probe) = with_files(PC, 5200)?;
    fails_with(&qemu, Error::TooManyFiles, "-fw_cfg")
}

/// So many files leave no room for the tree of what PCI asks for.
#[test]
fn too_many_functions() -> Result<()> {
    let (qemu, _probe) = with_files(PC, 5052)?;
    let qemu = qemu.option("pci", "full").devices(["am53c974"; 2]);
    fails_with(&qemu, Error::PciTooMany, "pci=none")
}

#[test]
fn too_many_tables() -> Result<()> {
    let names: Vec<String> = (0..33).map(|n| format!("opt/f{n}")).collect();
    let script: Vec<u8> = names
        .iter()
        .flat_map(|name| allocate(name, 16, 1))
        .collect();
    let mut items = vec![(SCRIPT, &script[..])];
    items.extend(names.iter().map(|name| (name.as_str(), &b"x"[..])));
    let (qemu, _probe) = with_items(NO_ACPI, &items)?;
    let qemu = qemu.args(["-global", "fw_cfg.x-file-slots=100"]);
    fails_with(&qemu, Error::TooManyTables, "")
}

/// An SMBIOS 3 entry point for tables of this size (SMBIOS 3.0, 5.2.2).
fn anchor(len: usize) -> Vec<u8> {
    let mut anchor = b"_SM3_\0\x18\x03\0\0\x01\0".to_vec();
    anchor.extend((len as u32).to_le_bytes());
    anchor.resize(24, 0);
    anchor[5] = sum(&anchor).wrapping_neg();
    anchor
}

/// microvm has no SMBIOS of QEMU's own.
#[rstest]
#[case::nonsense(b"nonsense".to_vec(), 100, Error::BadSmbios)]
#[case::too_big(anchor(15 << 20), 15 << 20, Error::SmbiosTooBig(ROOM))]
fn smbios(#[case] anchor: Vec<u8>, #[case] len: usize, #[case] error: Error) -> Result<()> {
    let tables = vec![0; len];
    let items: [(&str, &[u8]); 2] = [
        ("etc/smbios/smbios-anchor", &anchor),
        ("etc/smbios/smbios-tables", &tables),
    ];
    let (qemu, _probe) = with_items(MICROVM, &items)?;
    fails_with(&qemu, error, "")
}

/// Errors that no test here names.
const ELSEWHERE: [&str; 6] = [
    // Warnings: `tests/pci/boots.rs` compares their numbers.
    "PciUnplaced",
    "PciUnnumbered",
    // No QEMU has so many entries, or such a host bridge, or takes a -bios without
    // fw_cfg: the library's tests provoke them.
    "TooManyE820Entries",
    "UnknownMachine",
    "NoFwCfg",
    // A defect of the firmware's own.
    "NotOurMemory",
];

/// Each error of the firmware is named by a test, or stands in [`ELSEWHERE`].
#[test]
fn every_error_is_provoked() -> Result<()> {
    let root = workspace::root();
    let mut source = String::new();
    for file in files_below(&root.join("tests"))? {
        if file.extension().is_some_and(|extension| extension == "rs") {
            source.push_str(&fs::read_to_string(file)?);
        }
    }
    let words: Vec<&str> = source.split(|c: char| !c.is_alphanumeric()).collect();
    let errors = fs::read_to_string(root.join("src/error.rs"))?;
    // The arms that give errors their codes.
    let arms = errors.lines().filter(|line| line.contains("=> (0x"));
    let names = arms.filter_map(|line| line.trim().strip_prefix("Self::"));
    let names = names.filter_map(|name| name.split(|c: char| !c.is_alphanumeric()).next());
    let names: Vec<_> = names.collect();
    ensure!(names.len() > 28, "only {} errors found", names.len());
    let seen = |name: &str| words.contains(&name) || ELSEWHERE.contains(&name);
    let missing: Vec<_> = names.iter().filter(|name| !seen(name)).collect();
    ensure!(missing.is_empty(), "no test provokes {missing:?}");
    Ok(())
}
