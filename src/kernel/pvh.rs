//! PVH: ELF kernels that QEMU has loaded, and their `start_info`.
//!
//! Specifications: Xen `docs/misc/pvh.pandoc` and
//! `public/arch-x86/hvm/start_info.h`; fields have the names that they have
//! there.

use super::elf::{Elf, Notes, guest_by_remains};
use super::load::MAX_COMMAND_LINE;
use super::{Handoff, Loaded, Loader};
use crate::error::{Error, Result};
use crate::fw_cfg::item;
use crate::layout;
use crate::phys::PhysRange;
use crate::platform::Platform;
use crate::settings::policy::Guest;
use zerocopy::FromBytes;
use zerocopy::byteorder::little_endian::{U32, U64};

/// Bytes that QEMU keeps of an ELF kernel.
const ELF_READ: usize = 8192;
/// The same in `item::SETUP_SIZE`, which is 0 for multiboot kernels.
const ELF_SETUP_SIZE: u32 = 8192;
/// Map entries with room behind the command line, where line and `start_info` share a
/// page. Few machines have more.
const USUAL_ENTRIES: usize = 32;
/// Linux's own limit, `COMMAND_LINE_SIZE` less its NUL. A vmlinux does not name it.
const LINUX_COMMAND_LINE: u32 = 2047;
/// `start_info.magic`.
const START_INFO_MAGIC: u32 = 0x336e_c578;

/// `struct hvm_start_info`, version 1.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct StartInfo {
    magic: U32,
    version: U32,
    flags: U32,
    nr_modules: U32,
    modlist_paddr: U64,
    cmdline_paddr: U64,
    rsdp_paddr: U64,
    memmap_paddr: U64,
    memmap_entries: U32,
    reserved: U32,
}

/// `struct hvm_modlist_entry`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Module {
    paddr: U64,
    size: U64,
    cmdline_paddr: U64,
    reserved: U64,
}

/// `struct hvm_memmap_table_entry`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct MemmapEntry {
    addr: U64,
    size: U64,
    /// `type`.
    kind: U32,
    reserved: U32,
}

/// The start of the block behind the command line; the memory map follows.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Block {
    start_info: StartInfo,
    initrd: Module,
}
const START_INFO_LEN: u32 = 56;
const BLOCK_LEN: u32 = START_INFO_LEN + 32;
const MEMMAP_ENTRY_LEN: u32 = 24;
const _: () = {
    assert!(size_of::<StartInfo>() == START_INFO_LEN as usize);
    assert!(size_of::<Block>() == BLOCK_LEN as usize);
    assert!(size_of::<MemmapEntry>() == MEMMAP_ENTRY_LEN as usize);
};

/// Bytes of the block with this many map entries.
fn block_len(entries: usize) -> u32 {
    let entries = u32::try_from(entries).unwrap_or(u32::MAX);
    entries
        .saturating_mul(MEMMAP_ENTRY_LEN)
        .saturating_add(BLOCK_LEN)
}

/// An ELF image that QEMU has loaded.
#[derive(Debug)]
pub struct Pvh {
    /// Its 32-bit entry point.
    pub entry: u32,
    /// Who it is, by its notes.
    pub guest: Guest,
    /// From the first to the last byte that QEMU has loaded.
    pub span: PhysRange,
    pub(super) line: PhysRange,
    /// The block's memory, which is zero.
    block: PhysRange,
}

/// Reads the Xen notes; none are found where the firmware may not read.
fn read_notes<P: Platform>(platform: &mut P, range: PhysRange) -> Notes {
    let bytes = platform.bytes(range);
    bytes.map_or(Notes::default(), |bytes| Notes::read(bytes))
}

