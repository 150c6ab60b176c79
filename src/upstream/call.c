/* call.c - see the header.
 *
 * A call goes WAITING -> STREAMING | COLLECTING -> OVER. While WAITING nothing was passed to the
 * CLI, so an attempt may fail and be repeated: first with each other target that is usable, at once
 * (fail_over), and when none is left, after a pause, from the beginning (back_off). A stream is
 * passed on event by event as it comes; its head is sent with the first event, so that a stream
 * that opens with an error event is an error status like any other (the CLI would repeat such a
 * call by itself, behind our back). Error bodies and plain JSON are collected first: they are
 * small, and the stop reason may have to be changed. A body too large for that is PASSED as it is.
 *
 * Two ends can go away. The CLI: seen by an EV_CLOSED event, because evhttp does not look while a
 * reply is pending; the upstream transfer is aborted at once so that the model stops working.
 * Upstream, in mid-stream: what has come is FLUSHED, then the CLI's connection is cut, which it
 * takes for what it is.
 *
 * All endings meet in over(): it adds the numbers to the turn once and frees later. */
#include "upstream/call.h"

#include "core/clock.h"
#include "core/json.h"
#include "core/log.h"
#include "metrics/metrics.h"
#include "upstream/call_headers.h"
#include "upstream/client.h"
#include "upstream/door.h"
#include "upstream/meter.h"
#include "upstream/policy.h"
#include "upstream/rewrite.h"
#include "upstream/sse_scan.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/http.h>
#include <sodium.h>

#define CALL_TAG TAG4('c', 'a', 'l', 'l')

#define MAX_REWRITTEN   ((size_t)48 << 20)
#define MAX_COLLECTED   ((size_t)16 << 20)
#define MAX_ERROR_BODY  ((size_t)256 << 10)
#define OUTPUT_HIGH     ((size_t)1 << 20)   /* pause upstream above */
#define OUTPUT_LOW      ((size_t)256 << 10) /* go on below */
#define ERROR_BODY_MS   2000                /* an error body must not keep a retry waiting */
#define EARLY_ERROR_MS  50
#define MAX_RETRY_AFTER 20 /* seconds; above, it is the client's to wait */

enum call_state {
    CALL_WAITING,
    CALL_STREAMING,
    CALL_COLLECTING,
    CALL_PASSING,
    CALL_FLUSHING,
    CALL_OVER
};

struct call {
    uint32_t tag;
    struct node node;
    struct call_home *home;
    struct loop *loop;
    struct relay_turn *turn;
    struct relay_turn aside; /* in place of the turn for a count_tokens call: it answers nothing */
    enum call_state state;
    bool count_tokens;

    /* towards the CLI */
    struct evhttp_request *req;     /* NULL once answered or gone */
    struct evhttp_connection *conn; /* NULL once let go of or gone */
    struct event *closed;
    struct evbuffer_cb_entry *watching;
    struct evbuffer *out; /* to be sent with the next chunk */
    bool orphan;          /* req lost its connection: it is ours to free */
    bool begun;           /* the reply's head was sent */
    bool paused;

    /* towards upstream */
    struct exchange *ex;
    struct timer retry;
    struct buf rewritten;
    struct str body; /* in rewritten, or in req */
    char *path;
    struct call_headers headers;
    struct target_walk walk;
    struct target *target; /* of the latest request, or of the next one; NULL = to be chosen */
    bool may_pass;         /* some failure of this round may have passed after a pause */
    int pauses, sent;
    int64_t sent_us;

    /* the response */
    int status;
    bool is_sse, is_encoded, cut_off;
    bool content;     /* an event other than ping or error was seen */
    bool early_error; /* an error came before all content: no stream, but an error status */
    int retry_after_s;
    int should_retry; /* as in struct relay_turn */
    struct sse_scan scan;
    struct meter meter;
    struct buf collected;
};

