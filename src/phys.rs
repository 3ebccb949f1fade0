//! Guest-physical ranges, and the little that is done to bytes everywhere.
//!
//! The library never makes a pointer from an address. It asks the platform for
//! the bytes of a [`PhysRange`].

/// Memory that is outside what the firmware may touch: an internal error.
///
/// A type of its own without a value in it, so that a slice that may be refused
/// is returned in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// A range of guest-physical memory below 4 GiB: `start <= end`, both in bytes,
/// `end` exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhysRange {
    start: u32,
    end: u32,
}

impl PhysRange {
    /// No byte, at address 0.
    pub const EMPTY: Self = Self { start: 0, end: 0 };

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

/// A number from its upper and its lower half.
#[must_use]
pub const fn join(upper: u32, lower: u32) -> u64 {
    (upper as u64) << 32 | lower as u64
}

/// The upper and the lower half of a number.
#[must_use]
pub const fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_be_bytes();
    [
        u32::from_be_bytes([a, b, c, d]),
        u32::from_be_bytes([e, f, g, h]),
    ]
}

/// Bytes as KiB, rounded up, for messages.
#[must_use]
pub const fn kib(bytes: u32) -> u32 {
    bytes.div_ceil(1024)
}

/// The sum of all bytes, modulo 256: the checksum of ACPI, SMBIOS and MP
/// table.
///
/// Unrolled by hand, since the ROM is compiled for size: some hosts emulate
/// firmware one instruction at a time, and ACPI tables are 10 KB on q35.
#[must_use]
pub fn byte_sum(bytes: &[u8]) -> u8 {
    let (blocks, tail) = bytes.as_chunks::<16>();
    let mut sum = 0_u8;
    for b in blocks {
        sum = sum.wrapping_add(b[0]).wrapping_add(b[1]);
        sum = sum.wrapping_add(b[2]).wrapping_add(b[3]);
        sum = sum.wrapping_add(b[4]).wrapping_add(b[5]);
        sum = sum.wrapping_add(b[6]).wrapping_add(b[7]);
        sum = sum.wrapping_add(b[8]).wrapping_add(b[9]);
        sum = sum.wrapping_add(b[10]).wrapping_add(b[11]);
        sum = sum.wrapping_add(b[12]).wrapping_add(b[13]);
        sum = sum.wrapping_add(b[14]).wrapping_add(b[15]);
    }
    tail.iter().fold(sum, |sum, byte| sum.wrapping_add(*byte))
}

/// Copies `src` to the start of `dest`.
///
/// # Errors
/// [`Refused`] when `dest` is too short.
pub fn copy_into(dest: &mut [u8], src: &[u8]) -> Result<(), Refused> {
    dest.get_mut(..src.len())
        .ok_or(Refused)?
        .copy_from_slice(src);
    Ok(())
}

/// Copies `src` to `offset` in `dest`.
///
/// # Errors
/// [`Refused`] when it does not fit there.
pub fn copy_at(dest: &mut [u8], offset: usize, src: &[u8]) -> Result<(), Refused> {
    copy_into(dest.get_mut(offset..).ok_or(Refused)?, src)
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
