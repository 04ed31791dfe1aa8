/* The connection to the host: the virtio-serial port, hellos, frames out. */
#pragma once

#include "msgpack.h"
#include "wire.h"

/* Where an answer goes: a call of one connection. Answers to calls of former connections are dropped. */
struct call {
    uint32_t number;
    uint64_t connection;
};

/* Does not return without a port. `when_greeted` is called once, when the first host has been answered. */
void port_open(const char *path, void (*when_greeted)(void));
void port_forget_key(void);       /* in a child: no container may find it in memory */
void port_renew_key(void);        /* the next host brings its own */
bool port_is_current(const struct call *call);

/* Fills in a reply's map; `context` is the caller's. */
typedef void reply_body(struct buffer *out, void *context);

void reply_done(const struct call *call); /* {} */
void reply_with(const struct call *call, reply_body *body, void *context);
void reply_problem(const struct call *call, const struct problem *problem);

/* An event is a hint: one that finds a full queue is dropped. */
void send_event(reply_body *body, void *context);

void port_flush(void);
bool port_is_flushed(void);
