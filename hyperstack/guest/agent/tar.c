#include "tar.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct header {
    char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100];
    char magic[6], version[2], user[32], group[32], major[8], minor[8], prefix[155], padding[12];
};

_Static_assert(sizeof(struct header) == TAR_BLOCK, "a tar header is a block");

#define XATTR_KEY "SCHILY.xattr."
#define OCTAL_12 0777777777777ULL /* what eleven octal digits hold */
#define OCTAL_8 07777777U

/* Octal digits between blanks, or GNU's binary form with the first bit set. */
static bool parse_number(const char *field, size_t size, uint64_t *number)
{
    const uint8_t *bytes = (const uint8_t *)field;
    *number = 0;
    if (bytes[0] & 0x80) {
        /* Negative ones, of times before 1970, are not told from garbage. */
        for (size_t i = 0; i < size; i++) {
            if (*number >> 55)
                return false;
            *number = *number << 8 | (i == 0 ? bytes[0] & 0x7fU : bytes[i]);
        }
        return true;
    }
    size_t i = 0;
    while (i < size && field[i] == ' ')
        i++;
    for (; i < size && field[i] >= '0' && field[i] <= '7'; i++) {
        if (*number >> 60)
            return false;
        *number = *number << 3 | (uint64_t)(field[i] - '0');
    }
    for (; i < size; i++)
        if (field[i] != ' ' && field[i] != 0)
            return false;
    return true;
}

static bool parse_u32(const char *field, size_t size, uint32_t *number)
{
    uint64_t wide;
    if (!parse_number(field, size, &wide) || wide > UINT32_MAX)
        return false;
    *number = (uint32_t)wide;
    return true;
}

static unsigned checksum(const struct header *header)
{
    const uint8_t *bytes = (const uint8_t *)header;
    unsigned sum = 0;
    for (size_t i = 0; i < sizeof(*header); i++)
        sum += i >= offsetof(struct header, checksum) && i < offsetof(struct header, type) ? ' ' : bytes[i];
    return sum;
}

static bool read_exactly(struct tar_reader *reader, void *data, size_t size, struct problem *problem)
{
    ssize_t got = reader->source(reader->context, data, size);
    if (got < 0)
        return fail(problem, errno, "cannot read the archive: %s", strerror(errno));
    return (size_t)got == size || fail(problem, EINVAL, "the archive is cut short");
}

static bool skip_rest(struct tar_reader *reader, struct problem *problem)
{
    uint8_t waste[4096];
    ssize_t got;
    while ((got = tar_data(reader, waste, sizeof(waste), problem)) > 0)
        continue;
    if (got < 0 || !read_exactly(reader, waste, reader->padding, problem))
        return false;
    reader->padding = 0;
    return true;
}

static size_t padding_of(uint64_t size)
{
    return (size_t)(-size & (TAR_BLOCK - 1));
}

/* The data of an extended header, zero-terminated, in memory that lives as long as its entry. */
static char *read_extended(struct tar_reader *reader, uint64_t size, struct problem *problem)
{
    if (size > TAR_EXTENDED_MAX) {
        fail(problem, E2BIG, "an extended header of %" PRIu64 " bytes", size);
        return NULL;
    }
    char *data = arena_alloc(&reader->extended, (size_t)size + padding_of(size) + 1);
    if (!data) {
        fail(problem, ENOMEM, "no memory for an extended header");
        return NULL;
    }
    if (!read_exactly(reader, data, (size_t)size + padding_of(size), problem))
        return NULL;
    data[size] = 0;
    return data;
}

static bool set_path(char into[static PATH_LIMIT], const char *text, size_t size, struct problem *problem)
{
    if (size >= PATH_LIMIT)
        return fail(problem, ENAMETOOLONG, "a name of %zu bytes", size);
    if (memchr(text, 0, size))
        return fail(problem, EINVAL, "a name with a zero byte");
    memcpy(into, text, size);
    into[size] = 0;
    return true;
}

/* What extended headers say about the entry that follows. */
struct overrides {
    bool path, link, size, uid, gid, mtime;
    struct tar_entry *entry;
};

static bool decimal(const char *text, uint64_t max, uint64_t *number)
{
    char *end;
    errno = 0;
    *number = strtoull(text, &end, 10);
    return *text >= '0' && *text <= '9' && errno == 0 && (*end == 0 || *end == '.') && *number <= max;
}

