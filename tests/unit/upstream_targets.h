/* upstream_targets.h - which target is asked, and how long one is left alone: with a clock of the
 * test's own; and calls that go from one to the next (fail_over), over real connections. */
#ifndef CG_TESTS_UPSTREAM_TARGETS_H
#define CG_TESTS_UPSTREAM_TARGETS_H

#include "upstream_rig.h"

#include "upstream/policy.h"
#include "upstream/targets.h"

#define MANY_NUMBERS 20000

static struct targets *make_targets(const int *weights, size_t count)
{
    static const char *const names[] = {"a", "b", "c", "d"};
    struct upstream_target list[4] = {{0}};
    struct err err;
    for (size_t i = 0; i < count; i++)
        list[i] = (struct upstream_target){
            .name = names[i], .base_url = "https://x.example", .weight = weights[i]};
    struct targets *ts = targets_new(list, count, &err);
    assert_non_null(ts);
    return ts;
}

/* The target of this number, as an index. */
static size_t first_of(struct targets *ts, uint64_t affinity, int64_t now)
{
    struct target_walk walk = {.affinity = affinity};
    return (size_t)(targets_first(ts, &walk, now) - targets_at(ts, 0));
}

static struct target *target_named(struct targets *ts, size_t i)
{
    return (struct target *)(uintptr_t)targets_at(ts, i);
}

/* One request to target i that begins at `begun` and is answered at `now`; 0 = no answer. */
static void answer(struct targets *ts, size_t i, int status, int retry_after, int64_t begun,
                   int64_t now)
{
    struct attempt a;
    attempt_begin(&a, target_named(ts, i), begun);
    if (status)
        attempt_answered(&a, status, retry_after, now);
    else
        attempt_failed(&a, now);
    attempt_over(&a);
}

static int64_t cooling(struct targets *ts, size_t i, int64_t now)
{
    return target_cooling_ms(targets_at(ts, i), now);
}

static void shares_follow_weights(void **state)
{
    static const int weights[] = {1, 2, 5, 0};
    (void)state;
    struct targets *ts = make_targets(weights, 4);
    size_t hits[4] = {0};
    for (uint64_t n = 1; n <= MANY_NUMBERS; n++)
        hits[first_of(ts, n, 0)]++;
    for (size_t i = 0; i < 4; i++) { /* four standard deviations are under 0.015 of all */
        double share = (double)hits[i] / MANY_NUMBERS, want = weights[i] / 8.0;
        assert_true(share > want - 0.015 && share < want + 0.015);
    }
    assert_int_equal(hits[3], 0);
    targets_free(ts);
}

static void only_the_share_of_a_lost_target_moves(void **state)
{
    static const int weights[] = {1, 2, 5, 0};
    (void)state;
    struct targets *ts = make_targets(weights, 4), *others = make_targets(weights, 4);
    size_t moved[4] = {0};
    answer(ts, 1, 429, 60, 0, 1);
    for (uint64_t n = 1; n <= MANY_NUMBERS; n++) {
        size_t before = first_of(others, n, 2), now = first_of(ts, n, 2);
        assert_int_equal(before, first_of(others, n, 3)); /* the same again, on any server */
        if (before != 1)
            assert_int_equal(now, before);
        else
            moved[now]++;
        assert_int_equal(first_of(ts, n, 60001), before); /* and back */
    }
    assert_true(moved[0] > 0 && moved[1] == 0 && moved[2] > moved[0] && moved[3] == 0);
    targets_free(ts);
    targets_free(others);
}

static void a_round_tries_each_once(void **state)
{
    static const int weights[] = {1, 1, 0, 3};
    (void)state;
    struct targets *ts = make_targets(weights, 4);
    for (uint64_t n = 1; n < 50; n++) {
        struct target_walk walk = {.affinity = n};
        unsigned seen = 0;
        const struct target *t = targets_first(ts, &walk, 0);
        for (; t; t = targets_next(ts, &walk, 0)) {
            unsigned bit = 1U << (t - targets_at(ts, 0));
            assert_int_equal(seen & bit, 0);
            assert_true(t->weight > 0 || seen == 0xB); /* the backup is last */
            seen |= bit;
        }
        assert_int_equal(seen, 0xF);
        assert_non_null(targets_first(ts, &walk, 0)); /* a new round */
    }
    size_t hits[4] = {0};
    for (int i = 0; i < 500; i++)
        hits[first_of(ts, 0, 0)]++; /* any */
    assert_true(hits[0] && hits[1] && hits[3]);
    /* all but the backup cool */
    for (size_t i = 0; i < 4; i++) {
        if (i != 2)
            answer(ts, i, 429, 10, 0, 1);
    }
    assert_int_equal(first_of(ts, 7, 2), 2);
    targets_free(ts);
}

