/* core_text.h - part of test_core.c: errors, borrowed text, capped buffers. */
#ifndef CG_TESTS_CORE_TEXT_H
#define CG_TESTS_CORE_TEXT_H

#include "core/buf.h"
#include "core/err.h"
#include "core/list.h"

#include <jansson.h>

/* --- err ---------------------------------------------------------------------------------- */

static void test_err_every_code_has_a_row(void **state)
{
    (void)state;
    for (int i = 0; i < ERR_CODE_COUNT; i++) {
        const struct err_info *info = err_info((enum err_code)i);
        assert_non_null(info->name);
        assert_true(info->name[0] != '\0');
        assert_in_range(info->status, 200, 599);
        assert_in_range(info->anthropic_status, 200, 599);
        assert_non_null(info->anthropic_type);
        assert_non_null(info->openai_type);
        for (int k = 0; k < i; k++)
            assert_string_not_equal(info->name, err_info((enum err_code)k)->name);
        if (i != ERR_NONE)
            assert_true(info->status >= 400);
    }
}

/* Whatever could quote a path, SQL or a process's stderr is replaced before a client sees it. */
static void test_err_internals_stay_inside(void **state)
{
    static const enum err_code hidden[] = {ERR_WORKER, ERR_UNAVAILABLE, ERR_IO, ERR_CONFIG,
                                           ERR_INTERNAL};
    static const enum err_code shown[] = {ERR_INVALID, ERR_FORBIDDEN, ERR_UPSTREAM, ERR_OVERLOADED};
    struct err err;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(hidden); i++) {
        err_set(&err, hidden[i], "cannot open '/etc/secret'");
        assert_null(strstr(err_public_msg(&err), "secret"));
        assert_true(err_info(hidden[i])->is_fault);
    }
    for (size_t i = 0; i < ARRAY_SIZE(shown); i++) {
        err_set(&err, shown[i], "said %d", 7);
        assert_string_equal(err_public_msg(&err), "said 7");
    }
}

static void test_err_set_clears_what_was_there(void **state)
{
    struct err err;
    (void)state;
    assert_int_equal(err_field(&err, "model", "is required"), -1);
    err.status = 418;
    err.retry_after_s = 9;
    assert_int_equal(err_set(&err, ERR_QUOTA, "spent %d of %d", 5, 5), -1);
    assert_int_equal(err.code, ERR_QUOTA);
    assert_int_equal(err.status, 0);
    assert_int_equal(err.retry_after_s, 0);
    assert_string_equal(err.field, "");
    assert_string_equal(err.msg, "spent 5 of 5");
    assert_int_equal(err_status(&err), 429);
    err.status = 451;
    assert_int_equal(err_status(&err), 451);
}

static void test_err_field_and_prefix(void **state)
{
    struct err err;
    (void)state;
    err_field(&err, "maxTokens", "must be between %d and %d", 1, 9);
    assert_int_equal(err.code, ERR_INVALID);
    assert_string_equal(err.field, "maxTokens");
    assert_string_equal(err.msg, "maxTokens: must be between 1 and 9");
    assert_int_equal(err_prefix(&err, "pool '%s'", "default"), -1);
    assert_string_equal(err.msg, "pool 'default': maxTokens: must be between 1 and 9");
    assert_string_equal(err.field, "maxTokens");
    assert_int_equal(err.code, ERR_INVALID);
}

static void test_err_truncates_and_stays_text(void **state)
{
    struct err err;
    char big[2000];
    (void)state;
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    err_set(&err, ERR_INVALID, "%s", big);
    assert_int_equal(strlen(err.msg), sizeof(err.msg) - 1);
    err_prefix(&err, "%s", big);
    assert_int_equal(strlen(err.msg), sizeof(err.msg) - 1);
    err_field(&err, big, "%s", big);
    assert_int_equal(strlen(err.field), sizeof(err.field) - 1);
    assert_int_equal(strlen(err.msg), sizeof(err.msg) - 1);
    for (int i = 0; i < 50; i++)
        err_prefix(&err, "level %d", i);
    assert_memory_equal(err.msg, "level 49: level 48: ", 20);
}

static void test_err_may_be_null(void **state)
{
    (void)state;
    assert_int_equal(err_set(NULL, ERR_IO, "%s", "x"), -1);
    assert_int_equal(err_field(NULL, "f", "%s", "x"), -1);
    assert_int_equal(err_prefix(NULL, "%s", "x"), -1);
}

/* --- str ---------------------------------------------------------------------------------- */

