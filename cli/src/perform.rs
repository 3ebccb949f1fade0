//! What each command of the command line calls.

use std::env;
use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::ArgMatches;

use crate::json::Json;
use crate::kernel::{self, Flavour};
use crate::output::{put, say};
use crate::process::run_telling;
use crate::uki::Pe;
use crate::{build, commands, dist, doctor, extract, inspect, run, workspace};

/// Runs the command `name`.
///
/// # Errors
/// The command fails.
pub fn perform(name: &str, found: &ArgMatches) -> Result<ExitCode> {
    let path = |name| found.get_one::<PathBuf>(name).cloned();
    let needed = |name| path(name).context("a file has to be named");
    match name {
        "run" => {
            if !run::run(&run::Options::of(found))? {
                return Ok(ExitCode::FAILURE);
            }
        }
        "build" => {
            let features = found.get_many::<String>("features").into_iter().flatten();
            build(&features.map(String::as_str).collect::<Vec<_>>())?;
        }
        "inspect" => {
            let symbols = found.get_one("symbols").copied().unwrap_or_default();
            return inspect(path("rom"), symbols, found.get_flag("json"));
        }
        "extract" => {
            let initrd = path("initrd");
            return extract(&needed("bzimage")?, &needed("vmlinux")?, initrd.as_deref());
        }
        "kernel" => {
            let flavour = found.get_one("flavour").copied();
            let kernel = kernel::debian(flavour.unwrap_or(Flavour::CloudAmd64))?;
            say!("{}", kernel.bzimage.display())?;
        }
        "doctor" => return doctor(found.get_flag("json")),
        "completions" => {
            let shell = found.get_one::<clap_complete::Shell>("shell").copied();
            put(commands::completions(
                shell.context("a shell has to be named")?,
            ))?;
        }
        "dist" => dist::collect(&env::current_exe()?, &needed("dir")?)?,
        _ => return developer(name, found),
    }
    Ok(ExitCode::SUCCESS)
}

/// Compiles and starts the developer's program.
fn developer(name: &str, found: &ArgMatches) -> Result<ExitCode> {
    let source = workspace::require_source(name)?;
    let target = workspace::target();
    let mut cargo = Command::new(workspace::cargo());
    let cargo = cargo
        .current_dir(source)
        .args(["build", "--package", "xtask"]);
    run_telling(cargo.arg("--target-dir").arg(&target), |line| {
        !line.trim_start().starts_with("Finished")
    })?;
    let rest = found.get_many::<OsString>("rest").into_iter().flatten();
    let mut program = Command::new(target.join("debug/xtask"));
    Err(program.arg(name).args(rest).exec()).context("starting target/debug/xtask")
}

fn build(features: &[&str]) -> Result<()> {
    let rom = build::rom(features)?;
    let root = workspace::root();
    let image = rom.image.strip_prefix(&root).unwrap_or(&rom.image);
    let (image, size) = (image.display(), build::ROM_SIZE);
    say!("{image}: {} of {size} bytes used", rom.used)?;
    say!("sha256 {}", rom.sha256)
}

/// Prints `json` or `text`.
fn show(is_json: bool, json: &Json, text: String) -> Result<()> {
    put(if is_json { format!("{json}\n") } else { text })
}

fn doctor(json: bool) -> Result<ExitCode> {
    let findings = doctor::findings();
    show(json, &doctor::json(&findings), doctor::shown(&findings))?;
    let lacks = |finding: &doctor::Finding| finding.state.is_err() && !finding.optional;
    Ok(match findings.iter().any(lacks) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

fn inspect(rom: Option<PathBuf>, symbols: usize, json: bool) -> Result<ExitCode> {
    let rom = match rom {
        Some(rom) => rom,
        None => run::default_rom()?,
    };
    if let Some(found) = inspect::unified(&rom)? {
        show(json, &found.json(), found.text())?;
        return Ok(ExitCode::SUCCESS);
    }
    let elf = Some(rom.with_extension("elf")).filter(|elf| elf.is_file());
    let found = inspect::describe(&rom, elf.as_deref(), symbols)?;
    show(json, &found.json(), found.text())?;
    Ok(match found.identity {
        Some(_) => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    })
}

/// The kernel was extracted but cannot be booted by PVH.
const NO_PVH: u8 = 3;

fn extract(bzimage: &Path, vmlinux: &Path, initrd: Option<&Path>) -> Result<ExitCode> {
    let mut bytes = Vec::new();
    workspace::open_named(bzimage)
        .and_then(|mut file| Ok(file.read_to_end(&mut bytes)?))
        .with_context(|| format!("reading {}", bzimage.display()))?;
    let file = |path: &Path| path.canonicalize().ok();
    let outputs = [Some(vmlinux), initrd].into_iter().flatten();
    if outputs
        .filter_map(file)
        .any(|there| file(bzimage) == Some(there))
    {
        bail!(
            "{} would be overwritten: name another file to write",
            bzimage.display()
        );
    }
    let format = extract::format(&bytes);
    if format == extract::Format::Elf {
        bail!("{} is an ELF file already", bzimage.display());
    }
    let kernel =
        extract::vmlinux(&bytes).with_context(|| format!("extracting {}", bzimage.display()))?;
    let unified = match format {
        extract::Format::Unified => Pe::read(&bytes)?,
        _ => None,
    };
    let found = unified.as_ref().and_then(Pe::initrd);
    if let Some(path) = initrd {
        let found = found.as_ref();
        let found = found.with_context(|| format!("{} holds no initrd", bzimage.display()))?;
        workspace::write_named(path, found)?;
        say!("{}: {} bytes", path.display(), found.len())?;
    }
    if let Some(pe) = &unified {
        say!("command line: {}", pe.command_line())?;
        if found.is_some() && initrd.is_none() {
            say!("it holds an initrd, too: --initrd FILE writes it")?;
        }
    }
    workspace::write_named(vmlinux, &kernel.elf)?;
    say!(
        "{}: {} bytes, was compressed with {}",
        vmlinux.display(),
        kernel.elf.len(),
        kernel.compression
    )?;
    if let Some(entry) = kernel.pvh_entry {
        say!("PVH entry point at {entry:#x}: boots with QEMU's -kernel")?;
        Ok(ExitCode::SUCCESS)
    } else {
        say!("no PVH entry point (built without CONFIG_PVH): QEMU cannot boot this vmlinux")?;
        Ok(ExitCode::from(NO_PVH))
    }
}
