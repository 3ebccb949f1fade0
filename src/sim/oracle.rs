//! The oracle: checks the machine at the end of a run.

mod realmode;
mod tables;
mod view;

use super::*;
use view::{Part, View};

impl Guest {
    /// Checks the end of a run.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self, result: Result<Handoff>) -> core::result::Result<(), String> {
        self.check_steps()?;
        match result {
            Err(error) => self.check_failure(error),
            Ok(_) if self.machine.memory.was_lied_to() => Ok(()),
            Ok(handoff) => self.check_success(handoff),
        }
    }

    /// A run has to end soon.
    fn check_steps(&self) -> core::result::Result<(), String> {
        let fw_cfg = &self.machine.fw_cfg;
        let script = fw_cfg.selector("etc/table-loader");
        let commands = script.map_or(0, |s| fw_cfg.data(s).len() / 128);
        // Each file may be an option, and pieces have at least a page.
        let files = fw_cfg.data(item::FILE_DIR).len() / 64;
        let most = 64 + files + 6 * commands + self.machine.memory.bytes.len() / 4096;
        if fw_cfg.transfers > most {
            return Err(format!("{} transfers, {most} expected", fw_cfg.transfers));
        }
        if self.machine.io.accesses > 2_000_000 {
            return Err(format!("{} register accesses", self.machine.io.accesses));
        }
        Ok(())
    }

    fn check_failure(&self, error: Error) -> core::result::Result<(), String> {
        if error.message().is_empty() || error.code() == 0 {
            return Err(format!("{error:?} says nothing"));
        }
        if error == Error::NotOurMemory && !self.machine.memory.was_lied_to() {
            return Err(format!(
                "memory that is not ours was asked for: {:x?}",
                self.machine.memory.refused
            ));
        }
        Ok(())
    }

    fn check_success(&self, handoff: Handoff) -> core::result::Result<(), String> {
        let memory = &self.machine.memory;
        let mut view = match handoff {
            Handoff::Linux { entry, boot_params } => self.view_linux(entry, boot_params)?,
            Handoff::Pvh { entry, start_info } => self.view_pvh(entry, start_info)?,
            Handoff::Multiboot { entry, info } => self.view_multiboot(entry, info)?,
            Handoff::RealMode {
                segment,
                stack,
                low_kernel,
            } => self.view_real_mode((segment, stack), low_kernel)?,
        };
        check_map(&view.e820)?;
        // QEMU gives a multiboot kernel's modules and line with its image.
        if !matches!(handoff, Handoff::Multiboot { .. }) {
            view.check_initrd(self)?;
            view.check_line(self)?;
        }
        if self.given().initrd.is_some() {
            view.parts.push(Part {
                name: "headers",
                range: uki::HEADERS,
            });
        }
        // The kernel gets RAM that nothing else uses, neither tables nor the EBDA.
        for (at, part) in view.parts.iter().enumerate() {
            if !view.is_ram(part.range) {
                return Err(format!(
                    "{} at {:x?} is not RAM in {:x?}",
                    part.name, part.range, view.e820
                ));
            }
            for other in view.parts.get(at + 1..).unwrap_or(&[]) {
                if part.range.overlaps(other.range) {
                    return Err(format!("{part:x?} and {other:x?} overlap"));
                }
            }
        }
        for range in &memory.touched {
            if !self.is_accounted_for(&view, *range) {
                return Err(format!("{range:x?} was used and is nobody's"));
            }
        }
        for (n, (addr, bytes)) in memory.loaded.iter().enumerate() {
            let there = PhysRange::new(*addr, bytes.len() as u32).map(|r| memory.peek(r));
            if there != Some(bytes) && !self.is_loaded_over(n) {
                return Err(format!("the segment at {addr:#x} was changed"));
            }
        }
        if self.genuine {
            self.check_tables(&view)?;
        }
        Ok(())
    }

    /// Whether another segment overlaps the `n`th: the one that was loaded last counts.
    fn is_loaded_over(&self, n: usize) -> bool {
        let loaded = &self.machine.memory.loaded;
        let range = |(addr, bytes): &(u32, Vec<u8>)| PhysRange::new(*addr, bytes.len() as u32);
        let this = loaded.get(n).and_then(range);
        loaded.iter().enumerate().any(|(other, segment)| {
            other != n && this.zip(range(segment)).is_some_and(|(x, y)| x.overlaps(y))
        })
    }

    fn is_accounted_for(&self, view: &View, range: PhysRange) -> bool {
        range.is_empty()
            || layout::F_TABLES.contains(range)
            || layout::OWN_SMBIOS.contains(range)
            // The firmware's own, reserved in the map.
            || layout::EBDA.contains(range)
            || view.parts.iter().any(|part| part.range.contains(range))
            // The command line and the block behind it are read as one.
            || view.block.is_some_and(|block| block.contains(range))
            || view.is_reserved(range)
            // The firmware reads notes where the headers say they lie.
            || view.loaded && self.is_note(range)
    }

    fn is_note(&self, range: PhysRange) -> bool {
        let headers = segments(self.machine.fw_cfg.data(item::SETUP_DATA));
        headers.iter().filter(|s| s.kind == 4).any(|s| {
            s.paddr == u64::from(range.start()) && u64::from(range.len()) == s.filesz.min(64 << 10)
        })
    }
}

fn check_map(e820: &[(u64, u64, u32)]) -> core::result::Result<(), String> {
    let mut end = 0;
    for (base, top, kind) in e820 {
        if *base < end || *top <= *base {
            return Err(format!("E820 is not sorted and disjoint: {e820:x?}"));
        }
        end = *top;
        let hole = layout::LEGACY_HOLE.start()..layout::F_SEGMENT.end();
        if *kind == 1 && *base < u64::from(hole.end) && *top > u64::from(hole.start) {
            return Err(format!("E820 has RAM in the legacy hole: {e820:x?}"));
        }
    }
    Ok(())
}
