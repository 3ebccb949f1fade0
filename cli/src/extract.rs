//! The ELF kernel inside a bzImage.
//!
//! A bzImage has the kernel proper as a compressed payload, which it decompresses in
//! the guest on every boot. [`vmlinux`] decompresses it once on the host. The result
//! boots by PVH if the kernel was built with `CONFIG_PVH`. See the kernel's
//! `Documentation/arch/x86/boot.rst` for `payload_offset` and `payload_length`, and its
//! `arch/x86/include/uapi/asm/elf…`/Xen's `elfnote.h` for the note.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use elf::ElfBytes;
use elf::abi::PT_NOTE;
use elf::endian::LittleEndian;
use elf::note::Note;

use crate::uki::Pe;
use crate::{hdr, progress, workspace};

mod decompress;

pub use decompress::Compression;
use decompress::{decompress, detect};

/// An extracted kernel.
#[derive(Clone, Debug)]
pub struct Vmlinux {
    /// The ELF file, and what the kernel's build appends.
    pub elf: Vec<u8>,
    pub compression: Compression,
    /// Physical address of the PVH entry point; `None` without
    /// `XEN_ELFNOTE_PHYS32_ENTRY`.
    pub pvh_entry: Option<u64>,
}

/// What a kernel file is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// `setup_header` with a payload: can be extracted.
    BzImage,
    /// `setup_header` without a payload: not Linux, or older than protocol 2.08.
    BzImageWithoutPayload,
    Elf,
    /// A unified kernel image for x86.
    Unified,
    Unknown,
}

/// The format of the kernel `bytes`.
pub fn format(bytes: &[u8]) -> Format {
    if bytes.starts_with(b"\x7fELF") {
        Format::Elf
    } else if has_setup_header(bytes) {
        match payload(bytes) {
            Ok(_) => Format::BzImage,
            Err(_) => Format::BzImageWithoutPayload,
        }
    } else {
        match Pe::read(bytes) {
            Ok(Some(pe)) if pe.is_for_x86() && pe.section(".linux").is_some() => Format::Unified,
            _ => Format::Unknown,
        }
    }
}

/// Why QEMU may not boot the kernel file `bytes`. The words are those of the
/// firmware's errors, which `tests/errors.rs` holds them to, and may say more.
pub fn doubt(bytes: &[u8]) -> Option<&'static str> {
    match format(bytes) {
        Format::Unknown if !is_multiboot(bytes) => Some(refused(bytes)),
        Format::Elf if !is_multiboot(bytes) && matches!(pvh_entry(bytes), Ok(None)) => Some(
            "the ELF kernel has no PVH entry note, or the machine type is older than 4.0; build \
             it with CONFIG_PVH=y or pass its bzImage",
        ),
        _ => None,
    }
}

/// Why a file is no kernel for this firmware, as far as it can be told.
fn refused(bytes: &[u8]) -> &'static str {
    const OTHER: &str = "the kernel is for another processor (ARM?); pass one for x86";
    // Linux's `Documentation/arch/arm64/booting.rst`, and `arch/arm/boot/zImage`.
    let is_arm64 = bytes.get(0x38..0x3c) == Some(b"ARM\x64");
    let is_arm = bytes.get(0x24..0x28) == Some(&[0x18, 0x28, 0x6f, 0x01]);
    match Pe::read(bytes) {
        Ok(Some(pe)) if !pe.is_for_x86() => OTHER,
        Ok(Some(_)) => {
            "the kernel is an EFI program, which needs UEFI firmware; pass a bzImage, a UKI or a \
             PVH vmlinux"
        }
        Err(_) => "the kernel image is shorter than its header says; is the file whole?",
        Ok(None) if is_arm64 || is_arm => OTHER,
        Ok(None) if bytes.starts_with(&[0x1f, 0x8b]) => {
            "unknown kernel format; pass a bzImage, a UKI, an ELF with a PVH note or a multiboot \
             kernel (this is compressed with gzip: gunzip it first)"
        }
        Ok(None) => {
            "unknown kernel format; pass a bzImage, a UKI, an ELF with a PVH note or a multiboot \
             kernel (a distribution's is /boot/vmlinuz-*)"
        }
    }
}

