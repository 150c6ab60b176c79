/* pool_class_cases.h - who may share a process, how a process gets its history, and what operators
 * can see and do. */
#ifndef CG_TESTS_POOL_CLASS_CASES_H
#define CG_TESTS_POOL_CLASS_CASES_H

#include "pool_rig.h"

/* --- isolation ---------------------------------------------------------------------------- */

static void test_a_process_for_each_request(void **state)
{
    struct probe p = {.tag = 0};
    pid_t pids[3];
    (void)state;
    rig.opts.isolation = ISOLATE_REQUEST;
    open_pool();
    for (size_t i = 0; i < ARRAY_SIZE(pids); i++) {
        ask_and_wait(&p, "A", "fake:{\"echo_history\":true}");
        assert_true(p.result.ok);
        pids[i] = last_pid();
        for (size_t k = 0; k < i; k++)
            assert_int_not_equal(pids[k], pids[i]);
        wait_settled();
        assert_int_equal(status().idle, 0);
    }
}

static void test_a_shared_process_keeps_conversations_apart(void **state)
{
    struct probe p = {.tag = 0};
    char seen[4096];
    (void)state;
    rig.opts.isolation = ISOLATE_SHARED;
    rig.opts.max_workers = 1;
    open_pool();
    ask_and_wait(&p, "A", "the secret of A");
    assert_ok(&p, "ok");
    pid_t pid = last_pid();
    ask_and_wait(&p, "B", "what did A say?");
    assert_ok(&p, "ok");
    assert_int_equal(last_pid(), pid);
    last_conversation(seen, sizeof(seen));
    assert_string_equal(seen, "user:what did A say?|");
}

/* --- history ------------------------------------------------------------------------------ */

static bool history_decided(const void *arg)
{
    (void)arg;
    return status().history != HISTORY_AUTO;
}

static void test_a_process_is_tried_out(void **state)
{
    (void)state;
    rig.opts.history = HISTORY_AUTO;
    setenv("FAKE_UPSTREAM", "1", 1);
    open_pool();
    wait_spare(1);
    unsetenv("FAKE_UPSTREAM");
    assert_int_equal(status().history, HISTORY_INJECT);
    assert_int_equal(status().start_failures_in_row, 0);
}

static void check_fallback(const char *broken)
{
    setenv("FAKE_UPSTREAM", "1", 1);
    setenv(broken, "1", 1);
    rig.opts.history = HISTORY_AUTO;
    open_pool();
    assert_true(run_until(history_decided, NULL, 30000));
    assert_int_equal(status().history, HISTORY_RESUME);
    wait_spare(1); /* spares are started all the same, untried */
    unsetenv("FAKE_UPSTREAM");
    unsetenv(broken);
}

static void test_a_program_that_takes_no_history(void **state)
{
    (void)state;
    check_fallback("FAKE_NO_INJECTION");
}

static void test_a_program_that_knows_no_boundary(void **state)
{
    (void)state;
    check_fallback("FAKE_NO_BOUNDARY");
}

static json_t *a_history(void)
{
    json_t *h = json_array();
    history_add(h, "user", "one");
    history_add(h, "assistant", "two");
    return h;
}

static void ask_on(struct probe *p, json_t *history, const char *text, const char *holds,
                   const char *will_hold)
{
    struct err err;
    struct turn_request req = {.key_id = "A",
                               .model = "claude-opus-4-8",
                               .request_id = "r",
                               .history = history,
                               .holds = holds,
                               .will_hold = will_hold};
    req.content = text_content(text);
    ask_request(p, &req, &err);
    json_decref(req.content);
    if (!p->turn)
        fail_msg("%s", err.msg);
}

