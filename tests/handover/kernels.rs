//! Kernels that differ in what their headers say.

use std::fs::File;
use std::ops::Range;

use anyhow::{Context, Result, ensure};
use linux_loader::loader::KernelLoader;
use qboot_tests::machines::*;
use qboot_tests::{Field, Kind, PROBE_TIMEOUT, Probe, noise};
use rstest::rstest;
use rstest_reuse::apply;
use vm_memory::{ByteValued, GuestAddress, GuestMemoryMmap};
use xtask::probe::{self, BzImage, Elf, Mode, Segment, hdr};

use super::{boot_with_initrd, check};

/// Fields of the setup header that only the kernel writes.
const FROM_THE_KERNEL: [Range<usize>; 4] = [
    hdr::SETUP_SECTS..hdr::SETUP_SECTS + 1,
    hdr::KERNEL_ALIGNMENT..hdr::CMDLINE_SIZE + 4,
    hdr::PAYLOAD_OFFSET..hdr::SETUP_DATA,
    hdr::PREF_ADDRESS..hdr::HANDOVER_OFFSET + 4,
];

#[apply(each_machine)]
fn the_zero_page_keeps_the_header(machine: Machine) -> Result<()> {
    let mut image = BzImage::minimal(Mode::Halt)?;
    image.set_u16(hdr::XLOADFLAGS, 0x2a).set_u32(0x23c, 0);
    let probe = Probe::from_bytes(Kind::BzImage, &image.bytes())?;
    let qemu = probe.machine(machine)?.append("a");
    let (handover, _vm) = probe.boot(&qemu)?;
    let page = &handover.zero_page;
    // alt_mem_k, for kernels that do not read the map: tables are no memory.
    let high = handover
        .e820
        .iter()
        .find(|e| e.addr == 1 << 20 && e.kind == 1);
    let high = high.context("no RAM at 1 MiB")?;
    let alt_mem_k = page.u32(0x1e0)?;
    ensure!(
        u64::from(alt_mem_k) == high.len >> 10,
        "alt_mem_k {alt_mem_k:#x} of {high:x?}"
    );
    ensure!(page[hdr::HEADER..hdr::HEADER + 4] == *b"HdrS");
    ensure!(page[hdr::VERSION..hdr::VERSION + 2] == [0x0f, 0x02]);
    ensure!(
        page[hdr::TYPE_OF_LOADER] != 0,
        "type_of_loader is not filled in"
    );
    for field in FROM_THE_KERNEL {
        let (found, expected) = (&page[field.clone()], &image.setup[field.clone()]);
        ensure!(
            found == expected,
            "{field:#x?}: {found:x?} instead of {expected:x?}"
        );
    }
    // What the protocol calls "must be zero" outside the known fields.
    for zeroes in [0x1ec..0x1ef, 0x290..0x2d0] {
        ensure!(
            page[zeroes.clone()].iter().all(|byte| *byte == 0),
            "{zeroes:#x?} is not zero: {:x?}",
            &page[zeroes.clone()]
        );
    }
    Ok(())
}

/// `linux-loader` enters the kernel at the same place, and reads the same header.
#[apply(each_machine)]
fn another_loader_agrees(machine: Machine) -> Result<()> {
    let probe = Probe::new(Kind::BzImage)?;
    let (handover, _vm) = probe.boot(&probe.machine(machine)?)?;
    let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 64 << 20)])?;
    let (start, mut file) = (Some(GuestAddress(0x10_0000)), File::open(probe.path())?);
    let loaded = linux_loader::loader::BzImage::load(&memory, None, &mut file, start)?;
    ensure!(u64::from(handover.record.entry) == loaded.kernel_load.0);
    let header = loaded.setup_header.context("no setup header")?;
    // Some fields are the loader's to fill in.
    for field in FROM_THE_KERNEL {
        let theirs =
            &header.as_slice()[field.start - hdr::SETUP_SECTS..field.end - hdr::SETUP_SECTS];
        ensure!(handover.zero_page[field.clone()] == *theirs, "{field:#x?}");
    }
    Ok(())
}

#[apply(each_machine)]
fn debian_header(machine: Machine) -> Result<()> {
    let image = BzImage::of(&xtask::measure::kernel()?, Mode::Halt)?;
    let init_size = image.setup.u32(hdr::INIT_SIZE)?;
    let probe = Probe::from_bytes(Kind::BzImage, &image.bytes())?;
    let qemu = probe.machine(machine)?.append("root=/dev/vda");
    let (handover, _vm) = boot_with_initrd(&probe, qemu.memory_mib(256), 300_001)?;
    handover.check_registers()?;
    handover.check_e820(256)?;
    let entry = u64::from(handover.record.entry);
    handover.check_placement(entry..entry + u64::from(init_size))
}

