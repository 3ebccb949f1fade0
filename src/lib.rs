//! qboot: boot firmware for x86 QEMU, its logic.
//!
//! Everything here is free of `unsafe` and of hardware: ports, fw_cfg and
//! guest memory are reached through [`io`], [`fw_cfg::FwCfg`] and
//! [`phys::GuestMemory`], so the same code runs in the ROM and on the host.
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
