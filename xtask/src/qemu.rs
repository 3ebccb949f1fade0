//! Starts a QEMU, watches it, and asks it over QMP. Dropping it ends QEMU.
//!
//! ```no_run
//! use std::time::Duration;
//! use xtask::qemu::{Accel, Qemu};
//!
//! let mut vm = Qemu::new("q35").bios("target/qboot.rom").kernel("bzImage")
//!     .append("console=ttyS0").memory_mib(256).accel(Accel::Tcg).spawn()?;
//! vm.wait_serial("Linux version", Duration::from_secs(20))?;
//! # anyhow::Ok(())
//! ```

pub mod debian;
mod vm;

pub use vm::Vm;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// How the guest's instructions are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// QEMU's translator.
    Tcg,
    /// The translator with all processors on one thread of the host, which keeps them
    /// in step if the host has fewer processors.
    TcgSingle,
    /// The translator with virtual time counted in instructions: one instruction
    /// is 2^shift nanoseconds. With shift 0 the time stamp counter is the number
    /// of instructions since reset.
    Icount {
        /// Binary logarithm of the nanoseconds an instruction takes.
        shift: u8,
    },
    /// The kernel's virtual machine, which needs a readable `/dev/kvm`.
    Kvm,
}

/// The QEMU binary: `QBOOT_QEMU`, or the one on the path.
#[must_use]
pub fn binary() -> OsString {
    std::env::var_os("QBOOT_QEMU").unwrap_or_else(|| "qemu-system-x86_64".into())
}

/// First line that `program --version` prints.
///
/// # Errors
/// The program cannot be started.
pub fn version(program: &OsStr) -> Result<String> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .with_context(missing_qemu)?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Why KVM cannot be used here; `None` if `/dev/kvm` opens.
#[must_use]
pub fn kvm_missing() -> Option<String> {
    match fs::File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => None,
        Err(error) => Some(format!("/dev/kvm does not open: {error}")),
    }
}

/// The first two numbers of what `program --version` says, `7.2`: others give other
/// tables.
///
/// # Errors
/// It does not start, or names no version.
pub fn numbers(program: &OsStr) -> Result<String> {
    let text = version(program)?;
    let mut words = text.split_whitespace();
    let number = words.find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    let number = number.with_context(|| format!("no version in {text:?}"))?;
    Ok(number.split('.').take(2).collect::<Vec<_>>().join("."))
}

fn missing_qemu() -> String {
    format!(
        "{} does not start: install qemu-system-x86, or name a binary in QBOOT_QEMU",
        binary().to_string_lossy()
    )
}

/// What to start. Every method returns the builder; [`Qemu::spawn`] starts it.
#[derive(Clone, Debug)]
pub struct Qemu {
    program: OsString,
    machine: String,
    bios: Option<PathBuf>,
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
    append: Option<String>,
    memory_mib: u64,
    smp: String,
    accel: Accel,
    default_devices: bool,
    /// The backend of COM1, if it is not a file of the run.
    serial: Option<String>,
    qmp: bool,
    reboot: bool,
    debugcons: Vec<u16>,
    trace: Vec<String>,
    extra: Vec<OsString>,
}

impl Qemu {
    /// A machine of this type and these options (`-M`), with no default devices,
    /// 512 MiB of RAM and one processor under TCG.
    #[must_use]
    pub fn new(machine: &str) -> Self {
        Self {
            program: binary(),
            machine: machine.to_owned(),
            bios: None,
            kernel: None,
            initrd: None,
            append: None,
            memory_mib: 512,
            smp: "1".to_owned(),
            accel: Accel::Tcg,
            default_devices: false,
            serial: None,
            qmp: false,
            reboot: false,
            debugcons: Vec::new(),
            trace: Vec::new(),
            extra: Vec::new(),
        }
    }

    /// Another program than [`binary`].
    #[must_use]
    pub fn program(mut self, path: impl Into<OsString>) -> Self {
        self.program = path.into();
        self
    }

