//! What a kernel sees, read from the block that it gets.

use super::*;

#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) name: &'static str,
    pub(super) range: PhysRange,
}

/// What a kernel sees.
pub(super) struct View {
    pub(super) parts: Vec<Part>,
    /// Base, end, type.
    pub(super) e820: Vec<(u64, u64, u32)>,
    pub(super) line: u32,
    pub(super) initrd: (u32, u32),
    pub(super) rsdp: u32,
    /// The command line, and the memory cleared with it.
    pub(super) block: Option<PhysRange>,
    /// Whether QEMU had loaded the kernel.
    pub(super) loaded: bool,
}

impl View {
    pub(super) fn is_kind(&self, range: PhysRange, kind: u32) -> bool {
        let (start, end) = (u64::from(range.start()), u64::from(range.end()));
        let mut at = start;
        for (base, top, k) in &self.e820 {
            if *k == kind && *base <= at && *top > at {
                at = *top;
            }
        }
        at >= end
    }

    /// Whether `range` is reserved above 1 MiB, as memory for tables is.
    pub(super) fn is_reserved(&self, range: PhysRange) -> bool {
        range.start() >= layout::HIGH_RAM && self.is_kind(range, 2)
    }

    pub(super) fn is_ram(&self, range: PhysRange) -> bool {
        self.is_kind(range, 1)
    }

    pub(super) fn check_initrd(&mut self, guest: &Guest) -> core::result::Result<(), String> {
        let fw_cfg = &guest.machine.fw_cfg;
        let file = guest.given();
        // A bzImage's header tells whether there is an initrd.
        let announced = self.loaded || u32_at(&file.setup, 0x21c).is_some_and(|n| n != 0);
        let given = match &file.initrd {
            Some(initrd) => initrd.len() as u32,
            None if announced => fw_cfg.number(item::INITRD_SIZE),
            None => 0,
        };
        let (start, len) = self.initrd;
        if len != given {
            return Err(format!("an initrd of {len} bytes instead of {given}"));
        }
        if len == 0 {
            return Ok(());
        }
        let range = PhysRange::new(start, len).ok_or("the initrd wraps")?;
        let there = guest.machine.memory.peek(range);
        let initrd = file.initrd.as_deref();
        let initrd = initrd.unwrap_or(fw_cfg.data(item::INITRD_DATA));
        check_item(there, initrd, "initrd")?;
        self.parts.push(Part {
            name: "initrd",
            range,
        });
        Ok(())
    }

    pub(super) fn check_line(&mut self, guest: &Guest) -> core::result::Result<(), String> {
        let memory = &guest.machine.memory;
        let given = guest.given().line;
        let len = given.len() as u32 + 1;
        let range = PhysRange::new(self.line, len).ok_or("the command line wraps")?;
        let there = memory.peek(range);
        if there.split_last() != Some((&0, given.as_slice())) {
            return Err("the command line is not as the host gave it".into());
        }
        // All memory that was claimed for it.
        let mut touched = memory.touched.iter();
        let claimed = touched.find(|r| r.contains(range) && r.start() == self.line);
        let claimed = claimed.copied().unwrap_or(range);
        let range = match self.block {
            Some(_) => range,
            None => claimed,
        };
        self.parts.push(Part {
            name: "command line",
            range,
        });
        Ok(())
    }
}

