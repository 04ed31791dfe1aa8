/* From a call's words to a child that runs. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mounts.h"
#include "process.h"

#define ARGUMENTS_MAX 65536
#define GROUPS_MAX 256
#define SECCOMP_MAX (4096 * 8) /* BPF_MAXINSNS of eight bytes */
#define RLIMIT_COUNT 16

struct process_request {
    struct slice argv, env, groups, group_names, capabilities, rlimits;
    struct process_spec *spec;
};

static bool decode_groups(struct slice value, struct process_spec *spec, struct arena *arena, struct problem *problem)
{
    struct slice *values;
    if (!decode_array(value, "groups", GROUPS_MAX, &values, &spec->group_count, arena, problem))
        return false;
    spec->groups = arena_alloc(arena, (spec->group_count + 1) * sizeof(*spec->groups));
    if (!spec->groups)
        return fail(problem, ENOMEM, "no memory for groups");
    for (size_t i = 0; i < spec->group_count; i++) {
        struct mp_reader reader = mp_reader(values[i]);
        struct mp_value number;
        if (!mp_next(&reader, &number) || !mp_integer(&number, 0, INT32_MAX, &spec->groups[i]))
            return fail(problem, EINVAL, "groups holds what is not a group id");
    }
    return true;
}

static bool decode_capabilities(struct slice value, struct process_spec *spec, struct arena *arena,
                                struct problem *problem)
{
    struct slice *values;
    size_t count;
    if (!decode_array(value, "capabilities", 64, &values, &count, arena, problem))
        return false;
    for (size_t i = 0; i < count; i++) {
        struct mp_reader reader = mp_reader(values[i]);
        struct mp_value number;
        int64_t capability;
        if (!mp_next(&reader, &number) || !mp_integer(&number, 0, 63, &capability))
            return fail(problem, EINVAL, "capabilities holds what is not a capability's number");
        spec->capabilities |= 1ULL << capability;
    }
    return true;
}

static bool decode_rlimits(struct slice value, struct process_spec *spec, struct arena *arena, struct problem *problem)
{
    struct slice *values;
    if (!decode_array(value, "rlimits", RLIMIT_COUNT, &values, &spec->rlimit_count, arena, problem))
        return false;
    for (size_t i = 0; i < spec->rlimit_count; i++) {
        struct mp_reader reader = mp_reader(values[i]);
        struct mp_value triple, resource, soft, hard;
        int64_t number;
        if (!mp_next(&reader, &triple) || triple.type != MP_ARRAY || triple.count != 3 ||
            !mp_next(&reader, &resource) || !mp_integer(&resource, 0, RLIMIT_COUNT - 1, &number) ||
            !mp_next(&reader, &soft) || soft.type != MP_INT || soft.negative || !mp_next(&reader, &hard) ||
            hard.type != MP_INT || hard.negative || soft.number > hard.number)
            return fail(problem, EINVAL, "rlimits holds what is not [resource, soft, hard]");
        spec->rlimits[i].resource = (int)number;
        spec->rlimits[i].soft = soft.number;
        spec->rlimits[i].hard = hard.number;
    }
    return true;
}

/* The offset of a field of the request, or of the specification, which the request is made to hold. */
struct process_record {
    struct process_request request;
    struct process_spec spec;
};

#define REQUEST(name) offsetof(struct process_record, request.name)
#define SPEC(name) offsetof(struct process_record, spec.name)