static void test_history_from_a_transcript(void **state)
{
    struct probe p = {.tag = 0};
    char seen[4096];
    (void)state;
    rig.opts.history = HISTORY_RESUME;
    open_pool();
    json_t *h = a_history();
    ask_on(&p, h, "three", NULL, "s:1");
    wait_done(&p);
    assert_ok(&p, "ok");
    last_conversation(seen, sizeof(seen));
    assert_string_equal(seen, "user:one|assistant:two|user:three|");
    pid_t pid = last_pid();
    ask_on(&p, h, "five", "s:1", "s:2"); /* it holds the conversation: no new process */
    wait_done(&p);
    assert_int_equal(last_pid(), pid);
    last_conversation(seen, sizeof(seen));
    assert_string_equal(seen, "user:one|assistant:two|user:three|assistant:ok|user:five|");
    ask_on(&p, h, "else", "s:9", "s:10"); /* another conversation: a process of its own */
    wait_done(&p);
    assert_int_not_equal(last_pid(), pid);
    last_conversation(seen, sizeof(seen));
    assert_string_equal(seen, "user:one|assistant:two|user:else|");
    json_decref(h);
}

static void test_what_cannot_forget_is_not_used_again(void **state)
{
    struct probe p = {.tag = 0};
    char seen[4096];
    (void)state;
    rig.opts.history = HISTORY_RESUME;
    open_pool();
    ask_on(&p, NULL, "first", NULL, NULL);
    wait_done(&p);
    assert_ok(&p, "ok");
    pid_t pid = last_pid();
    ask_on(&p, NULL, "second", NULL, NULL);
    wait_done(&p);
    assert_int_not_equal(last_pid(), pid);
    last_conversation(seen, sizeof(seen));
    assert_string_equal(seen, "user:second|");
}

static void test_cancel_while_its_process_starts(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    rig.opts.history = HISTORY_RESUME;
    rig.opts.min_spare = 0;
    setenv("FAKE_SLOW_START_MS", "5000", 1);
    open_pool();
    json_t *h = a_history();
    ask_on(&p, h, "never asked", NULL, NULL);
    json_decref(h);
    run_for(200);
    assert_int_equal(status().busy, 1);
    cancel(&p, "gone");
    wait_done(&p);
    assert_failed(&p, ERR_CLIENT_GONE);
    assert_int_equal(p.started, 0);
    wait_settled();
    unsetenv("FAKE_SLOW_START_MS");
    assert_int_equal(status().start_failures_in_row, 0); /* nobody's fault */
}

static void test_a_start_for_a_turn_that_fails(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    rig.opts.history = HISTORY_RESUME;
    rig.opts.min_spare = 0;
    setenv("FAKE_EXIT_AT_START", "3", 1);
    open_pool();
    json_t *h = a_history();
    ask_on(&p, h, "x", NULL, NULL);
    json_decref(h);
    wait_done(&p);
    unsetenv("FAKE_EXIT_AT_START");
    assert_failed(&p, ERR_WORKER);
    assert_int_equal(p.result.retries, 1);
    assert_int_equal(status().start_failures_in_row, 0); /* its own affair: see crashes.c */
}

/* --- keys that crash their processes ------------------------------------------------------- */

static void test_a_key_that_crashes_has_to_pause(void **state)
{
    struct probe p = {.tag = 0};
    struct err err = {.code = ERR_NONE};
    (void)state;
    rig.opts.max_workers = 2;
    open_pool();
    for (int i = 0; i < 5; i++) {
        ask_and_wait(&p, "A", "fake:{\"exit_at\":\"delta\",\"exit_code\":1}");
        assert_failed(&p, ERR_WORKER);
    }
    struct turn_request req = {.key_id = "A", .model = MODEL, .request_id = "r"};
    req.content = text_content("x");
    ask_request(&p, &req, &err);
    assert_null(p.turn);
    assert_int_equal(err.code, ERR_OVERLOADED);
    assert_in_range(err.retry_after_s, 1, 31);
    ask_and_wait(&p, "B", "x"); /* the others go on */
    assert_ok(&p, "ok");
    run_for((int64_t)err.retry_after_s * 1000);
    ask_request(&p, &req, &err); /* one is let through, and it works: the pause is over */
    assert_non_null(p.turn);
    wait_done(&p);
    assert_ok(&p, "ok");
    ask_request(&p, &req, &err);
    assert_non_null(p.turn);
    wait_done(&p);
    assert_ok(&p, "ok");
    json_decref(req.content);
}

