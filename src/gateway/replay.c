/* replay.c - see the header.
 *
 *   CLAIMING   the database is asked for the row of the Idempotency-Key; the requests wait
 *   RUNNING    one of them runs and is recorded, the others follow; the row's lease is renewed
 *   OVER       the record is complete; the answer is being stored, or is, or will not be
 *
 * One without an Idempotency-Key begins as RUNNING, one found in the database ends as OVER.
 *
 * A record is found by its row's id as long as a request with the same key may follow it, and by
 * its request id as long as it may be resumed. What is asked of the database holds a reference, so
 * that an answer always finds its object. Nothing is freed inside a record's callback: a timer does
 * it.
 *
 * On one server a key has one object, and so one turn. Between servers the row decides: whoever
 * wrote it runs. When its lease has run out, another server doubts it (409), and takes it over at
 * the next request after a while in which the owner has not renewed it: a database that was away
 * for all of them must not let two run. The servers' clocks have to agree to a few seconds. */
#include "gateway/replay_internal.h"

#include "core/clock.h"
#include "core/log.h"
#include "gateway/replay_request.h"
#include "metrics/metrics.h"

#define WAITER_TAG TAG4('R', 'P', 'L', 'W')

#define SWEEP_MS    60000
#define CLAIMS_MAX  3    /* while rows come and go under it */
#define RECORD_COST 1024 /* of one in memory, beside its bytes */

struct waiter {
    uint32_t tag;
    struct node node;
    struct replay *r;
    struct http_req *req;
    uint64_t after;
};

static struct metric replays_total = {
    .name = "claudegate_replays_total",
    .help = "Requests with an Idempotency-Key or a Last-Event-ID, by what became of them.",
    .type = METRIC_COUNTER,
    .labels = {"outcome"}};
static struct metric records_gauge = {.name = "claudegate_replay_records",
                                      .help = "Replies held in memory to be followed or resumed.",
                                      .type = METRIC_GAUGE};
static struct metric bytes_gauge = {
    .name = "claudegate_replay_bytes", .help = "Bytes of these replies.", .type = METRIC_GAUGE};
static struct metric followers_gauge = {
    .name = "claudegate_replay_followers",
    .help = "Requests that get, or wait for, another request's reply.",
    .type = METRIC_GAUGE};
static struct metric detached_gauge = {
    .name = "claudegate_replay_detached",
    .help = "Requests whose client has left and that wait for somebody to come back.",
    .type = METRIC_GAUGE};

/* --- objects ----------------------------------------------------------------------------- */

void replay_unref(struct replay *r)
{
    if (--r->refs > 0)
        return;
    timer_release(&r->timer);
    r->tag = 0;
    free(r);
}

static void forget_id(struct replay *r)
{
    if (r->has_id)
        HASH_DELETE(by_id, r->rs->ids, r);
    r->has_id = false;
}

static void forget_request(struct replay *r)
{
    if (r->has_request)
        HASH_DELETE(by_request, r->rs->requests, r);
    r->has_request = false;
}

static struct replay *find_id(struct replays *rs, const char *id)
{
    struct replay *r;
    HASH_FIND(by_id, rs->ids, id, strlen(id), r);
    return r;
}

static struct replay *find_request(struct replays *rs, const char *request_id)
{
    struct replay *r;
    HASH_FIND(by_request, rs->requests, request_id, strlen(request_id), r);
    return r;
}

static void add_request(struct replay *r)
{
    BUG_ON(r->has_request);
    if (find_request(r->rs, r->request_id))
        return; /* the same stored reply, loaded for another request */
    HASH_ADD(by_request, r->rs->requests, request_id, strlen(r->request_id), r);
    r->has_request = true;
}

static void unlink_node(struct replay *r)
{
    list_remove(r->state == OVER ? &r->rs->over : &r->rs->active, &r->node);
}

static void unref_later(void *obj)
{
    replay_unref(OBJ(obj, struct replay, REPLAY_TAG));
}

/* Out of the table; not from inside a callback of its record. */
static void retire(struct replay *r)
{
    if (r->retired)
        return;
    r->retired = true;
    BUG_ON(r->waiters.len);
    forget_id(r);
    forget_request(r);
    unlink_node(r);
    timer_stop(&r->timer);
    r->rs->bytes -= r->counted;
    http_record_free(TAKE_PTR(r->record));
    loop_defer(r->rs->opts.loop, unref_later, r);
}

static void on_timer(void *obj);

