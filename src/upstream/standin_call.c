/* standin_call.c - the life of one request to the stand-in, and its answer.
 *
 * call_end() is the one way out and writes the log entry and the statistics. Three things may end
 * a call from outside:
 *   - our own event on the socket: evhttp does not read while a reply is pending, so this is how
 *     a client that leaves during a delay is noticed (a half-close counts as leaving);
 *   - evhttp's close callback, when it sees an error first or the server is freed;
 *   - evhttp's completion callback: all bytes are in the socket.
 * After call_end() none of them is armed any more; the memory goes on the loop's next turn.
 *
 * A streamed answer is made event by event in call_pump(), which stops when the connection's
 * output buffer is full enough and goes on from a timer. */
#include "upstream/standin_call.h"

#include "core/clock.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/http.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#define CALL_TAG TAG4('s', 't', 'c', 'l')

#define MAX_OUT_BYTES   ((size_t)512 << 20) /* one event or message, escaped: never reached */
#define BATCH_BYTES     ((size_t)64 << 10)  /* events written at once */
#define BACKLOG_BYTES   ((size_t)256 << 10) /* no more events while so much is unsent */
#define BACKLOG_POLL_MS 2 /* asking is simpler than evhttp's callback, which headers have not */
#define CUT_GRACE_MS    20
#define FLUSH_POLLS     2000 /* times 1 ms: how long a cut waits for a client that does not read */

enum call_outcome { CALL_DONE, CALL_ABORTED, CALL_CUT };

/* --- a call's life ------------------------------------------------------------------------ */

static void call_free(void *obj)
{
    struct standin_call *c = OBJ(obj, struct standin_call, CALL_TAG);
    timer_release(&c->timer);
    if (c->closed_ev)
        event_free(c->closed_ev);
    standin_reply_release(&c->reply);
    standin_step_release(&c->step);
    standin_request_release(&c->request);
    free(c);
}

static size_t call_backlog(const struct standin_call *c)
{
    return evbuffer_get_length(bufferevent_get_output(evhttp_connection_get_bufferevent(c->conn)));
}

static void call_count(struct standin_call *c, enum call_outcome outcome)
{
    struct standin *s = c->s;
    const struct standin_usage *told = &c->reply.told;
    if (!c->counted || !c->api)
        return;
    s->requests++;
    s->messages += c->message;
    s->aborted += outcome == CALL_ABORTED;
    s->told.input += told->input;
    s->told.output += told->output;
    s->told.cache_creation += told->cache_creation;
    s->told.cache_read += told->cache_read;
}

static void call_record(struct standin_call *c, enum call_outcome outcome)
{
    struct standin_entry *e = c->entry;
    size_t unsent = outcome == CALL_DONE ? 0 : call_backlog(c);
    if (!e)
        return;
    e->ended_at_ms = clock_wall_ms();
    e->aborted = outcome == CALL_ABORTED;
    e->cut = outcome == CALL_CUT;
    e->bytes_sent = c->bytes > unsent ? c->bytes - unsent : 0;
    e->told = c->reply.told;
    e->owner = NULL;
}

static void call_end(struct standin_call *c, enum call_outcome outcome)
{
    BUG_ON(c->ended);
    c->ended = true;
    call_count(c, outcome);
    call_record(c, outcome);
    timer_stop(&c->timer);
    event_del(c->closed_ev);
    evhttp_connection_set_closecb(c->conn, NULL, NULL);
    evhttp_request_set_on_complete_cb(c->req, NULL, NULL);
    list_remove(&c->s->calls, &c->node);
    loop_defer(c->s->loop, call_free, c);
}

static void on_complete(struct evhttp_request *req, void *ctx)
{
    (void)req;
    call_end(OBJ(ctx, struct standin_call, CALL_TAG), CALL_DONE);
}

