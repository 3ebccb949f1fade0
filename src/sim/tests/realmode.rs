//! Kernels that are entered at their 16-bit code, and multiboot's: what they
//! are handed is checked, and the oracle sees what is wrong with it.

use super::*;

/// A captured machine that boots this bzImage at its 16-bit code.
fn real_mode(board: Board, name: &str, image: &[u8]) -> (Guest, Result<Handoff>) {
    let mut device = capture::device(name);
    device.file("opt/org.qboot/entry", b"16");
    let mut guest = Guest::new(board, device, ram_of(name));
    guest.genuine = true;
    guest.command_line(b"console=ttyS0");
    guest.initrd(&std::vec![7; 12345]);
    guest.kernel(image);
    let result = guest.run();
    (guest, result)
}

/// Of boot protocols 2.1 and 2.15, and a zImage.
fn images() -> [Vec<u8>; 3] {
    let with = |protocol: u16, flags: u8| {
        let mut image = small_bzimage();
        image[0x206..0x208].copy_from_slice(&protocol.to_le_bytes());
        image[0x211] = flags;
        image[0x214..0x218].copy_from_slice(&0x1000_u32.to_le_bytes());
        image[0x240] = 0x77;
        image
    };
    [with(0x20f, 1), with(0x201, 1), with(0x20f, 0)]
}

