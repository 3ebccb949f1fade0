//! The ROM: the entry, and the library's boot sequence on real hardware.
//!
//! True at [`rust_main`], by `boot16.S`:
//! 1. flat 32-bit segments, paging off, interrupts off;
//! 2. all code runs in the ROM below 4 GiB;
//! 3. `.bss` is zero, the stack is [`layout::STACK`];
//! 4. one processor runs, and nothing else writes memory.
#![no_std]
#![no_main]

#[allow(
    clippy::cast_possible_truncation,
    reason = "addresses have 32 bits here"
)]
mod rom;

use core::arch::global_asm;
use qboot::boot::boot;
use qboot::chipset;
use qboot::error::{Error, Result};
use qboot::kernel::Handoff;
use qboot::layout;
use qboot::wake;
use rom::hardware::{self, Hardware};
use x86_64::registers::control::Cr0Flags;
use x86_64::structures::gdt::DescriptorFlags;

/// Where `.boot` lies in the 64 KiB image.
const BOOT_OFFSET: u32 = 0xfd00;

/// CR0 as a reset leaves it (Intel SDM 3A, table 10-1).
const CR0_AT_RESET: Cr0Flags = Cr0Flags::CACHE_DISABLE
    .union(Cr0Flags::NOT_WRITE_THROUGH)
    .union(Cr0Flags::EXTENSION_TYPE);
/// CR0 in the firmware.
const CR0: Cr0Flags = Cr0Flags::PROTECTED_MODE_ENABLE.union(Cr0Flags::EXTENSION_TYPE);

global_asm!(
    include_str!("../boot16.S"),
    include_str!("rom/asm/wake.S"),
    boot_offset = const BOOT_OFFSET,
    cr0 = const CR0.bits(),
    cr0_at_reset = const CR0_AT_RESET.bits(),
    i440fx_id = const chipset::I440FX.host_bridge,
    q35_id = const chipset::Q35.host_bridge,
    pciexbar = const chipset::PCIEXBAR_64,
    ecam = const layout::Q35_ECAM.start(),
    stack_guard = const rom::stack::GUARD,
    stack_bottom = const layout::STACK.start(),
    stack_top = const layout::STACK.end(),
    code_segment = const (DescriptorFlags::KERNEL_CODE32.bits() | DescriptorFlags::ACCESSED.bits()),
    data_segment = const (DescriptorFlags::KERNEL_DATA.bits() | DescriptorFlags::ACCESSED.bits()),
    wake_mark = const wake::MARK,
    wake_note = const layout::WAKE_NOTE.start(),
    wake_stack_top = const layout::WAKE_STACK.end(),
    rust_main = sym rust_main,
    rust_wake = sym rom::wake::rust_wake,
    rust_exception = sym rom::exception::rust_exception,
    options(att_syntax),
);

/// The first Rust code of a boot. `host_bridge` is the id at 00:00.0; `signature` is
/// EDX at reset, the processor's signature.
extern "C" fn rust_main(host_bridge: u32, signature: u32) -> ! {
    // SAFETY: called once, from the entry code, which gives the firmware's
    // memory to this call chain alone.
    let (mut hardware, scratch) = unsafe { hardware::take() };
    let handoff = match run(&mut hardware, host_bridge, scratch) {
        Ok(handoff) => handoff,
        Err(error) => rom::report::fail(error),
    };
    rom::cpu::enable_caching(signature);
    #[cfg(feature = "markers")]
    qboot::markers::entering(&mut hardware, handoff);
    // SAFETY: `boot` returned the handoff, and the stack's guard is whole.
    unsafe { rom::handoff::enter(&handoff) }
}

/// The library's sequence on this hardware.
fn run(hardware: &mut Hardware, host_bridge: u32, scratch: &mut [u8]) -> Result<Handoff> {
    #[cfg(feature = "markers")]
    qboot::markers::start(hardware);
    let handoff = boot(hardware, host_bridge, scratch)?;
    if rom::stack::overflowed() {
        return Err(Error::StackOverflow);
    }
    Ok(handoff)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    rom::report::fail(Error::Exception)
}
