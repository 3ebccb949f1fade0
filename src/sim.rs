//! A simulated machine: the whole boot sequence on the host, and the judge of
//! what it leaves.
//!
//! [`Guest`] is a machine as QEMU makes it: fw_cfg items, PCI configuration
//! space, ports, and a memory that hands out what the firmware may touch and
//! nothing else. [`Guest::run`] boots it; [`Guest::check`] says what is wrong
//! with the result, whatever the host had put into the items.
//! [`target`] holds the entry points that fuzzing drives.

#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "host code: a wrong offset has to stop the test"
)]

extern crate std;

mod elf;
mod judge;
pub mod target;
#[cfg(test)]
mod tests;

use crate::boot::{Found, Handoff, Machine, boot};
use crate::error::{Error, Result, Shortfall};
use crate::fw_cfg::fake::FakeFwCfg;
use crate::fw_cfg::{file_name, item};
use crate::io::{Mmio, PortIo, Terminal};
use crate::layout;
use crate::pci::sim::{Bus, Function, Sim};
use crate::phys::{GuestMemory, PhysRange, byte_sum, u16_at, u32_at, u64_at};
use elf::segments;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::format;
use std::string::String;
use std::vec::Vec;

/// The part of the F segment that tables get here; in the ROM it depends on
/// the image's size.
pub const F_SEGMENT_FREE: PhysRange = PhysRange::fixed(0xf_6000, 0xf_fd00);

/// Where RAM below 4 GiB ends at the latest on `pc` and `q35`.
pub const LOW_RAM_MAX: u64 = 0xc000_0000;

/// Ports and memory-mapped registers: PCI, and everything else counted.
#[derive(Clone, Debug, Default)]
pub struct Io {
    /// Configuration space.
    pub pci: Sim,
    /// Accesses so far.
    pub accesses: u64,
    /// Writes that are none to PCI's ports or ECAM.
    pub writes: Vec<(u32, u32)>,
}

impl Io {
    fn port(&mut self, port: u16, value: u32) {
        self.accesses += 1;
        if !(0xcf8..=0xcff).contains(&port) {
            self.writes.push((port.into(), value));
        }
    }

    fn register(&mut self, addr: u32, value: u32) {
        self.accesses += 1;
        let ecam = self.pci.ecam;
        if ecam.is_none_or(|base| addr.wrapping_sub(base) >= 1 << 28) {
            self.writes.push((addr, value));
        }
    }
}

impl PortIo for Io {
    fn in8(&mut self, port: u16) -> u8 {
        self.accesses += 1;
        self.pci.in8(port)
    }
    fn in16(&mut self, port: u16) -> u16 {
        self.accesses += 1;
        self.pci.in16(port)
    }
    fn in32(&mut self, port: u16) -> u32 {
        self.accesses += 1;
        self.pci.in32(port)
    }
    fn out8(&mut self, port: u16, value: u8) {
        self.port(port, value.into());
        self.pci.out8(port, value);
    }
    fn out16(&mut self, port: u16, value: u16) {
        self.port(port, value.into());
        self.pci.out16(port, value);
    }
    fn out32(&mut self, port: u16, value: u32) {
        self.port(port, value);
        self.pci.out32(port, value);
    }
}

impl Mmio for Io {
    fn read8(&mut self, addr: u32) -> u8 {
        self.accesses += 1;
        self.pci.read8(addr)
    }
    fn read16(&mut self, addr: u32) -> u16 {
        self.accesses += 1;
        self.pci.read16(addr)
    }
    fn read32(&mut self, addr: u32) -> u32 {
        self.accesses += 1;
        Mmio::read32(&mut self.pci, addr)
    }
    fn write8(&mut self, addr: u32, value: u8) {
        self.register(addr, value.into());
        Mmio::write8(&mut self.pci, addr, value);
    }
    fn write16(&mut self, addr: u32, value: u16) {
        self.register(addr, value.into());
        Mmio::write16(&mut self.pci, addr, value);
    }
    fn write32(&mut self, addr: u32, value: u32) {
        self.register(addr, value);
        Mmio::write32(&mut self.pci, addr, value);
    }
}

/// Guest memory, all zero at first.
#[derive(Debug)]
pub struct Memory {
    /// From address 0 to the end of RAM below 4 GiB.
    bytes: Vec<u8>,
    f_segment: PhysRange,
    high: PhysRange,
    /// The PCI BIOS of a ROM, for machines without ACPI.
    pub pci_bios: &'static [u8],
    /// What was handed out, in order.
    pub touched: Vec<PhysRange>,
    /// What was asked for and refused.
    pub refused: Vec<PhysRange>,
    /// What QEMU has loaded before the firmware ran.
    pub loaded: Vec<(u32, Vec<u8>)>,
    /// Bytes at the start of a range handed out that can have been written,
    /// by the items' sizes.
    pub max_written: usize,
}

