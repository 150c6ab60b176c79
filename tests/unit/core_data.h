/* core_data.h - part of test_core.c: clocks, identifiers, JSON field tables. */
#ifndef CG_TESTS_CORE_DATA_H
#define CG_TESTS_CORE_DATA_H

#include "core/clock.h"
#include "core/id.h"
#include "core/json.h"

/* --- clock -------------------------------------------------------------------------------- */

static void test_rfc3339_out(void **state)
{
    static const struct {
        int64_t ms;
        const char *text;
    } rows[] = {
        {0, "1970-01-01T00:00:00.000Z"},
        {999, "1970-01-01T00:00:00.999Z"},
        {-1, "1969-12-31T23:59:59.999Z"},
        {-1000, "1969-12-31T23:59:59.000Z"},
        {951782400000, "2000-02-29T00:00:00.000Z"},
        {1709210096789, "2024-02-29T12:34:56.789Z"},
        {4102444799999, "2099-12-31T23:59:59.999Z"},
        {253402300799999, "9999-12-31T23:59:59.999Z"},
    };
    char out[CLOCK_RFC3339_SIZE];
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        int64_t back = -7;
        assert_string_equal(clock_rfc3339(rows[i].ms, out), rows[i].text);
        assert_true(clock_parse_rfc3339(rows[i].text, &back));
        assert_true(back == rows[i].ms);
    }
    clock_rfc3339(INT64_MAX, out); /* a year of nine digits: only must not overflow */
    clock_rfc3339(INT64_MIN, out);
    assert_true(strlen(out) < CLOCK_RFC3339_SIZE);
}

static void test_rfc3339_in(void **state)
{
    static const struct {
        const char *text;
        int64_t ms;
    } rows[] = {
        {"2024-02-29", 1709164800000},
        {"2000-02-29", 951782400000},
        {"2024-02-29T00:00:00Z", 1709164800000},
        {"2024-02-29T00:00:00+00:00", 1709164800000},
        {"2024-02-29T00:00:00-00:00", 1709164800000},
        {"2024-02-29T00:00:00+02:00", 1709157600000},
        {"2024-02-28T22:30:00-01:30", 1709164800000},
        {"2024-12-31T23:59:59.9Z", 1735689599900},
        {"2024-12-31T23:59:59.98Z", 1735689599980},
        {"2024-12-31T23:59:59.987654321Z", 1735689599987},
        {"1970-01-01T00:00:00.001Z", 1},
        {"1969-12-31T23:59:59.999Z", -1},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        int64_t ms = 0;
        if (!clock_parse_rfc3339(rows[i].text, &ms) || ms != rows[i].ms)
            fail_msg("%s: %lld", rows[i].text, (long long)ms);
    }
}

static void test_rfc3339_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "2024",
        "2024-02",
        "2024-2-29",
        "2023-02-29",
        "1900-02-29",
        "2024-04-31",
        "2024-13-01",
        "2024-00-01",
        "2024-01-00",
        "2024-01-32",
        "2024-02-29 00:00:00Z",
        "2024-02-29T",
        "2024-02-29T00:00:00",
        "2024-02-29T00:00Z",
        "2024-02-29T24:00:00Z",
        "2024-02-29T00:60:00Z",
        "2024-02-29T00:00:61Z",
        "2024-02-29T00:00:00.Z",
        "2024-02-29T00:00:00,5Z",
        "2024-02-29T00:00:00Z ",
        "2024-02-29T00:00:00ZZ",
        "2024-02-29T00:00:00z9",
        "2024-02-29T00:00:00+0200",
        "2024-02-29T00:00:00+2:00",
        "2024-02-29T00:00:00+02:0a",
        "2024-02-29T00:00:00+02:00:00",
        "2024-02-29T00:00:00+24:00",
        "2024-02-29T00:00:00+00:60",
        " 2024-02-29",
        "2024-02-29 ",
        "02024-02-29",
        "2024- 2- 9",
        " 024-02-29",
        "2024-02-29T 1: 2: 3Z",
        "2024-02-29T1:2:3Z",
        "2024-02-29T01:02:3Z",
        "+024-02-29",
        "tomorrow",
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        int64_t ms = 42;
        if (clock_parse_rfc3339(bad[i], &ms))
            fail_msg("'%s' was taken as %lld", bad[i], (long long)ms);
        assert_true(ms == 42);
    }
}

