/* test_anthropic.c - bodies of POST /v1/messages: what a good one becomes, what is refused and in
 * which words; cache marks as the relay writes them; and a message's end as it is put together. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "api/anthropic/messages.h"
#include "cli/protocol.h"
#include "upstream/rewrite.h"

#define HEAD      "{\"model\":\"claude-x\",\"max_tokens\":9,"
#define ASK       "\"messages\":[{\"role\":\"user\",\"content\":\"q\"}]"
#define USER      "{\"role\":\"user\",\"content\":"
#define MODEL     "{\"role\":\"assistant\",\"content\":"
#define CALL      "{\"type\":\"tool_use\",\"id\":\"t1\",\"name\":\"f\",\"input\":{\"a\":1.5}}"
#define KEPT_FILE "{\"type\":\"file\",\"file_id\":\"f\"}"
#define MARK      "\"cache_control\":{\"type\":\"ephemeral\"}"

static struct chat_request *parse_good(const char *body)
{
    struct err err = {0};
    struct chat_request *r = messages_parse_text(str_c(body), &err);
    if (!r)
        fail_msg("%s: %s", body, err.msg);
    return r;
}

static void assert_json(const json_t *j, const char *expected)
{
    struct err err;
    json_t *e = json_parse(str_c(expected), &err);
    assert_non_null(e);
    if (!json_equal(j, e)) {
        char *got = json_dumps(j, JSON_ENCODE_ANY);
        fail_msg("%s is not %s", got ? got : "NULL", expected);
    }
    json_decref(e);
}

/* --- good --------------------------------------------------------------------------------- */

static void the_smallest_body(void **state)
{
    (void)state;
    struct chat_request *r = parse_good(HEAD ASK "}");
    assert_string_equal(r->model, "claude-x");
    assert_int_equal(r->max_tokens, 9);
    assert_false(r->stream);
    assert_false(r->with_session);
    assert_true(r->exact);
    assert_null(r->system);
    assert_json(r->history, "[]");
    assert_json(r->content, "[{\"type\":\"text\",\"text\":\"q\"}]");
    /* what the claude program would say by itself is taken out */
    assert_true(json_is_null(json_object_get(r->params, "temperature")));
    assert_true(json_is_null(json_object_get(r->params, "thinking")));
    assert_true(json_is_null(json_object_get(r->params, "tools")));
    assert_null(json_object_get(r->params, "metadata"));
    assert_null(json_object_get(r->params, "messages"));
    assert_string_equal(json_string_value(json_object_get(r->params, "model")), "claude-x");
    chat_request_free(r);
}

static void parameters_pass_as_they_came(void **state)
{
    (void)state;
    struct chat_request *r = parse_good(
        HEAD ASK
        ",\"stream\":true,\"temperature\":0.25,\"top_k\":null,\"metadata\":{\"user_id\":\"u\"},"
        "\"system\":\"s\",\"stop_sequences\":[\"a\"],\"tools\":[{\"name\":\"f\",\"input_schema\":"
        "{\"anyOf\":[]}," MARK "}],\"tool_choice\":{\"type\":\"any\"}}");
    assert_true(r->stream);
    assert_json(json_object_get(r->params, "temperature"), "0.25");
    assert_true(json_is_null(json_object_get(r->params, "top_k")));
    assert_json(json_object_get(r->params, "metadata"), "{\"user_id\":\"u\"}");
    assert_json(json_object_get(r->params, "stop_sequences"), "[\"a\"]");
    assert_json(json_object_get(r->params, "tool_choice"), "{\"type\":\"any\"}");
    assert_json(json_object_get(r->params, "tools"),
                "[{\"name\":\"f\",\"input_schema\":{\"anyOf\":[]}," MARK "}]");
    assert_json(r->system, "[{\"type\":\"text\",\"text\":\"s\"}]");
    chat_request_free(r);
}

static void neighbours_of_one_role_are_one_message(void **state)
{
    (void)state;
    struct chat_request *r = parse_good(
        HEAD "\"messages\":[" USER "\"a\"}," USER "[{\"type\":\"text\",\"text\":\"b\"}]}," MODEL
             "[" CALL "]}," MODEL "\"c\"}," USER
             "[{\"type\":\"tool_result\",\"tool_use_id\":\"t1\",\"content\":\"r\"}]}," USER
             "\"d\"}]}");
    assert_json(r->history,
                "[" USER "[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":"
                "\"b\"}]}," MODEL "[" CALL ",{\"type\":\"text\",\"text\":\"c\"}]}]");
    assert_json(r->content, "[{\"type\":\"tool_result\",\"tool_use_id\":\"t1\",\"content\":\"r\"},"
                            "{\"type\":\"text\",\"text\":\"d\"}]");
    chat_request_free(r);
}

