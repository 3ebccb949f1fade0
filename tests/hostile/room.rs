//! Sizes that just fit, and that just do not.

use super::*;

#[test]
fn little_memory() -> Result<()> {
    let mut cases = Cases::default();
    for machine in ALL {
        for mib in [
            1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 17, 24, 31, 32, 33, 48, 63, 64,
        ] {
            let kind = [Kind::BzImage, Kind::Pvh][cases.0.len() % 2];
            // 1 MiB for the kernel, and for the tables.
            let end = if mib == 1 {
                End::Fails(Error::KernelTooBig(ROOM))
            } else if mib < 4 {
                End::Either
            } else {
                End::Entered
            };
            let case = case(format!("{mib} MiB"), machine, &kind.image(Mode::Exit)?, end)?;
            cases.push(case.with(|qemu| qemu.memory_mib(mib)));
        }
    }
    cases.run()
}

/// The largest initrd is what an error says there is room for.
#[test]
fn initrds_that_just_fit() -> Result<()> {
    let mut cases = Cases::default();
    for (machine, kind, mib) in [
        (PC, Kind::BzImage, 16),
        (PC, Kind::Pvh, 5),
        (Q35, Kind::BzImage, 8),
        (Q35, Kind::Pvh, 32),
        (MICROVM, Kind::BzImage, 4),
        (MICROVM, Kind::Pvh, 16),
    ] {
        let image = kind.image(Mode::Exit)?;
        let with = |len: usize, end| {
            let case = case(format!("an initrd of {len} bytes"), machine, &image, end)?;
            case.with(|qemu| qemu.memory_mib(mib))
                .with_initrd(&vec![0x5a; len])
        };
        // QEMU itself refuses what leaves it no room for tables.
        let too_big = ((mib as usize) << 20) - 0x3_0000;
        let too_big = with(too_big, End::Fails(Error::InitrdTooBig(ROOM)))?;
        let Outcome::Failed { line, .. } = too_big.run()? else {
            bail!("{machine}: an initrd as large as all memory fits");
        };
        let room = line
            .rsplit_once("has ")
            .context("no size in the message")?
            .1;
        let room: usize = room.trim_end_matches(" KiB)").parse()?;
        cases.push(too_big);
        for (len, end) in [
            (1, End::Entered),
            (4096, End::Entered),
            (4097, End::Entered),
            ((room << 10) - 1, End::Entered),
            (room << 10, End::Entered),
            ((room << 10) + 1, End::Fails(Error::InitrdTooBig(ROOM))),
            ((room << 10) + 4096, End::Fails(Error::InitrdTooBig(ROOM))),
        ] {
            cases.push(with(len, end)?);
        }
    }
    // A kernel that takes its initrd only so high.
    for (last, end) in [
        (0x10_0000, End::Fails(Error::InitrdTooBig(ROOM))),
        (0x30_0ffe, End::Fails(Error::InitrdTooBig(ROOM))),
        (0x30_0fff, End::Entered),
        (0x7fff_ffff, End::Entered),
        (0xffff_ffff, End::Entered),
    ] {
        let mut image = BzImage::minimal(Mode::Exit)?;
        image.set_u32(hdr::INITRD_ADDR_MAX, last);
        let name = format!("an initrd up to {last:#x}");
        let case = case(name, MICROVM, &image.bytes(), end)?;
        cases.push(case.with_initrd(&[0x5a; 4096])?);
    }
    cases.run()
}

#[test]
fn command_lines() -> Result<()> {
    let mut cases = Cases::default();
    let too_long = End::Fails(Error::CommandLineTooLong(LENGTH));
    // The kernel's limit, the line's length. The last is the firmware's own.
    for (limit, len) in [
        (0_u32, 0),
        (0, 1),
        (1, 1),
        (1, 2),
        (255, 255),
        (255, 256),
        (2047, 2046),
        (2047, 2047),
        (2047, 2048),
        (4095, 4096),
        (0xfffe, 0xfffe),
        (0xfffe, 0xffff),
        (0xffff, 0xffff),
        (u32::MAX, 0xffff),
        (u32::MAX, 0x1_0000),
        (u32::MAX, 0x1_fff0),
    ] {
        let mut image = BzImage::minimal(Mode::Exit)?;
        image.set_u32(hdr::CMDLINE_SIZE, limit);
        let fits = len <= limit.min(0xffff);
        let end = if fits { End::Entered } else { too_long };
        let name = format!("{len} characters, at most {limit}");
        let case = case(name, cases.turn(), &image.bytes(), end)?;
        cases.push(case.with(|qemu| qemu.append(&"x".repeat(len as usize))));
    }
    for (guest_os, len, fits) in [
        (Some("linux"), 2047, true),
        (Some("linux"), 2048, false),
        (None, 2048, true),
        (None, 0xffff, true),
        (None, 0x1_0000, false),
    ] {
        let elf = Elf {
            guest_os: guest_os.map(str::to_owned),
            ..Elf::new(Mode::Exit)?
        };
        let end = if fits { End::Entered } else { too_long };
        let name = format!("{len} characters for {guest_os:?}");
        let case = case(name, cases.turn(), &elf.bytes()?, end)?;
        cases.push(case.with(|qemu| qemu.append(&"x".repeat(len))));
    }
    cases.run()
}

/// What the firmware itself looks for in the line.
#[test]
fn words_of_the_command_line() -> Result<()> {
    let mut cases = Cases::default();
    for line in [
        "acpi=off",
        "acpi=off pci=off acpi=off pci=noacpi noapic",
        "xacpi=off acpi=offx acpi= acpi",
        "\u{1}\u{7f}\u{a0}\t\n\"acpi=off\" --",
        " ",
    ] {
        let image = Kind::BzImage.image(Mode::Exit)?;
        let case = case(format!("{line:?}"), PC, &image, End::Entered)?;
        cases.push(case.with(|qemu| qemu.append(line)));
    }
    cases.run()
}
