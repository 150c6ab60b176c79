/* shared_bucket_cases.h - buckets, on either driver. */
#ifndef CG_TESTS_SHARED_BUCKET_CASES_H
#define CG_TESTS_SHARED_BUCKET_CASES_H

#include "shared_rig.h"

static void test_rate(void **state)
{
    (void)state;
    struct shared_bucket b = rate("r", 5, 1000); /* one per 200 ms, five at once */
    for (int64_t i = 1; i <= 5; i++) {
        const struct shared_taken *t = take(NULL, b);
        assert_true(t->admitted);
        assert_in_range(t->levels[0].remaining, 5 - i, 5 - i + 1); /* time goes on */
        assert_in_range(t->levels[0].reset_ms, (i - 1) * 200, i * 200);
    }
    const struct shared_taken *t = take(NULL, b);
    assert_false(t->admitted);
    assert_int_equal(t->refused, 0);
    assert_in_range(t->retry_ms, 1, 200);
    run_for(t->retry_ms + 5);
    assert_true(take(NULL, b)->admitted);
    assert_false(take(NULL, b)->admitted);
    run_for(1010); /* a whole period gives all of it back, and no more */
    for (int i = 0; i < 5; i++)
        assert_true(take(NULL, b)->admitted);
    assert_false(take(NULL, b)->admitted);
}

static void test_rate_limits(void **state)
{
    (void)state;
    const struct shared_taken *t = take(NULL, rate("r", 0, 60000));
    assert_false(t->admitted);
    assert_int_equal(t->retry_ms, 60000);
    assert_int_equal(t->levels[0].remaining, 0);
    t = take(NULL, rate("r", -1, 60000));
    assert_true(t->admitted);
    assert_int_equal(t->levels[0].remaining, -1);
    for (int i = 0; i < 10; i++)
        assert_true(take(NULL, rate("x", 10, 3600000))->admitted);
    assert_false(take(NULL, rate("x", 10, 3600000))->admitted);
    for (int i = 0; i < 15; i++) /* raised: the difference is free at once */
        assert_true(take(NULL, rate("x", 25, 3600000))->admitted);
    assert_false(take(NULL, rate("x", 25, 3600000))->admitted);
    t = take(NULL, rate("x", 2, 3600000)); /* lowered: full, but not fuller than that */
    assert_false(t->admitted);
    assert_in_range(t->retry_ms, 1700000, 1800000);
    /* The largest that is allowed, without a wrong digit. */
    int64_t most = SHARED_AMOUNT_MAX / 60000;
    t = take(NULL, rate("m", most, 60000));
    assert_true(t->admitted);
    assert_in_range(t->levels[0].remaining, most - 1, most);
}

static void test_rate_given_back(void **state)
{
    (void)state;
    struct shared_bucket b = rate("r", 3, 3600000);
    struct shared_use back = {.kind = SHARED_RATE, .name = "r", .add = -1, .period_ms = 3600000};
    for (int i = 0; i < 3; i++)
        assert_true(take(NULL, b)->admitted);
    assert_false(take(NULL, b)->admitted);
    adjust_one(NULL, back);
    assert_int_equal(look(b)->levels[0].remaining, 1);
    assert_true(take(NULL, b)->admitted);
    for (int i = 0; i < 5; i++) /* never below empty */
        adjust_one(NULL, back);
    assert_int_equal(look(b)->levels[0].remaining, 3);
}

