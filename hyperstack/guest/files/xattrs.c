/* Extended attributes: the `user.` ones. Those of `security.` and `trusted.` give rights on the host, and access control
 * lists are not looked at by the guest. */
#include "serve.h"

#include <errno.h>
#include <linux/limits.h>
#include <string.h>
#include <sys/xattr.h>

#define PREFIX "user."

/* The node's path for a call on an attribute of it, else an errno. */
static int begin(const struct request *request, const char *name, struct fd_path *path)
{
    struct node *node = node_get(request->head->nodeid);
    int fd = node ? node_fd(node) : (errno = ESTALE, -1);
    if (fd < 0)
        return errno;
    *path = path_of(fd);
    return name && strncmp(name, PREFIX, strlen(PREFIX)) != 0 ? EOPNOTSUPP : 0;
}

static const char *take_attribute(const struct request *request, size_t offset, size_t *after)
{
    const char *name = request->body + offset;
    size_t size = offset < request->size ? strnlen(name, request->size - offset) : 0;
    *after = offset + size + 1;
    return size && size <= 255 && *after <= request->size ? name : NULL;
}

int do_setxattr(const struct request *request)
{
    /* The record has its old size: we did not ask for the longer one. */
    const struct fuse_setxattr_in *in = request->size >= FUSE_COMPAT_SETXATTR_IN_SIZE ? (const void *)request->body
                                                                                       : NULL;
    struct fd_path path;
    size_t value;
    const char *name = in ? take_attribute(request, FUSE_COMPAT_SETXATTR_IN_SIZE, &value) : NULL;
    if (!name || in->size > request->size - value)
        return EINVAL;
    int error = begin(request, name, &path);
    if (error)
        return error;
    return setxattr(path.text, name, request->body + value, in->size, (int)in->flags) < 0 ? errno
                                                                                          : reply(request, NULL, 0);
}

static int reply_value(const struct request *request, const char *value, ssize_t size, uint32_t room)
{
    struct fuse_getxattr_out out = {.size = (uint32_t)size};
    if (room == 0)
        return reply(request, &out, sizeof(out));
    return (size_t)size > room ? ERANGE : reply(request, value, (size_t)size);
}

int do_getxattr(const struct request *request)
{
    static char value[XATTR_SIZE_MAX];
    const struct fuse_getxattr_in *in = BODY(request, struct fuse_getxattr_in);
    struct fd_path path;
    size_t after;
    const char *name = in ? take_attribute(request, sizeof(*in), &after) : NULL;
    if (!name)
        return EINVAL;
    int error = begin(request, name, &path);
    if (error)
        return error == EOPNOTSUPP ? ENODATA : error;
    ssize_t size = getxattr(path.text, name, value, sizeof(value));
    return size < 0 ? errno : reply_value(request, value, size, in->size);
}

int do_listxattr(const struct request *request)
{
    static char names[XATTR_LIST_MAX];
    const struct fuse_getxattr_in *in = BODY(request, struct fuse_getxattr_in);
    struct fd_path path;
    int error = in ? begin(request, NULL, &path) : EINVAL;
    if (error)
        return error;
    ssize_t size = listxattr(path.text, names, sizeof(names)), kept = 0;
    if (size < 0)
        return errno;
    for (ssize_t at = 0; at < size;) {
        size_t length = strlen(names + at) + 1;
        if (strncmp(names + at, PREFIX, strlen(PREFIX)) == 0) {
            memmove(names + kept, names + at, length);
            kept += (ssize_t)length;
        }
        at += (ssize_t)length;
    }
    return reply_value(request, names, kept, in->size);
}

int do_removexattr(const struct request *request)
{
    struct fd_path path;
    size_t after;
    const char *name = take_attribute(request, 0, &after);
    int error = name ? begin(request, name, &path) : EINVAL;
    if (error)
        return error;
    return removexattr(path.text, name) < 0 ? errno : reply(request, NULL, 0);
}
