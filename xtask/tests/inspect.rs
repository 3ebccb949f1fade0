//! `xtask inspect` on the ROM that this repository builds.

use xtask::{build, inspect};

#[test]
fn the_parts_of_the_rom_are_what_the_build_says_is_used() {
    let rom = build::rom(&[]).expect("the ROM builds");
    let elf = std::fs::read(&rom.elf).expect("an ELF file");
    let sections = inspect::sections(&elf).expect("sections");
    let used: u64 = sections
        .iter()
        .filter(|part| part.in_image)
        .map(|part| u64::from(part.len))
        .sum();
    assert_eq!(used, rom.used);
    let reset = sections.iter().find(|part| part.addr == 0xffff_fff0);
    assert_eq!(reset.map(|part| part.len), Some(16), "{sections:?}");
    let bss = sections.iter().find(|part| part.name == ".bss");
    assert!(bss.is_some_and(|part| !part.in_image), "{sections:?}");

    let symbols = inspect::symbols(&elf).expect("symbols");
    assert!(symbols.is_sorted_by(|a, b| a.len >= b.len));
    assert!(symbols.iter().any(|part| part.name.contains("rust_main")));

    let text = inspect::shown(&rom.image, Some(&rom.elf), 3).expect("a description");
    assert!(text.contains(&rom.sha256), "{text}");
    assert!(
        text.contains(&format!("{used} ")) && text.contains("used of 65536"),
        "{text}"
    );
}
