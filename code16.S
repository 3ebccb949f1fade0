/*
 * Real mode: the BIOS services that a kernel's 16-bit code asks for, and the
 * way there.
 *
 * The section is linked where the ROM lies below 4 GiB and runs at its copy
 * in the F segment, whose offsets are the low halves of its addresses. Only
 * what is entered in 16-bit mode, or may go there, gets that copy.
 *
 * Services keep every register that they do not answer in, and answer in the
 * stacked flags: carry set means refused. They use no memory but the BIOS
 * data area (BDA, segment 0x40) and the firmware's EBDA.
 */
        .section .code16, "ax", @progbits
        .balign 16
        .globl code16_start, code16_end, code16_vectors, enter16
code16_start:

        .set    BDA, 0x40
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
 * Enters 16-bit code: BX is its segment, DX the stack pointer in it, and ECX
 * dwords are moved from ESI to EDI first, over memory that was the firmware's.
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
        addw    $0x20, %bx
        pushw   %bx
        pushw   $0
        xorl    %eax, %eax
        xorl    %ebx, %ebx
        xorl    %ecx, %ecx
        xorl    %edx, %edx
        xorl    %esi, %esi
        xorl    %edi, %edi
        xorl    %ebp, %ebp
        lretw

/* No interrupt table, so an interrupt resets the machine, any machine. */
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

/*
 * INT 10h: a teletype with a cursor. Without an answer in AL and BL to 1Ah
 * and 12h there is no VGA and no EGA.
 */
int10:  cmpb    $0x0e, %ah
        je      teletype
        cmpb    $0x09, %ah
        je      draw
        cmpb    $0x0a, %ah
        je      draw
        cmpb    $0x13, %ah
        je      string
        cmpb    $0x02, %ah
        je      set_cursor
        cmpb    $0x03, %ah
        je      get_cursor
        cmpb    $0x0f, %ah
        je      get_mode
        cmpb    $0x4f, %ah
        jne     1f
        movw    $0x0100, %ax            /* VESA: not supported, failed */
1:      iretw

set_cursor:
        pushw   %ds
        pushw   $BDA
        popw    %ds
        movw    %dx, CURSOR
        movb    $0, DRAWN
        popw    %ds
        iretw
get_cursor:
        pushw   %ds
        pushw   $BDA
        popw    %ds
        movw    CURSOR, %dx
        movw    $0x0607, %cx
        popw    %ds
        iretw
get_mode:
        movw    $COLUMNS << 8 | 3, %ax
        movb    $0, %bh
        iretw

/*
 * Draws a character without moving the cursor. Some programs draw one to give
 * it an attribute and then print it: that is shown once.
 */
draw:   cmpw    $1, %cx
        jne     1f                      /* an area is cleared */
        call    put
        pushw   %ds
        pushw   $BDA
        popw    %ds
        movb    %al, DRAWN
        popw    %ds
1:      iretw

teletype:
        call    type
        iretw
type:   pushw   %ds
        pushw   $BDA
        popw    %ds
        cmpb    %al, DRAWN
        movb    $0, DRAWN
        je      1f
        call    put
1:      cmpb    $'\r', %al
        je      2f
        cmpb    $'\n', %al
        je      3f
        cmpb    $' ', %al
        jb      4f
        incb    CURSOR
        cmpb    $COLUMNS, CURSOR
        jb      4f
        movb    $0, CURSOR
        jmp     3f
2:      movb    $0, CURSOR
        jmp     4f
3:      cmpb    $ROWS - 1, CURSOR + 1
        jae     4f
        incb    CURSOR + 1
4:      popw    %ds
        retw

string: pushaw
        jcxz    3f
        movw    %ax, %dx
1:      movb    %es:(%bp), %al
        incw    %bp
        testb   $2, %dl                 /* attributes between characters */
        jz      2f
        incw    %bp
2:      call    type
        loop    1b
3:      popaw
        iretw

/* INT 11h: equipment; INT 12h: KiB of memory from address 0. */
int11:  movw    $0x10, %ax
        jmp     1f
int12:  movw    $0x13, %ax
1:      pushw   %ds
        pushw   %si
        pushw   $BDA
        popw    %ds
        movw    %ax, %si
        movw    (%si), %ax
        popw    %si
        popw    %ds
        iretw

/* INT 13h: there is no disk. */
int13:  movb    $0x01, %ah
        jmp     refuse

/* INT 15h: memory. */
int15:  cmpw    $0xe820, %ax
        je      e820
        cmpw    $0xe801, %ax
        je      e801
        cmpb    $0x88, %ah
        je      extended
        cmpb    $0x87, %ah
        je      move
        cmpb    $0x24, %ah
        jne     unsupported

        /* A20, by the "fast" port. */
        cmpb    $2, %al
        jb      2f
        je      1f
        cmpb    $3, %al
        jne     unsupported
        movw    $3, %bx                 /* keyboard controller and port 0x92 */
        jmp     answer_ah0
1:      inb     $0x92, %al
        shrb    $1, %al
        andb    $1, %al
        jmp     answer_ah0
