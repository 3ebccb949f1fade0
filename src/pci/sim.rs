//! A simulated PCI tree: configuration space with the semantics that
//! firmware relies on, for tests and for running the firmware on the host.
//!
//! A function is 256 bytes of registers with a mask of writable and of
//! write-one-to-clear bits, as in QEMU; BAR sizing follows from the masks.
//! Which function answers an address is decided by the bus numbers that the
//! bridges hold at that moment, and where a BAR is reachable by the windows.

#![allow(
    clippy::indexing_slicing,
    reason = "fixed offsets into fixed arrays; never part of the ROM"
)]

use super::{Bdf, Config};
use crate::io::{Mmio, PortIo};
use std::boxed::Box;
use std::collections::BTreeMap;
use std::vec::Vec;

/// What a BAR decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bar {
    /// Ports.
    Io,
    /// Memory below 4 GiB.
    Mem32,
    /// Prefetchable memory below 4 GiB.
    Pref32,
    /// Memory anywhere; two registers.
    Mem64,
    /// Prefetchable memory anywhere; two registers.
    Pref64,
}

/// PCI Express port types (PCI Express Base 4.0, section 7.5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Root port.
    Root = 4,
    /// Upstream port of a switch.
    Upstream = 5,
    /// Downstream port of a switch.
    Downstream = 6,
    /// PCI Express to PCI bridge.
    ToPci = 7,
}

/// QEMU's resource reservation; `None` fields are absent (all ones).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserve {
    /// Buses.
    pub buses: Option<u32>,
    /// Bytes of ports.
    pub io: Option<u64>,
    /// Bytes of memory.
    pub mem: Option<u32>,
    /// Bytes of prefetchable memory below 4 GiB.
    pub pref32: Option<u32>,
    /// Bytes of prefetchable memory anywhere.
    pub pref64: Option<u64>,
}

/// One function.
#[derive(Clone, Debug)]
pub struct Function {
    bytes: [u8; 256],
    writable: [u8; 256],
    clear: [u8; 256],
    bars: Vec<(u8, Bar, u8)>,
    rom: Option<u8>,
    next_cap: u8,
    last_cap: u8,
    behind: Option<Box<Bus>>,
}

/// The functions of a bus by `devfn`.
pub type Bus = BTreeMap<u8, Function>;

impl Function {
    /// A device; `id` holds vendor (15:0) and device (31:16).
    #[must_use]
    pub fn device(id: u32, class: u16) -> Self {
        let mut function = Self {
            bytes: [0; 256],
            writable: [0; 256],
            clear: [0; 256],
            bars: Vec::new(),
            rom: None,
            next_cap: 0x40,
            last_cap: 0x34,
            behind: None,
        };
        function.set(0, &id.to_le_bytes());
        function.set(0x0a, &class.to_le_bytes());
        function.allow(0x04, &[0x47, 0x05]);
        function.clear[0x07] = 0xf9;
        function.allow(0x3c, &[0xff]);
        function
    }

    /// A bridge with `behind` on its secondary bus and all three windows.
    #[must_use]
    pub fn bridge(id: u32, behind: Bus) -> Self {
        let mut function = Self::device(id, 0x0604);
        function.set(0x0e, &[1]);
        function.allow(0x18, &[0xff; 4]);
        function.allow(0x1c, &[0xf0, 0xf0]);
        function.clear[0x1f] = 0xf9;
        function.allow(0x20, &[0xf0, 0xff, 0xf0, 0xff]);
        function.set(0x24, &[1, 0, 1, 0]);
        function.allow(0x24, &[0xf0, 0xff, 0xf0, 0xff]);
        function.allow(0x28, &[0xff; 8]);
        function.allow(0x3e, &[0xff, 0x0f]);
        function.behind = Some(Box::new(behind));
        function
    }

    /// A PCI Express port, with a slot unless it leads upstream.
    #[must_use]
    pub fn port(port: Port, behind: Bus) -> Self {
        let slot = matches!(port, Port::Root | Port::Downstream);
        let mut function = Self::bridge(0x000c_1b36, behind);
        function.add_cap(&[0x10, 0, (port as u8) << 4 | 2, u8::from(slot), 0, 0, 0, 0]);
        function
    }

    /// Without I/O window.
    #[must_use]
    pub fn without_io_window(mut self) -> Self {
        self.writable[0x1c] = 0;
        self.writable[0x1d] = 0;
        self
    }

