//! INT 11h, 12h and 15h.

use anyhow::{Context, Result, bail, ensure};
use qboot_tests::Field;
use qboot_tests::machines::*;
use rstest::rstest;
use rstest_reuse::apply;
use xtask::qemu::Vm;

use super::call::{Answer, Call, FROM_LAST, INTERRUPTS, INTO_BUFFER, Registers};
use super::{Answers, MEMORY_MIB, ask};

pub(super) const SMAP: u32 = u32::from_be_bytes(*b"SMAP");

/// The whole memory map, by 20 or 24 bytes an entry: start, length, type.
fn memory_map(answers: &[Answer], len: u32) -> Result<Vec<(u64, u64, u32)>> {
    let mut map = Vec::new();
    for answer in answers {
        ensure!(!answer.refused(), "{answer:x?}");
        ensure!(answer.eax == SMAP, "{answer:x?}");
        ensure!(answer.ecx == len, "{answer:x?}");
        ensure!(answer.edi == 0x100, "{answer:x?}");
        let buffer = &answer.buffer;
        map.push((buffer.u64(0)?, buffer.u64(8)?, buffer.u32(16)?));
        let attributes = &answer.buffer[20..24];
        if len == 24 {
            ensure!(attributes == [1, 0, 0, 0], "{answer:x?}");
        } else {
            ensure!(attributes == [0xa5; 4], "{answer:x?}");
        }
        ensure!(answer.buffer[24..] == [0xa5; 4], "{answer:x?}");
        if answer.ebx == 0 {
            return Ok(map);
        }
    }
    bail!("a map without end: {answers:x?}")
}

/// The map has the right type, or none, at addresses around each border.
fn check_map(map: &[(u64, u64, u32)]) -> Result<()> {
    let end = MEMORY_MIB << 20;
    let of = |addr: u64| {
        let mut all = map
            .iter()
            .filter(|(start, len, _)| (*start..start + len).contains(&addr));
        let kind = all.next().map(|(_, _, kind)| *kind);
        ensure!(all.next().is_none(), "{addr:x} twice: {map:x?}");
        Ok(kind)
    };
    for (addr, kind) in [
        (0, Some(1)),
        (0x9_fbff, Some(1)),
        (0x9_fc00, Some(2)),
        (0xa_0000, None),
        (0xf_0000, Some(2)),
        (0xf_ffff, Some(2)),
        (0x10_0000, Some(1)),
        (end - (1 << 20), Some(1)),
        (end, None),
    ] {
        ensure!(of(addr)? == kind, "{addr:x}: {map:x?}");
    }
    Ok(())
}

/// KiB to 16 MiB, and blocks of 64 KiB behind, to the end of RAM.
fn check_e801(e801: &Answer, end: u64) -> Result<()> {
    let blocks = ((end - (16 << 20)) >> 16) as u32;
    ensure!(!e801.refused(), "{e801:x?}");
    ensure!(e801.ax() == 15 << 10, "{e801:x?}");
    ensure!(e801.ebx & 0xffff == blocks, "{e801:x?}");
    ensure!(e801.ecx & 0xffff == 15 << 10, "{e801:x?}");
    ensure!(e801.edx & 0xffff == blocks, "{e801:x?}");
    Ok(())
}

/// What programs read without asking.
fn check_bda(vm: &mut Vm) -> Result<()> {
    let bda = vm.memory(0x400, 0x100)?;
    // COM1's port, the EBDA's segment, equipment, KiB of memory.
    for (at, expected) in [(0, 0x3f8), (0x0e, 0x9fc0), (0x10, 0x202), (0x13, 639)] {
        ensure!(bda.u16(at)? == expected, "{:#x} at {at:#x}", bda.u16(at)?);
    }
    let ebda = vm.memory(0x9_fc00, 1)?;
    ensure!(ebda == [1], "an EBDA of {ebda:?} KiB");
    Ok(())
}

