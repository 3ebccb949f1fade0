//! The setup header of Linux's boot protocol: every bzImage has one.
//!
//! Specification: Linux `Documentation/arch/x86/boot.rst`; fields have the names that
//! they have there.

use crate::error::{Error, Result};
use crate::phys::{align_up, copy_into};
use crate::settings::options::EntryOption;
use crate::settings::policy::Guest;
use bitflags::bitflags;
use core::mem::offset_of;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Where [`SetupHeader`] lies in an image, and in the zero page alike.
pub const HEADER_OFFSET: usize = 0x1f1;
/// The header's magic, from where its own length counts.
const MAGIC_OFFSET: usize = 0x202;
/// Bytes of a sector, which `setup_sects` counts in.
pub const SECTOR: u32 = 512;
/// QEMU's boot loader id (0xb) in the high half; version 0.
pub const TYPE_OF_LOADER: u8 = 0xb0;
/// `initrd_addr_max` if the header has no such field, or ends before it.
const OLD_INITRD_ADDR_MAX: u32 = 0x37ff_ffff;
/// `cmdline_size` if the header has no such field, or ends before it.
const OLD_CMDLINE_SIZE: u32 = 255;

bitflags! {
    /// `loadflags`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct LoadFlags: u8 {
        /// The protected-mode code is loaded at 1 MiB.
        const LOADED_HIGH = 1 << 0;
        /// `heap_end_ptr` is valid.
        const CAN_USE_HEAP = 1 << 7;
        const _ = !0;
    }

    /// `xloadflags`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct XLoadFlags: u16 {
        /// A 64-bit kernel.
        const KERNEL_64 = 1 << 0;
        /// Kernel, boot parameters, command line and initrd may lie anywhere.
        const CAN_BE_LOADED_ABOVE_4G = 1 << 1;
        const _ = !0;
    }
}

/// `struct setup_header`, padded to the room that the zero page has for it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the specification has them")]
pub struct SetupHeader {
    pub setup_sects: u8,
    pub root_flags: U16,
    pub syssize: U32,
    pub ram_size: U16,
    pub vid_mode: U16,
    pub root_dev: U16,
    pub boot_flag: U16,
    /// A short jump over the header; its second byte is the header's length
    /// from `header` on.
    pub jump: [u8; 2],
    /// `HdrS`.
    pub header: [u8; 4],
    /// Protocol, 0x020c for 2.12.
    pub version: U16,
    pub realmode_swtch: U32,
    pub start_sys_seg: U16,
    pub kernel_version: U16,
    pub type_of_loader: u8,
    pub loadflags: u8,
    pub setup_move_size: U16,
    pub code32_start: U32,
    pub ramdisk_image: U32,
    pub ramdisk_size: U32,
    pub bootsect_kludge: U32,
    pub heap_end_ptr: U16,
    pub ext_loader_ver: u8,
    pub ext_loader_type: u8,
    pub cmd_line_ptr: U32,
    pub initrd_addr_max: U32,
    pub kernel_alignment: U32,
    pub relocatable_kernel: u8,
    pub min_alignment: u8,
    pub xloadflags: U16,
    pub cmdline_size: U32,
    pub hardware_subarch: U32,
    pub hardware_subarch_data: U64,
    pub payload_offset: U32,
    pub payload_length: U32,
    pub setup_data: U64,
    pub pref_address: U64,
    pub init_size: U32,
    pub handover_offset: U32,
    pub kernel_info_offset: U32,
    later: [u8; 0x24],
}
const _: () = {
    assert!(size_of::<SetupHeader>() == 0x290 - HEADER_OFFSET);
    assert!(offset_of!(SetupHeader, header) == MAGIC_OFFSET - HEADER_OFFSET);
    assert!(offset_of!(SetupHeader, init_size) == 0x260 - HEADER_OFFSET);
};

/// The least end of the header, from each protocol on.
const LEAST_END: [(u16, usize); 3] = [
    (0x20a, offset_of!(SetupHeader, handover_offset)), // behind init_size
    (0x205, offset_of!(SetupHeader, min_alignment)),   // behind relocatable_kernel
    (0, offset_of!(SetupHeader, bootsect_kludge)),     // behind ramdisk_size
];

