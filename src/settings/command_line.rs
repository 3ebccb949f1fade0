//! The kernel's command line, as far as it decides about PCI.
//!
//! Specification: Linux `Documentation/admin-guide/kernel-parameters.txt`.

use crate::error::{BadValue, Error, OptionName, Result};
use crate::settings::options::PciOption;

/// Whether Linux, given ACPI tables, uses them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum AcpiUse {
    /// For everything.
    #[default]
    Full,
    /// Not for PCI: `pci=noacpi`, `pci=conf1`, `pci=bios`, `acpi=noirq` and
    /// their like; or the 8259A is to interrupt: `nolapic`.
    NotForPci,
    /// Not at all: `acpi=off`.
    Off,
}

/// What a command line tells Linux about ACPI, and this firmware about PCI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// Whether ACPI tables are used.
    pub acpi: AcpiUse,
    /// `qboot.pci=`, for those who cannot give QEMU an option; Linux takes it
    /// for the parameter of a module that is not there. The last one counts.
    pub pci: Result<PciOption>,
}

impl Default for CommandLine {
    fn default() -> Self {
        Self {
            acpi: AcpiUse::Full,
            pci: Ok(PciOption::Auto),
        }
    }
}

/// What Linux takes for white space (`lib/ctype.c`).
fn is_space(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

impl CommandLine {
    /// Reads a NUL-terminated command line.
    #[must_use]
    pub fn parse(line: &[u8]) -> Self {
        let mut found = Self::default();
        let line = line.split(|byte| *byte == 0).next().unwrap_or(&[]);
        for word in line.split(is_space) {
            let mut parts = word.splitn(2, |byte| *byte == b'=');
            let name = parts.next().unwrap_or(&[]);
            let value = parts.next().unwrap_or(&[]);
            if name == b"qboot.pci" {
                let unknown = Error::BadOption(BadValue::new(OptionName::QbootPci, value));
                found.pci = PciOption::parse(value).ok_or(unknown);
            }
            for value in value.split(|byte| *byte == b',') {
                let mut all = RESTRICTIONS.iter();
                if let Some((_, _, acpi)) = all.find(|r| r.0 == name && r.1 == value) {
                    found.acpi = found.acpi.max(*acpi);
                }
            }
        }
        found
    }
}

/// The parameters that restrict ACPI, one of their values, and how much is
/// left.
const RESTRICTIONS: [(&[u8], &[u8], AcpiUse); 11] = [
    (b"acpi", b"off", AcpiUse::Off),
    (b"acpi", b"ht", AcpiUse::Off),
    (b"acpi", b"noirq", AcpiUse::NotForPci),
    (b"pci", b"noacpi", AcpiUse::NotForPci),
    (b"pci", b"bios", AcpiUse::NotForPci),
    (b"pci", b"nobios", AcpiUse::NotForPci),
    (b"pci", b"off", AcpiUse::NotForPci),
    (b"pci", b"conf1", AcpiUse::NotForPci),
    (b"pci", b"conf2", AcpiUse::NotForPci),
    (b"nolapic", b"", AcpiUse::NotForPci),
    (b"disableapic", b"", AcpiUse::NotForPci),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn acpi(line: &str) -> AcpiUse {
        CommandLine::parse(line.as_bytes()).acpi
    }

    #[test]
    fn words_count_only_whole() {
        for line in [
            "",
            "console=ttyS0 noacpi=off xpci=conf1 acpi=offline\0",
            "quiet\0acpi=off",
            "pci=nocrs\0",
            "xqboot.pci=full\0",
            "qboot.xpci=full",
            "quiet\0qboot.pci=full",
            "nolapic_timer\0",
            "xnolapic",
            "lapic noapic",
            "nolap",
        ] {
            let parsed = CommandLine::parse(line.as_bytes());
            assert_eq!(parsed, CommandLine::default(), "{line}");
        }
    }

    #[test]
    fn any_white_space_parts_words() {
        for before in [
            "",
            " ",
            "a ",
            "console=ttyS0 ",
            "ä=ö\t",
            "a\n",
            "a\x0b",
            "a\x0c",
            "a\r\n",
        ] {
            for after in ["", "\0", " b", "\tb\0", "\n"] {
                let line = std::format!("{before}acpi=off{after}");
                assert_eq!(acpi(&line), AcpiUse::Off, "{line:?}");
            }
        }
    }

    #[test]
    fn each_parameter_restricts_acpi() {
        for line in [
            "pci=noacpi",
            "a pci=nocrs,noacpi b",
            "pci=conf1",
            "pci=conf2,nocrs",
            "pci=bios",
            "pci=nobios",
            "pci=off",
            "acpi=noirq",
            "acpi=force,noirq",
            "nolapic",
            "quiet nolapic",
            "disableapic x",
        ] {
            assert_eq!(acpi(line), AcpiUse::NotForPci, "{line}");
        }
        for line in [
            "acpi=off",
            "acpi=ht",
            "acpi=off nolapic",
            "pci=bios acpi=strict,off",
        ] {
            assert_eq!(acpi(line), AcpiUse::Off, "{line}");
        }
    }

    #[test]
    fn the_line_may_ask_for_pci() {
        let pci = |line: &str| CommandLine::parse(line.as_bytes()).pci;
        for (line, asked) in [
            ("qboot.pci=full\0", PciOption::Full),
            ("a=b qboot.pci=scan c", PciOption::Scan),
            ("pci=noacpi qboot.pci=none", PciOption::None),
            ("qboot.pci=none qboot.pci=full\0", PciOption::Full),
            ("qboot.pci=what qboot.pci=auto", PciOption::Auto),
        ] {
            assert_eq!(pci(line), Ok(asked), "{line}");
        }
        for value in ["fully", "", "full,none"] {
            let line = std::format!("x qboot.pci={value} y");
            let bad = BadValue::new(OptionName::QbootPci, value.as_bytes());
            assert_eq!(pci(&line), Err(Error::BadOption(bad)), "{line}");
        }
    }
}
