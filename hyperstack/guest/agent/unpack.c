/* A tar into a directory of the container. Names never leave the container's root: parents are resolved inside it, and
 * the last component is never followed. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "archive.h"
#include "bulk.h"
#include "mounts.h"
#include "tar.h"

#define DIRECTORIES_MAX 65536 /* whose times are set at the end; further ones keep the present */
#define REMOVE_DEPTH 512
#define WRITE_SIZE (512 * 1024)

struct late_time {
    struct late_time *next;
    struct timespec time;
    char path[];
};

struct unpacker {
    const struct unpack_options *options;
    struct tar_entry entry;
    char path[PATH_LIMIT];        /* the entry's, cleaned, below `options.path` */
    char parent_path[PATH_LIMIT]; /* of `parent`: most entries lie beside the one before */
    int parent;
    struct late_time *late;
    size_t late_count;
    struct problem *problem;
};

static ssize_t read_input(void *context, uint8_t *data, size_t size)
{
    size_t have = 0;
    while (have < size) {
        ssize_t got = bulk_read(*(int *)context, data + have, size - have);
        if (got == 0)
            break;
        if (got < 0 && errno != EINTR)
            return -1;
        have += got > 0 ? (size_t)got : 0;
    }
    return (ssize_t)have;
}

/* Without empty components and dots. A name that climbs is an attack or an accident: both are refused. */
static bool clean(const char *path, char into[static PATH_LIMIT], struct problem *problem)
{
    size_t used = 0;
    for (const char *at = path; *at;) {
        size_t size = strcspn(at, "/");
        if (size == 2 && at[0] == '.' && at[1] == '.')
            return fail(problem, EPERM, "%.200s leads out of the archive", path);
        if (size > 0 && !(size == 1 && *at == '.')) {
            if (used)
                into[used++] = '/';
            memcpy(into + used, at, size); /* never longer than `path` */
            used += size;
        }
        at += size + (at[size] == '/');
    }
    into[used] = 0;
    return true;
}

static bool full_path(const struct unpacker *unpacker, const char *path, char into[static PATH_LIMIT])
{
    int size = snprintf(into, PATH_LIMIT, "%s/%s", unpacker->options->path, path);
    return size < PATH_LIMIT || fail(unpacker->problem, ENAMETOOLONG, "%.200s...: the name is too long", path);
}

/* The directory that a cleaned path lies in, made where it is missing; the last component in `*name`. */
static int open_parent(const struct unpacker *unpacker, const char *path, const char **name)
{
    char parent[PATH_LIMIT], full[PATH_LIMIT];
    const char *slash = strrchr(path, '/');
    size_t size = slash ? (size_t)(slash - path) : 0;
    memcpy(parent, path, size);
    parent[size] = 0;
    *name = slash ? slash + 1 : path;
    if (!full_path(unpacker, parent, full))
        return -1;
    int fd = root_make_directory(unpacker->options->root, full);
    if (fd < 0)
        fail(unpacker->problem, errno, "%.200s: %s", parent, strerror(errno));
    return fd;
}

static const char *enter_parent(struct unpacker *unpacker)
{
    const char *slash = strrchr(unpacker->path, '/');
    size_t size = slash ? (size_t)(slash - unpacker->path) : 0;
    const char *name = slash ? slash + 1 : unpacker->path;
    if (unpacker->parent >= 0 && strlen(unpacker->parent_path) == size &&
        memcmp(unpacker->parent_path, unpacker->path, size) == 0)
        return name;
    close_fd(&unpacker->parent);
    memcpy(unpacker->parent_path, unpacker->path, size);
    unpacker->parent_path[size] = 0;
    unpacker->parent = open_parent(unpacker, unpacker->path, &name);
    return unpacker->parent >= 0 ? name : NULL;
}