static struct metric requests_total = {
    .name = "claudegate_upstream_requests_total",
    .help = "Requests sent to the upstream API, by target and HTTP status or why there was none.",
    .type = METRIC_COUNTER,
    .labels = {"target", "status"},
};
static struct metric retries_total = {
    .name = "claudegate_upstream_retries_total",
    .help = "Upstream requests repeated after a failure that may pass.",
    .type = METRIC_COUNTER,
};
static struct metric failovers_total = {
    .name = "claudegate_upstream_failovers_total",
    .help = "Of the repeated requests, those that went to another target at once, by the one left.",
    .type = METRIC_COUNTER,
    .labels = {"target"},
};
static const double latency_buckets[] = {0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120};
static struct metric latency_seconds = {
    .name = "claudegate_upstream_seconds",
    .help = "Time from sending an upstream request to the head of its response.",
    .type = METRIC_HISTOGRAM,
    .buckets = latency_buckets,
    .bucket_count = ARRAY_SIZE(latency_buckets),
};

static void send_request(struct call *call);

/* --- endings ------------------------------------------------------------------------------- */

static void free_call(void *ctx)
{
    struct call *call = OBJ(ctx, struct call, CALL_TAG);
    if (call->orphan)
        evhttp_request_free(call->req);
    evbuffer_free(call->out);
    sse_scan_release(&call->scan);
    buf_release(&call->rewritten);
    buf_release(&call->collected);
    meter_reset(&call->meter);
    free(call->aside.error_json);
    free(call->path);
    call_headers_release(&call->headers);
    free(call);
}

/* From here on the connection is evhttp's alone. */
static void unhook(struct call *call)
{
    if (!call->conn)
        return;
    struct bufferevent *bev = evhttp_connection_get_bufferevent(call->conn);
    evbuffer_remove_cb_entry(bufferevent_get_output(bev), call->watching);
    door_watch(call->home->door, call->conn, NULL, NULL);
    event_free(call->closed);
    call->closed = NULL;
    call->conn = NULL;
}

static void add_numbers(struct call *call)
{
    struct relay_turn *turn = call->turn;
    const struct meter *m = &call->meter;
    turn->input_tokens += m->input_tokens;
    turn->output_tokens += meter_output(m);
    turn->cache_creation_tokens += m->cache_creation_tokens;
    turn->cache_read_tokens += m->cache_read_tokens;
    if (!m->final && (call->status ? call->status / 100 == 2 : call->cut_off))
        turn->estimated = true;
    log_debug("upstream call over", LF_S("request", turn->request_id), LF_I("status", call->status),
              LF_S("target", call->target ? call->target->name : ""), LF_I("attempts", call->sent),
              LF_I("input_tokens", m->input_tokens), LF_I("output_tokens", meter_output(m)),
              LF_B("complete", m->final), LF_S("stop_reason", m->stop_reason));
}

static void over(struct call *call)
{
    BUG_ON(call->state == CALL_OVER || call->ex);
    add_numbers(call);
    if (!call->count_tokens) {
        call->home->settled = true;
        bool answered = call->meter.stopped && call->status / 100 == 2;
        call->turn->answered |= answered;
        call->turn->half |= answered && call->meter.open_blocks > 0;
    }
    call->state = CALL_OVER;
    call->turn = NULL;
    unhook(call);
    timer_release(&call->retry);
    list_remove(&call->home->calls, &call->node);
    loop_defer(call->loop, free_call, call);
}

static void stop_exchange(struct call *call)
{
    struct exchange *ex = TAKE_PTR(call->ex);
    if (!ex)
        return;
    call->cut_off = exchange_is_sent(ex);
    if (call->meter.stopped) {
        exchange_let_go(ex);
        return;
    }
    if (call->status == 0)
        metric_add(&requests_total, 1, call->target->name, "aborted");
    exchange_abort(ex);
}

static void cut(struct call *call)
{
    struct evhttp_connection *conn = call->conn;
    stop_exchange(call);
    unhook(call);
    call->req = NULL; /* goes with the connection */
    over(call);
    if (conn)
        evhttp_connection_free(conn);
}

void call_cut_first(struct call_home *home)
{
    struct node *n = list_first(&home->calls);
    if (n)
        cut(container_of(n, struct call, node));
}

static void cut_later(void *ctx)
{
    struct call *call = OBJ(ctx, struct call, CALL_TAG);
    if (call->state != CALL_OVER)
        cut(call);
}

