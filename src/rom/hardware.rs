//! The hardware as the library's platform. Ports and registers are in `io`, fw_cfg in
//! `dma`, memory in `memory`, the terminal in `console`; the rest is here.

use super::memory::Window;
use super::{cpu, realmode};
use qboot::layout;
use qboot::platform::Platform;

/// The machine that the ROM runs on.
#[derive(Debug)]
pub struct Hardware {
    /// The only window on guest memory.
    pub(super) window: Window,
    /// Whether DMA of fw_cfg is switched off.
    pub(super) byte_wise: bool,
}

/// The hardware, and the scratch memory.
///
/// # Safety
/// Called once, with identity-mapped memory laid out as [`layout`] says.
pub unsafe fn take() -> (Hardware, &'static mut [u8]) {
    let scratch = layout::SCRATCH;
    let start = core::ptr::with_exposed_provenance_mut::<u8>(scratch.start() as usize);
    // SAFETY: SCRATCH is conventional RAM on every PC, `layout` proves it
    // disjoint from all else, `memory::window` refuses it, and the caller
    // calls once: this is its only reference.
    let scratch = unsafe { core::slice::from_raw_parts_mut(start, scratch.len() as usize) };
    // SAFETY: the caller calls once, and has memory laid out like that.
    (unsafe { without_scratch() }, scratch)
}

/// The hardware alone.
///
/// # Safety
/// As for [`take`], and no other `Hardware` is in use.
pub unsafe fn without_scratch() -> Hardware {
    Hardware {
        // SAFETY: by the caller.
        window: unsafe { Window::new() },
        byte_wise: false,
    }
}

impl Platform for Hardware {
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let r = core::arch::x86::__cpuid_count(leaf, subleaf);
        [r.eax, r.ebx, r.ecx, r.edx]
    }

    fn enable_x2apic(&mut self) {
        // SAFETY: by the contract of `Platform::enable_x2apic`, its caller has checked
        // CPUID.
        unsafe { cpu::enable_x2apic() }
    }

    fn pci_bios(&self) -> &'static [u8] {
        realmode::pci_bios()
    }
}
