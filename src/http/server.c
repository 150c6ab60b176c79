/* server.c - the server object: life, draining, and the time-outs of all connections.
 *
 * Connections stand in one list per state, oldest first, and every state has one time-out, so one
 * timer that looks at the heads of the lists replaces a timer per connection:
 *   IDLE      idle_timeout     closed
 *   READING   read_timeout     408; counted from the request's first byte, so dripping does not
 * help SENDING   idle_timeout     closed; counted from the last byte the socket took CLOSING
 * conn_linger_ms   closed HANDLING has none: how long a request may take is its handler's business.
 */
#include "http/internal.h"

#include "core/clock.h"

#include <event2/listener.h>
#include <signal.h>

#define SWEEP_MS       250
#define SWEEP_SHORT_MS 50 /* while a client can only be seen to leave by asking the kernel */

static struct http_conn *conn_from(struct node *node)
{
    return container_of(node, struct http_conn, node);
}

/* The oldest connection of a state if it is older than ms. */
static struct http_conn *overdue(struct http_server *s, enum conn_state state, int64_t ms)
{
    struct node *node = list_first(&s->conns[state]);
    if (!node || clock_mono_ms() - conn_from(node)->since_ms < ms)
        return NULL;
    return conn_from(node);
}

static void close_overdue(struct http_server *s, enum conn_state state, int64_t ms)
{
    struct http_conn *c;
    while ((c = overdue(s, state, ms)))
        conn_close(c);
}

static void sweep_closing(struct http_server *s)
{
    int64_t now = clock_mono_ms();
    LIST_EACH(&s->conns[CONN_CLOSING], node)
    {
        struct http_conn *c = conn_from(node);
        if (now - c->since_ms >= conn_linger_ms(c))
            conn_close(c);
    }
}

static void sweep_paused(struct http_server *s)
{
    size_t left = s->paused;
    LIST_EACH(&s->conns[CONN_HANDLING], node)
    {
        struct http_conn *c = conn_from(node);
        if (left == 0)
            return;
        if (!c->paused)
            continue;
        left--;
        if (conn_peer_left(c)) {
            conn_close(c);
            return; /* its gone callback may have changed the list: the others next time */
        }
    }
}

static void arm_sweep(struct http_server *s, int64_t ms)
{
    s->sweep_at_ms = clock_mono_ms() + ms;
    timer_set(&s->sweep, ms);
}

void server_sweep_soon(struct http_server *s)
{
    if (clock_mono_ms() + SWEEP_SHORT_MS < s->sweep_at_ms) /* never later than planned */
        arm_sweep(s, SWEEP_SHORT_MS);
}

static void sweep(void *server)
{
    struct http_server *s = OBJ(server, struct http_server, HTTP_SERVER_TAG);
    int64_t idle_ms = (int64_t)s->opts.idle_timeout_s * 1000;
    struct http_conn *c;
    close_overdue(s, CONN_IDLE, idle_ms);
    close_overdue(s, CONN_SENDING, idle_ms);
    while ((c = overdue(s, CONN_READING, (int64_t)s->opts.read_timeout_s * 1000)))
        conn_refuse(c, GUARD_READ_TIMEOUT);
    sweep_closing(s);
    if (s->bound) /* paused when descriptors ran out */
        evconnlistener_enable(evhttp_bound_socket_get_listener(s->bound));
    arm_sweep(s, s->paused ? SWEEP_SHORT_MS : SWEEP_MS);
    sweep_paused(s);
}

void server_free_if_done(struct http_server *s)
{
    if (!s->closed || s->active)
        return;
    free(s->by_fd);
    free(s->listen);
    free(s->address);
    s->tag = 0;
    free(s);
}

static void set_up_evhttp(struct http_server *s)
{
    s->http = evhttp_new(loop_base(s->loop));
    BUG_ON(!s->http);
    /* The guard refuses first; these only have to be out of its way. */
    evhttp_set_max_headers_size(s->http, (ev_ssize_t)s->opts.max_header_bytes);
    evhttp_set_max_body_size(s->http, (ev_ssize_t)s->opts.max_body_bytes);
    evhttp_set_default_content_type(s->http, NULL);
    evhttp_set_allowed_methods(s->http, EVHTTP_REQ_GET | EVHTTP_REQ_HEAD | EVHTTP_REQ_POST |
                                            EVHTTP_REQ_PUT | EVHTTP_REQ_PATCH | EVHTTP_REQ_DELETE |
                                            EVHTTP_REQ_OPTIONS);
    evhttp_set_bevcb(s->http, conn_accept, s);
    evhttp_set_gencb(s->http, req_dispatch, s);
}

struct http_server *http_server_new(struct loop *loop, const struct http_opts *opts,
                                    struct err *err)
{
    struct http_server *s = x_calloc(1, sizeof(*s));
    signal(SIGPIPE, SIG_IGN); /* libevent writes with writev(2), which has no MSG_NOSIGNAL */
    s->tag = HTTP_SERVER_TAG;
    s->loop = loop;
    s->opts = *opts;
    s->opts.listen = s->listen = x_strdup(opts->listen);
    for (size_t i = 0; i < ARRAY_SIZE(s->conns); i++)
        list_init(&s->conns[i]);
    timer_init(&s->sweep, loop, sweep, s);
    set_up_evhttp(s);
    if (server_listen(s, err) != 0) {
        http_server_free(s);
        return NULL;
    }
    observe_register();
    arm_sweep(s, SWEEP_MS);
    return s;
}

const char *http_server_address(const struct http_server *s)
{
    return s->address;
}

void http_server_drain(struct http_server *s)
{
    struct node *node;
    s->draining = true;
    server_unlisten(s);
    while ((node = list_first(&s->conns[CONN_IDLE]))) {
        conn_start(conn_from(node)); /* in case it was accepted in this very turn */
        conn_close(conn_from(node));
    }
}

size_t http_server_active(const struct http_server *s)
{
    return s->active;
}

size_t http_server_connections(const struct http_server *s)
{
    size_t n = 0;
    for (size_t i = 0; i < ARRAY_SIZE(s->conns); i++)
        n += s->conns[i].len;
    return n;
}

void http_server_free(struct http_server *s)
{
    if (!s)
        return;
    s->draining = true;
    server_unlisten(s);
    for (size_t i = 0; i < ARRAY_SIZE(s->conns); i++) {
        struct node *node;
        while ((node = list_first(&s->conns[i]))) {
            conn_start(conn_from(node));
            conn_close(conn_from(node));
        }
    }
    evhttp_free(s->http);
    timer_release(&s->sweep);
    s->closed = true;
    server_free_if_done(s);
}
