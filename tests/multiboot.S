# A multiboot kernel like those of kvm-unit-tests: it prints what it was handed and
# ends QEMU by isa-debug-exit at 0xf4, with 0 if the magic number was right.

        .set    BASE, 0x100000
        .set    MAGIC, 0x1badb002
        .set    FLAGS, 0x10003          # addresses given, page alignment, memory
        .code32
        .text
start:  .long   MAGIC, FLAGS, -(MAGIC + FLAGS)
        .long   BASE, BASE, BASE + end - start, BASE + end - start + 4096
        .long   BASE + entry - start

entry:  movl    $BASE + end - start + 4096, %esp
        movl    %eax, %ebp
        movl    %ebx, %esi              # the information block
        movl    $BASE + lower - start, %ebx
        movl    4(%esi), %edx
        call    field
        movl    $BASE + upper - start, %ebx
        movl    8(%esi), %edx
        call    field
        movl    $BASE + line - start, %ebx
        call    print
        movl    16(%esi), %ebx
        call    print
        call    newline
        movl    20(%esi), %ecx          # modules
        movl    24(%esi), %edi
        jecxz   2f
1:      movl    $BASE + module - start, %ebx
        movl    (%edi), %edx
        movl    (%edx), %edx            # its first word
        call    field
        movl    8(%edi), %ebx
        call    print
        call    newline
        addl    $16, %edi
        loop    1b
2:      movl    44(%esi), %edx          # the memory map: bytes, all of it readable
        movl    $BASE + map - start, %ebx
        call    field
        xorl    %eax, %eax
        cmpl    $0x2badb002, %ebp
        setne   %al
        outb    %al, $0xf4
        cli
        hlt

newline: movl   $BASE + eol - start, %ebx
print:  movw    $0x3f8, %dx
3:      movb    (%ebx), %al
        testb   %al, %al
        jz      4f
        outb    %al, %dx
        incl    %ebx
        jmp     3b
4:      ret

# A name at EBX and EDX in hexadecimal.
field:  pushl   %ecx
        pushl   %edx
        call    print
        popl    %ebx
        movw    $0x3f8, %dx
        movl    $8, %ecx
5:      roll    $4, %ebx
        movb    %bl, %al
        andb    $15, %al
        addb    $'0', %al
        cmpb    $'9', %al
        jbe     6f
        addb    $'a' - '0' - 10, %al
6:      outb    %al, %dx
        loop    5b
        popl    %ecx
        jmp     newline

lower:  .asciz  "lower KiB: "
upper:  .asciz  "upper KiB: "
line:   .asciz  "line: "
module: .asciz  "module: "
map:    .asciz  "map bytes: "
eol:    .asciz  "\r\n"
        .balign 4
end:
