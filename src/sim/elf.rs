//! Program headers, read apart from the library's own reader.

use crate::phys::{u16_at, u32_at, u64_at};
use std::vec::Vec;

/// A program header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) kind: u32,
    pub(super) offset: u64,
    pub(super) paddr: u64,
    pub(super) filesz: u64,
    pub(super) memsz: u64,
}

/// Program headers, read without the firmware's own parser.
pub(super) fn segments(file: &[u8]) -> Vec<Segment> {
    let long = file.get(4) == Some(&2);
    let field = |at: usize, wide: bool| {
        if wide {
            u64_at(file, at)
        } else {
            u32_at(file, at).map(u64::from)
        }
    };
    let (phoff, size, count) = if long {
        (field(0x20, true), u16_at(file, 0x36), u16_at(file, 0x38))
    } else {
        (field(0x1c, false), u16_at(file, 0x2a), u16_at(file, 0x2c))
    };
    let (Some(phoff), Some(size), Some(count)) = (phoff, size, count) else {
        return Vec::new();
    };
    if size < 32 {
        return Vec::new();
    }
    let read = |i: u16| {
        let at = usize::try_from(phoff)
            .ok()?
            .checked_add(usize::from(i) * usize::from(size))?;
        let kind = u32_at(file, at)?;
        Some(if long {
            Segment {
                kind,
                offset: field(at + 8, true)?,
                paddr: field(at + 24, true)?,
                filesz: field(at + 32, true)?,
                memsz: field(at + 40, true)?,
            }
        } else {
            Segment {
                kind,
                offset: field(at + 4, false)?,
                paddr: field(at + 12, false)?,
                filesz: field(at + 16, false)?,
                memsz: field(at + 20, false)?,
            }
        })
    };
    (0..count).map_while(read).collect()
}
