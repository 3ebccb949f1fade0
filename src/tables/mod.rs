//! The tables that kernels find or are handed: ACPI, SMBIOS, MP table, PCI
//! BIOS, and what a BIOS leaves in low memory.

#[deny(clippy::arithmetic_side_effects)]
pub mod acpi;
pub mod low_memory;
pub mod mptable;
#[deny(clippy::arithmetic_side_effects)]
pub mod pcibios;
#[deny(clippy::arithmetic_side_effects)]
pub mod smbios;
#[deny(clippy::arithmetic_side_effects)]
pub mod space;
