/* test_api.c - bodies of POST /api/chat: what a good one becomes, and the exact words for each bad
 * one. And the route table: every row has a scope that asks for something, and is described. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <ctype.h>

#include "api/anthropic/messages.h"
#include "api/docs/docs.h"
#include "api/native/native.h"
#include "api/openai/openai.h"
#include "api/routes.h"

#define UUID "0f8fad5b-d9cb-469f-a165-70867728950e"

static struct chat_request *parse(const char *body, struct err *err)
{
    *err = (struct err){.code = ERR_NONE};
    return native_parse_chat(str_c(body), err);
}

static struct chat_request *parse_good(const char *body)
{
    struct err err;
    struct chat_request *r = parse(body, &err);
    if (!r)
        fail_msg("%s: %s", body, err.msg);
    assert_int_equal(err.code, ERR_NONE);
    return r;
}

static void assert_json(const json_t *j, const char *expected)
{
    struct err err;
    json_t *e = json_parse(str_c(expected), &err);
    if (!json_equal(j, e)) {
        char *got = json_dumps(j, JSON_ENCODE_ANY);
        fail_msg("%s is not %s", got ? got : "NULL", expected);
    }
    json_decref(e);
}

/* --- good --------------------------------------------------------------------------------- */

static void test_the_smallest_body(void **state)
{
    (void)state;
    struct chat_request *r = parse_good("{\"message\":\"x\"}");
    assert_null(r->model);
    assert_null(r->history);
    assert_null(r->system);
    assert_json(r->content, "[{\"type\":\"text\",\"text\":\"x\"}]");
    assert_json(r->params, "{}");
    assert_int_equal(r->max_tokens, 0);
    assert_false(r->stream);
    assert_true(r->with_session);
    assert_string_equal(r->session_id, "");
    chat_request_free(r);
    chat_request_free(NULL);
}

static void test_every_field(void **state)
{
    (void)state;
    struct chat_request *r = parse_good(
        "{\"message\":\"hi\",\"model\":\"claude-sonnet-4-5\",\"stream\":true,\"sessionId\":"
        "\"0F8FAD5B-D9CB-469F-A165-70867728950E\",\"temperature\":0.5,\"maxTokens\":200000,"
        "\"system\":\"be brief\"}");
    assert_string_equal(r->model, "claude-sonnet-4-5");
    assert_true(r->stream);
    assert_string_equal(r->session_id, UUID);
    assert_json(r->params, "{\"temperature\":0.5}");
    assert_int_equal(r->max_tokens, 200000);
    assert_json(r->system, "\"be brief\"");
    chat_request_free(r);
}

static void test_profile(void **state)
{
    static const struct {
        const char *body;
        enum chat_profile profile;
    } rows[] = {{"{\"message\":\"x\"}", PROFILE_ANY},
                {"{\"message\":\"x\",\"profile\":null}", PROFILE_ANY},
                {"{\"message\":\"x\",\"profile\":\"chat\"}", PROFILE_CHAT},
                {"{\"message\":\"x\",\"profile\":\"agent\"}", PROFILE_AGENT}};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct chat_request *r = parse_good(rows[i].body);
        assert_int_equal(r->profile, rows[i].profile);
        chat_request_free(r);
    }
}

static void test_null_is_not_given(void **state)
{
    (void)state;
    struct chat_request *r =
        parse_good("{\"message\":\"x\",\"model\":null,\"stream\":null,\"sessionId\":null,"
                   "\"temperature\":null,\"maxTokens\":null,\"system\":null}");
    assert_null(r->model);
    assert_null(r->system);
    assert_json(r->params, "{}");
    assert_int_equal(r->max_tokens, 0);
    assert_false(r->stream);
    assert_string_equal(r->session_id, "");
    chat_request_free(r);
}

