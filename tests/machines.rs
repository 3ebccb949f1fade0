//! QEMU's machine types. What differs between them stands in their entries here, and
//! in the templates below which machines a test runs on: adding a machine is adding
//! an entry and naming it in the templates.

use std::fmt;

use anyhow::Result;
use qboot::sim::Board;
use rstest_reuse::template;
use xtask::qemu::Qemu;

use crate::rom;

/// A machine type of QEMU's, with options of its `-M`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Name of the type.
    pub name: &'static str,
    /// Options behind the name, separated by commas.
    pub options: &'static str,
    /// Vendor and device of the host bridge that configuration mechanism 1 shows.
    pub host_bridge: Option<u32>,
    /// Its board in the simulation.
    pub board: Board,
    /// How devices are plugged in.
    pub pci: Option<Pci>,
    /// How QEMU describes the machine to ACPI.
    pub acpi: Acpi,
    /// Where its MCFG has PCI's configuration space.
    pub mcfg: Option<u64>,
    /// Whether QEMU makes SMBIOS tables for it.
    pub has_smbios: bool,
    /// Whether port 0x92 closes the address line 20.
    pub closes_a20: bool,
    /// SeaBIOS's image for it.
    pub seabios: &'static str,
}

/// The devices that give a machine further PCI buses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pci {
    /// The bus of the host bridge.
    pub root: &'static str,
    /// A bridge, for which [`Machine::bridge`] has the options.
    bridge: &'static str,
    /// What numbers it.
    chassis: &'static str,
    /// A further root bus.
    pub expander: &'static str,
}

/// The hardware that ACPI tables speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acpi {
    /// QEMU makes no tables.
    None,
    /// Power management as PIIX4 and ICH9 have it, and SMIs.
    Full,
    /// None of it ("hardware-reduced ACPI").
    Reduced,
}

/// i440FX and PIIX.
pub const PC: Machine = Machine {
    name: "pc",
    options: "",
    host_bridge: Some(0x1237_8086),
    board: Board::Pc,
    pci: Some(CONVENTIONAL),
    acpi: Acpi::Full,
    mcfg: None,
    has_smbios: true,
    closes_a20: true,
    seabios: "bios-256k.bin",
};

/// Q35 and ICH9.
pub const Q35: Machine = Machine {
    name: "q35",
    host_bridge: Some(0x29c0_8086),
    board: Board::Q35,
    pci: Some(PCIE),
    mcfg: Some(0xb000_0000),
    ..PC
};

/// Virtio devices in memory. There is PCI with `pcie=on` alone.
pub const MICROVM: Machine = Machine {
    name: "microvm",
    host_bridge: None,
    board: Board::Microvm,
    pci: None,
    acpi: Acpi::Reduced,
    has_smbios: false,
    closes_a20: false,
    seabios: "bios-microvm.bin",
    ..PC
};

/// The same with PCI Express.
pub const MICROVM_PCIE: Machine = Machine {
    options: "pcie=on",
    pci: Some(PCIE),
    ..MICROVM
};

/// No PCI and no ACPI.
pub const ISAPC: Machine = Machine {
    name: "isapc",
    host_bridge: None,
    board: Board::Microvm,
    pci: None,
    acpi: Acpi::None,
    has_smbios: false,
    // 256 KiB do not fit there.
    seabios: "bios.bin",
    ..PC
};

const CONVENTIONAL: Pci = Pci {
    root: "pci.0",
    bridge: "pci-bridge",
    chassis: "chassis_nr",
    expander: "pxb",
};

const PCIE: Pci = Pci {
    root: "pcie.0",
    bridge: "pcie-root-port",
    chassis: "chassis",
    expander: "pxb-pcie",
};

/// The machines that differ in what the firmware does for kernels of every kind.
pub const ALL: [Machine; 3] = [PC, Q35, MICROVM];

/// The machines whose PCI the firmware sets up, with virtual chips of Intel's.
pub const CHIPSETS: [Machine; 2] = [PC, Q35];

