//! The chipsets as data: what differs between QEMU's machines.
//!
//! A new machine is a new entry in `CHIPSETS`, and what `docs/adding-a-machine.md`
//! lists. The entry code has read the host bridge's id and opened the F segment; on Q35
//! it has also placed the ECAM, so that each register here is one access.

use crate::error::Result;
use crate::layout;
use crate::memory::map::{Kind, MemoryMap};
use crate::phys::PhysRange;
use crate::platform::Platform;

/// What the firmware knows of a host bridge and its south bridge.
#[derive(Debug, PartialEq, Eq)]
pub struct Chipset {
    /// For the log.
    pub name: &'static str,
    /// Dword at register 0 of 00:00.0: device id above vendor id, all ones if
    /// nothing answers.
    pub host_bridge: u32,
    /// Where configuration space lies in memory; empty if ports reach it.
    pub ecam: PhysRange,
    /// The last bus that is reached until [`Chipset::open_all_buses`].
    pub last_bus: u8,
    /// What every kernel needs: power management, and Q35's watchdog.
    registers: &'static [Register],
    /// IDE channels, each enabled if it has a drive.
    ide_channels: &'static [IdeChannel],
    /// The ISA interrupts of the PIRQs.
    routes: &'static [Register],
    /// What only kernels without ACPI need.
    legacy_registers: &'static [Register],
    /// The host bridge's windows and interrupts; `None` without one.
    pub pci: Option<PciHost>,
}

/// How a host bridge connects its buses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PciHost {
    /// i440FX with PIIX3 and PIIX4.
    I440fx,
    /// Q35 with ICH9.
    Q35,
}

/// A configuration register of bus 0 and what it is set to.
#[derive(Debug, PartialEq, Eq)]
struct Register {
    device: u8,
    function: u8,
    offset: u8,
    value: u32,
}

const fn register(device: u8, function: u8, offset: u8, value: u32) -> Register {
    Register {
        device,
        function,
        offset,
        value,
    }
}

/// A channel of PIIX3's IDE controller.
#[derive(Debug, PartialEq, Eq)]
struct IdeChannel {
    /// Port of the sector count register: 1 after a reset (ATA/ATAPI-6, 9.12), 0 without
    /// a drive.
    sector_count: u16,
    /// The bit of IDETIM with which the channel decodes its ports.
    decode: u32,
}

/// The ISA interrupts of PIRQA to PIRQD, and of PIRQE to PIRQH: what the
/// routing registers are set to.
pub const PIRQ_IRQS: [u8; 4] = [10, 10, 11, 11];
const PIRQ_ROUTES: u32 = u32::from_le_bytes(PIRQ_IRQS);
/// Base of the ACPI power management ports; bit 0 marks I/O space.
const PM_BASE: u32 = 0x600 | 1;

/// Base of ICH9's chipset configuration registers, in which Linux asks whether its
/// watchdog may reset the machine; bit 0 enables them.
const RCBA: u32 = 0xfed1_c000 | 1;

/// Machine type `pc`: PIIX3 at 00:01.0, its IDE at 00:01.1, PIIX4 power management at
/// 00:01.3 (Intel 82371AB datasheet, 4.1, 5.1 and 7.1).
pub static I440FX: Chipset = Chipset {
    name: "i440FX",
    host_bridge: 0x1237_8086,
    ecam: PhysRange::EMPTY,
    last_bus: u8::MAX,
    registers: &[
        register(1, 3, 0x40, PM_BASE), // PMBA
        register(1, 3, 0x80, 1),       // PMREGMISC: PMIOSE
    ],
    ide_channels: &[
        IdeChannel {
            sector_count: 0x1f2,
            decode: 1 << 15,
        },
        IdeChannel {
            sector_count: 0x172,
            decode: 1 << 31,
        },
    ],
    routes: &[
        register(1, 0, 0x60, PIRQ_ROUTES), // PIRQRC[A:D]
    ],
    legacy_registers: &[
        register(1, 3, 0x90, 0x701),   // SMBBA
        register(1, 3, 0xd0, 9 << 16), // SMBHSTCFG: enabled, IRQ 9
    ],
    pci: Some(PciHost::I440fx),
};

