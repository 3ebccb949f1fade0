//! The ELF kernel inside a bzImage.
//!
//! A bzImage carries the kernel proper as a compressed payload, and its
//! decompressor runs in the guest on every boot. [`vmlinux`] runs it once on
//! the host; the result boots by PVH where the kernel was built with
//! `CONFIG_PVH`. See the kernel's `Documentation/arch/x86/boot.rst` for
//! `payload_offset` and `payload_length`, and its
//! `arch/x86/include/uapi/asm/elf…`/Xen's `elfnote.h` for the note.

use std::fmt;
use std::fs;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use object::elf::NoteType;
use object::read::elf::{ElfFile32, ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, FileKind};

use crate::{progress, workspace};

/// How a bzImage's payload is compressed: the seven that x86 kernels offer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Compression {
    Gzip,
    Bzip2,
    Lzma,
    Xz,
    Lzo,
    Lz4,
    Zstd,
    /// `CONFIG_KERNEL_UNCOMPRESSED` exists on other architectures; some
    /// tools repack x86 kernels that way.
    None,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compression::Gzip => "gzip",
            Compression::Bzip2 => "bzip2",
            Compression::Lzma => "LZMA",
            Compression::Xz => "XZ",
            Compression::Lzo => "LZO",
            Compression::Lz4 => "LZ4",
            Compression::Zstd => "ZSTD",
            Compression::None => "none",
        })
    }
}

/// An extracted kernel.
#[derive(Clone, Debug)]
pub struct Vmlinux {
    /// The ELF file, followed by what the kernel's build appended to it.
    pub elf: Vec<u8>,
    pub compression: Compression,
    /// Physical address of the PVH entry point, `None` when the kernel has no
    /// `XEN_ELFNOTE_PHYS32_ENTRY` and so cannot be booted by PVH.
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
    Unknown,
}

/// Tells what kind of kernel `bytes` are.
pub fn format(bytes: &[u8]) -> Format {
    if bytes.starts_with(b"\x7fELF") {
        Format::Elf
    } else if bytes.get(SIGNATURE..SIGNATURE + 4) == Some(b"HdrS") {
        match payload(bytes) {
            Ok(_) => Format::BzImage,
            Err(_) => Format::BzImageWithoutPayload,
        }
    } else {
        Format::Unknown
    }
}

/// Whether the kernel file `bytes` (a bzImage or an ELF file) is a 32-bit one.
///
/// A 64-bit bzImage says so by `XLF_KERNEL_64` in `xloadflags`, an ELF file by
/// its class.
pub fn is_32_bit(bytes: &[u8]) -> bool {
    const ELFCLASS32: u8 = 1;
    const XLF_KERNEL_64: u8 = 1;
    match format(bytes) {
        Format::Elf => bytes.get(4) == Some(&ELFCLASS32),
        Format::BzImage => bytes
            .get(XLOADFLAGS)
            .is_some_and(|flags| flags & XLF_KERNEL_64 == 0),
        Format::BzImageWithoutPayload | Format::Unknown => false,
    }
}

// Offsets in the file of setup_header's fields (boot protocol, "The real-mode
// kernel header").
const SETUP_SECTS: usize = 0x1f1;
const SIGNATURE: usize = 0x202;
const VERSION: usize = 0x206;
const XLOADFLAGS: usize = 0x236;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// Larger than any kernel, small enough for a host.
const MAX_VMLINUX: u64 = 1 << 30;

