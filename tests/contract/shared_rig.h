/* shared_rig.h - one store under test, its answers waited for.
 *
 * Each case runs on both drivers; with Redis every test has a prefix of its own, so nothing is left
 * of the last one. Where a case waits it really waits: both drivers have real clocks. */
#ifndef CG_TESTS_SHARED_RIG_H
#define CG_TESTS_SHARED_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "core/clock.h"
#include "core/id.h"
#include "core/log.h"
#include "metrics/metrics.h"
#include "redis_rig.h"
#include "shared/shared.h"

#define TIMEOUT_MS 500
#define FAR        INT64_C(1000000000) /* ms: a window that does not end during a test */

static struct redis_server server;

struct fx {
    bool remote;
    struct loop *loop;
    struct shared *s;
    char prefix[32];
};
static struct fx fx;

/* --- waiting ----------------------------------------------------------------------------- */

struct wait {
    struct timer timer;
    bool late;
};

static void wait_late(void *obj)
{
    struct wait *w = obj;
    w->late = true;
    loop_stop(fx.loop);
}

/* Runs the loop until *flag or for ms; did it come? */
static bool run_until(const bool *flag, int64_t ms)
{
    struct wait w = {0};
    timer_init(&w.timer, fx.loop, wait_late, &w);
    timer_set(&w.timer, ms);
    while (!*flag && !w.late)
        loop_run(fx.loop);
    timer_release(&w.timer);
    return *flag;
}

static void run_for(int64_t ms)
{
    static const bool never = false;
    run_until(&never, ms);
}

struct flagged {
    bool up;
};

static void on_up(void *ctx, bool up)
{
    struct flagged *f = ctx;
    f->up = up;
    loop_stop(fx.loop);
}

static void wait_up(struct shared *s, int64_t ms)
{
    struct flagged f = {shared_is_up(s)};
    shared_watch(s, on_up, &f);
    bool came = run_until(&f.up, ms);
    shared_unwatch(s, on_up, &f);
    if (!came)
        fail_msg("Redis is not up after %lld ms", (long long)ms);
}

static void wait_away(struct shared *s, int64_t ms)
{
    int64_t end = clock_mono_ms() + ms;
    while (shared_is_up(s)) {
        assert_true(clock_mono_ms() < end);
        run_for(5);
    }
}

static struct shared *open_store(const char *url)
{
    struct err err;
    struct shared_opts o = {.url = url, .prefix = fx.prefix, .timeout_ms = TIMEOUT_MS};
    struct shared *s = shared_open(fx.loop, &o, &err);
    if (!s)
        fail_msg("%s", err.msg);
    return s;
}

static void on_listening(void *ctx, struct str payload, bool missed)
{
    bool *listening = ctx;
    (void)payload;
    *listening = *listening || missed;
    loop_stop(fx.loop);
}

/* With Redis: one that is connected and listens. */
static struct shared *open_ready(const char *url)
{
    struct shared *s = open_store(url);
    if (!shared_is_remote(s))
        return s;
    bool listening = false;
    struct shared_subscription *sub = shared_subscribe(s, "any", on_listening, &listening);
    wait_up(s, 5000);
    assert_true(run_until(&listening, 5000));
    shared_unsubscribe(s, sub);
    return s;
}

static int set_up_with(bool remote)
{
    static int number;
    fx = (struct fx){.remote = remote, .loop = loop_new()};
    snprintf(fx.prefix, sizeof(fx.prefix), "t%d.%d:", (int)getpid(), ++number);
    fx.s = open_ready(remote ? server.url : "");
    return 0;
}

static int set_up_memory(void **state)
{
    (void)state;
    return set_up_with(false);
}

static int set_up_redis(void **state)
{
    (void)state;
    return set_up_with(true);
}

static int tear_down(void **state)
{
    (void)state;
    shared_close(fx.s);
    loop_free(fx.loop);
    metrics_reset();
    return 0;
}

/* --- operations, one at a time ------------------------------------------------------------ */

struct answer {
    bool done;
    int calls;
    bool failed;
    struct err err;
    struct shared_taken taken;
    struct shared_lease lease;
    bool first, found;
    char value[SHARED_VALUE_MAX];
    size_t len;
};
static struct answer got;

