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
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Addresses from `start` to before `end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aperture {
    /// First address.
    pub start: u64,
    /// One past the last; `start` or less when there is nothing.
    pub end: u64,
}

impl Aperture {
    /// Bytes.
    #[must_use]
    pub const fn len(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether there is nothing.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

const FOUR_GIB: u64 = 1 << 32;

/// Where a machine lets PCI decode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Apertures {
    /// Ports, the first to be filled first.
    pub io: [Aperture; 3],
    /// Memory below 4 GiB.
    pub mem32: Aperture,
    /// Memory above 4 GiB.
    pub mem64: Aperture,
}

impl Apertures {
    /// Ports that QEMU leaves free on `pc` and `q35`: `last` ends before
    /// what the machine's hot-plug controllers occupy, and 0x5658 is the
    /// VMware backdoor's.
    const fn ports(last: u64) -> [Aperture; 3] {
        [
            Aperture {
                start: 0xc000,
                end: 0x1_0000,
            },
            Aperture {
                start: 0x6000,
                end: last,
            },
            Aperture {
                start: 0x1000,
                end: 0x5000,
            },
        ]
    }

    /// From the end of `used` memory to what `phys_bits` address.
    fn above(used: u64, phys_bits: u8) -> Aperture {
        let start = align_up(used.max(FOUR_GIB), 30).unwrap_or(u64::MAX);
        let end = 1 << phys_bits.min(52);
        Aperture { start, end }
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
            _ => u64::from(low_end).max(0xe000_0000),
        };
        Self {
            // Hot-plug controllers are at 0xae00 and 0xaf00.
            io: Self::ports(0xa000),
            mem32: Aperture {
                start,
                end: 0xfec0_0000,
            },
            mem64: Self::above(high_end, phys_bits),
        }
    }

    /// `q35`, with its ECAM at 0xb0000000; else as [`Apertures::i440fx`].
    #[must_use]
    pub fn q35(low_end: u32, high_end: u64, phys_bits: u8) -> Self {
        Self {
            io: Self::ports(0xc000),
            mem32: Aperture {
                start: u64::from(low_end).max(0xc000_0000),
                end: 0xfec0_0000,
            },
            mem64: Self::above(high_end, phys_bits),
        }
    }

    /// `microvm,pcie=on`: no ports, and the topmost quarter of what the CPU
    /// addresses (QEMU `hw/i386/microvm.c`).
    #[must_use]
    pub fn microvm(phys_bits: u8) -> Self {
        let end = 1 << phys_bits.min(52);
        Self {
            io: [Aperture::default(); 3],
            mem32: Aperture {
                start: 0xc000_0000,
                end: 0xe000_0000,
            },
            mem64: if end > FOUR_GIB {
                Aperture {
                    start: end >> 2 | end >> 1,
                    end,
                }
            } else {
                Aperture::default()
            },
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
    /// A bridge's prefetchable window.
    pub const PREF_WINDOW: u8 = 10;
}

/// Marks the end of a list.
const NONE: u16 = u16::MAX;
/// The address of what has none.
const UNPLACED: u64 = u64::MAX;
/// A tag's bits above the slot: the kind; for a BAR the second register and
/// that it can never fit; for a window that it is to go above 4 GiB.
const TAG_KIND: u8 = 4;
const TAG_WIDE: u8 = 1 << 6;
const TAG_OFF: u8 = 1 << 7;
const TAG_PUSH: u8 = 1 << 6;

/// One BAR or window. Alignment-free, so it can lie anywhere in scratch.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Demand {
    /// Bytes; 0 for a window that nothing needs.
    size: U64,
    /// Relative to the window around it until addresses are handed down.
    addr: U64,
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

    /// First address and bytes; `None` when it is not to decode.
    #[must_use]
    pub fn place(&self) -> Option<(u64, u64)> {
        let (addr, size) = (self.addr.get(), self.size.get());
        (addr != UNPLACED && size != 0).then_some((addr, size))
    }

    const fn is_bar(&self) -> bool {
        self.slot() <= slot::BRIDGE_ROM
    }
}

/// What a bridge can forward, and what it is to forward at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bridge {
    /// Has an I/O window.
    pub io: bool,
    /// Has a prefetchable window of 64 bits; one of 32 bits is never used.
    pub pref64: bool,
    /// Bytes of ports to reserve.
    pub io_reserve: u32,
    /// Bytes of memory to reserve.
    pub mem_reserve: u32,
    /// Bytes of prefetchable memory to reserve.
    pub pref_reserve: u64,
    /// Keep prefetchable memory below 4 GiB.
    pub pref_low: bool,
    /// Put prefetchable memory above 4 GiB, if there is anything.
    pub pref_high: bool,
}

const BUS_ROOT: u8 = 1;
const BUS_IO: u8 = 2;
const BUS_PREF64: u8 = 4;
const BUS_PREF_LOW: u8 = 8;

/// The lists of a bus, by [`Kind`].
const LIST_IO: usize = 0;
const LIST_MEM: usize = 1;
const LIST_HIGH: usize = 2;

#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct BusRecord {
    pref_reserve: U64,
    mem_reserve: U32,
    io_reserve: U32,
    /// Heads of the lists of what is on it, by falling alignment.
    heads: [U16; 3],
    /// The first of its bridge's three windows.
    windows: U16,
    parent: u8,
    flags: u8,
}

/// Orders of the smallest windows (PCI-to-PCI Bridge 1.2, section 3.2.5).
const IO_WINDOW_ORDER: u8 = 12;
const MEM_WINDOW_ORDER: u8 = 20;
/// BARs are a page apart, so that each can be mapped on its own.
const MIN_MEM_ORDER: u8 = 12;
const MAX_BUSES: usize = 256;

/// The demands of a machine, in lent memory.
pub struct Tree<'a> {
    buses: &'a mut [BusRecord],
    bus_count: usize,
    demands: &'a mut [Demand],
    len: usize,
    apertures: Apertures,
}

/// The two address spaces are solved one after the other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    Io,
    Mem,
}

impl<'a> Tree<'a> {
    /// An empty tree. Takes 7 KiB of `scratch` and 24 bytes a BAR, 72 a
    /// bridge.
    ///
    /// # Errors
    /// [`Error::PciTooMany`] when `scratch` is too small for any.
    pub fn new(scratch: &'a mut [u8], apertures: Apertures) -> Result<Self> {
        let (buses, rest) = <[BusRecord]>::mut_from_prefix_with_elems(scratch, MAX_BUSES)
            .map_err(|_| Error::PciTooMany)?;
        let room = rest.len().checked_div(size_of::<Demand>()).unwrap_or(0);
        let room = room.min(usize::from(NONE));
        let (demands, _) =
            <[Demand]>::mut_from_prefix_with_elems(rest, room).map_err(|_| Error::PciTooMany)?;
        Ok(Self {
            buses,
            bus_count: 0,
            demands,
            len: 0,
            apertures,
        })
    }

    /// All demands, those of a function next to each other.
    #[must_use]
    pub fn demands(&self) -> &[Demand] {
        self.demands.get(..self.len).unwrap_or(&[])
    }

    /// Adds a root bus; gives its index.
    ///
    /// # Errors
    /// [`Error::PciTooMany`].
    pub fn add_root(&mut self) -> Result<u8> {
        self.add_bus(BusRecord {
            pref_reserve: U64::ZERO,
            mem_reserve: U32::ZERO,
            io_reserve: U32::ZERO,
            heads: [U16::MAX_VALUE; 3],
            windows: U16::ZERO,
            parent: 0,
            flags: BUS_ROOT | BUS_IO | BUS_PREF64,
        })
    }

    /// Adds the bus behind a bridge that is on bus `parent`; gives its index.
    ///
    /// `command` is as for [`Tree::add_bar`].
    ///
    /// # Errors
    /// [`Error::PciTooMany`].
    pub fn add_bridge(&mut self, parent: u8, bdf: Bdf, bridge: &Bridge, command: u8) -> Result<u8> {
        let windows = u16::try_from(self.len).map_err(|_| Error::PciTooMany)?;
        for (kind, slot) in [
            (Kind::Io, slot::IO_WINDOW),
            (Kind::Mem, slot::MEM_WINDOW),
            (Kind::High, slot::PREF_WINDOW),
        ] {
            self.add(Demand {
                size: U64::ZERO,
                addr: U64::MAX_VALUE,
                bdf: U16::new(bdf.bits()),
                next: U16::MAX_VALUE,
                bus: parent,
                order: 0,
                tag: (kind as u8) << TAG_KIND | slot,
                command,
            })?;
        }
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        // A reservation that can never be met would cost all others theirs.
        let most = self.apertures.mem64.len().max(self.apertures.mem32.len());
        let fits = |bytes: u64, most: u64| if bytes <= most { bytes } else { 0 };
        let mem_reserve = fits(bridge.mem_reserve.into(), self.apertures.mem32.len());
        let io_most = self
            .apertures
            .io
            .iter()
            .map(|io| io.len())
            .max()
            .unwrap_or(0);
        let io_reserve = fits(bridge.io_reserve.into(), io_most);
        let bus = self.add_bus(BusRecord {
            pref_reserve: U64::new(fits(bridge.pref_reserve, most)),
            mem_reserve: U32::new(u32::try_from(mem_reserve).unwrap_or(0)),
            io_reserve: U32::new(u32::try_from(io_reserve).unwrap_or(0)),
            heads: [U16::MAX_VALUE; 3],
            windows: U16::new(windows),
            parent,
            flags: flag(bridge.io, BUS_IO)
                | flag(bridge.pref64, BUS_PREF64)
                | flag(bridge.pref_low, BUS_PREF_LOW),
        })?;
        if bridge.pref_high && self.forwards_high(bus) {
            self.push(bus);
        }
        Ok(bus)
    }

    /// Whether something on this bus can be above 4 GiB.
    fn forwards_high(&self, bus: u8) -> bool {
        let mut index = usize::from(bus);
        while let Some(record) = self.bus(index).filter(|bus| bus.flags & BUS_ROOT == 0) {
            if record.flags & BUS_PREF64 == 0 || record.flags & BUS_PREF_LOW != 0 {
                return false;
            }
            index = record.parent.into();
        }
        true
    }

    /// Marks the prefetchable window of a bus, and those around it, to go
    /// above 4 GiB.
    fn push(&mut self, bus: u8) {
        let mut index = usize::from(bus);
        while let Some(record) = self.bus(index).filter(|bus| bus.flags & BUS_ROOT == 0) {
            let parent = record.parent.into();
            let window = usize::from(record.windows.get()).saturating_add(LIST_HIGH);
            if let Some(demand) = self.demands.get_mut(window) {
                demand.tag |= TAG_PUSH;
            }
            index = parent;
        }
    }

    /// Adds a BAR or expansion ROM of `1 << order` bytes on the bus with
    /// index `bus`. `wide` says that it has two registers, `command` is kept
    /// for the caller.
    ///
    /// # Errors
    /// [`Error::PciTooMany`].
    #[allow(clippy::too_many_arguments, reason = "the fields of a record")]
    pub fn add_bar(
        &mut self,
        bus: u8,
        bdf: Bdf,
        slot: u8,
        kind: Kind,
        order: u8,
        wide: bool,
        command: u8,
    ) -> Result<()> {
        let size = 1_u64.checked_shl(order.into()).unwrap_or(u64::MAX);
        let kind = match kind {
            Kind::High if !self.forwards_high(bus) => Kind::Mem,
            kind => kind,
        };
        let Apertures { io, mem32, mem64 } = &self.apertures;
        let most = match kind {
            Kind::Io => io.iter().map(|io| io.len()).max().unwrap_or(0),
            Kind::Mem => mem32.len(),
            Kind::High => mem32.len().max(mem64.len()),
        };
        let order = if kind == Kind::Io {
            order
        } else {
            order.max(MIN_MEM_ORDER)
        };
        let mut tag = (kind as u8) << TAG_KIND | slot & 15;
        if wide {
            tag |= TAG_WIDE;
        }
        if size > most {
            tag |= TAG_OFF;
        }
        self.add(Demand {
            size: U64::new(size.max(1_u64.checked_shl(order.into()).unwrap_or(0))),
            addr: U64::MAX_VALUE,
            bdf: U16::new(bdf.bits()),
            next: U16::MAX_VALUE,
            bus,
            order,
            tag,
            command,
        })
    }

    fn add(&mut self, demand: Demand) -> Result<()> {
        let slot = self.demands.get_mut(self.len).ok_or(Error::PciTooMany)?;
        *slot = demand;
        self.len = self.len.saturating_add(1);
        Ok(())
    }

    fn add_bus(&mut self, bus: BusRecord) -> Result<u8> {
        let index = u8::try_from(self.bus_count).map_err(|_| Error::PciTooMany)?;
        let record = self
            .buses
            .get_mut(self.bus_count)
            .ok_or(Error::PciTooMany)?;
        *record = bus;
        self.bus_count = self.bus_count.saturating_add(1);
        Ok(index)
    }

    /// Gives every demand its address; gives the number of BARs for which
    /// there is no room.
    ///
    /// What does not fit with all reservations is tried with fewer, bridge by
    /// bridge from the last; if it does not fit with none, the largest BARs
    /// go without.
    pub fn solve(&mut self) -> u16 {
        self.solve_space(Space::Io);
        self.solve_space(Space::Mem);
        // Where there are no ports, nobody misses them.
        let ports = self.apertures.io.iter().any(|io| !io.is_empty());
        let missing = |demand: &&Demand| {
            demand.slot() < slot::ROM
                && demand.place().is_none()
                && (ports || demand.kind() != Kind::Io)
        };
        u16::try_from(self.demands().iter().filter(missing).count()).unwrap_or(u16::MAX)
    }

    fn solve_space(&mut self, space: Space) {
        let all = self.bus_count;
        if self.fits(space, all, 64) {
            return;
        }
        if self.fits(space, 0, 64) {
            // The largest number of bridges that can have what they reserve.
            let (mut good, mut bad) = (0, all);
            while bad.saturating_sub(good) > 1 {
                let half = bad.saturating_sub(good) >> 1;
                let middle = good.saturating_add(half);
                if self.fits(space, middle, 64) {
                    good = middle;
                } else {
                    bad = middle;
                }
            }
            self.fits(space, good, 64);
            return;
        }
        // At an order of 0 no BAR is left, and nothing always fits.
        for cut in (0..64).rev() {
            if self.fits(space, 0, cut) {
                return;
            }
        }
    }

    /// Tries to place everything in `space`, reservations only of the first
    /// `grants` buses, BARs only below `1 << cut` bytes.
    fn fits(&mut self, space: Space, grants: usize, cut: u8) -> bool {
        self.collect(space, cut);
        let placed = self.size_windows(space, grants).is_some()
            && match space {
                Space::Io => self.place_io().is_some(),
                Space::Mem => self.place_mem().is_some(),
            };
        if placed {
            self.hand_down(space);
        }
        placed
    }

    /// Puts the BARs of `space` into their buses' lists.
    fn collect(&mut self, space: Space, cut: u8) {
        for bus in self.buses.iter_mut().take(self.bus_count) {
            for list in lists(space) {
                if let Some(head) = bus.heads.get_mut(*list) {
                    *head = U16::MAX_VALUE;
                }
            }
        }
        // From the back: an equal one goes before those that are there.
        for index in (0..self.len).rev() {
            let Some(demand) = self.demands.get_mut(index) else {
                continue;
            };
            if (demand.kind() == Kind::Io) != (space == Space::Io) {
                continue;
            }
            demand.addr = U64::MAX_VALUE;
            if demand.is_bar() && demand.tag & TAG_OFF == 0 && demand.order < cut {
                let (bus, kind) = (demand.bus, demand.kind());
                self.insert(index, bus, kind);
            }
        }
    }

    fn bus(&self, index: usize) -> Option<&BusRecord> {
        self.buses.get(..self.bus_count)?.get(index)
    }

    /// Inserts a demand into the list of `bus`, all roots having one; by
    /// falling alignment, then size.
    fn insert(&mut self, index: usize, bus: u8, kind: Kind) -> Option<()> {
        let record = self.bus(bus.into())?;
        let list = match kind {
            Kind::Io => LIST_IO,
            Kind::High if record.flags & BUS_PREF64 != 0 => LIST_HIGH,
            Kind::Mem | Kind::High => LIST_MEM,
        };
        if kind == Kind::Io && record.flags & BUS_IO == 0 {
            // Nothing forwards ports to here.
            return None;
        }
        let owner = if record.flags & BUS_ROOT != 0 {
            0
        } else {
            usize::from(bus)
        };
        let head = self.bus(owner)?.heads.get(list)?.get();
        let key = |demand: &Demand| (demand.order, demand.size.get());
        let new = key(self.demands.get(index)?);
        let mut before = None;
        let mut at = head;
        while let Some(demand) = self.demands.get(usize::from(at)).filter(|_| at != NONE) {
            if key(demand) <= new {
                break;
            }
            before = Some(usize::from(at));
            at = demand.next.get();
        }
        let index16 = U16::new(u16::try_from(index).ok()?);
        self.demands.get_mut(index)?.next = U16::new(at);
        match before {
            Some(before) => self.demands.get_mut(before)?.next = index16,
            None => *self.buses.get_mut(owner)?.heads.get_mut(list)? = index16,
        }
        Some(())
    }

    fn head(&self, bus: usize, list: usize) -> u16 {
        let heads = self.bus(bus).map(|bus| bus.heads);
        heads
            .and_then(|heads| heads.get(list).copied())
            .map_or(NONE, U16::get)
    }

    /// Sizes the windows of all bridges, the last first: a bridge has a
    /// higher index than the one that it is behind. `None` when a size
    /// overflows.
    fn size_windows(&mut self, space: Space, grants: usize) -> Option<()> {
        for index in (1..self.bus_count).rev() {
            let record = *self.bus(index)?;
            if record.flags & BUS_ROOT != 0 {
                continue;
            }
            for list in lists(space) {
                let (bytes, order) = self.pack(index, *list)?;
                let (reserve, least) = match *list {
                    LIST_IO => (record.io_reserve.get().into(), IO_WINDOW_ORDER),
                    LIST_MEM => (record.mem_reserve.get().into(), MEM_WINDOW_ORDER),
                    _ => (record.pref_reserve.get(), MEM_WINDOW_ORDER),
                };
                let possible = match *list {
                    LIST_IO => record.flags & BUS_IO != 0,
                    LIST_MEM => true,
                    _ => record.flags & BUS_PREF64 != 0,
                };
                let reserve = if possible && index < grants {
                    reserve
                } else {
                    0
                };
                let bytes = align_up(bytes.max(reserve), least)?;
                let window = usize::from(record.windows.get()).checked_add(*list)?;
                let demand = self.demands.get_mut(window)?;
                demand.size = U64::new(bytes);
                demand.order = order.max(least);
                if bytes != 0 {
                    let kind = match *list {
                        LIST_IO => Kind::Io,
                        LIST_HIGH if record.flags & BUS_PREF_LOW == 0 => Kind::High,
                        _ => Kind::Mem,
                    };
                    self.insert(window, record.parent, kind);
                }
            }
        }
        Some(())
    }

    /// Places a list from 0 on; gives its bytes and its alignment.
    fn pack(&mut self, bus: usize, list: usize) -> Option<(u64, u8)> {
        let mut at = self.head(bus, list);
        let order = self.demands.get(usize::from(at)).filter(|_| at != NONE);
        let order = order.map_or(0, |demand| demand.order);
        let mut cursor = 0;
        while at != NONE {
            let demand = self.demands.get_mut(usize::from(at))?;
            cursor = demand.put(cursor)?;
            at = demand.next.get();
        }
        Some((cursor, order))
    }

    /// Places the root buses' ports, each where there is room first.
    fn place_io(&mut self) -> Option<()> {
        let mut free = self.apertures.io;
        let mut at = self.head(0, LIST_IO);
        while at != NONE {
            let demand = self.demands.get_mut(usize::from(at))?;
            free.iter_mut().find_map(|aperture| {
                let end = demand.put(aperture.start)?;
                if end > aperture.end {
                    return None;
                }
                aperture.start = end;
                Some(())
            })?;
            at = demand.next.get();
        }
        Some(())
    }

    /// Places the root buses' memory: as much of it below 4 GiB as possible.
    fn place_mem(&mut self) -> Option<()> {
        let Apertures { mem32, mem64, .. } = self.apertures;
        // All of 1 << threshold bytes and more that can go above 4 GiB, goes.
        for threshold in (MIN_MEM_ORDER..=64).rev() {
            let threshold = if mem64.is_empty() { u8::MAX } else { threshold };
            if let Some((bytes, order)) = self.pack_root(threshold, false, 0) {
                let base = mem32
                    .end
                    .checked_sub(bytes)
                    .map(|base| align_down(base, order));
                let low = base.filter(|base| bytes == 0 || *base >= mem32.start);
                let high = align_up(mem64.start, 30);
                if let (Some(low), Some(high)) = (low, high) {
                    let end = self.pack_root(threshold, true, high).map(|(end, _)| end);
                    if end.is_some_and(|end| end == high || end <= mem64.end) {
                        self.pack_root(threshold, false, low)?;
                        return Some(());
                    }
                }
            }
            if threshold == u8::MAX {
                break;
            }
        }
        None
    }

    /// Places what is to go above 4 GiB (`high`) or below, from `base` on;
    /// gives where it ends and its alignment.
    fn pack_root(&mut self, threshold: u8, high: bool, base: u64) -> Option<(u64, u8)> {
        let mut mem = if high { NONE } else { self.head(0, LIST_MEM) };
        let mut any = self.head(0, LIST_HIGH);
        let mut cursor = base;
        let mut order = 0;
        loop {
            // The next of `any` that is on this side.
            let wide = loop {
                let Some(demand) = self.demands.get(usize::from(any)).filter(|_| any != NONE)
                else {
                    break None;
                };
                if self.goes_high(demand, threshold) == high {
                    break Some(demand.order);
                }
                any = demand.next.get();
            };
            let low = self.demands.get(usize::from(mem)).filter(|_| mem != NONE);
            let low = low.map(|demand| demand.order);
            let next = match (low, wide) {
                (None, None) => return Some((cursor, order)),
                (Some(low), Some(wide)) if low < wide => &mut any,
                (Some(_), _) => &mut mem,
                (None, Some(_)) => &mut any,
            };
            let demand = self.demands.get_mut(usize::from(*next))?;
            order = order.max(demand.order);
            cursor = demand.put(cursor)?;
            *next = demand.next.get();
        }
    }

    /// Whether a root bus's demand goes above 4 GiB.
    fn goes_high(&self, demand: &Demand, threshold: u8) -> bool {
        if threshold == u8::MAX {
            return false;
        }
        let pushed = !demand.is_bar() && demand.tag & TAG_PUSH != 0;
        let large = demand.size.get() > mask(threshold);
        pushed || large || demand.size.get() > self.apertures.mem32.len()
    }

    /// Makes what is behind bridges absolute, parents first.
    fn hand_down(&mut self, space: Space) -> Option<()> {
        for index in 1..self.bus_count {
            let record = *self.bus(index)?;
            if record.flags & BUS_ROOT != 0 {
                continue;
            }
            for list in lists(space) {
                let window = usize::from(record.windows.get()).checked_add(*list)?;
                let base = self.demands.get(window)?.addr.get();
                let mut at = self.head(index, *list);
                while at != NONE {
                    let demand = self.demands.get_mut(usize::from(at))?;
                    // What is in a window without address has none either.
                    let addr = demand.addr.get().checked_add(base);
                    demand.addr = U64::new(addr.unwrap_or(UNPLACED));
                    at = demand.next.get();
                }
            }
        }
        Some(())
    }
}

impl Demand {
    /// Puts it at `cursor` or after it, aligned; gives its end.
    fn put(&mut self, cursor: u64) -> Option<u64> {
        let addr = align_up(cursor, self.order)?;
        self.addr = U64::new(addr);
        addr.checked_add(self.size.get())
    }
}

const fn lists(space: Space) -> &'static [usize] {
    match space {
        Space::Io => &[LIST_IO],
        Space::Mem => &[LIST_MEM, LIST_HIGH],
    }
}

const fn mask(order: u8) -> u64 {
    match 1_u64.checked_shl(order as u32) {
        Some(bit) => bit.wrapping_sub(1),
        None => u64::MAX,
    }
}

/// `value` rounded up to a multiple of `1 << order`.
fn align_up(value: u64, order: u8) -> Option<u64> {
    let mask = mask(order);
    value.checked_add(mask).map(|sum| sum & !mask)
}

const fn align_down(value: u64, order: u8) -> u64 {
    value & !mask(order)
}