std::thread_local! {
    // Gigabytes of zeroes cost nothing until touched, but a fuzzer would pay
    // for mapping them in every run.
    static POOL: RefCell<BTreeMap<usize, Vec<Vec<u8>>>> = const { RefCell::new(BTreeMap::new()) };
}

impl Memory {
    /// RAM up to `end`, at least 1 MiB.
    #[must_use]
    pub fn new(end: u32) -> Self {
        let len = end.max(layout::HIGH_RAM) as usize;
        let pooled = POOL.with_borrow_mut(|pool| pool.entry(len).or_default().pop());
        Self {
            bytes: pooled.unwrap_or_else(|| std::vec![0; len]),
            f_segment: F_SEGMENT_FREE,
            high: PhysRange::fixed(layout::HIGH_RAM, layout::HIGH_RAM),
            pci_bios: &[],
            touched: Vec::new(),
            refused: Vec::new(),
            loaded: Vec::new(),
            max_written: usize::MAX,
        }
    }

    /// What lies at `range`, zeroes where there is no RAM.
    #[must_use]
    pub fn peek(&self, range: PhysRange) -> &[u8] {
        self.bytes
            .get(range.start() as usize..range.end() as usize)
            .unwrap_or(&[])
    }

    /// Puts `bytes` where QEMU would load them; gives whether there is RAM.
    pub fn preload(&mut self, addr: u32, bytes: &[u8]) -> bool {
        let start = addr as usize;
        let slot = start
            .checked_add(bytes.len())
            .and_then(|end| self.bytes.get_mut(start..end));
        match slot {
            Some(slot) => {
                slot.copy_from_slice(bytes);
                self.loaded.push((addr, bytes.to_vec()));
                true
            }
            None => false,
        }
    }

    /// Takes out what [`Memory::preload`] has put in.
    pub fn unload(&mut self) {
        for (addr, bytes) in std::mem::take(&mut self.loaded) {
            let start = addr as usize;
            if let Some(slot) = self.bytes.get_mut(start..start + bytes.len()) {
                slot.fill(0);
            }
        }
    }

    /// Whether the firmware was refused RAM that the host had claimed there
    /// is: a lie that no machine tells its firmware.
    fn was_lied_to(&self) -> bool {
        let absent = |range: &&PhysRange| range.end() as usize > self.bytes.len();
        self.refused.iter().find(absent).is_some() || self.high.end() as usize > self.bytes.len()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.unload();
        let most = self.max_written;
        let touched = self.touched.iter();
        let touched = touched.map(|r| (r.start() as usize, (r.len() as usize).min(most)));
        for (start, len) in touched {
            if let Some(bytes) = self.bytes.get_mut(start..start + len) {
                bytes.fill(0);
            }
        }
        let bytes = std::mem::take(&mut self.bytes);
        // Address space is short there, and sizes are many.
        if usize::BITS < 64 {
            return;
        }
        // Fails while the thread ends: then nobody needs it.
        let _ = POOL.try_with(|pool| {
            if let Ok(mut pool) = pool.try_borrow_mut() {
                pool.entry(bytes.len()).or_default().push(bytes);
            }
        });
    }
}

impl GuestMemory for Memory {
    fn pci_bios(&self) -> &'static [u8] {
        self.pci_bios
    }

    fn open(&mut self, ram: PhysRange) {
        if ram.start() >= layout::HIGH_RAM {
            self.high = ram;
        }
    }

    fn bytes(&mut self, range: PhysRange) -> Result<&mut [u8]> {
        let ours = self.high.contains(range)
            || layout::LOW_FREE_TOP.contains(range)
            || layout::LOW_FREE.contains(range)
            || layout::EBDA.contains(range)
            || self.f_segment.contains(range);
        let whole = range.start() as usize..range.end() as usize;
        if !ours || whole.end > self.bytes.len() {
            self.refused.push(range);
            return Err(Error::NotOurMemory);
        }
        // Sums and patches come back to what was handed out already.
        if !self.touched.iter().rev().take(8).any(|t| t.contains(range)) {
            self.touched.push(range);
        }
        self.bytes.get_mut(whole).ok_or(Error::NotOurMemory)
    }
}

