/* test_auth.c - keys as text, and checks against a real database: caching, sharing, changes made by
 * another process, and a database that fails or hangs. */
#include "auth/auth.h"
#include "core/clock.h"
#include "db_fx.h"

#define USER_ID "22222222-2222-4222-8222-222222222222"

/* --- text -------------------------------------------------------------------------------- */

static void test_headers(void **state)
{
    (void)state;
    static const struct {
        const char *authorization, *x_api_key, *want; /* NULL: an error */
    } cases[] = {
        {"Bearer abc", NULL, "abc"},
        {"bearer abc", NULL, "abc"},
        {"BEARER  abc ", NULL, "abc"},
        {NULL, "abc", "abc"},
        {NULL, " abc\t", "abc"},
        {"Bearer abc", "abc", "abc"},
        {"Bearer abc", "", "abc"},
        {"", "abc", "abc"},
        {"Bearer abc", "abd", NULL},
        {"Bearer abc", "abcd", NULL},
        {NULL, NULL, NULL},
        {"", "", NULL},
        {"Bearer", NULL, NULL},
        {"Bearer ", NULL, NULL},
        {"Basic abc", NULL, NULL},
        {"Basic abc", "abc", NULL},
        {"Bearerabc", NULL, NULL},
        {"abc", NULL, NULL},
        {" ", NULL, NULL},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct str key = STR("untouched");
        struct err err = {0};
        int rc = auth_key_from_headers(cases[i].authorization, cases[i].x_api_key, &key, &err);
        if (cases[i].want) {
            assert_int_equal(rc, 0);
            assert_true(str_eq_c(key, cases[i].want));
        } else {
            assert_int_equal(rc, -1);
            assert_int_equal(err.code, ERR_UNAUTHENTICATED);
            assert_true(str_eq_c(key, "untouched"));
        }
    }
    struct err err = {0};
    struct str key;
    assert_int_equal(auth_key_from_headers(NULL, NULL, &key, &err), -1);
    assert_string_equal(err.msg, "Missing API key");
}

static void test_bcrypt(void **state)
{
    (void)state;
    AUTO(free_charp) char *a = auth_bcrypt("secret", 4);
    AUTO(free_charp) char *b = auth_bcrypt("secret", 4);
    assert_non_null(a);
    assert_int_equal(strncmp(a, "$2b$04$", 7), 0);
    assert_int_equal(strlen(a), 60);
    assert_string_not_equal(a, b); /* salted */
    assert_true(auth_bcrypt_check("secret", a));
    assert_true(auth_bcrypt_check("secret", b));
    assert_false(auth_bcrypt_check("Secret", a));
    assert_false(auth_bcrypt_check("", a));
    /* A published vector (crypt_blowfish). */
    assert_true(auth_bcrypt_check("U*U",
                                  "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOe"
                                  "W"));
    assert_false(auth_bcrypt_check("secret", ""));
    assert_false(auth_bcrypt_check("secret", "*"));
    assert_false(auth_bcrypt_check("secret", "$2b$04$tooshort"));
    assert_false(auth_bcrypt_check("secret", "$1$abc$def"));
    assert_false(auth_bcrypt_check("secret", NULL));
    char longest[75];
    memset(longest, 'x', sizeof(longest));
    longest[72] = '\0';
    AUTO(free_charp) char *c = auth_bcrypt(longest, 4);
    assert_true(auth_bcrypt_check(longest, c));
    longest[72] = 'x';
    longest[73] = '\0';
    assert_null(auth_bcrypt(longest, 4)); /* bcrypt would take it for the one above */
    assert_false(auth_bcrypt_check(longest, c));
    assert_null(auth_bcrypt("x", 3));
    assert_null(auth_bcrypt("x", 32));
}

