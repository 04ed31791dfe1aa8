/* Between clone and exec: a child becomes a container's process. It reports what goes wrong through its status pipe,
 * which closes by itself when exec succeeds. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "archive.h"
#include "bulk.h"
#include "mounts.h"
#include "process.h"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define DEFAULT_FILES_SOFT 1024
#define DEFAULT_FILES_HARD 524288
#define CAPABILITY_MAX 63

static _Noreturn void report(const struct job *job, const struct problem *problem)
{
    /* One write of less than PIPE_BUF: it comes whole, or the agent has gone and with it everything. */
    ssize_t written = write(job->status, problem, sizeof(*problem));
    _exit(written == sizeof(*problem) ? 127 : 126);
}

static void reset_signals(void)
{
    struct sigaction standard = {.sa_handler = SIG_DFL};
    sigset_t none;
    for (int signal = 1; signal < NSIG; signal++)
        sigaction(signal, &standard, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Another container's /dev/shm as a mount of our own, which only somebody in that one's mount namespace can make. */
static int borrow_shm(const struct container *donor, struct problem *problem)
{
    int home = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
    int root = -1, source = -1, shm = -1;
    if (home < 0 || setns(donor->main_pidfd, CLONE_NEWNS) < 0) {
        fail(problem, errno, "cannot look into container %s: %s", donor->id, strerror(errno));
        close_fd(&home);
        return -1;
    }
    root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    source = root_open(root, "dev/shm", O_PATH | O_DIRECTORY);
    if (source < 0)
        fail(problem, errno, "container %s has no /dev/shm: %s", donor->id, strerror(errno));
    else
        shm = mount_clone(source, "", problem);
    if (setns(home, CLONE_NEWNS) < 0) {
        fail(problem, errno, "cannot return to the own mounts: %s", strerror(errno));
        close_fd(&shm);
    }
    close_fd(&source);
    close_fd(&root);
    close_fd(&home);
    return shm;
}

static bool enter_own_namespaces(const struct job *job, struct problem *problem)
{
    const struct process_spec *spec = &job->spec;
    int shm = spec->no_shm ? SHM_NONE : SHM_OWN;
    /* Not by clone: the namespace's root is to be the group that the child is in, not the agent's. */
    if (unshare(CLONE_NEWCGROUP | (spec->own_ipc ? CLONE_NEWIPC : 0)) < 0)
        return fail(problem, errno, "cannot make namespaces: %s", strerror(errno));
    if (job->ipc_donor) {
        if (setns(job->ipc_donor->main_pidfd, CLONE_NEWIPC) < 0)
            return fail(problem, errno, "cannot share the IPC of container %s: %s", job->ipc_donor->id,
                        strerror(errno));
        shm = borrow_shm(job->ipc_donor, problem);
        if (shm < 0)
            return false;
    }
    return rootfs_enter(job->container, *job->terminal ? job->terminal : NULL, shm, problem);
}

static bool enter_namespaces(const struct job *job, struct problem *problem)
{
    const struct container *container = job->container;
    if (job->kind == PROCESS_MAIN)
        return enter_own_namespaces(job, problem);
    if (job->kind == PROCESS_LAYER_READ)
        return true; /* layers are seen from outside, without what is mounted in the container */
    if (job->kind != PROCESS_EXEC && container->main_pidfd < 0)
        return rootfs_enter_volumes(container, problem);
    if (setns(container->main_pidfd,
              CLONE_NEWNS | (job->kind == PROCESS_EXEC ? CLONE_NEWCGROUP | CLONE_NEWIPC : 0)) < 0)
        return fail(problem, errno, "cannot enter the container: %s", strerror(errno));
    return true;
}

static bool set_up_stdio(const struct job *job, struct problem *problem)
{
    for (int i = 0; i < 3; i++)
        if (dup2(job->stdio[i], i) < 0)
            return fail(problem, errno, "cannot set up stdio: %s", strerror(errno));
    if (job->spec.terminal && ioctl(0, TIOCSCTTY, 0) < 0)
        return fail(problem, errno, "cannot take the terminal: %s", strerror(errno));
    return true;
}

/* So that a process without privileges can open /dev/stdout anew. */
static void give_stdio(const struct identity *identity)
{
    for (int fd = 0; fd < 3; fd++) {
        struct stat status;
        if (fstat(fd, &status) == 0 && status.st_uid != identity->uid &&
            (S_ISFIFO(status.st_mode) || isatty(fd)) && fchown(fd, identity->uid, S_ISFIFO(status.st_mode)
                                                                                     ? identity->gid
                                                                                     : (gid_t)-1) < 0)
            continue; /* the process has its descriptors all the same */
    }
}

static bool set_resource_limits(const struct process_spec *spec, struct problem *problem)
{
    const struct rlimit files = {DEFAULT_FILES_SOFT, DEFAULT_FILES_HARD};
    setrlimit(RLIMIT_NOFILE, &files);
    for (size_t i = 0; i < spec->rlimit_count; i++) {
        const struct rlimit limit = {spec->rlimits[i].soft, spec->rlimits[i].hard};
        if (setrlimit(spec->rlimits[i].resource, &limit) < 0)
            return fail(problem, errno, "cannot set resource limit %d: %s", spec->rlimits[i].resource,
                        strerror(errno));
    }
    return true;
}

static bool set_capabilities(uint64_t mask, struct problem *problem)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {
        {.effective = (uint32_t)mask, .permitted = (uint32_t)mask},
        {.effective = (uint32_t)(mask >> 32), .permitted = (uint32_t)(mask >> 32)},
    };
    /* Inheritable and ambient stay empty: otherwise a setuid-less program of a user would keep what root had. */
    if (syscall(SYS_capset, &header, data) < 0)
        return fail(problem, errno, "cannot set capabilities: %s", strerror(errno));
    return true;
}

static uint64_t known_capabilities(void)
{
    uint64_t known = 0;
    for (unsigned long capability = 0; capability <= CAPABILITY_MAX; capability++)
        if (prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0)
            known |= 1ULL << capability;
    return known;
}

static bool drop_bounding_set(uint64_t keep, uint64_t known, struct problem *problem)
{
    for (unsigned long capability = 0; capability <= CAPABILITY_MAX; capability++)
        if ((known & ~keep) >> capability & 1 && prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0)
            return fail(problem, errno, "cannot drop capability %lu: %s", capability, strerror(errno));
    return true;
}

static bool become(const struct process_spec *spec, const struct identity *identity, struct problem *problem)
{
    uint64_t known = known_capabilities();
    if (!drop_bounding_set(spec->capabilities, known, problem))
        return false;
    /* Kept over the change of user, so that the filter below can be installed last but one. */
    if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 || setgroups(identity->group_count, identity->groups) < 0 ||
        setresgid(identity->gid, identity->gid, identity->gid) < 0 ||
        setresuid(identity->uid, identity->uid, identity->uid) < 0)
        return fail(problem, errno, "cannot become user %u: %s", identity->uid, strerror(errno));
    return true;
}

