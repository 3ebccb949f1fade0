//! What QEMU appends to a kernel for `-dtb`, and where it says that this is.

use super::*;

const TREE: &[u8] = b"a device tree";

/// A kernel with a node behind its code, and `addr` in the header for it.
fn image(addr: impl Fn(u32) -> u64) -> Vec<u8> {
    let mut image = small_bzimage();
    let offset = u32::try_from(image.len()).unwrap();
    image[0x250..0x258].copy_from_slice(&addr(offset).to_le_bytes());
    image.extend(0_u64.to_le_bytes());
    image.extend(2_u32.to_le_bytes());
    image.extend(u32::try_from(TREE.len()).unwrap().to_le_bytes());
    image.extend(TREE);
    image
}

/// `setup_data` as the kernel is handed it, entered at 32 or 16 bits.
fn handed(image: &[u8], entry: &[u8]) -> u64 {
    let mut fw_cfg = FakeFwCfg::new();
    fw_cfg.file("etc/e820", &e820(64 << 20));
    fw_cfg.file("opt/org.qboot/entry", entry);
    let mut guest = Guest::new(Board::Microvm, fw_cfg, 64 << 20);
    guest.kernel(image);
    let page = match guest.run() {
        Ok(Handoff::Linux { boot_params, .. }) => boot_params,
        Ok(Handoff::RealMode { segment, .. }) => u32::from(segment) << 4,
        other => panic!("{other:?}"),
    };
    let field = PhysRange::fixed(page + 0x250, page + 0x258);
    u64_at(guest.machine.memory.peek(field), 0).unwrap()
}

#[test]
fn an_address_counted_from_the_start_of_the_file_is_corrected() {
    const SETUP_LEN: u32 = 1024;
    for entry in [b"32", b"16"] {
        let node = |offset: u32| u64::from(0x10_0000 + offset - SETUP_LEN);
        let right = handed(&image(node), entry);
        assert_eq!(right, 0x10_4000);
        // QEMU from 10.0 on.
        let wrong = image(|offset| u64::from(0x10_0000 + offset));
        assert_eq!(handed(&wrong, entry), right);
        // Something else is there: nothing to correct it to.
        let mut other = wrong.clone();
        other.push(0);
        assert_eq!(handed(&other, entry), right + u64::from(SETUP_LEN));
        for addr in [1, 0x3ff, 0xffff_ffff, 1 << 32, u64::MAX] {
            assert_eq!(handed(&image(|_| addr), entry), addr);
        }
        assert_eq!(handed(&image(|_| 0), entry), 0);
    }
}
