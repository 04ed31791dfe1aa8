/* A process of its own carries requests between /dev/fuse and a virtio-serial port. It holds one of each at a time: what
 * else there is waits in the kernel, or with the server. */
#include "files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/stat.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../files/tray.h"
#include "mounts.h"

#define ANSWER_MAX (256 * 1024 + 8192) /* the server's largest read or write, with its head */
#define PIECE 4096                     /* of the port's: what one read gives */
#define READ_MAX "262144"
#define PORT_WAIT_NS (10 * NSEC_PER_SEC)
#define READ_AHEAD_KIB "512" /* two of the largest reads: while one is copied, the other is on its way */
#define NAMES_MAX 64
#define STATX_DONT_SYNC 0x4000 /* <linux/fcntl.h> does not go together with <fcntl.h> */

static bool served;

bool files_served(void)
{
    return served;
}

static int open_port(const char *name)
{
    char path[300], text[NAMES_MAX + 2];
    int fd = -1;
    DIR *directory = opendir("/sys/class/virtio-ports");
    for (struct dirent *entry; directory && fd < 0 && (entry = readdir(directory));) {
        snprintf(path, sizeof(path), "%s/name", entry->d_name);
        if (entry->d_name[0] == '.' || read_text(dirfd(directory), path, text, sizeof(text)) < 0)
            continue;
        text[strcspn(text, "\n")] = 0;
        snprintf(path, sizeof(path), "/dev/%.64s", entry->d_name);
        if (strcmp(text, name) == 0)
            fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    }
    if (directory)
        closedir(directory);
    return fd;
}

/* No event tells of either. */
int files_port(const char *name)
{
    int64_t deadline = now_ns() + PORT_WAIT_NS;
    int fd = -1;
    while (now_ns() < deadline) {
        if (fd < 0)
            fd = open_port(name);
        struct pollfd port = {.fd = fd, .events = POLLOUT};
        if (fd >= 0 && poll(&port, 1, 0) == 1 && !(port.revents & POLLHUP))
            return fd;
        usleep(1000);
    }
    return -1;
}

/* What is on its way in one direction: one request, or answers as they come. Both begin with their size. */
struct lane {
    _Alignas(4096) char before[4096 - sizeof(struct fuse_in_header) - sizeof(struct fuse_write_in)];
    char data[ANSWER_MAX + PIECE]; /* of a write, they are aligned for the tray */
    size_t size, sent;
};

/* Reads whose data may come by the tray, by what their requests are called; no more at once than it has places. And
 * writes whose data goes by it: at most as many, each in the place of its number here, where the tray has such. */
static struct {
    int fd;          /* -1: there is none */
    unsigned device; /* minor number of the file system, until the kernel has its first answer */
    uint64_t reads[TRAY_PLACES], writes[TRAY_PLACES]; /* 0: none */
    unsigned count, written;
    bool takes_writes;
} tray = {.fd = -1};

/* What the server waits for before it uses the tray. */
static void ask_for_tray(struct lane *out)
{
    const struct fuse_in_header ask = {.len = sizeof(ask), .opcode = TRAY_ASK};
    memcpy(out->data, &ask, sizeof(ask));
    out->size = sizeof(ask);
}

static void note_read(const char *request)
{
    struct fuse_in_header head;
    memcpy(&head, request, sizeof(head));
    if (tray.fd >= 0 && head.opcode == FUSE_READ)
        tray.reads[tray.count++] = head.unique;
}

static void note_answer(uint64_t unique)
{
    for (unsigned i = 0; tray.written && i < TRAY_PLACES; i++)
        if (tray.writes[i] == unique) {
            tray.writes[i] = 0;
            tray.written--;
            return;
        }
    for (unsigned i = 0; i < tray.count; i++)
        if (tray.reads[i] == unique) {
            tray.reads[i] = tray.reads[--tray.count];
            return;
        }
}

/* The kernel's ENODEV: nobody waits for answers any more. */
static bool answer_kernel(int fuse, struct fuse_out_header head, char *data, size_t size)
{
    struct iovec parts[] = {{&head, sizeof(head)}, {data, size}};
    head.len = (uint32_t)(sizeof(head) + size);
    return writev(fuse, parts, size ? 2 : 1) >= 0 || errno != ENODEV;
}

