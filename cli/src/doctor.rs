//! What this machine has and lacks for building, running and testing.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use crate::inspect::Identity;
use crate::json::Json;
use crate::{initramfs, run, workspace};

/// One thing that was checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// Its purpose, such as `linker`.
    pub what: &'static str,
    /// What was found, or why it is missing.
    pub state: Result<String, String>,
    /// The command that installs it, or what happens without it.
    pub fix: String,
    /// Whether a first boot works without it.
    pub optional: bool,
}

const SETUP: &str = "scripts/setup.sh";
const SETUP_TESTS: &str = "scripts/setup.sh test";

fn needed(what: &'static str, state: Result<String, String>, fix: impl Into<String>) -> Finding {
    Finding {
        what,
        state,
        fix: fix.into(),
        optional: false,
    }
}

fn optional(what: &'static str, state: Result<String, String>, fix: impl Into<String>) -> Finding {
    Finding {
        optional: true,
        ..needed(what, state, fix)
    }
}

/// Checks everything that the commands use. An installed program does not build.
pub fn findings() -> Vec<Finding> {
    let mut findings = for_booting();
    if workspace::source().is_some() {
        findings.extend(for_building());
    }
    findings
}

fn for_booting() -> Vec<Finding> {
    let accel = run::Accel::detect();
    let without = accel.fix.map(|fix| format!("; for KVM: {fix}"));
    let kvm = format!("QEMU's TCG is used{}", without.unwrap_or_default());
    vec![
        needed(
            "ROM",
            rom(),
            "install the package anew, or name one with --firmware",
        ),
        needed("QEMU", qemu(), run::qemu_package()),
        needed(
            match workspace::source() {
                Some(_) => "place for kernels and what is built",
                None => "place for kernels",
            },
            place(&workspace::target()),
            match workspace::source() {
                Some(_) => "make room, or clone into a directory of your own",
                None => "make room, or name another place than ~/.cache in XDG_CACHE_HOME",
            },
        ),
        optional(
            "apt, for kernels",
            version("apt-get"),
            "use --kernel with a kernel of your own",
        ),
        optional(
            "static busybox",
            initramfs::installed_busybox()
                .map(|path| path.display().to_string())
                .ok_or_else(|| "not installed".to_owned()),
            "fetched by itself where there is apt",
        ),
        optional(
            "KVM",
            match accel.name.as_str() {
                "kvm" => Ok(accel.reason),
                _ => Err(accel.reason),
            },
            kvm,
        ),
    ]
}

fn for_building() -> Vec<Finding> {
    vec![
        needed("Rust", version("rustc"), SETUP),
        needed("Rust for the ROM", rom_target(), SETUP),
        needed("C compiler", version("cc"), SETUP),
        needed("linker", version("ld.bfd"), SETUP),
        needed("objcopy", version("objcopy"), SETUP),
        optional("32-bit libraries, for tests", library_32_bit(), SETUP_TESTS),
        optional("swtpm, for tests", version("swtpm"), SETUP_TESTS),
        optional(
            "C qboot and SeaBIOS, to compare with",
            peers(),
            "sudo apt-get install --no-install-recommends qemu-system-data seabios",
        ),
        optional(
            "git, for the ROM's build id",
            version("git"),
            "sudo apt-get install git (without it the ROM says \"unknown\")",
        ),
        optional(
            "gdb, for tests and scripts/gdb.sh",
            version("gdb"),
            SETUP_TESTS,
        ),
        optional("zsh, for tests", version("zsh"), SETUP_TESTS),
        optional("fish, for tests", version("fish"), SETUP_TESTS),
        optional(
            "mdBook, for the book",
            version("mdbook"),
            "cargo install --locked mdbook",
        ),
    ]
}

/// The findings as lines of text, one each.
pub fn shown(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let (mark, state) = match &finding.state {
            Ok(found) => ("ok", found),
            Err(why) if finding.optional => ("--", why),
            Err(why) => ("NO", why),
        };
        let _ = write!(text, "{mark}  {}: {state}", finding.what);
        if finding.state.is_err() {
            let _ = write!(text, " -> {}", finding.fix);
        }
        text.push('\n');
    }
    text
}

/// The findings as JSON for programs.
#[must_use]
pub fn json(findings: &[Finding]) -> Json {
    let finding = |finding: &Finding| {
        let missing = finding.state.as_ref().err().map(String::as_str);
        Json::Object(vec![
            ("what", finding.what.into()),
            (
                "found",
                finding.state.as_ref().ok().map(String::as_str).into(),
            ),
            ("missing", missing.into()),
            ("fix", missing.map(|_| finding.fix.as_str()).into()),
            ("needed", (!finding.optional).into()),
        ])
    };
    findings.iter().map(finding).collect()
}

fn version(program: &str) -> Result<String, String> {
    first_line(program, &["--version"])
}

fn first_line(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .current_dir(workspace::root())
        .args(arguments)
        .output()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => format!("no {program}"),
            kind => format!("{program} does not start: {kind}"),
        })?;
    if !output.status.success() {
        return Err(format!("{program} fails ({})", output.status));
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().next().unwrap_or(program).to_owned())
}

/// The oldest tested QEMU.
const OLDEST_QEMU: (u32, u32) = (7, 2);

