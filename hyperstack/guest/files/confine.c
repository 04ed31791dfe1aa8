/* What the server may touch: the files that it shares, by the system calls that this takes. */
#include "serve.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/mount.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define UNMOUNT_DETACH 2   /* <sys/mount.h> does not go together with <linux/mount.h> */
#define BIND_RECURSIVE 16384UL
#define PROPAGATE_NOT (1UL << 18)
#define CREATE_MODE 0755

static bool as_user;

static void check(long result, const char *what)
{
    if (result < 0)
        die("%s: %s", what, strerror(errno));
}

static long restrict_mount(int mounted, uint64_t attributes)
{
    struct mount_attr set = {.attr_set = attributes, .propagation = PROPAGATE_NOT};
    return syscall(SYS_mount_setattr, mounted, "", AT_EMPTY_PATH | AT_RECURSIVE, &set, sizeof(set));
}

/* Copies of the shares' mounts, made while they are still in this namespace. */
static void clone_shares(struct share *shares, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        int cloned = (int)syscall(SYS_open_tree, shares[i].fd, "",
                                  OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH |
                                      (shares[i].flat ? 0U : (unsigned)AT_RECURSIVE));
        check(cloned, "open_tree of a share");
        check(restrict_mount(cloned, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC |
                                         (shares[i].read_only ? MOUNT_ATTR_RDONLY : 0)),
              "mount_setattr of a share");
        close(shares[i].fd);
        shares[i].fd = cloned;
    }
}

static int new_root(void)
{
    int context = (int)syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC);
    check(context, "fsopen of the root");
    check(syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "mode", "0755", 0), "the root's mode");
    check(syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0), "making the root");
    int mounted = (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC,
                               MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
    check(mounted, "fsmount of the root");
    close(context);
    return mounted;
}

static void attach_share(const struct share *share, unsigned number)
{
    struct stat status;
    char name[16];
    snprintf(name, sizeof(name), "%u", number);
    check(fstat(share->fd, &status), "looking at a share");
    if (S_ISDIR(status.st_mode))
        check(mkdirat(AT_FDCWD, name, CREATE_MODE), "making a share's place");
    else
        check(mknodat(AT_FDCWD, name, S_IFREG | 0644, 0), "making a share's place");
    check(syscall(SYS_move_mount, share->fd, "", AT_FDCWD, name, MOVE_MOUNT_F_EMPTY_PATH), "attaching a share");
    close(share->fd);
}

/* The root holds the shares by their numbers and nothing else. The working directory is this process's /proc/self/fd,
 * detached, so that a node's descriptor can be opened or named, and nothing beside it. */
static void enter_root(struct share *shares, unsigned count, int *root)
{
    clone_shares(shares, count);
    int descriptors = (int)syscall(SYS_open_tree, AT_FDCWD, "/proc/self/fd", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    check(descriptors, "open_tree of /proc/self/fd");
    int mounted = new_root();
    check(unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS), "leaving the host's namespaces");
    check(syscall(SYS_mount, NULL, "/", NULL, BIND_RECURSIVE | PROPAGATE_NOT, NULL), "making mounts private");
    check(syscall(SYS_move_mount, mounted, "", AT_FDCWD, "/proc", MOVE_MOUNT_F_EMPTY_PATH), "attaching the root");
    close(mounted);
    check(chdir("/proc"), "entering the root");
    for (unsigned i = 0; i < count; i++)
        attach_share(&shares[i], i);
    check(syscall(SYS_pivot_root, ".", "."), "pivot_root");
    check(syscall(SYS_umount2, ".", UNMOUNT_DETACH), "letting go of the old root");
    check(chdir("/"), "entering the new root");
    *root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    check(*root, "opening the root");
    struct mount_attr set = {.attr_set = MOUNT_ATTR_RDONLY};
    check(syscall(SYS_mount_setattr, *root, "", AT_EMPTY_PATH, &set, sizeof(set)), "sealing the root");
    check(fchdir(descriptors), "entering the descriptors");
    close(descriptors);
}

/* What files of all users take. CAP_FSETID only when a mode is set: without it, the kernel itself clears the bits that
 * give a file's owner's rights to whoever runs it, when the file is written. */
static const int kept[] = {CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_SETUID, CAP_SETGID};

