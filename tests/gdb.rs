//! The sessions with gdb that docs/debugging.md shows, held with a real gdb.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use qboot_tests::machines::Q35;
use qboot_tests::{for_gdb, rom};
use rstest::rstest;
use xtask::kernel::{self, Flavour};
use xtask::workspace;

/// The block of the page that has `mark` in it.
fn block<'a>(page: &'a str, mark: &str) -> Result<&'a str> {
    let found = page.split("```").find(|block| block.contains(mark));
    found.with_context(|| format!("no session with {mark}"))
}

/// A line without what another version of the source or of gdb changes: numbers
/// of lines, bytes and operands of instructions, and the gaps that tables are drawn
/// with.
fn shape(line: &str) -> String {
    if let [address, _bytes, instruction] = line.split('\t').collect::<Vec<_>>()[..] {
        let mnemonic = instruction.split(' ').next().unwrap_or(instruction);
        return format!("{address} {mnemonic}");
    }
    let line = match line.split_once(['\t', ' ']) {
        Some((number, rest)) if number.trim_end_matches(':').parse::<u32>().is_ok() => rest,
        _ => line,
    };
    let line = match line.rsplit_once(".rs:") {
        Some((before, number)) if number.parse::<u32>().is_ok() => before,
        _ => line,
    };
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What gdb answers to `commands`, each after a line with a plus before it.
fn answers(commands: &str, options: &[(&str, &str)]) -> Result<String> {
    let root = workspace::root();
    let dir = tempfile::tempdir()?;
    let file = |name: &str| dir.path().join(name);
    let socket = file("socket");
    let init = fs::read_to_string(root.join(".gdbinit"))?;
    let connect = format!("target remote {}", socket.display());
    ensure!(init.contains("target remote :1234\n"), "{init}");
    fs::write(file("init"), init.replace("target remote :1234", &connect))?;
    fs::write(
        file("session"),
        format!("set trace-commands on\n{commands}disconnect\n"),
    )?;
    // gdb takes the registers of qemu-system-x86_64 for 64-bit ones.
    let qemu = Q35
        .qemu()?
        .program("qemu-system-i386")
        .default_devices()
        .memory_mib(128)
        .kernel(kernel::debian(Flavour::CloudAmd64)?.bzimage)
        .append("console=ttyS0");
    let _vm = for_gdb(qemu.options(options), &socket)?;
    let mut gdb = Command::new("timeout");
    // By lines, as on a terminal: what gdb says and what the programs say that
    // it starts would come in another order.
    gdb.args(["60", "stdbuf", "-oL", "gdb", "-q", "-nx", "-batch", "-x"]);
    gdb.arg(file("init")).arg("-x").arg(file("session"));
    gdb.arg(rom()?.with_extension("elf")).current_dir(&root);
    let said = gdb.stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(
        said.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&said.stderr)
    );
    Ok(text)
}

/// What is shown comes in that order; what gdb says besides is left out there.
/// An ellipsis stands for the rest of a line.
#[rstest]
#[case("(gdb) torust", &[])]
#[case("RealMode{", &[("entry", "16")])]
fn sessions_in_the_documentation_are_real(
    #[case] mark: &str,
    #[case] options: &[(&str, &str)],
) -> Result<()> {
    let page = fs::read_to_string(workspace::root().join("docs/debugging.md"))?;
    let session = block(&page, mark)?.trim();
    let commands: String = session
        .lines()
        .filter_map(|line| line.strip_prefix("(gdb) "))
        .map(|command| format!("{command}\n"))
        .collect();
    ensure!(commands.lines().count() > 4, "{session}");
    let said = answers(&commands, options)?;
    let mut lines = said.lines().map(shape);
    for line in session.lines() {
        let wanted = shape(&line.replacen("(gdb) ", "+", 1));
        let is_it = |line: String| match wanted.split_once("...") {
            Some((before, after)) if line.starts_with(before) => line.ends_with(after),
            Some(_) => false,
            None => line == wanted,
        };
        ensure!(
            lines.any(is_it),
            "docs/debugging.md shows {line:?}, which does not come there:\n{said}"
        );
    }
    Ok(())
}
