# A kernel that fills memory, sets the waking vector itself and sleeps, as
# kvm-unit-tests' x86/s3.c does. Woken, it reports the processor's state to the
# port 0xe0 and halts. Linked for 1 MiB; other bytes are put at 0x400 of it.

        .set    BASE, 0x100000
        .set    END, BASE + 0x1000
        .set    REAL, 0x8000            # its page of real-mode code
        .set    STATE, 0x800            # offset of what it reports
        .set    PM1_CNT, 0x604
        .set    SLEEP_S3, 1 << 13 | 1 << 10
        .set    DMA_HIGH, 0x514
        .set    PORT, 0xe0
        .code32
        .text
        jmp     entry
# What the test asks for.
        .org    0x10
vector: .long   0                       # FACS: address for real mode
wide:   .long   0                       # FACS: address for 32-bit mode
version: .long  0                       # FACS: version
damage: .long   0                       # a dword that is written over; 1: the FACS
ram_end: .long  0                       # where filling ends

entry:  cld
        movl    $BASE + real, %esi
        movl    $REAL, %edi
        movl    $real_end - real, %ecx
        rep movsb

        # The FACS, as nothing else, has its length behind its signature.
        movl    $BASE, %ebx
1:      addl    $64, %ebx
        cmpl    $0x53434146, (%ebx)
        jne     1b
        cmpl    $64, 4(%ebx)
        jne     1b
        movl    vector + BASE, %eax
        movl    %eax, 12(%ebx)
        movl    wide + BASE, %eax
        movl    %eax, 24(%ebx)
        movb    version + BASE, %al
        movb    %al, 32(%ebx)

        # All that is free: each dword with a value of its own, zero in none.
        xorl    %edi, %edi
        movl    $REAL, %ecx
1:      movl    %edi, %eax
        xorl    $0xa5a5a5a5, %eax
        stosl
        cmpl    %ecx, %edi
        jb      1b
        cmpl    $REAL, %ecx
        jne     2f
        movl    $REAL + 0x1000, %edi
        movl    $0x9fc00, %ecx
        jmp     1b
2:      cmpl    $0x9fc00, %ecx
        jne     3f
        movl    $END, %edi
        movl    ram_end + BASE, %ecx
        jmp     1b

3:      movl    damage + BASE, %eax
        testl   %eax, %eax
        jz      5f
        cmpl    $1, %eax
        jne     4f
        movl    %ebx, %eax
4:      notl    (%eax)

        # As a driver of fw_cfg may: a high half of the DMA's address.
5:      movl    $1, %eax
        movw    $DMA_HIGH, %dx
        outl    %eax, %dx
        movw    $PM1_CNT, %dx
        movw    $SLEEP_S3, %ax
        outw    %ax, %dx
halt:   cli
        hlt
        jmp     halt

        .org    0x480
        .code16
real:   .fill   16, 1, 0x90             # the vector may have an offset
        movb    $'R', %cs:STATE
        movw    %cs, %cs:STATE + 2
        movw    %ss, %cs:STATE + 4
        sidtl   %cs:STATE + 6
        movl    %cr0, %eax
        movl    %eax, %cs:STATE + 12
        pushfl
        popl    %cs:STATE + 16
        movw    $PORT, %dx
        movw    $STATE, %si
        movw    $20, %cx
        rep outsb %cs:(%si), %dx
1:      cli
        hlt
        jmp     1b

        .org    0x580
        .code32
flat:   movb    $'F', REAL + STATE
        movw    %cs, REAL + STATE + 2
        movw    %ss, REAL + STATE + 4
        sidtl   REAL + STATE + 6
        movl    %cr0, %eax
        movl    %eax, REAL + STATE + 12
        movl    $REAL + 0x1000, %esp
        pushfl
        popl    REAL + STATE + 16
        movw    $PORT, %dx
        movl    $REAL + STATE, %esi
        movl    $20, %ecx
        rep outsb
1:      cli                             # not the halt above: this is a copy
        hlt
        jmp     1b
real_end:
