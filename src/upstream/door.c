/* door.c - see the header.
 *
 * Connections. While the most there may be are connected, nothing is accepted: more wait in the
 * socket's backlog, where they cost no descriptor, and the CLI's own call is served late rather
 * than not at all.
 *
 * Time and bytes. evhttp 2.1 has no hook for "a request begins" and keeps a body in the
 * bufferevent's input until it is complete, so a callback on that input counts what comes:
 *   READING  nothing, or a part of a request; has a deadline that dripping does not move
 *   BUSY     a request is being answered: as long as that takes while the door is open. What the
 *            peer sends ahead is left in the kernel but for a little
 *   REFUSED  sent too much: evhttp answers 413 as soon as it looks, because the connection's limit
 *            is 0 now; reading has stopped, and soon the connection is closed
 * The bytes of a request count until its answer is written: so long they are in memory. */
#include "upstream/door.h"

#include "core/clock.h"
#include "core/log.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/http.h>
#include <event2/http_struct.h>
#include <event2/listener.h>

#define DOOR_TAG      TAG4('d', 'o', 'o', 'r')
#define DOOR_CONN_TAG TAG4('d', 'c', 'o', 'n')

#define MAX_CONNS    16
#define MAX_BODY     ((size_t)40 << 20)
#define MAX_IDLE     ((size_t)1 << 20)   /* body while the door is not open: enough to be refused */
#define MAX_HELD     ((size_t)48 << 20)  /* one of the largest at a time, and room for small ones */
#define MAX_OVERHEAD ((size_t)256 << 10) /* a request's head, and its chunks' sizes */
#define MAX_AHEAD    ((size_t)64 << 10)
#define TIMEOUT_MS   30000
#define LINGER_MS    1000
#define SWEEP_MS     1000

enum conn_state { CONN_READING, CONN_BUSY, CONN_REFUSED, CONN_DEAD };

struct conn {
    uint32_t tag;
    struct node node;
    struct door *door;
    enum conn_state state;
    struct bufferevent *bev;
    struct evhttp_connection *evcon; /* NULL until it is known */
    int64_t since_ms;
    size_t held;
    bool begun; /* READING: a part of the request is there */
    door_gone_fn *gone;
    void *gone_ctx;
};

static struct conn *conn_from(struct node *node)
{
    return container_of(node, struct conn, node);
}

static size_t max_body(const struct door *d)
{
    return d->open ? MAX_BODY : MAX_IDLE;
}

static size_t input_len(const struct conn *c)
{
    return evbuffer_get_length(bufferevent_get_input(c->bev));
}

static void hold(struct conn *c, size_t bytes)
{
    c->door->held += bytes - c->held;
    c->held = bytes;
}

static void move(struct conn *c, enum conn_state state)
{
    c->state = state;
    c->since_ms = clock_mono_ms();
}

static void sweep_soon(struct door *d)
{
    if (!timer_pending(&d->sweep))
        timer_set(&d->sweep, d->timeout_ms < SWEEP_MS ? d->timeout_ms : SWEEP_MS);
}

/* --- one connection ------------------------------------------------------------------------ */

static void free_conn(void *ctx)
{
    struct conn *c = OBJ(ctx, struct conn, DOOR_CONN_TAG);
    c->tag = 0;
    free(c);
}

static void refuse(struct conn *c)
{
    log_info("relay refused a worker's request: too much at once", LF_I("bytes", c->held),
             LF_I("all", c->door->held));
    evhttp_connection_set_max_body_size(c->evcon, 0);
    bufferevent_setwatermark(c->bev, EV_READ, 0, 1);
    move(c, CONN_REFUSED);
}

static void on_close(struct evhttp_connection *evcon, void *ctx);

/* evhttp hands out its connection nowhere before the first request is complete; it is the argument
 * of the callbacks it has set. */
static void start(void *ctx)
{
    struct conn *c = OBJ(ctx, struct conn, DOOR_CONN_TAG);
    bufferevent_data_cb read_cb, write_cb;
    bufferevent_event_cb event_cb;
    void *evcon;
    if (c->evcon || c->state == CONN_DEAD)
        return;
    bufferevent_getcb(c->bev, &read_cb, &write_cb, &event_cb, &evcon);
    c->evcon = evcon;
    BUG_ON(!evcon || evhttp_connection_get_bufferevent(c->evcon) != c->bev);
    evhttp_connection_set_closecb(c->evcon, on_close, c);
    evhttp_connection_set_max_body_size(c->evcon, (ev_ssize_t)max_body(c->door));
}

/* Runs as bytes are read, before evhttp looks at them. */
static void on_input(struct evbuffer *in, const struct evbuffer_cb_info *info, void *ctx)
{
    struct conn *c = OBJ(ctx, struct conn, DOOR_CONN_TAG);
    (void)in;
    if (info->n_added == 0)
        return;
    start(c);
    hold(c, c->held + info->n_added);
    if (c->state != CONN_READING)
        return;
    if (!c->begun)
        move(c, CONN_READING); /* its time counts from here */
    c->begun = true;
    if (c->held > max_body(c->door) + MAX_OVERHEAD || c->door->held > MAX_HELD)
        refuse(c);
}

