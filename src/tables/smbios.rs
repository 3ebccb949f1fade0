//! SMBIOS: QEMU's structures, or a minimal set.
//!
//! Specification: DMTF DSP0134 (SMBIOS 3.6): 5.2 entry points, 6.1 structures,
//! 7.1 type 0, 7.2 type 1, 7.45 type 127.

use super::space::{TableSpace, Zone};
use crate::error::{Error, Result, Room};
use crate::fw_cfg::{Directory, file};
use crate::layout::OWN_SMBIOS;
use crate::phys::{PhysRange, byte_sum};
use crate::platform::Platform;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{IntoBytes, transmute};

/// The BIOS Release Date (7.1), the one that guests know from SeaBIOS.
///
/// From 2015 on (2021 with AMD's processors) Linux takes alarms of the RTC from ACPI,
/// if there is an HPET. QEMU raises no such event while the guest runs, so `hwclock`
/// would wait in vain (`use_acpi_alarm_quirks` in Linux's `rtc-cmos.c`).
const RELEASE_DATE: &str = "04/01/2014";
const VENDOR: &str = "qboot-rs";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Bytes of a 2.1 entry point (5.2.1).
const ANCHOR_21_LEN: usize = 31;
/// Bytes of a 3.0 entry point (5.2.2).
const ANCHOR_30_LEN: usize = 24;
/// Room for either, a multiple of the alignment.
const ANCHOR_ROOM: u32 = 32;
/// Entry points lie at multiples of 16 bytes (5.2).
const ALIGN: u32 = 16;

const TYPE_BIOS: u8 = 0;
const TYPE_END: u8 = 127;
/// Type, length, handle (6.1.2).
const HEADER_LEN: usize = 4;
/// Handles from here on are reserved (6.1.2).
const RESERVED_HANDLES: u16 = 0xff00;

/// The formatted area of the firmware's type 0 (7.1, as of SMBIOS 2.4).
const BIOS_FORMATTED: [u8; 24] = [
    TYPE_BIOS, 24, 0, 0, // handle 0, unless it is taken
    1, 2, // vendor and version: strings 1 and 2
    0x00, 0xf0, // starting segment
    3,    // release date: string 3
    0,    // ROM size: 64 KiB
    0x08, 0, 0, 0, 0, 0, 0, 0, // characteristics not supported
    // Targeted content distribution (for Windows' certification); a virtual machine.
    0, 0x14, 0xff, 0xff, 0xff, 0xff, // no release numbers
];

/// The formatted area of the firmware's type 1 (7.2, as of SMBIOS 2.4): no UUID, woken
/// by the power switch.
const SYSTEM_FORMATTED: [u8; 27] = [
    1, 27, 0x00, 0x01, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0,
];

/// Type 127, with QEMU's handle for it.
const END_OF_TABLE: [u8; 6] = [TYPE_END, 4, 0x00, 0x7f, 0, 0];

/// Bytes of the firmware's type 0.
const BIOS_LEN: usize =
    BIOS_FORMATTED.len() + VENDOR.len() + VERSION.len() + RELEASE_DATE.len() + 4;
const BIOS: [u8; BIOS_LEN] = joined(&[
    &BIOS_FORMATTED,
    VENDOR.as_bytes(),
    &[0],
    VERSION.as_bytes(),
    &[0],
    RELEASE_DATE.as_bytes(),
    &[0, 0],
]);

/// A constant's length; too long a one does not compile.
const fn narrow(len: usize) -> u16 {
    assert!(len <= 0xffff);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "asserted in the line above"
    )]
    let len = len as u16;
    len
}

/// Room for the firmware's type 0 in front of QEMU's structures.
const BIOS_ROOM: u32 = 64;
const _: () = assert!(BIOS_LEN <= BIOS_ROOM as usize);

/// The parts one after another. Tests check that they fill the array.
const fn joined<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut all = [0; N];
    let mut slots: &mut [u8] = &mut all;
    let mut parts = parts;
    while let [part, more @ ..] = parts {
        let Some((slot, free)) = slots.split_at_mut_checked(part.len()) else {
            break;
        };
        slot.copy_from_slice(part);
        slots = free;
        parts = more;
    }
    all
}

