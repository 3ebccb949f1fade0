//! The PCI BIOS: configuration space as a 32-bit service, for kernels that
//! are told to use it (`pci=bios`).
//!
//! Specifications: PCI BIOS 2.1; Standard BIOS 32-bit Service Directory 0.4.
//! Registers go in and come out as a value; the entry points themselves are
//! the ROM's. Interrupt routing (functions 0eh and 0fh) and special cycles
//! are refused: no kernel needs them to reach a device.

use crate::pci::{Bdf, Config, reg};

/// The registers that the services use, and the carry flag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
    /// ESI.
    pub esi: u32,
    /// EDI.
    pub edi: u32,
    /// Set on failure.
    pub carry: bool,
}

/// The service directory's structure, which kernels look for at 16-byte
/// steps from 0xe0000 to 0xfffff; `entry` is the physical address of its
/// entry point.
#[must_use]
pub fn directory(entry: u32) -> [u8; 16] {
    let [a, b, c, d] = entry.to_le_bytes();
    let mut table = *b"_32_\0\0\0\0\0\x01\0\0\0\0\0\0";
    for (byte, value) in table.iter_mut().skip(4).zip([a, b, c, d]) {
        *byte = value;
    }
    let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    for checksum in table.iter_mut().skip(10).take(1) {
        *checksum = sum.wrapping_neg();
    }
    table
}

/// `$PCI` as a number.
const SERVICE_PCI: u32 = u32::from_le_bytes(*b"$PCI");
/// What the presence check answers in EDX.
const SIGNATURE: u32 = u32::from_le_bytes(*b"PCI ");

/// The directory's own service: where is the service named in EAX?
///
/// `base` is the physical address that the code segment has to have, `len`
/// its bytes, `entry` the PCI BIOS's entry from `base`.
pub fn find_service(registers: &mut Registers, base: u32, len: u32, entry: u32) {
    let [function, ..] = registers.ebx.to_le_bytes();
    let status = if function != 0 {
        0x81
    } else if registers.eax == SERVICE_PCI {
        registers.ebx = base;
        registers.ecx = len;
        registers.edx = entry;
        0
    } else {
        0x80
    };
    registers.eax = registers.eax & !0xff | status;
}

/// Results in AH.
mod status {
    pub const SUCCESSFUL: u8 = 0x00;
    pub const FUNC_NOT_SUPPORTED: u8 = 0x81;
    pub const BAD_VENDOR_ID: u8 = 0x83;
    pub const DEVICE_NOT_FOUND: u8 = 0x86;
    pub const BAD_REGISTER_NUMBER: u8 = 0x87;
}

/// A PCI BIOS call: AH is b1h, AL the function. `last_bus` is the highest
/// bus number in use.
pub fn call<C: Config>(config: &mut C, last_bus: u8, registers: &mut Registers) {
    let [function, service, ..] = registers.eax.to_le_bytes();
    let result = if service == 0xb1 {
        dispatch(config, last_bus, function, registers)
    } else {
        status::FUNC_NOT_SUPPORTED
    };
    registers.eax = registers.eax & !0xff00 | u32::from(result) << 8;
    registers.carry = result != status::SUCCESSFUL;
}

fn dispatch<C: Config>(config: &mut C, last_bus: u8, function: u8, r: &mut Registers) -> u8 {
    match function {
        0x01 => {
            // Configuration mechanism 1, version 2.10.
            r.eax = r.eax & !0xff | 1;
            r.ebx = r.ebx & !0xffff | 0x0210;
            r.ecx = r.ecx & !0xff | u32::from(last_bus);
            r.edx = SIGNATURE;
            status::SUCCESSFUL
        }
        0x02 => {
            let id = r.edx & 0xffff | r.ecx << 16;
            if r.edx & 0xffff == 0xffff {
                return status::BAD_VENDOR_ID;
            }
            find(config, last_bus, r, |_, _, found| found == id)
        }
        0x03 => {
            let class = r.ecx & 0xff_ffff;
            find(config, last_bus, r, |config, bdf, _| {
                config.read32(bdf, reg::CLASS) >> 8 == class
            })
        }
        // Reads and writes: byte, word, dword.
        0x08..=0x0d => access(config, function, r),
        _ => status::FUNC_NOT_SUPPORTED,
    }
}

