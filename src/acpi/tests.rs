//! The linker-loader over scripts written here, arbitrary ones, and those of
//! real machines.
#![expect(clippy::arithmetic_side_effects, reason = "a test may panic")]

use super::*;
use crate::capture;
use crate::fw_cfg::fake::FakeFwCfg;
use crate::fw_cfg::file_name;
use crate::phys::fake::FakeMemory;
use crate::phys::{align_up, byte_sum, u64_at};
use proptest::collection::vec as vec_of;
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::BTreeMap;
use std::string::String;
use std::sync::LazyLock;
use std::vec;
use std::vec::Vec;

const FSEG: PhysRange = PhysRange::fixed(0xf_8000, 0x10_0000);
const HIGH: PhysRange = PhysRange::fixed(0x10_0000, 0x20_0000);
const ALL: PhysRange = PhysRange::fixed(0xf_8000, 0x20_0000);

/// Gives out both zones upwards, leaving a gap of one byte or more between
/// any two ranges, and opens just what it gave.
struct Arena {
    fseg: u32,
    high: u32,
    given: Vec<(Zone, PhysRange)>,
}

impl Arena {
    fn new() -> Self {
        Self {
            fseg: FSEG.start(),
            high: HIGH.start(),
            given: Vec::new(),
        }
    }
}

impl Allocator for Arena {
    fn alloc(&mut self, zone: Zone, len: u32, align: u32) -> Result<PhysRange> {
        let (next, within) = match zone {
            Zone::High => (&mut self.high, HIGH),
            Zone::Fseg => (&mut self.fseg, FSEG),
        };
        let range = align_up(*next, align)
            .and_then(|start| PhysRange::new(start, len))
            .filter(|range| within.contains(*range))
            .ok_or(Error::TablesTooBig)?;
        *next = range.end().saturating_add(1);
        self.given.push((zone, range));
        Ok(range)
    }
}

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
    fw_cfg: FakeFwCfg,
    memory: FakeMemory,
    given: Vec<(Zone, PhysRange)>,
}

impl Run {
    fn bytes(&mut self, file: usize) -> Vec<u8> {
        let range = self.given[file].1;
        self.memory.bytes(range).unwrap().to_vec()
    }
}

fn run(fw_cfg: FakeFwCfg, script: &[u8]) -> Run {
    run_after(fw_cfg.clone(), fw_cfg, script)
}

