/* pool.c - which worker serves which turn, and how many there are.
 *
 * Every worker is on exactly one list: starting, spare (initialised, belongs to nobody), idle
 * (belongs to a class), busy, ending. dispatch() walks the waiting turns in order and gives each
 * what it may have; turns of one class do not block turns of another. After every change,
 * balance() starts spares - within the limits on workers and on simultaneous starts, with
 * back-off while starts fail - and makes room by ending the idle worker used longest ago. */
#include "pool/pool.h"

#include "core/clock.h"
#include "core/log.h"
#include "metrics/metrics.h"
#include "pool/rundir.h"
#include "pool/worker.h"

#define POOL_TAG       TAG4('P', 'O', 'O', 'L')
#define TICK_MS        250
#define MAX_ATTEMPTS   2 /* one silent retry before the first byte */
#define BACKOFF_MIN_MS 500
#define BACKOFF_MAX_MS 30000
#define FAIR_WAIT_MS   1000  /* a turn that waited this long gets the next free worker's place */
#define EVICT_IDLE_MS  10000 /* younger idle workers are ended only when a turn waits */
#define CLEAR_IDLE_MS  2000  /* idle this long: forget the finished conversations */
#define CLEAR_TURNS    32    /* after this many turns a short pause is enough */
#define CLEAR_PAUSE_MS 200
#define CLEAR_NOW      128 /* and after this many none is waited for */
#define BROKEN_AFTER   3   /* failed starts in a row, and nobody there: turns are not queued */

struct pool {
    uint32_t tag;
    struct loop *loop;
    struct pool_opts opts;
    char *claude_bin, *model, *pass_env, *run_dir;
    struct list starting, spare, idle, busy, ending;
    struct list queue;
    struct timer tick;
    bool dispatch_queued;
    unsigned next_id;
    int64_t starts, failures_in_row, no_start_before_ms;
    char last_start_error[400];
    double wait_estimate_s; /* smoothed time from one dispatch to the next: for retry-after */
    int64_t last_dispatch_ms;
    bool stopping, stopped_told;
    void (*stopped)(void *ctx);
    void *stopped_ctx;
};

static struct metric workers_gauge = {.name = "claudegate_workers",
                                      .help = "claude processes by state.",
                                      .type = METRIC_GAUGE,
                                      .labels = {"state"}};
static struct metric starts_total = {.name = "claudegate_worker_starts_total",
                                     .help = "claude processes started.",
                                     .type = METRIC_COUNTER};
static struct metric ends_total = {.name = "claudegate_worker_ends_total",
                                   .help = "claude processes ended, by reason.",
                                   .type = METRIC_COUNTER,
                                   .labels = {"reason"}};
static struct metric start_seconds = {.name = "claudegate_worker_start_seconds",
                                      .help = "Time from start to ready of a claude process.",
                                      .type = METRIC_HISTOGRAM};
static struct metric queue_gauge = {
    .name = "claudegate_queue_length", .help = "Turns waiting for a worker.", .type = METRIC_GAUGE};
static struct metric wait_seconds = {.name = "claudegate_queue_wait_seconds",
                                     .help = "Time a turn waited for a worker.",
                                     .type = METRIC_HISTOGRAM};
static struct metric retried_total = {
    .name = "claudegate_turns_retried_total",
    .help = "Turns tried again because their worker died before the first byte.",
    .type = METRIC_COUNTER};

static struct worker *worker_of(struct node *n)
{
    return container_of(n, struct worker, node);
}

static struct turn *turn_of(struct node *n)
{
    return container_of(n, struct turn, node);
}

static size_t total(const struct pool *p)
{
    return p->starting.len + p->spare.len + p->idle.len + p->busy.len + p->ending.len;
}

static void unlist(struct worker *w)
{
    if (w->on)
        list_remove(w->on, &w->node);
    w->on = NULL;
}

static void move_to(struct worker *w, struct list *to)
{
    unlist(w);
    list_push_back(to, &w->node);
    w->on = to;
}

static void end_worker(struct pool *p, struct worker *w, const char *reason)
{
    move_to(w, &p->ending);
    worker_end(w, reason);
}

static void dispatch(struct pool *p);

