//! The tables that kernels find or are handed: ACPI, SMBIOS, MP table, PCI
//! BIOS, and what a BIOS leaves in low memory.

pub mod acpi;
pub mod low_memory;
pub mod mptable;
pub mod pcibios;
pub mod smbios;
pub mod space;
