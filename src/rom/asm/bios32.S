/*
 * The 32-bit PCI BIOS, for kernels with pci=bios.
 *
 * The code is copied into the F segment. A kernel may map it anywhere, so no
 * instruction depends on its address. Calls are far, segments flat. Registers
 * without an answer keep their value. Configuration mechanism 1 is the only one
 * of QEMU's machines with ports.
 */
        .section .bios32, "ax", @progbits
        .balign 4
        .globl bios32_start, bios32_end
        .code32
bios32_start:
/* The header, which pcibios.rs completes: the PCI BIOS's entry, as an offset in
 * the F segment, and the last bus. */
entry32:
        .long   pci32 - bios32_start
last32: .long   0

/* The directory: a service is ECX bytes at EBX, entered at EBX + EDX. */
        testb   %bl, %bl
        jnz     2f
        cmpl    $0x49435024, %eax       /* "$PCI" */
        jne     3f
        call    1f
1:      popl    %edx
        movl    %cs:entry32 - 1b(%edx), %edx
        movl    $0xf0000, %ebx
        movl    $0x10000, %ecx
        movb    $0, %al
        lretl
2:      movb    $0x81, %al              /* no such function */
        lretl
3:      movb    $0x80, %al              /* no such service */
        lretl

/* The PCI BIOS 2.1: AH is b1h, AL the function. */
pci32:  cmpb    $0xb1, %ah
        jne     unsupported32
        cmpb    $0x01, %al
        je      present32
        cmpb    $0x02, %al
        je      device32
        cmpb    $0x03, %al
        je      class32
        cmpb    $0x08, %al
        jb      unsupported32
        cmpb    $0x0d, %al
        ja      unsupported32

        /* Register DI of function BX. */
        pushl   %edx
        pushl   %eax
        pci_check bad_register32
        movzwl  %bx, %eax
        orl     $0x800000, %eax
        shll    $8, %eax
        movw    %di, %dx
        andb    $~3, %dl
        movb    %dl, %al
        movw    $0xcf8, %dx
        outl    %eax, %dx
        movw    %di, %dx
        andw    $3, %dx
        orw     $0xcfc, %dx
        movb    (%esp), %al
        pci_data
        popl    %eax
        popl    %edx
successful32:
        movb    $0, %ah
        clc
        lretl
bad_register32:
        popl    %eax
        popl    %edx
        movb    $0x87, %ah              /* BAD_REGISTER_NUMBER */
        stc
        lretl
unsupported32:
        movb    $0x81, %ah              /* FUNC_NOT_SUPPORTED */
        stc
        lretl
bad_vendor32:
        movb    $0x83, %ah              /* BAD_VENDOR_ID */
        stc
        lretl

present32:
        call    1f
1:      popl    %edx
        movb    %cs:last32 - 1b(%edx), %cl
        movl    $0x20494350, %edx       /* "PCI " */
        movw    $0x0210, %bx
        movb    $1, %al
        jmp     successful32

/* The SI-th function whose register EDI, shifted right by CL, is EBP. */
device32:
        cmpw    $0xffff, %dx
        je      bad_vendor32
        pushal
        movl    %ecx, %ebp
        shll    $16, %ebp
        movw    %dx, %bp
        xorl    %edi, %edi
        movb    $0, %cl
        jmp     1f
class32:
        pushal
        movl    %ecx, %ebp
        andl    $0xffffff, %ebp
        movl    $8, %edi
        movb    $8, %cl
1:      call    2f
2:      popl    %eax
        movb    %cs:last32 - 2b(%eax), %ch
        xorl    %ebx, %ebx
3:      movl    %ebx, %eax
        orl     $0x800000, %eax
        shll    $8, %eax
        orl     %edi, %eax
        movw    $0xcf8, %dx
        outl    %eax, %dx
        movb    $0xfc, %dl
        inl     %dx, %eax
        shrl    %cl, %eax
        cmpl    %eax, %ebp
        jne     4f
        subw    $1, %si
        jb      5f
4:      incw    %bx
        jz      6f
        cmpb    %ch, %bh
        jbe     3b
6:      popal
        movb    $0x86, %ah              /* DEVICE_NOT_FOUND */
        stc
        lretl
5:      movw    %bx, 16(%esp)           /* EBX of the saved registers */
        popal
        jmp     successful32
        .balign 4
bios32_end:
        .text
