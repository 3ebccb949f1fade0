//! Ports, and registers in memory.

use super::hardware::Hardware;
use core::arch::asm;
use core::ptr::{NonNull, with_exposed_provenance_mut};
use qboot::layout;
use qboot::phys::PhysRange;
use qboot::platform::Io;
use volatile::VolatilePtr;

macro_rules! port {
    ($in:ident, $out:ident, $ty:ty, $acc:tt) => {
        /// Reads from a port.
        pub fn $in(port: u16) -> $ty {
            let value;
            // SAFETY: port reads touch no memory.
            unsafe { asm!(concat!("in ", $acc, ", dx"), out($acc) value, in("dx") port, options(nostack, preserves_flags)) };
            value
        }
        /// Writes to a port.
        pub fn $out(port: u16, value: $ty) {
            // SAFETY: the library writes device registers only; none of them
            // makes a device write memory (the DMA doorbell is `dma.rs`'s).
            unsafe { asm!(concat!("out dx, ", $acc), in("dx") port, in($acc) value, options(nostack, preserves_flags)) };
        }
    };
}

port!(in8, out8, u8, "al");
port!(in16, out16, u16, "ax");
port!(in32, out32, u32, "eax");

/// Whether `len` bytes at `addr` are where some machine has configuration space, an I/O
/// APIC, a TPM or the local APIC. The firmware's own memory is elsewhere; on pc the
/// guest's RAM may reach into another machine's configuration space.
///
/// In this order the compiled code tests Q35's ECAM first, which is used most.
fn is_device(addr: u32, len: u32) -> bool {
    let inside = |window: PhysRange| window.start() <= addr && addr < window.end();
    addr.is_multiple_of(len)
        && (inside(layout::LOCAL_APIC)
            || inside(layout::TPM)
            || inside(layout::IO_APICS)
            || inside(layout::MICROVM_ECAM)
            || inside(layout::Q35_ECAM))
}

/// The register at `addr`, if it is a device's.
fn register<T>(addr: u32) -> Option<VolatilePtr<'static, T>> {
    if !is_device(addr, size_of::<T>() as u32) {
        return None;
    }
    let ptr = NonNull::new(with_exposed_provenance_mut(addr as usize))?;
    // SAFETY: by the check above the address is aligned and inside a window of
    // `is_device`. Only `Hardware`'s methods use the pointer, at once, and they borrow
    // all of it. So even if RAM lies there, no slice of `Window` is in use, and Rust
    // has no objects there.
    Some(unsafe { VolatilePtr::new(ptr) })
}

macro_rules! access {
    ($in:ident, $out:ident, $read:ident, $write:ident, $ty:ty) => {
        fn $in(&mut self, port: u16) -> $ty {
            $in(port)
        }
        fn $out(&mut self, port: u16, value: $ty) {
            $out(port, value);
        }
        fn $read(&mut self, addr: u32) -> $ty {
            register(addr).map_or(!0, VolatilePtr::read)
        }
        fn $write(&mut self, addr: u32, value: $ty) {
            if let Some(register) = register(addr) {
                register.write(value);
            }
        }
    };
}

impl Io for Hardware {
    access!(in8, out8, read8, write8, u8);
    access!(in16, out16, read16, write16, u16);
    access!(in32, out32, read32, write32, u32);
}
