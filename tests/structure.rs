//! How the source is cut: no file is too long to be read at once, modules of the
//! library lean on each other one way, and the tree in `docs/architecture.md` is
//! the one that is here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use xtask::workspace;

/// Lines that a file may have.
const LONGEST: usize = 500;
/// Lines that a function may have without a reason, comments left out: as in
/// `clippy.toml`, whose lint does not see functions with `#[rstest]`.
const LONGEST_FUNCTION: usize = 60;

/// The files of the source tree: what git knows, or in an archive what is there.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let listed = Command::new("git")
        .current_dir(root)
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .output();
    if let Ok(output) = listed
        && output.status.success()
        && root.join(".git").exists()
    {
        let names = String::from_utf8(output.stdout)?;
        let names = names.split_terminator('\0').map(PathBuf::from);
        return Ok(names.filter(|name| root.join(name).is_file()).collect());
    }
    let mut found = Vec::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(root.join(&dir))? {
            let entry = entry?;
            let name = dir.join(entry.file_name());
            match entry.file_type()?.is_dir() {
                true if name.ends_with("target") => {}
                true => dirs.push(name),
                false => found.push(name),
            }
        }
    }
    Ok(found)
}

#[test]
fn no_file_is_too_long() -> Result<()> {
    let root = workspace::root();
    let mut code = 0;
    let mut long = Vec::new();
    for name in files(&root)? {
        let extension = name.extension().and_then(|ext| ext.to_str());
        let is_code = matches!(
            extension,
            Some("rs" | "S" | "ld" | "sh" | "py" | "gdb" | "md")
        );
        if !is_code {
            continue;
        }
        code += 1;
        let text = fs::read_to_string(root.join(&name))?;
        let lines = text.lines().count();
        if lines > LONGEST {
            long.push(format!("{} has {lines} lines", name.display()));
        }
    }
    ensure!(code > 150, "only {code} files found");
    ensure!(long.is_empty(), "over {LONGEST}: {}", long.join(", "));
    Ok(())
}

/// The functions of a formatted file that are too long: their first lines, and
/// whether a reason is given above.
fn long_functions(text: &str) -> Vec<(&str, bool)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut long = Vec::new();
    for (n, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let words = code.split(['(', '<']).next().unwrap_or_default();
        if words.rsplit(' ').nth(1) != Some("fn") || code.starts_with("//") {
            continue;
        }
        let close = format!("{}}}", &line[..line.len() - code.len()]);
        // A declaration ends with a semicolon, a function of one line with its brace.
        let mut rest = lines[n..].iter();
        let head = rest.find(|line| line.ends_with(['{', ';', '}']));
        if head.is_none_or(|line| !line.ends_with('{')) {
            continue;
        }
        let body = rest.take_while(|line| **line != close);
        let code = body.map(|line| line.trim_start());
        let code = code.filter(|line| !line.is_empty() && !line.starts_with("//"));
        if code.count() > LONGEST_FUNCTION {
            let above = &lines[n.saturating_sub(8)..n];
            let reason = above.iter().any(|line| line.contains("too_many_lines"));
            long.push((*line, reason));
        }
    }
    long
}

#[test]
fn no_function_is_too_long_without_a_reason() -> Result<()> {
    let root = workspace::root();
    let mut reasons = 0;
    for name in files(&root)? {
        if name.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(root.join(&name))?;
            for (line, reason) in long_functions(&text) {
                ensure!(reason, "{}: {line}", name.display());
                reasons += 1;
            }
        }
    }
    ensure!(reasons > 3, "only {reasons} found");
    Ok(())
}

/// Files come and go: what a page says of them may be this much off, of 100.
const TOLERANCE: usize = 3;

#[test]
fn the_sizes_in_the_architecture_are_todays() -> Result<()> {
    let root = workspace::root();
    let page = fs::read_to_string(root.join("docs/architecture.md"))?;
    let today = |row: &str| {
        let mut rows = page.lines();
        let row = rows.find(|line| line.starts_with(&format!("| {row} |")));
        row.and_then(|row| row.trim_end_matches(" |").rsplit(" | ").next())
            .context("no such row")
    };
    let mut sizes = BTreeMap::new();
    for name in files(&root)? {
        if name
            .extension()
            .is_some_and(|ext| ext == "rs" || ext == "S")
        {
            let lines = fs::read_to_string(root.join(&name))?.lines().count();
            sizes.insert(name, lines);
        }
    }
    let count = |text: &str| text.replace(',', "").parse::<usize>();
    let near = |said: usize, is: usize| said.abs_diff(is) * 100 <= is * TOLERANCE;
    for (row, is) in [
        ("files of Rust and assembly", sizes.len()),
        ("lines in them", sizes.values().sum()),
    ] {
        let said = count(today(row)?)?;
        ensure!(near(said, is), "{row}: {is}, not {said}");
    }
    let mut longest: Vec<_> = sizes.iter().map(|(name, lines)| (*lines, name)).collect();
    longest.sort_by(|a, b| b.cmp(a));
    for (said, (is, name)) in today("the longest")?.split(", ").zip(longest) {
        let (file, lines) = said.split_once("` ").context("no number")?;
        let file = Path::new(file.trim_start_matches('`'));
        ensure!(
            name.ends_with(file) && near(count(lines)?, is),
            "{said}, not {} {is}",
            name.display()
        );
    }
    Ok(())
}

