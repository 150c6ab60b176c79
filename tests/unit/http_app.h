/* http_app.h - for test_http.c: the server under test and its handlers. */
#ifndef CG_TEST_HTTP_APP_H
#define CG_TEST_HTTP_APP_H

#include "http_cases.h"
#include "http_fx.h"

/* --- the handlers of the test server ------------------------------------------------------ */

static void h_root(struct http_req *req, void *ctx)
{
    ((struct fx *)ctx)->handled++;
    http_reply(req, 200, "text/plain", STR("root"));
}

static void h_hello(struct http_req *req, void *ctx)
{
    struct buf b AUTO(buf_release);
    const char *q = http_req_query(req, "q");
    ((struct fx *)ctx)->handled++;
    buf_init(&b, 4096);
    buf_printf(&b, "%s|%s|%s|%s|%s|%s", http_req_method(req), http_req_path(req),
               http_req_param(req, "name"), q ? q : "-", http_req_route(req), http_req_peer(req));
    http_reply(req, 200, "text/plain", buf_str(&b));
}

static void h_echo(struct http_req *req, void *ctx)
{
    ((struct fx *)ctx)->handled++;
    http_reply(req, 200, "application/octet-stream", http_req_body(req));
}

static void on_gone(void *ctx)
{
    struct fx *fx = ctx;
    fx->gone++;
    fx->held = NULL;
}

static void on_free(void *data)
{
    (*(int *)data)++;
}

static void h_hold(struct http_req *req, void *ctx)
{
    struct fx *fx = ctx;
    fx->handled++;
    fx->held = req;
    http_req_set_data(req, &fx->freed, on_free);
    http_req_on_gone(req, on_gone, fx);
}

static void h_orphan(struct http_req *req, void *ctx)
{
    struct fx *fx = ctx;
    fx->handled++;
    fx->held = req;
    http_req_set_data(req, &fx->freed, on_free);
}

static void h_json(struct http_req *req, void *ctx)
{
    struct buf b AUTO(buf_release);
    ((struct fx *)ctx)->handled++;
    buf_init(&b, 16);
    buf_adds(&b, "{\"ok\":true}");
    http_req_set_key_id(req, "abcdef123456");
    http_reply_json(req, 200, &b);
}

static void h_too_long(struct http_req *req, void *ctx)
{
    struct buf b AUTO(buf_release);
    (void)ctx;
    buf_init(&b, 4);
    buf_adds(&b, "{\"ok\":true}");
    http_reply_json(req, 200, &b);
}

static void h_sse(struct http_req *req, void *ctx)
{
    (void)ctx;
    http_sse_begin(req);
    http_sse_event(req, NULL, STR("{\"a\":1}"));
    http_sse_event(req, "ping", STR("one\ntwo\r\nthree\rfour\n"));
    http_sse_event(req, "empty", STR(""));
    http_sse_comment(req, "keep alive");
    http_stream_end(req);
}

static void h_fail(struct http_req *req, void *ctx)
{
    struct err err;
    (void)ctx;
    err_field(&err, "model", "unknown");
    err.retry_after_s = 7;
    http_reply_error(req, &err);
}

static void authorise(struct http_req *req, enum http_scope scope, void *ctx)
{
    struct fx *fx = ctx;
    struct err err;
    assert_int_equal(scope, SCOPE_KEY);
    if (fx->authorise_later) {
        fx->held = req;
        return;
    }
    if (http_req_header(req, "x-api-key")) {
        http_req_proceed(req);
        return;
    }
    err_set(&err, ERR_UNAUTHENTICATED, "No key.");
    http_reply_error(req, &err);
}

static const struct http_route routes[] = {
    {"GET", "/", SCOPE_PUBLIC, DIALECT_NATIVE, h_root, false},
    {"GET", "/healthz", SCOPE_PUBLIC, DIALECT_NATIVE, h_root, false},
    {"GET", "/hello/:name", SCOPE_PUBLIC, DIALECT_NATIVE, h_hello, false},
    {"DELETE", "/hello/:name/x/:id", SCOPE_PUBLIC, DIALECT_NATIVE, h_echo, false},
    {"POST", "/echo", SCOPE_PUBLIC, DIALECT_NATIVE, h_echo, false},
    {"DELETE", "/d", SCOPE_PUBLIC, DIALECT_NATIVE, h_root, false},
    {"POST", "/hold", SCOPE_PUBLIC, DIALECT_NATIVE, h_hold, false},
    {"GET", "/hold", SCOPE_PUBLIC, DIALECT_NATIVE, h_hold, false},
    {"POST", "/orphan", SCOPE_PUBLIC, DIALECT_NATIVE, h_orphan, false},
    {"GET", "/json", SCOPE_PUBLIC, DIALECT_NATIVE, h_json, false},
    {"GET", "/too-long", SCOPE_PUBLIC, DIALECT_NATIVE, h_too_long, false},
    {"GET", "/sse", SCOPE_PUBLIC, DIALECT_NATIVE, h_sse, false},
    {"POST", "/fail", SCOPE_PUBLIC, DIALECT_NATIVE, h_fail, false},
    {"POST", "/v1/messages", SCOPE_PUBLIC, DIALECT_ANTHROPIC, h_fail, false},
    {"POST", "/v1/chat/completions", SCOPE_PUBLIC, DIALECT_OPENAI, h_fail, false},
    {"GET", "/v1/models", SCOPE_PUBLIC, DIALECT_CLIENT, h_fail, false},
    {"GET", "/secret", SCOPE_KEY, DIALECT_ANTHROPIC, h_root, false},
};

static struct fx *fx_new(void)
{
    struct fx *fx = x_calloc(1, sizeof(*fx));
    fx->loop = loop_new();
    fx->opts = (struct http_opts){
        .listen = "127.0.0.1:0",
        .max_body_bytes = MAX_BODY,
        .max_header_bytes = MAX_HEAD,
        .idle_timeout_s = 60,
        .read_timeout_s = 60,
        .max_connections = 100,
        .routes = routes,
        .route_count = ARRAY_SIZE(routes),
        .client_paths = "/v1/",
        .authorise = authorise,
        .ctx = fx,
    };
    return fx;
}

static void fx_start(struct fx *fx)
{
    struct err err;
    fx->server = http_server_new(fx->loop, &fx->opts, &err);
    assert_non_null(fx->server);
}

static int set_up(void **state)
{
    struct fx *fx = fx_new();
    fx_start(fx);
    *state = fx;
    return 0;
}

static int set_up_unstarted(void **state)
{
    *state = fx_new();
    return 0;
}

static int tear_down(void **state)
{
    struct fx *fx = *state;
    http_server_free(fx->server);
    loop_free(fx->loop);
    metrics_reset();
    free(fx);
    return 0;
}

/* A client whose request a handler is holding. */
static struct client *hold(struct fx *fx, const char *raw)
{
    struct client *c = dial(fx);
    puts_raw(c, raw);
    WAIT(fx, fx->held);
    return c;
}

#define HOLD   "POST /hold HTTP/1.1\r\n" H "Content-Length: 2\r\n\r\n{}"
#define ORPHAN "POST /orphan HTTP/1.1\r\n" H "\r\n"

#endif
