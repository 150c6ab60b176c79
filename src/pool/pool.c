/* pool.c - turns come in and end, workers report: the life of both.
 *
 * Every worker is on exactly one list: starting, spare (initialised, belongs to nobody), idle
 * (belongs to a class), busy, ending. After every change dispatch.c looks who can serve whom. */
#include "core/clock.h"
#include "core/id.h"
#include "core/log.h"
#include "metrics/metrics.h"
#include "pool/internal.h"
#include "pool/rundir.h"

#define TICK_MS        250
#define MAX_ATTEMPTS   2    /* one silent retry before the first byte */
#define CLEAR_IDLE_MS  2000 /* idle this long: forget the finished conversations */
#define CLEAR_TURNS    32   /* after this many turns a short pause is enough */
#define CLEAR_PAUSE_MS 200
#define CLEAR_NOW      128 /* and after this many none is waited for */
#define DOUBTS_MAX     4   /* so many, and the other way of giving history is taken: */
#define DOUBT_WRONG    2   /* a new process gave a wrong answer */
#define DOUBT_DIED     1   /* it died of the question */
#define PROBE_AGAIN_MS 600000
#define BROKEN_AFTER   3 /* failed starts in a row, and nobody there: turns are not queued */
#define START_SMOOTH   4 /* the average of start times moves by 1/n of the difference */
#define CLASS_SHARED   "everybody"
#define CLASS_MAX      512

static struct metric ends_total = {.name = "claudegate_worker_ends_total",
                                   .help = "claude processes ended, by reason.",
                                   .type = METRIC_COUNTER,
                                   .labels = {"reason"}};
static struct metric start_seconds = {.name = "claudegate_worker_start_seconds",
                                      .help = "Time from start to ready of a claude process.",
                                      .type = METRIC_HISTOGRAM};
static struct metric refused_total = {.name = "claudegate_queue_refused_total",
                                      .help = "Turns that were not queued or left unserved: full, "
                                              "timeout, breaker.",
                                      .type = METRIC_COUNTER,
                                      .labels = {"reason"}};
static struct metric retried_total = {
    .name = "claudegate_turns_retried_total",
    .help = "Turns tried again because their worker died before the first byte.",
    .type = METRIC_COUNTER};

static int shutting_down(struct err *err)
{
    return err_set(err, ERR_SHUTTING_DOWN, "The server is shutting down");
}

size_t pool_total(const struct pool *p)
{
    return p->starting.len + p->spare.len + p->idle.len + p->busy.len + p->ending.len;
}

static void unlist(struct worker *w)
{
    if (w->on)
        list_remove(w->on, &w->node);
    w->on = NULL;
}

void pool_move(struct worker *w, struct list *to)
{
    unlist(w);
    list_push_back(to, &w->node);
    w->on = to;
}

void pool_end_worker(struct pool *p, struct worker *w, const char *reason)
{
    pool_move(w, &p->ending);
    worker_end(w, reason);
}

static void dispatch_now(void *obj)
{
    struct pool *p = OBJ(obj, struct pool, POOL_TAG);
    p->dispatch_queued = false;
    pool_dispatch(p);
}

static void dispatch_soon(struct pool *p)
{
    if (p->dispatch_queued || (p->stopping && !queue_length(p->queue)))
        return;
    p->dispatch_queued = true;
    loop_defer(p->loop, dispatch_now, p);
}

/* --- ends of turns ----------------------------------------------------------------------- */

/* Needs a process that is started for it: pool_dispatch() will not find one that serves. */
bool pool_needs_own(const struct pool *p, const struct turn *t)
{
    return t->profile || (p->history == HISTORY_RESUME && json_array_size(t->history) > 0);
}

void pool_count_own(struct pool *p, struct turn *t, bool waits)
{
    if (t->counted_own)
        p->waiting_own--;
    t->counted_own = waits && pool_needs_own(p, t);
    if (t->counted_own)
        p->waiting_own++;
}

static void leave_queue(struct pool *p, struct turn *t)
{
    pool_count_own(p, t, false);
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
    if (r->ok)
        crashes_count(p, t->key_id, false);
    t->ops->done(t->ctx, r);
    turn_free(t);
}