static void test_counter(void **state)
{
    (void)state;
    const struct shared_taken *t = take("a", counter("c", 1000, 0, 600));
    assert_true(t->admitted);
    assert_int_equal(t->levels[0].remaining, 400);
    assert_int_equal(t->levels[0].used, 0);
    assert_int_equal(t->levels[0].held, 600);
    assert_int_equal(t->levels[0].window_end, counter("c", 0, 0, 0).window[1]);
    assert_in_range(t->levels[0].reset_ms, FAR - 100000, FAR);
    t = take("b", counter("c", 1000, 0, 401));
    assert_false(t->admitted);
    assert_in_range(t->retry_ms, FAR - 100000, FAR);
    assert_int_equal(t->levels[0].remaining, 400);
    assert_true(take("b", counter("c", 1000, 0, 400))->admitted);
    adjust_one("a", use("c", 100)); /* less than it held */
    t = look(counter("c", 1000, 0, 0));
    assert_int_equal(t->levels[0].used, 100);
    assert_int_equal(t->levels[0].held, 400);
    assert_int_equal(t->levels[0].remaining, 500);
    adjust_one("a", use("c", 0)); /* ended already: harmless */
    assert_int_equal(look(counter("c", 1000, 0, 0))->levels[0].held, 400);
    adjust_one("b", use("c", 900)); /* more than it held: truth wins */
    t = take(NULL, counter("c", 1000, 0, 0));
    assert_false(t->admitted); /* spent: not even for nothing */
    assert_int_equal(t->levels[0].remaining, 0);
    adjust_one(NULL, use("c", -5000));
    assert_int_equal(look(counter("c", 1000, 0, 0))->levels[0].used, 0); /* never below 0 */
    t = take(NULL, counter("c", -1, 7, 0)); /* unlimited is counted, too */
    assert_int_equal(t->levels[0].remaining, -1);
    assert_int_equal(look(counter("c", 10, 0, 0))->levels[0].remaining, 3);
    assert_false(take(NULL, counter("z", 0, 0, 0))->admitted);
    adjust_one(NULL, use("new", 5)); /* begins one */
    assert_int_equal(look(counter("new", 10, 0, 0))->levels[0].remaining, 5);
}

static void test_counter_saturates(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++)
        assert_true(take("a", counter("c", -1, SHARED_AMOUNT_MAX, SHARED_AMOUNT_MAX))->admitted);
    const struct shared_taken *t = look(counter("c", SHARED_AMOUNT_MAX, 0, 0));
    assert_int_equal(t->levels[0].used, SHARED_AMOUNT_MAX);
    assert_int_equal(t->levels[0].remaining, 0);
    adjust_one("a", use("c", -1));
    t = look(counter("c", SHARED_AMOUNT_MAX, 0, 0));
    assert_int_equal(t->levels[0].used, SHARED_AMOUNT_MAX - 1);
    assert_int_equal(t->levels[0].held, 0);
    assert_int_equal(t->levels[0].remaining, 1);
}

static void test_all_or_none(void **state)
{
    (void)state;
    struct shared_bucket day = counter("d", 3, 1, 0), tokens = counter("t", 1000, 0, 600);
    struct shared_bucket minute = rate("m", 10, 3600000), at_once = tickets(2);
    assert_true(take("a", day, tokens, at_once, minute)->admitted);
    for (int i = 0; i < 20; i++) {
        const struct shared_taken *t = take("b", day, tokens, at_once, minute);
        assert_false(t->admitted);
        assert_int_equal(t->refused, 1); /* the first in the order given */
        assert_int_equal(t->levels[0].remaining, 2);
        assert_int_equal(t->levels[1].remaining, 400);
        assert_int_equal(t->levels[2].used, 1);
        assert_int_equal(t->levels[3].remaining, 9);
    }
    tokens.hold = 1;
    assert_true(take("b", day, tokens, at_once, minute)->admitted);
    for (int i = 0; i < 20; i++) {
        const struct shared_taken *t = take("c", day, tokens, at_once, minute);
        assert_false(t->admitted);
        assert_int_equal(t->refused, 2);
        assert_int_equal(t->retry_ms, 0);
        assert_int_equal(t->levels[0].remaining, 1);
        assert_int_equal(t->levels[3].remaining, 8);
    }
    for (int i = 0; i < 20; i++) {
        const struct shared_taken *t = look(day, tokens, at_once, minute);
        assert_true(t->admitted);
        assert_int_equal(t->levels[0].remaining, 1);
        assert_int_equal(t->levels[1].remaining, 399);
        assert_int_equal(t->levels[2].remaining, 0);
        assert_int_equal(t->levels[3].remaining, 8);
    }
}

static void test_tickets(void **state)
{
    (void)state;
    assert_true(take("a", tickets(2))->admitted);
    assert_int_equal(take("b", tickets(2))->levels[0].remaining, 0);
    assert_false(take("c", tickets(2))->admitted);
    adjust("a", NULL, 0);
    assert_true(take("c", tickets(2))->admitted);
    adjust("a", NULL, 0); /* ended twice */
    assert_false(take("d", tickets(2))->admitted);
    assert_false(take("e", tickets(0))->admitted);
    const struct shared_taken *t = take("e", tickets(-1));
    assert_true(t->admitted);
    assert_int_equal(t->levels[0].remaining, -1);
    assert_int_equal(t->levels[0].used, 3);
}

