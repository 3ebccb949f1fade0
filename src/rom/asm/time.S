/* INT 1Ah: time of day, and the PCI BIOS (pci.S). */
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
/* Waits for the end of the clock's update. ZF is clear if that never comes,
 * because there is no clock. */
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

/* IRQ 0: the timer. */
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
