//! Multiboot 1: kernels and modules that QEMU has laid out, and their information
//! block.
//!
//! Specification: GNU Multiboot Specification 0.6.96, sections 3.2 and 3.3;
//! fields have the names that they have there.
//!
//! QEMU gives image, command lines, module list and modules as one item with one load
//! address. Another item is a draft of the information block. Only three of its numbers
//! are used, each checked. The block itself is built here, with the memory map, which
//! QEMU leaves out.

use super::elf::Elf;
use super::{Handoff, Loaded, Loader};
use crate::chipset;
use crate::error::{Error, Result};
use crate::fw_cfg::item;
use crate::layout;
use crate::memory::map::{Claim, Entry, high_ram_end};
use crate::phys::PhysRange;
use crate::platform::Platform;
use crate::tables::low_memory;
use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// `struct multiboot_info`, without the fields for framebuffers.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Info {
    flags: U32,
    mem_lower: U32,
    mem_upper: U32,
    boot_device: U32,
    cmdline: U32,
    mods_count: U32,
    mods_addr: U32,
    syms: [U32; 4],
    mmap_length: U32,
    mmap_addr: U32,
    drives_length: U32,
    drives_addr: U32,
    config_table: U32,
    boot_loader_name: U32,
    apm_table: U32,
    vbe: [U32; 4],
}
const INFO_LEN: u32 = 88;

/// An entry of the module list.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Module {
    mod_start: U32,
    mod_end: U32,
    string: U32,
    reserved: U32,
}

/// An entry of the memory map.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct MmapEntry {
    /// Bytes of the fields below.
    size: U32,
    base_length_type: Entry,
}
const MMAP_ENTRY_LEN: u32 = 24;
const _: () = {
    assert!(size_of::<Info>() == INFO_LEN as usize);
    assert!(size_of::<MmapEntry>() == MMAP_ENTRY_LEN as usize);
};

/// `flags` of the block: `mem_*`, `cmdline`, `mods_*`, `mmap_*` and
/// `boot_loader_name` are valid. Not `boot_device`: there is no BIOS disk.
const FLAGS: u32 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
/// NUL-terminated, for `boot_loader_name`.
const BOOT_LOADER_NAME: &[u8; 6] = b"qboot\0";
/// ELF headers below 1 MiB have at most a page.
const MAX_SKIPPED: u32 = 4096;

/// A kernel with its modules, as QEMU has laid it out.
#[derive(Debug)]
pub struct Multiboot {
    /// Bytes at the start of the item that are not loaded: ELF headers below 1 MiB.
    skipped: u32,
    /// Where the rest of the item is loaded.
    image: Claim,
    /// First instruction.
    entry: u32,
}

/// The numbers of QEMU's draft that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Draft {
    cmdline: U32,
    mods_count: U32,
    mods_addr: U32,
}

impl Multiboot {
    /// Claims the image's memory. `None` if this is not a multiboot kernel, which has
    /// an entry point but no setup data.
    ///
    /// # Errors
    /// [`Error::BadMultiboot`] if the entry point lies outside the image,
    /// [`Error::KernelTooBig`], [`Error::KernelOverlapsFirmware`].
    pub fn claim<P: Platform>(loader: &mut Loader<'_, P>) -> Result<Option<Self>> {
        if loader.platform.read_u32(item::INITRD_SIZE)? != INFO_LEN {
            return Ok(None);
        }
        let size = loader.platform.read_u32(item::KERNEL_SIZE)?;
        let entry = loader.platform.read_u32(item::KERNEL_ENTRY)?;
        let start = loader.platform.read_u32(item::KERNEL_ADDR)?;
        if entry == 0 || start == 0 {
            return Ok(None);
        }
        let load = PhysRange::new(start, size);
        let load = load.ok_or_else(|| Error::KernelTooBig(loader.room(size)))?;
        let (skipped, load) = without_headers(load);
        if entry < load.start() || entry >= load.end() {
            return Err(Error::BadMultiboot);
        }
        let image = loader.map.claim(load);
        let image = image.ok_or_else(|| loader.no_place(load))?;
        Ok(Some(Self {
            skipped,
            image,
            entry,
        }))
    }

    /// Where the image goes.
    #[must_use]
    pub const fn image(&self) -> PhysRange {
        self.image.range()
    }

