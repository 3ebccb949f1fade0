//! The user's side of qboot-rs: the program `qboot`, and what it shares with the
//! developer's (`xtask`) and with the boot tests:
//!
//! - [`commands`] is the command line, [`perform`] what each command calls.
//! - [`run`] is the main one: a boot under QEMU.
//! - [`build::rom`] compiles the firmware and lays it out as a 64 KiB image.
//! - [`kernel::debian`] fetches a Debian kernel without installing it.
//! - [`extract::vmlinux`] takes the ELF kernel out of a bzImage.
//! - [`initramfs::Initramfs`] makes the small user space that the boots reach.
//! - [`inspect`] tells what a ROM is made of, [`doctor`] what a machine lacks.
//! - [`dist`] collects what is installed.
//! - [`linux`] knows what Linux has to be told of a machine.
//! - [`uki`] knows the sections of a unified kernel image.
//! - [`deadline`] waits for another process, and not for ever.
#![forbid(unsafe_code)]

pub mod build;
pub mod commands;
pub mod deadline;
pub mod debian;
pub mod dist;
pub mod doctor;
pub mod elf;
mod examples;
pub mod extract;
pub mod hdr;
pub mod initramfs;
pub mod inspect;
pub mod json;
pub mod kernel;
pub mod linux;
mod manual;
pub mod output;
pub mod perform;
pub mod process;
pub mod progress;
pub mod run;
pub mod uki;
pub mod workspace;
