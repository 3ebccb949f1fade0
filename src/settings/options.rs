//! The user's options: the files under `opt/org.qboot/` in fw_cfg.
//!
//! A new option is a type here with its values in `CHOICES`, a [`Choice`], a field of
//! [`Options`], an arm of [`Options::read`], and a row in `docs/options.md`.

use crate::error::{BadValue, Error, OptionName, Result};
use crate::fw_cfg::{Directory, FileName};
use crate::platform::Platform;

/// `opt/org.qboot/pci`: how much of PCI the firmware sets up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PciOption {
    /// As the kernel needs it.
    #[default]
    Auto,
    /// Nothing.
    None,
    /// Bus numbers.
    Buses,
    /// Interrupt lines too.
    Scan,
    /// Addresses too.
    Full,
}

/// `opt/org.qboot/buses`: which buses q35's MCFG table names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BusesOption {
    /// Those that exist, if the firmware has numbered them.
    #[default]
    Auto,
    /// All 256.
    All,
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

/// `opt/org.qboot/log`: what is printed about a boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogOption {
    /// Nothing.
    #[default]
    Off,
    /// A line for each step.
    Steps,
    /// A line for each step and for each thing found.
    All,
}

/// What a value of an option means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "their names say it")]
pub enum Choice {
    Pci(PciOption),
    Buses(BusesOption),
    Entry(EntryOption),
    Log(LogOption),
}

impl Choice {
    /// The value of `pci`.
    pub(super) fn pci(self) -> PciOption {
        match self {
            Self::Pci(pci) => pci,
            _ => PciOption::Auto,
        }
    }
}

/// Every value that the user may type.
const CHOICES: [(OptionName, &[u8], Choice); 13] = [
    (OptionName::Pci, b"auto", Choice::Pci(PciOption::Auto)),
    (OptionName::Pci, b"none", Choice::Pci(PciOption::None)),
    (OptionName::Pci, b"buses", Choice::Pci(PciOption::Buses)),
    (OptionName::Pci, b"scan", Choice::Pci(PciOption::Scan)),
    (OptionName::Pci, b"full", Choice::Pci(PciOption::Full)),
    (OptionName::Buses, b"auto", Choice::Buses(BusesOption::Auto)),
    (OptionName::Buses, b"256", Choice::Buses(BusesOption::All)),
    (OptionName::Entry, b"auto", Choice::Entry(EntryOption::Auto)),
    (OptionName::Entry, b"16", Choice::Entry(EntryOption::Bits16)),
    (OptionName::Entry, b"32", Choice::Entry(EntryOption::Bits32)),
    (OptionName::Log, b"off", Choice::Log(LogOption::Off)),
    (OptionName::Log, b"steps", Choice::Log(LogOption::Steps)),
    (OptionName::Log, b"all", Choice::Log(LogOption::All)),
];

/// What `value` means for `option`.
///
/// # Errors
/// [`Error::BadOption`] if it is not known.
pub fn choose(option: OptionName, value: &[u8]) -> Result<Choice> {
    let listed = match option {
        OptionName::QbootPci => OptionName::Pci,
        listed => listed,
    };
    let mut all = CHOICES.iter();
    let known = all.find(|(of, text, _)| *of == listed && *text == value);
    let unknown = || Error::BadOption(BadValue::new(option, value));
    known.map(|(_, _, choice)| *choice).ok_or_else(unknown)
}

/// What the files under `opt/org.qboot/` ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// How much of PCI is set up.
    pub pci: PciOption,
    /// Which buses the MCFG table names.
    pub buses: BusesOption,
    /// How a bzImage is entered.
    pub entry: EntryOption,
    /// What is printed.
    pub log: LogOption,
}

