/* limits_redis_cases.h - several servers ("a", "b") on one real Redis, which the test stops, kills
 * and starts again. Servers in one process share a loop, but nothing else. */
#ifndef CG_TESTS_LIMITS_REDIS_CASES_H
#define CG_TESTS_LIMITS_REDIS_CASES_H

#include "limits_rig.h"

#define TIMEOUT_MS    300
#define LEASE_TEST_MS 600

static struct redis_server redis;
static char prefix[32];

static int start_server(void **state)
{
    (void)state;
    rig_start(&redis, NULL);
    return 0;
}

static int end_server(void **state)
{
    (void)state;
    rig_end(&redis);
    return 0;
}

static int set_up_redis(void **state)
{
    static int number;
    snprintf(prefix, sizeof(prefix), "l%d.%d:", (int)getpid(), ++number);
    if (redis.pid == 0)
        rig_launch(&redis);
    return open_loop(state);
}

static int tear_down_redis(void **state)
{
    return close_loop(state);
}

/* --- servers ------------------------------------------------------------------------------- */

struct srv {
    struct shared *shared;
    struct limits *l;
};

static void wait_for(struct shared *s, bool up, int64_t ms)
{
    int64_t end = clock_mono_ms() + ms;
    while (shared_is_up(s) != up) {
        assert_true(clock_mono_ms() < end);
        run_for(5);
    }
}

static struct srv srv_open(enum limit_away away)
{
    struct srv s;
    struct err err;
    struct shared_opts so = {.url = redis.url, .prefix = prefix, .timeout_ms = TIMEOUT_MS};
    s.shared = shared_open(loop, &so, &err);
    assert_non_null(s.shared);
    struct limits_opts lo = {
        .loop = loop, .shared = s.shared, .away = away, .lease_ms = LEASE_TEST_MS};
    s.l = limits_new(&lo);
    wait_for(s.shared, true, 8000);
    return s;
}

static void srv_close(struct srv *s)
{
    limits_free(s->l);
    shared_close(s->shared);
}

static enum err_code ask(struct srv *s, const struct api_key *key, int64_t tokens,
                         struct limit_ticket *t)
{
    struct limit_need need = {tokens, 0};
    *t = (struct limit_ticket){0};
    last = (struct answer){0};
    limit_acquire(s->l, key, &need, t, on_answer, &last);
    assert_true(last.done || run_until(&last.done, 5000));
    run_for(0);
    assert_int_equal(last.calls, 1);
    return last.code;
}

static const struct limit_views *see(struct srv *s, const struct api_key *key)
{
    struct limit_ticket t = {0};
    last = (struct answer){0};
    limit_look(s->l, key, &t, on_answer, &last);
    assert_true(last.done || run_until(&last.done, 5000));
    assert_int_equal(last.code, ERR_NONE);
    return &last.views;
}

struct many {
    int asked, answered, admitted, refused, failed;
    bool done;
};

static void on_one_of_many(void *ctx, const struct limit_views *views, const struct err *err)
{
    struct many *m = ctx;
    (void)views;
    m->answered++;
    m->admitted += err == NULL;
    m->refused += err && (err->code == ERR_RATE_LIMITED || err->code == ERR_QUOTA);
    m->failed += err && err->code == ERR_UNAVAILABLE;
    m->done = m->answered == m->asked;
    if (m->done)
        loop_stop(loop);
}

#define MANY 200

/* MANY requests at once, spread over the servers; the tickets are kept. */
static struct many ask_many(struct srv *servers, size_t count, const struct api_key *key,
                            int64_t tokens, struct limit_ticket tickets[MANY])
{
    struct many m = {.asked = MANY};
    struct limit_need need = {tokens, 0};
    memset(tickets, 0, sizeof(*tickets) * MANY);
    for (size_t i = 0; i < MANY; i++)
        limit_acquire(servers[i % count].l, key, &need, &tickets[i], on_one_of_many, &m);
    assert_true(m.done || run_until(&m.done, 10000));
    return m;
}

static void settle_all(struct srv *servers, size_t count, struct limit_ticket tickets[MANY],
                       int64_t tokens)
{
    for (size_t i = 0; i < MANY; i++) {
        if (limit_is_held(&tickets[i]))
            limit_settle(servers[i % count].l, &tickets[i], tokens, 0);
    }
}

/* --- exact --------------------------------------------------------------------------------- */