bool decode_process(struct slice value, struct process_spec *spec, struct arena *arena, struct problem *problem)
{
    static const struct field fields[] = {
        {"argv", FIELD_ARRAY, false, REQUEST(argv), 0, 0},
        {"env", FIELD_ARRAY, false, REQUEST(env), 0, 0},
        {"cwd", FIELD_TEXT, false, SPEC(cwd), 0, PATH_LIMIT - 1},
        {"user", FIELD_TEXT, false, SPEC(user), 0, 255},
        {"groups", FIELD_ARRAY, true, REQUEST(groups), 0, 0},
        {"group_names", FIELD_ARRAY, true, REQUEST(group_names), 0, 0},
        {"tty", FIELD_BOOL, false, SPEC(terminal), 0, 0},
        {"rows", FIELD_INT, true, SPEC(rows), 0, UINT16_MAX},
        {"columns", FIELD_INT, true, SPEC(columns), 0, UINT16_MAX},
        {"stdin", FIELD_BOOL, false, SPEC(input), 0, 0},
        {"capabilities", FIELD_ARRAY, false, REQUEST(capabilities), 0, 0},
        {"no_new_privileges", FIELD_BOOL, false, SPEC(no_new_privileges), 0, 0},
        {"rlimits", FIELD_ARRAY, false, REQUEST(rlimits), 0, 0},
        {"seccomp", FIELD_BYTES, true, SPEC(seccomp), 0, SECCOMP_MAX},
        {"oom_score_adj", FIELD_INT, true, SPEC(oom_score_adj), -1000, 1000},
        {"init", FIELD_BOOL, true, SPEC(init), 0, 0},
        {"pid_of", FIELD_TEXT, true, SPEC(pid_of), 1, ID_MAX},
        {"ipc_of", FIELD_TEXT, true, SPEC(ipc_of), 1, ID_MAX},
        {"own_ipc", FIELD_BOOL, true, SPEC(own_ipc), 0, 0},
        {"no_shm", FIELD_BOOL, true, SPEC(no_shm), 0, 0},
    };
    struct process_record record = {.spec = {.oom_score_adj = INT64_MIN}};
    const struct process_request *request = &record.request;
    if (!decode_record(value, fields, COUNT_OF(fields), &record, arena, problem))
        return false;
    *spec = record.spec;
    spec->has_oom_score_adj = spec->oom_score_adj != INT64_MIN;
    if (!*spec->cwd)
        spec->cwd = "/";
    if (spec->cwd[0] != '/')
        return fail(problem, EINVAL, "cwd %.64s is not absolute", spec->cwd);
    if (spec->seccomp.size % 8)
        return fail(problem, EINVAL, "seccomp is not an array of struct sock_filter");
    if (!decode_texts(request->argv, "argv", ARGUMENTS_MAX, &spec->argv, arena, problem) ||
        !decode_texts(request->env, "env", ARGUMENTS_MAX, &spec->env, arena, problem))
        return false;
    if (!spec->argv[0])
        return fail(problem, EINVAL, "argv is empty");
    if (spec->ipc_of && (spec->own_ipc || spec->no_shm))
        return fail(problem, EINVAL, "IPC is either another container's or its own");
    return decode_groups(request->groups, spec, arena, problem) &&
           decode_texts(request->group_names, "group_names", GROUPS_MAX, &spec->group_names, arena, problem) &&
           decode_capabilities(request->capabilities, spec, arena, problem) &&
           decode_rlimits(request->rlimits, spec, arena, problem);
}

static pid_t clone_child(int cgroup, uint64_t flags, int *pidfd)
{
    struct clone_args arguments = {.flags = flags | CLONE_INTO_CGROUP | CLONE_PIDFD,
                                   .pidfd = (uintptr_t)pidfd,
                                   .exit_signal = SIGCHLD,
                                   .cgroup = (uint64_t)cgroup};
    return (pid_t)syscall(SYS_clone3, &arguments, sizeof(arguments));
}

static int holder = -1;      /* pidfd of the process that holds the pod's PID namespace; -1: there is none */
static int own_pid_space = -1;

static _Noreturn void hold_namespace(void)
{
    struct sigaction reap = {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT};
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    prctl(PR_SET_NAME, "pause", 0, 0, 0);
    port_forget_key();
    sigaction(SIGCHLD, &reap, NULL);
    syscall(SYS_close_range, 0, ~0U, 0);
    /* Whoever comes through /proc/1/root finds nothing. */
    if (chroot(RUN_PATH "/empty") < 0 || chdir("/") < 0)
        _exit(1);
    for (;;)
        pause();
}

bool pid_namespace_is_shared(void)
{
    return holder >= 0;
}

bool share_pid_namespace(struct problem *problem)
{
    pid_t pid = clone_child(cgroup_tools(), CLONE_NEWPID | CLONE_NEWNS, &holder);
    if (pid == 0)
        hold_namespace();
    return pid > 0 || fail(problem, errno, "cannot make the pod's PID namespace: %s", strerror(errno));
}

/* The child is made in the PID namespace that the agent has chosen for its children, so it enters none later and has
 * the agent for its parent. */
