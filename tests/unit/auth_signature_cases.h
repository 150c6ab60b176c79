/* auth_signature_cases.h - making secrets anew, and checking signatures. */
#include "auth/signature.h"

#define MASTER "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
#define NONCE  "0123456789abcdef"

static void test_rotate_key(void **state)
{
    struct api_key key = {0};
    char first[KEY_TEXT_SIZE], second[KEY_TEXT_SIZE], third[KEY_TEXT_SIZE];
    (void)state;
    auth_key_generate(&key, first);
    AUTO(free_charp) char *hash = x_strdup(key.secret_hash);
    int64_t before = clock_wall_ms();
    auth_key_rotate(&key, 5000, second);
    assert_int_equal(strncmp(first, second, 19), 0);
    assert_string_not_equal(first, second);
    assert_string_equal(key.old_secret_hash, hash);
    assert_in_range(key.old_secret_until - before, 5000, 65000);
    assert_true(auth_bcrypt_check(second + 19, key.secret_hash));
    assert_false(auth_bcrypt_check(first + 19, key.secret_hash));
    auth_key_rotate(&key, 0, third);
    assert_null(key.old_secret_hash);
    assert_int_equal(key.old_secret_until, 0);
    assert_true(auth_bcrypt_check(third + 19, key.secret_hash));
    free(key.secret_hash);
}

static struct vault *open_vault(const char *keys)
{
    struct err err;
    struct vault *v = vault_new(keys, &err);
    assert_non_null(v);
    return v;
}

static void release_key(struct api_key *key)
{
    free(key->secret_hash);
    free(key->old_secret_hash);
    free(key->signing_secret);
    free(key->old_signing_secret);
}

static void test_signing_secret(void **state)
{
    struct vault *none = open_vault(NULL), *v = open_vault(MASTER);
    struct api_key key = {0};
    char text[KEY_TEXT_SIZE], signing[SIGNING_TEXT_SIZE] = "", again[SIGNING_TEXT_SIZE];
    struct err err = {0};
    (void)state;
    auth_key_generate(&key, text);
    assert_int_equal(auth_signing_generate(&key, none, signing, &err), -1);
    assert_int_equal(err.code, ERR_CONFIG);
    assert_non_null(strstr(err.msg, "vault.master_key"));
    assert_null(key.signing_secret);
    assert_int_equal(auth_signing_generate(&key, v, signing, &err), 0);
    assert_int_equal(strlen(signing), SIGNING_TEXT_SIZE - 1);
    assert_int_equal(strncmp(signing, "ss-cg-", 6), 0);
    assert_null(strstr(key.signing_secret, signing + 6)); /* sealed */
    AUTO(free_charp) char *sealed = x_strdup(key.signing_secret);
    assert_int_equal(auth_signing_generate(&key, v, again, &err), 0); /* no overlap: no old one */
    assert_string_not_equal(signing, again);
    assert_null(key.old_signing_secret);
    auth_key_rotate(&key, 1000, text);
    AUTO(free_charp) char *before = x_strdup(key.signing_secret);
    assert_int_equal(auth_signing_generate(&key, v, again, &err), 0);
    assert_string_equal(key.old_signing_secret, before);
    assert_string_not_equal(key.signing_secret, sealed);
    release_key(&key);
    vault_free(none);
    vault_free(v);
}

static void test_signature_parse(void **state)
{
#define MAC "00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00fF"
    static const char *const bad[] = {
        "",
        "t=1",
        "t=1,n=" NONCE,
        "t=1,n=" NONCE ",v1=",
        "t=1,n=" NONCE ",v1=" MAC "0",
        "t=1,n=" NONCE ",v1=" MAC ",v2=x",
        "t=1,n=" NONCE ",v2=" MAC,
        "t=1, n=" NONCE ",v1=" MAC,
        "t=,n=" NONCE ",v1=" MAC,
        "t=-1,n=" NONCE ",v1=" MAC,
        "t=+1,n=" NONCE ",v1=" MAC,
        "t=1.5,n=" NONCE ",v1=" MAC,
        "t=100000000001,n=" NONCE ",v1=" MAC,
        "t=99999999999999999999,n=" NONCE ",v1=" MAC,
        "n=" NONCE ",t=1,v1=" MAC,
        "t=1,n=,v1=" MAC,
        "t=1,n=012345678901234,v1=" MAC,
        "t=1,n=0123456789012345678901234567890123456789012345678,v1=" MAC,
        "t=1,n=" NONCE " ,v1=" MAC,
        "t=1,n=0123456789abcd\xC3\xA4,v1=" MAC,
        "t=1,n=" NONCE ",v1=0gff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff",
        "t=1,n=" NONCE ",v1=00:ff:0ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00f",
    };
    struct signature s = {.time_s = 7};
    struct err err;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        if (signature_parse(bad[i], &s, &err) == 0)
            fail_msg("accepted: %s", bad[i]);
        assert_int_equal(err.code, ERR_UNAUTHENTICATED);
        assert_int_equal(strncmp(err.msg, "Malformed signature", 19), 0);
        assert_int_equal(s.time_s, 7);
    }
    assert_int_equal(signature_parse(" t=100000000000,n=" NONCE "_-Z,v1=" MAC " ", &s, &err), 0);
    assert_int_equal(s.time_s, 100000000000);
    assert_string_equal(s.nonce, NONCE "_-Z");
    assert_int_equal(s.mac[0], 0);
    assert_int_equal(s.mac[31], 0xFF);
#undef MAC
}

