//! COM1 and the debug console, for errors, warnings and the log.
//!
//! A successful boot without a log makes no access to them.

use super::hardware::Hardware;
use super::io::{in8, out8};
use qboot::platform::Terminal;
use spin::Mutex;
use uart_16550::Uart16550;
use uart_16550::backend::PioBackend;

/// The debug console's usual ports: QEMU's default, and the port of SeaBIOS and OVMF.
const DEBUG_CONSOLES: [u16; 2] = [0xe9, 0x402];
/// What a read of `isa-debugcon` returns.
const DEBUG_CONSOLE_ANSWER: u8 = 0xe9;
/// COM1, a 16550.
const COM1: u16 = 0x3f8;
/// 115,200 bits a second, 8 bits, no parity; FIFOs on and empty; DTR, RTS and OUT2;
/// no interrupts.
const SETTINGS: [(u16, u8); 7] = [
    (COM1 + 3, 0x80), // the divisor's latch
    (COM1, 1),
    (COM1 + 1, 0),
    (COM1 + 3, 0x03),
    (COM1 + 1, 0),
    (COM1 + 2, 0x07),
    (COM1 + 4, 0x0b),
];
/// Tries before COM1 is given up: a boot goes on, or ends with its signal to the host,
/// even if nobody on the host reads the serial port.
const SEND_TRIES: u32 = 100_000;

/// The outputs that exist. All false at first, so that the static is .bss: initialised
/// statics do not survive a restart.
struct Outputs {
    looked: bool,
    com1: bool,
    debug: [bool; 2],
}

static OUTPUTS: Mutex<Outputs> = Mutex::new(Outputs {
    looked: false,
    com1: false,
    debug: [false; 2],
});

fn com1() -> Option<Uart16550<PioBackend>> {
    // SAFETY: on every machine COM1's ports belong to a UART or to nothing, and this
    // console, behind its lock, is their only user.
    unsafe { Uart16550::new_port(COM1) }.ok()
}

/// Sets COM1 up, if it is there. The driver's own set-up could wait for ever for an
/// empty transmitter.
fn set_up_com1() -> bool {
    let is_there = com1().is_some_and(|mut uart| uart.check_present());
    if is_there {
        for &(port, value) in &SETTINGS {
            out8(port, value);
        }
    }
    is_there
}

impl Outputs {
    fn look(&mut self) {
        if !self.looked {
            self.looked = true;
            self.com1 = set_up_com1();
            self.debug = DEBUG_CONSOLES.map(|port| in8(port) == DEBUG_CONSOLE_ANSWER);
        }
    }

    fn put(&mut self, byte: u8) {
        for (port, there) in DEBUG_CONSOLES.iter().zip(self.debug) {
            if there {
                out8(*port, byte);
            }
        }
        if self.com1
            && let Some(mut uart) = com1()
        {
            self.com1 = (0..SEND_TRIES).any(|_| uart.try_send_byte(byte).is_ok());
        }
    }
}

/// Prints on all outputs that exist.
fn print(text: &[u8]) {
    // `try_lock`: an exception while printing must not wait for itself.
    if let Some(mut outputs) = OUTPUTS.try_lock() {
        outputs.look();
        text.iter().for_each(|byte| outputs.put(*byte));
    }
}

/// All outputs, as one terminal.
#[derive(Debug)]
pub struct Console;

impl Terminal for Console {
    fn print(&mut self, text: &[u8]) {
        print(text);
    }

    fn ticks(&mut self) -> u64 {
        // SAFETY: RDTSC reads a counter and nothing else; every processor that
        // QEMU models runs it, the 486 too (seen).
        unsafe { core::arch::x86::_rdtsc() }
    }
}

impl Terminal for Hardware {
    fn print(&mut self, text: &[u8]) {
        print(text);
    }

    fn ticks(&mut self) -> u64 {
        Console.ticks()
    }
}
