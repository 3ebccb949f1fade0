//! The kernel: what it is, what it claims of memory, how it is loaded and
//! what it is handed.
//!
//! Two steps, because the tables come between them: [`Kernel::claim`] takes
//! the memory that the image dictates and reads the command line, which
//! decides about PCI; [`Kernel::load`] moves the bytes once everything else
//! has its place.

mod loader;
mod multiboot;
mod realmode;

use crate::bzimage::{LoadFlags, SetupHeader, XLoadFlags, ZERO_PAGE_LEN, ZeroPage};
use crate::e820::{Claim, MemoryMap};
use crate::error::{Error, Result, Shortfall};
use crate::fw_cfg::{FwCfg, item};
use crate::layout;
use crate::options::EntryOption;
use crate::phys::{GuestMemory, PhysRange};
use crate::policy::Guest;
use crate::pvh::{Elf, StartInfo, guest_by_remains};

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
        /// What its notes say, and its headers.
        guest: Guest,
        /// From the first to the last byte that QEMU has loaded.
        span: PhysRange,
        /// Its headers, where QEMU still has them.
        elf: Option<Elf<'a>>,
    },
    /// A multiboot kernel with its modules.
    Multiboot(crate::multiboot::Image),
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

/// How the kernel is entered: flat 32-bit segments, paging off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handoff {
    /// Linux's 32-bit boot protocol.
    Linux {
        /// First instruction.
        entry: u32,
        /// Zero page, for ESI.
        boot_params: u32,
    },
    /// PVH.
    Pvh {
        /// First instruction.
        entry: u32,
        /// `start_info`, for EBX.
        start_info: u32,
    },
    /// Multiboot 1.
    Multiboot {
        /// First instruction.
        entry: u32,
        /// Information block, for EBX.
        info: u32,
    },
    /// Linux's 16-bit boot protocol.
    RealMode {
        /// Segment of boot sector and setup code.
        segment: u16,
        /// Stack pointer in it.
        stack: u16,
        /// A zImage, to be moved to [`crate::realmode::LOW_KERNEL`].
        low_kernel: Option<PhysRange>,
    },
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
/// Map entries that there is room for behind the command line: few machines have
/// more, and line and `start_info` share a page then.
const USUAL_ENTRIES: usize = 32;
/// Linux's own limit (`COMMAND_LINE_SIZE` less its NUL), which a vmlinux
/// does not tell.
const LINUX_COMMAND_LINE: u32 = 2047;

impl<'a> Kernel<'a> {
    /// Reads the kernel's first bytes into `scratch` and tells what it is;
    /// gives back the rest of `scratch`.
    ///
    /// # Errors
    /// Why nothing of it can be booted.
    #[inline(never)]
    #[expect(
        clippy::too_many_lines,
        reason = "one decision after the other, each on what the last one read"
    )]
    pub fn identify<F: FwCfg, M: GuestMemory>(
        fw_cfg: &mut F,
        memory: &mut M,
        scratch: &'a mut [u8],
    ) -> Result<(Self, &'a mut [u8])> {
        let first = scratch.get_mut(..HEADER_READ).ok_or(Error::TooManyFiles)?;
        fw_cfg.read_inline(item::SETUP_DATA, first)?;
        let is_elf = Elf::is_elf(first);
        // What follows uses the next bytes, mostly of the same page.
        let mut read = HEADER_READ;
        if is_elf && !Elf::has_headers(first) {
            let more = scratch.get_mut(..ELF_READ).ok_or(Error::TooManyFiles)?;
            fw_cfg.read(item::SETUP_DATA, more)?;
            read = ELF_READ;
        }
        let (header, rest) = scratch
            .split_at_mut_checked(read)
            .ok_or(Error::TooManyFiles)?;
        let header: &'a [u8] = header;
        if !is_elf && let Some(setup) = SetupHeader::find(header) {
            return if setup.is_32bit_entry() {
                Ok((Self::Linux(setup), rest))
            } else if setup.is_cut() {
                Err(Error::BadSetupHeader)
            } else {
                Ok((Self::RealMode(setup), rest))
            };
        }
        // QEMU before 8.0 gives an ELF file's first bytes from a stack frame
        // that it has left: the set-up of other devices may have written over
        // them (virtio-net does). Its other items say what it found in the
        // file, and the size tells which headers are to be believed.
        let size = fw_cfg.read_u32_inline(item::KERNEL_SIZE)?;
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
                guest: elf.guest(notes),
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
                    guest: guest_by_remains(first, span, entry, memory),
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

    /// Who this is. Linux is a bzImage with a compressed payload (others use
    /// the format without one), or an ELF whose notes say so.
    #[inline(never)]
    #[must_use]
    pub fn guest(&self) -> Guest {
        match self {
            Self::Linux(header) | Self::RealMode(header) => match header.payload() {
                Some(_) if header.is_32bit() => Guest::Linux32,
                Some(_) => Guest::Linux,
                None => Guest::Other,
            },
            Self::Elf { guest, .. } => *guest,
            Self::Multiboot(_) => Guest::Other,
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
                guest,
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
                let limit = if *guest != Guest::Other {
                    LINUX_COMMAND_LINE
                } else {
                    MAX_COMMAND_LINE
                };
                // `start_info` lies behind the line, in bytes that are zero.
                let room = StartInfo::block_len(USUAL_ENTRIES);
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
                let setup_data = ZeroPage {
                    header: *header,
                    code32_start: entry,
                    cmd_line_ptr: line,
                    ramdisk_image: initrd.map_or(0, PhysRange::start),
                    ramdisk_size: initrd.map_or(0, PhysRange::len),
                    acpi_rsdp_addr: rsdp,
                    e820: loader.map.entries(),
                    high_ram_end: loader.map.high_ram_end(),
                }
                .write(loader.memory.bytes_inline(page)?)?;
                if setup_data != 0 {
                    loader.correct_setup_data(setup_data, header, loaded, page)?;
                }
                Ok(Handoff::Linux {
                    entry,
                    boot_params: page.start(),
                })
            }
            Self::Elf { entry, .. } => {
                let initrd = loader.load_initrd(u32::MAX, true)?;
                let mut info = claimed.block.behind(claimed.line_len);
                if loader.map.entries().len() > USUAL_ENTRIES {
                    info = loader.place_start_info()?;
                }
                let info = info.ok_or(Error::NotOurMemory)?;
                let (entry, start_info) = (*entry, info.start());
                StartInfo {
                    cmdline_paddr: line,
                    initrd,
                    rsdp_paddr: rsdp,
                    e820: loader.map.entries(),
                }
                .write(loader.memory.bytes_inline(info)?, start_info)?;
                Ok(Handoff::Pvh { entry, start_info })
            }
            Self::RealMode(header) => loader.load_real_mode(header, claimed),
            Self::Multiboot(image) => loader.load_multiboot(image, claimed),
        }
    }
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
    match crate::multiboot::Image::find(fw_cfg, size)? {
        Some(image) => Ok(Kernel::Multiboot(image)),
        None => Err(Error::UnknownKernel),
    }
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
        Ok(memory.bytes_inline(line)?)
    }
}
