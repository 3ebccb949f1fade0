//! The BIOS for real-mode code, and for kernels that go back to real mode.

use super::io::{in8, out8};
use core::arch::{asm, global_asm};
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use qboot::kernel::realmode::LOW_KERNEL;
use qboot::layout;
use qboot::phys::PhysRange;
use qboot::tables::low_memory::{BDA, BDA_LEN, EBDA_SEGMENT, bda, ebda, ticks};

global_asm!(
    include_str!("asm/code16.S"),
    include_str!("asm/video.S"),
    include_str!("asm/memory.S"),
    include_str!("asm/time.S"),
    include_str!("asm/pci.S"),
    include_str!("asm/tables.S"),
    include_str!("asm/bios32.S"),
    ebda_segment = const EBDA_SEGMENT,
    e801_low = const ebda::E801_LOW,
    e801_high = const ebda::E801_HIGH,
    extended_kib = const ebda::EXTENDED_KIB,
    e820_count = const ebda::E820_COUNT,
    e820_entries = const ebda::E820_ENTRIES,
    last_bus = const ebda::LAST_BUS,
    options(att_syntax),
);

unsafe extern "C" {
    static bios32_start: u8;
    static bios32_end: u8;
    static code16_start: u8;
    static code16_end: u8;
    static code16_vectors: [u16; VECTORS];
    fn enter16();
}

/// Vectors 0x08 to 0x1f, 0x70 to 0x77, and one for all others.
const VECTORS: usize = 24 + 8 + 1;
/// Where a kernel's setup code begins, in paragraphs from its boot sector.
const SETUP_CODE: u16 = 0x20;
/// The F segment, as real mode names it.
const F_SEGMENT: u32 = layout::F_SEGMENT.start() >> 4;

/// The 32-bit PCI BIOS, from `bios32.S`.
pub fn pci_bios() -> &'static [u8] {
    let (start, end) = (&raw const bios32_start, &raw const bios32_end);
    let len = end.addr().wrapping_sub(start.addr());
    // SAFETY: the section's bytes in the ROM, which nothing writes.
    unsafe { core::slice::from_raw_parts(start, len) }
}

fn cmos(register: u8) -> u8 {
    out8(0x70, register);
    in8(0x71)
}

/// Copies the 16-bit code to the F segment; returns its offset there.
fn copy_code() -> u32 {
    let (start, end) = (&raw const code16_start, &raw const code16_end);
    let offset = start.addr() as u32 & 0xffff;
    let len = end.addr().wrapping_sub(start.addr());
    let home = with_exposed_provenance_mut::<u8>((layout::F_SEGMENT.start() | offset) as usize);
    // SAFETY: the source is in the ROM. The destination is the same offset of the F
    // segment, which the linker script keeps free of tables. If both are the same
    // memory, this writes what it holds.
    unsafe { core::ptr::copy(start, home, len) };
    offset
}

/// Puts the services where real mode can call them, points the interrupt vectors there
/// and fills in the BIOS data area. `chipset::set_up_devices_for_bios` has set up the
/// devices.
pub fn install() {
    let offset = copy_code();
    let vectors = &raw const code16_vectors;
    // SAFETY: a table of the assembly in the ROM, of this length, aligned.
    let vectors = unsafe { vectors.read() };
    let [known @ .., other] = vectors;
    for n in 0..256_usize {
        let index = match n {
            0x08..0x20 => n.wrapping_sub(0x08),
            0x70..0x78 => n.wrapping_sub(0x70 - 24),
            _ => VECTORS,
        };
        let target = known.get(index).copied().unwrap_or(other);
        let vector = F_SEGMENT << 16 | offset.wrapping_add(u32::from(target));
        // SAFETY: the interrupt vectors are RAM that only this writes; by an
        // instruction, since Rust has no pointer to address 0.
        unsafe {
            asm!("mov [eax * 4], edx", in("eax") n, in("edx") vector, options(nostack, preserves_flags))
        };
    }

    let ticks = ticks(cmos(4), cmos(2), cmos(0));
    let area = with_exposed_provenance_mut::<[u8; BDA_LEN]>(BDA as usize);
    // SAFETY: by `layout` this is conventional RAM outside what placement and the
    // firmware use; bytes have no alignment.
    unsafe { area.write(bda(ticks)) };
    write_model();
}

/// Copies the machine's model to where real-mode code reads it.
fn write_model() {
    let rom = with_exposed_provenance::<u32>(0xffff_fffc);
    let copy = with_exposed_provenance_mut::<u32>(0xf_fffc);
    // SAFETY: the ROM's last dword, behind its reset vector.
    let model = unsafe { rom.read_volatile() };
    // SAFETY: the same dword of the F segment, which has no table. If it is the ROM's
    // own, this writes what it holds.
    unsafe { copy.write_volatile(model) };
}

/// Wakes a guest in real mode, with the interrupt table at 0 (ACPI 6.5, 16.3.2).
///
/// # Safety
/// The guest has asked to be entered there.
pub unsafe fn wake(segment: u16, offset: u16) -> ! {
    copy_code();
    let entry = u32::from(segment) << 16 | u32::from(offset);
    // SAFETY: the code is copied. Data and stack segment are the F segment, with the
    // firmware's own stack, so no memory of the guest is written.
    unsafe {
        asm!(
            "mov ebp, eax",
            "jmp {enter16}",
            enter16 = sym enter16,
            in("eax") entry,
            in("ebx") F_SEGMENT,
            in("ecx") 0,
            in("edx") layout::WAKE_STACK.len(),
            options(noreturn),
        )
    }
}

/// Enters 16-bit code in `segment`, with `stack` as its stack pointer.
///
/// # Safety
/// As for [`super::handoff::enter`], which takes these from its handoff.
pub unsafe fn enter(segment: u16, stack: u16, low_kernel: Option<PhysRange>) -> ! {
    install();
    let entry = u32::from(segment.wrapping_add(SETUP_CODE)) << 16;
    let (from, len) = low_kernel.map_or((0, 0), |range| (range.start(), range.len()));
    // SAFETY: `boot` has claimed `low_kernel` and its destination, has loaded the setup
    // code, and has bounded both; the stack is in neither.
    unsafe {
        asm!(
            "mov esi, {from:e}",
            "mov ebp, {entry:e}",
            "jmp {enter16}",
            from = in(reg) from,
            entry = in(reg) entry,
            enter16 = sym enter16,
            in("ebx") u32::from(segment),
            in("ecx") len.div_ceil(4),
            in("edx") u32::from(stack),
            in("edi") LOW_KERNEL.start(),
            options(noreturn),
        )
    }
}
