//! Linux, with devices in use and most of its memory filled.

use super::*;
use std::fs;
use std::path::Path;

use qboot_tests::guest::{self, Tpm, find, image};
use xtask::debian::{self, Package};
use xtask::initramfs::Initramfs;
use xtask::kernel::{self, Flavour};
use xtask::linux::Time;

/// What `/suspend` in the guest does, by words of the kernel's command line.
const SCRIPT: &str = include_str!("guest.sh");

/// A Debian kernel with a guest that sleeps.
struct Guest {
    flavour: Flavour,
    /// Modules that are loaded.
    modules: &'static [&'static str],
    /// Words for `guest.sh`.
    words: &'static str,
    /// Further files in the initial file system.
    files: Vec<(String, Vec<u8>)>,
}

impl Guest {
    fn cloud(words: &'static str) -> Self {
        Self {
            flavour: Flavour::CloudAmd64,
            modules: &[],
            words,
            files: Vec::new(),
        }
    }

    /// A machine that boots it, whose files are in `dir`.
    fn qemu(self, machine: Machine, dir: &Path) -> Result<Qemu> {
        let mut initramfs = Initramfs::standard(guest::arch(self.flavour))?
            .directory("modules")
            .file("suspend", 0o755, SCRIPT);
        let modules = guest::modules(&kernel::debian(self.flavour)?, self.modules)?.into_iter();
        for (n, (_, bytes)) in modules.enumerate() {
            initramfs = initramfs.file(&format!("modules/{n:02}"), 0o644, bytes);
        }
        for (path, bytes) in self.files {
            initramfs = initramfs.file(&path, 0o755, bytes);
        }
        let initrd = dir.join("initrd");
        fs::write(&initrd, initramfs.archive()?)?;
        let words = format!("quiet qboot.do=poweroff qboot.run=/suspend {}", self.words);
        let qemu = guest::boot(machine, self.flavour, Kind::BzImage, Time::Host, &words)?;
        let qemu = qemu.initrd(initrd);
        Ok(qemu.qmp())
    }
}

/// Wakes the guest each time it sleeps, until it has powered off; it must have said that
/// all is well as often.
fn sleeps(qemu: &Qemu, times: usize) -> Result<String> {
    let mut vm = qemu.spawn()?;
    for n in 1..=times {
        vm.wait_serial(&format!("suspend: sleeps {n}\r\n"), TIMEOUT)?;
        wake(&mut vm)?;
        vm.wait_serial(&format!("suspend: awake {n} "), TIMEOUT)?;
    }
    let serial = guest::wait_end(&mut vm, TIMEOUT)?;
    let well = serial.matches(" all is well").count();
    ensure!(well == times, "{well} of {times}\n{}", vm.report());
    Ok(serial)
}

/// Disks that the guest reads and writes.
fn disks(qemu: Qemu, dir: &Path) -> Result<Qemu> {
    let mut qemu = qemu;
    for (name, device) in [("vda", "virtio-blk-pci"), ("nvme0n1", "nvme,serial=1")] {
        let path = dir.join(name);
        fs::write(&path, vec![0; 8 << 20])?;
        let drive = format!("file={},if=none,format=raw,id={name}", path.display());
        qemu = qemu.args(["-drive".to_owned(), drive]);
        qemu = qemu.devices([format!("{device},drive={name}")]);
    }
    Ok(qemu)
}

const VIRTIO: [&str; 2] = ["virtio_pci", "virtio_blk"];

/// One sleep, for every run of the tests.
#[rstest]
#[case(PC, 4)]
#[case(Q35, 1)]
fn linux_goes_on(#[case] machine: Machine, #[case] cpus: u32) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let guest = Guest {
        modules: &VIRTIO,
        ..Guest::cloud("suspend.times=1 suspend.fill=64 suspend.disks=vda,nvme0n1")
    };
    let qemu = disks(guest.qemu(machine, dir.path())?.memory_mib(256), dir.path())?;
    sleeps(&qemu.smp(cpus), 1)?;
    Ok(())
}

