//! ELF kernels: program headers and Xen notes.
//!
//! Specifications: System V ABI (fields have the names that they have there);
//! Xen `public/elfnote.h`.

use crate::phys::{PhysRange, align_up};
use crate::settings::policy::Guest;
use zerocopy::FromBytes;
use zerocopy::byteorder::little_endian::{U16, U32, U64};

const MAGIC: &[u8; 4] = b"\x7fELF";
/// `e_ident[EI_CLASS]`: 32 or 64 bits.
const CLASS_32: u8 = 1;
const CLASS_64: u8 = 2;
/// A loadable segment.
const PT_LOAD: u32 = 1;
/// Notes.
const PT_NOTE: u32 = 4;
/// `XEN_ELFNOTE_GUEST_OS`.
const NOTE_GUEST_OS: u32 = 6;
/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const NOTE_PHYS32_ENTRY: u32 = 18;
/// Bytes of notes that are searched; Linux has less than 1 KiB.
pub const MAX_NOTES: u32 = 64 << 10;

/// `Elf32_Ehdr`, up to the number of program headers.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Elf32Ehdr {
    e_ident: [u8; 16],
    e_type: U16,
    e_machine: U16,
    e_version: U32,
    e_entry: U32,
    e_phoff: U32,
    e_shoff: U32,
    e_flags: U32,
    e_ehsize: U16,
    e_phentsize: U16,
    e_phnum: U16,
}

/// `Elf64_Ehdr`, up to the number of program headers.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Elf64Ehdr {
    e_ident: [u8; 16],
    e_type: U16,
    e_machine: U16,
    e_version: U32,
    e_entry: U64,
    e_phoff: U64,
    e_shoff: U64,
    e_flags: U32,
    e_ehsize: U16,
    e_phentsize: U16,
    e_phnum: U16,
}

/// `Elf32_Phdr`.
#[derive(Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Elf32Phdr {
    p_type: U32,
    p_offset: U32,
    p_vaddr: U32,
    p_paddr: U32,
    p_filesz: U32,
    p_memsz: U32,
    p_flags: U32,
    p_align: U32,
}

/// `Elf64_Phdr`.
#[derive(Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Elf64Phdr {
    p_type: U32,
    p_flags: U32,
    p_offset: U64,
    p_vaddr: U64,
    p_paddr: U64,
    p_filesz: U64,
    p_memsz: U64,
    p_align: U64,
}

/// A program header of either class.
#[derive(Clone, Copy)]
struct Segment {
    p_type: u32,
    p_paddr: u32,
    p_filesz: u32,
    p_memsz: u32,
    /// Linked to the address that it is loaded to.
    is_identity: bool,
}

impl Elf32Phdr {
    fn segment(&self) -> Segment {
        Segment {
            p_type: self.p_type.get(),
            p_paddr: self.p_paddr.get(),
            p_filesz: self.p_filesz.get(),
            p_memsz: self.p_memsz.get(),
            is_identity: self.p_vaddr == self.p_paddr,
        }
    }
}

impl Elf64Phdr {
    /// `None` if it lies above 4 GiB.
    fn segment(&self) -> Option<Segment> {
        Some(Segment {
            p_type: self.p_type.get(),
            p_paddr: u32::try_from(self.p_paddr.get()).ok()?,
            p_filesz: u32::try_from(self.p_filesz.get()).ok()?,
            p_memsz: u32::try_from(self.p_memsz.get()).ok()?,
            is_identity: self.p_vaddr == self.p_paddr,
        })
    }
}

#[derive(Clone, Copy, Debug)]
enum Headers<'a> {
    Elf32(&'a [Elf32Phdr]),
    Elf64(&'a [Elf64Phdr]),
}

impl Headers<'_> {
    /// Calls `each` with every program header. Stops if it returns `None`, or if a
    /// header names memory above 4 GiB.
    fn visit(&self, mut each: impl FnMut(Segment) -> Option<()>) -> Option<()> {
        match self {
            Self::Elf32(headers) => headers.iter().try_for_each(|h| each(h.segment())),
            Self::Elf64(headers) => headers.iter().try_for_each(|h| each(h.segment()?)),
        }
    }
}

