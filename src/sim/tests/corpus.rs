//! The fuzzer's corpus, replayed.

use super::*;
use proptest::prelude::*;
use std::path::PathBuf;
use std::string::ToString;

fn fuzz_dir() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "fuzz"].iter().collect()
}

/// A file's bytes as the targets' seeds: captured machines, with a kernel.
fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (name, board) in CAPTURES {
        let mut items = capture::items(name);
        let device = capture::device(name);
        let mut directory = std::vec![0xff];
        directory.extend(device.data(item::FILE_DIR));
        seeds.push(("directory", name.to_string(), directory));
        let file = |name: &str| device.selector(name).map(|s| device.data(s).to_vec());
        if let Some(script) = file("etc/table-loader") {
            let mut seed = std::vec![1, 2, 0, 0, 1];
            seed.extend(script);
            seeds.push(("loader", name.to_string(), seed));
        }
        if let Some(tables) = file("etc/smbios/smbios-tables") {
            let mut seed = std::vec![0, 3, 0];
            seed.extend(tables);
            seeds.push(("smbios", name.to_string(), seed));
        }
        let mut e820: Vec<u8> = std::vec![0];
        e820.extend(file("etc/e820").unwrap());
        seeds.push(("e820", name.to_string(), e820));
        // A machine of 64 MiB: large ones have tables that do not fit.
        items.retain(|(name, ..)| name != "etc/e820");
        let mut guest = Guest::new(board, FakeFwCfg::new(), 1 << 20);
        guest.command_line(b"console=ttyS0 acpi=off");
        guest.initrd(&[7; 100]);
        guest.kernel(&small_bzimage());
        for selector in 0..0x20 {
            let data = guest.machine.fw_cfg.data(selector);
            if !data.is_empty() {
                items.push((String::new(), selector, data.to_vec()));
            }
        }
        seeds.push((
            "boot",
            name.to_string(),
            target::encode(board as u8, 64, &items),
        ));
    }
    seeds
}

/// Writes the seeds to the fuzzer's corpus, after a capture has changed.
#[test]
#[ignore = "writes files"]
fn write_seeds() {
    for (target, name, bytes) in seeds() {
        let dir = fuzz_dir().join("corpus").join(target);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(std::format!("seed-{name}")), bytes).unwrap();
    }
}

/// What fuzzing has found worth keeping, and every crash there was.
#[test]
fn corpus_replays_without_a_finding() {
    for (_, name, bytes) in seeds().iter().filter(|(target, ..)| *target == "boot") {
        std::println!("boot: {name}");
        target::boot(bytes);
    }
    for (name, run) in target::ALL {
        let mut count = 0;
        for kind in ["corpus", "regressions"] {
            let dir = fuzz_dir().join(kind).join(name);
            for entry in std::fs::read_dir(&dir).into_iter().flatten() {
                let path = entry.unwrap().path();
                std::println!("{name}: {}", path.display());
                run(&std::fs::read(&path).unwrap());
                count += 1;
            }
        }
        assert!(count > 0, "no corpus for {name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// What fuzzing asks of any bytes, on both widths: the same invariants.
    #[test]
    fn any_input_keeps_the_invariants(
        which in 0..target::ALL.len(),
        bytes in proptest::collection::vec(any::<u8>(), 0..2000),
    ) {
        let (name, run) = target::ALL[which];
        std::println!("{name}");
        run(&bytes);
    }
}
