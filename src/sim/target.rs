//! What fuzzing drives: each function takes any bytes, and stops with a
//! sentence where an invariant does not hold.

use super::{Board, F_SEGMENT_FREE, Guest, Memory, e820, e820_entry, loader_command};
extern crate std;

use crate::acpi::{self, Allocator, Zone};
use crate::e820::{Kind, MemoryMap};
use crate::error::{Error, Result};
use crate::fw_cfg::fake::FakeFwCfg;
use crate::fw_cfg::{Directory, file_name, item};
use crate::io::PortIo as _;
use crate::layout;
use crate::pci::sim::{Bar, Bus, Function, Mapping, Port, Reserve, Sim};
use crate::pci::{self, Apertures, Routing};
use crate::phys::{GuestMemory as _, PhysRange, align_up};
use crate::smbios;
use arbitrary::{Result as Arbitrary, Unstructured};
use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

/// A target: takes any bytes.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const ALL: [(&str, Target); 8] = [
    ("directory", directory),
    ("loader", loader),
    ("e820", e820_map),
    ("smbios", smbios_tables),
    ("header", header),
    ("elf", elf),
    ("pci", pci_tree),
    ("boot", boot),
];

/// The file directory.
pub fn directory(data: &[u8]) {
    let (Some((size, data)), mut fw_cfg) = (data.split_first(), FakeFwCfg::new()) else {
        return;
    };
    fw_cfg.item(item::FILE_DIR, data);
    let mut scratch = vec![0xa5; usize::from(*size) << 8 | 0xff];
    let len = scratch.len();
    match Directory::read(&mut fw_cfg, &mut scratch) {
        Ok((dir, rest)) => {
            let mut count = [0; 4];
            let given = data.len().min(4);
            count[..given].copy_from_slice(&data[..given]);
            let count = u32::from_be_bytes(count) as usize;
            assert_eq!(dir.entries().len(), count);
            assert!(count * 64 + 4 + rest.len() <= len);
            for entry in dir.entries() {
                assert!(dir.find(entry.name()).is_some(), "an entry is not found");
            }
            let _ = dir.find(&file_name("etc/e820"));
        }
        Err(error) => assert_eq!(error, Error::TooManyFiles),
    }
    assert!(fw_cfg.transfers <= 2);
}

/// Names that a script and the items of a machine draw on.
const NAMES: [&str; 10] = [
    "etc/acpi/rsdp",
    "etc/acpi/tables",
    "etc/table-loader",
    "etc/e820",
    "etc/vmgenid_addr",
    "etc/smbios/smbios-anchor",
    "etc/smbios/smbios-tables",
    "etc/extra-pci-roots",
    "etc/reserved-memory-end",
    "opt/org.qboot/pci",
];

/// Gives out two ranges, upwards.
struct Arena {
    high: PhysRange,
    fseg: PhysRange,
    given: Vec<PhysRange>,
}

impl Allocator for Arena {
    fn alloc(&mut self, zone: Zone, len: u32, align: u32) -> Result<PhysRange> {
        assert!(align.is_power_of_two());
        let from = match zone {
            Zone::High => &mut self.high,
            Zone::Fseg => &mut self.fseg,
        };
        let range = align_up(from.start(), align)
            .and_then(|start| PhysRange::new(start, len))
            .filter(|range| from.contains(*range))
            .ok_or(Error::TablesTooBig)?;
        *from = PhysRange::between(range.end(), from.end()).ok_or(Error::TablesTooBig)?;
        self.given.push(range);
        Ok(range)
    }
}

fn arena(memory: &mut Memory) -> Arena {
    let high = PhysRange::fixed(layout::HIGH_RAM, 0x40_0000);
    memory.open(high);
    Arena {
        high,
        fseg: F_SEGMENT_FREE,
        given: Vec::new(),
    }
}

fn name<'a>(u: &mut Unstructured<'_>) -> Arbitrary<&'a str> {
    Ok(*u.choose(&NAMES)?)
}

/// An offset: near a size, small, or anything.
fn offset(u: &mut Unstructured<'_>, size: u32) -> Arbitrary<u32> {
    Ok(match u.arbitrary::<u8>()? {
        0 => u.arbitrary()?,
        1 => size.wrapping_sub(u.int_in_range(0..=16)?),
        2 => size.wrapping_add(u.int_in_range(0..=16)?),
        n => u32::from(n).wrapping_sub(3) * 4,
    })
}

