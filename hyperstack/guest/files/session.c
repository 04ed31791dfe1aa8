/* Requests from a stream of bytes, and replies into it. */
#include "serve.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOCK_POLL_MS 10
#define OLDEST_MINOR 31 /* of the protocol: Linux 5.4 */
#define FLAGS_WANTED (FUSE_ASYNC_READ | FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS | FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES | \
                      FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_PARALLEL_DIROPS | FUSE_AUTO_INVAL_DATA | \
                      FUSE_MAX_PAGES | FUSE_HANDLE_KILLPRIV_V2)

static int stream = -1;
static bool begun;
static char *tray;
static int tray_disk = -1;
static bool tray_wanted;
static unsigned tray_turn;

static bool send_all(struct iovec *parts, int count)
{
    while (count > 0) {
        ssize_t sent = writev(stream, parts, count);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            return false;
        while (count > 0 && (size_t)sent >= parts->iov_len) {
            sent -= (ssize_t)parts->iov_len;
            parts++;
            count--;
        }
        if (count > 0) {
            parts->iov_base = (char *)parts->iov_base + sent;
            parts->iov_len -= (size_t)sent;
        }
    }
    return true;
}

static void send_reply(uint64_t unique, int error, struct iovec *parts, int count)
{
    struct fuse_out_header head = {.len = sizeof(head), .error = -error, .unique = unique};
    for (int i = 1; i < count; i++)
        head.len += (uint32_t)parts[i].iov_len;
    parts[0] = (struct iovec){&head, sizeof(head)};
    if (!send_all(parts, count))
        _exit(0); /* the machine has ended */
}

int reply_parts(const struct request *request, struct iovec *parts, int count)
{
    send_reply(request->head->unique, 0, parts, count);
    return 0;
}

int reply(const struct request *request, const void *data, size_t size)
{
    struct iovec parts[2] = {{NULL, 0}, {(void *)data, size}};
    return reply_parts(request, parts, size ? 2 : 1);
}

void session_tray(char *memory)
{
    tray = memory;
}

void session_tray_disk(int fd)
{
    static _Alignas(4096) char place[TRAY_PLACE];
    tray_disk = fd;
    tray = place;
}

char *tray_place(void)
{
    if (!tray || !tray_wanted)
        return NULL;
    return tray_disk >= 0 ? tray : tray + (size_t)(tray_turn % TRAY_PLACES) * TRAY_PLACE;
}

bool tray_fetch(const struct tray_answer *where, void *data)
{
    errno = EINVAL;
    if (tray_disk < 0 || where->place >= TRAY_PLACES || where->size > TRAY_PLACE)
        return false;
    size_t whole = TRAY_WHOLE(where->size);
    ssize_t got = pread(tray_disk, data, whole, (off_t)(TRAY_PLACES + where->place) * TRAY_PLACE);
    if (got >= 0 && got != (ssize_t)whole)
        errno = EIO;
    return got == (ssize_t)whole;
}

int reply_by_tray(const struct request *request, size_t size)
{
    if (tray_disk >= 0 && pwrite(tray_disk, tray, TRAY_WHOLE(size), (off_t)(tray_turn % TRAY_PLACES) * TRAY_PLACE) !=
                              (ssize_t)TRAY_WHOLE(size))
        return reply(request, tray, size);
    struct tray_answer where = {.place = tray_turn++ % TRAY_PLACES, .size = (uint32_t)size};
    struct iovec parts[2] = {{NULL, 0}, {&where, sizeof(where)}};
    send_reply(request->head->unique, -TRAY_ANSWER, parts, 2);
    return 0;
}

void reply_later(uint64_t unique, int error)
{
    struct iovec part;
    send_reply(unique, error, &part, 1);
}

const void *take_body(const struct request *request, size_t size)
{
    errno = EINVAL;
    return request->size >= size ? request->body : NULL;
}

const char *take_name(const struct request *request, size_t offset, size_t *after)
{
    errno = EINVAL;
    if (offset >= request->size)
        return NULL;
    const char *name = request->body + offset;
    size_t size = strnlen(name, request->size - offset);
    if (offset + size >= request->size || size == 0 || memchr(name, '/', size) || strcmp(name, ".") == 0 ||
        strcmp(name, "..") == 0)
        return NULL;
    if (size > NAME_MAX) {
        errno = ENAMETOOLONG;
        return NULL;
    }
    if (after)
        *after = offset + size + 1;
    return name;
}

static int do_init(const struct request *request)
{
    if (request->size < 16) /* the record grew; its first four fields are what counts */
        return EINVAL;
    const struct fuse_init_in *asked = (const void *)request->body;
    if (asked->major != FUSE_KERNEL_VERSION || asked->minor < OLDEST_MINOR)
        return EPROTO;
    begun = true;
    struct fuse_init_out out = {
        .major = FUSE_KERNEL_VERSION,
        .minor = asked->minor < FUSE_KERNEL_MINOR_VERSION ? asked->minor : FUSE_KERNEL_MINOR_VERSION,
        .max_readahead = asked->max_readahead < MAX_DATA ? asked->max_readahead : MAX_DATA,
        .flags = asked->flags & FLAGS_WANTED,
        .max_background = 16,
        .congestion_threshold = 12,
        .max_write = MAX_DATA,
        .time_gran = 1,
        .max_pages = MAX_DATA / 4096,
    };
    return reply(request, &out, sizeof(out));
}

