use super::*;
use proptest::prelude::*;
use std::vec::Vec;
use zerocopy::IntoBytes;

fn raw(entries: &[(u64, u64, u32)]) -> Vec<u8> {
    entries
        .iter()
        .flat_map(|(base, len, kind)| {
            Entry {
                base: U64::new(*base),
                len: U64::new(*len),
                kind: U32::new(*kind),
            }
            .as_bytes()
            .to_vec()
        })
        .collect()
}

fn map(entries: &[(u64, u64, u32)]) -> MemoryMap {
    let mut map = MemoryMap::new();
    map.fill(&raw(entries), NONE).unwrap();
    map
}

fn listed(map: &MemoryMap) -> Vec<(u64, u64, u32)> {
    map.entries()
        .iter()
        .map(|e| (e.base(), e.end(), e.kind().number()))
        .collect()
}

/// The map of a machine with `ram` bytes, all below 4 GiB.
pub(crate) fn map_of(ram: u64) -> MemoryMap {
    map(&[(0, ram, 1)])
}

const MIB: u64 = 1 << 20;
/// No registers to reserve.
const NONE: PhysRange = PhysRange::fixed(0, 0);

#[test]
fn an_ordinary_machine() {
    let map = map(&[
        (0, 512 * MIB, 1),
        (0xfeff_c000, 0x4000, 2),
        (4096 * MIB, 512 * MIB, 1),
    ]);
    assert_eq!(
        listed(&map),
        [
            (0, 0x9_fc00, 1),
            (0x9_fc00, 0xa_0000, 2),
            (0xf_0000, 0x10_0000, 2),
            (0x10_0000, 512 * MIB, 1),
            (0xfeff_c000, 0xff00_0000, 2),
            (4096 * MIB, 4608 * MIB, 1),
        ]
    );
    assert_eq!(map.high(), PhysRange::fixed(0x10_0000, 512 << 20));
    assert_eq!(map.ram_end(), 4608 * MIB);
}

#[test]
fn ram_below_1_mib_ends_where_it_always_does() {
    // Up to 640 KiB, the EBDA told once more, and an entry that holds no byte.
    let fits = [(0, 0xa_0000, 1), (0x9_fc00, 0x400, 2), (0x1000, 0, 2)];
    let ordinary = map(&[(0, MIB, 1)]);
    assert_eq!(listed(&map(&fits)), listed(&ordinary)[..3]);
    assert_eq!(map(&fits).ram_end(), 0x9_fc00);
    for bad in [
        [(0, 0x9_ffff, 1), (MIB, MIB, 1)],
        [(0, MIB, 1), (0x9_fbff, 1, 2)],
    ] {
        let filled = MemoryMap::new().fill(&raw(&bad), NONE);
        assert_eq!(filled, Err(Error::BadE820), "{bad:x?}");
    }
}

#[test]
fn reserved_wins_over_ram() {
    let map = map(&[(0x20_0000, 0x1000, 2), (0, 64 * MIB, 1)]);
    assert_eq!(map.high(), PhysRange::fixed(0x10_0000, 0x20_0000));
}

#[test]
fn one_mebibyte_is_a_map_without_high_memory() {
    assert!(map(&[(0, MIB, 1)]).high().is_empty());
}

#[test]
fn malformed_maps_are_refused() {
    for bad in [
        raw(&[]),
        raw(&[(0x1000, MIB, 1)]),
        raw(&[(0, MIB / 2, 1)]),
        raw(&[(0, MIB, 1), (u64::MAX, 2, 2)]),
        vec![0; 21],
    ] {
        assert_eq!(MemoryMap::new().fill(&bad, NONE), Err(Error::BadE820));
    }
    let many: Vec<_> = (0..200).map(|i| (16 * MIB + i * 8192, 4096, 2)).collect();
    let many = [&[(0, MIB, 1)], many.as_slice()].concat();
    assert_eq!(
        MemoryMap::new().fill(&raw(&many), NONE),
        Err(Error::TooManyE820Entries)
    );
}

#[test]
fn any_number_of_segments_leaves_room_for_claims() {
    let mut map = map(&[(0, 64 * MIB, 1)]);
    let segments = (0..200).map(|n| 0x10_0000 + n * 0x2_0000).rev();
    let low = [0x6000, 0x8_0000, 0x1_0000, 0x9_f000];
    for start in segments.chain(low) {
        map.hold(PhysRange::fixed(start, start + 0x100)).unwrap();
    }
    for start in [0x6000, 0x1_00ff, 0x8_0000, 0x9_f0ff, 0x10_0000, 0x19e_00ff] {
        assert!(map.is_claimed(start), "{start:#x}");
    }
    assert!(!map.is_claimed(0x1_0100) && !map.is_claimed(0x19e_0100));
    assert!(map.hold(PhysRange::fixed(0x5000, 0x6001)).is_none());
    let high = map.high();
    assert!((0..45).all(|_| map.place(0x1000, 0x1000, high).is_some()));
}