/// A run with the directory of `before`.
fn run_after(mut before: FakeFwCfg, mut fw_cfg: FakeFwCfg, script: &[u8]) -> Run {
    let mut scratch = vec![0; 65536];
    let (dir, _) = Directory::read(&mut before, &mut scratch).unwrap();
    let mut memory = FakeMemory::new(ALL, &[ALL]);
    let mut arena = Arena::new();
    fw_cfg.transfers = 0;
    let result = load(script, &dir, &mut fw_cfg, &mut memory, &mut arena);
    Run {
        result,
        fw_cfg,
        memory,
        given: arena.given,
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
    assert_eq!(run.given[0].0, Zone::Fseg);
    assert_eq!(
        run.given[1],
        (Zone::High, PhysRange::fixed(0x10_0000, 0x10_0040))
    );
    let rsdp = run.bytes(0);
    assert_eq!(rsdp[16..20], 0x10_0008_u32.to_le_bytes());
    assert_eq!(rsdp[24..32], 0x10_0003_u64.to_le_bytes());
    assert_eq!(byte_sum(&rsdp[..20]), 0);
    assert_eq!(byte_sum(&rsdp), 0);
    assert_eq!(run.bytes(1), tables);
    assert_eq!(run.fw_cfg.transfers, 2);
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
    let too_big = Err(Error::TablesTooBig);
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
    let address = 0x10_0028_u64.to_le_bytes().to_vec();
    assert_eq!(done.fw_cfg.written, [(0x21, 0, address)]);
    let done = run(device(), &script(4, 0, 4));
    let address = 0x10_0000_u32.to_le_bytes().to_vec();
    assert_eq!(done.fw_cfg.written, [(0x21, 4, address)]);

    let error = |dest, src, size| {
        let done = run(device(), &script(dest, src, size));
        assert_eq!(done.fw_cfg.written, []);
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
        allocate("etc/a", 1, ZONE_HIGH),
        allocate("etc/b", 1, ZONE_HIGH),
        allocate("etc/c", 4096, ZONE_HIGH),
    ];
    let run = run(fw_cfg, &script.concat());
    let starts: Vec<_> = run.given.iter().map(|given| given.1.start()).collect();
    assert_eq!(starts, [0x10_0000, 0x10_0010, 0x10_1000]);
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

/// A file of 128 KiB whose byte at `i` is `i % 251`, but zero where pointers
/// start, the last checksum ending at 0x2000.
fn padded(more: &[[u8; 128]]) -> (Run, Vec<u8>) {
    let mut data: Vec<u8> = (0..0x2_0000_u32).map(|i| (i % 251) as u8).collect();
    data[..4].copy_from_slice(&0x1000_u32.to_le_bytes());
    data[4..8].copy_from_slice(&0x1_0000_u32.to_le_bytes());
    data[0x1_8000..0x1_8004].fill(0);
    let fw_cfg = files(&[("etc/acpi/tables", &data)]);
    let mut script = [
        allocate("etc/acpi/tables", 64, ZONE_HIGH),
        add_pointer("etc/acpi/tables", "etc/acpi/tables", 0, 4),
    ]
    .concat();
    script.extend(more.concat());
    script.extend(add_checksum("etc/acpi/tables", 16, 0x1000, 0x1000));
    let run = run(fw_cfg, &script);
    data[..4].copy_from_slice(&0x10_1000_u32.to_le_bytes());
    let sum = byte_sum(&data[0x1000..0x2000]);
    data[16] = data[16].wrapping_sub(sum);
    (run, data)
}

#[test]
fn padding_is_not_transferred() {
    let (mut run, data) = padded(&[]);
    assert_eq!(run.result, Ok(None));
    assert_eq!(run.fw_cfg.transfers, 1);
    let bytes = run.bytes(0);
    assert_eq!(bytes[..0x2000], data[..0x2000]);
    assert!(untouched(&bytes[0x2000..]));
}

#[test]
fn a_reference_into_the_padding_transfers_it() {
    // What is patched before and after the second transfer is kept.
    let name = "etc/acpi/tables";
    let (mut run, mut data) = padded(&[add_pointer(name, name, 4, 4)]);
    assert_eq!(run.result, Ok(None));
    data[4..8].copy_from_slice(&0x11_0000_u32.to_le_bytes());
    assert!(run.bytes(0) == data);

    let (mut run, mut data) = padded(&[add_pointer(name, name, 0x1_8000, 4)]);
    assert_eq!(run.result, Ok(None));
    data[0x1_8000..0x1_8004].copy_from_slice(&0x10_0000_u32.to_le_bytes());
    assert!(run.bytes(0) == data);

    let (mut run, mut data) = padded(&[add_checksum(name, 0x1_ffff, 0, 0)]);
    assert_eq!(run.result, Ok(None));
    assert!(run.bytes(0) == data);

    // Nearly all of the file is to be passed over: more than fits at once.
    let (mut run, expected) = padded(&[
        add_pointer(name, name, 4, 4),
        add_checksum(name, 20, 0x1_0000, 0xe000),
    ]);
    data[4..8].copy_from_slice(&0x11_0000_u32.to_le_bytes());
    let sum = byte_sum(&expected[0x1_0000..0x1_e000]);
    data[20] = data[20].wrapping_sub(sum);
    assert_eq!(run.result, Ok(None));
    assert_eq!(run.bytes(0)[..0x1_e000], data[..0x1_e000]);
    let (mut run, mut data) = padded(&[
        add_pointer(name, name, 4, 4),
        add_checksum(name, 20, 0x1_e000, 0),
        add_checksum(name, 0x1_e000, 0, 0),
    ]);
    data[4..8].copy_from_slice(&0x11_0000_u32.to_le_bytes());
    assert_eq!(run.result, Ok(None));
    assert!(run.bytes(0) == data);
    assert_eq!(run.fw_cfg.transfers, 1 + 15 + 1);
}

#[test]
fn tables_may_have_grown_since_the_directory_was_read() {
    let name = "etc/acpi/tables";
    let with = |size: usize| files(&[("etc/a", &[1; 4]), (name, &vec![1; size])]);
    let script = [
        allocate(name, 64, ZONE_HIGH),
        add_checksum(name, 0, 0, 0x2_1000),
    ]
    .concat();
    let mut run = run_after(with(0x2_0000), with(0x4_0000), &script);
    assert_eq!(run.result, Ok(None));
    assert_eq!(run.given[0].1.len(), 0x4_0000);
    let bytes = run.bytes(0);
    assert!(bytes[1..0x2_1000].iter().all(|byte| *byte == 1));
    assert!(untouched(&bytes[0x2_1000..]));
    // 0x21000 ones are zero modulo 256.
    assert_eq!(bytes[0], 1);

    // As large as before: then the script is wrong.
    let run = run_after(with(0x2_0000), with(0x2_0000), &script);
    assert_eq!(run.result, Err(Error::LoaderOutOfBounds));
}

#[test]
fn a_script_may_have_grown_since_the_directory_was_read() {
    let script: Vec<u8> = (0..40)
        .flat_map(|i| allocate(&std::format!("etc/{i}"), 1, ZONE_HIGH))
        .chain([0; 3072])
        .collect();
    let mut fw_cfg = files(&[("etc/table-loader", &script)]);
    let mut scratch = vec![0xa5; 0x3000];
    let mut read = |size, room: usize| {
        fw_cfg.transfers = 0;
        let file = File {
            selector: 0x20,
            size,
        };
        let found = read_script(file, &mut fw_cfg, &mut scratch[..room]);
        let found = found.map(<[u8]>::to_vec);
        (found, fw_cfg.transfers)
    };
    assert_eq!(read(0x2000, 0x3000), (Ok(script.clone()), 1));
    assert_eq!(read(0x1000, 0x3000), (Ok(script.clone()), 2));
    assert_eq!(read(0x1000, 0x1fff).0, Err(Error::BadLoaderScript));
    assert_eq!(read(0x1001, 0x1000).0, Err(Error::BadLoaderScript));
    // Not padded: this is the whole of it.
    assert_eq!(read(1280, 0x3000), (Ok(script[..1280].to_vec()), 1));
    assert_eq!(read(0, 0x3000), (Ok(Vec::new()), 1));
}

#[test]
fn only_its_own_checksums_tell_how_much_of_a_file_is_used() {
    let fw_cfg = files(&[("etc/acpi/tables", &[1; 0x2_0000]), ("etc/b", &[2; 0x5000])]);
    let script = [
        allocate("etc/acpi/tables", 64, ZONE_HIGH),
        allocate("etc/b", 64, ZONE_HIGH),
        add_checksum("etc/acpi/tables", 0, 0, 0x100),
        add_checksum("etc/b", 0, 0, 0x4000),
    ];
    let mut run = run(fw_cfg, &script.concat());
    assert_eq!(run.result, Ok(None));
    assert!(run.bytes(0)[1..0x100].iter().all(|byte| *byte == 1));
    assert!(untouched(&run.bytes(0)[0x100..]));
}

#[test]
fn a_page_of_padding_is_worth_saving_and_less_is_not() {
    let fw_cfg = files(&[("etc/acpi/tables", &[1; 0x1_0000])]);
    for (end, transferred) in [(0xf000, 0xf000), (0xf001, 0x1_0000)] {
        let script = [
            allocate("etc/acpi/tables", 64, ZONE_HIGH),
            add_checksum("etc/acpi/tables", 0, 0, end),
        ];
        let mut run = run(fw_cfg.clone(), &script.concat());
        assert_eq!(run.result, Ok(None));
        let used = run.bytes(0).iter().rposition(|byte| *byte == 1);
        assert_eq!(used, Some(transferred - 1));
    }
}

#[test]
fn a_file_without_checksums_is_transferred_whole() {
    let log = vec![0x5a; 0x1_0000];
    let mut run = run(
        files(&[("etc/tpm/log", &log)]),
        &allocate("etc/tpm/log", 1, ZONE_HIGH),
    );
    assert_eq!(run.result, Ok(None));
    assert!(run.bytes(0) == log);
}

/// A run over the capture called `name`.
fn run_capture(name: &str) -> (Run, Vec<u8>) {
    let items = capture::items(name);
    let script = &items
        .iter()
        .find(|item| item.0 == "etc/table-loader")
        .unwrap()
        .2;
    (run(capture::device(name), script), script.clone())
}

/// The table at `at`, its checksum found right.
fn table(memory: &mut FakeMemory, at: u32) -> Vec<u8> {
    let header = memory.bytes(PhysRange::new(at, 36).unwrap()).unwrap();
    let len = u32_at(header, 4).unwrap();
    let table = memory
        .bytes(PhysRange::new(at, len).unwrap())
        .unwrap()
        .to_vec();
    let name = String::from_utf8_lossy(&table[..4]).into_owned();
    assert_eq!(byte_sum(&table), 0, "checksum of {name} at {at:#x}");
    table
}

/// All tables that the RSDP at `at` leads to.
fn tables(memory: &mut FakeMemory, at: u32) -> BTreeMap<String, Vec<u8>> {
    let rsdp = memory.bytes(PhysRange::new(at, 36).unwrap()).unwrap();
    assert_eq!(rsdp[..8], *b"RSD PTR ");
    assert_eq!(byte_sum(&rsdp[..20]), 0);
    let mut roots = vec![(u32_at(rsdp, 16).unwrap(), 4)];
    if rsdp[15] != 0 {
        assert_eq!(byte_sum(rsdp), 0);
        roots.push((u32::try_from(u64_at(rsdp, 24).unwrap()).unwrap(), 8));
    }
    let mut found = BTreeMap::new();
    for (root, width) in roots {
        if root == 0 {
            continue;
        }
        for pointer in table(memory, root)[36..].chunks(width) {
            let at = u32_at(pointer, 0).unwrap();
            let bytes = table(memory, at);
            if bytes[..4] == *b"FACP" {
                let (facs, dsdt) = (u32_at(&bytes, 36).unwrap(), u32_at(&bytes, 40).unwrap());
                let long = u64_at(&bytes, 140).unwrap_or(0);
                assert!(long == 0 || dsdt == 0 || long == u64::from(dsdt));
                let dsdt = if dsdt == 0 {
                    u32::try_from(long).unwrap()
                } else {
                    dsdt
                };
                if facs != 0 {
                    let facs = memory.bytes(PhysRange::new(facs, 64).unwrap()).unwrap();
                    assert_eq!(facs[..4], *b"FACS");
                }
                found.insert("DSDT".into(), table(memory, dsdt));
            }
            found.insert(String::from_utf8(bytes[..4].to_vec()).unwrap(), bytes);
        }
    }
    found
}

#[test]
fn captured_machines_link() {
    for (name, expected) in [
        ("microvm", &["APIC", "DSDT", "FACP"][..]),
        ("microvm-pcie", &["APIC", "DSDT", "FACP"]),
        ("pc", &["APIC", "DSDT", "FACP", "HPET", "WAET"]),
        ("pc-80-bridges", &["APIC", "DSDT", "FACP", "HPET", "WAET"]),
        (
            "pc-acpitable",
            &["APIC", "DSDT", "FACP", "HPET", "TEST", "WAET"],
        ),
        (
            "pc-numa-64cpus",
            &["APIC", "DSDT", "FACP", "HPET", "SRAT", "SSDT", "WAET"],
        ),
        ("q35", &["APIC", "DSDT", "FACP", "HPET", "MCFG", "WAET"]),
        (
            "q35-nvdimm-vmgenid",
            &[
                "APIC", "DMAR", "DSDT", "FACP", "HPET", "MCFG", "NFIT", "SRAT", "SSDT", "WAET",
            ],
        ),
    ] {
        std::println!("{name}");
        let (mut run, script) = run_capture(name);
        let rsdp = run.result.unwrap().unwrap();
        assert_eq!(rsdp, FSEG.start(), "{name}");
        let tables = tables(&mut run.memory, rsdp);
        let found: Vec<_> = tables.keys().map(String::as_str).collect();
        assert_eq!(found, expected, "{name}");
        // One transfer a file is all that a real machine takes.
        assert_eq!(run.fw_cfg.transfers, run.given.len(), "{name}");
        compare_with_model(&capture::device(name), &script, &mut run);
    }
}

#[test]
fn only_the_used_part_is_transferred() {
    for name in ["pc", "q35", "q35-nvdimm-vmgenid", "pc-80-bridges"] {
        let (mut run, _) = run_capture(name);
        let largest = run
            .given
            .iter()
            .map(|given| given.1)
            .max_by_key(|range| range.len());
        let bytes = run.memory.bytes(largest.unwrap()).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0xa5).unwrap();
        let last = bytes.rchunks(4096).take_while(|page| untouched(page));
        let untouched = last.count();
        std::println!(
            "{name}: {used} of {} bytes, {untouched} pages untouched",
            bytes.len()
        );
        if name != "pc-80-bridges" {
            assert!(used < 0x8000, "{name}: {used} bytes transferred");
        }
        assert!(untouched != 0);
    }
}

#[test]
fn vmgenid_reaches_host_and_guest() {
    let (mut run, _) = run_capture("q35-nvdimm-vmgenid");
    let guid = [
        0xaf, 0x6e, 0x4e, 0x32, 0xd1, 0xd1, 0xf6, 0x4b, 0xbf, 0x41, 0xb9, 0xbb, 0x6c, 0x91, 0xfb,
        0x87,
    ];
    let [(_, 0, address)] = run.fw_cfg.written.as_slice() else {
        panic!("{:?}", run.fw_cfg.written);
    };
    let address = u32::try_from(u64_at(address, 0).unwrap()).unwrap();
    let told = PhysRange::new(address, 16).unwrap();
    let file = run
        .given
        .iter()
        .find(|given| given.1.contains(told))
        .unwrap()
        .1;
    let file = run.memory.bytes(file).unwrap();
    assert!(file.windows(16).any(|bytes| bytes == guid));
}

/// The linker-loader written once more, as simply as can be: whole files, no
/// bounds that a panic would not find.
fn model(device: &FakeFwCfg, script: &[u8], given: &[(Zone, PhysRange)]) -> Vec<(Vec<u8>, usize)> {
    let mut scratch = vec![0; 65536];
    let mut device = device.clone();
    let (dir, _) = Directory::read(&mut device, &mut scratch).unwrap();
    let mut names: Vec<FileName> = Vec::new();
    let mut files: Vec<(Vec<u8>, usize)> = Vec::new();
    let word = |command: &[u8], at: usize| u32_at(command, at).unwrap() as usize;
    for command in script.chunks(128) {
        let name: FileName = command[4..60].try_into().unwrap();
        let find = |name: &[u8]| names.iter().position(|known| known[..] == *name).unwrap();
        match word(command, 0) {
            0 => break,
            1 => {
                let file = dir.find(&name).unwrap();
                let mut bytes = vec![0; file.size as usize];
                device.read(file.selector, &mut bytes).unwrap();
                names.push(name);
                files.push((bytes, 0));
            }
            2 => {
                let (dest, src) = (find(&name), find(&command[60..116]));
                let (at, size) = (word(command, 116), usize::from(command[120]));
                let mut value = [0; 8];
                value[..size].copy_from_slice(&files[dest].0[at..at + size]);
                let value = u64::from_le_bytes(value) + u64::from(given[src].1.start());
                files[dest].0[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
            }
            3 => {
                let (file, at) = (find(&name), word(command, 60));
                let (start, len) = (word(command, 64), word(command, 68));
                let (bytes, end) = &mut files[file];
                let sum = byte_sum(&bytes[start..start + len]);
                bytes[at] = bytes[at].wrapping_sub(sum);
                *end = (*end).max(start + len);
            }
            _ => {}
        }
    }
    files
}

/// Every byte that was transferred is as the model has it, and what was not
/// lies behind the last checksum.
fn compare_with_model(device: &FakeFwCfg, script: &[u8], run: &mut Run) {
    let files = model(device, script, &run.given);
    assert_eq!(files.len(), run.given.len());
    for ((expected, end), (_, range)) in files.iter().zip(&run.given) {
        let bytes = run.memory.bytes(*range).unwrap();
        let filled = bytes
            .iter()
            .rposition(|byte| *byte != 0xa5)
            .map_or(0, |at| at + 1);
        let filled = filled.min(expected.len());
        assert!(bytes[..filled] == expected[..filled]);
        assert!(filled >= *end || untouched(&expected[filled..]));
    }
}

/// Whether all bytes are as [`FakeMemory`] made them.
fn untouched(bytes: &[u8]) -> bool {
    const PAGE: [u8; 4096] = [0xa5; 4096];
    bytes
        .chunks(PAGE.len())
        .all(|part| *part == PAGE[..part.len()])
}

/// Bytes outside the given ranges are as they were.
fn outside_is_untouched(run: &mut Run) -> bool {
    let mut ranges: Vec<_> = run.given.iter().map(|given| given.1).collect();
    ranges.sort_by_key(|range| range.start());
    let mut at = ALL.start();
    ranges.push(PhysRange::fixed(ALL.end(), ALL.end()));
    ranges.iter().all(|range| {
        let gap = PhysRange::between(at, range.start()).unwrap();
        at = range.end();
        untouched(run.memory.bytes(gap).unwrap())
    })
}

const NAMES: [&str; 5] = [
    "etc/acpi/rsdp",
    "etc/acpi/tables",
    "etc/vmgenid_guid",
    "etc/empty",
    "etc/none",
];

/// The files that [`NAMES`] names, but the last.
fn device() -> FakeFwCfg {
    // Small numbers where pointers are read, so that many of them are valid.
    let numbers = |len: u32| -> Vec<u8> {
        (0..len / 8)
            .flat_map(|i| u64::from(i % 32).to_le_bytes())
            .collect()
    };
    files(&[
        ("etc/acpi/rsdp", &numbers(40)),
        ("etc/acpi/tables", &numbers(0x1_8000)),
        ("etc/vmgenid_guid", &numbers(4096)),
        ("etc/empty", &[]),
    ])
}

/// Numbers about the sizes of files, and beyond all of them.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![
        8 => (0..40_u32).prop_map(|n| n & !7),
        2 => 0..0x2_0000_u32,
        1 => 0..40_u32,
        1 => any::<u32>(),
        1 => (0..8_u32).prop_map(|n| u32::MAX - n),
    ]
}

