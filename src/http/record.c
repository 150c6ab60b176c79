/* record.c - see the header.
 *
 * The body is one buffer; `base` is the position in the reply of its first byte. Events are found
 * by looking for their id lines: what an event says stands in lines that begin with "data: " or
 * "event: ", so a line that begins with "id: " is always ours. The text form is
 *
 *   stream 200          or: whole 200
 *   Content-Type: ...   the headers
 *
 *   the body */
#include "http/record.h"

#include "http/recorder.h"

#include "core/clock.h"

#include <event2/keyvalq_struct.h>

#define RECORD_TAG   TAG4('R', 'E', 'C', 'D')
#define FOLLOWER_TAG TAG4('F', 'O', 'L', 'L')

#define HEAD_MAX ((size_t)64 << 10)
#define AHEAD_MAX                                                                   \
    ((size_t)256 << 10) /* of a follower's connection; the rest waits in the record \
                         */
#define AHEAD_LOW ((size_t)64 << 10)
#define PIECE_MAX ((size_t)64 << 10)
#define ID_MAX    64
#define KEPT_PARTS                                                                 \
    4 /* a full record is trimmed by one part in so many: moving bytes is not free \
       */

struct http_record {
    uint32_t tag;
    const struct http_record_ops *ops;
    void *ctx;
    struct http_req *writer; /* NULL: none yet, or it is over */
    bool always, detached, failed, over, complete, stream;
    int status; /* 0: the head is not known yet */
    size_t max;
    struct buf head; /* "Name: value\n" each */
    struct buf body;
    uint64_t base;       /* position of the first byte held */
    uint64_t last_event; /* its number; 0 = none yet */
    struct list followers;
};

struct follower {
    uint32_t tag;
    struct http_record *rec; /* NULL: cut off */
    struct node node;
    struct http_req *req;
    uint64_t at; /* position of the next byte for it */
    bool begun;
    uint64_t taken; /* by its client, and when that was first seen */
    int64_t taken_ms;
};

/* --- events ------------------------------------------------------------------------------ */

static uint64_t end_of(const struct http_record *rec)
{
    return rec->base + rec->body.len;
}

/* The number of the event that begins at p, 0 = none. */
static uint64_t number_at(struct str s)
{
    struct str line = str_split(&s, '\n');
    uint64_t n;
    if (!str_starts(line, "id: "))
        return 0;
    str_split(&line, ':');
    str_split(&line, ':'); /* behind the request's id */
    return str_to_u64(line, &n) ? n : 0;
}

static uint64_t first_event(const struct http_record *rec)
{
    uint64_t n = number_at(buf_str(&rec->body));
    return n ? n : rec->last_event + 1;
}

static const char *find_bytes(struct str in, const char *what, size_t len)
{
    return in.len ? memmem(in.p, in.len, what, len) : NULL;
}

/* Where the event after number n begins. */
static int find_after(const struct http_record *rec, uint64_t n, uint64_t *ret_at, struct err *err)
{
    struct str held = buf_str(&rec->body), rest = held;
    uint64_t first = first_event(rec);
    if (n + 1 < first) {
        err_set(
            err, ERR_NOT_FOUND,
            "Last-Event-ID: what came after this event is no longer held; the oldest event that "
            "can be resumed after is number %llu",
            (unsigned long long)first - 1);
        err->status = 410;
        return -1;
    }
    if (n > rec->last_event)
        return err_set(err, ERR_NOT_FOUND, "Last-Event-ID: the stream has no such event (yet)");
    for (uint64_t at = first; at <= n; at++) { /* each ends with an empty line */
        const char *end = find_bytes(rest, "\n\n", 2);
        if (!end)
            return err_set(err, ERR_NOT_FOUND, "Last-Event-ID: the stream has no such event");
        rest = str_n(end + 2, rest.len - (size_t)(end + 2 - rest.p));
    }
    *ret_at = rec->base + (held.len - rest.len);
    return 0;
}

uint64_t record_next_event(struct http_record *rec)
{
    return ++rec->last_event;
}

static void drop_all(struct http_record *rec)
{
    rec->base += rec->body.len;
    buf_release(&rec->body);
    buf_init(&rec->body, rec->max * 2);
}

