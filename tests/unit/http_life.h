/* http_life.h - part of test_http.c: clients that leave, limits, time-outs, draining. */
#ifndef CG_TEST_HTTP_LIFE_H
#define CG_TEST_HTTP_LIFE_H

#include "http_app.h"
#include "http_refuse.h"

#include <sys/resource.h>

/* --- clients that leave ------------------------------------------------------------------- */

static void expect_gone(struct fx *fx)
{
    WAIT(fx, fx->gone);
    WAIT(fx, http_server_active(fx->server) == 0 && http_server_connections(fx->server) == 0);
    assert_int_equal(fx->gone, 1);
    assert_int_equal(fx->freed, 1);
}

static void test_gone_close(void **state)
{
    struct client *c = hold(*state, HOLD);
    hang_up(c);
    expect_gone(*state);
}

static void test_gone_reset(void **state)
{
    struct client *c = hold(*state, HOLD);
    hang_up_reset(c);
    expect_gone(*state);
}

/* A busy machine may be slow once, but not every time. */
static void test_gone_promptly(void **state)
{
    struct fx *fx = *state;
    int64_t best = INT64_MAX;
    for (int i = 0; i < 10 && best >= 100; i++) {
        struct client *c = hold(fx, HOLD);
        int64_t start = clock_mono_ms(), took;
        hang_up(c);
        WAIT(fx, fx->gone == i + 1);
        took = clock_mono_ms() - start;
        best = took < best ? took : best;
    }
    assert_true(best < 100);
}

static void test_gone_half_close(void **state)
{
    struct client *c = hold(*state, HOLD);
    shutdown(c->fd, SHUT_WR);
    expect_gone(*state);
    hang_up(c);
}

static void test_gone_mid_stream(void **state)
{
    struct fx *fx = *state;
    struct client *c = hold(fx, HOLD);
    http_stream_begin(fx->held, 200, "text/plain");
    http_stream_write(fx->held, STR("x"));
    WAIT(fx, (collect(c), find(buf_str(&c->in), "\r\nx\r\n")));
    hang_up(c);
    expect_gone(fx);
}

/* A client that has sent so much ahead that reading is paused; what is not read fits into the
 * kernel's buffer, so that an end of file can arrive behind it. */
static struct client *hold_with_backlog(struct fx *fx)
{
    char junk[4096] = {0};
    struct client *c = hold(fx, HOLD);
    ssize_t n = 0;
    for (int i = 0; i < 25 && (n = send(c->fd, junk, sizeof(junk), MSG_NOSIGNAL)) > 0; i++)
        pump(fx);
    pump_ms(fx, 20);
    assert_int_equal(fx->gone, 0);
    return c;
}

static void test_gone_behind_backlog(void **state)
{
    struct fx *fx = *state;
    struct client *c = hold_with_backlog(fx);
    shutdown(c->fd, SHUT_WR);
    expect_gone(fx);
    hang_up(c);
}

static void test_reset_behind_backlog(void **state)
{
    struct fx *fx = *state;
    struct client *c = hold_with_backlog(fx);
    hang_up_reset(c);
    expect_gone(fx);
}

static void test_backlog_then_reply(void **state)
{
    struct fx *fx = *state;
    struct client *c = hold_with_backlog(fx);
    http_reply(fx->held, 200, "text/plain", STR("done"));
    expect_body(c, 200, "done");
    check_refusal(c, GUARD_REQUEST_LINE); /* the NULs */
    assert_int_equal(fx->gone, 0);
    hang_up(c);
}

static void test_orphan(void **state)
{
    struct fx *fx = *state;
    hang_up(hold(fx, ORPHAN));
    WAIT(fx, http_server_connections(fx->server) == 0);
    assert_int_equal(http_server_active(fx->server), 1);
    assert_non_null(http_req_header(fx->held, "host"));
    http_stream_begin(fx->held, 200, NULL);
    http_stream_write(fx->held, STR("into the void"));
    assert_int_equal(http_stream_backlog(fx->held), 0);
    http_stream_end(fx->held);
    WAIT(fx, http_server_active(fx->server) == 0);
    assert_int_equal(fx->freed, 1);
}

static void test_orphan_asks_late(void **state)
{
    struct fx *fx = *state;
    hang_up(hold(fx, ORPHAN));
    WAIT(fx, http_server_connections(fx->server) == 0);
    http_req_on_gone(fx->held, on_gone, fx);
    assert_int_equal(fx->gone, 0); /* never before the call returned */
    expect_gone(fx);
    /* asked, but answered before it could be told */
    hang_up(hold(fx, ORPHAN));
    WAIT(fx, http_server_connections(fx->server) == 0);
    http_req_on_gone(fx->held, on_gone, fx);
    http_reply(fx->held, 200, NULL, STR("x"));
    WAIT(fx, http_server_active(fx->server) == 0);
    assert_int_equal(fx->gone, 1);
    assert_int_equal(fx->freed, 2);
}

/* Request and end of file in one segment: an immediate reply still arrives. */
static void test_half_close_before_reply(void **state)
{
    struct fx *fx = *state;
    struct client *c = dial(fx);
    assert_true(send(c->fd, K(GET("")), MSG_NOSIGNAL) > 0);
    shutdown(c->fd, SHUT_WR);
    expect_body(c, 200, "root");
    expect_eof(c);
    hang_up(c);
}

