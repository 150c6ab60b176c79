/* pool.c - which worker serves which turn, and how many there are.
 *
 * Every worker is on exactly one list: starting, spare (initialised, belongs to nobody), idle
 * (belongs to a class), busy, ending. dispatch() offers the workers to the waiting turns in the
 * order of the queue. After every change, balance() starts spares - within the limits on workers
 * and on simultaneous starts, with back-off while starts fail - and makes room by ending the idle
 * worker used longest ago.
 *
 * A turn that needs what only the start of a process can give has a worker started for it; it is
 * out of the queue from then on. */
#include "core/clock.h"
#include "core/id.h"
#include "core/log.h"
#include "metrics/metrics.h"
#include "pool/internal.h"
#include "pool/rundir.h"

#define TICK_MS        250
#define MAX_ATTEMPTS   2     /* one silent retry before the first byte */
#define FAIR_WAIT_MS   1000  /* a turn that waited this long gets the next free worker's place */
#define EVICT_IDLE_MS  10000 /* younger idle workers are ended only when a turn waits */
#define CLEAR_IDLE_MS  2000  /* idle this long: forget the finished conversations */
#define CLEAR_TURNS    32    /* after this many turns a short pause is enough */
#define CLEAR_PAUSE_MS 200
#define CLEAR_NOW      128 /* and after this many none is waited for */
#define PROBES_MIN     2   /* failed trials before the other way of giving history is taken */
#define BROKEN_AFTER   3   /* failed starts in a row, and nobody there: turns are not queued */
#define START_SMOOTH   4   /* the average of start times moves by 1/n of the difference */
#define PAYS_OFF       4 /* a worker serves its class for so many times as long as a start takes */
#define CLASS_SHARED   "everybody"
#define CLASS_MAX      512

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
static const double wait_buckets[] = {0.0001, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5,
                                      1,      2.5,   5,     10,   30,   60,  120,  300};
static struct metric wait_seconds = {.name = "claudegate_queue_wait_seconds",
                                     .help = "Time a turn waited until it had a worker.",
                                     .type = METRIC_HISTOGRAM,
                                     .buckets = wait_buckets,
                                     .bucket_count = ARRAY_SIZE(wait_buckets)};
static struct metric refused_total = {.name = "claudegate_queue_refused_total",
                                      .help = "Turns that were not queued or left unserved: full, "
                                              "timeout, breaker.",
                                      .type = METRIC_COUNTER,
                                      .labels = {"reason"}};
static struct metric retried_total = {
    .name = "claudegate_turns_retried_total",
    .help = "Turns tried again because their worker died before the first byte.",
    .type = METRIC_COUNTER};

static struct turn *turn_of(struct queued *e)
{
    return container_of(e, struct turn, queued);
}

static int shutting_down(struct err *err)
{
    return err_set(err, ERR_SHUTTING_DOWN, "The server is shutting down");
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
    if (p->dispatch_queued || (p->stopping && !queue_length(p->queue)))
        return;
    p->dispatch_queued = true;
    loop_defer(p->loop, dispatch_now, p);
}

/* --- ends of turns ----------------------------------------------------------------------- */

/* Needs a process that is started for it: dispatch() will not find one that serves. */
static bool needs_own(const struct pool *p, const struct turn *t)
{
    return t->profile || (p->history == HISTORY_RESUME && json_array_size(t->history) > 0);
}

static void count_own(struct pool *p, struct turn *t, bool waits)
{
    if (t->counted_own)
        p->waiting_own--;
    t->counted_own = waits && needs_own(p, t);
    if (t->counted_own)
        p->waiting_own++;
}

static void leave_queue(struct pool *p, struct turn *t)
{
    count_own(p, t, false);
    queue_remove(p->queue, &t->queued);
}

static int64_t time_spent_ms(const struct turn *t)
{
    return (clock_mono_us() - t->served_at_us) / 1000;
}

static void finish_turn(struct pool *p, struct turn *t, const struct turn_result *r)
{
    if (t->queued.running)
        queue_finished(p->queue, &t->queued, time_spent_ms(t));
    if (r->ok || r->err.code == ERR_WORKER)
        crashes_count(p, t->key_id, !r->ok);
    t->ops->done(t->ctx, r);
    turn_free(t);
}

/* A turn that has no worker (any more) ends with this error. */
static void fail_turn(struct turn *t, const struct err *why)
{
    struct turn_result r;
    turn_conclude(t, NULL, why, &r);
    finish_turn(t->pool, t, &r);
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
    } else if (!t->queued.running) {
        leave_queue(t->pool, t);
        loop_defer(t->pool->loop, fail_turn_later, t);
    }
}

