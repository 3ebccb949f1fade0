//! Options in fw_cfg, the kernel's command line, and the policy that decides from both.

pub mod command_line;
pub mod options;
pub mod policy;
