//! Processor exceptions: reported, never survived.

use super::console::Console;
use super::report;
use core::arch::asm;
use qboot::error::Error;
use qboot::layout;
use qboot::platform::Terminal as _;
use qboot::text::print;

/// Where the image lies below 4 GiB; its code runs there or in the F segment.
const ROM: u32 = 0xffff_0000;
/// A descriptor table register's content that holds no table.
static NO_TABLE: [u8; 6] = [0; 6];

/// Entered from `boot16.S`'s gates. `gate` is five times the vector; `first`
/// and `second` are the top of the processor's frame: error code and EIP, or
/// EIP and CS.
pub extern "C" fn rust_exception(gate: u32, first: u32, second: u32) -> ! {
    let vector = gate / 5;
    let frame = [vector, first, second];
    print(&mut Console, "qboot: exception % at $ $", &frame);
    // Those with an error code (Intel SDM 3A, table 6-1).
    let eip = match vector {
        8 | 10..=14 | 17 => second,
        _ => first,
    };
    if eip >= ROM || (layout::F_SEGMENT.start()..layout::F_SEGMENT.end()).contains(&eip) {
        Console.print("\r\n".as_bytes());
        report::fail(Error::Exception)
    }
    // A kernel without an interrupt table of its own inherits this one. Where a
    // boot loader leaves none, the machine resets; so it does here.
    let what = " in the kernel, which has no interrupt table yet; the machine resets\r\n";
    Console.print(what.as_bytes());
    // SAFETY: nothing but this exception's report runs any more, and the
    // breakpoint without a table shuts the processor down.
    unsafe { asm!("lidt [{}]", "int3", in(reg) &raw const NO_TABLE, options(noreturn, nostack)) }
}