static void test_edges_that_are_allowed(void **state)
{
    static const char *const bodies[] = {
        "{\"message\":\" x\\n\"}",
        "{\"message\":\"\\u0000\"}",
        "{\"message\":\"x\",\"temperature\":0}",
        "{\"message\":\"x\",\"temperature\":1}",
        "{\"message\":\"x\",\"maxTokens\":1}",
        "{\"message\":\"x\",\"system\":\"\"}",
        "{\"message\":\"x\",\"stream\":false}",
        "{\"message\":\"x\",\"model\":\"a\"}",
        "{\"message\":\"x\",\"model\":\"claude-opus-4-8[1m]\"}",
        "{\"message\":\"x\",\"model\":\"us.anthropic/claude:v1_2@3\"}",
        " \n{ \"message\" : \"x\" }\n ",
        "{\"message\":[{\"type\":\"text\",\"text\":\"x\"}]}",
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bodies); i++)
        chat_request_free(parse_good(bodies[i]));
}

/* Client text is data: as it came, in a text block, whatever it looks like. */
static void test_text_is_not_touched(void **state)
{
    (void)state;
    struct chat_request *r = parse_good("{\"message\":\"/clear\\n@/etc/passwd\\u0000"
                                        "\\u2028\\\"}],\\\"type\\\":\\\"bash_command\\\"\"}");
    const json_t *block = json_array_get(r->content, 0);
    assert_int_equal(json_array_size(r->content), 1);
    assert_int_equal(json_object_size(block), 2);
    assert_true(str_eq(json_get_str(block, "text"),
                       STR("/clear\n@/etc/passwd\0\xE2\x80\xA8\"}],\"type\":\"bash_command\"")));
    chat_request_free(r);
}

static void test_content_blocks(void **state)
{
    (void)state;
    struct chat_request *r = parse_good(
        "{\"message\":[{\"text\":\"what is this?\",\"type\":\"text\"},"
        "{\"type\":\"image\",\"source\":{\"type\":\"base64\",\"media_type\":\"image/png\","
        "\"data\":\"aGk=\"}},"
        "{\"type\":\"image\",\"source\":{\"type\":\"url\",\"url\":\"https://example.org/"
        "a.png\"}}]}");
    assert_json(r->content,
                "[{\"type\":\"text\",\"text\":\"what is this?\"},"
                "{\"type\":\"image\",\"source\":{\"type\":\"base64\",\"media_type\":\"image/png\","
                "\"data\":\"aGk=\"}},"
                "{\"type\":\"image\",\"source\":{\"type\":\"url\",\"url\":"
                "\"https://example.org/a.png\"}}]");
    chat_request_free(r);
}

static void test_a_hundred_blocks_and_no_more(void **state)
{
    struct buf b;
    struct err err;
    (void)state;
    buf_init(&b, 100000);
    for (int n = 100; n <= 101; n++) {
        buf_clear(&b);
        buf_adds(&b, "{\"message\":[");
        for (int i = 0; i < n; i++)
            buf_printf(&b, "%s{\"type\":\"text\",\"text\":\"%d\"}", i ? "," : "", i);
        buf_adds(&b, "]}");
        struct chat_request *r = parse(buf_cstr(&b), &err);
        assert_int_equal(r != NULL, n == 100);
        chat_request_free(r);
    }
    assert_string_equal(err.msg, "message: must hold 1 to 100 content blocks");
    buf_release(&b);
}

/* --- bad ---------------------------------------------------------------------------------- */

struct bad {
    const char *body, *field, *msg;
};

static void check_bad(const struct bad *rows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct err err;
        struct chat_request *r = parse(rows[i].body, &err);
        if (r)
            fail_msg("accepted: %s", rows[i].body);
        if (strcmp(err.msg, rows[i].msg) != 0 || strcmp(err.field, rows[i].field) != 0)
            fail_msg("%s\n  said     '%s' (%s)\n  expected '%s' (%s)", rows[i].body, err.msg,
                     err.field, rows[i].msg, rows[i].field);
        assert_int_equal(err.code, ERR_INVALID);
        assert_int_equal(err_status(&err), 400);
    }
}