impl Options {
    /// Reads the options in `dir`. Unknown names are ignored; the log names them.
    ///
    /// # Errors
    /// [`Error::BadOption`], and the transfers'.
    pub fn read<P: Platform>(dir: &Directory<'_>, platform: &mut P) -> Result<Self> {
        let mut options = Self::default();
        for entry in dir.entries() {
            let Some(option) = own(entry.name()).and_then(named) else {
                continue;
            };
            let mut value = [0; 16];
            platform.read(entry.file().selector, &mut value)?;
            match choose(option, line(&value))? {
                Choice::Pci(pci) => options.pci = pci,
                Choice::Buses(buses) => options.buses = buses,
                Choice::Entry(entry) => options.entry = entry,
                Choice::Log(log) => options.log = log,
            }
        }
        Ok(options)
    }
}

/// Whether a file lies under `opt/org.qboot/`, but is not an option.
#[must_use]
pub fn is_unknown(name: &FileName) -> bool {
    own(name).is_some_and(|name| named(name).is_none())
}

/// The rest of a name that starts with `opt/org.qboot/`.
// With a call for each file, microvm takes 53 instructions more.
#[inline]
fn own(name: &FileName) -> Option<&[u8]> {
    // In two steps: nearly all names fail the short one.
    name.strip_prefix(b"opt/")?.strip_prefix(b"org.qboot/")
}

/// The option with this name, which a NUL or a line feed may end.
#[must_use]
pub fn named(name: &[u8]) -> Option<OptionName> {
    match line(name) {
        b"pci" => Some(OptionName::Pci),
        b"buses" => Some(OptionName::Buses),
        b"entry" => Some(OptionName::Entry),
        b"log" => Some(OptionName::Log),
        _ => None,
    }
}

/// The bytes up to a NUL or the end of the line.
fn line(bytes: &[u8]) -> &[u8] {
    let mut lines = bytes.split(|byte| matches!(byte, 0 | b'\n'));
    lines.next().unwrap_or(&[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fw_cfg::fake::file_name;
    use crate::sim::Machine;

    fn read(files: &[(&str, &[u8])]) -> Result<Options> {
        let mut machine = Machine::default();
        for (name, value) in files {
            machine.fw_cfg.file(name, value);
        }
        let mut scratch = std::vec![0; 8192];
        let (dir, _) = Directory::read(&mut machine, &mut scratch)?;
        Options::read(&dir, &mut machine)
    }

    #[test]
    fn options_may_end_in_a_newline() {
        let options = read(&[
            ("opt/org.qboot/pci", b"scan\n"),
            ("opt/org.qboot/buses", b"256\n"),
            ("opt/org.qboot/entry", b"16"),
            ("opt/org.qboot/log", b"all\0"),
            ("opt/org.qboot/other", b"anything"),
            ("opt/org.else/pci", b"full"),
        ]);
        let expected = Options {
            pci: PciOption::Scan,
            buses: BusesOption::All,
            entry: EntryOption::Bits16,
            log: LogOption::All,
        };
        assert_eq!(options, Ok(expected));
    }

    #[test]
    fn a_file_with_an_unknown_options_name_is_told() {
        for (name, is_so) in [
            ("opt/org.qboot/pci", false),
            ("opt/org.qboot/log", false),
            ("opt/org.qboot/pcie", true),
            ("opt/org.qboot/", true),
            ("opt/org.else/pcie", false),
            ("etc/e820", false),
        ] {
            assert_eq!(is_unknown(&file_name(name)), is_so, "{name}");
        }
    }

    #[test]
    fn an_unknown_value_is_named() {
        for (name, option, value) in [
            ("pci", OptionName::Pci, "scanner"),
            ("pci", OptionName::Pci, ""),
            ("buses", OptionName::Buses, "64"),
            ("entry", OptionName::Entry, "64"),
            ("log", OptionName::Log, "yes"),
        ] {
            let file = std::format!("opt/org.qboot/{name}");
            let found = read(&[(&file, value.as_bytes())]);
            let bad = BadValue::new(option, value.as_bytes());
            assert_eq!(found, Err(Error::BadOption(bad)));
        }
    }
}
