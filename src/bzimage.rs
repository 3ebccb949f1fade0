//! The Linux boot protocol: setup header and zero page.
//!
//! Specification: Linux `Documentation/arch/x86/boot.rst` and
//! `zero-page.rst`.

use crate::e820::{Entry, MAX_ENTRIES};
use crate::error::{Error, Result};
use crate::layout::HIGH_RAM;
use crate::phys::{copy_at, u16_at, u32_at, u64_at};
use bitflags::bitflags;
use zerocopy::IntoBytes;

/// Offsets of the setup header's fields, in the image and in the zero page alike,
/// by their names in `boot.rst`.
pub(crate) mod hdr {
    /// The first of them.
    pub const SETUP_SECTS: usize = 0x1f1;
    pub const SYSSIZE: usize = 0x1f4;
    /// Second byte of `jump`: from [`HEADER`] to the header's end.
    pub const JUMP_OFFSET: usize = 0x201;
    /// `HdrS`.
    pub const HEADER: usize = 0x202;
    pub const VERSION: usize = 0x206;
    pub const KERNEL_VERSION: usize = 0x20e;
    pub const TYPE_OF_LOADER: usize = 0x210;
    pub const LOADFLAGS: usize = 0x211;
    pub const SETUP_MOVE_SIZE: usize = 0x212;
    pub const CODE32_START: usize = 0x214;
    pub const RAMDISK_IMAGE: usize = 0x218;
    pub const RAMDISK_SIZE: usize = 0x21c;
    pub const HEAP_END_PTR: usize = 0x224;
    pub const CMD_LINE_PTR: usize = 0x228;
    pub const INITRD_ADDR_MAX: usize = 0x22c;
    pub const KERNEL_ALIGNMENT: usize = 0x230;
    pub const RELOCATABLE_KERNEL: usize = 0x234;
    pub const XLOADFLAGS: usize = 0x236;
    pub const CMDLINE_SIZE: usize = 0x238;
    pub const PAYLOAD_OFFSET: usize = 0x248;
    pub const PAYLOAD_LENGTH: usize = 0x24c;
    pub const SETUP_DATA: usize = 0x250;
    pub const PREF_ADDRESS: usize = 0x258;
    pub const INIT_SIZE: usize = 0x260;
}

/// Offsets of fields that the zero page has besides the header, by their names
/// in `zero-page.rst`.
mod page {
    pub const ACPI_RSDP_ADDR: usize = 0x070;
    pub const ALT_MEM_K: usize = 0x1e0;
    pub const E820_ENTRIES: usize = 0x1e8;
    /// What follows the header's room.
    pub const EDD_MBR_SIG_BUFFER: usize = 0x290;
    pub const E820_TABLE: usize = 0x2d0;
}

/// Offsets in the boot sector, before protocol 2.02.
mod old {
    pub const CMD_LINE_MAGIC: usize = 0x20;
    pub const CMD_LINE_OFFSET: usize = 0x22;
}
/// What `cmd_line_magic` holds when there is a command line.
const CMD_LINE_MAGIC: u16 = 0xa33f;

/// `initrd_addr_max` of kernels that have no such field (`boot.rst`).
const OLD_INITRD_ADDR_MAX: u32 = 0x37ff_ffff;
/// `cmdline_size` of kernels that have no such field (`boot.rst`).
const OLD_CMDLINE_SIZE: u32 = 255;

/// Bytes of a sector, which `setup_sects` counts in.
pub const SECTOR: u32 = 512;
/// Bytes of a zero page.
pub const ZERO_PAGE_LEN: u32 = 4096;

bitflags! {
    /// `loadflags`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct LoadFlags: u8 {
        /// The protected-mode code is loaded at 1 MiB.
        const LOADED_HIGH = 1 << 0;
        /// `heap_end_ptr` is valid.
        const CAN_USE_HEAP = 1 << 7;
        const _ = !0;
    }

    /// `xloadflags`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct XLoadFlags: u16 {
        /// A 64-bit kernel.
        const KERNEL_64 = 1 << 0;
        /// Kernel, boot parameters, command line and initrd may lie anywhere.
        const CAN_BE_LOADED_ABOVE_4G = 1 << 1;
        const _ = !0;
    }
}

