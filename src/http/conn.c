/* conn.c - one client connection: what the guard may see and evhttp may parse, and when.
 *
 * evhttp 2.1 has no hook for "a new request begins", so the guard follows the byte stream itself.
 * A callback on the bufferevent's input sees bytes the moment they are read, before evhttp's own
 * read callback runs:
 *   IDLE, READING      the bytes belong to the request being read: scanned at once
 *   HANDLING, SENDING  pipelined: they stay in the input, unscanned and unparsed (evhttp has no
 *                      read callback then), and are scanned when the reply has been sent
 *   CLOSING            thrown away
 * On a refusal the input is emptied before evhttp sees it, so nothing of that request is parsed.
 *
 * While a request is handled reading stays enabled: end of file and resets are how a client that
 * left is noticed (evhttp then frees the connection and on_close() runs). A client that sends more
 * than AHEAD_MAX bytes ahead is not read any further; for it the kernel is asked for the state of
 * the socket by the server's sweep. */
#include "http/internal.h"

#include "core/clock.h"

#include <event2/http_struct.h>
#include <poll.h>
#include <sys/socket.h>

#define AHEAD_MAX      ((size_t)64 << 10)
#define FLUSH_MAX      ((size_t)64 << 10)
#define SINGLE_MAX     ((size_t)64 << 10) /* per system call and turn of the loop */
#define LINGER_MS      1000
#define LINGER_BODY_MS 5000 /* a client that sends a large body reads only afterwards */
#define LINGER_MAX     ((size_t)64 << 10)

void conn_move(struct http_conn *c, enum conn_state state)
{
    struct http_server *s = c->server;
    if (c->state < CONN_STATES)
        list_remove(&s->conns[c->state], &c->node);
    c->state = state;
    if (state < CONN_STATES) {
        c->since_ms = clock_mono_ms();
        list_push_back(&s->conns[state], &c->node);
    }
}

void conn_close(void *conn)
{
    struct http_conn *c = OBJ(conn, struct http_conn, HTTP_CONN_TAG);
    if (c->state != CONN_DEAD)
        evhttp_connection_free(c->evcon);
}

void conn_close_later(struct http_conn *c)
{
    if (!c->close_queued)
        loop_defer(c->server->loop, conn_close, c);
    c->close_queued = true;
}

static size_t input_len(const struct http_conn *c)
{
    return evbuffer_get_length(bufferevent_get_input(c->bev));
}

static void drop_input(struct http_conn *c)
{
    evbuffer_drain(bufferevent_get_input(c->bev), input_len(c));
}

/* --- reading --------------------------------------------------------------------------- */

/* Shows the last n bytes of the input to the guard. To find them means to walk through the whole
 * input, which holds the body until it is complete, in pieces of 4 KiB: so not for each of them. */
static void scan(struct http_conn *c, size_t n)
{
    struct evbuffer *in = bufferevent_get_input(c->bev);
    struct evbuffer_ptr at;
    enum guard_result result = GUARD_MORE;
    if (guard_skip_body(&c->guard, n))
        return;
    BUG_ON(evbuffer_ptr_set(in, &at, evbuffer_get_length(in) - n, EVBUFFER_PTR_SET) != 0);
    while (n > 0 && result == GUARD_MORE) {
        struct evbuffer_iovec v;
        BUG_ON(evbuffer_peek(in, (ev_ssize_t)n, &at, &v, 1) < 1);
        size_t len = v.iov_len < n ? v.iov_len : n, used;
        result = guard_feed(&c->guard, v.iov_base, len, &used);
        n -= len;
        if (n > 0)
            BUG_ON(evbuffer_ptr_set(in, &at, len, EVBUFFER_PTR_ADD) != 0);
    }
    if (result == GUARD_REFUSED)
        conn_refuse(c, c->guard.reason);
}

static void begin_request(struct http_conn *c)
{
    c->first_byte_us = clock_mono_us();
    c->bytes_out = 0;
    conn_move(c, CONN_READING);
}

static void set_paused(struct http_conn *c, bool paused)
{
    if (c->paused == paused)
        return;
    c->paused = paused;
    c->server->paused += paused ? 1 : (size_t)-1;
    bufferevent_setwatermark(c->bev, EV_READ, 0, paused ? AHEAD_MAX : 0);
    if (paused)
        server_sweep_soon(c->server);
}

