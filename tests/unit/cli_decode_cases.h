/* cli_decode_cases.h - part of test_cli.c: lines from the claude program, recorded and made up,
 * and messages put together from them. */
#ifndef CG_TESTS_CLI_DECODE_CASES_H
#define CG_TESTS_CLI_DECODE_CASES_H

#include "cli/protocol.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

/* The recordings lie beside this file; CG_TEST_DATA names their directory when the test is run
 * from elsewhere than the build directory. */
static char *read_recording(const char *name)
{
    const char *dir = getenv("CG_TEST_DATA"), *slash = strrchr(__FILE__, '/');
    char path[512];
    struct stat st;
    int n = slash ? (int)(slash - __FILE__) : 1;
    if (dir)
        snprintf(path, sizeof(path), "%s/cli/%s.jsonl", dir, name);
    else
        snprintf(path, sizeof(path), "%.*s/data/cli/%s.jsonl", n, slash ? __FILE__ : ".", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0)
        fail_msg("cannot read '%s'; set CG_TEST_DATA to tests/unit/data", path);
    char *text = x_calloc(1, (size_t)st.st_size + 1);
    assert_int_equal(read(fd, text, (size_t)st.st_size), st.st_size);
    close(fd);
    return text;
}

/* The same object with its keys the other way round, on every level. */
static json_t *reversed(const json_t *j)
{
    const char *keys[64], *key;
    size_t n = 0, i;
    json_t *v;
    if (json_is_array(j)) {
        json_t *out = json_array();
        json_array_foreach((json_t *)(uintptr_t)j, i, v) json_array_append_new(out, reversed(v));
        return out;
    }
    if (!json_is_object(j))
        return json_deep_copy(j);
    json_object_foreach((json_t *)(uintptr_t)j, key, v)
    {
        assert_true(n < ARRAY_SIZE(keys));
        keys[n++] = key;
    }
    json_t *out = json_object();
    while (n-- > 0)
        json_object_set_new(out, keys[n], reversed(json_object_get(j, keys[n])));
    return out;
}

static void assert_str_equal(struct str a, struct str b)
{
    if (!str_eq(a, b))
        fail_msg("'%.*s' is not '%.*s'", (int)a.len, a.p, (int)b.len, b.p);
}

/* Everything the worker reads from a message: of a good result only the session's id. */
static void assert_same_answer(const struct cli_msg *a, const struct cli_msg *b)
{
    assert_int_equal(a->kind, b->kind);
    assert_int_equal(a->is_error, b->is_error);
    assert_int_equal(a->success, b->success);
    assert_str_equal(a->request_id, b->request_id);
    assert_str_equal(a->error, b->error);
    if (a->kind == CLI_RESULT)
        assert_str_equal(a->session_id, b->session_id);
    if (a->is_error) {
        assert_int_equal(a->num_turns, b->num_turns);
        assert_int_equal(a->api_error_status, b->api_error_status);
        assert_str_equal(a->result, b->result);
        assert_str_equal(a->terminal_reason, b->terminal_reason);
    }
    assert_int_equal(a->event != NULL, b->event != NULL);
    if (a->event)
        assert_true(json_equal(a->event, b->event));
}

static void check_other_key_order(struct str line, const struct cli_msg *m)
{
    struct err err;
    struct cli_msg other;
    json_t *j = json_parse(line, &err), *r = reversed(j);
    char *text = json_dumps(r, JSON_COMPACT);
    cli_decode(str_c(text), &other);
    assert_same_answer(m, &other);
    cli_msg_release(&other);
    free(text);
    json_decref(r);
    json_decref(j);
}

/* What a recording must come out as. */
struct recording {
    const char *name;
    size_t responses, requests, init, stream, errors, retries; /* lines of these kinds */
    bool is_error;
    int status, num_turns;
    const char *terminal, *error_kind, *result; /* result: its beginning */
    const char *text, *stop_reason;             /* of the last message */
    size_t blocks;
    int64_t input, output, cache_creation, cache_read;
};

#define ECHO \
    "Echo from mock: text unless it is highly relevant to your task.\n</system-reminder>\n\n "
