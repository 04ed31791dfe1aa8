/* Which devices a container may open: a few instructions of BPF in its control group. */
#include <errno.h>
#include <linux/bpf.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cgroup.h"

#define ANY (-1)

/* Docker's defaults for character devices: reading, writing, making. */
static const struct {
    int major, minor;
} allowed[] = {
    {1, 3},     /* null */
    {1, 5},     /* zero */
    {1, 7},     /* full */
    {1, 8},     /* random */
    {1, 9},     /* urandom */
    {5, 0},     /* tty */
    {5, 1},     /* console */
    {5, 2},     /* ptmx */
    {136, ANY}, /* pts */
};

#define LOAD(register, field)                                                                                        \
    ((struct bpf_insn){.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = (register), .src_reg = BPF_REG_1,               \
                       .off = offsetof(struct bpf_cgroup_dev_ctx, field)})
#define ALU(operation, register, value)                                                                              \
    ((struct bpf_insn){.code = BPF_ALU64 | (operation) | BPF_K, .dst_reg = (register), .imm = (value)})
#define JUMP(operation, register, value, offset)                                                                     \
    ((struct bpf_insn){.code = BPF_JMP | (operation) | BPF_K, .dst_reg = (register), .imm = (value), .off = (offset)})
#define LEAVE ((struct bpf_insn){.code = BPF_JMP | BPF_EXIT})

#define TO_ALLOW 0x7fff /* patched when the place is known */

static size_t assemble(struct bpf_insn *code)
{
    size_t n = 0;
    code[n++] = LOAD(BPF_REG_2, access_type);
    code[n++] = LOAD(BPF_REG_4, major);
    code[n++] = LOAD(BPF_REG_5, minor);
    code[n++] = (struct bpf_insn){.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = BPF_REG_3, .src_reg = BPF_REG_2};
    code[n++] = ALU(BPF_AND, BPF_REG_3, 0xffff); /* type of the device */
    code[n++] = ALU(BPF_RSH, BPF_REG_2, 16);     /* kind of access */
    code[n++] = JUMP(BPF_JEQ, BPF_REG_2, BPF_DEVCG_ACC_MKNOD, TO_ALLOW);
    size_t not_character = n++;
    for (size_t i = 0; i < COUNT_OF(allowed); i++) {
        if (allowed[i].minor == ANY) {
            code[n++] = JUMP(BPF_JEQ, BPF_REG_4, allowed[i].major, TO_ALLOW);
        } else {
            code[n++] = JUMP(BPF_JNE, BPF_REG_4, allowed[i].major, 1);
            code[n++] = JUMP(BPF_JEQ, BPF_REG_5, allowed[i].minor, TO_ALLOW);
        }
    }
    code[not_character] = JUMP(BPF_JNE, BPF_REG_3, BPF_DEVCG_DEV_CHAR, (short)(n - not_character - 1));
    code[n++] = ALU(BPF_MOV, BPF_REG_0, 0);
    code[n++] = LEAVE;
    for (size_t i = 0; i < n; i++)
        if (code[i].off == TO_ALLOW)
            code[i].off = (short)(n - i - 1);
    code[n++] = ALU(BPF_MOV, BPF_REG_0, 1);
    code[n++] = LEAVE;
    return n;
}

/* The same for all containers, so it is loaded, which takes the kernel longer than all else here, by the first of them. */
static int device_program(void)
{
    static const char license[] = "GPL";
    static int program = -1;
    if (program >= 0)
        return program;
    struct bpf_insn code[16 + 2 * COUNT_OF(allowed)];
    memset(code, 0, sizeof(code));
    union bpf_attr load = {.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE,
                           .expected_attach_type = BPF_CGROUP_DEVICE,
                           .insns = (uintptr_t)code,
                           .insn_cnt = (uint32_t)assemble(code),
                           .license = (uintptr_t)license};
    return program = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof(load));
}

bool cgroup_restrict_devices(int fd)
{
    int program = device_program();
    union bpf_attr attach = {
        .target_fd = (uint32_t)fd, .attach_bpf_fd = (uint32_t)program, .attach_type = BPF_CGROUP_DEVICE};
    return program >= 0 && syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof(attach)) == 0;
}
