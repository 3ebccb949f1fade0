//! Chooses the accelerator of a boot.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;

/// The accelerator that a boot uses, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Accel {
    /// As QEMU's `-accel` takes it.
    pub name: String,
    pub reason: String,
    /// How to get a better one, if that is possible.
    pub fix: Option<&'static str>,
}

/// The device is there, but only for its group.
const JOIN_GROUP: &str = "sudo usermod -aG kvm $USER, and log in again";
/// The processor has virtualization, but the kernel does not use it.
const LOAD_MODULE: &str = "sudo modprobe -a kvm_intel kvm_amd";
/// The processor shows no virtualization.
const NESTED: &str = "turn virtualization on in the firmware's setup, or nested virtualization in the host of this VM";

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.reason)?;
        match self.fix {
            // There is no command for it: `doctor` explains it.
            Some(NESTED) | None => Ok(()),
            Some(fix) => write!(f, "\n             for KVM: {fix}"),
        }
    }
}

impl Accel {
    /// KVM if it is useful, otherwise TCG.
    ///
    /// `/dev/kvm` alone is not enough: without the processor's virtualization KVM
    /// emulates protected mode instruction by instruction, and a kernel takes for ever.
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
        let neither = "the processor shows neither vmx nor svm";
        let (name, reason, fix) = match (kvm_error.map(io::Error::kind), flag) {
            (None, Some(flag)) => {
                let reason = format!("/dev/kvm opens and the processor has {flag}");
                ("kvm", reason, None)
            }
            (None, None) => (
                "tcg",
                format!("/dev/kvm opens, but {neither}"),
                Some(NESTED),
            ),
            (Some(io::ErrorKind::NotFound), Some(_)) => {
                ("tcg", "no /dev/kvm".to_owned(), Some(LOAD_MODULE))
            }
            (Some(io::ErrorKind::NotFound), None) => {
                ("tcg", format!("no /dev/kvm; {neither}"), Some(NESTED))
            }
            // The group does not help without the processor's virtualization.
            (Some(io::ErrorKind::PermissionDenied), None) => {
                ("tcg", format!("no KVM; {neither}"), Some(NESTED))
            }
            (Some(io::ErrorKind::PermissionDenied), Some(_)) => (
                "tcg",
                "/dev/kvm is not this user's to open".to_owned(),
                Some(JOIN_GROUP),
            ),
            (Some(kind), _) => ("tcg", format!("/dev/kvm does not open: {kind}"), None),
        };
        Accel {
            name: name.to_owned(),
            reason,
            fix,
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
        assert_eq!(accel.fix, Some(JOIN_GROUP));
        // The group does not help without the processor's virtualization.
        assert_eq!(Accel::choose(Some(&denied), &neither).fix, Some(NESTED));
        let absent = io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(
            Accel::choose(Some(&absent), &with_svm).fix,
            Some(LOAD_MODULE)
        );
    }
}
