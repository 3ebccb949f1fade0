//! A function: 256 bytes of registers with a mask of writable and of
//! write-one-to-clear bits, as in QEMU; BAR sizing follows from the masks.

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
    pub(super) bytes: [u8; 256],
    pub(super) writable: [u8; 256],
    clear: [u8; 256],
    bars: Vec<(u8, Bar, u8)>,
    pub(super) rom: Option<u8>,
    next_cap: u8,
    pub(super) behind: Option<Box<Bus>>,
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

    /// At the front of the list, where QEMU puts new ones.
    fn add_cap(&mut self, cap: &[u8]) {
        let at = self.next_cap;
        self.bytes[0x06] |= 0x10;
        self.set(at.into(), cap);
        self.bytes[usize::from(at.wrapping_add(1))] = self.bytes[0x34];
        self.bytes[0x34] = at;
        let len = u8::try_from(cap.len()).unwrap_or(0);
        self.next_cap = at.wrapping_add(len).wrapping_add(3) & 0xfc;
    }

    pub(super) fn reset(&mut self) {
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

    pub(super) fn read(&self, register: u16, len: usize) -> u32 {
        let mut bytes = [0; 4];
        for (byte, at) in bytes.iter_mut().take(len).zip(usize::from(register)..) {
            // Extended configuration space: no capabilities.
            *byte = self.bytes.get(at).copied().unwrap_or(0);
        }
        u32::from_le_bytes(bytes)
    }

    pub(super) fn write(&mut self, register: u16, len: usize, value: u32) {
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

    pub(super) fn buses(&self) -> Option<(u8, u8)> {
        self.behind
            .is_some()
            .then(|| (self.bytes[0x19], self.bytes[0x1a]))
    }
}
