use super::fake::file_name;
use super::*;
use crate::sim::Machine;
use std::{format, vec};

#[test]
fn one_transfer_reads_an_ordinary_directory() {
    let mut machine = Machine::default();
    for i in 0..30 {
        machine.fw_cfg.file(&format!("etc/file{i}"), &vec![0; i]);
    }
    let mut scratch = vec![0xa5; 8192];
    let (dir, rest) = Directory::read(&mut machine, &mut scratch).unwrap();
    assert_eq!(rest.len(), 8192 - 4048);
    assert_eq!(machine.fw_cfg.transfers, 1);
    assert_eq!(dir.entries().len(), 30);
    assert_eq!(
        dir.find(b"etc/file7"),
        Some(File {
            selector: 0x27,
            size: 7
        })
    );
    assert_eq!(dir.find(b"etc/file"), None);
    assert_eq!(dir.find(b"etc/file77"), None);
}

#[test]
fn a_transfers_selector_is_its_upper_half() {
    let control = DmaControl::READ.select(0x8019);
    assert_eq!(control.bits(), 0x8019_000a);
}

#[test]
fn a_long_directory_takes_a_second_transfer() {
    let mut machine = Machine::default();
    for i in 0..300 {
        machine.fw_cfg.file(&format!("opt/file{i}"), &[]);
    }
    let mut scratch = vec![0xa5; 32768];
    let (dir, _) = Directory::read(&mut machine, &mut scratch).unwrap();
    assert_eq!(machine.fw_cfg.transfers, 2);
    assert_eq!(
        dir.find(b"opt/file299").map(|f| f.selector),
        Some(0x20 + 299)
    );
}

/// The first transfer has room for 63 entries.
#[test]
fn the_second_transfer_is_made_only_when_it_is_needed() {
    for (count, transfers) in [(63, 1), (64, 2)] {
        let mut machine = Machine::default();
        for i in 0..count {
            machine.fw_cfg.file(&format!("opt/file{i}"), &[]);
        }
        let mut scratch = vec![0xa5; 8192];
        let (dir, _) = Directory::read(&mut machine, &mut scratch).unwrap();
        assert_eq!(dir.entries().len(), count);
        assert_eq!(machine.fw_cfg.transfers, transfers, "{count}");
    }
}

#[test]
fn a_number_is_read_from_its_file() {
    let mut machine = Machine::default();
    machine
        .fw_cfg
        .file("etc/long", &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    machine.fw_cfg.file("etc/short", &[1, 2]);
    let mut scratch = vec![0; 8192];
    let (dir, _) = Directory::read(&mut machine, &mut scratch).unwrap();
    let mut number = |name| dir.read_number(&mut machine, name);
    assert_eq!(number(b"etc/long"), Ok(0x0807_0605_0403_0201));
    assert_eq!(number(b"etc/short"), Ok(0x0201));
    assert_eq!(number(b"etc/none"), Ok(0));
}

#[test]
fn a_directory_beyond_the_scratch_is_an_error() {
    let mut machine = Machine::default();
    let count = u32::MAX.to_be_bytes();
    machine.fw_cfg.item(item::FILE_DIR, &count);
    let mut scratch = vec![0; 8192];
    assert_eq!(
        Directory::read(&mut machine, &mut scratch).err(),
        Some(Error::TooManyFiles)
    );
}

#[test]
fn a_name_ends_in_a_nul_or_with_its_field() {
    let mut field = file_name("etc/acpi/rsdp");
    assert!(is_called(&field, b"etc/acpi/rsdp"));
    assert!(!is_called(&field, b"etc/acpi/rsd"));
    assert!(!is_called(&field, b"etc/acpi/rsdp2"));
    assert!(!is_called(&field, b"etc/acpi/rsdq"));
    assert_eq!(up_to_nul(&field), b"etc/acpi/rsdp");
    // What lies behind the NUL is no part of the name.
    field[20] = b'x';
    assert!(is_called(&field, b"etc/acpi/rsdp"));
    let full = [b'x'; FILE_NAME_LEN];
    assert!(is_called(&full, &full));
    assert!(!is_called(&full, &full[1..]));
    assert_eq!(up_to_nul(&full), full);
}
