//! QEMU's firmware configuration device: items, file directory, DMA.
//!
//! Specification: QEMU `docs/specs/fw_cfg.rst`.

use crate::error::{Error, Result};
use bitflags::bitflags;
use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Selector register, 16 bits.
pub const PORT_SELECTOR: u16 = 0x510;
/// Data register, one byte an access.
pub const PORT_DATA: u16 = 0x511;
/// Low half of the DMA address register; a write starts the transfer.
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
    /// Load address of the initrd, `u32`.
    pub const INITRD_ADDR: u16 = 0x0a;
    /// On x86, the highest possible APIC id and one more, `u16`.
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

/// The first selector that is a file's; all below are fixed items.
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

/// Access to items.
///
/// A read past the end of an item gives zeroes, so an item may be read
/// without asking for its size (specification, "Guest-side DMA Interface").
pub trait FwCfg {
    /// Selects `selector` and reads from its start.
    ///
    /// # Errors
    /// [`Error::FwCfgTransfer`], [`Error::NoFwCfg`].
    fn read(&mut self, selector: u16, dest: &mut [u8]) -> Result<()>;

    /// As [`FwCfg::read`], for what every boot does: compiled where it is
    /// called, which takes more room and fewer instructions.
    ///
    /// # Errors
    /// As [`FwCfg::read`].
    #[inline(always)]
    fn read_inline(&mut self, selector: u16, dest: &mut [u8]) -> Result<()> {
        self.read(selector, dest)
    }

    /// Reads on in the selected item.
    ///
    /// # Errors
    /// As [`FwCfg::read`].
    fn read_next(&mut self, dest: &mut [u8]) -> Result<()>;

    /// Writes `data` at `offset` of item `selector`.
    ///
    /// # Errors
    /// [`Error::FwCfgTransfer`] also when the item is read-only.
    fn write(&mut self, selector: u16, offset: u32, data: &[u8]) -> Result<()>;

    /// A little-endian `u32` item; 0 when there is none.
    ///
    /// # Errors
    /// As [`FwCfg::read`].
    #[inline(never)]
    fn read_u32(&mut self, selector: u16) -> Result<u32> {
        self.read_u32_inline(selector)
    }

    /// As [`FwCfg::read_u32`], compiled where it is called.
    ///
    /// # Errors
    /// As [`FwCfg::read`].
    #[inline(always)]
    fn read_u32_inline(&mut self, selector: u16) -> Result<u32> {
        let mut bytes = [0; 4];
        self.read_inline(selector, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }
}

/// Bytes of a file name, NUL-padded (specification, `FWCfgFile`).
pub const FILE_NAME_LEN: usize = 56;

/// A file name as directory and linker-loader hold it.
pub type FileName = [u8; FILE_NAME_LEN];

/// `name` padded with NULs.
#[must_use]
pub const fn file_name(name: &str) -> FileName {
    let mut padded = [0; FILE_NAME_LEN];
    let bytes = name.as_bytes();
    let mut rest: &[u8] = bytes;
    let mut target: &mut [u8] = &mut padded;
    while let ([byte, more @ ..], [slot, free @ ..]) = (rest, target) {
        *slot = *byte;
        rest = more;
        target = free;
    }
    padded
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

/// Files that nearly every boot asks for.
pub mod file {
    use super::{FileName, file_name};

    /// The memory map.
    pub const E820: FileName = file_name("etc/e820");
    /// The linker-loader script.
    pub const TABLE_LOADER: FileName = file_name("etc/table-loader");
    /// ACPI's root pointer.
    pub const RSDP: FileName = file_name("etc/acpi/rsdp");
    /// ACPI's tables.
    pub const TABLES: FileName = file_name("etc/acpi/tables");
    /// The number of PCI expander buses, `u64`.
    pub const EXTRA_PCI_ROOTS: FileName = file_name("etc/extra-pci-roots");
    /// SMBIOS's entry point.
    pub const SMBIOS_ANCHOR: FileName = file_name("etc/smbios/smbios-anchor");
    /// SMBIOS's structures.
    pub const SMBIOS_TABLES: FileName = file_name("etc/smbios/smbios-tables");
}

/// The entries of [`mod@file`], and whether there are options for this firmware:
/// found in one pass, since each search by name is one more.
#[derive(Clone, Copy, Debug, Default)]
struct Known<'a> {
    e820: Option<&'a FileEntry>,
    table_loader: Option<&'a FileEntry>,
    rsdp: Option<&'a FileEntry>,
    tables: Option<&'a FileEntry>,
    smbios_anchor: Option<&'a FileEntry>,
    smbios_tables: Option<&'a FileEntry>,
    extra_pci_roots: Option<&'a FileEntry>,
    has_options: bool,
}

/// Bytes 8 to 11 of a name: the first word in which those of [`mod@file`] differ.
const fn key(name: &FileName) -> u32 {
    let [_, _, _, _, _, _, _, _, a, b, c, d, ..] = name;
    u32::from_le_bytes([*a, *b, *c, *d])
}

impl<'a> Known<'a> {
    #[inline(always)]
    fn find(&mut self, entries: &'a [FileEntry]) {
        const E820: u32 = key(&file::E820);
        const TABLE_LOADER: u32 = key(&file::TABLE_LOADER);
        const RSDP: u32 = key(&file::RSDP);
        const TABLES: u32 = key(&file::TABLES);
        const SMBIOS: u32 = key(&file::SMBIOS_ANCHOR);
        const EXTRA_PCI_ROOTS: u32 = key(&file::EXTRA_PCI_ROOTS);
        const OPTION: u32 = key(&file_name("opt/org.qboot/"));
        for entry in entries {
            let name = entry.name();
            // Each name in its arm: compared with constants.
            match key(name) {
                E820 if same_name(name, &file::E820) => self.e820 = Some(entry),
                TABLE_LOADER if same_name(name, &file::TABLE_LOADER) => {
                    self.table_loader = Some(entry);
                }
                RSDP if same_name(name, &file::RSDP) => self.rsdp = Some(entry),
                TABLES if same_name(name, &file::TABLES) => self.tables = Some(entry),
                SMBIOS if same_name(name, &file::SMBIOS_ANCHOR) => self.smbios_anchor = Some(entry),
                SMBIOS if same_name(name, &file::SMBIOS_TABLES) => self.smbios_tables = Some(entry),
                EXTRA_PCI_ROOTS if same_name(name, &file::EXTRA_PCI_ROOTS) => {
                    self.extra_pci_roots = Some(entry);
                }
                OPTION => self.has_options = true,
                _ => {}
            }
        }
    }
}

/// The file directory, in memory that the caller lent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Directory<'a> {
    entries: &'a [FileEntry],
    known: Known<'a>,
}

