//! Unified kernel images.

use super::*;

const RAM: u32 = 64 << 20;

fn guest(line: &[u8], file: &[u8]) -> Guest {
    let mut fw_cfg = FakeFwCfg::new();
    fw_cfg.file("etc/e820", &e820(RAM.into()));
    let mut guest = Guest::new(Board::Microvm, fw_cfg, RAM);
    guest.command_line(line);
    guest.kernel(file);
    guest
}

/// How a boot ends, the command line, and the initrd.
fn boot(line: &[u8], file: &[u8]) -> Result<(String, Vec<u8>)> {
    let mut guest = guest(line, file);
    let result = guest.run();
    assert_eq!(guest.check(result), Ok(()));
    let Handoff::Linux { boot_params, .. } = result? else {
        panic!("{result:?}")
    };
    let memory = &guest.machine.memory;
    let page = memory
        .peek(PhysRange::new(boot_params, 4096).unwrap())
        .to_vec();
    let word = |at| u32_at(&page, at).unwrap();
    let line = memory.peek(PhysRange::new(word(0x228), 64).unwrap());
    let line = line.split(|byte| *byte == 0).next().unwrap();
    let line = String::from_utf8(line.to_vec()).unwrap();
    let initrd = PhysRange::new(word(0x218), word(0x21c)).unwrap();
    Ok((line, memory.peek(initrd).to_vec()))
}

fn fails(file: &[u8]) -> Error {
    boot(b"", file).unwrap_err()
}

#[test]
fn its_parts_go_where_qemus_would() {
    let linux = small_bzimage();
    let (ucode, initrd) = (std::vec![3; 510], std::vec![7; 5000]);
    let sections: [(&str, &[u8]); 5] = [
        (".osrel", b"ID=x"),
        (".cmdline", b"root=/dev/vda\n"),
        (".linux", &linux),
        (".initrd", &initrd),
        (".ucode", &ucode),
    ];
    // An archive starts at a multiple of four.
    let both = [&ucode[..], &[0, 0], &initrd].concat();
    for stub in [0, 1000, 0x1_0000, 0x2_0000] {
        for cut in [0, 1, 2, 3, 7, 40, 255] {
            let mut file = uki(stub, &sections);
            file[0x1f1] = cut;
            if (usize::from(cut) + 1) * 512 > file.len() {
                continue;
            }
            // What QEMU writes with vga=, in a field that is not read here.
            file[0x1fa..0x1fc].fill(0xff);
            let own = boot(b"", &file).unwrap();
            assert_eq!(own, ("root=/dev/vda ".into(), both.clone()));
            assert_eq!(boot(b"quiet", &file).unwrap().0, "quiet");
        }
    }
}

#[test]
fn a_boot_without_companions_takes_nothing_more() {
    let file = uki(0, &[(".linux", &small_bzimage())]);
    assert_eq!(boot(b"", &file), Ok((String::new(), Vec::new())));
}

#[test]
fn the_first_profile_counts() {
    let (linux, other) = (small_bzimage(), b"not this one");
    let with = |sections: &[(&str, &[u8])]| boot(b"", &uki(512, sections)).unwrap();
    let found = with(&[
        (".cmdline", b"all"),
        (".initrd", b"base"),
        (".linux", &linux),
        (".profile", b"ID=first"),
        (".cmdline", b"first"),
        (".cmdline", other),
        (".profile", b"ID=second"),
        (".cmdline", other),
        (".initrd", other),
        (".linux", other),
    ]);
    assert_eq!(found, ("first".into(), b"base".to_vec()));
    // As ukify makes one: everything belongs to it.
    let found = with(&[
        (".profile", b"ID=main"),
        (".cmdline", b"main"),
        (".linux", &linux),
    ]);
    assert_eq!(found.0, "main");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let linux = small_bzimage();
    let good = uki(512, &[(".cmdline", b"x"), (".linux", &linux)]);
    let changed = |at: usize, value: u32| {
        let mut file = good.clone();
        file[at..at + 4].copy_from_slice(&value.to_le_bytes());
        fails(&file)
    };
    // Fields of `.linux`, the second section: sizes and place.
    let header = 0x188 + 40;
    let end = good.len() as u32;
    for (at, value) in [
        (header + 20, end),
        (header + 20, u32::MAX),
        (header + 20, end - linux.len() as u32 + 1),
    ] {
        assert_eq!(
            changed(at, value),
            Error::KernelTruncated,
            "{value:#x} at {at:#x}"
        );
    }
    assert_eq!(
        changed(header + 20, 0),
        Error::BadUki,
        "the PE header as .linux"
    );
    assert_eq!(
        changed(header + 8, 0x200),
        Error::KernelTruncated,
        "a part of a header"
    );
    assert_eq!(
        changed(header + 8, 0x400),
        Error::KernelTruncated,
        "no code"
    );
    assert_eq!(changed(header + 16, 0), Error::KernelIsPe, "nothing");
    assert_eq!(changed(0x3c, 0x4000), Error::BadUki, "headers out of reach");
    assert_eq!(changed(0x3c, u32::MAX), Error::BadUki, "headers nowhere");
    assert_eq!(
        changed(0x86, 500),
        Error::BadUki,
        "more sections than are read"
    );
    assert_eq!(
        changed(0x94, 0xffff),
        Error::BadUki,
        "a long optional header"
    );
    assert_eq!(changed(0x84, 0x2_aa64), Error::KernelForOtherMachine);
    assert_eq!(fails(&uki(0, &[(".text", &linux)])), Error::KernelIsPe);
    assert_eq!(fails(&uki(0, &[(".linux", b"\x1f\x8b")])), Error::BadUki);
}

#[test]
fn parts_without_room_are_refused() {
    let linux = small_bzimage();
    let long = std::vec![b'x'; 2048];
    let file = uki(0, &[(".linux", &linux), (".cmdline", &long)]);
    assert!(matches!(fails(&file), Error::CommandLineTooLong(_)));
    let file = uki(0, &[(".linux", &linux), (".cmdline", &long[1..])]);
    assert!(boot(b"", &file).is_ok());
    // An initrd that no memory has room for.
    let mut file = uki(0, &[(".linux", &linux), (".initrd", &long)]);
    file.resize(RAM as usize, 0);
    let (size, raw) = (0x188 + 40 + 8, 0x188 + 40 + 16);
    for at in [size, raw] {
        file[at..at + 4].copy_from_slice(&(60_u32 << 20).to_le_bytes());
    }
    assert!(matches!(fails(&file), Error::InitrdTooBig(_)));
}

#[test]
fn parts_that_overlap_are_each_read() {
    let linux = small_bzimage();
    let mut file = uki(0, &[(".linux", &linux), (".initrd", &[9; 512])]);
    // The initrd is the kernel's last block.
    let at = file.len() as u32 - 1024;
    file[0x188 + 40 + 20..0x188 + 40 + 24].copy_from_slice(&at.to_le_bytes());
    assert_eq!(boot(b"", &file).unwrap().1, std::vec![0; 512]);
}

#[test]
fn real_mode_code_in_one_is_entered() {
    let sections: [(&str, &[u8]); 3] = [
        (".cmdline", b"root=/dev/vda"),
        (".initrd", &[7; 100]),
        (".linux", &small_bzimage()),
    ];
    let mut guest = guest(b"", &uki(700, &sections));
    guest.machine.fw_cfg.file("opt/org.qboot/entry", b"16");
    let result = guest.run();
    assert!(matches!(result, Ok(Handoff::RealMode { .. })), "{result:?}");
    assert_eq!(guest.check(result), Ok(()));
}
