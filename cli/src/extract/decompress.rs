//! Decompressing a bzImage's payload.

use std::fmt;
use std::io::{Cursor, Read};

use anyhow::{Context, Result, ensure};

use super::MAX_VMLINUX;

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

/// What `payload` starts with.
pub(super) fn detect(payload: &[u8]) -> Result<Compression> {
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

/// What `payload` holds; the kernel's build has appended its size.
pub(super) fn decompress(compression: Compression, payload: &[u8]) -> Result<Vec<u8>> {
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
    let reader: Box<dyn Read> = match compression {
        Compression::Gzip => Box::new(flate2::read::GzDecoder::new(payload)),
        Compression::Bzip2 => Box::new(bzip2::read::BzDecoder::new(stream)),
        Compression::Lzma => Box::new(lzma_rust2::LzmaReader::new_mem_limit(
            stream,
            u32::MAX,
            None,
        )?),
        // It wants to own what it reads.
        Compression::Xz => Box::new(xz4rust::XzReader::new(Cursor::new(stream.to_vec()))),
        Compression::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(stream)),
        Compression::Zstd => Box::new(
            ruzstd::decoding::StreamingDecoder::new(stream).context("reading the frame header")?,
        ),
        Compression::Lzo => Box::new(Cursor::new(lzop(stream, size)?)),
        Compression::None => Box::new(payload),
    };
    let mut out = Vec::with_capacity(size as usize);
    reader.take(size + 1).read_to_end(&mut out)?;
    ensure!(
        out.len() as u64 == size,
        "{} bytes came out, the kernel's build recorded {size}",
        out.len()
    );
    Ok(out)
}

const LZOP_MAGIC: &[u8] = b"\x89LZO\0\r\n\x1a\n";

// Header flags that add a checksum to each block, or a field to the header.
const ADLER32_PLAIN: u32 = 0x1;
const ADLER32_PACKED: u32 = 0x2;
const EXTRA_FIELD: u32 = 0x40;
const CRC32_PLAIN: u32 = 0x100;
const CRC32_PACKED: u32 = 0x200;
const FILTER: u32 = 0x800;
/// lzop's own largest block.
const MAX_BLOCK: u32 = 64 * 1024 * 1024;

/// lzop's container: a header, then blocks of LZO1X data until a block of
/// length 0. Numbers are big endian. `size` bytes have to come out at most.
fn lzop(mut input: &[u8], size: u64) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(size as usize);
    let flags = lzop_header(&mut input)?;
    let checksums = |set: u32| (flags & set).count_ones() * 4;
    loop {
        let plain_len = u32::from_be_bytes(array(&mut input)?);
        if plain_len == 0 {
            return Ok(out);
        }
        let packed_len = u32::from_be_bytes(array(&mut input)?);
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
        let packed = input
            .split_off(..packed_len as usize)
            .context("the payload ends within an lzop block")?;
        if packed_len == plain_len {
            out.extend_from_slice(packed);
            continue;
        }
        let mut plain = lzo1x(packed, plain_len as usize).context("a damaged lzop block")?;
        ensure!(
            plain.len() == plain_len as usize,
            "an lzop block came out short"
        );
        out.append(&mut plain);
    }
}

/// Decompresses LZO1X (the kernel's `Documentation/staging/lzo.rst`) to at most
/// `limit` bytes. The one crate for it that may be used here brings procedural
/// macros along, and every first boot would compile them.
fn lzo1x(packed: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut input = packed.iter().copied().map(usize::from);
    let mut out: Vec<u8> = Vec::with_capacity(limit);
    // Literals that the last instruction ended with; 4 stands for more than three.
    let mut state = 0;
    let mut first = packed.first().is_some_and(|byte| *byte > 17);
    loop {
        let instruction = input.next()?;
        let (literals, length, distance) = match instruction {
            _ if first => (instruction - 17, 0, 0),
            0..16 if state == 0 => (3 + long(&mut input, instruction, 15)?, 0, 0),
            0..16 => {
                let distance = (input.next()? << 2) + (instruction >> 2);
                match state {
                    4 => (instruction & 3, 3, distance + 2049),
                    _ => (instruction & 3, 2, distance + 1),
                }
            }
            16..64 => {
                let most = if instruction < 32 { 7 } else { 31 };
                let length = 2 + long(&mut input, instruction & most, most)?;
                let word = input.next()? + (input.next()? << 8);
                let distance = match instruction {
                    16..32 => 0x4000 + ((instruction & 8) << 11) + (word >> 2),
                    _ => (word >> 2) + 1,
                };
                if distance == 0x4000 && instruction < 32 {
                    return Some(out);
                }
                (word & 3, length, distance)
            }
            _ => {
                let length = if instruction < 128 {
                    3 + (instruction >> 5 & 1)
                } else {
                    5 + (instruction >> 5 & 3)
                };
                let distance = (input.next()? << 3) + (instruction >> 2 & 7) + 1;
                (instruction & 3, length, distance)
            }
        };
        if length + literals > limit - out.len() {
            return None;
        }
        for _ in 0..length {
            out.push(*out.get(out.len().checked_sub(distance)?)?);
        }
        for _ in 0..literals {
            out.push(u8::try_from(input.next()?).ok()?);
        }
        state = literals.min(4);
        first = false;
    }
}

/// A length that may go on: 0 stands for `most` and the sum of what follows, up to
/// the first byte that is not 0, where 0 stands for 255.
fn long(input: &mut impl Iterator<Item = usize>, short: usize, most: usize) -> Option<usize> {
    if short != 0 {
        return Some(short);
    }
    let mut length = most;
    loop {
        match input.next()? {
            0 => length += 255,
            last => return Some(length + last),
        }
    }
}

/// Passes over the header; gives its flags.
fn lzop_header(input: &mut &[u8]) -> Result<u32> {
    skip(input, LZOP_MAGIC.len() as u32)?;
    let version = u16::from_be_bytes(array(input)?);
    skip(input, 2)?; // version of the library
    if version >= 0x940 {
        skip(input, 2)?; // version needed to extract
    }
    skip(input, 1)?; // method: 1 to 3 all decompress as LZO1X
    if version >= 0x940 {
        skip(input, 1)?; // level
    }
    let flags = u32::from_be_bytes(array(input)?);
    ensure!(flags & FILTER == 0, "lzop filters are not supported");
    skip(input, 8)?; // mode, low half of the time
    if version >= 0x940 {
        skip(input, 4)?; // high half of the time
    }
    let [name_len] = array(input)?;
    skip(input, u32::from(name_len) + 4)?; // name, header checksum
    if flags & EXTRA_FIELD != 0 {
        let len = u32::from_be_bytes(array(input)?);
        skip(input, len.saturating_add(4))?;
    }
    Ok(flags)
}

const CUT: &str = "the payload ends within the lzop header";

fn skip(input: &mut &[u8], len: u32) -> Result<()> {
    input.split_off(..len as usize).context(CUT)?;
    Ok(())
}

fn array<const N: usize>(input: &mut &[u8]) -> Result<[u8; N]> {
    let (head, rest) = input.split_first_chunk().context(CUT)?;
    *input = rest;
    Ok(*head)
}