/* evhttp frees the connection. It takes the request along, unless it has let go of it before. */
static void on_conn_closing(struct evhttp_connection *conn, void *ctx)
{
    struct standin_call *c = OBJ(ctx, struct standin_call, CALL_TAG);
    (void)conn;
    call_end(c, CALL_ABORTED);
    if (!evhttp_request_get_connection(c->req))
        evhttp_request_free(c->req);
}

static void call_gone(struct standin_call *c)
{
    call_end(c, CALL_ABORTED);
    evhttp_connection_free(c->conn);
}

/* libevent reports a reset connection (EPOLLERR) as readable, not as EV_CLOSED, so both are
 * watched. Readable may also mean that the client sent its next request already: that is left
 * alone, and from then on only EV_CLOSED is watched. */
static void on_socket(evutil_socket_t fd, short what, void *ctx)
{
    struct standin_call *c = OBJ(ctx, struct standin_call, CALL_TAG);
    char byte;
    if (what & EV_CLOSED) {
        call_gone(c);
        return;
    }
    ssize_t n = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        call_gone(c);
        return;
    }
    if (n > 0)
        event_assign(c->closed_ev, loop_base(c->s->loop), fd, EV_CLOSED, on_socket, c);
    BUG_ON(event_add(c->closed_ev, NULL) != 0);
}

static evutil_socket_t call_fd(const struct standin_call *c)
{
    return bufferevent_getfd(evhttp_connection_get_bufferevent(c->conn));
}

/* Connecting a TCP socket to "nowhere" sends a reset at once; a plain close would send the
 * orderly end of the stream. */
static void call_cut(struct standin_call *c)
{
    struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
    bool reset = !str_eq_c(c->step.cut_with, "close");
    evutil_socket_t fd = call_fd(c);
    call_end(c, CALL_CUT);
    if (reset)
        (void)!connect(fd, &nowhere, sizeof(nowhere));
    evhttp_connection_free(c->conn);
}

/* --- sending ------------------------------------------------------------------------------ */

static void set_header(struct standin_call *c, const char *name, const char *value)
{
    struct evkeyvalq *headers = evhttp_request_get_output_headers(c->req);
    evhttp_remove_header(headers, name);
    evhttp_add_header(headers, name, value);
}

static void call_headers(struct standin_call *c, int status, const char *content_type)
{
    const char *name;
    json_t *value;
    c->started = true;
    if (c->entry)
        c->entry->status = status;
    set_header(c, "request-id", c->request_id);
    set_header(c, "content-type", content_type);
    json_object_foreach(c->step.headers, name, value) set_header(c, name, json_string_value(value));
}

static const char *reason_of(int status)
{
    return status == 529 ? "Overloaded" : NULL; /* NULL: evhttp's own table */
}

void standin_call_send_take(struct standin_call *c, int status, const char *content_type,
                            struct evbuffer *body)
{
    call_headers(c, status, content_type);
    c->bytes += evbuffer_get_length(body);
    evhttp_send_reply(c->req, status, reason_of(status), body);
    evbuffer_free(body);
}

void standin_call_send(struct standin_call *c, int status, const char *content_type,
                       struct str body)
{
    struct evbuffer *out = evbuffer_new();
    BUG_ON(!out || evbuffer_add(out, body.p, body.len) != 0);
    standin_call_send_take(c, status, content_type, out);
}

void standin_call_send_buf(struct standin_call *c, int status, const struct buf *body)
{
    BUG_ON(!buf_ok(body));
    standin_call_send(c, status, "application/json", buf_str(body));
}

static void call_send_error(struct standin_call *c, int status, struct str type, struct str message)
{
    AUTO(buf_release) struct buf body = {0};
    buf_init(&body, MAX_OUT_BYTES);
    buf_adds(&body, "{\"type\":\"error\",\"error\":{\"type\":");
    buf_json_str(&body, type);
    buf_adds(&body, ",\"message\":");
    buf_json_str(&body, message);
    buf_printf(&body, "},\"request_id\":\"%s\"}", c->request_id);
    standin_call_send_buf(c, status, &body);
}