static void test_bad_fields(void **state)
{
    static const struct bad rows[] = {
        {"[]", "", "must be a JSON object"},
        {"\"message\"", "", "must be a JSON object"},
        {"{}", "message", "message: is required"},
        {"{\"message\":null}", "message",
         "message: must be a string or an array of content blocks"},
        {"{\"message\":1}", "message", "message: must be a string or an array of content blocks"},
        {"{\"message\":{\"type\":\"text\",\"text\":\"x\"}}", "message",
         "message: must be a string or an array of content blocks"},
        {"{\"message\":\"\"}", "message", "message: must not be empty"},
        {"{\"message\":\" \\n\\t\\r\"}", "message", "message: must not be only white space"},
        {"{\"message\":\"x\",\"prompt\":\"y\"}", "prompt", "prompt: unknown field"},
        {"{\"message\":\"x\",\"profile\":\"\"}", "profile",
         "profile: must be \"chat\" or \"agent\""},
        {"{\"message\":\"x\",\"profile\":\"Agent\"}", "profile",
         "profile: must be \"chat\" or \"agent\""},
        {"{\"message\":\"x\",\"profile\":true}", "profile", "profile: must be a string"},
        {"{\"message\":\"x\",\"Model\":\"y\"}", "Model", "Model: unknown field"},
        {"{\"message\":\"x\",\"max_tokens\":5}", "max_tokens", "max_tokens: unknown field"},
        {"{\"message\":\"x\",\"model\":1}", "model", "model: must be a string"},
        {"{\"message\":\"x\",\"model\":\"\"}", "model", "model: must not be empty"},
        {"{\"message\":\"x\",\"model\":\"default\"}", "model", "model: must name a model"},
        {"{\"message\":\"x\",\"model\":\"a b\"}", "model",
         "model: may hold letters, digits and -._:@/[] only"},
        {"{\"message\":\"x\",\"model\":\"a\\u0000\"}", "model",
         "model: may hold letters, digits and -._:@/[] only"},
        {"{\"message\":\"x\",\"model\":\"claude-\xC3\xA9\"}", "model",
         "model: may hold letters, digits and -._:@/[] only"},
        {"{\"message\":\"x\",\"model\":\"*\"}", "model",
         "model: may hold letters, digits and -._:@/[] only"},
        {"{\"message\":\"x\",\"stream\":1}", "stream", "stream: must be true or false"},
        {"{\"message\":\"x\",\"stream\":\"true\"}", "stream", "stream: must be true or false"},
        {"{\"message\":\"x\",\"temperature\":\"0.5\"}", "temperature",
         "temperature: must be a number"},
        {"{\"message\":\"x\",\"temperature\":-0.01}", "temperature",
         "temperature: must be between 0 and 1"},
        {"{\"message\":\"x\",\"temperature\":1.01}", "temperature",
         "temperature: must be between 0 and 1"},
        {"{\"message\":\"x\",\"maxTokens\":0}", "maxTokens",
         "maxTokens: must be between 1 and 200000"},
        {"{\"message\":\"x\",\"maxTokens\":200001}", "maxTokens",
         "maxTokens: must be between 1 and 200000"},
        {"{\"message\":\"x\",\"maxTokens\":-9223372036854775808}", "maxTokens",
         "maxTokens: must be between 1 and 200000"},
        {"{\"message\":\"x\",\"maxTokens\":10.5}", "maxTokens", "maxTokens: must be an integer"},
        {"{\"message\":\"x\",\"maxTokens\":\"10\"}", "maxTokens", "maxTokens: must be an integer"},
        {"{\"message\":\"x\",\"system\":[]}", "system", "system: must be a string"},
        {"{\"message\":\"x\",\"system\":1}", "system", "system: must be a string"},
        {"{\"message\":\"x\",\"sessionId\":7}", "sessionId", "sessionId: must be a string"},
        {"{\"message\":\"x\",\"sessionId\":\"\"}", "sessionId", "sessionId: must not be empty"},
        {"{\"message\":\"x\",\"sessionId\":\"abc\"}", "sessionId",
         "sessionId: must be a UUID that an earlier answer returned"},
        {"{\"message\":\"x\",\"sessionId\":\"0f8fad5bd9cb469fa16570867728950e0000\"}", "sessionId",
         "sessionId: must be a UUID that an earlier answer returned"},
        {"{\"message\":\"x\",\"sessionId\":\"0f8fad5b-d9cb-469f-a165-70867728950g\"}", "sessionId",
         "sessionId: must be a UUID that an earlier answer returned"},
        {"{\"message\":\"x\",\"sessionId\":\"" UUID "0\"}", "sessionId",
         "sessionId: must be at most 36 bytes long"},
    };
    (void)state;
    check_bad(rows, ARRAY_SIZE(rows));
}