static void test_generate(void **state)
{
    (void)state;
    struct api_key a = {0}, b = {0};
    char text_a[KEY_TEXT_SIZE], text_b[KEY_TEXT_SIZE];
    auth_key_generate(&a, text_a);
    auth_key_generate(&b, text_b);
    assert_int_equal(strlen(text_a), 6 + 12 + 1 + 43);
    assert_int_equal(strncmp(text_a, "sk-cg-", 6), 0);
    assert_int_equal(strncmp(text_a + 6, a.public_id, 12), 0);
    assert_int_equal(text_a[18], '-');
    assert_int_equal(strspn(text_a + 19, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopq"
                                         "rstuvwxyz"),
                     43);
    assert_true(auth_bcrypt_check(text_a + 19, a.secret_hash));
    assert_false(auth_bcrypt_check(text_b + 19, a.secret_hash));
    assert_string_not_equal(a.public_id, b.public_id);
    assert_string_not_equal(a.id, b.id);
    assert_null(strstr(a.secret_hash, text_a + 19));
    assert_in_range(clock_wall_ms() - a.created_at, 0, 60000);
    free(a.secret_hash);
    free(b.secret_hash);
}

/* --- a database, a loop, and one key ----------------------------------------------------- */

struct world {
    struct fx *fx;
    struct auth *auth;
    struct api_key key;
    char text[KEY_TEXT_SIZE];
};

static const struct auth_times quick = {
    .fresh = 60000, .stale = 600000, .refused = 10000, .poll = 50, .touch = 100};

static void exec_here(struct world *w, const char *sql)
{
    run(w->fx, sql);
}

/* As `claudegate key ...` does beside the server: another connection. */
static void exec_elsewhere(struct world *w, const char *sql)
{
    if (w->fx->postgres) {
        pg_once(w->fx->url, sql);
        return;
    }
    sqlite3 *other = raw_open(w->fx);
    raw_run(other, sql);
    sqlite3_close(other);
}

static int64_t query_int(struct world *w, const char *sql)
{
    return run(w->fx, sql);
}

/* "INSERT ..." for a key, so that it can be made from either side. */
static char *insert_sql(const struct api_key *key, const char *status)
{
    return x_printf("INSERT INTO api_keys (id, public_id, secret_hash, user_id, name, status, "
                    "created_at, expires_at, limits, permissions) VALUES ('%s', '%s', '%s', '%s', "
                    "'k', '%s', %lld, %lld, '{\"requestsPerMinute\":10,\"requestsPerDay\":1000,"
                    "\"tokensPerDay\":100000}', '{\"models\":[\"claude-*\"],\"maxTokens\":4096,"
                    "\"allowStreaming\":true}')",
                    key->id, key->public_id, key->secret_hash, USER_ID, status,
                    (long long)key->created_at, (long long)key->expires_at);
}

static void add_key(struct world *w, const struct api_key *key, const char *status)
{
    AUTO(free_charp) char *sql = insert_sql(key, status);
    exec_here(w, sql);
}

struct wait {
    struct loop *loop;
    const int *count; /* NULL: just wait */
    int want;
    int64_t deadline;
    struct timer timer;
};

static void wait_poll(void *obj)
{
    struct wait *wait = obj;
    if ((wait->count && *wait->count >= wait->want) || clock_mono_ms() >= wait->deadline)
        loop_stop(wait->loop);
    else
        timer_set(&wait->timer, 1);
}

static void spin(struct world *w, const int *count, int want, int64_t ms)
{
    struct wait wait = {
        .loop = w->fx->loop, .count = count, .want = want, .deadline = clock_mono_ms() + ms};
    timer_init(&wait.timer, w->fx->loop, wait_poll, &wait);
    timer_set(&wait.timer, 0);
    loop_run(w->fx->loop);
    timer_release(&wait.timer);
}

static void polled(void *ctx, bool changed)
{
    (void)changed;
    (*(int *)ctx)++;
}

static int set_up(void **state)
{
    int poll = 0;
    struct world *w = x_calloc(1, sizeof(*w));
    void *fx;
    fx_set_up(&fx);
    w->fx = fx;
    exec_here(w, "INSERT INTO users (id, name, role, created_at) VALUES ('" USER_ID
                 "', 'u', 'owner', 1)");
    auth_key_generate(&w->key, w->text);
    add_key(w, &w->key, "active");
    db_poll_changed(w->fx->db, polled, &poll); /* what was done here is over */
    spin(w, &poll, 1, 20000);
    w->auth = auth_new(w->fx->loop, w->fx->db);
    auth_set_times(w->auth, &quick);
    *state = w;
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;
    void *fx = w->fx;
    auth_free(w->auth);
    free(w->key.secret_hash);
    free(w);
    return fx_tear_down(&fx);
}

