/* A path of the container as a tar. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "archive.h"
#include "bulk.h"
#include "layer.h"
#include "mounts.h"
#include "tar.h"

#define FLUSH_SIZE 65536
#define READ_SIZE (512 * 1024)
#define DEPTH_MAX 512    /* directories within directories: each holds a descriptor open */
#define LINKS_MAX 65536  /* files with several names that are remembered; further ones are packed whole */
#define LINK_BUCKETS 4096
#define XATTRS_SIZE 65536

struct seen {
    struct seen *next;
    dev_t device;
    ino_t inode;
    char path[];
};

struct packer {
    int out;
    dev_t device; /* of the directory that is packed */
    struct buffer buffer;
    struct tar_entry entry;
    char path[PATH_LIMIT];
    struct seen *seen[LINK_BUCKETS];
    size_t seen_count;
    uint8_t xattrs[XATTRS_SIZE];
    char names[XATTRS_SIZE];
    enum pack_view view;
    char *const *mount_points;
    struct problem *problem;
};

static bool put_all(int fd, const uint8_t *data, size_t size, const char *what, struct problem *problem)
{
    for (size_t done = 0; done < size;) {
        ssize_t put = bulk_write(fd, data + done, size - done);
        if (put < 0 && errno != EINTR)
            return fail(problem, errno, "cannot write %s: %s", what, strerror(errno));
        done += put > 0 ? (size_t)put : 0;
    }
    return true;
}

bool archive_flush(struct buffer *buffer, int fd, const char *what, struct problem *problem)
{
    if (!put_all(fd, buffer->data, buffer->size, what, problem))
        return false;
    buffer->size = 0;
    return !buffer->failed || fail(problem, ENOMEM, "no memory for %s", what);
}

bool direct_io(int fd, bool on)
{
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && fcntl(fd, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT) == 0;
}

static bool flush(struct packer *packer)
{
    return archive_flush(&packer->buffer, packer->out, "the archive", packer->problem);
}

/* The path of a file that the archive holds already under another name; NULL, and remembered, where it does not. */
static const char *seen_before(struct packer *packer, const struct stat *status)
{
    struct seen **bucket = &packer->seen[(status->st_ino ^ status->st_dev) % LINK_BUCKETS];
    for (struct seen *seen = *bucket; seen; seen = seen->next)
        if (seen->inode == status->st_ino && seen->device == status->st_dev)
            return seen->path;
    size_t size = strlen(packer->path) + 1;
    struct seen *seen = packer->seen_count < LINKS_MAX ? malloc(sizeof(*seen) + size) : NULL;
    if (seen) {
        seen->device = status->st_dev;
        seen->inode = status->st_ino;
        memcpy(seen->path, packer->path, size);
        seen->next = *bucket;
        *bucket = seen;
        packer->seen_count++;
    }
    return NULL;
}

static bool is_packed_xattr(const char *name)
{
    return strcmp(name, "security.capability") == 0 || strncmp(name, "user.", 5) == 0;
}

static void add_xattrs(struct packer *packer, int fd)
{
    struct tar_entry *entry = &packer->entry;
    ssize_t size = flistxattr(fd, packer->names, sizeof(packer->names));
    size_t used = 0;
    for (const char *name = packer->names; size > 0 && name < packer->names + size; name += strlen(name) + 1) {
        if (!is_packed_xattr(name) || entry->xattr_count == TAR_XATTRS_MAX)
            continue;
        ssize_t got = fgetxattr(fd, name, packer->xattrs + used, sizeof(packer->xattrs) - used);
        if (got < 0)
            continue; /* it went meanwhile, or there is no room for it */
        entry->xattrs[entry->xattr_count++] =
            (struct tar_xattr){name, {packer->xattrs + used, (uint32_t)got}};
        used += (size_t)got;
    }
}

static void set_entry(struct packer *packer, const struct stat *status, enum tar_type type)
{
    struct tar_entry *entry = &packer->entry;
    snprintf(entry->path, sizeof(entry->path), "%s%s", packer->path,
             type == TAR_DIRECTORY && strlen(packer->path) + 1 < sizeof(entry->path) ? "/" : "");
    entry->link[0] = 0;
    entry->type = type;
    entry->mode = status->st_mode & 07777;
    entry->uid = status->st_uid;
    entry->gid = status->st_gid;
    entry->major = major(status->st_rdev);
    entry->minor = minor(status->st_rdev);
    entry->size = type == TAR_FILE ? (uint64_t)status->st_size : 0;
    entry->mtime_s = status->st_mtim.tv_sec;
    entry->xattr_count = 0;
}

