//! Debian packages, unpacked without being installed.
//!
//! `apt-get download` finds and verifies a package, `dpkg-deb -x` unpacks it under
//! `target/debian/`. This needs no privileges and does not change the system's package
//! database. If the system's package lists are missing or too old, private ones are
//! fetched.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::process::{is_installed, run, run_gist, stdout_of};
use crate::{progress, workspace};

/// Which package lists to search.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Lists {
    /// The system's own, as `apt-get update` last left them.
    System,
    /// Private lists of the system's sources, for the named architecture
    /// (`amd64`, `i386`).
    Private { arch: String },
    /// Private lists of one suite, such as `bookworm-backports`, from the
    /// mirror that the system uses.
    Suite { suite: String, arch: String },
}

impl Lists {
    /// The system's own, or those of the release in `QBOOT_DEBIAN`, which has the
    /// kernels and programs of the recorded results.
    pub fn system() -> Lists {
        let wanted = std::env::var("QBOOT_DEBIAN").ok();
        match wanted.filter(|wanted| release().as_ref() != Some(wanted)) {
            None => Lists::System,
            Some(suite) => Lists::suite(suite, "amd64"),
        }
    }

    /// Those of one suite.
    pub fn suite(suite: impl Into<String>, arch: &str) -> Lists {
        Lists::Suite {
            suite: suite.into(),
            arch: arch.into(),
        }
    }

    /// [`Lists::system`] for another architecture.
    pub fn of(arch: &str) -> Lists {
        match Lists::system() {
            Lists::Suite { suite, .. } => Lists::suite(suite, arch),
            _ => Lists::Private { arch: arch.into() },
        }
    }
}

/// A package and the lists to find it in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Package {
    pub name: String,
    pub lists: Lists,
}

impl Package {
    /// `name` from the system's own lists.
    pub fn system(name: impl Into<String>) -> Self {
        Package {
            name: name.into(),
            lists: Lists::system(),
        }
    }

    /// `name` for this architecture from a suite.
    pub fn of_suite(suite: &str, arch: &str, name: &str) -> Self {
        Package {
            name: name.into(),
            lists: Lists::suite(suite, arch),
        }
    }
}

/// Fails without apt, and says what to do instead.
pub fn require_apt(wanted: &str, instead: &str) -> Result<()> {
    for tool in ["apt-get", "apt-cache", "dpkg-deb"] {
        if !is_installed(tool) {
            bail!("{tool} is needed to fetch {wanted} and is not here; {instead}");
        }
    }
    Ok(())
}

/// Unpacks `package` and returns the directory that holds its files.
///
/// If it was unpacked before, apt is not asked: delete the directory to get a newer
/// one.
///
/// # Errors
/// apt does not know the package or cannot download it.
pub fn unpack(package: &Package) -> Result<PathBuf> {
    let instead = "unpack it by hand and name its files";
    unpack_once(package, &key(package), &package.name, instead, download)
}

/// Unpacks `package` and everything that it depends on into one directory, for a
/// program with its own libraries.
///
/// # Errors
/// apt does not know the package or cannot download one of them.
pub fn unpack_with_dependencies(package: &Package) -> Result<PathBuf> {
    let key = format!("{}-whole", key(package));
    let what = format!("{} and what it depends on", package.name);
    let instead = "name a program that is installed";
    unpack_once(package, &key, &what, instead, download_whole)
}

/// Unpacks what `download` brings to the directory `key`, if that is not there.
fn unpack_once(
    package: &Package,
    key: &str,
    what: &str,
    instead: &str,
    download: fn(&Package, &Path) -> Result<Vec<PathBuf>>,
) -> Result<PathBuf> {
    let dir = workspace::target().join("debian").join(key);
    let _lock = workspace::lock(&format!("debian-{key}"))?;
    if dir.is_dir() {
        return Ok(dir);
    }
    require_apt(&package.name, instead)?;
    let step = progress::step(format!("fetching Debian package {what}"));
    let (count, size) = in_place_of(&dir, |partial, root| {
        let debs = download(package, partial)?;
        let mut size = 0;
        for deb in &debs {
            run_gist(Command::new("dpkg-deb").arg("-x").arg(deb).arg(root))?;
            size += fs::metadata(deb)?.len();
        }
        Ok((debs.len(), size / 1024))
    })
    .with_context(|| unreachable(&package.name))?;
    let shown = relative(&dir);
    step.done(&format!("{size} KiB in {count} .deb, unpacked to {shown}"));
    Ok(dir)
}

