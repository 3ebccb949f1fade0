#!/bin/sh
# Sleeps and looks afterwards whether all is as it was. By words on the kernel's command
# line:
#   suspend.times=N        sleep so often
#   suspend.fill=N         MiB of memory to fill
#   suspend.disks=A,B      disks to read and write
#   suspend.ping=ADDRESS   ask this one on the network
#   suspend.tpm=1          read a TPM's registers
#   suspend.kexec=1        begin with another kernel
word() {
    for word in $(cat /proc/cmdline); do
        case $word in "suspend.$1"=*) echo "${word#*=}" ;; esac
    done | tail -n 1
}

for module in /modules/*; do
    [ ! -f "$module" ] || insmod "$module" || echo "suspend: no $module"
done

if [ -n "$(word kexec)" ] && [ -z "$(word second)" ]; then
    # Of what is mounted, the directories alone.
    (cd / && (printf '%s\n' dev dev/console proc sys tmp && find bin init suspend) |
        cpio -o -H newc) >/initrd 2>/dev/null
    tool="/ld-linux-x86-64.so.2 --library-path / /kexec"
    $tool -l -c /kernel --initrd=/initrd --command-line="$(cat /proc/cmdline) suspend.second=1" &&
        $tool -e
    echo "suspend: no kexec"
fi
[ -z "$(word second)" ] || echo "suspend: the second kernel"

address=$(word ping)
if [ -n "$address" ]; then
    ip link set eth0 up
    ip address add 10.0.2.15/24 dev eth0
fi

# Blocks that differ: the number of each stands in front of the same noise.
mkdir -p /fill
mount -t tmpfs -o size=100% fill /fill
dd if=/dev/urandom of=/noise bs=1M count=1 2>/dev/null
n=0
while [ $n -lt "$(word fill)" ]; do
    n=$((n + 1))
    { echo "block $n"; cat /noise; } >"/fill/$n"
done

all_memory() {
    cat /fill/* | md5sum
}

# What must be the same after a sleep.
state() {
    nproc
    all_memory
    for disk in $(word disks | tr , ' '); do
        dd if="/dev/$disk" bs=1M count=4 iflag=direct 2>/dev/null | md5sum
    done
    if [ -n "$(word tpm)" ]; then
        cat /sys/class/tpm/tpm0/pcr-sha1/10 || echo "no answer $n"
    fi
    cat /proc/mtrr
}

works() {
    for disk in $(word disks | tr , ' '); do
        dd if=/noise of="/dev/$disk" bs=1M count=1 seek=$((n % 4)) conv=fsync 2>/dev/null || return 1
        dd if="/dev/$disk" bs=1M count=1 skip=$((n % 4)) iflag=direct 2>/dev/null | cmp - /noise || return 1
    done
    if [ -n "$address" ]; then
        # The link takes a moment to come up.
        ping -c 1 -W 20 "$address" >/dev/null || ping -c 1 -W 60 "$address" >/dev/null || return 1
    fi
}

n=0
works || echo "suspend: does not work before"
while [ $n -lt "$(word times)" ]; do
    n=$((n + 1))
    state >/before 2>&1
    echo "suspend: sleeps $n"
    echo mem >/sys/power/state || echo "suspend: does not sleep"
    state >/after 2>&1
    if cmp /before /after && works; then
        echo "suspend: awake $n all is well"
    else
        echo "suspend: awake $n with differences"
        diff /before /after
    fi
done
