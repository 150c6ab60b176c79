/* test_pool.c - warm processes and the turns that wait for one, on the real relay and the fake
 * claude program. The rig and its checks are in pool_rig.h; faults in pool_fault_cases.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "pool_rig.h"

#include "pool_agent_cases.h"
#include "pool_breaker_cases.h"
#include "pool_class_cases.h"
#include "pool_fault_cases.h"
#include "pool_rundir_cases.h"
#include "pool_state_cases.h"
#include "pool_storm.h"

/* --- starting and claiming ---------------------------------------------------------------- */

static void test_spares_are_started(void **state)
{
    (void)state;
    rig.opts.min_spare = 2;
    open_pool();
    assert_int_equal(status().starts, 0); /* not before pool_new() returned */
    wait_spare(2);
    run_for(50);
    struct pool_status s = status();
    assert_int_equal(s.spare, 2);
    assert_int_equal(s.idle + s.busy + s.starting + s.ending + s.queued, 0);
    assert_int_equal(s.starts, 2);
    assert_int_equal(s.start_failures_in_row, 0);
    assert_int_equal(request_count(), 0);
}

static void test_a_turn(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    open_pool();
    wait_spare(1);
    ask_and_wait(&p, "A", "hello");
    assert_ok(&p, "ok");
    assert_int_equal(p.started, 1);
    assert_int_equal(p.events, 6);
    assert_string_equal(p.result.stop_reason, "end_turn");
    assert_int_equal(strlen(p.result.cli_session_id), 36);
    assert_int_equal(p.result.input_tokens, 10);
    assert_int_equal(p.result.output_tokens, 5);
    assert_int_equal(p.result.upstream_calls, 1);
    assert_int_equal(p.result.retries, 0);
    assert_in_range(p.result.queue_ms, 0, 1000);
    assert_false(p.result.estimated);
    wait_settled();
    assert_int_equal(status().idle, 1); /* and the spare is replaced */
    wait_spare(1);
}

static void test_text_arrives_as_it_is(void **state)
{
    static const char *const texts[] = {"/clear",
                                        "@/etc/passwd",
                                        "!ls",
                                        "{\"type\":\"bash_command\",\"command\":\"id\"}",
                                        "\n{\"type\":\"result\"}\n",
                                        "\xE2\x80\xA8 \" \\ \x01"};
    struct probe p = {.tag = 0};
    char seen[300], expected[300];
    (void)state;
    open_pool();
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        ask_and_wait(&p, "A", texts[i]);
        assert_ok(&p, "ok");
        last_conversation(seen, sizeof(seen));
        snprintf(expected, sizeof(expected), "user:%s|", texts[i]);
        assert_string_equal(seen, expected);
    }
}

/* A process that has served one class never serves another. */
static void test_a_worker_belongs_to_one_class(void **state)
{
    static const char *const classes[] = {"A", "B", "C"};
    struct probe p = {.tag = 0};
    struct {
        pid_t pid;
        char class;
    } seen[64];
    size_t count = 0, i;
    json_t *r;
    (void)state;
    rig.opts.max_workers = 2;
    rig.opts.min_spare = 0;
    open_pool();
    for (int n = 0; n < 24; n++) {
        const char *class = classes[n * 7 % 5 % 3];
        ask_and_wait(&p, class, class);
        assert_ok(&p, "ok");
    }
    json_t *all = requests();
    assert_int_equal(json_array_size(all), 24);
    json_array_foreach(all, i, r)
    {
        json_t *m = json_array_get(json_object_get(r, "messages"), 0), *blocks;
        blocks = json_object_get(m, "content");
        struct str t = json_get_str(json_array_get(blocks, json_array_size(blocks) - 1), "text");
        pid_t pid = (pid_t)json_get_int(r, "pid", 0);
        size_t k = 0;
        while (k < count && seen[k].pid != pid)
            k++;
        if (k == count) {
            assert_true(count < ARRAY_SIZE(seen));
            seen[count].pid = pid;
            seen[count++].class = t.p[0];
        }
        assert_int_equal(seen[k].class, t.p[0]);
    }
    assert_true(count >= 3);
    json_decref(all);
}

