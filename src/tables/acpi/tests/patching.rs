//! Every patch of small files, against a model: each command with each field at, inside
//! and behind the ends of its files, and at the end of 32 bits.
//!
//! Given: a file lies where the window is open, as `allocate` places it, and its first
//! byte is transferred. No address below 64 KiB fits a pointer of one byte.
#![expect(clippy::cast_possible_truncation, reason = "files of ten bytes")]

use super::*;
use crate::platform::FwCfg as _;

/// Where the window is open above 1 MiB, and what else is compared below.
const NEAR: [PhysRange; 2] = [
    PhysRange::fixed(0x10_0000, 0x10_0040),
    PhysRange::fixed(0x6000, 0x6010),
];
/// Places of the pointer's file and of two others; one of them has an address that fits
/// two bytes.
const PLACES: [u32; 3] = [0x10_0010, 0x10_0028, 0x6004];
const NAMES: [&str; 3] = ["etc/dest", "etc/high", "etc/low"];
const SELECTORS: [u16; 3] = [0x20, 0x21, 0x22];

/// A file as the model has it.
#[derive(Clone)]
struct Small {
    /// QEMU's bytes.
    data: Vec<u8>,
    /// Those in memory.
    bytes: Vec<u8>,
    /// How many are transferred.
    filled: usize,
}

impl Small {
    fn new(data: &[u8], filled: usize) -> Self {
        let mut bytes = data.to_vec();
        bytes[filled..].fill(OLD);
        let data = data.to_vec();
        Self {
            data,
            bytes,
            filled,
        }
    }

    /// The bytes up to `end` are asked for.
    fn need(&mut self, end: u64) {
        if end > self.filled as u64 {
            let filled = self.filled;
            self.bytes[filled..].copy_from_slice(&self.data[filled..]);
            self.filled = self.data.len();
        }
    }

    fn part(&mut self, start: u32, len: u32) -> Result<&mut [u8]> {
        let end = u64::from(start) + u64::from(len);
        let end = usize::try_from(end).map_err(|_| Error::LoaderOutOfBounds)?;
        let part = self.bytes.get_mut(start as usize..end);
        part.ok_or(Error::LoaderOutOfBounds)
    }
}

type Model = [Small; 3];

/// The address of a byte of a file, as `size` bytes.
fn address(files: &mut Model, src: usize, offset: u64, size: u8) -> Result<Vec<u8>> {
    if offset > u64::from(u32::MAX) {
        return Err(Error::LoaderOutOfBounds);
    }
    let address = (u64::from(PLACES[src]) + offset).to_le_bytes();
    let (used, rest) = address.split_at(usize::from(size).min(8));
    if offset >= files[src].data.len() as u64 {
        return Err(Error::LoaderOutOfBounds);
    }
    if ![1, 2, 4, 8].contains(&size) {
        return Err(Error::BadLoaderScript);
    }
    if rest.iter().any(|byte| *byte != 0) {
        return Err(Error::LoaderOutOfBounds);
    }
    files[src].need(offset + 1);
    Ok(used.to_vec())
}

fn model_pointer(files: &mut Model, src: usize, offset: u32, size: u8) -> Result<()> {
    files[0].need(u64::from(offset) + u64::from(size));
    let field = files[0].part(offset, size.into())?;
    if ![1, 2, 4, 8].contains(&size) {
        return Err(Error::BadLoaderScript);
    }
    let value = field
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let address = address(files, src, value, size)?;
    files[0]
        .part(offset, size.into())?
        .copy_from_slice(&address);
    Ok(())
}

fn model_checksum(files: &mut Model, offset: u32, start: u32, len: u32) -> Result<()> {
    let end = u64::from(start) + u64::from(len);
    files[0].need(end.max(u64::from(offset) + 1));
    let sum = byte_sum(files[0].part(start, len)?);
    let checksum = &mut files[0].part(offset, 1)?[0];
    *checksum = checksum.wrapping_sub(sum);
    Ok(())
}