/// The bzImage in a unified kernel image, or `bytes` themselves.
///
/// # Errors
/// Parts of a PE file lie outside it.
pub fn bzimage(bytes: &[u8]) -> Result<&[u8]> {
    if has_setup_header(bytes) {
        return Ok(bytes);
    }
    let linux = Pe::read(bytes)?.and_then(|pe| pe.section(".linux"));
    Ok(linux.unwrap_or(bytes))
}

/// Whether QEMU boots the ELF file `bytes` by PVH.
pub fn is_pvh(bytes: &[u8]) -> bool {
    format(bytes) == Format::Elf && !is_multiboot(bytes)
}

/// Whether the kernel file `bytes` has a multiboot header, in the first 8 KiB at a
/// multiple of four.
fn is_multiboot(bytes: &[u8]) -> bool {
    let (words, _) = bytes[..bytes.len().min(8192)].as_chunks();
    words.contains(&MULTIBOOT)
}

/// The magic number of a multiboot header.
const MULTIBOOT: [u8; 4] = 0x1bad_b002_u32.to_le_bytes();

/// Whether the kernel file `bytes` (a bzImage or an ELF file) is a 32-bit one.
///
/// A bzImage tells by `XLF_KERNEL_64` in `xloadflags`, an ELF file by its class.
pub fn is_32_bit(bytes: &[u8]) -> bool {
    const ELFCLASS32: u8 = 1;
    const XLF_KERNEL_64: u8 = 1;
    match format(bytes) {
        Format::Elf => bytes.get(4) == Some(&ELFCLASS32),
        Format::BzImage => bytes
            .get(hdr::XLOADFLAGS)
            .is_some_and(|flags| flags & XLF_KERNEL_64 == 0),
        Format::Unified => bzimage(bytes).is_ok_and(is_32_bit),
        Format::BzImageWithoutPayload | Format::Unknown => false,
    }
}

/// Larger than any kernel, and small enough for a host.
const MAX_VMLINUX: u64 = 1 << 30;

/// Decompresses the kernel inside the bzImage `bytes`, or inside that of a unified
/// kernel image.
///
/// # Errors
/// `bytes` are not a bzImage or have no payload (boot protocol before 2.08), or the
/// payload is damaged, of an unknown compression, or not an ELF file.
pub fn vmlinux(bytes: &[u8]) -> Result<Vmlinux> {
    let payload = payload(bzimage(bytes)?)?;
    let compression = detect(payload)?;
    let elf = decompress(compression, payload)
        .with_context(|| format!("decompressing the {compression} payload"))?;
    ensure!(
        elf.starts_with(b"\x7fELF"),
        "the {compression} payload holds no ELF kernel"
    );
    let pvh_entry = pvh_entry(&elf)?;
    Ok(Vmlinux {
        elf,
        compression,
        pvh_entry,
    })
}

/// Extracts the bzImage at `path` once and keeps the vmlinux under `target/kernels/`,
/// named by the bzImage's SHA-256; `None` if the kernel has no PVH entry point, which is
/// remembered too.
///
/// # Errors
/// As [`vmlinux`], or a file cannot be read or written.
pub fn cached(path: &Path) -> Result<Option<PathBuf>> {
    let bytes = workspace::read(path)?;
    let sha256 = workspace::sha256(&bytes);
    let _lock = workspace::lock(&format!("vmlinux-{sha256}"))?;
    let dir = workspace::target().join("kernels");
    let vmlinux_path = dir.join(format!("{sha256}.vmlinux"));
    let without_pvh = dir.join(format!("{sha256}.no-pvh"));
    if vmlinux_path.is_file() {
        return Ok(Some(vmlinux_path));
    }
    if without_pvh.is_file() {
        return Ok(None);
    }
    let step = progress::step(format!(
        "extracting vmlinux from {}",
        path.file_name().unwrap_or(path.as_os_str()).display()
    ));
    let vmlinux = vmlinux(&bytes)?;
    let summary = format!(
        "{}, {} MiB",
        vmlinux.compression,
        vmlinux.elf.len() / (1024 * 1024)
    );
    if let Some(entry) = vmlinux.pvh_entry {
        workspace::write_atomically(&vmlinux_path, &vmlinux.elf)?;
        step.done(&format!("{summary}, PVH entry {entry:#x}"));
        Ok(Some(vmlinux_path))
    } else {
        workspace::write_atomically(&without_pvh, b"")?;
        step.done(&format!("{summary}, no PVH entry point"));
        Ok(None)
    }
}