static struct replay *new_replay(struct replays *rs, const struct http_req *req)
{
    struct replay *r = x_calloc(1, sizeof(*r));
    *r = (struct replay){.tag = REPLAY_TAG, .rs = rs, .refs = 1, .route = http_req_route(req)};
    snprintf(r->request_id, sizeof(r->request_id), "%s", http_req_id(req));
    snprintf(r->api_key_id, sizeof(r->api_key_id), "%s", gateway_key(req)->key.id);
    list_init(&r->waiters);
    list_push_back(&rs->active, &r->node);
    timer_init(&r->timer, rs->opts.loop, on_timer, r);
    return r;
}

/* --- answering --------------------------------------------------------------------------- */

static void count(const char *outcome)
{
    metric_add(&replays_total, 1, outcome);
}

/* Trying again, with this key, leads nowhere: the official SDKs repeat every 409. */
static void refuse(struct http_req *req, const struct err *err)
{
    if (err->code == ERR_CONFLICT && err->retry_after_s == 0)
        http_set_header(req, "x-should-retry", "false");
    http_reply_error(req, err);
}

static int no_such_stream(struct err *err)
{
    return err_set(err, ERR_NOT_FOUND,
                   "Last-Event-ID: there is no such stream; it has ended too long ago, or this "
                   "server does not have it");
}

static int key_reused(struct err *err)
{
    err_set(err, ERR_KEY_REUSED,
            IDEMPOTENCY_KEY ": this key was used for a different request; use a new key for each "
                            "request, and the same one only to repeat it");
    snprintf(err->field, sizeof(err->field), IDEMPOTENCY_KEY);
    return -1;
}

static int runs_elsewhere(struct err *err)
{
    err_set(err, ERR_CONFLICT,
            IDEMPOTENCY_KEY
            ": the request with this key is still being answered by another server");
    err->retry_after_s = 1;
    return -1;
}

static int is_lost(const struct replay *r, struct err *err)
{
    return err_set(err, ERR_CONFLICT,
                   IDEMPOTENCY_KEY ": the request with this key was answered, but its answer was "
                                   "too large to be kept (%zu bytes at most); use a new key to ask "
                                   "again",
                   r->rs->opts.key_bytes);
}

/* after 0: as if it were the first request. */
static void follow(struct replay *r, struct http_req *req, uint64_t after)
{
    struct err err;
    bool is_over = http_record_is_over(r->record);
    http_req_drop_body(req); /* nobody reads it any more, and it may have to wait for long */
    if (!after)
        http_set_header(req, "idempotent-replayed", "true");
    log_info("request gets another one's reply", LF_S("request_id", http_req_id(req)),
             LF_S("of", r->request_id), LF_I("after", after));
    if (http_record_follow(r->record, req, after, &err) != 0) {
        if (!after)
            http_set_header(req, "idempotent-replayed", "false");
        count(err.code == ERR_CONFLICT ? "lost" : err.status ? "expired" : "unknown");
        refuse(req, &err);
        return;
    }
    count(after ? "resumed" : is_over ? "replayed" : "followed");
    if (!is_over && http_record_followers(r->record) > 0)
        timer_stop(&r->timer); /* somebody has come back */
}

/* --- waiting for the database ------------------------------------------------------------ */

static void waiter_gone(void *ctx)
{
    struct waiter *w = OBJ(ctx, struct waiter, WAITER_TAG);
    list_remove(&w->r->waiters, &w->node);
    w->tag = 0;
    free(w);
}

static void wait_for(struct replay *r, struct http_req *req, uint64_t after)
{
    struct waiter *w = x_calloc(1, sizeof(*w));
    *w = (struct waiter){.tag = WAITER_TAG, .r = r, .req = req, .after = after};
    list_push_back(&r->waiters, &w->node);
    http_req_on_gone(req, waiter_gone, w);
}

static struct waiter *first_waiter(const struct replay *r)
{
    struct node *n = list_first(&r->waiters);
    BUG_ON(!n);
    return container_of(n, struct waiter, node);
}

/* The request waits no longer. */
static struct http_req *take_waiter(struct replay *r, uint64_t *ret_after)
{
    struct waiter *w = first_waiter(r);
    struct http_req *req = w->req;
    list_remove(&r->waiters, &w->node);
    *ret_after = w->after;
    http_req_on_gone(req, NULL, NULL);
    w->tag = 0;
    free(w);
    return req;
}

static void refuse_all(struct replay *r, const char *outcome, const struct err *err)
{
    uint64_t unused;
    while (r->waiters.len) {
        count(outcome);
        refuse(take_waiter(r, &unused), err);
    }
    retire(r);
}

static void follow_all(struct replay *r)
{
    while (r->waiters.len) {
        uint64_t after;
        struct http_req *req = take_waiter(r, &after);
        follow(r, req, after);
    }
}