static void test_two_servers(void **state)
{
    (void)state;
    struct srv s[2] = {srv_open(LIMIT_AWAY_CLOSED), srv_open(LIMIT_AWAY_CLOSED)};
    struct limit_ticket tickets[MANY];
    struct api_key keys[4] = {make_key(50, -1, -1), make_key(-1, 50, -1), make_key(-1, -1, 5000),
                              make_key(-1, -1, -1)};
    keys[3].limits.max_concurrent = 50;
    for (int i = 0; i < 4; i++) {
        keys[i].id[0] = (char)('a' + i);
        struct many m = ask_many(s, 2, &keys[i], 100, tickets);
        assert_int_equal(m.admitted, 50);
        assert_int_equal(m.refused, MANY - 50);
        settle_all(s, 2, tickets, 100);
    }
    srv_close(&s[0]);
    srv_close(&s[1]);
}

static void test_true_up(void **state)
{
    (void)state;
    struct srv s[2] = {srv_open(LIMIT_AWAY_CLOSED), srv_open(LIMIT_AWAY_CLOSED)};
    struct api_key key = make_key(-1, -1, 1000);
    struct limit_ticket a, b;
    assert_int_equal(ask(&s[0], &key, 600, &a), ERR_NONE);
    assert_int_equal(ask(&s[1], &key, 500, &b), ERR_QUOTA);
    assert_non_null(strstr(last.err.msg, "400 of the limit of 1000 tokens per day remain (600 more"
                                         " are reserved"));
    limit_settle(s[0].l, &a, 100, 0);
    see(&s[0], &key); /* after the settling, which was sent before */
    assert_int_equal(ask(&s[1], &key, 900, &b), ERR_NONE);
    limit_settle(s[1].l, &b, 1000, 0); /* more than reserved */
    see(&s[1], &key);
    assert_int_equal(ask(&s[0], &key, 1, &a), ERR_QUOTA);
    assert_non_null(strstr(last.err.msg, "The limit of 1000 tokens per day is reached"));
    srv_close(&s[0]);
    srv_close(&s[1]);
}

/* --- restarts and crashes ------------------------------------------------------------------- */

static void test_restart_in_the_day(void **state)
{
    (void)state;
    struct srv s = srv_open(LIMIT_AWAY_CLOSED);
    struct api_key key = make_key(-1, 10, 1000);
    struct limit_ticket t;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(ask(&s, &key, 100, &t), ERR_NONE);
        limit_settle(s.l, &t, 50, 0);
    }
    srv_close(&s);
    s = srv_open(LIMIT_AWAY_CLOSED); /* Redis has all of it; the database as well */
    limit_restore(s.l, key.id, &(struct limit_spent){.requests = 3, .tokens = 150});
    assert_int_equal(see(&s, &key)->day_requests.remaining, 7);
    assert_int_equal(last.views.day_tokens.remaining, 850);
    srv_close(&s);
    assert_int_equal(rig_ask(&redis, "FLUSHALL"), 0);
    s = srv_open(LIMIT_AWAY_CLOSED); /* Redis has nothing */
    assert_int_equal(ask(&s, &key, 100, &t), ERR_NONE);
    limit_restore(s.l, key.id, &(struct limit_spent){.requests = 3, .tokens = 150});
    assert_int_equal(see(&s, &key)->day_requests.remaining, 6); /* one runs: not in the database */
    assert_int_equal(last.views.day_tokens.remaining, 750);     /* 100 of them reserved */
    limit_settle(s.l, &t, 20, 0);
    assert_int_equal(see(&s, &key)->day_tokens.remaining, 830);
    srv_close(&s);
}

static void child_takes_and_dies(const struct api_key *key, int out)
{
    struct limit_ticket t;
    loop = loop_new();
    struct srv s = srv_open(LIMIT_AWAY_CLOSED);
    for (int i = 0; i < 3; i++)
        assert_int_equal(ask(&s, key, 100, &t), ERR_NONE);
    if (write(out, "x", 1) != 1)
        _exit(1);
    for (;;) /* renews, until it is killed */
        run_for(1000);
}

static void test_crash_between(void **state)
{
    (void)state;
    struct api_key key = make_key(-1, 100, 1000);
    int out[2];
    char byte;
    key.limits.max_concurrent = 3;
    assert_int_equal(pipe(out), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        child_takes_and_dies(&key, out[1]);
    }
    assert_int_equal(read(out[0], &byte, 1), 1);
    struct srv s = srv_open(LIMIT_AWAY_CLOSED);
    struct limit_ticket t;
    run_for(2 * LEASE_TEST_MS); /* it lives: nothing is given back */
    assert_int_equal(ask(&s, &key, 1, &t), ERR_RATE_LIMITED);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    int64_t died = clock_mono_ms();
    while (ask(&s, &key, 1, &t) == ERR_RATE_LIMITED) {
        assert_true(clock_mono_ms() - died < LEASE_TEST_MS + 300);
        run_for(20);
    }
    assert_int_equal(last.code, ERR_NONE);
    assert_int_equal(last.views.concurrent.remaining, 2);
    assert_int_equal(last.views.day_tokens.remaining, 999);  /* nobody knows what they used */
    assert_int_equal(last.views.day_requests.remaining, 96); /* but that there were three */
    limit_settle(s.l, &t, 1, 0);
    srv_close(&s);
    close(out[0]);
    close(out[1]);
}