/// Bytes of boot sector and setup code, by `setup_sects`.
pub(super) fn setup_len(setup_sects: u8) -> u32 {
    let sects = match setup_sects {
        0 => 4,
        sects => u32::from(sects),
    };
    sects.saturating_add(1).saturating_mul(SECTOR)
}

/// Which code of a bzImage is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// At `code32_start`, in 32-bit mode.
    Bits32,
    /// At its setup code, in real mode.
    Bits16,
}

impl SetupHeader {
    /// Whether `image` has a header.
    #[must_use]
    pub fn is_in(image: &[u8]) -> bool {
        let magic = image.get(MAGIC_OFFSET..);
        magic.is_some_and(|magic| magic.starts_with(b"HdrS"))
    }

    /// The header in `image`, which may be cut after the longest header (0x202 + 255
    /// bytes). Writes zeroes and defaults behind the header's end.
    ///
    /// # Errors
    /// [`Error::BadSetupHeader`] if it ends before fields that its protocol has, or is
    /// too long for the zero page.
    pub fn read(image: &mut [u8]) -> Result<&Self> {
        let bad = Error::BadSetupHeader;
        let bytes = image.get_mut(HEADER_OFFSET..).ok_or(bad)?;
        let (header, _) = Self::mut_from_prefix(bytes).map_err(|_| bad)?;
        let [_, len] = header.jump;
        let len = usize::from(len).saturating_add(MAGIC_OFFSET - HEADER_OFFSET);
        let version = header.version.get();
        let least = LEAST_END.iter().find(|(since, _)| version >= *since);
        if least.is_none_or(|(_, end)| len < *end) {
            return Err(bad);
        }
        let mut defaults = Self::new_zeroed();
        defaults.initrd_addr_max = OLD_INITRD_ADDR_MAX.into();
        defaults.cmdline_size = OLD_CMDLINE_SIZE.into();
        let behind = header.as_mut_bytes().get_mut(len..).ok_or(bad)?;
        copy_into(behind, defaults.as_bytes().get(len..).ok_or(bad)?)?;
        Ok(header)
    }

    /// Protocol version.
    #[must_use]
    pub const fn protocol(&self) -> u16 {
        self.version.get()
    }

    const fn has(&self, protocol: u16) -> bool {
        self.protocol() >= protocol
    }

    /// Where to enter the kernel: in 32-bit mode if the header allows it, unless
    /// `option` says otherwise.
    ///
    /// # Errors
    /// [`Error::Needs16BitEntry`] if the option cannot be met.
    pub fn entry(&self, option: EntryOption) -> Result<Entry> {
        let is_high = self.loadflags().contains(LoadFlags::LOADED_HIGH);
        let is_relocatable = self.has(0x205) && self.relocatable_kernel != 0;
        match option {
            EntryOption::Bits16 => Ok(Entry::Bits16),
            EntryOption::Bits32 if is_high => Ok(Entry::Bits32),
            EntryOption::Bits32 => Err(Error::Needs16BitEntry),
            EntryOption::Auto if is_high && is_relocatable => Ok(Entry::Bits32),
            EntryOption::Auto => Ok(Entry::Bits16),
        }
    }

    /// Who this is. It is 32-bit Linux only if the header can say so, has no
    /// `KERNEL_64`, and names a version, as Linux does.
    #[must_use]
    pub const fn guest(&self) -> Guest {
        let is_64 = self.xloadflags().contains(XLoadFlags::KERNEL_64);
        let is_32 = self.has(0x20c) && !is_64 && self.kernel_version.get() != 0;
        match self.payload() {
            Some(_) if is_32 => Guest::Linux32,
            Some(_) => Guest::Linux,
            None => Guest::Other,
        }
    }

    /// Bytes of boot sector and setup code.
    #[must_use]
    pub fn setup_len(&self) -> u32 {
        setup_len(self.setup_sects)
    }

    /// `loadflags`.
    #[must_use]
    pub const fn loadflags(&self) -> LoadFlags {
        LoadFlags::from_bits_retain(self.loadflags)
    }

    /// `xloadflags`, empty before protocol 2.12.
    #[must_use]
    pub const fn xloadflags(&self) -> XLoadFlags {
        if self.has(0x20c) {
            XLoadFlags::from_bits_retain(self.xloadflags.get())
        } else {
            XLoadFlags::empty()
        }
    }