static void on_closed(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd;
    (void)what;
    cut(OBJ(ctx, struct call, CALL_TAG));
}

/* evhttp drops the connection (a failed write). */
static void on_dropped(struct evhttp_connection *conn, void *ctx)
{
    struct call *call = OBJ(ctx, struct call, CALL_TAG);
    (void)conn;
    stop_exchange(call);
    call->orphan = evhttp_request_get_connection(call->req) == NULL;
    if (!call->orphan)
        call->req = NULL;
    over(call);
}

/* --- answering the CLI --------------------------------------------------------------------- */

/* Ends the call with an error of our own. */
static void fail(struct call *call, int status, const char *type, const char *message)
{
    struct evhttp_request *req = TAKE_PTR(call->req);
    struct relay_turn *turn = call->turn;
    snprintf(turn->error_type, sizeof(turn->error_type), "%s", type);
    snprintf(turn->error_message, sizeof(turn->error_message), "%s", message);
    over(call);
    call_refuse(req, status, type, message);
}

static void send_out(struct call *call)
{
    if (evbuffer_get_length(call->out) == 0)
        return;
    if (!call->begun)
        evhttp_send_reply_start(call->req, call->status, NULL);
    call->begun = true;
    evhttp_send_reply_chunk(call->req, call->out);
}

/* The whole body is in call->out or was sent. */
static void complete(struct call *call)
{
    struct evhttp_request *req = TAKE_PTR(call->req);
    struct evbuffer *out = call->out;
    bool begun = call->begun;
    int status = call->status;
    over(call); /* `out` lives until the next turn of the loop */
    if (!begun) {
        evhttp_send_reply(req, status, NULL, out);
        return;
    }
    evhttp_send_reply_chunk(req, out);
    evhttp_send_reply_end(req);
}

static size_t backlog(const struct call *call)
{
    struct bufferevent *bev = evhttp_connection_get_bufferevent(call->conn);
    return evbuffer_get_length(bufferevent_get_output(bev));
}

static void resume_later(void *ctx)
{
    struct call *call = OBJ(ctx, struct call, CALL_TAG);
    if (call->state == CALL_OVER || !call->paused || !call->ex)
        return;
    call->paused = false;
    exchange_resume(call->ex);
}

/* Runs inside the buffer's own changes, so it only takes notes. */
static void on_output(struct evbuffer *output, const struct evbuffer_cb_info *info, void *ctx)
{
    struct call *call = OBJ(ctx, struct call, CALL_TAG);
    if (info->n_deleted == 0)
        return;
    size_t left = evbuffer_get_length(output);
    if (call->paused && left <= OUTPUT_LOW)
        loop_defer(call->loop, resume_later, call);
    if (call->state == CALL_FLUSHING && left == 0)
        loop_defer(call->loop, cut_later, call);
}

static void hook(struct call *call)
{
    call->conn = evhttp_request_get_connection(call->req);
    struct bufferevent *bev = evhttp_connection_get_bufferevent(call->conn);
    call->watching = evbuffer_add_cb(bufferevent_get_output(bev), on_output, call);
    door_watch(call->home->door, call->conn, on_dropped, call);
    call->closed = event_new(loop_base(call->loop), bufferevent_getfd(bev), EV_CLOSED | EV_PERSIST,
                             on_closed, call);
    BUG_ON(!call->watching || !call->closed || event_add(call->closed, NULL) != 0);
}

/* --- failed attempts ----------------------------------------------------------------------- */

static void forget_response(struct call *call)
{
    evhttp_clear_headers(evhttp_request_get_output_headers(call->req));
    evbuffer_drain(call->out, evbuffer_get_length(call->out));
    buf_clear(&call->collected);
    meter_reset(&call->meter);
    call->status = call->retry_after_s = call->should_retry = 0;
    call->is_sse = call->is_encoded = call->cut_off = false;
    call->content = call->early_error = false;
}

static void retry_now(void *ctx)
{
    struct call *call = OBJ(ctx, struct call, CALL_TAG);
    call->turn->retries++;
    metric_add(&retries_total, 1);
    send_request(call);
}

