#!/bin/sh
# First process of the small user space that qboot's boots reach. What it does
# is asked for on the kernel's command line:
#   qboot.do=report    print the report, then power off (the default)
#   qboot.do=shell     a shell on the serial console, power off when it ends
#   qboot.do=poweroff  only say that user space was reached, then power off
#   qboot.do=reboot    only say that user space was reached, then reboot
#   qboot.run=/PATH    first run this program, which the image's maker added
#   qboot.size=RxC     rows and columns of the terminal behind the console
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mount -t proc proc /proc
mount -t sysfs sysfs /sys
exec </dev/console >/dev/console 2>&1

parameter() {
    for word in $(cat /proc/cmdline); do
        case $word in "$1"=*) echo "${word#*=}" ;; esac
    done | tail -n 1
}

memory_kib() {
    while read -r name kib _; do
        if [ "$name" = MemTotal: ]; then echo "$kib"; fi
    done </proc/meminfo
}

# A file's first line, or "-": machines without ACPI or DMI have no such files.
first_line() {
    line=
    { read -r line <"$1"; } 2>/dev/null
    echo "${line:--}"
}

acpi_tables() {
    for table in /sys/firmware/acpi/tables/*; do
        if [ -f "$table" ]; then printf '%s ' "${table##*/}"; fi
    done
}

pci_devices() {
    for device in /sys/bus/pci/devices/*; do
        if [ -f "$device/vendor" ]; then
            vendor=$(first_line "$device/vendor")
            id=$(first_line "$device/device")
            class=$(first_line "$device/class")
            echo "  ${device##*/0000:} ${vendor#0x}:${id#0x} class ${class#0x}"
        fi
    done
}

report() {
    tables=$(acpi_tables)
    tables=${tables% }
    pci=$(pci_devices)
    echo "kernel:       $(uname -r)"
    echo "command line: $(cat /proc/cmdline)"
    echo "CPUs:         $(nproc)"
    echo "memory:       $(memory_kib) KiB"
    echo "ACPI tables:  ${tables:--}"
    echo "DMI product:  $(first_line /sys/class/dmi/id/product_name)"
    if [ -n "$pci" ]; then
        echo "PCI devices:"
        echo "$pci"
    else
        echo "PCI devices:  -"
    fi
}

# Without ACPI there is no power-off; a reset ends QEMU under -no-reboot.
leave() {
    sync
    if [ -d /sys/firmware/acpi/tables ]; then poweroff -f; fi
    reboot -f
}

todo=$(parameter qboot.do)
program=$(parameter qboot.run)
if [ -n "$program" ]; then "$program"; fi
case ${todo:-report} in report | shell) report ;; esac
echo "qboot: user space reached: kernel=$(uname -r) cpus=$(nproc) memory_kib=$(memory_kib)"
case $todo in
reboot)
    reboot -f
    ;;
shell)
    size=$(parameter qboot.size)
    if [ -n "$size" ]; then stty rows "${size%x*}" cols "${size#*x}"; fi
    export HOME=/ PS1='guest# '
    echo
    setsid cttyhack sh
    ;;
esac
leave
# Not reached: the kernel panics if its first process ends.
sleep 1000000