static void came(struct answer *a, const struct err *err)
{
    a->done = true;
    a->calls++;
    a->failed = err != NULL;
    if (err)
        a->err = *err;
    loop_stop(fx.loop);
}

static void on_done(void *ctx, const struct err *err)
{
    came(ctx, err);
}

static void on_taken(void *ctx, const struct shared_taken *taken, const struct err *err)
{
    struct answer *a = ctx;
    if (taken)
        a->taken = *taken;
    came(a, err);
}

static void on_lease(void *ctx, const struct shared_lease *lease, const struct err *err)
{
    struct answer *a = ctx;
    if (lease)
        a->lease = *lease;
    came(a, err);
}

static void on_nonce(void *ctx, bool first, const struct err *err)
{
    struct answer *a = ctx;
    a->first = first;
    came(a, err);
}

static void on_value(void *ctx, struct str value, const struct err *err)
{
    struct answer *a = ctx;
    a->found = value.p != NULL;
    a->len = value.len;
    if (value.len)
        memcpy(a->value, value.p, value.len);
    came(a, err);
}

static void begin(void)
{
    got.done = got.failed = false;
    got.calls = 0;
}

/* The answer, which must be a good one. */
static void finish(void)
{
    assert_true(run_until(&got.done, 5000));
    if (got.failed)
        fail_msg("%s", got.err.msg);
    assert_int_equal(got.calls, 1);
}

static struct shared_bucket rate(const char *name, int64_t limit, int64_t period_ms)
{
    return (struct shared_bucket){
        .kind = SHARED_RATE, .name = name, .limit = limit, .period_ms = period_ms};
}

static struct shared_bucket counter(const char *name, int64_t limit, int64_t spend, int64_t hold)
{
    static int64_t start; /* the same window in all calls of a run */
    if (!start)
        start = clock_wall_ms() - 1000;
    return (struct shared_bucket){.kind = SHARED_COUNTER,
                                  .name = name,
                                  .limit = limit,
                                  .spend = spend,
                                  .hold = hold,
                                  .window = {start, start + FAR, start + 2 * FAR}};
}

static struct shared_bucket tickets(int64_t limit)
{
    return (struct shared_bucket){.kind = SHARED_TICKETS, .name = "n", .limit = limit};
}

static const struct shared_taken *take_with(const char *ticket, int64_t ticket_ms, bool look,
                                            const struct shared_bucket *buckets, size_t count)
{
    struct shared_take t = {.group = "g",
                            .ticket = ticket,
                            .ticket_ms = ticket_ms,
                            .buckets = buckets,
                            .count = count,
                            .look = look};
    begin();
    shared_take(fx.s, &t, on_taken, &got);
    finish();
    return &got.taken;
}

#define BUCKETS(...)               \
    (const struct shared_bucket[]) \
    {                              \
        __VA_ARGS__                \
    }
/* take(ticket, buckets...): a ticket that lasts for the test. */
#define take(ticket, ...) \
    take_with(ticket, 60000, false, BUCKETS(__VA_ARGS__), ARRAY_SIZE(BUCKETS(__VA_ARGS__)))
#define look(...) take_with(NULL, 0, true, BUCKETS(__VA_ARGS__), ARRAY_SIZE(BUCKETS(__VA_ARGS__)))

static void adjust(const char *ticket, const struct shared_use *uses, size_t count)
{
    begin();
    shared_adjust(fx.s, "g", ticket, uses, count, on_done, &got);
    finish();
}

static struct shared_use use(const char *name, int64_t add)
{
    struct shared_bucket b = counter(name, 0, 0, 0);
    return (struct shared_use){
        .kind = SHARED_COUNTER, .name = name, .add = add, .window_end = b.window[1]};
}

static void adjust_one(const char *ticket, struct shared_use u)
{
    adjust(ticket, &u, 1);
}

static void renew(const char *ticket, int64_t ticket_ms)
{
    begin();
    shared_renew(fx.s, "g", &ticket, 1, ticket_ms, on_done, &got);
    finish();
}

#endif