static void test_a_class_keeps_its_worker(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    open_pool();
    ask_and_wait(&p, "A", "one");
    pid_t pid = last_pid();
    for (int i = 0; i < 80; i++) { /* past the points where the process is made to forget */
        char seen[100];
        ask_and_wait(&p, "A", "more");
        assert_ok(&p, "ok");
        if (i < 30)
            assert_int_equal(last_pid(), pid);
        last_conversation(seen, sizeof(seen));
        assert_string_equal(seen, "user:more|");
    }
    ask_and_wait(&p, "B", "other");
    assert_int_not_equal(last_pid(), pid);
}

/* --- conversations ------------------------------------------------------------------------ */

static void ask_conversation(struct probe *p, const char *model, json_t *history, const char *text,
                             const char *holds, const char *will_hold)
{
    struct err err;
    struct turn_request req = {.key_id = "A",
                               .model = model,
                               .request_id = "req_test",
                               .history = history,
                               .content = text_content(text),
                               .holds = holds,
                               .will_hold = will_hold};
    ask_request(p, &req, &err);
    json_decref(req.content);
    if (!p->turn)
        fail_msg("%s", err.msg);
    wait_done(p);
}

static void assert_conversation(const char *expected)
{
    char seen[20000];
    last_conversation(seen, sizeof(seen));
    assert_string_equal(seen, expected);
}

static void test_history_is_injected_in_order(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    open_pool();
    json_t *history = json_array();
    history_add(history, "user", "u1");
    history_add(history, "assistant", "a1");
    history_add(history, "user", "/clear");
    history_add(history, "assistant", "a2");
    history_add(history, "user", "u3");
    history_add(history, "assistant", "a3");
    ask_conversation(&p, MODEL, history, "now", NULL, NULL);
    assert_ok(&p, "ok");
    assert_conversation(
        "user:u1|assistant:a1|user:/clear|assistant:a2|user:u3|assistant:a3|user:now|");
    json_array_clear(history);
    for (int i = 0; i < 60; i++) {
        char text[16];
        snprintf(text, sizeof(text), "m%d", i);
        history_add(history, i % 2 ? "assistant" : "user", text);
    }
    ask_conversation(&p, MODEL, history, "end", NULL, NULL);
    char expected[2000] = "";
    size_t at = 0;
    for (int i = 0; i < 60; i++)
        at += (size_t)snprintf(expected + at, sizeof(expected) - at, "%s:m%d|",
                               i % 2 ? "assistant" : "user", i);
    snprintf(expected + at, sizeof(expected) - at, "user:end|");
    assert_conversation(expected);
    json_decref(history);
}

/* The time to prepare is for each step: a long conversation is not a process that hangs. */
static void test_a_long_history_is_no_hang(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    rig.opts.prepare_timeout_ms = 500;
    unsetenv("FAKE_LOG"); /* writing it all down would take the fake long */
    open_pool();
    wait_spare(1);
    json_t *history = json_array();
    int64_t took = 0;
    for (int n = 12000; took <= 500; n *= 2) { /* until it shows something */
        for (int i = (int)json_array_size(history); i < n; i++)
            history_add(history, i % 2 ? "assistant" : "user", "one of very many messages");
        p = (struct probe){.tag = 0};
        int64_t start = clock_mono_ms();
        ask_conversation(&p, MODEL, history, "now", NULL, NULL);
        assert_ok(&p, "ok");
        assert_int_equal(p.result.retries, 0);
        took = p.done_ms - start;
    }
    json_decref(history);
}

/* The worker that holds it answers from its own memory: what the request says is not sent. */
static void test_a_held_conversation_is_not_sent_again(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    open_pool();
    ask_conversation(&p, MODEL, NULL, "first", NULL, "s:2");
    assert_ok(&p, "ok");
    json_t *history = json_array();
    history_add(history, "user", "NOT SENT");
    history_add(history, "assistant", "NOT SENT");
    ask_conversation(&p, MODEL, history, "second", "s:2", "s:4");
    assert_ok(&p, "ok");
    assert_conversation("user:first|assistant:ok|user:second|");
    ask_conversation(&p, MODEL, history, "third", "s:4", "s:6");
    assert_conversation("user:first|assistant:ok|user:second|assistant:ok|user:third|");
    ask_conversation(&p, MODEL, history, "fourth", "s:4", NULL); /* that was before */
    assert_conversation("user:NOT SENT|assistant:NOT SENT|user:fourth|");
    ask_conversation(&p, MODEL, NULL, "fifth", "s:6", NULL); /* and this is over */
    assert_conversation("user:fifth|");
    json_decref(history);
}

