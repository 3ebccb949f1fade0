    .section .note.Xen, "a", @note
    .long 4, 8, 18
    .asciz "Xen"
    .quad 0x1000040
    .text
    .globl _start
_start:
    .rept 64
    call _start
    hlt
    .endr
    .ascii "A stand-in for a kernel: a few instructions, some text.\n"