/* Every day of 400 years, there and back: leap years have no exception left out. */
static void test_rfc3339_every_day(void **state)
{
    (void)state;
    for (int64_t day = 0; day < 146097; day++) {
        char text[CLOCK_RFC3339_SIZE];
        int64_t back = -1, ms = (day - 60000) * 86400000 + day % 86400000;
        clock_rfc3339(ms, text);
        if (!clock_parse_rfc3339(text, &back) || back != ms)
            fail_msg("%s", text);
    }
}

static void test_clocks_move(void **state)
{
    (void)state;
    int64_t us = clock_mono_us(), ms = clock_mono_ms();
    assert_true(ms >= us / 1000);
    assert_true(clock_mono_us() >= us);
    assert_true(clock_wall_ms() > 1700000000000);
}

/* --- id ----------------------------------------------------------------------------------- */

static int compare_ids(const void *a, const void *b)
{
    return strcmp(a, b);
}

static void check_uuid(const char *id)
{
    assert_int_equal(strlen(id), 36);
    for (int i = 0; i < 36; i++) {
        if (i == 8 || i == 13 || i == 18 || i == 23)
            assert_int_equal(id[i], '-');
        else
            assert_non_null(strchr("0123456789abcdef", id[i]));
    }
    assert_int_equal(id[14], '7');
    assert_non_null(strchr("89ab", id[19]));
}

/* Milliseconds in the first 48 bits. */
static int64_t uuid_time(const char *id)
{
    char hex[13];
    snprintf(hex, sizeof(hex), "%.8s%.4s", id, id + 9);
    return (int64_t)strtoull(hex, NULL, 16);
}

static void test_uuids_are_well_formed_and_in_order(void **state)
{
    enum { COUNT = 20000 }; /* more than the counter holds for one millisecond */
    char last[ID_UUID_SIZE] = "", id[ID_UUID_SIZE];
    (void)state;
    int64_t start = clock_wall_ms();
    for (int n = 0; n < COUNT; n++) {
        assert_ptr_equal(id_uuid(id), id);
        check_uuid(id);
        assert_true(strcmp(last, id) < 0);
        memcpy(last, id, sizeof(last));
        assert_in_range(uuid_time(id), start - 1000, start + 60000);
    }
}

/* What is not the time must not be guessed from its neighbours. */
static void test_uuids_differ_in_their_random_part(void **state)
{
    enum { COUNT = 5000 };
    char(*tails)[20] = x_calloc(COUNT, sizeof(*tails));
    (void)state;
    for (size_t i = 0; i < COUNT; i++) {
        char id[ID_UUID_SIZE];
        snprintf(tails[i], sizeof(tails[i]), "%s", id_uuid(id) + 19);
    }
    qsort(tails, COUNT, sizeof(*tails), compare_ids);
    for (size_t i = 1; i < COUNT; i++)
        assert_string_not_equal(tails[i], tails[i - 1]);
    free(tails);
}

static void test_ids_are_unique(void **state)
{
    enum { COUNT = 50000 };
    char(*ids)[ID_REQUEST_SIZE] = x_calloc(COUNT, sizeof(*ids));
    (void)state;
    for (size_t i = 0; i < COUNT; i++) {
        id_request(ids[i]);
        assert_int_equal(strlen(ids[i]), ID_REQUEST_SIZE - 1);
        assert_memory_equal(ids[i], "req_", 4);
    }
    qsort(ids, COUNT, sizeof(*ids), compare_ids);
    for (size_t i = 1; i < COUNT; i++)
        assert_string_not_equal(ids[i], ids[i - 1]);
    free(ids);
}

static void test_alnum_uses_the_whole_alphabet_evenly(void **state)
{
    enum { COUNT = 620000, MEAN = COUNT / 62 };
    size_t seen[256] = {0}, kinds = 0;
    char *text = x_malloc(COUNT + 2);
    (void)state;
    text[COUNT + 1] = '#';
    id_alnum(text, COUNT);
    assert_int_equal(text[COUNT], '\0');
    assert_int_equal(text[COUNT + 1], '#');
    for (size_t i = 0; i < COUNT; i++)
        seen[(unsigned char)text[i]]++;
    for (int c = 0; c < 256; c++) {
        bool wanted = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        assert_int_equal(wanted, seen[c] != 0);
        kinds += wanted;
        if (wanted) /* 7 standard deviations; a modulo bias would be 25 % */
            assert_in_range(seen[c], MEAN - 700, MEAN + 700);
    }
    assert_int_equal(kinds, 62);
    id_alnum(text, 0);
    assert_int_equal(text[0], '\0');
    free(text);
}

