//! Options of QEMU that are too many to write down.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

/// The options that `spec` stands for:
///
/// - `bridges N`: N PCI bridges on pc, twenty behind each;
/// - `fw_cfg N`: N files under `opt/test/`;
/// - `strings KIB`: so many KiB of SMBIOS type 11 strings, a KiB each, and
///   `io.systemd.credential:last=found` as the last one;
/// - `disk SIZE NAME`: a file of SIZE MiB as the drive NAME;
/// - `file SIZE NAME`: only the file, `{dir}/NAME`.
///
/// # Errors
/// It stands for none.
pub fn options(spec: &str, dir: &Path) -> Result<Vec<String>> {
    let words: Vec<&str> = spec.split_whitespace().collect();
    Ok(match words.as_slice() {
        ["bridges", count] => pairs("-device", (0..count.parse()?).map(bridge)),
        ["fw_cfg", count] => {
            let file = |n: u32| format!("name=opt/test/file-{n},string=content-{n}");
            pairs("-fw_cfg", (0..count.parse()?).map(file))
        }
        ["strings", kib] => {
            let value = |n: u32| format!("type=11,value=string-{n:03}-{}", "x".repeat(1012));
            let mut list = pairs("-smbios", (0..kib.parse()?).map(value));
            let last = "type=11,value=io.systemd.credential:last=found".to_owned();
            list.extend(["-smbios".to_owned(), last]);
            list
        }
        ["disk", mib, name] => {
            let path = dir.join(name);
            let file = fs::File::create(&path)?;
            file.set_len(mib.parse::<u64>()? << 20)?;
            let drive = format!("file={},if=none,format=raw,id={name}", path.display());
            pairs("-drive", [drive])
        }
        ["file", mib, name] => {
            fs::File::create(dir.join(name))?.set_len(mib.parse::<u64>()? << 20)?;
            Vec::new()
        }
        _ => bail!("nothing generates {spec:?}"),
    })
}

fn pairs(option: &str, values: impl IntoIterator<Item = String>) -> Vec<String> {
    let values = values.into_iter();
    values.flat_map(|v| [option.to_owned(), v]).collect()
}

fn bridge(n: u32) -> String {
    let (bus, slot) = match n {
        0..20 => ("pci.0".to_owned(), n + 4),
        _ => (format!("b{}", n / 20 - 1), n % 20 + 1),
    };
    let chassis = n + 1;
    format!("pci-bridge,id=b{n},bus={bus},addr={slot:#x},chassis_nr={chassis}")
}