/* --- the record's callbacks -------------------------------------------------------------- */

static void set_over(struct replay *r)
{
    unlink_node(r);
    r->state = OVER;
    list_push_back(&r->rs->over, &r->node);
}

static void recount(struct replay *r)
{
    r->rs->bytes -= r->counted;
    r->counted = http_record_bytes(r->record) + RECORD_COST;
    r->rs->bytes += r->counted;
}

static void drop_oldest(struct replays *rs, const struct replay *for_whom, bool with_followers)
{
    LIST_EACH(&rs->over, n)
    {
        struct replay *r = container_of(n, struct replay, node);
        if (rs->bytes <= rs->opts.total_bytes)
            return;
        if (r != for_whom && !r->storing &&
            (with_followers || http_record_followers(r->record) == 0))
            retire(r);
    }
}

/* What somebody reads goes last: one key's answers are not to cut off another key's clients. */
static void make_room(struct replays *rs, const struct replay *for_whom)
{
    drop_oldest(rs, for_whom, false);
    drop_oldest(rs, for_whom, true);
}

static void on_grew(void *ctx)
{
    struct replay *r = OBJ(ctx, struct replay, REPLAY_TAG);
    struct replays *rs = r->rs;
    recount(r);
    make_room(rs, r);
    if (rs->bytes <= rs->opts.total_bytes)
        return;
    size_t excess = rs->bytes - rs->opts.total_bytes, held = http_record_bytes(r->record);
    http_record_trim(r->record, held > excess ? held - excess : 0);
    recount(r);
}

static void on_alone(void *ctx)
{
    struct replay *r = OBJ(ctx, struct replay, REPLAY_TAG);
    if (http_record_is_detached(r->record))
        timer_set(&r->timer, r->rs->draining && !r->id[0] ? 0 : r->rs->opts.grace_s * 1000);
    else if (r->loaded)
        timer_set(&r->timer, 0);
}

static void on_over(void *ctx)
{
    struct replay *r = OBJ(ctx, struct replay, REPLAY_TAG);
    set_over(r);
    bool good = http_record_is_good(r->record);
    if (r->id[0] && good) {
        replay_row_store(r);
    } else if (r->id[0]) {
        forget_id(r);
        replay_row_drop(r);
    }
    bool wanted = (r->id[0] && good) || http_record_events(r->record) > 0;
    timer_set(&r->timer, wanted ? r->rs->opts.grace_s * 1000 : 0);
}

static const struct http_record_ops record_callbacks = {
    .grew = on_grew, .alone = on_alone, .over = on_over};

static void on_timer(void *obj)
{
    struct replay *r = OBJ(obj, struct replay, REPLAY_TAG);
    if (r->state == RUNNING && http_record_is_detached(r->record)) {
        log_info("nobody came back for the reply", LF_S("request_id", r->request_id));
        count("abandoned");
        http_record_abandon(r->record); /* on_over() */
    } else if (r->state == OVER && r->storing) {
        r->due = true; /* and then the timer is set again */
    } else if (r->state == OVER && http_record_followers(r->record) > 0) {
        http_record_cut_stalled(r->record);
        timer_set(&r->timer, REPLAY_RENEW_MS);
    } else if (r->state == OVER) {
        retire(r);
    }
}

/* --- running ----------------------------------------------------------------------------- */

static void new_record(struct replay *r)
{
    const struct replays_opts *o = &r->rs->opts;
    r->record = http_record_new(r->id[0] ? o->key_bytes : o->stream_bytes, &record_callbacks, r);
}

/* Its handler may end it at once. */
static void run(struct replay *r, struct http_req *req)
{
    r->state = RUNNING;
    new_record(r);
    add_request(r);
    http_record_attach(r->record, req, r->id[0] != '\0');
    follow_all(r);
    http_req_proceed(req);
}

static void on_claimed(void *ctx, int64_t claimed, const struct err *err);
static void on_found(void *ctx, const struct reply_row *row, const struct err *err);

/* For the request that waits first. */
static void claim(struct replay *r)
{
    snprintf(r->request_id, sizeof(r->request_id), "%s", http_req_id(first_waiter(r)->req));
    replay_row_claim(r, on_claimed);
}

/* It is this object's. The one it was claimed for may have left. */
static void use_claim(struct replay *r)
{
    uint64_t unused;
    if (!r->waiters.len) {
        replay_row_drop(r);
        retire(r);
    } else if (strcmp(http_req_id(first_waiter(r)->req), r->request_id) != 0) {
        claim(r);
    } else {
        run(r, take_waiter(r, &unused));
    }
}

