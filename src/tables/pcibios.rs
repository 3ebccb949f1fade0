//! The PCI BIOS: configuration space as a 32-bit service, for kernels with `pci=bios`.
//! Its code is in `rom/asm/bios32.S`; this file copies it to the F segment, with the
//! structure that kernels look for.
//!
//! Specifications: PCI BIOS 2.1; Standard BIOS 32-bit Service Directory 0.4. Interrupt
//! routing (functions 0eh and 0fh) and special cycles are refused: no kernel needs them
//! to reach a device.

use super::space::{TableSpace, Zone};
use crate::error::Result;
use crate::layout;
use crate::phys::{copy_at, u32_at};
use crate::platform::Platform;

/// Bytes of the structure, and the steps in which kernels search.
const DIRECTORY_LEN: u32 = 16;
/// Offsets in the code's header: the PCI BIOS's entry, and the last bus.
const ENTRY: usize = 0;
const LAST_BUS: usize = 4;
/// Offset of the directory's entry, behind the header.
const DIRECTORY_ENTRY: u32 = 8;

/// The service directory's structure. Kernels search for it in 16-byte steps from
/// 0xe0000 to 0xfffff. `entry` is the physical address of its entry point. Linux takes
/// revision 0 only.
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

/// Puts the PCI BIOS into the F segment, if the ROM has one and it fits. Without it
/// kernels use the ports. `last_bus` is the highest bus number in use.
///
/// # Errors
/// [`Error::NotOurMemory`](crate::error::Error::NotOurMemory), which the
/// allocator excludes.
pub fn offer<P: Platform>(
    platform: &mut P,
    space: &mut TableSpace<'_>,
    last_bus: u8,
) -> Result<()> {
    let code = platform.pci_bios();
    let len = u32::try_from(code.len()).ok();
    let len = len.and_then(|len| len.checked_add(DIRECTORY_LEN));
    let (Some(relative), Some(len)) = (u32_at(code, ENTRY), len) else {
        return Ok(());
    };
    let Ok(whole) = space.alloc(Zone::FSegment, len, DIRECTORY_LEN) else {
        return Ok(());
    };
    // In the F segment nothing overflows.
    let base = whole.start().wrapping_add(DIRECTORY_LEN);
    let entry = base
        .wrapping_add(relative)
        .wrapping_sub(layout::F_SEGMENT.start());
    let bytes = platform.bytes(whole)?;
    copy_at(bytes, 0, &directory(base.wrapping_add(DIRECTORY_ENTRY)))?;
    let header = DIRECTORY_LEN as usize;
    copy_at(bytes, header, code)?;
    copy_at(bytes, header | ENTRY, &entry.to_le_bytes())?;
    copy_at(bytes, header | LAST_BUS, &[last_bus])?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use crate::memory::map::tests::map_of;
    use crate::phys::PhysRange;
    use crate::phys::byte_sum;
    use crate::platform::GuestMemory as _;
    use crate::sim::Machine;

    const CODE: [u8; 40] = {
        let mut code = [0x90; 40];
        [code[0], code[1], code[2], code[3]] = [20, 0, 0, 0];
        code
    };
    const PLACE: PhysRange = PhysRange::fixed(0xf_e800, 0xf_e838);

    #[test]
    fn kernels_find_it_and_it_finds_itself() {
        let mut machine = Machine::default();
        machine.memory.pci_bios = &CODE;
        let mut map = map_of(64 << 20);
        let mut space = TableSpace::new(&mut map);
        offer(&mut machine, &mut space, 7).unwrap();
        let bytes = machine.bytes(PLACE).unwrap();
        let table = &bytes[..0x10];
        assert_eq!(&table[..4], b"_32_");
        assert_eq!(u32_at(table, 4), Some(0xf_e810 + 8));
        assert_eq!(table[8..10], [0, 1]);
        assert_eq!(byte_sum(table), 0);
        let code = &bytes[0x10..];
        assert_eq!(u32_at(code, ENTRY), Some(0xe810 + 20));
        assert_eq!(code[LAST_BUS], 7);
        assert_eq!(code[8..], CODE[8..]);
        let next = space.alloc(Zone::FSegment, 1, 1).unwrap();
        assert_eq!(next.start(), 0xf_e840);
    }

    #[test]
    fn without_room_or_code_nothing_is_written() {
        for (code, taken) in [(&CODE[..], layout::F_TABLES.len() - 0x30), (&[][..], 0)] {
            let mut machine = Machine::default();
            machine.memory.pci_bios = code;
            let mut map = map_of(64 << 20);
            let mut space = TableSpace::new(&mut map);
            space.alloc(Zone::FSegment, taken, 1).unwrap();
            assert_eq!(offer(&mut machine, &mut space, 1), Ok(()));
            assert!(machine.memory.touched.is_empty());
        }
    }
}
