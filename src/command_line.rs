//! The kernel's command line, as far as it decides about PCI.
//!
//! Specification: Linux `Documentation/admin-guide/kernel-parameters.txt`.

use crate::error::{Error, Result};
use crate::options::PciOption;
use bitflags::bitflags;

/// A parameter that is looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parameter {
    /// `pci=`
    Pci,
    /// `acpi=`
    Acpi,
    /// `qboot.pci=`
    QbootPci,
    /// `nolapic`, and its other name `disableapic`.
    NoLapic,
}

/// A parameter's name, where its p is, and which one it is.
const fn named(name: &'static [u8], parameter: Parameter) -> (&'static [u8], u8, Parameter) {
    let mut p = 0_u8;
    let mut rest = name;
    while let [byte, more @ ..] = rest
        && *byte != b'p'
    {
        p = p.wrapping_add(1);
        rest = more;
    }
    assert!(!rest.is_empty(), "a name without a p");
    (name, p, parameter)
}

/// The parameters that are looked for. Each has one p.
const PARAMETERS: [(&[u8], u8, Parameter); 5] = [
    named(b"pci=", Parameter::Pci),
    named(b"acpi=", Parameter::Acpi),
    named(b"qboot.pci=", Parameter::QbootPci),
    named(b"nolapic", Parameter::NoLapic),
    named(b"disableapic", Parameter::NoLapic),
];

/// The letter that all of them have.
const LETTERS_P: u32 = u32::from_le_bytes(*b"pppp");

/// Whether one of four bytes is zero: only then a borrow sets a top bit that
/// was not set.
const fn has_zero(word: u32) -> bool {
    word.wrapping_sub(0x0101_0101) & !word & 0x8080_8080 != 0
}

bitflags! {
    /// What a command line tells Linux about ACPI, and this firmware about PCI,
    /// for those who cannot give QEMU an option.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct CommandLine: u8 {
        /// `acpi=off`: no table is read.
        const ACPI_OFF = 1 << 0;
        /// ACPI is not asked about PCI: `pci=noacpi`, `pci=conf1`, `pci=bios`,
        /// `acpi=noirq` and their like; or the 8259A is to interrupt: `nolapic`.
        const PCI_WITHOUT_ACPI = 1 << 1;
        /// `qboot.pci=none`; Linux takes it for the parameter of a module that
        /// is not there. Of several words the last counts.
        const PCI_NONE = 1 << 2;
        /// `qboot.pci=scan`.
        const PCI_SCAN = 1 << 3;
        /// `qboot.pci=full`.
        const PCI_FULL = 1 << 4;
        /// `qboot.pci=` with another value.
        const BAD_PCI = 1 << 5;
        /// What `qboot.pci=` may set.
        const PCI = 0xf << 2;
    }
}

impl CommandLine {
    /// Reads a NUL-terminated command line.
    #[inline(always)]
    #[must_use]
    pub fn parse(line: &[u8]) -> Self {
        let mut found = Self::default();
        // Few bytes are a p, as in `acpi=`, `pci=`, `nolapic` and `qboot.pci=`,
        // and only those are looked at closer.
        let (words, tail) = line.as_chunks::<4>();
        let mut at: usize = 0;
        for bytes in words {
            let word = u32::from_le_bytes(*bytes);
            if has_zero(word ^ LETTERS_P) {
                found.find_parameters(line, at, bytes);
            }
            if has_zero(word) {
                return found;
            }
            at = at.wrapping_add(4);
        }
        found.find_parameters(line, at, tail);
        found
    }

    /// Looks at each p in `bytes`, the part of the line at `at`.
    #[inline(never)]
    fn find_parameters(&mut self, line: &[u8], at: usize, bytes: &[u8]) {
        for (at, byte) in (at..).zip(bytes) {
            match byte {
                0 => return,
                b'p' => self.match_parameter(line, at),
                _ => {}
            }
        }
    }

