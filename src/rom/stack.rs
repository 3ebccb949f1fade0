//! The stack's guard.

use qboot::layout;

/// The word below which the stack must not grow, written by the entry code.
pub const GUARD: u32 = 0x5ac0_57ac;

/// Whether the guard has been written over.
#[must_use]
pub fn overflowed() -> bool {
    let guard = core::ptr::with_exposed_provenance::<u32>(layout::STACK.start() as usize);
    // SAFETY: the stack's lowest word is RAM, aligned, written by the entry
    // code and no part of any live value unless the stack has overflowed.
    unsafe { guard.read_volatile() != GUARD }
}
