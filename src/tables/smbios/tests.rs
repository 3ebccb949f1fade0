//! Entry points and structures written here, arbitrary ones, and those of
//! real machines.
#![expect(clippy::arithmetic_side_effects, reason = "a test may panic")]

use super::*;
use crate::capture;
use crate::fw_cfg::fake::FakeFwCfg;
use crate::layout;
use crate::memory::map::tests::map_of;
use crate::phys::{u16_at, u32_at};
use crate::platform::GuestMemory as _;
use crate::sim::{Machine, Memory};
use proptest::collection::vec as vec_of;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::LazyLock;
use std::vec;
use std::vec::Vec;

const FSEG: PhysRange = layout::F_TABLES;
const HIGH: PhysRange = PhysRange::fixed(0x10_0000, 0x20_0000);

fn load_items(fw_cfg: FakeFwCfg, is_image: bool) -> (Result<u32>, Machine) {
    let mut machine = Machine {
        fw_cfg,
        memory: Memory::new(HIGH.end()),
        ..Machine::default()
    };
    machine.open(HIGH);
    let mut scratch = vec![0; 8192];
    let (dir, _) = Directory::read(&mut machine, &mut scratch).unwrap();
    machine.fw_cfg.transfers = 0;
    let mut map = map_of(HIGH.end().into());
    let mut space = TableSpace::new(&mut map);
    let result = load(&mut machine, &dir, &mut space, is_image);
    (result, machine)
}

fn load_files(anchor: &[u8], tables: &[u8]) -> (Result<u32>, Memory) {
    let mut fw_cfg = FakeFwCfg::new();
    fw_cfg.file("etc/smbios/smbios-anchor", anchor);
    fw_cfg.file("etc/smbios/smbios-tables", tables);
    let (result, machine) = load_items(fw_cfg, false);
    if result.is_ok() {
        assert_eq!(machine.fw_cfg.transfers, 1);
    }
    (result, machine.memory)
}

#[test]
fn without_files_the_minimal_set_is_put_to_its_place() {
    for files in [&["etc/other"][..], &["etc/smbios/smbios-anchor"]] {
        let mut fw_cfg = FakeFwCfg::new();
        for file in files {
            fw_cfg.file(file, &[0; 31]);
        }
        let (result, machine) = load_items(fw_cfg.clone(), false);
        assert_eq!(result, Ok(OWN_SMBIOS.start()));
        let (at, found) = read_back(&machine.memory, OWN_SMBIOS.start());
        assert_eq!(at, OWN_SMBIOS.start() + 32);
        assert_eq!(found, parse(&MINIMAL_TABLES));
        // The image has it there itself.
        let (result, machine) = load_items(fw_cfg, true);
        assert_eq!(result, Ok(OWN_SMBIOS.start()));
        assert!(machine.memory.touched.is_empty());
    }
}

#[test]
fn an_anchor_of_another_size_is_refused() {
    for (size, expected) in [
        (30, Err(Error::BadSmbios)),
        (31, Ok(FSEG.start())),
        (24, Ok(FSEG.start())),
    ] {
        let (result, _) = load_files(&vec![0; size], &MINIMAL_TABLES);
        assert_eq!(result, expected, "{size}");
    }
}

/// It is not read, since each transfer costs an exit.
#[test]
fn the_entry_point_is_qemus_but_for_what_the_structures_decide() {
    type Fields = &'static [Range<usize>];
    let fields: [(&str, Fields); 2] = [
        ("q35", &[4..5, 8..10, 0x15..0x1e]),
        ("q35-smbios3", &[5..6, 12..16, 16..24]),
    ];
    for (name, decided) in fields {
        let mut given = file(name, "etc/smbios/smbios-anchor");
        let (entry, memory) = load_files(&given, &file(name, "etc/smbios/smbios-tables"));
        let len = u32::try_from(given.len()).unwrap();
        let mut found = memory
            .peek(PhysRange::new(entry.unwrap(), len).unwrap())
            .to_vec();
        for field in decided {
            given[field.clone()].fill(0);
            found[field.clone()].fill(0);
        }
        assert_eq!(found, given, "{name}");
    }
}

