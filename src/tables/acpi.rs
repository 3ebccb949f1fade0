//! ACPI tables: the linker-loader script that QEMU hands over in
//! `etc/table-loader`.
//!
//! The script names files of fw_cfg to load, and tells how to complete their pointers
//! and checksums. Specification: the structures at the head of QEMU's
//! `hw/acpi/bios-linker-loader.c`; table formats: ACPI 6.5, chapter 5.
//!
//! The specification leaves open:
//!
//! - Unknown commands are skipped: QEMU adds commands only where ignoring them is
//!   safe. Number 0 ends the script, which QEMU pads with zeroes.
//! - A pointer's initial value is an offset into the file that it will point to, and
//!   has to lie inside that file.
//! - A file for the F segment must fit there: a search does not find an RSDP elsewhere
//!   (ACPI 6.5, 5.2.5.1).
//! - QEMU pads `etc/acpi/tables` with zeroes to a multiple of 128 KiB. Of so large a
//!   file only the part up to the end of its last checksum is transferred. If a command
//!   refers to a byte behind that, the whole file is transferred first, so no table has
//!   bytes of an earlier boot.

mod command;

use self::command::{
    ADD_CHECKSUM, ADD_POINTER, ALLOCATE, AddChecksum, AddPointer, Allocate, COMMAND_LEN, END,
    WRITE_POINTER, WritePointer, ZONE_FSEG, ZONE_HIGH,
};
use super::space::{TableSpace, Zone};
use crate::error::{Error, Result};
use crate::fw_cfg::{Directory, File, FileEntry, FileName, file, item, up_to_nul};
use crate::phys::{PhysRange, byte_sum, u32_at};
use crate::platform::Platform;
use arrayvec::ArrayVec;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, transmute_ref};

/// QEMU pads scripts to multiples of this many bytes on machines where they
/// may grow.
const SCRIPT_PADDING: usize = 0x1000;

/// The most files of a script; QEMU's largest machines have six.
const MAX_FILES: usize = 32;

/// The most tables that are noted; QEMU's largest machines have some 20.
const MAX_TABLES: usize = 64;

/// The most noted addresses that QEMU was told; QEMU's machines have one.
pub const MAX_WRITTEN: usize = 8;

/// Only files larger than this can be mostly padding.
const PADDED_FILE_MIN: u32 = 0x1_0000;

/// A file is transferred in part only if that saves this many bytes.
const WORTH_SAVING: u32 = 0x1000;

/// The most bytes that the checksums of one script may sum, a second's work. QEMU's sum
/// each table once.
const MAX_SUMMED: u32 = 256 << 20;

/// Alignment of every file, which the RSDP needs (ACPI 6.5, 5.2.5.1).
const MIN_ALIGN: u32 = 16;

/// The header of all tables but RSDP and FACS (ACPI 6.5, 5.2.6).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    signature: [u8; 4],
    length: U32,
    revision: u8,
    checksum: u8,
    oem: [u8; 26],
}

const CHECKSUM_OFFSET: u32 = 9;
const FACS_HEAD_LEN: u32 = 8;
const _: () = {
    assert!(core::mem::offset_of!(Header, checksum) == CHECKSUM_OFFSET as usize);
    assert!(size_of::<Facs>() == FACS_HEAD_LEN as usize);
};

/// The fixed description table, up to the pointer to the FACS (ACPI 6.5,
/// 5.2.9).
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Fadt {
    header: Header,
    firmware_ctrl: U32,
}

/// The memory-mapped configuration space table with one entry (PCI Firmware
/// Specification 3.3, 4.1.2).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Mcfg {
    header: Header,
    reserved: [u8; 8],
    base: U64,
    segment: U16,
    start_bus: u8,
    end_bus: u8,
}

/// The FACS's start (ACPI 6.5, 5.2.10): it has no checksum.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Facs {
    signature: [u8; 4],
    length: U32,
}

/// A table that the script has completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Four letters.
    pub signature: [u8; 4],
    /// Where it lies.
    pub range: PhysRange,
}

/// An address that QEMU was told, by WRITE_POINTER.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct WrittenPointer {
    /// The file.
    pub selector: U16,
    /// Bytes of the address there.
    pub size: U16,
    /// Their offset.
    pub offset: U32,
    /// The address.
    pub address: U32,
}

