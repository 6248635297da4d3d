/* A mock inference engine that speaks the OpenAI wire and costs next to nothing.
 *
 *   engine PORTS      listens on that many loopback ports and prints {"ports": [...]}
 *
 * It answers POST with a fixed chat completion of 445 bytes, or, when the body asks for "stream": true, with
 * SSE events of 232 bytes, each in its own HTTP chunk and each carrying its send time, then a usage event and
 * [DONE]. Any GET is answered with 200 and a little JSON, so that routers that ask an engine about itself
 * are content.
 *
 * How it behaves is set from outside, never by the request, because some gateways rewrite bodies:
 *
 *   GET /mock/set?tokens=200&pace_us=50000&silent=0
 *       pace_us 0: as fast as the socket takes it.  silent 1: a request gets no byte at all (a long prefill);
 *       silent 2: a stream gets its headers and then nothing.
 *   GET /mock/stats
 *       counters, and the times at which clients were seen to leave a request that was under way.
 *
 * It does not check keys, generate text or keep any request. */
#include "wire.h"

#define MAX_FDS 65536
#define EVENT_BYTES 232
#define REPLY_BYTES 445
#define FLOOD_EVENTS 256
#define HELD_LIMIT (1u << 20) /* paced bytes kept for one reader that does not read */

enum state { IDLE, PACED, FLOOD, SILENT };

struct conn {
    bool open, listener, wants_write;
    uint32_t generation; /* so that a timer of a closed connection is recognised */
    enum state state;
    uint64_t tokens_left, flood_left; /* events; bytes */
    char *in, *out;
    size_t in_len, in_cap, out_off, out_len, out_cap;
};

struct alarm {
    uint64_t due;
    int fd;
    uint32_t generation;
};

static struct conn conns[MAX_FDS];
static struct alarm alarms[MAX_FDS]; /* a ring; in order of time, because every stream has the same pace */
static uint32_t alarms_head, alarms_tail;
static int epoll, timer;

static struct {
    uint64_t tokens, pace_ns, silent;
} mode = {200, 50000000, 0};

static struct {
    uint64_t requests, finished, aborted, events, bytes_out, skipped;
    uint64_t first_abort_ns, last_abort_ns, latest_ns; /* latest: how far behind its pace the engine ever was */
    int64_t active, connections;
} stats;

static char reply[640], event_chunk[300], flood_batch[FLOOD_EVENTS * 300], ending[512];
static size_t reply_len, chunk_len, tag_at, ending_len;

static const char STREAM_HEAD[] =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    "transfer-encoding: chunked\r\n\r\n";

/* ---- the fixed texts ---- */

