/* upstream_rig.h - the two ends of a relay under test, both raw sockets on the test's own loop:
 * a scripted upstream on 127.0.0.1 and a CLI on the relay's unix socket. */
#ifndef CG_TESTS_UPSTREAM_RIG_H
#define CG_TESTS_UPSTREAM_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "core/buf.h"
#include "core/clock.h"
#include "core/err.h"
#include "core/id.h"
#include "core/json.h"
#include "core/log.h"
#include "core/loop.h"
#include "core/str.h"
#include "metrics/metrics.h"
#include "upstream/relay.h"

#include <arpa/inet.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define MB        ((size_t)1 << 20)
#define MAX_STEPS 12
#define MAX_CONNS 64

/* One answer of the scripted upstream, to one request. */
struct step {
    const char *bytes; /* sent as they are, once the request is complete */
    size_t len;        /* 0 = strlen */
    int delay_ms;      /* before them */
    bool close;        /* after them */
    bool reset;        /* closed with RST instead */
};

struct fake_conn {
    struct fake *fake;
    struct bufferevent *bev;
    struct timer delay;
    struct buf in;
    size_t want; /* size of the request coming in, 0 = not known yet */
    const struct step *step;
    int64_t closed_us; /* when the peer was seen to leave; 0 = still there */
};

struct fake {
    struct loop *loop;
    struct evconnlistener *listener;
    char url[64];
    const struct step *steps;
    size_t step_count, next;
    struct fake_conn *conns[MAX_CONNS];
    size_t conn_count;
    struct buf requests[MAX_STEPS]; /* as they came: head and body */
    int64_t at_us[MAX_STEPS];
    size_t request_count;
};

static void fake_answer(void *ctx)
{
    struct fake_conn *c = ctx;
    const struct step *s = c->step;
    size_t n = s->len ? s->len : s->bytes ? strlen(s->bytes) : 0;
    if (n)
        evbuffer_add(bufferevent_get_output(c->bev), s->bytes, n);
}

static void fake_close(struct fake_conn *c, bool reset)
{
    struct linger now = {.l_onoff = 1};
    if (reset)
        assert_int_equal(
            setsockopt(bufferevent_getfd(c->bev), SOL_SOCKET, SO_LINGER, &now, sizeof(now)), 0);
    bufferevent_free(c->bev);
    c->bev = NULL;
}

static void fake_on_written(struct bufferevent *bev, void *ctx)
{
    struct fake_conn *c = ctx;
    (void)bev;
    if (c->step && (c->step->close || c->step->reset))
        fake_close(c, c->step->reset);
}

/* Size of the request at the start of `in`, 0 = its head is not complete. */
static size_t request_size(const struct buf *in)
{
    const char *end = in->len ? memmem(in->data, in->len, "\r\n\r\n", 4) : NULL;
    if (!end)
        return 0;
    size_t head = (size_t)(end - in->data) + 4;
    const char *cl = strcasestr(in->data, "\r\ncontent-length:");
    return head + (cl && cl < end ? (size_t)strtoul(cl + 17, NULL, 10) : 0);
}

static void fake_take_request(struct fake_conn *c, size_t n)
{
    struct fake *f = c->fake;
    assert_true(f->request_count < MAX_STEPS);
    f->at_us[f->request_count] = clock_mono_us();
    buf_add(&f->requests[f->request_count++], c->in.data, n);
    buf_consume(&c->in, n);
    c->want = 0;
    assert_true(f->next < f->step_count); /* more requests than the script expects */
    c->step = &f->steps[f->next++];
    if (!c->step->bytes && (c->step->close || c->step->reset))
        fake_close(c, c->step->reset);
    else if (c->step->delay_ms)
        timer_set(&c->delay, c->step->delay_ms);
    else
        fake_answer(c);
}

static void fake_on_read(struct bufferevent *bev, void *ctx)
{
    struct fake_conn *c = ctx;
    struct evbuffer *in = bufferevent_get_input(bev);
    size_t n = evbuffer_get_length(in);
    buf_add(&c->in, evbuffer_pullup(in, -1), n);
    evbuffer_drain(in, n);
    assert_true(buf_ok(&c->in));
    if (c->want == 0)
        c->want = request_size(&c->in); /* once: the sanitizer makes string searches slow */
    if (c->want && c->in.len >= c->want)
        fake_take_request(c, c->want);
}

static void fake_on_event(struct bufferevent *bev, short what, void *ctx)
{
    struct fake_conn *c = ctx;
    (void)bev;
    if (what & (BEV_EVENT_EOF | BEV_EVENT_ERROR)) {
        c->closed_us = clock_mono_us();
        fake_close(c, false);
    }
}

