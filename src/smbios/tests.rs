//! Entry points and structures written here, arbitrary ones, and those of
//! real machines.

use super::*;
use crate::fw_cfg::fake::FakeFwCfg;
use crate::phys::align_up;
use crate::phys::fake::FakeMemory;
use std::vec;

const FSEG: PhysRange = PhysRange::fixed(0xf_8000, 0x10_0000);
const HIGH: PhysRange = PhysRange::fixed(0x10_0000, 0x20_0000);
const ALL: PhysRange = PhysRange::fixed(0xf_8000, 0x20_0000);

/// Gives out both zones upwards.
struct Arena(u32, u32);

impl Allocator for Arena {
    fn alloc(&mut self, zone: Zone, len: u32, align: u32) -> Result<PhysRange> {
        let (next, within) = match zone {
            Zone::High => (&mut self.1, HIGH),
            Zone::Fseg => (&mut self.0, FSEG),
        };
        let range = align_up(*next, align)
            .and_then(|start| PhysRange::new(start, len))
            .filter(|range| within.contains(*range))
            .ok_or(Error::TablesTooBig)?;
        *next = range.end();
        Ok(range)
    }
}

fn load_files(anchor: &[u8], tables: &[u8]) -> (Result<Option<u32>>, FakeMemory) {
    let mut fw_cfg = FakeFwCfg::new();
    fw_cfg.file("etc/smbios/smbios-anchor", anchor);
    fw_cfg.file("etc/smbios/smbios-tables", tables);
    let mut scratch = vec![0; 8192];
    let (dir, _) = Directory::read(&mut fw_cfg, &mut scratch).unwrap();
    let mut memory = FakeMemory::new(ALL, &[ALL]);
    let mut arena = Arena(FSEG.start(), HIGH.start());
    fw_cfg.transfers = 0;
    let result = load(&dir, &mut fw_cfg, &mut memory, &mut arena);
    if result.is_ok() {
        assert_eq!(fw_cfg.transfers, 2);
    }
    (result, memory)
}

#[test]
fn the_minimal_set_is_whole() {
    let mut memory = FakeMemory::new(ALL, &[ALL]);
    let entry = build_minimal(&mut memory, &mut Arena(FSEG.start(), HIGH.start())).unwrap();
    assert_eq!(entry, FSEG.start());
    let anchor = memory
        .bytes(PhysRange::new(entry, 31).unwrap())
        .unwrap()
        .to_vec();
    assert_eq!(byte_sum(&anchor), 0);
    assert_eq!(byte_sum(&anchor[16..]), 0);
    let len = u16::from_le_bytes([anchor[22], anchor[23]]);
    let at = u32::from_le_bytes([anchor[24], anchor[25], anchor[26], anchor[27]]);
    let tables = memory
        .bytes(PhysRange::new(at, len.into()).unwrap())
        .unwrap();
    assert_eq!(survey(tables), Ok(MINIMAL_SURVEY));
    assert_eq!(tables[tables.len() - 6..], END_OF_TABLE);
}

#[test]
fn no_files_no_smbios() {
    let mut fw_cfg = FakeFwCfg::new();
    fw_cfg.file("etc/other", &[]);
    let mut scratch = vec![0; 8192];
    let (dir, _) = Directory::read(&mut fw_cfg, &mut scratch).unwrap();
    let mut memory = FakeMemory::new(ALL, &[]);
    let result = load(&dir, &mut fw_cfg, &mut memory, &mut Arena(0, 0));
    assert_eq!(result, Ok(None));
}

#[test]
fn a_wrong_anchor_is_refused() {
    let (result, _) = load_files(&[0; 31], &MINIMAL_TABLES);
    assert_eq!(result, Err(Error::BadSmbios));
    let (result, _) = load_files(&[0; 30], &MINIMAL_TABLES);
    assert_eq!(result, Err(Error::BadSmbios));
    let (result, _) = load_files(&MINIMAL_ANCHOR, &MINIMAL_TABLES);
    assert_eq!(result, Ok(Some(FSEG.start())));
}