#[apply(each_machine)]
fn an_initrd_stays_below_the_kernels_limit(
    machine: Machine,
    #[values(0x037f_ffff, 0x0fff_ffff)] limit: u32,
) -> Result<()> {
    let probe = Probe::with_header(|image| image.set_u32(hdr::INITRD_ADDR_MAX, limit))?;
    let (handover, _vm) = boot_with_initrd(&probe, probe.machine(machine)?, (8 << 20) + 1)?;
    check(&handover, 512)?;
    let end = handover.initrd.context("no initrd")?.end;
    ensure!(end <= u64::from(limit) + 1, "the initrd ends at {end:#x}");
    Ok(())
}

/// A header that wants its kernel elsewhere than at 1 MiB.
#[apply(each_machine)]
fn preferred_address(machine: Machine) -> Result<()> {
    const INIT_SIZE: u32 = 100 << 20;
    let probe = Probe::with_header(|image| {
        image
            .set_u64(hdr::PREF_ADDRESS, 16 << 20)
            .set_u32(hdr::INIT_SIZE, INIT_SIZE)
    })?;
    let qemu = probe.machine(machine)?.memory_mib(256);
    let (handover, _vm) = boot_with_initrd(&probe, qemu, 10 << 20)?;
    handover.check_registers()?;
    // Wherever it is loaded, a kernel may run in place at its preferred address
    // (boot.rst, `init_size`), so neither may be taken.
    let entry = u64::from(handover.record.entry);
    handover.check_placement(entry..(16 << 20) + u64::from(INIT_SIZE))
}

/// Protocols from before most of today's fields, as old kernels have them.
#[rstest]
fn old_protocols(
    #[values(PC, MICROVM)] machine: Machine,
    #[values(0x0205, 0x0206, 0x0208, 0x020a, 0x020c)] version: u16,
) -> Result<()> {
    let probe = Probe::with_header(|image| image.set_u16(hdr::VERSION, version))?;
    let qemu = probe.machine(machine)?.append("old");
    let (handover, _vm) = boot_with_initrd(&probe, qemu, 123_456)?;
    handover.check_registers()?;
    handover.check_e820(512)?;
    ensure!(handover.cmdline == b"old");
    Ok(())
}

/// The state that 16-bit code was entered in, as `setup.S` stores it: its boot sector
/// in all data segments and as the stack's, the code 0x20 paragraphs behind it,
/// interrupts off, and the interrupt table where real mode has it (Linux boot protocol,
/// "Running the Kernel").
fn check_real_mode(state: &[u8], boot_sector: u32) -> Result<()> {
    let [eflags, eax, esp, others, cr0, cr4] = [0, 4, 8, 12, 16, 20].map(|at| state.u32(at));
    let segment = u16::try_from(boot_sector >> 4)?;
    let segments = [24, 26, 28, 30, 32, 34].map(|at| state.u16(at).unwrap_or(0));
    let all = || format!("{state:x?}");
    // Of EFLAGS what an addition leaves may be set.
    ensure!(eflags? & !0x8d5 == 2, "EFLAGS: {}", all());
    ensure!((eax?, others?) == (0, 0), "general registers: {}", all());
    ensure!((0x400..0x1_0000).contains(&esp?), "ESP: {}", all());
    ensure!((cr0?, cr4?) == (0x10, 0), "CR0, CR4: {}", all());
    let [code, data @ ..] = segments;
    ensure!(code == segment + 0x20, "CS: {}", all());
    ensure!(data == [segment; 5], "DS, ES, FS, GS, SS: {}", all());
    ensure!(
        (state.u16(36)?, state.u32(38)?) == (0x3ff, 0),
        "IDT: {}",
        all()
    );
    Ok(())
}

/// Kernels that only their own 16-bit code may enter: older than protocol 2.05,
/// or not relocatable. That code asks the BIOS for the memory map itself.
#[apply(each_machine)]
fn sixteen_bit_entry(
    machine: Machine,
    #[values((0x0202, 1), (0x0203, 1), (0x020f, 0))] header: (u16, u8),
) -> Result<()> {
    let (version, relocatable) = header;
    let probe = Probe::with_header(|image| {
        image
            .set_u16(hdr::VERSION, version)
            .set_u8(hdr::RELOCATABLE_KERNEL, relocatable)
    })?;
    let qemu = probe.machine(machine)?.append("sixteen bits");
    let (handover, _vm) = boot_with_initrd(&probe, qemu, 123_456)?;
    // The registers in the record are those of the kernel's own 16-bit code.
    let record = &handover.record;
    ensure!((record.idtr_base, record.idtr_limit) == (0, 0x3ff));
    ensure!(record.entry == 0x10_0000 && record.x87 == Some((0x37f, 0xffff)));
    check_real_mode(&handover.zero_page[0x3d0..0x400], record.esi)?;
    ensure!(handover.cmdline == b"sixteen bits");
    Ok(())
}

