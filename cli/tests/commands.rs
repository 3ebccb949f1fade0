//! The commands that the documentation names are commands, with those options.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use qboot_cli::workspace;
use regex::Regex;

fn pages(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            pages(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "md") {
            found.push(path);
        }
    }
}

fn help(command: &str) -> Option<String> {
    let mut qboot = Command::new(env!("CARGO_BIN_EXE_qboot"));
    let output = qboot.args([command, "--help"]).output().expect("qboot");
    let text = String::from_utf8(output.stdout).expect("text");
    output.status.success().then_some(text)
}

#[test]
fn the_documentation_names_commands_and_options_that_there_are() {
    let root = workspace::root();
    let mut files = vec![root.join("README.md"), root.join("CONTRIBUTING.md")];
    pages(&root.join("docs"), &mut files);
    for program in ["cli", "xtask"] {
        files.push(root.join(program).join("src/examples.rs"));
    }
    // What is behind " -- " is QEMU's, behind a bar or a semicolon another program's.
    let mention = Regex::new(
        r"(?m)(?:cargo xtask|^ *\$? *qboot|`qboot) ([a-z]+)([^`|;#\n]*)|scripts/(run|build|bench|release)\.sh([^`|;#\n]*)",
    )
    .expect("a pattern");
    let option = Regex::new(r" (--[a-z][a-z-]*)").expect("a pattern");
    let mut helps = BTreeMap::new();
    let mut options = 0;
    for file in files {
        let page = fs::read_to_string(&file).expect("a page");
        // A line that goes on in the next one.
        let page = page.replace("\\\n", " ").replace("\\\\\n", " ");
        for found in mention.captures_iter(&page) {
            let group = |n| found.get(n).map(|text| text.as_str());
            let (Some(command), Some(rest)) = (group(1).or(group(3)), group(2).or(group(4))) else {
                continue;
            };
            let shown = file.display();
            let help = helps
                .entry(command.to_owned())
                .or_insert_with(|| help(command));
            let help = help.as_ref();
            let help = help.unwrap_or_else(|| panic!("{shown}: no command {command}"));
            let own = rest.split(" -- ").next().unwrap_or_default();
            for found in option.captures_iter(own) {
                let name = &found[1];
                let known = Regex::new(&format!(r"{name}\b[^-]")).expect("a pattern");
                assert!(known.is_match(help), "{shown}: {command} has no {name}");
                options += 1;
            }
        }
    }
    assert!(helps.len() > 10, "{:?}", helps.keys());
    assert!(options > 25, "only {options} options");
}

/// A script that hands its arguments to the host program has that one's help.
/// The others do nothing but print the comment at their head.
#[test]
fn every_script_tells_how_it_is_used() {
    let scripts = workspace::root().join("scripts");
    let mut count = 0;
    for entry in fs::read_dir(scripts).expect("a directory") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("a script");
        if text.contains("xtask.sh\" ") || path.ends_with("xtask.sh") {
            continue;
        }
        let head = text.lines().nth(1).expect("a comment");
        let output = Command::new(&path).arg("--help").output().expect("bash");
        let shown = String::from_utf8(output.stdout).expect("text");
        let first = shown.lines().next().unwrap_or_default();
        assert!(output.status.success(), "{}", path.display());
        assert_eq!(first, head.trim_start_matches("# "), "{}", path.display());
        count += 1;
    }
    assert!(count > 6, "only {count} scripts");
}
