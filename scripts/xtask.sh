#!/usr/bin/env bash
# Starts the host program with the given arguments, in the caller's directory,
# and compiles it first where that is needed. (`cargo xtask` is the same for
# developers.) Cargo shows its progress when there is much to compile.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
options=(--package xtask --target-dir target)
case ${1:-} in
build | completions | dist | doctor | extract | inspect | kernel | run)
    # These do without the QMP client, which is half of the whole compilation.
    options+=(--no-default-features)
    ;;
esac
if [ -x "$root/target/debug/qboot" ]; then options+=(--quiet); fi
# rustup takes the toolchain from the directory that cargo starts in.
(cd "$root" && cargo build "${options[@]}" >&2)
exec "$root/target/debug/qboot" "$@"