#define TYPES "must be image/jpeg, image/png, image/gif or image/webp"
static void test_bad_blocks(void **state)
{
    static const struct bad rows[] = {
        {"{\"message\":[]}", "message", "message: must hold 1 to 100 content blocks"},
        {"{\"message\":[1]}", "message[0]", "message[0]: must be a JSON object"},
        {"{\"message\":[{\"type\":\"text\",\"text\":\"a\"},[]]}", "message[1]",
         "message[1]: must be a JSON object"},
        {"{\"message\":[{}]}", "message[0].type", "message[0].type: is required"},
        {"{\"message\":[{\"type\":\"text\"}]}", "message[0].text",
         "message[0].text: must not be empty"},
        {"{\"message\":[{\"type\":\"text\",\"text\":\"\"}]}", "message[0].text",
         "message[0].text: must not be empty"},
        {"{\"message\":[{\"type\":\"text\",\"text\":\"x\"},{\"type\":\"text\",\"text\":\" \"}]}",
         "message[1].text", "message[1].text: must not be only white space"},
        {"{\"message\":[{\"type\":\"text\",\"text\":1}]}", "message[0].text",
         "message[0].text: must be a string"},
        {"{\"message\":[{\"type\":\"text\",\"text\":\"x\",\"cache_control\":{}}]}",
         "message[0].cache_control", "message[0].cache_control: unknown field"},
        {"{\"message\":[{\"type\":\"tool_result\"}]}", "message[0].type",
         "message[0].type: must be \"text\" or \"image\""},
        {"{\"message\":[{\"type\":\"image\"}]}", "message[0].source",
         "message[0].source: is required"},
        {"{\"message\":[{\"type\":\"image\",\"source\":\"x\"}]}", "message[0].source",
         "message[0].source: must be an object"},
    };
    (void)state;
    check_bad(rows, ARRAY_SIZE(rows));
}

#define SOURCE(s) "{\"message\":[{\"type\":\"image\",\"source\":" s "}]}"
#define AT(f)     "message[0].source." f
static void test_bad_image_sources(void **state)
{
    static const struct bad rows[] = {
        {SOURCE("{}"), AT("type"), AT("type: is required")},
        {SOURCE("{\"type\":\"file\"}"), AT("type"), AT("type: must be \"base64\" or \"url\"")},
        {SOURCE("{\"type\":\"base64\",\"data\":\"aGk=\"}"), AT("media_type"),
         AT("media_type: " TYPES)},
        {SOURCE("{\"type\":\"base64\",\"media_type\":\"image/svg+xml\",\"data\":\"aGk=\"}"),
         AT("media_type"), AT("media_type: " TYPES)},
        {SOURCE("{\"type\":\"base64\",\"media_type\":\"image/png\"}"), AT("data"),
         AT("data: must be base64")},
        {SOURCE("{\"type\":\"base64\",\"media_type\":\"image/png\",\"data\":\"a-_k\"}"), AT("data"),
         AT("data: must be base64")},
        {SOURCE("{\"type\":\"base64\",\"media_type\":\"image/png\",\"data\":\"aG k=\"}"),
         AT("data"), AT("data: must be base64")},
        {SOURCE("{\"type\":\"base64\",\"media_type\":\"image/png\",\"data\":\"====\"}"), AT("data"),
         AT("data: must be base64")},
        {SOURCE("{\"type\":\"base64\",\"media_type\":\"image/png\",\"data\":\"aGk\\u0000\"}"),
         AT("data"), AT("data: must be base64")},
        {SOURCE("{\"type\":\"url\"}"), AT("url"), AT("url: must be an https URL")},
        {SOURCE("{\"type\":\"url\",\"url\":\"http://example.org/\"}"), AT("url"),
         AT("url: must be an https URL")},
        {SOURCE("{\"type\":\"url\",\"url\":\"file:///etc/passwd\"}"), AT("url"),
         AT("url: must be an https URL")},
        {SOURCE("{\"type\":\"base64\",\"media_type\":\"image/png\",\"data\":\"aGk=\",\"x\":1}"),
         AT("x"), AT("x: unknown field")},
    };
    (void)state;
    check_bad(rows, ARRAY_SIZE(rows));
}

