//! Guests that sleep and are woken.

use super::*;
use crate::memory::map::tests::map_of;
use crate::phys::u32_at;
use crate::tables::acpi::{Table, Tables};
use crate::wake::{Vector, Wake, note, resume};

const NOTE: PhysRange = layout::WAKE_NOTE;

/// A captured machine whose kernel sleeps: it waits at `vector`, and QEMU has reset
/// the devices to wake it.
struct Sleeper {
    guest: Guest,
    board: Board,
    facs: u32,
    /// What QEMU was told at the boot.
    told: Vec<(u16, u32, Vec<u8>)>,
}

impl Sleeper {
    fn new(name: &str, board: Board, vector: u32) -> Self {
        let mut guest = Guest::new(board, capture::device(name), ram_of(name));
        guest.command_line(b"quiet");
        guest.kernel(&small_bzimage());
        let result = guest.run();
        assert!(result.is_ok(), "{name}: {result:?}");
        let facs = u32_at(guest.machine.memory.peek(NOTE), 8).unwrap();
        let told = guest.machine.fw_cfg.written.split_off(0);
        let mut sleeper = Self {
            guest,
            board,
            facs,
            told,
        };
        sleeper.put(facs + 12, &vector.to_le_bytes());
        sleeper.reset(0xfe);
        sleeper
    }

