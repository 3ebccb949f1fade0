//! Where a bzImage and what comes with it lie in the file that QEMU's `-kernel`
//! names.
//!
//! QEMU offers that file as two items, setup and kernel, and cuts it behind the
//! setup code of a bzImage. In a unified kernel image the byte that says where
//! that is means something else, so any part may lie in either item, or in both.

use super::Loader;
use super::bzimage::SetupHeader;
use crate::error::{Error, Length, Result};
use crate::fw_cfg::item;
use crate::memory::map::Claim;
use crate::phys::PhysRange;
use crate::platform::Platform;

/// Consecutive bytes of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    /// From the file's start.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
}

/// A bzImage in its file, and what comes with it there.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// How much of the file the setup item has.
    pub(super) cut: u32,
    /// The bzImage.
    pub(super) linux: Extent,
    /// Its code, behind the setup code.
    pub(super) code: Extent,
    /// Whether initrd and command line come in the file too, or are items.
    pub is_unified: bool,
    pub(super) cmdline: Extent,
    /// Microcode, an archive that belongs before the initrd.
    pub(super) ucode: Extent,
    pub(super) initrd: Extent,
}

/// Loads from `offset` of the file on, which QEMU has cut at `cut`: one
/// transfer, or two if the cut divides it.
pub(super) fn load<P: Platform>(
    loader: &mut Loader<'_, P>,
    cut: u32,
    offset: u32,
    to: PhysRange,
) -> Result<()> {
    let in_setup = cut.saturating_sub(offset).min(to.len());
    let tail = to.behind(in_setup).ok_or(Error::NotOurMemory)?;
    if let Some(head) = to.part(0, in_setup)
        && !head.is_empty()
    {
        loader.load_part(item::SETUP_DATA, offset, head)?;
    }
    if tail.is_empty() {
        return Ok(());
    }
    loader.load_part(item::KERNEL_DATA, offset.saturating_sub(cut), tail)
}

impl Image {
    /// A file that is a bzImage: `cut` bytes of setup code, `len` of code.
    pub(super) fn plain(cut: u32, len: u32) -> Self {
        let none = Extent::default();
        Self {
            cut,
            linux: Extent {
                offset: 0,
                len: cut.saturating_add(len),
            },
            code: none,
            is_unified: false,
            cmdline: none,
            ucode: none,
            initrd: none,
        }
    }

    /// Tells setup code from what is behind it.
    pub(super) fn pass_setup(&mut self, len: u32) {
        self.code = Extent {
            offset: self.linux.offset.saturating_add(len),
            len: self.linux.len.saturating_sub(len),
        };
    }

    /// Loads boot sector and setup code, as far as `to` has room.
    pub(super) fn load_setup<P: Platform>(
        &self,
        loader: &mut Loader<'_, P>,
        to: PhysRange,
    ) -> Result<()> {
        load(loader, self.cut, self.linux.offset, to)
    }

    /// Loads the code to the memory that was claimed for it.
    pub(super) fn load_code<P: Platform>(
        &self,
        loader: &mut Loader<'_, P>,
        to: &Claim,
    ) -> Result<()> {
        self.load_code_start(loader, to.range())
    }

    /// Loads as much of the code as `to`, a part of its memory, has room for.
    pub(super) fn load_code_start<P: Platform>(
        &self,
        loader: &mut Loader<'_, P>,
        to: PhysRange,
    ) -> Result<()> {
        load(loader, self.cut, self.code.offset, to)
    }

    /// Loads a part to the start of `to`.
    fn load_part<P: Platform>(
        &self,
        loader: &mut Loader<'_, P>,
        part: Extent,
        to: PhysRange,
    ) -> Result<()> {
        let to = to.part(0, part.len).ok_or(Error::NotOurMemory)?;
        load(loader, self.cut, part.offset, to)
    }

    /// Takes the file's own command line if the user gave none: into `line`,
    /// where the user's is, with at most `limit` characters.
    pub(super) fn complete_line<P: Platform>(
        &self,
        loader: &mut Loader<'_, P>,
        line: PhysRange,
        limit: u32,
    ) -> Result<()> {
        let cmdline = self.cmdline;
        if cmdline.len == 0 || loader.platform.bytes(line)?.first() != Some(&0) {
            return Ok(());
        }
        if cmdline.len > limit {
            return Err(Error::CommandLineTooLong(Length::new(cmdline.len, limit)));
        }
        self.load_part(loader, cmdline, line)?;
        // As systemd-stub does: the end of a line and the like are spaces.
        for byte in loader.platform.bytes(line)? {
            if (1..b' ').contains(byte) {
                *byte = b' ';
            }
        }
        Ok(())
    }

    /// Places and loads the initrd, if there is one: as high as it may go, or
    /// `anywhere` if it does not fit there.
    pub(super) fn load_initrd<P: Platform>(
        &self,
        loader: &mut Loader<'_, P>,
        header: &SetupHeader,
        anywhere: bool,
    ) -> Result<PhysRange> {
        let last = header.initrd_addr_max();
        if !self.is_unified {
            // QEMU fills the field in: a boot without an initrd asks nothing.
            return match header.ramdisk_size.get() {
                0 => Ok(PhysRange::EMPTY),
                _ => loader.load_initrd(last, anywhere),
            };
        }
        let len = self.ucode.len.saturating_add(self.initrd.len);
        if len == 0 {
            return Ok(PhysRange::EMPTY);
        }
        let whole = loader.place_initrd(len, last, anywhere)?.range();
        let behind = whole.behind(self.ucode.len).ok_or(Error::NotOurMemory)?;
        self.load_part(loader, self.ucode, whole)?;
        self.load_part(loader, self.initrd, behind)?;
        Ok(whole)
    }
}
