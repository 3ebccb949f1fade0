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
"  " | *" --help "* | *" -h "* | " help "* | " --version " | " -V ")
    if [ -x "$qboot" ]; then exec "$qboot" "$@"; fi
    sed -n '2,/^[^#]/{/^[^#]/d;s/^# \{0,1\}//;p}' "$QBOOT_SCRIPT"
    echo "(commands and options are listed here once a first boot has compiled the program)"
    exit
    ;;
" doctor "*)
    if [ -x "$qboot" ]; then exec "$qboot" "$@"; fi
    exec "$root/scripts/setup.sh" doctor
    ;;
esac
# Wrong usage is told before anything is installed or compiled; a program that is there
# says more. A test compares names and values with the program's.
commands=(run build inspect extract kernel doctor completions dist)
developer=(boots measure bench timeline figures matrix capture release)
options=(--machine -M --kernel -k --initrd -i --append -a --memory -m --cpus -c --accel --firmware -f --bzimage --log
    --mode --timeout --fast --qemu --dry-run --features --symbols -n --json)
declare -A values=([--log]="off steps all" [--mode]="auto shell report")
wrong() {
    printf "error: %s\n\nFor more information, try '%s --help'.\n" "$1" "$QBOOT_SCRIPT" >&2
    exit 2
}
check() {
    # Developers' commands have options of their own.
    [[ " ${developer[*]} " != *" $1 "* ]] || return 0
    [[ " ${commands[*]} " == *" $1 "* ]] || wrong "unrecognized subcommand '$1'"
    local word option value known last=
    for word in "${@:2}"; do
        # Kernel parameters may begin with a dash.
        if [[ $last = --append || $last = -a ]]; then
            last=
            continue
        fi
        option=
        case $word in
        --) return ;;
        --*) option=${word%%=*} ;;
        # Its value may follow without a space.
        -?*) option=${word:0:2} ;;
        esac
        [[ -z $option || " ${options[*]} " == *" $option "* ]] ||
            wrong "unexpected argument '$word' found"
        case $word in
        --*=*) value=${word#*=} ;;
        *) option=$last value=$word ;;
        esac
        known=${values[${option:-none}]:-}
        [[ -z $known || " $known " == *" $value "* ]] ||
            wrong "invalid value '$value' for '$option' (known: ${known// /, })"
        last=$word
    done
}
[ -x "$qboot" ] || check "$@"
# A script that stands for one command installs what that needs.
[ "${QBOOT_SCRIPT##*/}" = xtask.sh ] || "$root/scripts/setup.sh"
if ! [ -x "$qboot" ]; then
    command -v cargo >/dev/null || {
        echo "Rust is missing: $root/scripts/setup.sh installs it or says how" >&2
        exit 1
    }
    case ${1:-} in run | build | dist)
        echo "compiling the program qboot and the ROM, once ..." >&2
        # Side by side: the program then fetches a kernel, and finds the ROM done or says
        # what is wrong with it. Begun later, for the cargo that is seen to fetch crates.
        (sleep 0.3 && exec "$root/scripts/rom.sh") >/dev/null 2>&1 &
        # Where the program does not compile, the ROM is not wanted either.
        trap "kill $! 2>/dev/null || true" EXIT
        trap 'exit 130' INT TERM
        ;;
    *) echo "compiling the program qboot, once ..." >&2 ;;
    esac
fi
# rustup takes the toolchain from the directory that cargo starts in. Where there is
# little to compile, only what cargo waits for and compiles is told.
compile() { (cd "$root" && cargo build --package qboot-cli --target-dir target >&2); }
if [ -x "$qboot" ]; then
    compile 2> >(sed -u '/^ *Finished/d' >&2)
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