#[apply(each_machine)]
fn elf_variants(
    machine: Machine,
    #[values(false, true)] elf64: bool,
    #[values(None, Some("linux"), Some("other"))] guest_os: Option<&str>,
) -> Result<()> {
    let elf = Elf {
        elf64,
        guest_os: guest_os.map(str::to_owned),
        addr: 16 << 20,
        segments: vec![Segment {
            addr: 64 << 20,
            data: noise(10_000, 1),
            memory_len: 32 << 20,
        }],
        ..Elf::new(Mode::Halt)?
    };
    let probe = Probe::from_bytes(Kind::Pvh, &elf.bytes()?)?;
    let qemu = probe.machine(machine)?.memory_mib(128);
    let (handover, mut vm) = boot_with_initrd(&probe, qemu, 4 << 20)?;
    check(&handover, 128)?;
    // The second segment with its cleared tail is the kernel's too.
    ensure!(vm.memory(64 << 20, 10_000)? == noise(10_000, 1));
    handover.check_placement(64 << 20..96 << 20)
}

/// `hdr.setup_data` comes from QEMU when there is a device tree, and is kept.
#[test]
fn setup_data_of_a_device_tree() -> Result<()> {
    let probe = Probe::new(Kind::BzImage)?;
    let tree = noise(3000, 8);
    let qemu = probe
        .machine(Q35)?
        .arg("-dtb")
        .arg(probe.file("tree", &tree)?);
    let (handover, mut vm) = probe.boot(&qemu)?;
    let page = &handover.zero_page;
    let mut addr = page.u64(hdr::SETUP_DATA)?;
    ensure!(addr != 0, "no setup_data");
    let mut found = false;
    while addr != 0 {
        let head = vm.memory(addr, 16)?;
        let (kind, len) = (head.u32(8)?, head.u32(12)?);
        if kind == 2 {
            found = vm.memory(addr + 16, len as usize)? == tree;
        }
        addr = head.u64(0)?;
    }
    ensure!(found, "the device tree is not behind setup_data");
    Ok(())
}

/// A kernel of `source` that ends QEMU well.
fn ends_well(
    name: &str,
    source: &str,
    kind: Kind,
    machine: Machine,
    devices: &[&str],
) -> Result<()> {
    let image = kind.other_than_linux(Mode::Exit, &probe::assemble(name, source)?)?;
    let probe = Probe::from_bytes(kind, &image)?;
    let qemu = machine.qemu()?.kernel(probe.path()).memory_mib(64);
    let mut vm = probe::ports(qemu).devices(devices).spawn()?;
    probe::wait_end(&mut vm, PROBE_TIMEOUT)
}

/// The 8259A and the local APIC's LINT0 are set up together: an 8259A that is left as
/// a reset leaves it passes the timer's interrupt on, and QEMU's processor keeps it,
/// without a vector, when LINT0 is masked then.
#[rstest]
fn halts_without_the_8259a(
    #[values(PC, Q35, MICROVM, MICROVM.with("pic=on,pit=on"))] machine: Machine,
    #[values(Kind::Pvh, Kind::Multiboot)] kind: Kind,
) -> Result<()> {
    ends_well("halt.S", include_str!("../halt.S"), kind, machine, &[])
}

/// Unikernels know virtio devices by their ports, and leave giving those to firmware.
#[rstest]
fn drives_a_legacy_virtio_device_by_ports(
    #[values(PC, Q35)] machine: Machine,
    #[values(Kind::Pvh, Kind::Multiboot)] kind: Kind,
) -> Result<()> {
    let rng = ["virtio-rng-pci,disable-modern=on,disable-legacy=off"];
    ends_well("virtio.S", include_str!("../virtio.S"), kind, machine, &rng)
}

/// Notes that a program header puts into the firmware's own stack are not read there: the
/// window refuses that memory, and the entry is the one that QEMU has found.
#[apply(each_machine)]
fn notes_in_the_firmware_are_not_read(machine: Machine) -> Result<()> {
    /// `Elf32_Phdr`: its size, and where its type and address are.
    const PHDR: (usize, usize) = (32, 12);
    const STACK: u32 = 0x2800;
    let elf = Elf::new(Mode::Halt)?;
    let mut file = elf.bytes()?;
    let headers = file.u32(0x1c)? as usize;
    let mut headers = (headers..).step_by(PHDR.0).take(8);
    let note = headers.find(|at| file.u32(*at).is_ok_and(|kind| kind == 4));
    let address = note.context("no header of notes")? + PHDR.1;
    file[address..address + 4].copy_from_slice(&STACK.to_le_bytes());
    // Another entry, one that the kernel has too.
    let mut notes = Vec::new();
    for word in [4, 4, 18, u32::from_le_bytes(*b"Xen\0"), elf.addr + 0x8000] {
        notes.extend(word.to_le_bytes());
    }
    let probe = Probe::from_bytes(Kind::Pvh, &file)?;
    let notes = probe.file("notes", &notes)?;
    let qemu = probe.machine(machine)?.loader(&notes, STACK);
    let (handover, _vm) = probe.boot(&qemu)?;
    ensure!(handover.record.entry == elf.addr);
    check(&handover, 512)
}
