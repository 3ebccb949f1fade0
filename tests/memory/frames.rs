//! How deep the stack can get by the ROM's instructions: the frames of the
//! deepest chain of calls, whether or not any machine leads there, and that
//! nothing calls itself.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use qboot::layout;
use xtask::build;

/// What the disassembly of a function says.
#[derive(Default)]
struct Function {
    name: String,
    /// Bytes that it takes of the stack itself.
    frame: u32,
    /// Addresses that it calls, with 4 bytes for the return address, or ends
    /// with a jump to, with none.
    calls: Vec<(u64, u32)>,
    /// Whether it calls through a pointer.
    indirect: bool,
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// Every function of the ROM by its address.
fn functions() -> Result<BTreeMap<u64, Function>> {
    let elf = build::rom(&[])?.elf;
    let mut objdump = Command::new("objdump");
    let output = objdump.args(["-d", "-C", "--no-show-raw-insn"]).arg(elf);
    let output = output.output().context("objdump")?;
    let mut functions = BTreeMap::new();
    let mut current: Option<(u64, Function)> = None;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some(head) = line.strip_suffix(">:") {
            functions.extend(current.take());
            let (at, name) = head.split_once(" <").context("a line of objdump's")?;
            let function = Function {
                name: name.to_owned(),
                ..Function::default()
            };
            current = hex(at).map(|at| (at, function));
            continue;
        }
        let Some((_, function)) = &mut current else {
            continue;
        };
        let Some((_, code)) = line.split_once(":\t") else {
            continue;
        };
        let (code, operand) = code.split_once(' ').unwrap_or((code, ""));
        let operand = operand.trim();
        if code.starts_with("push") {
            function.frame += 4;
        } else if code == "sub" && operand.ends_with(",%esp") {
            let bytes = operand
                .strip_prefix("$0x")
                .and_then(|op| op.split(',').next());
            let bytes = bytes.and_then(hex).context("a frame without a size")?;
            function.frame += u32::try_from(bytes)?;
        } else if code.starts_with("call") || code.starts_with('j') {
            let cost = if code.starts_with("call") { 4 } else { 0 };
            match operand.split(' ').next().and_then(hex) {
                Some(to) => function.calls.push((to, cost)),
                None => function.indirect |= cost != 0,
            }
        }
    }
    functions.extend(current);
    ensure!(functions.len() > 100, "{} functions", functions.len());
    Ok(functions)
}

struct Walk<'f> {
    functions: &'f BTreeMap<u64, Function>,
    /// What a call through a pointer may cost.
    indirect: u32,
    done: BTreeMap<u64, (u32, Vec<u64>)>,
    path: Vec<u64>,
}

impl Walk<'_> {
    /// Bytes below a call of this function, and the calls on the way.
    fn depth(&mut self, at: u64) -> Result<(u32, Vec<u64>)> {
        if let Some(done) = self.done.get(&at) {
            return Ok(done.clone());
        }
        let functions = self.functions;
        let Some(function) = functions.get(&at) else {
            // A jump inside of a function.
            return Ok((0, Vec::new()));
        };
        if self.path.contains(&at) {
            // A number's digits, ten deep at the most.
            if function.name == "qboot::text::decimal" && self.path.last() == Some(&at) {
                return Ok((9 * (function.frame + 4), Vec::new()));
            }
            bail!("{} calls itself", function.name);
        }
        self.path.push(at);
        let mut deepest = (
            if function.indirect { self.indirect } else { 0 },
            Vec::new(),
        );
        for (to, cost) in &function.calls {
            // Loops jump to their own function's start.
            if *to == at && *cost == 0 {
                continue;
            }
            let (below, chain) = self.depth(*to)?;
            if below + cost > deepest.0 {
                deepest = (below + cost, chain);
            }
        }
        self.path.pop();
        deepest.0 += function.frame;
        deepest.1.insert(0, at);
        self.done.insert(at, deepest.clone());
        Ok(deepest)
    }
}

/// What no run shows: a chain of calls that no machine leads to.
#[test]
fn no_chain_of_calls_fills_the_stack() -> Result<()> {
    let functions = functions()?;
    let named = |text: &str| {
        let mut functions = functions.iter();
        let found = functions.find(|(_, function)| function.name == text);
        found
            .map(|(at, _)| *at)
            .with_context(|| format!("no {text}"))
    };
    let mut walk = Walk {
        functions: &functions,
        indirect: 0,
        done: BTreeMap::new(),
        path: Vec::new(),
    };
    // A function without a direct call is called through a pointer, or is an entry.
    let called = |at: &u64| {
        let mut callers = functions.values();
        callers.any(|function| function.calls.iter().any(|(to, _)| to == at))
    };
    let entries = [
        "firmware::rust_main",
        "firmware::rom::exception::rust_exception",
    ];
    let mut indirect = 0;
    for (at, function) in &functions {
        let ours = ["qboot::", "firmware::"].map(|of| function.name.starts_with(of));
        if ours.contains(&true) && !entries.contains(&&*function.name) && !called(at) {
            let (depth, _) = walk.depth(*at)?;
            println!("{depth:6} bytes by a pointer: {}", function.name);
            indirect = indirect.max(depth + 4);
        }
    }
    walk.indirect = indirect;
    walk.done.clear();
    // An exception comes on top of anything: the processor pushes 12 bytes.
    let mut total = 0;
    for entry in [entries[0], entries[1]] {
        let (depth, chain) = walk.depth(named(entry)?)?;
        println!("{depth:6} bytes: {entry}");
        for at in chain {
            let function = &functions[&at];
            println!("{:12} {}", function.frame, function.name);
        }
        total += depth + 16;
    }
    ensure!(
        total <= layout::STACK.len() * 3 / 4,
        "{total} of {} bytes",
        layout::STACK.len()
    );
    Ok(())
}
