//! The end of a boot that failed: one line, a signal to the host, a halt.

use super::console::Console;
use super::io::{in8, out8};
use core::arch::asm;
use qboot::error::Error;

/// The port of `isa-debug-exit`: it ends QEMU with status `code << 1 | 1`.
const DEBUG_EXIT: u16 = 0xf4;
/// `-device pvpanic`'s default port.
const PVPANIC: u16 = 0x505;
/// The guest has panicked.
const PVPANIC_PANICKED: u8 = 1;

/// Prints the error, notifies the host, and halts.
pub fn fail(error: Error) -> ! {
    error.report(&mut Console);
    // pvpanic returns the events that it takes; without a device all bits are ones.
    let events = in8(PVPANIC);
    if events != 0xff && events & PVPANIC_PANICKED != 0 {
        out8(PVPANIC, PVPANIC_PANICKED);
    }
    out8(DEBUG_EXIT, error.code());
    loop {
        // SAFETY: interrupts are off: the processor stops here for good.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
