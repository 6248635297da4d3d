/* A load generator for OpenAI-shaped gateways. Prints one line of JSON and exits.
 *
 *   load closed  ...   CONNS kept-alive connections, each sends its next request when it has its answer
 *   load rate    ...   RATE requests per second on a fixed schedule, whatever the answers do; a latency counts
 *                      from the time at which the request was due, so that waiting is never hidden
 *   load streams ...   CONNS streams, started evenly over RAMP seconds, each read to its end
 *
 * Options: --port N  --conns N  --seconds S  --rate N  --ramp S  --prompt BYTES  --key KEY  --model NAME
 *
 * Whatever happens it ends SECONDS (and for `closed` and `rate` up to two more) after it began. A stream counts as
 * complete only if [DONE] came and the HTTP body ended as its framing says. A chunk's delay is the time at which
 * it was read minus the time that the mock engine wrote into it.
 *
 * It speaks just enough HTTP/1.1 to follow a response's framing exactly, and does not check JSON. */
#include "wire.h"

#define MAX_FDS 65536
#define PROMPTS 1024 /* different prompts in rotation, so that a prefix index has something to do */

enum framing { HEAD, FIXED, SIZE, DATA, DATA_END, TRAILER, UNTIL_CLOSE };

struct conn {
    bool open, busy, got_first, trailer_text;
    int status, tag_seen;
    enum framing framing;
    uint64_t since, tag, left;
    char *request, head[16384], tail[16];
    size_t sent, head_len;
};

struct samples {
    uint64_t *at;
    size_t n, cap;
};

static struct conn *conns[MAX_FDS]; /* by file descriptor */
static struct samples delays, firsts;
static int epoll, timer, open_now;
static char *request_text;
static size_t request_len, counter_at;
static uint64_t asked, done, failed, refused, chunks, broken, reconnects, began, last_done, stop_at;
static int last_bad_status;
static char bad_text[161];

static enum { CLOSED, RATE, STREAMS } kind;
static struct {
    int port, conns;
    double seconds, rate, ramp;
    size_t prompt;
    const char *key, *model;
} want = {0, 32, 3, 1000, 1, 1024, "", "gemma-4-e2b"};

static void add(struct samples *s, uint64_t value) {
    if (s->n == s->cap) s->at = must(realloc(s->at, (s->cap = s->cap * 2 + 65536) * sizeof *s->at));
    s->at[s->n++] = value;
}

static int by_size(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void print_samples(const char *name, struct samples *s) {
    static const struct { const char *name; double share; } points[] = {
        {"p50", .5}, {"p90", .9}, {"p99", .99}, {"p999", .999}, {"max", 1}};
    qsort(s->at, s->n, sizeof *s->at, by_size);
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        size_t at = (size_t)((double)s->n * points[i].share);
        if (at >= s->n) at = s->n - 1;
        if (s->n) printf(", \"%s_%s_us\": %.1f", name, points[i].name, (double)s->at[at] / 1000);
    }
}

/* ---- the request ---- */

/* The headers are those of the official OpenAI client for Python. */
static void compose_request(void) {
    char *body = must(malloc(want.prompt + 1024)), *prompt = must(malloc(want.prompt + 1)), authorization[512] = "";
    static const char words[] = "the quick brown fox jumps over the lazy dog and then ";
    for (size_t i = 0; i < want.prompt; i++) prompt[i] = words[i % (sizeof words - 1)];
    memset(prompt, '0', want.prompt < 8 ? want.prompt : 8); /* the counter */
    int n = sprintf(body, "{\"model\":\"%s\",\"messages\":[{\"role\":\"user\",\"content\":\"", want.model);
    size_t prompt_at = (size_t)n;
    memcpy(body + n, prompt, want.prompt);
    n += (int)want.prompt;
    n += sprintf(body + n, "\"}],\"max_tokens\":1024,\"temperature\":0.7%s}",
                 kind == STREAMS ? ",\"stream\":true,\"stream_options\":{\"include_usage\":true}" : "");
    if (*want.key) snprintf(authorization, sizeof authorization, "authorization: Bearer %s\r\n", want.key);
    request_text = must(malloc((size_t)n + 2048));
    int head = sprintf(request_text,
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:%d\r\naccept-encoding: gzip, deflate\r\n"
        "connection: keep-alive\r\n%saccept: application/json\r\ncontent-type: application/json\r\n"
        "user-agent: OpenAI/Python 3.52.0\r\nx-stainless-lang: python\r\nx-stainless-package-version: 3.52.0\r\n"
        "x-stainless-os: Linux\r\nx-stainless-arch: x64\r\nx-stainless-runtime: CPython\r\n"
        "x-stainless-runtime-version: 3.11.7\r\nx-stainless-async: false\r\nx-stainless-retry-count: 0\r\n"
        "x-stainless-read-timeout: 600\r\ncontent-length: %d\r\n\r\n",
        want.port, authorization, n);
    memcpy(request_text + head, body, (size_t)n);
    request_len = (size_t)(head + n);
    counter_at = (size_t)head + prompt_at;
    free(body), free(prompt);
}