    /// Looks at the word that has a p at `at`.
    fn match_parameter(&mut self, line: &[u8], at: usize) {
        for &(name, p, parameter) in &PARAMETERS {
            let start = at.checked_sub(p.into());
            let parts = start.and_then(|start| line.split_at_checked(start));
            if let Some(([] | [.., b' '], word)) = parts
                && let Some(value) = word.strip_prefix(name)
            {
                match (parameter, value) {
                    (Parameter::NoLapic, [] | [0 | b' ', ..]) => {
                        self.insert(Self::PCI_WITHOUT_ACPI);
                    }
                    (Parameter::NoLapic, _) => {}
                    _ => self.take_value(parameter, value),
                }
            }
        }
    }

    /// Whether Linux, with ACPI tables, does without ACPI where PCI is
    /// concerned.
    #[must_use]
    pub const fn is_without_acpi(self) -> bool {
        self.intersects(Self::ACPI_OFF.union(Self::PCI_WITHOUT_ACPI))
    }

    /// What the line asks for.
    ///
    /// # Errors
    /// [`Error::BadOption`] when it has a value that is none.
    pub fn pci_option(self) -> Result<PciOption> {
        match self.intersection(Self::PCI) {
            Self::PCI_NONE => Ok(PciOption::None),
            Self::PCI_SCAN => Ok(PciOption::Scan),
            Self::PCI_FULL => Ok(PciOption::Full),
            Self::BAD_PCI => Err(Error::BadOption),
            _ => Ok(PciOption::Auto),
        }
    }