static void limits_last_as_long_as_they_say(void **state)
{
    static const int weights[] = {1, 1};
    (void)state;
    struct targets *ts = make_targets(weights, 2);
    answer(ts, 0, 429, 7, 0, 1000);
    assert_int_equal(targets_at(ts, 0)->state, TARGET_LIMITED);
    assert_int_equal(cooling(ts, 0, 1000), 7000);
    assert_int_equal(targets_wait_ms(ts, 1000), 0); /* the other is free */
    answer(ts, 1, 529, 3, 0, 1000);
    assert_int_equal(targets_wait_ms(ts, 1000), 3000);
    for (uint64_t n = 1; n < 20; n++) /* all cool: who is free soonest */
        assert_int_equal(first_of(ts, n, 1500), 1);
    answer(ts, 0, 200, 0, 900, 1500); /* began before: tells nothing */
    assert_int_equal(cooling(ts, 0, 1500), 6500);
    answer(ts, 0, 200, 0, 8000, 8100);
    assert_int_equal(targets_at(ts, 0)->state, TARGET_OK);
    answer(ts, 0, 429, 0, 9000, 9000); /* not said how long: short */
    assert_int_equal(cooling(ts, 0, 9000), 5000);
    answer(ts, 0, 429, 86400, 9001, 9002);
    assert_int_equal(cooling(ts, 0, 9002), 3600000);
    answer(ts, 1, 503, 2, 9000, 9100);
    assert_int_equal(targets_at(ts, 1)->state, TARGET_LIMITED);
    targets_free(ts);
}

static void failures_double_the_pause(void **state)
{
    static const int weights[] = {1, 1};
    static const int64_t want[] = {1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000, 60000};
    (void)state;
    struct targets *ts = make_targets(weights, 2);
    int64_t now = 0;
    for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
        now += 100000;
        answer(ts, 0, i % 2 ? 500 : 0, 0, now, now + 1);
        assert_int_equal(targets_at(ts, 0)->state, TARGET_FAILING);
        assert_int_equal(cooling(ts, 0, now + 1), want[i]);
        answer(ts, 0, 502, 0, now, now + 2); /* the same incident, seen by another request */
        assert_int_equal(cooling(ts, 0, now + 1), want[i]);
    }
    answer(ts, 0, 404, 0, now + 100000, now + 100001); /* an answer is an answer */
    assert_int_equal(targets_at(ts, 0)->state, TARGET_OK);
    answer(ts, 0, 0, 0, now + 200000, now + 200001);
    assert_int_equal(cooling(ts, 0, now + 200001), 1000);
    targets_free(ts);
}

static void one_request_tries_what_was_refused(void **state)
{
    static const int weights[] = {1, 1};
    static const int statuses[] = {401, 402, 403};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(statuses); i++) {
        struct targets *ts = make_targets(weights, 2);
        struct attempt trial;
        uint64_t n = 1;
        while (first_of(ts, n, 0) != 0)
            n++;
        answer(ts, 0, statuses[i], 0, 0, 1);
        assert_int_equal(targets_at(ts, 0)->state, TARGET_REFUSED);
        assert_int_equal(first_of(ts, n, 60000), 1);
        assert_int_equal(first_of(ts, n, 60001), 0);
        attempt_begin(&trial, target_named(ts, 0), 60001);
        assert_int_equal(first_of(ts, n, 60002), 1); /* the others wait for that one */
        if (i == 0) {
            attempt_answered(&trial, statuses[i], 0, 60003);
            assert_int_equal(first_of(ts, n, 120002), 1);
            assert_int_equal(first_of(ts, n, 120003), 0);
        } else if (i == 1) {
            attempt_over(&trial); /* its client left: the next may try */
            assert_int_equal(first_of(ts, n, 60004), 0);
        } else {
            attempt_answered(&trial, 200, 0, 60003);
            assert_int_equal(first_of(ts, n, 60004), 0);
            assert_int_equal(targets_at(ts, 0)->state, TARGET_OK);
        }
        /* A refused one is no way out while another merely waits. */
        answer(ts, 0, 401, 0, 200000, 200001);
        answer(ts, 1, 429, 600, 200000, 200001);
        assert_int_equal(first_of(ts, n, 200002), 1);
        targets_free(ts);
    }
}

