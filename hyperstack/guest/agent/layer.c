#include "layer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "archive.h"

#define FLUSH_SIZE 65536
#define DEPTH_MAX 512
#define POINTS_MAX 80 /* the files of a container, and some directories */

bool layer_form_of(const char *name, enum layer_form *form)
{
    static const char *const names[] = {"tar", "changes", "root"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        if (strcmp(name, names[i]) == 0) {
            *form = (enum layer_form)i;
            return true;
        }
    }
    return false;
}

bool layer_is_whiteout(const struct stat *status)
{
    return S_ISCHR(status->st_mode) && status->st_rdev == 0;
}

bool layer_is_opaque(int directory)
{
    char value[2];
    return fgetxattr(directory, "trusted.overlay.opaque", value, sizeof(value)) == 1 && value[0] == 'y';
}

bool layer_is_plain(int directory, const char *path, struct problem *problem)
{
    /* Of kernels that redirect directories by default: what they renamed is not in the upper directory. */
    return fgetxattr(directory, "trusted.overlay.redirect", NULL, 0) < 0 ||
           fail(problem, EOPNOTSUPP, "%.200s was renamed by a kernel with redirect_dir, which no layer can tell", path);
}

static bool is_empty(int directory, const char *name)
{
    int fd = openat(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *listing = fd >= 0 ? fdopendir(fd) : NULL;
    bool empty = listing != NULL;
    for (struct dirent *entry; empty && (entry = readdir(listing));)
        empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
    if (listing)
        closedir(listing);
    else
        close_fd(&fd);
    return empty;
}

bool layer_is_mount_point(char *const *points, const char *path, int directory, const char *name,
                          const struct stat *status)
{
    for (; points && *points; points++)
        if (strcmp(*points, path) == 0)
            return S_ISDIR(status->st_mode) ? is_empty(directory, name)
                                            : S_ISREG(status->st_mode) && status->st_size == 0;
    return false;
}

/* A list of changes on its way out. */
struct lister {
    int out;
    char *const *mount_points;
    struct buffer buffer;
    uint64_t count;
    char path[PATH_LIMIT];
    struct problem *problem;
};

static bool flush(struct lister *lister)
{
    return archive_flush(&lister->buffer, lister->out, "the list", lister->problem);
}

/* The newest change always stays in the buffer, so that it can be taken back. */
static bool tell(struct lister *lister, char kind)
{
    bool good = lister->buffer.size < FLUSH_SIZE || flush(lister);
    buffer_add(&lister->buffer, &kind, 1);
    buffer_add(&lister->buffer, lister->path, strlen(lister->path) + 1);
    lister->count++;
    return good;
}

static bool tell_child(struct lister *lister, const char *name, char kind)
{
    size_t length = strlen(lister->path);
    if (length + strlen(name) + 2 > sizeof(lister->path))
        return fail(lister->problem, ENAMETOOLONG, "%.200s... is nested too deep", lister->path);
    snprintf(lister->path + length, sizeof(lister->path) - length, "/%s", name);
    bool good = tell(lister, kind);
    lister->path[length] = 0;
    return good;
}

static DIR *open_listing(int directory, const char *name)
{
    int fd = openat(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *listing = fd >= 0 ? fdopendir(fd) : NULL;
    if (!listing)
        close_fd(&fd);
    return listing;
}

/* What an opaque directory hides and does not have itself. */
static bool list_hidden(struct lister *lister, int upper, int lower)
{
    DIR *listing = open_listing(lower, ".");
    bool good = true;
    for (struct dirent *entry; listing && good && (entry = readdir(listing));) {
        struct stat status;
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
            fstatat(upper, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
            good = tell_child(lister, entry->d_name, 'D');
    }
    if (listing)
        closedir(listing);
    return good;
}

static bool list_directory(struct lister *lister, DIR *upper, int lower, unsigned depth);

/* A directory that is there only since something in it was changed is told with that alone. */
static bool list_inside(struct lister *lister, int directory, const char *name, const struct stat *status,
                        int lower_parent, const struct stat *below, unsigned depth)
{
    bool was_directory = below && S_ISDIR(below->st_mode);
    int lower = was_directory ? openat(lower_parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
    DIR *upper = open_listing(directory, name);
    uint64_t before = lister->count;
    bool good = upper ? depth > 0 && layer_is_plain(dirfd(upper), lister->path, lister->problem) &&
                            list_directory(lister, upper, lower, depth - 1)
                      : errno == ENOENT;
    if (!good && !lister->problem->error)
        fail(lister->problem, ELOOP, "%.200s cannot be read, or is nested too deep", lister->path);
    if (good && lister->count == before && was_directory && status->st_mode == below->st_mode &&
        status->st_uid == below->st_uid && status->st_gid == below->st_gid) {
        lister->buffer.size -= strlen(lister->path) + 2;
        lister->count--;
    }
    if (upper)
        closedir(upper);
    close_fd(&lower);
    return good;
}

static bool list_node(struct lister *lister, int directory, const char *name, int lower, unsigned depth)
{
    struct stat status, below;
    if (fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT || fail(lister->problem, errno, "%.200s: %s", lister->path, strerror(errno));
    bool was = lower >= 0 && fstatat(lower, name, &below, AT_SYMLINK_NOFOLLOW) == 0;
    if (layer_is_whiteout(&status))
        return !was || tell(lister, 'D');
    /* The paths of mount points have no leading slash. */
    if (layer_is_mount_point(lister->mount_points, lister->path + 1, directory, name, &status))
        return true;
    bool good = tell(lister, was ? 'C' : 'A');
    if (good && S_ISDIR(status.st_mode))
        good = list_inside(lister, directory, name, &status, lower, was ? &below : NULL, depth);
    return good;
}

static bool list_directory(struct lister *lister, DIR *upper, int lower, unsigned depth)
{
    size_t length = strlen(lister->path);
    bool good = lower < 0 || !layer_is_opaque(dirfd(upper)) || list_hidden(lister, dirfd(upper), lower);
    for (struct dirent *entry; good && (entry = readdir(upper));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (length + strlen(entry->d_name) + 2 > sizeof(lister->path)) {
            good = fail(lister->problem, ENAMETOOLONG, "%.200s... is nested too deep", lister->path);
        } else {
            snprintf(lister->path + length, sizeof(lister->path) - length, "/%s", entry->d_name);
            good = list_node(lister, dirfd(upper), entry->d_name, lower, depth);
        }
        lister->path[length] = 0;
    }
    return good;
}

/* The image's layers over each other, as they are below the writable one; -1 with `problem`. */
static int open_lower(const struct container *container, struct problem *problem)
{
    char path[PATH_LIMIT], options[PATH_LIMIT];
    size_t count = 0, used;
    while (container->layers[count])
        count++;
    used = (size_t)snprintf(options, sizeof(options), "lowerdir=");
    for (size_t i = count; i-- > 0;)
        used += (size_t)snprintf(options + used, sizeof(options) - used, "%zu:", i);
    snprintf(options + used, sizeof(options) - used, "empty");
    snprintf(path, sizeof(path), "%s/layers", container->path);
    /* Nobody else sees this mount: it ends with the child's mount namespace. */
    bool good = chdir(path) == 0 && (count == 0 || mount("overlay", RUN_PATH "/empty", "overlay", MS_RDONLY, options) == 0);
    int fd = good ? open(count ? RUN_PATH "/empty" : "empty", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd < 0)
        fail(problem, errno, "cannot look at the image's layers: %s", strerror(errno));
    return fd;
}

static bool list_changes(const struct container *container, char *const *points, int out, struct problem *problem)
{
    static struct lister lister; /* a path is too long for the stack of a small machine */
    char path[PATH_LIMIT];
    lister = (struct lister){.out = out, .mount_points = points, .problem = problem,
                             .buffer = {.limit = FLUSH_SIZE + 2 * PATH_LIMIT}};
    snprintf(path, sizeof(path), "%s/writable/upper", container->path);
    int lower = open_lower(container, problem);
    DIR *upper = lower >= 0 ? open_listing(AT_FDCWD, path) : NULL;
    if (!upper)
        return lower >= 0 ? fail(problem, errno, "cannot open the writable layer: %s", strerror(errno)) : false;
    return list_directory(&lister, upper, lower, DEPTH_MAX) && flush(&lister);
}

static bool pack_below(const struct container *container, const char *name, enum pack_view view, char *const *points,
                       int out, struct problem *problem)
{
    char path[PATH_LIMIT];
    snprintf(path, sizeof(path), "%s/%s", container->path, name);
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return fail(problem, errno, "cannot open %s: %s", name, strerror(errno));
    const struct pack_job job = {.directory = directory, .name = ".", .as = ".", .view = view, .mount_points = points};
    return pack(&job, out, problem);
}

bool layer_read(const struct container *container, enum layer_form form, int out, struct problem *problem)
{
    char *points[POINTS_MAX + 1] = {"dev", "proc", "sys"};
    for (size_t i = 0, used = 3; i < container->file_count && used < POINTS_MAX; i++)
        points[used++] = container->files[i].path + strspn(container->files[i].path, "/");
    switch (form) {
    case LAYER_TAR:
        return pack_below(container, "writable/upper", PACK_LAYER, points, out, problem);
    case LAYER_CHANGES:
        return list_changes(container, points, out, problem);
    case LAYER_ROOT:
        return pack_below(container, "root", PACK_TREE, NULL, out, problem);
    }
    return false;
}
