/* test_store.c - every statement of store/ against a real SQLite file, or against the PostgreSQL
 * server of tools/with-postgres.sh where that is running. */
#include "core/json.h"
#include "core/log.h"
#include "db_fx.h"
#include "store/key_json.h"
#include "store/store.h"

#include <fcntl.h>
#include <sys/stat.h>

#define USER_ID "11111111-1111-4111-8111-111111111111"
#define KEY_ID  "22222222-2222-4222-8222-222222222222"
#define KEY2_ID "33333333-3333-4333-8333-333333333333"
#define NO_ID   "99999999-9999-4999-8999-999999999999"

/* --- what callbacks leave behind ---------------------------------------------------------- */

struct got {
    int calls;
    bool failed;
    struct err err;
    bool found;
    int64_t count;
    struct user user;
    struct api_key key;
    char ids[8][KEY_PUBLIC_ID_LEN + 1];
    struct usage_sum sums[4];
    struct session_row session;
    char *conversation, *context;
};

static void note(struct got *got, const struct err *err)
{
    assert_false(submitting);
    got->calls++;
    got->failed = err != NULL;
    if (err)
        got->err = *err;
}

static void got_user(void *ctx, const struct user *user, const struct err *err)
{
    struct got *got = ctx;
    note(got, err);
    assert_false(user && err);
    got->found = user != NULL;
    if (!user)
        return;
    got->user = *user;
    got->user.name = x_strdup(user->name);
    got->user.role = x_strdup(user->role);
    got->user.password_hash = user->password_hash ? x_strdup(user->password_hash) : NULL;
}

static void got_key(void *ctx, const struct api_key *key, const struct err *err)
{
    struct got *got = ctx;
    note(got, err);
    assert_false(key && err);
    got->found = key != NULL;
    if (key)
        api_key_copy(&got->key, key);
}

static void got_keys(void *ctx, const struct api_key *keys, size_t count, const struct err *err)
{
    struct got *got = ctx;
    note(got, err);
    got->count = (int64_t)count;
    for (size_t i = 0; i < count && i < ARRAY_SIZE(got->ids); i++)
        snprintf(got->ids[i], sizeof(got->ids[i]), "%s", keys[i].public_id);
}

static void got_count(void *ctx, int64_t count, const struct err *err)
{
    struct got *got = ctx;
    note(got, err);
    got->count = count;
}

static void got_done(void *ctx, const struct err *err)
{
    note(ctx, err);
}

static void got_sums(void *ctx, const struct usage_sum *sums, size_t count, const struct err *err)
{
    struct got *got = ctx;
    note(got, err);
    got->count = (int64_t)count;
    for (size_t i = 0; i < count && i < ARRAY_SIZE(got->sums); i++)
        got->sums[i] = sums[i];
}

static void got_session(void *ctx, const struct session_row *row, const struct err *err)
{
    struct got *got = ctx;
    note(got, err);
    assert_false(row && err);
    got->found = row != NULL;
    if (!row)
        return;
    got->session = *row;
    got->conversation = str_dup(row->conversation_id);
    got->context = str_dup(row->context);
}

static void forget(struct got *got)
{
    free(got->user.name);
    free(got->user.role);
    free(got->user.password_hash);
    api_key_release(&got->key);
    free(got->conversation);
    free(got->context);
    *got = (struct got){0};
}

static void wait_got(struct fx *fx, const struct got *got)
{
    int64_t deadline = clock_mono_ms() + 30000;
    while (!got->calls) {
        assert_true(clock_mono_ms() < deadline);
        event_base_loop(loop_base(fx->loop), EVLOOP_ONCE);
    }
    assert_int_equal(got->calls, 1);
}

/* DO(call): submits, waits, leaves the answer in `got`. */
#define DO(call)            \
    do {                    \
        forget(&got);       \
        submitting = true;  \
        call;               \
        submitting = false; \
        wait_got(fx, &got); \
    } while (0)

static void assert_ok(const struct got *got)
{
    if (got->failed)
        fail_msg("%s", got->err.msg);
}

/* --- rows --------------------------------------------------------------------------------- */

static char name_ada[] = "Ada", role_owner[] = "owner", hash[] = "$2b$10$abc", active[] = "active";
static char model_a[] = "claude-*", model_b[] = "opus \"4\" Ü";
static char *models[] = {model_a, model_b, NULL};

static struct api_key make_key(const char *id, const char *public_id, int64_t created_at)
{
    struct api_key key = {
        .secret_hash = hash,
        .user_id = USER_ID,
        .name = name_ada,
        .status = active,
        .priority = 1,
        .created_at = created_at,
        .limits = {10, 1000, -1, 4, 2500000000, -1},
        .permissions = {.models = models, .max_tokens = 4096, .allow_streaming = true},
    };
    snprintf(key.id, sizeof(key.id), "%s", id);
    snprintf(key.public_id, sizeof(key.public_id), "%s", public_id);
    return key;
}

static struct user make_user(void)
{
    return (struct user){.id = USER_ID, .name = name_ada, .role = role_owner, .created_at = 77};
}

static int set_up_keys(void **state)
{
    struct got got = {0};
    fx_set_up(state);
    struct fx *fx = *state;
    struct user user = make_user();
    struct api_key key = make_key(KEY_ID, "aaaaaaaaaaaa", 1000);
    struct api_key key2 = make_key(KEY2_ID, "bbbbbbbbbbbb", 2000);
    DO(user_insert(fx->db, &user, got_user, &got));
    assert_ok(&got);
    DO(api_key_insert(fx->db, &key, got_key, &got));
    assert_ok(&got);
    DO(api_key_insert(fx->db, &key2, got_key, &got));
    assert_ok(&got);
    forget(&got);
    return 0;
}

/* --- users -------------------------------------------------------------------------------- */

static void test_users(void **state)
{
    struct fx *fx = *state;
    struct got got = {0};
    struct user user = make_user();
    DO(user_count(fx->db, got_count, &got));
    assert_int_equal(got.count, 0);
    DO(user_insert(fx->db, &user, got_user, &got));
    assert_ok(&got);
    assert_string_equal(got.user.id, USER_ID);
    assert_string_equal(got.user.name, "Ada");
    assert_null(got.user.password_hash);
    DO(user_find_by_name(fx->db, "Ada", got_user, &got));
    assert_true(got.found);
    assert_string_equal(got.user.role, "owner");
    assert_int_equal(got.user.created_at, 77);
    DO(user_find_by_name(fx->db, "ada", got_user, &got));
    assert_false(got.found || got.failed);
    snprintf(user.id, sizeof(user.id), "%s", NO_ID);
    user.password_hash = hash;
    DO(user_insert(fx->db, &user, got_user, &got));
    assert_int_equal(got.err.code, ERR_CONFLICT);
    assert_string_equal(got.err.msg, "a user with this name already exists");
    user.name = hash;
    DO(user_insert(fx->db, &user, got_user, &got));
    assert_string_equal(got.user.password_hash, "$2b$10$abc");
    user.role = active;
    snprintf(user.id, sizeof(user.id), "%s", KEY_ID);
    user.name = active;
    DO(user_insert(fx->db, &user, got_user, &got));
    assert_int_equal(got.err.code, ERR_INTERNAL); /* no such role */
    DO(user_count(fx->db, got_count, &got));
    assert_int_equal(got.count, 2);
}

