#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qboot::sim::target::uki_image(data));
