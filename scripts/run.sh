#!/usr/bin/env bash
# Boots Linux under QEMU with this firmware, from nothing but a checkout:
# installs what is missing, builds, fetches a kernel, and starts. --help lists
# the options; everything after -- goes to QEMU.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# Who asks for help on a machine that has nothing yet wants nothing installed.
if [ "${1:-}" = --help ] && ! [ -x "$here/../target/debug/qboot" ]; then
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
    echo "(the options are listed here once the first run has built the program)"
    exit
fi
"$here/setup.sh"
QBOOT_SCRIPT=$0 exec "$here/xtask.sh" run "$@"