static void try_after(struct call *call, int64_t ms)
{
    forget_response(call);
    call->state = CALL_WAITING;
    timer_set(&call->retry, ms);
}

/* True when another target will be asked. */
static bool fail_over(struct call *call)
{
    const struct target *from = call->target;
    struct targets *all = upstream_targets(call->home->up);
    struct target *next = targets_next(all, &call->walk, clock_mono_ms());
    if (!next)
        return false;
    metric_add(&failovers_total, 1, from->name);
    log_info("upstream call failed, asking another target", LF_S("request", call->turn->request_id),
             LF_I("status", call->status), LF_S("target", from->name), LF_S("next", next->name));
    call->target = next;
    try_after(call, 0);
    return true;
}

/* What the API asks for, of its only target, or of the one of several that is free soonest. */
static int64_t asked_wait_ms(const struct call *call)
{
    struct targets *all = upstream_targets(call->home->up);
    return targets_count(all) > 1 ? targets_wait_ms(all, clock_mono_ms())
                                  : (int64_t)call->retry_after_s * 1000;
}

/* True when all will be asked once more, after a pause. */
static bool back_off(struct call *call)
{
    struct upstream *up = call->home->up;
    int64_t asked_ms = asked_wait_ms(call);
    if (call->pauses >= upstream_max_retries(up) || asked_ms > MAX_RETRY_AFTER * 1000)
        return false;
    int64_t ms = upstream_retry_base_ms(up) << (call->pauses < 16 ? call->pauses : 16);
    ms += randombytes_uniform((uint32_t)(ms / 4 + 1));
    if (ms < asked_ms)
        ms = asked_ms;
    log_info("upstream call failed, trying again", LF_S("request", call->turn->request_id),
             LF_I("status", call->status), LF_S("target", call->target->name), LF_I("wait_ms", ms));
    call->pauses++;
    call->may_pass = false;
    call->target = NULL;
    try_after(call, ms);
    return true;
}

/* By an error status; true when another attempt is on its way. x-should-retry: false of a 5xx is
 * about the request, of anything else about this credential. */
static bool try_again(struct call *call)
{
    int status = call->status;
    call->may_pass |= policy_may_pass(status) && call->should_retry >= 0;
    if (policy_may_differ(status) && (status < 500 || call->should_retry >= 0) && fail_over(call))
        return true;
    return policy_may_differ(status) && call->should_retry >= 0 && call->may_pass && back_off(call);
}

/* What upstream said of its error, to the turn. */
static void tell_error(struct call *call)
{
    struct relay_turn *turn = call->turn;
    const struct meter *m = &call->meter;
    snprintf(turn->error_type, sizeof(turn->error_type), "%s", m->error_type);
    snprintf(turn->error_message, sizeof(turn->error_message), "%s", m->error_message);
    x_replace(&turn->error_json, m->error_json);
}

static void note_error(struct call *call)
{
    struct relay_turn *turn = call->turn;
    meter_error(&call->meter, buf_str(&call->collected));
    turn->status = call->status;
    turn->retry_after_s = call->retry_after_s;
    turn->should_retry = call->should_retry;
    tell_error(call);
    if (!call->meter.error_message[0])
        snprintf(turn->error_message, sizeof(turn->error_message),
                 "the upstream API answered with HTTP %d", call->status);
}

/* The response has an error status and its body is collected. */
static void on_error_status(struct call *call)
{
    struct evkeyvalq *headers = evhttp_request_get_output_headers(call->req);
    note_error(call);
    if (try_again(call))
        return;
    if (call->status < 400) { /* a redirect: never followed, and nothing the CLI could use */
        fail(call, 502, "api_error", "the upstream API answered with a redirect");
        return;
    }
    if (call->collected.len == 0)
        call_write_error(call->out, "api_error", call->turn->error_message);
    else
        evbuffer_add(call->out, call->collected.data, call->collected.len);
    if (call->collected.len == 0 || call->early_error) {
        evhttp_remove_header(headers, "content-type");
        evhttp_add_header(headers, "content-type", "application/json");
    }
    complete(call);
}

