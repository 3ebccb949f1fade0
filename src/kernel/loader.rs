//! Claiming memory and moving bytes.

use super::Loader;
use crate::bzimage::{SECTOR, SetupHeader, hdr};
use crate::e820::Claim;
use crate::error::{Error, Result, Shortfall};
use crate::fw_cfg::{FwCfg, item};
use crate::layout;
use crate::phys::{GuestMemory, PhysRange, align_up, copy_at, kib, u32_at};
use crate::pvh::StartInfo;

/// No wrong `setup_sects` moves the code by more bytes.
const MAX_MOVE: u32 = 255 * SECTOR;
/// Bytes of a `setup_data` node before its data: address of the next one,
/// type, length.
const SETUP_DATA_HEAD: u32 = 16;
/// Slices are at most `isize::MAX` bytes; longer loads go in pieces.
const PIECE: u32 = 1 << 30;

/// Whether this is the start of a compressed kernel: gzip, bzip2, LZMA, XZ,
/// LZO, LZ4 or ZSTD (Linux `lib/decompress.c`).
#[inline(never)]
const fn is_compressed(payload: &[u8]) -> bool {
    matches!(
        payload,
        [0x1f, 0x8b, 8, ..]
            | [b'B', b'Z', b'h', ..]
            | [0x5d, 0, 0, ..]
            | [0xfd, b'7', b'z', b'X', b'Z', ..]
            | [0x89, b'L', b'Z', b'O', ..]
            | [0x02, 0x21, 0x4c, 0x18, ..]
            | [0x28, 0xb5, 0x2f, 0xfd, ..]
    )
}

/// Whether a compressed kernel starts whole sectors away from `offset`, not
/// further than a wrong `setup_sects` moves it.
#[cold]
#[inline(never)]
fn is_moved(bytes: &[u8], offset: u32) -> bool {
    let end = offset.saturating_add(MAX_MOVE).saturating_add(1);
    (offset & (SECTOR - 1)..end)
        .step_by(SECTOR as usize)
        .any(|at| is_compressed(bytes.get(at as usize..).unwrap_or(&[])))
}

/// Whether 32-bit code is Linux's own, or what is left of it: close to its
/// entry it makes the zero page's `scratch` its stack and asks where it runs
/// (`arch/x86/boot/compressed/head_{32,64}.S`).
#[cold]
#[inline(never)]
fn is_linux_entry(code: &[u8]) -> bool {
    /// `leal 0x1e8(%esi), %esp` and `call` to the next instruction.
    const LINUX: [u8; 11] = [0x8d, 0xa6, 0xe8, 1, 0, 0, 0xe8, 0, 0, 0, 0];
    let starts = |at| match code.get(at..) {
        None | Some([]) => false,
        Some(rest) => rest.iter().zip(&LINUX).all(|(byte, linux)| byte == linux),
    };
    code.len() < 3 || (1..64).any(starts)
}

