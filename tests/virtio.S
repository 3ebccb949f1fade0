# A kernel that drives a legacy virtio device by its first BAR, which is one of ports
# (Virtio 0.9.5, 2.2 and 2.3), as unikernels do. It leaves addresses to the
# firmware, takes 16 bytes from virtio-rng, and ends QEMU by the probes' port.

        .set    BASE, 0x100000
        .set    QUEUE, BASE + 0x8000
        .set    AVAILABLE, QUEUE + 16 * SIZE
        .set    USED, QUEUE + 0x1000
        .set    BUFFER, QUEUE + 0x3000
        .set    SIZE, 8                 # entries of QEMU's queue
        .set    LEN, 16
        .set    RNG, 0x10051af4
        .code32
        .text
start:  movl    $QUEUE + 0x4000, %esp
        cld

        # The device on bus 0: EBX is its address in configuration space.
        movl    $0x80000000, %ebx
1:      movl    %ebx, %eax
        call    read
        cmpl    $RNG, %eax
        je      2f
        addl    $1 << 11, %ebx
        cmpl    $0x80010000, %ebx
        jb      1b
        jmp     fail

        # The firmware has given it ports and opened them; being bus master is for
        # the driver to allow.
2:      leal    4(%ebx), %eax
        call    read
        testb   $1, %al
        jz      fail
        orb     $4, %al
        outl    %eax, %dx
        leal    0x3c(%ebx), %eax
        call    read
        decb    %al                     # an interrupt line, not 0 and not 255
        cmpb    $0xfe, %al
        jae     fail
        leal    0x10(%ebx), %eax
        call    read
        testb   $1, %al
        jz      fail
        andl    $0xfffc, %eax
        jz      fail
        movl    %eax, %ebp

        # Nothing of an earlier run is in the queue.
        movl    $QUEUE, %edi
        movl    $0x4000 / 4 - 16, %ecx
        xorl    %eax, %eax
        rep stosl
        leal    18(%ebp), %edx          # status: reset, acknowledged, a driver
        outb    %al, %dx
        movb    $3, %al
        outb    %al, %dx
        leal    14(%ebp), %edx          # queue 0
        xorl    %eax, %eax
        outw    %ax, %dx
        leal    12(%ebp), %edx
        inw     %dx, %ax
        cmpw    $SIZE, %ax
        jne     fail
        movl    $BUFFER, QUEUE
        movl    $LEN, QUEUE + 8
        movw    $2, QUEUE + 12          # the device writes
        movw    $1, AVAILABLE + 2
        leal    8(%ebp), %edx
        movl    $QUEUE >> 12, %eax
        outl    %eax, %dx
        leal    18(%ebp), %edx
        movb    $7, %al                 # ready
        outb    %al, %dx
        leal    16(%ebp), %edx          # notify
        xorl    %eax, %eax
        outw    %ax, %dx

        movl    $10000000, %ecx
3:      pause
        cmpw    $1, USED + 2
        loopne  3b
        jne     fail
        cmpl    $0, USED + 8            # bytes that were written
        je      fail
        cmpl    $0, BUFFER
        je      fail
        movb    $0x10, %al
        jmp     4f
fail:   movb    $0x20, %al
4:      movw    $0x501, %dx
        outb    %al, %dx
        cli
        hlt

# The register of configuration space that EAX addresses, to EAX; DX is left at its
# port.
read:   movw    $0xcf8, %dx
        outl    %eax, %dx
        movw    $0xcfc, %dx
        inl     %dx, %eax
        ret
