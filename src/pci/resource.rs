//! The allocator: which addresses BARs and bridge windows get.
//!
//! Pure: a tree of demands goes in, addresses come out. The tree lies in
//! memory that the caller lends, uncleared. Windows are sized from the leaves
//! up, the root buses placed, addresses handed down.
//!
//! Prefetchable BARs of 64 bits stay below 4 GiB as long as everything fits
//! there, because kernels without 64-bit addressing can then use them; the
//! largest go above first. Behind a bridge they have its prefetchable window
//! for themselves, and everything else has the memory window: prefetchable
//! memory works in either, only the other way round is forbidden.

use super::Bdf;
use crate::error::{Error, Result};
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A range of ports or of pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Range {
    start: u32,
    /// One past the last.
    end: u32,
}

impl Range {
    const EMPTY: Self = Self { start: 0, end: 0 };

    const fn len(self) -> u32 {
        self.end.saturating_sub(self.start)
    }

    /// Addresses of memory below 4 GiB.
    const fn below_4_gib(start: u32, end: u32) -> Self {
        Self {
            start: start >> PAGE,
            end: end >> PAGE,
        }
    }
}

/// Bytes of a page as a power of two.
const PAGE: u8 = 12;
/// Pages that 32 bits count, as bytes and a power of two.
const BLOCK: u8 = 44;
/// Pages of a GiB as a power of two.
const GIB: u8 = 30 - PAGE;

/// Where a machine lets PCI decode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Apertures {
    /// Ports, the first to be filled first.
    io: [Range; 3],
    mem32: Range,
    /// Of the 16 TiB that start at `block`.
    mem64: Range,
    block: u64,
}

impl Apertures {
    /// Ports that QEMU leaves free on `pc` and `q35`: `last` ends before
    /// what the machine's hot-plug controllers occupy, and 0x5658 is the
    /// VMware backdoor's.
    const fn ports(last: u32) -> [Range; 3] {
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

    /// From the end of `used` memory to what `phys_bits` address, as far as
    /// 16 TiB.
    fn above(used: u64, phys_bits: u8) -> Range {
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

    /// `pc`. `low_end` is the end of RAM below 4 GiB, `high_end` that of all
    /// memory above it, hot-plug slots (`etc/reserved-memory-end`) included,
    /// 0 without any; `phys_bits` is the CPU's (CPUID 0x80000008).
    ///
    /// QEMU's ACPI tables announce everything from the end of RAM to the I/O
    /// APIC (`hw/pci-host/i440fx.c`); as under SeaBIOS, the start is rounded
    /// to leave aligned room.
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
            mem32: Range::below_4_gib(start, 0xfec0_0000),
            mem64: Self::above(high_end, phys_bits),
            block: 0,
        }
    }

    /// `q35`, with its ECAM at 0xb0000000; else as [`Apertures::i440fx`].
    #[must_use]
    pub fn q35(low_end: u32, high_end: u64, phys_bits: u8) -> Self {
        Self {
            io: Self::ports(0xc000),
            mem32: Range::below_4_gib(low_end.max(0xc000_0000), 0xfec0_0000),
            mem64: Self::above(high_end, phys_bits),
            block: 0,
        }
    }

    /// `microvm,pcie=on`: no ports, and the topmost quarter of what the CPU
    /// addresses (QEMU `hw/i386/microvm.c`), as far as 16 TiB.
    #[must_use]
    pub fn microvm(phys_bits: u8) -> Self {
        let end = 1_u64 << phys_bits.clamp(33, 52);
        let start = end >> 1 | end >> 2;
        let range = Range {
            start: low(start >> PAGE),
            end: if phys_bits > BLOCK {
                u32::MAX
            } else {
                low(end.wrapping_sub(1) >> PAGE)
            },
        };
        Self {
            io: [Range::EMPTY; 3],
            mem32: Range::below_4_gib(0xc000_0000, 0xe000_0000),
            mem64: if phys_bits > 32 { range } else { Range::EMPTY },
            block: start >> BLOCK << BLOCK,
        }
    }
}

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
pub struct Sized {
    /// What it decodes.
    pub kind: Kind,
    /// Its size as a power of two.
    pub order: u8,
    /// Whether it has two registers.
    pub wide: bool,
}

/// Whose a demand is, as the number that its [`Demand`] carries.
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
const NONE: u16 = u16::MAX;
/// The address of what has none.
const UNPLACED: u32 = u32::MAX;
/// The alignment of a BAR that can never be placed.
const NEVER: u8 = u8::MAX;
/// A tag's bits above the slot: the kind; for a BAR that it has a second
/// register, for a window that it is to go above 4 GiB; that it is there.
const TAG_KIND: u8 = 4;
const TAG_WIDE: u8 = 1 << 6;
const TAG_PUSH: u8 = 1 << 6;
const TAG_HIGH: u8 = 1 << 7;