/// INT 15h for memory, INT 12h, INT 11h, and the words that say the same.
#[apply(each_machine_and_isapc)]
fn memory(machine: Machine) -> Result<()> {
    const ENTRIES: usize = 12;
    let e820 = Call::new(0x15, 0xe820).edx(SMAP).special(INTO_BUFFER);
    let short = e820.ecx(20);
    let mut calls = vec![short.ebx(0)];
    calls.extend([short.special(FROM_LAST); ENTRIES - 1]);
    calls.push(e820.ebx(0).ecx(24));
    calls.extend([e820.ecx(24).special(FROM_LAST); ENTRIES - 1]);
    calls.extend([
        // Refused: another signature, a short buffer, an entry that is not there.
        e820.ebx(0).ecx(20).edx(1),
        e820.ebx(0).ecx(19),
        e820.ebx(100).ecx(20),
        Call::new(0x15, 0xe801),
        Call::new(0x15, 0x8800),
        Call::new(0x12, 0),
        Call::new(0x11, 0),
    ]);
    let Answers {
        entry,
        calls: answers,
        mut vm,
    } = ask(machine, &calls, &[])?;
    ensure!(
        entry.es == entry.ds && entry.sp > 0x1000 && entry.flags & INTERRUPTS == 0,
        "{entry:x?}"
    );

    // The list starts again at the call that asks for entry 0.
    let map = memory_map(&answers[..ENTRIES], 20)?;
    ensure!(map == memory_map(&answers[ENTRIES..2 * ENTRIES], 24)?);
    check_map(&map)?;
    let high = map
        .iter()
        .find(|entry| entry.0 == 1 << 20)
        .context("no memory at 1 MiB")?;

    let [
        signature,
        short,
        beyond,
        e801,
        extended,
        conventional,
        equipment,
    ] = &answers[2 * ENTRIES..]
    else {
        bail!("{} answers", answers.len());
    };
    for answer in [signature, short, beyond] {
        ensure!(answer.refused() && answer.ah() == 0x86, "{answer:x?}");
        ensure!(
            answer.buffer.iter().all(|byte| *byte == 0xa5),
            "{answer:x?}"
        );
    }
    check_e801(e801, high.0 + high.1)?;
    ensure!(
        !extended.refused() && extended.ax() == 63 << 10,
        "{extended:x?}"
    );
    ensure!(conventional.ax() == 639, "{conventional:x?}");
    // A coprocessor and a serial port.
    ensure!(equipment.ax() == 0x202, "{equipment:x?}");

    check_bda(&mut vm)
}

/// INT 15h AH=24h opens and closes the address line 20, AH=87h moves memory.
#[apply(each_machine_and_isapc)]
fn address_line_20(machine: Machine) -> Result<()> {
    let a20 = |function: u16| Call::new(0x15, 0x2400 | function);
    let calls = [a20(2), a20(0), a20(2), a20(1), a20(2), a20(3), a20(4)];
    let Answers { calls: answers, .. } = ask(machine, &calls, &[])?;
    for (call, answer) in calls.iter().zip(&answers) {
        let function = call.registers.eax as u8;
        ensure!(answer.refused() == (function > 3), "{call:x?} {answer:x?}");
        ensure!(
            answer.ah() == if function > 3 { 0x86 } else { 0 },
            "{call:x?} {answer:x?}"
        );
        answer.keeps(call, if function == 3 { "eax ebx" } else { "eax" })?;
    }
    // Where there is no port 0x92, the line is always open.
    let states = [0, 2, 4].map(|at: usize| answers[at].al());
    ensure!(
        states == [1, u8::from(!machine.closes_a20), 1],
        "{states:?}"
    );
    ensure!(answers[5].ebx & 0xffff == 3, "{:x?}", answers[5]);
    Ok(())
}

/// INT 15h AH=87h moves memory where 16-bit code cannot reach.
#[apply(each_machine_and_isapc)]
fn block_move(machine: Machine) -> Result<()> {
    // The list is in low memory: what a call's last bytes hold is the source's
    // and the target's descriptor, 0x10 bytes behind ES:SI.
    const LIST: u32 = 0x1_0800;
    const TARGET: u32 = 0x0412_3456;
    let descriptor = |addr: u32| {
        let [a, b, c, d] = addr.to_le_bytes();
        [0xff, 0xff, a, b, c, 0x93, 0, d]
    };
    let [source, target] = [0xf_fff0, TARGET].map(descriptor);
    let table = Call {
        vector: 0x12,
        registers: Registers {
            // At 0x10 of a call: EDX, ESI, EDI, EBP.
            edx: source.u32(0)?,
            esi: source.u32(4)?,
            edi: target.u32(0)?,
            ebp: target.u32(4)?,
            ..Registers::default()
        },
        ..Call::default()
    };
    // ES is the buffer's segment less 0x10 paragraphs: 0x600 behind DS.
    let table_at = LIST - (0x1_0000 + 0x600);
    let call = Call::new(0x15, 0x8700).ecx(8).esi(table_at);
    let Answers {
        calls: answers,
        mut vm,
        ..
    } = ask(machine, &[table, call], &[])?;
    let answer = &answers[1];
    ensure!(!answer.refused() && answer.ah() == 0, "{answer:x?}");
    answer.keeps(&call, "eax")?;
    let moved = vm.memory(TARGET.into(), 18)?;
    let rom = vm.memory(0xf_fff0, 16)?;
    ensure!(moved[..16] == rom && rom[0] != 0, "{moved:x?} {rom:x?}");
    ensure!(moved[16..] == [0, 0], "more than was asked: {moved:x?}");
    Ok(())
}
