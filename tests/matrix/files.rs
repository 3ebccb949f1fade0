//! The files that cells name: kernels, initrds, files of Debian packages.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use xtask::debian::{self, Package};
use xtask::initramfs::{self, Arch, Initramfs};
use xtask::kernel::{self, Flavour, Kernel};
use xtask::process::run;
use xtask::{extract, probe, workspace};

use super::table::Row;
use crate::guest;

/// The file that `name` stands for; the head of `tests/matrix.toml` explains names.
pub fn file(name: &str) -> Result<PathBuf> {
    let words: Vec<&str> = name.split_whitespace().collect();
    let path = match words.as_slice() {
        ["standard"] => initramfs::standard(Arch::Amd64)?,
        ["deb", package, path] => decompressed(&packaged(package, path)?)?,
        ["file", path] => workspace::root().join(path),
        ["assembled", path] => assembled(path)?,
        ["grub"] => grub()?,
        ["objcopy", flavour] => by_objcopy(flavour)?,
        ["ukify", flavour] => by_ukify(flavour)?,
        [flavour] => debian_kernel(flavour)?.bzimage,
        [flavour, "vmlinux"] => extract::cached(&debian_kernel(flavour)?.bzimage)?
            .with_context(|| format!("{flavour} has no PVH entry point"))?,
        _ => bail!("nothing is called {name:?}"),
    };
    ensure!(path.is_file(), "no file {}", path.display());
    Ok(path)
}

fn assembled(path: &str) -> Result<PathBuf> {
    let source = workspace::root().join(path);
    let text = fs::read_to_string(&source).context(path.to_owned())?;
    let name = source.file_name().context("a path without a name")?;
    let to = directory()?.join(name).with_extension("bin");
    workspace::write_if_changed(&to, &probe::assemble(&name.to_string_lossy(), &text)?)?;
    Ok(to)
}

/// GRUB with a configuration that takes its console to the serial port, behind the
/// wrapper that makes it look like Linux.
fn grub() -> Result<PathBuf> {
    const CONFIG: &str = "serial --unit=0\nterminal_output serial\nterminal_input serial\n\
                          echo The configuration runs.\n";
    let modules = packaged("grub-pc-bin", "usr/lib/grub/i386-pc")?;
    let program = packaged("grub-common", "usr/bin/grub-mkimage")?;
    let libraries = packaged("libdevmapper1.02.1", "lib/x86_64-linux-gnu")?;
    let dir = directory()?;
    let _lock = workspace::lock("grub")?;
    let (config, core) = (dir.join("grub.cfg"), dir.join("grub.img"));
    workspace::write_if_changed(&config, CONFIG.as_bytes())?;
    let mut command = Command::new(program);
    command.env("LD_LIBRARY_PATH", libraries);
    command.args(["-O", "i386-pc", "-p", "(memdisk)/"]);
    command.arg("-d").arg(&modules);
    command.arg("-c").arg(&config).arg("-o").arg(&core);
    run(command.args(["serial", "terminal", "echo", "normal"]))?;
    let image = dir.join("grub.lnx");
    let bytes = [fs::read(modules.join("lnxboot.img"))?, fs::read(core)?].concat();
    workspace::write_if_changed(&image, &bytes)?;
    Ok(image)
}

/// The command line in the unified kernel images.
const OWN_LINE: &str = "console=ttyS0 panic=-1 tsc_early_khz=2000000 quiet uki.from=section\n";
/// Where systemd's packages have the stub.
const STUB: &str = "usr/lib/systemd/boot/efi/linuxx64.efi.stub";

/// A unified kernel image of this system's stub, as systemd's manual of Debian 12 makes
/// one (systemd-stub(7)): with the standard initramfs.
fn by_objcopy(flavour: &str) -> Result<PathBuf> {
    let stub = packaged("systemd-boot-efi", STUB)?;
    let kernel = debian_kernel(flavour)?.bzimage;
    let initrd = initramfs::standard(Arch::Amd64)?;
    let dir = directory()?;
    let (line, image) = (dir.join("uki.cmdline"), dir.join("objcopy.efi"));
    let _lock = workspace::lock("objcopy-uki")?;
    workspace::write_if_changed(&line, OWN_LINE.as_bytes())?;
    let mut command = Command::new("objcopy");
    for (name, file, addr) in [
        (".cmdline", &line, "0x30000"),
        (".linux", &kernel, "0x2000000"),
        (".initrd", &initrd, "0x6000000"),
    ] {
        command.arg("--add-section");
        command.arg(format!("{name}={}", file.display()));
        command.arg("--change-section-vma");
        command.arg(format!("{name}={addr}"));
    }
    command.arg(stub);
    run_for(&mut command, image)
}

