/* http_refuse.h - part of test_http.c: the guard byte by byte and at every split, and each
 * malformed request as raw bytes against a live server. */
#ifndef CG_TEST_HTTP_REFUSE_H
#define CG_TEST_HTTP_REFUSE_H

#include "http_app.h"

#include <jansson.h>

/* --- the guard alone ---------------------------------------------------------------------- */

struct verdict {
    enum guard_result result;
    enum guard_reason reason;
    size_t used;
};

/* Feeds bytes in two pieces, or one by one when split is SIZE_MAX. */
static struct verdict judge(const char *bytes, size_t len, size_t split)
{
    struct guard g;
    struct verdict v = {.result = GUARD_MORE};
    guard_init(&g, MAX_HEAD, MAX_BODY);
    for (size_t at = 0; at < len && v.result == GUARD_MORE;) {
        size_t n = split == SIZE_MAX ? 1 : at < split ? split - at : len - at, used;
        char *exact = x_malloc(n); /* so that ASan sees a read past the piece */
        memcpy(exact, bytes + at, n);
        if (at % 2 && guard_skip_body(&g, n)) /* what is body may be shown, or not */
            used = n;
        else
            v.result = guard_feed(&g, exact, n, &used);
        free(exact);
        v.used += used;
        at += n;
    }
    v.reason = g.reason;
    return v;
}

static void check_case(const struct raw_case *rc, size_t split)
{
    struct verdict v = judge(rc->bytes, rc->len, split);
    enum guard_result want = rc->reason == GUARD_OK ? GUARD_DONE : GUARD_REFUSED;
    if (v.result != want || v.reason != rc->reason || (want == GUARD_DONE && v.used != rc->len))
        fail_msg("%s, split at %zd: got result %d, reason %s, %zu of %zu bytes", rc->name,
                 (ssize_t)split, (int)v.result, guard_reason_info(v.reason)->name, v.used, rc->len);
}

static void test_guard_every_split(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(good_cases) + ARRAY_SIZE(bad_cases); i++) {
        const struct raw_case *rc =
            i < ARRAY_SIZE(good_cases) ? &good_cases[i] : &bad_cases[i - ARRAY_SIZE(good_cases)];
        check_case(rc, SIZE_MAX);
        for (size_t split = 0; split < rc->len; split++)
            check_case(rc, split);
    }
}

/* A good request cut short is neither complete nor refused. */
static void test_guard_prefixes(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(good_cases); i++) {
        for (size_t n = 0; n < good_cases[i].len; n++)
            assert_int_equal(judge(good_cases[i].bytes, n, n).result, GUARD_MORE);
    }
}

/* What follows a request is left alone, and the guard is ready for it after a reset. */
static void test_guard_leaves_the_rest(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(good_cases); i++) {
        struct buf b AUTO(buf_release);
        struct guard g;
        size_t used;
        buf_init(&b, 4096);
        buf_add(&b, good_cases[i].bytes, good_cases[i].len);
        buf_adds(&b, "GET / HTTP/1.1\r\n" H "\r\n");
        guard_init(&g, MAX_HEAD, MAX_BODY);
        assert_int_equal(guard_feed(&g, b.data, b.len, &used), GUARD_DONE);
        assert_int_equal(used, good_cases[i].len);
        guard_reset(&g);
        assert_int_equal(guard_feed(&g, b.data + used, b.len - used, &used), GUARD_DONE);
    }
}

/* "GET /" + fill + rest */
static void make(struct buf *b, const char *start, char fill, size_t n, const char *rest)
{
    buf_clear(b);
    buf_adds(b, start);
    for (size_t i = 0; i < n; i++)
        buf_addc(b, fill);
    buf_adds(b, rest);
}

static void make_lines(struct buf *b, size_t n, const char *line)
{
    buf_clear(b);
    buf_adds(b, "GET / HTTP/1.1\r\n" H);
    for (size_t i = 0; i < n; i++)
        buf_adds(b, line);
    buf_adds(b, "\r\n");
}

static void check_limit(const struct buf *b, enum guard_reason reason)
{
    struct raw_case rc = {"limit", b->data, b->len, reason};
    check_case(&rc, SIZE_MAX);
    for (size_t split = 0; split < b->len; split += 7)
        check_case(&rc, split);
}