/* A turn that has no worker (any more) ends with this error. */
void pool_fail_turn(struct turn *t, const struct err *why)
{
    struct turn_result r;
    turn_conclude(t, NULL, why, &r);
    finish_turn(t->pool, t, &r);
}

static void fail_turn_later(void *obj)
{
    struct turn *t = obj;
    pool_fail_turn(t, &t->cancel_err);
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

void pool_note_start_failure(struct pool *p, const char *why)
{
    int64_t now = clock_mono_ms();
    breaker_failed(&p->start_breaker, now);
    snprintf(p->last_start_error, sizeof(p->last_start_error), "%s", why);
    log_error("a claude process could not be started", LF_S("error", why),
              LF_I("failures_in_row", p->start_breaker.failures),
              LF_I("next_try_ms", breaker_pause_ms(&p->start_breaker, now)));
}

/* What the trial of a new process says about the program. Proven once, a failure is the process's;
 * never proven and failed repeatedly, it is the program's - but it is tried again now and then. One
 * that takes text for commands is not used at all: a transcript would not help against that. */
static void note_probe(struct pool *p, const struct worker *w, const char *failure)
{
    if (p->opts.history != HISTORY_AUTO || p->history == HISTORY_INJECT || w->unsafe)
        return;
    if (!failure) {
        p->history = HISTORY_INJECT;
        log_info("the claude program takes history and boundaries over stdin");
        return;
    }
    p->next_probe_ms = clock_mono_ms() + PROBE_AGAIN_MS;
    p->doubts += str_eq_c(str_c(w->end_reason), "probe_failed") ? DOUBT_WRONG : DOUBT_DIED;
    if (p->history == HISTORY_AUTO && p->doubts >= DOUBTS_MAX) {
        p->history = HISTORY_RESUME;
        log_error("this claude program does not take history over stdin as it should: each "
                  "conversation gets a new process with a transcript, which is slow",
                  LF_S("failure", failure));
    }
}

/* Initialised, whether as a spare or for a turn of its own. */
static void on_started(void *ctx, struct worker *w)
{
    struct pool *p = OBJ(ctx, struct pool, POOL_TAG);
    int64_t took_ms = clock_mono_ms() - w->started_ms;
    metric_observe(&start_seconds, (double)took_ms / 1000);
    p->start_ms += ((double)took_ms - p->start_ms) / (p->start_ms > 0 ? START_SMOOTH : 1);
    p->ready_once = true;
    breaker_succeeded(&p->start_breaker);
    dispatch_soon(p);
}

static void on_ready(void *ctx, struct worker *w)
{
    struct pool *p = OBJ(ctx, struct pool, POOL_TAG);
    if (w->probed)
        note_probe(p, w, NULL);
    w->idle_since_ms = clock_mono_ms();
    pool_move(w, &p->spare);
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
        worker_sample(w, true); /* a tool may have left something running */
    const char *reason = recycle_reason(p, w);
    w->idle_since_ms = clock_mono_ms();
    if (reason || p->stopping) {
        pool_end_worker(p, w, reason ? reason : "shutdown");
    } else if (w->turns_since_clear >= CLEAR_NOW && p->history != HISTORY_RESUME) {
        worker_clear(w); /* stays on the busy list until it is done */
    } else {
        pool_move(w, &p->idle);
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
        pool_fail_turn(t, p->stopping ? &stop : why);
        return;
    }
    metric_add(&retried_total, 1);
    log_warn("turn tried again on another worker", LF_S("request_id", t->request_id),
             LF_S("reason", why->msg));
    queue_push_back_in(p->queue, &t->queued);
    pool_count_own(p, t, true);
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
    if (p->stopping && pool_total(p) == 0 && !p->stopped_told) {
        p->stopped_told = true;
        loop_defer(p->loop, tell_stopped, p);
    }
}

/* A process that was to become a spare is everybody's; one that is started for a turn depends on
 * what the turn's key has put into it. */
static void note_unready(struct pool *p, struct worker *w, const struct err *why)
{
    if (w->probed)
        note_probe(p, w, why->msg);
    if (!w->for_turn && !p->stopping && !w->draining)
        pool_note_start_failure(p, why->msg);
}

/* It died, or had to be killed because it did not obey. Not: it was told to end. */
static bool is_crash(const struct pool *p, const struct worker *w)
{
    return !p->stopping && !w->draining &&
           (!w->end_reason || strcmp(w->end_reason, "cancelled") != 0);
}

static void on_ended(void *ctx, struct worker *w, struct turn *t, const struct err *why)
{
    struct pool *p = OBJ(ctx, struct pool, POOL_TAG);
    unlist(w);
    metric_add(&ends_total, 1, w->end_reason ? w->end_reason : "crash");
    p->cpu_s_ended += (double)w->usage.cpu_ms / 1000;
    if (!w->served)
        note_unready(p, w, why);
    if (t && is_crash(p, w))
        crashes_count(p, t->key_id, true);
    if (t)
        take_back(p, t, why);
    worker_free(w);
    dispatch_soon(p);
    maybe_stopped(p);
}

const struct worker_ops pool_worker_callbacks = {.started = on_started,
                                                 .ready = on_ready,
                                                 .released = on_released,
                                                 .cleared = on_cleared,
                                                 .ended = on_ended};

/* --- taking turns ------------------------------------------------------------------------ */

/* Nobody can serve, and starts fail: waiting would only be waiting for the time-out. */
static int check_breakers(struct pool *p, const char *key_id, struct err *err)
{
    int64_t pause = breaker_pause_ms(&p->start_breaker, clock_mono_ms());
    bool nobody = p->spare.len + p->idle.len + p->busy.len == 0;
    if (p->start_breaker.failures >= BROKEN_AFTER && nobody && pause > 0)
        err_set(err, ERR_OVERLOADED, "No claude process can be started at the moment");
    else if ((pause = crashes_pause_ms(p, key_id)) > 0)
        err_set(err, ERR_OVERLOADED,
                "Requests of this key ended one claude process after the other; it has to pause");
    else
        return 0;
    err->retry_after_s = (int)((pause + 999) / 1000);
    return -1;
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
    pool_count_own(p, t, true);
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
                pool_end_worker(p, w, "drained");
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

void pool_forget(struct pool *p, const char *conversation)
{
    size_t n = strlen(conversation);
    LIST_EACH(&p->idle, node)
    {
        struct worker *w = worker_of(node);
        if (strncmp(w->holds, conversation, n) == 0 && w->holds[n] == ':')
            x_replace(&w->holds, "");
    }
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
        pool_fail_turn(turn_of(e), &why);
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
            pool_end_worker(p, w, reason);
        } else if (w->state == WORKER_IDLE && p->history != HISTORY_RESUME &&
                   wants_clear(w, idle)) {
            pool_move(w, &p->busy);
            worker_clear(w);
        }
    }
    LIST_EACH(&p->spare, n)
    {
        if (recycle_reason(p, worker_of(n)))
            pool_end_worker(p, worker_of(n), "max_age");
    }
}