/// A setup header inside the first bytes of an image, its own length within.
#[derive(Clone, Copy, Debug)]
pub struct SetupHeader<'a> {
    /// From the start of the image to the header's end.
    bytes: &'a [u8],
    protocol: u16,
}

impl<'a> SetupHeader<'a> {
    /// The header of `image`, or the start of one that is as long as any header
    /// (0x202 + 255 bytes); `None` when it has none.
    #[must_use]
    pub fn find(image: &'a [u8]) -> Option<Self> {
        if u32_at(image, hdr::HEADER)? != u32::from_le_bytes(*b"HdrS") {
            return None;
        }
        let len = usize::from(*image.get(hdr::JUMP_OFFSET)?);
        let bytes = image.get(..hdr::HEADER.checked_add(len)?)?;
        Some(Self {
            bytes,
            protocol: u16_at(image, hdr::VERSION)?,
        })
    }

    /// Boot protocol version, 0x020c for 2.12.
    #[must_use]
    pub const fn protocol(&self) -> u16 {
        self.protocol
    }

    /// A field that exists from `protocol` on, if header and version have it.
    fn u32_since(&self, protocol: u16, offset: usize) -> Option<u32> {
        if self.protocol < protocol {
            None
        } else {
            u32_at(self.bytes, offset)
        }
    }

    /// Sectors of 512 bytes of setup code after the boot sector.
    #[must_use]
    pub fn setup_sects(&self) -> u8 {
        match self.bytes.get(hdr::SETUP_SECTS) {
            None | Some(0) => 4,
            Some(sects) => *sects,
        }
    }

    /// Bytes of boot sector and setup code.
    #[must_use]
    pub fn setup_len(&self) -> u32 {
        u32::from(self.setup_sects())
            .saturating_add(1)
            .saturating_mul(SECTOR)
    }

    /// `loadflags`.
    #[must_use]
    pub fn loadflags(&self) -> LoadFlags {
        LoadFlags::from_bits_retain(self.bytes.get(hdr::LOADFLAGS).copied().unwrap_or(0))
    }

    /// `xloadflags`, none before protocol 2.12.
    #[must_use]
    pub fn xloadflags(&self) -> XLoadFlags {
        let bits = if self.protocol < 0x20c {
            None
        } else {
            u16_at(self.bytes, hdr::XLOADFLAGS)
        };
        XLoadFlags::from_bits_retain(bits.unwrap_or(0))
    }

    /// Bytes of the protected-mode code by the header, 0 where it is too old
    /// to say.
    #[must_use]
    pub fn code_len(&self) -> u32 {
        self.u32_since(0x204, hdr::SYSSIZE)
            .unwrap_or(0)
            .saturating_mul(16)
    }

    /// Whether the kernel can be entered at `code32_start` in 32-bit mode
    /// wherever it was loaded.
    #[must_use]
    pub fn is_32bit_entry(&self) -> bool {
        self.protocol >= 0x205
            && self.loadflags().contains(LoadFlags::LOADED_HIGH)
            && self
                .bytes
                .get(hdr::RELOCATABLE_KERNEL)
                .is_some_and(|relocatable| *relocatable != 0)
    }

    /// `ramdisk_size` as QEMU has filled it in; 0 without an initrd.
    #[must_use]
    pub fn ramdisk_size(&self) -> u32 {
        u32_at(self.bytes, hdr::RAMDISK_SIZE).unwrap_or(0)
    }

    /// The highest byte that the initrd may occupy.
    #[must_use]
    pub fn initrd_addr_max(&self) -> u32 {
        self.u32_since(0x203, hdr::INITRD_ADDR_MAX)
            .unwrap_or(OLD_INITRD_ADDR_MAX)
    }

    /// The longest command line, without its NUL.
    #[must_use]
    pub fn cmdline_size(&self) -> u32 {
        self.u32_since(0x206, hdr::CMDLINE_SIZE)
            .unwrap_or(OLD_CMDLINE_SIZE)
    }

