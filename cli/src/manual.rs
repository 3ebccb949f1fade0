//! The manual pages: the command line's help, exit statuses, files and environment.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::Result;
use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};

/// A section's entries: term and explanation.
type Entries = [(&'static str, &'static str)];

/// Exit statuses of every command.
const STATUS: [(&str, &str); 3] = [
    ("0", "It is done."),
    (
        "1",
        "It could not be done; a line on standard error begins with \"error:\".",
    ),
    ("2", "The command line is wrong."),
];

/// Exit statuses of one command.
fn status(command: &str) -> &'static Entries {
    match command {
        "qboot-run" => &[
            (
                "0",
                "User space was reached, and the guest ended by itself.",
            ),
            (
                "1",
                "The firmware or the kernel gave up, QEMU failed, --timeout or a signal ended it, or a file is \
                 missing. The last line on standard error tells which.",
            ),
            ("2", "The command line is wrong."),
        ],
        "qboot-inspect" => &[
            ("0", "The file is a qboot-rs."),
            ("1", "It is none, or cannot be read."),
            ("2", "The command line is wrong."),
        ],
        "qboot-extract" => &[
            ("0", "The vmlinux is written and boots by PVH."),
            ("1", "The file is no bzImage, or cannot be read or written."),
            ("2", "The command line is wrong."),
            ("3", "The vmlinux is written and has no PVH entry point."),
        ],
        "qboot-doctor" => &[
            ("0", "What a boot needs is here."),
            ("1", "Something marked NO is missing."),
            ("2", "The command line is wrong."),
        ],
        _ => &STATUS,
    }
}

const ENVIRONMENT: [(&str, &str); 4] = [
    (
        "XDG_CACHE_HOME",
        "Directory for qboot/, where what is fetched and made is kept; ~/.cache if not set.",
    ),
    ("PATH", "Where QEMU, apt-get and busybox are looked for."),
    ("NO_COLOR", "Set: no colours in messages and help."),
    ("TERM", "Given to the shell in the guest."),
];

/// `scripts/install.sh` puts the prefix in.
const FILES: [(&str, &str); 5] = [
    (
        "PREFIX/share/qemu/qboot-rs.rom",
        "The firmware, for QEMU's -bios.",
    ),
    (
        "PREFIX/share/qemu/firmware/60-qboot-rs.json",
        "Its descriptor, by which libvirt finds it.",
    ),
    (
        "PREFIX/share/doc/qboot-rs/docs/",
        "Documentation: users/ (plain QEMU, microvm, libvirt, KUnit, NixOS, Kata), options.md, errors.md.",
    ),
    (
        "~/.cache/qboot/",
        "Kernels and the initrd that run has fetched and made; may be deleted.",
    ),
    (
        "~/.cache/qboot/run/serial.log",
        "What the guest of the last run on a terminal has printed.",
    ),
];

/// Writes the pages of `program` and of its commands to `dir`.
///
/// # Errors
/// A file cannot be written.
pub fn write(mut program: Command, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    program.build();
    let commands: Vec<Command> = program.get_subcommands().cloned().collect();
    let names: Vec<String> = commands.iter().map(name).collect();
    for command in [program].iter().chain(&commands) {
        let file = dir.join(format!("{}.1", name(command)));
        fs::write(file, page(command, &names)?)?;
    }
    Ok(())
}

fn name(command: &Command) -> String {
    let name = command.get_display_name().unwrap_or(command.get_name());
    name.to_owned()
}

fn page(command: &Command, commands: &[String]) -> Result<Vec<u8>> {
    let own = name(command);
    let is_program = command.has_subcommands();
    let man = Man::new(command.clone())
        .title(own.as_str())
        .source(concat!("qboot-rs ", env!("CARGO_PKG_VERSION")))
        .manual("qboot-rs");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").to_owned();
    let mut synopsis = Roff::new();
    synopsis.control("SH", ["SYNOPSIS"]).text([roman(usage)]);
    synopsis.to_writer(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if is_program {
        man.render_subcommands_section(&mut page)?;
    }
    list(&mut page, "EXIT STATUS", status(&own))?;
    if is_program || own == "qboot-run" {
        list(&mut page, "ENVIRONMENT", &ENVIRONMENT)?;
        list(&mut page, "FILES", &FILES)?;
    }
    if let Some(text) = command.get_after_help() {
        examples(&mut page, &text.to_string())?;
    }
    let others = commands.iter().filter(|name| **name != own);
    let program = (!is_program).then_some("qboot");
    let see = program.into_iter().chain(others.map(String::as_str));
    let mut line: Vec<Inline> = Vec::new();
    for name in see {
        line.extend([bold(name), roman("(1), ")]);
    }
    line.extend([bold("qemu-system-x86_64"), roman("(1)")]);
    let mut see = Roff::new();
    see.control("SH", ["SEE ALSO"]).text(line);
    see.to_writer(&mut page)?;
    Ok(page)
}

/// A section of terms and explanations.
fn list(page: &mut Vec<u8>, heading: &str, entries: &Entries) -> Result<()> {
    let mut section = Roff::new();
    section.control("SH", [heading]);
    for (term, text) in entries {
        section.control("TP", []);
        section.text([bold(*term)]).text([roman(*text)]);
    }
    Ok(section.to_writer(page)?)
}

/// The examples below a command's help: commands and their comments keep their
/// lines and columns.
fn examples(page: &mut Vec<u8>, text: &str) -> Result<()> {
    writeln!(page, ".SH EXAMPLES\n.nf")?;
    for line in text.lines().skip_while(|line| *line == "Examples:") {
        let mut row = Roff::new();
        row.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
        row.to_writer(page)?;
    }
    writeln!(page, ".fi")?;
    Ok(())
}