/// One BAR or window. Without alignment, so it can lie anywhere in scratch.
///
/// Memory is counted in pages: 32 bits are then enough, and each BAR can be
/// mapped on its own. Ports are counted singly.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Demand {
    /// 0 for a window that nothing needs.
    size: U32,
    /// Relative to the window around it until addresses are handed down.
    addr: U32,
    bdf: U16,
    /// The next in the list of its window.
    next: U16,
    /// Index of the bus that it is on.
    bus: u8,
    /// Alignment as a power of two.
    order: u8,
    tag: u8,
    command: u8,
}

impl Demand {
    /// Whose.
    #[must_use]
    pub fn bdf(&self) -> Bdf {
        Bdf::from_bits(self.bdf.get())
    }

    /// Which of [`slot`], or the BAR.
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

    /// What its function's COMMAND register is to hold besides.
    #[must_use]
    pub const fn command(&self) -> u8 {
        self.command
    }

    /// Whether it is to decode.
    #[must_use]
    pub fn is_placed(&self) -> bool {
        self.addr.get() != UNPLACED && self.size.get() != 0
    }

    const fn is_bar(&self) -> bool {
        self.slot() <= slot::BRIDGE_ROM
    }

    /// Puts it at `cursor` or after it, aligned; gives its end.
    fn put(&mut self, cursor: u32) -> Option<u32> {
        let mask = mask(self.order);
        let addr = cursor.checked_add(mask)? & !mask;
        self.addr = U32::new(addr);
        addr.checked_add(self.size.get())
    }
}

/// What a bridge can forward, and what it is to forward at least.
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
    /// Put prefetchable memory above 4 GiB, if there is anything.
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
    /// Heads of the lists of what is on it, by falling alignment.
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

/// The two address spaces are solved one after the other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    Io,
    Mem,
}

/// Which of what is on the root buses is meant.
#[derive(Clone, Copy)]
struct Side {
    /// What goes above 4 GiB, or what does not.
    high: bool,
    /// From which size on that can go above 4 GiB, does; as a power of two.
    threshold: u8,
}

impl Side {
    const LOW: Self = Self {
        high: false,
        threshold: NEVER,
    };
}

impl<'a> Tree<'a> {
    /// An empty tree, whose bus with index 0 stands for all root buses: they
    /// share the apertures. Takes 5.5 KiB of `scratch` and 16 bytes a BAR, 48
    /// a bridge.
    ///
    /// # Errors
    /// [`Error::PciTooMany`] when `scratch` is too small for any.
    #[cold]
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

    /// All demands, those of a function next to each other.
    #[must_use]
    pub fn demands(&self) -> &[Demand] {
        self.demands.get(..self.len).unwrap_or(&[])
    }

    /// First address and bytes of what is placed, 0 and 0 of what is not.
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