static void a_mark_comes_last_and_null_goes(void **state)
{
    (void)state;
    struct chat_request *r =
        parse_good(HEAD "\"messages\":[" USER "[{" MARK
                        ",\"type\":\"text\",\"citations\":null,\"text\":\"a\"}]}]}");
    char *text = json_dumps(r->content, JSON_COMPACT);
    assert_string_equal(text, "[{\"type\":\"text\",\"text\":\"a\"," MARK "}]");
    free(text);
    chat_request_free(r);
}

static void ignored_parameters_add_up(void **state)
{
    (void)state;
    struct chat_request *r = parse_good(HEAD ASK "}");
    messages_ignore(r, "user");
    messages_ignore(r, "seed");
    assert_string_equal(r->ignored, "user,seed");
    chat_request_free(r);
}

/* --- bad ---------------------------------------------------------------------------------- */

static const struct {
    const char *body, *message;
} bad[] = {
    {"", "not valid JSON"},
    {"[]", "The request body must be a JSON object"},
    {"{}", "max_tokens: Field required"},
    {"{\"max_tokens\":1}", "model: Field required"},
    {"{\"model\":\"\",\"max_tokens\":1," ASK "}", "model: Input should be a string"},
    {"{\"model\":\"a b\",\"max_tokens\":1," ASK "}", "model: may hold letters"},
    {"{\"model\":\"default\",\"max_tokens\":1," ASK "}", "model: must name a model"},
    {"{\"model\":\"m\",\"max_tokens\":0," ASK "}", "max_tokens: Input should be between 1 and"},
    {"{\"model\":\"m\",\"max_tokens\":1.5," ASK "}", "max_tokens: Input should be a valid integer"},
    {HEAD ASK ",\"stream\":1}", "stream: Input should be a valid boolean"},
    {HEAD ASK ",\"n\":1}", "n: Extra inputs are not permitted"},
    {HEAD ASK ",\"fallbacks\":[]}", "fallbacks: is not supported by this server"},
    {HEAD ASK ",\"system\":1}", "system: Input should be a valid string or list"},
    {HEAD ASK ",\"tools\":{}}", "tools: Input should be a valid list"},
    {HEAD ASK ",\"tools\":[1]}", "tools.0: Input should be a valid dictionary"},
    {HEAD ASK ",\"tools\":[{\"name\":\"f\"}]}", "tools.0.input_schema: Field required"},
    {HEAD "\"messages\":1}", "messages: Input should be a valid list"},
    {HEAD "\"messages\":[]}", "messages: at least one message is required"},
    {HEAD "\"messages\":[1]}", "messages.0: Input should be a valid dictionary"},
    {HEAD "\"messages\":[{\"content\":\"x\"}]}",
     "messages.0.role: Input should be 'user', 'assistant'"},
    {HEAD "\"messages\":[{\"role\":\"user\"}]}", "messages.0.content: Field required"},
    {HEAD "\"messages\":[{\"role\":\"tool\",\"content\":\"x\"}]}",
     "messages.0.role: Input should be 'user', 'assistant' or 'system'"},
    {HEAD "\"messages\":[{\"role\":\"system\",\"content\":[]}]}",
     "messages.0: system messages must have non-empty content"},
    {HEAD "\"messages\":[" USER "\"x\"}," MODEL "[]}," USER "\"y\"}]}",
     "messages.1: assistant messages must have non-empty content"},
    {HEAD "\"messages\":[" USER "\"x\"}," USER "\"\"}]}",
     "messages.1.content: text content blocks must be non-empty"},
    {HEAD "\"messages\":[" USER "[]}]}", "messages.0: user messages must have non-empty content"},
    {HEAD "\"messages\":[" USER "[1]}]}",
     "messages.0.content.0: Input should be a valid dictionary"},
    {HEAD "\"messages\":[" USER "[{}]}]}", "messages.0.content.0.type: Field required"},
    {HEAD "\"messages\":[" USER "[{\"type\":\"new\",\"cache_control\":{\"type\":\"x\"}}]}]}",
     "messages.0.content.0.cache_control.type: Input should be 'ephemeral'"},
    {HEAD "\"messages\":[" USER "[{\"type\":\"text\",\"text\":7}]}]}",
     "messages.0.content.0.text: Input should be a valid string"},
    {HEAD "\"messages\":[" USER "[{\"type\":\"image\",\"source\":{\"type\":\"x\"}}]}]}",
     "messages.0.content.0.source.type: Input should be"},
    {HEAD "\"messages\":[" USER
          "[{\"type\":\"text\",\"text\":\"x\",\"cache_control\":{\"type\":\"x\"}}]}]}",
     "messages.0.content.0.cache_control.type: Input should be 'ephemeral'"},
    {HEAD "\"messages\":[" USER "\"x\"}," MODEL "[" CALL "," CALL "]}," USER "\"y\"}]}",
     "messages.1.content.1: `tool_use` ids must be unique"},
    /* what lies in the operator's account */
    {HEAD "\"messages\":[" USER "[{\"type\":\"image\",\"source\":" KEPT_FILE "}]}]}",
     "messages.0.content.0.source.file_id: is not supported by this server"},
    {HEAD "\"messages\":[" USER "\"x\"}," MODEL "[" CALL "]}," USER
          "[{\"type\":\"tool_result\",\"tool_use_id\":\"t1\",\"content\":[{\"type\":\"document\","
          "\"source\":" KEPT_FILE "}]}]}]}",
     "messages.2.content.0.content.0.source.file_id: is not supported by this server"},
    {HEAD "\"messages\":[" USER "[{\"type\":\"container_upload\",\"file_id\":\"f\"}]}]}",
     "messages.0.content.0.file_id: is not supported by this server"},
    {HEAD "\"messages\":[" USER "[{\"type\":\"hologram\",\"a\":[{\"file_id\":\"f\"}]}]}]}",
     "messages.0.content.0.a.0.file_id: is not supported by this server"},
    {HEAD "\"messages\":[" USER "\"x\"}," MODEL "[{\"type\":\"new_tool_result\",\"content\":["
          "{\"type\":\"document\",\"source\":" KEPT_FILE "}]}]}," USER "\"y\"}]}",
     "messages.1.content.0.content.0.source.file_id: is not supported by this server"},
    {HEAD ASK ",\"system\":[{\"type\":\"document\",\"source\":" KEPT_FILE "}]}",
     "system.0.source.file_id: is not supported by this server"},
    {HEAD ASK ",\"container\":\"c\"}", "container: is not supported by this server"},
    {HEAD ASK ",\"container\":{\"id\":\"c\"}}", "container.id: is not supported by this server"},
    {HEAD ASK ",\"container\":{\"skills\":[{\"type\":\"anthropic\"},{\"type\":\"custom\"}]}}",
     "container.skills.1.type: Input should be 'anthropic'"},
};