/* --- json --------------------------------------------------------------------------------- */

/* Small values are large in memory; what stands in strings is not. */
static void test_json_of_others_is_bounded(void **state)
{
    (void)state;
    static const char quoted[] = "\",[{\\\"\\\\\",";
    for (size_t n = JSON_MARKS_MAX; n <= JSON_MARKS_MAX + 1; n++) {
        AUTO(buf_release) struct buf b;
        struct err err;
        buf_init(&b, (size_t)4 * JSON_MARKS_MAX);
        buf_addc(&b, '[');
        buf_adds(&b, quoted);
        for (size_t i = 2; i < n; i++) /* the bracket, and the comma behind the string */
            buf_adds(&b, "1,");
        buf_adds(&b, "1]");
        AUTO(json_unref_p) json_t *bounded = json_parse_foreign(buf_str(&b), &err);
        assert_int_equal(!bounded, n > JSON_MARKS_MAX);
        assert_true(bounded || err.code == ERR_TOO_LARGE);
        AUTO(json_unref_p) json_t *all = json_parse(buf_str(&b), &err);
        assert_int_equal(json_array_size(all), n);
    }
}

static void test_json_parse_is_strict(void **state)
{
    static const char *const bad[] = {
        "",
        " ",
        "{",
        "{}x",
        "{} {}",
        "[1,]",
        "{\"a\":1,}",
        "{'a':1}",
        "{a:1}",
        "nul",
        "NaN",
        "Infinity",
        "01",
        "1.",
        ".5",
        "\"\x01\"",
        "\"\xFF\"",
        "\"\\ud800\"",
        "\"\\u12\"",
        "/**/{}",
        "\xEF\xBB\xBF{}",
        "1e999",
        "\"\\x\"",
        "99999999999999999999",
        "{\"a\":1,\"a\":2}",
        "{\"\\u0061\":1,\"a\":2}",
        "{\"a\\u0000\":1}",
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct err err = {.code = ERR_NONE};
        json_t *j = json_parse(str_c(bad[i]), &err);
        if (j)
            fail_msg("accepted: %s", bad[i]);
        assert_int_equal(err.code, ERR_INVALID);
        assert_memory_equal(err.msg, "not valid JSON: line ", 21);
    }
    assert_null(json_parse(str_n(NULL, 0), NULL));
    assert_null(json_parse(STR("{}\0"), NULL));
}

static void test_json_parse_values_and_nul(void **state)
{
    struct err err;
    (void)state;
    json_t *j = json_parse(STR("\"a\\u0000b\""), &err);
    assert_true(str_eq(json_str_of(j), STR("a\0b")));
    json_decref(j);
    j = json_parse(STR("{\"a\":{\"b\":[1,true,null,2.5]},\"n\":-9223372036854775808}"), &err);
    assert_true(json_get_int(j, "n", 0) == INT64_MIN);
    assert_true(json_get_int(j, "a", 5) == 5);
    assert_true(json_get_int(NULL, "a", 5) == 5);
    assert_false(json_get_bool(j, "n", false));
    assert_int_equal(json_get_str(j, "n").len, 0);
    assert_int_equal(json_get_str(NULL, "n").len, 0);
    json_decref(j);
}

static struct str nested(char *text, size_t depth)
{
    memset(text, '[', depth);
    memset(text + depth, ']', depth);
    return str_n(text, 2 * depth);
}

static void test_json_depth_is_limited(void **state)
{
    char *text = x_malloc(2 * 200000);
    struct err err;
    (void)state;
    json_t *j = json_parse(nested(text, 2000), &err);
    assert_non_null(j);
    struct buf b;
    buf_init(&b, 100000);
    json_write(&b, j);
    assert_int_equal(b.len, 4000);
    buf_release(&b);
    json_decref(j);
    assert_null(json_parse(nested(text, 2050), &err));
    assert_null(json_parse(nested(text, 200000), &err)); /* not by stack overflow */
    assert_int_equal(err.code, ERR_INVALID);
    free(text);
}