/// Makes the directory `dir` completely or not at all. `make` works in its first
/// argument and leaves the content of `dir` in the second.
fn in_place_of<T>(dir: &Path, make: impl FnOnce(&Path, &Path) -> Result<T>) -> Result<T> {
    // Appended: `with_extension` would replace a part of a kernel's version.
    let mut partial = dir.as_os_str().to_owned();
    partial.push(".part");
    let partial = PathBuf::from(partial);
    let clear = || match fs::remove_dir_all(&partial) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    // An earlier call may have been interrupted.
    clear().with_context(|| format!("clearing {}", partial.display()))?;
    let root = partial.join("root");
    let made = fs::create_dir_all(&partial)
        .with_context(|| format!("creating {}", partial.display()))
        .and_then(|()| make(&partial, &root))
        .and_then(|made| {
            fs::rename(&root, dir).with_context(|| format!("moving to {}", dir.display()))?;
            Ok(made)
        });
    // The partial directory could fill a full disk.
    clear()?;
    made
}

/// Precedes apt's message if it fetches nothing.
fn unreachable(package: &str) -> String {
    format!(
        "{package} cannot be had: check the network, the room on the disk and apt's sources, or \
         name files of your own (--kernel, --initrd)"
    )
}

/// Downloads `package` and everything that it depends on into `partial`.
fn download_whole(package: &Package, partial: &Path) -> Result<Vec<PathBuf>> {
    let debs = partial.join("debs");
    fs::create_dir_all(debs.join("partial"))?;
    // With an empty system apt names every dependency.
    let status = partial.join("status");
    fs::write(&status, "")?;
    let fetch = |refresh: bool| -> Result<()> {
        let mut command = Command::new("apt-get");
        command.args(prepare(&package.lists, refresh)?);
        for (name, path) in [("State::status", &status), ("Cache::Archives", &debs)] {
            command.arg(format!("-oDir::{name}={}", path.display()));
        }
        command.args([
            "-q",
            "-y",
            "-oAPT::Sandbox::User=",
            "--no-install-recommends",
        ]);
        run(command.args(["--download-only", "install", &package.name]))
    };
    with_fresh_lists_if_needed(fetch)?;
    packages(&debs)
}

/// The packages in `dir`.
fn packages(dir: &Path) -> Result<Vec<PathBuf>> {
    let files = fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(files
        .filter(|path| path.extension().is_some_and(|ext| ext == "deb"))
        .collect())
}

/// Tries with the lists that are here, which may be missing or outdated, and then with
/// refreshed ones.
fn with_fresh_lists_if_needed<T>(attempt: impl Fn(bool) -> Result<T>) -> Result<T> {
    attempt(false).or_else(|first| {
        attempt(true).map_err(|second| first.context(format!("with refreshed lists: {second:#}")))
    })
}

/// The package behind a meta-package: the first dependency of `package` whose name
/// begins with `prefix`.
///
/// # Errors
/// apt does not know the package, or it has no such dependency.
pub fn dependency(package: &Package, prefix: &str) -> Result<String> {
    with_fresh_lists_if_needed(|refresh| find_dependency(package, refresh, prefix))
        .with_context(|| unreachable(&package.name))
}

/// [`dependency`] with fresh lists, if the package that old ones name has left the
/// archive.
///
/// # Errors
/// As [`dependency`].
pub fn refreshed_dependency(package: &Package, prefix: &str) -> Result<String> {
    find_dependency(package, true, prefix)
}

fn find_dependency(package: &Package, refresh: bool, prefix: &str) -> Result<String> {
    require_apt(&package.name, "name the files that you have instead")?;
    show(package, refresh)?
        .lines()
        .filter_map(|line| line.strip_prefix("Depends:"))
        .flat_map(|list| list.split([',', '|']))
        .filter_map(|entry| entry.split_whitespace().next())
        .find(|name| name.starts_with(prefix))
        .map(str::to_owned)
        .with_context(|| format!("{} depends on no {prefix}* package", package.name))
}

fn show(package: &Package, refresh: bool) -> Result<String> {
    let output = Command::new("apt-cache")
        .args(prepare(&package.lists, refresh)?)
        .args(["show", "--no-all-versions"])
        .arg(qualified(package))
        .output()
        .context("starting apt-cache")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() || text.trim().is_empty() {
        bail!("apt does not know the package {}", package.name);
    }
    Ok(text)
}

/// The package's name in names of files: with its lists.
pub(crate) fn key(package: &Package) -> String {
    match &package.lists {
        Lists::System => package.name.clone(),
        Lists::Private { arch } => format!("{}-{arch}", package.name),
        Lists::Suite { suite, arch } => format!("{}-{suite}-{arch}", package.name),
    }
}

/// apt's name for the package, with its architecture unless that is apt's default.
fn qualified(package: &Package) -> String {
    match &package.lists {
        Lists::System => package.name.clone(),
        Lists::Private { arch } | Lists::Suite { arch, .. } => format!("{}:{arch}", package.name),
    }
}

