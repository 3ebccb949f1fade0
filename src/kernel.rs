//! The kernel: what it is, what it claims of memory, how it is loaded and
//! what it is handed.
//!
//! Two steps, because the tables come between them: [`Kernel::claim`] takes
//! the memory that the image dictates and reads the command line, which
//! decides about PCI; [`Kernel::load`] moves the bytes once everything else
//! has its place.

use crate::boot::Handoff;
use crate::bzimage::{LoadFlags, RealModeHeader, SetupHeader, XLoadFlags, ZERO_PAGE_LEN, ZeroPage};
use crate::e820::{Claim, MAX_ENTRIES, MemoryMap};
use crate::error::{Error, Result, Shortfall};
use crate::fw_cfg::{FwCfg, item};
use crate::layout;
use crate::multiboot;
use crate::phys::{GuestMemory, PhysRange, align_up, kib};
use crate::policy::EntryOption;
use crate::pvh::{Elf, StartInfo, is_linux_by_remains};
use crate::realmode::{self, LOW_KERNEL, STACK_LEN, SetupLayout};

/// The seams and the map, borrowed for loading.
#[derive(Debug)]
pub struct Loader<'a, F, M> {
    /// Configuration device.
    pub fw_cfg: &'a mut F,
    /// Memory that may be used.
    pub memory: &'a mut M,
    /// Who has what.
    pub map: &'a mut MemoryMap,
    /// Sizes for the message of an error about room.
    pub shortfall: &'a mut Shortfall,
}