    /// With a prefetchable window of 32 bits only.
    #[must_use]
    pub fn with_pref32_window(mut self) -> Self {
        self.set(0x24, &[0, 0, 0, 0]);
        for byte in 0x28..0x30 {
            self.writable[byte] = 0;
        }
        self
    }

    /// With BAR `bar` of `1 << order` bytes.
    #[must_use]
    pub fn bar(mut self, bar: u8, kind: Bar, order: u8) -> Self {
        let at = 0x10_usize.wrapping_add(usize::from(bar).wrapping_mul(4));
        let mask = u64::MAX.checked_shl(order.into()).unwrap_or(0);
        let flags: u8 = match kind {
            Bar::Io => 1,
            Bar::Mem32 => 0,
            Bar::Pref32 => 8,
            Bar::Mem64 => 4,
            Bar::Pref64 => 12,
        };
        self.set(at, &[flags]);
        let mask = mask & if kind == Bar::Io { !3 } else { !15 };
        let bytes = mask.to_le_bytes();
        if matches!(kind, Bar::Mem64 | Bar::Pref64) {
            self.allow(at, &bytes);
        } else {
            self.allow(at, bytes.split_at(4).0);
        }
        self.bars.push((bar, kind, order));
        self
    }

    /// With an expansion ROM of `1 << order` bytes, at least 2 KiB.
    #[must_use]
    pub fn rom(mut self, order: u8) -> Self {
        let at = if self.bytes[0x0e] & 0x7f == 1 {
            0x38
        } else {
            0x30
        };
        let mask = u32::MAX.checked_shl(order.into()).unwrap_or(0);
        self.allow(at, &(mask & !0x7ff | 1).to_le_bytes());
        self.rom = Some(order);
        self
    }

    /// With interrupt pin 1 (INTA#) to 4.
    #[must_use]
    pub fn pin(mut self, pin: u8) -> Self {
        self.set(0x3d, &[pin]);
        self
    }

    /// The device has several functions.
    #[must_use]
    pub fn multi(mut self) -> Self {
        self.bytes[0x0e] |= 0x80;
        self
    }

    /// With a standard hot-plug controller.
    #[must_use]
    pub fn shpc(mut self) -> Self {
        self.add_cap(&[0x0c, 0, 0, 0, 0, 0, 0, 0]);
        self
    }

    /// With QEMU's resource reservation.
    #[must_use]
    pub fn reserve(mut self, reserve: Reserve) -> Self {
        let mut cap = std::vec![0x09, 0, 32, 1];
        cap.extend(reserve.buses.unwrap_or(u32::MAX).to_le_bytes());
        cap.extend(reserve.io.unwrap_or(u64::MAX).to_le_bytes());
        cap.extend(reserve.mem.unwrap_or(u32::MAX).to_le_bytes());
        cap.extend(reserve.pref32.unwrap_or(u32::MAX).to_le_bytes());
        cap.extend(reserve.pref64.unwrap_or(u64::MAX).to_le_bytes());
        self.add_cap(&cap);
        self
    }

    /// With the registers from `at` on preset, writable bits included.
    #[must_use]
    pub fn preset(mut self, at: u8, bytes: &[u8]) -> Self {
        self.set(at.into(), bytes);
        self
    }

    /// With all bits of the registers from `at` on writable.
    #[must_use]
    pub fn scratch(mut self, at: u8, len: u8) -> Self {
        for byte in at..at.saturating_add(len) {
            self.writable[usize::from(byte)] = 0xff;
        }
        self
    }

