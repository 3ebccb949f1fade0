//! Kernels other than Linux that need something made for them: GRUB's image is
//! put together, memdisk gets a disk, multiboot modules are compared byte for
//! byte. iPXE, memtest86+ and Xen are in `matrix.toml`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qboot_tests::{Kind, Probe, noise, rom};
use rstest::rstest;
use xtask::debian::{self, Package};
use xtask::probe::{Record, assemble};
use xtask::qemu::{Qemu, Vm};
use xtask::workspace;

/// Longest that a kernel may take, on a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A file of a Debian package, which is unpacked and not installed.
fn packaged(package: &str, path: &str) -> Result<PathBuf> {
    let file = debian::unpack(&Package::system(package))?.join(path);
    ensure!(file.exists(), "{package} holds no {path}");
    Ok(file)
}

fn machine(name: &str, kernel: &Path) -> Result<Qemu> {
    Ok(Qemu::new(name).bios(rom()?).kernel(kernel).memory_mib(128))
}

/// Serial output without the terminal's control sequences.
fn plain(serial: &str) -> String {
    let mut text = String::new();
    let mut bytes = serial.chars();
    while let Some(c) = bytes.next() {
        if c == '\x1b' {
            let _ = bytes.find(|c| c.is_ascii_alphabetic());
        } else {
            text.push(c);
        }
    }
    text
}

fn says(vm: &mut Vm, words: &str) -> Result<()> {
    vm.wait_for(&format!("{words:?}"), TIMEOUT, |vm| {
        plain(&vm.serial()).contains(words)
    })
}

/// GRUB behind the wrapper that makes it look like Linux, with a configuration
/// that takes its console to the serial port.
fn grub() -> Result<&'static Path> {
    static IMAGE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let image = IMAGE.get_or_init(|| make_grub().map_err(|error| format!("{error:#}")));
    match image {
        Ok(path) => Ok(path),
        Err(error) => Err(anyhow::anyhow!("{error}")),
    }
}

