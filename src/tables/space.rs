//! The one allocator for all tables.

use crate::error::{Error, Result, Room};
use crate::layout;
use crate::memory::map::{Kind, MemoryMap};
use crate::phys::{PhysRange, align_up};

/// Where a table has to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// Anywhere below 4 GiB, in memory that E820 reserves.
    High,
    /// The F segment, where kernels search for RSDP, SMBIOS and MP table.
    FSegment,
}

/// E820 and page tables have no finer unit.
const PAGE: u32 = 4096;

/// Allocates memory that stays reserved while the kernel runs.
#[derive(Debug)]
pub struct TableSpace<'m> {
    map: &'m mut MemoryMap,
    /// The free part of the F segment.
    f_segment: PhysRange,
    /// The allocation above 1 MiB, in one piece, that the map does not have yet.
    pending: PhysRange,
}

impl<'m> TableSpace<'m> {
    /// Nothing allocated yet.
    #[must_use]
    pub const fn new(map: &'m mut MemoryMap) -> Self {
        Self {
            map,
            f_segment: layout::F_TABLES,
            pending: PhysRange::EMPTY,
        }
    }

    /// `len` bytes in `zone` at a multiple of `align`, a power of two.
    ///
    /// # Errors
    /// [`Error::TablesTooBig`] if the zone has no room for it.
    pub fn alloc(&mut self, zone: Zone, len: u32, align: u32) -> Result<PhysRange> {
        match zone {
            Zone::FSegment => self.alloc_f_segment(len, align),
            Zone::High => self.alloc_high(len, align),
        }
    }

    fn alloc_f_segment(&mut self, len: u32, align: u32) -> Result<PhysRange> {
        let start = align_up(self.f_segment.start(), align.max(16));
        let range = start.and_then(|start| PhysRange::new(start, len));
        let rest = range.and_then(|range| PhysRange::between(range.end(), self.f_segment.end()));
        let (Some(range), Some(rest)) = (range, rest) else {
            return Err(Error::TablesTooBig(Room::new(len, self.f_segment.len())));
        };
        self.f_segment = rest;
        Ok(range)
    }

    fn alloc_high(&mut self, len: u32, align: u32) -> Result<PhysRange> {
        let high = self.map.high();
        // Whole pages, so that nothing else shares one with a table.
        let whole = align_up(len.max(1), PAGE);
        let claim = whole.and_then(|whole| self.map.place(whole, align.max(PAGE), high));
        let Some(claim) = claim else {
            return Err(Error::TablesTooBig(self.map.room(len, high)));
        };
        let new = claim.range();
        if new.end() == self.pending.start() {
            self.pending = PhysRange::between(new.start(), self.pending.end())
                .ok_or(Error::TablesTooBig(Room::UNKNOWN))?;
        } else {
            self.finish()?;
            self.pending = new;
        }
        new.part(0, len).ok_or(Error::TablesTooBig(Room::UNKNOWN))
    }

    /// Marks the allocation in the map as reserved.
    ///
    /// Not as ACPI data, whose memory a kernel may reuse: the FACS is needed when it
    /// wakes. And not as NVS: a kernel that restores what it saved would undo a new
    /// `vmgenid`.
    ///
    /// # Errors
    /// [`Error::TooManyE820Entries`].
    pub fn finish(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let pending = core::mem::replace(&mut self.pending, PhysRange::EMPTY);
        self.map.reserve(pending, Kind::RESERVED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::map::tests::map_of;

    #[test]
    fn tables_above_1_mib_become_one_entry() {
        let mut map = map_of(64 << 20);
        let mut space = TableSpace::new(&mut map);
        let first = space.alloc(Zone::High, 1, 16).unwrap();
        let second = space.alloc(Zone::High, 4097, 64).unwrap();
        assert_eq!(first, PhysRange::fixed(0x3ff_f000, 0x3ff_f001));
        assert_eq!(second, PhysRange::fixed(0x3ff_d000, 0x3ff_e001));
        space.finish().unwrap();
        let tables = |e: &&crate::memory::map::Entry| {
            e.kind() == Kind::RESERVED && e.base() > u64::from(layout::HIGH_RAM)
        };
        let entries: std::vec::Vec<_> = map.entries().iter().filter(tables).collect();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].base()..entries[0].end(), 0x3ff_d000..0x400_0000);
        assert!(map.is_claimed(0x3ff_d000));
    }

    #[test]
    fn what_has_no_room_is_told_with_sizes() {
        let mut map = map_of(2 << 20);
        let mut space = TableSpace::new(&mut map);
        let room = Room::new(3 << 20, 1 << 20);
        let result = space.alloc(Zone::High, 3 << 20, 16);
        assert_eq!(result, Err(Error::TablesTooBig(room)));
        let len = layout::F_TABLES.len();
        let room = Room::new(len + 1, len);
        let result = space.alloc(Zone::FSegment, len + 1, 1);
        assert_eq!(result, Err(Error::TablesTooBig(room)));
        assert_eq!(space.alloc(Zone::FSegment, len, 1), Ok(layout::F_TABLES));
        let full = Room::new(1, 0);
        let result = space.alloc(Zone::FSegment, 1, 1);
        assert_eq!(result, Err(Error::TablesTooBig(full)));
    }
}
