/* limits_rig.h - limits over a store, with a clock of the test's own (in memory). */
#ifndef CG_TESTS_LIMITS_RIG_H
#define CG_TESTS_LIMITS_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "../contract/redis_rig.h"
#include "core/clock.h"
#include "core/log.h"
#include "limit/limit.h"
#include "metrics/metrics.h"
#include "store/key_json.h"

#define T0      INT64_C(1795428000000) /* 2026-11-23T10:00:00Z */
#define HOUR    INT64_C(3600000)
#define DAY     INT64_C(86400000)
#define KEY_ID  "11111111-1111-4111-8111-111111111111"
#define USD     INT64_C(1000000000)
#define PENDING ((enum err_code) - 1)

static struct loop *loop;
static int64_t wall; /* what the fake clock shows */

static int64_t fake_wall_ms(void)
{
    return wall;
}

static int64_t parse_time(const char *text)
{
    int64_t at = 0;
    if (!clock_parse_rfc3339(text, &at))
        fail_msg("not a time: %s", text);
    return at;
}

static struct api_key make_key(int64_t per_minute, int64_t per_day, int64_t tokens)
{
    struct api_key key = {.limits = {per_minute, per_day, tokens, -1, -1, -1}};
    snprintf(key.id, sizeof(key.id), "%s", KEY_ID);
    return key;
}

/* --- one server in memory ------------------------------------------------------------------ */

struct mem {
    struct shared *shared;
    struct zone *zone;
    struct limits *l;
};

static struct mem mem_open(const char *zone)
{
    struct mem m = {0};
    struct err err;
    struct shared_opts so = {.wall_ms = fake_wall_ms};
    m.shared = shared_open(loop, &so, &err);
    m.zone = zone_new(zone, &err);
    if (!m.zone)
        fail_msg("%s", err.msg);
    struct limits_opts lo = {
        .loop = loop, .shared = m.shared, .zone = m.zone, .wall_ms = fake_wall_ms};
    m.l = limits_new(&lo);
    return m;
}

static void mem_close(struct mem *m)
{
    limits_free(m->l);
    shared_close(m->shared);
    zone_free(m->zone);
}

/* --- one answer ---------------------------------------------------------------------------- */

struct answer {
    int calls;
    enum err_code code;
    struct err err;
    struct limit_views views;
    bool done;
};

static void on_answer(void *ctx, const struct limit_views *views, const struct err *err)
{
    struct answer *a = ctx;
    a->calls++;
    a->done = true;
    a->code = err ? err->code : ERR_NONE;
    if (err)
        a->err = *err;
    a->views = *views;
    loop_stop(loop);
}

static struct answer last;

/* In memory: the answer is there at once. */
static enum err_code acquire(struct limits *l, const struct api_key *key, int64_t tokens,
                             int64_t cost, int64_t now, struct limit_ticket *t)
{
    struct limit_need need = {tokens, cost};
    *t = (struct limit_ticket){0};
    wall = now;
    last = (struct answer){0};
    limit_acquire(l, key, &need, t, on_answer, &last);
    assert_int_equal(last.calls, 1);
    assert_int_equal(limit_is_held(t), last.code == ERR_NONE);
    return last.code;
}

static enum err_code try_acquire(struct limits *l, const struct api_key *key, int64_t tokens,
                                 int64_t now, struct limit_ticket *t)
{
    return acquire(l, key, tokens, 0, now, t);
}

static const struct limit_views *look_at(struct limits *l, const struct api_key *key, int64_t now)
{
    struct limit_ticket t = {0};
    wall = now;
    last = (struct answer){0};
    limit_look(l, key, &t, on_answer, &last);
    assert_int_equal(last.calls, 1);
    assert_int_equal(last.code, ERR_NONE);
    assert_null(t.hold);
    return &last.views;
}

/* --- waiting ------------------------------------------------------------------------------- */

static void wait_late(void *obj)
{
    bool *late = obj;
    *late = true;
    loop_stop(loop);
}

static bool run_until(const bool *flag, int64_t ms)
{
    struct timer timer;
    bool late = false;
    timer_init(&timer, loop, wait_late, &late);
    timer_set(&timer, ms);
    while (!*flag && !late)
        loop_run(loop);
    timer_release(&timer);
    return *flag;
}

static void run_for(int64_t ms)
{
    static const bool never = false;
    run_until(&never, ms);
}

static int open_loop(void **state)
{
    (void)state;
    loop = loop_new();
    return 0;
}

static int close_loop(void **state)
{
    (void)state;
    loop_free(loop);
    metrics_reset();
    return 0;
}

#endif
