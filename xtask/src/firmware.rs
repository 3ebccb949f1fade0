//! The firmware that is compared: this one and its peers.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::build;

/// A firmware that takes part.
#[derive(Clone, Debug)]
pub struct Firmware {
    /// Name in tables and charts.
    pub name: String,
    /// Image for `pc` and `q35`.
    image: PathBuf,
    /// Image for microvm, where that is another one.
    microvm: Option<PathBuf>,
}

/// Our own name in tables and charts.
pub const OURS: &str = "qboot-rs";
/// Name of C qboot there, to which the others are compared.
pub const REFERENCE: &str = "C qboot";

impl Firmware {
    /// A firmware with one image for all machines.
    #[must_use]
    pub fn new(name: impl Into<String>, image: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            image: image.into(),
            microvm: None,
        }
    }

    /// The image for a machine, a value of `-M`.
    #[must_use]
    pub fn image(&self, machine: &str) -> &Path {
        match &self.microvm {
            Some(image) if machine.starts_with("microvm") => image,
            _ => &self.image,
        }
    }
}

/// C qboot and SeaBIOS as QEMU's packages install them below `root`.
#[must_use]
pub fn peers(root: &Path) -> [Firmware; 2] {
    let seabios = root.join("usr/share/seabios");
    [
        Firmware::new(REFERENCE, root.join("usr/share/qemu/qboot.rom")),
        Firmware {
            microvm: Some(seabios.join("bios-microvm.bin")),
            ..Firmware::new("SeaBIOS", seabios.join("bios-256k.bin"))
        },
    ]
}

/// The firmware that is here: ours, C qboot and SeaBIOS as QEMU's packages install them,
/// and `others`. Also why others are left out, and the used bytes of ours, 0 for an image
/// that `QBOOT_ROM` names.
///
/// # Errors
/// Our own ROM does not build.
pub fn all(others: &[PathBuf]) -> Result<(Vec<Firmware>, Vec<String>, u64)> {
    let (image, used) = match std::env::var_os("QBOOT_ROM") {
        Some(image) => (PathBuf::from(image), 0),
        None => {
            let rom = build::rom(&[])?;
            (rom.image, rom.used)
        }
    };
    let mut firmware = vec![Firmware::new(OURS, image)];
    firmware.extend(peers(Path::new("/")));
    firmware.extend(
        others
            .iter()
            .map(|path| Firmware::new(path.display().to_string(), path)),
    );
    let mut missing = Vec::new();
    firmware.retain(|one| {
        let is_here = one.image.is_file();
        if !is_here {
            missing.push(format!("{}: no {}", one.name, one.image.display()));
        }
        is_here
    });
    Ok((firmware, missing, used))
}
