//! qboot: the firmware's logic, free of hardware access and of `unsafe`.
#![no_std]
#![forbid(unsafe_code)]
