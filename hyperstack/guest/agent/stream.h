/* The streams of one process: output rings that keep bytes until the host has them, and an input queue.
 * Offsets count a stream's bytes from its start (docs/protocol.md, Streams). */
#pragma once

#include "loop.h"

#define STDIN_WINDOW 65536 /* bytes of stdin that the host may have in flight */

struct output {
    struct watch watch; /* fd -1: closed, or never there */
    uint8_t *ring;
    size_t size;
    uint64_t base;    /* offset of the ring's first byte: the last time that the ring was empty */
    uint64_t acknowledged, sent, written;
    bool ended;       /* no more will be written */
    bool attached;    /* on this connection */
    bool end_sent;    /* on this connection */
    bool close_dry;   /* what is left in the pipe is all: its process has gone */
    bool terminal;    /* EIO is an end */
};

bool output_open(struct output *output, int fd, size_t size, bool terminal);
void output_drain(struct output *output);  /* from the pipe into the ring */
void output_finish(struct output *output); /* takes what is in the pipe, then ends */
void output_free(struct output *output);
bool output_attach(struct output *output, uint64_t offset);      /* false: the offset is outside what is kept */
bool output_acknowledge(struct output *output, uint64_t offset); /* false: never sent */
/* The next bytes to send, at most `max`, copied to `into`; counts them as sent. 0: nothing may be sent now. */
size_t output_take(struct output *output, uint8_t *into, size_t max, uint64_t window);
bool output_take_end(struct output *output); /* true once, when everything has been sent and there is no more */

struct input {
    struct watch watch;
    uint8_t *queue; /* 2 * STDIN_WINDOW bytes, linear */
    size_t first, size;
    uint64_t consumed; /* offset of the first byte in the queue: everything before it was written */
    uint64_t granted;  /* the highest offset that the host may have taken as acknowledged */
    uint64_t told;     /* last ACK on this connection */
    bool ending;       /* the host's EOF has come */
    bool closed;
    bool attached;
    bool end_sent; /* the host was told on this connection that more is useless */
    bool terminal;
};

bool input_open(struct input *input, int fd, bool terminal);
bool input_add(struct input *input, uint64_t offset, struct slice bytes); /* false: a violation */
bool input_end(struct input *input, uint64_t offset);                     /* false: a violation */
void input_drain(struct input *input);                                    /* from the queue to the process */
void input_close(struct input *input);
uint64_t input_attach(struct input *input); /* the offset from which the host goes on */
bool input_take_ack(struct input *input, uint64_t *offset);
