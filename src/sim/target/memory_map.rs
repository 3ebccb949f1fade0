//! The memory map, and placement in it.

use super::{Arbitrary, Unstructured};
use crate::layout;
use crate::memory::map::{Kind, MemoryMap};
use crate::phys::PhysRange;
use crate::sim::{e820, e820_entry};
use std::vec::Vec;

/// The memory map, and placement in it.
pub fn e820_map(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let _ = e820_run(&mut u);
}

pub(super) fn e820_entries(u: &mut Unstructured<'_>) -> Arbitrary<Vec<u8>> {
    let mut raw = Vec::new();
    if u.arbitrary()? {
        let ram = u64::from(u.arbitrary::<u32>()?) << u.int_in_range(0..=8)?;
        raw = e820(ram);
    }
    for _ in 0..u.int_in_range(0..=140)? {
        if u.is_empty() {
            break;
        }
        let shift = u.int_in_range(0..=48)?;
        let base = u64::from(u.arbitrary::<u16>()?) << shift;
        let shift = u.int_in_range(0..=48)?;
        let len = u64::from(u.arbitrary::<u16>()?) << shift;
        raw.extend(e820_entry(base, len, u.int_in_range(0..=6)?));
    }
    Ok(raw)
}

fn check_map(map: &MemoryMap) {
    let mut end = 0;
    for entry in map.entries() {
        assert!(
            entry.base() >= end && entry.end() > entry.base(),
            "not sorted and disjoint: {:x?}",
            map.entries()
        );
        end = entry.end();
    }
}

fn e820_run(u: &mut Unstructured<'_>) -> Arbitrary<()> {
    let raw = if u.ratio(1, 4)? {
        let len = u.arbitrary_len::<u8>()?.min(u.len());
        u.bytes(len)?.to_vec()
    } else {
        e820_entries(u)?
    };
    let mut map = MemoryMap::new();
    if map.fill(&raw, PhysRange::fixed(0, 0)).is_err() {
        return Ok(());
    }
    check_map(&map);
    let high = map.high();
    assert!(high.start() == layout::HIGH_RAM);
    let mut held: Vec<PhysRange> = Vec::new();
    while !u.is_empty() {
        let len = u.arbitrary::<u32>()? >> u.int_in_range(0..=31)?;
        let align = 1_u32 << u.int_in_range(0..=24)?;
        let claim = match u.int_in_range(0..=3)? {
            0 => map.place(len, align, high),
            1 => map.place_low(len, align),
            2 => {
                let start = u.arbitrary()?;
                PhysRange::new(start, len).and_then(|range| map.claim(range))
            }
            _ => {
                let start = u.arbitrary()?;
                if let Some(range) = PhysRange::new(start, len)
                    && map.reserve(range, Kind::RESERVED).is_err()
                {
                    return Ok(());
                }
                check_map(&map);
                None
            }
        };
        let _ = map.room(1, high);
        if let Some(range) = claim.map(|claim| claim.range()) {
            assert!(!held.iter().any(|other| other.overlaps(range)));
            let placeable = high.contains(range)
                || layout::LOW_FREE.contains(range)
                || layout::LOW_FREE_TOP.contains(range);
            assert!(placeable, "{range:x?} is not free memory");
            held.push(range);
        }
    }
    Ok(())
}
