/* What the guest knows by a number. A node has an O_PATH descriptor where there is one to spare; else it is found again
 * in its parent by the name it was found by, and has to be the same file then. */
#include "serve.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define NODES_MAX (1U << 20) /* some 150 bytes each */
#define DEPTH_MAX 512
#define DEVICES_MAX 128      /* file systems that get numbers of their own */

static struct node *nodes;
static uint32_t capacity, free_list = NONE, serials;
static uint32_t *buckets;
static uint32_t bucket_count;
static uint32_t count;
static unsigned open_count, open_max, stamp;
static uint32_t hand;

unsigned request_stamp(void)
{
    return ++stamp;
}

struct fd_path path_of(int fd)
{
    struct fd_path path;
    snprintf(path.text, sizeof(path.text), "%d", fd);
    return path;
}

static uint32_t index_of(const struct node *node)
{
    return (uint32_t)(node - nodes);
}

uint64_t node_id(const struct node *node)
{
    /* FUSE's own number for the root is 1. Serials tell a node from an earlier one in its place. */
    return index_of(node) == ROOT ? FUSE_ROOT_ID : (uint64_t)node->serial << 32 | (index_of(node) + 1);
}

struct node *node_get(uint64_t id)
{
    uint32_t index = (uint32_t)id - 1;
    if ((uint32_t)id == 0 || index >= capacity || !nodes[index].used || node_id(&nodes[index]) != id)
        return NULL;
    nodes[index].stamp = stamp;
    return &nodes[index];
}

static uint32_t *bucket_of(dev_t dev, ino_t ino, uint16_t mount)
{
    uint64_t hash = ((uint64_t)ino + mount) * 0x9E3779B97F4A7C15ULL ^ (uint64_t)dev * 0xC2B2AE3D27D4EB4FULL;
    return &buckets[(hash ^ hash >> 32) & (bucket_count - 1)];
}

static struct node *find(dev_t dev, ino_t ino, uint16_t mount)
{
    for (uint32_t at = *bucket_of(dev, ino, mount); at != NONE; at = nodes[at].next)
        if (nodes[at].dev == dev && nodes[at].ino == ino && nodes[at].mount == mount)
            return &nodes[at];
    return NULL;
}

static bool grow_buckets(void)
{
    uint32_t size = bucket_count ? bucket_count * 2 : 256;
    uint32_t *fresh = malloc(size * sizeof(*fresh));
    if (!fresh)
        return bucket_count > 0; /* longer chains, then */
    memset(fresh, 0xff, size * sizeof(*fresh));
    free(buckets);
    buckets = fresh;
    bucket_count = size;
    for (uint32_t i = 0; i < capacity; i++) {
        if (nodes[i].used) {
            uint32_t *bucket = bucket_of(nodes[i].dev, nodes[i].ino, nodes[i].mount);
            nodes[i].next = *bucket;
            *bucket = i;
        }
    }
    return true;
}

/* Addresses for all that there may be were set aside, so that a node stays where it is. */
static bool grow_nodes(void)
{
    uint32_t size = capacity ? capacity * 2 : 256;
    if (size > NODES_MAX)
        return false;
    for (uint32_t i = size; i-- > capacity;) {
        nodes[i] = (struct node){.next = free_list};
        free_list = i;
    }
    capacity = size;
    return true;
}

/* NULL: there are too many. */
static struct node *add(const struct stat *status, uint16_t mount, int fd)
{
    if ((free_list == NONE && !grow_nodes()) || (count >= bucket_count && !grow_buckets()))
        return NULL;
    struct node *node = &nodes[free_list];
    free_list = node->next;
    uint32_t *bucket = bucket_of(status->st_dev, status->st_ino, mount);
    *node = (struct node){.dev = status->st_dev, .ino = status->st_ino, .mount = mount, .fd = fd, .used = true,
                          .type = status->st_mode & S_IFMT, .parent = NONE, .serial = ++serials, .next = *bucket,
                          .stamp = stamp, .changed_ns = -1};
    *bucket = index_of(node);
    count++;
    open_count += fd >= 0;
    return node;
}

static void drop_descriptor(struct node *node)
{
    if (node->fd >= 0) {
        close(node->fd);
        open_count--;
    }
    node->fd = -1;
}

/* Closes descriptors that nothing needs at the moment, the clock's way. */
static void make_room(void)
{
    for (uint32_t tries = 0; open_count >= open_max && tries < capacity; tries++) {
        struct node *node = &nodes[hand++ % capacity];
        if (node->used && node->fd >= 0 && !node->pinned && node->name && node->stamp != stamp)
            drop_descriptor(node);
    }
}

