//! Compiling the firmware and laying it out as a ROM image.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process::{run, run_telling};
use crate::{elf, progress, workspace};

/// Size of the image: the ROM region that ends at 4 GiB.
pub const ROM_SIZE: usize = 64 * 1024;

/// The Rust target of the firmware.
pub const TARGET: &str = "i586-unknown-linux-gnu";
const PROFILE: &str = "rom";

/// A built firmware.
#[derive(Clone, Debug)]
pub struct Rom {
    /// What QEMU's `-bios` takes, [`ROM_SIZE`] bytes.
    pub image: PathBuf,
    /// The same with symbols and sections.
    pub elf: PathBuf,
    /// Bytes of the image that hold code or data.
    pub used: u64,
    /// SHA-256 of the image, lower-case hexadecimal.
    pub sha256: String,
}

/// Builds the firmware with `features` beside the default ones.
///
/// Leaves it in `target/qboot.rom` and `target/qboot.elf`; with features their names
/// are added, as in `target/qboot-markers.rom`.
///
/// # Errors
/// The compiler or `objcopy` fails (with its output), or the image does not have
/// [`ROM_SIZE`] bytes.
pub fn rom(features: &[&str]) -> Result<Rom> {
    let suffix: String = features
        .iter()
        .map(|feature| format!("-{feature}"))
        .collect();
    workspace::require_source("building the ROM")?;
    let _lock = workspace::lock(&format!("rom{suffix}"))?;
    let target = workspace::target();
    // Builds with features have their own directory, so that the plain one is not
    // recompiled after each of them.
    let target_dir = match features {
        [] => target.clone(),
        _ => target.join(format!("rom{suffix}")),
    };
    let step = progress::step(match features {
        [] => "building the ROM".to_owned(),
        _ => format!("building the ROM with {}", features.join(", ")),
    });
    compile(features, &target_dir)?;

    let built = target_dir.join(TARGET).join(PROFILE).join("firmware");
    let flat = target_dir.join(TARGET).join(PROFILE).join("firmware.bin");
    let mut objcopy = Command::new("objcopy");
    run(objcopy.args(["-O", "binary"]).arg(&built).arg(&flat))?;

    let image = workspace::read(&flat)?;
    ensure!(
        image.len() == ROM_SIZE,
        "the image has {} bytes, a ROM has {ROM_SIZE}",
        image.len()
    );
    let elf = workspace::read(&built)?;
    let sections = elf::sections(&elf).context("reading the sections of the firmware")?;
    let rom = Rom {
        image: target.join(format!("qboot{suffix}.rom")),
        elf: target.join(format!("qboot{suffix}.elf")),
        used: elf::used(&sections).into(),
        sha256: workspace::sha256(&image),
    };
    workspace::write_if_changed(&rom.image, &image)?;
    workspace::write_if_changed(&rom.elf, &elf)?;
    step.done(&format!("{} of {ROM_SIZE} bytes used", rom.used));
    Ok(rom)
}

/// Compiles the firmware for this source tree, in `target_dir`.
fn compile(features: &[&str], target_dir: &Path) -> Result<()> {
    let mut script = Command::new(workspace::root().join("scripts/rom.sh"));
    script.arg(features.join(",")).arg(target_dir);
    // Another cargo works in this directory.
    run_telling(&mut script, |line| {
        line.trim_start().starts_with("Blocking")
    })
}
