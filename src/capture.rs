//! Captures of real machines in `tests/data`, as `xtask capture` writes them.

use super::fw_cfg::fake::FakeFwCfg;
use flate2::read::GzDecoder;
use std::io::Read;
use std::path::PathBuf;
use std::string::String;
use std::vec::Vec;

/// Bytes in front of an item's content: name, selector, size.
const RECORD: usize = 56 + 2 + 4;

fn directory() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "data"]
        .iter()
        .collect()
}

/// The items of the capture called `name`: file name or nothing, selector,
/// content.
pub fn items(name: &str) -> Vec<(String, u16, Vec<u8>)> {
    let path = directory().join(std::format!("{name}.fw_cfg.gz"));
    let file = std::fs::File::open(&path).unwrap();
    let mut bytes = Vec::new();
    GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
    let mut items = Vec::new();
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let (head, more) = rest.split_at(RECORD);
        let name = head[..56].split(|byte| *byte == 0).next().unwrap();
        let name = String::from_utf8(name.to_vec()).unwrap();
        let selector = u16::from_le_bytes(head[56..58].try_into().unwrap());
        let size = u32::from_le_bytes(head[58..].try_into().unwrap());
        let (data, more) = more.split_at(size as usize);
        items.push((name, selector, data.to_vec()));
        rest = more;
    }
    items
}

/// The capture called `name` as a device; files get selectors of their own.
pub fn device(name: &str) -> FakeFwCfg {
    let mut fw_cfg = FakeFwCfg::new();
    for (name, selector, data) in items(name) {
        if name.is_empty() {
            fw_cfg.item(selector, &data);
        } else {
            fw_cfg.file(&name, &data);
        }
    }
    fw_cfg
}
