//! What the firmware does to memory: how deep its stack goes, and that the
//! simulated machine (`src/sim.rs`) is left byte for byte as the real one.

use std::ffi::OsString;
use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use qboot::fw_cfg::fake::FakeFwCfg;
use qboot::kernel::Handoff;
use qboot::layout;
use qboot::phys::PhysRange;
use qboot::sim::Guest;
use qboot_tests::machines::*;
use qboot_tests::{Kind, PROBE_TIMEOUT, Probe, noise, symbol};
use rstest::rstest;
use rstest_reuse::apply;
use xtask::probe::{self, Mode, Multiboot, PAYLOAD_LEN, RECORD_LEN, RECORD_OFFSET, Record};
use xtask::qemu::{Qemu, Vm};
use xtask::{build, capture};

#[path = "memory/frames.rs"]
mod frames;

/// What the stack is filled with beforehand: hardly anything else writes this byte.
const PAINT: u8 = 0xa7;
/// Most bytes of stack that a boot may use. The stack has twice as many, and the
/// firmware checks its guard before the handoff.
const DEEPEST: u32 = 8192;

/// Bytes of stack that were used.
fn depth(vm: &mut Vm) -> Result<u32> {
    let stack = layout::STACK;
    let bytes = vm.memory(stack.start().into(), stack.len() as usize)?;
    // The lowest word is the guard, which the entry code writes.
    let lowest = bytes.iter().skip(4).position(|byte| *byte != PAINT);
    let lowest = lowest.context("the stack is as it was painted")?;
    Ok(stack.len() - 4 - u32::try_from(lowest)?)
}

/// Boots with a painted stack, until the probe or an error has said something.
fn painted(qemu: Qemu, probe: &Probe) -> Result<u32> {
    let paint = probe.file("paint", &vec![PAINT; layout::STACK.len() as usize])?;
    let qemu = qemu.loader(&paint, layout::STACK.start());
    let mut vm = qemu.qmp().spawn()?;
    vm.wait_for("an end", PROBE_TIMEOUT, |vm| {
        vm.serial().ends_with('\n') || vm.debugcon(probe::REPORT_PORT).len() >= RECORD_LEN
    })?;
    depth(&mut vm)
}

#[test]
fn the_stack_stays_shallow() -> Result<()> {
    let plain = |qemu: Qemu| qemu;
    let full = |qemu: Qemu| qemu.option("pci", "full");
    let chain = |machine: Machine| {
        let root = machine.pci.map_or("", |pci| pci.root);
        // Conventional bridges, on either machine; without ACPI slot 0 takes none.
        let bridges = PC.chain(12, root).into_iter();
        let bridges: Vec<_> = bridges.map(|bridge| bridge + ",addr=9").collect();
        move |qemu: Qemu| qemu.devices(&bridges)
    };
    let mut deepest = (0, String::new());
    let mut boot = |machine: Machine, kind, change: &dyn Fn(Qemu) -> Qemu| -> Result<()> {
        let probe = Probe::new(kind)?;
        let qemu = change(probe.machine(machine)?);
        let name = format!("{machine} {kind:?}");
        let depth = painted(qemu, &probe).with_context(|| name.clone())?;
        println!("{depth:6} bytes of stack: {name}");
        deepest = deepest.clone().max((depth, name));
        Ok(())
    };
    for machine in ALL {
        for kind in [Kind::BzImage, Kind::Pvh] {
            boot(machine, kind, &plain)?;
        }
    }
    boot(PC, Kind::Multiboot, &plain)?;
    boot(PC, Kind::BzImage, &|qemu| qemu.option("entry", "16"))?;
    for (machine, kind) in [(PC, Kind::BzImage), (Q35, Kind::Pvh)] {
        boot(machine.with("acpi=off"), kind, &chain(machine))?;
        boot(machine, Kind::Pvh, &|qemu| full(chain(machine)(qemu)))?;
    }
    boot(MICROVM.with("acpi=off,pcie=on"), Kind::Pvh, &full)?;
    // Errors: a line is printed from deep down.
    boot(PC, Kind::BzImage, &|qemu| qemu.append(&"x".repeat(3000)))?;
    boot(Q35, Kind::BzImage, &|qemu| qemu.option("pci", "much"))?;
    ensure!(
        deepest.0 <= DEEPEST,
        "{deepest:?}, at most {DEEPEST} allowed"
    );
    Ok(())
}