impl Guest {
    pub(super) fn view_linux(&self, entry: u32, page: u32) -> core::result::Result<View, String> {
        let memory = &self.machine.memory;
        let page_range = PhysRange::new(page, 4096).ok_or("the zero page wraps")?;
        let page = memory.peek(page_range);
        let word = |at| u32_at(page, at).ok_or("a short zero page");
        let count = usize::from(*page.get(0x1e8).ok_or("a short zero page")?);
        let map = page.get(0x2d0..0x2d0 + count * 20);
        let map = map.ok_or_else(|| format!("{count} E820 entries"))?;
        let e820 = map.chunks_exact(20).map(|entry| {
            let base = u64_at(entry, 0).unwrap_or(0);
            let len = u64_at(entry, 8).unwrap_or(0);
            (base, base.wrapping_add(len), u32_at(entry, 16).unwrap_or(0))
        });
        let e820: Vec<_> = e820.collect();
        if word(0x202)? != u32::from_le_bytes(*b"HdrS") || page[0x210] != 0xb0 {
            return Err("no setup header in the zero page".into());
        }
        if word(0x214)? != entry {
            return Err("code32_start is not the entry".into());
        }

        let given = self.given();
        let load = PhysRange::new(entry, given.code_len).ok_or("the kernel wraps")?;
        check_item(memory.peek(load), &given.code, "kernel")?;
        let kernel = self.running(load)?;
        let line = word(0x228)?;
        let (initrd, initrd_len) = (word(0x218)?, word(0x21c)?);
        let block = PhysRange::between(line, page_range.end());
        Ok(View {
            parts: std::vec![
                Part {
                    name: "kernel",
                    range: kernel
                },
                Part {
                    name: "zero page",
                    range: page_range
                },
            ],
            e820,
            line,
            initrd: (initrd, initrd_len),
            rsdp: word(0x70)?,
            block,
            loaded: false,
        })
    }

    /// The memory that a bzImage at `load` uses before it reads the memory map.
    pub(super) fn running(&self, load: PhysRange) -> core::result::Result<PhysRange, String> {
        let mut run_end = load.end();
        let setup = &*self.given().setup;
        let protocol = u16_at(setup, 0x206).unwrap_or(0);
        let header_end = 0x202 + usize::from(*setup.get(0x201).unwrap_or(&0));
        if protocol >= 0x20a && header_end >= 0x264 {
            // As Linux computes it at its entry (head_64.S).
            let align = u64::from(u32_at(setup, 0x230).unwrap_or(1)).max(1);
            let pref = u64_at(setup, 0x258).unwrap_or(0);
            let init_size = u64::from(u32_at(setup, 0x260).unwrap_or(0));
            let start = u64::from(load.start()).next_multiple_of(align).max(pref);
            let end = start + init_size;
            run_end = run_end.max(u32::try_from(end).map_err(|_| "the kernel runs above 4 GiB")?);
        }
        Ok(PhysRange::between(load.start(), run_end).ok_or("the kernel wraps")?)
    }

    /// What QEMU has loaded, as ranges that do not touch; `entry` is in one.
    fn loaded_segments(&self, entry: u32) -> core::result::Result<Vec<PhysRange>, String> {
        let fw_cfg = &self.machine.fw_cfg;
        let setup = fw_cfg.data(item::SETUP_DATA);
        let number = |item| fw_cfg.number(item);
        let span = PhysRange::new(number(item::KERNEL_ADDR), number(item::KERNEL_SIZE));
        let headers = segments(setup);
        let loads = headers.iter().filter(|s| s.kind == 1 && s.memsz != 0);
        let held: Option<Vec<PhysRange>> = loads
            .map(|s| PhysRange::new(u32::try_from(s.paddr).ok()?, u32::try_from(s.memsz).ok()?))
            .collect();
        // The items are right; headers that contradict them are overwritten.
        let whole = held.as_ref().and_then(|held| {
            let start = held.iter().map(|r| r.start()).min()?;
            PhysRange::between(start, held.iter().map(|r| r.end()).max()?)
        });
        // If some headers lie behind the part that QEMU hands on, the firmware holds
        // the whole span.
        let is_elf = setup.starts_with(b"\x7fELF") && has_all_headers(setup);
        let mut held = match (held, span) {
            (Some(held), Some(span))
                if is_elf && span.start() < layout::HIGH_RAM && whole == Some(span) =>
            {
                held
            }
            (_, Some(span)) => std::vec![span],
            _ => return Err("the kernel wraps".into()),
        };
        // What lies between two of them in one part of RAM is theirs too.
        let parts = [layout::LOW_FREE, layout::LOW_FREE_TOP];
        let part = |range: &PhysRange| parts.iter().position(|part| part.contains(*range));
        held.sort_by_key(|r| (r.start(), r.end()));
        let mut merged: Vec<PhysRange> = Vec::new();
        for range in held {
            match merged.last_mut() {
                Some(last) if part(last) == part(&range) => {
                    *last = PhysRange::between(last.start(), last.end().max(range.end()))
                        .ok_or("a segment wraps")?;
                }
                _ => merged.push(range),
            }
        }
        let inside = |r: &PhysRange| r.start() <= entry && entry < r.end();
        if !merged.iter().any(inside) {
            return Err(format!("the entry {entry:#x} is in no segment"));
        }
        Ok(merged)
    }

