#include "port.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "calls.h"
#include "loop.h"
#include "process.h"

#define PORT_CHUNK 32768                                        /* what the driver takes of one write */
#define DATA_HEADER (WIRE_HEADER + 12)
#define QUEUE_LIMIT (4 * 1024 * 1024)                           /* replies and events that wait for the host */
#define QUEUE_BUSY (2 * 1024 * 1024)                            /* beyond it no more calls are read */
#define CALL_HEADER (WIRE_HEADER + 4)
#define RETRY_NS (NSEC_PER_SEC / 50)

static struct wire wire;
static struct watch port;
static uint64_t connection; /* counts accepted hellos */
static uint32_t window;     /* of the host, on this connection */
static struct buffer queue = {.limit = QUEUE_LIMIT};
static size_t queue_sent;
static uint8_t chunk[PORT_CHUNK];
static size_t chunk_size, chunk_sent;
static void (*greeted)(void); /* NULL once it was called */
static bool corked; /* while input is handled: answers leave before what they let flow, and in few writes */

static void queue_clear(void)
{
    buffer_free(&queue);
    queue_sent = 0;
    chunk_size = chunk_sent = 0;
}

static void put_header(uint8_t *at, size_t length, enum wire_kind kind, unsigned stream)
{
    put_le32(at, (uint32_t)length);
    at[4] = (uint8_t)kind;
    at[5] = (uint8_t)stream;
    at[6] = at[7] = 0;
}

static void on_hello(void *context, const struct wire_hello *hello)
{
    (void)context;
    uint8_t welcome[WIRE_HELLO] = {'H', 'Y', 'P', 'E', 'R', 'S', 'T', 'A', 'C', 'K', 1, 1};
    memcpy(welcome + WIRE_MAGIC, hello->nonce, WIRE_NONCE);
    put_le32(welcome + 36, STDIN_WINDOW);
    connection++;
    window = hello->window;
    queue_clear();
    calls_forget();
    processes_detach();
    buffer_add(&queue, welcome, sizeof(welcome));
}

static void be_greeted(void)
{
    void (*now)(void) = greeted;
    greeted = NULL;
    if (now)
        now();
}

static bool on_frame(void *context, const struct wire_frame *frame)
{
    (void)context;
    be_greeted();
    if (frame->kind == WIRE_CALL) {
        const struct call call = {frame->number, connection};
        return calls_dispatch(&call, frame->body, window);
    }
    return process_frame(frame);
}

static const struct wire_handler handler = {on_hello, on_frame};

bool port_is_current(const struct call *call)
{
    return wire.live && call->connection == connection;
}

/* One frame with a msgpack body at the queue's end, or nothing where it does not fit. */
static bool queue_frame(enum wire_kind kind, const struct call *call, reply_body *body, void *context)
{
    size_t before = queue.size;
    size_t header_size = call ? CALL_HEADER : WIRE_HEADER;
    uint8_t *header = buffer_grow(&queue, header_size);
    if (header) {
        memset(header, 0, header_size);
        body(&queue, context);
    }
    size_t length = queue.size - before - WIRE_HEADER;
    if (queue.failed || length > WIRE_CALL_MAX) {
        queue.failed = false;
        queue.size = before;
        return false;
    }
    put_header(queue.data + before, length, kind, 0);
    if (call)
        put_le32(queue.data + before + WIRE_HEADER, call->number);
    return true;
}

static void empty_body(struct buffer *out, void *context)
{
    (void)context;
    mp_put_map(out, 0);
}

static void problem_body(struct buffer *out, void *context)
{
    const struct problem *problem = context;
    mp_put_map(out, 2);
    mp_key_str(out, "error", problem->text);
    mp_key_int(out, "errno", problem->error);
}

void reply_with(const struct call *call, reply_body *body, void *context)
{
    if (!port_is_current(call))
        return;
    if (!queue_frame(WIRE_REPLY, call, body, context)) {
        struct problem problem = {EMSGSIZE, "the answer does not fit into a frame"};
        if (body == problem_body || !queue_frame(WIRE_REPLY, call, problem_body, &problem))
            wire.live = false; /* a call that is never answered would be worse than a new connection */
    }
    port_flush();
}

