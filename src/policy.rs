//! What the kernel and the user leave to the firmware: whether PCI is set
//! up, and whether a kernel without ACPI is coming.
//!
//! Linux with ACPI numbers buses, assigns BARs and routes interrupts itself,
//! so nothing of that is done twice. Any other kernel gets it done, and so does
//! a 32-bit Linux, which assigns BARs badly.

use crate::error::{Error, Result};
use crate::fw_cfg::{Directory, FwCfg};
use bitflags::bitflags;

/// `opt/org.qboot/pci`: how much of PCI the firmware sets up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PciOption {
    /// As the kernel needs it.
    #[default]
    Auto,
    /// Nothing.
    None,
    /// Bus numbers and interrupt lines.
    Scan,
    /// Addresses too.
    Full,
}

impl PciOption {
    /// The option's value; `None` for what is none.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let all = [Self::Auto, Self::None, Self::Scan, Self::Full];
        let at = position(value, &[b"auto", b"none", b"scan", b"full"]);
        all.get(at).copied()
    }
}

/// `opt/org.qboot/entry`: how a bzImage is entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EntryOption {
    /// As its header says.
    #[default]
    Auto,
    /// At its 16-bit code, in real mode.
    Bits16,
    /// At its 32-bit code.
    Bits32,
}

impl EntryOption {
    /// The option's value; `None` for what is none.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let at = position(value, &[b"auto", b"16", b"32"]);
        [Self::Auto, Self::Bits16, Self::Bits32].get(at).copied()
    }
}

/// `opt/org.qboot/log`: what is printed about a boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogOption {
    /// Nothing.
    #[default]
    Off,
    /// A line for each step.
    Steps,
    /// And one for each thing found.
    All,
}

impl LogOption {
    /// The option's value; `None` for what is none.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let at = position(value, &[b"off", b"steps", b"all"]);
        [Self::Off, Self::Steps, Self::All].get(at).copied()
    }
}

/// What the files under `opt/org.qboot/` ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// How much of PCI is set up.
    pub pci: PciOption,
    /// How a bzImage is entered.
    pub entry: EntryOption,
    /// What is printed.
    pub log: LogOption,
}

impl Options {
    /// Reads those that `dir` has; one that is not known is as if it were
    /// not there.
    ///
    /// # Errors
    /// [`Error::BadOption`], and the transfers'.
    #[cold]
    #[inline(never)]
    pub fn read<F: FwCfg>(dir: &Directory<'_>, fw_cfg: &mut F) -> Result<Self> {
        let mut options = Self::default();
        for entry in dir.entries() {
            let Some(name) = entry.name().strip_prefix(PREFIX) else {
                continue;
            };
            let mut value = [0; 8];
            fw_cfg.read(entry.file().selector, &mut value)?;
            let known = match position(name, &[b"pci", b"entry", b"log"]) {
                0 => PciOption::parse(&value).map(|pci| options.pci = pci),
                1 => EntryOption::parse(&value).map(|entry| options.entry = entry),
                2 => LogOption::parse(&value).map(|log| options.log = log),
                _ => continue,
            };
            known.ok_or(Error::BadOption)?;
        }
        Ok(options)
    }
}

/// What an option's file name starts with.
const PREFIX: &[u8] = b"opt/org.qboot/";

/// Where in `names` the value is, up to its NUL or line end; behind them all
/// where it is in none.
#[cold]
#[inline(never)]
fn position(value: &[u8], names: &[&[u8]]) -> usize {
    let end = value.iter().position(|b| matches!(b, 0 | b'\n'));
    let value = value.get(..end.unwrap_or(value.len())).unwrap_or(value);
    let at = names.iter().position(|name| *name == value);
    at.unwrap_or(names.len())
}

/// The letter that all parameters have which are looked for.
const LETTERS_P: u32 = u32::from_le_bytes(*b"pppp");

/// Whether one of four bytes is zero: only then a borrow sets a top bit that
/// was not set.
const fn has_zero(word: u32) -> bool {
    word.wrapping_sub(0x0101_0101) & !word & 0x8080_8080 != 0
}

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

bitflags! {
    /// What a command line tells Linux about ACPI
    /// (`Documentation/admin-guide/kernel-parameters.txt`), and this firmware
    /// about PCI, for those who cannot give QEMU an option.
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
                found.letters(line, at, bytes);
            }
            if has_zero(word) {
                return found;
            }
            at = at.wrapping_add(4);
        }
        found.letters(line, at, tail);
        found
    }

    /// Looks at each p in `bytes`, the part of the line at `at`.
    #[inline(never)]
    fn letters(&mut self, line: &[u8], at: usize, bytes: &[u8]) {
        for (at, byte) in (at..).zip(bytes) {
            match byte {
                0 => return,
                b'p' => self.parameter(line, at),
                _ => {}
            }
        }
    }

    /// Looks at the word that has a p at `at`.
    fn parameter(&mut self, line: &[u8], at: usize) {
        const PARAMETERS: [(&[u8], u8, Parameter); 5] = [
            named(b"pci=", Parameter::Pci),
            named(b"acpi=", Parameter::Acpi),
            named(b"qboot.pci=", Parameter::QbootPci),
            named(b"nolapic", Parameter::NoLapic),
            named(b"disableapic", Parameter::NoLapic),
        ];
        for (name, p, parameter) in PARAMETERS {
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
                    _ => self.word(parameter, value),
                }
            }
        }
    }

    /// Whether Linux, with ACPI tables, does without ACPI where PCI is
    /// concerned.
    const fn is_without_acpi(self) -> bool {
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
    fn word(&mut self, parameter: Parameter, value: &[u8]) {
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

/// A word of the command line that is looked for.
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
/// [`Error::BadOption`] when the command line asks for what is not known.
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

    #[test]
    fn options_may_end_in_a_newline() {
        assert_eq!(PciOption::parse(b"scan\n\0\0"), Some(PciOption::Scan));
        assert_eq!(PciOption::parse(b"scanner"), None);
        assert_eq!(PciOption::parse(b""), None);
    }
}
