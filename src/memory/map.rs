//! The memory map that the kernel gets, and the claims on RAM until the kernel runs.
//!
//! One map owns every byte. It places whatever is loaded or built. The resulting
//! [`Claim`] proves that the range is RAM and nobody else's.

use crate::error::{Error, Result, Room};
use crate::layout;
use crate::phys::{PhysRange, align_down};
use arrayvec::ArrayVec;
use zerocopy::FromBytes;
use zerocopy::byteorder::little_endian::{U32, U64};

/// Entries that a zero page has room for (`E820_MAX_ENTRIES_ZEROPAGE`).
pub const MAX_ENTRIES: usize = 128;

/// Ranges that can be held at one time.
const MAX_CLAIMS: usize = 48;

/// What a range of the map is (ACPI 6.5, table 15.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(u32);

impl Kind {
    /// Usable RAM.
    pub const RAM: Self = Self(1);
    /// Not usable.
    pub const RESERVED: Self = Self(2);

    /// The number in the map.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Its name in the log (ACPI 6.5, table 15.2).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            1 => "RAM",
            2 => "reserved",
            3 => "ACPI data",
            4 => "ACPI NVS",
            _ => "of another type",
        }
    }
}

/// One entry as `etc/e820` and the zero page hold it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Entry {
    base: U64,
    len: U64,
    kind: U32,
}

impl Entry {
    const fn new(base: u64, end: u64, kind: Kind) -> Self {
        Self {
            base: U64::new(base),
            len: U64::new(end.wrapping_sub(base)),
            kind: U32::new(kind.0),
        }
    }

    /// First byte.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base.get()
    }

    /// One past the last byte; entries whose end passes 2^64 are never kept.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.base.get().wrapping_add(self.len.get())
    }

    /// Bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len.get()
    }

    /// Whether it holds no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len.get() == 0
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        Kind(self.kind.get())
    }
}

/// Proof that a range is RAM that nobody else holds. Only [`MemoryMap`] makes one.
#[derive(Debug, PartialEq, Eq)]
pub struct Claim(PhysRange);

impl Claim {
    /// The range.
    #[must_use]
    pub const fn range(&self) -> PhysRange {
        self.0
    }

    /// The claim to `part` alone; `None` if it does not lie inside.
    #[must_use]
    pub fn narrow(self, part: PhysRange) -> Option<Self> {
        self.0.contains(part).then_some(Self(part))
    }
}

/// The end of the RAM from 1 MiB up to the first hole or table, for interfaces that
/// take one number.
#[must_use]
pub fn high_ram_end(entries: &[Entry]) -> u32 {
    let start = u64::from(layout::HIGH_RAM);
    let ram = entries
        .iter()
        .find(|e| e.kind() == Kind::RAM && e.base() == start);
    ram.map_or(layout::HIGH_RAM, |ram| {
        u32::try_from(ram.end()).unwrap_or(layout::HIGH_RAM_END)
    })
}

const fn fixed(range: PhysRange, kind: Kind) -> Entry {
    Entry::new(range.start() as u64, range.end() as u64, kind)
}

/// What every PC has below 1 MiB.
const BELOW_1M: [Entry; 3] = [
    fixed(PhysRange::fixed(0, layout::EBDA.start()), Kind::RAM),
    fixed(layout::EBDA, Kind::RESERVED),
    fixed(layout::F_SEGMENT, Kind::RESERVED),
];

/// The memory map.
#[derive(Debug)]
pub struct MemoryMap {
    /// Sorted, disjoint, none empty.
    entries: ArrayVec<Entry, MAX_ENTRIES>,
    /// Disjoint, in no order.
    claims: ArrayVec<PhysRange, MAX_CLAIMS>,
    /// RAM from 1 MiB up, below 4 GiB: placement above 1 MiB stays in it.
    high: PhysRange,
}

