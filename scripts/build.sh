#!/usr/bin/env bash
# Builds the firmware: target/qboot.rom (what QEMU's -bios takes) and
# target/qboot.elf (the same with symbols).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
"$here/setup.sh"
QBOOT_SCRIPT=$0 exec "$here/xtask.sh" build "$@"
