//! A simulated machine, to run the boot sequence on the host, and the oracle that checks
//! the result.
//!
//! [`Guest`] is a machine as QEMU makes it: fw_cfg items, PCI configuration space,
//! ports, and memory. [`Guest::run`] boots it. [`Guest::check`] checks the result, for
//! any items that the host may give. [`target`] has the entry points for fuzzing.

#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "host code: a wrong offset has to stop the test"
)]

mod board;
mod elf;
mod io;
mod machine;
mod memory;
mod oracle;
pub mod target;
#[cfg(test)]
mod tests;
mod uki;

pub use board::Board;
pub use io::Devices;
pub use machine::Machine;
pub use memory::Memory;
pub use uki::uki;

use crate::boot::boot;
use crate::error::{Error, Result};
use crate::fw_cfg::fake::{FakeFwCfg, file_name};
use crate::fw_cfg::item;
use crate::kernel::Handoff;
use crate::layout;
use crate::phys::{PhysRange, byte_sum, u16_at, u32_at, u64_at};
use elf::{has_all_headers, segments};
use std::cell::RefCell;
use std::format;
use std::string::String;
use std::vec::Vec;

/// The highest end of RAM below 4 GiB on `pc` and `q35`.
pub const LOW_RAM_MAX: u64 = 0xc000_0000;

/// A machine before and after its boot.
#[derive(Debug)]
pub struct Guest {
    /// The platform.
    pub machine: Machine,
    /// The dword at register 0 of 00:00.0.
    pub host_bridge: u32,
    /// Whether the tables are QEMU's own, so that their checksums count.
    pub genuine: bool,
}

