//! Links the ROM with its own linker script. The library and the tests are
//! linked as usual.

fn main() {
    println!("cargo:rerun-if-changed=linker.ld");
    println!("cargo:rerun-if-changed=boot16.S");
    println!("cargo:rerun-if-changed=code16.S");
    if std::env::var_os("CARGO_FEATURE_ROM").is_none() {
        return;
    }
    let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    for arg in [
        "-nostdlib".into(),
        "-static".into(),
        "-no-pie".into(),
        // Other linkers read the script differently.
        "-fuse-ld=bfd".into(),
        format!("-Wl,--script={dir}/linker.ld"),
        "-Wl,--orphan-handling=error".into(),
        "-Wl,--gc-sections".into(),
        "-Wl,--build-id=none".into(),
        "-Wl,-z,noexecstack,-z,norelro,-z,max-page-size=4096".into(),
        "-Wl,--no-warn-rwx-segments".into(),
    ] {
        println!("cargo:rustc-link-arg-bins={arg}");
    }
}
