/* standin.c - the stand-in's server: routes, the test interface, the listener. What happens to a
 * request after its route is in standin_call.c, what is answered in standin_reply.c, the script
 * in standin_script.c. */
#include "upstream/standin.h"

#include "upstream/standin_call.h"

#include <arpa/inet.h>
#include <event2/buffer.h>
#include <event2/http.h>
#include <inttypes.h>
#include <sys/socket.h>

#define STANDIN_TAG TAG4('s', 't', 'i', 'n')

#define MAX_BODY_BYTES   ((ev_ssize_t)32 << 20) /* the real API's limit */
#define MAX_HEADER_BYTES ((ev_ssize_t)64 << 10)
#define MAX_OPEN_CALLS   4096
#define QUIET_SECONDS    7200 /* evhttp's own time-outs must not end a scripted stall */

/* --- routes ------------------------------------------------------------------------------- */

static void post_message(struct standin_call *c)
{
    struct err err = {0};
    if (standin_request_parse(&c->request, standin_call_body(c), false, &err) != 0) {
        standin_call_fail(c, 400, err.msg);
        return;
    }
    c->message = true;
    if (!standin_script_take(&c->s->script, &c->request, &c->step))
        c->word_delay_ms = c->s->word_delay_ms;
    else
        c->word_delay_ms = (int)c->step.word_delay_ms;
    standin_call_begin(c);
}

static void post_count_tokens(struct standin_call *c)
{
    AUTO(buf_release) struct buf body = {0};
    struct err err = {0};
    if (standin_request_parse(&c->request, standin_call_body(c), true, &err) != 0) {
        standin_call_fail(c, 400, err.msg);
        return;
    }
    buf_init(&body, 128);
    buf_printf(&body, "{\"input_tokens\":%" PRId64 "}", c->request.input_tokens);
    standin_call_send_buf(c, 200, &body);
}

static void get_models(struct standin_call *c)
{
    static const char *const ids[] = {"claude-opus-4-5", "claude-sonnet-4-5", "claude-haiku-4-5"};
    AUTO(buf_release) struct buf body = {0};
    buf_init(&body, 2048);
    buf_adds(&body, "{\"data\":[");
    for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
        buf_printf(&body,
                   "%s{\"type\":\"model\",\"id\":\"%s\",\"display_name\":\"%s (demo upstream)\","
                   "\"created_at\":\"2025-09-29T00:00:00Z\"}",
                   i ? "," : "", ids[i], ids[i]);
    }
    buf_printf(&body, "],\"has_more\":false,\"first_id\":\"%s\",\"last_id\":\"%s\"}", ids[0],
               ids[ARRAY_SIZE(ids) - 1]);
    standin_call_send_buf(c, 200, &body);
}

static void head_root(struct standin_call *c)
{
    standin_call_send(c, 200, "text/plain", STR(""));
}

static void post_script(struct standin_call *c)
{
    AUTO(buf_release) struct buf body = {0};
    struct err err = {0};
    if (standin_script_add(&c->s->script, standin_call_body(c), &err) != 0) {
        standin_call_fail(c, 400, err.msg);
        return;
    }
    buf_init(&body, 128);
    buf_printf(&body, "{\"steps\":%zu}", c->s->script.steps.len);
    standin_call_send_buf(c, 200, &body);
}

/* Calls still open belong to what was before: they are neither logged nor counted any more. */
static void delete_script(struct standin_call *c)
{
    struct standin *s = c->s;
    standin_script_clear(&s->script);
    standin_log_clear(&s->log);
    LIST_EACH(&s->calls, node)
    {
        container_of(node, struct standin_call, node)->counted = false;
    }
    s->messages = s->requests = s->aborted = 0;
    s->told = (struct standin_usage){0};
    standin_call_send(c, 200, "application/json", STR("{}"));
}

static void get_requests(struct standin_call *c)
{
    struct evbuffer *out = evbuffer_new();
    BUG_ON(!out);
    standin_log_write(&c->s->log, out);
    standin_call_send_take(c, 200, "application/json", out);
}

