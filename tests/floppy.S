# A boot sector, and one more that it reads from its disk: both print.

        .code16
        .text
start:  cld
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    $first - start + 0x7c00, %si
        call    print
        movw    $0x0201, %ax            # read a sector
        movw    $0x0002, %cx            # the second one
        movb    $0, %dh
        movw    $0x7e00, %bx
        int     $0x13
        jc      stop
        movw    $0x7e00, %si
        call    print
stop:   cli
        hlt
        jmp     stop
print:  movb    $0x0e, %ah
        lodsb
        testb   %al, %al
        jz      1f
        int     $0x10
        jmp     print
1:      ret
first:  .asciz  "The boot sector runs.\r\n"
        .org    510
        .word   0xaa55
        .asciz  "So does INT 13h.\r\n"
        .org    1474560
