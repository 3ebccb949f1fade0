//! APIC ids, computed from the processors' topology.

use crate::platform::Platform;

/// The bits of thread, core and package numbers in APIC ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Threads of a core.
    threads: u32,
    /// Bits of the thread number.
    thread_bits: u32,
    /// Threads of a package.
    package: u32,
    /// Bits of thread and core number.
    package_bits: u32,
}

impl Topology {
    /// Reads leaf 0xb (Intel SDM 2A, CPUID): levels of threads and cores.
    ///
    /// Without the leaf ids are consecutive.
    #[must_use]
    pub fn read<P: Platform>(platform: &mut P) -> Self {
        let flat = Self {
            threads: 1,
            thread_bits: 0,
            package: 1,
            package_bits: 0,
        };
        let [highest, ..] = platform.cpuid(0, 0);
        if highest < 0xb {
            return flat;
        }
        let [thread_bits, threads, ..] = platform.cpuid(0xb, 0);
        let [package_bits, package, ..] = platform.cpuid(0xb, 1);
        let (threads, package) = (threads & 0xffff, package & 0xffff);
        let (thread_bits, package_bits) = (thread_bits & 31, package_bits & 31);
        if threads == 0 || package < threads || package_bits < thread_bits {
            return flat;
        }
        Self {
            threads,
            thread_bits,
            package,
            package_bits,
        }
    }

    /// APIC ids of `count` processors in QEMU's order: threads first, then cores, then
    /// packages.
    pub fn apic_ids(self, count: u16) -> impl Iterator<Item = u32> {
        let (mut thread, mut core, mut socket) = (0_u32, 0_u32, 0_u32);
        (0..count).map(move |_| {
            let id = socket.wrapping_shl(self.package_bits)
                | core.wrapping_shl(self.thread_bits)
                | thread;
            thread += 1;
            if thread == self.threads {
                thread = 0;
                core += 1;
                if core.wrapping_mul(self.threads) >= self.package {
                    core = 0;
                    socket += 1;
                }
            }
            id
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Machine;
    use std::vec::Vec;

    fn topology(cpuid: fn(u32, u32) -> [u32; 4]) -> Topology {
        let mut machine = Machine {
            cpuid,
            ..Machine::default()
        };
        Topology::read(&mut machine)
    }

    #[test]
    fn two_packages_of_three_cores_leave_a_gap() {
        // -smp 6,sockets=2,cores=3: two bits of core number.
        let cpuid = |leaf, level| match (leaf, level) {
            (0, _) => [0xd, 0, 0, 0],
            (0xb, 0) => [0, 1, 0x100, 0],
            (0xb, 1) => [2, 3, 0x201, 0],
            _ => [0; 4],
        };
        let topology = topology(cpuid);
        assert_eq!(topology.apic_ids(6).collect::<Vec<_>>(), [0, 1, 2, 4, 5, 6]);
    }

    /// A processor whose last leaf is `highest`, with bits and count of each level.
    fn answer(leaf: u32, level: u32, highest: u32, levels: [[u32; 2]; 2]) -> [u32; 4] {
        match (leaf, level) {
            (0, _) => [highest, 0, 0, 0],
            (0xb, 0) => [levels[0][0], levels[0][1], 0, 0],
            (0xb, 1) => [levels[1][0], levels[1][1], 0, 0],
            _ => [u32::MAX; 4],
        }
    }

    #[test]
    fn without_a_likely_leaf_ids_are_consecutive() {
        const FLAT: [u32; 4] = [0, 1, 2, 3];
        // Thread numbers have two bits, of which one is used.
        const APART: [u32; 4] = [0, 1, 4, 5];
        type Cpuid = fn(u32, u32) -> [u32; 4];
        let machines: [(Cpuid, [u32; 4]); 9] = [
            (|a, b| answer(a, b, 0xb, [[2, 2], [4, 4]]), APART),
            // The leaf is missing.
            (|a, b| answer(a, b, 0xa, [[2, 2], [4, 4]]), FLAT),
            (|a, b| answer(a, b, 0, [[2, 2], [4, 4]]), FLAT),
            // A package of one core.
            (|a, b| answer(a, b, 0xd, [[2, 2], [2, 2]]), APART),
            // The other bits are reserved.
            (
                |a, b| answer(a, b, 0xd, [[0x22, 0x1_0002], [0x24, 0x1_0004]]),
                APART,
            ),
            // No threads; fewer in a package than in a core; fewer bits.
            (|a, b| answer(a, b, 0xd, [[2, 0], [4, 4]]), FLAT),
            (|a, b| answer(a, b, 0xd, [[2, 3], [4, 2]]), FLAT),
            (|a, b| answer(a, b, 0xd, [[2, 2], [1, 4]]), FLAT),
            (|a, b| answer(a, b, 0xd, [[0, 0], [0, 0]]), FLAT),
        ];
        for (at, (cpuid, expected)) in machines.into_iter().enumerate() {
            let ids = topology(cpuid).apic_ids(4);
            assert_eq!(ids.collect::<Vec<_>>(), expected, "{at}");
        }
    }
}
