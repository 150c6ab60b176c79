/* upstream_ends.h - tests of the relay when one of its ends leaves or is slow. */
#ifndef CG_TESTS_UPSTREAM_ENDS_H
#define CG_TESTS_UPSTREAM_ENDS_H

#include "upstream_rig.h"

/* --- one end leaves ------------------------------------------------------------------------ */

static bool saw_text(struct rig *rig)
{
    return strstr(buf_cstr(&rig->cli.in), "text_delta") != NULL;
}

static bool upstream_was_left(struct rig *rig)
{
    return rig->fake.conns[0]->closed_us != 0;
}

static bool one_request(struct rig *rig)
{
    return rig->fake.request_count == 1;
}

/* The CLI goes; how long until upstream sees its connection closed. */
static int64_t leave(struct rig *rig)
{
    int64_t left = clock_mono_us();
    cli_close(&rig->cli);
    assert_true(run_until(rig, upstream_was_left, 3000));
    return rig->fake.conns[0]->closed_us - left;
}

static int64_t leave_in_mid_stream(void)
{
    struct rig rig;
    struct step steps[] = {{.bytes = CLOSED_STREAM START TEXT("123456789")}};
    rig_open(&rig, steps, 1);
    cli_send(&rig.cli, "/v1/messages", "", ask);
    assert_true(run_until(&rig, saw_text, 3000));
    int64_t us = leave(&rig);
    assert_true(rig.turn.estimated);
    assert_int_equal(rig.turn.output_tokens, 3);
    assert_int_equal(rig.turn.failure, RELAY_OK);
    relay_end_turn(rig.relay);
    assert_int_equal(rig.turn.output_tokens, 3); /* counted once */
    rig_close(&rig);
    return us;
}

static int64_t leave_while_waiting(void)
{
    struct rig rig;
    struct step steps[] = {{.bytes = "", .delay_ms = 1}};
    rig_open(&rig, steps, 1);
    cli_send(&rig.cli, "/v1/messages", "", ask);
    assert_true(run_until(&rig, one_request, 3000));
    int64_t us = leave(&rig);
    relay_end_turn(rig.relay);
    assert_true(rig.turn.estimated);
    assert_int_equal(rig.turn.status, 0);
    rig_close(&rig);
    return us;
}

/* Within 50 ms; a busy machine may need a second try. */
static void assert_prompt(int64_t (*fn)(void))
{
    int64_t best = INT64_MAX;
    for (int i = 0; i < 3 && best > 50000; i++) {
        int64_t us = fn();
        best = us < best ? us : best;
    }
    assert_in_range(best, 0, 50000);
}

static void the_cli_leaves_in_mid_stream(void **state)
{
    (void)state;
    assert_prompt(leave_in_mid_stream);
}

static void the_cli_leaves_while_waiting(void **state)
{
    (void)state;
    assert_prompt(leave_while_waiting);
}

static void the_cli_leaves_between_two_attempts(void **state)
{
    (void)state;
    struct rig rig;
    AUTO(buf_release) struct buf b;
    struct step steps[] = {plain(&b, 529, "retry-after: 5\r\n", ERROR_JSON("e", "m"))};
    rig_open(&rig, steps, 1);
    cli_send(&rig.cli, "/v1/messages", "", ask);
    assert_true(run_until(&rig, one_request, 3000));
    run_for(&rig, 50);
    cli_close(&rig.cli);
    run_for(&rig, 50);
    relay_end_turn(rig.relay);
    assert_false(rig.turn.estimated);
    rig_close(&rig);
}

static void the_turn_ends_in_mid_call(void **state)
{
    (void)state;
    struct rig rig;
    struct step steps[] = {{.bytes = CLOSED_STREAM START TEXT("1234")}};
    rig_open(&rig, steps, 1);
    cli_send(&rig.cli, "/v1/messages", "", ask);
    assert_true(run_until(&rig, saw_text, 3000));
    relay_end_turn(rig.relay);
    assert_true(rig.turn.estimated);
    assert_int_equal(rig.turn.output_tokens, 1);
    assert_int_equal(rig.turn.input_tokens, 10);
    struct relay_turn after = rig.turn;
    assert_true(run_until(&rig, upstream_was_left, 3000));
    assert_true(run_until(&rig, cli_sees_end, 3000));
    run_for(&rig, 20);
    assert_memory_equal(&after, &rig.turn, sizeof(after));
    rig_close(&rig);
}

/* The relay goes while calls wait, stream and retry: nothing is left behind (leak check). */
static void the_relay_goes_with_calls_under_way(void **state)
{
    (void)state;
    struct rig rig;
    struct cli more[2];
    AUTO(buf_release) struct buf b;
    struct step steps[] = {{.bytes = CLOSED_STREAM START TEXT("1234")},
                           {.bytes = "", .delay_ms = 1},
                           plain(&b, 529, "retry-after: 5\r\n", ERROR_JSON("e", "m"))};
    rig_open(&rig, steps, 3);
    cli_send(&rig.cli, "/v1/messages", "", ask);
    for (int i = 0; i < 2; i++) {
        run_for(&rig, 30);
        cli_open(&more[i], rig.loop, rig.path);
        cli_send(&more[i], "/v1/messages", "", ask);
    }
    run_for(&rig, 30);
    assert_int_equal(rig.fake.request_count, 3);
    relay_free(rig.relay);
    rig.relay = NULL;
    for (int i = 0; i < 2; i++)
        cli_close(&more[i]);
    rig_close(&rig);
}

