//! The BIOS services that a kernel's 16-bit code asks for: a kernel that does
//! nothing but ask, and every answer checked.

use anyhow::{Context, Result, ensure};
use qboot_tests::machines::*;
use qboot_tests::{Kind, PROBE_TIMEOUT, Probe};
use rstest::rstest;
use rstest_reuse::apply;
use xtask::probe::{self, BzImage, Mode, REPORT_PORT, hdr};
use xtask::qemu::Vm;

#[path = "services/call.rs"]
mod call;
#[path = "services/memory.rs"]
mod memory;

use call::*;
use memory::SMAP;

/// A kernel that may only be entered at its 16-bit code, and makes these calls.
fn image(calls: &[Call]) -> Result<Vec<u8>> {
    let mut image = BzImage::minimal(Mode::Halt)?;
    let header = image.setup[hdr::SETUP_SECTS..hdr::HANDOVER_OFFSET + 4].to_vec();
    let mut code = probe::assemble("services.S", include_str!("services.S"))?;
    // Its own jump; the rest of the header is the other probe's.
    let jump = code[hdr::JUMP..hdr::JUMP + 2].to_vec();
    code[hdr::SETUP_SECTS..hdr::HANDOVER_OFFSET + 4].copy_from_slice(&header);
    code[hdr::JUMP..hdr::JUMP + 2].copy_from_slice(&jump);
    for call in calls {
        code.extend(call.bytes());
    }
    let stop = Call {
        special: STOP,
        ..Call::default()
    };
    code.extend(stop.bytes());
    code.resize(code.len().next_multiple_of(512), 0);
    let sectors = u8::try_from(code.len() / 512 - 1)?;
    image.setup = code;
    image
        .set_u8(hdr::SETUP_SECTS, sectors)
        .set_u16(hdr::VERSION, 0x0202)
        .set_u8(hdr::RELOCATABLE_KERNEL, 0);
    Ok(image.bytes())
}

/// How the code was entered, and the answers to the calls.
struct Answers {
    entry: Answer,
    calls: Vec<Answer>,
    vm: Vm,
}

const MEMORY_MIB: u64 = 192;

/// A clock that does not stand at midnight, and in the 20th century's range.
const RTC: &str = "base=2031-07-25T13:14:15,clock=vm";

fn ask(machine: Machine, calls: &[Call], devices: &[&str]) -> Result<Answers> {
    let probe = Probe::from_bytes(Kind::BzImage, &image(calls)?)?;
    let qemu = probe.machine(machine)?.memory_mib(MEMORY_MIB);
    let mut vm = qemu.args(["-rtc", RTC]).devices(devices).spawn()?;
    let mut answers = read(&mut vm, 0, calls.len() + 1)?;
    let entry = answers.remove(0);
    for (call, answer) in calls.iter().zip(&answers) {
        let at = || format!("{call:x?} {answer:x?}");
        ensure!(answer.ds == entry.ds, "another DS: {}", at());
        ensure!(answer.sp == entry.sp, "another SP: {}", at());
        ensure!(answer.flags & DIRECTION == 0, "backwards: {}", at());
        ensure!(answer.flags & INTERRUPTS != 0, "no interrupts: {}", at());
    }
    Ok(Answers {
        entry,
        calls: answers,
        vm,
    })
}

/// The answers from number `first` on.
fn read(vm: &mut Vm, first: usize, count: usize) -> Result<Vec<Answer>> {
    let len = (first + count) * ANSWER_LEN;
    let bytes = vm.wait_debugcon(REPORT_PORT, len, PROBE_TIMEOUT)?;
    let answers = bytes[first * ANSWER_LEN..len].chunks_exact(ANSWER_LEN);
    answers.map(Answer::parse).collect()
}

