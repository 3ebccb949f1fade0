//! qboot: boot firmware for x86 QEMU, its logic.
//!
//! Everything here is free of `unsafe` and of hardware: ports, fw_cfg and
//! guest memory are reached through [`io`], [`fw_cfg::FwCfg`] and
//! [`phys::GuestMemory`], so the same code runs in the ROM and on the host.
//!
//! # A boot
//!
//! [`boot::boot`] is the sequence: [`chipset`], the file directory of [`fw_cfg`],
//! the memory map ([`e820`]), the kernel identified and its memory claimed
//! ([`kernel`]; [`bzimage`], [`pvh`], [`multiboot`]), PCI ([`legacy`], [`pci`],
//! [`pcibios`]) as [`policy`] decides by [`options`] and [`command_line`], tables
//! ([`acpi`], [`mptable`], [`smbios`]),
//! loading. What comes out is a [`kernel::Handoff`] or an [`error::Error`].
//! [`layout`] has every fixed address, [`log`] what is told about the steps.
//!
//! # Specifications
//!
//! | of what | specification | here |
//! |---|---|---|
//! | fw_cfg | [QEMU, `docs/specs/fw_cfg.rst`](https://www.qemu.org/docs/master/specs/fw_cfg.html) | [`fw_cfg`] |
//! | Linux | [boot protocol](https://docs.kernel.org/arch/x86/boot.html), [zero page](https://docs.kernel.org/arch/x86/zero-page.html) | [`bzimage`] |
//! | PVH | [Xen, `docs/misc/pvh.pandoc`](https://xenbits.xen.org/docs/unstable/misc/pvh.html), [ELF](https://refspecs.linuxfoundation.org/elf/) | [`pvh`] |
//! | multiboot | [GNU Multiboot Specification 0.6.96](https://www.gnu.org/software/grub/manual/multiboot/multiboot.html) | [`multiboot`] |
//! | ACPI | [ACPI 6.5](https://uefi.org/specs/ACPI/6.5/), [QEMU, `hw/acpi/bios-linker-loader.c`](https://gitlab.com/qemu-project/qemu/-/blob/master/hw/acpi/bios-linker-loader.c) | [`acpi`], [`e820`] |
//! | SMBIOS | [DMTF DSP0134](https://www.dmtf.org/dsp/DSP0134) | [`smbios`] |
//! | MP table | Intel MultiProcessor Specification 1.4 | [`mptable`] |
//! | PCI | [PCI Local Bus 3.0, PCI-to-PCI Bridge 1.2, PCI Express Base 4.0, PCI BIOS 2.1](https://pcisig.com/specifications) | [`pci`], [`pcibios`] |
//! | processor | [Intel SDM](https://www.intel.com/sdm) | [`cpu`], [`chipset`] |
//! | chipsets | Intel 82371AB (PIIX4) and ICH9 datasheets | [`chipset`] |
//! | BIOS services | [Ralf Brown's interrupt list](https://www.ctyme.com/rbrown.htm) | [`realmode`] |
//!
//! Sections are named where something is taken from them.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

// Fakes and simulations have a heap; nothing of the firmware does.
#[cfg(any(test, feature = "sim"))]
extern crate std;

pub mod acpi;
pub mod boot;
pub mod bzimage;
#[cfg(test)]
mod capture;
pub mod chipset;
pub mod command_line;
pub mod cpu;
pub mod e820;
pub mod error;
pub mod fw_cfg;
pub mod io;
pub mod kernel;
pub mod layout;
pub mod legacy;
pub mod log;
pub mod machine;
#[cfg(feature = "markers")]
pub mod markers;
pub mod mptable;
pub mod multiboot;
pub mod options;
pub mod pci;
pub mod pcibios;
pub mod phys;
pub mod policy;
pub mod pvh;
pub mod realmode;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod smbios;
pub mod text;
