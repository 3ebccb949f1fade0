#!/usr/bin/env bash
# Takes the vmlinux out of a bzImage: scripts/extract-vmlinux.sh BZIMAGE VMLINUX
# Exit status 3: the kernel has no PVH entry point and boots as bzImage only.
QBOOT_SCRIPT=$0 exec "$(dirname "$0")/xtask.sh" extract "$@"