/// A structure as it is parsed: type, handle, all bytes.
type Parsed = (u8, u16, Vec<u8>);

/// Parses structures byte by byte, as the specification has it.
fn parse(mut bytes: &[u8]) -> Vec<Parsed> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let formatted = usize::from(bytes[1]);
        assert!(formatted >= 4);
        let mut end = formatted;
        while bytes[end] != 0 || bytes[end + 1] != 0 {
            end += 1;
        }
        let (structure, rest) = bytes.split_at(end + 2);
        found.push((
            structure[0],
            u16_at(structure, 2).unwrap(),
            structure.to_vec(),
        ));
        bytes = rest;
    }
    found
}

/// Reads back what an entry point leads to, all its fields found right.
fn read_back(memory: &Memory, entry: u32) -> (u32, Vec<Parsed>) {
    assert!(FSEG.start() <= entry && entry < OWN_SMBIOS.end() && entry.is_multiple_of(16));
    let anchor = memory.peek(PhysRange::new(entry, 32).unwrap()).to_vec();
    let (at, len) = if anchor[..5] == *b"_SM3_" {
        assert_eq!(byte_sum(&anchor[..24]), 0);
        assert_eq!(u32_at(&anchor, 20), Some(0));
        (u32_at(&anchor, 16).unwrap(), u32_at(&anchor, 12).unwrap())
    } else {
        assert_eq!(anchor[..4], *b"_SM_");
        assert_eq!(byte_sum(&anchor[..31]), 0);
        assert_eq!(byte_sum(&anchor[16..31]), 0);
        let len = u16_at(&anchor, 22).unwrap();
        (u32_at(&anchor, 24).unwrap(), u32::from(len))
    };
    let bytes = memory.peek(PhysRange::new(at, len).unwrap());
    let found = parse(bytes);
    if anchor[..5] != *b"_SM3_" {
        assert_eq!(u16_at(&anchor, 28).map(usize::from), Some(found.len()));
        let largest = found.iter().map(|structure| structure.2.len()).max();
        assert_eq!(u16_at(&anchor, 8).map(usize::from), largest);
    }
    (at, found)
}

fn file(name: &str, file: &str) -> Vec<u8> {
    capture::items(name)
        .into_iter()
        .find(|item| item.0 == file)
        .unwrap()
        .2
}

/// Loads the capture called `name`: where its structures are, those given and
/// those found.
fn load_capture(name: &str) -> (u32, Vec<Parsed>, Vec<Parsed>) {
    let tables = file(name, "etc/smbios/smbios-tables");
    let (result, memory) = load_files(&file(name, "etc/smbios/smbios-anchor"), &tables);
    let (at, found) = read_back(&memory, result.unwrap());
    (at, parse(&tables), found)
}

#[test]
fn captured_machines_get_a_type_0() {
    for name in ["pc", "q35", "pc-numa-64cpus", "pc-80-bridges"] {
        let (at, given, found) = load_capture(name);
        assert!(FSEG.start() < at && at < FSEG.end());
        assert_eq!(found[0], (0, 0, BIOS.to_vec()), "{name}");
        assert_eq!(found[1..], given, "{name}");
        assert_eq!(found.last().unwrap().0, 127);
        let handles: BTreeSet<_> = found.iter().map(|structure| structure.1).collect();
        assert_eq!(handles.len(), found.len());
    }
}

#[test]
fn a_type_0_that_qemu_has_stays_the_only_one() {
    let (_, given, found) = load_capture("q35-smbios3");
    assert_eq!(given[0].0, 0);
    assert_eq!(found, given);
}

#[test]
fn tables_beyond_the_f_segment_lie_in_high_memory() {
    for name in ["pc-smbios-60k", "q35-smbios3-60k"] {
        let (at, given, found) = load_capture(name);
        assert!(HIGH.start() < at && at < HIGH.end());
        assert_eq!(found[1..], given);
        let strings = found.iter().find(|structure| structure.0 == 11).unwrap();
        assert!(strings.2.len() > 60_000);
    }
}

