/* cli_message_cases.h - part of test_cli.c: a message from its stream events, made up to be
 * awkward. Recorded ones are in cli_decode_cases.h. */
#ifndef CG_TESTS_CLI_MESSAGE_CASES_H
#define CG_TESTS_CLI_MESSAGE_CASES_H

#include "cli/protocol.h"

static void feed(struct cli_message *m, const char *json)
{
    struct err err;
    json_t *event = json_parse(str_c(json), &err);
    if (!event)
        fail_msg("%s: %s", err.msg, json);
    cli_message_event(m, event);
    json_decref(event);
}

#define START(id, in)                                                             \
    "{\"type\":\"message_start\",\"message\":{\"id\":\"" id "\",\"model\":\"m\"," \
    "\"content\":[],\"usage\":{\"input_tokens\":" #in ",\"output_tokens\":1,"     \
    "\"cache_creation_input_tokens\":3,\"cache_read_input_tokens\":4}}}"
#define TEXT_BLOCK                                                               \
    "{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":" \
    "\"text\",\"text\":\"\"}}"
#define TEXT(t) \
    "{\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"" t "\"}}"
#define STOP "{\"type\":\"content_block_stop\",\"index\":0}"

static void assert_content(const struct cli_message *m, const char *json)
{
    struct err err;
    json_t *expected = json_parse(str_c(json), &err);
    if (!json_equal(m->content, expected)) {
        char *got = json_dumps(m->content, 0);
        fail_msg("%s is not %s", got, json);
    }
    json_decref(expected);
}

static void test_message_all_kinds_of_blocks(void **state)
{
    struct cli_message m;
    (void)state;
    cli_message_init(&m, 10000);
    feed(&m, START("msg_1", 11));
    feed(&m,
         "{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"thinking\""
         ",\"thinking\":\"\",\"signature\":\"\"}}");
    feed(&m, "{\"type\":\"content_block_delta\",\"delta\":{\"type\":\"thinking_delta\","
             "\"thinking\":\"let \"}}");
    feed(&m, "{\"type\":\"content_block_delta\",\"delta\":{\"type\":\"thinking_delta\","
             "\"thinking\":\"me\"}}");
    feed(&m, "{\"type\":\"content_block_delta\",\"delta\":{\"type\":\"signature_delta\","
             "\"signature\":\"c2ln\"}}");
    feed(&m, STOP);
    feed(&m, TEXT_BLOCK);
    feed(&m, TEXT("a\\u0000\\n"));
    feed(&m, TEXT("\xF0\x9F\x98\x80"));
    feed(&m, STOP);
    feed(&m, "{\"type\":\"content_block_start\",\"index\":2,\"content_block\":{\"type\":"
             "\"tool_use\",\"id\":\"t1\",\"name\":\"f\",\"input\":{}}}");
    feed(&m, "{\"type\":\"content_block_delta\",\"delta\":{\"type\":\"input_json_delta\","
             "\"partial_json\":\"{\\\"a\\\": \\\"x\"}}");
    feed(&m, "{\"type\":\"content_block_delta\",\"delta\":{\"type\":\"input_json_delta\","
             "\"partial_json\":\"\\\\u0000\\\"}\"}}");
    feed(&m, STOP);
    feed(&m, "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\"},\"usage\":"
             "{\"output_tokens\":99}}");
    feed(&m, "{\"type\":\"message_stop\"}");
    assert_content(&m, "[{\"type\":\"thinking\",\"thinking\":\"let me\",\"signature\":\"c2ln\"},"
                       "{\"type\":\"text\",\"text\":\"a\\u0000\\n\xF0\x9F\x98\x80\"},"
                       "{\"type\":\"tool_use\",\"id\":\"t1\",\"name\":\"f\",\"input\":{\"a\":"
                       "\"x\\u0000\"}}]");
    assert_string_equal(m.id, "msg_1");
    assert_string_equal(m.model, "m");
    assert_string_equal(m.stop_reason, "tool_use");
    assert_int_equal(m.input_tokens, 11);
    assert_int_equal(m.output_tokens, 99);
    assert_int_equal(m.cache_creation_tokens, 3);
    assert_int_equal(m.cache_read_tokens, 4);
    cli_message_release(&m);
    cli_message_release(&m);
}

/* The program went on by itself, or tried again: only the last message is the answer. */
static void test_message_second_start_begins_anew(void **state)
{
    struct cli_message m;
    (void)state;
    cli_message_init(&m, 10000);
    feed(&m, START("msg_1", 11));
    feed(&m, TEXT_BLOCK);
    feed(&m, TEXT("first"));
    feed(&m, STOP);
    feed(&m, "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"max_tokens\"},\"usage\":"
             "{\"output_tokens\":50}}");
    feed(&m, START("msg_2", 22));
    assert_int_equal(json_array_size(m.content), 0);
    assert_string_equal(m.stop_reason, "");
    assert_int_equal(m.input_tokens, 22);
    assert_int_equal(m.output_tokens, 1);
    feed(&m, TEXT_BLOCK);
    feed(&m, TEXT("cut")); /* and once more, in the middle of a block */
    feed(&m, START("msg_3", 33));
    feed(&m, TEXT_BLOCK);
    feed(&m, TEXT("third"));
    feed(&m, STOP);
    assert_content(&m, "[{\"type\":\"text\",\"text\":\"third\"}]");
    assert_string_equal(m.id, "msg_3");
    cli_message_release(&m);
}

