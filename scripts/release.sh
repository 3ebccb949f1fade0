#!/usr/bin/env bash
# Makes the files of a release in target/release-VERSION/ and checks them by
# booting what is unpacked from them: ROMs, the ELF file with symbols, archive,
# Debian package, bill of materials, SHA256SUMS. scripts/release.sh --help.
QBOOT_SCRIPT=$0 exec "$(dirname "$0")/xtask.sh" release "$@"
