/* pool_fault_cases.h - part of test_pool.c: cancelling, crashes, hangs, starts that fail, stop. */
#ifndef CG_TESTS_POOL_FAULT_CASES_H
#define CG_TESTS_POOL_FAULT_CASES_H

#include "pool_rig.h"

#define SLOW \
    "fake:{\"text\":\"0123456789012345678901234567890123456789\",\"chunk\":1,\"delay_ms\":50}"

/* --- cancelling --------------------------------------------------------------------------- */

static void test_cancel_while_queued(void **state)
{
    struct probe a = {.tag = 0}, b = {.tag = 0};
    (void)state;
    rig.opts.max_workers = 1;
    rig.opts.min_spare = 0;
    open_pool();
    ask_as(&a, "A", "fake:{\"start_delay_ms\":200}");
    ask_as(&b, "A", "x");
    run_for(30);
    cancel(&b, "left while waiting");
    assert_int_equal(b.done, 0); /* later */
    wait_done(&b);
    assert_failed(&b, ERR_CLIENT_GONE);
    assert_string_equal(b.result.err.msg, "left while waiting");
    assert_int_equal(b.started, 0);
    assert_int_equal(b.result.queue_ms, -1);
    assert_int_equal(status().queued, a.started ? 0 : 1);
    wait_done(&a);
    assert_ok(&a, "ok");
    ask_as(&b, "A", "x"); /* before anything ran at all */
    cancel(&b, "at once");
    wait_done(&b);
    assert_failed(&b, ERR_CLIENT_GONE);
    assert_int_equal(request_count(), 1);
}

static bool is_busy(const void *arg)
{
    (void)arg;
    return status().busy > 0;
}

static void test_cancel_while_preparing(void **state)
{
    struct probe p = {.tag = 0};
    struct err err;
    char seen[200];
    (void)state;
    open_pool();
    wait_spare(1);
    json_t *history = json_array();
    for (int i = 0; i < 400; i++)
        history_add(history, i % 2 ? "assistant" : "user", "part of a history");
    struct turn_request req = {
        .key_id = "A", .model = "claude-opus-4-8", .request_id = "r", .history = history};
    req.content = text_content("never asked");
    ask_request(&p, &req, &err);
    assert_true(run_until(is_busy, NULL, 10000));
    run_for(2);
    assert_int_equal(p.started, 0);
    cancel(&p, "left");
    wait_done(&p);
    assert_failed(&p, ERR_CLIENT_GONE);
    assert_int_equal(p.started, 0);
    assert_int_equal(request_count(), 0);
    json_decref(req.content);
    json_decref(history);
    wait_settled();
    assert_int_equal(status().idle, 1); /* the process is still good ... */
    ask_and_wait(&p, "A", "clean");
    assert_ok(&p, "ok");
    last_conversation(seen, sizeof(seen)); /* ... and what it was half told is hidden */
    assert_string_equal(seen, "user:clean|");
}

static void test_cancel_while_running(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    open_pool();
    ask_as(&p, "A", SLOW);
    while (p.events < 4)
        event_base_loop(loop_base(rig.loop), EVLOOP_ONCE);
    pid_t pid = last_pid();
    int events = p.events;
    int64_t start = clock_mono_ms();
    cancel(&p, "left");
    wait_done(&p);
    assert_failed(&p, ERR_CLIENT_GONE);
    assert_true(p.done_ms - start < 1000);
    assert_int_equal(p.events, events); /* nothing is handed out any more */
    assert_int_equal(p.result.input_tokens, 10);
    ask_and_wait(&p, "A", "next");
    assert_ok(&p, "ok");
    assert_int_equal(last_pid(), pid);
}

