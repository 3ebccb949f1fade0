//! QEMU's firmware configuration device: items, file directory, DMA.
//!
//! Specification: QEMU `docs/specs/fw_cfg.rst`.

use crate::error::{Error, Result};
use crate::platform::Platform;
use bitflags::bitflags;
use zerocopy::FromBytes;
use zerocopy::byteorder::big_endian::{U16, U32};

/// Selector register, 16 bits.
pub const PORT_SELECTOR: u16 = 0x510;
/// Data register, one byte an access.
pub const PORT_DATA: u16 = 0x511;
/// High half of the DMA address register; zero after a transfer.
pub const PORT_DMA_HIGH: u16 = 0x514;
/// Low half of it; a write starts the transfer.
pub const PORT_DMA_LOW: u16 = 0x518;

/// Item selectors that QEMU fixes.
pub mod item {
    /// The four bytes `QEMU`.
    pub const SIGNATURE: u16 = 0x00;
    /// Number of CPUs present at start, `u16`.
    pub const NB_CPUS: u16 = 0x05;
    /// Load address of the kernel, `u32`.
    pub const KERNEL_ADDR: u16 = 0x07;
    /// Bytes of [`KERNEL_DATA`], `u32`.
    pub const KERNEL_SIZE: u16 = 0x08;
    /// Bytes of [`INITRD_DATA`], `u32`; 0 without one.
    pub const INITRD_SIZE: u16 = 0x0b;
    /// On x86, one more than the highest possible APIC id, `u16`.
    pub const MAX_CPUS: u16 = 0x0f;
    /// Entry point of an ELF kernel, `u32`.
    pub const KERNEL_ENTRY: u16 = 0x10;
    /// The kernel without its setup code.
    pub const KERNEL_DATA: u16 = 0x11;
    /// The initrd.
    pub const INITRD_DATA: u16 = 0x12;
    /// Bytes of [`CMDLINE_DATA`] with its NUL, `u32`.
    pub const CMDLINE_SIZE: u16 = 0x14;
    /// The command line, NUL-terminated.
    pub const CMDLINE_DATA: u16 = 0x15;
    /// Bytes of [`SETUP_DATA`], `u32`.
    pub const SETUP_SIZE: u16 = 0x17;
    /// A bzImage's setup code, or the first 8 KiB of an ELF kernel.
    pub const SETUP_DATA: u16 = 0x18;
    /// The file directory.
    pub const FILE_DIR: u16 = 0x19;
    /// Whether the timer is wired to I/O APIC input 2, `u8`.
    pub const IRQ0_OVERRIDE: u16 = 0x8002;
}

/// The first selector of a file; all below are fixed items.
pub const FIRST_FILE: u16 = 0x20;

bitflags! {
    /// The control word of a DMA descriptor, host byte order.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct DmaControl: u32 {
        /// Set by the device when the transfer failed.
        const ERROR = 1 << 0;
        /// Item to guest memory.
        const READ = 1 << 1;
        /// Advance the item's offset.
        const SKIP = 1 << 2;
        /// Select the item in the upper 16 bits first.
        const SELECT = 1 << 3;
        /// Guest memory to item.
        const WRITE = 1 << 4;
        const _ = !0;
    }
}

impl DmaControl {
    /// These flags with `selector` to be selected first.
    #[must_use]
    pub const fn select(self, selector: u16) -> Self {
        Self::from_bits_retain(self.bits() | Self::SELECT.bits() | ((selector as u32) << 16))
    }
}

/// Bytes of a file name, NUL-padded (specification, `FWCfgFile`).
pub const FILE_NAME_LEN: usize = 56;

/// A file name as directory and linker-loader hold it.
pub type FileName = [u8; FILE_NAME_LEN];

/// Files that the firmware asks for by name.
pub mod file {
    /// The memory map.
    pub const E820: &[u8] = b"etc/e820";
    /// The linker-loader script.
    pub const TABLE_LOADER: &[u8] = b"etc/table-loader";
    /// ACPI's root pointer.
    pub const RSDP: &[u8] = b"etc/acpi/rsdp";
    /// SMBIOS's entry point.
    pub const SMBIOS_ANCHOR: &[u8] = b"etc/smbios/smbios-anchor";
    /// SMBIOS's structures.
    pub const SMBIOS_TABLES: &[u8] = b"etc/smbios/smbios-tables";
    /// The number of PCI expander buses, `u64`.
    pub const EXTRA_PCI_ROOTS: &[u8] = b"etc/extra-pci-roots";
    /// The end of memory and of its hot-plug slots, `u64`.
    pub const RESERVED_MEMORY_END: &[u8] = b"etc/reserved-memory-end";
}