static void compose(void) {
    char text[512], pad[256];
    memset(pad, 'x', sizeof pad);
    const char *format =
        "{\"id\":\"chatcmpl-mock-00000001\",\"object\":\"chat.completion\",\"created\":1760000000,"
        "\"model\":\"gemma-4-e2b\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
        "\"content\":\"%.*s\"},\"logprobs\":null,\"finish_reason\":\"stop\"}],"
        "\"usage\":{\"prompt_tokens\":256,\"completion_tokens\":32,\"total_tokens\":288}}";
    int bare = snprintf(text, sizeof text, format, 0, pad);
    snprintf(text, sizeof text, format, REPLY_BYTES - bare, pad);
    reply_len = (size_t)snprintf(reply, sizeof reply,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n", strlen(text));
    if (reply_len + REPLY_BYTES >= sizeof reply) exit(2);
    memcpy(reply + reply_len, text, strlen(text));
    reply_len += strlen(text);

    format = "data: {\"id\":\"chatcmpl-mock-00000001\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,"
             "\"model\":\"gemma-4-e2b\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"@t=%019d%.*s\"},"
             "\"finish_reason\":null}]}\n\n";
    bare = snprintf(text, sizeof text, format, 0, 0, pad);
    snprintf(text, sizeof text, format, 0, EVENT_BYTES - bare, pad);
    chunk_len = (size_t)snprintf(event_chunk, sizeof event_chunk, "%x\r\n%s\r\n", EVENT_BYTES, text);
    tag_at = (size_t)(strstr(event_chunk, "@t=") + 3 - event_chunk);
    for (int i = 0; i < FLOOD_EVENTS; i++) memcpy(flood_batch + (size_t)i * chunk_len, event_chunk, chunk_len);
}

static void compose_ending(void) {
    char usage[300];
    int n = snprintf(usage, sizeof usage,
        "data: {\"id\":\"chatcmpl-mock-00000001\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,"
        "\"model\":\"gemma-4-e2b\",\"choices\":[],\"usage\":{\"prompt_tokens\":256,\"completion_tokens\":%llu,"
        "\"total_tokens\":%llu}}\n\n",
        (unsigned long long)mode.tokens, (unsigned long long)mode.tokens + 256);
    ending_len = (size_t)snprintf(ending, sizeof ending, "%x\r\n%s\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n", n, usage);
}

/* ---- connections ---- */

static void interest(int fd, bool write) {
    if (conns[fd].wants_write == write) return;
    conns[fd].wants_write = write;
    watch(epoll, EPOLL_CTL_MOD, fd, EPOLLIN | (write ? EPOLLOUT : 0));
}

static void end_request(struct conn *c, bool aborted) {
    if (c->state == IDLE) return;
    c->state = IDLE;
    c->generation++;
    stats.active--;
    if (!aborted) {
        stats.finished++;
        return;
    }
    stats.aborted++;
    stats.last_abort_ns = now_ns();
    if (!stats.first_abort_ns) stats.first_abort_ns = stats.last_abort_ns;
}

static void drop(int fd) {
    struct conn *c = &conns[fd];
    end_request(c, true);
    c->open = c->wants_write = false;
    c->in_len = c->out_off = c->out_len = 0;
    if (c->in_cap > 1u << 20) free(c->in), c->in = NULL, c->in_cap = 0;
    stats.connections--;
    close(fd);
}

/* Hands bytes to the kernel and keeps what it does not take. False: the connection is gone. */
static bool emit(int fd, const char *data, size_t len) {
    struct conn *c = &conns[fd];
    if (c->out_off == c->out_len) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN) return drop(fd), false;
        if (n < 0) n = 0;
        stats.bytes_out += (uint64_t)n;
        data += n, len -= (size_t)n;
        if (!len) return true;
        c->out_off = c->out_len = 0;
    }
    if (c->out_len + len > c->out_cap) c->out = must(realloc(c->out, c->out_cap = (c->out_len + len) * 2));
    memcpy(c->out + c->out_len, data, len);
    c->out_len += len;
    interest(fd, true);
    return true;
}

static void read_requests(int fd);

static void finish(int fd) {
    end_request(&conns[fd], false);
    if (emit(fd, ending, ending_len)) read_requests(fd);
}

/* ---- streams ---- */

static void send_token(int fd, uint64_t due) {
    struct conn *c = &conns[fd];
    uint64_t now = now_ns();
    if (now - due > stats.latest_ns) stats.latest_ns = now - due;
    if (c->out_len - c->out_off > HELD_LIMIT) {
        stats.skipped++; /* nobody reads; a real engine would hold text, we hold no more than a bound */
    } else {
        write_digits(event_chunk + tag_at, now, TAG_DIGITS);
        stats.events++;
        if (!emit(fd, event_chunk, chunk_len)) return;
    }
    if (--c->tokens_left == 0) return finish(fd);
    alarms[alarms_tail++ % MAX_FDS] = (struct alarm){due + mode.pace_ns, fd, c->generation};
}

static void send_due_tokens(void) {
    while (alarms_head != alarms_tail) {
        struct alarm a = alarms[alarms_head % MAX_FDS];
        bool alive = conns[a.fd].open && conns[a.fd].generation == a.generation;
        if (alive && a.due > now_ns()) break;
        alarms_head++;
        if (alive) send_token(a.fd, a.due);
    }
    static uint64_t armed;
    uint64_t next = alarms_head == alarms_tail ? 0 : alarms[alarms_head % MAX_FDS].due;
    if (next != armed) wake_at(timer, armed = next);
}

static void pump_flood(int fd) {
    struct conn *c = &conns[fd];
    for (int turn = 0; turn < 8 && c->flood_left; turn++) { /* then others have their turn */
        size_t offset = (size_t)((chunk_len - c->flood_left % chunk_len) % chunk_len);
        size_t len = FLOOD_EVENTS * chunk_len - offset;
        if (len > c->flood_left) len = (size_t)c->flood_left;
        ssize_t n = send(fd, flood_batch + offset, len, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) break;
        if (n < 0) return drop(fd);
        c->flood_left -= (uint64_t)n;
        stats.bytes_out += (uint64_t)n;
        stats.events += (uint64_t)n / chunk_len;
    }
    if (c->flood_left) return interest(fd, true);
    interest(fd, false);
    finish(fd);
}

