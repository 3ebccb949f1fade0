//! What kernels see: those entered at their 16-bit code, and multiboot kernels.

use super::view::{Part, View, check_item};
use super::*;
use crate::kernel::realmode::LOW_KERNEL;

/// E820: base, end, type.
type Map = Vec<(u64, u64, u32)>;

/// The address of a 16-bit kernel's setup code, and the room for its stack and heap.
const fn segment(protocol: u16, loaded_high: bool) -> (u32, u16) {
    if loaded_high && protocol >= 0x202 {
        (0x1_0000, 0xe000)
    } else {
        (0x9_0000, 0x9800)
    }
}

/// KiB from 1 MiB on up to the first hole.
fn kib_above_1m(e820: &[(u64, u64, u32)]) -> u64 {
    let high = u64::from(layout::HIGH_RAM);
    let ram = e820
        .iter()
        .find(|(base, _, kind)| (*base, *kind) == (high, 1));
    // RAM above 4 GiB does not count.
    ram.map_or(0, |(_, end, _)| {
        let end = if *end >> 32 == 0 {
            *end
        } else {
            u64::from(layout::HIGH_RAM_END)
        };
        (end - high) >> 10
    })
}

/// The memory map of the multiboot information block at `info`, and the block's end.
fn block_map(bytes: &[u8], info: u32) -> core::result::Result<(Map, u32), String> {
    let word = |at| u32_at(bytes, at).ok_or("a short information block");
    let (len, map) = (word(44)?, word(48)?);
    let (end, name) = (map.wrapping_add(len), word(64)?);
    if map != info + 88 || name != end || len % 24 != 0 || len > 128 * 24 {
        return Err(format!(
            "{len} bytes of a map at {map:#x}, a name at {name:#x}"
        ));
    }
    let text = bytes.get((name - info) as usize..).unwrap_or(&[]);
    let name_len = text.iter().position(|byte| *byte == 0);
    let name_len = name_len.ok_or("an endless name")? as u32 + 1;
    let mut e820 = Vec::new();
    for at in (88..88 + len as usize).step_by(24) {
        let (base, len) = (u64_at(bytes, at + 4), u64_at(bytes, at + 12));
        let (base, len) = base.zip(len).ok_or("a short map")?;
        if word(at)? != 20 {
            return Err(format!("a map entry of {} bytes", word(at)?));
        }
        e820.push((base, base.wrapping_add(len), word(at + 20)?));
    }
    Ok((e820, end.wrapping_add(name_len)))
}

impl Guest {
    /// The RSDP, by a search.
    fn find_rsdp(&self) -> u32 {
        let f_segment = layout::F_TABLES;
        let bytes = self.machine.memory.peek(f_segment);
        let at = bytes
            .chunks_exact(16)
            .position(|b| b.starts_with(b"RSD PTR "));
        at.map_or(0, |at| f_segment.start() + at as u32 * 16)
    }

    /// INT 15h's answers, from the EBDA.
    fn view_ebda(&self) -> core::result::Result<Map, String> {
        let ebda = self.machine.memory.peek(layout::EBDA);
        let word = |at| u16_at(ebda, at).ok_or("no EBDA");
        if ebda.first() != Some(&1) {
            return Err("the EBDA does not say how long it is".into());
        }
        let count = usize::from(word(0x16)?);
        let map = ebda.get(0x20..0x20 + 20 * count);
        let map = map.ok_or_else(|| format!("{count} E820 entries in the EBDA"))?;
        let entry = |entry: &[u8]| {
            let (base, len) = (u64_at(entry, 0)?, u64_at(entry, 8)?);
            Some((base, base.wrapping_add(len), u32_at(entry, 16)?))
        };
        let e820: Option<Vec<_>> = map.chunks_exact(20).map(entry).collect();
        let e820 = e820.ok_or("a short E820 entry")?;
        let kib = kib_above_1m(&e820);
        let answers = [0x10, 0x12, 0x14].map(|at| word(at).map(u64::from));
        let below_16m = kib.min(15 << 10);
        if answers
            != [
                Ok(below_16m),
                Ok((kib - below_16m) >> 6),
                Ok(kib.min(63 << 10)),
            ]
        {
            return Err(format!("{kib} KiB above 1 MiB, but {answers:x?}"));
        }
        Ok(e820)
    }

