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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Machine;

    #[test]
    fn each_step_has_its_number() {
        let mut machine = Machine::default();
        start(&mut machine);
        loading(&mut machine);
        for handoff in [
            Handoff::Multiboot { entry: 0, info: 0 },
            Handoff::Linux {
                entry: 0,
                boot_params: 0,
            },
            Handoff::RealMode {
                segment: 0,
                stack: 0,
                low_kernel: None,
            },
            Handoff::Pvh {
                entry: 0,
                start_info: 0,
            },
        ] {
            entering(&mut machine, handoff);
        }
        let progress = [(0xf5, 1), (0xf5, 5)];
        let kernels = [2, 3, 3, 4].map(|kind| (0xf4, kind));
        assert_eq!(machine.io.writes, [&progress[..], &kernels].concat());
    }
}
