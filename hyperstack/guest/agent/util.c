#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define ARENA_BLOCK 16384

struct arena_block {
    struct arena_block *next;
    size_t used, size;
    _Alignas(16) uint8_t data[];
};

bool slice_equals(struct slice slice, const char *text)
{
    return slice.size == strlen(text) && memcmp(slice.data, text, slice.size) == 0;
}

uint8_t *buffer_grow(struct buffer *buffer, size_t size)
{
    if (buffer->failed || size > buffer->limit || buffer->size > buffer->limit - size) {
        buffer->failed = true;
        return NULL;
    }
    if (buffer->size + size > buffer->capacity) {
        size_t capacity = buffer->capacity ? buffer->capacity : 256;
        while (capacity < buffer->size + size)
            capacity *= 2;
        uint8_t *data = realloc(buffer->data, capacity);
        if (!data) {
            buffer->failed = true;
            return NULL;
        }
        buffer->data = data;
        buffer->capacity = capacity;
    }
    uint8_t *at = buffer->data + buffer->size;
    buffer->size += size;
    return at;
}

void buffer_add(struct buffer *buffer, const void *data, size_t size)
{
    uint8_t *at = buffer_grow(buffer, size);
    if (at && size)
        memcpy(at, data, size);
}

void buffer_free(struct buffer *buffer)
{
    free(buffer->data);
    *buffer = (struct buffer){.limit = buffer->limit};
}

void *arena_alloc(struct arena *arena, size_t size)
{
    size = (size + 15) & ~(size_t)15;
    struct arena_block *block = arena->blocks;
    if (!block || block->size - block->used < size) {
        size_t room = size > ARENA_BLOCK ? size : ARENA_BLOCK;
        block = calloc(1, sizeof(*block) + room);
        if (!block)
            return NULL;
        block->size = room;
        block->next = arena->blocks;
        arena->blocks = block;
    }
    void *at = block->data + block->used;
    block->used += size;
    return at;
}

char *arena_string(struct arena *arena, struct slice slice)
{
    char *text = arena_alloc(arena, (size_t)slice.size + 1);
    if (text && slice.size)
        memcpy(text, slice.data, slice.size);
    return text;
}

void arena_free(struct arena *arena)
{
    while (arena->blocks) {
        struct arena_block *next = arena->blocks->next;
        free(arena->blocks);
        arena->blocks = next;
    }
}

static int64_t clock_ns(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * NSEC_PER_SEC + time.tv_nsec;
}

int64_t now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

int64_t realtime_ns(void)
{
    return clock_ns(CLOCK_REALTIME);
}

int64_t uptime_ns(void)
{
    return clock_ns(CLOCK_BOOTTIME);
}

int write_text(int fd_at, const char *path, const char *text)
{
    int fd = openat(fd_at, path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t written = write(fd, text, strlen(text));
    int saved = errno;
    close(fd);
    errno = saved;
    return written < 0 ? -1 : 0;
}

ssize_t read_text(int fd_at, const char *path, char *text, size_t size)
{
    text[0] = 0;
    int fd = openat(fd_at, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    size_t have = 0;
    ssize_t got = 0;
    while (have < size - 1 && (got = read(fd, text + have, size - 1 - have)) > 0)
        have += (size_t)got;
    int saved = errno;
    close(fd);
    errno = saved;
    text[have] = 0;
    return got < 0 && have == 0 ? -1 : (ssize_t)have;
}

bool read_number(int fd_at, const char *path, uint64_t *number)
{
    char text[64];
    *number = 0;
    if (read_text(fd_at, path, text, sizeof(text)) <= 0)
        return false;
    return strncmp(text, "max", 3) == 0 || sscanf(text, "%" SCNu64, number) == 1;
}

int make_directory(const char *path, unsigned mode)
{
    return mkdir(path, mode) < 0 && errno != EEXIST ? -1 : 0;
}

void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void log_line(const char *format, ...)
{
    char line[512];
    int size = snprintf(line, sizeof(line), "agent: ");
    va_list arguments;
    va_start(arguments, format);
    size += vsnprintf(line + size, sizeof(line) - (size_t)size - 1, format, arguments);
    va_end(arguments);
    if ((size_t)size > sizeof(line) - 2)
        size = sizeof(line) - 2;
    line[size++] = '\n';
    /* A console that cannot be written to leaves nobody to tell. */
    if (write(STDERR_FILENO, line, (size_t)size) < 0)
        return;
}
