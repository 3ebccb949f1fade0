//! The ROM.
#![no_std]
#![no_main]
