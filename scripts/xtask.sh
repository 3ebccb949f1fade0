#!/usr/bin/env bash
# Starts the program qboot with the given arguments, in the caller's directory, and
# compiles it first where that is needed. (`cargo xtask` is the same.) Its commands
# for developers compile the developer's program. With no Rust here yet:
#
#   scripts/xtask.sh doctor    what this machine lacks, and how to get it
#   scripts/run.sh             installs what is missing and boots Linux
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
qboot=$root/target/debug/qboot
PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
# For help and messages: what was typed.
export QBOOT_SCRIPT=${QBOOT_SCRIPT:-$0}
# Whoever asks for help or for what is missing wants nothing installed, and is not
# to wait for a compiler.
case " $* " in
"  " | *" --help "* | *" -h "* | " help "*)
    if [ -x "$qboot" ]; then exec "$qboot" "$@"; fi
    sed -n '2,/^[^#]/{/^[^#]/d;s/^# \{0,1\}//;p}' "$QBOOT_SCRIPT"
    echo "(commands and options are listed here once a first boot has compiled the program)"
    exit
    ;;
" doctor "*)
    if [ -x "$qboot" ]; then exec "$qboot" "$@"; fi
    exec "$root/scripts/setup.sh" doctor
    ;;
# A script that stands for one command installs what that needs.
*) [ "${QBOOT_SCRIPT##*/}" = xtask.sh ] || "$root/scripts/setup.sh" ;;
esac
if ! [ -x "$qboot" ]; then
    command -v cargo >/dev/null || {
        echo "Rust is missing: $root/scripts/setup.sh installs it or says how" >&2
        exit 1
    }
    echo "compiling the program qboot, once ..." >&2
    case ${1:-} in run | build | dist)
        # Compiled meanwhile, when cargo knows its packages: the program finds it
        # done, or says what is wrong with it.
        (sleep 1 && exec "$root/scripts/rom.sh") >/dev/null 2>&1 &
        trap "kill $! 2>/dev/null; exit 130" INT TERM
        ;;
    esac
fi
# rustup takes the toolchain from the directory that cargo starts in. Where there is
# little to compile, only what cargo waits for and compiles is told.
compile() { (cd "$root" && cargo build --package qboot-cli --target-dir target >&2); }
if [ -x "$qboot" ]; then
    compile 2> >(sed '/^ *Finished/d' >&2)
else
    compile
fi || {
    status=$?
    # Under what cargo says, what it does not.
    room=$(df --output=avail --block-size=1M "$root" | tail -n 1)
    for dir in "$root" "$root/target" "$root/target/debug"; do
        if [ -e "$dir" ] && ! [ -w "$dir" ]; then
            echo "$dir cannot be written by $(id -un): clone into a directory of your own" >&2
            break
        fi
    done
    if [ "$room" -lt 400 ]; then
        echo "$root has $room MiB left on its disk, a first build takes up to 400" >&2
    fi
    exit "$status"
}
exec "$qboot" "$@"
