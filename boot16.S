/*
 * From the reset vector to Rust.
 *
 * Finds   a processor after reset: real mode, CS base 0xffff0000, paging and
 *         caches off, EDX = processor signature; RAM as the last run left it.
 * Leaves  flat 32-bit segments (0x10 code, 0x18 data: Linux's __BOOT_CS and
 *         __BOOT_DS), interrupts off, caches on, an IDT whose gates report,
 *         the F segment writable where the machine has RAM there, a real-mode
 *         reset vector in that RAM, .bss zero, a stack with its guard word.
 *         Calls rust_main(host bridge id, processor signature).
 *
 * The code runs in the ROM below 4 GiB: 0xf0000 shows the same bytes only until
 * the chipset opens it as RAM. On microvm and isapc both are one writable memory,
 * which a jump to the reset vector runs again, so nothing is written to it.
 *
 * A guest that sleeps owns all RAM except what E820 reserves. Nothing else is
 * written before rust_wake has found that there is no guest to wake.
 *
 * Exits to the host: pc 4 (bridge id 2, PAM 2), q35 5 (bridge id 2,
 * PCIEXBAR 2, PAM 1), else 2.
 */
        .section .boot, "ax", @progbits
        .code16
        .globl boot16
boot16:
        lgdtl   %cs:(gdt_pointer - boot16 + {boot_offset})
        /* Protection on; not-write-through and cache-disable off, by one write,
         * which is an exit on some hosts. Both are on after a reset. If they are
         * off, this is no reset, but a jump to F000:FFF0, which is this ROM on
         * microvm. */
        movl    %cr0, %eax
        subl    ${cr0_at_reset} - {cr0}, %eax
        jc      restart
        movl    %eax, %cr0
        ljmpl   $0x10, $boot32

        /* The null descriptor as interrupt table has no entry, so an interrupt
         * resets any machine. */
restart:
        lidtl   %cs:(gdt - boot16 + {boot_offset})
        int3

        .code32
boot32:
        movl    $0x18, %eax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    ${stack_top}, %esp
        movl    %edx, %ebx
        lidtl   idt_pointer

        /* Which host bridge: register 0 of 00:00.0. */
        movl    $0x80000000, %eax
        movl    $0xcf8, %edx
        outl    %eax, %dx
        movb    $0xfc, %dl
        inl     %dx, %eax
        movl    %eax, %esi

        cmpl    ${i440fx_id}, %eax
        je      i440fx
        cmpl    ${q35_id}, %eax
        jne     relocated       /* microvm, isapc: 0xf0000 is this image */

        /* Q35: ECAM first, then the F segment through it (PAM0, 0x90). */
        movb    $0xf8, %dl
        movl    $0x80000060, %eax
        outl    %eax, %dx
        movb    $0xfc, %dl
        movl    ${pciexbar}, %eax
        outl    %eax, %dx
        movb    $0x30, {ecam} + 0x90
        jmp     relocate

i440fx: /* PAM0 at 0x59, in the dword at 0x58. */
        movb    $0xf8, %dl
        movl    $0x80000058, %eax
        outl    %eax, %dx
        movb    $0xfd, %dl
        movb    $0x30, %al
        outb    %al, %dx

relocate:
        /* A note may say that a guest sleeps. */
        cmpl    ${wake_mark}, {wake_note}
        je      wake
awake:
        /* At F000:FFF0, where Linux's reboot=bios jumps to: write 6 to port
         * 0xcf9, which resets these machines, then loop. */
        movl    $0xf9ba06b0, 0xffff0
        movl    $0xfeebee0c, 0xffff4

relocated:
        movl    $__bss_start, %edi
        movl    $__bss_dwords, %ecx
        xorl    %eax, %eax
        rep stosl

        movl    ${stack_guard}, {stack_bottom}
        pushl   %ebx
        pushl   %esi
        call    {rust_main}     /* which does not return */

/*
 * Exceptions: each gate is a call, so the return address gives the vector. The
 * processor's frame lies above it. Nothing returns.
 */
gates:
        .rept   32
        call    gate            /* 5 bytes, by the displacement's size */
        .endr
gate:
        popl    %eax
        subl    $gates + 5, %eax
        movl    %esp, %edx      /* error code or EIP, EIP or CS */
        pushl   4(%edx)
        pushl   0(%edx)
        pushl   %eax            /* 5 times the vector */
        pushl   $0
        jmp     {rust_exception}

idt:
        .set    gate_offset, gates - boot16 + {boot_offset}
        .rept   32
        .word   gate_offset
        .word   0x10
        .word   0x8e00          /* present, 32-bit interrupt gate */
        .word   0xffff
        .set    gate_offset, gate_offset + 5
        .endr
idt_end:
        .balign 4
gdt:
        .quad   0, 0
        .quad   {code_segment}
        .quad   {data_segment}
gdt_end:
        /* Two tables, by the selector of data: 0x10 for multiboot, 0x18 for all
         * others. A table's first entry is never used. */
        .globl  gdt, gdt_pointers
gdt_pointers:
        .word   gdt_end - gdt - 9
        .long   gdt + 8
        .word   0
gdt_pointer:
        .word   gdt_end - gdt - 1
        .long   gdt
idt_pointer:
        .word   idt_end - idt - 1
        .long   idt

        .section .reset, "ax", @progbits
        .code16
        jmp     boot16
        .org    14
        .byte   0xfc                    /* the model: an AT */
        .balign 16, 0
        .code32
