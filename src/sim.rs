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

    /// Says what is wrong with the end of a run.
    ///
    /// # Errors
    /// A sentence.
    pub fn check(&self, result: Result<Handoff>) -> core::result::Result<(), String> {
        self.check_steps()?;
        match result {
            Err(error) => self.check_failure(error),
            Ok(_) if self.machine.memory.was_lied_to() => Ok(()),
            Ok(handoff) => self.check_success(handoff),
        }
    }

    /// A run has to end, and soon.
    fn check_steps(&self) -> core::result::Result<(), String> {
        let fw_cfg = &self.machine.fw_cfg;
        let script = fw_cfg.selector("etc/table-loader");
        let commands = script.map_or(0, |s| fw_cfg.data(s).len() / 128);
        // Each file may be an option, and pieces are a page at the least.
        let files = fw_cfg.data(item::FILE_DIR).len() / 64;
        let most = 64 + files + 6 * commands + self.machine.memory.bytes.len() / 4096;
        if fw_cfg.transfers > most {
            return Err(format!("{} transfers, {most} expected", fw_cfg.transfers));
        }
        if self.machine.io.accesses > 2_000_000 {
            return Err(format!("{} register accesses", self.machine.io.accesses));
        }
        Ok(())
    }

    fn check_failure(&self, error: Error) -> core::result::Result<(), String> {
        if error.message().is_empty() || error.code() == 0 {
            return Err(format!("{error:?} says nothing"));
        }
        if error == Error::NotOurMemory && !self.machine.memory.was_lied_to() {
            return Err(format!(
                "memory that is not ours was asked for: {:x?}",
                self.machine.memory.refused
            ));
        }
        Ok(())
    }

    fn check_success(&self, handoff: Handoff) -> core::result::Result<(), String> {
        let memory = &self.machine.memory;
        let mut view = match handoff {
            Handoff::Linux { entry, boot_params } => self.view_linux(entry, boot_params)?,
            Handoff::Pvh { entry, start_info } => self.view_pvh(entry, start_info)?,
            #[allow(unreachable_patterns, reason = "handoffs that are not judged here")]
            _ => return Ok(()),
        };
        check_map(&view.e820)?;
        view.check_initrd(self)?;
        view.check_line(self)?;
        // What the kernel is handed is RAM, is nobody else's, and is off the
        // memory that firmware tables and the EBDA occupy.
        for (at, part) in view.parts.iter().enumerate() {
            if !view.is_ram(part.range) {
                return Err(format!(
                    "{} at {:x?} is not RAM in {:x?}",
                    part.name, part.range, view.e820
                ));
            }
            for other in view.parts.get(at + 1..).unwrap_or(&[]) {
                if part.range.overlaps(other.range) {
                    return Err(format!("{part:x?} and {other:x?} overlap"));
                }
            }
        }
        for range in &memory.touched {
            if !self.is_accounted_for(&view, *range) {
                return Err(format!("{range:x?} was used and is nobody's"));
            }
        }
        for (n, (addr, bytes)) in memory.loaded.iter().enumerate() {
            let there = PhysRange::new(*addr, bytes.len() as u32).map(|r| memory.peek(r));
            if there != Some(bytes) && !self.is_loaded_over(n) {
                return Err(format!("the segment at {addr:#x} was changed"));
            }
        }
        if self.genuine {
            self.check_tables(&view)?;
        }
        Ok(())
    }

    /// Whether another segment overlaps the `n`th, even one of the same place
    /// and size: there the one that was loaded last shows.
    fn is_loaded_over(&self, n: usize) -> bool {
        let loaded = &self.machine.memory.loaded;
        let range = |(addr, bytes): &(u32, Vec<u8>)| PhysRange::new(*addr, bytes.len() as u32);
        let this = loaded.get(n).and_then(range);
        loaded.iter().enumerate().any(|(other, segment)| {
            other != n && this.zip(range(segment)).is_some_and(|(x, y)| x.overlaps(y))
        })
    }

    fn is_accounted_for(&self, view: &View, range: PhysRange) -> bool {
        range.is_empty()
            || self.found.f_segment.contains(range)
            // The firmware's own, told to be reserved.
            || layout::EBDA.contains(range)
            || view.parts.iter().any(|part| part.range.contains(range))
            // The command line and what follows it were read as one.
            || view.block.is_some_and(|block| block.contains(range))
            || view.is_kind(range, 3)
            // Notes are read where the headers say they lie.
            || view.loaded && self.is_note(range)
    }

    fn is_note(&self, range: PhysRange) -> bool {
        let headers = segments(self.machine.fw_cfg.data(item::SETUP_DATA));
        headers.iter().filter(|s| s.kind == 4).any(|s| {
            s.paddr == u64::from(range.start()) && u64::from(range.len()) == s.filesz.min(64 << 10)
        })
    }

    fn view_linux(&self, entry: u32, page: u32) -> core::result::Result<View, String> {
        let memory = &self.machine.memory;
        let fw_cfg = &self.machine.fw_cfg;
        let page_range = PhysRange::new(page, 4096).ok_or("the zero page wraps")?;
        let page = memory.peek(page_range);
        let word = |at| u32_at(page, at).ok_or("a short zero page");
        let count = usize::from(*page.get(0x1e8).ok_or("a short zero page")?);
        let map = page.get(0x2d0..0x2d0 + count * 20);
        let map = map.ok_or_else(|| format!("{count} E820 entries"))?;
        let e820 = map.chunks_exact(20).map(|entry| {
            let base = u64_at(entry, 0).unwrap_or(0);
            let len = u64_at(entry, 8).unwrap_or(0);
            (base, base.wrapping_add(len), u32_at(entry, 16).unwrap_or(0))
        });
        let e820: Vec<_> = e820.collect();
        if word(0x202)? != u32::from_le_bytes(*b"HdrS") || page[0x210] != 0xb0 {
            return Err("no setup header in the zero page".into());
        }
        if word(0x214)? != entry {
            return Err("code32_start is not the entry".into());
        }

        let size = fw_cfg.data(item::KERNEL_SIZE);
        let size = u32_at(size, 0).unwrap_or(0);
        let load = PhysRange::new(entry, size).ok_or("the kernel wraps")?;
        check_item(memory.peek(load), fw_cfg.data(item::KERNEL_DATA), "kernel")?;
        let mut run_end = load.end();
        let setup = fw_cfg.data(item::SETUP_DATA);
        let protocol = u16_at(setup, 0x206).unwrap_or(0);
        let header_end = 0x202 + usize::from(*setup.get(0x201).unwrap_or(&0));
        if protocol >= 0x20a && header_end >= 0x264 {
            // What Linux computes at its entry (head_64.S).
            let align = u64::from(u32_at(setup, 0x230).unwrap_or(1)).max(1);
            let pref = u64_at(setup, 0x258).unwrap_or(0);
            let init_size = u64::from(u32_at(setup, 0x260).unwrap_or(0));
            let start = u64::from(entry).next_multiple_of(align).max(pref);
            let end = start + init_size;
            run_end = run_end.max(u32::try_from(end).map_err(|_| "the kernel runs above 4 GiB")?);
        }
        let kernel = PhysRange::between(entry, run_end).ok_or("the kernel wraps")?;
        let line = word(0x228)?;
        let (initrd, initrd_len) = (word(0x218)?, word(0x21c)?);
        let block = PhysRange::between(line, page_range.end());
        Ok(View {
            parts: std::vec![
                Part {
                    name: "kernel",
                    range: kernel
                },
                Part {
                    name: "zero page",
                    range: page_range
                },
            ],
            e820,
            line,
            initrd: (initrd, initrd_len),
            rsdp: word(0x70)?,
            block,
            loaded: false,
        })
    }

    fn view_pvh(&self, entry: u32, info: u32) -> core::result::Result<View, String> {
        let memory = &self.machine.memory;
        let end = PhysRange::between(info, 0xa_0000.max(info)).ok_or("start_info wraps")?;
        let bytes = memory.peek(end);
        let word = |at| u32_at(bytes, at).ok_or("a short start_info");
        let address = |at| match u64_at(bytes, at).map(u32::try_from) {
            Some(Ok(address)) => Ok(address),
            _ => Err(format!(
                "the address at {at:#x} of start_info is above 4 GiB"
            )),
        };
        if word(0)? != 0x336e_c578 || word(4)? != 1 {
            return Err("no start_info".into());
        }
        let (modules, modlist) = (word(12)?, address(16)?);
        let (memmap, entries) = (address(40)?, word(48)?);
        let len = 56 + 32 + entries * 24;
        if memmap != info + 88 || modules > 1 || entries > 128 {
            return Err(format!(
                "{modules} modules, {entries} entries at {memmap:#x}"
            ));
        }
        let mut e820 = Vec::new();
        for i in 0..entries as usize {
            let at = 88 + 24 * i;
            let base = u64_at(bytes, at).ok_or("a short map")?;
            let len = u64_at(bytes, at + 8).ok_or("a short map")?;
            e820.push((base, base.wrapping_add(len), word(at + 16)?));
            if word(at + 20)? != 0 {
                return Err(format!("entry {i} has something in its reserved word"));
            }
        }
        // Flags and the reserved word; without a module all of its entry.
        let unused = [8, 52]
            .into_iter()
            .chain(56..if modules == 0 { 88 } else { 56 });
        for at in unused.filter(|at: &usize| at.is_multiple_of(4)) {
            if word(at)? != 0 {
                return Err(format!("start_info has something at {at:#x}"));
            }
        }
        let initrd = if modules == 1 {
            if modlist != info + 56 {
                return Err(format!("modules at {modlist:#x}"));
            }
            (address(56)?, address(64)?)
        } else {
            (0, 0)
        };
        let fw_cfg = &self.machine.fw_cfg;
        let setup = fw_cfg.data(item::SETUP_DATA);
        let number = |item| u32_at(fw_cfg.data(item), 0).unwrap_or(0);
        let span = PhysRange::new(number(item::KERNEL_ADDR), number(item::KERNEL_SIZE));
        let mut parts = std::vec![Part {
            name: "start_info",
            range: PhysRange::new(info, len).ok_or("start_info wraps")?,
        }];
        let headers = segments(setup);
        let loads = headers.iter().filter(|s| s.kind == 1 && s.memsz != 0);
        let held: Option<Vec<PhysRange>> = loads
            .map(|s| PhysRange::new(u32::try_from(s.paddr).ok()?, u32::try_from(s.memsz).ok()?))
            .collect();
        // The items count; headers that disagree with them are not QEMU's.
        let whole = held.as_ref().and_then(|held| {
            let start = held.iter().map(|r| r.start()).min()?;
            PhysRange::between(start, held.iter().map(|r| r.end()).max()?)
        });
        let is_elf = setup.starts_with(b"\x7fELF");
        let mut held = match (held, span) {
            (Some(held), Some(span))
                if is_elf && span.start() < layout::HIGH_RAM && whole == Some(span) =>
            {
                held
            }
            (_, Some(span)) => std::vec![span],
            _ => return Err("the kernel wraps".into()),
        };
        // Segments may overlap each other, and nothing else.
        held.sort_by_key(|r| (r.start(), r.end()));
        let mut merged: Vec<PhysRange> = Vec::new();
        for range in held {
            match merged.last_mut() {
                Some(last) if range.start() <= last.end() => {
                    *last = PhysRange::between(last.start(), last.end().max(range.end()))
                        .ok_or("a segment wraps")?;
                }
                _ => merged.push(range),
            }
        }
        let inside = |r: &PhysRange| r.start() <= entry && entry < r.end();
        if !merged.iter().any(inside) {
            // Segments that nearly touch count as one.
            let near = |r: &PhysRange| r.start() <= entry && entry < r.end().saturating_add(4096);
            if !merged.iter().any(near) {
                return Err(format!("the entry {entry:#x} is in no segment"));
            }
        }
        parts.extend(merged.into_iter().map(|range| Part {
            name: "segment",
            range,
        }));
        Ok(View {
            parts,
            e820,
            line: address(24)?,
            initrd,
            rsdp: address(32)?,
            // The line and room for the longest start_info were read as one.
            block: PhysRange::between(address(24)?, info + 88 + 24 * 128),
            loaded: true,
        })
    }

    /// QEMU's own tables, linked: every checksum is right, and every table
    /// lies in memory that the kernel leaves alone.
    fn check_tables(&self, view: &View) -> core::result::Result<(), String> {
        let memory = &self.machine.memory;
        let at = |addr: u32, len: u32| match PhysRange::new(addr, len) {
            Some(range) if self.found.f_segment.contains(range) || view.is_kind(range, 3) => {
                Ok(memory.peek(range))
            }
            _ => Err(format!("a table at {addr:#x}, {len} bytes: not reserved")),
        };
        if view.rsdp == 0 {
            return Err("no RSDP".into());
        }
        let rsdp = at(view.rsdp, 20)?;
        if !rsdp.starts_with(b"RSD PTR ") || byte_sum(rsdp) != 0 {
            return Err("the RSDP is not one".into());
        }
        let table = |addr: u32| {
            let len = u32_at(at(addr, 36)?, 4).unwrap_or(0);
            let table = at(addr, len)?;
            match (byte_sum(table), u32_at(table, 0)) {
                (0, Some(signature)) => Ok((signature, table)),
                _ => Err(format!("the table at {addr:#x} has a wrong checksum")),
            }
        };
        let is = |signature: u32, name: &[u8; 4]| signature == u32::from_le_bytes(*name);
        let (pointers, width) = if rsdp[15] >= 2 {
            let whole = at(view.rsdp, 36)?;
            if byte_sum(whole) != 0 {
                return Err("the RSDP's extended checksum is wrong".into());
            }
            (u64_at(whole, 24).unwrap_or(0), 8)
        } else {
            (u64::from(u32_at(rsdp, 16).unwrap_or(0)), 4)
        };
        let root = u32::try_from(pointers).map_err(|_| "an XSDT above 4 GiB")?;
        let (signature, root) = table(root)?;
        if !is(signature, b"RSDT") && !is(signature, b"XSDT") {
            return Err("the RSDP points to something else".into());
        }
        let mut seen = 0;
        for pointer in root[36..].chunks_exact(width) {
            let (signature, bytes) = table(u32_at(pointer, 0).unwrap_or(0))?;
            if is(signature, b"FACP") {
                let dsdt = u32_at(bytes, 40).unwrap_or(0);
                let (signature, _) = table(dsdt)?;
                if !is(signature, b"DSDT") {
                    return Err("the FADT points to no DSDT".into());
                }
            }
            seen += 1;
        }
        if seen == 0 {
            return Err("a root table without tables".into());
        }
        self.check_smbios(view)
    }

    fn check_smbios(&self, view: &View) -> core::result::Result<(), String> {
        let fw_cfg = &self.machine.fw_cfg;
        if fw_cfg.selector("etc/smbios/smbios-anchor").is_none() {
            return Ok(());
        }
        let segment = self.machine.memory.peek(self.found.f_segment);
        for chunk in segment.chunks(16).enumerate() {
            let rest = &segment[chunk.0 * 16..];
            let (start, len, entry) = if rest.starts_with(b"_SM3_") {
                (u32_at(rest, 16), u32_at(rest, 12), rest.get(..24))
            } else if rest.starts_with(b"_SM_") {
                let len = u16_at(rest, 0x16).map(u32::from);
                (u32_at(rest, 0x18), len, rest.get(..31))
            } else {
                continue;
            };
            let (Some(start), Some(len), Some(entry)) = (start, len, entry) else {
                return Err("a cut SMBIOS entry point".into());
            };
            let range = PhysRange::new(start, len).ok_or("SMBIOS structures wrap")?;
            if byte_sum(entry) != 0 {
                return Err("the SMBIOS entry point's checksum is wrong".into());
            }
            if !self.found.f_segment.contains(range) && !view.is_kind(range, 3) {
                return Err(format!("SMBIOS structures at {range:x?}"));
            }
            return Ok(());
        }
        Err("no SMBIOS entry point in the F segment".into())
    }
}

