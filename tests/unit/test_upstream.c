/* test_upstream.c - the relay between a raw CLI and a scripted upstream, on one loop; and its
 * parts (upstream_parts.h). */
#include "upstream_door.h"
#include "upstream_ends.h"
#include "upstream_parts.h"
#include "upstream_rig.h"
#include "upstream_targets.h"
#include "upstream_tls.h"
#include "upstream_trial.h"

#include <signal.h>

/* --- the good way -------------------------------------------------------------------------- */

static void streams_through(void **state)
{
    (void)state;
    struct rig rig;
    AUTO(buf_release) struct buf b;
    struct step steps[] = {chunked(&b, STREAM)};
    rig_open(&rig, steps, 1);
    cli_send(&rig.cli, "/v1/messages?beta=true", "User-Agent: claude-cli/2\r\nx-app: cli\r\n", ask);
    assert_true(run_until(&rig, cli_has_response, 5000));
    assert_status(&rig, 200);
    assert_body(&rig, STREAM);
    assert_header(buf_cstr(&rig.cli.in), "request-id", "req_up1");
    assert_header(buf_cstr(&rig.cli.in), "anthropic-ratelimit-requests-remaining", "9");
    assert_header(buf_cstr(&rig.cli.in), "content-type", "text/event-stream; charset=utf-8");
    assert_no_header(buf_cstr(&rig.cli.in), "set-cookie");
    const char *up = fake_request(&rig, 0);
    assert_true(strncmp(up, "POST /v1/messages?beta=true HTTP/1.1\r\n", 38) == 0);
    assert_header(up, "x-api-key", "sk-operator");
    assert_header(up, "user-agent", "claude-cli/2");
    assert_header(up, "anthropic-version", "2023-06-01");
    assert_header(up, "accept-encoding", "identity");
    assert_null(strstr(up, "dummy"));
    assert_no_header(up, "cookie");
    assert_no_header(up, "authorization");
    assert_no_header(up, "expect");
    assert_string_equal(fake_body(&rig, 0), ask.p);
    relay_end_turn(rig.relay);
    assert_int_equal(rig.turn.calls, 1);
    assert_int_equal(rig.turn.input_tokens, 10);
    assert_int_equal(rig.turn.output_tokens, 7);
    assert_int_equal(rig.turn.cache_creation_tokens, 2);
    assert_int_equal(rig.turn.cache_read_tokens, 3);
    assert_false(rig.turn.estimated);
    assert_int_equal(rig.turn.status, 200);
    assert_string_equal(rig.turn.stop_reason, "end_turn");
    assert_string_equal(rig.turn.upstream_request_id, "req_up1");
    assert_int_equal(rig.turn.failure, RELAY_OK);
    rig_close(&rig);
}

static void bearer_prefix_and_interim_answers(void **state)
{
    (void)state;
    struct rig rig;
    AUTO(buf_release) struct buf b, all;
    chunked(&b, STREAM);
    buf_init(&all, MB);
    buf_printf(&all, "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n%s", buf_cstr(&b));
    struct step steps[] = {{.bytes = all.data}};
    rig_prepare(&rig, steps, 1);
    AUTO(free_charp) char *url = x_printf("%s/prefix/", rig.fake.url);
    struct upstream_opts opts = quick_opts(url);
    opts.targets[0].api_key = "";
    opts.targets[0].auth_token = "tok-1";
    rig_open_with(&rig, &opts);
    relay_begin_turn(rig.relay, &rig.turn);
    ask_and_wait(&rig);
    assert_status(&rig, 200);
    assert_body(&rig, STREAM);
    assert_int_equal(rig.turn.status, 200);
    assert_true(strncmp(fake_request(&rig, 0), "POST /prefix/v1/messages?beta=true ", 35) == 0);
    assert_header(fake_request(&rig, 0), "authorization", "Bearer tok-1");
    assert_no_header(fake_request(&rig, 0), "x-api-key");
    rig_close(&rig);
}

static void connections_are_reused(void **state)
{
    (void)state;
    struct rig rig;
    AUTO(buf_release) struct buf b;
    struct step one = chunked(&b, STREAM);
    struct step steps[] = {one, one, one};
    rig_open(&rig, steps, 3);
    for (int i = 0; i < 3; i++)
        ask_and_wait(&rig); /* all on one connection of the CLI, too */
    assert_int_equal(rig.fake.conn_count, 1);
    relay_end_turn(rig.relay);
    assert_int_equal(rig.turn.calls, 3);
    assert_int_equal(rig.turn.input_tokens, 30);
    assert_int_equal(rig.turn.output_tokens, 21);
    rig_close(&rig);
}

static bool saw_message_stop(struct rig *rig)
{
    return strstr(buf_cstr(&rig->cli.in), "\"message_stop\"") != NULL;
}