/// QEMU's `qemu64` with one processor.
fn cpuid(leaf: u32, _subleaf: u32) -> [u32; 4] {
    match leaf {
        0 => [0xd, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
        1 => [0x0006_0fb1, 0x0000_0800, 0x8000_2001, 0x078b_fbfd],
        0x8000_0000 => [0x8000_0008, 0, 0, 0],
        0x8000_0008 => [0x3028, 0, 0, 0],
        _ => [0; 4],
    }
}

/// A terminal whose clock counts how often it is read.
struct Printed<'p>(&'p mut String);

impl Terminal for Printed<'_> {
    fn print(&mut self, text: &[u8]) {
        self.0.extend(text.iter().copied().map(char::from));
    }
    fn ticks(&mut self) -> u64 {
        self.0.len() as u64
    }
}

/// A machine before and after its boot.
#[derive(Debug)]
pub struct Guest {
    /// The seams.
    pub machine: Machine<Io, FakeFwCfg, Memory>,
    /// What the entry code would have found out.
    pub found: Found,
    /// What the error said about room.
    pub shortfall: Shortfall,
    /// What was printed.
    pub printed: String,
    /// Whether the tables are QEMU's own, so that their checksums count.
    pub genuine: bool,
}

/// Host bridges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Board {
    /// i440FX.
    Pc,
    /// Q35.
    Q35,
    /// No PCI.
    Microvm,
}

impl Board {
    const fn host_bridge(self) -> u32 {
        match self {
            Self::Pc => 0x1237_8086,
            Self::Q35 => 0x29c0_8086,
            Self::Microvm => u32::MAX,
        }
    }

    fn pci(self) -> Sim {
        let mut bus = Bus::new();
        match self {
            Self::Pc => {
                bus.insert(0x00, Function::device(0x1237_8086, 0x0600));
                let piix3 = Function::device(0x7000_8086, 0x0601).scratch(0x60, 4);
                bus.insert(0x08, piix3.multi());
                let piix4 = Function::device(0x7113_8086, 0x0680);
                let piix4 = piix4.scratch(0x40, 4).scratch(0x80, 4).scratch(0x90, 4);
                bus.insert(0x0b, piix4.scratch(0xd0, 4));
            }
            Self::Q35 => {
                bus.insert(0x00, Function::device(0x29c0_8086, 0x0600));
                let ich9 = Function::device(0x2918_8086, 0x0601).multi();
                bus.insert(0xf8, ich9.scratch(0x40, 8).scratch(0x60, 12));
                // SATA and SMBus, whose interrupts an MP table lists.
                bus.insert(0xfa, Function::device(0x2922_8086, 0x0106).pin(1));
                bus.insert(0xfb, Function::device(0x2930_8086, 0x0c05).pin(1));
            }
            Self::Microvm => return Sim::default(),
        }
        let mut sim = Sim::new(bus);
        if self == Self::Q35 {
            sim.ecam = Some(layout::Q35_ECAM.start());
        }
        sim
    }
}

