/*
 * Real mode: the entry to it, and the BIOS services that a kernel's 16-bit code
 * asks for.
 *
 * The section is linked to the ROM below 4 GiB, and runs as a copy in the F
 * segment, whose offsets are the low halves of its addresses. The copy is made
 * only for kernels that are entered in 16-bit mode, or may go there.
 *
 * Services keep every register without an answer. The carry in the stacked
 * flags means refused. They use no memory but the BIOS data area (BDA, segment
 * 0x40) and the firmware's EBDA.
 *
 * This file has the entry and the small services. The others follow it in the
 * same section: video.S, memory.S, time.S, pci.S, and tables.S with the vectors.
 */
        .section .code16, "ax", @progbits
        .balign 16
        .globl code16_start, code16_end, code16_vectors, enter16
code16_start:

        .set    BDA, 0x40
        .set    EQUIPMENT, 0x10
        .set    MEMORY_KIB, 0x13
        .set    CURSOR, 0x50            /* column, row */
        .set    TICKS, 0x6c
        .set    MIDNIGHT, 0x70
        .set    DRAWN, 0xac             /* reserved byte: see `draw` */
        .set    ROWS, 25
        .set    COLUMNS, 80
        .set    COM1, 0x3f8
        .set    LSR_THRE, 0x20
        .set    TICKS_A_DAY, 0x1800b0
        .set    SMAP, 0x534d4150
        .set    EOI, 0x20

/*
 * Enters 16-bit code at EBP, segment above offset. BX is the segment of data and
 * stack, DX the stack pointer. First it moves ECX dwords from ESI to EDI, over
 * memory that was the firmware's.
 */
        .code32
enter16:
        cld
        rep movsl
        lgdt    gdt16_pointer
        ljmpl   $0x08, $(1f - 0xffff0000)
        .code16
1:      movw    $0x18, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %fs
        movw    %ax, %gs
        movw    %ax, %ss
        lidtl   %cs:ivt_pointer
        movl    %cr0, %eax
        andb    $~1, %al
        movl    %eax, %cr0
        ljmpw   $0xf000, $1f
1:      movw    %bx, %ds
        movw    %bx, %es
        movw    %bx, %fs
        movw    %bx, %gs
        movw    %bx, %ss
        movzwl  %dx, %esp
        pushl   %ebp
        xorl    %eax, %eax
        xorl    %ebx, %ebx
        xorl    %ecx, %ecx
        xorl    %edx, %edx
        xorl    %esi, %esi
        xorl    %edi, %edi
        xorl    %ebp, %ebp
        lretw

/* No interrupt table: an interrupt resets any machine. */
reset16:
        lidtl   %cs:no_idt
        int3

/* Ends of services. */
unsupported:
        movb    $0x86, %ah
refuse: pushw   %bp
        movw    %sp, %bp
        orb     $1, 6(%bp)
        popw    %bp
        iretw
answer_ah0:
        movb    $0, %ah
answer: pushw   %bp
        movw    %sp, %bp
        andb    $~1, 6(%bp)
        popw    %bp
        iretw

/* Prints AL on COM1. */
put:    pushw   %dx
        pushw   %cx
        pushw   %ax
        movw    $COM1 + 5, %dx
        xorw    %cx, %cx
1:      inb     %dx, %al
        testb   $LSR_THRE, %al
        loopz   1b
        jz      2f                      /* never ready: give it up */
        popw    %ax
        pushw   %ax
        movw    $COM1, %dx
        outb    %al, %dx
2:      popw    %ax
        popw    %cx
        popw    %dx
        retw

/* INT 13h: no disk. */
int13:  movb    $0x01, %ah
        jmp     refuse

/* INT 16h: no keyboard, and no key waiting. */
int16:  xorw    %ax, %ax
        pushw   %bp
        movw    %sp, %bp
        orb     $0x41, 6(%bp)           /* carry and zero */
        popw    %bp
        iretw

/* INT 18h: the program gives up; INT 19h: it asks for a new boot. */
int18:  movw    $returned, %si
1:      lodsb   %cs:(%si), %al
        testb   %al, %al
        jz      2f
        call    put
        jmp     1b
2:      cli
        hlt
        jmp     2b