static size_t linger_max(const struct http_conn *c)
{
    uint64_t body = c->server->opts.max_body_bytes;
    return c->refusal == GUARD_BODY_TOO_LARGE && body * 4 > LINGER_MAX ? body * 4 : LINGER_MAX;
}

static void discard(struct http_conn *c, size_t n)
{
    drop_input(c);
    c->drained += n;
    if (c->drained > linger_max(c) && !evbuffer_get_length(bufferevent_get_output(c->bev)))
        conn_close_later(c);
}

static void on_input(struct evbuffer *in, const struct evbuffer_cb_info *info, void *conn)
{
    struct http_conn *c = OBJ(conn, struct http_conn, HTTP_CONN_TAG);
    if (info->n_added == 0)
        return;
    conn_start(c); /* if its turn has not come yet */
    switch (c->state) {
    case CONN_IDLE:
        begin_request(c);
        scan(c, info->n_added);
        break;
    case CONN_READING:
        scan(c, info->n_added);
        break;
    case CONN_HANDLING:
    case CONN_SENDING:
        if (evbuffer_get_length(in) >= AHEAD_MAX)
            set_paused(c, true);
        break;
    case CONN_CLOSING:
        discard(c, info->n_added);
        break;
    case CONN_DEAD:
        break;
    }
}

void conn_watch(struct http_conn *c)
{
    bufferevent_data_cb read_cb, write_cb;
    bufferevent_event_cb event_cb;
    void *arg;
    bufferevent_getcb(c->bev, &read_cb, &write_cb, &event_cb, &arg);
    /* As evhttp itself does while it writes: no read callback, only end of file matters. */
    bufferevent_setcb(c->bev, NULL, write_cb, event_cb, arg);
    bufferevent_enable(c->bev, EV_READ);
    if (input_len(c) >= AHEAD_MAX)
        set_paused(c, true);
}

bool conn_peer_left(const struct http_conn *c)
{
    struct pollfd p = {.fd = c->fd, .events = POLLRDHUP};
    return poll(&p, 1, 0) > 0;
}

void conn_reply_sent(struct http_conn *c)
{
    guard_reset(&c->guard);
    set_paused(c, false);
    size_t ahead = input_len(c);
    if (c->server->draining) {
        conn_move(c, CONN_IDLE);
        conn_close_later(c);
    } else if (ahead == 0) {
        conn_move(c, CONN_IDLE);
    } else { /* evhttp goes on by itself with what is there */
        begin_request(c);
        scan(c, ahead);
    }
}

/* --- writing --------------------------------------------------------------------------- */

static void run_drain(void *conn)
{
    struct http_conn *c = OBJ(conn, struct http_conn, HTTP_CONN_TAG);
    struct http_req *req = c->req;
    if (c->state != CONN_HANDLING || !req || !req->drain_due)
        return;
    req->drain_due = false;
    if (req->drain_fn)
        req->drain_fn(req->drain_ctx);
}

static void on_output(struct evbuffer *out, const struct evbuffer_cb_info *info, void *conn)
{
    struct http_conn *c = OBJ(conn, struct http_conn, HTTP_CONN_TAG);
    struct http_req *req = c->req;
    if (info->n_deleted == 0)
        return;
    c->bytes_out += info->n_deleted;
    if (c->state == CONN_SENDING)
        conn_move(c, CONN_SENDING); /* progress: the time-out starts anew */
    if (!req || !req->drain_above || evbuffer_get_length(out) > req->drain_low)
        return;
    req->drain_above = false;
    if (!req->drain_due)
        loop_defer(c->server->loop, run_drain, c);
    req->drain_due = true;
}

/* A finished reply usually fits into the socket's buffer at once: that saves a turn of the loop and
 * a change to epoll, about a tenth of the cost of a small request. What does not fit goes the usual
 * way. Ends the request, perhaps the connection, when all is written. */
void conn_flush(struct http_conn *c)
{
    struct evbuffer *out = bufferevent_get_output(c->bev);
    if (evbuffer_get_length(out) > FLUSH_MAX)
        return;
    evbuffer_unfreeze(out, 1); /* a bufferevent lets only itself take from its output */
    evbuffer_write(out, c->fd);
    evbuffer_freeze(out, 1);
    if (evbuffer_get_length(out) == 0)
        bufferevent_trigger(c->bev, EV_WRITE, 0);
}

