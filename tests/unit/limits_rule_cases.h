/* limits_rule_cases.h - what the limits are, against a textbook model, in memory. */
#ifndef CG_TESTS_LIMITS_RULE_CASES_H
#define CG_TESTS_LIMITS_RULE_CASES_H

#include "limits_rig.h"

static void test_burst_then_one_per_interval(void **state)
{
    (void)state;
    static const int64_t sizes[] = {1, 7, 10, 60, 1000, 59999};
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        struct mem m = mem_open("UTC");
        struct api_key key = make_key(sizes[i], -1, -1);
        struct limit_ticket t;
        for (int64_t n = 0; n < sizes[i]; n++)
            assert_int_equal(try_acquire(m.l, &key, 0, T0, &t), ERR_NONE);
        assert_int_equal(try_acquire(m.l, &key, 0, T0, &t), ERR_RATE_LIMITED);
        assert_int_equal(last.code, ERR_RATE_LIMITED);
        int64_t wait_ms = (60000 + sizes[i] - 1) / sizes[i];
        assert_int_equal(last.err.retry_after_s, (wait_ms + 999) / 1000);
        assert_in_range(last.err.retry_after_s, 1, 60);
        assert_int_equal(try_acquire(m.l, &key, 0, T0 + wait_ms - 1, &t), ERR_RATE_LIMITED);
        assert_int_equal(try_acquire(m.l, &key, 0, T0 + wait_ms, &t), ERR_NONE);
        assert_int_equal(try_acquire(m.l, &key, 0, T0 + wait_ms, &t), ERR_RATE_LIMITED);
        /* A minute of rest gives the whole burst back, and no more. */
        for (int64_t n = 0; n < sizes[i]; n++)
            assert_int_equal(try_acquire(m.l, &key, 0, T0 + wait_ms + 60000, &t), ERR_NONE);
        assert_int_equal(try_acquire(m.l, &key, 0, T0 + wait_ms + 60000, &t), ERR_RATE_LIMITED);
        mem_close(&m);
    }
}

static void test_refusal_consumes_nothing(void **state)
{
    (void)state;
    struct mem m = mem_open("UTC");
    struct api_key key = make_key(10, 3, 1000);
    struct limit_ticket t, held;
    assert_int_equal(try_acquire(m.l, &key, 600, T0, &held), ERR_NONE);
    for (int i = 0; i < 50; i++)
        assert_int_equal(try_acquire(m.l, &key, 401, T0, &t), ERR_QUOTA);
    look_at(m.l, &key, T0);
    assert_int_equal(last.views.minute.remaining, 9);
    assert_int_equal(last.views.day_requests.remaining, 2);
    assert_int_equal(last.views.day_tokens.remaining, 400);
    key.limits.requests_per_minute = 1;
    for (int i = 0; i < 50; i++)
        assert_int_equal(try_acquire(m.l, &key, 10, T0, &t), ERR_RATE_LIMITED);
    look_at(m.l, &key, T0);
    assert_int_equal(last.views.day_requests.remaining, 2);
    assert_int_equal(last.views.day_tokens.remaining, 400);
    mem_close(&m);
}

static void test_day_limits(void **state)
{
    (void)state;
    struct mem m = mem_open("UTC");
    struct api_key key = make_key(-1, 2, -1);
    struct limit_ticket t;
    int64_t late = T0 + 14 * 3600000 - 1; /* 23:59:59.999 */
    assert_int_equal(try_acquire(m.l, &key, 0, T0, &t), ERR_NONE);
    assert_int_equal(try_acquire(m.l, &key, 0, late, &t), ERR_NONE);
    assert_int_equal(try_acquire(m.l, &key, 0, late, &t), ERR_QUOTA);
    assert_int_equal(last.code, ERR_QUOTA);
    assert_int_equal(last.err.retry_after_s, 0);
    assert_non_null(strstr(last.err.msg, "2 requests per day"));
    assert_non_null(strstr(last.err.msg, "2026-11-24T00:00:00.000Z"));
    assert_int_equal(try_acquire(m.l, &key, 0, late + 1, &t), ERR_NONE);
    mem_close(&m);
}

