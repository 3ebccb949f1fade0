//! The hardware behind the library's seams: all of the ROM's `unsafe`.

pub mod console;
pub mod cpu;
pub mod dma;
pub mod exception;
pub mod handoff;
mod identity;
mod intrinsics;
pub mod io;
pub mod memory;
pub mod realmode;
pub mod report;
pub mod stack;

use qboot::layout;

/// The machine's seams and the scratch memory.
///
/// # Safety
/// Called once, with identity-mapped memory laid out as [`layout`] says.
pub unsafe fn take(signature: u32) -> (io::Io, dma::Device, memory::Window, &'static mut [u8]) {
    let scratch = layout::SCRATCH;
    let start = core::ptr::with_exposed_provenance_mut::<u8>(scratch.start() as usize);
    // SAFETY: SCRATCH is conventional RAM on every PC, `layout` proves it
    // disjoint from all else, `memory::Window` refuses it, and the caller
    // calls once: this is its only reference.
    let scratch = unsafe { core::slice::from_raw_parts_mut(start, scratch.len() as usize) };
    // SAFETY: the caller calls once, and has memory laid out like that.
    let memory = unsafe { memory::Window::new(signature) };
    (io::Io, dma::Device::new(), memory, scratch)
}
