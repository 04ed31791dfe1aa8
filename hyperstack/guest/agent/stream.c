#include "stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

static void output_ready(struct watch *watch, uint32_t events);
static void input_ready(struct watch *watch, uint32_t events);

/* Implemented by the connection: there may be something to send. */
void streams_changed(void);

bool output_open(struct output *output, int fd, size_t size, bool terminal)
{
    *output = (struct output){.watch = {.fd = -1, .ready = output_ready}, .size = size, .terminal = terminal};
    void *ring = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ring == MAP_FAILED)
        return false;
    output->ring = ring;
    /* Processes are forked from the agent: one container's output is none of another's business. */
    if (madvise(ring, size, MADV_DONTFORK) == 0 && loop_add(&output->watch, fd, EPOLLIN))
        return true;
    munmap(ring, size);
    output->ring = NULL;
    return false;
}

static void output_release_ring(struct output *output)
{
    if (output->ring)
        munmap(output->ring, output->size);
    output->ring = NULL;
}

static void output_end(struct output *output)
{
    int fd = output->watch.fd;
    loop_remove(&output->watch);
    close_fd(&fd);
    output->ended = true;
    if (output->acknowledged == output->written)
        output_release_ring(output);
    streams_changed();
}

void output_free(struct output *output)
{
    int fd = output->watch.fd;
    loop_remove(&output->watch);
    close_fd(&fd);
    output_release_ring(output);
}

void output_drain(struct output *output)
{
    uint64_t before = output->written;
    while (output->watch.fd >= 0) {
        /* An empty ring starts over at its first page: little output touches little memory. */
        if (output->acknowledged == output->written)
            output->base = output->written;
        size_t room = output->size - (size_t)(output->written - output->acknowledged);
        size_t at = (size_t)((output->written - output->base) % output->size);
        if (room == 0)
            break; /* the process blocks until the host has acknowledged */
        if (room > output->size - at)
            room = output->size - at;
        ssize_t got = read(output->watch.fd, output->ring + at, room);
        if (got > 0) {
            output->written += (uint64_t)got;
        } else if (got < 0 && errno == EINTR) {
            continue;
        } else if (got < 0 && errno == EAGAIN && !output->close_dry) {
            break;
        } else {
            output_end(output);
        }
    }
    if (output->written != before)
        streams_changed();
}

void output_finish(struct output *output)
{
    output->close_dry = true;
    output_drain(output);
}

static void output_ready(struct watch *watch, uint32_t events)
{
    (void)events;
    output_drain(CONTAINER_OF(watch, struct output, watch));
}

bool output_acknowledge(struct output *output, uint64_t offset)
{
    if (offset > output->sent)
        return false;
    if (offset > output->acknowledged) {
        output->acknowledged = offset;
        if (output->ended && offset == output->written)
            output_release_ring(output);
        else
            output_drain(output);
        streams_changed();
    }
    return true;
}

bool output_attach(struct output *output, uint64_t offset)
{
    if (offset < output->acknowledged || offset > output->written)
        return false;
    /* Whoever goes on from an offset has all that is before it: where the ring is full and the last ACK was lost
     * with a connection, nothing else would ever make room. */
    output->attached = true;
    output->end_sent = false;
    output->sent = output->written;
    output_acknowledge(output, offset);
    output->sent = offset;
    streams_changed();
    return true;
}

size_t output_take(struct output *output, uint8_t *into, size_t max, uint64_t window)
{
    if (!output->attached || output->sent == output->written)
        return 0;
    uint64_t in_flight = output->sent - output->acknowledged;
    if (in_flight >= window)
        return 0;
    uint64_t size = output->written - output->sent;
    if (size > window - in_flight)
        size = window - in_flight;
    if (size > max)
        size = max;
    size_t at = (size_t)((output->sent - output->base) % output->size);
    size_t first = output->size - at < size ? output->size - at : (size_t)size;
    memcpy(into, output->ring + at, first);
    memcpy(into + first, output->ring, (size_t)size - first);
    output->sent += size;
    return (size_t)size;
}

