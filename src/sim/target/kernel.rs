//! Kernels: headers and placement.

use super::{Arbitrary, Board, FakeFwCfg, Guest, Unstructured, run_and_check};
use crate::fw_cfg::item;
use crate::sim::{e820, uki};
use std::vec;
use std::vec::Vec;

/// A bzImage with likely header fields.
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
    // Above are likely values; now arbitrary ones.
    for _ in 0..u.int_in_range(0..=4)? {
        let at = 0x1f1 + u.choose_index(0x80)?;
        setup[at] = u.arbitrary()?;
    }
    let code = u.int_in_range(0..=0x4000)?;
    setup.resize(setup.len() + code, 0xc9);
    if u.ratio(1, 4)? {
        // A payload with a magic number.
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

/// A unified kernel image with likely sections.
pub fn unified(u: &mut Unstructured<'_>) -> Arbitrary<Vec<u8>> {
    let linux = bzimage(u)?;
    let mut sections: Vec<(&str, Vec<u8>)> = Vec::new();
    for _ in 0..u.int_in_range(0..=6)? {
        let name = *u.choose(&[
            ".cmdline", ".initrd", ".ucode", ".profile", ".osrel", ".linux",
        ])?;
        let len = match u.int_in_range(0..=7)? {
            0 => u.int_in_range(0..=0x1_0000)?,
            n => n * 97,
        };
        sections.push((name, vec![u.arbitrary()?; len]));
    }
    let at = u.int_in_range(0..=sections.len())?;
    sections.insert(at, (".linux", linux));
    let sections: Vec<(&str, &[u8])> = sections.iter().map(|(n, c)| (*n, c.as_slice())).collect();
    // Around QEMU's cut, and around the table's end.
    let stub = *u.choose(&[0, 512, 2048, 0x1_0000, 0x2_0000])?;
    let mut file = uki(stub, &sections);
    if u.ratio(1, 2)? {
        file[0x1f1] = u.arbitrary()?;
    }
    // Bytes of the headers, and whole fields of the section table.
    for _ in 0..u.int_in_range(0..=2)? {
        let at = u.choose_index(0x188 + 40 * sections.len())?;
        file[at] = u.arbitrary()?;
    }
    if u.ratio(1, 4)? {
        let at = 0x188 + 40 * u.choose_index(sections.len())? + 8 + 4 * u.choose_index(4)?;
        let value = near(u, 0x400)?;
        file[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    if u.ratio(1, 8)? {
        let len = u.choose_index(file.len())?;
        file.truncate(len);
    }
    Ok(file)
}

/// Where QEMU cuts a file.
fn cut_at(file: &[u8]) -> usize {
    match file.get(0x1f1) {
        None | Some(0) => 5 * 512,
        Some(sects) => (usize::from(*sects) + 1) * 512,
    }
}

/// Unified kernel images: headers, sections, placement.
pub fn uki_image(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let _ = uki_run(&mut u);
}

fn uki_run(u: &mut Unstructured<'_>) -> Arbitrary<()> {
    let mut guest = without_kernel(u)?;
    if u.arbitrary()? {
        guest.command_line(b"");
    }
    // QEMU refuses -initrd beside such a file.
    guest.machine.fw_cfg.item(item::INITRD_SIZE, &[0; 4]);
    let file = unified(u)?;
    if cut_at(&file) > file.len() {
        // QEMU refuses it.
        return Ok(());
    }
    guest.kernel(&file);
    ask_for_entry(u, &mut guest)?;
    run_and_check(&mut guest);
    Ok(())
}

/// A value: the likely one, near a power of two, or anything.
pub(super) fn near(u: &mut Unstructured<'_>, likely: u32) -> Arbitrary<u32> {
    Ok(match u.arbitrary::<u8>()? {
        0..160 => likely,
        160..240 => (1_u32 << u.int_in_range(0..=31)?).wrapping_add(u.int_in_range(-2..=2)? as u32),
        _ => u.arbitrary()?,
    })
}

/// The end of RAM below 4 GiB: few sizes, so that memory is used again.
pub(super) fn ram(u: &mut Unstructured<'_>) -> Arbitrary<u32> {
    // Untouched memory costs only addresses.
    let most = if usize::BITS < 64 { 64 } else { 3072 };
    Ok((*u.choose(&[16_u32, 16, 3072, 2048, 64, 8, 4, 2, 1])?).min(most) << 20)
}

pub(super) fn line(u: &mut Unstructured<'_>) -> Arbitrary<Vec<u8>> {
    let len = match u.int_in_range(0..=7)? {
        0 => u.int_in_range(2040..=2056)?,
        1 => u.int_in_range(0..=0x1_0010)?,
        n => n * 3,
    };
    Ok(vec![b'x'; len])
}

/// An initrd of a likely size; only its first bytes are not zero.
pub(super) fn give_initrd(u: &mut Unstructured<'_>, ram: u32, guest: &mut Guest) -> Arbitrary<()> {
    let len = match u.int_in_range(0..=7)? {
        0..=2 => 0,
        3 => near(u, 0x1_0000)?,
        // It just fits, or just does not.
        4 => ram.saturating_sub(0x20_0000 + u.int_in_range(0..=0x2000)?),
        _ => 4097,
    };
    guest.initrd(&vec![0x5a; len.min(4097) as usize]);
    let fw_cfg = &mut guest.machine.fw_cfg;
    fw_cfg.item(item::INITRD_SIZE, &len.to_le_bytes());
    Ok(())
}

/// Longer transfers do not write the zeroes behind an item. No item of a likely machine
/// is longer.
pub(super) const MAX_WRITTEN: usize = 0x4_0000;

/// A device that may fail.
pub(super) fn device(u: &mut Unstructured<'_>) -> Arbitrary<FakeFwCfg> {
    let mut fw_cfg = FakeFwCfg::new();
    fw_cfg.sparse = true;
    if u.ratio(1, 32)? {
        fw_cfg.fails_after = Some(u.int_in_range(0..=24)?);
    }
    Ok(fw_cfg)
}

/// A machine with a command line and an initrd.
fn without_kernel(u: &mut Unstructured<'_>) -> Arbitrary<Guest> {
    let ram = ram(u)?;
    let mut fw_cfg = device(u)?;
    fw_cfg.file("etc/e820", &e820(ram.into()));
    let mut guest = Guest::new(Board::Microvm, fw_cfg, ram);
    guest.machine.memory.max_written = MAX_WRITTEN;
    guest.command_line(&line(u)?);
    give_initrd(u, ram, &mut guest)?;
    Ok(guest)
}

/// Setup header and placement.
pub fn header(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let _ = header_run(&mut u);
}

fn header_run(u: &mut Unstructured<'_>) -> Arbitrary<()> {
    let mut guest = without_kernel(u)?;
    guest.kernel(&bzimage(u)?);
    if u.ratio(1, 8)? {
        // The item's size is not the file's.
        let size = near(u, 0x1000)?;
        let fw_cfg = &mut guest.machine.fw_cfg;
        fw_cfg.item(item::KERNEL_SIZE, &size.to_le_bytes());
    }
    run_and_check(&mut guest);
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

/// Gives `guest` a multiboot kernel with modules, as QEMU lays them out, mostly with
/// likely numbers.
pub(super) fn give_multiboot(u: &mut Unstructured<'_>, guest: &mut Guest) -> Arbitrary<()> {
    let likely = *u.choose(&[0x10_0000, 0xf_f000, 0x20_0000, 0x8000])?;
    let addr = near(u, likely)?;
    let at = |offset: u32| addr.wrapping_add(offset);
    let mut image = vec![0x90; 0x3000];
    image[..4].copy_from_slice(b"\x7fELF");
    let count = u.int_in_range(0..=4)?;
    for n in 0..count as usize {
        let fields = [
            near(u, at(0x2000))?,
            near(u, at(0x2123))?,
            near(u, at(0x1100))?,
            0,
        ];
        for (i, field) in fields.into_iter().enumerate() {
            image[0x1000 + 16 * n + 4 * i..][..4].copy_from_slice(&field.to_le_bytes());
        }
    }
    image[0x1100..0x111c].copy_from_slice(b"module args\0kernel args\0qemu");
    if u.arbitrary::<u8>()? < 224 {
        image[0x111c] = 0;
    }
    let mut draft = vec![0; 88];
    let fields = [
        (0, 0x247),
        (12, 0x8000_ffff),
        (16, near(u, at(0x110c))?),
        (20, near(u, count)?),
        (24, near(u, at(0x1000))?),
    ];
    for (offset, field) in fields {
        draft[offset..offset + 4].copy_from_slice(&u32::to_le_bytes(field));
    }
    let entry = near(u, at(0x1010))?;
    guest.multiboot(&image, addr, entry, &draft);
    if u.arbitrary::<u8>()? > 224 {
        let size = near(u, 0x3000)?;
        let fw_cfg = &mut guest.machine.fw_cfg;
        fw_cfg.item(item::KERNEL_SIZE, &size.to_le_bytes());
    }
    Ok(())
}

/// Sometimes sets the option for a bzImage's entry. It is last in an input, so that an
/// input that ends early has no option.
pub(super) fn ask_for_entry(u: &mut Unstructured<'_>, guest: &mut Guest) -> Arbitrary<()> {
    let option: &[u8] = match u.arbitrary::<u8>()? {
        0..160 => return Ok(()),
        160..232 => b"16",
        232..248 => b"32",
        _ => b"auto",
    };
    guest.machine.fw_cfg.file("opt/org.qboot/entry", option);
    Ok(())
}

/// ELF headers, Xen notes, and placement around segments.
pub fn elf(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let _ = elf_run(&mut u);
}

fn elf_run(u: &mut Unstructured<'_>) -> Arbitrary<()> {
    let mut guest = without_kernel(u)?;
    let (file, entry) = elf_image(u)?;
    if !guest.elf(&file, entry) {
        // QEMU refuses a kernel that it cannot load, so there is no such guest.
        guest.machine.memory.unload();
    }
    run_and_check(&mut guest);
    Ok(())
}
