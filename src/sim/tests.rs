//! Captured machines booted on the host, and placement on machines of any
//! size.

use super::*;
use crate::capture;
use proptest::prelude::*;
use std::path::PathBuf;
use std::string::ToString;

/// A bzImage of a few KiB with a likely header.
fn small_bzimage() -> Vec<u8> {
    let mut image = std::vec![0; 1024 + 0x4000];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x66]);
    put(0x202, b"HdrS");
    put(0x206, &0x20f_u16.to_le_bytes());
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x230, &0x20_0000_u32.to_le_bytes());
    put(0x234, &[1, 21]);
    put(0x238, &2047_u32.to_le_bytes());
    put(0x24c, &0x1000_u32.to_le_bytes());
    put(0x258, &0x100_0000_u64.to_le_bytes());
    put(0x260, &0x80_0000_u32.to_le_bytes());
    image
}

const CAPTURES: [(&str, Board); 10] = [
    ("pc", Board::Pc),
    ("q35", Board::Q35),
    ("microvm", Board::Microvm),
    ("pc-numa-64cpus", Board::Pc),
    ("q35-nvdimm-vmgenid", Board::Q35),
    ("pc-80-bridges", Board::Pc),
    ("q35-smbios3", Board::Q35),
    ("pc-smbios-60k", Board::Pc),
    ("q35-smbios3-60k", Board::Q35),
    ("pc-acpitable", Board::Pc),
];

/// Bytes of RAM of a captured machine.
fn ram_of(name: &str) -> u32 {
    if name == "pc-numa-64cpus" {
        1024 << 20
    } else {
        512 << 20
    }
}

#[test]
fn captured_machines_boot_and_hand_over_a_consistent_kernel() {
    for (name, board) in CAPTURES {
        let mut guest = Guest::new(board, capture::device(name), ram_of(name));
        guest.genuine = true;
        guest.command_line(b"console=ttyS0");
        guest.initrd(&std::vec![7; 12345]);
        guest.kernel(&small_bzimage());
        let result = guest.run();
        assert!(
            matches!(result, Ok(Handoff::Linux { .. })),
            "{name}: {result:?}"
        );
        assert_eq!(guest.check(result), Ok(()), "{name}");
    }
}

/// Whether x2APIC mode is turned on for processors below this APIC id.
fn turns_x2apic_on(apic_id_limit: u16, line: &[u8], has_it: bool) -> bool {
    use core::sync::atomic::{AtomicBool, Ordering};
    static ON: AtomicBool = AtomicBool::new(false);
    ON.store(false, Ordering::Relaxed);
    let mut fw_cfg = capture::device("pc-80-bridges");
    fw_cfg.item(0x0f, &apic_id_limit.to_le_bytes());
    let mut guest = Guest::new(Board::Pc, fw_cfg, 512 << 20);
    guest.found.enable_x2apic = || ON.store(true, Ordering::Relaxed);
    guest.found.cpuid = match has_it {
        true => |leaf, _| [0xd, 0, u32::from(leaf == 1) << 21, 0],
        false => |leaf, _| [0xd, 0, !(1 << 21), leaf],
    };
    guest.command_line(line);
    guest.kernel(&small_bzimage());
    let result = guest.run();
    assert!(result.is_ok(), "{result:?}");
    ON.load(Ordering::Relaxed)
}

#[test]
fn x2apic_is_on_for_ids_that_need_it() {
    assert!(turns_x2apic_on(256, b"", true), "id 255");
    assert!(turns_x2apic_on(1024, b"", true));
    assert!(!turns_x2apic_on(255, b"", true), "id 254");
    assert!(!turns_x2apic_on(256, b"", false), "without x2APIC");
    // The MP table has no room for such ids, and its users none for the mode.
    assert!(!turns_x2apic_on(256, b"acpi=off", true));
}

/// An ELF with one segment at 1 MiB and Linux's notes in it.
fn small_elf() -> Vec<u8> {
    let mut file = std::vec![0; 0x3000];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x01\x01\x01");
    put(0x1c, &52_u32.to_le_bytes());
    put(0x2a, &32_u16.to_le_bytes());
    put(0x2c, &2_u16.to_le_bytes());
    let mut header = |at, fields: [u32; 8]| {
        for (i, field) in fields.iter().enumerate() {
            put(at + 4 * i, &field.to_le_bytes());
        }
    };
    header(
        52,
        [1, 0x1000, 0x10_0000, 0x10_0000, 0x2000, 0x8000, 7, 0x1000],
    );
    header(84, [4, 0x1400, 0x10_0400, 0x10_0400, 44, 44, 4, 4]);
    let mut notes = Vec::new();
    for (kind, desc) in [
        (6_u32, &b"linux\0\0\0"[..]),
        (18, &0x10_0000_u32.to_le_bytes()),
    ] {
        for word in [4, desc.len() as u32, kind] {
            notes.extend(word.to_le_bytes());
        }
        notes.extend(b"Xen\0");
        notes.extend(desc);
    }
    put(0x1400, &notes);
    file
}