void http_record_trim(struct http_record *rec, size_t max)
{
    struct str held = buf_str(&rec->body);
    if (held.len <= max)
        return;
    size_t least = held.len - max; /* to be dropped, and the rest of the event that it ends in */
    size_t from = least < 2 ? 0 : least - 2;
    const char *end =
        rec->stream ? find_bytes(str_n(held.p + from, held.len - from), "\n\n", 2) : NULL;
    size_t drop = end ? (size_t)(end + 2 - held.p) : held.len;
    if (drop == held.len) {
        drop_all(rec);
        return;
    }
    buf_consume(&rec->body, drop);
    rec->base += drop;
}

/* --- followers --------------------------------------------------------------------------- */

static void tell_if_alone(struct http_record *rec)
{
    if (rec->followers.len == 0 && (rec->detached || rec->over))
        rec->ops->alone(rec->ctx);
}

static void follower_free(struct follower *f)
{
    struct http_record *rec = TAKE_PTR(f->rec);
    if (rec)
        list_remove(&rec->followers, &f->node);
    f->tag = 0;
    free(f);
    if (rec)
        tell_if_alone(rec);
}

static void follower_gone(void *ctx)
{
    follower_free(OBJ(ctx, struct follower, FOLLOWER_TAG));
}

/* Its gone callback runs when the connection is closed. */
static void cut(struct follower *f)
{
    list_remove(&f->rec->followers, &f->node);
    f->rec = NULL;
    if (f->req->conn)
        conn_close_later(f->req->conn);
}

/* The request that is now answered for good. */
static struct http_req *leave(struct follower *f)
{
    struct http_req *req = f->req;
    http_req_on_gone(req, NULL, NULL);
    http_stream_on_drain(req, 0, NULL, NULL);
    return req;
}

static void put_headers(const struct http_record *rec, struct http_req *req)
{
    for (struct str rest = buf_str(&rec->head); rest.len;) {
        struct str value = str_split(&rest, '\n'), name = str_split(&value, ':');
        AUTO(free_charp) char *n = str_dup(name);
        AUTO(free_charp) char *v = str_dup(str_trim(value));
        http_set_header(req, n, v);
    }
}

static void reply_whole(struct follower *f)
{
    struct http_record *rec = f->rec;
    struct http_req *req = leave(f);
    struct err err;
    if (http_record_is_whole(rec)) {
        put_headers(rec, req);
        http_reply(req, rec->status, NULL, buf_str(&rec->body));
    } else {
        err_set(&err, ERR_CONFLICT,
                "The answer to the request that ran is larger than what is kept of one (%zu bytes)",
                rec->max);
        err.should_retry = -1;
        http_reply_error(req, &err);
    }
    follower_free(f);
}

static void on_drain(void *ctx);

/* Gives the follower what there is for it, as far as its connection takes it. */
static void feed(struct follower *f)
{
    struct http_record *rec = f->rec;
    if (!rec || !rec->status || (!rec->stream && !rec->over))
        return;
    if (!rec->stream) {
        reply_whole(f);
        return;
    }
    if (!f->begun) {
        put_headers(rec, f->req);
        http_stream_begin(f->req, rec->status, NULL);
        http_stream_on_drain(f->req, AHEAD_LOW, on_drain, f);
        f->begun = true;
    }
    if (f->at < rec->base) {
        cut(f);
        tell_if_alone(rec);
        return;
    }
    while (f->at < end_of(rec) && http_stream_backlog(f->req) < AHEAD_MAX) {
        size_t from = (size_t)(f->at - rec->base), left = rec->body.len - from;
        size_t n = left < PIECE_MAX ? left : PIECE_MAX;
        stream_send(f->req, str_n(rec->body.data + from, n));
        f->at += n;
    }
    if (f->at == end_of(rec) && rec->over) {
        http_stream_end(leave(f));
        follower_free(f);
    }
}

static void on_drain(void *ctx)
{
    feed(OBJ(ctx, struct follower, FOLLOWER_TAG));
}

static void feed_all(struct http_record *rec)
{
    LIST_EACH(&rec->followers, n)
    {
        feed(container_of(n, struct follower, node));
    }
}