impl<F: FwCfg, M: GuestMemory> Loader<'_, F, M> {
    /// Whether what was loaded is what the header describes.
    ///
    /// QEMU splits the file where `setup_sects` says. Where that is wrong, the
    /// entry is in the middle of something, and the compressed kernel is not
    /// at its place but whole sectors away. An image that is shorter than its
    /// header says is cut short if it holds the start of a compressed kernel or
    /// Linux's code before it. Otherwise the code is somebody's own behind
    /// another kernel's header.
    // Not so cold, but small: so the compiler keeps it out of everyone's way.
    #[cold]
    #[inline(never)]
    pub(super) fn check_whole(
        &mut self,
        header: &SetupHeader<'_>,
        loaded: PhysRange,
    ) -> Result<()> {
        if loaded.is_empty() {
            return Err(Error::KernelTruncated);
        }
        let Some((offset, _)) = header.payload() else {
            return Ok(());
        };
        let missing = header.least_len().saturating_sub(loaded.len());
        let loaded = loaded.part(0, loaded.len().min(PIECE));
        let loaded = loaded.ok_or(Error::NotOurMemory)?;
        let bytes = self.memory.bytes(loaded)?;
        if is_compressed(bytes.get(offset as usize..).unwrap_or(&[])) {
            return match missing {
                0 => Ok(()),
                _ => Err(Error::KernelTruncated),
            };
        }
        // CLD: of other code nothing more is looked at.
        if missing != 0 && bytes.first() == Some(&0xfc) && is_linux_entry(bytes) {
            return Err(Error::KernelTruncated);
        }
        if missing > MAX_MOVE {
            return Ok(());
        }
        self.check_split(header, loaded, offset)
    }

    /// Looks for a compressed kernel in the wrong place: in the code or, where
    /// `setup_sects` is too large, behind the setup code.
    #[cold]
    #[inline(never)]
    pub(super) fn check_split(
        &mut self,
        header: &SetupHeader<'_>,
        loaded: PhysRange,
        offset: u32,
    ) -> Result<()> {
        if is_moved(self.memory.bytes(loaded)?, offset) {
            return Err(Error::BadSetupHeader);
        }
        // The only memory that is free for it is the code's own.
        let setup_len = header.setup_len().min(loaded.len());
        let setup = loaded.part(0, setup_len).ok_or(Error::NotOurMemory)?;
        let bytes = self.memory.bytes(setup)?;
        self.fw_cfg.read(item::SETUP_DATA, bytes)?;
        if is_moved(bytes, offset) {
            return Err(Error::BadSetupHeader);
        }
        self.fw_cfg.read(item::KERNEL_DATA, bytes)
    }

    /// Corrects `setup_data` in a copy of the header, where QEMU from 10.0 on
    /// has it wrong: it counts the offset of what it has appended from the
    /// start of the file, not of the code. Nothing is there, but for what an
    /// earlier boot has left, and Linux follows it.
    #[cold]
    #[inline(never)]
    pub(super) fn correct_setup_data(
        &mut self,
        given: u32,
        header: &SetupHeader<'_>,
        loaded: PhysRange,
        copy: PhysRange,
    ) -> Result<()> {
        let addr = given.wrapping_sub(header.setup_len());
        let offset = addr.wrapping_sub(loaded.start());
        let bytes = self.memory.bytes(loaded)?;
        // What QEMU has appended is one node, and ends where the item does.
        let rest = loaded.len().wrapping_sub(offset);
        let node = bytes.get(offset as usize..).unwrap_or(&[]);
        let len = rest.wrapping_sub(SETUP_DATA_HEAD);
        if u32_at(node, 0) == Some(0) && u32_at(node, 12) == Some(len) {
            let copy = self.memory.bytes(copy)?;
            copy_at(copy, hdr::SETUP_DATA, &addr.to_le_bytes())?;
        }
        Ok(())
    }

    /// Claims the memory of a bzImage: where it is loaded, and where it runs
    /// until it has read the memory map.
    pub(super) fn claim_bzimage(&mut self, header: &SetupHeader<'_>) -> Result<Claim> {
        // The item, not the header's syssize: QEMU appends setup_data
        // (`-dtb`, a random seed) behind the code, and a file may be short.
        let size = self.fw_cfg.read_u32_inline(item::KERNEL_SIZE)?;
        let load = PhysRange::new(layout::HIGH_RAM, size).ok_or(Error::KernelTooBig)?;
        let mut end = load.end();
        // Linux moves itself to the higher of its preferred address and its
        // load address, aligned, and needs init_size bytes there.
        if let Some((pref_address, init_size)) = header.runtime()? {
            let pref = u32::try_from(pref_address).map_err(|_| Error::BadSetupHeader)?;
            let align = header.kernel_alignment()?;
            let start = align_up(load.start(), align)
                .ok_or(Error::BadSetupHeader)?
                .max(pref);
            match start.checked_add(init_size) {
                Some(run_end) => end = end.max(run_end),
                None => return self.short(Error::KernelTooBig, init_size, self.map.high()),
            }
        }
        let whole = PhysRange::between(load.start(), end).ok_or(Error::KernelTooBig)?;
        match self.map.claim(whole).and_then(|claim| claim.narrow(load)) {
            Some(claim) => Ok(claim),
            None => self.short(Error::KernelTooBig, whole.len(), self.map.high()),
        }
    }

    /// Holds a segment that QEMU has loaded.
    pub(super) fn hold_segment(&mut self, range: PhysRange) -> Result<()> {
        if self.map.hold(range).is_some() {
            Ok(())
        } else if range.start() < layout::HIGH_RAM {
            Err(Error::KernelOverlapsFirmware)
        } else {
            self.short(Error::KernelTooBig, range.len(), self.map.high())
        }
    }

    /// Reads the command line of at most `limit` bytes to a place of its
    /// own in low memory, with `zeroes` zero bytes behind it. Gives the
    /// place and the line's share of it.
    #[inline(always)]
    pub(super) fn read_command_line(
        &mut self,
        limit: u32,
        zeroes: u32,
    ) -> Result<(PhysRange, u32)> {
        let line_len = align_up(limit.saturating_add(1), 16).ok_or(Error::CommandLineTooLong)?;
        let len = line_len.saturating_add(zeroes);
        let block = self
            .map
            .place_low(len, 16)
            .ok_or(Error::KernelOverlapsFirmware)?
            .range();
        let bytes = self.memory.bytes_inline(block)?;
        self.fw_cfg.read_inline(item::CMDLINE_DATA, bytes)?;
        // The line fits exactly where the byte that must be its NUL, or lie
        // behind the item's end, is zero.
        if bytes.get(limit as usize) == Some(&0) {
            Ok((block, line_len))
        } else {
            Err(Error::CommandLineTooLong)
        }
    }

    /// A place of its own for `start_info`, zeroed: the map has more entries than
    /// there is room for behind the command line.
    #[cold]
    #[inline(never)]
    pub(super) fn place_start_info(&mut self) -> Result<Option<PhysRange>> {
        let len = StartInfo::block_len(self.map.entries().len());
        let claim = self.map.place_low(len, 16);
        let block = claim.ok_or(Error::KernelOverlapsFirmware)?.range();
        self.memory.clear(block)?;
        Ok(Some(block))
    }

    /// Places and loads the initrd, if there is one: as high as it may go,
    /// its last byte at most at `last`.
    pub(super) fn load_initrd(&mut self, last: u32, anywhere: bool) -> Result<Option<PhysRange>> {
        let size = self.fw_cfg.read_u32_inline(item::INITRD_SIZE)?;
        if size == 0 {
            return Ok(None);
        }
        let high = self.map.high();
        // Not `clamp`, which panics where the bounds are the wrong way round.
        let end = last.saturating_add(1).min(high.end()).max(high.start());
        let below = PhysRange::between(high.start(), end).ok_or(Error::InitrdTooBig)?;
        let mut claim = self.map.place(size, 4096, below);
        if claim.is_none() && anywhere {
            // Linux names 2 GiB only out of caution: a kernel that can be
            // loaded above 4 GiB takes its initrd anywhere.
            claim = self.map.place(size, 4096, high);
        }
        let Some(claim) = claim else {
            return self.short(Error::InitrdTooBig, size, below);
        };
        let range = claim.range();
        self.load_item(item::INITRD_DATA, &claim)?;
        Ok(Some(range))
    }

    /// Loads an item to the memory that was claimed for it.
    pub(super) fn load_item(&mut self, selector: u16, to: &Claim) -> Result<()> {
        let whole = to.range();
        let first = whole
            .part(0, whole.len().min(PIECE))
            .ok_or(Error::NotOurMemory)?;
        self.fw_cfg
            .read_inline(selector, self.memory.bytes_inline(first)?)?;
        self.load_next(whole, first.len())
    }

    /// Reads on in the selected item to fill `whole` from offset `done` on.
    pub(super) fn load_next(&mut self, whole: PhysRange, mut done: u32) -> Result<()> {
        while done < whole.len() {
            let len = whole.len().saturating_sub(done).min(PIECE);
            let piece = whole.part(done, len).ok_or(Error::NotOurMemory)?;
            self.fw_cfg.read_next(self.memory.bytes(piece)?)?;
            done = done.saturating_add(len);
        }
        Ok(())
    }

    /// `error`, with how much was needed and how much there was in `within`.
    #[cold]
    pub(super) fn short<T>(&mut self, error: Error, need: u32, within: PhysRange) -> Result<T> {
        *self.shortfall = Shortfall {
            need_kib: kib(need),
            have_kib: self.map.largest_free(within) >> 10,
        };
        Err(error)
    }
}
