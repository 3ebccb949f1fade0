//! ACPI tables: the linker-loader script that QEMU hands over in
//! `etc/table-loader`.
//!
//! The script names files of fw_cfg that are to be loaded, and how their
//! pointers and checksums are completed once their addresses are known.
//! Specification: the structures at the head of QEMU's
//! `hw/acpi/bios-linker-loader.c`; table formats: ACPI 6.5, chapter 5.
//!
//! What the specification leaves open is decided as follows.
//!
//! - A command number that is not known is skipped, as other firmware does:
//!   QEMU adds commands only where ignoring them is safe. Number 0 ends the
//!   script: QEMU pads it with zeroes to a multiple of 4 KiB.
//! - A pointer's initial value is an offset into the file that it will point
//!   to, and has to lie inside that file.
//! - There is no way out of the F segment for a file that asks for it: an
//!   RSDP elsewhere is not found by a search (ACPI 6.5, 5.2.5.1).
//! - `etc/acpi/tables` is padded with zeroes to a multiple of 128 KiB. Of a
//!   file that large, only the part up to the end of its last checksum is
//!   transferred. What lies behind that end is left as it was, zero after
//!   power-on and stale after a reset; a command that refers to a byte there
//!   has the whole file transferred first, so no table ever contains it.

mod command;

use self::command::{
    ADD_CHECKSUM, ADD_POINTER, ALLOCATE, AddChecksum, AddPointer, Allocate, COMMAND_LEN, END,
    WRITE_POINTER, WritePointer, ZONE_FSEG, ZONE_HIGH,
};
use crate::error::{Error, Result};
use crate::fw_cfg::{Directory, File, FileEntry, FileName, FwCfg, item, same_name};
use crate::phys::{GuestMemory, PhysRange, u32_at};
use arrayvec::ArrayVec;
use zerocopy::transmute_ref;

/// The file that holds the RSDP.
pub use crate::fw_cfg::file::RSDP;
/// The file that holds the script.
pub use crate::fw_cfg::file::TABLE_LOADER as SCRIPT;

/// Where a file has to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// Anywhere below 4 GiB, in memory that E820 reserves for ACPI.
    High,
    /// The F segment, where the RSDP is searched for.
    Fseg,
}

/// Gives out memory that stays reserved for the kernel.
pub trait Allocator {
    /// `len` bytes in `zone` at a multiple of `align`, a power of two.
    ///
    /// # Errors
    /// [`Error::TablesTooBig`] when the zone has no room for it.
    fn alloc(&mut self, zone: Zone, len: u32, align: u32) -> Result<PhysRange>;

    /// Told how many bytes of a padded file are in use.
    fn used(&mut self, _len: u32) {}
}

/// QEMU pads scripts to multiples of this many bytes on machines where they
/// may grow.
const SCRIPT_PADDING: usize = 0x1000;

/// Files that a script may allocate; QEMU's largest machines have six.
const MAX_FILES: usize = 32;

/// QEMU fills its page-sized files; only larger ones can be mostly padding.
const PADDED_FILE_MIN: u32 = 0x1_0000;

/// What a transfer has to save, so that it is made in part only.
const WORTH_SAVING: u32 = 0x1000;

/// Alignment of every file: the RSDP needs it (ACPI 6.5, 5.2.5.1), and
/// checksums go faster.
const MIN_ALIGN: u32 = 16;

/// A file in guest memory.
struct Loaded<'s> {
    name: &'s FileName,
    /// From its start, what has been transferred.
    filled: PhysRange,
    /// Bytes of the whole file, all of them allocated.
    len: u32,
    selector: u16,
}

impl Loaded<'_> {
    /// Transfers what is missing.
    ///
    /// Reading starts anew, and what is there may have been patched already:
    /// the bytes to be passed over go where the missing ones will be.
    #[cold]
    #[inline(never)]
    fn fill<F: FwCfg, M: GuestMemory>(&mut self, fw_cfg: &mut F, memory: &mut M) -> Result<()> {
        let whole =
            PhysRange::new(self.filled.start(), self.len).ok_or(Error::LoaderOutOfBounds)?;
        let missing =
            PhysRange::between(self.filled.end(), whole.end()).ok_or(Error::LoaderOutOfBounds)?;
        let missing = memory.bytes(missing)?;
        let mut selector = Some(self.selector);
        let mut skip = self.filled.len() as usize;
        while skip != 0 {
            let len = skip.min(missing.len());
            let sink = missing.get_mut(..len).ok_or(Error::LoaderOutOfBounds)?;
            match selector.take() {
                Some(selector) => fw_cfg.read(selector, sink)?,
                None => fw_cfg.read_next(sink)?,
            }
            skip = skip.saturating_sub(len);
        }
        fw_cfg.read_next(missing)?;
        self.filled = whole;
        Ok(())
    }
}

