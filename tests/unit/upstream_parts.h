/* upstream_parts.h - tests of the relay's parts that need no socket: scanner, meter, rewriting. */
#ifndef CG_TESTS_UPSTREAM_PARTS_H
#define CG_TESTS_UPSTREAM_PARTS_H

#include "upstream_rig.h"

#include "upstream/meter.h"
#include "upstream/policy.h"
#include "upstream/rewrite.h"
#include "upstream/sse_scan.h"

/* --- scanner and meter together, as the relay uses them ------------------------------------ */

struct seen {
    struct buf bytes;  /* emitted */
    struct buf events; /* "name=data|" per event */
    struct meter meter;
    bool rewrite;
};

static bool seen_event(void *ctx, struct str name, struct str data, struct buf *ret_data)
{
    struct seen *s = ctx;
    buf_printf(&s->events, "%.*s=%.*s|", (int)name.len, name.p, (int)data.len, data.p);
    bool changed = meter_event(&s->meter, name, data, ret_data);
    return s->rewrite && changed;
}

static void seen_emit(void *ctx, struct str bytes)
{
    struct seen *s = ctx;
    buf_addstr(&s->bytes, bytes);
}

static const struct sse_ops seen_ops = {.event = seen_event, .emit = seen_emit};

static void seen_init(struct seen *s, bool rewrite)
{
    *s = (struct seen){.rewrite = rewrite};
    buf_init(&s->bytes, 64 * MB);
    buf_init(&s->events, 64 * MB);
}

static void seen_release(struct seen *s)
{
    buf_release(&s->bytes);
    buf_release(&s->events);
}

/* Feeds `in` cut at a and b, and checks what came out. */
static void check_split(struct str in, size_t a, size_t b, bool rewrite, const char *bytes,
                        const char *events)
{
    struct seen s;
    struct sse_scan scan;
    seen_init(&s, rewrite);
    sse_scan_init(&scan, &seen_ops, &s);
    sse_scan_feed(&scan, str_n(in.p, a));
    sse_scan_feed(&scan, str_n(in.p + a, b - a));
    sse_scan_feed(&scan, str_n(in.p + b, in.len - b));
    sse_scan_finish(&scan);
    assert_string_equal(buf_cstr(&s.bytes), bytes);
    if (events)
        assert_string_equal(buf_cstr(&s.events), events);
    sse_scan_release(&scan);
    seen_release(&s);
}

static void check_all_splits(const char *text, bool rewrite, const char *bytes, const char *events)
{
    struct str in = str_c(text);
    for (size_t a = 0; a <= in.len; a++) {
        for (size_t b = a; b <= in.len; b += b < a + 3 ? 1 : 7)
            check_split(in, a, b, rewrite, bytes, events);
    }
}

/* With each LF as CRLF or CR. */
static char *with_eol(const char *text, const char *eol)
{
    struct buf b;
    buf_init(&b, MB);
    for (; *text; text++) {
        if (*text == '\n')
            buf_adds(&b, eol);
        else
            buf_addc(&b, *text);
    }
    return buf_take(&b);
}

static const char plain_events[] = ": a comment\n\n"
                                   "event: one\ndata: 1\n\n"
                                   "data:2\nid: 7\n\n\n"
                                   "event:three\ndata: a\ndata:  b\ndata\n\n"
                                   "retry: 5\n\n"
                                   "event: cut\ndata: 4\n";
static const char plain_seen[] = "one=1|=2|three=a\n b\n|cut=4|";

static void scan_passes_bytes_at_every_split(void **state)
{
    (void)state;
    static const char *const eols[] = {"\n", "\r\n", "\r"};
    for (size_t i = 0; i < ARRAY_SIZE(eols); i++) {
        AUTO(free_charp) char *text = with_eol(plain_events, eols[i]);
        check_all_splits(text, true, text, plain_seen);
    }
    check_all_splits("\xEF\xBB\xBF"
                     "event: a\r\ndata: 1\n\r\n",
                     true,
                     "\xEF\xBB\xBF"
                     "event: a\r\ndata: 1\n\r\n",
                     "a=1|");
}

static void scan_holds_only_the_event_under_way(void **state)
{
    (void)state;
    struct seen s;
    struct sse_scan scan;
    seen_init(&s, true);
    sse_scan_init(&scan, &seen_ops, &s);
    sse_scan_feed(&scan, STR("event: a\ndata: 1\n\nevent: b\nda"));
    assert_string_equal(buf_cstr(&s.bytes), "event: a\ndata: 1\n\n");
    sse_scan_feed(&scan, STR("ta: 2\r\n\r"));
    assert_string_equal(s.bytes.data + 18, "event: b\ndata: 2\r\n\r");
    sse_scan_feed(&scan, STR("\n")); /* the rest of the CRLF does not wait for the next event */
    assert_string_equal(s.bytes.data + 18, "event: b\ndata: 2\r\n\r\n");
    sse_scan_release(&scan);
    seen_release(&s);
}