static void what_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct err err = {0};
        struct chat_request *r = messages_parse_text(str_c(bad[i].body), &err);
        if (r || strncmp(err.msg, bad[i].message, strlen(bad[i].message)) != 0)
            fail_msg("%s: %s", bad[i].body, r ? "accepted" : err.msg);
        assert_int_equal(err.code, ERR_INVALID);
    }
}

/* Where an id opens nothing, it passes: what a tool is called with, what one has told. */
static void ids_that_open_nothing_pass(void **state)
{
    (void)state;
    static const char *const good[] = {
        HEAD "\"messages\":[" USER "\"x\"}," MODEL
             "[{\"type\":\"tool_use\",\"id\":\"t1\",\"name\":\"f\",\"input\":" KEPT_FILE "}]}," USER
             "[{\"type\":\"tool_result\",\"tool_use_id\":\"t1\"}]}]}",
        HEAD
        "\"messages\":[" USER "\"x\"}," MODEL
        "[{\"type\":\"server_tool_use\",\"id\":\"s\",\"name\":\"n\",\"input\":{}},"
        "{\"type\":\"code_execution_tool_result\",\"tool_use_id\":\"s\",\"content\":{\"content\":"
        "[{\"type\":\"code_execution_output\",\"file_id\":\"f\"}]}},{\"type\":\"text\","
        "\"text\":\"y\",\"citations\":[{\"file_id\":\"f\"}]}]}," USER "\"z\"}]}",
        HEAD ASK ",\"container\":{\"id\":null,\"skills\":[{\"type\":\"anthropic\","
                 "\"skill_id\":\"pptx\"}]}}",
        HEAD ASK ",\"container\":null}",
    };
    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        chat_request_free(parse_good(good[i]));
}

