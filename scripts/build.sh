#!/usr/bin/env bash
# Builds the firmware: target/qboot.rom (what QEMU's -bios takes) and
# target/qboot.elf (the same with symbols).
QBOOT_SCRIPT=$0 exec "$(dirname "$0")/xtask.sh" build "$@"
