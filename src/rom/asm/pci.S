/* Reads CL, CX or ECX from the data port DX, or writes it, as AL says: 8 to 10
 * read a byte, a word, a dword, 11 to 13 write. For bios32.S too. */
        .macro  pci_data
        cmpb    $0x09, %al
        jb      .Lread_byte\@
        je      .Lread_word\@
        cmpb    $0x0b, %al
        jb      .Lread_dword\@
        je      .Lwrite_byte\@
        cmpb    $0x0d, %al
        jb      .Lwrite_word\@
        movl    %ecx, %eax
        outl    %eax, %dx
        jmp     .Ldone\@
.Lread_byte\@:
        inb     %dx, %al
        movb    %al, %cl
        jmp     .Ldone\@
.Lread_word\@:
        inw     %dx, %ax
        movw    %ax, %cx
        jmp     .Ldone\@
.Lread_dword\@:
        inl     %dx, %eax
        movl    %eax, %ecx
        jmp     .Ldone\@
.Lwrite_byte\@:
        movb    %cl, %al
        outb    %al, %dx
        jmp     .Ldone\@
.Lwrite_word\@:
        movw    %cx, %ax
        outw    %ax, %dx
.Ldone\@:
        .endm

/* Goes to `bad` unless DI is a register of 256 bytes that has the size of
 * function AL, 8 to 13. It changes EAX. */
        .macro  pci_check bad
        subb    $0x08, %al
        cmpb    $3, %al
        jb      .Lread\@
        subb    $3, %al
.Lread\@:
        movb    %al, %ah                /* 0, 1, 2: align to 0, 1, 3 */
        shrb    $1, %ah
        addb    %ah, %al
        movb    $0xff, %ah
        testw   %ax, %di
        jnz     \bad
        .endm

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
        pci_check bad_register
        popl    %eax
        pushl   %eax
        call    pci_address
        pci_data
        popl    %eax
        popl    %edx
        jmp     answer_ah0
4:      popl    %edx
        movb    $0x81, %ah              /* FUNC_NOT_SUPPORTED */
        jmp     refuse
bad_register:
        popl    %eax
        popl    %edx
        movb    $0x87, %ah              /* BAD_REGISTER_NUMBER */
        jmp     refuse
bad_vendor:
        movb    $0x83, %ah              /* BAD_VENDOR_ID */
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
        cmpw    $0xffff, %dx
        je      bad_vendor
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
