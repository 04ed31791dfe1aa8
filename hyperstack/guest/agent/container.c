#include "container.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disks.h"
#include "machine.h"
#include "mounts.h"
#include "process.h"

#define LAYERS_MAX 256
#define MOUNTS_MAX 256
#define FILES_MAX 64
#define PATHS_MAX 256
#define FILE_SIZE_MAX (256 * 1024)

struct container *containers;

struct create_request {
    char *op, *id, *writable;
    struct slice layers, mounts, files, limits, masked, readonly, sysctls;
    bool read_only, privileged;
    int64_t shm_size;
};

bool is_name(const char *text, size_t max)
{
    size_t size = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-");
    return size > 0 && size <= max && text[size] == 0 && strcmp(text, ".") != 0 && strcmp(text, "..") != 0;
}

struct container *container_find(const char *id, struct problem *problem)
{
    for (struct container *container = containers; container; container = container->next)
        if (strcmp(container->id, id) == 0)
            return container;
    fail(problem, ENOENT, "there is no container %.64s", id);
    return NULL;
}

static bool decode_mount(struct slice value, struct mount_spec *mount, struct arena *arena, struct problem *problem)
{
    static const struct field fields[] = {
        {"kind", FIELD_TEXT, false, offsetof(struct mount_spec, kind_text), 1, 16},
        {"source", FIELD_TEXT, true, offsetof(struct mount_spec, source), 0, 255},
        {"share", FIELD_TEXT, true, offsetof(struct mount_spec, share), 0, PATH_LIMIT - 1},
        {"subpath", FIELD_TEXT, true, offsetof(struct mount_spec, subpath), 0, PATH_LIMIT - 1},
        {"target", FIELD_TEXT, false, offsetof(struct mount_spec, target), 1, PATH_LIMIT - 1},
        {"read_only", FIELD_BOOL, true, offsetof(struct mount_spec, read_only), 0, 0},
        {"size", FIELD_INT, true, offsetof(struct mount_spec, size), 0, INT64_MAX},
        {"files", FIELD_INT, true, offsetof(struct mount_spec, files), 0, INT64_MAX},
        {"mode", FIELD_INT, true, offsetof(struct mount_spec, mode), 0, 07777},
        {"uid", FIELD_INT, true, offsetof(struct mount_spec, uid), 0, UINT32_MAX - 1},
        {"gid", FIELD_INT, true, offsetof(struct mount_spec, gid), 0, UINT32_MAX - 1},
        {"flags", FIELD_INT, true, offsetof(struct mount_spec, flags), 0, UINT32_MAX},
        {"copy_up", FIELD_BOOL, true, offsetof(struct mount_spec, copy_up), 0, 0},
    };
    if (!decode_record(value, fields, COUNT_OF(fields), mount, arena, problem))
        return false;
    if (strcmp(mount->kind_text, "tmpfs") == 0)
        mount->kind = MOUNT_TMPFS;
    else if (strcmp(mount->kind_text, "volume") == 0)
        mount->kind = MOUNT_VOLUME;
    else
        return fail(problem, EINVAL, "mounts are of kind tmpfs or volume, not %s", mount->kind_text);
    return mount->kind == MOUNT_TMPFS || (mount->source && is_name(mount->source, 255)) ||
           fail(problem, EINVAL, "the mount on %.64s names no volume", mount->target);
}

static bool decode_file(struct slice value, struct file_spec *file, struct arena *arena, struct problem *problem)
{
    static const struct field fields[] = {
        {"path", FIELD_TEXT, false, offsetof(struct file_spec, path), 1, PATH_LIMIT - 1},
        {"data", FIELD_BYTES, false, offsetof(struct file_spec, data), 0, FILE_SIZE_MAX},
        {"mode", FIELD_INT, false, offsetof(struct file_spec, mode), 0, 07777},
    };
    return decode_record(value, fields, COUNT_OF(fields), file, arena, problem);
}

