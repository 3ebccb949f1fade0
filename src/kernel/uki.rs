//! Unified kernel images: a bzImage, an initrd and a command line as sections of
//! one PE file.
//!
//! Specifications: UAPI group, "Unified Kernel Image"; Microsoft, "PE Format"
//! (fields have the names that they have there). Nothing is verified.

use super::Loader;
use super::image::{Extent, Image};
use super::setup_header::SetupHeader;
use crate::error::{Error, Result};
use crate::phys::copy_into;
use crate::platform::Platform;
use zerocopy::FromBytes;
use zerocopy::byteorder::little_endian::{U16, U32, U64};

/// The MS-DOS header.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DosHeader {
    e_magic: [u8; 2],
    _program: [u8; 0x3a],
    /// Where the signature is.
    e_lfanew: U32,
}

/// Signature and COFF file header.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct FileHeader {
    signature: [u8; 4],
    machine: U16,
    number_of_sections: U16,
    time_date_stamp: U32,
    pointer_to_symbol_table: U32,
    number_of_symbols: U32,
    /// Bytes of that header, behind which the section table lies.
    size_of_optional_header: U16,
    characteristics: U16,
}

/// An entry of the section table.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SectionHeader {
    /// Eight characters as one number.
    name: U64,
    virtual_size: U32,
    virtual_address: U32,
    size_of_raw_data: U32,
    pointer_to_raw_data: U32,
    pointer_to_relocations: U32,
    pointer_to_linenumbers: U32,
    number_of_relocations: U16,
    number_of_linenumbers: U16,
    characteristics: U32,
}
const _: () = {
    assert!(size_of::<DosHeader>() == 0x40);
    assert!(size_of::<FileHeader>() == 24);
    assert!(size_of::<SectionHeader>() == 40);
};

/// `machine` of programs for x86, with 32 bits and with 64.
const MACHINES: [u16; 2] = [0x14c, 0x8664];

/// Names of sections.
const LINUX: u64 = u64::from_le_bytes(*b".linux\0\0");
const CMDLINE: u64 = u64::from_le_bytes(*b".cmdline");
const UCODE: u64 = u64::from_le_bytes(*b".ucode\0\0");
const INITRD: u64 = u64::from_le_bytes(*b".initrd\0");
/// Begins the sections of a profile.
const PROFILE: u64 = u64::from_le_bytes(*b".profile");

/// Bytes of headers that are read, with room for 400 sections.
const HEADERS: u32 = 16 << 10;

impl SectionHeader {
    /// The section's bytes in the file. `virtual_size` leaves out the padding to whole
    /// blocks, but may be larger than the bytes that are there, as for `.linux`.
    fn extent(&self, file_len: u32) -> Result<Extent> {
        let raw = self.size_of_raw_data.get();
        let len = match self.virtual_size.get() {
            0 => raw,
            len => len.min(raw),
        };
        let offset = self.pointer_to_raw_data.get();
        match offset.checked_add(len) {
            Some(end) if end <= file_len => Ok(Extent { offset, len }),
            _ => Err(Error::KernelTruncated),
        }
    }
}

/// The COFF header of a PE file that starts with `bytes`, and the bytes behind it;
/// `None` if this is not a PE file.
fn file_header(bytes: &[u8]) -> Option<(&FileHeader, &[u8])> {
    let (dos, _) = DosHeader::ref_from_prefix(bytes).ok()?;
    let header = bytes.get(dos.e_lfanew.get() as usize..)?;
    let (file, rest) = FileHeader::ref_from_prefix(header).ok()?;
    (file.signature == *b"PE\0\0").then_some((file, rest))
}

/// The section table in `rest`, the bytes behind the COFF header; `None` if a part is
/// missing.
fn section_table<'a>(file: &FileHeader, rest: &'a [u8]) -> Option<&'a [SectionHeader]> {
    let table = rest.get(file.size_of_optional_header.get().into()..)?;
    let count = file.number_of_sections.get().into();
    let (sections, _) = <[SectionHeader]>::ref_from_prefix_with_elems(table, count).ok()?;
    Some(sections)
}

/// Finds the parts of a unified kernel image. On entry `image` is the whole file. The
/// sections before the first profile are for all profiles; those of the first profile
/// replace them. Of two with the same name the first counts. Sections may overlap,
/// since they are only read.
fn find_parts(sections: &[SectionHeader], image: &mut Image) -> Result<()> {
    let file_len = image.linux.len;
    image.linux = Extent::default();
    let (mut profiles, mut seen) = (0_u8, 0_u8);
    for section in sections {
        let (bit, part) = match section.name.get() {
            PROFILE if profiles == 1 => break,
            PROFILE => {
                (profiles, seen) = (1, 0);
                continue;
            }
            LINUX => (1, &mut image.linux),
            CMDLINE => (2, &mut image.cmdline),
            UCODE => (4, &mut image.ucode),
            INITRD => (8, &mut image.initrd),
            _ => continue,
        };
        if seen & bit == 0 {
            seen |= bit;
            *part = section.extent(file_len)?;
        }
    }
    Ok(())
}

