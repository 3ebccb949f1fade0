//! Booting a kernel under QEMU with this firmware.

mod accel;
mod guest;

pub use accel::Accel;
pub use guest::qemu_package;

use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::extract::Format;
use crate::initramfs::Arch;
use crate::linux::{self, Time};
use crate::output::say;
use crate::{build, extract, initramfs, kernel, workspace};
use guest::{report, serial_log, shell};

/// What to boot and how; the command line of `run`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// QEMU machine with its options, such as microvm,pcie=on
    #[arg(short = 'M', long, value_name = "MACHINE", default_value = "q35")]
    pub machine: String,

    /// Kernel: a bzImage or an ELF vmlinux [default: Debian's cloud kernel]
    #[arg(short, long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,

    /// Initial RAM file system [default: busybox and a report]
    #[arg(short, long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,

    /// Kernel parameters, added to those that the boot needs
    #[arg(short, long, value_name = "PARAMETERS", allow_hyphen_values = true)]
    pub append: Option<String>,

    /// RAM as QEMU takes it, such as 512M or 4G
    #[arg(short, long, value_name = "SIZE", default_value = "512M")]
    pub memory: String,

    /// Number of CPUs, or a topology as QEMU's -smp takes it
    #[arg(short, long, value_name = "N", default_value = "1")]
    pub cpus: String,

    /// Accelerator: auto, kvm or tcg (auto takes KVM where it is usable)
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub accel: String,

    /// ROM to boot with [default: the one installed, or built from this source tree]
    #[arg(short, long, value_name = "FILE")]
    pub firmware: Option<PathBuf>,

    /// Boot the bzImage itself, not the vmlinux inside it
    #[arg(long)]
    pub bzimage: bool,

    /// What the firmware tells of its work, on the guest's console
    #[arg(long, value_enum, default_value_t = Log::Off)]
    pub log: Log,

    /// What the guest does once it is up
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    pub mode: Mode,

    /// Seconds until a guest that does not end by itself is given up (not on a terminal)
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub timeout: u64,

    /// QEMU to start
    #[arg(long, value_name = "PROGRAM", default_value = "qemu-system-x86_64")]
    pub qemu: PathBuf,

    /// Only print QEMU's command line
    #[arg(long)]
    pub dry_run: bool,

    /// Everything after -- goes to QEMU
    #[arg(last = true, value_name = "QEMU OPTIONS")]
    pub qemu_options: Vec<String>,
}

/// What the firmware tells of its work.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Log {
    /// Nothing, unless the boot fails
    Off,
    /// A line for each step
    Steps,
    /// Also each file, table, range of memory and PCI function
    All,
}

/// What the guest does once it is up.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Mode {
    /// A shell on a terminal, else a report
    Auto,
    /// A shell on the serial console
    Shell,
    /// Print a report and power off
    Report,
}

impl Log {
    /// As the firmware's option has it; without one it says nothing.
    fn value(self) -> Option<&'static str> {
        match self {
            Log::Off => None,
            Log::Steps => Some("steps"),
            Log::All => Some("all"),
        }
    }
}

/// How a boot ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// User space was reached, and QEMU ended by itself without an error.
    Reached,
    /// The guest ended, or was ended, before its first process ran.
    NotReached,
    /// User space was reached, but QEMU failed or did not end in time.
    EndedBadly,
}

/// Boots as `options` say.
///
/// # Errors
/// When something that the boot needs is missing or cannot be made, or QEMU
/// cannot be started. A guest that fails is an [`Outcome`], not an error.
pub fn run(options: &Options) -> Result<Outcome> {
    if !options.dry_run {
        guest::find(&options.qemu)?;
    }
    let plan = plan(options)?;
    if options.dry_run {
        say!("{}", plan.shown())?;
        return Ok(Outcome::Reached);
    }
    eprintln!("accelerator: {}", plan.accel);
    if plan.shell {
        shell(&plan, options)
    } else {
        report(&plan, options)
    }
}

struct Plan {
    accel: Accel,
    arguments: Vec<String>,
    program: PathBuf,
    shell: bool,
}

impl Plan {
    /// The command line as a shell would take it.
    fn shown(&self) -> String {
        let mut line = self.program.display().to_string();
        for argument in &self.arguments {
            line.push(' ');
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_=.,:/+%@".contains(c);
            if argument.is_empty() || !argument.chars().all(is_plain) {
                line.push('\'');
                line.push_str(&argument.replace('\'', "'\\''"));
                line.push('\'');
            } else {
                line.push_str(argument);
            }
        }
        line
    }
}

