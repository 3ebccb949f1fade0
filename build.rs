//! Links the ROM with its linker script, and gives it the name of its commit. The
//! library and the tests are linked as usual.

use std::path::Path;
use std::process::Command;

/// The ROM's source: the build gets a plus if it differs from the commit.
const SOURCE: [&str; 9] = [
    "src",
    "boot16.S",
    "linker.ld",
    "build.rs",
    "Cargo.toml",
    "Cargo.lock",
    "rust-toolchain.toml",
    ".cargo",
    ".git_archival.txt",
];

fn main() {
    for file in ["linker.ld", "build.rs"] {
        println!("cargo:rerun-if-changed={file}");
    }
    // Host programs do not depend on the commit: otherwise every commit would compile
    // them anew.
    if std::env::var_os("CARGO_FEATURE_ROM").is_none() {
        return;
    }
    if std::env::var("TARGET").as_deref() != Ok("i586-unknown-linux-gnu") {
        println!("cargo::error=the feature rom is the firmware's: cargo xtask build makes it");
        return;
    }
    identify();
    let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    for arg in [
        "-nostdlib".into(),
        "-static".into(),
        "-no-pie".into(),
        // Other linkers read the script differently.
        "-fuse-ld=bfd".into(),
        format!("-Wl,--script={dir}/linker.ld"),
        "-Wl,--orphan-handling=error".into(),
        "-Wl,--gc-sections".into(),
        "-Wl,--build-id=none".into(),
        "-Wl,-z,noexecstack,-z,norelro,-z,max-page-size=4096".into(),
        "-Wl,--no-warn-rwx-segments".into(),
    ] {
        println!("cargo:rustc-link-arg-bins={arg}");
    }
}

/// Sets `QBOOT_IDENTITY`, the line in the image (version, commit, date, features).
fn identify() {
    for path in SOURCE {
        if Path::new(path).exists() {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    let commit = from_git().or_else(from_archive).unwrap_or_else(|| {
        println!("cargo:warning=neither git nor .git_archival.txt names the commit");
        Commit {
            id: "unknown".into(),
            date: "1980-01-01".into(),
        }
    });
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let mut identity = format!("qboot-rs {version} {} {}", commit.id, commit.date);
    if std::env::var_os("CARGO_FEATURE_MARKERS").is_some() {
        identity.push_str(" markers");
    }
    println!("cargo:rustc-env=QBOOT_IDENTITY={identity}");
}

/// The source's commit.
struct Commit {
    /// Twelve digits of its hash, and a plus where the source differs.
    id: String,
    /// The day of the commit where it was made, `YYYY-MM-DD`.
    date: String,
}

/// From git, if this directory is the top of a checkout.
fn from_git() -> Option<Commit> {
    let here = std::fs::canonicalize(".").ok()?;
    // An unpacked archive may lie in another repository.
    if std::fs::canonicalize(git(&["rev-parse", "--show-toplevel"])?).ok()? != here {
        return None;
    }
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", name])?;
        if Path::new(&path).exists() {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    let mut commit = parse(&git(&["log", "-1", "--format=%H %cs"])?)?;
    let mut diff = vec!["diff", "--quiet", "HEAD", "--"];
    diff.extend(SOURCE.iter().filter(|path| Path::new(path).exists()));
    if git(&diff).is_none() {
        commit.id.push('+');
    }
    Some(commit)
}

/// From what `git archive` has put into an archive of the source.
fn from_archive() -> Option<Commit> {
    parse(&std::fs::read_to_string(".git_archival.txt").ok()?)
}

/// Reads `hash date`; `None` if git has not filled the file in.
fn parse(text: &str) -> Option<Commit> {
    let (hash, date) = text.trim().split_once(' ')?;
    let id = hash.get(..12)?;
    let is_hash = id.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_hash && date.len() == 10).then(|| Commit {
        id: id.into(),
        date: date.into(),
    })
}

/// The output of git; `None` if it fails.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
