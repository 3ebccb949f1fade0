//! Waking a guest that sleeps.
//!
//! Stack and DMA descriptors lie in `layout::WAKE_STACK`. No static is touched, since
//! the guest owns .bss.

use super::{cpu, handoff, hardware, realmode, report};
use core::ptr::with_exposed_provenance_mut;
use qboot::error::Error;
use qboot::layout;
use qboot::wake::{Vector, Wake, resume};

/// Called from `boot16.S` if there is a note, before any memory of the guest is
/// written. Returns if there is no guest to wake.
pub extern "C" fn rust_wake(host_bridge: u32, signature: u32) {
    // SAFETY: called at most once, before `rust_main`; the hardware is dropped when
    // this returns.
    let mut hardware = unsafe { hardware::without_scratch() };
    let vector = match resume(&mut hardware, host_bridge) {
        Wake::Boot => return,
        Wake::Lost => lost(),
        Wake::Resume(vector) => vector,
    };
    cpu::enable_caching(signature);
    match vector {
        // SAFETY: the guest has asked to be entered there, in its FACS.
        Vector::Real(segment, offset) => unsafe { realmode::wake(segment, offset) },
        // SAFETY: as above.
        Vector::Flat(entry) => unsafe { handoff::enter32(entry, 0, 0, 0, 0x18) },
    }
}

/// Reports that the guest is lost, and halts.
fn lost() -> ! {
    let start = with_exposed_provenance_mut::<u8>(layout::STATICS.start() as usize);
    // SAFETY: this is the statics' memory, where each is zero at first. None is in use,
    // and the guest will not run again.
    unsafe { start.write_bytes(0, layout::STATICS.len() as usize) };
    report::fail(Error::CannotResume)
}