static void test_message_events_out_of_order(void **state)
{
    struct cli_message m;
    (void)state;
    cli_message_init(&m, 10000);
    feed(&m, STOP);
    feed(&m, TEXT("before any block"));
    feed(&m, "{\"type\":\"content_block_delta\",\"delta\":{\"type\":\"signature_delta\","
             "\"signature\":\"x\"}}");
    feed(&m, STOP);
    assert_content(&m, "[]");
    feed(&m, TEXT_BLOCK);
    feed(&m, TEXT("one"));
    feed(&m, TEXT_BLOCK); /* a stop was lost */
    feed(&m, TEXT("two"));
    feed(&m, STOP);
    feed(&m, STOP);
    assert_content(&m,
                   "[{\"type\":\"text\",\"text\":\"one\"},{\"type\":\"text\",\"text\":\"two\"}]");
    feed(&m, "{\"type\":\"content_block_start\"}");
    feed(&m, TEXT("nowhere"));
    feed(&m, STOP);
    feed(&m, "{\"type\":\"message_delta\"}");
    feed(&m, "{\"type\":\"message_start\"}");
    feed(&m, "{\"type\":\"ping\"}");
    feed(&m, "{}");
    assert_content(&m, "[]");
    cli_message_release(&m);
}

static void test_message_initial_text_and_unknown_blocks(void **state)
{
    struct cli_message m;
    (void)state;
    cli_message_init(&m, 10000);
    feed(&m, "{\"type\":\"content_block_start\",\"content_block\":{\"type\":\"text\",\"text\":"
             "\"given \"}}");
    feed(&m, TEXT("and more"));
    feed(&m, STOP);
    feed(&m, "{\"type\":\"content_block_start\",\"content_block\":{\"type\":\"redacted_thinking\","
             "\"data\":\"xyz\"}}");
    feed(&m, STOP);
    feed(&m, "{\"type\":\"content_block_start\",\"content_block\":{\"type\":\"tool_use\",\"id\":"
             "\"t\",\"name\":\"f\",\"input\":{}}}");
    feed(&m, STOP);
    assert_content(&m, "[{\"type\":\"text\",\"text\":\"given and more\"},"
                       "{\"type\":\"redacted_thinking\",\"data\":\"xyz\"},"
                       "{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"f\",\"input\":{}}]");
    cli_message_release(&m);
}

static void test_message_long_names_are_cut(void **state)
{
    struct cli_message m;
    char json[2000];
    (void)state;
    snprintf(json, sizeof(json),
             "{\"type\":\"message_start\",\"message\":{\"id\":\"%0500d\",\"model\":\"%0500d\"}}", 0,
             0);
    cli_message_init(&m, 10000);
    feed(&m, json);
    assert_int_equal(strlen(m.id), sizeof(m.id) - 1);
    assert_int_equal(strlen(m.model), sizeof(m.model) - 1);
    snprintf(json, sizeof(json),
             "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"%0500d\"}}", 0);
    feed(&m, json);
    assert_int_equal(strlen(m.stop_reason), sizeof(m.stop_reason) - 1);
    cli_message_release(&m);
}

static void test_message_limit(void **state)
{
    struct cli_message m;
    (void)state;
    cli_message_init(&m, 10);
    feed(&m, START("msg_1", 1));
    feed(&m, TEXT_BLOCK);
    feed(&m, TEXT("0123456789"));
    feed(&m, STOP);
    assert_false(m.too_large);
    feed(&m, TEXT_BLOCK);
    feed(&m, TEXT("0123456789"));
    feed(&m, TEXT("x"));
    feed(&m, STOP);
    assert_true(m.too_large);
    feed(&m, TEXT_BLOCK);
    feed(&m, TEXT("fits"));
    feed(&m, STOP);
    assert_true(m.too_large); /* what is missing stays missing */
    struct buf out;
    buf_init(&out, 12);
    cli_message_text(&m, &out);
    assert_false(buf_ok(&out));
    buf_release(&out);
    cli_message_release(&m);
}

/* Some fifty thousand deltas of one byte: linear, and every byte there. */
static void test_message_many_small_deltas(void **state)
{
    struct cli_message m;
    struct err err;
    (void)state;
    json_t *delta = json_parse(STR(TEXT("x")), &err);
    cli_message_init(&m, 100000);
    feed(&m, TEXT_BLOCK);
    for (int i = 0; i < 50000; i++)
        cli_message_event(&m, delta);
    feed(&m, STOP);
    assert_int_equal(json_get_str(json_array_get(m.content, 0), "text").len, 50000);
    json_decref(delta);
    cli_message_release(&m);
}

/* --- told again ---------------------------------------------------------------------------- */

