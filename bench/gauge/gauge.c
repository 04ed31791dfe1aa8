/* What the io and net benches run, in a pod, in a container and on the host: the same static program everywhere, so
 * that a difference is the place's. As process 1 it says one word and waits: a plain VM's init.
 *
 *   write PATH MIB             "BYTES NS": written in blocks of 1 MiB, to the disk's end (fdatasync)
 *   read PATH                  "BYTES NS": read from the disk, not from this kernel's page cache
 *   write-latency PATH COUNT   a line of NS each: 4 KiB at a random place, fdatasync
 *   read-latency PATH COUNT    a line of NS each: 4 KiB from a random place, not from this kernel's page cache
 *   serve PORT                 the other end of the following four, for ever
 *   send|receive HOST PORT S   "BYTES NS": one TCP connection as fast as it goes, for S seconds
 *   ping HOST PORT COUNT       a line of NS each: one byte there and back on an open connection
 *   connect HOST PORT COUNT    a line of NS each: a new connection, one byte there and back
 *   clock                      "NS" of the monotonic clock
 */
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 1 << 20, PAGE = 4096, CHUNK = 1 << 18, CONNECT_TRIES = 200 };

static uint64_t buffer[BLOCK / sizeof(uint64_t)];

static int64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* xorshift64: neither a compressing nor a deduplicating disk gains by it. */
static uint64_t next_random(void)
{
	static uint64_t state = 0x9e3779b97f4a7c15;

	state ^= state << 13;
	state ^= state >> 7;
	return state ^= state << 17;
}

static int64_t number(const char *text, int64_t most)
{
	char *end;
	long long value = strtoll(text, &end, 10);

	if (*end || end == text || value < 1 || value > most)
		errx(2, "%s is no number from 1 to %lld", text, (long long)most);
	return value;
}

static int open_file(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC, 0600);

	if (fd < 0)
		err(1, "%s", path);
	return fd;
}

/* Clean pages go; so what is dirty is written first. */
static void drop_cache(int fd)
{
	fdatasync(fd);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}

static void write_all(const char *path, int64_t mib)
{
	int fd = open_file(path, O_WRONLY | O_CREAT | O_TRUNC);
	int64_t began = now();

	for (int64_t i = 0; i < mib; i++) {
		for (int at = 0; at < BLOCK; at += PAGE)
			buffer[at / sizeof(*buffer)] = next_random();
		if (write(fd, buffer, BLOCK) != BLOCK)
			err(1, "%s", path);
	}
	if (fdatasync(fd))
		err(1, "%s", path);
	printf("%lld %lld\n", (long long)mib * BLOCK, (long long)(now() - began));
}

static void read_all(const char *path)
{
	int fd = open_file(path, O_RDONLY);
	int64_t total = 0, began;
	ssize_t n;

	drop_cache(fd);
	began = now();
	while ((n = read(fd, buffer, BLOCK)) > 0)
		total += n;
	if (n < 0)
		err(1, "%s", path);
	printf("%lld %lld\n", (long long)total, (long long)(now() - began));
}

static void disk_latency(const char *path, int64_t count, int writes)
{
	int fd = open_file(path, writes ? O_RDWR : O_RDONLY);
	struct stat status;
	int64_t pages, began;

	if (fstat(fd, &status) || (pages = status.st_size / PAGE) < 1)
		errx(1, "%s is too small", path);
	posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	drop_cache(fd);
	for (int64_t i = 0; i < count; i++) {
		off_t at = next_random() % pages * PAGE;

		began = now();
		buffer[0] = began;
		if ((writes ? pwrite(fd, buffer, PAGE, at) : pread(fd, buffer, PAGE, at)) != PAGE)
			err(1, "%s", path);
		if (writes && fdatasync(fd))
			err(1, "%s", path);
		printf("%lld\n", (long long)(now() - began));
	}
}

static struct sockaddr_in address_of(const char *host, const char *port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(number(port, 65535))};

	if (inet_pton(AF_INET, host, &address.sin_addr) != 1)
		errx(2, "%s is no IPv4 address", host);
	return address;
}