    /// The dword at `at`.
    #[must_use]
    pub fn dword(&self, at: u8) -> u32 {
        let at = usize::from(at & 0xfc);
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.bytes.get(at..at.wrapping_add(4)).unwrap_or(&[0xff; 4]));
        u32::from_le_bytes(bytes)
    }

    /// BARs that it has: register number, kind, size as a power of two.
    #[must_use]
    pub fn bars(&self) -> &[(u8, Bar, u8)] {
        &self.bars
    }

    /// The bus behind a bridge.
    #[must_use]
    pub fn behind(&self) -> Option<&Bus> {
        self.behind.as_deref()
    }

    fn set(&mut self, at: usize, bytes: &[u8]) {
        if let Some(slots) = self.bytes.get_mut(at..at.wrapping_add(bytes.len())) {
            slots.copy_from_slice(bytes);
        }
    }

    fn allow(&mut self, at: usize, mask: &[u8]) {
        if let Some(slots) = self.writable.get_mut(at..at.wrapping_add(mask.len())) {
            slots.copy_from_slice(mask);
        }
    }

    fn add_cap(&mut self, cap: &[u8]) {
        let at = self.next_cap;
        self.bytes[0x06] |= 0x10;
        self.set(at.into(), cap);
        self.bytes[usize::from(self.last_cap)] = at;
        self.last_cap = at.wrapping_add(1);
        let len = u8::try_from(cap.len()).unwrap_or(0);
        self.next_cap = at.wrapping_add(len).wrapping_add(3) & 0xfc;
    }

    fn reset(&mut self) {
        for byte in [4, 5, 0x3c] {
            self.bytes[byte] &= !self.writable[byte];
        }
        let bars = if self.behind.is_some() {
            0x10..0x34
        } else {
            0x10..0x28
        };
        for byte in bars.chain(0x30..0x34).chain(0x38..0x3c) {
            self.bytes[byte] &= !self.writable[byte];
        }
        for function in self.behind.iter_mut().flat_map(|bus| bus.values_mut()) {
            function.reset();
        }
    }

    fn read(&self, register: u16, len: usize) -> u32 {
        let mut bytes = [0; 4];
        for (byte, at) in bytes.iter_mut().take(len).zip(usize::from(register)..) {
            // Extended configuration space: no capabilities.
            *byte = self.bytes.get(at).copied().unwrap_or(0);
        }
        u32::from_le_bytes(bytes)
    }

    fn write(&mut self, register: u16, len: usize, value: u32) {
        for (byte, at) in value
            .to_le_bytes()
            .iter()
            .take(len)
            .zip(usize::from(register)..)
        {
            if let Some(old) = self.bytes.get_mut(at) {
                let mask = self.writable[at];
                *old = *old & !mask & !(byte & self.clear[at]) | byte & mask;
            }
        }
    }

    fn buses(&self) -> Option<(u8, u8)> {
        self.behind
            .is_some()
            .then(|| (self.bytes[0x19], self.bytes[0x1a]))
    }
}

/// Where a window or the whole machine forwards, ends inclusive; `start >
/// end` forwards nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First address.
    pub start: u64,
    /// Last address.
    pub end: u64,
}

impl Span {
    /// Everything.
    pub const ALL: Self = Self {
        start: 0,
        end: u64::MAX,
    };

    /// Whether all of `other` is inside.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// Whether any address is in both.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

/// A BAR that decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Whose.
    pub bdf: Bdf,
    /// Which; 6 is the expansion ROM, which firmware places but leaves off.
    pub bar: u8,
    /// Ports, not memory.
    pub io: bool,
    /// Where.
    pub span: Span,
    /// Whether every bridge on the way forwards all of it.
    pub reachable: bool,
}

/// A host bridge with its tree.
#[derive(Clone, Debug, Default)]
pub struct Sim {
    /// The root buses by number.
    pub roots: BTreeMap<u8, Bus>,
    /// Where ECAM answers, if it does.
    pub ecam: Option<u32>,
    /// Accesses so far: one each through [`Config`] and ECAM, each port
    /// access through [`PortIo`].
    pub accesses: usize,
    address: u32,
}

impl Sim {
    /// A tree with root bus 0.
    #[must_use]
    pub fn new(root: Bus) -> Self {
        let mut sim = Self::default();
        sim.roots.insert(0, root);
        sim
    }

    /// With a further root bus.
    #[must_use]
    pub fn root(mut self, number: u8, bus: Bus) -> Self {
        self.roots.insert(number, bus);
        self
    }

    /// What a machine reset does.
    pub fn reset(&mut self) {
        self.address = 0;
        for function in self.roots.values_mut().flat_map(|bus| bus.values_mut()) {
            function.reset();
        }
    }

    /// The function that answers at `bdf`.
    pub fn function(&mut self, bdf: Bdf) -> Option<&mut Function> {
        if self.roots.contains_key(&bdf.bus()) {
            return self.roots.get_mut(&bdf.bus())?.get_mut(&bdf.devfn());
        }
        // Expanders are out of a bridge's way: the roots are asked in order.
        let bus = self
            .roots
            .values_mut()
            .find_map(|root| find_bus(root, bdf.bus(), 0))?;
        bus.get_mut(&bdf.devfn())
    }

    /// Reads `len` bytes.
    pub fn read(&mut self, bdf: Bdf, register: u16, len: usize) -> u32 {
        self.accesses = self.accesses.wrapping_add(1);
        match self.function(bdf) {
            Some(function) => function.read(register, len),
            None => u32::MAX,
        }
    }

