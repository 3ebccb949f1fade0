//! Errors of machines that nobody starts but to see them.

use super::*;
use qboot::error::Warning;

/// A machine that boots a probe, with this much memory as `-m` takes it.
fn with_memory(name: &str, memory: &str) -> Result<(Qemu, Probe)> {
    let probe = Probe::new(Kind::BzImage)?;
    let qemu = machine(name)?.kernel(probe.path());
    Ok((qemu.args(["-m", memory]), probe))
}

/// The same, with this many files of the user's in fw_cfg.
fn with_files(name: &str, files: u32) -> Result<(Qemu, Probe)> {
    let (qemu, probe) = with_memory(name, "64M")?;
    let file = |n| ["-fw_cfg".to_owned(), format!("name=opt/a{n},string=x")];
    let qemu = qemu.args(["-global", "fw_cfg.x-file-slots=6000"]);
    Ok((qemu.args((0..files).flat_map(file)), probe))
}

/// `-fw_cfg` files with the names of QEMU's own.
fn with_items(name: &str, items: &[(&str, &[u8])]) -> Result<(Qemu, Probe)> {
    let (mut qemu, probe) = with_memory(name, "16M")?;
    for (item, bytes) in items {
        let file = probe.file(&item.replace('/', "-"), bytes)?;
        let option = format!("name={item},file={}", file.display());
        qemu = qemu.args(["-fw_cfg", &option]);
    }
    Ok((qemu, probe))
}

/// fw_cfg cannot write where there is no RAM.
#[test]
fn a_failing_transfer() -> Result<()> {
    let (qemu, _probe) = with_memory("pc", "128K")?;
    fails_with(&qemu, Error::FwCfgTransfer, "")
}

#[test]
fn half_a_mebibyte() -> Result<()> {
    let (qemu, _probe) = with_memory("isapc", "512K")?;
    fails_with(&qemu, Error::BadE820, "1 MiB")
}

/// The command line may ask about PCI too.
#[test]
fn an_unknown_value_on_the_command_line() -> Result<()> {
    let (qemu, _probe) = with_memory("microvm", "64M")?;
    let qemu = qemu.append("quiet qboot.pci=ful x=y");
    fails_with(&qemu, Error::BadOption, "qboot.pci=")
}

#[test]
fn too_many_files() -> Result<()> {
    let (qemu, _probe) = with_files("pc", 5200)?;
    fails_with(&qemu, Error::TooManyFiles, "-fw_cfg")
}

/// So many files leave no room for the tree of what PCI asks for.
#[test]
fn too_many_functions() -> Result<()> {
    let (qemu, _probe) = with_files("pc", 5052)?;
    let option = "name=opt/org.qboot/pci,string=full";
    let device = ["-device", "am53c974"];
    let qemu = qemu.args(["-fw_cfg", option]).args(device).args(device);
    fails_with(&qemu, Error::PciTooMany, "pci=none")
}

#[test]
fn too_many_tables() -> Result<()> {
    let names: Vec<String> = (0..33).map(|n| format!("opt/f{n}")).collect();
    let script: Vec<u8> = names.iter().flat_map(|name| allocate(name)).collect();
    let mut items = vec![("etc/table-loader", &script[..])];
    items.extend(names.iter().map(|name| (name.as_str(), &b"x"[..])));
    let (qemu, _probe) = with_items("pc,acpi=off", &items)?;
    let qemu = qemu.args(["-global", "fw_cfg.x-file-slots=100"]);
    fails_with(&qemu, Error::TooManyTables, "")
}

/// An SMBIOS 3 entry point for tables of this size (SMBIOS 3.0, 5.2.2).
fn anchor(len: usize) -> Vec<u8> {
    let mut anchor = b"_SM3_\0\x18\x03\0\0\x01\0".to_vec();
    anchor.extend((len as u32).to_le_bytes());
    anchor.resize(24, 0);
    let sum = anchor
        .iter()
        .fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    anchor[5] = sum.wrapping_neg();
    anchor
}

/// microvm has no SMBIOS of QEMU's own.
#[rstest]
#[case::nonsense(b"nonsense".to_vec(), 100, Error::BadSmbios)]
#[case::too_big(anchor(15 << 20), 15 << 20, Error::SmbiosTooBig)]
fn smbios(#[case] anchor: Vec<u8>, #[case] len: usize, #[case] error: Error) -> Result<()> {
    let tables = vec![0; len];
    let items: [(&str, &[u8]); 2] = [
        ("etc/smbios/smbios-anchor", &anchor),
        ("etc/smbios/smbios-tables", &tables),
    ];
    let (qemu, _probe) = with_items("microvm", &items)?;
    fails_with(&qemu, error, "")
}

/// Which no QEMU brings about: the library's tests do, but for the last.
const ELSEWHERE: [(Error, &str); 4] = [
    (Error::TooManyE820Entries, "no QEMU has so many entries"),
    (Error::UnknownMachine, "QEMU has no such host bridge"),
    (
        Error::NoFwCfg,
        "every x86 machine that takes a -bios has fw_cfg",
    ),
    (Error::NotOurMemory, "a defect of the firmware's"),
];

/// Every error is the end of some test's machine.
#[test]
fn none_is_left_out() -> Result<()> {
    let tests = xtask::workspace::root().join("tests");
    let mut source = String::new();
    for dir in [
        tests.clone(),
        tests.join("errors"),
        tests.join("handover"),
        tests.join("hostile"),
    ] {
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                source.push_str(&std::fs::read_to_string(path)?);
            }
        }
    }
    let errors = std::fs::read_to_string(xtask::workspace::root().join("src/error.rs"))?;
    let names = errors
        .lines()
        .filter_map(|line| line.trim().split_once(" = 0x"));
    let names = names.filter(|(_, code)| code.ends_with(','));
    let names: Vec<&str> = names.map(|(name, _)| name).collect();
    ensure!(names.len() > 30, "only {} errors found", names.len());
    let seen = |name: &str| {
        let mut words = source.split(|c: char| !c.is_alphanumeric());
        words.any(|word| word == name)
    };
    let missing: Vec<_> = names.iter().filter(|name| !seen(name)).collect();
    // Warnings are told by their numbers (`tests/pci.rs`).
    let warnings = [Warning::PciUnplaced, Warning::PciUnnumbered];
    ensure!(missing.is_empty(), "no test provokes {missing:?}");
    println!("{warnings:?}: tests/pci.rs");
    for (error, reason) in ELSEWHERE {
        println!("{error:?}: {reason}");
    }
    Ok(())
}
