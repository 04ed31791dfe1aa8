/* The part of msgpack that the protocol uses. The reader takes hostile bytes: it never reads beyond their end, never
 * allocates, and nests at most MP_DEPTH levels. */
#pragma once

#include "util.h"

#define MP_DEPTH 8

enum mp_type { MP_NIL, MP_BOOL, MP_INT, MP_STR, MP_BIN, MP_ARRAY, MP_MAP };

struct mp_value {
    enum mp_type type;
    bool negative;      /* MP_INT: `number` holds the two's complement */
    uint64_t number;    /* MP_INT, MP_BOOL */
    struct slice bytes; /* MP_STR, MP_BIN */
    uint32_t count;     /* MP_ARRAY: values, MP_MAP: pairs */
};

struct mp_reader {
    const uint8_t *at, *end;
};

struct mp_reader mp_reader(struct slice slice);
bool mp_next(struct mp_reader *reader, struct mp_value *value); /* a scalar, or the head of an array or a map */
bool mp_skip(struct mp_reader *reader);                         /* one whole value, checked */
bool mp_valid(struct slice slice);                              /* exactly one value, checked to its depth */
bool mp_integer(const struct mp_value *value, int64_t min, int64_t max, int64_t *integer);

void mp_put_map(struct buffer *out, uint32_t pairs);
void mp_put_array(struct buffer *out, uint32_t values);
void mp_put_uint(struct buffer *out, uint64_t number);
void mp_put_int(struct buffer *out, int64_t number);
void mp_put_bool(struct buffer *out, bool value);
void mp_put_str(struct buffer *out, const char *text);
void mp_put_bin(struct buffer *out, const void *data, size_t size);

/* A key and its value, the way nearly every line of a reply reads. */
void mp_key_uint(struct buffer *out, const char *key, uint64_t number);
void mp_key_int(struct buffer *out, const char *key, int64_t number);
void mp_key_bool(struct buffer *out, const char *key, bool value);
void mp_key_str(struct buffer *out, const char *key, const char *text);
void mp_key_bin(struct buffer *out, const char *key, const void *data, size_t size);

/* Records: a map whose keys are known. Unknown and repeated keys, missing ones, wrong types and numbers or lengths
 * outside min..max are refused. Optional keys that are absent or nil leave the field as the caller set it. */
enum field_kind {
    FIELD_BOOL,  /* bool */
    FIELD_INT,   /* int64_t */
    FIELD_TEXT,  /* char *: a str or bin without NUL, copied to the arena */
    FIELD_BYTES, /* struct slice of a bin, in place */
    FIELD_ARRAY, /* struct slice of the whole value, in place */
    FIELD_MAP,   /* the same */
};

struct field {
    const char *key;
    enum field_kind kind;
    bool optional;
    size_t offset;
    int64_t min, max;
};

#define DECODE_FIELDS_MAX 32

/* What was wrong, for the peer to read. */
struct problem {
    int error; /* errno */
    char text[256];
};

/* Always returns false, so that a check can end in `return fail(...)`. */
bool fail(struct problem *problem, int error, const char *format, ...) PRINTF(3, 4);

bool decode_record(struct slice value, const struct field *fields, size_t count, void *record, struct arena *arena,
                   struct problem *problem);

/* An array of texts (bin or str without NUL) as a NULL-terminated vector in the arena. */
bool decode_texts(struct slice value, const char *what, size_t max, char ***texts, struct arena *arena,
                  struct problem *problem);

/* The values of an array as slices in the arena; an absent array (NULL data) has none. */
bool decode_array(struct slice value, const char *what, size_t max, struct slice **values, size_t *count,
                  struct arena *arena, struct problem *problem);