    /// `kernel_alignment`, a power of two.
    ///
    /// # Errors
    /// [`Error::BadSetupHeader`] when it is none.
    pub fn kernel_alignment(&self) -> Result<u32> {
        match self.u32_since(0x205, hdr::KERNEL_ALIGNMENT) {
            None => Ok(1),
            Some(align) if align.is_power_of_two() => Ok(align),
            Some(_) => Err(Error::BadSetupHeader),
        }
    }

    /// Whether the header ends before fields that its protocol has, so that
    /// nothing tells how the kernel is to be entered.
    #[cold]
    #[inline(never)]
    #[must_use]
    pub fn is_cut(&self) -> bool {
        // The last that every header has is ramdisk_size, of four bytes.
        let last = if self.protocol >= 0x205 {
            hdr::RELOCATABLE_KERNEL
        } else {
            hdr::RAMDISK_SIZE + 3
        };
        self.bytes.get(last).is_none()
    }

    /// `code32_start`, as the image has it: where setup code jumps.
    #[must_use]
    pub fn code32_start(&self) -> u32 {
        u32_at(self.bytes, hdr::CODE32_START).unwrap_or(0)
    }

    /// `pref_address` and `init_size`: from where, and how many bytes, the
    /// kernel uses before it reads the memory map. `None` where the protocol
    /// is too old to say.
    ///
    /// # Errors
    /// [`Error::BadSetupHeader`] when the header ends before them.
    pub fn runtime(&self) -> Result<Option<(u64, u32)>> {
        if self.protocol < 0x20a {
            return Ok(None);
        }
        let pref_address = u64_at(self.bytes, hdr::PREF_ADDRESS);
        let runtime = pref_address.zip(u32_at(self.bytes, hdr::INIT_SIZE));
        runtime.map(Some).ok_or(Error::BadSetupHeader)
    }

    /// Whether this is a 32-bit kernel for sure: it could say that it is not,
    /// and is a real one, which names its version (`kernel_version`).
    #[inline]
    #[must_use]
    pub fn is_32bit(&self) -> bool {
        self.protocol >= 0x20c
            && !self.xloadflags().contains(XLoadFlags::KERNEL_64)
            && u16_at(self.bytes, hdr::KERNEL_VERSION).is_some_and(|version| version != 0)
    }

    /// `payload_offset` (from the protected-mode code's start) and
    /// `payload_length`: the compressed kernel, which only Linux has.
    #[must_use]
    pub fn payload(&self) -> Option<(u32, u32)> {
        let len = self.u32_since(0x208, hdr::PAYLOAD_LENGTH)?;
        if len == 0 {
            None
        } else {
            Some((self.u32_since(0x208, hdr::PAYLOAD_OFFSET)?, len))
        }
    }

    /// Bytes that the protected-mode code has at least: up to the end of the
    /// payload, and nearly up to `syssize`, which is rounded up and may count
    /// a checksum that is not there.
    #[must_use]
    pub fn least_len(&self) -> u32 {
        let payload = self.payload();
        let payload = payload.map_or(0, |(offset, len)| offset.saturating_add(len));
        payload.max(self.code_len().saturating_sub(32))
    }
}

/// What a boot loader fills in of the header for 16-bit code.
#[derive(Debug)]
pub struct RealModeHeader {
    /// Address of boot sector and setup code.
    pub base: u32,
    /// Offset of heap's and stack's end, where the command line begins.
    pub heap_end: u16,
    /// Bytes of the stack below it.
    pub stack_len: u16,
    /// Bytes of the command line, NUL included.
    pub line_len: u16,
    /// Initrd's address and bytes, 0 without one.
    pub ramdisk: (u32, u32),
}

