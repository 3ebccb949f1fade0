//! What kernels are handed, read with the structures of another loader:
//! `linux-loader`, which Firecracker and Cloud Hypervisor boot kernels with.

use std::fs::File;

use anyhow::{Context, Result, ensure};
use linux_loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::{BzImage, KernelLoader};
use linux_loader::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use qboot_tests::handover::Handover;
use qboot_tests::{Kind, Probe};
use rstest::rstest;
use tempfile::NamedTempFile;
use vm_memory::{ByteValued, GuestAddress, GuestMemoryMmap};
use xtask::qemu::Vm;

const INITRD_LEN: usize = 12345;

/// Boots a probe with an initrd and a command line.
fn boot(kind: Kind, machine: &str) -> Result<(Probe, Handover, Vm)> {
    let initrd = NamedTempFile::new()?;
    std::fs::write(initrd.path(), vec![0x5a; INITRD_LEN])?;
    let probe = Probe::new(kind)?;
    let qemu = probe
        .machine(machine)?
        .append("console=ttyS0")
        .initrd(initrd.path());
    let (handover, vm) = probe.boot(&qemu)?;
    Ok((probe, handover, vm))
}

/// A structure at `addr` in the guest's memory.
fn read<T: ByteValued + Default>(vm: &mut Vm, addr: u64) -> Result<T> {
    let mut value = T::default();
    let bytes = vm.memory(addr, size_of::<T>())?;
    value.as_mut_slice().copy_from_slice(&bytes);
    Ok(value)
}

/// 64 MiB that `linux-loader` loads into.
fn memory() -> Result<GuestMemoryMmap> {
    Ok(GuestMemoryMmap::from_ranges(&[(
        GuestAddress(0),
        64 << 20,
    )])?)
}

#[rstest]
fn the_zero_page(#[values("pc", "q35", "microvm")] machine: &str) -> Result<()> {
    let (probe, handover, mut vm) = boot(Kind::BzImage, machine)?;
    let mut page = boot_params::default();
    page.as_mut_slice().copy_from_slice(&handover.zero_page);

    let himem = Some(GuestAddress(0x10_0000));
    let loaded = BzImage::load(&memory()?, None, &mut File::open(probe.path())?, himem)?;
    ensure!(u64::from(handover.record.entry) == loaded.kernel_load.0);
    let (ours, theirs) = (page.hdr, loaded.setup_header.context("no setup header")?);
    let fields = |hdr: &linux_loader::bootparam::setup_header| {
        let (payload, len) = (hdr.payload_offset, hdr.payload_length);
        let (pref, init_size, align) = (hdr.pref_address, hdr.init_size, hdr.kernel_alignment);
        let (version, sects, xloadflags) = (hdr.version, hdr.setup_sects, hdr.xloadflags);
        let (magic, flag, max) = (hdr.header, hdr.boot_flag, hdr.initrd_addr_max);
        let limit = hdr.cmdline_size;
        (
            (payload, len, pref, init_size, align, limit),
            (version, sects, xloadflags, magic, flag, max),
        )
    };
    ensure!(fields(&ours) == fields(&theirs));
    ensure!(ours.type_of_loader != 0);
    ensure!(u64::from(ours.cmd_line_ptr) == handover.cmdline_addr);
    let initrd = vm.memory(ours.ramdisk_image.into(), INITRD_LEN)?;
    ensure!(initrd == vec![0x5a; INITRD_LEN]);
    ensure!({ ours.ramdisk_size } as usize == INITRD_LEN);
    ensure!({ page.acpi_rsdp_addr } == handover.rsdp && handover.rsdp != 0);
    let table = page.e820_table;
    let entries: Vec<boot_e820_entry> = table[..page.e820_entries.into()].to_vec();
    let entries = entries.iter().map(|e| (e.addr, e.size, e.r#type));
    ensure!(entries.eq(handover.e820.iter().map(|e| (e.addr, e.len, e.kind))));
    Ok(())
}

#[rstest]
fn start_info(#[values("pc", "q35", "microvm")] machine: &str) -> Result<()> {
    let (_, handover, mut vm) = boot(Kind::Pvh, machine)?;
    let info: hvm_start_info = read(&mut vm, handover.record.ebx.into())?;
    ensure!((info.magic, info.version, info.flags) == (0x336e_c578, 1, 0));
    ensure!(info.cmdline_paddr == handover.cmdline_addr);
    ensure!(info.rsdp_paddr == handover.rsdp && info.rsdp_paddr != 0);
    ensure!(info.nr_modules == 1);
    let module: hvm_modlist_entry = read(&mut vm, info.modlist_paddr)?;
    ensure!((module.size, module.cmdline_paddr) == (INITRD_LEN as u64, 0));
    ensure!(vm.memory(module.paddr, INITRD_LEN)? == vec![0x5a; INITRD_LEN]);
    let mut ram = 0;
    for n in 0..u64::from(info.memmap_entries) {
        let at = info.memmap_paddr + n * size_of::<hvm_memmap_table_entry>() as u64;
        let entry: hvm_memmap_table_entry = read(&mut vm, at)?;
        if entry.type_ == 1 {
            ram += entry.size;
        }
    }
    ensure!(ram > 510 << 20, "{ram} bytes of RAM");
    Ok(())
}