/* --- operators ---------------------------------------------------------------------------- */

struct seen_workers {
    size_t count;
    struct pool_worker last;
    char state[32], request_id[64], key_id[64];
};

static void see_worker(void *ctx, const struct pool_worker *w)
{
    struct seen_workers *s = ctx;
    s->count++;
    s->last = *w;
    snprintf(s->state, sizeof(s->state), "%s", w->state);
    snprintf(s->request_id, sizeof(s->request_id), "%s", w->request_id);
    snprintf(s->key_id, sizeof(s->key_id), "%s", w->key_id);
}

static struct seen_workers see(void)
{
    struct seen_workers s = {0};
    pool_each_worker(rig.pool, see_worker, &s);
    return s;
}

static bool is_sampled(const void *arg)
{
    (void)arg;
    return see().last.rss_kb > 0;
}

static void test_workers_are_listed(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    rig.opts.max_workers = 1;
    open_pool();
    assert_int_equal(see().count, 0);
    wait_spare(1);
    struct seen_workers s = see();
    assert_int_equal(s.count, 1);
    assert_string_equal(s.state, "spare");
    assert_string_equal(s.key_id, "");
    assert_true(s.last.pid > 1);
    ask_as(&p, "A", "fake:{\"start_delay_ms\":3000}");
    while (!p.started)
        event_base_loop(loop_base(rig.loop), EVLOOP_ONCE);
    s = see();
    assert_string_equal(s.state, "running");
    assert_string_equal(s.key_id, "A");
    assert_string_equal(s.request_id, "req_test");
    assert_true(run_until(is_sampled, NULL, 5000));
    wait_done(&p);
    s = see();
    assert_string_equal(s.state, "idle");
    assert_string_equal(s.request_id, "");
    assert_int_equal(s.last.turns, 1);
}

static void test_drain(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    open_pool();
    wait_spare(1);
    unsigned id = see().last.id;
    assert_int_equal(pool_drain(rig.pool, id + 1000), 0);
    ask_as(&p, "A", "fake:{\"start_delay_ms\":300}");
    while (!p.started)
        event_base_loop(loop_base(rig.loop), EVLOOP_ONCE);
    assert_int_equal(pool_drain(rig.pool, id), 1);
    assert_int_equal(p.done, 0); /* it may finish */
    wait_done(&p);
    assert_ok(&p, "ok");
    pid_t pid = last_pid();
    wait_settled();
    assert_int_equal(status().idle, 0);
    ask_and_wait(&p, "A", "again");
    assert_int_not_equal(last_pid(), pid);
    wait_settled();
    wait_spare(1);
    assert_int_equal(pool_drain(rig.pool, 0), 2); /* the idle one and the spare */
    assert_int_equal(status().ending, 2);
    wait_spare(1); /* and there is a new one */
    assert_int_equal(status().idle, 0);
}

static void test_positions(void **state)
{
    struct probe a[4] = {{.tag = 0}};
    (void)state;
    rig.opts.max_workers = 1;
    open_pool();
    ask_as(&a[0], "A", "fake:{\"start_delay_ms\":400}");
    while (!a[0].started)
        event_base_loop(loop_base(rig.loop), EVLOOP_ONCE);
    for (size_t i = 1; i < ARRAY_SIZE(a); i++) {
        ask_as(&a[i], "A", "x");
        assert_int_equal(turn_position(a[i].turn), i);
    }
    assert_int_equal(turn_position(a[0].turn), 0);
    cancel(&a[1], "gone");
    assert_int_equal(turn_position(a[3].turn), 2);
    for (size_t i = 0; i < ARRAY_SIZE(a); i++)
        wait_done(&a[i]);
    assert_ok(&a[3], "ok");
}

#endif