2:      pushw   %ax
        shlb    $1, %al
        movb    %al, %ah
        inb     $0x92, %al
        andb    $~3, %al                /* bit 0 would reset the machine */
        orb     %ah, %al
        outb    %al, $0x92
        popw    %ax
        jmp     answer_ah0

e820:   cmpl    $SMAP, %edx
        jne     unsupported
        cmpl    $20, %ecx
        jb      unsupported
        pushw   %ds
        pushw   ${ebda_segment}
        popw    %ds
        movzwl  {e820_count}, %eax
        cmpl    %eax, %ebx
        jae     3f
        pushw   %si
        pushw   %di
        imulw   $20, %bx, %si
        addw    ${e820_entries}, %si
        incl    %ebx
        cmpl    %eax, %ebx
        jb      1f
        xorl    %ebx, %ebx              /* that was the last */
1:      pushw   %cx
        movw    $10, %cx
        cld
        rep movsw
        popw    %cx
        cmpl    $24, %ecx
        movl    $20, %ecx
        jb      2f
        movl    $1, %es:(%di)           /* ACPI 3.0: the entry is enabled */
        movl    $24, %ecx
2:      movl    $SMAP, %eax
        popw    %di
        popw    %si
        popw    %ds
        jmp     answer
3:      popw    %ds
        jmp     unsupported

e801:   pushw   %ds
        pushw   ${ebda_segment}
        popw    %ds
        movw    {e801_low}, %ax
        movw    {e801_high}, %bx
        movw    %ax, %cx
        movw    %bx, %dx
        popw    %ds
        jmp     answer

extended:
        pushw   %ds
        pushw   ${ebda_segment}
        popw    %ds
        movw    {extended_kib}, %ax
        popw    %ds
        jmp     answer

/* Moves CX words as the descriptors at ES:SI + 0x10 and + 0x18 say. */
move:   pushal
        pushw   %ds
        pushw   %es
        movzwl  %cx, %ecx
        movb    %es:0x1f(%si), %al
        shll    $24, %eax
        movl    %es:0x1a(%si), %edi
        andl    $0xffffff, %edi
        orl     %eax, %edi
        movb    %es:0x17(%si), %al
        shll    $24, %eax
        movl    %es:0x12(%si), %esi
        andl    $0xffffff, %esi
        orl     %eax, %esi
        /* Real mode with flat DS and ES: limits outlive protected mode. */
        lgdtl   %cs:gdt16_pointer
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        movw    $0x10, %bx
        movw    %bx, %ds
        movw    %bx, %es
        andb    $~1, %al
        movl    %eax, %cr0
        xorw    %bx, %bx
        movw    %bx, %ds
        movw    %bx, %es
        cld
        .byte   0x67                    /* with ESI, EDI and ECX */
        rep movsw
        popw    %es
        popw    %ds
        popal
        jmp     answer_ah0

/* INT 16h: there is no keyboard; no key waits, none is pressed. */
int16:  xorw    %ax, %ax
        pushw   %bp
        movw    %sp, %bp
        orb     $0x41, 6(%bp)           /* carry and zero */
        popw    %bp
        iretw

/* INT 18h: the program has given up; INT 19h: it wants to be booted again. */
int18:  movw    $returned, %si
1:      lodsb   %cs:(%si), %al
        testb   %al, %al
        jz      2f
        call    put
        jmp     1b
2:      cli
        hlt
        jmp     2b

/* INT 1Ah: time of day, and the PCI BIOS. */
int1a:  cmpb    $0xb1, %ah
        je      pci
        cmpb    $1, %ah
        jb      get_ticks
        je      set_ticks
        cmpb    $2, %ah
        je      get_time
        cmpb    $4, %ah
        je      get_date
        jmp     refuse

get_ticks:
        pushw   %ds
        pushw   $BDA
        popw    %ds
        movw    TICKS, %dx
        movw    TICKS + 2, %cx
        xorb    %al, %al
        xchgb   MIDNIGHT, %al
        popw    %ds
        jmp     answer_ah0
set_ticks:
        pushw   %ds
        pushw   $BDA
        popw    %ds
        movw    %dx, TICKS
        movw    %cx, TICKS + 2
        movb    $0, MIDNIGHT
        popw    %ds
        jmp     answer_ah0

/* Register AL of the clock, to AL. */
cmos:   outb    %al, $0x70
        inb     $0x71, %al
        retw
/* Waits until the clock is not being updated; ZF is clear where it always is,
 * which is where there is none. */
settled:
        xorw    %cx, %cx
1:      movb    $0x0a, %al
        call    cmos
        testb   $0x80, %al
        loopnz  1b
        retw
get_time:
        pushw   %ax
        call    settled
        jnz     no_clock
        movb    $0x04, %al              /* hours */
        call    cmos
        movb    %al, %ch
        movb    $0x02, %al              /* minutes */
        call    cmos
        movb    %al, %cl
        movb    $0x00, %al              /* seconds */
        call    cmos
        movb    %al, %dh
        movb    $0x0b, %al              /* daylight saving */
        call    cmos
        andb    $1, %al
        movb    %al, %dl
        popw    %ax
        jmp     answer_ah0