/// A kernel, identified by its first bytes.
#[derive(Debug)]
pub enum Kernel<'a> {
    /// A bzImage.
    Linux(SetupHeader<'a>),
    /// A bzImage or zImage that is entered at its 16-bit code.
    RealMode(SetupHeader<'a>),
    /// An ELF image that QEMU has loaded for PVH.
    Elf {
        /// Its 32-bit entry point.
        entry: u32,
        /// Whether its notes say Linux.
        is_linux: bool,
        /// From the first to the last byte that QEMU has loaded.
        span: PhysRange,
        /// Its headers, where QEMU still has them.
        elf: Option<Elf<'a>>,
    },
    /// A multiboot kernel with its modules.
    Multiboot(multiboot::Image),
}

/// What [`Kernel::claim`] has taken.
#[derive(Debug)]
pub struct Claimed {
    /// Where the image goes; `None` where QEMU has loaded it.
    image: Option<Claim>,
    /// The command line and, zeroed behind it, the room for a bzImage's zero
    /// page or an ELF's `start_info`.
    block: PhysRange,
    /// Bytes of the command line's part, NUL and padding included.
    line_len: u32,
}

/// Bytes of a kernel image that are read to see what it is: longer than any
/// setup header, and enough for an ordinary ELF's program headers.
const HEADER_READ: usize = 1024;
/// Bytes that QEMU keeps of an ELF kernel.
const ELF_READ: usize = 8192;
/// The same as `item::SETUP_SIZE` gives it; multiboot kernels have none.
const ELF_SETUP_SIZE: u32 = 8192;
/// The longest command line that is taken from a kernel that names no limit.
const MAX_COMMAND_LINE: u32 = 0xffff;
/// Linux's own limit (`COMMAND_LINE_SIZE` less its NUL), which a vmlinux
/// does not tell.
const LINUX_COMMAND_LINE: u32 = 2047;
/// The longest command line for 16-bit code: what its segment has room for
/// behind heap and stack.
const MAX_REAL_MODE_LINE: u32 = 0x1fff;
/// Bytes of a sector, which `setup_sects` counts in.
const SECTOR: u32 = 512;
/// No wrong `setup_sects` moves the code by more bytes.
const MAX_MOVE: u32 = 255 * SECTOR;
/// Slices are at most `isize::MAX` bytes; longer loads go in pieces.
const PIECE: u32 = 1 << 30;

impl<'a> Kernel<'a> {
    /// Reads the kernel's first bytes into `scratch` and tells what it is;
    /// gives back the rest of `scratch`.
    ///
    /// # Errors
    /// Why nothing of it can be booted.
    #[inline(never)]
    pub fn identify<F: FwCfg, M: GuestMemory>(
        fw_cfg: &mut F,
        memory: &mut M,
        scratch: &'a mut [u8],
    ) -> Result<(Self, &'a mut [u8])> {
        let (header, rest) = scratch
            .split_at_mut_checked(ELF_READ)
            .ok_or(Error::TooManyFiles)?;
        let first = header.get_mut(..HEADER_READ).ok_or(Error::NotOurMemory)?;
        fw_cfg.read(item::SETUP_DATA, first)?;
        let is_elf = Elf::is_elf(first);
        if is_elf {
            if Elf::parse(first).is_none() {
                fw_cfg.read(item::SETUP_DATA, header)?;
            }
        } else if SetupHeader::find(first).is_some() {
            let header: &'a [u8] = header;
            let setup = header.get(..HEADER_READ).and_then(SetupHeader::find);
            let setup = setup.ok_or(Error::NotOurMemory)?;
            return if setup.is_32bit_entry() {
                Ok((Self::Linux(setup), rest))
            } else if setup.is_cut() {
                Err(Error::BadSetupHeader)
            } else {
                Ok((Self::RealMode(setup), rest))
            };
        }
        let header: &'a [u8] = header;
        // QEMU before 8.0 gives an ELF file's first bytes from a stack frame
        // that it has left: the set-up of other devices may have written over
        // them (virtio-net does). Its other items say what it found in the
        // file, and the size tells which headers are to be believed.
        let size = fw_cfg.read_u32(item::KERNEL_SIZE)?;
        let elf = if is_elf { Elf::parse(header) } else { None };
        if let Some(elf) = elf
            && elf.span().len() == size
        {
            let span = elf.span();
            let notes = elf.notes(memory);
            // The notes may lie outside what is loaded.
            let entry = match notes.entry {
                Some(entry) => entry,
                None => fw_cfg.read_u32(item::KERNEL_ENTRY)?,
            };
            let kernel = Self::Elf {
                entry,
                is_linux: notes.is_linux,
                span,
                elf: Some(elf),
            };
            return match entry {
                0 => Err(Error::ElfWithoutPvh),
                _ => Ok((kernel, rest)),
            };
        }
        // Multiboot kernels have an entry too, but no setup data.
        let entry = match fw_cfg.read_u32(item::SETUP_SIZE)? {
            ELF_SETUP_SIZE => fw_cfg.read_u32(item::KERNEL_ENTRY)?,
            _ => 0,
        };
        match entry {
            0 if is_elf => Err(Error::ElfWithoutPvh),
            0 => Ok((other(fw_cfg, header, size)?, rest)),
            _ => {
                let start = fw_cfg.read_u32(item::KERNEL_ADDR)?;
                let span = PhysRange::new(start, size).ok_or(Error::KernelTooBig)?;
                let first = header.get(..HEADER_READ).unwrap_or(header);
                let kernel = Self::Elf {
                    entry,
                    is_linux: is_linux_by_remains(first, span, entry, memory),
                    span,
                    elf: None,
                };
                Ok((kernel, rest))
            }
        }
    }

    /// Has the kernel entered as the user has asked for it.
    ///
    /// # Errors
    /// [`Error::Needs16BitEntry`] when it cannot be entered in 32-bit mode.
    #[cold]
    #[inline(never)]
    pub fn enter_as(&mut self, option: EntryOption) -> Result<()> {
        match (&*self, option) {
            (Self::Linux(header), EntryOption::Bits16) => *self = Self::RealMode(*header),
            (Self::RealMode(header), EntryOption::Bits32) => {
                if !header.loadflags().contains(LoadFlags::LOADED_HIGH) {
                    return Err(Error::Needs16BitEntry);
                }
                *self = Self::Linux(*header);
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether this is Linux: a bzImage with a compressed payload (others
    /// use the format without one), or an ELF whose notes say so.
    #[inline(always)]
    #[must_use]
    pub fn is_linux(&self) -> bool {
        match self {
            Self::Linux(header) | Self::RealMode(header) => header.payload().is_some(),
            Self::Elf { is_linux, .. } => *is_linux,
            Self::Multiboot(_) => false,
        }
    }

    /// Claims the memory that the image dictates, and reads the command line.
    ///
    /// # Errors
    /// [`Error::KernelTooBig`], [`Error::KernelOverlapsFirmware`],
    /// [`Error::CommandLineTooLong`], [`Error::Needs16BitEntry`].
    #[inline(never)]
    pub fn claim<F: FwCfg, M: GuestMemory>(
        &self,
        loader: &mut Loader<'_, F, M>,
    ) -> Result<Claimed> {
        match self {
            Self::Linux(header) => {
                let image = loader.claim_bzimage(header)?;
                let limit = header.cmdline_size().min(MAX_COMMAND_LINE);
                // A transfer past an item's end gives zeroes: the one that
                // reads the command line also clears the zero page behind it.
                let (block, line_len) = loader.read_command_line(limit, ZERO_PAGE_LEN)?;
                Ok(Claimed {
                    image: Some(image),
                    block,
                    line_len,
                })
            }
            Self::Elf {
                entry,
                is_linux,
                span,
                elf,
            } => {
                // The whole span covers every segment, whatever became of its
                // header; only a kernel with a part in low memory has
                // something of others' between its segments.
                match elf {
                    Some(elf) if span.start() < layout::HIGH_RAM => {
                        elf.loaded(|range| loader.hold_segment(range))?;
                    }
                    _ => loader.hold_segment(*span)?,
                }
                if !loader.map.is_claimed(*entry) {
                    return Err(Error::ElfWithoutPvh);
                }
                let limit = if *is_linux {
                    LINUX_COMMAND_LINE
                } else {
                    MAX_COMMAND_LINE
                };
                // `start_info` lies behind the line, in bytes that are zero.
                let room = StartInfo::block_len(MAX_ENTRIES);
                let (block, line_len) = loader.read_command_line(limit, room)?;
                Ok(Claimed {
                    image: None,
                    block,
                    line_len,
                })
            }
            Self::RealMode(header) => loader.claim_real_mode(header),
            Self::Multiboot(image) => loader.claim_multiboot(image),
        }
    }

    /// Loads what is left to load and fills in what the kernel is handed.
    /// `rsdp` is the RSDP's address, 0 without one.
    ///
    /// # Errors
    /// [`Error::InitrdTooBig`], [`Error::KernelTruncated`].
    #[inline(never)]
    pub fn load<F: FwCfg, M: GuestMemory>(
        &self,
        claimed: &Claimed,
        rsdp: u32,
        loader: &mut Loader<'_, F, M>,
    ) -> Result<Handoff> {
        let line = claimed.block.start();
        match self {
            Self::Linux(header) => {
                // QEMU fills the field in: no initrd costs no access.
                let initrd = match header.ramdisk_size() {
                    0 => None,
                    _ => loader.load_initrd(
                        header.initrd_addr_max(),
                        header
                            .xloadflags()
                            .contains(XLoadFlags::CAN_BE_LOADED_ABOVE_4G),
                    )?,
                };
                let image = claimed.image.as_ref().ok_or(Error::NotOurMemory)?;
                let entry = image.range().start();
                let loaded = image.range();
                loader.load_item(item::KERNEL_DATA, image)?;
                loader.check_whole(header, loaded)?;
                let page = claimed
                    .block
                    .part(claimed.line_len, ZERO_PAGE_LEN)
                    .ok_or(Error::NotOurMemory)?;
                ZeroPage {
                    header: *header,
                    code32_start: entry,
                    cmd_line_ptr: line,
                    ramdisk_image: initrd.map_or(0, PhysRange::start),
                    ramdisk_size: initrd.map_or(0, PhysRange::len),
                    acpi_rsdp_addr: rsdp,
                    e820: loader.map.entries(),
                    high_ram_end: loader.map.high().end(),
                }
                .write(loader.memory.bytes(page)?)?;
                Ok(Handoff::Linux {
                    entry,
                    boot_params: page.start(),
                })
            }
            Self::Elf { entry, .. } => {
                let initrd = loader.load_initrd(u32::MAX, true)?;
                let len = StartInfo::block_len(loader.map.entries().len());
                let info = claimed.block.part(claimed.line_len, len);
                let info = info.ok_or(Error::NotOurMemory)?;
                StartInfo {
                    cmdline_paddr: line,
                    initrd,
                    rsdp_paddr: rsdp,
                    e820: loader.map.entries(),
                }
                .write(loader.memory.bytes(info)?, info.start())?;
                Ok(Handoff::Pvh {
                    entry: *entry,
                    start_info: info.start(),
                })
            }
            Self::RealMode(header) => loader.load_real_mode(header, claimed),
            Self::Multiboot(image) => loader.load_multiboot(image, claimed),
        }
    }
}

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

/// An image whose first bytes say nothing: multiboot, whose setup data QEMU
/// leaves out, or why it is none that we boot.
#[cold]
#[inline(never)]
fn other<'a, F: FwCfg>(fw_cfg: &mut F, header: &[u8], size: u32) -> Result<Kernel<'a>> {
    if header.starts_with(b"MZ") {
        return Err(Error::KernelIsPe);
    }
    if size == 0 {
        return Err(Error::NoKernel);
    }
    match multiboot::Image::find(fw_cfg, size)? {
        Some(image) => Ok(Kernel::Multiboot(image)),
        None => Err(Error::UnknownKernel),
    }
}

fn real_mode_layout(header: &SetupHeader<'_>) -> SetupLayout {
    let loaded_high = header.loadflags().contains(LoadFlags::LOADED_HIGH);
    SetupLayout::new(header.protocol(), loaded_high)
}

/// Bytes of boot sector and setup code.
fn real_mode_setup_len(header: &SetupHeader<'_>) -> u32 {
    u32::from(header.setup_sects())
        .saturating_add(1)
        .saturating_mul(SECTOR)
}

impl Claimed {
    /// Where the image goes; `None` where QEMU has loaded it.
    #[must_use]
    pub fn image(&self) -> Option<PhysRange> {
        self.image.as_ref().map(Claim::range)
    }

    /// The command line, up to its NUL.
    ///
    /// # Errors
    /// [`Error::NotOurMemory`] if the block is none of ours.
    #[inline(always)]
    pub fn command_line<'m, M: GuestMemory>(&self, memory: &'m mut M) -> Result<&'m [u8]> {
        let line = self
            .block
            .part(0, self.line_len)
            .ok_or(Error::NotOurMemory)?;
        Ok(memory.bytes(line)?)
    }
}

impl<F: FwCfg, M: GuestMemory> Loader<'_, F, M> {
    /// Whether what was loaded is what the header describes.
    ///
    /// QEMU splits the file where `setup_sects` says. Where that is wrong, the
    /// entry is in the middle of something, and the compressed kernel is not
    /// at its place but whole sectors away. An image that is shorter than its
    /// header says is cut short if it holds the start of a compressed kernel.
    /// Without one, the code is somebody's own behind another kernel's header.
    // Not so cold, but small: so the compiler keeps it out of everyone's way.
    #[cold]
    #[inline(never)]
    fn check_whole(&mut self, header: &SetupHeader<'_>, loaded: PhysRange) -> Result<()> {
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
        if missing > MAX_MOVE {
            return Ok(());
        }
        self.check_split(header, loaded, offset)
    }

    /// Looks for a compressed kernel in the wrong place: in the code or, where
    /// `setup_sects` is too large, behind the setup code.
    #[cold]
    #[inline(never)]
    fn check_split(
        &mut self,
        header: &SetupHeader<'_>,
        loaded: PhysRange,
        offset: u32,
    ) -> Result<()> {
        if is_moved(self.memory.bytes(loaded)?, offset) {
            return Err(Error::BadSetupHeader);
        }
        // The only memory that is free for it is the code's own.
        let setup_len = real_mode_setup_len(header).min(loaded.len());
        let setup = loaded.part(0, setup_len).ok_or(Error::NotOurMemory)?;
        let bytes = self.memory.bytes(setup)?;
        self.fw_cfg.read(item::SETUP_DATA, bytes)?;
        if is_moved(bytes, offset) {
            return Err(Error::BadSetupHeader);
        }
        self.fw_cfg.read(item::KERNEL_DATA, bytes)
    }

    /// Claims the memory of a bzImage: where it is loaded, and where it runs
    /// until it has read the memory map.
    fn claim_bzimage(&mut self, header: &SetupHeader<'_>) -> Result<Claim> {
        // The item, not the header's syssize: QEMU appends setup_data
        // (`-dtb`, a random seed) behind the code, and a file may be short.
        let size = self.fw_cfg.read_u32(item::KERNEL_SIZE)?;
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
    fn hold_segment(&mut self, range: PhysRange) -> Result<()> {
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
    fn read_command_line(&mut self, limit: u32, zeroes: u32) -> Result<(PhysRange, u32)> {
        let line_len = align_up(limit.saturating_add(1), 16).ok_or(Error::CommandLineTooLong)?;
        let len = line_len.saturating_add(zeroes);
        let block = self
            .map
            .place_low(len, 16)
            .ok_or(Error::KernelOverlapsFirmware)?
            .range();
        let bytes = self.memory.bytes(block)?;
        self.fw_cfg.read(item::CMDLINE_DATA, bytes)?;
        // The line fits exactly where the byte that must be its NUL, or lie
        // behind the item's end, is zero.
        if bytes.get(limit as usize) == Some(&0) {
            Ok((block, line_len))
        } else {
            Err(Error::CommandLineTooLong)
        }
    }

    /// Places and loads the initrd, if there is one: as high as it may go,
    /// its last byte at most at `last`.
    fn load_initrd(&mut self, last: u32, anywhere: bool) -> Result<Option<PhysRange>> {
        let size = self.fw_cfg.read_u32(item::INITRD_SIZE)?;
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

    /// Claims the memory of a kernel that is entered at its 16-bit code, and
    /// reads the command line to the end of that code's segment.
    #[cold]
    #[inline(never)]
    fn claim_real_mode(&mut self, header: &SetupHeader<'_>) -> Result<Claimed> {
        let setup = real_mode_layout(header);
        let len = real_mode_setup_len(header);
        if len > u32::from(setup.heap_end.saturating_sub(STACK_LEN)) {
            return Err(Error::Needs16BitEntry);
        }
        let limit = header.cmdline_size().min(MAX_REAL_MODE_LINE);
        let line_len = limit.saturating_add(1);
        let whole = u32::from(setup.heap_end).saturating_add(line_len);
        let segment = PhysRange::new(setup.base, whole).and_then(|range| self.map.claim(range));
        let segment = segment.ok_or(Error::Needs16BitEntry)?.range();
        let block = segment
            .part(u32::from(setup.heap_end), line_len)
            .ok_or(Error::NotOurMemory)?;
        let line = self.memory.bytes(block)?;
        self.fw_cfg.read(item::CMDLINE_DATA, line)?;
        if line.last() != Some(&0) {
            return Err(Error::CommandLineTooLong);
        }
        let image = if setup.is_low {
            self.claim_low_kernel(header)?
        } else {
            self.claim_bzimage(header)?
        };
        Ok(Claimed {
            image: Some(image),
            block,
            line_len,
        })
    }

    /// Claims high memory for a zImage, which can only move to its place when
    /// the firmware is done with the memory there, and that place.
    #[cold]
    #[inline(never)]
    fn claim_low_kernel(&mut self, header: &SetupHeader<'_>) -> Result<Claim> {
        // Its setup code would jump to where nothing is loaded.
        if header.code32_start() >= layout::HIGH_RAM {
            return Err(Error::BadSetupHeader);
        }
        for part in [layout::LOW_FREE, layout::LOW_FREE_TOP] {
            let start = part.start().max(LOW_KERNEL.start());
            let part = PhysRange::between(start, part.end().min(LOW_KERNEL.end()));
            let part = part.and_then(|part| self.map.claim(part));
            part.ok_or(Error::Needs16BitEntry)?;
        }
        let size = self.fw_cfg.read_u32(item::KERNEL_SIZE)?;
        let high = self.map.high();
        match self.map.place(size, 16, high) {
            Some(claim) if size <= LOW_KERNEL.len() => Ok(claim),
            _ => self.short(Error::KernelTooBig, size, LOW_KERNEL),
        }
    }

    #[cold]
    #[inline(never)]
    fn load_real_mode(&mut self, header: &SetupHeader<'_>, claimed: &Claimed) -> Result<Handoff> {
        let setup = real_mode_layout(header);
        let initrd = match header.ramdisk_size() {
            0 => None,
            _ => self.load_initrd(header.initrd_addr_max(), false)?,
        };
        let image = claimed.image.as_ref().ok_or(Error::NotOurMemory)?;
        let loaded = image.range();
        let low_kernel = setup.is_low.then_some(loaded);
        self.load_item(item::KERNEL_DATA, image)?;
        self.check_whole(header, loaded)?;
        let code = PhysRange::new(setup.base, real_mode_setup_len(header));
        let code = self.memory.bytes(code.ok_or(Error::NotOurMemory)?)?;
        self.fw_cfg.read(item::SETUP_DATA, code)?;
        RealModeHeader {
            base: setup.base,
            heap_end: setup.heap_end,
            stack_len: STACK_LEN,
            line_len: u16::try_from(claimed.line_len).map_err(|_| Error::CommandLineTooLong)?,
            ramdisk: initrd.map_or((0, 0), |range| (range.start(), range.len())),
        }
        .write(header.protocol(), code)?;
        self.write_ebda()?;
        Ok(Handoff::RealMode {
            segment: u16::try_from(setup.base >> 4).map_err(|_| Error::NotOurMemory)?,
            stack: setup.heap_end,
            low_kernel,
        })
    }

    #[cold]
    fn write_ebda(&mut self) -> Result<()> {
        realmode::write_ebda(self.memory, self.map.entries())
    }

    /// Claims the memory of a multiboot kernel and its modules.
    #[cold]
    #[inline(never)]
    fn claim_multiboot(&mut self, image: &multiboot::Image) -> Result<Claimed> {
        let Some(claim) = self.map.claim(image.load) else {
            return if image.load.start() < layout::HIGH_RAM {
                Err(Error::KernelOverlapsFirmware)
            } else {
                self.short(Error::KernelTooBig, image.load.len(), self.map.high())
            };
        };
        Ok(Claimed {
            image: Some(claim),
            // The command line comes with the image.
            block: PhysRange::fixed(layout::LOW_FREE.start(), layout::LOW_FREE.start()),
            line_len: 0,
        })
    }

    #[cold]
    #[inline(never)]
    fn load_multiboot(&mut self, image: &multiboot::Image, claimed: &Claimed) -> Result<Handoff> {
        let claim = claimed.image.as_ref().ok_or(Error::NotOurMemory)?;
        let head = self.map.place_low(image.head, 16);
        let head = head.ok_or(Error::KernelOverlapsFirmware)?.range();
        let bytes = self.memory.bytes(head)?;
        self.fw_cfg.read(item::KERNEL_DATA, bytes)?;
        if image.head != 0 && !Elf::is_elf(bytes) {
            return Err(Error::KernelOverlapsFirmware);
        }
        self.load_next(claim.range(), 0)?;
        let mut draft = [0; multiboot::INFO_LEN as usize];
        self.fw_cfg.read(item::INITRD_DATA, &mut draft)?;
        let bytes = self
            .memory
            .bytes(image.load)
            .map_err(|_| Error::KernelTooBig)?;
        let draft = multiboot::Draft::check(&draft, image.load, bytes)?;
        let len = multiboot::Info::block_len(self.map.entries().len());
        let block = self.map.place_low(len, 16);
        let info = block.ok_or(Error::KernelOverlapsFirmware)?.range();
        multiboot::Info {
            draft,
            e820: self.map.entries(),
        }
        .write(self.memory.bytes(info)?, info.start())?;
        // It may go back to real mode: Xen does.
        self.write_ebda()?;
        Ok(Handoff::Multiboot {
            entry: image.entry,
            info: info.start(),
        })
    }

    /// Loads an item to the memory that was claimed for it.
    fn load_item(&mut self, selector: u16, to: &Claim) -> Result<()> {
        let whole = to.range();
        let first = whole
            .part(0, whole.len().min(PIECE))
            .ok_or(Error::NotOurMemory)?;
        self.fw_cfg.read(selector, self.memory.bytes(first)?)?;
        self.load_next(whole, first.len())
    }

    /// Reads on in the selected item to fill `whole` from offset `done` on.
    fn load_next(&mut self, whole: PhysRange, mut done: u32) -> Result<()> {
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
    fn short<T>(&mut self, error: Error, need: u32, within: PhysRange) -> Result<T> {
        *self.shortfall = Shortfall {
            need_kib: kib(need),
            have_kib: self.map.largest_free(within) >> 10,
        };
        Err(error)
    }
}
