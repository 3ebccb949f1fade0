//! One-byte progress writes for timing scripts that read a trace of KVM's port writes.
//! Each is an exit, so only the feature `markers` has them.
//!
//! The ports and numbers are C qboot's, which such scripts look for.

use crate::kernel::Handoff;
use crate::platform::Platform;

/// How far the firmware is.
const PROGRESS: u16 = 0xf5;
/// The kernel's kind; `-device isa-debug-exit,iobase=0xf4` ends QEMU here.
const KERNEL: u16 = 0xf4;

/// The firmware starts.
pub fn start<P: Platform>(platform: &mut P) {
    platform.out8(PROGRESS, 1);
}

/// The kernel is about to be loaded.
pub fn loading<P: Platform>(platform: &mut P) {
    platform.out8(PROGRESS, 5);
}

/// The kernel is about to be entered.
pub fn entering<P: Platform>(platform: &mut P, handoff: Handoff) {
    let kind = match handoff {
        Handoff::Multiboot { .. } => 2,
        Handoff::Pvh { .. } => 4,
        // A bzImage, entered in 32-bit or in real mode.
        _ => 3,
    };
    platform.out8(KERNEL, kind);
}
