//! What the kernel and the user leave to the firmware: whether PCI is set
//! up, and whether a kernel without ACPI is coming.
//!
//! Linux with ACPI numbers buses, assigns BARs and routes interrupts itself,
//! so nothing of that is done twice. Any other kernel gets it done, and so does
//! a 32-bit Linux, which assigns BARs badly.

use crate::error::{Error, Result};
use crate::fw_cfg::{Directory, FwCfg};

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

/// What a command line tells Linux about ACPI
/// (`Documentation/admin-guide/kernel-parameters.txt`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// `acpi=off`: no table is read.
    pub acpi_off: bool,
    /// ACPI is not asked about PCI: `pci=noacpi`, `pci=conf1`, `pci=bios`,
    /// `acpi=noirq` and their like; or the 8259A is to interrupt: `nolapic`.
    pub pci_without_acpi: bool,
}

impl CommandLine {
    /// Reads a NUL-terminated command line.
    #[inline(always)]
    #[must_use]
    pub fn parse(line: &[u8]) -> Self {
        let mut found = Self::default();
        // Few bytes are a p, as in `acpi=`, `pci=` and `nolapic`, and only
        // those are looked at closer.
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
        let Some((before, [_, from @ ..])) = line.split_at_checked(at) else {
            return;
        };
        // What stands before the p, and behind it.
        const PARAMETERS: [(&[u8], &[u8]); 4] = [
            (b"", b"ci="),
            (b"ac", b"i="),
            (b"nola", b"ic"),
            (b"disablea", b"ic"),
        ];
        for (n, (front, back)) in PARAMETERS.iter().enumerate() {
            let before = before.strip_suffix(*front);
            if let (Some([] | [.., b' ']), Some(value)) = (before, from.strip_prefix(*back)) {
                match (n, value) {
                    (0 | 1, _) => self.word(n == 1, value),
                    (_, [] | [0 | b' ', ..]) => self.pci_without_acpi = true,
                    _ => {}
                }
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn word(&mut self, is_acpi: bool, value: &[u8]) {
        let end = value.iter().position(|b| matches!(b, 0 | b' '));
        let value = value.get(..end.unwrap_or(value.len())).unwrap_or(&[]);
        for part in value.split(|b| *b == b',') {
            match (is_acpi, part) {
                (true, b"off" | b"ht") => self.acpi_off = true,
                (true, b"noirq") => self.pci_without_acpi = true,
                (false, b"noacpi" | b"bios" | b"nobios" | b"off") => self.pci_without_acpi = true,
                (false, _) if part.starts_with(b"conf") => self.pci_without_acpi = true,
                _ => {}
            }
        }
    }
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
    guest == Guest::Other || !has_acpi || line.acpi_off || line.pci_without_acpi
}

/// Decides about PCI. `has_expanders` tells, where that decides, whether there
/// are expander buses: QEMU announces for them only what has been programmed.
#[must_use]
pub fn pci_setup(
    option: PciOption,
    guest: Guest,
    has_acpi: bool,
    line: CommandLine,
    has_expanders: impl FnOnce() -> bool,
) -> PciSetup {
    match option {
        PciOption::None => PciSetup::None,
        PciOption::Scan => PciSetup::Scan,
        PciOption::Full => PciSetup::Full,
        PciOption::Auto if guest != Guest::Linux => PciSetup::Full,
        // Linux assigns addresses itself, with ACPI or without.
        PciOption::Auto if !has_acpi || line.acpi_off || line.pci_without_acpi => PciSetup::Scan,
        PciOption::Auto if has_expanders() => PciSetup::Full,
        PciOption::Auto => PciSetup::None,
    }
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
        assert!(parse("acpi=off\0").acpi_off);
        for before in ["", "a ", "ab ", "i= ", "a=i ", "console=ttyS0 ", "ä=ö "] {
            assert!(
                parse(&std::format!("{before}acpi=off\0")).acpi_off,
                "{before}"
            );
            let line = std::format!("{before}quiet pci=noacpi x=i\0");
            assert!(parse(&line).pci_without_acpi, "{before}");
        }
        assert!(parse("quiet acpi=off").acpi_off);
        assert!(parse("a pci=nocrs,noacpi b\0").pci_without_acpi);
        assert!(parse("pci=conf1\0").pci_without_acpi);
        assert!(!parse("pci=nocrs\0").pci_without_acpi);
        assert!(parse("acpi=noirq").pci_without_acpi);
        for line in ["nolapic\0", "quiet nolapic", "disableapic x\0"] {
            assert!(parse(line).pci_without_acpi, "{line}");
        }
        for line in [
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
    fn linux_with_acpi_sets_pci_up_itself() {
        use PciOption::Auto;
        let linux = Guest::Linux;
        let line = CommandLine::default();
        let off = CommandLine {
            acpi_off: true,
            ..line
        };
        assert_eq!(pci_setup(Auto, linux, true, line, || false), PciSetup::None);
        assert_eq!(pci_setup(Auto, linux, false, line, || true), PciSetup::Scan);
        assert_eq!(pci_setup(Auto, linux, true, off, || true), PciSetup::Scan);
        assert_eq!(pci_setup(Auto, linux, true, line, || true), PciSetup::Full);
        assert_eq!(
            pci_setup(Auto, Guest::Other, true, line, || false),
            PciSetup::Full
        );
        assert_eq!(
            pci_setup(PciOption::None, Guest::Other, false, off, || true),
            PciSetup::None
        );
        // A 32-bit one assigns addresses where it does not reach them.
        for (has_acpi, line) in [(true, line), (false, line), (true, off)] {
            let setup = pci_setup(Auto, Guest::Linux32, has_acpi, line, || false);
            assert_eq!(setup, PciSetup::Full);
        }
    }

    #[test]
    fn options_may_end_in_a_newline() {
        assert_eq!(PciOption::parse(b"scan\n\0\0"), Some(PciOption::Scan));
        assert_eq!(PciOption::parse(b"scanner"), None);
        assert_eq!(PciOption::parse(b""), None);
    }
}
