//! Which accelerator a boot uses.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;

/// The accelerator that a boot uses, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Accel {
    /// As QEMU's `-accel` takes it.
    pub name: String,
    pub reason: String,
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.reason)
    }
}

impl Accel {
    /// KVM where it is of use, TCG elsewhere.
    ///
    /// `/dev/kvm` alone says too little: without the processor's own
    /// virtualization behind it, KVM emulates protected mode instruction by
    /// instruction, and a kernel takes for ever.
    pub fn detect() -> Self {
        let opened = OpenOptions::new().read(true).write(true).open("/dev/kvm");
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self::choose(opened.err().as_ref(), &cpuinfo)
    }

    fn choose(kvm_error: Option<&io::Error>, cpuinfo: &str) -> Self {
        let flag = cpuinfo
            .lines()
            .filter(|line| line.starts_with("flags"))
            .flat_map(str::split_whitespace)
            .find(|flag| matches!(*flag, "vmx" | "svm"));
        let (name, reason) = match (kvm_error, flag) {
            (None, Some(flag)) => (
                "kvm",
                format!("/dev/kvm opens and the processor has {flag}"),
            ),
            (None, None) => (
                "tcg",
                "/dev/kvm opens, but the processor shows neither vmx nor svm".to_owned(),
            ),
            (Some(error), _) => ("tcg", format!("/dev/kvm does not open: {error}")),
        };
        Accel {
            name: name.to_owned(),
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &str = "processor\t: 0\nflags\t\t: fpu vme";

    #[test]
    fn kvm_needs_the_device_and_the_processor() {
        let with_vmx = format!("{FLAGS} vmx\n");
        let with_svm = format!("{FLAGS} svm\n");
        // A flag that only contains the name, and the name outside the flags.
        let neither = format!("vmx\t: no\n{FLAGS} vmxnet\n");
        assert_eq!(Accel::choose(None, &with_vmx).name, "kvm");
        assert_eq!(Accel::choose(None, &with_svm).name, "kvm");
        assert_eq!(Accel::choose(None, &neither).name, "tcg");
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let accel = Accel::choose(Some(&denied), &with_vmx);
        assert_eq!(accel.name, "tcg");
        assert!(accel.reason.contains("permission denied"));
    }
}
