//! The log: nothing without the option, and with it what a boot really did.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qboot::error::Error;
use qboot_tests::handover::Handover;
use qboot_tests::machines::*;
use qboot_tests::pci::{self, Function, UNMAPPED};
use qboot_tests::{DEBUG_CONSOLE, Kind, PROBE_TIMEOUT, Probe, ROOM, noise, shape, skip};
use rstest::rstest;
use rstest_reuse::apply;
use xtask::kernel::{self, Flavour};
use xtask::measure::budget::{self, Budget};
use xtask::probe::{self, Elf, Mode};
use xtask::qemu::{Accel, Qemu, Vm};

fn with_log(qemu: Qemu, value: &str) -> Qemu {
    qemu.debugcon(DEBUG_CONSOLE).option("log", value)
}

/// Boots a probe; what it was handed, and what was printed until then.
fn boot(probe: &Probe, qemu: &Qemu) -> Result<(Handover, String, Vm)> {
    let mut vm = qemu.spawn()?;
    let record = probe::wait(&mut vm, 1, PROBE_TIMEOUT).with_context(|| vm.report())?;
    let handover = Handover::read(&mut vm, probe.kind, record)?;
    let serial = vm.serial();
    ensure!(
        vm.debugcon(DEBUG_CONSOLE) == serial.as_bytes(),
        "the debug console says something else"
    );
    Ok((handover, lines(&serial)?, vm))
}

/// The text with line feeds alone; a terminal needs both.
fn lines(text: &str) -> Result<String> {
    let plain = text.replace("\r\n", "\n");
    ensure!(!plain.contains('\r'), "a carriage return inside a line");
    ensure!(
        text.matches('\n').count() == text.matches('\r').count(),
        "a line without its carriage return"
    );
    Ok(plain)
}

/// A serial port whose other end is full and nobody reads stops no boot, and no
/// boot after a reset.
#[apply(each_machine)]
fn nobody_reads_the_serial_port(machine: Machine) -> Result<()> {
    const NONBLOCK: i32 = 0o4000;
    let probe = Probe::new(Kind::BzImage)?;
    let base = probe.file("serial", b"")?;
    for end in ["in", "out"] {
        let made = Command::new("mkfifo")
            .arg(base.with_extension(end))
            .status()?;
        ensure!(made.success(), "mkfifo: {made}");
    }
    let mut pipe = File::options()
        .read(true)
        .write(true)
        .custom_flags(NONBLOCK)
        .open(base.with_extension("out"))?;
    while pipe.write(&[0; 1024]).is_ok() {}
    let qemu = probe.machine(machine)?.option("log", "all").reboot();
    let pipe = format!("pipe,id=full,path={}", base.display());
    let qemu = qemu.serial("chardev:full").args(["-chardev", &pipe]);
    let mut vm = qemu.spawn()?;
    probe::wait(&mut vm, 1, PROBE_TIMEOUT)?;
    vm.reset()?;
    probe::wait(&mut vm, 2, PROBE_TIMEOUT)?;
    Ok(())
}

/// Runs a machine that must fail; what was printed until it ended.
fn fail(qemu: &Qemu) -> Result<String> {
    let mut vm = qemu.clone().debug_exit().spawn()?;
    vm.wait_exit(PROBE_TIMEOUT)?;
    lines(&vm.serial())
}

/// The names of the steps; every line is one, or belongs to one.
fn steps(text: &str) -> Result<Vec<&str>> {
    let mut names = Vec::new();
    for line in text.lines() {
        let line = line.strip_prefix("qboot: ").context("another line")?;
        if line.starts_with("  ") {
            continue;
        }
        let (ticks, rest) = line.split_once(" ticks, ").context("no step")?;
        let ticks: u32 = ticks.parse().with_context(|| format!("ticks in {line}"))?;
        ensure!(ticks > 0, "a step that took no time: {line}");
        names.push(rest.split(": ").next().context("no name")?);
    }
    Ok(names)
}

const STEPS: [&str; 7] = [
    "machine", "e820", "kernel", "pci", "acpi", "smbios", "loaded",
];

