//! Kernels other than Linux, as Debian packages them: entered in 16-bit mode or
//! by multiboot, each to what it says when it has come up.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;
use qboot_tests::{Kind, Probe, noise, rom};
use rstest::rstest;
use xtask::debian::{self, Package};
use xtask::initramfs::{self, Arch, MARKER};
use xtask::kernel::{self, Flavour};
use xtask::probe::{Record, assemble};
use xtask::qemu::{Accel, Qemu, Vm};
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
    // iPXE and GRUB draw no more than they are asked to in this much.
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

/// iPXE configures a network card by DHCP: it needs its memory, the PCI BIOS,
/// the card's addresses and, for time to go on, the timer's interrupt.
#[rstest]
#[case::virtio("pc", &["-device", "virtio-net-pci,netdev=n,romfile="])]
#[case::e1000("pc", &["-device", "e1000,netdev=n,romfile="])]
#[case::e1000e("q35", &["-device", "e1000e,netdev=n,romfile="])]
#[case::behind_a_port("q35", &["-device", "pcie-root-port,id=p,slot=1", "-device", "virtio-net-pci,netdev=n,bus=p,romfile="])]
fn ipxe(#[case] name: &str, #[case] card: &[&str]) -> Result<()> {
    let mut vm = machine(name, &packaged("ipxe", "boot/ipxe.lkrn")?)?
        .append("ifopen net0 && dhcp net0 && echo Address ${net0/ip}")
        .args(["-netdev", "user,id=n"])
        .args(card.iter().copied())
        .spawn()?;
    says(&mut vm, "Address 10.0.2.15")
}

/// memtest86+ reports its first test, on the serial console of its own.
#[rstest]
#[case("pc", "x64", "auto")]
#[case("q35", "ia32", "16")]
fn memtest(#[case] name: &str, #[case] width: &str, #[case] entry: &str) -> Result<()> {
    let kernel = packaged("memtest86+", &format!("boot/memtest86+{width}.bin"))?;
    let mut vm = machine(name, &kernel)?
        .memory_mib(32)
        .append("console=ttyS0,115200")
        .args([
            "-fw_cfg",
            &format!("name=opt/org.qboot/entry,string={entry}"),
        ])
        .spawn()?;
    says(&mut vm, "#0  [Address test")?;
    let serial = plain(&vm.serial());
    // It knows its machine from SMBIOS.
    let product = if name == "pc" {
        "i440FX + PIIX"
    } else {
        "Q35 + ICH9"
    };
    ensure!(serial.contains(product), "{}", vm.report());
    Ok(())
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

/// Xen, by multiboot, starts Linux as its first domain with an initial RAM disk,
/// both modules, to user space.
#[rstest]
#[case("pc", 1)]
#[case("q35", 2)]
fn xen(#[case] name: &str, #[case] cpus: u32) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let packed = fs::File::open(packaged(
        "xen-hypervisor-4.17-amd64",
        "boot/xen-4.17-amd64.gz",
    )?)?;
    let mut bytes = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut bytes)?;
    let xen = dir.path().join("xen");
    fs::write(&xen, bytes)?;
    let linux = kernel::debian(Flavour::CloudAmd64)?.bzimage;
    let initrd = initramfs::standard(Arch::Amd64)?;
    let mut vm = machine(name, &xen)?
        .memory_mib(768)
        .smp(cpus)
        .append("console=com1 com1=115200,8n1 dom0_mem=384M noreboot")
        // QEMU's module list: a comma between modules (two for one that is none),
        // a space before words.
        .initrd(format!(
            // Debian's cloud kernel has Xen's console only for its own messages.
            "{} earlyprintk=xen,,keep panic=-1,{}",
            linux.display(),
            initrd.display()
        ))
        .spawn()?;
    vm.wait_serial("Run /init as init process", TIMEOUT * 2)?;
    let serial = vm.serial();
    for words in [
        format!("Brought up {cpus} CPU"),
        format!("Dom0 has maximum {cpus} VCPU"),
        "Init. ramdisk:".to_owned(),
    ] {
        ensure!(serial.contains(&words), "no {words:?}\n{}", vm.report());
    }
    Ok(())
}

/// Debian's kernel by its 16-bit code, as old loaders enter it.
#[rstest]
fn linux_by_its_16_bit_code(#[values("pc", "q35", "microvm")] name: &str) -> Result<()> {
    let linux = kernel::debian(Flavour::CloudAmd64)?.bzimage;
    let mut vm = machine(name, &linux)?
        .memory_mib(512)
        .initrd(initramfs::standard(Arch::Amd64)?)
        // Time that is counted, so that a busy host does not fail the kernel's
        // own tests of its timers, which it does with every firmware.
        .append("console=ttyS0 panic=-1 quiet tsc_early_khz=1000000 qboot.do=poweroff")
        .accel(Accel::Icount { shift: 1 })
        .args(["-fw_cfg", "name=opt/org.qboot/entry,string=16"])
        .spawn()?;
    vm.wait_serial(MARKER, TIMEOUT)
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
    ensure!(ram.contains(&(0, 0x9_fc00)), "{ram:x?}");
    ensure!(
        ram.contains(&(1 << 20, (1 << 20) + (upper << 10))),
        "{ram:x?}"
    );
    for (start, end) in taken {
        ensure!(
            ram.iter().any(|part| part.0 <= start && end <= part.1),
            "{start:x} to {end:x} is not in {ram:x?}"
        );
    }
    // What a BIOS leaves, which Xen looks at.
    let bda = Information(vm.memory(0x400, 0x18)?);
    ensure!(bda.word(0x0e) & 0xffff == 0x9fc0 && bda.word(0x13) & 0xffff == 639);
    Ok(())
}
