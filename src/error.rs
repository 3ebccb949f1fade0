//! What can go wrong, each with a stable code, one message and what to do.

use crate::phys::{Refused, halves, join};
use crate::platform::TransferError;
use crate::text::{Terminal, print, print_foreign};

/// Everything that stops a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    // The first three are those of `TransferError` in its order, so that converting one
    // takes no code: it would be 460 bytes in the ROM.
    /// No fw_cfg device answers.
    NoFwCfg,
    /// fw_cfg reports a failed transfer.
    FwCfgTransfer,
    /// The firmware asked for memory that is not its own: a defect of the firmware.
    NotOurMemory,
    /// The fw_cfg file directory is larger than the firmware can hold.
    TooManyFiles,
    /// `etc/e820` is missing, malformed or describes no usable low memory.
    BadE820,
    /// More memory map entries than a zero page can carry.
    TooManyE820Entries,
    /// The firmware does not know the host bridge.
    UnknownMachine,
    /// An option, a file or `qboot.pci=`, has a value that does not exist.
    BadOption(BadValue),
    /// Neither `-kernel` nor anything else to boot was given.
    NoKernel,
    /// The kernel is a PE/COFF image without a Linux setup header or a `.linux`
    /// section.
    KernelIsPe,
    /// The kernel is not a bzImage, an ELF file with a PVH note, or a multiboot kernel.
    UnknownKernel,
    /// An ELF kernel without a PVH entry note.
    ElfWithoutPvh,
    /// A bzImage whose setup header contradicts itself.
    BadSetupHeader,
    /// The kernel does not fit into RAM with the memory it asks for.
    KernelTooBig(Room),
    /// The kernel's segments lie in memory that the firmware itself uses.
    KernelOverlapsFirmware,
    /// The kernel image ends before its own header says.
    KernelTruncated,
    /// The initrd does not fit below the kernel's limit.
    InitrdTooBig(Room),
    /// The command line is longer than the kernel takes.
    CommandLineTooLong(Length),
    /// The bzImage can only be entered at its 16-bit code.
    Needs16BitEntry,
    /// The kernel is for another processor than x86.
    KernelForOtherMachine,
    /// A unified kernel image is malformed, or its `.linux` is not a bzImage.
    BadUki,
    /// The multiboot information that QEMU prepared is malformed.
    BadMultiboot,
    /// The table-loader script is malformed.
    BadLoaderScript,
    /// A table-loader command names a file that is not there.
    LoaderFileMissing,
    /// A table-loader command points outside its file.
    LoaderOutOfBounds,
    /// ACPI tables do not fit into RAM.
    TablesTooBig(Room),
    /// The table-loader script allocates more files than can be tracked.
    TooManyTables,
    /// The SMBIOS anchor or its tables are malformed.
    BadSmbios,
    /// The SMBIOS tables do not fit.
    SmbiosTooBig(Room),
    /// More PCI functions than the firmware can track.
    PciTooMany,
    /// QEMU has overwritten the guest that was to wake up.
    CannotResume,
    /// A processor exception inside the firmware.
    Exception,
    /// The firmware's stack ran over.
    StackOverflow,
}

impl From<Refused> for Error {
    fn from(_: Refused) -> Self {
        Self::NotOurMemory
    }
}

impl From<TransferError> for Error {
    fn from(error: TransferError) -> Self {
        match error {
            TransferError::NoDevice => Self::NoFwCfg,
            TransferError::Failed => Self::FwCfgTransfer,
            TransferError::Refused => Self::NotOurMemory,
        }
    }
}

