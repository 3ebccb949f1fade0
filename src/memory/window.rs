//! The window: which memory the firmware may touch.
//!
//! It is the last defence. Claims keep apart what is loaded; the window keeps every
//! access away from the running firmware, from devices, and from addresses without RAM.

use crate::layout;
use crate::phys::PhysRange;

/// The parts of memory that may be touched: `high`, the RAM from 1 MiB up that the
/// memory map has shown to exist, and below it not the firmware's stack, statics and
/// scratch, nor the image.
#[must_use]
pub const fn parts(high: PhysRange) -> [PhysRange; 4] {
    [
        high,
        PhysRange::fixed(layout::LOW_FREE_TOP.start(), layout::EBDA.end()),
        PhysRange::fixed(layout::F_TABLES.start(), layout::OWN_SMBIOS.end()),
        layout::LOW_FREE,
    ]
}
const _: () = {
    assert!(layout::LOW_FREE_TOP.end() == layout::EBDA.start());
    assert!(layout::F_TABLES.end() == layout::OWN_SMBIOS.start());
};

/// The longest slice that Rust allows, `isize::MAX` on 32 bits.
const LONGEST: u32 = i32::MAX.unsigned_abs();

/// Whether `range` may be touched: it lies in one of `parts`.
#[must_use]
pub fn contains(parts: &[PhysRange; 4], range: PhysRange) -> bool {
    let [high, low @ ..] = parts;
    let is_open = high.contains(range) || low.iter().any(|part| part.contains(range));
    is_open && range.len() <= LONGEST
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIGH: PhysRange = PhysRange::fixed(layout::HIGH_RAM, 0x2000_0000);

    /// The same rule, by byte: what each address belongs to.
    fn is_open(addr: u32) -> bool {
        matches!(
            addr,
            0x6000..0x3_0000 | 0x8_0000..0xa_0000 | 0xf_e800..0xf_fd00 | 0x10_0000..0x2000_0000
        )
    }

    /// Every address at which anything changes.
    const BORDERS: [u32; 15] = [
        0,
        0x2000,
        0x6000,
        0x3_0000,
        0x8_0000,
        0x9_fc00,
        0xa_0000,
        0xf_0000,
        0xf_e800,
        0xf_fc60,
        0xf_fd00,
        0x10_0000,
        0x2000_0000,
        0xfee0_0000,
        u32::MAX,
    ];

    /// The rule compares both ends of a range only with borders, so it is enough to try
    /// the addresses at and beside each border. Preconditions: `high` starts at 1 MiB
    /// and ends below 2 GiB (the length has a test of its own).
    #[test]
    fn a_range_is_open_if_every_byte_is() {
        let beside = |at: u32| [at.saturating_sub(1), at, at.saturating_add(1)];
        let mut points: std::vec::Vec<u32> = BORDERS.into_iter().flat_map(beside).collect();
        points.sort_unstable();
        points.dedup();
        for (at, start) in points.iter().enumerate() {
            let mut all = true;
            // From one point to the next nothing changes.
            for pair in points.get(at..).unwrap_or(&[]).windows(2) {
                let [from, end] = pair else { continue };
                all &= is_open(*from);
                let range = PhysRange::fixed(*start, *end);
                assert_eq!(contains(&parts(HIGH), range), all, "{range:x?}");
            }
        }
    }

    #[test]
    fn nothing_of_the_firmware_is_open() {
        let image = PhysRange::fixed(layout::F_SEGMENT.start(), layout::F_TABLES.start());
        for closed in [
            layout::IVT_BDA,
            layout::STATICS,
            layout::STACK,
            layout::SCRATCH,
            image,
        ] {
            for at in [closed.start(), closed.end() - 1] {
                assert!(
                    !contains(&parts(HIGH), PhysRange::fixed(at, at + 1)),
                    "{at:#x}"
                );
            }
        }
    }

    #[test]
    fn an_empty_range_has_to_lie_inside_too() {
        assert!(!contains(&parts(HIGH), PhysRange::fixed(0, 0)));
        assert!(contains(&parts(HIGH), PhysRange::fixed(0x6000, 0x6000)));
    }

    #[test]
    fn ram_opens_only_up_to_its_end() {
        let none = PhysRange::fixed(layout::HIGH_RAM, layout::HIGH_RAM);
        let byte = PhysRange::fixed(layout::HIGH_RAM, layout::HIGH_RAM + 1);
        assert!(!contains(&parts(none), byte));
        assert!(contains(&parts(HIGH), HIGH));
        assert!(!contains(
            &parts(HIGH),
            PhysRange::fixed(layout::HIGH_RAM, HIGH.end() + 1)
        ));
    }

    #[test]
    fn a_slice_has_at_most_2_gib() {
        let high = PhysRange::fixed(layout::HIGH_RAM, 0xfec0_0000);
        let whole = |len| PhysRange::new(layout::HIGH_RAM, len).unwrap();
        assert!(contains(&parts(high), whole(0x7fff_ffff)));
        assert!(!contains(&parts(high), whole(0x8000_0000)));
    }
}
