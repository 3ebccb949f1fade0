//! What is installed: the package by Debian's own tools, the files by the
//! script, both removed again without a trace.

#[path = "package/shells.rs"]
mod shells;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use qboot_tests::{files_below, links, skip};
use xtask::process::{is_installed, run, stdout_of};
use xtask::{dist, package, release, workspace};

/// What is installed, collected once, with the host program as tests build it.
fn collected() -> Result<PathBuf> {
    static FILES: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let collect = || {
        let dir = workspace::target().join("tests").join("dist");
        dist::collect(&qboot_tests::program()?, &dir)?;
        // Of a release, by cargo-about.
        fs::write(dir.join("NOTICES.txt"), "terms")?;
        Ok(dir)
    };
    let found =
        FILES.get_or_init(|| collect().map_err(|error: anyhow::Error| format!("{error:#}")));
    found.clone().map_err(anyhow::Error::msg)
}

/// Installs under a prefix, as who has unpacked a release does.
fn install(prefix: &Path) -> Result<()> {
    let mut script = Command::new(collected()?.join("install.sh"));
    run(script.arg("--prefix").arg(prefix))
}

/// They are tried by hand, since their tools are other distributions'.
#[test]
fn recipes_are_of_this_version_and_build_as_the_page_says() -> Result<()> {
    let read =
        |path: &str| Ok::<_, anyhow::Error>(fs::read_to_string(workspace::root().join(path))?);
    let page = read("docs/packaging.md")?;
    let options = "--features rom --profile rom --target i586-unknown-linux-gnu";
    for (recipe, version) in [
        ("PKGBUILD", format!("\npkgver={}\n", dist::VERSION)),
        (
            "qboot-rs.spec",
            format!("\nVersion:        {}\n", dist::VERSION),
        ),
        ("default.nix", format!("version = \"{}\";", dist::VERSION)),
    ] {
        let text = read(&format!("share/packaging/{recipe}"))?;
        ensure!(text.contains(&version), "{recipe}: not {version:?}");
        ensure!(text.contains(options), "{recipe}: not {options}");
        ensure!(page.contains(recipe), "{recipe} is not on the page");
    }
    let archive = format!("qboot-rs-{}.tar.gz", dist::VERSION);
    ensure!(page.contains(&archive), "{archive} is not on the page");
    Ok(())
}

#[test]
fn the_script_installs_and_removes() -> Result<()> {
    let from = collected()?;
    let rom = fs::read(from.join("qboot.rom"))?;
    let dir = tempfile::tempdir()?;
    let prefix = dir.path().join("opt/qboot");
    let script = |arguments: &[&str]| {
        let mut command = Command::new(from.join("install.sh"));
        stdout_of(command.arg("--prefix").arg(&prefix).args(arguments))
    };
    script(&[])?;
    release::check_installed(&prefix, &rom)?;
    let descriptor = fs::read_to_string(prefix.join("share/qemu/firmware/60-qboot-rs.json"))?;
    let named = format!("\"{}/share/qemu/qboot-rs.rom\"", prefix.display());
    ensure!(descriptor.contains(&named), "{descriptor}");
    let others = prefix.join("share/qemu/other.rom");
    fs::write(&others, "")?;
    script(&["--uninstall"])?;
    ensure!(
        files_below(&prefix)? == [others],
        "left: {:?}",
        files_below(&prefix)?
    );
    Ok(())
}

/// An installed program finds what it can, and says plainly what it cannot.
#[test]
fn the_program_does_without_a_source_tree() -> Result<()> {
    let dir = tempfile::tempdir()?;
    install(dir.path())?;
    let program = || {
        let mut command = Command::new(dir.path().join("bin/qboot"));
        command.env_remove("CARGO_MANIFEST_DIR").current_dir("/");
        command.env("XDG_CACHE_HOME", dir.path().join("cache"));
        command
    };
    let rom = dir.path().join("share/qemu/qboot-rs.rom");
    let kernel = dir.path().join("kernel");
    fs::write(&kernel, [0; 4096])?;
    let mut dry = program();
    let line = stdout_of(
        dry.args(["run", "--dry-run", "--kernel"])
            .arg(&kernel)
            .args(["--initrd", "/dev/null"]),
    )?;
    ensure!(line.contains(&format!("-bios {}", rom.display())), "{line}");
    let found = stdout_of(program().arg("doctor"))?;
    ensure!(
        found.contains(&format!("ok  ROM: {}, ", rom.display())),
        "{found}"
    );
    for task in [
        "build", "bench", "boots", "timeline", "matrix", "figures", "release",
    ] {
        let output = program().arg(task).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            !output.status.success() && said.contains("needs the source tree"),
            "{task}: {said}"
        );
    }
    Ok(())
}

