#include "calls.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "loop.h"
#include "machine.h"
#include "mounts.h"
#include "process.h"
#include "stats.h"

#define HANDLE_MAX INT32_MAX

/* Every key that any call but the large ones (configure, create, volume) has. Each operation lists its own. */
struct request {
    char *op, *container, *name, *path, *form, *resolver, *user, *port, *tray;
    int64_t handle, signal, rows, columns, stdout_from, stderr_from, grace_ns, vcpus, memory_reserve;
    bool all, no_overwrite_dir_non_dir, copy_uid_gid, read_only, bulk;
    struct slice process, limits, nets, files;
    struct container *found; /* `container`, looked up */
    struct process *target;  /* `handle`, looked up */
    struct arena *arena;
    size_t window;
};

#define KEY(name, kind, optional, member, min, max) {name, kind, optional, offsetof(struct request, member), min, max}
#define KEY_OP KEY("op", FIELD_TEXT, false, op, 1, 32)
#define KEY_CONTAINER KEY("container", FIELD_TEXT, false, container, 1, ID_MAX)
#define KEY_HANDLE KEY("handle", FIELD_INT, false, handle, 1, HANDLE_MAX)
#define KEY_BULK KEY("bulk", FIELD_BOOL, true, bulk, 0, 0)
#define KEY_PATH KEY("path", FIELD_TEXT, false, path, 1, PATH_LIMIT - 1)

/* An operation answers itself, or returns false and leaves why in `problem`. */
typedef bool operation(const struct call *call, struct request *request, struct problem *problem);

static void ping_body(struct buffer *out, void *context)
{
    struct utsname name;
    (void)context;
    uname(&name);
    mp_put_map(out, 3);
    mp_key_int(out, "uptime_ns", uptime_ns());
    mp_key_str(out, "agent", AGENT_VERSION);
    mp_key_str(out, "kernel", name.release);
}

static bool do_ping(const struct call *call, struct request *request, struct problem *problem)
{
    (void)request;
    (void)problem;
    reply_with(call, ping_body, NULL);
    return true;
}

static bool do_unvolume(const struct call *call, struct request *request, struct problem *problem)
{
    if (!volume_unmount(request->name, problem))
        return false;
    reply_done(call);
    return true;
}

static bool do_serve(const struct call *call, struct request *request, struct problem *problem)
{
    if (!volume_serve(request->name, request->port, request->read_only, request->tray, problem))
        return false;
    reply_done(call);
    return true;
}

static bool launch(const struct call *call, struct request *request, enum process_kind kind, struct problem *problem)
{
    struct job job = {.kind = kind,
                      .container = request->found,
                      .path = request->path,
                      .user = request->user,
                      .no_overwrite_dir_non_dir = request->no_overwrite_dir_non_dir,
                      .copy_uid_gid = request->copy_uid_gid,
                      .bulk = request->bulk,
                      .status = -1};
    job.spec.input = kind == PROCESS_ARCHIVE_WRITE || request->bulk;
    if (request->form && !layer_form_of(request->form, &job.form))
        return fail(problem, EINVAL, "there is no form %.32s", request->form);
    if (request->process.data && !decode_process(request->process, &job.spec, request->arena, problem))
        return false;
    return process_launch(&job, request->handle, request->window, call, problem);
}

static bool do_start(const struct call *call, struct request *request, struct problem *problem)
{
    return launch(call, request, PROCESS_MAIN, problem);
}

static bool do_exec(const struct call *call, struct request *request, struct problem *problem)
{
    return launch(call, request, PROCESS_EXEC, problem);
}

static bool do_archive_read(const struct call *call, struct request *request, struct problem *problem)
{
    return launch(call, request, PROCESS_ARCHIVE_READ, problem);
}

static bool do_archive_write(const struct call *call, struct request *request, struct problem *problem)
{
    return launch(call, request, PROCESS_ARCHIVE_WRITE, problem);
}

static bool do_layer_read(const struct call *call, struct request *request, struct problem *problem)
{
    return launch(call, request, PROCESS_LAYER_READ, problem);
}

struct attached {
    uint64_t consumed;
    bool closed;
};

static void attach_body(struct buffer *out, void *context)
{
    const struct attached *attached = context;
    mp_put_map(out, 2);
    mp_key_uint(out, "stdin", attached->consumed);
    mp_key_bool(out, "stdin_closed", attached->closed);
}