struct result {
    int count;
    struct auth_key *k; /* a reference */
    struct err err;
};

static void on_done(void *ctx, struct auth_key *k, const struct err *err)
{
    struct result *r = ctx;
    assert_true((k == NULL) != (err == NULL));
    r->count++;
    auth_key_unref(r->k);
    r->k = k;
    if (k)
        auth_key_ref(k);
    r->err = err ? *err : (struct err){0};
}

enum how { AT_ONCE, LATER, EITHER };

/* Checks a key and expects "" (good) or a message. */
static void expect_how(struct world *w, const char *text, enum how how, const char *msg, int line)
{
    struct result r = {0};
    struct auth_check *check = auth_verify(w->auth, str_c(text), on_done, &r);
    if (how == AT_ONCE && w->fx->postgres)
        how = EITHER; /* there the poll sees the changes this test makes itself, too */
    if (how != EITHER && (check != NULL) != (how == LATER))
        fail_msg("line %d: answered %s", line, check ? "later" : "at once");
    assert_int_equal(r.count, check ? 0 : 1);
    if (check)
        spin(w, &r.count, 1, 20000);
    assert_int_equal(r.count, 1);
    if (strcmp(r.err.msg, msg) != 0)
        fail_msg("line %d: '%s', not '%s'", line, r.err.msg, msg);
    if (*msg && r.err.code != ERR_UNAUTHENTICATED)
        fail_msg("line %d: %s", line, err_info(r.err.code)->name);
    auth_key_unref(r.k);
}
#define EXPECT(how, text, msg) expect_how(w, text, how, msg, __LINE__)

static enum err_code code_of(struct world *w, const char *text)
{
    struct result r = {0};
    if (auth_verify(w->auth, str_c(text), on_done, &r))
        spin(w, &r.count, 1, 20000);
    assert_int_equal(r.count, 1);
    auth_key_unref(r.k);
    if (r.err.code == ERR_UNAVAILABLE)
        assert_int_equal(r.err.retry_after_s, 1);
    return r.err.code;
}

/* The same key with another secret. */
static const char *other_secret(const char *text, int n, char out[KEY_TEXT_SIZE])
{
    memcpy(out, text, KEY_TEXT_SIZE);
    snprintf(out + KEY_TEXT_SIZE - 9, 9, "%08d", n);
    return out;
}

static const char *unknown_key(int n, char out[KEY_TEXT_SIZE])
{
    snprintf(out, KEY_TEXT_SIZE, "sk-cg-%012d-%043d", n, 0);
    return out;
}

/* --- checks ------------------------------------------------------------------------------ */

static void test_good_key(void **state)
{
    struct world *w = *state;
    struct result r = {0};
    assert_non_null(auth_verify(w->auth, str_c(w->text), on_done, &r));
    spin(w, &r.count, 1, 20000);
    assert_int_equal(r.count, 1);
    assert_non_null(r.k);
    assert_string_equal(r.k->key.id, w->key.id);
    assert_string_equal(r.k->key.public_id, w->key.public_id);
    assert_int_equal(r.k->key.limits.requests_per_minute, 10);
    assert_true(api_key_allows_model(&r.k->key, "claude-x"));
    EXPECT(AT_ONCE, w->text, "");
    auth_free(w->auth); /* a caller's reference outlives the cache */
    w->auth = NULL;
    assert_string_equal(r.k->key.id, w->key.id);
    auth_key_unref(r.k);
}

