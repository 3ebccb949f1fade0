#!/usr/bin/env bash
# Boots Linux under QEMU with this firmware, from nothing but a checkout:
# installs what is missing, builds, fetches a kernel, and starts. --help lists
# the options; everything after -- goes to QEMU.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
"$here/setup.sh"
exec "$here/xtask.sh" run "$@"