/* Asked for a count of it, the API would tell how long somebody else's file is. */
static void counts_know_the_same_rule(void **state)
{
    (void)state;
    struct err err;
    char *model = NULL;
    static const char good[] = "{\"model\":\"m\",\"messages\":[" USER "\"x\"}]}";
    static const char bad_one[] = "{\"model\":\"m\",\"messages\":[" USER
                                  "[{\"type\":\"document\",\"source\":" KEPT_FILE "}]}]}";
    assert_int_equal(messages_check_count(str_c(good), &model, &err), 0);
    free(model);
    assert_int_equal(messages_check_count(str_c(bad_one), &model, &err), -1);
    assert_string_equal(err.field, "messages.0.content.0.source.file_id");
}

/* A history is told the program message by message, so a long one is not told. */
static void long_histories_go_around_the_program(void **state)
{
    (void)state;
    for (int history = 40; history <= 42; history += 2) {
        struct buf b;
        buf_init(&b, 16384);
        buf_adds(&b, HEAD "\"messages\":[");
        for (int i = 0; i < history / 2; i++)
            buf_adds(&b, USER "\"x\"}," MODEL "\"y\"},");
        buf_adds(&b, USER "\"z\"}]}");
        struct chat_request *r = parse_good(buf_cstr(&b));
        assert_int_equal(json_array_size(r->history), history == 40 ? 40 : 0);
        assert_int_equal(json_array_size(r->messages), history == 40 ? 0 : 43);
        chat_request_free(r);
        buf_release(&b);
    }
}

static void threads_are_refused_so_that_sdks_go_on_without(void **state)
{
    (void)state;
    struct err err = {0};
    assert_null(messages_parse_text(str_c(HEAD ASK ",\"thread\":{}}"), &err));
    assert_string_equal(
        err.anthropic_details,
        "{\"error_code\":\"thread_unsupported_request\",\"unsupported\":[\"thread\"]}");
}

/* Broken bodies: each is refused or parsed, and nothing is left behind (the sanitizers look). */
static void broken_bodies(void **state)
{
    (void)state;
    static const char seed[] = HEAD
        "\"system\":[{\"type\":\"text\",\"text\":\"s\"}],\"messages\":[" USER "\"x\"}," MODEL
        "[" CALL "]}," USER
        "[{\"type\":\"tool_result\",\"tool_use_id\":\"t1\",\"content\":[{\"type\":\"image\","
        "\"source\":{\"type\":\"url\",\"url\":\"u\"}}]," MARK "}]}],\"tools\":[{\"name\":\"f\","
        "\"input_schema\":{}}]}";
    static const char other[] = "{}[]\",:0x\\";
    char copy[sizeof(seed)];
    for (size_t i = 0; i < sizeof(seed) - 1; i++) {
        for (size_t k = 0; k < sizeof(other) - 1; k++) {
            struct err err = {0};
            memcpy(copy, seed, sizeof(seed));
            copy[i] = other[k];
            chat_request_free(messages_parse_text(str_n(copy, sizeof(seed) - 1), &err));
        }
        struct err err = {0};
        assert_null(messages_parse_text(str_n(seed, i), &err));
    }
}

/* --- what the claude program is not told ---------------------------------------------------- */

#define PICTURE      "{\"type\":\"image\",\"source\":{\"type\":\"url\",\"url\":\"u\"}}"
#define THOUGHT      "{\"type\":\"thinking\",\"thinking\":\"x\",\"signature\":\"y\"}"
#define RESULT(more) "{\"type\":\"tool_result\",\"tool_use_id\":\"t1\"" more "}"