/// INT 10h prints on COM1 and says that there is no display to set up.
#[apply(each_machine_and_isapc)]
fn video(machine: Machine) -> Result<()> {
    let mut calls: Vec<Call> = b"\r\nteletype\r\n"
        .iter()
        .map(|byte| Call::new(0x10, 0x0e00 | u16::from(*byte)))
        .collect();
    let text = calls.len();
    // BH is the page; CX and DX are what the others make of them.
    calls.extend([
        Call::new(0x10, 0x0f00),
        Call::new(0x10, 0x0200).ebx(0).edx(0x0305),
        Call::new(0x10, 0x0300).ebx(0),
        Call::new(0x10, 0x0e41),
        Call::new(0x10, 0x0300).ebx(0),
        Call::new(0x10, 0x4f00).special(INTO_BUFFER),
        Call::new(0x10, 0x4f02),
        Call::new(0x10, 0x1a00),
        Call::new(0x10, 0x1200).ebx(0xbbbb_0010),
        Call::new(0x10, 0x0003),
    ]);
    let Answers {
        calls: answers,
        mut vm,
        ..
    } = ask(machine, &calls, &[])?;
    vm.wait_serial("\r\nteletype\r\n", PROBE_TIMEOUT)?;
    for (call, answer) in calls[..text].iter().zip(&answers) {
        answer.keeps(call, "")?;
    }
    let rest = &answers[text..];
    let fits = [
        rest[0].al() & 0x7f == 3 && rest[0].ah() == 80 && rest[0].ebx & 0xff00 == 0,
        // The cursor, and it moves.
        rest[2].edx & 0xffff == 0x0305,
        rest[4].edx & 0xffff == 0x0306,
        // VESA: AL is 4f where the function is there.
        rest[5].al() != 0x4f && rest[6].al() != 0x4f && rest[5].buffer == [0xa5; 28],
        // VGA would answer 1a, EGA change BL.
        rest[7].al() != 0x1a && rest[8].ebx & 0xff == 0x10,
    ];
    ensure!(fits == [true; 5], "{fits:?} {rest:x?}");
    rest[9].keeps(&calls[text + 9], "eax")?;
    Ok(())
}

/// INT 13h and 16h: no disk, no key, and said so.
#[apply(each_machine_and_isapc)]
fn disk_and_keyboard(machine: Machine) -> Result<()> {
    let mut calls = Vec::new();
    for function in [0x00, 0x02, 0x08, 0x15, 0x41, 0x42, 0x48, 0x4b] {
        calls.extend([0x00, 0x80].map(|drive| Call::new(0x13, function << 8).edx(drive)));
    }
    let disk = calls.len();
    calls.extend([0x00, 0x01, 0x02, 0x10, 0x11].map(|ah: u16| Call::new(0x16, ah << 8)));
    let Answers { calls: answers, .. } = ask(machine, &calls, &[])?;
    for (at, (call, answer)) in calls.iter().zip(&answers).enumerate() {
        ensure!(answer.refused(), "{call:x?} {answer:x?}");
        answer.keeps(call, "eax")?;
        if at < disk {
            ensure!(answer.ah() == 1, "{call:x?} {answer:x?}");
        } else {
            ensure!(answer.ax() == 0, "{call:x?} {answer:x?}");
            ensure!(answer.flags & ZERO != 0, "{call:x?} {answer:x?}");
        }
    }
    Ok(())
}

