/* test_cache.c - what makes two requests the same for the response cache. That answers are found,
 * kept and forgotten is tests/e2e/cache.test.mjs, against the real claude program. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "gateway/cache.h"

#define KEY "01890000-0000-7000-8000-000000000001"

/* All there is about one request, as JSON: a case changes one thing. */
static const char base[] =
    "{\"key\":\"" KEY "\",\"upstream\":\"https://api.example\",\"kind\":\"custom\",\"program\":"
    "\"2.1.197\",\"model\":\"m\",\"system\":[{\"type\":\"text\",\"text\":\"s\"}],"
    "\"history\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"h\"}]}],"
    "\"content\":[{\"type\":\"text\",\"text\":\"c\"}],\"params\":{\"model\":\"m\",\"max_tokens\":9,"
    "\"temperature\":0,\"top_p\":null,\"metadata\":{\"user_id\":\"u\"},\"tools\":[{\"name\":\"f\","
    "\"input_schema\":{\"type\":\"object\",\"required\":[\"a\",\"b\"]}}]},\"version\":"
    "\"2023-06-01\",\"betas\":\"x,y\",\"stream\":false,\"exact\":true}";

static char *text_of(const json_t *j, const char *name)
{
    return json_is_string(json_object_get(j, name)) ? str_dup(json_get_str(j, name)) : NULL;
}

static void name_of(const json_t *j, char out[CACHE_NAME_SIZE])
{
    AUTO(free_charp) char *upstream = text_of(j, "upstream");
    AUTO(free_charp) char *version = text_of(j, "version");
    struct conf conf = {
        .upstream = {.base_url = upstream, .api_key = (char[]){""}, .auth_token = (char[]){""}}};
    struct gateway g = {.conf = &conf,
                        .upstream_kind = json_string_value(json_object_get(j, "kind")),
                        .cli_version = json_string_value(json_object_get(j, "program"))};
    struct chat_request r = {.model = text_of(j, "model"),
                             .history = json_object_get(j, "history"),
                             .content = json_object_get(j, "content"),
                             .messages = json_object_get(j, "messages"),
                             .system = json_object_get(j, "system"),
                             .params = json_object_get(j, "params"),
                             .stream = json_get_bool(j, "stream", false),
                             .exact = json_get_bool(j, "exact", false),
                             .version = version,
                             .betas = text_of(j, "betas")};
    cache_name(&g, json_string_value(json_object_get(j, "key")), &r, out);
    free(r.model);
    free(r.betas);
}

/* Is the request with this member (of the parameters, if so told) another one? */
static bool differs(const char *member, bool param, const char *value)
{
    struct err err;
    char name[CACHE_NAME_SIZE], changed[CACHE_NAME_SIZE];
    AUTO(json_unref_p) json_t *j = json_parse(STR(base), &err);
    name_of(j, name);
    assert_int_equal(strlen(name), strlen("answer:") + 43);
    json_t *at = param ? json_object_get(j, "params") : j;
    if (!value)
        json_object_del(at, member);
    else
        json_object_set_new(at, member, json_parse(str_c(value), &err));
    name_of(j, changed);
    return strcmp(name, changed) != 0;
}