static const struct recording recordings[] = {
    {"plain",
     1,
     0,
     1,
     19,
     0,
     0,
     false,
     0,
     1,
     "completed",
     "",
     ECHO "hello there",
     ECHO "hello there",
     "end_turn",
     1,
     42,
     7,
     0,
     0},
    {"error_429",
     1,
     0,
     1,
     0,
     1,
     0,
     true,
     429,
     1,
     "completed",
     "rate_limit",
     "API Error: Request rejected (429) \xC2\xB7 This",
     "",
     "",
     0,
     0,
     0,
     0,
     0},
    {"error_network",
     1,
     0,
     1,
     0,
     1,
     0,
     true,
     0,
     1,
     "completed",
     "server_error",
     "API Error: Unable to connect to API (ECONNRESET)",
     "",
     "",
     0,
     0,
     0,
     0,
     0},
    {"error_500_retried",
     0,
     0,
     0,
     0,
     1,
     4,
     true,
     500,
     1,
     "completed",
     "server_error",
     "API Error: 500 Internal server error.",
     "",
     "",
     0,
     0,
     0,
     0,
     0},
    {"interrupted",   1,  4,  1,    12,         0, 0,  true, 0, 4,
     "aborted_tools", "", "", "hm", "tool_use", 3, 42, 7,    0, 0},
    {"thinking",  0,  0,       1,       12,         0, 0,  false, 0, 1,
     "completed", "", "hello", "hello", "end_turn", 2, 11, 33,    5, 7},
    {"local_command", 0, 0, 1, 0, 0, 0, false, 0, 0, "", "", "", "", "", 0, 0, 0, 0, 0},
    {"tools",     1,  6,      1,      18,         0, 0,  false, 0, 4,
     "completed", "", "done", "done", "end_turn", 1, 42, 7,     0, 0},
    {"max_tokens",
     1,
     0,
     1,
     32,
     1,
     0,
     true,
     0,
     1,
     "completed",
     "max_output_tokens",
     "API Error: Claude's response exceeded the 32000",
     "cut off he",
     "max_tokens",
     1,
     42,
     7,
     0,
     0},
    {"refusal",
     1,
     0,
     1,
     7,
     1,
     0,
     true,
     0,
     1,
     "completed",
     "invalid_request",
     "API Error: Claude Code is unable to respond",
     "I cannot",
     "refusal",
     1,
     42,
     7,
     0,
     0},
};

struct replay {
    size_t count[CLI_GARBAGE + 1];
    struct cli_message message;
};

static void check_line(const struct recording *rec, const struct cli_msg *m)
{
    switch (m->kind) {
    case CLI_RESULT:
        assert_int_equal(m->is_error, rec->is_error);
        assert_int_equal(m->session_id.len, 36);
        if (!rec->is_error)
            break;
        assert_int_equal(m->api_error_status, rec->status);
        assert_int_equal(m->num_turns, rec->num_turns);
        assert_str_equal(m->terminal_reason, str_c(rec->terminal));
        if (!str_starts(m->result, rec->result))
            fail_msg("%s: %.*s", rec->name, (int)m->result.len, m->result.p);
        break;
    case CLI_ASSISTANT_ERROR:
        assert_str_equal(m->error, str_c(rec->error_kind));
        break;
    case CLI_CONTROL_RESPONSE:
        assert_true(m->success && m->request_id.len > 0);
        break;
    case CLI_CONTROL_REQUEST:
        assert_true(m->request_id.len == 36 && str_eq_c(m->subtype, "mcp_message"));
        break;
    case CLI_INIT:
    case CLI_STREAM:
    case CLI_TOOL_RESULTS:
    case CLI_API_RETRY:
    case CLI_OTHER:
    case CLI_UNKNOWN:
    case CLI_GARBAGE:
        break;
    }
}

static void replay(const struct recording *rec, struct replay *r)
{
    char *text = read_recording(rec->name);
    struct str rest = str_c(text);
    while (rest.len) {
        struct cli_msg m;
        struct str line = str_split(&rest, '\n');
        cli_decode(line, &m);
        r->count[m.kind]++;
        check_line(rec, &m);
        check_other_key_order(line, &m);
        if (m.kind == CLI_STREAM)
            cli_message_event(&r->message, m.event);
        cli_msg_release(&m);
    }
    free(text);
}

