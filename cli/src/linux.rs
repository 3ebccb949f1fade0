//! Parameters that Linux needs to boot on QEMU's machines on a busy host, with any
//! firmware.

use std::fs;

/// Where a guest's time comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// The processor's, under KVM.
    Processor,
    /// The host's, under QEMU's translator.
    Host,
    /// Counted instructions (`-icount`): the time stamp counter ticks once a
    /// nanosecond.
    Counted,
}

/// The parameters that Linux needs on `machine`, a value of `-M`. Without ACPI
/// (`has_acpi`) Linux still checks how the timer is wired, which the MP table tells.
#[must_use]
pub fn parameters(machine: &str, time: Time, has_acpi: bool) -> Vec<String> {
    let mut words = Vec::new();
    let is_microvm = machine.starts_with("microvm");
    if is_microvm {
        // No keyboard controller to reset by.
        words.push("reboot=t".to_owned());
    }
    if time == Time::Processor {
        return words;
    }
    if is_microvm || !has_acpi {
        // There is only the PIT to measure the time stamp counter by. That fails now
        // and then, and the kernel waits for ever for a tick. So it is told the
        // frequency.
        let khz = match time {
            Time::Counted => Some(1_000_000),
            _ => tsc_khz(),
        };
        words.extend(khz.map(|khz| format!("tsc_early_khz={khz}")));
    } else {
        // Linux counts ticks to check its timer, and panics if they come late. Under
        // KVM it skips the check.
        words.push("no_timer_check".to_owned());
    }
    words
}

/// Frequency in kHz of the time stamp counter that a guest of QEMU's translator
/// sees: the host's. `None` where the host does not tell.
fn tsc_khz() -> Option<u64> {
    khz_of(&fs::read_to_string("/proc/cpuinfo").ok()?)
}

/// Linux on x86 calibrates its delay loop by that counter: BogoMIPS are twice its
/// MHz. (`cpu MHz` is what the processor runs at, and changes.)
fn khz_of(cpuinfo: &str) -> Option<u64> {
    let line = cpuinfo.lines().find(|line| line.starts_with("bogomips"))?;
    let (_, value) = line.split_once(':')?;
    let mips: f64 = value.trim().parse().ok()?;
    Some((mips * 500.0) as u64).filter(|khz| *khz != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_frequency_is_half_of_the_first_bogomips() {
        let cpuinfo = "cpu MHz\t\t: 800.000\nbogomips\t: 5192.24\nbogomips\t: 1.00\n";
        assert_eq!(khz_of(cpuinfo), Some(2_596_120));
        for other in ["", "bogomips\t: 0.00", "bogomips", "BogoMIPS\t: 48.00"] {
            assert_eq!(khz_of(other), None, "{other}");
        }
    }

    #[test]
    fn each_machine_is_told_what_it_cannot_measure() {
        let counted = |machine, has_acpi| parameters(machine, Time::Counted, has_acpi).join(" ");
        assert_eq!(counted("q35", true), "no_timer_check");
        assert_eq!(counted("pc", false), "tsc_early_khz=1000000");
        for machine in ["microvm", "microvm,acpi=off"] {
            assert_eq!(counted(machine, true), "reboot=t tsc_early_khz=1000000");
        }
        for (machine, words) in [("q35", &[][..]), ("microvm,pcie=on", &["reboot=t"])] {
            assert_eq!(parameters(machine, Time::Processor, true), words);
        }
    }
}