    /// Takes over what `parameter` is set to: `value`, up to the word's end.
    #[cold]
    #[inline(never)]
    fn take_value(&mut self, parameter: Parameter, value: &[u8]) {
        let end = value.iter().position(|b| matches!(b, 0 | b' '));
        let value = value.get(..end.unwrap_or(value.len())).unwrap_or(&[]);
        if parameter == Parameter::QbootPci {
            self.remove(Self::PCI);
            self.insert(match PciOption::parse(value) {
                Some(PciOption::Auto) => Self::empty(),
                Some(PciOption::None) => Self::PCI_NONE,
                Some(PciOption::Scan) => Self::PCI_SCAN,
                Some(PciOption::Full) => Self::PCI_FULL,
                None => Self::BAD_PCI,
            });
            return;
        }
        for part in value.split(|b| *b == b',') {
            match (parameter, part) {
                (Parameter::Acpi, b"off" | b"ht") => self.insert(Self::ACPI_OFF),
                (Parameter::Acpi, b"noirq") => self.insert(Self::PCI_WITHOUT_ACPI),
                (Parameter::Pci, b"noacpi" | b"bios" | b"nobios" | b"off") => {
                    self.insert(Self::PCI_WITHOUT_ACPI);
                }
                (Parameter::Pci, _) if part.starts_with(b"conf") => {
                    self.insert(Self::PCI_WITHOUT_ACPI);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_count_only_whole() {
        let parse = |line: &str| CommandLine::parse(line.as_bytes());
        let neither = CommandLine::default();
        assert_eq!(
            parse("console=ttyS0 noacpi=off xpci=conf1 acpi=offline\0"),
            neither
        );
        assert_eq!(parse("quiet\0acpi=off"), neither);
        assert!(parse("acpi=off\0").contains(CommandLine::ACPI_OFF));
        for before in ["", "a ", "ab ", "i= ", "a=i ", "console=ttyS0 ", "ä=ö "] {
            assert!(
                parse(&std::format!("{before}acpi=off\0")).contains(CommandLine::ACPI_OFF),
                "{before}"
            );
            let line = std::format!("{before}quiet pci=noacpi x=i\0");
            assert!(
                parse(&line).contains(CommandLine::PCI_WITHOUT_ACPI),
                "{before}"
            );
        }
        assert!(parse("quiet acpi=off").contains(CommandLine::ACPI_OFF));
        assert!(parse("a pci=nocrs,noacpi b\0").contains(CommandLine::PCI_WITHOUT_ACPI));
        assert!(parse("pci=conf1\0").contains(CommandLine::PCI_WITHOUT_ACPI));
        assert!(!parse("pci=nocrs\0").contains(CommandLine::PCI_WITHOUT_ACPI));
        assert!(parse("acpi=noirq").contains(CommandLine::PCI_WITHOUT_ACPI));
        for line in ["nolapic\0", "quiet nolapic", "disableapic x\0"] {
            assert!(
                parse(line).contains(CommandLine::PCI_WITHOUT_ACPI),
                "{line}"
            );
        }
        for line in [
            "xqboot.pci=full\0",
            "qboot.xpci=full",
            "quiet\0qboot.pci=full",
            "nolapic_timer\0",
            "xnolapic",
            "lapic noapic",
            "p",
            "ap",
            "nolap",
        ] {
            assert_eq!(parse(line), neither, "{line}");
        }
    }

    #[test]
    fn the_line_may_ask_for_pci() {
        let parse = |line: &str| CommandLine::parse(line.as_bytes());
        for (line, pci) in [
            ("qboot.pci=full\0", PciOption::Full),
            ("a=b qboot.pci=scan c", PciOption::Scan),
            ("pci=noacpi qboot.pci=none", PciOption::None),
            ("qboot.pci=none qboot.pci=full\0", PciOption::Full),
            ("qboot.pci=full qboot.pci=auto", PciOption::Auto),
        ] {
            let asked = parse(line).pci_option();
            assert_eq!(asked, Ok(pci), "{line}");
        }
        for line in ["qboot.pci=fully\0", "x qboot.pci= y", "qboot.pci=full,none"] {
            let asked = parse(line).pci_option();
            assert_eq!(asked, Err(Error::BadOption), "{line}");
        }
    }

    /// The same, word by word.
    fn by_words(line: &[u8]) -> CommandLine {
        let mut found = CommandLine::default();
        let line = line.split(|byte| *byte == 0).next().unwrap();
        for word in line.split(|byte| *byte == b' ') {
            if let Some(value) = word.strip_prefix(b"qboot.pci=") {
                found.remove(CommandLine::PCI);
                found |= match value {
                    b"auto" => CommandLine::empty(),
                    b"none" => CommandLine::PCI_NONE,
                    b"scan" => CommandLine::PCI_SCAN,
                    b"full" => CommandLine::PCI_FULL,
                    _ => CommandLine::BAD_PCI,
                };
            }
            let without: &[&[u8]] = &[b"noacpi", b"bios", b"nobios", b"off"];
            for part in word
                .strip_prefix(b"pci=")
                .unwrap_or(b"")
                .split(|b| *b == b',')
            {
                if without.contains(&part) || part.starts_with(b"conf") {
                    found |= CommandLine::PCI_WITHOUT_ACPI;
                }
            }
            for part in word
                .strip_prefix(b"acpi=")
                .unwrap_or(b"")
                .split(|b| *b == b',')
            {
                match part {
                    b"off" | b"ht" => found |= CommandLine::ACPI_OFF,
                    b"noirq" => found |= CommandLine::PCI_WITHOUT_ACPI,
                    _ => {}
                }
            }
            if word == b"nolapic" || word == b"disableapic" {
                found |= CommandLine::PCI_WITHOUT_ACPI;
            }
        }
        found
    }

    proptest! {
        /// Parts of words, so that many come out whole and as many nearly so.
        #[test]
        fn it_is_read_as_word_by_word(
            parts in prop::collection::vec(prop::sample::select(&[
                " ", " ", " ", "\0", "p", ",", "a", "x=", "pci=", "acpi=", "qboot.", "qboot.pci=",
                "nolapic", "disableapic", "off", "ht", "noirq", "noacpi", "bios", "conf1", "auto",
                "none", "scan", "full", "console=ttyS0",
            ][..]), 0..24),
        ) {
            let line = parts.concat();
            prop_assert_eq!(CommandLine::parse(line.as_bytes()), by_words(line.as_bytes()), "{}", line);
        }
    }
}
