#!/usr/bin/env bash
# Compiles the firmware, and nothing else: an ELF file in target/i586-unknown-linux-gnu/rom/,
# of which `qboot build` makes target/qboot.rom.
#
#   scripts/rom.sh [FEATURES [TARGET DIRECTORY]]     features of Cargo.toml, with commas
set -euo pipefail
case ${1:-} in --help | -h)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
    exit
    ;;
esac
cd "$(dirname "$0")/.."
target=i586-unknown-linux-gnu
# No name of this machine's directories in the debug information: whoever has the
# source finds it below its own. Adds to the flags in .cargo/config.toml.
flags="'--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo','--remap-path-prefix=$PWD=/qboot-rs'"
# These would replace the ROM's flags, and the image would differ from one
# person's machine to the next.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
exec "${CARGO:-cargo}" build --package qboot --bin firmware --profile rom --target $target \
    --features "rom${1:+,$1}" --target-dir "${2:-target}" --config "target.$target.rustflags=[$flags]"
