/*
 * From `boot16.S` to `rust_wake`, on a stack outside the guest's memory. EBX is the
 * processor's signature, ESI the host bridge's id. Returns if there is no guest to
 * wake.
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
