//! The MP table: processors and interrupt wiring for kernels without ACPI.
//!
//! Specification: Intel MultiProcessor Specification 1.4, chapter 4. The
//! wiring is QEMU's: an I/O APIC whose first 16 inputs are the ISA
//! interrupts, those that PCI shares being level-triggered and active high,
//! and both local interrupts wired to every processor alike. microvm may have
//! a second I/O APIC, for its virtio devices, whose inputs count on from the
//! first one's.

mod topology;

use super::space::{TableSpace, Zone};
use crate::byte_set::ByteSet;
use crate::chipset::{Chipset, has_io_apic};
use crate::error::{Error, Result, Room};
use crate::fw_cfg::item;
use crate::layout;
use crate::pci;
use crate::phys::{byte_sum, copy_into};
use crate::platform::Platform;
use arrayvec::ArrayVec;
use topology::Topology;
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{Immutable, IntoBytes};

/// The machine without its processors.
#[derive(Clone, Copy, Debug)]
pub struct Wiring<'a> {
    /// Processor signature: CPUID leaf 1, EAX.
    pub cpu_signature: u32,
    /// Feature flags: CPUID leaf 1, EDX.
    pub cpu_features: u32,
    /// Whether the timer, ISA interrupt 0, is wired to input 2, as fw_cfg's
    /// IRQ0 override says.
    pub irq0_override: bool,
    /// I/O APICs, 1 or 2.
    pub io_apics: u8,
    /// Interrupt pins of PCI devices, each once, since functions share them.
    pub pci: &'a [PciInterrupt],
}

impl Default for Wiring<'_> {
    fn default() -> Self {
        Self {
            cpu_signature: 0,
            cpu_features: 0,
            irq0_override: false,
            io_apics: 1,
            pci: &[],
        }
    }
}

/// An interrupt pin of a PCI device and where it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciInterrupt {
    /// Bus number.
    pub bus: u8,
    /// Device number, 0 to 31.
    pub device: u8,
    /// 1 for INTA to 4 for INTD, as the interrupt pin register has it.
    pub pin: u8,
    /// Input of the I/O APIC: the interrupt line, 1 to 23.
    pub line: u8,
}

impl PciInterrupt {
    /// Whether pin and input exist: both registers hold arbitrary values while nothing
    /// is connected.
    fn is_connected(&self) -> bool {
        matches!((self.device, self.pin, self.line), (0..32, 1..=4, 1..24))
    }
}

/// Physical address of the processors' local APICs.
const LOCAL_APIC: u32 = layout::LOCAL_APIC.start();
/// Physical address of the first I/O APIC.
const IO_APIC: u32 = layout::IO_APICS.start();
/// Inputs of an I/O APIC.
const IO_APIC_INPUTS: u8 = 24;
/// Version of an integrated local APIC (4.3.1).
const LOCAL_APIC_VERSION: u8 = 0x14;
/// Version that QEMU's I/O APIC reports.
const IO_APIC_VERSION: u8 = 0x20;
/// Specification revision 1.4 (4.1).
const REVISION: u8 = 4;

/// ISA interrupts; QEMU wires them to inputs of the same numbers.
const ISA_INTERRUPTS: u8 = 16;
/// The input that the timer takes.
const IRQ0_INPUT: u8 = 2;

/// Types of entries (4.3).
mod kind {
    pub const PROCESSOR: u8 = 0;
    pub const BUS: u8 = 1;
    pub const IO_APIC: u8 = 2;
}

/// Types of interrupts (4.3.4, 4.3.5), with the entry's in front.
const IO_INTERRUPT: [u8; 2] = [3, 0];
const LOCAL_EXT_INT: [u8; 2] = [4, 3];
const LOCAL_NMI: [u8; 2] = [4, 1];

/// Polarity and trigger mode as the bus has them (4.3.4).
const CONFORMING: u16 = 0;
/// Active high, level-triggered.
const HIGH_LEVEL: u16 = 0b11_01;

/// Destination "all local APICs" (4.3.5).
const ALL: u8 = 0xff;

const POINTER_LEN: u32 = 16;
const _: () = assert!(size_of::<FloatingPointer>() == 16);
const HEADER_LEN: usize = size_of::<Header>();