#[apply(each_machine_and_kernel)]
fn nothing_is_printed_unasked(machine: Machine, kind: Kind) -> Result<()> {
    let probe = Probe::new(kind)?;
    let qemu = probe.machine(machine)?.append("a=b");
    for qemu in [qemu.clone().debugcon(DEBUG_CONSOLE), with_log(qemu, "off")] {
        let (_, serial, _) = boot(&probe, &qemu)?;
        ensure!(serial.is_empty(), "{serial:?}");
    }
    Ok(())
}

#[apply(each_machine_and_kernel)]
fn steps_are_a_line_each(machine: Machine, kind: Kind) -> Result<()> {
    let probe = Probe::new(kind)?;
    let initrd = probe.file("initrd", &noise(5000, 1))?;
    let qemu = with_log(probe.machine(machine)?, "steps").initrd(initrd);
    let (handover, serial, _) = boot(&probe, &qemu)?;
    ensure!(steps(&serial)? == STEPS, "{serial}");
    ensure!(serial.lines().count() == STEPS.len(), "{serial}");
    ensure!(serial.contains("entries, 512 MiB"), "{serial}");
    let initrd = handover.initrd.context("no initrd")?;
    let (name, block) = match kind {
        Kind::BzImage => ("zero page", handover.record.esi),
        _ => ("start_info", handover.record.ebx),
    };
    let loaded = format!(
        "loaded: entry 0x{:08x}, {name} 0x{block:08x}, initrd 0x{:08x}, 5000 bytes\n",
        handover.record.entry, initrd.start
    );
    ensure!(serial.ends_with(&loaded), "{serial}\nexpected {loaded}");
    Ok(())
}

/// Every table that the log names is in memory, and every range of the map is
/// what the kernel got.
#[apply(each_machine_and_kernel)]
fn everything_found_is_there(machine: Machine, kind: Kind) -> Result<()> {
    let probe = Probe::new(kind)?;
    let qemu = with_log(probe.machine(machine)?, "all").append("a=b c\u{7f}d");
    let (handover, serial, mut vm) = boot(&probe, &qemu)?;
    ensure!(steps(&serial)? == STEPS, "{serial}");
    ensure!(
        serial.contains("file opt/org.qboot/log, 3 bytes"),
        "{serial}"
    );
    ensure!(serial.contains("command line a=b c.d\n"), "{serial}");
    ensure!(
        serial.contains(&format!("RSDP 0x{:08x}", handover.rsdp)),
        "{serial}"
    );
    let mut tables = Vec::new();
    for line in serial
        .lines()
        .filter_map(|line| line.strip_prefix("qboot:   table "))
    {
        let (name, rest) = line.split_once(" 0x").context("no address")?;
        let (addr, len) = rest.split_once(", ").context("no length")?;
        let addr = u64::from_str_radix(addr, 16)?;
        let len: u32 = len.trim_end_matches(" bytes").parse()?;
        let bytes = vm.memory(addr, 8)?;
        ensure!(bytes[..4] == *name.as_bytes(), "{line}: {bytes:?}");
        ensure!(bytes[4..] == len.to_le_bytes(), "{line}: {bytes:?}");
        tables.push(name.to_owned());
    }
    for name in ["FACP", "DSDT", "APIC"] {
        ensure!(
            tables.iter().any(|table| table == name),
            "no {name}: {serial}"
        );
    }
    let (_, loaded) = serial.split_once("loaded: ").context("not loaded")?;
    let given = handover.e820.iter().map(|entry| {
        let end = entry.addr + entry.len;
        format!(
            "qboot:   range 0x{:016x}-0x{end:016x}, {}",
            entry.addr,
            match entry.kind {
                1 => "RAM",
                2 => "reserved",
                _ => "?",
            }
        )
    });
    let shown = loaded.lines().filter(|line| line.contains("range"));
    ensure!(shown.eq(given), "{loaded}\nexpected {:?}", handover.e820);
    Ok(())
}