static void test_guard_limits(void **state)
{
    struct buf b AUTO(buf_release);
    const char *rest = "\r\n\r\n", *version = " HTTP/1.1\r\n" H "\r\n";
    char long_line[1100];
    (void)state;
    buf_init(&b, 65536);
    make(&b, "GET /", 'a', GUARD_MAX_TARGET - 1, version);
    check_limit(&b, GUARD_OK);
    make(&b, "GET /", 'a', GUARD_MAX_TARGET, version);
    check_limit(&b, GUARD_TARGET_TOO_LONG);
    make(&b, "GET / HTTP/1.1\r\n" H "X:", 'a', GUARD_MAX_LINE - 2, rest);
    check_limit(&b, GUARD_OK);
    make(&b, "GET / HTTP/1.1\r\n" H "X:", 'a', GUARD_MAX_LINE - 1, rest);
    check_limit(&b, GUARD_LINE_TOO_LONG);
    make(&b, "GET / HTTP/1.1\r\n" H, 'a', GUARD_MAX_LINE + 1, ":x\r\n\r\n");
    check_limit(&b, GUARD_LINE_TOO_LONG);
    make_lines(&b, GUARD_MAX_LINES - 1, "X: y\r\n");
    check_limit(&b, GUARD_OK);
    make_lines(&b, GUARD_MAX_LINES, "X: y\r\n");
    check_limit(&b, GUARD_TOO_MANY_LINES);
    snprintf(long_line, sizeof(long_line), "X: %0*d\r\n", 1000, 1);
    make_lines(&b, 20, long_line);
    check_limit(&b, GUARD_HEAD_TOO_LARGE);
    make(&b, "GET / HTTP/1.1\r\nHost: ", 'a', 300, rest);
    check_limit(&b, GUARD_HOST_INVALID);
}

/* --- malformed requests against the live server ------------------------------------------- */

static void check_refusal(struct client *c, enum guard_reason reason)
{
    struct reply r = expect_reply(c, guard_reason_info(reason)->status);
    json_t *j = json_loadb(r.body.p, r.body.len, 0, NULL);
    assert_non_null(j);
    assert_true(json_is_false(json_object_get(j, "success")));
    assert_string_equal(json_string_value(json_object_get(j, "error")),
                        guard_reason_info(reason)->text);
    const char *id = json_string_value(json_object_get(j, "requestId"));
    assert_true(str_eq_c(header(&r, "request-id"), id));
    assert_true(str_eq_c(header(&r, "x-request-id"), id));
    assert_true(str_eq_c(header(&r, "Connection"), "close"));
    assert_int_equal(header(&r, "Server").len, 0);
    json_decref(j);
    assert_ptr_equal(r.body.p + r.body.len, c->in.data + c->in.len); /* and nothing more */
    shutdown(c->fd, SHUT_WR);
    expect_eof(c);
}

static void test_refused_live(void **state)
{
    struct fx *fx = *state;
    for (size_t i = 0; i < ARRAY_SIZE(bad_cases); i++) {
        struct client *c = dial(fx), *slow = dial(fx);
        put(c, bad_cases[i].bytes, bad_cases[i].len);
        check_refusal(c, bad_cases[i].reason);
        for (size_t k = 0; k < bad_cases[i].len; k++)
            put(slow, bad_cases[i].bytes + k, 1);
        check_refusal(slow, bad_cases[i].reason);
        hang_up(c);
        hang_up(slow);
    }
    assert_int_equal(fx->handled, 0);
    WAIT(fx, http_server_connections(fx->server) == 0);
}

static void test_good_live(void **state)
{
    struct fx *fx = *state;
    for (size_t i = 0; i < ARRAY_SIZE(good_cases); i++) {
        struct client *c = dial(fx);
        struct reply r;
        for (size_t k = 0; k < good_cases[i].len; k++)
            put(c, good_cases[i].bytes + k, 1);
        WAIT(fx, (collect(c), parse_reply(c, false, &r)));
        assert_true(r.status == 200 || r.status == 404 || r.status == 204);
        next_reply(c, &r);
        if (strstr(good_cases[i].bytes, "HTTP/1.0"))
            expect_eof(c);
        assert_int_equal(c->in.len, 0);
        hang_up(c);
    }
}

static void test_long_live(void **state)
{
    struct fx *fx = *state;
    struct buf b AUTO(buf_release);
    buf_init(&b, (size_t)1 << 20);
    struct client *c = dial(fx);
    make(&b, "GET /", 'a', 20000, " HTTP/1.1\r\n" H "\r\n");
    put(c, b.data, b.len);
    check_refusal(c, GUARD_TARGET_TOO_LONG);
    hang_up(c);
    c = dial(fx);
    make_lines(&b, 10000, "X: y\r\n");
    put(c, b.data, b.len);
    check_refusal(c, GUARD_TOO_MANY_LINES);
    hang_up(c);
    c = dial(fx);
    make(&b, "GET / HTTP/1.1\r\n" H "X: ", 'a', 100000, "\r\n\r\n");
    put(c, b.data, b.len);
    check_refusal(c, GUARD_LINE_TOO_LONG);
    hang_up(c);
    assert_int_equal(fx->handled, 0);
}

