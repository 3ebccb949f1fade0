//! Kernel images that lie about themselves.

use qboot_tests::Field;
use xtask::kernel::{self, Flavour};
use xtask::probe::{Multiboot, PAYLOAD_LEN, Segment};
use xtask::{extract, uki};

use super::*;

/// A bzImage as Linux's: a compressed payload in its code.
fn linux_like() -> Result<BzImage> {
    let mut image = BzImage::minimal(Mode::Exit)?;
    image.payload[0x1000..0x1004].copy_from_slice(&[0x02, 0x21, 0x4c, 0x18]);
    image.set_u32(hdr::PAYLOAD_LENGTH, 0xf000);
    Ok(image)
}

fn changed(change: impl FnOnce(&mut BzImage)) -> Result<Vec<u8>> {
    let mut image = linux_like()?;
    change(&mut image);
    Ok(image.bytes())
}

#[test]
fn setup_sects() -> Result<()> {
    let mut cases = Cases::default();
    let end = End::Fails(Error::BadSetupHeader);
    for sects in [0, 2, 3, 4, 7, 8, 9, 30, 63, 64, 127, 128, 200, 254, 255] {
        // Long enough for QEMU to take any of them.
        let image = changed(|image| {
            image.payload.resize(200 << 10, 0xc9);
            image.set_u32(hdr::SYSSIZE, 200 << 6);
            image.set_u8(hdr::SETUP_SECTS, sects);
        })?;
        let name = format!("setup_sects {sects} instead of 1");
        cases.add(&name, &image, end)?;
        // The same for 16-bit code, which starts where it should.
        if [0, 3, 7, 9, 63].contains(&sects) {
            let case = case(name + ", 16 bits", PC, &image, end)?;
            cases.push(case.with(|qemu| qemu.option("entry", "16")));
        }
    }
    // All of the file is setup code.
    for machine in ALL {
        let image = changed(|image| {
            image.payload.truncate(0);
            image.set_u8(hdr::SETUP_SECTS, 1);
        })?;
        cases.push(case(
            "no code",
            machine,
            &image,
            End::Fails(Error::KernelTruncated),
        )?);
    }
    cases.run()
}