static void test_cancel_ignored_by_the_program(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    rig.opts.interrupt_timeout_ms = 200;
    open_pool();
    ask_as(&p, "A",
           "fake:{\"text\":\"abcdefghij\",\"chunk\":1,\"delay_ms\":500,"
           "\"ignore_interrupt\":true,\"ignore_sigterm\":true}");
    while (p.events < 3)
        event_base_loop(loop_base(rig.loop), EVLOOP_ONCE);
    pid_t pid = last_pid();
    int64_t start = clock_mono_ms();
    cancel(&p, "left");
    wait_done(&p);
    assert_failed(&p, ERR_CLIENT_GONE);
    assert_in_range(p.done_ms - start, 195, 4000);
    ask_and_wait(&p, "A", "next");
    assert_ok(&p, "ok");
    assert_int_not_equal(last_pid(), pid);
}

static void cancel_in_event(struct probe *p)
{
    struct err err;
    err_set(&err, ERR_CLIENT_GONE, "from the event");
    if (p->events == 3)
        turn_cancel(p->turn, &err);
}

static void ask_next_in_done(struct probe *p)
{
    p->on_done = NULL;
    p->on_event = NULL;
    ask_as(p, "A", "the next");
}

static void test_cancel_from_a_callback(void **state)
{
    struct probe p = {.on_event = cancel_in_event};
    (void)state;
    open_pool();
    ask_and_wait(&p, "A", SLOW);
    assert_failed(&p, ERR_CLIENT_GONE);
    assert_int_equal(p.events, 3);
    p.on_done = ask_next_in_done; /* and a done() that asks again */
    ask_as(&p, "A", SLOW);
    while (p.on_done)
        event_base_loop(loop_base(rig.loop), EVLOOP_ONCE);
    wait_done(&p);
    assert_ok(&p, "ok");
}

/* --- crashes ------------------------------------------------------------------------------ */

static void ask_once_file(struct probe *p, const char *step)
{
    char text[400];
    snprintf(text, sizeof(text), "fake:{\"once\":\"%s/once\",%s}", rig.dir, step);
    ask_and_wait(p, "A", text);
    snprintf(text, sizeof(text), "%s/once", rig.dir);
    unlink(text);
}

static void test_crash_before_the_first_byte_is_retried_once(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    open_pool();
    ask_once_file(&p, "\"exit_at\":\"init\",\"exit_code\":1");
    assert_ok(&p, "ok");
    assert_int_equal(p.result.retries, 1);
    assert_int_equal(p.started, 2); /* once per attempt */
    ask_once_file(&p, "\"stderr\":\"oh no\",\"exit_at\":\"init\",\"signal\":11");
    assert_ok(&p, "ok");
    assert_int_equal(p.result.retries, 1);
}

static void test_crash_every_time(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    open_pool();
    ask_and_wait(&p, "A", "fake:{\"exit_at\":\"init\",\"exit_code\":7,\"stderr\":\"panic\"}");
    assert_failed(&p, ERR_WORKER);
    assert_int_equal(p.started, 2);
    assert_int_equal(p.events, 0);
    assert_int_equal(p.result.retries, 1);
    assert_non_null(strstr(p.result.err.msg, "status 7"));
    assert_null(strstr(err_public_msg(&p.result.err), "panic")); /* stderr is not for clients */
    wait_spare(1);
    ask_and_wait(&p, "A", "x");
    assert_ok(&p, "ok");
}

static void test_crash_after_the_first_byte_is_told(void **state)
{
    static const char *const steps[] = {
        "fake:{\"exit_at\":\"message_start\",\"exit_code\":1}",
        "fake:{\"text\":\"abc\",\"chunk\":1,\"exit_at\":\"delta\",\"exit_after\":2,\"signal\":9}",
        "fake:{\"exit_at\":\"before_result\",\"exit_code\":0}",
        "fake:{\"exit_at\":\"delta\",\"exit_partial\":true,\"exit_code\":1}",
    };
    struct probe p = {.tag = 0};
    (void)state;
    open_pool();
    for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
        ask_and_wait(&p, "A", steps[i]);
        assert_failed(&p, ERR_WORKER);
        assert_true(p.events > 0);
        assert_int_equal(p.started, 1);
        assert_int_equal(p.result.retries, 0);
        assert_int_equal(p.result.input_tokens, 10); /* what was seen is booked */
        assert_int_equal(request_count(), i + 1);
    }
    ask_and_wait(&p, "A", "fake:{\"exit_at\":\"after_result\",\"exit_code\":1}");
    assert_ok(&p, "ok"); /* the answer was complete */
    ask_and_wait(&p, "A", "x");
    assert_ok(&p, "ok");
}