static const char *type_of_status(int64_t status)
{
    static const struct {
        int status;
        const char *type;
    } rows[] = {{401, "authentication_error"}, {402, "billing_error"},  {403, "permission_error"},
                {404, "not_found_error"},      {409, "conflict_error"}, {413, "request_too_large"},
                {429, "rate_limit_error"},     {504, "timeout_error"},  {529, "overloaded_error"}};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        if (rows[i].status == status)
            return rows[i].type;
    }
    return status < 500 ? "invalid_request_error" : "api_error";
}

static int status_of_type(struct str type)
{
    static const int statuses[] = {400, 401, 402, 403, 404, 409, 413, 429, 504, 529};
    for (size_t i = 0; i < ARRAY_SIZE(statuses); i++) {
        if (str_eq_c(type, type_of_status(statuses[i])))
            return statuses[i];
    }
    return 500;
}

void standin_call_fail(struct standin_call *c, int status, const char *message)
{
    call_send_error(c, status, str_c(type_of_status(status)), str_c(message));
}

/* --- answering a message ------------------------------------------------------------------ */

static void call_start_stream(struct standin_call *c)
{
    call_headers(c, 200, "text/event-stream; charset=utf-8");
    set_header(c, "cache-control", "no-cache");
    evhttp_send_reply_start(c->req, 200, NULL);
}

static void call_write(struct standin_call *c, struct str data)
{
    struct evbuffer *out = evbuffer_new();
    BUG_ON(!out || evbuffer_add(out, data.p, data.len) != 0);
    c->bytes += data.len;
    evhttp_send_reply_chunk(c->req, out);
    evbuffer_free(out);
}

static bool reached(bool has, int64_t limit, size_t events)
{
    return has && (int64_t)events >= limit;
}

/* Makes events until there is a reason to pause. Returns the milliseconds to wait, or -1 when
 * the stream stands (stalled, to be cut, or at its end). */
static int64_t call_fill(struct standin_call *c, struct buf *out, bool *ret_end)
{
    while (out->len < BATCH_BYTES) {
        if (reached(c->step.has_cut, c->step.cut_after, c->reply.events)) {
            c->cutting = true;
            return 0;
        }
        if (reached(c->step.has_stall, c->step.stall_after, c->reply.events))
            return -1;
        if (!standin_reply_next(&c->reply, out)) {
            *ret_end = true;
            return -1;
        }
        if (c->reply.was_delta && c->word_delay_ms > 0)
            return c->word_delay_ms;
    }
    return 0;
}

static void call_pump(struct standin_call *c)
{
    AUTO(buf_release) struct buf out = {0};
    bool end = false;
    if (call_backlog(c) > BACKLOG_BYTES) {
        timer_set(&c->timer, BACKLOG_POLL_MS);
        return;
    }
    buf_init(&out, MAX_OUT_BYTES);
    int64_t wait_ms = call_fill(c, &out, &end);
    call_write(c, buf_str(&out));
    if (c->entry)
        c->entry->told = c->reply.told;
    if (end)
        evhttp_send_reply_end(c->req);
    else if (wait_ms >= 0)
        timer_set(&c->timer, wait_ms);
}

/* The first half of a body whose full length was announced. */
static void call_send_half(struct standin_call *c, struct str body)
{
    char length[32];
    call_headers(c, 200, "application/json");
    snprintf(length, sizeof(length), "%zu", body.len);
    set_header(c, "content-length", length);
    evhttp_send_reply_start(c->req, 200, NULL);
    call_write(c, str_n(body.p, body.len / 2));
    if (c->step.has_cut) {
        c->cutting = true;
        timer_set(&c->timer, 0);
    }
}

