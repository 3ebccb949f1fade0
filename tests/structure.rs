//! Modules of the library lean on each other one way.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, ensure};
use qboot_tests::files_below;
use xtask::workspace;

/// The library from top to bottom: a module names only modules of the rows below its own.
const ROWS: [&[&str]; 11] = [
    &["boot"],
    &["log", "markers", "wake"],
    &["kernel"],
    &["tables"],
    &["pci"],
    &["settings"],
    &["chipset"],
    &["memory", "fw_cfg"],
    &["error"],
    &["platform", "layout"],
    &["phys", "text", "byte_set"],
];

/// Not held to the rows: the ROM above the library, and what only tests use.
const APART: [&str; 7] = ["rom", "main", "lib", "sim", "capture", "tests", "fake"];

/// The identifier that a text starts with.
fn first_word(text: &str) -> &str {
    let text = text.trim_start();
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_'));
    &text[..end.unwrap_or(text.len())]
}

/// The modules behind `crate::`, one by one or in braces.
fn named(code: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let Some(list) = rest.strip_prefix('{') else {
            found.push(first_word(rest));
            continue;
        };
        let (mut depth, mut start) = (0, 0);
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    found.push(first_word(&list[start..at]));
                    start = at + 1;
                    if c == '}' {
                        break;
                    }
                }
                _ => {}
            }
        }
    }
    found
}

#[test]
fn paths_are_read_alone_and_in_braces() {
    let code = "use crate::{a::{B, c}, d,\n e::F};\nuse crate::g; crate::h::i()";
    assert_eq!(named(code), ["a", "d", "e", "g", "h"]);
}

/// Which modules each names: files and folders of `src/` with all that is in them.
fn arrows() -> Result<BTreeMap<String, BTreeSet<String>>> {
    let src = workspace::root().join("src");
    let mut found = BTreeMap::<String, BTreeSet<String>>::new();
    for file in files_below(&src)? {
        let path = file.strip_prefix(&src)?.with_extension("");
        let path: Vec<_> = path.to_str().context("no text")?.split('/').collect();
        let module = path[0];
        if path.iter().any(|name| APART.contains(name)) {
            continue;
        }
        let text = fs::read_to_string(&file)?;
        let code = text.split("#[cfg(test)]\nmod tests {").next();
        let lines = code.unwrap_or_default().lines();
        let code: Vec<_> = lines
            .filter(|l| !l.trim_start().starts_with("//"))
            .collect();
        let code = code.join("\n");
        let others = named(&code).into_iter();
        let others = others.filter(|name| !name.is_empty() && *name != module);
        let arrows = found.entry(module.to_owned()).or_default();
        arrows.extend(others.map(str::to_owned));
    }
    ensure!(found.len() > 10, "only {:?}", found.keys());
    ensure!(found["boot"].contains("kernel"), "{:?}", found["boot"]);
    Ok(found)
}

#[test]
fn modules_name_what_lies_below() -> Result<()> {
    let row = |module: &str| ROWS.iter().position(|row| row.contains(&module));
    for (module, named) in arrows()? {
        let own = row(&module).with_context(|| format!("{module} stands in no row"))?;
        for other in named
            .iter()
            .filter(|other| !APART.contains(&other.as_str()))
        {
            let below = row(other).with_context(|| format!("{other} stands in no row"))?;
            ensure!(own < below, "{module} names {other}, which is not below it");
        }
    }
    Ok(())
}
