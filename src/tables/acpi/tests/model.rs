//! The linker-loader written once more, and arbitrary scripts for both.

use super::*;
use crate::capture;
use proptest::collection::vec as vec_of;
use proptest::prelude::*;
use proptest::sample::select;
use std::sync::LazyLock;

/// The linker-loader written once more, as simply as can be: whole files, no
/// bounds that a panic would not find.
fn model(device: &FakeFwCfg, script: &[u8], given: &[PhysRange]) -> Vec<(Vec<u8>, usize)> {
    let mut scratch = vec![0; 65536];
    let mut machine = Machine {
        fw_cfg: device.clone(),
        ..Machine::default()
    };
    let (dir, _) = Directory::read(&mut machine, &mut scratch).unwrap();
    let mut names: Vec<FileName> = Vec::new();
    let mut files: Vec<(Vec<u8>, usize)> = Vec::new();
    let word = |command: &[u8], at: usize| u32_at(command, at).unwrap() as usize;
    for command in script.chunks(128) {
        let name: FileName = command[4..60].try_into().unwrap();
        let find = |name: &[u8]| names.iter().position(|known| known[..] == *name).unwrap();
        match word(command, 0) {
            0 => break,
            1 => {
                let file = dir.find(up_to_nul(&name)).unwrap();
                let mut bytes = vec![0; file.size as usize];
                machine.fw_cfg.read(file.selector, &mut bytes).unwrap();
                names.push(name);
                files.push((bytes, 0));
            }
            2 => {
                let (dest, src) = (find(&name), find(&command[60..116]));
                let (at, size) = (word(command, 116), usize::from(command[120]));
                let mut value = [0; 8];
                value[..size].copy_from_slice(&files[dest].0[at..at + size]);
                let value = u64::from_le_bytes(value) + u64::from(given[src].start());
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
pub(super) fn compare_with_model(device: &FakeFwCfg, script: &[u8], run: &mut Run) {
    let files = model(device, script, &run.given);
    assert_eq!(files.len(), run.given.len());
    for ((expected, end), range) in files.iter().zip(&run.given) {
        let bytes = run.machine.memory.peek(*range);
        let filled = bytes
            .iter()
            .rposition(|byte| *byte != 0xa5)
            .map_or(0, |at| at + 1);
        let filled = filled.min(expected.len());
        assert!(bytes[..filled] == expected[..filled]);
        assert!(filled >= *end || untouched(&expected[filled..]));
    }
}

/// Bytes outside the given ranges are as they were.
fn outside_is_untouched(run: &Run) -> bool {
    let mut ranges = run.given.clone();
    ranges.sort_by_key(|range| range.start());
    [FSEG, HIGH].iter().all(|zone| {
        let mut at = zone.start();
        let inside = ranges.iter().filter(|range| zone.contains(**range));
        inside
            .chain([&PhysRange::fixed(zone.end(), zone.end())])
            .all(|range| {
                let gap = PhysRange::between(at, range.start()).unwrap();
                at = range.end();
                untouched(run.machine.memory.peek(gap))
            })
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
        prop_assert!(outside_is_untouched(&run));
        if run.result.is_ok() {
            compare_with_model(&device(), script, &mut run);
        }
    }

    #[test]
    fn any_bytes_end(script in vec_of(any::<u8>(), 0..1024)) {
        let run = run(device(), &script);
        prop_assert!(outside_is_untouched(&run));
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
        let run = run(device.clone(), &script);
        prop_assert!(outside_is_untouched(&run));
    }
}