fn any_command() -> impl Strategy<Value = [u8; 128]> {
    let name = || select(&NAMES[..]);
    let size = || prop_oneof![6 => select(&[4, 8][..]), 1 => any::<u8>(), 1 => 0..9_u8];
    let align = || prop_oneof![6 => (0..17).prop_map(|n| 1_u32 << n), 1 => any::<u32>()];
    prop_oneof![
        1 => (name(), align(), prop_oneof![8 => 1..3_u8, 1 => any::<u8>()])
            .prop_map(|(file, align, zone)| allocate(file, align, zone)),
        4 => (name(), name(), number(), size())
            .prop_map(|(dest, src, offset, size)| add_pointer(dest, src, offset, size)),
        4 => (name(), number(), number(), number())
            .prop_map(|(file, offset, start, len)| add_checksum(file, offset, start, len)),
        1 => (name(), name(), number(), number(), size())
            .prop_map(|(dest, src, at, offset, size)| write_pointer(dest, src, at, offset, size)),
        1 => any::<[u8; 128]>(),
    ]
}

/// Scripts that begin with the files' allocation, as real ones do.
fn any_script() -> impl Strategy<Value = Vec<u8>> {
    vec_of(any_command(), 0..12).prop_map(|commands| {
        let mut script: Vec<u8> = NAMES[..4]
            .iter()
            .flat_map(|name| allocate(name, 16, ZONE_HIGH))
            .collect();
        script.extend(commands.concat());
        script
    })
}

