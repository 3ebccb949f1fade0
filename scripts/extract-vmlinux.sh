#!/usr/bin/env bash
# Takes the vmlinux out of a bzImage: scripts/extract-vmlinux.sh BZIMAGE VMLINUX
# Exit status 3: the kernel has no PVH entry point and boots as bzImage only.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
"$here/setup.sh"
QBOOT_SCRIPT=$0 exec "$here/xtask.sh" extract "$@"