/* The CLI leaves as soon as it has read message_stop; upstream's last bytes come later. */
static void a_finished_response_is_let_go(void **state)
{
    (void)state;
    struct rig rig;
    AUTO(buf_release) struct buf b, b2;
    buf_init(&b, MB);
    buf_printf(&b, SSE_HEAD "transfer-encoding: chunked\r\n\r\n%zx\r\n%s\r\n", strlen(STREAM),
               STREAM);
    struct step steps[] = {{.bytes = b.data}, chunked(&b2, STREAM)};
    rig_open(&rig, steps, 2);
    cli_send(&rig.cli, "/v1/messages", "", ask);
    assert_true(run_until(&rig, saw_message_stop, 5000));
    cli_close(&rig.cli);
    run_for(&rig, 20);
    relay_end_turn(rig.relay);
    assert_false(rig.turn.estimated);
    assert_int_equal(rig.turn.output_tokens, 7);
    evbuffer_add(bufferevent_get_output(rig.fake.conns[0]->bev), "0\r\n\r\n", 5);
    run_for(&rig, 20);
    relay_begin_turn(rig.relay, &rig.turn);
    cli_open(&rig.cli, rig.loop, rig.path);
    ask_and_wait(&rig);
    assert_int_equal(rig.fake.conn_count, 1);
    rig_close(&rig);
}

/* One question, one answer: after a whole message or a failure nothing more goes upstream. */
static void an_extra_call_is_refused(void **state)
{
    (void)state;
    const char *const firsts[] = {STREAM, NULL};
    for (size_t i = 0; i < ARRAY_SIZE(firsts); i++) {
        struct rig rig;
        AUTO(buf_release) struct buf b, c;
        struct step steps[] = {firsts[i] ? chunked(&b, firsts[i])
                                         : plain(&b, 404, "", ERROR_JSON("not_found_error", "m")),
                               chunked(&c, STREAM)};
        rig_open(&rig, steps, 2);
        rig.turn.many = false;
        ask_and_wait(&rig);
        assert_status(&rig, firsts[i] ? 200 : 404);
        ask_and_wait(&rig);
        assert_status(&rig, 400);
        assert_body(&rig, ERROR_JSON("invalid_request_error", "this turn has had its answer"));
        relay_end_turn(rig.relay);
        assert_int_equal(rig.turn.calls, 1);
        assert_int_equal(rig.turn.answered, firsts[i] != NULL);
        assert_int_equal(rig.turn.status, firsts[i] ? 200 : 404);
        relay_begin_turn(rig.relay, &rig.turn); /* the next turn may ask again */
        ask_and_wait(&rig);
        assert_status(&rig, 200);
        rig_close(&rig);
    }
}

/* A tool loop asks again and again; but what comes later may be a tool that found the socket. */
static void a_loop_keeps_to_its_model_and_number(void **state)
{
    (void)state;
    static const char *const others[] = {
        "{\"model\":\"dear\",\"messages\":[]}",
        "{\"model\":\"m\",\"model\":\"dear\"}",
        "{\"model\":\"m\",\"mod\\u0065l\":\"dear\"}",
        "{\"messages\":[]}",
        "{\"model\":7}",
    };
    struct rig rig;
    AUTO(buf_release) struct buf b, c;
    struct step steps[] = {chunked(&b, STREAM), chunked(&c, STREAM)};
    rig_open(&rig, steps, 2);
    ask_and_wait(&rig);
    assert_status(&rig, 200);
    assert_string_equal(rig.turn.model, "m");
    for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
        buf_clear(&rig.cli.in);
        cli_send(&rig.cli, "/v1/messages", "", str_c(others[i]));
        assert_true(run_until(&rig, cli_has_response, 5000));
        assert_status(&rig, 400);
    }
    assert_int_equal(rig.fake.request_count, 1);
    rig.turn.max_calls = rig.turn.calls + 1;
    ask_and_wait(&rig);
    assert_status(&rig, 200);
    ask_and_wait(&rig);
    assert_status(&rig, 400);
    assert_int_equal(rig.fake.request_count, 2);
    rig_close(&rig);
}

static void parameters_and_system_are_written(void **state)
{
    (void)state;
    struct rig rig;
    AUTO(buf_release) struct buf b, c;
    struct step steps[] = {chunked(&b, STREAM), plain(&c, 200, "", "{\"input_tokens\":44}")};
    rig_open(&rig, steps, 2);
    rig.turn.params = quoted("{'max_tokens':77,'temperature':0.2,'messages':null}");
    rig.turn.system = quoted("[{'type':'text','text':'be brief'}]");
    ask_and_wait(&rig);
    assert_string_equal(fake_body(&rig, 0),
                        "{\"model\":\"m\",\"max_tokens\":77,\"temperature\":0.2,"
                        "\"system\":[{\"type\":\"text\",\"text\":\"be brief\"}]}");
    /* counting takes no sampling parameters, and is not usage */
    buf_clear(&rig.cli.in);
    cli_send(&rig.cli, "/v1/messages/count_tokens?beta=true", "", ask);
    assert_true(run_until(&rig, cli_has_response, 5000));
    assert_body(&rig, "{\"input_tokens\":44}");
    assert_non_null(strstr(fake_request(&rig, 1), "POST /v1/messages/count_tokens?beta=true "));
    assert_non_null(strstr(fake_body(&rig, 1), "\"max_tokens\":5"));
    assert_non_null(strstr(fake_body(&rig, 1), "be brief"));
    relay_end_turn(rig.relay);
    assert_int_equal(rig.turn.input_tokens, 10);
    assert_int_equal(rig.turn.calls, 2);
    assert_false(rig.turn.estimated);
    rig_close(&rig);
}

