//! The address ranges that a machine has for PCI.

use super::{low, mask};
use crate::layout::{HIGH_RAM_END, MICROVM_ECAM, Q35_ECAM};

/// A range of ports or of pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: u32,
    /// One past the last.
    pub(super) end: u32,
}

impl Range {
    pub(super) const EMPTY: Self = Self { start: 0, end: 0 };

    pub(super) const fn len(self) -> u32 {
        self.end.saturating_sub(self.start)
    }

    /// Addresses of memory below 4 GiB.
    pub(super) const fn below_4_gib(start: u32, end: u32) -> Self {
        Self {
            start: start >> PAGE,
            end: end >> PAGE,
        }
    }
}

/// Bytes of a page as a power of two.
pub(super) const PAGE: u8 = 12;
/// Pages that 32 bits count, as bytes and a power of two.
pub(super) const BLOCK: u8 = 44;
/// Pages of a GiB as a power of two.
pub(super) const GIB: u8 = 30 - PAGE;

/// Where microvm's window for PCI memory starts (QEMU `include/hw/i386/microvm.h`).
const MICROVM_MMIO: u32 = 0xc000_0000;

/// The address ranges that a machine has for PCI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Apertures {
    /// Ports, the first to be filled first.
    pub(super) io: [Range; 3],
    pub(super) mem32: Range,
    /// Pages of the 16 TiB that start at `block`.
    pub(super) mem64: Range,
    pub(super) block: u64,
}

impl Apertures {
    /// Ports that QEMU leaves free on `pc` and `q35`: `last` ends before the machine's
    /// hot-plug controllers, and the VMware backdoor has 0x5658.
    pub(super) const fn ports(last: u32) -> [Range; 3] {
        [
            Range {
                start: 0xc000,
                end: 0x1_0000,
            },
            Range {
                start: 0x6000,
                end: last,
            },
            Range {
                start: 0x1000,
                end: 0x5000,
            },
        ]
    }

    /// From the end of `used` memory to the end of `phys_bits` addresses, at most 16
    /// TiB.
    pub(super) fn above(used: u64, phys_bits: u8) -> Range {
        let used = u32::try_from(used >> PAGE).unwrap_or(u32::MAX);
        let used = used.max(1 << (32 - PAGE));
        Range {
            start: used.saturating_add(mask(GIB)) & !mask(GIB),
            end: match phys_bits {
                0..BLOCK => mask(phys_bits.saturating_sub(PAGE)).saturating_add(1),
                _ => u32::MAX,
            },
        }
    }

    /// The ranges of ports.
    pub fn io(&self) -> impl Iterator<Item = core::ops::Range<u64>> {
        self.io.into_iter().map(|io| io.start.into()..io.end.into())
    }

    /// Addresses below 4 GiB.
    #[must_use]
    pub fn mem32(&self) -> core::ops::Range<u64> {
        u64::from(self.mem32.start) << PAGE..u64::from(self.mem32.end) << PAGE
    }

    /// Addresses above 4 GiB.
    #[must_use]
    pub fn mem64(&self) -> core::ops::Range<u64> {
        let Range { start, end } = self.mem64;
        let addr = |page: u32| self.block | u64::from(page) << PAGE;
        addr(start)..addr(end)
    }

    /// `pc`. `low_end` is the end of RAM below 4 GiB. `high_end` is the end of memory
    /// above it with its hot-plug slots (`etc/reserved-memory-end`), 0 without any.
    /// `phys_bits` is the CPU's (CPUID 0x80000008).
    ///
    /// QEMU's ACPI tables announce everything from the end of RAM to the I/O APIC
    /// (`hw/pci-host/i440fx.c`). The start is rounded to leave aligned room.
    #[must_use]
    pub fn i440fx(low_end: u32, high_end: u64, phys_bits: u8) -> Self {
        let start = match low_end {
            0..=0x8000_0000 => 0x8000_0000,
            0x8000_0001..=0xc000_0000 => 0xc000_0000,
            _ => low_end.max(0xe000_0000),
        };
        Self {
            // Hot-plug controllers are at 0xae00 and 0xaf00.
            io: Self::ports(0xa000),
            mem32: Range::below_4_gib(start, HIGH_RAM_END),
            mem64: Self::above(high_end, phys_bits),
            block: 0,
        }
    }

    /// `q35`: as [`Apertures::i440fx`], but from the end of the ECAM on.
    #[must_use]
    pub fn q35(low_end: u32, high_end: u64, phys_bits: u8) -> Self {
        Self {
            io: Self::ports(0xc000),
            mem32: Range::below_4_gib(low_end.max(Q35_ECAM.end()), HIGH_RAM_END),
            mem64: Self::above(high_end, phys_bits),
            block: 0,
        }
    }

    /// `microvm,pcie=on`: no ports, and the topmost quarter of the CPU's addresses
    /// (QEMU `hw/i386/microvm.c`), at most 16 TiB.
    #[must_use]
    pub fn microvm(phys_bits: u8) -> Self {
        let end = 1_u64 << phys_bits.clamp(33, 52);
        let start = end >> 1 | end >> 2;
        let range = Range {
            start: low(start >> PAGE),
            end: low(end.wrapping_sub(1) >> PAGE),
        };
        Self {
            io: [Range::EMPTY; 3],
            mem32: Range::below_4_gib(MICROVM_MMIO, MICROVM_ECAM.start()),
            mem64: if phys_bits > 32 { range } else { Range::EMPTY },
            block: start >> BLOCK << BLOCK,
        }
    }
}
