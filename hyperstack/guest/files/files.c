/* Open files. */
#include "serve.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define FRESH_NS 100000000LL /* a change within the clock's tick before could have the same time */

#ifndef RWF_APPEND
#define RWF_APPEND 0x10
#endif

/* What of the guest's flags is done here. Appending is done write by write: this descriptor also writes what programs
 * map into memory, which has its place. Without O_NONBLOCK a pipe that was put in a file's place would hold us up. */
int open_flags(uint32_t asked)
{
    return (int)(asked & (O_ACCMODE | O_TRUNC | O_SYNC | O_DSYNC)) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
}

/* Whether what the guest remembers of a file's bytes is what they are: it did not change since it was opened last. */
static bool is_unchanged(struct node *node, int fd)
{
    struct stat status;
    struct timespec now;
    if (fstat(fd, &status) < 0 || clock_gettime(CLOCK_REALTIME, &now) < 0)
        return false;
    int64_t changed = status.st_ctim.tv_sec * 1000000000LL + status.st_ctim.tv_nsec;
    bool same = changed == node->changed_ns && changed + FRESH_NS < now.tv_sec * 1000000000LL + now.tv_nsec;
    node->changed_ns = changed;
    return same;
}

int do_open(const struct request *request)
{
    const struct fuse_open_in *in = BODY(request, struct fuse_open_in);
    struct node *node = node_get(request->head->nodeid);
    int fd = node && in ? node_fd(node) : (errno = in ? ESTALE : EINVAL, -1);
    if (fd < 0)
        return errno;
    if (!S_ISREG(node->type))
        return S_ISDIR(node->type) ? EISDIR : ENXIO;
    int opened = open(path_of(fd).text, open_flags(in->flags));
    if (opened < 0)
        return errno;
    struct fuse_open_out out = {.open_flags = is_unchanged(node, opened) ? FOPEN_KEEP_CACHE : 0};
    /* Without a word at each close: there is nothing to write, and locks go with the last. */
    if ((in->flags & O_ACCMODE) == O_RDONLY)
        out.open_flags |= FOPEN_NOFLUSH;
    out.fh = handle_add(opened);
    return out.fh ? reply(request, &out, sizeof(out)) : ENFILE;
}

int do_release(const struct request *request)
{
    const struct fuse_release_in *in = BODY(request, struct fuse_release_in);
    if (!in)
        return EINVAL;
    locks_forget_handle(in->fh);
    handle_remove(in->fh);
    return reply(request, NULL, 0);
}

int do_read(const struct request *request)
{
    static char data[MAX_DATA];
    const struct fuse_read_in *in = BODY(request, struct fuse_read_in);
    struct handle *handle = in ? handle_get(in->fh) : NULL;
    if (!handle || in->offset > INT64_MAX)
        return handle ? EINVAL : EBADF;
    char *place = in->size > TRAY_LEAST ? tray_place() : NULL;
    char *to = place ? place : data;
    ssize_t size = pread(handle->fd, to, in->size < MAX_DATA ? in->size : MAX_DATA, (off_t)in->offset);
    if (size < 0)
        return errno;
    return place && size > TRAY_LEAST ? reply_by_tray(request, (size_t)size) : reply(request, to, (size_t)size);
}

static int write_data(const struct request *request, const struct fuse_write_in *in, const struct handle *handle,
                      const void *data)
{
    const struct iovec part = {(void *)data, in->size};
    bool appends = in->flags & O_APPEND && !(in->write_flags & FUSE_WRITE_CACHE);
    ssize_t size = syscall(SYS_pwritev2, handle->fd, &part, 1UL, (unsigned long)in->offset, 0UL,
                           appends ? RWF_APPEND : 0);
    if (size < 0)
        return errno;
    struct fuse_write_out out = {.size = (uint32_t)size};
    return reply(request, &out, sizeof(out));
}

int do_write(const struct request *request)
{
    const struct fuse_write_in *in = BODY(request, struct fuse_write_in);
    struct handle *handle = in ? handle_get(in->fh) : NULL;
    if (!handle || in->size > request->size - sizeof(*in) || in->offset > INT64_MAX)
        return handle ? EINVAL : EBADF;
    return write_data(request, in, handle, in + 1);
}

int do_tray_write(const struct request *request)
{
    static _Alignas(4096) char data[TRAY_PLACE];
    struct tray_answer where;
    const struct fuse_write_in *in = take_body(request, sizeof(*in) + sizeof(where));
    struct handle *handle = in ? handle_get(in->fh) : NULL;
    if (!handle || in->offset > INT64_MAX)
        return handle ? EINVAL : EBADF;
    memcpy(&where, in + 1, sizeof(where));
    if (where.size != in->size)
        return EINVAL;
    return tray_fetch(&where, data) ? write_data(request, in, handle, data) : errno;
}

int do_fsync(const struct request *request)
{
    const struct fuse_fsync_in *in = BODY(request, struct fuse_fsync_in);
    struct handle *handle = in ? handle_get(in->fh) : NULL;
    if (!handle)
        return EBADF;
    int result = in->fsync_flags & FUSE_FSYNC_FDATASYNC ? fdatasync(handle->fd) : fsync(handle->fd);
    return result < 0 ? errno : reply(request, NULL, 0);
}

int do_syncfs(const struct request *request)
{
    /* It would write out all that is dirty on the host's file system: what the guest itself wrote is in its files. */
    return reply(request, NULL, 0);
}

int do_fallocate(const struct request *request)
{
    const struct fuse_fallocate_in *in = BODY(request, struct fuse_fallocate_in);
    struct handle *handle = in ? handle_get(in->fh) : NULL;
    if (!handle)
        return EBADF;
    if (in->offset > INT64_MAX || in->length > INT64_MAX)
        return EINVAL;
    return fallocate(handle->fd, (int)in->mode, (off_t)in->offset, (off_t)in->length) < 0 ? errno
                                                                                          : reply(request, NULL, 0);
}

int do_lseek(const struct request *request)
{
    const struct fuse_lseek_in *in = BODY(request, struct fuse_lseek_in);
    struct handle *handle = in ? handle_get(in->fh) : NULL;
    if (!handle)
        return EBADF;
    if (in->offset > INT64_MAX || (in->whence != SEEK_DATA && in->whence != SEEK_HOLE))
        return EINVAL;
    off_t found = lseek(handle->fd, (off_t)in->offset, (int)in->whence);
    if (found < 0)
        return errno;
    struct fuse_lseek_out out = {.offset = (uint64_t)found};
    return reply(request, &out, sizeof(out));
}

int do_copy_file_range(const struct request *request)
{
    const struct fuse_copy_file_range_in *in = BODY(request, struct fuse_copy_file_range_in);
    struct handle *from = in ? handle_get(in->fh_in) : NULL, *to = in ? handle_get(in->fh_out) : NULL;
    if (!from || !to)
        return EBADF;
    if (in->off_in > INT64_MAX || in->off_out > INT64_MAX)
        return EINVAL;
    off_t in_at = (off_t)in->off_in, out_at = (off_t)in->off_out;
    /* In pieces: nobody else is served meanwhile. */
    size_t size = in->len < 16 * MAX_DATA ? (size_t)in->len : 16 * MAX_DATA;
    ssize_t copied = copy_file_range(from->fd, &in_at, to->fd, &out_at, size, 0);
    if (copied < 0)
        return errno;
    struct fuse_write_out out = {.size = (uint32_t)copied};
    return reply(request, &out, sizeof(out));
}