static bool do_attach(const struct call *call, struct request *request, struct problem *problem)
{
    struct process *process = request->target;
    const int64_t from[2] = {request->stdout_from, request->stderr_from};
    for (int i = 0; i < 2; i++)
        if (from[i] >= 0 && !output_attach(&process->outputs[i], (uint64_t)from[i]))
            return fail(problem, ERANGE, "offset %lld of stream %d is outside of what is kept", (long long)from[i],
                        i + 1);
    struct attached attached = {input_attach(&process->input), process->input.closed || process->input.ending};
    process->input.end_sent = process->input.closed;
    reply_with(call, attach_body, &attached);
    return true;
}

static bool do_signal(const struct call *call, struct request *request, struct problem *problem)
{
    if (!process_signal(request->target, (int)request->signal, request->all, problem))
        return false;
    reply_done(call);
    return true;
}

static bool do_resize(const struct call *call, struct request *request, struct problem *problem)
{
    const struct winsize size = {.ws_row = (unsigned short)request->rows, .ws_col = (unsigned short)request->columns};
    if (request->target->terminal < 0 || ioctl(request->target->terminal, TIOCSWINSZ, &size) < 0)
        return fail(problem, ENOTTY, "process %d has no terminal", request->target->handle);
    reply_done(call);
    return true;
}

static bool do_pause(const struct call *call, struct request *request, struct problem *problem)
{
    if (!request->found->main)
        return fail(problem, ESRCH, "container %s does not run", request->found->id);
    return container_freeze(request->found, true, call, problem);
}

static bool do_resume(const struct call *call, struct request *request, struct problem *problem)
{
    return container_freeze(request->found, false, call, problem);
}

static bool do_update(const struct call *call, struct request *request, struct problem *problem)
{
    struct limits limits;
    if (!decode_limits(request->limits, &limits, problem) || !cgroup_limit(request->found->cgroup, &limits, problem))
        return false;
    reply_done(call);
    return true;
}

static bool do_grow(const struct call *call, struct request *request, struct problem *problem)
{
    if (!machine_grow((uint64_t)request->memory_reserve, request->vcpus, problem))
        return false;
    reply_done(call);
    return true;
}

static void stats_body(struct buffer *out, void *context)
{
    stats_describe(out, context);
}

static bool do_stats(const struct call *call, struct request *request, struct problem *problem)
{
    struct container *only = NULL;
    if (request->container && !(only = container_find(request->container, problem)))
        return false;
    reply_with(call, stats_body, only);
    return true;
}

static void processes_body(struct buffer *out, void *context)
{
    processes_describe(out, context);
}

static bool do_processes(const struct call *call, struct request *request, struct problem *problem)
{
    (void)problem;
    reply_with(call, processes_body, request->found);
    return true;
}

struct found_path {
    const char *name;
    struct stat status;
    char target[PATH_LIMIT];
    ssize_t target_size;
};

static void path_body(struct buffer *out, void *context)
{
    const struct found_path *found = context;
    mp_put_map(out, 5);
    mp_key_bin(out, "name", found->name, strlen(found->name));
    mp_key_int(out, "size", found->status.st_size);
    mp_key_uint(out, "mode", found->status.st_mode);
    mp_key_int(out, "mtime_ns", found->status.st_mtim.tv_sec * NSEC_PER_SEC + found->status.st_mtim.tv_nsec);
    mp_key_bin(out, "target", found->target, (size_t)found->target_size);
}

static bool do_archive_stat(const struct call *call, struct request *request, struct problem *problem)
{
    struct found_path found = {0};
    int root = container_root(request->found);
    int fd = root < 0 ? -1 : root_open(root, request->path, O_PATH | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &found.status) < 0) {
        fail(problem, errno, "%.200s: %s", request->path, strerror(errno));
    } else {
        char *slash = strrchr(request->path, '/');
        found.name = slash && slash[1] ? slash + 1 : slash ? "/" : request->path;
        found.target_size = S_ISLNK(found.status.st_mode) ? readlinkat(fd, "", found.target, sizeof(found.target)) : 0;
        if (found.target_size < 0)
            found.target_size = 0;
        reply_with(call, path_body, &found);
    }
    close_fd(&root);
    close_fd(&fd);
    return problem->error == 0;
}

