//! Processor exceptions in the firmware end the boot. A kernel is entered without these
//! gates (`handoff.rs`).

use super::console::Console;
use super::report;
use qboot::error::Error;
use qboot::text::print;

/// Entered from `boot16.S`'s gates. `gate` is five times the vector; `first`
/// and `second` are the top of the processor's frame: error code and EIP, or
/// EIP and CS.
pub extern "C" fn rust_exception(gate: u32, first: u32, second: u32) -> ! {
    print(
        &mut Console,
        "qboot: exception % at $ $\r\n",
        &[gate / 5, first, second],
    );
    report::fail(Error::Exception)
}