/* As few digits as say the same value, and every value comes back. */
static void test_json_write_numbers(void **state)
{
    static const char *const cases[][2] = {
        {"0.1", "0.1"},
        {"19.99", "19.99"},
        {"1.10", "1.1"},
        {"1e2", "100.0"},
        {"0.0", "0.0"},
        {"-0.0", "-0.0"},
        {"0.30000000000000004", "0.30000000000000004"},
        {"1e300", "1e+300"},
        {"-9223372036854775808", "-9223372036854775808"},
        {"123456789012345.6", "123456789012345.6"},
    };
    struct err err;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct buf b;
        json_t *j = json_parse(str_c(cases[i][0]), &err);
        buf_init(&b, 100);
        json_write(&b, j);
        assert_string_equal(buf_cstr(&b), cases[i][1]);
        json_t *again = json_parse(buf_str(&b), &err);
        assert_true(json_equal(j, again));
        json_decref(again);
        json_decref(j);
        buf_release(&b);
    }
}

static void test_json_write_is_compact(void **state)
{
    static const char text[] =
        "{\"z\":[],\"a\":[1,-2.5,true,false,null,\"\\u0000\xc3\xa4\\\"\\n\"],\"m\":{\"\":{}}}";
    struct err err;
    struct buf b;
    (void)state;
    json_t *j = json_parse(str_c(text), &err);
    assert_non_null(j);
    buf_init(&b, 200);
    json_write(&b, j);
    assert_string_equal(buf_cstr(&b), text);
    buf_release(&b);
    json_decref(j);
}

static void test_json_write_over_the_limit_says_so(void **state)
{
    struct buf b;
    (void)state;
    json_t *j = json_pack("{s:s}", "key", "value");
    buf_init(&b, 15);
    json_write(&b, j);
    assert_true(buf_ok(&b));
    assert_string_equal(buf_cstr(&b), "{\"key\":\"value\"}");
    buf_release(&b);
    buf_init(&b, 14);
    json_write(&b, j);
    assert_false(buf_ok(&b));
    buf_release(&b);
    json_decref(j);
    buf_init(&b, 14);
    json_write(&b, NULL);
    assert_false(buf_ok(&b));
    buf_release(&b);
}

struct all {
    char tag;
    bool has_text, has_num, has_any;
    struct str text, any_text;
    bool flag;
    int64_t num, free_num;
    double real;
    json_t *array, *object, *any;
};

#define AT(m) .offset = offsetof(struct all, m)
static const struct json_field all_fields[] = {
    {"text", JF_STRING, AT(text), offsetof(struct all, has_text), false, 2, 5},
    {"any_text", JF_STRING, AT(any_text)},
    {"flag", JF_BOOL, AT(flag)},
    {"num", JF_INT, AT(num), offsetof(struct all, has_num), false, -3, 7},
    {"free_num", JF_INT, AT(free_num)},
    {"real", JF_REAL, AT(real), .min = 0, .max = 1},
    {"array", JF_ARRAY, AT(array)},
    {"object", JF_OBJECT, AT(object)},
    {"any", JF_ANY, AT(any), offsetof(struct all, has_any)},
};

static int read_all_fields(const char *text, struct all *out, struct err *err, json_t **ret)
{
    *out = (struct all){.num = 99, .text = STR("before")};
    *err = (struct err){.code = ERR_NONE};
    *ret = json_parse(str_c(text), err);
    if (!*ret)
        fail_msg("%s", err->msg);
    return json_read_fields(*ret, all_fields, ARRAY_SIZE(all_fields), out, err);
}

static void test_fields_read(void **state)
{
    struct all a;
    struct err err;
    json_t *j;
    (void)state;
    assert_int_equal(read_all_fields("{\"text\":\"a\\u0000b\",\"any_text\":\"\",\"flag\":true,"
                                     "\"num\":-3,\"free_num\":9223372036854775807,\"real\":1,"
                                     "\"array\":[],\"object\":{},\"any\":null}",
                                     &a, &err, &j),
                     0);
    assert_true(str_eq(a.text, STR("a\0b")));
    assert_true(a.has_text && a.flag && a.has_num && a.has_any);
    assert_true(a.num == -3 && a.free_num == INT64_MAX);
    assert_true(a.real >= 1.0 && a.real <= 1.0);
    assert_true(json_is_array(a.array) && json_is_object(a.object) && json_is_null(a.any));
    assert_int_equal(err.code, ERR_NONE); /* untouched */
    json_decref(j);
}