/// A script of commands whose fields are likely ones.
fn script(u: &mut Unstructured<'_>, size: u32) -> Arbitrary<Vec<u8>> {
    let mut script = Vec::new();
    for _ in 0..u.int_in_range(0..=24)? {
        let a = offset(u, size)?.to_le_bytes();
        let b = offset(u, size)?.to_le_bytes();
        let c = offset(u, size)?.to_le_bytes();
        let width = [*u.choose(&[1, 2, 4, 8, 4, 4, 0, 3])?];
        let (x, y) = (name(u)?, name(u)?);
        let command = match u.int_in_range(0..=9)? {
            0..=2 => {
                let align = (1_u32 << u.int_in_range(0..=12)?).to_le_bytes();
                let zone = [*u.choose(&[1, 1, 2, 3])?];
                loader_command(1, &[x], &[(60, &align), (64, &zone)])
            }
            3..=5 => loader_command(2, &[x, y], &[(116, &a), (120, &width)]),
            6..=7 => loader_command(3, &[x], &[(60, &a), (64, &b), (68, &c)]),
            8 => loader_command(4, &[x, y], &[(116, &a), (120, &b), (124, &width)]),
            _ => loader_command(u.arbitrary()?, &[x, y], &[(116, &a)]),
        };
        script.extend(command);
    }
    Ok(script)
}

/// The table loader, with files of likely names.
pub fn loader(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let _ = loader_run(&mut u);
}

fn loader_run(u: &mut Unstructured<'_>) -> Arbitrary<()> {
    let mut fw_cfg = FakeFwCfg::new();
    fw_cfg.limit = Some(16 << 20);
    let raw: bool = u.arbitrary()?;
    let size = match u.int_in_range(0..=3)? {
        0 => u.int_in_range(0..=64)?,
        1 => u.int_in_range(0..=8192)?,
        2 => u.int_in_range(0xf000..=0x2_0000)?,
        _ => 256,
    };
    for (at, name) in NAMES.iter().enumerate() {
        // An even pattern: pointers in it are offsets, mostly inside.
        let len = if at == 1 { size } else { size.min(256) };
        let bytes: Vec<u8> = (0..len)
            .map(|i| if i % 4 == 0 { i as u8 } else { 0 })
            .collect();
        fw_cfg.file(name, &bytes);
    }
    let bytes = if raw {
        let rest = u.bytes(u.len())?;
        rest.to_vec()
    } else {
        script(u, size)?
    };
    let mut scratch = vec![0; 8192];
    let Ok((dir, _)) = Directory::read(&mut fw_cfg, &mut scratch) else {
        return Ok(());
    };
    let mut memory = Memory::new(0x40_0000);
    let mut arena = arena(&mut memory);
    let result = acpi::load(&bytes, &dir, &mut fw_cfg, &mut memory, &mut arena);
    if let Ok(Some(rsdp)) = result {
        assert!(arena.given.iter().any(|r| r.start() == rsdp));
    }
    assert_ne!(result, Err(Error::NotOurMemory));
    for range in &memory.touched {
        let inside = |given: &PhysRange| given.contains(*range);
        assert!(
            range.is_empty() || arena.given.iter().any(inside),
            "{range:x?} was not allocated"
        );
    }
    assert!(fw_cfg.transfers <= 16 + bytes.len() / 128 * 6 + 32 * 32);
    Ok(())
}

/// The memory map, and placement in it.
pub fn e820_map(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let _ = e820_run(&mut u);
}

fn e820_entries(u: &mut Unstructured<'_>) -> Arbitrary<Vec<u8>> {
    let mut raw = Vec::new();
    if u.arbitrary()? {
        let ram = u64::from(u.arbitrary::<u32>()?) << u.int_in_range(0..=8)?;
        raw = e820(ram);
    }
    for _ in 0..u.int_in_range(0..=140)? {
        if u.is_empty() {
            break;
        }
        let shift = u.int_in_range(0..=48)?;
        let base = u64::from(u.arbitrary::<u16>()?) << shift;
        let shift = u.int_in_range(0..=48)?;
        let len = u64::from(u.arbitrary::<u16>()?) << shift;
        raw.extend(e820_entry(base, len, u.int_in_range(0..=6)?));
    }
    Ok(raw)
}

