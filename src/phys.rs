//! Guest-physical addresses as data, and the seam through which memory is
//! reached.
//!
//! The library never makes a pointer from an address. It asks a
//! [`GuestMemory`] for the bytes of a [`PhysRange`]; in the ROM that is a
//! checked window on real memory, on the host a buffer.

use crate::error::{Error, Result};

/// A range of guest-physical memory below 4 GiB, never empty of meaning:
/// `start <= end`, both in bytes, `end` exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhysRange {
    start: u32,
    end: u32,
}

impl PhysRange {
    /// `[start, start + len)`, or `None` when it would pass 4 GiB.
    #[must_use]
    pub const fn new(start: u32, len: u32) -> Option<Self> {
        match start.checked_add(len) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// `[start, end)`, or `None` when they are the wrong way round.
    #[must_use]
    pub const fn between(start: u32, end: u32) -> Option<Self> {
        if start <= end {
            Some(Self { start, end })
        } else {
            None
        }
    }

    /// `[start, end)` for constants: an inverted range does not compile.
    #[must_use]
    pub const fn fixed(start: u32, end: u32) -> Self {
        assert!(start <= end);
        Self { start, end }
    }

    /// First byte.
    #[must_use]
    pub const fn start(self) -> u32 {
        self.start
    }

    /// One past the last byte.
    #[must_use]
    pub const fn end(self) -> u32 {
        self.end
    }

    /// Bytes.
    #[must_use]
    pub const fn len(self) -> u32 {
        self.end.wrapping_sub(self.start)
    }

    /// Whether it holds no byte.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Whether any byte is in both.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// Whether all of `other` lies inside.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// What lies behind the first `offset` bytes.
    #[must_use]
    pub const fn behind(self, offset: u32) -> Option<Self> {
        match self.start.checked_add(offset) {
            Some(start) => Self::between(start, self.end),
            None => None,
        }
    }

    /// `len` bytes at `offset` inside this range.
    ///
    /// # Errors
    /// `None` when they do not all lie inside.
    #[must_use]
    pub fn part(self, offset: u32, len: u32) -> Option<Self> {
        let part = Self::new(self.start.checked_add(offset)?, len)?;
        self.contains(part).then_some(part)
    }
}

/// `value` rounded up to a multiple of `align`, a power of two.
#[must_use]
pub const fn align_up(value: u32, align: u32) -> Option<u32> {
    let mask = align.wrapping_sub(1);
    match value.checked_add(mask) {
        Some(v) => Some(v & !mask),
        None => None,
    }
}

/// `value` rounded down to a multiple of `align`, a power of two.
#[must_use]
pub const fn align_down(value: u32, align: u32) -> u32 {
    value & !align.wrapping_sub(1)
}

/// Bytes as KiB, rounded up, for messages.
#[must_use]
pub const fn kib(bytes: u32) -> u32 {
    bytes.div_ceil(1024)
}

/// The memory that the firmware may read and write.
///
/// An implementation refuses every range that is not RAM or that belongs to
/// the running firmware (stack, statics, image, scratch), so no address that
/// came from the host can reach those.
pub trait GuestMemory {
    /// Makes RAM that the memory map has shown to exist reachable.
    fn open(&mut self, ram: PhysRange);

    /// The bytes of `range`.
    ///
    /// # Errors
    /// [`Error::NotOurMemory`] outside what may be reached.
    fn bytes(&mut self, range: PhysRange) -> Result<&mut [u8]>;

    /// As [`GuestMemory::bytes`], for what every boot does: compiled where it is
    /// called, which takes more room and fewer instructions.
    ///
    /// # Errors
    /// As [`GuestMemory::bytes`].
    #[inline(always)]
    fn bytes_inline(&mut self, range: PhysRange) -> Result<&mut [u8]> {
        self.bytes(range)
    }

    /// The fastest way to sum bytes modulo 256 here.
    fn byte_summer(&self) -> fn(&[u8]) -> u8 {
        byte_sum
    }

    /// The code of the PCI BIOS, to be copied for kernels; empty where there
    /// is none to offer.
    fn pci_bios(&self) -> &'static [u8] {
        &[]
    }

    /// Sets all bytes of `range` to zero.
    ///
    /// # Errors
    /// As [`GuestMemory::bytes`].
    fn clear(&mut self, range: PhysRange) -> Result<()> {
        self.bytes(range)?.fill(0);
        Ok(())
    }
}