/* It is found deaf only by the next turn, which has lost nothing yet. */
static void test_hang_after_result_is_replaced(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    rig.opts.prepare_timeout_ms = 200;
    open_pool();
    ask_and_wait(&p, "A", "fake:{\"hang_after_result\":true}");
    assert_ok(&p, "ok");
    json_t *history = json_array();
    history_add(history, "user", "u");
    history_add(history, "assistant", "a");
    struct err err;
    struct turn_request req = {
        .key_id = "A", .model = MODEL, .request_id = "r", .history = history};
    req.content = text_content("x");
    ask_request(&p, &req, &err);
    wait_done(&p);
    json_decref(req.content);
    json_decref(history);
    assert_ok(&p, "ok");
    assert_int_equal(p.result.retries, 1);
}

/* --- hangs -------------------------------------------------------------------------------- */

static void test_silence_and_total_time(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    rig.opts.silence_timeout_ms = 250;
    rig.opts.turn_timeout_ms = 900;
    open_pool();
    wait_spare(1);
    int64_t start = clock_mono_ms();
    ask_and_wait(&p, "A", "fake:{\"stall\":true}");
    assert_failed(&p, ERR_TIMEOUT);
    assert_in_range(p.done_ms - start, 240, 900);
    assert_int_equal(p.started, 1); /* not tried again: upstream may be at work */
    start = clock_mono_ms();
    ask_and_wait(&p, "A",
                 "fake:{\"text\":\"0123456789012345678901234567890123456789\","
                 "\"chunk\":1,\"delay_ms\":100}");
    assert_failed(&p, ERR_TIMEOUT);
    assert_in_range(p.done_ms - start, 890, 2500);
    assert_true(p.events > 3);
    start = clock_mono_ms();
    ask_and_wait(&p, "A", "fake:{\"text\":\"01234\",\"chunk\":1,\"delay_ms\":100}");
    assert_ok(&p, "01234"); /* longer than the silence limit, but never silent */
    assert_true(p.done_ms - start > 250);
}

static void test_no_result_at_all(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    rig.opts.silence_timeout_ms = 200;
    rig.opts.interrupt_timeout_ms = 150;
    open_pool();
    ask_and_wait(&p, "A", "fake:{\"no_result\":true}");
    assert_failed(&p, ERR_TIMEOUT);
    assert_int_equal(p.started, 1);
    ask_and_wait(&p, "A", "x");
    assert_ok(&p, "ok");
}

/* --- what the program reports ------------------------------------------------------------- */

static void test_errors_are_mapped(void **state)
{
    static const struct {
        const char *step;
        enum err_code code;
        int status;
    } rows[] = {
        {"{\"error\":{\"status\":400,\"message\":\"bad\"}}", ERR_UPSTREAM, 400},
        {"{\"error\":{\"status\":401}}", ERR_UPSTREAM, 502}, /* ours, not the client's */
        {"{\"error\":{\"status\":403}}", ERR_UPSTREAM, 502},
        {"{\"error\":{\"status\":413}}", ERR_TOO_LARGE, 413},
        {"{\"error\":{\"status\":429,\"message\":\"slow down\"}}", ERR_UPSTREAM, 429},
        {"{\"error\":{\"status\":529}}", ERR_UPSTREAM, 529},
        {"{\"error\":{}}", ERR_UPSTREAM, 502},
        {"{\"error\":{\"status\":500,\"retries\":3,\"retry_delay_ms\":1}}", ERR_UPSTREAM, 500},
        {"{\"cut\":true}", ERR_UPSTREAM, 502},
        {"{\"stop_reason\":\"max_tokens\"}", ERR_UPSTREAM, 502}, /* no relay hides it here */
    };
    struct probe p = {.tag = 0};
    (void)state;
    open_pool();
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        char text[200];
        snprintf(text, sizeof(text), "fake:%s", rows[i].step);
        ask_and_wait(&p, "A", text);
        assert_failed(&p, rows[i].code);
        if (err_status(&p.result.err) != rows[i].status)
            fail_msg("%s: %d %s", text, err_status(&p.result.err), p.result.err.msg);
        assert_int_equal(p.started, 1);
    }
    ask_and_wait(&p, "A", "fake:{\"text\":\"No.\",\"stop_reason\":\"refusal\"}");
    assert_ok(&p, "No."); /* a refusal is an answer */
    assert_string_equal(p.result.stop_reason, "refusal");
    assert_int_equal(status().starts, 2); /* none of it cost a process */
}

