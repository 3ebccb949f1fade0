//! Offsets of the setup header's fields in a bzImage and in the zero page, as the
//! kernel's `Documentation/arch/x86/boot.rst` names them. They are independent of the
//! firmware's structures.
#![expect(missing_docs, reason = "named as the specification names them")]

pub const SETUP_SECTS: usize = 0x1f1;
pub const SYSSIZE: usize = 0x1f4;
pub const VID_MODE: usize = 0x1fa;
pub const BOOT_FLAG: usize = 0x1fe;
pub const JUMP: usize = 0x200;
pub const HEADER: usize = 0x202;
pub const VERSION: usize = 0x206;
pub const START_SYS_SEG: usize = 0x20c;
pub const KERNEL_VERSION: usize = 0x20e;
pub const TYPE_OF_LOADER: usize = 0x210;
pub const LOADFLAGS: usize = 0x211;
pub const CODE32_START: usize = 0x214;
pub const INITRD_ADDR_MAX: usize = 0x22c;
pub const KERNEL_ALIGNMENT: usize = 0x230;
pub const RELOCATABLE_KERNEL: usize = 0x234;
pub const MIN_ALIGNMENT: usize = 0x235;
pub const XLOADFLAGS: usize = 0x236;
pub const CMDLINE_SIZE: usize = 0x238;
pub const PAYLOAD_OFFSET: usize = 0x248;
pub const PAYLOAD_LENGTH: usize = 0x24c;
pub const SETUP_DATA: usize = 0x250;
pub const PREF_ADDRESS: usize = 0x258;
pub const INIT_SIZE: usize = 0x260;
pub const HANDOVER_OFFSET: usize = 0x264;
