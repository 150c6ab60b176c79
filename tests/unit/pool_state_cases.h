/* pool_state_cases.h - part of test_pool.c: a fault and a cancel in each state of a process. */
#ifndef CG_TESTS_POOL_STATE_CASES_H
#define CG_TESTS_POOL_STATE_CASES_H

#include "pool_rig.h"

/* What comes in while a turn is prepared, in this order. */
static const char *const prepare_lines[] = {"set_model", "boundary", "history", "assistant",
                                            "question"};

/* Arms the worker of class A; it strikes in the next turn. */
static void arm(struct probe *p, const char *at, const char *what)
{
    char text[200];
    snprintf(text, sizeof(text), "fake:{\"later\":{\"at\":\"%s\",%s}}", at, what);
    ask_and_wait(p, "A", text);
    assert_ok(p, "ok");
}

/* A turn that needs every line there is: another model, a history, a used process. */
static void ask_with_everything(struct probe *p, const char *text)
{
    struct err err;
    json_t *history = json_array();
    history_add(history, "user", "u");
    history_add(history, "assistant", "a");
    struct turn_request req = {
        .key_id = "A", .model = "claude-another", .request_id = "r", .history = history};
    req.content = text_content(text);
    ask_request(p, &req, &err);
    json_decref(req.content);
    json_decref(history);
    if (!p->turn)
        fail_msg("%s", err.msg);
}

static void test_a_fault_at_each_line_is_not_seen(void **state)
{
    static const char *const faults[] = {"\"do\":\"exit\",\"code\":1",
                                         "\"do\":\"exit\",\"signal\":9", "\"do\":\"hang\""};
    struct probe p = {.tag = 0};
    char seen[200];
    (void)state;
    rig.opts.prepare_timeout_ms = 250;
    open_pool();
    for (size_t i = 0; i < ARRAY_SIZE(prepare_lines) * ARRAY_SIZE(faults); i++) {
        wait_spare(1);
        arm(&p, prepare_lines[i % ARRAY_SIZE(prepare_lines)],
            faults[i / ARRAY_SIZE(prepare_lines)]);
        size_t asked = request_count();
        ask_with_everything(&p, "x");
        wait_done(&p);
        assert_ok(&p, "ok");
        assert_int_equal(p.result.retries, 1);
        assert_int_equal(p.result.output_tokens, 5);
        assert_int_equal(request_count(), asked + 1);
        last_conversation(seen, sizeof(seen));
        assert_string_equal(seen, "user:u|assistant:a|user:x|");
    }
}

static void test_a_lost_reply_costs_the_worker(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    rig.opts.prepare_timeout_ms = 200;
    open_pool();
    wait_spare(1);
    arm(&p, "set_model", "\"do\":\"mute\"");
    ask_with_everything(&p, "x");
    wait_done(&p);
    assert_ok(&p, "ok");
    assert_int_equal(p.result.retries, 1);
    arm(&p, "interrupt", "\"do\":\"mute\""); /* what was asked for happens all the same */
    pid_t pid = last_pid();
    ask_as(&p, "A", "fake:{\"text\":\"abcdefghij\",\"chunk\":1,\"delay_ms\":100}");
    while (p.events < 4)
        event_base_loop(loop_base(rig.loop), EVLOOP_ONCE);
    cancel(&p, "left");
    wait_done(&p);
    assert_failed(&p, ERR_CLIENT_GONE);
    ask_and_wait(&p, "A", "x");
    assert_ok(&p, "ok");
    assert_int_equal(last_pid(), pid);
}

/* The program is slow with one line; the client leaves while it is at it. */
static void test_cancel_at_each_line(void **state)
{
    struct probe p = {.tag = 0};
    char seen[200];
    (void)state;
    open_pool();
    for (size_t i = 0; i < ARRAY_SIZE(prepare_lines); i++) {
        arm(&p, prepare_lines[i], "\"do\":\"delay\",\"ms\":150");
        pid_t pid = last_pid();
        size_t asked = request_count();
        ask_with_everything(&p, "fake:{\"start_delay_ms\":5000}");
        run_for(50);
        assert_int_equal(p.done, 0);
        int64_t from = clock_mono_ms();
        cancel(&p, "left");
        wait_done(&p);
        assert_failed(&p, ERR_CLIENT_GONE);
        assert_in_range(p.done_ms - from, 0, 2000);
        assert_int_equal(p.result.output_tokens, 0);
        bool may_be_asked = p.started > 0; /* interrupted behind the question */
        assert_true(request_count() <= asked + may_be_asked);
        wait_settled();
        ask_and_wait(&p, "A", "clean");
        assert_ok(&p, "ok");
        assert_int_equal(last_pid(), pid);
        last_conversation(seen, sizeof(seen));
        assert_string_equal(seen, "user:clean|");
    }
}

/* Interrupted, the program fails in its turn: the client of a turn that is over is not told. */
static void test_a_fault_while_cancelling(void **state)
{
    static const char *const faults[] = {"\"do\":\"exit\",\"code\":1", "\"do\":\"hang\"",
                                         "\"do\":\"delay\",\"ms\":100"};
    struct probe p = {.tag = 0};
    (void)state;
    rig.opts.interrupt_timeout_ms = 300;
    open_pool();
    for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
        arm(&p, "interrupt", faults[i]);
        ask_as(&p, "A", "fake:{\"text\":\"abcdefghij\",\"chunk\":1,\"delay_ms\":500}");
        while (p.events < 4)
            event_base_loop(loop_base(rig.loop), EVLOOP_ONCE);
        int64_t from = clock_mono_ms();
        cancel(&p, "left");
        wait_done(&p);
        assert_failed(&p, ERR_CLIENT_GONE);
        assert_int_equal(p.result.input_tokens, 10);
        assert_in_range(p.done_ms - from, 0, 300 + 1000 + 2000);
        ask_and_wait(&p, "A", "x");
        assert_ok(&p, "ok");
    }
}

#endif
