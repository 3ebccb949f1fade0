//! What a kernel is handed: the zero page or `start_info`, read from the guest's
//! memory and checked against the protocol. Their structures are `linux-loader`'s,
//! with which Firecracker and Cloud Hypervisor boot kernels.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use linux_loader::bootparam::boot_params;
use linux_loader::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::ByteValued;
use xtask::probe::Record;
use xtask::qemu::Vm;

use crate::Kind;

/// One entry of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// First byte.
    pub addr: u64,
    /// Bytes.
    pub len: u64,
    /// E820 type: 1 is RAM.
    pub kind: u32,
}

impl Entry {
    fn end(&self) -> u64 {
        self.addr.saturating_add(self.len)
    }
}

/// What a kernel was handed.
#[derive(Clone, Debug)]
pub struct Handover {
    /// Registers at entry.
    pub record: Record,
    /// Base and limit in the task register, which no instruction tells.
    pub task: (u32, u32),
    /// How it was entered.
    pub kind: Kind,
    /// The zero page; empty for other kinds than a bzImage.
    pub zero_page: Vec<u8>,
    /// The memory map.
    pub e820: Vec<Entry>,
    /// The RSDP's address, 0 without one.
    pub rsdp: u64,
    /// Address of the command line.
    pub cmdline_addr: u64,
    /// Command line without its NUL.
    pub cmdline: Vec<u8>,
    /// Where the initrd lies, when there is one.
    pub initrd: Option<Range<u64>>,
    /// The structures that the firmware built for the kernel, by name.
    pub structures: Vec<(&'static str, Range<u64>)>,
}

/// Longest command line that is looked for.
const CMDLINE_MAX: usize = 0x1_0000;

impl Handover {
    /// Follows the pointers in the registers.
    ///
    /// # Errors
    /// A structure is malformed.
    pub fn read(vm: &mut Vm, kind: Kind, record: Record) -> Result<Self> {
        let mut this = Self {
            record,
            task: task_register(&vm.monitor("info registers")?)?,
            kind,
            zero_page: Vec::new(),
            e820: Vec::new(),
            rsdp: 0,
            cmdline_addr: 0,
            cmdline: Vec::new(),
            initrd: None,
            structures: Vec::new(),
        };
        match kind {
            Kind::BzImage => this.read_zero_page(vm)?,
            Kind::Pvh => this.read_start_info(vm)?,
            Kind::Multiboot => {}
        }
        if this.cmdline_addr != 0 {
            let mut bytes = vm.memory(this.cmdline_addr, CMDLINE_MAX)?;
            let len = bytes
                .iter()
                .position(|byte| *byte == 0)
                .context("a command line without its NUL")?;
            bytes.truncate(len);
            let end = this.cmdline_addr + len as u64 + 1;
            this.structures
                .push(("command line", this.cmdline_addr..end));
            this.cmdline = bytes;
        }
        Ok(this)
    }

    fn read_zero_page(&mut self, vm: &mut Vm) -> Result<()> {
        let addr = u64::from(self.record.esi);
        let page: boot_params = read(vm, addr)?;
        self.structures.push(("zero page", addr..addr + 4096));
        let table = page.e820_table;
        let entries = &table[..page.e820_entries.into()];
        self.e820.extend(entries.iter().map(|entry| Entry {
            addr: entry.addr,
            len: entry.size,
            kind: entry.r#type,
        }));
        self.rsdp = page.acpi_rsdp_addr;
        let wide = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        self.cmdline_addr = wide(page.hdr.cmd_line_ptr, page.ext_cmd_line_ptr);
        let start = wide(page.hdr.ramdisk_image, page.ext_ramdisk_image);
        let len = wide(page.hdr.ramdisk_size, page.ext_ramdisk_size);
        self.initrd = (len != 0).then_some(start..start + len);
        self.zero_page = page.as_slice().to_vec();
        Ok(())
    }

