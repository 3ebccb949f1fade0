//! A ROM's identity, and its size by section and by symbol.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::build::ROM_SIZE;
use crate::elf::{self, Part};
use crate::json::Json;
use crate::uki::Pe;
use crate::{extract, workspace};

/// Where a ROM has its identity: 64 bytes before the reset vector, from the end.
const IDENTITY: usize = 0x50;
/// Bytes of the identity.
const IDENTITY_LEN: usize = 64;
/// The identity's first word.
const SIGNATURE: &str = "qboot-rs";

/// Which build a ROM is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    pub version: String,
    /// Twelve digits of the commit's hash, and a plus if the source differed; `unknown`
    /// for a build from neither git nor an archive.
    pub commit: String,
    /// The commit's date, `YYYY-MM-DD`.
    pub date: String,
    pub features: Vec<String>,
}

impl Identity {
    /// Reads it from an image of any size; `None` for another ROM.
    #[must_use]
    pub fn read(image: &[u8]) -> Option<Self> {
        let place = image.get(image.len().checked_sub(IDENTITY)?..)?;
        let text = place.get(..IDENTITY_LEN)?.split(|byte| *byte == 0).next()?;
        let mut words = std::str::from_utf8(text).ok()?.split(' ');
        if words.next()? != SIGNATURE {
            return None;
        }
        Some(Self {
            version: words.next()?.to_owned(),
            commit: words.next()?.to_owned(),
            date: words.next()?.to_owned(),
            features: words.map(str::to_owned).collect(),
        })
    }

    fn shown(&self) -> String {
        let source = match self.commit.strip_suffix('+') {
            Some(commit) => format!("{commit}, and changes to it"),
            None => self.commit.clone(),
        };
        let features = match self.features.as_slice() {
            [] => "none".to_owned(),
            some => some.join(", "),
        };
        let Self { version, date, .. } = self;
        format!("version  {version}\ncommit   {source}\ndate     {date}\nfeatures {features}\n")
    }
}

/// A ROM.
#[derive(Clone, Debug)]
pub struct Description {
    /// The image.
    pub path: PathBuf,
    /// Its size in bytes.
    pub len: usize,
    /// SHA-256 of it, lower-case hexadecimal.
    pub sha256: String,
    /// `None` for another ROM.
    pub identity: Option<Identity>,
    /// From the ELF file, in its order; empty without one.
    pub sections: Vec<Part>,
    /// From the ELF file, largest first; empty without one.
    pub symbols: Vec<Part>,
}

/// Reads the ROM `image`, and `count` symbols from its ELF file `elf`.
///
/// # Errors
/// A file cannot be read, or `elf` is not a 32-bit ELF file.
pub fn describe(image: &Path, elf: Option<&Path>, count: usize) -> Result<Description> {
    let bytes = workspace::read(image)?;
    let mut description = Description {
        path: image.to_owned(),
        len: bytes.len(),
        sha256: workspace::sha256(&bytes),
        identity: Identity::read(&bytes),
        sections: Vec::new(),
        symbols: Vec::new(),
    };
    if let Some(elf) = elf {
        let bytes = workspace::read(elf)?;
        let broken = || format!("reading {}", elf.display());
        description.sections = elf::sections(&bytes).with_context(broken)?;
        description.symbols = elf::symbols(&bytes).with_context(broken)?;
        description.symbols.truncate(count);
    }
    Ok(description)
}

/// A unified kernel image.
#[derive(Clone, Debug)]
pub struct Unified {
    path: PathBuf,
    /// Name and size of each section.
    sections: Vec<(String, usize)>,
    command_line: String,
}

/// Reads the unified kernel image at `path`; `None` if it is another file.
///
/// # Errors
/// It cannot be read.
pub fn unified(path: &Path) -> Result<Option<Unified>> {
    let bytes = workspace::read(path)?;
    if extract::format(&bytes) != extract::Format::Unified {
        return Ok(None);
    }
    let found = Pe::read(&bytes)?.map(|pe| Unified {
        path: path.to_owned(),
        command_line: pe.command_line(),
        sections: pe
            .sections
            .into_iter()
            .map(|section| (section.name, section.content.len()))
            .collect(),
    });
    Ok(found)
}