static bool do_release(const struct call *call, struct request *request, struct problem *problem)
{
    if (!process_release(request->target, problem))
        return false;
    reply_done(call);
    return true;
}

static bool do_remove(const struct call *call, struct request *request, struct problem *problem)
{
    return container_remove(request->found, call, problem);
}

static void list_body(struct buffer *out, void *context)
{
    (void)context;
    uint32_t count = 0;
    for (const struct container *container = containers; container; container = container->next)
        count++;
    mp_put_map(out, 2);
    mp_put_str(out, "containers");
    mp_put_array(out, count);
    for (const struct container *container = containers; container; container = container->next) {
        mp_put_map(out, 4);
        mp_key_str(out, "id", container->id);
        mp_key_int(out, "handle", container->main_handle);
        mp_key_bool(out, "paused", container->paused);
        mp_key_uint(out, "oom_kills", cgroup_oom_kills(container->cgroup));
    }
    mp_put_str(out, "processes");
    process_list(out);
}

static bool do_list(const struct call *call, struct request *request, struct problem *problem)
{
    (void)request;
    (void)problem;
    reply_with(call, list_body, NULL);
    return true;
}

static bool do_sync(const struct call *call, struct request *request, struct problem *problem)
{
    (void)request;
    (void)problem;
    sync();
    reply_done(call);
    return true;
}

static bool do_rewind(const struct call *call, struct request *request, struct problem *problem)
{
    (void)request;
    if (!machine_rewind(problem))
        return false;
    reply_done(call);
    return true;
}

static bool do_networks(const struct call *call, struct request *request, struct problem *problem)
{
    if (!machine_follow(request->nets, request->resolver, request->arena, problem))
        return false;
    reply_done(call);
    return true;
}

static bool do_files(const struct call *call, struct request *request, struct problem *problem)
{
    if (!container_rewrite(request->found, request->files, request->arena, problem))
        return false;
    reply_done(call);
    return true;
}

static struct timer grace;
static int64_t grace_ends_ns;
static bool shutting_down;

/* Looks every few milliseconds whether all have gone. */
static void grace_expired(struct timer *timer)
{
    if (now_ns() >= grace_ends_ns || !processes_running())
        machine_power_off();
    timer_set(timer, NSEC_PER_SEC / 100);
}

static bool do_shutdown(const struct call *call, struct request *request, struct problem *problem)
{
    if (shutting_down)
        return fail(problem, EALREADY, "the sandbox is shutting down");
    shutting_down = true;
    reply_done(call);
    for (struct process *process = processes; request->grace_ns && process; process = process->next)
        if (process->running)
            kill(process->pid, SIGTERM);
    grace_ends_ns = request->grace_ns > INT64_MAX - now_ns() ? INT64_MAX : now_ns() + request->grace_ns;
    grace.expired = grace_expired;
    timer_set(&grace, 0); /* from the loop, when the answer has left */
    return true;
}