fn make_grub() -> Result<PathBuf> {
    const CONFIG: &str = "serial --unit=0\nterminal_output serial\nterminal_input serial\n\
                          echo The configuration runs.\n";
    let modules = packaged("grub-pc-bin", "usr/lib/grub/i386-pc")?;
    let program = packaged("grub-common", "usr/bin/grub-mkimage")?;
    let libraries = packaged("libdevmapper1.02.1", "lib/x86_64-linux-gnu")?;
    let dir = workspace::target().join("tests/grub");
    fs::create_dir_all(&dir)?;
    let _lock = workspace::lock("grub")?;
    let (config, core) = (dir.join("grub.cfg"), dir.join("core.img"));
    fs::write(&config, CONFIG)?;
    let output = Command::new(program)
        .env("LD_LIBRARY_PATH", libraries)
        .arg("-d")
        .arg(&modules)
        .args(["-O", "i386-pc", "-p", "(memdisk)/", "-c"])
        .arg(&config)
        .arg("-o")
        .arg(&core)
        .args(["serial", "terminal", "echo", "normal"])
        .output()?;
    ensure!(
        output.status.success(),
        "grub-mkimage: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let image = dir.join("grub.lnx");
    let bytes = [fs::read(modules.join("lnxboot.img"))?, fs::read(core)?].concat();
    workspace::write_atomically(&image, &bytes)?;
    Ok(image)
}

#[rstest]
fn grub_to_its_prompt(#[values("pc", "q35", "microvm", "isapc")] name: &str) -> Result<()> {
    let mut vm = machine(name, grub()?)?.spawn()?;
    // By INT 10h before the configuration, by the serial port after it.
    says(&mut vm, "Welcome to GRUB!")?;
    says(&mut vm, "The configuration runs.")?;
    says(&mut vm, "grub> ")
}

/// memdisk finds its memory, puts itself between the BIOS and what it boots, and
/// reads the disk in memory for it by INT 15h.
#[rstest]
fn memdisk(#[values("pc", "q35", "isapc")] name: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let floppy = dir.path().join("floppy");
    fs::write(&floppy, assemble("floppy.S", include_str!("floppy.S"))?)?;
    let kernel = packaged("syslinux-common", "usr/lib/syslinux/memdisk")?;
    let mut vm = machine(name, &kernel)?.initrd(floppy).spawn()?;
    says(&mut vm, "The boot sector runs.")?;
    says(&mut vm, "So does INT 13h.")?;
    ensure!(
        vm.serial().contains("1440 K, C/H/S = 80/2/18"),
        "{}",
        vm.report()
    );
    Ok(())
}

/// The information block's words (Multiboot specification 0.6.96, section 3.3).
struct Information(Vec<u8>);

impl Information {
    fn word(&self, at: usize) -> u32 {
        let bytes = &self.0[at..at + 4];
        u32::from_le_bytes(bytes.try_into().expect("4 bytes"))
    }
}

fn text(vm: &mut Vm, addr: u32) -> Result<String> {
    let bytes = vm.memory(addr.into(), 256)?;
    let len = bytes.iter().position(|byte| *byte == 0);
    let len = len.context("a string without its end")?;
    Ok(String::from_utf8_lossy(&bytes[..len]).into_owned())
}

/// First and last address of RAM, by the map.
fn ram(vm: &mut Vm, info: &Information) -> Result<Vec<(u32, u32)>> {
    let map = Information(vm.memory(info.word(48).into(), info.word(44) as usize)?);
    let mut at = 0;
    let mut ram = Vec::new();
    while at < map.0.len() {
        ensure!(map.word(at) == 20, "an entry of {} bytes", map.word(at));
        if map.word(at + 20) == 1 {
            ram.push((map.word(at + 4), map.word(at + 4) + map.word(at + 12)));
        }
        at += 24;
    }
    Ok(ram)
}

/// Each range is in one part of RAM.
fn check_inside(ram: &[(u32, u32)], ranges: &[(u32, u32)]) -> Result<()> {
    for (start, end) in ranges {
        ensure!(
            ram.iter().any(|part| part.0 <= *start && *end <= part.1),
            "{start:x} to {end:x} is not in {ram:x?}"
        );
    }
    Ok(())
}

/// A multiboot kernel of our own, with no module or three.
#[rstest]
fn multiboot(
    #[values("pc", "q35", "microvm", "isapc")] name: &str,
    #[values(0, 3)] modules: usize,
) -> Result<()> {
    let probe = Probe::new(Kind::Multiboot)?;
    let contents: Vec<_> = (0..modules)
        .map(|n| noise(5_000 + 4_096 * n, n as u64 + 1))
        .collect();
    let mut list = Vec::new();
    for (n, bytes) in contents.iter().enumerate() {
        let path = probe.file(&format!("module{n}"), bytes)?;
        list.push(format!("{} number {n}", path.display()));
    }
    let mut qemu = probe.machine(name)?.append("words for it").memory_mib(64);
    if modules != 0 {
        qemu = qemu.initrd(list.join(","));
    }
    let (handover, mut vm) = probe.boot(&qemu)?;
    let Record {
        eax,
        ebx,
        cr0,
        eflags,
        ..
    } = handover.record;
    ensure!(eax == 0x2bad_b002, "EAX {eax:#x}");
    ensure!(cr0 & 1 == 1 && cr0 >> 31 == 0, "CR0 {cr0:#x}");
    ensure!(eflags & (1 << 9 | 1 << 17) == 0, "EFLAGS {eflags:#x}");

    let info = Information(vm.memory(ebx.into(), 88)?);
    ensure!(info.word(0) == 0x24d, "flags {:#x}", info.word(0));
    ensure!(info.word(4) == 639, "{} KiB below", info.word(4));
    // Tables may lie at the end.
    let upper = info.word(8);
    ensure!((60 << 10..=63 << 10).contains(&upper), "{upper} KiB above");
    let line = text(&mut vm, info.word(16))?;
    ensure!(line.ends_with("words for it"), "{line:?}");
    ensure!(text(&mut vm, info.word(64))? == "qboot");

    ensure!(info.word(20) as usize == modules);
    let table = Information(vm.memory(info.word(24).into(), 16 * modules.max(1))?);
    let mut taken = vec![(ebx, ebx + 88)];
    for (n, bytes) in contents.iter().enumerate() {
        let (start, end) = (table.word(16 * n), table.word(16 * n + 4));
        ensure!(
            (end - start) as usize == bytes.len(),
            "{start:x} to {end:x}"
        );
        ensure!(
            vm.memory(start.into(), bytes.len())? == *bytes,
            "module {n}"
        );
        let line = text(&mut vm, table.word(16 * n + 8))?;
        ensure!(line == list[n], "{line:?}");
        taken.push((start, end));
    }

    let ram = ram(&mut vm, &info)?;
    ensure!(ram.contains(&(0, 0x9_fc00)), "{ram:x?}");
    ensure!(
        ram.contains(&(1 << 20, (1 << 20) + (upper << 10))),
        "{ram:x?}"
    );
    check_inside(&ram, &taken)?;
    // What a BIOS leaves, which Xen looks at.
    let bda = Information(vm.memory(0x400, 0x18)?);
    ensure!(bda.word(0x0e) & 0xffff == 0x9fc0 && bda.word(0x13) & 0xffff == 639);
    Ok(())
}