/// Files that the first transfer has room for: what QEMU's default number
/// of slots allows, so that one transfer is enough.
const FIRST_FILES: usize = 63;

impl<'a> Directory<'a> {
    /// Reads the directory into the start of `scratch`; gives back what is
    /// left of it.
    ///
    /// # Errors
    /// [`Error::TooManyFiles`] when it does not fit, and the transfer's.
    pub fn read<F: FwCfg>(fw_cfg: &mut F, scratch: &'a mut [u8]) -> Result<(Self, &'a mut [u8])> {
        let mut dir = Self::default();
        let free = dir.fill(fw_cfg, scratch)?;
        Ok((dir, free))
    }

    /// As [`Directory::read`], for one that is not to be moved.
    ///
    /// # Errors
    /// As [`Directory::read`].
    #[inline(always)]
    pub fn fill<F: FwCfg>(
        &mut self,
        fw_cfg: &mut F,
        scratch: &'a mut [u8],
    ) -> Result<&'a mut [u8]> {
        const FIRST: usize = 4 + FIRST_FILES * size_of::<FileEntry>();
        // What follows stays 16-byte aligned, as `scratch` itself is.
        const END: usize = FIRST.next_multiple_of(16);
        let first = scratch.get_mut(..FIRST).ok_or(Error::TooManyFiles)?;
        fw_cfg.read_inline(item::FILE_DIR, first)?;
        let (count, _) = first.split_first_chunk().ok_or(Error::TooManyFiles)?;
        let count = u32::from_be_bytes(*count) as usize;
        let end = if count > FIRST_FILES {
            read_rest(fw_cfg, scratch, count, FIRST)?
        } else {
            END
        };
        let (used, free) = scratch
            .split_at_mut_checked(end)
            .ok_or(Error::TooManyFiles)?;
        let bytes: &'a [u8] = used;
        let bytes = bytes.get(4..).ok_or(Error::TooManyFiles)?;
        let (entries, _) = <[FileEntry]>::ref_from_prefix_with_elems(bytes, count)
            .map_err(|_| Error::TooManyFiles)?;
        self.entries = entries;
        self.known.find(entries);
        Ok(free)
    }

    /// The entries, for tests and tools.
    #[must_use]
    pub const fn entries(&self) -> &'a [FileEntry] {
        self.entries
    }

    /// The memory map.
    #[must_use]
    pub fn e820(&self) -> Option<File> {
        self.known.e820.map(FileEntry::file)
    }

    /// The linker-loader script.
    #[must_use]
    pub fn table_loader(&self) -> Option<File> {
        self.known.table_loader.map(FileEntry::file)
    }

    /// Whether the file with this selector is ACPI's root pointer.
    #[must_use]
    pub fn is_rsdp(&self, selector: u16) -> bool {
        let rsdp = self.known.rsdp;
        rsdp.is_some_and(|entry| entry.select.get() == selector)
    }

    /// SMBIOS's entry point and structures.
    #[must_use]
    pub fn smbios(&self) -> Option<(File, File)> {
        let (anchor, tables) = (self.known.smbios_anchor?, self.known.smbios_tables?);
        Some((anchor.file(), tables.file()))
    }

    /// The number of PCI expander buses.
    #[must_use]
    pub fn extra_pci_roots(&self) -> Option<File> {
        self.known.extra_pci_roots.map(FileEntry::file)
    }

    /// Whether a name starts like an option for this firmware.
    #[must_use]
    pub const fn has_options(&self) -> bool {
        self.known.has_options
    }

    /// The file called `name`.
    #[must_use]
    #[inline(always)]
    pub fn find(&self, name: &FileName) -> Option<File> {
        let entry = if same_name(name, &file::TABLES) {
            self.known.tables
        } else if same_name(name, &file::RSDP) {
            self.known.rsdp
        } else {
            self.search(name)
        };
        entry.map(FileEntry::file)
    }

    #[cold]
    #[inline(never)]
    fn search(&self, name: &FileName) -> Option<&'a FileEntry> {
        let mut entries = self.entries.iter();
        entries.find(|entry| same_name(&entry.name, name))
    }
}

