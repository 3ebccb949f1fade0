//! Examples below each command's options.

/// By command.
pub const EXAMPLES: [(&str, &str); 6] = [
    (
        "capture",
        "\
Examples:
  qboot capture tests/data/pc.fw_cfg.gz -- -M pc -m 512
  qboot capture q35.fw_cfg.gz -- -M q35 -device vmgenid",
    ),
    (
        "measure",
        "\
Examples:
  qboot measure
  qboot measure --trace --cell \"q35 PVH\"
  qboot measure --rom /usr/share/qemu/qboot.rom --rom target/qboot.rom
  qboot measure --all --json | jq
  qboot measure --user-space --cell \"q35 PVH\" --append pci=noearly \\
      -- -M hpet=off
  qboot measure --user-space --runs 5 --rom /usr/share/qemu/qboot.rom
  qboot measure --update-budget          after a change that is worth it",
    ),
    (
        "bench",
        "\
Examples:
  qboot bench --bare
  qboot bench --cell microvm --runs 5",
    ),
    (
        "boots",
        "\
Examples:
  qboot boots --suite system
  qboot boots --cell \"q35 PVH\"
  qboot boots --ours            after a change of this firmware",
    ),
    (
        "timeline",
        "\
Examples:
  qboot timeline
  qboot timeline --kernel /boot/vmlinuz-$(uname -r)",
    ),
    (
        "matrix",
        "\
Examples:
  qboot matrix --ci
  qboot matrix --list --filter pxb
  qboot matrix --filter vmgenid@q35 --firmware ours,qboot
  qboot matrix --filter vmgenid --update record, and write the pages
  qboot matrix --qemu backports --missing",
    ),
];