static bool parse_mtime(const char *text, struct tar_entry *entry)
{
    uint64_t seconds;
    bool negative = *text == '-';
    if (!decimal(text + negative, INT64_MAX / 2, &seconds))
        return false;
    entry->mtime_s = negative ? -(int64_t)seconds : (int64_t)seconds;
    entry->mtime_ns = 0;
    const char *point = strchr(text, '.');
    uint32_t unit = 100000000;
    for (const char *digit = point ? point + 1 : ""; *digit >= '0' && *digit <= '9' && unit && !negative; digit++) {
        entry->mtime_ns += (uint32_t)(*digit - '0') * unit;
        unit /= 10;
    }
    return true;
}

static bool take_xattr(struct tar_entry *entry, const char *name, struct slice value, struct problem *problem)
{
    if (entry->xattr_count == TAR_XATTRS_MAX)
        return fail(problem, E2BIG, "more than %d extended attributes", TAR_XATTRS_MAX);
    entry->xattrs[entry->xattr_count++] = (struct tar_xattr){name, value};
    return true;
}

/* `key` and the value are zero-terminated; the value may hold further zero bytes. */
static bool take_record(struct overrides *overrides, const char *key, struct slice value, struct problem *problem)
{
    struct tar_entry *entry = overrides->entry;
    const char *text = (const char *)value.data;
    uint64_t number;
    bool good = true;
    if (strcmp(key, "path") == 0) {
        overrides->path = true;
        return set_path(entry->path, text, value.size, problem);
    }
    if (strcmp(key, "linkpath") == 0) {
        overrides->link = true;
        return set_path(entry->link, text, value.size, problem);
    }
    if (strncmp(key, XATTR_KEY, strlen(XATTR_KEY)) == 0)
        return take_xattr(entry, key + strlen(XATTR_KEY), value, problem);
    if (strncmp(key, "GNU.sparse", 10) == 0)
        return fail(problem, EINVAL, "sparse archives are not supported");
    if (strcmp(key, "size") == 0) {
        good = overrides->size = decimal(text, INT64_MAX / 2, &entry->size);
    } else if (strcmp(key, "uid") == 0) {
        good = overrides->uid = decimal(text, UINT32_MAX, &number);
        entry->uid = (uint32_t)number;
    } else if (strcmp(key, "gid") == 0) {
        good = overrides->gid = decimal(text, UINT32_MAX, &number);
        entry->gid = (uint32_t)number;
    } else if (strcmp(key, "mtime") == 0) {
        good = overrides->mtime = parse_mtime(text, entry);
    }
    return good || fail(problem, EINVAL, "a garbled %.32s in an extended header", key);
}

/* Records of the form "LENGTH KEY=VALUE\n", where the length counts all of it. */
static bool parse_records(char *data, size_t size, struct overrides *overrides, struct problem *problem)
{
    for (size_t at = 0; at < size;) {
        size_t digits = strspn(data + at, "0123456789");
        uint64_t length = 0;
        char *key = data + at + digits + 1;
        bool good = digits > 0 && digits < 9 && data[at + digits] == ' ';
        if (good)
            length = strtoull(data + at, NULL, 10);
        good = good && length > digits + 3 && length <= size - at && data[at + length - 1] == '\n';
        char *equals = good ? memchr(key, '=', length - digits - 2) : NULL;
        if (!equals)
            return fail(problem, EINVAL, "a garbled extended header");
        data[at + length - 1] = 0;
        *equals = 0;
        const struct slice value = {(const uint8_t *)equals + 1, (uint32_t)(data + at + length - 1 - (equals + 1))};
        if (!take_record(overrides, key, value, problem))
            return false;
        at += length;
    }
    return true;
}

static bool set_names(const struct header *header, const struct overrides *overrides, struct problem *problem)
{
    struct tar_entry *entry = overrides->entry;
    if (!overrides->link && !set_path(entry->link, header->link, strnlen(header->link, sizeof(header->link)), problem))
        return false;
    if (overrides->path)
        return true;
    size_t prefix = 0;
    /* Only ustar has a prefix; GNU keeps times there. */
    if (memcmp(header->magic, "ustar", 6) == 0)
        prefix = strnlen(header->prefix, sizeof(header->prefix));
    int size = snprintf(entry->path, sizeof(entry->path), "%.*s%s%.100s", (int)prefix, header->prefix,
                        prefix ? "/" : "", header->name);
    return size > 0 || fail(problem, EINVAL, "an entry without a name");
}

static bool set_type(const struct header *header, struct tar_entry *entry, struct problem *problem)
{
    char type = header->type;
    if (type == 0 || type == '7')
        type = TAR_FILE;
    if (type < TAR_FILE || type > TAR_FIFO)
        return fail(problem, EINVAL, "%.200s is of an unknown type (%d)", entry->path, header->type);
    /* Before POSIX, a directory was a file whose name ends in a slash. */
    size_t length = strlen(entry->path);
    if (type == TAR_FILE && length && entry->path[length - 1] == '/')
        type = TAR_DIRECTORY;
    entry->type = (enum tar_type)type;
    return true;
}