/// INT 1Ah: time of day, and ticks that go on.
#[apply(each_machine_and_isapc)]
fn time(machine: Machine) -> Result<()> {
    let get = Call::new(0x1a, 0);
    let calls = [
        get,
        get.special(AFTER_TICK),
        get.special(AFTER_TICK),
        Call::new(0x1a, 0x0200),
        Call::new(0x1a, 0x0400),
        Call::new(0x1a, 0x0100).ecx(0x12).edx(0x3456),
        get,
        // One tick before midnight.
        Call::new(0x1a, 0x0100).ecx(0x18).edx(0x00af),
        get.special(AFTER_TICK),
        get,
        Call::new(0x1a, 0x0500),
    ];
    let Answers { calls: answers, .. } = ask(machine, &calls, &[])?;
    for answer in &answers[..10] {
        ensure!(!answer.refused() && answer.ah() == 0, "{answer:x?}");
    }
    let ticks = |at: usize| (answers[at].ecx & 0xffff) << 16 | answers[at].edx & 0xffff;
    // 18.2 a second since midnight; the machine may have taken its time.
    let expected = ((13 * 60 + 14) * 60 + 15) * 1_193_182 / 65_536;
    ensure!(
        (expected..expected + 40 * 18).contains(&u64::from(ticks(0))),
        "{} ticks, not {expected}",
        ticks(0)
    );
    ensure!(ticks(1) > ticks(0) && ticks(2) > ticks(1), "{answers:x?}");
    ensure!(answers[3].ecx & 0xffff == 0x1314, "{:x?}", answers[3]);
    let seconds = answers[3].edx >> 8 & 0xff;
    ensure!((0x15..0x60).contains(&seconds), "{:x?}", answers[3]);
    ensure!(answers[4].ecx & 0xffff == 0x2031, "{:x?}", answers[4]);
    ensure!(answers[4].edx & 0xffff == 0x0725, "{:x?}", answers[4]);
    ensure!(ticks(6) >> 4 == 0x12_3456 >> 4, "{:x?}", answers[6]);
    // Past midnight: said once, and counted from there.
    ensure!(ticks(8) < 100 && answers[8].al() == 1, "{:x?}", answers[8]);
    ensure!(answers[9].al() == 0, "{:x?}", answers[9]);
    ensure!(answers[10].refused(), "{:x?}", answers[10]);
    Ok(())
}

/// INT 1Ah AH=B1h: the PCI BIOS, where there is configuration mechanism 1.
#[apply(each_machine_and_isapc)]
fn pci_bios(machine: Machine) -> Result<()> {
    let find = Call::new(0x1a, 0xb102).ecx(0x1005).edx(0x1af4);
    let class = Call::new(0x1a, 0xb103).ecx(0x00_ff00).esi(0);
    let at = |function: u16, register: u32| Call::new(0x1a, 0xb100 | function).ebx(0).edi(register);
    let calls = [
        Call::new(0x1a, 0xb101),
        find.esi(0),
        find.esi(1),
        find.esi(2),
        class,
        class.ecx(0x12_3456),
        at(0x08, 1),
        at(0x09, 2),
        at(0x0a, 0),
        at(0x0b, 0x0d).ecx(0x20),
        at(0x08, 0x0d),
        at(0x0e, 0),
        // Registers that the function's size does not divide, or that lie outside.
        at(0x09, 1),
        at(0x0a, 2),
        at(0x0c, 3).ecx(0),
        at(0x0d, 1).ecx(0),
        at(0x08, 0x100),
        at(0x0b, 0x1004).ecx(0),
        find.edx(0xffff).ecx(0xffff),
    ];
    let devices = [
        "virtio-rng-pci,addr=3",
        "pci-bridge,id=b1,chassis_nr=1,addr=4",
        "virtio-rng-pci,bus=b1,addr=5",
    ];
    let Some(bridge) = machine.host_bridge else {
        for answer in ask(machine, &calls, &[])?.calls {
            ensure!(answer.refused() && answer.ah() == 0x81, "{answer:x?}");
        }
        return Ok(());
    };
    let Answers { calls: answers, .. } = ask(machine, &calls, &devices)?;
    let codes: Vec<u8> = answers.iter().map(Answer::ah).collect();
    ensure!(
        codes[..12] == [0, 0, 0, 0x86, 0, 0x86, 0, 0, 0, 0, 0, 0x81]
            && codes[12..] == [0x87, 0x87, 0x87, 0x87, 0x87, 0x87, 0x83],
        "{codes:x?}"
    );
    for answer in &answers {
        ensure!(answer.refused() == (answer.ah() != 0), "{answer:x?}");
    }
    let fits = [
        answers[0].edx == u32::from_le_bytes(*b"PCI ") && answers[0].al() == 1,
        // The revision, and one bus more.
        answers[0].ebx & 0xffff == 0x0210 && answers[0].ecx & 0xff == 1,
        answers[1].ebx & 0xffff == 3 << 3,
        answers[2].ebx & 0xffff == 1 << 8 | 5 << 3,
        answers[4].ebx & 0xffff == 3 << 3,
        answers[6].ecx & 0xff == bridge >> 8 & 0xff,
        answers[7].ecx & 0xffff == bridge >> 16,
        answers[8].ecx == bridge,
    ];
    ensure!(fits == [true; 8], "{fits:?} {answers:x?}");
    Ok(())
}

