# A kernel of 16-bit code that asks the BIOS what a list says, and sends every
# answer to the debug console. services.rs writes the setup header and the list.
#
# A request is 32 bytes: interrupt, what is special (below), two unused, EAX,
# EBX, ECX, EDX, ESI, EDI, EBP. Before it is made, the buffer holds a5h and
# ES:DI, with another segment than DS, is its address where the request wants so.

        .code16
        .text
        .set    FROM_LAST, 1            # EBX is what the last answer left there
        .set    INTO_BUFFER, 2          # EDI is the buffer
        .set    AFTER_TICK, 4           # wait for the timer first
        .set    RESTART, 8              # jump to the reset vector instead
        .set    STOP, 16                # halt instead
        .set    CODE, 0x200             # CS is this far behind DS
        .set    PORT, 0xe0
        .set    ANSWER, 0x700 - 36      # flags, DS, ES, SP, registers
        .set    BUFFER, 0x700
        .set    BUFFER_LEN, 28
        .set    LIST, 0x800

        .org    0x200
        jmp     save                    # two bytes: the header's `jump`

        .org    0x270
# At entry and behind every interrupt: all registers, whatever they are.
save:   movl    %eax, %cs:ANSWER + 8 - CODE
        pushfw
        popw    %ax
        movw    %ax, %cs:ANSWER + 0 - CODE
        movw    %ds, %ax
        movw    %ax, %cs:ANSWER + 2 - CODE
        movw    %es, %ax
        movw    %ax, %cs:ANSWER + 4 - CODE
        movw    %sp, %cs:ANSWER + 6 - CODE
        movl    %ebx, %cs:ANSWER + 12 - CODE
        movl    %ecx, %cs:ANSWER + 16 - CODE
        movl    %edx, %cs:ANSWER + 20 - CODE
        movl    %esi, %cs:ANSWER + 24 - CODE
        movl    %edi, %cs:ANSWER + 28 - CODE
        movl    %ebp, %cs:ANSWER + 32 - CODE
        cld
        movw    %cs, %ax
        subw    $CODE >> 4, %ax
        movw    %ax, %ds
        movw    $ANSWER, %si
        movw    $BUFFER + BUFFER_LEN - ANSWER, %cx
        movw    $PORT, %dx
        rep outsb

        movw    next, %si
        addw    $32, next
        movb    (%si), %al
        movb    %al, number
        testb   $STOP, 1(%si)
        jnz     stop
        sti
        testb   $RESTART, 1(%si)
        jnz     restart
        testb   $AFTER_TICK, 1(%si)
        jz      1f
        hlt
1:      movw    %ds, %dx
        addw    $(BUFFER - 0x100) >> 4, %dx
        movw    %dx, %es
        movw    $0x100, %di
        movb    $0xa5, %al
        movw    $BUFFER_LEN, %cx
        rep stosb

        movl    8(%si), %ebx
        testb   $FROM_LAST, 1(%si)
        jz      1f
        movl    ANSWER + 12, %ebx
1:      movl    24(%si), %edi
        testb   $INTO_BUFFER, 1(%si)
        jz      1f
        movl    $0x100, %edi
1:      movl    4(%si), %eax
        movl    12(%si), %ecx
        movl    16(%si), %edx
        movl    28(%si), %ebp
        movl    20(%si), %esi
        .byte   0xcd                    # INT
number: .byte   0
        jmp     save

# The reset vector, by the address that real mode knows.
restart:
        ljmpw   $0xf000, $0xfff0
stop:   cli
        hlt
        jmp     stop

next:   .word   LIST
        .org    LIST
