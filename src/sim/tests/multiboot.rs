//! Multiboot kernels, where QEMU says that they are.

use super::*;

/// How a boot ends whose image of `len` bytes QEMU has at `addr`; `entry` is counted from
/// there. Below 1 MiB it starts as an ELF file does.
fn boot(addr: u32, len: usize, entry: u32) -> Result<Handoff> {
    let magic: &[u8] = if addr < layout::HIGH_RAM {
        b"\x7fELF"
    } else {
        b""
    };
    boot_with(magic, addr, len, entry)
}

fn boot_with(magic: &[u8], addr: u32, len: usize, entry: u32) -> Result<Handoff> {
    let mut fw_cfg = FakeFwCfg::new();
    fw_cfg.file("etc/e820", &e820(64 << 20));
    let mut guest = Guest::new(Board::Pc, fw_cfg, 64 << 20);
    // Its command line and its empty list of modules are its own zeroes.
    let mut draft = [0; 88];
    for at in [16, 24] {
        draft[at..at + 4].copy_from_slice(&addr.max(layout::HIGH_RAM).to_le_bytes());
    }
    let mut image = std::vec![0; len];
    image[..magic.len()].copy_from_slice(magic);
    guest.multiboot(&image, addr, addr.wrapping_add(entry), &draft);
    let result = guest.run();
    assert_eq!(guest.check(result), Ok(()));
    result
}

#[test]
fn an_entry_lies_in_the_image() {
    let at = |addr, entry| boot(addr, 0x3000, entry);
    for (addr, entry) in [(0x10_0000, 0), (0x10_0000, 0x2fff), (0xf_f000, 0x1000)] {
        let result = at(addr, entry);
        let is_there =
            matches!(result, Ok(Handoff::Multiboot { entry: there, .. }) if there == addr + entry);
        assert!(is_there, "{addr:x} {entry:x}: {result:?}");
    }
    for (addr, entry) in [
        (0x10_0000, 0x3000),
        (0x10_0000, u32::MAX),
        // The file's headers in the page before are no part of it.
        (0xf_f000, 0xfff),
    ] {
        assert_eq!(
            at(addr, entry),
            Err(Error::BadMultiboot),
            "{addr:x} {entry:x}"
        );
    }
}

#[test]
fn an_image_without_room_says_where() {
    for addr in [0x5000, 0x3_0000, 0x9_f000, 0xf_e000] {
        let result = boot(addr, 0x3000, 0);
        assert_eq!(result, Err(Error::KernelOverlapsFirmware), "{addr:x}");
    }
    // Only an ELF file's headers are left out.
    let result = boot_with(b"\x7fELX", 0xf_f000, 0x3000, 0x1000);
    assert_eq!(result, Err(Error::KernelOverlapsFirmware));
    for (addr, len) in [
        (0x10_0000, 64 << 20),
        (0x3ff_f000, 0x2000),
        (0xffff_f000, 0x1001),
    ] {
        let result = boot(addr, len, 0);
        assert!(matches!(result, Err(Error::KernelTooBig(_))), "{result:?}");
    }
    // An address of 0 is QEMU's for none.
    assert_eq!(boot(0, 0x3000, 0x1000), Err(Error::UnknownKernel));
}
