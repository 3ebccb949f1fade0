//! A simulated PCI tree: configuration space with the semantics that
//! firmware relies on, for tests and for running the firmware on the host.
//!
//! Which function answers an address is decided by the bus numbers that the
//! bridges hold at that moment.

#![allow(
    clippy::indexing_slicing,
    reason = "fixed offsets into fixed arrays; never part of the ROM"
)]

mod function;
mod routing;

pub use function::{Bar, Bus, Function, Port, Reserve};
pub use routing::{Mapping, Span, io_window, mem_window, pref_window};

use super::{Bdf, Config};
use crate::platform::Io;
use routing::{Forward, map_bus};
use std::collections::BTreeMap;
use std::vec::Vec;

/// A host bridge with its tree.
#[derive(Clone, Debug, Default)]
pub struct Sim {
    /// The root buses by number.
    pub roots: BTreeMap<u8, Bus>,
    /// Where ECAM answers, if it does.
    pub ecam: Option<u32>,
    /// Accesses so far: one each through [`Config`] and ECAM, each port
    /// access through [`Io`].
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

impl Config for Sim {
    fn read32(&mut self, bdf: Bdf, register: u16) -> u32 {
        self.read(bdf, register, 4)
    }

    fn write16(&mut self, bdf: Bdf, register: u16, value: u16) {
        self.write(bdf, register, 2, value.into());
    }

    fn write32(&mut self, bdf: Bdf, register: u16, value: u32) {
        self.write(bdf, register, 4, value);
    }
}

impl Io for Sim {
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
