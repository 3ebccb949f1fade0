//! Boot tests of the firmware under QEMU.