/// An ELF file's program headers, and the memory that they name.
#[derive(Clone, Copy, Debug)]
pub struct Elf<'a> {
    headers: Headers<'a>,
    /// From the first to the last byte of all loadable segments.
    pub span: PhysRange,
    /// The first notes; empty if there are none.
    pub notes: PhysRange,
}

impl<'a> Elf<'a> {
    /// Whether `image` starts as an ELF file does.
    #[must_use]
    pub fn is_elf(image: &[u8]) -> bool {
        image.starts_with(MAGIC)
    }

    /// Offset, size and number of the program headers.
    fn table(image: &[u8]) -> Option<(usize, usize, usize)> {
        let (offset, size, count) = match *image.get(4)? {
            CLASS_32 => {
                let (header, _) = Elf32Ehdr::ref_from_prefix(image).ok()?;
                let offset = header.e_phoff.get();
                (offset, header.e_phentsize, header.e_phnum)
            }
            CLASS_64 => {
                let (header, _) = Elf64Ehdr::ref_from_prefix(image).ok()?;
                let offset = u32::try_from(header.e_phoff.get()).ok()?;
                (offset, header.e_phentsize, header.e_phnum)
            }
            _ => return None,
        };
        let [size, count] = [size, count].map(|value| usize::from(value.get()));
        Some((offset as usize, size, count))
    }

    /// Whether all program headers of a longer file lie in `image`, its start.
    #[must_use]
    pub fn has_headers(image: &[u8]) -> bool {
        let Some((offset, size, count)) = Self::table(image) else {
            return false;
        };
        let end = size
            .checked_mul(count)
            .and_then(|len| len.checked_add(offset));
        end.is_some_and(|end| end <= image.len())
    }

    /// The headers of `image`; `None` if they do not all lie in it, or have no segment
    /// below 4 GiB.
    #[must_use]
    pub fn parse(image: &'a [u8]) -> Option<Self> {
        let (offset, size, count) = Self::table(image)?;
        let bytes = image.get(offset..)?;
        let headers = match size {
            _ if image.get(4) == Some(&CLASS_32) && size == size_of::<Elf32Phdr>() => {
                let (headers, _) = <[Elf32Phdr]>::ref_from_prefix_with_elems(bytes, count).ok()?;
                Headers::Elf32(headers)
            }
            _ if image.get(4) == Some(&CLASS_64) && size == size_of::<Elf64Phdr>() => {
                let (headers, _) = <[Elf64Phdr]>::ref_from_prefix_with_elems(bytes, count).ok()?;
                Headers::Elf64(headers)
            }
            _ => return None,
        };
        let (mut start, mut end) = (u32::MAX, 0);
        let mut notes = PhysRange::EMPTY;
        headers.visit(|segment| {
            if segment.p_type == PT_LOAD && segment.p_memsz != 0 {
                start = segment.p_paddr.min(start);
                end = segment.p_paddr.checked_add(segment.p_memsz)?.max(end);
            } else if segment.p_type == PT_NOTE && notes.is_empty() {
                let len = segment.p_filesz.min(MAX_NOTES);
                notes = PhysRange::new(segment.p_paddr, len).unwrap_or(PhysRange::EMPTY);
            }
            Some(())
        })?;
        Some(Self {
            headers,
            span: PhysRange::between(start, end)?,
            notes,
        })
    }

    /// Calls `each` with the memory of every loadable segment, until it returns `None`.
    pub fn loaded(&self, mut each: impl FnMut(PhysRange) -> Option<()>) -> Option<()> {
        self.headers.visit(|segment| {
            if segment.p_type != PT_LOAD || segment.p_memsz == 0 {
                return Some(());
            }
            each(PhysRange::new(segment.p_paddr, segment.p_memsz)?)
        })
    }

    /// Who the kernel is, by its `notes`. A 32-bit Linux is an ELF file of 32 bits that
    /// is linked to virtual addresses above its load address.
    #[must_use]
    pub fn guest(&self, notes: Notes) -> Guest {
        let is_32bit_linux = match self.headers {
            Headers::Elf32([first, ..]) => !first.segment().is_identity,
            _ => false,
        };
        notes.guest(is_32bit_linux)
    }
}

/// `Elf32_Nhdr`, which is `Elf64_Nhdr` too; name and descriptor follow, each
/// padded to four bytes.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Nhdr {
    n_namesz: U32,
    n_descsz: U32,
    n_type: U32,
}

