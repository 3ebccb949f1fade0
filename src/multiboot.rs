//! Multiboot 1: kernels that QEMU has laid out, modules behind them, and the
//! information block that they are handed.
//!
//! Specification: GNU Multiboot Specification 0.6.96, sections 3.2 and 3.3.
//!
//! QEMU gives image, command lines, module list and modules as one item with
//! one load address, and a first draft of the information block as another.
//! Only three numbers of the draft are taken over, each checked; the block
//! itself is built here, with the memory map that QEMU leaves to firmware.

use crate::e820::{Entry, high_ram_end};
use crate::error::{Error, Result};
use crate::fw_cfg::{FwCfg, item};
use crate::layout;
use crate::phys::{PhysRange, copy_at, u32_at};
use zerocopy::IntoBytes;

/// Bytes of the information block, as far as it existed before framebuffers.
pub const INFO_LEN: u32 = 88;
/// Bytes of a module list entry: start, end, string, reserved.
const MODULE_LEN: u32 = 16;
/// Bytes of a memory map entry, its own size field included.
const MMAP_LEN: u32 = 24;
/// What that size field says: it does not count itself.
const MMAP_SIZE: u32 = 20;
/// A page, at most, of ELF headers below 1 MiB.
const MAX_HEAD: u32 = 4096;
/// Modules that are looked at, one after another; QEMU takes them from its
/// command line.
const MAX_MODULES: u32 = 1024;
/// The longest string that is looked through for its end.
const MAX_STRING: usize = 64 << 10;
/// NUL-terminated, for `boot_loader_name`.
const BOOT_LOADER_NAME: &[u8; BOOT_LOADER_NAME_LEN as usize] = b"qboot\0";
const BOOT_LOADER_NAME_LEN: u32 = 6;

/// `flags` of the block: `mem_*`, `cmdline`, `mods_*`, `mmap_*` and
/// `boot_loader_name` are valid. Not `boot_device`: there is no BIOS disk.
const FLAGS: u32 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;

/// A kernel with its modules, as QEMU has laid it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// Bytes of the item that are left out: ELF headers below 1 MiB.
    pub head: u32,
    /// Where all that follows must be loaded.
    pub load: PhysRange,
    /// First instruction.
    pub entry: u32,
}

impl Image {
    /// What the items say; `None` when this is no multiboot kernel, whose
    /// mark is an entry point without setup data.
    ///
    /// # Errors
    /// [`Error::BadMultiboot`] when the entry point is outside of what is
    /// loaded, [`Error::KernelTooBig`] when that passes 4 GiB.
    #[cold]
    #[inline(never)]
    pub fn find<F: FwCfg>(fw_cfg: &mut F, size: u32) -> Result<Option<Self>> {
        if fw_cfg.read_u32(item::INITRD_SIZE)? != INFO_LEN {
            return Ok(None);
        }
        let entry = fw_cfg.read_u32(item::KERNEL_ENTRY)?;
        let start = fw_cfg.read_u32(item::KERNEL_ADDR)?;
        if entry == 0 || start == 0 {
            return Ok(None);
        }
        let load = PhysRange::new(start, size).ok_or(Error::KernelTooBig)?;
        // Linked to 1 MiB, an ELF file's headers come to lie in the page
        // before, which is not RAM of the kernel's; it does without.
        let head = layout::HIGH_RAM.saturating_sub(start);
        let (head, load) = match load.part(head, size.saturating_sub(head)) {
            Some(load) if head <= MAX_HEAD => (head, load),
            _ => (0, load),
        };
        if entry < load.start() || entry >= load.end() {
            return Err(Error::BadMultiboot);
        }
        Ok(Some(Self { head, load, entry }))
    }
}

/// What QEMU's draft of the information block says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Address of the NUL-terminated command line.
    cmdline: u32,
    /// The module list.
    mods_addr: u32,
    mods_count: u32,
}

impl Draft {
    /// Takes the draft apart and checks it against the loaded `image`, whose
    /// bytes are `bytes`: command line, module list, every module and its
    /// string must lie there.
    ///
    /// # Errors
    /// [`Error::BadMultiboot`].
    #[cold]
    #[inline(never)]
    pub fn check(draft: &[u8], load: PhysRange, bytes: &[u8]) -> Result<Self> {
        Self::find(draft, load, bytes).ok_or(Error::BadMultiboot)
    }