/// A field of the setup header, a value, and how that ends.
#[rustfmt::skip]
const FIELDS: [(usize, usize, u64, End); 58] = {
    use End::*;
    use Error::*;
    [
        (hdr::SYSSIZE, 4, 0, Entered),
        (hdr::SYSSIZE, 4, 0x0100_0000, Fails(KernelTruncated)),
        (hdr::SYSSIZE, 4, 0xffff_ffff, Fails(KernelTruncated)),
        (hdr::SYSSIZE, 4, PAYLOAD_LEN as u64 / 16 + 3, Fails(KernelTruncated)),
        (hdr::PAYLOAD_LENGTH, 4, 0, Entered),
        (hdr::PAYLOAD_LENGTH, 4, 0xf001, Fails(KernelTruncated)),
        (hdr::PAYLOAD_LENGTH, 4, 0xffff_ffff, Fails(KernelTruncated)),
        (hdr::PAYLOAD_OFFSET, 4, 0, Either),
        (hdr::PAYLOAD_OFFSET, 4, 0x1200, Fails(BadSetupHeader)),
        (hdr::PAYLOAD_OFFSET, 4, 0xffff_ffff, Either),
        (hdr::INIT_SIZE, 4, 0, Entered),
        (hdr::INIT_SIZE, 4, 30 << 20, Entered),
        (hdr::INIT_SIZE, 4, 62 << 20, Fails(TablesTooBig(ROOM))),
        (hdr::INIT_SIZE, 4, (62 << 20) + 1, Fails(KernelTooBig(ROOM))),
        (hdr::INIT_SIZE, 4, 0x7fff_ffff, Fails(KernelTooBig(ROOM))),
        (hdr::INIT_SIZE, 4, 0xffff_ffff, Fails(KernelTooBig(ROOM))),
        (hdr::PREF_ADDRESS, 8, 0, Entered),
        (hdr::PREF_ADDRESS, 8, 32 << 20, Entered),
        (hdr::PREF_ADDRESS, 8, 64 << 20, Fails(KernelTooBig(ROOM))),
        (hdr::PREF_ADDRESS, 8, 0xffff_f000, Fails(KernelTooBig(ROOM))),
        (hdr::PREF_ADDRESS, 8, 1 << 32, Fails(BadSetupHeader)),
        (hdr::PREF_ADDRESS, 8, u64::MAX, Fails(BadSetupHeader)),
        (hdr::KERNEL_ALIGNMENT, 4, 1, Entered),
        (hdr::KERNEL_ALIGNMENT, 4, 0, Fails(BadSetupHeader)),
        (hdr::KERNEL_ALIGNMENT, 4, 3, Fails(BadSetupHeader)),
        (hdr::KERNEL_ALIGNMENT, 4, 0xffff_ffff, Fails(BadSetupHeader)),
        (hdr::KERNEL_ALIGNMENT, 4, 0x8000_0000, Fails(KernelTooBig(ROOM))),
        (hdr::CMDLINE_SIZE, 4, 1, Entered),
        (hdr::CMDLINE_SIZE, 4, 0, Fails(CommandLineTooLong(LENGTH))),
        (hdr::CMDLINE_SIZE, 4, 0xffff_ffff, Entered),
        (hdr::INITRD_ADDR_MAX, 4, 0, Entered),
        (hdr::VERSION, 2, 0, Either),
        (hdr::VERSION, 2, 0x1ff, Either),
        (hdr::VERSION, 2, 0x200, Entered),
        (hdr::VERSION, 2, 0x201, Entered),
        (hdr::VERSION, 2, 0x204, Entered),
        (hdr::VERSION, 2, 0x205, Entered),
        (hdr::VERSION, 2, 0x209, Entered),
        (hdr::VERSION, 2, 0x20a, Entered),
        (hdr::VERSION, 2, 0xffff, Entered),
        (hdr::LOADFLAGS, 1, 0, Fails(BadSetupHeader)),
        (hdr::LOADFLAGS, 1, 0xff, Entered),
        (hdr::RELOCATABLE_KERNEL, 1, 0, Entered),
        (hdr::RELOCATABLE_KERNEL, 1, 0xff, Entered),
        (hdr::XLOADFLAGS, 2, 0xffff, Entered),
        (hdr::CODE32_START, 4, 0, Entered),
        (hdr::CODE32_START, 4, 0xffff_ffff, Entered),
        (hdr::SETUP_DATA, 8, u64::MAX, Entered),
        (hdr::BOOT_FLAG, 2, 0, Entered),
        // The byte that tells where the header ends.
        (hdr::JUMP + 1, 1, 0, Fails(BadSetupHeader)),
        (hdr::JUMP + 1, 1, 0x10, Fails(BadSetupHeader)),
        (hdr::JUMP + 1, 1, 0x31, Fails(BadSetupHeader)),
        (hdr::JUMP + 1, 1, 0x32, Fails(BadSetupHeader)),
        (hdr::JUMP + 1, 1, 0x38, Fails(BadSetupHeader)),
        (hdr::JUMP + 1, 1, 0x61, Fails(BadSetupHeader)),
        (hdr::JUMP + 1, 1, 0x62, Entered),
        (hdr::JUMP + 1, 1, 0x8e, Entered),
        (hdr::JUMP + 1, 1, 0xff, Fails(BadSetupHeader)),
    ]
};

#[test]
fn header_fields() -> Result<()> {
    let mut cases = Cases::default();
    for (field, width, value, end) in FIELDS {
        let image = changed(|image| {
            image.setup[field..field + width].copy_from_slice(&value.to_le_bytes()[..width]);
        })?;
        let name = format!("{value:#x} at {field:#x}");
        let case = case(name, cases.turn(), &image, end)?;
        cases.push(case.with(|qemu| qemu.append("x")));
    }
    cases.run()
}

#[test]
fn flipped_bits_of_a_bzimage() -> Result<()> {
    let mut rng = Rng::with_seed(0x5eed);
    let mut cases = Cases::default();
    let good = linux_like()?.bytes();
    while cases.0.len() < 36 {
        let (at, bit, image) = with_flipped_bit(&good, 0x1f1..0x268, &mut rng);
        // QEMU takes the length of the file for itself, and the mark.
        if at == hdr::SETUP_SECTS || (hdr::HEADER..hdr::HEADER + 4).contains(&at) {
            continue;
        }
        cases.add(format!("bit {bit} at {at:#x}"), &image, End::Either)?;
    }
    cases.run()
}

