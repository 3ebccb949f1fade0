//! Makes unified kernel images, and reads their sections to check the library's reader.

use super::Guest;
use crate::fw_cfg::item;
use crate::layout;
use crate::phys::{PhysRange, u16_at, u32_at};
use std::borrow::Cow;
use std::vec::Vec;

/// A PE file for x86-64 with these sections, as ukify makes it: headers at 0x80,
/// contents in blocks of 512 bytes behind the `stub` bytes of the stub's own.
#[must_use]
pub fn uki(stub: usize, sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut file = std::vec![0; 0x188];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &0x80_u32.to_le_bytes());
    put(0x80, b"PE\0\0\x64\x86");
    put(0x86, &(sections.len() as u16).to_le_bytes());
    put(0x94, &0xf0_u16.to_le_bytes());
    let mut at = (file.len() + 40 * sections.len() + stub).next_multiple_of(512) as u32;
    for (name, content) in sections {
        let mut header = [0; 40];
        header[..name.len()].copy_from_slice(name.as_bytes());
        let raw = content.len().next_multiple_of(512) as u32;
        let fields = [content.len() as u32, at, raw, at];
        for (slot, field) in header[8..].chunks_mut(4).zip(fields) {
            slot.copy_from_slice(&field.to_le_bytes());
        }
        file.extend(header);
        at += raw;
    }
    let start = (file.len() + stub).next_multiple_of(512);
    file.resize(start, 0);
    for (_, content) in sections {
        file.extend(*content);
        file.resize(file.len().next_multiple_of(512), 0);
    }
    file
}

/// No machine of the tests has room for a larger file.
const MAX_FILE: usize = 128 << 20;

/// Where the firmware reads a PE file's headers to: the end of the memory for
/// placement.
pub(super) const HEADERS: PhysRange =
    PhysRange::fixed(layout::EBDA.start() - 0x4000, layout::EBDA.start());

/// What the boot of a bzImage has to load.
pub(super) struct Given<'a> {
    /// Boot sector and setup code.
    pub(super) setup: Cow<'a, [u8]>,
    /// The code; zeroes may lie behind it.
    pub(super) code: Cow<'a, [u8]>,
    /// Bytes of the code.
    pub(super) code_len: u32,
    /// The command line.
    pub(super) line: Vec<u8>,
    /// An initrd that is not the item.
    pub(super) initrd: Option<Vec<u8>>,
}

/// The content of the section that the firmware uses, in whole `unit`s.
fn section<'a>(file: &'a [u8], name: &[u8; 8], unit: usize) -> Option<&'a [u8]> {
    let pe = u32_at(file, 0x3c)? as usize;
    let table = pe + 24 + usize::from(u16_at(file, pe + 20)?);
    let count = usize::from(u16_at(file, pe + 6)?);
    // A short file's table may end in zeroes.
    let mut head = file[..file.len().min(HEADERS.len() as usize)].to_vec();
    head.resize(HEADERS.len() as usize, 0);
    let headers = head.get(table..table + 40 * count)?.chunks_exact(40);
    let headers: Vec<&[u8]> = headers.collect();
    let mut profiles = Vec::new();
    for (n, header) in headers.iter().enumerate() {
        if header.starts_with(b".profile") {
            profiles.push(n);
        }
    }
    profiles.extend([count; 2]);
    let is_named = |header: &&&[u8]| header.starts_with(name);
    let own = headers[profiles[0]..profiles[1]].iter().find(is_named);
    let header = own.or_else(|| headers[..profiles[0]].iter().find(is_named))?;
    let word = |at| u32_at(header, at).unwrap_or(0) as usize;
    let (memory, raw, at) = (word(8), word(16), word(20));
    let len = if memory == 0 { raw } else { memory.min(raw) };
    file.get(at..(at + len.next_multiple_of(unit)).min(file.len()))
}

impl Guest {
    /// What the host gave: items, or sections of a unified kernel image.
    pub(super) fn given(&self) -> Given<'_> {
        let fw_cfg = &self.machine.fw_cfg;
        let setup = fw_cfg.data(item::SETUP_DATA);
        let code = fw_cfg.data(item::KERNEL_DATA);
        let code_len = fw_cfg.number(item::KERNEL_SIZE);
        let line = fw_cfg.data(item::CMDLINE_DATA);
        let line = line.split(|byte| *byte == 0).next().unwrap_or(&[]).to_vec();
        if !setup.starts_with(b"MZ") || setup.get(0x202..0x206) == Some(b"HdrS") {
            return Given {
                setup: setup.into(),
                code: code.into(),
                code_len,
                line,
                initrd: None,
            };
        }
        // Items may be shorter than the host says: zeroes follow.
        let sects = setup.get(0x1f1).map_or(0, |sects| usize::from(*sects));
        let mut file = setup.to_vec();
        file.resize((if sects == 0 { 4 } else { sects } + 1) * 512, 0);
        let len = file.len() + (code_len as usize).min(MAX_FILE);
        file.extend(code);
        file.resize(len, 0);
        let find = |file: &[u8], name| section(file, name, 1).unwrap_or(&[]).to_vec();
        let mut own_line = find(&file, b".cmdline");
        let end = own_line.iter().position(|byte| *byte == 0);
        own_line.truncate(end.unwrap_or(own_line.len()));
        for byte in &mut own_line {
            *byte = (*byte).max(b' ');
        }
        let mut initrd = section(&file, b".ucode\0\0", 4).unwrap_or(&[]).to_vec();
        initrd.resize(initrd.len().next_multiple_of(4), 0);
        initrd.extend(find(&file, b".initrd\0"));
        file = find(&file, b".linux\0\0");
        let sects = file.get(0x1f1).map_or(0, |sects| usize::from(*sects));
        let setup_len = (if sects == 0 { 4 } else { sects } + 1) * 512;
        let code = file.split_off(setup_len.min(file.len()));
        Given {
            setup: file.into(),
            code_len: code.len() as u32,
            code: code.into(),
            line: if line.is_empty() { own_line } else { line },
            initrd: Some(initrd),
        }
    }
}