static void messages_are_replaced_and_counted_ones_are_not(void **state)
{
    (void)state;
    struct rig rig;
    AUTO(buf_release) struct buf b, c, d;
    struct step steps[] = {plain(&b, 529, "", ERROR_JSON("overloaded_error", "later")),
                           chunked(&c, STREAM), plain(&d, 200, "", "{\"input_tokens\":44}")};
    rig_open(&rig, steps, 3);
    rig.turn.messages =
        quoted("[{'role':'user','content':'hers'},{'role':'assistant','content':'{'}]");
    ask_and_wait(&rig);
    assert_status(&rig, 200);
    for (size_t i = 0; i < 2; i++) /* again when it is tried again */
        assert_non_null(strstr(fake_body(&rig, i),
                               "\"messages\":[{\"role\":\"user\",\"content\":\"hers\"},{\"role\":"
                               "\"assistant\",\"content\":\"{\"}]}"));
    buf_clear(&rig.cli.in);
    cli_send(&rig.cli, "/v1/messages/count_tokens", "", ask);
    assert_true(run_until(&rig, cli_has_response, 5000));
    assert_null(strstr(fake_body(&rig, 2), "hers"));
    rig_close(&rig);
}

static void an_errors_object_is_kept_whole(void **state)
{
    (void)state;
    static const char detailed[] =
        "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":\"no\","
        "\"details\":{\"n\":[1,2]}}}";
    struct rig rig;
    char *large = x_malloc(METER_ERROR_MAX + 1);
    memset(large, 'x', METER_ERROR_MAX);
    large[METER_ERROR_MAX] = '\0';
    AUTO(free_charp)
    char *huge =
        x_printf("{\"error\":{\"type\":\"api_error\",\"message\":\"m\",\"d\":\"%s\"}}", large);
    free(large);
    AUTO(buf_release) struct buf b, c;
    struct step steps[] = {plain(&b, 400, "", detailed), plain(&c, 400, "", huge)};
    rig_open(&rig, steps, 2);
    ask_and_wait(&rig);
    assert_string_equal(
        rig.turn.error_json,
        "{\"type\":\"invalid_request_error\",\"message\":\"no\",\"details\":{\"n\":[1,2]}}");
    ask_and_wait(&rig);
    assert_null(rig.turn.error_json);
    assert_string_equal(rig.turn.error_message, "m");
    rig_close(&rig);
}

static void a_length_stop_is_hidden(void **state)
{
    (void)state;
    struct rig rig;
    AUTO(buf_release) struct buf b, c;
    struct step steps[] = {chunked(&b, START TEXT("x") DELTA("max_tokens") STOP),
                           plain(&c, 200, "",
                                 "{\"id\":\"m\",\"stop_reason\":\"max_tokens\",\"usage\":"
                                 "{\"input_tokens\":1,\"output_tokens\":2}}")};
    rig_open(&rig, steps, 2);
    ask_and_wait(&rig);
    assert_body(&rig, START TEXT("x") DELTA("end_turn") STOP);
    assert_string_equal(rig.turn.stop_reason, "max_tokens");
    ask_and_wait(&rig);
    assert_body(&rig, "{\"id\":\"m\",\"stop_reason\":\"end_turn\",\"usage\":"
                      "{\"input_tokens\":1,\"output_tokens\":2}}");
    relay_end_turn(rig.relay);
    assert_string_equal(rig.turn.stop_reason, "max_tokens");
    assert_int_equal(rig.turn.output_tokens, 9);
    assert_false(rig.turn.estimated);
    rig_close(&rig);
}

/* Upstream writes byte by byte over the socket; nothing is lost, nothing reordered. */
static void bytes_may_come_one_by_one(void **state)
{
    (void)state;
    struct rig rig;
    static const char text[] = START TEXT("x") DELTA("max_tokens") STOP;
    struct step steps[] = {{.bytes = SSE_HEAD "connection: close\r\n\r\n"}};
    rig_open(&rig, steps, 1);
    cli_send(&rig.cli, "/v1/messages", "", ask);
    run_for(&rig, 30);
    for (size_t i = 0; i < sizeof(text) - 1; i++) {
        evbuffer_add(bufferevent_get_output(rig.fake.conns[0]->bev), text + i, 1);
        run_until(&rig, NULL, 1);
    }
    run_for(&rig, 20);
    fake_close(rig.fake.conns[0], false);
    assert_true(run_until(&rig, cli_has_response, 5000));
    assert_body(&rig, START TEXT("x") DELTA("end_turn") STOP);
    rig_close(&rig);
}