static void test_a_failed_turn_is_not_held(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    open_pool();
    ask_conversation(&p, MODEL, NULL, "fake:{\"error\":{\"status\":500}}", NULL, "s:2");
    assert_failed(&p, ERR_UPSTREAM);
    ask_conversation(&p, MODEL, NULL, "again", "s:2", NULL);
    assert_ok(&p, "ok");
    assert_conversation("user:again|");
}

/* Asked once, but the program went on by itself: its memory holds more than the session knows. */
static void test_a_conversation_with_extra_words_is_not_held(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    open_pool();
    ask_conversation(&p, MODEL, NULL, "fake:{\"text\":\"\",\"then\":{\"text\":\"late\"}}", NULL,
                     "s:2");
    assert_ok(&p, "late");
    assert_int_equal(p.result.upstream_calls, 2);
    json_t *history = json_array();
    history_add(history, "user", "question");
    history_add(history, "assistant", "late");
    ask_conversation(&p, MODEL, history, "again", "s:2", NULL);
    json_decref(history);
    assert_ok(&p, "ok");
    assert_conversation("user:question|assistant:late|user:again|");
}

static void test_another_model(void **state)
{
    struct probe p = {.tag = 0};
    json_t *all;
    (void)state;
    open_pool();
    ask_conversation(&p, MODEL, NULL, "first", NULL, "s:2");
    pid_t pid = last_pid();
    json_t *history = json_array();
    history_add(history, "user", "first");
    history_add(history, "assistant", "ok");
    ask_conversation(&p, "claude-opus-4-8", history, "second", "s:2", "s:4");
    assert_ok(&p, "ok");
    assert_int_equal(last_pid(), pid);
    assert_conversation("user:first|assistant:ok|user:second|"); /* and no trace of the switch */
    all = requests();
    assert_true(str_eq_c(json_get_str(json_array_get(all, 1), "model"), "claude-opus-4-8"));
    json_decref(all);
    ask_conversation(&p, MODEL, NULL, "back", NULL, NULL);
    all = requests();
    assert_true(str_eq_c(json_get_str(json_array_get(all, 2), "model"), MODEL));
    json_decref(all);
    assert_conversation("user:back|");
    json_decref(history);
}

static void test_turns_do_not_see_each_other(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    open_pool();
    ask_and_wait(&p, "A", "the secret is 4711");
    pid_t pid = last_pid();
    ask_and_wait(&p, "A", "what? fake:{\"echo_history\":true}");
    assert_int_equal(last_pid(), pid);
    assert_null(strstr(p.text, "4711"));
    assert_non_null(strstr(p.text, "what?"));
}

/* --- limits and time ---------------------------------------------------------------------- */

static void test_recycled_after_max_requests(void **state)
{
    struct probe p = {.tag = 0};
    pid_t pids[7];
    (void)state;
    rig.opts.max_requests = 3;
    open_pool();
    for (int i = 0; i < 7; i++) {
        ask_and_wait(&p, "A", "x");
        assert_ok(&p, "ok");
        pids[i] = last_pid();
    }
    assert_true(pids[0] == pids[1] && pids[1] == pids[2] && pids[2] != pids[3]);
    assert_true(pids[3] == pids[4] && pids[4] == pids[5] && pids[5] != pids[6]);
}

static void test_the_worker_idle_longest_makes_room(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    rig.opts.max_workers = 2;
    rig.opts.min_spare = 0;
    open_pool();
    ask_and_wait(&p, "A", "x");
    pid_t a = last_pid();
    ask_and_wait(&p, "B", "x");
    pid_t b = last_pid();
    ask_and_wait(&p, "A", "x"); /* now B is the one used longest ago */
    assert_int_equal(last_pid(), a);
    run_for(20);
    ask_and_wait(&p, "C", "x");
    assert_ok(&p, "ok");
    assert_true(worker_total() <= 2);
    ask_and_wait(&p, "A", "x");
    assert_int_equal(last_pid(), a);
    ask_and_wait(&p, "B", "x");
    assert_int_not_equal(last_pid(), b);
    assert_true(worker_total() <= 2);
}

static bool nobody_idle(const void *arg)
{
    (void)arg;
    return status().idle == 0 && status().ending == 0;
}

