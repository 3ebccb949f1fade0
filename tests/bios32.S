# A kernel that looks for the 32-bit service directory as Linux does, makes the
# calls of a list there, and sends every answer to the debug console. pcibios.rs
# writes the list behind it.
#
# A request is 28 bytes: what is called (0 the directory, 1 the PCI BIOS, 2
# nobody, the list's end), EAX, EBX, ECX, EDX, ESI, EDI. An answer is 28 bytes:
# EFLAGS, then the same registers. First of all the structure is sent.
#
# The code in the F segment is called at a copy, since Linux calls it at an
# address of its own.

        .code32
        .text
        .set    PORT, 0xe0
        .set    LIST, 0x800
        .set    COPY, 0x2000000
        .set    F, 0xf0000

start:  cli
        cld
        call    1f
1:      popl    %ebp
        subl    $1b - start, %ebp
        leal    stack - start(%ebp), %esp
        movl    $0xe0000, %esi
2:      cmpl    $0x5f32335f, (%esi)     /* "_32_" */
        jne     4f
        movl    $16, %ecx
        xorl    %eax, %eax
        xorl    %ebx, %ebx
3:      movb    (%esi,%ebx), %dl
        addb    %dl, %al
        incl    %ebx
        loop    3b
        testb   %al, %al
        jz      5f
4:      addl    $16, %esi
        cmpl    $0x100000, %esi
        jb      2b
        jmp     stop
5:      movl    4(%esi), %eax
        addl    $COPY - F, %eax
        movl    %eax, targets - start(%ebp)
        movw    %cs, targets + 4 - start(%ebp)
        movw    %cs, targets + 12 - start(%ebp)
        movl    $16, %ecx
        movw    $PORT, %dx
        rep outsb
        movl    $F, %esi
        movl    $COPY, %edi
        movl    $0x4000, %ecx
        rep movsl
        leal    LIST(%ebp), %edi

next:   movl    (%edi), %eax
        cmpl    $2, %eax
        je      stop
        leal    targets - start(%ebp,%eax,8), %eax
        movl    %eax, chosen - start(%ebp)
        pushl   %edi
        pushl   %ebp
        movl    4(%edi), %eax
        movl    8(%edi), %ebx
        movl    12(%edi), %ecx
        movl    16(%edi), %edx
        movl    20(%edi), %esi
        movl    24(%edi), %edi
        movl    chosen - start(%ebp), %ebp
        lcall   *(%ebp)
        pushfl
        pushal
        /* EDI ESI EBP ESP EBX EDX ECX EAX EFLAGS, EBP, EDI */
        movl    36(%esp), %ebp
        leal    answer - start(%ebp), %edi
        movl    32(%esp), %eax
        movl    %eax, 0(%edi)
        movl    28(%esp), %eax
        movl    %eax, 4(%edi)
        movl    16(%esp), %eax
        movl    %eax, 8(%edi)
        movl    24(%esp), %eax
        movl    %eax, 12(%edi)
        movl    20(%esp), %eax
        movl    %eax, 16(%edi)
        movl    4(%esp), %eax
        movl    %eax, 20(%edi)
        movl    0(%esp), %eax
        movl    %eax, 24(%edi)
        /* The directory's first answer is where the PCI BIOS is. */
        cmpl    $0, targets + 8 - start(%ebp)
        jne     6f
        movl    16(%esp), %eax
        addl    20(%esp), %eax
        addl    $COPY - F, %eax
        movl    %eax, targets + 8 - start(%ebp)
6:      movl    %edi, %esi
        movl    $28, %ecx
        movw    $PORT, %dx
        cld
        rep outsb
        addl    $36, %esp
        popl    %ebp
        popl    %edi
        addl    $28, %edi
        jmp     next

stop:   cli
        hlt
        jmp     stop

        .balign 8
targets:
        .long   0, 0, 0, 0
chosen: .long   0
answer: .fill   28, 1, 0
        .org    0x700
stack:  .org    LIST
