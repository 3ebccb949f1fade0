//! Waking up from suspend to RAM (ACPI S3).
//!
//! QEMU wakes a guest by a reset that keeps RAM and writes 0xfe to CMOS 0x0f. The
//! firmware restores what the reset took from the machine and enters the guest at the
//! address in its FACS (ACPI 6.5, 16.3). The guest owns all memory except what E820
//! reserves, so a note in the EBDA, written before the handoff, has what a wake-up
//! needs. CMOS is asked only if there is a note: a cold boot makes no more accesses.

mod tpm;

use self::tpm::Version;
use crate::chipset::{self, Chipset};
use crate::error::{Error, Result};
use crate::fw_cfg::PORT_DMA_HIGH;
use crate::kernel::Handoff;
use crate::layout;
use crate::memory::map::MemoryMap;
use crate::phys::{PhysRange, copy_into};
use crate::platform::Platform;
use crate::tables::acpi::{MAX_WRITTEN, Tables, WrittenPointer};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

/// Ports of the CMOS: register number, value.
const CMOS: (u16, u16) = (0x70, 0x71);
/// The CMOS register for the reason of a reset.
const SHUTDOWN_STATUS: u8 = 0x0f;
/// What QEMU writes there before it wakes a guest; it stays over other resets.
const S3_RESUME: u8 = 0xfe;

/// The first word of [`layout::WAKE_NOTE`] if there is a note.
pub const MARK: u32 = u32::from_le_bytes(*b"zZzQ");

/// What a wake-up needs. The guest can overwrite it, so it has a checksum; a damaged
/// note wakes nothing.
#[derive(FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct Note {
    /// [`MARK`].
    mark: U32,
    /// Makes the sum of all words zero.
    checksum: U32,
    /// Where the FACS lies.
    facs: U32,
    /// `IS_REWRITTEN` and the flags below it.
    flags: U32,
    /// Unused ones have size 0.
    pointers: [WrittenPointer; MAX_WRITTEN],
}
/// QEMU writes the kernel's segments again at a reset.
const IS_REWRITTEN: u32 = 1;
/// There is a TPM 1.2.
const HAS_TPM_1: u32 = 2;
/// There is a TPM 2.0.
const HAS_TPM_2: u32 = 4;
/// The chipset was set up for a kernel without ACPI, too.
const IS_LEGACY: u32 = 8;
/// The ECAM reaches all buses.
const HAS_ALL_BUSES: u32 = 16;
const _: () = assert!(size_of::<Note>() <= layout::WAKE_NOTE.len() as usize);

/// The part of the FACS (ACPI 6.5, 5.2.10) that a wake-up reads.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Facs {
    signature: [u8; 4],
    length: U32,
    _hardware_signature: U32,
    waking_vector: U32,
    _global_lock: U32,
    _flags: U32,
    x_waking_vector: U64,
    version: u8,
}

const FACS_LEN: u32 = 33;
const _: () = assert!(size_of::<Facs>() == FACS_LEN as usize);

/// What the firmware finds when a note is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// An ordinary reset.
    Boot,
    /// QEMU's reset has overwritten the guest.
    Lost,
    /// The guest is ready to go on.
    Resume(Vector),
}

/// Where to enter the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vector {
    /// In real mode, at a segment and an offset.
    Real(u16, u16),
    /// In 32-bit mode without paging.
    Flat(u32),
}

