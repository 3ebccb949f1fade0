//! Debian's kernels, fetched as packages and never installed.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::debian::{self, Lists, Package};

/// A kernel that Debian builds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Flavour {
    /// `linux-image-cloud-amd64`.
    CloudAmd64,
    /// `linux-image-amd64`.
    Amd64,
    /// `linux-image-686-pae`.
    I686Pae,
    /// `linux-image-cloud-amd64` of the release's backports.
    CloudAmd64Backports,
    /// `linux-image-amd64` of the release's backports.
    Amd64Backports,
}

impl ValueEnum for Flavour {
    fn value_variants<'a>() -> &'a [Self] {
        use Flavour::*;
        &[
            CloudAmd64,
            Amd64,
            I686Pae,
            CloudAmd64Backports,
            Amd64Backports,
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let (name, help) = match self {
            Flavour::CloudAmd64 => (
                "cloud-amd64",
                "For virtual machines (linux-image-cloud-amd64)",
            ),
            Flavour::Amd64 => ("amd64", "For any machine (linux-image-amd64)"),
            Flavour::I686Pae => (
                "686-pae",
                "For any machine, 32 bits (linux-image-686-pae, last in Debian 12)",
            ),
            Flavour::CloudAmd64Backports => (
                "cloud-amd64-backports",
                "For virtual machines, from the release's backports",
            ),
            Flavour::Amd64Backports => (
                "amd64-backports",
                "For any machine, from the release's backports",
            ),
        };
        Some(PossibleValue::new(name).help(help))
    }
}

impl Flavour {
    /// The meta-package that depends on the newest kernel of this flavour.
    fn package(self) -> Package {
        let (name, lists) = match self {
            Flavour::CloudAmd64 => ("linux-image-cloud-amd64", Lists::system()),
            Flavour::Amd64 => ("linux-image-amd64", Lists::system()),
            Flavour::I686Pae => ("linux-image-686-pae", lists_with_686()),
            Flavour::CloudAmd64Backports => ("linux-image-cloud-amd64", backports()),
            Flavour::Amd64Backports => ("linux-image-amd64", backports()),
        };
        Package {
            name: name.into(),
            lists,
        }
    }
}

/// The last release with 32-bit kernels.
const LAST_WITH_686: &str = "bookworm";

fn lists_with_686() -> Lists {
    if debian::release().is_some_and(|release| release == LAST_WITH_686) {
        let arch = "i386".to_owned();
        return Lists::Private { arch };
    }
    Lists::suite(LAST_WITH_686, "i386")
}

fn backports() -> Lists {
    let asked_for = std::env::var("QBOOT_DEBIAN").ok();
    let release = asked_for.or_else(debian::release);
    let release = release.unwrap_or_else(|| "stable".to_owned());
    Lists::suite(format!("{release}-backports"), "amd64")
}

/// Begins the name of every kernel package.
const PREFIX: &str = "linux-image-";

/// An unpacked kernel package.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// `/boot/vmlinuz-…`, or where newer packages have it: a bzImage.
    pub bzimage: PathBuf,
    /// `/lib/modules/RELEASE`, or below `/usr`.
    pub modules: PathBuf,
}

/// Fetches and unpacks the newest kernel of `flavour`, or returns an earlier one.
///
/// # Errors
/// There is no apt, or the package could not be downloaded.
pub fn debian(flavour: Flavour) -> Result<Kernel> {
    newest(&flavour.package())
}

/// The same for the kernel that a meta-package stands for.
///
/// # Errors
/// As for [`debian()`].
pub fn newest(meta: &Package) -> Result<Kernel> {
    let stamp = format!("{}.package", debian::key(meta));
    let stamp = crate::workspace::target().join("debian").join(stamp);
    let known = match fs::read_to_string(&stamp) {
        Ok(name) => name.trim().to_owned(),
        Err(_) => {
            debian::require_apt(&meta.name, "name a kernel of your own with --kernel")?;
            debian::dependency(meta, PREFIX)?
        }
    };
    let unpack = |name: String| -> Result<(String, PathBuf)> {
        let lists = meta.lists.clone();
        let package = Package { name, lists };
        let root = debian::unpack(&package)?;
        Ok((package.name, root))
    };
    let (name, root) = unpack(known.clone()).or_else(|error| {
        // Old lists may name a kernel that has left the archive.
        match debian::refreshed_dependency(meta, PREFIX) {
            Ok(newer) if newer != known => unpack(newer),
            _ => Err(error),
        }
    })?;
    if !stamp.is_file() || name != known {
        crate::workspace::write_atomically(&stamp, format!("{name}\n").as_bytes())?;
    }
    // What `uname -r` says in the guest, for example `6.1.0-1-cloud-amd64`.
    let release = name
        .trim_start_matches(PREFIX)
        .trim_end_matches("-unsigned");
    let boot = root.join("boot");
    let kernel = if boot.is_dir() {
        Kernel {
            bzimage: boot.join(format!("vmlinuz-{release}")),
            modules: root.join("lib/modules").join(release),
        }
    } else {
        // Since Debian 14 that package has no files, but depends on those that do.
        let part = |kind| -> Result<PathBuf> {
            let (_, root) = unpack(format!("linux-{kind}-{release}"))?;
            Ok(root.join("usr/lib/modules").join(release))
        };
        Kernel {
            bzimage: part("binary")?.join("vmlinuz"),
            modules: part("modules")?,
        }
    };
    fs::metadata(&kernel.bzimage)
        .with_context(|| format!("{name} holds no {}", kernel.bzimage.display()))?;
    Ok(kernel)
}