/// One entry of the file directory.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FileEntry {
    size: U32,
    select: U16,
    reserved: U16,
    name: FileName,
}

impl FileEntry {
    /// Where and how large the file is.
    #[must_use]
    pub fn file(&self) -> File {
        File {
            selector: self.select.get(),
            size: self.size.get(),
        }
    }

    /// NUL-padded name.
    #[must_use]
    pub const fn name(&self) -> &FileName {
        &self.name
    }
}

/// A file's selector and its size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File {
    /// Selector, [`FIRST_FILE`] or above.
    pub selector: u16,
    /// Bytes.
    pub size: u32,
}

/// The file directory, in memory that the caller lent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Directory<'a> {
    entries: &'a [FileEntry],
}

/// Files that the first transfer has room for: QEMU's default number of slots, so that
/// one transfer is enough.
const FIRST_FILES: usize = 63;

impl<'a> Directory<'a> {
    /// Reads the directory into the start of `scratch`; returns the rest of it.
    ///
    /// # Errors
    /// [`Error::TooManyFiles`] if it does not fit, and the transfer's.
    pub fn read<P: Platform>(
        platform: &mut P,
        scratch: &'a mut [u8],
    ) -> Result<(Self, &'a mut [u8])> {
        const FIRST: usize = 4 + FIRST_FILES * size_of::<FileEntry>();
        let first = scratch.get_mut(..FIRST).ok_or(Error::TooManyFiles)?;
        platform.read(item::FILE_DIR, first)?;
        let (count, _) = first.split_first_chunk().ok_or(Error::TooManyFiles)?;
        let count = u32::from_be_bytes(*count) as usize;
        let len = count
            .checked_mul(size_of::<FileEntry>())
            .and_then(|bytes| bytes.checked_add(4))
            .ok_or(Error::TooManyFiles)?;
        if len > FIRST {
            let rest = scratch.get_mut(FIRST..len).ok_or(Error::TooManyFiles)?;
            platform.read_next(rest)?;
        }
        // What follows stays 16-byte aligned, as `scratch` itself is.
        let end = len.max(FIRST).next_multiple_of(16);
        let (used, free) = scratch
            .split_at_mut_checked(end)
            .ok_or(Error::TooManyFiles)?;
        let used: &'a [u8] = used;
        let bytes = used.get(4..).ok_or(Error::TooManyFiles)?;
        let (entries, _) = <[FileEntry]>::ref_from_prefix_with_elems(bytes, count)
            .map_err(|_| Error::TooManyFiles)?;
        Ok((Self { entries }, free))
    }

    /// All entries.
    #[must_use]
    pub const fn entries(&self) -> &'a [FileEntry] {
        self.entries
    }

    /// The file called `name`, which has no NUL and is not empty.
    ///
    /// Comparing the last letter first saves 500 to 1,000 instructions a boot: few names
    /// have it at the same place.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<File> {
        let (last, front) = name.split_last()?;
        let mut entries = self.entries.iter();
        let entry = entries.find(|entry| {
            entry.name.get(front.len()) == Some(last) && is_called(&entry.name, name)
        })?;
        Some(entry.file())
    }

    /// The little-endian 64-bit number in the file called `name`; 0 without it.
    ///
    /// # Errors
    /// The transfer's.
    pub fn read_number<P: Platform>(&self, platform: &mut P, name: &[u8]) -> Result<u64> {
        let Some(file) = self.find(name) else {
            return Ok(0);
        };
        let mut bytes = [0; 8];
        platform.read(file.selector, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// Whether `field` holds `name`, ended by a NUL or by the field's end. Anything may
/// follow the NUL.
#[must_use]
pub fn is_called(field: &FileName, name: &[u8]) -> bool {
    field.starts_with(name) && matches!(field.get(name.len()), None | Some(0))
}

/// A file's name without its padding.
#[must_use]
pub fn up_to_nul(field: &FileName) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or(field)
}

/// A scripted device for tests.
#[cfg(any(test, feature = "sim"))]
pub mod fake;

#[cfg(test)]
mod tests;