/// MP floating pointer structure (4.1).
#[derive(IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct FloatingPointer {
    signature: [u8; 4],
    table: U32,
    /// In units of 16 bytes.
    length: u8,
    revision: u8,
    checksum: u8,
    /// All zero: there is a table, and no IMCR.
    features: [u8; 5],
}

/// MP configuration table header (4.2).
#[derive(IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    signature: [u8; 4],
    length: U16,
    revision: u8,
    checksum: u8,
    oem: [u8; 8],
    product: [u8; 12],
    oem_table: U32,
    oem_table_len: U16,
    entries: U16,
    local_apic: U32,
    extended_len: U16,
    extended_checksum: u8,
    reserved: u8,
}

/// Processor entry (4.3.1).
#[derive(IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Processor {
    kind: u8,
    local_apic_id: u8,
    local_apic_version: u8,
    flags: u8,
    signature: U32,
    features: U32,
    reserved: [u8; 8],
}

const ENABLED: u8 = 1;
const BOOT_PROCESSOR: u8 = 2;

/// Bus entry (4.3.2).
#[derive(IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Bus {
    kind: u8,
    id: u8,
    name: [u8; 6],
}

/// I/O APIC entry (4.3.3).
#[derive(IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct IoApic {
    kind: u8,
    id: u8,
    version: u8,
    flags: u8,
    address: U32,
}

/// I/O or local interrupt assignment entry (4.3.4, 4.3.5).
#[derive(IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Interrupt {
    kind: u8,
    interrupt: u8,
    flags: U16,
    source_bus: u8,
    source_irq: u8,
    apic: u8,
    input: u8,
}

/// The free bytes, and the number of entries written.
struct Table<'b> {
    free: &'b mut [u8],
    entries: u16,
}

impl Table<'_> {
    /// Appends an entry; `None` if there is no room.
    fn push<E: IntoBytes + Immutable>(&mut self, entry: &E) -> Option<()> {
        self.append(entry.as_bytes())
    }

    /// Appends an interrupt. `wire` is source bus, source interrupt, APIC, input.
    fn push_interrupt(&mut self, types: [u8; 2], flags: u16, wire: [u8; 4]) -> Option<()> {
        let [kind, interrupt] = types;
        let [source_bus, source_irq, apic, input] = wire;
        self.push(&Interrupt {
            kind,
            interrupt,
            flags: flags.into(),
            source_bus,
            source_irq,
            apic,
            input,
        })
    }

    // Not generic, so that the image has it once.
    fn append(&mut self, bytes: &[u8]) -> Option<()> {
        let (slot, free) = core::mem::take(&mut self.free).split_at_mut_checked(bytes.len())?;
        copy_into(slot, bytes).ok()?;
        self.free = free;
        self.entries = self.entries.checked_add(1)?;
        Some(())
    }
}

/// The most interrupt pins that the table lists.
const MAX_PINS: usize = 128;

/// Builds the MP table. Its floating pointer goes into the F segment, where kernels
/// search. The table follows it, or goes above 1 MiB if it has too many processors.
/// Returns `false` without an I/O APIC: Linux stops at a table with an I/O APIC that is
/// not there.
///
/// # Errors
/// [`Error::TablesTooBig`] if it fits nowhere.
pub fn offer<P: Platform>(
    platform: &mut P,
    chipset: &Chipset,
    roots: &ByteSet,
    space: &mut TableSpace<'_>,
) -> Result<bool> {
    if !has_io_apic(platform, 0) {
        return Ok(false);
    }
    let io_apics = if has_io_apic(platform, 1) { 2 } else { 1 };
    let mut count = [0; 2];
    platform.read(item::NB_CPUS, &mut count)?;
    let count = u16::from_le_bytes(count).max(1);
    let irq0_override = platform.read_u32(item::IRQ0_OVERRIDE)? & 0xff != 0;

    let mut pins = ArrayVec::<PciInterrupt, MAX_PINS>::new();
    // microvm has no PCI that a kernel without ACPI finds.
    if chipset.pci.is_some()
        && let Some((mut config, routing)) = pci::access(platform, chipset)
    {
        pci::interrupts(&mut config, roots, routing, |pin| {
            let _ = pins.try_push(PciInterrupt {
                bus: pin.bus,
                device: pin.device,
                pin: pin.intx + 1,
                line: pin.gsi,
            });
        });
    }
    let [cpu_signature, _, _, cpu_features] = platform.cpuid(1, 0);
    let wiring = Wiring {
        cpu_signature,
        cpu_features,
        irq0_override,
        io_apics,
        pci: &pins,
    };
    let no_room = Error::TablesTooBig(Room::UNKNOWN);
    let len = u32::try_from(pins.len()).ok();
    let len = len
        .and_then(|pins| room(count.into(), pins))
        .ok_or(no_room)?;
    let pointer = space.alloc(Zone::FSegment, POINTER_LEN, 16)?;
    let table = match space.alloc(Zone::FSegment, len, 16) {
        Err(_) => space.alloc(Zone::High, len, 16)?,
        table => table?,
    };
    let ids = Topology::read(platform).apic_ids(count);
    build(platform.bytes(table)?, ids, &wiring).ok_or(no_room)?;
    point_at(table.start(), platform.bytes(pointer)?).ok_or(no_room)?;
    Ok(true)
}

