//! The jump.

use super::realmode;
use core::arch::asm;
use qboot::kernel::Handoff;

/// Enters the kernel; nothing of the firmware runs again before a reset.
///
/// # Safety
/// The handoff is `boot`'s, which has loaded what it names.
pub unsafe fn enter(handoff: &Handoff) -> ! {
    match *handoff {
        // Linux boot protocol, "32-bit Boot Protocol": ESI is the zero page,
        // EBP, EDI and EBX are zero, selectors 0x10 and 0x18.
        Handoff::Linux { entry, boot_params } => {
            // SAFETY: the handoff is `boot`'s, by the caller: the kernel lies
            // in memory that was claimed for it. The firmware's state is dead
            // from here on.
            unsafe {
                asm!(
                    "mov esi, ecx",
                    "xor ebx, ebx",
                    "xor ebp, ebp",
                    "xor edi, edi",
                    "jmp eax",
                    in("eax") entry,
                    in("ecx") boot_params,
                    options(noreturn, nostack),
                )
            }
        }
        // Xen PVH, "x86/HVM direct boot ABI": EBX is start_info.
        Handoff::Pvh { entry, start_info } => {
            // SAFETY: as above; QEMU has loaded the kernel, whose segments
            // the map has held since.
            unsafe {
                asm!(
                    "mov ebx, ecx",
                    "xor ebp, ebp",
                    "jmp eax",
                    in("eax") entry,
                    in("ecx") start_info,
                    options(noreturn, nostack),
                )
            }
        }
        Handoff::Multiboot { entry, info } => {
            // SAFETY: as above.
            unsafe { multiboot(entry, info) }
        }
        Handoff::RealMode {
            segment,
            stack,
            low_kernel,
        } => {
            // SAFETY: as above.
            unsafe { realmode::enter(segment, stack, low_kernel) }
        }
    }
}

/// Multiboot 0.6.96, section 3.2: EAX is the magic number, EBX the
/// information block, and FS and GS are flat too.
///
/// # Safety
/// As for [`enter`].
unsafe fn multiboot(entry: u32, info: u32) -> ! {
    realmode::install();
    // SAFETY: as for the others; the entry point was checked to lie in what
    // has been loaded.
    unsafe {
        asm!(
            "mov edx, ds",
            "mov fs, edx",
            "mov gs, edx",
            "mov ebx, ecx",
            "xor ebp, ebp",
            "mov ecx, eax",
            "mov eax, 0x2badb002",
            "jmp ecx",
            in("eax") entry,
            in("ecx") info,
            options(noreturn, nostack),
        )
    }
}
