/* Records out of msgpack maps, by tables of their fields. */
#include "msgpack.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

bool fail(struct problem *problem, int error, const char *format, ...)
{
    problem->error = error;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(problem->text, sizeof(problem->text), format, arguments);
    va_end(arguments);
    return false;
}

static const struct field *find_field(const struct field *fields, size_t count, struct slice key)
{
    for (size_t i = 0; i < count; i++)
        if (slice_equals(key, fields[i].key))
            return &fields[i];
    return NULL;
}

static bool take_text(const struct field *field, const struct mp_value *value, char **text, struct arena *arena,
                      struct problem *problem)
{
    if (value->type != MP_STR && value->type != MP_BIN)
        return fail(problem, EINVAL, "%s is not a string", field->key);
    if (value->bytes.size < field->min || value->bytes.size > field->max)
        return fail(problem, EINVAL, "%s has %" PRIu32 " bytes, allowed are %" PRId64 " to %" PRId64, field->key,
                    value->bytes.size, field->min, field->max);
    if (value->bytes.size && memchr(value->bytes.data, 0, value->bytes.size))
        return fail(problem, EINVAL, "%s contains a zero byte", field->key);
    *text = arena_string(arena, value->bytes);
    return *text || fail(problem, ENOMEM, "no memory for %s", field->key);
}

static bool take_field(const struct field *field, struct mp_reader *reader, void *record, struct arena *arena,
                       struct problem *problem)
{
    const uint8_t *start = reader->at;
    struct mp_value value;
    if (!mp_next(reader, &value))
        return fail(problem, EINVAL, "%s is garbled", field->key);
    if (value.type == MP_NIL && field->optional)
        return true;
    void *into = (char *)record + field->offset;
    switch (field->kind) {
    case FIELD_BOOL:
        if (value.type != MP_BOOL)
            return fail(problem, EINVAL, "%s is not a boolean", field->key);
        *(bool *)into = value.number != 0;
        return true;
    case FIELD_INT:
        if (!mp_integer(&value, field->min, field->max, into))
            return fail(problem, EINVAL, "%s is not an integer from %" PRId64 " to %" PRId64, field->key, field->min,
                        field->max);
        return true;
    case FIELD_TEXT:
        return take_text(field, &value, into, arena, problem);
    case FIELD_BYTES:
        if (value.type != MP_BIN || value.bytes.size < field->min || value.bytes.size > field->max)
            return fail(problem, EINVAL, "%s is not a binary of %" PRId64 " to %" PRId64 " bytes", field->key,
                        field->min, field->max);
        *(struct slice *)into = value.bytes;
        return true;
    case FIELD_ARRAY:
    case FIELD_MAP:
        if (value.type != (field->kind == FIELD_ARRAY ? MP_ARRAY : MP_MAP))
            return fail(problem, EINVAL, "%s is not %s", field->key, field->kind == FIELD_ARRAY ? "an array" : "a map");
        reader->at = start;
        if (!mp_skip(reader))
            return fail(problem, EINVAL, "%s is garbled", field->key);
        *(struct slice *)into = (struct slice){start, (uint32_t)(reader->at - start)};
        return true;
    }
    return false;
}

bool decode_record(struct slice slice, const struct field *fields, size_t count, void *record, struct arena *arena,
                   struct problem *problem)
{
    struct mp_reader reader = mp_reader(slice);
    struct mp_value map, key;
    bool seen[DECODE_FIELDS_MAX] = {false};
    if (!mp_next(&reader, &map) || map.type != MP_MAP)
        return fail(problem, EINVAL, "not a map");
    for (uint32_t i = 0; i < map.count; i++) {
        if (!mp_next(&reader, &key) || key.type != MP_STR)
            return fail(problem, EINVAL, "a key is not a string");
        const struct field *field = find_field(fields, count, key.bytes);
        if (!field)
            return fail(problem, EINVAL, "unknown key %.*s", (int)(key.bytes.size > 64 ? 64 : key.bytes.size),
                        (const char *)key.bytes.data);
        if (seen[field - fields])
            return fail(problem, EINVAL, "%s is given twice", field->key);
        seen[field - fields] = true;
        if (!take_field(field, &reader, record, arena, problem))
            return false;
    }
    for (size_t i = 0; i < count; i++)
        if (!seen[i] && !fields[i].optional)
            return fail(problem, EINVAL, "%s is missing", fields[i].key);
    return true;
}

bool decode_array(struct slice slice, const char *what, size_t max, struct slice **values, size_t *count,
                  struct arena *arena, struct problem *problem)
{
    *values = NULL;
    *count = 0;
    if (!slice.data)
        return true;
    struct mp_reader reader = mp_reader(slice);
    struct mp_value array;
    if (!mp_next(&reader, &array) || array.type != MP_ARRAY)
        return fail(problem, EINVAL, "%s is not an array", what);
    if (array.count > max)
        return fail(problem, E2BIG, "%s has %" PRIu32 " values, at most %zu are allowed", what, array.count, max);
    *values = arena_alloc(arena, (array.count + 1) * sizeof(**values));
    if (!*values)
        return fail(problem, ENOMEM, "no memory for %s", what);
    for (uint32_t i = 0; i < array.count; i++) {
        const uint8_t *start = reader.at;
        if (!mp_skip(&reader))
            return fail(problem, EINVAL, "%s is garbled", what);
        (*values)[i] = (struct slice){start, (uint32_t)(reader.at - start)};
    }
    *count = array.count;
    return true;
}

bool decode_texts(struct slice slice, const char *what, size_t max, char ***texts, struct arena *arena,
                  struct problem *problem)
{
    struct slice *values;
    size_t count;
    if (!decode_array(slice, what, max, &values, &count, arena, problem))
        return false;
    *texts = arena_alloc(arena, (count + 1) * sizeof(**texts));
    if (!*texts)
        return fail(problem, ENOMEM, "no memory for %s", what);
    const struct field text = {.key = what, .max = UINT32_MAX};
    for (size_t i = 0; i < count; i++) {
        struct mp_reader reader = mp_reader(values[i]);
        struct mp_value value;
        if (!mp_next(&reader, &value) || !take_text(&text, &value, &(*texts)[i], arena, problem))
            return fail(problem, EINVAL, "%s holds what is not a string without zero bytes", what);
    }
    return true;
}
