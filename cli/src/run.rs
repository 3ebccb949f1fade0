//! Booting a kernel under QEMU with this firmware.

mod accel;
mod guest;

pub use accel::Accel;
pub use guest::qemu_package;

use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use clap::builder::PossibleValue;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::examples::RUN_EXAMPLES;
use crate::extract::Format;
use crate::initramfs::Arch;
use crate::linux::{self, Time};
use crate::output::say;
use crate::process::quoted;
use crate::uki::Pe;
use crate::{build, extract, initramfs, kernel, workspace};
use guest::{report, serial_log, shell};

/// The command line of `run`.
#[must_use]
#[expect(clippy::too_many_lines, reason = "a list")]
pub fn command() -> Command {
    let option = |name, value| Arg::new(name).long(name).value_name(value);
    let file = |name| option(name, "FILE").value_parser(value_parser!(PathBuf));
    let choice = |name: &'static str, help: &'static str| PossibleValue::new(name).help(help);
    Command::new("run")
        .about("Boot a kernel under QEMU with the firmware")
        .long_about(
            "Boot a kernel under QEMU with the firmware\n\n\
             On a terminal the guest gives an interactive shell. Without one it prints a short \
             report and powers off; the exit status is 0 when user space was reached and the guest \
             ended by itself.",
        )
        .after_help(RUN_EXAMPLES)
        .args([
            option("machine", "MACHINE")
                .short('M')
                .default_value("q35")
                .help("QEMU machine with its options, such as microvm,pcie=on"),
            file("kernel")
                .short('k')
                .help(
                    "Kernel: a bzImage, an ELF vmlinux or a unified kernel image [default: \
                     Debian's cloud kernel]",
                ),
            file("initrd")
                .short('i')
                .help("Initial RAM file system [default: busybox and a report]"),
            option("append", "PARAMETERS")
                .short('a')
                .allow_hyphen_values(true)
                .help("Kernel parameters, added to those that the boot needs"),
            option("memory", "SIZE")
                .short('m')
                .default_value("512M")
                .help("RAM as QEMU takes it, such as 512M or 4G"),
            option("cpus", "N")
                .short('c')
                .default_value("1")
                .help("Number of CPUs, or a topology as QEMU's -smp takes it"),
            option("accel", "NAME")
                .default_value("auto")
                .help("Accelerator: auto, kvm or tcg (auto takes KVM where it is usable)"),
            file("firmware").short('f').help(
                "ROM to boot with [default: the one installed, or built from this source tree]",
            ),
            Arg::new("bzimage")
                .long("bzimage")
                .action(ArgAction::SetTrue)
                .help("Boot the bzImage itself, not the vmlinux inside it"),
            Arg::new("fast")
                .long("fast")
                .action(ArgAction::SetTrue)
                .help(
                    "Boot without what few guests need: HPET, keyboard controller, AHCI, SMBus, early \
                     PCI quirks, kernel messages; under KVM with +invtsc, without migration",
                ),
            Arg::new("log")
                .long("log")
                .default_value("off")
                .value_parser([
                    choice("off", "Nothing, unless the boot fails"),
                    choice("steps", "A line for each step"),
                    choice(
                        "all",
                        "Also each file, table, range of memory and PCI function",
                    ),
                ])
                .help("What the firmware tells of its work, on the guest's console"),
            Arg::new("mode")
                .long("mode")
                .default_value("auto")
                .value_parser([
                    choice("auto", "A shell on a terminal, else a report"),
                    choice("shell", "A shell on the serial console"),
                    choice("report", "Print a report and power off"),
                ])
                .help("What the guest does once it is up"),
            option("timeout", "SECONDS")
                .default_value("120")
                .value_parser(value_parser!(u64))
                .help(
                    "Seconds until a guest that does not end by itself is given up (not on a terminal)",
                ),
            option("qemu", "PROGRAM")
                .default_value("qemu-system-x86_64")
                .value_parser(value_parser!(PathBuf))
                .help("QEMU to start"),
            Arg::new("dry-run")
                .long("dry-run")
                .action(ArgAction::SetTrue)
                .help("Only print QEMU's command line"),
            Arg::new("qemu-options")
                .value_name("QEMU OPTIONS")
                .num_args(0..)
                .last(true)
                .help("Everything after -- goes to QEMU"),
        ])
}

/// What to boot and how; [`command`] explains each.
#[derive(Clone, Debug)]
pub struct Options {
    machine: String,
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
    append: Option<String>,
    memory: String,
    cpus: String,
    accel: String,
    firmware: Option<PathBuf>,
    bzimage: bool,
    fast: bool,
    log: String,
    mode: String,
    timeout: u64,
    qemu: PathBuf,
    dry_run: bool,
    qemu_options: Vec<String>,
}

