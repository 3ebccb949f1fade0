//! What one boot costs, and the trace that it is counted from.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What TCG counts: the same numbers in every run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Port and MMIO accesses that QEMU serves, before the kernel's first instruction.
    pub accesses: u64,
    /// The same by the memory region's name.
    pub regions: BTreeMap<String, u64>,
    /// Instructions before the kernel's first one.
    pub instructions: u64,
}

impl Counts {
    pub(super) fn summary(&self) -> String {
        format!(
            "{:>7} accesses {:>10} instructions   {}",
            self.accesses,
            self.instructions,
            by_region(&self.regions)
        )
    }
}

/// The accesses by region, the most first.
pub(super) fn by_region(regions: &BTreeMap<String, u64>) -> String {
    let mut regions: Vec<_> = regions.iter().collect();
    regions.sort_by_key(|(name, n)| (std::cmp::Reverse(**n), name.as_str()));
    let texts = regions.iter().map(|(name, n)| format!("{name} {n}"));
    texts.collect::<Vec<_>>().join(", ")
}

/// How many of the accesses go to each region.
pub(super) fn sums<'a>(list: impl Iterator<Item = &'a Access>) -> BTreeMap<String, u64> {
    let mut regions = BTreeMap::new();
    for access in list {
        *regions.entry(access.region.clone()).or_default() += 1;
    }
    regions
}

/// One line of a `memory_region_ops_*` trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// By a processor of the guest, not by QEMU: its reset writes a register too.
    pub by_guest: bool,
    /// Written rather than read.
    pub write: bool,
    /// Address or port.
    pub addr: u64,
    /// Value read or written.
    pub value: u64,
    /// Bytes.
    pub size: u8,
    /// Name of the memory region.
    pub region: String,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, arrow) = if self.write {
            ("write", "<-")
        } else {
            ("read ", "->")
        };
        write!(
            f,
            "{verb}{} {:>#10x} {arrow} {:#x}  {}",
            self.size, self.addr, self.value, self.region
        )
    }
}

impl Access {
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let at = line.find("memory_region_ops_")?;
        let line = &line[at + "memory_region_ops_".len()..];
        let field = |name: &str| {
            let rest = &line[line.find(&format!(" {name} "))? + name.len() + 2..];
            rest.split_whitespace().next()
        };
        let hex = |name| u64::from_str_radix(field(name)?.strip_prefix("0x")?, 16).ok();
        Some(Self {
            by_guest: field("cpu") != Some("-1"),
            write: line.starts_with("write"),
            addr: hex("addr")?,
            value: hex("value")?,
            size: field("size")?.parse().ok()?,
            region: line.split('\'').nth(1)?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_line_is_taken_apart() {
        let line =
            "memory_region_ops_write cpu 0 mr 0x55a addr 0x518 value 0xf00 size 4 name 'fwcfg.dma'";
        let access = Access::parse(line).unwrap();
        assert!(access.by_guest && access.write);
        let own = Access::parse(&line.replace("cpu 0", "cpu -1")).unwrap();
        assert!(!own.by_guest);
        assert_eq!((access.addr, access.value, access.size), (0x518, 0xf00, 4));
        assert_eq!(access.region, "fwcfg.dma");
    }
}
