//! The fw_cfg device: DMA, and the byte-wise way where DMA is off.

use core::arch::asm;
use core::cell::UnsafeCell;
use qboot::error::{Error, Result};
use qboot::fw_cfg::{DmaControl, FwCfg, PORT_DATA, PORT_DMA_LOW, PORT_SELECTOR, item};
use qboot::io::PortIo;
use volatile::VolatilePtr;

use super::io::Io;

/// The descriptor that the device reads: control, length, address (high and
/// low), big endian.
type Descriptor = [u32; 4];

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

    /// One transfer, which is over when the doorbell's write returns.
    #[inline(never)]
    fn transfer(&mut self, control: DmaControl, at: *mut u8, len: usize) -> Result<()> {
        let control = control.bits().to_be();
        let descriptor: UnsafeCell<Descriptor> =
            UnsafeCell::new([control, (len as u32).to_be(), 0, (at.addr() as u32).to_be()]);
        let doorbell = (descriptor.get().addr() as u32).to_be();
        // SAFETY: the write makes the device read the descriptor and read or
        // write the `len` bytes at `at`, which the callers' slices own; asm
        // without `nomem` tells the compiler that memory changes.
        unsafe {
            asm!("out dx, eax", in("dx") PORT_DMA_LOW, in("eax") doorbell, options(nostack, preserves_flags))
        };
        let word = core::ptr::NonNull::from(&descriptor).cast::<u32>();
        // SAFETY: the control word is the descriptor's first, alive here.
        let status = unsafe { VolatilePtr::new(word) }.read();
        if status == 0 {
            Ok(())
        } else {
            Err(self.refused(status, control))
        }
    }

    #[cold]
    fn refused(&mut self, status: u32, control: u32) -> Error {
        if status != control {
            return Error::FwCfgTransfer;
        }
        // Untouched: there is no DMA, or no device at all.
        let mut signature = [0; 4];
        self.byte_wise = true;
        select_bytes(item::SIGNATURE);
        read_bytes(&mut signature);
        if signature == *b"QEMU" {
            Error::FwCfgTransfer
        } else {
            Error::NoFwCfg
        }
    }

    fn run(&mut self, control: DmaControl, at: *mut u8, len: usize) -> Result<()> {
        match self.transfer(control, at, len) {
            Err(Error::FwCfgTransfer) if self.byte_wise => Ok(()),
            result => result,
        }
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
    fn read(&mut self, selector: u16, dest: &mut [u8]) -> Result<()> {
        if !self.byte_wise {
            self.run(
                DmaControl::READ.select(selector),
                dest.as_mut_ptr(),
                dest.len(),
            )?;
        }
        if self.byte_wise {
            select_bytes(selector);
            read_bytes(dest);
        }
        Ok(())
    }

    fn read_next(&mut self, dest: &mut [u8]) -> Result<()> {
        if self.byte_wise {
            read_bytes(dest);
            return Ok(());
        }
        self.transfer(DmaControl::READ, dest.as_mut_ptr(), dest.len())
    }

    #[cold]
    fn write(&mut self, selector: u16, offset: u32, data: &[u8]) -> Result<()> {
        if self.byte_wise {
            // The data port has been read-only since QEMU 2.4.
            return Err(Error::FwCfgTransfer);
        }
        let skip = DmaControl::SKIP.select(selector);
        self.transfer(skip, core::ptr::null_mut(), offset as usize)?;
        self.transfer(DmaControl::WRITE, data.as_ptr().cast_mut(), data.len())
    }
}