static void dispatch_now(void *obj)
{
    struct pool *p = OBJ(obj, struct pool, POOL_TAG);
    p->dispatch_queued = false;
    dispatch(p);
}

static void dispatch_soon(struct pool *p)
{
    if (p->dispatch_queued || (p->stopping && !p->queue.len))
        return;
    p->dispatch_queued = true;
    loop_defer(p->loop, dispatch_now, p);
}

/* --- ends of turns ----------------------------------------------------------------------- */

static void finish_turn(struct turn *t, const struct turn_result *r)
{
    t->ops->done(t->ctx, r);
    turn_free(t);
}

/* A turn that has no worker (any more) ends with this error. */
static void fail_turn(struct turn *t, const struct err *why)
{
    struct turn_result r;
    turn_conclude(t, NULL, why, &r);
    finish_turn(t, &r);
}

static void fail_turn_later(void *obj)
{
    struct turn *t = obj;
    fail_turn(t, &t->cancel_err);
}

void turn_cancel(struct turn *t, const struct err *why)
{
    if (t->cancelled)
        return;
    t->cancelled = true;
    t->cancel_err = *why;
    if (t->worker) {
        worker_cancel(t->worker);
    } else if (node_linked(&t->node)) {
        list_remove(&t->pool->queue, &t->node);
        loop_defer(t->pool->loop, fail_turn_later, t);
    }
}

/* --- what workers tell ------------------------------------------------------------------- */

static void on_ready(void *ctx, struct worker *w)
{
    struct pool *p = OBJ(ctx, struct pool, POOL_TAG);
    metric_observe(&start_seconds, (double)(clock_mono_ms() - w->started_ms) / 1000);
    p->failures_in_row = 0;
    w->idle_since_ms = clock_mono_ms();
    move_to(w, &p->spare);
    dispatch_soon(p);
}

static const char *recycle_reason(const struct pool *p, const struct worker *w)
{
    if (w->turns >= p->opts.max_requests)
        return "max_requests";
    if (w->rss_kb > p->opts.max_rss_mb * 1024)
        return "max_rss";
    if (clock_mono_ms() - w->started_ms >= p->opts.max_age_s * 1000)
        return "max_age";
    return NULL;
}

static void to_idle(struct pool *p, struct worker *w)
{
    const char *reason = recycle_reason(p, w);
    w->idle_since_ms = clock_mono_ms();
    if (reason || p->stopping) {
        end_worker(p, w, reason ? reason : "shutdown");
    } else if (w->turns_since_clear >= CLEAR_NOW) {
        worker_clear(w); /* stays on the busy list until it is done */
    } else {
        move_to(w, &p->idle);
    }
    dispatch_soon(p);
}

static void on_released(void *ctx, struct worker *w, struct turn *t, const struct turn_result *r)
{
    struct pool *p = OBJ(ctx, struct pool, POOL_TAG);
    finish_turn(t, r);
    if (w->state == WORKER_IDLE)
        to_idle(p, w);
}

static void on_cleared(void *ctx, struct worker *w)
{
    struct pool *p = OBJ(ctx, struct pool, POOL_TAG);
    to_idle(p, w);
}

static void note_start_failure(struct pool *p, const char *why)
{
    int64_t delay = BACKOFF_MIN_MS;
    for (int64_t i = 0; i < p->failures_in_row && delay < BACKOFF_MAX_MS; i++)
        delay *= 2;
    if (delay > BACKOFF_MAX_MS)
        delay = BACKOFF_MAX_MS;
    p->failures_in_row++;
    p->no_start_before_ms = clock_mono_ms() + delay;
    snprintf(p->last_start_error, sizeof(p->last_start_error), "%s", why);
    log_error("a claude process could not be started", LF_S("error", why),
              LF_I("failures_in_row", p->failures_in_row), LF_I("next_try_ms", delay));
}

static void take_back(struct pool *p, struct turn *t, const struct err *why)
{
    bool again = why->code == ERR_WORKER && !t->cancelled && !t->any_event &&
                 t->attempts < MAX_ATTEMPTS && !p->stopping;
    if (!again) {
        struct err stop;
        err_set(&stop, ERR_SHUTTING_DOWN, "The server is shutting down");
        fail_turn(t, p->stopping ? &stop : why);
        return;
    }
    metric_add(&retried_total, 1);
    log_warn("turn tried again on another worker", LF_S("request_id", t->request_id),
             LF_S("reason", why->msg));
    t->waiting_since_us = clock_mono_us();
    list_push_front(&p->queue, &t->node);
}

