//! Suspend to RAM: guests that sleep go on where they were.
//!
//! The quick ones run always; all of them, in half an hour:
//!
//!     cargo test --package qboot-tests --test suspend -- --include-ignored

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qboot::error::Error;
use qboot::layout;
use qboot::phys::PhysRange;
use qboot_tests::machines::*;
use qboot_tests::{
    Field, GENERATIONS, Kind, PROBE_TIMEOUT, Probe, generation_address, restored, save, symbol,
    wait_until,
};
use rstest::rstest;
use rstest_reuse::apply;
use xtask::probe::{self, Mode, REPORT_PORT};
use xtask::qemu::{Qemu, Vm};

#[path = "suspend/linux.rs"]
mod linux;

/// Presses the power button of a machine that sleeps, once it does.
fn wake(vm: &mut Vm) -> Result<()> {
    asleep(vm)?;
    vm.monitor("system_wakeup")?;
    Ok(())
}

fn asleep(vm: &mut Vm) -> Result<()> {
    wait_until("it sleeps", || Ok(vm.state()? == "suspended")).with_context(|| vm.report())
}

/// What `sleeper.S` is told, at 16 bytes from its start.
#[derive(Clone, Copy)]
struct Wishes {
    /// Where it wants to be woken, in real mode.
    vector: u32,
    /// The same in 32-bit mode.
    wide: u32,
    /// The FACS' version.
    version: u32,
    /// A dword that it inverts; [`FACS`] is that table's first.
    damage: u32,
}

/// Where `sleeper.S` has its real-mode code.
const REAL: u32 = 0x8000;
/// And the 32-bit one.
const FLAT: u32 = REAL + 0x100;
const FACS: u32 = 1;

const ORDINARY: Wishes = Wishes {
    vector: REAL,
    wide: 0,
    version: 0,
    damage: 0,
};

const MEMORY: u32 = 32 << 20;

/// What the processor was like at the waking vector.
#[derive(Debug, PartialEq, Eq)]
struct State {
    mode: u8,
    cs: u16,
    idt_limit: u16,
    idt_base: u32,
    cr0: u32,
    eflags: u32,
}

impl Wishes {
    fn code(&self) -> Result<Vec<u8>> {
        let mut code = probe::assemble("sleeper.S", include_str!("sleeper.S"))?;
        let wishes = [
            self.vector,
            self.wide,
            self.version,
            self.damage,
            // Tables are in the last MiB.
            MEMORY - (1 << 20),
        ];
        for (slot, wish) in code[16..].chunks_mut(4).zip(wishes) {
            slot.copy_from_slice(&wish.to_le_bytes());
        }
        Ok(code)
    }

    fn probe(&self, kind: Kind) -> Result<Probe> {
        Probe::from_bytes(kind, &kind.other_than_linux(Mode::Halt, &self.code()?)?)
    }

    fn qemu(&self, machine: Machine) -> Result<(Qemu, Probe)> {
        let probe = self.probe(Kind::Multiboot)?;
        let qemu = probe.machine(machine)?.memory_mib(u64::from(MEMORY) >> 20);
        Ok((qemu, probe))
    }
}

/// Waits until it has been woken `times` times.
fn woken(vm: &mut Vm, times: usize) -> Result<State> {
    const LEN: usize = 20;
    let report = vm.wait_debugcon(REPORT_PORT, LEN * times, PROBE_TIMEOUT)?;
    let last = &report[report.len() - LEN..];
    Ok(State {
        mode: last.u8(0)?,
        cs: last.u16(2)?,
        idt_limit: last.u16(6)?,
        idt_base: last.u32(8)?,
        cr0: last.u32(12)?,
        eflags: last.u32(16)?,
    })
}

/// It was not woken but booted anew, and sleeps again.
fn booted_anew(vm: &mut Vm) -> Result<()> {
    // QEMU says that it runs between the two.
    wait_until("it runs", || Ok(vm.state()? != "suspended")).with_context(|| vm.report())?;
    asleep(vm)?;
    let report = vm.debugcon(REPORT_PORT);
    ensure!(report.is_empty(), "it was woken: {report:x?}");
    Ok(())
}