static void test_malformed_keys(void **state)
{
    struct world *w = *state;
    char text[KEY_TEXT_SIZE + 8];
    EXPECT(AT_ONCE, "", "Missing API key");
    static const char *const bad[] = {"x", "sk-cg-", "sk-ant-api03-abc", "sk-cg", "-"};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        EXPECT(AT_ONCE, bad[i], "Invalid API key");
    for (size_t i = 0; i < KEY_TEXT_SIZE - 1; i++) { /* each byte replaced */
        static const char wrong[] = {'_', ' ', '.', '/', ':', '@', '[', '`', '{', '\x80', '\n'};
        for (size_t c = 0; c < sizeof(wrong); c++) {
            memcpy(text, w->text, KEY_TEXT_SIZE);
            text[i] = wrong[c];
            EXPECT(AT_ONCE, text, "Invalid API key");
        }
        memcpy(text, w->text, KEY_TEXT_SIZE); /* cut */
        text[i] = '\0';
        EXPECT(AT_ONCE, text, i ? "Invalid API key" : "Missing API key");
    }
    snprintf(text, sizeof(text), "%sA", w->text);
    EXPECT(AT_ONCE, text, "Invalid API key");
    snprintf(text, sizeof(text), " %s", w->text);
    EXPECT(AT_ONCE, text, "Invalid API key");
    struct result r = {0}; /* a NUL inside */
    memcpy(text, w->text, KEY_TEXT_SIZE);
    text[30] = '\0';
    assert_null(auth_verify(w->auth, str_n(text, KEY_TEXT_SIZE - 1), on_done, &r));
    assert_int_equal(r.err.code, ERR_UNAUTHENTICATED);
}

static void test_wrong_secret(void **state)
{
    struct world *w = *state;
    char wrong[KEY_TEXT_SIZE], unknown[KEY_TEXT_SIZE];
    /* Nothing is cached: the same words whether the public id exists or not. */
    EXPECT(LATER, other_secret(w->text, 1, wrong), "Invalid API key");
    EXPECT(LATER, unknown_key(1, unknown), "Invalid API key");
    EXPECT(AT_ONCE, wrong, "Invalid API key");
    EXPECT(AT_ONCE, unknown, "Invalid API key");
    EXPECT(LATER, w->text, "");
    /* The good entry stays, and refuses others by itself. */
    for (int n = 2; n < 50; n++) {
        EXPECT(AT_ONCE, other_secret(w->text, n, wrong), "Invalid API key");
        EXPECT(AT_ONCE, w->text, "");
    }
}

static void test_concurrent_checks_share(void **state)
{
    struct world *w = *state;
    struct result r[300] = {0};
    int64_t start = clock_mono_us();
    EXPECT(LATER, w->text, "");
    int64_t one_ms = (clock_mono_us() - start) / 1000;
    struct auth_times times = quick; /* forget */
    auth_free(w->auth);
    w->auth = auth_new(w->fx->loop, w->fx->db);
    auth_set_times(w->auth, &times);
    start = clock_mono_us();
    for (size_t i = 0; i < ARRAY_SIZE(r); i++)
        assert_non_null(auth_verify(w->auth, str_c(w->text), on_done, &r[i]));
    spin(w, &r[ARRAY_SIZE(r) - 1].count, 1, 60000);
    int64_t all_ms = (clock_mono_us() - start) / 1000;
    for (size_t i = 0; i < ARRAY_SIZE(r); i++) {
        assert_int_equal(r[i].count, 1);
        assert_non_null(r[i].k);
        auth_key_unref(r[i].k);
    }
    print_message("# one check %d ms, 300 at the same time %d ms\n", (int)one_ms, (int)all_ms);
    assert_true(all_ms < 30 * one_ms); /* not shared it would be 150 times as much */
}

static void test_cancel(void **state)
{
    struct world *w = *state;
    struct result a = {0}, b = {0};
    struct auth_check *check = auth_verify(w->auth, str_c(w->text), on_done, &a);
    assert_non_null(check);
    assert_non_null(auth_verify(w->auth, str_c(w->text), on_done, &b));
    auth_cancel(check);
    auth_cancel(NULL);
    spin(w, &b.count, 1, 20000);
    assert_int_equal(b.count, 1);
    assert_int_equal(a.count, 0);
    auth_key_unref(b.k);
    /* All cancelled while the database works, and while bcrypt works. */
    char wrong[KEY_TEXT_SIZE];
    for (int64_t ms = 0; ms < 60; ms += 15) {
        auth_free(w->auth);
        w->auth = auth_new(w->fx->loop, w->fx->db);
        check = auth_verify(w->auth, str_c(other_secret(w->text, (int)ms, wrong)), on_done, &a);
        spin(w, &a.count, 1, ms);
        if (a.count == 0)
            auth_cancel(check);
        a.count = 0;
        spin(w, NULL, 0, 150);
        assert_int_equal(a.count, 0);
    }
}

struct canceller {
    struct auth_check *victim;
    struct result r;
};