impl Error {
    /// The stable code and the message. The code is printed in hexadecimal and written
    /// to the debug-exit port. Codes are never reused: 0x40 and 0x42 had a meaning once.
    ///
    /// The message says what is wrong and, after the semicolon, what to do. It
    /// has no full stop: details may follow in brackets.
    #[rustfmt::skip]
    const fn describe(self) -> (u8, &'static str) {
        match self {
            Self::NoFwCfg => (0x10, "no fw_cfg device; run this firmware under QEMU on a pc, q35, microvm or isapc machine"),
            Self::FwCfgTransfer => (0x11, "fw_cfg transfer failed; QEMU refused to read an item it announced"),
            Self::TooManyFiles => (0x12, "too many fw_cfg files; drop some -fw_cfg options"),
            Self::BadE820 => (0x13, "etc/e820 from fw_cfg is missing or malformed; use QEMU 2.8 or later, with at least 1 MiB of RAM"),
            Self::TooManyE820Entries => (0x14, "too many memory map entries; the zero page holds 128"),
            Self::UnknownMachine => (0x15, "unknown host bridge; use -machine pc, q35, microvm or isapc"),
            Self::BadOption(_) => (0x16, "unknown value of an opt/org.qboot/ file or of qboot.pci=; pci takes auto, none, buses, scan or full, buses takes auto or 256, entry takes auto, 16 or 32, log takes off, steps or all"),
            Self::NoKernel => (0x20, "no kernel, and disks are not booted; pass one with -kernel"),
            Self::KernelIsPe => (0x21, "the kernel is an EFI program, which needs UEFI firmware; pass a bzImage, a UKI or a PVH vmlinux"),
            Self::UnknownKernel => (0x22, "unknown kernel format; pass a bzImage, a UKI, an ELF with a PVH note or a multiboot kernel"),
            Self::ElfWithoutPvh => (0x23, "the ELF kernel has no PVH entry note, or the machine type is older than 4.0; build it with CONFIG_PVH=y or pass its bzImage"),
            Self::BadSetupHeader => (0x24, "the bzImage's setup header is malformed; is the file whole?"),
            Self::KernelTooBig(_) => (0x25, "the kernel does not fit into memory; give the guest more with -m"),
            Self::KernelOverlapsFirmware => (0x26, "the kernel's segments overlap the firmware's memory below 1 MiB; link it at 1 MiB or higher"),
            Self::KernelTruncated => (0x27, "the kernel image is shorter than its header says; is the file whole?"),
            Self::InitrdTooBig(_) => (0x28, "the initrd does not fit into memory; give the guest more with -m or make it smaller"),
            Self::CommandLineTooLong(_) => (0x29, "the command line is longer than the kernel takes; shorten -append"),
            Self::Needs16BitEntry => (0x2a, "the kernel can only be entered in 16-bit mode, and its setup code does not fit below 640 KiB"),
            Self::BadMultiboot => (0x2b, "the multiboot information is malformed; is the kernel file whole?"),
            Self::KernelForOtherMachine => (0x2c, "the kernel is for another processor (ARM?); pass one for x86"),
            Self::BadUki => (0x2d, "the UKI is malformed, or its .linux is not a bzImage; is the file whole?"),
            Self::BadLoaderScript => (0x30, "etc/table-loader is malformed; QEMU and its -fw_cfg options disagree with the ACPI linker-loader format"),
            Self::LoaderFileMissing => (0x31, "etc/table-loader names a file that fw_cfg does not have"),
            Self::LoaderOutOfBounds => (0x32, "etc/table-loader points outside its files"),
            Self::TablesTooBig(_) => (0x33, "the ACPI tables do not fit into memory; give the guest more with -m"),
            Self::TooManyTables => (0x34, "etc/table-loader allocates too many files"),
            Self::BadSmbios => (0x35, "the SMBIOS tables are malformed; check -smbios file="),
            Self::SmbiosTooBig(_) => (0x36, "the SMBIOS tables do not fit into memory; give the guest more with -m or fewer -smbios strings"),
            Self::PciTooMany => (0x41, "too many PCI functions; use fewer devices or opt/org.qboot/pci=none"),
            Self::CannotResume => (0x50, "the guest cannot wake up, since QEMU has loaded its PVH kernel anew; boot its bzImage, or use -global ICH9-LPC.disable_s3=1 (q35) or PIIX4_PM.disable_s3=1 (pc)"),
            Self::NotOurMemory => (0x70, "internal error: memory used that is not the firmware's; please report it"),
            Self::Exception => (0x71, "processor exception in the firmware; please report it"),
            Self::StackOverflow => (0x72, "internal error: stack overflow in the firmware; please report it"),
        }
    }

    /// The stable code.
    #[must_use]
    pub const fn code(self) -> u8 {
        self.describe().0
    }

    /// What is wrong, and what to do about it.
    #[must_use]
    pub const fn message(self) -> &'static str {
        self.describe().1
    }

    /// Prints the error's line: code, message, and the sizes or the value.
    pub fn report(self, terminal: &mut dyn Terminal) {
        print(terminal, "qboot: error %: ", &[self.code().into()]);
        terminal.print(self.message().as_bytes());
        match self {
            Self::KernelTooBig(room)
            | Self::InitrdTooBig(room)
            | Self::TablesTooBig(room)
            | Self::SmbiosTooBig(room) => room.print(terminal),
            Self::CommandLineTooLong(length) => length.print(terminal),
            Self::BadOption(value) => value.print(terminal),
            _ => {}
        }
        terminal.print(b"\r\n");
    }
}