static void scan_changes_data_at_every_split(void **state)
{
    (void)state;
    static const char in[] =
        "event: message_start\ndata: {\"message\":{\"usage\":{\"input_tokens\":3}}}\n\n"
        "id: x\ndata: {\"delta\":{\"stop_reason\":\"max_tokens\",\ndata: \"k\":1.5},"
        "\"usage\":{\"output_tokens\":9}}\nevent: message_delta\n: note\n\n"
        "event: message_stop\ndata: {}\n\n";
    static const char out[] =
        "event: message_start\ndata: {\"message\":{\"usage\":{\"input_tokens\":3}}}\n\n"
        "id: x\ndata: {\"delta\":{\"stop_reason\":\"end_turn\",\"k\":1.5},"
        "\"usage\":{\"output_tokens\":9}}\nevent: message_delta\n: note\n\n"
        "event: message_stop\ndata: {}\n\n";
    static const char *const eols[] = {"\n", "\r\n", "\r"};
    for (size_t i = 0; i < ARRAY_SIZE(eols); i++) {
        AUTO(free_charp) char *text = with_eol(in, eols[i]);
        AUTO(free_charp) char *want = with_eol(out, eols[i]);
        check_all_splits(text, true, want, NULL);
    }
}

static void scan_gives_up_on_a_giant_event(void **state)
{
    (void)state;
    struct seen s;
    struct sse_scan scan;
    struct buf chunk;
    size_t fed = 6;
    buf_init(&chunk, MB);
    for (int i = 0; i < 1000; i++)
        buf_adds(&chunk, "0123456789");
    seen_init(&s, true);
    sse_scan_init(&scan, &seen_ops, &s);
    sse_scan_feed(&scan, STR("data: "));
    while (fed <= SSE_MAX_EVENT) {
        assert_int_equal(s.bytes.len, 0);
        sse_scan_feed(&scan, buf_str(&chunk));
        fed += chunk.len;
    }
    sse_scan_feed(&scan, STR("\n\nevent: x\ndata: 1\n\n"));
    assert_true(scan.raw);
    assert_int_equal(s.bytes.len, fed + 20);
    assert_string_equal(buf_cstr(&s.events), "");
    sse_scan_release(&scan);
    buf_release(&chunk);
    seen_release(&s);
}

static void meter_reads_usage_and_text(void **state)
{
    (void)state;
    struct meter m = {.final = false};
    AUTO(buf_release) struct buf out;
    buf_init(&out, 4096);
    meter_event(&m, STR("message_start"),
                STR("{\"message\":{\"usage\":{\"input_tokens\":11,\"output_tokens\":1,"
                    "\"cache_creation_input_tokens\":22,\"cache_read_input_tokens\":33}}}"),
                &out);
    meter_event(&m, STR("content_block_delta"),
                STR("{\"delta\":{\"type\":\"text_delta\",\"text\":\"a\\\"b\\n\\u4e2d\"}}"), &out);
    assert_int_equal(m.text_bytes, 7);
    meter_event(&m, STR("content_block_delta"), STR("{ \"delta\" : { \"thinking\" : \"four\" } }"),
                &out);
    meter_event(&m, STR("content_block_delta"),
                STR("{\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\\\"a\\\"\"}}"),
                &out);
    assert_int_equal(m.text_bytes, 15);
    meter_event(&m, STR("content_block_delta"), STR("{\"delta\":{\"signature\":\"text\"}}"), &out);
    meter_event(&m, STR("content_block_delta"), STR("{\"text\":"), &out);
    assert_int_equal(m.text_bytes, 15);
    assert_int_equal(meter_output(&m), 4); /* an estimate: the final usage is missing */
    assert_false(meter_event(&m, STR("message_delta"),
                             STR("{\"delta\":{\"stop_reason\":\"tool_use\"},\"usage\":"
                                 "{\"output_tokens\":3,\"input_tokens\":12}}"),
                             &out));
    assert_true(m.final);
    assert_int_equal(meter_output(&m), 3);
    assert_int_equal(m.input_tokens, 12);
    assert_int_equal(m.cache_creation_tokens, 22);
    assert_int_equal(m.cache_read_tokens, 33);
    assert_string_equal(m.stop_reason, "tool_use");
    meter_event(&m, STR("message_stop"), STR("{}"), &out);
    assert_true(m.stopped);
    assert_int_equal(out.len, 0);
}