impl Options {
    /// The options of a parsed [`command`].
    #[must_use]
    pub fn of(found: &ArgMatches) -> Self {
        fn one<T: Clone + Send + Sync + 'static>(found: &ArgMatches, name: &str) -> Option<T> {
            found.get_one::<T>(name).cloned()
        }
        let text = |name| one::<String>(found, name).unwrap_or_default();
        let qemu_options = found.get_many("qemu-options").into_iter().flatten();
        Self {
            machine: text("machine"),
            kernel: one(found, "kernel"),
            initrd: one(found, "initrd"),
            append: one(found, "append"),
            memory: text("memory"),
            cpus: text("cpus"),
            accel: text("accel"),
            firmware: one(found, "firmware"),
            bzimage: found.get_flag("bzimage"),
            fast: found.get_flag("fast"),
            log: text("log"),
            mode: text("mode"),
            timeout: one(found, "timeout").unwrap_or_default(),
            qemu: one(found, "qemu").unwrap_or_default(),
            dry_run: found.get_flag("dry-run"),
            qemu_options: qemu_options.cloned().collect(),
        }
    }
}

/// Boots as `options` say. Returns whether user space was reached and QEMU ended by
/// itself without an error; if not, a line on standard error says why.
///
/// # Errors
/// Something that the boot needs is missing or cannot be made, or QEMU cannot be
/// started.
pub fn run(options: &Options) -> Result<bool> {
    if !options.dry_run {
        guest::find(&options.qemu)?;
    }
    warn_of_unknown(options);
    let plan = plan(options)?;
    if options.dry_run {
        say!("{}", plan.shown())?;
        return Ok(true);
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
    /// The command line, quoted for a shell.
    fn shown(&self) -> String {
        let mut line = self.program.display().to_string();
        for argument in &self.arguments {
            line.push(' ');
            line.push_str(&quoted(argument));
        }
        line
    }
}

/// The ROM of the source tree, or the one installed with this program.
///
/// # Errors
/// There is neither, or it does not build.
pub fn default_rom() -> Result<PathBuf> {
    if workspace::source().is_some() {
        return Ok(build::rom(&[])?.image);
    }
    workspace::installed_rom()
        .context("no ROM is installed (scripts/install.sh does that): name one with --firmware")
}

/// The kernel in the form that QEMU boots best, and what belongs to it.
struct KernelFiles {
    kernel: PathBuf,
    /// `None` if it comes with the kernel.
    initrd: Option<PathBuf>,
    /// The command line that comes with the kernel.
    command_line: Option<String>,
}

/// The firmware and the kernel: the files that were named, and those that are made.
fn firmware_and_kernel(options: &Options) -> Result<(PathBuf, KernelFiles)> {
    // Wrong names are reported before anything is built or fetched.
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
        may_boot(path, options)?;
    }
    if let Some(rom) = &options.firmware {
        let size = fs::metadata(rom)?.len();
        ensure!(
            size != 0 && size % ROM_UNIT == 0,
            "{} is no ROM: it has {size} bytes, no multiple of {ROM_UNIT}",
            rom.display()
        );
    }
    let (firmware, files) = thread::scope(|scope| {
        // In parallel: compiling leaves processors idle.
        let firmware = scope.spawn(|| match &options.firmware {
            Some(path) => Ok(path.clone()),
            None => default_rom(),
        });
        let files = kernel_files(options);
        let firmware = firmware.join().map_err(|_| anyhow!("building the ROM"));
        (firmware.flatten(), files)
    });
    Ok((firmware?, files?))
}

fn kernel_files(options: &Options) -> Result<KernelFiles> {
    let kernel = match &options.kernel {
        Some(path) => path.clone(),
        None => default_kernel(options)?,
    };
    let bytes = workspace::read(&kernel)?;
    let format = extract::format(&bytes);
    if format == Format::Unified {
        return Ok(KernelFiles {
            kernel,
            initrd: None,
            command_line: Pe::read(&bytes)?.map(|pe| pe.command_line()),
        });
    }
    let initrd = match &options.initrd {
        Some(path) => path.clone(),
        None if extract::is_32_bit(&bytes) => initramfs::standard(Arch::I386)?,
        None => initramfs::standard(Arch::Amd64)?,
    };
    let kernel = if options.bzimage || format != Format::BzImage {
        kernel
    } else if !has_pvh(&options.machine) {
        eprintln!("{} takes no vmlinux: booting the bzImage", options.machine);
        kernel
    } else {
        vmlinux_inside(kernel)?
    };
    Ok(KernelFiles {
        kernel,
        initrd: Some(initrd),
        command_line: None,
    })
}