/// What a script has loaded.
#[derive(Debug)]
pub struct Tables {
    last_bus: Option<u8>,
    /// The RSDP's address, if there is one.
    pub rsdp: Option<u32>,
    /// Every table that has a checksum in its header.
    pub all: ArrayVec<Table, MAX_TABLES>,
    /// The addresses that QEMU was told, as many as fit.
    pub written: ArrayVec<WrittenPointer, MAX_WRITTEN>,
}

impl Tables {
    /// Nothing loaded yet. The MCFG table will name the buses up to `last_bus`; without
    /// it, it stays as QEMU makes it.
    #[must_use]
    pub const fn new(last_bus: Option<u8>) -> Self {
        Self {
            last_bus,
            rsdp: None,
            all: ArrayVec::new_const(),
            written: ArrayVec::new_const(),
        }
    }

    /// The first table with this signature.
    fn find(&self, signature: &[u8; 4]) -> Option<PhysRange> {
        let mut all = self.all.iter();
        let table = all.find(|table| table.signature == *signature)?;
        Some(table.range)
    }

    /// The FACS, or what else lies where the FADT says it is.
    pub fn facs<P: Platform>(&self, platform: &mut P) -> Option<Table> {
        let fadt = platform.bytes(self.find(b"FACP")?).ok()?;
        let (fadt, _) = Fadt::ref_from_prefix(fadt).ok()?;
        let head = PhysRange::new(fadt.firmware_ctrl.get(), FACS_HEAD_LEN)?;
        let facs = Facs::ref_from_bytes(platform.bytes(head).ok()?).ok()?;
        Some(Table {
            signature: facs.signature,
            range: PhysRange::new(head.start(), facs.length.get())?,
        })
    }

    /// Whether a processor has an APIC id above 254: only then does QEMU list a local
    /// x2APIC (ACPI 6.5, 5.2.12.12).
    #[must_use]
    pub fn has_x2apic_ids<P: Platform>(&self, platform: &mut P) -> bool {
        /// Bytes of the MADT before its first entry.
        const MADT_HEADER: usize = 44;
        const LOCAL_X2APIC: u8 = 9;
        let madt = self
            .find(b"APIC")
            .and_then(|madt| platform.bytes(madt).ok());
        let mut rest = madt.and_then(|madt| madt.get(MADT_HEADER..)).unwrap_or(&[]);
        while let [kind, len, ..] = rest
            && *len != 0
        {
            if *kind == LOCAL_X2APIC {
                return true;
            }
            rest = rest.get(usize::from(*len)..).unwrap_or(&[]);
        }
        false
    }
}

/// Runs `script`, QEMU's linker-loader script, and notes the tables in `tables`.
///
/// It writes only to ranges that `space` has given.
///
/// # Errors
/// [`Error::BadLoaderScript`] for invalid fields, and for checksums over more than 256
/// MiB in all. [`Error::LoaderFileMissing`] for files that fw_cfg lacks, or that are
/// used before they are allocated. [`Error::LoaderOutOfBounds`] for offsets outside
/// their file, and addresses that do not fit their field. [`Error::TooManyTables`] for
/// more than 32 files. Those of `platform` and `space`.
pub fn load<P: Platform>(
    platform: &mut P,
    dir: &Directory<'_>,
    script: File,
    space: &mut TableSpace<'_>,
    scratch: &mut [u8],
    tables: &mut Tables,
) -> Result<()> {
    let script = read_script(platform, script, scratch)?;
    run_script(platform, dir, space, script, tables)
}

/// Runs the commands of a script.
fn run_script<P: Platform>(
    platform: &mut P,
    dir: &Directory<'_>,
    space: &mut TableSpace<'_>,
    script: &[u8],
    tables: &mut Tables,
) -> Result<()> {
    let mut loader = Loader {
        platform,
        dir,
        space,
        files: ArrayVec::new(),
        tables,
        may_sum: MAX_SUMMED,
    };
    loader.run(script)
}