static bool set_numbers(const struct header *header, const struct overrides *overrides, struct problem *problem)
{
    struct tar_entry *entry = overrides->entry;
    uint64_t mtime = 0, size = 0;
    uint32_t uid = 0, gid = 0;
    bool device = entry->type == TAR_CHARACTER || entry->type == TAR_BLOCK_DEVICE;
    bool good = parse_u32(header->mode, sizeof(header->mode), &entry->mode) &&
                (overrides->uid || parse_u32(header->uid, sizeof(header->uid), &uid)) &&
                (overrides->gid || parse_u32(header->gid, sizeof(header->gid), &gid)) &&
                (overrides->size || parse_number(header->size, sizeof(header->size), &size)) &&
                (overrides->mtime || parse_number(header->mtime, sizeof(header->mtime), &mtime)) &&
                (!device || (parse_u32(header->major, sizeof(header->major), &entry->major) &&
                             parse_u32(header->minor, sizeof(header->minor), &entry->minor)));
    if (!good || mtime > INT64_MAX / 2 || size > INT64_MAX / 2)
        return fail(problem, EINVAL, "%.200s has a garbled header", entry->path);
    if (!overrides->uid)
        entry->uid = uid;
    if (!overrides->gid)
        entry->gid = gid;
    if (!overrides->size)
        entry->size = size;
    if (!overrides->mtime)
        entry->mtime_s = (int64_t)mtime;
    entry->mode &= 07777;
    return true;
}

/* GNU's 'L' and 'K': the next entry's name as data. */
static bool take_long_name(struct overrides *overrides, char type, const char *data, struct problem *problem)
{
    bool *flag = type == 'L' ? &overrides->path : &overrides->link;
    *flag = true;
    return set_path(type == 'L' ? overrides->entry->path : overrides->entry->link, data, strlen(data), problem);
}

static bool take_extended(struct tar_reader *reader, const struct header *header, struct overrides *overrides,
                          struct problem *problem)
{
    uint64_t size;
    if (!parse_number(header->size, sizeof(header->size), &size))
        return fail(problem, EINVAL, "a garbled extended header");
    char *data = read_extended(reader, size, problem);
    if (!data)
        return false;
    if (header->type == 'x')
        return parse_records(data, (size_t)size, overrides, problem);
    if (header->type == 'L' || header->type == 'K')
        return take_long_name(overrides, header->type, data, problem);
    return true; /* 'g': defaults for all entries, in practice a comment */
}

static bool is_extended(char type)
{
    return type == 'x' || type == 'g' || type == 'L' || type == 'K';
}

int tar_next(struct tar_reader *reader, struct tar_entry *entry, struct problem *problem)
{
    static const struct header end;
    struct overrides overrides = {.entry = entry};
    struct header header;
    if (!skip_rest(reader, problem))
        return -1;
    arena_free(&reader->extended);
    entry->xattr_count = 0;
    entry->mtime_ns = 0;
    entry->major = entry->minor = 0;
    /* An entry has at most one of each kind; more would be a way to make us read for ever. */
    for (int extended = 0; extended < 8; extended++) {
        ssize_t got = reader->source(reader->context, (uint8_t *)&header, sizeof(header));
        if (got == 0 || (got == sizeof(header) && memcmp(&header, &end, sizeof(header)) == 0))
            return 0;
        uint64_t sum;
        if (got != sizeof(header) || !parse_number(header.checksum, sizeof(header.checksum), &sum) ||
            sum != checksum(&header)) {
            fail(problem, EINVAL, "this is no tar archive, or it is damaged");
            return -1;
        }
        if (!is_extended(header.type)) {
            if (!set_names(&header, &overrides, problem) || !set_type(&header, entry, problem) ||
                !set_numbers(&header, &overrides, problem))
                return -1;
            /* Links and directories may tell a size of what they stand for, but have no data. */
            if (entry->type != TAR_FILE)
                entry->size = 0;
            reader->left = entry->size;
            reader->padding = padding_of(entry->size);
            return 1;
        }
        if (!take_extended(reader, &header, &overrides, problem))
            return -1;
    }
    fail(problem, EINVAL, "too many extended headers in a row");
    return -1;
}

