/*
 * jail: turns itself into one confined QEMU and leaves no helper behind.
 *
 *   jail --uid UID --root DIR --last-fd N [--cgroup FD]... [--file TARGET:SOURCE]... [--kvm] [--nofile N] [--fork FD]
 *        -- PROGRAM [ARG]...
 *
 * Started by root with descriptors 0..N open. In this order it: joins the cgroups whose cgroup.procs it was given;
 * leaves the host's session, mount, network, IPC and UTS namespaces; makes DIR, read-only and without devices, its
 * whole file system, with each SOURCE bound over TARGET in it; becomes UID (user, group, no supplementary groups) without
 * any capability, now or later; and executes PROGRAM (a path inside DIR) with an empty environment and no descriptor
 * beyond those it was given for it.
 *
 * With --fork, PROGRAM is one that preload/fork.c makes children of, each confined as above: it keeps the four
 * capabilities which that takes, and finds FD in its environment.
 *
 * Static, so that it needs nothing from the root it enters. Any failure ends it with status 125 and one line on
 * standard error, before PROGRAM ran.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <grp.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { FAILED = 125, MAX_CGROUPS = 16, MAX_FILES = 8, KVM_MINOR = 232, MISC_MAJOR = 10 };

struct options {
    long uid, last_fd, nofile, fork_fd;
    const char *root;
    int kvm;
    int cgroups[MAX_CGROUPS], cgroup_count;
    struct { const char *target, *source; } files[MAX_FILES];
    int file_count;
    char **program;
};

static void __attribute__((noreturn, format(printf, 1, 2))) die(const char *format, ...)
{
    int error = errno;
    va_list arguments;

    va_start(arguments, format);
    dprintf(2, "jail: ");
    vdprintf(2, format, arguments);
    dprintf(2, error ? ": %s\n" : "\n", strerror(error));
    _exit(FAILED);
}

static void check(int result, const char *what)
{
    if (result < 0)
        die("%s", what);
}

static long number(const char *text, long low, long high)
{
    char *end;
    long value;

    errno = 0;
    value = strtol(text, &end, 10);
    if (errno || end == text || *end || value < low || value > high) {
        errno = EINVAL;
        die("bad number %s", text);
    }
    return value;
}

static void parse(struct options *options, char **argv)
{
    memset(options, 0, sizeof *options);
    options->uid = options->last_fd = options->fork_fd = -1;
    options->nofile = 1024;
    errno = EINVAL;
    while (*++argv && strcmp(*argv, "--")) {
        const char *name = *argv;
        char *value;

        if (!strcmp(name, "--kvm")) {
            options->kvm = 1;
            continue;
        }
        value = *++argv;
        if (!value)
            die("%s needs a value", name);
        if (!strcmp(name, "--uid"))
            options->uid = number(value, 1, INT_MAX);
        else if (!strcmp(name, "--root"))
            options->root = value;
        else if (!strcmp(name, "--last-fd"))
            options->last_fd = number(value, 2, INT_MAX - 1);
        else if (!strcmp(name, "--nofile"))
            options->nofile = number(value, 16, 1 << 20);
        else if (!strcmp(name, "--fork"))
            options->fork_fd = number(value, 3, INT_MAX);
        else if (!strcmp(name, "--cgroup") && options->cgroup_count < MAX_CGROUPS)
            options->cgroups[options->cgroup_count++] = number(value, 3, INT_MAX);
        else if (!strcmp(name, "--file") && options->file_count < MAX_FILES) {
            char *colon = strchr(value, ':');

            if (!colon)
                die("bad file %s", value);
            *colon = 0;
            options->files[options->file_count].target = value;
            options->files[options->file_count++].source = colon + 1;
        } else
            die("unknown or repeated option %s", name);
        errno = EINVAL;
    }
    if (options->uid < 0 || !options->root || options->last_fd < 0 || !*argv || !argv[1])
        die("--uid, --root, --last-fd and a program are needed");
    options->program = argv + 1;
    errno = 0;
}

/* First, so that from here on whoever looks for the machine by its cgroup finds it, and all memory is on its account. */
static void join_cgroups(const struct options *options)
{
    for (int i = 0; i < options->cgroup_count; i++) {
        if (write(options->cgroups[i], "0", 1) != 1)
            die("joining a cgroup");
        close(options->cgroups[i]);
    }
}

static void bind_read_only(const char *source, const char *target, unsigned long flags)
{
    if (mount(source, target, NULL, MS_BIND, NULL) < 0
        || mount(NULL, target, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | flags, NULL) < 0)
        die("binding %s", target);
}