static void on_claimed(void *ctx, int64_t claimed, const struct err *err)
{
    struct replay *r = OBJ(ctx, struct replay, REPLAY_TAG);
    if (err) { /* whether the row is ours is not known: it is not to be run */
        replay_row_drop(r);
        refuse_all(r, "unavailable", err);
    } else if (claimed) {
        use_claim(r);
    } else if (r->waiters.len) {
        replay_row_find(r, on_found);
    } else {
        retire(r);
    }
    replay_unref(r);
}

/* --- what the database has --------------------------------------------------------------- */

static int load(struct replay *r, const struct reply_row *row, struct err *err)
{
    new_record(r);
    if (replay_row_open(r, row, err) != 0)
        return -1;
    set_over(r);
    r->loaded = true;
    snprintf(r->request_id, sizeof(r->request_id), "%s", row->request_id);
    add_request(r);
    recount(r);
    make_room(r->rs, r);
    if (r->rs->bytes <= r->rs->opts.total_bytes)
        return 0;
    err_set(err, ERR_OVERLOADED, "Too many replies are held in memory; try again shortly");
    err->retry_after_s = 1;
    return -1;
}

static void use_row(struct replay *r, const struct reply_row *row)
{
    struct err err;
    if (r->lookup ? strcmp(row->request_id, r->request_id) != 0
                  : strcmp(row->fingerprint, r->fingerprint) != 0) {
        if (r->lookup)
            no_such_stream(&err);
        else
            key_reused(&err);
        refuse_all(r, r->lookup ? "unknown" : "mismatch", &err);
    } else if (row->state == REPLY_RUNNING) {
        if (row->lease_until >= 0 && row->lease_until <= clock_wall_ms())
            replay_row_doubt(r);
        runs_elsewhere(&err);
        refuse_all(r, "conflict", &err);
    } else if (row->state == REPLY_LOST) {
        is_lost(r, &err);
        refuse_all(r, "lost", &err);
    } else if (load(r, row, &err) != 0) {
        refuse_all(r, "unavailable", &err);
    } else {
        timer_set(&r->timer, r->rs->opts.grace_s * 1000);
        follow_all(r);
    }
}

static void on_found(void *ctx, const struct reply_row *row, const struct err *err)
{
    struct replay *r = OBJ(ctx, struct replay, REPLAY_TAG);
    struct err why;
    if (err) {
        refuse_all(r, "unavailable", err);
    } else if (!r->waiters.len) {
        retire(r);
    } else if (row) {
        use_row(r, row);
    } else if (r->lookup) {
        no_such_stream(&why);
        refuse_all(r, "unknown", &why);
    } else if (r->claims < CLAIMS_MAX) { /* it has just gone */
        claim(r);
    } else {
        runs_elsewhere(&why);
        refuse_all(r, "conflict", &why);
    }
    replay_unref(r);
}

/* --- a request comes --------------------------------------------------------------------- */

static void resume(struct replays *rs, struct http_req *req, const struct replay_wish *w)
{
    struct replay *r = find_request(rs, w->resumes);
    struct err err;
    bool mine = r && r->record && strcmp(r->api_key_id, gateway_key(req)->key.id) == 0 &&
                strcmp(r->route, http_req_route(req)) == 0;
    if (mine) {
        follow(r, req, w->after);
    } else if (w->key[0]) { /* it may be stored */
        r = new_replay(rs, req);
        r->lookup = true;
        snprintf(r->request_id, sizeof(r->request_id), "%s", w->resumes);
        replay_id(r->api_key_id, str_c(w->key), r->id);
        wait_for(r, req, w->after);
        replay_row_find(r, on_found);
    } else {
        count("unknown");
        no_such_stream(&err);
        http_reply_error(req, &err);
    }
}

static void run_once(struct replays *rs, struct http_req *req, struct str key)
{
    char id[REPLY_ID_SIZE], fingerprint[REPLY_FINGERPRINT_SIZE];
    struct err err;
    replay_id(gateway_key(req)->key.id, key, id);
    replay_fingerprint(req, key, fingerprint);
    struct replay *r = find_id(rs, id);
    if (!r) {
        r = new_replay(rs, req);
        memcpy(r->id, id, sizeof(id));
        memcpy(r->fingerprint, fingerprint, sizeof(fingerprint));
        HASH_ADD(by_id, rs->ids, id, strlen(r->id), r);
        r->has_id = true;
        wait_for(r, req, 0);
        claim(r);
    } else if (strcmp(r->fingerprint, fingerprint) != 0) {
        count("mismatch");
        key_reused(&err);
        http_reply_error(req, &err);
    } else if (r->state == CLAIMING) {
        wait_for(r, req, 0);
    } else {
        follow(r, req, 0);
    }
}