/// The sum of all bytes, modulo 256: the checksum of ACPI, SMBIOS, MP.
#[must_use]
pub fn byte_sum(bytes: &[u8]) -> u8 {
    // Two bytes of a word at a time; carries end in the bytes between them.
    const LANES: u32 = 0x00ff_00ff;
    let (words, tail) = bytes.as_chunks::<4>();
    let lanes = words.iter().fold(0, |lanes: u32, word| {
        let word = u32::from_le_bytes(*word);
        let pairs = (word & LANES).wrapping_add((word >> 8) & LANES);
        lanes.wrapping_add(pairs) & LANES
    });
    let [low, _, high, _] = lanes.to_le_bytes();
    tail.iter()
        .fold(low.wrapping_add(high), |sum, b| sum.wrapping_add(*b))
}

/// Copies `src` to the start of `dest`.
///
/// # Errors
/// [`Error::NotOurMemory`] when `dest` is too short.
pub fn copy_into(dest: &mut [u8], src: &[u8]) -> Result<()> {
    dest.get_mut(..src.len())
        .ok_or(Error::NotOurMemory)?
        .copy_from_slice(src);
    Ok(())
}

/// Copies `src` to `offset` in `dest`.
///
/// # Errors
/// [`Error::NotOurMemory`] when it does not fit there.
pub fn copy_at(dest: &mut [u8], offset: usize, src: &[u8]) -> Result<()> {
    copy_into(dest.get_mut(offset..).ok_or(Error::NotOurMemory)?, src)
}

/// The little-endian `u16` at `offset`, if there.
#[must_use]
pub fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let (head, _) = bytes.get(offset..)?.split_first_chunk()?;
    Some(u16::from_le_bytes(*head))
}

/// The little-endian `u32` at `offset`, if there.
#[must_use]
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let (head, _) = bytes.get(offset..)?.split_first_chunk()?;
    Some(u32::from_le_bytes(*head))
}

/// The little-endian `u64` at `offset`, if there.
#[must_use]
pub fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    let (head, _) = bytes.get(offset..)?.split_first_chunk()?;
    Some(u64::from_le_bytes(*head))
}

/// A guest memory for tests: `len` bytes at `base`, of which only what was
/// opened may be reached.
#[cfg(any(test, feature = "sim"))]
pub mod fake {
    use super::{GuestMemory, PhysRange};
    use crate::error::{Error, Result};
    use std::vec;
    use std::vec::Vec;

    /// See the module.
    #[derive(Debug)]
    pub struct FakeMemory {
        base: u32,
        bytes: Vec<u8>,
        open: Vec<PhysRange>,
    }

    impl FakeMemory {
        /// Memory `range`, filled with 0xa5, of which `open` may be reached.
        #[must_use]
        pub fn new(range: PhysRange, open: &[PhysRange]) -> Self {
            Self {
                base: range.start(),
                bytes: vec![0xa5; range.len() as usize],
                open: open.to_vec(),
            }
        }
    }

    impl GuestMemory for FakeMemory {
        fn open(&mut self, ram: PhysRange) {
            self.open.push(ram);
        }

        fn bytes(&mut self, range: PhysRange) -> Result<&mut [u8]> {
            if !self.open.iter().any(|open| open.contains(range)) {
                return Err(Error::NotOurMemory);
            }
            let start = range
                .start()
                .checked_sub(self.base)
                .ok_or(Error::NotOurMemory)? as usize;
            let end = start
                .checked_add(range.len() as usize)
                .ok_or(Error::NotOurMemory)?;
            self.bytes.get_mut(start..end).ok_or(Error::NotOurMemory)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_never_wrap() {
        assert_eq!(PhysRange::new(u32::MAX, 1), None);
        assert_eq!(PhysRange::new(u32::MAX, 0).map(PhysRange::len), Some(0));
        assert_eq!(PhysRange::between(2, 1), None);
        let range = PhysRange::fixed(0x1000, 0x2000);
        assert_eq!(range.part(0xfff, 1), PhysRange::new(0x1fff, 1));
        assert_eq!(range.part(0xfff, 2), None);
        assert_eq!(range.part(u32::MAX, 1), None);
    }

    #[test]
    fn touching_ranges_do_not_overlap() {
        let low = PhysRange::fixed(0, 0x1000);
        let high = PhysRange::fixed(0x1000, 0x2000);
        assert!(!low.overlaps(high) && !high.overlaps(low));
        assert!(low.overlaps(PhysRange::fixed(0xfff, 0x1001)));
    }

    #[test]
    fn rounding() {
        assert_eq!(align_up(1, 4096), Some(4096));
        assert_eq!(align_up(0xffff_f001, 4096), None);
        assert_eq!(align_down(0x1fff, 4096), 0x1000);
    }
}