/* --- back-pressure ------------------------------------------------------------------------- */

static size_t upstream_unsent(const struct rig *rig)
{
    return evbuffer_get_length(bufferevent_get_output(rig->fake.conns[0]->bev));
}

static bool all_sent(struct rig *rig)
{
    return upstream_unsent(rig) == 0;
}

/* 20 MB for a CLI that does not read: most of it must stay upstream, and come later, complete. */
static void a_slow_cli_slows_upstream(void **state)
{
    (void)state;
    struct rig rig;
    AUTO(buf_release) struct buf big;
    struct step steps[] = {{.bytes = CLOSED_STREAM}};
    buf_init(&big, 64 * MB);
    buf_adds(&big, START);
    for (int i = 0; i < 20000; i++)
        buf_printf(&big, "event: content_block_delta\ndata: {\"delta\":{\"text\":\"%01000d\"}}\n\n",
                   i);
    rig_prepare(&rig, steps, 1);
    struct upstream_opts opts = quick_opts(rig.fake.url);
    opts.idle_timeout_ms = 100; /* must not count while we are the ones who wait */
    rig_open_with(&rig, &opts);
    relay_begin_turn(rig.relay, &rig.turn);
    cli_send(&rig.cli, "/v1/messages", "", ask);
    bufferevent_disable(rig.cli.bev, EV_READ);
    assert_true(run_until(&rig, one_request, 3000));
    evbuffer_add(bufferevent_get_output(rig.fake.conns[0]->bev), big.data, big.len);
    assert_false(run_until(&rig, all_sent, 500));
    /* taken: what the relay holds (1 MiB and a little) and what the kernel's buffers hold */
    assert_true(upstream_unsent(&rig) > 10 * MB);
    bufferevent_enable(rig.cli.bev, EV_READ);
    assert_true(run_until(&rig, all_sent, 20000));
    run_for(&rig, 30);
    fake_close(rig.fake.conns[0], false);
    assert_true(run_until(&rig, cli_has_last_chunk, 20000));
    assert_body(&rig, buf_cstr(&big));
    relay_end_turn(rig.relay);
    assert_int_equal(rig.turn.output_tokens, 20000 * 1000 / 4);
    rig_close(&rig);
}

static void a_giant_event_passes_unseen(void **state)
{
    (void)state;
    struct rig rig;
    AUTO(buf_release) struct buf big;
    struct step steps[] = {{.bytes = CLOSED_STREAM START}};
    buf_init(&big, 64 * MB);
    buf_adds(&big, "event: message_delta\ndata: {\"x\":\"");
    for (int i = 0; i < 17 * 1024; i++)
        buf_printf(&big, "%01024d", i);
    buf_adds(&big, "\",\"delta\":{\"stop_reason\":\"max_tokens\"}}\n\n" STOP);
    rig_open(&rig, steps, 1);
    cli_send(&rig.cli, "/v1/messages", "", ask);
    assert_true(run_until(&rig, one_request, 3000));
    evbuffer_add(bufferevent_get_output(rig.fake.conns[0]->bev), big.data, big.len);
    assert_true(run_until(&rig, all_sent, 20000));
    run_for(&rig, 30);
    fake_close(rig.fake.conns[0], false);
    assert_true(run_until(&rig, cli_has_last_chunk, 20000));
    AUTO(buf_release) struct buf body;
    buf_init(&body, 64 * MB);
    assert_true(response_body(&rig.cli.in, &body));
    assert_int_equal(body.len, strlen(START) + big.len);
    assert_memory_equal(body.data + strlen(START), big.data, big.len);
    relay_end_turn(rig.relay);
    assert_true(rig.turn.estimated);
    rig_close(&rig);
}

/* A kept connection breaks after the request was written: it may have been heard. Whether it is
 * sent again is for the retry policy to say, never for the HTTP library. */
static void a_broken_connection_is_no_silent_repeat(void **state)
{
    (void)state;
    for (int retries = 0; retries <= 1; retries++) {
        struct rig rig;
        AUTO(buf_release) struct buf b;
        struct step one = chunked(&b, STREAM);
        struct step steps[] = {one, {.reset = true}, one};
        rig_prepare(&rig, steps, 3);
        struct upstream_opts opts = quick_opts(rig.fake.url);
        opts.max_retries = retries;
        rig_open_with(&rig, &opts);
        relay_begin_turn(rig.relay, &rig.turn);
        ask_and_wait(&rig);
        ask_and_wait(&rig);
        relay_end_turn(rig.relay);
        assert_int_equal(rig.fake.request_count, 2 + retries);
        assert_int_equal(rig.turn.retries, retries);
        assert_int_equal(rig.turn.failure, retries ? RELAY_OK : RELAY_UNREACHABLE);
        rig_close(&rig);
    }
}

#endif