static void two_relays_do_not_mix(void **state)
{
    (void)state;
    struct rig rig;
    struct relay_turn other = {.request_id = "req_other"};
    struct err err;
    AUTO(buf_release) struct buf b, c;
    struct step slow = chunked(&b, START TEXT("one") DELTA("end_turn") STOP);
    slow.delay_ms = 60;
    struct step steps[] = {slow, chunked(&c, START TEXT("two") DELTA("tool_use") STOP)};
    rig_open(&rig, steps, 2);
    AUTO(free_charp) char *path = x_printf("%s/two.sock", rig.dir);
    struct relay *second = relay_new(rig.up, path, &err);
    struct cli cli;
    assert_non_null(second);
    relay_begin_turn(second, &other);
    cli_open(&cli, rig.loop, path);
    cli_send(&rig.cli, "/v1/messages", "", ask);
    run_for(&rig, 20);
    cli_send(&cli, "/v1/messages", "", ask);
    run_for(&rig, 20);
    relay_end_turn(second); /* ends its own calls only */
    assert_true(run_until(&rig, cli_has_response, 5000));
    assert_body(&rig, START TEXT("one") DELTA("end_turn") STOP);
    assert_non_null(strstr(buf_cstr(&cli.in), "\"two\""));
    relay_end_turn(rig.relay);
    assert_string_equal(other.stop_reason, "tool_use");
    assert_string_equal(rig.turn.stop_reason, "end_turn");
    assert_int_equal(other.calls, 1);
    assert_int_equal(rig.turn.calls, 1);
    cli_close(&cli);
    relay_free(second);
    rig_close(&rig);
}

/* --- what is refused ----------------------------------------------------------------------- */

static void nothing_passes_without_a_turn(void **state)
{
    (void)state;
    struct rig rig;
    rig_open(&rig, NULL, 0);
    relay_end_turn(rig.relay);
    double before = metric_value("claudegate_relay_refused_total");
    ask_and_wait(&rig);
    assert_status(&rig, 403);
    assert_body(&rig, ERROR_JSON("permission_error", "no turn is open"));
    buf_clear(&rig.cli.in);
    cli_send(&rig.cli, "/v1/messages/count_tokens", "", ask);
    assert_true(run_until(&rig, cli_has_response, 5000));
    assert_status(&rig, 403);
    assert_true(metric_value("claudegate_relay_refused_total") - before > 1.5);
    assert_int_equal(rig.fake.conn_count, 0);
    rig_close(&rig);
}

static void only_messages_are_served(void **state)
{
    (void)state;
    struct rig rig;
    rig_open(&rig, NULL, 0);
    get(&rig, "HEAD /");
    assert_status(&rig, 200);
    get(&rig, "GET /");
    assert_status(&rig, 200);
    get(&rig, "GET /v1/models");
    assert_status(&rig, 404);
    assert_body(&rig, ERROR_JSON("not_found_error", "the relay serves /v1/messages only"));
    buf_clear(&rig.cli.in);
    cli_send(&rig.cli, "/v1/messages/../x", "", ask);
    assert_true(run_until(&rig, cli_has_response, 5000));
    assert_status(&rig, 404);
    rig.turn.params = quoted("{'max_tokens':1}");
    buf_clear(&rig.cli.in);
    cli_send(&rig.cli, "/v1/messages", "", STR("{\"a\":"));
    assert_true(run_until(&rig, cli_has_response, 5000));
    assert_status(&rig, 400);
    assert_body(&rig,
                ERROR_JSON("invalid_request_error", "the request body is not one JSON object"));
    assert_int_equal(rig.fake.conn_count, 0);
    rig_close(&rig);
}

static void a_giant_body_is_refused(void **state)
{
    (void)state;
    struct rig rig;
    rig_open(&rig, NULL, 0);
    evbuffer_add_printf(
        bufferevent_get_output(rig.cli.bev),
        "POST /v1/messages HTTP/1.1\r\nHost: r\r\nContent-Length: 41943041\r\n\r\n{");
    assert_true(run_until(&rig, cli_has_status, 5000));
    assert_status(&rig, 413);
    assert_int_equal(rig.turn.calls, 0);
    rig_close(&rig);
}

static void bad_addresses_are_refused(void **state)
{
    (void)state;
    struct loop *loop = loop_new();
    static const char *const bad[] = {"",           "ftp://x", "http://u:p@127.0.0.1",
                                      "127.0.0.1",  "http://", "https://h/?q=1",
                                      "https://h#f"};
    struct err err;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct upstream_opts opts = quick_opts(bad[i]);
        err.code = ERR_NONE;
        assert_null(upstream_new(loop, &opts, &err));
        assert_int_equal(err.code, ERR_CONFIG);
    }
    struct upstream_opts opts = quick_opts("https://api.anthropic.com");
    opts.targets[0].api_key = "k\r\nx-evil: 1";
    assert_null(upstream_new(loop, &opts, &err));
    assert_null(strstr(err.msg, "evil"));
    opts = quick_opts("https://api.anthropic.com");
    struct upstream *up = upstream_new(loop, &opts, &err);
    assert_non_null(up);
    AUTO(free_charp) char *path = x_printf("/tmp/%0107d", 1);
    assert_null(relay_new(up, path, &err));
    assert_non_null(strstr(err.msg, "longer than 107 bytes"));
    assert_null(relay_new(up, "/nonexistent-dir/s", &err));
    assert_int_equal(err.code, ERR_IO);
    upstream_free(up);
    loop_free(loop);
}