static void test_str_null_is_empty(void **state)
{
    struct str null = {NULL, 0}, rest = null;
    (void)state;
    assert_true(str_eq(null, STR("")));
    assert_true(str_eq_c(null, ""));
    assert_true(str_ieq_c(null, ""));
    assert_true(str_starts(null, ""));
    assert_false(str_starts(null, "a"));
    assert_false(str_contains(null, "a"));
    assert_int_equal(str_trim(null).len, 0);
    assert_int_equal(str_split(&rest, ',').len, 0);
    assert_int_equal(rest.len, 0);
    assert_true(str_is_utf8(null));
    assert_true(str_glob("*", null));
    assert_false(str_glob("a", null));
    char *copy = str_dup(null);
    assert_string_equal(copy, "");
    free(copy);
    assert_int_equal(str_c(NULL).len, 0);
}

static void test_str_split_keeps_every_part(void **state)
{
    struct str s = STR(",a,,b,");
    (void)state;
    assert_true(str_eq_c(str_split(&s, ','), ""));
    assert_true(str_eq_c(str_split(&s, ','), "a"));
    assert_true(str_eq_c(str_split(&s, ','), ""));
    assert_true(str_eq_c(str_split(&s, ','), "b"));
    assert_int_equal(s.len, 0);
    struct str nul = STR("x\0y:z");
    struct str head = str_split(&nul, ':');
    assert_int_equal(head.len, 3);
    assert_true(str_eq_c(nul, "z"));
}

static void test_str_compare(void **state)
{
    (void)state;
    assert_true(str_ieq_c(STR("BeArEr"), "bearer"));
    assert_false(str_ieq_c(STR("bearer "), "bearer"));
    assert_false(str_ieq_c(STR("bear\0r"), "bearer"));
    assert_false(str_eq_c(STR("a\0b"), "a"));
    assert_true(str_eq_c(str_trim(STR(" \t a b\t ")), "a b"));
    assert_true(str_eq_c(str_trim(STR(" \t ")), ""));
    assert_true(str_contains(STR("a\0needle"), "needle"));
    assert_false(str_contains(STR("need"), "needle"));
    assert_true(str_starts(STR("abc"), "abc"));
    assert_false(str_starts(STR("ab"), "abc"));
}

static void test_str_to_u64(void **state)
{
    static const char *const bad[] = {"",
                                      "-1",
                                      "+1",
                                      " 1",
                                      "1 ",
                                      "0x1",
                                      "1e3",
                                      "1.0",
                                      "١",
                                      "18446744073709551616",
                                      "99999999999999999999999999999999"};
    uint64_t v = 42;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_false(str_to_u64(str_c(bad[i]), &v));
        assert_int_equal(v, 42); /* untouched */
    }
    assert_false(str_to_u64(STR("1\0"), &v));
    assert_true(str_to_u64(STR("18446744073709551615"), &v));
    assert_true(v == UINT64_MAX);
    assert_true(str_to_u64(STR("00000000000000000000000000000000000007"), &v));
    assert_true(v == 7);
}

static void test_str_glob(void **state)
{
    static const struct {
        const char *pattern, *text;
        bool match;
    } rows[] = {
        {"", "", true},
        {"", "a", false},
        {"*", "", true},
        {"*", "anything", true},
        {"claude-*", "claude-", true},
        {"claude-*", "claude", false},
        {"claude-*", "xclaude-1", false},
        {"*-4-5", "claude-sonnet-4-5", true},
        {"*-4-5", "claude-sonnet-4-5x", false},
        {"a*b*c", "a1b2b3c", true},
        {"a*b*c", "a1c2b", false},
        {"**a**", "bab", true},
        {"*ab", "aab", true},
        {"*aab", "aaaab", true},
        {"a?c", "abc", false},
        {"a?c", "a?c", true},
        {"[ab]", "a", false},
        {"*.*", "no dot", false},
        {"CLAUDE-*", "claude-1", false},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        if (str_glob(rows[i].pattern, str_c(rows[i].text)) != rows[i].match)
            fail_msg("'%s' against '%s'", rows[i].pattern, rows[i].text);
    }
    assert_false(str_glob("a", STR("a\0b")));
    assert_true(str_glob("a*", STR("a\0b")));
}

/* A pattern from an operator must not make a long name expensive. */
static void test_str_glob_is_not_exponential(void **state)
{
    char text[4001];
    (void)state;
    memset(text, 'a', 4000);
    text[4000] = '\0';
    assert_false(str_glob("*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b", str_c(text)));
}