size_t turn_position(const struct turn *t)
{
    return queue_position(t->pool->queue, &t->queued);
}

/* --- what workers tell ------------------------------------------------------------------- */

static void note_start_failure(struct pool *p, const char *why)
{
    int64_t now = clock_mono_ms();
    breaker_failed(&p->start_breaker, now);
    snprintf(p->last_start_error, sizeof(p->last_start_error), "%s", why);
    log_error("a claude process could not be started", LF_S("error", why),
              LF_I("failures_in_row", p->start_breaker.failures),
              LF_I("next_try_ms", breaker_pause_ms(&p->start_breaker, now)));
}

/* What the trial of a new process says about the program. Proven once, a failure is the process's;
 * never proven and failed repeatedly, it is the program's. One that takes text for commands is not
 * used at all: a transcript would not help against that. */
static void note_probe(struct pool *p, const struct worker *w, const char *failure)
{
    if (p->history != HISTORY_AUTO || w->unsafe)
        return;
    if (!failure) {
        p->history = HISTORY_INJECT;
        log_info("the claude program takes history and boundaries over stdin");
    } else if (++p->probes_failed >= PROBES_MIN) {
        p->history = HISTORY_RESUME;
        log_error("this claude program does not take history over stdin as it should: each "
                  "conversation gets a new process with a transcript, which is slow",
                  LF_S("failure", failure));
    }
}

static void on_ready(void *ctx, struct worker *w, const char *failure)
{
    struct pool *p = OBJ(ctx, struct pool, POOL_TAG);
    int64_t took_ms = clock_mono_ms() - w->started_ms;
    metric_observe(&start_seconds, (double)took_ms / 1000);
    p->start_ms += ((double)took_ms - p->start_ms) / (p->start_ms > 0 ? START_SMOOTH : 1);
    if (p->opts.history == HISTORY_AUTO)
        note_probe(p, w, failure);
    if (failure) {
        if (p->history != HISTORY_RESUME || w->unsafe)
            note_start_failure(p, failure);
        end_worker(p, w, "probe_failed");
        dispatch_soon(p);
        return;
    }
    breaker_succeeded(&p->start_breaker);
    w->idle_since_ms = clock_mono_ms();
    move_to(w, &p->spare);
    dispatch_soon(p);
}

static const char *recycle_reason(const struct pool *p, const struct worker *w)
{
    if (w->draining)
        return "drained";
    if (w->turns >= p->opts.max_requests)
        return "max_requests";
    if (w->usage.rss_kb > p->opts.max_rss_mb * 1024)
        return "max_rss";
    if (clock_mono_ms() - w->started_ms >= p->opts.max_age_s * 1000)
        return "max_age";
    if (w->turns == 0)
        return NULL;
    if (worker_left_processes(w))
        return "left_processes";
    if (p->opts.isolation == ISOLATE_REQUEST)
        return "isolation";
    if (p->history == HISTORY_RESUME && !w->holds[0])
        return "used"; /* it cannot forget */
    return NULL;
}

static void to_idle(struct pool *p, struct worker *w)
{
    if (w->profile)
        worker_sample(w); /* a tool may have left something running */
    const char *reason = recycle_reason(p, w);
    w->idle_since_ms = clock_mono_ms();
    if (reason || p->stopping) {
        end_worker(p, w, reason ? reason : "shutdown");
    } else if (w->turns_since_clear >= CLEAR_NOW && p->history != HISTORY_RESUME) {
        worker_clear(w); /* stays on the busy list until it is done */
    } else {
        move_to(w, &p->idle);
    }
    dispatch_soon(p);
}

static void on_released(void *ctx, struct worker *w, struct turn *t, const struct turn_result *r)
{
    struct pool *p = OBJ(ctx, struct pool, POOL_TAG);
    finish_turn(p, t, r);
    if (w->state == WORKER_IDLE)
        to_idle(p, w);
}

static void on_cleared(void *ctx, struct worker *w)
{
    struct pool *p = OBJ(ctx, struct pool, POOL_TAG);
    to_idle(p, w);
}

