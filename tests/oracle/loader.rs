//! Commands of the table loader's script, 128 bytes each, as QEMU writes them
//! (`hw/acpi/bios-linker-loader.c`).

fn command(number: u32, fields: &[(usize, &[u8])]) -> Vec<u8> {
    let mut command = vec![0; 128];
    for (at, field) in fields.iter().chain([&(0, &number.to_le_bytes()[..])]) {
        command[*at..at + field.len()].copy_from_slice(field);
    }
    command
}

/// Loads a file; `zone` 1 is high memory, 2 the F segment.
#[must_use]
pub fn allocate(file: &str, align: u32, zone: u8) -> Vec<u8> {
    let align = align.to_le_bytes();
    command(1, &[(4, file.as_bytes()), (60, &align), (64, &[zone])])
}

/// Adds the address of the file `to` to a number in `file`.
#[must_use]
pub fn add_pointer(file: &str, to: &str, offset: u32, width: u8) -> Vec<u8> {
    let names = [(4, file.as_bytes()), (60, to.as_bytes())];
    let offset = offset.to_le_bytes();
    command(2, &[names[0], names[1], (116, &offset), (120, &[width])])
}

/// Makes the sum of `len` bytes 0 by the byte at `result`.
#[must_use]
pub fn add_checksum(file: &str, result: u32, start: u32, len: u32) -> Vec<u8> {
    let [result, start, len] = [result, start, len].map(u32::to_le_bytes);
    let fields: [(usize, &[u8]); 3] = [(60, &result), (64, &start), (68, &len)];
    command(3, &[&[(4, file.as_bytes())], &fields[..]].concat())
}

/// Tells QEMU, in its file `file`, where in memory the file `to` came to lie.
#[must_use]
pub fn write_pointer(file: &str, to: &str, offset: u32, to_offset: u32, width: u8) -> Vec<u8> {
    let [offset, to_offset] = [offset, to_offset].map(u32::to_le_bytes);
    let names = [(4, file.as_bytes()), (60, to.as_bytes())];
    let fields: [(usize, &[u8]); 3] = [(116, &offset), (120, &to_offset), (124, &[width])];
    command(4, &[&names, &fields[..]].concat())
}