    fn read_start_info(&mut self, vm: &mut Vm) -> Result<()> {
        let addr = u64::from(self.record.ebx);
        let info: hvm_start_info = read(vm, addr)?;
        self.structures.push(("start_info", addr..addr + 56));
        ensure!(
            (info.magic, info.version, info.flags, info.reserved) == (0x336e_c578, 1, 0, 0),
            "{info:x?}"
        );
        self.cmdline_addr = info.cmdline_paddr;
        self.rsdp = info.rsdp_paddr;
        let mut at = info.memmap_paddr;
        let end = at + u64::from(info.memmap_entries) * 24;
        self.structures.push(("memory map", at..end));
        while at < end {
            let entry: hvm_memmap_table_entry = read(vm, at)?;
            ensure!(entry.reserved == 0, "{entry:x?}");
            self.e820.push(Entry {
                addr: entry.addr,
                len: entry.size,
                kind: entry.type_,
            });
            at += 24;
        }
        ensure!(info.nr_modules <= 1, "{} modules", info.nr_modules);
        if info.nr_modules == 1 {
            let list = info.modlist_paddr;
            self.structures.push(("module list", list..list + 32));
            let module: hvm_modlist_entry = read(vm, list)?;
            ensure!((module.cmdline_paddr, module.reserved) == (0, 0));
            self.initrd = Some(module.paddr..module.paddr + module.size);
        }
        Ok(())
    }

    /// The processor's state at entry, as the protocols demand it and we add to it:
    /// flat 32-bit segments, FS and GS too; in the control registers and EFLAGS
    /// nothing but protected mode and what an addition leaves; a task register as
    /// PVH wants it; no interrupt table. For a bzImage the selectors 0x10 and 0x18
    /// and zeroes in EBX, EBP and EDI (Linux boot protocol, "32-bit boot protocol";
    /// Xen `docs/misc/pvh.pandoc`), for multiboot 0x08 and 0x10 as in QEMU's loader.
    ///
    /// # Errors
    /// Says which register is wrong.
    pub fn check_registers(&self) -> Result<()> {
        /// Carry, parity, adjust, zero, sign, overflow.
        const ARITHMETIC: u32 = 0x8d5;
        let r = &self.record;
        let all = || format!("{r:#x?}");
        ensure!(r.cr0 == 0x11 && r.cr4 == 0, "CR0, CR4: {}", all());
        ensure!(r.eflags & !ARITHMETIC == 2, "EFLAGS: {}", all());
        ensure!(self.task == (0, 0x67), "TR {:x?}", self.task);
        ensure!(r.idtr_limit == 0, "an interrupt table: {}", all());
        // As a reset leaves it: no register of x87 or MMX in use.
        let is_reset = |x87| x87 == (0x37f, 0xffff);
        ensure!(r.x87.is_none_or(is_reset), "x87 {:x?}", r.x87);
        flat(r.code_descriptor, 0x9a).with_context(|| format!("CS: {}", all()))?;
        flat(r.data_descriptor, 0x92).with_context(|| format!("DS: {}", all()))?;
        let data = [r.es, r.ss, r.fs, r.gs];
        ensure!(data == [r.ds; 4], "ES, SS, FS, GS: {}", all());
        match self.kind {
            Kind::BzImage => {
                ensure!(r.cs == 0x10 && r.ds == 0x18, "selectors: {}", all());
                ensure!(
                    r.ebx == 0 && r.ebp == 0 && r.edi == 0,
                    "EBX, EBP, EDI: {}",
                    all()
                );
            }
            Kind::Pvh => {}
            Kind::Multiboot => {
                ensure!(r.cs == 0x08 && r.ds == 0x10, "selectors: {}", all());
                ensure!(r.eax == 0x2bad_b002, "EAX: {}", all());
            }
        }
        Ok(())
    }