int http_record_follow(struct http_record *rec, struct http_req *req, uint64_t after,
                       struct err *err)
{
    uint64_t at = 0;
    if (rec->over && !rec->complete)
        return err_set(err, ERR_NOT_FOUND, "This reply was given up before it was complete");
    if (after && find_after(rec, after, &at, err) != 0)
        return -1;
    if (!after && rec->base > 0)
        return err_set(err, ERR_CONFLICT,
                       "The answer is longer than what is kept of one (%zu bytes): its beginning "
                       "is no longer held",
                       rec->max);
    struct follower *f = x_calloc(1, sizeof(*f));
    *f = (struct follower){.tag = FOLLOWER_TAG, .rec = rec, .req = req, .at = at};
    f->taken_ms = clock_mono_ms();
    list_push_back(&rec->followers, &f->node);
    http_req_on_gone(req, follower_gone, f);
    feed(f);
    return 0;
}

static bool has_stalled(struct follower *f)
{
    const struct http_conn *c = f->req->conn;
    int64_t now = clock_mono_ms();
    if (!c)
        return false; /* it is about to be told */
    if (c->bytes_out != f->taken) {
        f->taken = c->bytes_out;
        f->taken_ms = now;
    }
    return now - f->taken_ms >= (int64_t)c->server->opts.idle_timeout_s * 1000;
}

void http_record_cut_stalled(struct http_record *rec)
{
    BUG_ON(!rec->over);
    LIST_EACH(&rec->followers, n)
    {
        struct follower *f = container_of(n, struct follower, node);
        if (has_stalled(f))
            cut(f);
    }
}

size_t http_record_followers(const struct http_record *rec)
{
    return rec->followers.len;
}

/* --- what is written --------------------------------------------------------------------- */

