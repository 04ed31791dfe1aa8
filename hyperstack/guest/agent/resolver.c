/* Docker's name server has the address 127.0.0.11 in every container, resolv.conf names it, and programs are told so
 * (nginx, by `resolver`). Who asks there asks the network's own: a few instructions of BPF in the containers' control
 * group change the address of what is connected or sent there, and of what comes back. So nothing has to listen in here
 * on a port that a container may want, and no firewall is needed. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cgroup.h"
#include "machine.h"

#define DOCKERS "127.0.0.11"
#define PORT 53

#define LOAD(register, field)                                                                                        \
    {.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = (register), .src_reg = BPF_REG_1,                                 \
     .off = offsetof(struct bpf_sock_addr, field)}
#define STORE(register, field)                                                                                       \
    {.code = BPF_STX | BPF_MEM | BPF_W, .dst_reg = BPF_REG_1, .src_reg = (register),                                 \
     .off = offsetof(struct bpf_sock_addr, field)}
#define SET(register, value) {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = (register), .imm = (value)}
#define UNLESS(register, value, offset)                                                                              \
    {.code = BPF_JMP | BPF_JNE | BPF_K, .dst_reg = (register), .imm = (value), .off = (offset)}

static const enum bpf_attach_type hooks[] = {
    BPF_CGROUP_INET4_CONNECT,
    BPF_CGROUP_UDP4_SENDMSG, /* sockets that are not connected */
    BPF_CGROUP_UDP4_RECVMSG, /* who it was from */
};
static int programs[COUNT_OF(hooks)] = {-1, -1, -1};

static bool change(int command, size_t hook)
{
    int group = cgroup_containers();
    union bpf_attr attr = {.target_fd = (uint32_t)group, .attach_bpf_fd = (uint32_t)programs[hook],
                           .attach_type = hooks[hook],
                           /* What runs in a container may attach its own, where it is allowed to. */
                           .attach_flags = command == BPF_PROG_ATTACH ? BPF_F_ALLOW_MULTI : 0};
    bool done = group >= 0 && syscall(SYS_bpf, command, &attr, sizeof(attr)) == 0;
    close_fd(&group);
    return done;
}

/* Where this hook sees `from`, port 53, it becomes `to`. */
static bool translate(size_t hook, struct in_addr from, struct in_addr to)
{
    static const char license[] = "GPL";
    const struct bpf_insn code[] = {
        LOAD(BPF_REG_2, user_ip4),   UNLESS(BPF_REG_2, (int32_t)from.s_addr, 4),
        LOAD(BPF_REG_2, user_port),  UNLESS(BPF_REG_2, htons(PORT), 2),
        SET(BPF_REG_2, (int32_t)to.s_addr), STORE(BPF_REG_2, user_ip4),
        SET(BPF_REG_0, 1),           {.code = BPF_JMP | BPF_EXIT},
    };
    union bpf_attr load = {.prog_type = BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
                           .expected_attach_type = hooks[hook],
                           .insns = (uintptr_t)code,
                           .insn_cnt = COUNT_OF(code),
                           .license = (uintptr_t)license};
    programs[hook] = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof(load));
    return programs[hook] >= 0 && change(BPF_PROG_ATTACH, hook);
}

bool resolver_redirect(const char *server)
{
    struct in_addr dockers, networks;
    if (inet_pton(AF_INET, DOCKERS, &dockers) != 1 || inet_pton(AF_INET, server, &networks) != 1) {
        errno = EINVAL;
        return false;
    }
    resolver_leave();
    bool good = true;
    for (size_t i = 0; good && i < COUNT_OF(hooks); i++)
        good = hooks[i] == BPF_CGROUP_UDP4_RECVMSG ? translate(i, networks, dockers) : translate(i, dockers, networks);
    return good;
}

void resolver_leave(void)
{
    for (size_t i = 0; i < COUNT_OF(hooks); i++) {
        if (programs[i] >= 0)
            change(BPF_PROG_DETACH, i);
        close_fd(&programs[i]);
    }
}
