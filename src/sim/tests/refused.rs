//! Kernels, maps and directories that are refused, and why.

use super::*;

/// A machine with 16 MiB, and a kernel that boots there.
fn small_guest(image: &[u8]) -> Guest {
    let mut fw_cfg = FakeFwCfg::new();
    fw_cfg.file("etc/e820", &e820(64 << 20));
    let mut guest = Guest::new(Board::Microvm, fw_cfg, 64 << 20);
    guest.command_line(b"x");
    guest.kernel(image);
    guest
}

fn outcome(mut guest: Guest) -> Result<Handoff> {
    let result = guest.run();
    assert_eq!(guest.check(result), Ok(()));
    result
}

#[test]
fn a_payload_that_is_cut_short_is_refused() {
    let magics: [&[u8]; 7] = [
        &[0x1f, 0x8b, 8],
        b"BZh",
        &[0x5d, 0, 0],
        &[0xfd, b'7', b'z', b'X', b'Z', 0],
        &[0x89, b'L', b'Z', b'O'],
        &[0x02, 0x21, 0x4c, 0x18],
        &[0x28, 0xb5, 0x2f, 0xfd],
    ];
    for magic in magics {
        // The payload fills the code: bytes 0x100 to 0x4000.
        let mut image = small_bzimage();
        image[0x248..0x24c].copy_from_slice(&0x100_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&0x3f00_u32.to_le_bytes());
        image[0x500..0x500 + magic.len()].copy_from_slice(magic);
        assert!(outcome(small_guest(&image)).is_ok(), "{magic:x?}");
        image.truncate(image.len() - 1);
        let cut = outcome(small_guest(&image));
        assert_eq!(cut, Err(Error::KernelTruncated), "{magic:x?}");
        // The payload is whole; what follows it by syssize is not.
        image.push(0);
        image[0x1f4..0x1f8].copy_from_slice(&(0x4000_u32 / 16 + 3).to_le_bytes());
        let cut = outcome(small_guest(&image));
        assert_eq!(cut, Err(Error::KernelTruncated), "{magic:x?}");
        // Somebody's own code behind that header.
        image[0x500..0x508].fill(0xc9);
        image.truncate(0x1000);
        assert!(outcome(small_guest(&image)).is_ok(), "{magic:x?}");
    }
}

#[test]
fn linux_that_ends_before_its_payload_is_refused() {
    // The first instructions of Linux 6.1, with 64 bits and with 32, and of
    // 4.19, which looks at `loadflags` first.
    let entries: [&[u8]; 3] = [
        &[
            0xfc, 0xfa, 0x8d, 0xa6, 0xe8, 1, 0, 0, 0xe8, 0, 0, 0, 0, 0x5d, 0x83, 0xed, 0x0d,
        ],
        &[
            0xfc, 0xfa, 0x8d, 0xa6, 0xe8, 1, 0, 0, 0xe8, 0, 0, 0, 0, 0x5a, 0x81, 0xc2, 0xf3,
        ],
        &[
            0xfc, 0xf6, 0x86, 0x11, 2, 0, 0, 0x40, 0x75, 0x0f, 0xfa, 0xb8, 0x18, 0, 0, 0, 0x8e,
            0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0x8d, 0xa6, 0xe8, 1, 0, 0, 0xe8, 0, 0, 0, 0, 0x5d, 0x83,
        ],
    ];
    let cut = |image: &[u8], len: usize| outcome(small_guest(&image[..1024 + len]));
    for entry in entries {
        let mut image = small_bzimage();
        image[0x248..0x24c].copy_from_slice(&0x2cc_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&0x3000_u32.to_le_bytes());
        image[0x400..0x400 + entry.len()].copy_from_slice(entry);
        assert!(outcome(small_guest(&image)).is_ok(), "{entry:x?}");
        // Where its stack begins; before that nothing says it is Linux's.
        let told = entry.iter().position(|byte| *byte == 0x8d).unwrap() + 1;
        for len in [1, 2].into_iter().chain(told..0x2d0) {
            let refused = cut(&image, len);
            assert_eq!(refused, Err(Error::KernelTruncated), "{len} of {entry:x?}");
        }
        // Somebody's own code behind that header, which clears the flag too.
        image[0x401..0x408].fill(0x90);
        image[0x408..0x430].fill(0xf4);
        for len in [3, 64, 0x1000] {
            assert!(cut(&image, len).is_ok(), "{len}");
        }
    }
}

/// A kernel of 40 setup sectors and 256 KiB of code: a compressed payload at
/// 0x2cc, a signature behind what `syssize` counts.
fn signed_bzimage(magic: &[u8]) -> Vec<u8> {
    let mut image = small_bzimage();
    let setup_len = 41 * 512;
    image.resize(setup_len + 0x4_0000 + 1472, 0);
    image[0x400..].fill(0xc9);
    image[0x1f1] = 40;
    image[0x1f4..0x1f8].copy_from_slice(&(0x4_0000_u32 / 16).to_le_bytes());
    image[0x248..0x24c].copy_from_slice(&0x2cc_u32.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&0x3_f000_u32.to_le_bytes());
    image[setup_len + 0x2cc..][..magic.len()].copy_from_slice(magic);
    image
}

