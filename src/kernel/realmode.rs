//! Kernels that are entered in real mode.

use super::{Claimed, Handoff, Loader};
use crate::bzimage::{LoadFlags, RealModeHeader, SetupHeader, hdr};
use crate::e820::Claim;
use crate::error::{Error, Result};
use crate::fw_cfg::{FwCfg, item};
use crate::layout;
use crate::phys::{GuestMemory, PhysRange, u32_at};
use crate::realmode::{self, LOW_KERNEL, STACK_LEN, SetupLayout};

/// The longest command line for 16-bit code: what its segment has room for
/// behind heap and stack.
const MAX_REAL_MODE_LINE: u32 = 0x1fff;

fn real_mode_layout(header: &SetupHeader<'_>) -> SetupLayout {
    let loaded_high = header.loadflags().contains(LoadFlags::LOADED_HIGH);
    SetupLayout::new(header.protocol(), loaded_high)
}

impl<F: FwCfg, M: GuestMemory> Loader<'_, F, M> {
    /// Claims the memory of a kernel that is entered at its 16-bit code, and
    /// reads the command line to the end of that code's segment.
    #[cold]
    #[inline(never)]
    pub(super) fn claim_real_mode(&mut self, header: &SetupHeader<'_>) -> Result<Claimed> {
        let setup = real_mode_layout(header);
        let len = header.setup_len();
        if len > u32::from(setup.heap_end.saturating_sub(STACK_LEN)) {
            return Err(Error::Needs16BitEntry);
        }
        let limit = header.cmdline_size().min(MAX_REAL_MODE_LINE);
        let line_len = limit.saturating_add(1);
        let whole = u32::from(setup.heap_end).saturating_add(line_len);
        let segment = PhysRange::new(setup.base, whole).and_then(|range| self.map.claim(range));
        let segment = segment.ok_or(Error::Needs16BitEntry)?.range();
        let block = segment
            .part(u32::from(setup.heap_end), line_len)
            .ok_or(Error::NotOurMemory)?;
        let line = self.memory.bytes(block)?;
        self.fw_cfg.read(item::CMDLINE_DATA, line)?;
        if line.last() != Some(&0) {
            return Err(Error::CommandLineTooLong);
        }
        let image = if setup.is_low {
            self.claim_low_kernel(header)?
        } else {
            self.claim_bzimage(header)?
        };
        Ok(Claimed {
            image: Some(image),
            block,
            line_len,
        })
    }

    /// Claims high memory for a zImage, which can only move to its place when
    /// the firmware is done with the memory there, and that place.
    #[cold]
    #[inline(never)]
    pub(super) fn claim_low_kernel(&mut self, header: &SetupHeader<'_>) -> Result<Claim> {
        // Its setup code would jump to where nothing is loaded.
        if header.code32_start() >= layout::HIGH_RAM {
            return Err(Error::BadSetupHeader);
        }
        for part in [layout::LOW_FREE, layout::LOW_FREE_TOP] {
            let start = part.start().max(LOW_KERNEL.start());
            let part = PhysRange::between(start, part.end().min(LOW_KERNEL.end()));
            let part = part.and_then(|part| self.map.claim(part));
            part.ok_or(Error::Needs16BitEntry)?;
        }
        let size = self.fw_cfg.read_u32(item::KERNEL_SIZE)?;
        let high = self.map.high();
        match self.map.place(size, 16, high) {
            Some(claim) if size <= LOW_KERNEL.len() => Ok(claim),
            _ => self.short(Error::KernelTooBig, size, LOW_KERNEL),
        }
    }

    #[cold]
    #[inline(never)]
    pub(super) fn load_real_mode(
        &mut self,
        header: &SetupHeader<'_>,
        claimed: &Claimed,
    ) -> Result<Handoff> {
        let setup = real_mode_layout(header);
        let initrd = match header.ramdisk_size() {
            0 => None,
            _ => self.load_initrd(header.initrd_addr_max(), false)?,
        };
        let image = claimed.image.as_ref().ok_or(Error::NotOurMemory)?;
        let loaded = image.range();
        let low_kernel = setup.is_low.then_some(loaded);
        self.load_item(item::KERNEL_DATA, image)?;
        self.check_whole(header, loaded)?;
        let code_range = PhysRange::new(setup.base, header.setup_len());
        let code_range = code_range.ok_or(Error::NotOurMemory)?;
        let code = self.memory.bytes(code_range)?;
        self.fw_cfg.read(item::SETUP_DATA, code)?;
        RealModeHeader {
            base: setup.base,
            heap_end: setup.heap_end,
            stack_len: STACK_LEN,
            line_len: u16::try_from(claimed.line_len).map_err(|_| Error::CommandLineTooLong)?,
            ramdisk: initrd.map_or((0, 0), |range| (range.start(), range.len())),
        }
        .write(header.protocol(), code)?;
        let setup_data = u32_at(code, hdr::SETUP_DATA).unwrap_or(0);
        if setup_data != 0 {
            self.correct_setup_data(setup_data, header, loaded, code_range)?;
        }
        self.write_ebda()?;
        Ok(Handoff::RealMode {
            segment: u16::try_from(setup.base >> 4).map_err(|_| Error::NotOurMemory)?,
            stack: setup.heap_end,
            low_kernel,
        })
    }

    #[cold]
    pub(super) fn write_ebda(&mut self) -> Result<()> {
        realmode::write_ebda(self.memory, self.map.entries())
    }
}
