//! Data in low memory for real-mode code: the BIOS data area, and the EBDA with the
//! answers of the firmware's services.
//!
//! Specification: IBM PS/2 and PC BIOS Interface Technical Reference, "BIOS
//! Data Area"; Ralf Brown's interrupt list; ACPI 6.5, 15.1 (INT 15h, E820h).

use crate::error::{Error, Result};
use crate::layout;
use crate::memory::map::{Entry, high_ram_end};
use crate::phys::{PhysRange, Refused, copy_at, copy_into};
use crate::platform::Platform;
use zerocopy::byteorder::little_endian::U16;
use zerocopy::{FromBytes, IntoBytes};

/// Address of the BIOS data area.
pub const BDA: u32 = 0x400;
/// Its bytes up to the last that is set.
pub const BDA_LEN: usize = 0x100;

/// Words of the BIOS data area: offset and value.
const WORDS: [(usize, u16); 8] = [
    // COM1's port.
    (0x00, 0x3f8),
    (0x0e, EBDA_SEGMENT),
    (0x10, EQUIPMENT),
    (0x13, CONVENTIONAL_KIB),
    // Display: text mode 3, 80 columns, CRT controller's port, rows less one, lines a
    // character.
    (0x49, 3),
    (0x4a, 80),
    (0x63, 0x3d4),
    (0x84, 16 << 8 | 24),
];
/// Offset of the ticks since midnight, 32 bits.
const TICKS: usize = 0x6c;

/// INT 11h's answer: a coprocessor and one serial port, no display, no diskette drive.
pub const EQUIPMENT: u16 = 1 << 9 | 1 << 1;
/// INT 12h's answer: KiB of memory from address 0.
pub const CONVENTIONAL_KIB: u16 = 639;
/// Real-mode segment of the EBDA.
pub const EBDA_SEGMENT: u16 = 0x9fc0;
/// First byte of the EBDA: its size in KiB.
pub const EBDA_KIB: u8 = 1;

const _: () = {
    assert!(layout::EBDA.start() == (CONVENTIONAL_KIB as u32) << 10);
    assert!(layout::EBDA.start() == (EBDA_SEGMENT as u32) << 4);
    assert!(layout::EBDA.len() == (EBDA_KIB as u32) << 10);
};

/// The EBDA without the note for a wake-up.
const SERVICES: PhysRange = PhysRange::fixed(layout::EBDA.start(), layout::WAKE_NOTE.start());

/// The EBDA's start; [`ebda::E820_ENTRIES`] follow.
#[derive(FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct Ebda {
    kib: u8,
    _unused: [u8; 15],
    e801_low: U16,
    e801_high: U16,
    extended_kib: U16,
    e820_count: U16,
    last_bus: u8,
    _more: [u8; 7],
}

/// Offsets in the EBDA.
pub mod ebda {
    use super::Ebda;
    use core::mem::offset_of;

    /// KiB from 1 to 16 MiB, for INT 15h AX=E801h; 16 bits, as all here.
    pub const E801_LOW: usize = offset_of!(Ebda, e801_low);
    /// Blocks of 64 KiB from 16 MiB.
    pub const E801_HIGH: usize = offset_of!(Ebda, e801_high);
    /// KiB from 1 MiB, for INT 15h AH=88h.
    pub const EXTENDED_KIB: usize = offset_of!(Ebda, extended_kib);
    /// Number of [`E820_ENTRIES`].
    pub const E820_COUNT: usize = offset_of!(Ebda, e820_count);
    /// Highest PCI bus, 8 bits.
    pub const LAST_BUS: usize = offset_of!(Ebda, last_bus);
    /// The memory map, 20 bytes an entry.
    pub const E820_ENTRIES: usize = size_of::<Ebda>();
}

/// The BIOS data area of a machine with a serial console and no other BIOS devices,
/// `ticks` after midnight.
#[must_use]
pub fn bda(ticks: u32) -> [u8; BDA_LEN] {
    let mut bda = [0; BDA_LEN];
    for &(offset, value) in &WORDS {
        // The offsets are constants inside.
        let _ = copy_at(&mut bda, offset, &value.to_le_bytes());
    }
    let _ = copy_at(&mut bda, TICKS, &ticks.to_le_bytes());
    bda
}

/// Timer ticks since midnight, by the real-time clock's BCD registers; 0 if they hold
/// no time.
#[must_use]
pub fn ticks(hours: u8, minutes: u8, seconds: u8) -> u32 {
    let [hours, minutes, seconds] = [hours, minutes, seconds].map(|bcd| {
        let (tens, ones) = (u32::from(bcd >> 4), u32::from(bcd & 15));
        tens * 10 + ones
    });
    if hours > 23 || minutes > 59 || seconds > 59 {
        return 0;
    }
    let seconds = (hours * 60 + minutes) * 60 + seconds;
    // 1,193,182 counts a second and 65,536 counts a tick make 18 and 13534/65536 ticks
    // a second. Below 86,400 seconds nothing overflows.
    seconds * 18 + ((seconds * 13_534) >> 16)
}