/* A server that has died does not renew its tickets: what they held comes back. */
static void test_tickets_end(void **state)
{
    (void)state;
    struct shared_bucket c = counter("c", 100, 1, 30);
    struct shared_bucket all[] = {c, tickets(3)};
    assert_true(take_with("dead", 300, false, all, 2)->admitted);
    assert_true(take_with("live", 300, false, all, 2)->admitted);
    for (int i = 0; i < 4; i++) {
        run_for(100);
        renew("live", 300);
    }
    const struct shared_taken *t = look(c, tickets(3));
    assert_int_equal(t->levels[0].used, 2);
    assert_int_equal(t->levels[0].held, 30);
    assert_int_equal(t->levels[1].used, 1);
    adjust_one("dead", use("c", 5)); /* it was not dead, only slow: what it used counts */
    renew("dead", 300);              /* and it is one of those that run, but holds nothing */
    t = look(c, tickets(3));
    assert_int_equal(t->levels[0].used, 7);
    assert_int_equal(t->levels[0].held, 30);
    assert_int_equal(t->levels[1].used, 2);
    run_for(350);
    t = look(c, tickets(3));
    assert_int_equal(t->levels[0].held, 0);
    assert_int_equal(t->levels[1].used, 0);
}

static void test_same_ticket_again(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++)
        assert_true(take("a", counter("c", 1000, 0, 30), tickets(2))->admitted);
    const struct shared_taken *t = look(counter("c", 1000, 0, 0), tickets(2));
    assert_int_equal(t->levels[0].held, 30);
    assert_int_equal(t->levels[1].used, 1);
}

static void test_groups_are_apart(void **state)
{
    (void)state;
    struct shared_bucket b[] = {counter("c", 1, 1, 0), tickets(1)};
    struct shared_take t = {.ticket = "t", .ticket_ms = 60000, .buckets = b, .count = 2};
    for (int i = 0; i < 10; i++) {
        char group[16];
        snprintf(group, sizeof(group), "group-%d", i);
        t.group = group;
        begin();
        shared_take(fx.s, &t, on_taken, &got);
        finish();
        assert_true(got.taken.admitted);
    }
}

static void test_window_ends(void **state)
{
    (void)state;
    int64_t now = clock_wall_ms(), end = now + 400;
    struct shared_bucket c = counter("c", 20, 4, 0);
    c.window[0] = now - 1000;
    c.window[1] = end;
    c.window[2] = end + FAR;
    assert_int_equal(take("a", c)->levels[0].window_end, end);
    c.hold = 5;
    assert_int_equal(take("b", c)->levels[0].remaining, 20 - 4 - 4 - 5);
    run_for(end - clock_wall_ms() + 20);
    c.hold = 0;
    /* The caller's clock may be late: the same windows. The store knows better. */
    const struct shared_taken *t = take("c", c);
    assert_true(t->admitted);
    assert_int_equal(t->levels[0].window_end, end + FAR);
    assert_int_equal(t->levels[0].remaining, 16);
    struct shared_use old = {.kind = SHARED_COUNTER, .name = "c", .add = 3, .window_end = end};
    adjust_one("b", old); /* of a window that is over */
    t = look(c);
    assert_int_equal(t->levels[0].used, 4);
    assert_int_equal(t->levels[0].held, 0);
}

static void test_clock_steps_back(void **state)
{
    (void)state;
    int64_t now = clock_wall_ms();
    struct shared_bucket c = counter("c", 2, 1, 0);
    c.window[0] = now - 1000; /* a window that began just now ... */
    c.window[1] = now + FAR;
    c.window[2] = now + 2 * FAR;
    take(NULL, c);
    struct shared_bucket later = c; /* who only looks begins no window */
    for (int i = 0; i < 3; i++)
        later.window[i] += 2 * FAR;
    assert_int_equal(look(later)->levels[0].remaining, 2);
    assert_int_equal(look(c)->levels[0].remaining, 1);
    c.window[2] = c.window[1]; /* ... is the next one after the step */
    c.window[1] = now + 50000;
    const struct shared_taken *t = take(NULL, c);
    assert_int_equal(t->levels[0].remaining, 0);
    assert_int_equal(t->levels[0].window_end, now + FAR);
    assert_false(take(NULL, c)->admitted);
    c.window[2] = now + 60000; /* a counter of a clock that was wrong by more */
    t = take(NULL, c);
    assert_true(t->admitted);
    assert_int_equal(t->levels[0].window_end, now + 50000);
    assert_int_equal(t->levels[0].remaining, 1);
    c.window[0] = now + 100000; /* a caller who is ahead: the window that ends then */
    c.window[1] = now + 200000;
    c.window[2] = now + 300000;
    assert_int_equal(take(NULL, c)->levels[0].window_end, now + 100000);
}