#[test]
fn captured_machines_boot_elf_kernels() {
    for (name, board) in CAPTURES {
        let mut guest = Guest::new(board, capture::device(name), ram_of(name));
        guest.genuine = true;
        guest.command_line(b"root=/dev/vda");
        guest.initrd(&std::vec![7; 4096]);
        assert!(guest.elf(&small_elf(), 0x10_0000));
        let result = guest.run();
        assert!(
            matches!(
                result,
                Ok(Handoff::Pvh {
                    entry: 0x10_0000,
                    ..
                })
            ),
            "{name}: {result:?}"
        );
        assert_eq!(guest.check(result), Ok(()), "{name}");
    }
}

/// The judge has to see what is wrong, or its silence says nothing.
#[test]
fn the_judge_sees_damage() {
    let boot = || {
        let mut guest = Guest::new(Board::Pc, capture::device("pc"), 512 << 20);
        guest.genuine = true;
        guest.command_line(b"console=ttyS0");
        guest.initrd(&std::vec![7; 12345]);
        guest.kernel(&small_bzimage());
        let result = guest.run();
        assert_eq!(guest.check(result), Ok(()));
        (guest, result)
    };
    let (_, result) = boot();
    let Ok(Handoff::Linux { boot_params, .. }) = result else {
        panic!("{result:?}");
    };
    let at = |guest: &Guest, offset: u32| {
        let range = PhysRange::fixed(boot_params + offset, boot_params + offset + 4);
        u32_at(guest.machine.memory.peek(range), 0).unwrap()
    };
    // What is damaged, and a word of the complaint.
    let kernel = |_: &Guest| 0x10_0010;
    let line = |guest: &Guest| at(guest, 0x228);
    let initrd = |guest: &Guest| at(guest, 0x218) + 12344;
    let rsdp = |guest: &Guest| at(guest, 0x70) + 9;
    let map = |_: &Guest| boot_params + 0x2d0 + 11;
    type Place<'a> = &'a dyn Fn(&Guest) -> u32;
    let damage: [(Place<'_>, &str); 5] = [
        (&kernel, "kernel"),
        (&line, "command line"),
        (&initrd, "initrd"),
        (&rsdp, "RSDP"),
        (&map, "E820"),
    ];
    for (place, word) in damage {
        let (mut guest, result) = boot();
        let at = place(&guest) as usize;
        guest.machine.memory.bytes[at] ^= 0x5a;
        let verdict = guest.check(result).unwrap_err();
        assert!(verdict.contains(word), "{word}: {verdict}");
    }
    // A write somewhere else shows as memory that nobody owns.
    let (mut guest, result) = boot();
    guest
        .machine
        .memory
        .bytes(PhysRange::fixed(0x180_0000, 0x180_0004))
        .unwrap();
    let verdict = guest.check(result).unwrap_err();
    assert!(verdict.contains("nobody"), "{verdict}");
    // Asking for what is the firmware's own is refused and named.
    assert!(guest.machine.memory.bytes(layout::STACK).is_err());
    assert!(guest.check(Err(Error::NotOurMemory)).is_err());
}

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
    for _ in 0..5100 {
        guest.machine.fw_cfg.file("opt/a", b"");
    }
    assert_eq!(outcome(guest), Err(Error::TooManyFiles));
}

#[test]
fn ram_does_not_reach_into_registers() {
    // No QEMU says this; a host might. 32-bit tests have no such memory.
    if usize::BITS < 64 {
        return;
    }
    for (board, end) in [(Board::Q35, 0xb000_0000), (Board::Pc, 0xfec0_0000)] {
        let mut fw_cfg = FakeFwCfg::new();
        fw_cfg.sparse = true;
        fw_cfg.file("etc/e820", &e820_entry(0, 0xffff_f000, 1));
        let mut guest = Guest::new(board, fw_cfg, 0xffff_f000);
        guest.machine.memory.max_written = 1 << 20;
        guest.command_line(b"x");
        guest.initrd(&[1; 4096]);
        assert!(guest.elf(&small_elf(), 0x10_0000));
        let result = guest.run();
        assert_eq!(guest.check(result), Ok(()));
        let touched = guest.machine.memory.touched.iter();
        assert_eq!(touched.map(|r| r.end()).max(), Some(end));
    }
}