/// A unified kernel image by Debian 13's ukify and stub: with the standard initramfs,
/// an archive that stands for microcode, and a profile.
fn by_ukify(flavour: &str) -> Result<PathBuf> {
    let unpacked = |name| debian::unpack(&Package::of_suite("trixie", "amd64", name));
    let (ukify, pefile) = (unpacked("systemd-ukify")?, unpacked("python3-pefile")?);
    let stub = unpacked("systemd-boot-efi")?.join(STUB);
    let kernel = debian_kernel(flavour)?.bzimage;
    let dir = directory()?;
    let (ucode, image) = (dir.join("ucode.cpio"), dir.join("ukify.efi"));
    let _lock = workspace::lock("ukify-uki")?;
    let archive = Initramfs::empty().file("microcode", 0o644, "none");
    workspace::write_if_changed(&ucode, &archive.archive()?)?;
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", pefile.join("usr/lib/python3/dist-packages"));
    command.arg(ukify.join("usr/bin/ukify")).arg("build");
    command.arg("--stub").arg(stub).arg("--linux").arg(kernel);
    command
        .arg("--initrd")
        .arg(initramfs::standard(Arch::Amd64)?);
    command.arg("--microcode").arg(ucode);
    command.args(["--profile", "ID=main", "--cmdline", OWN_LINE.trim()]);
    command.arg("--output");
    run_for(&mut command, image)
}

/// Runs a program that makes `file`, its last argument. The QEMU of another cell may be
/// reading the file from before: it stays whole.
fn run_for(command: &mut Command, file: PathBuf) -> Result<PathBuf> {
    let new = file.with_extension("new");
    run(command.arg(&new))?;
    fs::rename(new, &file)?;
    Ok(file)
}

fn debian_kernel(flavour: &str) -> Result<Kernel> {
    if let Some((suite, flavour)) = flavour.split_once('/') {
        let arch = if is_32_bits(flavour) { "i386" } else { "amd64" };
        let name = format!("linux-image-{flavour}");
        return kernel::newest(&Package::of_suite(suite, arch, &name));
    }
    match Flavour::from_str(flavour, false) {
        Ok(flavour) => kernel::debian(flavour),
        Err(_) => bail!("nothing is called {flavour:?}"),
    }
}

/// Whether this is the name of a kernel of 32 bits.
fn is_32_bits(flavour: &str) -> bool {
    flavour.contains("686")
}

/// A file of a package: `NAME`, or `SUITE/ARCH/NAME`.
fn packaged(package: &str, path: &str) -> Result<PathBuf> {
    let package = match package.split('/').collect::<Vec<_>>()[..] {
        [suite, arch, name] => Package::of_suite(suite, arch, name),
        _ => Package::system(package),
    };
    Ok(debian::unpack(&package)?.join(path))
}

fn decompressed(path: &Path) -> Result<PathBuf> {
    let bytes = workspace::read(path)?;
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(path.to_owned());
    }
    let mut plain = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut plain)?;
    let name = path.file_stem().context("a file without a name")?;
    let to = directory()?.join(name);
    workspace::write_if_changed(&to, &plain)?;
    Ok(to)
}

/// Where made files are kept.
fn directory() -> Result<PathBuf> {
    let dir = workspace::target().join("matrix");
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// `text` with every name in braces replaced: `dir` and `swtpm` by their paths, that
/// of a file by the path of a link to it in `dir`.
///
/// QEMU ends the names in lists of modules and in options at a space or a comma,
/// which the file's own path may have.
pub fn filled(text: &str, dir: &Path) -> Result<String> {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, from)) = rest.split_once('{') {
        let (name, after) = from.split_once('}').context("a brace is not closed")?;
        let path = match name {
            "dir" => dir.to_owned(),
            "swtpm" => dir.join("swtpm"),
            name => linked(&file(name)?, dir)?,
        };
        result = format!("{result}{before}{}", path.display());
        rest = after;
    }
    Ok(result + rest)
}

/// A link in `dir` to `file`, under its own name.
fn linked(file: &Path, dir: &Path) -> Result<PathBuf> {
    let link = dir.join(file.file_name().context("a file without a name")?);
    if fs::read_link(&link).ok().as_deref() != Some(file) {
        std::os::unix::fs::symlink(file, &link)
            .with_context(|| format!("linking {}", link.display()))?;
    }
    Ok(link)
}