get_date:
        pushw   %ax
        call    settled
        jnz     no_clock
        movb    $0x32, %al              /* century */
        call    cmos
        movb    %al, %ch
        movb    $0x09, %al              /* year */
        call    cmos
        movb    %al, %cl
        movb    $0x08, %al              /* month */
        call    cmos
        movb    %al, %dh
        movb    $0x07, %al              /* day */
        call    cmos
        movb    %al, %dl
        popw    %ax
        jmp     answer_ah0
no_clock:
        popw    %ax
        jmp     refuse

/* PCI BIOS 2.1, by mechanism 1. */
pci:    pushl   %edx
        pushl   %eax
        movw    $0xcf8, %dx
        movl    $0x80000000, %eax
        outl    %eax, %dx
        inl     %dx, %eax
        shll    $1, %eax                /* read back where there is PCI */
        popl    %eax
        jnz     4f
        cmpb    $0x01, %al
        je      pci_check
        cmpb    $0x02, %al
        je      pci_find_device
        cmpb    $0x03, %al
        je      pci_find_class
        cmpb    $0x08, %al
        jb      4f
        cmpb    $0x0d, %al
        ja      4f
        pushl   %eax
        call    pci_address
        cmpb    $0x09, %al
        jb      1f
        je      2f
        cmpb    $0x0b, %al
        jb      3f
        je      5f
        cmpb    $0x0d, %al
        jb      6f
        movl    %ecx, %eax
        outl    %eax, %dx
        jmp     7f
1:      inb     %dx, %al
        movb    %al, %cl
        jmp     7f
2:      inw     %dx, %ax
        movw    %ax, %cx
        jmp     7f
3:      inl     %dx, %eax
        movl    %eax, %ecx
        jmp     7f
5:      movb    %cl, %al
        outb    %al, %dx
        jmp     7f
6:      movw    %cx, %ax
        outw    %ax, %dx
7:      popl    %eax
        popl    %edx
        jmp     answer_ah0
4:      popl    %edx
        movb    $0x81, %ah              /* FUNC_NOT_SUPPORTED */
        jmp     refuse

/* Names register DI of function BX; DX is its data port. */
pci_address:
        pushl   %eax
        movzwl  %bx, %eax
        orl     $0x800000, %eax
        shll    $8, %eax
        movw    %di, %dx
        movb    %dl, %al
        andb    $~3, %al
        movw    $0xcf8, %dx
        outl    %eax, %dx
        movw    %di, %dx
        andw    $3, %dx
        orb     $0xfc, %dl
        movb    $0x0c, %dh
        popl    %eax
        retw

pci_check:
        popl    %edx
        movl    $0x20494350, %edx       /* "PCI " */
        movw    $0x0210, %bx
        pushw   %ds
        pushw   ${ebda_segment}
        popw    %ds
        movb    {last_bus}, %cl
        popw    %ds
        movb    $1, %al                 /* mechanism 1, no special cycles */
        jmp     answer_ah0

/* The SI-th function whose register DI, shifted right by CL, is EBP. */
pci_find_device:
        popl    %edx
        pushal
        movw    %cx, %bp
        shll    $16, %ebp
        movw    %dx, %bp
        xorw    %di, %di
        movb    $0, %cl
        jmp     1f
pci_find_class:
        popl    %edx
        pushal
        movl    %ecx, %ebp
        andl    $0xffffff, %ebp
        movw    $8, %di
        movb    $8, %cl
1:      pushw   %ds
        pushw   ${ebda_segment}
        popw    %ds
        movb    {last_bus}, %ch
        popw    %ds
        xorw    %bx, %bx
2:      call    pci_address
        inl     %dx, %eax
        shrl    %cl, %eax
        cmpl    %eax, %ebp
        jne     3f
        subw    $1, %si
        jb      4f
3:      incw    %bx
        jz      5f
        cmpb    %ch, %bh
        jbe     2b
5:      popal
        movb    $0x86, %ah              /* DEVICE_NOT_FOUND */
        jmp     refuse
4:      movw    %sp, %bp
        movw    %bx, 16(%bp)            /* EBX of the saved registers */
        popal
        jmp     answer_ah0

/* IRQ 0: time goes on. */
irq0:   pushw   %ds
        pushw   %ax
        pushw   $BDA
        popw    %ds
        incl    TICKS
        cmpl    $TICKS_A_DAY, TICKS
        jb      1f
        movl    $0, TICKS
        movb    $1, MIDNIGHT
1:      int     $0x1c
        popw    %ax
        popw    %ds
        jmp     irq
irq_slave:
        pushw   %ax
        movb    $EOI, %al
        outb    %al, $0xa0
        popw    %ax
irq:    pushw   %ax
        movb    $EOI, %al
        outb    %al, $0x20
        popw    %ax
none:   iretw

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