#[test]
fn our_type_0_reads_as_meant() {
    let [(0, 0, bytes)] = &parse(&BIOS)[..] else {
        panic!("{BIOS:?}");
    };
    let strings: Vec<_> = bytes[24..].split(|byte| *byte == 0).collect();
    let version = env!("CARGO_PKG_VERSION").as_bytes();
    let date = RELEASE_DATE.as_bytes();
    assert_eq!(strings, [b"qboot-rs", version, date, b"", b""]);
    assert!(date.len() == 10 && date[2] == b'/' && date[5] == b'/');
    let [_, (1, 0x100, system), (127, 0x7f00, _)] = &parse(&MINIMAL_TABLES)[..] else {
        panic!("{MINIMAL_TABLES:?}");
    };
    assert!(system.ends_with(b"QEMU\0machine\0\0"));
}

/// An entry point as QEMU hands it over, of either kind.
fn anchor(long: bool) -> Vec<u8> {
    static ANCHORS: LazyLock<[Vec<u8>; 2]> =
        LazyLock::new(|| ["pc", "q35-smbios3"].map(|name| file(name, "etc/smbios/smbios-anchor")));
    ANCHORS[usize::from(long)].clone()
}

/// Loads structures behind an entry point of either kind.
fn load_tables(long: bool, tables: &[u8]) -> Result<Vec<Parsed>> {
    let (result, memory) = load_files(&anchor(long), tables);
    let entry = result?;
    Ok(read_back(&memory, entry).1)
}

#[test]
fn malformed_structures_are_refused() {
    for long in [false, true] {
        let bad = Err(Error::BadSmbios);
        assert_eq!(load_tables(long, &[]), bad);
        assert_eq!(load_tables(long, &[1, 4, 0]), bad);
        assert_eq!(load_tables(long, &[1, 0, 0, 0, 0, 0]), bad);
        assert_eq!(load_tables(long, &[1, 3, 0, 0, 0, 0]), bad);
        assert_eq!(load_tables(long, &[1, 4, 0, 0]), bad);
        assert_eq!(load_tables(long, &[1, 4, 0, 0, 0]), bad);
        assert_eq!(load_tables(long, &[1, 255, 0, 0, 0, 0]), bad);
        assert_eq!(load_tables(long, &[1, 4, 0, 0, b'a', 0]), bad);
        assert_eq!(load_tables(long, &[1, 4, 0, 0, 0, 0, 1]), bad);
        // What follows the end of the table is left out.
        let ended = [127, 4, 1, 1, 0, 0, 0xff, 0xff, 0xff];
        let found = load_tables(long, &ended).unwrap();
        assert_eq!(found[1..], [(127, 0x101, ended[..6].to_vec())]);
    }
}

#[test]
fn a_full_table_gets_no_type_0() {
    // 65,535 bytes are what a 32-bit entry point can say.
    let mut tables = vec![11, 5, 7, 0, 1];
    tables.resize(65_533, b'x');
    tables.extend([0, 0]);
    assert_eq!(load_tables(false, &tables).unwrap().len(), 1);
    assert_eq!(load_tables(true, &tables).unwrap().len(), 2);
    tables.insert(5, b'x');
    assert_eq!(load_tables(false, &tables), Err(Error::BadSmbios));
    assert_eq!(load_tables(true, &tables).unwrap().len(), 2);
}

#[test]
fn no_room_is_an_error() {
    // What is left of the F segment, and of the RAM above 1 MiB.
    let load_into = |f_segment: u32, high: u32| {
        let mut machine = Machine {
            memory: Memory::new(HIGH.end()),
            ..Machine::default()
        };
        machine.open(HIGH);
        let fw_cfg = &mut machine.fw_cfg;
        fw_cfg.file("etc/smbios/smbios-anchor", &anchor(false));
        fw_cfg.file("etc/smbios/smbios-tables", &MINIMAL_TABLES);
        let mut scratch = vec![0; 8192];
        let (dir, _) = Directory::read(&mut machine, &mut scratch).unwrap();
        let mut map = map_of((HIGH.start() + high).into());
        let mut space = TableSpace::new(&mut map);
        let taken = FSEG.len() - f_segment;
        space.alloc(Zone::FSegment, taken, 16).unwrap();
        load(&mut machine, &dir, &mut space, false)
    };
    assert!(load_into(32, 4096).is_ok());
    let too_big = |need, have| Err(Error::SmbiosTooBig(Room::new(need, have)));
    assert_eq!(load_into(16, 4096), too_big(32, 16));
    let need = BIOS_ROOM + u32::try_from(MINIMAL_TABLES.len()).unwrap();
    assert_eq!(load_into(32, 0), too_big(need, 0));
}

