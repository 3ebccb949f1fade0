//! What must hold of every tree that has been set up.

use super::*;
use core::ops::Range;

/// What must hold of every result.
pub(super) fn check(sim: &Sim, apertures: &Apertures) {
    let mappings = sim.mappings();
    let inside = |mapping: &Mapping, aperture: Range<u64>| {
        aperture.start <= mapping.span.start && mapping.span.end < aperture.end
    };
    for (i, one) in mappings.iter().enumerate() {
        assert!(one.reachable, "{one:x?}");
        let size = one.span.end - one.span.start + 1;
        assert_eq!(one.span.start & (size - 1), 0, "{one:x?}");
        let fits = if one.io {
            apertures.io().any(|io| inside(one, io))
        } else {
            inside(one, apertures.mem32()) || inside(one, apertures.mem64())
        };
        assert!(fits, "{one:x?}");
        for other in &mappings[..i] {
            assert!(
                one.io != other.io || !one.span.overlaps(other.span),
                "{one:x?} {other:x?}"
            );
        }
    }
    for bus in sim.roots.values() {
        check_windows(bus);
    }
}

/// Open windows of siblings and their BARs are apart.
fn check_windows(bus: &Bus) {
    let mut io: Vec<Span> = Vec::new();
    let mut mem: Vec<Span> = Vec::new();
    for function in bus.values() {
        let Some(behind) = function.behind() else {
            continue;
        };
        let command = function.dword(4);
        for (window, on) in [
            (io_window(function), 1),
            (mem_window(function), 2),
            (pref_window(function), 2),
        ] {
            let seen = if on == 1 { &mut io } else { &mut mem };
            if command & on != 0 && window.start <= window.end {
                assert!(seen.iter().all(|other| !other.overlaps(window)));
                seen.push(window);
            }
        }
        check_windows(behind);
    }
}

/// Ports and memory are on exactly where every BAR of that kind has a
/// place.
pub(super) fn check_command(bus: &Bus, number: u8) {
    for (devfn, function) in bus {
        let bridge = function.behind();
        for (io, bit) in [(true, 1), (false, 2)] {
            let bars: Vec<bool> = function
                .bars()
                .iter()
                .filter(|(_, kind, _)| (*kind == Bar::Io) == io)
                .map(|(bar, kind, _)| {
                    let low = function.dword(0x10 + 4 * bar) & if io { !3 } else { !15 };
                    let wide = matches!(kind, Bar::Mem64 | Bar::Pref64);
                    low != 0 || wide && function.dword(0x14 + 4 * bar) != 0
                })
                .collect();
            let all = bars.iter().all(|placed| *placed);
            let on = function.dword(4) & bit != 0;
            let at = (number, devfn, &bars);
            assert!(all || !on, "{at:?}");
            assert!(on || !all || bars.is_empty() || bridge.is_some(), "{at:?}");
        }
        if let Some(behind) = bridge {
            let [_, secondary, ..] = function.dword(0x18).to_le_bytes();
            if secondary != 0 {
                check_command(behind, secondary);
            }
        }
    }
}