static void the_socket_is_private_and_replaces_a_stale_one(void **state)
{
    (void)state;
    struct rig rig;
    struct err err;
    struct stat st;
    rig_open(&rig, NULL, 0);
    AUTO(free_charp) char *path = x_printf("%s/stale", rig.dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fclose(f);
    struct relay *r = relay_new(rig.up, path, &err);
    assert_non_null(r);
    assert_int_equal(lstat(path, &st), 0);
    assert_true(S_ISSOCK(st.st_mode));
    assert_int_equal(st.st_mode & 0777, 0600);
    relay_free(r);
    assert_int_not_equal(access(path, F_OK), 0);
    rig_close(&rig);
}

/* --- errors and retries -------------------------------------------------------------------- */

static void errors_pass_as_they_are(void **state)
{
    (void)state;
    static const int statuses[] = {400, 401, 403, 404, 413, 504};
    for (size_t i = 0; i < ARRAY_SIZE(statuses); i++) {
        struct rig rig;
        AUTO(buf_release) struct buf b;
        struct step steps[] = {plain(&b, statuses[i],
                                     "request-id: req_e\r\nx-should-retry: true\r\n",
                                     ERROR_JSON("some_error", "what \\u4e2d"))};
        rig_open(&rig, steps, 1); /* one step: a retry would fail the test */
        ask_and_wait(&rig);
        assert_status(&rig, statuses[i]);
        assert_body(&rig, ERROR_JSON("some_error", "what \\u4e2d"));
        assert_header(buf_cstr(&rig.cli.in), "x-should-retry", "true");
        relay_end_turn(rig.relay);
        assert_int_equal(rig.turn.status, statuses[i]);
        assert_string_equal(rig.turn.error_type, "some_error");
        assert_string_equal(rig.turn.error_message, "what \xE4\xB8\xAD");
        assert_string_equal(rig.turn.upstream_request_id, "req_e");
        assert_int_equal(rig.turn.output_tokens, 0);
        assert_false(rig.turn.estimated);
        rig_close(&rig);
    }
}

static void an_empty_error_and_a_redirect_get_a_body(void **state)
{
    (void)state;
    struct rig rig;
    AUTO(buf_release) struct buf b, c;
    struct step steps[] = {plain(&b, 404, "", ""),
                           plain(&c, 302, "location: http://127.0.0.1:1/\r\n", "")};
    rig_open(&rig, steps, 2);
    ask_and_wait(&rig);
    assert_status(&rig, 404);
    assert_body(&rig, ERROR_JSON("api_error", "the upstream API answered with HTTP 404"));
    ask_and_wait(&rig);
    assert_status(&rig, 502);
    assert_body(&rig, ERROR_JSON("api_error", "the upstream API answered with a redirect"));
    assert_int_equal(rig.turn.status, 302);
    rig_close(&rig);
}

static void passing_failures_are_tried_again(void **state)
{
    (void)state;
    static const int statuses[] = {429, 500, 502, 503, 529};
    for (size_t i = 0; i < ARRAY_SIZE(statuses); i++) {
        struct rig rig;
        AUTO(buf_release) struct buf b, c;
        struct step bad = plain(&b, statuses[i], "", ERROR_JSON("e", "m"));
        struct step steps[] = {bad, bad, chunked(&c, STREAM)};
        rig_open(&rig, steps, 3);
        ask_and_wait(&rig);
        assert_status(&rig, 200);
        assert_body(&rig, STREAM);
        relay_end_turn(rig.relay);
        assert_int_equal(rig.turn.retries, 2);
        assert_int_equal(rig.turn.calls, 1);
        assert_int_equal(rig.turn.status, 200);
        assert_int_equal(rig.turn.output_tokens, 7);
        assert_int_equal(rig.fake.conn_count, 1); /* the error's body was read: reused */
        assert_string_equal(fake_body(&rig, 2), ask.p);
        rig_close(&rig);
    }
}

static void retries_wait_longer_each_time_and_end(void **state)
{
    (void)state;
    struct rig rig;
    AUTO(buf_release) struct buf b;
    struct step bad = plain(&b, 529, "retry-after: 0\r\n", ERROR_JSON("overloaded_error", "m"));
    struct step steps[] = {bad, bad, bad};
    rig_prepare(&rig, steps, 3);
    struct upstream_opts opts = quick_opts(rig.fake.url);
    opts.retry_base_ms = 40;
    rig_open_with(&rig, &opts);
    relay_begin_turn(rig.relay, &rig.turn);
    double before = metric_value("claudegate_upstream_retries_total");
    ask_and_wait(&rig);
    assert_status(&rig, 529);
    assert_body(&rig, ERROR_JSON("overloaded_error", "m"));
    int64_t first = rig.fake.at_us[1] - rig.fake.at_us[0];
    int64_t second = rig.fake.at_us[2] - rig.fake.at_us[1];
    /* 40 and 80 ms, less what the loop's own clock may lag when it sets a timer */
    assert_in_range(first, 35000, 2000000);
    assert_in_range(second, 75000, 2000000);
    assert_int_equal(rig.turn.retries, 2);
    assert_int_equal(rig.turn.status, 529);
    assert_true(metric_value("claudegate_upstream_retries_total") - before > 1.5);
    assert_true(metric_value("claudegate_upstream_requests_total{target=\"one\",status=\"529\"}") >
                2.5);
    rig_close(&rig);
}

static void retry_after_is_obeyed(void **state)
{
    (void)state;
    struct rig rig;
    AUTO(buf_release) struct buf b, c, d, e;
    struct step steps[] = {plain(&b, 429, "retry-after: 1\r\n", ERROR_JSON("e", "m")),
                           chunked(&c, STREAM),
                           plain(&d, 429, "retry-after: 21\r\n", ERROR_JSON("e", "m")),
                           plain(&e, 503, "x-should-retry: false\r\n", ERROR_JSON("e", "m"))};
    rig_open(&rig, steps, 4);
    ask_and_wait(&rig);
    assert_status(&rig, 200);
    assert_in_range(rig.fake.at_us[1] - rig.fake.at_us[0], 990000, 4000000);
    ask_and_wait(&rig);
    assert_status(&rig, 429);
    assert_header(buf_cstr(&rig.cli.in), "retry-after", "21");
    assert_int_equal(rig.turn.retry_after_s, 21);
    ask_and_wait(&rig);
    assert_status(&rig, 503);
    assert_int_equal(rig.turn.retries, 1);
    rig_close(&rig);
}

/* A stream that opens with an error is that error's status: the CLI would else repeat it itself. */
static void an_error_as_first_event_is_a_status(void **state)
{
    (void)state;
    struct rig rig;
    AUTO(buf_release) struct buf b, c, d;
    struct step steps[] = {chunked(&b, EV("error", ERROR_JSON("overloaded_error", "Overloaded"))),
                           chunked(&c, STREAM),
                           chunked(&d, EV("error", ERROR_JSON("invalid_request_error", "no")))};
    rig_open(&rig, steps, 3);
    ask_and_wait(&rig);
    assert_status(&rig, 200);
    assert_body(&rig, STREAM);
    assert_int_equal(rig.turn.retries, 1);
    ask_and_wait(&rig);
    assert_status(&rig, 400);
    assert_header(buf_cstr(&rig.cli.in), "content-type", "application/json");
    assert_body(&rig, ERROR_JSON("invalid_request_error", "no"));
    relay_end_turn(rig.relay);
    assert_int_equal(rig.turn.status, 400);
    assert_string_equal(rig.turn.error_type, "invalid_request_error");
    assert_false(rig.turn.estimated);
    rig_close(&rig);
}

static void an_error_later_passes_as_an_event(void **state)
{
    (void)state;
    struct rig rig;
    AUTO(buf_release) struct buf b;
    struct step steps[] = {
        chunked(&b, START TEXT("12345") EV("error", ERROR_JSON("overloaded_error", "O")))};
    rig_open(&rig, steps, 1);
    ask_and_wait(&rig);
    assert_body(&rig, START TEXT("12345") EV("error", ERROR_JSON("overloaded_error", "O")));
    relay_end_turn(rig.relay);
    assert_string_equal(rig.turn.error_type, "overloaded_error");
    assert_true(rig.turn.estimated);
    assert_int_equal(rig.turn.output_tokens, 2); /* 5 bytes */
    rig_close(&rig);
}

static void nobody_listens(void **state)
{
    (void)state;
    struct rig rig;
    rig_prepare(&rig, NULL, 0);
    evconnlistener_free(rig.fake.listener);
    rig.fake.listener = NULL;
    struct upstream_opts opts = quick_opts(rig.fake.url);
    rig_open_with(&rig, &opts);
    relay_begin_turn(rig.relay, &rig.turn);
    ask_and_wait(&rig);
    assert_status(&rig, 502);
    assert_body(&rig, ERROR_JSON("api_error", "the upstream API could not be reached"));
    assert_header(buf_cstr(&rig.cli.in), "x-should-retry", "false");
    relay_end_turn(rig.relay);
    assert_int_equal(rig.turn.failure, RELAY_UNREACHABLE);
    assert_int_equal(rig.turn.retries, 2);
    assert_int_equal(rig.turn.status, 0);
    assert_false(rig.turn.estimated);
    rig_close(&rig);
}

static void a_reset_before_the_answer_is_tried_again(void **state)
{
    (void)state;
    struct rig rig;
    AUTO(buf_release) struct buf b;
    struct step steps[] = {{.reset = true}, {.close = true}, chunked(&b, STREAM)};
    rig_open(&rig, steps, 3);
    ask_and_wait(&rig);
    assert_status(&rig, 200);
    assert_int_equal(rig.turn.retries, 2);
    assert_int_equal(rig.turn.failure, RELAY_OK);
    rig_close(&rig);
}

static void no_answer_in_time(void **state)
{
    (void)state;
    struct rig rig;
    struct step steps[] = {{.bytes = "", .delay_ms = 1}};
    rig_prepare(&rig, steps, 1);
    struct upstream_opts opts = quick_opts(rig.fake.url);
    opts.first_byte_timeout_ms = 80;
    rig_open_with(&rig, &opts);
    relay_begin_turn(rig.relay, &rig.turn);
    int64_t start = clock_mono_ms();
    ask_and_wait(&rig);
    assert_in_range(clock_mono_ms() - start, 75, 3000);
    assert_status(&rig, 504);
    assert_body(&rig, ERROR_JSON("timeout_error", "the upstream API did not answer in time"));
    relay_end_turn(rig.relay);
    assert_int_equal(rig.turn.failure, RELAY_TIMED_OUT);
    assert_int_equal(rig.turn.retries, 0); /* the model may have been at work */
    assert_true(rig.turn.estimated);
    rig_close(&rig);
}

static bool upstream_is_called(struct rig *rig)
{
    return rig->fake.conn_count > 0;
}

/* The deadline for the head counts from the end of the request, not from its start. */
static void a_slow_upload_is_not_a_late_answer(void **state)
{
    (void)state;
    struct rig rig;
    AUTO(buf_release) struct buf b, body;
    struct step steps[] = {chunked(&b, STREAM)};
    rig_prepare(&rig, steps, 1);
    struct upstream_opts opts = quick_opts(rig.fake.url);
    opts.first_byte_timeout_ms = 1000;
    int small = 65536; /* so that little can be under way in the kernel */
    setsockopt(evconnlistener_get_fd(rig.fake.listener), SOL_SOCKET, SO_RCVBUF, &small,
               sizeof(small));
    rig_open_with(&rig, &opts);
    relay_begin_turn(rig.relay, &rig.turn);
    buf_init(&body, 32 * MB);
    buf_adds(&body, "{\"model\":\"m\",\"x\":\"");
    for (int i = 0; i < 2000000; i++)
        buf_adds(&body, "0123456789");
    buf_adds(&body, "\"}");
    cli_send(&rig.cli, "/v1/messages", "", buf_str(&body));
    assert_true(run_until(&rig, upstream_is_called, 20000));
    bufferevent_disable(rig.fake.conns[0]->bev, EV_READ);
    run_for(&rig, 1200); /* most of the body cannot leave yet */
    bufferevent_enable(rig.fake.conns[0]->bev, EV_READ);
    assert_true(run_until(&rig, cli_has_response, 20000));
    assert_status(&rig, 200);
    assert_int_equal(strlen(fake_body(&rig, 0)), body.len);
    rig_close(&rig);
}

static void silence_in_the_stream_cuts_it(void **state)
{
    (void)state;
    struct rig rig;
    struct step steps[] = {{.bytes = CLOSED_STREAM START TEXT("12345678") "event: x\nda"}};
    rig_prepare(&rig, steps, 1);
    struct upstream_opts opts = quick_opts(rig.fake.url);
    opts.idle_timeout_ms = 80;
    rig_open_with(&rig, &opts);
    relay_begin_turn(rig.relay, &rig.turn);
    cli_send(&rig.cli, "/v1/messages", "", ask);
    assert_true(run_until(&rig, cli_sees_end, 3000));
    assert_false(cli_has_response(&rig)); /* no last chunk: the CLI sees a cut */
    assert_non_null(strstr(buf_cstr(&rig.cli.in), TEXT("12345678")));
    assert_null(strstr(buf_cstr(&rig.cli.in), "event: x")); /* no half event */
    relay_end_turn(rig.relay);
    assert_int_equal(rig.turn.failure, RELAY_TIMED_OUT);
    assert_int_equal(rig.turn.status, 200);
    assert_true(rig.turn.estimated);
    assert_int_equal(rig.turn.input_tokens, 10);
    assert_int_equal(rig.turn.output_tokens, 2);
    rig_close(&rig);
}

static void a_cut_upstream_cuts_the_cli(void **state)
{
    (void)state;
    for (int reset = 0; reset < 2; reset++) {
        struct rig rig;
        struct step steps[] = {
            {.bytes = SSE_HEAD "transfer-encoding: chunked\r\n\r\n1000\r\n" START TEXT("123456789"),
             .close = !reset,
             .reset = reset}};
        rig_open(&rig, steps, 1);
        cli_send(&rig.cli, "/v1/messages", "", ask);
        assert_true(run_until(&rig, cli_sees_end, 3000));
        assert_false(cli_has_response(&rig));
        relay_end_turn(rig.relay);
        assert_int_equal(rig.turn.failure, RELAY_UNREACHABLE);
        assert_true(rig.turn.estimated);
        if (!reset) { /* an RST may overtake data */
            assert_non_null(strstr(buf_cstr(&rig.cli.in), TEXT("123456789")));
            assert_int_equal(rig.turn.output_tokens, 3);
        }
        rig_close(&rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_follow_weights),
        cmocka_unit_test(only_the_share_of_a_lost_target_moves),
        cmocka_unit_test(a_round_tries_each_once),
        cmocka_unit_test(limits_last_as_long_as_they_say),
        cmocka_unit_test(failures_double_the_pause),
        cmocka_unit_test(one_request_tries_what_was_refused),
        cmocka_unit_test(which_hosts_are_this_machine),
        cmocka_unit_test(which_failures_may_differ),
        cmocka_unit_test(another_target_is_asked_at_once),
        cmocka_unit_test(an_early_error_goes_to_another_target),
        cmocka_unit_test(what_stays_with_its_target),
        cmocka_unit_test(a_broken_stream_stays_broken),
        cmocka_unit_test(after_all_were_tried_comes_a_pause),
        cmocka_unit_test(scan_passes_bytes_at_every_split),
        cmocka_unit_test(scan_holds_only_the_event_under_way),
        cmocka_unit_test(scan_changes_data_at_every_split),
        cmocka_unit_test(scan_gives_up_on_a_giant_event),
        cmocka_unit_test(meter_reads_usage_and_text),
        cmocka_unit_test(meter_hides_stops_and_keeps_errors),
        cmocka_unit_test(meter_cuts_long_text_between_characters),
        cmocka_unit_test(rewrite_sets_and_removes),
        cmocka_unit_test(rewrite_appends_system),
        cmocka_unit_test(rewrite_keeps_four_markers),
        cmocka_unit_test(rewrite_refuses_what_is_no_object),
        cmocka_unit_test(rewrite_equals_a_change_of_the_parsed_value),
        cmocka_unit_test(policy_picks_headers),
        cmocka_unit_test(streams_through),
        cmocka_unit_test(bearer_prefix_and_interim_answers),
        cmocka_unit_test(connections_are_reused),
        cmocka_unit_test(a_broken_connection_is_no_silent_repeat),
        cmocka_unit_test(a_finished_response_is_let_go),
        cmocka_unit_test(an_extra_call_is_refused),
        cmocka_unit_test(a_loop_keeps_to_its_model_and_number),
        cmocka_unit_test(parameters_and_system_are_written),
        cmocka_unit_test(messages_are_replaced_and_counted_ones_are_not),
        cmocka_unit_test(an_errors_object_is_kept_whole),
        cmocka_unit_test(a_length_stop_is_hidden),
        cmocka_unit_test(bytes_may_come_one_by_one),
        cmocka_unit_test(two_relays_do_not_mix),
        cmocka_unit_test(nothing_passes_without_a_turn),
        cmocka_unit_test(only_messages_are_served),
        cmocka_unit_test(a_trial_is_answered_here),
        cmocka_unit_test(a_trial_changes_nothing_else),
        cmocka_unit_test(a_turn_after_a_trial_is_its_own),
        cmocka_unit_test(a_trial_may_end_in_mid_call),
        cmocka_unit_test(a_giant_body_is_refused),
        cmocka_unit_test(bad_addresses_are_refused),
        cmocka_unit_test(the_socket_is_private_and_replaces_a_stale_one),
        cmocka_unit_test(errors_pass_as_they_are),
        cmocka_unit_test(an_empty_error_and_a_redirect_get_a_body),
        cmocka_unit_test(passing_failures_are_tried_again),
        cmocka_unit_test(retries_wait_longer_each_time_and_end),
        cmocka_unit_test(retry_after_is_obeyed),
        cmocka_unit_test(an_error_as_first_event_is_a_status),
        cmocka_unit_test(an_error_later_passes_as_an_event),
        cmocka_unit_test(nobody_listens),
        cmocka_unit_test(a_reset_before_the_answer_is_tried_again),
        cmocka_unit_test(no_answer_in_time),
        cmocka_unit_test(a_slow_upload_is_not_a_late_answer),
        cmocka_unit_test(silence_in_the_stream_cuts_it),
        cmocka_unit_test(a_cut_upstream_cuts_the_cli),
        cmocka_unit_test(the_cli_leaves_in_mid_stream),
        cmocka_unit_test(the_cli_leaves_while_waiting),
        cmocka_unit_test(the_cli_leaves_between_two_attempts),
        cmocka_unit_test(the_turn_ends_in_mid_call),
        cmocka_unit_test(the_relay_goes_with_calls_under_way),
        cmocka_unit_test(a_slow_cli_slows_upstream),
        cmocka_unit_test(a_giant_event_passes_unseen),
        cmocka_unit_test(a_crowd_gets_sixteen_places),
        cmocka_unit_test(half_sent_bodies_are_bounded),
        cmocka_unit_test(one_large_request_at_a_time),
        cmocka_unit_test(a_request_comes_in_time_or_not_at_all),
        cmocka_unit_test(nobody_sends_ahead_without_end),
        cmocka_unit_test(the_programs_own_ways_pass),
        cmocka_unit_test(a_turn_may_be_told_its_model),
        cmocka_unit_test(a_second_try_starts_clean),
        cmocka_unit_test(a_certificate_must_be_trusted),
    };
    struct err err;
    id_init();
    signal(SIGPIPE, SIG_IGN);
    if (log_open(&(struct log_opts){.level = LOG_ERROR}, &err) != 0)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    metrics_reset();
    log_close();
    return failed;
}
