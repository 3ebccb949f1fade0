//! The allocator of addresses for BARs and bridge windows.
//!
//! It takes a tree of demands and computes addresses, without any access. The tree lies
//! in memory that the caller lends. It sizes windows from the leaves up, places those
//! of the root buses, and hands addresses down.
//!
//! Prefetchable BARs of 64 bits stay below 4 GiB as long as everything fits there,
//! because kernels without 64-bit addressing can then use them. Otherwise the largest
//! go above first. Behind a bridge they go into its prefetchable window, and everything
//! else into the memory window, where prefetchable memory works too.

mod aperture;
mod demand;
mod solve;

pub use aperture::Apertures;
pub use demand::{BarSize, Demand, Kind, slot};

use super::Bdf;
use crate::error::{Error, Result};
use aperture::PAGE;
use demand::{NEVER, NONE, TAG_HIGH, TAG_KIND, TAG_WANTS_HIGH, TAG_WIDE};
use zerocopy::FromBytes;
use zerocopy::byteorder::little_endian::{U16, U32};

/// The windows that a bridge has, and their reservations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bridge {
    /// Has an I/O window.
    pub io: bool,
    /// Has a prefetchable window of 64 bits; one of 32 bits is never used.
    pub pref64: bool,
    /// Ports, pages and prefetchable pages to reserve.
    pub reserve: [u32; 3],
    /// Keep prefetchable memory below 4 GiB.
    pub pref_low: bool,
    /// Put prefetchable memory above 4 GiB, if there is any.
    pub pref_high: bool,
}

/// Ports get through to this bus.
const BUS_IO: u8 = 1;
/// Memory above 4 GiB gets through to this bus.
const BUS_HIGH: u8 = 2;

/// The lists of a bus, as [`Kind`] counts.
const LIST_IO: usize = 0;
const LIST_MEM: usize = 1;
const LIST_HIGH: usize = 2;

#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct BusRecord {
    /// Ports and pages to reserve, by list.
    reserve: [U32; 3],
    /// Heads of the lists of its demands, by falling alignment.
    heads: [U16; 3],
    /// The first of its bridge's three windows.
    windows: U16,
    parent: u8,
    flags: u8,
}

/// Orders of the smallest windows (PCI-to-PCI Bridge 1.2, section 3.2.5): 4
/// KiB of ports, 1 MiB.
const IO_WINDOW_ORDER: u8 = 12;
const MEM_WINDOW_ORDER: u8 = 20 - PAGE;
const MAX_BUSES: usize = 256;

/// The demands of a machine, in lent memory.
pub struct Tree<'a> {
    buses: &'a mut [BusRecord],
    bus_count: usize,
    demands: &'a mut [Demand],
    len: usize,
    apertures: Apertures,
    /// The largest that can be placed, by list.
    most: [u32; 3],
}

/// The address spaces, which are solved one after the other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    Io,
    Mem,
}

/// A part of the demands on the root buses.
#[derive(Clone, Copy)]
struct Side {
    /// Those above 4 GiB, or those below.
    high: bool,
    /// The size, as a power of two, from which on a demand goes above 4 GiB if it can.
    threshold: u8,
}

impl Side {
    const LOW: Self = Self {
        high: false,
        threshold: NEVER,
    };
}

impl<'a> Tree<'a> {
    /// An empty tree. Its bus with index 0 stands for all root buses, which share the
    /// apertures. It takes 5.5 KiB of `scratch`, 16 bytes a BAR and 48 a bridge.
    ///
    /// # Errors
    /// [`Error::PciTooMany`] if `scratch` is too small.
    pub fn new(scratch: &'a mut [u8], apertures: &Apertures) -> Result<Self> {
        let (buses, rest) = <[BusRecord]>::mut_from_prefix_with_elems(scratch, MAX_BUSES)
            .map_err(|_| Error::PciTooMany)?;
        let room = rest.len().checked_div(size_of::<Demand>()).unwrap_or(0);
        let room = room.min(usize::from(NONE));
        let (demands, _) =
            <[Demand]>::mut_from_prefix_with_elems(rest, room).map_err(|_| Error::PciTooMany)?;
        let Apertures {
            io, mem32, mem64, ..
        } = apertures;
        let most_ports = io.iter().fold(0, |most, io| io.len().max(most));
        let mut tree = Self {
            buses,
            bus_count: 0,
            demands,
            len: 0,
            apertures: *apertures,
            most: [most_ports, mem32.len(), mem32.len().max(mem64.len())],
        };
        tree.add_bus([U32::ZERO; 3], 0, 0, BUS_IO | BUS_HIGH)?;
        Ok(tree)
    }

    /// All demands; those of a function are neighbours.
    #[must_use]
    pub fn demands(&self) -> &[Demand] {
        self.demands.get(..self.len).unwrap_or(&[])
    }

    /// Address and size of a demand; 0 and 0 if it has no place.
    #[must_use]
    pub fn place(&self, demand: &Demand) -> (u64, u64) {
        if !demand.is_placed() {
            return (0, 0);
        }
        let (addr, size) = (demand.addr.get().into(), demand.size.get().into());
        match demand.kind() {
            Kind::Io => (addr, size),
            Kind::Mem | Kind::High => {
                let block = if demand.tag & TAG_HIGH != 0 {
                    self.apertures.block
                } else {
                    0
                };
                (block | addr << PAGE, size << PAGE)
            }
        }
    }