static void check_message(const struct recording *rec, const struct cli_message *m)
{
    struct buf text;
    buf_init(&text, 1 << 20);
    cli_message_text(m, &text);
    assert_string_equal(buf_cstr(&text), rec->text);
    buf_release(&text);
    assert_string_equal(m->stop_reason, rec->stop_reason);
    assert_int_equal(json_array_size(m->content), rec->blocks);
    assert_null(m->block);
    assert_false(m->too_large);
    assert_int_equal(m->input_tokens, rec->input);
    assert_int_equal(m->output_tokens, rec->output);
    assert_int_equal(m->cache_creation_tokens, rec->cache_creation);
    assert_int_equal(m->cache_read_tokens, rec->cache_read);
}

static void test_recordings(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(recordings); i++) {
        const struct recording *rec = &recordings[i];
        struct replay r = {.count = {0}};
        print_message("           %s\n", rec->name);
        cli_message_init(&r.message, 1 << 20);
        replay(rec, &r);
        assert_int_equal(r.count[CLI_CONTROL_RESPONSE], rec->responses);
        assert_int_equal(r.count[CLI_CONTROL_REQUEST], rec->requests);
        assert_int_equal(r.count[CLI_INIT], rec->init);
        assert_int_equal(r.count[CLI_STREAM], rec->stream);
        assert_int_equal(r.count[CLI_ASSISTANT_ERROR], rec->errors);
        assert_int_equal(r.count[CLI_API_RETRY], rec->retries);
        assert_int_equal(r.count[CLI_RESULT], 1);
        assert_int_equal(r.count[CLI_UNKNOWN] + r.count[CLI_GARBAGE], 0);
        check_message(rec, &r.message);
        cli_message_release(&r.message);
    }
}

/* Blocks as the program itself repeats them in its assistant lines. */
static void check_blocks_of(const char *name)
{
    char *text = read_recording(name);
    struct str rest = str_c(text);
    struct cli_message m;
    json_t *told = json_array(), *ours = NULL;
    cli_message_init(&m, 1 << 20);
    while (rest.len) {
        struct err err;
        json_t *j = json_parse(str_split(&rest, '\n'), &err);
        const json_t *event = json_object_get(j, "event");
        if (str_eq_c(json_get_str(event, "type"), "message_start"))
            json_array_clear(told);
        if (event)
            cli_message_event(&m, event);
        if (str_eq_c(json_get_str(j, "type"), "assistant"))
            json_array_extend(told, json_object_get(json_object_get(j, "message"), "content"));
        json_decref(j);
    }
    ours = m.content;
    assert_true(json_array_size(ours) > 0);
    assert_true(json_equal(ours, told));
    cli_message_release(&m);
    json_decref(told);
    free(text);
}

static void test_assembled_blocks_are_the_programs_own(void **state)
{
    (void)state;
    check_blocks_of("plain");
    check_blocks_of("thinking");
    check_blocks_of("interrupted");
    check_blocks_of("tools");
}

/* --- lines made up ------------------------------------------------------------------------ */

static void check_kind(struct str line, enum cli_kind kind)
{
    struct cli_msg m;
    cli_decode(line, &m);
    if (m.kind != kind)
        fail_msg("kind %d: %.*s", (int)m.kind, (int)(line.len < 200 ? line.len : 200), line.p);
    assert_int_equal(m.event != NULL, kind == CLI_STREAM);
    cli_msg_release(&m);
    cli_msg_release(&m);
}