/// Machine type `q35`: ICH9 LPC at 00:1f.0 (Intel ICH9 datasheet, 13.1).
pub static Q35: Chipset = Chipset {
    name: "Q35",
    host_bridge: 0x29c0_8086,
    ecam: layout::Q35_ECAM_64,
    last_bus: 63,
    registers: &[
        register(0x1f, 0, 0x40, PM_BASE), // PMBASE
        register(0x1f, 0, 0x44, 0x80),    // ACPI_CNTL: ACPI_EN, SCI on IRQ 9
        register(0x1f, 0, 0xf0, RCBA),    // RCBA
    ],
    ide_channels: &[],
    routes: &[
        register(0x1f, 0, 0x60, PIRQ_ROUTES), // PIRQ[A:D]_ROUT
        register(0x1f, 0, 0x68, PIRQ_ROUTES), // PIRQ[E:H]_ROUT
    ],
    legacy_registers: &[],
    pci: Some(PciHost::Q35),
};

/// Machine types `microvm` and `isapc`: nothing answers at 00:00.0. A microvm with PCI
/// is found by its ECAM.
pub static NONE: Chipset = Chipset {
    name: "no host bridge",
    host_bridge: u32::MAX,
    ecam: PhysRange::EMPTY,
    last_bus: u8::MAX,
    registers: &[],
    ide_channels: &[],
    routes: &[],
    legacy_registers: &[],
    pci: None,
};

/// Every known chipset.
static CHIPSETS: [&Chipset; 3] = [&I440FX, &Q35, &NONE];

/// Q35's PCIEXBAR at 00:00.0 (Intel G35 Express datasheet, 5.1.17): base, length
/// in bits 2:1, enable.
pub const PCIEXBAR: u32 = 0x60;
/// PCIEXBAR for [`layout::Q35_ECAM_64`], as the entry code sets it.
pub const PCIEXBAR_64: u32 = layout::Q35_ECAM.start() | 2 << 1 | 1;
/// PCIEXBAR for all of [`layout::Q35_ECAM`].
pub const PCIEXBAR_256: u32 = layout::Q35_ECAM.start() | 1;

/// Address port of configuration mechanism 1 (PCI Local Bus 3.0, section
/// 3.2.2.3.2); the dword at [`CAM_DATA`] is the register that it names.
pub const CAM_ADDRESS: u16 = 0xcf8;
/// Data port of configuration mechanism 1.
pub const CAM_DATA: u16 = 0xcfc;

impl Chipset {
    /// The chipset with this dword at register 0 of 00:00.0.
    #[must_use]
    pub fn find(host_bridge: u32) -> Option<&'static Self> {
        let mut all = CHIPSETS.iter().copied();
        all.find(|chipset| chipset.host_bridge == host_bridge)
    }

    /// Switches on what every kernel needs: power management, and IDE channels with
    /// drives. Call it before any ACPI file is read: QEMU writes the FADT from these
    /// registers.
    pub fn set_up<P: Platform>(&self, platform: &mut P) {
        self.write(platform, self.registers);
        // Linux finds no drive on a channel that is off, and waits 150 ms for drives on
        // one that is on.
        let mut decode = 0;
        for channel in self.ide_channels {
            if platform.in8(channel.sector_count) == 1 {
                decode |= channel.decode;
            }
        }
        if decode != 0 {
            self.write(platform, &[register(1, 1, 0x40, decode)]); // IDETIM
        }
    }

    /// Routes the PIRQs to [`PIRQ_IRQS`]. Linux with ACPI switches all routes off
    /// before it sets those that it uses.
    pub fn route_interrupts<P: Platform>(&self, platform: &mut P) {
        self.write(platform, self.routes);
    }

    /// Sets up what only kernels without ACPI need. Linux with ACPI does it itself.
    pub fn set_up_legacy<P: Platform>(&self, platform: &mut P) {
        set_up_interrupt_controllers(platform);
        if self.pci.is_some() {
            // ELCR2: IRQ 10 and 11 are level-triggered, so devices can share them.
            platform.out8(0x4d1, 0x0c);
            // The keyboard controller's mode: interrupts as after reset, and scan codes of
            // set 1, which kernels without a keyboard driver know (memtest86+).
            platform.out8(0x64, 0x60);
            platform.out8(0x60, 0x43);
        }
        self.write(platform, self.legacy_registers);
    }

    /// Makes configuration space in memory reach all 256 buses, and reserves it.
    ///
    /// # Errors
    /// [`Error::TooManyE820Entries`](crate::error::Error::TooManyE820Entries).
    pub fn open_all_buses<P: Platform>(&self, platform: &mut P, map: &mut MemoryMap) -> Result<()> {
        if self.ecam.is_empty() {
            return Ok(());
        }
        self.reach_all_buses(platform);
        map.reserve(layout::Q35_ECAM, Kind::RESERVED)
    }

    /// Sets PCIEXBAR for [`Chipset::open_all_buses`].
    pub fn reach_all_buses<P: Platform>(&self, platform: &mut P) {
        platform.write32(self.ecam.start() | PCIEXBAR, PCIEXBAR_256);
    }

    fn write<P: Platform>(&self, platform: &mut P, registers: &[Register]) {
        for r in registers {
            let function = (u32::from(r.device) << 3) | u32::from(r.function);
            if self.ecam.is_empty() {
                let address = 1 << 31 | function << 8 | u32::from(r.offset);
                platform.out32(CAM_ADDRESS, address);
                platform.out32(CAM_DATA, r.value);
            } else {
                let address = self.ecam.start() | function << 12 | u32::from(r.offset);
                platform.write32(address, r.value);
            }
        }
    }
}

