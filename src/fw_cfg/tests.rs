use super::fake::FakeFwCfg;
use super::*;
use std::{format, vec};

#[test]
fn one_transfer_reads_an_ordinary_directory() {
    let mut fw_cfg = FakeFwCfg::new();
    for i in 0..30 {
        fw_cfg.file(&format!("etc/file{i}"), &vec![0; i]);
    }
    let mut scratch = vec![0xa5; 8192];
    let (dir, rest) = Directory::read(&mut fw_cfg, &mut scratch).unwrap();
    assert_eq!(rest.len(), 8192 - 4048);
    assert_eq!(fw_cfg.transfers, 1);
    assert_eq!(dir.entries().len(), 30);
    assert_eq!(
        dir.find(&file_name("etc/file7")),
        Some(File {
            selector: 0x27,
            size: 7
        })
    );
    assert_eq!(dir.find(&file_name("etc/file")), None);
    assert_eq!(dir.find(&file_name("etc/file77")), None);
}

#[test]
fn a_long_directory_takes_a_second_transfer() {
    let mut fw_cfg = FakeFwCfg::new();
    for i in 0..300 {
        fw_cfg.file(&format!("opt/file{i}"), &[]);
    }
    let mut scratch = vec![0xa5; 32768];
    let (dir, _) = Directory::read(&mut fw_cfg, &mut scratch).unwrap();
    assert_eq!(fw_cfg.transfers, 2);
    assert_eq!(
        dir.find(&file_name("opt/file299")).map(|f| f.selector),
        Some(0x20 + 299)
    );
}

#[test]
fn a_directory_beyond_the_scratch_is_an_error() {
    let mut fw_cfg = FakeFwCfg::new();
    fw_cfg.item(item::FILE_DIR, &u32::MAX.to_be_bytes());
    let mut scratch = vec![0; 8192];
    assert_eq!(
        Directory::read(&mut fw_cfg, &mut scratch).err(),
        Some(Error::TooManyFiles)
    );
}
