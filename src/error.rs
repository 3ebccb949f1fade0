//! What can go wrong, each with a stable code, one message and what to do.

/// Everything that stops a boot.
///
/// The discriminant is the stable code that is printed, in hexadecimal, and that is
/// written to the debug-exit port; codes are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Error {
    /// No fw_cfg device answers: not a QEMU machine, or one without it.
    NoFwCfg = 0x10,
    /// fw_cfg reports a failed transfer.
    FwCfgTransfer = 0x11,
    /// The fw_cfg file directory is larger than the firmware can hold.
    TooManyFiles = 0x12,
    /// `etc/e820` is missing, malformed or describes no usable low memory.
    BadE820 = 0x13,
    /// More memory map entries than a zero page can carry.
    TooManyE820Entries = 0x14,
    /// The firmware does not know the host bridge, which it would have to set up.
    UnknownMachine = 0x15,

    /// An option, a file or `qboot.pci=`, has a value that does not exist.
    BadOption = 0x16,

    /// Neither `-kernel` nor anything else to boot was given.
    NoKernel = 0x20,
    /// The kernel is a PE/COFF image without a Linux setup header.
    KernelIsPe = 0x21,
    /// The kernel's format is none of bzImage, ELF with PVH note, multiboot.
    UnknownKernel = 0x22,
    /// An ELF kernel without a PVH entry note.
    ElfWithoutPvh = 0x23,
    /// A bzImage whose setup header contradicts itself.
    BadSetupHeader = 0x24,
    /// The kernel does not fit into RAM with the memory it asks for.
    KernelTooBig = 0x25,
    /// The kernel's segments lie in memory that the firmware itself uses.
    KernelOverlapsFirmware = 0x26,
    /// The kernel image ends before its own header says.
    KernelTruncated = 0x27,
    /// The initrd does not fit below the kernel's limit.
    InitrdTooBig = 0x28,
    /// The command line is longer than the kernel takes.
    CommandLineTooLong = 0x29,
    /// The bzImage can only be entered at its 16-bit code.
    Needs16BitEntry = 0x2a,
    /// The multiboot information that QEMU prepared is malformed.
    BadMultiboot = 0x2b,

    /// The table-loader script is malformed.
    BadLoaderScript = 0x30,
    /// A table-loader command names a file that is not there.
    LoaderFileMissing = 0x31,
    /// A table-loader command points outside its file.
    LoaderOutOfBounds = 0x32,
    /// ACPI tables do not fit into RAM.
    TablesTooBig = 0x33,
    /// The table-loader script allocates more files than can be tracked.
    TooManyTables = 0x34,
    /// The SMBIOS anchor or its tables are malformed.
    BadSmbios = 0x35,
    /// The SMBIOS tables do not fit.
    SmbiosTooBig = 0x36,

    // 0x40 was that of PCI resources without room, which warning 0x43 tells of.
    /// More PCI functions than the firmware can track.
    PciTooMany = 0x41,
    // 0x42 was that of too many levels of bridges, of which there are no more
    // than buses: warning 0x44.
    /// The firmware asked for memory that is not its own: a defect of ours.
    NotOurMemory = 0x70,
    /// A processor exception inside the firmware.
    Exception = 0x71,
    /// The firmware's stack ran over.
    StackOverflow = 0x72,
}

