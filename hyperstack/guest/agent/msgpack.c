#include "msgpack.h"

#include <string.h>

struct mp_reader mp_reader(struct slice slice)
{
    return (struct mp_reader){slice.data, slice.data + slice.size};
}

static size_t left(const struct mp_reader *reader)
{
    return (size_t)(reader->end - reader->at);
}

static bool big_endian(struct mp_reader *reader, unsigned size, uint64_t *number)
{
    if (left(reader) < size)
        return false;
    *number = 0;
    for (unsigned i = 0; i < size; i++)
        *number = *number << 8 | reader->at[i];
    reader->at += size;
    return true;
}

static bool take_bytes(struct mp_reader *reader, uint64_t size, struct mp_value *value, enum mp_type type)
{
    if (left(reader) < size)
        return false;
    value->type = type;
    value->bytes = (struct slice){reader->at, (uint32_t)size};
    reader->at += size;
    return true;
}

static bool take_sized_bytes(struct mp_reader *reader, unsigned width, struct mp_value *value, enum mp_type type)
{
    uint64_t size;
    return big_endian(reader, width, &size) && take_bytes(reader, size, value, type);
}

/* Every element takes a byte at least, so a count beyond what is left is a lie: refuse it before anyone allocates. */
static bool take_count(struct mp_reader *reader, uint64_t count, struct mp_value *value, enum mp_type type)
{
    value->type = type;
    value->count = (uint32_t)count;
    return count * (type == MP_MAP ? 2 : 1) <= left(reader);
}

static bool take_sized_count(struct mp_reader *reader, unsigned width, struct mp_value *value, enum mp_type type)
{
    uint64_t count;
    return big_endian(reader, width, &count) && take_count(reader, count, value, type);
}

static bool take_unsigned(struct mp_reader *reader, unsigned width, struct mp_value *value)
{
    value->type = MP_INT;
    return big_endian(reader, width, &value->number);
}

static bool take_signed(struct mp_reader *reader, unsigned width, struct mp_value *value)
{
    if (!take_unsigned(reader, width, value))
        return false;
    unsigned unused = 64 - 8 * width;
    int64_t number = (int64_t)(value->number << unused) >> unused;
    value->number = (uint64_t)number;
    value->negative = number < 0;
    return true;
}

bool mp_next(struct mp_reader *reader, struct mp_value *value)
{
    *value = (struct mp_value){0};
    if (!left(reader))
        return false;
    uint8_t tag = *reader->at++;
    if (tag < 0x80 || tag >= 0xe0) {
        value->type = MP_INT;
        value->number = (uint64_t)(int64_t)(int8_t)tag;
        value->negative = tag >= 0xe0;
        return true;
    }
    if (tag < 0x90)
        return take_count(reader, tag & 0x0f, value, MP_MAP);
    if (tag < 0xa0)
        return take_count(reader, tag & 0x0f, value, MP_ARRAY);
    if (tag < 0xc0)
        return take_bytes(reader, tag & 0x1f, value, MP_STR);
    switch (tag) {
    case 0xc0:
        value->type = MP_NIL;
        return true;
    case 0xc2:
    case 0xc3:
        value->type = MP_BOOL;
        value->number = tag & 1;
        return true;
    case 0xc4:
    case 0xc5:
    case 0xc6:
        return take_sized_bytes(reader, 1U << (tag - 0xc4), value, MP_BIN);
    case 0xcc:
    case 0xcd:
    case 0xce:
    case 0xcf:
        return take_unsigned(reader, 1U << (tag - 0xcc), value);
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
        return take_signed(reader, 1U << (tag - 0xd0), value);
    case 0xd9:
    case 0xda:
    case 0xdb:
        return take_sized_bytes(reader, 1U << (tag - 0xd9), value, MP_STR);
    case 0xdc:
    case 0xdd:
        return take_sized_count(reader, 2U << (tag - 0xdc), value, MP_ARRAY);
    case 0xde:
    case 0xdf:
        return take_sized_count(reader, 2U << (tag - 0xde), value, MP_MAP);
    default: /* floats and extensions: the protocol has none */
        return false;
    }
}