/* ---- one connection ---- */

static void connect_to_gateway(struct conn *c, int *fd) {
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)want.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    *fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (*fd < 0 || *fd >= MAX_FDS) die("socket");
    if (connect(*fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS) die("connect");
    no_delay(*fd);
    conns[*fd] = c;
    c->open = true;
    open_now++;
    watch(epoll, EPOLL_CTL_ADD, *fd, EPOLLIN);
}

static void hang_up(int fd) {
    if (!conns[fd]) return;
    conns[fd]->open = false;
    conns[fd] = NULL;
    open_now--;
    close(fd);
}

static void push_request(int fd) {
    struct conn *c = conns[fd];
    while (c->sent < request_len) {
        ssize_t n = send(fd, c->request + c->sent, request_len - c->sent, MSG_NOSIGNAL);
        if (n < 0) { /* EAGAIN while connecting or full; anything else is seen by recv */
            watch(epoll, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLOUT);
            return;
        }
        c->sent += (size_t)n;
    }
}

static void ask(int fd, uint64_t since) {
    struct conn *c = conns[fd];
    if (!c->request) {
        c->request = must(malloc(request_len));
        memcpy(c->request, request_text, request_len);
    }
    if (want.prompt >= 8) write_digits(c->request + counter_at, asked % PROMPTS, 8);
    asked++;
    c->busy = true, c->got_first = false, c->framing = HEAD, c->head_len = c->sent = 0, c->tag_seen = 0, c->status = 0;
    memset(c->tail, 0, sizeof c->tail);
    c->since = since;
    push_request(fd);
}

/* ---- following a response ---- */

/* Payload in order, cut anywhere: counts tokens by their tags and remembers the last bytes. */
static void on_payload(struct conn *c, const char *data, size_t len, uint64_t now) {
    if (c->status != 200) {
        if (!bad_text[0]) snprintf(bad_text, sizeof bad_text, "%.*s", (int)len, data);
        return;
    }
    if (kind != STREAMS) return;
    if (len >= sizeof c->tail) {
        memcpy(c->tail, data + len - sizeof c->tail, sizeof c->tail);
    } else {
        memmove(c->tail, c->tail + len, sizeof c->tail - len);
        memcpy(c->tail + sizeof c->tail - len, data, len);
    }
    for (const char *end = data + len; data < end; data++) {
        if (c->tag_seen == 0) {
            data = memchr(data, '@', (size_t)(end - data));
            if (!data) return;
            c->tag_seen = 1, c->tag = 0;
        } else if (c->tag_seen < 3) {
            c->tag_seen = *data == "@t="[c->tag_seen] ? c->tag_seen + 1 : 0;
        } else {
            c->tag = c->tag * 10 + (uint64_t)(*data - '0');
            if (++c->tag_seen < 3 + TAG_DIGITS) continue;
            c->tag_seen = 0;
            chunks++;
            if (c->tag) add(&delays, now - c->tag); /* a flood carries no times */
            if (!c->got_first) add(&firsts, now - c->since);
            c->got_first = true;
        }
    }
}

static void read_head(struct conn *c) {
    c->status = c->head_len > 12 ? atoi(c->head + 9) : 0;
    const char *length = header(c->head, c->head_len, "content-length");
    const char *coding = header(c->head, c->head_len, "transfer-encoding");
    c->left = length ? strtoull(length, NULL, 10) : 0;
    c->trailer_text = false;
    c->framing = coding ? SIZE : length ? FIXED : UNTIL_CLOSE;
}

