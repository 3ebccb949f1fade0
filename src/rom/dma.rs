//! The fw_cfg device: DMA, and the byte-wise way where DMA is off.

use super::io::Io;
use core::arch::{asm, naked_asm};
use qboot::error::{Error, Result};
use qboot::fw_cfg::{DmaControl, FwCfg, PORT_DATA, PORT_DMA_LOW, PORT_SELECTOR, item};
use qboot::io::PortIo;

/// Rings the doorbell for a descriptor on the stack (control, length, the
/// address's halves, all big endian) and takes it off again.
///
/// # Safety
/// As for [`Device::transfer`].
#[unsafe(naked)]
unsafe extern "fastcall" fn ring(control: u32, at: *mut u8, len: usize) -> u32 {
    naked_asm!(
        "mov eax, [esp + 4]",
        "bswap edx",
        "push edx",
        "push 0",
        "bswap eax",
        "push eax",
        "bswap ecx",
        "push ecx",
        "mov eax, esp",
        "bswap eax",
        "mov edx, {port}",
        "out dx, eax",
        "pop eax",
        "add esp, 12",
        "ret 4",
        port = const PORT_DMA_LOW,
    )
}

/// The device's registers.
#[derive(Debug)]
pub struct Device {
    /// Set when the first transfer was ignored: DMA is switched off.
    byte_wise: bool,
}

impl Device {
    /// No access is made before the first transfer.
    #[must_use]
    pub const fn new() -> Self {
        Self { byte_wise: false }
    }

    /// One transfer, which is over when the doorbell's write returns. Gives
    /// the control word as the device leaves it: zero when all went well.
    ///
    /// # Safety
    /// The device may write the `len` bytes at `at` for [`DmaControl::READ`], and
    /// read them for [`DmaControl::WRITE`]. Nothing is touched otherwise.
    #[inline]
    unsafe fn transfer(control: DmaControl, at: *mut u8, len: usize) -> u32 {
        // SAFETY: by the caller.
        unsafe { ring(control.bits(), at, len) }
    }

    /// Why a transfer left `status`; takes to the byte-wise way where there
    /// is a device without DMA.
    #[cold]
    #[inline(never)]
    fn refused(&mut self, status: u32, control: DmaControl) -> Result<()> {
        if status != control.bits().to_be() {
            return Err(Error::FwCfgTransfer);
        }
        // Untouched: there is no DMA, or no device at all.
        let mut signature = [0; 4];
        select_bytes(item::SIGNATURE);
        read_bytes(&mut signature);
        if signature != *b"QEMU" {
            return Err(Error::NoFwCfg);
        }
        self.byte_wise = true;
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn read_byte_wise(
        &mut self,
        status: u32,
        control: DmaControl,
        selector: u16,
        dest: &mut [u8],
    ) -> Result<()> {
        if !self.byte_wise {
            self.refused(status, control)?;
        }
        select_bytes(selector);
        read_bytes(dest);
        Ok(())
    }
}

#[cold]
fn select_bytes(selector: u16) {
    Io.out16(PORT_SELECTOR, selector);
}

#[cold]
fn read_bytes(dest: &mut [u8]) {
    // SAFETY: INS writes exactly the slice's bytes.
    unsafe {
        asm!(
            "rep insb",
            in("dx") PORT_DATA,
            inout("edi") dest.as_mut_ptr() => _,
            inout("ecx") dest.len() => _,
            options(nostack, preserves_flags),
        );
    }
}

impl FwCfg for Device {
    // Where DMA is off, the doorbell is nobody's port: ringing it again costs
    // less than asking before each transfer.
    #[inline(always)]
    fn read_inline(&mut self, selector: u16, dest: &mut [u8]) -> Result<()> {
        let control = DmaControl::READ.select(selector);
        // SAFETY: the bytes are the slice's, borrowed until the transfer is over.
        match unsafe { Self::transfer(control, dest.as_mut_ptr(), dest.len()) } {
            0 => Ok(()),
            status => self.read_byte_wise(status, control, selector, dest),
        }
    }

    #[cold]
    #[inline(never)]
    fn read(&mut self, selector: u16, dest: &mut [u8]) -> Result<()> {
        self.read_inline(selector, dest)
    }

    #[cold]
    #[inline(never)]
    fn read_next(&mut self, dest: &mut [u8]) -> Result<()> {
        if self.byte_wise {
            read_bytes(dest);
            return Ok(());
        }
        // SAFETY: as in `read_inline`.
        match unsafe { Self::transfer(DmaControl::READ, dest.as_mut_ptr(), dest.len()) } {
            0 => Ok(()),
            _ => Err(Error::FwCfgTransfer),
        }
    }

    #[cold]
    #[inline(never)]
    fn write(&mut self, selector: u16, offset: u32, data: &[u8]) -> Result<()> {
        if self.byte_wise {
            // The data port has been read-only since QEMU 2.4.
            return Err(Error::FwCfgTransfer);
        }
        let skip = DmaControl::SKIP.select(selector);
        // SAFETY: passing bytes over touches no memory.
        let skipped = unsafe { Self::transfer(skip, core::ptr::null_mut(), offset as usize) };
        if skipped != 0 {
            return Err(Error::FwCfgTransfer);
        }
        let (at, len) = (data.as_ptr().cast_mut(), data.len());
        // SAFETY: the device only reads the bytes, which are the slice's.
        match unsafe { Self::transfer(DmaControl::WRITE, at, len) } {
            0 => Ok(()),
            _ => Err(Error::FwCfgTransfer),
        }
    }
}