static void take_back(struct pool *p, struct turn *t, const struct err *why)
{
    bool again = why->code == ERR_WORKER && !t->cancelled && !t->any_event &&
                 t->attempts < MAX_ATTEMPTS && !p->stopping;
    if (!again) {
        struct err stop;
        shutting_down(&stop);
        fail_turn(t, p->stopping ? &stop : why);
        return;
    }
    metric_add(&retried_total, 1);
    log_warn("turn tried again on another worker", LF_S("request_id", t->request_id),
             LF_S("reason", why->msg));
    queue_push_back_in(p->queue, &t->queued);
    count_own(p, t, true);
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
    bool cancelled = t && t->cancelled;
    unlist(w);
    metric_add(&ends_total, 1, w->end_reason ? w->end_reason : "crash");
    p->cpu_s_ended += (double)w->usage.cpu_ms / 1000;
    if (!w->served && !p->stopping && !cancelled && !w->draining)
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

static size_t starting_now(struct pool *p)
{
    size_t n = p->starting.len;
    LIST_EACH(&p->busy, node)
    {
        n += !worker_of(node)->served; /* for a turn of its own */
    }
    return n;
}

static bool may_start(struct pool *p)
{
    return !p->stopping && starting_now(p) < (size_t)p->opts.start_concurrency &&
           total(p) < (size_t)p->opts.max_workers &&
           breaker_pause_ms(&p->start_breaker, clock_mono_ms()) == 0;
}

static struct worker *start(struct pool *p, const struct worker_spec *spec)
{
    struct err err;
    struct worker *w =
        worker_start(p->loop, &p->opts, ++p->next_id, spec, &worker_callbacks, p, &err);
    if (!w) {
        note_start_failure(p, err.msg);
        return NULL;
    }
    p->starts++;
    metric_add(&starts_total, 1);
    return w;
}

static void start_spare(struct pool *p)
{
    struct worker_spec spec = {.probe =
                                   p->opts.history == HISTORY_AUTO && p->history != HISTORY_RESUME};
    struct worker *w = start(p, &spec);
    if (w)
        move_to(w, &p->starting);
}

/* Another process in its place takes a start, a second of CPU or more: it must have been worth its
 * own, or be of no use. Without this, more keys than workers would mean starting all the time. */
static bool has_paid_off(const struct pool *p, const struct worker *w, int64_t now)
{
    return (double)(now - w->class_since_ms) >= PAYS_OFF * p->start_ms ||
           (double)(now - w->idle_since_ms) >= p->start_ms;
}

/* The idle worker used longest ago that may be ended, if it has been idle for at_least_ms. */
static struct worker *eviction_candidate(struct pool *p, int64_t at_least_ms)
{
    int64_t now = clock_mono_ms();
    LIST_EACH(&p->idle, n) /* released last = at the back */
    {
        struct worker *w = worker_of(n);
        if (now - w->idle_since_ms >= at_least_ms && has_paid_off(p, w, now))
            return w;
    }
    return NULL;
}

/* A turn that needs a process of its own needs a place for it; a spare is of no use to it but for
 * its place. Returns how many of those that end are needed for such turns. */
static size_t make_places(struct pool *p)
{
    size_t have = total(p), max = (size_t)p->opts.max_workers;
    size_t empty = have < max ? max - have : 0;
    size_t need = p->waiting_own > empty ? p->waiting_own - empty : 0;
    while (p->ending.len < need) {
        struct worker *w = eviction_candidate(p, 0);
        if (!w && p->spare.len)
            w = worker_of(list_first(&p->spare));
        if (!w)
            break;
        end_worker(p, w, "evicted");
    }
    return need < p->ending.len ? need : p->ending.len;
}

/* waiting: turns for which dispatch() found no worker. */
static void balance(struct pool *p, size_t waiting)
{
    size_t spoken_for = make_places(p);
    waiting -= waiting < p->waiting_own ? waiting : p->waiting_own;
    size_t want = waiting + (size_t)p->opts.min_spare;
    while (p->starting.len + p->spare.len < want && may_start(p))
        start_spare(p);
    size_t coming = p->starting.len + p->spare.len + p->ending.len - spoken_for;
    while (total(p) >= (size_t)p->opts.max_workers && coming < want) {
        struct worker *w = eviction_candidate(p, coming < waiting ? 0 : EVICT_IDLE_MS);
        if (!w)
            break;
        end_worker(p, w, "evicted");
        coming++;
    }
}

/* --- handing out ------------------------------------------------------------------------- */

/* Whether this idle worker can take that turn, and how little work it would be: 0 = cannot. */
static int suits(const struct pool *p, const struct worker *w, const struct turn *t)
{
    if (w->state != WORKER_IDLE || strcmp(w->class_id, t->class_id) != 0)
        return 0; /* one that broke while idle is ending, but still on the list */
    bool model = strcmp(w->model, t->model) == 0;
    bool holds = model && t->holds[0] && strcmp(w->holds, t->holds) == 0;
    if (p->history == HISTORY_RESUME && !holds)
        return 0;
    if (t->attempts > 0 && !worker_alive(w)) /* the same blow may have hit it too */
        return 0;
    return 1 + model + 2 * holds;
}

/* The class's worker that needs the least work: holding the conversation, else speaking the
 * model, else any; among equals the one used last. Then a spare. */
static struct worker *pick(struct pool *p, const struct turn *t)
{
    struct worker *best = NULL;
    int best_score = 1;
    LIST_EACH(&p->idle, n)
    {
        int score = suits(p, worker_of(n), t);
        if (score >= best_score) {
            best = worker_of(n);
            best_score = score;
        }
    }
    if (best || needs_own(p, t))
        return best;
    LIST_EACH(&p->spare, n)
    {
        struct worker *w = worker_of(n);
        if (w->state == WORKER_IDLE && (t->attempts == 0 || worker_alive(w)))
            return w;
    }
    return NULL;
}

static void note_served(struct pool *p, struct turn *t, struct worker *w)
{
    count_own(p, t, false);
    t->served_at_us = clock_mono_us();
    metric_observe(&wait_seconds, (double)(t->served_at_us - t->queued_at_us) / 1e6);
    x_replace(&w->key_id, t->key_id);
    if (!w->class_id[0]) {
        x_replace(&w->class_id, t->class_id);
        w->class_since_ms = clock_mono_ms();
    }
}

static bool start_for(struct pool *p, struct turn *t)
{
    struct worker_spec spec = {
        .own = t, .resume = p->history == HISTORY_RESUME && json_array_size(t->history) > 0};
    struct worker *w = may_start(p) ? start(p, &spec) : NULL;
    if (!w)
        return false;
    move_to(w, &p->busy);
    note_served(p, t, w);
    return true;
}

/* Without this a class that always has a turn waiting would keep its workers for ever: the queue
 * offers the turns of those whose share is used up after this one. */
static void make_room(struct pool *p, const struct turn *t)
{
    size_t coming = p->starting.len + p->spare.len + p->ending.len;
    if (coming >= ++p->unserved || total(p) < (size_t)p->opts.max_workers ||
        clock_mono_us() - t->queued.since_us < FAIR_WAIT_MS * 1000)
        return;
    struct worker *w = eviction_candidate(p, 0);
    if (w)
        end_worker(p, w, "evicted");
}

static bool serve(void *ctx, struct queued *e)
{
    struct pool *p = OBJ(ctx, struct pool, POOL_TAG);
    struct turn *t = turn_of(e);
    struct worker *w = pick(p, t);
    if (w) {
        move_to(w, &p->busy);
        note_served(p, t, w);
        worker_run(w, t);
        return true;
    }
    if (needs_own(p, t) && start_for(p, t))
        return true;
    make_room(p, t);
    return false;
}

static void dispatch(struct pool *p)
{
    p->unserved = 0;
    balance(p, queue_serve(p->queue, serve, p));
}

/* Nobody can serve and starts fail: waiting would only be waiting for the time-out. */
static bool is_broken(const struct pool *p)
{
    return p->start_breaker.failures >= BROKEN_AFTER &&
           p->spare.len + p->idle.len + p->busy.len == 0;
}

static int check_breakers(struct pool *p, const char *key_id, struct err *err)
{
    if (is_broken(p)) {
        int64_t pause = breaker_pause_ms(&p->start_breaker, clock_mono_ms());
        err_set(err, ERR_OVERLOADED, "No claude process can be started at the moment");
        err->retry_after_s = pause < 1000 ? 1 : (int)(pause / 1000);
        return -1;
    }
    return crashes_admit(p, key_id, err) ? 0 : -1;
}

/* Whose workers may serve the turn. A class of one request has no worker yet, and gets a spare. */
static void choose_class(const struct pool *p, const struct turn_request *req, struct buf *out)
{
    if (req->profile)
        buf_printf(out, "%s:%s:%s", req->profile->name, req->key_id, req->workspace_id);
    else if (p->opts.isolation == ISOLATE_REQUEST)
        buf_printf(out, "request:%s", req->request_id);
    else
        buf_adds(out, p->opts.isolation == ISOLATE_SHARED ? CLASS_SHARED : req->key_id);
}

struct turn *pool_run(struct pool *p, const struct turn_request *req, const struct turn_ops *ops,
                      void *ctx, struct err *err)
{
    struct buf class;
    if (p->stopping) {
        shutting_down(err);
        return NULL;
    }
    if (check_breakers(p, req->key_id, err) != 0) {
        metric_add(&refused_total, 1, "breaker");
        return NULL;
    }
    buf_init(&class, CLASS_MAX);
    choose_class(p, req, &class);
    struct turn *t = turn_new(p, req, buf_cstr(&class), ops, ctx);
    buf_release(&class);
    if (queue_push(p->queue, &t->queued, t->key_id, t->priority, err) != 0) {
        metric_add(&refused_total, 1, "full");
        turn_free(t);
        return NULL;
    }
    count_own(p, t, true);
    dispatch_soon(p);
    return t;
}

/* Those it is true for take no further turn. Returns how many. */
static size_t drain(struct pool *p, bool (*chosen)(const struct worker *w, const void *ctx),
                    const void *ctx)
{
    struct list *lists[] = {&p->starting, &p->spare, &p->idle, &p->busy};
    size_t told = 0;
    for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
        LIST_EACH(lists[i], n)
        {
            struct worker *w = worker_of(n);
            if (!chosen(w, ctx))
                continue;
            told++;
            w->draining = true;
            if (lists[i] != &p->busy)
                end_worker(p, w, "drained");
        }
    }
    dispatch_soon(p);
    return told;
}