/// The physical address of the PVH entry point of the ELF kernel `elf`.
///
/// It is the descriptor of the note named `Xen` of type
/// `XEN_ELFNOTE_PHYS32_ENTRY` in a `PT_NOTE` segment: 4 or 8 bytes.
///
/// # Errors
/// `elf` is not an ELF file for x86, or its headers are damaged.
pub fn pvh_entry(elf: &[u8]) -> Result<Option<u64>> {
    const XEN_ELFNOTE_PHYS32_ENTRY: u64 = 18;
    let file = ElfBytes::<LittleEndian>::minimal_parse(elf).context("not an ELF file for x86")?;
    let segments = file.segments().into_iter().flatten();
    for segment in segments.filter(|segment| segment.p_type == PT_NOTE) {
        for note in file.segment_data_as_notes(&segment)? {
            let Note::Unknown(note) = note else {
                continue;
            };
            if note.name != b"Xen\0" || note.n_type != XEN_ELFNOTE_PHYS32_ENTRY {
                continue;
            }
            let mut address = [0; 8];
            let desc = note.desc;
            ensure!(
                matches!(desc.len(), 4 | 8),
                "PVH note with a {}-byte entry",
                desc.len()
            );
            address[..desc.len()].copy_from_slice(desc);
            return Ok(Some(u64::from_le_bytes(address)));
        }
    }
    Ok(None)
}

/// Whether `bytes` are a bzImage, as far as its mark tells.
pub fn has_setup_header(bytes: &[u8]) -> bool {
    bytes.get(hdr::HEADER..hdr::HEADER + 4) == Some(b"HdrS")
}

/// Bytes of a bzImage's boot sector and setup code, which the 32-bit code follows.
pub fn setup_len(bzimage: &[u8]) -> usize {
    let sects = match bzimage[hdr::SETUP_SECTS] {
        // Boot protocol, `setup_sects`.
        0 => 4,
        sects => usize::from(sects),
    };
    (1 + sects) * 512
}

fn le<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    bytes
        .get(at..at + N)
        .and_then(|field| field.try_into().ok())
        .context("the file ends within its setup header")
}