/* messages: as the client wrote them. */
static const struct {
    const char *messages;
    bool awkward;
} told[] = {
    {USER "\"x\"}", false},
    {USER "\"x\"}," USER "\"y\"}", false},
    {USER "\"x\"}," MODEL "\"y\"}," USER "\"z\"}", false},
    {USER "\"x\"}," MODEL "[" THOUGHT "," CALL "]}," USER "[" RESULT("") "]}", false},
    {USER "\"x\"}," MODEL "[" CALL "]}," USER
          "[" RESULT("") ",{\"type\":\"text\",\"text\":\"y\"}]}",
     false},
    {USER "\"x\"}," MODEL "[" CALL "]}," USER
          "[{\"type\":\"text\",\"text\":\"y\"}," RESULT("") "]}",
     true},
    {USER "\"x\"}," MODEL "[" CALL "]}," USER
          "[" RESULT(",\"is_error\":true,\"content\":[{\"type\":\"text\",\"text\":\"y\"}]") "]}",
     false},
    {USER "\"x\"}," MODEL "[" CALL "]}," USER
          "[" RESULT(",\"is_error\":true,\"content\":[" PICTURE "]") "]}",
     true},
    {USER "\"x\"}," MODEL "[" CALL "]}," USER "[" RESULT(",\"content\":[" PICTURE "]") "]}", false},
    {USER "\"x\"}," MODEL "\"y\"}", true},
    {USER "\"x\"}," MODEL "\"\"}", true},
    {USER "\"x\"}," MODEL "[" CALL "]}", true},
    {MODEL "\"x\"}," USER "\"y\"}", true},
    {USER "\"x\"},{\"role\":\"system\",\"content\":\"y\"}", true},
    {"{\"role\":\"system\",\"content\":\"y\"}", true},
    {USER "\"x\"}," MODEL "[" THOUGHT "]}," USER "\"y\"}", true},
    {USER "[" PICTURE "]}", false},
    {USER "[{\"type\":\"image\",\"source\":{\"type\":\"base64\",\"media_type\":\"image/png\","
          "\"data\":\"eA==\"}}]}",
     true},
    {USER
     "[{\"type\":\"document\",\"source\":{\"type\":\"content\",\"content\":[{\"type\":\"image\","
     "\"source\":{\"type\":\"base64\",\"media_type\":\"image/png\",\"data\":\"eA==\"}}]}}]}",
     true},
    {USER
     "\"x\"}," MODEL "[{\"type\":\"server_tool_use\",\"id\":\"s\",\"name\":\"n\",\"input\":{}},"
     "{\"type\":\"web_search_tool_result\",\"tool_use_id\":\"s\",\"content\":[]}]}," USER "\"y\"}",
     false},
    {USER "\"x\"}," MODEL
          "[{\"type\":\"server_tool_use\",\"id\":\"s\",\"name\":\"n\",\"input\":{}}]}," USER
          "\"y\"}",
     true},
    {USER "[{\"type\":\"hologram\",\"x\":1}]}", true},
    {USER "[" THOUGHT "]}", true},
};

/* What is kept from the program is passed on as it is, and a question of our own told instead. */
static void awkward_conversations_go_around_the_program(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(told); i++) {
        char *body = x_printf(HEAD "\"messages\":[%s]}", told[i].messages);
        char *want = x_printf("[%s]", told[i].messages);
        struct chat_request *r = parse_good(body);
        char *got = json_dumps(r->messages, JSON_COMPACT);
        if (!r->messages != !told[i].awkward)
            fail_msg("%s: %s", told[i].messages, r->messages ? "kept from it" : "told");
        if (r->messages) {
            assert_string_equal(got, want);
            assert_int_equal(json_array_size(r->history), 0);
            assert_int_equal(json_array_size(r->content), 1);
        } else {
            assert_true(json_array_size(r->content) > 0);
        }
        free(got);
        free(want);
        free(body);
        chat_request_free(r);
    }
}

/* By how much there is of it: counted over all messages. */
static void much_goes_around_the_program(void **state)
{
    (void)state;
    for (size_t count = 100; count <= 101; count++) {
        AUTO(buf_release) struct buf b;
        buf_init(&b, 65536);
        buf_adds(&b, HEAD "\"messages\":[" USER "[" PICTURE "]}," MODEL "\"y\"}," USER "[");
        for (size_t i = 1; i < count; i++)
            buf_printf(&b, "%s" PICTURE, i > 1 ? "," : "");
        buf_adds(&b, "]}]}");
        struct chat_request *r = parse_good(buf_cstr(&b));
        assert_int_equal(r->messages != NULL, count > 100);
        chat_request_free(r);
    }
    for (size_t size = (1 << 20) - 100; size <= (1 << 20); size += 100) {
        char *text = x_malloc(size + 1);
        memset(text, 'x', size);
        text[size] = '\0';
        char *body = x_printf(HEAD "\"messages\":[" USER "\"%s\"}]}", text);
        struct chat_request *r = parse_good(body);
        assert_int_equal(r->messages != NULL, size == 1 << 20);
        chat_request_free(r);
        free(body);
        free(text);
    }
}

