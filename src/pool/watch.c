/* watch.c - what operators see of the pool: metrics, its status, the list of its workers. */
#include "pool/internal.h"

#include "core/clock.h"
#include "metrics/metrics.h"

#define SAMPLE_TICKS 8 /* a worker is looked at once in so many ticks */

static struct metric workers_gauge = {.name = "claudegate_workers",
                                      .help = "claude processes by state.",
                                      .type = METRIC_GAUGE,
                                      .labels = {"state"}};
static struct metric queue_gauge = {
    .name = "claudegate_queue_length", .help = "Turns waiting for a worker.", .type = METRIC_GAUGE};
static struct metric queue_keys_gauge = {.name = "claudegate_queue_keys",
                                         .help = "API keys that have turns waiting.",
                                         .type = METRIC_GAUGE};
static struct metric resident_bytes = {
    .name = "claudegate_workers_resident_bytes",
    .help = "Resident memory of all workers and what they started, sampled.",
    .type = METRIC_GAUGE};
static struct metric cpu_seconds = {.name = "claudegate_workers_cpu_seconds_total",
                                    .help = "CPU time of all workers, sampled.",
                                    .type = METRIC_COUNTER};
static struct metric breaker_open = {
    .name = "claudegate_start_breaker_open",
    .help = "1 while starts of claude processes pause because they failed.",
    .type = METRIC_GAUGE};
static struct metric history_resume = {
    .name = "claudegate_history_by_resume",
    .help = "1 when conversations are given to new processes as transcripts, the slow way.",
    .type = METRIC_GAUGE};

static void sum_usage(const struct list *l, double *bytes, double *cpu_s)
{
    LIST_EACH((struct list *)(uintptr_t)l, n)
    {
        const struct worker *w = worker_of(n);
        *bytes += (double)w->usage.rss_kb * 1024;
        *cpu_s += (double)w->usage.cpu_ms / 1000;
    }
}

static void collect(void *ctx)
{
    struct pool *p = OBJ(ctx, struct pool, POOL_TAG);
    struct pool_status s;
    double bytes = 0, cpu_s = p->cpu_s_ended;
    const struct list *lists[] = {&p->starting, &p->spare, &p->idle, &p->busy, &p->ending};
    pool_status(p, &s);
    metric_set(&workers_gauge, (double)s.starting, "starting");
    metric_set(&workers_gauge, (double)s.spare, "spare");
    metric_set(&workers_gauge, (double)s.idle, "idle");
    metric_set(&workers_gauge, (double)s.busy, "busy");
    metric_set(&workers_gauge, (double)s.ending, "ending");
    metric_set(&queue_gauge, (double)s.queued);
    metric_set(&queue_keys_gauge, (double)queue_keys(p->queue));
    metric_set(&breaker_open, s.breaker_open_ms > 0);
    metric_set(&history_resume, s.history == HISTORY_RESUME);
    for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
        sum_usage(lists[i], &bytes, &cpu_s);
    metric_set(&resident_bytes, bytes);
    metric_set(&cpu_seconds, cpu_s);
}

void watch_register(struct pool *p)
{
    struct metric *all[] = {&workers_gauge, &queue_gauge,  &queue_keys_gauge, &resident_bytes,
                            &cpu_seconds,   &breaker_open, &history_resume};
    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        metric_register(all[i]);
    metrics_add_collector(collect, p);
}

void watch_unregister(struct pool *p)
{
    metrics_remove_collector(collect, p);
}

void watch_sample(struct pool *p)
{
    struct list *lists[] = {&p->spare, &p->idle, &p->busy};
    p->next_sample = (p->next_sample + 1) % SAMPLE_TICKS;
    for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
        LIST_EACH(lists[i], n)
        {
            if (worker_of(n)->id % SAMPLE_TICKS == p->next_sample)
                worker_sample(worker_of(n), false);
        }
    }
}

void pool_status(const struct pool *p, struct pool_status *ret)
{
    *ret = (struct pool_status){.starting = p->starting.len,
                                .spare = p->spare.len,
                                .idle = p->idle.len,
                                .busy = p->busy.len,
                                .ending = p->ending.len,
                                .queued = queue_length(p->queue),
                                .starts = p->starts,
                                .start_failures_in_row = p->start_breaker.failures,
                                .breaker_open_ms =
                                    breaker_pause_ms(&p->start_breaker, clock_mono_ms()),
                                .ready_once = p->ready_once,
                                .history = p->history};
    memcpy(ret->last_start_error, p->last_start_error, sizeof(ret->last_start_error));
}

const char *pool_history_name(enum pool_history h)
{
    static const char *const names[] = {"auto", "inject", "resume"};
    BUG_ON((unsigned)h >= ARRAY_SIZE(names));
    return names[h];
}

/* --- the list ---------------------------------------------------------------------------- */

static int by_id(const void *a, const void *b)
{
    const struct worker *const *x = a, *const *y = b;
    return (*x)->id < (*y)->id ? -1 : 1;
}

static void tell(const struct pool *p, const struct worker *w, pool_worker_fn *fn, void *ctx)
{
    const struct turn *t = worker_turn(w);
    int64_t now = clock_mono_ms();
    AUTO(free_charp) char *tail = str_dup(worker_stderr(w));
    struct pool_worker out = {.id = w->id,
                              .pid = worker_pid(w),
                              .state = w->on == &p->spare ? "spare" : worker_state_name(w->state),
                              .key_id = w->key_id,
                              .profile = w->profile ? w->profile->name : "chat",
                              .model = w->model,
                              .request_id = t ? t->request_id : "",
                              .stderr_tail = tail,
                              .draining = w->draining,
                              .age_ms = now - w->started_ms,
                              .state_ms = now - w->state_since_ms,
                              .turns = w->turns,
                              .rss_kb = w->usage.rss_kb,
                              .cpu_ms = w->usage.cpu_ms};
    fn(ctx, &out);
}

void pool_each_worker(const struct pool *p, pool_worker_fn *fn, void *ctx)
{
    struct pool *q = (struct pool *)(uintptr_t)p; /* for the lists' macro; nothing is changed */
    struct list *lists[] = {&q->starting, &q->spare, &q->idle, &q->busy, &q->ending};
    size_t count = 0, total = 0;
    for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
        total += lists[i]->len;
    const struct worker **all = x_calloc(total + 1, sizeof(const struct worker *));
    for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
        LIST_EACH(lists[i], n)
        {
            all[count++] = worker_of(n);
        }
    }
    /* NOLINTNEXTLINE(bugprone-sizeof-expression): pointers are what is sorted */
    qsort((void *)(uintptr_t)all, count, sizeof(*all), by_id);
    for (size_t i = 0; i < count; i++)
        tell(p, all[i], fn, ctx);
    free((void *)(uintptr_t)all);
}
