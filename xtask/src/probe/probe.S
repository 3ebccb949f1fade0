# The probe kernel: says in what state a firmware enters a kernel.
#
# Flat, position independent, at most 4 KiB from `start`. It needs a stack of 64
# bytes at its 32-bit entry, and none at the 64-bit one. probe.rs patches the fields
# of `config`, and reads `record` back from the report port or from guest memory.

        .code32
        .text
        .globl  start
start:
        rdtsc                           # or two nops, where EAX and EDX matter
        pushal
        pushfl
        cld
        call    1f
1:      popl    %ebp
        subl    $(1b - start), %ebp
        testb   $4, config_mode - start(%ebp)
        jnz     leave                   # measure: nothing but the end
        leal    record - start(%ebp), %edi

        movl    $0x52504251, %ebx       # "QBPR"
        movl    %ebx, (%edi)
        movl    $record_len, 4(%edi)
        movl    %eax, 8(%edi)
        movl    %edx, 12(%edi)
        cmpw    $0x310f, (%ebp)         # was RDTSC the first instruction?
        je      2f
        rdtsc
        movl    %eax, 8(%edi)
        movl    %edx, 12(%edi)
2:
        popl    48(%edi)                # EFLAGS
        popl    44(%edi)                # EDI
        popl    40(%edi)                # ESI
        popl    36(%edi)                # EBP
        popl    32(%edi)                # ESP
        popl    28(%edi)                # EBX
        popl    24(%edi)                # EDX
        popl    20(%edi)                # ECX
        popl    16(%edi)                # EAX

        xorl    %eax, %eax
        movw    %cs, %ax
        movl    %eax, 52(%edi)
        movw    %ds, %ax
        movl    %eax, 56(%edi)
        movw    %es, %ax
        movl    %eax, 60(%edi)
        movw    %fs, %ax
        movl    %eax, 64(%edi)
        movw    %gs, %ax
        movl    %eax, 68(%edi)
        movw    %ss, %ax
        movl    %eax, 72(%edi)
        movl    %cr0, %eax
        movl    %eax, 76(%edi)
        movl    %cr3, %eax
        movl    %eax, 80(%edi)
        movl    %cr4, %eax
        movl    %eax, 84(%edi)
        xorl    %eax, %eax
        movl    %eax, 88(%edi)
        sgdt    88(%edi)
        movl    88(%edi), %eax
        movl    90(%edi), %edx          # the base, before its place is overwritten
        movzwl  %ax, %eax
        movl    %eax, 88(%edi)
        movl    %edx, 92(%edi)
        sidt    96(%edi)
        movl    96(%edi), %eax
        movl    98(%edi), %edx
        movzwl  %ax, %eax
        movl    %eax, 96(%edi)
        movl    %edx, 100(%edi)
        movl    %ebp, 104(%edi)

        # The descriptors behind CS and DS.
        movl    92(%edi), %esi
        movl    52(%edi), %ecx
        andl    $0xfff8, %ecx
        movl    (%esi,%ecx), %eax
        movl    %eax, 108(%edi)
        movl    4(%esi,%ecx), %eax
        movl    %eax, 112(%edi)
        movl    56(%edi), %ecx
        andl    $0xfff8, %ecx
        movl    (%esi,%ecx), %eax
        movl    %eax, 116(%edi)
        movl    4(%esi,%ecx), %eax
        movl    %eax, 120(%edi)

        movl    $0x2ff, %ecx            # IA32_MTRR_DEF_TYPE
        rdmsr
        movl    %eax, 124(%edi)
        testb   $16, config_mode - start(%ebp)
        jnz     1f
        fnstenv 128(%edi)               # 28 bytes, with the tags, which MMX fills
1:

        leal    record - start(%ebp), %esi
        movl    $record_len, %ecx
        movw    config_report - start(%ebp), %dx
        rep outsb
        testb   $8, config_mode - start(%ebp)
        jnz     sum
ended:  testb   $2, config_mode - start(%ebp)
        jnz     reset
        testb   $1, config_mode - start(%ebp)
        jz      halt
leave:
        movb    $0x10, %al
        movw    config_exit - start(%ebp), %dx
        outb    %al, %dx
halt:
        cli
3:      hlt
        jmp     3b

        .org    0x180
config:
        .ascii  "QBOOTCFG"
config_report:
        .word   0                       # the debug console
config_exit:
        .word   0                       # the debug exit
config_mode:
        .byte   0                       # 1: end QEMU; 2: reset the machine;
                                        # 4: end QEMU without a report; 8: sum memory;
                                        # 16: leave the x87 alone

        # Linux's 64-bit entry point lies here.
        .org    0x200
        .code64
start64:
        rdtsc
        jmp     long
        .code32

        .org    0x220
record:
        .fill   156, 1, 0
        .equ    record_len, . - record

        # A checksum, in which order counts, of what the firmware leaves below
        # 640 KiB and in the F segment but in its own memory (src/layout.rs: stack,
        # statics, scratch and the stack of a wake-up), and at the end of 16 MiB. It
        # goes behind the record.
        .org    0x2c0
sum:
        leal    parts - start(%ebp), %edi
        xorl    %ebx, %ebx
4:      movl    (%edi), %esi
        movl    4(%edi), %ecx
        jecxz   6f
5:      lodsl
        roll    $1, %ebx
        addl    %eax, %ebx
        decl    %ecx
        jnz     5b
        addl    $8, %edi
        jmp     4b
6:      leal    total - start(%ebp), %esi
        movl    %ebx, (%esi)
        movl    $4, %ecx
        rep outsb
        jmp     ended

        # No interrupt has a gate: the third fault resets the machine.
reset:
        lidt    none - start(%ebp)
        int3

        # Entered in long mode: of the record what the two modes share. The stack is
        # left alone, since Linux needs none here.
        .code64
long:
        cld
        testb   $4, config_mode(%rip)
        jnz     leave64
        leaq    record(%rip), %rdi
        movl    $0x52504251, (%rdi)     # "QBPR"
        movl    $record_len, 4(%rdi)
        movl    %eax, 8(%rdi)
        movl    %edx, 12(%rdi)
        movl    %esp, 32(%rdi)
        movl    %esi, 40(%rdi)
        movl    %cs, %eax
        movl    %eax, 52(%rdi)
        movq    %cr0, %rax
        movl    %eax, 76(%rdi)
        movq    %cr3, %rax
        movl    %eax, 80(%rdi)
        movq    %cr4, %rax
        movl    %eax, 84(%rdi)
        leaq    start64(%rip), %rax
        movl    %eax, 104(%rdi)
        movq    %rdi, %rsi
        movl    $record_len, %ecx
        movw    config_report(%rip), %dx
        rep outsb
        testb   $1, config_mode(%rip)
        jz      halt64
leave64:
        movb    $0x10, %al
        movw    config_exit(%rip), %dx
        outb    %al, %dx
halt64:
        cli
9:      hlt
        jmp     9b
        .code32

        .balign 4
parts:
        .long   0x6000, 0x2a000 / 4
        .long   0x80000, 0x20000 / 4
        .long   0xf4000, 0xc000 / 4
        .long   0xf00000, 0x100000 / 4
none:
        .long   0, 0
total:
        .long   0