static void start_stream(int fd) {
    struct conn *c = &conns[fd];
    stats.active++;
    c->generation++;
    c->tokens_left = mode.tokens;
    c->flood_left = mode.tokens * chunk_len;
    c->state = mode.silent ? SILENT : mode.pace_ns ? PACED : FLOOD;
    if (mode.silent == 1 || !emit(fd, STREAM_HEAD, sizeof STREAM_HEAD - 1)) return;
    if (c->state == PACED) send_token(fd, now_ns());
    if (c->state == FLOOD) pump_flood(fd);
}

/* ---- requests ---- */

static uint64_t number_after(const char *text, size_t len, const char *name, uint64_t otherwise) {
    const char *found = memmem(text, len, name, strlen(name));
    return found ? strtoull(found + strlen(name), NULL, 10) : otherwise;
}

/* Requests left from a silent time are cut off, so that they are not taken for the next ones. */
static void forget_silent(void) {
    for (int fd = 0; fd < MAX_FDS; fd++) {
        if (!conns[fd].open || conns[fd].state != SILENT) continue;
        end_request(&conns[fd], false);
        drop(fd);
    }
}

static bool answer_get(int fd, const char *head, size_t len) {
    char body[700], whole[900];
    const char *type = "application/json";
    size_t line = (size_t)((const char *)memchr(head, '\r', len) - head);
    if (memmem(head, line, "/mock/set?", 10)) {
        mode.tokens = number_after(head, line, "tokens=", mode.tokens);
        mode.pace_ns = number_after(head, line, "pace_us=", mode.pace_ns / 1000) * 1000;
        mode.silent = number_after(head, line, "silent=", 0);
        stats.first_abort_ns = stats.last_abort_ns = stats.latest_ns = 0;
        compose_ending();
        forget_silent();
        strcpy(body, "{}");
    } else if (memmem(head, line, "/mock/stats", 11)) {
        snprintf(body, sizeof body,
            "{\"requests\":%llu,\"finished\":%llu,\"aborted\":%llu,\"events\":%llu,\"bytes_out\":%llu,"
            "\"skipped\":%llu,\"first_abort_ns\":%llu,\"last_abort_ns\":%llu,\"latest_us\":%.1f,"
            "\"active\":%lld,\"connections\":%lld}",
            (unsigned long long)stats.requests, (unsigned long long)stats.finished,
            (unsigned long long)stats.aborted, (unsigned long long)stats.events,
            (unsigned long long)stats.bytes_out, (unsigned long long)stats.skipped,
            (unsigned long long)stats.first_abort_ns, (unsigned long long)stats.last_abort_ns,
            (double)stats.latest_ns / 1000, (long long)stats.active, (long long)stats.connections);
    } else if (memmem(head, line, "/metrics", 8)) {
        type = "text/plain; version=0.0.4";
        snprintf(body, sizeof body,
            "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{model_name=\"gemma-4-e2b\"} %lld\n"
            "# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{model_name=\"gemma-4-e2b\"} 0\n"
            "# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc{model_name=\"gemma-4-e2b\"} 0.1\n",
            (long long)stats.active);
    } else { /* /health, /v1/models, and whatever routers ask a worker about itself */
        strcpy(body, "{\"object\":\"list\",\"data\":[{\"id\":\"gemma-4-e2b\",\"object\":\"model\",\"created\":1760000000,"
                     "\"owned_by\":\"mock\"}],\"model_path\":\"gemma-4-e2b\",\"served_model_name\":\"gemma-4-e2b\","
                     "\"tokenizer_path\":\"\",\"is_generation\":true,\"status\":\"ok\"}");
    }
    int n = snprintf(whole, sizeof whole, "HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %zu\r\n\r\n%s", type,
                     strlen(body), body);
    return emit(fd, whole, (size_t)n);
}

static bool wants_stream(const char *body, size_t len) {
    const char *found = memmem(body, len, "\"stream\":", 9);
    if (!found) return false;
    for (found += 9; found < body + len && *found == ' ';) found++;
    return found < body + len && *found == 't';
}