/* --- keys --------------------------------------------------------------------------------- */

static void assert_same_key(const struct api_key *a, const struct api_key *b)
{
    assert_string_equal(a->id, b->id);
    assert_string_equal(a->public_id, b->public_id);
    assert_string_equal(a->secret_hash, b->secret_hash);
    assert_string_equal(a->user_id, b->user_id);
    assert_string_equal(a->name, b->name);
    assert_string_equal(a->status, b->status);
    assert_int_equal(a->priority, b->priority);
    assert_int_equal(a->created_at, b->created_at);
    assert_int_equal(a->expires_at, b->expires_at);
    assert_int_equal(a->last_used_at, b->last_used_at);
    assert_int_equal(a->limits.requests_per_minute, b->limits.requests_per_minute);
    assert_int_equal(a->limits.requests_per_day, b->limits.requests_per_day);
    assert_int_equal(a->limits.tokens_per_day, b->limits.tokens_per_day);
    assert_int_equal(a->limits.max_concurrent, b->limits.max_concurrent);
    assert_int_equal(a->limits.cost_per_day, b->limits.cost_per_day);
    assert_int_equal(a->limits.cost_per_month, b->limits.cost_per_month);
    assert_int_equal(a->permissions.max_tokens, b->permissions.max_tokens);
    assert_int_equal(a->permissions.allow_streaming, b->permissions.allow_streaming);
    assert_int_equal(a->permissions.allow_agent, b->permissions.allow_agent);
    size_t i = 0;
    for (; a->permissions.models[i]; i++)
        assert_string_equal(a->permissions.models[i], b->permissions.models[i]);
    assert_null(b->permissions.models[i]);
}

static void test_key_round_trip(void **state)
{
    struct fx *fx = *state;
    struct got got = {0};
    static char *none[] = {NULL};
    struct api_key key = make_key(NO_ID, "cccccccccccc", 3000);
    key.priority = KEY_PRIORITY_MAX;
    key.expires_at = 9000;
    key.last_used_at = 3001;
    key.limits = (struct key_limits){-1, INT64_MAX, 0, -1, 1, KEY_MONEY_MAX};
    key.permissions.max_tokens = -1;
    key.permissions.allow_streaming = false;
    key.permissions.allow_agent = true;
    DO(api_key_insert(fx->db, &key, got_key, &got));
    assert_ok(&got);
    assert_same_key(&key, &got.key);
    DO(api_key_find(fx->db, "cccccccccccc", got_key, &got));
    assert_same_key(&key, &got.key);
    DO(api_key_find(fx->db, "aaaaaaaaaaaa", got_key, &got));
    struct api_key first = make_key(KEY_ID, "aaaaaaaaaaaa", 1000);
    assert_same_key(&first, &got.key);
    DO(api_key_find(fx->db, "unknownunkno", got_key, &got));
    assert_false(got.found || got.failed);
    DO(api_key_insert(fx->db, &key, got_key, &got));
    assert_int_equal(got.err.code, ERR_CONFLICT);
    key = make_key("44444444-4444-4444-8444-444444444444", "dddddddddddd", 1);
    key.permissions.models = none;
    DO(api_key_insert(fx->db, &key, got_key, &got));
    assert_same_key(&key, &got.key);
    assert_false(api_key_allows_model(&got.key, "claude-x"));
    snprintf(key.user_id, sizeof(key.user_id), "%s", NO_ID);
    snprintf(key.id, sizeof(key.id), "%s", USER_ID);
    snprintf(key.public_id, sizeof(key.public_id), "%s", "eeeeeeeeeeee");
    DO(api_key_insert(fx->db, &key, got_key, &got)); /* of nobody */
    assert_int_equal(got.err.code, ERR_INTERNAL);
    forget(&got);
}

/* The columns are a format of their own: other programs read them. */
static void test_key_json(void **state)
{
    struct fx *fx = *state;
    assert_int_equal(run(fx,
                         "SELECT limits = '{\"requestsPerMinute\":10,\"requestsPerDay\":1000,"
                         "\"tokensPerDay\":null,\"maxConcurrent\":4,\"costPerDay\":2.5,"
                         "\"costPerMonth\":null}' FROM api_keys WHERE public_id = 'aaaaaaaaaaaa'"),
                     1);
    assert_int_equal(run(fx,
                         "SELECT permissions = '{\"models\":[\"claude-*\",\"opus \\\"4\\\" Ü\"],"
                         "\"maxTokens\":4096,\"allowStreaming\":true,\"allowAgent\":false,"
                         "\"allowTools\":false,\"requireSignature\":false,\"responseCache\":false}'"
                         " FROM api_keys "
                         "WHERE public_id = 'aaaaaaaaaaaa'"),
                     1);
    assert_int_equal(run(fx, "SELECT metadata IS NULL AND expires_at IS NULL AND "
                             "last_used_at IS NULL FROM api_keys"),
                     1);
}

/* Rows of before there were such limits. */
static void test_key_without_newer_limits(void **state)
{
    (void)state;
    struct key_limits limits = {0};
    struct err err;
    assert_int_equal(key_limits_read(STR("{\"requestsPerMinute\":1,\"requestsPerDay\":2,"
                                         "\"tokensPerDay\":3,\"costPerDay\":0.000000001}"),
                                     &limits, &err),
                     0);
    assert_int_equal(limits.max_concurrent, -1);
    assert_int_equal(limits.cost_per_day, 1);
    assert_int_equal(limits.cost_per_month, -1);
}

static void test_money(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t nano;
        const char *written;
    } good[] = {{"0", 0, "0"},
                {"12", 12000000000, "12"},
                {"0.5", 500000000, "0.5"},
                {"3.000000001", 3000000001, "3.000000001"},
                {"1.10", 1100000000, "1.1"},
                {"4000000", KEY_MONEY_MAX, "4000000"}};
    static const char *const bad[] = {"",   ".",  "1.", ".5",  "-1",           "1e3",      "1,5",
                                      " 1", "$1", "x",  "1.x", "1.0000000001", "4000000.1"};
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        int64_t nano;
        struct buf b;
        buf_init(&b, 100);
        assert_true(key_money_parse(str_c(good[i].text), &nano));
        assert_int_equal(nano, good[i].nano);
        key_money_write(&b, nano);
        assert_string_equal(buf_cstr(&b), good[i].written);
        buf_release(&b);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        int64_t nano;
        assert_false(key_money_parse(str_c(bad[i]), &nano));
    }
}

