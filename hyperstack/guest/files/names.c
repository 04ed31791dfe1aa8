/* Files come, go, and get other names. */
#include "serve.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The directory that a request is about, and its descriptor; else an errno. */
static int open_directory(const struct request *request, struct node **directory, int *fd)
{
    *directory = node_get(request->head->nodeid);
    if (!*directory)
        return ESTALE;
    *fd = node_fd(*directory);
    return *fd < 0 ? errno : 0;
}

/* Where something is to be made. */
struct place {
    struct node *directory;
    const char *name;
    int fd; /* the directory's */
};

/* The place that a request names after its record of `size`; from here on files are theirs who ask. An errno. */
static int begin_at(const struct request *request, size_t size, struct place *place)
{
    int error;
    place->name = take_name(request, size, NULL);
    if (!place->name)
        return errno;
    if ((error = open_directory(request, &place->directory, &place->fd)))
        return error;
    return begin_as(request);
}

/* After something was made there. */
static int made(const struct request *request, int result, const struct place *place)
{
    int error = errno;
    end_as();
    return result < 0 ? error : reply_entry(request, place->directory, place->name);
}

int do_mknod(const struct request *request)
{
    const struct fuse_mknod_in *in = BODY(request, struct fuse_mknod_in);
    struct place place;
    if (!in)
        return errno;
    if (!S_ISREG(in->mode) && !S_ISFIFO(in->mode) && !S_ISSOCK(in->mode))
        return EPERM; /* a device of the guest's would be one of the host's */
    int error = begin_at(request, sizeof(*in), &place);
    return error ? error : made(request, mknodat(place.fd, place.name, in->mode & (S_IFMT | 07777), 0), &place);
}

int do_mkdir(const struct request *request)
{
    const struct fuse_mkdir_in *in = BODY(request, struct fuse_mkdir_in);
    struct place place;
    int error = in ? begin_at(request, sizeof(*in), &place) : errno;
    return error ? error : made(request, mkdirat(place.fd, place.name, in->mode & 07777), &place);
}

int do_symlink(const struct request *request)
{
    size_t after;
    struct place place;
    const char *name = take_name(request, 0, &after);
    if (!name)
        return errno;
    const char *target = request->body + after;
    if (after >= request->size || strnlen(target, request->size - after) == request->size - after)
        return EINVAL;
    int error = begin_at(request, 0, &place);
    return error ? error : made(request, symlinkat(target, place.fd, place.name), &place);
}

int do_link(const struct request *request)
{
    const struct fuse_link_in *in = BODY(request, struct fuse_link_in);
    const char *name = in ? take_name(request, sizeof(*in), NULL) : NULL;
    struct node *node = in ? node_get(in->oldnodeid) : NULL, *directory;
    int fd, error;
    if (!name)
        return errno;
    if ((error = open_directory(request, &directory, &fd)))
        return error;
    int old = node ? node_fd(node) : (errno = ESTALE, -1);
    if (old < 0 || linkat(AT_FDCWD, path_of(old).text, fd, name, AT_SYMLINK_FOLLOW) < 0)
        return errno;
    return reply_entry(request, directory, name);
}

static int remove_name(const struct request *request, int flags)
{
    const char *name = take_name(request, 0, NULL);
    struct node *directory;
    int fd, error;
    if (!name)
        return errno;
    if ((error = open_directory(request, &directory, &fd)))
        return error;
    node_keep(directory, name);
    return unlinkat(fd, name, flags) < 0 ? errno : reply(request, NULL, 0);
}

int do_unlink(const struct request *request)
{
    return remove_name(request, 0);
}

int do_rmdir(const struct request *request)
{
    return remove_name(request, AT_REMOVEDIR);
}

static int rename_to(const struct request *request, uint64_t target, size_t names, unsigned flags)
{
    size_t second;
    const char *old = take_name(request, names, &second);
    const char *fresh = old ? take_name(request, second, NULL) : NULL;
    struct node *from, *to = node_get(target);
    int from_fd, to_fd, error;
    if (!fresh)
        return errno;
    if ((error = open_directory(request, &from, &from_fd)))
        return error;
    if (!to || (to_fd = node_fd(to)) < 0)
        return ESTALE;
    node_keep(to, fresh);
    if (syscall(SYS_renameat2, from_fd, old, to_fd, fresh, flags) < 0)
        return errno;
    node_moved(to, fresh);
    if (flags & RENAME_EXCHANGE)
        node_moved(from, old);
    return reply(request, NULL, 0);
}

int do_rename(const struct request *request)
{
    const struct fuse_rename_in *in = BODY(request, struct fuse_rename_in);
    return in ? rename_to(request, in->newdir, sizeof(*in), 0) : EINVAL;
}

int do_rename2(const struct request *request)
{
    const struct fuse_rename2_in *in = BODY(request, struct fuse_rename2_in);
    /* RENAME_WHITEOUT would make a device. */
    if (!in || in->flags & ~(uint32_t)(RENAME_NOREPLACE | RENAME_EXCHANGE))
        return EINVAL;
    return rename_to(request, in->newdir, sizeof(*in), in->flags);
}

int do_create(const struct request *request)
{
    const struct fuse_create_in *in = BODY(request, struct fuse_create_in);
    struct place place;
    int error = in ? begin_at(request, sizeof(*in), &place) : errno;
    if (error)
        return error;
    /* A new file only: what is there already could be a device or a pipe, and is opened by its node. */
    int made_fd = openat(place.fd, place.name, (open_flags(in->flags) & ~O_TRUNC) | O_CREAT | O_EXCL,
                         in->mode & 07777);
    error = made_fd < 0 ? errno : 0;
    end_as();
    struct {
        struct fuse_entry_out entry;
        struct fuse_open_out open;
    } out = {0};
    if (!error)
        error = entry_of(place.directory, place.name, &out.entry);
    else if (error == EEXIST && !(in->flags & O_EXCL)) {
        struct node *node;
        struct stat status;
        error = entry_of(place.directory, place.name, &out.entry);
        node = error ? NULL : node_get(out.entry.nodeid);
        int known = node ? node_fd(node) : -1;
        if (known >= 0 && fstat(known, &status) == 0 && S_ISREG(status.st_mode))
            made_fd = open(path_of(known).text, open_flags(in->flags));
        else if (!error)
            errno = EINVAL;
        if (!error && made_fd < 0) {
            error = errno;
            node_forget(node, 1);
        }
    }
    if (error) {
        if (made_fd >= 0)
            close(made_fd);
        return error;
    }
    out.open.fh = handle_add(made_fd);
    if (!out.open.fh) {
        node_forget(node_get(out.entry.nodeid), 1);
        return ENFILE;
    }
    return reply(request, &out, sizeof(out));
}