static bool has_id(const struct worker *w, const void *ctx)
{
    const unsigned *id = ctx;
    return *id == 0 || w->id == *id;
}

size_t pool_drain(struct pool *p, unsigned id)
{
    size_t told = drain(p, has_id, &id);
    if (told)
        log_info("workers are drained", LF_I("worker", id), LF_I("count", told));
    return told;
}

static bool works_in(const struct worker *w, const void *ctx)
{
    const char *id = w->profile ? strrchr(w->class_id, ':') : NULL;
    return id && strcmp(id + 1, ctx) == 0;
}

size_t pool_drain_workspace(struct pool *p, const char *workspace_id)
{
    return drain(p, works_in, workspace_id);
}

/* --- time -------------------------------------------------------------------------------- */

static void expire_queue(struct pool *p)
{
    int64_t limit_us = p->opts.queue_timeout_ms * 1000, now = clock_mono_us();
    struct queued *e;
    while ((e = queue_oldest(p->queue)) && now - e->since_us >= limit_us) {
        struct err why;
        leave_queue(p, turn_of(e));
        err_set(&why, ERR_OVERLOADED, "No worker became free within %lld ms",
                (long long)p->opts.queue_timeout_ms);
        why.retry_after_s = queue_retry_after(p->queue);
        metric_add(&refused_total, 1, "timeout");
        fail_turn(turn_of(e), &why);
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
        } else if (w->state == WORKER_IDLE && p->history != HISTORY_RESUME &&
                   wants_clear(w, idle)) {
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
    watch_sample(p);
    look_at_idle(p);
    crashes_sweep(p);
    dispatch(p);
    timer_set(&p->tick, TICK_MS);
}

/* --- life -------------------------------------------------------------------------------- */

static void register_metrics(struct pool *p)
{
    struct metric *all[] = {&starts_total, &ends_total,    &start_seconds,
                            &wait_seconds, &refused_total, &retried_total};
    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        metric_register(all[i]);
    watch_register(p);
}

struct pool *pool_new(struct loop *loop, const struct pool_opts *opts, struct err *err)
{
    if (rundir_clean(opts->run_dir, sandbox_status(opts->sandbox)->own_users, err) != 0)
        return NULL;
    struct pool *p = x_calloc(1, sizeof(*p));
    p->tag = POOL_TAG;
    p->loop = loop;
    p->opts = *opts;
    p->opts.claude_bin = p->claude_bin = x_strdup(opts->claude_bin);
    p->opts.model = p->model = x_strdup(opts->model);
    p->opts.pass_env = p->pass_env = x_strdup(opts->pass_env ? opts->pass_env : "");
    p->opts.run_dir = p->run_dir = x_strdup(opts->run_dir);
    p->history = opts->history;
    struct queue_opts q = {.max = (size_t)opts->queue_max,
                           .max_per_key = (size_t)opts->queue_max_per_key};
    p->queue = queue_new(&q);
    struct list *lists[] = {&p->starting, &p->spare, &p->idle, &p->busy, &p->ending};
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
    shutting_down(&why);
    struct queued *e;
    while ((e = queue_oldest(p->queue)))
        turn_cancel(turn_of(e), &why);
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
    BUG_ON(total(p) || queue_length(p->queue));
    watch_unregister(p);
    queue_free(p->queue);
    crashes_free(p);
    timer_release(&p->tick);
    struct err ignored;
    if (rundir_clean(p->run_dir, false, &ignored) != 0)
        log_warn("worker directories could not be removed, ignoring", LF_S("error", ignored.msg));
    free(p->claude_bin);
    free(p->model);
    free(p->pass_env);
    free(p->run_dir);
    p->tag = 0;
    free(p);
}