static void test_tokens(void **state)
{
    (void)state;
    struct mem m = mem_open("UTC");
    struct api_key key = make_key(-1, -1, 1000);
    struct limit_ticket a, b, c;
    assert_int_equal(try_acquire(m.l, &key, 600, T0, &a), ERR_NONE);
    assert_int_equal(try_acquire(m.l, &key, 500, T0, &b), ERR_QUOTA);
    assert_int_equal(last.code, ERR_QUOTA);
    assert_int_equal(last.err.retry_after_s, 0);
    assert_non_null(strstr(last.err.msg, "500 tokens"));
    assert_non_null(strstr(last.err.msg, "400 of the limit of 1000"));
    assert_int_equal(try_acquire(m.l, &key, 400, T0, &b), ERR_NONE);
    limit_settle(m.l, &a, 100, 0); /* less than reserved */
    assert_false(limit_is_held(&a));
    assert_int_equal(try_acquire(m.l, &key, 501, T0, &c), ERR_QUOTA);
    assert_int_equal(try_acquire(m.l, &key, 500, T0, &c), ERR_NONE);
    limit_settle(m.l, &b, 900, 0); /* more than reserved: truth wins */
    limit_settle(m.l, &c, 0, 0);
    assert_int_equal(try_acquire(m.l, &key, 0, T0, &a),
                     ERR_QUOTA); /* spent: not even for nothing */
    assert_non_null(strstr(last.err.msg, "1000 tokens per day is reached"));
    mem_close(&m);
}

static void test_settle_on_another_day(void **state)
{
    (void)state;
    struct mem m = mem_open("UTC");
    struct api_key key = make_key(-1, -1, 1000);
    struct limit_ticket old, new;
    assert_int_equal(try_acquire(m.l, &key, 700, T0, &old), ERR_NONE);
    assert_int_equal(try_acquire(m.l, &key, 300, T0 + DAY, &new), ERR_NONE);
    limit_settle(m.l, &old, 700, 0);
    look_at(m.l, &key, T0 + DAY);
    assert_int_equal(last.views.day_tokens.remaining, 700);
    limit_settle(m.l, &new, 1, 0);
    look_at(m.l, &key, T0 + DAY);
    assert_int_equal(last.views.day_tokens.remaining, 999);
    assert_int_equal(last.views.day_tokens.reset_s, 14 * 3600);
    mem_close(&m);
}

static void test_zero_and_unlimited(void **state)
{
    (void)state;
    struct mem m = mem_open("UTC");
    struct limit_ticket t;
    struct api_key none[] = {make_key(0, -1, -1), make_key(-1, 0, -1), make_key(-1, -1, 0)};
    assert_int_equal(try_acquire(m.l, &none[0], 0, T0, &t), ERR_RATE_LIMITED);
    assert_int_equal(last.code, ERR_RATE_LIMITED);
    assert_in_range(last.err.retry_after_s, 1, 60);
    assert_int_equal(try_acquire(m.l, &none[1], 0, T0, &t), ERR_QUOTA);
    assert_int_equal(try_acquire(m.l, &none[2], 0, T0, &t), ERR_QUOTA);
    struct api_key all = make_key(-1, -1, -1);
    for (int i = 0; i < 10000; i++) {
        assert_int_equal(try_acquire(m.l, &all, INT64_MAX / 2, T0, &t), ERR_NONE);
        limit_settle(m.l, &t, INT64_MAX / 2, 0); /* sums saturate, they do not wrap */
    }
    look_at(m.l, &all, T0);
    assert_int_equal(last.views.minute.limit, -1);
    assert_int_equal(last.views.day_requests.limit, -1);
    assert_int_equal(last.views.day_tokens.limit, -1);
    struct api_key huge = make_key(INT64_MAX, INT64_MAX, -1);
    assert_int_equal(try_acquire(m.l, &huge, 0, T0, &t), ERR_NONE);
    mem_close(&m);
}