#[test]
fn placement_goes_round_what_is_held() {
    let mut map = map(&[(0, 16 * MIB, 1)]);
    let high = map.high();
    let kernel = map.claim(PhysRange::fixed(0x80_0000, 0x100_0000)).unwrap();
    let initrd = map.place(0x10_0001, 4096, high).unwrap();
    assert_eq!(
        initrd.range(),
        PhysRange::new(0x6f_f000, 0x10_0001).unwrap()
    );
    assert!(map.claim(kernel.range()).is_none());
    assert!(map.place(0x70_0000, 4096, high).is_none());
    assert_eq!(map.largest_free(high), 0x6f_f000 - 0x10_0000);
}

/// Every four changes of a map of six bytes, beside an array that is painted with
/// them. No change looks at what kind another was, so each has one of its own, which
/// shows who has a byte. Precondition: there is room for the entries.
#[test]
fn the_map_has_what_was_painted_last() {
    const BYTES: u64 = 6;
    let ranges = (0..BYTES).flat_map(|base| (base + 1..=BYTES).map(move |end| (base, end)));
    // One that holds no byte, too.
    let ranges: Vec<_> = ranges.chain([(3, 3)]).collect();
    let count = ranges.len();
    for sequence in 0..count.pow(4) {
        let mut map = MemoryMap::new();
        let mut painted = [0; BYTES as usize];
        for turn in 0..4 {
            let (base, end) = ranges[sequence / count.pow(turn) % count];
            map.set(base, end, Kind(turn + 1)).unwrap();
            painted[base as usize..end as usize].fill(turn + 1);
        }
        let mut found = [0; BYTES as usize];
        let mut last = 0;
        for (base, end, kind) in listed(&map) {
            assert!(last <= base && base < end, "{:?}", listed(&map));
            found[base as usize..end as usize].fill(kind);
            last = end;
        }
        assert_eq!(found, painted, "{sequence}");
    }
}

/// What a map does, and the same by its definition.
#[derive(Clone, Copy, Debug)]
enum Step {
    Hold(PhysRange),
    Claim(PhysRange),
    Place(u32, u32),
    PlaceLow(u32, u32),
}

/// The highest place: it ends below the end of its part, or below what is held, by
/// less than an alignment.
fn highest(held: &[PhysRange], len: u32, align: u32, within: PhysRange) -> Option<PhysRange> {
    let tops = held.iter().map(|held| held.start()).chain([within.end()]);
    let starts = tops.filter_map(|top| Some(align_down(top.checked_sub(len)?, align)));
    let free = starts
        .filter_map(|start| PhysRange::new(start, len))
        .filter(|range| within.contains(*range) && !held.iter().any(|held| held.overlaps(*range)));
    free.max_by_key(|range| range.start())
}

impl Step {
    fn run(self, map: &mut MemoryMap) {
        let held = map.claims().to_vec();
        let high = map.high();
        let parts = [high, layout::LOW_FREE_TOP, layout::LOW_FREE];
        let is_ram = |range| parts.iter().any(|part| part.contains(range));
        let (given, expected) = match self {
            Self::Hold(range) => {
                assert_eq!(map.hold(range).is_some(), is_ram(range), "{self:x?}");
                return;
            }
            Self::Claim(range) => {
                let is_free = is_ram(range) && !held.iter().any(|held| held.overlaps(range));
                (map.claim(range), is_free.then_some(range))
            }
            Self::Place(len, align) => (
                map.place(len, align, high),
                highest(&held, len, align, high),
            ),
            Self::PlaceLow(len, align) => {
                let low = |part| highest(&held, len, align, part);
                let place = low(layout::LOW_FREE_TOP).or_else(|| low(layout::LOW_FREE));
                (map.place_low(len, align), place)
            }
        };
        assert_eq!(
            given.map(|claim| claim.range()),
            expected,
            "{self:x?} {held:x?}"
        );
        assert_eq!(map.claims(), [&held[..], expected.as_slice()].concat());
    }
}