/// Reads the script `file` into the start of `scratch`.
fn read_script<'b, P: Platform>(
    platform: &mut P,
    file: File,
    scratch: &'b mut [u8],
) -> Result<&'b [u8]> {
    let mut len = file.size as usize;
    let script = scratch.get_mut(..len).ok_or(Error::BadLoaderScript)?;
    platform.read(file.selector, script)?;
    // Like the tables, the script may have grown since the directory was read, if no
    // padding is left. Bytes past its end read as zeroes.
    while len != 0 && len.is_multiple_of(SCRIPT_PADDING) && !is_padded(scratch, len) {
        let end = len.saturating_add(SCRIPT_PADDING);
        let more = scratch.get_mut(len..end).ok_or(Error::BadLoaderScript)?;
        platform.read_next(more)?;
        len = end;
    }
    scratch.get(..len).ok_or(Error::BadLoaderScript)
}

/// Whether the last command of the `len` bytes is [`END`].
fn is_padded(script: &[u8], len: usize) -> bool {
    let last = len.checked_sub(COMMAND_LEN);
    last.and_then(|last| u32_at(script, last)) == Some(END)
}

/// A file in guest memory.
struct Loaded<'s> {
    /// With its NUL, so that a field with this prefix has the same name.
    name: &'s [u8],
    /// Where it lies.
    range: PhysRange,
    /// Bytes that have been transferred, from the start.
    filled: u32,
    selector: u16,
}

impl Loaded<'_> {
    /// Transfers what is missing.
    ///
    /// Reading starts at the beginning, but the first part may be patched already. So
    /// the bytes to skip are read to where the missing ones will go.
    fn fill<P: Platform>(&mut self, platform: &mut P) -> Result<()> {
        let missing = self.range.behind(self.filled);
        let missing = missing.ok_or(Error::LoaderOutOfBounds)?;
        if missing.is_empty() {
            return Ok(());
        }
        let mut selector = Some(self.selector);
        let mut skip = self.filled;
        while skip != 0 {
            let len = skip.min(missing.len());
            let sink = missing.part(0, len).ok_or(Error::LoaderOutOfBounds)?;
            match selector.take() {
                Some(selector) => platform.load(selector, sink)?,
                None => platform.load_next(sink)?,
            }
            skip = skip.saturating_sub(len);
        }
        platform.load_next(missing)?;
        self.filled = self.range.len();
        Ok(())
    }
}

/// The file called `name`. From the back: nearly all commands name QEMU's last file,
/// with the tables.
// Without the call a boot takes 491 instructions fewer on q35, and 589 with a vmgenid.
#[inline]
fn find<'f, 's>(files: &'f mut [Loaded<'s>], name: &FileName) -> Option<&'f mut Loaded<'s>> {
    let mut files = files.iter_mut().rev();
    files.find(|file| name.starts_with(file.name))
}

/// A script while it runs.
struct Loader<'r, 's, 'm, P> {
    platform: &'r mut P,
    dir: &'r Directory<'r>,
    space: &'r mut TableSpace<'m>,
    files: ArrayVec<Loaded<'s>, MAX_FILES>,
    tables: &'r mut Tables,
    /// Bytes that checksums may still sum.
    may_sum: u32,
}

impl<'s, P: Platform> Loader<'_, 's, '_, P> {
    fn run(&mut self, script: &'s [u8]) -> Result<()> {
        let (mut rest, tail) = script.as_chunks::<COMMAND_LEN>();
        if !tail.is_empty() {
            return Err(Error::BadLoaderScript);
        }
        while let [command, more @ ..] = rest {
            match number(command) {
                END => break,
                ALLOCATE => self.allocate(transmute_ref!(command), more)?,
                ADD_POINTER => self.add_pointer(transmute_ref!(command))?,
                ADD_CHECKSUM => self.add_checksum(transmute_ref!(command))?,
                WRITE_POINTER => self.write_pointer(transmute_ref!(command))?,
                _ => {}
            }
            rest = more;
        }
        Ok(())
    }