/// Notes what a wake-up will need. `is_legacy`: the chipset was set up for a kernel
/// without ACPI, too.
///
/// # Errors
/// [`Error::NotOurMemory`], which the layout excludes.
// `linker.ld` puts it where 540 bytes cost nothing.
#[inline(never)]
pub fn note<P: Platform>(
    p: &mut P,
    tables: &Tables,
    map: &MemoryMap,
    handoff: &Handoff,
    is_legacy: bool,
) -> Result<()> {
    let facs = tables.facs(p);
    let facs = facs.filter(|table| table.signature == *b"FACS");
    // A full list may lack a pointer.
    let Some(facs) = facs.filter(|_| !tables.written.is_full()) else {
        return Ok(());
    };
    let flag = |is_so: bool, flag: u32| if is_so { flag } else { 0 };
    let mut flags = flag(matches!(handoff, Handoff::Pvh { .. }), IS_REWRITTEN)
        | flag(is_legacy, IS_LEGACY)
        | flag(chipset::has_all_buses(map), HAS_ALL_BUSES);
    for table in &tables.all {
        match &table.signature {
            b"TCPA" => flags |= HAS_TPM_1,
            b"TPM2" => flags |= HAS_TPM_2,
            _ => {}
        }
    }
    let bytes = p.bytes(layout::WAKE_NOTE)?;
    bytes.fill(0);
    let (note, _) = Note::mut_from_prefix(bytes).map_err(|_| Error::NotOurMemory)?;
    note.mark = MARK.into();
    note.facs = facs.range.start().into();
    note.flags = flags.into();
    copy_into(note.pointers.as_mut_bytes(), tables.written.as_bytes())?;
    note.checksum = 0_u32.wrapping_sub(sum(note)).into();
    Ok(())
}

/// Finds out whether this is a wake-up, and then restores what the reset took.
pub fn resume<P: Platform>(p: &mut P, host_bridge: u32) -> Wake {
    let (index, data) = CMOS;
    p.out8(index, SHUTDOWN_STATUS);
    if p.in8(data) != S3_RESUME {
        return Wake::Boot;
    }
    // The next reset may not be a wake-up.
    p.out8(data, 0);
    let Some(note) = read_note(p) else {
        return Wake::Boot;
    };
    let has = |flag| note.flags.get() & flag != 0;
    if has(IS_REWRITTEN) {
        return Wake::Lost;
    }
    let vector = waking_vector(p, note.facs.get());
    let (Some(vector), Some(chipset)) = (vector, Chipset::find(host_bridge)) else {
        return Wake::Boot;
    };
    chipset.set_up(p);
    // Linux with ACPI, which did without them, sets its own now.
    chipset.route_interrupts(p);
    if has(IS_LEGACY) {
        chipset.set_up_legacy(p);
    }
    if has(HAS_ALL_BUSES) {
        chipset.reach_all_buses(p);
    }
    // What the guest has left there survives a reset, and would lead the first
    // transfer astray, into the guest's memory.
    p.out32(PORT_DMA_HIGH, 0);
    for pointer in &note.pointers {
        let address = u64::from(pointer.address).to_le_bytes();
        if let Some(address @ [_, ..]) = address.get(..pointer.size.get().into()) {
            // If QEMU refuses, the guest goes on all the same.
            let _ = p.write(pointer.selector.get(), pointer.offset.get(), address);
        }
    }
    if has(HAS_TPM_2) {
        tpm::start(p, Version::V2);
    } else if has(HAS_TPM_1) {
        tpm::start(p, Version::V1);
    }
    Wake::Resume(vector)
}

fn read_note<P: Platform>(p: &mut P) -> Option<Note> {
    let bytes = p.bytes(layout::WAKE_NOTE).ok()?;
    let (note, _) = Note::read_from_prefix(bytes).ok()?;
    (note.mark == MARK && sum(&note) == 0).then_some(note)
}

/// Where the FACS at `addr` asks to enter the guest; `None` if it is not a FACS, or its
/// address cannot be entered.
fn waking_vector<P: Platform>(p: &mut P, addr: u32) -> Option<Vector> {
    let range = PhysRange::new(addr, FACS_LEN)?;
    let end = range.end().min(layout::HIGH_RAM_END);
    p.open(PhysRange::between(layout::HIGH_RAM, end)?);
    let facs = Facs::ref_from_bytes(p.bytes(range).ok()?).ok()?;
    if facs.signature != *b"FACS" {
        return None;
    }
    let wide = facs.x_waking_vector.get();
    if facs.version != 0 && wide != 0 {
        return u32::try_from(wide).ok().map(Vector::Flat);
    }
    let vector = facs.waking_vector.get();
    let segment = u16::try_from(vector >> 4).ok()?;
    let offset = u16::try_from(vector & 15).ok()?;
    (vector != 0).then_some(Vector::Real(segment, offset))
}

/// The sum of all words.
fn sum(note: &Note) -> u32 {
    let (words, _) = note.as_bytes().as_chunks();
    let words = words.iter().map(|word| u32::from_le_bytes(*word));
    words.fold(0, u32::wrapping_add)
}