/// Whether `map` says that [`Chipset::open_all_buses`] was called on Q35.
#[must_use]
pub fn has_all_buses(map: &MemoryMap) -> bool {
    let (start, end) = (layout::Q35_ECAM.start(), layout::Q35_ECAM.end());
    let mut entries = map.entries().iter();
    entries.any(|e| {
        e.kind() == Kind::RESERVED && e.base() == u64::from(start) && e.end() == u64::from(end)
    })
}

/// Command and data ports of the two 8259A.
const PIC: [(u16, u16); 2] = [(0x20, 0x21), (0xa0, 0xa1)];
/// The first one's mask: all inputs but the cascade.
const PIC1_MASK: u8 = 0xfb;

/// Registers of the local APIC (Intel SDM 3A, 11.4.1): spurious vector with
/// the enable bit, LINT0 as ExtINT, LINT1 as NMI.
const VIRTUAL_WIRE: [(u32, u32); 3] = [(0xf0, 0x1ff), (0x350, 0x700), (0x360, 0x400)];

/// Puts the interrupt controllers into a PC's state: the 8259As with their
/// vectors from 0x08 and 0x70 and all inputs masked, and the local APIC in
/// virtual wire mode (MultiProcessor Specification 1.4, 3.6.2.2).
///
/// After a reset the local APIC keeps the 8259A's interrupts from the
/// processor, so a kernel that leaves the APIC alone would never see its timer.
/// Both belong together: a wire from an 8259A without vectors delivers vector 0.
pub fn set_up_interrupt_controllers<P: Platform>(platform: &mut P) {
    for &((command, data), icw2, icw3, mask) in &[
        (PIC[0], 0x08, 1 << 2, PIC1_MASK), // a slave on input 2
        (PIC[1], 0x70, 2, 0xff),           // the slave's number
    ] {
        platform.out8(command, 0x11); // ICW1: edge, cascade, ICW4 follows
        platform.out8(data, icw2);
        platform.out8(data, icw3);
        platform.out8(data, 0x01); // ICW4: 8086 mode
        platform.out8(data, mask);
    }
    for &(register, value) in &VIRTUAL_WIRE {
        platform.write32(layout::LOCAL_APIC.start() | register, value);
    }
}

