#!/usr/bin/env bash
# Measures this firmware beside C qboot and SeaBIOS: scripts/bench.sh --help.
QBOOT_SCRIPT=$0 exec "$(dirname "$0")/xtask.sh" bench "$@"