impl MemoryMap {
    /// An empty map; [`MemoryMap::fill`] makes it usable.
    ///
    /// In two steps, because the map is large and a move would copy it.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            entries: ArrayVec::new_const(),
            claims: ArrayVec::new_const(),
            high: PhysRange::fixed(layout::HIGH_RAM, layout::HIGH_RAM),
        }
    }

    /// Takes the content of `etc/e820`. Reserves what every PC has below 1 MiB, and the
    /// `registers` of a device.
    ///
    /// Where entries overlap, RAM gives way.
    ///
    /// # Errors
    /// [`Error::BadE820`] unless all is RAM from 0 to 640 KiB,
    /// [`Error::TooManyE820Entries`].
    pub fn fill(&mut self, raw: &[u8], registers: PhysRange) -> Result<()> {
        let raw = <[Entry]>::ref_from_bytes(raw).map_err(|_| Error::BadE820)?;
        let high = u64::from(layout::HIGH_RAM);
        let low = raw.iter().find(|e| e.kind() == Kind::RAM && e.base() == 0);
        if low.is_none_or(|e| e.len() < u64::from(layout::LEGACY_HOLE.start())) {
            return Err(Error::BadE820);
        }
        self.entries
            .try_extend_from_slice(&BELOW_1M)
            .map_err(|_| Error::TooManyE820Entries)?;
        for ram in raw.iter().filter(|e| e.kind() == Kind::RAM) {
            let end = ram.base().checked_add(ram.len()).ok_or(Error::BadE820)?;
            self.set(ram.base().max(high), end, Kind::RAM)?;
        }
        // Between the two loops, because most of QEMU's entries then come in order.
        if !registers.is_empty() {
            self.reserve(registers, Kind::RESERVED)?;
        }
        for other in raw.iter().filter(|e| e.kind() != Kind::RAM) {
            // Firmware and kernel need all of low memory.
            if other.base() < u64::from(layout::EBDA.start()) && !other.is_empty() {
                return Err(Error::BadE820);
            }
            let end = other
                .base()
                .checked_add(other.len())
                .ok_or(Error::BadE820)?;
            self.set(other.base(), end, other.kind())?;
        }
        // The first is the RAM below 1 MiB.
        let (_, above) = self.entries.split_first().ok_or(Error::BadE820)?;
        let high = above
            .iter()
            .find(|e| e.kind() == Kind::RAM && e.base() == high);
        if let Some(high) = high {
            // RAM ends below the devices under 4 GiB, whatever the map says.
            let end = u32::try_from(high.end())
                .unwrap_or(layout::HIGH_RAM_END)
                .min(layout::HIGH_RAM_END);
            self.high = PhysRange::between(layout::HIGH_RAM, end).ok_or(Error::BadE820)?;
        }
        Ok(())
    }

    /// The map as the kernel gets it: sorted and disjoint.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The RAM from 1 MiB up, in one piece, below 4 GiB.
    #[must_use]
    pub const fn high(&self) -> PhysRange {
        self.high
    }

    /// One past the last byte of RAM, above 4 GiB or not.
    #[must_use]
    pub fn ram_end(&self) -> u64 {
        let ram = self.entries.iter().rev().find(|e| e.kind() == Kind::RAM);
        ram.map_or(0, Entry::end)
    }

    /// Marks `range` as `kind`.
    ///
    /// # Errors
    /// [`Error::TooManyE820Entries`].
    pub fn reserve(&mut self, range: PhysRange, kind: Kind) -> Result<()> {
        self.set(u64::from(range.start()), u64::from(range.end()), kind)
    }

    fn set(&mut self, base: u64, end: u64, kind: Kind) -> Result<()> {
        if base >= end {
            return Ok(());
        }
        let entry = Entry::new(base, end, kind);
        if let Some(last) = self.entries.last_mut()
            && last.end() > base
        {
            if last.end() != end || last.base() >= base {
                return self.replace(base, end, entry);
            }
            // The end of the last entry, as for tables at the top of RAM.
            *last = Entry::new(last.base(), base, last.kind());
        }
        // Behind the last entry, as QEMU's mostly come.
        self.entries
            .try_push(entry)
            .map_err(|_| Error::TooManyE820Entries)
    }

    /// Replaces all of `[base, end)` by `entry`.
    fn replace(&mut self, base: u64, end: u64, entry: Entry) -> Result<()> {
        let at = self.remove(base, end)?;
        self.insert(at, entry)
    }

    /// Inserts an entry before the one at `at`. `ArrayVec::insert` can panic.
    fn insert(&mut self, at: usize, entry: Entry) -> Result<()> {
        self.entries
            .try_push(entry)
            .map_err(|_| Error::TooManyE820Entries)?;
        if let Some(later) = self.entries.get_mut(at..)
            && let Some(moved) = later.len().checked_sub(1)
        {
            later.copy_within(..moved, 1);
            if let Some(first) = later.first_mut() {
                *first = entry;
            }
        }
        Ok(())
    }

    /// Takes `[base, end)` out of the map. Returns the index for an entry of that
    /// range.
    fn remove(&mut self, base: u64, end: u64) -> Result<usize> {
        let at = self
            .entries
            .iter()
            .position(|e| e.end() > base)
            .unwrap_or(self.entries.len());
        let mut at = at;
        while let Some(entry) = self.entries.get_mut(at) {
            let old = *entry;
            if old.base() >= end {
                break;
            }
            match (old.base() < base, old.end() > end) {
                (true, true) => {
                    // A hole in the middle: the lower part stays here, the upper part
                    // becomes a new entry.
                    *entry = Entry::new(old.base(), base, old.kind());
                    at = at.saturating_add(1);
                    self.insert(at, Entry::new(end, old.end(), old.kind()))?;
                    break;
                }
                (true, false) => {
                    *entry = Entry::new(old.base(), base, old.kind());
                    at = at.saturating_add(1);
                }
                (false, true) => {
                    *entry = Entry::new(end, old.end(), old.kind());
                    break;
                }
                (false, false) => {
                    self.entries.pop_at(at);
                }
            }
        }
        Ok(at)
    }

    /// The part of RAM with `range` in it: free RAM below the EBDA, or RAM above 1 MiB.
    fn part_of(&self, range: PhysRange) -> Option<PhysRange> {
        let parts = [self.high, layout::LOW_FREE_TOP, layout::LOW_FREE];
        parts.into_iter().find(|part| part.contains(range))
    }

    /// Claims exactly `range`, which a kernel's header dictates.
    ///
    /// # Errors
    /// `None` if it is not free RAM.
    pub fn claim(&mut self, range: PhysRange) -> Option<Claim> {
        if self.claims.iter().any(|held| held.overlaps(range)) {
            return None;
        }
        self.part_of(range)?;
        self.claims.try_push(range).ok()?;
        Some(Claim(range))
    }

    /// Holds a range that QEMU has loaded, before anything is claimed. In one part of
    /// RAM, the memory between two such ranges is held too, so that the number of
    /// segments is not limited.
    ///
    /// # Errors
    /// `None` if it is not RAM that a kernel may occupy.
    pub fn hold(&mut self, range: PhysRange) -> Option<()> {
        let part = self.part_of(range)?;
        match self.claims.iter_mut().find(|held| part.contains(**held)) {
            Some(held) => {
                let start = held.start().min(range.start());
                *held = PhysRange::between(start, held.end().max(range.end()))?;
                Some(())
            }
            None => self.claims.try_push(range).ok(),
        }
    }

    /// What is held, in no order.
    #[must_use]
    pub fn claims(&self) -> &[PhysRange] {
        &self.claims
    }

    /// Whether the byte at `addr` is held.
    #[must_use]
    pub fn is_claimed(&self, addr: u32) -> bool {
        self.claims
            .iter()
            .any(|held| held.start() <= addr && addr < held.end())
    }

    /// Claims `len` bytes, aligned to `align` (a power of two), as high as possible in
    /// `within`, a part of [`MemoryMap::high`].
    ///
    /// # Errors
    /// `None` if there is no room.
    pub fn place(&mut self, len: u32, align: u32, within: PhysRange) -> Option<Claim> {
        if !self.high.contains(within) {
            return None;
        }
        let start = self.place_in(len, align, within)?;
        PhysRange::new(start, len).map(Claim)
    }

    /// As [`MemoryMap::place`], in low memory, for what a kernel reads early.
    ///
    /// # Errors
    /// `None` if there is no room.
    pub fn place_low(&mut self, len: u32, align: u32) -> Option<Claim> {
        let start = match self.place_in(len, align, layout::LOW_FREE_TOP) {
            Some(start) => start,
            None => self.place_in(len, align, layout::LOW_FREE)?,
        };
        PhysRange::new(start, len).map(Claim)
    }

    /// Holds `len` bytes in `within`. Returns their start, since a range would not fit
    /// into registers.
    fn place_in(&mut self, len: u32, align: u32, within: PhysRange) -> Option<u32> {
        let mut top = within.end();
        loop {
            let start = align_down(top.checked_sub(len)?, align);
            if start < within.start() {
                return None;
            }
            let range = PhysRange::new(start, len)?;
            match self.claims.iter().find(|held| held.overlaps(range)) {
                Some(held) => top = held.start(),
                None => {
                    self.claims.try_push(range).ok()?;
                    return Some(start);
                }
            }
        }
    }

    /// `need` bytes, and the largest free piece inside `within`, for messages.
    #[must_use]
    pub fn room(&self, need: u32, within: PhysRange) -> Room {
        Room::new(need, self.largest_free(within))
    }

    fn largest_free(&self, within: PhysRange) -> u32 {
        let mut largest = 0;
        let mut from = within.start();
        loop {
            // The nearest claim that ends above `from` bounds this piece.
            let next = self
                .claims
                .iter()
                .filter(|held| held.end() > from && held.start() < within.end())
                .min_by_key(|held| held.start());
            let end = next.map_or(within.end(), |held| held.start());
            largest = largest.max(end.saturating_sub(from));
            match next {
                Some(held) => from = held.end(),
                None => return largest,
            }
        }
    }
}

impl Default for MemoryMap {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]
pub(crate) mod tests;
