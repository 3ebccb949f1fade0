//! The terms of the crates that are part of what is handed out, in their own
//! words: most ask to be handed out with them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::process::said;
use crate::sbom::{self, Crate};
use crate::{build, workspace};

/// What the file is called that [`text`] is for.
pub const FILE: &str = "NOTICES.txt";

const HEAD: &str = "\
The program qboot and the ROM are linked with the crates listed here, and with
Rust's standard library (MIT or Apache-2.0, https://www.rust-lang.org/policies/licenses).
Below the list are the terms that came with each, every text once.

";

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    manifest_path: PathBuf,
}

/// Every crate of the ROM and of the program, and what it is under.
///
/// # Errors
/// Cargo does not tell, or a crate has no such file: then somebody has to look.
pub fn text() -> Result<String> {
    let crates: BTreeSet<Crate> = sbom::of_rom()?
        .into_iter()
        .chain(sbom::of_tool()?)
        .collect();
    let sources = sources()?;
    let mut list = HEAD.to_owned();
    let mut terms = BTreeMap::<String, BTreeSet<&str>>::new();
    for one in &crates {
        let (name, version) = (&one.name, &one.version);
        writeln!(list, "  {name} {version}: {}", one.license)?;
        let source = sources.get(&(name.clone(), version.clone()));
        let source = source.with_context(|| format!("no source of {name} {version}"))?;
        let found = terms_in(source)?;
        ensure!(!found.is_empty(), "{} has no terms", source.display());
        for text in found {
            terms.entry(text).or_default().insert(name);
        }
    }
    let mut terms: Vec<_> = terms.into_iter().collect();
    terms.sort_by(|(_, a), (_, b)| a.cmp(b));
    for (text, names) in terms {
        let names: Vec<_> = names.into_iter().collect();
        let rule = "=".repeat(78);
        write!(list, "\n{rule}\n{}\n{rule}\n\n{text}\n", names.join(", "))?;
    }
    Ok(list)
}

/// Where the source of each crate is.
fn sources() -> Result<BTreeMap<(String, String), PathBuf>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut metadata = Command::new(cargo);
    metadata
        .current_dir(workspace::require_source("the crates' terms")?)
        .args([
            "metadata",
            "--format-version=1",
            "--locked",
            "--all-features",
        ])
        // What other systems need was not fetched.
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .args(["--filter-platform", build::TARGET]);
    let found: Metadata = serde_json::from_str(&said(&mut metadata)?)?;
    let place = |package: Package| {
        let dir = package.manifest_path.parent()?.to_owned();
        Some(((package.name, package.version), dir))
    };
    Ok(found.packages.into_iter().filter_map(place).collect())
}

/// The files of a crate that are called as such files are.
fn terms_in(source: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(source)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().to_lowercase();
        let names = ["licen", "unlicen", "copying", "copyright", "notice"];
        let is_named = names.iter().any(|start| name.starts_with(start));
        if is_named && entry.file_type()?.is_file() {
            let text = fs::read(entry.path())?;
            let text = String::from_utf8_lossy(&text).replace('\r', "");
            found.push(text.trim_matches('\n').to_owned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crate_has_its_terms_and_every_text_is_there_once() {
        let text = text().unwrap();
        let (list, terms) = text.split_once("\n====").unwrap();
        let crates = list.lines().filter_map(|line| line.strip_prefix("  "));
        let names: Vec<_> = crates.filter_map(|line| line.split(' ').next()).collect();
        assert!(names.len() > 50, "{names:?}");
        for name in ["clap", "zerocopy", "x86_64", "libbz2-rs-sys"] {
            assert!(names.contains(&name), "{name}: {names:?}");
        }
        // Its copyright line is its own, the list of those who share a text is not.
        assert!(terms.contains("\nlibbz2-rs-sys\n"), "bzip2's own terms");
        assert_eq!(text.matches("TERMS AND CONDITIONS FOR USE").count(), {
            let texts = terms
                .split("\n====")
                .filter(|text| text.contains("TERMS AND CONDITIONS"));
            texts.collect::<BTreeSet<_>>().len()
        });
        assert!(!text.contains("qboot 0"), "our own terms are elsewhere");
    }
}
