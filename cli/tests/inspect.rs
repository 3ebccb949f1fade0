//! `qboot inspect` on the ROM that this repository builds.

use qboot_cli::{build, elf, inspect};

#[test]
fn the_parts_of_the_rom_are_what_the_build_says_is_used() {
    let rom = build::rom(&[]).expect("the ROM builds");
    let bytes = std::fs::read(&rom.elf).expect("an ELF file");
    let sections = elf::sections(&bytes).expect("sections");
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

    let symbols = elf::symbols(&bytes).expect("symbols");
    assert!(symbols.is_sorted_by(|a, b| a.len >= b.len));
    assert!(symbols.iter().any(|part| part.name.contains("rust_main")));

    let found = inspect::describe(&rom.image, Some(&rom.elf), 3).expect("a description");
    let json: serde_json::Value = serde_json::from_str(&found.json().to_string()).expect("JSON");
    assert_eq!(json["used_bytes"], used);
    assert_eq!(json["sha256"], rom.sha256);
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(json["symbols"].as_array().map(Vec::len), Some(3));
    let text = found.text();
    assert!(text.contains(&rom.sha256), "{text}");
    assert!(
        text.contains(&format!("{used} ")) && text.contains("used of 65536"),
        "{text}"
    );
}
