//! The fw_cfg device: by DMA, or by bytes if DMA is off.

use super::hardware::Hardware;
use super::io::out16;
use core::arch::asm;
use qboot::fw_cfg::{DmaControl, PORT_DATA, PORT_DMA_LOW, PORT_SELECTOR, item};
use qboot::phys::PhysRange;
use qboot::platform::{FwCfg, TransferError};

/// One transfer, which is complete when the doorbell's write returns. Returns the
/// control word as the device leaves it: zero on success.
///
/// The descriptor lies on the stack: control, length, the address's halves, all big
/// endian.
///
/// # Safety
/// The device may write the `len` bytes at `at` for [`DmaControl::READ`], and
/// read them for [`DmaControl::WRITE`]. Nothing is touched otherwise.
unsafe fn transfer(control: DmaControl, at: *mut u8, len: usize) -> u32 {
    let (at, len) = (at.expose_provenance().to_be(), len.to_be());
    let status;
    // SAFETY: by the caller; what is pushed is popped.
    unsafe {
        asm!(
            "push {at}",
            "push 0",
            "push {len}",
            "push {control}",
            "mov eax, esp",
            "bswap eax",
            "out dx, eax",
            "pop eax",
            "add esp, 12",
            at = in(reg) at,
            len = in(reg) len,
            control = in(reg) control.bits().to_be(),
            in("dx") PORT_DMA_LOW,
            out("eax") status,
        );
    }
    status
}

/// Reads the next bytes of the selected item without DMA.
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

/// Reads into `dest` by DMA, or byte by byte if the device has none.
///
/// With DMA off nothing listens to the doorbell, and it still rings before each read:
/// that costs less than a question before each transfer.
fn read(byte_wise: &mut bool, selector: u16, dest: &mut [u8]) -> Result<(), TransferError> {
    let control = DmaControl::READ.select(selector);
    // SAFETY: the bytes are the slice's, borrowed until the transfer is over.
    match unsafe { transfer(control, dest.as_mut_ptr(), dest.len()) } {
        0 => Ok(()),
        status => read_otherwise(byte_wise, selector, dest, status),
    }
}

/// Reads after a transfer that left `status`.
///
/// The first transfer may be lost: a guest's value in the upper half of the address
/// survives a reset, and is zero after any transfer. So the doorbell rings once more
/// before `byte_wise` is set.
fn read_otherwise(
    byte_wise: &mut bool,
    selector: u16,
    dest: &mut [u8],
    status: u32,
) -> Result<(), TransferError> {
    if !*byte_wise {
        let control = DmaControl::READ.select(selector);
        let ignored = control.bits().to_be();
        if status != ignored {
            return Err(TransferError::Failed);
        }
        // SAFETY: as in `read`.
        match unsafe { transfer(control, dest.as_mut_ptr(), dest.len()) } {
            0 => return Ok(()),
            status if status != ignored => return Err(TransferError::Failed),
            _ => {}
        }
        // There is no DMA, or no device at all.
        let mut signature = [0; 4];
        out16(PORT_SELECTOR, item::SIGNATURE);
        read_bytes(&mut signature);
        if signature != *b"QEMU" {
            return Err(TransferError::NoDevice);
        }
        *byte_wise = true;
    }
    out16(PORT_SELECTOR, selector);
    read_bytes(dest);
    Ok(())
}

fn read_next(byte_wise: bool, dest: &mut [u8]) -> Result<(), TransferError> {
    if byte_wise {
        read_bytes(dest);
        return Ok(());
    }
    // SAFETY: as in `read`.
    match unsafe { transfer(DmaControl::READ, dest.as_mut_ptr(), dest.len()) } {
        0 => Ok(()),
        _ => Err(TransferError::Failed),
    }
}

impl FwCfg for Hardware {
    fn read(&mut self, selector: u16, dest: &mut [u8]) -> Result<(), TransferError> {
        read(&mut self.byte_wise, selector, dest)
    }

    fn read_next(&mut self, dest: &mut [u8]) -> Result<(), TransferError> {
        read_next(self.byte_wise, dest)
    }

    fn load(&mut self, selector: u16, to: PhysRange) -> Result<(), TransferError> {
        read(&mut self.byte_wise, selector, self.window.bytes(to)?)
    }

    fn load_next(&mut self, to: PhysRange) -> Result<(), TransferError> {
        read_next(self.byte_wise, self.window.bytes(to)?)
    }

    fn seek(&mut self, selector: u16, offset: u32) -> Result<(), TransferError> {
        if self.byte_wise {
            out16(PORT_SELECTOR, selector);
            // Under KVM so many bytes are one exit.
            let mut many = [0; 1024];
            for _ in 0..offset / 1024 {
                read_bytes(&mut many);
            }
            for _ in 0..offset % 1024 {
                read_bytes(&mut [0]);
            }
            return Ok(());
        }
        let skip = DmaControl::SKIP.select(selector);
        // SAFETY: passing bytes over touches no memory.
        match unsafe { transfer(skip, core::ptr::null_mut(), offset as usize) } {
            0 => Ok(()),
            _ => Err(TransferError::Failed),
        }
    }

    fn write(&mut self, selector: u16, offset: u32, data: &[u8]) -> Result<(), TransferError> {
        if self.byte_wise {
            // The data port has been read-only since QEMU 2.4.
            return Err(TransferError::Failed);
        }
        self.seek(selector, offset)?;
        let (at, len) = (data.as_ptr().cast_mut(), data.len());
        // SAFETY: the device only reads the bytes, which are the slice's.
        match unsafe { transfer(DmaControl::WRITE, at, len) } {
            0 => Ok(()),
            _ => Err(TransferError::Failed),
        }
    }
}
