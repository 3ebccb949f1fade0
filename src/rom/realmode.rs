//! What real-mode code, and kernels that go back there, find of a BIOS.

use core::ptr::with_exposed_provenance_mut;
use qboot::layout;
use qboot::realmode::{BDA, BDA_LEN, EBDA_KIB, bda};

/// Fills in the BIOS data area and the EBDA's size.
#[cold]
pub fn fill_data_areas() {
    let area = with_exposed_provenance_mut::<[u8; BDA_LEN]>(BDA as usize);
    // SAFETY: conventional RAM outside all that placement and the firmware
    // use, by `layout`; bytes have no alignment.
    unsafe { area.write(const { bda() }) };
    let ebda = with_exposed_provenance_mut::<u8>(layout::EBDA.start() as usize);
    // SAFETY: as above; nobody else writes the EBDA.
    unsafe { ebda.write(EBDA_KIB) };
}