/* What a limit has left, or how the connection goes on, is no part of the answer. */
static bool is_of_the_moment(const char *name)
{
    static const char *const prefixes[] = {"ratelimit-", "anthropic-ratelimit-", "x-ratelimit-",
                                           "connection"};
    for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++) {
        if (strncasecmp(name, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    }
    return false;
}

void record_head(struct http_record *rec, int status, const struct evkeyvalq *headers)
{
    rec->status = status;
    for (const struct evkeyval *kv = headers->tqh_first; kv; kv = kv->next.tqe_next) {
        if (!is_of_the_moment(kv->key))
            buf_printf(&rec->head, "%s: %s\n", kv->key, kv->value);
    }
    BUG_ON(!buf_ok(&rec->head)); /* ours, and few */
}

static void append(struct http_record *rec, struct str bytes)
{
    if (bytes.len > rec->max) {
        drop_all(rec);
        rec->base += bytes.len;
    } else {
        buf_addstr(&rec->body, bytes);
        BUG_ON(!buf_ok(&rec->body));
        if (rec->body.len > rec->max)
            http_record_trim(rec, rec->max - rec->max / KEPT_PARTS);
    }
    rec->ops->grew(rec->ctx);
}

void record_whole(struct http_record *rec, struct str body)
{
    append(rec, body);
}

void record_stream(struct http_record *rec, struct str bytes)
{
    rec->stream = true;
    append(rec, bytes);
    feed_all(rec);
}

/* Only to who is up to date: in between it would be torn out of its place. */
void record_comment(struct http_record *rec, struct str bytes)
{
    rec->stream = true;
    feed_all(rec);
    LIST_EACH(&rec->followers, n)
    {
        struct follower *f = container_of(n, struct follower, node);
        if (f->at == end_of(rec) && http_stream_backlog(f->req) < AHEAD_MAX)
            stream_send(f->req, bytes);
    }
}

static void cut_all(struct http_record *rec)
{
    LIST_EACH(&rec->followers, n)
    {
        cut(container_of(n, struct follower, node));
    }
}

void record_end(struct http_req *req, bool complete)
{
    struct http_record *rec = TAKE_PTR(req->record);
    BUG_ON(rec->writer != req || rec->over);
    rec->writer = NULL;
    rec->detached = false;
    rec->over = true;
    rec->complete = complete;
    rec->ops->over(rec->ctx);
    if (complete)
        feed_all(rec);
    else
        cut_all(rec);
    tell_if_alone(rec);
}

bool record_detaches(struct http_record *rec)
{
    if (!rec->always && rec->last_event == 0)
        return false;
    rec->detached = true;
    tell_if_alone(rec);
    return true;
}

void http_req_set_failed(struct http_req *req)
{
    if (req->record)
        req->record->failed = true;
}

/* --- the object -------------------------------------------------------------------------- */

struct http_record *http_record_new(size_t max_bytes, const struct http_record_ops *ops, void *ctx)
{
    struct http_record *rec = x_calloc(1, sizeof(*rec));
    *rec = (struct http_record){.tag = RECORD_TAG, .ops = ops, .ctx = ctx, .max = max_bytes};
    buf_init(&rec->head, HEAD_MAX);
    buf_init(&rec->body, max_bytes * 2);
    list_init(&rec->followers);
    return rec;
}

void http_record_attach(struct http_record *rec, struct http_req *req, bool always)
{
    BUG_ON(rec->writer || rec->over || req->record || req->status || !req->conn);
    rec->writer = req;
    rec->always = always;
    req->record = rec;
}

void http_record_abandon(struct http_record *rec)
{
    struct http_req *req = rec->writer;
    if (!rec->detached)
        return;
    record_end(req, false);
    req_abandon(req);
}

bool http_record_is_detached(const struct http_record *rec)
{
    return rec->detached;
}

void http_record_free(struct http_record *rec)
{
    if (!rec)
        return;
    cut_all(rec);
    struct http_req *req = TAKE_PTR(rec->writer);
    if (req)
        req->record = NULL;
    if (rec->detached)
        req_abandon(req);
    buf_release(&rec->head);
    buf_release(&rec->body);
    rec->tag = 0;
    free(rec);
}

size_t http_record_bytes(const struct http_record *rec)
{
    return rec->body.len;
}

uint64_t http_record_events(const struct http_record *rec)
{
    return rec->last_event;
}

bool http_record_is_over(const struct http_record *rec)
{
    return rec->over;
}

bool http_record_is_good(const struct http_record *rec)
{
    return rec->over && rec->complete && !rec->failed && rec->status >= 200 && rec->status < 300;
}

bool http_record_is_whole(const struct http_record *rec)
{
    return rec->base == 0;
}

/* --- as text ----------------------------------------------------------------------------- */

size_t http_record_text_size(const struct http_record *rec)
{
    return ID_MAX + rec->head.len + rec->body.len;
}

void http_record_write(const struct http_record *rec, struct buf *out)
{
    BUG_ON(!http_record_is_good(rec) || !http_record_is_whole(rec));
    buf_printf(out, "%s %d\n", rec->stream ? "stream" : "whole", rec->status);
    buf_addstr(out, buf_str(&rec->head));
    buf_addc(out, '\n');
    buf_addstr(out, buf_str(&rec->body));
}

/* The number of the last event of a stream. */
static uint64_t count_events(struct str body)
{
    for (size_t i = body.len; i > 0; i--) {
        bool begins = i == 1 || body.p[i - 2] == '\n';
        uint64_t n = begins ? number_at(str_n(body.p + i - 1, body.len - i + 1)) : 0;
        if (n)
            return n;
    }
    return 0;
}

int http_record_read(struct http_record *rec, struct str text, struct err *err)
{
    struct str rest = text, word = str_split(&rest, '\n'), kind = str_split(&word, ' ');
    const char *end = find_bytes(rest, "\n\n", 2);
    uint64_t status;
    if (!end || !str_to_u64(word, &status) || status < 200 || status > 299 ||
        (!str_eq_c(kind, "stream") && !str_eq_c(kind, "whole")))
        return err_set(err, ERR_INTERNAL, "a stored reply is unreadable");
    size_t head = (size_t)(end + 1 - rest.p);
    rec->status = (int)status;
    rec->stream = str_eq_c(kind, "stream");
    buf_add(&rec->head, rest.p, head);
    buf_release(&rec->body);
    buf_init(&rec->body, text.len);
    buf_add(&rec->body, rest.p + head + 1, rest.len - head - 1);
    rec->last_event = rec->stream ? count_events(buf_str(&rec->body)) : 0;
    rec->over = rec->complete = true;
    return 0;
}