static void test_limit_change_is_immediate(void **state)
{
    (void)state;
    struct mem m = mem_open("UTC");
    struct api_key key = make_key(10, -1, -1);
    struct limit_ticket t;
    for (int i = 0; i < 10; i++)
        assert_int_equal(try_acquire(m.l, &key, 0, T0, &t), ERR_NONE);
    assert_int_equal(try_acquire(m.l, &key, 0, T0, &t), ERR_RATE_LIMITED);
    key.limits.requests_per_minute = 25;
    for (int i = 0; i < 15; i++)
        assert_int_equal(try_acquire(m.l, &key, 0, T0, &t), ERR_NONE);
    assert_int_equal(try_acquire(m.l, &key, 0, T0, &t), ERR_RATE_LIMITED);
    key.limits.requests_per_minute = 2; /* lowered: full, but not for longer than one interval */
    assert_int_equal(try_acquire(m.l, &key, 0, T0 + 29999, &t), ERR_RATE_LIMITED);
    assert_int_equal(try_acquire(m.l, &key, 0, T0 + 30000, &t), ERR_NONE);
    mem_close(&m);
}

static void test_clock_goes_back(void **state)
{
    (void)state;
    static const int64_t steps[] = {1, 1000, 3600000, DAY, 400 * DAY};
    for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
        struct mem m = mem_open("UTC");
        struct api_key key = make_key(5, -1, -1);
        struct limit_ticket t;
        for (int n = 0; n < 5; n++)
            assert_int_equal(try_acquire(m.l, &key, 0, T0, &t), ERR_NONE);
        int64_t back = T0 - steps[i];
        assert_int_equal(try_acquire(m.l, &key, 0, back, &t), ERR_RATE_LIMITED);
        assert_in_range(last.err.retry_after_s, 1, 60);
        mem_close(&m);
    }
    /* A step back over midnight gives no second allowance. */
    struct mem m = mem_open("UTC");
    struct api_key key = make_key(-1, 1, -1);
    struct limit_ticket t;
    int64_t midnight = T0 + 14 * 3600000;
    assert_int_equal(try_acquire(m.l, &key, 0, midnight, &t), ERR_NONE);
    assert_int_equal(try_acquire(m.l, &key, 0, midnight - 5, &t), ERR_QUOTA);
    /* A clock that was a year ahead does not close the key for a year. */
    assert_int_equal(try_acquire(m.l, &key, 7, midnight + 365 * DAY, &t), ERR_NONE);
    struct limit_ticket now;
    assert_int_equal(try_acquire(m.l, &key, 0, midnight, &now), ERR_NONE);
    limit_settle(m.l, &t, 7, 0); /* of a day that is not there any more */
    limit_settle(m.l, &now, 0, 0);
    mem_close(&m);
}

static void test_restore(void **state)
{
    (void)state;
    struct mem m = mem_open("UTC");
    struct api_key key = make_key(-1, 10, 1000);
    wall = T0;
    limit_restore(m.l, KEY_ID, &(struct limit_spent){.requests = 4, .tokens = 250});
    look_at(m.l, &key, T0);
    assert_int_equal(last.views.day_requests.remaining, 6);
    assert_int_equal(last.views.day_tokens.remaining, 750);
    look_at(m.l, &key, T0 + DAY);
    assert_int_equal(last.views.day_requests.remaining, 10);
    mem_close(&m);
}