/// The machine with the most kinds of commands, and its script.
static REAL: LazyLock<(FakeFwCfg, Vec<u8>)> = LazyLock::new(|| {
    let items = capture::items("q35-nvdimm-vmgenid");
    let script = items
        .iter()
        .find(|item| item.0 == "etc/table-loader")
        .unwrap();
    (capture::device("q35-nvdimm-vmgenid"), script.2.clone())
});

proptest! {
    #[test]
    fn any_script_stays_in_its_files(script in any_script(), skip in 0..5_usize) {
        let script = &script[skip * 128..];
        let mut run = run(device(), script);
        prop_assert!(outside_is_untouched(&mut run));
        if run.result.is_ok() {
            compare_with_model(&device(), script, &mut run);
        }
    }

    #[test]
    fn any_bytes_end(script in vec_of(any::<u8>(), 0..1024)) {
        let mut run = run(device(), &script);
        prop_assert!(outside_is_untouched(&mut run));
    }

    #[test]
    fn a_damaged_real_script_stays_in_its_files(
        damage in vec_of((0..2048_usize, any::<u8>()), 1..4),
    ) {
        let (device, script) = &*REAL;
        let mut script = script.clone();
        for (at, byte) in damage {
            script[at] = byte;
        }
        let mut run = run(device.clone(), &script);
        prop_assert!(outside_is_untouched(&mut run));
    }
}
