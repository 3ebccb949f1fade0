//! How much of a file is transferred, and files that have grown.

use super::*;

/// Where a file of 128 KiB goes.
const PLACE: u32 = HIGH.end() - 0x2_0000;

/// A file of 128 KiB whose byte at `i` is `i % 251`, but zero where pointers
/// start, the last checksum ending at 0x2000.
fn padded(more: &[[u8; 128]]) -> (Run, Vec<u8>) {
    padded_from(0x2000, more)
}

/// As [`padded`], the last checksum ending at `end`.
fn padded_from(end: u32, more: &[[u8; 128]]) -> (Run, Vec<u8>) {
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
    script.extend(add_checksum("etc/acpi/tables", 16, 0x1000, end - 0x1000));
    let run = run(fw_cfg, &script);
    data[..4].copy_from_slice(&(PLACE + 0x1000).to_le_bytes());
    let sum = byte_sum(&data[0x1000..end as usize]);
    data[16] = data[16].wrapping_sub(sum);
    (run, data)
}

#[test]
fn padding_is_not_transferred() {
    let (mut run, data) = padded(&[]);
    assert_eq!(run.result, Ok(None));
    assert_eq!(run.machine.fw_cfg.transfers, 1);
    let bytes = run.bytes(0);
    assert_eq!(bytes[..0x2000], data[..0x2000]);
    assert!(untouched(&bytes[0x2000..]));
}

/// What ends with its last checksum has no padding, and has not grown.
#[test]
fn a_full_file_takes_one_transfer() {
    let (mut run, data) = padded_from(0x2_0000, &[]);
    assert_eq!(run.result, Ok(None));
    assert_eq!(run.machine.fw_cfg.transfers, 1);
    assert!(run.bytes(0) == data);
}

#[test]
fn a_reference_into_the_padding_transfers_it() {
    // What is patched before and after the second transfer is kept.
    let name = "etc/acpi/tables";
    let (mut run, mut data) = padded(&[add_pointer(name, name, 4, 4)]);
    assert_eq!(run.result, Ok(None));
    data[4..8].copy_from_slice(&(PLACE + 0x1_0000).to_le_bytes());
    assert!(run.bytes(0) == data);

    let (mut run, mut data) = padded(&[add_pointer(name, name, 0x1_8000, 4)]);
    assert_eq!(run.result, Ok(None));
    data[0x1_8000..0x1_8004].copy_from_slice(&PLACE.to_le_bytes());
    assert!(run.bytes(0) == data);

    let (mut run, data) = padded(&[add_checksum(name, 0x1_ffff, 0, 0)]);
    assert_eq!(run.result, Ok(None));
    assert!(run.bytes(0) == data);

    let (mut run, mut data) = padded(&[
        add_pointer(name, name, 4, 4),
        add_checksum(name, 20, 0x1_0000, 0xe000),
    ]);
    assert_eq!(run.result, Ok(None));
    data[4..8].copy_from_slice(&(PLACE + 0x1_0000).to_le_bytes());
    data[20] = data[20].wrapping_sub(byte_sum(&data[0x1_0000..0x1_e000]));
    assert!(run.bytes(0) == data);

    // Nearly all of the file is to be passed over: more than fits at once.
    let (mut run, mut data) = padded_from(
        0x1_e000,
        &[
            add_pointer(name, name, 4, 4),
            add_checksum(name, 0x1_e000, 0, 0),
        ],
    );
    data[4..8].copy_from_slice(&(PLACE + 0x1_0000).to_le_bytes());
    assert_eq!(run.result, Ok(None));
    assert!(run.bytes(0) == data);
    assert_eq!(run.machine.fw_cfg.transfers, 1 + 15 + 1);
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
    assert_eq!(run.given[0].len(), 0x4_0000);
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
    let mut machine = Machine {
        fw_cfg: files(&[("etc/table-loader", &script)]),
        ..Machine::default()
    };
    let mut scratch = vec![0xa5; 0x3000];
    let mut read = |size, room: usize| {
        machine.fw_cfg.transfers = 0;
        let file = File {
            selector: 0x20,
            size,
        };
        let found = read_script(&mut machine, file, &mut scratch[..room]);
        let found = found.map(<[u8]>::to_vec);
        (found, machine.fw_cfg.transfers)
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
