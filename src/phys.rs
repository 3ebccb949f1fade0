//! Guest-physical ranges, and small helpers for bytes.
//!
//! The library never makes a pointer from an address. It asks the platform for
//! the bytes of a [`PhysRange`].

/// The firmware may not touch this memory: an internal error.
///
/// It holds nothing, so a `Result` with a slice is returned in registers.
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

    /// `[start, start + len)`, or `None` if it would pass 4 GiB.
    #[must_use]
    pub const fn new(start: u32, len: u32) -> Option<Self> {
        match start.checked_add(len) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// `[start, end)`, or `None` if they are the wrong way round.
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

    /// Whether any byte is in both, if neither is empty.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// Whether all of `other` lies inside.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The part behind the first `offset` bytes.
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
    /// `None` if they do not all lie inside.
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
/// In blocks without inner loops, since the ROM is compiled for size: some hosts emulate
/// firmware one instruction at a time, and ACPI tables are 10 KB on q35.
#[must_use]
pub fn byte_sum(bytes: &[u8]) -> u8 {
    let (words, tail) = bytes.as_chunks::<4>();
    let (lines, words) = words.as_chunks::<4>();
    let (blocks, lines) = lines.as_chunks::<4>();
    let mut sum = 0_u8;
    for block in blocks {
        sum = add_line(add_line(sum, &block[0]), &block[1]);
        sum = add_line(add_line(sum, &block[2]), &block[3]);
    }
    let sum = lines.iter().fold(sum, add_line);
    let sum = words.iter().fold(sum, add_word);
    tail.iter().fold(sum, |sum, byte| sum.wrapping_add(*byte))
}

/// Adds 16 bytes.
// With a call for each, pc takes 2,100 instructions more.
#[inline]
fn add_line(sum: u8, words: &[[u8; 4]; 4]) -> u8 {
    let sum = add_word(add_word(sum, &words[0]), &words[1]);
    add_word(add_word(sum, &words[2]), &words[3])
}

/// Adds 4 bytes.
fn add_word(sum: u8, bytes: &[u8; 4]) -> u8 {
    let sum = sum.wrapping_add(bytes[0]).wrapping_add(bytes[1]);
    sum.wrapping_add(bytes[2]).wrapping_add(bytes[3])
}

/// Copies `src` to the start of `dest`.
///
/// # Errors
/// [`Refused`] if `dest` is too short.
pub fn copy_into(dest: &mut [u8], src: &[u8]) -> Result<(), Refused> {
    dest.get_mut(..src.len())
        .ok_or(Refused)?
        .copy_from_slice(src);
    Ok(())
}

/// Copies `src` to `offset` in `dest`.
///
/// # Errors
/// [`Refused`] if it does not fit there.
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
#[expect(clippy::cast_possible_truncation, reason = "a test may panic")]
mod tests {
    use super::*;

    /// Both ends of the addresses, and some between: no operation compares or adds
    /// more than four, so with these every way to wrap occurs.
    const SOME: [u32; 12] = [
        0,
        1,
        2,
        3,
        4,
        0x7fff_ffff,
        0x8000_0000,
        0x8000_0001,
        u32::MAX - 3,
        u32::MAX - 2,
        u32::MAX - 1,
        u32::MAX,
    ];

    /// Every range between two of them.
    fn ranges() -> impl Iterator<Item = PhysRange> {
        let pairs = SOME.into_iter().flat_map(|a| SOME.map(|b| (a, b)));
        pairs.filter_map(|(a, b)| PhysRange::between(a, b))
    }

    #[test]
    fn ranges_are_what_wider_numbers_say() {
        for (a, b) in SOME.into_iter().flat_map(|a| SOME.map(|b| (a, b))) {
            let end = u64::from(a) + u64::from(b);
            let fits = end <= u64::from(u32::MAX);
            let new = PhysRange::new(a, b);
            let parts = new.map(|new| (new.start(), u64::from(new.end()), new.len()));
            assert_eq!(parts, fits.then_some((a, end, b)), "{a:x} {b:x}");
            let between = PhysRange::between(a, b).map(|range| (range.start(), range.end()));
            assert_eq!(between, (a <= b).then_some((a, b)));
        }
        for range in ranges() {
            let (start, end) = (range.start(), range.end());
            assert_eq!(range.is_empty(), range.start() == range.end());
            for offset in SOME {
                let from = u64::from(start) + u64::from(offset);
                let behind = range.behind(offset).map(|r| (r.start().into(), r.end()));
                assert_eq!(behind, (from <= end.into()).then_some((from, end)));
                for len in SOME {
                    let to = from + u64::from(len);
                    let part = range.part(offset, len);
                    let part = part.map(|part| (part.start().into(), part.end().into()));
                    assert_eq!(part, (to <= end.into()).then_some((from, to)), "{range:x?}");
                }
            }
        }
    }

    /// Precondition of `overlaps`: neither range is empty.
    #[test]
    fn ranges_contain_and_overlap_as_their_bytes_do() {
        for (one, other) in ranges().flat_map(|one| ranges().map(move |other| (one, other))) {
            // Where a byte can be in one and not in the next.
            let mut bytes = SOME.into_iter().filter(|at| *at != u32::MAX);
            let is_in = |range: PhysRange, at: u32| range.start() <= at && at < range.end();
            if !one.is_empty() && !other.is_empty() {
                let both = bytes.any(|at| is_in(one, at) && is_in(other, at));
                assert_eq!(one.overlaps(other), both, "{one:x?} {other:x?}");
            }
            let ends = one.start() <= other.start() && other.end() <= one.end();
            assert_eq!(one.contains(other), ends, "{one:x?} {other:x?}");
        }
    }

    #[test]
    fn rounding_goes_to_the_nearest_multiple() {
        for (value, shift) in SOME.into_iter().flat_map(|v| (0..32).map(move |s| (v, s))) {
            let (align, wide) = (1_u32 << shift, u64::from(value));
            let up = wide.next_multiple_of(align.into());
            assert_eq!(align_up(value, align), u32::try_from(up).ok(), "{value:x}");
            assert_eq!(align_down(value, align), value - value % align);
        }
    }

    #[test]
    fn numbers_are_split_and_joined_and_read() {
        let wide = 0x0123_4567_89ab_cdef;
        assert_eq!(halves(wide), [0x0123_4567, 0x89ab_cdef]);
        assert_eq!(join(0x0123_4567, 0x89ab_cdef), wide);
        assert_eq!((kib(0), kib(1), kib(1024), kib(1025)), (0, 1, 1, 2));
        let bytes = wide.to_le_bytes();
        assert_eq!(u16_at(&bytes, 6), Some(0x0123));
        assert_eq!(u32_at(&bytes, 4), Some(0x0123_4567));
        assert_eq!(u64_at(&bytes, 0), Some(wide));
        for offset in [7, 8, 9, usize::MAX] {
            assert_eq!(u16_at(&bytes, offset), None);
            assert_eq!(u32_at(&bytes, offset - 2), None);
            assert_eq!(u64_at(&bytes, offset - 6), None);
        }
    }

    #[test]
    fn every_byte_counts_in_a_sum_and_no_other() {
        for len in 0..150 {
            for at in 0..len {
                let mut bytes = std::vec![0; len];
                bytes[at] = 0x93;
                assert_eq!(byte_sum(&bytes), 0x93, "{at} of {len}");
            }
            assert_eq!(
                byte_sum(&std::vec![0xff; len]),
                0_u8.wrapping_sub(len as u8)
            );
        }
    }

    #[test]
    fn copies_stay_inside() {
        for (dest, offset, src) in
            (0..5).flat_map(|d| (0..7).flat_map(move |o| (0..5).map(move |s| (d, o, s))))
        {
            let mut bytes = std::vec![0; dest];
            let done = copy_at(&mut bytes, offset, &std::vec![1; src]);
            assert_eq!(done.is_ok(), offset + src <= dest, "{dest} {offset} {src}");
            for (at, byte) in bytes.iter().enumerate() {
                let copied = done.is_ok() && (offset..offset + src).contains(&at);
                assert_eq!(*byte, u8::from(copied));
            }
        }
    }
}