/// The 32-bit entry point (5.2.1); the structures' addresses are in bytes.
#[derive(Clone, Copy, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct EntryPoint21 {
    anchor: [u8; 4],
    /// Makes the sum of all `length` bytes zero.
    checksum: u8,
    length: u8,
    version: [u8; 2],
    max_structure_size: U16,
    revision: u8,
    formatted_area: [u8; 5],
    intermediate_anchor: [u8; 5],
    /// Makes the sum from `intermediate_anchor` on zero.
    intermediate_checksum: u8,
    table_length: U16,
    table_address: U32,
    structures: U16,
    bcd_revision: u8,
}

/// Where the intermediate part starts.
const INTERMEDIATE: usize = 0x10;

/// The 64-bit entry point (5.2.2).
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct EntryPoint30 {
    anchor: [u8; 5],
    /// Makes the sum of all `length` bytes zero.
    checksum: u8,
    length: u8,
    version: [u8; 3],
    revision: u8,
    reserved: u8,
    table_max_size: U32,
    table_address: U64,
}

/// Loads QEMU's SMBIOS, and adds a type 0 if it has none. Without QEMU's, the kernel
/// gets [`MINIMAL`], since systemd and cloud-init look for SMBIOS on microvm too.
/// `is_image`: the F segment is the image, which has it at its place already.
///
/// Returns the address of the entry point. It lies in the F segment, where kernels
/// search; so do the structures if there is room.
///
/// # Errors
/// [`Error::BadSmbios`] if the entry point's size is unknown or a structure malformed,
/// [`Error::SmbiosTooBig`] if there is no room, and those of `platform`.
pub fn load<P: Platform>(
    platform: &mut P,
    dir: &Directory<'_>,
    space: &mut TableSpace<'_>,
    is_image: bool,
) -> Result<u32> {
    let anchor = dir.find(file::SMBIOS_ANCHOR);
    let tables = anchor.and_then(|_| dir.find(file::SMBIOS_TABLES));
    let Some((anchor, tables)) = anchor.zip(tables) else {
        if !is_image {
            let own = OWN_SMBIOS.part(0, narrow(MINIMAL.len()).into());
            platform.put(own.ok_or(Error::NotOurMemory)?, &MINIMAL)?;
        }
        return Ok(OWN_SMBIOS.start());
    };
    let long = match anchor.size as usize {
        ANCHOR_21_LEN => false,
        ANCHOR_30_LEN => true,
        _ => return Err(Error::BadSmbios),
    };
    let no_room = Error::SmbiosTooBig(Room::UNKNOWN);
    let entry = space
        .alloc(Zone::FSegment, ANCHOR_ROOM, ALIGN)
        .map_err(too_big)?
        .part(0, anchor.size)
        .ok_or(no_room)?;
    let room = tables.size.checked_add(BIOS_ROOM).ok_or(no_room)?;
    let room = space
        .alloc(Zone::FSegment, room, ALIGN)
        .or_else(|_| space.alloc(Zone::High, room, ALIGN))
        .map_err(too_big)?;
    let given = room.part(BIOS_ROOM, tables.size).ok_or(no_room)?;

    platform.load(tables.selector, given)?;
    let bytes = platform.bytes(given)?;
    let mut survey = survey(bytes)?;
    let mut start = given.start();
    if !survey.has_bios
        && let Some(with_bios) = survey.with_bios(long)
    {
        let handle = if survey.zero_taken {
            free_handle(bytes)
        } else {
            Some(0)
        };
        if let Some(handle) = handle {
            start = start.saturating_sub(narrow(BIOS_LEN).into());
            let slot = PhysRange::between(start, given.start()).ok_or(no_room)?;
            platform.put(slot, &bios_with(handle))?;
            survey = with_bios;
        }
    }
    if long {
        put_30(platform, entry, start, &survey)?;
    } else {
        put_21(platform, entry, start, &survey)?;
    }
    Ok(entry.start())
}

/// The allocator's sizes, as an error about SMBIOS.
fn too_big(error: Error) -> Error {
    match error {
        Error::TablesTooBig(room) => Error::SmbiosTooBig(room),
        other => other,
    }
}