fn qemu() -> Result<String, String> {
    let line = version("qemu-system-x86_64")?;
    Ok(match qemu_version(&line) {
        Some(version) if version < OLDEST_QEMU => {
            format!(
                "{line}, older than any tried: {}.{}",
                OLDEST_QEMU.0, OLDEST_QEMU.1
            )
        }
        _ => line,
    })
}

/// Major and minor number in QEMU's line.
fn qemu_version(line: &str) -> Option<(u32, u32)> {
    let (_, rest) = line.split_once("version ")?;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next()?.parse().ok();
    Some((number()?, number()?))
}

/// The ROM for a boot, and its build.
fn rom() -> Result<String, String> {
    if workspace::source().is_some() {
        return Ok("built from this source tree".to_owned());
    }
    let path = workspace::installed_rom()
        .ok_or("none is installed (scripts/install.sh in a checkout does that)")?;
    let image = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let build = Identity::read(&image)
        .map(|found| {
            format!(
                "{} of {}, commit {}",
                found.version, found.date, found.commit
            )
        })
        .ok_or_else(|| format!("{} is no qboot-rs", path.display()))?;
    Ok(format!("{}, {build}", path.display()))
}

fn rom_target() -> Result<String, String> {
    let target = crate::build::TARGET;
    let sysroot = first_line("rustc", &["--print", "sysroot"])?;
    if Path::new(&sysroot)
        .join("lib/rustlib")
        .join(target)
        .is_dir()
    {
        Ok(target.to_owned())
    } else {
        Err(format!("no {target}"))
    }
}

fn library_32_bit() -> Result<String, String> {
    let path = first_line("cc", &["-m32", "-print-file-name=crt1.o"])?;
    // The compiler prints the bare name if it does not find the file.
    let path = Path::new(&path);
    let found = path.is_absolute().then(|| path.canonicalize().ok());
    match found.flatten() {
        Some(path) => Ok(path.display().to_string()),
        None => Err("not installed".to_owned()),
    }
}

/// Other firmware's images, where Debian's packages put them.
fn peers() -> Result<String, String> {
    let images = [
        "/usr/share/qemu/qboot.rom",
        "/usr/share/seabios/bios-256k.bin",
    ];
    match images.iter().find(|image| !Path::new(image).is_file()) {
        None => Ok(images.join(", ")),
        Some(image) => Err(format!("no {image}")),
    }
}

/// Whether `dir` is writable and has room.
fn place(dir: &Path) -> Result<String, String> {
    let shown = dir.display();
    let there = dir.ancestors().find(|dir| dir.is_dir());
    let there = there.ok_or_else(|| format!("no {shown}"))?;
    let writable = Command::new("test").arg("-w").arg(there).status();
    if !writable.is_ok_and(|status| status.success()) {
        return Err(format!("{shown} cannot be written"));
    }
    let mib = free_mib(there).ok_or_else(|| format!("{shown}: df does not tell its room"))?;
    let wanted = if workspace::source().is_some() {
        BUILD_MIB
    } else {
        KERNEL_MIB
    };
    if mib < wanted && !is_filled(dir) {
        return Err(format!(
            "{shown}: {mib} MiB free, up to {wanted} are needed"
        ));
    }
    Ok(format!("{shown}, {mib} MiB free"))
}

/// Room below `dir` for this user.
fn free_mib(dir: &Path) -> Option<u64> {
    // POSIX: a heading, then name, blocks, used, available, ...
    let said = Command::new("df").arg("-Pk").arg(dir).output().ok()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let available = said.lines().nth(1)?.split_whitespace().nth(3)?;
    Some(available.parse::<u64>().ok()? >> 10)
}

/// Whether the largest files exist already.
fn is_filled(dir: &Path) -> bool {
    dir.join("initramfs.cpio").is_file()
}

/// Space of a first boot in `target/`.
const BUILD_MIB: u64 = 600;
/// Space in the user's cache, for a kernel, unpacked and decompressed.
const KERNEL_MIB: u64 = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_names_its_fix() {
        let finding = |state, optional| Finding {
            what: "thing",
            state,
            fix: "get it".to_owned(),
            optional,
        };
        let text = shown(&[
            finding(Ok("1.0".to_owned()), false),
            finding(Err("gone".to_owned()), false),
            finding(Err("gone".to_owned()), true),
        ]);
        assert_eq!(
            text,
            "ok  thing: 1.0\nNO  thing: gone -> get it\n--  thing: gone -> get it\n"
        );
    }

    #[test]
    fn versions_of_qemu_are_read_and_compared() {
        let line = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b2)";
        assert_eq!(qemu_version(line), Some(OLDEST_QEMU));
        assert!(qemu_version("QEMU emulator version 2.12.0") < Some(OLDEST_QEMU));
        assert!(qemu_version("QEMU emulator version 10.0.2") > Some(OLDEST_QEMU));
        assert_eq!(qemu_version("something else"), None);
    }

    #[test]
    fn programs_get_the_same() {
        let lack = optional("thing", Err("gone".to_owned()), "get it");
        let found = needed("other", Ok("1.0".to_owned()), "get it");
        let text = json(&[lack, found]).to_string();
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            read,
            serde_json::json!([
                {"what": "thing", "found": null, "missing": "gone", "fix": "get it", "needed": false},
                {"what": "other", "found": "1.0", "missing": null, "fix": null, "needed": true},
            ])
        );
    }

    #[test]
    fn a_program_that_is_not_there_is_a_finding() {
        assert!(first_line("qboot-no-such-program", &[]).is_err());
        assert!(first_line("false", &[]).is_err());
    }
}