static void test_renewed(void **state)
{
    (void)state;
    struct srv s = srv_open(LIMIT_AWAY_CLOSED);
    struct api_key key = make_key(-1, -1, 100000);
    struct limit_ticket tickets[MANY];
    key.limits.max_concurrent = MANY;
    assert_int_equal(ask_many(&s, 1, &key, 10, tickets).admitted, MANY);
    run_for(3 * LEASE_TEST_MS);
    assert_int_equal(see(&s, &key)->concurrent.remaining, 0);
    assert_int_equal(last.views.day_tokens.remaining, 100000 - 10 * MANY);
    settle_all(&s, 1, tickets, 3);
    assert_int_equal(see(&s, &key)->concurrent.remaining, MANY);
    assert_int_equal(last.views.day_tokens.remaining, 100000 - 3 * MANY);
    srv_close(&s);
}

/* --- cancelling ----------------------------------------------------------------------------- */

static void test_cancel(void **state)
{
    (void)state;
    struct srv s = srv_open(LIMIT_AWAY_CLOSED);
    struct api_key key = make_key(100, 100, 1000);
    struct limit_ticket t[10];
    struct limit_need need = {50, 0};
    key.limits.max_concurrent = 10;
    memset(t, 0, sizeof(t));
    last = (struct answer){0};
    for (int i = 0; i < 10; i++) {
        limit_acquire(s.l, &key, &need, &t[i], on_answer, &last);
        assert_false(limit_is_held(&t[i]));
    }
    for (int i = 0; i < 10; i += 2)
        limit_cancel(s.l, &t[i]);
    for (int i = 0; i < 500 && last.calls < 5; i++)
        run_for(2);
    struct answer was = last;
    assert_int_equal(was.calls, 5);
    see(&s, &key);
    assert_int_equal(see(&s, &key)->concurrent.remaining, 5);
    assert_int_equal(last.views.day_tokens.remaining, 750);
    assert_int_equal(last.views.day_requests.remaining, 95);
    assert_int_equal(last.views.minute.remaining, 95);
    for (int i = 1; i < 10; i += 2)
        limit_settle(s.l, &t[i], 0, 0);
    limit_acquire(s.l, &key, &need, &t[0], on_answer, &last); /* forgotten with the limits */
    limit_acquire(s.l, &key, &need, &t[1], on_answer, &last);
    limit_cancel(s.l, &t[1]);
    srv_close(&s);
}

static void test_cancel_while_away(void **state)
{
    (void)state;
    struct srv s = srv_open(LIMIT_AWAY_SHARE);
    struct api_key key = make_key(100, 100, 1000);
    struct limit_ticket t = {0};
    struct limit_need need = {50, 0};
    last = (struct answer){0};
    kill(redis.pid, SIGSTOP);
    limit_acquire(s.l, &key, &need, &t, on_answer, &last);
    limit_cancel(s.l, &t);
    run_for(2 * TIMEOUT_MS);
    assert_int_equal(last.calls, 0);
    assert_false(shared_is_up(s.shared));
    kill(redis.pid, SIGCONT);
    wait_for(s.shared, true, 8000);
    srv_close(&s);
}

/* --- Redis away ----------------------------------------------------------------------------- */

static void test_closed(void **state)
{
    (void)state;
    struct srv s = srv_open(LIMIT_AWAY_CLOSED);
    struct api_key key = make_key(-1, 100, -1);
    struct limit_ticket t;
    kill(redis.pid, SIGSTOP);
    int64_t start = clock_mono_ms();
    assert_int_equal(ask(&s, &key, 1, &t), ERR_UNAVAILABLE); /* was on its way */
    assert_in_range(clock_mono_ms() - start, TIMEOUT_MS - 50, TIMEOUT_MS + 300);
    assert_int_equal(err_status(&last.err), 503);
    assert_int_equal(last.err.retry_after_s, 5);
    start = clock_mono_ms();
    for (int i = 0; i < 100; i++)
        assert_int_equal(ask(&s, &key, 1, &t), ERR_UNAVAILABLE);
    assert_true(clock_mono_ms() - start < 300); /* at once */
    kill(redis.pid, SIGCONT);
    wait_for(s.shared, true, 8000);
    assert_int_equal(ask(&s, &key, 1, &t), ERR_NONE);
    limit_settle(s.l, &t, 1, 0);
    srv_close(&s);
}