/// The ROM of the source tree, or without one the ROM installed with this program.
///
/// # Errors
/// There is neither, or it does not build.
pub fn default_rom() -> Result<PathBuf> {
    if workspace::source().is_some() {
        return Ok(build::rom(&[])?.image);
    }
    workspace::installed_rom().context(
        "no ROM is installed with this program (scripts/install.sh does that): name one with --firmware",
    )
}

/// What QEMU is to load.
struct Files {
    firmware: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
}

/// The files that were named, and those that are made where none was.
fn files(options: &Options) -> Result<Files> {
    // A name that is wrong shows before anything is built or fetched for it.
    for (what, path) in [
        ("kernel", &options.kernel),
        ("initrd", &options.initrd),
        ("firmware", &options.firmware),
    ] {
        if let Some(path) = path {
            readable(path).with_context(|| format!("the {what} {}", path.display()))?;
        }
    }
    if let Some(path) = &options.kernel {
        may_boot(path, options.dry_run)?;
    }
    if let Some(rom) = &options.firmware {
        let size = fs::metadata(rom)?.len();
        ensure!(
            size != 0 && size % ROM_UNIT == 0,
            "{} is no ROM: it has {size} bytes, no multiple of {ROM_UNIT}",
            rom.display()
        );
    }
    let firmware = match &options.firmware {
        Some(path) => path.clone(),
        None => default_rom()?,
    };
    let kernel = match &options.kernel {
        Some(path) => path.clone(),
        None => kernel::debian(kernel::Flavour::CloudAmd64)?.bzimage,
    };
    let bytes = fs::read(&kernel).with_context(|| format!("reading {}", kernel.display()))?;
    let initrd = match &options.initrd {
        Some(path) => path.clone(),
        None if extract::is_32_bit(&bytes) => initramfs::standard(Arch::I386)?,
        None => initramfs::standard(Arch::Amd64)?,
    };
    let kernel = if options.bzimage || extract::format(&bytes) != Format::BzImage {
        kernel
    } else if !has_pvh(&options.machine) {
        eprintln!("{} takes no vmlinux: booting the bzImage", options.machine);
        kernel
    } else {
        vmlinux_inside(kernel)?
    };
    Ok(Files {
        firmware,
        kernel,
        initrd,
    })
}

/// Tells of a kernel that QEMU will refuse; one of no known kind is an error, since
/// what QEMU says of such a file leads nobody to the cause.
fn may_boot(kernel: &Path, dry_run: bool) -> Result<()> {
    let bytes = fs::read(kernel).with_context(|| format!("reading {}", kernel.display()))?;
    if let Some(doubt) = extract::doubt(&bytes) {
        let doubt = format!("{} {doubt}", kernel.display());
        ensure!(
            dry_run || extract::format(&bytes) != Format::Unknown,
            "{doubt}"
        );
        eprintln!("{doubt}");
    }
    Ok(())
}

/// The accelerator that was named, or the best that works here.
fn accelerator(options: &Options) -> Accel {
    let found = Accel::detect();
    if options.accel == "auto" {
        return found;
    }
    if options.accel.starts_with("kvm") && found.name != "kvm" {
        eprintln!("KVM was asked for, and will hardly do: {}", found.reason);
    }
    Accel {
        name: options.accel.clone(),
        reason: "as asked for".to_owned(),
        fix: None,
    }
}

