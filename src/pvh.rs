//! PVH: ELF kernels that QEMU has loaded, and their `start_info`.
//!
//! Specifications: Xen `docs/misc/pvh.pandoc` and
//! `public/arch-x86/hvm/start_info.h`; System V ABI for ELF.

use crate::e820::Entry;
use crate::error::{Error, Result};
use crate::phys::{GuestMemory, PhysRange, copy_at, u16_at, u32_at, u64_at};

/// `\x7fELF`.
const ELF_MAGIC: u32 = 0x464c_457f;
/// A loadable segment.
const PT_LOAD: u32 = 1;
/// Notes.
const PT_NOTE: u32 = 4;
/// `XEN_ELFNOTE_GUEST_OS`.
const NOTE_GUEST_OS: u32 = 6;
/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const NOTE_PHYS32_ENTRY: u32 = 18;
/// Bytes of notes that are looked at; Linux has below 1 KiB.
const MAX_NOTES: u32 = 64 << 10;

/// An ELF file's header and program headers.
#[derive(Clone, Copy, Debug)]
pub struct Elf<'a> {
    bytes: &'a [u8],
    is_64: bool,
    phoff: usize,
    phentsize: usize,
    phnum: u16,
}

/// One program header.
#[derive(Clone, Copy, Debug)]
struct Segment {
    kind: u32,
    paddr: u64,
    filesz: u64,
    memsz: u64,
}

/// What the notes say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// The 32-bit physical entry point.
    pub entry: Option<u32>,
    /// Whether the guest calls itself Linux.
    pub is_linux: bool,
}

impl<'a> Elf<'a> {
    /// Whether `image` starts as an ELF file does.
    #[must_use]
    pub fn is_elf(image: &[u8]) -> bool {
        u32_at(image, 0) == Some(ELF_MAGIC)
    }

    /// The headers of `image`; `None` when they do not all lie in it.
    #[must_use]
    pub fn parse(image: &'a [u8]) -> Option<Self> {
        let is_64 = match image.get(4)? {
            1 => false,
            2 => true,
            _ => return None,
        };
        let (phoff, phentsize, phnum) = if is_64 {
            (
                u32::try_from(u64_at(image, 0x20)?).ok()?,
                u16_at(image, 0x36)?,
                u16_at(image, 0x38)?,
            )
        } else {
            (
                u32_at(image, 0x1c)?,
                u16_at(image, 0x2a)?,
                u16_at(image, 0x2c)?,
            )
        };
        let least = if is_64 { 56 } else { 32 };
        if usize::from(phentsize) < least {
            return None;
        }
        let phoff = usize::try_from(phoff).ok()?;
        let len = usize::from(phentsize).checked_mul(usize::from(phnum))?;
        image.get(phoff..phoff.checked_add(len)?)?;
        Some(Self {
            bytes: image,
            is_64,
            phoff,
            phentsize: usize::from(phentsize),
            phnum,
        })
    }

    fn segments(&self) -> impl Iterator<Item = Segment> + use<'a> {
        let elf = *self;
        let headers = elf.bytes.get(elf.phoff..).unwrap_or(&[]);
        headers
            .chunks_exact(elf.phentsize)
            .take(usize::from(elf.phnum))
            .filter_map(move |header| elf.segment(header))
    }

    fn segment(&self, header: &[u8]) -> Option<Segment> {
        let kind = u32_at(header, 0)?;
        Some(if self.is_64 {
            Segment {
                kind,
                paddr: u64_at(header, 24)?,
                filesz: u64_at(header, 32)?,
                memsz: u64_at(header, 40)?,
            }
        } else {
            Segment {
                kind,
                paddr: u64::from(u32_at(header, 12)?),
                filesz: u64::from(u32_at(header, 16)?),
                memsz: u64::from(u32_at(header, 20)?),
            }
        })
    }

    /// Calls `each` with the memory of every loadable segment.
    ///
    /// # Errors
    /// [`Error::KernelTooBig`] when one passes 4 GiB, and what `each` says.
    pub fn loaded(&self, mut each: impl FnMut(PhysRange) -> Result<()>) -> Result<()> {
        for segment in self
            .segments()
            .filter(|s| s.kind == PT_LOAD && s.memsz != 0)
        {
            let start = u32::try_from(segment.paddr).map_err(|_| Error::KernelTooBig)?;
            let len = u32::try_from(segment.memsz).map_err(|_| Error::KernelTooBig)?;
            each(PhysRange::new(start, len).ok_or(Error::KernelTooBig)?)?;
        }
        Ok(())
    }

    /// From the first to the last byte of all loadable segments.
    #[must_use]
    pub fn span(&self) -> Option<PhysRange> {
        let mut span: Option<(u32, u32)> = None;
        self.loaded(|range| {
            let (start, end) = span.unwrap_or((range.start(), range.end()));
            span = Some((start.min(range.start()), end.max(range.end())));
            Ok(())
        })
        .ok()?;
        span.and_then(|(start, end)| PhysRange::between(start, end))
    }

    /// Reads the Xen notes where QEMU has loaded them.
    pub fn notes<M: GuestMemory>(&self, memory: &mut M) -> Notes {
        let mut found = Notes::default();
        for segment in self.segments().filter(|s| s.kind == PT_NOTE) {
            let range = u32::try_from(segment.paddr)
                .ok()
                .zip(u32::try_from(segment.filesz).ok());
            let range = range.and_then(|(start, len)| PhysRange::new(start, len.min(MAX_NOTES)));
            if let Some(bytes) = range.and_then(|range| memory.bytes(range).ok()) {
                read_notes(bytes, &mut found);
            }
        }
        found
    }
}