    /// Bytes of the protected-mode code; 0 if the protocol is too old to say.
    #[must_use]
    pub const fn code_len(&self) -> u32 {
        if self.has(0x204) {
            self.syssize.get().saturating_mul(16)
        } else {
            0
        }
    }

    /// The highest byte that the initrd may occupy.
    #[must_use]
    pub const fn initrd_addr_max(&self) -> u32 {
        if self.has(0x203) {
            self.initrd_addr_max.get()
        } else {
            OLD_INITRD_ADDR_MAX
        }
    }

    /// The longest command line, without its NUL.
    #[must_use]
    pub const fn cmdline_size(&self) -> u32 {
        if self.has(0x206) {
            self.cmdline_size.get()
        } else {
            OLD_CMDLINE_SIZE
        }
    }

    /// `payload_offset` (from the start of the protected-mode code) and
    /// `payload_length`: the compressed kernel. Only Linux has one.
    #[must_use]
    pub const fn payload(&self) -> Option<(u32, u32)> {
        match (self.payload_offset.get(), self.payload_length.get()) {
            (offset, len @ 1..) if self.has(0x208) => Some((offset, len)),
            _ => None,
        }
    }

    /// The least length of the protected-mode code: it reaches the end of the payload,
    /// and nearly `syssize`, which is rounded up and may count a checksum that is not
    /// there.
    #[must_use]
    pub fn least_len(&self) -> u32 {
        let payload = self.payload();
        let payload = payload.map_or(0, |(offset, len)| offset.saturating_add(len));
        payload.max(self.code_len().saturating_sub(32))
    }

