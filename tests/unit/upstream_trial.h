/* upstream_trial.h - tests of the relay's trials: answered here, kept, never sent on. */
#ifndef CG_TESTS_UPSTREAM_TRIAL_H
#define CG_TESTS_UPSTREAM_TRIAL_H

#include "upstream_rig.h"

#define TRIAL_ANSWER "I am \"ready\":\n\xE2\x9C\x93 of 30 bytes"

static void trial_open(struct rig *rig, struct relay_trial *trial, const struct step *steps,
                       size_t count)
{
    rig_prepare(rig, steps, count);
    struct upstream_opts opts = quick_opts(rig->fake.url);
    rig_open_with(rig, &opts);
    *trial = (struct relay_trial){.answer = TRIAL_ANSWER};
    relay_begin_trial(rig->relay, trial);
}

static void trial_ask(struct rig *rig, const char *target, struct str body, int status)
{
    buf_clear(&rig->cli.in);
    cli_send(&rig->cli, target, "", body);
    assert_true(run_until(rig, cli_has_response, 5000));
    assert_status(rig, status);
}

/* The data of each event of the answer, checked to be named like its type. */
static json_t *trial_events(struct rig *rig)
{
    AUTO(buf_release) struct buf body;
    json_t *events = json_array();
    buf_init(&body, MB);
    assert_true(response_body(&rig->cli.in, &body));
    assert_header(buf_cstr(&rig->cli.in), "content-type", "text/event-stream; charset=utf-8");
    for (struct str rest = buf_str(&body); rest.len;) {
        struct str name = str_split(&rest, '\n'), data = str_split(&rest, '\n');
        assert_int_equal(str_split(&rest, '\n').len, 0);
        assert_true(str_starts(name, "event: ") && str_starts(data, "data: "));
        json_t *event = json_loadb(data.p + 6, data.len - 6, 0, NULL);
        assert_non_null(event);
        assert_true(str_eq(json_get_str(event, "type"), str_n(name.p + 7, name.len - 7)));
        json_array_append_new(events, event);
    }
    return events;
}

static const json_t *event_at(const json_t *events, size_t i, const char *type)
{
    const json_t *event = json_array_get(events, i);
    assert_true(str_eq_c(json_get_str(event, "type"), type));
    return event;
}

static void check_message(const json_t *message, const char *model)
{
    assert_true(str_starts(json_get_str(message, "id"), "msg_"));
    assert_true(json_get_str(message, "id").len > 20);
    assert_true(str_eq_c(json_get_str(message, "type"), "message"));
    assert_true(str_eq_c(json_get_str(message, "role"), "assistant"));
    assert_true(str_eq_c(json_get_str(message, "model"), model));
    assert_int_equal(json_array_size(json_object_get(message, "content")), 0);
    assert_true(json_is_null(json_object_get(message, "stop_reason")));
    const json_t *usage = json_object_get(message, "usage");
    assert_true(json_get_int(usage, "input_tokens", 0) > 0);
    assert_int_equal(json_get_int(usage, "output_tokens", 0), 1);
}

static void check_trial_answer(struct rig *rig, const char *model)
{
    AUTO(json_unref_p) json_t *events = trial_events(rig);
    assert_int_equal(json_array_size(events), 6);
    check_message(json_object_get(event_at(events, 0, "message_start"), "message"), model);
    const json_t *start =
        json_object_get(event_at(events, 1, "content_block_start"), "content_block");
    assert_true(str_eq_c(json_get_str(start, "type"), "text"));
    assert_true(json_is_string(json_object_get(start, "text")));
    const json_t *delta = event_at(events, 2, "content_block_delta");
    assert_int_equal(json_get_int(delta, "index", -1), 0);
    assert_true(str_eq_c(json_get_str(json_object_get(delta, "delta"), "text"), TRIAL_ANSWER));
    event_at(events, 3, "content_block_stop");
    const json_t *end = event_at(events, 4, "message_delta");
    assert_true(str_eq_c(json_get_str(json_object_get(end, "delta"), "stop_reason"), "end_turn"));
    assert_true(json_get_int(json_object_get(end, "usage"), "output_tokens", 0) > 1);
    event_at(events, 5, "message_stop");
}

