/* Docker's name server has the address 127.0.0.11 in every container, resolv.conf names it, and programs are told so
 * (nginx, by `resolver`). Who asks there asks the network's own: a few instructions of BPF in the containers' control
 * group change the address of what is connected or sent there, and of what comes back. So nothing has to listen in here
 * on a port that a container may want, and no firewall is needed.
 *
 * Once there they stay, and look up whom to ask: under emulation it takes 30 ms to attach them, for the kernel
 * patches itself, and a machine that was forked has them from its parent. */
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
#define UNLESS_SAME(one, two, offset)                                                                                \
    {.code = BPF_JMP | BPF_JNE | BPF_X, .dst_reg = (one), .src_reg = (two), .off = (offset)}
#define IF_ZERO(register, offset)                                                                                    \
    {.code = BPF_JMP | BPF_JEQ | BPF_K, .dst_reg = (register), .imm = 0, .off = (offset)}
/* The map's value, in three instructions. */
#define LOAD_SERVER(register)                                                                                        \
    {.code = BPF_LD | BPF_IMM | BPF_DW, .dst_reg = (register), .src_reg = BPF_PSEUDO_MAP_VALUE, .imm = server_map},  \
    {0}, {.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = (register), .src_reg = (register)}
#define LEAVE SET(BPF_REG_0, 1), {.code = BPF_JMP | BPF_EXIT}

static int server_map = -1; /* one value: the network's name server, or 0 */
static bool attached;

static bool attach(enum bpf_attach_type hook, const struct bpf_insn *code, size_t count)
{
    static const char license[] = "GPL";
    union bpf_attr load = {.prog_type = BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
                           .expected_attach_type = hook,
                           .insns = (uintptr_t)code,
                           .insn_cnt = (uint32_t)count,
                           .license = (uintptr_t)license};
    int program = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof(load));
    int group = program < 0 ? -1 : cgroup_containers();
    union bpf_attr place = {.target_fd = (uint32_t)group, .attach_bpf_fd = (uint32_t)program, .attach_type = hook,
                            /* What runs in a container may attach its own, where it is allowed to. */
                            .attach_flags = BPF_F_ALLOW_MULTI};
    bool done = group >= 0 && syscall(SYS_bpf, BPF_PROG_ATTACH, &place, sizeof(place)) == 0;
    int error = errno;
    close_fd(&group);
    close_fd(&program); /* the group holds it */
    errno = error;
    return done;
}

static bool attach_all(struct in_addr dockers)
{
    union bpf_attr map = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = sizeof(uint32_t), .value_size = sizeof(uint32_t),
                          .max_entries = 1};
    if (server_map < 0 && (server_map = (int)syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof(map))) < 0)
        return false;
    const struct bpf_insn there[] = {
        LOAD(BPF_REG_2, user_ip4),  UNLESS(BPF_REG_2, (int32_t)dockers.s_addr, 7),
        LOAD(BPF_REG_2, user_port), UNLESS(BPF_REG_2, htons(PORT), 5),
        LOAD_SERVER(BPF_REG_3),     IF_ZERO(BPF_REG_3, 1),
        STORE(BPF_REG_3, user_ip4), LEAVE,
    };
    const struct bpf_insn back[] = {
        LOAD(BPF_REG_2, user_port), UNLESS(BPF_REG_2, htons(PORT), 7),
        LOAD_SERVER(BPF_REG_3),     LOAD(BPF_REG_2, user_ip4),
        UNLESS_SAME(BPF_REG_2, BPF_REG_3, 2), SET(BPF_REG_2, (int32_t)dockers.s_addr),
        STORE(BPF_REG_2, user_ip4), LEAVE,
    };
    /* The second is for sockets that are not connected; the third tells them who it was from. */
    return attach(BPF_CGROUP_INET4_CONNECT, there, COUNT_OF(there)) &&
           attach(BPF_CGROUP_UDP4_SENDMSG, there, COUNT_OF(there)) &&
           attach(BPF_CGROUP_UDP4_RECVMSG, back, COUNT_OF(back));
}

static bool set_server(struct in_addr server)
{
    const uint32_t only = 0;
    union bpf_attr update = {.map_fd = (uint32_t)server_map, .key = (uintptr_t)&only,
                             .value = (uintptr_t)&server.s_addr};
    return syscall(SYS_bpf, BPF_MAP_UPDATE_ELEM, &update, sizeof(update)) == 0;
}

bool resolver_redirect(const char *server)
{
    struct in_addr dockers, networks;
    if (inet_pton(AF_INET, DOCKERS, &dockers) != 1 || inet_pton(AF_INET, server, &networks) != 1) {
        errno = EINVAL;
        return false;
    }
    attached = attached || attach_all(dockers);
    return attached && set_server(networks);
}

void resolver_leave(void)
{
    if (attached)
        set_server((struct in_addr){0});
}