static void cancel_other(void *ctx, struct auth_key *k, const struct err *err)
{
    struct canceller *c = ctx;
    on_done(&c->r, k, err);
    auth_cancel(TAKE_PTR(c->victim));
}

static void test_cancel_inside_done(void **state)
{
    struct world *w = *state;
    struct canceller c = {0};
    struct result victim = {0}, last = {0};
    assert_non_null(auth_verify(w->auth, str_c(w->text), cancel_other, &c));
    c.victim = auth_verify(w->auth, str_c(w->text), on_done, &victim);
    assert_non_null(auth_verify(w->auth, str_c(w->text), on_done, &last));
    spin(w, &last.count, 1, 20000);
    assert_int_equal(c.r.count, 1);
    assert_int_equal(victim.count, 0);
    assert_int_equal(last.count, 1);
    auth_key_unref(c.r.k);
    auth_key_unref(last.k);
}

static void test_free_with_checks_pending(void **state)
{
    struct world *w = *state;
    struct result r = {0};
    char text[KEY_TEXT_SIZE];
    for (int64_t ms = 0; ms < 60; ms += 12) { /* in the database, queued and running in bcrypt */
        for (int n = 0; n < 16; n++)
            auth_verify(w->auth, str_c(other_secret(w->text, n, text)), on_done, &r);
        spin(w, NULL, 0, ms);
        auth_free(w->auth);
        r.count = 0;
        w->auth = auth_new(w->fx->loop, w->fx->db);
        spin(w, NULL, 0, 20);
        assert_int_equal(r.count, 0);
    }
}

static void test_pending_is_bounded(void **state)
{
    struct world *w = *state;
    struct result same[17] = {0}, many[300] = {0};
    char text[KEY_TEXT_SIZE];
    for (int n = 0; n < 17; n++)
        auth_verify(w->auth, str_c(other_secret(w->text, n, text)), on_done, &same[n]);
    assert_int_equal(same[15].count, 0);
    assert_int_equal(same[16].count, 1);
    assert_int_equal(same[16].err.code, ERR_UNAVAILABLE);
    assert_int_equal(same[16].err.retry_after_s, 1);
    int refused = 0;
    for (int n = 0; n < 300; n++) {
        auth_verify(w->auth, str_c(unknown_key(n, text)), on_done, &many[n]);
        refused += many[n].count;
        if (many[n].count)
            assert_int_equal(many[n].err.code, ERR_UNAVAILABLE);
    }
    assert_int_equal(refused, 300 - (256 - 16));
    for (int n = 0; n < 17; n++) {
        spin(w, &same[n].count, 1, 60000);
        assert_int_equal(same[n].count, 1);
    }
    for (int n = 0; n < 300; n++) {
        spin(w, &many[n].count, 1, 60000);
        assert_int_equal(many[n].count, 1);
    }
    EXPECT(LATER, w->text, ""); /* the queue is open again */
}

static void test_refusals_are_bounded(void **state)
{
    struct world *w = *state;
    char text[KEY_TEXT_SIZE];
    for (int n = 0; n < 10050; n += 50) {
        struct result r[50] = {0};
        for (int i = 0; i < 50; i++)
            auth_verify(w->auth, str_c(unknown_key(n + i, text)), on_done, &r[i]);
        spin(w, &r[49].count, 1, 20000);
        assert_int_equal(r[49].err.code, ERR_UNAUTHENTICATED);
    }
    /* (on a slow machine the oldest may have run out of time instead: not kept either) */
    EXPECT(LATER, unknown_key(0, text), "Invalid API key");
    EXPECT(AT_ONCE, unknown_key(10049, text), "Invalid API key");
}

/* --- time and status --------------------------------------------------------------------- */

static void test_expiry(void **state)
{
    struct world *w = *state;
    struct api_key key = {0};
    char text[KEY_TEXT_SIZE], wrong[KEY_TEXT_SIZE];
    auth_key_generate(&key, text);
    key.expires_at = clock_wall_ms() + 3000;
    add_key(w, &key, "active");
    EXPECT(LATER, text, "");
    EXPECT(AT_ONCE, text, "");
    spin(w, NULL, 0, 3100);
    EXPECT(AT_ONCE, text, "API key expired");
    EXPECT(AT_ONCE, other_secret(text, 1, wrong), "Invalid API key");
    auth_free(w->auth);
    w->auth = auth_new(w->fx->loop, w->fx->db);
    EXPECT(LATER, wrong, "Invalid API key"); /* an outsider learns nothing */
    EXPECT(LATER, text, "API key expired");
    free(key.secret_hash);
}

