/* What a forked machine's threads may ask of the host's kernel: all but what is listed here.
 *
 * A machine that was forked is complete: whatever it still gets comes as a descriptor. So beside what QEMU's own filter
 * denies (docs/security.md), it opens no file and makes no socket. Those get an error, as they get where a file is not
 * there; who makes one of the other calls is in an attacker's hands, and ended.
 */
#define _GNU_SOURCE
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>

#include "raw.h"

#define X32_BIT 0x40000000
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const uint16_t refused[] = {
    SYS_open, SYS_openat, SYS_openat2, SYS_creat, SYS_socket, SYS_socketpair, SYS_connect, SYS_bind, SYS_listen,
    SYS_inotify_init, SYS_inotify_init1,
};

static const uint16_t fatal[] = {
    /* programs and processes */
    SYS_execve, SYS_execveat, SYS_fork, SYS_vfork, SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev,
    SYS_pidfd_open, SYS_pidfd_getfd, SYS_kcmp,
    /* who one is */
    SYS_setuid, SYS_setgid, SYS_setpgid, SYS_setsid, SYS_setreuid, SYS_setregid, SYS_setresuid, SYS_setresgid,
    SYS_setfsuid, SYS_setfsgid, SYS_setgroups, SYS_capset, SYS_personality, SYS_unshare, SYS_setns,
    /* the host's resources */
    SYS_setpriority, SYS_sched_setparam, SYS_sched_setscheduler, SYS_sched_setaffinity, SYS_sched_setattr,
    SYS_ioprio_set, SYS_mbind, SYS_migrate_pages, SYS_move_pages, SYS_set_mempolicy,
    /* files, and where they are */
    SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_move_mount, SYS_open_tree, SYS_fsopen, SYS_fsconfig,
    SYS_fsmount, SYS_fspick, SYS_mount_setattr, SYS_open_by_handle_at, SYS_name_to_handle_at, SYS_mknod, SYS_mknodat,
    SYS_swapon, SYS_swapoff, SYS_quotactl, SYS_quotactl_fd, SYS_acct, SYS_fanotify_init, SYS_uselib, SYS_sysfs, SYS_ustat, SYS_nfsservctl,
    /* the host itself */
    SYS_init_module, SYS_finit_module, SYS_delete_module, SYS_create_module, SYS_query_module, SYS_get_kernel_syms,
    SYS_kexec_load, SYS_kexec_file_load, SYS_reboot, SYS_sethostname, SYS_setdomainname, SYS_settimeofday,
    SYS_clock_settime, SYS_adjtimex, SYS_clock_adjtime, SYS_syslog, SYS_iopl, SYS_ioperm, SYS_modify_ldt,
    SYS_vhangup, SYS_lookup_dcookie, SYS__sysctl,
    /* large and rarely needed parts of the kernel */
    SYS_bpf, SYS_perf_event_open, SYS_userfaultfd, SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register,
    SYS_add_key, SYS_request_key, SYS_keyctl, SYS_landlock_create_ruleset, SYS_seccomp, SYS_shmget, SYS_shmat,
    SYS_msgget, SYS_semget, SYS_mq_open, SYS_vmsplice, SYS_tee,
};

long install_filter(void)
{
    struct sock_filter code[16 + 2 * (COUNT(refused) + COUNT(fatal))];
    uint16_t n = 0;

#define PUT(...) (code[n++] = (struct sock_filter)__VA_ARGS__)
#define LOAD(field) PUT(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field)))
#define JUMP(operation, value, yes, no) PUT(BPF_JUMP(BPF_JMP | (operation) | BPF_K, (value), (yes), (no)))
#define RETURN(action) PUT(BPF_STMT(BPF_RET | BPF_K, (action)))
    LOAD(arch);
    JUMP(BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0);
    RETURN(SECCOMP_RET_KILL_PROCESS);
    LOAD(nr);
    JUMP(BPF_JGE, X32_BIT, 0, 1);
    RETURN(SECCOMP_RET_KILL_PROCESS);
    /* Its flags are in memory, where no filter sees them; C libraries go on with the older call. */
    JUMP(BPF_JEQ, SYS_clone3, 0, 1);
    RETURN(SECCOMP_RET_ERRNO | ENOSYS);
    JUMP(BPF_JEQ, SYS_clone, 0, 4);
    LOAD(args[0]);
    JUMP(BPF_JSET, CLONE_THREAD, 0, 1);
    RETURN(SECCOMP_RET_ALLOW);
    RETURN(SECCOMP_RET_KILL_PROCESS);
    for (unsigned i = 0; i < COUNT(refused); i++) {
        JUMP(BPF_JEQ, refused[i], 0, 1);
        RETURN(SECCOMP_RET_ERRNO | EACCES);
    }
    for (unsigned i = 0; i < COUNT(fatal); i++) {
        JUMP(BPF_JEQ, fatal[i], 0, 1);
        RETURN(SECCOMP_RET_KILL_PROCESS);
    }
    RETURN(SECCOMP_RET_ALLOW);

    struct sock_fprog program = {.len = n, .filter = code};
    return RAW(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}