void replays_enter(struct replays *rs, struct http_req *req)
{
    struct replay_wish w;
    struct err err;
    bool paid = http_req_is_paid(req);
    if (paid && replay_read(req, &w, &err) != 0)
        http_reply_error(req, &err);
    else if (paid && w.resumes[0])
        resume(rs, req, &w);
    else if (paid && w.key[0])
        run_once(rs, req, str_c(w.key));
    else if (paid && w.resumable)
        run(new_replay(rs, req), req);
    else
        http_req_proceed(req);
}

/* --- over time --------------------------------------------------------------------------- */

static void on_renew(void *obj)
{
    struct replays *rs = OBJ(obj, struct replays, REPLAYS_TAG);
    LIST_EACH(&rs->active, n)
    {
        struct replay *r = container_of(n, struct replay, node);
        if (r->state == RUNNING && r->id[0])
            replay_row_renew(r);
    }
    LIST_EACH(&rs->over, n)
    {
        struct replay *r = container_of(n, struct replay, node);
        if (r->storing && r->refs == 1) /* the last try has failed */
            replay_row_store(r);
    }
    timer_set(&rs->renew, REPLAY_RENEW_MS);
}

static void on_swept(void *ctx, int64_t gone, const struct err *err)
{
    (void)ctx;
    if (err)
        log_warn("expired replies could not be deleted, ignoring", LF_S("error", err->msg));
    else if (gone)
        log_info("expired replies deleted", LF_I("count", gone));
}

static void on_sweep(void *obj)
{
    struct replays *rs = OBJ(obj, struct replays, REPLAYS_TAG);
    reply_delete_expired(rs->opts.db, clock_wall_ms(), on_swept, NULL);
    timer_set(&rs->sweep, SWEEP_MS);
}

void replays_drain(struct replays *rs)
{
    rs->draining = true;
    LIST_EACH(&rs->active, n)
    {
        struct replay *r = container_of(n, struct replay, node);
        if (r->state == RUNNING && !r->id[0] && http_record_is_detached(r->record) &&
            http_record_followers(r->record) == 0)
            timer_set(&r->timer, 0);
    }
}

static void add_up(struct list *list, size_t *records, size_t *followers, size_t *detached)
{
    LIST_EACH(list, n)
    {
        const struct replay *r = container_of(n, struct replay, node);
        *followers += r->waiters.len;
        if (!r->record)
            continue;
        *records += 1;
        *followers += http_record_followers(r->record);
        *detached += http_record_is_detached(r->record);
    }
}

static void collect(void *ctx)
{
    struct replays *rs = OBJ(ctx, struct replays, REPLAYS_TAG);
    size_t records = 0, followers = 0, detached = 0;
    add_up(&rs->active, &records, &followers, &detached);
    add_up(&rs->over, &records, &followers, &detached);
    metric_set(&records_gauge, (double)records);
    metric_set(&bytes_gauge, (double)rs->bytes);
    metric_set(&followers_gauge, (double)followers);
    metric_set(&detached_gauge, (double)detached);
}

struct replays *replays_new(const struct replays_opts *opts)
{
    struct replays *rs = x_calloc(1, sizeof(*rs));
    *rs = (struct replays){.tag = REPLAYS_TAG, .opts = *opts};
    id_alnum(rs->owner, REPLAY_OWNER_SIZE - 1);
    list_init(&rs->active);
    list_init(&rs->over);
    timer_init(&rs->renew, opts->loop, on_renew, rs);
    timer_set(&rs->renew, REPLAY_RENEW_MS);
    timer_init(&rs->sweep, opts->loop, on_sweep, rs);
    timer_set(&rs->sweep, 1000);
    metric_register(&replays_total);
    metric_register(&records_gauge);
    metric_register(&bytes_gauge);
    metric_register(&followers_gauge);
    metric_register(&detached_gauge);
    metrics_add_collector(collect, rs);
    return rs;
}

void replays_stop(struct replays *rs)
{
    if (!rs)
        return;
    rs->stopped = true;
    timer_stop(&rs->renew);
    timer_stop(&rs->sweep);
}

void replays_free(struct replays *rs)
{
    struct node *n;
    if (!rs)
        return;
    metrics_remove_collector(collect, rs);
    timer_release(&rs->renew);
    timer_release(&rs->sweep);
    while ((n = list_first(&rs->active)) || (n = list_first(&rs->over)))
        retire(container_of(n, struct replay, node));
    rs->tag = 0;
    free(rs);
}
