//! The machine, as the firmware reaches it.

/// The three seams that a boot goes through.
#[derive(Debug)]
pub struct Machine<I, F, M> {
    /// Ports and memory-mapped registers.
    pub io: I,
    /// Configuration device.
    pub fw_cfg: F,
    /// Memory that may be used.
    pub memory: M,
}