/// Whether `dir` is on the way to `file`, anywhere.
fn has_dir(file: &Path, dir: &Path) -> bool {
    file.ancestors().skip(1).any(|above| above.ends_with(dir))
}

/// The tree is code between two fences below the heading "The source"; a name stands
/// at the start of a line, or in the text behind it.
#[test]
fn the_tree_of_the_architecture_is_the_one_here() -> Result<()> {
    let root = workspace::root();
    let page = fs::read_to_string(root.join("docs/architecture.md"))?;
    let (_, source) = page
        .split_once("## The source")
        .context("no such heading")?;
    let tree = source.split("```").nth(1).context("no tree")?;
    let words: BTreeSet<&str> = tree
        .split(|c: char| c.is_whitespace() || ",;:()".contains(c))
        .filter(|word| !word.is_empty())
        .collect();
    // What is named is there, in some directory.
    let files = files(&root)?;
    let named = words.iter().filter(|word| {
        let extension = Path::new(word).extension().and_then(|ext| ext.to_str());
        matches!(extension, Some("rs" | "S" | "ld")) || word.ends_with('/')
    });
    for name in named {
        let there = match name.strip_suffix('/') {
            Some(dir) => files.iter().any(|file| has_dir(file, Path::new(dir))),
            None => files.iter().any(|file| file.ends_with(name)),
        };
        ensure!(there, "the tree has {name}, which is not there");
    }
    // What is there is named: modules of the library by their path, files of
    // the directories below them by their name.
    for file in &files {
        let Ok(below) = file.strip_prefix("src") else {
            continue;
        };
        let is_test = below
            .iter()
            .any(|part| part == "tests" || part == "tests.rs");
        let name = below.file_name().and_then(|name| name.to_str());
        let (Some(name), false, 1 | 2) = (name, is_test, below.iter().count()) else {
            continue;
        };
        let path = file.to_str().context("a name that is no text")?;
        ensure!(
            words.contains(path) || words.contains(name) && below.iter().count() == 2,
            "{path} is not in the tree"
        );
    }
    Ok(())
}

/// The modules that each module of the firmware's library names, `pci` and the
/// like with all that is below them; without tests and what they simulate.
fn arrows(root: &Path) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut found = BTreeMap::<String, BTreeSet<String>>::new();
    for file in files(root)? {
        let Ok(below) = file.strip_prefix("src") else {
            continue;
        };
        let mut parts = below.iter().filter_map(|part| part.to_str());
        let module = parts.next().context("no name")?.trim_end_matches(".rs");
        let apart = ["rom", "main", "lib", "sim", "capture"].contains(&module);
        if apart || parts.any(|part| part.starts_with("tests") || part.starts_with("sim")) {
            continue;
        }
        let text = fs::read_to_string(root.join(&file))?;
        let code = text.split("#[cfg(test)]\nmod tests {").next();
        let code = code.unwrap_or_default().lines();
        for line in code.filter(|line| !line.trim_start().starts_with("//")) {
            let named = line.split("crate::").skip(1).filter_map(|rest| {
                let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_'));
                rest.get(..end?)
            });
            let arrows = found.entry(module.to_owned()).or_default();
            arrows.extend(named.filter(|name| *name != module).map(str::to_owned));
        }
    }
    Ok(found)
}

/// What is left when modules that lean on nothing left are taken away, again
/// and again, is a circle and what leans on it.
#[test]
fn modules_lean_on_each_other_one_way() -> Result<()> {
    let mut left = arrows(&workspace::root())?;
    ensure!(left.len() > 15, "only {:?}", left.keys());
    ensure!(left["boot"].contains("kernel"), "{:?}", left["boot"]);
    loop {
        let modules: BTreeSet<String> = left.keys().cloned().collect();
        left.retain(|_, named| named.iter().any(|name| modules.contains(name)));
        if left.len() == modules.len() {
            break;
        }
    }
    ensure!(left.is_empty(), "in a circle, or above one: {left:?}");
    Ok(())
}