/// An `etc/e820` entry: base, length, type.
#[must_use]
pub fn e820_entry(base: u64, len: u64, kind: u32) -> Vec<u8> {
    let mut bytes = base.to_le_bytes().to_vec();
    bytes.extend(len.to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    bytes
}

/// QEMU's map of a machine with `ram` bytes: up to 3 GiB, the rest above 4 GiB.
#[must_use]
pub fn e820(ram: u64) -> Vec<u8> {
    let low = ram.min(LOW_RAM_MAX);
    let mut map = e820_entry(0, low, 1);
    if ram > low {
        map.extend(e820_entry(1 << 32, ram - low, 1));
    }
    map
}

impl Guest {
    /// A machine with these items; `ram_end` is the end of RAM below 4 GiB.
    #[must_use]
    pub fn new(board: Board, fw_cfg: FakeFwCfg, ram_end: u32) -> Self {
        Self {
            machine: Machine {
                io: Devices {
                    pci: board.pci(),
                    io_apics: 1,
                    ..Devices::default()
                },
                fw_cfg,
                memory: Memory::new(ram_end),
                ..Machine::default()
            },
            host_bridge: board.host_bridge(),
            genuine: false,
        }
    }

    /// Gives it a bzImage or a unified kernel image as QEMU's `-kernel` does: split
    /// where a bzImage's setup code ends, with QEMU's values in the header. Into other
    /// files QEMU writes those of the oldest protocol.
    pub fn kernel(&mut self, image: &[u8]) {
        let sects = match image.get(0x1f1) {
            None | Some(0) => 4,
            Some(n) => usize::from(*n),
        };
        let (setup, code) = image.split_at(((sects + 1) * 512).min(image.len()));
        let mut setup = setup.to_vec();
        let fw_cfg = &mut self.machine.fw_cfg;
        if setup.starts_with(b"MZ") && setup.get(0x202..0x206) != Some(b"HdrS") {
            if let Some(line) = setup.get_mut(0x20..0x24) {
                line.copy_from_slice(&[0x3f, 0xa3, 0x10, 0x60]);
            }
        } else {
            if let Some(loader) = setup.get_mut(0x210) {
                *loader = 0xb0;
            }
            let initrd = fw_cfg.data(item::INITRD_SIZE).to_vec();
            if let (Some(slot), true) = (setup.get_mut(0x21c..0x220), initrd.len() == 4) {
                slot.copy_from_slice(&initrd);
            }
        }
        fw_cfg
            .item(item::SETUP_SIZE, &(setup.len() as u32).to_le_bytes())
            .item(item::SETUP_DATA, &setup)
            .item(item::KERNEL_SIZE, &(code.len() as u32).to_le_bytes())
            .item(item::KERNEL_DATA, code);
    }

    /// Gives it an ELF kernel as QEMU's `-kernel` does: loaded, with `entry` from its
    /// note. `false` if there is not RAM for all of it.
    pub fn elf(&mut self, file: &[u8], entry: u32) -> bool {
        let mut fits = true;
        for segment in segments(file).iter().filter(|s| s.kind == 1) {
            let part = usize::try_from(segment.offset).ok().and_then(|offset| {
                let end = offset.checked_add(usize::try_from(segment.filesz).ok()?)?;
                file.get(offset..end)
            });
            match (part, u32::try_from(segment.paddr)) {
                (Some(part), Ok(addr)) => fits &= self.machine.memory.preload(addr, part),
                _ => fits = false,
            }
        }
        let loads = segments(file);
        let loads = loads.iter().filter(|s| s.kind == 1);
        let span = loads.fold(None, |span: Option<(u64, u64)>, s| {
            let end = s.paddr.saturating_add(s.memsz);
            let (low, high) = span.unwrap_or((s.paddr, end));
            Some((low.min(s.paddr), high.max(end)))
        });
        let (low, high) = span.unwrap_or((0, 0));
        let mut head = file.to_vec();
        head.resize(8192, 0);
        self.machine
            .fw_cfg
            .item(item::SETUP_SIZE, &8192u32.to_le_bytes())
            .item(item::SETUP_DATA, &head)
            .item(item::KERNEL_ADDR, &(low as u32).to_le_bytes())
            .item(item::KERNEL_SIZE, &((high - low) as u32).to_le_bytes())
            .item(item::KERNEL_ENTRY, &entry.to_le_bytes());
        fits
    }

    /// Gives it a multiboot kernel as QEMU's `-kernel` does: `image` with its
    /// modules, to be loaded at `addr`, and the draft of the information block.
    pub fn multiboot(&mut self, image: &[u8], addr: u32, entry: u32, draft: &[u8]) {
        self.machine
            .fw_cfg
            .item(item::SETUP_SIZE, &[])
            .item(item::SETUP_DATA, &[])
            .item(item::CMDLINE_DATA, &[])
            .item(item::KERNEL_ADDR, &addr.to_le_bytes())
            .item(item::KERNEL_SIZE, &(image.len() as u32).to_le_bytes())
            .item(item::KERNEL_ENTRY, &entry.to_le_bytes())
            .item(item::KERNEL_DATA, image)
            .item(item::INITRD_SIZE, &(draft.len() as u32).to_le_bytes())
            .item(item::INITRD_DATA, draft);
    }

    /// Gives it an initrd. Call it before the kernel is given, whose header names the
    /// size.
    pub fn initrd(&mut self, bytes: &[u8]) {
        self.machine
            .fw_cfg
            .item(item::INITRD_SIZE, &(bytes.len() as u32).to_le_bytes())
            .item(item::INITRD_DATA, bytes);
    }

    /// Gives it a command line.
    pub fn command_line(&mut self, line: &[u8]) {
        let mut line = line.to_vec();
        line.push(0);
        self.machine
            .fw_cfg
            .item(item::CMDLINE_SIZE, &(line.len() as u32).to_le_bytes())
            .item(item::CMDLINE_DATA, &line);
    }

    /// Boots.
    ///
    /// # Errors
    /// Those of [`boot`].
    pub fn run(&mut self) -> Result<Handoff> {
        // Memory keeps what the last boot left.
        std::thread_local! {
            static SCRATCH: RefCell<Vec<u8>> =
                RefCell::new(std::vec![0xa5; layout::SCRATCH.len() as usize]);
        }
        SCRATCH.with_borrow_mut(|scratch| boot(&mut self.machine, self.host_bridge, scratch))
    }
}

/// A command of the table loader: number, then fields at their offsets.
fn loader_command(number: u32, names: &[&str], fields: &[(usize, &[u8])]) -> [u8; 128] {
    let mut bytes = [0; 128];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    for (name, slot) in names.iter().zip(bytes[4..].chunks_exact_mut(56)) {
        slot.copy_from_slice(&file_name(name));
    }
    for (at, field) in fields {
        if let Some(slot) = bytes.get_mut(*at..*at + field.len()) {
            slot.copy_from_slice(field);
        }
    }
    bytes
}
