//! Formatting of messages: `core::fmt` would cost several KiB.

/// Where messages go, and the clock that dates them.
pub trait Terminal {
    /// Prints ASCII text; lines end in CR and LF.
    fn print(&mut self, text: &[u8]);

    /// The time stamp counter.
    fn ticks(&mut self) -> u64;
}

/// Prints `format`, in which each of these takes one of `values`:
///
/// | sign | prints |
/// |---|---|
/// | `#` | a decimal number |
/// | `$` | eight hexadecimal digits |
/// | `~` | four hexadecimal digits |
/// | `%` | two hexadecimal digits |
pub fn print(terminal: &mut dyn Terminal, format: &str, values: &[u32]) {
    let mut values = values.iter().copied();
    for byte in format.bytes() {
        let digits: u8 = match byte {
            b'#' => 0,
            b'%' => 2,
            b'~' => 4,
            b'$' => 8,
            _ => {
                terminal.print(&[byte]);
                continue;
            }
        };
        let value = values.next().unwrap_or(0);
        match digits {
            0 => decimal(terminal, value),
            _ => hexadecimal(terminal, value, digits),
        }
    }
}

/// Prints text from outside, up to a NUL, with a dot for each character that could
/// confuse a terminal.
pub fn print_foreign(terminal: &mut dyn Terminal, text: &[u8]) {
    for byte in text.iter().take_while(|byte| **byte != 0) {
        let is_plain = matches!(byte, b' '..=b'~');
        terminal.print(&[if is_plain { *byte } else { b'.' }]);
    }
}

/// Calls itself for each digit, ten at most.
fn decimal(terminal: &mut dyn Terminal, value: u32) {
    if value >= 10 {
        decimal(terminal, value / 10);
    }
    terminal.print(&[digit(value % 10)]);
}

/// The last `count` of eight digits.
fn hexadecimal(terminal: &mut dyn Terminal, value: u32, count: u8) {
    for left in (0..count).rev() {
        let shift = u32::from(left) * 4;
        terminal.print(&[digit(value.wrapping_shr(shift) & 15)]);
    }
}

fn digit(value: u32) -> u8 {
    let digit = b"0123456789abcdef".get(value as usize);
    digit.copied().unwrap_or(b'?')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;
    use std::string::String;

    impl Terminal for String {
        fn print(&mut self, text: &[u8]) {
            self.push_str(core::str::from_utf8(text).unwrap());
        }
        fn ticks(&mut self) -> u64 {
            0
        }
    }

    fn shown(format: &str, values: &[u32]) -> String {
        let mut text = String::new();
        print(&mut text, format, values);
        text
    }

    #[test]
    fn numbers_read_as_the_standard_library_prints_them() {
        for value in [0, 1, 9, 10, 99, 100, 0xff, 0x1234_5678, u32::MAX] {
            let expected = format!("{value}, {value:08x}, {:02x}", value & 0xff);
            assert_eq!(shown("#, $, %", &[value, value, value & 0xff]), expected);
        }
    }

    #[test]
    fn what_others_have_written_is_printed_harmlessly() {
        let mut text = String::new();
        print_foreign(&mut text, b"a\x1b[2J\xff~\0behind");
        assert_eq!(text, "a.[2J.~");
    }
}