static void fake_on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *a, int n,
                           void *ctx)
{
    struct fake *f = ctx;
    struct fake_conn *c = x_calloc(1, sizeof(*c));
    (void)l;
    (void)a;
    (void)n;
    assert_true(f->conn_count < MAX_CONNS);
    c->fake = f;
    buf_init(&c->in, 64 * MB);
    timer_init(&c->delay, f->loop, fake_answer, c);
    c->bev = bufferevent_socket_new(loop_base(f->loop), fd, BEV_OPT_CLOSE_ON_FREE);
    bufferevent_setcb(c->bev, fake_on_read, fake_on_written, fake_on_event, c);
    bufferevent_enable(c->bev, EV_READ | EV_WRITE);
    f->conns[f->conn_count++] = c;
}

static void fake_open(struct fake *f, struct loop *loop, const struct step *steps, size_t count)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    *f = (struct fake){.loop = loop, .steps = steps, .step_count = count};
    for (size_t i = 0; i < MAX_STEPS; i++)
        buf_init(&f->requests[i], 64 * MB);
    f->listener = evconnlistener_new_bind(loop_base(loop), fake_on_accept, f,
                                          LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 16,
                                          (struct sockaddr *)&a, sizeof(a));
    assert_non_null(f->listener);
    assert_int_equal(getsockname(evconnlistener_get_fd(f->listener), (struct sockaddr *)&a, &len),
                     0);
    snprintf(f->url, sizeof(f->url), "http://127.0.0.1:%d", ntohs(a.sin_port));
}

static void fake_release(struct fake *f)
{
    if (f->listener)
        evconnlistener_free(f->listener);
    for (size_t i = 0; i < f->conn_count; i++) {
        struct fake_conn *c = f->conns[i];
        if (c->bev)
            bufferevent_free(c->bev);
        timer_release(&c->delay);
        buf_release(&c->in);
        free(c);
    }
    for (size_t i = 0; i < MAX_STEPS; i++)
        buf_release(&f->requests[i]);
}

/* --- the CLI's side ------------------------------------------------------------------------ */

struct cli {
    struct bufferevent *bev;
    struct buf in;
    bool eof;     /* the relay closed in order */
    bool broken;  /* or otherwise */
    bool reading; /* false: data is left in the kernel */
};

static void cli_on_read(struct bufferevent *bev, void *ctx)
{
    struct cli *c = ctx;
    struct evbuffer *in = bufferevent_get_input(bev);
    size_t n = evbuffer_get_length(in);
    buf_add(&c->in, evbuffer_pullup(in, -1), n);
    evbuffer_drain(in, n);
    assert_true(buf_ok(&c->in));
}

static void cli_on_event(struct bufferevent *bev, short what, void *ctx)
{
    struct cli *c = ctx;
    (void)bev;
    c->eof = c->eof || (what & BEV_EVENT_EOF);
    c->broken = c->broken || (what & BEV_EVENT_ERROR);
}

static void cli_open(struct cli *c, struct loop *loop, const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    *c = (struct cli){.reading = true};
    buf_init(&c->in, 64 * MB);
    assert_true(strlen(path) < sizeof(a.sun_path));
    memcpy(a.sun_path, path, strlen(path) + 1);
    c->bev = bufferevent_socket_new(loop_base(loop), -1, BEV_OPT_CLOSE_ON_FREE);
    bufferevent_setcb(c->bev, cli_on_read, NULL, cli_on_event, c);
    assert_int_equal(bufferevent_socket_connect(c->bev, (struct sockaddr *)&a, sizeof(a)), 0);
    bufferevent_enable(c->bev, EV_READ | EV_WRITE);
}

static void cli_close(struct cli *c)
{
    if (c->bev)
        bufferevent_free(c->bev);
    c->bev = NULL;
    buf_release(&c->in);
}

static void cli_send(struct cli *c, const char *target, const char *extra, struct str body)
{
    evbuffer_add_printf(bufferevent_get_output(c->bev),
                        "POST %s HTTP/1.1\r\nHost: relay.invalid\r\nConnection: keep-alive\r\n"
                        "Accept: application/json\r\nContent-Type: application/json\r\n"
                        "Accept-Encoding: gzip, deflate, br, zstd\r\nx-api-key: sk-dummy\r\n"
                        "authorization: Bearer dummy\r\ncookie: a=b\r\n"
                        "anthropic-version: 2023-06-01\r\n%sContent-Length: %zu\r\n\r\n",
                        target, extra, body.len);
    evbuffer_add(bufferevent_get_output(c->bev), body.p, body.len);
}

/* --- both ends and the relay between ------------------------------------------------------- */

struct rig {
    struct loop *loop;
    struct event *tick; /* keeps run_until() awake */
    struct fake fake;
    struct upstream *up;
    struct relay *relay;
    struct relay_turn turn;
    char dir[64];
    char path[96];
    struct cli cli;
};

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd;
    (void)what;
    (void)ctx;
}

