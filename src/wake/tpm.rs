//! Starts a TPM with the state that the guest saved in it (TPM 2.0 Library, part 3,
//! 9.3; TCG PC Client Platform TPM Profile 1.05, chapter 6).
//!
//! At a cold boot Linux starts the TPM itself; after a sleep it leaves that to the
//! firmware.

use crate::layout;
use crate::platform::Platform;

/// A TPM's version, by the ACPI table that describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// TPM 1.2: TCPA table.
    V1,
    /// TPM 2.0: TPM2 table.
    V2,
}

impl Version {
    /// The command to start with saved state: tag, length, number, state.
    const fn startup(self) -> [u8; 12] {
        match self {
            Self::V1 => [0, 0xc1, 0, 0, 0, 12, 0, 0, 0, 0x99, 0, 2],
            Self::V2 => [0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x44, 0, 1],
        }
    }
}

/// Reads of a register before the TPM is given up: some seconds.
const MAX_READS: u32 = 1_000_000;

/// Registers of the FIFO interface, locality 0, and their values.
mod fifo {
    /// Access: ask for the locality, give it up.
    pub const ACCESS: u32 = 0x00;
    pub const REQUEST: u8 = 0x02;
    pub const RELINQUISH: u8 = 0x20;
    /// Status: get ready, execute; whether there is an answer.
    pub const STATUS: u32 = 0x18;
    pub const READY: u8 = 0x40;
    pub const GO: u8 = 0x20;
    pub const ANSWERED: u8 = 0x10;
    /// Command, byte by byte.
    pub const DATA: u32 = 0x24;
}

/// Registers of the command response buffer, locality 0.
mod crb {
    pub const ACCESS: u32 = 0x08;
    pub const REQUEST: u32 = 1;
    pub const RELINQUISH: u32 = 2;
    /// Which interface this is, in the lowest four bits.
    pub const INTERFACE: u32 = 0x30;
    pub const IS_CRB: u32 = 1;
    pub const STATE: u32 = 0x40;
    pub const READY: u32 = 1;
    pub const IDLE: u32 = 2;
    /// 1 while the TPM is at work.
    pub const START: u32 = 0x4c;
    pub const BUFFER: u32 = 0x80;
}

/// Starts the TPM. The guest sees itself whether that worked.
pub fn start<P: Platform>(p: &mut P, version: Version) {
    let command = version.startup();
    let at = |register| layout::TPM.start() | register;
    if p.read32(at(crb::INTERFACE)) & 0xf == crb::IS_CRB {
        p.write32(at(crb::ACCESS), crb::REQUEST);
        p.write32(at(crb::STATE), crb::READY);
        for (byte, register) in command.iter().zip(crb::BUFFER..) {
            p.write8(at(register), *byte);
        }
        p.write32(at(crb::START), 1);
        let _ = (0..MAX_READS).any(|_| p.read32(at(crb::START)) & 1 == 0);
        p.write32(at(crb::STATE), crb::IDLE);
        p.write32(at(crb::ACCESS), crb::RELINQUISH);
    } else {
        p.write8(at(fifo::ACCESS), fifo::REQUEST);
        p.write8(at(fifo::STATUS), fifo::READY);
        for byte in command {
            p.write8(at(fifo::DATA), byte);
        }
        p.write8(at(fifo::STATUS), fifo::GO);
        let _ = (0..MAX_READS).any(|_| p.read8(at(fifo::STATUS)) & fifo::ANSWERED != 0);
        p.write8(at(fifo::STATUS), fifo::READY);
        p.write8(at(fifo::ACCESS), fifo::RELINQUISH);
    }
}
