//! How much of PCI is set up.
//!
//! Linux with ACPI assigns BARs and routes interrupts itself, so the firmware does
//! neither. It does both for any other kernel, and for a 32-bit Linux, which assigns
//! BARs badly.
//!
//! With an MCFG table the firmware numbers the buses, so that the table names only
//! those that exist. Linux asks every device number on each other bus that the table
//! names, by two port accesses: 16,000 for 256 buses.

use crate::error::Result;
use crate::settings::command_line::{AcpiUse, CommandLine};
use crate::settings::options::{BusesOption, PciOption};

/// Who is booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// Linux of 64 bits, or of an unknown size.
    Linux,
    /// Linux of 32 bits. By itself it gives 64-bit BARs addresses above 4 GiB, where
    /// its drivers find nothing.
    Linux32,
    /// Another kernel.
    Other,
}

/// How much of PCI is set up. Each includes the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PciSetup {
    /// Nothing.
    None,
    /// Bus numbers.
    Buses,
    /// Interrupt lines too.
    Scan,
    /// Addresses too.
    Full,
}

/// Everything that the policy decides from.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The user's option.
    pub option: PciOption,
    /// Who is booted.
    pub guest: Guest,
    /// Whether QEMU has ACPI tables.
    pub has_acpi: bool,
    /// What the command line says.
    pub line: CommandLine,
    /// Whether there are expander buses: QEMU announces only their programmed
    /// resources.
    pub has_expanders: bool,
    /// Whether the chipset has configuration space in memory, and so QEMU an MCFG
    /// table.
    pub has_ecam: bool,
}

impl Facts {
    /// Whether the kernel uses PCI without ACPI.
    fn is_without_acpi(&self) -> bool {
        !self.has_acpi || self.line.acpi != AcpiUse::Full
    }

    /// Whether the kernel may want the 8259A's interrupts. Linux with ACPI sets up
    /// interrupt controllers itself.
    #[must_use]
    pub fn needs_8259a(&self) -> bool {
        self.guest == Guest::Other || self.is_without_acpi()
    }

    /// Whether the MCFG table has to name all 256 buses, because the firmware cannot
    /// know which will be used.
    #[must_use]
    pub fn needs_all_buses(&self, option: BusesOption) -> bool {
        option == BusesOption::All || self.has_expanders || self.line.renumbers
    }

    /// Whether the chipset is set up for kernels without ACPI too.
    #[must_use]
    pub fn needs_legacy_setup(&self, setup: PciSetup) -> bool {
        setup > PciSetup::Buses && self.needs_8259a()
    }

    /// Whether the kernel finds its processors in ACPI's tables.
    #[must_use]
    pub fn reads_acpi(&self) -> bool {
        self.has_acpi && self.line.acpi != AcpiUse::Off
    }

    /// Whether the kernel may look for its processors in an MP table, as any kernel but
    /// Linux may.
    #[must_use]
    pub fn needs_mp_table(&self) -> bool {
        self.guest == Guest::Other || !self.reads_acpi()
    }

