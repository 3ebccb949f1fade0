use super::*;
use proptest::prelude::*;
use std::vec::Vec;

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

proptest! {
    #[test]
    fn the_map_is_always_sorted_and_disjoint(
        entries in prop::collection::vec((0xa_0000_u64..1 << 34, 0u64..1 << 33, 1u32..4), 0..12)
    ) {
        let mut entries = entries;
        entries.push((0, MIB, 1));
        let mut map = MemoryMap::new();
        prop_assert_eq!(map.fill(&raw(&entries), NONE), Ok(()));
        let list = listed(&map);
        for pair in list.windows(2) {
            prop_assert!(pair[0].1 <= pair[1].0);
        }
        for (base, end, kind) in list {
            prop_assert!(base < end);
            // RAM only where some entry says RAM and none says otherwise.
            if kind == 1 {
                for at in [base, end - 1] {
                    let says = |k: u32| entries.iter()
                        .any(|e| e.0 <= at && at < e.0 + e.1 && (e.2 == 1) == (k == 1));
                    prop_assert!(says(1) && !says(2));
                }
            }
        }
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