    /// Adds the bus behind a bridge that is on bus `parent`; gives its index.
    ///
    /// `command` is as for [`Tree::add_bar`].
    ///
    /// # Errors
    /// [`Error::PciTooMany`].
    #[cold]
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
            // One that can never be met would cost all others theirs.
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
            self.push(bus);
        }
        Ok(bus)
    }

    /// Marks the prefetchable window of a bus, and those around it, to go
    /// above 4 GiB.
    #[cold]
    fn push(&mut self, bus: u8) {
        let mut index = bus;
        while let Some(record) = self.buses.get(usize::from(index)).filter(|_| index != 0) {
            index = record.parent;
            let window = usize::from(record.windows.get()).saturating_add(LIST_HIGH);
            if let Some(demand) = self.demands.get_mut(window) {
                demand.tag |= TAG_PUSH;
            }
        }
    }

    /// Adds a BAR or expansion ROM on the bus with index `bus`. `command` is
    /// kept for the caller.
    ///
    /// # Errors
    /// [`Error::PciTooMany`].
    #[cold]
    pub fn add_bar(&mut self, bus: u8, bdf: Bdf, slot: u8, bar: Sized, command: u8) -> Result<()> {
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
    #[cold]
    #[inline(never)]
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

    #[cold]
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

    /// Gives every demand its address; gives the number of BARs for which
    /// there is no room.
    ///
    /// What does not fit with all reservations is tried with fewer, bridge by
    /// bridge from the last; if it does not fit with none, the largest BARs
    /// go without.
    #[cold]
    pub fn solve(&mut self) -> u16 {
        self.solve_space(Space::Io);
        self.solve_space(Space::Mem);
        u16::try_from(self.missing().count()).unwrap_or(u16::MAX)
    }

    /// The BARs that have no address.
    pub fn missing(&self) -> impl Iterator<Item = &Demand> {
        // Where there are no ports, nobody misses them.
        let ports = self.most(Kind::Io) != 0;
        self.demands().iter().filter(move |demand| {
            demand.slot() < slot::ROM && !demand.is_placed() && (ports || demand.kind() != Kind::Io)
        })
    }

    #[cold]
    #[inline(never)]
    fn solve_space(&mut self, space: Space) {
        // The largest number of buses that can have what they reserve: tried
        // with all, then halved down to it. Below `good` it fits, from `bad`
        // on it does not.
        let (mut good, mut bad) = (0, self.bus_count.saturating_add(1));
        let mut grants = self.bus_count;
        while good < bad {
            let fits = self.fits(space, grants, 32);
            if fits {
                good = grants.saturating_add(1);
            } else {
                bad = grants;
            }
            if good == bad {
                if fits || good != 0 && self.fits(space, good.saturating_sub(1), 32) {
                    return;
                }
                break;
            }
            grants = good.saturating_add(bad.saturating_sub(good) >> 1);
        }
        // At an order of 0 no BAR is left, and nothing always fits.
        for cut in (0..32).rev() {
            if self.fits(space, 0, cut) {
                return;
            }
        }
    }

    /// Tries to place everything in `space`, reservations only of the first
    /// `grants` buses, BARs only below `1 << cut`.
    #[cold]
    #[inline(never)]
    fn fits(&mut self, space: Space, grants: usize, cut: u8) -> bool {
        self.collect(space, cut);
        let placed = self.size_windows(space, grants).is_some()
            && match space {
                Space::Io => self.place_io().is_some(),
                Space::Mem => self.place_mem(),
            };
        if placed {
            self.hand_down(space);
        }
        placed
    }

    /// Puts the BARs of `space` into their buses' lists.
    #[cold]
    fn collect(&mut self, space: Space, cut: u8) {
        for bus in self.buses.iter_mut().take(self.bus_count) {
            bus.heads = [U16::MAX_VALUE; 3];
        }
        // From the back: an equal one goes before those that are there.
        for index in (0..self.len).rev() {
            let Some(demand) = self.demands.get_mut(index) else {
                continue;
            };
            if (demand.kind() == Kind::Io) == (space == Space::Io) {
                demand.addr = U32::MAX_VALUE;
                demand.tag &= !TAG_HIGH;
                if demand.is_bar() && demand.order < cut {
                    self.insert(index);
                }
            }
        }
    }

    /// Inserts a demand into its list, by falling alignment, then size.
    #[cold]
    #[inline(never)]
    fn insert(&mut self, index: usize) -> Option<()> {
        let key = |demand: &Demand| (demand.order, demand.size.get());
        let demand = self.demands.get(index)?;
        let new = key(demand);
        let (bus, list) = (usize::from(demand.bus), demand.kind() as usize);
        let mut at = self.head(bus, list);
        let mut before = None;
        while let Some(demand) = self.demands.get(usize::from(at)) {
            if key(demand) <= new {
                break;
            }
            before = Some(usize::from(at));
            at = demand.next.get();
        }
        self.demands.get_mut(index)?.next = U16::new(at);
        let link = match before {
            Some(before) => &mut self.demands.get_mut(before)?.next,
            None => self.buses.get_mut(bus)?.heads.get_mut(list)?,
        };
        *link = U16::new(u16::try_from(index).ok()?);
        Some(())
    }

    fn head(&self, bus: usize, list: usize) -> u16 {
        let bus = self.buses.get(bus);
        bus.and_then(|bus| bus.heads.get(list))
            .map_or(NONE, |head| head.get())
    }

    /// Sizes the windows of all bridges, the last first: a bridge has a
    /// higher index than the one that it is behind. `None` when a size
    /// overflows.
    #[cold]
    fn size_windows(&mut self, space: Space, grants: usize) -> Option<()> {
        for index in (1..self.bus_count).rev() {
            for list in lists(space) {
                let (size, order) = self.pack([self.head(index, list), NONE], Side::LOW, 0)?;
                let record = self.buses.get(index)?;
                let mut reserve = record.reserve.get(list)?.get();
                if index >= grants {
                    reserve = 0;
                }
                let least = if list == LIST_IO {
                    IO_WINDOW_ORDER
                } else {
                    MEM_WINDOW_ORDER
                };
                let size = size.max(reserve).checked_add(mask(least))? & !mask(least);
                let window = usize::from(record.windows.get()).checked_add(list)?;
                let demand = self.demands.get_mut(window)?;
                demand.size = U32::new(size);
                demand.order = order.max(least);
                if size != 0 {
                    self.insert(window);
                }
            }
        }
        Some(())
    }

    /// Places one or two lists, of the second what is on `side`, from `base`
    /// on and by falling alignment; gives where they end, and the alignment
    /// that `base` needs for all of this to hold at a multiple of it.
    #[cold]
    #[inline(never)]
    fn pack(&mut self, heads: [u16; 2], side: Side, base: u32) -> Option<(u32, u8)> {
        let [mut first, mut second] = heads;
        let mut cursor = base;
        let mut order = 0;
        loop {
            let low = self.demands.get(usize::from(first)).map(|low| low.order);
            let mut either = self.demands.get(usize::from(second));
            while let Some(demand) =
                either.filter(|demand| self.goes_high(demand, side) != side.high)
            {
                second = demand.next.get();
                either = self.demands.get(usize::from(second));
            }
            let next = match (low, either) {
                (None, None) => return Some((cursor, order)),
                (Some(low), Some(either)) if low >= either.order => &mut first,
                (Some(_), None) => &mut first,
                _ => &mut second,
            };
            let demand = self.demands.get_mut(usize::from(*next))?;
            *next = demand.next.get();
            order = order.max(demand.order);
            cursor = demand.put(cursor)?;
            if side.high {
                demand.tag |= TAG_HIGH;
            }
        }
    }

    /// Whether a root bus's demand goes above 4 GiB.
    fn goes_high(&self, demand: &Demand, side: Side) -> bool {
        let size = demand.size.get();
        let pushed = !demand.is_bar() && demand.tag & TAG_PUSH != 0;
        let large = size.checked_shr(side.threshold.into()).unwrap_or(0) != 0;
        side.threshold != NEVER && (pushed || large || size > self.apertures.mem32.len())
    }

    /// Places the root buses' ports, each where there is room first.
    #[cold]
    fn place_io(&mut self) -> Option<()> {
        let mut free = self.apertures.io;
        let mut at = self.head(0, LIST_IO);
        while let Some(demand) = self.demands.get_mut(usize::from(at)) {
            free.iter_mut().find_map(|range| {
                let end = demand.put(range.start).filter(|end| *end <= range.end)?;
                range.start = end;
                Some(())
            })?;
            at = demand.next.get();
        }
        Some(())
    }

    /// Places the root buses' memory: as much of it below 4 GiB as possible.
    #[cold]
    fn place_mem(&mut self) -> bool {
        let (mem, any) = (self.head(0, LIST_MEM), self.head(0, LIST_HIGH));
        let Range { start, end } = self.apertures.mem32;
        let mut side = Side::LOW;
        if self.apertures.mem64.len() != 0 {
            side.threshold = 32;
        }
        loop {
            let base = self.pack([mem, any], side, 0).and_then(|(size, order)| {
                let base = end.checked_sub(size)? & !mask(order);
                (base >= start).then_some(base)
            });
            if let Some(base) = base {
                let above = Side { high: true, ..side };
                let last = self.pack([NONE, any], above, self.apertures.mem64.start);
                let last = last.map(|(last, _)| last);
                if last.is_some_and(|last| last <= self.apertures.mem64.end)
                    || side.threshold == NEVER
                {
                    return self.pack([mem, any], side, base).is_some();
                }
            }
            // More has to go above.
            if side.threshold == NEVER || side.threshold == 0 {
                return false;
            }
            side.threshold = side.threshold.saturating_sub(1);
        }
    }

    /// Makes what is behind bridges absolute, parents first.
    #[cold]
    fn hand_down(&mut self, space: Space) -> Option<()> {
        for index in 1..self.bus_count {
            for list in lists(space) {
                let window = usize::from(self.buses.get(index)?.windows.get());
                let window = self.demands.get(window.checked_add(list)?)?;
                let (base, high) = (window.addr.get(), window.tag & TAG_HIGH);
                let mut at = self.head(index, list);
                while let Some(demand) = self.demands.get_mut(usize::from(at)) {
                    // What is in a window without address has none either.
                    let addr = demand.addr.get().checked_add(base);
                    demand.addr = U32::new(addr.unwrap_or(UNPLACED));
                    demand.tag |= high;
                    at = demand.next.get();
                }
            }
        }
        Some(())
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