static bool answer_from_tray(int fuse, const char *answer, size_t size)
{
    static _Alignas(4096) char data[TRAY_PLACE];
    struct fuse_out_header head;
    struct tray_answer where;
    if (size != sizeof(head) + sizeof(where))
        return false;
    memcpy(&head, answer, sizeof(head));
    memcpy(&where, answer + sizeof(head), sizeof(where));
    if (where.place >= TRAY_PLACES || where.size > TRAY_PLACE)
        return false;
    size_t whole = TRAY_WHOLE(where.size);
    ssize_t got = pread(tray.fd, data, whole, (off_t)where.place * TRAY_PLACE);
    bool good = got == (ssize_t)whole;
    head.error = good ? 0 : -EIO;
    return answer_kernel(fuse, head, data, good ? where.size : 0);
}

/* The server's first answer says how far the kernel reads ahead, and that says no more than it did before. */
static void read_ahead(unsigned device)
{
    char path[64];
    snprintf(path, sizeof(path), "/sys/class/bdi/0:%u/read_ahead_kb", device);
    write_text(AT_FDCWD, path, READ_AHEAD_KIB);
}

static bool pass_answer(int fuse, const char *answer, size_t size)
{
    struct fuse_out_header head;
    memcpy(&head, answer, sizeof(head));
    note_answer(head.unique);
    if (tray.fd >= 0 && head.error == TRAY_ANSWER)
        return answer_from_tray(fuse, answer, size);
    bool good = write(fuse, answer, size) >= 0 || errno != ENODEV;
    if (tray.fd >= 0 && tray.device)
        read_ahead(tray.device);
    tray.device = 0;
    return good;
}

/* Puts a large write's data on the tray, and says in its place where it is. Where that fails it goes as it is. */
static void write_by_tray(struct lane *out)
{
    struct fuse_in_header head;
    const size_t begin = sizeof(head) + sizeof(struct fuse_write_in);
    memcpy(&head, out->data, sizeof(head));
    if (head.opcode != FUSE_WRITE || out->size <= begin + TRAY_LEAST || out->size > begin + TRAY_PLACE)
        return;
    struct tray_answer where = {.size = (uint32_t)(out->size - begin)};
    while (tray.writes[where.place]) /* one is vacant, or no request was taken */
        where.place++;
    ssize_t whole = (ssize_t)TRAY_WHOLE(where.size);
    if (pwrite(tray.fd, out->data + begin, (size_t)whole, (off_t)(TRAY_PLACES + where.place) * TRAY_PLACE) != whole)
        return;
    tray.writes[where.place] = head.unique;
    tray.written++;
    head.opcode = TRAY_WRITE;
    out->size = begin + sizeof(where);
    head.len = (uint32_t)out->size;
    memcpy(out->data, &head, sizeof(head));
    memcpy(out->data + begin, &where, sizeof(where));
}

/* From the kernel: a whole request, or nothing. False: the file system is unmounted. */
static bool take_request(int fuse, struct lane *out)
{
    ssize_t got = read(fuse, out->data, sizeof(out->data));
    if (got > 0)
        out->size = (size_t)got;
    if (got >= (ssize_t)sizeof(struct fuse_in_header))
        note_read(out->data);
    if (got > 0 && tray.takes_writes)
        write_by_tray(out);
    return got > 0 || errno == EAGAIN || errno == EINTR || errno == ENOENT;
}

static bool send_request(int port, struct lane *out)
{
    while (out->sent < out->size) {
        ssize_t sent = write(port, out->data + out->sent, out->size - out->sent);
        if (sent <= 0)
            return sent < 0 && (errno == EAGAIN || errno == EINTR);
        out->sent += (size_t)sent;
    }
    out->size = out->sent = 0;
    return true;
}

