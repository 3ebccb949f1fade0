//! The window on guest memory: turns the library's rule into slices.

use super::hardware::Hardware;
use qboot::error::Result;
use qboot::layout;
use qboot::memory::window;
use qboot::phys::PhysRange;
use qboot::phys::Refused;
use qboot::platform::GuestMemory;

/// RAM without the running firmware's part.
#[derive(Debug)]
pub struct Window {
    /// The parts that may be touched.
    parts: [PhysRange; 4],
}

impl Window {
    /// A window on low memory; [`GuestMemory::open`] adds RAM above 1 MiB.
    ///
    /// # Safety
    /// Memory is laid out as [`layout`] says and mapped to itself, and there is no
    /// other window, whose slices would be the same bytes.
    pub unsafe fn new() -> Self {
        Self {
            parts: window::parts(PhysRange::fixed(layout::HIGH_RAM, layout::HIGH_RAM)),
        }
    }

    /// The bytes of `range`.
    ///
    /// # Errors
    /// [`Refused`] if the rule refuses it.
    pub fn bytes(&mut self, range: PhysRange) -> Result<&mut [u8], Refused> {
        if !window::contains(&self.parts, range) {
            return Err(Refused);
        }
        let start = core::ptr::with_exposed_provenance_mut(range.start() as usize);
        // SAFETY: `window::contains` has found the range in RAM (the layout's
        // low memory, the opened F segment, or what E820 calls RAM above 1 MiB),
        // no longer than a slice may be, and outside stack, statics, scratch and
        // image. This is the only window, by `new`'s caller, and its borrow
        // makes the reference the only one.
        Ok(unsafe { core::slice::from_raw_parts_mut(start, range.len() as usize) })
    }
}

impl GuestMemory for Hardware {
    fn open(&mut self, ram: PhysRange) {
        // Below 1 MiB the layout is fixed, whatever the map says.
        if ram.start() == layout::HIGH_RAM {
            let [high, ..] = &mut self.window.parts;
            *high = ram;
        }
    }

    fn bytes(&mut self, range: PhysRange) -> Result<&mut [u8], Refused> {
        self.window.bytes(range)
    }
}
