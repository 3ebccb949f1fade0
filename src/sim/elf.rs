//! A second reader of program headers, to check the library's.

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

/// Where the program headers of `file` are: offset, size of one, number.
fn table(file: &[u8]) -> Option<(usize, u16, u16)> {
    let (phoff, size, count) = if file.get(4) == Some(&2) {
        (u64_at(file, 0x20)?, 0x36, 0x38)
    } else {
        (u64::from(u32_at(file, 0x1c)?), 0x2a, 0x2c)
    };
    let phoff = usize::try_from(phoff).ok()?;
    Some((phoff, u16_at(file, size)?, u16_at(file, count)?))
}

/// Whether `file`, an ELF's first bytes, has all its program headers, each as
/// long as its class says.
pub(super) fn has_all_headers(file: &[u8]) -> bool {
    let usual = if file.get(4) == Some(&2) { 56 } else { 32 };
    table(file).is_some_and(|(at, size, count)| {
        let end = at.checked_add(usize::from(size) * usize::from(count));
        size == usual && end.is_some_and(|end| end <= file.len())
    })
}

/// The program headers.
pub(super) fn segments(file: &[u8]) -> Vec<Segment> {
    let long = file.get(4) == Some(&2);
    let field = |at: usize, wide: bool| {
        if wide {
            u64_at(file, at)
        } else {
            u32_at(file, at).map(u64::from)
        }
    };
    let Some((phoff, size, count)) = table(file) else {
        return Vec::new();
    };
    if size < 32 {
        return Vec::new();
    }
    let read = |i: u16| {
        let at = phoff.checked_add(usize::from(i) * usize::from(size))?;
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
