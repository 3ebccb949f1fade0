//! The command line used wrongly: one plain line, a status, and nothing left behind.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use qboot_cli::uki;

fn qboot(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qboot"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Status and what is written to standard error.
fn failure(arguments: &[&str]) -> (Option<i32>, String) {
    let output = qboot(arguments).output().expect("qboot starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

#[test]
fn files_that_cannot_be_booted_are_named_before_anything_is_built() {
    let dir = tempfile::tempdir().expect("a directory");
    let empty = dir.path().join("empty");
    fs::write(&empty, "").expect("a file");
    let odd = dir.path().join("odd");
    fs::write(&odd, [0; 1000]).expect("a file");
    let path = |path: &std::path::Path| path.to_str().expect("text").to_owned();
    let made = |name: &str, bytes: &[u8]| {
        let file = dir.path().join(name);
        fs::write(&file, bytes).expect("a file");
        path(&file)
    };
    let x86 = uki::build(0x8664, &[(".text", &[0; 600])]);
    let arm = uki::build(0xaa64, &[(".linux", &[0; 600])]);
    let mut arm_image = vec![0; 1000];
    arm_image[0x38..0x3c].copy_from_slice(b"ARM\x64");
    for (option, file, why) in [
        (
            "--kernel",
            made("x86.efi", &x86),
            "the kernel is an EFI program",
        ),
        (
            "--kernel",
            made("cut.efi", &x86[..0x300]),
            "is the file whole?",
        ),
        (
            "--kernel",
            made("arm.efi", &arm),
            "another processor (ARM?)",
        ),
        (
            "--kernel",
            made("Image", &arm_image),
            "another processor (ARM?)",
        ),
        (
            "--kernel",
            made("vmlinux.gz", b"\x1f\x8b\x08"),
            "compressed with gzip",
        ),
        ("--kernel", "/nonexistent".to_owned(), "No such file"),
        ("--kernel", path(dir.path()), "is a directory"),
        ("--kernel", path(&empty), "is empty"),
        ("--initrd", path(dir.path()), "is a directory"),
        ("--firmware", path(&empty), "is empty"),
        ("--firmware", path(&odd), "is no ROM: it has 1000 bytes"),
        ("--kernel", path(&odd), "unknown kernel format"),
    ] {
        let (status, said) = failure(&["run", option, &file]);
        let case = format!("{option} {file}: {said}");
        assert_eq!(status, Some(1), "{case}");
        assert!(said.contains(&file) && said.contains(why), "{case}");
        assert_eq!(said.lines().count(), 1, "{case}");
    }
}

#[test]
fn a_wrong_option_names_the_command_as_it_is_typed() {
    let (status, said) = failure(&["run", "--nonsense"]);
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("Usage: cargo xtask run"), "{said}");
}

/// What the firmware would tell only in its log.
#[test]
fn options_and_parameters_that_nobody_reads_are_told() {
    let (_, said) = failure(&[
        "run",
        "--dry-run",
        "--kernel=/nonexistent",
        "--append=quiet qboot.pic=full qboot.pci=full qboot.do=report",
        "--",
        "-fw_cfg",
        "name=opt/org.qboot/lgo,string=all",
        "-fw_cfg",
        "name=opt/org.qboot/log,string=all",
    ]);
    for told in [
        "knows no option opt/org.qboot/lgo, only opt/org.qboot/pci,",
        "knows no parameter qboot.pic, only qboot.pci,",
    ] {
        assert!(said.contains(told), "{said}");
    }
    assert_eq!(said.matches("knows no").count(), 2, "{said}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let file = env!("CARGO_BIN_EXE_qboot");
    let dry = ["run", "--dry-run", "--kernel", file, "--initrd", file];
    for arguments in [
        &["doctor"][..],
        &["completions", "bash"],
        &["inspect", "/dev/null"],
        &[&dry[..], &["--accel=tcg"]].concat(),
    ] {
        // Gone before anything is written, however busy the host is.
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut child = qboot(arguments)
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .expect("qboot starts");
        let mut said = String::new();
        let mut stderr = child.stderr.take().expect("its errors");
        stderr.read_to_string(&mut said).expect("text");
        let status = child.wait().expect("a status");
        assert!(status.success(), "{arguments:?}: {status}: {said}");
        assert!(!said.contains("error:"), "{arguments:?}: {said}");
    }
}

#[test]
fn a_file_of_another_kind_is_no_rom_and_no_bzimage() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    fs::write(&file, "no kernel").expect("a file");
    let file = file.to_str().expect("text");
    let output = qboot(&["inspect", file]).output().expect("qboot starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no qboot-rs"), "{said}");
    let (status, said) = failure(&["extract", file, "/dev/null"]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("not a bzImage"), "{said}");
}

/// Here a directory has the file's name; a full disk would do the same.
#[test]
fn a_file_that_cannot_be_written_leaves_no_part_of_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let taken = dir.path().join("taken");
    fs::create_dir(&taken).expect("a directory");
    let error = qboot_cli::workspace::write_atomically(&taken, b"bytes").expect_err("in the way");
    assert!(format!("{error:#}").contains("taken"), "{error:#}");
    let left: Vec<_> = fs::read_dir(dir.path()).expect("a list").collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

/// A link, and so a device, is written through; no directory is made for a name
/// that may be mistyped; and no kernel is overwritten with itself.
#[test]
fn a_file_that_is_named_does_not_replace_what_it_is_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let (file, link) = (dir.path().join("file"), dir.path().join("link"));
    fs::write(&file, "before").expect("a file");
    std::os::unix::fs::symlink(&file, &link).expect("a link");
    qboot_cli::workspace::write_named(&link, b"behind").expect("written");
    assert!(link.is_symlink());
    assert_eq!(fs::read(&file).expect("the file"), b"behind");
    let error = qboot_cli::workspace::write_named(dir.path(), b"bytes").expect_err("a directory");
    assert!(format!("{error:#}").contains("directory"), "{error:#}");
    let deep = dir.path().join("no/such");
    qboot_cli::workspace::write_named(&deep, b"bytes").expect_err("no directory");
    assert!(!dir.path().join("no").exists());
    let file = file.to_str().expect("text");
    let (status, said) = failure(&["extract", file, file]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("would be overwritten"), "{said}");
}

