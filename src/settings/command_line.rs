//! The words of the kernel's command line that decide about PCI.
//!
//! Specification: Linux `Documentation/admin-guide/kernel-parameters.txt`.

use crate::error::{OptionName, Result};
use crate::settings::options::{Choice, PciOption, choose};
use core::iter::from_fn;

/// How far Linux uses ACPI tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum AcpiUse {
    /// For everything.
    #[default]
    Full,
    /// Not for PCI (`pci=noacpi`, `pci=conf1`, `pci=bios`, `acpi=noirq` and others), or
    /// the 8259A interrupts (`nolapic`).
    NotForPci,
    /// Not at all: `acpi=off`.
    Off,
}

/// What a command line says about ACPI and PCI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// How far ACPI tables are used.
    pub acpi: AcpiUse,
    /// The last `qboot.pci=`, for users who cannot add options to QEMU's. Linux takes
    /// it for the parameter of a module that is not loaded.
    pub pci: Result<PciOption>,
    /// Linux numbers the buses itself: `pci=assign-busses`, or `pci=hpbussize=`, which
    /// counts only then.
    pub renumbers: bool,
    /// The start of the last unknown parameter under `qboot.`, padded with NULs.
    pub unknown: Option<[u8; 16]>,
}

impl Default for CommandLine {
    fn default() -> Self {
        Self {
            acpi: AcpiUse::Full,
            pci: Ok(PciOption::Auto),
            renumbers: false,
            unknown: None,
        }
    }
}

/// White space as Linux has it (`lib/ctype.c`).
fn is_space(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

fn is_comma(byte: &u8) -> bool {
    *byte == b','
}

/// The words up to a NUL.
fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    from_fn(move || {
        let line = rest?;
        let end = line.iter().position(|byte| *byte == 0 || is_space(byte));
        let (word, after) = line.split_at_checked(end.unwrap_or(line.len()))?;
        rest = match after {
            [] | [0, ..] => None,
            [_, after @ ..] => Some(after),
        };
        Some(word)
    })
}

impl CommandLine {
    /// Reads a NUL-terminated command line.
    #[must_use]
    pub fn parse(line: &[u8]) -> Self {
        let mut found = Self::default();
        for word in words(line) {
            if let Some(rest) = word.strip_prefix(b"qboot.") {
                if let Some(value) = rest.strip_prefix(b"pci=") {
                    found.pci = choose(OptionName::QbootPci, value).map(Choice::pci);
                } else if !FOR_INIT.iter().any(|name| rest.starts_with(name)) {
                    found.unknown = Some(start(rest));
                }
            } else if let Some(values) = word.strip_prefix(b"pci=") {
                for value in values.split(is_comma) {
                    found.renumbers |= renumbers(value);
                    if PCI.contains(&value) {
                        found.acpi = found.acpi.max(AcpiUse::NotForPci);
                    }
                }
            } else if let Some(values) = word.strip_prefix(b"acpi=") {
                for value in values.split(is_comma) {
                    found.acpi = found.acpi.max(with_acpi(value));
                }
            } else if word == b"nolapic" || word == b"disableapic" {
                found.acpi = found.acpi.max(AcpiUse::NotForPci);
            }
        }
        found
    }
}

/// What the small user space of `qboot run` is told (`cli/src/init.sh`).
const FOR_INIT: [&[u8]; 3] = [b"do=", b"run=", b"size="];

/// The first bytes of `text`, padded with NULs.
fn start(text: &[u8]) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (slot, byte) in bytes.iter_mut().zip(text) {
        *slot = *byte;
    }
    bytes
}

/// Whether this value of `pci=` makes Linux number buses itself.
fn renumbers(value: &[u8]) -> bool {
    value == b"assign-busses" || value.starts_with(b"hpbussize=")
}

/// The values of `pci=` with which Linux does not use ACPI for PCI.
const PCI: [&[u8]; 6] = [b"noacpi", b"bios", b"nobios", b"off", b"conf1", b"conf2"];

/// How far Linux uses ACPI with this value of `acpi=`.
fn with_acpi(value: &[u8]) -> AcpiUse {
    match value {
        b"off" | b"ht" => AcpiUse::Off,
        b"noirq" => AcpiUse::NotForPci,
        _ => AcpiUse::Full,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{BadValue, Error};

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
            "quiet\0qboot.pci=full qboot.x",
            "qboot.do=report qboot.run=/a qboot.size=1x1",
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
        for (line, name) in [
            ("qboot.xpci=full", b"xpci=full\0\0\0\0\0\0\0"),
            ("qboot.y qboot.pci quiet", b"pci\0\0\0\0\0\0\0\0\0\0\0\0\0"),
            ("qboot.", &[0; 16]),
            ("qboot.much.longer.than.is.kept", b"much.longer.than"),
        ] {
            let expected = CommandLine {
                unknown: Some(*name),
                ..CommandLine::default()
            };
            assert_eq!(CommandLine::parse(line.as_bytes()), expected, "{line}");
        }
        for value in ["fully", "", "full,none"] {
            let line = std::format!("x qboot.pci={value} y");
            let bad = BadValue::new(OptionName::QbootPci, value.as_bytes());
            assert_eq!(pci(&line), Err(Error::BadOption(bad)), "{line}");
        }
    }

    #[test]
    fn linux_may_be_told_to_number_buses_itself() {
        let renumbers = |line: &str| CommandLine::parse(line.as_bytes()).renumbers;
        for line in ["pci=assign-busses", "a pci=nocrs,hpbussize=8 b"] {
            assert!(renumbers(line), "{line}");
        }
        for line in ["", "pci=nocrs", "assign-busses", "acpi=hpbussize=8"] {
            assert!(!renumbers(line), "{line}");
        }
    }
}