    /// Firmware image (`-bios`).
    #[must_use]
    pub fn bios(mut self, path: impl AsRef<Path>) -> Self {
        self.bios = Some(path.as_ref().to_owned());
        self
    }

    /// Kernel image (`-kernel`).
    #[must_use]
    pub fn kernel(mut self, path: impl AsRef<Path>) -> Self {
        self.kernel = Some(path.as_ref().to_owned());
        self
    }

    /// Initial RAM disk, or a multiboot module list (`-initrd`).
    #[must_use]
    pub fn initrd(mut self, path: impl AsRef<Path>) -> Self {
        self.initrd = Some(path.as_ref().to_owned());
        self
    }

    /// Kernel command line (`-append`).
    #[must_use]
    pub fn append(mut self, line: &str) -> Self {
        self.append = Some(line.to_owned());
        self
    }

    /// RAM in MiB (`-m`).
    #[must_use]
    pub fn memory_mib(mut self, mib: u64) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Processors, as `-smp` takes them.
    #[must_use]
    pub fn smp(mut self, topology: impl ToString) -> Self {
        self.smp = topology.to_string();
        self
    }

    /// How instructions are executed.
    #[must_use]
    pub fn accel(mut self, accel: Accel) -> Self {
        self.accel = accel;
        self
    }

    /// Keeps the machine's default devices (VGA, IDE, floppy, network).
    #[must_use]
    pub fn default_devices(mut self) -> Self {
        self.default_devices = true;
        self
    }

    /// Connects COM1 to this backend of `-serial`; `none` leaves it out.
    #[must_use]
    pub fn serial(mut self, backend: &str) -> Self {
        self.serial = Some(backend.to_owned());
        self
    }

    /// Opens a QMP socket, which [`Vm::memory`], [`Vm::reset`] and others need.
    #[must_use]
    pub fn qmp(mut self) -> Self {
        self.qmp = true;
        self
    }

    /// Lets the guest reboot. Without this a reset that the guest asks for ends QEMU.
    #[must_use]
    pub fn reboot(mut self) -> Self {
        self.reboot = true;
        self
    }

    /// A debug console at this port, read back with [`Vm::debugcon`].
    #[must_use]
    pub fn debugcon(mut self, iobase: u16) -> Self {
        self.debugcons.push(iobase);
        self
    }

    /// Trace events (a name or a pattern), read back with [`Vm::trace_path`].
    #[must_use]
    pub fn trace(mut self, pattern: &str) -> Self {
        self.trace.push(pattern.to_owned());
        self
    }

