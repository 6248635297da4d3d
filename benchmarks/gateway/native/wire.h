/* What the mock engine and the load generator share: a clock, sockets, and numbers from text.
 *
 * Both are single-threaded epoll programs, so that neither is ever the bottleneck of a measurement.
 * They read CLOCK_MONOTONIC, which is one clock for every process of a machine: a time that the engine
 * writes into a chunk can be compared with the time at which the load generator reads it. */
#ifndef WIRE_H
#define WIRE_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

/* A streamed token carries "@t=" and this many digits: its send time in nanoseconds. */
#define TAG_DIGITS 19

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void die(const char *what) {
    perror(what);
    exit(1);
}

static inline void *must(void *memory) {
    if (!memory) die("memory");
    return memory;
}

static inline void no_delay(int fd) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static inline void wake_at(int timer, uint64_t at_ns) { /* 0 disarms */
    struct itimerspec when = {.it_value = {(time_t)(at_ns / 1000000000u), (long)(at_ns % 1000000000u)}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static inline void watch(int epoll, int op, int fd, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(epoll, op, fd, &event) < 0) die("epoll_ctl");
}

static inline void write_digits(char *at, uint64_t value, int digits) {
    for (int i = digits - 1; i >= 0; i--, value /= 10) at[i] = (char)('0' + value % 10);
}

/* The value of a header inside a head that ends with an empty line; NULL if it is absent. */
static inline const char *header(const char *head, size_t len, const char *name) {
    size_t name_len = strlen(name);
    const char *end = head + len;
    for (const char *line = memchr(head, '\n', len); line && line + 1 < end;
         line = memchr(line, '\n', (size_t)(end - line))) {
        line++;
        if ((size_t)(end - line) > name_len && line[name_len] == ':' && !strncasecmp(line, name, name_len)) {
            line += name_len + 1;
            while (*line == ' ') line++;
            return line;
        }
    }
    return NULL;
}

#endif
