//! QEMU's `info pci`: read, checked, and compared with another firmware's.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};

/// What QEMU tells of a function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Function {
    /// Vendor and device.
    pub id: String,
    /// Interrupt line and pin.
    pub line: Option<String>,
    /// Secondary and subordinate bus of a bridge.
    pub buses: Option<(u8, u8)>,
    /// I/O, memory, prefetchable: first and last address.
    pub windows: Vec<(u64, u64)>,
    /// By number: what it is, first and last address.
    pub bars: BTreeMap<u8, (String, u64, u64)>,
}

/// Functions by bus, device and function.
pub type Functions = BTreeMap<(u8, u8, u8), Function>;

/// Start and end of a BAR without an address.
pub const UNMAPPED: u64 = u64::MAX;

fn number(text: &str) -> Result<u64> {
    let text = text.trim_matches(|c: char| !c.is_ascii_hexdigit() && c != 'x');
    match text.strip_prefix("0x") {
        Some(hex) => Ok(u64::from_str_radix(hex, 16)?),
        None => Ok(text.parse()?),
    }
}

/// Reads the monitor's `info pci`.
///
/// # Errors
/// It is not as QEMU 7 to 11 have it.
pub fn parse(text: &str) -> Result<Functions> {
    let mut all = BTreeMap::new();
    let mut at = (0, 0, 0);
    for line in text.lines() {
        let line = line.trim();
        let words: Vec<&str> = line.split_whitespace().collect();
        if line.starts_with("Bus ") && line.ends_with(':') {
            // Bus  0, device   3, function 0:
            let [bus, device, function] = [1, 3, 5].map(|word| number(words[word]));
            at = (bus? as u8, device? as u8, function? as u8);
            let old = all.insert(at, Function::default());
            ensure!(old.is_none(), "two functions at {at:?}:\n{text}");
            continue;
        }
        let Some(current) = all.get_mut(&at) else {
            continue;
        };
        if let Some((_, id)) = line.split_once(": PCI device ") {
            current.id = id.to_owned();
        } else if line.starts_with("IRQ ") {
            current.line = Some(line.to_owned());
        } else if line.starts_with("secondary bus ") {
            current.buses = Some((number(words[2])? as u8, 0));
        } else if line.starts_with("subordinate bus ") {
            let secondary = current.buses.map_or(0, |(secondary, _)| secondary);
            current.buses = Some((secondary, number(words[2])? as u8));
        } else if let Some((_, range)) = line.split_once("range [") {
            let (start, end) = range.split_once(", ").context("a range")?;
            current.windows.push((number(start)?, number(end)?));
        } else if let Some(bar) = line.strip_prefix("BAR") {
            let (index, rest) = bar.split_once(": ").context("a BAR")?;
            if let Some(kind) = rest.strip_suffix(" (not mapped)") {
                // So QEMU 10 has it; before, such a BAR is "at 0xffffffffffffffff".
                let range = (kind.to_owned(), UNMAPPED, UNMAPPED);
                current.bars.insert(index.parse()?, range);
                continue;
            }
            let (kind, place) = rest.split_once(" at ").context("a BAR's place")?;
            let (start, end) = place.split_once(" [").context("a BAR's end")?;
            let range = (kind.to_owned(), number(start)?, number(end)?);
            current.bars.insert(index.parse()?, range);
        }
    }
    Ok(all)
}

/// BARs have addresses, those for I/O only with `ports`. None overlaps another, and each
/// is inside its bridge's windows.
///
/// # Errors
/// Says what lies where it must not.
pub fn check(functions: &Functions, ports: bool) -> Result<()> {
    let mut taken: Vec<(bool, u64, u64, String)> = Vec::new();
    for (bdf, function) in functions {
        let bridge = functions.iter().find(|(_, bridge)| {
            bridge
                .buses
                .is_some_and(|(secondary, _)| secondary == bdf.0 && secondary != 0)
        });
        let inside = |io: bool, start: u64, end: u64| {
            bridge.is_none_or(|(_, bridge)| {
                let windows = if io {
                    &bridge.windows[..1]
                } else {
                    &bridge.windows[1..]
                };
                windows
                    .iter()
                    .any(|(first, last)| *first <= start && end <= *last)
            })
        };
        for (bar, (kind, start, end)) in &function.bars {
            let name = format!("{bdf:?} {} BAR{bar} {start:#x}", function.id);
            let io = kind.starts_with("I/O");
            if *start == UNMAPPED {
                // Only expansion ROMs are off.
                ensure!(*bar == 6 || io && !ports, "{name} is not mapped");
                continue;
            }
            ensure!(
                inside(io, *start, *end),
                "{name} is outside its bridge's windows"
            );
            for (other_io, first, last, other) in &taken {
                ensure!(
                    *other_io != io || end < first || last < start,
                    "{name} overlaps {other}"
                );
            }
            taken.push((io, *start, *end, name));
        }
        for (window, (start, end)) in function.windows.iter().enumerate() {
            if start <= end {
                ensure!(
                    inside(window == 0, *start, *end),
                    "window {window} of {bdf:?} is outside its bridge's"
                );
            }
        }
    }
    Ok(())
}

/// Buses, interrupt lines, and which BARs have an address are as under
/// SeaBIOS.
///
/// # Panics
/// They are not.
pub fn same_as_seabios(ours: &Functions, theirs: &Functions) {
    let view = |functions: &Functions| {
        let mut view = String::new();
        for (bdf, function) in functions {
            let Function {
                id,
                line,
                buses,
                bars,
                ..
            } = function;
            view.push_str(&format!("{bdf:?} {id} {line:?} {buses:?}"));
            for (bar, (kind, start, end)) in bars {
                let mapped = *start != UNMAPPED;
                let last = end.wrapping_sub(*start);
                view.push_str(&format!(", BAR{bar} {kind} {mapped} {last:#x}"));
            }
            view.push('\n');
        }
        view
    };
    assert_eq!(view(ours), view(theirs));
}
