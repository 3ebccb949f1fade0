//! COM1 and the debug console, for the one line that a failure prints.
//!
//! Untouched on success: not a single access.

use super::io::Io;
use qboot::io::PortIo;
use spin::Mutex;
use uart_16550::backend::PioBackend;
use uart_16550::{Config, Uart16550};

/// The debug console's usual ports: QEMU's default, and SeaBIOS's and OVMF's.
const DEBUG_CONSOLES: [u16; 2] = [0xe9, 0x402];
/// What `isa-debugcon` answers when read.
const DEBUG_CONSOLE_ANSWER: u8 = 0xe9;
/// COM1.
const COM1: u16 = 0x3f8;
/// Tries before a byte is given up: a stopped host terminal must not stop
/// the signal to the host that follows.
const SEND_TRIES: u32 = 100_000;

/// What there is to print on. All false until looked for, so that the static
/// is .bss: initialised statics do not survive a warm reset.
struct Console {
    looked: bool,
    com1: bool,
    debug: [bool; 2],
}

static CONSOLE: Mutex<Console> = Mutex::new(Console {
    looked: false,
    com1: false,
    debug: [false; 2],
});

fn com1() -> Option<Uart16550<PioBackend>> {
    // SAFETY: COM1's ports are a UART's or nobody's on every machine, and
    // this console, behind its lock, is their only user.
    unsafe { Uart16550::new_port(COM1) }.ok()
}

impl Console {
    fn look(&mut self) {
        if !self.looked {
            self.looked = true;
            self.com1 = com1().is_some_and(|mut uart| uart.init(Config::default()).is_ok());
            self.debug = DEBUG_CONSOLES.map(|port| Io.in8(port) == DEBUG_CONSOLE_ANSWER);
        }
    }

    fn put(&mut self, byte: u8) {
        for (port, there) in DEBUG_CONSOLES.iter().zip(self.debug) {
            if there {
                Io.out8(*port, byte);
            }
        }
        if self.com1
            && let Some(mut uart) = com1()
        {
            self.com1 = (0..SEND_TRIES).any(|_| uart.try_send_byte(byte).is_ok());
        }
    }
}

fn put_all(bytes: impl Iterator<Item = u8>) {
    // `try_lock`: an exception while printing must not wait for itself.
    if let Some(mut console) = CONSOLE.try_lock() {
        console.look();
        bytes.for_each(|byte| console.put(byte));
    }
}

/// Prints text.
#[cold]
pub fn print(text: &str) {
    put_all(text.bytes());
}

fn digit(value: u8) -> u8 {
    b"0123456789abcdef"
        .get(usize::from(value & 15))
        .copied()
        .unwrap_or(b'?')
}

/// Prints eight hexadecimal digits.
#[cold]
pub fn print_hex(value: u32) {
    for byte in value.to_be_bytes() {
        print_byte(byte);
    }
}

/// Prints two hexadecimal digits.
#[cold]
pub fn print_byte(value: u8) {
    put_all([value >> 4, value].into_iter().map(digit));
}

/// Prints a decimal number.
#[cold]
pub fn print_decimal(value: u32) {
    let mut digits = [0; 10];
    let mut rest = value;
    let mut count: usize = 0;
    for slot in digits.iter_mut().rev() {
        *slot = digit_of(rest);
        rest = rest.wrapping_div(10);
        count = count.wrapping_add(1);
        if rest == 0 {
            break;
        }
    }
    put_all(digits.into_iter().skip(digits.len().wrapping_sub(count)));
}

fn digit_of(value: u32) -> u8 {
    digit((value % 10) as u8)
}