static void test_free_with_requests(void **state)
{
    struct fx *fx = *state;
    struct client *a = hold(fx, HOLD);
    struct client *idle = dial(fx), *part = dial(fx), *orphan;
    puts_raw(part, "GET / HT");
    fx->held = NULL;
    orphan = hold(fx, ORPHAN);
    struct http_req *req = fx->held;
    http_server_free(fx->server);
    fx->server = NULL;
    assert_int_equal(fx->gone, 1);
    http_reply(req, 200, NULL, STR("late")); /* no callback was set: the pointer is still good */
    pump_ms(fx, 5);
    assert_int_equal(fx->freed, 2);
    expect_eof(a);
    hang_up(a);
    hang_up(idle);
    hang_up(part);
    hang_up(orphan);
}

/* --- limits ------------------------------------------------------------------------------- */

static void test_max_connections(void **state)
{
    struct fx *fx = *state;
    struct client *c[3], *extra;
    fx->opts.max_connections = 3;
    fx_start(fx);
    for (int i = 0; i < 3; i++) {
        c[i] = dial(fx);
        puts_raw(c[i], GET(""));
        expect_body(c[i], 200, "root");
    }
    extra = dial(fx);
    check_refusal(extra, GUARD_CONNECTIONS);
    hang_up(extra);
    hang_up(c[0]);
    WAIT(fx, http_server_connections(fx->server) == 2);
    extra = dial(fx);
    puts_raw(extra, GET(""));
    expect_body(extra, 200, "root");
    hang_up(extra);
    hang_up(c[1]);
    hang_up(c[2]);
}

/* Out of file descriptors the listener pauses; afterwards it goes on by itself. */
static void test_no_descriptors(void **state)
{
    struct fx *fx = *state;
    struct rlimit old, low;
    struct client *c = dial(fx);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    low = (struct rlimit){.rlim_cur = (rlim_t)c->fd, .rlim_max = old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    pump_ms(fx, 20);
    assert_int_equal(http_server_connections(fx->server), 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    puts_raw(c, GET(""));
    expect_body(c, 200, "root");
    hang_up(c);
}

static void test_timeouts(void **state)
{
    struct fx *fx = *state;
    fx->opts.idle_timeout_s = fx->opts.read_timeout_s = 1;
    fx_start(fx);
    struct client *idle = dial(fx), *used = dial(fx), *drip = dial(fx), *held = hold(fx, HOLD);
    struct client *slow = dial(fx);
    puts_raw(slow, "POST /v1/messages HTTP/1.1\r\n" H);
    puts_raw(used, GET(""));
    expect_body(used, 200, "root");
    int64_t start = clock_mono_ms();
    for (int i = 0; i < 40 && !drip->in.len; i++) { /* never idle, never complete */
        puts_raw(drip, i < 5 ? "G" : "x");
        pump_ms(fx, 100);
        collect(drip);
    }
    check_refusal(drip, GUARD_READ_TIMEOUT);
    assert_in_range(clock_mono_ms() - start, 900, 4000);
    struct reply r = expect_reply(slow, 408);
    assert_true(str_starts(r.body, "{\"type\":\"error\",\"error\":{\"type\":\"timeout_error\""));
    expect_eof(idle);
    expect_eof(used);
    assert_int_equal(idle->in.len + used->in.len, 0);
    http_reply(fx->held, 200, NULL, STR("took long")); /* handling is not idling */
    expect_body(held, 200, "took long");
    hang_up(idle);
    hang_up(used);
    hang_up(drip);
    hang_up(held);
    hang_up(slow);
}

/* A client that never reads its reply is dropped. */
static void test_stalled_reader(void **state)
{
    struct fx *fx = *state;
    fx->opts.idle_timeout_s = 1;
    fx_start(fx);
    struct client *c = hold(fx, HOLD);
    char *data = x_calloc(1, 8 << 20);
    http_reply(fx->held, 200, NULL, str_n(data, 8 << 20));
    pump_ms(fx, 100);
    assert_int_equal(http_server_active(fx->server), 1);
    WAIT(fx, http_server_connections(fx->server) == 0);
    assert_int_equal(http_server_active(fx->server), 0);
    assert_int_equal(fx->gone, 0); /* its owner was done */
    hang_up(c);
    free(data);
}

static void test_drain(void **state)
{
    struct fx *fx = *state;
    struct client *idle = dial(fx), *fresh = dial(fx), *held = hold(fx, HOLD), *part = dial(fx);
    struct http_req *plain = TAKE_PTR(fx->held);
    struct client *streaming = hold(fx, HOLD);
    puts_raw(idle, GET(""));
    expect_body(idle, 200, "root");
    puts_raw(part, "GET / HTTP/1.1\r\n");
    http_stream_begin(fx->held, 200, NULL);
    http_server_drain(fx->server);
    expect_eof(idle);
    expect_eof(fresh);
    puts_raw(part, H "\r\n");
    struct reply r = expect_reply(part, 200);
    assert_true(str_eq_c(header(&r, "Connection"), "close"));
    expect_eof(part);
    http_reply(plain, 200, NULL, STR("x"));
    r = expect_reply(held, 200);
    assert_true(str_eq_c(header(&r, "Connection"), "close"));
    expect_eof(held);
    http_stream_end(fx->held);
    expect_reply(streaming, 200);
    expect_eof(streaming);
    WAIT(fx, http_server_connections(fx->server) == 0 && http_server_active(fx->server) == 0);
    hang_up(idle);
    hang_up(fresh);
    hang_up(held);
    hang_up(part);
    hang_up(streaming);
}

#endif
