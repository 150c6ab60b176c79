/* pool_storm.h - part of test_pool.c: many random turns at once. Whatever the program does and
 * whenever the client leaves, each turn ends exactly once, and nothing is left at the end. */
#ifndef CG_TESTS_POOL_STORM_H
#define CG_TESTS_POOL_STORM_H

#include "pool_rig.h"

#define STORM_TURNS   2000
#define STORM_AT_ONCE 24

static struct {
    uint32_t random;
    size_t submitted, refused, done, ok, cancelled;
    struct probe probes[STORM_AT_ONCE];
    struct timer leave[STORM_AT_ONCE];
} storm;

static uint32_t roll(uint32_t n)
{
    storm.random = storm.random * 1664525 + 1013904223;
    return (storm.random >> 8) % n;
}

/* Most turns are well; the others fail in one of the ways the fake knows. */
static const char *random_step(void)
{
    static const char *const steps[] = {
        "fake:{\"text\":\"abcdefgh\",\"chunk\":1,\"delay_ms\":3}",
        "fake:{\"start_delay_ms\":15}",
        "fake:{\"flood\":300}",
        "fake:{\"huge\":300000}",
        "fake:{\"exit_at\":\"init\",\"exit_code\":1}",
        "fake:{\"exit_at\":\"delta\",\"signal\":9}",
        "fake:{\"exit_at\":\"after_result\",\"exit_code\":0}",
        "fake:{\"exit_at\":\"before_result\",\"exit_partial\":true}",
        "fake:{\"stall\":true}",
        "fake:{\"text\":\"abc\",\"chunk\":1,\"stall_after\":1}",
        "fake:{\"stall\":true,\"ignore_interrupt\":true}",
        "fake:{\"no_result\":true}",
        "fake:{\"hang_after_result\":true}",
        "fake:{\"error\":{\"status\":529}}",
        "fake:{\"cut\":true}",
        "fake:{\"garbage_at\":\"delta\"}",
        "fake:{\"lose_control\":\"*\"}",
    };
    return roll(3) ? "plain" : steps[roll(ARRAY_SIZE(steps))];
}

static void leave(void *obj)
{
    struct probe *p = OBJ(obj, struct probe, PROBE_TAG);
    if (!p->turn)
        return;
    struct err err;
    err_set(&err, ERR_CLIENT_GONE, "left");
    turn_cancel(p->turn, &err);
    storm.cancelled++;
}

static json_t *random_history(void)
{
    if (roll(3))
        return NULL;
    json_t *h = json_array();
    for (uint32_t i = 0, n = roll(6) * 2; i < n; i++)
        history_add(h, i % 2 ? "assistant" : "user", "h");
    return h;
}

/* A key whose turns crashed in a row has to pause: then another asks. */
static void storm_ask(struct probe *p)
{
    static const char *const classes[] = {"A", "B", "C", "D", "E"};
    static const char *const models[] = {MODEL, MODEL, MODEL, "claude-opus-4-8"};
    static const char *const holds[] = {NULL, "", "s:2", "s:4"};
    struct err err;
    struct turn_request req = {.key_id = classes[roll(5)],
                               .model = models[roll(4)],
                               .request_id = "req_storm",
                               .history = random_history(),
                               .content = text_content(random_step()),
                               .holds = holds[roll(4)],
                               .will_hold = holds[roll(4)]};
    ask_request(p, &req, &err);
    json_decref(req.history);
    json_decref(req.content);
    if (!p->turn) {
        assert_true(err.code == ERR_OVERLOADED || err.code == ERR_SHUTTING_DOWN);
        storm.refused++;
        assert_true(storm.refused < STORM_TURNS);
        if (err.code == ERR_OVERLOADED)
            storm_ask(p);
        return;
    }
    storm.submitted++;
    size_t i = (size_t)(p - storm.probes);
    if (roll(5) == 0)
        timer_set(&storm.leave[i], roll(40));
    else
        timer_stop(&storm.leave[i]);
}

static void storm_next(void *obj)
{
    struct probe *p = obj;
    if (storm.submitted < STORM_TURNS && rig.pool && !rig.stopped)
        storm_ask(p);
}

static void storm_done(struct probe *p)
{
    storm.done++;
    storm.ok += p->result.ok;
    loop_defer(rig.loop, storm_next, p);
}

static bool storm_over(const void *arg)
{
    (void)arg;
    return storm.submitted >= STORM_TURNS && storm.done == storm.submitted;
}

static void storm_options(uint32_t seed)
{
    memset(&storm, 0, sizeof(storm));
    storm.random = seed;
    rig.opts.max_workers = 6;
    rig.opts.min_spare = 2;
    rig.opts.start_concurrency = 4;
    rig.opts.max_requests = 60;
    rig.opts.silence_timeout_ms = 150;
    rig.opts.prepare_timeout_ms = 300;
    rig.opts.interrupt_timeout_ms = 100;
    unsetenv("FAKE_LOG");
}

static void storm_begin(void)
{
    open_pool();
    for (size_t i = 0; i < STORM_AT_ONCE; i++) {
        storm.probes[i] = (struct probe){.tag = PROBE_TAG, .on_done = storm_done};
        timer_init(&storm.leave[i], rig.loop, leave, &storm.probes[i]);
        storm_ask(&storm.probes[i]);
    }
}

static void storm_release(void)
{
    for (size_t i = 0; i < STORM_AT_ONCE; i++)
        timer_release(&storm.leave[i]);
}

static void test_two_thousand_random_turns(void **state)
{
    (void)state;
    storm_options(20240229);
    storm_begin();
    bool over = run_until(storm_over, NULL, 240000);
    print_message("           %zu submitted, %zu done, %zu ok, %zu cancelled, %lld processes\n",
                  storm.submitted, storm.done, storm.ok, storm.cancelled,
                  (long long)status().starts);
    assert_true(over);
    assert_int_equal(storm.done, storm.submitted);
    assert_true(storm.ok > STORM_TURNS / 3);
    assert_int_equal(status().queued, 0);
    storm_release();
}

/* The same, stopped in the middle: before the first process runs, while some start, later. */
static void test_stop_at_any_moment(void **state)
{
    static const int64_t after_ms[] = {0, 1, 3, 10, 30, 100, 200, 400};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(after_ms); i++) {
        storm_options((uint32_t)i);
        storm_begin();
        if (after_ms[i])
            run_for(after_ms[i]);
        storm_release();
        rig.stopped = false;
        close_pool();
        assert_true(rig.stopped);
        if (storm.done != storm.submitted)
            fail_msg("stopped after %lld ms: %zu of %zu done", (long long)after_ms[i], storm.done,
                     storm.submitted);
        assert_true(storm.submitted >= STORM_AT_ONCE);
    }
}

#endif
