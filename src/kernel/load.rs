//! What the formats share: claiming memory, the command line, the initrd.

use crate::error::{Error, Length, Result, Room};
use crate::fw_cfg::item;
use crate::layout;
use crate::memory::map::{Claim, MemoryMap};
use crate::phys::{PhysRange, align_up};
use crate::platform::Platform;

/// The longest command line for a kernel that names no limit.
pub(super) const MAX_COMMAND_LINE: u32 = 0xffff;

/// Slices have less than 2 GiB, so longer loads go in pieces.
const PIECE: u32 = 1 << 30;

/// The platform and the memory map, borrowed for one kernel.
#[derive(Debug)]
pub struct Loader<'a, P> {
    /// The machine.
    pub(super) platform: &'a mut P,
    /// The memory map.
    pub(super) map: &'a mut MemoryMap,
}

impl<'a, P: Platform> Loader<'a, P> {
    /// Borrows both for one step.
    #[must_use]
    pub const fn new(platform: &'a mut P, map: &'a mut MemoryMap) -> Self {
        Self { platform, map }
    }

    /// `need` bytes, and the room in the RAM above 1 MiB.
    pub(super) fn room(&self, need: u32) -> Room {
        self.map.room(need, self.map.high())
    }

    /// A place in low memory, for what a kernel reads early.
    pub(super) fn place_low(&mut self, len: u32) -> Result<PhysRange> {
        let claim = self.map.place_low(len, 16);
        Ok(claim.ok_or(Error::KernelOverlapsFirmware)?.range())
    }

    /// Reads the command line, of at most `limit` characters, to low memory, with
    /// `zeroes` zero bytes behind it. Returns the line with its NUL and padding, and
    /// the zeroes.
    ///
    /// A transfer past an item's end gives zeroes, so the line's transfer also clears
    /// what follows it.
    pub(super) fn read_command_line(
        &mut self,
        limit: u32,
        zeroes: u32,
    ) -> Result<(PhysRange, PhysRange)> {
        let limit = limit.min(MAX_COMMAND_LINE);
        let line_len = align_up(limit.saturating_add(1), 16).ok_or(Error::NotOurMemory)?;
        let block = self.place_low(line_len.saturating_add(zeroes))?;
        self.platform.load(item::CMDLINE_DATA, block)?;
        self.check_command_line(block, limit)?;
        let line = block.part(0, line_len).ok_or(Error::NotOurMemory)?;
        Ok((line, block.behind(line_len).ok_or(Error::NotOurMemory)?))
    }

    /// Checks that the line in `block` is not longer than `limit`: the byte behind that
    /// is zero.
    pub(super) fn check_command_line(&mut self, block: PhysRange, limit: u32) -> Result<()> {
        if self.platform.bytes(block)?.get(limit as usize) == Some(&0) {
            return Ok(());
        }
        let size = self.platform.read_u32(item::CMDLINE_SIZE)?;
        let len = size.saturating_sub(1);
        Err(Error::CommandLineTooLong(Length::new(len, limit)))
    }

    /// Places and loads the initrd, if there is one: as high as possible with its last
    /// byte at most at `last`, or `anywhere` if it does not fit there.
    pub(super) fn load_initrd(&mut self, last: u32, anywhere: bool) -> Result<PhysRange> {
        let size = self.platform.read_u32(item::INITRD_SIZE)?;
        if size == 0 {
            return Ok(PhysRange::EMPTY);
        }
        let claim = self.place_initrd(size, last, anywhere)?;
        self.load_item(item::INITRD_DATA, &claim)?;
        Ok(claim.range())
    }

    /// Claims `size` bytes for the initrd, as for [`Loader::load_initrd`].
    pub(super) fn place_initrd(&mut self, size: u32, last: u32, anywhere: bool) -> Result<Claim> {
        let high = self.map.high();
        let end = last.saturating_add(1).min(high.end()).max(high.start());
        let below = PhysRange::between(high.start(), end).ok_or(Error::NotOurMemory)?;
        let mut claim = self.map.place(size, 4096, below);
        if claim.is_none() && anywhere {
            claim = self.map.place(size, 4096, high);
        }
        claim.ok_or_else(|| Error::InitrdTooBig(self.map.room(size, below)))
    }

    /// Loads an item to the memory that was claimed for it.
    pub(super) fn load_item(&mut self, selector: u16, to: &Claim) -> Result<()> {
        self.load_part(selector, 0, to.range())
    }

    /// Loads an item from `offset` on. An offset other than 0 costs a transfer more.
    pub(super) fn load_part(&mut self, selector: u16, offset: u32, to: PhysRange) -> Result<()> {
        if offset != 0 {
            self.platform.seek(selector, offset)?;
            return self.load_next(to);
        }
        let whole = to;
        let first = whole.part(0, whole.len().min(PIECE));
        let first = first.ok_or(Error::NotOurMemory)?;
        self.platform.load(selector, first)?;
        let rest = whole.behind(first.len()).ok_or(Error::NotOurMemory)?;
        self.load_next(rest)
    }

    /// Reads on in the selected item, to `rest`.
    pub(super) fn load_next(&mut self, rest: PhysRange) -> Result<()> {
        let mut rest = rest;
        while !rest.is_empty() {
            let piece = rest.part(0, rest.len().min(PIECE));
            let piece = piece.ok_or(Error::NotOurMemory)?;
            self.platform.load_next(piece)?;
            rest = rest.behind(piece.len()).ok_or(Error::NotOurMemory)?;
        }
        Ok(())
    }

    /// Holds a segment that QEMU has loaded.
    pub(super) fn hold_segment(&mut self, range: PhysRange) -> Result<()> {
        let held = self.map.hold(range);
        held.ok_or_else(|| self.no_place(range)).map(|_| ())
    }

    /// Why a kernel cannot have `range`, which it is linked to.
    pub(super) fn no_place(&self, range: PhysRange) -> Error {
        if range.start() < layout::HIGH_RAM {
            Error::KernelOverlapsFirmware
        } else {
            // As much as a guest would need with -m.
            Error::KernelTooBig(Room::new(range.end(), self.map.high().end()))
        }
    }
}
