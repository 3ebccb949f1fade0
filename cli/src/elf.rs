//! Sections and symbols of the firmware's ELF file.

use anyhow::Result;
use object::Endianness;
use object::elf::{SHF_ALLOC, SHT_NOBITS, STT_FUNC, STT_OBJECT, SectionFlags};
use object::read::elf::{ElfFile32, FileHeader, SectionHeader, Sym};

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
    let file = ElfFile32::<Endianness>::parse(elf)?;
    let header = file.elf_header();
    let endian = header.endian()?;
    let table = header.sections(endian, elf)?;
    let mut parts = Vec::new();
    for section in table.iter() {
        if section.sh_flags(endian) & SHF_ALLOC == SectionFlags(0) {
            continue;
        }
        let name = table.section_name(endian, section)?;
        parts.push(Part {
            name: String::from_utf8_lossy(name).into_owned(),
            addr: section.sh_addr(endian),
            len: section.sh_size(endian),
            in_image: section.sh_type(endian) != SHT_NOBITS,
        });
    }
    Ok(parts)
}

/// The functions and objects of the firmware `elf`, largest first.
///
/// # Errors
/// `elf` is not a 32-bit ELF file.
pub fn symbols(elf: &[u8]) -> Result<Vec<Part>> {
    let file = ElfFile32::<Endianness>::parse(elf)?;
    let endian = file.endian();
    let table = file.elf_symbol_table();
    let mut parts = Vec::new();
    for symbol in table.iter() {
        let kind = symbol.st_type();
        if (kind != STT_FUNC && kind != STT_OBJECT) || symbol.st_size(endian) == 0 {
            continue;
        }
        let name = table.symbol_name(endian, symbol)?;
        parts.push(Part {
            name: format!(
                "{:#}",
                rustc_demangle::demangle(&String::from_utf8_lossy(name))
            ),
            addr: symbol.st_value(endian),
            len: symbol.st_size(endian),
            in_image: true,
        });
    }
    parts.sort_by(|a, b| b.len.cmp(&a.len).then_with(|| a.addr.cmp(&b.addr)));
    Ok(parts)
}
