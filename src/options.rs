//! What the user asks of the firmware: the files under `opt/org.qboot/` in
//! fw_cfg.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_may_end_in_a_newline() {
        assert_eq!(PciOption::parse(b"scan\n\0\0"), Some(PciOption::Scan));
        assert_eq!(PciOption::parse(b"scanner"), None);
        assert_eq!(PciOption::parse(b""), None);
    }
}
