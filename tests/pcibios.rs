//! The 32-bit PCI BIOS: called as Linux calls it, and by Linux.

use anyhow::{Context, Result, ensure};
use qboot_tests::guest;
use qboot_tests::machines::*;
use qboot_tests::{Field, Kind, PROBE_TIMEOUT, Probe, sum};
use rstest::rstest;
use rstest_reuse::apply;
use xtask::initramfs::MARKER;
use xtask::kernel::Flavour;
use xtask::linux::Time;
use xtask::probe::{Mode, REPORT_PORT, assemble};

const DIRECTORY: u32 = 0;
const PCI_BIOS: u32 = 1;
const END: u32 = 2;

/// A call: which service, then EAX, EBX, ECX, EDX, ESI, EDI.
#[derive(Clone, Copy, Debug)]
struct Call(u32, [u32; 6]);

/// EFLAGS, then the registers.
#[derive(Clone, Copy, Debug)]
struct Answer {
    flags: u32,
    registers: [u32; 6],
}

const SERVICE: u32 = u32::from_le_bytes(*b"$PCI");
const LIST: usize = 0x800;
const ANSWER_LEN: usize = 28;
const STRUCTURE_LEN: usize = 16;

/// A function of the PCI BIOS, with values of their own in all registers.
fn pci(function: u32, ebx: u32, ecx: u32, edx: u32, esi: u32, edi: u32) -> Call {
    Call(PCI_BIOS, [0xaaaa_b100 | function, ebx, ecx, edx, esi, edi])
}

/// The structure in the F segment, and what the calls came back with.
fn ask(machine: Machine, devices: &[&str], calls: &[Call]) -> Result<(Vec<u8>, Vec<Answer>)> {
    let mut code = assemble("bios32.S", include_str!("bios32.S"))?;
    ensure!(code.len() == LIST, "{:#x}", code.len());
    let end = Call(END, [0; 6]);
    for Call(which, registers) in calls.iter().chain([&end]) {
        code.extend(which.to_le_bytes());
        for register in registers {
            code.extend(register.to_le_bytes());
        }
    }
    // Not Linux, so everything is set up.
    let image = Kind::BzImage.other_than_linux(Mode::Halt, &code)?;
    let probe = Probe::from_bytes(Kind::BzImage, &image)?;
    let mut vm = probe.machine(machine)?.devices(devices).spawn()?;
    let len = STRUCTURE_LEN + calls.len() * ANSWER_LEN;
    let bytes = vm.wait_debugcon(REPORT_PORT, len, PROBE_TIMEOUT)?;
    let (structure, answers) = bytes.split_at(STRUCTURE_LEN);
    let answers = answers.chunks_exact(ANSWER_LEN).map(|bytes| {
        let registers: Result<Vec<u32>> = (1..7).map(|n| bytes.u32(4 * n)).collect();
        Ok(Answer {
            flags: bytes.u32(0)?,
            registers: registers?.try_into().unwrap_or_default(),
        })
    });
    Ok((structure.to_vec(), answers.collect::<Result<_>>()?))
}

impl Answer {
    /// Registers that are not answered in are as they were, and carry says
    /// whether the call was refused.
    fn keeps(&self, call: &Call) -> Result<()> {
        let (was, is) = (call.1, self.registers);
        ensure!(
            self.flags & 1 == u32::from(is[0] & 0xff00 != 0),
            "{call:x?} {self:x?}"
        );
        // EAX's upper half, ESI, EDI and what else is not answered in.
        ensure!(was[0] >> 16 == is[0] >> 16, "{call:x?} {self:x?}");
        let function = if was[0] >> 8 & 0xff == 0xb1 {
            was[0] & 0xff
        } else {
            0
        };
        for (register, name) in [(1, "EBX"), (2, "ECX"), (3, "EDX"), (4, "ESI"), (5, "EDI")] {
            let answered = match function {
                0x01 => register <= 3,
                0x02 | 0x03 => register == 1,
                0x08..=0x0a => register == 2,
                _ => false,
            };
            ensure!(
                answered || was[register] == is[register],
                "{name}: {call:x?} {self:x?}"
            );
        }
        Ok(())
    }
}

/// An rng on bus 0, and one behind a bridge.
const DEVICES: [&str; 3] = [
    "virtio-rng-pci,addr=3,disable-modern=on,disable-legacy=off",
    "pci-bridge,id=b1,chassis_nr=1,addr=4",
    "virtio-rng-pci,bus=b1,addr=5,disable-modern=on,disable-legacy=off",
];

