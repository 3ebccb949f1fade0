//! The developer's side of qboot-rs: what measures the firmware, compares it with
//! others and makes a release of it.
//!
//! The `xtask` program is a command line over these modules; the boot tests use
//! them directly, together with those of the user's program:
//!
//! - [`qemu::Qemu`] starts a QEMU for a test or a measurement and watches it.
//! - [`probe`] makes kernels that say in what state they were entered.
//! - [`measure`] counts what a firmware costs up to a kernel's first instruction.
//! - [`mod@bench`] compares several, [`boots`] whole boots with them, [`timeline`] shows
//!   where their time goes.
//! - [`matrix`] starts the test that boots a table of machines and kernels.
//! - [`capture`] records what a machine hands to its firmware.
//! - [`package`] makes the Debian package, [`release`] everything that is handed out.
#![forbid(unsafe_code)]

pub use qboot_cli::{
    build, deadline, debian, dist, elf, extract, hdr, initramfs, inspect, kernel, linux, output,
    process, progress, run, uki, workspace,
};

pub mod bench;
pub mod boots;
pub mod capture;
mod chart;
pub mod figures;
pub mod firmware;
pub mod matrix;
pub mod measure;
pub mod package;
pub mod probe;
pub mod qemu;
pub mod release;
pub mod results;
pub mod timeline;