fn plan(options: &Options) -> Result<Plan> {
    let shell = match options.mode {
        Mode::Shell => true,
        Mode::Report => false,
        Mode::Auto => io::stdin().is_terminal() && io::stdout().is_terminal(),
    };
    let files = files(options)?;
    let accel = accelerator(options);
    let mut arguments: Vec<String> = Vec::new();
    let mut add = |option: &str, value: &str| {
        arguments.push(option.to_owned());
        arguments.push(value.to_owned());
    };
    add("-machine", &options.machine);
    add("-accel", &accel.name);
    if accel.name.starts_with("kvm") {
        add("-cpu", "host");
    }
    add("-m", &options.memory);
    add("-smp", &options.cpus);
    add("-display", "none");
    add("-bios", &files.firmware.to_string_lossy());
    add("-kernel", &files.kernel.to_string_lossy());
    add("-initrd", &files.initrd.to_string_lossy());
    add("-append", &parameters(options, &accel, shell));
    if let Some(value) = options.log.value() {
        add("-fw_cfg", &format!("name=opt/org.qboot/log,string={value}"));
    }
    if shell {
        let log = serial_log();
        // A mux shares the terminal between console and monitor (Ctrl-A C), and
        // the log tells afterwards whether user space was reached.
        let chardev = format!(
            "stdio,id=console,mux=on,signal=off,logfile={}",
            // QEMU's way to write a comma in a value.
            log.display().to_string().replace(',', ",,")
        );
        add("-chardev", &chardev);
        add("-serial", "chardev:console");
        add("-mon", "chardev=console,mode=readline");
    } else {
        add("-serial", "stdio");
        add("-monitor", "none");
        arguments.push("-no-reboot".to_owned());
    }
    let mut devices = options.qemu_options.iter();
    if !devices.any(|option| option.contains("isa-debug-exit")) {
        arguments.push("-device".to_owned());
        arguments.push(DEBUG_EXIT.to_owned());
    }
    arguments.push("-nodefaults".to_owned());
    arguments.push("-no-user-config".to_owned());
    arguments.extend(options.qemu_options.iter().cloned());
    Ok(Plan {
        accel,
        arguments,
        program: options.qemu.clone(),
        shell,
    })
}

/// Ends QEMU when the firmware gives up, so that nobody waits for a timeout.
const DEBUG_EXIT: &str = "isa-debug-exit,iobase=0xf4,iosize=1";

/// QEMU takes images of whole units only.
const ROM_UNIT: u64 = 64 * 1024;

fn readable(path: &Path) -> Result<()> {
    let metadata = workspace::open_named(path)?.metadata()?;
    ensure!(!metadata.is_dir(), "is a directory");
    ensure!(!metadata.is_file() || metadata.len() != 0, "is empty");
    Ok(())
}

/// The vmlinux inside the bzImage `kernel`, or `kernel` itself when it has no
/// PVH entry point.
fn vmlinux_inside(kernel: PathBuf) -> Result<PathBuf> {
    if let Some(vmlinux) = extract::cached(&kernel)?.path {
        return Ok(vmlinux);
    }
    eprintln!(
        "{} has no PVH entry point (built without CONFIG_PVH): booting it as bzImage",
        kernel.display()
    );
    Ok(kernel)
}

/// Whether QEMU boots a vmlinux on `machine`: of its versioned types, such as
/// pc-q35-3.1, those from 4.0 on.
fn has_pvh(machine: &str) -> bool {
    let name = machine.trim_start_matches("type=").split(',').next();
    let version = name.and_then(|name| name.rsplit('-').next());
    let major = version.and_then(|version| version.split_once('.'));
    let major = major.and_then(|(major, _)| major.parse().ok());
    major.is_none_or(|major: u32| major >= 4)
}

fn parameters(options: &Options, accel: &Accel, shell: bool) -> String {
    let mut words = vec!["console=ttyS0".to_owned()];
    let time = match accel.name.starts_with("tcg") {
        true => Time::Host,
        false => Time::Processor,
    };
    words.extend(linux::parameters(&options.machine, time, true));
    if !shell {
        // Restart at once after a panic, which ends QEMU under -no-reboot.
        words.push("panic=-1".to_owned());
    }
    if options.initrd.is_none() {
        words.push("quiet".to_owned());
        if shell {
            words.push("qboot.do=shell".to_owned());
            // A terminal that does not know its size says 0.
            if let Ok(size) = rustix::termios::tcgetwinsize(io::stdout())
                && size.ws_row != 0
                && size.ws_col != 0
            {
                words.push(format!("qboot.size={}x{}", size.ws_row, size.ws_col));
            }
            if let Ok(term) = std::env::var("TERM") {
                // Unknown to the kernel, so it becomes init's environment.
                words.push(format!("TERM={term}"));
            }
        } else {
            words.push("qboot.do=report".to_owned());
        }
    }
    words.extend(options.append.clone());
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_of_old_versions_take_no_vmlinux() {
        for machine in ["pc-q35-3.1", "pc-i440fx-2.8,usb=off", "type=pc-i440fx-2.12"] {
            assert!(!has_pvh(machine), "{machine}");
        }
        for machine in [
            "q35",
            "microvm,acpi=off",
            "pc-q35-4.0",
            "pc-q35-10.0",
            "pc-i440fx-7.2",
        ] {
            assert!(has_pvh(machine), "{machine}");
        }
    }
}