fn check_map(map: &MemoryMap) {
    let mut end = 0;
    for entry in map.entries() {
        assert!(
            entry.base() >= end && entry.end() > entry.base(),
            "not sorted and disjoint: {:x?}",
            map.entries()
        );
        end = entry.end();
    }
}

fn e820_run(u: &mut Unstructured<'_>) -> Arbitrary<()> {
    let raw = if u.ratio(1, 4)? {
        let len = u.arbitrary_len::<u8>()?.min(u.len());
        u.bytes(len)?.to_vec()
    } else {
        e820_entries(u)?
    };
    let mut map = MemoryMap::new();
    if map.fill(&raw, PhysRange::fixed(0, 0)).is_err() {
        return Ok(());
    }
    check_map(&map);
    let high = map.high();
    assert!(high.start() == layout::HIGH_RAM);
    let mut held: Vec<PhysRange> = Vec::new();
    while !u.is_empty() {
        let len = u.arbitrary::<u32>()? >> u.int_in_range(0..=31)?;
        let align = 1_u32 << u.int_in_range(0..=24)?;
        let claim = match u.int_in_range(0..=3)? {
            0 => map.place(len, align, high),
            1 => map.place_low(len, align),
            2 => {
                let start = u.arbitrary()?;
                PhysRange::new(start, len).and_then(|range| map.claim(range))
            }
            _ => {
                let start = u.arbitrary()?;
                if let Some(range) = PhysRange::new(start, len)
                    && map.reserve(range, Kind::ACPI).is_err()
                {
                    return Ok(());
                }
                check_map(&map);
                None
            }
        };
        let _ = map.largest_free(high);
        if let Some(range) = claim.map(|claim| claim.range()) {
            assert!(!held.iter().any(|other| other.overlaps(range)));
            let placeable = high.contains(range)
                || layout::LOW_FREE.contains(range)
                || layout::LOW_FREE_TOP.contains(range);
            assert!(placeable, "{range:x?} is not free memory");
            held.push(range);
        }
    }
    Ok(())
}

/// SMBIOS.
pub fn smbios_tables(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let _ = smbios_run(&mut u);
}

/// An entry point that QEMU would make.
fn anchor(long: bool) -> Vec<u8> {
    if long {
        let mut bytes = vec![0; 24];
        bytes[..5].copy_from_slice(b"_SM3_");
        bytes[6] = 24;
        bytes[7] = 3;
        bytes
    } else {
        let mut bytes = vec![0; 31];
        bytes[..4].copy_from_slice(b"_SM_");
        bytes[5] = 31;
        bytes[6] = 2;
        bytes[0x10..0x15].copy_from_slice(b"_DMI_");
        bytes
    }
}

/// Structures, mostly well-formed.
fn structures(u: &mut Unstructured<'_>) -> Arbitrary<Vec<u8>> {
    let mut bytes = Vec::new();
    for _ in 0..u.int_in_range(0..=12)? {
        let kind = *u.choose(&[0, 1, 2, 3, 4, 11, 17, 127, 200])?;
        let len: u8 = *u.choose(&[4, 4, 24, 27, 5, 3, 0, 255])?;
        let handle: u16 = *u.choose(&[0, 1, 0x100, 0xfeff, 0xff00, 0xffff])?;
        bytes.extend([kind, len]);
        bytes.extend(handle.to_le_bytes());
        bytes.resize(bytes.len() + usize::from(len.saturating_sub(4)), 1);
        for _ in 0..u.int_in_range(0..=3)? {
            bytes.extend(b"text\0");
        }
        let stray = u.int_in_range(0..=2)?;
        bytes.extend(u.bytes(stray)?.iter().map(|b| b & 1));
        bytes.extend([0, 0]);
    }
    Ok(bytes)
}

