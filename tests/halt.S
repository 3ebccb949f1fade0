# A kernel that leaves the 8259A alone, as unikernels do: it masks the local
# APIC's LINT0 and halts until the APIC's own timer comes. Any other interrupt is one
# that nobody has asked for. It ends QEMU by the probes' port.

        .set    BASE, 0x100000
        .set    IDT, BASE + 0x8000
        .set    APIC, 0xfee00000
        .set    TIMER, 0x40
        .code32
        .text
start:  movl    $IDT, %esp
        movl    $IDT, %edi
        movl    $BASE + other - start, %eax
        movl    $256, %ecx
1:      movw    %ax, (%edi)
        movw    %cs, 2(%edi)
        movw    $0x8e00, 4(%edi)
        movw    $BASE >> 16, 6(%edi)
        addl    $8, %edi
        loop    1b
        movw    $timer - start, IDT + 8 * TIMER
        lidt    BASE + idt - start
        # Until the 8259A has the timer's interrupt: one that it passes on is pending
        # in the processor even when LINT0 is masked.
        movl    $1000000, %ecx
4:      inb     $0x20, %al              # its interrupt request register
        testb   $1, %al
        loopz   4b
        movl    $0x10000, APIC + 0x350  # LINT0: masked
        movl    $0x0b, APIC + 0x3e0     # its timer: undivided, once
        movl    $TIMER, APIC + 0x320
        movl    $50000000, APIC + 0x380
        sti
2:      hlt
        jmp     2b

timer:  movb    $0x10, %al
        jmp     3f
other:  movb    $0x20, %al
3:      movw    $0x501, %dx
        outb    %al, %dx
        cli
        hlt

idt:    .word   256 * 8 - 1
        .long   IDT
