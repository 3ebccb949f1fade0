//! ACPI tables as a kernel finds them: every pointer followed, every checksum added up.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use xtask::qemu::Vm;

use crate::handover::Handover;
use crate::{Field, sum};

/// The first table of each signature.
#[derive(Clone, Debug, Default)]
pub struct Tables(BTreeMap<String, Vec<u8>>);

impl Tables {
    /// Reads everything reachable from the RSDP, and checks it.
    ///
    /// # Errors
    /// Says which checksum, pointer or place is wrong.
    pub fn read(vm: &mut Vm, handover: &Handover) -> Result<Self> {
        ensure!(handover.rsdp != 0, "no RSDP was handed over");
        let mut this = Self::default();
        let root = self::root(vm, handover.rsdp).context("RSDP")?;
        // Kernels without a pointer scan for it (ACPI 5.2.5.1).
        let segment = vm.memory(0xf_0000, 0x1_0000)?;
        let copies: Vec<_> = (0..segment.len())
            .step_by(16)
            .filter(|at| segment.get(*at..*at + 8) == Some(b"RSD PTR ".as_slice()))
            .collect();
        ensure!(copies.len() == 1, "RSDPs in the F segment: {copies:x?}");
        let found = self::root(vm, 0xf_0000 + copies[0] as u64)?;
        ensure!(found == root, "two RSDPs that differ");

        let (addr, wide) = root;
        let signature = if wide { "XSDT" } else { "RSDT" };
        let bytes = this.table(vm, handover, addr, Some(signature))?;
        let step = if wide { 8 } else { 4 };
        for entry in bytes[36..].chunks_exact(step) {
            let addr = if wide {
                entry.u64(0)?
            } else {
                u64::from(entry.u32(0)?)
            };
            let bytes = this
                .table(vm, handover, addr, None)
                .with_context(|| format!("entry of the {signature}"))?;
            if bytes.starts_with(b"FACP") {
                this.fixed(vm, handover, &bytes).context("FADT")?;
            }
        }
        Ok(this)
    }

    /// FACS and DSDT behind the FADT's pointers (ACPI 5.2.9).
    fn fixed(&mut self, vm: &mut Vm, handover: &Handover, fadt: &[u8]) -> Result<()> {
        let wide = |at: usize| fadt.u64(at).unwrap_or_default();
        let dsdt = match (fadt.u32(40)?, wide(140)) {
            (0, 0) => bail!("no DSDT"),
            (0, addr) => addr,
            (addr, 0) => u64::from(addr),
            (addr, other) => {
                ensure!(u64::from(addr) == other, "two DSDTs that differ");
                other
            }
        };
        self.table(vm, handover, dsdt, Some("DSDT"))?;
        let facs = match fadt.u32(36)? {
            0 => wide(132),
            addr => u64::from(addr),
        };
        // Hardware-reduced machines (microvm) have no FACS.
        if facs != 0 {
            let bytes = vm.memory(facs, 64)?;
            ensure!(bytes.starts_with(b"FACS"), "no FACS at {facs:#x}");
            ensure!(facs.is_multiple_of(64), "FACS at {facs:#x}");
            check_place(handover, facs, u64::from(bytes.u32(4)?))?;
            self.0.insert("FACS".to_owned(), bytes);
        }
        Ok(())
    }

    fn table(
        &mut self,
        vm: &mut Vm,
        handover: &Handover,
        addr: u64,
        signature: Option<&str>,
    ) -> Result<Vec<u8>> {
        let head = vm.memory(addr, 36)?;
        let name = String::from_utf8_lossy(&head[..4]).into_owned();
        ensure!(
            signature.is_none_or(|signature| signature == name),
            "{name:?} at {addr:#x} instead of {signature:?}"
        );
        let len = head.u32(4)?;
        ensure!((36..4 << 20).contains(&len), "{name} of {len} bytes");
        let bytes = vm.memory(addr, len as usize)?;
        ensure!(sum(&bytes) == 0, "checksum of {name} at {addr:#x}");
        check_place(handover, addr, u64::from(len)).with_context(|| name.clone())?;
        self.0.entry(name).or_insert_with(|| bytes.clone());
        Ok(bytes)
    }

    /// The one table with this signature.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, signature: &str) -> Result<&[u8]> {
        let table = self.0.get(signature);
        table
            .with_context(|| format!("no {signature} among {:?}", self.0.keys()))
            .map(Vec::as_slice)
    }

    /// Processors that the MADT lists as present: local APICs and x2APICs.
    ///
    /// # Errors
    /// There is no MADT, or it is malformed.
    pub fn processors(&self) -> Result<usize> {
        let madt = self.get("APIC")?;
        let mut at = 44;
        let mut count = 0;
        while at < madt.len() {
            let (kind, len) = (madt.u8(at)?, usize::from(madt.u8(at + 1)?));
            ensure!(len >= 2, "an entry of {len} bytes");
            let enabled = match kind {
                0 => madt.u32(at + 4)? & 1,
                9 => madt.u32(at + 8)? & 1,
                _ => 0,
            };
            count += enabled as usize;
            at += len;
        }
        Ok(count)
    }
}

/// The RSDT's or XSDT's address, and whether it is an XSDT.
fn root(vm: &mut Vm, rsdp: u64) -> Result<(u64, bool)> {
    let bytes = vm.memory(rsdp, 36)?;
    ensure!(bytes.starts_with(b"RSD PTR "), "no signature at {rsdp:#x}");
    ensure!(sum(&bytes[..20]) == 0, "checksum at {rsdp:#x}");
    let revision = bytes[15];
    if revision < 2 {
        return Ok((u64::from(bytes.u32(16)?), false));
    }
    ensure!(bytes.u32(20)? == 36, "length {}", bytes.u32(20)?);
    ensure!(sum(&bytes) == 0, "extended checksum at {rsdp:#x}");
    Ok((bytes.u64(24)?, true))
}

/// Tables lie where the memory map keeps the kernel from allocating: in ACPI (3), NVS (4)
/// or reserved (2) memory.
fn check_place(handover: &Handover, addr: u64, len: u64) -> Result<()> {
    let kind = handover.kind_of(&(addr..addr + len));
    ensure!(
        matches!(kind, Some(2..=4)),
        "{len:#x} bytes at {addr:#x} in memory of type {kind:?}: {:#x?}",
        handover.e820
    );
    Ok(())
}