fn smbios_run(u: &mut Unstructured<'_>) -> Arbitrary<()> {
    let mut fw_cfg = FakeFwCfg::new();
    let mut entry = anchor(u.arbitrary()?);
    if u.ratio(1, 4)? {
        let at = u.choose_index(entry.len())?;
        entry[at] = u.arbitrary()?;
    }
    let tables = if u.arbitrary()? {
        structures(u)?
    } else {
        u.bytes(u.len())?.to_vec()
    };
    fw_cfg.file("etc/smbios/smbios-anchor", &entry);
    fw_cfg.file("etc/smbios/smbios-tables", &tables);
    let mut scratch = vec![0; 8192];
    let Ok((dir, _)) = Directory::read(&mut fw_cfg, &mut scratch) else {
        return Ok(());
    };
    let mut memory = Memory::new(0x40_0000);
    let mut arena = arena(&mut memory);
    let result = smbios::load(&dir, &mut fw_cfg, &mut memory, &mut arena);
    assert_ne!(result, Err(Error::NotOurMemory));
    for range in &memory.touched {
        assert!(range.is_empty() || arena.given.iter().any(|given| given.contains(*range)));
    }
    if let Ok(Some(at)) = result {
        let range = PhysRange::fixed(at, at + entry.len() as u32);
        let bytes = memory.peek(range);
        assert_eq!(
            crate::phys::byte_sum(bytes),
            0,
            "the entry point's checksum"
        );
        let (start, len) = if entry.len() == 24 {
            (
                crate::phys::u32_at(bytes, 16),
                crate::phys::u32_at(bytes, 12),
            )
        } else {
            let len = crate::phys::u16_at(bytes, 0x16).map(u32::from);
            (crate::phys::u32_at(bytes, 0x18), len)
        };
        let range = start
            .zip(len)
            .and_then(|(start, len)| PhysRange::new(start, len));
        let inside = range.is_some_and(|r| arena.given.iter().any(|given| given.contains(r)));
        assert!(inside, "structures at {range:x?}");
    }
    Ok(())
}

/// A bzImage whose header fields are likely ones.
pub fn bzimage(u: &mut Unstructured<'_>) -> Arbitrary<Vec<u8>> {
    let sects: u8 = *u.choose(&[1, 1, 1, 0, 4, 255])?;
    let mut setup = vec![0; (usize::from(if sects == 0 { 4 } else { sects }) + 1) * 512];
    let mut put = |at: usize, bytes: &[u8]| setup[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[sects]);
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x66]);
    put(0x202, b"HdrS");
    put(
        0x206,
        &u.choose(&[0x20f_u16, 0x20f, 0x20c, 0x20a, 0x206, 0x205, 0x200])?
            .to_le_bytes(),
    );
    put(0x211, &[*u.choose(&[1, 1, 1, 0x81, 0])?]);
    put(0x22c, &near(u, 0x7fff_ffff)?.to_le_bytes());
    put(
        0x230,
        &u.choose(&[0x20_0000_u32, 0x1000, 1, 0, 3, 0x8000_0000])?
            .to_le_bytes(),
    );
    put(0x234, &[*u.choose(&[1, 1, 1, 0])?]);
    put(0x236, &[*u.choose(&[0x7f, 0, 2])?]);
    put(0x238, &near(u, 2047)?.to_le_bytes());
    put(0x248, &near(u, 0x100)?.to_le_bytes());
    put(0x24c, &near(u, 0x100)?.to_le_bytes());
    put(0x258, &u64::from(near(u, 0x10_0000)?).to_le_bytes());
    put(0x260, &near(u, 0x10_0000)?.to_le_bytes());
    // What is above is likely; what follows is anything at all.
    for _ in 0..u.int_in_range(0..=4)? {
        let at = 0x1f1 + u.choose_index(0x80)?;
        setup[at] = u.arbitrary()?;
    }
    let code = u.int_in_range(0..=0x4000)?;
    setup.resize(setup.len() + code, 0xc9);
    if u.ratio(1, 4)? {
        // A payload that says what it is.
        let magic: &[u8] = u.choose(&[
            &b"\x1f\x8b"[..],
            b"BZh",
            b"\x5d\0\0",
            b"\xfd7zXZ",
            b"\x89LZO",
            b"\x02\x21\x4c\x18",
            b"\x28\xb5\x2f\xfd",
        ])?;
        let at = setup.len() - code + 0x100;
        if let Some(slot) = setup.get_mut(at..at + magic.len()) {
            slot.copy_from_slice(magic);
        }
    }
    if u.ratio(1, 8)? {
        let len = u.choose_index(setup.len())?;
        setup.truncate(len);
    }
    Ok(setup)
}

/// A value: the likely one, near a power of two, or anything.
fn near(u: &mut Unstructured<'_>, likely: u32) -> Arbitrary<u32> {
    Ok(match u.arbitrary::<u8>()? {
        0..160 => likely,
        160..240 => (1_u32 << u.int_in_range(0..=31)?).wrapping_add(u.int_in_range(-2..=2)? as u32),
        _ => u.arbitrary()?,
    })
}

