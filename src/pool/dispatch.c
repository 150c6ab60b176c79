/* dispatch.c - which worker serves which turn, and how many workers there are.
 *
 * pool_dispatch() offers the workers to the waiting turns in the order of the queue. Then balance()
 * starts spares - within the limits on workers and on simultaneous starts, with back-off while
 * starts fail - and makes room by ending the idle worker used longest ago.
 *
 * A turn that needs what only the start of a process can give has a worker started for it; it is
 * out of the queue from then on. */
#include "core/clock.h"
#include "core/log.h"
#include "metrics/metrics.h"
#include "pool/internal.h"

#define FAIR_WAIT_MS  1000  /* a turn that waited this long gets the next free worker's place */
#define EVICT_IDLE_MS 10000 /* younger idle workers are ended only when a turn waits */
#define PAYS_OFF      4 /* a worker serves its class for so many times as long as a start takes */

static struct metric starts_total = {.name = "claudegate_worker_starts_total",
                                     .help = "claude processes started.",
                                     .type = METRIC_COUNTER};
static const double wait_buckets[] = {0.0001, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5,
                                      1,      2.5,   5,     10,   30,   60,  120,  300};
static struct metric wait_seconds = {.name = "claudegate_queue_wait_seconds",
                                     .help = "Time a turn waited until it had a worker.",
                                     .type = METRIC_HISTOGRAM,
                                     .buckets = wait_buckets,
                                     .bucket_count = ARRAY_SIZE(wait_buckets)};

void dispatch_register(void)
{
    metric_register(&starts_total);
    metric_register(&wait_seconds);
}

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
           pool_total(p) < (size_t)p->opts.max_workers &&
           breaker_pause_ms(&p->start_breaker, clock_mono_ms()) == 0;
}

static struct worker *start(struct pool *p, const struct worker_spec *spec, struct err *err)
{
    struct worker *w =
        worker_start(p->loop, &p->opts, ++p->next_id, spec, &pool_worker_callbacks, p, err);
    if (w) {
        p->starts++;
        metric_add(&starts_total, 1);
    }
    return w;
}

static void start_spare(struct pool *p)
{
    struct err err;
    struct worker_spec spec = {
        .dirs = p->dirs,
        .probe = p->opts.history == HISTORY_AUTO &&
                 (p->history != HISTORY_RESUME || clock_mono_ms() >= p->next_probe_ms)};
    struct worker *w = start(p, &spec, &err);
    if (w)
        pool_move(w, &p->starting);
    else
        pool_note_start_failure(p, err.msg);
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
    size_t have = pool_total(p), max = (size_t)p->opts.max_workers;
    if (breaker_pause_ms(&p->start_breaker, clock_mono_ms()) > 0)
        return 0; /* none could be started in their places */
    size_t empty = have < max ? max - have : 0;
    size_t need = p->waiting_own > empty ? p->waiting_own - empty : 0;
    while (p->ending.len < need) {
        struct worker *w = eviction_candidate(p, 0);
        if (!w && p->spare.len)
            w = worker_of(list_first(&p->spare));
        if (!w)
            break;
        pool_end_worker(p, w, "evicted");
    }
    return need < p->ending.len ? need : p->ending.len;
}

/* waiting: turns for which pool_dispatch() found no worker. */
static void balance(struct pool *p, size_t waiting)
{
    size_t spoken_for = make_places(p);
    waiting -= waiting < p->waiting_own ? waiting : p->waiting_own;
    size_t want = waiting + (size_t)p->opts.min_spare;
    if (want == 0 && p->waiting_own && p->history == HISTORY_AUTO)
        want = 1; /* to be tried out: nothing is asked of a program that never was */
    while (p->starting.len + p->spare.len < want && may_start(p))
        start_spare(p);
    size_t coming = p->starting.len + p->spare.len + p->ending.len - spoken_for;
    while (pool_total(p) >= (size_t)p->opts.max_workers && coming < want) {
        struct worker *w = eviction_candidate(p, coming < waiting ? 0 : EVICT_IDLE_MS);
        if (!w)
            break;
        pool_end_worker(p, w, "evicted");
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
    if (best || pool_needs_own(p, t))
        return best;
    LIST_EACH(&p->spare, n)
    {
        struct worker *w = worker_of(n);
        if (w->state == WORKER_IDLE && (t->attempts == 0 || worker_alive(w)))
            return w;
    }
    return NULL;
}

static void note_served(struct pool *p, struct turn *t)
{
    pool_count_own(p, t, false);
    t->served_at_us = clock_mono_us();
    metric_observe(&wait_seconds, (double)(t->served_at_us - t->queued_at_us) / 1e6);
}

static void claim(struct pool *p, struct worker *w, struct turn *t)
{
    pool_move(w, &p->busy);
    note_served(p, t);
    x_replace(&w->key_id, t->key_id);
    if (!w->class_id[0]) {
        x_replace(&w->class_id, t->class_id);
        w->class_since_ms = clock_mono_ms();
    }
}

static void fail_start_later(void *obj)
{
    struct turn *t = obj;
    crashes_count(t->pool, t->key_id, true);
    pool_fail_turn(t, &t->start_err);
}

/* True: the turn is out of the queue, with a process of its own or with a reason why not. */
static bool start_for(struct pool *p, struct turn *t)
{
    struct worker_spec spec = {.dirs = p->dirs,
                               .own = t,
                               .resume =
                                   p->history == HISTORY_RESUME && json_array_size(t->history) > 0};
    if (p->history == HISTORY_AUTO || !may_start(p))
        return false;
    struct worker *w = start(p, &spec, &t->start_err);
    if (w) {
        claim(p, w, t);
    } else {
        log_error("a claude process could not be started for a turn",
                  LF_S("request_id", t->request_id), LF_S("error", t->start_err.msg));
        note_served(p, t);
        loop_defer(p->loop, fail_start_later, t);
    }
    return true;
}

/* Without this a class that always has a turn waiting would keep its workers for ever: the queue
 * offers the turns of those whose share is used up after this one. */
static void make_room(struct pool *p, const struct turn *t)
{
    size_t coming = p->starting.len + p->spare.len + p->ending.len;
    if (coming >= ++p->unserved || pool_total(p) < (size_t)p->opts.max_workers ||
        clock_mono_us() - t->queued.since_us < FAIR_WAIT_MS * 1000)
        return;
    struct worker *w = eviction_candidate(p, 0);
    if (w)
        pool_end_worker(p, w, "evicted");
}

static bool serve(void *ctx, struct queued *e)
{
    struct pool *p = OBJ(ctx, struct pool, POOL_TAG);
    struct turn *t = turn_of(e);
    if (crashes_pause_ms(p, t->key_id) > 0)
        return false; /* it must not take a worker, nor make room for one */
    struct worker *w = pick(p, t);
    if (w) {
        crashes_note_try(p, t->key_id);
        claim(p, w, t);
        worker_run(w, t);
        return true;
    }
    if (pool_needs_own(p, t) && start_for(p, t)) {
        crashes_note_try(p, t->key_id);
        return true;
    }
    make_room(p, t);
    return false;
}

void pool_dispatch(struct pool *p)
{
    p->unserved = 0;
    balance(p, queue_serve(p->queue, serve, p));
}