/* --- refusing -------------------------------------------------------------------------- */

static void on_refusal_written(struct bufferevent *bev, void *conn)
{
    struct http_conn *c = OBJ(conn, struct http_conn, HTTP_CONN_TAG);
    if (evbuffer_get_length(bufferevent_get_output(bev)) == 0)
        shutdown(c->fd, SHUT_WR);
}

static void on_closing_event(struct bufferevent *bev, short what, void *conn)
{
    (void)bev;
    (void)what;
    conn_close(conn);
}

static void refusal_error(const struct guard_reason_info *info, struct err *err)
{
    enum err_code code = ERR_INVALID;
    if (info->status == 413)
        code = ERR_TOO_LARGE;
    else if (info->status == 408)
        code = ERR_TIMEOUT;
    else if (info->status == 503)
        code = ERR_OVERLOADED;
    err_set(err, code, "%s", info->text);
    err->status = info->status;
}

/* Those that not every refusal has. */
static void refusal_headers(const struct http_conn *c, enum http_dialect dialect,
                            const struct err *err, struct evbuffer *out)
{
    const char *advice = reply_advice(dialect, err);
    if (advice)
        evbuffer_add_printf(out, "x-should-retry: %s\r\n", advice);
    if (dialect == DIALECT_OPENAI)
        evbuffer_add_printf(out,
                            "openai-version: " HTTP_OPENAI "\r\nopenai-processing-ms: %lld\r\n",
                            (long long)((clock_mono_us() - c->first_byte_us) / 1000));
    if (err->status == 503)
        evbuffer_add_printf(out, "Retry-After: 1\r\n");
    if (c->server->opts.hsts)
        evbuffer_add_printf(out, "Strict-Transport-Security: " HTTP_HSTS "\r\n");
}

static void write_refusal(struct http_conn *c)
{
    enum http_dialect dialect = router_dialect(&c->server->opts, &c->guard);
    const char *request_id = c->refusal_id;
    const struct guard_reason_info *info = guard_reason_info(c->refusal);
    struct evbuffer *out = bufferevent_get_output(c->bev);
    char date[64];
    struct err err;
    struct buf body AUTO(buf_release);
    buf_init(&body, 4096);
    evutil_date_rfc1123(date, sizeof(date), NULL);
    refusal_error(info, &err);
    http_error_body(dialect, request_id, &err, &body);
    evbuffer_add_printf(out,
                        "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: application/json\r\n"
                        "Content-Length: %zu\r\nConnection: close\r\nrequest-id: %s\r\n"
                        "x-request-id: %s\r\nX-Content-Type-Options: nosniff\r\n"
                        "Cache-Control: no-store\r\n",
                        info->status, reply_phrase(info->status), date, body.len, request_id,
                        request_id);
    refusal_headers(c, dialect, &err, out);
    evbuffer_add_printf(out, "\r\n");
    evbuffer_add(out, body.data, body.len);
}

static void send_refusal(void *conn)
{
    struct http_conn *c = OBJ(conn, struct http_conn, HTTP_CONN_TAG);
    if (c->state != CONN_CLOSING)
        return;
    bufferevent_setcb(c->bev, NULL, on_refusal_written, on_closing_event, c);
    write_refusal(c);
    bufferevent_enable(c->bev, EV_READ | EV_WRITE);
}

int64_t conn_linger_ms(const struct http_conn *c)
{
    return c->refusal == GUARD_BODY_TOO_LARGE ? LINGER_BODY_MS : LINGER_MS;
}

/* The answer is written next turn: this may be called from inside evhttp, which goes on to set its
 * own callbacks before it returns. */
void conn_refuse(struct http_conn *c, enum guard_reason reason)
{
    c->refusal = reason;
    id_request(c->refusal_id);
    observe_refusal(c);
    conn_move(c, CONN_CLOSING);
    drop_input(c);
    loop_defer(c->server->loop, send_refusal, c);
}

/* --- beginning and end ----------------------------------------------------------------- */

static void conn_free(void *conn)
{
    struct http_conn *c = OBJ(conn, struct http_conn, HTTP_CONN_TAG);
    c->tag = 0;
    free(c);
}