/// A kernel linked to 1 MiB, its ELF headers in the page before, two modules.
fn multiboot(board: Board, name: &str) -> (Guest, Result<Handoff>) {
    let mut image = std::vec![0x90; 0x4000];
    image[..4].copy_from_slice(b"\x7fELF");
    for (n, (start, end)) in [(0x10_2000_u32, 0x10_2123), (0x10_3000, 0x10_3000)]
        .into_iter()
        .enumerate()
    {
        for (i, field) in [start, end, 0x10_1100, 0].into_iter().enumerate() {
            image[0x2000 + 16 * n + 4 * i..][..4].copy_from_slice(&field.to_le_bytes());
        }
    }
    image[0x2100..0x2118].copy_from_slice(b"module args\0kernel args\0");
    let mut draft = std::vec![0; 88];
    for (at, value) in [(16, 0x10_110c_u32), (20, 2), (24, 0x10_1000)] {
        draft[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    let mut guest = Guest::new(board, capture::device(name), ram_of(name));
    guest.genuine = true;
    guest.multiboot(&image, 0xf_f000, 0x10_0010, &draft);
    let result = guest.run();
    (guest, result)
}

#[test]
fn they_are_handed_a_consistent_kernel() {
    for (name, board) in CAPTURES {
        for image in images() {
            let (guest, result) = real_mode(board, name, &image);
            assert!(
                matches!(result, Ok(Handoff::RealMode { .. })),
                "{name}: {result:?}"
            );
            assert_eq!(guest.check(result), Ok(()), "{name}");
        }
        let (guest, result) = multiboot(board, name);
        assert!(
            matches!(result, Ok(Handoff::Multiboot { .. })),
            "{name}: {result:?}"
        );
        assert_eq!(guest.check(result), Ok(()), "{name}");
    }
}

/// Heap and stack follow the setup code: 512 bytes are the least.
#[test]
fn setup_code_leaves_room_for_its_stack() {
    for (protocol, sects, fits) in [
        (0x20f_u16, 110_u8, true),
        (0x20f, 111, false),
        (0x201, 74, true),
        (0x201, 75, false),
    ] {
        let mut image = small_bzimage();
        let code = image.split_off(1024);
        image[0x1f1] = sects;
        image[0x206..0x208].copy_from_slice(&protocol.to_le_bytes());
        image.resize((usize::from(sects) + 1) * 512, 0);
        image.extend(code);
        let (guest, result) = real_mode(Board::Pc, "pc", &image);
        assert_eq!(guest.check(result), Ok(()));
        let expected = if fits {
            None
        } else {
            Some(Error::Needs16BitEntry)
        };
        assert_eq!(result.err(), expected, "{protocol:x} {sects}");
    }
}

/// Flips bits at `addr`; gives what the oracle says then.
fn damaged((mut guest, result): (Guest, Result<Handoff>), addr: u32) -> String {
    assert_eq!(guest.check(result), Ok(()));
    guest.machine.memory.bytes[addr as usize] ^= 0x5a;
    let verdict = guest.check(result);
    verdict.expect_err(&format!("nothing seen of {addr:#x}"))
}

fn word(guest: &Guest, addr: u32) -> u32 {
    u32_at(
        guest.machine.memory.peek(PhysRange::fixed(addr, addr + 4)),
        0,
    )
    .unwrap()
}

#[test]
fn damage_to_16_bit_kernels_is_seen() {
    for (n, image) in images().iter().enumerate() {
        let boot = || real_mode(Board::Pc, "pc", image);
        let (guest, result) = boot();
        let Ok(Handoff::RealMode {
            segment,
            stack,
            low_kernel,
        }) = result
        else {
            panic!("{result:?}");
        };
        let base = u32::from(segment) << 4;
        let initrd = word(&guest, base + 0x218);
        let kernel = low_kernel.map_or(layout::HIGH_RAM, PhysRange::start);
        for (at, complaint) in [
            (base, "setup code"),
            (base + 0x210, "setup code"),
            (base + 0x225, "setup code"),
            (base + 0x240, "setup code"),
            // The line's pointer, or what comes before protocol 2.2.
            (base + if n == 1 { 0x22 } else { 0x228 }, "setup code"),
            (base + u32::from(stack), "command line"),
            (initrd + 12344, "initrd"),
            (kernel + 0x3fff, "kernel"),
            (layout::EBDA.start(), "EBDA"),
            (layout::EBDA.start() + 0x10, "above 1 MiB"),
            (layout::EBDA.start() + 0x16, "EBDA"),
            (layout::EBDA.start() + 0x20 + 21, "E820"),
        ] {
            let verdict = damaged(boot(), at);
            assert!(verdict.contains(complaint), "{n}, {at:#x}: {verdict}");
        }
        let (guest, result) = boot();
        let wrong = |handoff| guest.check(Ok(handoff)).is_err();
        assert_eq!(guest.check(result), Ok(()));
        assert!(wrong(Handoff::RealMode {
            segment: segment + 1,
            stack,
            low_kernel
        }));
        assert!(wrong(Handoff::RealMode {
            segment,
            stack: stack - 2,
            low_kernel
        }));
        assert!(wrong(Handoff::RealMode {
            segment,
            stack,
            low_kernel: match low_kernel {
                Some(_) => None,
                None => Some(PhysRange::fixed(0x20_0000, 0x20_4000)),
            }
        }));
    }
}

#[test]
fn damage_to_multiboot_kernels_is_seen() {
    let boot = || multiboot(Board::Q35, "q35");
    let (guest, result) = boot();
    let Ok(Handoff::Multiboot { entry, info }) = result else {
        panic!("{result:?}");
    };
    let name = word(&guest, info + 64);
    for (at, complaint) in [
        (info, "flags"),
        (info + 4, "KiB of memory"),
        (info + 8, "KiB of memory"),
        (info + 17, "became"),
        (info + 20, "became"),
        (info + 25, "became"),
        (info + 44, "of a map"),
        (info + 48, "of a map"),
        (info + 64, "of a map"),
        (info + 88, "map entry"),
        (info + 88 + 24 + 6, "INT 15h"),
        (layout::HIGH_RAM, "kernel"),
        (0x10_2fff, "kernel"),
        (layout::EBDA.start() + 0x20 + 1, "INT 15h"),
    ] {
        let verdict = damaged(boot(), at);
        assert!(verdict.contains(complaint), "{at:#x}: {verdict}");
    }
    assert_eq!(word(&guest, name), u32::from_le_bytes(*b"qboo"));
    for entry in [layout::HIGH_RAM - 1, 0x10_3000] {
        let verdict = guest.check(Ok(Handoff::Multiboot { entry, info }));
        assert!(verdict.unwrap_err().contains("outside"), "{entry:#x}");
    }
    // Modules that QEMU never put there are not the firmware's to pass on.
    let (mut guest, result) = boot();
    let list = &mut guest.machine.memory.bytes[0x10_1004..0x10_1008];
    list.copy_from_slice(&0x10_3001_u32.to_le_bytes());
    let mut image = guest.machine.fw_cfg.data(item::KERNEL_DATA).to_vec();
    image[0x2004..0x2008].copy_from_slice(&0x10_3001_u32.to_le_bytes());
    guest.machine.fw_cfg.item(item::KERNEL_DATA, &image);
    let verdict = guest.check(result).unwrap_err();
    assert!(verdict.contains("module 0"), "{entry:#x}: {verdict}");
}