typedef bool until_fn(struct rig *rig);

/* Turns the loop until fn says so; false after ms. */
static bool run_until(struct rig *rig, until_fn *fn, int ms)
{
    int64_t end = clock_mono_ms() + ms;
    while (clock_mono_ms() < end) {
        if (fn && fn(rig))
            return true;
        event_base_loop(loop_base(rig->loop), EVLOOP_ONCE);
    }
    return false;
}

static void run_for(struct rig *rig, int ms)
{
    run_until(rig, NULL, ms);
}

static struct upstream_opts quick_opts(const char *url)
{
    return (struct upstream_opts){
        .targets = {{.name = "one", .base_url = url, .api_key = "sk-operator", .weight = 1}},
        .target_count = 1,
        .connect_timeout_ms = 2000,
        .first_byte_timeout_ms = 5000,
        .idle_timeout_ms = 5000,
        .max_retries = 2,
        .retry_base_ms = 10,
    };
}

static void rig_open_with(struct rig *rig, const struct upstream_opts *opts)
{
    struct err err;
    rig->up = upstream_new(rig->loop, opts, &err);
    assert_non_null(rig->up);
    rig->relay = relay_new(rig->up, rig->path, &err);
    assert_non_null(rig->relay);
    cli_open(&rig->cli, rig->loop, rig->path);
}

static void rig_prepare(struct rig *rig, const struct step *steps, size_t count)
{
    struct timeval tv = {.tv_usec = 2000};
    *rig = (struct rig){.loop = loop_new()};
    rig->tick = event_new(loop_base(rig->loop), -1, EV_PERSIST, on_tick, NULL);
    event_add(rig->tick, &tv);
    snprintf(rig->dir, sizeof(rig->dir), "/tmp/cg-upstream-XXXXXX");
    assert_non_null(mkdtemp(rig->dir));
    snprintf(rig->path, sizeof(rig->path), "%s/relay.sock", rig->dir);
    fake_open(&rig->fake, rig->loop, steps, count);
    rig->turn.request_id = "req_test";
    rig->turn.many = true; /* several calls in one turn keep the tests short */
}

static void rig_open(struct rig *rig, const struct step *steps, size_t count)
{
    rig_prepare(rig, steps, count);
    struct upstream_opts opts = quick_opts(rig->fake.url);
    rig_open_with(rig, &opts);
    relay_begin_turn(rig->relay, &rig->turn);
}

static void rig_close(struct rig *rig)
{
    cli_close(&rig->cli);
    relay_free(rig->relay);
    free(rig->turn.error_json);
    upstream_free(rig->up);
    fake_release(&rig->fake);
    json_decref(rig->turn.params);
    json_decref(rig->turn.system);
    json_decref(rig->turn.messages);
    event_free(rig->tick);
    loop_free(rig->loop);
    assert_int_not_equal(access(rig->path, F_OK), 0); /* the relay removed its socket */
    assert_int_equal(rmdir(rig->dir), 0);
}

/* Status line number of the response in `in`, 0 when its head is not complete. */
static int response_status(const struct buf *in)
{
    if (in->len < 12 || !memmem(in->data, in->len, "\r\n\r\n", 4))
        return 0;
    return (int)strtol(in->data + 9, NULL, 10);
}

/* The body of the one response in `in`; chunks are joined. False when it is not complete. */
static bool response_body(const struct buf *in, struct buf *ret_body)
{
    if (!response_status(in))
        return false;
    const char *head_end = memmem(in->data, in->len, "\r\n\r\n", 4), *p = head_end + 4;
    const char *end = in->data + in->len, *cl = strcasestr(in->data, "\r\ncontent-length:");
    buf_clear(ret_body);
    if (cl && cl < head_end) {
        size_t n = (size_t)strtoul(cl + 17, NULL, 10);
        buf_add(ret_body, p, (size_t)(end - p));
        return (size_t)(end - p) == n;
    }
    for (;;) {
        const char *eol = memmem(p, (size_t)(end - p), "\r\n", 2);
        if (!eol)
            return false;
        size_t n = (size_t)strtoul(p, NULL, 16);
        p = eol + 2;
        if ((size_t)(end - p) < n + 2) {
            buf_add(ret_body, p, (size_t)(end - p)); /* what there is, for tests of cuts */
            return false;
        }
        buf_add(ret_body, p, n);
        p += n + 2;
        if (n == 0)
            return true;
    }
}

static bool cli_has_response(struct rig *rig)
{
    AUTO(buf_release) struct buf b;
    buf_init(&b, 64 * MB);
    return response_body(&rig->cli.in, &b);
}