static void a_trial_is_answered_here(void **state)
{
    struct rig rig;
    struct relay_trial trial;
    (void)state;
    trial_open(&rig, &trial, NULL, 0);
    double sent = metric_value("claudegate_upstream_requests_total{target=\"one\",status=\"200\"}");
    trial_ask(&rig, "/v1/messages?beta=true", STR("{\"model\":\"a \\\"b\\\" \xC3\xA9\",\"n\":1}"),
              200);
    check_trial_answer(&rig, "a \"b\" \xC3\xA9");
    assert_int_equal(trial.calls, 1);
    assert_int_equal(json_get_int(trial.request, "n", 0), 1);
    trial_ask(&rig, "/v1/messages", STR("{\"n\":2}"), 200); /* on the same connection */
    check_trial_answer(&rig, "");
    assert_int_equal(trial.calls, 2);
    assert_int_equal(json_get_int(trial.request, "n", 0), 2); /* the latest */
    assert_true(metric_value("claudegate_upstream_requests_total{target=\"one\",status=\"200\"}") -
                    sent <
                0.5);
    assert_int_equal(rig.fake.conn_count, 0);
    relay_end_trial(rig.relay);
    json_decref(trial.request);
    rig_close(&rig);
}

/* What was taken out stays out: who looks after each step sees only what came since. */
static void a_trial_changes_nothing_else(void **state)
{
    struct rig rig;
    struct relay_trial trial;
    (void)state;
    trial_open(&rig, &trial, NULL, 0);
    trial_ask(&rig, "/v1/messages", STR("{\"n\":1}"), 200);
    json_t *first = TAKE_PTR(trial.request);
    trial_ask(&rig, "/v1/messages/count_tokens?beta=true", STR("{\"n\":2}"), 403);
    trial_ask(&rig, "/v1/models", STR("{\"n\":2}"), 404);
    assert_null(trial.request);
    assert_int_equal(trial.calls, 1);
    trial_ask(&rig, "/v1/messages", STR("{\"n\":"), 400);
    assert_body(&rig,
                ERROR_JSON("invalid_request_error", "the request body is not one JSON object"));
    trial_ask(&rig, "/v1/messages", STR("[1]"), 400);
    trial_ask(&rig, "/v1/messages", STR(""), 400);
    assert_null(trial.request);
    assert_int_equal(trial.calls, 4);
    get(&rig, "HEAD /");
    assert_status(&rig, 200);
    assert_int_equal(json_get_int(first, "n", 0), 1);
    json_decref(first);
    rig_close(&rig); /* with the trial still open */
}

static void a_turn_after_a_trial_is_its_own(void **state)
{
    struct rig rig;
    struct relay_trial trial;
    AUTO(buf_release) struct buf b;
    struct step steps[] = {chunked(&b, STREAM)};
    (void)state;
    trial_open(&rig, &trial, steps, 1);
    trial_ask(&rig, "/v1/messages", ask, 200);
    relay_end_trial(rig.relay);
    relay_end_trial(rig.relay);
    trial_ask(&rig, "/v1/messages", ask, 403);
    assert_int_equal(trial.calls, 1);
    json_decref(trial.request);
    relay_begin_turn(rig.relay, &rig.turn);
    ask_and_wait(&rig);
    assert_status(&rig, 200);
    assert_body(&rig, STREAM);
    relay_end_turn(rig.relay);
    assert_int_equal(rig.turn.calls, 1);
    assert_int_equal(rig.turn.input_tokens, 10);
    assert_int_equal(rig.fake.request_count, 1);
    rig_close(&rig);
}

/* The trial ends while a request is still coming in. */
static void a_trial_may_end_in_mid_call(void **state)
{
    struct rig rig;
    struct relay_trial trial;
    (void)state;
    trial_open(&rig, &trial, NULL, 0);
    evbuffer_add_printf(bufferevent_get_output(rig.cli.bev),
                        "POST /v1/messages HTTP/1.1\r\nHost: r\r\nContent-Length: 7\r\n\r\n{\"n");
    run_for(&rig, 20);
    relay_end_trial(rig.relay);
    evbuffer_add_printf(bufferevent_get_output(rig.cli.bev), "\":1}");
    assert_true(run_until(&rig, cli_has_response, 5000));
    assert_status(&rig, 403);
    assert_int_equal(trial.calls, 0);
    assert_null(trial.request);
    relay_begin_trial(rig.relay, &trial); /* and may begin anew; the CLI leaves before it reads */
    cli_send(&rig.cli, "/v1/messages", "", ask);
    for (int i = 0; i < 500 && trial.calls == 0; i++)
        event_base_loop(loop_base(rig.loop), EVLOOP_ONCE);
    cli_close(&rig.cli);
    relay_end_trial(rig.relay);
    run_for(&rig, 20);
    assert_int_equal(trial.calls, 1);
    json_decref(trial.request);
    rig_close(&rig);
}

#endif