static const struct {
    const char *name;
    operation *run;
    struct field keys[8];
} operations[] = {
    {"ping", do_ping, {KEY_OP}},
    {"unvolume", do_unvolume, {KEY_OP, KEY("name", FIELD_TEXT, false, name, 1, 255)}},
    {"serve",
     do_serve,
     {KEY_OP, KEY("name", FIELD_TEXT, false, name, 1, 255), KEY("port", FIELD_TEXT, false, port, 1, 63),
      KEY("read_only", FIELD_BOOL, true, read_only, 0, 0), KEY("tray", FIELD_TEXT, true, tray, 1, 63)}},
    {"start", do_start, {KEY_OP, KEY_CONTAINER, KEY_HANDLE, KEY("process", FIELD_MAP, false, process, 0, 0)}},
    {"exec", do_exec, {KEY_OP, KEY_CONTAINER, KEY_HANDLE, KEY("process", FIELD_MAP, false, process, 0, 0)}},
    {"attach",
     do_attach,
     {KEY_OP, KEY_HANDLE, KEY("stdout", FIELD_INT, true, stdout_from, 0, INT64_MAX),
      KEY("stderr", FIELD_INT, true, stderr_from, 0, INT64_MAX)}},
    {"signal",
     do_signal,
     {KEY_OP, KEY_HANDLE, KEY("signal", FIELD_INT, false, signal, 1, 64), KEY("all", FIELD_BOOL, true, all, 0, 0)}},
    {"resize",
     do_resize,
     {KEY_OP, KEY_HANDLE, KEY("rows", FIELD_INT, false, rows, 0, UINT16_MAX),
      KEY("columns", FIELD_INT, false, columns, 0, UINT16_MAX)}},
    {"pause", do_pause, {KEY_OP, KEY_CONTAINER}},
    {"resume", do_resume, {KEY_OP, KEY_CONTAINER}},
    {"update", do_update, {KEY_OP, KEY_CONTAINER, KEY("limits", FIELD_MAP, false, limits, 0, 0)}},
    {"grow",
     do_grow,
     {KEY_OP, KEY("memory_reserve", FIELD_INT, false, memory_reserve, 1, INT64_MAX),
      KEY("vcpus", FIELD_INT, false, vcpus, 1, VCPUS_MAX)}},
    {"stats", do_stats, {KEY_OP, KEY("container", FIELD_TEXT, true, container, 1, ID_MAX)}},
    {"processes", do_processes, {KEY_OP, KEY_CONTAINER}},
    {"archive_stat", do_archive_stat, {KEY_OP, KEY_CONTAINER, KEY_PATH}},
    {"archive_read", do_archive_read, {KEY_OP, KEY_CONTAINER, KEY_HANDLE, KEY_PATH, KEY_BULK}},
    {"archive_write",
     do_archive_write,
     {KEY_OP, KEY_CONTAINER, KEY_HANDLE, KEY_PATH,
      KEY("no_overwrite_dir_non_dir", FIELD_BOOL, true, no_overwrite_dir_non_dir, 0, 0),
      KEY("copy_uid_gid", FIELD_BOOL, true, copy_uid_gid, 0, 0), KEY("user", FIELD_TEXT, true, user, 1, 255),
      KEY_BULK}},
    {"layer_read",
     do_layer_read,
     {KEY_OP, KEY_CONTAINER, KEY_HANDLE, KEY("form", FIELD_TEXT, false, form, 1, 32), KEY_BULK}},
    {"release", do_release, {KEY_OP, KEY_HANDLE}},
    {"remove", do_remove, {KEY_OP, KEY_CONTAINER}},
    {"list", do_list, {KEY_OP}},
    {"sync", do_sync, {KEY_OP}},
    {"rewind", do_rewind, {KEY_OP}},
    {"networks",
     do_networks,
     {KEY_OP, KEY("nets", FIELD_ARRAY, false, nets, 0, 0), KEY("resolver", FIELD_TEXT, true, resolver, 0, 31)}},
    {"files", do_files, {KEY_OP, KEY_CONTAINER, KEY("files", FIELD_ARRAY, false, files, 0, 0)}},
    {"shutdown", do_shutdown, {KEY_OP, KEY("grace_ns", FIELD_INT, true, grace_ns, 0, INT64_MAX)}},
};

/* Looks up what required keys name: every operation with `handle` but those that make one wants its process. */
static bool look_up(struct request *request, operation *run, bool container_needed, struct problem *problem)
{
    bool makes_handle = run == do_start || run == do_exec || run == do_archive_read || run == do_archive_write ||
                        run == do_layer_read;
    if (container_needed && !(request->found = container_find(request->container, problem)))
        return false;
    if (request->handle && !makes_handle && !(request->target = process_find(request->handle)))
        return fail(problem, ESRCH, "there is no process %lld", (long long)request->handle);
    return true;
}

bool run_operation(const struct call *call, const char *op, struct slice body, size_t window,
                          struct problem *problem)
{
    for (size_t i = 0; i < COUNT_OF(operations); i++) {
        if (strcmp(operations[i].name, op) != 0)
            continue;
        struct arena arena = {0};
        struct request request = {.stdout_from = -1, .stderr_from = -1, .arena = &arena, .window = window};
        size_t keys = 0;
        while (keys < COUNT_OF(operations[i].keys) && operations[i].keys[keys].key)
            keys++;
        bool good = decode_record(body, operations[i].keys, keys, &request, &arena, problem) &&
                    look_up(&request, operations[i].run, request.container && operations[i].run != do_stats, problem) &&
                    operations[i].run(call, &request, problem);
        arena_free(&arena);
        return good;
    }
    return fail(problem, ENOSYS, "there is no operation %.32s", op);
}