    /// Checks that only some fields of the header have changed in the setup code.
    fn check_setup(&self, setup: &[u8], base: u32, stack: u16) -> core::result::Result<(), String> {
        let given = self.given();
        let mut expected = given.setup.to_vec();
        expected.resize(setup.len(), 0);
        let protocol = u16_at(&expected, 0x206).unwrap_or(0);
        let flags = expected[0x211];
        let mut put = |at: usize, bytes: &[u8]| {
            expected[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(0x210, &[0xb0]);
        // The initrd's fields are checked elsewhere.
        put(0x218, &setup[0x218..0x220]);
        if protocol >= 0x201 {
            put(0x211, &[flags | 0x80]);
            put(0x224, &(stack - 0x200).to_le_bytes());
        }
        if protocol >= 0x202 {
            put(0x228, &(base + u32::from(stack)).to_le_bytes());
        } else {
            put(0x20, &0xa33f_u16.to_le_bytes());
            put(0x22, &stack.to_le_bytes());
            // The setup code moves itself with the line.
            let moved = u16_at(setup, 0x212).unwrap_or(0);
            if usize::from(moved) <= usize::from(stack) + given.line.len() {
                return Err(format!("setup_move_size {moved:x} leaves the line out"));
            }
            put(0x212, &moved.to_le_bytes());
        }
        match (0..setup.len()).find(|at| setup[*at] != expected[*at]) {
            Some(at) => Err(format!("the setup code is another at {at:#x}")),
            None => Ok(()),
        }
    }

    pub(super) fn view_real_mode(
        &self,
        at: (u16, u16),
        low_kernel: Option<PhysRange>,
    ) -> core::result::Result<View, String> {
        let memory = &self.machine.memory;
        let file = self.given();
        // A transfer past its end gives zeroes.
        let mut given = file.setup.to_vec();
        given.resize(given.len().max(1024), 0);
        let protocol = u16_at(&given, 0x206).ok_or("no header")?;
        let flags = *given.get(0x211).ok_or("no header")?;
        let (base, stack) = segment(protocol, flags & 1 != 0);
        if (u32::from(at.0) << 4, at.1) != (base, stack) {
            return Err(format!("entered with {at:x?}, not {base:x} and {stack:x}"));
        }
        let sects = match given.get(0x1f1) {
            None | Some(0) => 4,
            Some(sects) => usize::from(*sects),
        };
        let len = (sects + 1) * 512;
        let segment = PhysRange::new(base, stack.into()).ok_or("the segment wraps")?;
        let setup = memory.peek(segment).get(..len);
        let setup = setup.ok_or("setup code beyond its stack")?;
        let word = |at| u32_at(setup, at).ok_or("a short header");
        let (initrd, line) = ((word(0x218)?, word(0x21c)?), base + u32::from(stack));
        self.check_setup(setup, base, stack)?;
        let part = |name, range| Part { name, range };
        let mut parts = std::vec![part("segment", segment)];
        let size = file.code_len;
        let loaded = match low_kernel {
            Some(range) => range,
            None => PhysRange::new(layout::HIGH_RAM, size).ok_or("the kernel wraps")?,
        };
        if loaded.len() != size || low_kernel.is_some() != (flags & 1 == 0) {
            return Err(format!("{size} bytes of a kernel at {loaded:x?}"));
        }
        check_item(memory.peek(loaded), &file.code, "kernel")?;
        let range = match low_kernel {
            Some(_) => loaded,
            None => self.running(loaded)?,
        };
        parts.push(part("kernel", range));
        if low_kernel.is_some() {
            let place = PhysRange::new(LOW_KERNEL.start(), size);
            let place = place.ok_or("the zImage's place wraps")?;
            parts.push(part("zImage's place", place));
        }
        Ok(View {
            parts,
            e820: self.view_ebda()?,
            line,
            initrd,
            rsdp: self.find_rsdp(),
            block: None,
            loaded: false,
        })
    }

    pub(super) fn view_multiboot(
        &self,
        entry: u32,
        info: u32,
    ) -> core::result::Result<View, String> {
        let memory = &self.machine.memory;
        let fw_cfg = &self.machine.fw_cfg;
        let number = |item| fw_cfg.number(item);
        let item = PhysRange::new(number(item::KERNEL_ADDR), number(item::KERNEL_SIZE));
        let item = item.ok_or("the kernel wraps")?;
        // Headers of an ELF file linked to 1 MiB are left out.
        let head = layout::HIGH_RAM.saturating_sub(item.start());
        let head = if head <= 4096 && head < item.len() {
            head
        } else {
            0
        };
        let load = PhysRange::between(item.start() + head, item.end());
        let load = load.ok_or("the kernel wraps")?;
        let code = fw_cfg.data(item::KERNEL_DATA);
        let code = code.get(head as usize..).unwrap_or(&[]);
        check_item(memory.peek(load), code, "kernel")?;
        if entry < load.start() || entry >= load.end() {
            return Err(format!("entered at {entry:#x}, outside of {load:x?}"));
        }

        let rest = PhysRange::between(info, layout::EBDA.start().max(info));
        let bytes = memory.peek(rest.ok_or("no information block")?);
        let word = |at| u32_at(bytes, at).ok_or("a short information block");
        // Memory, command line, modules, memory map, loader's name.
        if word(0)? != 0x24d {
            return Err(format!("flags {:#x}", word(0)?));
        }
        let (e820, end) = block_map(bytes, info)?;
        if (u64::from(word(4)?), u64::from(word(8)?)) != (639, kib_above_1m(&e820)) {
            return Err(format!("{} and {} KiB of memory", word(4)?, word(8)?));
        }
        if self.view_ebda()? != e820 {
            return Err("INT 15h knows another memory map".into());
        }
        self.check_modules(load, [word(16)?, word(20)?, word(24)?])?;

        let block = PhysRange::between(info, end).ok_or("the block wraps")?;
        let part = |name, range| Part { name, range };
        let mut parts = std::vec![part("image", load), part("information block", block)];
        // The memory that the headers were read to.
        let mut touched = memory.touched.iter();
        let read = touched.find(|r| r.len() == head && r.end() <= layout::EBDA.start());
        if let Some(range) = read.filter(|range| !range.is_empty()) {
            parts.push(part("headers", *range));
        }
        Ok(View {
            parts,
            e820,
            line: word(16)?,
            initrd: (0, 0),
            rsdp: self.find_rsdp(),
            block: None,
            loaded: false,
        })
    }

    /// Command line, modules and their strings lie in the image, and are
    /// those that QEMU's draft names.
    fn check_modules(
        &self,
        load: PhysRange,
        [line, count, list]: [u32; 3],
    ) -> core::result::Result<(), String> {
        let draft = self.machine.fw_cfg.data(item::INITRD_DATA);
        let drafted = [16, 20, 24].map(|at| u32_at(draft, at).unwrap_or(0));
        if drafted != [line, count, list] {
            return Err(format!("{drafted:x?} became {:x?}", [line, count, list]));
        }
        let bytes = self.machine.memory.peek(load);
        let from = |at: u32| bytes.get(at.wrapping_sub(load.start()) as usize..);
        let is_text = |at: u32| from(at).is_some_and(|text| text.contains(&0));
        if !is_text(line) {
            return Err(format!("no command line at {line:#x}"));
        }
        for n in 0..count {
            let module = from(list.wrapping_add(16 * n)).unwrap_or(&[]);
            let word = |at| u32_at(module, at).ok_or("modules outside of the image");
            let range = PhysRange::between(word(0)?, word(4)?);
            if !range.is_some_and(|range| load.contains(range)) || !is_text(word(8)?) {
                return Err(format!("module {n} at {range:x?}"));
            }
        }
        Ok(())
    }
}
