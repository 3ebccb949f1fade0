//! Probe kernels: images that report the state at their entry.
//!
//! Every probe is the same 32-bit code (`probe/probe.S`) in a different wrapping:
//! behind a real Linux kernel's setup header ([`BzImage::of`]), behind a made one
//! ([`BzImage::minimal`]), in a PVH ELF ([`Elf`]) or with a multiboot header
//! ([`Multiboot`]). It records the registers at entry, sends the record to the debug
//! console at [`REPORT_PORT`], and ends QEMU or halts. Loaders that start Linux in long
//! mode find an entry there too, at [`ENTRY64`]; its record has the counter, the stack
//! pointer, RSI, CS and the control registers.

use std::collections::HashMap;
use std::fs;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::qemu::{Qemu, Vm};

mod image;

pub use crate::hdr;
pub use image::{BzImage, Elf, Multiboot, Segment};

/// Debug console that the record goes to.
pub const REPORT_PORT: u16 = 0xe0;
/// Debug exit that ends QEMU. Not 0xf4, which the ROM's own time marks use.
pub const EXIT_PORT: u16 = 0x501;
/// QEMU's exit status after a probe has ended it.
pub const EXIT_STATUS: i32 = (0x10 << 1) | 1;
/// Bytes of a record.
pub const RECORD_LEN: usize = 156;
/// Bytes that follow the record in [`Mode::Sum`] and [`Mode::SumAndReset`].
pub const SUM_LEN: usize = 4;
/// Offset of the record in the 32-bit code.
pub const RECORD_OFFSET: usize = 0x220;
/// Offset of the entry for loaders that start Linux in long mode.
pub const ENTRY64: usize = 0x200;
/// Size that a probe's 32-bit part is padded to.
pub const PAYLOAD_LEN: usize = 64 << 10;

/// What a probe does at its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Report and end QEMU. The first instruction is RDTSC, so EAX and EDX in
    /// the record are the counter.
    Exit,
    /// Report and halt, so that guest memory can be read. All registers are the
    /// firmware's; the counter is read some forty instructions later.
    Halt,
    /// As `Halt`, without the x87's state: where KVM emulates real-mode and unpaged
    /// code, it knows no x87 instructions.
    HaltWithoutX87,
    /// End QEMU at once, without a report: for time measured from outside.
    Bare,
    /// As `Exit`, with [`SUM_LEN`] more bytes: a checksum of the memory, on a machine
    /// of 16 MiB.
    Sum,
    /// As `Sum`, but reset the machine.
    SumAndReset,
}

/// The state at a probe's entry.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the processor names them")]
pub struct Record {
    pub tsc: u64,
    pub eax: u32,
    pub ecx: u32,
    pub edx: u32,
    pub ebx: u32,
    pub esp: u32,
    pub ebp: u32,
    pub esi: u32,
    pub edi: u32,
    pub eflags: u32,
    pub cs: u32,
    pub ds: u32,
    pub es: u32,
    pub fs: u32,
    pub gs: u32,
    pub ss: u32,
    pub cr0: u32,
    pub cr3: u32,
    pub cr4: u32,
    pub gdtr_limit: u32,
    pub gdtr_base: u32,
    pub idtr_limit: u32,
    pub idtr_base: u32,
    /// Address that the probe was entered at.
    pub entry: u32,
    /// The descriptor that CS selects.
    pub code_descriptor: u64,
    /// The descriptor that DS selects.
    pub data_descriptor: u64,
    /// IA32_MTRR_DEF_TYPE.
    pub mtrr_def_type: u32,
    /// The x87's control word and its tags, which are MMX's too; `None` if they were not
    /// stored: no control word is zero.
    pub x87: Option<(u16, u16)>,
}

impl Record {
    /// Reads a record.
    ///
    /// # Errors
    /// The bytes are not a record.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        ensure!(
            bytes.len() >= RECORD_LEN,
            "a record of {} bytes",
            bytes.len()
        );
        ensure!(&bytes[..4] == b"QBPR", "a record without its magic");
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[at + i]));
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        Ok(Self {
            tsc: long(8),
            eax: word(16),
            ecx: word(20),
            edx: word(24),
            ebx: word(28),
            esp: word(32),
            ebp: word(36),
            esi: word(40),
            edi: word(44),
            eflags: word(48),
            cs: word(52),
            ds: word(56),
            es: word(60),
            fs: word(64),
            gs: word(68),
            ss: word(72),
            cr0: word(76),
            cr3: word(80),
            cr4: word(84),
            gdtr_limit: word(88),
            gdtr_base: word(92),
            idtr_limit: word(96),
            idtr_base: word(100),
            entry: word(104),
            code_descriptor: long(108),
            data_descriptor: long(116),
            mtrr_def_type: word(124),
            x87: (word(128) != 0).then_some((word(128) as u16, word(136) as u16)),
        })
    }
}