ssize_t tar_data(struct tar_reader *reader, uint8_t *data, size_t size, struct problem *problem)
{
    if (size > reader->left)
        size = (size_t)reader->left;
    if (size == 0)
        return 0;
    if (!read_exactly(reader, data, size, problem))
        return -1;
    reader->left -= size;
    return (ssize_t)size;
}

void tar_close(struct tar_reader *reader)
{
    arena_free(&reader->extended);
}

static void put_record(struct buffer *out, const char *key, const void *value, size_t size)
{
    size_t body = strlen(key) + size + 3; /* blank, =, newline */
    size_t length = body + 1;
    for (;;) {
        size_t digits = (size_t)snprintf(NULL, 0, "%zu", length);
        if (body + digits == length)
            break;
        length = body + digits;
    }
    char head[512];
    buffer_add(out, head, (size_t)snprintf(head, sizeof(head), "%zu %.400s=", length, key));
    buffer_add(out, value, size);
    buffer_add(out, "\n", 1);
}

static void put_number_record(struct buffer *out, const char *key, uint64_t number)
{
    char text[32];
    put_record(out, key, text, (size_t)snprintf(text, sizeof(text), "%" PRIu64, number));
}

static void put_block(struct buffer *out, struct header *header)
{
    memcpy(header->magic, "ustar", 6);
    memcpy(header->version, "00", 2);
    snprintf(header->checksum, sizeof(header->checksum), "%06o", checksum(header));
    header->checksum[7] = ' ';
    buffer_add(out, header, sizeof(*header));
}

static void put_name(char *field, size_t size, const char *text)
{
    size_t length = strlen(text);
    memcpy(field, text, length < size ? length : size);
}

/* What the plain header has no room for. */
static void put_extended(struct buffer *out, const struct tar_entry *entry)
{
    struct buffer records = {.limit = TAR_EXTENDED_MAX};
    struct header header = {.type = 'x'};
    if (strlen(entry->path) > sizeof(header.name))
        put_record(&records, "path", entry->path, strlen(entry->path));
    if (strlen(entry->link) > sizeof(header.link))
        put_record(&records, "linkpath", entry->link, strlen(entry->link));
    if (entry->size > OCTAL_12 >> 3)
        put_number_record(&records, "size", entry->size);
    if (entry->uid > OCTAL_8)
        put_number_record(&records, "uid", entry->uid);
    if (entry->gid > OCTAL_8)
        put_number_record(&records, "gid", entry->gid);
    for (size_t i = 0; i < entry->xattr_count; i++) {
        char key[320];
        snprintf(key, sizeof(key), XATTR_KEY "%.255s", entry->xattrs[i].name);
        put_record(&records, key, entry->xattrs[i].value.data, entry->xattrs[i].value.size);
    }
    if (records.failed)
        out->failed = true;
    if (records.size) {
        static const uint8_t zeros[TAR_BLOCK];
        put_name(header.name, sizeof(header.name), "././@PaxHeader");
        snprintf(header.mode, sizeof(header.mode), "%07o", 0644U);
        snprintf(header.size, sizeof(header.size), "%011zo", records.size);
        snprintf(header.mtime, sizeof(header.mtime), "%011o", 0U);
        put_block(out, &header);
        buffer_add(out, records.data, records.size);
        buffer_add(out, zeros, padding_of(records.size));
    }
    buffer_free(&records);
}

void tar_put_header(struct buffer *out, const struct tar_entry *entry)
{
    struct header header = {.type = (char)entry->type};
    put_extended(out, entry);
    put_name(header.name, sizeof(header.name), entry->path);
    put_name(header.link, sizeof(header.link), entry->link);
    snprintf(header.mode, sizeof(header.mode), "%07o", entry->mode & 07777);
    snprintf(header.uid, sizeof(header.uid), "%07o", entry->uid > OCTAL_8 ? 0 : entry->uid);
    snprintf(header.gid, sizeof(header.gid), "%07o", entry->gid > OCTAL_8 ? 0 : entry->gid);
    snprintf(header.size, sizeof(header.size), "%011" PRIo64, entry->size > OCTAL_12 >> 3 ? 0 : entry->size);
    snprintf(header.mtime, sizeof(header.mtime), "%011" PRIo64,
             entry->mtime_s < 0 || entry->mtime_s > (int64_t)(OCTAL_12 >> 3) ? 0 : (uint64_t)entry->mtime_s);
    snprintf(header.major, sizeof(header.major), "%07o", entry->major > OCTAL_8 ? 0 : entry->major);
    snprintf(header.minor, sizeof(header.minor), "%07o", entry->minor > OCTAL_8 ? 0 : entry->minor);
    put_block(out, &header);
}
