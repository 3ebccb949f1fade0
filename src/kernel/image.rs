//! Where the parts of a kernel image lie in the file that QEMU's `-kernel` names.
//!
//! QEMU offers the file as two items, setup and kernel. It cuts behind the setup code
//! of a bzImage. A unified kernel image has another byte where a bzImage has
//! `setup_sects`, so the cut is anywhere, and any part may lie in either item or in
//! both.

use super::Loader;
use super::setup_header::SetupHeader;
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

/// A bzImage in its file, and what else that has.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// Bytes of the file in the setup item.
    pub(super) cut: u32,
    /// The bzImage.
    pub(super) linux: Extent,
    /// Its code, behind the setup code.
    pub(super) code: Extent,
    /// Whether initrd and command line are in the file too, rather than items.
    pub is_unified: bool,
    pub(super) cmdline: Extent,
    /// Microcode, an archive that goes before the initrd.
    pub(super) ucode: Extent,
    pub(super) initrd: Extent,
}

/// Loads the bytes at `offset` of the file, which QEMU has cut at `cut`: by one
/// transfer, or two if the cut divides them.
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

    /// Divides the bzImage into setup code and code.
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

    /// Takes the file's own command line, of at most `limit` characters, if the user
    /// gave none. `line` is the place of the user's.
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
        // As systemd-stub does: control characters become spaces.
        for byte in loader.platform.bytes(line)? {
            if (1..b' ').contains(byte) {
                *byte = b' ';
            }
        }
        Ok(())
    }

    /// Places and loads the initrd, if there is one: as high as the header allows, or
    /// `anywhere` if it does not fit there.
    pub(super) fn load_initrd<P: Platform>(
        &self,
        loader: &mut Loader<'_, P>,
        header: &SetupHeader,
        anywhere: bool,
    ) -> Result<PhysRange> {
        let last = header.initrd_addr_max();
        if !self.is_unified {
            // QEMU fills the field in, so a boot without an initrd makes no transfer.
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