static void tell_stopped(void *obj)
{
    struct pool *p = OBJ(obj, struct pool, POOL_TAG);
    p->stopped(p->stopped_ctx);
}

/* Deferred: never inside pool_stop(), and after everything that is deferred already - workers to
 * be freed, turns to be failed, a dispatch. */
static void maybe_stopped(struct pool *p)
{
    if (p->stopping && total(p) == 0 && !p->stopped_told) {
        p->stopped_told = true;
        loop_defer(p->loop, tell_stopped, p);
    }
}

static void on_ended(void *ctx, struct worker *w, struct turn *t, const struct err *why)
{
    struct pool *p = OBJ(ctx, struct pool, POOL_TAG);
    bool never_ready = w->on == &p->starting;
    unlist(w);
    metric_add(&ends_total, 1, w->end_reason ? w->end_reason : "crash");
    if (never_ready && !p->stopping)
        note_start_failure(p, why->msg);
    if (t)
        take_back(p, t, why);
    worker_free(w);
    dispatch_soon(p);
    maybe_stopped(p);
}

static const struct worker_ops worker_callbacks = {
    .ready = on_ready, .released = on_released, .cleared = on_cleared, .ended = on_ended};

/* --- starting and making room ------------------------------------------------------------ */

static void start_one(struct pool *p)
{
    struct err err;
    struct worker *w = worker_start(p->loop, &p->opts, ++p->next_id, &worker_callbacks, p, &err);
    if (!w) {
        note_start_failure(p, err.msg);
        return;
    }
    p->starts++;
    metric_add(&starts_total, 1);
    move_to(w, &p->starting);
}

/* The idle worker used longest ago, if it has been idle for at_least_ms. */
static struct worker *eviction_candidate(struct pool *p, int64_t at_least_ms)
{
    struct node *n = list_first(&p->idle); /* released last = at the back */
    if (!n || clock_mono_ms() - worker_of(n)->idle_since_ms < at_least_ms)
        return NULL;
    return worker_of(n);
}

/* needed: turns for which dispatch() found no worker. */
static void balance(struct pool *p, size_t needed)
{
    size_t want = needed + (size_t)p->opts.min_spare;
    while (!p->stopping && p->starting.len + p->spare.len < want &&
           p->starting.len < (size_t)p->opts.start_concurrency &&
           total(p) < (size_t)p->opts.max_workers && clock_mono_ms() >= p->no_start_before_ms)
        start_one(p);
    size_t coming = p->starting.len + p->spare.len + p->ending.len;
    while (total(p) >= (size_t)p->opts.max_workers && coming < want) {
        struct worker *w = eviction_candidate(p, coming < needed ? 0 : EVICT_IDLE_MS);
        if (!w)
            break;
        end_worker(p, w, "evicted");
        coming++;
    }
}

/* --- handing out ------------------------------------------------------------------------- */

/* The class's worker that needs the least work: holding the conversation, else speaking the
 * model, else any; among equals the one used last. Then a spare. */
static struct worker *pick(struct pool *p, const struct turn *t)
{
    struct worker *best = NULL;
    int best_score = 0;
    LIST_EACH(&p->idle, n)
    {
        struct worker *w = worker_of(n);
        if (w->state != WORKER_IDLE || strcmp(w->class_id, t->class_id) != 0)
            continue; /* one that broke while idle is ending, but still on the list */
        bool model = strcmp(w->model, t->model) == 0;
        bool holds = model && t->holds[0] && strcmp(w->holds, t->holds) == 0;
        int score = 1 + model + 2 * holds;
        if (score >= best_score) {
            best = w;
            best_score = score;
        }
    }
    if (best)
        return best;
    LIST_EACH(&p->spare, n)
    {
        if (worker_of(n)->state == WORKER_IDLE)
            return worker_of(n);
    }
    return NULL;
}

