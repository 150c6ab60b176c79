/* http_fx.h - for test_http.c: a live server and raw clients in one thread. Whoever waits pumps
 * the loop, so every test is deterministic but for the kernel's socket timing. */
#ifndef CG_TEST_HTTP_FX_H
#define CG_TEST_HTTP_FX_H

#include "core/clock.h"
#include "core/id.h"
#include "core/log.h"
#include "http/http.h"
#include "metrics/metrics.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#define PATIENCE_MS 20000
#define MAX_HEAD    16384
#define MAX_BODY    1000
#define K(lit)      (lit), sizeof(lit) - 1

struct fx {
    struct loop *loop;
    struct http_server *server;
    struct http_opts opts;
    int handled;           /* requests that reached a handler */
    struct http_req *held; /* of POST /hold and the like: answered by the test */
    int gone, freed, drained;
    bool authorise_later;
    char dir[32], path[64]; /* of a unix socket */
};

/* One HTTP reply, cut out of what arrived. */
struct reply {
    int status;
    struct str head, body; /* in the client's buffer; a chunked body still has its framing */
};

struct client {
    struct fx *fx;
    int fd;
    struct buf in;
    bool eof;
};

static void pump(struct fx *fx)
{
    event_base_loop(loop_base(fx->loop), EVLOOP_NONBLOCK);
}

#define WAIT(fx, cond)                                     \
    do {                                                   \
        int64_t _end = clock_mono_ms() + PATIENCE_MS;      \
        while (!(cond)) {                                  \
            pump(fx);                                      \
            if (clock_mono_ms() > _end)                    \
                fail_msg("waited in vain for: %s", #cond); \
            usleep(100);                                   \
        }                                                  \
    } while (0)

static void pump_ms(struct fx *fx, int64_t ms)
{
    for (int64_t end = clock_mono_ms() + ms; clock_mono_ms() < end; usleep(200))
        pump(fx);
}

/* A connected socket, or -1. Whatever the length of a socket's path. */
static int dial_unix(const char *path)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    char *dir = x_strndup(path, (size_t)(strrchr(path, '/') - path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int at = open(dir, O_PATH | O_CLOEXEC);
    snprintf(to.sun_path, sizeof(to.sun_path), "/proc/self/fd/%d/%s", at, strrchr(path, '/') + 1);
    int rc = connect(fd, (struct sockaddr *)&to, sizeof(to));
    close(at);
    free(dir);
    if (rc != 0)
        close(fd);
    return rc == 0 ? fd : -1;
}

static int dial_tcp(const char *address)
{
    uint64_t port;
    assert_true(str_to_u64(str_c(strrchr(address, ':') + 1), &port));
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int small = 16384; /* so that a client that does not read is noticed soon */
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    return fd;
}

static struct client *dial(struct fx *fx)
{
    struct client *c = x_calloc(1, sizeof(*c));
    const char *address = http_server_address(fx->server);
    bool is_unix = strncmp(address, "unix:", 5) == 0;
    *c = (struct client){.fx = fx, .fd = is_unix ? dial_unix(address + 5) : dial_tcp(address)};
    assert_true(c->fd >= 0);
    buf_init(&c->in, (size_t)8 << 20);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return c;
}

static void hang_up(struct client *c)
{
    close(c->fd);
    buf_release(&c->in);
    free(c);
}

static void hang_up_reset(struct client *c)
{
    struct linger now = {.l_onoff = 1, .l_linger = 0};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    hang_up(c);
}

static void collect(struct client *c)
{
    for (;;) {
        assert_true(buf_reserve(&c->in, 65536));
        ssize_t n = read(c->fd, c->in.data + c->in.len, 65536);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            c->eof = true;
            return;
        }
        buf_grow_len(&c->in, (size_t)n);
    }
}

/* Sends everything, reading what comes meanwhile; stops when the server has closed. */
static void put(struct client *c, const char *p, size_t n)
{
    int64_t end = clock_mono_ms() + PATIENCE_MS;
    while (n > 0 && !c->eof) {
        ssize_t k = send(c->fd, p, n, MSG_NOSIGNAL);
        if (k < 0 && errno != EAGAIN)
            return;
        p += k > 0 ? k : 0;
        n -= k > 0 ? (size_t)k : 0;
        pump(c->fx);
        collect(c);
        assert_true(clock_mono_ms() < end);
    }
}

static void puts_raw(struct client *c, const char *s)
{
    put(c, s, strlen(s));
}

static const char *find(struct str s, const char *needle)
{
    return s.len ? memmem(s.p, s.len, needle, strlen(needle)) : NULL;
}

/* The value of a header of the reply, "" when absent. */
static struct str header(const struct reply *r, const char *name)
{
    for (struct str rest = r->head; rest.len;) {
        struct str line = str_split(&rest, '\n');
        struct str key = str_split(&line, ':');
        if (str_ieq_c(key, name))
            return str_n(line.p + 1, line.len - 2); /* without " " and CR */
    }
    return str_n("", 0);
}

/* Parses the first reply in the buffer; false when it is not complete. */
static bool parse_reply(const struct client *c, bool no_body, struct reply *r)
{
    struct str all = buf_str(&c->in);
    const char *end = find(all, "\r\n\r\n");
    uint64_t n = 0;
    if (!end)
        return false;
    r->head = str_n(all.p, (size_t)(end + 2 - all.p));
    r->body = str_n(end + 4, all.len - (size_t)(end + 4 - all.p));
    assert_true(all.len > 12 && str_to_u64(str_n(all.p + 9, 3), &n));
    r->status = (int)n;
    if (no_body || r->status == 204 || r->status == 100) {
        r->body.len = 0;
        return true;
    }
    if (str_to_u64(header(r, "Content-Length"), &n)) {
        bool all_here = r->body.len >= n;
        r->body.len = all_here ? n : r->body.len;
        return all_here;
    }
    if (!str_eq_c(header(r, "Transfer-Encoding"), "chunked"))
        return c->eof;
    const char *last = r->body.len >= 5 && memcmp(r->body.p, "0\r\n\r\n", 5) == 0
                           ? r->body.p - 2
                           : find(r->body, "\r\n0\r\n\r\n");
    if (last)
        r->body.len = (size_t)(last + 7 - r->body.p);
    return last != NULL;
}

static struct reply expect_reply(struct client *c, int status)
{
    struct reply r = {0};
    WAIT(c->fx, (collect(c), parse_reply(c, false, &r)));
    if (r.status != status)
        fail_msg("expected %d, got: %.*s", status, (int)c->in.len, c->in.data);
    return r;
}

/* Forgets the reply, so that the next can be parsed. */
static void next_reply(struct client *c, const struct reply *r)
{
    buf_consume(&c->in, (size_t)(r->body.p + r->body.len - c->in.data));
}

static void expect_body(struct client *c, int status, const char *body)
{
    struct reply r = expect_reply(c, status);
    if (!str_eq_c(r.body, body))
        fail_msg("expected body '%s', got: %.*s", body, (int)c->in.len, c->in.data);
    next_reply(c, &r);
}

static void expect_eof(struct client *c)
{
    WAIT(c->fx, (collect(c), c->eof));
}

#endif