/// How much room was needed and how much there was, in bytes: the upper and the
/// lower half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room(u64);

/// How long something is, and how long it may be, in characters: the upper and
/// the lower half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length(u64);

/// The option in the first byte, then the start of the value that the user gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadValue(u64);

/// The options that take one of a few values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "their names say it")]
pub enum OptionName {
    Pci,
    Buses,
    Entry,
    Log,
    QbootPci,
}

impl OptionName {
    /// Each with its text, in the order of their numbers.
    const TEXTS: [&[u8]; 5] = [
        b" (pci=",
        b" (buses=",
        b" (entry=",
        b" (log=",
        b" (qboot.pci=",
    ];
}

impl Room {
    /// If the sizes are unknown.
    pub const UNKNOWN: Self = Self(0);

    /// Both in bytes.
    #[must_use]
    pub const fn new(need: u32, have: u32) -> Self {
        Self(join(need, have))
    }

    /// Prints nothing if there is room: then the place is taken that is asked for.
    fn print(self, terminal: &mut dyn Terminal) {
        let [need, have] = halves(self.0);
        if need > have {
            let kib = [need.div_ceil(1024), have >> 10];
            print(terminal, " (needs # KiB, has # KiB)", &kib);
        }
    }
}

impl Length {
    /// Both in characters.
    #[must_use]
    pub const fn new(len: u32, limit: u32) -> Self {
        Self(join(len, limit))
    }

    fn print(self, terminal: &mut dyn Terminal) {
        let text = " (# characters, the kernel takes #)";
        print(terminal, text, &halves(self.0));
    }
}

impl BadValue {
    /// If the value is unknown.
    pub const UNKNOWN: Self = Self(0);

    /// The first bytes of `value`.
    #[must_use]
    pub fn new(option: OptionName, value: &[u8]) -> Self {
        let mut bytes = [option as u8, 0, 0, 0, 0, 0, 0, 0];
        for (slot, byte) in bytes.iter_mut().skip(1).zip(value) {
            *slot = *byte;
        }
        Self(u64::from_le_bytes(bytes))
    }

    fn print(self, terminal: &mut dyn Terminal) {
        let [option, value @ ..] = self.0.to_le_bytes();
        let text = OptionName::TEXTS.get(usize::from(option));
        terminal.print(text.copied().unwrap_or_default());
        print_foreign(terminal, &value);
        terminal.print(b")");
    }
}

/// What does not stop a boot, but leaves a device or a bus out.
///
/// No [`Error`] has the same code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Warning {
    /// A BAR found no room in the address windows.
    PciUnplaced = 0x43,
    /// A bridge got no bus number.
    PciUnnumbered = 0x44,
}

impl Warning {
    /// The stable code.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What is missing, and after the semicolon what to do about it.
    #[must_use]
    #[rustfmt::skip]
    pub const fn message(self) -> &'static str {
        match self {
            Self::PciUnplaced => "no addresses for PCI BARs, whose devices stay off; use smaller BARs or fewer devices",
            Self::PciUnnumbered => "no numbers for PCI buses, which stay unseen; use fewer bridges",
        }
    }
}