static bool skip(struct mp_reader *reader, unsigned depth)
{
    struct mp_value value;
    if (!mp_next(reader, &value))
        return false;
    if (value.type != MP_ARRAY && value.type != MP_MAP)
        return true;
    if (depth == 0)
        return false;
    for (uint32_t i = 0; i < value.count; i++) {
        if (value.type == MP_MAP) {
            struct mp_value key;
            if (!mp_next(reader, &key) || key.type != MP_STR)
                return false;
        }
        if (!skip(reader, depth - 1))
            return false;
    }
    return true;
}

bool mp_skip(struct mp_reader *reader)
{
    return skip(reader, MP_DEPTH);
}

bool mp_valid(struct slice slice)
{
    struct mp_reader reader = mp_reader(slice);
    return mp_skip(&reader) && reader.at == reader.end;
}

bool mp_integer(const struct mp_value *value, int64_t min, int64_t max, int64_t *integer)
{
    if (value->type != MP_INT || (!value->negative && value->number > INT64_MAX))
        return false;
    *integer = (int64_t)value->number;
    return *integer >= min && *integer <= max;
}

static void put_tagged(struct buffer *out, uint8_t tag, uint64_t number, unsigned width)
{
    uint8_t *at = buffer_grow(out, 1 + width);
    if (!at)
        return;
    *at++ = tag;
    for (unsigned i = width; i-- > 0;)
        *at++ = (uint8_t)(number >> (8 * i));
}

/* `tags` for lengths of one, two and four bytes; 0 where msgpack has none. */
static void put_length(struct buffer *out, const uint8_t tags[3], uint64_t length)
{
    if (length <= UINT8_MAX && tags[0])
        put_tagged(out, tags[0], length, 1);
    else if (length <= UINT16_MAX)
        put_tagged(out, tags[1], length, 2);
    else
        put_tagged(out, tags[2], length, 4);
}

void mp_put_map(struct buffer *out, uint32_t pairs)
{
    if (pairs < 16)
        put_tagged(out, (uint8_t)(0x80 | pairs), 0, 0);
    else
        put_length(out, (const uint8_t[]){0, 0xde, 0xdf}, pairs);
}

void mp_put_array(struct buffer *out, uint32_t values)
{
    if (values < 16)
        put_tagged(out, (uint8_t)(0x90 | values), 0, 0);
    else
        put_length(out, (const uint8_t[]){0, 0xdc, 0xdd}, values);
}

void mp_put_uint(struct buffer *out, uint64_t number)
{
    if (number < 0x80)
        put_tagged(out, (uint8_t)number, 0, 0);
    else if (number <= UINT32_MAX)
        put_length(out, (const uint8_t[]){0xcc, 0xcd, 0xce}, number);
    else
        put_tagged(out, 0xcf, number, 8);
}

void mp_put_int(struct buffer *out, int64_t number)
{
    if (number >= 0)
        mp_put_uint(out, (uint64_t)number);
    else
        put_tagged(out, 0xd3, (uint64_t)number, 8);
}

void mp_put_bool(struct buffer *out, bool value)
{
    put_tagged(out, value ? 0xc3 : 0xc2, 0, 0);
}

void mp_put_str(struct buffer *out, const char *text)
{
    size_t size = strlen(text);
    if (size < 32)
        put_tagged(out, (uint8_t)(0xa0 | size), 0, 0);
    else
        put_length(out, (const uint8_t[]){0xd9, 0xda, 0xdb}, size);
    buffer_add(out, text, size);
}

void mp_put_bin(struct buffer *out, const void *data, size_t size)
{
    put_length(out, (const uint8_t[]){0xc4, 0xc5, 0xc6}, size);
    buffer_add(out, data, size);
}

void mp_key_uint(struct buffer *out, const char *key, uint64_t number)
{
    mp_put_str(out, key);
    mp_put_uint(out, number);
}

void mp_key_int(struct buffer *out, const char *key, int64_t number)
{
    mp_put_str(out, key);
    mp_put_int(out, number);
}

void mp_key_bool(struct buffer *out, const char *key, bool value)
{
    mp_put_str(out, key);
    mp_put_bool(out, value);
}

void mp_key_str(struct buffer *out, const char *key, const char *text)
{
    mp_put_str(out, key);
    mp_put_str(out, text);
}

void mp_key_bin(struct buffer *out, const char *key, const void *data, size_t size)
{
    mp_put_str(out, key);
    mp_put_bin(out, data, size);
}