/// With the program's longest name, on a terminal of 80 columns.
#[test]
fn examples_are_not_wrapped() {
    let help = |task: &[&str], columns| {
        let mut shown = qboot(task);
        let shown = shown.arg("--help").env("COLUMNS", columns).output();
        String::from_utf8(shown.expect("qboot starts").stdout).expect("text")
    };
    // What is wrapped keeps its indentation: only a wider terminal tells.
    let examples = |task: &[&str], columns| -> Vec<String> {
        let help = help(task, columns);
        let lines = help
            .lines()
            .skip_while(|line| !line.starts_with("Examples"));
        lines.map(str::to_owned).collect()
    };
    let whole = help(&[], "80");
    let tasks = whole
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1);
    let tasks = tasks.take_while(|line| !line.is_empty());
    let names = tasks.filter_map(|line| line.split_whitespace().next());
    let names = names.filter(|name| *name != "help");
    let mut seen = 0;
    for task in names.map(|name| vec![name]).chain([vec![]]) {
        let lines = examples(&task, "80");
        assert_eq!(lines, examples(&task, "100"), "{task:?}");
        seen += lines.len();
    }
    assert!(seen > 30, "{seen} lines");
}

/// On a machine that has nothing yet, nobody who asks for help or for what is missing
/// waits for a compiler or has anything installed.
#[test]
fn help_needs_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = qboot_cli::workspace::root();
    for part in ["scripts", "rust-toolchain.toml"] {
        let mut copy = Command::new("cp");
        let copy = copy.arg("-r").arg(root.join(part)).arg(dir.path());
        assert!(copy.status().expect("cp").success());
    }
    // The system's programs but for Rust, which Debian's packages put there.
    let bin = dir.path().join("bin");
    fs::create_dir(&bin).expect("a directory");
    for entry in fs::read_dir("/usr/bin").expect("the system's programs") {
        let program = entry.expect("a program").path();
        let name = program.file_name().and_then(|name| name.to_str());
        if let Some(name) = name.filter(|name| !name.starts_with("rust")) {
            symlink(&program, bin.join(name)).expect("a link");
        }
    }
    let run = |script: &str, argument: &str| {
        let output = Command::new(dir.path().join("scripts").join(script))
            .args(Some(argument).filter(|argument| !argument.is_empty()))
            .env_remove("QBOOT_SCRIPT")
            .env_remove("CARGO_HOME")
            .env("HOME", dir.path())
            .env("PATH", &bin)
            .output();
        let output = output.expect("a shell");
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&said).into_owned()
    };
    for (script, argument, words) in [
        ("run.sh", "--help", "Boots Linux"),
        ("build.sh", "-h", "Builds the firmware"),
        ("extract-vmlinux.sh", "--help", "Takes the vmlinux"),
        ("bench.sh", "--help", "Measures"),
        ("release.sh", "--help", "Makes the files"),
        ("xtask.sh", "", "scripts/xtask.sh doctor"),
        ("xtask.sh", "doctor", "NO  Rust"),
        ("install.sh", "--help", "Installs the ROM"),
        ("setup.sh", "--help", "Installs what"),
        ("test.sh", "--help", "Installs what"),
        ("gdb.sh", "--help", "Starts QEMU"),
    ] {
        let said = run(script, argument);
        assert!(said.contains(words), "{script} {argument}: {said}");
        assert!(!said.contains("compiling"), "{script} {argument}: {said}");
    }
    assert!(!dir.path().join("target").exists());
}

