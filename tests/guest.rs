//! Linux in a guest: how it is started, what belongs to it, and what it must not say.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSection};
use xtask::extract;
use xtask::initramfs::{self, Arch};
use xtask::kernel::{self, Flavour, Kernel};
use xtask::linux::{self, Time};
use xtask::process::is_installed;
use xtask::qemu::{Qemu, Vm};

use crate::machines::Machine;
use crate::{Kind, wait_until};

/// Debian's kernel as it is, or the `vmlinux` inside it.
///
/// # Errors
/// It cannot be fetched, or has no PVH entry point.
pub fn image(flavour: Flavour, kind: Kind) -> Result<PathBuf> {
    let bzimage = kernel::debian(flavour)?.bzimage;
    match kind {
        Kind::BzImage => Ok(bzimage),
        Kind::Pvh => extract::cached(&bzimage)?
            .with_context(|| format!("{flavour:?} has no PVH entry point")),
        Kind::Multiboot => bail!("Linux is no multiboot kernel"),
    }
}

/// Which programs a kernel of this flavour runs.
#[must_use]
pub fn arch(flavour: Flavour) -> Arch {
    match flavour {
        Flavour::I686Pae => Arch::I386,
        _ => Arch::Amd64,
    }
}

/// A machine that boots a kernel of this flavour with the standard initramfs, and these
/// words on the command line beside those that it needs.
///
/// # Errors
/// Something cannot be fetched.
pub fn boot(
    machine: Machine,
    flavour: Flavour,
    kind: Kind,
    time: Time,
    words: &str,
) -> Result<Qemu> {
    let has_acpi = !words.contains("acpi=off");
    let needed = linux::parameters(machine.name, time, has_acpi).join(" ");
    Ok(machine
        .qemu()?
        .kernel(image(flavour, kind)?)
        .initrd(initramfs::standard(arch(flavour))?)
        .append(&format!("console=ttyS0 panic=-1 {needed} {words}")))
}

/// Waits until a machine has ended by itself; gives what was said. Linux must not have
/// complained of anything that is the firmware's to set up.
///
/// # Errors
/// It ends in another way, or the kernel complains.
pub fn wait_end(vm: &mut Vm, timeout: Duration) -> Result<String> {
    let status = vm.wait_exit(timeout)?;
    ensure!(
        status.success(),
        "QEMU ended with {status}\n{}",
        vm.report()
    );
    let serial = vm.serial();
    for complaint in [
        "MTRRs disabled",
        "ACPI Error",
        "ACPI BIOS Error",
        "[Firmware Bug]",
        "Call Trace",
        "Kernel panic",
    ] {
        let line = serial.lines().find(|line| line.contains(complaint));
        ensure!(line.is_none(), "the kernel complains: {line:?}");
    }
    Ok(serial)
}

/// These modules of a kernel and those that they depend on, in the order in which they
/// are to be loaded: names and contents. What is built in is left out.
///
/// # Errors
/// There is no such module.
pub fn modules<S: AsRef<str>>(kernel: &Kernel, names: &[S]) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    let dir = &kernel.modules;
    let builtin = fs::read_to_string(dir.join("modules.builtin")).unwrap_or_default();
    let builtin: BTreeSet<String> = builtin.lines().map(module_name).collect();
    for name in names {
        load(dir, &builtin, name.as_ref(), &mut found)?;
    }
    Ok(found)
}

fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

fn load(
    dir: &Path,
    builtin: &BTreeSet<String>,
    name: &str,
    found: &mut Vec<(String, Vec<u8>)>,
) -> Result<()> {
    let name = module_name(name);
    if builtin.contains(&name) || found.iter().any(|(other, _)| *other == name) {
        return Ok(());
    }
    let is_it = |file: &str| file.contains(".ko") && module_name(file) == name;
    let path = find(dir, &is_it).with_context(|| format!("no kernel module {name}"))?;
    let mut bytes = fs::read(&path)?;
    if path.extension().is_some_and(|end| end == "xz") {
        let mut plain = Vec::new();
        lzma_rust2::XzReader::new(bytes.as_slice(), true).read_to_end(&mut plain)?;
        bytes = plain;
    }
    for dependency in dependencies(&bytes)? {
        load(dir, builtin, &dependency, found)?;
    }
    found.push((name, bytes));
    Ok(())
}

/// The first file below `dir` whose name `is_it` accepts.
pub fn find(dir: &Path, is_it: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    for entry in fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = find(&path, is_it) {
                return Some(found);
            }
        } else if is_it(&entry.file_name().to_string_lossy()) {
            return Some(path);
        }
    }
    None
}

/// The modules named by the `depends` line of a module's `.modinfo` section.
fn dependencies(module: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(module)?;
    let section = file.section_by_name(".modinfo").context("no .modinfo")?;
    let text = String::from_utf8_lossy(section.data()?).into_owned();
    let lists = text
        .split('\0')
        .filter_map(|line| line.strip_prefix("depends="));
    let names = lists.flat_map(|list| list.split(','));
    Ok(names
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect())
}

/// A software TPM, ended with the boot.
pub struct Tpm(Child);

impl Tpm {
    /// Whether there is the program for it.
    #[must_use]
    pub fn is_installed() -> bool {
        is_installed("swtpm")
    }

    /// Starts one of version 2 or 1.2, with its socket `swtpm` and its state in `dir`.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(dir: &Path, is_2: bool) -> Result<Self> {
        let socket = dir.join("swtpm");
        let tpm = Command::new("swtpm")
            .arg("socket")
            .args(is_2.then_some("--tpm2"))
            .arg("--tpmstate")
            .arg(format!("dir={}", dir.display()))
            .arg("--ctrl")
            .arg(format!("type=unixio,path={}", socket.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let tpm = Self(tpm.context("starting swtpm")?);
        wait_until("swtpm opens its socket", || Ok(socket.exists()))?;
        Ok(tpm)
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