/// What the Xen notes say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// The 32-bit physical entry point.
    pub entry: Option<u32>,
    /// Whether the guest calls itself Linux.
    pub is_linux: bool,
}

impl Notes {
    /// Reads the Xen notes among `bytes`.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Self {
        let mut found = Self::default();
        let mut rest = bytes;
        while let Ok((header, behind)) = Nhdr::ref_from_prefix(rest)
            && let Some((name, desc)) = behind.split_at_checked(padded(header.n_namesz))
        {
            if name == b"Xen\0" {
                match header.n_type.get() {
                    NOTE_PHYS32_ENTRY => {
                        let entry = desc.first_chunk().copied();
                        found.entry = entry.map(u32::from_le_bytes);
                    }
                    NOTE_GUEST_OS => found.is_linux = desc.starts_with(b"linux"),
                    _ => {}
                }
            }
            rest = desc.get(padded(header.n_descsz)..).unwrap_or(&[]);
        }
        found
    }

    const fn guest(self, is_32bit_linux: bool) -> Guest {
        match (self.is_linux, is_32bit_linux) {
            (true, true) => Guest::Linux32,
            (true, false) => Guest::Linux,
            (false, _) => Guest::Other,
        }
    }
}

/// The length, padded to four bytes. If it cannot be padded, it is longer than any
/// notes.
fn padded(len: U32) -> usize {
    align_up(len.get(), 4).map_or(usize::MAX, |len| len as usize)
}