/// Sets up the devices that real-mode code uses, as a PC's BIOS does.
///
/// Timer 0 runs in mode 2, 18.2 times a second. With `ticks` its interrupt is the only
/// one that is open. A kernel entered in 32 bits takes no interrupts: a tick before it
/// masks LINT0 would stay pending in QEMU's processor without a vector. COM1 has
/// 115,200 bits a second, 8 bits, no parity. A20 is open, and port 0x92 says so.
pub fn set_up_devices_for_bios<P: Platform>(platform: &mut P, ticks: bool) {
    set_up_interrupt_controllers(platform);
    platform.out8(PIC[0].1, PIC1_MASK & !u8::from(ticks));
    for &(port, value) in &[
        (0x43, 0x34),
        (0x40, 0),
        (0x40, 0),
        (0x3fb, 0x83),
        (0x3f8, 1),
        (0x3f9, 0),
        (0x3fb, 0x03),
        (0x3fc, 0x03),
    ] {
        platform.out8(port, value);
    }
    let fast_a20 = platform.in8(0x92);
    platform.out8(0x92, fast_a20 & !1 | 2);
}

/// Whether there is an I/O APIC of this index, 0 or 1: isapc has none, microvm
/// may have two.
///
/// Its register of version and last input is asked (82093AA datasheet, section
/// 3.2.2).
pub fn has_io_apic<P: Platform>(platform: &mut P, index: u32) -> bool {
    const VERSION: u32 = 1;
    const WINDOW: u32 = 0x10;
    /// The last input that QEMU's I/O APICs have.
    const LAST_INPUT: u32 = 23;
    let offset = layout::IO_APIC_STEP * index;
    let start = layout::IO_APICS.start() + offset;
    platform.write32(start, VERSION);
    let version = platform.read32(start + WINDOW);
    version >> 16 & 0xff == LAST_INPUT
}