/* What the database was asked before midnight, and says after it, is not the new day's. */
static void test_restore_at_midnight(void **state)
{
    (void)state;
    struct mem m = mem_open("Europe/Berlin");
    struct api_key key = make_key(-1, 10, -1);
    struct limit_spent spent = {.requests = 4, .month_cost = 3 * USD};
    key.limits.cost_per_month = 5 * USD;
    wall = parse_time("2026-11-28T22:59:59.999Z");
    spent.day = limit_day_start(m.l);
    spent.month = limit_month_start(m.l);
    limit_restore(m.l, KEY_ID, &spent);
    assert_int_equal(look_at(m.l, &key, wall)->day_requests.remaining, 6);
    limit_restore(m.l, KEY_ID, &spent);
    look_at(m.l, &key, wall + 1);
    assert_int_equal(last.views.day_requests.remaining, 10);
    limit_restore(m.l, KEY_ID, &spent);
    look_at(m.l, &key, wall + 1);
    assert_int_equal(last.views.day_requests.remaining, 10);
    assert_int_equal(last.views.month_cost.remaining, 2 * USD); /* the month goes on */
    look_at(m.l, &key, parse_time("2026-11-30T23:00:00Z"));
    spent.month_cost = 4 * USD;
    limit_restore(m.l, KEY_ID, &spent);
    assert_int_equal(look_at(m.l, &key, wall)->month_cost.remaining, 5 * USD);
    mem_close(&m);
}

/* The textbook's GCRA with a theoretical arrival time, in units of 1/limit ms, as the model. */
struct model {
    int64_t tat, day, requests, used, reserved, open;
};

static enum err_code model_acquire(struct model *m, const struct key_limits *lim, int64_t tokens,
                                   int64_t now)
{
    int64_t at = now * lim->requests_per_minute, tat = m->tat > at ? m->tat : at;
    if (now / DAY != m->day)
        *m = (struct model){.tat = m->tat, .day = now / DAY, .open = m->open};
    if (m->requests >= lim->requests_per_day || m->used >= lim->tokens_per_day ||
        m->used + m->reserved + tokens > lim->tokens_per_day)
        return ERR_QUOTA;
    if (tat + 60000 - at > lim->requests_per_minute * 60000 || m->open >= lim->max_concurrent)
        return ERR_RATE_LIMITED;
    m->tat = tat + 60000;
    m->requests++;
    m->reserved += tokens;
    m->open++;
    return ERR_NONE;
}

#define OPEN_MAX 40
struct open_request {
    struct limit_ticket ticket;
    int64_t day, tokens;
};

static void one_interleaving(unsigned seed)
{
    struct mem mem = mem_open("UTC");
    srandom(seed);
    struct api_key key = make_key(1 + random() % 120, 1 + random() % 400, 1 + random() % 60000);
    struct model m = {.day = T0 / DAY};
    struct open_request open[OPEN_MAX];
    key.limits.max_concurrent = 1 + random() % OPEN_MAX;
    int64_t now = T0 + 13 * HOUR + 3000000; /* ten minutes before midnight */
    for (int step = 0; step < 2000; step++) {
        now += random() % 3 ? 0 : random() % 3000;
        if (random() % 2 && m.open < OPEN_MAX) {
            struct open_request *o = &open[m.open];
            o->tokens = random() % 300;
            enum err_code want = model_acquire(&m, &key.limits, o->tokens, now);
            assert_int_equal(try_acquire(mem.l, &key, o->tokens, now, &o->ticket), want);
            o->day = m.day;
        } else if (m.open) {
            struct open_request *o = &open[random() % m.open];
            int64_t used = random() % 400;
            m.reserved -= o->day == m.day ? o->tokens : 0;
            m.used += o->day == m.day ? used : 0;
            limit_settle(mem.l, &o->ticket, used, 0);
            *o = open[--m.open];
        }
        const struct limit_views *v = look_at(mem.l, &key, m.day * DAY + now % 1000);
        int64_t left = key.limits.tokens_per_day - m.used - m.reserved;
        assert_int_equal(v->day_tokens.remaining, left > 0 ? left : 0);
        assert_int_equal(v->day_requests.remaining, key.limits.requests_per_day - m.requests);
        assert_int_equal(v->concurrent.remaining, key.limits.max_concurrent - m.open);
    }
    mem_close(&mem);
}