static void test_fields_null_is_absent(void **state)
{
    struct all a;
    struct err err;
    json_t *j;
    (void)state;
    assert_int_equal(
        read_all_fields("{\"text\":null,\"num\":null,\"flag\":null,\"array\":null}", &a, &err, &j),
        0);
    assert_false(a.has_text || a.has_num || a.has_any);
    assert_int_equal(a.num, 99);
    assert_true(str_eq_c(a.text, "before"));
    assert_null(a.array);
    json_decref(j);
}

static void test_fields_refuse(void **state)
{
    static const struct {
        const char *json, *field, *msg;
    } rows[] = {
        {"[]", "", "must be a JSON object"},
        {"1", "", "must be a JSON object"},
        {"null", "", "must be a JSON object"},
        {"{\"other\":1}", "other", "other: unknown field"},
        {"{\"Text\":\"abc\"}", "Text", "Text: unknown field"},
        {"{\"other\":null}", "other", "other: unknown field"},
        {"{\"\":1}", "", ": unknown field"},
        {"{\"text\":1}", "text", "text: must be a string"},
        {"{\"text\":[\"a\"]}", "text", "text: must be a string"},
        {"{\"text\":\"\"}", "text", "text: must not be empty"},
        {"{\"text\":\"a\"}", "text", "text: must not be that short"},
        {"{\"text\":\"abcdef\"}", "text", "text: must be at most 5 bytes long"},
        {"{\"flag\":1}", "flag", "flag: must be true or false"},
        {"{\"flag\":\"true\"}", "flag", "flag: must be true or false"},
        {"{\"num\":\"1\"}", "num", "num: must be an integer"},
        {"{\"num\":1.0}", "num", "num: must be an integer"},
        {"{\"num\":-4}", "num", "num: must be between -3 and 7"},
        {"{\"num\":8}", "num", "num: must be between -3 and 7"},
        {"{\"num\":9223372036854775807}", "num", "num: must be between -3 and 7"},
        {"{\"real\":true}", "real", "real: must be a number"},
        {"{\"real\":-0.0001}", "real", "real: must be between 0 and 1"},
        {"{\"real\":1.0000001}", "real", "real: must be between 0 and 1"},
        {"{\"array\":{}}", "array", "array: must be an array"},
        {"{\"object\":[]}", "object", "object: must be an object"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct all a;
        struct err err;
        json_t *j;
        if (read_all_fields(rows[i].json, &a, &err, &j) == 0)
            fail_msg("accepted: %s", rows[i].json);
        assert_int_equal(err.code, ERR_INVALID);
        assert_string_equal(err.field, rows[i].field);
        assert_string_equal(err.msg, rows[i].msg);
        json_decref(j);
    }
}

static void test_fields_required(void **state)
{
    struct {
        char tag;
        struct str name;
        json_t *any;
    } out = {0};
    const struct json_field fields[] = {
        {.name = "name", .type = JF_STRING, .offset = 8, .required = true},
        {.name = "any", .type = JF_ANY, .offset = 24, .required = true},
    };
    struct err err;
    (void)state;
    assert_int_equal(fields[0].offset, (char *)&out.name - (char *)&out);
    assert_int_equal(fields[1].offset, (char *)&out.any - (char *)&out);
    static const char *const texts[] = {"{}", "{\"name\":null,\"any\":1}", "{\"name\":\"x\"}",
                                        "{\"name\":\"\",\"any\":null}"};
    static const char *const faults[] = {"name", "name", "any", NULL};
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        json_t *j = json_parse(str_c(texts[i]), &err);
        int rc = json_read_fields(j, fields, 2, &out, &err);
        assert_int_equal(rc, faults[i] ? -1 : 0);
        if (faults[i])
            assert_string_equal(err.field, faults[i]);
        json_decref(j);
    }
}

/* A name of any length or content is told without breaking the error. */
static void test_fields_long_unknown_name(void **state)
{
    char text[600];
    struct err err;
    struct all a;
    json_t *j;
    (void)state;
    snprintf(text, sizeof(text), "{\"%0500d\":1}", 0);
    assert_int_equal(read_all_fields(text, &a, &err, &j), -1);
    assert_int_equal(strlen(err.field), 60);
    assert_non_null(strstr(err.msg, ": unknown field"));
    json_decref(j);
}

#endif
