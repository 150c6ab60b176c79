/* relay.c - what the relay adds to a request and to each event of its answer: `bench-relay URL
 * SOCKET`.
 *
 * A thread asks the API at URL (http://127.0.0.1:PORT, the stand-in) the same question in turn
 * straight and through the relay at SOCKET, each over a kept connection, and reads the stream to
 * its end. The relay rewrites each request as for a real turn. One line of JSON: microseconds to
 * the first byte of the answer and to its last (median), and the CPU time that the relay's thread
 * takes for a request and for an event. A question says how long its answer is: the stand-in has
 * been told (relay.mjs). */
#include "core/buf.h"
#include "core/clock.h"
#include "core/id.h"
#include "core/str.h"
#include "upstream/relay.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define SHORT_TURNS 2000
#define LONG_TURNS  20
#define HISTORY     8192 /* bytes of text in each request, as of a conversation */
#define READ_SIZE   65536

struct times {
    int64_t *first, *last;
    int64_t cpu_ns; /* of the relay's thread, over all */
    size_t events;  /* of one answer */
};

static struct loop *loop;
static struct relay *relay;
static struct relay_turn turn;
static clockid_t relay_cpu;
static const char *socket_path;
static struct sockaddr_in api;

static int64_t now_ns(clockid_t clock)
{
    struct timespec t;
    BUG_ON(clock_gettime(clock, &t) != 0);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int64_t median(int64_t *ns, size_t count)
{
    qsort(ns, count, sizeof(*ns), by_size);
    return ns[count / 2];
}

/* --- the client's thread -------------------------------------------------------------------- */

static int open_api(void)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    BUG_ON(fd < 0 || connect(fd, (struct sockaddr *)&api, sizeof(api)) != 0);
    BUG_ON(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) != 0);
    return fd;
}

static int open_relay(void)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    BUG_ON(strlen(socket_path) >= sizeof(a.sun_path));
    memcpy(a.sun_path, socket_path, strlen(socket_path) + 1);
    BUG_ON(fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) != 0);
    return fd;
}

static void make_request(struct buf *out, const char *question)
{
    struct buf body AUTO(buf_release);
    buf_init(&body, 1 << 20);
    buf_adds(&body, "{\"model\":\"claude-sonnet-4-5\",\"max_tokens\":32000,\"stream\":true,"
                    "\"system\":[{\"type\":\"text\",\"text\":\"");
    for (int i = 0; i < HISTORY; i++)
        buf_addc(&body, 'x');
    buf_printf(&body,
               "\"}],\"messages\":[{\"role\":\"user\",\"content\":"
               "[{\"type\":\"text\",\"text\":\"%s\"}]}]}",
               question);
    buf_init(out, 1 << 20);
    buf_printf(out,
               "POST /v1/messages HTTP/1.1\r\nhost: api\r\ncontent-type: application/json\r\n"
               "x-api-key: bench\r\nanthropic-version: 2023-06-01\r\ncontent-length: %zu\r\n\r\n",
               body.len);
    buf_addstr(out, buf_str(&body));
}

/* Sends it and reads the chunked answer to its end. */
static void ask(int fd, const struct buf *request, int64_t *ret_first, int64_t *ret_last,
                size_t *ret_events)
{
    static char answer[READ_SIZE];
    char end[5] = "";
    int64_t from = now_ns(CLOCK_MONOTONIC);
    BUG_ON(write(fd, request->data, request->len) != (ssize_t)request->len);
    *ret_first = 0;
    *ret_events = 0;
    while (memcmp(end, "0\r\n\r\n", 5) != 0) {
        ssize_t n = read(fd, answer, sizeof(answer));
        BUG_ON(n <= 0);
        if (!*ret_first) {
            *ret_first = now_ns(CLOCK_MONOTONIC) - from;
            BUG_ON(n < 12 || memcmp(answer, "HTTP/1.1 200", 12) != 0);
        }
        for (ssize_t i = 0; i < n; i++)
            *ret_events += i + 6 < n && memcmp(answer + i, "event: ", 7) == 0;
        size_t tail = n < 5 ? (size_t)n : 5;
        memmove(end, end + tail, 5 - tail);
        memcpy(end + 5 - tail, answer + n - tail, tail);
    }
    *ret_last = now_ns(CLOCK_MONOTONIC) - from;
}