static void set_capabilities(bool with_fsetid_effective, bool none)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct left[2] = {{0}};
    for (size_t i = 0; !none && i < COUNT_OF(kept); i++)
        left[0].effective |= 1U << kept[i];
    left[0].permitted = left[0].effective | (none ? 0 : 1U << CAP_FSETID);
    if (with_fsetid_effective)
        left[0].effective = left[0].permitted;
    check(syscall(SYS_capset, &header, left), "capset");
}

void may_set_group_bits(bool may)
{
    if (!as_user)
        set_capabilities(may, false);
}

int begin_as(const struct request *request)
{
    if (as_user)
        return 0;
    if (request->head->uid == (uid_t)-1 || request->head->gid == (gid_t)-1)
        return EINVAL;
    if (request->head->gid)
        setfsgid(request->head->gid);
    if (request->head->uid)
        setfsuid(request->head->uid);
    return 0;
}

void end_as(void)
{
    if (!as_user) {
        setfsuid(0);
        setfsgid(0);
    }
}

static void drop_privileges(uid_t uid, gid_t gid, const gid_t *groups, unsigned group_count)
{
    check(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "ambient capabilities");
    for (int capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; capability++)
        check(prctl(PR_CAPBSET_DROP, capability, 0, 0, 0), "bounding capabilities");
    check(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
                SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE |
                SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED, 0, 0, 0), "securebits");
    check(setgroups(group_count, groups), "setgroups");
    check(setresgid(gid, gid, gid), "setresgid");
    check(setresuid(uid, uid, uid), "setresuid");
    set_capabilities(false, as_user);
    check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
}

static const uint16_t allowed[] = {
    /* the stream */
    SYS_read, SYS_readv, SYS_write, SYS_writev, SYS_poll, SYS_ppoll,
    /* files that are open */
    SYS_pread64, SYS_pwrite64, SYS_pwritev2, SYS_lseek, SYS_fsync, SYS_fdatasync, SYS_ftruncate, SYS_fallocate, SYS_copy_file_range,
    SYS_getdents64, SYS_fstat, SYS_fstatfs, SYS_fcntl, SYS_flock, SYS_close, SYS_fadvise64,
    /* and names */
    SYS_open, SYS_openat, SYS_newfstatat, SYS_readlinkat, SYS_mknodat, SYS_mkdirat, SYS_symlinkat, SYS_linkat,
    SYS_unlinkat, SYS_renameat2, SYS_fchmodat, SYS_fchownat, SYS_truncate, SYS_utimensat, SYS_setxattr, SYS_getxattr,
    SYS_listxattr, SYS_removexattr,
    /* whose */
    SYS_setfsuid, SYS_setfsgid, SYS_capset,
    /* the process itself */
    SYS_mmap, SYS_munmap, SYS_mremap, SYS_brk, SYS_madvise, SYS_clock_gettime, SYS_rt_sigreturn, SYS_restart_syscall,
    SYS_exit, SYS_exit_group,
};

static void filter_calls(void)
{
    struct sock_filter code[8 + COUNT_OF(allowed) + 2];
    uint16_t n = 0;
#define PUT(...) (code[n++] = (struct sock_filter)__VA_ARGS__)
    PUT(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)));
    PUT(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0));
    PUT(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
    PUT(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)));
    for (unsigned i = 0; i < COUNT_OF(allowed); i++)
        PUT(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[i], (uint8_t)(COUNT_OF(allowed) - i), 0));
    PUT(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
    PUT(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    const struct sock_fprog program = {.len = n, .filter = code};
    check(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0), "seccomp");
}

/* First, so that all memory is on the machine's account. */
static void join(const int *cgroups, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        check(write(cgroups[i], "0", 1), "joining a control group");
        close(cgroups[i]);
    }
}

void confine(struct share *shares, unsigned count, const int *cgroups, unsigned cgroup_count, bool user, uid_t uid,
             gid_t gid, const gid_t *groups, unsigned group_count, int *root)
{
    const struct rlimit no_core = {0, 0};
    as_user = user;
    join(cgroups, cgroup_count);
    check(setsid(), "leaving the session");
    umask(0);
    enter_root(shares, count, root);
    check(setrlimit(RLIMIT_CORE, &no_core), "the limit of core files");
    check(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "being no one's to trace");
    drop_privileges(uid, gid, groups, group_count);
    filter_calls();
}