/// Writes the floating pointer of a table at physical address `table`. `None` if
/// `buffer` has another length than the pointer.
#[must_use]
pub fn point_at(table: u32, buffer: &mut [u8]) -> Option<()> {
    let pointer = FloatingPointer {
        signature: *b"_MP_",
        table: table.into(),
        length: 1,
        revision: REVISION,
        checksum: 0,
        features: [0; 5],
    };
    copy_into(buffer, pointer.as_bytes()).ok()?;
    subtract_sum(buffer, core::mem::offset_of!(FloatingPointer, checksum))
}

/// Writes the table to the start of `buffer`; returns its length in bytes.
///
/// `apic_ids` are the processors' local APIC ids, the boot processor's first. Ids above
/// 254 do not fit into the table (4.3.1) and are left out: a kernel needs ACPI to start
/// those processors. `None` if there is no processor or the buffer is too short.
#[must_use]
pub fn build(
    buffer: &mut [u8],
    apic_ids: impl IntoIterator<Item = u32>,
    wiring: &Wiring<'_>,
) -> Option<usize> {
    let whole = buffer.len();
    let (header, free) = buffer.split_at_mut_checked(HEADER_LEN)?;
    let mut table = Table { free, entries: 0 };
    push_entries(&mut table, apic_ids, wiring)?;
    let (free, entries) = (table.free.len(), table.entries);
    let len = whole.checked_sub(free)?;

    let table_header = Header {
        signature: *b"PCMP",
        length: u16::try_from(len).ok()?.into(),
        revision: REVISION,
        checksum: 0,
        oem: *b"QBOOT   ",
        product: *b"QEMU        ",
        oem_table: 0.into(),
        oem_table_len: 0.into(),
        entries: entries.into(),
        local_apic: LOCAL_APIC.into(),
        extended_len: 0.into(),
        extended_checksum: 0,
        reserved: 0,
    };
    copy_into(header, table_header.as_bytes()).ok()?;
    let table = buffer.get_mut(..len)?;
    subtract_sum(table, core::mem::offset_of!(Header, checksum))?;
    Some(len)
}

/// Makes the sum of all bytes zero by the byte at `offset`.
fn subtract_sum(bytes: &mut [u8], offset: usize) -> Option<()> {
    let sum = byte_sum(bytes);
    let checksum = bytes.get_mut(offset)?;
    *checksum = checksum.wrapping_sub(sum);
    Some(())
}