impl Machine {
    /// The machine whose type a value of `-M` begins with.
    #[must_use]
    pub fn named(value: &str) -> Option<Self> {
        let name = value.split(',').next();
        let mut all = [PC, Q35, MICROVM, ISAPC].into_iter();
        all.find(|machine| Some(machine.name) == name)
    }

    /// The machine with these options instead of its own.
    #[must_use]
    pub const fn with(self, options: &'static str) -> Self {
        Self { options, ..self }
    }

    /// The machine with the ROM under test.
    ///
    /// # Errors
    /// The ROM does not build.
    pub fn qemu(self) -> Result<Qemu> {
        Ok(Qemu::new(&self.to_string()).bios(rom()?))
    }

    /// The `n`th bridge, `bN`, on the bus called `bus`.
    #[must_use]
    pub fn bridge(self, n: usize, bus: &str) -> String {
        let pci = self.pci.unwrap_or(PCIE);
        let (bridge, chassis) = (pci.bridge, pci.chassis);
        format!("{bridge},id=b{n},bus={bus},{chassis}={n}")
    }

    /// The `n`th bridge, in this slot of the root bus.
    #[must_use]
    pub fn bridge_at(self, n: usize, slot: u8) -> String {
        let root = self.pci.unwrap_or(PCIE).root;
        format!("{},addr={slot:#x}", self.bridge(n, root))
    }

    /// A slot for a device behind [`Machine::bridge`]: the bridge itself may have the
    /// first one, and a root port has no other.
    #[must_use]
    pub fn slot_behind_bridge(self) -> u8 {
        u8::from(self.pci.is_some_and(|pci| pci == CONVENTIONAL))
    }

    /// Bridges, each behind the one before, the first on `bus`.
    #[must_use]
    pub fn chain(self, levels: usize, bus: &str) -> Vec<String> {
        let mut bus = bus.to_owned();
        let bridges = (1..=levels).map(|n| {
            let bridge = self.bridge(n, &bus);
            bus = format!("b{n}");
            bridge
        });
        bridges.collect()
    }

    /// Whether the machine is of `other`'s type, whatever the options.
    #[must_use]
    pub fn is(&self, other: Self) -> bool {
        self.name == other.name
    }
}

/// As `-M` takes it.
impl fmt::Display for Machine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name)?;
        match self.options {
            "" => Ok(()),
            options => write!(out, ",{options}"),
        }
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// pc's bridges `b1` and so on: twenty on the root bus, and twenty behind each.
pub fn bridges(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|n| {
        let (bus, slot) = match n {
            0..20 => (CONVENTIONAL.root.to_owned(), n + 4),
            _ => (format!("b{}", n / 20), n % 20 + 1),
        };
        format!("{},addr={slot:#x}", PC.bridge(n + 1, &bus))
    })
}

/// Root ports `b1` and so on, eight functions to a slot from slot 2 on.
pub fn root_ports(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|n| {
        let (slot, function) = (n / 8 + 2, n % 8);
        let port = Q35.bridge(n + 1, PCIE.root);
        format!("{port},addr={slot:#x}.{function},multifunction=on")
    })
}

/// Runs a test on each machine of [`ALL`].
#[template]
#[export]
#[rstest]
pub fn each_machine(#[values(PC, Q35, MICROVM)] machine: Machine) {}

/// Runs a test on each machine of [`ALL`] with the kernels that Linux comes as.
#[template]
#[export]
#[rstest]
pub fn each_machine_and_kernel(
    #[values(PC, Q35, MICROVM)] machine: Machine,
    #[values(Kind::BzImage, Kind::Pvh)] kind: Kind,
) {
}

/// Runs a test on each machine of [`ALL`] and on isapc.
#[template]
#[export]
#[rstest]
pub fn each_machine_and_isapc(#[values(PC, Q35, MICROVM, ISAPC)] machine: Machine) {}

/// Runs a test on each machine of [`CHIPSETS`].
#[template]
#[export]
#[rstest]
pub fn each_chipset(#[values(PC, Q35)] machine: Machine) {}
