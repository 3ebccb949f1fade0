//! SMBIOS as a kernel finds it: the entry point in the F segment, then the structures.

use anyhow::{Context, Result, bail, ensure};
use xtask::qemu::Vm;

use crate::{Field, sum};

/// One structure: its formatted part and its strings.
#[derive(Clone, Debug)]
pub struct Structure {
    /// Type.
    pub kind: u8,
    /// Formatted part, with its header.
    pub bytes: Vec<u8>,
    /// Strings, the first at index 0.
    pub strings: Vec<String>,
}

/// What the entry point leads to.
#[derive(Clone, Debug)]
pub struct Smbios {
    /// Anchor: `_SM_` (2.1) or `_SM3_` (3.0).
    pub anchor: &'static str,
    /// The structures, without the end of table.
    pub structures: Vec<Structure>,
}

impl Smbios {
    /// Looks for the entry point at every paragraph of the F segment
    /// (SMBIOS 3.6, 5.2), and walks the structures. `None` when there is none:
    /// a signature without a length and checksum is passed over, as Linux does
    /// (on microvm the segment is the ROM, whose code has the signature too).
    ///
    /// # Errors
    /// Says what is malformed.
    pub fn read(vm: &mut Vm) -> Result<Option<Self>> {
        let segment = vm.memory(0xf_0000, 0x1_0000)?;
        for at in (0..segment.len()).step_by(16) {
            let rest = &segment[at..];
            if rest.starts_with(b"_SM3_") {
                let len = usize::from(rest.u8(6)?);
                if len != 24 || sum(&rest[..len]) != 0 {
                    continue;
                }
                let table = vm.memory(rest.u64(16)?, rest.u32(12)? as usize)?;
                let structures = walk(&table, None)?;
                return Ok(Some(Self {
                    anchor: "_SM3_",
                    structures,
                }));
            }
            if rest.starts_with(b"_SM_") {
                let len = usize::from(rest.u8(5)?);
                if len != 31 || sum(&rest[..len]) != 0 {
                    continue;
                }
                ensure!(rest[16..].starts_with(b"_DMI_"), "no _DMI_ at {at:#x}");
                ensure!(sum(&rest[16..31]) == 0, "checksum of _DMI_ at {at:#x}");
                let table = vm.memory(u64::from(rest.u32(24)?), rest.u16(22)?.into())?;
                let structures = walk(&table, Some(rest.u16(28)?.into()))?;
                let most = rest.u16(8)?;
                for one in &structures {
                    let len: usize = one.strings.iter().map(|s| s.len() + 1).sum();
                    ensure!(
                        one.bytes.len() + len.max(1) < usize::from(most) + 1,
                        "type {} is larger than the largest ({most})",
                        one.kind
                    );
                }
                return Ok(Some(Self {
                    anchor: "_SM_",
                    structures,
                }));
            }
        }
        Ok(None)
    }

    /// There is one type 0, the firmware's or the user's.
    ///
    /// # Errors
    /// There is none, or another.
    pub fn check_one_type_0(&self) -> Result<()> {
        let all = self.structures.iter().filter(|one| one.kind == 0);
        let count = all.count();
        ensure!(count == 1, "{count} of type 0");
        Ok(())
    }

    /// The first structure of this type.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, kind: u8) -> Result<&Structure> {
        let kinds: Vec<_> = self.structures.iter().map(|one| one.kind).collect();
        self.structures
            .iter()
            .find(|one| one.kind == kind)
            .with_context(|| format!("no type {kind} among {kinds:?}"))
    }
}

/// Walks structures up to the end of table (type 127); `count` includes it.
fn walk(table: &[u8], count: Option<usize>) -> Result<Vec<Structure>> {
    let mut structures = Vec::new();
    let mut at = 0;
    loop {
        let kind = table.u8(at)?;
        let len = usize::from(table.u8(at + 1)?);
        ensure!(len >= 4, "type {kind} of {len} bytes");
        let bytes = table.get(at..at + len).context("a structure cut off")?;
        at += len;
        let mut strings = Vec::new();
        if table.u8(at)? == 0 {
            at += 1;
        }
        while table.u8(at)? != 0 {
            let rest = &table[at..];
            let end = rest
                .iter()
                .position(|byte| *byte == 0)
                .context("a string cut off")?;
            strings.push(String::from_utf8_lossy(&rest[..end]).into_owned());
            at += end + 1;
        }
        at += 1;
        if kind == 127 {
            break;
        }
        structures.push(Structure {
            kind,
            bytes: bytes.to_vec(),
            strings,
        });
        if structures.len() > 10_000 {
            bail!("structures without an end");
        }
    }
    if let Some(count) = count {
        ensure!(
            structures.len() + 1 == count,
            "{} structures, {count} announced",
            structures.len() + 1
        );
    }
    Ok(structures)
}
