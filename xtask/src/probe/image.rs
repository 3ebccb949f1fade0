//! Kernel images around a probe: bzImage, ELF for PVH, multiboot.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use object::Endianness;
use object::elf::{
    ELFOSABI_NONE, EM_386, EM_X86_64, ET_EXEC, FileFlags, PF_R, PF_W, PF_X, PT_LOAD, PT_NOTE,
};
use object::write::elf::{FileHeader, ProgramHeader, Writer};

use super::{Mode, PAYLOAD_LEN, assemble, code};
use crate::{extract, hdr, workspace};

/// A bzImage: setup sectors, then the 32-bit code.
#[derive(Clone, Debug)]
pub struct BzImage {
    /// Boot sector and setup code, with the header at 0x1f1.
    pub setup: Vec<u8>,
    /// The 32-bit code, a probe.
    pub payload: Vec<u8>,
}

impl BzImage {
    /// The probe behind this kernel's own setup header and 16-bit code.
    ///
    /// # Errors
    /// The file cannot be read, or is not a bzImage.
    pub fn of(kernel: &Path, mode: Mode) -> Result<Self> {
        let image = workspace::read(kernel)?;
        ensure!(
            extract::has_setup_header(&image),
            "{} is no bzImage",
            kernel.display()
        );
        let setup = image
            .get(..extract::setup_len(&image))
            .context("a bzImage shorter than its setup code")?;
        Ok(Self {
            setup: setup.to_vec(),
            payload: code(mode)?,
        })
    }

    /// The probe behind a made header: protocol 2.15, relocatable, loaded at 1 MiB,
    /// with a payload like Linux's and an `init_size` of 1 MiB.
    ///
    /// # Errors
    /// It does not assemble.
    pub fn minimal(mode: Mode) -> Result<Self> {
        let setup = assemble("setup.S", include_str!("setup.S"))?;
        let mut image = Self {
            setup,
            payload: code(mode)?,
        };
        image.setup[hdr::SETUP_SECTS] = 1;
        image
            .set_u32(hdr::SYSSIZE, u32::try_from(PAYLOAD_LEN / 16)?)
            .set_u16(hdr::VID_MODE, 0xffff)
            .set_u16(hdr::BOOT_FLAG, 0xaa55)
            .set_u32(hdr::HEADER, u32::from_le_bytes(*b"HdrS"))
            .set_u16(hdr::VERSION, 0x020f)
            .set_u16(hdr::START_SYS_SEG, 0x1000)
            .set_u8(hdr::LOADFLAGS, 1)
            .set_u32(hdr::CODE32_START, 0x10_0000)
            .set_u32(hdr::INITRD_ADDR_MAX, 0x7fff_ffff)
            .set_u32(hdr::KERNEL_ALIGNMENT, 0x20_0000)
            .set_u8(hdr::RELOCATABLE_KERNEL, 1)
            .set_u8(hdr::MIN_ALIGNMENT, 21)
            .set_u32(hdr::CMDLINE_SIZE, 2047)
            .set_u32(hdr::PAYLOAD_OFFSET, 0x1000)
            .set_u32(hdr::PAYLOAD_LENGTH, 0x8000)
            .set_u64(hdr::PREF_ADDRESS, 0x10_0000)
            .set_u32(hdr::INIT_SIZE, 0x10_0000);
        Ok(image)
    }

    fn set(&mut self, offset: usize, bytes: &[u8]) -> &mut Self {
        self.setup[offset..offset + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Overwrites one byte of the setup sectors.
    pub fn set_u8(&mut self, offset: usize, value: u8) -> &mut Self {
        self.set(offset, &[value])
    }

    /// Overwrites two bytes of the setup sectors.
    pub fn set_u16(&mut self, offset: usize, value: u16) -> &mut Self {
        self.set(offset, &value.to_le_bytes())
    }

    /// Overwrites four bytes of the setup sectors.
    pub fn set_u32(&mut self, offset: usize, value: u32) -> &mut Self {
        self.set(offset, &value.to_le_bytes())
    }

    /// Overwrites eight bytes of the setup sectors.
    pub fn set_u64(&mut self, offset: usize, value: u64) -> &mut Self {
        self.set(offset, &value.to_le_bytes())
    }

    /// The image file's bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        [self.setup.as_slice(), self.payload.as_slice()].concat()
    }
}

/// One loadable segment of an [`Elf`] besides the probe's own.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Physical address.
    pub addr: u32,
    /// Bytes in the file.
    pub data: Vec<u8>,
    /// Bytes in memory, at least the data's.
    pub memory_len: u32,
}

/// A PVH ELF: the probe in one loadable segment, its Xen notes within that
/// segment and under a PT_NOTE header, as in Linux's vmlinux.
#[derive(Clone, Debug)]
pub struct Elf {
    /// 64-bit ELF structures instead of 32-bit ones.
    pub elf64: bool,
    /// Physical address of the probe's segment, entered at its first byte.
    pub addr: u32,
    /// Bytes of the probe's segment in memory, at least [`PAYLOAD_LEN`].
    pub memory_len: u32,
    /// XEN_ELFNOTE_GUEST_OS, when there is one.
    pub guest_os: Option<String>,
    /// Whether there is XEN_ELFNOTE_PHYS32_ENTRY, which a PVH kernel needs.
    pub entry_note: bool,
    /// Further segments.
    pub segments: Vec<Segment>,
    /// The 32-bit code.
    pub payload: Vec<u8>,
}