#[test]
fn bzimages_cut_and_grown() -> Result<()> {
    let mut cases = Cases::default();
    let whole = linux_like()?.bytes();
    for len in [
        0x1004,
        0x1010,
        0x2000,
        0x8000,
        0xffe0 - 512,
        PAYLOAD_LEN - 1,
    ] {
        let name = format!("{len:#x} bytes of code");
        cases.add(
            name,
            &whole[..1024 + len],
            End::Fails(Error::KernelTruncated),
        )?;
    }
    for more in [1, 15, 16, 511, 512, 1472, 100_000, 1 << 20] {
        let mut image = whole.clone();
        image.resize(image.len() + more, 0xc9);
        cases.add(format!("{more} bytes more"), &image, End::Entered)?;
    }
    for (name, image) in [
        ("zeroes", vec![0; 8192]),
        ("ones", [&[0xff; 0x1f1][..], &[1], &[0xff; 8000]].concat()),
        ("text", b"#!/bin/sh\necho hello\n".repeat(4000)),
    ] {
        cases.add(name, &image, End::Fails(Error::UnknownKernel))?;
    }
    cases.run()
}

/// Debian's own kernels, cut anywhere: without all of their payload, or with
/// nothing of it.
#[test]
fn linux_cut() -> Result<()> {
    let mut cases = Cases::default();
    let end = End::Fails(Error::KernelTruncated);
    for flavour in [Flavour::CloudAmd64, Flavour::I686Pae] {
        let whole = std::fs::read(kernel::debian(flavour)?.bzimage)?;
        let setup_len = extract::setup_len(&whole);
        let code_len = whole.len() - setup_len;
        let payload = whole.u32(hdr::PAYLOAD_OFFSET)? as usize;
        let payload_len = whole.u32(hdr::PAYLOAD_LENGTH)? as usize;
        for (n, len) in [
            1,
            3,
            13,
            64,
            payload / 2,
            payload - 1,
            payload,
            payload + 1,
            payload + 4,
            4096,
            code_len / 2,
            payload + payload_len - 1,
        ]
        .into_iter()
        .enumerate()
        {
            let name = format!("{len:#x} bytes of {flavour:?}");
            let image = &whole[..setup_len + len];
            let plain = case(&name, cases.turn(), image, end)?;
            cases.push(plain.with(|qemu| qemu.memory_mib(256)));
            if n % 4 == 0 {
                let case = case(name + ", 16 bits", PC, image, end)?;
                cases.push(case.with(|qemu| qemu.memory_mib(256).option("entry", "16")));
            }
        }
    }
    cases.run()
}

/// A unified kernel image around a kernel as Linux's. `.linux` is the third section.
fn unified(machine: u16) -> Result<Vec<u8>> {
    let linux = linux_like()?.bytes();
    let stub = vec![0xcc; 40_000];
    Ok(uki::build(
        machine,
        &[
            (".text", &stub),
            (".cmdline", b"own=1\n"),
            (".linux", &linux),
            (".initrd", &[7; 5000]),
        ],
    ))
}

const X86_64: u16 = 0x8664;