static void test_seed(void **state)
{
    (void)state;
    struct shared_bucket b = counter("c", 100, 0, 0), other = counter("d", 100, 0, 0);
    struct shared_seed seeds[2] = {{.name = "c", .at_least = 40}, {.name = "d", .at_least = 7}};
    memcpy(seeds[0].window, b.window, sizeof(b.window));
    memcpy(seeds[1].window, b.window, sizeof(b.window));
    take("a", counter("c", 100, 0, 10));
    for (int i = 0; i < 3; i++) { /* again changes nothing */
        begin();
        shared_seed(fx.s, "g", seeds, 2, on_done, &got);
        finish();
        const struct shared_taken *t = look(b, other);
        assert_int_equal(t->levels[0].used, 40);
        assert_int_equal(t->levels[0].held, 10);
        assert_int_equal(t->levels[1].used, 7);
    }
    adjust_one("a", use("c", 25));
    begin();
    shared_seed(fx.s, "g", seeds, 2, on_done, &got); /* it knows of more: left alone */
    finish();
    assert_int_equal(look(b)->levels[0].used, 65);
    seeds[0].at_least = 90;
    for (int i = 0; i < 3; i++)
        seeds[0].window[i] += FAR; /* of another window */
    begin();
    shared_seed(fx.s, "g", seeds, 1, on_done, &got);
    finish();
    assert_int_equal(look(b)->levels[0].used, 65);
}

/* --- many at once -------------------------------------------------------------------------- */

struct volley {
    int asked, answered, admitted, failed;
    bool done;
};

static void on_volley(void *ctx, const struct shared_taken *taken, const struct err *err)
{
    struct volley *v = ctx;
    v->answered++;
    v->failed += err != NULL;
    v->admitted += taken && taken->admitted;
    v->done = v->answered == v->asked;
    if (v->done)
        loop_stop(fx.loop);
}

static void fire(struct volley *v, int n, const struct shared_bucket *b, size_t count)
{
    v->asked = n;
    for (int i = 0; i < n; i++) {
        char ticket[40];
        snprintf(ticket, sizeof(ticket), "t%d-%d", (int)getpid(), i);
        struct shared_take t = {
            .group = "g", .ticket = ticket, .ticket_ms = 60000, .buckets = b, .count = count};
        shared_take(fx.s, &t, on_volley, v);
    }
    assert_true(v->done || run_until(&v->done, 20000));
}

static void test_volley(void **state)
{
    (void)state;
    struct shared_bucket kinds[][2] = {{rate("r", 50, 3600000), tickets(-1)},
                                       {counter("c", 50, 1, 0), tickets(-1)},
                                       {counter("h", 1500, 0, 30), tickets(-1)},
                                       {counter("x", -1, 1, 0), tickets(50)}};
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        struct volley v = {0};
        fire(&v, 300, kinds[i], 2);
        assert_int_equal(v.admitted, 50);
        assert_int_equal(v.failed, 0);
        assert_int_equal(look(kinds[i][0], kinds[i][1])->levels[i == 3].remaining, 0);
        for (int n = 0; n < 300; n++) { /* the next kind begins without tickets */
            char ticket[40];
            snprintf(ticket, sizeof(ticket), "t%d-%d", (int)getpid(), n);
            shared_adjust(fx.s, "g", ticket, NULL, 0, NULL, NULL);
        }
    }
}

/* --- a model ------------------------------------------------------------------------------- */

#define MODEL_TICKETS 12

struct model {
    int64_t requests, used, held, minute;
    struct {
        bool live;
        int64_t hold;
    } tickets[MODEL_TICKETS];
    int live;
};

struct model_limits {
    int64_t requests, tokens, at_once, minute;
};

