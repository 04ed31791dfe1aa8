/* Locks that hold between all who use the files, on the host and in other machines. A process's locks are those of one
 * open file description per file and owner; a lock that has to wait is tried again until it is had or given up. */
#include "serve.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#define OWNERS_MAX 1024
#define WAITING_MAX 256

struct owner {
    uint64_t node, owner, handle; /* handle: by which it asked last */
    int fd;
};

struct waiting {
    uint64_t unique, node;
    struct fuse_lk_in in;
    bool used;
};

static struct owner owners[OWNERS_MAX];
static unsigned owner_count;
static struct waiting queue[WAITING_MAX];
static unsigned queue_used;

static struct owner *find_owner(uint64_t node, uint64_t owner)
{
    for (unsigned i = 0; i < owner_count; i++)
        if (owners[i].node == node && owners[i].owner == owner)
            return &owners[i];
    return NULL;
}

static void drop_owner(struct owner *owner)
{
    close(owner->fd);
    *owner = owners[--owner_count];
}

/* The descriptor of an owner's locks on a file; -1 with errno. */
static int owner_fd(uint64_t id, uint64_t number, uint64_t handle)
{
    struct owner *owner = find_owner(id, number);
    struct node *node = node_get(id);
    if (owner) {
        owner->handle = handle;
        return owner->fd;
    }
    int fd = node ? node_fd(node) : (errno = ESTALE, -1);
    if (fd < 0)
        return -1;
    if (owner_count == OWNERS_MAX || !S_ISREG(node->type))
        return errno = ENOLCK, -1;
    int opened = open(path_of(fd).text, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (opened < 0)
        opened = open(path_of(fd).text, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (opened >= 0)
        owners[owner_count++] = (struct owner){id, number, handle, opened};
    return opened;
}

static int to_range(const struct fuse_file_lock *lock, struct flock *range)
{
    if (lock->start > INT64_MAX || lock->end < lock->start || lock->type > F_UNLCK)
        return EINVAL;
    bool open_ended = lock->end >= INT64_MAX;
    *range = (struct flock){.l_type = (short)lock->type, .l_whence = SEEK_SET, .l_start = (off_t)lock->start,
                            .l_len = open_ended ? 0 : (off_t)(lock->end - lock->start + 1)};
    return 0;
}

int do_getlk(const struct request *request)
{
    const struct fuse_lk_in *in = BODY(request, struct fuse_lk_in);
    struct flock range;
    int error = in ? to_range(&in->lk, &range) : EINVAL;
    int fd = error ? -1 : owner_fd(request->head->nodeid, in->owner, in->fh);
    if (error || fd < 0 || fcntl(fd, F_OFD_GETLK, &range) < 0)
        return error ? error : errno;
    struct fuse_lk_out out = {.lk = {.start = (uint64_t)range.l_start, .type = (uint32_t)range.l_type,
                                     .end = range.l_len ? (uint64_t)(range.l_start + range.l_len - 1) : INT64_MAX}};
    return reply(request, &out, sizeof(out));
}

/* 0, or an errno; EAGAIN where somebody else has it. */
static int try_lock(uint64_t node, const struct fuse_lk_in *in)
{
    if (in->lk_flags & FUSE_LK_FLOCK) {
        static const int kinds[] = {[F_RDLCK] = LOCK_SH, [F_WRLCK] = LOCK_EX, [F_UNLCK] = LOCK_UN};
        struct handle *handle = handle_get(in->fh);
        if (!handle || in->lk.type >= COUNT_OF(kinds))
            return handle ? EINVAL : EBADF;
        return flock(handle->fd, kinds[in->lk.type] | LOCK_NB) < 0 ? errno : 0;
    }
    struct flock range;
    int error = to_range(&in->lk, &range);
    if (error)
        return error;
    if (range.l_type == F_UNLCK && !find_owner(node, in->owner))
        return 0;
    int fd = owner_fd(node, in->owner, in->fh);
    if (fd < 0 || fcntl(fd, F_OFD_SETLK, &range) < 0)
        return errno == EACCES ? EAGAIN : errno;
    return 0;
}

int do_setlk(const struct request *request)
{
    const struct fuse_lk_in *in = BODY(request, struct fuse_lk_in);
    int error = in ? try_lock(request->head->nodeid, in) : EINVAL;
    return error ? error : reply(request, NULL, 0);
}

int do_setlkw(const struct request *request)
{
    int error = do_setlk(request);
    if (error != EAGAIN)
        return error;
    for (unsigned i = 0; i < WAITING_MAX; i++) {
        if (!queue[i].used) {
            queue[i] = (struct waiting){request->head->unique, request->head->nodeid,
                                        *BODY(request, struct fuse_lk_in), true};
            queue_used++;
            return NO_REPLY;
        }
    }
    return ENOLCK;
}

bool locks_waiting(void)
{
    return queue_used > 0;
}

static void finish(struct waiting *wait, int error)
{
    wait->used = false;
    queue_used--;
    reply_later(wait->unique, error);
}

void locks_try(void)
{
    for (unsigned i = 0; queue_used && i < WAITING_MAX; i++) {
        if (!queue[i].used)
            continue;
        request_stamp();
        int error = try_lock(queue[i].node, &queue[i].in);
        if (error != EAGAIN)
            finish(&queue[i], error);
    }
}

int do_interrupt(const struct request *request)
{
    const struct fuse_interrupt_in *in = BODY(request, struct fuse_interrupt_in);
    for (unsigned i = 0; in && i < WAITING_MAX; i++)
        if (queue[i].used && queue[i].unique == in->unique)
            finish(&queue[i], EINTR);
    return NO_REPLY;
}

/* Whoever closes a file lets go of all his locks on it. */
int do_flush(const struct request *request)
{
    const struct fuse_flush_in *in = BODY(request, struct fuse_flush_in);
    struct owner *owner = in ? find_owner(request->head->nodeid, in->lock_owner) : NULL;
    if (owner)
        drop_owner(owner);
    return in ? reply(request, NULL, 0) : EINVAL;
}

void locks_forget_node(uint64_t node)
{
    for (unsigned i = owner_count; i-- > 0;)
        if (owners[i].node == node)
            drop_owner(&owners[i]);
}

void locks_forget_handle(uint64_t handle)
{
    for (unsigned i = owner_count; i-- > 0;)
        if (owners[i].handle == handle)
            drop_owner(&owners[i]);
}

void locks_forget_all(void)
{
    while (owner_count)
        drop_owner(&owners[0]);
}