/// The installer tells of a place that it may not write to before it builds.
#[test]
fn the_installer_asks_for_what_it_needs_first() {
    let script = qboot_cli::workspace::root().join("scripts/install.sh");
    let install = |arguments: &[&str]| {
        let output = Command::new(&script).args(arguments).output();
        let output = output.expect("a shell");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    for (arguments, why) in [
        (&["--prefix"][..], "needs a directory"),
        (&["--prefix", "here"], "has to be absolute"),
        (&["--nonsense"], "unknown argument"),
    ] {
        let (status, said) = install(arguments);
        assert_eq!(status, Some(2), "{arguments:?}: {said}");
        assert!(said.contains(why), "{arguments:?}: {said}");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let prefix = dir.path().to_str().expect("text");
    let (status, said) = install(&["--uninstall", "--prefix", prefix]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("nothing is installed"), "{said}");
    // Root may write everywhere, but to no place below a file.
    let (status, said) = install(&["--prefix", "/dev/null/prefix"]);
    assert_ne!(status, Some(0), "{said}");
    assert!(said.contains("cannot be written"), "{said}");
}

/// A unified kernel image whose kernel is a bzImage only by its header.
fn unified() -> Vec<u8> {
    let mut linux = vec![0; 4096];
    linux[0x202..0x206].copy_from_slice(b"HdrS");
    let line: &[u8] = b"root=/dev/vda\n";
    uki::build(
        0x8664,
        &[(".cmdline", line), (".linux", &linux), (".initrd", b"07")],
    )
}

#[test]
fn a_unified_kernel_image_brings_its_own_initrd_and_command_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("image.efi");
    fs::write(&file, unified()).expect("a file");
    let file = file.to_str().expect("text");
    for more in [&["--initrd", file][..], &["--", "-dtb", file]] {
        let (status, said) = failure(&[&["run", "--kernel", file], more].concat());
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("cargo xtask extract"), "{said}");
    }
    let rom = dir.path().join("rom");
    fs::write(&rom, vec![0; 65536]).expect("a file");
    let rom = rom.to_str().expect("text");
    let dry = [
        "run",
        "--dry-run",
        "--mode=report",
        "--firmware",
        rom,
        "--kernel",
        file,
    ];
    let line = |more: &[&str]| {
        let output = qboot(&[&dry[..], more].concat()).output().expect("qboot");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let own = line(&[]);
    assert!(
        own.contains("root=/dev/vda") && !own.contains("-initrd"),
        "{own}"
    );
    let mine = line(&["--append=init=/sh"]);
    assert!(
        mine.contains("init=/sh") && !mine.contains("root="),
        "{mine}"
    );
    let output = qboot(&["inspect", file]).output().expect("qboot");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    for part in ["command line: root=/dev/vda", "4096  .linux", "2  .initrd"] {
        assert!(said.contains(part), "{said}");
    }
}
