#!/usr/bin/env bash
# Boots Linux under QEMU with this firmware, from nothing but a checkout:
# installs what is missing, builds, fetches a kernel, and starts. --help lists
# the options; everything after -- goes to QEMU.
QBOOT_SCRIPT=$0 exec "$(dirname "$0")/xtask.sh" run "$@"
