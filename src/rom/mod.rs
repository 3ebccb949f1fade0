//! The hardware behind the library's platform, with all of the ROM's `unsafe`.

pub mod console;
pub mod cpu;
mod dma;
pub mod exception;
pub mod handoff;
pub mod hardware;
mod identity;
mod intrinsics;
mod io;
mod memory;
mod realmode;
pub mod report;
pub mod stack;
pub mod wake;
