/* test_vault.c - what is sealed opens with its key and in its place, and nowhere else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "vault/vault.h"

#include <sodium.h>

#define KEY_A "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
#define KEY_B "ff0102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1EFF"
#define ALIKE "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=" /* KEY_A */

static struct vault *new_vault(const char *keys)
{
    struct err err;
    struct vault *v = vault_new(keys, &err);
    if (!v)
        fail_msg("%s", err.msg);
    return v;
}

static char *seal(const struct vault *v, const char *context, const char *plain)
{
    struct buf b;
    buf_init(&b, 1 << 20);
    vault_seal(v, context, str_c(plain), &b);
    assert_true(buf_ok(&b));
    return buf_take(&b);
}

static void opens_as(const struct vault *v, const char *context, const char *sealed,
                     const char *plain)
{
    AUTO(buf_release) struct buf b;
    struct err err;
    buf_init(&b, 1 << 20);
    buf_adds(&b, "before ");
    if (vault_open(v, context, str_c(sealed), false, &b, &err) != 0)
        fail_msg("%s", err.msg);
    assert_memory_equal(buf_cstr(&b), "before ", 7);
    assert_string_equal(buf_cstr(&b) + 7, plain);
}

static void does_not_open(const struct vault *v, const char *context, struct str sealed,
                          bool must_be_sealed, const char *because)
{
    AUTO(buf_release) struct buf b;
    struct err err = {.code = ERR_NONE};
    buf_init(&b, 1 << 20);
    assert_int_equal(vault_open(v, context, sealed, must_be_sealed, &b, &err), -1);
    assert_int_equal(err.code, ERR_INTERNAL);
    assert_int_equal(b.len, 0);
    if (!strstr(err.msg, because))
        fail_msg("'%s' does not say '%s'", err.msg, because);
}

static void test_round_trip(void **state)
{
    static const char *const texts[] = {"", "x", "{\"messages\":[]}", "v1:", "\xc3\xa9"};
    struct vault *v = new_vault(KEY_A);
    (void)state;
    assert_true(vault_has_key(v));
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        char *sealed = seal(v, "session 1", texts[i]);
        assert_true(strlen(sealed) < 100 && !strstr(sealed, "messages"));
        assert_int_equal(strspn(sealed, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                        "0123456789-_:"),
                         strlen(sealed));
        opens_as(v, "session 1", sealed, texts[i]);
        char *again = seal(v, "session 1", texts[i]);
        assert_string_not_equal(sealed, again); /* a nonce of its own */
        free(again);
        free(sealed);
    }
    vault_free(v);
}

static void test_large(void **state)
{
    struct vault *v = new_vault(KEY_A);
    size_t n = 3000001;
    char *text = x_malloc(n + 1);
    struct buf sealed, plain, small;
    struct err err;
    (void)state;
    memset(text, 'a', n);
    text[n] = '\0';
    buf_init(&sealed, 5 << 20);
    buf_init(&plain, n);
    vault_seal(v, "c", str_n(text, n), &sealed);
    assert_true(buf_ok(&sealed));
    assert_int_equal(vault_open(v, "c", buf_str(&sealed), true, &plain, &err), 0);
    assert_int_equal(plain.len, n);
    assert_memory_equal(plain.data, text, n);
    buf_init(&small, 1000); /* over its limit: the buffer says so */
    vault_seal(v, "c", str_n(text, n), &small);
    assert_false(buf_ok(&small));
    buf_release(&small);
    buf_release(&sealed);
    buf_release(&plain);
    free(text);
    vault_free(v);
}

static void test_every_altered_byte_is_noticed(void **state)
{
    struct vault *v = new_vault(KEY_A);
    char *sealed = seal(v, "session 1", "hello");
    size_t n = strlen(sealed);
    (void)state;
    for (size_t i = 12; i < n; i++) {
        char was = sealed[i];
        sealed[i] = was == 'A' ? 'B' : 'A';
        does_not_open(v, "session 1", str_n(sealed, n), false, "altered or moved");
        sealed[i] = '=';
        does_not_open(v, "session 1", str_n(sealed, n), false, "altered or moved");
        sealed[i] = was;
    }
    for (size_t len = 13; len < n; len++)
        does_not_open(v, "session 1", str_n(sealed, len), false, "altered or moved");
    opens_as(v, "session 1", sealed, "hello");
    free(sealed);
    vault_free(v);
}

static void test_another_context(void **state)
{
    struct vault *v = new_vault(KEY_A);
    char *sealed = seal(v, "session 1", "hello");
    (void)state;
    does_not_open(v, "session 2", str_c(sealed), false, "session 2");
    does_not_open(v, "", str_c(sealed), false, "altered or moved");
    free(sealed);
    vault_free(v);
}

