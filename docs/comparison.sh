#!/usr/bin/env bash
# The measurements of comparison.md, to be typed piece by piece at the top of the
# repository. stage0_bin and hypervisor-fw are built from their projects' commits by a
# nightly compiler: stage0 by Cargo, with the crates, features and options that its
# Bazel files name; hypervisor-fw with two values of its target file changed to numbers.
# cargo xtask matrix --qemu backports --filter vmgenid@q35 downloads QEMU 10.0.
export QBOOT_QEMU=$PWD/target/matrix/qemu-backports
cpu="-cpu qemu64,+x2apic,+rdrand"

# Counts. Behind the -- stand options for QEMU. A cell that a firmware does not boot ends in an error:
# stage0 on pc; microvm with SeaBIOS, which has bios-microvm.bin for it.
cargo xtask measure --cell bzImage --rom target/qboot.rom --rom /usr/share/qemu/qboot.rom \
    --rom /usr/share/seabios/bios-256k.bin --rom stage0_bin -- $cpu
ports=$(for n in $(seq 20); do echo "-device pcie-root-port,id=rp$n,chassis=$n"; done)
cargo xtask measure --cell "q35 bzImage" --rom stage0_bin -- $cpu $ports

# A disk with the probe as its kernel, for rust-hypervisor-firmware (Debian's fdisk and mtools).
cargo xtask measure --probe probe
truncate -s 64M disk
echo 'label: gpt
start=2048, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B' | sfdisk disk
mformat -i disk@@1M -T 128990 -h 16 -s 63 -F ::
mmd -i disk@@1M ::/loader ::/loader/entries
echo 'default qboot*' | mcopy -i disk@@1M - ::/loader/loader.conf
printf 'linux /kernel\noptions console=ttyS0\n' | mcopy -i disk@@1M - ::/loader/entries/qboot.conf
mcopy -i disk@@1M probe ::/kernel
disk="-drive if=none,id=d,file=disk,format=raw,readonly=on -device virtio-blk-pci,drive=d,disable-legacy=on"
cargo xtask measure --cell "q35 PVH" --kernel hypervisor-fw -- $cpu $disk

# What boots, and what is said.
initrd=$PWD/target/initramfs.cpio kernel=$(cargo xtask kernel)
qemu="$QBOOT_QEMU $cpu -m 512 -nodefaults -display none -no-reboot -serial stdio"
words="console=ttyS0 panic=-1 no_timer_check tsc_early_khz=2000000 qboot.do=poweroff"
$qemu -M q35 -bios stage0_bin -kernel $kernel -initrd $initrd -append "$words"
$qemu -M q35 -bios stage0_bin
head -c 7000000 $kernel >half; $qemu -M q35 -bios stage0_bin -kernel half
printf x >x; $qemu -M q35,acpi=off -bios stage0_bin -kernel $kernel -fw_cfg name=etc/table-loader,file=x
$qemu -M q35 -bios stage0_bin -kernel $kernel -device vmgenid
$qemu -M q35 -bios target/qboot.rom -kernel hypervisor-fw $disk