/// Reads a directory of `count` files on behind its first `done` bytes; gives
/// where what follows it may start.
#[cold]
#[inline(never)]
fn read_rest<F: FwCfg>(
    fw_cfg: &mut F,
    scratch: &mut [u8],
    count: usize,
    done: usize,
) -> Result<usize> {
    let len = count
        .checked_mul(size_of::<FileEntry>())
        .and_then(|bytes| bytes.checked_add(4))
        .ok_or(Error::TooManyFiles)?;
    let rest = scratch.get_mut(done..len).ok_or(Error::TooManyFiles)?;
    fw_cfg.read_next(rest)?;
    Ok(len.next_multiple_of(16))
}

/// Whether two names are the same up to their first NUL, or whole.
///
/// The third word decides nearly every pair that differs: names start with
/// `etc/acpi`, `etc/smbi`, `opt/org.`. Nearly all that are the same end
/// within 16 bytes.
#[inline(always)]
#[must_use]
pub fn same_name(a: &FileName, b: &FileName) -> bool {
    let ([a0, a1, a2, a3], more_a) = words(a);
    let ([b0, b1, b2, b3], more_b) = words(b);
    if a2 != b2 || (a0 ^ b0) | (a1 ^ b1) | (a3 ^ b3) != 0 {
        return false;
    }
    // The 16th byte is the name's NUL or padding behind it, or it goes on.
    a3 >> 24 == 0 || same_rest(more_a, more_b)
}

/// The first 16 bytes as words, and the rest.
///
/// Spelt out: a loop here is one in whatever this is inlined into.
#[inline(always)]
fn words(name: &FileName) -> ([u32; 4], &[u8; FILE_NAME_LEN - 16]) {
    let (chunks, _) = name.as_chunks::<4>();
    let [a, b, c, d, ..] = chunks else {
        return ([0; 4], &[0; FILE_NAME_LEN - 16]);
    };
    let rest = name.last_chunk().unwrap_or(&[0; FILE_NAME_LEN - 16]);
    let word = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes);
    ([word(a), word(b), word(c), word(d)], rest)
}

#[inline(never)]
fn same_rest(a: &[u8; FILE_NAME_LEN - 16], b: &[u8; FILE_NAME_LEN - 16]) -> bool {
    let (a, _) = a.as_chunks::<4>();
    let (b, _) = b.as_chunks::<4>();
    for (x, y) in a.iter().zip(b) {
        if x != y {
            return false;
        }
        // A NUL, or padding behind one.
        let [.., last] = x;
        if *last == 0 {
            return true;
        }
    }
    true
}

/// A scripted device for tests.
#[cfg(any(test, feature = "sim"))]
pub mod fake;

#[cfg(test)]
mod tests;