/// The end of RAM below 4 GiB: few sizes, so that memory is used again.
fn ram(u: &mut Unstructured<'_>) -> Arbitrary<u32> {
    // What is never touched costs nothing, but its addresses.
    let most = if usize::BITS < 64 { 64 } else { 3072 };
    Ok((*u.choose(&[16_u32, 16, 3072, 2048, 64, 8, 4, 2, 1])?).min(most) << 20)
}

fn line(u: &mut Unstructured<'_>) -> Arbitrary<Vec<u8>> {
    let len = match u.int_in_range(0..=7)? {
        0 => u.int_in_range(2040..=2056)?,
        1 => u.int_in_range(0..=0x1_0010)?,
        n => n * 3,
    };
    Ok(vec![b'x'; len])
}

/// An initrd whose size is a likely one; only its first bytes are not zero.
fn give_initrd(u: &mut Unstructured<'_>, ram: u32, guest: &mut Guest) -> Arbitrary<()> {
    let len = match u.int_in_range(0..=7)? {
        0..=2 => 0,
        3 => near(u, 0x1_0000)?,
        // Just fits, or just does not.
        4 => ram.saturating_sub(0x20_0000 + u.int_in_range(0..=0x2000)?),
        _ => 4097,
    };
    guest.initrd(&vec![0x5a; len.min(4097) as usize]);
    let fw_cfg = &mut guest.machine.fw_cfg;
    fw_cfg.item(item::INITRD_SIZE, &len.to_le_bytes());
    Ok(())
}

fn judge(guest: &mut Guest) {
    let result = guest.run();
    let verdict = guest.check(result);
    assert!(verdict.is_ok(), "{result:x?}: {verdict:?}");
}

/// Longer transfers do not write the zeroes behind an item, and no item of
/// a likely machine is longer.
const MAX_WRITTEN: usize = 0x4_0000;

/// A device that may fail.
fn device(u: &mut Unstructured<'_>) -> Arbitrary<FakeFwCfg> {
    let mut fw_cfg = FakeFwCfg::new();
    fw_cfg.sparse = true;
    if u.ratio(1, 32)? {
        fw_cfg.fails_after = Some(u.int_in_range(0..=24)?);
    }
    Ok(fw_cfg)
}

/// Setup header and placement.
pub fn header(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let _ = header_run(&mut u);
}

fn header_run(u: &mut Unstructured<'_>) -> Arbitrary<()> {
    let ram = ram(u)?;
    let mut fw_cfg = device(u)?;
    fw_cfg.file("etc/e820", &e820(ram.into()));
    let mut guest = Guest::new(Board::Microvm, fw_cfg, ram);
    guest.machine.memory.max_written = MAX_WRITTEN;
    guest.command_line(&line(u)?);
    give_initrd(u, ram, &mut guest)?;
    guest.kernel(&bzimage(u)?);
    if u.ratio(1, 8)? {
        // The item's size is not the file's.
        let size = near(u, 0x1000)?;
        let fw_cfg = &mut guest.machine.fw_cfg;
        fw_cfg.item(item::KERNEL_SIZE, &size.to_le_bytes());
    }
    judge(&mut guest);
    Ok(())
}

