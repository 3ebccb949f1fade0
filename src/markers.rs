//! One-byte progress writes for timing scripts, such as those that read
//! `perf record -e kvm:kvm_pio`: a build of its own, since each is an exit.
//!
//! The numbers are those that this field's scripts look for.

use crate::kernel::Handoff;
use crate::platform::Platform;

/// How far the firmware is.
const PROGRESS: u16 = 0xf5;
/// Which kernel is entered; `-device isa-debug-exit,iobase=0xf4` ends QEMU
/// here.
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
        // A bzImage, however it is entered.
        _ => 3,
    };
    platform.out8(KERNEL, kind);
}