/// Debian's kernel. What its initrd needs is fetched at the same time.
fn default_kernel(options: &Options) -> Result<PathBuf> {
    thread::scope(|scope| {
        let initrd = scope.spawn(|| match &options.initrd {
            Some(_) => Ok(()),
            None => initramfs::standard(Arch::Amd64).map(|_| ()),
        });
        let kernel = kernel::debian(kernel::Flavour::CloudAmd64)?;
        let initrd = initrd.join();
        initrd.map_err(|_| anyhow!("making the initrd"))??;
        Ok(kernel.bzimage)
    })
}

/// Warns of a kernel that QEMU will refuse. An unknown kind is an error, since QEMU's
/// own message does not name the cause.
fn may_boot(kernel: &Path, options: &Options) -> Result<()> {
    let bytes = workspace::read(kernel)?;
    let format = extract::format(&bytes);
    if let Some(doubt) = extract::doubt(&bytes) {
        let doubt = format!("{}: {doubt}", kernel.display());
        ensure!(options.dry_run || format != Format::Unknown, "{doubt}");
        eprintln!("{doubt}");
    }
    // QEMU says that the kernel is too old to load a ram disk or a device tree.
    let mut more = options.qemu_options.iter();
    let more = more.any(|option| option == "-initrd" || option == "-dtb");
    ensure!(
        format != Format::Unified || options.initrd.is_none() && !more,
        "{} is a unified kernel image, beside which QEMU refuses -initrd and -dtb; take its kernel \
         out with: {} extract {} vmlinux",
        kernel.display(),
        workspace::program_name(),
        kernel.display(),
    );
    Ok(())
}

/// Files under `opt/org.qboot/`, and parameters under `qboot.`, the latter with those
/// of our user space.
pub const OPTIONS: [&str; 4] = ["pci", "buses", "entry", "log"];
pub const PARAMETERS: [&str; 4] = ["pci", "do", "run", "size"];

/// Warns of options and parameters that neither the firmware nor our user space reads:
/// the firmware tells of them only in its log.
fn warn_of_unknown(options: &Options) {
    let check = |what: &str, prefix: &str, text: &str, known: [&str; 4]| {
        let is_name = |c: &char| c.is_ascii_graphic() && !",='\"".contains(*c);
        let name: String = text.chars().take_while(is_name).collect();
        if !known.contains(&name.as_str()) {
            let known = known.map(|name| format!("{prefix}{name}")).join(", ");
            eprintln!("the firmware knows no {what} {prefix}{name}, only {known}");
        }
    };
    let lines = options.qemu_options.iter().map(String::as_str);
    for line in lines.clone() {
        if let Some((_, file)) = line.split_once("opt/org.qboot/") {
            check("option", "opt/org.qboot/", file, OPTIONS);
        }
    }
    let lines = lines.chain(options.append.as_deref());
    for word in lines.flat_map(|line| line.split([' ', ','])) {
        if let Some(parameter) = word.strip_prefix("qboot.") {
            check("parameter", "qboot.", parameter, PARAMETERS);
        }
    }
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
    let shell = match options.mode.as_str() {
        "shell" => true,
        "report" => false,
        _ => io::stdin().is_terminal() && io::stdout().is_terminal(),
    };
    let (firmware, files) = firmware_and_kernel(options)?;
    let accel = accelerator(options);
    let mut arguments: Vec<String> = Vec::new();
    let mut add = |option: &str, value: &str| {
        arguments.push(option.to_owned());
        arguments.push(value.to_owned());
    };
    add("-machine", &machine(options));
    add("-accel", &accel.name);
    if accel.name.starts_with("kvm") {
        add("-cpu", if options.fast { "host,+invtsc" } else { "host" });
    }
    add("-m", &options.memory);
    add("-smp", &options.cpus);
    add("-display", "none");
    add("-bios", &firmware.to_string_lossy());
    add("-kernel", &files.kernel.to_string_lossy());
    if let Some(initrd) = &files.initrd {
        add("-initrd", &initrd.to_string_lossy());
    }
    add("-append", &parameters(options, &files, &accel, shell));
    if let Some(property) = without_suspend(&options.machine, &files.kernel)? {
        add("-global", property);
    }
    if options.log != "off" {
        let log = format!("name=opt/org.qboot/log,string={}", options.log);
        add("-fw_cfg", &log);
    }
    if shell {
        let log = serial_log();
        // A mux shares the terminal between console and monitor (Ctrl-A C). The log
        // shows afterwards whether user space was reached.
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
        arguments.extend(["-device", DEBUG_EXIT].map(str::to_owned));
    }
    arguments.extend(["-nodefaults", "-no-user-config"].map(str::to_owned));
    arguments.extend(options.qemu_options.iter().cloned());
    Ok(Plan {
        accel,
        arguments,
        program: options.qemu.clone(),
        shell,
    })
}

/// Ends QEMU when the firmware gives up.
const DEBUG_EXIT: &str = "isa-debug-exit,iobase=0xf4,iosize=1";