    #[expect(clippy::too_many_lines, reason = "one field after the other")]
    pub(super) fn view_pvh(&self, entry: u32, info: u32) -> core::result::Result<View, String> {
        let memory = &self.machine.memory;
        let end = PhysRange::between(info, 0xa_0000.max(info)).ok_or("start_info wraps")?;
        let bytes = memory.peek(end);
        let word = |at| u32_at(bytes, at).ok_or("a short start_info");
        let address = |at| match u64_at(bytes, at).map(u32::try_from) {
            Some(Ok(address)) => Ok(address),
            _ => Err(format!(
                "the address at {at:#x} of start_info is above 4 GiB"
            )),
        };
        if word(0)? != 0x336e_c578 || word(4)? != 1 {
            return Err("no start_info".into());
        }
        let (modules, modlist) = (word(12)?, address(16)?);
        let (line, memmap, entries) = (address(24)?, address(40)?, word(48)?);
        let len = 56 + 32 + entries * 24;
        if memmap != info + 88 || modules > 1 || entries > 128 {
            return Err(format!(
                "{modules} modules, {entries} entries at {memmap:#x}"
            ));
        }
        let mut e820 = Vec::new();
        for i in 0..entries as usize {
            let at = 88 + 24 * i;
            let base = u64_at(bytes, at).ok_or("a short map")?;
            let len = u64_at(bytes, at + 8).ok_or("a short map")?;
            e820.push((base, base.wrapping_add(len), word(at + 16)?));
            if word(at + 20)? != 0 {
                return Err(format!("entry {i} has something in its reserved word"));
            }
        }
        // Flags and the reserved word; all of a missing module's entry.
        let unused = [8, 52]
            .into_iter()
            .chain(56..if modules == 0 { 88 } else { 56 });
        for at in unused.filter(|at: &usize| at.is_multiple_of(4)) {
            if word(at)? != 0 {
                return Err(format!("start_info has something at {at:#x}"));
            }
        }
        let initrd = if modules == 1 {
            if modlist != info + 56 {
                return Err(format!("modules at {modlist:#x}"));
            }
            (address(56)?, address(64)?)
        } else {
            (0, 0)
        };
        let mut parts = std::vec![Part {
            name: "start_info",
            range: PhysRange::new(info, len).ok_or("start_info wraps")?,
        }];
        let merged = self.loaded_segments(entry)?;
        parts.extend(merged.into_iter().map(|range| Part {
            name: "segment",
            range,
        }));
        Ok(View {
            parts,
            e820,
            line,
            initrd,
            rsdp: address(32)?,
            // The line and room for an ordinary start_info were read as one.
            block: memory.touched.iter().find(|r| r.start() == line).copied(),
            loaded: true,
        })
    }
}

/// Whether `there` is the item, and zeroes behind its end.
pub(super) fn check_item(
    there: &[u8],
    item: &[u8],
    name: &str,
) -> core::result::Result<(), String> {
    let len = item.len().min(there.len());
    // The beginning of the zeroes is enough.
    let mut behind = there[len..].iter().take(1 << 16);
    if there[..len] != item[..len] || behind.any(|b| *b != 0) {
        return Err(format!("the {name} is not as the host gave it"));
    }
    Ok(())
}