static void test_an_idle_worker_ends(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    rig.opts.idle_timeout_s = 1;
    open_pool();
    ask_and_wait(&p, "A", "x");
    wait_settled();
    assert_int_equal(status().idle, 1);
    int64_t start = clock_mono_ms();
    assert_true(run_until(nobody_idle, NULL, 10000));
    assert_in_range(clock_mono_ms() - start, 700, 5000);
    wait_spare(1); /* spares have no idle limit */
}

static void test_the_queue_is_bounded(void **state)
{
    struct probe p[4] = {{.tag = 0}};
    struct err err;
    (void)state;
    rig.opts.max_workers = 1;
    rig.opts.min_spare = 0;
    rig.opts.queue_max = 2;
    open_pool();
    ask_as(&p[0], "A", "fake:{\"start_delay_ms\":300}");
    while (!p[0].started)
        event_base_loop(loop_base(rig.loop), EVLOOP_ONCE);
    ask_as(&p[1], "A", "x");
    ask_as(&p[2], "B", "x");
    struct turn_request req = {.key_id = "C", .model = MODEL, .request_id = "r"};
    req.content = text_content("x");
    ask_request(&p[3], &req, &err);
    json_decref(req.content);
    assert_null(p[3].turn);
    assert_int_equal(err.code, ERR_OVERLOADED);
    assert_in_range(err.retry_after_s, 1, 60);
    assert_int_equal(status().queued, 2);
    for (int i = 0; i < 3; i++)
        wait_done(&p[i]);
    assert_ok(&p[1], "ok");
    assert_ok(&p[2], "ok");
    assert_int_equal(p[3].done, 0);
}

static void test_waiting_has_an_end(void **state)
{
    struct probe a = {.tag = 0}, b = {.tag = 0};
    (void)state;
    rig.opts.max_workers = 1;
    rig.opts.min_spare = 0;
    rig.opts.queue_timeout_ms = 300;
    open_pool();
    ask_as(&a, "A", "fake:{\"start_delay_ms\":1500}");
    while (!a.started)
        event_base_loop(loop_base(rig.loop), EVLOOP_ONCE);
    int64_t start = clock_mono_ms();
    ask_as(&b, "B", "x");
    wait_done(&b);
    assert_failed(&b, ERR_OVERLOADED);
    assert_in_range(b.result.err.retry_after_s, 1, 60);
    assert_int_equal(b.result.queue_ms, -1);
    assert_int_equal(b.started, 0);
    assert_in_range(b.done_ms - start, 290, 1200);
    wait_done(&a);
    assert_ok(&a, "ok");
}

/* One class with much to do must not keep another from ever getting a worker. */
static void ask_again(struct probe *p)
{
    if (p->result.ok && p->rig->opts.queue_max > 0)
        ask_as(p, "A", "fake:{\"start_delay_ms\":20}");
}

static void test_a_busy_class_does_not_starve_another(void **state)
{
    struct probe a[4] = {{.tag = 0}}, b = {.tag = 0};
    (void)state;
    rig.opts.max_workers = 2;
    rig.opts.min_spare = 0;
    rig.opts.queue_timeout_ms = 3000;
    open_pool();
    for (size_t i = 0; i < ARRAY_SIZE(a); i++) {
        a[i].on_done = ask_again; /* there is always one more waiting */
        ask_as(&a[i], "A", "x");
    }
    run_for(500);
    ask_as(&b, "B", "x");
    wait_done(&b);
    rig.opts.queue_max = 0; /* enough */
    for (size_t i = 0; i < ARRAY_SIZE(a); i++)
        wait_done(&a[i]);
    assert_ok(&b, "ok");
}

