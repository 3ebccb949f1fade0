use super::{FILE_NAME_LEN, FileName};
use crate::platform::TransferError;
use std::collections::BTreeMap;
use std::string::String;
use std::vec::Vec;

/// Items by selector, files by name, and what was written.
#[derive(Clone, Debug, Default)]
pub struct FakeFwCfg {
    items: BTreeMap<u16, Vec<u8>>,
    names: Vec<(String, u16)>,
    cursor: (u16, usize),
    /// Transfers made so far.
    pub transfers: usize,
    /// Bytes transferred so far.
    pub transferred: u64,
    /// Transfers after which all fail.
    pub fails_after: Option<usize>,
    /// Bytes above which transfers fail.
    pub limit: Option<u64>,
    /// Memory is zero already, so long transfers do not write the zeroes behind an
    /// item.
    pub sparse: bool,
    /// `(selector, offset, data)` of each write.
    pub written: Vec<(u16, u32, Vec<u8>)>,
}

impl FakeFwCfg {
    /// A device with no items.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The content of an item; empty if there is none.
    #[must_use]
    pub fn data(&self, selector: u16) -> &[u8] {
        self.items.get(&selector).map_or(&[], Vec::as_slice)
    }

    /// The number in an item. What a short one lacks is read as zeroes.
    #[must_use]
    pub fn number(&self, selector: u16) -> u32 {
        let mut bytes = [0; 4];
        for (byte, given) in bytes.iter_mut().zip(self.data(selector)) {
            *byte = *given;
        }
        u32::from_le_bytes(bytes)
    }

    /// The selector of the file called `name`.
    #[must_use]
    pub fn selector(&self, name: &str) -> Option<u16> {
        let (_, selector) = self.names.iter().find(|(n, _)| n == name)?;
        Some(*selector)
    }

    /// Adds a fixed item.
    pub fn item(&mut self, selector: u16, data: &[u8]) -> &mut Self {
        self.items.insert(selector, data.to_vec());
        self
    }

    /// Adds a file and its entry in the directory; returns its selector.
    pub fn file(&mut self, name: &str, data: &[u8]) -> u16 {
        let selector = u16::try_from(self.names.len())
            .unwrap_or(0)
            .wrapping_add(super::FIRST_FILE);
        self.names.push((name.into(), selector));
        self.items.insert(selector, data.to_vec());
        let count = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        let dir = self.items.entry(super::item::FILE_DIR).or_default();
        dir.resize(dir.len().max(4), 0);
        if let Some(slot) = dir.first_chunk_mut() {
            *slot = count.to_be_bytes();
        }
        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
        dir.extend_from_slice(&size.to_be_bytes());
        dir.extend_from_slice(&selector.to_be_bytes());
        dir.extend_from_slice(&[0; 2]);
        dir.extend_from_slice(&file_name(name));
        selector
    }
}

impl FakeFwCfg {
    /// Selects and reads, as `FwCfg::read`.
    ///
    /// # Errors
    /// As there.
    pub fn read(&mut self, selector: u16, dest: &mut [u8]) -> Result<(), TransferError> {
        self.cursor = (selector, 0);
        self.read_next(dest)
    }

    /// Selects, to read on from `offset`.
    ///
    /// # Errors
    /// As [`FakeFwCfg::read`].
    pub fn seek(&mut self, selector: u16, offset: u32) -> Result<(), TransferError> {
        self.cursor = (selector, 0);
        self.read_next(&mut [])?;
        self.cursor.1 = offset as usize;
        Ok(())
    }

    /// Reads on.
    ///
    /// # Errors
    /// As [`FakeFwCfg::read`].
    pub fn read_next(&mut self, dest: &mut [u8]) -> Result<(), TransferError> {
        if self.fails_after.is_some_and(|n| self.transfers >= n) {
            return Err(TransferError::Failed);
        }
        self.transfers = self.transfers.wrapping_add(1);
        self.transferred = self.transferred.wrapping_add(dest.len() as u64);
        if self.limit.is_some_and(|n| self.transferred > n) {
            return Err(TransferError::Failed);
        }
        let (selector, offset) = self.cursor;
        let rest = self.data(selector).get(offset..).unwrap_or(&[]);
        let len = rest.len().min(dest.len());
        let dest_len = dest.len();
        let (given, zeroes) = dest.split_at_mut(len);
        given.copy_from_slice(rest.split_at(len).0);
        if !self.sparse || dest_len <= 1 << 17 {
            zeroes.fill(0);
        }
        self.cursor.1 = offset.saturating_add(dest_len);
        Ok(())
    }

    /// Writes to an item.
    ///
    /// # Errors
    /// There is no such place.
    pub fn write(&mut self, selector: u16, offset: u32, data: &[u8]) -> Result<(), TransferError> {
        let item = self.items.get_mut(&selector).ok_or(TransferError::Failed)?;
        let end = (offset as usize).saturating_add(data.len());
        item.get_mut(offset as usize..end)
            .ok_or(TransferError::Failed)?
            .copy_from_slice(data);
        self.written.push((selector, offset, data.to_vec()));
        Ok(())
    }
}

/// `name` padded with NULs, as directory and linker-loader hold it; cut if it
/// is too long.
#[must_use]
pub fn file_name(name: &str) -> FileName {
    let mut padded = [0; FILE_NAME_LEN];
    for (slot, byte) in padded.iter_mut().zip(name.bytes()) {
        *slot = byte;
    }
    padded
}