static void test_everything_that_goes_upstream_counts(void **state)
{
    static const struct {
        const char *member;
        bool param;
        const char *value;
    } cases[] = {
        {"key", false, "\"01890000-0000-7000-8000-000000000002\""},
        {"upstream", false, "\"https://api.other\""},
        {"kind", false, "\"demo\""},
        {"program", false, "\"2.1.198\""},
        {"model", false, "\"n\""},
        {"system", false, "[{\"type\":\"text\",\"text\":\"S\"}]"},
        {"system", false, NULL},
        {"history", false, NULL},
        {"history", false, "[]"},
        {"history", false,
         "[{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"h\"}]}]"},
        {"content", false, "[{\"type\":\"text\",\"text\":\"c \"}]"},
        {"content", false, "[{\"type\":\"text\",\"text\":\"c\\u0000\"}]"},
        {"content", false,
         "[{\"type\":\"text\",\"text\":\"c\"},{\"type\":\"text\",\"text\":\"c\"}]"},
        {"messages", false, "[{\"role\":\"user\",\"content\":\"c\"}]"},
        {"max_tokens", true, "10"},
        {"top_p", true, "0.5"},
        {"top_k", true, "1"},
        {"stop_sequences", true, "[\"x\"]"},
        {"tools", true, "[]"},
        {"tools", true,
         "[{\"name\":\"f\",\"input_schema\":{\"type\":\"object\",\"required\":[\"b\",\"a\"]}}]"},
        {"thinking", true, "{\"type\":\"disabled\"}"},
        {"service_tier", true, "\"auto\""},
        {"something_new", true, "1"},
        {"version", false, "\"2026-10-21\""},
        {"version", false, NULL},
        {"betas", false, "\"x\""},
        {"betas", false, NULL},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        if (!differs(cases[i].member, cases[i].param, cases[i].value))
            fail_msg("%s: %s makes no difference", cases[i].member, cases[i].value);
    }
}

static void test_what_makes_no_difference(void **state)
{
    (void)state;
    assert_false(differs("nothing", false, "1"));
    assert_false(differs("stream", false, "true"));
    assert_false(differs("exact", false, "false"));
    assert_false(differs("metadata", true, "{\"user_id\":\"v\"}"));
    assert_false(differs("metadata", true, NULL));
    assert_false(differs("temperature", true, "0.0"));
    assert_false(differs("temperature", true, "-0.0"));
    /* the order of names */
    assert_false(differs("content", false, "[{\"text\":\"c\",\"type\":\"text\"}]"));
    assert_false(differs("tools", true,
                         "[{\"input_schema\":{\"required\":[\"a\",\"b\"],\"type\":\"object\"},"
                         "\"name\":\"f\"}]"));
}

/* What stands in one member cannot look like another one. */
static void test_members_do_not_run_together(void **state)
{
    struct err err;
    char a[CACHE_NAME_SIZE], b[CACHE_NAME_SIZE];
    (void)state;
    AUTO(json_unref_p) json_t *j = json_parse(STR(base), &err);
    AUTO(json_unref_p) json_t *k = json_deep_copy(j);
    json_object_set_new(j, "model", json_string("m\",\"params"));
    json_object_set_new(j, "betas", json_string("x"));
    json_object_set_new(k, "model", json_string("m"));
    json_object_set_new(k, "betas", json_string("x\",\"params"));
    name_of(j, a);
    name_of(k, b);
    assert_string_not_equal(a, b);
}

/* However the stores are spread, what lives at the same time is within the bound. */
static void test_room(void **state)
{
    enum { TTL = 100, MAX = 1000, STEPS = 5000 };
    static size_t stored[STEPS];
    struct cache_room room = {0};
    size_t taken = 0;
    (void)state;
    for (int t = 0; t < STEPS; t++) {
        size_t bytes = (size_t)(t * 7919 % 97), alive = 0;
        bool pause = t % 900 > 700; /* longer than both windows */
        stored[t] = !pause && cache_room_take(&room, 777 + t, TTL, MAX, bytes) ? bytes : 0;
        taken += stored[t];
        for (int i = t; i >= 0 && i > t - TTL; i--)
            alive += stored[i];
        assert_true(alive <= MAX);
    }
    assert_true(taken >
                (size_t)(STEPS * 7 / 9 / TTL) * MAX / 2); /* half of it is of use at least */
    assert_false(cache_room_take(&room, INT64_C(1) << 40, TTL, MAX, MAX + 1));
    assert_true(cache_room_take(&room, INT64_C(1) << 40, TTL, MAX, MAX));
    assert_false(cache_room_take(&room, (INT64_C(1) << 40) + 1, TTL, MAX, 1));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_everything_that_goes_upstream_counts),
        cmocka_unit_test(test_what_makes_no_difference),
        cmocka_unit_test(test_members_do_not_run_together),
        cmocka_unit_test(test_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