static void release(struct node *node)
{
    while (node && index_of(node) != ROOT && node->lookups == 0 && node->children == 0) {
        uint32_t *at = bucket_of(node->dev, node->ino, node->mount);
        while (*at != index_of(node))
            at = &nodes[*at].next;
        *at = node->next;
        drop_descriptor(node);
        free(node->name);
        struct node *parent = node->parent == NONE ? NULL : &nodes[node->parent];
        locks_forget_node(node_id(node));
        *node = (struct node){.next = free_list};
        free_list = index_of(node);
        count--;
        if (parent)
            parent->children--;
        node = parent;
    }
}

static void set_name(struct node *node, struct node *directory, const char *name)
{
    struct node *before = node->parent == NONE ? NULL : &nodes[node->parent];
    if (node == directory || (before == directory && node->name && strcmp(node->name, name) == 0))
        return;
    char *copy = strdup(name);
    free(node->name);
    node->name = copy;
    if (!copy)
        node->pinned = true;
    node->parent = index_of(directory);
    directory->children++;
    if (before) {
        before->children--;
        release(before);
    }
}

bool nodes_init(int root, unsigned descriptors)
{
    struct stat status;
    open_max = descriptors;
    nodes = mmap(NULL, NODES_MAX * sizeof(*nodes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                 -1, 0);
    if (nodes == MAP_FAILED)
        return false;
    if (fstat(root, &status) < 0 || !add(&status, 0, root))
        return false;
    nodes[ROOT].lookups = 1;
    return true;
}

static bool is_same(const struct node *node, const struct stat *status)
{
    return status->st_dev == node->dev && status->st_ino == node->ino && (status->st_mode & S_IFMT) == node->type;
}

static int reopen(struct node *node, unsigned depth)
{
    struct stat status;
    if (node->fd >= 0)
        return node->fd;
    errno = ESTALE;
    if (depth > DEPTH_MAX || node->parent == NONE || !node->name)
        return -1;
    int parent = reopen(&nodes[node->parent], depth + 1);
    if (parent < 0)
        return -1;
    nodes[node->parent].stamp = stamp;
    make_room();
    int fd = openat(parent, node->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        errno = errno == ENOENT || errno == ENOTDIR ? ESTALE : errno;
        return -1;
    }
    if (fstat(fd, &status) < 0 || !is_same(node, &status)) {
        close(fd);
        errno = ESTALE;
        return -1;
    }
    open_count++;
    return node->fd = fd;
}

int node_fd(struct node *node)
{
    node->stamp = stamp;
    return reopen(node, 0);
}

int node_find(struct node *directory, const char *name, struct node **found, struct stat *status)
{
    int parent = node_fd(directory);
    if (parent < 0)
        return errno;
    make_room();
    int fd = openat(parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno;
    if (fstat(fd, status) < 0) {
        int error = errno;
        close(fd);
        return error;
    }
    /* Below the root are the shares, each a mount of its own by the number that is its name. */
    uint16_t mount = index_of(directory) == ROOT ? (uint16_t)(atoi(name) + 1) : directory->mount;
    struct node *node = find(status->st_dev, status->st_ino, mount);
    if (node && node->type != (status->st_mode & S_IFMT)) { /* the number was used again, and the guest has the old file */
        close(fd);
        return ESTALE;
    }
    if (!node) {
        node = add(status, mount, fd);
        if (!node) {
            close(fd);
            return ENFILE;
        }
    } else if (node->fd < 0) {
        node->fd = fd;
        open_count++;
    } else {
        close(fd);
    }
    node->pinned = false;
    node->lookups++;
    node->stamp = stamp;
    set_name(node, directory, name);
    *found = node;
    return 0;
}

void node_forget(struct node *node, uint64_t lookups)
{
    if (index_of(node) == ROOT)
        return;
    node->lookups -= lookups < node->lookups ? lookups : node->lookups;
    release(node);
}

static struct node *known(struct node *directory, const char *name)
{
    struct stat status;
    int parent = node_fd(directory);
    if (parent < 0 || fstatat(parent, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return NULL;
    return find(status.st_dev, status.st_ino, directory->mount);
}

void node_keep(struct node *directory, const char *name)
{
    struct node *node = known(directory, name);
    if (node && node_fd(node) >= 0)
        node->pinned = true;
}

void node_moved(struct node *directory, const char *name)
{
    struct node *node = known(directory, name);
    if (node && node != directory) {
        set_name(node, directory, name);
        node->pinned = false;
    }
}

void nodes_forget_all(void)
{
    for (uint32_t i = 1; i < capacity; i++)
        nodes[i].lookups = 0;
    for (uint32_t i = 1; i < capacity; i++)
        if (nodes[i].used)
            release(&nodes[i]);
}

uint64_t node_number(const struct stat *status)
{
    static dev_t devices[DEVICES_MAX];
    static unsigned known_devices;
    unsigned at = 0;
    while (at < known_devices && devices[at] != status->st_dev)
        at++;
    if (at == known_devices && at < DEVICES_MAX)
        devices[known_devices++] = status->st_dev;
    return status->st_ino ^ (uint64_t)at << 56;
}