/* The example in docs/signing.md. */
static void test_signature_vector(void **state)
{
    static const unsigned char begins[] = {0x96, 0x3f, 0x10, 0x53};
    const struct signed_request request = {
        .method = "POST", .target = "/api/chat?x=1", .body = STR("{\"message\":\"hi\"}")};
    unsigned char mac[SIGNATURE_MAC_BYTES];
    (void)state;
    signature_make("ss-cg-0000000000000000000000000000000000000000000", 1700000000, NONCE, &request,
                   mac);
    assert_memory_equal(mac, begins, sizeof(begins));
    assert_int_equal(mac[31], 0x28);
}

/* A key with a signing secret, and a request signed with it. */
struct signing {
    struct vault *vault;
    struct api_key key;
    char text[KEY_TEXT_SIZE], secret[SIGNING_TEXT_SIZE];
    struct signed_request request;
    struct signature signature;
    struct signature_rules rules;
};

static void sign_anew(struct signing *g)
{
    snprintf(g->signature.nonce, sizeof(g->signature.nonce), NONCE);
    signature_make(g->secret, g->signature.time_s, g->signature.nonce, &g->request,
                   g->signature.mac);
}

static struct signing new_signing(void)
{
    struct signing g = {.vault = open_vault(MASTER),
                        .request = {.method = "GET", .target = "/api/me", .body = STR("")}};
    struct err err;
    auth_key_generate(&g.key, g.text);
    assert_int_equal(auth_signing_generate(&g.key, g.vault, g.secret, &err), 0);
    g.signature.time_s = 1700000000;
    g.rules = (struct signature_rules){
        .vault = g.vault, .now_ms = INT64_C(1700000000000), .window_ms = 300000};
    sign_anew(&g);
    return g;
}

static void free_signing(struct signing *g)
{
    release_key(&g->key);
    vault_free(g->vault);
}

static void expect_signature(struct signing *g, const char *beginning)
{
    struct err err = {0};
    int rc = signature_check(&g->signature, &g->key, &g->request, &g->rules, &err);
    if ((rc == 0) != (*beginning == '\0') || strncmp(err.msg, beginning, strlen(beginning)) != 0)
        fail_msg("'%s', not '%s'", err.msg, beginning);
}

static void test_signature_check(void **state)
{
    struct signing g = new_signing();
    struct err err;
    (void)state;
    expect_signature(&g, "");
    for (size_t bit = 0; bit < 8 * sizeof(g.signature.mac); bit++) {
        g.signature.mac[bit / 8] ^= (unsigned char)(1 << bit % 8);
        expect_signature(&g, "Wrong signature");
        g.signature.mac[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    g.request.method = "HEAD";
    expect_signature(&g, "Wrong signature");
    g.request.method = "GET";
    g.request.target = "/api/me?";
    expect_signature(&g, "Wrong signature");
    g.request.target = "/api/me";
    g.request.body = STR("x");
    expect_signature(&g, "Wrong signature");
    g.request.body = STR("");
    g.signature.nonce[0] = 'x';
    expect_signature(&g, "Wrong signature");
    g.signature.nonce[0] = '0';
    g.signature.time_s++;
    expect_signature(&g, "Wrong signature");
    g.signature.time_s--;
    /* Of another key: the sealed text does not open in its row. */
    struct api_key other = g.key;
    other.id[0] = other.id[0] == 'f' ? '0' : 'f';
    assert_int_equal(signature_check(&g.signature, &other, &g.request, &g.rules, &err), -1);
    assert_int_equal(err.code, ERR_INTERNAL);
    /* The master key is gone; a secret that was put there in the clear is not taken either. */
    struct vault *none = open_vault(NULL);
    g.rules.vault = none;
    assert_int_equal(signature_check(&g.signature, &g.key, &g.request, &g.rules, &err), -1);
    assert_int_equal(err.code, ERR_INTERNAL);
    x_replace(&g.key.signing_secret, g.secret);
    assert_int_equal(signature_check(&g.signature, &g.key, &g.request, &g.rules, &err), -1);
    assert_int_equal(err.code, ERR_INTERNAL);
    free(TAKE_PTR(g.key.signing_secret));
    expect_signature(&g, "Wrong signature: this key has no secret");
    vault_free(none);
    free_signing(&g);
}

static void test_signature_time(void **state)
{
    static const struct {
        int64_t ms;
        bool good;
    } cases[] = {{-300001, false}, {-300000, true}, {0, true}, {300000, true}, {300001, false}};
    struct signing g = new_signing();
    int64_t now = g.rules.now_ms;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        g.rules.now_ms = now + cases[i].ms;
        expect_signature(&g, cases[i].good ? "" : "Expired signature");
    }
    g.rules.now_ms = now;
    g.rules.not_before_ms = now + 1;
    expect_signature(&g, "Expired signature: it is older");
    g.rules.not_before_ms = now;
    expect_signature(&g, "");
    g.signature.time_s = 0;
    expect_signature(&g, "Expired signature");
    g.signature.time_s = 100000000000;
    expect_signature(&g, "Expired signature");
    free_signing(&g);
}

static void test_signature_old_secret(void **state)
{
    struct signing g = new_signing();
    struct err err;
    (void)state;
    g.rules.now_ms = clock_wall_ms();
    g.signature.time_s = g.rules.now_ms / 1000;
    sign_anew(&g);
    expect_signature(&g, "");
    auth_key_rotate(&g.key, 60000, g.text);
    struct signature old = g.signature;
    assert_int_equal(auth_signing_generate(&g.key, g.vault, g.secret, &err), 0);
    expect_signature(&g, ""); /* the old one */
    sign_anew(&g);
    expect_signature(&g, "");
    g.rules.now_ms = g.key.old_secret_until;
    expect_signature(&g, "");
    g.signature = old;
    expect_signature(&g, "Wrong signature");
    free_signing(&g);
}