/// Every two steps, with ranges from and to the addresses where RAM that may be held
/// starts and ends, and beside them. Preconditions: no length is 0, an alignment is a
/// power of two, QEMU's segments are held before anything is claimed, and fewer than
/// 48 are held.
#[test]
fn claims_are_free_ram_and_the_highest_that_there_is() {
    const RAM: u32 = 0x10_8000;
    let borders = [
        0x6000, 0x3_0000, 0x8_0000, 0x9_fc00, 0x10_0000, 0x10_4000, RAM,
    ];
    let points: Vec<u32> = borders
        .iter()
        .flat_map(|at| [at - 1, *at, at + 1])
        .collect();
    let pairs = points
        .iter()
        .flat_map(|a| points.iter().map(move |b| (*a, *b)));
    let ranges = pairs
        .filter(|(a, b)| a < b)
        .map(|(a, b)| PhysRange::fixed(a, b));
    let ranges: Vec<_> = ranges.collect();
    let lens = [
        1, 0x1000, 0x1001, 0x4000, 0x8000, 0x1_fc00, 0x1_fc01, 0x2_a000,
    ];
    let aligned = lens
        .iter()
        .flat_map(|len| [1, 16, 0x1000].map(|align| (*len, align)));
    let places =
        aligned.flat_map(|(len, align)| [Step::Place(len, align), Step::PlaceLow(len, align)]);
    let steps: Vec<_> = ranges
        .iter()
        .copied()
        .map(Step::Claim)
        .chain(places)
        .collect();
    let held = ranges.iter().copied().map(Step::Hold);
    for first in held.chain(steps.iter().copied()) {
        for second in &steps {
            let mut map = map_of(RAM.into());
            first.run(&mut map);
            second.run(&mut map);
            for claim in map.claims() {
                assert!(!claim.overlaps(layout::FIRMWARE) && !claim.overlaps(layout::SCRATCH));
                assert!(claim.start() >= layout::LOW_FREE.start() && claim.end() <= RAM);
            }
            let high = map.high();
            let largest = map.largest_free(high);
            assert!(map.place(largest + 1, 1, high).is_none());
            assert!(largest == 0 || map.place(largest, 1, high).is_some());
        }
    }
}

proptest! {
    /// At each address where anything changes the map says what the entries do: the
    /// last that is not RAM, then a device's registers, then RAM.
    #[test]
    fn the_map_says_what_the_entries_say(
        entries in prop::collection::vec((0xa_0000_u64..1 << 34, 0u64..1 << 33, 1u32..4), 0..12),
        registers in prop::sample::select(&[NONE, layout::Q35_ECAM, layout::IO_APICS][..]),
    ) {
        let mut entries = entries;
        entries.push((0, MIB, 1));
        let mut map = MemoryMap::new();
        prop_assert_eq!(map.fill(&raw(&entries), registers), Ok(()));
        let list = listed(&map);
        prop_assert!(list.iter().all(|entry| entry.0 < entry.1));
        prop_assert!(list.windows(2).all(|pair| pair[0].1 <= pair[1].0));
        let registers = u64::from(registers.start())..u64::from(registers.end());
        let says = |at: u64| {
            let covers = |e: &&(u64, u64, u32)| e.0 <= at && at < e.0 + e.1;
            let other = entries.iter().rfind(|e| e.2 != 1 && covers(e));
            let is_ram = entries.iter().any(|e| e.2 == 1 && covers(&e));
            match at {
                _ if other.is_some() => other.map(|e| e.2),
                0x9_fc00..0xa_0000 | 0xf_0000..MIB => Some(2),
                0xa_0000..0xf_0000 => None,
                _ if registers.contains(&at) => Some(2),
                _ => is_ram.then_some(1),
            }
        };
        let borders = entries.iter().flat_map(|e| [e.0, e.0 + e.1]);
        let fixed = [0, 0x9_fc00, 0xa_0000, 0xf_0000, MIB, registers.start, registers.end];
        for at in borders.chain(fixed).flat_map(|at| [at.saturating_sub(1), at]) {
            let found = list.iter().find(|e| e.0 <= at && at < e.1).map(|e| e.2);
            prop_assert_eq!(found, says(at), "{:x}", at);
        }
        // What the window takes as given.
        let high = map.high();
        prop_assert!(high.start() == layout::HIGH_RAM && high.end() <= layout::HIGH_RAM_END);
        let is_ram = |e: &(u64, u64, u32)| e.0 <= MIB && u64::from(high.end()) <= e.1 && e.2 == 1;
        prop_assert!(high.is_empty() || list.iter().any(is_ram));
    }

    #[test]
    fn claims_never_overlap(
        wishes in prop::collection::vec((1u32..0x40_0000, 0u32..13, any::<bool>()), 1..40)
    ) {
        let mut map = map(&[(0, 64 * MIB, 1)]);
        let high = map.high();
        let mut held: Vec<PhysRange> = Vec::new();
        for (len, shift, low) in wishes {
            let claim = if low { map.place_low(len, 1 << shift) } else { map.place(len, 1 << shift, high) };
            if let Some(claim) = claim {
                let range = claim.range();
                prop_assert_eq!(range.start() % (1 << shift), 0);
                prop_assert_eq!(range.len(), len);
                prop_assert!(!held.iter().any(|h| h.overlaps(range)));
                prop_assert!(!range.overlaps(layout::FIRMWARE) && !range.overlaps(layout::SCRATCH));
                held.push(range);
            }
        }
    }
}
