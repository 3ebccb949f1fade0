//! The table loader, and its scripts.

use super::{Arbitrary, FakeFwCfg, NAMES, Unstructured, is_given, machine};
use crate::error::Error;
use crate::fw_cfg::{Directory, file};
use crate::phys::PhysRange;
use crate::sim::loader_command;
use crate::tables::acpi::{self, Tables};
use crate::tables::space::TableSpace;
use std::vec;
use std::vec::Vec;

fn name<'a>(u: &mut Unstructured<'_>) -> Arbitrary<&'a str> {
    Ok(*u.choose(&NAMES)?)
}

/// An offset: near a size, small, or anything.
fn offset(u: &mut Unstructured<'_>, size: u32) -> Arbitrary<u32> {
    Ok(match u.arbitrary::<u8>()? {
        0 => u.arbitrary()?,
        1 => size.wrapping_sub(u.int_in_range(0..=16)?),
        2 => size.wrapping_add(u.int_in_range(0..=16)?),
        n => u32::from(n).wrapping_sub(3) * 4,
    })
}

/// A script of commands with likely fields.
pub(super) fn script(u: &mut Unstructured<'_>, size: u32) -> Arbitrary<Vec<u8>> {
    let mut script = Vec::new();
    for _ in 0..u.int_in_range(0..=24)? {
        let a = offset(u, size)?.to_le_bytes();
        let b = offset(u, size)?.to_le_bytes();
        let c = offset(u, size)?.to_le_bytes();
        let width = [*u.choose(&[1, 2, 4, 8, 4, 4, 0, 3])?];
        let (x, y) = (name(u)?, name(u)?);
        let command = match u.int_in_range(0..=9)? {
            0..=2 => {
                let align = (1_u32 << u.int_in_range(0..=12)?).to_le_bytes();
                let zone = [*u.choose(&[1, 1, 2, 3])?];
                loader_command(1, &[x], &[(60, &align), (64, &zone)])
            }
            3..=5 => loader_command(2, &[x, y], &[(116, &a), (120, &width)]),
            6..=7 => loader_command(3, &[x], &[(60, &a), (64, &b), (68, &c)]),
            8 => loader_command(4, &[x, y], &[(116, &a), (120, &b), (124, &width)]),
            _ => loader_command(u.arbitrary()?, &[x, y], &[(116, &a)]),
        };
        script.extend(command);
    }
    Ok(script)
}

/// The table loader, with files of likely names.
pub fn loader(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let _ = loader_run(&mut u);
}

fn loader_run(u: &mut Unstructured<'_>) -> Arbitrary<()> {
    let mut fw_cfg = FakeFwCfg::new();
    fw_cfg.limit = Some(16 << 20);
    let raw: bool = u.arbitrary()?;
    let size = match u.int_in_range(0..=3)? {
        0 => u.int_in_range(0..=64)?,
        1 => u.int_in_range(0..=8192)?,
        2 => u.int_in_range(0xf000..=0x2_0000)?,
        _ => 256,
    };
    let script = if raw {
        u.bytes(u.len())?.to_vec()
    } else {
        script(u, size)?
    };
    for (at, name) in NAMES.iter().enumerate() {
        // A pattern whose pointers are offsets, mostly inside the file.
        let len = if at == 1 { size } else { size.min(256) };
        let bytes: Vec<u8> = (0..len)
            .map(|i| if i % 4 == 0 { i as u8 } else { 0 })
            .collect();
        match *name {
            "etc/table-loader" => fw_cfg.file(name, &script),
            _ => fw_cfg.file(name, &bytes),
        };
    }
    let (mut machine, mut map) = machine(fw_cfg);
    let mut scratch = vec![0; 65536];
    let Ok((dir, scratch)) = Directory::read(&mut machine, &mut scratch) else {
        return Ok(());
    };
    let mut space = TableSpace::new(&mut map);
    let Some(script) = dir.find(file::TABLE_LOADER) else {
        return Ok(());
    };
    let mut tables = Tables::new(None);
    let result = acpi::load(&mut machine, &dir, script, &mut space, scratch, &mut tables);
    if let Some(rsdp) = tables.rsdp {
        let start = PhysRange::fixed(rsdp, rsdp);
        assert!(is_given(&map, start));
    }
    assert_ne!(result, Err(Error::NotOurMemory));
    for range in &machine.memory.touched {
        assert!(is_given(&map, *range), "{range:x?} was not allocated");
    }
    assert!(machine.fw_cfg.transfers <= 16 + script.size as usize / 128 * 6 + 32 * 32);
    Ok(())
}
