//! The end of a boot that failed: one line, a signal to the host, a halt.

use super::console::Console;
use super::io::Io;
use core::arch::asm;
use qboot::error::{Error, Shortfall};
use qboot::io::PortIo;
use qboot::io::Terminal as _;
use qboot::text::print;

/// Where tests and benchmarks put `isa-debug-exit`: ends QEMU with status
/// `code << 1 | 1`.
const DEBUG_EXIT: u16 = 0xf4;
/// `-device pvpanic`'s default port.
const PVPANIC: u16 = 0x505;
/// The guest has panicked.
const PVPANIC_PANICKED: u8 = 1;

/// Says what is wrong, tells the host, and halts.
#[cold]
#[inline(never)]
pub fn fail(error: Error, shortfall: Shortfall) -> ! {
    print(&mut Console, "qboot: error %: ", &[error.code().into()]);
    Console.print(error.message().as_bytes());
    if shortfall.need_kib != 0 {
        let sizes = [shortfall.need_kib, shortfall.have_kib];
        print(&mut Console, " (needs # KiB, has # KiB)", &sizes);
    }
    Console.print("\r\n".as_bytes());
    // pvpanic answers with the events it takes; nothing there reads as ones.
    let events = Io.in8(PVPANIC);
    if events != 0xff && events & PVPANIC_PANICKED != 0 {
        Io.out8(PVPANIC, PVPANIC_PANICKED);
    }
    Io.out8(DEBUG_EXIT, error.code());
    loop {
        // SAFETY: interrupts are off: the processor stops here for good.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
