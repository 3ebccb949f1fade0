//! The bill of materials of a release, in CycloneDX's JSON: which crates are
//! in the ROM, and which in the host program.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cyclonedx_bom::external_models::spdx::SpdxExpression;
use cyclonedx_bom::external_models::uri::Purl;
use cyclonedx_bom::models::bom::{Bom, UrnUuid};
use cyclonedx_bom::models::component::{Classification, Component, Components};
use cyclonedx_bom::models::dependency::{Dependencies, Dependency};
use cyclonedx_bom::models::hash::{Hash, HashAlgorithm, HashValue, Hashes};
use cyclonedx_bom::models::license::{LicenseChoice, Licenses};
use cyclonedx_bom::models::metadata::Metadata;
use cyclonedx_bom::validation::Validate;
use serde::Deserialize;

use crate::dist::{NAME, VERSION};
use crate::process::said;
use crate::{build, workspace};

/// The firmware and the host program, as the bill refers to them.
const ROM: &str = "qboot.rom";
const TOOL: &str = "qboot";
const LICENSE: &str = "MIT OR Apache-2.0";

/// A crate, and what it is under.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Crate {
    pub name: String,
    pub version: String,
    pub license: String,
}

impl Crate {
    fn key(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version)
    }
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// The bill of materials of the ROM with this SHA-256 and of the host program.
///
/// # Errors
/// Cargo does not tell, or the result is not what CycloneDX 1.5 allows.
pub fn json(rom_sha256: &str) -> Result<String> {
    let (rom, tool) = (of_rom()?, of_tool()?);
    ensure!(rom.iter().any(|found| found.name == "zerocopy"), "{rom:?}");
    let lock = fs::read_to_string(workspace::root().join("Cargo.lock"))?;
    let lock: Lock = toml::from_str(&lock).context("Cargo.lock")?;
    let checksums: BTreeMap<_, _> = lock
        .package
        .into_iter()
        .filter_map(|package| Some(((package.name, package.version), package.checksum?)))
        .collect();
    let mut components = vec![
        part(ROM, Classification::Firmware, Some(rom_sha256)),
        part(TOOL, Classification::Application, None),
    ];
    for found in rom.union(&tool) {
        components.push(library(found, &checksums)?);
    }
    let needs = |name: &str, crates: &BTreeSet<Crate>| Dependency {
        dependency_ref: name.to_owned(),
        dependencies: crates.iter().map(Crate::key).collect(),
    };
    let bom = Bom {
        // The same release, the same bytes: no random number, no time.
        serial_number: None::<UrnUuid>,
        metadata: Some(Metadata {
            component: Some(part(NAME, Classification::Application, None)),
            ..Metadata::default()
        }),
        components: Some(Components(components)),
        dependencies: Some(Dependencies(vec![needs(ROM, &rom), needs(TOOL, &tool)])),
        ..Bom::default()
    };
    let result = bom.validate();
    ensure!(result.passed(), "the bill of materials: {result:?}");
    let mut text = Vec::new();
    bom.output_as_json_v1_5(&mut text)?;
    Ok(String::from_utf8(text)?)
}

/// A part of the release.
fn part(name: &str, kind: Classification, sha256: Option<&str>) -> Component {
    let mut component = Component::new(kind, name, VERSION, Some(name.to_owned()));
    component.licenses = Some(license(LICENSE));
    component.hashes = sha256.map(hashes);
    component
}

fn library(found: &Crate, checksums: &BTreeMap<(String, String), String>) -> Result<Component> {
    let Crate {
        name,
        version,
        license: terms,
    } = found;
    let key = Some(found.key());
    let mut component = Component::new(Classification::Library, name, version, key);
    component.purl = Some(Purl::new("cargo", name, version)?);
    component.licenses = Some(license(&terms.replace('/', " OR ")));
    let checksum = checksums.get(&(name.clone(), version.clone()));
    component.hashes = checksum.map(|sha256| hashes(sha256));
    Ok(component)
}

fn license(terms: &str) -> Licenses {
    Licenses(vec![LicenseChoice::Expression(SpdxExpression::new(terms))])
}

fn hashes(sha256: &str) -> Hashes {
    Hashes(vec![Hash {
        alg: HashAlgorithm::SHA_256,
        content: HashValue(sha256.to_owned()),
    }])
}

/// The crates in the ROM.
pub(crate) fn of_rom() -> Result<BTreeSet<Crate>> {
    crates(&[
        "--package",
        "qboot",
        "--features",
        "rom",
        "--target",
        build::TARGET,
    ])
}

/// The crates in the host program, as it is handed out.
pub(crate) fn of_tool() -> Result<BTreeSet<Crate>> {
    crates(&["--package", "qboot-cli"])
}

/// The crates of the registry that end up in what these arguments name;
/// macros run in the compiler and do not.
fn crates(arguments: &[&str]) -> Result<BTreeSet<Crate>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = said(
        Command::new(cargo)
            .current_dir(workspace::require_source("the bill of materials")?)
            .args(["tree", "--locked", "--edges", "normal,no-proc-macro"])
            .args(["--prefix", "none", "--format", "{p}\t{l}"])
            .args(arguments),
    )?;
    tree.lines()
        // A path in brackets: this workspace's own.
        .filter(|line| !line.is_empty() && !line.contains(" (/"))
        .map(|line| {
            let (package, license) = line.split_once('\t').context("no licence")?;
            let mut words = package.split(' ');
            let name = words.next().context("no name")?;
            let version = words.next().and_then(|word| word.strip_prefix('v'));
            Ok(Crate {
                name: name.to_owned(),
                version: version
                    .with_context(|| format!("no version: {line}"))?
                    .to_owned(),
                license: license.trim_end_matches(" (*)").to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rom_has_its_seven_crates_and_none_of_the_host() {
        let sha256 = "0".repeat(64);
        let text = json(&sha256).unwrap();
        let bom: serde_json::Value = serde_json::from_str(&text).unwrap();
        let rom = &bom["dependencies"][0];
        assert_eq!(rom["ref"], ROM);
        let needs: Vec<_> = rom["dependsOn"].as_array().unwrap().iter().collect();
        for name in [
            "arrayvec",
            "bitflags",
            "spin",
            "uart_16550",
            "volatile",
            "x86_64",
            "zerocopy",
        ] {
            let start = format!("pkg:cargo/{name}@");
            assert!(
                needs
                    .iter()
                    .any(|key| key.as_str().unwrap().starts_with(&start)),
                "{name}"
            );
        }
        assert!(
            !needs
                .iter()
                .any(|key| key.as_str().unwrap().contains("clap"))
        );
        for component in bom["components"].as_array().unwrap() {
            let is_library = component["type"] == "library";
            assert!(
                !is_library || component["hashes"][0]["alg"] == "SHA-256",
                "{component}"
            );
        }
        assert_eq!(json(&sha256).unwrap(), text);
    }
}