/* Bytes from the port; each answer that is whole goes to the kernel, which has the last word on whether it is one. */
static bool take_answers(int port, int fuse, struct lane *in)
{
    ssize_t got = read(port, in->data + in->size, sizeof(in->data) - in->size);
    if (got <= 0)
        return got < 0 && (errno == EAGAIN || errno == EINTR);
    in->size += (size_t)got;
    size_t used = 0;
    while (in->size - used >= sizeof(uint32_t)) {
        size_t whole = get_le32((const uint8_t *)in->data + used);
        if (whole < sizeof(struct fuse_out_header) || whole > ANSWER_MAX)
            return false;
        if (in->size - used < whole)
            break;
        if (!pass_answer(fuse, in->data + used, whole))
            return false;
        used += whole;
    }
    memmove(in->data, in->data + used, in->size - used);
    in->size -= used;
    return true;
}

static void carry(int fuse, int port)
{
    static struct lane out, in;
    if (tray.fd >= 0)
        ask_for_tray(&out);
    for (;;) {
        struct pollfd ends[] = {{.fd = out.size || tray.count == TRAY_PLACES || tray.written == TRAY_PLACES ? -1 : fuse, .events = POLLIN},
                                {.fd = port, .events = (short)(POLLIN | (out.size ? POLLOUT : 0))}};
        if (poll(ends, COUNT_OF(ends), -1) < 0 && errno != EINTR)
            return;
        if (ends[0].revents && !take_request(fuse, &out))
            return;
        if (out.size && !send_request(port, &out))
            return;
        if (ends[1].revents & POLLIN && !take_answers(port, fuse, &in))
            return;
        if (ends[1].revents & POLLHUP && !(ends[1].revents & POLLIN))
            return;
    }
}

/* The agent's own port above all must not stay open by this. */
int files_alone(int fd)
{
    dup2(fd, 3);
    syscall(SYS_close_range, 4U, ~0U, 0U);
    return 3;
}

/* One of a server in another machine has places for writes behind the others. */
static void open_tray(const char *device)
{
    tray.fd = open(device, O_RDWR | O_DIRECT | O_CLOEXEC);
    tray.takes_writes = tray.fd >= 0 && lseek(tray.fd, 0, SEEK_END) >= 2LL * TRAY_PLACES * TRAY_PLACE;
    if (tray.fd < 0)
        tray.fd = open(device, O_RDONLY | O_DIRECT | O_CLOEXEC);
}

static _Noreturn void relay(int fuse, const char *name, const char *tray_device, unsigned device)
{
    fuse = files_alone(fuse);
    prctl(PR_SET_NAME, "files");
    prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0); /* memory that it needs must not wait for files that it carries */
    if (tray_device)
        open_tray(tray_device);
    tray.device = device;
    int port = files_port(name);
    if (port >= 0)
        carry(fuse, port);
    log_line("the files served at %s are gone", name);
    _exit(0); /* the kernel ends what waits, and all that comes, with an error */
}

/* Without a question to the server, whom nobody is connected with yet. */
static unsigned minor_of(int mounted)
{
    struct statx status = {0};
    syscall(SYS_statx, mounted, "", AT_EMPTY_PATH | STATX_DONT_SYNC, 0, &status);
    return status.stx_dev_minor;
}

int files_mount(const char *port, const char *tray_device, struct problem *problem)
{
    char number[16];
    const char *const options[] = {"fd", number, "rootmode", "40000", "user_id", "0", "group_id", "0",
                                   "max_read", READ_MAX, "default_permissions", NULL, "allow_other", NULL, NULL};
    int fuse = open("/dev/fuse", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fuse < 0) {
        fail(problem, errno == ENOENT ? ENODEV : errno, "the kernel has no FUSE, which files of the host need");
        return -1;
    }
    snprintf(number, sizeof(number), "%d", fuse);
    int mounted = mount_new("fuse", "files", options, ATTR_NODEV, problem);
    pid_t pid = mounted < 0 ? -1 : fork();
    if (pid == 0)
        relay(fuse, port, tray_device, minor_of(mounted));
    if (mounted >= 0 && pid < 0) {
        fail(problem, errno, "cannot start the carrier of files: %s", strerror(errno));
        close_fd(&mounted);
    }
    served = served || mounted >= 0;
    close_fd(&fuse);
    return mounted;
}
