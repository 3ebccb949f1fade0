//! The whole boot, on likely machines and on arbitrary items.

use super::kernel::{
    MAX_WRITTEN, ask_for_entry, bzimage, device, elf_image, give_initrd, give_multiboot, line,
    near, ram,
};
use super::loader::script;
use super::memory_map::e820_entries;
use super::pci::bus;
use super::smbios::{anchor, structures};
use super::{Arbitrary, Board, FakeFwCfg, Guest, NAMES, Unstructured, run_and_check};
use crate::fw_cfg::item;
use crate::layout;
use crate::platform::Io as _;
use crate::sim::{e820, e820_entry};
use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

/// Fixed items by their tag in [`boot`]'s input.
const ITEMS: [u16; 14] = [
    item::NB_CPUS,
    item::KERNEL_SIZE,
    item::INITRD_SIZE,
    item::MAX_CPUS,
    item::KERNEL_ENTRY,
    item::KERNEL_DATA,
    item::INITRD_DATA,
    item::CMDLINE_SIZE,
    item::CMDLINE_DATA,
    item::SETUP_SIZE,
    item::SETUP_DATA,
    item::FILE_DIR,
    item::KERNEL_ADDR,
    item::IRQ0_OVERRIDE,
];

/// First byte of [`boot`]'s input: the rest is a list of items.
pub const RAW: u8 = 0xff;
/// Tag of bytes that QEMU has loaded: address, content.
const LOADED: u8 = 0xfe;
/// Tags of files start here.
const FILES: u8 = 0x20;

/// Items as [`boot`] reads them after [`RAW`]: the board, RAM in MiB, then for each
/// item its tag, size, and bytes without the zeroes at the end.
#[must_use]
pub fn encode(board: u8, ram_mib: u8, items: &[(String, u16, Vec<u8>)]) -> Vec<u8> {
    let mut out = vec![RAW, board, ram_mib];
    for (name, selector, data) in items {
        let tag = if name.is_empty() {
            ITEMS.iter().position(|s| s == selector).map(|at| at as u8)
        } else {
            NAMES
                .iter()
                .position(|n| n == name)
                .map(|at| FILES + at as u8)
        };
        let Some(tag) = tag else { continue };
        let used = data.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
        out.push(tag);
        out.extend(&(data.len() as u32).to_le_bytes()[..3]);
        out.extend(&(used as u32).to_le_bytes()[..3]);
        out.extend(&data[..used]);
    }
    out
}

/// A machine with arbitrary items.
fn raw_guest(data: &[u8]) -> Option<Guest> {
    let [board, ram_mib, rest @ ..] = data else {
        return None;
    };
    let board = match board % 3 {
        0 => Board::Pc,
        1 => Board::Q35,
        _ => Board::Microvm,
    };
    let ram = u32::from(*ram_mib).clamp(1, 64) << 20;
    let mut fw_cfg = FakeFwCfg::new();
    fw_cfg.limit = Some(16 << 20);
    let mut loaded = Vec::new();
    let mut total = 0;
    let mut rest = rest;
    while let [tag, a, b, c, d, e, f, more @ ..] = rest {
        let size = u32::from_le_bytes([*a, *b, *c, 0]) as usize;
        let used = u32::from_le_bytes([*d, *e, *f, 0]) as usize;
        let (bytes, more) = more.split_at(used.min(more.len()));
        rest = more;
        let mut bytes = bytes.to_vec();
        total += size;
        if total > 4 << 20 {
            break;
        }
        match *tag {
            LOADED => loaded.push((size as u32, bytes)),
            tag if tag < FILES => {
                bytes.resize(size.max(bytes.len()), 0);
                let selector = ITEMS.get(usize::from(tag)).copied();
                fw_cfg.item(selector.unwrap_or(u16::from(tag)), &bytes);
            }
            tag => {
                bytes.resize(size.max(bytes.len()), 0);
                match NAMES.get(usize::from(tag - FILES)) {
                    Some(name) => fw_cfg.file(name, &bytes),
                    None => fw_cfg.file(&format!("opt/file{tag}"), &bytes),
                };
            }
        }
    }
    if fw_cfg.selector("etc/e820").is_none() {
        fw_cfg.file("etc/e820", &e820(ram.into()));
    }
    let mut guest = Guest::new(board, fw_cfg, ram);
    for (addr, bytes) in loaded {
        if addr >= layout::HIGH_RAM {
            guest.machine.memory.preload(addr, &bytes);
        }
    }
    Some(guest)
}