static void meter_hides_stops_and_keeps_errors(void **state)
{
    (void)state;
    struct meter m = {.final = false};
    AUTO(buf_release) struct buf out;
    buf_init(&out, 4096);
    assert_true(meter_event(&m, STR("message_delta"),
                            STR("{\"delta\":{\"stop_reason\":\"model_context_window_exceeded\","
                                "\"stop_sequence\":null},\"usage\":{\"output_tokens\":1}}"),
                            &out));
    assert_string_equal(buf_cstr(&out), "{\"delta\":{\"stop_reason\":\"end_turn\","
                                        "\"stop_sequence\":null},\"usage\":{\"output_tokens\":1}}");
    assert_string_equal(m.stop_reason, "model_context_window_exceeded");
    buf_clear(&out);
    assert_true(meter_message(
        &m, STR("{\"stop_reason\":\"max_tokens\",\"usage\":{\"output_tokens\":5}}"), &out));
    assert_string_equal(buf_cstr(&out),
                        "{\"stop_reason\":\"end_turn\",\"usage\":{\"output_tokens\":5}}");
    assert_int_equal(meter_output(&m), 5);
    assert_false(meter_message(&m, STR("{\"input_tokens\":5}"), &out));
    assert_false(meter_message(&m, STR("[not json"), &out));
    meter_event(&m, STR("error"),
                STR("{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\","
                    "\"message\":\"Overloaded\"}}"),
                &out);
    assert_string_equal(m.error_type, "overloaded_error");
    assert_string_equal(m.error_message, "Overloaded");
    meter_reset(&m);
}

static void meter_cuts_long_text_between_characters(void **state)
{
    (void)state;
    struct meter m = {.final = false};
    AUTO(buf_release) struct buf body;
    buf_init(&body, 4096);
    buf_adds(&body, "{\"error\":{\"type\":\"t\",\"message\":\"");
    for (int i = 0; i < 200; i++)
        buf_adds(&body, "\xE4\xB8\xAD");
    buf_adds(&body, "\"}}");
    meter_error(&m, buf_str(&body));
    assert_int_equal(strlen(m.error_message), 297); /* 99 characters of 3 bytes in 299 */
    assert_true(str_is_utf8(str_c(m.error_message)));
    meter_reset(&m);
}

/* --- rewriting ----------------------------------------------------------------------------- */

static json_t *quoted(const char *text)
{
    if (!text)
        return NULL;
    AUTO(free_charp) char *json = x_strdup(text);
    for (char *p = json; *p; p++) {
        if (*p == '\'')
            *p = '"';
    }
    json_t *j = json_loads(json, 0, NULL);
    assert_non_null(j);
    return j;
}

/* All texts with ' for ". want NULL: refused. */
static void check_rewrite(const char *body, const char *params, const char *system,
                          const char *want)
{
    AUTO(json_unref_p) json_t *p = quoted(params);
    AUTO(json_unref_p) json_t *s = quoted(system);
    AUTO(buf_release) struct buf in, out, expect;
    struct err err;
    buf_init(&in, MB);
    buf_init(&out, MB);
    buf_init(&expect, MB);
    for (const char *c = body; *c; c++)
        buf_addc(&in, *c == '\'' ? '"' : *c);
    for (const char *c = want ? want : ""; *c; c++)
        buf_addc(&expect, *c == '\'' ? '"' : *c);
    struct rewrite_opts how = {.params = p, .system = s};
    int rc = rewrite_request(buf_str(&in), &how, &out, &err);
    if (!want) {
        assert_int_equal(rc, -1);
        assert_int_equal(err.code, ERR_INVALID);
        return;
    }
    assert_int_equal(rc, 0);
    assert_string_equal(buf_cstr(&out), buf_cstr(&expect));
}

