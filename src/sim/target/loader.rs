//! The table loader, and its scripts.

use super::{Arbitrary, FakeFwCfg, Memory, NAMES, Unstructured, arena};
use crate::acpi;
use crate::error::Error;
use crate::fw_cfg::Directory;
use crate::phys::PhysRange;
use crate::sim::loader_command;
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

/// A script of commands whose fields are likely ones.
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
    for (at, name) in NAMES.iter().enumerate() {
        // An even pattern: pointers in it are offsets, mostly inside.
        let len = if at == 1 { size } else { size.min(256) };
        let bytes: Vec<u8> = (0..len)
            .map(|i| if i % 4 == 0 { i as u8 } else { 0 })
            .collect();
        fw_cfg.file(name, &bytes);
    }
    let bytes = if raw {
        let rest = u.bytes(u.len())?;
        rest.to_vec()
    } else {
        script(u, size)?
    };
    let mut scratch = vec![0; 8192];
    let Ok((dir, _)) = Directory::read(&mut fw_cfg, &mut scratch) else {
        return Ok(());
    };
    let mut memory = Memory::new(0x40_0000);
    let mut arena = arena(&mut memory);
    let result = acpi::load(&bytes, &dir, &mut fw_cfg, &mut memory, &mut arena);
    if let Ok(Some(rsdp)) = result {
        assert!(arena.given.iter().any(|r| r.start() == rsdp));
    }
    assert_ne!(result, Err(Error::NotOurMemory));
    for range in &memory.touched {
        let inside = |given: &PhysRange| given.contains(*range);
        assert!(
            range.is_empty() || arena.given.iter().any(inside),
            "{range:x?} was not allocated"
        );
    }
    assert!(fw_cfg.transfers <= 16 + bytes.len() / 128 * 6 + 32 * 32);
    Ok(())
}
