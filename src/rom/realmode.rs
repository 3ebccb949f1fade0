//! What real-mode code, and kernels that go back there, find of a BIOS.

use super::io::Io;
use core::arch::{asm, global_asm};
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use qboot::io::PortIo;
use qboot::layout;
use qboot::phys::PhysRange;
use qboot::realmode::{BDA, BDA_LEN, EBDA_SEGMENT, LOW_KERNEL, bda, ebda, ticks};

global_asm!(
    include_str!("../../code16.S"),
    include_str!("../../code16/video.S"),
    include_str!("../../code16/memory.S"),
    include_str!("../../code16/time.S"),
    include_str!("../../code16/pci.S"),
    include_str!("../../code16/tables.S"),
    include_str!("../../bios32.S"),
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
/// The F segment, as real mode names it.
const F_SEGMENT: u32 = layout::F_SEGMENT.start() >> 4;

/// What a BIOS leaves of devices, as port and value.
const DEVICES: [(u16, u8); 18] = [
    // Interrupt controllers: vectors 0x08 and 0x70, the slave on input 2, and
    // of all interrupts only the timer's.
    (0x20, 0x11),
    (0x21, 0x08),
    (0x21, 0x04),
    (0x21, 0x01),
    (0xa0, 0x11),
    (0xa1, 0x70),
    (0xa1, 0x02),
    (0xa1, 0x01),
    (0x21, 0xfe),
    (0xa1, 0xff),
    // Timer 0: mode 2, 18.2 a second.
    (0x43, 0x34),
    (0x40, 0),
    (0x40, 0),
    // COM1: 115,200 bits a second, 8 bits, no parity.
    (0x3fb, 0x83),
    (0x3f8, 1),
    (0x3f9, 0),
    (0x3fb, 0x03),
    (0x3fc, 0x03),
];

/// The local APIC's registers that let the interrupt controllers through
/// (Intel SDM 3A, 11.5.1 and 11.9): spurious vector with the enable bit,
/// LINT0 as ExtINT, LINT1 as NMI.
const VIRTUAL_WIRE: [(u32, u32); 3] = [
    (layout::LOCAL_APIC.start() | 0xf0, 0x1ff),
    (layout::LOCAL_APIC.start() | 0x350, 0x8700),
    (layout::LOCAL_APIC.start() | 0x360, 0x8400),
];

/// The 32-bit PCI BIOS, as `bios32.S` has it.
#[cold]
#[inline(never)]
pub fn pci_bios() -> &'static [u8] {
    let (start, end) = (&raw const bios32_start, &raw const bios32_end);
    let len = end.addr().wrapping_sub(start.addr());
    // SAFETY: the section's bytes in the ROM, which nothing writes.
    unsafe { core::slice::from_raw_parts(start, len) }
}

fn cmos(register: u8) -> u8 {
    Io.out8(0x70, register);
    Io.in8(0x71)
}

/// Copies the services to the F segment, points the interrupt vectors there,
/// fills in the BIOS data area and sets up the devices that go with it.
#[cold]
#[inline(never)]
pub fn install() {
    let (start, end) = (&raw const code16_start, &raw const code16_end);
    let offset = start.addr() as u32 & 0xffff;
    let len = end.addr().wrapping_sub(start.addr());
    let home = with_exposed_provenance_mut::<u8>((layout::F_SEGMENT.start() | offset) as usize);
    // SAFETY: source is in the ROM, destination the same offset of the F
    // segment, which the linker script keeps free of tables; where both show
    // the same memory, it is written what it holds.
    unsafe { core::ptr::copy(start, home, len) };

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
    // SAFETY: conventional RAM outside all that placement and the firmware
    // use, by `layout`; bytes have no alignment.
    unsafe { area.write(bda(ticks)) };
    for (port, value) in DEVICES {
        Io.out8(port, value);
    }
    // A20 is open; the port that closes it is to say so.
    let fast_a20 = Io.in8(0x92);
    Io.out8(0x92, fast_a20 & !1 | 2);
    for (register, value) in VIRTUAL_WIRE {
        let register = with_exposed_provenance_mut::<u32>(register as usize);
        // SAFETY: the local APIC's place after reset; where there is none,
        // nothing is there.
        unsafe { register.write_volatile(value) };
    }
    write_model();
}

/// Shows the machine's model where real-mode code looks for it.
fn write_model() {
    let rom = with_exposed_provenance::<u32>(0xffff_fffc);
    let copy = with_exposed_provenance_mut::<u32>(0xf_fffc);
    // SAFETY: the ROM's last dword, behind its reset vector.
    let model = unsafe { rom.read_volatile() };
    // SAFETY: the same dword of the F segment, which no table gets; where it
    // is the ROM's own, it is written what it holds.
    unsafe { copy.write_volatile(model) };
}

/// Enters 16-bit code in `segment`, with `stack` as its stack pointer.
///
/// # Safety
/// As for [`super::handoff::enter`], whose handoff these are from.
#[cold]
#[inline(never)]
pub unsafe fn enter(segment: u16, stack: u16, low_kernel: Option<PhysRange>) -> ! {
    install();
    let (from, len) = low_kernel.map_or((0, 0), |range| (range.start(), range.len()));
    // SAFETY: `boot` has claimed `low_kernel` and what it goes to, has loaded
    // the setup code, and has bounded both; the stack is not between them.
    unsafe {
        asm!(
            "mov esi, {from:e}",
            "jmp {enter16}",
            from = in(reg) from,
            enter16 = sym enter16,
            in("eax") 0,
            in("ebx") u32::from(segment),
            in("ecx") len.div_ceil(4),
            in("edx") u32::from(stack),
            in("edi") LOW_KERNEL.start(),
            options(noreturn),
        )
    }
}
