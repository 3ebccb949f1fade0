//! The PCI BIOS: configuration space as a 32-bit service, for kernels that
//! are told to use it (`pci=bios`). Its code is the ROM's (`bios32.S`); here
//! it gets its place in the F segment, and the structure that kernels look
//! for.
//!
//! Specifications: PCI BIOS 2.1; Standard BIOS 32-bit Service Directory 0.4.
//! Interrupt routing (functions 0eh and 0fh) and special cycles are refused:
//! no kernel needs them to reach a device.

use crate::error::Result;
use crate::layout;
use crate::phys::{GuestMemory, PhysRange, align_up, copy_at, u32_at};

/// Bytes of the structure, and the step at which kernels look for it.
const DIRECTORY_LEN: u32 = 16;
/// Offsets in the code's header: the PCI BIOS's entry, and the last bus.
const ENTRY: usize = 0;
const LAST_BUS: usize = 4;
/// Where the directory's own entry is, behind the header.
const DIRECTORY_ENTRY: u32 = 8;

/// The service directory's structure, which kernels look for at 16-byte
/// steps from 0xe0000 to 0xfffff; `entry` is the physical address of its
/// entry point. Linux takes revision 0 only.
fn directory(entry: u32) -> [u8; DIRECTORY_LEN as usize] {
    let [a, b, c, d] = entry.to_le_bytes();
    let sum = [a, b, c, d, 1]
        .iter()
        .chain(b"_32_")
        .fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    let checksum = sum.wrapping_neg();
    let [s0, s1, s2, s3] = *b"_32_";
    [s0, s1, s2, s3, a, b, c, d, 0, 1, checksum, 0, 0, 0, 0, 0]
}

/// Offers the PCI BIOS in `room`, a part of the F segment, when it fits
/// there; gives what is left. `last_bus` is the highest bus number in use.
///
/// # Errors
/// Those of [`GuestMemory::bytes`].
#[cold]
#[inline(never)]
pub fn offer<M: GuestMemory>(memory: &mut M, room: PhysRange, last_bus: u8) -> Result<PhysRange> {
    let code = memory.pci_bios();
    let place = || {
        let relative = u32_at(code, ENTRY)?;
        let start = align_up(room.start(), DIRECTORY_LEN)?;
        let base = start.checked_add(DIRECTORY_LEN)?;
        let end = base.checked_add(u32::try_from(code.len()).ok()?)?;
        let whole = PhysRange::between(start, end)?;
        let rest = PhysRange::between(end, room.end())?;
        let entry = base
            .checked_add(relative)?
            .checked_sub(layout::F_SEGMENT.start())?;
        Some((whole, rest, base.checked_add(DIRECTORY_ENTRY)?, entry))
    };
    // A kernel without it asks the ports itself.
    let Some((whole, rest, directory_entry, entry)) = place() else {
        return Ok(room);
    };
    let bytes = memory.bytes(whole)?;
    copy_at(bytes, 0, &directory(directory_entry))?;
    let header = DIRECTORY_LEN as usize;
    copy_at(bytes, header, code)?;
    copy_at(bytes, header | ENTRY, &entry.to_le_bytes())?;
    copy_at(bytes, header | LAST_BUS, &[last_bus])?;
    Ok(rest)
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use crate::phys::byte_sum;

    const ROOM: PhysRange = PhysRange::fixed(0xf_8004, 0xf_8100);
    const CODE: [u8; 40] = {
        let mut code = [0x90; 40];
        [code[0], code[1], code[2], code[3]] = [20, 0, 0, 0];
        code
    };

    struct Memory(Vec<u8>, &'static [u8]);

    impl GuestMemory for Memory {
        fn open(&mut self, _: PhysRange) {}
        fn bytes(&mut self, range: PhysRange) -> Result<&mut [u8]> {
            assert!(ROOM.contains(range));
            let start = (range.start() - ROOM.start()) as usize;
            Ok(&mut self.0[start..start + range.len() as usize])
        }
        fn pci_bios(&self) -> &'static [u8] {
            self.1
        }
    }

    #[test]
    fn kernels_find_it_and_it_finds_itself() {
        let mut memory = Memory(vec![0xa5; ROOM.len() as usize], &CODE);
        let rest = offer(&mut memory, ROOM, 7).unwrap();
        assert_eq!(rest, PhysRange::fixed(0xf_8048, 0xf_8100));
        // From the first step of 16 bytes.
        let table = &memory.0[0xc..0x1c];
        assert_eq!(&table[..4], b"_32_");
        assert_eq!(u32_at(table, 4), Some(0xf_8020 + 8));
        assert_eq!(table[8..10], [0, 1]);
        assert_eq!(byte_sum(table), 0);
        let code = &memory.0[0x1c..0x44];
        assert_eq!(u32_at(code, ENTRY), Some(0x8020 + 20));
        assert_eq!(code[LAST_BUS], 7);
        assert_eq!(code[8..], CODE[8..]);
        assert_eq!(memory.0[..0xc], [0xa5; 0xc]);
        assert_eq!(memory.0[0x44], 0xa5);
    }

    #[test]
    fn without_room_or_code_nothing_is_written() {
        for (code, room) in [
            (&CODE[..], PhysRange::fixed(0xf_8004, 0xf_8047)),
            (&[][..], ROOM),
        ] {
            let mut memory = Memory(vec![0xa5; ROOM.len() as usize], code);
            assert_eq!(offer(&mut memory, room, 1), Ok(room));
            assert!(memory.0.iter().all(|byte| *byte == 0xa5));
        }
    }
}
