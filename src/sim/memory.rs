//! Guest memory, which records what the firmware touches.

use crate::error::Result;
use crate::layout;
use crate::phys::PhysRange;
use crate::phys::Refused;
use crate::platform::GuestMemory;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::vec::Vec;

/// Guest memory, all zero at first.
#[derive(Debug)]
pub struct Memory {
    /// From address 0 to the end of RAM below 4 GiB.
    pub(super) bytes: Vec<u8>,
    high: PhysRange,
    /// The PCI BIOS of a ROM, for machines without ACPI.
    pub pci_bios: &'static [u8],
    /// Ranges that were touched, in order.
    pub touched: Vec<PhysRange>,
    /// Ranges that were refused.
    pub refused: Vec<PhysRange>,
    /// What QEMU loaded before the firmware ran.
    pub loaded: Vec<(u32, Vec<u8>)>,
    /// The most bytes that can have been written to a range, by the items' sizes.
    pub max_written: usize,
}

std::thread_local! {
    // Buffers are kept: mapping gigabytes in every run would slow a fuzzer down.
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
            high: PhysRange::fixed(layout::HIGH_RAM, layout::HIGH_RAM),
            pci_bios: &[],
            touched: Vec::new(),
            refused: Vec::new(),
            loaded: Vec::new(),
            max_written: usize::MAX,
        }
    }

    /// The bytes at `range`; zeroes where there is no RAM.
    #[must_use]
    pub fn peek(&self, range: PhysRange) -> &[u8] {
        self.bytes
            .get(range.start() as usize..range.end() as usize)
            .unwrap_or(&[])
    }

    /// Fills `range`, as an earlier boot may have.
    pub fn fill(&mut self, range: PhysRange, byte: u8) {
        self.touched.push(range);
        self.bytes[range.start() as usize..range.end() as usize].fill(byte);
    }

    /// Puts `bytes` where QEMU would load them; `false` if there is no RAM.
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

    /// Removes what [`Memory::preload`] has loaded.
    pub fn unload(&mut self) {
        for (addr, bytes) in std::mem::take(&mut self.loaded) {
            let start = addr as usize;
            if let Some(slot) = self.bytes.get_mut(start..start + bytes.len()) {
                slot.fill(0);
            }
        }
    }

    /// Whether the firmware was refused RAM that the host's map has: no real machine
    /// lies like this.
    pub(super) fn was_lied_to(&self) -> bool {
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
        // 32 bits have too little address space to keep buffers.
        if usize::BITS < 64 {
            return;
        }
        // Fails while the thread ends, when the buffer is not needed.
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

    fn bytes(&mut self, range: PhysRange) -> Result<&mut [u8], Refused> {
        let ours = self.high.contains(range)
            || layout::LOW_FREE_TOP.contains(range)
            || layout::LOW_FREE.contains(range)
            || layout::EBDA.contains(range)
            || layout::F_TABLES.contains(range)
            || layout::OWN_SMBIOS.contains(range);
        let whole = range.start() as usize..range.end() as usize;
        if !ours || whole.end > self.bytes.len() {
            self.refused.push(range);
            return Err(Refused);
        }
        // Checksums and patches touch the same ranges again.
        if !self.touched.iter().rev().take(8).any(|t| t.contains(range)) {
            self.touched.push(range);
        }
        self.bytes.get_mut(whole).ok_or(Refused)
    }
}
