//! The measured cells: machines, kernels, devices.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// How the probe kernel is wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kernel {
    /// Behind a real kernel's setup header and 16-bit code.
    BzImage,
    /// A 32-bit PVH ELF with Linux's notes.
    Pvh,
}

/// One machine and kernel that firmware is measured with.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Name, as the table and the budget give it.
    pub name: String,
    /// Machine type and options.
    pub machine: &'static str,
    /// The kernel's wrapping.
    pub kernel: Kernel,
    /// RAM in MiB.
    pub memory_mib: u64,
    /// Processors.
    pub smp: u32,
    /// Size of the initrd in MiB; 0 for none.
    pub initrd_mib: u64,
    /// Further devices.
    pub devices: Vec<String>,
}

impl Cell {
    fn new(machine: &'static str, kernel: Kernel) -> Self {
        let suffix = match kernel {
            Kernel::BzImage => "bzImage",
            Kernel::Pvh => "PVH",
        };
        Self {
            name: format!("{machine} {suffix}"),
            machine,
            kernel,
            memory_mib: 512,
            smp: 1,
            initrd_mib: 0,
            devices: Vec::new(),
        }
    }

    fn named(mut self, addition: &str) -> Self {
        self.name = format!("{}, {addition}", self.name);
        self
    }
}

/// The bare cells: three machines, two kernels, and q35 with 20 root ports.
#[must_use]
pub fn core_cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for machine in ["microvm", "pc", "q35"] {
        for kernel in [Kernel::BzImage, Kernel::Pvh] {
            cells.push(Cell::new(machine, kernel));
        }
    }
    cells.push(root_ports(Kernel::Pvh));
    cells
}

/// Whether the cell of this name is one of [`core_cells`].
#[must_use]
pub fn is_bare(name: &str) -> bool {
    core_cells().iter().any(|cell| cell.name == name)
}

/// q35 with 20 root ports.
pub(super) fn root_ports(kernel: Kernel) -> Cell {
    Cell {
        devices: (0..20).map(root_port).collect(),
        ..Cell::new("q35", kernel).named("20 root ports")
    }
}

fn root_port(n: usize) -> String {
    format!("pcie-root-port,id=rp{n},chassis={n}")
}

/// The bare cells, and each machine with what servers have: devices, 8
/// processors, 8 GiB, a 64 MiB initrd.
#[must_use]
pub fn all_cells() -> Vec<Cell> {
    let mut cells = core_cells();
    for machine in ["microvm", "pc", "q35"] {
        for kernel in [Kernel::BzImage, Kernel::Pvh] {
            cells.push(Cell {
                devices: server_devices(machine),
                ..Cell::new(machine, kernel).named("server devices")
            });
        }
        for kernel in [Kernel::BzImage, Kernel::Pvh] {
            cells.push(Cell {
                smp: 8,
                memory_mib: 8 << 10,
                initrd_mib: 64,
                ..Cell::new(machine, kernel).named("8 vCPUs, 8 GiB, 64 MiB initrd")
            });
        }
    }
    cells
}

/// Disks, network and consoles as a server guest has them.
fn server_devices(machine: &str) -> Vec<String> {
    let own = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    match machine {
        "microvm" => own(&[
            "virtio-blk-device,drive=disk0",
            "virtio-net-device",
            "virtio-rng-device",
            "virtio-balloon-device",
            "virtio-serial-device",
        ]),
        "pc" => own(&[
            "virtio-blk-pci,drive=disk0",
            "virtio-net-pci",
            "virtio-rng-pci",
            "virtio-balloon-pci",
            "virtio-serial-pci",
            "virtio-scsi-pci",
            "e1000",
            "qemu-xhci",
            "pci-bridge,id=bridge0,chassis_nr=9",
            "virtio-net-pci,bus=bridge0,addr=1",
        ]),
        _ => {
            let mut list: Vec<String> = (0..6).map(root_port).collect();
            list.extend(own(&[
                "virtio-blk-pci,drive=disk0,bus=rp0",
                "virtio-net-pci,bus=rp1",
                "virtio-rng-pci,bus=rp2",
                "virtio-balloon-pci,bus=rp3",
                "nvme,drive=disk1,serial=1,bus=rp4",
                "e1000e,bus=rp5",
                "virtio-scsi-pci",
                "qemu-xhci",
                "pcie-pci-bridge,id=bridge0",
                "virtio-net-pci,bus=bridge0,addr=1",
            ]));
            list
        }
    }
}

/// The cells whose name contains `text`; all without one.
///
/// # Errors
/// No name contains it; the error lists the names.
pub fn named(mut cells: Vec<Cell>, text: Option<&str>) -> Result<Vec<Cell>> {
    let names: Vec<String> = cells.iter().map(|cell| cell.name.clone()).collect();
    let text = text.unwrap_or_default();
    cells.retain(|cell| cell.name.contains(text));
    ensure!(
        !cells.is_empty(),
        "no cell has {text:?} in its name; there are (and more with other options):\n  {}",
        names.join("\n  ")
    );
    Ok(cells)
}