/* Takes in bytes; true when the response has ended. */
static bool follow(struct conn *c, const char *data, size_t len, uint64_t now) {
    const char *end = data + len;
    while (data < end) {
        if (c->framing == HEAD) {
            if (c->head_len == sizeof c->head) return c->status = -1, true;
            c->head[c->head_len++] = *data++;
            if (c->head_len < 4 || memcmp(c->head + c->head_len - 4, "\r\n\r\n", 4)) continue;
            read_head(c);
            if (c->framing == FIXED && !c->left) return true;
        } else if (c->framing == SIZE) {
            char digit = *data++;
            if (digit >= '0' && digit <= '9') c->left = c->left * 16 + (uint64_t)(digit - '0');
            else if ((digit | 32) >= 'a' && (digit | 32) <= 'f') c->left = c->left * 16 + (uint64_t)((digit | 32) - 'a' + 10);
            else if (digit == '\n') c->framing = c->left ? DATA : TRAILER;
        } else if (c->framing == DATA_END) {
            if (*data++ == '\n') c->framing = SIZE;
        } else if (c->framing == TRAILER) {
            if (*data == '\n' && !c->trailer_text) return true;
            if (*data != '\r') c->trailer_text = *data != '\n';
            data++;
        } else {
            size_t n = (size_t)(end - data);
            if (c->framing != UNTIL_CLOSE && n > c->left) n = (size_t)c->left;
            on_payload(c, data, n, now);
            data += n, c->left -= n;
            if (c->framing == FIXED && !c->left) return true;
            if (c->framing == DATA && !c->left) c->framing = DATA_END;
        }
    }
    return false;
}

/* ---- the three kinds of load ---- */

static int *idle, idle_n;              /* connections without work (rate) */
static uint64_t *late, late_head, late_tail; /* times at which requests were due that had no connection (rate) */
static struct conn *all;
static int started;

static void settle(int fd, uint64_t now) {
    struct conn *c = conns[fd];
    bool ended_well = kind != STREAMS || memmem(c->tail, sizeof c->tail, "[DONE]", 6);
    c->busy = false;
    last_done = now;
    if (c->status == 200 && ended_well) done++;
    else if (c->status == 200) broken++;
    else refused++, last_bad_status = c->status;
    if (kind != STREAMS && c->status == 200) add(&delays, now - c->since);
    if (kind == STREAMS) {
        hang_up(fd);
        return;
    }
    const char *connection = header(c->head, c->head_len, "connection");
    if (connection && !strncasecmp(connection, "close", 5)) {
        hang_up(fd);
        connect_to_gateway(c, &fd);
        reconnects++;
    }
    if (kind == CLOSED && now < stop_at) ask(fd, now);
    else if (kind == RATE && late_head < late_tail) ask(fd, late[late_head++]);
    else if (kind == RATE) idle[idle_n++] = fd;
}

static void lose(int fd) { /* the gateway closed the connection */
    struct conn *c = conns[fd];
    bool was_busy = c->busy;
    if (was_busy && c->framing == UNTIL_CLOSE) {
        settle(fd, now_ns());
        return;
    }
    failed += was_busy;
    c->busy = false;
    for (int i = 0; i < idle_n; i++)
        if (idle[i] == fd) idle[i] = idle[--idle_n];
    hang_up(fd);
    if (kind == STREAMS || now_ns() >= stop_at || failed > 100000) return;
    connect_to_gateway(c, &fd);
    reconnects++;
    if (kind == CLOSED) ask(fd, now_ns());
    else idle[idle_n++] = fd;
}

static void on_event(int fd, uint32_t flags) {
    static char buffer[1 << 18];
    struct conn *c = conns[fd];
    if (flags & EPOLLOUT) {
        watch(epoll, EPOLL_CTL_MOD, fd, EPOLLIN);
        if (c->busy) push_request(fd);
    }
    if (!(flags & ~(uint32_t)EPOLLOUT)) return;
    ssize_t n = recv(fd, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) return lose(fd);
    uint64_t now = now_ns();
    if (c->busy && follow(c, buffer, (size_t)n, now)) settle(fd, now);
}

