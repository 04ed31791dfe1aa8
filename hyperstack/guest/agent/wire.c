#include "wire.h"

#include <string.h>

#define DATA_HEAD 12   /* handle and offset */
#define CALL_HEAD 4    /* call number */
#define HANDLE_MAX 0x7fffffffU

static const uint8_t magic[WIRE_MAGIC] = {'H', 'Y', 'P', 'E', 'R', 'S', 'T', 'A', 'C', 'K', 0, 1};

static void set_pattern(struct wire *wire, const uint8_t *key)
{
    memcpy(wire->pattern, magic, WIRE_MAGIC);
    wire->pattern_size = WIRE_MAGIC;
    if (key) {
        memcpy(wire->pattern + WIRE_MAGIC, key, WIRE_KEY);
        wire->pattern_size += WIRE_KEY;
    }
    unsigned border = 0;
    wire->border[0] = 0;
    for (unsigned i = 1; i < wire->pattern_size; i++) {
        while (border && wire->pattern[i] != wire->pattern[border])
            border = wire->border[border - 1];
        if (wire->pattern[i] == wire->pattern[border])
            border++;
        wire->border[i] = (uint8_t)border;
    }
    wire->keyed = key != NULL;
}

void wire_init(struct wire *wire, const struct wire_handler *handler, void *context)
{
    wire->handler = handler;
    wire->context = context;
    wire->live = wire->forget = false;
    wire->matched = wire->given = wire->tail_size = wire->tail_needed = 0;
    wire->have = 0;
    set_pattern(wire, NULL);
}

/* The size of the whole frame whose header is there; 0 where it is not allowed. */
static size_t frame_size(const struct wire *wire)
{
    const uint8_t *header = wire->frame;
    uint32_t length = get_le32(header);
    unsigned stream = header[5];
    bool allowed = false;
    if (header[6] || header[7])
        return 0;
    switch (header[4]) {
    case WIRE_CALL:
        allowed = stream == 0 && length > CALL_HEAD && length <= WIRE_CALL_MAX;
        break;
    case WIRE_DATA:
        allowed = stream == 0 && length > DATA_HEAD && length <= DATA_HEAD + WIRE_DATA_MAX;
        break;
    case WIRE_ACK:
        allowed = (stream == 1 || stream == 2) && length == DATA_HEAD;
        break;
    case WIRE_EOF:
        allowed = stream == 0 && length == DATA_HEAD;
        break;
    }
    return allowed ? WIRE_HEADER + (size_t)length : 0;
}

static bool deliver(struct wire *wire, size_t size)
{
    const uint8_t *body = wire->frame + WIRE_HEADER;
    struct wire_frame frame = {.kind = wire->frame[4], .stream = wire->frame[5], .number = get_le32(body)};
    size_t head = CALL_HEAD;
    if (frame.kind != WIRE_CALL) {
        head = DATA_HEAD;
        frame.offset = get_le64(body + 4);
        if (frame.number == 0 || frame.number > HANDLE_MAX)
            return false;
    }
    frame.body = (struct slice){body + head, (uint32_t)(size - WIRE_HEADER - head)};
    return wire->handler->frame(wire->context, &frame);
}

static void parse(struct wire *wire, const uint8_t *data, size_t size)
{
    while (size && wire->live) {
        size_t wanted = WIRE_HEADER;
        if (wire->have >= WIRE_HEADER)
            wanted = frame_size(wire);
        size_t part = wanted - wire->have < size ? wanted - wire->have : size;
        memcpy(wire->frame + wire->have, data, part);
        wire->have += part;
        data += part;
        size -= part;
        if (wire->have < wanted)
            return;
        if (wanted == WIRE_HEADER) {
            wire->live = frame_size(wire) != 0;
            continue;
        }
        wire->have = 0;
        if (!deliver(wire, wanted))
            wire->live = false;
    }
}

static void take_hello(struct wire *wire)
{
    const uint8_t *rest = wire->tail;
    const uint8_t *key = NULL;
    if (!wire->keyed) {
        key = rest;
        rest += WIRE_KEY;
    }
    wire->tail_needed = 0;
    wire->given = wire->matched;
    struct wire_hello hello;
    memcpy(hello.nonce, rest, WIRE_NONCE);
    uint32_t features = get_le32(rest + WIRE_NONCE);
    hello.window = get_le32(rest + WIRE_NONCE + 4);
    if (features != 0 || hello.window < WIRE_WINDOW_MIN || hello.window > WIRE_WINDOW_MAX)
        return;
    if (key)
        set_pattern(wire, key);
    wire->live = true;
    wire->handler->hello(wire->context, &hello);
}

/* One byte through the search; passes on what can no longer be part of a hello. */
static void search(struct wire *wire, uint8_t byte)
{
    bool within = wire->tail_needed != 0;
    if (within)
        wire->tail[wire->tail_size++] = byte;
    unsigned before = wire->matched;
    unsigned keep = before;
    while (keep && wire->pattern[keep] != byte)
        keep = wire->border[keep - 1];
    bool hit = wire->pattern[keep] == byte;
    unsigned released = before - keep;
    wire->matched = hit ? keep + 1 : 0;
    if (!within) {
        if (wire->given < released)
            parse(wire, wire->pattern + wire->given, released - wire->given);
        wire->given = wire->given > released ? wire->given - released : 0;
        if (!hit)
            parse(wire, &byte, 1);
    }
    if (wire->matched == wire->pattern_size) {
        wire->live = false;
        wire->have = 0;
        wire->matched = wire->given = wire->tail_size = 0;
        wire->tail_needed = WIRE_HELLO - wire->pattern_size;
    } else if (within && wire->tail_size == wire->tail_needed) {
        take_hello(wire);
    }
}

void wire_forget_key(struct wire *wire)
{
    wire->forget = true;
}

void wire_feed(struct wire *wire, const uint8_t *data, size_t size)
{
    const uint8_t *end = data + size;
    if (wire->forget)
        wire_init(wire, wire->handler, wire->context);
    while (data < end) {
        if (wire->matched == 0 && wire->tail_needed == 0) {
            const uint8_t *start = memchr(data, magic[0], (size_t)(end - data));
            size_t plain = (size_t)((start ? start : end) - data);
            parse(wire, data, plain);
            data += plain;
        }
        if (data < end)
            search(wire, *data++);
    }
}

void wire_idle(struct wire *wire)
{
    if (wire->tail_needed || wire->given >= wire->matched)
        return;
    parse(wire, wire->pattern + wire->given, wire->matched - wire->given);
    wire->given = wire->matched;
}
