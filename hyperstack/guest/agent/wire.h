/* Finds hellos and frames in the bytes of the host (docs/protocol.md, Transport). Pure: no descriptors, no allocation.
 *
 * The hello is looked for in every byte, whatever state the frames are in. Bytes that may be the start of a hello are
 * withheld from the frames until they prove not to be: otherwise the tail of a frame that was lost with a connection
 * would be filled up from the next connection's hello. */
#pragma once

#include "util.h"

#define WIRE_KEY 16
#define WIRE_NONCE 16
#define WIRE_MAGIC 12
#define WIRE_HELLO 52
#define WIRE_HEADER 8
#define WIRE_CALL_MAX (1024 * 1024)
#define WIRE_DATA_MAX 65536
#define WIRE_WINDOW_MIN 4096
#define WIRE_WINDOW_MAX 4194304

enum wire_kind { WIRE_CALL = 1, WIRE_REPLY, WIRE_EVENT, WIRE_DATA, WIRE_ACK, WIRE_EOF };

struct wire_hello {
    uint8_t nonce[WIRE_NONCE];
    uint32_t window;
};

struct wire_frame {
    enum wire_kind kind;
    unsigned stream;
    uint32_t number;   /* CALL: the call's number; else the handle */
    uint64_t offset;   /* DATA, ACK, EOF */
    struct slice body; /* CALL: the msgpack; DATA: the bytes */
};

struct wire_handler {
    void (*hello)(void *context, const struct wire_hello *hello);
    bool (*frame)(void *context, const struct wire_frame *frame); /* false: a violation, ends the connection */
};

struct wire {
    const struct wire_handler *handler;
    void *context;
    bool live;  /* from an accepted hello to the first violation or hang-up */
    bool keyed; /* the key is known */
    bool forget; /* before the next byte */
    uint8_t pattern[WIRE_MAGIC + WIRE_KEY];
    uint8_t border[WIRE_MAGIC + WIRE_KEY]; /* Knuth-Morris-Pratt: how much of a match survives a mismatch */
    unsigned pattern_size;
    unsigned matched; /* bytes of `pattern` that the input ends with */
    unsigned given;   /* of those, how many are not to be passed on any more */
    uint8_t tail[WIRE_HELLO];
    unsigned tail_size, tail_needed; /* the rest of a hello after its pattern; needed 0: not within one */
    size_t have;
    uint8_t frame[WIRE_HEADER + 4 + WIRE_CALL_MAX];
};

void wire_init(struct wire *wire, const struct wire_handler *handler, void *context);
void wire_feed(struct wire *wire, const uint8_t *data, size_t size);

/* The next hello may have any key, as the first had. Takes effect with the next bytes: the caller may be within a frame. */
void wire_forget_key(struct wire *wire);

/* No more bytes for now. A host sends its hello in one piece, so that what is withheld belongs to a frame after all. */
void wire_idle(struct wire *wire);