static void test_random_interleavings(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 60; seed++)
        one_interleaving(seed);
}

/* Whatever the clock does, no more than L in a row without a minute's worth of it passing. */
static void test_random_clock(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 40; seed++) {
        srandom(seed);
        struct mem m = mem_open("UTC");
        int64_t limit = 1 + random() % 50, now = T0, forward = 0, admitted = 0;
        struct api_key key = make_key(limit, -1, -1);
        for (int step = 0; step < 3000; step++) {
            int64_t move = random() % 4000 - 2000;
            now += move;
            forward += move > 0 ? move : 0;
            struct limit_ticket t;
            if (try_acquire(m.l, &key, 0, now, &t) == ERR_NONE)
                admitted++;
            else
                assert_in_range(last.err.retry_after_s, 1, 60);
            assert_true(admitted * 60000 <= limit * 60000 + forward * limit);
        }
        mem_close(&m);
    }
}

static void test_concurrent(void **state)
{
    (void)state;
    struct mem m = mem_open("UTC");
    struct api_key key = make_key(100, -1, -1);
    struct limit_ticket t[3], more;
    key.limits.max_concurrent = 3;
    for (int i = 0; i < 3; i++)
        assert_int_equal(try_acquire(m.l, &key, 0, T0, &t[i]), ERR_NONE);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(try_acquire(m.l, &key, 0, T0 + 3 * DAY, &more), ERR_RATE_LIMITED);
        assert_int_equal(last.err.retry_after_s, 1);
        assert_non_null(strstr(last.err.msg, "The limit of 3 requests at once is reached"));
        assert_int_equal(last.views.minute.remaining, 100); /* nothing was taken */
    }
    limit_settle(m.l, &t[1], 5, 0);
    assert_int_equal(try_acquire(m.l, &key, 0, T0, &t[1]), ERR_NONE);
    assert_int_equal(try_acquire(m.l, &key, 0, T0, &more), ERR_RATE_LIMITED);
    key.limits.requests_per_minute = 1; /* both: that which takes longer is told */
    assert_int_equal(try_acquire(m.l, &key, 0, T0, &more), ERR_RATE_LIMITED);
    assert_int_equal(last.err.retry_after_s, 60);
    key.limits.max_concurrent = 0;
    key.limits.requests_per_minute = -1;
    assert_int_equal(try_acquire(m.l, &key, 0, T0, &more), ERR_RATE_LIMITED);
    assert_non_null(strstr(last.err.msg, "This key may have 0 requests at once"));
    mem_close(&m); /* with three of them held */
}

static int by_size(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* 1000 keys in turn, so that the caches have something to do. */
static void bench_limit(void **state)
{
    (void)state;
    struct mem m = mem_open("Europe/Berlin");
    struct api_key key = make_key(1000000000, INT64_MAX, INT64_MAX);
    struct limit_ticket t = {0};
    const int rounds = 100000;
    int64_t *ns = x_calloc((size_t)rounds, sizeof(*ns));
    key.limits.max_concurrent = 1000;
    wall = T0;
    for (int i = 0; i < rounds; i++) {
        struct timespec a, b;
        struct limit_need need = {100, 0};
        snprintf(key.id, sizeof(key.id), "%08d-1111-4111-8111-111111111111", i % 1000);
        clock_gettime(CLOCK_MONOTONIC, &a);
        limit_acquire(m.l, &key, &need, &t, on_answer, &last);
        clock_gettime(CLOCK_MONOTONIC, &b);
        assert_int_equal(last.code, ERR_NONE);
        limit_settle(m.l, &t, 50, 0);
        ns[i] = (b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec;
    }
    qsort(ns, (size_t)rounds, sizeof(*ns), by_size);
    print_message("# limit_acquire in memory: median %lld ns, p99 %lld ns\n",
                  (long long)ns[rounds / 2], (long long)ns[rounds / 100 * 99]);
    free(ns);
    mem_close(&m);
}

#endif
