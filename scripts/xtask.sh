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
    # Nobody debugs them, and without the tables for it a first build takes two
    # thirds of the time and a third of the room.
    export CARGO_PROFILE_DEV_DEBUG=0
    ;;
esac
if [ -x "$root/target/debug/qboot" ]; then options+=(--quiet); fi
# rustup takes the toolchain from the directory that cargo starts in.
(cd "$root" && cargo build "${options[@]}" >&2) || {
    status=$?
    # Under what cargo says, what it does not.
    room=$(df --output=avail --block-size=1M "$root" | tail -n 1)
    for dir in "$root" "$root/target" "$root/target/debug"; do
        if [ -e "$dir" ] && ! [ -w "$dir" ]; then
            echo "$dir cannot be written by $(id -un): clone into a directory of your own" >&2
            break
        fi
    done
    if [ "$room" -lt 600 ]; then
        echo "$root has $room MiB left on its disk, a first build takes up to 600" >&2
    fi
    exit "$status"
}
exec "$root/target/debug/qboot" "$@"
