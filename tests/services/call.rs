//! One call of a service, and its answer, as `services.S` has them.

use std::ops::Deref;

use anyhow::{Result, ensure};
use qboot_tests::Field;

/// The registers that a call is made with and comes back with, in the order that
/// `services.S` has them in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Registers {
    pub(super) eax: u32,
    pub(super) ebx: u32,
    pub(super) ecx: u32,
    pub(super) edx: u32,
    pub(super) esi: u32,
    pub(super) edi: u32,
    pub(super) ebp: u32,
}

const REGISTERS_LEN: usize = 28;

impl Registers {
    fn named(&self) -> [(&'static str, u32); 7] {
        [
            ("eax", self.eax),
            ("ebx", self.ebx),
            ("ecx", self.ecx),
            ("edx", self.edx),
            ("esi", self.esi),
            ("edi", self.edi),
            ("ebp", self.ebp),
        ]
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        Ok(Self {
            eax: bytes.u32(0)?,
            ebx: bytes.u32(4)?,
            ecx: bytes.u32(8)?,
            edx: bytes.u32(12)?,
            esi: bytes.u32(16)?,
            edi: bytes.u32(20)?,
            ebp: bytes.u32(24)?,
        })
    }
}

/// One interrupt to call, as `services.S` reads it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Call {
    pub(super) vector: u8,
    pub(super) special: u8,
    pub(super) registers: Registers,
}

/// What is special about a call: bits of `services.S`.
pub(super) const FROM_LAST: u8 = 1;
pub(super) const INTO_BUFFER: u8 = 2;
pub(super) const AFTER_TICK: u8 = 4;
pub(super) const RESTART: u8 = 8;
pub(super) const STOP: u8 = 16;

/// Methods that give one register another value.
macro_rules! setters {
    ($($register:ident)*) => { $(
        pub(super) fn $register(mut self, value: u32) -> Self {
            self.registers.$register = value;
            self
        }
    )* };
}

impl Call {
    /// With a value of its own in every register that is not named.
    pub(super) fn new(vector: u8, ax: u16) -> Self {
        Self {
            vector,
            special: 0,
            registers: Registers {
                eax: 0xaaaa_0000 | u32::from(ax),
                ebx: 0xbbbb_1234,
                ecx: 0xcccc_2345,
                edx: 0xdddd_3456,
                esi: 0x5151_4567,
                edi: 0xd1d1_5678,
                ebp: 0xb9b9_6789,
            },
        }
    }

    pub(super) fn special(mut self, bits: u8) -> Self {
        self.special |= bits;
        self
    }

    setters!(ebx ecx edx esi edi);

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.vector, self.special, 0, 0];
        for (_, word) in self.registers.named() {
            bytes.extend(word.to_le_bytes());
        }
        bytes
    }
}

/// What a call came back with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) flags: u16,
    pub(super) ds: u16,
    pub(super) es: u16,
    pub(super) sp: u16,
    pub(super) registers: Registers,
    pub(super) buffer: Vec<u8>,
}

pub(super) const ANSWER_LEN: usize = 64;
/// Where the registers are in it, behind four words.
const REGISTERS_AT: usize = 8;
pub(super) const CARRY: u16 = 1;
pub(super) const ZERO: u16 = 1 << 6;
pub(super) const INTERRUPTS: u16 = 1 << 9;
pub(super) const DIRECTION: u16 = 1 << 10;

impl Deref for Answer {
    type Target = Registers;

    fn deref(&self) -> &Registers {
        &self.registers
    }
}

impl Answer {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let (registers, buffer) = bytes[REGISTERS_AT..ANSWER_LEN].split_at(REGISTERS_LEN);
        Ok(Self {
            flags: bytes.u16(0)?,
            ds: bytes.u16(2)?,
            es: bytes.u16(4)?,
            sp: bytes.u16(6)?,
            registers: Registers::parse(registers)?,
            buffer: buffer.to_vec(),
        })
    }

    pub(super) fn ax(&self) -> u16 {
        self.eax as u16
    }

    pub(super) fn al(&self) -> u8 {
        self.eax as u8
    }

    pub(super) fn ah(&self) -> u8 {
        (self.eax >> 8) as u8
    }

    pub(super) fn refused(&self) -> bool {
        self.flags & CARRY != 0
    }

    /// Registers that `call` had and that are not answered in are as they were.
    pub(super) fn keeps(&self, call: &Call, but: &str) -> Result<()> {
        let pairs = call.registers.named().into_iter().zip(self.named());
        for ((name, was), (_, is)) in pairs {
            // Whatever is answered, the upper half of EAX is not.
            let mask = match name {
                name if !but.contains(name) => u32::MAX,
                "eax" => 0xffff_0000,
                _ => 0,
            };
            ensure!(was & mask == is & mask, "{name}: {call:x?} {self:x?}");
        }
        Ok(())
    }
}