static void get_stats(struct standin_call *c)
{
    const struct standin *s = c->s;
    AUTO(buf_release) struct buf body = {0};
    size_t open = 0;
    LIST_EACH(&s->calls, node)
    {
        const struct standin_call *other = container_of(node, struct standin_call, node);
        open += other->counted && other->message;
    }
    buf_init(&body, 1024);
    buf_printf(&body,
               "{\"calls\":%" PRIu64 ",\"open\":%zu,\"requests\":%" PRIu64 ",\"aborted\":%" PRIu64
               ",",
               s->messages, open, s->requests, s->aborted);
    standin_usage_write(&body, &s->told);
    buf_printf(&body, ",\"steps_left\":%zu,\"log_dropped\":%" PRIu64 "}", s->script.steps.len,
               s->log.dropped);
    standin_call_send_buf(c, 200, &body);
}

struct route {
    enum evhttp_cmd_type method;
    const char *path;
    void (*handler)(struct standin_call *c);
};

static const struct route api_routes[] = {
    {EVHTTP_REQ_POST, "/v1/messages", post_message},
    {EVHTTP_REQ_POST, "/v1/messages/count_tokens", post_count_tokens},
    {EVHTTP_REQ_GET, "/v1/models", get_models},
};
static const struct route open_routes[] = {{EVHTTP_REQ_HEAD, "/", head_root}};
static const struct route script_routes[] = {
    {EVHTTP_REQ_POST, "/_standin/script", post_script},
    {EVHTTP_REQ_DELETE, "/_standin/script", delete_script},
    {EVHTTP_REQ_GET, "/_standin/requests", get_requests},
    {EVHTTP_REQ_GET, "/_standin/stats", get_stats},
};

static const struct route *find_route(const struct route *routes, size_t count,
                                      const struct evhttp_request *req, const char *path)
{
    for (size_t i = 0; i < count; i++) {
        if (routes[i].method == evhttp_request_get_command(req) &&
            strcmp(routes[i].path, path) == 0)
            return &routes[i];
    }
    return NULL;
}

static bool has_credential(const struct standin_call *c)
{
    const struct evkeyvalq *in = evhttp_request_get_input_headers(c->req);
    const char *key = evhttp_find_header(in, "x-api-key");
    const char *auth = evhttp_find_header(in, "authorization");
    return (key && *key) || (auth && *auth);
}

static void call_dispatch(struct standin_call *c, const char *path)
{
    const struct route *r = find_route(open_routes, ARRAY_SIZE(open_routes), c->req, path);
    if (!r && c->api)
        r = find_route(api_routes, ARRAY_SIZE(api_routes), c->req, path);
    if (!r && c->s->scriptable)
        r = find_route(script_routes, ARRAY_SIZE(script_routes), c->req, path);
    if (c->s->calls.len > MAX_OPEN_CALLS)
        standin_call_fail(c, 529, "Overloaded");
    else if (c->api && !has_credential(c))
        standin_call_fail(c, 401, "x-api-key header is required");
    else if (!r)
        standin_call_fail(c, 404, "Not found");
    else
        r->handler(c);
}

/* --- connections in ----------------------------------------------------------------------- */

static const char *method_name(const struct evhttp_request *req)
{
    switch (evhttp_request_get_command(req)) {
    case EVHTTP_REQ_GET:
        return "GET";
    case EVHTTP_REQ_POST:
        return "POST";
    case EVHTTP_REQ_HEAD:
        return "HEAD";
    case EVHTTP_REQ_PUT:
        return "PUT";
    case EVHTTP_REQ_DELETE:
        return "DELETE";
    case EVHTTP_REQ_OPTIONS:
        return "OPTIONS";
    case EVHTTP_REQ_PATCH:
        return "PATCH";
    case EVHTTP_REQ_TRACE:
    case EVHTTP_REQ_CONNECT:
        break;
    }
    return "OTHER";
}

static void call_log(struct standin_call *c, const struct evhttp_uri *uri, const char *path)
{
    struct standin_arrival a = {.method = method_name(c->req),
                                .path = path,
                                .query = uri ? evhttp_uri_get_query(uri) : NULL,
                                .headers = evhttp_request_get_input_headers(c->req),
                                .body = standin_call_body(c)};
    standin_log_add(&c->s->log, &a, &c->entry);
}

