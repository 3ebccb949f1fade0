#!/usr/bin/env bash
# Starts the host program with the given arguments, in the caller's directory,
# and compiles it first where that is needed. (`cargo xtask` is the same for
# developers.) Cargo shows its progress when there is much to compile.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
quiet=()
if [ -x "$root/target/debug/xtask" ]; then quiet=(--quiet); fi
# rustup takes the toolchain from the directory that cargo starts in.
(cd "$root" && cargo build "${quiet[@]}" --package xtask --target-dir target >&2)
exec "$root/target/debug/xtask" "$@"