/* evhttp is about to free its connection, for whatever reason. */
static void on_close(struct evhttp_connection *evcon, void *conn)
{
    struct http_conn *c = OBJ(conn, struct http_conn, HTTP_CONN_TAG);
    (void)evcon;
    set_paused(c, false);
    evbuffer_remove_cb(bufferevent_get_input(c->bev), on_input, c);
    evbuffer_remove_cb(bufferevent_get_output(c->bev), on_output, c);
    c->server->by_fd[c->fd] = NULL;
    conn_move(c, CONN_DEAD);
    observe_connections(c->server);
    if (c->req)
        req_client_left(c);
    loop_defer(c->server->loop, conn_free, c);
}

static void file_by_fd(struct http_conn *c)
{
    struct http_server *s = c->server;
    size_t fd = (size_t)c->fd;
    if (fd >= s->by_fd_size) {
        size_t size = fd * 2 + 64; /* bounded by RLIMIT_NOFILE */
        s->by_fd = x_realloc(s->by_fd, size * sizeof(struct http_conn *));
        memset(s->by_fd + s->by_fd_size, 0, (size - s->by_fd_size) * sizeof(struct http_conn *));
        s->by_fd_size = size;
    }
    BUG_ON(s->by_fd[fd]);
    s->by_fd[fd] = c;
}

static void set_peer(struct http_conn *c)
{
    char *address;
    ev_uint16_t port;
    if (c->server->is_unix) {
        snprintf(c->peer, sizeof(c->peer), "unix");
        return;
    }
    evhttp_connection_get_peer(c->evcon, &address, &port);
    if (strncmp(address, "::ffff:", 7) == 0 && strchr(address, '.'))
        address += 7; /* an IPv4 client of a dual-stack socket */
    snprintf(c->peer, sizeof(c->peer), "%s", address);
}

static void check_limit(struct http_conn *c)
{
    size_t max = (size_t)c->server->opts.max_connections;
    size_t now = http_server_connections(c->server);
    if (now > max + max / 4 + 16)
        conn_close_later(c); /* even saying so has become too much */
    else if (now > max)
        conn_refuse(c, GUARD_CONNECTIONS);
}

void conn_start(void *conn)
{
    struct http_conn *c = OBJ(conn, struct http_conn, HTTP_CONN_TAG);
    bufferevent_data_cb read_cb, write_cb;
    bufferevent_event_cb event_cb;
    void *evcon;
    if (c->started)
        return;
    c->started = true;
    /* evhttp hands out its connection nowhere before the first request is complete; it is the
     * argument of the callbacks it has set. */
    bufferevent_getcb(c->bev, &read_cb, &write_cb, &event_cb, &evcon);
    c->evcon = evcon;
    BUG_ON(!evcon || evhttp_connection_get_bufferevent(c->evcon) != c->bev);
    c->fd = bufferevent_getfd(c->bev);
    file_by_fd(c);
    set_peer(c);
    evhttp_connection_set_closecb(c->evcon, on_close, c);
    observe_connections(c->server);
    check_limit(c);
}

/* evhttp wants a bufferevent for a socket it has just accepted and will set next. */
struct bufferevent *conn_accept(struct event_base *base, void *server)
{
    struct http_server *s = OBJ(server, struct http_server, HTTP_SERVER_TAG);
    struct http_conn *c = x_calloc(1, sizeof(*c));
    *c = (struct http_conn){.tag = HTTP_CONN_TAG, .server = s, .state = CONN_DEAD, .fd = -1};
    c->bev = bufferevent_socket_new(base, -1, 0);
    BUG_ON(!c->bev);
    bufferevent_set_max_single_read(c->bev, SINGLE_MAX);
    bufferevent_set_max_single_write(c->bev, SINGLE_MAX);
    evbuffer_add_cb(bufferevent_get_input(c->bev), on_input, c);
    evbuffer_add_cb(bufferevent_get_output(c->bev), on_output, c);
    guard_init(&c->guard, s->opts.max_header_bytes, s->opts.max_body_bytes);
    conn_move(c, CONN_IDLE);
    loop_defer(s->loop, conn_start, c);
    return c->bev;
}

struct http_conn *conn_of(struct http_server *s, struct evhttp_request *ev)
{
    struct evhttp_connection *evcon = evhttp_request_get_connection(ev);
    int fd = bufferevent_getfd(evhttp_connection_get_bufferevent(evcon));
    BUG_ON(fd < 0 || (size_t)fd >= s->by_fd_size);
    return OBJ(s->by_fd[fd], struct http_conn, HTTP_CONN_TAG);
}
