//! The simulated machine as a platform.

use super::{Devices, Memory};
use crate::fw_cfg::fake::FakeFwCfg;
use crate::phys::PhysRange;
use crate::phys::Refused;
use crate::platform::{FwCfg, GuestMemory, Io, Platform, Terminal, TransferError};
use std::string::String;
use std::vec::Vec;

/// A machine: devices, fw_cfg items, memory, and what was printed.
#[derive(Debug)]
pub struct Machine {
    /// Ports and registers.
    pub io: Devices,
    /// Items.
    pub fw_cfg: FakeFwCfg,
    /// RAM.
    pub memory: Memory,
    /// What was printed.
    pub printed: String,
    /// The processor's CPUID instruction.
    pub cpuid: fn(u32, u32) -> [u32; 4],
    /// Whether x2APIC mode was turned on.
    pub x2apic: bool,
    /// Items that were read from their start, and their destinations in memory.
    pub loads: Vec<(u16, PhysRange)>,
}

impl Default for Machine {
    /// No devices, no items, 1 MiB of RAM.
    fn default() -> Self {
        Self {
            io: Devices::default(),
            fw_cfg: FakeFwCfg::new(),
            memory: Memory::new(0),
            printed: String::new(),
            cpuid: qemu64,
            x2apic: false,
            loads: Vec::new(),
        }
    }
}

/// QEMU's `qemu64` with one processor.
fn qemu64(leaf: u32, _subleaf: u32) -> [u32; 4] {
    match leaf {
        0 => [0xd, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
        1 => [0x0006_0fb1, 0x0000_0800, 0x8000_2001, 0x078b_fbfd],
        0x8000_0000 => [0x8000_0008, 0, 0, 0],
        0x8000_0008 => [0x3028, 0, 0, 0],
        _ => [0; 4],
    }
}

impl Platform for Machine {
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> [u32; 4] {
        (self.cpuid)(leaf, subleaf)
    }
    fn enable_x2apic(&mut self) {
        self.x2apic = true;
    }
    fn pci_bios(&self) -> &'static [u8] {
        self.memory.pci_bios
    }
}

impl Io for Machine {
    fn in8(&mut self, port: u16) -> u8 {
        self.io.in8(port)
    }
    fn in16(&mut self, port: u16) -> u16 {
        self.io.in16(port)
    }
    fn in32(&mut self, port: u16) -> u32 {
        self.io.in32(port)
    }
    fn out8(&mut self, port: u16, value: u8) {
        self.io.out8(port, value);
    }
    fn out16(&mut self, port: u16, value: u16) {
        self.io.out16(port, value);
    }
    fn out32(&mut self, port: u16, value: u32) {
        self.io.out32(port, value);
    }
    fn read8(&mut self, addr: u32) -> u8 {
        self.io.read8(addr)
    }
    fn read16(&mut self, addr: u32) -> u16 {
        self.io.read16(addr)
    }
    fn read32(&mut self, addr: u32) -> u32 {
        self.io.read32(addr)
    }
    fn write8(&mut self, addr: u32, value: u8) {
        self.io.write8(addr, value);
    }
    fn write16(&mut self, addr: u32, value: u16) {
        self.io.write16(addr, value);
    }
    fn write32(&mut self, addr: u32, value: u32) {
        self.io.write32(addr, value);
    }
}

impl FwCfg for Machine {
    fn read(&mut self, selector: u16, dest: &mut [u8]) -> Result<(), TransferError> {
        self.fw_cfg.read(selector, dest)
    }
    fn read_next(&mut self, dest: &mut [u8]) -> Result<(), TransferError> {
        self.fw_cfg.read_next(dest)
    }
    fn load(&mut self, selector: u16, to: PhysRange) -> Result<(), TransferError> {
        self.loads.push((selector, to));
        self.fw_cfg.read(selector, self.memory.bytes(to)?)
    }
    fn load_next(&mut self, to: PhysRange) -> Result<(), TransferError> {
        self.fw_cfg.read_next(self.memory.bytes(to)?)
    }
    fn seek(&mut self, selector: u16, offset: u32) -> Result<(), TransferError> {
        self.fw_cfg.seek(selector, offset)
    }
    fn write(&mut self, selector: u16, offset: u32, data: &[u8]) -> Result<(), TransferError> {
        self.fw_cfg.write(selector, offset, data)
    }
}

impl GuestMemory for Machine {
    fn open(&mut self, ram: PhysRange) {
        self.memory.open(ram);
    }
    fn bytes(&mut self, range: PhysRange) -> Result<&mut [u8], Refused> {
        self.memory.bytes(range)
    }
}

impl Terminal for Machine {
    fn print(&mut self, text: &[u8]) {
        self.printed.extend(text.iter().copied().map(char::from));
    }
    /// Advances with what was printed.
    fn ticks(&mut self) -> u64 {
        self.printed.len() as u64
    }
}