/// QEMU's 32-bit entry point, without checksums. It is the same on every machine but for
/// these four, so QEMU's is not read: that would be a transfer more.
const fn entry_point_21(start: u32, len: u16, largest: u16, count: u16) -> EntryPoint21 {
    EntryPoint21 {
        anchor: *b"_SM_",
        checksum: 0,
        length: 31,
        version: [2, 8],
        max_structure_size: U16::new(largest),
        revision: 0,
        formatted_area: [0; 5],
        intermediate_anchor: *b"_DMI_",
        intermediate_checksum: 0,
        table_length: U16::new(len),
        table_address: U32::new(start),
        structures: U16::new(count),
        bcd_revision: 0x28,
    }
}

/// Writes a 32-bit entry point.
fn put_21<P: Platform>(p: &mut P, at: PhysRange, start: u32, survey: &Survey) -> Result<()> {
    let short = |value: usize| u16::try_from(value).map_err(|_| Error::BadSmbios);
    let (len, largest) = (short(survey.len)?, short(survey.largest)?);
    let mut entry = entry_point_21(start, len, largest, short(survey.count)?);
    let (front, intermediate) = entry.as_bytes().split_at(INTERMEDIATE);
    // The intermediate part then sums to zero, so the rest decides the checksum.
    let sums = (byte_sum(front), byte_sum(intermediate));
    entry.checksum = sums.0.wrapping_neg();
    entry.intermediate_checksum = sums.1.wrapping_neg();
    Ok(p.put(at, entry.as_bytes())?)
}

/// Writes a 64-bit entry point, QEMU's.
fn put_30<P: Platform>(p: &mut P, at: PhysRange, start: u32, survey: &Survey) -> Result<()> {
    let len = u32::try_from(survey.len).map_err(|_| Error::BadSmbios)?;
    let mut entry = EntryPoint30 {
        anchor: *b"_SM3_",
        checksum: 0,
        length: 24,
        version: [3, 0, 0],
        revision: 1,
        reserved: 0,
        table_max_size: len.into(),
        table_address: u64::from(start).into(),
    };
    entry.checksum = byte_sum(entry.as_bytes()).wrapping_neg();
    Ok(p.put(at, entry.as_bytes())?)
}

/// The firmware's type 0 with `handle`.
fn bios_with(handle: u16) -> [u8; BIOS_LEN] {
    let mut bios = BIOS;
    [bios[2], bios[3]] = handle.to_le_bytes();
    bios
}

/// The result of [`survey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Survey {
    /// Structures.
    count: usize,
    /// Bytes of all structures.
    len: usize,
    /// Bytes of the largest structure, strings included.
    largest: usize,
    /// Whether one is of type 0.
    has_bios: bool,
    /// Whether one has handle 0.
    zero_taken: bool,
}

impl Survey {
    /// With a type 0 more, or `None` if a 32-bit entry point has no room to count it.
    fn with_bios(self, long: bool) -> Option<Self> {
        let with = Self {
            count: self.count.saturating_add(1),
            len: self.len.saturating_add(BIOS_LEN),
            largest: self.largest.max(BIOS_LEN),
            has_bios: true,
            zero_taken: true,
        };
        (long || with.len <= usize::from(u16::MAX)).then_some(with)
    }
}

/// Walks the structures.
///
/// Every step advances by at least six bytes, so this ends. Bytes behind a type 127
/// that are not a structure are left out.
///
/// # Errors
/// [`Error::BadSmbios`] if a structure is shorter than its header or passes the end, or
/// if there is none.
fn survey(tables: &[u8]) -> Result<Survey> {
    let mut survey = Survey {
        count: 0,
        len: 0,
        largest: 0,
        has_bios: false,
        zero_taken: false,
    };
    let mut last = 0;
    let mut rest = tables;
    while let Some((header, next)) = structure(rest) {
        let [kind, _, low, high] = *header;
        survey.count = survey.count.wrapping_add(1);
        survey.largest = survey.largest.max(rest.len().wrapping_sub(next.len()));
        if kind == TYPE_BIOS {
            survey.has_bios = true;
        }
        if (low, high) == (0, 0) {
            survey.zero_taken = true;
        }
        last = kind;
        rest = next;
    }
    if survey.count == 0 || !(rest.is_empty() || last == TYPE_END) {
        return Err(Error::BadSmbios);
    }
    survey.len = tables.len().wrapping_sub(rest.len());
    Ok(survey)
}

