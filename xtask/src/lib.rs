//! Host side of qboot: everything that builds, runs and measures the firmware.
//!
//! The `xtask` program is a thin command line over these modules; the boot
//! tests use them directly:
//!
//! - [`build::rom`] compiles the firmware and lays it out as a 64 KiB image.
//! - [`kernel::debian`] fetches a Debian kernel without installing it.
//! - [`extract::vmlinux`] takes the ELF kernel out of a bzImage.
//! - [`initramfs::Initramfs`] makes the small user space that the boots reach.
//! - [`inspect`] tells what a ROM is made of, [`doctor`] what a machine lacks.
//! - [`package`] lays out what is installed and makes the Debian package.
//! - [`linux`] knows what Linux has to be told of a machine.
//! - [`run`] boots the lot under QEMU.
//! - [`qemu::Qemu`] starts a QEMU for a test or a measurement and watches it.
//! - [`patience`] waits for it, and not for ever.
//! - [`probe`] makes kernels that say in what state they were entered.
//! - [`matrix`] starts the test that boots a table of machines and kernels.
//! - [`measure`] counts what a firmware costs up to a kernel's first instruction.
#![forbid(unsafe_code)]

#[cfg(feature = "measure")]
pub mod bench;
pub mod build;
#[cfg(feature = "measure")]
mod canvas;
pub mod capture;
pub mod debian;
pub mod doctor;
pub mod elf;
pub mod extract;
#[cfg(feature = "measure")]
pub mod figures;
pub mod hdr;
pub mod initramfs;
pub mod inspect;
pub mod kernel;
pub mod linux;
#[cfg(feature = "measure")]
pub mod matrix;
#[cfg(feature = "measure")]
pub mod measure;
#[cfg(feature = "measure")]
pub mod notices;
pub mod output;
pub mod package;
pub mod patience;
#[cfg(feature = "measure")]
pub mod probe;
mod process;
pub mod progress;
#[cfg(feature = "measure")]
pub mod qemu;
#[cfg(feature = "measure")]
pub mod release;
pub mod run;
#[cfg(feature = "measure")]
pub mod sbom;
#[cfg(feature = "measure")]
pub mod timeline;
pub mod workspace;