    /// Places a file, and transfers the part that the following commands use.
    fn allocate(&mut self, command: &'s Allocate, rest: &[[u8; COMMAND_LEN]]) -> Result<()> {
        let zone = match command.zone {
            ZONE_HIGH => Zone::High,
            ZONE_FSEG => Zone::FSegment,
            _ => return Err(Error::BadLoaderScript),
        };
        // 0 asks for no alignment, as 1 does.
        let align = command.align.get().max(1);
        if !align.is_power_of_two() {
            return Err(Error::BadLoaderScript);
        }
        let name = up_to_nul(&command.file);
        let mut file = self.dir.find(name).ok_or(Error::LoaderFileMissing)?;
        let mut files = self.files.iter();
        if files.any(|loaded| loaded.selector == file.selector) {
            return Err(Error::BadLoaderScript);
        }
        let name_end = command.file.get(..=name.len());
        let name_end = name_end.unwrap_or(&command.file);
        let mut filled = file.size;
        if file.size >= PADDED_FILE_MIN {
            let used = checksummed_end(name_end, rest);
            if used > file.size {
                file.size = current_size(self.platform, self.dir, file)?;
                filled = file.size;
            }
            // Without a checksum the length in use is unknown.
            if used != 0 && used <= file.size.saturating_sub(WORTH_SAVING) {
                filled = used;
            }
        }
        // An empty file gets an address too.
        let len = file.size.max(1);
        let range = self.space.alloc(zone, len, align.max(MIN_ALIGN))?;
        let part = |len| range.part(0, len).ok_or(Error::LoaderOutOfBounds);
        self.platform.load(file.selector, part(filled)?)?;
        if name == file::RSDP {
            self.tables.rsdp = Some(range.start());
        }
        let loaded = Loaded {
            name: name_end,
            range: part(file.size)?,
            filled,
            selector: file.selector,
        };
        self.files
            .try_push(loaded)
            .map_err(|_| Error::TooManyTables)
    }

    /// The file called `name`.
    fn file(&mut self, name: &FileName) -> Result<&mut Loaded<'s>> {
        find(&mut self.files, name).ok_or(Error::LoaderFileMissing)
    }

    /// Adds the address of `src` to a pointer in `dest`.
    fn add_pointer(&mut self, command: &AddPointer) -> Result<()> {
        let src = self.file(&command.src)?;
        let (target, filled) = (src.range, src.filled);
        let start = command.offset.get();
        let end = start.saturating_add(command.size.into());
        let dest = find(&mut self.files, &command.dest).ok_or(Error::LoaderFileMissing)?;
        if dest.filled < end {
            dest.fill(self.platform)?;
        }
        let content = self.platform.bytes(dest.range)?;
        let pointer = content.get_mut(start as usize..end as usize);
        let offset = add_address(pointer.ok_or(Error::LoaderOutOfBounds)?, target)?;
        // A table's first byte decides whether the whole table is transferred, since
        // its checksum covers all of it.
        if offset >= filled {
            let src = find(&mut self.files, &command.src).ok_or(Error::LoaderFileMissing)?;
            src.fill(self.platform)?;
        }
        Ok(())
    }

    /// Completes a checksum, and with it a table.
    fn add_checksum(&mut self, command: &AddChecksum) -> Result<()> {
        let (offset, start, len) = (command.offset.get(), command.start.get(), command.len.get());
        let end = start.saturating_add(len);
        let file = find(&mut self.files, &command.file).ok_or(Error::LoaderFileMissing)?;
        if file.filled < end || file.filled <= offset {
            file.fill(self.platform)?;
        }
        let content = self.platform.bytes(file.range)?;
        let summed = content.get_mut(start as usize..end as usize);
        let summed = summed.ok_or(Error::LoaderOutOfBounds)?;
        let may_sum = self.may_sum.checked_sub(len);
        self.may_sum = may_sum.ok_or(Error::BadLoaderScript)?;
        // The RSDP has its checksums elsewhere.
        if start.checked_add(CHECKSUM_OFFSET) == Some(offset)
            && let Some(signature) = summed.first_chunk()
            && let Some(range) = file.range.part(start, len)
        {
            let signature = *signature;
            // Tables past the limit are loaded, but not noted.
            let _ = self.tables.all.try_push(Table { signature, range });
            if signature == *b"MCFG"
                && let Some(last_bus) = self.tables.last_bus
            {
                name_buses(summed, last_bus);
            }
        }
        let sum = byte_sum(summed);
        let checksum = content.get_mut(offset as usize);
        let checksum = checksum.ok_or(Error::LoaderOutOfBounds)?;
        *checksum = checksum.wrapping_sub(sum);
        Ok(())
    }

    /// Writes the address of a byte into a file of QEMU's.
    fn write_pointer(&mut self, command: &WritePointer) -> Result<()> {
        let offset = command.src_offset.get();
        let src = find(&mut self.files, &command.src).ok_or(Error::LoaderFileMissing)?;
        let target = src.range.part(offset, 1).ok_or(Error::LoaderOutOfBounds)?;
        if src.filled <= offset {
            src.fill(self.platform)?;
        }
        let dest = self.dir.find(up_to_nul(&command.dest));
        let dest = dest.ok_or(Error::LoaderFileMissing)?;
        let offset = command.dest_offset.get();
        offset
            .checked_add(command.size.into())
            .filter(|end| *end <= dest.size)
            .ok_or(Error::LoaderOutOfBounds)?;
        let mut address = [0; 8];
        let address = address
            .get_mut(..usize::from(command.size))
            .ok_or(Error::BadLoaderScript)?;
        add_address(address, target)?;
        self.platform.write(dest.selector, offset, address)?;
        let _ = self.tables.written.try_push(WrittenPointer {
            selector: dest.selector.into(),
            size: u16::from(command.size).into(),
            offset: offset.into(),
            address: target.start().into(),
        });
        Ok(())
    }
}

