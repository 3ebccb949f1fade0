//! Completions as each shell gives them, from where it looks for them by itself.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use qboot_tests::skip;
use xtask::process::{is_installed, run, stdout_of};

use super::{collected, install};

/// What is typed, and a word that is only in what comes of it.
const TYPED: [(&str, &str); 5] = [
    ("qboot ins", "inspect"),
    ("qboot run --dry", "--dry-run"),
    ("qboot run --mode rep", "report"),
    ("qboot kernel cloud-amd64-b", "cloud-amd64-backports"),
    ("qboot completions fi", "fish"),
];

fn has(shell: &str, test: &str) -> bool {
    let is_here = is_installed(shell);
    if !is_here {
        skip(test, &format!("no {shell}"));
    }
    is_here
}

/// Types into a zsh that has a terminal, and waits for what shall come of it.
const ZSH: &str = r#"
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "path=($1/bin \$path) fpath=($1/share/zsh/site-functions \$fpath)"
zpty -w shell "autoload -U compinit; compinit -D -u; PROMPT='rea''dy> '"
zpty -r shell out '*ready> *'
shift
while [[ $# -gt 0 ]]; do
    zpty -n -w shell "$1"$'\t'
    print -u2 -r -- "$1, waiting for $2"
    zpty -r shell out "*$2*"
    zpty -n -w shell $'\x15'
    shift 2
done
zpty -d shell
"#;

#[test]
fn zsh_completes() -> Result<()> {
    if !has("zsh", "zsh_completes") {
        return Ok(());
    }
    let prefix = tempfile::tempdir()?;
    install(prefix.path())?;
    let mut zsh = Command::new("timeout");
    zsh.args(["60", "zsh", "-fc", ZSH, "zsh"])
        .arg(prefix.path());
    for (typed, word) in TYPED {
        zsh.args([typed, word]);
    }
    run(zsh.env("TERM", "dumb"))
}

#[test]
fn fish_completes() -> Result<()> {
    if !has("fish", "fish_completes") {
        return Ok(());
    }
    let prefix = tempfile::tempdir()?;
    install(prefix.path())?;
    // Of a program that it does not find fish completes nothing.
    let mut path = prefix.path().join("bin").into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    for (typed, word) in TYPED {
        let mut fish = Command::new("fish");
        fish.args(["-c", &format!("complete -C '{typed}'")])
            .env("HOME", prefix.path())
            .env("PATH", &path)
            .env("XDG_DATA_DIRS", prefix.path().join("share"));
        let offered = stdout_of(&mut fish)?;
        let words = offered.lines().map(|line| line.split('\t').next());
        let words: Vec<_> = words.flatten().collect();
        ensure!(words == [word], "{typed}: {offered}");
    }
    Ok(())
}

/// As bash does when the key is pressed.
const BASH: &str = r#"
. "$1/share/bash-completion/completions/qboot"
COMP_WORDS=($2) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_qboot qboot "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
complete -p qboot >/dev/null
"#;

#[test]
fn bash_completes() -> Result<()> {
    let prefix = tempfile::tempdir()?;
    install(prefix.path())?;
    for (typed, word) in TYPED {
        let mut bash = Command::new("bash");
        let offered = stdout_of(
            bash.args(["-ec", BASH, "bash"])
                .arg(prefix.path())
                .arg(typed),
        )?;
        ensure!(offered.trim_end() == word, "{typed}: {offered}");
    }
    Ok(())
}

/// Below /usr each shell looks where Debian has told it to.
#[test]
fn the_package_has_them_where_debian_looks() -> Result<()> {
    const TEST: &str = "the_package_has_them_where_debian_looks";
    if !Path::new("/etc/debian_version").exists() {
        skip(TEST, "this is no Debian");
        return Ok(());
    }
    let root = tempfile::tempdir()?;
    let mut package = Command::new(collected()?.join("install.sh"));
    run(package
        .args(["--prefix", "/usr"])
        .env("DESTDIR", root.path()))?;
    for (shell, list, file) in [
        ("zsh", "print -l $fpath", "_qboot"),
        ("fish", "string join \\n $fish_complete_path", "qboot.fish"),
    ] {
        if !has(shell, TEST) {
            continue;
        }
        let mut shell = Command::new(shell);
        shell.args(["-c", list]).env_remove("XDG_DATA_DIRS");
        let dirs = stdout_of(shell.env("HOME", root.path()))?;
        let dirs = dirs.lines().map(|dir| dir.trim_start_matches('/'));
        let mut files = dirs.map(|dir| root.path().join(dir).join(file));
        ensure!(files.any(|file| file.is_file()), "{file} is in none");
    }
    let bash = "usr/share/bash-completion/completions/qboot";
    ensure!(root.path().join(bash).is_file(), "no {bash}");
    Ok(())
}