/// An ELF file with likely headers and notes, and its entry.
#[expect(clippy::too_many_lines, reason = "a list of choices")]
pub fn elf_image(u: &mut Unstructured<'_>) -> Arbitrary<(Vec<u8>, u32)> {
    let long: bool = u.arbitrary()?;
    let entry = near(u, 0x10_0000)?;
    let mut notes = Vec::new();
    for _ in 0..u.int_in_range(0..=3)? {
        let kind: u32 = *u.choose(&[18, 18, 6, 1, 0])?;
        let desc: &[u8] = if kind == 6 {
            b"linux\0"
        } else {
            &entry.to_le_bytes()
        };
        for word in [near(u, 4)?, near(u, desc.len() as u32)?, kind] {
            notes.extend(word.to_le_bytes());
        }
        notes.extend(b"Xen\0");
        notes.extend(desc);
        notes.resize(notes.len().next_multiple_of(4), 0);
    }
    let mut code = vec![0x90; 0x400];
    code.extend(&notes);
    code.resize(0x1000, 0x90);

    let count: u16 = match u.arbitrary::<u8>()? {
        0 => u.arbitrary()?,
        n => u16::from(n % 6),
    };
    let (ehsize, phentsize) = if long { (64_u32, 56_u16) } else { (52, 32) };
    let phentsize = if u.ratio(1, 16)? {
        u.arbitrary()?
    } else {
        phentsize
    };
    let phoff = near(u, ehsize)?;
    let mut head = vec![0; ehsize as usize];
    head[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', if long { 2 } else { 1 }, 1, 1]);
    let put = |head: &mut Vec<u8>, at: usize, bytes: &[u8]| {
        head[at..at + bytes.len()].copy_from_slice(bytes);
    };
    if long {
        put(&mut head, 0x20, &u64::from(phoff).to_le_bytes());
        put(&mut head, 0x36, &phentsize.to_le_bytes());
        put(&mut head, 0x38, &count.to_le_bytes());
    } else {
        put(&mut head, 0x1c, &phoff.to_le_bytes());
        put(&mut head, 0x2a, &phentsize.to_le_bytes());
        put(&mut head, 0x2c, &count.to_le_bytes());
    }
    for i in 0..count.min(8) {
        let note = i % 2 == 1;
        let kind: u32 = if note { 4 } else { 1 };
        let offset = near(u, if note { 0x1400 } else { 0x1000 })?;
        let addr = near(
            u,
            if note {
                0x10_0400
            } else {
                0x10_0000 + u32::from(i) * 0x1000
            },
        )?;
        let filesz = near(u, if note { notes.len() as u32 } else { 0x1000 })?;
        let memsz = near(u, filesz)?;
        if long {
            head.extend(kind.to_le_bytes());
            head.extend([7, 0, 0, 0]);
            for value in [offset, addr, addr, filesz, memsz, 0x1000] {
                head.extend(u64::from(value).to_le_bytes());
            }
        } else {
            for value in [kind, offset, addr, addr, filesz, memsz, 7, 0x1000] {
                head.extend(value.to_le_bytes());
            }
        }
    }
    for _ in 0..u.int_in_range(0..=2)? {
        let at = u.choose_index(head.len())?;
        head[at] = u.arbitrary()?;
    }
    head.resize(0x1000, 0);
    head.extend(code);
    Ok((head, entry))
}

/// ELF headers, Xen notes, and placement around segments.
pub fn elf(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let _ = elf_run(&mut u);
}

fn elf_run(u: &mut Unstructured<'_>) -> Arbitrary<()> {
    let ram = ram(u)?;
    let mut fw_cfg = device(u)?;
    fw_cfg.file("etc/e820", &e820(ram.into()));
    let mut guest = Guest::new(Board::Microvm, fw_cfg, ram);
    guest.machine.memory.max_written = MAX_WRITTEN;
    guest.command_line(&line(u)?);
    give_initrd(u, ram, &mut guest)?;
    let (file, entry) = elf_image(u)?;
    if !guest.elf(&file, entry) {
        // QEMU refuses what it cannot load, or drops it: no such guest.
        guest.machine.memory.unload();
    }
    judge(&mut guest);
    Ok(())
}

/// PCI functions, bridges among them; where they need not be `sane`, registers
/// may hold anything.
#[expect(clippy::too_many_lines, reason = "a list of choices")]
fn bus(u: &mut Unstructured<'_>, depth: u8, budget: &mut u32, sane: bool) -> Arbitrary<Bus> {
    let mut bus = Bus::new();
    for _ in 0..u.int_in_range(0..=6)? {
        if u.is_empty() || *budget == 0 {
            break;
        }
        *budget -= 1;
        let devfn: u8 = match u.arbitrary::<u8>()? {
            n @ 0..200 => n & 0xf8,
            n => n,
        };
        let mut function = match u.int_in_range(0..=9)? {
            0..=1 if depth < 12 => {
                let behind = self::bus(u, depth + 1, budget, sane)?;
                Function::bridge(0x0001_1b36, behind)
            }
            2..=3 if depth < 12 => {
                let port =
                    *u.choose(&[Port::Root, Port::Upstream, Port::Downstream, Port::ToPci])?;
                let behind = self::bus(u, depth + 1, budget, sane)?;
                Function::port(port, behind)
            }
            _ => Function::device(0x1000_1af4, u.arbitrary()?),
        };
        for _ in 0..u.int_in_range(0..=3)? {
            let kind = *u.choose(&[Bar::Io, Bar::Mem32, Bar::Pref32, Bar::Mem64, Bar::Pref64])?;
            let order = match kind {
                Bar::Io => u.int_in_range(2..=16)?,
                Bar::Mem32 | Bar::Pref32 => u.int_in_range(4..=31)?,
                Bar::Mem64 | Bar::Pref64 => u.int_in_range(4..=63)?,
            };
            let bar = if function.behind().is_some() {
                0
            } else {
                u.int_in_range(0..=2)? * 2
            };
            // Two BARs in one place are none.
            if !function.bars().iter().any(|(b, ..)| *b == bar) {
                function = function.bar(bar, kind, order);
            }
        }
        if u.ratio(1, 4)? {
            function = function.pin(u.arbitrary()?);
        }
        if u.ratio(1, 8)? {
            function = function.rom(u.int_in_range(11..=24)?);
        }
        if u.ratio(1, 8)? {
            function = function.reserve(Reserve {
                buses: u.arbitrary()?,
                io: u.arbitrary()?,
                mem: u.arbitrary()?,
                pref32: u.arbitrary()?,
                pref64: u.arbitrary()?,
            });
        }
        if u.ratio(1, 8)? {
            function = function.multi();
        }
        if !sane && u.ratio(1, 16)? {
            // Any register holds anything.
            let (at, bytes) = (u.arbitrary::<u8>()?, u.arbitrary::<[u8; 2]>()?);
            if at < 254 {
                function = function.preset(at, &bytes);
            }
        }
        bus.insert(devfn, function);
    }
    Ok(bus)
}

/// The PCI tree.
pub fn pci_tree(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let _ = pci_run(&mut u);
}

fn pci_run(u: &mut Unstructured<'_>) -> Arbitrary<()> {
    let mut budget = *u.choose(&[8, 8, 8, 8, 8, 30, 200])?;
    let extra: u8 = *u.choose(&[0, 0, 0, 0, 0, 0, 1, 3])?;
    let sane = u.arbitrary()?;
    let mut sim = Sim::new(bus(u, 0, &mut budget, sane)?);
    for _ in 0..u.int_in_range(0..=2)? {
        let number = u.arbitrary()?;
        sim = sim.root(number, bus(u, 0, &mut budget, sane)?);
    }
    let routing = *u.choose(&[Routing::Piix, Routing::Ich9, Routing::Gpex(16)])?;
    let low = u.choose(&[0x1000_0000_u32, 0xb000_0000, 0xc000_0000])?;
    let apertures = match u.int_in_range(0..=2)? {
        0 => Apertures::i440fx(*low, 1 << 33, 40),
        1 => Apertures::q35(*low, 0, u.int_in_range(32..=52)?),
        _ => Apertures::microvm(u.int_in_range(32..=48)?),
    };
    let mut again = sim.clone();
    let first = pci::scan(&mut sim, extra, routing);
    assert!(sim.accesses < 1_000_000, "{} accesses", sim.accesses);
    let mut scratch = vec![0; 0x4_0000];
    let second = pci::full(&mut again, extra, routing, &apertures, &mut scratch);
    assert!(again.accesses < 2_000_000, "{} accesses", again.accesses);
    if let (Ok(first), Ok(second)) = (first, second) {
        assert_eq!(first.last_bus, second.last_bus);
        assert_eq!(first.functions, second.functions);
        let mut mappings = again.mappings();
        mappings.retain(|mapping| sane && mapping.reachable);
        for (n, one) in mappings.iter().enumerate() {
            let meets = |other: &&Mapping| one.io == other.io && one.span.overlaps(other.span);
            let other = mappings.iter().skip(n + 1).find(meets);
            assert!(other.is_none(), "{one:x?} meets {other:x?}");
        }
    }
    Ok(())
}

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

/// Items as [`boot`] reads them after [`RAW`]: the board, RAM in MiB, then
/// for each its tag, its size, and those of its bytes that are not zeroes at
/// its end.
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

/// A list of items, whatever they hold.
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
    Ok(guest)
}

/// The whole run.
pub fn boot(data: &[u8]) {
    let guest = match data.split_first() {
        Some((&RAW, rest)) => raw_guest(rest),
        Some((_, rest)) => likely_guest(&mut Unstructured::new(rest)).ok(),
        None => None,
    };
    if let Some(mut guest) = guest {
        // The entry code has put this in place.
        let _ = guest.machine.io.in32(0xcf8);
        judge(&mut guest);
    }
}
