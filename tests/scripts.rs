//! What `scripts/boots.sh` makes of tests that fail and of tests that cannot run:
//! run by real cargo, with a package of the same name whose tests do as told.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use qboot_tests::skip;
use tempfile::TempDir;
use xtask::workspace;

const MANIFEST: &str = "\
[workspace]
[package]
name = \"qboot-tests\"
edition = \"2024\"
";

/// Each does what a file of its name says: run after run, `x` to fail, anything else
/// and nothing to pass. `skips` is skipped, by the program that `SKIPPING` names.
const TESTS: &str = r#"
use std::fs;
use std::path::Path;

fn fails(name: &str) -> bool {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let turns = fs::read_to_string(&file).unwrap_or_default();
    fs::write(file, turns.get(1..).unwrap_or_default()).unwrap();
    turns.starts_with('x')
}

#[test]
fn first() {
    assert!(!fails("first"), "first was busy");
}

#[test]
fn second() {
    assert!(!fails("second"), "second was busy");
}

#[test]
fn dies() {
    if fails("dies") {
        std::process::abort();
    }
}

#[test]
fn skips() {
    let mut skipping = std::process::Command::new(std::env::var_os("SKIPPING").unwrap());
    let status = skipping.args(["--exact", "--ignored", "a_skip"]).status().unwrap();
    assert!(status.success() && !fails("skips"), "skips was busy");
}
"#;

#[test]
#[ignore = "skips, for the test of the script"]
fn a_skip() {
    skip("a_skip", "this is for the count");
}

/// Runs the script over the package in `dir`, whose tests take these `turns`.
fn run(dir: &Path, turns: &[(&str, &str)]) -> Result<(bool, String)> {
    for name in ["first", "second", "dies", "skips"] {
        let own = turns.iter().find(|(test, _)| *test == name);
        fs::write(dir.join(name), own.map_or("", |(_, turns)| turns))?;
    }
    let output = Command::new(dir.join("scripts/boots.sh"))
        .env("SKIPPING", std::env::current_exe()?)
        .env_remove("CARGO_TARGET_DIR")
        .stderr(Stdio::inherit())
        .output()
        .context("starting the script")?;
    Ok((output.status.success(), String::from_utf8(output.stdout)?))
}

/// A package that the script takes for ours.
fn package() -> Result<TempDir> {
    let temporary = tempfile::tempdir()?;
    let dir = temporary.path();
    for name in ["scripts", "src", "tests"] {
        fs::create_dir(dir.join(name))?;
    }
    let script = "scripts/boots.sh";
    fs::copy(workspace::root().join(script), dir.join(script))?;
    fs::write(dir.join("Cargo.toml"), MANIFEST)?;
    fs::write(dir.join("src/lib.rs"), "")?;
    fs::write(dir.join("tests/busy.rs"), TESTS)?;
    Ok(temporary)
}

const RECORD: &str = "tests/unstable.txt";

#[test]
fn one_unstable_test_passes_and_skips_are_counted() -> Result<()> {
    let package = package()?;
    let dir = package.path();
    let counted = "\n1 skipped\nSKIPPED a_skip: this is for the count\n";
    for (turns, passes, end) in [
        (&[][..], true, counted),
        (&[("first", "x")], true, "1 unstable, 0 broken\n"),
        // Run again it skips again, and is counted once.
        (&[("skips", "x")], true, "1 unstable, 0 broken\n"),
        (&[("first", "xx")], false, "0 unstable, 1 broken\n"),
        (
            &[("first", "x...................x")],
            false,
            "0 unstable, 1 broken\n",
        ),
        (
            &[("first", "x"), ("second", "x")],
            false,
            "2 unstable, 0 broken\n",
        ),
        (
            &[("first", "x"), ("second", "xxx")],
            false,
            "1 unstable, 1 broken\n",
        ),
    ] {
        fs::write(dir.join(RECORD), "")?;
        let (passed, said) = run(dir, turns)?;
        ensure!(passed == passes, "{turns:?}: {said}");
        ensure!(said.contains(counted), "{turns:?}: {said}");
        ensure!(said.ends_with(end), "{turns:?}: {said}");
        for (name, _) in turns {
            let last = said.split("What failed at first:").nth(1);
            let last = last.context("nothing of what failed")?;
            ensure!(last.contains(&format!("{name} was busy")), "{said}");
        }
    }
    // What a program that dies had to say is lost.
    let (passed, said) = run(dir, &[("dies", "x")])?;
    ensure!(
        !passed && said.ends_with("0 unstable, 1 broken\n"),
        "{said}"
    );
    Ok(())
}

#[test]
fn a_test_is_unstable_once() -> Result<()> {
    let package = package()?;
    let dir = package.path();
    for (name, passes) in [("first", true), ("second", true), ("first", false)] {
        let (passed, said) = run(dir, &[(name, "x")])?;
        ensure!(passed == passes, "{said}");
        let record = fs::read_to_string(dir.join(RECORD))?;
        ensure!(record.contains(&format!(" busy {name}\n")), "{record}");
        ensure!(said.contains(&format!("{RECORD}:\n{record}")), "{said}");
    }
    let record = fs::read_to_string(dir.join(RECORD))?;
    ensure!(record.lines().count() == 2, "{record}");
    Ok(())
}

/// What a workflow takes from others is named by its digest, which nobody can move, and
/// what it runs of ours is there.
#[test]
fn workflows_name_digests_and_scripts_that_exist() -> Result<()> {
    let root = workspace::root();
    let mut taken = 0;
    for entry in fs::read_dir(root.join(".github/workflows"))? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        for line in text.lines() {
            let line = line.trim_start().trim_start_matches("- ");
            let at = || format!("{}: {line}", path.display());
            let digest = if let Some(action) = line.strip_prefix("uses: ") {
                action.split('@').nth(1).map(|rest| (rest, 40))
            } else if let Some(image) = line.strip_prefix("container: ") {
                image.split("@sha256:").nth(1).map(|rest| (rest, 64))
            } else {
                let words = line.split([' ', ',']);
                for script in words.filter(|word| word.starts_with("scripts/")) {
                    ensure!(root.join(script).is_file(), "{}", at());
                }
                continue;
            };
            let (rest, len) = digest.with_context(at)?;
            let hex = rest.split(' ').next().unwrap_or_default();
            let is_hex = hex.len() == len && hex.chars().all(|c| c.is_ascii_hexdigit());
            ensure!(is_hex, "{}", at());
            taken += 1;
        }
    }
    ensure!(taken > 5, "only {taken} actions and containers");
    Ok(())
}