/* A field that belongs to the other kind is refused, not dropped in silence. */
static void test_fields_of_another_kind(void **state)
{
    static const char *const bodies[] = {
        "{\"message\":[{\"type\":\"text\",\"text\":\"x\",\"source\":{\"type\":\"url\"}}]}",
        "{\"message\":[{\"type\":\"image\",\"text\":\"x\",\"source\":{\"type\":\"url\",\"url\":"
        "\"https://example.org/\"}}]}",
        SOURCE("{\"type\":\"url\",\"url\":\"https://example.org/\",\"data\":\"aGk=\"}"),
        SOURCE(
            "{\"type\":\"base64\",\"media_type\":\"image/png\",\"data\":\"aGk=\",\"url\":\"x\"}"),
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bodies); i++) {
        struct err err;
        struct chat_request *r = parse(bodies[i], &err);
        if (r)
            fail_msg("dropped a field: %s", bodies[i]);
    }
}

static void test_bad_json(void **state)
{
    static const char *const bodies[] = {
        "",
        "{",
        "{\"message\":\"x\"",
        "{\"message\":\"x\"}{}",
        "{\"message\":\"x\",}",
        "{\"message\":\"x\",\"message\":\"y\"}",
        "{\"message\":\"\xFF\"}",
        "{\"message\":\"\\ud800\"}",
        "{\"message\":\"x\",\"temperature\":1e999}",
        "{\"message\":\"x\",\"maxTokens\":99999999999999999999}",
        "message=x",
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bodies); i++) {
        struct err err;
        if (parse(bodies[i], &err))
            fail_msg("accepted: %s", bodies[i]);
        assert_int_equal(err.code, ERR_INVALID);
        assert_memory_equal(err.msg, "not valid JSON: line ", 21);
    }
}

/* --- sizes -------------------------------------------------------------------------------- */

/* {"message":"xxx...","<tail> with n bytes of text. */
static void long_body(struct buf *b, const char *head, size_t n, const char *tail)
{
    buf_clear(b);
    buf_adds(b, head);
    assert_true(buf_reserve(b, n));
    memset(b->data + b->len, 'x', n);
    buf_grow_len(b, n);
    buf_adds(b, tail);
}

static void check_size(struct buf *b, const char *head, size_t n, const char *tail,
                       enum err_code code, const char *msg)
{
    struct err err = {.code = ERR_NONE};
    long_body(b, head, n, tail);
    struct chat_request *r = native_parse_chat(buf_str(b), &err);
    assert_int_equal(err.code, code);
    assert_int_equal(r != NULL, code == ERR_NONE);
    if (code != ERR_NONE)
        assert_string_equal(err.msg, msg);
    chat_request_free(r);
}

static void test_sizes(void **state)
{
    const size_t mb = 1 << 20;
    struct buf b;
    (void)state;
    buf_init(&b, 16 * mb);
    check_size(&b, "{\"message\":\"", 8 * mb, "\"}", ERR_NONE, NULL);
    check_size(&b, "{\"message\":\"", 8 * mb + 1, "\"}", ERR_INVALID,
               "message: must be at most 8388608 bytes long");
    check_size(&b, "{\"message\":\"x\",\"system\":\"", mb, "\"}", ERR_NONE, NULL);
    check_size(&b, "{\"message\":\"x\",\"system\":\"", mb + 1, "\"}", ERR_INVALID,
               "system: must be at most 1048576 bytes long");
    check_size(&b, "{\"message\":\"x\",\"model\":\"", 100, "\"}", ERR_NONE, NULL);
    check_size(&b, "{\"message\":\"x\",\"model\":\"", 101, "\"}", ERR_INVALID,
               "model: must be at most 100 bytes long");
    check_size(&b, "{\"message\":\"", 10 * mb, "\"}", ERR_TOO_LARGE,
               "The request body is larger than 10485760 bytes");
    buf_release(&b);
}

/* --- routes ------------------------------------------------------------------------------- */

