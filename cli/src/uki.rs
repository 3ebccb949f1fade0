//! Unified kernel images: the sections of such a PE file.
//!
//! UAPI group, "Unified Kernel Image". Like the firmware, this takes the sections of
//! the first profile, and verifies nothing.

use anyhow::{Context, Result};

/// A section of a PE file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Section<'a> {
    pub name: String,
    pub content: &'a [u8],
}

/// A PE file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pe<'a> {
    /// The PE file's number of its processor.
    pub machine: u16,
    pub sections: Vec<Section<'a>>,
}

/// `machine` of programs for x86, with 32 bits and with 64.
const X86: [u16; 2] = [0x14c, 0x8664];
/// Bytes from a PE file's signature to its optional header.
const HEADER_LEN: usize = 24;
/// Bytes of an entry in the section table.
const ENTRY_LEN: usize = 40;

impl<'a> Pe<'a> {
    /// `None` if `file` is not a PE file.
    ///
    /// # Errors
    /// Its headers or sections lie outside the file.
    pub fn read(file: &'a [u8]) -> Result<Option<Self>> {
        let Some(at) = signature(file) else {
            return Ok(None);
        };
        let count = half(file, at + 6).context("the PE header is cut short")?;
        let optional = half(file, at + 20).context("the PE header is cut short")?;
        let table = at + HEADER_LEN + usize::from(optional);
        let table = file.get(table..table + ENTRY_LEN * usize::from(count));
        let table = table.context("the PE file's section table lies outside the file")?;
        let mut sections = Vec::new();
        for entry in table.chunks_exact(ENTRY_LEN) {
            let name = String::from_utf8_lossy(&entry[..8]);
            let name = name.trim_end_matches('\0').to_owned();
            let field = |at| word(entry, at).unwrap_or_default() as usize;
            let (in_memory, raw, offset) = (field(8), field(16), field(20));
            let len = if in_memory == 0 {
                raw
            } else {
                raw.min(in_memory)
            };
            let content = file
                .get(offset..offset + len)
                .with_context(|| format!("section {name} lies outside the file; is it whole?"))?;
            sections.push(Section { name, content });
        }
        let machine = half(file, at + 4).unwrap_or_default();
        Ok(Some(Self { machine, sections }))
    }

    /// Whether it is a program for x86.
    #[must_use]
    pub fn is_for_x86(&self) -> bool {
        X86.contains(&self.machine)
    }

    /// The content of the section `name`: the first profile's own, or that of all.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&'a [u8]> {
        let mut groups = self.sections.split(|section| section.name == ".profile");
        let (all, own) = (groups.next()?, groups.next().unwrap_or_default());
        let found = own.iter().chain(all).find(|section| section.name == name)?;
        Some(found.content)
    }

    /// The kernel's command line; empty without one.
    #[must_use]
    pub fn command_line(&self) -> String {
        let text = self.section(".cmdline").unwrap_or_default();
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = String::from_utf8_lossy(text);
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The initrd, with microcode before it; `None` without either.
    #[must_use]
    pub fn initrd(&self) -> Option<Vec<u8>> {
        let [ucode, initrd] = [".ucode", ".initrd"].map(|name| self.section(name));
        if ucode.is_none() && initrd.is_none() {
            return None;
        }
        let mut bytes = ucode.unwrap_or_default().to_vec();
        // Linux looks for the next archive at a multiple of four.
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(initrd.unwrap_or_default());
        Some(bytes)
    }
}

/// Where the signature of a PE file is.
fn signature(file: &[u8]) -> Option<usize> {
    let at = word(file, 0x3c)? as usize;
    let is_pe = file.starts_with(b"MZ") && file.get(at..at + 4)? == b"PE\0\0";
    is_pe.then_some(at)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let (head, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u16::from_le_bytes(*head))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let (head, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u32::from_le_bytes(*head))
}

/// A PE file for `machine` with these sections, each in whole blocks.
#[must_use]
pub fn build(machine: u16, sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut file = vec![0; 0x80 + HEADER_LEN];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &0x80_u32.to_le_bytes());
    put(0x80, b"PE\0\0");
    put(0x84, &machine.to_le_bytes());
    put(0x86, &(sections.len() as u16).to_le_bytes());
    let block = |len: usize| len.next_multiple_of(512);
    let start = block(file.len() + ENTRY_LEN * sections.len());
    let mut at = start;
    for (name, content) in sections {
        let mut entry = [0; ENTRY_LEN];
        entry[..name.len()].copy_from_slice(name.as_bytes());
        let fields = [content.len(), at, block(content.len()), at];
        for (slot, field) in entry[8..].chunks_mut(4).zip(fields) {
            slot.copy_from_slice(&(field as u32).to_le_bytes());
        }
        file.extend(entry);
        at += block(content.len());
    }
    file.resize(start, 0);
    for (_, content) in sections {
        file.extend(*content);
        file.resize(block(file.len()), 0);
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_of_the_first_profile_count() {
        let file = build(
            X86[1],
            &[
                (".linux", b"kernel"),
                (".cmdline", b"all"),
                (".ucode", b"12345"),
                (".initrd", b"initrd"),
                (".profile", b"ID=a"),
                (".cmdline", b" root=/dev/vda\n quiet\n"),
                (".profile", b"ID=b"),
                (".cmdline", b"other"),
                (".linux", b"other"),
            ],
        );
        let pe = Pe::read(&file).unwrap().unwrap();
        assert!(pe.is_for_x86());
        assert_eq!(pe.section(".linux"), Some(&b"kernel"[..]));
        assert_eq!(pe.command_line(), "root=/dev/vda quiet");
        assert_eq!(pe.initrd().unwrap(), b"12345\0\0\0initrd");
    }

    #[test]
    fn what_is_no_pe_file_or_is_cut_short_is_told() {
        assert_eq!(Pe::read(b"MZ").unwrap(), None);
        assert_eq!(Pe::read(&[0; 4096]).unwrap(), None);
        let file = build(0xaa64, &[(".text", &[1; 700])]);
        assert!(!Pe::read(&file).unwrap().unwrap().is_for_x86());
        for len in [0x84, 0x90, 0xa0, 0x300] {
            assert!(Pe::read(&file[..len]).is_err(), "{len:#x}");
        }
        assert_eq!(Pe::read(&file).unwrap().unwrap().initrd(), None);
    }
}