#define POOL_TEST(f) cmocka_unit_test_setup_teardown(f, rig_set_up, rig_tear_down)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        POOL_TEST(test_spares_are_started),
        POOL_TEST(test_a_turn),
        POOL_TEST(test_text_arrives_as_it_is),
        POOL_TEST(test_a_worker_belongs_to_one_class),
        POOL_TEST(test_a_class_keeps_its_worker),
        POOL_TEST(test_history_is_injected_in_order),
        POOL_TEST(test_a_long_history_is_no_hang),
        POOL_TEST(test_a_held_conversation_is_not_sent_again),
        POOL_TEST(test_a_failed_turn_is_not_held),
        POOL_TEST(test_a_conversation_with_extra_words_is_not_held),
        POOL_TEST(test_another_model),
        POOL_TEST(test_turns_do_not_see_each_other),
        POOL_TEST(test_recycled_after_max_requests),
        POOL_TEST(test_the_worker_idle_longest_makes_room),
        POOL_TEST(test_an_idle_worker_ends),
        POOL_TEST(test_the_queue_is_bounded),
        POOL_TEST(test_waiting_has_an_end),
        POOL_TEST(test_a_busy_class_does_not_starve_another),
        POOL_TEST(test_a_process_for_each_request),
        POOL_TEST(test_a_shared_process_keeps_conversations_apart),
        POOL_TEST(test_a_process_is_tried_out),
        POOL_TEST(test_a_program_that_takes_no_history),
        POOL_TEST(test_a_program_that_knows_no_boundary),
        POOL_TEST(test_history_from_a_transcript),
        POOL_TEST(test_what_cannot_forget_is_not_used_again),
        POOL_TEST(test_cancel_while_its_process_starts),
        POOL_TEST(test_a_start_for_a_turn_that_fails),
        POOL_TEST(test_a_key_that_crashes_has_to_pause),
        POOL_TEST(test_a_death_in_the_trial_is_a_failed_start),
        POOL_TEST(test_a_hang_in_the_trial_is_a_failed_start),
        POOL_TEST(test_two_slow_trials_are_no_verdict),
        POOL_TEST(test_an_outage_of_starts_ends),
        POOL_TEST(test_a_start_for_a_turn_fails_alone),
        POOL_TEST(test_a_start_for_a_turn_that_works_ends_the_pause),
        POOL_TEST(test_waiting_turns_of_a_crashing_key_pause),
        POOL_TEST(test_leaving_does_not_hide_a_crash),
        POOL_TEST(test_workers_are_listed),
        POOL_TEST(test_drain),
        POOL_TEST(test_a_process_for_each_workspace),
        POOL_TEST(test_an_agent_gets_a_place),
        POOL_TEST(test_rounds_of_tools_are_told_and_kept),
        POOL_TEST(test_positions),
        POOL_TEST(test_cancel_while_queued),
        POOL_TEST(test_cancel_while_preparing),
        POOL_TEST(test_cancel_while_running),
        POOL_TEST(test_cancel_ignored_by_the_program),
        POOL_TEST(test_cancel_from_a_callback),
        POOL_TEST(test_a_fault_at_each_line_is_not_seen),
        POOL_TEST(test_a_lost_reply_costs_the_worker),
        POOL_TEST(test_cancel_at_each_line),
        POOL_TEST(test_a_fault_while_cancelling),
        POOL_TEST(test_crash_before_the_first_byte_is_retried_once),
        POOL_TEST(test_crash_every_time),
        POOL_TEST(test_crash_after_the_first_byte_is_told),
        POOL_TEST(test_hang_after_result_is_replaced),
        POOL_TEST(test_silence_and_total_time),
        POOL_TEST(test_no_result_at_all),
        POOL_TEST(test_errors_are_mapped),
        POOL_TEST(test_unknown_and_garbage_lines_are_ignored),
        POOL_TEST(test_worker_killed_while_idle),
        POOL_TEST(test_huge_answer),
        POOL_TEST(test_grandchild_holds_the_pipe),
        POOL_TEST(test_starts_that_fail_back_off),
        POOL_TEST(test_program_that_never_answers),
        POOL_TEST(test_start_recovers),
        POOL_TEST(test_stop_with_nothing),
        POOL_TEST(test_stop_with_everything_in_flight),
        POOL_TEST(test_nothing_is_taken_after_stop),
        POOL_TEST(test_stop_at_any_moment),
        POOL_TEST(test_two_thousand_random_turns),
        RUNDIR_TEST(test_rundir_start_clears),
        RUNDIR_TEST(test_rundir_start_survives),
        RUNDIR_TEST(test_rundir_name_taken),
        RUNDIR_TEST(test_rundir_remove_frees_the_name),
        RUNDIR_TEST(test_rundir_make_leaves_nothing),
    };
    struct err err;
    struct log_opts quiet = {.level = LOG_ERROR, .console = getenv("CG_TEST_LOG") != NULL};
    if (getenv("CG_TEST_LOG"))
        quiet.level = LOG_DEBUG;
    if (log_open(&quiet, &err) != 0)
        return 1;
    if (getenv("CG_TEST_ONLY"))
        cmocka_set_test_filter(getenv("CG_TEST_ONLY")); /* a pattern with '*' */
    signal(SIGPIPE, SIG_IGN);
    id_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