/* evhttp is about to free its connection, for whatever reason. */
static void on_close(struct evhttp_connection *evcon, void *ctx)
{
    struct conn *c = OBJ(ctx, struct conn, DOOR_CONN_TAG);
    struct door *d = c->door;
    door_gone_fn *gone = TAKE_PTR(c->gone);
    if (gone)
        gone(evcon, c->gone_ctx);
    evbuffer_remove_cb(bufferevent_get_input(c->bev), on_input, c);
    hold(c, 0);
    c->state = CONN_DEAD;
    list_remove(&d->conns, &c->node);
    if (d->listener)
        evconnlistener_enable(d->listener);
    loop_defer(d->loop, free_conn, c);
}

/* evhttp wants a bufferevent for a socket it has just accepted and will set next. */
static struct bufferevent *on_accept(struct event_base *base, void *ctx)
{
    struct door *d = OBJ(ctx, struct door, DOOR_TAG);
    struct conn *c = x_calloc(1, sizeof(*c));
    c->tag = DOOR_CONN_TAG;
    c->door = d;
    c->bev = bufferevent_socket_new(base, -1, 0);
    BUG_ON(!c->bev || !evbuffer_add_cb(bufferevent_get_input(c->bev), on_input, c));
    move(c, CONN_READING);
    list_push_back(&d->conns, &c->node);
    if (d->conns.len >= MAX_CONNS)
        evconnlistener_disable(d->listener);
    loop_defer(d->loop, start, c);
    sweep_soon(d);
    return c->bev;
}

/* The answer is written; evhttp goes on by itself with what was sent ahead. */
static void on_answered(struct evhttp_request *req, void *ctx)
{
    struct conn *c = OBJ(ctx, struct conn, DOOR_CONN_TAG);
    (void)req;
    if (c->state != CONN_BUSY)
        return;
    bufferevent_setwatermark(c->bev, EV_READ, 0, 0);
    hold(c, input_len(c));
    c->begun = c->held > 0;
    move(c, CONN_READING);
}

/* --- all of them --------------------------------------------------------------------------- */

static bool is_overdue(const struct conn *c)
{
    int64_t age_ms = clock_mono_ms() - c->since_ms;
    if (!c->evcon || (c->state == CONN_BUSY && c->door->open))
        return false;
    return age_ms >= (c->state == CONN_REFUSED ? LINGER_MS : c->door->timeout_ms);
}

static void sweep(void *ctx)
{
    struct door *d = OBJ(ctx, struct door, DOOR_TAG);
    LIST_EACH(&d->conns, n)
    {
        if (is_overdue(conn_from(n)))
            evhttp_connection_free(conn_from(n)->evcon);
    }
    if (d->conns.len)
        sweep_soon(d);
}

static struct conn *find(const struct door *d, const struct evhttp_connection *evcon)
{
    LIST_EACH(&d->conns, n)
    {
        if (conn_from(n)->evcon == evcon)
            return conn_from(n);
    }
    return NULL;
}

void door_request(struct door *d, struct evhttp_request *req)
{
    struct conn *c = find(d, evhttp_request_get_connection(req));
    BUG_ON(!c);
    if (c->state != CONN_READING)
        return;
    move(c, CONN_BUSY);
    bufferevent_setwatermark(c->bev, EV_READ, 0, MAX_AHEAD);
    evhttp_request_set_on_complete_cb(req, on_answered, c);
}

void door_watch(struct door *d, struct evhttp_connection *evcon, door_gone_fn *fn, void *ctx)
{
    struct conn *c = find(d, evcon);
    BUG_ON(!c || (fn && c->gone));
    c->gone = fn;
    c->gone_ctx = ctx;
}

void door_set_open(struct door *d, bool open)
{
    d->open = open;
    evhttp_set_max_body_size(d->http, (ev_ssize_t)max_body(d));
    LIST_EACH(&d->conns, n)
    {
        struct conn *c = conn_from(n);
        if (c->evcon && c->state != CONN_REFUSED)
            evhttp_connection_set_max_body_size(c->evcon, (ev_ssize_t)max_body(d));
        if (c->state == CONN_BUSY)
            move(c, CONN_BUSY); /* what is left to write has its time from here */
    }
}

void door_init(struct door *d, struct loop *loop, struct evhttp *http,
               struct evconnlistener *listener, int64_t timeout_ms)
{
    *d = (struct door){.tag = DOOR_TAG, .loop = loop, .http = http, .listener = listener};
    d->timeout_ms = timeout_ms ? timeout_ms : TIMEOUT_MS;
    list_init(&d->conns);
    timer_init(&d->sweep, loop, sweep, d);
    evhttp_set_bevcb(http, on_accept, d);
    door_set_open(d, false);
}

void door_close(struct door *d)
{
    d->listener = NULL;
    LIST_EACH(&d->conns, n)
    {
        start(conn_from(n)); /* so that its end is seen */
    }
}

void door_release(struct door *d)
{
    BUG_ON(d->conns.len || d->held);
    timer_release(&d->sweep);
}
