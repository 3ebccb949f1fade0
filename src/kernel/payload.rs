//! Checks that a bzImage's code is what its header describes, and corrects the address
//! of the data that QEMU has appended.

use super::setup_header::{SECTOR, SetupHeader};
use super::{Image, Loader};
use crate::error::{Error, Result};
use crate::phys::PhysRange;
use crate::platform::Platform;
use zerocopy::FromBytes;
use zerocopy::byteorder::little_endian::{U32, U64};

/// The most bytes by which a wrong `setup_sects` moves the code.
const MAX_MOVE: u32 = 255 * SECTOR;

/// The longest slice.
const MAX_SLICE: u32 = 1 << 30;

/// The head of a `struct setup_data` (`boot.rst`); its data follows.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SetupData {
    next: U64,
    kind: U32,
    len: U32,
}
const SETUP_DATA_LEN: u32 = 16;
const _: () = assert!(size_of::<SetupData>() == SETUP_DATA_LEN as usize);

/// How a compressed kernel starts: gzip, bzip2, LZMA, XZ, LZO, LZ4, ZSTD (Linux
/// `lib/decompress.c`).
const COMPRESSED: [&[u8]; 7] = [
    b"\x1f\x8b\x08",
    b"BZh",
    b"\x5d\0\0",
    b"\xfd7zXZ",
    b"\x89LZO",
    b"\x02\x21\x4c\x18",
    b"\x28\xb5\x2f\xfd",
];

/// Whether this is the start of a compressed kernel.
fn is_compressed(payload: &[u8]) -> bool {
    COMPRESSED.iter().any(|magic| payload.starts_with(magic))
}

/// Whether a compressed kernel starts whole sectors away from `offset`, as a wrong
/// `setup_sects` moves it.
fn is_moved(bytes: &[u8], offset: u32) -> bool {
    let end = offset.saturating_add(MAX_MOVE).saturating_add(1);
    (offset & (SECTOR - 1)..end)
        .step_by(SECTOR as usize)
        .any(|at| is_compressed(bytes.get(at as usize..).unwrap_or(&[])))
}

/// Whether 32-bit code, or its start, is Linux's own. Close to its entry, Linux makes
/// the zero page's `scratch` its stack and asks where it runs
/// (`arch/x86/boot/compressed/head_{32,64}.S`).
fn is_linux_entry(code: &[u8]) -> bool {
    /// `leal 0x1e8(%esi), %esp` and `call` to the next instruction.
    const LINUX: [u8; 11] = [0x8d, 0xa6, 0xe8, 1, 0, 0, 0xe8, 0, 0, 0, 0];
    let starts = |at| match code.get(at..) {
        None | Some([]) => false,
        Some(rest) => rest.iter().zip(&LINUX).all(|(byte, linux)| byte == linux),
    };
    // CLD comes first.
    code.first() == Some(&0xfc) && (code.len() < 3 || (1..64).any(starts))
}

/// Checks that the `code` that was loaded is what the header describes.
///
/// QEMU splits the file where `setup_sects` says. If that is wrong, the compressed
/// kernel lies whole sectors away from its place. An image that is shorter than its
/// header says is cut short if it has the start of a compressed kernel, or Linux's
/// entry. Otherwise it is other code behind a Linux kernel's header, and is let pass.
pub(super) fn check<P: Platform>(
    loader: &mut Loader<'_, P>,
    header: &SetupHeader,
    image: &Image,
    code: PhysRange,
) -> Result<()> {
    if code.is_empty() {
        return Err(Error::KernelTruncated);
    }
    let Some((offset, _)) = header.payload() else {
        return Ok(());
    };
    let missing = header.least_len().saturating_sub(code.len());
    let code = code.part(0, code.len().min(MAX_SLICE));
    let code = code.ok_or(Error::NotOurMemory)?;
    let bytes = loader.platform.bytes(code)?;
    let is_in_place = is_compressed(bytes.get(offset as usize..).unwrap_or(&[]));
    if missing != 0 && (is_in_place || is_linux_entry(bytes)) {
        return Err(Error::KernelTruncated);
    }
    if is_in_place || missing > MAX_MOVE {
        return Ok(());
    }
    // If `setup_sects` is too small, the compressed kernel lies further on in the code.
    // If it is too large, it lies at the end of the setup item, which is then read over
    // the code: no other memory is free for it.
    if is_moved(bytes, offset) {
        return Err(Error::BadSetupHeader);
    }
    let setup = code.part(0, header.setup_len().min(code.len()));
    let setup = setup.ok_or(Error::NotOurMemory)?;
    image.load_setup(loader, setup)?;
    if is_moved(loader.platform.bytes(setup)?, offset) {
        return Err(Error::BadSetupHeader);
    }
    image.load_code_start(loader, setup)
}

/// The header's `setup_data`, corrected: QEMU 10.0 and later count the offset of what
/// they append from the start of the file rather than of the `code`. Linux would follow
/// the wrong address into whatever an earlier boot has left there.
pub(super) fn setup_data<P: Platform>(
    loader: &mut Loader<'_, P>,
    header: &SetupHeader,
    code: PhysRange,
) -> Result<U64> {
    let given = header.setup_data;
    let corrected = u32::try_from(given.get())
        .unwrap_or(0)
        .checked_sub(header.setup_len());
    let offset = corrected.and_then(|addr| addr.checked_sub(code.start()));
    let (Some(corrected), Some(offset)) = (corrected, offset) else {
        return Ok(given);
    };
    let Some(head) = code.part(offset, SETUP_DATA_LEN) else {
        return Ok(given);
    };
    let head = SetupData::ref_from_bytes(loader.platform.bytes(head)?);
    let head = head.map_err(|_| Error::NotOurMemory)?;
    // QEMU appends one node, which ends where the item does.
    let end = offset
        .checked_add(SETUP_DATA_LEN)
        .and_then(|at| at.checked_add(head.len.get()));
    if head.next.get() == 0 && end == Some(code.len()) {
        return Ok(u64::from(corrected).into());
    }
    Ok(given)
}