/* The working directory is entered as the user, and where root alone may enter it, still with root's capabilities. */
static bool enter_directory(const struct process_spec *spec, struct problem *problem)
{
    if (chdir(spec->cwd) == 0)
        return true;
    struct problem ignored;
    int error = errno;
    if (error == EACCES && set_capabilities(known_capabilities(), &ignored) && chdir(spec->cwd) == 0)
        return true;
    return fail(problem, error, "chdir to cwd (\"%.200s\") failed: %s", spec->cwd, strerror(error));
}

static bool install_seccomp(const struct process_spec *spec, struct problem *problem)
{
    if (!spec->seccomp.size)
        return true;
    struct sock_fprog program = {.len = (unsigned short)(spec->seccomp.size / sizeof(struct sock_filter)),
                                 .filter = (struct sock_filter *)(void *)(uintptr_t)spec->seccomp.data};
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0)
        return fail(problem, errno, "cannot install the seccomp filter: %s", strerror(errno));
    return true;
}

static const char *variable(char **env, const char *name)
{
    size_t size = strlen(name);
    for (; *env; env++)
        if (strncmp(*env, name, size) == 0 && (*env)[size] == '=')
            return *env + size + 1;
    return NULL;
}

static void add_home(struct process_spec *spec, const struct identity *identity)
{
    static char home[PATH_LIMIT + 8];
    size_t count = 0;
    if (variable(spec->env, "HOME"))
        return;
    while (spec->env[count])
        count++;
    char **env = calloc(count + 2, sizeof(*env));
    if (!env)
        return;
    memcpy(env, spec->env, count * sizeof(*env));
    snprintf(home, sizeof(home), "HOME=%s", identity->home);
    env[count] = home;
    spec->env = env;
}

static void execute(const struct process_spec *spec, struct problem *problem)
{
    const char *command = spec->argv[0];
    if (strchr(command, '/')) {
        execve(command, spec->argv, spec->env);
        fail(problem, errno, "exec: \"%.180s\": %s", command, strerror(errno));
        return;
    }
    const char *path = variable(spec->env, "PATH");
    int error = ENOENT;
    for (const char *at = path ? path : DEFAULT_PATH; at; at = strchr(at, ':') ? strchr(at, ':') + 1 : NULL) {
        char full[PATH_LIMIT];
        int size = (int)strcspn(at, ":");
        if (!*command || snprintf(full, sizeof(full), "%.*s%s%s", size, at, size ? "/" : "", command) >= PATH_LIMIT)
            continue;
        execve(full, spec->argv, spec->env);
        if (errno != ENOENT && errno != ENOTDIR)
            error = errno;
    }
    if (error == ENOENT)
        fail(problem, error, "exec: \"%.180s\": executable file not found in $PATH", command);
    else
        fail(problem, error, "exec: \"%.180s\": %s", command, strerror(error));
}

