//! The kernel: its format, its memory, loading, and the handoff.
//!
//! A format is one file with two functions, a branch of [`Kernel::claim`], and an arm in
//! each other function here. `claim` claims the memory that the image dictates, and reads
//! the command line, which decides about PCI. `load` loads the kernel, after the tables
//! have their place.

pub mod bzimage;
pub mod elf;
mod image;
mod load;
pub mod multiboot;
pub mod payload;
pub mod pvh;
pub mod realmode;
pub mod setup_header;
mod uki;

pub use image::Image;
pub use load::Loader;

use crate::error::{Error, Result};
use crate::fw_cfg::item;
use crate::phys::PhysRange;
use crate::platform::Platform;
use crate::settings::options::EntryOption;
use crate::settings::policy::Guest;
use bzimage::BzImage;
use elf::Elf;
use multiboot::Multiboot;
use pvh::Pvh;
use realmode::RealMode;
use setup_header::{Entry, SetupHeader};

/// A kernel that has been identified and has its memory.
#[derive(Debug)]
pub enum Kernel<'a> {
    /// A bzImage that is entered at its 32-bit code.
    BzImage(BzImage<'a>),
    /// A bzImage or zImage that is entered at its 16-bit code.
    RealMode(RealMode<'a>),
    /// An ELF image that QEMU has loaded for PVH.
    Pvh(Pvh),
    /// A multiboot kernel with its modules.
    Multiboot(Multiboot),
}

/// How the kernel is entered: in real mode, or with flat 32-bit segments and paging off.
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
        /// A zImage, to be moved to [`realmode::LOW_KERNEL`].
        low_kernel: Option<PhysRange>,
    },
}

/// A kernel that can be entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// How it is entered.
    pub handoff: Handoff,
    /// Where the initrd lies; empty without one.
    pub initrd: PhysRange,
}

/// Bytes of a kernel image that are read to identify it: more than any setup header,
/// and enough for the program headers of an ordinary ELF file.
const FIRST_READ: usize = 1024;

impl<'a> Kernel<'a> {
    /// Identifies the kernel by its first bytes, claims the memory that the image
    /// dictates, and reads the command line. `option` chooses the entry of a bzImage.
    /// Returns the rest of `scratch` too.
    ///
    /// # Errors
    /// Why the kernel cannot be booted.
    pub fn claim<P: Platform>(
        loader: &mut Loader<'_, P>,
        option: EntryOption,
        scratch: &'a mut [u8],
    ) -> Result<(Self, &'a mut [u8])> {
        let halves = scratch.split_at_mut_checked(FIRST_READ);
        let (first, free) = halves.ok_or(Error::TooManyFiles)?;
        loader.platform.read(item::SETUP_DATA, first)?;
        if !Elf::is_elf(first) && (first.starts_with(b"MZ") || SetupHeader::is_in(first)) {
            // QEMU cuts the file here, even if the byte is no `setup_sects`.
            let cut =
                setup_header::setup_len(*first.get(setup_header::HEADER_OFFSET).unwrap_or(&0));
            // By the item rather than the header's syssize: QEMU appends setup_data
            // (`-dtb`, a random seed) behind the code, and a file may be cut short.
            let len = loader.platform.read_u32(item::KERNEL_SIZE)?;
            let mut image = Image::plain(cut, len);
            if !SetupHeader::is_in(first) {
                uki::find(loader, &mut image, first)?;
            }
            let header = SetupHeader::read(first)?;
            image.pass_setup(header.setup_len());
            let kernel = match header.entry(option)? {
                Entry::Bits32 => Self::BzImage(BzImage::claim(loader, header, image)?),
                Entry::Bits16 => Self::RealMode(RealMode::claim(loader, header, image)?),
            };
            return Ok((kernel, free));
        }
        if let Some(pvh) = Pvh::claim(loader, first, free)? {
            return Ok((Self::Pvh(pvh), free));
        }
        if loader.platform.read_u32(item::KERNEL_SIZE)? == 0 {
            return Err(Error::NoKernel);
        }
        let multiboot = Multiboot::claim(loader)?;
        let multiboot = multiboot.ok_or(Error::UnknownKernel)?;
        Ok((Self::Multiboot(multiboot), free))
    }

    /// Who this is. Linux is a bzImage with a compressed payload, which others lack, or
    /// an ELF file whose notes say so.
    #[must_use]
    pub const fn guest(&self) -> Guest {
        match self {
            Self::BzImage(BzImage { header, .. }) | Self::RealMode(RealMode { header, .. }) => {
                header.guest()
            }
            Self::Pvh(pvh) => pvh.guest,
            Self::Multiboot(_) => Guest::Other,
        }
    }

    /// The command line with its NUL; empty if it is part of the image.
    #[must_use]
    pub const fn command_line(&self) -> PhysRange {
        match self {
            Self::BzImage(kernel) => kernel.line,
            Self::RealMode(kernel) => kernel.line,
            Self::Pvh(kernel) => kernel.line,
            Self::Multiboot(_) => PhysRange::EMPTY,
        }
    }

    /// Loads the kernel and the initrd, and fills in the block that the kernel gets.
    /// `rsdp` is the RSDP's address, 0 without one.
    ///
    /// # Errors
    /// [`Error::InitrdTooBig`], [`Error::KernelTruncated`] and others by
    /// format.
    pub fn load<P: Platform>(&self, loader: &mut Loader<'_, P>, rsdp: u32) -> Result<Loaded> {
        match self {
            Self::BzImage(kernel) => kernel.load(loader, rsdp),
            Self::RealMode(kernel) => kernel.load(loader),
            Self::Pvh(kernel) => kernel.load(loader, rsdp),
            Self::Multiboot(kernel) => kernel.load(loader),
        }
    }
}
