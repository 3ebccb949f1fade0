# A kernel that drives a legacy virtio device by its first BAR, which is one of ports
# (Virtio 0.9.5, 2.2 and 2.3), as unikernels do. It leaves addresses to the
# firmware, takes 16 bytes from virtio-rng, and ends QEMU by the probes' port.

        .set    BASE, 0x100000
        .set    QUEUE, BASE + 0x8000
        .set    ENTRIES, 1024           # at most
        .set    BUFFER, QUEUE + 0x10000 # behind so long a queue
        .set    LEN, 16
        .set    RNG, 0x10051af4
        .code32
        .text
start:  movl    $QUEUE, %esp
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
        movl    $0x11000 / 4, %ecx
        xorl    %eax, %eax
        rep stosl
        leal    18(%ebp), %edx          # status: reset, acknowledged, a driver
        outb    %al, %dx
        movb    $3, %al
        outb    %al, %dx
        leal    14(%ebp), %edx          # queue 0
        xorl    %eax, %eax
        outw    %ax, %dx
        leal    12(%ebp), %edx          # its entries: 8 with QEMU 7.2, 1,024 with 10.0
        inw     %dx, %ax
        movl    %eax, %ecx
        decl    %eax
        cmpl    $ENTRIES, %eax
        jae     fail
        # ESI: the available ring, behind the descriptors. EDI: the used one, in the
        # next page.
        leal    1(%eax), %esi
        shll    $4, %esi
        addl    $QUEUE, %esi
        leal    6 + 0xfff(%esi,%ecx,2), %edi
        andl    $~0xfff, %edi
        movl    $BUFFER, QUEUE
        movl    $LEN, QUEUE + 8
        movw    $2, QUEUE + 12          # the device writes
        movw    $1, 2(%esi)
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
        cmpw    $1, 2(%edi)
        loopne  3b
        jne     fail
        cmpl    $0, 8(%edi)             # bytes that were written
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