static void rewrite_sets_and_removes(void **state)
{
    (void)state;
    check_rewrite("{'a':1,'max_tokens':32000,'temperature':1}",
                  "{'max_tokens':5,'temperature':null,'top_p':0.7,'stop_sequences':['x']}", NULL,
                  "{'a':1,'max_tokens':5,'top_p':0.7,'stop_sequences':['x']}");
    check_rewrite(" { 'a' : [ 1 , {'max_tokens':2} ] , 'b':'}\\'{' } ", "{'max_tokens':5}", NULL,
                  "{'a':[ 1 , {'max_tokens':2} ],'b':'}\\'{','max_tokens':5}");
    check_rewrite("{}", "{'a':1}", NULL, "{'a':1}");
    check_rewrite("{'a':2}", "{'a':null}", NULL, "{}");
    check_rewrite("{'a':1,'a':2,'b':3}", "{'a':9}", NULL, "{'b':3,'a':9}");
    /* no spelling of a key slips past */
    check_rewrite("{'max\\u005ftokens':1,'x':2}", "{'max_tokens':5}", NULL,
                  "{'x':2,'max_tokens':5}");
    /* numbers and escapes stay as they are */
    check_rewrite(
        "{'n':123456789012345678901234567890,'e':1.0e400,'u':'\\ud800\\\\','p':-0}", "{'a':1}",
        NULL, "{'n':123456789012345678901234567890,'e':1.0e400,'u':'\\ud800\\\\','p':-0,'a':1}");
}

static void rewrite_appends_system(void **state)
{
    (void)state;
    static const char block[] = "[{'type':'text','text':'S'}]";
    check_rewrite("{'a':1}", NULL, block, "{'a':1,'system':[{'type':'text','text':'S'}]}");
    check_rewrite("{'system':null}", NULL, block, "{'system':[{'type':'text','text':'S'}]}");
    check_rewrite("{'system':''}", NULL, block, "{'system':[{'type':'text','text':'S'}]}");
    check_rewrite("{'system':[ ]}", NULL, block, "{'system':[{'type':'text','text':'S'}]}");
    check_rewrite("{'system':'a\\nb','z':1}", NULL, block,
                  "{'z':1,'system':[{'type':'text','text':'a\\nb'},{'type':'text','text':'S'}]}");
    check_rewrite("{'system':[{'type':'text','text':'A'} ]}", "{'k':2}", block,
                  "{'k':2,'system':[{'type':'text','text':'A'} ,{'type':'text','text':'S'}]}");
    check_rewrite("{'system':'old'}", "{'system':'new'}", block,
                  "{'system':[{'type':'text','text':'new'},{'type':'text','text':'S'}]}");
    check_rewrite("{'system':'old'}", "{'system':null}", block,
                  "{'system':[{'type':'text','text':'S'}]}");
    check_rewrite("{'system':'old'}", NULL, "[]", "{'system':'old'}");
    check_rewrite("{'system':7}", NULL, block, NULL);
}

static void rewrite_keeps_four_markers(void **state)
{
    (void)state;
    static const char two[] = "[{'text':'A','cache_control':{'type':'ephemeral'}},"
                              "{'text':'B','cache_control':{'type':'ephemeral'}}]";
    check_rewrite("{'m':[{'cache_control':1},{'cache_control' :2},{'t':'\\'cache_control\\':'}]}",
                  NULL, two,
                  "{'m':[{'cache_control':1},{'cache_control' :2},{'t':'\\'cache_control\\':'}],"
                  "'system':[{'text':'A','cache_control':{'type':'ephemeral'}},"
                  "{'text':'B','cache_control':{'type':'ephemeral'}}]}");
    check_rewrite("{'m':[{'cache_control':1},{'cache_control':2},{'cache_control':3}]}", NULL, two,
                  "{'m':[{'cache_control':1},{'cache_control':2},{'cache_control':3}],"
                  "'system':[{'text':'A'},{'text':'B','cache_control':{'type':'ephemeral'}}]}");
    check_rewrite("{'a':{'cache_control':1},'b':{'cache_control':1},'c':{'cache_control':1},"
                  "'d':{'cache_control':1}}",
                  NULL, two,
                  "{'a':{'cache_control':1},'b':{'cache_control':1},'c':{'cache_control':1},"
                  "'d':{'cache_control':1},'system':[{'text':'A'},{'text':'B'}]}");
}

static void rewrite_refuses_what_is_no_object(void **state)
{
    (void)state;
    static const char *const bad[] = {"",          "}",        "[]",       "{",
                                      "{'a'}",     "{'a':}",   "{'a':1,}", "{'a':1 'b':2}",
                                      "{'a':1}x",  "{,}",      "{a:1}",    "{'a':'x}",
                                      "{'a':[1}",  "{'a':{}",  "{'a':1",   "{'\\q':1}",
                                      "{'a':1,,}", "{'a'::1}", "null",     "{'a':1}{}",
                                      "'",         "{'",       "{'a':'\\'"};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        check_rewrite(bad[i], "{'k':1}", NULL, NULL);
}

/* A small generator of JSON, the same on every run. */
struct dice {
    uint32_t state;
};

static uint32_t roll(struct dice *d, uint32_t sides)
{
    d->state = d->state * 1664525u + 1013904223u;
    return (d->state >> 8) % sides;
}