impl RealModeHeader {
    /// Writes the fields that `protocol` has into `setup`.
    ///
    /// # Errors
    /// [`Error::NotOurMemory`] when `setup` is shorter than a header.
    #[cold]
    #[inline(never)]
    pub fn write(&self, protocol: u16, setup: &mut [u8]) -> Result<()> {
        copy_at(setup, hdr::TYPE_OF_LOADER, &[TYPE_OF_LOADER])?;
        copy_at(setup, hdr::RAMDISK_IMAGE, &self.ramdisk.0.to_le_bytes())?;
        copy_at(setup, hdr::RAMDISK_SIZE, &self.ramdisk.1.to_le_bytes())?;
        if protocol >= 0x201 {
            let flags = setup.get(hdr::LOADFLAGS).copied().unwrap_or(0);
            let flags = flags | LoadFlags::CAN_USE_HEAP.bits();
            copy_at(setup, hdr::LOADFLAGS, &[flags])?;
            let heap_end_ptr = self.heap_end.wrapping_sub(self.stack_len);
            copy_at(setup, hdr::HEAP_END_PTR, &heap_end_ptr.to_le_bytes())?;
        }
        if protocol >= 0x202 {
            let line = self.base.wrapping_add(u32::from(self.heap_end));
            copy_at(setup, hdr::CMD_LINE_PTR, &line.to_le_bytes())
        } else {
            // A newer boot sector has something else there. setup_move_size
            // takes the line along.
            copy_at(setup, old::CMD_LINE_MAGIC, &CMD_LINE_MAGIC.to_le_bytes())?;
            copy_at(setup, old::CMD_LINE_OFFSET, &self.heap_end.to_le_bytes())?;
            let whole = self.heap_end.wrapping_add(self.line_len);
            copy_at(setup, hdr::SETUP_MOVE_SIZE, &whole.to_le_bytes())
        }
    }
}

/// What a zero page is filled from.
#[derive(Debug)]
pub struct ZeroPage<'a> {
    /// The image's header.
    pub header: SetupHeader<'a>,
    /// Where the protected-mode code was loaded.
    pub code32_start: u32,
    /// Address of the NUL-terminated command line.
    pub cmd_line_ptr: u32,
    /// Initrd's address, 0 without one.
    pub ramdisk_image: u32,
    /// Initrd's bytes.
    pub ramdisk_size: u32,
    /// RSDP's address, 0 without one.
    pub acpi_rsdp_addr: u32,
    /// Memory map.
    pub e820: &'a [Entry],
    /// End of RAM above 1 MiB, for kernels that do not read E820.
    pub high_ram_end: u32,
}

/// QEMU's boot loader id (0xb) in the high half; version 0.
const TYPE_OF_LOADER: u8 = 0xb0;

impl ZeroPage<'_> {
    /// Writes `boot_params` into `block`, which holds [`ZERO_PAGE_LEN`] zeroes,
    /// and gives the lower half of `setup_data`.
    ///
    /// # Errors
    /// [`Error::TooManyE820Entries`], [`Error::BadSetupHeader`] when the
    /// header is longer than the page has room for.
    #[inline(always)]
    pub fn write(&self, block: &mut [u8]) -> Result<u32> {
        let header = self
            .header
            .bytes
            .get(hdr::SETUP_SECTS..)
            .ok_or(Error::BadSetupHeader)?;
        if header.len() > page::EDD_MBR_SIG_BUFFER - hdr::SETUP_SECTS {
            return Err(Error::BadSetupHeader);
        }
        let count = u8::try_from(self.e820.len())
            .ok()
            .filter(|n| usize::from(*n) <= MAX_ENTRIES)
            .ok_or(Error::TooManyE820Entries)?;
        copy_at(block, hdr::SETUP_SECTS, header)?;
        copy_at(block, page::E820_TABLE, self.e820.as_bytes())?;
        let mut put = |offset, value: u32| copy_at(block, offset, &value.to_le_bytes());
        // KiB above 1 MiB, what INT 15h E801 would say.
        let alt_mem_k = self.high_ram_end.saturating_sub(HIGH_RAM) >> 10;
        put(page::ALT_MEM_K, alt_mem_k)?;
        put(hdr::CODE32_START, self.code32_start)?;
        put(hdr::RAMDISK_IMAGE, self.ramdisk_image)?;
        put(hdr::RAMDISK_SIZE, self.ramdisk_size)?;
        put(hdr::CMD_LINE_PTR, self.cmd_line_ptr)?;
        put(page::ACPI_RSDP_ADDR, self.acpi_rsdp_addr)?;
        copy_at(block, page::E820_ENTRIES, &[count])?;
        copy_at(block, hdr::TYPE_OF_LOADER, &[TYPE_OF_LOADER])?;
        Ok(u32_at(block, hdr::SETUP_DATA).unwrap_or(0))
    }
}