static void note_dispatch(struct pool *p, const struct turn *t)
{
    int64_t now = clock_mono_ms();
    double gap = (double)(now - p->last_dispatch_ms) / 1000;
    if (p->last_dispatch_ms)
        p->wait_estimate_s = 0.8 * p->wait_estimate_s + 0.2 * (gap < 10 ? gap : 10);
    p->last_dispatch_ms = now;
    metric_observe(&wait_seconds, (double)(clock_mono_us() - t->queued_at_us) / 1e6);
}

static void assign(struct pool *p, struct worker *w, struct turn *t)
{
    list_remove(&p->queue, &t->node);
    if (!w->class_id[0])
        x_replace(&w->class_id, t->class_id);
    move_to(w, &p->busy);
    note_dispatch(p, t);
    worker_run(w, t);
}

/* Without this a class that always has a turn waiting would keep its workers for ever: dispatch()
 * comes by here before it offers the idle ones to turns further back. */
static void make_room(struct pool *p, const struct turn *t, size_t needed)
{
    size_t coming = p->starting.len + p->spare.len + p->ending.len;
    struct node *n = list_first(&p->idle);
    if (n && coming < needed && total(p) >= (size_t)p->opts.max_workers &&
        clock_mono_us() - t->waiting_since_us >= FAIR_WAIT_MS * 1000)
        end_worker(p, worker_of(n), "evicted");
}

static void dispatch(struct pool *p)
{
    size_t needed = 0;
    LIST_EACH(&p->queue, n)
    {
        struct turn *t = turn_of(n);
        struct worker *w = pick(p, t);
        if (w)
            assign(p, w, t);
        else
            make_room(p, t, ++needed);
    }
    balance(p, needed);
}

/* Nobody can serve and starts fail: waiting would only be waiting for the time-out. */
static bool is_broken(const struct pool *p)
{
    return p->failures_in_row >= BROKEN_AFTER && p->spare.len + p->idle.len + p->busy.len == 0;
}

static int retry_after_start(const struct pool *p)
{
    int64_t ms = p->no_start_before_ms - clock_mono_ms();
    return ms < 1000 ? 1 : (int)(ms / 1000);
}

struct turn *pool_run(struct pool *p, const struct turn_request *req, const struct turn_ops *ops,
                      void *ctx, struct err *err)
{
    if (p->stopping) {
        err_set(err, ERR_SHUTTING_DOWN, "The server is shutting down");
        return NULL;
    }
    if (is_broken(p)) {
        err_set(err, ERR_OVERLOADED, "No claude process can be started at the moment");
        err->retry_after_s = retry_after_start(p);
        return NULL;
    }
    if (p->queue.len >= (size_t)p->opts.queue_max) {
        err_set(err, ERR_OVERLOADED, "The queue is full (%zu requests wait)", p->queue.len);
        double s = p->wait_estimate_s * (double)p->queue.len;
        err->retry_after_s = s < 1 ? 1 : s > 60 ? 60 : (int)s;
        return NULL;
    }
    struct turn *t = turn_new(p, req, ops, ctx);
    list_push_back(&p->queue, &t->node);
    dispatch_soon(p);
    return t;
}

/* --- time -------------------------------------------------------------------------------- */

static void expire_queue(struct pool *p)
{
    int64_t limit_us = p->opts.queue_timeout_ms * 1000, now = clock_mono_us();
    LIST_EACH(&p->queue, n)
    {
        struct turn *t = turn_of(n);
        struct err why;
        if (now - t->waiting_since_us < limit_us)
            continue;
        list_remove(&p->queue, n);
        err_set(&why, ERR_OVERLOADED, "No worker became free within %lld ms",
                (long long)p->opts.queue_timeout_ms);
        why.retry_after_s = 5;
        fail_turn(t, &why);
    }
}

/* A pause, because a class whose worker is clearing would take a spare instead. */
static bool wants_clear(const struct worker *w, int64_t idle_ms)
{
    if (w->turns_since_clear >= CLEAR_TURNS)
        return idle_ms >= CLEAR_PAUSE_MS;
    return w->dirty && !w->holds[0] && idle_ms >= CLEAR_IDLE_MS;
}

