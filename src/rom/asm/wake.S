/*
 * Between `boot16.S` and `rust_wake`: a stack that is no guest's memory. EBX is
 * the processor's signature, ESI the host bridge's id. Comes back if no guest is to be
 * woken.
 */
        .section .text.wake, "ax", @progbits
        .globl wake
wake:   movl    ${wake_stack_top}, %esp
        pushl   %ebx
        pushl   %esi
        call    {rust_wake}
        movl    ${stack_top}, %esp
        jmp     awake
        .text