static void test_every_route_asks_for_something(void **state)
{
    (void)state;
    for (size_t i = 0; i < api_route_count; i++) {
        const struct http_route *r = &api_routes[i];
        assert_int_equal(r->path[0], '/');
        assert_non_null(r->handler);
        bool api = strncmp(r->path, "/api/", 5) == 0 || strncmp(r->path, "/v1/", 4) == 0;
        if (api)
            assert_int_equal(r->scope, SCOPE_KEY);
        bool runs = r->handler == native_chat || r->handler == anthropic_messages ||
                    r->handler == openai_chat_completions || r->handler == openai_responses;
        assert_int_equal(r->paid, runs);
        if (r->scope == SCOPE_PUBLIC)
            assert_true(r->handler == docs_file || strcmp(r->path, "/healthz") == 0 ||
                        strcmp(r->path, "/readyz") == 0);
        for (size_t k = 0; k < i; k++)
            assert_true(strcmp(r->path, api_routes[k].path) != 0 ||
                        strcmp(r->method, api_routes[k].method) != 0);
    }
}

/* --- the document at /openapi.json --------------------------------------------------------- */

static json_t *document(void)
{
    for (size_t i = 0; i < docs_file_count; i++) {
        const struct docs_content *plain = &docs_files[i].plain;
        if (strcmp(docs_files[i].path, "/openapi.json") == 0)
            return json_loadb((const char *)plain->data, plain->len, 0, NULL);
    }
    return NULL;
}

/* "GET /api/sessions/:id" as the document writes it: the operation, borrowed, or NULL. */
static const json_t *described(const json_t *doc, const struct http_route *r)
{
    char path[128], method[16];
    size_t n = 0;
    bool open = false;
    for (const char *p = r->path;; p++) {
        if (open && (*p == '/' || !*p)) {
            path[n++] = '}';
            open = false;
        }
        open |= *p == ':';
        path[n++] = *p == ':' ? '{' : *p;
        if (!*p)
            break;
    }
    for (n = 0; n == 0 || r->method[n - 1]; n++)
        method[n] = (char)tolower((unsigned char)r->method[n]);
    return json_object_get(json_object_get(json_object_get(doc, "paths"), path), method);
}

static void test_every_route_is_described(void **state)
{
    (void)state;
    AUTO(json_unref_p) json_t *doc = document();
    const json_t *security;
    assert_non_null(doc);
    for (size_t i = 0; i < api_route_count; i++) {
        const struct http_route *r = &api_routes[i];
        const json_t *operation = described(doc, r);
        if (!operation)
            fail_msg("%s %s is not in docs/openapi.yaml", r->method, r->path);
        security = json_object_get(operation, "security"); /* absent: the document's, a key */
        if (r->scope == SCOPE_PUBLIC)
            assert_true(json_is_array(security) && json_array_size(security) == 0);
        else
            assert_true((r->scope == SCOPE_KEY) == !security);
    }
}

static void test_nothing_else_is_described(void **state)
{
    static const char *const methods[] = {"get", "put", "post", "delete", "patch"};
    (void)state;
    AUTO(json_unref_p) json_t *doc = document();
    const char *path;
    json_t *item;
    size_t count = 0;
    json_object_foreach(json_object_get(doc, "paths"), path, item)
    {
        for (size_t i = 0; i < ARRAY_SIZE(methods); i++)
            count += json_object_get(item, methods[i]) != NULL;
    }
    assert_int_equal(count, api_route_count); /* each row has one of its own */
}

static void test_the_document_has_the_version(void **state)
{
    (void)state;
    AUTO(json_unref_p) json_t *doc = document();
    assert_string_equal(json_string_value(json_object_get(json_object_get(doc, "info"), "version")),
                        CG_VERSION);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_smallest_body),
        cmocka_unit_test(test_every_field),
        cmocka_unit_test(test_profile),
        cmocka_unit_test(test_null_is_not_given),
        cmocka_unit_test(test_edges_that_are_allowed),
        cmocka_unit_test(test_text_is_not_touched),
        cmocka_unit_test(test_content_blocks),
        cmocka_unit_test(test_a_hundred_blocks_and_no_more),
        cmocka_unit_test(test_bad_fields),
        cmocka_unit_test(test_bad_blocks),
        cmocka_unit_test(test_bad_image_sources),
        cmocka_unit_test(test_fields_of_another_kind),
        cmocka_unit_test(test_bad_json),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_every_route_asks_for_something),
        cmocka_unit_test(test_every_route_is_described),
        cmocka_unit_test(test_nothing_else_is_described),
        cmocka_unit_test(test_the_document_has_the_version),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
