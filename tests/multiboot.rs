//! What a multiboot kernel is handed, modules byte for byte. Kernels of others
//! are in `matrix.toml`.

use anyhow::{Context, Result, ensure};
use qboot_tests::machines::*;
use qboot_tests::{Field, Kind, PROBE_TIMEOUT, Probe, noise};
use rstest::rstest;
use rstest_reuse::apply;
use xtask::probe::{self, Mode};
use xtask::qemu::Vm;

fn text(vm: &mut Vm, addr: u32) -> Result<String> {
    let bytes = vm.memory(addr.into(), 256)?;
    let len = bytes.iter().position(|byte| *byte == 0);
    let len = len.context("a string without its end")?;
    Ok(String::from_utf8_lossy(&bytes[..len]).into_owned())
}

/// First and last address of RAM, by the map of an information block.
fn ram(vm: &mut Vm, info: &[u8]) -> Result<Vec<(u32, u32)>> {
    let map = vm.memory(info.u32(48)?.into(), info.u32(44)? as usize)?;
    let mut ram = Vec::new();
    for entry in map.chunks(24) {
        ensure!(entry.u32(0)? == 20, "an entry of {} bytes", entry.u32(0)?);
        let start = entry.u32(4)?;
        if entry.u32(20)? == 1 {
            ram.push((start, start + entry.u32(12)?));
        }
    }
    Ok(ram)
}

/// Each range is in one part of RAM.
fn check_inside(ram: &[(u32, u32)], ranges: &[(u32, u32)]) -> Result<()> {
    for (start, end) in ranges {
        ensure!(
            ram.iter().any(|part| part.0 <= *start && *end <= part.1),
            "{start:x} to {end:x} is not in {ram:x?}"
        );
    }
    Ok(())
}

/// A multiboot kernel of our own, with no module or three.
#[apply(each_machine_and_isapc)]
fn multiboot(machine: Machine, #[values(0, 3)] modules: usize) -> Result<()> {
    let probe = Probe::new(Kind::Multiboot)?;
    let contents: Vec<_> = (0..modules)
        .map(|n| noise(5_000 + 4_096 * n, n as u64 + 1))
        .collect();
    let mut list = Vec::new();
    for (n, bytes) in contents.iter().enumerate() {
        let path = probe.file(&format!("module{n}"), bytes)?;
        list.push(format!("{} number {n}", path.display()));
    }
    let mut qemu = probe
        .machine(machine)?
        .append("words for it")
        .memory_mib(64);
    if modules != 0 {
        qemu = qemu.initrd(list.join(","));
    }
    let (handover, mut vm) = probe.boot(&qemu)?;
    handover.check_registers()?;
    let ebx = handover.record.ebx;

    // The words by their offsets: Multiboot specification 0.6.96, section 3.3.
    let info = vm.memory(ebx.into(), 88)?;
    ensure!(info.u32(0)? == 0x24d, "flags {:#x}", info.u32(0)?);
    ensure!(info.u32(4)? == 639, "{} KiB below", info.u32(4)?);
    // Tables may lie at the end.
    let upper = info.u32(8)?;
    ensure!((60 << 10..=63 << 10).contains(&upper), "{upper} KiB above");
    let line = text(&mut vm, info.u32(16)?)?;
    ensure!(line.ends_with("words for it"), "{line:?}");
    ensure!(text(&mut vm, info.u32(64)?)? == "qboot");

    ensure!(info.u32(20)? as usize == modules);
    let table = vm.memory(info.u32(24)?.into(), 16 * modules.max(1))?;
    let mut taken = vec![(ebx, ebx + 88)];
    for (n, bytes) in contents.iter().enumerate() {
        let (start, end) = (table.u32(16 * n)?, table.u32(16 * n + 4)?);
        ensure!(
            (end - start) as usize == bytes.len(),
            "{start:x} to {end:x}"
        );
        ensure!(
            vm.memory(start.into(), bytes.len())? == *bytes,
            "module {n}"
        );
        let line = text(&mut vm, table.u32(16 * n + 8)?)?;
        ensure!(line == list[n], "{line:?}");
        taken.push((start, end));
    }

    let ram = ram(&mut vm, &info)?;
    ensure!(ram.contains(&(0, 0x9_fc00)), "{ram:x?}");
    ensure!(
        ram.contains(&(1 << 20, (1 << 20) + (upper << 10))),
        "{ram:x?}"
    );
    check_inside(&ram, &taken)?;
    // What a BIOS leaves, which Xen looks at.
    let bda = vm.memory(0x400, 0x18)?;
    ensure!(bda.u16(0x0e)? == 0x9fc0 && bda.u16(0x13)? == 639);
    Ok(())
}

/// A jump to F000:FFF0 starts the machine anew, as a reset does: on pc and q35 by what the
/// firmware leaves in RAM there, on others by the ROM that real mode sees there.
#[apply(each_machine_and_isapc)]
fn a_jump_to_the_reset_vector_is_a_reset(machine: Machine) -> Result<()> {
    let code = probe::assemble("jump.S", include_str!("jump.S"))?;
    let image = Kind::Multiboot.other_than_linux(Mode::Exit, &code)?;
    let probe = Probe::from_bytes(Kind::Multiboot, &image)?;
    let qemu = machine.qemu()?.kernel(probe.path()).memory_mib(64);
    let mut vm = probe::ports(qemu.reboot()).spawn()?;
    probe::wait_end(&mut vm, PROBE_TIMEOUT)
}