/// Whether `there` is the item, and zeroes behind its end.
fn check_item(there: &[u8], item: &[u8], name: &str) -> core::result::Result<(), String> {
    let len = item.len().min(there.len());
    // Of megabytes of zeroes, the beginning is enough.
    let mut behind = there[len..].iter().take(1 << 16);
    if there[..len] != item[..len] || behind.any(|b| *b != 0) {
        return Err(format!("the {name} is not as the host gave it"));
    }
    Ok(())
}

fn check_map(e820: &[(u64, u64, u32)]) -> core::result::Result<(), String> {
    let mut end = 0;
    for (base, top, kind) in e820 {
        if *base < end || *top <= *base {
            return Err(format!("E820 is not sorted and disjoint: {e820:x?}"));
        }
        end = *top;
        let hole = layout::LEGACY_HOLE.start()..layout::F_SEGMENT.end();
        if *kind == 1 && *base < u64::from(hole.end) && *top > u64::from(hole.start) {
            return Err(format!("E820 has RAM in the legacy hole: {e820:x?}"));
        }
    }
    Ok(())
}

#[derive(Clone, Debug)]
struct Part {
    name: &'static str,
    range: PhysRange,
}

/// What a kernel sees.
struct View {
    parts: Vec<Part>,
    /// Base, end, type.
    e820: Vec<(u64, u64, u32)>,
    line: u32,
    initrd: (u32, u32),
    rsdp: u32,
    /// The command line and what was cleared with it.
    block: Option<PhysRange>,
    /// Whether QEMU had loaded the kernel.
    loaded: bool,
}