static void a_systems_unknown_block_concerns_nobody_else(void **state)
{
    (void)state;
    struct chat_request *r = parse_good(HEAD ASK ",\"system\":[{\"type\":\"new\"}]}");
    assert_null(r->messages);
    assert_string_equal(json_get_str(json_array_get(r->system, 0), "type").p, "new");
    chat_request_free(r);
}

/* --- cache marks in the relay ------------------------------------------------------------- */

static void assert_exact(const char *body, const char *system, const char *mark, const char *want)
{
    struct err err = {0};
    struct buf out;
    AUTO(json_unref_p) json_t *blocks = system ? json_parse(str_c(system), &err) : NULL;
    AUTO(json_unref_p) json_t *last = mark ? json_parse(str_c(mark), &err) : NULL;
    buf_init(&out, 65536);
    struct rewrite_opts how = {.system = blocks, .exact = true, .last_mark = last};
    assert_int_equal(rewrite_request(str_c(body), &how, &out, &err), 0);
    assert_string_equal(buf_cstr(&out), want);
    buf_release(&out);
}

static void the_programs_marks_go(void **state)
{
    (void)state;
    assert_exact("{\"system\":[{\"text\":\"id\"," MARK "}],\"messages\":[{\"role\":\"user\","
                 "\"content\":[{\"text\":\"q\"," MARK "}]}]}",
                 NULL, NULL,
                 "{\"system\":[{\"text\":\"id\"}],\"messages\":[{\"role\":\"user\",\"content\":"
                 "[{\"text\":\"q\"}]}]}");
    assert_exact("{\"system\":[{\"text\":\"id\"," MARK "}],\"messages\":[]}",
                 "[{\"text\":\"own\"," MARK "}]", NULL,
                 "{\"messages\":[],\"system\":[{\"text\":\"id\"},{\"text\":\"own\"," MARK "}]}");
}

static void assert_in_place(const char *body, bool exact, const char *messages, const char *want)
{
    struct err err = {0};
    struct buf out;
    AUTO(json_unref_p) json_t *given = json_parse(str_c(messages), &err);
    AUTO(json_unref_p) json_t *before = json_deep_copy(given);
    struct rewrite_opts how = {.messages = given, .exact = exact};
    buf_init(&out, 65536);
    assert_int_equal(rewrite_request(str_c(body), &how, &out, &err), 0);
    assert_string_equal(buf_cstr(&out), want);
    assert_true(json_equal(given, before)); /* it may be sent once more */
    buf_release(&out);
}

#define PROGRAMS                                                                  \
    "{\"messages\":[{\"role\":\"user\",\"content\":[{\"text\":\"stand-in\"," MARK \
    "}]}],\"model\":\"m\"}"
#define HERS "{\"model\":\"m\",\"messages\":"

static void messages_take_the_place_of_the_programs(void **state)
{
    (void)state;
    static const char one[] =
        "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"q\"}]}]";
    static const char text[] = "[{\"role\":\"assistant\",\"content\":\"a\"}]";
    static const char thought[] = "[{\"role\":\"assistant\",\"content\":[" THOUGHT "]}]";
    static const char number[] = "[{\"n\":0.30000000000000004}]";
    assert_in_place(PROGRAMS, true, one,
                    HERS "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"q\"}]}]}");
    assert_in_place(PROGRAMS, false, one,
                    HERS "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"q\"," MARK
                         "}]}]}");
    assert_in_place(PROGRAMS, false, text, HERS "[{\"role\":\"assistant\",\"content\":\"a\"}]}");
    assert_in_place(PROGRAMS, false, thought,
                    HERS "[{\"role\":\"assistant\",\"content\":[" THOUGHT "]}]}");
    assert_in_place(PROGRAMS, false, number, HERS "[{\"n\":0.30000000000000004}]}");
    assert_in_place(PROGRAMS, false, "[]", HERS "[]}");
    assert_in_place("{\"messages\":[]}", false, one,
                    "{\"messages\":[{\"role\":\"user\",\"content\":["
                    "{\"type\":\"text\",\"text\":\"q\"}]}]}");
    assert_in_place("{}", true, one,
                    "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\","
                    "\"text\":\"q\"}]}]}");
    /* no spelling of the key slips past it */
    assert_in_place("{\"m\\u0065ssages\":[1],\"messages\":[2]}", true, "[3]", "{\"messages\":[3]}");
}

