/* test_price.c - the table of prices: which one is taken, what it makes, what is refused. */
#include "price/price.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static char path[] = "/tmp/cg-price-XXXXXX";

static struct prices *load(const char *text, struct err *err)
{
    snprintf(path, sizeof(path), "/tmp/cg-price-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    struct prices *p = prices_load(path, err);
    unlink(path);
    return p;
}

static int64_t cost(const struct prices *p, const char *model, int64_t in, int64_t out,
                    int64_t write, int64_t read)
{
    const struct price_tokens t = {
        .input = in, .output = out, .cache_write = write, .cache_read = read};
    return price_cost(prices_find(p, model), &t);
}

static void test_shipped(void **state)
{
    struct err err;
    struct prices *p = prices_load("", &err);
    (void)state;
    assert_non_null(p);
    /* 3 USD per million are 3000 nano-USD a token. */
    assert_int_equal(cost(p, "claude-sonnet-4-5", 1, 0, 0, 0), 3000);
    assert_int_equal(cost(p, "claude-sonnet-4-5-20250929", 1000, 100, 10, 20000),
                     3000000 + 1500000 + 37500 + 6000000);
    assert_int_equal(cost(p, "claude-haiku-4-5-20251001", 1, 1, 1, 1), 1000 + 5000 + 1250 + 100);
    assert_int_equal(cost(p, "claude-opus-4-1-20250805", 0, 1, 0, 0), 75000);
    assert_int_equal(cost(p, "claude-opus-4-20250514", 0, 1, 0, 0), 75000);
    assert_int_equal(cost(p, "claude-opus-4-5-20251101", 0, 1, 0, 0), 25000);
    assert_int_equal(cost(p, "claude-opus-4-6[1m]", 0, 1, 0, 0), 25000);
    assert_int_equal(cost(p, "claude-opus-5", 0, 1, 0, 0), 25000);
    assert_int_equal(cost(p, "claude-opus-5-20260724", 0, 1, 0, 0), 25000);
    assert_int_equal(cost(p, "claude-opus-5-5", 0, 1, 0, 0), 20000);
    assert_int_equal(cost(p, "claude-3-7-sonnet-20250219", 1, 0, 0, 0), 3000);
    /* Nobody knows yet what these will cost. */
    assert_int_equal(cost(p, "claude-opus-5-7", 1, 1, 1, 1), PRICE_UNKNOWN);
    assert_int_equal(cost(p, "claude-opus-9", 1, 1, 1, 1), PRICE_UNKNOWN);
    assert_int_equal(cost(p, "gpt-x", 0, 0, 0, 0), PRICE_UNKNOWN);
    assert_int_equal(cost(p, "", 1, 0, 0, 0), PRICE_UNKNOWN);
    bool named = false;
    for (size_t i = 0; i < prices_count(p); i++) {
        const struct price *one = prices_at(p, i);
        assert_true(!one->name || prices_find(p, one->name) == one);
        named = named || (one->name && strcmp(one->name, "claude-sonnet-4-5") == 0);
    }
    assert_true(named);
    prices_free(p);
    prices_free(NULL);
}

static void test_long_prompts(void **state)
{
    struct err err;
    struct prices *p = prices_load(NULL, &err);
    (void)state;
    assert_int_equal(cost(p, "claude-haiku-5-5", 50000, 10, 25000, 25000),
                     5000000 + 5000 + 3125000 + 250000);
    assert_int_equal(cost(p, "claude-haiku-5-5", 50001, 10, 25000, 25000),
                     25000500 + 25000 + 15625000 + 1250000);
    prices_free(p);
}

#define RATES "\"input\": 1, \"output\": 2, \"cacheWrite\": 3, \"cacheRead\": 4"

static void test_own_prices(void **state)
{
    struct err err;
    struct prices *p = load("{\"models\": {"
                            "\"claude-sonnet-4-5*\": {" RATES "},"
                            "\"claude-sonnet-4-5-2*\": {\"input\": 0.000001, \"output\": 10000, "
                            "\"cacheWrite\": 0, \"cacheRead\": 0.0015},"
                            "\"claude-sonnet-4-5-20250929\": {" RATES ", \"maxTokens\": 7},"
                            "\"*-mine\": {" RATES ", \"name\": \"is-mine\"}}}",
                            &err);
    (void)state;
    assert_non_null(p);
    assert_int_equal(cost(p, "claude-sonnet-4-5", 1, 1, 1, 1), 10000);         /* replaced */
    assert_int_equal(cost(p, "claude-haiku-4-5", 1, 0, 0, 0), 1000);           /* kept */
    assert_int_equal(cost(p, "claude-sonnet-4-5-20250929", 1, 0, 0, 0), 1000); /* not a pattern */
    assert_int_equal(cost(p, "claude-sonnet-4-5-2", 1, 0, 0, 0), 0);           /* 1 pico-USD */
    assert_int_equal(cost(p, "claude-sonnet-4-5-2", 499, 0, 0, 0), 0);
    assert_int_equal(cost(p, "claude-sonnet-4-5-2", 500, 0, 0, 0), 1);
    assert_int_equal(cost(p, "claude-sonnet-4-5-2", 0, 1, 0, 2), 10000000 + 3);
    assert_int_equal(cost(p, "claude-sonnet-4-5-2", 0, INT64_MAX, 0, 0), INT64_MAX / 1000 + 1);
    assert_int_equal(cost(p, "claude-sonnet-4-5-2", -5, 0, 0, 0), 0);
    assert_string_equal(prices_find(p, "also-mine")->name, "is-mine");
    assert_int_equal(prices_find(p, "claude-sonnet-4-5-20250929")->max_tokens, 7);
    prices_free(p);
}

static void test_refused(void **state)
{
    static const char *const cases[][2] = {
        {"", "line 1"},
        {"[]", "models: must be an object"},
        {"{}", "models: must be an object"},
        {"{\"models\": {}, \"prices\": 1}", "prices: unknown name"},
        {"{\"models\": {\"a\": 5}}", "models.a: must be an object with input"},
        {"{\"models\": {\"a b\": {" RATES "}}}", "models.a b: must be named by a model"},
        {"{\"models\": {\"\": {" RATES "}}}", "models.: must be named by a model"},
        {"{\"models\": {\"a\": {\"input\": 1}}}", "models.a: output: is missing"},
        {"{\"models\": {\"a\": {" RATES ", \"x\": 1}}}", "models.a: x: unknown name"},
        {"{\"models\": {\"a\": {" RATES ", \"input\": 2}}}", "duplicate"},
        {"{\"models\": {\"a\": {" RATES "}, \"a\": {" RATES "}}}", "duplicate"},
        {"{\"models\": {\"a\": {" RATES ", \"maxTokens\": 0}}}", "models.a: maxTokens: must be"},
        {"{\"models\": {\"a*\": {" RATES ", \"name\": \"b\"}}}", "models.a*: name: must be"},
        {"{\"models\": {\"a*\": {" RATES ", \"name\": \"a*\"}}}", "models.a*: name: must be"},
        {"{\"models\": {\"a\": {" RATES ", \"longPrompt\": {}}}}",
         "models.a: longPrompt: over: must be a number of tokens"},
        {"{\"models\": {\"a\": {\"input\": -1, \"output\": 2, \"cacheWrite\": 3, "
         "\"cacheRead\": 4}}}",
         "models.a: input: must be USD per million tokens"},
        {"{\"models\": {\"a\": {\"input\": \"3\", \"output\": 2, \"cacheWrite\": 3, "
         "\"cacheRead\": 4}}}",
         "models.a: input: must be USD per million tokens"},
        {"{\"models\": {\"a\": {\"input\": 1, \"output\": 10000.5, \"cacheWrite\": 3, "
         "\"cacheRead\": 4}}}",
         "models.a: output: must be USD per million tokens"},
        {"{\"models\": {\"a\": {\"input\": 1, \"output\": 1, \"cacheWrite\": 3, "
         "\"cacheRead\": 0.0000001}}}",
         "models.a: cacheRead: must be USD per million tokens"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct err err = {0};
        assert_null(load(cases[i][0], &err));
        assert_int_equal(err.code, ERR_CONFIG);
        if (!strstr(err.msg, cases[i][1]) || !strstr(err.msg, "pricing.file"))
            fail_msg("%s: %s", cases[i][0], err.msg);
    }
    struct err err = {0};
    assert_null(prices_load("/tmp/there/is/no/such/file", &err));
    assert_non_null(strstr(err.msg, "pricing.file '/tmp/there/is/no/such/file': cannot read"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shipped),
        cmocka_unit_test(test_long_prompts),
        cmocka_unit_test(test_own_prices),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
