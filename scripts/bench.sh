#!/usr/bin/env bash
# Measures this firmware beside C qboot and SeaBIOS: scripts/bench.sh --help.
set -euo pipefail
QBOOT_SCRIPT=$0 exec "$(dirname "$0")/xtask.sh" bench "$@"
