//! Processor exceptions: reported, never survived.

use super::console;
use super::report;
use qboot::error::{Error, Shortfall};

/// Entered from `boot16.S`'s gates. `gate` is five times the vector; `first`
/// and `second` are the top of the processor's frame: error code and EIP, or
/// EIP and CS.
pub extern "C" fn rust_exception(gate: u32, first: u32, second: u32) -> ! {
    console::print("qboot: exception ");
    console::print_byte((gate / 5) as u8);
    console::print(" at ");
    console::print_hex(first);
    console::print(" ");
    console::print_hex(second);
    console::print("\r\n");
    report::fail(Error::Exception, Shortfall::default())
}