static void test_unknown_and_garbage_lines_are_ignored(void **state)
{
    static const char *const steps[] = {
        "fake:{\"garbage_at\":\"init\"}",
        "fake:{\"garbage_at\":\"delta\",\"garbage\":\"{\\\"type\\\":\\\"result\\\"\"}",
        "fake:{\"unknown_event_at\":\"message_start\"}",
        "fake:{\"unknown_event_at\":\"after_result\"}",
        "fake:{\"key_order\":\"reversed\"}",
        "fake:{\"split\":{\"bytes\":7,\"pause_us\":50}}",
    };
    struct probe p = {.tag = 0};
    (void)state;
    open_pool();
    for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
        ask_and_wait(&p, "A", steps[i]);
        assert_ok(&p, "ok");
        assert_int_equal(p.events, 6);
    }
}

static void test_worker_killed_while_idle(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    open_pool();
    ask_and_wait(&p, "A", "x");
    pid_t pid = last_pid();
    wait_settled();
    assert_int_equal(kill(pid, SIGKILL), 0);
    run_for(50);
    assert_int_equal(status().idle, 0);
    ask_and_wait(&p, "A", "x");
    assert_ok(&p, "ok");
    pid = last_pid();
    wait_settled();
    assert_int_equal(kill(pid, SIGKILL), 0); /* and in the same moment in which it is chosen */
    ask_and_wait(&p, "A", "x");
    assert_ok(&p, "ok");
}

static void test_huge_answer(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    open_pool();
    ask_and_wait(&p, "A", "fake:{\"huge\":10000000}");
    assert_true(p.result.ok);
    assert_int_equal(p.text_len, 10000000);
    ask_and_wait(&p, "A", "fake:{\"flood\":20000}");
    assert_true(p.result.ok);
    assert_true(p.events > 20000);
    ask_and_wait(&p, "A", "x");
    assert_ok(&p, "ok");
}

static void test_grandchild_holds_the_pipe(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    open_pool();
    ask_and_wait(&p, "A", "fake:{\"grandchild_ms\":20000,\"exit_at\":\"delta\",\"exit_code\":3}");
    assert_failed(&p, ERR_WORKER);
    ask_and_wait(&p, "A", "x");
    assert_ok(&p, "ok");
}

/* --- starts ------------------------------------------------------------------------------- */

static bool has_failed_twice(const void *arg)
{
    (void)arg;
    return status().start_failures_in_row >= 2;
}

static void test_starts_that_fail_back_off(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    rig.opts.claude_bin = "/bin/false";
    rig.opts.queue_timeout_ms = 1500;
    open_pool();
    ask_as(&p, "A", "x");
    assert_true(run_until(has_failed_twice, NULL, 5000));
    run_for(2000);
    struct pool_status s = status();
    assert_in_range(s.starts, 2, 6); /* at 0, 0.5, 1.5, 3.5 s, two at once at first */
    assert_int_equal(s.spare + s.idle + s.busy, 0);
    assert_true(s.last_start_error[0] != '\0');
    wait_done(&p);
    assert_false(p.result.ok);
    assert_int_equal(p.started, 0);
}