static int do_destroy(const struct request *request)
{
    locks_forget_all();
    nodes_forget_all();
    return reply(request, NULL, 0);
}

static int (*const operations[])(const struct request *request) = {
    [FUSE_LOOKUP] = do_lookup,
    [FUSE_FORGET] = do_forget,
    [FUSE_GETATTR] = do_getattr,
    [FUSE_SETATTR] = do_setattr,
    [FUSE_READLINK] = do_readlink,
    [FUSE_SYMLINK] = do_symlink,
    [FUSE_MKNOD] = do_mknod,
    [FUSE_MKDIR] = do_mkdir,
    [FUSE_UNLINK] = do_unlink,
    [FUSE_RMDIR] = do_rmdir,
    [FUSE_RENAME] = do_rename,
    [FUSE_LINK] = do_link,
    [FUSE_OPEN] = do_open,
    [FUSE_READ] = do_read,
    [FUSE_WRITE] = do_write,
    [FUSE_STATFS] = do_statfs,
    [FUSE_RELEASE] = do_release,
    [FUSE_FSYNC] = do_fsync,
    [FUSE_SETXATTR] = do_setxattr,
    [FUSE_GETXATTR] = do_getxattr,
    [FUSE_LISTXATTR] = do_listxattr,
    [FUSE_REMOVEXATTR] = do_removexattr,
    [FUSE_FLUSH] = do_flush,
    [FUSE_INIT] = do_init,
    [FUSE_OPENDIR] = do_opendir,
    [FUSE_READDIR] = do_readdir,
    [FUSE_RELEASEDIR] = do_release,
    [FUSE_FSYNCDIR] = do_fsync,
    [FUSE_GETLK] = do_getlk,
    [FUSE_SETLK] = do_setlk,
    [FUSE_SETLKW] = do_setlkw,
    [FUSE_CREATE] = do_create,
    [FUSE_INTERRUPT] = do_interrupt,
    [FUSE_DESTROY] = do_destroy,
    [FUSE_BATCH_FORGET] = do_batch_forget,
    [FUSE_FALLOCATE] = do_fallocate,
    [FUSE_READDIRPLUS] = do_readdirplus,
    [FUSE_RENAME2] = do_rename2,
    [FUSE_LSEEK] = do_lseek,
    [FUSE_COPY_FILE_RANGE] = do_copy_file_range,
    [FUSE_SYNCFS] = do_syncfs,
};

static void handle(struct request *request)
{
    uint32_t opcode = request->head->opcode;
    int error = ENOSYS;
    request_stamp();
    if (opcode == TRAY_ASK) {
        tray_wanted = true;
        return;
    }
    if (!begun && opcode != FUSE_INIT)
        error = EPROTO;
    else if (opcode == TRAY_WRITE)
        error = do_tray_write(request);
    else if (opcode < COUNT_OF(operations) && operations[opcode])
        error = operations[opcode](request);
    if (error > 0)
        reply_later(request->head->unique, error);
}

/* All that a look-up of the buffer's begin finds there; how much of it was used, or -1 for what is no request. */
static ssize_t take_requests(char *buffer, size_t size)
{
    size_t used = 0;
    while (size - used >= sizeof(struct fuse_in_header)) {
        struct fuse_in_header head;
        memcpy(&head, buffer + used, sizeof(head));
        if (head.len < sizeof(head) || head.len > MAX_REQUEST)
            return -1;
        if (size - used < head.len)
            break;
        /* Records are read where they lie, so they must lie as their types ask; names need an end. */
        static _Alignas(16) char aligned[MAX_REQUEST + 1];
        memcpy(aligned, buffer + used, head.len);
        aligned[head.len] = 0;
        struct request request = {(const void *)aligned, aligned + sizeof(head), head.len - sizeof(head)};
        handle(&request);
        used += head.len;
    }
    return (ssize_t)used;
}

int session_run(int fd)
{
    size_t size = 0, capacity = 2 * MAX_REQUEST;
    char *buffer = malloc(capacity);
    stream = fd;
    while (buffer) {
        struct pollfd waited = {.fd = fd, .events = POLLIN};
        int ready = locks_waiting() ? poll(&waited, 1, LOCK_POLL_MS) : 1;
        locks_try();
        if (ready <= 0)
            continue;
        ssize_t got = read(fd, buffer + size, capacity - size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return 0;
        size += (size_t)got;
        ssize_t used = take_requests(buffer, size);
        if (used < 0)
            return 1;
        memmove(buffer, buffer + used, size - (size_t)used);
        size -= (size_t)used;
    }
    return 1;
}
