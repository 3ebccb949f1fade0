//! The window on guest memory.

use core::arch::asm;
use qboot::error::{Error, Result};
use qboot::layout;
use qboot::phys::{GuestMemory, PhysRange};

unsafe extern "C" {
    static __f_segment_free: u8;
    static __f_segment_free_end: u8;
}

/// The part of the F segment that the image leaves free.
#[must_use]
pub fn f_segment() -> PhysRange {
    let (start, end) = (&raw const __f_segment_free, &raw const __f_segment_free_end);
    PhysRange::between(start.addr() as u32, end.addr() as u32).unwrap_or(layout::EBDA)
}

/// RAM that is not the running firmware's.
#[derive(Debug)]
pub struct Window {
    high: PhysRange,
    has_mmx: bool,
}

impl Window {
    /// A window on low memory; [`GuestMemory::open`] adds RAM above 1 MiB.
    ///
    /// `signature` is EDX after reset (Intel SDM 3A, 10.1.1): it tells the
    /// processor's family without the exit that CPUID costs.
    #[must_use]
    pub fn new(signature: u32) -> Self {
        // Family 6 from model 3 on (Pentium II), and every later family, has
        // MMX; a Pentium may not.
        let (family, model) = (
            signature >> 8 & 0xf,
            signature >> 4 & 0xf | signature >> 12 & 0xf0,
        );
        let has_mmx = (family > 6 || family == 6 && model >= 3) && !on_kvm();
        Self {
            high: PhysRange::fixed(layout::HIGH_RAM, layout::HIGH_RAM),
            has_mmx,
        }
    }

    fn check(&self, range: PhysRange) -> Result<()> {
        if self.high.contains(range)
            || layout::LOW_FREE_TOP.contains(range)
            || layout::LOW_FREE.contains(range)
            || f_segment().contains(range)
        {
            Ok(())
        } else {
            Err(Error::NotOurMemory)
        }
    }
}

/// Whether KVM runs this guest.
///
/// Where the processor cannot run unpaged code as a guest, KVM emulates it
/// instruction by instruction, and its emulator stops the machine at MMX and
/// SSE arithmetic. Where it can, the plain sum costs some microseconds more.
fn on_kvm() -> bool {
    // Leaf 0x4000_0000 (KVM's `cpuid.rst`); QEMU's translator gives its own
    // name there, a processor without hypervisor some other leaf's numbers.
    core::arch::x86::__cpuid(0x4000_0000).ebx == u32::from_le_bytes(*b"KVMK")
}

impl GuestMemory for Window {
    fn open(&mut self, ram: PhysRange) {
        // Below 1 MiB the layout is fixed; nothing a map says opens it.
        self.high = if ram.start() >= layout::HIGH_RAM {
            ram
        } else {
            self.high
        };
    }

    fn bytes(&mut self, range: PhysRange) -> Result<&mut [u8]> {
        self.check(range)?;
        let len = range.len() as usize;
        if len > isize::MAX as usize {
            return Err(Error::NotOurMemory);
        }
        let start = core::ptr::with_exposed_provenance_mut(range.start() as usize);
        // SAFETY: `check` has found the range in RAM (the layout's low
        // memory, the opened F segment, or what E820 calls RAM above 1 MiB)
        // and outside stack, statics, scratch and image, which are not in
        // those; the borrow of `self` makes the reference the only one.
        Ok(unsafe { core::slice::from_raw_parts_mut(start, len) })
    }

    fn byte_sum(&mut self, range: PhysRange) -> Result<u8> {
        let has_mmx = self.has_mmx;
        let bytes = self.bytes(range)?;
        Ok(if has_mmx {
            mmx_sum(bytes)
        } else {
            qboot::phys::byte_sum(bytes)
        })
    }
}

/// The sum of all bytes modulo 256, 32 at a step.
///
/// Sums of bytes modulo 256 are what PADDB computes in eight lanes at once,
/// and MMX, unlike SSE, needs no write to CR4, an exit on some hosts.
fn mmx_sum(bytes: &[u8]) -> u8 {
    let (blocks, tail) = bytes.as_chunks::<32>();
    let mut sum = tail.iter().fold(0u8, |sum, b| sum.wrapping_add(*b));
    if let [_, ..] = blocks {
        let lanes: u32;
        // SAFETY: reads `blocks.len() * 32` bytes of the slice and nothing
        // else; nothing compiled for i586 keeps a value in an x87 or MMX
        // register across this, and EMMS leaves them as they must be.
        unsafe {
            asm!(
                "pxor mm0, mm0",
                "pxor mm1, mm1",
                "2:",
                "paddb mm0, [{at}]",
                "paddb mm1, [{at} + 8]",
                "paddb mm0, [{at} + 16]",
                "paddb mm1, [{at} + 24]",
                "add {at}, 32",
                "dec {count}",
                "jnz 2b",
                "paddb mm0, mm1",
                "movq mm1, mm0",
                "psrlq mm1, 32",
                "paddb mm0, mm1",
                "movd {lanes}, mm0",
                "emms",
                at = inout(reg) blocks.as_ptr() => _,
                count = inout(reg) blocks.len() => _,
                lanes = lateout(reg) lanes,
                out("mm0") _, out("mm1") _,
                options(nostack, readonly),
            );
        }
        sum = lanes
            .to_le_bytes()
            .iter()
            .fold(sum, |sum, b| sum.wrapping_add(*b));
    }
    sum
}