static void on_request(struct evhttp_request *req, void *ctx)
{
    struct standin *s = OBJ(ctx, struct standin, STANDIN_TAG);
    struct standin_call *c = standin_call_new(s, req);
    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(req);
    const char *path = uri ? evhttp_uri_get_path(uri) : NULL;
    path = path && *path ? path : "/";
    c->api = str_starts(str_c(path), "/v1/");
    if (c->api && s->scriptable)
        call_log(c, uri, path);
    call_dispatch(c, path);
}

/* --- the server --------------------------------------------------------------------------- */

/* "127.0.0.1:0" or "[::1]:0": this server has no business on any other interface. */
static int parse_listen(const char *listen, char host[64], uint16_t *ret_port, struct err *err)
{
    const char *colon = listen ? strrchr(listen, ':') : NULL;
    uint64_t port;
    if (!colon || !str_to_u64(str_c(colon + 1), &port) || port > 65535)
        return err_set(err, ERR_CONFIG, "stand-in: '%s' is not HOST:PORT", listen ? listen : "");
    struct str h = str_n(listen, (size_t)(colon - listen));
    if (h.len > 2 && h.p[0] == '[' && h.p[h.len - 1] == ']')
        h = str_n(h.p + 1, h.len - 2);
    if (!str_starts(h, "127.") && !str_eq_c(h, "::1"))
        return err_set(err, ERR_CONFIG, "stand-in: '%s' is not a loopback address", listen);
    snprintf(host, 64, "%.*s", (int)h.len, h.p);
    *ret_port = (uint16_t)port;
    return 0;
}

static void set_url(struct standin *s, const char *host, evutil_socket_t fd)
{
    struct sockaddr_storage ss = {0};
    socklen_t len = sizeof(ss);
    BUG_ON(getsockname(fd, (struct sockaddr *)&ss, &len) != 0);
    struct sockaddr_in6 v6;
    struct sockaddr_in v4;
    memcpy(&v6, &ss, sizeof(v6));
    memcpy(&v4, &ss, sizeof(v4));
    if (ss.ss_family == AF_INET6)
        snprintf(s->url, sizeof(s->url), "http://[%s]:%u", host, ntohs(v6.sin6_port));
    else
        snprintf(s->url, sizeof(s->url), "http://%s:%u", host, ntohs(v4.sin_port));
}

static int start(struct standin *s, const char *listen, struct err *err)
{
    char host[64];
    uint16_t port = 0;
    if (parse_listen(listen, host, &port, err) != 0)
        return -1;
    s->http = evhttp_new(loop_base(s->loop));
    BUG_ON(!s->http);
    evhttp_set_max_body_size(s->http, MAX_BODY_BYTES);
    evhttp_set_max_headers_size(s->http, MAX_HEADER_BYTES);
    evhttp_set_timeout(s->http, QUIET_SECONDS);
    evhttp_set_default_content_type(s->http, NULL);
    evhttp_set_allowed_methods(s->http, EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_HEAD |
                                            EVHTTP_REQ_PUT | EVHTTP_REQ_DELETE |
                                            EVHTTP_REQ_OPTIONS | EVHTTP_REQ_PATCH);
    evhttp_set_gencb(s->http, on_request, s);
    struct evhttp_bound_socket *bound = evhttp_bind_socket_with_handle(s->http, host, port);
    if (!bound)
        return err_set(err, ERR_IO, "stand-in: cannot listen on %s", listen);
    set_url(s, host, evhttp_bound_socket_get_fd(bound));
    return 0;
}

struct standin *standin_new(struct loop *loop, const struct standin_opts *opts, struct err *err)
{
    struct standin *s = x_calloc(1, sizeof(*s));
    s->tag = STANDIN_TAG;
    s->loop = loop;
    s->scriptable = opts->scriptable;
    s->word_delay_ms = opts->word_delay_ms;
    list_init(&s->calls);
    standin_script_init(&s->script);
    standin_log_init(&s->log);
    if (start(s, opts->listen, err) != 0) {
        standin_free(s);
        return NULL;
    }
    return s;
}

const char *standin_url(const struct standin *s)
{
    return s->url;
}

void standin_free(struct standin *s)
{
    if (!s)
        return;
    if (s->http)
        evhttp_free(s->http); /* ends the calls through on_conn_closing() */
    BUG_ON(s->calls.len != 0);
    standin_script_clear(&s->script);
    standin_log_clear(&s->log);
    free(s);
}