static void test_program_that_never_answers(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    setenv("FAKE_SLOW_START_MS", "60000", 1);
    rig.opts.start_timeout_ms = 300;
    rig.opts.queue_timeout_ms = 1000;
    open_pool();
    ask_as(&p, "A", "x");
    wait_done(&p);
    unsetenv("FAKE_SLOW_START_MS");
    assert_failed(&p, ERR_OVERLOADED);
    assert_true(status().start_failures_in_row > 0);
    assert_non_null(strstr(status().last_start_error, "initialize"));
}

static void test_start_recovers(void **state)
{
    struct probe p = {.tag = 0};
    char link[100];
    (void)state;
    snprintf(link, sizeof(link), "%s/claude", rig.dir);
    rig.opts.claude_bin = link; /* not there yet */
    open_pool();
    ask_as(&p, "A", "x");
    run_for(300);
    assert_true(status().start_failures_in_row > 0);
    assert_non_null(strstr(status().last_start_error, link));
    assert_int_equal(p.done, 0);
    assert_int_equal(symlink(rig.bin, link), 0);
    wait_done(&p);
    unlink(link);
    assert_ok(&p, "ok");
    assert_int_equal(status().start_failures_in_row, 0);
}

/* --- stop --------------------------------------------------------------------------------- */

static void test_stop_with_nothing(void **state)
{
    (void)state;
    open_pool(); /* nothing was started yet */
    close_pool();
    assert_true(rig.stopped);
    rig.stopped = false;
    open_pool();
    wait_spare(1);
    close_pool();
    assert_true(rig.stopped);
}

static void test_stop_with_everything_in_flight(void **state)
{
    struct probe running[2] = {{.tag = 0}}, queued[3] = {{.tag = 0}}, preparing = {.tag = 0};
    struct err err;
    (void)state;
    rig.opts.max_workers = 3;
    open_pool();
    for (int i = 0; i < 2; i++) {
        ask_as(&running[i], i ? "A" : "B", SLOW);
        while (running[i].events < 2)
            event_base_loop(loop_base(rig.loop), EVLOOP_ONCE);
    }
    json_t *history = json_array();
    for (int i = 0; i < 40000; i++)
        history_add(history, i % 2 ? "assistant" : "user", "history");
    struct turn_request req = {
        .key_id = "C", .model = MODEL, .request_id = "r", .history = history};
    req.content = text_content("x");
    ask_request(&preparing, &req, &err);
    for (int i = 0; i < 3; i++)
        ask_as(&queued[i], "D", "x");
    wait_spare(0);
    run_for(100);
    json_decref(req.content);
    json_decref(history);
    close_pool();
    assert_true(rig.stopped);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(queued[i].done, 1);
        assert_failed(&queued[i], ERR_SHUTTING_DOWN);
    }
    for (int i = 0; i < 2; i++) {
        assert_int_equal(running[i].done, 1);
        assert_failed(&running[i], ERR_SHUTTING_DOWN);
    }
    assert_int_equal(preparing.done, 1);
    assert_failed(&preparing, ERR_SHUTTING_DOWN);
}

static void test_nothing_is_taken_after_stop(void **state)
{
    struct probe p = {.tag = 0};
    struct err err;
    (void)state;
    open_pool();
    wait_spare(1);
    pool_stop(rig.pool, on_stopped, NULL);
    struct turn_request req = {.key_id = "A", .model = MODEL, .request_id = "r"};
    req.content = text_content("x");
    ask_request(&p, &req, &err);
    json_decref(req.content);
    assert_null(p.turn);
    assert_int_equal(err.code, ERR_SHUTTING_DOWN);
    loop_run(rig.loop);
    assert_true(rig.stopped);
    pool_free(rig.pool);
    rig.pool = NULL;
    upstream_free(rig.up);
    assert_int_equal(p.done, 0);
}

#endif