#[test]
fn manual_pages_say_what_the_help_does_not() -> Result<()> {
    let dir = tempfile::tempdir()?;
    install(dir.path())?;
    let pages = files_below(&dir.path().join("share/man/man1"))?;
    ensure!(pages.len() == 8, "{pages:?}");
    for page in pages {
        let text = stdout_of(Command::new("gzip").arg("-dc").arg(&page))?;
        let name = page.display();
        ensure!(text.starts_with(".ie"), "{name}: {text}");
        for heading in ["SYNOPSIS", "EXIT STATUS", "SEE ALSO"] {
            let heading = format!(".SH \"{heading}\"\n");
            let plain = heading.replace('"', "");
            ensure!(
                text.contains(&heading) || text.contains(&plain),
                "{name}: no {plain}{text}"
            );
        }
        let of_run = page.ends_with("qboot-run.1.gz");
        ensure!(
            !of_run || text.contains(".SH EXAMPLES\n.nf\n"),
            "{name}: {text}"
        );
        ensure!(!text.contains("PREFIX"), "{name}: {text}");
        let file = format!("{}/share/qemu/qboot", dir.path().display());
        ensure!(!of_run || text.contains(&file), "{name}: {text}");
    }
    Ok(())
}

/// The pages that the installed README leads to are installed.
#[test]
fn the_documents_lead_to_each_other() -> Result<()> {
    let dir = tempfile::tempdir()?;
    install(dir.path())?;
    let doc = dir.path().join("share/doc").join(dist::NAME);
    let readme = fs::read_to_string(doc.join("README.md"))?;
    let files = links(&readme).into_iter();
    let files = files.filter_map(|link| link.split('#').next());
    let targets: Vec<_> = files.filter(|to| !to.is_empty()).collect();
    ensure!(targets.len() > 15, "{targets:?}");
    for to in targets {
        ensure!(doc.join(to).is_file(), "{to} is not installed");
    }
    Ok(())
}

#[test]
fn the_debian_package_installs_and_removes() -> Result<()> {
    if !is_installed("dpkg-deb") {
        skip(
            "the_debian_package_installs_and_removes",
            "this is no Debian",
        );
        return Ok(());
    }
    let from = collected()?;
    let rom = fs::read(from.join("qboot.rom"))?;
    let dir = tempfile::tempdir()?;
    let package = package::debian(&from, dir.path())?;
    // A root of its own, with the database that dpkg wants there.
    let root = dir.path().join("root");
    for name in ["info", "updates"] {
        fs::create_dir_all(root.join("var/lib/dpkg").join(name))?;
    }
    fs::write(root.join("var/lib/dpkg/status"), "")?;
    let dpkg = |arguments: &[&str]| {
        let mut command = Command::new("dpkg");
        command.args(["--force-not-root", "--force-depends", "--force-bad-path"]);
        stdout_of(
            command
                .arg("--log=/dev/null")
                .arg("--root")
                .arg(&root)
                .args(arguments),
        )
    };
    let package = package.to_string_lossy();
    dpkg(&["--install", &package])?;
    release::check_installed(&root.join("usr"), &rom)?;
    let listed = dpkg(&["--status", dist::NAME])?;
    ensure!(listed.contains("Status: install ok installed"), "{listed}");
    ensure!(
        root.join("usr/share/doc/qboot-rs/copyright").is_file(),
        "no copyright"
    );
    ensure!(dpkg(&["--verify", dist::NAME])?.is_empty(), "changed");
    fs::write(root.join("usr/share/qemu/qboot-rs.rom"), "")?;
    let changed = dpkg(&["--verify", dist::NAME])?;
    ensure!(changed.contains("qboot-rs.rom"), "{changed:?}");
    dpkg(&["--purge", dist::NAME])?;
    let usr = root.join("usr");
    ensure!(
        !usr.exists() || files_below(&usr)?.is_empty(),
        "left: {:?}",
        files_below(&usr)?
    );
    Ok(())
}

/// Also what it has to say of the manual pages, which it gives to `man`.
#[test]
#[ignore = "needs lintian"]
fn lintian_has_no_fault_to_find() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let package = package::debian(&collected()?, dir.path())?;
    let mut lintian = Command::new("lintian");
    let lintian = lintian.args(["--allow-root", "--fail-on", "error,warning"]);
    let output = lintian.arg(package).output().context("lintian")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && !text.contains("W: "), "{text}");
    Ok(())
}