/// Every function, with what is there and what is not.
fn calls() -> Vec<Call> {
    let rng = [0xcccc_1005, 0xdddd_1af4];
    vec![
        Call(DIRECTORY, [SERVICE, 0, 1, 2, 3, 4]),
        Call(DIRECTORY, [SERVICE ^ 1, 0, 1, 2, 3, 4]),
        Call(DIRECTORY, [SERVICE, 1, 1, 2, 3, 4]),
        pci(0x01, 0xbbbb_0000, 0xcccc_0000, 0, 5, 6),
        pci(0x02, 0xbbbb_0000, rng[0], rng[1], 0, 6),
        pci(0x02, 0xbbbb_0000, rng[0], rng[1], 1, 6),
        pci(0x02, 0xbbbb_0000, rng[0], rng[1], 2, 6),
        pci(0x02, 0xbbbb_0000, 0xffff, 0xffff, 0, 6),
        pci(0x03, 0xbbbb_0000, 0x06_0000, 7, 0, 6),
        pci(0x03, 0xbbbb_0000, 0x12_3456, 7, 0, 6),
        pci(0x08, 0xbbbb_0000, 0xcccc_cccc, 7, 8, 1),
        pci(0x09, 0xbbbb_0000, 0xcccc_cccc, 7, 8, 2),
        pci(0x0a, 0xbbbb_0000, 0xcccc_cccc, 7, 8, 0),
        // The rng's interrupt line takes any value.
        pci(0x0b, 0xbbbb_0018, 0xcccc_cc5a, 7, 8, 0x3c),
        pci(0x08, 0xbbbb_0018, 0, 7, 8, 0x3c),
        pci(0x0c, 0xbbbb_0018, 0xcccc_cca5, 7, 8, 0x3c),
        pci(0x09, 0xbbbb_0018, 0, 7, 8, 0x3c),
        pci(0x0d, 0xbbbb_0018, 0x3c, 7, 8, 0x3c),
        pci(0x0a, 0xbbbb_0018, 0, 7, 8, 0x3c),
        pci(0x09, 0xbbbb_0000, 5, 7, 8, 1),
        pci(0x0a, 0xbbbb_0000, 5, 7, 8, 2),
        pci(0x08, 0xbbbb_0000, 5, 7, 8, 0x100),
        pci(0x04, 0xbbbb_0000, 5, 7, 8, 0),
        pci(0x0e, 0xbbbb_0000, 5, 7, 8, 0),
        Call(PCI_BIOS, [0xaaaa_b201, 1, 2, 3, 4, 5]),
    ]
}

#[apply(each_chipset)]
fn every_function(machine: Machine) -> Result<()> {
    let bridge = machine.host_bridge.context("no host bridge")?;
    let calls = calls();
    let (structure, answers) = ask(machine, &DEVICES, &calls)?;
    ensure!(
        structure[8..10] == [0, 1] && structure[11..] == [0; 5],
        "{structure:x?}"
    );

    let low = |at: usize, register: usize| answers[at].registers[register] & 0xffff;
    // Where the PCI BIOS is: within what Linux makes executable.
    let [eax, ebx, ecx, edx, ..] = answers[0].registers;
    ensure!(eax & 0xff == 0 && ebx == 0xf_0000, "{:x?}", answers[0]);
    ensure!(ecx == 0x1_0000 && edx < ecx, "{:x?}", answers[0]);
    ensure!(
        low(1, 0) & 0xff == 0x80 && low(2, 0) & 0xff == 0x81,
        "{answers:x?}"
    );

    let codes: Vec<u32> = answers[3..]
        .iter()
        .map(|a| a.registers[0] >> 8 & 0xff)
        .collect();
    let expected = [
        0, 0, 0, 0x86, 0x83, 0, 0x86, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x87, 0x87, 0x87, 0x81, 0x81, 0x81,
    ];
    ensure!(codes == expected, "{codes:x?}");
    for (call, answer) in calls.iter().zip(&answers).skip(3) {
        answer.keeps(call)?;
    }
    let fits = [
        // The signature, mechanism 1, the revision, and one bus more.
        answers[3].registers[3] == u32::from_le_bytes(*b"PCI "),
        low(3, 0) == 1 && low(3, 1) == 0x0210 && low(3, 2) & 0xff == 1,
        // Both rngs, and the host bridge.
        low(4, 1) == 3 << 3 && low(5, 1) == 1 << 8 | 5 << 3,
        low(8, 1) == 0,
        // The host bridge's id by bytes, words and whole.
        low(10, 2) & 0xff == bridge >> 8 & 0xff,
        low(11, 2) == bridge >> 16,
        answers[12].registers[2] == bridge,
        // What was written; the pin, above the line, is read-only.
        low(14, 2) & 0xff == 0x5a,
        low(16, 2) == 0x01a5,
        answers[18].registers[2] & 0xff == 0x3c,
    ];
    ensure!(fits == [true; 10], "{fits:?} {answers:x?}");
    Ok(())
}

/// Machines without configuration mechanism 1 do not offer it.
#[rstest]
fn not_where_it_could_not_work(
    #[values(MICROVM, MICROVM_PCIE, ISAPC)] machine: Machine,
) -> Result<()> {
    let probe = Probe::new(Kind::Multiboot)?;
    let (_, mut vm) = probe.boot(&probe.machine(machine)?)?;
    let segment = vm.memory(0xf_0000, 0x1_0000)?;
    // As kernels do: the bare letters may be a constant of the image, which is
    // what lies there.
    let valid = |line: &[u8]| line.starts_with(b"_32_") && sum(line) == 0;
    let found = segment.chunks_exact(16).position(valid);
    ensure!(found.is_none(), "at {found:?}");
    vm.quit().context("ending QEMU")
}

/// Linux finds the same functions by this service as by the ports.
#[apply(each_chipset)]
fn linux_finds_the_same(machine: Machine) -> Result<()> {
    let functions = |access: &str, said: &str| -> Result<Vec<String>> {
        let words = format!("acpi=off pci={access} qboot.do=report");
        // As a vmlinux: the decompressor alone takes ten seconds.
        let qemu = guest::boot(machine, Flavour::I686Pae, Kind::Pvh, Time::Host, &words)?;
        let mut vm = qemu.devices(DEVICES).spawn()?;
        vm.wait_serial(MARKER, PROBE_TIMEOUT * 3)?;
        let serial = vm.serial();
        ensure!(serial.contains(said), "no {said:?}\n{}", vm.report());
        let lines = serial.lines().map(str::trim);
        Ok(lines
            .filter(|line| line.contains(" class ") && !line.starts_with('['))
            .map(str::to_owned)
            .collect())
    };
    let bios = functions("bios", "PCI BIOS revision 2.10")?;
    let ports = functions("conf1", "PCI: Using configuration type 1")?;
    ensure!(bios == ports, "{bios:?} {ports:?}");
    ensure!(bios.iter().any(|line| line.contains("01:05.0")), "{bios:?}");
    Ok(())
}