/// Writes the EBDA: its size, and the memory services' answers.
///
/// # Errors
/// [`Error::TooManyE820Entries`] if the map does not fit.
pub fn write_ebda<P: Platform>(platform: &mut P, e820: &[Entry]) -> Result<()> {
    const SIXTEEN_MIB: u32 = 16 << 20;
    let high_ram_end = high_ram_end(e820);
    let bytes = platform.bytes(SERVICES)?;
    let (ebda, entries) = Ebda::mut_from_prefix(bytes).map_err(|_| Refused)?;
    let too_many = |_| Error::TooManyE820Entries;
    copy_into(entries, e820.as_bytes()).map_err(too_many)?;
    let kib = |from: u32, to: u32| to.saturating_sub(from) >> 10;
    let word = |value: u32| U16::new(u16::try_from(value).unwrap_or(u16::MAX));
    ebda.kib = EBDA_KIB;
    ebda.e801_low = word(kib(layout::HIGH_RAM, high_ram_end.min(SIXTEEN_MIB)));
    ebda.e801_high = word(kib(SIXTEEN_MIB, high_ram_end) >> 6);
    // INT 15h AH=88h counts to 64 MiB; less the last KiB fits the register.
    ebda.extended_kib = word(kib(layout::HIGH_RAM, high_ram_end).min(63 << 10));
    ebda.e820_count = u16::try_from(e820.len()).unwrap_or(u16::MAX).into();
    Ok(())
}

/// Notes the highest PCI bus, for the PCI BIOS.
///
/// # Errors
/// [`Error::NotOurMemory`], which the layout excludes.
pub fn set_last_bus<P: Platform>(platform: &mut P, last_bus: u8) -> Result<(), Refused> {
    let bytes = platform.bytes(SERVICES)?;
    let (ebda, _) = Ebda::mut_from_prefix(bytes).map_err(|_| Refused)?;
    ebda.last_bus = last_bus;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::map::tests::map_of;
    use crate::memory::map::{Kind, MemoryMap};
    use crate::phys::{u16_at, u32_at};
    use crate::platform::GuestMemory as _;
    use crate::sim::Machine;

    #[test]
    fn ticks_are_the_timers() {
        assert_eq!(ticks(0, 0, 0), 0);
        for (bcd, seconds) in [
            ((0, 0, 1), 1u64),
            ((0, 0x59, 0x59), 3599),
            ((0x12, 0x34, 0x56), 45296),
            ((0x23, 0x59, 0x59), 86399),
        ] {
            let exact = seconds * 1_193_182 / 65536;
            let (h, m, s) = bcd;
            assert!(u64::from(ticks(h, m, s)).abs_diff(exact) <= 1, "{bcd:?}");
        }
        assert_eq!(ticks(0x24, 0, 0), 0);
        assert_eq!(ticks(0xff, 0xff, 0xff), 0);
    }

    #[test]
    fn the_data_area_tells_of_the_ebda() {
        let bda = bda(0x12_3456);
        assert_eq!(u16_at(&bda, 0x0e), Some(0x9fc0));
        // Bits 1 and 9: a coprocessor, and one serial port.
        assert_eq!(u16_at(&bda, 0x10), Some(0x202));
        assert_eq!(u16_at(&bda, 0x13), Some(639));
        assert_eq!(u32_at(&bda, 0x6c), Some(0x12_3456));
        assert_eq!(bda[0x84..0x87], [24, 16, 0]);
    }

    #[test]
    fn the_ebda_answers_for_memory() {
        let write = |end: u64| {
            let map = map_of(end);
            let mut memory = Machine::default();
            write_ebda(&mut memory, map.entries()).unwrap();
            set_last_bus(&mut memory, 7).unwrap();
            memory.bytes(layout::EBDA).unwrap().to_vec()
        };
        let word = |ebda: &[u8], at| u16_at(ebda, at).unwrap();
        let big = write(2 << 30);
        assert_eq!(big[0], 1);
        assert_eq!(word(&big, ebda::E801_LOW), 15 << 10);
        assert_eq!(word(&big, ebda::E801_HIGH), (2048 - 16) << 4);
        assert_eq!(word(&big, ebda::EXTENDED_KIB), 63 << 10);
        assert_eq!(word(&big, ebda::E820_COUNT), 4);
        assert_eq!(big[ebda::LAST_BUS], 7);
        assert_eq!(u32_at(&big, 0x20 + 8), Some(0x9_fc00));
        assert_eq!(u32_at(&big, 0x20 + 60), Some(0x10_0000));
        let small = write(8 << 20);
        assert_eq!(word(&small, ebda::E801_LOW), 7 << 10);
        assert_eq!(word(&small, ebda::E801_HIGH), 0);
        assert_eq!(word(&small, ebda::EXTENDED_KIB), 7 << 10);
    }

    #[test]
    fn what_the_map_reserves_is_no_memory() {
        let mut map = map_of(64 << 20);
        let tables = PhysRange::fixed(0x3ff_0000, 0x400_0000);
        map.reserve(tables, Kind::RESERVED).unwrap();
        let mut memory = Machine::default();
        write_ebda(&mut memory, map.entries()).unwrap();
        let ebda = memory.bytes(layout::EBDA).unwrap();
        assert_eq!(u16_at(ebda, ebda::E801_HIGH), Some((48 << 4) - 1));
        assert_eq!(u16_at(ebda, ebda::EXTENDED_KIB), Some((63 << 10) - 64));
    }

    #[test]
    fn a_map_beyond_the_ebda_is_refused() {
        let mut raw = Vec::new();
        for i in 0..60u64 {
            let base = i << 24;
            raw.extend_from_slice(&base.to_le_bytes());
            raw.extend_from_slice(&(1u64 << 20).to_le_bytes());
            raw.extend_from_slice(&1u32.to_le_bytes());
        }
        let mut map = MemoryMap::new();
        map.fill(&raw, PhysRange::fixed(0, 0)).unwrap();
        let mut memory = Machine::default();
        assert_eq!(
            write_ebda(&mut memory, map.entries()),
            Err(Error::TooManyE820Entries)
        );
    }
}