static void log_failure(const struct call *call, const struct exchange_end *end)
{
    log_warn("upstream call failed", LF_S("request", call->turn->request_id), LF_S("why", end->why),
             LF_S("target", call->target->name), LF_B("mid_response", end->result == EXCHANGE_CUT),
             LF_I("attempts", call->sent));
}

/* Nothing was passed to the CLI yet, and there is no complete response. */
static void on_no_response(struct call *call, const struct exchange_end *end)
{
    bool answered = end->result == EXCHANGE_CUT;  /* it began and was cut while we collected it */
    bool late = end->timed_out && end->connected; /* the model may be at work: never twice */
    call->cut_off = end->connected && (late || answered);
    if (end->result == EXCHANGE_NO_ANSWER && !late && !end->by_proxy) {
        call->may_pass |= !end->untrusted;
        if (fail_over(call) || (call->may_pass && back_off(call)))
            return;
    }
    log_failure(call, end);
    call->turn->status = call->status;
    call->turn->failure = end->timed_out ? RELAY_TIMED_OUT : RELAY_UNREACHABLE;
    if (end->timed_out)
        fail(call, 504, "timeout_error", "the upstream API did not answer in time");
    else if (end->untrusted)
        fail(call, 502, "api_error", "the upstream API's TLS certificate was refused");
    else if (end->by_proxy)
        fail(call, 502, "api_error", "the proxy on the way to the upstream API refused");
    else if (end->result == EXCHANGE_BAD)
        fail(call, 400, "invalid_request_error", "the request's query string is not valid");
    else
        fail(call, 502, "api_error", "the upstream API could not be reached");
}

/* A part of the response was passed on already: the CLI shall see the cut as one. */
static void on_cut_stream(struct call *call, const struct exchange_end *end)
{
    log_failure(call, end);
    call->cut_off = true;
    call->turn->failure = end->timed_out ? RELAY_TIMED_OUT : RELAY_UNREACHABLE;
    call->state = CALL_FLUSHING;
    if (backlog(call) == 0)
        loop_defer(call->loop, cut_later, call);
}

/* --- the response -------------------------------------------------------------------------- */

static void on_header(void *ctx, struct str name, struct str value)
{
    struct call *call = OBJ(ctx, struct call, CALL_TAG);
    if (!policy_for_cli(name))
        return;
    AUTO(free_charp) char *n = str_dup(name);
    AUTO(free_charp) char *v = str_dup(value);
    if (str_ieq_c(name, "content-type"))
        call->is_sse = str_ieq_c(str_n(v, strcspn(v, "; ")), "text/event-stream");
    else if (str_ieq_c(name, "content-encoding"))
        call->is_encoded = !str_ieq_c(value, "identity");
    else if (str_ieq_c(name, "x-should-retry"))
        call->should_retry = policy_should_retry(value);
    else if (str_ieq_c(name, "retry-after"))
        call->retry_after_s = policy_retry_after(v);
    else if (str_ieq_c(name, "request-id"))
        snprintf(call->turn->upstream_request_id, sizeof(call->turn->upstream_request_id), "%s", v);
    evhttp_add_header(evhttp_request_get_output_headers(call->req), n, v);
}

static void on_head(void *ctx, int status)
{
    struct call *call = OBJ(ctx, struct call, CALL_TAG);
    char label[16];
    snprintf(label, sizeof(label), "%d", status);
    metric_add(&requests_total, 1, call->target->name, label);
    metric_observe(&latency_seconds, (double)(clock_mono_us() - call->sent_us) / 1e6);
    call->status = call->turn->status = status;
    call->turn->failure = RELAY_OK;
    buf_release(&call->collected);
    buf_init(&call->collected, status / 100 == 2 ? MAX_COLLECTED : MAX_ERROR_BODY);
    call->state = CALL_COLLECTING;
    if (status / 100 != 2)
        exchange_hurry(call->ex, ERROR_BODY_MS);
    else if (call->is_encoded)
        call->state = CALL_PASSING;
    else if (call->is_sse)
        call->state = CALL_STREAMING;
}

