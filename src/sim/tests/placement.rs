//! Kernels, initrds and command lines of any size on machines of any size.

use super::*;
use proptest::prelude::*;

/// RAM below 4 GiB that a test of this width can have.
fn any_ram() -> impl Strategy<Value = u64> {
    let most: u64 = if usize::BITS == 64 {
        8 << 30
    } else {
        256 << 20
    };
    prop_oneof![
        1_u64 << 20..64 << 20,
        1_u64 << 20..most,
        Just(LOW_RAM_MAX.min(most)),
    ]
    .prop_map(|ram| ram & !0xfff)
}

fn low_ram(ram: u64, board: Board) -> u64 {
    let most = if board == Board::Q35 {
        0x8000_0000
    } else {
        LOW_RAM_MAX
    };
    ram.min(most)
}

fn any_board() -> impl Strategy<Value = Board> {
    prop_oneof![Just(Board::Pc), Just(Board::Q35), Just(Board::Microvm)]
}

/// Sizes up to `most`, of every magnitude.
fn any_size(most: u32) -> impl Strategy<Value = u32> {
    (0_u32..32, any::<u32>()).prop_map(move |(shift, value)| (value >> shift) % most.max(1))
}

/// A machine of that size: memory that is never touched costs nothing.
fn sized(board: Board, ram: u64, tables: &str) -> Guest {
    let mut fw_cfg = FakeFwCfg::new();
    fw_cfg.sparse = true;
    for (name, _, data) in capture::items(tables) {
        if !name.is_empty() && name != "etc/e820" {
            fw_cfg.file(&name, &data);
        }
    }
    let low = low_ram(ram, board);
    let mut map = e820_entry(0, low, 1);
    if ram > low {
        map.extend(e820_entry(1 << 32, ram - low, 1));
    }
    fw_cfg.file("etc/e820", &map);
    let mut guest = Guest::new(board, fw_cfg, u32::try_from(low).unwrap());
    guest.genuine = true;
    guest.machine.memory.max_written = 4 << 20;
    guest
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any kernel, initrd and command line on any machine: it boots with
    /// everything in its place, or an error says why not.
    #[test]
    fn bzimages_are_placed_or_refused(
        (board, ram) in (any_board(), any_ram()),
        (size, init_size) in (any_size(1 << 30), any_size(u32::MAX)),
        (pref, align) in (any_size(1 << 31), 0_u32..30),
        (initrd, initrd_max) in (any_size(u32::MAX), any_size(u32::MAX)),
        (line, limit) in (0_usize..3000, 0_u32..70000),
        above: bool,
    ) {
        let tables = match board { Board::Pc => "pc", Board::Q35 => "q35", Board::Microvm => "microvm" };
        let mut guest = sized(board, ram, tables);
        let mut image = small_bzimage();
        let mut put = |at: usize, value: u32| image[at..at + 4].copy_from_slice(&value.to_le_bytes());
        put(0x22c, initrd_max);
        put(0x230, 1 << align);
        put(0x238, limit);
        put(0x258, pref);
        put(0x260, init_size);
        image[0x236] = if above { 2 } else { 0 };
        guest.command_line(&std::vec![b'x'; line]);
        guest.initrd(&std::vec![0x5a; initrd.min(5000) as usize]);
        guest.machine.fw_cfg.item(item::INITRD_SIZE, &initrd.to_le_bytes());
        guest.kernel(&image);
        guest.machine.fw_cfg.item(item::KERNEL_SIZE, &size.to_le_bytes());
        let result = guest.run();
        prop_assert_eq!(guest.check(result), Ok(()), "{:x?}", result);
        let room = low_ram(ram, board).saturating_sub(32 << 20);
        let needs = u64::from(size.max(pref.saturating_add(init_size))) + u64::from(initrd)
            + (1_u64 << align);
        if size != 0 && needs < room && (above || initrd == 0) && line as u32 <= limit && limit < 60000 {
            prop_assert!(result.is_ok(), "{:?} with room for all of it", result);
        }
    }

    /// The same for what QEMU has loaded.
    #[test]
    fn elf_kernels_are_kept_whole(
        (board, ram) in (any_board(), any_ram()),
        (memsz, addr) in (any_size(1 << 30), any_size(1 << 28)),
        (initrd, line) in (any_size(u32::MAX), 0_usize..3000),
    ) {
        let tables = match board { Board::Pc => "pc", Board::Q35 => "q35", Board::Microvm => "microvm" };
        let mut guest = sized(board, ram, tables);
        let mut file = small_elf();
        let addr = addr & !0xfff;
        let mut put = |at: usize, value: u32| file[at..at + 4].copy_from_slice(&value.to_le_bytes());
        put(52 + 8, addr);
        put(52 + 12, addr);
        put(52 + 20, memsz.max(0x2000));
        put(84 + 12, addr + 0x400);
        put(0x1400 + 12 + 4 + 8 + 12 + 4, addr);
        guest.command_line(&std::vec![b'x'; line]);
        guest.initrd(&std::vec![0x5a; initrd.min(5000) as usize]);
        guest.machine.fw_cfg.item(item::INITRD_SIZE, &initrd.to_le_bytes());
        prop_assume!(guest.elf(&file, addr));
        let result = guest.run();
        prop_assert_eq!(guest.check(result), Ok(()), "{:x?}", result);
        let room = low_ram(ram, board).saturating_sub(4 << 20);
        let needs = u64::from(addr) + u64::from(memsz) + u64::from(initrd);
        if needs < room && addr >= 1 << 20 && line < 2048 {
            prop_assert!(result.is_ok(), "{:?} with room for all of it", result);
        }
    }
}
