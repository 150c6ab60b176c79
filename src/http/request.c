/* request.c - one request: from evhttp's callback to the router, reading it, and its end.
 *
 * Who still needs a request decides how long it lives. Its owner (the handler) is done when it has
 * replied or when its gone callback has run. The connection is done when the socket has taken the
 * reply or is lost. req_end() runs when both are; a lost connection whose owner did not ask to be
 * told leaves the request as an orphan (conn == NULL) until the owner answers into the void. A
 * recorded one goes on in the same way, detached, and its owner is told only if it is abandoned. */
#include "http/recorder.h"

#include "core/log.h"

#include <event2/http_struct.h>
#include <event2/keyvalq_struct.h>

/* --- the end --------------------------------------------------------------------------- */

static void release_data(struct http_req *req)
{
    void *data = TAKE_PTR(req->data);
    if (data && req->data_free)
        req->data_free(data);
}

static void req_free(struct http_req *req)
{
    for (size_t i = 0; i < req->param_count; i++)
        free(req->params[i].value);
    if (req->ev_owned)
        evhttp_request_free(req->ev);
    free(req->path);
    free(req->query);
    req->tag = 0;
    free(req);
}

static void req_end(struct http_req *req, bool aborted)
{
    struct http_server *s = req->server;
    observe_request(req, aborted);
    release_data(req);
    req_free(req);
    s->active--;
    server_free_if_done(s);
}

static void end_aborted(void *obj)
{
    req_end(OBJ(obj, struct http_req, HTTP_REQ_TAG), true);
}

void req_owner_done(struct http_req *req)
{
    BUG_ON(req->done);
    req->done = true;
    req->gone_fn = req->drain_fn = NULL;
    release_data(req);
}

static void run_gone(struct http_req *req)
{
    http_gone_fn *fn = req->gone_fn;
    void *ctx = req->gone_ctx;
    req->gone_fn = NULL;
    fn(ctx);
    req_owner_done(req);
}

void req_client_left(struct http_conn *c)
{
    struct http_req *req = TAKE_PTR(c->req);
    req->conn = NULL;
    req->bytes_out = c->bytes_out;
    /* evhttp has either let go of its request already or, if we close, would free it now. */
    evhttp_request_own(req->ev);
    req->ev_owned = true;
    observe_client_gone();
    req->detached = !req->done && req->record && record_detaches(req->record);
    if (req->record && !req->detached)
        record_end(req, false);
    if (!req->done && !req->detached && req->gone_fn)
        run_gone(req);
    if (req->done) /* next turn: evhttp still has it in a list */
        loop_defer(req->server->loop, end_aborted, req);
}

void req_drop_reply(struct http_req *req)
{
    req_owner_done(req);
    if (!req->gone_queued)
        loop_defer(req->server->loop, end_aborted, req);
}

static void late_gone(void *obj)
{
    struct http_req *req = OBJ(obj, struct http_req, HTTP_REQ_TAG);
    req->gone_queued = false;
    if (!req->done && req->gone_fn)
        run_gone(req);
    if (req->done)
        req_end(req, true);
}

void http_req_on_gone(struct http_req *req, http_gone_fn *fn, void *ctx)
{
    BUG_ON(req->done);
    req->gone_fn = fn;
    req->gone_ctx = ctx;
    if (!fn || req->conn || req->detached || req->gone_queued)
        return;
    req->gone_queued = true; /* it has already happened */
    loop_defer(req->server->loop, late_gone, req);
}

void req_abandon(struct http_req *req)
{
    BUG_ON(!req->detached || req->done);
    req->detached = false;
    if (!req->gone_fn)
        return; /* an orphan */
    run_gone(req);
    loop_defer(req->server->loop, end_aborted, req);
}

/* evhttp: the socket has taken the reply. evhttp frees its request afterwards. */
static void on_reply_sent(struct evhttp_request *ev, void *conn)
{
    struct http_conn *c = OBJ(conn, struct http_conn, HTTP_CONN_TAG);
    struct http_req *req = TAKE_PTR(c->req);
    BUG_ON(!req || req->ev != ev || !req->done);
    req->bytes_out = c->bytes_out;
    req_end(req, false);
    conn_reply_sent(c);
}

/* --- the beginning --------------------------------------------------------------------- */

/* Does any Connection header have the option "close"? evhttp looks for the whole first value. */
static bool wants_close(struct evhttp_request *ev)
{
    struct evkeyvalq *headers = evhttp_request_get_input_headers(ev);
    for (struct evkeyval *kv = headers->tqh_first; kv; kv = kv->next.tqe_next) {
        if (!str_ieq_c(str_c(kv->key), "connection"))
            continue;
        for (struct str rest = str_c(kv->value); rest.len;) {
            if (str_ieq_c(str_trim(str_split(&rest, ',')), "close"))
                return true;
        }
    }
    return false;
}

