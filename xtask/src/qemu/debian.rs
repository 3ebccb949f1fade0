//! QEMU as a suite of Debian's has it, unpacked and not installed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::debian::{self, Package};
use crate::workspace;

/// An unpacked QEMU.
#[derive(Clone, Debug)]
pub struct Unpacked {
    /// What starts it.
    pub program: PathBuf,
    /// The directory that stands for `/`, with its firmware images.
    pub root: PathBuf,
}

/// QEMU from `suite`, such as `sid`, with all its libraries and their loader: the
/// release's C library may be older than it asks for.
///
/// # Errors
/// It cannot be fetched.
pub fn of(suite: &str) -> Result<Unpacked> {
    let package = Package::of_suite(suite, "amd64", "qemu-system-x86");
    let root = debian::unpack_with_dependencies(&package)?;
    // Debian 12's packages still have it in the second.
    let loader = ["usr/lib64", "lib64"].map(|dir| root.join(dir).join("ld-linux-x86-64.so.2"));
    let loader = loader.iter().find(|loader| loader.is_file());
    let loader = loader.context("the C library has no loader")?;
    let text = format!(
        "#!/bin/sh\n\
         root={}\n\
         export QEMU_MODULE_DIR=$root/usr/lib/x86_64-linux-gnu/qemu\n\
         exec {} \\\n  \
         --library-path $root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu \\\n  \
         $root/usr/bin/qemu-system-x86_64 -L $root/usr/share/qemu -L $root/usr/share/seabios \"$@\"\n",
        root.display(),
        loader.display()
    );
    let program = workspace::target()
        .join("debian")
        .join(format!("qemu-{suite}"));
    // Another process may be starting it.
    workspace::write_if_changed(&program, text.as_bytes())?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(Unpacked { program, root })
}
