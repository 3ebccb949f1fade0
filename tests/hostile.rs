//! Bad input under real QEMU, case by case: each boot ends in a kernel that is
//! entered, or in one line with an error's code. A hang or a silent end fails.
//!
//! The cases are data: what is started, and how it has to end.

use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use qboot::error::Error;
use qboot_tests::machines::*;
use qboot_tests::{Kind, LENGTH, PROBE_TIMEOUT, Probe, ROOM, error_line, noise};
use xtask::probe::{self, BzImage, EXIT_STATUS, Elf, Mode, RECORD_LEN, REPORT_PORT, Record, hdr};
use xtask::qemu::{Qemu, Vm};

#[path = "hostile/images.rs"]
mod images;
#[path = "hostile/items.rs"]
mod items;
#[path = "hostile/moments.rs"]
mod moments;
#[path = "hostile/pci.rs"]
mod pci;
#[path = "hostile/room.rs"]
mod room;

/// How a case has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// In the kernel.
    Entered,
    /// In this error.
    Fails(Error),
    /// In the kernel or in any error.
    Either,
}

/// One boot.
struct Case {
    name: String,
    qemu: Qemu,
    end: End,
    /// Keeps the files.
    files: Probe,
}

/// `image` with these four bytes at `at`.
fn with_word(image: &[u8], at: usize, word: u32) -> Vec<u8> {
    let mut image = image.to_vec();
    image[at..at + 4].copy_from_slice(&word.to_le_bytes());
    image
}

/// Flips a bit of `image` in `range`; which byte and bit, and the image.
fn with_flipped_bit(image: &[u8], range: Range<usize>, rng: &mut Rng) -> (usize, u8, Vec<u8>) {
    let (at, bit) = (rng.usize(range), rng.u8(..8));
    let mut image = image.to_vec();
    image[at] ^= 1 << bit;
    (at, bit, image)
}

/// How a boot has ended.
#[derive(Debug)]
enum Outcome {
    Entered,
    Failed { code: u8, line: String },
}

/// A machine of 64 MiB with this image, whose probe ends QEMU.
fn case(name: impl Into<String>, machine: Machine, image: &[u8], end: End) -> Result<Case> {
    let probe = Probe::from_bytes(Kind::BzImage, image)?;
    let qemu = machine.qemu()?.kernel(probe.path()).memory_mib(64);
    Ok(Case {
        name: format!("{machine}: {}", name.into()),
        qemu: probe::ports(qemu).debug_exit(),
        end,
        files: probe,
    })
}

impl Case {
    fn with(mut self, change: impl FnOnce(Qemu) -> Qemu) -> Self {
        self.qemu = change(self.qemu);
        self
    }

    /// Gives the machine a file; `option` makes an argument of its path.
    fn with_file(
        mut self,
        name: &str,
        bytes: &[u8],
        option: impl FnOnce(&str) -> [String; 2],
    ) -> Result<Self> {
        let path = self.files.file(name, bytes)?;
        self.qemu = self.qemu.args(option(&path.display().to_string()));
        Ok(self)
    }

    /// `-fw_cfg name=NAME,file=…`.
    fn with_item(mut self, name: &str, bytes: &[u8]) -> Result<Self> {
        let path = self.files.file(&name.replace('/', "-"), bytes)?;
        self.qemu = self.qemu.fw_cfg_file(name, &path);
        Ok(self)
    }

    fn with_initrd(mut self, bytes: &[u8]) -> Result<Self> {
        let path = self.files.file("initrd", bytes)?;
        self.qemu = self.qemu.initrd(path);
        Ok(self)
    }

    fn run(&self) -> Result<Outcome> {
        let mut vm = self.qemu.spawn()?;
        let status = vm.wait_exit(PROBE_TIMEOUT)?;
        outcome(&vm, status.code()).with_context(|| vm.report())
    }

    fn check(&self) -> Result<()> {
        let outcome = self.run()?;
        match (self.end, &outcome) {
            (End::Either, _) | (End::Entered, Outcome::Entered) => Ok(()),
            (End::Fails(error), Outcome::Failed { code, .. }) if error.code() == *code => Ok(()),
            (end, outcome) => bail!("expected {end:?}, but {outcome:?}"),
        }
    }
}

/// What a QEMU that has ended tells: nothing but a probe's report, or one line
/// of an error whose code is QEMU's status.
fn outcome(vm: &Vm, status: Option<i32>) -> Result<Outcome> {
    let (serial, report) = (vm.serial(), vm.debugcon(REPORT_PORT));
    // PCI devices that get no place are warned of, and the boot goes on.
    let lines = serial.split_inclusive('\n');
    let rest = lines.filter(|line| !line.starts_with("qboot: warning "));
    let serial: String = rest.collect();
    if serial.is_empty() {
        ensure!(
            status == Some(EXIT_STATUS) && report.len() == RECORD_LEN,
            "ended silently with {status:?} and {} bytes of a record",
            report.len()
        );
        Record::parse(&report)?;
        return Ok(Outcome::Entered);
    }
    ensure!(report.is_empty(), "a message, and yet a kernel was entered");
    let (code, line) = error_line(&serial, status)?;
    // Those are defects of the firmware's own.
    ensure!(code < Error::NotOurMemory.code(), "{line}");
    Ok(Outcome::Failed { code, line })
}

/// The cases of a test. Those that are not about one machine take turns on all.
#[derive(Default)]
struct Cases(Vec<Case>);

impl Cases {
    /// The machine whose turn it is.
    fn turn(&self) -> Machine {
        ALL[self.0.len() % ALL.len()]
    }

    fn push(&mut self, case: Case) {
        self.0.push(case);
    }

    fn add(&mut self, name: impl Into<String>, image: &[u8], end: End) -> Result<()> {
        self.push(case(name, self.turn(), image, end)?);
        Ok(())
    }

    /// Runs all, and says which ended in another way than they have to.
    fn run(&self) -> Result<()> {
        let mut wrong = Vec::new();
        for case in &self.0 {
            if let Err(error) = case.check() {
                println!("{}: {error:#}", case.name);
                wrong.push(case.name.as_str());
            }
        }
        let count = self.0.len();
        println!("{count} cases");
        ensure!(
            wrong.is_empty(),
            "{} of {count} cases, see above: {}",
            wrong.len(),
            wrong.join("; ")
        );
        Ok(())
    }
}
