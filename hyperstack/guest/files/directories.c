/* Listings. */
#include "serve.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

struct linux_dirent {
    uint64_t ino;
    int64_t next; /* where the one after it is */
    uint16_t size;
    uint8_t type;
    char name[];
};

int do_opendir(const struct request *request)
{
    struct node *node = node_get(request->head->nodeid);
    int fd = node ? node_fd(node) : (errno = ESTALE, -1);
    if (fd < 0)
        return errno;
    if (!S_ISDIR(node->type))
        return ENOTDIR;
    int opened = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (opened < 0)
        return errno;
    struct fuse_open_out out = {.fh = handle_add(opened)};
    return out.fh ? reply(request, &out, sizeof(out)) : ENFILE;
}

static bool is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* One entry at `at`; its size, or 0 where it does not fit or cannot be told of. */
static size_t put(char *at, size_t room, const struct linux_dirent *found, struct node *directory, bool plus)
{
    size_t name = strlen(found->name), head = plus ? offsetof(struct fuse_direntplus, dirent) : 0;
    size_t size = FUSE_DIRENT_ALIGN(head + FUSE_NAME_OFFSET + name);
    const struct stat status = {.st_dev = directory->dev, .st_ino = found->ino};
    struct fuse_dirent entry = {.ino = node_number(&status), .off = (uint64_t)found->next, .namelen = (uint32_t)name,
                                .type = found->type};
    if (size > room)
        return 0;
    memset(at, 0, size);
    if (plus && !is_dots(found->name)) {
        /* Where it is gone meanwhile, the entry stays zero: a name without a node, to be looked up later. */
        struct fuse_entry_out node;
        if (entry_of(directory, found->name, &node) == 0) {
            memcpy(at, &node, sizeof(node));
            entry.ino = node.attr.ino;
        }
    }
    memcpy(at + head, &entry, FUSE_NAME_OFFSET);
    memcpy(at + head + FUSE_NAME_OFFSET, found->name, name);
    return size;
}

static int read_directory(const struct request *request, bool plus)
{
    static _Alignas(16) char listing[32768], out[32768];
    const struct fuse_read_in *in = BODY(request, struct fuse_read_in);
    struct node *node = node_get(request->head->nodeid);
    struct handle *handle = in ? handle_get(in->fh) : NULL;
    if (!handle || !node)
        return EBADF;
    size_t room = in->size < sizeof(out) ? in->size : sizeof(out), used = 0;
    if (handle->position != (int64_t)in->offset && lseek(handle->fd, (off_t)in->offset, SEEK_SET) < 0)
        return errno;
    handle->position = (int64_t)in->offset;
    /* Entries take less room in a listing than in an answer, and what does not fit is read again. */
    long got = syscall(SYS_getdents64, handle->fd, listing, room < 512 ? 512 : room);
    if (got < 0)
        return errno;
    for (long at = 0; at < got;) {
        const struct linux_dirent *found = (const void *)(listing + at);
        size_t size = put(out + used, room - used, found, node, plus);
        if (size == 0)
            break;
        used += size;
        at += found->size;
        handle->position = found->next;
    }
    if (got > 0 && lseek(handle->fd, handle->position, SEEK_SET) < 0)
        return errno;
    return reply(request, out, used);
}

int do_readdir(const struct request *request)
{
    return read_directory(request, false);
}

int do_readdirplus(const struct request *request)
{
    return read_directory(request, true);
}