/// Unknown options and parameters under the firmware's names are reported, known ones
/// are not.
#[test]
fn what_nobody_knows_is_told() -> Result<()> {
    let probe = Probe::new(Kind::Pvh)?;
    let qemu = probe.machine(Q35)?.option("lgo", "all");
    let (_, silent, _) = boot(&probe, &qemu.clone().append("qboot.pic=full"))?;
    ensure!(silent.is_empty(), "{silent:?}");
    let line = "qboot.do=report qboot.pci=scan qboot.pic=full";
    let (_, serial, _) = boot(&probe, &with_log(qemu, "steps").append(line))?;
    for told in ["option opt/org.qboot/lgo\n", "parameter qboot.pic=full\n"] {
        ensure!(
            serial.contains(&format!("qboot:   unknown {told}")),
            "{serial}"
        );
    }
    ensure!(serial.matches("unknown").count() == 2, "{serial}");
    Ok(())
}

#[apply(each_machine)]
fn a_failing_boot_shows_how_far_it_came(machine: Machine) -> Result<()> {
    let mut elf = Elf::new(Mode::Halt)?;
    elf.memory_len = 40 << 20;
    let probe = Probe::from_bytes(Kind::Pvh, &elf.bytes()?)?;
    let initrd = probe.file("initrd", &noise(30 << 20, 1))?;
    let qemu = machine.qemu()?.kernel(probe.path());
    let serial = fail(&with_log(qemu, "steps").initrd(initrd).memory_mib(64))?;
    let (log, error) = serial.split_at(serial.find("qboot: error").context("no error")?);
    ensure!(steps(log)? == STEPS[..6], "{serial}");
    ensure!(
        error.contains(Error::InitrdTooBig(ROOM).message()),
        "{serial}"
    );
    Ok(())
}

#[test]
fn another_value_is_an_error() -> Result<()> {
    let probe = Probe::new(Kind::Pvh)?;
    for (option, value) in [("log", "some"), ("pci", "some"), ("entry", "8")] {
        let qemu = Q35.qemu()?.kernel(probe.path());
        let serial = fail(&qemu.option(option, value))?;
        ensure!(
            serial.starts_with("qboot: error 16: "),
            "{option}: {serial}"
        );
    }
    Ok(())
}

/// What QEMU tells of a function is in the line that lists it; how many BARs it has.
fn check_listed(function: &Function, line: &str) -> Result<usize> {
    ensure!(line.starts_with(&function.id), "{line}, {function:x?}");
    let words = line.split(' ');
    let dwords: Vec<_> = words
        .filter_map(|w| u32::from_str_radix(w, 16).ok())
        .collect();
    let mapped = |(n, bar): &(&u8, &(String, u64, u64))| **n != 6 && bar.1 != UNMAPPED;
    let mut bars = 0;
    for (_, (_, start, _)) in function.bars.iter().filter(mapped) {
        let start = *start as u32 & !15;
        let found = dwords.iter().any(|dword| dword & !15 == start);
        ensure!(found, "{start:x} is not in {line}");
        bars += 1;
    }
    if let Some((secondary, subordinate)) = function.buses {
        // The primary bus is that of the bridge.
        let buses = format!("{subordinate:02x}{secondary:02x}00");
        ensure!(line.contains(&buses), "{line}, {function:x?}");
    }
    Ok(bars)
}

/// The functions that the log lists are those that QEMU has, with its BARs.
#[rstest]
fn functions_are_listed(#[values(PC, Q35, MICROVM_PCIE)] machine: Machine) -> Result<()> {
    // Not Linux: everything gets an address.
    let probe = Probe::new(Kind::Multiboot)?;
    let behind = format!(
        "virtio-net-pci,bus=b1,addr={}",
        machine.slot_behind_bridge()
    );
    let devices = [machine.bridge_at(1, 3), behind, "e1000,addr=2".to_owned()];
    let qemu = with_log(probe.machine(machine)?, "all").devices(devices);
    let mut vm = qemu.spawn()?;
    probe::wait(&mut vm, 1, PROBE_TIMEOUT).with_context(|| vm.report())?;
    let serial = lines(&vm.serial())?;
    let (_, after) = serial.split_once(" pci: full").context("no PCI")?;
    let listed: Vec<&str> = after
        .lines()
        .skip(1)
        .map_while(|line| line.strip_prefix("qboot:   function "))
        .collect();
    let functions = pci::parse(&vm.monitor("info pci")?)?;
    let mut bars = 0;
    for ((bus, device, number), function) in &functions {
        let place = format!("{bus:02x}:{device:02x}.{number} ");
        let mut lines = listed.iter().filter_map(|line| line.strip_prefix(&place));
        let line = lines
            .next()
            .with_context(|| format!("no {place}: {serial}"))?;
        bars += check_listed(function, line)?;
    }
    ensure!(
        functions.len() == listed.len(),
        "more than QEMU has: {serial}"
    );
    ensure!(bars >= 3, "{bars} BARs: {functions:x?}");
    Ok(())
}