static void test_decode_garbage(void **state)
{
    static const char *const rows[] = {
        "",
        " ",
        "this is not JSON",
        "null",
        "1",
        "\"type\"",
        "[]",
        "[{\"type\":\"result\"}]",
        "{}",
        "{\"type\":null}",
        "{\"type\":1}",
        "{\"type\":\"\"}",
        "{\"type\":{\"type\":\"result\"}}",
        "{\"subtype\":\"init\"}",
        "{\"type\":\"result\"",
        "{\"type\":\"result\"}x",
        "\xFF\xFE",
        "{\"type\":\"\xFF\"}",
        "{'type':'result'}",
        "Error parsing streaming input line: {",
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        check_kind(str_c(rows[i]), CLI_GARBAGE);
    check_kind(str_n(NULL, 0), CLI_GARBAGE);
    check_kind(STR("{\"type\":\"result\"}\0"), CLI_GARBAGE);
}

static void test_decode_kinds(void **state)
{
    static const struct {
        const char *line;
        enum cli_kind kind;
    } rows[] = {
        {"{\"type\":\"never_heard_of\"}", CLI_UNKNOWN},
        {"{\"type\":\"Result\"}", CLI_UNKNOWN},
        {"{\"type\":\"result\"}", CLI_RESULT},
        {" {\"type\" : \"result\" } \r", CLI_RESULT},
        {"{\"type\":\"stream_event\"}", CLI_OTHER},
        {"{\"type\":\"stream_event\",\"event\":null}", CLI_OTHER},
        {"{\"type\":\"stream_event\",\"event\":[]}", CLI_OTHER},
        {"{\"type\":\"stream_event\",\"event\":{}}", CLI_STREAM},
        {"{\"type\":\"system\"}", CLI_OTHER},
        {"{\"type\":\"system\",\"subtype\":7}", CLI_OTHER},
        {"{\"type\":\"system\",\"subtype\":\"init\"}", CLI_INIT},
        {"{\"type\":\"system\",\"subtype\":\"initialised\"}", CLI_OTHER},
        {"{\"type\":\"system\",\"subtype\":\"api_retry\"}", CLI_API_RETRY},
        {"{\"type\":\"assistant\"}", CLI_OTHER},
        {"{\"type\":\"assistant\",\"error\":null}", CLI_OTHER},
        {"{\"type\":\"assistant\",\"error\":\"\"}", CLI_OTHER},
        {"{\"type\":\"assistant\",\"error\":\"rate_limit\"}", CLI_ASSISTANT_ERROR},
        {"{\"error\":\"rate_limit\",\"type\":\"assistant\"}", CLI_ASSISTANT_ERROR},
        {"{\"type\":\"assistant\",\"message\":{\"error\":\"x\"}}", CLI_OTHER},
        {"{\"type\":\"assistant\",\"message\":{\"text\":\"say \\\"error\\\":\\\"x\\\"\"}}",
         CLI_OTHER},
        {"{\"type\":\"control_request\"}", CLI_CONTROL_REQUEST},
        {"{\"type\":\"control_response\"}", CLI_CONTROL_RESPONSE},
        {"{\"type\":\"control_response\",\"response\":[]}", CLI_CONTROL_RESPONSE},
        {"{\"type\":\"keep_alive\"}", CLI_OTHER},
        {"{\"type\":\"rate_limit_event\",\"subtype\":\"x\"}", CLI_OTHER},
        {"{\"type\":\"control_cancel_request\",\"request_id\":\"x\"}", CLI_OTHER},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        check_kind(str_c(rows[i].line), rows[i].kind);
}

static void test_decode_tool_results(void **state)
{
    static const struct {
        const char *line;
        size_t blocks; /* 0 = not tools' results */
    } rows[] = {
        {"{\"type\":\"user\",\"message\":{\"role\":\"user\",\"content\":[{\"tool_use_id\":\"t1\","
         "\"type\":\"tool_result\",\"content\":\"hi\"}]},\"parent_tool_use_id\":null}",
         1},
        {"{\"type\":\"user\",\"message\":{\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
         "{\"type\":\"tool_result\",\"tool_use_id\":\"t1\"}]}}",
         2},
        {"{\"type\":\"user\",\"message\":{\"content\":[{\"type\":\"tool_result\"}]},"
         "\"parent_tool_use_id\":\"toolu_1\"}",
         0}, /* a subagent's */
        {"{\"type\":\"user\",\"message\":{\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}}", 0},
        {"{\"type\":\"user\",\"message\":{\"content\":\"tool_result\"}}", 0},
        {"{\"type\":\"user\",\"message\":{\"content\":{\"type\":\"tool_result\"}}}", 0},
        {"{\"type\":\"user\",\"message\":null}", 0},
        {"{\"type\":\"user\"}", 0},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct cli_msg m;
        cli_decode(str_c(rows[i].line), &m);
        assert_int_equal(m.kind, rows[i].blocks ? CLI_TOOL_RESULTS : CLI_OTHER);
        assert_int_equal(json_array_size(m.results), rows[i].blocks);
        cli_msg_release(&m);
    }
}

static void test_decode_wrong_types_read_as_nothing(void **state)
{
    struct cli_msg m;
    (void)state;
    cli_decode(STR("{\"type\":\"result\",\"is_error\":\"yes\",\"num_turns\":\"1\",\"result\":{},"
                   "\"api_error_status\":\"429\",\"session_id\":1,\"terminal_reason\":null}"),
               &m);
    assert_int_equal(m.kind, CLI_RESULT);
    assert_false(m.is_error);
    assert_int_equal(m.num_turns, 0);
    assert_int_equal(m.api_error_status, 0);
    assert_int_equal(m.result.len + m.session_id.len + m.terminal_reason.len, 0);
    cli_msg_release(&m);
    cli_decode(STR("{\"type\":\"control_response\",\"response\":{\"subtype\":\"error\","
                   "\"request_id\":\"r\\u00001\",\"error\":\"no\"}}"),
               &m);
    assert_false(m.success);
    assert_str_equal(m.request_id, STR("r\0001"));
    assert_str_equal(m.error, STR("no"));
    cli_msg_release(&m);
}

/* Half of a surrogate pair, as JavaScript writes a text it cut in two. The line still counts: a
 * result that went unseen would leave its turn waiting for the time-out. */
static void test_decode_survives_lone_surrogates(void **state)
{
    static const struct {
        const char *json, *text;
    } rows[] = {
        {"a\\ud83d", "a\xEF\xBF\xBD"},
        {"\\ude00b", "\xEF\xBF\xBD"
                     "b"},
        {"\\ud83d\\ud83d\\ude00", "\xEF\xBF\xBD\xF0\x9F\x98\x80"},
        {"\\uD83Dx\\uDE00", "\xEF\xBF\xBDx\xEF\xBF\xBD"},
        {"\\\\ud83d \\ud83d", "\\ud83d \xEF\xBF\xBD"},
        {"\\ud83d\\n", "\xEF\xBF\xBD\n"},
        {"\\ud83d\\u0041", "\xEF\xBF\xBD"
                           "A"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct cli_msg m;
        char *line =
            x_printf("{\"type\":\"result\",\"result\":\"%s\",\"num_turns\":1}", rows[i].json);
        cli_decode(str_c(line), &m);
        assert_int_equal(m.kind, CLI_RESULT);
        assert_str_equal(m.result, str_c(rows[i].text));
        assert_int_equal(m.num_turns, 1);
        cli_msg_release(&m);
        free(line);
    }
    struct cli_msg m;
    cli_decode(STR("{\"type\":\"stream_event\",\"event\":{\"text\":\"\\ud83d\"}}"), &m);
    assert_int_equal(m.kind, CLI_STREAM);
    assert_str_equal(json_get_str(m.event, "text"), STR("\xEF\xBF\xBD"));
    cli_msg_release(&m);
    check_kind(STR("{\"type\":\"result\",\"result\":\"\\ud83"), CLI_GARBAGE);
    check_kind(STR("{\"type\":\"result\",\"result\":\"\\ud83d"), CLI_GARBAGE);
    check_kind(STR("{\"type\":\"result\",\"result\":\"\\"), CLI_GARBAGE);
}

/* Every beginning of a line, in memory of its exact size: reading on would be seen. */
static void check_beginnings(struct str line)
{
    struct cli_msg whole;
    cli_decode(line, &whole);
    for (size_t n = 0; n < line.len; n += n < 120 ? 1 : 37) {
        struct cli_msg m;
        char *part = x_malloc(n ? n : 1);
        memcpy(part, line.p, n);
        cli_decode(str_n(part, n), &m);
        if (m.kind == CLI_STREAM) /* its event was complete; what follows is not looked at */
            assert_true(json_equal(m.event, whole.event));
        else if (m.kind == CLI_RESULT) /* a good one, with its id, is not read to the end */
            assert_true(!m.is_error && str_eq(m.session_id, whole.session_id));
        else if (m.kind != CLI_GARBAGE) /* init, status, assistant: known by their first bytes */
            assert_true(m.kind == CLI_INIT || m.kind == CLI_OTHER);
        cli_msg_release(&m);
        free(part);
    }
    cli_msg_release(&whole);
}

static void test_decode_partial_lines(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(recordings); i++) {
        char *text = read_recording(recordings[i].name);
        struct str rest = str_c(text);
        while (rest.len)
            check_beginnings(str_split(&rest, '\n'));
        free(text);
    }
}

/* What looks like the end of an event or the id of a result, inside texts and objects. */
static void test_decode_is_not_misled_by_contents(void **state)
{
#define TAIL ",\"session_id\":\"s-1\",\"uuid\":\"u\"}"
    static const char *const events[] = {
        "{\"type\":\"a\",\"text\":\",\\\"session_id\\\":\\\"evil\\\"\"}",
        "{\"type\":\"a\",\"input\":{\"x\":1,\"session_id\":\"evil\"}}",
        "{\"type\":\"a\",\"session_id\":\"evil\"}",
        "{\"type\":\"a\",\"n\":[{},\"session_id\",\":\"]}",
        "{}",
    };
    (void)state;
    for (size_t round = 0; round < 2; round++) { /* the second time from what was kept */
        for (size_t i = 0; i < ARRAY_SIZE(events); i++) {
            struct err err;
            struct cli_msg m;
            char *line = x_printf("{\"type\":\"stream_event\",\"event\":%s" TAIL, events[i]);
            json_t *expected = json_parse(str_c(events[i]), &err);
            cli_decode(str_c(line), &m);
            assert_int_equal(m.kind, CLI_STREAM);
            assert_true(json_equal(m.event, expected));
            cli_msg_release(&m);
            json_decref(expected);
            free(line);
        }
    }
    struct cli_msg m;
    cli_decode(STR("{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":false,\"result\":"
                   "\"say ,\\\"session_id\\\":\\\"evil\\\"\"" TAIL),
               &m);
    assert_int_equal(m.kind, CLI_RESULT);
    assert_str_equal(m.session_id, STR("s-1"));
    cli_msg_release(&m);
    check_kind(STR("{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":false,"),
               CLI_GARBAGE);
    check_kind(STR("{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":false}"), CLI_RESULT);
    check_kind(STR("{\"type\":\"stream_event\",\"event\":" TAIL), CLI_GARBAGE);
    check_kind(STR("{\"type\":\"stream_event\",\"event\":[]" TAIL), CLI_OTHER);
}

/* Short events are parsed once and kept: many of them, over and over, each as it was written. */
static void test_decode_kept_events(void **state)
{
    (void)state;
    for (int i = 0; i < 3000; i++) {
        struct cli_msg m;
        char line[300];
        snprintf(line, sizeof(line),
                 "{\"type\":\"stream_event\",\"event\":{\"type\":\"content_block_stop\","
                 "\"index\":%d,\"pad\":\"%0*d\"}" TAIL,
                 i % 300, i % 170, 0);
        cli_decode(str_c(line), &m);
        assert_int_equal(m.kind, CLI_STREAM);
        assert_int_equal(json_get_int(m.event, "index", -1), i % 300);
        assert_int_equal(json_get_str(m.event, "pad").len, i % 170 ? i % 170 : 1);
        cli_msg_release(&m);
        if (i % 1000 == 999)
            cli_decode_forget();
    }
    cli_decode_forget();
}

static void test_decode_huge_and_deep(void **state)
{
    enum { SIZE = 32 << 20 };
    struct buf b;
    (void)state;
    buf_init(&b, (size_t)SIZE + 1000);
    buf_adds(&b, "{\"type\":\"result\",\"result\":\"");
    size_t head = b.len;
    assert_true(buf_reserve(&b, SIZE));
    memset(b.data + b.len, 'x', SIZE);
    buf_grow_len(&b, SIZE);
    buf_adds(&b, "\"}");
    struct cli_msg m;
    cli_decode(buf_str(&b), &m);
    assert_int_equal(m.kind, CLI_RESULT);
    assert_int_equal(m.result.len, SIZE);
    cli_msg_release(&m);
    memset(b.data + head - 1, '[', SIZE); /* not by stack overflow */
    check_kind(buf_str(&b), CLI_GARBAGE);
    buf_release(&b);
}

#endif