    /// The memory map: sorted, disjoint, no empty entry, all of RAM minus at
    /// most 2 MiB, and nothing above what the machine has.
    ///
    /// # Errors
    /// Says what is wrong with which entries.
    pub fn check_e820(&self, memory_mib: u64) -> Result<()> {
        let map = || format!("{:#x?}", self.e820);
        ensure!(!self.e820.is_empty(), "no memory map");
        for pair in self.e820.windows(2) {
            if let [a, b] = pair {
                ensure!(
                    a.end() <= b.addr,
                    "not sorted or not disjoint: {a:x?} {b:x?}"
                );
            }
        }
        let empty = self.e820.iter().any(|entry| entry.len == 0);
        ensure!(!empty, "an empty entry: {}", map());
        let ram: u64 = self.ram().map(|entry| entry.len).sum();
        let whole = memory_mib << 20;
        ensure!(
            ram <= whole && ram + (2 << 20) >= whole,
            "{ram:#x} bytes of RAM of {whole:#x}: {}",
            map()
        );
        Ok(())
    }

    fn ram(&self) -> impl Iterator<Item = &Entry> {
        self.e820.iter().filter(|entry| entry.kind == 1)
    }

    /// The E820 type that covers a range, when one entry does.
    #[must_use]
    pub fn kind_of(&self, range: &Range<u64>) -> Option<u32> {
        self.e820
            .iter()
            .find(|entry| entry.addr <= range.start && range.end <= entry.end())
            .map(|entry| entry.kind)
    }

    /// Kernel, initrd and structures: each in RAM, none over another.
    ///
    /// # Errors
    /// Says which are where they must not be.
    pub fn check_placement(&self, kernel: Range<u64>) -> Result<()> {
        let mut all = self.structures.clone();
        all.push(("kernel", kernel));
        if let Some(initrd) = &self.initrd {
            all.push(("initrd", initrd.clone()));
        }
        all.sort_by_key(|(_, range)| range.start);
        for pair in all.windows(2) {
            if let [(a, ra), (b, rb)] = pair {
                ensure!(ra.end <= rb.start, "{a} {ra:x?} over {b} {rb:x?}");
            }
        }
        for (name, range) in &all {
            // A structure may also lie in memory that the map reserves; the
            // kernel and the initrd are the kernel's own to free.
            if matches!(*name, "kernel" | "initrd") {
                ensure!(
                    self.kind_of(range) == Some(1),
                    "{name} {range:x?} not in RAM: {:#x?}",
                    self.e820
                );
            }
        }
        Ok(())
    }
}

/// A structure in the guest's memory.
fn read<T: ByteValued + Default>(vm: &mut Vm, addr: u64) -> Result<T> {
    let mut value = T::default();
    let bytes = vm.memory(addr, size_of::<T>())?;
    value.as_mut_slice().copy_from_slice(&bytes);
    Ok(value)
}

/// Base and limit of the task register, as QEMU's monitor shows it.
fn task_register(registers: &str) -> Result<(u32, u32)> {
    let (_, task) = registers.split_once("\nTR =").context("no TR")?;
    let mut words = task.split_whitespace().skip(1);
    let mut next = || -> Result<u32> {
        let word = words.next().context("a short line of TR")?;
        Ok(u32::from_str_radix(word, 16)?)
    };
    Ok((next()?, next()?))
}

/// A flat 4 GiB segment, present, of this access byte but for the accessed bit.
fn flat(descriptor: u64, access: u64) -> Result<()> {
    let base = descriptor >> 16 & 0xff_ffff | descriptor >> 56 << 24;
    let limit = descriptor & 0xffff | (descriptor >> 48 & 0xf) << 16;
    ensure!(
        base == 0 && limit == 0xf_ffff,
        "{base:#x}, limit {limit:#x}"
    );
    ensure!(descriptor >> 55 & 1 == 1, "byte granularity");
    ensure!(descriptor >> 54 & 1 == 1, "16-bit segment");
    // Readable is not asked of code, nor conforming of neither.
    ensure!(
        descriptor >> 40 & 0xfe == access,
        "access {:#x}",
        descriptor >> 40 & 0xff
    );
    Ok(())
}