/* What is taken for this machine gets the credential unencrypted, and past a proxy. */
static void which_hosts_are_this_machine(void **state)
{
    (void)state;
    static const char *const near[] = {"localhost", "127.0.0.1", "127.1.2.3", "[::1]"};
    static const char *const far[] = {"127.example.com", "127.0.0.1.example.com", "10.0.0.1",
                                      "::1"};
    for (size_t i = 0; i < ARRAY_SIZE(near); i++)
        assert_true(host_is_loopback(near[i]));
    for (size_t i = 0; i < ARRAY_SIZE(far); i++)
        assert_false(host_is_loopback(far[i]));
}

static void which_failures_may_differ(void **state)
{
    (void)state;
    static const int yes[] = {401, 402, 403, 429, 500, 502, 503, 529};
    static const int no[] = {200, 302, 400, 404, 407, 408, 413, 422, 504};
    for (size_t i = 0; i < ARRAY_SIZE(yes); i++)
        assert_true(policy_may_differ(yes[i]));
    for (size_t i = 0; i < ARRAY_SIZE(no); i++)
        assert_false(policy_may_differ(no[i]));
}

/* --- over connections ---------------------------------------------------------------------- */

/* The rig's own upstream is target "one"; "two" is the second fake. Affinity begins at "one". */
struct pair {
    struct rig rig;
    struct fake two;
};

static void pair_open(struct pair *p, const struct step *one, size_t ones, const struct step *two,
                      size_t twos, int retries)
{
    rig_prepare(&p->rig, one, ones);
    fake_open(&p->two, p->rig.loop, two, twos);
    struct upstream_opts opts = quick_opts(p->rig.fake.url);
    opts.targets[1] = (struct upstream_target){
        .name = "two", .base_url = p->two.url, .auth_token = "tok-two", .weight = 0};
    opts.target_count = 2;
    opts.max_retries = retries;
    rig_open_with(&p->rig, &opts);
    relay_begin_turn(p->rig.relay, &p->rig.turn);
}

static void pair_close(struct pair *p)
{
    fake_release(&p->two);
    rig_close(&p->rig);
}

static void another_target_is_asked_at_once(void **state)
{
    static const struct {
        int status;
        const char *headers;
    } rows[] = {{429, "retry-after: 3600\r\n"},
                {429, "x-should-retry: false\r\n"},
                {401, ""},
                {402, ""},
                {403, ""},
                {500, ""},
                {503, ""},
                {529, ""},
                {0, NULL}};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct pair p;
        AUTO(buf_release) struct buf b, good;
        struct step bad = rows[i].status ? plain(&b, rows[i].status, rows[i].headers,
                                                 ERROR_JSON("api_error", "m"))
                                         : (buf_init(&b, 1), (struct step){.reset = true});
        struct step fine = chunked(&good, STREAM);
        struct step two[] = {fine, fine};
        pair_open(&p, &bad, 1, two, 2, 0); /* max_retries is not about this */
        int64_t from = clock_mono_ms();
        ask_and_wait(&p.rig);
        assert_true(clock_mono_ms() - from < 1000);
        assert_status(&p.rig, 200);
        assert_body(&p.rig, STREAM);
        ask_and_wait(&p.rig); /* the first one is left alone now */
        assert_int_equal(p.rig.fake.request_count, 1);
        assert_int_equal(p.two.request_count, 2);
        assert_int_equal(p.two.conn_count, 1);
        assert_header(fake_request(&p.rig, 0), "x-api-key", "sk-operator");
        assert_null(strstr(fake_request(&p.rig, 0), "tok-two"));
        for (size_t k = 0; k < 2; k++) {
            assert_header(buf_cstr(&p.two.requests[k]), "authorization", "Bearer tok-two");
            assert_null(strstr(buf_cstr(&p.two.requests[k]), "sk-operator"));
        }
        relay_end_turn(p.rig.relay);
        assert_int_equal(p.rig.turn.calls, 2);
        assert_int_equal(p.rig.turn.retries, 1);
        assert_int_equal(p.rig.turn.input_tokens, 20);
        assert_int_equal(p.rig.turn.status, 200);
        pair_close(&p);
    }
}