/// The files that the script has allocated.
struct Files<'s>(ArrayVec<Loaded<'s>, MAX_FILES>);

impl<'s> Files<'s> {
    /// The file called `name`.
    ///
    /// Searched from the back: QEMU's last allocation is `etc/acpi/tables`,
    /// which nearly all commands name.
    #[inline(always)]
    fn get(&self, name: &FileName) -> Option<&Loaded<'s>> {
        let mut files = self.0.iter().rev();
        files.find(|file| same_name(file.name, name))
    }

    /// Where the file called `name` lies, transferred whole if only its start
    /// has been and the first `end` bytes are needed.
    fn filled<F: FwCfg, M: GuestMemory>(
        &mut self,
        name: &FileName,
        end: u32,
        fw_cfg: &mut F,
        memory: &mut M,
    ) -> Result<PhysRange> {
        let mut files = self.0.iter_mut();
        let file = files
            .find(|file| same_name(file.name, name))
            .ok_or(Error::LoaderFileMissing)?;
        if file.filled.len() < end.min(file.len) {
            file.fill(fw_cfg, memory)?;
        }
        Ok(file.filled)
    }
}

/// Reads the script `file` into the start of `scratch`.
///
/// # Errors
/// [`Error::BadLoaderScript`] when it does not fit, and the transfer's.
#[inline(always)]
pub fn read_script<'b, F: FwCfg>(
    file: File,
    fw_cfg: &mut F,
    scratch: &'b mut [u8],
) -> Result<&'b [u8]> {
    let mut len = file.size as usize;
    let script = scratch.get_mut(..len).ok_or(Error::BadLoaderScript)?;
    fw_cfg.read_inline(file.selector, script)?;
    // A padded script without padding may have grown since the directory was
    // read, like the tables: what is not there reads as zeroes.
    while len != 0 && len.is_multiple_of(SCRIPT_PADDING) && !is_padded(scratch, len) {
        let end = len.saturating_add(SCRIPT_PADDING);
        let more = scratch.get_mut(len..end).ok_or(Error::BadLoaderScript)?;
        fw_cfg.read_next(more)?;
        len = end;
    }
    scratch.get(..len).ok_or(Error::BadLoaderScript)
}

/// Whether the last command of the `len` bytes is [`END`].
fn is_padded(script: &[u8], len: usize) -> bool {
    let last = len.checked_sub(COMMAND_LEN);
    last.and_then(|last| u32_at(script, last)) == Some(END)
}

/// Runs the linker-loader script `script`, the content of [`SCRIPT`].
///
/// Gives the address of the RSDP, if the script loaded one. Memory is written
/// inside the ranges that `alloc` gave and nowhere else.
///
/// # Errors
/// [`Error::BadLoaderScript`] for fields that the format does not know,
/// [`Error::LoaderFileMissing`] for files that fw_cfg does not have or that
/// were not allocated before they are used, [`Error::LoaderOutOfBounds`] for
/// offsets outside their file and addresses that do not fit their field,
/// [`Error::TooManyTables`] for more than 32 files, and what `fw_cfg`,
/// `memory` and `alloc` give.
#[inline(never)]
pub fn load<F: FwCfg, M: GuestMemory, A: Allocator>(
    script: &[u8],
    dir: &Directory<'_>,
    fw_cfg: &mut F,
    memory: &mut M,
    alloc: &mut A,
) -> Result<Option<u32>> {
    let (mut rest, tail) = script.as_chunks::<COMMAND_LEN>();
    if !tail.is_empty() {
        return Err(Error::BadLoaderScript);
    }
    let byte_sum = memory.byte_summer();
    let mut files = Files(ArrayVec::new());
    let mut rsdp = None;
    while let [bytes, more @ ..] = rest {
        match number(bytes) {
            END => break,
            ALLOCATE => {
                let file = allocate(transmute_ref!(bytes), more, dir, fw_cfg, alloc, &files)?;
                fw_cfg.read_inline(file.selector, memory.bytes_inline(file.filled)?)?;
                if dir.is_rsdp(file.selector) {
                    rsdp = Some(file.filled.start());
                }
                files.0.try_push(file).map_err(|_| Error::TooManyTables)?;
            }
            ADD_POINTER | ADD_CHECKSUM => {
                // Commands for one file stand together: it is borrowed once.
                let command: &AddPointer = transmute_ref!(bytes);
                let file = files.get(&command.dest).ok_or(Error::LoaderFileMissing)?;
                let content = memory.bytes_inline(file.filled)?;
                let left = patch(file, content, rest, &files, byte_sum);
                if left.len() < rest.len() {
                    rest = left;
                    continue;
                }
                patch_whole(bytes, fw_cfg, memory, &mut files)?;
            }
            WRITE_POINTER => {
                write_pointer(transmute_ref!(bytes), dir, fw_cfg, memory, &mut files)?;
            }
            _ => {}
        }
        rest = more;
    }
    Ok(rsdp)
}

