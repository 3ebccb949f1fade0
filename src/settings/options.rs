//! What the user asks of the firmware: the files under `opt/org.qboot/` in
//! fw_cfg.
//!
//! A new option is a variant here, a line in [`Options::read`] and a row in
//! `docs/options.md`.

use crate::error::{BadValue, Error, OptionName, Result};
use crate::fw_cfg::Directory;
use crate::platform::Platform;

/// A value that the user may type, and what it means.
type Value<T> = (&'static [u8], T);

/// What `value` means; `None` if it is not known.
fn choose<T: Copy>(value: &[u8], all: &[Value<T>]) -> Option<T> {
    let known = all.iter().find(|(name, _)| *name == value);
    known.map(|(_, choice)| *choice)
}

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
    /// The option's value; `None` if it is not known.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        const ALL: [Value<PciOption>; 4] = [
            (b"auto", PciOption::Auto),
            (b"none", PciOption::None),
            (b"scan", PciOption::Scan),
            (b"full", PciOption::Full),
        ];
        choose(value, &ALL)
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
    /// The option's value; `None` if it is not known.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        const ALL: [Value<EntryOption>; 3] = [
            (b"auto", EntryOption::Auto),
            (b"16", EntryOption::Bits16),
            (b"32", EntryOption::Bits32),
        ];
        choose(value, &ALL)
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
    /// The option's value; `None` if it is not known.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        const ALL: [Value<LogOption>; 3] = [
            (b"off", LogOption::Off),
            (b"steps", LogOption::Steps),
            (b"all", LogOption::All),
        ];
        choose(value, &ALL)
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
    /// Reads those that `dir` has. A name that is not known is as if it were
    /// not there.
    ///
    /// # Errors
    /// [`Error::BadOption`], and the transfers'.
    pub fn read<P: Platform>(dir: &Directory<'_>, platform: &mut P) -> Result<Self> {
        let mut options = Self::default();
        for entry in dir.entries() {
            // Few files start like that.
            let name = entry.name().strip_prefix(b"opt/");
            let Some(name) = name.and_then(|name| name.strip_prefix(b"org.qboot/")) else {
                continue;
            };
            let mut value = [0; 16];
            platform.read(entry.file().selector, &mut value)?;
            let (name, value) = (line(name), line(&value));
            let (option, is_known) = match name {
                b"pci" => {
                    let pci = PciOption::parse(value).map(|pci| options.pci = pci);
                    (OptionName::Pci, pci)
                }
                b"entry" => {
                    let entry = EntryOption::parse(value).map(|entry| options.entry = entry);
                    (OptionName::Entry, entry)
                }
                b"log" => {
                    let log = LogOption::parse(value).map(|log| options.log = log);
                    (OptionName::Log, log)
                }
                _ => continue,
            };
            is_known.ok_or(Error::BadOption(BadValue::new(option, value)))?;
        }
        Ok(options)
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
            ("opt/org.qboot/entry", b"16"),
            ("opt/org.qboot/log", b"all\0"),
            ("opt/org.qboot/other", b"anything"),
            ("opt/org.else/pci", b"full"),
        ]);
        let expected = Options {
            pci: PciOption::Scan,
            entry: EntryOption::Bits16,
            log: LogOption::All,
        };
        assert_eq!(options, Ok(expected));
    }

    #[test]
    fn an_unknown_value_is_named() {
        for (name, option, value) in [
            ("pci", OptionName::Pci, "scanner"),
            ("pci", OptionName::Pci, ""),
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
