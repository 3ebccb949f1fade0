//! Sizing windows, placing roots, handing addresses down.

use super::aperture::Range;
use super::demand::{Demand, Kind, NEVER, NONE, TAG_HIGH, TAG_WANTS_HIGH, UNPLACED, slot};
use super::{
    IO_WINDOW_ORDER, LIST_HIGH, LIST_IO, LIST_MEM, MEM_WINDOW_ORDER, Side, Space, Tree, lists, mask,
};
use zerocopy::byteorder::little_endian::{U16, U32};

impl Tree<'_> {
    /// Gives every demand its address; returns the number of BARs without room.
    ///
    /// If not all fits, it drops reservations, bridge by bridge from the last, and then
    /// the largest BARs.
    pub fn solve(&mut self) -> u16 {
        self.solve_space(Space::Io);
        self.solve_space(Space::Mem);
        u16::try_from(self.missing().count()).unwrap_or(u16::MAX)
    }

    /// The BARs that have no address.
    pub fn missing(&self) -> impl Iterator<Item = &Demand> {
        // A machine without ports misses none.
        let ports = self.most(Kind::Io) != 0;
        self.demands().iter().filter(move |demand| {
            demand.slot() < slot::ROM && !demand.is_placed() && (ports || demand.kind() != Kind::Io)
        })
    }

    pub(super) fn solve_space(&mut self, space: Space) {
        // A binary search for the largest number of buses that can have their
        // reservations. Up to `good` they fit; from `bad` on they do not.
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
        // At an order of 0 no BAR is left, which always fits.
        for cut in (0..32).rev() {
            if self.fits(space, 0, cut) {
                return;
            }
        }
    }

    /// Tries to place everything in `space`, with the reservations of the first
    /// `grants` buses and the BARs below `1 << cut`.
    pub(super) fn fits(&mut self, space: Space, grants: usize, cut: u8) -> bool {
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
    pub(super) fn collect(&mut self, space: Space, cut: u8) {
        for bus in self.buses.iter_mut().take(self.bus_count) {
            bus.heads = [U16::MAX_VALUE; 3];
        }
        // From the back, since an equal one is inserted before the others.
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
    pub(super) fn insert(&mut self, index: usize) -> Option<()> {
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

    pub(super) fn head(&self, bus: usize, list: usize) -> u16 {
        let bus = self.buses.get(bus);
        bus.and_then(|bus| bus.heads.get(list))
            .map_or(NONE, |head| head.get())
    }

    /// Sizes the windows of all bridges, the last first: a bridge has a
    /// higher index than the one that it is behind. `None` when a size
    /// overflows.
    pub(super) fn size_windows(&mut self, space: Space, grants: usize) -> Option<()> {
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

    /// Places one or two lists from `base` on, by falling alignment; of the second list
    /// only the demands on `side`. Returns the end, and the alignment that `base` needs
    /// to move all of it.
    pub(super) fn pack(&mut self, heads: [u16; 2], side: Side, base: u32) -> Option<(u32, u8)> {
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
    pub(super) fn goes_high(&self, demand: &Demand, side: Side) -> bool {
        let size = demand.size.get();
        let wants_high = !demand.is_bar() && demand.tag & TAG_WANTS_HIGH != 0;
        let large = size.checked_shr(side.threshold.into()).unwrap_or(0) != 0;
        side.threshold != NEVER && (wants_high || large || size > self.apertures.mem32.len())
    }

    /// Places the root buses' ports, each where there is room first.
    pub(super) fn place_io(&mut self) -> Option<()> {
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
    pub(super) fn place_mem(&mut self) -> bool {
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

    /// Makes addresses behind bridges absolute, parents first.
    pub(super) fn hand_down(&mut self, space: Space) -> Option<()> {
        for index in 1..self.bus_count {
            for list in lists(space) {
                let window = usize::from(self.buses.get(index)?.windows.get());
                let window = self.demands.get(window.checked_add(list)?)?;
                let (base, high) = (window.addr.get(), window.tag & TAG_HIGH);
                let mut at = self.head(index, list);
                while let Some(demand) = self.demands.get_mut(usize::from(at)) {
                    // Without an address of the window there is none for its content.
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