/* A refusal speaks as the router's answer would, from what was read until then. */
static void test_refused_in_its_shape(void **state)
{
#define TOO_LARGE "Content-Length: 1001\r\n"
    static const struct {
        const char *raw;
        int status;
        const char *begin, *advice;
        bool openai;
    } rows[] = {
        {"POST /fail HTTP/1.1\r\n" H TOO_LARGE "\r\n", 413, "{\"success\":false", "", false},
        {"POST /v1/messages HTTP/1.1\r\n" H TOO_LARGE "\r\n", 413,
         "{\"type\":\"error\",\"error\":{\"type\":\"request_too_large\"", "", false},
        {"POST /v1/m%65ssages?x=%20 HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n3e9\r\n",
         413, "{\"type\":\"error\"", "", false},
        {"POST /v1/chat/completions HTTP/1.1\r\n" H "X-API-Key: k\r\n" TOO_LARGE "\r\n", 413,
         "{\"error\":{\"message\"", "", true},
        {"POST /v1/models HTTP/1.1\r\n" H TOO_LARGE "\r\n", 413, "{\"error\":{\"message\"", "",
         true},
        {"POST /v1/models HTTP/1.1\r\n" H "X-API-Key: k\r\n" TOO_LARGE "\r\n", 413,
         "{\"type\":\"error\"", "", false},
        {"POST /v1/nothing HTTP/1.1\r\nAnthropic-Version: 2023-06-01\r\n" TOO_LARGE H "\r\n", 413,
         "{\"type\":\"error\"", "", false},
        {"GET /v1/models HTTP/1.1\r\n" H "Content-Length: 1\r\n\r\n", 400,
         "{\"error\":{\"message\":\"This method takes no request body.\"", "false", true},
        {"BREW /v1/messages HTTP/1.1\r\n" H "\r\n", 501, "{\"type\":\"error\"", "false", false},
        {"POST /v1/messages HTTP/3.0\r\n" H "\r\n", 505, "{\"type\":\"error\"", "false", false},
        {"GET /v1/../x HTTP/1.1\r\n" H "\r\n", 400, "{\"error\":{\"message\"", "false", true},
        {"GET ../v1/messages HTTP/1.1\r\n" H "\r\n", 400, "{\"success\":false", "", false},
    };
#undef TOO_LARGE
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct client *c = dial(*state);
        puts_raw(c, rows[i].raw);
        struct reply r = expect_reply(c, rows[i].status);
        if (!str_starts(r.body, rows[i].begin))
            fail_msg("%s: got %.*s", rows[i].raw, (int)r.body.len, r.body.p);
        assert_true(str_eq_c(header(&r, "openai-version"), rows[i].openai ? "2020-10-01" : ""));
        assert_int_equal(header(&r, "openai-processing-ms").len > 0, rows[i].openai);
        assert_true(str_eq_c(header(&r, "x-should-retry"), rows[i].advice));
        hang_up(c);
    }
}

/* What is kept of a path is bounded, and what is too long has a shape as well. */
static void test_long_refused_in_its_shape(void **state)
{
    static const struct {
        const char *start;
        int status;
        const char *begin;
    } rows[] = {
        {"GET /v1/messages?", 414, "{\"type\":\"error\""},
        {"GET /v1/messages/", 414, "{\"error\":{\"message\""},
        {"GET /hello/", 414, "{\"success\":false"},
        {"POST /v1/messages HTTP/1.1\r\n" H "X: ", 431, "{\"type\":\"error\""},
        {"POST /v1/chat/completions HTTP/1.1\r\n" H "X: ", 431, "{\"error\":{\"message\""},
    };
    struct buf b AUTO(buf_release);
    buf_init(&b, (size_t)1 << 20);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct client *c = dial(*state);
        make(&b, rows[i].start, 'a', 10000, "\r\n\r\n");
        put(c, b.data, b.len);
        struct reply r = expect_reply(c, rows[i].status);
        assert_true(str_starts(r.body, rows[i].begin));
        hang_up(c);
    }
}

/* Random damage to good requests: whatever comes of it, the server answers or waits, never
 * misreads (the guard and evhttp would disagree, which is logged and counted) and never dies. */
static void test_damaged_live(void **state)
{
    struct fx *fx = *state;
    static const char bytes[] = "\r\n \t:;,0a/%.\0\x80-+";
    unsigned seed = 12345;
    for (int i = 0; i < 600; i++) {
        char raw[512];
        const struct raw_case *rc = &good_cases[rand_r(&seed) % ARRAY_SIZE(good_cases)];
        memcpy(raw, rc->bytes, rc->len);
        for (int k = rand_r(&seed) % 3; k >= 0; k--)
            raw[(size_t)rand_r(&seed) % rc->len] =
                bytes[(size_t)rand_r(&seed) % (sizeof(bytes) - 1)];
        struct verdict v = judge(raw, rc->len, rc->len);
        struct client *c = dial(fx);
        put(c, raw, rc->len);
        if (v.result == GUARD_REFUSED)
            check_refusal(c, v.reason);
        else if (v.result == GUARD_DONE)
            WAIT(fx, (collect(c), parse_reply(c, false, &(struct reply){0})));
        hang_up(c);
    }
    struct buf b AUTO(buf_release);
    buf_init(&b, 1 << 20);
    metrics_write(&b);
    assert_non_null(find(buf_str(&b), "claudegate_http_refused_total{"));
    assert_null(find(buf_str(&b), "disagreement"));
}

#endif
