//! Examples below each command's options. `qboot` is the installed program; a script's
//! help shows the script in its place. Even then no line is longer than 80 columns, or
//! it would be wrapped.

pub const EXAMPLES: &str = "\
Examples:
  qboot run                 a first boot: Debian's kernel, to a shell
  qboot doctor              what this machine lacks for it
  qboot run --help          the options, and more examples";

pub const BUILD_EXAMPLES: &str = "\
Examples:
  qboot build
  qboot build --features markers
      with progress bytes for timing scripts: target/qboot-markers.rom";

pub const RUN_EXAMPLES: &str = "\
Examples:
  qboot run                           to a shell, on a terminal
  qboot run --machine microvm --cpus 4 --memory 2G
  qboot run --kernel bzImage --initrd initrd.img \\
      --append root=/dev/vda -- -drive file=disk.img,format=raw,if=virtio
  qboot run --log steps               with what the firmware does
  qboot run --firmware /usr/share/qemu/qboot.rom
      with another firmware
  qboot run -- -fw_cfg name=opt/org.qboot/pci,string=full
      with an option of this one
  qboot run --dry-run                 QEMU's command line, for elsewhere";

pub const COMPLETIONS_EXAMPLES: &str = "\
Examples, for where the installed files are not found:
  source <(qboot completions bash)     in ~/.bashrc
  source <(qboot completions zsh)      in ~/.zshrc, behind compinit
  qboot completions fish | source      in ~/.config/fish/config.fish";

pub const INSPECT_EXAMPLES: &str = "\
Examples:
  qboot inspect
  qboot inspect /usr/share/qemu/qboot-rs.rom
  qboot inspect --symbols 5
  qboot inspect image.efi
  qboot inspect --json | jq .used_bytes";

pub const KERNEL_EXAMPLES: &str = "\
Examples:
  qboot kernel
  qboot run --kernel \"$(qboot kernel 686-pae)\"";

pub const EXTRACT_EXAMPLES: &str = "\
Examples:
  qboot extract /boot/vmlinuz-$(uname -r) vmlinux
  qboot extract --initrd initrd.img image.efi vmlinux
  qboot run --kernel vmlinux";