/// The handle after the highest one; `None` if it is reserved.
fn free_handle(tables: &[u8]) -> Option<u16> {
    let mut highest = 0;
    let mut rest = tables;
    while let Some((header, next)) = structure(rest) {
        let [_, _, low, high] = *header;
        let handle = u16::from_le_bytes([low, high]);
        if handle < RESERVED_HANDLES {
            highest = highest.max(handle);
        }
        rest = next;
    }
    highest
        .checked_add(1)
        .filter(|handle| *handle < RESERVED_HANDLES)
}

/// The header of the structure at the start of `bytes`, and the bytes behind the
/// structure.
fn structure(bytes: &[u8]) -> Option<(&[u8; HEADER_LEN], &[u8])> {
    let (header, _) = bytes.split_first_chunk()?;
    let [_, len, _, _] = header;
    let len = usize::from(*len);
    if len < HEADER_LEN {
        return None;
    }
    Some((header, after_strings(bytes.get(len..)?)?))
}

/// The bytes behind the two zeroes that end a structure's strings (6.1.3).
///
/// One of two zeroes in a row is at an odd place, so it looks at every other byte.
fn after_strings(strings: &[u8]) -> Option<&[u8]> {
    let mut rest = strings;
    while let [_, b, _, d, more @ ..] = rest {
        if *b == 0 || *d == 0 {
            match rest {
                [0, 0, after @ ..] | [_, 0, 0, after @ ..] => return Some(after),
                [_, _, 0, 0, after @ ..] | [_, _, _, 0, 0, after @ ..] => return Some(after),
                _ => {}
            }
        }
        rest = more;
    }
    match rest {
        [0, 0, after @ ..] | [_, 0, 0, after @ ..] => Some(after),
        _ => None,
    }
}

const SYSTEM_STRINGS: &[u8] = b"QEMU\0machine\0\0";
const MINIMAL_TABLES: [u8; BIOS_LEN
    + SYSTEM_FORMATTED.len()
    + SYSTEM_STRINGS.len()
    + END_OF_TABLE.len()] = joined(&[&BIOS, &SYSTEM_FORMATTED, SYSTEM_STRINGS, &END_OF_TABLE]);

/// The 32-bit entry point of the minimal structures, which follow it.
const MINIMAL_ANCHOR: [u8; ANCHOR_21_LEN] = {
    let at = OWN_SMBIOS.start() + ANCHOR_ROOM;
    let (len, largest) = (narrow(MINIMAL_TABLES.len()), narrow(BIOS_LEN));
    let mut entry = entry_point_21(at, len, largest, 3);
    let bytes: [u8; ANCHOR_21_LEN] = transmute!(entry);
    let (front, intermediate) = bytes.split_at(INTERMEDIATE);
    entry.checksum = negated_sum(front);
    entry.intermediate_checksum = negated_sum(intermediate);
    transmute!(entry)
};

/// A minimal SMBIOS of types 0, 1 and 127: entry point, padding, structures.
/// `linker.ld` puts it at [`OWN_SMBIOS`] by its name.
pub static MINIMAL: [u8; ANCHOR_ROOM as usize + MINIMAL_TABLES.len()] =
    joined(&[&MINIMAL_ANCHOR, &[0], &MINIMAL_TABLES]);
const _: () = assert!(MINIMAL.len() <= OWN_SMBIOS.len() as usize);

/// The byte that makes the sum of all bytes zero.
const fn negated_sum(bytes: &[u8]) -> u8 {
    let mut sum = 0_u8;
    let mut bytes = bytes;
    while let [byte, rest @ ..] = bytes {
        sum = sum.wrapping_sub(*byte);
        bytes = rest;
    }
    sum
}

#[cfg(test)]
mod tests;