/// Writes all entries, in the order of their types (4.3).
#[expect(
    clippy::too_many_lines,
    reason = "a list of entries, in the specification's order"
)]
fn push_entries(
    table: &mut Table<'_>,
    apic_ids: impl IntoIterator<Item = u32>,
    wiring: &Wiring<'_>,
) -> Option<()> {
    let mut apics = ByteSet::default();
    let mut boot = None;
    let ids = apic_ids.into_iter().filter_map(|id| u8::try_from(id).ok());
    for id in ids.filter(|id| *id != ALL) {
        if !apics.insert(id) {
            continue;
        }
        let flags = if boot.is_none() {
            ENABLED | BOOT_PROCESSOR
        } else {
            ENABLED
        };
        boot.get_or_insert(id);
        table.push(&Processor {
            kind: kind::PROCESSOR,
            local_apic_id: id,
            local_apic_version: LOCAL_APIC_VERSION,
            flags,
            signature: wiring.cpu_signature.into(),
            features: wiring.cpu_features.into(),
            reserved: [0; 8],
        })?;
    }
    let boot = boot?;

    // A PCI bus has its own number as id; ISA takes the first free one.
    let mut buses = ByteSet::default();
    let mut shared = ByteSet::default();
    for pci in wiring.pci.iter().filter(|pci| pci.is_connected()) {
        shared.insert(pci.line);
        if buses.insert(pci.bus) {
            table.push(&Bus {
                kind: kind::BUS,
                id: pci.bus,
                name: *b"PCI   ",
            })?;
        }
    }
    let isa = (0..=u8::MAX).find(|id| !buses.contains(*id))?;
    table.push(&Bus {
        kind: kind::BUS,
        id: isa,
        name: *b"ISA   ",
    })?;

    // Ids of APICs are unique (4.3.3), and QEMU's I/O APICs have four bits for theirs.
    // If processors have all sixteen, kernels accept any.
    let mut io_apics = [0, 1];
    let mut free = (0..16).filter(|id| !apics.contains(*id));
    let mut address = IO_APIC;
    for id in io_apics.get_mut(..wiring.io_apics.into())? {
        *id = free.next().unwrap_or(*id);
        table.push(&IoApic {
            kind: kind::IO_APIC,
            id: *id,
            version: IO_APIC_VERSION,
            flags: ENABLED,
            address: address.into(),
        })?;
        address += layout::IO_APIC_STEP;
    }
    let [io_apic, second] = io_apics;
    for pin in wiring.pci.iter().filter(|pci| pci.is_connected()) {
        // Appendix D.3: device in bits 2 to 6, pin in bits 0 and 1.
        let irq = (pin.device << 2) | (pin.pin - 1);
        table.push_interrupt(IO_INTERRUPT, HIGH_LEVEL, [pin.bus, irq, io_apic, pin.line])?;
    }
    for irq in 0..IO_APIC_INPUTS * wiring.io_apics {
        let (flags, apic, input) = match irq {
            // The specification has no bus for these. They have their numbers, as ISA's
            // do, and the mode that QEMU's ACPI tables give them.
            IO_APIC_INPUTS.. => (HIGH_LEVEL, second, irq - IO_APIC_INPUTS),
            ISA_INTERRUPTS.. => continue,
            // An input has one source of each bus type; PCI's keep theirs.
            0 if wiring.irq0_override => (CONFORMING, io_apic, IRQ0_INPUT),
            // The cascade has no input then.
            IRQ0_INPUT if wiring.irq0_override => continue,
            _ if shared.contains(irq) => continue,
            _ => (CONFORMING, io_apic, irq),
        };
        table.push_interrupt(IO_INTERRUPT, flags, [isa, irq, apic, input])?;
    }
    // The interrupt controller's output reaches the boot processor (3.6.2.2),
    // the NMI every one.
    table.push_interrupt(LOCAL_EXT_INT, CONFORMING, [isa, 0, boot, 0])?;
    table.push_interrupt(LOCAL_NMI, CONFORMING, [isa, 0, ALL, 1])
}

/// The most bytes that [`build`] needs for this many processors and entries of
/// [`Wiring::pci`].
#[must_use]
pub const fn room(processors: u32, pci: u32) -> Option<u32> {
    // Header, ISA bus, 16 ISA interrupts, 2 local ones, two I/O APICs, and the second
    // one's inputs.
    const FIXED: u32 = 44 + 8 + 16 * 8 + 2 * 8 + 2 * 8 + 24 * 8;
    let Some(processors) = processors.checked_mul(20) else {
        return None;
    };
    // An interrupt and its bus, if no two share a bus.
    let Some(pci) = pci.checked_mul(16) else {
        return None;
    };
    match processors.checked_add(pci) {
        Some(entries) => entries.checked_add(FIXED),
        None => None,
    }
}

#[cfg(test)]
mod tests;