static void test_key_unreadable(void **state)
{
    static const char *const broken[] = {
        "limits = '{}'",
        "limits = '[]'",
        "limits = '{\"requestsPerMinute\":10,\"requestsPerDay\":\"many\",\"tokensPerDay\":null}'",
        "limits = '{\"requestsPerMinute\":10,\"requestsPerDay\":-5,\"tokensPerDay\":null}'",
        "limits = '{\"requestsPerMinute\":10,\"requestsPerDay\":1}'",
        "limits = '{\"requestsPerMinute\":1,\"requestsPerDay\":1,\"tokensPerDay\":1,"
        "\"maxConcurrent\":-1}'",
        "limits = '{\"requestsPerMinute\":1,\"requestsPerDay\":1,\"tokensPerDay\":1,"
        "\"costPerDay\":\"1\"}'",
        "limits = '{\"requestsPerMinute\":1,\"requestsPerDay\":1,\"tokensPerDay\":1,"
        "\"costPerMonth\":-0.5}'",
        "limits = '{\"requestsPerMinute\":1,\"requestsPerDay\":1,\"tokensPerDay\":1,"
        "\"costPerMonth\":4000001}'",
        "permissions = '{\"models\":[],\"allowStreaming\":true,\"allowAgent\":true}'",
        "permissions = '{\"models\":[],\"maxTokens\":1,\"allowStreaming\":1,\"allowAgent\":true}'",
        "permissions = "
        "'{\"models\":[],\"maxTokens\":1,\"allowStreaming\":true,\"allowAgent\":\"yes\"}'",
        "permissions = "
        "'{\"models\":\"claude\",\"maxTokens\":1,\"allowStreaming\":true,\"allowAgent\":true}'",
        "permissions = "
        "'{\"models\":[\"a\",3],\"maxTokens\":1,\"allowStreaming\":true,\"allowAgent\":true}'",
        "permissions = "
        "'{\"models\":[\"a\",\"\"],\"maxTokens\":1,\"allowStreaming\":true,\"allowAgent\":true}'",
    };
    struct fx *fx = *state;
    struct got got = {0};
    run(fx, "CREATE TABLE keep AS SELECT * FROM api_keys");
    for (size_t i = 0; i < ARRAY_SIZE(broken); i++) {
        char sql[256];
        snprintf(sql, sizeof(sql), "UPDATE api_keys SET %s WHERE public_id = 'aaaaaaaaaaaa'",
                 broken[i]);
        run(fx, sql);
        DO(api_key_find(fx->db, "aaaaaaaaaaaa", got_key, &got));
        if (!got.failed)
            fail_msg("read in spite of %s", broken[i]);
        assert_int_equal(got.err.code, ERR_INTERNAL);
        assert_non_null(strstr(got.err.msg, "api key aaaaaaaaaaaa: "));
        DO(api_key_list(fx->db, got_keys, &got)); /* the other one is still listed */
        assert_int_equal(got.count, 1);
        assert_string_equal(got.ids[0], "bbbbbbbbbbbb");
        run(fx, "UPDATE api_keys SET limits = keep.limits, permissions = keep.permissions "
                "FROM keep WHERE keep.id = api_keys.id");
    }
    run(fx, "UPDATE api_keys SET limits = '{\"requestsPerMinute\":10,\"requestsPerDay\":1,"
            "\"tokensPerDay\":null,\"future\":1}'");
    DO(api_key_find(fx->db, "aaaaaaaaaaaa", got_key, &got));
    assert_true(got.found); /* a newer program's field is no error */
    forget(&got);
}

static void test_key_list(void **state)
{
    struct fx *fx = *state;
    struct got got = {0};
    struct api_key key = make_key(NO_ID, "cccccccccccc", 1500);
    DO(api_key_insert(fx->db, &key, got_key, &got));
    DO(api_key_list(fx->db, got_keys, &got));
    assert_int_equal(got.count, 3);
    assert_string_equal(got.ids[0], "bbbbbbbbbbbb");
    assert_string_equal(got.ids[1], "cccccccccccc");
    assert_string_equal(got.ids[2], "aaaaaaaaaaaa");
}

static void test_key_status(void **state)
{
    struct fx *fx = *state;
    struct got got = {0};
    struct api_key key;
    DO(api_key_get(fx->db, "aaaaaaaaaaaa", got_key, &got));
    api_key_copy(&key, &got.key);
    x_replace(&key.status, "disabled");
    DO(api_key_update(fx->db, &key, got_key, &got));
    assert_string_equal(got.key.status, "disabled");
    assert_int_equal(got.key.version, 2);
    x_replace(&key.status, "nonsense");
    key.version = 2;
    DO(api_key_update(fx->db, &key, got_key, &got));
    assert_int_equal(got.err.code, ERR_INTERNAL);
    DO(api_key_revoke(fx->db, "aaaaaaaaaaaa", got_key, &got));
    assert_string_equal(got.key.status, "revoked");
    assert_string_equal(got.key.id, KEY_ID);
    x_replace(&key.status, "active");
    key.version = 3;
    DO(api_key_update(fx->db, &key, got_key, &got));
    assert_int_equal(got.err.code, ERR_CONFLICT); /* revoked is final */
    DO(api_key_revoke(fx->db, KEY2_ID, got_key, &got));
    assert_string_equal(got.key.public_id, "bbbbbbbbbbbb");
    DO(api_key_find(fx->db, "bbbbbbbbbbbb", got_key, &got));
    assert_string_equal(got.key.status, "revoked");
    DO(api_key_revoke(fx->db, NO_ID, got_key, &got));
    assert_int_equal(got.err.code, ERR_NOT_FOUND);
    api_key_release(&key);
    forget(&got);
}

static void assert_same_text(const char *a, const char *b)
{
    assert_string_equal(a ? a : "(none)", b ? b : "(none)");
}