static void test_revoked(void **state)
{
    struct world *w = *state;
    struct api_key key = {0};
    char text[KEY_TEXT_SIZE], wrong[KEY_TEXT_SIZE];
    auth_key_generate(&key, text);
    add_key(w, &key, "revoked");
    EXPECT(LATER, other_secret(text, 1, wrong), "Invalid API key");
    EXPECT(LATER, text, "API key revoked");
    EXPECT(AT_ONCE, text, "API key revoked");
    free(key.secret_hash);
    /* By this process. */
    EXPECT(LATER, w->text, "");
    exec_here(w, "UPDATE api_keys SET status = 'revoked'");
    if (!w->fx->postgres)             /* there the poll sees this process's changes, too */
        EXPECT(AT_ONCE, w->text, ""); /* nobody said so */
    auth_keys_changed(w->auth);
    EXPECT(LATER, w->text, "API key revoked");
}

static void test_change_by_another_process(void **state)
{
    struct world *w = *state;
    struct result r = {0};
    struct api_key later = {0};
    char text[KEY_TEXT_SIZE];
    EXPECT(LATER, w->text, "");
    exec_elsewhere(w, "UPDATE api_keys SET status = 'revoked'");
    spin(w, NULL, 0, 600);
    int64_t start = clock_mono_us();
    EXPECT(LATER, w->text, "API key revoked");
    int64_t again_us = clock_mono_us() - start;
    start = clock_mono_us();
    free(auth_bcrypt("x", AUTH_BCRYPT_COST));
    int64_t bcrypt_us = clock_mono_us() - start;
    print_message("# read again in %d us, one bcrypt takes %d us\n", (int)again_us, (int)bcrypt_us);
    exec_elsewhere(w, "UPDATE api_keys SET status = 'active', limits = "
                      "'{\"requestsPerMinute\":77,\"requestsPerDay\":1,\"tokensPerDay\":1}'");
    spin(w, NULL, 0, 600);
    assert_non_null(auth_verify(w->auth, str_c(w->text), on_done, &r));
    spin(w, &r.count, 1, 20000);
    assert_non_null(r.k);
    assert_int_equal(r.k->key.limits.requests_per_minute, 77);
    auth_key_unref(r.k);
    /* Made after it was refused: good within a second, not after 10. */
    auth_key_generate(&later, text);
    EXPECT(LATER, text, "Invalid API key");
    EXPECT(AT_ONCE, text, "Invalid API key");
    AUTO(free_charp) char *sql = insert_sql(&later, "active");
    exec_elsewhere(w, sql);
    spin(w, NULL, 0, 600);
    EXPECT(LATER, text, "");
    /* Gone. */
    exec_elsewhere(w, "DELETE FROM api_keys");
    spin(w, NULL, 0, 600);
    EXPECT(LATER, w->text, "Invalid API key");
    free(later.secret_hash);
}

static void test_rotated_secret(void **state)
{
    struct world *w = *state;
    struct api_key new_key = {0};
    char text[KEY_TEXT_SIZE];
    EXPECT(LATER, w->text, "");
    auth_key_generate(&new_key, text);
    memcpy(text + 6, w->key.public_id, KEY_PUBLIC_ID_LEN); /* same public id, another secret */
    EXPECT(AT_ONCE, text, "Invalid API key");
    AUTO(free_charp)
    char *sql = x_printf("UPDATE api_keys SET secret_hash = '%s'", new_key.secret_hash);
    exec_elsewhere(w, sql);
    spin(w, NULL, 0, 600);
    EXPECT(LATER, w->text, "Invalid API key");
    EXPECT(LATER, text, "");
    EXPECT(AT_ONCE, w->text, "Invalid API key");
    free(new_key.secret_hash);
}