bool output_take_end(struct output *output)
{
    if (!output->attached || output->end_sent || !output->ended || output->sent != output->written)
        return false;
    output->end_sent = true;
    return true;
}

bool input_open(struct input *input, int fd, bool terminal)
{
    *input = (struct input){.watch = {.fd = -1, .ready = input_ready}, .terminal = terminal};
    input->queue = malloc(2 * STDIN_WINDOW);
    if (input->queue && loop_add(&input->watch, fd, EPOLLOUT))
        return true;
    free(input->queue);
    input->queue = NULL;
    return false;
}

void input_close(struct input *input)
{
    int fd = input->watch.fd;
    loop_remove(&input->watch);
    close_fd(&fd);
    free(input->queue);
    input->queue = NULL;
    /* What never reached the process is gone; the host stops asking for room for it. */
    input->consumed += input->size;
    input->size = 0;
    input->closed = true;
    streams_changed();
}

void input_drain(struct input *input)
{
    while (input->size && !input->closed) {
        ssize_t put = write(input->watch.fd, input->queue + input->first, input->size);
        if (put > 0) {
            input->first += (size_t)put;
            input->size -= (size_t)put;
            input->consumed += (uint64_t)put;
            streams_changed();
        } else if (put < 0 && errno == EAGAIN) {
            return;
        } else if (put >= 0 || errno != EINTR) {
            input_close(input); /* EPIPE: nobody reads any more */
            return;
        }
    }
    input->first = 0;
    /* A terminal has no end of input; the process may still be typed at by a later client. */
    if (input->ending && !input->closed && !input->terminal)
        input_close(input);
}

static void input_ready(struct watch *watch, uint32_t events)
{
    struct input *input = CONTAINER_OF(watch, struct input, watch);
    if ((events & EPOLLERR) && !input->terminal)
        input_close(input); /* the last reader of the pipe has gone */
    else
        input_drain(input);
}

bool input_add(struct input *input, uint64_t offset, struct slice bytes)
{
    if (!input->attached)
        return false;
    if (input->closed)
        return true; /* crossed with our EOF */
    if (input->ending && !input->terminal)
        return false;
    if (offset != input->consumed + input->size || offset + bytes.size > input->granted + STDIN_WINDOW)
        return false;
    if (input->first + input->size + bytes.size > 2 * STDIN_WINDOW) {
        memmove(input->queue, input->queue + input->first, input->size);
        input->first = 0;
    }
    memcpy(input->queue + input->first + input->size, bytes.data, bytes.size);
    input->size += bytes.size;
    input_drain(input);
    return true;
}

bool input_end(struct input *input, uint64_t offset)
{
    if (!input->attached)
        return false;
    if (input->closed)
        return true;
    if (offset != input->consumed + input->size)
        return false;
    input->ending = true;
    input_drain(input);
    return true;
}

uint64_t input_attach(struct input *input)
{
    /* Everything in the queue is safe here. Only what a further window would not fit behind is asked for again; the
     * host still has that, as it was never acknowledged. */
    if (input->size > STDIN_WINDOW) {
        input->size = STDIN_WINDOW;
        input->ending = false;
    }
    input->attached = true;
    input->end_sent = false;
    input->granted = input->told = input->consumed + input->size;
    return input->granted;
}

bool input_take_ack(struct input *input, uint64_t *offset)
{
    /* Small writes are acknowledged when the process has caught up, large ones at every quarter of the window. */
    bool due = input->consumed > input->told &&
               (input->size == 0 || input->consumed - input->told >= STDIN_WINDOW / 4);
    if (!input->attached || !due)
        return false;
    input->told = input->consumed;
    if (input->consumed > input->granted)
        input->granted = input->consumed;
    *offset = input->consumed;
    return true;
}