#[test]
fn setup_sects_that_lie_are_refused() {
    let image = signed_bzimage(b"\x1f\x8b\x08");
    assert!(outcome(small_guest(&image)).is_ok());
    for sects in 0..=255 {
        if sects == 40 {
            continue;
        }
        let mut image = image.clone();
        image[0x1f1] = sects;
        let refused = outcome(small_guest(&image));
        assert_eq!(refused, Err(Error::BadSetupHeader), "{sects}");
    }
    // Somebody's own code: nothing tells where it starts, and it comes over whole.
    let mut image = signed_bzimage(b"own");
    for sects in [1, 39, 41, 255] {
        image[0x1f1] = sects;
        assert!(outcome(small_guest(&image)).is_ok(), "{sects}");
    }
}

/// `setup_sects` moves the code by 255 sectors at most: code that lacks more is not a
/// kernel cut at the wrong place.
#[test]
fn code_that_lacks_too_much_is_somebodys_own() {
    const MOST: usize = 255 * 512;
    for (missing, refused) in [(MOST, true), (MOST + 1, false), (MOST + 512, false)] {
        let mut image = signed_bzimage(b"own");
        let code = 41 * 512;
        let moved = code + 0x2cc + 512;
        image[moved..moved + 3].copy_from_slice(b"\x1f\x8b\x08");
        // What `syssize` says, but for the signature's 32 bytes.
        image.truncate(code + 0x4_0000 - 32 - missing);
        let expected = refused.then_some(Error::BadSetupHeader);
        assert_eq!(outcome(small_guest(&image)).err(), expected, "{missing}");
    }
}

#[test]
fn an_image_without_code_is_refused() {
    // With and without sizes in its header; entered in 32 and in 16 bits.
    for (syssize, protocol) in [(0x400_u32, 0x20f_u16), (0, 0x20f), (0x400, 0x204)] {
        let mut image = small_bzimage();
        image[0x1f4..0x1f8].copy_from_slice(&syssize.to_le_bytes());
        image[0x206..0x208].copy_from_slice(&protocol.to_le_bytes());
        assert!(outcome(small_guest(&image)).is_ok());
        image.truncate(1024);
        let empty = outcome(small_guest(&image));
        assert_eq!(empty, Err(Error::KernelTruncated), "{syssize} {protocol:x}");
    }
}

#[test]
fn a_header_that_contradicts_itself_is_refused() {
    // It ends before init_size, and before relocatable_kernel.
    for (end, outcome_is) in [(0x26c, None), (0x263, Some(())), (0x233, Some(()))] {
        let mut image = small_bzimage();
        image[0x201] = (end - 0x202) as u8;
        let expected = outcome_is.map(|()| Error::BadSetupHeader);
        assert_eq!(outcome(small_guest(&image)).err(), expected, "{end:x}");
    }
    // An old one, which ends before ramdisk_size.
    for (end, expected) in [
        (0x220, None),
        (0x21f, Some(Error::BadSetupHeader)),
        (0x211, Some(Error::BadSetupHeader)),
    ] {
        let mut image = small_bzimage();
        image[0x206] = 4;
        image[0x201] = (end - 0x202) as u8;
        assert_eq!(outcome(small_guest(&image)).err(), expected, "{end:x}");
    }
    // It belongs below 640 KiB, and its setup code jumps to 1 MiB.
    let mut image = small_bzimage();
    image[0x211] = 0;
    image[0x214..0x218].copy_from_slice(&0x1000_u32.to_le_bytes());
    assert!(outcome(small_guest(&image)).is_ok());
    image[0x214..0x218].copy_from_slice(&0x10_0000_u32.to_le_bytes());
    assert_eq!(outcome(small_guest(&image)), Err(Error::BadSetupHeader));
}

#[test]
fn reserved_low_memory_is_refused() {
    // Command line and zero page would lie in memory that the kernel is told
    // to keep away from.
    for kind in [2, 0, 5] {
        let mut guest = small_guest(&small_bzimage());
        let mut map = e820(64 << 20);
        map.extend(e820_entry(0x8_0000, 0x1000, kind));
        let selector = guest.machine.fw_cfg.selector("etc/e820").unwrap();
        guest.machine.fw_cfg.item(selector, &map);
        let mut dir = guest.machine.fw_cfg.data(item::FILE_DIR).to_vec();
        dir[4..8].copy_from_slice(&(map.len() as u32).to_be_bytes());
        guest.machine.fw_cfg.item(item::FILE_DIR, &dir);
        assert_eq!(outcome(guest), Err(Error::BadE820));
    }
}

#[test]
fn a_directory_that_leaves_no_room_is_too_large() {
    let mut guest = small_guest(&small_bzimage());
    for _ in 0..5110 {
        guest.machine.fw_cfg.file("opt/a", b"");
    }
    assert_eq!(outcome(guest), Err(Error::TooManyFiles));
}

#[test]
fn a_kernel_that_fills_low_memory_leaves_no_room() {
    let mut file = small_elf();
    let mut put = |at: usize, value: u32| file[at..at + 4].copy_from_slice(&value.to_le_bytes());
    // One segment at the bottom of free low memory, one over the rest.
    put(52 + 12, 0x6000);
    put(52 + 20, 0x2_a000);
    put(84, 1);
    put(84 + 12, 0x8_0000);
    put(84 + 20, 0x1_fc00 - 0x900);
    let mut guest = small_guest(&small_bzimage());
    assert!(guest.elf(&file, 0x6000));
    assert_eq!(outcome(guest), Err(Error::KernelOverlapsFirmware));
}
