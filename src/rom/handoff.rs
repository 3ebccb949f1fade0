//! The jump.

use super::realmode;
use core::arch::asm;
use qboot::kernel::Handoff;

/// Enters the kernel. The firmware does not run again before a reset.
///
/// # Safety
/// `boot` returned the handoff, and has loaded what it names.
pub unsafe fn enter(handoff: &Handoff) -> ! {
    let (entry, eax, ebx, esi, data) = match *handoff {
        // Linux boot protocol, "32-bit Boot Protocol": ESI is the zero page, EBP,
        // EDI and EBX are zero, selectors 0x10 and 0x18.
        Handoff::Linux { entry, boot_params } => (entry, 0, 0, boot_params, 0x18),
        // Xen PVH, "x86/HVM direct boot ABI": EBX is start_info.
        Handoff::Pvh { entry, start_info } => (entry, 0, start_info, 0, 0x18),
        // Multiboot 0.6.96, section 3.2: EAX is the magic number, EBX the information
        // block. Selectors are not specified; some kernels rely on those of QEMU's own
        // loader.
        Handoff::Multiboot { entry, info } => {
            realmode::install();
            (entry, 0x2bad_b002, info, 0, 0x10)
        }
        Handoff::RealMode {
            segment,
            stack,
            low_kernel,
        } => {
            // SAFETY: `boot` returned the handoff, by the caller.
            unsafe { realmode::enter(segment, stack, low_kernel) }
        }
    };
    // SAFETY: as above: the kernel lies in memory claimed for it, and its entry point
    // in what was loaded. The firmware's state is not used again.
    unsafe { enter32(entry, eax, ebx, esi, data) }
}

/// Enters 32-bit code as all protocols demand: flat segments, the code selector 8 below
/// `data`, the direction flag clear, a task register with base 0 and limit 0x67 (PVH).
/// There is no interrupt table, so a fault resets the machine instead of running
/// firmware in memory that the kernel owns.
///
/// # Safety
/// The code at `entry` may run, as for [`enter`]; `data` is 0x10 or 0x18.
pub unsafe fn enter32(entry: u32, eax: u32, ebx: u32, esi: u32, data: u32) -> ! {
    // SAFETY: by the caller. LTR marks a descriptor as busy, so it takes one on
    // the stack, which is RAM. The tables that stay are in the ROM.
    unsafe {
        asm!(
            "mov esi, edi",
            "push {tss}",
            "push 0x67",
            "lea edi, [esp - 8]",
            "push edi",
            "push 0xf0000",
            "lgdt [esp + 2]",
            "mov edi, 8",
            "ltr di",
            "lgdt [gdt_pointers + edx - 0x10]",
            "lidt [gdt]",
            "mov ds, edx",
            "mov es, edx",
            "mov fs, edx",
            "mov gs, edx",
            "mov ss, edx",
            "sub edx, 8",
            "push edx",
            "push ecx",
            "xor ebp, ebp",
            "xor edi, edi",
            "cld",
            "retf",
            // Present, an available 32-bit TSS.
            tss = const 0x8900,
            in("eax") eax,
            in("ebx") ebx,
            in("ecx") entry,
            in("edx") data,
            in("edi") esi,
            options(noreturn),
        )
    }
}