impl View {
    fn is_kind(&self, range: PhysRange, kind: u32) -> bool {
        let (start, end) = (u64::from(range.start()), u64::from(range.end()));
        let mut at = start;
        for (base, top, k) in &self.e820 {
            if *k == kind && *base <= at && *top > at {
                at = *top;
            }
        }
        at >= end
    }

    fn is_ram(&self, range: PhysRange) -> bool {
        self.is_kind(range, 1)
    }

    fn check_initrd(&mut self, guest: &Guest) -> core::result::Result<(), String> {
        let fw_cfg = &guest.machine.fw_cfg;
        let given = u32_at(fw_cfg.data(item::INITRD_SIZE), 0).unwrap_or(0);
        // A bzImage's header says whether there is one.
        let announced = self.loaded || u32_at(fw_cfg.data(item::SETUP_DATA), 0x21c) != Some(0);
        let (start, len) = self.initrd;
        if len != if announced { given } else { 0 } {
            return Err(format!("an initrd of {len} bytes instead of {given}"));
        }
        if len == 0 {
            return Ok(());
        }
        let range = PhysRange::new(start, len).ok_or("the initrd wraps")?;
        let there = guest.machine.memory.peek(range);
        check_item(there, fw_cfg.data(item::INITRD_DATA), "initrd")?;
        self.parts.push(Part {
            name: "initrd",
            range,
        });
        Ok(())
    }