static void on_tick(void *obj)
{
    struct pool *p = OBJ(obj, struct pool, POOL_TAG);
    expire_queue(p);
    watch_sample(p);
    look_at_idle(p);
    crashes_sweep(p);
    pool_dispatch(p);
    timer_set(&p->tick, TICK_MS);
}

/* --- life -------------------------------------------------------------------------------- */

static void register_metrics(struct pool *p)
{
    struct metric *all[] = {&ends_total, &start_seconds, &refused_total, &retried_total};
    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        metric_register(all[i]);
    dispatch_register();
    watch_register(p);
}

struct pool *pool_new(struct loop *loop, const struct pool_opts *opts, struct err *err)
{
    struct rundirs *dirs =
        rundirs_new(loop, opts->run_dir, sandbox_status(opts->sandbox)->own_users, err);
    if (!dirs)
        return NULL;
    struct pool *p = x_calloc(1, sizeof(*p));
    p->tag = POOL_TAG;
    p->loop = loop;
    p->opts = *opts;
    p->dirs = dirs;
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
            pool_end_worker(p, worker_of(n), "shutdown");
        }
    }
    maybe_stopped(p);
}

void pool_free(struct pool *p)
{
    if (!p)
        return;
    BUG_ON(pool_total(p) || queue_length(p->queue));
    watch_unregister(p);
    queue_free(p->queue);
    crashes_free(p);
    timer_release(&p->tick);
    rundirs_free(p->dirs);
    free(p->claude_bin);
    free(p->model);
    free(p->pass_env);
    free(p->run_dir);
    p->tag = 0;
    free(p);
}
