//! What of PCI is set up, and whether a kernel without ACPI is coming.
//!
//! Linux with ACPI numbers buses, assigns BARs and routes interrupts itself,
//! so nothing of that is done twice. Any other kernel gets it done, and so does
//! a 32-bit Linux, which assigns BARs badly.

use crate::command_line::CommandLine;
use crate::error::Result;
use crate::options::PciOption;

/// Who is booted, as far as it decides about PCI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// Linux, mostly of 64 bits.
    Linux,
    /// Linux of 32 bits. Left to itself it gives 64-bit BARs addresses above
    /// 4 GiB, where its drivers then find nothing.
    Linux32,
    /// Another kernel.
    Other,
}

/// What of PCI is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PciSetup {
    /// Nothing.
    None,
    /// Bus numbers and interrupt lines.
    Scan,
    /// Addresses too.
    Full,
}

/// What was decided about PCI, and from what.
#[derive(Clone, Copy, Debug)]
pub struct PciDecision {
    /// The decision.
    pub setup: PciSetup,
    /// Who is booted.
    pub guest: Guest,
    /// Whether QEMU has ACPI tables.
    pub has_acpi: bool,
    /// What the command line says about them.
    pub line: CommandLine,
}

/// Whether the kernel may want the 8259A's interrupts. Linux with ACPI sees to
/// interrupt controllers itself, and on microvm looks for no 8259A, whose timer
/// would interrupt all the same.
#[must_use]
pub fn needs_8259a(guest: Guest, has_acpi: bool, line: CommandLine) -> bool {
    guest == Guest::Other || !has_acpi || line.is_without_acpi()
}

/// Decides about PCI. `has_expanders` tells whether there are expander buses:
/// QEMU announces for them only what has been programmed.
///
/// # Errors
/// [`BadOption`](crate::error::Error::BadOption) when the command line asks for what is not known.
#[inline(always)]
pub fn pci_setup(
    option: PciOption,
    guest: Guest,
    has_acpi: bool,
    line: CommandLine,
    has_expanders: impl FnOnce() -> bool,
) -> Result<PciSetup> {
    let plain = option == PciOption::Auto && line.is_empty() && guest == Guest::Linux && has_acpi;
    if plain && !has_expanders() {
        return Ok(PciSetup::None);
    }
    // Of the usual boots, those with expander buses alone come here.
    pci_setup_asked(option, guest, has_acpi, line, plain)
}

/// Decides where the usual answer does not do. `has_expanders` counts for Linux
/// with ACPI alone.
#[cold]
#[inline(never)]
fn pci_setup_asked(
    option: PciOption,
    guest: Guest,
    has_acpi: bool,
    line: CommandLine,
    has_expanders: bool,
) -> Result<PciSetup> {
    // The file goes before the line.
    let option = match option {
        PciOption::Auto => line.pci_option()?,
        given => given,
    };
    Ok(match option {
        PciOption::None => PciSetup::None,
        PciOption::Scan => PciSetup::Scan,
        PciOption::Full => PciSetup::Full,
        PciOption::Auto if guest != Guest::Linux => PciSetup::Full,
        // Linux assigns addresses itself, with ACPI or without.
        PciOption::Auto if !has_acpi || line.is_without_acpi() => PciSetup::Scan,
        PciOption::Auto if has_expanders => PciSetup::Full,
        PciOption::Auto => PciSetup::None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn linux_with_acpi_sets_pci_up_itself() {
        use Guest::{Linux, Linux32, Other};
        use PciOption::{Auto, None};
        let line = CommandLine::default();
        let off = CommandLine::ACPI_OFF;
        for (option, guest, has_acpi, line, has_expanders, setup) in [
            (Auto, Linux, true, line, false, PciSetup::None),
            (Auto, Linux, false, line, true, PciSetup::Scan),
            (Auto, Linux, true, off, true, PciSetup::Scan),
            (Auto, Linux, true, line, true, PciSetup::Full),
            (Auto, Other, true, line, false, PciSetup::Full),
            (None, Other, false, off, true, PciSetup::None),
            // A 32-bit one assigns addresses where it does not reach them.
            (Auto, Linux32, true, line, false, PciSetup::Full),
            (Auto, Linux32, false, line, false, PciSetup::Full),
            (Auto, Linux32, true, off, false, PciSetup::Full),
        ] {
            let decided = pci_setup(option, guest, has_acpi, line, || has_expanders);
            assert_eq!(
                decided,
                Ok(setup),
                "{option:?} {guest:?} {has_acpi} {line:?}"
            );
        }
    }

    #[test]
    fn the_line_decides_where_no_file_does() {
        use PciOption::{Auto, Scan};
        let decide = |option, line| pci_setup(option, Guest::Linux, true, line, || true);
        for (line, setup) in [
            (CommandLine::PCI_NONE, PciSetup::None),
            (CommandLine::PCI_SCAN, PciSetup::Scan),
            (CommandLine::PCI_FULL, PciSetup::Full),
        ] {
            for line in [line, line.union(CommandLine::ACPI_OFF)] {
                assert_eq!(decide(Auto, line), Ok(setup));
                assert_eq!(decide(Scan, line), Ok(PciSetup::Scan));
            }
        }
        let bad = CommandLine::BAD_PCI;
        assert_eq!(decide(Auto, bad), Err(Error::BadOption));
        assert_eq!(decide(Scan, bad), Ok(PciSetup::Scan));
    }
}
