/* test_http.c - the HTTP server: what http.h promises about bodies, routes, replies, streams,
 * listening and logging; its other parts are in http_refuse.h and http_life.h. */
#include "http/internal.h"
#include "http_app.h"
#include "http_life.h"
#include "http_record.h"
#include "http_refuse.h"
#include "http_unix.h"

#include <jansson.h>
#include <sys/stat.h>

/* --- bodies, connections, pipelining ------------------------------------------------------ */

static void test_bodies(void **state)
{
    struct client *c = dial(*state);
    puts_raw(c, POST("Content-Length: 5\r\n", "hello"));
    expect_body(c, 200, "hello");
    puts_raw(c, CHUNKED("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"));
    expect_body(c, 200, "hello world");
    puts_raw(c, POST("", ""));
    expect_body(c, 200, "");
    puts_raw(c, "DELETE /d HTTP/1.1\r\n" H "Content-Length: 2\r\n\r\n{}");
    expect_body(c, 200, "root");
    struct buf b AUTO(buf_release);
    buf_init(&b, 4096);
    make(&b, POST("Content-Length: 1000\r\n", ""), 'x', 1000, "");
    put(c, b.data, b.len);
    struct reply r = expect_reply(c, 200);
    assert_int_equal(r.body.len, 1000);
    hang_up(c);
}

static void test_large_body(void **state)
{
    struct fx *fx = *state;
    enum { SIZE = 3 << 20 };
    fx->opts.max_body_bytes = SIZE;
    fx_start(fx);
    struct client *c = dial(fx);
    struct buf b AUTO(buf_release);
    buf_init(&b, SIZE + 4096);
    make(&b, POST("Content-Length: 3145728\r\n", ""), 'x', SIZE, "");
    put(c, b.data, b.len);
    assert_int_equal(expect_reply(c, 200).body.len, SIZE);
    hang_up(c);
    /* one byte more: refused at once, and seen by a client that sends all of it first */
    c = dial(fx);
    make(&b, POST("Content-Length: 3145729\r\n", ""), 'x', SIZE + 1, "");
    for (size_t at = 0; at < b.len;) { /* without reading */
        ssize_t n = send(c->fd, b.data + at, b.len - at, MSG_NOSIGNAL);
        at += n > 0 ? (size_t)n : 0;
        assert_true(n > 0 || errno == EAGAIN);
        pump(fx);
    }
    check_refusal(c, GUARD_BODY_TOO_LARGE);
    hang_up(c);
}

static void test_expect_continue(void **state)
{
    struct client *c = dial(*state);
    struct reply r;
    puts_raw(c, POST("Content-Length: 5\r\nExpect: 100-continue\r\n", ""));
    r = expect_reply(c, 100);
    next_reply(c, &r);
    assert_int_equal(c->in.len, 0);
    puts_raw(c, "hello");
    expect_body(c, 200, "hello");
    hang_up(c);
    /* over the limit no 100 is sent: check_refusal wants 413 first and nothing more */
    c = dial(*state);
    puts_raw(c, POST("Content-Length: 1001\r\nExpect: 100-continue\r\n", ""));
    check_refusal(c, GUARD_BODY_TOO_LARGE);
    hang_up(c);
}