static bool remove_tree(int directory, const char *name, unsigned depth)
{
    if (unlinkat(directory, name, 0) == 0 || errno == ENOENT)
        return true;
    if (errno != EISDIR && errno != EPERM)
        return false;
    int fd = openat(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *listing = fd >= 0 ? fdopendir(fd) : NULL;
    if (!listing || depth == 0) {
        close_fd(&fd);
        return false;
    }
    bool good = true;
    for (struct dirent *entry; good && (entry = readdir(listing));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            good = remove_tree(fd, entry->d_name, depth - 1);
    closedir(listing);
    return good && unlinkat(directory, name, AT_REMOVEDIR) == 0;
}

/* Makes way for the entry; `*keep` where a directory is to become what it is. */
static bool make_way(struct unpacker *unpacker, const char *name, bool *keep)
{
    struct stat status;
    bool directory = unpacker->entry.type == TAR_DIRECTORY;
    *keep = false;
    if (fstatat(unpacker->parent, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT || fail(unpacker->problem, errno, "%.200s: %s", unpacker->path, strerror(errno));
    if (S_ISDIR(status.st_mode) && directory) {
        *keep = true;
        return true;
    }
    if (unpacker->options->no_overwrite_dir_non_dir && S_ISDIR(status.st_mode) != directory)
        return fail(unpacker->problem, EEXIST, "cannot overwrite %sdirectory %.180s with %sdirectory",
                    directory ? "non-" : "", unpacker->path, directory ? "" : "non-");
    return remove_tree(unpacker->parent, name, REMOVE_DEPTH) ||
           fail(unpacker->problem, errno, "cannot replace %.200s: %s", unpacker->path, strerror(errno));
}

static bool entry_failed(const struct unpacker *unpacker)
{
    return fail(unpacker->problem, errno, "%.200s: %s", unpacker->path, strerror(errno));
}

static struct timespec entry_time(const struct tar_entry *entry)
{
    return (struct timespec){entry->mtime_s, entry->mtime_ns};
}

static void entry_owner(const struct unpacker *unpacker, uid_t *uid, gid_t *gid)
{
    const struct unpack_options *options = unpacker->options;
    *uid = options->owned ? options->uid : unpacker->entry.uid;
    *gid = options->owned ? options->gid : unpacker->entry.gid;
}

/* In this order: changing the owner clears setuid bits and capabilities. */
static bool finish_open(struct unpacker *unpacker, int fd)
{
    const struct tar_entry *entry = &unpacker->entry;
    const struct timespec times[2] = {entry_time(entry), entry_time(entry)};
    uid_t uid;
    gid_t gid;
    entry_owner(unpacker, &uid, &gid);
    if (fchown(fd, uid, gid) < 0)
        return entry_failed(unpacker);
    for (size_t i = 0; i < entry->xattr_count; i++) {
        const struct tar_xattr *xattr = &entry->xattrs[i];
        /* A file system without such attributes loses them, as it does with other tools. */
        if (fsetxattr(fd, xattr->name, xattr->value.data, xattr->value.size, 0) < 0 && errno != ENOTSUP)
            return entry_failed(unpacker);
    }
    return (fchmod(fd, entry->mode) == 0 && futimens(fd, times) == 0) || entry_failed(unpacker);
}

/* As much of the entry's data as there is room for; -1 with `problem`. */
static ssize_t fill(struct tar_reader *reader, uint8_t *data, size_t size, struct problem *problem)
{
    size_t have = 0;
    for (ssize_t got; have < size && (got = tar_data(reader, data + have, size - have, problem)) != 0;) {
        if (got < 0)
            return -1;
        have += (size_t)got;
    }
    return (ssize_t)have;
}

static bool unpack_file(struct unpacker *unpacker, struct tar_reader *reader, const char *name)
{
    static _Alignas(DIRECT_ALIGN) uint8_t data[WRITE_SIZE];
    int fd = openat(unpacker->parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return entry_failed(unpacker);
    bool good = true, direct = unpacker->entry.size >= DIRECT_LEAST && direct_io(fd, true);
    for (ssize_t got; good && (got = fill(reader, data, sizeof(data), unpacker->problem)) != 0;) {
        good = got > 0;
        if (direct && got % DIRECT_ALIGN)
            direct = !direct_io(fd, false); /* the rest of a block */
        for (ssize_t done = 0; good && done < got;) {
            ssize_t put = write(fd, data + done, (size_t)(got - done));
            if (put < 0 && errno == EINVAL && direct && direct_io(fd, false)) {
                direct = false; /* a file system that says so late */
                continue;
            }
            if (put < 0)
                good = entry_failed(unpacker);
            else
                done += put;
        }
    }
    good = good && finish_open(unpacker, fd);
    close(fd);
    return good;
}

static void remember_time(struct unpacker *unpacker)
{
    size_t size = strlen(unpacker->path) + 1;
    struct late_time *late = unpacker->late_count < DIRECTORIES_MAX ? malloc(sizeof(*late) + size) : NULL;
    if (!late)
        return;
    late->time = entry_time(&unpacker->entry);
    memcpy(late->path, unpacker->path, size);
    late->next = unpacker->late;
    unpacker->late = late;
    unpacker->late_count++;
}

static bool unpack_directory(struct unpacker *unpacker, const char *name, bool exists)
{
    if (!exists && mkdirat(unpacker->parent, name, 0700) < 0)
        return entry_failed(unpacker);
    int fd = openat(unpacker->parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    bool good = fd >= 0 ? finish_open(unpacker, fd) : entry_failed(unpacker);
    close_fd(&fd);
    remember_time(unpacker);
    return good;
}

static bool unpack_link(struct unpacker *unpacker, const char *name)
{
    char target[PATH_LIMIT];
    const char *target_name;
    if (!clean(unpacker->entry.link, target, unpacker->problem))
        return false;
    int directory = open_parent(unpacker, target, &target_name);
    bool good = directory >= 0 && (linkat(directory, target_name, unpacker->parent, name, 0) == 0 ||
                                   entry_failed(unpacker));
    close_fd(&directory);
    return good;
}

static bool unpack_special(struct unpacker *unpacker, const char *name)
{
    const struct tar_entry *entry = &unpacker->entry;
    const struct timespec times[2] = {entry_time(entry), entry_time(entry)};
    uid_t uid;
    gid_t gid;
    entry_owner(unpacker, &uid, &gid);
    int made;
    if (entry->type == TAR_SYMLINK) {
        made = symlinkat(entry->link, unpacker->parent, name);
    } else {
        mode_t type = entry->type == TAR_FIFO ? S_IFIFO : entry->type == TAR_CHARACTER ? S_IFCHR : S_IFBLK;
        made = mknodat(unpacker->parent, name, type | 0600, makedev(entry->major, entry->minor));
    }
    if (made < 0 || fchownat(unpacker->parent, name, uid, gid, AT_SYMLINK_NOFOLLOW) < 0 ||
        (entry->type != TAR_SYMLINK && fchmodat(unpacker->parent, name, entry->mode, 0) < 0) ||
        utimensat(unpacker->parent, name, times, AT_SYMLINK_NOFOLLOW) < 0)
        return entry_failed(unpacker);
    return true;
}

static bool unpack_entry(struct unpacker *unpacker, struct tar_reader *reader)
{
    bool keep;
    if (!clean(unpacker->entry.path, unpacker->path, unpacker->problem))
        return false;
    if (!*unpacker->path)
        return true; /* the directory itself stays as it is */
    const char *name = enter_parent(unpacker);
    if (!name || !make_way(unpacker, name, &keep))
        return false;
    switch (unpacker->entry.type) {
    case TAR_FILE:
        return unpack_file(unpacker, reader, name);
    case TAR_DIRECTORY:
        return unpack_directory(unpacker, name, keep);
    case TAR_LINK:
        return unpack_link(unpacker, name);
    default:
        return unpack_special(unpacker, name);
    }
}

/* Last, as every entry within a directory changes its time. */
static void set_late_times(struct unpacker *unpacker)
{
    char full[PATH_LIMIT];
    for (struct late_time *late = unpacker->late; late; late = late->next) {
        const struct timespec times[2] = {late->time, late->time};
        int fd = full_path(unpacker, late->path, full)
                     ? root_open(unpacker->options->root, full, O_RDONLY | O_DIRECTORY)
                     : -1;
        if (fd >= 0)
            futimens(fd, times);
        close_fd(&fd);
    }
}

bool archive_write(const struct unpack_options *options, int in, struct problem *problem)
{
    struct tar_reader reader = {.source = read_input, .context = &in};
    struct unpacker *unpacker = calloc(1, sizeof(*unpacker));
    int top = root_open(options->root, options->path, O_PATH | O_DIRECTORY);
    if (top < 0 || !unpacker)
        return fail(problem, errno, "%.200s: %s", options->path, strerror(errno));
    close(top);
    unpacker->options = options;
    unpacker->problem = problem;
    unpacker->parent = -1;
    umask(0);
    int got;
    while ((got = tar_next(&reader, &unpacker->entry, problem)) > 0)
        if (!unpack_entry(unpacker, &reader))
            return false;
    tar_close(&reader);
    if (got < 0)
        return false;
    set_late_times(unpacker);
    /* What follows the end, the padding of a tape's block, is still the host's to send. */
    uint8_t rest[4096];
    while (read_input(&in, rest, sizeof(rest)) > 0)
        continue;
    return true;
}

bool archive_copy(int from, int to, struct problem *problem)
{
    const struct unpack_options options = {.root = to, .path = "."};
    struct stat status;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return fail(problem, errno, "cannot make a pipe: %s", strerror(errno));
    pid_t packer = fork();
    if (packer == 0) {
        struct problem ignored;
        close(ends[0]);
        const struct pack_job job = {.directory = from, .name = ".", .as = "."};
        _exit(pack(&job, ends[1], &ignored) ? 0 : 1);
    }
    close(ends[1]);
    bool good = packer > 0 ? archive_write(&options, ends[0], problem) : fail(problem, errno, "cannot fork");
    close(ends[0]);
    int ended = 0;
    if (packer > 0 && waitpid(packer, &ended, 0) > 0 && ended != 0 && good)
        good = fail(problem, EIO, "cannot read what is to be copied into a volume");
    if (good && (fstat(from, &status) < 0 || fchownat(to, ".", status.st_uid, status.st_gid, 0) < 0 ||
                 fchmodat(to, ".", status.st_mode & 07777, 0) < 0))
        good = fail(problem, errno, "cannot give a volume the image's owner: %s", strerror(errno));
    return good;
}