    /// Loads image and modules, and makes the information block.
    ///
    /// # Errors
    /// [`Error::BadMultiboot`], [`Error::KernelOverlapsFirmware`].
    pub fn load<P: Platform>(&self, loader: &mut Loader<'_, P>) -> Result<Loaded> {
        let load = self.image.range();
        let headers = loader.place_low(self.skipped)?;
        loader.platform.load(item::KERNEL_DATA, headers)?;
        if self.skipped != 0 && !Elf::is_elf(loader.platform.bytes(headers)?) {
            return Err(Error::KernelOverlapsFirmware);
        }
        loader.load_next(load)?;
        let mut draft = Info::new_zeroed();
        loader
            .platform
            .read(item::INITRD_DATA, draft.as_mut_bytes())?;
        let no_room = Error::KernelTooBig(loader.room(load.len()));
        let bytes = loader.platform.bytes(load).map_err(|_| no_room)?;
        let draft = Draft::check(&draft, load, bytes).ok_or(Error::BadMultiboot)?;

        let info = loader.place_low(block_len(loader.map.entries().len()))?;
        let block = loader.platform.bytes(info)?;
        write_block(block, info.start(), draft, loader.map.entries())?;
        // Xen goes back to real mode, and reads the BIOS data area.
        low_memory::write_ebda(loader.platform, loader.map.entries())?;
        chipset::set_up_devices_for_bios(loader.platform, false);
        Ok(Loaded {
            handoff: Handoff::Multiboot {
                entry: self.entry,
                info: info.start(),
            },
            // Its modules are part of the image.
            initrd: PhysRange::EMPTY,
        })
    }
}

/// Leaves out the image's part below 1 MiB. If an ELF file is linked to 1 MiB, its
/// headers would lie in the page before, which is not the kernel's; it does not need
/// them.
fn without_headers(load: PhysRange) -> (u32, PhysRange) {
    let skipped = layout::HIGH_RAM.saturating_sub(load.start());
    match load.behind(skipped) {
        Some(rest) if skipped <= MAX_SKIPPED => (skipped, rest),
        _ => (0, load),
    }
}

impl Draft {
    /// The draft's numbers, if command line, module list, every module and its string
    /// lie in the `image`, whose bytes are `bytes`.
    fn check(draft: &Info, image: PhysRange, bytes: &[u8]) -> Option<Self> {
        let offset = |addr: U32| addr.get().checked_sub(image.start()).map(|at| at as usize);
        // A string that starts before the last NUL ends inside the image.
        let last_nul = bytes.iter().rposition(|byte| *byte == 0)?;
        let is_string = |addr: U32| offset(addr).is_some_and(|at| at <= last_nul);
        let list = bytes.get(offset(draft.mods_addr)?..)?;
        let count = draft.mods_count.get() as usize;
        let (list, _) = <[Module]>::ref_from_prefix_with_elems(list, count).ok()?;
        let is_inside = |module: &Module| {
            let range = PhysRange::between(module.mod_start.get(), module.mod_end.get());
            is_string(module.string) && range.is_some_and(|range| image.contains(range))
        };
        if !is_string(draft.cmdline) || !list.iter().all(is_inside) {
            return None;
        }
        Some(Self {
            cmdline: draft.cmdline,
            mods_count: draft.mods_count,
            mods_addr: draft.mods_addr,
        })
    }
}

/// Bytes of the memory map with this many entries.
fn mmap_len(entries: usize) -> u32 {
    let entries = u32::try_from(entries).unwrap_or(u32::MAX);
    entries.saturating_mul(MMAP_ENTRY_LEN)
}

/// Bytes of the block: structure, memory map, boot loader's name.
fn block_len(entries: usize) -> u32 {
    let name = u32::try_from(BOOT_LOADER_NAME.len()).unwrap_or(0);
    mmap_len(entries)
        .saturating_add(INFO_LEN)
        .saturating_add(name)
}

