//! Unified kernel images: a bzImage, an initrd and a command line as sections of
//! one PE file.
//!
//! Specifications: UAPI group, "Unified Kernel Image"; Microsoft, "PE Format"
//! (fields have the names that they have there). Nothing is verified.

use super::Loader;
use super::bzimage::SetupHeader;
use super::image::{Extent, Image};
use crate::error::{Error, Result};
use crate::phys::copy_into;
use crate::platform::Platform;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

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
    /// The section table lies behind that header.
    size_of_optional_header: U16,
    characteristics: U16,
}

/// An entry of the section table.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SectionHeader {
    /// Eight characters as one number, which compares in fewer instructions.
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

/// Bytes that are read of a file's headers: 400 sections have room.
const HEADERS: u32 = 16 << 10;

impl SectionHeader {
    /// What the section has in the file. Its `virtual_size` does not count the
    /// padding to whole blocks; that of `.linux` may count more than is there.
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

/// The COFF header of a PE file that starts with `bytes`, and what follows it;
/// `None` if this is no PE file.
fn file_header(bytes: &[u8]) -> Option<(&FileHeader, &[u8])> {
    let (dos, _) = DosHeader::ref_from_prefix(bytes).ok()?;
    let header = bytes.get(dos.e_lfanew.get() as usize..)?;
    let (file, rest) = FileHeader::ref_from_prefix(header).ok()?;
    (file.signature == *b"PE\0\0").then_some((file, rest))
}

/// The section table in `rest`, which follows the COFF header; `None` if a part of
/// it is missing.
fn section_table<'a>(file: &FileHeader, rest: &'a [u8]) -> Option<&'a [SectionHeader]> {
    let table = rest.get(file.size_of_optional_header.get().into()..)?;
    let count = file.number_of_sections.get().into();
    let (sections, _) = <[SectionHeader]>::ref_from_prefix_with_elems(table, count).ok()?;
    Some(sections)
}

/// Finds the parts of a unified kernel image; `image` is the whole file before.
/// Those of the first profile count, and for what it has not, those before it,
/// which are for all profiles. Of two with a name, the first counts. They may
/// overlap: each is only read.
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

/// Finds the bzImage and what comes with it in a unified kernel image. `image` is
/// the whole file before; `first` gets the first bytes of the bzImage.
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
    // Linux looks for the next archive at a multiple of four. The section's padding
    // to a whole block is between them.
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