impl Error {
    /// The stable code.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What is wrong, and after the semicolon what to do about it.
    ///
    /// No trailing full stop: sizes may follow in brackets.
    #[must_use]
    #[rustfmt::skip]
    pub const fn message(self) -> &'static str {
        match self {
            Self::NoFwCfg => "no fw_cfg device; run this firmware under QEMU on a pc, q35, microvm or isapc machine",
            Self::FwCfgTransfer => "fw_cfg transfer failed; QEMU refused to read an item it announced",
            Self::TooManyFiles => "too many fw_cfg files; drop some -fw_cfg options",
            Self::BadE820 => "etc/e820 from fw_cfg is missing or malformed; use QEMU 2.8 or later, with at least 1 MiB of RAM",
            Self::TooManyE820Entries => "too many memory map entries; the zero page holds 128",
            Self::UnknownMachine => "unknown host bridge; use -machine pc, q35, microvm or isapc",
            Self::BadOption => "unknown value of an opt/org.qboot/ file or of qboot.pci=; pci takes auto, none, scan or full, entry takes auto, 16 or 32, log takes off, steps or all",
            Self::NoKernel => "no kernel; pass one with -kernel",
            Self::KernelIsPe => "the kernel is a PE/EFI image (UKI?), which needs UEFI firmware; pass a bzImage or a PVH vmlinux",
            Self::UnknownKernel => "unknown kernel format; pass a bzImage, an ELF with a PVH note or a multiboot kernel",
            Self::ElfWithoutPvh => "the ELF kernel has no PVH entry note, or the machine type is older than 4.0; build it with CONFIG_PVH=y or pass its bzImage",
            Self::BadSetupHeader => "the bzImage's setup header is malformed; is the file whole?",
            Self::KernelTooBig => "the kernel does not fit into memory; give the guest more with -m",
            Self::KernelOverlapsFirmware => "the kernel's segments overlap the firmware's memory below 1 MiB; link it at 1 MiB or higher",
            Self::KernelTruncated => "the kernel image is shorter than its header says; is the file whole?",
            Self::InitrdTooBig => "the initrd does not fit into memory; give the guest more with -m or make it smaller",
            Self::CommandLineTooLong => "the command line is longer than the kernel takes; shorten -append",
            Self::Needs16BitEntry => "the kernel can only be entered in 16-bit mode, and its setup code does not fit below 640 KiB",
            Self::BadMultiboot => "the multiboot information is malformed; is the kernel file whole?",
            Self::BadLoaderScript => "etc/table-loader is malformed; QEMU and its -fw_cfg options disagree with the ACPI linker-loader format",
            Self::LoaderFileMissing => "etc/table-loader names a file that fw_cfg does not have",
            Self::LoaderOutOfBounds => "etc/table-loader points outside its files",
            Self::TablesTooBig => "the ACPI tables do not fit into memory; give the guest more with -m",
            Self::TooManyTables => "etc/table-loader allocates too many files",
            Self::BadSmbios => "the SMBIOS tables are malformed; check -smbios file=",
            Self::SmbiosTooBig => "the SMBIOS tables do not fit into memory; give the guest more with -m or fewer -smbios strings",
            Self::PciTooMany => "too many PCI functions; use fewer devices or opt/org.qboot/pci=none",
            Self::NotOurMemory => "internal error: memory used that is not the firmware's; please report it",
            Self::Exception => "processor exception in the firmware; please report it",
            Self::StackOverflow => "internal error: stack overflow in the firmware; please report it",
        }
    }
}

/// What a boot goes on after, but somebody may miss something for.
///
/// Codes are one series with those of [`Error`].
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

/// The result of anything that can stop a boot.
pub type Result<T> = core::result::Result<T, Error>;

/// How much was asked for and how much there was, in KiB rounded up: printed
/// after the message of an error that is about room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shortfall {
    /// KiB needed; 0 when the error is not about room.
    pub need_kib: u32,
    /// KiB available.
    pub have_kib: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;
    use std::string::String;

    /// In the order of their codes.
    const ALL: [Error; COUNT] = [
        Error::NoFwCfg,
        Error::FwCfgTransfer,
        Error::TooManyFiles,
        Error::BadE820,
        Error::TooManyE820Entries,
        Error::UnknownMachine,
        Error::BadOption,
        Error::NoKernel,
        Error::KernelIsPe,
        Error::UnknownKernel,
        Error::ElfWithoutPvh,
        Error::BadSetupHeader,
        Error::KernelTooBig,
        Error::KernelOverlapsFirmware,
        Error::KernelTruncated,
        Error::InitrdTooBig,
        Error::CommandLineTooLong,
        Error::Needs16BitEntry,
        Error::BadMultiboot,
        Error::BadLoaderScript,
        Error::LoaderFileMissing,
        Error::LoaderOutOfBounds,
        Error::TablesTooBig,
        Error::TooManyTables,
        Error::BadSmbios,
        Error::SmbiosTooBig,
        Error::PciTooMany,
        Error::NotOurMemory,
        Error::Exception,
        Error::StackOverflow,
    ];
    const COUNT: usize = 30;
    const WARNINGS: [Warning; 2] = [Warning::PciUnplaced, Warning::PciUnnumbered];

    #[test]
    fn codes_are_distinct_and_none_is_left_out() {
        assert!(ALL.windows(2).all(|pair| pair[0].code() < pair[1].code()));
        // Twice the code and one has to be an exit status.
        assert!(ALL.iter().all(|error| error.code() < 0x80));
        let warnings = WARNINGS.map(Warning::code);
        assert!(ALL.iter().all(|error| !warnings.contains(&error.code())));
        let variants = include_str!("error.rs").lines();
        let variants = variants.filter(|line| line.contains(" = 0x") && line.ends_with(','));
        assert_eq!(variants.count(), ALL.len() + WARNINGS.len());
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