/// The log of the boot that the documentation shows.
fn shown(value: &str) -> Result<String> {
    let mut vm = Q35
        .qemu()?
        .accel(Accel::Icount { shift: 0 })
        .kernel(kernel::debian(Flavour::CloudAmd64)?.bzimage)
        // Without a console on the serial port, where the kernel's lines would
        // follow: what is there in the end is the firmware's.
        .append("quiet")
        .option("log", value)
        .spawn()?;
    vm.wait_serial("loaded: ", PROBE_TIMEOUT)?;
    let mut before = String::new();
    loop {
        // A busy host may hold QEMU up between two lines.
        std::thread::sleep(Duration::from_secs(1));
        let now = vm.serial();
        if now == before {
            return lines(&now);
        }
        before = now;
    }
}

/// A log with "..." for all but the first of several lines about the same thing.
fn shortened<'a>(log: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::new();
    let mut last = None;
    for line in log {
        let about = line.split_whitespace().nth(1);
        if last != about {
            text.extend([line, "\n"]);
        } else if !text.ends_with("...\n") {
            text.push_str("...\n");
        }
        last = about;
    }
    text
}

/// The samples in docs/debugging.md are shortened logs of such boots, and what
/// docs/boot-flow.md quotes is in them. `QBOOT_UPDATE_DOCS=1` writes them anew.
#[test]
fn samples_in_the_documentation_are_real() -> Result<()> {
    let (version, documented) = (budget::qemu_version()?, Budget::read()?.qemu);
    if version != documented {
        skip(
            "samples_in_the_documentation_are_real",
            &format!(
                "QEMU {version} gives other tables than {documented}, which the samples are of"
            ),
        );
        return Ok(());
    }
    let docs = xtask::workspace::root().join("docs");
    let path = docs.join("debugging.md");
    let mut page = fs::read_to_string(&path)?;
    let mut at = 0;
    for value in ["steps", "all"] {
        let log = shown(value)?;
        // Of `all` the page shows what it adds to the steps.
        let lines = log.lines();
        let added = lines.filter(|line| value == "steps" || !line.contains(" ticks, "));
        let real = shortened(added);
        let start = at + page[at..].find("\nqboot: ").context("no sample")? + 1;
        let end = start + page[start..].find("```").context("no end of the sample")?;
        if std::env::var_os("QBOOT_UPDATE_DOCS").is_some() {
            page.replace_range(start..end, &real);
            fs::write(&path, &page)?;
            at = start + real.len();
        } else {
            let [sample, boot] =
                [&page[start..end], &real].map(|text| text.lines().map(shape).collect::<Vec<_>>());
            ensure!(
                sample == boot,
                "docs/debugging.md shows another log than this, write it anew with \
                 QBOOT_UPDATE_DOCS=1 cargo test --package qboot-tests --test log samples:\n{real}"
            );
            at = end;
        }
        let real: Vec<String> = real.lines().map(shape).collect();
        let flow = fs::read_to_string(docs.join("boot-flow.md"))?;
        let quoted = flow
            .lines()
            .filter(|line| value == "steps" && line.starts_with("| ") && line.ends_with("` |"))
            .filter_map(|line| line.rsplit('`').nth(1));
        for quoted in quoted {
            let wanted = shape(quoted);
            ensure!(
                real.iter().any(|line| line.ends_with(&wanted)),
                "docs/boot-flow.md quotes {quoted:?}, which no boot says"
            );
        }
    }
    Ok(())
}