    /// Where the kernel runs until it has read the memory map: address and length.
    /// Linux moves itself to the higher of its preferred address and its load address,
    /// aligned. `None` if the protocol is too old to say.
    pub(super) fn runtime(&self, load: u32) -> Result<Option<(u32, u32)>> {
        if !self.has(0x20a) {
            return Ok(None);
        }
        let bad = Error::BadSetupHeader;
        let pref_address = u32::try_from(self.pref_address.get()).map_err(|_| bad)?;
        let align = self.kernel_alignment.get();
        if !align.is_power_of_two() {
            return Err(bad);
        }
        let start = align_up(load, align).ok_or(bad)?.max(pref_address);
        Ok(Some((start, self.init_size.get())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The start of an image whose header has this protocol and length; what is not
    /// set holds 0xff.
    fn image(version: u16, len: u8) -> [u8; 1024] {
        let mut image = [0xff; 1024];
        image[0x201] = len;
        image[0x206..0x208].copy_from_slice(&version.to_le_bytes());
        image
    }

    fn header(version: u16) -> SetupHeader {
        *SetupHeader::read(&mut image(version, 0x68)).unwrap()
    }

    /// Every length of a header, with each protocol: it is refused if a field that its
    /// protocol has is missing, or taken up to its end and no further.
    #[test]
    fn a_header_is_read_up_to_its_end() {
        for (version, least) in [
            (0, 0x220),
            (0x204, 0x220),
            (0x205, 0x235),
            (0x209, 0x235),
            (0x20a, 0x264),
            (0x20f, 0x264),
            (u16::MAX, 0x264),
        ] {
            for len in 0..=u8::MAX {
                let mut given = image(version, len);
                let before = given;
                let end = 0x202 + usize::from(len);
                let header = SetupHeader::read(&mut given).copied();
                let is_good = (least..=0x290).contains(&end);
                assert_eq!(header.is_ok(), is_good, "{version:x} {end:x}");
                let Ok(header) = header else { continue };
                assert!(given[..end] == before[..end] && given[0x290..] == before[0x290..]);
                for at in end..0x290 {
                    let default = match at {
                        // initrd_addr_max and cmdline_size.
                        0x22c..0x230 => OLD_INITRD_ADDR_MAX.to_le_bytes()[at - 0x22c],
                        0x238..0x23c => OLD_CMDLINE_SIZE.to_le_bytes()[at - 0x238],
                        _ => 0,
                    };
                    assert_eq!(header.as_bytes()[at - HEADER_OFFSET], default, "{at:x}");
                }
            }
        }
        for end in 0..0x290 {
            let error = SetupHeader::read(&mut image(0x20f, 0x68)[..end]).map(|_| ());
            assert_eq!(error, Err(Error::BadSetupHeader), "{end:x}");
        }
        for end in 0..0x210 {
            let mut start = [0; 0x210];
            start[0x202..0x206].copy_from_slice(b"HdrS");
            assert_eq!(SetupHeader::is_in(&start[..end]), end >= 0x206);
        }
    }

    #[test]
    fn fields_count_from_their_protocol_on() {
        for version in 0x200..0x210 {
            let mut header = header(version);
            header.syssize = 3.into();
            header.xloadflags = 3.into();
            header.payload_offset = 0x1000.into();
            header.payload_length = 0x30.into();
            assert_eq!(header.protocol(), version);
            assert_eq!(header.code_len() == 48, version >= 0x204);
            assert_eq!(header.initrd_addr_max() == u32::MAX, version >= 0x203);
            assert_eq!(header.cmdline_size() == u32::MAX, version >= 0x206);
            assert_eq!(header.xloadflags().is_empty(), version < 0x20c);
            assert_eq!(header.payload().is_some(), version >= 0x208);
            let least = if version >= 0x208 {
                0x1030
            } else if version >= 0x204 {
                16
            } else {
                0
            };
            assert_eq!(header.least_len(), least, "{version:x}");
            header.syssize = 0x1000.into();
            if version >= 0x208 {
                assert_eq!(header.least_len(), 0x1_0000 - 32);
            }
            header.payload_length = 0.into();
            assert_eq!(header.payload(), None);
        }
        assert_eq!([0, 1, 4, 255].map(setup_len), [2560, 1024, 2560, 0x2_0000]);
    }

    #[test]
    fn linux_is_what_has_a_payload() {
        for (version, flags, name, payload, guest) in [
            (0x20f, 1, 1, 1, Guest::Linux),
            (0x20f, 1, 0, 1, Guest::Linux),
            (0x20f, 0, 1, 1, Guest::Linux32),
            (0x20f, 0, 0, 1, Guest::Linux),
            (0x20f, 0, 1, 0, Guest::Other),
            (0x20b, 0, 1, 1, Guest::Linux),
            (0x207, 0, 1, 1, Guest::Other),
        ] {
            let mut header = header(version);
            header.xloadflags = flags.into();
            header.kernel_version = name.into();
            header.payload_length = payload.into();
            assert_eq!(
                header.guest(),
                guest,
                "{version:x} {flags} {name} {payload}"
            );
        }
    }

    #[test]
    fn a_kernel_is_entered_as_header_and_option_say() {
        for (version, is_high, is_relocatable, auto) in [
            (0x205, 1, 1, Entry::Bits32),
            (0x20f, 1, 0, Entry::Bits16),
            (0x204, 1, 1, Entry::Bits16),
            (0x20f, 0, 1, Entry::Bits16),
        ] {
            let mut header = header(version);
            header.loadflags = is_high;
            header.relocatable_kernel = is_relocatable;
            assert_eq!(header.entry(EntryOption::Auto), Ok(auto));
            assert_eq!(header.entry(EntryOption::Bits16), Ok(Entry::Bits16));
            let asked = header.entry(EntryOption::Bits32);
            let expected = (is_high == 1).then_some(Entry::Bits32);
            assert_eq!(asked, expected.ok_or(Error::Needs16BitEntry));
        }
    }

    #[test]
    fn a_kernel_runs_at_the_higher_of_two_addresses() {
        let run = |version, load, preferred: u64, align: u32| {
            let mut header = header(version);
            header.pref_address = preferred.into();
            header.kernel_alignment = align.into();
            header.init_size = 5.into();
            header.runtime(load)
        };
        assert_eq!(run(0x209, 0x10_0000, 1 << 32, 3), Ok(None));
        assert_eq!(
            run(0x20a, 0x10_0000, 0x100, 0x20_0000),
            Ok(Some((0x20_0000, 5)))
        );
        assert_eq!(
            run(0x20a, 0x10_0000, 0x100_0000, 16),
            Ok(Some((0x100_0000, 5)))
        );
        let bad = Err(Error::BadSetupHeader);
        assert_eq!(run(0x20a, 0x10_0000, 1 << 32, 16), bad);
        assert_eq!(run(0x20a, 0x10_0000, 0, 0), bad);
        assert_eq!(run(0x20a, 0x10_0000, 0, 3), bad);
        assert_eq!(run(0x20a, u32::MAX, 0, 16), bad);
    }
}