/// Assembles a flat binary, linked at address 0; once in a process.
///
/// # Errors
/// There is no gcc, or it fails.
pub fn assemble(name: &str, source: &str) -> Result<Vec<u8>> {
    static DONE: Mutex<Option<HashMap<String, Vec<u8>>>> = Mutex::new(None);
    let mut done = DONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let done = done.get_or_insert_default();
    if let Some(bytes) = done.get(name) {
        return Ok(bytes.clone());
    }
    let dir = tempfile::tempdir()?;
    let input = dir.path().join(name);
    let output = dir.path().join("flat");
    fs::write(&input, source)?;
    let result = Command::new("gcc")
        .args(["-m32", "-nostdlib", "-static", "-fuse-ld=bfd"])
        .args(["-Wl,-Ttext=0", "-Wl,--oformat=binary"])
        .args(["-Wl,--build-id=none", "-Wl,-e,0", "-o"])
        .args([&output, &input])
        .output()
        .context("gcc does not start: the probe kernels need it as their assembler")?;
    if !result.status.success() {
        bail!("{name}: {}", String::from_utf8_lossy(&result.stderr));
    }
    let bytes = fs::read(&output)?;
    done.insert(name.to_owned(), bytes.clone());
    Ok(bytes)
}

/// The probe's 32-bit code, padded to [`PAYLOAD_LEN`]. Its entry is its first byte.
///
/// # Errors
/// It does not assemble.
pub fn code(mode: Mode) -> Result<Vec<u8>> {
    let mut code = assemble("probe.S", include_str!("probe/probe.S"))?;
    let config = 8 + code
        .windows(8)
        .position(|window| window == b"QBOOTCFG")
        .context("the probe has no configuration")?;
    code[config..config + 2].copy_from_slice(&REPORT_PORT.to_le_bytes());
    code[config + 2..config + 4].copy_from_slice(&EXIT_PORT.to_le_bytes());
    code[config + 4] = match mode {
        Mode::Exit => 1,
        Mode::Halt => 0,
        Mode::HaltWithoutX87 => 16,
        Mode::Bare => 4,
        Mode::Sum => 1 | 8,
        Mode::SumAndReset => 2 | 8,
    };
    if matches!(mode, Mode::Halt | Mode::HaltWithoutX87) {
        code[..2].fill(0x90);
    }
    // Not zeroes, so that missing bytes show.
    code.resize(PAYLOAD_LEN, 0xc9);
    Ok(code)
}

/// Adds the ports that every probe reports and ends at.
#[must_use]
pub fn ports(qemu: Qemu) -> Qemu {
    let exit = format!("isa-debug-exit,iobase={EXIT_PORT:#x},iosize=1");
    qemu.debugcon(REPORT_PORT).devices([exit])
}

/// Waits for the `n`th record (the first is 1) of a machine with [`ports`].
///
/// # Errors
/// No record comes in time.
pub fn wait(vm: &mut Vm, n: usize, timeout: Duration) -> Result<Record> {
    let bytes = vm.wait_debugcon(REPORT_PORT, n * RECORD_LEN, timeout)?;
    Record::parse(&bytes[(n - 1) * RECORD_LEN..])
}

/// Waits until a probe has ended QEMU.
///
/// # Errors
/// QEMU ends in another way, or not in time.
pub fn wait_end(vm: &mut Vm, timeout: Duration) -> Result<()> {
    let status = vm.wait_exit(timeout)?;
    let is_ours = status.code() == Some(EXIT_STATUS);
    ensure!(is_ours, "QEMU ended with {status}\n{}", vm.report());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_starts_with_the_counter_and_keeps_its_record_apart() {
        let code = code(Mode::Exit).unwrap();
        assert_eq!(code.len(), PAYLOAD_LEN);
        for entry in [0, ENTRY64] {
            assert_eq!(code[entry..entry + 2], [0x0f, 0x31]);
        }
        assert!(
            code[RECORD_OFFSET..RECORD_OFFSET + RECORD_LEN]
                .iter()
                .all(|b| *b == 0)
        );
    }

    #[test]
    fn the_elf_is_what_an_elf_reader_takes_it_for() {
        use object::{Object, ObjectSegment};
        for elf64 in [false, true] {
            let elf = Elf {
                elf64,
                segments: vec![Segment {
                    addr: 0x20_0000,
                    data: vec![1; 10],
                    memory_len: 100,
                }],
                ..Elf::new(Mode::Exit).unwrap()
            };
            let bytes = elf.bytes().unwrap();
            let file = object::File::parse(bytes.as_slice()).unwrap();
            assert_eq!(file.entry(), 0x10_0000);
            let segments: Vec<_> = file.segments().map(|s| (s.address(), s.size())).collect();
            assert_eq!(
                segments,
                [(0x10_0000, PAYLOAD_LEN as u64), (0x20_0000, 100)]
            );
        }
    }

    #[test]
    fn the_minimal_header_lies_where_the_protocol_wants_it() {
        let image = BzImage::minimal(Mode::Exit).unwrap().bytes();
        assert_eq!(image.len(), 1024 + PAYLOAD_LEN);
        assert_eq!(image[hdr::HEADER..hdr::HEADER + 4], *b"HdrS");
        assert_eq!(image[hdr::JUMP], 0xeb);
        // The jump ends the header, and the code starts behind it.
        assert!(usize::from(image[hdr::JUMP + 1]) + hdr::JUMP + 2 > hdr::HANDOVER_OFFSET + 4);
    }
}