/* The definition, from the code points: every encoding of 1-4 bytes is tried against it. */
static void encode_utf8(uint32_t cp, size_t len, unsigned char out[4])
{
    static const unsigned char first[] = {0, 0x00, 0xC0, 0xE0, 0xF0};
    for (size_t i = len; i-- > 1; cp >>= 6)
        out[i] = (unsigned char)(0x80 | (cp & 0x3F));
    out[0] = (unsigned char)(first[len] | cp);
}

static void test_utf8_every_code_point_at_every_length(void **state)
{
    static const uint32_t limit[] = {0, 0x80, 0x800, 0x10000, 0x200000};
    (void)state;
    for (size_t len = 1; len <= 4; len++) {
        for (uint32_t cp = 0; cp < limit[len]; cp++) {
            unsigned char b[4];
            bool surrogate = cp >= 0xD800 && cp <= 0xDFFF;
            bool good = cp >= limit[len - 1] && !surrogate && cp <= 0x10FFFF;
            encode_utf8(cp, len, b);
            if (str_is_utf8(str_n((char *)b, len)) != good)
                fail_msg("U+%04X in %zu bytes", cp, len);
        }
    }
}

static void test_utf8_every_pair_and_cut(void **state)
{
    (void)state;
    for (unsigned a = 0; a < 256; a++) {
        for (unsigned b = 0; b < 256; b++) {
            char s[2] = {(char)a, (char)b};
            bool good = (a < 0x80 && b < 0x80) || (a >= 0xC2 && a <= 0xDF && (b & 0xC0) == 0x80);
            if (str_is_utf8(str_n(s, 2)) != good)
                fail_msg("%02x %02x", a, b);
        }
    }
    static const char whole[] = "\xF0\x9F\x98\x80";
    for (size_t cut = 1; cut < 4; cut++) { /* copies of the exact size: reading on is seen */
        char *part = x_malloc(cut);
        memcpy(part, whole, cut);
        assert_false(str_is_utf8(str_n(part, cut)));
        free(part);
    }
    assert_true(str_is_utf8(STR("a\0b\xEF\xBF\xBF")));
    char text[] = "ab\xE4\xB8\xAD\xE4\xB8";
    str_end_utf8(text);
    assert_string_equal(text, "ab\xE4\xB8\xAD");
    str_end_utf8(text);
    assert_string_equal(text, "ab\xE4\xB8\xAD");
}

/* --- buf ---------------------------------------------------------------------------------- */

static void test_buf_limit_is_exact(void **state)
{
    struct buf b;
    (void)state;
    buf_init(&b, 10);
    buf_adds(&b, "0123456789");
    assert_true(buf_ok(&b));
    assert_int_equal(b.len, 10);
    assert_string_equal(buf_cstr(&b), "0123456789");
    buf_add(&b, "x", 0);
    assert_true(buf_ok(&b));
    buf_addc(&b, 'x');
    assert_false(buf_ok(&b));
    assert_int_equal(b.len, 10);
    buf_consume(&b, 10); /* room again, but something is missing: the flag stays */
    buf_adds(&b, "y");
    assert_int_equal(b.len, 0);
    buf_clear(&b);
    buf_adds(&b, "y");
    assert_true(buf_ok(&b));
    assert_string_equal(buf_cstr(&b), "y");
    buf_release(&b);
    assert_int_equal(b.max, 10);
    buf_adds(&b, "again");
    assert_string_equal(buf_cstr(&b), "again");
    buf_release(&b);
}

static void test_buf_rejects_absurd_sizes(void **state)
{
    struct buf b;
    (void)state;
    buf_init(&b, 100);
    buf_adds(&b, "abc");
    assert_false(buf_reserve(&b, SIZE_MAX));
    assert_false(buf_ok(&b));
    buf_clear(&b);
    assert_false(buf_reserve(&b, SIZE_MAX - 2));
    buf_clear(&b);
    assert_true(buf_reserve(&b, 100));
    memset(b.data, 'z', 100);
    buf_grow_len(&b, 100);
    assert_int_equal(b.len, 100);
    assert_int_equal(b.data[100], '\0');
    buf_release(&b);
}