/* The same for long ones, without a look at all of it. */
static bool cli_has_last_chunk(struct rig *rig)
{
    const struct buf *in = &rig->cli.in;
    return in->len > 7 && memcmp(in->data + in->len - 7, "\r\n0\r\n\r\n", 7) == 0;
}

static bool cli_sees_end(struct rig *rig)
{
    return rig->cli.eof || rig->cli.broken;
}

static const char *fake_request(const struct rig *rig, size_t i)
{
    assert_true(i < rig->fake.request_count);
    return buf_cstr(&rig->fake.requests[i]);
}

static const char *fake_body(const struct rig *rig, size_t i)
{
    const char *p = strstr(fake_request(rig, i), "\r\n\r\n");
    assert_non_null(p);
    return p + 4;
}

/* Value of a metric line ("name" or "name{label}"), -1 when it is not there. */
static double metric_value(const char *series)
{
    AUTO(buf_release) struct buf b;
    buf_init(&b, MB);
    metrics_write(&b);
    size_t n = strlen(series);
    for (const char *p = buf_cstr(&b); p && *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL) {
        if (strncmp(p, series, n) == 0 && p[n] == ' ')
            return strtod(p + n + 1, NULL);
    }
    return -1;
}

/* --- what most tests say ------------------------------------------------------------------- */

#define SSE_HEAD                                                                                   \
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nrequest-id: req_up1\r\n" \
    "anthropic-ratelimit-requests-remaining: 9\r\nset-cookie: x=1\r\n"
#define EV(name, json) "event: " name "\ndata: " json "\n\n"
#define START                                                                                  \
    EV("message_start",                                                                        \
       "{\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"usage\":{\"input_tokens\":10," \
       "\"output_tokens\":1,\"cache_creation_input_tokens\":2,\"cache_read_input_tokens\":3}}}")
#define TEXT(t)                                                                          \
    EV("content_block_delta", "{\"type\":\"content_block_delta\",\"index\":0,\"delta\":" \
                              "{\"type\":\"text_delta\",\"text\":\"" t "\"}}")
#define DELTA(reason)                                                                      \
    EV("message_delta", "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"" reason \
                        "\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":7}}")
#define STOP          EV("message_stop", "{\"type\":\"message_stop\"}")
#define STREAM        START TEXT("hello") DELTA("end_turn") STOP
#define CLOSED_STREAM SSE_HEAD "connection: close\r\n\r\n"
#define ERROR_JSON(type, message) \
    "{\"type\":\"error\",\"error\":{\"type\":\"" type "\",\"message\":\"" message "\"}}"

static const char ask_text[] = "{\"model\":\"m\",\"max_tokens\":5,\"messages\":[]}";
static const struct str ask = {ask_text, sizeof(ask_text) - 1};

static void ask_and_wait(struct rig *rig)
{
    buf_clear(&rig->cli.in);
    cli_send(&rig->cli, "/v1/messages?beta=true", "", ask);
    assert_true(run_until(rig, cli_has_response, 5000));
}

static void assert_body(struct rig *rig, const char *want)
{
    AUTO(buf_release) struct buf body;
    buf_init(&body, 64 * MB);
    assert_true(response_body(&rig->cli.in, &body));
    assert_string_equal(buf_cstr(&body), want);
}

static void assert_status(struct rig *rig, int want)
{
    assert_int_equal(response_status(&rig->cli.in), want);
}

static void assert_no_header(const char *message, const char *name)
{
    AUTO(free_charp) char *line = x_printf("\r\n%s:", name);
    assert_null(strcasestr(message, line));
}

static void assert_header(const char *message, const char *name, const char *value)
{
    AUTO(free_charp) char *line = x_printf("\r\n%s: %s\r\n", name, value);
    assert_non_null(strcasestr(message, line));
}

static struct step plain(struct buf *b, int status, const char *headers, const char *body)
{
    buf_init(b, MB);
    buf_printf(b,
               "HTTP/1.1 %d X\r\ncontent-type: application/json\r\n%scontent-length: %zu\r\n\r\n%s",
               status, headers, strlen(body), body);
    return (struct step){.bytes = b->data};
}

static struct step chunked(struct buf *b, const char *body)
{
    buf_init(b, MB);
    buf_printf(b, SSE_HEAD "transfer-encoding: chunked\r\n\r\n%zx\r\n%s\r\n0\r\n\r\n", strlen(body),
               body);
    return (struct step){.bytes = b->data};
}

static bool cli_has_status(struct rig *rig)
{
    return response_status(&rig->cli.in) != 0;
}

static void get(struct rig *rig, const char *request)
{
    buf_clear(&rig->cli.in);
    evbuffer_add_printf(bufferevent_get_output(rig->cli.bev), "%s HTTP/1.1\r\nHost: r\r\n\r\n",
                        request);
    assert_true(run_until(rig, cli_has_status, 5000));
}

#endif