/* A node of its own, because the host's belongs to a group that this user is not in. */
static void make_kvm_node(void)
{
    check(mount("kvm", "dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "size=4k,nr_inodes=4,mode=755"), "mounting dev");
    check(mknod("dev/kvm", S_IFCHR | 0666, makedev(MISC_MAJOR, KVM_MINOR)), "making dev/kvm");
    check(mount(NULL, "dev", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC, NULL), "sealing dev");
}

static void enter_root(const struct options *options)
{
    check(unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS), "leaving the host's namespaces");
    check(sethostname("hypervm", 7), "setting the host name");
    check(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "making mounts private");
    bind_read_only(options->root, options->root, MS_NODEV);
    check(chdir(options->root), "entering the root");
    for (int i = 0; i < options->file_count; i++)
        bind_read_only(options->files[i].source, options->files[i].target, MS_NODEV | MS_NOEXEC);
    if (options->kvm)
        make_kvm_node();
    /* Old root on top of the new one, then off: no directory for it is needed inside. */
    check(syscall(SYS_pivot_root, ".", "."), "pivot_root");
    check(umount2(".", MNT_DETACH), "letting go of the old root");
    check(chdir("/"), "entering the new root");
}

/* Lowering is always allowed; what is lower already stays. */
static void limit(int resource, rlim_t value)
{
    struct rlimit current;

    check(getrlimit(resource, &current), "getrlimit");
    if (current.rlim_max > value)
        current.rlim_max = value;
    current.rlim_cur = current.rlim_max;
    check(setrlimit(resource, &current), "setrlimit");
}

/* To give a child its user, its namespaces and no capabilities. */
static const int to_fork[] = {CAP_SETUID, CAP_SETGID, CAP_SYS_ADMIN, CAP_SETPCAP};

static int is_kept(int capability, int forks)
{
    for (size_t i = 0; forks && i < sizeof(to_fork) / sizeof(to_fork[0]); i++)
        if (to_fork[i] == capability)
            return 1;
    return 0;
}

static void drop_privileges(uid_t uid, int forks)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct left[2] = {{0}};

    check(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "ambient capabilities");
    for (int capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; capability++) {
        if (!is_kept(capability, forks))
            check(prctl(PR_CAPBSET_DROP, capability, 0, 0, 0), "bounding capabilities");
        else
            left[capability / 32].effective |= 1U << capability % 32;
    }
    for (int half = 0; half < 2; half++)
        left[half].permitted = left[half].inheritable = left[half].effective;
    check(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP
                | SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED
                | (forks ? 0 : SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED), 0, 0, 0),
          "securebits");
    check(setgroups(0, NULL), "setgroups");
    check(setresgid(uid, uid, uid), "setresgid");
    check(setresuid(uid, uid, uid), "setresuid");
    check(syscall(SYS_capset, &header, left), "capset");
    for (size_t i = 0; forks && i < sizeof(to_fork) / sizeof(to_fork[0]); i++)
        check(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, to_fork[i], 0, 0), "ambient capabilities");
    check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
}

int main(int argc, char **argv)
{
    static char fork_fd[40];
    static char *environment[] = {NULL, NULL};
    struct options options;
    sigset_t no_signals;

    (void)argc;
    parse(&options, argv);
    join_cgroups(&options);
    check(setsid(), "leaving the session");
    umask(0);
    enter_root(&options);
    umask(077);
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_MSGQUEUE, 0);
    limit(RLIMIT_MEMLOCK, 0);
    limit(RLIMIT_NOFILE, options.nofile);
    /* A huge page per touched address would multiply what an idle machine costs. Kept across exec. */
    check(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), "disabling huge pages");
    drop_privileges(options.uid, options.fork_fd >= 0);
    check(syscall(SYS_close_range, (unsigned)options.last_fd + 1, ~0U, 0), "close_range");
    sigemptyset(&no_signals);
    check(sigprocmask(SIG_SETMASK, &no_signals, NULL), "sigprocmask");
    /* exec resets "dumpable", but not for a program that its user may execute and not read: the root's owner sees to it. */
    if (options.fork_fd >= 0) {
        snprintf(fork_fd, sizeof(fork_fd), "HYPERSTACK_FORK=%ld", options.fork_fd);
        environment[0] = fork_fd;
    }
    execve(options.program[0], options.program, environment);
    die("executing %s", options.program[0]);
}
