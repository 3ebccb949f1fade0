//! The documentation in accord with itself and with the source: links resolve, the book
//! lists every page, and commands do what the pages say.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qboot::error::Error;
use qboot::settings::options::{Choice, Options, choose, named};
use qboot_tests::{files_below, links, shape};
use xtask::deadline::Deadline;
use xtask::measure::{self, Kit};
use xtask::workspace;

/// Longest that a block of commands may take: it may compile the host program.
const BLOCK_TIMEOUT: Duration = Duration::from_secs(400);

fn docs() -> PathBuf {
    workspace::root().join("docs")
}

/// The Markdown files below `docs`.
fn pages() -> Result<BTreeSet<PathBuf>> {
    let files = files_below(&docs())?.into_iter();
    let is_page = |path: &PathBuf| path.extension().is_some_and(|ext| ext == "md");
    Ok(files.filter(is_page).collect())
}

/// Headings as links name them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let slug = |heading: &str| {
        let kept = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = kept
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(slug).collect()
}

/// A path from the top of the repository, without what goes up again.
fn below(path: &Path) -> Result<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.strip_prefix(workspace::root())?.components() {
        match part {
            Component::ParentDir => {
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    Ok(clean)
}

#[test]
fn links_resolve() -> Result<()> {
    let root = workspace::root();
    let mut all = pages()?;
    for name in [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
    ] {
        all.insert(root.join(name));
    }
    let mut count = 0;
    let mut broken = String::new();
    for page in &all {
        let text = fs::read_to_string(page)?;
        for link in links(&text) {
            count += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().context("no directory")?.join(file),
            };
            let known = target.exists()
                && (anchor.is_empty() || anchors(&fs::read_to_string(&target)?).contains(anchor));
            // The book has no other files than its own.
            let leaves_book = page.starts_with(docs()) && !below(&target)?.starts_with("docs");
            if !known || leaves_book {
                let _ = writeln!(broken, "{}: {link}", page.display());
            }
        }
    }
    ensure!(count > 50, "only {count} links found");
    ensure!(broken.is_empty(), "broken links:\n{broken}");
    Ok(())
}

#[test]
fn the_book_lists_every_page() -> Result<()> {
    let docs = docs();
    let summary = fs::read_to_string(docs.join("SUMMARY.md"))?;
    let listed: BTreeSet<_> = links(&summary).iter().map(|link| docs.join(link)).collect();
    let mut written = pages()?;
    written.remove(&docs.join("SUMMARY.md"));
    let missing: Vec<_> = written.difference(&listed).collect();
    ensure!(missing.is_empty(), "not in SUMMARY.md: {missing:?}");
    Ok(())
}

/// Every access that docs/boot-flow.md walks along, and no other: those it lists,
/// and one for each transfer in its table.
#[test]
fn the_boot_that_is_walked_along_is_todays() -> Result<()> {
    let page = fs::read_to_string(docs().join("boot-flow.md"))?;
    let kit = Kit::new()?;
    let cells = measure::core_cells();
    let cell = cells.iter().find(|cell| cell.name == "q35 bzImage");
    let rom = qboot_tests::rom()?;
    let (counts, real) = measure::trace(&kit, &rom, cell.context("no such cell")?)?;
    let real: Vec<String> = real.iter().map(ToString::to_string).collect();
    let listed: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("write") || line.starts_with("read "))
        .map(|line| line.split("   (").next().unwrap_or(line).trim_end())
        .collect();
    let (doorbell, before) = listed.split_last().context("no access listed")?;
    let (first, transfers) = real.split_at_checked(before.len()).context("fewer")?;
    ensure!(first == before, "{real:#?}");
    let [head, tail] = doorbell.split("...").collect::<Vec<_>>()[..] else {
        anyhow::bail!("{doorbell:?} is no pattern");
    };
    let is_doorbell = |line: &&String| line.starts_with(head) && line.ends_with(tail);
    let (transfers, reads): (Vec<_>, Vec<_>) = transfers.iter().partition(is_doorbell);
    let is_header = |line: &&String| line.starts_with("read 4 0xb0") && line.contains("c -> ");
    ensure!(reads.iter().all(is_header), "{real:#?}");
    let said = format!("{} reads of header types", reads.len());
    ensure!(page.contains(&said), "the page does not say {said:?}");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| "));
    let numbers = rows.filter_map(|row| row.split(" |").next());
    let walked = numbers.flat_map(|cell| cell.split(", "));
    let walked: Vec<usize> = walked.filter_map(|number| number.parse().ok()).collect();
    ensure!(walked.iter().copied().eq(1..=transfers.len()), "{walked:?}");
    ensure!(page.contains(&format!("There are {}.", counts.accesses)));
    Ok(())
}