static void take_turns(const char *question, int turns, struct times *straight,
                       struct times *relayed)
{
    struct buf request AUTO(buf_release);
    int fds[2] = {open_api(), open_relay()};
    struct times *times[2] = {straight, relayed};
    make_request(&request, question);
    for (int i = -turns / 10; i < turns; i++) { /* the first tenth warms up */
        for (int side = 0; side < 2; side++) {
            int64_t cpu = now_ns(relay_cpu), first, last;
            ask(fds[side], &request, &first, &last, &times[side]->events);
            if (i < 0)
                continue;
            times[side]->cpu_ns += now_ns(relay_cpu) - cpu;
            times[side]->first[i] = first;
            times[side]->last[i] = last;
        }
    }
    close(fds[0]);
    close(fds[1]);
}

static void report(const char *name, int turns, struct times *straight, struct times *relayed)
{
    size_t n = (size_t)turns;
    printf("\"%s\":{\"straight\":{\"first\":%.1f,\"last\":%.1f},"
           "\"relay\":{\"first\":%.1f,\"last\":%.1f,\"cpu\":%.2f},\"events\":%zu}",
           name, (double)median(straight->first, n) / 1e3, (double)median(straight->last, n) / 1e3,
           (double)median(relayed->first, n) / 1e3, (double)median(relayed->last, n) / 1e3,
           (double)relayed->cpu_ns / turns / 1e3, straight->events);
}

static void measure(const char *name, const char *question, int turns)
{
    struct times side[2] = {{0}};
    for (int i = 0; i < 2; i++) {
        side[i].first = x_calloc((size_t)turns, sizeof(int64_t));
        side[i].last = x_calloc((size_t)turns, sizeof(int64_t));
    }
    take_turns(question, turns, &side[0], &side[1]);
    report(name, turns, &side[0], &side[1]);
    for (int i = 0; i < 2; i++) {
        free(side[i].first);
        free(side[i].last);
    }
}

static void client(void *arg)
{
    (void)arg;
    putchar('{');
    measure("short", "short answer", SHORT_TURNS);
    putchar(',');
    measure("long", "long answer", LONG_TURNS);
    puts("}");
}

static void on_client_done(void *arg)
{
    (void)arg;
    loop_stop(loop);
}

/* --- life ------------------------------------------------------------------------------------ */

static bool read_url(const char *url)
{
    struct str rest = str_c(url), lead = STR("http://127.0.0.1:");
    uint64_t port;
    if (!str_starts(rest, lead.p) || !str_to_u64(str_n(rest.p + lead.len, rest.len - lead.len), &port))
        return false;
    api = (struct sockaddr_in){.sin_family = AF_INET,
                               .sin_port = htons((uint16_t)port),
                               .sin_addr = {htonl(INADDR_LOOPBACK)}};
    return true;
}

int main(int argc, char **argv)
{
    struct err err;
    if (argc != 3 || !read_url(argv[1])) {
        fprintf(stderr, "usage: bench-relay http://127.0.0.1:PORT SOCKET\n");
        return 2;
    }
    socket_path = argv[2];
    id_init();
    loop = loop_new();
    BUG_ON(pthread_getcpuclockid(pthread_self(), &relay_cpu) != 0);
    struct upstream_opts uo = {.targets = {{.base_url = argv[1], .api_key = "bench-dummy"}},
                               .target_count = 1,
                               .connect_timeout_ms = 10000,
                               .first_byte_timeout_ms = 10000,
                               .idle_timeout_ms = 10000};
    struct upstream *up = upstream_new(loop, &uo, &err);
    relay = up ? relay_new(up, socket_path, &err) : NULL;
    if (!relay) {
        fprintf(stderr, "bench-relay: %s\n", err.msg);
        return 1;
    }
    turn = (struct relay_turn){.request_id = "bench", .many = true,
                               .params = json_pack("{s:f, s:i}", "temperature", 0.5, "max_tokens", 1024)};
    struct work *work = work_new(loop, "client", 1);
    relay_begin_turn(relay, &turn);
    work_submit(work, client, on_client_done, NULL);
    loop_run(loop);
    work_free(work);
    relay_end_turn(relay);
    relay_free(relay);
    upstream_free(up);
    json_decref(turn.params);
    loop_free(loop);
    return 0;
}