/// All registers of the chipset, and the F segment as the processor sees it.
fn chipset(vm: &mut Vm, machine: Machine) -> Result<Vec<String>> {
    let functions: &[u32] = match machine.is(Q35) {
        true => &[0, 0x1f << 3],
        false => &[0, 1 << 3, 1 << 3 | 3],
    };
    let mut seen = Vec::new();
    for function in functions {
        // What comes before is the guest's to restore.
        for register in (0x40..0x100).step_by(4) {
            let address = 1 << 31 | function << 8 | register;
            vm.monitor(&format!("o /w 0xcf8 {address:#x}"))?;
            let value = vm.monitor("i /w 0xcfc")?;
            seen.push(format!("{function:#x}, register {register:#x}: {value}"));
        }
    }
    // The second 8259A's mask, and which interrupts are level-triggered.
    for port in ["0xa1", "0x4d1"] {
        seen.push(vm.monitor(&format!("i /b {port}"))?);
    }
    seen.push(vm.monitor("xp /4wx 0xffff0")?);
    if machine.is(Q35) {
        seen.push(vm.monitor("xp /1wx 0xb0000000")?);
    }
    Ok(seen)
}

/// A kernel like kvm-unit-tests' `s3`: it is entered as it wishes, the chipset is as it
/// was, and not a byte of its memory has changed.
#[apply(each_chipset)]
fn a_kernel_is_woken_as_it_wishes(machine: Machine, #[values(1, 4)] cpus: u32) -> Result<()> {
    let (qemu, _probe) = Wishes {
        vector: REAL + 5,
        // Counts from version 1 on.
        wide: FLAT,
        ..ORDINARY
    }
    .qemu(machine)?;
    let mut vm = qemu.smp(cpus).spawn()?;
    asleep(&mut vm)?;
    let registers = chipset(&mut vm, machine)?;
    let memory = vm.memory(0, MEMORY as usize)?;
    wake(&mut vm)?;
    let state = woken(&mut vm, 1)?;
    ensure!(
        state.mode == b'R' && u32::from(state.cs) == REAL >> 4,
        "{state:x?}"
    );
    ensure!(
        (state.idt_base, state.idt_limit) == (0, 0x3ff),
        "{state:x?}"
    );
    ensure!(state.cr0 & 0x8000_0001 == 0, "CR0 {:#x}", state.cr0);
    ensure!(state.eflags & 1 << 9 == 0, "EFLAGS {:#x}", state.eflags);

    let now = vm.memory(0, MEMORY as usize)?;
    // Its own report, and what E820 reserves below 1 MiB.
    let ours = [
        PhysRange::fixed(REAL, REAL + 0x1000),
        layout::EBDA,
        PhysRange::fixed(layout::EBDA.end(), layout::HIGH_RAM),
    ];
    let changed = (0..MEMORY).find(|at| {
        let ours = ours
            .iter()
            .any(|range| (range.start()..range.end()).contains(at));
        !ours && memory[*at as usize] != now[*at as usize]
    });
    ensure!(changed.is_none(), "{changed:x?} has changed");
    ensure!(memory[0x2000] != 0, "the kernel has filled nothing");
    let after = chipset(&mut vm, machine)?;
    for (before, after) in registers.iter().zip(&after) {
        ensure!(before == after, "{before} is now {after}");
    }
    Ok(())
}

/// The ECAM is as long as it was chosen to be.
#[test]
fn all_buses_are_reached_again() -> Result<()> {
    for (option, pciexbar) in [("auto", 0xb000_0005_u32), ("256", 0xb000_0001)] {
        let (qemu, _probe) = ORDINARY.qemu(Q35)?;
        let mut vm = qemu.option("buses", option).spawn()?;
        wake(&mut vm)?;
        woken(&mut vm, 1)?;
        let register = vm.monitor("xp /1wx 0xb0000060")?;
        ensure!(
            register.contains(&format!("{pciexbar:#010x}")),
            "{option}: {register}"
        );
    }
    Ok(())
}