/// Decompresses the kernel inside the bzImage `bytes`.
///
/// # Errors
/// When `bytes` are no bzImage, carry no payload (boot protocol before 2.08),
/// or the payload is damaged, of an unknown compression, or no ELF file.
pub fn vmlinux(bytes: &[u8]) -> Result<Vmlinux> {
    let payload = payload(bytes)?;
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

/// An extracted kernel on disk.
#[derive(Clone, Debug)]
pub struct Cached {
    /// The vmlinux, or `None` when the kernel has no PVH entry point.
    pub path: Option<PathBuf>,
}

/// Extracts the bzImage at `path` once and keeps the result under
/// `target/kernels/`, named by the bzImage's SHA-256.
///
/// A kernel without a PVH entry point yields no path; that too is remembered.
///
/// # Errors
/// As [`vmlinux`], and when files cannot be read or written.
pub fn cached(path: &Path) -> Result<Cached> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let sha256 = workspace::sha256(&bytes);
    let _lock = workspace::lock(&format!("vmlinux-{sha256}"))?;
    let dir = workspace::target().join("kernels");
    let vmlinux_path = dir.join(format!("{sha256}.vmlinux"));
    let without_pvh = dir.join(format!("{sha256}.no-pvh"));
    if vmlinux_path.is_file() {
        return Ok(Cached {
            path: Some(vmlinux_path),
        });
    }
    if without_pvh.is_file() {
        return Ok(Cached { path: None });
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
        Ok(Cached {
            path: Some(vmlinux_path),
        })
    } else {
        workspace::write_atomically(&without_pvh, b"")?;
        step.done(&format!("{summary}, no PVH entry point"));
        Ok(Cached { path: None })
    }
}

/// The physical address of the PVH entry point of the ELF kernel `elf`.
///
/// It is the descriptor of the note named `Xen` of type
/// `XEN_ELFNOTE_PHYS32_ENTRY` in a `PT_NOTE` segment: 4 or 8 bytes.
///
/// # Errors
/// When `elf` is no ELF file for x86 or its headers are damaged.
pub fn pvh_entry(elf: &[u8]) -> Result<Option<u64>> {
    match FileKind::parse(elf).context("not an ELF file")? {
        FileKind::Elf32 => {
            let file = ElfFile32::<Endianness>::parse(elf)?;
            find_pvh(file.elf_header(), elf)
        }
        FileKind::Elf64 => {
            let file = ElfFile64::<Endianness>::parse(elf)?;
            find_pvh(file.elf_header(), elf)
        }
        other => bail!("not an ELF kernel but {other:?}"),
    }
}

const XEN_ELFNOTE_PHYS32_ENTRY: NoteType = NoteType(18);