/* All of a large file that is left, or up to where it is no more to be had so; `*left` is what it did not come to. */
static bool pack_direct(struct packer *packer, int fd, uint64_t *left)
{
    static _Alignas(DIRECT_ALIGN) uint8_t data[READ_SIZE];
    if (!flush(packer) || !direct_io(fd, true))
        return packer->problem->error == 0;
    bool good = true;
    while (good && *left) {
        ssize_t got = read(fd, data, sizeof(data));
        if (got <= 0 && !(got < 0 && errno == EINTR))
            break; /* shorter than it was, or it is to be read in the common way: that tells */
        if ((uint64_t)got > *left)
            got = (ssize_t)*left;
        *left -= got > 0 ? (uint64_t)got : 0;
        good = got < 0 || put_all(packer->out, data, (size_t)got, "the archive", packer->problem);
    }
    return direct_io(fd, false) && good;
}

/* Exactly as many bytes as the header says, whatever happens to the file meanwhile. */
static bool pack_data(struct packer *packer, int fd, uint64_t size)
{
    static const uint8_t zeros[TAR_BLOCK];
    uint64_t left = size;
    if (size >= DIRECT_LEAST && !pack_direct(packer, fd, &left))
        return false;
    while (left) {
        size_t part = left < FLUSH_SIZE ? (size_t)left : FLUSH_SIZE;
        uint8_t *at = buffer_grow(&packer->buffer, part);
        if (!at)
            return flush(packer);
        ssize_t got = read(fd, at, part);
        if (got < 0 && errno != EINTR)
            return fail(packer->problem, errno, "cannot read %.200s: %s", packer->path, strerror(errno));
        if (got == 0) {
            memset(at, 0, part);
            got = (ssize_t)part;
        }
        packer->buffer.size -= part - (got > 0 ? (size_t)got : 0);
        left -= got > 0 ? (uint64_t)got : 0;
        if (packer->buffer.size >= FLUSH_SIZE && !flush(packer))
            return false;
    }
    buffer_add(&packer->buffer, zeros, (size_t)(-size & (TAR_BLOCK - 1)));
    return true;
}

static bool pack_file(struct packer *packer, int directory, const char *name, const struct stat *status)
{
    struct tar_entry *entry = &packer->entry;
    const char *other = status->st_nlink > 1 ? seen_before(packer, status) : NULL;
    set_entry(packer, status, other ? TAR_LINK : TAR_FILE);
    if (other) {
        snprintf(entry->link, sizeof(entry->link), "%s", other);
        tar_put_header(&packer->buffer, entry);
        return true;
    }
    int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT || fail(packer->problem, errno, "cannot read %.200s: %s", packer->path, strerror(errno));
    add_xattrs(packer, fd);
    tar_put_header(&packer->buffer, entry);
    bool good = pack_data(packer, fd, entry->size);
    close(fd);
    return good;
}

/* A name in the directory that is packed, for one that is in it. */
static bool extend_path(struct packer *packer, size_t length, const char *name)
{
    if (packer->view != PACK_PATH && strcmp(packer->path, ".") == 0)
        length = 0; /* names in layers and exports begin at the root */
    if (length + strlen(name) + 3 > sizeof(packer->path))
        return false;
    snprintf(packer->path + length, sizeof(packer->path) - length, "%s%s", length ? "/" : "", name);
    return true;
}

/* An empty file as images have it in place of what a layer takes away: `prefix` and `name` beside it. */
static void add_marker(struct packer *packer, const char *prefix, const char *name)
{
    static const struct stat marker = {.st_mode = S_IFREG};
    char *slash = strrchr(packer->path, '/');
    size_t directory = *name && slash ? (size_t)(slash + 1 - packer->path) : 0;
    set_entry(packer, &marker, TAR_FILE);
    int size = *name ? snprintf(packer->entry.path, sizeof(packer->entry.path), "%.*s%s%s", (int)directory,
                                packer->path, prefix, name)
                     : snprintf(packer->entry.path, sizeof(packer->entry.path), "%s/%s", packer->path, prefix);
    if (size < 0 || (size_t)size >= sizeof(packer->entry.path))
        fail(packer->problem, ENAMETOOLONG, "%.200s... is nested too deep", packer->path);
    else
        tar_put_header(&packer->buffer, &packer->entry);
}

/* Volumes belong to a container's files; /proc, /sys, /dev and tmpfs mounts do not, unless asked for by their name. */
static bool belongs(struct packer *packer, int fd, const struct stat *status, unsigned depth)
{
    struct statfs system;
    if (depth == DEPTH_MAX)
        packer->device = status->st_dev;
    return status->st_dev == packer->device || (fstatfs(fd, &system) == 0 && system.f_type == EXT4_SUPER_MAGIC);
}

static bool pack_node(struct packer *packer, int directory, const char *name, unsigned depth);

