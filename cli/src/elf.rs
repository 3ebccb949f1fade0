//! Sections and symbols of the firmware's ELF file.

use anyhow::{Context, Result};
use elf::ElfBytes;
use elf::abi::{SHF_ALLOC, SHT_NOBITS, STT_FUNC, STT_OBJECT};
use elf::endian::LittleEndian;

/// A part of the image or of the memory that the firmware uses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Part {
    pub name: String,
    /// Address that the firmware runs it at.
    pub addr: u32,
    /// Size in bytes.
    pub len: u32,
    /// Whether it takes room in the image, unlike .bss.
    pub in_image: bool,
}

/// The sections of the firmware `elf`, in its order.
///
/// # Errors
/// `elf` is not a 32-bit ELF file.
pub fn sections(elf: &[u8]) -> Result<Vec<Part>> {
    let file = ElfBytes::<LittleEndian>::minimal_parse(elf)?;
    let (headers, names) = file.section_headers_with_strtab()?;
    let headers = headers.context("no sections")?;
    let names = names.context("no names of sections")?;
    let mut parts = Vec::new();
    for section in headers {
        if section.sh_flags & u64::from(SHF_ALLOC) == 0 {
            continue;
        }
        parts.push(Part {
            name: names.get(section.sh_name as usize)?.to_owned(),
            addr: u32::try_from(section.sh_addr)?,
            len: u32::try_from(section.sh_size)?,
            in_image: section.sh_type != SHT_NOBITS,
        });
    }
    Ok(parts)
}

/// Bytes of the image that its sections take.
pub fn used(sections: &[Part]) -> u32 {
    let inside = sections.iter().filter(|part| part.in_image);
    inside.map(|part| part.len).sum()
}

/// The functions and objects of the firmware `elf`, largest first.
///
/// # Errors
/// `elf` is not a 32-bit ELF file.
pub fn symbols(elf: &[u8]) -> Result<Vec<Part>> {
    let file = ElfBytes::<LittleEndian>::minimal_parse(elf)?;
    let (symbols, names) = file.symbol_table()?.context("no symbols")?;
    let mut parts = Vec::new();
    for symbol in symbols {
        let kind = symbol.st_symtype();
        if (kind != STT_FUNC && kind != STT_OBJECT) || symbol.st_size == 0 {
            continue;
        }
        let name = names.get(symbol.st_name as usize)?;
        parts.push(Part {
            name: format!("{:#}", rustc_demangle::demangle(name)),
            addr: u32::try_from(symbol.st_value)?,
            len: u32::try_from(symbol.st_size)?,
            in_image: true,
        });
    }
    parts.sort_by(|a, b| b.len.cmp(&a.len).then_with(|| a.addr.cmp(&b.addr)));
    Ok(parts)
}