static pid_t clone_into(const struct job *job, int *pidfd)
{
    const struct container *container = job->container;
    int pid_space = -1;
    uint64_t flags = 0;
    if (job->kind == PROCESS_EXEC)
        pid_space = container->main_pidfd;
    else if (job->kind == PROCESS_MAIN)
        pid_space = job->pid_donor ? job->pid_donor->main_pidfd : holder;
    if (job->kind != PROCESS_EXEC)
        flags |= CLONE_NEWNS;
    if (job->kind == PROCESS_MAIN && pid_space < 0)
        flags |= CLONE_NEWPID;
    if (own_pid_space < 0)
        own_pid_space = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
    if (pid_space >= 0 && setns(pid_space, CLONE_NEWPID) < 0)
        return -1;
    pid_t pid = clone_child(job->kind <= PROCESS_EXEC ? container->cgroup : cgroup_tools(), flags, pidfd);
    int error = errno;
    if (pid != 0 && pid_space >= 0 && setns(own_pid_space, CLONE_NEWPID) < 0)
        log_line("cannot return to the own PID namespace: %s", strerror(errno));
    errno = error;
    return pid;
}

static bool open_terminal(struct job *job, struct process *process, struct problem *problem)
{
    const struct process_spec *spec = &job->spec;
    unsigned number = 0;
    int unlocked = 0;
    int master = openat(job->container->devpts, "ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    process->terminal = master;
    if (master < 0 || ioctl(master, TIOCSPTLCK, &unlocked) < 0 || ioctl(master, TIOCGPTN, &number) < 0)
        return fail(problem, errno, "cannot open a terminal: %s", strerror(errno));
    process->terminal_peer = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (process->terminal_peer < 0)
        return fail(problem, errno, "cannot open a terminal's other side: %s", strerror(errno));
    const struct winsize size = {.ws_row = (unsigned short)spec->rows, .ws_col = (unsigned short)spec->columns};
    if (size.ws_row && size.ws_col)
        ioctl(master, TIOCSWINSZ, &size);
    snprintf(job->terminal, sizeof(job->terminal), "dev/pts/%u", number);
    for (int i = 0; i < 3; i++)
        job->stdio[i] = fcntl(process->terminal_peer, F_DUPFD_CLOEXEC, 3);
    return true;
}

static bool open_pipe(int ends[2], int nonblocking, struct problem *problem)
{
    if (pipe2(ends, O_CLOEXEC) < 0 || fcntl(ends[nonblocking], F_SETFL, O_NONBLOCK) < 0)
        return fail(problem, errno, "cannot make a pipe: %s", strerror(errno));
    return true;
}

static bool watch_output(struct process *process, int index, int fd, size_t window, struct problem *problem)
{
    if (fd >= 0 && output_open(&process->outputs[index], fd, window, process->terminal >= 0))
        return true;
    close_fd(&fd);
    return fail(problem, errno, "cannot watch output: %s", strerror(errno));
}

static bool watch_input(struct process *process, int fd, struct problem *problem)
{
    if (fd >= 0 && input_open(&process->input, fd, process->terminal >= 0))
        return true;
    close_fd(&fd);
    process->input.closed = true;
    return fail(problem, errno, "cannot watch input: %s", strerror(errno));
}

static bool open_streams(struct job *job, struct process *process, size_t window, struct problem *problem)
{
    int ends[2];
    process->input.closed = true;
    process->outputs[1].ended = true;
    if (job->spec.terminal)
        return open_terminal(job, process, problem) &&
               watch_output(process, 0, fcntl(process->terminal, F_DUPFD_CLOEXEC, 3), window, problem) &&
               watch_input(process, fcntl(process->terminal, F_DUPFD_CLOEXEC, 3), problem);
    if (!job->spec.input) {
        job->stdio[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    } else {
        if (!open_pipe(ends, 1, problem))
            return false;
        job->stdio[0] = ends[0];
        if (!watch_input(process, ends[1], problem))
            return false;
    }
    for (int i = 0; i < 2; i++) {
        if (!open_pipe(ends, 0, problem))
            return false;
        job->stdio[i + 1] = ends[1];
        if (!watch_output(process, i, ends[0], window, problem))
            return false;
    }
    return true;
}

static bool open_devpts(struct container *container, struct problem *problem)
{
    static const char *const options[] = {"newinstance", NULL, "ptmxmode", "0666", "mode", "0620", "gid", "5", NULL};
    close_fd(&container->devpts);
    container->devpts = mount_new("devpts", "devpts", options, ATTR_NOSUID | ATTR_NOEXEC, problem);
    return container->devpts >= 0;
}

static bool may_launch(const struct job *job, int64_t handle, struct problem *problem)
{
    const struct container *container = job->container;
    size_t count = 0;
    for (const struct process *process = processes; process; process = process->next)
        count++;
    if (process_find(handle))
        return fail(problem, EEXIST, "handle %" PRId64 " is in use", handle);
    if (count >= PROCESSES_MAX)
        return fail(problem, EAGAIN, "more than %d processes", PROCESSES_MAX);
    if (container->removing)
        return fail(problem, EBUSY, "container %s is being removed", container->id);
    if (job->kind == PROCESS_MAIN && container->main)
        return fail(problem, EBUSY, "container %s runs", container->id);
    if (job->kind == PROCESS_EXEC && (!container->main || container->main->starting))
        return fail(problem, ESRCH, "container %s does not run", container->id);
    if (job->kind == PROCESS_EXEC && container->paused)
        return fail(problem, EBUSY, "container %s is paused", container->id);
    return true;
}

static bool find_donor(const char *id, const struct container **donor, struct problem *problem)
{
    if (!id)
        return true;
    const struct container *found = container_find(id, problem);
    if (!found)
        return false;
    if (!found->main || found->main->starting)
        return fail(problem, ESRCH, "container %s does not run", found->id);
    *donor = found;
    return true;
}

static struct process *new_process(const struct job *job, int64_t handle, const struct call *call)
{
    struct process *process = calloc(1, sizeof(*process));
    if (!process)
        return NULL;
    process->handle = (int32_t)handle;
    process->kind = job->kind;
    process->container = job->container;
    strcpy(process->container_id, job->container->id);
    process->terminal = process->terminal_peer = -1;
    process->status.fd = process->outputs[0].watch.fd = process->outputs[1].watch.fd = process->input.watch.fd = -1;
    process->starter = *call;
    process->oom_kills_before = cgroup_oom_kills(job->container->cgroup);
    return process;
}

static bool spawn(struct job *job, struct process *process, size_t window, struct problem *problem)
{
    int status[2] = {-1, -1};
    int pidfd = -1;
    bool good = (job->kind != PROCESS_MAIN || open_devpts(job->container, problem)) &&
                open_streams(job, process, window, problem) && open_pipe(status, 0, problem);
    if (good) {
        job->status = status[1];
        process->pid = clone_into(job, &pidfd);
        if (process->pid == 0)
            child_main(job);
        good = process->pid > 0 || fail(problem, errno, "cannot make a process: %s", strerror(errno));
    }
    close_fd(&status[1]);
    if (!good) {
        close_fd(&status[0]);
        return false;
    }
    process->running = process->starting = true;
    process->status.ready = process_started;
    if (!loop_add(&process->status, status[0], EPOLLIN))
        log_line("cannot watch a start: %s", strerror(errno));
    if (job->kind == PROCESS_MAIN) {
        job->container->main = process;
        job->container->main_pidfd = pidfd;
        snprintf(job->container->user, sizeof(job->container->user), "%s", job->spec.user);
    } else {
        close_fd(&pidfd);
    }
    return true;
}

bool process_launch(struct job *job, int64_t handle, size_t window, const struct call *call, struct problem *problem)
{
    if (!may_launch(job, handle, problem) || !find_donor(job->spec.pid_of, &job->pid_donor, problem) ||
        !find_donor(job->spec.ipc_of, &job->ipc_donor, problem))
        return false;
    struct process *process = new_process(job, handle, call);
    if (!process)
        return fail(problem, ENOMEM, "no memory for a process");
    job->stdio[0] = job->stdio[1] = job->stdio[2] = -1;
    process_add(process);
    bool good = spawn(job, process, window, problem);
    for (int i = 0; i < 3; i++)
        close_fd(&job->stdio[i]);
    struct problem ignored;
    if (!good)
        process_release(process, &ignored);
    return good;
}
