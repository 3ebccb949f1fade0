//! The commands of a linker-loader script, 128 bytes each.

use crate::fw_cfg::FileName;
use zerocopy::byteorder::little_endian::U32;

/// Bytes of a command.
pub(super) const COMMAND_LEN: usize = 128;

pub(super) const END: u32 = 0;
pub(super) const ALLOCATE: u32 = 1;
pub(super) const ADD_POINTER: u32 = 2;
pub(super) const ADD_CHECKSUM: u32 = 3;
pub(super) const WRITE_POINTER: u32 = 4;

pub(super) const ZONE_HIGH: u8 = 1;
pub(super) const ZONE_FSEG: u8 = 2;

/// Load `file` to a multiple of `align` in `zone`.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Allocate {
    pub(super) command: U32,
    pub(super) file: FileName,
    pub(super) align: U32,
    pub(super) zone: u8,
    pad: [u8; 63],
}

/// Add the address of `src` to the `size` bytes at `offset` in `dest`.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct AddPointer {
    pub(super) command: U32,
    pub(super) dest: FileName,
    pub(super) src: FileName,
    pub(super) offset: U32,
    pub(super) size: u8,
    pad: [u8; 7],
}

/// Subtract the sum of `len` bytes at `start` from the byte at `offset`.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct AddChecksum {
    pub(super) command: U32,
    pub(super) file: FileName,
    pub(super) offset: U32,
    pub(super) start: U32,
    pub(super) len: U32,
    pad: [u8; 56],
}

/// Tell QEMU, in the fw_cfg file `dest`, the address of `src_offset` in `src`.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct WritePointer {
    pub(super) command: U32,
    pub(super) dest: FileName,
    pub(super) src: FileName,
    pub(super) dest_offset: U32,
    pub(super) src_offset: U32,
    pub(super) size: u8,
    pad: [u8; 3],
}
