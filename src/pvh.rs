//! PVH: ELF kernels that QEMU has loaded, and their `start_info`.
//!
//! Specifications: Xen `docs/misc/pvh.pandoc` and
//! `public/arch-x86/hvm/start_info.h`; System V ABI for ELF.

use crate::e820::Entry;
use crate::error::{Error, Result};
use crate::phys::{GuestMemory, PhysRange, u16_at, u32_at, u64_at};
use crate::policy::Guest;
use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, transmute_ref};

/// `\x7fELF`.
const ELF_MAGIC: u32 = 0x464c_457f;
/// A loadable segment.
const PT_LOAD: u32 = 1;
/// Notes.
const PT_NOTE: u32 = 4;
/// The name of Xen's notes, with its NUL.
const XEN: u32 = u32::from_le_bytes(*b"Xen\0");
/// `XEN_ELFNOTE_GUEST_OS`.
const NOTE_GUEST_OS: u32 = 6;
/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const NOTE_PHYS32_ENTRY: u32 = 18;
/// Bytes of notes that are looked at; Linux has below 1 KiB.
const MAX_NOTES: u32 = 64 << 10;

/// An ELF file's program headers, and what they say together.
#[derive(Clone, Copy, Debug)]
pub struct Elf<'a> {
    headers: Headers<'a>,
    /// From the first to the last byte of all loadable segments.
    span: PhysRange,
    /// Where the first notes are.
    notes: PhysRange,
}

#[derive(Clone, Copy, Debug)]
enum Headers<'a> {
    Elf32(&'a [Header32]),
    Elf64(&'a [Header64]),
}

/// `Elf32_Phdr`.
#[derive(Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header32 {
    kind: U32,
    offset_vaddr: [U32; 2],
    paddr: U32,
    filesz: U32,
    memsz: U32,
    flags_align: [U32; 2],
}

/// `Elf64_Phdr`, its 64-bit fields as halves, the low one first.
#[derive(Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header64 {
    kind: U32,
    flags: U32,
    offset_vaddr: [U32; 4],
    paddr: [U32; 2],
    filesz: [U32; 2],
    memsz: [U32; 2],
    align: [U32; 2],
}

/// One program header; `None` where it names memory above 4 GiB.
#[derive(Clone, Copy)]
struct Segment {
    kind: u32,
    paddr: u32,
    filesz: u32,
    memsz: u32,
}

impl Header32 {
    #[inline]
    fn segment(&self) -> Option<Segment> {
        Some(Segment {
            kind: self.kind.get(),
            paddr: self.paddr.get(),
            filesz: self.filesz.get(),
            memsz: self.memsz.get(),
        })
    }
}

impl Header64 {
    #[inline]
    fn segment(&self) -> Option<Segment> {
        let [paddr, paddr_high] = self.paddr;
        let [filesz, filesz_high] = self.filesz;
        let [memsz, memsz_high] = self.memsz;
        if paddr_high.get() | filesz_high.get() | memsz_high.get() != 0 {
            return None;
        }
        Some(Segment {
            kind: self.kind.get(),
            paddr: paddr.get(),
            filesz: filesz.get(),
            memsz: memsz.get(),
        })
    }
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

    /// Whether all program headers of a longer file lie in `image`, its start.
    #[must_use]
    pub fn has_headers(image: &[u8]) -> bool {
        let Some((_, phoff, phentsize, phnum)) = Self::table(image) else {
            return false;
        };
        // Both factors have 16 bits.
        let len = u32::from(phentsize).wrapping_mul(phnum.into());
        phoff
            .checked_add(len)
            .is_some_and(|end| end as usize <= image.len())
    }

    /// Whether the file is one of 64 bits (`e_ident[EI_CLASS]`), and its program
    /// headers' offset, size and number: `e_phoff`, `e_phentsize`, `e_phnum`.
    #[inline(always)]
    fn table(image: &[u8]) -> Option<(bool, u32, u16, u16)> {
        match image.get(4)? {
            1 => Some((
                false,
                u32_at(image, 0x1c)?,
                u16_at(image, 0x2a)?,
                u16_at(image, 0x2c)?,
            )),
            2 => {
                let phoff = u32::try_from(u64_at(image, 0x20)?).ok()?;
                Some((true, phoff, u16_at(image, 0x36)?, u16_at(image, 0x38)?))
            }
            _ => None,
        }
    }