/* Does what is due and says when to wake next (0: never). */
static uint64_t keep_schedule(uint64_t now) {
    double step = kind == RATE ? 1e9 / want.rate : want.ramp * 1e9 / want.conns;
    uint64_t total = kind == RATE ? (uint64_t)(want.rate * want.seconds) : (uint64_t)want.conns;
    if (kind == CLOSED) return stop_at;
    while ((uint64_t)started < total) {
        uint64_t due = began + (uint64_t)(step * started);
        if (due > now) return due;
        started++;
        if (kind == STREAMS) {
            int fd;
            connect_to_gateway(&all[started - 1], &fd);
            ask(fd, now_ns());
        } else if (idle_n) {
            ask(idle[--idle_n], due);
        } else {
            late[late_tail++] = due;
        }
    }
    return stop_at;
}

static bool finished(uint64_t now) {
    if (kind == STREAMS) return now >= stop_at || (started == want.conns && !open_now);
    if (now >= stop_at + 2000000000u) return true;
    bool all_sent = kind == CLOSED ? now >= stop_at : now >= stop_at && late_head == late_tail;
    return all_sent && done + refused + failed + broken >= asked;
}

static void run(void) {
    struct epoll_event events[512];
    for (;;) {
        uint64_t now = now_ns();
        if (finished(now)) return;
        uint64_t next = keep_schedule(now);
        wake_at(timer, next > now ? next : now + 5000000);
        int n = epoll_wait(epoll, events, 512, 100);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            uint64_t ticks;
            if (fd != timer) {
                if (conns[fd]) on_event(fd, events[i].events);
            } else if (read(timer, &ticks, sizeof ticks) < 0 && errno != EAGAIN) {
                die("timer");
            }
        }
    }
}

static void parse_options(int argc, char **argv) {
    if (argc < 2) exit(2);
    kind = !strcmp(argv[1], "closed") ? CLOSED : !strcmp(argv[1], "rate") ? RATE : STREAMS;
    for (int i = 2; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (!strcmp(name, "--port")) want.port = atoi(value);
        else if (!strcmp(name, "--conns")) want.conns = atoi(value);
        else if (!strcmp(name, "--seconds")) want.seconds = atof(value);
        else if (!strcmp(name, "--rate")) want.rate = atof(value);
        else if (!strcmp(name, "--ramp")) want.ramp = atof(value);
        else if (!strcmp(name, "--prompt")) want.prompt = strtoul(value, NULL, 10);
        else if (!strcmp(name, "--key")) want.key = value;
        else if (!strcmp(name, "--model")) want.model = value;
        else fprintf(stderr, "load: %s is not an option\n", name), exit(2);
    }
    if (!want.port || want.conns < 1 || want.conns > 20000) fprintf(stderr, "load: --port and --conns\n"), exit(2);
}

int main(int argc, char **argv) {
    parse_options(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    compose_request();
    epoll = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    watch(epoll, EPOLL_CTL_ADD, timer, EPOLLIN);
    all = must(calloc((size_t)want.conns, sizeof *all));
    idle = must(calloc((size_t)want.conns + 1, sizeof *idle));
    late = must(calloc((size_t)(want.rate * want.seconds) + 2, sizeof *late));
    for (int i = 0; kind != STREAMS && i < want.conns; i++) {
        int fd;
        connect_to_gateway(&all[i], &fd);
        idle[idle_n++] = fd;
    }
    began = last_done = now_ns();
    stop_at = began + (uint64_t)(want.seconds * 1e9);
    if (kind == CLOSED)
        while (idle_n) ask(idle[--idle_n], now_ns());
    run();
    uint64_t ended = kind == STREAMS ? now_ns() : last_done;
    double seconds = (double)(ended - began) / 1e9;
    for (char *p = bad_text; *p; p++)
        if (*p == '"' || *p == '\\' || (unsigned char)*p < 32 || (unsigned char)*p > 126) *p = ' ';
    printf("{\"seconds\": %.4f, \"asked\": %llu, \"done\": %llu, \"refused\": %llu, \"failed\": %llu, \"broken\": %llu, "
           "\"unfinished\": %llu, \"reconnects\": %llu, \"chunks\": %llu, \"last_bad_status\": %d, \"bad_text\": \"%s\"",
           seconds, (unsigned long long)asked, (unsigned long long)done, (unsigned long long)refused,
           (unsigned long long)failed, (unsigned long long)broken,
           (unsigned long long)(asked - done - refused - failed - broken), (unsigned long long)reconnects,
           (unsigned long long)chunks, last_bad_status, bad_text);
    print_samples("delay", &delays);
    print_samples("first", &firsts);
    printf("}\n");
    return 0;
}
