//! The seams to the machine's ports and memory-mapped registers.
//!
//! Each access is an exit to the host, a few thousand instructions' worth of
//! time: callers count them.

/// Port I/O.
pub trait PortIo {
    /// Reads a byte.
    fn in8(&mut self, port: u16) -> u8;
    /// Reads two bytes.
    fn in16(&mut self, port: u16) -> u16;
    /// Reads four bytes.
    fn in32(&mut self, port: u16) -> u32;
    /// Writes a byte.
    fn out8(&mut self, port: u16, value: u8);
    /// Writes two bytes.
    fn out16(&mut self, port: u16, value: u16);
    /// Writes four bytes.
    fn out32(&mut self, port: u16, value: u32);
}

/// Where text for people goes, and the clock that its lines are dated by.
pub trait Terminal {
    /// Prints ASCII text; lines end in CR and LF.
    fn print(&mut self, text: &[u8]);
    /// The time stamp counter.
    fn ticks(&mut self) -> u64;
}

/// Memory-mapped registers, ECAM above all.
///
/// `addr` is guest-physical and naturally aligned. An implementation ignores
/// writes to, and reads all ones from, whatever is not a device's window.
pub trait Mmio {
    /// Reads a byte.
    fn read8(&mut self, addr: u32) -> u8;
    /// Reads two bytes.
    fn read16(&mut self, addr: u32) -> u16;
    /// Reads four bytes.
    fn read32(&mut self, addr: u32) -> u32;
    /// Writes a byte.
    fn write8(&mut self, addr: u32, value: u8);
    /// Writes two bytes.
    fn write16(&mut self, addr: u32, value: u16);
    /// Writes four bytes.
    fn write32(&mut self, addr: u32, value: u32);
}