fn payload(bytes: &[u8]) -> Result<&[u8]> {
    ensure!(has_setup_header(bytes), "not a bzImage: no setup header");
    let version = u16::from_le_bytes(le(bytes, hdr::VERSION)?);
    ensure!(
        version >= 0x208,
        "boot protocol {}.{:02} has no payload field (it came with 2.08)",
        version >> 8,
        version & 0xff
    );
    let offset = u32::from_le_bytes(le(bytes, hdr::PAYLOAD_OFFSET)?) as usize;
    let length = u32::from_le_bytes(le(bytes, hdr::PAYLOAD_LENGTH)?) as usize;
    ensure!(
        length > 4,
        "the header carries no payload, this is no Linux"
    );
    let start = setup_len(bytes) + offset;
    bytes
        .get(start..start + length)
        .with_context(|| format!("the payload at {start:#x} lies outside the file; is it whole?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ELF: &[u8] = include_bytes!("../testdata/vmlinux.elf");

    /// `ELF`, compressed as the kernel's build does it.
    const PAYLOADS: &[(Compression, &[u8])] = &[
        (
            Compression::Gzip,
            include_bytes!("../testdata/vmlinux.gzip"),
        ),
        (
            Compression::Bzip2,
            include_bytes!("../testdata/vmlinux.bzip2"),
        ),
        (
            Compression::Lzma,
            include_bytes!("../testdata/vmlinux.lzma"),
        ),
        (Compression::Xz, include_bytes!("../testdata/vmlinux.xz")),
        (Compression::Lzo, include_bytes!("../testdata/vmlinux.lzo")),
        (Compression::Lz4, include_bytes!("../testdata/vmlinux.lz4")),
        (
            Compression::Zstd,
            include_bytes!("../testdata/vmlinux.zstd"),
        ),
    ];

    /// A bzImage of one setup sector and a little code before the payload.
    fn bzimage(payload: &[u8]) -> Vec<u8> {
        const CODE: usize = 0x40;
        let mut image = vec![0; 1024 + CODE];
        image[hdr::SETUP_SECTS] = 1;
        image[hdr::HEADER..hdr::HEADER + 4].copy_from_slice(b"HdrS");
        image[hdr::VERSION..hdr::VERSION + 2].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[hdr::PAYLOAD_OFFSET..hdr::PAYLOAD_OFFSET + 4]
            .copy_from_slice(&(CODE as u32).to_le_bytes());
        let length = payload.len() as u32;
        image[hdr::PAYLOAD_LENGTH..hdr::PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        image.extend_from_slice(payload);
        // A real one has its decompressor here.
        image.extend_from_slice(&[0xcc; 512]);
        image
    }

    #[test]
    fn every_compression_of_the_kernel_is_undone() {
        for (compression, payload) in PAYLOADS {
            let vmlinux = vmlinux(&bzimage(payload)).unwrap();
            assert_eq!(vmlinux.compression, *compression);
            assert_eq!(vmlinux.elf, ELF, "{compression}");
            assert_eq!(vmlinux.pvh_entry, Some(0x100_0040));
        }
    }

    #[test]
    fn an_elf_payload_is_taken_as_it_is() {
        let vmlinux = vmlinux(&bzimage(ELF)).unwrap();
        assert_eq!(vmlinux.compression, Compression::None);
        assert_eq!(vmlinux.elf, ELF);
    }

    #[test]
    fn a_damaged_payload_is_an_error_and_no_panic() {
        for (compression, payload) in PAYLOADS {
            for cut in [5, 16, payload.len() / 2, payload.len() - 5] {
                let result = vmlinux(&bzimage(&payload[..cut]));
                assert!(result.is_err(), "{compression} cut at {cut}");
            }
            for at in (0..payload.len()).step_by(7) {
                let mut damaged = payload.to_vec();
                damaged[at] ^= 0x55;
                // Formats without a checksum yield wrong bytes instead.
                let _ = vmlinux(&bzimage(&damaged));
            }
        }
    }

    #[test]
    fn the_recorded_size_must_be_the_size_that_comes_out() {
        let (_, payload) = PAYLOADS[5];
        let mut lying = payload.to_vec();
        let at = lying.len() - 4;
        lying[at] ^= 1;
        let error = vmlinux(&bzimage(&lying)).unwrap_err();
        assert!(
            format!("{error:#}").contains("the kernel's build recorded"),
            "{error:#}"
        );
    }

    #[test]
    fn what_is_no_linux_bzimage_is_told_apart() {
        assert_eq!(format(ELF), Format::Elf);
        assert_eq!(format(b"MZ"), Format::Unknown);
        assert_eq!(format(&bzimage(PAYLOADS[0].1)), Format::BzImage);
        assert_eq!(format(&bzimage(&[])), Format::BzImageWithoutPayload);
        let mut old = bzimage(PAYLOADS[0].1);
        old[hdr::VERSION] = 0x07;
        assert_eq!(format(&old), Format::BzImageWithoutPayload);
        assert!(vmlinux(ELF).is_err());
        assert!(vmlinux(&[]).is_err());
    }

    #[test]
    fn the_width_is_read_from_the_header() {
        let mut image = bzimage(PAYLOADS[0].1);
        assert!(is_32_bit(&image));
        image[hdr::XLOADFLAGS] = 0x7f;
        assert!(!is_32_bit(&image));
        let mut elf = ELF.to_vec();
        assert!(!is_32_bit(&elf));
        elf[4] = 1;
        assert!(is_32_bit(&elf));
    }

    #[test]
    fn a_payload_outside_the_file_is_an_error() {
        let mut image = bzimage(PAYLOADS[0].1);
        image[hdr::PAYLOAD_OFFSET..hdr::PAYLOAD_OFFSET + 8].copy_from_slice(&[0xff; 8]);
        assert!(vmlinux(&image).is_err());
    }

    #[test]
    fn an_elf_without_the_note_has_no_pvh_entry() {
        let mut elf = ELF.to_vec();
        let name = elf.windows(4).position(|w| w == b"Xen\0").unwrap();
        elf[name] = b'Y';
        assert_eq!(pvh_entry(&elf).unwrap(), None);
        assert!(pvh_entry(b"\x7fELF").is_err());
    }
}