void reply_done(const struct call *call)
{
    reply_with(call, empty_body, NULL);
}

void reply_problem(const struct call *call, const struct problem *problem)
{
    struct problem copy = *problem;
    if (copy.error == 0)
        copy.error = EIO;
    reply_with(call, problem_body, &copy);
}

void send_event(reply_body *body, void *context)
{
    if (wire.live && queue_frame(WIRE_EVENT, NULL, body, context))
        port_flush();
}

/* DATA, ACK and EOF frames are made when there is room for them, so that they cannot pile up. */
static size_t next_stream_frame(void)
{
    struct stream_frame frame;
    if (!processes_next_frame(&frame, chunk + DATA_HEADER, PORT_CHUNK - DATA_HEADER, window))
        return 0;
    put_header(chunk, 12 + frame.size, frame.kind, frame.stream);
    put_le32(chunk + WIRE_HEADER, (uint32_t)frame.handle);
    put_le64(chunk + WIRE_HEADER + 4, frame.offset);
    return DATA_HEADER + frame.size;
}

static void try_again(struct timer *timer)
{
    (void)timer;
    port_flush();
}

/* Everything of `data` from `*sent` on, as far as the port takes it. */
static bool write_port(const uint8_t *data, size_t size, size_t *sent)
{
    static struct timer retry = {.expired = try_again};
    while (*sent < size) {
        ssize_t put = write(port.fd, data + *sent, size - *sent);
        if (put > 0) {
            *sent += (size_t)put;
        } else if (put >= 0 || errno != EINTR) {
            /* EAGAIN: full, or no host; an edge tells when to go on. The driver copies what is written, and where the
             * guest has no memory for that (ENOMEM) nothing but time helps. */
            if (put == 0 || errno != EAGAIN)
                timer_set(&retry, RETRY_NS);
            return false;
        }
    }
    return true;
}

void port_flush(void)
{
    while (!corked) {
        if (!write_port(chunk, chunk_size, &chunk_sent))
            return;
        chunk_size = chunk_sent = 0;
        if (queue.size) {
            if (!write_port(queue.data, queue.size, &queue_sent))
                return;
            buffer_free(&queue);
            queue_sent = 0;
        }
        if (!wire.live || !(chunk_size = next_stream_frame()))
            return;
    }
}

bool port_is_flushed(void)
{
    return queue.size == 0 && chunk_size == 0;
}

void streams_changed(void)
{
    if (port_is_flushed())
        port_flush();
}

/* Returns true when it stopped because too many answers wait. */
static bool port_read(void)
{
    static uint8_t input[65536];
    while (queue.size < QUEUE_BUSY) {
        ssize_t got = read(port.fd, input, sizeof(input));
        if (got > 0) {
            wire_feed(&wire, input, (size_t)got);
        } else if (got == 0) {
            /* How the driver says that no host is connected. It may say so after the next host's hello has come, as
             * data and control travel apart: so only a hello ends a connection. */
            return false;
        } else if (errno == EAGAIN) {
            wire_idle(&wire);
            return false;
        } else if (errno != EINTR) {
            log_line("reading the port: %s", strerror(errno));
            return false;
        }
    }
    return true;
}

/* The driver wakes its waiters when the host connects, disconnects, sends or takes: edges are all that is needed, and
 * a port without a host, which always polls as hung up, costs nothing. */
static void port_ready(struct watch *watch, uint32_t events)
{
    (void)watch;
    (void)events;
    bool more;
    do {
        corked = true;
        more = port_read();
        corked = false;
        port_flush();
        if (connection)
            be_greeted();
    } while (more && queue.size < QUEUE_BUSY);
}

void port_open(const char *path, void (*when_greeted)(void))
{
    greeted = when_greeted;
    wire_init(&wire, &handler, NULL);
    port.ready = port_ready;
    for (;;) {
        int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
        if (fd >= 0 && loop_add(&port, fd, EPOLLIN | EPOLLOUT))
            break;
        log_line("cannot open %s: %s", path, strerror(errno));
        sleep(1);
    }
}

void port_forget_key(void)
{
    explicit_bzero(&wire, offsetof(struct wire, frame));
}

void port_renew_key(void)
{
    wire_forget_key(&wire);
}