#[test]
fn unified_kernel_images() -> Result<()> {
    use End::{Either, Entered, Fails};
    use Error::{BadUki, KernelForOtherMachine, KernelIsPe, KernelTruncated};
    let mut cases = Cases::default();
    let good = unified(X86_64)?;
    cases.add("whole", &good, Entered)?;
    cases.add("for 32 bits", &unified(0x14c)?, Entered)?;
    for (machine, name) in [(0xaa64, "ARM64"), (0x1c0, "ARM"), (0x5064, "RISC-V")] {
        cases.add(name, &unified(machine)?, Fails(KernelForOtherMachine))?;
    }
    // Where the file is cut; QEMU writes to 0x1fa with vga=.
    for sects in [1, 2, 77, 78, 79, 80, 200] {
        let mut image = good.clone();
        image[hdr::SETUP_SECTS] = sects;
        let case = case(format!("cut at {sects}"), cases.turn(), &image, Entered)?;
        cases.push(case.with(|qemu| qemu.append("vga=ask x")));
    }
    let end = u32::try_from(good.len())?;
    let linux = 0x98 + 2 * 40;
    for (what, at, value, end) in [
        ("signature", 0x3c, u32::MAX, Fails(BadUki)),
        ("signature", 0x3c, 0x4000, Fails(BadUki)),
        ("signature", 0x3c, 0x98, Fails(BadUki)),
        ("sections", 0x86, 0xffff, Fails(BadUki)),
        ("sections", 0x86, 0, Fails(KernelIsPe)),
        ("optional header", 0x94, 0xffff, Fails(BadUki)),
        ("name", linux, 0, Fails(KernelIsPe)),
        ("raw size", linux + 16, 0, Fails(KernelIsPe)),
        ("raw size", linux + 16, 0x2000, Fails(KernelTruncated)),
        ("raw size", linux + 16, u32::MAX, Entered),
        ("size", linux + 8, 1, Fails(KernelTruncated)),
        ("size", linux + 8, 0x2000, Fails(KernelTruncated)),
        ("size", linux + 8, u32::MAX, Either),
        ("place", linux + 20, 0, Fails(BadUki)),
        ("place", linux + 20, end, Fails(KernelTruncated)),
        ("place", linux + 20, u32::MAX, Fails(KernelTruncated)),
        ("initrd's place", linux + 60, 0, Entered),
        (
            "initrd's place",
            linux + 60,
            end - 4,
            Fails(KernelTruncated),
        ),
        ("line's place", linux - 20, end - 4, Fails(KernelTruncated)),
    ] {
        let image = with_word(&good, at, value);
        cases.add(format!("{what} {value:#x}"), &image, end)?;
    }
    let cut = &good[..good.len() - 512];
    cases.add("cut short", cut, Fails(KernelTruncated))?;
    cases.run()
}

#[test]
fn unified_images_of_no_bzimage() -> Result<()> {
    let mut cases = Cases::default();
    for (name, content) in [
        ("gzip", &b"\x1f\x8b\x08"[..]),
        ("ELF", b"\x7fELF"),
        ("", b""),
    ] {
        let stub = vec![0xcc; 40_000];
        let image = uki::build(X86_64, &[(".text", &stub), (".linux", content)]);
        let error = if content.is_empty() {
            Error::KernelIsPe
        } else {
            Error::BadUki
        };
        cases.add(format!("{name} as .linux"), &image, End::Fails(error))?;
    }
    cases.run()
}

#[test]
fn flipped_bits_of_a_unified_kernel_image() -> Result<()> {
    let mut rng = Rng::with_seed(0x0c0f);
    let mut cases = Cases::default();
    let good = unified(0x8664)?;
    while cases.0.len() < 24 {
        let (at, bit, image) = with_flipped_bit(&good, 0x80..0x138, &mut rng);
        cases.add(format!("bit {bit} at {at:#x}"), &image, End::Either)?;
    }
    cases.run()
}

fn elf(change: impl FnOnce(&mut Elf)) -> Result<Vec<u8>> {
    let mut elf = Elf::new(Mode::Exit)?;
    change(&mut elf);
    elf.bytes()
}

/// A kernel whose note names this entry point.
fn entered_at(entry: u32) -> Result<Vec<u8>> {
    let image = Elf::new(Mode::Exit)?.bytes()?;
    // The descriptor of the second note, behind the guest's name.
    let at = image
        .windows(16)
        .position(|window| window == [4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0]);
    Ok(with_word(&image, at.context("no note")? + 16, entry))
}

