//! Checks ACPI and SMBIOS tables from their entry points on.

use super::*;

impl Guest {
    /// Checks that every checksum of QEMU's tables is right, and that every table lies
    /// in reserved memory.
    pub(super) fn check_tables(&self, view: &View) -> core::result::Result<(), String> {
        let memory = &self.machine.memory;
        let at = |addr: u32, len: u32| match PhysRange::new(addr, len) {
            Some(range) if layout::F_TABLES.contains(range) || view.is_reserved(range) => {
                Ok(memory.peek(range))
            }
            _ => Err(format!("a table at {addr:#x}, {len} bytes: not reserved")),
        };
        if view.rsdp == 0 {
            return Err("no RSDP".into());
        }
        let rsdp = at(view.rsdp, 20)?;
        if !rsdp.starts_with(b"RSD PTR ") || byte_sum(rsdp) != 0 {
            return Err("the RSDP is not one".into());
        }
        let table = |addr: u32| {
            let len = u32_at(at(addr, 36)?, 4).unwrap_or(0);
            let table = at(addr, len)?;
            match (byte_sum(table), u32_at(table, 0)) {
                (0, Some(signature)) => Ok((signature, table)),
                _ => Err(format!("the table at {addr:#x} has a wrong checksum")),
            }
        };
        let is = |signature: u32, name: &[u8; 4]| signature == u32::from_le_bytes(*name);
        let (pointers, width) = if rsdp[15] >= 2 {
            let whole = at(view.rsdp, 36)?;
            if byte_sum(whole) != 0 {
                return Err("the RSDP's extended checksum is wrong".into());
            }
            (u64_at(whole, 24).unwrap_or(0), 8)
        } else {
            (u64::from(u32_at(rsdp, 16).unwrap_or(0)), 4)
        };
        let root = u32::try_from(pointers).map_err(|_| "an XSDT above 4 GiB")?;
        let (signature, root) = table(root)?;
        if !is(signature, b"RSDT") && !is(signature, b"XSDT") {
            return Err("the RSDP points to something else".into());
        }
        let mut seen = 0;
        for pointer in root[36..].chunks_exact(width) {
            let (signature, bytes) = table(u32_at(pointer, 0).unwrap_or(0))?;
            if is(signature, b"FACP") {
                let dsdt = u32_at(bytes, 40).unwrap_or(0);
                let (signature, _) = table(dsdt)?;
                if !is(signature, b"DSDT") {
                    return Err("the FADT points to no DSDT".into());
                }
            }
            seen += 1;
        }
        if seen == 0 {
            return Err("a root table without tables".into());
        }
        self.check_smbios(view)
    }

    fn check_smbios(&self, view: &View) -> core::result::Result<(), String> {
        let fw_cfg = &self.machine.fw_cfg;
        if fw_cfg.selector("etc/smbios/smbios-anchor").is_none() {
            return Ok(());
        }
        let segment = self.machine.memory.peek(layout::F_TABLES);
        for chunk in segment.chunks(16).enumerate() {
            let rest = &segment[chunk.0 * 16..];
            let (start, len, entry) = if rest.starts_with(b"_SM3_") {
                (u32_at(rest, 16), u32_at(rest, 12), rest.get(..24))
            } else if rest.starts_with(b"_SM_") {
                let len = u16_at(rest, 0x16).map(u32::from);
                (u32_at(rest, 0x18), len, rest.get(..31))
            } else {
                continue;
            };
            let (Some(start), Some(len), Some(entry)) = (start, len, entry) else {
                return Err("a cut SMBIOS entry point".into());
            };
            let range = PhysRange::new(start, len).ok_or("SMBIOS structures wrap")?;
            if byte_sum(entry) != 0 {
                return Err("the SMBIOS entry point's checksum is wrong".into());
            }
            if !layout::F_TABLES.contains(range) && !view.is_reserved(range) {
                return Err(format!("SMBIOS structures at {range:x?}"));
            }
            return Ok(());
        }
        Err("no SMBIOS entry point in the F segment".into())
    }
}