static bool pack_directory(struct packer *packer, int parent, const char *name, const struct stat *status,
                           unsigned depth)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *directory = fd >= 0 ? fdopendir(fd) : NULL;
    if (!directory) {
        close_fd(&fd);
        return errno == ENOENT || fail(packer->problem, errno, "cannot read %.200s: %s", packer->path, strerror(errno));
    }
    bool good = true;
    if (packer->view != PACK_TREE || strcmp(packer->path, ".") != 0) {
        set_entry(packer, status, TAR_DIRECTORY);
        add_xattrs(packer, fd);
        tar_put_header(&packer->buffer, &packer->entry);
    }
    if (packer->view == PACK_LAYER) {
        good = layer_is_plain(fd, packer->path, packer->problem);
        if (layer_is_opaque(fd))
            add_marker(packer, ".wh..wh..opq", "");
        good = good && packer->problem->error == 0;
    }
    size_t length = strlen(packer->path);
    bool descend = belongs(packer, fd, status, depth);
    for (struct dirent *entry; descend && good && (entry = readdir(directory));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        char first = packer->path[0]; /* of a path that is replaced and not extended */
        good = depth > 0 && extend_path(packer, length, entry->d_name)
                   ? pack_node(packer, fd, entry->d_name, depth - 1)
                   : fail(packer->problem, ENAMETOOLONG, "%.200s... is nested too deep", packer->path);
        packer->path[0] = first;
        packer->path[length] = 0;
    }
    closedir(directory);
    return good;
}

static bool pack_node(struct packer *packer, int directory, const char *name, unsigned depth)
{
    struct stat status;
    if (fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT || fail(packer->problem, errno, "%.200s: %s", packer->path, strerror(errno));
    bool good = true;
    if (packer->view == PACK_LAYER && layer_is_whiteout(&status)) {
        add_marker(packer, ".wh.", name);
        return packer->problem->error == 0;
    }
    if (packer->view == PACK_LAYER && layer_is_mount_point(packer->mount_points, packer->path, directory, name, &status))
        return true;
    switch (status.st_mode & S_IFMT) {
    case S_IFREG:
        good = pack_file(packer, directory, name, &status);
        break;
    case S_IFDIR:
        good = pack_directory(packer, directory, name, &status, depth);
        break;
    case S_IFLNK: {
        set_entry(packer, &status, TAR_SYMLINK);
        ssize_t size = readlinkat(directory, name, packer->entry.link, sizeof(packer->entry.link) - 1);
        packer->entry.link[size > 0 ? size : 0] = 0;
        tar_put_header(&packer->buffer, &packer->entry);
        break;
    }
    case S_IFCHR:
    case S_IFBLK:
    case S_IFIFO:
        set_entry(packer, &status, S_ISFIFO(status.st_mode) ? TAR_FIFO
                                   : S_ISCHR(status.st_mode) ? TAR_CHARACTER : TAR_BLOCK_DEVICE);
        tar_put_header(&packer->buffer, &packer->entry);
        break;
    default: /* sockets have no place in an archive */
        break;
    }
    return good && (packer->buffer.size < FLUSH_SIZE || flush(packer));
}

bool pack(const struct pack_job *job, int out, struct problem *problem)
{
    static const uint8_t end[2 * TAR_BLOCK];
    struct packer *packer = calloc(1, sizeof(*packer));
    if (!packer)
        return fail(problem, ENOMEM, "no memory for the archive");
    packer->out = out;
    packer->problem = problem;
    packer->buffer.limit = 4 * TAR_EXTENDED_MAX;
    packer->view = job->view;
    packer->mount_points = job->mount_points;
    snprintf(packer->path, sizeof(packer->path), "%s", job->as);
    bool good = pack_node(packer, job->directory, job->name, DEPTH_MAX);
    buffer_add(&packer->buffer, end, sizeof(end));
    return good && flush(packer);
}

/* Splits off the last component: `path` becomes its parent. A path that ends in a slash or a dot means what the
 * directory holds rather than the name that leads to it. */
static const char *split_path(char *path, bool *inside)
{
    size_t size = strlen(path);
    *inside = (size > 0 && path[size - 1] == '/') || (size > 1 && strcmp(path + size - 2, "/.") == 0) ||
              strcmp(path, ".") == 0;
    while (size > 0 && path[size - 1] == '/')
        path[--size] = 0;
    char *slash = strrchr(path, '/');
    if (!slash)
        return path;
    *slash = 0;
    return slash + 1;
}

bool archive_read(const char *path, int out, struct problem *problem)
{
    char parent[PATH_LIMIT];
    bool inside;
    int root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    snprintf(parent, sizeof(parent), "%s", path);
    const char *name = split_path(parent, &inside);
    const char *as = *name ? name : ".";
    int found;
    if (inside || !*name || strcmp(name, "..") == 0) {
        found = root_open(root, path, O_RDONLY | O_DIRECTORY);
        name = ".";
    } else {
        found = root_open(root, name == parent ? "." : parent, O_RDONLY | O_DIRECTORY);
    }
    struct stat status;
    bool good = found >= 0 && fstatat(found, name, &status, AT_SYMLINK_NOFOLLOW) == 0;
    if (!good)
        fail(problem, errno, "%.200s: %s", path, strerror(errno));
    const struct pack_job job = {.directory = found, .name = name, .as = strcmp(as, "..") == 0 ? "." : as};
    good = good && pack(&job, out, problem);
    close_fd(&found);
    close_fd(&root);
    return good;
}