/// A likely machine with likely tables, a likely kernel, and lies.
#[expect(clippy::too_many_lines, reason = "a list of choices")]
fn likely_guest(u: &mut Unstructured<'_>) -> Arbitrary<Guest> {
    let ram = ram(u)?;
    let mut fw_cfg = device(u)?;
    let map = match u.int_in_range(0..=7)? {
        0 => e820_entries(u)?,
        1 => {
            let mut map = e820(ram.into());
            map.extend(e820_entry(0xfeff_c000, 0x4000, 2));
            map
        }
        _ => e820(ram.into()),
    };
    fw_cfg.file("etc/e820", &map);
    if u.arbitrary()? {
        let size = *u.choose(&[256, 0x1000, 0x2_0000])?;
        let bytes: Vec<u8> = (0..size)
            .map(|i| if i % 4 == 0 { i as u8 } else { 0 })
            .collect();
        fw_cfg.file("etc/acpi/rsdp", &bytes[..36]);
        fw_cfg.file("etc/acpi/tables", &bytes);
        let script = script(u, size)?;
        fw_cfg.file("etc/table-loader", &script);
    }
    if u.arbitrary()? {
        fw_cfg.file("etc/smbios/smbios-anchor", &anchor(u.arbitrary()?));
        let tables = structures(u)?;
        fw_cfg.file("etc/smbios/smbios-tables", &tables);
    }
    if u.arbitrary()? {
        let value = *u.choose(&["none", "scan", "full", "auto", "full\n", "much"])?;
        fw_cfg.file("opt/org.qboot/pci", value.as_bytes());
        if value.ends_with('\n') {
            fw_cfg.file("opt/org.qboot/log", b"all");
        }
        let roots: u64 = *u.choose(&[0, 1, 255, u64::MAX])?;
        fw_cfg.file("etc/extra-pci-roots", &roots.to_le_bytes());
        let cpus: u16 = near(u, 4)? as u16;
        fw_cfg.item(item::NB_CPUS, &cpus.to_le_bytes());
    }
    if u.ratio(1, 8)? {
        // More than one transfer holds, or more than there is room for.
        for _ in 0..*u.choose(&[60, 90, 2000, 5000])? {
            fw_cfg.file("opt/org.qboot/none", b"x");
        }
    }
    let board = *u.choose(&[Board::Pc, Board::Q35, Board::Microvm])?;
    let mut guest = Guest::new(board, fw_cfg, ram);
    guest.machine.memory.max_written = MAX_WRITTEN;
    if board != Board::Microvm && u.arbitrary()? {
        let mut budget = 60;
        let more = bus(u, 0, &mut budget, false)?;
        let roots = &mut guest.machine.io.pci.roots;
        for (devfn, function) in more {
            roots.entry(0).or_default().entry(devfn).or_insert(function);
        }
    }
    guest.command_line(&if u.ratio(1, 4)? {
        b"console=ttyS0 acpi=off pci=noacpi".to_vec()
    } else {
        line(u)?
    });
    give_initrd(u, ram, &mut guest)?;
    if u.arbitrary()? {
        let image = bzimage(u)?;
        guest.kernel(&image);
    } else {
        let (file, entry) = elf_image(u)?;
        if !guest.elf(&file, entry) {
            guest.machine.memory.unload();
        }
    }
    ask_for_entry(u, &mut guest)?;
    if u.arbitrary::<u8>()? > 208 {
        guest.machine.memory.unload();
        give_multiboot(u, &mut guest)?;
    }
    Ok(guest)
}

/// The whole boot.
pub fn boot(data: &[u8]) {
    let guest = match data.split_first() {
        Some((&RAW, rest)) => raw_guest(rest),
        Some((_, rest)) => likely_guest(&mut Unstructured::new(rest)).ok(),
        None => None,
    };
    if let Some(mut guest) = guest {
        // As the entry code leaves it.
        let _ = guest.machine.io.in32(0xcf8);
        run_and_check(&mut guest);
    }
}
