//! What a multiboot kernel is handed, modules byte for byte. Kernels of others
//! are in `matrix.toml`.

use anyhow::{Context, Result, ensure};
use qboot_tests::{Kind, Probe, noise};
use rstest::rstest;
use xtask::probe::Record;
use xtask::qemu::Vm;

/// The information block's words (Multiboot specification 0.6.96, section 3.3).
struct Information(Vec<u8>);

impl Information {
    fn word(&self, at: usize) -> u32 {
        let bytes = &self.0[at..at + 4];
        u32::from_le_bytes(bytes.try_into().expect("4 bytes"))
    }
}

fn text(vm: &mut Vm, addr: u32) -> Result<String> {
    let bytes = vm.memory(addr.into(), 256)?;
    let len = bytes.iter().position(|byte| *byte == 0);
    let len = len.context("a string without its end")?;
    Ok(String::from_utf8_lossy(&bytes[..len]).into_owned())
}

/// First and last address of RAM, by the map.
fn ram(vm: &mut Vm, info: &Information) -> Result<Vec<(u32, u32)>> {
    let map = Information(vm.memory(info.word(48).into(), info.word(44) as usize)?);
    let mut at = 0;
    let mut ram = Vec::new();
    while at < map.0.len() {
        ensure!(map.word(at) == 20, "an entry of {} bytes", map.word(at));
        if map.word(at + 20) == 1 {
            ram.push((map.word(at + 4), map.word(at + 4) + map.word(at + 12)));
        }
        at += 24;
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
#[rstest]
fn multiboot(
    #[values("pc", "q35", "microvm", "isapc")] name: &str,
    #[values(0, 3)] modules: usize,
) -> Result<()> {
    let probe = Probe::new(Kind::Multiboot)?;
    let contents: Vec<_> = (0..modules)
        .map(|n| noise(5_000 + 4_096 * n, n as u64 + 1))
        .collect();
    let mut list = Vec::new();
    for (n, bytes) in contents.iter().enumerate() {
        let path = probe.file(&format!("module{n}"), bytes)?;
        list.push(format!("{} number {n}", path.display()));
    }
    let mut qemu = probe.machine(name)?.append("words for it").memory_mib(64);
    if modules != 0 {
        qemu = qemu.initrd(list.join(","));
    }
    let (handover, mut vm) = probe.boot(&qemu)?;
    let Record {
        eax,
        ebx,
        cr0,
        eflags,
        ..
    } = handover.record;
    ensure!(eax == 0x2bad_b002, "EAX {eax:#x}");
    ensure!(cr0 & 1 == 1 && cr0 >> 31 == 0, "CR0 {cr0:#x}");
    ensure!(eflags & (1 << 9 | 1 << 17) == 0, "EFLAGS {eflags:#x}");

    let info = Information(vm.memory(ebx.into(), 88)?);
    ensure!(info.word(0) == 0x24d, "flags {:#x}", info.word(0));
    ensure!(info.word(4) == 639, "{} KiB below", info.word(4));
    // Tables may lie at the end.
    let upper = info.word(8);
    ensure!((60 << 10..=63 << 10).contains(&upper), "{upper} KiB above");
    let line = text(&mut vm, info.word(16))?;
    ensure!(line.ends_with("words for it"), "{line:?}");
    ensure!(text(&mut vm, info.word(64))? == "qboot");

    ensure!(info.word(20) as usize == modules);
    let table = Information(vm.memory(info.word(24).into(), 16 * modules.max(1))?);
    let mut taken = vec![(ebx, ebx + 88)];
    for (n, bytes) in contents.iter().enumerate() {
        let (start, end) = (table.word(16 * n), table.word(16 * n + 4));
        ensure!(
            (end - start) as usize == bytes.len(),
            "{start:x} to {end:x}"
        );
        ensure!(
            vm.memory(start.into(), bytes.len())? == *bytes,
            "module {n}"
        );
        let line = text(&mut vm, table.word(16 * n + 8))?;
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
    let bda = Information(vm.memory(0x400, 0x18)?);
    ensure!(bda.word(0x0e) & 0xffff == 0x9fc0 && bda.word(0x13) & 0xffff == 639);
    Ok(())
}