static void test_connection_reuse(void **state)
{
    struct fx *fx = *state;
    struct client *c = dial(fx);
    for (int i = 0; i < 3; i++) {
        puts_raw(c, GET("Connection: keep-alive\r\n"));
        expect_body(c, 200, "root");
    }
    assert_int_equal(http_server_connections(fx->server), 1);
    puts_raw(c, GET("Connection: TE, close\r\n"));
    struct reply r = expect_reply(c, 200);
    assert_true(str_eq_c(header(&r, "Connection"), "close"));
    expect_eof(c);
    hang_up(c);
    c = dial(fx); /* HTTP/1.0 closes unless asked */
    puts_raw(c, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    expect_body(c, 200, "root");
    puts_raw(c, "GET / HTTP/1.0\r\n\r\n");
    expect_eof(c);
    expect_body(c, 200, "root");
    hang_up(c);
}

static void test_pipelining(void **state)
{
    struct fx *fx = *state;
    struct client *c = dial(fx);
    puts_raw(c, GET("") POST("Content-Length: 1\r\n", "1") CHUNKED("1\r\n2\r\n0\r\n\r\n") GET(""));
    expect_body(c, 200, "root");
    expect_body(c, 200, "1");
    expect_body(c, 200, "2");
    expect_body(c, 200, "root");
    /* the second waits for the first, whose reply comes later */
    puts_raw(c, "GET /hold HTTP/1.1\r\n" H "\r\n" POST("Content-Length: 5\r\n", "he"));
    WAIT(fx, fx->held);
    puts_raw(c, "llo" GET(""));
    pump_ms(fx, 20);
    assert_int_equal(fx->handled, 5);
    http_reply(fx->held, 200, NULL, STR("first"));
    expect_body(c, 200, "first");
    expect_body(c, 200, "hello");
    expect_body(c, 200, "root");
    assert_int_equal(fx->gone, 0);
    /* a good one is answered before the bad one behind it is refused */
    puts_raw(c, GET("") GET("X : y\r\n") GET(""));
    expect_body(c, 200, "root");
    check_refusal(c, GUARD_HEADER_NAME);
    assert_int_equal(fx->handled, 8);
    hang_up(c);
}

static void test_pipelining_every_split(void **state)
{
    static const char raw[] = GET("") CHUNKED("1\r\n2\r\n0\r\n\r\n") GET("");
    struct fx *fx = *state;
    for (size_t split = 1; split < sizeof(raw) - 1; split++) {
        struct client *c = dial(fx);
        put(c, raw, split);
        pump_ms(fx, 1);
        put(c, raw + split, sizeof(raw) - 1 - split);
        expect_body(c, 200, "root");
        expect_body(c, 200, "2");
        expect_body(c, 200, "root");
        hang_up(c);
    }
}

/* --- routes ------------------------------------------------------------------------------- */

static void test_routes(void **state)
{
    struct client *c = dial(*state);
    puts_raw(c, "GET /hello/b%20ob?x=1&q=a+b%26&y HTTP/1.1\r\n" H "\r\n");
    expect_body(c, 200, "GET|/hello/b ob|b ob|a b&|/hello/:name|127.0.0.1");
    puts_raw(c, "GET /hello/ HTTP/1.1\r\n" H "\r\n");
    struct reply r = expect_reply(c, 404);
    assert_non_null(find(r.body, "\"code\":\"not_found\""));
    next_reply(c, &r);
    puts_raw(c, "GET /json/ HTTP/1.1\r\n" H "\r\n");
    r = expect_reply(c, 404);
    next_reply(c, &r);
    puts_raw(c, "PUT /hold HTTP/1.1\r\n" H "\r\n");
    r = expect_reply(c, 405);
    assert_true(str_eq_c(header(&r, "Allow"), "POST, GET, HEAD, OPTIONS"));
    assert_non_null(find(r.body, "\"success\":false"));
    next_reply(c, &r);
    puts_raw(c, "GET /v1/messages HTTP/1.1\r\n" H "\r\n");
    r = expect_reply(c, 405);
    assert_non_null(find(r.body, "\"type\":\"error\""));
    next_reply(c, &r);
    puts_raw(c, "OPTIONS /echo HTTP/1.1\r\n" H "\r\n");
    r = expect_reply(c, 204);
    assert_true(str_eq_c(header(&r, "Allow"), "POST, OPTIONS"));
    assert_int_equal(header(&r, "Content-Type").len, 0);
    next_reply(c, &r);
    puts_raw(c, "OPTIONS /nothing HTTP/1.1\r\n" H "\r\n");
    expect_reply(c, 404);
    hang_up(c);
}

static void test_head(void **state)
{
    struct client *c = dial(*state);
    struct reply r;
    puts_raw(c, "HEAD / HTTP/1.1\r\n" H "\r\n");
    WAIT(c->fx, (collect(c), parse_reply(c, true, &r)));
    assert_int_equal(r.status, 200);
    assert_true(str_eq_c(header(&r, "Content-Length"), "4"));
    next_reply(c, &r);
    puts_raw(c, "HEAD /sse HTTP/1.1\r\n" H "\r\n");
    WAIT(c->fx, (collect(c), parse_reply(c, true, &r)));
    next_reply(c, &r);
    puts_raw(c, GET(""));
    expect_body(c, 200, "root");
    hang_up(c);
}

static void test_common_headers(void **state)
{
    struct fx *fx = *state;
    fx->opts.hsts = true;
    fx_start(fx);
    struct client *c = dial(fx);
    puts_raw(c, "GET /json HTTP/1.1\r\n" H "X-Request-Id: mine\r\n\r\n");
    struct reply r = expect_reply(c, 200);
    assert_true(str_eq_c(header(&r, "Content-Type"), "application/json"));
    assert_true(str_eq_c(header(&r, "Cache-Control"), "no-store"));
    assert_true(str_eq_c(header(&r, "X-Content-Type-Options"), "nosniff"));
    assert_true(str_starts(header(&r, "Strict-Transport-Security"), "max-age="));
    assert_true(str_starts(header(&r, "request-id"), "req_"));
    assert_true(str_starts(header(&r, "x-request-id"), "req_"));
    assert_int_equal(header(&r, "Server").len, 0);
    hang_up(c);
    c = dial(fx);
    puts_raw(c, "GET /too-long HTTP/1.1\r\n" H "\r\n");
    r = expect_reply(c, 500);
    assert_non_null(find(r.body, "internal_error"));
    hang_up(c);
}

/* Paths that several kinds of client know answer each in its own shape. */
static void test_shape_of_the_client(void **state)
{
    static const struct {
        const char *path, *header;
        int status;
        const char *begin;
        bool openai;
    } rows[] = {
        {"/v1/models", "", 400, "{\"error\":{\"message\"", true},
        {"/v1/models", "x-api-key: k\r\n", 400, "{\"type\":\"error\"", false},
        {"/v1/models", "Anthropic-Version: 2023-06-01\r\n", 400, "{\"type\":\"error\"", false},
        {"/v1/nothing", "", 404, "{\"error\":{\"message\"", true},
        {"/v1/nothing", "X-API-Key: k\r\n", 404, "{\"type\":\"error\"", false},
        {"/v1", "X-API-Key: k\r\n", 404, "{\"success\":false", false},
    };
    struct client *c = dial(*state);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        char raw[200];
        snprintf(raw, sizeof(raw), "GET %s HTTP/1.1\r\n" H "%s\r\n", rows[i].path, rows[i].header);
        puts_raw(c, raw);
        struct reply r = expect_reply(c, rows[i].status);
        assert_true(str_starts(r.body, rows[i].begin));
        assert_true(str_eq_c(header(&r, "openai-version"), rows[i].openai ? "2020-10-01" : ""));
        bool native = str_starts(r.body, "{\"success\"");
        assert_true(str_eq_c(header(&r, "x-should-retry"), native ? "" : "false"));
        next_reply(c, &r);
    }
    hang_up(c);
}

