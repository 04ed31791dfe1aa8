/* System calls without a C library: this code runs within the loader of one that it was not compiled against. */
#pragma once

#include <errno.h>
#include <stddef.h>
#include <sys/syscall.h>

#define EXPORTED __attribute__((visibility("default")))

static inline long raw(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;

    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

#define RAW_6(number, a, b, c, d, e, f, ...) \
    raw((number), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
/* Arguments that are left out are 0. */
#define RAW(...) RAW_6(__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)

/* As a C library tells it: -1 and `errno`. */
static inline long told(long result)
{
    if (result < 0 && result > -4096) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

/* What follows the prefix, or NULL where the text has another. */
static inline const char *after(const char *text, const char *prefix)
{
    for (; *prefix; text++, prefix++)
        if (*text != *prefix)
            return NULL;
    return text;
}

/* A small number that a text consists of, or -1. */
static inline int small_number(const char *text)
{
    int number = 0;

    for (; *text >= '0' && *text <= '9' && number < 100000; text++)
        number = number * 10 + *text - '0';
    return *text ? -1 : number;
}

/* filter.c: forbids this thread, and what it makes from now on, all calls that no machine needs. */
long install_filter(void);