static bool on_event(void *ctx, struct str name, struct str data, struct buf *ret_data)
{
    struct call *call = OBJ(ctx, struct call, CALL_TAG);
    bool changed = meter_event(&call->meter, name, data, ret_data);
    struct relay_turn *turn = call->turn;
    if (str_eq_c(name, "message_delta") && call->meter.stop_reason[0])
        snprintf(turn->stop_reason, sizeof(turn->stop_reason), "%s", call->meter.stop_reason);
    if (str_eq_c(name, "message_stop") && !call->count_tokens)
        call->home->settled = true; /* the CLI may act on it before the body's end comes */
    if (!str_eq_c(name, "error")) {
        call->content = call->content || !str_eq_c(name, "ping");
        return changed;
    }
    tell_error(call);
    if (call->ex) /* else it is over: its last event came without an end */
        exchange_judge(call->ex, policy_status_of(call->meter.error_type));
    if (!call->begun && !call->content && !call->early_error) {
        call->early_error = true;
        call->status = policy_status_of(call->meter.error_type);
        buf_clear(&call->collected);
        buf_addstr(&call->collected, data);
    }
    return changed;
}

static void on_emit(void *ctx, struct str bytes)
{
    struct call *call = OBJ(ctx, struct call, CALL_TAG);
    if (!call->early_error)
        evbuffer_add(call->out, bytes.p, bytes.len);
}

static const struct sse_ops scan_ops = {.event = on_event, .emit = on_emit};

static void feed_stream(struct call *call, struct str bytes)
{
    sse_scan_feed(&call->scan, bytes);
    if (call->early_error) {
        call->state = CALL_COLLECTING;
        exchange_hurry(call->ex, EARLY_ERROR_MS);
        return;
    }
    send_out(call);
}

static void end_stream(struct call *call)
{
    sse_scan_finish(&call->scan);
    if (call->early_error)
        on_error_status(call);
    else
        complete(call);
}

static void collect(struct call *call, struct str bytes)
{
    if (call->early_error)
        return;
    buf_addstr(&call->collected, bytes);
    if (buf_ok(&call->collected) || call->status / 100 != 2)
        return; /* of an oversized error body its beginning is enough */
    call->state = CALL_PASSING;
    evbuffer_add(call->out, call->collected.data, call->collected.len);
    buf_release(&call->collected);
    evbuffer_add(call->out, bytes.p, bytes.len);
    send_out(call);
}

static bool on_body(void *ctx, struct str bytes)
{
    struct call *call = OBJ(ctx, struct call, CALL_TAG);
    if (call->state == CALL_COLLECTING) {
        collect(call, bytes);
        return true;
    }
    if (backlog(call) > OUTPUT_HIGH) {
        call->paused = true;
        return false;
    }
    if (call->state == CALL_STREAMING) {
        feed_stream(call, bytes);
        return true;
    }
    evbuffer_add(call->out, bytes.p, bytes.len);
    send_out(call);
    return true;
}

static void on_whole_message(struct call *call)
{
    struct relay_turn *turn = call->turn;
    AUTO(buf_release) struct buf changed;
    buf_init(&changed, MAX_COLLECTED * 2);
    bool use = meter_message(&call->meter, buf_str(&call->collected), &changed);
    struct str body = buf_str(use ? &changed : &call->collected);
    if (call->meter.stop_reason[0])
        snprintf(turn->stop_reason, sizeof(turn->stop_reason), "%s", call->meter.stop_reason);
    evbuffer_add(call->out, body.p, body.len);
    complete(call);
}

static void on_end(void *ctx, const struct exchange_end *end)
{
    struct call *call = OBJ(ctx, struct call, CALL_TAG);
    bool done = end->result == EXCHANGE_DONE;
    call->ex = NULL;
    if (call->state == CALL_WAITING) {
        metric_add(&requests_total, 1, call->target->name,
                   end->timed_out ? "timeout" : "unreachable");
        on_no_response(call, end);
    } else if (call->state == CALL_COLLECTING && call->status / 100 != 2) {
        on_error_status(call);
    } else if (call->state == CALL_COLLECTING) {
        if (done)
            on_whole_message(call);
        else
            on_no_response(call, end);
    } else if (done || call->meter.stopped) {
        end_stream(call);
    } else if (call->begun) {
        on_cut_stream(call, end);
    } else {
        on_no_response(call, end);
    }
}