/// The command's number.
fn number(bytes: &[u8; COMMAND_LEN]) -> u32 {
    let command: &AddPointer = transmute_ref!(bytes);
    command.command.get()
}

/// Finds a place for a file, and how much of it is to be transferred.
fn allocate<'s, F: FwCfg, A: Allocator>(
    command: &'s Allocate,
    rest: &[[u8; COMMAND_LEN]],
    dir: &Directory<'_>,
    fw_cfg: &mut F,
    alloc: &mut A,
    files: &Files<'s>,
) -> Result<Loaded<'s>> {
    let zone = match command.zone {
        ZONE_HIGH => Zone::High,
        ZONE_FSEG => Zone::Fseg,
        _ => return Err(Error::BadLoaderScript),
    };
    // QEMU may ask for none at all: 0 is as good as 1.
    let align = command.align.get().max(1);
    if !align.is_power_of_two() {
        return Err(Error::BadLoaderScript);
    }
    let mut file = dir.find(&command.file).ok_or(Error::LoaderFileMissing)?;
    if files
        .0
        .iter()
        .any(|loaded| loaded.selector == file.selector)
    {
        return Err(Error::BadLoaderScript);
    }
    let mut filled = file.size;
    if file.size >= PADDED_FILE_MIN {
        let used = checksummed_end(&command.file, rest);
        if used > file.size {
            file.size = current_size(file, dir, fw_cfg)?;
            filled = file.size;
        }
        // Without a checksum nothing is known of the file.
        if used != 0 && used <= file.size.saturating_sub(WORTH_SAVING) {
            filled = used;
            alloc.used(used);
        }
    }
    // An empty file gets an address too.
    let range = alloc.alloc(zone, file.size.max(1), align.max(MIN_ALIGN))?;
    Ok(Loaded {
        name: &command.file,
        filled: PhysRange::new(range.start(), filled).ok_or(Error::TablesTooBig)?,
        len: file.size,
        selector: file.selector,
    })
}

/// The size of `file` as the directory has it now.
///
/// QEMU builds the tables anew when the first of their files is read, and
/// they may have grown since the directory was: 80 PCI bridges make them twice
/// as large once a reset has set the bridges up. Only a file that is too small
/// for its own script is worth the transfers.
#[cold]
#[inline(never)]
fn current_size<F: FwCfg>(file: File, dir: &Directory<'_>, fw_cfg: &mut F) -> Result<u32> {
    let mut count = [0; 4];
    fw_cfg.read(item::FILE_DIR, &mut count)?;
    for _ in dir.entries() {
        let mut entry = [0; size_of::<FileEntry>()];
        fw_cfg.read_next(&mut entry)?;
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
/// QEMU's tables follow each other, so this is the end of them all. Where it
/// were not, the command for a later one would have the file filled.
#[inline(always)]
fn checksummed_end(name: &FileName, commands: &[[u8; COMMAND_LEN]]) -> u32 {
    for bytes in commands.iter().rev() {
        if number(bytes) == ADD_CHECKSUM {
            let command: &AddChecksum = transmute_ref!(bytes);
            if same_name(&command.file, name) {
                return command.start.get().saturating_add(command.len.get());
            }
        }
    }
    0
}

/// Runs the commands at the start of `commands` that patch `file`, of which
/// `content` has been transferred; gives those that are left, first the
/// one that is for another file or for [`patch_whole`].
#[inline(never)]
fn patch<'c>(
    file: &Loaded<'_>,
    content: &mut [u8],
    mut commands: &'c [[u8; COMMAND_LEN]],
    files: &Files<'_>,
    byte_sum: fn(&[u8]) -> u8,
) -> &'c [[u8; COMMAND_LEN]] {
    while let [bytes, more @ ..] = commands {
        let command: &AddPointer = transmute_ref!(bytes);
        let done = match command.command.get() {
            ADD_POINTER if same_name(&command.dest, file.name) => {
                add_pointer(command, file, content, files)
            }
            ADD_CHECKSUM if same_name(&command.dest, file.name) => {
                add_checksum(transmute_ref!(bytes), content, byte_sum)
            }
            _ => None,
        };
        if done.is_none() {
            break;
        }
        commands = more;
    }
    commands
}

