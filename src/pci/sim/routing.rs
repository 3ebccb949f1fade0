//! Whether a BAR is reachable through the windows of the bridges before it.

use super::{Bar, Bus, Function};
use crate::pci::Bdf;
use std::vec::Vec;

/// The addresses that a window forwards, ends inclusive; none if `start > end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First address.
    pub start: u64,
    /// Last address.
    pub end: u64,
}

impl Span {
    /// Everything.
    pub const ALL: Self = Self {
        start: 0,
        end: u64::MAX,
    };

    /// Whether all of `other` is inside.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// Whether any address is in both.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

/// A BAR that decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The function.
    pub bdf: Bdf,
    /// The BAR; 6 is the expansion ROM, which firmware places but leaves off.
    pub bar: u8,
    /// Ports, not memory.
    pub io: bool,
    /// Its addresses.
    pub span: Span,
    /// Whether every bridge on the way forwards all of it.
    pub reachable: bool,
}

pub(super) struct Forward<'a> {
    pub(super) io: &'a [Span],
    pub(super) mem: &'a [Span],
}

pub(super) fn map_bus(bus: &Bus, number: u8, forward: &Forward<'_>, all: &mut Vec<Mapping>) {
    for (devfn, function) in bus {
        let bdf = Bdf::on_bus(number, *devfn);
        let command = function.dword(4);
        for (bar, kind, order) in function.bars() {
            let io = *kind == Bar::Io;
            if command & if io { 1 } else { 2 } == 0 {
                continue;
            }
            let at = bar.wrapping_mul(4).wrapping_add(0x10);
            let mut start = u64::from(function.dword(at) & if io { !3 } else { !15 });
            if matches!(kind, Bar::Mem64 | Bar::Pref64) {
                start |= u64::from(function.dword(at.wrapping_add(4))) << 32;
            }
            all.push(mapping(bdf, *bar, io, start, *order, forward));
        }
        if let Some(order) = function.rom {
            let at = if function.behind.is_some() {
                0x38
            } else {
                0x30
            };
            let start = u64::from(function.dword(at) & !0x7ff);
            if start != 0 && command & 2 != 0 {
                all.push(mapping(bdf, 6, false, start, order, forward));
            }
        }
        if let (Some(behind), Some((secondary, _))) = (function.behind(), function.buses()) {
            let inside = |window: Span, outer: &[Span]| outer.iter().any(|o| o.contains(window));
            let io = io_window(function);
            let mem = [mem_window(function), pref_window(function)];
            let io: Vec<Span> = [io]
                .into_iter()
                .filter(|w| inside(*w, forward.io) && command & 1 != 0)
                .collect();
            let mem: Vec<Span> = mem
                .into_iter()
                .filter(|w| inside(*w, forward.mem) && command & 2 != 0)
                .collect();
            map_bus(behind, secondary, &Forward { io: &io, mem: &mem }, all);
        }
    }
}

fn mapping(bdf: Bdf, bar: u8, io: bool, start: u64, order: u8, forward: &Forward<'_>) -> Mapping {
    let len = 1_u64.checked_shl(order.into()).unwrap_or(0).wrapping_sub(1);
    let span = Span {
        start,
        end: start.saturating_add(len),
    };
    let windows = if io { forward.io } else { forward.mem };
    let reachable = windows.iter().any(|window| window.contains(span));
    Mapping {
        bdf,
        bar,
        io,
        span,
        reachable,
    }
}

/// A bridge's I/O window (PCI-to-PCI Bridge 1.2, section 3.2.5.6).
#[must_use]
pub fn io_window(bridge: &Function) -> Span {
    let [base, limit, ..] = bridge.dword(0x1c).to_le_bytes();
    Span {
        start: u64::from(base & 0xf0) << 8,
        end: u64::from(limit & 0xf0) << 8 | 0xfff,
    }
}

/// A bridge's memory window (section 3.2.5.8).
#[must_use]
pub fn mem_window(bridge: &Function) -> Span {
    let value = bridge.dword(0x20);
    Span {
        start: u64::from(value & 0xfff0) << 16,
        end: u64::from(value & 0xfff0_0000) | 0xf_ffff,
    }
}

/// A bridge's prefetchable window (sections 3.2.5.9 and 3.2.5.10).
#[must_use]
pub fn pref_window(bridge: &Function) -> Span {
    let value = bridge.dword(0x24);
    let (base, limit) = if value & 1 != 0 {
        (
            u64::from(bridge.dword(0x28)) << 32,
            u64::from(bridge.dword(0x2c)) << 32,
        )
    } else {
        (0, 0)
    };
    Span {
        start: base | u64::from(value & 0xfff0) << 16,
        end: limit | u64::from(value & 0xfff0_0000) | 0xf_ffff,
    }
}