/// Structures with any content that is well-formed.
fn structures() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let handle = prop_oneof![3 => 0..4_u16, 1 => any::<u16>(), 1 => 0xfef0..0xff10_u16];
    let kind = prop_oneof![1 => Just(0_u8), 30 => 1..=255_u8];
    let string = vec_of(1..=255_u8, 1..20);
    let structure = (
        kind,
        handle,
        vec_of(any::<u8>(), 0..60),
        vec_of(string, 0..4),
    );
    let structure = structure.prop_map(|(kind, handle, formatted, strings)| {
        let mut bytes = vec![kind, u8::try_from(formatted.len() + 4).unwrap()];
        bytes.extend(handle.to_le_bytes());
        bytes.extend(formatted);
        for string in &strings {
            bytes.extend(string);
            bytes.push(0);
        }
        bytes.push(0);
        if strings.is_empty() {
            bytes.push(0);
        }
        bytes
    });
    vec_of(structure, 1..12)
}

proptest! {
    #[test]
    fn structures_are_kept_and_handles_stay_unique(
        structures in structures(), long in any::<bool>(),
    ) {
        let tables = structures.concat();
        let given = parse(&tables);
        prop_assert_eq!(given.len(), structures.len());
        let found = load_tables(long, &tables).unwrap();
        prop_assert!(found.ends_with(&given));
        let taken: BTreeSet<_> = given.iter().map(|structure| structure.1).collect();
        if given.iter().any(|structure| structure.0 == 0) {
            prop_assert_eq!(found.len(), given.len());
        } else if found.len() == given.len() {
            // Only the handle that follows all others was tried.
            prop_assert!(taken.contains(&0) && taken.contains(&(RESERVED_HANDLES - 1)));
        } else {
            prop_assert_eq!(found[0].0, 0);
            prop_assert!(!taken.contains(&found[0].1));
            prop_assert!(found[0].1 < RESERVED_HANDLES);
        }
    }

    #[test]
    fn damaged_structures_end(
        structures in structures(), long in any::<bool>(),
        damage in vec_of((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut tables = structures.concat();
        for (at, byte) in damage {
            let at = at.index(tables.len());
            tables[at] = byte;
        }
        tables.truncate(cut.index(tables.len()) + 1);
        let found = load_tables(long, &tables);
        prop_assert!(found.is_ok() || found == Err(Error::BadSmbios));
    }

    #[test]
    fn any_anchor_is_taken_or_refused(
        long in any::<bool>(), damage in vec_of((0..31_usize, any::<u8>()), 1..3),
    ) {
        let mut anchor = anchor(long);
        for (at, byte) in damage {
            let at = at % anchor.len();
            anchor[at] = byte;
        }
        let (result, memory) = load_files(&anchor, &MINIMAL_TABLES);
        match result {
            Ok(entry) => prop_assert_eq!(read_back(&memory, entry).1.len(), 3),
            Err(error) => prop_assert_eq!(error, Error::BadSmbios),
        }
    }

    #[test]
    fn the_end_of_strings_is_where_two_zeroes_are(
        mut bytes in vec_of(prop_oneof![2 => Just(0_u8), 3 => any::<u8>()], 0..40),
    ) {
        let expected = bytes.windows(2).position(|pair| pair == [0, 0]);
        let rest = after_strings(&bytes).map(<[u8]>::len);
        prop_assert_eq!(rest, expected.map(|at| bytes.len() - at - 2));
        bytes.retain(|byte| *byte != 0);
        prop_assert_eq!(after_strings(&bytes), None);
    }
}