impl Pvh {
    /// Holds the memory that QEMU has loaded, and reads the command line. `first` has
    /// the image's first bytes; `scratch` has room for more. `None` if this is not an
    /// ELF file, even one whose first bytes are lost.
    ///
    /// # Errors
    /// [`Error::ElfWithoutPvh`], [`Error::KernelOverlapsFirmware`],
    /// [`Error::KernelTooBig`], [`Error::CommandLineTooLong`].
    pub fn claim<P: Platform>(
        loader: &mut Loader<'_, P>,
        first: &[u8],
        scratch: &mut [u8],
    ) -> Result<Option<Self>> {
        let is_elf = Elf::is_elf(first);
        let mut elf = None;
        if is_elf {
            elf = Elf::parse(first);
            if elf.is_none() && !Elf::has_headers(first) {
                let more = scratch.get_mut(..ELF_READ).ok_or(Error::TooManyFiles)?;
                loader.platform.read(item::SETUP_DATA, more)?;
                elf = Elf::parse(more);
            }
        }
        // QEMU before 8.0 gives an ELF file's first bytes from freed memory, which
        // other devices (virtio-net) may have overwritten. Its other items are right:
        // they show whether to believe the headers.
        let size = loader.platform.read_u32(item::KERNEL_SIZE)?;
        if let Some(elf) = &elf
            && elf.span.len() == size
        {
            let notes = read_notes(loader.platform, elf.notes);
            let entry = match notes.entry {
                Some(entry) => entry,
                None => loader.platform.read_u32(item::KERNEL_ENTRY)?,
            };
            // A kernel with a segment in low memory has others' memory between its
            // segments, so each is held. Others are held as one span.
            if elf.span.start() < layout::HIGH_RAM {
                let mut held = Ok(());
                let all = elf.loaded(|range| {
                    held = loader.hold_segment(range);
                    held.ok()
                });
                held?;
                all.ok_or(Error::ElfWithoutPvh)?;
            } else {
                loader.hold_segment(elf.span)?;
            }
            return Self::with(loader, entry, elf.guest(notes), elf.span).map(Some);
        }
        // Multiboot kernels have an entry too, but no setup data.
        let mut entry = 0;
        if loader.platform.read_u32(item::SETUP_SIZE)? == ELF_SETUP_SIZE {
            entry = loader.platform.read_u32(item::KERNEL_ENTRY)?;
        }
        if entry == 0 {
            return if is_elf {
                Err(Error::ElfWithoutPvh)
            } else {
                Ok(None)
            };
        }
        let start = loader.platform.read_u32(item::KERNEL_ADDR)?;
        let span = PhysRange::new(start, size);
        let span = span.ok_or_else(|| Error::KernelTooBig(loader.room(size)))?;
        let read = |range| read_notes(loader.platform, range);
        let guest = guest_by_remains(first, span, entry, read);
        loader.hold_segment(span)?;
        Self::with(loader, entry, guest, span).map(Some)
    }

    /// The rest of [`Pvh::claim`], once the segments are held.
    fn with<P: Platform>(
        loader: &mut Loader<'_, P>,
        entry: u32,
        guest: Guest,
        span: PhysRange,
    ) -> Result<Self> {
        if !loader.map.is_claimed(entry) {
            return Err(Error::ElfWithoutPvh);
        }
        let limit = match guest {
            Guest::Linux | Guest::Linux32 => LINUX_COMMAND_LINE,
            Guest::Other => MAX_COMMAND_LINE,
        };
        let (line, block) = loader.read_command_line(limit, block_len(USUAL_ENTRIES))?;
        Ok(Self {
            entry,
            guest,
            span,
            line,
            block,
        })
    }

    /// Loads the initrd and fills in `start_info`.
    ///
    /// # Errors
    /// [`Error::InitrdTooBig`].
    pub fn load<P: Platform>(&self, loader: &mut Loader<'_, P>, rsdp: u32) -> Result<Loaded> {
        let initrd = loader.load_initrd(u32::MAX, true)?;
        let mut block = self.block;
        let entries = loader.map.entries().len();
        if entries > USUAL_ENTRIES {
            block = loader.place_low(block_len(entries))?;
            loader.platform.clear(block)?;
        }
        let start = block.start();
        let modlist = start.saturating_add(START_INFO_LEN);
        let memmap = start.saturating_add(BLOCK_LEN);
        let wide = |value: u32| U64::new(value.into());

        let bytes = loader.platform.bytes(block)?;
        let (block, rest) = Block::mut_from_prefix(bytes).map_err(|_| Error::NotOurMemory)?;
        let info = &mut block.start_info;
        info.magic = START_INFO_MAGIC.into();
        info.version = 1.into();
        info.cmdline_paddr = wide(self.line.start());
        info.rsdp_paddr = wide(rsdp);
        info.memmap_paddr = wide(memmap);
        info.memmap_entries = u32::try_from(entries).unwrap_or(0).into();
        if !initrd.is_empty() {
            info.nr_modules = 1.into();
            info.modlist_paddr = wide(modlist);
            block.initrd.paddr = wide(initrd.start());
            block.initrd.size = wide(initrd.len());
        }
        let (slots, _) = <[MemmapEntry]>::mut_from_prefix_with_elems(rest, entries)
            .map_err(|_| Error::NotOurMemory)?;
        for (slot, entry) in slots.iter_mut().zip(loader.map.entries()) {
            slot.addr = entry.base().into();
            slot.size = entry.len().into();
            slot.kind = entry.kind().number().into();
        }
        let handoff = Handoff::Pvh {
            entry: self.entry,
            start_info: start,
        };
        Ok(Loaded { handoff, initrd })
    }
}