/* An error that opens a stream is the target's as well, also when the stream ends with it. */
static void an_early_error_goes_to_another_target(void **state)
{
    static const char *const ends[] = {"\n\n", "\n", ""};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
        struct pair p;
        AUTO(buf_release) struct buf b, good;
        AUTO(free_charp)
        char *body =
            x_printf("event: error\ndata: %s%s", ERROR_JSON("overloaded_error", "m"), ends[i]);
        struct step one[] = {chunked(&b, body)};
        struct step fine = chunked(&good, STREAM), two[] = {fine, fine};
        pair_open(&p, one, 1, two, 2, 0);
        ask_and_wait(&p.rig);
        assert_status(&p.rig, 200);
        assert_body(&p.rig, STREAM);
        assert_int_equal(p.two.request_count, 1);
        if (i == 0) { /* it is left alone now */
            ask_and_wait(&p.rig);
            assert_int_equal(p.two.request_count, 2);
        }
        pair_close(&p);
    }
}

static void what_stays_with_its_target(void **state)
{
    static const int statuses[] = {400, 404, 413, 504, 302};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(statuses); i++) {
        struct pair p;
        AUTO(buf_release) struct buf b;
        struct step one[] = {plain(&b, statuses[i], "", ERROR_JSON("api_error", "m"))};
        pair_open(&p, one, 1, NULL, 0, 2);
        ask_and_wait(&p.rig);
        assert_status(&p.rig, statuses[i] == 302 ? 502 : statuses[i]);
        assert_int_equal(p.two.conn_count, 0);
        relay_end_turn(p.rig.relay);
        assert_int_equal(p.rig.turn.retries, 0);
        pair_close(&p);
    }
}

static void a_broken_stream_stays_broken(void **state)
{
    (void)state;
    struct pair p;
    struct step one[] = {{.bytes = CLOSED_STREAM START TEXT("hel"), .reset = true}};
    pair_open(&p, one, 1, NULL, 0, 2);
    buf_clear(&p.rig.cli.in);
    cli_send(&p.rig.cli, "/v1/messages", "", ask);
    assert_true(run_until(&p.rig, cli_sees_end, 5000));
    assert_int_equal(p.two.conn_count, 0);
    relay_end_turn(p.rig.relay);
    assert_int_equal(p.rig.turn.failure, RELAY_UNREACHABLE);
    assert_true(p.rig.turn.estimated);
    pair_close(&p);
}

/* When each was tried there is a pause, and a new round; the last one's error is told. */
static void after_all_were_tried_comes_a_pause(void **state)
{
    (void)state;
    struct pair p;
    AUTO(buf_release) struct buf b, c, d;
    struct step limited = plain(&b, 429, "retry-after: 1\r\n", ERROR_JSON("rate_limit_error", "l"));
    struct step refused = plain(&c, 401, "", ERROR_JSON("authentication_error", "no"));
    struct step one[] = {limited, chunked(&d, STREAM)}, two[] = {refused};
    pair_open(&p, one, 2, two, 1, 1);
    ask_and_wait(&p.rig);
    assert_status(&p.rig, 200);
    assert_true(p.rig.fake.at_us[1] - p.rig.fake.at_us[0] > 900000);
    assert_int_equal(p.two.request_count, 1);
    relay_end_turn(p.rig.relay);
    assert_int_equal(p.rig.turn.retries, 2);
    pair_close(&p);

    AUTO(buf_release) struct buf e;
    struct step no = plain(&e, 403, "", ERROR_JSON("permission_error", "never"));
    pair_open(&p, &no, 1, two, 1, 2);
    ask_and_wait(&p.rig);
    assert_status(&p.rig, 401);
    assert_int_equal(p.rig.fake.request_count + p.two.request_count, 2);
    pair_close(&p);
}

#endif