#[apply(each_chipset)]
fn a_wide_vector_counts_from_version_1_on(machine: Machine) -> Result<()> {
    let (qemu, _probe) = Wishes {
        wide: FLAT,
        version: 1,
        ..ORDINARY
    }
    .qemu(machine)?;
    let mut vm = qemu.spawn()?;
    wake(&mut vm)?;
    let state = woken(&mut vm, 1)?;
    ensure!(state.mode == b'F' && state.idt_limit == 0, "{state:x?}");
    ensure!(state.cr0 & 0x8000_0001 == 1, "CR0 {:#x}", state.cr0);
    ensure!(state.eflags & 1 << 9 == 0, "EFLAGS {:#x}", state.eflags);
    Ok(())
}

/// Whoever has lost the way back is booted: by a note or a FACS that is garbage, or
/// without a vector.
#[apply(each_chipset)]
fn garbage_boots_anew(machine: Machine) -> Result<()> {
    let note = layout::WAKE_NOTE.start();
    for (vector, damage) in [
        (REAL, note),
        (REAL, note + 8),
        (REAL, note + 16),
        (REAL, FACS),
        (0, 0),
        (layout::HIGH_RAM, 0),
    ] {
        let wishes = Wishes {
            vector,
            damage,
            ..ORDINARY
        };
        let (qemu, _probe) = wishes.qemu(machine)?;
        let mut vm = qemu.spawn()?;
        wake(&mut vm)?;
        booted_anew(&mut vm)
            .with_context(|| format!("{machine}: vector {vector:#x}, damage at {damage:#x}"))?;
    }
    Ok(())
}

/// The guest may have written over the copy of the code that enters real mode: a wake-up
/// makes its own.
#[apply(each_chipset)]
fn a_wake_up_copies_its_code_again(machine: Machine) -> Result<()> {
    // The first 17 bytes run in the ROM.
    let copied = symbol("enter16")? + 17;
    let (qemu, _probe) = Wishes {
        damage: layout::F_SEGMENT.start() | copied & 0xffff,
        ..ORDINARY
    }
    .qemu(machine)?;
    let mut vm = qemu.spawn()?;
    wake(&mut vm)?;
    let state = woken(&mut vm, 1)?;
    ensure!(state.mode == b'R', "{state:x?}");
    Ok(())
}

/// A reset is no wake-up, although QEMU keeps in CMOS that one was.
#[apply(each_chipset)]
fn a_reset_after_a_resume_boots(machine: Machine) -> Result<()> {
    let (qemu, _probe) = ORDINARY.qemu(machine)?;
    let mut vm = qemu.reboot().spawn()?;
    for times in 1..=3 {
        wake(&mut vm)?;
        woken(&mut vm, times)?;
        vm.reset()?;
        asleep(&mut vm)?;
    }
    Ok(())
}

/// QEMU forgets at a reset where the generation's identifier is.
#[apply(each_chipset)]
fn the_generation_changes_after_a_resume(machine: Machine) -> Result<()> {
    let [(first, old), (second, new)] = GENERATIONS;
    let device = |guid| [format!("vmgenid,guid={guid}")];
    let (qemu, probe) = ORDINARY.qemu(machine)?;
    let mut vm = qemu.clone().devices(device(first)).spawn()?;
    wake(&mut vm)?;
    woken(&mut vm, 1)?;
    let addr = generation_address(&mut vm, &old)?;
    let state = probe.file("state", b"")?;
    vm.monitor("stop")?;
    save(&mut vm, &state)?;
    drop(vm);
    let mut vm = restored(qemu.devices(device(second)), &state)?;
    ensure!(vm.memory(addr, 16)? == new, "not at {addr:#x}");
    Ok(())
}

/// QEMU has loaded such a kernel again, over its own data.
#[apply(each_chipset)]
fn a_pvh_kernel_cannot_be_woken(machine: Machine) -> Result<()> {
    let probe = ORDINARY.probe(Kind::Pvh)?;
    let qemu = probe.machine(machine)?.memory_mib(u64::from(MEMORY) >> 20);
    let mut vm = qemu.debug_exit().spawn()?;
    asleep(&mut vm)?;
    // QEMU may end before it has answered.
    let _ = vm.monitor("system_wakeup");
    let status = vm.wait_exit(PROBE_TIMEOUT)?;
    let (code, line) = qboot_tests::error_line(&vm.serial(), status.code())?;
    ensure!(code == Error::CannotResume.code(), "{line}");
    Ok(())
}

/// Longest that Linux may take to wake and do its work, on a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(900);