static void test_open(void **state)
{
    (void)state;
    struct srv s = srv_open(LIMIT_AWAY_OPEN);
    struct api_key key = make_key(2, 10, 100);
    struct limit_ticket tickets[MANY], t;
    assert_int_equal(ask(&s, &key, 10, &t), ERR_NONE);
    limit_settle(s.l, &t, 10, 0);
    see(&s, &key);
    rig_kill(&redis);
    struct many m = ask_many(&s, 1, &key, 10, tickets);
    assert_int_equal(m.admitted, MANY);
    assert_int_equal(ask(&s, &key, 10, &t), ERR_NONE);
    assert_int_equal(last.views.minute.limit, -1); /* nothing is known: no headers */
    rig_launch(&redis);
    wait_for(s.shared, true, 8000);
    for (int i = 0; i < 5; i++) { /* what ends from now on counts again */
        limit_settle(s.l, &tickets[i], 7, 0);
        assert_null(tickets[i].hold);
    }
    assert_int_equal(see(&s, &key)->day_requests.remaining, 4); /* the one of before, and five */
    assert_int_equal(last.views.day_tokens.remaining, 55);
    settle_all(&s, 1, tickets, 0);
    limit_settle(s.l, &t, 0, 0);
    srv_close(&s);
}

/* Two servers: each admits its half, together never more than the limit. */
static void test_share(void **state)
{
    (void)state;
    struct srv s[2] = {srv_open(LIMIT_AWAY_SHARE), srv_open(LIMIT_AWAY_SHARE)};
    struct limit_ticket tickets[MANY];
    struct shared_health h;
    struct api_key keys[5] = {make_key(50, -1, -1), make_key(-1, 50, -1), make_key(-1, -1, 5000),
                              make_key(-1, -1, -1), make_key(1, -1, -1)};
    keys[3].limits.max_concurrent = 50;
    do { /* the first has to hear of the second */
        run_for(100);
        shared_health(s[0].shared, &h);
    } while (h.replicas < 2);
    rig_kill(&redis);
    wait_for(s[0].shared, false, 1000);
    wait_for(s[1].shared, false, 1000);
    for (int i = 0; i < 5; i++) {
        keys[i].id[0] = (char)('a' + i);
        struct many m = ask_many(s, 2, &keys[i], 100, tickets);
        assert_int_equal(m.admitted, i == 4 ? 2 : 50); /* a limit of 1 is 1 on each */
        assert_int_equal(m.refused, MANY - m.admitted);
        settle_all(s, 2, tickets, 100);
    }
    srv_close(&s[0]);
    srv_close(&s[1]);
}

/* What was used before, and what runs, is known while Redis is away. */
static void test_share_knows(void **state)
{
    (void)state;
    struct srv s = srv_open(LIMIT_AWAY_SHARE);
    struct api_key key = make_key(-1, 20, 1000), other = key, third = key;
    struct limit_ticket running[3], tickets[MANY], t;
    key.limits.max_concurrent = 10;
    other.id[0] = 'x';
    third.id[0] = 'y';
    for (int i = 0; i < 3; i++)
        assert_int_equal(ask(&s, &key, 10, &running[i]), ERR_NONE);
    limit_restore(s.l, other.id, &(struct limit_spent){.requests = 15});
    rig_kill(&redis);
    wait_for(s.shared, false, 1000);
    limit_restore(s.l, third.id, &(struct limit_spent){.requests = 16});
    struct many m = ask_many(&s, 1, &key, 10, tickets);
    assert_int_equal(m.admitted, 7); /* and three run */
    limit_settle(s.l, &running[0], 900, 0);
    settle_all(&s, 1, tickets, 5); /* 35 */
    assert_int_equal(ask(&s, &key, 10, &t), ERR_NONE);
    assert_int_equal(last.views.concurrent.remaining, 7);
    assert_int_equal(last.views.day_requests.remaining, 20 - 3 - 7 - 1);
    assert_int_equal(last.views.day_tokens.remaining, 1000 - 900 - 35 - 10);
    limit_settle(s.l, &t, 0, 0);
    assert_int_equal(ask_many(&s, 1, &other, 1, tickets).admitted, 5);
    settle_all(&s, 1, tickets, 0);
    assert_int_equal(ask_many(&s, 1, &third, 1, tickets).admitted, 4);
    settle_all(&s, 1, tickets, 0);
    limit_settle(s.l, &running[1], 0, 0);
    limit_settle(s.l, &running[2], 0, 0);
    srv_close(&s);
}