static void look_at_idle(struct pool *p)
{
    int64_t now = clock_mono_ms();
    LIST_EACH(&p->idle, n)
    {
        struct worker *w = worker_of(n);
        int64_t idle = now - w->idle_since_ms;
        const char *reason = recycle_reason(p, w);
        if (idle >= p->opts.idle_timeout_s * 1000)
            reason = "idle";
        if (reason) {
            end_worker(p, w, reason);
        } else if (w->state == WORKER_IDLE && wants_clear(w, idle)) {
            move_to(w, &p->busy);
            worker_clear(w);
        }
    }
    LIST_EACH(&p->spare, n)
    {
        if (recycle_reason(p, worker_of(n)))
            end_worker(p, worker_of(n), "max_age");
    }
}

static void on_tick(void *obj)
{
    struct pool *p = OBJ(obj, struct pool, POOL_TAG);
    expire_queue(p);
    look_at_idle(p);
    dispatch(p);
    timer_set(&p->tick, TICK_MS);
}

/* --- life -------------------------------------------------------------------------------- */

static void collect(void *ctx)
{
    struct pool_status s;
    pool_status(OBJ(ctx, struct pool, POOL_TAG), &s);
    metric_set(&workers_gauge, (double)s.starting, "starting");
    metric_set(&workers_gauge, (double)s.spare, "spare");
    metric_set(&workers_gauge, (double)s.idle, "idle");
    metric_set(&workers_gauge, (double)s.busy, "busy");
    metric_set(&workers_gauge, (double)s.ending, "ending");
    metric_set(&queue_gauge, (double)s.queued);
}

static void register_metrics(struct pool *p)
{
    struct metric *all[] = {&workers_gauge, &starts_total, &ends_total,   &start_seconds,
                            &queue_gauge,   &wait_seconds, &retried_total};
    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        metric_register(all[i]);
    metrics_add_collector(collect, p);
}

struct pool *pool_new(struct loop *loop, const struct pool_opts *opts, struct err *err)
{
    if (rundir_clean(opts->run_dir, err) != 0)
        return NULL;
    struct pool *p = x_calloc(1, sizeof(*p));
    p->tag = POOL_TAG;
    p->loop = loop;
    p->opts = *opts;
    p->opts.claude_bin = p->claude_bin = x_strdup(opts->claude_bin);
    p->opts.model = p->model = x_strdup(opts->model);
    p->opts.pass_env = p->pass_env = x_strdup(opts->pass_env ? opts->pass_env : "");
    p->opts.run_dir = p->run_dir = x_strdup(opts->run_dir);
    struct list *lists[] = {&p->starting, &p->spare, &p->idle, &p->busy, &p->ending, &p->queue};
    for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
        list_init(lists[i]);
    timer_init(&p->tick, loop, on_tick, p);
    timer_set(&p->tick, TICK_MS);
    register_metrics(p);
    dispatch_soon(p);
    return p;
}

void pool_stop(struct pool *p, void (*done)(void *ctx), void *ctx)
{
    struct err why;
    p->stopping = true;
    p->stopped = done;
    p->stopped_ctx = ctx;
    err_set(&why, ERR_SHUTTING_DOWN, "The server is shutting down");
    LIST_EACH(&p->queue, n)
    {
        turn_cancel(turn_of(n), &why);
    }
    struct list *lists[] = {&p->starting, &p->spare, &p->idle, &p->busy};
    for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
        LIST_EACH(lists[i], n)
        {
            end_worker(p, worker_of(n), "shutdown");
        }
    }
    maybe_stopped(p);
}

void pool_free(struct pool *p)
{
    if (!p)
        return;
    BUG_ON(total(p) || p->queue.len);
    metrics_remove_collector(collect, p);
    timer_release(&p->tick);
    struct err ignored;
    if (rundir_clean(p->run_dir, &ignored) != 0)
        log_warn("worker directories could not be removed, ignoring", LF_S("error", ignored.msg));
    free(p->claude_bin);
    free(p->model);
    free(p->pass_env);
    free(p->run_dir);
    p->tag = 0;
    free(p);
}

void pool_status(const struct pool *p, struct pool_status *ret)
{
    *ret = (struct pool_status){.starting = p->starting.len,
                                .spare = p->spare.len,
                                .idle = p->idle.len,
                                .busy = p->busy.len,
                                .ending = p->ending.len,
                                .queued = p->queue.len,
                                .starts = p->starts,
                                .start_failures_in_row = p->failures_in_row};
    memcpy(ret->last_start_error, p->last_start_error, sizeof(ret->last_start_error));
}