/// Downloads `package` into `dir`.
fn download(package: &Package, dir: &Path) -> Result<Vec<PathBuf>> {
    with_fresh_lists_if_needed(|refresh| {
        run(Command::new("apt-get")
            .current_dir(dir)
            .args(prepare(&package.lists, refresh)?)
            // apt otherwise warns that its own unprivileged user cannot write here.
            .args(["-q", "-oAPT::Sandbox::User=", "download"])
            .arg(qualified(package)))
    })?;
    let debs = packages(dir)?;
    ensure!(
        !debs.is_empty(),
        "apt-get download left no package for {}",
        package.name
    );
    Ok(debs)
}

/// The options that make apt use `lists`. Fetches these if they are missing, or with
/// `refresh`: private ones in place of the system's.
fn prepare(lists: &Lists, refresh: bool) -> Result<Vec<OsString>> {
    if *lists == Lists::System && !refresh {
        return Ok(Vec::new());
    }
    let host = host_arch()?;
    let (name, arch) = match lists {
        Lists::System => ("system", &host),
        Lists::Private { arch } => ("system", arch),
        Lists::Suite { suite, arch } => (suite.as_str(), arch),
    };
    let state = workspace::target()
        .join("debian/.apt")
        .join(format!("{name}-{arch}"));
    let lists_dir = state.join("lists");
    let archives = state.join("archives");
    let mut options: Vec<OsString> = Vec::new();
    let mut option = |name: &str, value: &Path| {
        let mut text = OsString::from(format!("-o{name}="));
        text.push(value);
        options.push(text);
    };
    option("Dir::State::Lists", &lists_dir);
    option("Dir::Cache::Archives", &archives);
    option("Dir::Cache::pkgcache", Path::new(""));
    option("Dir::Cache::srcpkgcache", Path::new(""));
    if let Lists::Suite { suite, .. } = lists {
        let source = state.join("sources.list");
        fs::create_dir_all(&state)?;
        fs::write(&source, sources(suite)?)?;
        // It would prefer the release to its backports.
        option("APT::Default-Release", Path::new(suite));
        option("Dir::Etc::SourceList", &source);
        option("Dir::Etc::SourceParts", Path::new("/dev/null"));
        // apt would look for an installed version, which may be newer.
        option("Dir::State::status", Path::new("/dev/null"));
    }
    options.push(format!("-oAPT::Architectures::={arch}").into());
    if *arch != host {
        options.push(format!("-oAPT::Architectures::={host}").into());
    }
    // Two tests may need the lists at the same time.
    let _lock = workspace::lock(&format!("apt-{name}-{arch}"))?;
    if refresh || !lists_dir.is_dir() {
        for dir in [lists_dir.join("partial"), archives.join("partial")] {
            fs::create_dir_all(&dir)?;
        }
        let update = run(Command::new("apt-get").args(&options).args([
            "-q",
            "-oAPT::Sandbox::User=",
            "update",
        ]));
        // Without a network apt only warns, and leaves empty lists.
        if !holds_packages(&lists_dir) {
            fs::remove_dir_all(&lists_dir)?;
            update?;
            bail!("apt fetched no package lists");
        }
        if update.is_err() {
            // The others are good if a mirror is just replacing one index.
            eprintln!("some package lists could not be fetched, going on with the others");
        }
    }
    Ok(options)
}

/// apt's sources for a suite. What backports need besides is in their release.
fn sources(suite: &str) -> Result<String> {
    let mirror = mirror()?;
    let line = |suite: &str| format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n");
    Ok(match suite.strip_suffix("-backports") {
        Some(release) => line(suite) + &line(release),
        None => line(suite),
    })
}

fn holds_packages(lists_dir: &Path) -> bool {
    fs::read_dir(lists_dir).is_ok_and(|mut entries| {
        entries.any(|entry| {
            entry.is_ok_and(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
        })
    })
}

/// Debian's keys, which sign every suite.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The name of the system's release, such as `bookworm`.
pub fn release() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(name.trim_matches('"').to_owned())
}

/// The mirror that the system's main suite comes from.
fn mirror() -> Result<String> {
    let text = stdout_of(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(SITE) $(SUITE) $(REPO_URI)",
        "Created-By: Packages",
    ]))?;
    text.lines()
        .filter_map(|line| {
            let uri = line.rsplit(' ').next()?;
            let plain = !uri.contains("security") && uri.contains("/debian");
            plain.then(|| uri.trim_end_matches('/').to_owned())
        })
        .next()
        .context("apt has no Debian mirror in its sources")
}

/// The architecture of the system's packages, such as `amd64`.
pub fn host_arch() -> Result<String> {
    let name = stdout_of(Command::new("dpkg").arg("--print-architecture"))?;
    Ok(name.trim().to_owned())
}

fn relative(path: &Path) -> String {
    let source = workspace::source();
    source
        .and_then(|source| path.strip_prefix(source).ok())
        .unwrap_or(path)
        .display()
        .to_string()
}