static void test_fresh_time_runs_out(void **state)
{
    struct world *w = *state;
    struct auth_times times = quick;
    times.fresh = 1000;
    times.poll = 60000; /* changes are not noticed */
    auth_set_times(w->auth, &times);
    EXPECT(LATER, w->text, "");
    exec_here(w, "UPDATE api_keys SET status = 'revoked'");
    EXPECT(AT_ONCE, w->text, "");
    spin(w, NULL, 0, 1050);
    EXPECT(AT_ONCE, w->text, ""); /* this one has it read again ... */
    spin(w, NULL, 0, 100);
    EXPECT(AT_ONCE, w->text, "API key revoked"); /* ... for the next */
}

/* --- last use ---------------------------------------------------------------------------- */

static void test_touch(void **state)
{
    struct world *w = *state;
    struct result r = {0};
    auth_verify(w->auth, str_c(w->text), on_done, &r);
    spin(w, &r.count, 1, 20000);
    assert_non_null(r.k);
    int64_t before = clock_wall_ms();
    for (int i = 0; i < 1000; i++)
        auth_touch(w->auth, r.k);
    assert_int_equal(query_int(w, "SELECT coalesce(last_used_at, 0) FROM api_keys"), 0);
    spin(w, NULL, 0, 600);
    int64_t at = query_int(w, "SELECT last_used_at FROM api_keys");
    assert_in_range(at - before, 0, 10000);
    usleep(5000);
    auth_touch(w->auth, r.k);
    auth_free(w->auth); /* writes what is left */
    w->auth = NULL;
    assert_true(query_int(w, "SELECT last_used_at FROM api_keys") > at);
    auth_key_unref(r.k);
}

static void bench(void **state)
{
    struct world *w = *state;
    struct result r = {0};
    int64_t start = clock_mono_us();
    for (int i = 0; i < 5; i++)
        free(auth_bcrypt("0123456789012345678901234567890123456789012", AUTH_BCRYPT_COST));
    double bcrypt_ms = (double)(clock_mono_us() - start) / 5000.0;
    EXPECT(LATER, w->text, "");
    const int rounds = 100000;
    start = clock_mono_us();
    for (int i = 0; i < rounds; i++)
        auth_verify(w->auth, str_c(w->text), on_done, &r);
    print_message("# bcrypt cost %d: %.1f ms; cached check: %.0f ns\n", AUTH_BCRYPT_COST, bcrypt_ms,
                  (double)(clock_mono_us() - start) * 1000.0 / rounds);
    assert_int_equal(r.count, rounds);
    auth_key_unref(r.k);
}

#include "auth_away_cases.h"
#include "auth_rotate_cases.h"
#include "auth_signature_cases.h"
#include "auth_throttle_cases.h"

#define WORLD_TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    id_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_headers),
        cmocka_unit_test(test_bcrypt),
        cmocka_unit_test(test_generate),
        WORLD_TEST(test_good_key),
        WORLD_TEST(test_malformed_keys),
        WORLD_TEST(test_wrong_secret),
        WORLD_TEST(test_concurrent_checks_share),
        WORLD_TEST(test_cancel),
        WORLD_TEST(test_cancel_inside_done),
        WORLD_TEST(test_free_with_checks_pending),
        WORLD_TEST(test_pending_is_bounded),
        WORLD_TEST(test_refusals_are_bounded),
        WORLD_TEST(test_expiry),
        WORLD_TEST(test_revoked),
        WORLD_TEST(test_change_by_another_process),
        WORLD_TEST(test_rotated_secret),
        WORLD_TEST(test_rotation),
        WORLD_TEST(test_rotation_not_cached),
        WORLD_TEST(test_disabled),
        WORLD_TEST(test_remembers),
        WORLD_TEST(test_told_of_changes),
        WORLD_TEST(test_fresh_time_runs_out),
        WORLD_TEST(test_database_fails),
        WORLD_TEST(test_database_hangs),
        WORLD_TEST(test_touch),
        WORLD_TEST(bench),
        cmocka_unit_test(test_rotate_key),
        cmocka_unit_test(test_signing_secret),
        cmocka_unit_test(test_signature_parse),
        cmocka_unit_test(test_signature_vector),
        cmocka_unit_test(test_signature_check),
        cmocka_unit_test(test_signature_time),
        cmocka_unit_test(test_signature_old_secret),
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_throttle),
        cmocka_unit_test(test_throttle_off),
        cmocka_unit_test(test_throttle_told),
        cmocka_unit_test(test_throttle_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