/// The result of a step that can stop a boot.
pub type Result<T, E = Error> = core::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;
    use std::string::String;

    const ROOM: Room = Room::UNKNOWN;
    const VALUE: BadValue = BadValue::UNKNOWN;
    const LENGTH: Length = Length::new(2048, 2047);

    /// In the order of their codes.
    const ALL: [Error; COUNT] = [
        Error::NoFwCfg,
        Error::FwCfgTransfer,
        Error::TooManyFiles,
        Error::BadE820,
        Error::TooManyE820Entries,
        Error::UnknownMachine,
        Error::BadOption(VALUE),
        Error::NoKernel,
        Error::KernelIsPe,
        Error::UnknownKernel,
        Error::ElfWithoutPvh,
        Error::BadSetupHeader,
        Error::KernelTooBig(ROOM),
        Error::KernelOverlapsFirmware,
        Error::KernelTruncated,
        Error::InitrdTooBig(ROOM),
        Error::CommandLineTooLong(LENGTH),
        Error::Needs16BitEntry,
        Error::BadMultiboot,
        Error::KernelForOtherMachine,
        Error::BadUki,
        Error::BadLoaderScript,
        Error::LoaderFileMissing,
        Error::LoaderOutOfBounds,
        Error::TablesTooBig(ROOM),
        Error::TooManyTables,
        Error::BadSmbios,
        Error::SmbiosTooBig(ROOM),
        Error::PciTooMany,
        Error::CannotResume,
        Error::NotOurMemory,
        Error::Exception,
        Error::StackOverflow,
    ];
    const COUNT: usize = 33;
    const WARNINGS: [Warning; 2] = [Warning::PciUnplaced, Warning::PciUnnumbered];

    #[test]
    fn codes_are_distinct_and_none_is_left_out() {
        assert!(ALL.windows(2).all(|pair| pair[0].code() < pair[1].code()));
        // `code << 1 | 1` has to be an exit status.
        assert!(ALL.iter().all(|error| error.code() < 0x80));
        let warnings = WARNINGS.map(Warning::code);
        assert!(ALL.iter().all(|error| !warnings.contains(&error.code())));
        let source = include_str!("error.rs").split("mod tests").next().unwrap();
        let variants = source.lines();
        let variants = variants.filter(|line| line.contains("=> (0x") || line.contains(" = 0x"));
        assert_eq!(variants.count(), ALL.len() + WARNINGS.len());
    }

    #[test]
    fn a_report_has_the_sizes_or_the_value() {
        let shown = |error: Error| {
            let mut text = String::new();
            error.report(&mut text);
            let (_, details) = text.split_once(error.message()).unwrap();
            std::string::String::from(details)
        };
        assert_eq!(shown(Error::NoKernel), "\r\n");
        assert_eq!(shown(Error::KernelTooBig(ROOM)), "\r\n");
        assert_eq!(shown(Error::TablesTooBig(Room::new(4096, 4096))), "\r\n");
        let room = Room::new(4097, 1024 + 1023);
        assert_eq!(
            shown(Error::InitrdTooBig(room)),
            " (needs 5 KiB, has 1 KiB)\r\n"
        );
        let most = Room::new(u32::MAX, u32::MAX - 1);
        assert_eq!(
            shown(Error::TablesTooBig(most)),
            " (needs 4194304 KiB, has 4194303 KiB)\r\n"
        );
        assert_eq!(
            shown(Error::CommandLineTooLong(LENGTH)),
            " (2048 characters, the kernel takes 2047)\r\n"
        );
        for (option, value, text) in [
            (OptionName::Pci, &b"f\x1bll\0x"[..], "(pci=f.ll)"),
            (OptionName::Entry, b"64", "(entry=64)"),
            (OptionName::Log, b"", "(log=)"),
            (OptionName::QbootPci, b"everything", "(qboot.pci=everyth)"),
        ] {
            let bad = Error::BadOption(BadValue::new(option, value));
            assert_eq!(shown(bad), format!(" {text}\r\n"));
        }
    }

    #[test]
    fn every_error_says_something_of_its_own() {
        for (n, error) in ALL.iter().enumerate() {
            let message = error.message();
            assert!(message.len() > 10 && !message.ends_with('.'), "{message:?}");
            let others = ALL.iter().skip(n + 1);
            assert!(!others.map(|other| other.message()).any(|m| m == message));
            // What is wrong, and what to do about it or what that means.
            let says = [";", "fw_cfg", "etc/", ","].map(|part| message.contains(part));
            assert!(says.contains(&true), "{message:?}");
        }
    }

    /// `page` with `rows` in the table between the marks of that name.
    fn with_table(page: &str, name: &str, rows: impl Iterator<Item = String>) -> String {
        let (start, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
        let (before, rest) = page.split_once(&start).unwrap();
        let (table, after) = rest.split_once(&end).unwrap();
        let head = table.lines().take(2).map(|line| format!("{line}\n"));
        let table: String = head.chain(rows).collect();
        format!("{before}{start}{table}{end}{after}")
    }

    #[test]
    fn the_page_lists_every_error_and_warning() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/errors.md");
        let found = std::fs::read_to_string(path).unwrap();
        let errors = ALL.iter().map(|error| {
            let (code, message) = (error.code(), error.message());
            format!("| {code:02x} | {message} | {} |\n", code << 1 | 1)
        });
        let page = with_table(&found, "errors", errors);
        let warnings = WARNINGS.iter().map(|warning| {
            let (code, message) = (warning.code(), warning.message());
            format!("| {code:02x} | {message} |\n")
        });
        let page = with_table(&page, "warnings", warnings);
        if std::env::var_os("QBOOT_UPDATE_DOCS").is_some() {
            std::fs::write(path, &page).unwrap();
        } else {
            assert!(
                page == found,
                "docs/errors.md is out of date: QBOOT_UPDATE_DOCS=1 cargo test --package qboot --lib error"
            );
        }
    }
}