static void close_descriptors_from(unsigned first)
{
    syscall(SYS_close_range, first, ~0U, 0); /* musl has no wrapper yet */
}

static _Noreturn void init_main(pid_t command)
{
    sigset_t all;
    int ended = 0;
    sigfillset(&all);
    close_descriptors_from(0); /* or the command's end would not end its streams */
    for (;;) {
        int signal = sigwaitinfo(&all, NULL);
        if (signal > 0 && signal != SIGCHLD && signal != SIGTTIN && signal != SIGTTOU)
            kill(command, signal);
        for (pid_t pid; (pid = waitpid(-1, &ended, WNOHANG)) > 0;)
            if (pid == command)
                _exit(WIFSIGNALED(ended) ? 128 + WTERMSIG(ended) : WEXITSTATUS(ended));
    }
}

/* Splits a reaping init off: the child goes on to the command, in the foreground of the terminal if there is one. */
static bool split_init(const struct job *job, struct problem *problem)
{
    sigset_t all, none;
    sigfillset(&all);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &all, NULL);
    pid_t pid = fork();
    if (pid < 0)
        return fail(problem, errno, "cannot fork: %s", strerror(errno));
    if (pid > 0)
        init_main(pid);
    setpgid(0, 0);
    if (job->spec.terminal)
        tcsetpgrp(0, getpgrp()); /* SIGTTOU is still blocked */
    sigprocmask(SIG_SETMASK, &none, NULL);
    return true;
}

static void run_command(struct job *job, struct problem *problem)
{
    struct process_spec *spec = &job->spec;
    struct identity identity;
    if (spec->has_oom_score_adj) {
        char text[16];
        snprintf(text, sizeof(text), "%d", (int)spec->oom_score_adj);
        if (write_text(AT_FDCWD, "/proc/self/oom_score_adj", text) < 0) {
            fail(problem, errno, "cannot set oom_score_adj: %s", strerror(errno));
            return;
        }
    }
    if (!enter_namespaces(job, problem) || !set_up_stdio(job, problem) || !resolve_user(spec, &identity, problem))
        return;
    give_stdio(&identity);
    add_home(spec, &identity);
    if (job->kind == PROCESS_MAIN)
        close_fd(&(int){root_make_directory(AT_FDCWD, spec->cwd)});
    if (spec->no_new_privileges && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
        fail(problem, errno, "cannot set no_new_privs: %s", strerror(errno));
        return;
    }
    uint64_t kept = spec->capabilities & known_capabilities();
    if (!set_resource_limits(spec, problem) || !become(spec, &identity, problem) ||
        !enter_directory(spec, problem) || !set_capabilities(kept | 1ULL << CAP_SYS_ADMIN, problem) ||
        !install_seccomp(spec, problem) || !set_capabilities(kept, problem) ||
        (spec->init && !split_init(job, problem)))
        return;
    execute(spec, problem);
}

static bool write_archive(const struct job *job, struct problem *problem)
{
    struct unpack_options options = {.root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC),
                                     .path = job->path,
                                     .no_overwrite_dir_non_dir = job->no_overwrite_dir_non_dir};
    char *user = job->user ? job->user : job->container->user;
    options.owned = job->copy_uid_gid && *user;
    if (options.owned) {
        const struct process_spec spec = {.user = user};
        struct identity identity;
        if (!resolve_user(&spec, &identity, problem))
            return false;
        options.uid = identity.uid;
        options.gid = identity.gid;
    }
    return archive_write(&options, 0, problem);
}

static _Noreturn void run_archive(struct job *job, struct problem *problem)
{
    if (job->bulk)
        bulk_offer();
    if (!enter_namespaces(job, problem) || !set_up_stdio(job, problem))
        report(job, problem);
    close_descriptors_from((unsigned)bulk_keep(3)); /* what happens from here on is told by stderr and the exit code */
    bool good = job->kind == PROCESS_ARCHIVE_READ   ? archive_read(job->path, 1, problem)
                : job->kind == PROCESS_LAYER_READ ? layer_read(job->container, job->form, 1, problem)
                                                  : write_archive(job, problem);
    if (good && !bulk_flush(1))
        good = fail(problem, errno, "cannot write the archive: %s", strerror(errno));
    if (!good)
        dprintf(2, "%s\n", problem->text);
    _exit(good ? 0 : 1);
}

void child_main(struct job *job)
{
    struct problem problem = {0};
    /* Until exec this is a copy of the agent: nobody in the container may look into it. */
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    port_forget_key();
    reset_signals();
    setsid();
    if (job->kind == PROCESS_MAIN || job->kind == PROCESS_EXEC)
        run_command(job, &problem);
    else
        run_archive(job, &problem);
    report(job, &problem);
}
