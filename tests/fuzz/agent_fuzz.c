/* Coverage-guided fuzzing of what the agent reads from others: the host's bytes, msgpack, and tar archives.
 *
 * The first byte chooses; the rest is the input. Beyond memory errors, which the sanitizers find, invariants that must
 * hold for every input abort. Built and run by `make fuzz` of the agent's Makefile. */
#include <stdlib.h>
#include <string.h>

#include "tar.h"
#include "wire.h"

#define REQUIRE(condition)                                                                                           \
    do {                                                                                                             \
        if (!(condition))                                                                                            \
            abort();                                                                                                 \
    } while (0)

struct seen {
    unsigned hellos, frames;
    uint64_t body_bytes;
    uint64_t digest; /* of everything that was handed on, in order */
};

static void mix(struct seen *seen, const void *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        seen->digest = (seen->digest ^ ((const uint8_t *)data)[i]) * 0x100000001b3ULL;
}

static void on_hello(void *context, const struct wire_hello *hello)
{
    struct seen *seen = context;
    seen->hellos++;
    REQUIRE(hello->window >= WIRE_WINDOW_MIN && hello->window <= WIRE_WINDOW_MAX);
    mix(seen, hello->nonce, sizeof(hello->nonce));
}

static bool on_frame(void *context, const struct wire_frame *frame)
{
    struct seen *seen = context;
    REQUIRE(seen->hellos > 0); /* nothing is taken before a hello */
    REQUIRE(frame->kind == WIRE_CALL || (frame->number >= 1 && frame->number <= INT32_MAX));
    REQUIRE(frame->body.size <= (frame->kind == WIRE_CALL ? WIRE_CALL_MAX : WIRE_DATA_MAX));
    seen->frames++;
    seen->body_bytes += frame->body.size;
    mix(seen, frame->body.data, frame->body.size);
    return frame->kind != WIRE_CALL || mp_valid(frame->body);
}

static const struct wire_handler handler = {on_hello, on_frame};

static void make_hello(uint8_t hello[static WIRE_HELLO], uint8_t nonce)
{
    static const uint8_t start[] = {'H', 'Y', 'P', 'E', 'R', 'S', 'T', 'A', 'C', 'K', 0, 1, 'k', 'e', 'y'};
    memset(hello, 0, WIRE_HELLO);
    memcpy(hello, start, sizeof(start));
    hello[WIRE_MAGIC + WIRE_KEY] = nonce;
    put_le32(hello + 48, WIRE_WINDOW_MIN);
}

/* However the bytes are cut into pieces, they mean the same. */
static void fuzz_wire(const uint8_t *data, size_t size)
{
    static struct wire whole, pieces;
    struct seen seen_whole = {0}, seen_pieces = {0};
    uint8_t hello[WIRE_HELLO];
    make_hello(hello, 1);
    wire_init(&whole, &handler, &seen_whole);
    wire_init(&pieces, &handler, &seen_pieces);
    if (size && data[0] & 1) {
        wire_feed(&whole, hello, sizeof(hello));
        wire_feed(&pieces, hello, sizeof(hello));
    }
    wire_feed(&whole, data, size);
    wire_idle(&whole);
    size_t step = size ? data[0] % 7 + 1U : 1;
    for (size_t at = 0; at < size; at += step)
        wire_feed(&pieces, data + at, size - at < step ? size - at : step);
    wire_idle(&pieces);
    REQUIRE(seen_whole.hellos == seen_pieces.hellos && seen_whole.frames == seen_pieces.frames);
    REQUIRE(seen_whole.digest == seen_pieces.digest && seen_whole.body_bytes <= size);
}

/* A hello that comes whole is found, whatever came before it: frames cut short, half hellos, the key in a stream. And
 * what comes before it is never taken for a frame that its bytes fill up. */
static void fuzz_reconnection(const uint8_t *data, size_t size)
{
    static struct wire wire;
    struct seen seen = {0};
    uint8_t hello[WIRE_HELLO];
    make_hello(hello, 1);
    wire_init(&wire, &handler, &seen);
    wire_feed(&wire, hello, sizeof(hello));
    REQUIRE(seen.hellos == 1 && wire.live);
    wire_feed(&wire, data, size);
    wire_idle(&wire);
    const struct seen before = seen;
    make_hello(hello, 2);
    wire_feed(&wire, hello, sizeof(hello));
    REQUIRE(seen.hellos > before.hellos && seen.frames == before.frames && wire.live);
}

struct record {
    bool flag;
    int64_t number;
    char *text;
    struct slice bytes, array, map;
};

static void fuzz_msgpack(const uint8_t *data, size_t size)
{
    static const struct field fields[] = {
        {"flag", FIELD_BOOL, true, offsetof(struct record, flag), 0, 0},
        {"n", FIELD_INT, true, offsetof(struct record, number), -5, 5},
        {"text", FIELD_TEXT, true, offsetof(struct record, text), 1, 64},
        {"bin", FIELD_BYTES, true, offsetof(struct record, bytes), 0, 64},
        {"list", FIELD_ARRAY, true, offsetof(struct record, array), 0, 0},
        {"map", FIELD_MAP, true, offsetof(struct record, map), 0, 0},
    };
    const struct slice input = {data, (uint32_t)size};
    struct record record = {0};
    struct problem problem = {0};
    struct arena arena = {0};
    char **texts;
    if (decode_record(input, fields, COUNT_OF(fields), &record, &arena, &problem)) {
        REQUIRE(record.number >= -5 && record.number <= 5);
        REQUIRE(!record.text || (strlen(record.text) >= 1 && strlen(record.text) <= 64));
        REQUIRE(!record.array.data || mp_valid(record.array));
        REQUIRE(!record.map.data || mp_valid(record.map));
        decode_texts(record.array, "list", 100, &texts, &arena, &problem);
    } else {
        REQUIRE(problem.error != 0 && problem.text[0] != 0);
    }
    arena_free(&arena);
}