/// Numbers about the ends of a file, and of 32 bits.
fn numbers(len: usize) -> impl Iterator<Item = u32> + Clone {
    (0..len as u32 + 2).chain(u32::MAX - 8..=u32::MAX)
}

/// Calls `test` with a loader over these files. It sets their content, and runs one
/// command after another.
fn with_loader(fw_cfg: FakeFwCfg, test: impl FnOnce(&mut Loader<'_, '_, '_, Machine>)) {
    let mut machine = Machine {
        fw_cfg,
        memory: Memory::new(0x10_1000),
        ..Machine::default()
    };
    machine.open(NEAR[0]);
    let mut scratch = vec![0; 4096];
    let (dir, _) = Directory::read(&mut machine, &mut scratch).unwrap();
    let mut map = map_of(HIGH.end().into());
    test(&mut Loader {
        platform: &mut machine,
        dir: &dir,
        space: &mut TableSpace::new(&mut map),
        files: ArrayVec::new(),
        tables: &mut Tables::new(None),
        may_sum: MAX_SUMMED,
    });
}

/// Puts the files where they lie, as if they had been allocated.
fn place(loader: &mut Loader<'_, '_, '_, Machine>, before: &Model) {
    static TERMINATED: [&str; 3] = ["etc/dest\0", "etc/high\0", "etc/low\0"];
    let machine = &mut *loader.platform;
    loader.files.clear();
    loader.tables.all.clear();
    loader.may_sum = MAX_SUMMED;
    for near in NEAR {
        machine.memory.fill(near, OLD);
    }
    for (n, file) in before.iter().enumerate() {
        let range = PhysRange::new(PLACES[n], file.data.len() as u32).unwrap();
        let filled = file.filled as u32;
        machine.fw_cfg.item(SELECTORS[n], &file.data);
        machine
            .load(SELECTORS[n], range.part(0, filled).unwrap())
            .unwrap();
        loader.files.push(Loaded {
            name: TERMINATED[n].as_bytes(),
            range,
            filled,
            selector: SELECTORS[n],
        });
    }
    machine.memory.touched.clear();
    machine.loads.clear();
}

/// Runs `command` over `before`, and compares its result and every byte near the files
/// with the model's.
fn compare(
    loader: &mut Loader<'_, '_, '_, Machine>,
    before: &Model,
    command: &[u8; COMMAND_LEN],
    model: impl FnOnce(&mut Model) -> Result<()>,
) {
    place(loader, before);
    let result = match number(command) {
        ADD_POINTER => loader.add_pointer(transmute_ref!(command)),
        ADD_CHECKSUM => loader.add_checksum(transmute_ref!(command)),
        _ => loader.write_pointer(transmute_ref!(command)),
    };
    let mut after = before.clone();
    assert_eq!(result, model(&mut after), "{command:?}");
    for near in NEAR {
        let mut expected = vec![OLD; near.len() as usize];
        for (file, place) in after.iter().zip(PLACES) {
            if (near.start()..near.end()).contains(&place) {
                let at = (place - near.start()) as usize;
                expected[at..at + file.bytes.len()].copy_from_slice(&file.bytes);
            }
        }
        let bytes = loader.platform.memory.peek(near);
        assert!(bytes == expected, "{command:?} {bytes:?} {expected:?}");
    }
}

/// Files of these lengths, and how much of them is transferred: a byte, or all.
fn sizes<const N: usize>(lens: [usize; N]) -> impl Iterator<Item = (usize, usize)> {
    lens.into_iter()
        .flat_map(|len| [(len, len.min(1)), (len, len)])
}

fn small_files() -> FakeFwCfg {
    files(&NAMES.map(|name| (name, &[0; 10][..])))
}

#[test]
fn every_pointer_stays_in_its_file() {
    let values = [
        0,
        1,
        2,
        3,
        9,
        10,
        0x100,
        0xffff_ffff,
        1 << 32,
        1 << 63,
        u64::MAX,
    ];
    with_loader(small_files(), |loader| {
        for (len, filled) in sizes([0, 1, 2, 3, 4, 7, 8, 9, 10]) {
            for (offset, value) in numbers(len).flat_map(|o| values.map(|value| (o, value))) {
                let mut data = vec![1; len];
                let field = data.get_mut(offset as usize..).unwrap_or_default();
                if field.is_empty() && value != 0 {
                    continue;
                }
                for (slot, byte) in field.iter_mut().zip(value.to_le_bytes()) {
                    *slot = byte;
                }
                let before = [
                    Small::new(&data, filled),
                    Small::new(&[7, 8, 9], 1),
                    Small::new(&[4, 5], 2),
                ];
                for size in (0..=10).chain([16, 255]) {
                    for (src, name) in NAMES.into_iter().enumerate() {
                        let command = add_pointer(NAMES[0], name, offset, size);
                        compare(loader, &before, &command, |files| {
                            model_pointer(files, src, offset, size)
                        });
                    }
                }
            }
        }
    });
}

#[test]
fn every_checksum_stays_in_its_file() {
    with_loader(small_files(), |loader| {
        for (len, filled) in sizes([0, 1, 2, 3, 10]) {
            let data = &[0x83, 0xa2, 0xc1, 0xe0, 0xff, 0x1e, 0x3d, 0x5c, 0x7b, 0x9a][..len];
            let before = [
                Small::new(data, filled),
                Small::new(&[7], 1),
                Small::new(&[4], 1),
            ];
            for (offset, start) in numbers(len).flat_map(|o| numbers(len).map(move |s| (o, s))) {
                for summed in numbers(len) {
                    let command = add_checksum(NAMES[0], offset, start, summed);
                    compare(loader, &before, &command, |files| {
                        model_checksum(files, offset, start, summed)
                    });
                    // A table is what has its checksum in its header.
                    let end = start.saturating_add(summed) as usize;
                    let is_table = offset.checked_sub(9) == Some(start);
                    let noted = is_table && summed >= 4 && end <= len;
                    assert_eq!(loader.tables.all.len(), usize::from(noted));
                }
            }
        }
    });
}

#[test]
fn checksums_sum_no_more_than_the_limit() {
    let mut before = [0, 1, 2].map(|_| Small::new(&[0; 10], 10));
    before[0] = Small::new(&[1; 10], 10);
    with_loader(small_files(), |loader| {
        for (may_sum, expected) in [(10, Ok(())), (9, Err(Error::BadLoaderScript))] {
            let command = add_checksum(NAMES[0], 0, 0, 10);
            place(loader, &before);
            loader.may_sum = may_sum;
            assert_eq!(loader.add_checksum(transmute_ref!(&command)), expected);
        }
    });
}

#[test]
fn every_written_pointer_stays_in_its_file() {
    let before = [
        Small::new(&[1, 2, 3], 1),
        Small::new(&[7], 1),
        Small::new(&[4, 5], 1),
    ];
    for len in 0..=10 {
        let mut fw_cfg = small_files();
        let selector = fw_cfg.file("etc/host", &vec![0; len]);
        with_loader(fw_cfg, |loader| {
            for (to, of) in numbers(len).flat_map(|to| numbers(3).map(move |of| (to, of))) {
                for (size, src) in (0..=10).chain([255]).flat_map(|s| [(s, 0), (s, 2)]) {
                    let command = write_pointer("etc/host", NAMES[src], to, of, size);
                    loader.tables.written.clear();
                    loader.platform.fw_cfg.written.clear();
                    let mut told = Vec::new();
                    compare(loader, &before, &command, |files| {
                        if of as usize >= files[src].data.len() {
                            return Err(Error::LoaderOutOfBounds);
                        }
                        files[src].need(u64::from(of) + 1);
                        if u64::from(to) + u64::from(size) > len as u64 {
                            return Err(Error::LoaderOutOfBounds);
                        }
                        told.push((selector, to, address(files, src, of.into(), size)?));
                        Ok(())
                    });
                    assert_eq!(loader.platform.fw_cfg.written, told, "{command:?}");
                    assert_eq!(loader.tables.written.len(), told.len());
                }
            }
        });
    }
}