/// An image has to be a multiple of this for QEMU.
const ROM_UNIT: u64 = 64 * 1024;

fn readable(path: &Path) -> Result<()> {
    let metadata = workspace::open_named(path)?.metadata()?;
    ensure!(!metadata.is_dir(), "is a directory");
    ensure!(!metadata.is_file() || metadata.len() != 0, "is empty");
    Ok(())
}

/// The vmlinux inside the bzImage `kernel`, or `kernel` itself if it has no PVH entry
/// point.
fn vmlinux_inside(kernel: PathBuf) -> Result<PathBuf> {
    if let Some(vmlinux) = extract::cached(&kernel)? {
        return Ok(vmlinux);
    }
    eprintln!(
        "{} has no PVH entry point (built without CONFIG_PVH): booting it as bzImage",
        kernel.display()
    );
    Ok(kernel)
}

/// The option that disables suspend to RAM for a kernel that cannot wake up: QEMU loads
/// a PVH kernel again, and the guest is lost.
fn without_suspend(machine: &str, kernel: &Path) -> Result<Option<&'static str>> {
    let is_pvh = extract::is_pvh(&fs::read(kernel)?);
    Ok(suspend_property(machine).filter(|_| is_pvh))
}

/// The property that disables suspend to RAM on `machine`, if it has that.
fn suspend_property(machine: &str) -> Option<&'static str> {
    match name(machine) {
        name if name == "q35" || name.starts_with("pc-q35-") => Some("ICH9-LPC.disable_s3=1"),
        name if name == "pc" || name.starts_with("pc-i440fx-") => Some("PIIX4_PM.disable_s3=1"),
        _ => None,
    }
}

/// The name of `machine` without its options.
fn name(machine: &str) -> &str {
    let end = machine.find(',').unwrap_or(machine.len());
    machine[..end].trim_start_matches("type=")
}

/// The machine with the options that make its boot fast, unless the user sets them.
fn machine(options: &Options) -> String {
    let mut machine = options.machine.clone();
    let more: &[&str] = if name(&machine) == "microvm" {
        // Linux waits a second for a clock that is not there.
        &["rtc=on"]
    } else if options.fast && suspend_property(&machine).is_some() {
        // pc and q35.
        &["hpet=off", "i8042=off", "sata=off", "smbus=off"]
    } else {
        &[]
    };
    for option in more {
        let key = option.split_once('=').map_or(*option, |(key, _)| key);
        let is_set = |word: &str| word.split_once('=').is_some_and(|(set, _)| set == key);
        if !options.machine.split(',').any(is_set) {
            machine = format!("{machine},{option}");
        }
    }
    machine
}

/// Whether QEMU boots a vmlinux on `machine`: versioned types, such as pc-q35-3.1, do
/// from 4.0 on.
fn has_pvh(machine: &str) -> bool {
    let version = name(machine).rsplit('-').next();
    let major = version.and_then(|version| version.split_once('.'));
    let major = major.and_then(|(major, _)| major.parse().ok());
    major.is_none_or(|major: u32| major >= 4)
}

fn parameters(options: &Options, files: &KernelFiles, accel: &Accel, shell: bool) -> String {
    let mut words = vec!["console=ttyS0".to_owned()];
    let time = match accel.name.starts_with("tcg") {
        true => Time::Host,
        false => Time::Processor,
    };
    words.extend(linux::parameters(&options.machine, time, true));
    if !shell {
        // A panic restarts at once, which ends QEMU under -no-reboot.
        words.push("panic=-1".to_owned());
    }
    let is_ours = options.initrd.is_none() && files.command_line.is_none();
    if is_ours || options.fast {
        words.push("quiet".to_owned());
    }
    if options.fast {
        words.push("pci=noearly".to_owned());
    }
    if is_ours {
        if shell {
            words.push("qboot.do=shell".to_owned());
            // A terminal of unknown size says 0.
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
    // The user's parameters replace a unified kernel image's own, as with QEMU alone.
    let own = files.command_line.clone().filter(|own| !own.is_empty());
    words.extend(options.append.clone().or(own));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspend_is_a_property_of_pc_and_q35() {
        for (machine, chip) in [
            ("q35", Some("ICH9-LPC.")),
            ("pc-q35-7.2,smm=off", Some("ICH9-LPC.")),
            ("type=pc,usb=off", Some("PIIX4_PM.")),
            ("pc-i440fx-10.0", Some("PIIX4_PM.")),
            ("microvm", None),
            ("isapc", None),
        ] {
            let property = suspend_property(machine);
            assert_eq!(property.is_some(), chip.is_some(), "{machine}");
            let right = property
                .zip(chip)
                .is_none_or(|(is, chip)| is.starts_with(chip));
            assert!(right, "{machine}: {property:?}");
        }
    }

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
