# The first process of a measured boot: a whole 64-bit ELF file, assembled flat. It
# writes one byte to the report port and ends QEMU, by the ports of probe.rs.

        .set    base, 0x400000
        .globl  start
start:
        .byte   0x7f, 'E', 'L', 'F', 2, 1, 1, 0
        .quad   0
        .word   2, 62                   # ET_EXEC, EM_X86_64
        .long   1
        .quad   base + (init - start)
        .quad   segment - start, 0
        .long   0
        .word   64, 56, 1, 0, 0, 0
segment:
        .long   1, 5                    # PT_LOAD, readable and executable
        .quad   0, base, base
        .quad   end - start, end - start, 0x1000

        .code64
init:
        movl    $172, %eax              # iopl(3)
        movl    $3, %edi
        syscall
        movl    $REPORT_PORT, %edx
        outb    %al, %dx
        movl    $EXIT_PORT, %edx
        movb    $EXIT_VALUE, %al
        outb    %al, %dx
1:      jmp     1b
end:
