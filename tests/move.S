# A kernel that calls the ROM's memmove once for each entry of a list. Every call has
# 32 bytes of memory of its own: bytes 0 to 27 are 1 to 28 before the call, and the
# dword behind them is the returned pointer's offset in it. The port 0xe0 says when all
# are done. Linked for 1 MiB; the list starts at 0x800, behind the image's header.

        .set    BASE, 0x100000
        .set    LIST, BASE + 0x800      # dwords: destination, source, length; -1 at the end
        .set    MEMORY, 0x200000
        .set    STACK, 0x180000
        .set    PATTERN, 28
        .set    LEN, 32
        .set    PORT, 0xe0
        .code32
        .text
        jmp     entry
# The address of memmove, which the test knows.
        .org    0x10
memmove: .long  0

entry:  cld
        movl    $STACK, %esp
        movl    $LIST, %esi
        movl    $MEMORY, %edi
next:   lodsl
        cmpl    $-1, %eax
        je      done
        movl    %eax, %ebx
        xorl    %ecx, %ecx
1:      leal    1(%ecx), %eax
        movb    %al, (%edi, %ecx)
        movl    %eax, %ecx
        cmpl    $PATTERN, %ecx
        jb      1b

        movl    %ebx, %eax
        shrl    $16, %eax
        pushl   %eax
        movzbl  %bh, %eax
        addl    %edi, %eax
        pushl   %eax
        movzbl  %bl, %eax
        addl    %edi, %eax
        pushl   %eax
        call    *memmove + BASE
        addl    $12, %esp
        subl    %edi, %eax
        movl    %eax, PATTERN(%edi)
        addl    $LEN, %edi
        jmp     next

done:   movb    $1, %al
        outb    %al, $PORT
1:      cli
        hlt
        jmp     1b
        .org    0x800
