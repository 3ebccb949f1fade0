//! The linker-loader over scripts written here, arbitrary ones, and those of
//! real machines.
#![expect(clippy::arithmetic_side_effects, reason = "a test may panic")]

mod captured;
mod model;
mod padding;
mod patching;

use super::*;
use crate::error::Room;
use crate::fw_cfg::fake::{FakeFwCfg, file_name};
use crate::layout;
use crate::memory::map::tests::map_of;
use crate::platform::GuestMemory as _;
use crate::sim::{Machine, Memory};
use std::vec;
use std::vec::Vec;

const FSEG: PhysRange = layout::F_TABLES;
const HIGH: PhysRange = PhysRange::fixed(0x10_0000, 0x40_0000);
/// What memory holds before.
const OLD: u8 = 0xa5;

fn allocate(file: &str, align: u32, zone: u8) -> [u8; 128] {
    let mut bytes = [0; 128];
    bytes[..4].copy_from_slice(&ALLOCATE.to_le_bytes());
    bytes[4..60].copy_from_slice(&file_name(file));
    bytes[60..64].copy_from_slice(&align.to_le_bytes());
    bytes[64] = zone;
    bytes
}

fn add_pointer(dest: &str, src: &str, offset: u32, size: u8) -> [u8; 128] {
    let mut bytes = [0; 128];
    bytes[..4].copy_from_slice(&ADD_POINTER.to_le_bytes());
    bytes[4..60].copy_from_slice(&file_name(dest));
    bytes[60..116].copy_from_slice(&file_name(src));
    bytes[116..120].copy_from_slice(&offset.to_le_bytes());
    bytes[120] = size;
    bytes
}

fn add_checksum(file: &str, offset: u32, start: u32, len: u32) -> [u8; 128] {
    let mut bytes = [0; 128];
    bytes[..4].copy_from_slice(&ADD_CHECKSUM.to_le_bytes());
    bytes[4..60].copy_from_slice(&file_name(file));
    bytes[60..64].copy_from_slice(&offset.to_le_bytes());
    bytes[64..68].copy_from_slice(&start.to_le_bytes());
    bytes[68..72].copy_from_slice(&len.to_le_bytes());
    bytes
}

fn write_pointer(dest: &str, src: &str, dest_offset: u32, src_offset: u32, size: u8) -> [u8; 128] {
    let mut bytes = [0; 128];
    bytes[..4].copy_from_slice(&WRITE_POINTER.to_le_bytes());
    bytes[4..60].copy_from_slice(&file_name(dest));
    bytes[60..116].copy_from_slice(&file_name(src));
    bytes[116..120].copy_from_slice(&dest_offset.to_le_bytes());
    bytes[120..124].copy_from_slice(&src_offset.to_le_bytes());
    bytes[124] = size;
    bytes
}

/// What a run leaves.
struct Run {
    result: Result<Option<u32>>,
    machine: Machine,
    /// Where each file lies, in the order of their allocation.
    given: Vec<PhysRange>,
}

impl Run {
    fn bytes(&mut self, file: usize) -> Vec<u8> {
        self.machine.memory.peek(self.given[file]).to_vec()
    }
}

fn run(fw_cfg: FakeFwCfg, script: &[u8]) -> Run {
    run_after(fw_cfg.clone(), fw_cfg, script)
}

/// A run with the directory of `before`.
fn run_after(before: FakeFwCfg, fw_cfg: FakeFwCfg, script: &[u8]) -> Run {
    let mut machine = Machine {
        fw_cfg: before,
        memory: Memory::new(HIGH.end()),
        ..Machine::default()
    };
    machine.open(HIGH);
    for part in [FSEG, HIGH] {
        machine.memory.fill(part, OLD);
    }
    let mut scratch = vec![0; 65536];
    let (dir, _) = Directory::read(&mut machine, &mut scratch).unwrap();
    machine.fw_cfg = fw_cfg;
    machine.fw_cfg.transfers = 0;
    let mut map = map_of(HIGH.end().into());
    let mut space = TableSpace::new(&mut map);
    let mut tables = Tables::new(None);
    let result = run_script(&mut machine, &dir, &mut space, script, &mut tables);
    // A file's first transfer goes to its start.
    let mut given: Vec<(u16, PhysRange)> = Vec::new();
    for (selector, range) in &machine.loads {
        if given.iter().all(|(known, _)| known != selector) {
            let len = u32::try_from(machine.fw_cfg.data(*selector).len()).unwrap();
            given.push((*selector, PhysRange::new(range.start(), len).unwrap()));
        }
    }
    Run {
        result: result.map(|()| tables.rsdp),
        machine,
        given: given.into_iter().map(|(_, range)| range).collect(),
    }
}

fn files(files: &[(&str, &[u8])]) -> FakeFwCfg {
    let mut fw_cfg = FakeFwCfg::new();
    for (name, data) in files {
        fw_cfg.file(name, data);
    }
    fw_cfg
}

