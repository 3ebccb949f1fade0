//! The one seam between the firmware's logic and the machine.
//!
//! Everything above takes a `P: Platform`: the hardware in the ROM (`src/rom/`), a
//! simulated machine on the host. Each method group is a trait, implemented in the file
//! of its device; only this file names them.
//!
//! Unless KVM serves or collects it, an access to a device is an exit to the host, which
//! takes as long as some thousand instructions. Callers count them.

use crate::phys::{PhysRange, Refused};
pub use crate::text::Terminal;

/// A machine, as the firmware reaches it.
pub trait Platform: Io + FwCfg + GuestMemory + Terminal {
    /// EAX, EBX, ECX, EDX of the CPUID instruction, which is an exit.
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> [u32; 4];

    /// Turns the local APIC's x2APIC mode on. The caller has checked by CPUID that the
    /// processor has it.
    fn enable_x2apic(&mut self);

    /// The PCI BIOS's code, to be copied for kernels; empty if there is none.
    fn pci_bios(&self) -> &'static [u8];
}

/// Ports, and registers in memory.
///
/// An `addr` is guest-physical and naturally aligned. Outside the devices' windows,
/// reads give all ones and writes are ignored.
pub trait Io {
    /// Reads a byte from a port.
    fn in8(&mut self, port: u16) -> u8;
    /// Reads two bytes from a port.
    fn in16(&mut self, port: u16) -> u16;
    /// Reads four bytes from a port.
    fn in32(&mut self, port: u16) -> u32;
    /// Writes a byte to a port.
    fn out8(&mut self, port: u16, value: u8);
    /// Writes two bytes to a port.
    fn out16(&mut self, port: u16, value: u16);
    /// Writes four bytes to a port.
    fn out32(&mut self, port: u16, value: u32);

    /// Reads a byte from a register.
    fn read8(&mut self, addr: u32) -> u8;
    /// Reads two bytes from a register.
    fn read16(&mut self, addr: u32) -> u16;
    /// Reads four bytes from a register.
    fn read32(&mut self, addr: u32) -> u32;
    /// Writes a byte to a register.
    fn write8(&mut self, addr: u32, value: u8);
    /// Writes two bytes to a register.
    fn write16(&mut self, addr: u32, value: u16);
    /// Writes four bytes to a register.
    fn write32(&mut self, addr: u32, value: u32);
}

/// Why a transfer was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferError {
    /// No fw_cfg device answers.
    NoDevice,
    /// The device reports that it failed.
    Failed,
    /// The firmware may not touch this memory.
    Refused,
}

impl From<Refused> for TransferError {
    fn from(_: Refused) -> Self {
        Self::Refused
    }
}

/// Items of QEMU's firmware configuration device, each transfer one exit.
///
/// A read past the end of an item gives zeroes, so an item may be read
/// without asking for its size (`docs/specs/fw_cfg.rst`, "Guest-side DMA
/// Interface").
pub trait FwCfg {
    /// Selects `selector` and reads from its start.
    ///
    /// # Errors
    /// [`TransferError::NoDevice`], [`TransferError::Failed`].
    fn read(&mut self, selector: u16, dest: &mut [u8]) -> Result<(), TransferError>;

    /// Reads on in the selected item.
    ///
    /// # Errors
    /// As [`FwCfg::read`].
    fn read_next(&mut self, dest: &mut [u8]) -> Result<(), TransferError>;

    /// As [`FwCfg::read`], to guest memory.
    ///
    /// # Errors
    /// [`TransferError::Refused`], and as [`FwCfg::read`].
    fn load(&mut self, selector: u16, to: PhysRange) -> Result<(), TransferError>;

    /// As [`FwCfg::read_next`], to guest memory.
    ///
    /// # Errors
    /// As [`FwCfg::load`].
    fn load_next(&mut self, to: PhysRange) -> Result<(), TransferError>;

    /// Selects `selector`, to read on from `offset`.
    ///
    /// # Errors
    /// As [`FwCfg::read`].
    fn seek(&mut self, selector: u16, offset: u32) -> Result<(), TransferError>;

    /// Writes `data` at `offset` of item `selector`.
    ///
    /// # Errors
    /// [`TransferError::Failed`] also if the item is read-only.
    fn write(&mut self, selector: u16, offset: u32, data: &[u8]) -> Result<(), TransferError>;

    /// A little-endian `u32` item; 0 if there is none.
    ///
    /// # Errors
    /// As [`FwCfg::read`].
    fn read_u32(&mut self, selector: u16) -> Result<u32, TransferError> {
        let mut bytes = [0; 4];
        self.read(selector, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }
}

/// The memory that the firmware may read and write.
///
/// An implementation refuses what [`crate::memory::window`] refuses, so no address from
/// the host can reach the running firmware or a device.
pub trait GuestMemory {
    /// Makes RAM from 1 MiB up reachable, after the memory map has shown that
    /// it exists.
    fn open(&mut self, ram: PhysRange);

    /// The bytes of `range`.
    ///
    /// # Errors
    /// [`Refused`] outside what may be reached.
    fn bytes(&mut self, range: PhysRange) -> Result<&mut [u8], Refused>;

    /// Sets all bytes of `range` to zero.
    ///
    /// # Errors
    /// As [`GuestMemory::bytes`].
    fn clear(&mut self, range: PhysRange) -> Result<(), Refused> {
        self.bytes(range)?.fill(0);
        Ok(())
    }

    /// Copies `src` to `range`, which has the same length.
    ///
    /// # Errors
    /// As [`GuestMemory::bytes`], and if the lengths differ.
    fn put(&mut self, range: PhysRange, src: &[u8]) -> Result<(), Refused> {
        let bytes = self.bytes(range)?;
        if bytes.len() != src.len() {
            return Err(Refused);
        }
        bytes.copy_from_slice(src);
        Ok(())
    }
}
