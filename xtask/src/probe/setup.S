# 16-bit setup code for a bzImage of our own: what a firmware or an option ROM
# that starts a kernel at its real-mode entry point finds there. It enters the
# 32-bit code by the 32-bit boot protocol, with its own segment as the zero page.
# The setup header lies on top of this, at 0x1f1; probe.rs writes it.

        .code16
        .text
        .org    0x200
        jmp     begin                   # two bytes: the header's `jump`

        .org    0x26c
begin:
        # The state at the entry, by CS alone: in real mode code can be written.
        pushfl
        popl    %cs:state - 0x200
        cli
        movl    %eax, %cs:state - 0x200 + 4
        movl    %esp, %cs:state - 0x200 + 8
        movl    %ebx, %eax
        orl     %ecx, %eax
        orl     %edx, %eax
        orl     %esi, %eax
        orl     %edi, %eax
        orl     %ebp, %eax
        movl    %eax, %cs:state - 0x200 + 12
        movl    %cr0, %eax
        movl    %eax, %cs:state - 0x200 + 16
        movl    %cr4, %eax
        movl    %eax, %cs:state - 0x200 + 20
        movw    %cs, %cs:state - 0x200 + 24
        movw    %ds, %cs:state - 0x200 + 26
        movw    %es, %cs:state - 0x200 + 28
        movw    %fs, %cs:state - 0x200 + 30
        movw    %gs, %cs:state - 0x200 + 32
        movw    %ss, %cs:state - 0x200 + 34
        sidtl   %cs:state - 0x200 + 36
        xorl    %eax, %eax
        movw    %cs, %ax                # CS is the setup's segment + 0x20
        subw    $0x20, %ax
        movw    %ax, %ds
        movw    %ax, %ss
        movl    $0xfff0, %esp
        shll    $4, %eax
        movl    %eax, %esi              # linear address of the zero page
        addl    $gdt, %eax
        movl    %eax, gdtr + 2
        lgdtl   gdtr
        movb    $2, %al                 # A20, as a kernel's own setup code opens it
        outb    %al, $0x92
        movl    %esi, %eax
        addl    $protected, %eax
        movl    %eax, target
        movl    0x214, %edi             # code32_start
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        ljmpl   *target

        .code32
protected:
        movl    $0x18, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %fs
        movl    %eax, %gs
        movl    %eax, %ss
        leal    0xfff0(%esi), %esp
        movl    %edi, %eax
        xorl    %ebx, %ebx
        xorl    %ebp, %ebp
        xorl    %edi, %edi
        jmpl    *%eax

        .balign 8
gdt:    .quad   0, 0
        .quad   0x00cf9b000000ffff      # 0x10: flat code
        .quad   0x00cf93000000ffff      # 0x18: flat data
gdtr:   .word   . - gdt - 1
        .long   0
target: .long   0
        .word   0x10

        # What probe::Record16 reads.
        .org    0x3d0
state:  .fill   48, 1, 0
