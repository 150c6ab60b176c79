/* pool_breaker_cases.h - starts that fail, trials that fail, keys that wear processes out: who
 * pauses for it, and that it ends. */
#ifndef CG_TESTS_POOL_BREAKER_CASES_H
#define CG_TESTS_POOL_BREAKER_CASES_H

#include "pool_agent_cases.h"

static bool try_ask(struct probe *p, const char *key_id, const char *text, struct err *err)
{
    struct turn_request req = {.key_id = key_id, .model = MODEL, .request_id = "req_test"};
    req.content = text_content(text);
    ask_request(p, &req, err);
    json_decref(req.content);
    return p->turn != NULL;
}

static bool starts_have_failed(const void *arg)
{
    return status().start_failures_in_row >= *(const int *)arg;
}

/* FAKE_LATER: what every new process does when the trial comes to that line. */
static void open_with_bad_trials(const char *later)
{
    rig.opts.history = HISTORY_AUTO;
    rig.opts.start_timeout_ms = 400;
    rig.opts.prepare_timeout_ms = 400;
    setenv("FAKE_UPSTREAM", "1", 1);
    setenv("FAKE_LATER", later, 1);
    open_pool();
}

static void check_bad_trials(const char *later)
{
    int failures = 3;
    struct probe p = {.tag = 0};
    struct err err = {.code = ERR_NONE};
    open_with_bad_trials(later);
    assert_true(run_until(starts_have_failed, &failures, 20000));
    assert_true(status().starts < 10); /* it pauses between them */
    assert_true(status().breaker_open_ms > 0);
    assert_false(try_ask(&p, "A", "x", &err));
    assert_int_equal(err.code, ERR_OVERLOADED);
}

static void test_a_death_in_the_trial_is_a_failed_start(void **state)
{
    (void)state;
    check_bad_trials("{\"at\":\"history\",\"do\":\"exit\",\"code\":1}");
}

static void test_a_hang_in_the_trial_is_a_failed_start(void **state)
{
    (void)state;
    check_bad_trials("{\"at\":\"clear\",\"do\":\"hang\"}");
}

/* Two at once on a busy machine say nothing about the program. */
static void test_two_slow_trials_are_no_verdict(void **state)
{
    int failures = 2;
    (void)state;
    rig.opts.min_spare = 2;
    open_with_bad_trials("{\"at\":\"history\",\"do\":\"delay\",\"ms\":3000}");
    assert_true(run_until(starts_have_failed, &failures, 20000));
    unsetenv("FAKE_LATER");
    wait_spare(2);
    assert_int_equal(status().history, HISTORY_INJECT);
}

/* Nobody starts a spare here but a turn that waits: it must be let in. */
static void test_an_outage_of_starts_ends(void **state)
{
    struct probe p = {.tag = 0};
    struct err err;
    (void)state;
    rig.opts.min_spare = 0;
    rig.opts.queue_timeout_ms = 3500;
    setenv("FAKE_EXIT_AT_START", "1", 1);
    open_pool();
    assert_true(try_ask(&p, "A", "x", &err));
    wait_done(&p);
    assert_true(status().start_failures_in_row >= 3);
    unsetenv("FAKE_EXIT_AT_START");
    run_for(status().breaker_open_ms + 50);
    assert_true(try_ask(&p, "A", "x", &err));
    wait_done(&p);
    assert_ok(&p, "ok");
    assert_int_equal(status().start_failures_in_row, 0);
}

/* What one key has put into its workspace is no reason for the others to wait. */
static void test_a_start_for_a_turn_fails_alone(void **state)
{
    struct probe victim = {.tag = 0}, p = {.tag = 0};
    struct err err;
    (void)state;
    rig.opts.max_workers = 3;
    open_pool();
    ask_and_wait(&victim, "victim", "x");
    pid_t pid = last_pid();
    for (int i = 0; i < 4; i++) {
        struct turn_request req = {.key_id = "A",
                                   .model = MODEL,
                                   .request_id = "r",
                                   .profile = &agent_profile,
                                   .workspace = "/nonexistent/workspace",
                                   .workspace_id = "w"};
        req.content = text_content("x");
        ask_request(&p, &req, &err);
        json_decref(req.content);
        assert_non_null(p.turn);
        wait_done(&p);
        assert_failed(&p, ERR_WORKER);
        assert_int_equal(p.started, 0);
    }
    assert_int_equal(status().start_failures_in_row, 0);
    ask_and_wait(&victim, "victim", "x");
    assert_ok(&victim, "ok");
    assert_int_equal(last_pid(), pid);
}

static void test_a_start_for_a_turn_that_works_ends_the_pause(void **state)
{
    struct probe p = {.tag = 0};
    int failures = 2;
    (void)state;
    rig.opts.history = HISTORY_RESUME;
    setenv("FAKE_EXIT_AT_START", "1", 1);
    open_pool();
    assert_true(run_until(starts_have_failed, &failures, 20000));
    rig.opts.min_spare = 0;
    unsetenv("FAKE_EXIT_AT_START");
    json_t *h = json_array();
    history_add(h, "user", "one");
    history_add(h, "assistant", "two");
    struct err err;
    struct turn_request req = {.key_id = "A", .model = MODEL, .request_id = "r", .history = h};
    req.content = text_content("x");
    ask_request(&p, &req, &err);
    json_decref(req.content);
    json_decref(h);
    wait_done(&p);
    assert_ok(&p, "ok");
    assert_int_equal(status().start_failures_in_row, 0);
}

/* Those that wait already stop too. */
static void test_waiting_turns_of_a_crashing_key_pause(void **state)
{
    static struct probe p[40];
    struct probe other = {.tag = 0};
    struct err err;
    (void)state;
    rig.opts.queue_timeout_ms = 3000;
    open_pool();
    wait_spare(1);
    for (size_t i = 0; i < ARRAY_SIZE(p); i++) {
        p[i] = (struct probe){.tag = 0};
        assert_true(try_ask(&p[i], "A", "fake:{\"exit_at\":\"init\",\"exit_code\":3}", &err));
    }
    ask_and_wait(&other, "B", "x");
    assert_ok(&other, "ok");
    for (size_t i = 0; i < ARRAY_SIZE(p); i++)
        wait_done(&p[i]);
    assert_true(status().starts < 25); /* not one or two for each */
}

/* A client that leaves does not hide what its request did to the process. */
static void test_leaving_does_not_hide_a_crash(void **state)
{
    static const char step[] = "fake:{\"text\":\"abc\",\"chunk\":1,\"delay_ms\":5000,"
                               "\"ignore_interrupt\":true,\"ignore_sigterm\":true}";
    struct probe p = {.tag = 0};
    struct err err;
    int admitted = 0;
    (void)state;
    rig.opts.interrupt_timeout_ms = 50;
    open_pool();
    while (admitted < 15) {
        wait_spare(1);
        if (!try_ask(&p, "A", step, &err))
            break;
        admitted++;
        while (!p.events)
            event_base_loop(loop_base(rig.loop), EVLOOP_ONCE);
        cancel(&p, "left");
        wait_done(&p);
    }
    assert_in_range(admitted, 5, 8);
    assert_int_equal(err.code, ERR_OVERLOADED);
}

#endif
