//! SMBIOS entry points and structures.

use super::{Arbitrary, FakeFwCfg, Unstructured, is_given, machine};
use crate::error::Error;
use crate::fw_cfg::Directory;
use crate::phys::{PhysRange, byte_sum, u16_at, u32_at};
use crate::tables::smbios;
use crate::tables::space::TableSpace;
use std::vec;
use std::vec::Vec;

/// SMBIOS.
pub fn smbios_tables(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let _ = smbios_run(&mut u);
}

/// An entry point that QEMU would make.
pub(super) fn anchor(long: bool) -> Vec<u8> {
    if long {
        let mut bytes = vec![0; 24];
        bytes[..5].copy_from_slice(b"_SM3_");
        bytes[6] = 24;
        bytes[7] = 3;
        bytes
    } else {
        let mut bytes = vec![0; 31];
        bytes[..4].copy_from_slice(b"_SM_");
        bytes[5] = 31;
        bytes[6] = 2;
        bytes[0x10..0x15].copy_from_slice(b"_DMI_");
        bytes
    }
}

/// Structures, mostly well-formed.
pub(super) fn structures(u: &mut Unstructured<'_>) -> Arbitrary<Vec<u8>> {
    let mut bytes = Vec::new();
    for _ in 0..u.int_in_range(0..=12)? {
        let kind = *u.choose(&[0, 1, 2, 3, 4, 11, 17, 127, 200])?;
        let len: u8 = *u.choose(&[4, 4, 24, 27, 5, 3, 0, 255])?;
        let handle: u16 = *u.choose(&[0, 1, 0x100, 0xfeff, 0xff00, 0xffff])?;
        bytes.extend([kind, len]);
        bytes.extend(handle.to_le_bytes());
        bytes.resize(bytes.len() + usize::from(len.saturating_sub(4)), 1);
        for _ in 0..u.int_in_range(0..=3)? {
            bytes.extend(b"text\0");
        }
        let stray = u.int_in_range(0..=2)?;
        bytes.extend(u.bytes(stray)?.iter().map(|b| b & 1));
        bytes.extend([0, 0]);
    }
    Ok(bytes)
}

fn smbios_run(u: &mut Unstructured<'_>) -> Arbitrary<()> {
    let mut fw_cfg = FakeFwCfg::new();
    let mut entry = anchor(u.arbitrary()?);
    if u.ratio(1, 4)? {
        let at = u.choose_index(entry.len())?;
        entry[at] = u.arbitrary()?;
    }
    let tables = if u.arbitrary()? {
        structures(u)?
    } else {
        u.bytes(u.len())?.to_vec()
    };
    fw_cfg.file("etc/smbios/smbios-anchor", &entry);
    fw_cfg.file("etc/smbios/smbios-tables", &tables);
    let (mut machine, mut map) = machine(fw_cfg);
    let mut scratch = vec![0; 8192];
    let Ok((dir, _)) = Directory::read(&mut machine, &mut scratch) else {
        return Ok(());
    };
    let mut space = TableSpace::new(&mut map);
    let result = smbios::load(&mut machine, &dir, &mut space, false);
    assert_ne!(result, Err(Error::NotOurMemory));
    for range in &machine.memory.touched {
        assert!(is_given(&map, *range), "{range:x?} was not allocated");
    }
    if let Ok(at) = result {
        let range = PhysRange::fixed(at, at + entry.len() as u32);
        let bytes = machine.memory.peek(range);
        assert_eq!(byte_sum(bytes), 0, "the entry point's checksum");
        let (start, len) = if entry.len() == 24 {
            (u32_at(bytes, 16), u32_at(bytes, 12))
        } else {
            let len = u16_at(bytes, 0x16).map(u32::from);
            (u32_at(bytes, 0x18), len)
        };
        let range = start
            .zip(len)
            .and_then(|(start, len)| PhysRange::new(start, len));
        let inside = range.is_some_and(|range| is_given(&map, range));
        assert!(inside, "structures at {range:x?}");
    }
    Ok(())
}