/// Finds the bzImage and the other parts of a unified kernel image. On entry `image` is
/// the whole file. `first` gets the first bytes of the bzImage.
///
/// # Errors
/// [`Error::KernelIsPe`], [`Error::KernelForOtherMachine`], [`Error::BadUki`],
/// [`Error::KernelTruncated`].
pub(super) fn find<P: Platform>(
    loader: &mut Loader<'_, P>,
    image: &mut Image,
    first: &mut [u8],
) -> Result<()> {
    let block = loader.place_low(HEADERS)?;
    image.load_setup(loader, block)?;
    let (file, rest) = file_header(loader.platform.bytes(block)?).ok_or(Error::BadUki)?;
    if !MACHINES.contains(&file.machine.get()) {
        return Err(Error::KernelForOtherMachine);
    }
    let sections = section_table(file, rest).ok_or(Error::BadUki)?;
    find_parts(sections, image)?;
    if image.linux.len == 0 {
        return Err(Error::KernelIsPe);
    }
    image.is_unified = true;
    // Linux looks for the next archive at a multiple of four. The section's padding,
    // which is zero, fills the gap.
    image.ucode.len = image.ucode.len.saturating_add(3) & !3;
    image.load_setup(loader, block)?;
    let start = loader.platform.bytes(block)?.get(..first.len());
    copy_into(first, start.ok_or(Error::NotOurMemory)?)?;
    if SetupHeader::is_in(first) {
        Ok(())
    } else {
        Err(Error::BadUki)
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::phys::u32_at;
    use std::vec::Vec;
    use zerocopy::FromZeros;

    fn section(name: u64, virtual_size: u32, raw: u32, offset: u32) -> SectionHeader {
        let mut section = SectionHeader::new_zeroed();
        section.name = name.into();
        section.virtual_size = virtual_size.into();
        section.size_of_raw_data = raw.into();
        section.pointer_to_raw_data = offset.into();
        section
    }

    /// Every section with these sizes lies in its file, or is refused.
    #[test]
    fn an_extent_lies_in_the_file() {
        let some = [0, 1, 2, 3, 4, u32::MAX - 1, u32::MAX];
        for (virtual_size, raw) in some.into_iter().flat_map(|a| some.map(|b| (a, b))) {
            for (offset, file_len) in some.into_iter().flat_map(|a| some.map(|b| (a, b))) {
                let extent = section(LINUX, virtual_size, raw, offset).extent(file_len);
                let len = if virtual_size == 0 {
                    raw
                } else {
                    raw.min(virtual_size)
                };
                let fits = u64::from(offset) + u64::from(len) <= file_len.into();
                let expected = fits.then_some(Extent { offset, len });
                assert_eq!(extent, expected.ok_or(Error::KernelTruncated));
            }
        }
    }

    /// Every table of five sections with these names.
    #[test]
    fn the_first_profile_counts_and_what_is_before_it() {
        const NAMES: [u64; 6] = [LINUX, CMDLINE, UCODE, INITRD, PROFILE, 0];
        for table in 0..NAMES.len().pow(5) {
            let names: Vec<u64> = (0..5)
                .map(|at| NAMES[table / NAMES.len().pow(at) % NAMES.len()])
                .collect();
            // The place in the file tells which one it was.
            let sections = names.iter().zip(1..);
            let sections: Vec<_> = sections
                .map(|(name, at)| section(*name, 1, 1, at))
                .collect();
            let mut image = Image::plain(0, 100);
            assert_eq!(find_parts(&sections, &mut image), Ok(()));
            let mut profiles = names.split(|name| *name == PROFILE);
            let base = profiles.next().unwrap();
            let first = profiles.next().unwrap_or(&[]);
            let expected = |name: u64| {
                let of = |part: &[u64]| part.iter().position(|own| *own == name);
                let in_first = of(first).map(|at| base.len() + 1 + at);
                in_first.or(of(base)).map_or(0, |at| at as u32 + 1)
            };
            for (part, name) in [
                (image.linux, LINUX),
                (image.cmdline, CMDLINE),
                (image.ucode, UCODE),
                (image.initrd, INITRD),
            ] {
                let offset = expected(name);
                assert_eq!(part.offset, offset, "{names:x?} {name:x}");
                assert_eq!(part.len, u32::from(offset != 0));
            }
        }
    }

    /// Every start of a file, and headers at every place in it and outside.
    #[test]
    fn headers_are_read_if_all_are_there() {
        let whole = crate::sim::uki(0, &[(".linux", b"x"), (".initrd", b"y")]);
        // Section headers follow the optional header.
        let table = 0x80 + 24 + 0xf0;
        for end in 0..=table + 100 {
            let header = file_header(&whole[..end]);
            assert_eq!(header.is_some(), end >= 0x98, "{end:#x}");
            let sections = header.and_then(|(file, rest)| section_table(file, rest));
            assert_eq!(sections.is_some(), end >= table + 80, "{end:#x}");
        }
        let beyond = [0, 1, 3, 4, 0x18, 0x7fff_ffff, 0x8000_0000].map(|n| u32::MAX - n);
        for at in (0..whole.len() as u32 + 4).chain(beyond) {
            let mut file = whole.clone();
            file[0x3c..0x40].copy_from_slice(&at.to_le_bytes());
            let is_there = u32_at(&file, at as usize) == Some(u32::from_le_bytes(*b"PE\0\0"));
            assert_eq!(file_header(&file).is_some(), is_there, "{at:#x}");
        }
        let (file, rest) = file_header(&whole).unwrap();
        let names: Vec<_> = section_table(file, rest).unwrap().iter().collect();
        assert_eq!(names.len(), 2);
        assert_eq!((names[0].name.get(), names[1].name.get()), (LINUX, INITRD));
    }
}
