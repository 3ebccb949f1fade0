//! Kernels entered in real mode: bzImages and zImages, at their 16-bit setup code.
//!
//! Specification: Linux `Documentation/arch/x86/boot.rst`, "Memory Layout" and
//! "Sample Boot Configuration".

use super::bzimage::claim_code;
use super::setup_header::{HEADER_OFFSET, LoadFlags, SetupHeader, TYPE_OF_LOADER};
use super::{Handoff, Image, Loaded, Loader, payload};
use crate::chipset;
use crate::error::{Error, Result};
use crate::fw_cfg::item;
use crate::layout;
use crate::memory::map::Claim;
use crate::phys::PhysRange;
use crate::platform::Platform;
use crate::tables::low_memory;
use zerocopy::FromBytes;
use zerocopy::byteorder::little_endian::U16;

/// Where a kernel's 16-bit code, its stack, heap and command line go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetupLayout {
    /// Boot sector and setup code. Heap and stack follow, then the command line.
    pub base: u32,
    /// Offset of the end of heap and stack, where the command line begins.
    pub heap_end: u16,
    /// Whether the rest of the kernel belongs at 64 KiB (zImage) rather than 1 MiB.
    pub is_low: bool,
}

/// Bytes of the stack, below [`SetupLayout::heap_end`].
pub const STACK_LEN: u16 = 0x200;
/// Where a zImage's code belongs: up to its setup code.
pub const LOW_KERNEL: PhysRange = PhysRange::fixed(0x1_0000, 0x9_0000);

impl SetupLayout {
    /// The layout for this boot protocol.
    #[must_use]
    pub const fn new(protocol: u16, loaded_high: bool) -> Self {
        if loaded_high && protocol >= 0x202 {
            Self {
                base: 0x1_0000,
                heap_end: 0xe000,
                is_low: false,
            }
        } else {
            Self {
                base: LOW_KERNEL.end(),
                heap_end: 0x9800,
                is_low: !loaded_high,
            }
        }
    }
}

/// The longest command line for 16-bit code: the rest of its segment behind heap and
/// stack.
const MAX_LINE: u32 = 0x1fff;

/// Boot sector and setup code, up to the last field that a boot loader writes.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SetupCode {
    _boot_sector: [u8; 0x20],
    /// Before protocol 2.02: [`CL_MAGIC`] if there is a command line.
    cl_magic: U16,
    /// The command line's offset in the segment.
    cl_offset: U16,
    _more: [u8; HEADER_OFFSET - 0x24],
    header: SetupHeader,
}
const CL_MAGIC: u16 = 0xa33f;

/// A kernel that is entered at its 16-bit code.
#[derive(Debug)]
pub struct RealMode<'a> {
    /// The image's header.
    pub header: &'a SetupHeader,
    /// Where the image is read from.
    pub image: Image,
    layout: SetupLayout,
    /// Where the rest of the kernel goes; a zImage's only until the handoff.
    code: Claim,
    pub(super) line: PhysRange,
}

impl<'a> RealMode<'a> {
    /// Claims memory for setup code and kernel, and reads the command line to the end
    /// of the setup code's segment.
    ///
    /// # Errors
    /// [`Error::Needs16BitEntry`], [`Error::CommandLineTooLong`],
    /// [`Error::KernelTooBig`], [`Error::BadSetupHeader`].
    pub fn claim<P: Platform>(
        loader: &mut Loader<'_, P>,
        header: &'a SetupHeader,
        image: Image,
    ) -> Result<Self> {
        let is_high = header.loadflags().contains(LoadFlags::LOADED_HIGH);
        let layout = SetupLayout::new(header.protocol(), is_high);
        let heap_end = u32::from(layout.heap_end);
        if header.setup_len() > heap_end.saturating_sub(STACK_LEN.into()) {
            return Err(Error::Needs16BitEntry);
        }
        let limit = header.cmdline_size().min(MAX_LINE);
        let line_len = limit.saturating_add(1);
        let segment = PhysRange::new(layout.base, heap_end.saturating_add(line_len))
            .and_then(|segment| loader.map.claim(segment))
            .ok_or(Error::Needs16BitEntry)?
            .range();
        let line = segment.part(heap_end, line_len);
        let line = line.ok_or(Error::NotOurMemory)?;
        loader.platform.load(item::CMDLINE_DATA, line)?;
        loader.check_command_line(line, limit)?;
        image.complete_line(loader, line, limit)?;
        let code = if layout.is_low {
            claim_low_code(loader, header, image.code.len)?
        } else {
            claim_code(loader, header, image.code.len)?
        };
        Ok(Self {
            header,
            image,
            layout,
            code,
            line,
        })
    }