struct memory {
    const uint8_t *data;
    size_t left;
};

static ssize_t read_memory(void *context, uint8_t *data, size_t size)
{
    struct memory *memory = context;
    if (size > memory->left)
        size = memory->left;
    if (size)
        memcpy(data, memory->data, size);
    memory->data += size;
    memory->left -= size;
    return (ssize_t)size;
}

/* Fuzzers do not find checksums by chance: every block that looks like a header gets its own. */
static void fix_checksums(uint8_t *data, size_t size)
{
    for (size_t at = 0; at + TAR_BLOCK <= size; at += TAR_BLOCK) {
        unsigned sum = 0;
        if (data[at + 148] != '0')
            continue;
        memset(data + at + 148, ' ', 8);
        for (size_t i = 0; i < TAR_BLOCK; i++)
            sum += data[at + i];
        char text[8];
        snprintf(text, sizeof(text), "%06o", sum);
        memcpy(data + at + 148, text, 7);
    }
}

static void fuzz_tar(const uint8_t *data, size_t size)
{
    static struct tar_entry entry;
    uint8_t chunk[700];
    uint8_t *copy = malloc(size + 1);
    REQUIRE(copy);
    if (size)
        memcpy(copy, data, size);
    fix_checksums(copy, size);
    struct memory memory = {copy, size};
    struct tar_reader reader = {.source = read_memory, .context = &memory};
    struct problem problem = {0};
    uint64_t taken = 0;
    int got;
    while ((got = tar_next(&reader, &entry, &problem)) > 0) {
        REQUIRE(entry.path[0] != 0 || entry.type != TAR_FILE || entry.size <= INT64_MAX);
        REQUIRE(memchr(entry.path, 0, sizeof(entry.path)) && memchr(entry.link, 0, sizeof(entry.link)));
        REQUIRE(entry.xattr_count <= TAR_XATTRS_MAX && entry.mode <= 07777);
        for (ssize_t part; (part = tar_data(&reader, chunk, sizeof(chunk), &problem)) > 0;)
            taken += (uint64_t)part;
    }
    REQUIRE(taken <= size && (got == 0 || problem.error != 0));
    tar_close(&reader);
    free(copy);
}

/* What the writer writes, the reader reads. */
static void fuzz_tar_writer(const uint8_t *data, size_t size)
{
    static struct tar_entry entry, back;
    static const uint8_t end[2 * TAR_BLOCK];
    memset(&entry, 0, sizeof(entry));
    if (size < 32)
        return;
    entry.type = TAR_SYMLINK;
    entry.mode = get_le32(data) & 07777;
    entry.uid = get_le32(data + 4);
    entry.gid = get_le32(data + 8);
    entry.mtime_s = get_le32(data + 12);
    size_t path = (get_le32(data + 16) % (PATH_LIMIT - 2)) + 1, link = get_le32(data + 20) % PATH_LIMIT;
    for (size_t i = 0; i < path; i++)
        entry.path[i] = (char)(data[24 + i % (size - 24)] | 1);
    for (size_t i = 0; i < link; i++)
        entry.link[i] = (char)(data[24 + i % (size - 24)] | 1);
    entry.xattrs[0] = (struct tar_xattr){"user.fuzz", {data, (uint32_t)size}};
    entry.xattr_count = data[0] & 1;
    struct buffer out = {.limit = 1 << 20};
    tar_put_header(&out, &entry);
    buffer_add(&out, end, sizeof(end));
    REQUIRE(!out.failed && out.size % TAR_BLOCK == 0);
    struct memory memory = {out.data, out.size};
    struct tar_reader reader = {.source = read_memory, .context = &memory};
    struct problem problem = {0};
    REQUIRE(tar_next(&reader, &back, &problem) == 1);
    REQUIRE(back.type == entry.type && back.mode == entry.mode && back.uid == entry.uid && back.gid == entry.gid);
    REQUIRE(back.mtime_s == entry.mtime_s && strcmp(back.path, entry.path) == 0 && strcmp(back.link, entry.link) == 0);
    REQUIRE(back.xattr_count == entry.xattr_count);
    REQUIRE(!back.xattr_count || (back.xattrs[0].value.size == size && !memcmp(back.xattrs[0].value.data, data, size)));
    REQUIRE(tar_next(&reader, &back, &problem) == 0);
    tar_close(&reader);
    buffer_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const targets[])(const uint8_t *, size_t) = {fuzz_wire,    fuzz_reconnection, fuzz_msgpack,
                                                               fuzz_tar,     fuzz_tar_writer};
    if (size)
        targets[data[0] % COUNT_OF(targets)](data + 1, size - 1);
    return 0;
}
