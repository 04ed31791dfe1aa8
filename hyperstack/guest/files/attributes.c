/* Look-ups and attributes. */
#include "serve.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/statfs.h>
#include <time.h>
#include <unistd.h>

static void fill(struct fuse_attr *attr, const struct stat *status)
{
    *attr = (struct fuse_attr){
        .ino = node_number(status), .size = (uint64_t)status->st_size, .blocks = (uint64_t)status->st_blocks,
        .atime = (uint64_t)status->st_atim.tv_sec, .mtime = (uint64_t)status->st_mtim.tv_sec,
        .ctime = (uint64_t)status->st_ctim.tv_sec, .atimensec = (uint32_t)status->st_atim.tv_nsec,
        .mtimensec = (uint32_t)status->st_mtim.tv_nsec, .ctimensec = (uint32_t)status->st_ctim.tv_nsec,
        .mode = status->st_mode, .nlink = (uint32_t)status->st_nlink, .uid = status->st_uid, .gid = status->st_gid,
        /* Devices are none of the guest's; the kernel's encoding of small numbers. */
        .rdev = 0, .blksize = (uint32_t)status->st_blksize,
    };
}

int entry_of(struct node *directory, const char *name, struct fuse_entry_out *entry)
{
    struct node *node;
    struct stat status;
    int error = node_find(directory, name, &node, &status);
    if (error)
        return error;
    /* No time in which it is believed without asking: the host's other programs change files, too. */
    *entry = (struct fuse_entry_out){.nodeid = node_id(node), .generation = 0};
    fill(&entry->attr, &status);
    return 0;
}

int reply_entry(const struct request *request, struct node *directory, const char *name)
{
    struct fuse_entry_out entry;
    int error = entry_of(directory, name, &entry);
    return error ? error : reply(request, &entry, sizeof(entry));
}

int do_lookup(const struct request *request)
{
    struct node *directory = node_get(request->head->nodeid);
    const char *name = take_name(request, 0, NULL);
    if (!name)
        return errno;
    if (!directory)
        return ESTALE;
    return reply_entry(request, directory, name);
}

int do_forget(const struct request *request)
{
    const struct fuse_forget_in *in = BODY(request, struct fuse_forget_in);
    struct node *node = node_get(request->head->nodeid);
    if (in && node)
        node_forget(node, in->nlookup);
    return NO_REPLY;
}

int do_batch_forget(const struct request *request)
{
    const struct fuse_batch_forget_in *in = BODY(request, struct fuse_batch_forget_in);
    if (!in || in->count > (request->size - sizeof(*in)) / sizeof(struct fuse_forget_one))
        return NO_REPLY;
    const struct fuse_forget_one *each = (const void *)(in + 1);
    for (uint32_t i = 0; i < in->count; i++) {
        struct node *node = node_get(each[i].nodeid);
        if (node)
            node_forget(node, each[i].nlookup);
    }
    return NO_REPLY;
}

static int reply_status(const struct request *request, const struct stat *status)
{
    struct fuse_attr_out out = {0};
    fill(&out.attr, status);
    return reply(request, &out, sizeof(out));
}

int do_getattr(const struct request *request)
{
    struct node *node = node_get(request->head->nodeid);
    struct stat status;
    int fd = node ? node_fd(node) : (errno = ESTALE, -1);
    return fd >= 0 && fstat(fd, &status) == 0 ? reply_status(request, &status) : errno;
}

static int set_mode(const char *path, const struct fuse_setattr_in *in)
{
    /* Whether the group's bit may be set is for the guest to say, which knows the caller's groups. */
    may_set_group_bits(true);
    int result = fchmodat(AT_FDCWD, path, in->mode & 07777, 0);
    int error = errno;
    may_set_group_bits(false);
    errno = error;
    return result;
}

static int set_size(const char *path, const struct fuse_setattr_in *in)
{
    struct handle *handle = in->valid & FATTR_FH ? handle_get(in->fh) : NULL;
    if (in->size > INT64_MAX)
        return errno = EINVAL, -1;
    return handle && ftruncate(handle->fd, (off_t)in->size) == 0 ? 0 : truncate(path, (off_t)in->size);
}

static int set_times(int fd, const struct fuse_setattr_in *in)
{
    struct timespec times[2] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}};
    if (in->valid & FATTR_ATIME_NOW)
        times[0].tv_nsec = UTIME_NOW;
    else if (in->valid & FATTR_ATIME)
        times[0] = (struct timespec){(time_t)in->atime, (long)in->atimensec};
    if (in->valid & FATTR_MTIME_NOW)
        times[1].tv_nsec = UTIME_NOW;
    else if (in->valid & FATTR_MTIME)
        times[1] = (struct timespec){(time_t)in->mtime, (long)in->mtimensec};
    return utimensat(fd, "", times, AT_EMPTY_PATH);
}

int do_setattr(const struct request *request)
{
    const struct fuse_setattr_in *in = BODY(request, struct fuse_setattr_in);
    struct node *node = node_get(request->head->nodeid);
    struct stat status;
    int fd = node && in ? node_fd(node) : (errno = in ? ESTALE : EINVAL, -1);
    if (fd < 0)
        return errno;
    struct fd_path path = path_of(fd);
    if (in->valid & (FATTR_MODE | FATTR_SIZE) && S_ISLNK(node->type))
        return EOPNOTSUPP;
    if (in->valid & FATTR_SIZE && !S_ISREG(node->type))
        return EINVAL;
    if (in->valid & FATTR_MODE && set_mode(path.text, in) < 0)
        return errno;
    if (in->valid & (FATTR_UID | FATTR_GID) &&
        fchownat(fd, "", in->valid & FATTR_UID ? in->uid : (uid_t)-1, in->valid & FATTR_GID ? in->gid : (gid_t)-1,
                 AT_EMPTY_PATH) < 0)
        return errno;
    if (in->valid & FATTR_SIZE && set_size(path.text, in) < 0)
        return errno;
    if (in->valid & (FATTR_ATIME | FATTR_MTIME | FATTR_ATIME_NOW | FATTR_MTIME_NOW) && set_times(fd, in) < 0)
        return errno;
    return fstat(fd, &status) == 0 ? reply_status(request, &status) : errno;
}

int do_readlink(const struct request *request)
{
    struct node *node = node_get(request->head->nodeid);
    char target[PATH_MAX];
    int fd = node ? node_fd(node) : (errno = ESTALE, -1);
    if (fd < 0)
        return errno;
    ssize_t size = readlinkat(fd, "", target, sizeof(target));
    return size < 0 ? errno : reply(request, target, (size_t)size);
}

int do_statfs(const struct request *request)
{
    struct node *node = node_get(request->head->nodeid);
    struct statfs found;
    int fd = node ? node_fd(node) : (errno = ESTALE, -1);
    if (fd < 0 || fstatfs(fd, &found) < 0)
        return errno;
    struct fuse_statfs_out out = {.st = {
        .blocks = found.f_blocks, .bfree = found.f_bfree, .bavail = found.f_bavail, .files = found.f_files,
        .ffree = found.f_ffree, .bsize = (uint32_t)found.f_bsize, .namelen = (uint32_t)found.f_namelen,
        .frsize = (uint32_t)found.f_frsize}};
    return reply(request, &out, sizeof(out));
}