static bool decode_mounts_and_files(const struct create_request *request, struct container *container,
                                    struct problem *problem)
{
    struct arena *arena = &container->arena;
    struct slice *values;
    if (!decode_array(request->mounts, "mounts", MOUNTS_MAX, &values, &container->mount_count, arena, problem))
        return false;
    container->mounts = arena_alloc(arena, (container->mount_count + 1) * sizeof(*container->mounts));
    for (size_t i = 0; i < container->mount_count; i++)
        if (!container->mounts || !decode_mount(values[i], &container->mounts[i], arena, problem))
            return false;
    if (!decode_array(request->files, "files", FILES_MAX, &values, &container->file_count, arena, problem))
        return false;
    container->files = arena_alloc(arena, (container->file_count + 1) * sizeof(*container->files));
    for (size_t i = 0; i < container->file_count; i++)
        if (!container->files || !decode_file(values[i], &container->files[i], arena, problem))
            return false;
    return true;
}

static bool decode_create(struct slice arguments, struct create_request *request, struct container *container,
                          struct problem *problem)
{
    static const struct field fields[] = {
        {"op", FIELD_TEXT, false, offsetof(struct create_request, op), 0, 32},
        {"container", FIELD_TEXT, false, offsetof(struct create_request, id), 1, ID_MAX},
        {"layers", FIELD_ARRAY, false, offsetof(struct create_request, layers), 0, 0},
        {"writable", FIELD_TEXT, false, offsetof(struct create_request, writable), 0, 63},
        {"read_only", FIELD_BOOL, false, offsetof(struct create_request, read_only), 0, 0},
        {"mounts", FIELD_ARRAY, false, offsetof(struct create_request, mounts), 0, 0},
        {"files", FIELD_ARRAY, false, offsetof(struct create_request, files), 0, 0},
        {"limits", FIELD_MAP, false, offsetof(struct create_request, limits), 0, 0},
        {"masked", FIELD_ARRAY, false, offsetof(struct create_request, masked), 0, 0},
        {"readonly", FIELD_ARRAY, false, offsetof(struct create_request, readonly), 0, 0},
        {"privileged", FIELD_BOOL, false, offsetof(struct create_request, privileged), 0, 0},
        {"shm_size", FIELD_INT, false, offsetof(struct create_request, shm_size), 0, INT64_MAX},
        {"sysctls", FIELD_MAP, false, offsetof(struct create_request, sysctls), 0, 0},
    };
    struct arena *arena = &container->arena;
    if (!decode_record(arguments, fields, COUNT_OF(fields), request, arena, problem))
        return false;
    if (!is_name(request->id, ID_MAX))
        return fail(problem, EINVAL, "%.64s is no container id", request->id);
    strcpy(container->id, request->id);
    snprintf(container->path, sizeof(container->path), RUN_PATH "/containers/%s", container->id);
    container->writable = request->writable;
    container->read_only = request->read_only;
    container->privileged = request->privileged;
    container->shm_size = request->shm_size;
    return decode_texts(request->layers, "layers", LAYERS_MAX, &container->layers, arena, problem) &&
           decode_texts(request->masked, "masked", PATHS_MAX, &container->masked, arena, problem) &&
           decode_texts(request->readonly, "readonly", PATHS_MAX, &container->readonly, arena, problem) &&
           decode_mounts_and_files(request, container, problem);
}

static bool disks_are_there(const struct container *container, const struct disk_table *table, struct problem *problem)
{
    for (char **layer = container->layers; *layer; layer++)
        if (!disk_device(table, *layer, problem))
            return false;
    return !*container->writable || disk_device(table, container->writable, problem);
}

static bool make_below(const struct container *container, const char *name, char path[static PATH_LIMIT],
                       struct problem *problem)
{
    snprintf(path, PATH_LIMIT, "%s/%s", container->path, name);
    return make_directory(path, 0755) == 0 || fail(problem, errno, "cannot make %s: %s", path, strerror(errno));
}

static bool attach_and_close(int mounted, const char *path, struct problem *problem)
{
    if (mounted < 0)
        return false;
    bool attached = mount_attach_path(mounted, path, problem);
    close(mounted);
    return attached;
}

static bool mount_layers(struct container *container, const struct disk_table *table, struct problem *problem)
{
    char path[PATH_LIMIT], name[32];
    /* Overlays want one lower directory at least: the empty one serves images without layers. */
    if (!make_below(container, "layers", path, problem) || !make_below(container, "layers/empty", path, problem))
        return false;
    for (size_t i = 0; container->layers[i]; i++) {
        snprintf(name, sizeof(name), "layers/%zu", i);
        if (!make_below(container, name, path, problem) ||
            !attach_and_close(disk_mount(table, container->layers[i], "erofs", true, problem), path, problem))
            return false;
    }
    return true;
}

