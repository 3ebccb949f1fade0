//! What a run of the benchmark has found, as `target/bench/results.json` has it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::measure::user_space::UserSpace;
use crate::measure::{Counts, Spread};

/// Time and exits under KVM.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kvm {
    /// Exits to QEMU, the median of all runs.
    pub exits: u64,
    /// Milliseconds from the start of the processors to the kernel.
    pub ms: Spread,
    /// Runs that these were taken from.
    pub runs: usize,
}

/// What one firmware costs in one cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Accesses and instructions; absent when the kernel was not reached.
    pub counts: Option<Counts>,
    /// A whole boot; absent where it was not counted or user space was not reached.
    #[serde(default)]
    pub user_space: Option<UserSpace>,
    /// Pages of guest RAM that were touched first between reset and kernel.
    pub pages: Option<u64>,
    /// Absent without KVM.
    pub kvm: Option<Kvm>,
}

/// Everything that one run of the benchmark found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// What `qemu --version` says.
    pub qemu: String,
    /// Kernel that was booted to user space.
    #[serde(default)]
    pub linux: String,
    /// Used bytes of our ROM.
    pub rom_used_bytes: u64,
    /// Firmware names in the order of the table.
    pub firmware: Vec<String>,
    /// Cell names in the order of the table.
    pub cells: Vec<String>,
    /// By cell and firmware.
    pub results: BTreeMap<String, BTreeMap<String, Outcome>>,
    /// What was not measured, and why.
    pub skipped: Vec<String>,
}

/// A number with a comma at each thousand.
#[must_use]
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n != 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        let texts: Vec<_> = [0, 999, 1000, 1_234_567].map(grouped).into();
        assert_eq!(texts, ["0", "999", "1,000", "1,234,567"]);
    }
}