    /// Where the rest of the kernel goes.
    #[must_use]
    pub const fn code(&self) -> PhysRange {
        self.code.range()
    }

    /// Loads initrd, kernel and setup code, and the data that the BIOS services answer
    /// from.
    ///
    /// # Errors
    /// [`Error::InitrdTooBig`], [`Error::KernelTruncated`],
    /// [`Error::BadSetupHeader`].
    pub fn load<P: Platform>(&self, loader: &mut Loader<'_, P>) -> Result<Loaded> {
        let header = self.header;
        let initrd = self.image.load_initrd(loader, header, false)?;
        let code = self.code.range();
        self.image.load_code(loader, &self.code)?;
        payload::check(loader, header, &self.image, code)?;
        let setup_data = payload::setup_data(loader, header, code)?;

        let setup = PhysRange::new(self.layout.base, header.setup_len());
        let setup = setup.ok_or(Error::NotOurMemory)?;
        self.image.load_setup(loader, setup)?;
        let setup = loader.platform.bytes(setup)?;
        let (setup, _) = SetupCode::mut_from_prefix(setup).map_err(|_| Error::NotOurMemory)?;
        self.fill_in(setup, initrd);
        if header.protocol() >= 0x209 {
            setup.header.setup_data = setup_data;
        }
        low_memory::write_ebda(loader.platform, loader.map.entries())?;
        chipset::set_up_devices_for_bios(loader.platform, true);
        let handoff = Handoff::RealMode {
            segment: u16::try_from(self.layout.base >> 4).map_err(|_| Error::NotOurMemory)?,
            stack: self.layout.heap_end,
            low_kernel: self.layout.is_low.then_some(code),
        };
        Ok(Loaded { handoff, initrd })
    }

    /// Fills in the fields that the protocol has.
    fn fill_in(&self, setup: &mut SetupCode, initrd: PhysRange) {
        let (protocol, heap_end) = (self.header.protocol(), self.layout.heap_end);
        let header = &mut setup.header;
        header.type_of_loader = TYPE_OF_LOADER;
        header.ramdisk_image = initrd.start().into();
        header.ramdisk_size = initrd.len().into();
        if protocol >= 0x201 {
            header.loadflags |= LoadFlags::CAN_USE_HEAP.bits();
            header.heap_end_ptr = heap_end.saturating_sub(STACK_LEN).into();
        }
        if protocol >= 0x202 {
            header.cmd_line_ptr = self.line.start().into();
        } else {
            // Only old boot sectors have these fields. setup_move_size makes the kernel
            // move the line with its code.
            setup.cl_magic = CL_MAGIC.into();
            setup.cl_offset = heap_end.into();
            let line_len = u16::try_from(self.line.len()).unwrap_or(u16::MAX);
            header.setup_move_size = heap_end.saturating_add(line_len).into();
        }
    }
}

/// Claims a zImage's place, and high memory to load it to: it moves to its place at the
/// handoff, since the firmware uses that memory until then.
fn claim_low_code<P: Platform>(
    loader: &mut Loader<'_, P>,
    header: &SetupHeader,
    size: u32,
) -> Result<Claim> {
    // The setup code would jump to an address where nothing is loaded.
    if header.code32_start.get() >= layout::HIGH_RAM {
        return Err(Error::BadSetupHeader);
    }
    for part in &[layout::LOW_FREE, layout::LOW_FREE_TOP] {
        let start = part.start().max(LOW_KERNEL.start());
        let part = PhysRange::between(start, part.end().min(LOW_KERNEL.end()));
        let part = part.and_then(|part| loader.map.claim(part));
        part.ok_or(Error::Needs16BitEntry)?;
    }
    let high = loader.map.high();
    let claim = loader.map.place(size, 16, high);
    let no_room = Error::KernelTooBig(loader.map.room(size, LOW_KERNEL));
    claim.filter(|_| size <= LOW_KERNEL.len()).ok_or(no_room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setup_code_goes_where_its_protocol_says() {
        assert_eq!(SetupLayout::new(0x20c, true).base, 0x1_0000);
        assert_eq!(SetupLayout::new(0x201, true).base, 0x9_0000);
        assert_eq!(
            SetupLayout::new(0x20c, false),
            SetupLayout {
                base: 0x9_0000,
                heap_end: 0x9800,
                is_low: true
            }
        );
    }
}