/// Writes the block to `block`, [`block_len`] bytes at `addr`.
fn write_block(block: &mut [u8], addr: u32, draft: Draft, e820: &[Entry]) -> Result<()> {
    let (info, rest) = Info::mut_from_prefix(block).map_err(|_| Error::NotOurMemory)?;
    let mmap_addr = addr.saturating_add(INFO_LEN);
    let mmap_length = mmap_len(e820.len());
    *info = Info::new_zeroed();
    info.flags = FLAGS.into();
    // KiB from 0 and from 1 MiB, each in one piece.
    info.mem_lower = (layout::EBDA.start() >> 10).into();
    info.mem_upper = (high_ram_end(e820).saturating_sub(layout::HIGH_RAM) >> 10).into();
    info.cmdline = draft.cmdline;
    info.mods_count = draft.mods_count;
    info.mods_addr = draft.mods_addr;
    info.mmap_length = mmap_length.into();
    info.mmap_addr = mmap_addr.into();
    info.boot_loader_name = mmap_addr.saturating_add(mmap_length).into();
    let (slots, name) = <[MmapEntry]>::mut_from_prefix_with_elems(rest, e820.len())
        .map_err(|_| Error::NotOurMemory)?;
    for (slot, entry) in slots.iter_mut().zip(e820) {
        slot.size = (MMAP_ENTRY_LEN - 4).into();
        slot.base_length_type = *entry;
    }
    let name = name.get_mut(..BOOT_LOADER_NAME.len());
    name.ok_or(Error::NotOurMemory)?
        .copy_from_slice(BOOT_LOADER_NAME);
    Ok(())
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use crate::error::Room;
    use crate::memory::map::tests::map_of;
    use crate::phys::u32_at;
    use crate::sim::Machine;

    fn check(draft: &[u8], bytes: &[u8]) -> Option<Draft> {
        Draft::check(&Info::read_from_bytes(draft).unwrap(), LOAD, bytes)
    }

    const LOAD: PhysRange = PhysRange::fixed(0x10_0000, 0x10_3000);

    /// An image as QEMU lays it out: code, module list, strings, modules.
    fn image() -> Vec<u8> {
        let mut bytes = vec![0; LOAD.len() as usize];
        let mut put = |at: usize, data: &[u8]| bytes[at..at + data.len()].copy_from_slice(data);
        for (i, (start, end)) in [(0x10_2000u32, 0x10_2123u32), (0x10_3000, 0x10_3000)]
            .into_iter()
            .enumerate()
        {
            let string: u32 = 0x10_1100;
            put(0x1000 + i * 16, &start.to_le_bytes());
            put(0x1004 + i * 16, &end.to_le_bytes());
            put(0x1008 + i * 16, &string.to_le_bytes());
        }
        put(0x1100, b"module args\0kernel args\0qemu\0");
        bytes
    }

    /// A draft of the block as QEMU makes it.
    fn draft(cmdline: u32, count: u32, addr: u32) -> Vec<u8> {
        let mut bytes = vec![0; INFO_LEN as usize];
        for (at, value) in [
            (0, 0x247),
            (12, 0x8000_ffff),
            (16, cmdline),
            (20, count),
            (24, addr),
        ] {
            bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
        }
        bytes
    }

    #[test]
    fn long_lists_and_strings_count_as_long_as_the_image_holds_them() {
        const LOAD: PhysRange = PhysRange::fixed(0x10_0000, 0x18_0000);
        let (list, len) = (LOAD.start() + 0x6_0000, 0x2000);
        let mut bytes = vec![b'x'; LOAD.len() as usize];
        // Empty modules, whose strings are the whole command line.
        for word in bytes[0x6_0000..].as_chunks_mut::<4>().0 {
            *word = LOAD.start().to_le_bytes();
        }
        for (count, fits) in [(0, true), (len, true), (len + 1, false)] {
            let draft = draft(LOAD.start(), count, list);
            let draft = Info::read_from_bytes(&draft).unwrap();
            let checked = Draft::check(&draft, LOAD, &bytes);
            assert_eq!(checked.is_some(), fits, "{count}");
        }
        bytes.retain(|byte| *byte != 0);
        let draft = Info::read_from_bytes(&draft(LOAD.start(), 0, LOAD.start())).unwrap();
        assert_eq!(Draft::check(&draft, LOAD, &bytes), None, "no NUL");
    }

    #[test]
    fn the_block_is_what_the_specification_says() {
        let draft = check(&draft(0x10_110c, 2, 0x10_1000), &image()).unwrap();
        let map = map_of(64 << 20);
        let len = block_len(4);
        assert_eq!((map.entries().len(), len), (4, 88 + 4 * 24 + 6));
        let mut block = vec![0xa5; len as usize];
        write_block(&mut block, 0x9000, draft, map.entries()).unwrap();
        let word = |at: usize| u32_at(&block, at).unwrap();
        assert_eq!(word(0), 0x24d);
        assert_eq!((word(4), word(8)), (639, 63 << 10));
        assert_eq!((word(16), word(20), word(24)), (0x10_110c, 2, 0x10_1000));
        assert_eq!((word(44), word(48)), (96, 0x9058));
        assert_eq!(word(64), 0x9058 + 96);
        assert_eq!(&block[88 + 96..], b"qboot\0");
        // The first and the last entry: size, base, length, type.
        assert_eq!(
            [88, 92, 100, 104, 108].map(word),
            [20, 0, 0x9_fc00, 0, 1],
            "{block:x?}"
        );
        assert_eq!(
            [160, 164, 172, 180].map(word),
            [20, 0x10_0000, 63 << 20, 1],
            "{block:x?}"
        );
        let short = write_block(&mut block[1..], 0x9000, draft, map.entries());
        assert_eq!(short, Err(Error::NotOurMemory));
    }

    #[test]
    fn whatever_lies_outside_the_image_is_refused() {
        let bytes = image();
        let check = |draft: &[u8], bytes: &[u8]| check(draft, bytes).is_some();
        assert!(check(&draft(0x10_110c, 2, 0x10_1000), &bytes));
        assert!(check(&draft(0x10_110c, 0, 0x10_3000), &bytes));
        for bad in [
            draft(0, 2, 0x10_1000),
            draft(0xf_ffff, 2, 0x10_1000),
            draft(0x10_3000, 2, 0x10_1000),
            draft(0x10_110c, 2, 0),
            draft(0x10_110c, 2, 0x10_2ff0),
            draft(0x10_110c, 0x1000_0000, 0x10_1000),
            draft(0x10_110c, u32::MAX, 0x10_1000),
        ] {
            assert!(!check(&bad, &bytes), "{bad:x?}");
        }
        let good = draft(0x10_110c, 2, 0x10_1000);
        // A module's start, end and string.
        for (at, value) in [
            (0x1000, 0x10_2124u32),
            (0x1000, 0xf_0000),
            (0x1004, 0x10_3001),
            (0x1008, 7),
        ] {
            let mut bytes = bytes.clone();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            assert!(!check(&good, &bytes), "{at:x} {value:x}");
        }
        let mut endless = bytes.clone();
        endless[0x1100..].fill(b'x');
        assert!(!check(&good, &endless));
    }

    #[test]
    fn an_image_is_found_by_its_items() {
        let find = |info: u32, entry: u32, addr: u32, size| {
            let mut machine = Machine::default();
            machine
                .fw_cfg
                .item(item::INITRD_SIZE, &info.to_le_bytes())
                .item(item::KERNEL_SIZE, &u32::to_le_bytes(size))
                .item(item::KERNEL_ENTRY, &entry.to_le_bytes())
                .item(item::KERNEL_ADDR, &addr.to_le_bytes());
            let mut map = map_of(64 << 20);
            let found = Multiboot::claim(&mut Loader::new(&mut machine, &mut map))?;
            Ok(found.map(|found| (found.skipped, found.image(), found.entry)))
        };
        let image = (0, LOAD, 0x10_0010);
        let headed = (0x1000, LOAD, 0x10_0010);
        assert_eq!(find(88, 0x10_0010, 0xf_f000, 0x4000), Ok(Some(headed)));
        assert_eq!(
            find(88, 0xf_f010, 0xf_f000, 0x4000),
            Err(Error::BadMultiboot)
        );
        assert_eq!(find(88, 0x10_0010, 0x10_0000, 0x3000), Ok(Some(image)));
        assert_eq!(find(87, 0x10_0010, 0x10_0000, 0x3000), Ok(None));
        assert_eq!(find(88, 0, 0x10_0000, 0x3000), Ok(None));
        assert_eq!(find(88, 0x10_0010, 0, 0x3000), Ok(None));
        assert_eq!(
            find(88, 0xf_ffff, 0x10_0000, 0x3000),
            Err(Error::BadMultiboot)
        );
        assert_eq!(
            find(88, 0x10_3000, 0x10_0000, 0x3000),
            Err(Error::BadMultiboot)
        );
        assert_eq!(
            find(88, 0x10_0010, 0x10_0000, u32::MAX),
            Err(Error::KernelTooBig(Room::new(u32::MAX, 63 << 20)))
        );
        // Linked behind the end of RAM: as much as the guest needs in all.
        assert_eq!(
            find(88, 0x500_0010, 0x500_0000, 0x3000),
            Err(Error::KernelTooBig(Room::new(0x500_3000, 64 << 20)))
        );
    }
}
