#!/usr/bin/env bash
# Makes the files of a release in target/release-VERSION/ and checks them by
# booting what is unpacked from them: ROMs, the ELF file with symbols, archive,
# Debian package, bill of materials, SHA256SUMS. scripts/release.sh --help.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
"$here/setup.sh"
QBOOT_SCRIPT=$0 exec "$here/xtask.sh" release "$@"
