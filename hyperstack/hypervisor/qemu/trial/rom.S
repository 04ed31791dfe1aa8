/*
 * A 64 KiB ROM that tells whether an accelerator is of use: it starts where a processor starts, reaches 64-bit mode with
 * paging as every kernel does, works a while on what virtualisation can make slow (page tables, port I/O) and on what
 * it must not (plain computing), and leaves through the isa-debug-exit device with PASSED.
 */
    .set ROM, 0xf0000               /* where the ROM is seen below 1 MiB */
    .set PML4, 0x1000
    .set PDPT, 0x2000
    .set PD, 0x3000
    .set CODE32, 0x08
    .set CODE64, 0x10
    .set DATA, 0x18
    .set EXIT_PORT, 0xf4
    .set DELAY_PORT, 0x80
    .set PASSED, 0x10
    .set REMAPS, 10000
    .set WRITES, 1000
    .set ROUNDS, 200000000

    .code16
start:
    cli
    movw $(ROM >> 4), %ax
    movw %ax, %ds
    lgdtl gdt_pointer
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $CODE32, $(ROM + protected)

    .code32
protected:
    movw $DATA, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $PML4, %edi                /* clear the three tables */
    xorl %eax, %eax
    movl $(3 * 4096 / 4), %ecx
    rep stosl
    movl $(PDPT | 3), PML4
    movl $(PD | 3), PDPT
    movl $0x83, PD                  /* the first 2 MiB, mapped to themselves, present and writable */
    movl $PML4, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x20, %eax                 /* PAE */
    movl %eax, %cr4
    movl $0xc0000080, %ecx          /* EFER.LME */
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000000, %eax           /* paging */
    movl %eax, %cr0
    ljmpl $CODE64, $(ROM + long_mode)

    .code64
long_mode:
    movl $REMAPS, %ecx              /* map the second 2 MiB anew, touch it, and again */
1:  movl $0x200083, PD + 8
    invlpg 0x200000
    incl 0x200000
    movl $0, PD + 8
    invlpg 0x200000
    movq %cr3, %rax
    movq %rax, %cr3
    decl %ecx
    jnz 1b
    movl $WRITES, %ecx
2:  outb %al, $DELAY_PORT
    decl %ecx
    jnz 2b
    movl $ROUNDS, %ecx
3:  decl %ecx
    jnz 3b
    movb $PASSED, %al
    outb %al, $EXIT_PORT
4:  hlt
    jmp 4b

    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9a000000ffff        /* CODE32 */
    .quad 0x00af9a000000ffff        /* CODE64 */
    .quad 0x00cf92000000ffff        /* DATA */
gdt_pointer:
    .word . - gdt - 1
    .long ROM + gdt

    .org 0xfff0                     /* where a processor starts */
    .code16
    ljmpw $(ROM >> 4), $start
    .org 0x10000