    fn check_line(&mut self, guest: &Guest) -> core::result::Result<(), String> {
        let memory = &guest.machine.memory;
        let given = guest.machine.fw_cfg.data(item::CMDLINE_DATA);
        let given = given.split(|b| *b == 0).next().unwrap_or(&[]);
        let len = given.len() as u32 + 1;
        let range = PhysRange::new(self.line, len).ok_or("the command line wraps")?;
        let there = memory.peek(range);
        if there.split_last() != Some((&0, given)) {
            return Err("the command line is not as the host gave it".into());
        }
        // All of what was claimed for it.
        let mut touched = memory.touched.iter();
        let claimed = touched.find(|r| r.contains(range) && r.start() == self.line);
        let claimed = claimed.copied().unwrap_or(range);
        let range = match self.block {
            Some(_) => range,
            None => claimed,
        };
        self.parts.push(Part {
            name: "command line",
            range,
        });
        Ok(())
    }
}

/// A program header.
#[derive(Clone, Copy, Debug)]
struct Segment {
    kind: u32,
    offset: u64,
    paddr: u64,
    filesz: u64,
    memsz: u64,
}

/// Program headers, read without the firmware's own parser.
fn segments(file: &[u8]) -> Vec<Segment> {
    let long = file.get(4) == Some(&2);
    let field = |at: usize, wide: bool| {
        if wide {
            u64_at(file, at)
        } else {
            u32_at(file, at).map(u64::from)
        }
    };
    let (phoff, size, count) = if long {
        (field(0x20, true), u16_at(file, 0x36), u16_at(file, 0x38))
    } else {
        (field(0x1c, false), u16_at(file, 0x2a), u16_at(file, 0x2c))
    };
    let (Some(phoff), Some(size), Some(count)) = (phoff, size, count) else {
        return Vec::new();
    };
    if size < 32 {
        return Vec::new();
    }
    let read = |i: u16| {
        let at = usize::try_from(phoff)
            .ok()?
            .checked_add(usize::from(i) * usize::from(size))?;
        let kind = u32_at(file, at)?;
        Some(if long {
            Segment {
                kind,
                offset: field(at + 8, true)?,
                paddr: field(at + 24, true)?,
                filesz: field(at + 32, true)?,
                memsz: field(at + 40, true)?,
            }
        } else {
            Segment {
                kind,
                offset: field(at + 4, false)?,
                paddr: field(at + 12, false)?,
                filesz: field(at + 16, false)?,
                memsz: field(at + 20, false)?,
            }
        })
    };
    (0..count).map_while(read).collect()
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