    /// Writes `len` bytes.
    pub fn write(&mut self, bdf: Bdf, register: u16, len: usize, value: u32) {
        self.accesses = self.accesses.wrapping_add(1);
        if let Some(function) = self.function(bdf) {
            function.write(register, len, value);
        }
    }

    /// Every BAR that its function's COMMAND register switches on, and every
    /// placed expansion ROM.
    #[must_use]
    pub fn mappings(&self) -> Vec<Mapping> {
        let mut all = Vec::new();
        for (number, bus) in &self.roots {
            let open = Forward {
                io: &[Span::ALL],
                mem: &[Span::ALL],
            };
            map_bus(bus, *number, &open, &mut all);
        }
        all
    }

    fn ecam_address(&self, addr: u32) -> Option<(Bdf, u16)> {
        let offset = addr.checked_sub(self.ecam?)?;
        let bdf = u16::try_from(offset >> 12).ok()?;
        let register = u16::try_from(offset & 0xfff).ok()?;
        Some((Bdf::from_bits(bdf), register))
    }

    fn port_read(&mut self, port: u16, len: usize) -> u32 {
        match port {
            0xcf8 if len == 4 => {
                self.accesses = self.accesses.wrapping_add(1);
                self.address
            }
            0xcfc..=0xcff => match self.cam_address(port) {
                Some((bdf, register)) => self.read(bdf, register, len),
                None => u32::MAX,
            },
            _ => u32::MAX,
        }
    }

    fn port_write(&mut self, port: u16, len: usize, value: u32) {
        match port {
            0xcf8 if len == 4 => {
                self.accesses = self.accesses.wrapping_add(1);
                self.address = value;
            }
            0xcfc..=0xcff => {
                if let Some((bdf, register)) = self.cam_address(port) {
                    self.write(bdf, register, len, value);
                }
            }
            _ => {}
        }
    }

    fn cam_address(&self, port: u16) -> Option<(Bdf, u16)> {
        if self.address & 1 << 31 == 0 {
            return None;
        }
        let [register, devfn, bus, _] = self.address.to_le_bytes();
        Some((
            Bdf::on_bus(bus, devfn),
            u16::from(register & 0xfc) | port & 3,
        ))
    }
}

fn find_bus(bus: &mut Bus, number: u8, depth: usize) -> Option<&mut Bus> {
    if depth > 256 {
        return None;
    }
    for function in bus.values_mut() {
        let Some((secondary, subordinate)) = function.buses() else {
            continue;
        };
        if secondary == number && number != 0 {
            return function.behind.as_deref_mut();
        }
        if secondary != 0 && secondary < number && number <= subordinate {
            return find_bus(
                function.behind.as_deref_mut()?,
                number,
                depth.wrapping_add(1),
            );
        }
    }
    None
}

struct Forward<'a> {
    io: &'a [Span],
    mem: &'a [Span],
}

fn map_bus(bus: &Bus, number: u8, forward: &Forward<'_>, all: &mut Vec<Mapping>) {
    for (devfn, function) in bus {
        let bdf = Bdf::on_bus(number, *devfn);
        let command = function.dword(4);
        for (bar, kind, order) in &function.bars {
            let io = *kind == Bar::Io;
            if command & if io { 1 } else { 2 } == 0 {
                continue;
            }
            let at = bar.wrapping_mul(4).wrapping_add(0x10);
            let mut start = u64::from(function.dword(at) & if io { !3 } else { !15 });
            if matches!(kind, Bar::Mem64 | Bar::Pref64) {
                start |= u64::from(function.dword(at.wrapping_add(4))) << 32;
            }
            all.push(mapping(bdf, *bar, io, start, *order, forward));
        }
        if let Some(order) = function.rom {
            let at = if function.behind.is_some() {
                0x38
            } else {
                0x30
            };
            let start = u64::from(function.dword(at) & !0x7ff);
            if start != 0 && command & 2 != 0 {
                all.push(mapping(bdf, 6, false, start, order, forward));
            }
        }
        if let (Some(behind), Some((secondary, _))) = (function.behind(), function.buses()) {
            let inside = |window: Span, outer: &[Span]| outer.iter().any(|o| o.contains(window));
            let io = io_window(function);
            let mem = [mem_window(function), pref_window(function)];
            let io: Vec<Span> = [io]
                .into_iter()
                .filter(|w| inside(*w, forward.io) && command & 1 != 0)
                .collect();
            let mem: Vec<Span> = mem
                .into_iter()
                .filter(|w| inside(*w, forward.mem) && command & 2 != 0)
                .collect();
            map_bus(behind, secondary, &Forward { io: &io, mem: &mem }, all);
        }
    }
}