static void test_rotation(void **state)
{
    struct vault *old = new_vault(KEY_A),
                 *both = new_vault("# new\n" KEY_B "\r\n\n" KEY_A " # old\n");
    struct vault *new = new_vault(KEY_B), *comma = new_vault(" " KEY_B " , " ALIKE ",");
    char *sealed = seal(old, "c", "hello"), *again;
    (void)state;
    assert_true(vault_is_current(old, str_c(sealed)));
    assert_false(vault_is_current(both, str_c(sealed)));
    opens_as(both, "c", sealed, "hello");
    opens_as(comma, "c", sealed, "hello");
    again = seal(both, "c", "hello");
    assert_true(vault_is_current(both, str_c(again)) && vault_is_current(new, str_c(again)));
    assert_false(vault_is_current(old, str_c(again)));
    opens_as(new, "c", again, "hello");
    does_not_open(old, "c", str_c(again), false, vault_key_id(new, 0));
    does_not_open(new, "c", str_c(sealed), false, vault_key_id(old, 0));
    assert_string_equal(vault_key_id(both, 1), vault_key_id(old, 0));
    assert_null(vault_key_id(both, 2));
    free(sealed);
    free(again);
    vault_free(old);
    vault_free(both);
    vault_free(new);
    vault_free(comma);
}

static void test_a_key_under_anothers_name(void **state)
{
    struct vault *a = new_vault(KEY_A), *b = new_vault(KEY_B);
    char *sealed = seal(a, "c", "hello");
    (void)state;
    memcpy(sealed + 3, vault_key_id(b, 0), 8);
    does_not_open(b, "c", str_c(sealed), false, "altered or moved");
    free(sealed);
    vault_free(a);
    vault_free(b);
}

static void test_without_a_key(void **state)
{
    static const char *const none[] = {NULL, "", "\n\n", "# nothing\n", " , ,"};
    struct vault *with = new_vault(KEY_A);
    char *sealed = seal(with, "c", "hello");
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(none); i++) {
        struct vault *v = new_vault(none[i]);
        assert_false(vault_has_key(v));
        assert_null(vault_key_id(v, 0));
        char *plain = seal(v, "c", "text");
        assert_string_equal(plain, "text");
        opens_as(v, "c", plain, "text");
        opens_as(NULL, "c", plain, "text");
        assert_true(vault_is_current(v, str_c(plain)));
        assert_true(vault_is_current(v, str_c(sealed)));
        does_not_open(v, "c", str_c(sealed), false, "not configured");
        does_not_open(v, "c", STR("text"), true, "not sealed");
        free(plain);
        vault_free(v);
    }
    /* what was not sealed goes on being read, and is to be sealed */
    opens_as(with, "c", "text", "text");
    assert_false(vault_is_current(with, STR("text")));
    does_not_open(with, "c", STR("text"), true, "not sealed");
    free(sealed);
    vault_free(with);
}

/* Looks like one, but is not: taken as plain text. */
static void test_what_is_not_sealed(void **state)
{
    static const char *const texts[] = {"v1:",
                                        "v1:01234567:",
                                        "v1:0123456:abcdef",
                                        "v1:0123456Z:ab",
                                        "v1:012345678:a",
                                        "v2:01234567:ab",
                                        "{\"v1:01234567:\":1}"};
    struct vault *v = new_vault(KEY_A);
    char id[VAULT_KEY_ID_SIZE];
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        assert_false(vault_is_sealed(str_c(texts[i]), id));
        opens_as(v, "c", texts[i], texts[i]);
    }
    assert_true(vault_is_sealed(STR("v1:01234567:ab"), id));
    assert_string_equal(id, "01234567");
    does_not_open(v, "c", STR("v1:01234567:ab"), false, "master key 01234567, which is not conf");
    vault_free(v);
}

static void refuses(const char *keys, const char *because)
{
    struct err err;
    struct vault *v = vault_new(keys, &err);
    assert_null(v);
    assert_int_equal(err.code, ERR_CONFIG);
    if (!strstr(err.msg, because) || strstr(err.msg, "0001"))
        fail_msg("'%s': '%s'", because, err.msg);
}

static void test_bad_keys(void **state)
{
    char many[17 * 70] = "";
    (void)state;
    refuses("secret", "master key 1 must be");
    refuses("00010203", "master key 1 must be");
    refuses(KEY_A "00", "master key 1 must be");
    refuses(KEY_A "\n0001 0203", "master key 2 must be");
    refuses(KEY_B "," ALIKE "," KEY_A, "master keys 2 and 3 are the same");
    refuses("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHg==", "master key 1 must be"); /* 31 */
    for (size_t i = 0, at = 0; i < 17; i++)
        at += (size_t)snprintf(many + at, sizeof(many) - at, "%064zx\n", i + 100);
    refuses(many, "more than 16");
}

static void test_base64_forms(void **state)
{
    /* 32 bytes whose base64 has both characters in which the alphabets differ */
    static const char *const forms[] = {"++//AgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4=",
                                        "++//AgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4",
                                        "--__AgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4=",
                                        "--__AgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4"};
    struct vault *first = new_vault(forms[0]);
    (void)state;
    for (size_t i = 1; i < ARRAY_SIZE(forms); i++) {
        struct vault *v = new_vault(forms[i]);
        assert_string_equal(vault_key_id(v, 0), vault_key_id(first, 0));
        vault_free(v);
    }
    vault_free(first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_every_altered_byte_is_noticed),
        cmocka_unit_test(test_another_context),
        cmocka_unit_test(test_rotation),
        cmocka_unit_test(test_a_key_under_anothers_name),
        cmocka_unit_test(test_without_a_key),
        cmocka_unit_test(test_what_is_not_sealed),
        cmocka_unit_test(test_bad_keys),
        cmocka_unit_test(test_base64_forms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