/* The length of the body that follows a head; -1 while a chunked one has not ended. */
static ssize_t body_length(const char *head, size_t head_len, const char *body, size_t have) {
    const char *value = header(head, head_len, "content-length");
    if (value) return (ssize_t)strtoull(value, NULL, 10);
    if (!header(head, head_len, "transfer-encoding")) return 0;
    const char *end = memmem(body, have, "\r\n0\r\n\r\n", 7); /* our JSON bodies never contain this */
    return end ? end + 7 - body : -1;
}

/* Answers every whole request in the buffer, one stream at a time. */
static void read_requests(int fd) {
    struct conn *c = &conns[fd];
    while (c->open && c->state == IDLE && c->in_len) {
        char *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
        if (!end) return;
        size_t head_len = (size_t)(end + 4 - c->in);
        ssize_t body_len = body_length(c->in, head_len, c->in + head_len, c->in_len - head_len);
        if (body_len < 0 || c->in_len < head_len + (size_t)body_len) return;
        bool post = c->in[0] == 'P', stream = post && wants_stream(c->in + head_len, (size_t)body_len);
        stats.requests += post;
        if (!post && !answer_get(fd, c->in, head_len)) return;
        size_t used = head_len + (size_t)body_len;
        memmove(c->in, c->in + used, c->in_len - used);
        c->in_len -= used;
        if (stream || (post && mode.silent)) start_stream(fd);
        else if (post && emit(fd, reply, reply_len)) stats.finished++;
    }
}

static void on_readable(int fd) {
    struct conn *c = &conns[fd];
    if (c->in_cap - c->in_len < 16384) c->in = must(realloc(c->in, c->in_cap = c->in_cap * 2 + 32768));
    ssize_t n = recv(fd, c->in + c->in_len, c->in_cap - c->in_len, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) return drop(fd);
    c->in_len += (size_t)n;
    read_requests(fd);
}

static void on_writable(int fd) {
    struct conn *c = &conns[fd];
    if (c->out_off < c->out_len) {
        ssize_t n = send(fd, c->out + c->out_off, c->out_len - c->out_off, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN) return drop(fd);
        if (n > 0) c->out_off += (size_t)n, stats.bytes_out += (uint64_t)n;
        if (c->out_off < c->out_len) return;
    }
    if (c->state == FLOOD) return pump_flood(fd);
    interest(fd, false);
}

static void on_connect(int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        if (fd >= MAX_FDS) die("too many connections");
        no_delay(fd);
        struct conn *c = &conns[fd];
        c->open = true, c->listener = c->wants_write = false, c->state = IDLE, c->generation++;
        c->in_len = c->out_off = c->out_len = 0;
        stats.connections++;
        watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN);
    }
}

static int listen_on_loopback(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) || listen(fd, 4096)) die("listen");
    getsockname(fd, (struct sockaddr *)&address, &size);
    conns[fd].open = conns[fd].listener = true;
    watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN);
    return ntohs(address.sin_port);
}

int main(int argc, char **argv) {
    int ports = argc == 2 ? atoi(argv[1]) : 0;
    if (ports < 1 || ports > 64) return fprintf(stderr, "usage: engine PORTS (1 to 64)\n"), 2;
    signal(SIGPIPE, SIG_IGN);
    compose();
    compose_ending();
    epoll = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    watch(epoll, EPOLL_CTL_ADD, timer, EPOLLIN);
    printf("{\"ports\": [");
    for (int i = 0; i < ports; i++) printf("%s%d", i ? ", " : "", listen_on_loopback());
    printf("]}\n");
    fflush(stdout);

    struct epoll_event events[512];
    for (;;) {
        int n = epoll_wait(epoll, events, 512, -1);
        send_due_tokens();
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            uint64_t ticks;
            if (fd == timer) {
                if (read(timer, &ticks, sizeof ticks) < 0 && errno != EAGAIN) die("timer");
                continue;
            }
            if (!conns[fd].open) continue;
            if (conns[fd].listener) {
                on_connect(fd);
                continue;
            }
            if (events[i].events & ~(uint32_t)EPOLLOUT) on_readable(fd); /* asks the socket; flags may be stale */
            if (conns[fd].open && events[i].events & EPOLLOUT) on_writable(fd);
        }
        send_due_tokens();
    }
}
