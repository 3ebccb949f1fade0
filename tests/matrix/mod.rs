//! The compatibility matrix: its table, its record, and how a cell is run.

pub mod boot;
mod files;
mod generate;
pub mod pages;
pub mod qemu;
pub mod record;
pub mod table;