#[test]
fn a_kernel_that_fills_low_memory_leaves_no_room() {
    let mut file = small_elf();
    let mut put = |at: usize, value: u32| file[at..at + 4].copy_from_slice(&value.to_le_bytes());
    // One segment at the bottom of free low memory, one over the rest.
    put(52 + 12, 0x8000);
    put(52 + 20, 0x2_8000);
    put(84, 1);
    put(84 + 12, 0x8_0000);
    put(84 + 20, 0x1_fc00 - 0x900);
    let mut guest = small_guest(&small_bzimage());
    assert!(guest.elf(&file, 0x8000));
    assert_eq!(outcome(guest), Err(Error::KernelOverlapsFirmware));
}

/// The compiler sees to it that each has a message and a code of its own.
#[test]
fn every_error_says_something_of_its_own() {
    let source = include_str!("../error.rs")
        .split("mod tests")
        .next()
        .unwrap();
    let arms = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Self::"));
    let messages = arms.filter_map(|arm| arm.split_once("=> \""));
    let messages: Vec<&str> = messages
        .map(|(_, text)| text.trim_end_matches("\","))
        .collect();
    assert!(messages.len() >= 30, "{messages:?}");
    for message in &messages {
        assert!(message.len() > 10 && !message.ends_with('.'), "{message:?}");
        assert_eq!(
            messages.iter().filter(|m| *m == message).count(),
            1,
            "{message:?}"
        );
        // What is wrong, and what to do about it or what that means.
        assert!(
            message.contains(';')
                || message.contains("fw_cfg")
                || message.contains("etc/")
                || message.contains(','),
            "{message:?}"
        );
    }
}

fn fuzz_dir() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "fuzz"].iter().collect()
}

/// A file's bytes as the targets' seeds: captured machines, with a kernel.
fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (name, board) in CAPTURES {
        let mut items = capture::items(name);
        let device = capture::device(name);
        let mut directory = std::vec![0xff];
        directory.extend(device.data(item::FILE_DIR));
        seeds.push(("directory", name.to_string(), directory));
        let file = |name: &str| device.selector(name).map(|s| device.data(s).to_vec());
        if let Some(script) = file("etc/table-loader") {
            let mut seed = std::vec![1, 2, 0, 0, 1];
            seed.extend(script);
            seeds.push(("loader", name.to_string(), seed));
        }
        if let Some(tables) = file("etc/smbios/smbios-tables") {
            let mut seed = std::vec![0, 3, 0];
            seed.extend(tables);
            seeds.push(("smbios", name.to_string(), seed));
        }
        let mut e820: Vec<u8> = std::vec![0];
        e820.extend(file("etc/e820").unwrap());
        seeds.push(("e820", name.to_string(), e820));
        // A machine of 64 MiB: large ones have tables that do not fit.
        items.retain(|(name, ..)| name != "etc/e820");
        let mut guest = Guest::new(board, FakeFwCfg::new(), 1 << 20);
        guest.command_line(b"console=ttyS0 acpi=off");
        guest.initrd(&[7; 100]);
        guest.kernel(&small_bzimage());
        for selector in 0..0x20 {
            let data = guest.machine.fw_cfg.data(selector);
            if !data.is_empty() {
                items.push((String::new(), selector, data.to_vec()));
            }
        }
        seeds.push((
            "boot",
            name.to_string(),
            target::encode(board as u8, 64, &items),
        ));
    }
    seeds
}

/// Writes the seeds to the fuzzer's corpus; `scripts/fuzz.sh` does.
#[test]
#[ignore = "writes files; scripts/fuzz.sh runs it"]
fn write_seeds() {
    for (target, name, bytes) in seeds() {
        let dir = fuzz_dir().join("corpus").join(target);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(std::format!("seed-{name}")), bytes).unwrap();
    }
}

/// What fuzzing has found worth keeping, and every crash there was.
#[test]
fn corpus_replays_without_a_finding() {
    for (_, name, bytes) in seeds().iter().filter(|(target, ..)| *target == "boot") {
        std::println!("boot: {name}");
        target::boot(bytes);
    }
    for (name, run) in target::ALL {
        let mut count = 0;
        for kind in ["corpus", "regressions"] {
            let dir = fuzz_dir().join(kind).join(name);
            for entry in std::fs::read_dir(&dir).into_iter().flatten() {
                let path = entry.unwrap().path();
                std::println!("{name}: {}", path.display());
                run(&std::fs::read(&path).unwrap());
                count += 1;
            }
        }
        assert!(count > 0, "no corpus for {name}");
    }
}

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