static const struct exchange_ops call_ops = {
    .header = on_header, .head = on_head, .body = on_body, .end = on_end};

/* --- the request --------------------------------------------------------------------------- */

static void send_request(struct call *call)
{
    if (!call->target)
        call->target =
            targets_first(upstream_targets(call->home->up), &call->walk, clock_mono_ms());
    struct exchange_req req = {
        .target = call->target,
        .path = call->path,
        .headers = (const struct str(*)[2])call->headers.list,
        .header_count = call->headers.count,
        .body = call->body,
    };
    sse_scan_release(&call->scan);
    sse_scan_init(&call->scan, &scan_ops, call);
    call->sent_us = clock_mono_us();
    call->sent++;
    call->ex = exchange_start(call->home->up, &req, &call_ops, call);
}

static void pick_path(struct call *call)
{
    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(call->req);
    const char *query = evhttp_uri_get_query(uri);
    call->path = x_printf("/v1/messages%s%s%s", call->count_tokens ? "/count_tokens" : "",
                          query ? "?" : "", query ? query : "");
}

static int pick_body(struct call *call, struct err *err)
{
    struct evbuffer *in = evhttp_request_get_input_buffer(call->req);
    const struct relay_turn *turn = call->turn;
    call->body = str_n((const char *)evbuffer_pullup(in, -1), evbuffer_get_length(in));
    if (!json_object_size(turn->params) && !json_array_size(turn->system) && !turn->messages &&
        !turn->exact)
        return 0;
    struct rewrite_opts how = {.params = turn->params,
                               .system = turn->system,
                               .messages = turn->messages,
                               .exact = turn->exact,
                               .last_mark = turn->last_mark};
    if (rewrite_request(call->body, &how, &call->rewritten, err) != 0)
        return -1;
    evbuffer_drain(in, evbuffer_get_length(in));
    call->body = buf_str(&call->rewritten);
    return 0;
}

/* Unless the model was said beforehand, the first call says it: that one is the CLI's own, no tool
 * has run yet. What comes later may be a tool's that found the socket. */
static int check_model(struct relay_turn *turn, struct str body, struct err *err)
{
    struct str model;
    if (!rewrite_find_string(body, "model", &model) || model.len >= sizeof(turn->model))
        return err_set(err, ERR_INVALID, "the request must name one model");
    if (!turn->model[0])
        snprintf(turn->model, sizeof(turn->model), "%.*s", (int)model.len, model.p);
    if (str_eq_c(model, turn->model))
        return 0;
    return err_set(err, ERR_INVALID, "this turn may only call the model '%s'", turn->model);
}

void call_home_init(struct call_home *home, struct upstream *up, struct door *door)
{
    home->up = up;
    home->door = door;
    list_init(&home->calls);
    metric_register(&requests_total);
    metric_register(&retries_total);
    metric_register(&failovers_total);
    metric_register(&latency_seconds);
}

void call_start(struct call_home *home, struct relay_turn *turn, struct evhttp_request *req,
                bool count_tokens)
{
    struct call *call = x_calloc(1, sizeof(*call));
    struct err err;
    call->tag = CALL_TAG;
    call->home = home;
    call->loop = upstream_loop(home->up);
    call->turn = count_tokens ? &call->aside : turn;
    call->aside = (struct relay_turn){.system = turn->system, .request_id = turn->request_id};
    call->req = req;
    call->count_tokens = count_tokens;
    call->walk.affinity = turn->affinity;
    call->out = evbuffer_new();
    BUG_ON(!call->out);
    buf_init(&call->rewritten, MAX_REWRITTEN);
    buf_init(&call->collected, MAX_COLLECTED);
    sse_scan_init(&call->scan, &scan_ops, call);
    timer_init(&call->retry, call->loop, retry_now, call);
    list_push_back(&home->calls, &call->node);
    hook(call);
    turn->calls++;
    if (pick_body(call, &err) != 0 || (turn->many && check_model(turn, call->body, &err) != 0)) {
        fail(call, err_status(&err), "invalid_request_error", err.msg);
        return;
    }
    call_headers_pick(&call->headers, req, call->turn);
    pick_path(call);
    send_request(call);
}