static bool mount_writable(struct container *container, const struct disk_table *table, struct problem *problem)
{
    static const char *const tmpfs_options[] = {"mode", "0755", NULL};
    char path[PATH_LIMIT];
    if (!make_below(container, "writable", path, problem))
        return false;
    int mounted = *container->writable ? disk_mount(table, container->writable, "ext4", false, problem)
                                       : mount_new("tmpfs", "writable", tmpfs_options, 0, problem);
    return attach_and_close(mounted, path, problem) && make_below(container, "writable/work", path, problem);
}

/* The merged root has the owner and mode of the upper one, so a new upper takes those of the image. */
static bool make_upper(struct container *container, size_t layer_count, struct problem *problem)
{
    char path[PATH_LIMIT], name[32];
    snprintf(path, sizeof(path), "%s/writable/upper", container->path);
    if (mkdir(path, 0755) < 0)
        return errno == EEXIST || fail(problem, errno, "cannot make %s: %s", path, strerror(errno));
    if (layer_count == 0)
        return true;
    struct stat status;
    char top[PATH_LIMIT];
    snprintf(name, sizeof(name), "layers/%zu", layer_count - 1);
    snprintf(top, sizeof(top), "%s/%s", container->path, name);
    if (stat(top, &status) < 0 || chown(path, status.st_uid, status.st_gid) < 0 ||
        chmod(path, status.st_mode & 07777) < 0)
        return fail(problem, errno, "cannot give %s the image's mode: %s", path, strerror(errno));
    return true;
}

static bool mount_overlay(struct container *container, struct problem *problem)
{
    /* mount(2) takes a page of options, where fsconfig(2) takes 256 bytes for each: paths relative to the working
     * directory leave room for LAYERS_MAX of them. */
    char options[4 * LAYERS_MAX + 128];
    char root[PATH_LIMIT];
    size_t count = 0;
    while (container->layers[count])
        count++;
    if (!make_upper(container, count, problem) || !make_below(container, "root", root, problem))
        return false;
    size_t used = (size_t)snprintf(options, sizeof(options), "lowerdir=");
    for (size_t i = count; i-- > 0;)
        used += (size_t)snprintf(options + used, sizeof(options) - used, "%zu:", i);
    snprintf(options + used, sizeof(options) - used, "empty,upperdir=../writable/upper,workdir=../writable/work");
    char layers[PATH_LIMIT];
    snprintf(layers, sizeof(layers), "%s/layers", container->path);
    if (chdir(layers) < 0)
        return fail(problem, errno, "cannot enter %s: %s", layers, strerror(errno));
    bool mounted = mount("overlay", root, "overlay", 0, options) == 0 ||
                   fail(problem, errno, "cannot mount the overlay of %zu layers: %s", count, strerror(errno));
    return chdir("/") == 0 && mounted;
}

static bool write_file(const struct container *container, size_t index, const struct file_spec *file,
                       struct problem *problem)
{
    char path[PATH_LIMIT];
    snprintf(path, sizeof(path), "%s/files/%zu", container->path, index);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool written = fd >= 0 && write(fd, file->data.data, file->data.size) == (ssize_t)file->data.size &&
                   fchmod(fd, (mode_t)file->mode) == 0;
    close_fd(&fd);
    return written || fail(problem, errno ? errno : EIO, "cannot write %s", file->path);
}

static bool write_files(struct container *container, struct problem *problem)
{
    char path[PATH_LIMIT];
    if (!make_below(container, "files", path, problem))
        return false;
    for (size_t i = 0; i < container->file_count; i++) {
        if (!write_file(container, i, &container->files[i], problem))
            return false;
        container->files[i].data = (struct slice){0}; /* it lay in the frame */
    }
    return true;
}