    /// One further argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.extra.push(arg.into());
        self
    }

    /// Further arguments.
    #[must_use]
    pub fn args<I>(mut self, args: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        self.extra.extend(args.into_iter().map(Into::into));
        self
    }

    /// `-device` for each.
    #[must_use]
    pub fn devices<S: AsRef<str>>(self, devices: impl IntoIterator<Item = S>) -> Self {
        let each = devices.into_iter();
        each.fold(self, |qemu, device| qemu.args(["-device", device.as_ref()]))
    }

    /// Puts a file into the guest's memory at each reset.
    #[must_use]
    pub fn loader(self, file: &Path, addr: u32) -> Self {
        let file = file.display();
        self.devices([format!("loader,file={file},addr={addr:#x},force-raw=on")])
    }

    /// `-fw_cfg name=NAME,string=VALUE`.
    #[must_use]
    pub fn fw_cfg(self, name: &str, value: &str) -> Self {
        self.args(["-fw_cfg", &format!("name={name},string={value}")])
    }

    /// `-fw_cfg name=NAME,file=PATH`.
    #[must_use]
    pub fn fw_cfg_file(self, name: &str, path: &Path) -> Self {
        self.args(["-fw_cfg", &format!("name={name},file={}", path.display())])
    }

    /// One of the firmware's options.
    #[must_use]
    pub fn option(self, name: &str, value: &str) -> Self {
        self.fw_cfg(&format!("opt/org.qboot/{name}"), value)
    }

    /// Several of them.
    #[must_use]
    pub fn options(self, options: &[(&str, &str)]) -> Self {
        let each = options.iter();
        each.fold(self, |qemu, (name, value)| qemu.option(name, value))
    }

    /// Lets the firmware end QEMU with its error code.
    #[must_use]
    pub fn debug_exit(self) -> Self {
        self.devices(["isa-debug-exit,iobase=0xf4,iosize=1"])
    }

    /// The arguments, with QEMU's files in `dir`.
    fn arguments(&self, dir: &Path) -> Vec<OsString> {
        let mut args = Vec::<OsString>::new();
        let mut put = |list: &[&str]| args.extend(list.iter().map(OsString::from));
        put(&["-M", &self.machine, "-m", &format!("{}M", self.memory_mib)]);
        put(&["-smp", &self.smp, "-display", "none", "-monitor", "none"]);
        match self.accel {
            Accel::Tcg => put(&["-accel", "tcg"]),
            Accel::TcgSingle => put(&["-accel", "tcg,thread=single"]),
            Accel::Icount { shift } => put(&[
                "-accel",
                "tcg",
                "-icount",
                &format!("shift={shift},sleep=off"),
            ]),
            Accel::Kvm => put(&["-accel", "kvm"]),
        }
        if !self.default_devices {
            put(&["-nodefaults"]);
        }
        if !self.reboot {
            put(&["-no-reboot"]);
        }
        let serial = format!("file:{}", dir.join("serial").display());
        put(&["-serial", self.serial.as_ref().unwrap_or(&serial)]);
        if self.qmp {
            let socket = dir.join("qmp");
            put(&[
                "-qmp",
                &format!("unix:{},server=on,wait=off", socket.display()),
            ]);
        }
        for iobase in &self.debugcons {
            let file = debugcon_path(dir, *iobase);
            put(&[
                "-chardev",
                &format!("file,id=debug{iobase:x},path={}", file.display()),
            ]);
            put(&[
                "-device",
                &format!("isa-debugcon,iobase={iobase:#x},chardev=debug{iobase:x}"),
            ]);
        }
        for pattern in &self.trace {
            put(&["-trace", pattern]);
        }
        if !self.trace.is_empty() {
            put(&["-D", &dir.join("trace").display().to_string()]);
        }
        args.extend(self.boot_arguments());
        args.extend(self.extra.iter().cloned());
        args
    }

    /// The arguments for firmware, kernel, initrd and command line.
    fn boot_arguments(&self) -> Vec<OsString> {
        let mut args = Vec::new();
        for (option, file) in [
            ("-bios", &self.bios),
            ("-kernel", &self.kernel),
            ("-initrd", &self.initrd),
        ] {
            if let Some(file) = file {
                args.extend([option.into(), file.clone().into_os_string()]);
            }
        }
        if let Some(line) = &self.append {
            args.extend(["-append".into(), line.into()]);
        }
        args
    }

    /// Starts QEMU.
    ///
    /// # Errors
    /// QEMU cannot be started, or its QMP socket does not open.
    pub fn spawn(&self) -> Result<Vm> {
        let dir = tempfile::Builder::new().prefix("qboot-vm-").tempdir()?;
        let args = self.arguments(dir.path());
        let stderr = fs::File::create(dir.path().join("stderr"))?;
        let child = Command::new(&self.program)
            .args(&args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .with_context(missing_qemu)?;
        let mut vm = Vm {
            child,
            dir,
            qmp: None,
            program: self.program.clone(),
            args,
        };
        if self.qmp {
            vm.connect()?;
        }
        Ok(vm)
    }
}

fn debugcon_path(dir: &Path, iobase: u16) -> PathBuf {
    dir.join(format!("debugcon-{iobase:x}"))
}