fn mapping(bdf: Bdf, bar: u8, io: bool, start: u64, order: u8, forward: &Forward<'_>) -> Mapping {
    let len = 1_u64.checked_shl(order.into()).unwrap_or(0).wrapping_sub(1);
    let span = Span {
        start,
        end: start.saturating_add(len),
    };
    let windows = if io { forward.io } else { forward.mem };
    let reachable = windows.iter().any(|window| window.contains(span));
    Mapping {
        bdf,
        bar,
        io,
        span,
        reachable,
    }
}

/// A bridge's I/O window (PCI-to-PCI Bridge 1.2, section 3.2.5.6).
#[must_use]
pub fn io_window(bridge: &Function) -> Span {
    let [base, limit, ..] = bridge.dword(0x1c).to_le_bytes();
    Span {
        start: u64::from(base & 0xf0) << 8,
        end: u64::from(limit & 0xf0) << 8 | 0xfff,
    }
}

/// A bridge's memory window (section 3.2.5.8).
#[must_use]
pub fn mem_window(bridge: &Function) -> Span {
    let value = bridge.dword(0x20);
    Span {
        start: u64::from(value & 0xfff0) << 16,
        end: u64::from(value & 0xfff0_0000) | 0xf_ffff,
    }
}

/// A bridge's prefetchable window (sections 3.2.5.9 and 3.2.5.10).
#[must_use]
pub fn pref_window(bridge: &Function) -> Span {
    let value = bridge.dword(0x24);
    let (base, limit) = if value & 1 != 0 {
        (
            u64::from(bridge.dword(0x28)) << 32,
            u64::from(bridge.dword(0x2c)) << 32,
        )
    } else {
        (0, 0)
    };
    Span {
        start: base | u64::from(value & 0xfff0) << 16,
        end: limit | u64::from(value & 0xfff0_0000) | 0xf_ffff,
    }
}

impl Config for Sim {
    fn read32(&mut self, bdf: Bdf, register: u16) -> u32 {
        self.read(bdf, register, 4)
    }

    fn write8(&mut self, bdf: Bdf, register: u16, value: u8) {
        self.write(bdf, register, 1, value.into());
    }

    fn write16(&mut self, bdf: Bdf, register: u16, value: u16) {
        self.write(bdf, register, 2, value.into());
    }

    fn write32(&mut self, bdf: Bdf, register: u16, value: u32) {
        self.write(bdf, register, 4, value);
    }
}

impl PortIo for Sim {
    fn in8(&mut self, port: u16) -> u8 {
        self.port_read(port, 1).to_le_bytes()[0]
    }

    fn in16(&mut self, port: u16) -> u16 {
        let [low, high, ..] = self.port_read(port, 2).to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    fn in32(&mut self, port: u16) -> u32 {
        self.port_read(port, 4)
    }

    fn out8(&mut self, port: u16, value: u8) {
        self.port_write(port, 1, value.into());
    }

    fn out16(&mut self, port: u16, value: u16) {
        self.port_write(port, 2, value.into());
    }

    fn out32(&mut self, port: u16, value: u32) {
        self.port_write(port, 4, value);
    }
}

impl Mmio for Sim {
    fn read8(&mut self, addr: u32) -> u8 {
        match self.ecam_address(addr) {
            Some((bdf, register)) => self.read(bdf, register, 1).to_le_bytes()[0],
            None => u8::MAX,
        }
    }

    fn read16(&mut self, addr: u32) -> u16 {
        match self.ecam_address(addr) {
            Some((bdf, register)) => {
                let [low, high, ..] = self.read(bdf, register, 2).to_le_bytes();
                u16::from_le_bytes([low, high])
            }
            None => u16::MAX,
        }
    }

    fn read32(&mut self, addr: u32) -> u32 {
        match self.ecam_address(addr) {
            Some((bdf, register)) => self.read(bdf, register, 4),
            None => u32::MAX,
        }
    }

    fn write8(&mut self, addr: u32, value: u8) {
        if let Some((bdf, register)) = self.ecam_address(addr) {
            self.write(bdf, register, 1, value.into());
        }
    }

    fn write16(&mut self, addr: u32, value: u16) {
        if let Some((bdf, register)) = self.ecam_address(addr) {
            self.write(bdf, register, 2, value.into());
        }
    }

    fn write32(&mut self, addr: u32, value: u32) {
        if let Some((bdf, register)) = self.ecam_address(addr) {
            self.write(bdf, register, 4, value);
        }
    }
}