/// Reads the Xen notes among `bytes`: name size, descriptor size, type, then
/// both padded to four bytes.
fn read_notes(bytes: &[u8], found: &mut Notes) {
    let mut rest = bytes;
    while let Some((note, next)) = split_note(rest) {
        if note.name == b"Xen\0" {
            match note.kind {
                NOTE_PHYS32_ENTRY => found.entry = u32_at(note.desc, 0),
                NOTE_GUEST_OS => found.is_linux = note.desc.starts_with(b"linux"),
                _ => {}
            }
        }
        if found.is_linux && found.entry.is_some() {
            return;
        }
        rest = next;
    }
}

struct Note<'a> {
    kind: u32,
    name: &'a [u8],
    desc: &'a [u8],
}

fn split_note(bytes: &[u8]) -> Option<(Note<'_>, &[u8])> {
    let name_len = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let desc_len = usize::try_from(u32_at(bytes, 4)?).ok()?;
    let kind = u32_at(bytes, 8)?;
    let rest = bytes.get(12..)?;
    let (name, rest) = (
        rest.get(..name_len)?,
        rest.get(name_len.checked_next_multiple_of(4)?..)?,
    );
    let desc = rest.get(..desc_len)?;
    let next = desc_len
        .checked_next_multiple_of(4)
        .and_then(|len| rest.get(len..));
    Some((Note { kind, name, desc }, next.unwrap_or(&[])))
}

/// Bytes of `start_info`, version 1.
const START_INFO_LEN: u32 = 56;
/// Bytes of a module list entry.
const MODULE_LEN: u32 = 32;
/// Bytes of a memory map entry.
const MEMMAP_LEN: usize = 24;
/// `start_info.magic`.
const START_INFO_MAGIC: u32 = 0x336e_c578;

/// What `start_info` is filled from.
#[derive(Debug)]
pub struct StartInfo<'a> {
    /// Address of the NUL-terminated command line.
    pub cmdline_paddr: u32,
    /// The initrd, if there is one.
    pub initrd: Option<PhysRange>,
    /// RSDP's address, 0 without one.
    pub rsdp_paddr: u32,
    /// Memory map.
    pub e820: &'a [Entry],
}

impl StartInfo<'_> {
    /// Bytes of the block: `start_info`, one module, `entries` map entries.
    #[must_use]
    pub fn block_len(entries: usize) -> u32 {
        // Bounded by the map's capacity, so the product is small.
        let memmap = u32::try_from(entries.saturating_mul(MEMMAP_LEN)).unwrap_or(u32::MAX);
        memmap.saturating_add(START_INFO_LEN + MODULE_LEN)
    }

    /// Writes the block to `bytes`, which lies at `addr`.
    ///
    /// # Errors
    /// [`Error::NotOurMemory`] when `bytes` is shorter than
    /// [`StartInfo::block_len`].
    pub fn write(&self, bytes: &mut [u8], addr: u32) -> Result<()> {
        let modlist = addr.wrapping_add(START_INFO_LEN);
        let memmap = modlist.wrapping_add(MODULE_LEN);
        let entries = u32::try_from(self.e820.len()).unwrap_or(0);
        let (modules, modlist) = if self.initrd.is_some() {
            (1, modlist)
        } else {
            (0, 0)
        };
        let (start, len) = self.initrd.map_or((0, 0), |r| (r.start(), r.len()));
        let words = [
            // struct hvm_start_info
            START_INFO_MAGIC,
            1, // version
            0, // flags
            modules,
            modlist,
            0,
            self.cmdline_paddr,
            0,
            self.rsdp_paddr,
            0,
            memmap,
            0,
            entries,
            0,
            // struct hvm_modlist_entry: paddr, size, cmdline_paddr, reserved
            start,
            0,
            len,
            0,
            0,
            0,
            0,
            0,
        ];
        let (slots, _) = bytes.as_chunks_mut::<4>();
        for (slot, word) in slots.iter_mut().zip(words) {
            *slot = word.to_le_bytes();
        }
        let mut at = (START_INFO_LEN + MODULE_LEN) as usize;
        for entry in self.e820 {
            // struct hvm_memmap_table_entry: addr, size, type, reserved
            copy_at(bytes, at, &entry.base().to_le_bytes())?;
            copy_at(bytes, at.wrapping_add(8), &entry.len().to_le_bytes())?;
            copy_at(
                bytes,
                at.wrapping_add(16),
                &u64::from(entry.kind().number()).to_le_bytes(),
            )?;
            at = at.wrapping_add(MEMMAP_LEN);
        }
        Ok(())
    }
}
