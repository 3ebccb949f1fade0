//! Where the tables go that kernels find or are handed.

use crate::acpi;
use crate::e820::{Kind, MemoryMap};
use crate::error::{Error, Result, Shortfall};
use crate::phys::{PhysRange, align_up, kib};

/// Where tables go: by zone, and into the E820 map as what they are.
pub(super) struct TableSpace<'a> {
    map: &'a mut MemoryMap,
    shortfall: &'a mut Shortfall,
    /// What is left of the F segment.
    f_segment: &'a mut PhysRange,
    /// Allocated above 1 MiB, in one piece, not yet in the map.
    pending: Option<PhysRange>,
    /// The most bytes of a padded file that are in use.
    pub(super) used: u32,
}

/// E820 and page tables know nothing finer.
const PAGE: u32 = 4096;

impl<'a> TableSpace<'a> {
    /// Nothing allocated yet.
    #[inline(always)]
    pub(super) fn new(
        map: &'a mut MemoryMap,
        shortfall: &'a mut Shortfall,
        f_segment: &'a mut PhysRange,
    ) -> Self {
        Self {
            map,
            shortfall,
            f_segment,
            pending: None,
            used: 0,
        }
    }

    /// Enters what was allocated into the map.
    pub(super) fn finish(&mut self) -> Result<()> {
        match self.pending.take() {
            None => Ok(()),
            Some(range) => self.map.reserve(range, Kind::ACPI),
        }
    }
}

impl acpi::Allocator for TableSpace<'_> {
    fn used(&mut self, len: u32) {
        self.used = self.used.max(len);
    }

    #[inline(always)]
    fn alloc(&mut self, zone: acpi::Zone, len: u32, align: u32) -> Result<PhysRange> {
        match zone {
            acpi::Zone::Fseg => {
                let start = align_up(self.f_segment.start(), align.max(16));
                let range = start.and_then(|start| PhysRange::new(start, len));
                let range = range.filter(|r| r.end() <= self.f_segment.end());
                let Some(range) = range else {
                    *self.shortfall = Shortfall {
                        need_kib: kib(len),
                        have_kib: self.f_segment.len() >> 10,
                    };
                    return Err(Error::TablesTooBig);
                };
                *self.f_segment = PhysRange::between(range.end(), self.f_segment.end())
                    .ok_or(Error::TablesTooBig)?;
                Ok(range)
            }
            acpi::Zone::High => {
                // Whole pages, so that nothing else shares one with a table.
                let high = self.map.high();
                let whole = align_up(len.max(1), PAGE).ok_or(Error::TablesTooBig)?;
                let Some(claim) = self.map.place(whole, align.max(PAGE), high) else {
                    *self.shortfall = Shortfall {
                        need_kib: kib(whole),
                        have_kib: self.map.largest_free(high) >> 10,
                    };
                    return Err(Error::TablesTooBig);
                };
                let new = claim.range();
                self.pending = match self.pending {
                    Some(old) if new.end() == old.start() => {
                        PhysRange::between(new.start(), old.end())
                    }
                    Some(old) => {
                        self.map.reserve(old, Kind::ACPI)?;
                        Some(new)
                    }
                    None => Some(new),
                };
                PhysRange::new(new.start(), len).ok_or(Error::TablesTooBig)
            }
        }
    }
}