/* Everything that may change does, and nothing else: not another key, not what was not meant. */
static void test_key_update(void **state)
{
    struct fx *fx = *state;
    struct got got = {0};
    struct api_key key, other;
    DO(api_key_get(fx->db, KEY2_ID, got_key, &got));
    api_key_copy(&other, &got.key);
    DO(api_key_get(fx->db, KEY_ID, got_key, &got));
    assert_same_text(got.key.metadata, NULL);
    assert_same_text(got.key.old_secret_hash, NULL);
    assert_int_equal(got.key.version, 1);
    api_key_copy(&key, &got.key);
    x_replace(&key.name, "new name");
    x_replace(&key.secret_hash, "$2b$10$new");
    x_replace(&key.old_secret_hash, "$2b$10$abc");
    x_replace(&key.metadata, "{\"team\": \"a\"}");
    x_replace(&key.signing_secret, "v1:1:sealed");
    x_replace(&key.old_signing_secret, "v1:1:before");
    key.old_secret_until = 99;
    key.expires_at = 77;
    key.priority = 9;
    key.limits = (struct key_limits){1, 2, 3, 4, 5, 6};
    key.permissions.max_tokens = 11;
    key.permissions.allow_tools = key.permissions.require_signature = true;
    DO(api_key_update(fx->db, &key, got_key, &got));
    assert_ok(&got);
    DO(api_key_find(fx->db, "aaaaaaaaaaaa", got_key, &got));
    assert_same_key(&got.key, &key);
    assert_same_text(got.key.old_secret_hash, key.old_secret_hash);
    assert_same_text(got.key.metadata, key.metadata);
    assert_same_text(got.key.signing_secret, key.signing_secret);
    assert_same_text(got.key.old_signing_secret, key.old_signing_secret);
    assert_int_equal(got.key.old_secret_until, 99);
    assert_true(got.key.permissions.allow_tools && got.key.permissions.require_signature);
    DO(api_key_update(fx->db, &key, got_key, &got)); /* what was read is out of date */
    assert_int_equal(got.err.code, ERR_CONFLICT);
    DO(api_key_find(fx->db, "bbbbbbbbbbbb", got_key, &got));
    assert_same_key(&got.key, &other);
    assert_same_text(got.key.signing_secret, NULL);
    DO(api_key_revoke(fx->db, KEY_ID, got_key, &got));
    assert_same_text(got.key.signing_secret, NULL);
    assert_same_text(got.key.old_secret_hash, NULL);
    DO(api_key_get(fx->db, "dddddddddddd", got_key, &got));
    assert_int_equal(got.err.code, ERR_NOT_FOUND);
    api_key_release(&key);
    api_key_release(&other);
    forget(&got);
}

static void test_key_priority(void **state)
{
    struct fx *fx = *state;
    struct got got = {0};
    struct api_key key = make_key(NO_ID, "cccccccccccc", 1500);
    key.priority = 0; /* not said */
    DO(api_key_insert(fx->db, &key, got_key, &got));
    assert_int_equal(got.key.priority, 1);
    key.priority = 11;
    key.version = 1;
    DO(api_key_update(fx->db, &key, got_key, &got));
    assert_int_equal(got.err.code, ERR_INTERNAL);
    key = make_key(USER_ID, "eeeeeeeeeeee", 1);
    key.priority = -1;
    DO(api_key_insert(fx->db, &key, got_key, &got));
    assert_int_equal(got.err.code, ERR_INTERNAL);
    forget(&got);
}

static void test_key_touch(void **state)
{
    struct fx *fx = *state;
    const struct api_key_use uses[] = {{KEY_ID, 5000}, {NO_ID, 1}, {KEY_ID, 4000}, {KEY2_ID, 6}};
    api_key_touch(fx->db, NULL, 0);
    api_key_touch(fx->db, uses, ARRAY_SIZE(uses));
    int64_t deadline = clock_mono_ms() + 10000; /* nobody is told when it is done */
    while (run(fx, "SELECT count(last_used_at) FROM api_keys") < 2)
        assert_true(clock_mono_ms() < deadline);
    assert_int_equal(run(fx, "SELECT last_used_at FROM api_keys WHERE id = '" KEY_ID "'"), 5000);
    assert_int_equal(run(fx, "SELECT last_used_at FROM api_keys WHERE id = '" KEY2_ID "'"), 6);
}

