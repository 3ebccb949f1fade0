# A kernel that goes back to real mode and jumps to the reset vector, as Linux's
# reboot=bios does. Entered a second time, it ends QEMU. In the place of a multiboot
# probe's code.

        .set    BASE, 0x100000
        .set    MARK, 0x300000          # RAM that a reset keeps
        .set    LOW, 0x7000             # below 64 KiB, where real mode can run
        .code32
        .text
start:  cmpl    $0x5eedface, MARK
        je      end
        movl    $0x5eedface, MARK
        movl    $BASE + low - start, %esi
        movl    $LOW, %edi
        movl    $end - low, %ecx
        rep movsb
        lgdt    BASE + gdtr - start
        lidt    BASE + idtr - start
        movl    $0x10, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        ljmpl   $0x08, $LOW
        .code16
low:    movl    %cr0, %eax
        andb    $~1, %al
        movl    %eax, %cr0
        ljmpw   $0xf000, $0xfff0
        .code32
end:    movb    $0x10, %al
        movw    $0x501, %dx
        outb    %al, %dx
        hlt
        .balign 8
gdt:    .quad   0, 0x00009b000000ffff, 0x000093000000ffff
gdtr:   .word   . - gdt - 1
        .long   BASE + gdt - start
idtr:   .word   0x3ff
        .long   0