fn find_pvh<H: FileHeader>(header: &H, elf: &[u8]) -> Result<Option<u64>> {
    let endian = header.endian()?;
    for segment in header.program_headers(endian, elf)? {
        let Some(mut notes) = segment.notes(endian, elf)? else {
            continue;
        };
        while let Some(note) = notes.next()? {
            if note.name() != b"Xen" || note.n_type(endian) != XEN_ELFNOTE_PHYS32_ENTRY {
                continue;
            }
            let mut address = [0; 8];
            let desc = note.desc();
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

fn le<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    bytes
        .get(at..at + N)
        .and_then(|field| field.try_into().ok())
        .context("the file ends within its setup header")
}

fn payload(bytes: &[u8]) -> Result<&[u8]> {
    ensure!(
        bytes.get(SIGNATURE..SIGNATURE + 4) == Some(b"HdrS"),
        "not a bzImage: no setup header"
    );
    let version = u16::from_le_bytes(le(bytes, VERSION)?);
    ensure!(
        version >= 0x208,
        "boot protocol {}.{:02} has no payload field (it came with 2.08)",
        version >> 8,
        version & 0xff
    );
    // 0 stands for 4 in the field (boot protocol, setup_sects).
    let setup_sects = match bytes[SETUP_SECTS] {
        0 => 4,
        sects => usize::from(sects),
    };
    let offset = u32::from_le_bytes(le(bytes, PAYLOAD_OFFSET)?) as usize;
    let length = u32::from_le_bytes(le(bytes, PAYLOAD_LENGTH)?) as usize;
    ensure!(
        length > 4,
        "the header carries no payload, this is no Linux"
    );
    let start = (setup_sects + 1) * 512 + offset;
    bytes
        .get(start..start + length)
        .with_context(|| format!("the payload at {start:#x} lies outside the file"))
}

fn detect(payload: &[u8]) -> Result<Compression> {
    const MAGICS: &[(&[u8], Compression)] = &[
        (b"\x1f\x8b\x08", Compression::Gzip),
        (b"BZh", Compression::Bzip2),
        (b"\x5d\0\0", Compression::Lzma),
        (b"\xfd7zXZ\0", Compression::Xz),
        (LZOP_MAGIC, Compression::Lzo),
        (b"\x02\x21\x4c\x18", Compression::Lz4),
        (b"\x28\xb5\x2f\xfd", Compression::Zstd),
        (b"\x7fELF", Compression::None),
    ];
    MAGICS
        .iter()
        .find(|(magic, _)| payload.starts_with(magic))
        .map(|(_, compression)| *compression)
        .with_context(|| {
            let head = &payload[..payload.len().min(8)];
            format!("unknown payload compression, first bytes {head:02x?}")
        })
}

fn decompress(compression: Compression, payload: &[u8]) -> Result<Vec<u8>> {
    if compression == Compression::None {
        return Ok(payload.to_vec());
    }
    // The kernel's build appends the size of the result, 32 bits little
    // endian. gzip has the same field as its own last one.
    let (stream, size) = payload
        .split_last_chunk::<4>()
        .context("a payload of less than 4 bytes")?;
    let size = u64::from(u32::from_le_bytes(*size));
    ensure!(
        size <= MAX_VMLINUX,
        "{size} bytes is too large for a kernel"
    );
    let mut out = Vec::with_capacity(size as usize);
    let limit = size + 1;
    match compression {
        Compression::Gzip => {
            flate2::read::GzDecoder::new(payload)
                .take(limit)
                .read_to_end(&mut out)?;
        }
        Compression::Bzip2 => {
            bzip2::read::BzDecoder::new(stream)
                .take(limit)
                .read_to_end(&mut out)?;
        }
        Compression::Lzma => {
            lzma_rust2::LzmaReader::new_mem_limit(stream, u32::MAX, None)?
                .take(limit)
                .read_to_end(&mut out)?;
        }
        Compression::Xz => {
            lzma_rust2::XzReader::new(stream, false)
                .take(limit)
                .read_to_end(&mut out)?;
        }
        Compression::Lz4 => {
            lz4_flex::frame::FrameDecoder::new(stream)
                .take(limit)
                .read_to_end(&mut out)?;
        }
        Compression::Zstd => {
            ruzstd::decoding::StreamingDecoder::new(stream)
                .context("reading the frame header")?
                .take(limit)
                .read_to_end(&mut out)?;
        }
        Compression::Lzo => lzop(stream, size, &mut out)?,
        Compression::None => {}
    }
    ensure!(
        out.len() as u64 == size,
        "{} bytes came out, the kernel's build recorded {size}",
        out.len()
    );
    Ok(out)
}

const LZOP_MAGIC: &[u8] = b"\x89LZO\0\r\n\x1a\n";

/// lzop's container: a header, then blocks of LZO1X data until a block of
/// length 0. Numbers are big endian.
fn lzop(stream: &[u8], size: u64, out: &mut Vec<u8>) -> Result<()> {
    // Header flags that add a checksum to each block, or a field to the header.
    const ADLER32_PLAIN: u32 = 0x1;
    const ADLER32_PACKED: u32 = 0x2;
    const EXTRA_FIELD: u32 = 0x40;
    const CRC32_PLAIN: u32 = 0x100;
    const CRC32_PACKED: u32 = 0x200;
    const FILTER: u32 = 0x800;
    /// lzop's own largest block.
    const MAX_BLOCK: u32 = 64 * 1024 * 1024;

    let mut input = Cursor::new(stream);
    skip(&mut input, LZOP_MAGIC.len() as u32)?;
    let version = be16(&mut input)?;
    skip(&mut input, 2)?; // version of the library
    if version >= 0x940 {
        skip(&mut input, 2)?; // version needed to extract
    }
    skip(&mut input, 1)?; // method: 1 to 3 all decompress as LZO1X
    if version >= 0x940 {
        skip(&mut input, 1)?; // level
    }
    let flags = be32(&mut input)?;
    ensure!(flags & FILTER == 0, "lzop filters are not supported");
    skip(&mut input, 8)?; // mode, low half of the time
    if version >= 0x940 {
        skip(&mut input, 4)?; // high half of the time
    }
    let name_len = byte(&mut input)?;
    skip(&mut input, u32::from(name_len) + 4)?; // name, header checksum
    if flags & EXTRA_FIELD != 0 {
        let len = be32(&mut input)?;
        skip(&mut input, len.saturating_add(4))?;
    }
    let checksums = |set: u32| (flags & set).count_ones() * 4;
    loop {
        let plain_len = be32(&mut input)?;
        if plain_len == 0 {
            return Ok(());
        }
        let packed_len = be32(&mut input)?;
        ensure!(
            packed_len <= plain_len && plain_len <= MAX_BLOCK,
            "a damaged lzop block header"
        );
        ensure!(
            out.len() as u64 + u64::from(plain_len) <= size,
            "more data than the kernel's build recorded"
        );
        skip(&mut input, checksums(ADLER32_PLAIN | CRC32_PLAIN))?;
        if packed_len < plain_len {
            skip(&mut input, checksums(ADLER32_PACKED | CRC32_PACKED))?;
        }
        let start = input.position() as usize;
        let packed = stream
            .get(start..start + packed_len as usize)
            .context("the payload ends within an lzop block")?;
        skip(&mut input, packed_len)?;
        if packed_len == plain_len {
            out.extend_from_slice(packed);
            continue;
        }
        let mut plain = vec![0; plain_len as usize];
        let written = lzokay::decompress::decompress(packed, &mut plain)
            .map_err(|error| anyhow::anyhow!("LZO: {error:?}"))?;
        ensure!(written == plain.len(), "an lzop block came out short");
        out.append(&mut plain);
    }
}

fn skip(input: &mut Cursor<&[u8]>, len: u32) -> Result<()> {
    let end = input.position() + u64::from(len);
    ensure!(
        end <= input.get_ref().len() as u64,
        "the payload ends within the lzop header"
    );
    input.set_position(end);
    Ok(())
}

fn byte(input: &mut Cursor<&[u8]>) -> Result<u8> {
    let mut bytes = [0; 1];
    input.read_exact(&mut bytes)?;
    Ok(bytes[0])
}

fn be16(input: &mut Cursor<&[u8]>) -> Result<u16> {
    let mut bytes = [0; 2];
    input.read_exact(&mut bytes)?;
    Ok(u16::from_be_bytes(bytes))
}

fn be32(input: &mut Cursor<&[u8]>) -> Result<u32> {
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ELF: &[u8] = include_bytes!("../testdata/vmlinux.elf");

    /// What the kernel's build makes of `ELF` with each compressor.
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
        image[SETUP_SECTS] = 1;
        image[SIGNATURE..SIGNATURE + 4].copy_from_slice(b"HdrS");
        image[VERSION..VERSION + 2].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&(CODE as u32).to_le_bytes());
        let length = payload.len() as u32;
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        image.extend_from_slice(payload);
        // The decompressor proper follows in a real one.
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
                // Some formats have no checksum and yield other bytes instead.
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
        old[VERSION] = 0x07;
        assert_eq!(format(&old), Format::BzImageWithoutPayload);
        assert!(vmlinux(ELF).is_err());
        assert!(vmlinux(&[]).is_err());
    }

    #[test]
    fn the_width_is_read_from_the_header() {
        let mut image = bzimage(PAYLOADS[0].1);
        assert!(is_32_bit(&image));
        image[XLOADFLAGS] = 0x7f;
        assert!(!is_32_bit(&image));
        let mut elf = ELF.to_vec();
        assert!(!is_32_bit(&elf));
        elf[4] = 1;
        assert!(is_32_bit(&elf));
    }

    #[test]
    fn a_payload_outside_the_file_is_an_error() {
        let mut image = bzimage(PAYLOADS[0].1);
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 8].copy_from_slice(&[0xff; 8]);
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