/// The ROM's PCI BIOS.
fn pci_bios() -> Result<&'static [u8]> {
    let offset = |name| -> Result<usize> { Ok((symbol(name)? & 0xffff) as usize) };
    let code = offset("bios32_start")?..offset("bios32_end")?;
    let code = std::fs::read(build::rom(&[])?.image)?[code].to_vec();
    Ok(code.leak())
}

/// What is booted under qtest and with the ROM.
fn boot_options(probe: &Probe) -> Result<[OsString; 6]> {
    let initrd = probe.file("initrd", &noise(100_001, 7))?;
    Ok([
        "-kernel".into(),
        probe.path().into(),
        "-initrd".into(),
        initrd.into(),
        "-append".into(),
        "console=ttyS0 root=/dev/vda quiet".into(),
    ])
}

/// The simulated machine after its boot, and the handoff.
fn simulated(
    machine: Machine,
    kind: Kind,
    probe: &Probe,
    image: &[u8],
) -> Result<(Guest, Handoff)> {
    // The DSDT tells of a serial port.
    let name = machine.to_string();
    let options = ["-M", &name, "-m", "64M", "-serial", "null"].map(OsString::from);
    let options = [&options[..], &boot_options(probe)?].concat();
    let mut fw_cfg = FakeFwCfg::new();
    for item in capture::capture(&options)? {
        match item.name.as_str() {
            "" => {
                fw_cfg.item(item.selector, &item.data);
            }
            name => {
                fw_cfg.file(name, &item.data);
            }
        }
    }
    let mut guest = Guest::new(machine.board, fw_cfg, 64 << 20);
    guest.machine.memory.pci_bios = pci_bios()?;
    if kind == Kind::Pvh {
        let code = &image[0x1000..0x1000 + PAYLOAD_LEN];
        ensure!(guest.machine.memory.preload(0x10_0000, code), "no room");
    }
    let handoff = match guest.run() {
        Ok(handoff) => handoff,
        Err(error) => bail!("{error:?}"),
    };
    guest.check(Ok(handoff)).map_err(anyhow::Error::msg)?;
    Ok((guest, handoff))
}

/// Compares what lies at `range`, but for `except`; `is_image` says that the F
/// segment is the image.
fn same(
    vm: &mut Vm,
    guest: &Guest,
    range: PhysRange,
    except: Range<u64>,
    is_image: bool,
) -> Result<()> {
    let mut real = vm.memory(range.start().into(), range.len() as usize)?;
    let mut simulated = guest.machine.memory.peek(range).to_vec();
    ensure!(real.len() == simulated.len(), "{range:x?} is not all RAM");
    let start = u64::from(range.start());
    for bytes in [&mut real, &mut simulated] {
        let at = except.start.checked_sub(start).map(|at| at as usize);
        let at = at.map(|at| at..at + (except.end - except.start) as usize);
        if let Some(bytes) = at.and_then(|at| bytes.get_mut(at)) {
            bytes.fill(0);
        }
    }
    // `.wake` lies there, where tables are not.
    if is_image && layout::F_TABLES.contains(range) {
        let rom = std::fs::read(build::rom(&[])?.image)?;
        let rom = &rom[(range.start() - layout::F_SEGMENT.start()) as usize..];
        for (n, byte) in real.iter_mut().enumerate() {
            if simulated[n] == 0 && *byte == rom[n] {
                *byte = 0;
            }
        }
    }
    if real == simulated {
        return Ok(());
    }
    let mut places = 0..real.len();
    let at = places.find(|at| real[*at] != simulated[*at]);
    let at = at.context("one is longer")?;
    let end = real.len().min(at + 32);
    bail!(
        "at {:#x} QEMU has {:x?}, the simulation {:x?}",
        start + at as u64,
        &real[at..end],
        &simulated[at..end]
    );
}