static struct http_req *req_new(struct http_conn *c, struct evhttp_request *ev)
{
    struct http_req *req = x_calloc(1, sizeof(*req));
    const char *target = evhttp_request_get_uri(ev);
    req->tag = HTTP_REQ_TAG;
    req->server = c->server;
    req->conn = c;
    req->ev = ev;
    req->start_us = c->first_byte_us;
    id_request(req->id);
    BUG_ON(c->guard.method_len >= sizeof(req->method));
    memcpy(req->method, c->guard.method, c->guard.method_len);
    req->head = strcmp(req->method, "HEAD") == 0;
    req->http10 = c->guard.minor == 0;
    req->wants_close = wants_close(ev);
    req->path = target_path(target);
    req->query = target_query(target);
    req->dialect = router_dialect(&c->server->opts, &c->guard);
    memcpy(req->peer, c->peer, sizeof(req->peer));
    return req;
}

/* The guard and evhttp have read the same request to the same end? */
static bool agreed(struct http_conn *c, struct evhttp_request *ev)
{
    size_t used;
    return guard_feed(&c->guard, "", 0, &used) == GUARD_DONE &&
           evbuffer_get_length(evhttp_request_get_input_buffer(ev)) == c->guard.body_len;
}

static void route_request(struct http_server *s, struct http_req *req)
{
    struct buf allow AUTO(buf_release);
    buf_init(&allow, 1024);
    router_find(&s->opts, req, &allow);
    if (!req->route)
        router_reply_unmatched(req, &allow);
    else if (req->route->scope == SCOPE_PUBLIC || !s->opts.authorise)
        http_req_proceed(req);
    else
        s->opts.authorise(req, req->route->scope, s->opts.ctx);
}

void req_dispatch(struct evhttp_request *ev, void *server)
{
    struct http_server *s = OBJ(server, struct http_server, HTTP_SERVER_TAG);
    struct http_conn *c = conn_of(s, ev);
    if (c->state != CONN_READING)
        return; /* already refused */
    if (!agreed(c, ev)) {
        log_error("request parsers disagree", LF_S("peer", c->peer));
        conn_refuse(c, GUARD_DISAGREEMENT);
        return;
    }
    evhttp_request_set_on_complete_cb(ev, on_reply_sent, c);
    c->req = req_new(c, ev);
    conn_move(c, CONN_HANDLING);
    s->active++;
    route_request(s, c->req);
    if (c->state == CONN_HANDLING) /* c itself is freed next turn at the earliest */
        conn_watch(c);
}

void http_req_proceed(struct http_req *req)
{
    if (req->conn)
        req->route->handler(req, req->server->opts.ctx);
    else
        req_drop_reply(req); /* nobody waits for it any more */
}

/* --- reading --------------------------------------------------------------------------- */

const char *http_req_id(const struct http_req *req)
{
    return req->id;
}

const char *http_req_method(const struct http_req *req)
{
    return req->method;
}

const char *http_req_path(const struct http_req *req)
{
    return req->path;
}

const char *http_req_route(const struct http_req *req)
{
    return req->route ? req->route->path : "unmatched";
}

const char *http_req_peer(const struct http_req *req)
{
    return req->peer;
}

bool http_req_is_paid(const struct http_req *req)
{
    return req->route && req->route->paid;
}

enum http_dialect http_req_dialect(const struct http_req *req)
{
    return req->dialect;
}

const char *http_req_header(const struct http_req *req, const char *name)
{
    const char *value = evhttp_find_header(evhttp_request_get_input_headers(req->ev), name);
    return value ? value + strspn(value, " \t") : NULL;
}

bool http_req_header_all(const struct http_req *req, const char *name, struct buf *out)
{
    struct evkeyvalq *headers = evhttp_request_get_input_headers(req->ev);
    bool found = false;
    for (struct evkeyval *kv = headers->tqh_first; kv; kv = kv->next.tqe_next) {
        if (!str_ieq_c(str_c(kv->key), name))
            continue;
        buf_adds(out, found ? ", " : "");
        buf_addstr(out, str_trim(str_c(kv->value)));
        found = true;
    }
    return found && buf_ok(out);
}

const char *http_req_target(const struct http_req *req)
{
    return evhttp_request_get_uri(req->ev);
}

const char *http_req_param(const struct http_req *req, const char *name)
{
    for (size_t i = 0; i < req->param_count; i++) {
        if (str_eq_c(req->params[i].name, name))
            return req->params[i].value;
    }
    return NULL;
}

const char *http_req_query(const struct http_req *req, const char *name)
{
    return query_find(req->query, name);
}

struct str http_req_body(struct http_req *req)
{
    struct evbuffer *in = evhttp_request_get_input_buffer(req->ev);
    size_t len = evbuffer_get_length(in);
    if (len == 0)
        return str_n("", 0);
    const void *p = evbuffer_pullup(in, -1);
    BUG_ON(!p);
    return str_n(p, len);
}

void http_req_drop_body(struct http_req *req)
{
    struct evbuffer *in = evhttp_request_get_input_buffer(req->ev);
    evbuffer_drain(in, evbuffer_get_length(in));
}

int64_t http_req_start_us(const struct http_req *req)
{
    return req->start_us;
}

void http_req_set_data(struct http_req *req, void *data, void (*free_fn)(void *))
{
    release_data(req);
    req->data = data;
    req->data_free = free_fn;
}

void *http_req_data(const struct http_req *req)
{
    return req->data;
}

void http_req_set_logged(struct http_req *req)
{
    req->logged = true;
}

void http_req_set_key_id(struct http_req *req, const char *public_id)
{
    snprintf(req->key_id, sizeof(req->key_id), "%s", public_id);
}
