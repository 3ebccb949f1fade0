//! qboot: boot firmware for x86 QEMU, its logic.
//!
//! The library has no `unsafe` and touches no hardware. It reaches the machine through
//! [`platform::Platform`], so the same code runs in the ROM and on the host.
//!
//! Start with [`boot::boot`], the sequence. It returns a [`kernel::Handoff`] or an
//! [`error::Error`].
//!
//! | room | what is in it |
//! |---|---|
//! | [`boot`] | the sequence |
//! | [`kernel`] | formats: each finds, claims, loads and hands over in its own file |
//! | [`tables`] | ACPI, SMBIOS, MP table, PCI BIOS, and their one allocator |
//! | [`pci`] | configuration access, bus numbers, resources, interrupts |
//! | [`settings`] | options, command line, and the policy that decides from both |
//! | [`wake`] | the return from suspend to RAM |
//! | [`log`] | what is told about the steps |
//! | [`memory`] | what may be touched; the memory map with its claims |
//! | [`fw_cfg`] | the file directory and the items |
//! | [`chipset`] | i440FX, Q35 and none, as data |
//! | [`platform`] | the seam to the machine |
//! | [`phys`], [`layout`], [`error`], [`text`], [`byte_set`] | ranges, fixed addresses, errors, printing, small numbers |
//!
//! # Specifications
//!
//! | of what | specification | here |
//! |---|---|---|
//! | fw_cfg | [QEMU, `docs/specs/fw_cfg.rst`](https://www.qemu.org/docs/master/specs/fw_cfg.html) | [`fw_cfg`] |
//! | Linux | [boot protocol](https://docs.kernel.org/arch/x86/boot.html), [zero page](https://docs.kernel.org/arch/x86/zero-page.html) | [`kernel::bzimage`] |
//! | PVH | [Xen, `docs/misc/pvh.pandoc`](https://xenbits.xen.org/docs/unstable/misc/pvh.html), [ELF](https://refspecs.linuxfoundation.org/elf/) | [`kernel::pvh`] |
//! | multiboot | [GNU Multiboot Specification 0.6.96](https://www.gnu.org/software/grub/manual/multiboot/multiboot.html) | [`kernel::multiboot`] |
//! | ACPI | [ACPI 6.5](https://uefi.org/specs/ACPI/6.5/), [QEMU, `hw/acpi/bios-linker-loader.c`](https://gitlab.com/qemu-project/qemu/-/blob/master/hw/acpi/bios-linker-loader.c) | [`tables::acpi`], [`memory::map`] |
//! | SMBIOS | [DMTF DSP0134](https://www.dmtf.org/dsp/DSP0134) | [`tables::smbios`] |
//! | MP table | Intel MultiProcessor Specification 1.4 | [`tables::mptable`] |
//! | PCI | [PCI Local Bus 3.0, PCI-to-PCI Bridge 1.2, PCI Express Base 4.0, PCI BIOS 2.1](https://pcisig.com/specifications) | [`pci`], [`tables::pcibios`] |
//! | processor | [Intel SDM](https://www.intel.com/sdm) | [`chipset`], [`tables::mptable`] |
//! | chipsets | Intel 82371AB (PIIX4) and ICH9 datasheets | [`chipset`] |
//! | BIOS services | [Ralf Brown's interrupt list](https://www.ctyme.com/rbrown.htm) | [`tables::low_memory`] |
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

// Only fakes and simulations have a heap.
#[cfg(any(test, feature = "sim"))]
extern crate std;

// The macros that derive zerocopy's traits.
#[macro_use]
extern crate zerocopy_derive;

// Where input is parsed and addresses are computed, arithmetic is checked
// (`arithmetic_side_effects`): what overflows there is an error of its own.
pub mod boot;
pub mod byte_set;
#[cfg(test)]
mod capture;
pub mod chipset;
pub mod error;
#[deny(clippy::arithmetic_side_effects)]
pub mod fw_cfg;
#[deny(clippy::arithmetic_side_effects)]
pub mod kernel;
pub mod layout;
pub mod log;
#[cfg(any(test, feature = "markers"))]
pub mod markers;
#[deny(clippy::arithmetic_side_effects)]
pub mod memory;
pub mod pci;
#[deny(clippy::arithmetic_side_effects)]
pub mod phys;
pub mod platform;
pub mod settings;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod tables;
pub mod text;
#[deny(clippy::arithmetic_side_effects)]
pub mod wake;
