//! Demands: BARs and bridge windows.

use super::mask;
use crate::pci::Bdf;
use zerocopy::byteorder::little_endian::{U16, U32};

/// What a demand is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ports.
    Io,
    /// Memory that has to be below 4 GiB.
    Mem,
    /// Memory that may be anywhere, behind bridges too.
    High,
}

/// A BAR as sizing finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarSize {
    /// What it decodes.
    pub kind: Kind,
    /// Its size as a power of two.
    pub order: u8,
    /// Whether it has two registers.
    pub wide: bool,
}

/// The register of a demand, as the number in its [`Demand`].
pub mod slot {
    /// The expansion ROM of a device; below are the BARs.
    pub const ROM: u8 = 6;
    /// The expansion ROM of a bridge.
    pub const BRIDGE_ROM: u8 = 7;
    /// A bridge's I/O window.
    pub const IO_WINDOW: u8 = 8;
    /// A bridge's memory window.
    pub const MEM_WINDOW: u8 = 9;
    // A bridge's prefetchable window is the last, 10.
}

/// Marks the end of a list; never an index.
pub(super) const NONE: u16 = u16::MAX;
/// The address of a demand without a place.
pub(super) const UNPLACED: u32 = u32::MAX;
/// The alignment of a BAR that can never be placed.
pub(super) const NEVER: u8 = u8::MAX;
/// Where a tag has the kind, above the slot.
pub(super) const TAG_KIND: u8 = 4;
/// A tag's bit for a BAR of two registers.
pub(super) const TAG_WIDE: u8 = 1 << 6;
/// The same bit for a window that goes above 4 GiB if there is room.
pub(super) const TAG_WANTS_HIGH: u8 = 1 << 6;
/// A tag's bit for a place above 4 GiB.
pub(super) const TAG_HIGH: u8 = 1 << 7;

/// One BAR or window. It has no alignment, so it can lie anywhere in scratch.
///
/// Memory is counted in pages, so that 32 bits are enough and each BAR can be mapped by
/// itself. Ports are counted singly.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Demand {
    /// 0 for a window that nothing needs.
    pub(super) size: U32,
    /// Relative to the window around it until addresses are handed down.
    pub(super) addr: U32,
    pub(super) bdf: U16,
    /// The next in the list of its window.
    pub(super) next: U16,
    /// Index of the bus that it is on.
    pub(super) bus: u8,
    /// Alignment as a power of two.
    pub(super) order: u8,
    pub(super) tag: u8,
    pub(super) command: u8,
}

impl Demand {
    /// The function.
    #[must_use]
    pub fn bdf(&self) -> Bdf {
        Bdf::from_bits(self.bdf.get())
    }

    /// One of [`slot`], or the BAR's number.
    #[must_use]
    pub const fn slot(&self) -> u8 {
        self.tag & 15
    }

    /// Whether it is a BAR of two registers.
    #[must_use]
    pub const fn is_wide(&self) -> bool {
        self.tag & TAG_WIDE != 0
    }

    /// What it decodes.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self.tag >> TAG_KIND & 3 {
            0 => Kind::Io,
            1 => Kind::Mem,
            _ => Kind::High,
        }
    }

    /// Further bits for its function's COMMAND register.
    #[must_use]
    pub const fn command(&self) -> u8 {
        self.command
    }

    /// Whether it has an address.
    #[must_use]
    pub fn is_placed(&self) -> bool {
        self.addr.get() != UNPLACED && self.size.get() != 0
    }

    pub(super) const fn is_bar(&self) -> bool {
        self.slot() <= slot::BRIDGE_ROM
    }

    /// Places it at `cursor` or after it, aligned; returns its end.
    pub(super) fn put(&mut self, cursor: u32) -> Option<u32> {
        let mask = mask(self.order);
        let addr = cursor.checked_add(mask)? & !mask;
        self.addr = U32::new(addr);
        addr.checked_add(self.size.get())
    }
}