/// Every other interrupt comes back refused, with nothing else changed.
#[rstest]
fn every_other_vector(#[values(PC, MICROVM)] machine: Machine) -> Result<()> {
    // Without the processor's exceptions, the two controllers' interrupts, what
    // others test, and 18h and 19h, which do not come back.
    let other = |vector: &u8| !matches!(vector, 0x08..=0x13 | 0x15..=0x16 | 0x18..=0x1a | 0x1c | 0x70..=0x77);
    let mut calls: Vec<Call> = (0..=255)
        .filter(other)
        .map(|vector| Call::new(vector, 0x4200))
        .collect();
    let vectors = calls.len();
    ensure!(vectors > 200, "{vectors}");
    // Of those that are there, functions that are not.
    calls.extend([
        Call::new(0x15, 0x8600),
        Call::new(0x15, 0x5300),
        Call::new(0x15, 0xc000),
    ]);
    // The timer's hook, which does nothing.
    calls.push(Call::new(0x1c, 0x4200));
    let Answers { calls: answers, .. } = ask(machine, &calls, &[])?;
    for (call, answer) in calls.iter().zip(&answers) {
        let changes = if call.vector == 0x15 {
            ensure!(answer.ah() == 0x86, "{call:x?} {answer:x?}");
            "eax"
        } else {
            ""
        };
        ensure!(
            answer.refused() == (call.vector != 0x1c),
            "{call:x?} {answer:x?}"
        );
        answer.keeps(call, changes)?;
    }
    Ok(())
}

/// A jump to F000:FFF0 and INT 19h start the machine again, which then comes up
/// as it did the first time.
#[apply(each_machine_and_isapc)]
fn restarts(machine: Machine, #[values(0, 0x19)] vector: u8) -> Result<()> {
    const ROUNDS: usize = 8;
    let restart = match vector {
        0 => Call::default().special(RESTART),
        vector => Call::new(vector, 0),
    };
    let map = Call::new(0x15, 0xe820)
        .edx(SMAP)
        .ecx(20)
        .ebx(0)
        .special(INTO_BUFFER);
    let calls = [map, Call::new(0x12, 0).special(AFTER_TICK), restart];
    let probe = Probe::from_bytes(Kind::BzImage, &image(&calls)?)?;
    let mut vm = probe.machine(machine)?.reboot().spawn()?;
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let answers = vm
            .wait_for("the next round", PROBE_TIMEOUT, |vm| {
                vm.debugcon(REPORT_PORT).len() >= (round + 1) * 3 * ANSWER_LEN
                    || vm.serial().contains("qboot:")
            })
            .and_then(|()| {
                ensure!(!vm.serial().contains("qboot:"), "{}", vm.report());
                read(&mut vm, round * 3, 3)
            })
            .with_context(|| format!("round {round}"))?;
        rounds.push(answers);
    }
    ensure!(
        rounds.iter().all(|round| *round == rounds[0]),
        "{rounds:x?}"
    );
    Ok(())
}