impl Unified {
    /// As text for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{}: a unified kernel image\n", self.path.display());
        let _ = writeln!(text, "command line: {}", self.command_line);
        let _ = writeln!(text, "\n{:>10}  section", "bytes");
        for (name, len) in &self.sections {
            let _ = writeln!(text, "{len:>10}  {name}");
        }
        text
    }

    /// As JSON for programs.
    #[must_use]
    pub fn json(&self) -> Json {
        let section = |(name, len): &(String, usize)| {
            Json::Object(vec![
                ("name", name.as_str().into()),
                ("bytes", (*len).into()),
            ])
        };
        Json::Object(vec![
            ("file", self.path.to_string_lossy().as_ref().into()),
            ("command_line", self.command_line.as_str().into()),
            ("sections", self.sections.iter().map(section).collect()),
        ])
    }
}

impl Description {
    /// As text for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "{}: {} bytes", self.path.display(), self.len);
        if self.len != ROM_SIZE {
            let _ = writeln!(text, "  (a qboot ROM has {ROM_SIZE})");
        }
        match &self.identity {
            Some(identity) => text.push_str(&identity.shown()),
            None => text.push_str("(no qboot-rs: it does not say which build it is)\n"),
        }
        let _ = writeln!(text, "sha256   {}", self.sha256);
        if self.sections.is_empty() {
            if self.identity.is_some() {
                let elf = self.path.with_extension("elf");
                let elf = elf.display();
                let _ = writeln!(
                    text,
                    "(sizes by section and symbol need its ELF file, as {elf})"
                );
            }
            return text;
        }
        let row = |text: &mut String, part: &Part, note: &str| {
            let Part {
                name, addr, len, ..
            } = part;
            let _ = writeln!(text, "{len:>8}  {addr:>8x}  {name}{note}");
        };
        let _ = writeln!(text, "\n{:>8}  {:>8}  section", "bytes", "address");
        for part in &self.sections {
            let note = if part.in_image { "" } else { "  (memory only)" };
            row(&mut text, part, note);
        }
        let _ = writeln!(
            text,
            "{:>8}            used of {ROM_SIZE}",
            elf::used(&self.sections)
        );
        let _ = writeln!(text, "\n{:>8}  {:>8}  symbol", "bytes", "address");
        for part in &self.symbols {
            row(&mut text, part, "");
        }
        text
    }

    /// As JSON for programs: unknown values are null or an empty list.
    #[must_use]
    pub fn json(&self) -> Json {
        let part = |part: &Part| {
            Json::Object(vec![
                ("name", part.name.as_str().into()),
                ("address", part.addr.into()),
                ("bytes", part.len.into()),
                ("in_image", part.in_image.into()),
            ])
        };
        let identity = self.identity.as_ref();
        let features = identity.map(|found| found.features.iter().map(String::as_str).collect());
        let used = (!self.sections.is_empty()).then(|| elf::used(&self.sections));
        Json::Object(vec![
            ("file", self.path.to_string_lossy().as_ref().into()),
            ("bytes", self.len.into()),
            ("sha256", self.sha256.as_str().into()),
            (
                "version",
                identity.map(|found| found.version.as_str()).into(),
            ),
            ("commit", identity.map(|found| found.commit.as_str()).into()),
            ("date", identity.map(|found| found.date.as_str()).into()),
            ("features", features.unwrap_or(Json::Null)),
            ("used_bytes", used.into()),
            ("sections", self.sections.iter().map(part).collect()),
            ("symbols", self.symbols.iter().map(part).collect()),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(text: &str) -> Vec<u8> {
        let mut image = vec![0; ROM_SIZE];
        let at = ROM_SIZE - IDENTITY;
        image[at..at + text.len()].copy_from_slice(text.as_bytes());
        image
    }

    #[test]
    fn a_rom_says_which_build_it_is() {
        let found = Identity::read(&image("qboot-rs 1.2.3 0123456789ab+ 2026-01-02 markers"));
        let found = found.unwrap();
        assert_eq!(
            found.shown(),
            "version  1.2.3\ncommit   0123456789ab, and changes to it\n\
             date     2026-01-02\nfeatures markers\n"
        );
        let plain = Identity::read(&image("qboot-rs 1.2.3 0123456789ab 2026-01-02")).unwrap();
        assert!(plain.shown().ends_with("features none\n"));
    }

    #[test]
    fn other_images_are_no_rom_of_ours() {
        assert_eq!(Identity::read(&[]), None);
        assert_eq!(Identity::read(&[0xff; ROM_SIZE]), None);
        assert_eq!(Identity::read(&image("qboot-rs 1.2.3")), None);
        assert_eq!(
            Identity::read(&image("seabios 1.2.3 0123 2026-01-02")),
            None
        );
    }
}