/// Everything but the firmware's own memory (vectors, stack, `.bss`, scratch,
/// and the part of the F segment that the image takes) and the record that the
/// probe writes into its code.
#[apply(each_machine_and_kernel)]
fn the_simulation_leaves_the_same_memory(
    machine: Machine,
    kind: Kind,
    #[values("", "acpi=off")] options: &'static str,
) -> Result<()> {
    let machine = machine.with(options);
    let image = kind.image(Mode::Halt)?;
    let probe = Probe::from_bytes(kind, &image)?;
    let (guest, handoff) = simulated(machine, kind, &probe, &image)?;

    let qemu = machine.qemu()?.memory_mib(64).qmp();
    let mut vm = probe::ports(qemu).args(boot_options(&probe)?).spawn()?;
    let report = vm.wait_debugcon(probe::REPORT_PORT, RECORD_LEN, PROBE_TIMEOUT)?;
    let record = Record::parse(&report)?;
    let entered = match handoff {
        Handoff::Linux { entry, boot_params } => (entry, boot_params) == (record.entry, record.esi),
        Handoff::Pvh { entry, start_info } => (entry, start_info) == (record.entry, record.ebx),
        _ => false,
    };
    ensure!(entered, "{handoff:x?}, but {record:x?}");
    let own = u64::from(record.entry) + RECORD_OFFSET as u64;
    let own = own..own + RECORD_LEN as u64;
    for range in [
        layout::LOW_FREE,
        layout::LOW_FREE_TOP,
        layout::EBDA,
        layout::F_TABLES,
        PhysRange::fixed(layout::HIGH_RAM, 64 << 20),
    ] {
        same(&mut vm, &guest, range, own.clone(), machine.is(MICROVM))?;
    }
    Ok(())
}

/// Each place of two ranges in 12 bytes, of up to 16 bytes: overlapping either way, and
/// of every length modulo 4. The bytes around the destination stay, and the pointer to
/// it is returned.
#[test]
fn memmove_moves_ranges_that_overlap() -> Result<()> {
    const LIST: usize = 0x800;
    const MEMORY: u64 = 0x20_0000;
    const PATTERN: u8 = 28;
    const LEN: usize = 32;
    let mut code = probe::assemble("move.S", include_str!("move.S"))?;
    ensure!(code.len() == LIST, "{:#x}", code.len());
    code[16..20].copy_from_slice(&symbol("memmove")?.to_le_bytes());
    let places = || (0..12_u8).flat_map(|dest| (0..12_u8).map(move |src| (dest, src)));
    let calls: Vec<_> = places()
        .flat_map(|(dest, src)| (0..=16).map(move |len| [dest, src, len, 0]))
        .collect();
    code.extend(calls.concat());
    code.extend([0xff; 4]);
    let image = Multiboot {
        payload: code,
        ..Multiboot::new(Mode::Halt)?
    };
    let probe = Probe::from_bytes(Kind::Multiboot, &image.bytes())?;
    let mut vm = probe.machine(MICROVM)?.spawn()?;
    vm.wait_debugcon(probe::REPORT_PORT, 1, PROBE_TIMEOUT)?;
    let memory = vm.memory(MEMORY, calls.len() * LEN)?;
    for (call, moved) in calls.iter().zip(memory.chunks(LEN)) {
        let [dest, src, len, _] = call.map(usize::from);
        let mut expected: Vec<u8> = (1..=PATTERN).collect();
        expected.copy_within(src..src + len, dest);
        expected.extend(u32::from(call[0]).to_le_bytes());
        ensure!(moved == expected, "{call:?}: {moved:?}");
    }
    Ok(())
}