/// The command's number.
fn number(bytes: &[u8; COMMAND_LEN]) -> u32 {
    let command: &AddPointer = transmute_ref!(bytes);
    command.command.get()
}

/// Makes an MCFG table end at `last_bus`, the last bus that exists.
///
/// QEMU makes it name as many as the ECAM has room for. No other bus can come: the root
/// bus takes no hot-plug, and the buses that bridges reserve for it count.
fn name_buses(table: &mut [u8], last_bus: u8) {
    if let Ok((mcfg, _)) = Mcfg::mut_from_prefix(table) {
        mcfg.end_bus = mcfg.end_bus.min(last_bus);
    }
}

/// The size of `file` as the directory has it now.
///
/// QEMU rebuilds the tables when the first of their files is read. They may have grown
/// since the directory was read: 80 PCI bridges double them once the bridges are set
/// up. The transfers are made only for a file that is too small for its own script.
fn current_size<P: Platform>(platform: &mut P, dir: &Directory<'_>, file: File) -> Result<u32> {
    let mut count = [0; 4];
    platform.read(item::FILE_DIR, &mut count)?;
    for _ in dir.entries() {
        let mut entry = [0; size_of::<FileEntry>()];
        platform.read_next(&mut entry)?;
        let entry: &FileEntry = transmute_ref!(&entry);
        let now = entry.file();
        if now.selector == file.selector {
            return Ok(now.size);
        }
    }
    Ok(file.size)
}

/// The end of what the last checksum in file `name` covers; 0 without one.
///
/// QEMU's tables follow each other, so this is the end of them all. If a command refers
/// to a byte behind it, the whole file is transferred.
fn checksummed_end(name: &[u8], commands: &[[u8; COMMAND_LEN]]) -> u32 {
    for bytes in commands.iter().rev() {
        if number(bytes) == ADD_CHECKSUM {
            let command: &AddChecksum = transmute_ref!(bytes);
            if command.file.starts_with(name) {
                return command.start.get().saturating_add(command.len.get());
            }
        }
    }
    0
}

/// Adds the address of `file` to the offset in it that a pointer of 1, 2, 4 or 8 bytes
/// holds at first. Returns the offset.
fn add_address(pointer: &mut [u8], file: PhysRange) -> Result<u32> {
    let address = |offset: u32| {
        let byte = file.part(offset, 1).ok_or(Error::LoaderOutOfBounds)?;
        Ok::<u32, Error>(byte.start())
    };
    match pointer {
        [a, b, c, d] | [a, b, c, d, 0, 0, 0, 0] => {
            let offset = u32::from_le_bytes([*a, *b, *c, *d]);
            [*a, *b, *c, *d] = address(offset)?.to_le_bytes();
            Ok(offset)
        }
        [a, b] => {
            let offset = u16::from_le_bytes([*a, *b]).into();
            let address = u16::try_from(address(offset)?);
            [*a, *b] = address.map_err(|_| Error::LoaderOutOfBounds)?.to_le_bytes();
            Ok(offset)
        }
        [a] => {
            let offset = (*a).into();
            *a = u8::try_from(address(offset)?).map_err(|_| Error::LoaderOutOfBounds)?;
            Ok(offset)
        }
        // The upper half is not zero.
        [_, _, _, _, _, _, _, _] => Err(Error::LoaderOutOfBounds),
        _ => Err(Error::BadLoaderScript),
    }
}

#[cfg(test)]
mod tests;