/// Completes a pointer as nearly all are: of four or eight bytes, to a table
/// that has been transferred. The others are not worth their instructions here.
#[inline(always)]
fn add_pointer(
    command: &AddPointer,
    dest: &Loaded<'_>,
    content: &mut [u8],
    files: &Files<'_>,
) -> Option<()> {
    let field = content.get_mut(command.offset.get() as usize..)?;
    let field = field.get_mut(..usize::from(command.size))?;
    let (low, high) = field.split_first_chunk_mut()?;
    match high.len() {
        0 => {}
        4 if u32_at(high, 0) == Some(0) => {}
        _ => return None,
    }
    let src = if same_name(&command.src, dest.name) {
        dest
    } else {
        files.get(&command.src)?
    };
    let old = u32::from_le_bytes(*low);
    if old >= src.filled.len() {
        return None;
    }
    *low = src.filled.start().wrapping_add(old).to_le_bytes();
    Some(())
}

/// Completes a checksum; `None` when it is not all inside `content`.
#[inline(always)]
fn add_checksum(
    command: &AddChecksum,
    content: &mut [u8],
    byte_sum: fn(&[u8]) -> u8,
) -> Option<()> {
    let summed = content.get(command.start.get() as usize..)?;
    let sum = byte_sum(summed.get(..command.len.get() as usize)?);
    let checksum = content.get_mut(command.offset.get() as usize)?;
    *checksum = checksum.wrapping_sub(sum);
    Some(())
}

/// Runs a command that [`patch`] has left: with the files whole, and pointers
/// of any size.
#[cold]
#[inline(never)]
fn patch_whole<F: FwCfg, M: GuestMemory>(
    bytes: &[u8; COMMAND_LEN],
    fw_cfg: &mut F,
    memory: &mut M,
    files: &mut Files<'_>,
) -> Result<()> {
    let command: &AddPointer = transmute_ref!(bytes);
    let dest = files.filled(&command.dest, u32::MAX, fw_cfg, memory)?;
    if number(bytes) == ADD_CHECKSUM {
        let content = memory.bytes(dest)?;
        let done = add_checksum(transmute_ref!(bytes), content, crate::phys::byte_sum);
        return done.ok_or(Error::LoaderOutOfBounds);
    }
    let src = files.filled(&command.src, u32::MAX, fw_cfg, memory)?;
    let field = memory
        .bytes(dest)?
        .get_mut(command.offset.get() as usize..)
        .and_then(|bytes| bytes.get_mut(..usize::from(command.size)))
        .ok_or(Error::LoaderOutOfBounds)?;
    // Its table has a checksum behind it or none at all, so that its first
    // byte decides for the whole of it.
    let target = src
        .part(offset(field)?, 1)
        .ok_or(Error::LoaderOutOfBounds)?;
    put_address(field, target.start())
}

/// The offset that a pointer holds at first.
fn offset(field: &[u8]) -> Result<u32> {
    match field {
        [a, b, c, d] | [a, b, c, d, 0, 0, 0, 0] => Ok(u32::from_le_bytes([*a, *b, *c, *d])),
        [a, b] => Ok(u16::from_le_bytes([*a, *b]).into()),
        [a] => Ok((*a).into()),
        // The upper half is not zero.
        [_, _, _, _, _, _, _, _] => Err(Error::LoaderOutOfBounds),
        _ => Err(Error::BadLoaderScript),
    }
}

/// Writes an address into a pointer of 1, 2, 4 or 8 bytes, of 8 the upper half
/// being zero already.
fn put_address(field: &mut [u8], address: u32) -> Result<()> {
    match field {
        [a, b, c, d] | [a, b, c, d, 0, 0, 0, 0] => [*a, *b, *c, *d] = address.to_le_bytes(),
        [a, b] => {
            let address = u16::try_from(address).map_err(|_| Error::LoaderOutOfBounds)?;
            [*a, *b] = address.to_le_bytes();
        }
        [a] => *a = u8::try_from(address).map_err(|_| Error::LoaderOutOfBounds)?,
        _ => return Err(Error::BadLoaderScript),
    }
    Ok(())
}

#[cold]
#[inline(never)]
fn write_pointer<F: FwCfg, M: GuestMemory>(
    command: &WritePointer,
    dir: &Directory<'_>,
    fw_cfg: &mut F,
    memory: &mut M,
    files: &mut Files<'_>,
) -> Result<()> {
    let offset = command.src_offset.get();
    let src = files.filled(&command.src, offset.saturating_add(1), fw_cfg, memory)?;
    let target = src.part(offset, 1).ok_or(Error::LoaderOutOfBounds)?;
    let dest = dir.find(&command.dest).ok_or(Error::LoaderFileMissing)?;
    let dest_offset = command.dest_offset.get();
    dest_offset
        .checked_add(u32::from(command.size))
        .filter(|end| *end <= dest.size)
        .ok_or(Error::LoaderOutOfBounds)?;
    let mut address = [0; 8];
    let address = address
        .get_mut(..usize::from(command.size))
        .ok_or(Error::BadLoaderScript)?;
    put_address(address, target.start())?;
    fw_cfg.write(dest.selector, dest_offset, address)
}

#[cfg(test)]
mod tests;