bool container_rewrite(struct container *container, struct slice files, struct arena *arena, struct problem *problem)
{
    struct slice *values;
    size_t count;
    if (!decode_array(files, "files", FILES_MAX, &values, &count, arena, problem))
        return false;
    for (size_t i = 0; i < count; i++) {
        struct file_spec file = {0};
        if (!decode_file(values[i], &file, arena, problem))
            return false;
        for (size_t at = 0; at < container->file_count; at++)
            if (strcmp(container->files[at].path, file.path) == 0 && !write_file(container, at, &file, problem))
                return false;
    }
    return true;
}

static void memory_changed(struct watch *watch, uint32_t events);
static void cgroup_changed(struct watch *watch, uint32_t events);

static bool watch_file(struct watch *watch, int directory, const char *name, void (*ready)(struct watch *, uint32_t))
{
    int fd = openat(directory, name, O_RDONLY | O_CLOEXEC);
    watch->ready = ready;
    if (fd >= 0 && loop_add(watch, fd, EPOLLPRI))
        return true;
    close_fd(&fd);
    return false;
}

static bool make_cgroup(struct container *container, struct slice limits_map, struct problem *problem)
{
    struct limits limits;
    if (!decode_limits(limits_map, &limits, problem))
        return false;
    container->cgroup = cgroup_make(container->id, container->privileged, problem);
    if (container->cgroup < 0 || !cgroup_limit(container->cgroup, &limits, problem))
        return false;
    /* A kernel without a memory controller has no memory.events; then there are no such kills to tell of either. */
    watch_file(&container->memory_events, container->cgroup, "memory.events", memory_changed);
    return watch_file(&container->cgroup_events, container->cgroup, "cgroup.events", cgroup_changed) ||
           fail(problem, errno, "cannot watch the control group: %s", strerror(errno));
}

static void container_free(struct container *container)
{
    int fds[] = {container->memory_events.fd, container->cgroup_events.fd, container->cgroup,
                 container->main_pidfd,       container->root,             container->devpts};
    loop_remove(&container->memory_events);
    loop_remove(&container->cgroup_events);
    for (size_t i = 0; i < COUNT_OF(fds); i++)
        close_fd(&fds[i]);
    container_unmount(container);
    cgroup_remove(container->id);
    arena_free(&container->arena);
    free(container);
}

static bool build(struct container *container, const struct create_request *request, const struct disk_table *table,
                  struct problem *problem)
{
    if (make_directory(container->path, 0700) < 0)
        return fail(problem, errno, "cannot make %s: %s", container->path, strerror(errno));
    return mount_layers(container, table, problem) && mount_writable(container, table, problem) &&
           mount_overlay(container, problem) && write_files(container, problem) &&
           make_cgroup(container, request->limits, problem) && set_sysctls(request->sysctls, problem);
}

bool container_create(struct slice arguments, struct problem *problem)
{
    struct container *container = calloc(1, sizeof(*container));
    struct create_request request = {0};
    if (!container)
        return fail(problem, ENOMEM, "no memory for a container");
    container->cgroup = container->main_pidfd = container->root = container->devpts = -1;
    container->cgroup_events.fd = container->memory_events.fd = -1;
    struct disk_table table = {0};
    struct problem ignored;
    bool good = decode_create(arguments, &request, container, problem);
    if (good && container_find(container->id, &ignored))
        good = fail(problem, EEXIST, "container %s exists", container->id);
    if (!good) {
        arena_free(&container->arena);
        free(container);
        return false;
    }
    disks_scan(&table);
    good = disks_are_there(container, &table, problem);
    if (good && !build(container, &request, &table, problem)) {
        if (problem->error == ENXIO)
            problem->error = EIO; /* only a missing disk is worth waiting for */
        good = false;
    }
    disks_free(&table);
    if (!good) {
        container_free(container);
        return false;
    }
    container->next = containers;
    containers = container;
    return true;
}

static void unmount_below(const struct container *container, const char *name)
{
    char path[PATH_LIMIT];
    snprintf(path, sizeof(path), "%s/%s", container->path, name);
    if (!unmount(path) && errno != EINVAL && errno != ENOENT)
        log_line("cannot unmount %s: %s", path, strerror(errno));
    rmdir(path);
}