    /// The headers of `image`; `None` when they do not all lie in it, or say
    /// nothing of memory below 4 GiB.
    #[must_use]
    pub fn parse(image: &'a [u8]) -> Option<Self> {
        let (is_64, phoff, phentsize, phnum) = Self::table(image)?;
        let (headers, count) = (image.get(phoff as usize..)?, usize::from(phnum));
        let mut sum = Sum {
            start: u32::MAX,
            end: 0,
            notes: None,
        };
        let headers = match (is_64, phentsize) {
            (false, 32) => {
                let (headers, _) = <[Header32]>::ref_from_prefix_with_elems(headers, count).ok()?;
                headers.iter().try_for_each(|h| sum.add(h.segment()))?;
                Headers::Elf32(headers)
            }
            (true, 56) => {
                let (headers, _) = <[Header64]>::ref_from_prefix_with_elems(headers, count).ok()?;
                headers.iter().try_for_each(|h| sum.add(h.segment()))?;
                Headers::Elf64(headers)
            }
            _ => return None,
        };
        Some(Self {
            headers,
            span: PhysRange::between(sum.start, sum.end)?,
            notes: sum.notes.unwrap_or(PhysRange::fixed(0, 0)),
        })
    }

    /// From the first to the last byte of all loadable segments.
    #[must_use]
    pub const fn span(&self) -> PhysRange {
        self.span
    }

    /// Calls `each` with the memory of every loadable segment.
    ///
    /// # Errors
    /// [`Error::KernelTooBig`] when one passes 4 GiB, and what `each` says.
    #[cold]
    pub fn loaded(&self, mut each: impl FnMut(PhysRange) -> Result<()>) -> Result<()> {
        let mut visit = |segment: Option<Segment>| {
            let segment = segment.ok_or(Error::KernelTooBig)?;
            if segment.kind != PT_LOAD || segment.memsz == 0 {
                return Ok(());
            }
            each(PhysRange::new(segment.paddr, segment.memsz).ok_or(Error::KernelTooBig)?)
        };
        match self.headers {
            Headers::Elf32(headers) => headers.iter().try_for_each(|h| visit(h.segment())),
            Headers::Elf64(headers) => headers.iter().try_for_each(|h| visit(h.segment())),
        }
    }

    /// Who the kernel is, by its `notes`. A 32-bit Linux is an ELF of 32 bits
    /// that is linked to virtual addresses above those it is loaded to.
    #[inline(always)]
    #[must_use]
    pub fn guest(&self, notes: Notes) -> Guest {
        let is_virtual = match self.headers {
            Headers::Elf32([first, ..]) => {
                let [_, vaddr] = &first.offset_vaddr;
                *vaddr != first.paddr
            }
            _ => false,
        };
        match notes.is_linux {
            true if is_virtual => Guest::Linux32,
            true => Guest::Linux,
            false => Guest::Other,
        }
    }

    /// Reads the Xen notes where QEMU has loaded them.
    #[inline(always)]
    pub fn notes<M: GuestMemory>(&self, memory: &mut M) -> Notes {
        let bytes = memory.bytes_inline(self.notes);
        bytes.map_or(Notes::default(), |bytes| read_notes(bytes))
    }
}

/// What the headers say together.
struct Sum {
    start: u32,
    end: u32,
    notes: Option<PhysRange>,
}

impl Sum {
    #[inline]
    fn add(&mut self, segment: Option<Segment>) -> Option<()> {
        let segment = segment?;
        if segment.kind == PT_LOAD && segment.memsz != 0 {
            self.start = self.start.min(segment.paddr);
            self.end = self.end.max(segment.paddr.checked_add(segment.memsz)?);
        } else if segment.kind == PT_NOTE && self.notes.is_none() {
            self.notes = PhysRange::new(segment.paddr, segment.filesz.min(MAX_NOTES));
        }
        Some(())
    }
}

/// Who an ELF kernel is whose headers are partly overwritten.
///
/// Looks at `bytes`, what is left of the file's first ones, for a program
/// header of notes, and believes it when its notes lie in `span`, what QEMU has
/// loaded, and give the `entry` that QEMU has found.
#[cold]
pub fn guest_by_remains<M: GuestMemory>(
    bytes: &[u8],
    span: PhysRange,
    entry: u32,
    memory: &mut M,
) -> Guest {
    for at in (0..bytes.len()).step_by(4) {
        if u32_at(bytes, at) != Some(PT_NOTE) {
            continue;
        }
        // Where physical address and file size lie in 32 and in 64 bits.
        for (paddr, filesz) in [(12, 16), (24, 32)] {
            let start = u32_at(bytes, at.saturating_add(paddr));
            let len = u32_at(bytes, at.saturating_add(filesz));
            let range = start
                .zip(len)
                .and_then(|(start, len)| PhysRange::new(start, len.min(MAX_NOTES)))
                .filter(|range| span.contains(*range));
            let notes = range.and_then(|range| memory.bytes(range).ok());
            let found = notes.map_or(Notes::default(), |notes| read_notes(notes));
            if found.entry == Some(entry) {
                let vaddr = u32_at(bytes, at.saturating_add(8));
                return match found.is_linux {
                    true if paddr == 12 && vaddr != start => Guest::Linux32,
                    true => Guest::Linux,
                    false => Guest::Other,
                };
            }
        }
    }
    Guest::Other
}

