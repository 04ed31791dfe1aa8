/* Small things that every module of the agent uses: bytes, growing buffers, arenas, files, time, the log. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define CONTAINER_OF(pointer, type, member) ((type *)(void *)((char *)(pointer) - offsetof(type, member)))
#define PRINTF(text, first) __attribute__((format(printf, text, first)))

#define NSEC_PER_SEC 1000000000LL
#define PATH_LIMIT 4096 /* the kernel's PATH_MAX, with the terminator */

/* Bytes that somebody else owns. */
struct slice {
    const uint8_t *data;
    uint32_t size;
};

bool slice_equals(struct slice slice, const char *text);

/* A buffer that grows up to `limit` bytes; beyond it (or without memory) `failed` sticks and nothing is added. */
struct buffer {
    uint8_t *data;
    size_t size, capacity, limit;
    bool failed;
};

uint8_t *buffer_grow(struct buffer *buffer, size_t size); /* `size` more bytes to fill in, or NULL */
void buffer_add(struct buffer *buffer, const void *data, size_t size);
void buffer_free(struct buffer *buffer);

/* Memory that is freed all at once. Everything it hands out is zeroed. */
struct arena {
    struct arena_block *blocks;
};

void *arena_alloc(struct arena *arena, size_t size); /* NULL: no memory */
char *arena_string(struct arena *arena, struct slice slice);
void arena_free(struct arena *arena);

int64_t now_ns(void);      /* monotonic, for deadlines */
int64_t realtime_ns(void); /* since the epoch, for people */
int64_t uptime_ns(void);

/* Files of /proc, /sys and cgroups. `fd_at` is a directory or AT_FDCWD. Return -1 with errno. */
int write_text(int fd_at, const char *path, const char *text);
ssize_t read_text(int fd_at, const char *path, char *text, size_t size); /* always terminates `text` */
bool read_number(int fd_at, const char *path, uint64_t *number);         /* "max" reads as 0 */
int make_directory(const char *path, unsigned mode);                     /* an existing one is fine */
void close_fd(int *fd);                                                  /* closes and forgets; -1 is fine */

/* One line on the kernel's console, where the host keeps the last lines for its error messages. */
void log_line(const char *format, ...) PRINTF(1, 2);

static inline uint32_t get_le32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t get_le64(const uint8_t *p)
{
    return get_le32(p) | (uint64_t)get_le32(p + 4) << 32;
}

static inline void put_le32(uint8_t *p, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(value >> (8 * i));
}

static inline void put_le64(uint8_t *p, uint64_t value)
{
    put_le32(p, (uint32_t)value);
    put_le32(p + 4, (uint32_t)(value >> 32));
}