static void test_buf_consume(void **state)
{
    struct buf b;
    (void)state;
    buf_init(&b, 64);
    buf_consume(&b, 0);
    assert_string_equal(buf_cstr(&b), "");
    buf_add(&b, "ab\0cd", 5);
    buf_consume(&b, 2);
    assert_int_equal(b.len, 3);
    assert_memory_equal(b.data, "\0cd", 4);
    buf_consume(&b, 3);
    assert_string_equal(buf_cstr(&b), "");
    char *owned = buf_take(&b);
    assert_string_equal(owned, "");
    free(owned);
    owned = buf_take(&b); /* nothing was ever appended since */
    assert_string_equal(owned, "");
    free(owned);
    assert_int_equal(b.max, 64);
}

static void test_buf_printf_around_its_stack_buffer(void **state)
{
    (void)state;
    for (int n = 250; n < 262; n++) {
        struct buf b;
        buf_init(&b, 300);
        buf_printf(&b, "%0*d", n, 7);
        assert_int_equal(b.len, n);
        assert_int_equal(strlen(buf_cstr(&b)), n);
        assert_int_equal(b.data[n - 1], '7');
        buf_printf(&b, "%s", "");
        assert_int_equal(b.len, n);
        buf_printf(&b, "%0*d", 301 - n, 1);
        assert_false(buf_ok(&b));
        assert_int_equal(b.len, n);
        buf_release(&b);
    }
}

/* The string written for s, as a JSON parser reads it back; owned. */
static json_t *json_of(struct str s)
{
    struct buf b;
    json_error_t je;
    buf_init(&b, 1 << 20);
    buf_json_str(&b, s);
    assert_true(buf_ok(&b));
    json_t *j = json_loadb(b.data, b.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &je);
    if (!j)
        fail_msg("%s: %.*s", je.text, (int)b.len, b.data);
    assert_null(memchr(b.data, '\n', b.len));
    buf_release(&b);
    return j;
}

static void check_json_round_trip(struct str s)
{
    json_t *j = json_of(s);
    assert_int_equal(json_string_length(j), s.len);
    assert_memory_equal(json_string_value(j), s.p, s.len);
    json_decref(j);
}

static void test_json_str_valid_text_survives(void **state)
{
    (void)state;
    check_json_round_trip(STR(""));
    check_json_round_trip(STR("\"\\/\b\f\n\r\t"));
    check_json_round_trip(STR("\0\0a\0"));
    check_json_round_trip(STR("line\xE2\x80\xA8sep\xE2\x80\xA9para\xC2\x85nel\x7F"));
    check_json_round_trip(STR("\xEF\xBB\xBF\xF4\x8F\xBF\xBF\xEF\xBF\xBD"));
    for (int c = 0; c < 128; c++) {
        char one = (char)c;
        check_json_round_trip(str_n(&one, 1));
    }
    json_t *null = json_of(str_n(NULL, 0));
    assert_int_equal(json_string_length(null), 0);
    json_decref(null);
}

static void test_json_str_invalid_bytes_become_replacement(void **state)
{
    (void)state;
    for (int c = 128; c < 256; c++) {
        char s[3] = {'a', (char)c, '"'};
        json_t *j = json_of(str_n(s, 3));
        assert_string_equal(json_string_value(j), "a\xEF\xBF\xBD\"");
        json_decref(j);
    }
    json_t *surrogate = json_of(STR("\xED\xA0\x80\n"));
    assert_string_equal(json_string_value(surrogate), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\n");
    json_decref(surrogate);
}

static void test_json_str_over_the_limit_says_so(void **state)
{
    (void)state;
    for (size_t max = 1; max < 12; max++) { /* "a\u0001b" needs 10 bytes with its quotes */
        struct buf b;
        buf_init(&b, max);
        buf_json_str(&b, STR("a\x01"
                             "b"));
        assert_int_equal(buf_ok(&b), max >= 10);
        assert_true(b.len <= max);
        buf_release(&b);
    }
}

/* --- list --------------------------------------------------------------------------------- */

static void test_list_counts_and_forgives(void **state)
{
    struct list l;
    struct node n[3] = {{NULL, NULL}};
    size_t seen = 0;
    (void)state;
    list_init(&l);
    assert_null(list_first(&l));
    assert_null(list_pop_front(&l));
    list_remove(&l, &n[0]);
    list_push_back(&l, &n[1]);
    list_push_back(&l, &n[2]);
    list_push_front(&l, &n[0]);
    LIST_EACH(&l, it)
    {
        assert_ptr_equal(it, &n[seen++]);
        list_remove(&l, it);
        list_remove(&l, it);
    }
    assert_int_equal(seen, 3);
    assert_int_equal(l.len, 0);
    assert_false(node_linked(&n[1]));
}

#endif