static void test_error_shapes(void **state)
{
    struct client *c = dial(*state);
    puts_raw(c, "POST /fail HTTP/1.1\r\n" H "\r\n");
    struct reply r = expect_reply(c, 400);
    assert_true(str_eq_c(header(&r, "Retry-After"), "7"));
    assert_true(str_starts(r.body, "{\"success\":false,\"error\":\"model: unknown\",\"code\":"
                                   "\"invalid_request\",\"requestId\":\"req_"));
    next_reply(c, &r);
    puts_raw(c, "POST /v1/messages HTTP/1.1\r\n" H "\r\n");
    r = expect_reply(c, 400);
    assert_true(str_starts(r.body, "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error"
                                   "\",\"message\":\"model: unknown\"},\"request_id\":\"req_"));
    next_reply(c, &r);
    puts_raw(c, "POST /v1/chat/completions HTTP/1.1\r\n" H "\r\n");
    expect_body(c, 400,
                "{\"error\":{\"message\":\"model: unknown\",\"type\":\"invalid_request_error\","
                "\"param\":\"model\",\"code\":null}}");
    hang_up(c);
}

static void check_meaning(enum err_code code, int status, enum http_dialect dialect,
                          int want_status, const char *want_type)
{
    struct buf b AUTO(buf_release);
    struct err err;
    buf_init(&b, 4096);
    err_set(&err, code, "a \"secret\" path");
    err.status = status;
    http_error_body(dialect, "req_x", &err, &b);
    json_t *j = json_loadb(b.data, b.len, 0, NULL), *e = json_object_get(j, "error");
    const char *type = dialect == DIALECT_NATIVE ? json_string_value(json_object_get(j, "code"))
                                                 : json_string_value(json_object_get(e, "type"));
    assert_string_equal(type, want_type);
    assert_int_equal(http_error_status(dialect, &err), want_status);
    if (err_info(code)->fixed_msg)
        assert_null(strstr(b.data, "secret"));
    json_decref(j);
}

