//! Options of QEMU that are too many to write down.

use std::fs::File;
use std::path::Path;

use anyhow::{Result, bail};

use crate::machines::{bridges, root_ports};

/// The options that `spec` stands for:
///
/// - `bridges N`: N PCI bridges on pc, twenty behind each;
/// - `ports N`: N root ports on q35, eight a device, an NVMe disk behind each;
/// - `fw_cfg N`: N files under `opt/test/`;
/// - `strings KIB`: so many KiB of SMBIOS type 11 strings, a KiB each, and
///   `io.systemd.credential:last=found` as the last one;
/// - `file SIZE NAME`: none, but the file `{dir}/NAME` of SIZE MiB.
pub fn options(spec: &str, dir: &Path) -> Result<Vec<String>> {
    let words: Vec<&str> = spec.split_whitespace().collect();
    let (option, values): (_, Vec<String>) = match words.as_slice() {
        ["bridges", count] => ("-device", bridges(count.parse()?).collect()),
        ["ports", count] => {
            let ports = (1..).zip(root_ports(count.parse()?));
            let with_disk = |(n, port): (u32, String)| [port, format!("nvme,serial={n},bus=b{n}")];
            ("-device", ports.flat_map(with_disk).collect())
        }
        ["fw_cfg", count] => {
            let file = |n: u32| format!("name=opt/test/file-{n},string=content-{n}");
            ("-fw_cfg", (0..count.parse()?).map(file).collect())
        }
        ["strings", kib] => {
            let value = |n: u32| format!("type=11,value=string-{n:03}-{}", "x".repeat(1012));
            let last = "type=11,value=io.systemd.credential:last=found".to_owned();
            let values = (0..kib.parse()?).map(value);
            ("-smbios", values.chain([last]).collect())
        }
        ["file", mib, name] => {
            File::create(dir.join(name))?.set_len(mib.parse::<u64>()? << 20)?;
            return Ok(Vec::new());
        }
        _ => bail!("nothing generates {spec:?}"),
    };
    let pairs = values.into_iter().map(|value| [option.to_owned(), value]);
    Ok(pairs.flatten().collect())
}