/// The rows of the table of options: which option, and a value.
fn options(page: &str) -> Result<Vec<(String, String)>> {
    let (_, table) = page
        .split_once("| option | value | meaning |")
        .context("no table of options")?;
    let mut name = String::new();
    let mut rows = Vec::new();
    for line in table.lines().skip(2) {
        let [_, option, value, ..] = line.split('|').collect::<Vec<_>>()[..] else {
            break;
        };
        if let Some((_, rest)) = option.split_once("opt/org.qboot/") {
            let (option, _) = rest.split_once(',').context("no value")?;
            name = option.to_owned();
        }
        rows.push((name.clone(), value.trim().trim_matches('`').to_owned()));
    }
    Ok(rows)
}

/// What the firmware takes this value of an option for.
fn choice(option: &str, value: &str) -> Result<Choice> {
    let name = named(option.as_bytes()).with_context(|| format!("no option {option}"))?;
    let choice = choose(name, value.as_bytes()).ok();
    choice.with_context(|| format!("{option} has no value {value}"))
}

/// docs/options.md and the firmware know the same options and values, and README.md
/// no others.
#[test]
fn options_are_those_of_the_source() -> Result<()> {
    let read = |name: &str| fs::read_to_string(workspace::root().join(name));
    let readme = read("README.md")?;
    let shown = readme.split("name=opt/org.qboot/").skip(1);
    let shown = shown.filter_map(|rest| rest.split('`').next());
    let mut count = 0;
    for option in shown {
        let (name, value) = option.split_once(",string=").context("no value")?;
        choice(name, value).context("README.md")?;
        count += 1;
    }
    ensure!(count > 2, "README.md has only {count} options");
    let mut says = Vec::new();
    for rows in options(&read("docs/options.md")?)?.chunk_by(|a, b| a.0 == b.0) {
        let values: Vec<&str> = rows.iter().map(|(_, value)| value.as_str()).collect();
        let option = &rows[0].0;
        for value in &values {
            choice(option, value).context("docs/options.md")?;
        }
        let default = Options::default();
        let is_default = match choice(option, values[0])? {
            Choice::Pci(pci) => pci == default.pci,
            Choice::Buses(buses) => buses == default.buses,
            Choice::Entry(entry) => entry == default.entry,
            Choice::Log(log) => log == default.log,
        };
        ensure!(is_default, "{option} is not {} by default", values[0]);
        let (last, first) = values.split_last().context("no values")?;
        says.push(format!("{option} takes {} or {last}", first.join(", ")));
    }
    // The error lists all there are.
    let (_, said) = Error::BadOption(qboot_tests::VALUE)
        .message()
        .split_once("; ")
        .context("no remedy")?;
    let says = says.join(", ");
    ensure!(said == says, "{said:?} and {says:?}");
    Ok(())
}

/// A fenced block of commands: `sh` is run to its end; of `console` the lines behind a
/// `$` are run, and the others have to come out of them.
struct Block {
    /// Page and line.
    place: String,
    is_console: bool,
    text: String,
    /// The comment above, which tells who runs it or why nobody does.
    mark: Option<String>,
}

/// The pages with commands, the README first: its first boot makes what others take.
fn command_pages() -> Result<Vec<PathBuf>> {
    let root = workspace::root();
    let top = ["README.md", "CONTRIBUTING.md", "SECURITY.md"];
    let mut all: Vec<PathBuf> = top.iter().map(|name| root.join(name)).collect();
    all.extend(pages()?);
    Ok(all)
}