void container_unmount(struct container *container)
{
    char path[PATH_LIMIT], name[32];
    snprintf(path, sizeof(path), "%s/writable", container->path);
    /* Another namespace may still be on its way down and hold the file system; its data is safe before that. */
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0)
        syncfs(fd);
    close_fd(&fd);
    unmount_below(container, "root");
    unmount_below(container, "writable");
    for (size_t i = 0; container->layers && container->layers[i]; i++) {
        snprintf(name, sizeof(name), "layers/%zu", i);
        unmount_below(container, name);
    }
    for (size_t i = 0; i < container->file_count; i++) {
        snprintf(path, sizeof(path), "%s/files/%zu", container->path, i);
        unlink(path);
    }
    static const char *const directories[] = {"/layers/empty", "/layers", "/files", ""};
    for (size_t i = 0; i < COUNT_OF(directories); i++) {
        snprintf(path, sizeof(path), "%s%s", container->path, directories[i]);
        rmdir(path);
    }
}

static void finish_removal(struct container *container)
{
    const struct call call = container->removal;
    for (struct container **at = &containers; *at; at = &(*at)->next) {
        if (*at == container) {
            *at = container->next;
            break;
        }
    }
    processes_forget_container(container);
    container_free(container);
    reply_done(&call);
}

void container_check_removal(struct container *container)
{
    bool populated, frozen;
    /* Archives are outside the control group, but hold the container's mounts as well; and a control group can be empty
       before its last process is reaped, while a removed container has no process that runs. */
    if (container->removing && !processes_end_all(container) &&
        cgroup_state(container->cgroup, &populated, &frozen) && !populated)
        finish_removal(container);
}

bool container_remove(struct container *container, const struct call *call, struct problem *problem)
{
    if (container->removing && port_is_current(&container->removal))
        return fail(problem, EALREADY, "container %s is being removed", container->id);
    container->removal = *call; /* after a reconnection, the place of a call that nobody waits for */
    container->removing = true;
    cgroup_kill(container->cgroup);
    container_check_removal(container);
    return true;
}

bool container_freeze(struct container *container, bool frozen, const struct call *call, struct problem *problem)
{
    bool populated, now;
    if (container->freezing.connection && port_is_current(&container->freezing))
        return fail(problem, EBUSY, "container %s is being paused or resumed", container->id);
    if (container->removing || !cgroup_freeze(container->cgroup, frozen))
        return fail(problem, errno ? errno : EBUSY, "cannot %s the container", frozen ? "pause" : "resume");
    container->paused = frozen;
    container->freezing = *call;
    if (cgroup_state(container->cgroup, &populated, &now) && (now == frozen || !populated)) {
        container->freezing = (struct call){0};
        reply_done(call);
    }
    return true;
}

static void cgroup_changed(struct watch *watch, uint32_t events)
{
    (void)events;
    struct container *container = CONTAINER_OF(watch, struct container, cgroup_events);
    bool populated, frozen;
    if (!cgroup_state(container->cgroup, &populated, &frozen))
        return;
    if (container->freezing.connection && (frozen == container->paused || !populated)) {
        const struct call call = container->freezing;
        container->freezing = (struct call){0};
        reply_done(&call);
    }
    container_check_removal(container);
}

static void oom_body(struct buffer *out, void *context)
{
    mp_put_map(out, 2);
    mp_key_str(out, "event", "oom");
    mp_key_str(out, "container", ((struct container *)context)->id);
}

static void memory_changed(struct watch *watch, uint32_t events)
{
    (void)events;
    struct container *container = CONTAINER_OF(watch, struct container, memory_events);
    uint64_t kills = cgroup_oom_kills(container->cgroup);
    if (kills > container->oom_kills)
        send_event(oom_body, container);
    container->oom_kills = kills;
}

void container_main_gone(struct container *container)
{
    /* With a PID namespace of its own the rest died with it; in a shared one it would live on. */
    cgroup_kill(container->cgroup);
    container->main = NULL;
    container->paused = false;
    cgroup_freeze(container->cgroup, false);
    close_fd(&container->main_pidfd);
    close_fd(&container->root);
    close_fd(&container->devpts);
}

int container_root(const struct container *container)
{
    char path[PATH_LIMIT];
    if (container->root >= 0)
        return fcntl(container->root, F_DUPFD_CLOEXEC, 3);
    snprintf(path, sizeof(path), "%s/root", container->path);
    return open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
}
