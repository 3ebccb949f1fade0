/* INT 11h: equipment; INT 12h: KiB of memory from address 0. */
int11:  movw    $EQUIPMENT, %ax
        jmp     1f
int12:  movw    $MEMORY_KIB, %ax
1:      pushw   %ds
        pushw   %si
        pushw   $BDA
        popw    %ds
        movw    %ax, %si
        movw    (%si), %ax
        popw    %si
        popw    %ds
        iretw

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
