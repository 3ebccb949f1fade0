//! One QEMU: started, watched, asked over QMP, and gone when dropped.
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

use std::ffi::OsString;
use std::fs;
use std::io::BufReader;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use qapi::{Qmp, Stream, qmp};
use tempfile::TempDir;

/// How the guest's instructions are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// QEMU's translator.
    Tcg,
    /// The translator with all processors on one thread of the host, which keeps
    /// them in step where the host has fewer than the guest.
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

/// First line that `qemu --version` prints.
///
/// # Errors
/// QEMU cannot be started.
pub fn version() -> Result<String> {
    let output = Command::new(binary())
        .arg("--version")
        .output()
        .with_context(missing_qemu)?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Why KVM cannot be used here, or `None` when `/dev/kvm` opens.
#[must_use]
pub fn kvm_missing() -> Option<String> {
    match fs::File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => None,
        Err(error) => Some(format!("/dev/kvm does not open: {error}")),
    }
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
    serial: bool,
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
            serial: true,
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

    /// Leaves the machine without a serial port.
    #[must_use]
    pub fn no_serial(mut self) -> Self {
        self.serial = false;
        self
    }

    /// Opens a QMP socket, which [`Vm::memory`], [`Vm::reset`] and
    /// [`Vm::power_button`] need.
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

    /// The arguments, with every file of QEMU's own in `dir`.
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
        put(&["-serial", if self.serial { &serial } else { "none" }]);
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
        args.extend(self.extra.iter().cloned());
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

type QmpStream = Stream<BufReader<UnixStream>, UnixStream>;

/// A running QEMU and the files that it writes. Dropping it kills QEMU.
pub struct Vm {
    child: Child,
    dir: TempDir,
    qmp: Option<Qmp<QmpStream>>,
    program: OsString,
    args: Vec<OsString>,
}

/// How often a file or the process is looked at.
const POLL: Duration = Duration::from_millis(5);

impl Vm {
    fn connect(&mut self) -> Result<()> {
        let socket = self.dir.path().join("qmp");
        let deadline = Instant::now() + Duration::from_secs(20);
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) => {
                    if let Some(status) = self.child.try_wait()? {
                        bail!("QEMU ended with {status} at start\n{}", self.report());
                    }
                    if Instant::now() > deadline {
                        bail!("no QMP socket: {error}\n{}", self.report());
                    }
                }
            }
            thread::sleep(POLL);
        };
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let reader = BufReader::new(stream.try_clone()?);
        let mut qmp = Qmp::new(Stream::new(reader, stream));
        qmp.handshake().context("QMP handshake")?;
        self.qmp = Some(qmp);
        Ok(())
    }

    fn execute<C: qmp::QmpCommand>(&mut self, command: &C) -> Result<C::Ok> {
        let qmp = self.qmp.as_mut().context("QEMU was started without QMP")?;
        Ok(qmp.execute(command)?)
    }

    /// Process id of QEMU.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The directory of QEMU's files, gone with the machine.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What the guest wrote to its first serial port.
    #[must_use]
    pub fn serial(&self) -> String {
        self.text("serial")
    }

    /// What QEMU itself had to say.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.text("stderr")
    }

    fn text(&self, name: &str) -> String {
        let bytes = fs::read(self.dir.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What the guest wrote to the debug console at this port.
    #[must_use]
    pub fn debugcon(&self, iobase: u16) -> Vec<u8> {
        fs::read(debugcon_path(self.dir.path(), iobase)).unwrap_or_default()
    }

    /// The file of trace events.
    #[must_use]
    pub fn trace_path(&self) -> PathBuf {
        self.dir.path().join("trace")
    }

    /// The command line that started this machine.
    #[must_use]
    pub fn command_line(&self) -> String {
        let mut line = self.program.to_string_lossy().into_owned();
        for arg in &self.args {
            let arg = arg.to_string_lossy();
            let plain = arg
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_=,./:+".contains(c));
            line.push(' ');
            if plain && !arg.is_empty() {
                line.push_str(&arg);
            } else {
                line.push_str(&format!("'{arg}'"));
            }
        }
        line
    }

    /// The command line, and the end of what QEMU and the guest said: the body of every error.
    #[must_use]
    pub fn report(&self) -> String {
        // A hundred devices would hide what follows.
        let mut line = self.command_line();
        if let Some((at, _)) = line.char_indices().nth(2000) {
            line.truncate(at);
            line.push_str(" ...");
        }
        let mut text = format!("  command: {line}");
        for (name, content) in [("QEMU", self.stderr()), ("serial", self.serial())] {
            let lines: Vec<&str> = content.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(25)..).unwrap_or(&[]);
            text.push_str(&format!("\n  {name}, last of {} lines:", lines.len()));
            for line in tail {
                text.push_str("\n    ");
                text.push_str(line.trim_end());
            }
        }
        text
    }

    /// Whether QEMU has ended.
    ///
    /// # Errors
    /// The process cannot be waited for.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for QEMU to end.
    ///
    /// # Errors
    /// It has not within `timeout`; the error carries [`Vm::report`].
    pub fn wait_exit(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("QEMU still runs after {timeout:?}\n{}", self.report());
            }
            thread::sleep(POLL);
        }
    }

    /// Waits until `done` holds.
    ///
    /// # Errors
    /// QEMU ended, or `timeout` went by, before it did; the error names `what`
    /// and carries [`Vm::report`].
    pub fn wait_for(
        &mut self,
        what: &str,
        timeout: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            // The state of the process is read first, so that what it wrote
            // before its end is still seen.
            let ended = self.child.try_wait()?;
            if done(self) {
                return Ok(());
            }
            if let Some(status) = ended {
                bail!("QEMU ended with {status} before {what}\n{}", self.report());
            }
            if Instant::now() > deadline {
                bail!("no {what} within {timeout:?}\n{}", self.report());
            }
            thread::sleep(POLL);
        }
    }

    /// Waits until the serial output contains `marker`.
    ///
    /// # Errors
    /// See [`Vm::wait_for`].
    pub fn wait_serial(&mut self, marker: &str, timeout: Duration) -> Result<()> {
        self.wait_for(&format!("{marker:?} on the serial port"), timeout, |vm| {
            vm.serial().contains(marker)
        })
    }

    /// Waits until the debug console at `iobase` has given `len` bytes.
    ///
    /// # Errors
    /// See [`Vm::wait_for`].
    pub fn wait_debugcon(&mut self, iobase: u16, len: usize, timeout: Duration) -> Result<Vec<u8>> {
        let what = format!("{len} bytes on the debug console at {iobase:#x}");
        self.wait_for(&what, timeout, |vm| vm.debugcon(iobase).len() >= len)?;
        Ok(self.debugcon(iobase))
    }

    /// Guest-physical memory, read over QMP.
    ///
    /// # Errors
    /// QEMU was started without QMP, or it refuses.
    pub fn memory(&mut self, addr: u64, len: usize) -> Result<Vec<u8>> {
        let path = self.dir.path().join("memory");
        self.execute(&qmp::pmemsave {
            val: addr,
            size: u64::try_from(len)?,
            filename: path.display().to_string(),
        })
        .with_context(|| format!("pmemsave of {len} bytes at {addr:#x}"))?;
        let bytes = fs::read(&path)?;
        if bytes.len() != len {
            bail!("pmemsave gave {} of {len} bytes at {addr:#x}", bytes.len());
        }
        Ok(bytes)
    }

    /// Presses the reset button.
    ///
    /// # Errors
    /// QEMU was started without QMP, or it refuses.
    pub fn reset(&mut self) -> Result<()> {
        self.execute(&qmp::system_reset {})?;
        Ok(())
    }

    /// Presses the power button.
    ///
    /// # Errors
    /// QEMU was started without QMP, or it refuses.
    pub fn power_button(&mut self) -> Result<()> {
        self.execute(&qmp::system_powerdown {})?;
        Ok(())
    }

    /// Whether the machine runs, has shut down or panicked, in QEMU's words
    /// (`running`, `shutdown`, `guest-panicked`, …).
    ///
    /// # Errors
    /// QEMU was started without QMP, or it refuses.
    pub fn state(&mut self) -> Result<String> {
        Ok(format!("{:?}", self.execute(&qmp::query_status {})?.status))
    }

    /// One command of QEMU's human monitor, for what QMP has no command for.
    ///
    /// # Errors
    /// QEMU was started without QMP, or it refuses.
    pub fn monitor(&mut self, command: &str) -> Result<String> {
        self.execute(&qmp::human_monitor_command {
            command_line: command.to_owned(),
            cpu_index: None,
        })
    }

    /// Ends QEMU.
    ///
    /// # Errors
    /// It does not end.
    pub fn quit(mut self) -> Result<()> {
        if self.qmp.is_some() {
            // QEMU may close the socket before its answer is read.
            let _ = self.execute(&qmp::quit {});
            self.wait_exit(Duration::from_secs(10))?;
        }
        Ok(())
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