/// Who an ELF kernel with partly overwritten headers is.
///
/// Searches `bytes`, the rest of the file's first bytes, for a program header of notes.
/// Believes it if its notes lie in `span`, which QEMU has loaded, and name the `entry`
/// that QEMU has found. `read` returns the notes in a range of memory.
pub fn guest_by_remains(
    bytes: &[u8],
    span: PhysRange,
    entry: u32,
    mut read: impl FnMut(PhysRange) -> Notes,
) -> Guest {
    for at in (0..bytes.len()).step_by(4) {
        let rest = bytes.get(at..).unwrap_or(&[]);
        let elf32 = Elf32Phdr::ref_from_prefix(rest).ok();
        let elf64 = Elf64Phdr::ref_from_prefix(rest).ok();
        let elf32 = elf32.map(|(header, _)| (header.segment(), true));
        let elf64 = elf64.and_then(|(header, _)| Some((header.segment()?, false)));
        for (segment, is_elf32) in elf32.into_iter().chain(elf64) {
            let len = segment.p_filesz.min(MAX_NOTES);
            let range = PhysRange::new(segment.p_paddr, len);
            let range = range.filter(|range| span.contains(*range));
            if segment.p_type == PT_NOTE
                && let Some(range) = range
            {
                let notes = read(range);
                if notes.entry == Some(entry) {
                    return notes.guest(is_elf32 && !segment.is_identity);
                }
            }
        }
    }
    Guest::Other
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// A program header: type, address, bytes in the file, bytes in memory.
    type Header = (u32, u64, u64, u64);

    /// The first bytes of a file with these headers at `at`.
    fn file(is_64: bool, at: usize, headers: &[Header]) -> Vec<u8> {
        let mut file = std::vec![0; at];
        file[..5].copy_from_slice(&[0x7f, b'E', b'L', b'F', 1 + u8::from(is_64)]);
        let (phoff, size, len) = if is_64 {
            (0x20, 0x36, 56)
        } else {
            (0x1c, 0x2a, 32)
        };
        file[phoff] = at as u8;
        file[size] = len;
        file[size + 2] = headers.len() as u8;
        for (kind, addr, in_file, in_memory) in headers {
            file.extend(kind.to_le_bytes());
            let fields = [0, *addr, *addr, *in_file, *in_memory];
            if is_64 {
                file.extend([0; 4]);
                file.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
            } else {
                file.extend(
                    fields
                        .iter()
                        .flat_map(|field| (*field as u32).to_le_bytes()),
                );
            }
            file.resize(file.len().next_multiple_of(8), 0);
            file.extend(std::vec![0; usize::from(len) - if is_64 { 48 } else { 24 }]);
        }
        file
    }

    fn range(range: PhysRange) -> (u64, u64) {
        (range.start().into(), range.end().into())
    }

    /// Every file of two headers with these fields: the span and each segment are what
    /// wider numbers say, and nothing above 4 GiB is taken for something below it.
    #[test]
    fn a_span_has_all_that_is_loaded_and_no_more() {
        const TOP: u64 = u32::MAX as u64;
        let kinds = [PT_LOAD, PT_NOTE, 2];
        let addrs = [0, 1, 0x10_0000, TOP - 1, TOP, TOP + 1];
        let sizes = [0, 1, 2, TOP, TOP + 1];
        let mut all = Vec::new();
        for kind in kinds {
            for addr in addrs {
                all.extend(sizes.map(|size| (kind, addr, 1, size)));
            }
        }
        for is_64 in [false, true] {
            let fit = |header: &&Header| is_64 || header.1 <= TOP && header.3 <= TOP;
            for one in all.iter().filter(fit) {
                for other in all.iter().filter(fit) {
                    let headers = [*one, *other];
                    let is_loaded = |h: &&Header| h.0 == PT_LOAD && h.3 != 0;
                    let loaded: Vec<_> = headers.iter().filter(is_loaded).collect();
                    let is_wide = |h: &Header| h.1 > TOP || h.3 > TOP;
                    let is_bad =
                        headers.iter().any(is_wide) || loaded.iter().any(|h| h.1 + h.3 > TOP);
                    let start = loaded.iter().map(|h| h.1).min();
                    let end = loaded.iter().map(|h| h.1 + h.3).max();
                    let expected = start.zip(end).filter(|_| !is_bad);
                    let file = file(is_64, 0x40, &headers);
                    let elf = Elf::parse(&file);
                    let span = elf.map(|elf| range(elf.span));
                    assert_eq!(span, expected, "{is_64} {headers:x?}");
                    let Some(elf) = elf else { continue };
                    let mut found = Vec::new();
                    let all = elf.loaded(|segment| {
                        found.push(range(segment));
                        Some(())
                    });
                    assert_eq!(all, Some(()));
                    let ends = |h: &&Header| (h.1, h.1 + h.3);
                    assert_eq!(found, loaded.iter().map(ends).collect::<Vec<_>>());
                    let notes = headers.iter().find(|h| h.0 == PT_NOTE);
                    let notes = notes.filter(|h| h.1 < TOP).map(|h| (h.1, h.1 + h.2));
                    let is_first = !elf.notes.is_empty();
                    assert_eq!(is_first.then(|| range(elf.notes)), notes, "{headers:x?}");
                }
            }
        }
    }

    /// Every start of a file, and every size and number of its headers.
    #[test]
    fn headers_are_read_if_all_are_there() {
        for is_64 in [false, true] {
            let len = if is_64 { 56 } else { 32 };
            let whole = file(is_64, 0x40, &[(PT_LOAD, 1, 1, 1), (PT_LOAD, 2, 2, 2)]);
            for end in 0..=whole.len() {
                let start = &whole[..end];
                assert_eq!(Elf::is_elf(start), end >= 4);
                let is_there = end >= 0x40 + 2 * len;
                assert_eq!(Elf::has_headers(start), is_there, "{is_64} {end:#x}");
                assert_eq!(Elf::parse(start).is_some(), is_there, "{is_64} {end:#x}");
            }
            let size = if is_64 { 0x36 } else { 0x2a };
            for given in 0..=u8::MAX {
                let mut file = whole.clone();
                file[size] = given;
                assert_eq!(Elf::parse(&file).is_some(), usize::from(given) == len);
                let fits = 0x40 + 2 * usize::from(given) <= file.len();
                assert_eq!(Elf::has_headers(&file), fits);
                let mut file = whole.clone();
                file[size + 2] = given;
                let count = usize::from(given);
                assert_eq!(Elf::parse(&file).is_some(), (1..3).contains(&count));
                let mut file = whole.clone();
                file[4] = given;
                let is_class = given == 1 + u8::from(is_64);
                assert_eq!(Elf::parse(&file).is_some(), is_class, "class {given}");
            }
        }
    }

    fn note(name: &[u8], desc: &[u8], kind: u32) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [name.len() as u32, desc.len() as u32, kind] {
            note.extend(word.to_le_bytes());
        }
        for part in [name, desc] {
            note.extend(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    #[test]
    fn notes_count_if_they_are_xens_and_whole() {
        let entry = note(b"Xen\0", &7_u32.to_le_bytes(), NOTE_PHYS32_ENTRY);
        let linux = note(b"Xen\0", b"linux", NOTE_GUEST_OS);
        let others = [
            note(b"GNU\0", &9_u32.to_le_bytes(), NOTE_PHYS32_ENTRY),
            note(b"Xen\0", b"x", NOTE_PHYS32_ENTRY + 1),
            note(b"longer name\0", b"12345", NOTE_GUEST_OS),
            note(b"", b"", 0),
        ];
        let found = |notes: &[&[u8]]| {
            let notes = Notes::read(&notes.concat());
            (notes.entry, notes.is_linux)
        };
        assert_eq!(found(&[]), (None, false));
        for other in &others {
            assert_eq!(found(&[other]), (None, false));
            assert_eq!(found(&[other, &entry, other, &linux]), (Some(7), true));
            assert_eq!(found(&[&linux, other, &entry]), (Some(7), true));
        }
        let other_guest = note(b"Xen\0", b"lin", NOTE_GUEST_OS);
        assert_eq!(found(&[&entry, &other_guest]), (Some(7), false));
        let short = note(b"Xen\0", &[1, 2, 3], NOTE_PHYS32_ENTRY);
        assert_eq!(
            found(&[&short])
                .0
                .filter(|entry| *entry & 0xff_ffff != 0x3_0201),
            None
        );
        // Lengths that no file has end the list.
        for at in [0, 4] {
            for len in [100, u32::MAX - 3, u32::MAX] {
                let mut bad = entry.clone();
                bad[at..at + 4].copy_from_slice(&len.to_le_bytes());
                assert!(!found(&[&bad, &linux]).1, "{at} {len:x}");
            }
        }
    }

    #[test]
    fn a_guest_is_known_by_its_notes_and_addresses() {
        let linux = Notes {
            entry: None,
            is_linux: true,
        };
        for (is_64, offset, guest) in [
            (false, 0, Guest::Linux),
            (false, 0xc0, Guest::Linux32),
            (true, 0, Guest::Linux),
            (true, 0xc0, Guest::Linux),
        ] {
            let mut file = file(is_64, 0x40, &[(PT_LOAD, 1, 1, 1)]);
            // The last byte of p_vaddr.
            file[0x40 + if is_64 { 23 } else { 11 }] = offset;
            let elf = Elf::parse(&file).unwrap();
            assert_eq!(elf.guest(linux), guest, "{is_64} {offset}");
            assert_eq!(elf.guest(Notes::default()), Guest::Other);
        }
    }

    /// A note's header that is left of a file is believed if its notes lie in what was
    /// loaded and give the entry that QEMU has found.
    #[test]
    fn remains_are_believed_if_their_notes_fit() {
        let span = PhysRange::fixed(0x1000, 0x2000);
        let guest = |is_64, header: Header, offset: u8, entry| {
            let mut bytes = file(is_64, 0x40, &[header]);
            bytes[..0x40].fill(0xff);
            bytes[0x40 + if is_64 { 23 } else { 11 }] = offset;
            guest_by_remains(&bytes, span, entry, |range| {
                assert!(span.contains(range), "{range:x?}");
                let is_notes = range.start() == 0x1800 || range.start() == 0x1fff;
                Notes {
                    entry: is_notes.then_some(7),
                    is_linux: true,
                }
            })
        };
        for is_64 in [false, true] {
            let linux32 = if is_64 { Guest::Linux } else { Guest::Linux32 };
            assert_eq!(guest(is_64, (PT_NOTE, 0x1800, 8, 8), 0, 7), Guest::Linux);
            assert_eq!(guest(is_64, (PT_NOTE, 0x1800, 8, 8), 0xc0, 7), linux32);
            for (header, entry) in [
                ((PT_NOTE, 0x1800, 8, 8), 8),
                ((PT_LOAD, 0x1800, 8, 8), 7),
                ((PT_NOTE, 0x1810, 8, 8), 7),
                ((PT_NOTE, 0x1fff, 2, 2), 7),
            ] {
                assert_eq!(guest(is_64, header, 0, entry), Guest::Other, "{header:x?}");
            }
        }
    }
}