/// An `etc/e820` entry: base, length, type.
#[must_use]
pub fn e820_entry(base: u64, len: u64, kind: u32) -> Vec<u8> {
    let mut bytes = base.to_le_bytes().to_vec();
    bytes.extend(len.to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    bytes
}

/// What QEMU says of a machine with `ram` bytes: all below 3 GiB, the rest
/// above 4 GiB.
#[must_use]
pub fn e820(ram: u64) -> Vec<u8> {
    let low = ram.min(LOW_RAM_MAX);
    let mut map = e820_entry(0, low, 1);
    if ram > low {
        map.extend(e820_entry(1 << 32, ram - low, 1));
    }
    map
}

impl Guest {
    /// A machine with these items; `ram_end` is the end of RAM below 4 GiB.
    #[must_use]
    pub fn new(board: Board, fw_cfg: FakeFwCfg, ram_end: u32) -> Self {
        Self {
            machine: Machine {
                io: Io {
                    pci: board.pci(),
                    ..Io::default()
                },
                fw_cfg,
                memory: Memory::new(ram_end),
            },
            found: Found {
                host_bridge: board.host_bridge(),
                f_segment: F_SEGMENT_FREE,
                cpuid,
                enable_x2apic: || (),
            },
            shortfall: Shortfall::default(),
            printed: String::new(),
            genuine: false,
        }
    }

    /// With tables in this part of the F segment.
    #[must_use]
    pub fn with_f_segment(mut self, free: PhysRange) -> Self {
        self.found.f_segment = free;
        self.machine.memory.f_segment = free;
        self
    }

    /// Gives it a bzImage as QEMU's `-kernel` does: split behind its setup
    /// code, which says where QEMU's own choices are.
    pub fn kernel(&mut self, image: &[u8]) {
        let sects = match image.get(0x1f1) {
            None | Some(0) => 4,
            Some(n) => usize::from(*n),
        };
        let (setup, code) = image.split_at(((sects + 1) * 512).min(image.len()));
        let mut setup = setup.to_vec();
        if let Some(loader) = setup.get_mut(0x210) {
            *loader = 0xb0;
        }
        let fw_cfg = &mut self.machine.fw_cfg;
        let initrd = fw_cfg.data(item::INITRD_SIZE).to_vec();
        if let (Some(slot), true) = (setup.get_mut(0x21c..0x220), initrd.len() == 4) {
            slot.copy_from_slice(&initrd);
        }
        fw_cfg
            .item(item::SETUP_SIZE, &(setup.len() as u32).to_le_bytes())
            .item(item::SETUP_DATA, &setup)
            .item(item::KERNEL_SIZE, &(code.len() as u32).to_le_bytes())
            .item(item::KERNEL_DATA, code);
    }

    /// Gives it an ELF kernel as QEMU's `-kernel` does: loaded, with `entry`
    /// from its note. Gives whether there is RAM for all of it.
    pub fn elf(&mut self, file: &[u8], entry: u32) -> bool {
        let mut fits = true;
        for segment in segments(file).iter().filter(|s| s.kind == 1) {
            let part = usize::try_from(segment.offset).ok().and_then(|offset| {
                let end = offset.checked_add(usize::try_from(segment.filesz).ok()?)?;
                file.get(offset..end)
            });
            match (part, u32::try_from(segment.paddr)) {
                (Some(part), Ok(addr)) => fits &= self.machine.memory.preload(addr, part),
                _ => fits = false,
            }
        }
        let loads = segments(file);
        let loads = loads.iter().filter(|s| s.kind == 1);
        let span = loads.fold(None, |span: Option<(u64, u64)>, s| {
            let end = s.paddr.saturating_add(s.memsz);
            let (low, high) = span.unwrap_or((s.paddr, end));
            Some((low.min(s.paddr), high.max(end)))
        });
        let (low, high) = span.unwrap_or((0, 0));
        let mut head = file.to_vec();
        head.resize(8192, 0);
        self.machine
            .fw_cfg
            .item(item::SETUP_SIZE, &8192u32.to_le_bytes())
            .item(item::SETUP_DATA, &head)
            .item(item::KERNEL_ADDR, &(low as u32).to_le_bytes())
            .item(item::KERNEL_SIZE, &((high - low) as u32).to_le_bytes())
            .item(item::KERNEL_ENTRY, &entry.to_le_bytes());
        fits
    }

    /// Gives it an initrd; before the kernel, whose header names its size.
    pub fn initrd(&mut self, bytes: &[u8]) {
        self.machine
            .fw_cfg
            .item(item::INITRD_SIZE, &(bytes.len() as u32).to_le_bytes())
            .item(item::INITRD_DATA, bytes);
    }

    /// Gives it a command line.
    pub fn command_line(&mut self, line: &[u8]) {
        let mut line = line.to_vec();
        line.push(0);
        self.machine
            .fw_cfg
            .item(item::CMDLINE_SIZE, &(line.len() as u32).to_le_bytes())
            .item(item::CMDLINE_DATA, &line);
    }

    /// Boots.
    ///
    /// # Errors
    /// Those of [`boot`].
    pub fn run(&mut self) -> Result<Handoff> {
        // Full of what the last boot left.
        std::thread_local! {
            static SCRATCH: RefCell<Vec<u8>> =
                RefCell::new(std::vec![0xa5; layout::SCRATCH.len() as usize]);
        }
        let mut shortfall = Shortfall::default();
        let result = SCRATCH.with_borrow_mut(|scratch| {
            let printed = Printed(&mut self.printed);
            boot(
                &mut self.machine,
                self.found,
                printed,
                scratch,
                &mut shortfall,
            )
        });
        self.shortfall = shortfall;
        result
    }
}

/// A command of the table loader: number, then fields at their offsets.
fn loader_command(number: u32, names: &[&str], fields: &[(usize, &[u8])]) -> [u8; 128] {
    let mut bytes = [0; 128];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    for (name, slot) in names.iter().zip(bytes[4..].chunks_exact_mut(56)) {
        slot.copy_from_slice(&file_name(name));
    }
    for (at, field) in fields {
        if let Some(slot) = bytes.get_mut(*at..*at + field.len()) {
            slot.copy_from_slice(field);
        }
    }
    bytes
}
