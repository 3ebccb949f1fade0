//! The firmware descriptor, against the format that QEMU has for it:
//! `docs/interop/firmware.json` in QEMU's source.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use xtask::workspace;

/// Where the descriptor is in the source, and installed.
const DESCRIPTOR: &str = "share/qemu/firmware/60-qboot-rs.json";

/// What the format allows a firmware that is given with `-bios`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Firmware {
    description: String,
    interface_types: Vec<Interface>,
    mapping: Mapping,
    targets: Vec<Target>,
    #[serde(rename = "features")]
    _features: Vec<Feature>,
    #[serde(rename = "tags")]
    _tags: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Interface {
    Bios,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mapping {
    #[serde(rename = "device")]
    _device: Device,
    filename: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Device {
    Memory,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    architecture: Architecture,
    machines: Vec<String>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Architecture {
    I386,
    #[serde(rename = "x86_64")]
    X86,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Feature {
    AcpiS3,
    AcpiS4,
}

fn ours() -> Result<Firmware> {
    let text = fs::read_to_string(workspace::root().join(DESCRIPTOR))?;
    serde_json::from_str(&text).context(DESCRIPTOR)
}

/// The machine types of QEMU's program for `architecture` that are no aliases.
fn machines(architecture: &Architecture) -> Result<Vec<String>> {
    let program = match architecture {
        Architecture::I386 => "qemu-system-i386",
        Architecture::X86 => "qemu-system-x86_64",
    };
    let output = Command::new(program).args(["-machine", "help"]).output();
    let text = String::from_utf8(output.context(program)?.stdout)?;
    let lines = text
        .lines()
        .skip(1)
        .filter(|line| !line.contains("(alias of"));
    let names = lines.filter_map(|line| line.split_whitespace().next());
    Ok(names.map(str::to_owned).collect())
}

/// `pattern` has at most one `*`, at its end.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

#[test]
fn the_descriptor_is_of_qemus_format() -> Result<()> {
    let firmware = ours()?;
    ensure!(!firmware.description.is_empty(), "no description");
    ensure!(
        matches!(firmware.interface_types[..], [Interface::Bios]),
        "{:?}",
        firmware.interface_types
    );
    let path = Path::new(&firmware.mapping.filename);
    ensure!(path.is_absolute(), "{}", path.display());
    Ok(())
}

/// Machines are named as the format wants: what this QEMU has, and no aliases.
#[test]
fn the_descriptor_names_machines_that_there_are() -> Result<()> {
    let firmware = ours()?;
    ensure!(firmware.targets.len() == 2, "{:?}", firmware.targets);
    for target in &firmware.targets {
        let there = machines(&target.architecture)?;
        for pattern in &target.machines {
            ensure!(
                there.iter().any(|name| matches(pattern, name)),
                "{pattern} is no machine of {:?}: {there:?}",
                target.architecture
            );
        }
        for wanted in ["microvm", "pc-i440fx-", "pc-q35-"] {
            let of = there.iter().find(|name| name.starts_with(wanted));
            let of = of.with_context(|| format!("QEMU has no {wanted}"))?;
            ensure!(
                target.machines.iter().any(|pattern| matches(pattern, of)),
                "{of} is not listed"
            );
        }
    }
    Ok(())
}
