//! The window on guest memory.

use core::arch::asm;
use qboot::error::{Error, Result};
use qboot::layout;
use qboot::phys::{GuestMemory, PhysRange, byte_sum};

/// RAM that is not the running firmware's.
#[derive(Debug)]
pub struct Window {
    /// End of the RAM above 1 MiB that may be used.
    high_end: u32,
    has_psadbw: bool,
}

/// What may be used below 1 MiB, in pieces that follow each other, highest
/// first: where each starts and ends.
const LOW: [PhysRange; 3] = [
    PhysRange::fixed(layout::F_TABLES.start(), layout::OWN_SMBIOS.end()),
    PhysRange::fixed(layout::LOW_FREE_TOP.start(), layout::EBDA.end()),
    layout::LOW_FREE,
];
const _: () = {
    assert!(layout::F_TABLES.end() == layout::OWN_SMBIOS.start());
    assert!(layout::LOW_FREE_TOP.end() == layout::EBDA.start());
};

impl Window {
    /// A window on low memory; [`GuestMemory::open`] adds RAM above 1 MiB.
    ///
    /// `signature` is EDX after reset (Intel SDM 3A, 10.1.1): it tells the
    /// processor's family without the exit that CPUID costs.
    ///
    /// # Safety
    /// Memory is laid out as [`layout`] says, mapped to itself, and there is no
    /// other window on it: its slices would be the same bytes twice.
    #[must_use]
    pub unsafe fn new(signature: u32) -> Self {
        // Family 6 from model 7 on (Pentium III), and every later family, has
        // MMX with PSADBW; older ones may not. QEMU's own processors of that
        // family, `max` among them, are model 6 and have SSE.
        let (family, model) = (
            signature >> 8 & 0xf,
            signature >> 4 & 0xf | signature >> 12 & 0xf0,
        );
        let has_psadbw = match family {
            ..6 => false,
            6 if model < 7 => has_sse() && !on_kvm(),
            _ => !on_kvm(),
        };
        Self {
            high_end: layout::HIGH_RAM,
            has_psadbw,
        }
    }

    /// Where what may be used ends that `start`, below 1 MiB, lies in; 0 when
    /// it may not.
    #[inline(never)]
    fn low_end(start: u32) -> u32 {
        let [tables, top, bottom] = LOW;
        match start {
            start if start >= tables.start() => tables.end(),
            start if start >= top.start() => top.end(),
            start if start >= bottom.start() => bottom.end(),
            _ => 0,
        }
    }

    #[inline(always)]
    fn slice(&mut self, range: PhysRange) -> Option<&mut [u8]> {
        let end = match range.start() {
            layout::HIGH_RAM.. => self.high_end,
            start => Self::low_end(start),
        };
        let len = range.len() as usize;
        if range.end() > end || len > isize::MAX as usize {
            return None;
        }
        let start = core::ptr::with_exposed_provenance_mut(range.start() as usize);
        // SAFETY: the check has found the range in RAM (the layout's low
        // memory, the opened F segment, or what E820 calls RAM above 1 MiB)
        // and outside stack, statics, scratch and image, which are not in
        // those; this is the only window, by `new`'s caller, and the borrow of
        // it makes the reference the only one.
        Some(unsafe { core::slice::from_raw_parts_mut(start, len) })
    }
}

/// Whether a processor of family 6 has SSE, and with it PSADBW.
#[cold]
#[inline(never)]
fn has_sse() -> bool {
    core::arch::x86::__cpuid(1).edx & 1 << 25 != 0
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
        if ram.start() == layout::HIGH_RAM {
            self.high_end = ram.end();
        }
    }

    fn pci_bios(&self) -> &'static [u8] {
        super::realmode::pci_bios()
    }

    #[inline(never)]
    fn bytes(&mut self, range: PhysRange) -> Result<&mut [u8]> {
        self.slice(range).ok_or(Error::NotOurMemory)
    }

    #[inline(always)]
    fn bytes_inline(&mut self, range: PhysRange) -> Result<&mut [u8]> {
        self.slice(range).ok_or(Error::NotOurMemory)
    }

    fn byte_summer(&self) -> fn(&[u8]) -> u8 {
        if self.has_psadbw { mmx_sum } else { plain_sum }
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
    let sum: u32;
    // SAFETY: reads the slice's bytes and nothing else: 128 at a step, then as
    // many times eight as are left, then the eight that end with the slice,
    // which has that many. The jump is into the 15 instructions of four bytes
    // each that are in front of its label, or to it.
    // Nothing compiled for i586 keeps a value in an x87 or MMX register
    // across this, and EMMS leaves them as they must be.
    unsafe {
        asm!(
            "pxor mm0, mm0",
            "sub {n}, 128",
            "jb 3f",
            "2:",
            ".set i, 8",
            ".rept 16",
            "paddb mm0, [{at} + i]",
            ".set i, i + 8",
            ".endr",
            "add {at}, 128",
            "sub {n}, 128",
            "jae 2b",
            "3:",
            // As n + 128 bytes are left, 4 times the eights among them.
            "mov {to}, {n}",
            "and {to}, 0x78",
            "shr {to}, 1",
            "neg {to}",
            "lea {to}, [{to} + 5f]",
            "jmp {to}",
            ".set i, 120",
            "4:",
            ".rept 15",
            "paddb mm0, [{at} + i]",
            ".set i, i - 8",
            ".endr",
            ".if . - 4b - 60",
            ".error \"the jump takes four bytes an instruction\"",
            ".endif",
            "5:",
            // 0 to 7 bytes are left; the shift drops the others.
            "and {n}, 7",
            "neg {n}",
            "lea {n}, [{n} * 8 + 64]",
            "movd mm2, {n}",
            "movq mm1, [{end} - 8]",
            "psrlq mm1, mm2",
            "paddb mm0, mm1",
            "pxor mm1, mm1",
            "psadbw mm0, mm1",
            "movd {n}, mm0",
            "emms",
            at = inout(reg) bytes.as_ptr().wrapping_sub(8) => _,
            n = inout(reg) len => sum,
            end = in(reg) bytes.as_ptr_range().end,
            to = out(reg) _,
            out("mm0") _, out("mm1") _, out("mm2") _,
            options(nostack, readonly),
        );
    }
    let [sum, ..] = sum.to_le_bytes();
    sum
}