#[test]
fn pointers_of_every_size_and_checksums() {
    let tables: Vec<u8> = (0..64).map(|_| 1).collect();
    let mut rsdp = vec![0; 36];
    rsdp[0] = 7; // checksum before patching
    rsdp[16] = 8;
    rsdp[24] = 3;
    let fw_cfg = files(&[("etc/acpi/tables", &tables), ("etc/acpi/rsdp", &rsdp)]);
    let script = [
        allocate("etc/acpi/rsdp", 16, ZONE_FSEG),
        allocate("etc/acpi/tables", 64, ZONE_HIGH),
        add_pointer("etc/acpi/rsdp", "etc/acpi/tables", 16, 4),
        add_pointer("etc/acpi/rsdp", "etc/acpi/tables", 24, 8),
        add_checksum("etc/acpi/rsdp", 8, 0, 20),
        add_checksum("etc/acpi/rsdp", 32, 0, 36),
        [0; 128],
        // Behind the end nothing is looked at.
        add_checksum("no such file", 0, 0, 1),
    ]
    .concat();
    let mut run = run(fw_cfg, &script);
    assert_eq!(run.result, Ok(Some(FSEG.start())));
    let place = HIGH.end() - 0x1000;
    assert_eq!(run.given[1], PhysRange::fixed(place, place + 64));
    let rsdp = run.bytes(0);
    assert_eq!(rsdp[16..20], (place + 8).to_le_bytes());
    assert_eq!(rsdp[24..32], u64::from(place + 3).to_le_bytes());
    assert_eq!(byte_sum(&rsdp[..20]), 0);
    assert_eq!(byte_sum(&rsdp), 0);
    assert_eq!(run.bytes(1), tables);
    assert_eq!(run.machine.fw_cfg.transfers, 2);
}

/// One file of 64 bytes, `0, 1, 2, …`, allocated, then `command`.
fn with_one_file(command: [u8; 128]) -> Result<Option<u32>> {
    let data: Vec<u8> = (0..64).collect();
    let fw_cfg = files(&[("etc/file", &data), ("etc/other", &data)]);
    let script = [allocate("etc/file", 1, ZONE_HIGH), command].concat();
    run(fw_cfg, &script).result
}

#[test]
fn malformed_commands_have_their_error() {
    let at = |offset, size| with_one_file(add_pointer("etc/file", "etc/file", offset, size));
    assert_eq!(at(63, 1), Err(Error::LoaderOutOfBounds)); // address needs more
    assert_eq!(at(0, 2), Err(Error::LoaderOutOfBounds));
    assert_eq!(at(0, 4), Err(Error::LoaderOutOfBounds)); // 0x03020100 is outside
    assert_eq!(at(0, 8), Err(Error::LoaderOutOfBounds));
    assert_eq!(at(61, 4), Err(Error::LoaderOutOfBounds));
    assert_eq!(at(u32::MAX, 4), Err(Error::LoaderOutOfBounds));
    assert_eq!(at(0, 0), Err(Error::BadLoaderScript));
    assert_eq!(at(0, 3), Err(Error::BadLoaderScript));
    assert_eq!(at(0, 5), Err(Error::BadLoaderScript));
    // Pointers into the file, but for their sizes.
    let zeroes = |size| {
        let fw_cfg = files(&[("etc/file", &[0; 64])]);
        let pointer = add_pointer("etc/file", "etc/file", 0, size);
        let script = [allocate("etc/file", 1, ZONE_HIGH), pointer].concat();
        run(fw_cfg, &script).result
    };
    for size in 0..=64 {
        let expected = match size {
            // The address needs more.
            1 | 2 => Err(Error::LoaderOutOfBounds),
            4 | 8 => Ok(None),
            _ => Err(Error::BadLoaderScript),
        };
        assert_eq!(zeroes(size), expected, "{size}");
    }

    let sum = |offset, start, len| with_one_file(add_checksum("etc/file", offset, start, len));
    assert_eq!(sum(63, 0, 64), Ok(None));
    assert_eq!(sum(64, 0, 64), Err(Error::LoaderOutOfBounds));
    assert_eq!(sum(0, 64, 0), Ok(None));
    assert_eq!(sum(0, 65, 0), Err(Error::LoaderOutOfBounds));
    assert_eq!(sum(0, 1, 64), Err(Error::LoaderOutOfBounds));
    assert_eq!(sum(0, 1, u32::MAX), Err(Error::LoaderOutOfBounds));

    let missing = Err(Error::LoaderFileMissing);
    assert_eq!(with_one_file(allocate("etc/none", 1, ZONE_HIGH)), missing);
    assert_eq!(with_one_file(add_checksum("etc/other", 0, 0, 1)), missing);
    let command = add_pointer("etc/other", "etc/file", 0, 8);
    assert_eq!(with_one_file(command), missing);
    let command = add_pointer("etc/file", "etc/other", 1, 1);
    assert_eq!(with_one_file(command), missing);

    let bad = Err(Error::BadLoaderScript);
    assert_eq!(with_one_file(allocate("etc/file", 1, ZONE_HIGH)), bad);
    assert_eq!(with_one_file(allocate("etc/other", 3, ZONE_HIGH)), bad);
    assert_eq!(with_one_file(allocate("etc/other", 48, ZONE_HIGH)), bad);
    assert_eq!(with_one_file(allocate("etc/other", 1, 0)), bad);
    assert_eq!(with_one_file(allocate("etc/other", 1, 3)), bad);
    assert_eq!(with_one_file(allocate("etc/other", 0, ZONE_HIGH)), Ok(None));
    let too_big = Err(Error::TablesTooBig(Room::new(64, HIGH.len() - 0x1000)));
    let command = allocate("etc/other", 1 << 31, ZONE_HIGH);
    assert_eq!(with_one_file(command), too_big);

    assert_eq!(run(FakeFwCfg::new(), &[0; 127]).result, bad);
    let mut unknown = [0xff; 128];
    assert_eq!(with_one_file(unknown), Ok(None));
    unknown[..4].copy_from_slice(&5_u32.to_le_bytes());
    assert_eq!(with_one_file(unknown), Ok(None));
}