const _: () = assert!(Q35.ecam.len() >> 20 == Q35.last_bus as u32 + 1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::map::tests::map_of;
    use crate::pci::Bdf;
    use crate::pci::sim::{Bus, Function, Sim};
    use crate::sim::Machine;

    #[test]
    fn a_chipset_is_found_by_its_host_bridge() {
        for chipset in CHIPSETS {
            assert_eq!(Chipset::find(chipset.host_bridge), Some(chipset));
        }
        assert_eq!(Chipset::find(0x0d57_8086), None);
    }

    /// What [`set_up_interrupt_controllers`] writes: both 8259A, then the local APIC.
    const CONTROLLERS: [(u32, u32); 13] = [
        (0x20, 0x11),
        (0x21, 0x08),
        (0x21, 0x04),
        (0x21, 0x01),
        (0x21, 0xfb),
        (0xa0, 0x11),
        (0xa1, 0x70),
        (0xa1, 0x02),
        (0xa1, 0x01),
        (0xa1, 0xff),
        (0xfee0_00f0, 0x1ff),
        (0xfee0_0350, 0x700),
        (0xfee0_0360, 0x400),
    ];

    #[test]
    fn kernels_without_acpi_get_a_pcs_interrupts() {
        let more: &[(u32, u32)] = &[(0x4d1, 0x0c), (0x64, 0x60), (0x60, 0x43)];
        for (chipset, more) in [(&I440FX, more), (&Q35, more), (&NONE, &[])] {
            let mut machine = Machine::default();
            machine.io.pci.ecam = Some(layout::Q35_ECAM.start());
            chipset.set_up_legacy(&mut machine);
            assert_eq!(machine.io.writes, [&CONTROLLERS, more].concat());
        }
    }

    #[test]
    fn pcs_smbus_has_ports_and_an_interrupt() {
        let piix4 = Function::device(0x7113_8086, 0x0680);
        let piix4 = piix4.scratch(0x90, 4).scratch(0xd0, 4);
        let mut machine = Machine::default();
        machine.io.pci = Sim::new(Bus::from([(0x0b, piix4)]));
        I440FX.set_up_legacy(&mut machine);
        let piix4 = machine.io.pci.function(Bdf::new(0, 1, 3)).unwrap();
        assert_eq!((piix4.dword(0x90), piix4.dword(0xd0)), (0x701, 0x9_0000));
    }

    #[test]
    fn q35_has_power_management_and_a_watchdog() {
        let lpc = Function::device(0x2918_8086, 0x0601);
        let lpc = lpc.scratch(0x40, 8).scratch(0xf0, 4);
        let mut machine = Machine::default();
        machine.io.pci = Sim::new(Bus::from([(0xf8, lpc)]));
        machine.io.pci.ecam = Some(layout::Q35_ECAM.start());
        Q35.set_up(&mut machine);
        let lpc = machine.io.pci.function(Bdf::new(0, 0x1f, 0)).unwrap();
        let registers = [0x40, 0x44, 0xf0].map(|at| lpc.dword(at));
        assert_eq!(registers, [0x601, 0x80, 0xfed1_c001]);
    }

    #[test]
    fn pcs_ide_channels_with_a_drive_decode_their_ports() {
        for (primary, secondary, expected) in [
            (0, 0, 0),
            (1, 0, 0x0000_8000),
            (0, 1, 0x8000_0000),
            (1, 1, 0x8000_8000),
            (0xff, 0x7f, 0),
        ] {
            let ide = Function::device(0x7010_8086, 0x0101).scratch(0x40, 4);
            let mut machine = Machine::default();
            machine.io.pci = Sim::new(Bus::from([(0x09, ide)]));
            machine.io.answers = std::vec![(0x1f2, primary), (0x172, secondary)];
            I440FX.set_up(&mut machine);
            let ide = machine.io.pci.function(Bdf::new(0, 1, 1)).unwrap();
            assert_eq!(ide.dword(0x40), expected);
        }
    }

    /// Bits 2:1 are the length, 0 for 256 MiB and 2 for 64.
    #[test]
    fn pciexbar_names_the_ecam() {
        assert_eq!([PCIEXBAR_64, PCIEXBAR_256], [0xb000_0005, 0xb000_0001]);
    }

    #[test]
    fn real_mode_gets_a_timer_a_console_and_a20() {
        for (ticks, mask) in [(true, 0xfa), (false, 0xfb)] {
            let mut machine = Machine::default();
            set_up_devices_for_bios(&mut machine, ticks);
            let devices = [
                (0x21, mask),
                (0x43, 0x34),
                (0x40, 0),
                (0x40, 0),
                (0x3fb, 0x83),
                (0x3f8, 1),
                (0x3f9, 0),
                (0x3fb, 0x03),
                (0x3fc, 0x03),
                // Bit 0 would reset the machine.
                (0x92, 0xfe),
            ];
            assert_eq!(machine.io.writes, [&CONTROLLERS[..], &devices].concat());
        }
    }

    #[test]
    fn an_io_apic_is_known_by_its_last_input() {
        for (version, is_there) in [
            (0x0017_0011, true),
            (0xff17_00ff, true),
            (0x0016_0011, false),
            (0x1700_0000, false),
            (u32::MAX, false),
            (0, false),
        ] {
            for index in 0..2 {
                let start = 0xfec0_0000 + 0x1_0000 * index;
                let mut machine = Machine::default();
                machine.io.answers = std::vec![(start + 0x10, version)];
                assert_eq!(has_io_apic(&mut machine, index), is_there, "{version:#x}");
                assert_eq!(machine.io.writes, [(start, 1)]);
            }
        }
    }

    #[test]
    fn all_buses_are_opened_where_there_is_an_ecam() {
        for (chipset, writes) in [
            (&I440FX, &[][..]),
            (&Q35, &[(0xb000_0060, 0xb000_0001)]),
            (&NONE, &[]),
        ] {
            let mut machine = Machine::default();
            let mut map = map_of(64 << 20);
            assert_eq!(chipset.open_all_buses(&mut machine, &mut map), Ok(()));
            assert_eq!(machine.io.writes, writes, "{}", chipset.name);
            assert_eq!(has_all_buses(&map), !writes.is_empty());
        }
    }

    #[test]
    fn only_the_whole_ecam_tells_that_all_buses_are_open() {
        let ecam = layout::Q35_ECAM;
        let longer = PhysRange::fixed(ecam.start() - 0x1000, ecam.end());
        for (range, kind) in [
            (layout::Q35_ECAM_64, Kind::RESERVED),
            (longer, Kind::RESERVED),
            (ecam, Kind::RAM),
        ] {
            let mut map = map_of(64 << 20);
            map.reserve(range, kind).unwrap();
            assert!(!has_all_buses(&map), "{range:x?} {kind:?}");
        }
    }
}
