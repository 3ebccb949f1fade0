//! The files to install. `scripts/install.sh` is one of them, and puts the others under
//! a prefix.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{run, stdout_of};
use crate::{build, commands, progress, workspace};

/// Name of the Debian package and of the archive's directory.
pub const NAME: &str = "qboot-rs";
/// The version that is packaged.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Files of the source tree that are installed unchanged.
const DOCUMENTS: [&str; 8] = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "SECURITY.md",
    "share/qemu/firmware/60-qboot-rs.json",
    "scripts/install.sh",
];

/// Shells, and the file in which each looks for completions.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "qboot.bash"),
    ("zsh", "_qboot"),
    ("fish", "qboot.fish"),
];

/// Collects in `dir`, which it empties, everything to install: ROM, the program `tool`,
/// its manual and completions, descriptor, documents.
///
/// # Errors
/// There is no source tree, the ROM does not build, or `tool` is another program.
pub fn collect(tool: &Path, dir: &Path) -> Result<()> {
    let source = workspace::require_source("collecting the files")?;
    let rom = build::rom(&[])?;
    let step = progress::step("collecting what is installed");
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("clearing {}", dir.display()))?;
    }
    let manual = dir.join("man");
    let completions = dir.join("completions");
    for dir in [&manual, &completions] {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    copy(&rom.image, &dir.join("qboot.rom"))?;
    copy(&rom.elf, &dir.join("qboot.elf"))?;
    for document in DOCUMENTS {
        let name = Path::new(document).file_name().context("no file name")?;
        copy(&source.join(document), &dir.join(name))?;
    }
    // The pages that README.md links to.
    for pages in ["docs", "docs/users"] {
        let to = dir.join(pages);
        fs::create_dir_all(&to).with_context(|| format!("creating {}", to.display()))?;
        for entry in fs::read_dir(source.join(pages))? {
            let page = entry?.path();
            let is_page = page
                .extension()
                .is_some_and(|ext| ext == "md" || ext == "svg");
            if let Some(name) = page.file_name().filter(|_| is_page) {
                copy(&page, &to.join(name))?;
            }
        }
    }
    let program = dir.join("qboot");
    let mut strip = Command::new("objcopy");
    run(strip
        .args(["--strip-all", "--remove-section=.comment"])
        .arg(tool)
        .arg(&program))?;
    commands::manual(&manual)?;
    for (shell, name) in COMPLETIONS {
        let text = stdout_of(Command::new(&program).args(["completions", shell]))?;
        fs::write(completions.join(name), text)?;
    }
    step.done(&dir.display().to_string());
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    Ok(())
}