static void call_send_message(struct standin_call *c)
{
    AUTO(buf_release) struct buf body = {0};
    const json_t *error = c->step.sse_error;
    if (error) {
        struct str type = json_get_str(error, "type");
        call_send_error(c, status_of_type(type), type, json_get_str(error, "message"));
        return;
    }
    buf_init(&body, MAX_OUT_BYTES);
    standin_reply_message(&c->reply, &body);
    BUG_ON(!buf_ok(&body));
    if (c->step.has_cut || c->step.has_stall)
        call_send_half(c, buf_str(&body));
    else
        standin_call_send_buf(c, 200, &body);
}

static void call_send_scripted_error(struct standin_call *c)
{
    const struct standin_step *step = &c->step;
    struct str type = json_get_str(step->error, "type");
    struct str message = json_get_str(step->error, "message");
    int status = step->status ? (int)step->status : status_of_type(type);
    if (step->has_body) {
        standin_call_send(c, status, "text/html", step->body);
        return;
    }
    call_send_error(c, status, type.len ? type : str_c(type_of_status(status)),
                    message.len ? message : STR("A scripted error."));
}

static bool is_error(const struct standin_step *step)
{
    return step->error || step->has_body || (step->status && step->status != 200);
}

/* The delay before the response headers is over. */
static void call_answer(struct standin_call *c)
{
    const struct standin_step *step = &c->step;
    if (step->has_cut && step->cut_after < 0) {
        c->cutting = true;
        timer_set(&c->timer, 0);
    } else if (step->has_stall && step->stall_after < 0) {
        return;
    } else if (is_error(step)) {
        call_send_scripted_error(c);
    } else if (step->not_json) {
        standin_call_send(c, 200, "text/html", STR("<html><body>It works!</body></html>\n"));
    } else if (c->request.stream) {
        call_start_stream(c);
        call_pump(c);
    } else {
        call_send_message(c);
    }
}

/* First all that was written must be in the socket, then the client gets a moment to read it: a
 * reset that comes with unread data looks like an orderly end to some clients. */
static void call_cut_step(struct standin_call *c)
{
    if (call_backlog(c) > 0 && c->polls++ < FLUSH_POLLS) {
        timer_set(&c->timer, 1);
    } else if (c->started && !c->flushed) {
        c->flushed = true;
        timer_set(&c->timer, CUT_GRACE_MS);
    } else {
        call_cut(c);
    }
}

static void on_timer(void *obj)
{
    struct standin_call *c = OBJ(obj, struct standin_call, CALL_TAG);
    if (c->cutting)
        call_cut_step(c);
    else if (c->started)
        call_pump(c);
    else
        call_answer(c);
}

void standin_call_begin(struct standin_call *c)
{
    standin_reply_init(&c->reply, &c->request, &c->step);
    if (c->step.delay_ms > 0)
        timer_set(&c->timer, c->step.delay_ms);
    else
        call_answer(c);
}

/* --- arrival ------------------------------------------------------------------------------ */

struct str standin_call_body(struct standin_call *c)
{
    struct evbuffer *in = evhttp_request_get_input_buffer(c->req);
    size_t n = evbuffer_get_length(in);
    return n ? str_n((const char *)evbuffer_pullup(in, -1), n) : STR("");
}

struct standin_call *standin_call_new(struct standin *s, struct evhttp_request *req)
{
    struct standin_call *c = x_calloc(1, sizeof(*c));
    int one = 1;
    c->tag = CALL_TAG;
    c->s = s;
    c->req = req;
    c->conn = evhttp_request_get_connection(req);
    c->counted = true;
    id_request(c->request_id);
    timer_init(&c->timer, s->loop, on_timer, c);
    setsockopt(call_fd(c), IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    c->closed_ev = event_new(loop_base(s->loop), call_fd(c), EV_READ | EV_CLOSED, on_socket, c);
    BUG_ON(!c->closed_ev || event_add(c->closed_ev, NULL) != 0);
    evhttp_connection_set_closecb(c->conn, on_conn_closing, c);
    evhttp_request_set_on_complete_cb(req, on_complete, c);
    list_push_back(&s->calls, &c->node);
    return c;
}
