//! The stack's guard.

use qboot::layout;

/// The lowest word of the stack, written by the entry code.
pub const GUARD: u32 = 0x5ac0_57ac;

/// Whether the guard has been overwritten.
#[must_use]
pub fn overflowed() -> bool {
    let guard = core::ptr::with_exposed_provenance::<u32>(layout::STACK.start() as usize);
    // SAFETY: the stack's lowest word is aligned RAM, written by the entry code. It
    // belongs to no live value unless the stack has overflowed.
    unsafe { guard.read_volatile() != GUARD }
}