    /// Decides about PCI. The option in fw_cfg wins over the one on the command line.
    ///
    /// # Errors
    /// [`BadOption`](crate::error::Error::BadOption) if the command line has a
    /// value that is not known.
    pub fn pci_setup(&self) -> Result<PciSetup> {
        let option = match self.option {
            PciOption::Auto => self.line.pci?,
            given => given,
        };
        Ok(match option {
            PciOption::None => PciSetup::None,
            PciOption::Buses => PciSetup::Buses,
            PciOption::Scan => PciSetup::Scan,
            PciOption::Full => PciSetup::Full,
            PciOption::Auto if self.guest != Guest::Linux => PciSetup::Full,
            // Linux assigns addresses itself, with ACPI or without.
            PciOption::Auto if self.is_without_acpi() => PciSetup::Scan,
            PciOption::Auto if self.has_expanders => PciSetup::Full,
            PciOption::Auto if self.has_ecam && !self.line.renumbers => PciSetup::Buses,
            PciOption::Auto => PciSetup::None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    const LINUX: Facts = Facts {
        option: PciOption::Auto,
        guest: Guest::Linux,
        has_acpi: true,
        line: CommandLine {
            acpi: AcpiUse::Full,
            pci: Ok(PciOption::Auto),
            renumbers: false,
            unknown: None,
        },
        has_expanders: false,
        has_ecam: false,
    };

    fn with(acpi: AcpiUse) -> Facts {
        let line = CommandLine { acpi, ..LINUX.line };
        Facts { line, ..LINUX }
    }

    #[test]
    fn linux_with_acpi_sets_pci_up_itself() {
        assert_eq!(LINUX.pci_setup(), Ok(PciSetup::None));
        assert!(!LINUX.needs_8259a() && !LINUX.needs_mp_table());
    }

    #[test]
    fn buses_are_numbered_where_the_mcfg_table_names_them() {
        let q35 = Facts {
            has_ecam: true,
            ..LINUX
        };
        assert_eq!(q35.pci_setup(), Ok(PciSetup::Buses));
        assert!(!q35.needs_all_buses(BusesOption::Auto));
        assert!(q35.needs_all_buses(BusesOption::All));
        let line = CommandLine {
            renumbers: true,
            ..LINUX.line
        };
        let renumbers = Facts { line, ..q35 };
        assert_eq!(renumbers.pci_setup(), Ok(PciSetup::None));
        assert!(renumbers.needs_all_buses(BusesOption::Auto));
        let expanders = Facts {
            has_expanders: true,
            ..q35
        };
        assert!(expanders.needs_all_buses(BusesOption::Auto));
    }

    #[test]
    fn linux_without_acpi_gets_bus_numbers_and_interrupts() {
        let none = Facts {
            has_acpi: false,
            has_expanders: true,
            ..LINUX
        };
        for facts in [none, with(AcpiUse::Off), with(AcpiUse::NotForPci)] {
            assert_eq!(facts.pci_setup(), Ok(PciSetup::Scan), "{facts:?}");
            assert!(facts.needs_8259a(), "{facts:?}");
        }
        assert!(none.needs_mp_table() && with(AcpiUse::Off).needs_mp_table());
        assert!(!with(AcpiUse::NotForPci).needs_mp_table());
    }

    #[test]
    fn other_kernels_and_expander_buses_get_everything() {
        for guest in [Guest::Other, Guest::Linux32] {
            for acpi in [AcpiUse::Full, AcpiUse::Off] {
                let facts = Facts {
                    guest,
                    ..with(acpi)
                };
                assert_eq!(facts.pci_setup(), Ok(PciSetup::Full), "{facts:?}");
                assert_eq!(
                    facts.needs_8259a(),
                    guest == Guest::Other || acpi == AcpiUse::Off
                );
                assert_eq!(facts.needs_mp_table(), facts.needs_8259a());
                assert_eq!(facts.reads_acpi(), acpi == AcpiUse::Full);
            }
        }
        let facts = Facts {
            has_expanders: true,
            ..LINUX
        };
        assert_eq!(facts.pci_setup(), Ok(PciSetup::Full));
    }

    #[test]
    fn the_option_goes_before_the_line() {
        let decide = |option, pci| {
            let line = CommandLine { pci, ..LINUX.line };
            Facts {
                option,
                line,
                ..LINUX
            }
            .pci_setup()
        };
        for (asked, setup) in [
            (PciOption::None, PciSetup::None),
            (PciOption::Buses, PciSetup::Buses),
            (PciOption::Scan, PciSetup::Scan),
            (PciOption::Full, PciSetup::Full),
        ] {
            assert_eq!(decide(PciOption::Auto, Ok(asked)), Ok(setup));
            assert_eq!(decide(asked, Ok(PciOption::Full)), Ok(setup));
            assert_eq!(decide(asked, Err(Error::NoKernel)), Ok(setup));
        }
        let bad = Err(Error::NoKernel);
        assert_eq!(decide(PciOption::Auto, bad), Err(Error::NoKernel));
    }

    /// Every guest, with every line and machine, beside the rules in another form.
    #[test]
    fn every_case_is_decided_by_the_rules() {
        const SETUPS: [PciSetup; 4] = [
            PciSetup::None,
            PciSetup::Buses,
            PciSetup::Scan,
            PciSetup::Full,
        ];
        let flags = |case: u32| [1, 2, 4, 8].map(|bit| case & bit != 0);
        for guest in [Guest::Linux, Guest::Linux32, Guest::Other] {
            for acpi in [AcpiUse::Full, AcpiUse::NotForPci, AcpiUse::Off] {
                for [has_acpi, has_expanders, has_ecam, renumbers] in (0..16).map(flags) {
                    let facts = Facts {
                        guest,
                        has_acpi,
                        has_expanders,
                        has_ecam,
                        line: CommandLine {
                            acpi,
                            renumbers,
                            ..LINUX.line
                        },
                        ..LINUX
                    };
                    let by_acpi = has_acpi && acpi == AcpiUse::Full;
                    let setup = match (guest, by_acpi) {
                        (Guest::Linux, false) => PciSetup::Scan,
                        (Guest::Linux, true) if !has_expanders => match (has_ecam, renumbers) {
                            (true, false) => PciSetup::Buses,
                            _ => PciSetup::None,
                        },
                        _ => PciSetup::Full,
                    };
                    assert_eq!(facts.pci_setup(), Ok(setup), "{facts:?}");
                    let is_other = guest == Guest::Other;
                    assert_eq!(facts.needs_8259a(), is_other || !by_acpi);
                    let reads = has_acpi && acpi != AcpiUse::Off;
                    assert_eq!(facts.reads_acpi(), reads);
                    assert_eq!(facts.needs_mp_table(), is_other || !reads);
                    let some = has_expanders || renumbers;
                    assert_eq!(facts.needs_all_buses(BusesOption::Auto), some);
                    assert!(facts.needs_all_buses(BusesOption::All));
                    let legacy = SETUPS.map(|setup| facts.needs_legacy_setup(setup));
                    let both = is_other || !by_acpi;
                    assert_eq!(legacy, [false, false, both, both]);
                }
            }
        }
    }
}