/* What upstream said keeps its status and its meaning; 529 exists only in Anthropic's dialect. */
static void test_error_meanings(void **state)
{
    (void)state;
    check_meaning(ERR_UPSTREAM, 429, DIALECT_NATIVE, 429, "upstream_error");
    check_meaning(ERR_UPSTREAM, 429, DIALECT_ANTHROPIC, 429, "rate_limit_error");
    check_meaning(ERR_UPSTREAM, 429, DIALECT_OPENAI, 429, "requests");
    check_meaning(ERR_UPSTREAM, 529, DIALECT_ANTHROPIC, 529, "overloaded_error");
    check_meaning(ERR_UPSTREAM, 529, DIALECT_OPENAI, 503, "server_error");
    check_meaning(ERR_UPSTREAM, 418, DIALECT_ANTHROPIC, 418, "api_error");
    check_meaning(ERR_UPSTREAM, 0, DIALECT_ANTHROPIC, 502, "api_error");
    check_meaning(ERR_OVERLOADED, 0, DIALECT_NATIVE, 503, "overloaded");
    check_meaning(ERR_OVERLOADED, 0, DIALECT_ANTHROPIC, 529, "overloaded_error");
    check_meaning(ERR_OVERLOADED, 0, DIALECT_OPENAI, 503, "server_error");
    check_meaning(ERR_WORKER, 0, DIALECT_NATIVE, 502, "worker_failed");
    check_meaning(ERR_WORKER, 0, DIALECT_ANTHROPIC, 500, "api_error");
    check_meaning(ERR_IO, 0, DIALECT_OPENAI, 500, "server_error");
}

static void test_authorise(void **state)
{
    struct fx *fx = *state;
    struct client *c = dial(fx);
    puts_raw(c, "GET /secret HTTP/1.1\r\n" H "\r\n");
    struct reply r = expect_reply(c, 401);
    assert_non_null(find(r.body, "authentication_error"));
    next_reply(c, &r);
    puts_raw(c, "GET /secret HTTP/1.1\r\n" H "x-api-key: k\r\n\r\n");
    expect_body(c, 200, "root");
    fx->authorise_later = true;
    puts_raw(c, "GET /secret HTTP/1.1\r\n" H "\r\n");
    WAIT(fx, fx->held);
    http_req_proceed(fx->held);
    expect_body(c, 200, "root");
    assert_int_equal(fx->handled, 2);
    /* the client leaves meanwhile: the handler is not troubled */
    fx->held = NULL;
    puts_raw(c, "GET /secret HTTP/1.1\r\n" H "\r\n");
    WAIT(fx, fx->held);
    hang_up(c);
    WAIT(fx, http_server_connections(fx->server) == 0);
    http_req_proceed(fx->held);
    WAIT(fx, http_server_active(fx->server) == 0);
    assert_int_equal(fx->handled, 2);
}

/* --- streams ------------------------------------------------------------------------------ */

static void on_drain(void *ctx)
{
    ((struct fx *)ctx)->drained++;
}

static void test_stream(void **state)
{
    struct fx *fx = *state;
    struct client *c = hold(fx, HOLD);
    http_set_header(fx->held, "X-A", "1");
    http_set_header(fx->held, "x-a", "2");
    http_stream_begin(fx->held, 201, "text/plain");
    http_stream_write(fx->held, STR("hello"));
    http_stream_write(fx->held, STR(""));
    http_stream_write(fx->held, STR("0123456789abcdef"));
    http_stream_end(fx->held);
    struct reply r = expect_reply(c, 201);
    assert_true(str_eq_c(header(&r, "X-A"), "2"));
    assert_true(str_eq_c(r.body, "5\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n"));
    next_reply(c, &r);
    puts_raw(c, GET(""));
    expect_body(c, 200, "root");
    assert_int_equal(fx->freed, 1);
    hang_up(c);
}

