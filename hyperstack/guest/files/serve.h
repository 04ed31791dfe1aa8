/* A file server for one machine: FUSE requests of its kernel come over a socket, and are done on the host's files.
 *
 * Who asks is hostile: each number is checked, names are single components, links are never followed, and only plain
 * files and directories are opened. A function that answers a request returns 0 where it has sent the reply itself,
 * NO_REPLY where there is none, or an errno. */
#pragma once

#include <linux/fuse.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "tray.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define NO_REPLY (-1)

#define MAX_DATA TRAY_PLACE    /* bytes of one read or write */
#define MAX_REQUEST (MAX_DATA + 4096 + (int)sizeof(struct fuse_in_header))
#define ROOT 0U               /* index of the root's node */
#define NONE UINT32_MAX

/* What the guest knows by a number: a file, as long as it has not forgotten it. */
struct node {
    dev_t dev;
    ino_t ino;
    uint64_t lookups;   /* that the guest has not forgotten */
    char *name;         /* the last one that it was found by, in `parent` */
    int64_t changed_ns; /* its ctime when it was opened last */
    uint32_t parent, next, serial;
    uint32_t children;  /* nodes that it is the parent of */
    uint32_t stamp;     /* the last request that used it */
    int fd;             /* O_PATH; -1: closed for want of descriptors, and found again by its name */
    uint16_t mount;     /* which share it is of */
    mode_t type;
    bool used, pinned;  /* pinned: its name is gone, so its descriptor stays */
};

struct request {
    const struct fuse_in_header *head;
    const char *body; /* a zero byte follows it */
    size_t size;
};

/* session.c: the stream */
int session_run(int fd);
int reply(const struct request *request, const void *data, size_t size);
int reply_parts(const struct request *request, struct iovec *parts, int count); /* parts[0] is for the header */
void reply_later(uint64_t unique, int error);                                    /* a request that had to wait */
void session_tray(char *memory); /* of TRAY_PLACES places */
void session_tray_disk(int fd);  /* in its place: a disk of twice as many, opened with O_DIRECT */
char *tray_place(void);          /* where data of MAX_DATA may be put; NULL: nobody would look there */
int reply_by_tray(const struct request *request, size_t size); /* what was put there */

/* nodes.c: what the guest knows */
bool nodes_init(int root, unsigned descriptors);
struct node *node_get(uint64_t id);          /* NULL: there is none */
int node_fd(struct node *node);              /* its O_PATH descriptor; -1 with errno (ESTALE: it is not there any more) */
uint64_t node_id(const struct node *node);
/* Finds `name` in a directory and counts a look-up; an errno. `status` is the file's. */
int node_find(struct node *directory, const char *name, struct node **found, struct stat *status);
void node_forget(struct node *node, uint64_t lookups);
/* Before and after the name of a file goes to another, or away. */
void node_keep(struct node *directory, const char *name);
void node_moved(struct node *directory, const char *name);
void nodes_forget_all(void);
uint64_t node_number(const struct stat *status); /* an inode number that is unique over all that is shared */
unsigned request_stamp(void);                    /* begins one: what it uses from here on keeps its descriptor */

/* A node's descriptor as a path relative to the working directory, which is /proc/self/fd. */
struct fd_path {
    char text[16];
};
struct fd_path path_of(int fd);

/* handles.c: what the guest has open */
struct handle {
    int fd;
    uint32_t serial;
    int64_t position; /* of a directory */
    bool used;
};
bool handles_init(unsigned count);
uint64_t handle_add(int fd); /* 0: too many; the descriptor is closed */
struct handle *handle_get(uint64_t number);
void handle_remove(uint64_t number);

/* Requests, by what they are about. */
int do_lookup(const struct request *request);
int do_forget(const struct request *request);
int do_batch_forget(const struct request *request);
int do_getattr(const struct request *request);
int do_setattr(const struct request *request);
int do_readlink(const struct request *request);
int do_statfs(const struct request *request);
int reply_entry(const struct request *request, struct node *directory, const char *name);
int entry_of(struct node *directory, const char *name, struct fuse_entry_out *entry);

int do_mknod(const struct request *request);
int do_mkdir(const struct request *request);
int do_symlink(const struct request *request);
int do_link(const struct request *request);
int do_unlink(const struct request *request);
int do_rmdir(const struct request *request);
int do_rename(const struct request *request);
int do_rename2(const struct request *request);
int do_create(const struct request *request);

int do_open(const struct request *request);
int do_read(const struct request *request);
int do_write(const struct request *request);
int do_tray_write(const struct request *request);
bool tray_fetch(const struct tray_answer *where, void *data); /* what a write has put there, whole sectors; else errno */
int do_release(const struct request *request);
int do_fsync(const struct request *request);
int do_syncfs(const struct request *request);
int do_fallocate(const struct request *request);
int do_lseek(const struct request *request);
int do_copy_file_range(const struct request *request);
int open_flags(uint32_t asked);

int do_opendir(const struct request *request);
int do_readdir(const struct request *request);
int do_readdirplus(const struct request *request);

int do_setxattr(const struct request *request);
int do_getxattr(const struct request *request);
int do_listxattr(const struct request *request);
int do_removexattr(const struct request *request);

int do_flush(const struct request *request);
int do_getlk(const struct request *request);
int do_setlk(const struct request *request);
int do_setlkw(const struct request *request);
int do_interrupt(const struct request *request);
bool locks_waiting(void);
void locks_try(void);                       /* those that wait */
void locks_forget_node(uint64_t node);
void locks_forget_handle(uint64_t handle);
void locks_forget_all(void);

/* Bodies: the record at their start, or NULL where they are too short; and the name after it. */
#define BODY(request, type) ((const type *)take_body(request, sizeof(type)))
const void *take_body(const struct request *request, size_t size);
const char *take_name(const struct request *request, size_t offset, size_t *after); /* NULL: no single component */

/* confine.c */
struct share {
    int fd; /* of the directory or file; later of its mount */
    bool read_only, flat; /* flat: without what is mounted below it */
};
void confine(struct share *shares, unsigned count, const int *cgroups, unsigned cgroup_count, bool as_user, uid_t uid,
             gid_t gid, const gid_t *groups, unsigned group_count, int *root);
void may_set_group_bits(bool may);
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
int begin_as(const struct request *request); /* whose files the next ones are; undone by end_as */
void end_as(void);