static void test_key_find_is_one_indexed_query(void **state)
{
    struct fx *fx = *state;
    sqlite3 *raw = raw_open(fx);
    sqlite3_stmt *stmt;
    assert_int_equal(sqlite3_prepare_v2(raw,
                                        "EXPLAIN QUERY PLAN SELECT id, limits FROM api_keys "
                                        "WHERE public_id = $1",
                                        -1, &stmt, NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
    assert_non_null(strstr((const char *)sqlite3_column_text(stmt, 3), "SEARCH api_keys USING"));
    assert_int_equal(sqlite3_step(stmt), SQLITE_DONE);
    sqlite3_finalize(stmt);
    sqlite3_close(raw);
}

static void test_key_copy(void **state)
{
    (void)state;
    struct api_key key = make_key(KEY_ID, "aaaaaaaaaaaa", 1), copy, bare = {0};
    api_key_copy(&copy, &key);
    assert_same_key(&key, &copy);
    assert_ptr_not_equal(copy.name, key.name);
    assert_ptr_not_equal(copy.permissions.models, key.permissions.models);
    assert_ptr_not_equal(copy.permissions.models[0], key.permissions.models[0]);
    assert_true(api_key_allows_model(&copy, "claude-opus-4"));
    assert_true(api_key_allows_model(&copy, "opus \"4\" Ü"));
    assert_false(api_key_allows_model(&copy, "opus"));
    assert_false(api_key_allows_model(&copy, "xclaude-1"));
    api_key_release(&copy);
    api_key_release(&copy); /* harmless twice */
    api_key_copy(&copy, &bare);
    assert_null(copy.name);
    assert_false(api_key_allows_model(&copy, "claude-opus-4"));
    assert_false(api_key_allows_model(&bare, "claude-opus-4"));
    api_key_release(&copy);
}

/* --- usage -------------------------------------------------------------------------------- */

static struct usage_row make_usage(const char *key_id, int n)
{
    struct usage_row row = {
        .timestamp = 10000 + n,
        .endpoint = "/api/chat",
        .method = "POST",
        .model = "claude-x",
        .input_tokens = 1,
        .output_tokens = 20,
        .cache_creation_tokens = 300,
        .cache_read_tokens = 4000,
        .upstream_calls = 2,
        .retries = 1,
        .response_time_ms = 1234,
        .ttft_ms = 56,
        .queue_ms = 7,
        .status_code = 200,
        .cost_nano = -1,
    };
    snprintf(row.request_id, sizeof(row.request_id), "req_%024d", n);
    snprintf(row.api_key_id, sizeof(row.api_key_id), "%s", key_id);
    return row;
}

static void test_usage_columns(void **state)
{
    struct fx *fx = *state;
    struct got got = {0};
    struct usage_row rows[] = {make_usage(KEY_ID, 1), make_usage(KEY_ID, 2)};
    snprintf(rows[1].session_id, sizeof(rows[1].session_id), "%s", NO_ID);
    snprintf(rows[1].error, sizeof(rows[1].error), "upstream_error");
    rows[1].ttft_ms = -1;
    rows[1].estimated = rows[1].cached = true;
    DO(usage_insert(fx->db, rows, 2, got_done, &got));
    assert_ok(&got);
    assert_int_equal(
        run(fx, "SELECT request_tokens = 4301 AND response_tokens = 20 AND total_tokens = 4321 AND "
                "input_tokens = 1 AND output_tokens = 20 AND cache_creation_tokens = 300 AND "
                "cache_read_tokens = 4000 AND upstream_calls = 2 AND retries = 1 AND "
                "response_time_ms = 1234 AND queue_ms = 7 AND status_code = 200 AND "
                "model = 'claude-x' AND endpoint = '/api/chat' AND method = 'POST' AND "
                "api_key_id = '" KEY_ID "' AND length(CAST(id AS TEXT)) = 36 AND cost_usd IS NULL "
                "FROM usage_logs GROUP BY 1"),
        1);
    assert_int_equal(run(fx, "SELECT ttft_ms = 56 AND session_id IS NULL AND error IS NULL AND "
                             "estimated = 0 AND cached = 0 AND timestamp = 10001 FROM usage_logs "
                             "WHERE request_id LIKE '%1'"),
                     1);
    assert_int_equal(
        run(fx, "SELECT ttft_ms IS NULL AND session_id = '" NO_ID "' AND "
                "error = 'upstream_error' AND estimated = 1 AND cached = 1 FROM usage_logs "
                "WHERE request_id LIKE '%2'"),
        1);
}

static void test_usage_replay(void **state)
{
    struct fx *fx = *state;
    struct got got = {0};
    struct usage_row rows[] = {make_usage(KEY_ID, 1), make_usage(KEY_ID, 2), make_usage(KEY_ID, 1),
                               make_usage(KEY_ID, 3)};
    const struct log_opts log = {.level = LOG_INFO, .dir = fx->dir};
    struct err err;
    assert_int_equal(log_open(&log, &err), 0);
    DO(usage_insert(fx->db, rows, 2, got_done, &got));
    DO(usage_insert(fx->db, rows, 4, got_done, &got));
    assert_ok(&got);
    DO(usage_insert(fx->db, NULL, 0, got_done, &got));
    assert_ok(&got);
    assert_int_equal(run(fx, "SELECT count(*) FROM usage_logs"), 3);
    log_close();
    char name[256];
    struct stat st;
    snprintf(name, sizeof(name), "%s/error.log", fx->dir);
    assert_int_equal(stat(name, &st), 0);
    assert_int_equal(st.st_size, 0); /* a replay is no incident */
    unlink(name);
    snprintf(name, sizeof(name), "%s/combined.log", fx->dir);
    unlink(name);
}

/* Keys are never deleted, but a backup may have been restored. */
static void test_usage_of_unknown_key(void **state)
{
    struct fx *fx = *state;
    struct got got = {0};
    struct usage_row rows[] = {make_usage(KEY_ID, 1), make_usage(NO_ID, 2), make_usage(KEY2_ID, 3)};
    DO(usage_insert(fx->db, rows, 3, got_done, &got));
    assert_int_equal(got.err.code, ERR_INTERNAL);
    assert_int_equal(run(fx, "SELECT count(*) FROM usage_logs"), 0); /* all or none */
    DO(usage_insert(fx->db, &rows[1], 1, got_done, &got));
    assert_int_equal(got.err.code, ERR_INTERNAL);
    DO(usage_insert(fx->db, &rows[2], 1, got_done, &got));
    assert_ok(&got);
    assert_int_equal(run(fx, "SELECT count(*) FROM usage_logs"), 1);
}

static void test_usage_when_full(void **state)
{
    enum { N = 500 };
    struct fx *fx = *state;
    struct got got = {0};
    struct usage_row *rows = x_calloc(N, sizeof(*rows));
    char sql[64];
    for (int i = 0; i < N; i++)
        rows[i] = make_usage(KEY_ID, i);
    snprintf(sql, sizeof(sql), "PRAGMA max_page_count = %d", (int)run(fx, "PRAGMA page_count") + 4);
    run(fx, sql);
    DO(usage_insert(fx->db, rows + 4, N - 4, got_done, &got));
    assert_int_equal(got.err.code, ERR_UNAVAILABLE);
    assert_int_equal(run(fx, "SELECT count(*) FROM usage_logs"), 0); /* all or none */
    DO(usage_insert(fx->db, rows, N, got_done, &got)); /* row 3 is refused, then it is full */
    assert_int_equal(got.err.code, ERR_UNAVAILABLE);
    run(fx, "PRAGMA max_page_count = 100000");
    DO(usage_insert(fx->db, rows, N, got_done, &got)); /* offered again */
    assert_ok(&got);
    assert_int_equal(run(fx, "SELECT count(*) FROM usage_logs"), N);
    free(rows);
}

static void test_usage_sums(void **state)
{
    struct fx *fx = *state;
    struct got got = {0};
    struct usage_row rows[] = {make_usage(KEY_ID, 1), make_usage(KEY_ID, 2), make_usage(KEY2_ID, 3),
                               make_usage(KEY2_ID, 4), make_usage(KEY_ID, 0)};
    rows[1].output_tokens = 30;
    DO(usage_sums_since(fx->db, 0, 0, got_sums, &got));
    assert_ok(&got);
    assert_int_equal(got.count, 0);
    DO(usage_insert(fx->db, rows, 5, got_done, &got));
    DO(usage_sums_since(fx->db, 10001, 0, got_sums, &got));
    assert_int_equal(got.count, 2);
    const struct usage_sum *a = &got.sums[0], *b = &got.sums[1];
    if (strcmp(a->api_key_id, KEY_ID) != 0) {
        a = &got.sums[1];
        b = &got.sums[0];
    }
    assert_string_equal(a->api_key_id, KEY_ID);
    assert_int_equal(a->requests, 2);
    assert_int_equal(usage_counted_tokens(&rows[0]), 721); /* 4000 cache reads count 400 */
    assert_int_equal(a->tokens, 721 + 731);
    assert_string_equal(b->api_key_id, KEY2_ID);
    assert_int_equal(b->requests, 2);
    assert_int_equal(b->tokens, 2 * 721);
}

static void test_usage_speed(void **state)
{
    enum { N = 20000, BATCH = 500 };
    struct fx *fx = *state;
    struct got got = {0};
    struct usage_row *rows = x_calloc(BATCH, sizeof(*rows));
    int64_t start = clock_mono_us();
    for (int done = 0; done < N; done += BATCH) {
        for (int i = 0; i < BATCH; i++) {
            rows[i] = make_usage(KEY_ID, done + i);
            id_request(rows[i].request_id);
        }
        DO(usage_insert(fx->db, rows, BATCH, got_done, &got));
        assert_ok(&got);
    }
    print_message("           usage rows/s in batches of %d: %.0f\n", BATCH,
                  N * 1e6 / (double)(clock_mono_us() - start));
    assert_int_equal(run(fx, "SELECT count(*) FROM usage_logs"), N);
    free(rows);
}

/* --- sessions ----------------------------------------------------------------------------- */

static void test_sessions(void **state)
{
    struct fx *fx = *state;
    struct got got = {0};
    struct session_row row = {.id = NO_ID,
                              .api_key_id = KEY_ID,
                              .context = STR("{\"messages\":[\"ä\\u0000 🙂\"]}"),
                              .message_count = -1,
                              .version = INT64_MAX,
                              .created_at = 100,
                              .last_accessed_at = 200};
    DO(session_find(fx->db, NO_ID, KEY_ID, got_session, &got));
    assert_false(got.found || got.failed);
    DO(session_save(fx->db, &row, 0, got_done, &got));
    assert_ok(&got);
    DO(session_save(fx->db, &row, 0, got_done, &got)); /* the answer was lost */
    assert_ok(&got);
    DO(session_find(fx->db, NO_ID, KEY_ID, got_session, &got));
    assert_true(got.found);
    assert_string_equal(got.session.id, NO_ID);
    assert_string_equal(got.session.api_key_id, KEY_ID);
    assert_true(got.session.version == INT64_MAX && got.session.message_count == -1);
    assert_string_equal(got.conversation, "");
    assert_string_equal(got.context, "{\"messages\":[\"ä\\u0000 🙂\"]}");
    row.conversation_id = STR("cli-7");
    row.context = STR("{}");
    row.version = 8;
    row.message_count = 2;
    row.created_at = row.last_accessed_at = 300;
    for (int i = 0; i < 2; i++) {
        DO(session_save(fx->db, &row, INT64_MAX, got_done, &got));
        assert_ok(&got);
    }
    DO(session_find(fx->db, NO_ID, KEY_ID, got_session, &got));
    assert_string_equal(got.conversation, "cli-7");
    assert_string_equal(got.context, "{}");
    assert_true(got.session.version == 8 && got.session.message_count == 2);
    assert_int_equal(got.session.created_at, 100);
    assert_int_equal(got.session.last_accessed_at, 300);
    row.version = 9;
    row.context = STR("{broken");
    DO(session_save(fx->db, &row, 8, got_done, &got));
    assert_int_equal(got.err.code, ERR_INTERNAL);
    forget(&got);
}

/* Who replaces another state than the one that stands there changes nothing. */
static void test_session_versions(void **state)
{
    struct fx *fx = *state;
    struct got got = {0};
    struct session_row row = {
        .id = NO_ID, .api_key_id = KEY_ID, .context = STR("{\"a\":1}"), .version = 5};
    struct session_ref ref = {.id = NO_ID, .api_key_id = KEY_ID};
    DO(session_save(fx->db, &row, 4, got_done, &got)); /* there is none to replace */
    assert_int_equal(got.err.code, ERR_CONFLICT);
    DO(session_save(fx->db, &row, 0, got_done, &got));
    assert_ok(&got);
    row.version = 6;
    row.context = STR("{\"b\":1}");
    DO(session_save(fx->db, &row, 0, got_done, &got));
    assert_int_equal(got.err.code, ERR_CONFLICT);
    DO(session_save(fx->db, &row, 4, got_done, &got));
    assert_int_equal(got.err.code, ERR_CONFLICT);
    DO(session_touch(fx->db, &ref, 6, 700, got_count, &got));
    assert_int_equal(got.count, 0);
    DO(session_touch(fx->db, &ref, 5, 700, got_count, &got));
    assert_int_equal(got.count, 1);
    ref.not_before = 701;
    DO(session_touch(fx->db, &ref, 5, 800, got_count, &got));
    assert_int_equal(got.count, 0);
    DO(session_use(fx->db, &ref, 800, got_session, &got));
    assert_false(got.found || got.failed);
    ref.not_before = 700;
    DO(session_use(fx->db, &ref, 800, got_session, &got));
    assert_true(got.found);
    assert_string_equal(got.context, "{\"a\":1}");
    assert_int_equal(got.session.last_accessed_at, 800);
    ref.api_key_id = KEY2_ID;
    DO(session_use(fx->db, &ref, 900, got_session, &got));
    assert_false(got.found || got.failed);
    DO(session_delete(fx->db, &ref, got_count, &got));
    assert_int_equal(got.count, 0);
    ref.api_key_id = KEY_ID;
    DO(session_delete(fx->db, &ref, got_count, &got));
    assert_int_equal(got.count, 1);
    forget(&got);
}

static void test_session_of_another_key(void **state)
{
    struct fx *fx = *state;
    struct got got = {0};
    struct session_row row = {
        .id = NO_ID, .api_key_id = KEY_ID, .context = STR("{\"mine\":1}"), .version = 5};
    DO(session_save(fx->db, &row, 0, got_done, &got));
    DO(session_find(fx->db, NO_ID, KEY2_ID, got_session, &got));
    assert_false(got.found || got.failed);
    snprintf(row.api_key_id, sizeof(row.api_key_id), "%s", KEY2_ID);
    row.context = STR("{\"stolen\":1}");
    for (int64_t replaces = 0; replaces <= 5; replaces += 5) { /* even with its version */
        DO(session_save(fx->db, &row, replaces, got_done, &got));
        assert_int_equal(got.err.code, ERR_CONFLICT);
    }
    DO(session_find(fx->db, NO_ID, KEY_ID, got_session, &got));
    assert_string_equal(got.context, "{\"mine\":1}");
    forget(&got);
}

static void test_session_expiry(void **state)
{
    struct fx *fx = *state;
    struct got got = {0};
    for (int i = 0; i < 10; i++) {
        struct session_row row = {.api_key_id = KEY_ID, .last_accessed_at = i, .version = 2};
        id_uuid(row.id);
        DO(session_save(fx->db, &row, 0, got_done, &got));
        assert_ok(&got);
    }
    DO(session_delete_expired(fx->db, 4, got_count, &got));
    assert_ok(&got);
    assert_int_equal(got.count, 4);
    DO(session_delete_expired(fx->db, 4, got_count, &got));
    assert_int_equal(got.count, 0);
    assert_int_equal(run(fx, "SELECT min(last_accessed_at) FROM sessions"), 4);
}

static struct loop *page_loop;

struct got_page {
    size_t count;
    struct session_row rows[20];
    char models[20][8];
};

static void got_page(void *ctx, const struct session_row *rows, size_t count, const struct err *err)
{
    struct got_page *page = ctx;
    assert_null(err);
    assert_true(count <= ARRAY_SIZE(page->rows));
    page->count = count;
    for (size_t i = 0; i < count; i++) {
        page->rows[i] = rows[i];
        snprintf(page->models[i], sizeof(page->models[i]), "%s", rows[i].model.p);
    }
    loop_stop(page_loop);
}

static struct got_page page_of(struct fx *fx, const struct session_page *want)
{
    struct got_page page;
    page_loop = fx->loop;
    session_list(fx->db, want, got_page, &page);
    loop_run(fx->loop);
    return page;
}

static void test_session_pages(void **state)
{
    struct fx *fx = *state;
    struct got got = {0};
    char seen[10][ID_UUID_SIZE];
    size_t n = 0;
    for (int i = 0; i < 10; i++) { /* three made at the same time */
        struct session_row row = {.api_key_id = KEY_ID,
                                  .model = str_c(i % 2 ? "m1" : ""),
                                  .message_count = i,
                                  .created_at = 1000 + i / 3,
                                  .last_accessed_at = i == 9 ? 1 : 5000,
                                  .version = 2};
        id_uuid(row.id);
        DO(session_save(fx->db, &row, 0, got_done, &got));
        assert_ok(&got);
    }
    struct session_page want = {.api_key_id = KEY_ID,
                                .not_before = 2,
                                .made_before = INT64_MAX,
                                .id_before = "ffffffff-ffff-ffff-ffff-ffffffffffff",
                                .limit = 4};
    for (;;) {
        struct got_page page = page_of(fx, &want);
        for (size_t i = 0; i < page.count; i++) {
            assert_true(n < 9);
            assert_string_equal(page.models[i], page.rows[i].message_count % 2 ? "m1" : "");
            assert_true(n == 0 || strcmp(page.rows[i].id, seen[n - 1]) < 0);
            memcpy(seen[n++], page.rows[i].id, ID_UUID_SIZE);
        }
        if (page.count < 4)
            break;
        want.made_before = page.rows[3].created_at;
        want.id_before = seen[n - 1];
    }
    assert_int_equal(n, 9);
    want.api_key_id = KEY2_ID;
    assert_int_equal(page_of(fx, &want).count, 0);
}

static void got_seals(void *ctx, const struct seal_count *counts, size_t count,
                      const struct err *err)
{
    struct fx *fx = ctx;
    assert_null(err);
    assert_int_equal(count, 2);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(counts[i].count, counts[i].key[0] ? 3 : 2);
    loop_stop(fx->loop);
}

static void test_session_seals(void **state)
{
    struct fx *fx = *state;
    struct got got = {0};
    struct got_page page;
    for (int i = 0; i < 5; i++) {
        struct session_row row = {.api_key_id = KEY_ID,
                                  .sealed_with = i < 3 ? STR("01234567") : STR(""),
                                  .context = STR("\"v1:x\""),
                                  .version = 2 + i};
        id_uuid(row.id);
        DO(session_save(fx->db, &row, 0, got_done, &got));
        assert_ok(&got);
    }
    session_seal_counts(fx->db, got_seals, fx);
    loop_run(fx->loop);
    page_loop = fx->loop;
    session_list_unsealed(fx->db, "01234567", "00000000-0000-0000-0000-000000000000", 9, got_page,
                          &page);
    loop_run(fx->loop);
    assert_int_equal(page.count, 2);
    const struct session_row *r = &page.rows[0];
    DO(session_reseal(fx->db, r->id, r->version + 1, STR("\"v1:y\""), "01234567", got_count, &got));
    assert_int_equal(got.count, 0); /* a turn was saved meanwhile */
    DO(session_reseal(fx->db, r->id, r->version, STR("\"v1:y\""), "01234567", got_count, &got));
    assert_int_equal(got.count, 1);
    session_list_unsealed(fx->db, "01234567", "00000000-0000-0000-0000-000000000000", 9, got_page,
                          &page);
    loop_run(fx->loop);
    assert_int_equal(page.count, 1);
    session_list_unsealed(fx->db, "89abcdef", page.rows[0].id, 9, got_page, &page);
    loop_run(fx->loop);
    assert_int_equal(page.count, 0);
}

/* --- replies ------------------------------------------------------------------------------ */

#define REPLY_ID "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

struct got_reply {
    struct fx *fx;
    bool found;
    struct reply_row row;
    char content[64], key[16];
};

static void got_reply(void *ctx, const struct reply_row *row, const struct err *err)
{
    struct got_reply *got = ctx;
    assert_null(err);
    got->found = row != NULL;
    if (row) {
        got->row = *row;
        snprintf(got->content, sizeof(got->content), "%.*s", (int)row->content.len, row->content.p);
        snprintf(got->key, sizeof(got->key), "%.*s", (int)row->sealed_with.len, row->sealed_with.p);
    }
    loop_stop(got->fx->loop);
}

static struct got_reply find_reply(struct fx *fx, int64_t now)
{
    struct got_reply got = {.fx = fx};
    reply_find(fx->db, REPLY_ID, now, got_reply, &got);
    loop_run(fx->loop);
    return got;
}

static int64_t claim_reply(struct fx *fx, const struct reply_claim *c)
{
    struct got got = {0};
    DO(reply_claim(fx->db, c, got_count, &got));
    assert_ok(&got);
    return got.count;
}

static struct reply_claim claim_by(const char *owner, const char *request_id, int64_t now)
{
    return (struct reply_claim){.id = REPLY_ID,
                                .api_key_id = KEY_ID,
                                .fingerprint = "f",
                                .request_id = request_id,
                                .owner = owner,
                                .now = now,
                                .lease_until = now + 10,
                                .expires_at = now + 100};
}

static void test_reply_claims(void **state)
{
    struct fx *fx = *state;
    struct got got = {0};
    struct reply_claim a = claim_by("a", "req_1", 1000), b = claim_by("b", "req_2", 1005);
    assert_false(find_reply(fx, 0).found);
    assert_int_equal(claim_reply(fx, &a), 1);
    assert_int_equal(claim_reply(fx, &a), 1); /* the answer was lost */
    assert_int_equal(claim_reply(fx, &b), 0);
    a.lease_until = 1020;
    DO(reply_renew(fx->db, &a, got_count, &got));
    assert_int_equal(got.count, 1);
    b.now = 1015;
    assert_int_equal(claim_reply(fx, &b), 0);
    DO(reply_doubt(fx->db, REPLY_ID, 1019, 1030, got_count, &got));
    assert_int_equal(got.count, 0);
    b.now = 1020; /* the lease has run out: its owner is given time to say that it is there */
    b.lease_until = 1060;
    assert_int_equal(claim_reply(fx, &b), 0);
    assert_int_equal(find_reply(fx, 1020).row.lease_until, 1020);
    DO(reply_doubt(fx->db, REPLY_ID, 1020, 1030, got_count, &got));
    assert_int_equal(got.count, 1);
    assert_int_equal(find_reply(fx, 1020).row.lease_until, -1030);
    DO(reply_doubt(fx->db, REPLY_ID, 1029, 1039, got_count, &got)); /* once */
    assert_int_equal(got.count, 0);
    b.now = 1029;
    assert_int_equal(claim_reply(fx, &b), 0);
    a.lease_until = 1040; /* it is */
    a.expires_at = 1200;
    DO(reply_renew(fx->db, &a, got_count, &got));
    assert_int_equal(got.count, 1);
    b.now = 1039;
    assert_int_equal(claim_reply(fx, &b), 0);
    assert_true(find_reply(fx, 1199).found); /* what runs does not expire */
    DO(reply_doubt(fx->db, REPLY_ID, 1040, 1050, got_count, &got));
    assert_int_equal(got.count, 1);
    b.now = 1050; /* it is not */
    assert_int_equal(claim_reply(fx, &b), 1);
    DO(reply_renew(fx->db, &a, got_count, &got));
    assert_int_equal(got.count, 0);
    DO(reply_finish(fx->db, &a, STR("x"), NULL, got_count, &got));
    assert_int_equal(got.count, 0);
    DO(reply_drop(fx->db, &a, got_count, &got));
    assert_int_equal(got.count, 0);
    struct got_reply r = find_reply(fx, 1051);
    assert_true(r.found && r.row.state == REPLY_RUNNING);
    assert_string_equal(r.row.request_id, "req_2");
    DO(reply_drop(fx->db, &b, got_count, &got));
    assert_int_equal(got.count, 1);
    assert_false(find_reply(fx, 0).found);
}

static void test_reply_finished(void **state)
{
    struct fx *fx = *state;
    struct got got = {0};
    struct reply_claim a = claim_by("a", "req_1", 1000), b = claim_by("b", "req_2", 1099);
    claim_reply(fx, &a);
    for (int i = 0; i < 2; i++) {
        DO(reply_finish(fx->db, &a, STR("v1:ä"), "01234567", got_count, &got));
        assert_int_equal(got.count, 1);
    }
    struct got_reply r = find_reply(fx, 1099);
    assert_true(r.found && r.row.state == REPLY_DONE);
    assert_string_equal(r.content, "v1:ä");
    assert_string_equal(r.key, "01234567");
    assert_string_equal(r.row.fingerprint, "f");
    assert_int_equal(claim_reply(fx, &b), 0); /* the lease does not matter any more */
    assert_int_equal(claim_reply(fx, &a), 0);
    DO(reply_drop(fx->db, &a, got_count, &got));
    assert_int_equal(got.count, 0);
    DO(reply_reseal(fx->db, REPLY_ID, "req_2", STR("y"), "89abcdef", got_count, &got));
    assert_int_equal(got.count, 0);
    DO(reply_reseal(fx->db, REPLY_ID, "req_1", STR("y"), "89abcdef", got_count, &got));
    assert_int_equal(got.count, 1);
    assert_string_equal(find_reply(fx, 1099).content, "y");
    assert_false(find_reply(fx, 1100).found); /* it has expired */
    DO(reply_delete_expired(fx->db, 1099, got_count, &got));
    assert_int_equal(got.count, 0);
    b.now = 1100;
    assert_int_equal(claim_reply(fx, &b), 1);
    r = find_reply(fx, 1100);
    assert_true(r.found && r.row.state == REPLY_RUNNING);
    assert_string_equal(r.content, "");
    DO(reply_finish(fx->db, &b, STR(""), NULL, got_count, &got));
    assert_int_equal(find_reply(fx, 1100).row.state, REPLY_LOST);
    DO(reply_delete_expired(fx->db, b.expires_at, got_count, &got));
    assert_int_equal(got.count, 1);
}

static void damage_file(struct fx *fx)
{
    int fd = open(fx->path, O_WRONLY | O_CLOEXEC); /* every page but the first */
    char junk[4096];
    memset(junk, 0xEE, sizeof(junk));
    open_db(fx);
    for (int page = 1; page < 40; page++)
        assert_int_equal(pwrite(fd, junk, sizeof(junk), page * 4096), sizeof(junk));
    close(fd);
}

/* Opens it, and then it is gone. */
static void break_database(struct fx *fx)
{
    if (!fx->postgres) {
        damage_file(fx);
        return;
    }
    open_db_with(fx, (struct db_opts){.connect_timeout_ms = 200});
    pg_admin("DROP DATABASE ", fx->name, " WITH (FORCE)");
}

/* Every function reports a database that cannot serve, once, and nothing is lost or leaked. */
static void test_database_away(void **state)
{
    struct fx *fx = *state;
    struct got got = {0};
    struct usage_row usage = make_usage(KEY_ID, 1);
    struct session_row session = {.id = NO_ID, .api_key_id = KEY_ID};
    const struct api_key_use use = {KEY_ID, 1};
    struct user user = make_user();
    struct api_key key = make_key(NO_ID, "cccccccccccc", 1);
    close_db(fx);
    break_database(fx);
    DO(user_insert(fx->db, &user, got_user, &got));
    assert_int_equal(got.err.code, ERR_UNAVAILABLE);
    DO(user_find_by_name(fx->db, "Ada", got_user, &got));
    assert_int_equal(got.err.code, ERR_UNAVAILABLE);
    DO(user_count(fx->db, got_count, &got));
    assert_int_equal(got.err.code, ERR_UNAVAILABLE);
    DO(api_key_insert(fx->db, &key, got_key, &got));
    assert_int_equal(got.err.code, ERR_UNAVAILABLE);
    DO(api_key_find(fx->db, "aaaaaaaaaaaa", got_key, &got));
    assert_int_equal(got.err.code, ERR_UNAVAILABLE);
    DO(api_key_list(fx->db, got_keys, &got));
    assert_int_equal(got.err.code, ERR_UNAVAILABLE);
    DO(api_key_revoke(fx->db, KEY_ID, got_key, &got));
    assert_int_equal(got.err.code, ERR_UNAVAILABLE);
    api_key_touch(fx->db, &use, 1);
    DO(usage_insert(fx->db, &usage, 1, got_done, &got));
    assert_int_equal(got.err.code, ERR_UNAVAILABLE);
    DO(usage_sums_since(fx->db, 0, 0, got_sums, &got));
    assert_int_equal(got.err.code, ERR_UNAVAILABLE);
    DO(session_save(fx->db, &session, 0, got_done, &got));
    assert_int_equal(got.err.code, ERR_UNAVAILABLE);
    DO(session_find(fx->db, NO_ID, KEY_ID, got_session, &got));
    assert_int_equal(got.err.code, ERR_UNAVAILABLE);
    DO(session_delete_expired(fx->db, 1, got_count, &got));
    assert_int_equal(got.err.code, ERR_UNAVAILABLE);
}

#define KEYS(f) cmocka_unit_test_setup_teardown(f, set_up_keys, fx_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_users, fx_set_up, fx_tear_down),
        KEYS(test_key_round_trip),
        KEYS(test_key_json),
        cmocka_unit_test(test_key_without_newer_limits),
        cmocka_unit_test(test_money),
        KEYS(test_key_unreadable),
        KEYS(test_key_list),
        KEYS(test_key_status),
        KEYS(test_key_update),
        KEYS(test_key_priority),
        KEYS(test_key_touch),
        cmocka_unit_test(test_key_copy),
        KEYS(test_usage_columns),
        KEYS(test_usage_replay),
        KEYS(test_usage_of_unknown_key),
        KEYS(test_usage_sums),
        KEYS(test_usage_speed),
        KEYS(test_sessions),
        KEYS(test_session_versions),
        KEYS(test_session_of_another_key),
        KEYS(test_session_pages),
        KEYS(test_session_seals),
        KEYS(test_session_expiry),
        KEYS(test_reply_claims),
        KEYS(test_reply_finished),
        KEYS(test_database_away),
    };
    const struct CMUnitTest sqlite_tests[] = {
        KEYS(test_key_find_is_one_indexed_query),
        KEYS(test_usage_when_full),
    };
    id_init();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (!with_postgres())
        failed += cmocka_run_group_tests(sqlite_tests, NULL, NULL);
    return failed;
}
