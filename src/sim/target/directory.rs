//! The file directory.

use super::FakeFwCfg;
use crate::error::Error;
use crate::fw_cfg::{Directory, item, up_to_nul};
use crate::sim::Machine;
use std::vec;

/// The file directory.
pub fn directory(data: &[u8]) {
    let (Some((size, data)), mut fw_cfg) = (data.split_first(), FakeFwCfg::new()) else {
        return;
    };
    fw_cfg.item(item::FILE_DIR, data);
    let mut machine = Machine {
        fw_cfg,
        ..Machine::default()
    };
    let mut scratch = vec![0xa5; usize::from(*size) << 8 | 0xff];
    let len = scratch.len();
    match Directory::read(&mut machine, &mut scratch) {
        Ok((dir, rest)) => {
            let mut count = [0; 4];
            let given = data.len().min(4);
            count[..given].copy_from_slice(&data[..given]);
            let count = u32::from_be_bytes(count) as usize;
            assert_eq!(dir.entries().len(), count);
            assert!(count * 64 + 4 + rest.len() <= len);
            for entry in dir.entries() {
                let name = up_to_nul(entry.name());
                assert_eq!(dir.find(name).is_some(), !name.is_empty(), "{name:?}");
            }
            let _ = dir.find(b"etc/e820");
        }
        Err(error) => assert_eq!(error, Error::TooManyFiles),
    }
    assert!(machine.fw_cfg.transfers <= 2);
}