    fn find(draft: &[u8], load: PhysRange, bytes: &[u8]) -> Option<Self> {
        let draft = Self {
            cmdline: u32_at(draft, 16)?,
            mods_count: u32_at(draft, 20)?,
            mods_addr: u32_at(draft, 24)?,
        };
        let at = |addr: u32| bytes.get(addr.checked_sub(load.start())? as usize..);
        let is_string = |addr: u32| at(addr)?.iter().take(MAX_STRING).position(|b| *b == 0);
        is_string(draft.cmdline)?;
        if draft.mods_count > MAX_MODULES {
            return None;
        }
        let len = draft.mods_count.checked_mul(MODULE_LEN)?;
        let list = at(draft.mods_addr)?.get(..len as usize)?;
        for module in list.chunks_exact(MODULE_LEN as usize) {
            let range = PhysRange::between(u32_at(module, 0)?, u32_at(module, 4)?)?;
            if !load.contains(range) {
                return None;
            }
            is_string(u32_at(module, 8)?)?;
        }
        Some(draft)
    }
}

/// What the information block is filled from.
#[derive(Debug)]
pub struct Info<'a> {
    /// Command line and modules.
    pub draft: Draft,
    /// Memory map.
    pub e820: &'a [Entry],
}

impl Info<'_> {
    /// Bytes of the block, the memory map of `entries` entries and the boot
    /// loader's name behind it.
    #[must_use]
    pub fn block_len(entries: usize) -> u32 {
        mmap_len(entries).saturating_add(INFO_LEN + BOOT_LOADER_NAME_LEN)
    }

    /// Writes the block to `block`, [`Info::block_len`] bytes at `addr`.
    ///
    /// # Errors
    /// [`Error::NotOurMemory`] when `block` is shorter than that.
    #[cold]
    #[inline(never)]
    pub fn write(&self, block: &mut [u8], addr: u32) -> Result<()> {
        block.fill(0);
        let mmap_addr = addr.saturating_add(INFO_LEN);
        let mmap_len = mmap_len(self.e820.len());
        let name = mmap_addr.saturating_add(mmap_len);
        for (offset, value) in [
            (0, FLAGS),
            // KiB from 0 and from 1 MiB, each in one piece.
            (4, layout::EBDA.start() >> 10),
            (
                8,
                high_ram_end(self.e820).saturating_sub(layout::HIGH_RAM) >> 10,
            ),
            (16, self.draft.cmdline),
            (20, self.draft.mods_count),
            (24, self.draft.mods_addr),
            (44, mmap_len),
            (48, mmap_addr),
            (64, name),
        ] {
            copy_at(block, offset, &value.to_le_bytes())?;
        }
        let mut at = INFO_LEN as usize;
        for entry in self.e820 {
            copy_at(block, at, &MMAP_SIZE.to_le_bytes())?;
            copy_at(block, at.saturating_add(4), entry.as_bytes())?;
            at = at.saturating_add(MMAP_LEN as usize);
        }
        copy_at(block, at, BOOT_LOADER_NAME)
    }
}

fn mmap_len(entries: usize) -> u32 {
    // Bounded by the map's capacity, so the product is small.
    u32::try_from(entries)
        .unwrap_or(u32::MAX)
        .saturating_mul(MMAP_LEN)
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use crate::e820::MemoryMap;
    use crate::fw_cfg::fake::FakeFwCfg;

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
    fn the_block_is_what_the_specification_says() {
        let draft = Draft::check(&draft(0x10_110c, 2, 0x10_1000), LOAD, &image()).unwrap();
        let mut map = MemoryMap::new();
        let mut raw = vec![0; 20];
        raw[8..16].copy_from_slice(&(64u64 << 20).to_le_bytes());
        raw[16] = 1;
        map.fill(&raw, PhysRange::fixed(0, 0)).unwrap();
        let info = Info {
            draft,
            e820: map.entries(),
        };
        let len = Info::block_len(4);
        assert_eq!((map.entries().len(), len), (4, 88 + 4 * 24 + 6));
        let mut block = vec![0xa5; len as usize];
        info.write(&mut block, 0x9000).unwrap();
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
        assert_eq!(
            info.write(&mut block[1..], 0x9000),
            Err(Error::NotOurMemory)
        );
    }

    #[test]
    fn whatever_lies_outside_the_image_is_refused() {
        let bytes = image();
        let check = |draft: &[u8], bytes: &[u8]| Draft::check(draft, LOAD, bytes).is_ok();
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
            vec![0; 20],
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
            let mut fw_cfg = FakeFwCfg::new();
            fw_cfg
                .item(item::INITRD_SIZE, &info.to_le_bytes())
                .item(item::KERNEL_ENTRY, &entry.to_le_bytes())
                .item(item::KERNEL_ADDR, &addr.to_le_bytes());
            Image::find(&mut fw_cfg, size)
        };
        let image = Image {
            head: 0,
            load: LOAD,
            entry: 0x10_0010,
        };
        let headed = Image {
            head: 0x1000,
            ..image
        };
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
            Err(Error::KernelTooBig)
        );
    }
}