/// The function with number SI among those that match, into BX.
fn find<C: Config>(
    config: &mut C,
    last_bus: u8,
    r: &mut Registers,
    matches: impl Fn(&mut C, Bdf, u32) -> bool,
) -> u8 {
    let mut index = r.esi & 0xffff;
    let mut single = false;
    let last = u16::from_be_bytes([last_bus, 0xff]);
    for bdf in (0..=last).map(Bdf::from_bits) {
        if bdf.function() == 0 {
            single = false;
        } else if single {
            continue;
        }
        let id = config.read32(bdf, reg::ID);
        let there = id & 0xffff != 0xffff;
        if bdf.function() == 0 {
            single = !there || config.read32(bdf, reg::HEADER) & 0x80_0000 == 0;
        }
        if there && matches(config, bdf, id) {
            if index == 0 {
                r.ebx = r.ebx & !0xffff | u32::from(bdf.bits());
                return status::SUCCESSFUL;
            }
            index = index.saturating_sub(1);
        }
    }
    status::DEVICE_NOT_FOUND
}

/// Function BX, register DI, value in ECX.
fn access<C: Config>(config: &mut C, function: u8, r: &mut Registers) -> u8 {
    let [bx0, bx1, ..] = r.ebx.to_le_bytes();
    let [di0, di1, ..] = r.edi.to_le_bytes();
    let bdf = Bdf::from_bits(u16::from_le_bytes([bx0, bx1]));
    let register = u16::from_le_bytes([di0, di1]);
    let align = match function {
        0x08 | 0x0b => 0,
        0x09 | 0x0c => 1,
        _ => 3,
    };
    if register > 0xff || register & align != 0 {
        return status::BAD_REGISTER_NUMBER;
    }
    let [cl, ch, ..] = r.ecx.to_le_bytes();
    match function {
        0x0b => config.write8(bdf, register, cl),
        0x0c => config.write16(bdf, register, u16::from_le_bytes([cl, ch])),
        0x0d => config.write32(bdf, register, r.ecx),
        _ => {
            let value = config.read32(bdf, register & 0xfc) >> ((register & 3) << 3);
            let keep = match align {
                0 => !0xff,
                1 => !0xffff,
                _ => 0,
            };
            r.ecx = r.ecx & keep | value & !keep;
        }
    }
    status::SUCCESSFUL
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::sim::{Bus, Function, Sim};
    use proptest::prelude::*;

    fn sim() -> Sim {
        let nic = || Function::device(0x100e_8086, 0x0200);
        let behind = Bus::from([(1 << 3, nic())]);
        let bridge = Function::bridge(0x0001_1b36, behind).preset(0x18, &[0, 1, 1]);
        Sim::new(Bus::from([
            (0, Function::device(0x1237_8086, 0x0600)),
            (2 << 3, nic().multi()),
            (2 << 3 | 6, nic()),
            // Not a function: its device has only one.
            (3 << 3, bridge),
            (3 << 3 | 1, nic()),
        ]))
    }

    fn calling(sim: &mut Sim, registers: Registers) -> Registers {
        let mut registers = registers;
        call(sim, 1, &mut registers);
        registers
    }

    #[test]
    fn the_directory_sums_to_zero() {
        let table = directory(0x000f_1234);
        assert_eq!(&table[..4], b"_32_");
        assert_eq!(table[4..8], 0x000f_1234_u32.to_le_bytes());
        assert_eq!(table[9], 1);
        assert_eq!(
            table
                .iter()
                .fold(0, |sum: u8, byte| sum.wrapping_add(*byte)),
            0
        );
    }

    #[test]
    fn the_directory_names_one_service() {
        let mut registers = Registers {
            eax: 0x4943_5024,
            ..Registers::default()
        };
        find_service(&mut registers, 0xf_0000, 0x1_0000, 0x123);
        assert_eq!(registers.eax & 0xff, 0);
        assert_eq!(
            (registers.ebx, registers.ecx, registers.edx),
            (0xf_0000, 0x1_0000, 0x123)
        );
        let mut other = Registers {
            eax: 0x1234_5678,
            ..Registers::default()
        };
        find_service(&mut other, 1, 2, 3);
        assert_eq!((other.eax, other.ebx), (0x1234_5680, 0));
        other.ebx = 1;
        find_service(&mut other, 1, 2, 3);
        assert_eq!(other.eax & 0xff, 0x81);
    }

    #[test]
    fn presence() {
        let r = calling(
            &mut sim(),
            Registers {
                eax: 0xb101,
                ..Registers::default()
            },
        );
        assert_eq!((r.eax, r.ebx, r.ecx, r.edx), (1, 0x210, 1, 0x2049_4350));
        assert!(!r.carry);
    }

    #[test]
    fn devices_are_found_by_index() {
        let mut sim = sim();
        let mut find = |esi| {
            let r = calling(
                &mut sim,
                Registers {
                    eax: 0xb102,
                    ecx: 0x100e,
                    edx: 0x8086,
                    esi,
                    ..Registers::default()
                },
            );
            (r.eax >> 8, r.ebx, r.carry)
        };
        assert_eq!(find(0), (0, 0x10, false));
        assert_eq!(find(1), (0, 0x16, false));
        assert_eq!(find(2), (0, 0x108, false));
        assert_eq!(find(3), (0x86, 0, true));
        let class = Registers {
            eax: 0xb103,
            ecx: 0x06_0400,
            ..Registers::default()
        };
        assert_eq!(calling(&mut sim, class).ebx, 0x18);
        let nobody = Registers {
            eax: 0xb102,
            edx: 0xffff,
            ..Registers::default()
        };
        assert_eq!(calling(&mut sim, nobody).eax >> 8, 0x83);
    }

    #[test]
    fn registers_of_every_width() {
        let mut sim = sim();
        let mut access = |eax, edi, ecx| {
            let r = calling(
                &mut sim,
                Registers {
                    eax,
                    ebx: 0xffff_0108,
                    ecx,
                    edi,
                    ..Registers::default()
                },
            );
            (r.eax >> 8, r.ecx)
        };
        assert_eq!(access(0xb10a, 0, 0), (0, 0x100e_8086));
        assert_eq!(access(0xb109, 2, 0xaaaa_5555), (0, 0xaaaa_100e));
        assert_eq!(access(0xb108, 1, 0xaaaa_5555), (0, 0xaaaa_5580));
        assert_eq!(access(0xb10b, 0x3c, 11), (0, 11));
        assert_eq!(access(0xb10c, 4, 7), (0, 7));
        assert_eq!(access(0xb10a, 4, 0), (0, 7));
        assert_eq!(access(0xb10d, 0x3c, 5), (0, 5));
        assert_eq!(access(0xb108, 0x3c, 0), (0, 5));
        for (eax, edi) in [(0xb109, 1), (0xb10a, 2), (0xb10d, 0x100), (0xb108, 0x100)] {
            assert_eq!(access(eax, edi, 0).0, 0x87);
        }
        assert_eq!(access(0xb10e, 0, 0).0, 0x81);
        assert_eq!(access(0xb201, 0, 0).0, 0x81);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_call_panics(eax: u16, ebx: u32, ecx: u32, edx: u32, esi: u32, edi: u32) {
            let eax = 0xb100 | u32::from(eax & 0x1f);
            let r = calling(&mut sim(), Registers { eax, ebx, ecx, edx, esi, edi, carry: false });
            prop_assert_eq!(r.carry, r.eax & 0xff00 != 0);
        }
    }
}
