//! Every fixed physical address and size of the firmware.
//!
//! ```text
//! 0x00000   real-mode vectors, BIOS data area
//! 0x02000   statics (.bss)
//! 0x02100   stack, growing down from 0x06000
//! 0x06000   free for placement, second choice
//! 0x30000   scratch: file directory, loader script, kernel header
//! 0x80000   free for placement, first choice: command line, zero page, start_info
//! 0x9fc00   EBDA, reserved in E820; at 0x9ff00 the note for a wake-up
//! 0xa0000   (VGA, option ROMs)
//! 0xf0000   F segment, reserved in E820: stack of a wake-up to 0xf4000, copied
//!           services; at 0xfe800 tables found by signature
//! 0x100000  RAM: kernel, initrd, ACPI tables at the top
//! ```

use crate::phys::PhysRange;

/// Real-mode interrupt vectors and the BIOS data area.
pub const IVT_BDA: PhysRange = PhysRange::fixed(0, 0x600);
/// `.bss`, in one page with the stack's guard: one page less is touched.
pub const STATICS: PhysRange = PhysRange::fixed(0x2000, 0x2100);
/// The stack; the lowest word is its guard.
pub const STACK: PhysRange = PhysRange::fixed(0x2100, 0x6000);
/// Low memory that placement may use.
pub const LOW_FREE: PhysRange = PhysRange::fixed(0x6000, 0x3_0000);
/// Working memory until the kernel is entered.
pub const SCRATCH: PhysRange = PhysRange::fixed(0x3_0000, 0x8_0000);
/// More low memory that placement may use.
pub const LOW_FREE_TOP: PhysRange = PhysRange::fixed(0x8_0000, 0x9_fc00);
/// Extended BIOS data area.
pub const EBDA: PhysRange = PhysRange::fixed(0x9_fc00, 0xa_0000);
/// The EBDA's part for the note that a wake-up reads.
pub const WAKE_NOTE: PhysRange = PhysRange::fixed(0x9_ff00, 0xa_0000);
/// VGA memory and option ROMs: never RAM.
pub const LEGACY_HOLE: PhysRange = PhysRange::fixed(0xa_0000, 0xf_0000);
/// The F segment, where kernels look for RSDP, SMBIOS and MP table.
pub const F_SEGMENT: PhysRange = PhysRange::fixed(0xf_0000, 0x10_0000);
/// The stack of a wake-up. E820 reserves it; `linker.ld` keeps the copied services
/// behind it.
pub const WAKE_STACK: PhysRange = PhysRange::fixed(0xf_0000, 0xf_4000);
/// The F segment's part for tables; the image ends below it (`linker.ld`).
pub const F_TABLES: PhysRange = PhysRange::fixed(0xf_e800, 0xf_fc60);
/// Where the image has SMBIOS structures of its own. On machines whose F segment is the
/// image, kernels find them here.
pub const OWN_SMBIOS: PhysRange = PhysRange::fixed(0xf_fc60, 0xf_fd00);
/// Where RAM goes on after the legacy hole.
pub const HIGH_RAM: u32 = 0x10_0000;
/// Where the I/O APIC and other fixed devices start: RAM below 4 GiB ends here.
pub const HIGH_RAM_END: u32 = 0xfec0_0000;
/// What the running firmware occupies below 1 MiB.
pub const FIRMWARE: PhysRange = PhysRange::fixed(STATICS.start(), LOW_FREE.start());

/// Where q35's ECAM lies, as QEMU's ACPI tables expect it: at most 256 buses of 1 MiB.
/// QEMU's window for PCI memory starts behind it.
pub const Q35_ECAM: PhysRange = PhysRange::fixed(0xb000_0000, 0xc000_0000);
/// Its part for 64 buses, opened unless more are needed.
pub const Q35_ECAM_64: PhysRange = PhysRange::fixed(Q35_ECAM.start(), 0xb400_0000);

/// ECAM of `microvm,pcie=on` (QEMU `include/hw/i386/microvm.h`).
pub const MICROVM_ECAM: PhysRange = PhysRange::fixed(0xe000_0000, 0xf000_0000);

/// Registers of the I/O APICs, one at either end (QEMU `include/hw/i386/x86.h`);
/// only microvm has the second.
pub const IO_APICS: PhysRange = PhysRange::fixed(0xfec0_0000, 0xfec1_1000);

/// Bytes from the first I/O APIC to the second.
pub const IO_APIC_STEP: u32 = 0x1_0000;

/// Registers of a TPM: its locality 0 (TCG PC Client Platform TPM Profile 1.05, 6.2).
pub const TPM: PhysRange = PhysRange::fixed(0xfed4_0000, 0xfed4_1000);

/// Registers of the processor's own local APIC.
pub const LOCAL_APIC: PhysRange = PhysRange::fixed(0xfee0_0000, 0xfee0_1000);

/// The parts of the first MiB, in ascending order.
const FIRST_MIB: [PhysRange; 9] = [
    IVT_BDA,
    STATICS,
    STACK,
    LOW_FREE,
    SCRATCH,
    LOW_FREE_TOP,
    EBDA,
    LEGACY_HOLE,
    F_SEGMENT,
];

const _: () = {
    let mut rest: &[PhysRange] = &FIRST_MIB;
    while let [first, next @ ..] = rest {
        if let [second, ..] = next {
            assert!(first.end() <= second.start(), "the fixed ranges overlap");
        }
        rest = next;
    }
    assert!(F_SEGMENT.end() == HIGH_RAM);
    assert!(F_SEGMENT.contains(F_TABLES) && F_SEGMENT.contains(OWN_SMBIOS));
    assert!(EBDA.contains(WAKE_NOTE) && F_SEGMENT.contains(WAKE_STACK));
    assert!(!WAKE_STACK.overlaps(F_TABLES));
    assert!(F_TABLES.end() == OWN_SMBIOS.start());
    // `fw_cfg` relies on 16-byte aligned scratch.
    assert!(SCRATCH.start().is_multiple_of(16));
};

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    #[test]
    fn the_map_above_and_the_page_say_what_the_constants_are() {
        let map = include_str!("layout.rs").split("```").nth(1).unwrap();
        for range in FIRST_MIB {
            let line = format!("\n//! {:#07x}  ", range.start());
            assert!(map.contains(&line), "no line {line:?}");
        }
        for at in [WAKE_NOTE.start(), WAKE_STACK.end(), F_TABLES.start()] {
            assert!(map.contains(&format!("{at:#x}")), "no {at:#x}");
        }
        assert!(map.contains(&format!("from {:#07x}", STACK.end())));
        let page = include_str!("../docs/architecture.md");
        let own = [STATICS.start(), STACK.end(), SCRATCH.start(), SCRATCH.end()];
        let own = own.map(|addr| format!("{addr:#x}"));
        let said = format!("at {}–{}, scratch at {}–{}", own[0], own[1], own[2], own[3]);
        assert!(page.contains(&said), "no {said:?}");
    }
}
