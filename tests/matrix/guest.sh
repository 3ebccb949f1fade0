#!/bin/sh
# Begins the script of each cell: loads its modules. The functions are for cells to call.
for module in /modules/*; do [ -f "$module" ] && insmod "$module"; done

# Bytes that are read from a disk in so many blocks of 64 KiB.
bytes_of() {
    dd if="/dev/$1" bs=64k count="$2" 2>/dev/null | wc -c
}

# Each kind of PCI function and how many there are: class, driver, size of the
# configuration space.
pci_functions() {
    for device in /sys/bus/pci/devices/*; do
        driver=$(readlink "$device/driver")
        echo "$(cat "$device/class") ${driver##*/} $(stat -c %s "$device/config")"
    done | sort | uniq -c
}

# The range of BAR 2 of an ivshmem device.
ivshmem_bar() {
    for device in /sys/bus/pci/devices/*; do
        if [ "$(cat "$device/device")" = 0x1110 ]; then sed -n '3s/^/BAR 2: /p' "$device/resource"; fi
    done
}

