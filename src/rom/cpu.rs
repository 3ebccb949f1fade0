//! Processor state that the kernel inherits.

use core::arch::asm;

/// `IA32_MTRR_DEF_TYPE` (Intel SDM 3A, 13.11.2.1).
const MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs enabled, default type write-back.
const ENABLED_WRITE_BACK: u32 = 1 << 11 | 6;

/// Enables the MTRRs with default write-back: Linux gives up PAT if they are off.
pub fn enable_caching(signature: u32) {
    // A Pentium has no MTRRs. The signature saves a CPUID, which is an exit.
    if signature >> 8 & 0xf < 6 {
        return;
    }
    // SAFETY: the MSR exists from family 6 on; it changes memory types only
    // from uncached to write-back, which RAM is in a virtual machine anyway.
    unsafe {
        asm!("wrmsr", in("ecx") MTRR_DEF_TYPE, in("eax") ENABLED_WRITE_BACK, in("edx") 0, options(nostack, preserves_flags));
    }
}

/// `IA32_APIC_BASE` (Intel SDM 3A, 11.12.1).
const APIC_BASE: u32 = 0x1b;
/// x2APIC mode, beside the global enable that reset has set.
const X2APIC: u32 = 1 << 10;

/// Turns x2APIC mode on.
///
/// # Safety
/// CPUID says that the processor has it.
pub unsafe fn enable_x2apic() {
    // SAFETY: by the caller, the MSR and its bit exist. Later accesses to the APIC's
    // registers in memory have no effect.
    unsafe {
        asm!(
            "rdmsr",
            "or eax, {x2apic}",
            "wrmsr",
            x2apic = const X2APIC,
            in("ecx") APIC_BASE, out("eax") _, out("edx") _,
            options(nostack),
        );
    }
}
