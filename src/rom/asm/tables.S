/* Where the vectors point: 0x08 to 0x1f, then 0x70 to 0x77, then all others;
 * offsets from the section's start. */
        .balign 2
code16_vectors:
        .word   irq0 - code16_start
        .rept   7
        .word   irq - code16_start
        .endr
        .word   int10 - code16_start
        .word   int11 - code16_start
        .word   int12 - code16_start
        .word   int13 - code16_start
        .word   refuse - code16_start
        .word   int15 - code16_start
        .word   int16 - code16_start
        .word   refuse - code16_start
        .word   int18 - code16_start
        .word   reset16 - code16_start
        .word   int1a - code16_start
        .word   refuse - code16_start
        .word   none - code16_start
        .word   refuse - code16_start
        .word   refuse - code16_start
        .word   refuse - code16_start
        .rept   8
        .word   irq_slave - code16_start
        .endr
        .word   refuse - code16_start

        .balign 8
gdt16:  .quad   0
        .quad   0x00009b0f0000ffff      /* 16-bit code at 0xf0000 */
        .quad   0x00cf93000000ffff      /* flat data */
        .quad   0x000093000000ffff      /* 16-bit data at 0 */
gdt16_end:
gdt16_pointer:
        .word   gdt16_end - gdt16 - 1
        .long   gdt16
ivt_pointer:
        .word   0x3ff
        .long   0
no_idt: .word   0
        .long   0
returned:
        .asciz  "qboot: the kernel has given up; reset the machine\r\n"
        .balign 4
code16_end:
        .text
        .code32