/* The index of the bucket that refuses; -1: admitted. */
static int model_take(struct model *m, const struct model_limits *lim, int i, int64_t hold)
{
    if (lim->requests >= 0 && m->requests + 1 > lim->requests)
        return 0;
    if (lim->tokens >= 0 && (m->used >= lim->tokens || m->used + m->held + hold > lim->tokens))
        return 1;
    if (lim->at_once >= 0 && m->live >= lim->at_once)
        return 2;
    if (lim->minute >= 0 && m->minute + 1 > lim->minute)
        return 3;
    m->requests++;
    m->minute += lim->minute != -1;
    if (lim->minute == -1)
        m->minute = 0;
    m->held += hold;
    m->tickets[i].live = true;
    m->tickets[i].hold = hold;
    m->live++;
    return -1;
}

static void model_end(struct model *m, int i)
{
    if (!m->tickets[i].live)
        return;
    m->tickets[i].live = false;
    m->held -= m->tickets[i].hold;
    m->live--;
}

static int64_t model_left(int64_t limit, int64_t gone)
{
    return limit < 0 ? -1 : limit > gone ? limit - gone : 0;
}

static void storm_take(struct model *m, const struct model_limits *lim, int i)
{
    char ticket[8];
    int64_t hold = random() % 50;
    snprintf(ticket, sizeof(ticket), "t%d", i);
    if (m->tickets[i].live)
        return;
    const struct shared_taken *t =
        take(ticket, counter("rd", lim->requests, 1, 0), counter("td", lim->tokens, 0, hold),
             tickets(lim->at_once), rate("m", lim->minute, 36000000));
    int refused = model_take(m, lim, i, hold);
    assert_int_equal(t->admitted, refused < 0);
    if (refused >= 0)
        assert_int_equal(t->refused, refused);
    assert_int_equal(t->levels[0].remaining, model_left(lim->requests, m->requests));
    assert_int_equal(t->levels[1].remaining, model_left(lim->tokens, m->used + m->held));
    assert_int_equal(t->levels[1].held, m->held);
    assert_int_equal(t->levels[2].used, m->live);
    assert_int_equal(t->levels[3].remaining, model_left(lim->minute, m->minute));
}

static void storm_adjust(struct model *m, int i)
{
    char ticket[8];
    int64_t used = random() % 60 - 5, back = random() % 3 == 0;
    snprintf(ticket, sizeof(ticket), "t%d", i);
    struct shared_use uses[] = {
        use("td", used),
        use("rd", -back),
        {.kind = SHARED_RATE, .name = "m", .add = -back, .period_ms = 36000000}};
    adjust(ticket, uses, ARRAY_SIZE(uses));
    model_end(m, i);
    m->used = m->used + used > 0 ? m->used + used : 0;
    m->requests = m->requests > back ? m->requests - back : 0;
    m->minute = m->minute > back ? m->minute - back : 0;
}

static int64_t some_limit(int64_t most)
{
    return random() % 5 == 0 ? -1 : random() % most;
}

static void test_storm(void **state)
{
    (void)state;
    unsigned seeds = fx.remote ? 6 : 60;
    for (unsigned seed = 1; seed <= seeds; seed++) {
        srandom(seed);
        char old[sizeof(fx.prefix)];
        memcpy(old, fx.prefix, sizeof(old));
        struct model m = {0};
        struct model_limits lim = {some_limit(200), some_limit(3000), some_limit(10),
                                   some_limit(150)};
        struct shared *all = fx.s;
        snprintf(fx.prefix, sizeof(fx.prefix), "%s%u:", "s", seed * 1000 + (unsigned)getpid());
        fx.s = open_ready(fx.remote ? server.url : "");
        for (int step = 0; step < 400; step++) {
            int i = (int)(random() % MODEL_TICKETS);
            if (random() % 5 < 3)
                storm_take(&m, &lim, i);
            else
                storm_adjust(&m, i);
        }
        shared_close(fx.s);
        fx.s = all;
        memcpy(fx.prefix, old, sizeof(old));
    }
}

static void bench_take(void **state)
{
    (void)state;
    int n = fx.remote ? 2000 : 20000;
    int64_t start = clock_mono_us();
    for (int i = 0; i < n; i++) {
        take("t", counter("rd", -1, 1, 0), counter("td", -1, 0, 10), tickets(-1),
             rate("m", 1000000, 60000));
        adjust_one("t", use("td", 5));
    }
    print_message("# %s: take + adjust: %.1f us\n", fx.remote ? "redis" : "memory",
                  (double)(clock_mono_us() - start) / n);
}

#endif
