/* The tar format: POSIX pax and ustar, and GNU's long names and large numbers when reading. Pure but for the callbacks:
 * what it reads is hostile, and bounded. */
#pragma once

#include "msgpack.h"

#define TAR_BLOCK 512
#define TAR_XATTRS_MAX 64
#define TAR_EXTENDED_MAX (1024 * 1024) /* bytes of one entry's extended header */

enum tar_type {
    TAR_FILE = '0',
    TAR_LINK = '1',
    TAR_SYMLINK = '2',
    TAR_CHARACTER = '3',
    TAR_BLOCK_DEVICE = '4',
    TAR_DIRECTORY = '5',
    TAR_FIFO = '6',
};

struct tar_xattr {
    const char *name;
    struct slice value;
};

struct tar_entry {
    enum tar_type type;
    char path[PATH_LIMIT], link[PATH_LIMIT];
    uint32_t mode, uid, gid, major, minor;
    uint64_t size; /* of the data that follows: files alone have any */
    int64_t mtime_s;
    uint32_t mtime_ns;
    struct tar_xattr xattrs[TAR_XATTRS_MAX];
    size_t xattr_count;
};

/* Returns how many bytes it read (less than asked for only at the end), or -1 with errno. */
typedef ssize_t tar_source(void *context, uint8_t *data, size_t size);

struct tar_reader {
    tar_source *source;
    void *context;
    uint64_t left;  /* of the present entry's data */
    size_t padding; /* behind it */
    struct arena extended; /* holds the present entry's extended attributes */
};

/* 1: an entry; 0: the archive's end; -1: `problem` says what is wrong. Skips data that was not read. */
int tar_next(struct tar_reader *reader, struct tar_entry *entry, struct problem *problem);
/* At most `size` bytes of the entry's data; 0 at its end, -1 with `problem`. */
ssize_t tar_data(struct tar_reader *reader, uint8_t *data, size_t size, struct problem *problem);
void tar_close(struct tar_reader *reader);

/* Appends an entry's header, with an extended one before it where the plain one does not suffice. */
void tar_put_header(struct buffer *out, const struct tar_entry *entry);
