//! Multiboot's kernels.

use super::{Claimed, Handoff, Loader};
use crate::error::{Error, Result};
use crate::fw_cfg::{FwCfg, item};
use crate::layout;
use crate::multiboot;
use crate::phys::{GuestMemory, PhysRange};
use crate::pvh::Elf;

impl<F: FwCfg, M: GuestMemory> Loader<'_, F, M> {
    /// Claims the memory of a multiboot kernel and its modules.
    #[cold]
    #[inline(never)]
    pub(super) fn claim_multiboot(&mut self, image: &multiboot::Image) -> Result<Claimed> {
        let Some(claim) = self.map.claim(image.load) else {
            return if image.load.start() < layout::HIGH_RAM {
                Err(Error::KernelOverlapsFirmware)
            } else {
                self.short(Error::KernelTooBig, image.load.len(), self.map.high())
            };
        };
        Ok(Claimed {
            image: Some(claim),
            // The command line comes with the image.
            block: PhysRange::fixed(layout::LOW_FREE.start(), layout::LOW_FREE.start()),
            line_len: 0,
        })
    }

    #[cold]
    #[inline(never)]
    pub(super) fn load_multiboot(
        &mut self,
        image: &multiboot::Image,
        claimed: &Claimed,
    ) -> Result<Handoff> {
        let claim = claimed.image.as_ref().ok_or(Error::NotOurMemory)?;
        let head = self.map.place_low(image.head, 16);
        let head = head.ok_or(Error::KernelOverlapsFirmware)?.range();
        let bytes = self.memory.bytes(head)?;
        self.fw_cfg.read(item::KERNEL_DATA, bytes)?;
        if image.head != 0 && !Elf::is_elf(bytes) {
            return Err(Error::KernelOverlapsFirmware);
        }
        self.load_next(claim.range(), 0)?;
        let mut draft = [0; multiboot::INFO_LEN as usize];
        self.fw_cfg.read(item::INITRD_DATA, &mut draft)?;
        let bytes = self
            .memory
            .bytes(image.load)
            .map_err(|_| Error::KernelTooBig)?;
        let draft = multiboot::Draft::check(&draft, image.load, bytes)?;
        let len = multiboot::Info::block_len(self.map.entries().len());
        let block = self.map.place_low(len, 16);
        let info = block.ok_or(Error::KernelOverlapsFirmware)?.range();
        multiboot::Info {
            draft,
            e820: self.map.entries(),
        }
        .write(self.memory.bytes(info)?, info.start())?;
        // It may go back to real mode: Xen does.
        self.write_ebda()?;
        Ok(Handoff::Multiboot {
            entry: image.entry,
            info: info.start(),
        })
    }
}