static void the_clients_marks_stay(void **state)
{
    (void)state;
    assert_exact(
        "{\"messages\":[{\"content\":[{\"text\":\"a\"," MARK
        "}]},{\"content\":[{\"text\":\"b\"," MARK "}]}]}",
        NULL, "{\"type\":\"ephemeral\",\"ttl\":\"1h\"}",
        "{\"messages\":[{\"content\":[{\"text\":\"a\"," MARK
        "}]},{\"content\":[{\"text\":\"b\",\"cache_control\":{\"type\":\"ephemeral\",\"ttl\":"
        "\"1h\"}}]}]}");
    /* without the program's mark at the end nothing is taken for it, nor is text that looks so */
    static const char other[] = "{\"messages\":[{\"content\":[{\"text\":\"a\"," MARK
                                "},{\"text\":\",\\\"cache_control\\\":{}}]}]\"}]}]}";
    assert_exact(other, NULL, NULL, other);
}

/* --- the end of a message ----------------------------------------------------------------- */

static void feed(struct cli_message *m, const char *event)
{
    struct err err;
    json_t *j = json_parse(str_c(event), &err);
    assert_non_null(j);
    cli_message_event(m, j);
    json_decref(j);
}

static void a_messages_head_gains_its_end(void **state)
{
    (void)state;
    struct cli_message m;
    cli_message_init(&m, 4096);
    feed(
        &m,
        "{\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"content\":[],\"stop_reason\":null,"
        "\"usage\":{\"input_tokens\":5,\"output_tokens\":1,\"service_tier\":\"standard\"}}}");
    feed(&m, "{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\","
             "\"text\":\"\"}}");
    feed(&m,
         "{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"citations_delta\","
         "\"citation\":{\"cited_text\":\"c\"}}}");
    feed(&m, "{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\","
             "\"text\":\"hi\"}}");
    feed(&m, "{\"type\":\"content_block_stop\",\"index\":0}");
    feed(&m,
         "{\"type\":\"content_block_start\",\"index\":1,\"content_block\":{\"type\":\"tool_use\","
         "\"id\":\"t\",\"name\":\"f\",\"input\":{}}}");
    feed(&m,
         "{\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"input_json_delta\","
         "\"partial_json\":\"{\\\"n\\\":123456789012345678901234}\"}}");
    feed(&m, "{\"type\":\"content_block_stop\",\"index\":1}");
    feed(&m, "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\",\"stop_"
             "sequence\":null},"
             "\"usage\":{\"output_tokens\":7},\"context_management\":{\"applied_edits\":[]}}");
    assert_json(m.head, "{\"id\":\"m\",\"content\":[],\"stop_reason\":\"tool_use\",\"usage\":"
                        "{\"input_tokens\":5,\"output_tokens\":7,\"service_tier\":\"standard\"},"
                        "\"context_management\":{\"applied_edits\":[]},\"stop_sequence\":null}");
    assert_json(json_array_get(m.content, 0),
                "{\"type\":\"text\",\"text\":\"hi\",\"citations\":[{\"cited_text\":\"c\"}]}");
    const json_t *n = json_object_get(json_object_get(json_array_get(m.content, 1), "input"), "n");
    assert_true(json_is_real(n));
    cli_message_release(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_smallest_body),
        cmocka_unit_test(parameters_pass_as_they_came),
        cmocka_unit_test(neighbours_of_one_role_are_one_message),
        cmocka_unit_test(a_mark_comes_last_and_null_goes),
        cmocka_unit_test(ignored_parameters_add_up),
        cmocka_unit_test(what_is_refused),
        cmocka_unit_test(threads_are_refused_so_that_sdks_go_on_without),
        cmocka_unit_test(broken_bodies),
        cmocka_unit_test(the_programs_marks_go),
        cmocka_unit_test(the_clients_marks_stay),
        cmocka_unit_test(awkward_conversations_go_around_the_program),
        cmocka_unit_test(long_histories_go_around_the_program),
        cmocka_unit_test(ids_that_open_nothing_pass),
        cmocka_unit_test(counts_know_the_same_rule),
        cmocka_unit_test(much_goes_around_the_program),
        cmocka_unit_test(a_systems_unknown_block_concerns_nobody_else),
        cmocka_unit_test(messages_take_the_place_of_the_programs),
        cmocka_unit_test(a_messages_head_gains_its_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
