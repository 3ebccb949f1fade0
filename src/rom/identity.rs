//! Which build this is, at a fixed place of the image.
//!
//! One line of text, NUL-padded: `qboot-rs`, version, commit (a plus where
//! the source differed from it), the commit's date, features.

use core::arch::global_asm;

global_asm!(
    ".section .identity, \"a\", @progbits",
    concat!(".ascii \"", env!("QBOOT_IDENTITY"), "\\0\""),
    ".text",
);