/// With most of the memory filled, both disks and a network card in use.
#[apply(each_chipset)]
#[ignore = "takes minutes"]
fn linux_goes_on_ten_times(machine: Machine, #[values(1, 4)] cpus: u32) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let guest = Guest {
        flavour: Flavour::Amd64,
        modules: &["virtio_pci", "virtio_blk", "nvme", "e1000e"],
        ..Guest::cloud(
            "suspend.times=10 suspend.fill=320 suspend.disks=vda,nvme0n1 suspend.ping=10.0.2.2",
        )
    };
    let qemu = disks(guest.qemu(machine, dir.path())?, dir.path())?;
    let qemu = qemu.args(["-netdev", "user,id=net"]);
    sleeps(&qemu.devices(["e1000e,netdev=net"]).smp(cpus), 10)?;
    Ok(())
}

/// 32 bits, and a network card that DMA writes for.
#[apply(each_chipset)]
#[ignore = "takes minutes"]
fn linux_of_32_bits_keeps_its_network(machine: Machine) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let guest = Guest {
        flavour: Flavour::I686Pae,
        modules: &["e1000e"],
        ..Guest::cloud("suspend.times=3 suspend.fill=128 suspend.ping=10.0.2.2")
    };
    let qemu = guest.qemu(machine, dir.path())?;
    let qemu = qemu.args(["-netdev", "user,id=net"]);
    sleeps(&qemu.devices(["e1000e,netdev=net"]), 3)?;
    Ok(())
}

/// RAM above 4 GiB, which Linux gives out first.
#[apply(each_chipset)]
#[ignore = "takes minutes"]
fn five_gib_survive(machine: Machine) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let guest = Guest::cloud("suspend.times=1 suspend.fill=1200");
    let qemu = guest.qemu(machine, dir.path())?.memory_mib(5 << 10);
    sleeps(&qemu.smp(2), 1)?;
    Ok(())
}

/// A kernel that the first one has started finds the way back too.
#[apply(each_chipset)]
#[ignore = "takes minutes"]
fn after_kexec(machine: Machine) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let tools = debian::unpack_with_dependencies(&Package::system("kexec-tools"))?;
    let kernel = image(Flavour::CloudAmd64, Kind::BzImage)?;
    let mut guest = Guest::cloud("suspend.times=2 suspend.fill=64 suspend.kexec=1");
    guest.files = vec![
        ("kernel".to_owned(), fs::read(kernel)?),
        ("kexec".to_owned(), fs::read(tools.join("sbin/kexec"))?),
    ];
    for name in LIBRARIES {
        // Links lead to the files.
        let path = find(&tools, &|file| file == name).with_context(|| format!("no {name}"))?;
        guest.files.push((name.to_owned(), fs::read(path)?));
    }
    let qemu = guest.qemu(machine, dir.path())?.memory_mib(768).reboot();
    let serial = sleeps(&qemu, 2)?;
    ensure!(serial.contains("suspend: the second kernel"), "no kexec");
    Ok(())
}

/// What Debian's kexec is linked with.
const LIBRARIES: [&str; 10] = [
    "ld-linux-x86-64.so.2",
    "libc.so.6",
    "libxenctrl.so.4.17",
    "libxentoollog.so.1",
    "libxentoolcore.so.1",
    "libxencall.so.1",
    "libxenevtchn.so.1",
    "libxengnttab.so.1",
    "libxenforeignmemory.so.1",
    "libxendevicemodel.so.1",
];

/// A TPM keeps what was measured, and takes commands.
#[rstest]
#[case(PC, "tpm-tis", false)]
#[case(Q35, "tpm-tis", true)]
#[case(Q35, "tpm-crb", true)]
#[ignore = "takes minutes"]
fn a_tpm_is_woken(
    #[case] machine: Machine,
    #[case] device: &str,
    #[case] is_2: bool,
) -> Result<()> {
    if !Tpm::is_installed() {
        qboot_tests::skip("a_tpm_is_woken", "swtpm is not installed");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let _tpm = Tpm::start(dir.path(), is_2)?;
    let guest = Guest::cloud("suspend.times=2 suspend.fill=16 suspend.tpm=1");
    let qemu = guest.qemu(machine, dir.path())?;
    let socket = dir.path().join("swtpm");
    let chardev = format!("socket,id=tpm,path={}", socket.display());
    let qemu = qemu.args([
        "-chardev",
        &chardev,
        "-tpmdev",
        "emulator,id=tpm,chardev=tpm",
    ]);
    sleeps(&qemu.devices([format!("{device},tpmdev=tpm")]), 2)?;
    Ok(())
}