    fn put(&mut self, at: u32, bytes: &[u8]) {
        let memory = &mut self.guest.machine.memory;
        let at = at as usize;
        memory.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn reset(&mut self, status: u8) {
        let machine = &mut self.guest.machine;
        machine.io = Devices {
            pci: self.board.pci(),
            shutdown_status: (status, 0),
            ..Devices::default()
        };
        machine.memory.touched.clear();
        // Not opened before it is looked at.
        machine
            .memory
            .open(PhysRange::fixed(layout::HIGH_RAM, layout::HIGH_RAM));
    }

    fn wake(&mut self) -> Wake {
        resume(&mut self.guest.machine, self.guest.host_bridge)
    }
}

#[test]
fn a_guest_is_entered_where_it_waits_and_nothing_of_it_is_written() {
    for (name, board) in [
        ("pc", Board::Pc),
        ("q35", Board::Q35),
        ("q35-nvdimm-vmgenid", Board::Q35),
    ] {
        let mut sleeper = Sleeper::new(name, board, 0x9_a123);
        let before = sleeper.guest.machine.memory.bytes.clone();
        let vector = Vector::Real(0x9a12, 3);
        assert_eq!(sleeper.wake(), Wake::Resume(vector), "{name}");
        let machine = &sleeper.guest.machine;
        assert!(machine.memory.bytes == before, "{name}: memory was written");
        assert!(machine.memory.refused.is_empty(), "{name}");
        assert_eq!(machine.fw_cfg.written, sleeper.told, "{name}");
        assert_eq!(sleeper.told.len(), usize::from(name.contains("vmgenid")));
        // QEMU keeps the reason over resets.
        assert_eq!(machine.io.shutdown_status.0, 0);
        assert_eq!(sleeper.wake(), Wake::Boot, "{name}: a second time");
    }
}

#[test]
fn the_chipset_is_set_up_as_for_a_boot() {
    for (name, board) in [("pc", Board::Pc), ("q35", Board::Q35)] {
        let mut sleeper = Sleeper::new(name, board, 0x1000);
        let function = match board {
            Board::Pc => 1 << 3 | 3,
            _ => 0x1f << 3,
        };
        let pm_base = |sleeper: &mut Sleeper| {
            let pci = &mut sleeper.guest.machine.io.pci;
            crate::platform::Io::out32(pci, 0xcf8, 1 << 31 | function << 8 | 0x40);
            crate::platform::Io::in32(pci, 0xcfc)
        };
        sleeper.wake();
        assert_eq!(pm_base(&mut sleeper) & 0xffc0, 0x600, "{name}");
    }
}

#[test]
fn an_ordinary_reset_wakes_nobody() {
    for status in [0, 5, 0xff] {
        let mut sleeper = Sleeper::new("pc", Board::Pc, 0x1000);
        sleeper.reset(status);
        assert_eq!(sleeper.wake(), Wake::Boot);
        // Nothing but the question.
        assert_eq!(sleeper.guest.machine.io.accesses, 2);
        assert_eq!(sleeper.guest.machine.memory.touched, []);
    }
}

#[test]
fn garbage_in_the_note_wakes_nobody() {
    let mut sleeper = Sleeper::new("q35-nvdimm-vmgenid", Board::Q35, 0x1000);
    let note = sleeper.guest.machine.memory.peek(NOTE).to_vec();
    // The mark, the checksum, the FACS, flags, the first pointer.
    for at in 0..28 {
        let mut bad = note.clone();
        bad[at] ^= 0x10;
        sleeper.put(NOTE.start(), &bad);
        sleeper.reset(0xfe);
        assert_eq!(sleeper.wake(), Wake::Boot, "byte {at}");
        assert!(sleeper.guest.machine.fw_cfg.written.is_empty());
    }
    sleeper.put(NOTE.start(), &note);
    sleeper.reset(0xfe);
    assert_eq!(sleeper.wake(), Wake::Resume(Vector::Real(0x100, 0)));
}

#[test]
fn the_facs_is_looked_at_before_it_is_believed() {
    let with = |offset: u32, bytes: &[u8]| {
        let mut sleeper = Sleeper::new("pc", Board::Pc, 0x1234);
        let facs = sleeper.facs;
        sleeper.put(facs + offset, bytes);
        sleeper.wake()
    };
    let real = Wake::Resume(Vector::Real(0x123, 4));
    assert_eq!(with(0, b"FACS"), real);
    assert_eq!(with(0, b"FACP"), Wake::Boot);
    assert_eq!(with(12, &[0; 4]), Wake::Boot);
    assert_eq!(with(12, &0x10_0000_u32.to_le_bytes()), Wake::Boot);
    assert_eq!(
        with(12, &0xf_ffff_u32.to_le_bytes()),
        Wake::Resume(Vector::Real(0xffff, 15))
    );
    // The wide address counts from version 1 on (ACPI 6.5, 5.2.10).
    let wide = 0x123_4567_u64.to_le_bytes();
    assert_eq!(with(24, &wide), real);
    let version_1 = [&wide[..], &[1]].concat();
    assert_eq!(with(24, &version_1), Wake::Resume(Vector::Flat(0x123_4567)));
    assert_eq!(with(32, &[1]), real);
    assert_eq!(with(28, &[1, 0, 0, 0, 1]), Wake::Boot);
}

#[test]
fn a_note_that_names_no_ram_wakes_nobody() {
    for facs in [0, 0x9_fc00, 0xf_e000, 0xfec0_0000, 0xffff_ffc0, u32::MAX] {
        let mut sleeper = Sleeper::new("pc", Board::Pc, 0x1000);
        let old = sleeper.facs;
        let memory = sleeper.guest.machine.memory.peek(NOTE);
        let checksum = u32_at(memory, 4).unwrap();
        let checksum = checksum.wrapping_add(old).wrapping_sub(facs);
        sleeper.put(NOTE.start() + 4, &checksum.to_le_bytes());
        sleeper.put(NOTE.start() + 8, &facs.to_le_bytes());
        assert_eq!(sleeper.wake(), Wake::Boot, "{facs:#x}");
    }
}

#[test]
fn a_kernel_that_qemu_loads_again_is_lost() {
    let mut sleeper = Sleeper::new("q35", Board::Q35, 0x1000);
    let mut guest = Guest::new(Board::Q35, capture::device("q35"), 512 << 20);
    guest.command_line(b"");
    assert!(guest.elf(&small_elf(), 0x10_0000));
    assert!(matches!(guest.run(), Ok(Handoff::Pvh { .. })));
    sleeper.guest = guest;
    sleeper.reset(0xfe);
    assert_eq!(sleeper.wake(), Wake::Lost);
    assert_eq!(sleeper.wake(), Wake::Boot, "the reason is cleared");
}

const TPM: u32 = 0xfed4_0000;

/// Wakes a guest after a boot with such a table, and a TPM that reads as `answers`.
fn wake_with_tpm(signature: &[u8; 4], answers: &[(u32, u32)]) -> Sleeper {
    let mut sleeper = Sleeper::new("pc", Board::Pc, 0x1000);
    let fadt = PhysRange::new(0x20_0000, 40).unwrap();
    sleeper.put(fadt.start() + 36, &sleeper.facs.to_le_bytes());
    let mut tables = Tables::new(None);
    for (signature, range) in [(*b"FACP", fadt), (*signature, fadt)] {
        tables.all.push(Table { signature, range });
    }
    let map = map_of(512 << 20);
    let handoff = Handoff::Linux {
        entry: 0,
        boot_params: 0,
    };
    let machine = &mut sleeper.guest.machine;
    machine.memory.open(map.high());
    note(machine, &tables, &map, &handoff, false).unwrap();
    let answers = answers.iter().map(|(at, value)| (TPM | at, *value));
    machine.io.answers = answers.collect();
    assert!(matches!(sleeper.wake(), Wake::Resume(_)));
    sleeper
}

/// Which registers of the TPM were written.
fn tpm_writes(sleeper: &Sleeper) -> Vec<(u32, u32)> {
    let writes = sleeper.guest.machine.io.writes.iter();
    let tpm = writes.filter(|(at, _)| (TPM..TPM + 0x1000).contains(at));
    tpm.map(|(at, value)| (at & 0xfff, *value)).collect()
}

#[test]
fn a_tpm_is_started_with_what_it_has_saved() {
    assert_eq!(tpm_writes(&wake_with_tpm(b"none", &[])), []);
    for (table, command) in [
        (b"TPM2", *b"\x80\x01\0\0\0\x0c\0\0\x01\x44\0\x01"),
        (b"TCPA", *b"\0\xc1\0\0\0\x0c\0\0\0\x99\0\x02"),
    ] {
        let mut fifo = std::vec![(0, 2), (0x18, 0x40)];
        fifo.extend(command.map(|byte| (0x24, u32::from(byte))));
        fifo.extend([(0x18, 0x20), (0x18, 0x40), (0, 0x20)]);
        let mut crb = std::vec![(0x08, 1), (0x40, 1)];
        crb.extend((0x80..).zip(command.map(u32::from)));
        crb.extend([(0x4c, 1), (0x40, 2), (0x08, 2)]);
        // Which interface it is, and its status: done.
        for (answers, expected) in [
            ([(0x30, 0xff70), (0x18, 0x10)], &fifo),
            ([(0x30, 0x4001), (0x4c, 0xfffe)], &crb),
        ] {
            let sleeper = wake_with_tpm(table, &answers);
            assert_eq!(tpm_writes(&sleeper), *expected, "{table:?}");
            assert!(sleeper.guest.machine.io.accesses < 1000);
        }
    }
}

#[test]
fn a_tpm_that_never_answers_is_given_up() {
    for answers in [[(0x30, 0xff70), (0x18, 0xef)], [(0x30, 0x4001), (0x4c, 1)]] {
        let sleeper = wake_with_tpm(b"TPM2", &answers);
        let tries = sleeper.guest.machine.io.accesses;
        assert!((1_000_000..1_001_000).contains(&tries), "{tries}");
    }
}
