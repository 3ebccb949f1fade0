#!/usr/bin/env bash
# Starts QEMU, stopped at the reset vector, and gdb on it with the ROM's symbols:
#
#   scripts/gdb.sh KERNEL [QEMU OPTIONS]       such as bzImage -M q35 -append quiet
#
# QBOOT_GDB holds further arguments for gdb, such as -batch -ex torust. The QEMU
# is qemu-system-i386, with which gdb and the 32-bit ELF file agree; it takes a
# bzImage, or a 32-bit ELF kernel.
set -euo pipefail
case ${1:-} in --help | -h)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
    exit
    ;;
esac
here=$(cd "$(dirname "$0")" && pwd)
[ $# -gt 0 ] || {
    echo "a kernel is needed: scripts/gdb.sh KERNEL [QEMU OPTIONS]" >&2
    exit 2
}
kernel=$1
shift
for program in gdb qemu-system-i386; do
    command -v "$program" >/dev/null || {
        echo "$program is missing: apt-get install gdb qemu-system-x86" >&2
        exit 1
    }
done
listens() { (: </dev/tcp/127.0.0.1/1234) 2>/dev/null; }
if listens; then
    echo "port 1234 is in use: by another QEMU with -s?" >&2
    exit 1
fi
"$here/build.sh" >&2
root=$(dirname "$here")
# In a session of its own: Ctrl-C is for gdb, and would end QEMU.
setsid qemu-system-i386 -display none -bios "$root/target/qboot.rom" -kernel "$kernel" "$@" -S -s </dev/null &
qemu=$!
trap 'kill "$qemu" 2>/dev/null || true' EXIT
# Until it listens, or has ended because it cannot.
for _ in $(seq 100); do
    kill -0 "$qemu" 2>/dev/null || { trap - EXIT; exit 1; }
    listens && break
    sleep 0.05
done
read -r -a arguments <<<"${QBOOT_GDB:-}"
gdb -q -nx -x "$root/.gdbinit" -ex "set substitute-path /qboot-rs $root" "$root/target/qboot.elf" "${arguments[@]}"