/// The initramfs of a row, which is the standard one unless the row adds to it.
pub fn initramfs(row: &Row) -> Result<PathBuf> {
    let arch = match is_32_bits(&row.kernel) {
        true => Arch::I386,
        false => Arch::Amd64,
    };
    if row.guest.is_none() && row.files.is_empty() && row.modules.is_empty() {
        return initramfs::standard(arch);
    }
    let mut files = Vec::new();
    let kernel = row.kernel.split_whitespace().next().unwrap_or_default();
    let modules = match row.modules.as_slice() {
        [] => Vec::new(),
        names => guest::modules(&debian_kernel(kernel)?, names)?,
    };
    for (n, (name, bytes)) in modules.into_iter().enumerate() {
        files.push((format!("modules/{n:02}-{name}.ko"), bytes));
    }
    for item in &row.files {
        let (to, from) = item.split_once('=').context("a file is PATH=FILE")?;
        files.push((to.to_owned(), fs::read(file(from)?)?));
    }
    let script = include_str!("guest.sh").to_owned() + row.guest.as_deref().unwrap_or_default();
    files.push(("guest".to_owned(), script.into_bytes()));

    let mut image = Initramfs::standard(arch)?;
    let mut made = BTreeSet::from(["bin".to_owned()]);
    for (path, bytes) in files {
        if let Some((parent, _)) = path.rsplit_once('/')
            && made.insert(parent.to_owned())
        {
            image = image.directory(parent);
        }
        image = image.file(&path, 0o755, bytes);
    }
    let path = directory()?.join(format!("{}.cpio", row.name));
    let _lock = workspace::lock(&format!("initramfs-{}", row.name))?;
    workspace::write_if_changed(&path, &image.archive()?)?;
    Ok(path)
}

/// The archive at `path` made as large as `size` says by an entry in front of it
/// that kernels skip, a directory that has contents; most of it is a hole.
pub fn enlarged(path: &Path, size: &str, to: &Path) -> Result<()> {
    const HEAD: u64 = 112;
    let archive = fs::read(path)?;
    let size = bytes(size)?;
    let filler = size
        .checked_sub(HEAD + archive.len() as u64)
        .with_context(|| format!("{} is larger than {size} bytes", path.display()))?;
    // What follows starts at a multiple of 4; zeroes behind the archive make up for it.
    let filler = filler & !3;
    // ino, mode, uid, gid, nlink, mtime, filesize, four device numbers, namesize, check.
    let fields = [0, 0o040_755, 0, 0, 1, 0, filler, 0, 0, 0, 0, 2, 0];
    let fields = fields.map(|field| format!("{field:08x}")).concat();
    let mut out = File::create(to)?;
    write!(out, "070701{fields}.\0")?;
    out.seek(SeekFrom::Start(HEAD + filler))?;
    out.write_all(&archive)?;
    out.set_len(size)?;
    Ok(())
}

/// Bytes of a size such as `64M` or `64M+4095`.
fn bytes(text: &str) -> Result<u64> {
    let (size, more) = text.split_once('+').unwrap_or((text, "0"));
    let mib = size.strip_suffix('M').context("a size in MiB")?;
    let mib: u64 = mib.parse().with_context(|| format!("size {text:?}"))?;
    Ok((mib << 20) + more.parse::<u64>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sizes() {
        assert_eq!(bytes("64M+4095").unwrap(), (64 << 20) + 4095);
        assert_eq!(bytes("17M").unwrap(), 17 << 20);
        assert!(bytes("1T").is_err());
    }

    #[test]
    fn enlarges_an_archive_to_its_size_with_its_entries() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        let archive = Initramfs::empty().file("x", 0o644, "y").archive().unwrap();
        fs::write(&from, &archive).unwrap();
        enlarged(&from, "1M+3", &to).unwrap();
        let bytes = fs::read(&to).unwrap();
        assert_eq!(bytes.len(), (1 << 20) + 3);
        let reader = cpio::newc::Reader::new(bytes.as_slice()).unwrap();
        assert_eq!(reader.entry().name(), ".");
        let rest = reader.finish().unwrap();
        assert_eq!(cpio::newc::Reader::new(rest).unwrap().entry().name(), "x");
    }

    #[test]
    fn fills_braces() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path();
        let shown = dir.display();
        assert_eq!(
            filled("a={dir}/b,{swtpm}", dir).unwrap(),
            format!("a={shown}/b,{shown}/swtpm")
        );
        assert!(filled("{nothing like this}", dir).is_err());
        assert!(filled("{dir", dir).is_err());
        // Both names of one file: a list may name it twice.
        let list = filled("{file LICENSE-MIT} a b,{file LICENSE-MIT}", dir).unwrap();
        let link = dir.join("LICENSE-MIT");
        assert_eq!(list, format!("{0} a b,{0}", link.display()));
        assert!(fs::read_to_string(link).unwrap().starts_with("MIT"));
    }
}
