/* Tar in and out of a container's root. These run in a child of their own, whose root is the container's. */
#pragma once

#include "msgpack.h"

struct unpack_options {
    int root;         /* nothing outside of it can be reached */
    const char *path; /* the directory in it to unpack below */
    bool no_overwrite_dir_non_dir;
    bool owned; /* by `uid` and `gid`, whatever the archive says */
    unsigned uid, gid;
};

/* Large files pass by the page cache, in which they cost as much as all else: from one disk to another, in memory that is
 * aligned to DIRECT_ALIGN, and in multiples of it. False: the file's system does not do it. */
#define DIRECT_ALIGN 4096
#define DIRECT_LEAST (1024 * 1024)
bool direct_io(int fd, bool on);

bool archive_read(const char *path, int out, struct problem *problem);
bool archive_write(const struct unpack_options *options, int in, struct problem *problem);
/* What is in one directory into another, which takes its owner and mode as well. */
bool archive_copy(int from, int to, struct problem *problem);

/* pack.c */

enum pack_view {
    PACK_PATH,  /* files with the volumes among them */
    PACK_TREE,  /* a whole root; its names begin at it */
    PACK_LAYER, /* the same of a writable layer, what it hides told as images tell it */
};

struct pack_job {
    int directory;
    const char *name, *as; /* `name` in `directory`, called `as` in the archive */
    enum pack_view view;
    char *const *mount_points; /* PACK_LAYER: see layer.h */
};

bool pack(const struct pack_job *job, int out, struct problem *problem);

/* pack.c: all of the buffer to `fd`, and empty it; false where that, or what was added before, failed. `what` is written,
 * for the error. */
bool archive_flush(struct buffer *buffer, int fd, const char *what, struct problem *problem);