#[test]
fn elf_segments() -> Result<()> {
    use End::{Either, Entered, Fails};
    use Error::{ElfWithoutPvh, KernelOverlapsFirmware, KernelTooBig};
    let mut cases = Cases::default();
    // Address and size of a second segment without bytes in the file.
    for (addr, memory_len, end) in [
        (0x20_0000, 0x1000, Entered),
        (0x20_0000, 0x390_0000, Entered),
        (0x20_0000, 0x400_0000, Fails(KernelTooBig(ROOM))),
        (0xfffe_0000, 0x1000, Fails(KernelTooBig(ROOM))),
        (0x400_0000, 0x1000, Fails(KernelTooBig(ROOM))),
        (0x3ff_f000, 0x1001, Fails(KernelTooBig(ROOM))),
        (0x3ff_0000, 0x1_0000, Either),
        (0, 0x1000, Fails(KernelOverlapsFirmware)),
        (0x1000, 0x1000, Fails(KernelOverlapsFirmware)),
        (0x5ff0, 0x20, Fails(KernelOverlapsFirmware)),
        (0x5fff, 1, Fails(KernelOverlapsFirmware)),
        (0x6000, 1, Entered),
        (0x6000, 0x2_a000, Entered),
        (0x6000, 0x2_a001, Fails(KernelOverlapsFirmware)),
        (0x8_0000, 0x1_0000, Entered),
        (0x9_fbff, 1, Entered),
        (0x9_fbff, 2, Fails(KernelOverlapsFirmware)),
        (0xa_0000, 1, Fails(KernelOverlapsFirmware)),
        (0xf_fff0, 16, Fails(KernelOverlapsFirmware)),
        // Over the kernel's own.
        (0x10_0800, 0x1000, Entered),
    ] {
        let image = elf(|elf| {
            elf.elf64 = cases.0.len() % 2 == 1;
            elf.segments = vec![Segment {
                addr,
                data: Vec::new(),
                memory_len,
            }];
        })?;
        let name = format!("{memory_len:#x} bytes at {addr:#x}");
        cases.add(name, &image, end)?;
    }
    for entry in [
        0x8,
        0x2000,
        0xf_fff0,
        0xf_ffff,
        0x11_0000,
        0x400_0000,
        0xffff_fff0,
    ] {
        let name = format!("entered at {entry:#x}");
        cases.add(name, &entered_at(entry)?, Fails(ElfWithoutPvh))?;
    }
    cases.run()
}

#[test]
fn elf_notes_and_flipped_bits() -> Result<()> {
    let mut cases = Cases::default();
    let plain = Elf::new(Mode::Exit)?.bytes()?;
    // Where the second program header, the notes', has address and size; the
    // note's own sizes; where the segment has its.
    let (header, notes) = (52 + 32, 0x1400);
    for (what, at, value) in [
        ("notes' address", header + 12, 0),
        ("notes' address", header + 12, 0x3_0000),
        ("notes' address", header + 12, 0xffff_ff00),
        ("notes' address", header + 12, 0x10_0404),
        ("notes' address", header + 12, 0x3ff_fff0),
        ("notes' memory", header + 20, 0xffff_ffff),
        ("notes' memory", header + 20, 0),
        ("descriptor size", notes + 4, 7),
        ("number of headers", 0x2c, 0x28_0002),
        ("section headers", 0x20, 0xffff_ffff),
        ("flags of the segment", 52 + 24, 0),
        ("alignment of the segment", 52 + 28, 3),
        ("virtual address", 52 + 8, 0xffff_ffff),
    ] {
        let image = with_word(&plain, at, value);
        cases.add(format!("{what} {value:#x}"), &image, End::Either)?;
    }
    cases.run()
}

#[test]
fn multiboot() -> Result<()> {
    use End::{Either, Entered, Fails};
    let mut cases = Cases::default();
    for (addr, end) in [
        (0x10_0000, Entered),
        (0x20_0000, Entered),
        (0x1_0000, Entered),
        (0x8_0000, Entered),
        (0x3_0000, Fails(Error::KernelOverlapsFirmware)),
        (0x9_0000, Either),
        (0x3ff_8000, Fails(Error::KernelTooBig(ROOM))),
        (0x400_0000, Fails(Error::KernelTooBig(ROOM))),
    ] {
        let mut image = Multiboot::new(Mode::Exit)?;
        image.addr = addr;
        cases.add(format!("at {addr:#x}"), &image.bytes(), end)?;
    }
    // Words of the header: end of the data, end of what it zeroes, entry.
    let plain = Multiboot::new(Mode::Exit)?.bytes();
    for (word, value, end) in [
        (7, 0xf_ffff, Fails(Error::BadMultiboot)),
        (7, 0x4000_0000, Fails(Error::BadMultiboot)),
        (6, 0x20_0000, Entered),
        (6, 0x3f0_0000, Either),
        (6, 0x500_0000, Fails(Error::KernelTooBig(ROOM))),
    ] {
        let image = with_word(&plain, 0x400 + word * 4, value);
        cases.add(format!("word {word} {value:#x}"), &image, end)?;
    }
    cases.run()
}
