//! What a BIOS leaves in low memory for real-mode code: the BIOS data area.
//!
//! Specification: IBM PS/2 and PC BIOS Interface Technical Reference, "BIOS
//! Data Area"; Ralf Brown's interrupt list, `MEMORY.LST`.

use crate::layout;

/// Address of the BIOS data area.
pub const BDA: u32 = 0x400;
/// Its bytes, as far as any are set.
pub const BDA_LEN: usize = 0x100;

/// Words of the BIOS data area: offset and value.
const WORDS: [(usize, u16); 4] = [
    // COM1's port.
    (0x00, 0x3f8),
    (0x0e, EBDA_SEGMENT),
    (0x10, EQUIPMENT),
    (0x13, CONVENTIONAL_KIB),
];

/// What INT 11h says: a coprocessor and one serial port, no display, no
/// diskette drive.
pub const EQUIPMENT: u16 = 1 << 9 | 1 << 1;
/// What INT 12h says: KiB of memory from address 0.
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

/// The BIOS data area of a machine with a serial console and no BIOS devices.
#[must_use]
pub const fn bda() -> [u8; BDA_LEN] {
    let mut bda = [0; BDA_LEN];
    let mut words: &[(usize, u16)] = &WORDS;
    while let [(offset, value), rest @ ..] = words {
        if let Some((_, at)) = bda.split_at_mut_checked(*offset)
            && let Some(slot) = at.first_chunk_mut()
        {
            *slot = value.to_le_bytes();
        }
        words = rest;
    }
    bda
}
