//! What is in a ROM: its size by section and by symbol.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use object::Endianness;
use object::elf::{SHF_ALLOC, SHT_NOBITS, STT_FUNC, STT_OBJECT, SectionFlags};
use object::read::elf::{ElfFile32, FileHeader, SectionHeader, Sym};

use crate::build::ROM_SIZE;
use crate::workspace;

/// Where a ROM says which build it is: 64 bytes before the reset vector.
const IDENTITY: usize = 0x50;
/// Bytes of that place.
const IDENTITY_LEN: usize = 64;
/// What it begins with.
const SIGNATURE: &str = "qboot-rs";

/// Which build a ROM is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    pub version: String,
    /// Twelve digits of the commit's hash, and a plus where the source
    /// differed from it; `unknown` for a build from neither git nor an archive.
    pub commit: String,
    /// When that was committed, `YYYY-MM-DD`.
    pub date: String,
    pub features: Vec<String>,
}

impl Identity {
    /// Reads it from an image of any size; `None` where that is no ROM of ours.
    #[must_use]
    pub fn read(image: &[u8]) -> Option<Self> {
        let place = image.get(image.len().checked_sub(IDENTITY)?..)?;
        let text = place.get(..IDENTITY_LEN)?.split(|byte| *byte == 0).next()?;
        let mut words = std::str::from_utf8(text).ok()?.split(' ');
        if words.next()? != SIGNATURE {
            return None;
        }
        Some(Self {
            version: words.next()?.to_owned(),
            commit: words.next()?.to_owned(),
            date: words.next()?.to_owned(),
            features: words.map(str::to_owned).collect(),
        })
    }

    fn shown(&self) -> String {
        let source = match self.commit.strip_suffix('+') {
            Some(commit) => format!("{commit}, and changes to it"),
            None => self.commit.clone(),
        };
        let features = match self.features.as_slice() {
            [] => "none".to_owned(),
            some => some.join(", "),
        };
        let Self { version, date, .. } = self;
        format!("version  {version}\ncommit   {source}\ndate     {date}\nfeatures {features}\n")
    }
}

/// A part of the image or of the memory that the firmware uses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Part {
    pub name: String,
    /// Address that the firmware runs it at.
    pub addr: u32,
    /// Size in bytes.
    pub len: u32,
    /// Whether it takes room in the image; memory that is cleared does not.
    pub in_image: bool,
}

/// The sections of the firmware `elf`, in its order.
///
/// # Errors
/// When `elf` is no 32-bit ELF file.
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
/// When `elf` is no 32-bit ELF file.
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

/// Describes the ROM `image` and, where there is one, its ELF file `elf`: `count`
/// symbols of it.
///
/// # Errors
/// When a file cannot be read, or `elf` is no 32-bit ELF file.
pub fn shown(image: &Path, elf: Option<&Path>, count: usize) -> Result<String> {
    let bytes = fs::read(image).with_context(|| format!("reading {}", image.display()))?;
    let mut text = String::new();
    let _ = writeln!(text, "{}: {} bytes", image.display(), bytes.len());
    if bytes.len() != ROM_SIZE {
        let _ = writeln!(text, "  (a qboot ROM has {ROM_SIZE})");
    }
    match Identity::read(&bytes) {
        Some(identity) => text.push_str(&identity.shown()),
        None => text.push_str("(no qboot-rs: it does not say which build it is)\n"),
    }
    let _ = writeln!(text, "sha256   {}", workspace::sha256(&bytes));
    let Some(elf) = elf else {
        return Ok(text);
    };
    let bytes = fs::read(elf).with_context(|| format!("reading {}", elf.display()))?;
    let sections = sections(&bytes).with_context(|| format!("reading {}", elf.display()))?;
    let _ = writeln!(text, "\n{:>8}  {:>8}  section", "bytes", "address");
    for part in &sections {
        let memory = if part.in_image { "" } else { "  (memory only)" };
        let _ = writeln!(
            text,
            "{:>8}  {:>8x}  {}{memory}",
            part.len, part.addr, part.name
        );
    }
    let used: u32 = sections
        .iter()
        .filter(|part| part.in_image)
        .map(|part| part.len)
        .sum();
    let _ = writeln!(text, "{used:>8}            used of {ROM_SIZE}");
    let _ = writeln!(text, "\n{:>8}  {:>8}  symbol", "bytes", "address");
    for part in symbols(&bytes)?.iter().take(count) {
        let _ = writeln!(text, "{:>8}  {:>8x}  {}", part.len, part.addr, part.name);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(text: &str) -> Vec<u8> {
        let mut image = vec![0; ROM_SIZE];
        let at = ROM_SIZE - IDENTITY;
        image[at..at + text.len()].copy_from_slice(text.as_bytes());
        image
    }

    #[test]
    fn a_rom_says_which_build_it_is() {
        let found = Identity::read(&image("qboot-rs 1.2.3 0123456789ab+ 2026-01-02 markers"));
        let found = found.unwrap();
        assert_eq!(
            found.shown(),
            "version  1.2.3\ncommit   0123456789ab, and changes to it\n\
             date     2026-01-02\nfeatures markers\n"
        );
        let plain = Identity::read(&image("qboot-rs 1.2.3 0123456789ab 2026-01-02")).unwrap();
        assert!(plain.shown().ends_with("features none\n"));
    }

    #[test]
    fn other_images_are_no_rom_of_ours() {
        assert_eq!(Identity::read(&[]), None);
        assert_eq!(Identity::read(&[0xff; ROM_SIZE]), None);
        assert_eq!(Identity::read(&image("qboot-rs 1.2.3")), None);
        assert_eq!(
            Identity::read(&image("seabios 1.2.3 0123 2026-01-02")),
            None
        );
    }
}
