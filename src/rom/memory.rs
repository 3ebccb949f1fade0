//! The window on guest memory.

use core::arch::asm;
use qboot::error::{Error, Result};
use qboot::layout;
use qboot::phys::{GuestMemory, PhysRange, byte_sum};

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

    /// What lies below 1 MiB and is not the firmware's.
    #[inline(never)]
    fn is_low(range: PhysRange) -> bool {
        layout::LOW_FREE_TOP.contains(range)
            || layout::F_TABLES.contains(range)
            || layout::LOW_FREE.contains(range)
            || layout::EBDA.contains(range)
            || layout::OWN_SMBIOS.contains(range)
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

    fn pci_bios(&self) -> &'static [u8] {
        super::realmode::pci_bios()
    }

    fn bytes(&mut self, range: PhysRange) -> Result<&mut [u8]> {
        let len = range.len() as usize;
        if !(self.high.contains(range) || Self::is_low(range)) || len > isize::MAX as usize {
            return Err(Error::NotOurMemory);
        }
        let start = core::ptr::with_exposed_provenance_mut(range.start() as usize);
        // SAFETY: the check has found the range in RAM (the layout's low
        // memory, the opened F segment, or what E820 calls RAM above 1 MiB)
        // and outside stack, statics, scratch and image, which are not in
        // those; the borrow of `self` makes the reference the only one.
        Ok(unsafe { core::slice::from_raw_parts_mut(start, len) })
    }

    fn byte_summer(&self) -> fn(&[u8]) -> u8 {
        if self.has_mmx { mmx_sum } else { plain_sum }
    }
}

/// Bytes that [`plain_sum`] adds at a step.
const STEP: usize = 32;

/// The sum of all bytes modulo 256, one instruction a byte: what KVM runs one
/// by one counts more than how much each does.
fn plain_sum(bytes: &[u8]) -> u8 {
    let (steps, tail) = bytes.as_chunks::<STEP>();
    let mut sum = byte_sum(tail);
    if steps.is_empty() {
        return sum;
    }
    // SAFETY: reads 32 bytes at a step, as many steps as the slice has whole
    // ones, which is more than none.
    unsafe {
        asm!(
            "2:",
            ".set i, 0",
            ".rept 32",
            "add {sum}, byte ptr [{at} + i]",
            ".set i, i + 1",
            ".endr",
            "add {at}, 32",
            "dec {n}",
            "jnz 2b",
            at = inout(reg) steps.as_ptr() => _,
            n = inout(reg) steps.len() => _,
            sum = inout(reg_byte) sum,
            options(nostack, readonly),
        );
    }
    sum
}

/// The sum of all bytes modulo 256.
///
/// Sums of bytes modulo 256 are what PADDB computes in eight lanes at once,
/// and MMX, unlike SSE, needs no write to CR4, an exit on some hosts. What is
/// left behind the last eight bytes is summed as the upper part of the eight
/// that end there.
fn mmx_sum(bytes: &[u8]) -> u8 {
    let len = bytes.len();
    if len < 8 {
        return byte_sum(bytes);
    }
    let lanes: u32;
    // SAFETY: reads the slice's bytes and nothing else: 128 at a step, then
    // eight, then the eight that end with the slice, which has that many.
    // Nothing compiled for i586 keeps a value in an x87 or MMX register
    // across this, and EMMS leaves them as they must be.
    unsafe {
        asm!(
            "pxor mm0, mm0",
            "sub {n}, 128",
            "jb 3f",
            "2:",
            "paddb mm0, [{at}]",
            "paddb mm0, [{at} + 8]",
            "paddb mm0, [{at} + 16]",
            "paddb mm0, [{at} + 24]",
            "paddb mm0, [{at} + 32]",
            "paddb mm0, [{at} + 40]",
            "paddb mm0, [{at} + 48]",
            "paddb mm0, [{at} + 56]",
            "paddb mm0, [{at} + 64]",
            "paddb mm0, [{at} + 72]",
            "paddb mm0, [{at} + 80]",
            "paddb mm0, [{at} + 88]",
            "paddb mm0, [{at} + 96]",
            "paddb mm0, [{at} + 104]",
            "paddb mm0, [{at} + 112]",
            "paddb mm0, [{at} + 120]",
            "add {at}, 128",
            "sub {n}, 128",
            "jae 2b",
            "3:",
            "add {n}, 120",
            "js 5f",
            "4:",
            "paddb mm0, [{at}]",
            "add {at}, 8",
            "sub {n}, 8",
            "jns 4b",
            "5:",
            // n + 8 bytes are left, 0 to 7; the shift drops the others.
            "neg {n}",
            "lea {n}, [{n} * 8]",
            "movd mm2, {n}",
            "movq mm1, [{end} - 8]",
            "psrlq mm1, mm2",
            "paddb mm0, mm1",
            "movq mm1, mm0",
            "psrlq mm1, 32",
            "paddb mm0, mm1",
            "movd {n}, mm0",
            "emms",
            at = inout(reg) bytes.as_ptr() => _,
            n = inout(reg) len => lanes,
            end = in(reg) bytes.as_ptr_range().end,
            out("mm0") _, out("mm1") _, out("mm2") _,
            options(nostack, readonly),
        );
    }
    let [a, b, c, d] = lanes.to_le_bytes();
    a.wrapping_add(b).wrapping_add(c).wrapping_add(d)
}