#[test]
fn write_pointer_tells_the_host() {
    let guid = [0x11; 4096];
    let script = |dest_offset, src_offset, size| {
        [
            allocate("etc/vmgenid_guid", 4096, ZONE_HIGH),
            write_pointer(
                "etc/vmgenid_addr",
                "etc/vmgenid_guid",
                dest_offset,
                src_offset,
                size,
            ),
        ]
        .concat()
    };
    let device = || files(&[("etc/vmgenid_guid", &guid), ("etc/vmgenid_addr", &[0; 8])]);
    let done = run(device(), &script(0, 40, 8));
    assert_eq!(done.result, Ok(None));
    let place = HIGH.end() - 0x1000;
    let address = u64::from(place + 40).to_le_bytes().to_vec();
    assert_eq!(done.machine.fw_cfg.written, [(0x21, 0, address)]);
    let done = run(device(), &script(4, 0, 4));
    let address = place.to_le_bytes().to_vec();
    assert_eq!(done.machine.fw_cfg.written, [(0x21, 4, address)]);

    let error = |dest, src, size| {
        let done = run(device(), &script(dest, src, size));
        assert_eq!(done.machine.fw_cfg.written, []);
        done.result
    };
    assert_eq!(error(1, 0, 8), Err(Error::LoaderOutOfBounds));
    assert_eq!(error(u32::MAX, 0, 4), Err(Error::LoaderOutOfBounds));
    assert_eq!(error(0, 4096, 8), Err(Error::LoaderOutOfBounds));
    assert_eq!(error(0, 0, 2), Err(Error::LoaderOutOfBounds));
    for size in [0, 3, 5, 7] {
        assert_eq!(error(0, 0, size), Err(Error::BadLoaderScript));
    }
    assert_eq!(error(0, 0, 9), Err(Error::LoaderOutOfBounds));
    let orphan = write_pointer("etc/none", "etc/file", 0, 0, 8);
    assert_eq!(with_one_file(orphan), Err(Error::LoaderFileMissing));
}

#[test]
fn alignment_is_kept_and_never_below_16() {
    let fw_cfg = files(&[("etc/a", &[1]), ("etc/b", &[2]), ("etc/c", &[3])]);
    let script = [
        allocate("etc/a", 1, ZONE_FSEG),
        allocate("etc/b", 1, ZONE_FSEG),
        allocate("etc/c", 0x10_0000, ZONE_HIGH),
    ];
    let run = run(fw_cfg, &script.concat());
    let starts: Vec<_> = run.given.iter().map(|given| given.start()).collect();
    assert_eq!(starts, [FSEG.start(), FSEG.start() + 16, 0x30_0000]);
}

#[test]
fn an_empty_file_has_an_address_and_no_bytes() {
    let fw_cfg = files(&[("etc/empty", &[])]);
    let script = [
        allocate("etc/empty", 1, ZONE_HIGH),
        add_checksum("etc/empty", 0, 0, 0),
    ];
    assert_eq!(run(fw_cfg.clone(), &script[0]).result, Ok(None),);
    assert_eq!(
        run(fw_cfg, &script.concat()).result,
        Err(Error::LoaderOutOfBounds)
    );
}

#[test]
fn as_many_files_as_there_is_room_for() {
    let names: Vec<_> = (0..=MAX_FILES).map(|i| std::format!("etc/{i}")).collect();
    let mut fw_cfg = FakeFwCfg::new();
    for name in &names {
        fw_cfg.file(name, &[0; 16]);
    }
    let script: Vec<u8> = names
        .iter()
        .flat_map(|name| allocate(name, 1, ZONE_HIGH))
        .collect();
    let full = script.len() - COMMAND_LEN;
    assert_eq!(run(fw_cfg.clone(), &script[..full]).result, Ok(None));
    assert_eq!(run(fw_cfg, &script).result, Err(Error::TooManyTables));
}

/// Whether all bytes are as they were before.
fn untouched(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == OLD)
}