/// `Elf32_Nhdr`, which is `Elf64_Nhdr` too; name and descriptor follow, each
/// padded to four bytes.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct NoteHeader {
    name_len: U32,
    desc_len: U32,
    kind: U32,
}

/// Reads the Xen notes among `bytes`, at most [`MAX_NOTES`].
#[inline(never)]
fn read_notes(bytes: &[u8]) -> Notes {
    let mut found = Notes::default();
    let mut rest = bytes;
    while let Ok((header, behind)) = NoteHeader::ref_from_prefix(rest) {
        let (name_len, desc_len) = (header.name_len.get(), header.desc_len.get());
        if name_len > MAX_NOTES || desc_len > MAX_NOTES {
            break;
        }
        let Some(desc_on) = behind.get(padded(name_len)..) else {
            break;
        };
        if name_len == 4 && u32_at(behind, 0) == Some(XEN) {
            let desc = desc_on.get(..desc_len as usize).unwrap_or(&[]);
            match header.kind.get() {
                NOTE_PHYS32_ENTRY => found.entry = u32_at(desc, 0),
                NOTE_GUEST_OS => found.is_linux = desc.starts_with(b"linux"),
                _ => {}
            }
            if found.is_linux && found.entry.is_some() {
                break;
            }
        }
        let Some(next) = desc_on.get(padded(desc_len)..) else {
            break;
        };
        rest = next;
    }
    found
}

/// `len` and its padding to four bytes; `len` is small.
const fn padded(len: u32) -> usize {
    (len.wrapping_add(3) & !3) as usize
}

/// A 64-bit field that holds less than 4 GiB.
type Wide = [U32; 2];

/// The value in a 64-bit field.
fn wide(value: u32) -> Wide {
    [U32::new(value), U32::ZERO]
}

/// `struct hvm_start_info`, version 1.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: U32,
    version: U32,
    flags: U32,
    nr_modules: U32,
    modlist_paddr: Wide,
    cmdline_paddr: Wide,
    rsdp_paddr: Wide,
    memmap_paddr: Wide,
    memmap_entries: U32,
    reserved: U32,
}

/// `struct hvm_modlist_entry`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Module {
    paddr: Wide,
    size: Wide,
    cmdline_paddr: Wide,
    reserved: Wide,
}

/// What the block starts with.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    header: Header,
    module: Module,
}

/// `struct hvm_memmap_table_entry` in words: address, size and type as an E820
/// entry has them, and a reserved one.
type MemmapEntry = [U32; 6];

/// Bytes of `start_info`, version 1.
const START_INFO_LEN: u32 = 56;
/// Bytes of a module list entry.
const MODULE_LEN: u32 = 32;
const _: () = {
    assert!(size_of::<Header>() == START_INFO_LEN as usize);
    assert!(size_of::<Module>() == MODULE_LEN as usize);
};
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
        let memmap =
            u32::try_from(entries.saturating_mul(size_of::<MemmapEntry>())).unwrap_or(u32::MAX);
        memmap.saturating_add(START_INFO_LEN + MODULE_LEN)
    }

    /// Writes the block to `bytes`, which lies at `addr` and is zero.
    ///
    /// # Errors
    /// [`Error::NotOurMemory`] when `bytes` is shorter than
    /// [`StartInfo::block_len`].
    pub fn write(&self, bytes: &mut [u8], addr: u32) -> Result<()> {
        let modlist = addr.wrapping_add(START_INFO_LEN);
        let memmap = modlist.wrapping_add(MODULE_LEN);
        let entries = u32::try_from(self.e820.len()).unwrap_or(0);
        let (head, rest) = Head::mut_from_prefix(bytes).map_err(|_| Error::NotOurMemory)?;
        let header = &mut head.header;
        header.magic = START_INFO_MAGIC.into();
        header.version = 1.into();
        header.cmdline_paddr = wide(self.cmdline_paddr);
        header.rsdp_paddr = wide(self.rsdp_paddr);
        header.memmap_paddr = wide(memmap);
        header.memmap_entries = entries.into();
        if let Some(initrd) = self.initrd {
            header.nr_modules = 1.into();
            header.modlist_paddr = wide(modlist);
            head.module.paddr = wide(initrd.start());
            head.module.size = wide(initrd.len());
        }
        let (slots, _) = <[MemmapEntry]>::mut_from_prefix_with_elems(rest, self.e820.len())
            .map_err(|_| Error::NotOurMemory)?;
        for (slot, entry) in slots.iter_mut().zip(self.e820) {
            // In parts: copied whole, each would be a call.
            let words: &[U32; 5] = transmute_ref!(entry);
            let ([a, b, c, d, e], [to_a, to_b, to_c, to_d, to_e, _]) = (words, slot);
            (*to_a, *to_b) = (*a, *b);
            (*to_c, *to_d) = (*c, *d);
            *to_e = *e;
        }
        Ok(())
    }
}