static json_t *random_json(struct dice *d, int depth)
{
    static const char *const texts[] = {"",
                                        "a",
                                        "}{][",
                                        "\"quoted\"",
                                        "back\\slash",
                                        "\\",
                                        "x\ny\tz",
                                        "\xE4\xB8\xAD",
                                        "\x01",
                                        "\\\"",
                                        "cache_control"};
    static const char *const keys[] = {"model", "system",      "max_tokens",   "k\"ey",
                                       "a\\b",  "temperature", "\xE4\xB8\xAD", ""};
    json_t *j;
    switch (roll(d, depth > 0 ? 7 : 5)) {
    case 0:
        return json_string(texts[roll(d, ARRAY_SIZE(texts))]);
    case 1:
        return json_integer((json_int_t)roll(d, 1000) - 500);
    case 2:
        return json_real(roll(d, 100) / 8.0);
    case 3:
        return roll(d, 2) ? json_true() : json_false();
    case 4:
        return json_null();
    case 5:
        j = json_array();
        for (uint32_t n = roll(d, 4); n > 0; n--)
            json_array_append_new(j, random_json(d, depth - 1));
        return j;
    default:
        j = json_object();
        for (uint32_t n = roll(d, 5); n > 0; n--)
            json_object_set_new(j, keys[roll(d, ARRAY_SIZE(keys))], random_json(d, depth - 1));
        return j;
    }
}

/* The same change made on the parsed value. */
static void change_dom(json_t *body, const json_t *params)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)params, key, v)
    {
        if (json_is_null(v))
            json_object_del(body, key);
        else
            json_object_set(body, key, v);
    }
}

static void rewrite_equals_a_change_of_the_parsed_value(void **state)
{
    (void)state;
    static const size_t flags[] = {JSON_COMPACT, JSON_INDENT(3), JSON_ENSURE_ASCII, 0,
                                   JSON_ESCAPE_SLASH | JSON_INDENT(1) | JSON_ENSURE_ASCII};
    struct dice d = {.state = 1};
    for (int i = 0; i < 20000; i++) {
        AUTO(json_unref_p) json_t *body = random_json(&d, 3);
        AUTO(json_unref_p) json_t *params = random_json(&d, 1);
        AUTO(buf_release) struct buf out;
        struct err err;
        char *text = json_dumps(body, flags[i % 5] | JSON_ENCODE_ANY);
        buf_init(&out, MB);
        struct rewrite_opts how = {.params = params};
        int rc = rewrite_request(str_c(text), &how, &out, &err);
        free(text);
        assert_int_equal(rc, json_is_object(body) ? 0 : -1);
        if (rc != 0)
            continue;
        if (json_is_object(params))
            change_dom(body, params);
        AUTO(json_unref_p) json_t *got = json_loads(buf_cstr(&out), JSON_REJECT_DUPLICATES, NULL);
        assert_true(json_equal(got, body));
    }
}

static void policy_picks_headers(void **state)
{
    (void)state;
    static const char *const yes[] = {"anthropic-version", "Anthropic-Beta",
                                      "X-Stainless-OS",    "x-claude-code-session-id",
                                      "User-Agent",        "x-app"};
    static const char *const no[] = {
        "x-api-key",       "Authorization",    "Host",
        "Connection",      "Cookie",           "anthropic-dangerous-direct-browser-access",
        "Accept-Encoding", "content-length",   "x-stainless-a\rb",
        "x-stainless-a b", "Transfer-Encoding"};
    for (size_t i = 0; i < ARRAY_SIZE(yes); i++)
        assert_true(policy_for_upstream(str_c(yes[i]), STR("v")));
    for (size_t i = 0; i < ARRAY_SIZE(no); i++)
        assert_false(policy_for_upstream(str_c(no[i]), STR("v")));
    assert_false(policy_for_upstream(STR("x-app"), STR("")));
    assert_false(policy_for_upstream(STR("x-app"), STR("a\rx-api-key: b")));
    assert_true(policy_for_cli(STR("Anthropic-Ratelimit-Requests-Remaining")));
    assert_false(policy_for_cli(STR("set-cookie")));
    assert_int_equal(policy_retry_after("7"), 7);
    assert_int_equal(policy_retry_after("999999999999"), 86400);
    assert_int_equal(policy_retry_after("soon"), 0);
    assert_int_equal(policy_retry_after("Thu, 01 Jan 1970 00:00:10 GMT"), 0);
    assert_int_equal(policy_status_of("overloaded_error"), 529);
    assert_int_equal(policy_status_of("other"), 500);
}

#endif