    /// Adds the bus behind a bridge on bus `parent`; returns its index.
    ///
    /// `command` is as for [`Tree::add_bar`].
    ///
    /// # Errors
    /// [`Error::PciTooMany`].
    pub fn add_bridge(&mut self, parent: u8, bdf: Bdf, bridge: &Bridge, command: u8) -> Result<u8> {
        let windows = u16::try_from(self.len).map_err(|_| Error::PciTooMany)?;
        let mut flags = self.flags(parent);
        if !bridge.io {
            flags &= !BUS_IO;
        }
        if bridge.pref_low {
            flags &= !BUS_HIGH;
        }
        let mut pref = Kind::Mem;
        if flags & BUS_HIGH != 0 {
            pref = Kind::High;
        }
        if !bridge.pref64 {
            flags &= !BUS_HIGH;
        }
        let mut reserve = bridge.reserve;
        let [ports, _, above] = &mut reserve;
        if flags & BUS_IO == 0 {
            *ports = 0;
        }
        if !bridge.pref64 {
            *above = 0;
        }
        let mut window = slot::IO_WINDOW;
        for (kind, units) in [Kind::Io, Kind::Mem, pref].into_iter().zip(&mut reserve) {
            // A request that can never be met would fail all the others.
            if *units > self.most(kind) {
                *units = 0;
            }
            let tag = (kind as u8) << TAG_KIND | window;
            self.add(parent, bdf, tag, 0, command)?;
            window = window.wrapping_add(1);
        }
        let reserve = reserve.map(U32::new);
        let bus = self.add_bus(reserve, windows, parent, flags)?;
        if bridge.pref_high && flags & BUS_HIGH != 0 {
            self.want_high(bus);
        }
        Ok(bus)
    }

    /// Marks the prefetchable window of a bus, and those around it, to go
    /// above 4 GiB.
    fn want_high(&mut self, bus: u8) {
        let mut index = bus;
        while let Some(record) = self.buses.get(usize::from(index)).filter(|_| index != 0) {
            index = record.parent;
            let window = usize::from(record.windows.get()).saturating_add(LIST_HIGH);
            if let Some(demand) = self.demands.get_mut(window) {
                demand.tag |= TAG_WANTS_HIGH;
            }
        }
    }

    /// Adds a BAR or expansion ROM on the bus with index `bus`. `command` is
    /// kept for the caller.
    ///
    /// # Errors
    /// [`Error::PciTooMany`].
    pub fn add_bar(
        &mut self,
        bus: u8,
        bdf: Bdf,
        slot: u8,
        bar: BarSize,
        command: u8,
    ) -> Result<()> {
        let flags = self.flags(bus);
        let (mut kind, mut order) = (bar.kind, bar.order);
        if kind == Kind::High && flags & BUS_HIGH == 0 {
            kind = Kind::Mem;
        }
        if kind != Kind::Io {
            order = order.saturating_sub(PAGE);
        } else if flags & BUS_IO == 0 {
            order = NEVER;
        }
        if order >= 32 || 1 << order > self.most(kind) {
            order = NEVER;
        }
        let mut tag = (kind as u8) << TAG_KIND | slot & 15;
        if bar.wide {
            tag |= TAG_WIDE;
        }
        self.add(bus, bdf, tag, order, command)
    }

    fn flags(&self, bus: u8) -> u8 {
        self.buses.get(usize::from(bus)).map_or(0, |bus| bus.flags)
    }

    fn most(&self, kind: Kind) -> u32 {
        self.most.get(kind as usize).copied().unwrap_or(0)
    }

    /// Adds a BAR of `1 << order` units, or a window, sized later.
    fn add(&mut self, bus: u8, bdf: Bdf, tag: u8, order: u8, command: u8) -> Result<()> {
        let demand = self.demands.get_mut(self.len).ok_or(Error::PciTooMany)?;
        *demand = Demand {
            size: U32::new(1_u32.wrapping_shl(order.into())),
            addr: U32::MAX_VALUE,
            bdf: U16::new(bdf.bits()),
            next: U16::MAX_VALUE,
            bus,
            order,
            tag,
            command,
        };
        self.len = self.len.saturating_add(1);
        Ok(())
    }

    fn add_bus(&mut self, reserve: [U32; 3], windows: u16, parent: u8, flags: u8) -> Result<u8> {
        let index = u8::try_from(self.bus_count).map_err(|_| Error::PciTooMany)?;
        let record = self
            .buses
            .get_mut(usize::from(index))
            .ok_or(Error::PciTooMany)?;
        *record = BusRecord {
            reserve,
            heads: [U16::MAX_VALUE; 3],
            windows: U16::new(windows),
            parent,
            flags,
        };
        self.bus_count = self.bus_count.saturating_add(1);
        Ok(index)
    }
}

const fn lists(space: Space) -> core::ops::Range<usize> {
    match space {
        Space::Io => LIST_IO..LIST_MEM,
        Space::Mem => LIST_MEM..LIST_HIGH.saturating_add(1),
    }
}

/// The bits below `1 << order`, an order below 32.
const fn mask(order: u8) -> u32 {
    1_u32.wrapping_shl(order as u32).wrapping_sub(1)
}

/// The lower half.
pub const fn low(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}