static void test_stream_http10(void **state)
{
    struct fx *fx = *state;
    struct client *c = hold(fx, "GET /hold HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    http_stream_begin(fx->held, 200, "text/plain");
    http_stream_write(fx->held, STR("hello "));
    WAIT(fx, (collect(c), find(buf_str(&c->in), "hello ")));
    http_stream_write(fx->held, STR("world"));
    http_stream_end(fx->held);
    expect_eof(c);
    struct reply r = expect_reply(c, 200);
    assert_int_equal(header(&r, "Content-Length").len, 0);
    assert_true(str_eq_c(r.body, "hello world"));
    hang_up(c);
}

static void test_backlog_and_drain(void **state)
{
    struct fx *fx = *state;
    struct client *c = hold(fx, HOLD);
    char *data = x_calloc(1, 1 << 20);
    http_stream_begin(fx->held, 200, NULL);
    http_stream_on_drain(fx->held, 65536, on_drain, fx);
    for (int i = 0; i < 6; i++)
        http_stream_write(fx->held, str_n(data, 1 << 20));
    assert_true(http_stream_backlog(fx->held) > 6 << 20);
    pump_ms(fx, 50);
    assert_true(http_stream_backlog(fx->held) > 65536); /* the client does not read */
    assert_int_equal(fx->drained, 0);
    WAIT(fx, (collect(c), fx->drained));
    assert_true(http_stream_backlog(fx->held) <= 65536);
    http_stream_write(fx->held, STR("small")); /* never above: no second call */
    WAIT(fx, (collect(c), http_stream_backlog(fx->held) == 0));
    pump_ms(fx, 5);
    assert_int_equal(fx->drained, 1);
    http_stream_end(fx->held);
    expect_reply(c, 200);
    hang_up(c);
    free(data);
}

static void test_sse(void **state)
{
    struct client *c = dial(*state);
    puts_raw(c, "GET /sse HTTP/1.0\r\n\r\n"); /* 1.0: without framing, easy to compare */
    expect_eof(c);
    struct reply r = expect_reply(c, 200);
    assert_true(str_starts(header(&r, "Content-Type"), "text/event-stream"));
    assert_true(str_eq_c(header(&r, "Cache-Control"), "no-cache"));
    assert_true(str_eq_c(header(&r, "X-Accel-Buffering"), "no"));
    assert_true(str_eq_c(r.body, "data: {\"a\":1}\n\n"
                                 "event: ping\ndata: one\ndata: two\ndata: three\ndata: four\n"
                                 "data: \n\n"
                                 "event: empty\ndata: \n\n"
                                 ": keep alive\n\n"));
    hang_up(c);
}

/* --- listening, logging ------------------------------------------------------------------- */

static void check_listen(struct fx *fx, const char *listen_on, const char *start)
{
    struct err err = {0};
    fx->opts.listen = listen_on;
    struct http_server *s = http_server_new(fx->loop, &fx->opts, &err);
    if (!s)
        fail_msg("%s", err.msg);
    if (strncmp(http_server_address(s), start, strlen(start)) != 0)
        fail_msg("%s gave %s", listen_on, http_server_address(s));
    assert_string_not_equal(strrchr(http_server_address(s), ':'), ":0");
    http_server_free(s);
}

static void check_no_listen(struct fx *fx, const char *listen_on, const char *why)
{
    struct err err = {0};
    fx->opts.listen = listen_on;
    assert_null(http_server_new(fx->loop, &fx->opts, &err));
    assert_true(err.code == ERR_CONFIG || err.code == ERR_IO);
    assert_true(str_contains(str_c(err.msg), why));
    assert_true(str_contains(str_c(err.msg), listen_on));
}

static void test_listen(void **state)
{
    struct fx *fx = *state;
    int v6 = socket(AF_INET6, SOCK_STREAM, 0);
    check_listen(fx, "127.0.0.1:0", "127.0.0.1:");
    check_listen(fx, "localhost:0", "");
    check_listen(fx, ":0", v6 >= 0 ? "[::]:" : "0.0.0.0:");
    struct sockaddr_in6 lo = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    if (v6 >= 0 && bind(v6, (struct sockaddr *)&lo, sizeof(lo)) == 0)
        check_listen(fx, "[::1]:0", "[::1]:");
    if (v6 >= 0)
        close(v6);
    check_no_listen(fx, "127.0.0.1", "host:port");
    check_no_listen(fx, "127.0.0.1:x", "host:port");
    check_no_listen(fx, "127.0.0.1:65536", "host:port");
    check_no_listen(fx, "::1:80", "[addr]:port");
    check_no_listen(fx, "192.0.2.1:0", "Cannot assign requested address");
    fx->opts.listen = "127.0.0.1:0";
    fx_start(fx);
    check_no_listen(fx, http_server_address(fx->server), "Address already in use");
}

static char *slurp(const char *dir, const char *name)
{
    char *path = x_printf("%s/%s", dir, name);
    char *text = x_calloc(1, 65536);
    FILE *f = fopen(path, "re");
    assert_non_null(f);
    assert_true(fread(text, 1, 65535, f) > 0);
    fclose(f);
    unlink(path);
    free(path);
    return text;
}

static json_t *line_with(const char *text, const char *needle)
{
    for (struct str rest = str_c(text); rest.len;) {
        struct str line = str_split(&rest, '\n');
        if (find(line, needle))
            return json_loadb(line.p, line.len, 0, NULL);
    }
    return NULL;
}

static void check_line(const char *text, const char *needle, const char *key, const char *value)
{
    json_t *j = line_with(text, needle);
    if (!j || strcmp(value, json_string_value(json_object_get(j, key))) != 0)
        fail_msg("no %s=%s in the line with %s of:\n%s", key, value, needle, text);
    json_decref(j);
}

static void test_access_log(void **state)
{
    struct fx *fx = *state;
    char dir[] = "/tmp/test_http_XXXXXX";
    struct err err;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(log_open(&(struct log_opts){.level = LOG_INFO, .dir = dir}, &err), 0);
    struct client *c = dial(fx);
    puts_raw(c, "GET /json?k=secret HTTP/1.1\r\n" H "X-Request-Id: mine-1\r\n\r\n");
    struct reply r = expect_reply(c, 200);
    char *id = str_dup(header(&r, "request-id"));
    next_reply(c, &r);
    puts_raw(c, "GET /healthz HTTP/1.1\r\n" H "X-Request-Id: not fit\r\n\r\n");
    expect_body(c, 200, "root");
    hang_up(c);
    hang_up(hold(fx, HOLD));
    WAIT(fx, http_server_active(fx->server) == 0);
    log_close();
    char *text = slurp(dir, "combined.log"), *path = x_printf("%s/error.log", dir);
    unlink(path);
    rmdir(dir);
    check_line(text, id, "route", "/json");
    check_line(text, id, "path", "/json");
    check_line(text, id, "method", "GET");
    check_line(text, id, "key", "abcdef123456");
    check_line(text, id, "client_request_id", "mine-1");
    check_line(text, id, "peer", "127.0.0.1");
    json_t *j = line_with(text, "/hold");
    assert_true(json_is_true(json_object_get(j, "aborted")));
    assert_int_equal(json_integer_value(json_object_get(j, "status")), 499);
    json_decref(j);
    j = line_with(text, id);
    assert_true(json_integer_value(json_object_get(j, "bytes_out")) > 200);
    assert_null(json_object_get(j, "aborted"));
    json_decref(j);
    assert_null(strstr(text, "healthz"));
    assert_null(strstr(text, "secret"));
    free(text);
    free(path);
    free(id);
}

static void test_metrics(void **state)
{
    struct fx *fx = *state;
    struct buf b AUTO(buf_release);
    struct client *c = dial(fx);
    buf_init(&b, 1 << 20);
    puts_raw(c, GET(""));
    expect_body(c, 200, "root");
    puts_raw(c, GET("X : y\r\n"));
    check_refusal(c, GUARD_HEADER_NAME);
    hang_up(c);
    hang_up(hold(fx, HOLD));
    WAIT(fx, http_server_connections(fx->server) == 0 && http_server_active(fx->server) == 0);
    metrics_write(&b);
    struct str all = buf_str(&b);
    assert_non_null(find(all, "claudegate_http_requests_total{route=\"/\",method=\"GET\","
                              "status=\"200\"} 1\n"));
    assert_non_null(find(all, "claudegate_http_requests_total{route=\"/hold\",method=\"POST\","
                              "status=\"499\"} 1\n"));
    assert_non_null(find(all, "claudegate_http_request_seconds_count{route=\"/\"} 1\n"));
    assert_non_null(find(all, "claudegate_http_refused_total{reason=\"header_name\"} 1\n"));
    assert_non_null(find(all, "\nclaudegate_http_client_gone_total 1\n"));
    assert_non_null(find(all, "\nclaudegate_http_connections 0\n"));
}

#define LIVE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
#define OWN(f)  cmocka_unit_test_setup_teardown(f, set_up_unstarted, tear_down)

/* The same over a unix socket. */
#define UNIX(f)                                          \
    {                                                    \
#f "_unix", f, set_up_unix, tear_down_unix, NULL \
    }
#define OWN_UNIX(f)                                                \
    {                                                              \
#f "_unix", f, set_up_unix_unstarted, tear_down_unix, NULL \
    }

/* test_http [pattern]: only the tests whose name matches */
int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_guard_every_split),
        cmocka_unit_test(test_guard_prefixes),
        cmocka_unit_test(test_guard_leaves_the_rest),
        cmocka_unit_test(test_guard_limits),
        LIVE(test_refused_live),
        LIVE(test_good_live),
        LIVE(test_long_live),
        LIVE(test_refused_in_its_shape),
        LIVE(test_long_refused_in_its_shape),
        LIVE(test_damaged_live),
        LIVE(test_record_follow),
        LIVE(test_record_outlives_client),
        LIVE(test_record_abandoned),
        LIVE(test_record_before_first_event),
        LIVE(test_record_bound),
        LIVE(test_record_slow_follower),
        OWN(test_record_stalled_follower),
        LIVE(test_record_plain),
        LIVE(test_record_plain_too_long),
        LIVE(test_record_failed_stream),
        LIVE(test_bodies),
        OWN(test_large_body),
        LIVE(test_expect_continue),
        LIVE(test_connection_reuse),
        LIVE(test_pipelining),
        LIVE(test_pipelining_every_split),
        LIVE(test_routes),
        LIVE(test_head),
        OWN(test_common_headers),
        LIVE(test_error_shapes),
        LIVE(test_shape_of_the_client),
        cmocka_unit_test(test_error_meanings),
        LIVE(test_authorise),
        LIVE(test_gone_close),
        LIVE(test_gone_reset),
        LIVE(test_gone_promptly),
        LIVE(test_gone_half_close),
        LIVE(test_gone_mid_stream),
        LIVE(test_gone_behind_backlog),
        LIVE(test_reset_behind_backlog),
        LIVE(test_backlog_then_reply),
        LIVE(test_orphan),
        LIVE(test_orphan_asks_late),
        LIVE(test_half_close_before_reply),
        LIVE(test_free_with_requests),
        LIVE(test_stream),
        LIVE(test_stream_http10),
        LIVE(test_backlog_and_drain),
        LIVE(test_sse),
        OWN(test_max_connections),
        LIVE(test_no_descriptors),
        OWN(test_timeouts),
        OWN(test_stalled_reader),
        LIVE(test_drain),
        OWN(test_listen),
        LIVE(test_access_log),
        LIVE(test_metrics),
        UNIX(test_refused_live),
        UNIX(test_good_live),
        UNIX(test_long_live),
        UNIX(test_bodies),
        OWN_UNIX(test_large_body),
        UNIX(test_connection_reuse),
        UNIX(test_pipelining),
        UNIX(test_gone_close),
        UNIX(test_gone_reset),
        UNIX(test_gone_promptly),
        UNIX(test_gone_half_close),
        UNIX(test_gone_mid_stream),
        UNIX(test_gone_behind_backlog),
        UNIX(test_reset_behind_backlog),
        UNIX(test_backlog_then_reply),
        UNIX(test_orphan),
        UNIX(test_half_close_before_reply),
        UNIX(test_free_with_requests),
        UNIX(test_stream),
        UNIX(test_backlog_and_drain),
        UNIX(test_sse),
        OWN_UNIX(test_max_connections),
        UNIX(test_no_descriptors),
        OWN_UNIX(test_timeouts),
        OWN_UNIX(test_stalled_reader),
        UNIX(test_drain),
        UNIX(test_metrics),
        OWN_UNIX(test_unix_mode),
        OWN_UNIX(test_unix_stale),
        UNIX(test_unix_living),
        OWN_UNIX(test_unix_living_full),
        OWN_UNIX(test_unix_not_a_socket),
        OWN_UNIX(test_unix_bad_paths),
        OWN_UNIX(test_unix_long_path),
        UNIX(test_unix_removed),
        UNIX(test_unix_name_taken_away),
        OWN_UNIX(test_unix_locked),
        UNIX(test_unix_and_tcp),
        OWN_UNIX(test_unix_race),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    id_init();
    struct err err;
    if (log_open(&(struct log_opts){.level = LOG_INFO}, &err) != 0) /* nowhere: quiet */
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