static int new_socket(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	if (fd < 0)
		err(1, "socket");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

/* A connection whose other end does what `job` says. */
static int dial(const char *host, const char *port, char job)
{
	struct sockaddr_in address = address_of(host, port);
	int fd = new_socket();

	/* The server may be on its way up. */
	for (int tries = 0; connect(fd, (struct sockaddr *)&address, sizeof(address)); tries++) {
		if (tries == CONNECT_TRIES)
			err(1, "%s", host);
		close(fd);
		usleep(50000);
		fd = new_socket();
	}
	if (write(fd, &job, 1) != 1)
		err(1, "%s", host);
	return fd;
}

static void flow(const char *host, const char *port, const char *seconds, int sends)
{
	int fd = dial(host, port, sends ? 's' : 'r');
	int64_t began = now(), until = began + number(seconds, 3600) * 1000000000LL, total = 0;
	uint64_t arrived = 0;
	ssize_t n;

	while (now() < until) {
		n = sends ? write(fd, buffer, CHUNK) : read(fd, buffer, CHUNK);
		if (n <= 0)
			err(1, "%s", host);
		total += n;
	}
	if (sends) { /* What is still under way counts when it has arrived. */
		shutdown(fd, SHUT_WR);
		if (recv(fd, &arrived, sizeof(arrived), MSG_WAITALL) != sizeof(arrived) || arrived != (uint64_t)total)
			errx(1, "%llu of %lld bytes arrived", (unsigned long long)arrived, (long long)total);
	}
	printf("%lld %lld\n", (long long)total, (long long)(now() - began));
}

static void round_trip(int fd)
{
	char byte = 'p';

	if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1)
		err(1, "round trip");
}

static void net_latency(const char *host, const char *port, int64_t count, int anew)
{
	int fd = dial(host, port, 'e');

	for (int64_t i = 0; i < count; i++) {
		int64_t began = now();

		if (anew) {
			close(fd);
			fd = dial(host, port, 'e');
		}
		round_trip(fd);
		printf("%lld\n", (long long)(now() - began));
	}
}

/* One connection, in a process of its own. */
static void serve_one(int fd)
{
	uint64_t total = 0;
	char job = 0;
	ssize_t n;

	if (read(fd, &job, 1) != 1)
		return;
	if (job == 's') {
		while ((n = read(fd, buffer, CHUNK)) > 0)
			total += n;
		if (write(fd, &total, sizeof(total)) < 0)
			warn("answer");
	} else if (job == 'r') {
		while (write(fd, buffer, CHUNK) > 0)
			;
	} else if (job == 'e') {
		while (read(fd, &job, 1) == 1 && write(fd, &job, 1) == 1)
			;
	}
}

static void serve(const char *port)
{
	struct sockaddr_in address = address_of("0.0.0.0", port);
	int listener = new_socket(), one = 1, fd;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGCHLD, SIG_IGN); /* The kernel reaps. */
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 128))
		err(1, "port %s", port);
	while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		if (fork() == 0) {
			serve_one(fd);
			_exit(0);
		}
		close(fd);
	}
	err(1, "accept");
}

int main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "";

	if (getpid() == 1 && argc < 3) {
		puts("gauge is up");
		fflush(stdout);
		for (;;)
			pause();
	}
	if (!strcmp(verb, "clock") && argc == 2)
		printf("%lld\n", (long long)now());
	else if (!strcmp(verb, "write") && argc == 4)
		write_all(argv[2], number(argv[3], 1 << 20));
	else if (!strcmp(verb, "read") && argc == 3)
		read_all(argv[2]);
	else if (!strcmp(verb, "write-latency") && argc == 4)
		disk_latency(argv[2], number(argv[3], 1 << 20), 1);
	else if (!strcmp(verb, "read-latency") && argc == 4)
		disk_latency(argv[2], number(argv[3], 1 << 20), 0);
	else if (!strcmp(verb, "serve") && argc == 3)
		serve(argv[2]);
	else if (!strcmp(verb, "send") && argc == 5)
		flow(argv[2], argv[3], argv[4], 1);
	else if (!strcmp(verb, "receive") && argc == 5)
		flow(argv[2], argv[3], argv[4], 0);
	else if (!strcmp(verb, "ping") && argc == 5)
		net_latency(argv[2], argv[3], number(argv[4], 1 << 20), 0);
	else if (!strcmp(verb, "connect") && argc == 5)
		net_latency(argv[2], argv[3], number(argv[4], 1 << 20), 1);
	else
		errx(2, "usage: see the head of gauge.c");
	return 0;
}