static const char told_head[] =
    "{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"m\",\"content\":[],"
    "\"stop_reason\":\"tool_use\",\"stop_sequence\":null,\"container\":{\"id\":\"c\"},"
    "\"context_management\":{\"applied_edits\":[]},\"usage\":{\"input_tokens\":11,"
    "\"cache_creation_input_tokens\":3,\"cache_read_input_tokens\":4,\"output_tokens\":99,"
    "\"service_tier\":\"standard\",\"server_tool_use\":{\"web_search_requests\":0}}}";
static const char told_content[] =
    "[{\"type\":\"thinking\",\"thinking\":\"let me\",\"signature\":\"c2ln\"},"
    "{\"type\":\"redacted_thinking\",\"data\":\"xyz\"},"
    "{\"type\":\"text\",\"text\":\"a\\u0000\\n\xF0\x9F\x98\x80\",\"citations\":[{\"type\":"
    "\"char_location\",\"cited_text\":\"x\"},{\"type\":\"page_location\",\"cited_text\":\"y\"}]},"
    "{\"type\":\"text\",\"text\":\"plain\",\"citations\":null},"
    "{\"type\":\"text\",\"text\":\"\"},"
    "{\"type\":\"tool_use\",\"id\":\"t1\",\"name\":\"f\",\"input\":{\"b\":\"x\\u0000\",\"a\":"
    "[1.5,1e300,9007199254740993,null,{}]},\"caller\":{\"type\":\"direct\"}},"
    "{\"type\":\"tool_use\",\"id\":\"t2\",\"name\":\"g\",\"input\":{}},"
    "{\"type\":\"some_new_block\",\"text\":\"t\",\"n\":1}]";

static json_t *told_events(json_t **ret_head, json_t **ret_content)
{
    struct err err;
    struct cli_message m = {0};
    m.head = *ret_head = json_parse(STR(told_head), &err);
    m.content = *ret_content = json_parse(STR(told_content), &err);
    assert_non_null(m.head);
    assert_non_null(m.content);
    return cli_message_events(&m);
}

/* Put together from these events, the message is the same again; what they are made from is not
 * changed. */
static void test_message_told_again(void **state)
{
    struct err err;
    struct cli_message m;
    size_t i;
    json_t *event, *head, *content;
    (void)state;
    json_t *events = told_events(&head, &content);
    cli_message_init(&m, 10000);
    json_array_foreach(events, i, event) cli_message_event(&m, event);
    assert_content(&m, told_content);
    json_t *wanted = json_parse(STR(told_head), &err);
    if (!json_equal(m.head, wanted))
        fail_msg("%s", json_dumps(m.head, 0));
    assert_true(json_equal(head, wanted));
    assert_string_equal(m.stop_reason, "tool_use");
    assert_int_equal(m.output_tokens, 99);
    assert_null(m.block);
    json_decref(m.content);
    m.content = json_incref(content);
    assert_content(&m, told_content);
    cli_message_release(&m);
    json_decref(wanted);
    json_decref(events);
    json_decref(head);
    json_decref(content);
}

/* And nothing is said before its time. */
static void test_message_told_again_is_a_stream(void **state)
{
    json_t *head, *content;
    (void)state;
    json_t *events = told_events(&head, &content);
    struct buf b;
    buf_init(&b, 100000);
    json_array_remove(content, 0);
    while (json_array_size(content) > 1)
        json_array_remove(content, 1); /* redacted_thinking alone */
    struct cli_message m = {.head = head, .content = content};
    json_t *few = cli_message_events(&m);
    json_write(&b, few);
    assert_string_equal(
        buf_cstr(&b),
        "[{\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":"
        "\"assistant\",\"model\":\"m\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,"
        "\"container\":null,\"context_management\":null,\"usage\":{\"input_tokens\":11,"
        "\"cache_creation_input_tokens\":3,\"cache_read_input_tokens\":4,\"output_tokens\":0,"
        "\"service_tier\":\"standard\",\"server_tool_use\":{\"web_search_requests\":0}}}},"
        "{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":"
        "\"redacted_thinking\",\"data\":\"xyz\"}},{\"type\":\"content_block_stop\",\"index\":0},"
        "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\",\"stop_sequence\":"
        "null,"
        "\"container\":{\"id\":\"c\"}},\"usage\":{\"input_tokens\":11,"
        "\"cache_creation_input_tokens\":3,\"cache_read_input_tokens\":4,\"output_tokens\":99,"
        "\"server_tool_use\":{\"web_search_requests\":0}},\"context_management\":"
        "{\"applied_edits\":[]}},{\"type\":\"message_stop\"}]");
    buf_clear(&b);
    for (size_t i = 1; i < 5; i++) /* the thoughts */
        json_write(&b, json_array_get(events, i));
    assert_string_equal(
        buf_cstr(&b),
        "{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"thinking\","
        "\"thinking\":\"\",\"signature\":\"\"}}{\"type\":\"content_block_delta\",\"index\":0,"
        "\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"let me\"}}{\"type\":"
        "\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"signature_delta\",\"signature\":"
        "\"c2ln\"}}{\"type\":\"content_block_stop\",\"index\":0}");
    buf_release(&b);
    json_decref(few);
    json_decref(events);
    json_decref(head);
    json_decref(content);
}

#endif