/// Offset of the notes in the probe's segment.
const NOTES_OFFSET: usize = 0x400;

impl Elf {
    /// A Linux-like PVH probe at 1 MiB.
    ///
    /// # Errors
    /// It does not assemble.
    pub fn new(mode: Mode) -> Result<Self> {
        Ok(Self {
            elf64: false,
            addr: 0x10_0000,
            memory_len: u32::try_from(PAYLOAD_LEN)?,
            guest_os: Some("linux".to_owned()),
            entry_note: true,
            segments: Vec::new(),
            payload: code(mode)?,
        })
    }

    fn notes(&self) -> Vec<u8> {
        let mut notes = Vec::new();
        let mut note = |kind: u32, descriptor: &[u8]| {
            for word in [4, descriptor.len() as u32, kind] {
                notes.extend(u32::to_le_bytes(word));
            }
            notes.extend(b"Xen\0");
            notes.extend(descriptor);
            notes.resize(notes.len().next_multiple_of(4), 0);
        };
        if let Some(name) = &self.guest_os {
            note(6, &[name.as_bytes(), &[0]].concat());
        }
        if self.entry_note {
            note(18, &self.addr.to_le_bytes());
        }
        notes
    }

    /// The image file's bytes.
    ///
    /// # Errors
    /// The notes do not fit their place.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        const FIRST: usize = 0x1000;
        let mut code = self.payload.clone();
        let notes = self.notes();
        ensure!(
            NOTES_OFFSET + notes.len() <= code.len(),
            "notes of {} bytes",
            notes.len()
        );
        code[NOTES_OFFSET..NOTES_OFFSET + notes.len()].copy_from_slice(&notes);

        let mut file = vec![0; FIRST];
        let mut headers = Vec::new();
        let mut load = |addr: u32, data: &[u8], memory_len: u32| {
            file.resize(file.len().next_multiple_of(0x1000), 0);
            headers.push(ProgramHeader {
                p_type: PT_LOAD,
                p_flags: PF_R | PF_W | PF_X,
                p_offset: file.len() as u64,
                p_vaddr: addr.into(),
                p_paddr: addr.into(),
                p_filesz: data.len() as u64,
                p_memsz: memory_len.into(),
                p_align: 0x1000,
            });
            file.extend(data);
        };
        load(self.addr, &code, self.memory_len);
        for segment in &self.segments {
            load(segment.addr, &segment.data, segment.memory_len);
        }
        let addr = u64::from(self.addr) + NOTES_OFFSET as u64;
        headers.push(ProgramHeader {
            p_type: PT_NOTE,
            p_flags: PF_R,
            p_offset: (FIRST + NOTES_OFFSET) as u64,
            p_vaddr: addr,
            p_paddr: addr,
            p_filesz: notes.len() as u64,
            p_memsz: notes.len() as u64,
            p_align: 4,
        });
        let head = self.headers(&headers)?;
        ensure!(head.len() <= FIRST, "too many segments");
        file[..head.len()].copy_from_slice(&head);
        Ok(file)
    }

    /// The ELF header and these program headers.
    fn headers(&self, headers: &[ProgramHeader]) -> Result<Vec<u8>> {
        let mut head = Vec::new();
        let mut writer = Writer::new(Endianness::Little, self.elf64, &mut head);
        writer.reserve_file_header();
        writer.reserve_program_headers(u32::try_from(headers.len())?);
        writer.write_file_header(&FileHeader {
            os_abi: ELFOSABI_NONE,
            abi_version: 0,
            e_type: ET_EXEC,
            e_machine: if self.elf64 { EM_X86_64 } else { EM_386 },
            e_entry: self.addr.into(),
            e_flags: FileFlags::default(),
        })?;
        writer.write_align_program_headers();
        for header in headers {
            writer.write_program_header(header);
        }
        Ok(head)
    }
}

/// A multiboot kernel (Multiboot specification 0.6.96): the probe behind a header
/// that gives its addresses, so that no ELF is needed.
#[derive(Clone, Debug)]
pub struct Multiboot {
    /// Physical address of the 32-bit code.
    pub addr: u32,
    /// The 32-bit code.
    pub payload: Vec<u8>,
}

impl Multiboot {
    /// A multiboot probe at 1 MiB that asks for memory information.
    ///
    /// # Errors
    /// It does not assemble.
    pub fn new(mode: Mode) -> Result<Self> {
        Ok(Self {
            addr: 0x10_0000,
            payload: code(mode)?,
        })
    }

    /// The image file's bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        const OFFSET: u32 = 0x400;
        const MAGIC: u32 = 0x1bad_b002;
        // Modules on pages, memory information, addresses given.
        const FLAGS: u32 = 1 | 2 | 1 << 16;
        let mut file = self.payload.clone();
        let end = self.addr + self.payload.len() as u32;
        let header = [
            MAGIC,
            FLAGS,
            MAGIC.wrapping_add(FLAGS).wrapping_neg(),
            self.addr + OFFSET,
            self.addr,
            end,
            end,
            self.addr,
        ];
        for (slot, word) in file[OFFSET as usize..].chunks_exact_mut(4).zip(header) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        file
    }
}