/* What ended just before Redis went away is known, though Redis has not told it any more. */
static void test_share_knows_the_last(void **state)
{
    (void)state;
    struct srv s = srv_open(LIMIT_AWAY_SHARE);
    struct api_key key = make_key(-1, -1, 1000);
    struct limit_ticket t;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(ask(&s, &key, 50, &t), ERR_NONE);
        limit_settle(s.l, &t, 300, 0);
    }
    run_for(50);
    rig_kill(&redis);
    wait_for(s.shared, false, 1000);
    assert_int_equal(ask(&s, &key, 50, &t), ERR_NONE);
    assert_int_equal(last.views.day_tokens.remaining, 1000 - 600 - 50);
    limit_settle(s.l, &t, 0, 0);
    srv_close(&s);
}

/* A Redis that has no room counts as away until it has; what it knew it still knows. */
static void test_full(void **state)
{
    (void)state;
    struct srv s = srv_open(LIMIT_AWAY_SHARE);
    struct api_key key = make_key(-1, 10, -1);
    struct limit_ticket t;
    assert_int_equal(ask(&s, &key, 1, &t), ERR_NONE);
    limit_settle(s.l, &t, 1, 0);
    assert_int_equal(rig_ask(&redis, "CONFIG SET maxmemory 1"), 0);
    assert_int_equal(ask(&s, &key, 1, &t), ERR_NONE); /* this server's part: all of it */
    assert_int_equal(last.views.day_requests.remaining, 8);
    wait_for(s.shared, false, 1000);
    run_for(500); /* it connects again and again, and is not up */
    assert_false(shared_is_up(s.shared));
    assert_int_equal(rig_ask(&redis, "CONFIG SET maxmemory 0"), 0);
    wait_for(s.shared, true, 8000);
    limit_settle(s.l, &t, 1, 0);
    assert_int_equal(see(&s, &key)->day_requests.remaining, 8);
    srv_close(&s);
}

/* Redis comes back empty, and the database says nothing yet: a spent day stays spent. */
static void test_back_empty(void **state)
{
    (void)state;
    struct srv s = srv_open(LIMIT_AWAY_CLOSED);
    struct api_key key = make_key(-1, 10, -1);
    struct limit_ticket t;
    for (int i = 0; i < 10; i++) {
        assert_int_equal(ask(&s, &key, 1, &t), ERR_NONE);
        limit_settle(s.l, &t, 1, 0);
    }
    rig_kill(&redis);
    wait_for(s.shared, false, 1000);
    rig_launch(&redis);
    wait_for(s.shared, true, 8000);
    assert_int_equal(ask(&s, &key, 1, &t), ERR_QUOTA);
    srv_close(&s);
}

/* After the outage: what runs is counted again, and the next outage begins anew. */
static void test_back_again(void **state)
{
    (void)state;
    struct srv s = srv_open(LIMIT_AWAY_SHARE);
    struct api_key key = make_key(-1, 100, 1000);
    struct limit_ticket tickets[MANY], before, t;
    key.limits.max_concurrent = 20;
    assert_int_equal(ask(&s, &key, 10, &before), ERR_NONE);
    for (int round = 0; round < 2; round++) {
        rig_kill(&redis);
        wait_for(s.shared, false, 1000);
        struct many m = ask_many(&s, 1, &key, 10, tickets);
        assert_int_equal(m.admitted, 19);
        assert_int_equal(ask(&s, &key, 10, &t), ERR_RATE_LIMITED);
        rig_launch(&redis);
        wait_for(s.shared, true, 8000);
        /* Redis has forgotten all; the requests that run are told to it. */
        assert_int_equal(see(&s, &key)->concurrent.remaining, 0);
        assert_int_equal(ask(&s, &key, 10, &t), ERR_RATE_LIMITED);
        settle_all(&s, 1, tickets, 10);
        limit_restore(s.l, key.id, &(struct limit_spent){.requests = 19 * (round + 1)});
        assert_int_equal(see(&s, &key)->concurrent.remaining, 19);
        assert_int_equal(last.views.day_requests.remaining, 100 - 19 * (round + 1) - 1);
        assert_int_equal(last.views.day_tokens.remaining, 1000 - 190 * (round + 1));
    }
    limit_settle(s.l, &before, 0, 0);
    srv_close(&s);
}

#endif