fn blocks(page: &Path) -> Result<Vec<Block>> {
    let text = fs::read_to_string(page)?;
    let mut lines = text.lines().enumerate();
    let mut found = Vec::new();
    let mut above = "";
    while let Some((number, line)) = lines.next() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            let place = format!("{}:{}", below(page)?.display(), number + 1);
            let inside = lines.by_ref().map(|(_, line)| line);
            let inside: Vec<&str> = inside.take_while(|line| line.trim() != "```").collect();
            let is_command = matches!(language, "sh" | "console");
            // What shows commands says so, or it would be left out here.
            let shows = |line: &&str| line.starts_with("$ ") || line.starts_with("scripts/");
            ensure!(
                is_command || !inside.iter().any(shows),
                "{place} has commands, but is no block of sh or console"
            );
            let mark = above.strip_prefix("<!-- ");
            let mark = mark.and_then(|mark| mark.strip_suffix(" -->"));
            if is_command {
                found.push(Block {
                    place,
                    is_console: language == "console",
                    text: inside.join("\n"),
                    mark: mark.map(str::to_owned),
                });
            }
        }
        above = line;
    }
    Ok(found)
}

/// Runs a script at the top of the repository until it ends, or until all of `wanted`
/// has come out of it in that order; "..." stands for any lines.
fn run(script: &str, wanted: &[&str]) -> Result<()> {
    let log = tempfile::NamedTempFile::new()?;
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]);
    command.current_dir(workspace::root()).stdin(Stdio::null());
    let output = log.reopen()?;
    command.stdout(output.try_clone()?).stderr(output);
    // The release whose output the pages show.
    if std::env::var_os("QBOOT_DEBIAN").is_none() {
        command.env("QBOOT_DEBIAN", "bookworm");
    }
    // QEMU may go on behind an error: it ends with its group.
    let mut child = command.process_group(0).spawn()?;
    let wanted: Vec<String> = wanted.iter().map(|line| shape(line)).collect();
    let all_said = |said: &str| {
        let mut lines = said.lines().map(shape);
        wanted
            .iter()
            .all(|wanted| wanted == "..." || lines.any(|line| line == *wanted))
    };
    let mut deadline = Deadline::new(BLOCK_TIMEOUT).every(Duration::from_millis(50));
    let ended = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        let shows = !wanted.is_empty();
        if shows && all_said(&fs::read_to_string(log.path())?) || !deadline.pause() {
            break None;
        }
    };
    if ended.is_none() {
        let group = format!("-{}", child.id());
        Command::new("kill").args(["--", &group]).status()?;
        child.wait()?;
    }
    let said = fs::read_to_string(log.path())?;
    ensure!(all_said(&said), "not all of {wanted:#?} in\n{said}");
    let done = ended.map_or(!wanted.is_empty(), |status| status.success());
    ensure!(done, "{ended:?}\n{said}");
    Ok(())
}

/// Every block of commands is run here, or a comment says by which test, or why not:
/// `<!-- run by tests/log.rs -->`, `<!-- not run: needs libvirt -->`.
#[test]
fn commands_in_the_documentation_work() -> Result<()> {
    qboot_tests::rom()?;
    let mut count = 0;
    for page in command_pages()? {
        for block in blocks(&page)? {
            let place = &block.place;
            if let Some(mark) = &block.mark {
                if let Some(test) = mark.strip_prefix("run by ") {
                    let source = fs::read_to_string(workspace::root().join(test))
                        .context(test.to_owned())?;
                    let name = page.file_name().and_then(|name| name.to_str());
                    let reads = name.is_some_and(|name| source.contains(name));
                    ensure!(reads, "{place}: {test} does not read the page");
                } else {
                    let reason = mark.strip_prefix("not run: ");
                    ensure!(reason.is_some_and(|why| why.len() > 5), "{place}: {mark}");
                }
                continue;
            }
            count += 1;
            if !block.is_console {
                run(&block.text, &[]).context(block.place)?;
                continue;
            }
            let text = format!("\n{}", block.text.replace("\\\n", ""));
            for session in text.split("\n$ ").skip(1) {
                let mut lines = session.lines();
                let command = lines.next().context("no command")?;
                run(command, &lines.collect::<Vec<_>>()).context(place.clone())?;
            }
        }
    }
    ensure!(count > 5, "only {count} blocks run");
    Ok(())
}
