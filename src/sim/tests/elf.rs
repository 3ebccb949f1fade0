//! ELF kernels whose headers, segments and notes are not where most have them.

use super::*;
use crate::error::Length;

/// How a boot of `file` ends, whose entry QEMU has found at `entry`, and how many
/// transfers it took.
fn boot(file: &[u8], entry: u32, line: usize) -> (Result<Handoff>, usize) {
    let mut guest = Guest::new(Board::Microvm, capture::device("microvm"), 512 << 20);
    guest.command_line(&std::vec![b'x'; line]);
    guest.initrd(&[7; 5000]);
    assert!(guest.elf(file, entry));
    let before = guest.machine.fw_cfg.transfers;
    let result = guest.run();
    assert_eq!(guest.check(result), Ok(()));
    (result, guest.machine.fw_cfg.transfers - before)
}

/// The entry that a kernel is handed over at.
fn entry(result: Result<Handoff>) -> Option<u32> {
    match result {
        Ok(Handoff::Pvh { entry, .. }) => Some(entry),
        _ => None,
    }
}

/// The kernel with one segment more.
fn with_segment(addr: u32, len: u32) -> Vec<u8> {
    let mut file = small_elf();
    file[0x2c] = 3;
    let fields = [1, 0x2000, addr, addr, 16, len, 7, 16];
    for (slot, field) in file[116..148].chunks_mut(4).zip(fields) {
        slot.copy_from_slice(&field.to_le_bytes());
    }
    file
}

#[test]
fn headers_behind_the_first_kib_take_one_transfer_more() {
    let plain = small_elf();
    let mut far = plain.clone();
    far.copy_within(52..116, 0x800);
    far[52..116].fill(0);
    far[0x1c..0x20].copy_from_slice(&0x800_u32.to_le_bytes());
    let (result, usual) = boot(&plain, 0x10_0000, 2047);
    assert_eq!(entry(result), Some(0x10_0000));
    let (result, more) = boot(&far, 0x10_0000, 2047);
    assert_eq!((entry(result), more), (Some(0x10_0000), usual + 1));
    // It is known for Linux by its notes, and Linux takes no longer line.
    for file in [plain, far] {
        let too_long = Err(Error::CommandLineTooLong(Length::new(2048, 2047)));
        assert_eq!(boot(&file, 0x10_0000, 2048).0, too_long);
    }
}

#[test]
fn the_notes_entry_goes_before_the_one_that_qemu_has_found() {
    let mut file = small_elf();
    assert_eq!(entry(boot(&file, 0x10_0010, 10).0), Some(0x10_0000));
    // Without notes QEMU's counts, if it is in the kernel; nobody knows of Linux then.
    file[0x1400..0x1500].fill(0);
    assert_eq!(entry(boot(&file, 0x10_0010, 3000).0), Some(0x10_0010));
    for outside in [0xf_ffff, 0x10_8000, 0x2000] {
        let (result, _) = boot(&file, outside, 10);
        assert_eq!(result, Err(Error::ElfWithoutPvh), "{outside:x}");
    }
}

#[test]
fn a_segment_in_low_memory_is_kept() {
    for (addr, len) in [(0x6000, 0x1000), (0x2_f000, 0x1000), (0x8_0000, 0x1_fc00)] {
        let (result, _) = boot(&with_segment(addr, len), 0x10_0000, 10);
        // The last leaves no room for the command line but in the lower part.
        assert_eq!(entry(result), Some(0x10_0000), "{addr:x}");
    }
    for (addr, len) in [
        (0x5fff, 0x10),
        (0x2_f001, 0x1000),
        (0x7_ffff, 0x10),
        (0x9_fbff, 2),
        (0xf_0000, 0x10),
    ] {
        let (result, _) = boot(&with_segment(addr, len), 0x10_0000, 10);
        assert_eq!(result, Err(Error::KernelOverlapsFirmware), "{addr:x}");
    }
    for (addr, len) in [(0x1ff0_0000, 0x10_0001), (0x10_0000, 512 << 20)] {
        let (result, _) = boot(&with_segment(addr, len), 0x10_0000, 10);
        assert!(matches!(result, Err(Error::KernelTooBig(_))), "{result:?}");
    }
}
