//! Linux's bzImage by the 32-bit boot protocol: its memory and its zero page.
//!
//! Specification: Linux `Documentation/arch/x86/boot.rst` and
//! `zero-page.rst`; fields have the names that they have there.

use super::load::MAX_COMMAND_LINE;
use super::setup_header::{HEADER_OFFSET, SetupHeader, TYPE_OF_LOADER, XLoadFlags};
use super::{Handoff, Image, Loaded, Loader, payload};
use crate::error::{Error, Result};
use crate::layout::HIGH_RAM;
use crate::memory::map::{Claim, Entry, MAX_ENTRIES, high_ram_end};
use crate::phys::PhysRange;
use crate::platform::Platform;
use core::mem::offset_of;
use zerocopy::FromBytes;
use zerocopy::byteorder::little_endian::{U32, U64};

/// `struct boot_params`, the zero page, up to the last field that is filled in.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct BootParams {
    screen_info_and_more: [u8; 0x70],
    acpi_rsdp_addr: U64,
    _tboot_to_edid: [u8; 0x168],
    /// KiB above 1 MiB, what INT 15h E801 would say.
    alt_mem_k: U32,
    scratch: U32,
    e820_entries: u8,
    _buf_and_flags: [u8; 8],
    hdr: SetupHeader,
    _edd_mbr_sig_buffer: [u8; 0x40],
    e820_table: [Entry; MAX_ENTRIES],
    _rest: [u8; 0x330],
}

/// Bytes of a zero page.
pub const BOOT_PARAMS_LEN: u32 = 4096;
const _: () = {
    assert!(offset_of!(BootParams, alt_mem_k) == 0x1e0);
    assert!(offset_of!(BootParams, hdr) == HEADER_OFFSET);
    assert!(offset_of!(BootParams, e820_table) == 0x2d0);
    assert!(size_of::<BootParams>() == BOOT_PARAMS_LEN as usize);
};

/// Claims memory for a bzImage's protected-mode code of `size` bytes: where it is
/// loaded, and where it runs until it has read the memory map.
pub(super) fn claim_code<P: Platform>(
    loader: &mut Loader<'_, P>,
    header: &SetupHeader,
    size: u32,
) -> Result<Claim> {
    let no_room = |loader: &Loader<'_, P>, need| Error::KernelTooBig(loader.room(need));
    let load = PhysRange::new(HIGH_RAM, size).ok_or_else(|| no_room(loader, size))?;
    let mut end = load.end();
    if let Some((start, init_size)) = header.runtime(load.start())? {
        let run = PhysRange::new(start, init_size).ok_or_else(|| no_room(loader, init_size))?;
        end = end.max(run.end());
    }
    let whole = PhysRange::between(load.start(), end).ok_or(Error::NotOurMemory)?;
    let claim = loader.map.claim(whole);
    let claim = claim.ok_or_else(|| no_room(loader, whole.len()))?;
    claim.narrow(load).ok_or(Error::NotOurMemory)
}

/// A bzImage that is entered at its 32-bit code.
#[derive(Debug)]
pub struct BzImage<'a> {
    /// The image's header.
    pub header: &'a SetupHeader,
    /// Where the image is read from.
    pub image: Image,
    /// Where the protected-mode code goes.
    code: Claim,
    pub(super) line: PhysRange,
    /// The zero page, which holds zeroes.
    boot_params: PhysRange,
}

impl<'a> BzImage<'a> {
    /// Claims the code's memory and reads the command line.
    ///
    /// # Errors
    /// [`Error::KernelTooBig`], [`Error::CommandLineTooLong`],
    /// [`Error::BadSetupHeader`].
    pub fn claim<P: Platform>(
        loader: &mut Loader<'_, P>,
        header: &'a SetupHeader,
        image: Image,
    ) -> Result<Self> {
        let code = claim_code(loader, header, image.code.len)?;
        let limit = header.cmdline_size().min(MAX_COMMAND_LINE);
        let (line, boot_params) = loader.read_command_line(limit, BOOT_PARAMS_LEN)?;
        image.complete_line(loader, line, limit)?;
        Ok(Self {
            header,
            image,
            code,
            line,
            boot_params,
        })
    }

    /// Where the code goes.
    #[must_use]
    pub const fn code(&self) -> PhysRange {
        self.code.range()
    }

    /// Loads initrd and code, and fills in the zero page.
    ///
    /// # Errors
    /// [`Error::InitrdTooBig`], [`Error::KernelTruncated`],
    /// [`Error::BadSetupHeader`].
    pub fn load<P: Platform>(&self, loader: &mut Loader<'_, P>, rsdp: u32) -> Result<Loaded> {
        let header = self.header;
        // Linux names 2 GiB only out of caution. If it can be loaded above 4 GiB, it
        // takes its initrd anywhere.
        let flags = header.xloadflags();
        let anywhere = flags.contains(XLoadFlags::CAN_BE_LOADED_ABOVE_4G);
        let initrd = self.image.load_initrd(loader, header, anywhere)?;
        let code = self.code.range();
        self.image.load_code(loader, &self.code)?;
        payload::check(loader, header, &self.image, code)?;
        let setup_data = payload::setup_data(loader, header, code)?;

        let e820 = loader.map.entries();
        let page = loader.platform.bytes(self.boot_params)?;
        let page = BootParams::mut_from_bytes(page).map_err(|_| Error::NotOurMemory)?;
        page.hdr = *header;
        page.hdr.type_of_loader = TYPE_OF_LOADER;
        page.hdr.code32_start = code.start().into();
        page.hdr.ramdisk_image = initrd.start().into();
        page.hdr.ramdisk_size = initrd.len().into();
        page.hdr.cmd_line_ptr = self.line.start().into();
        page.hdr.setup_data = setup_data;
        page.acpi_rsdp_addr = u64::from(rsdp).into();
        page.alt_mem_k = (high_ram_end(e820).saturating_sub(HIGH_RAM) >> 10).into();
        page.e820_entries = u8::try_from(e820.len()).map_err(|_| Error::TooManyE820Entries)?;
        let table = page.e820_table.get_mut(..e820.len());
        table
            .ok_or(Error::TooManyE820Entries)?
            .copy_from_slice(e820);
        let handoff = Handoff::Linux {
            entry: code.start(),
            boot_params: self.boot_params.start(),
        };
        Ok(Loaded { handoff, initrd })
    }
}
