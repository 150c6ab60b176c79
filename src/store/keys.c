/* keys.c - the table api_keys. Keys are never deleted, only revoked: usage rows refer to them. */
#include "store/key_json.h"
#include "store/row.h"
#include "store/store.h"

#include "core/log.h"

#define COLUMNS                                                                                 \
    "id, public_id, secret_hash, user_id, name, status, created_at, expires_at, last_used_at, " \
    "limits, permissions, priority, metadata, version, old_secret_hash, old_secret_until, "     \
    "signing_secret, old_signing_secret"

static const char sql_insert[] =
    "INSERT INTO api_keys (" COLUMNS ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, "
    "$13, 1, $14, $15, $16, $17) RETURNING " COLUMNS;
static const char sql_find[] = "SELECT " COLUMNS " FROM api_keys WHERE public_id = $1";
static const char sql_get[] = "SELECT " COLUMNS " FROM api_keys WHERE public_id = $1 OR "
                              "CAST(id AS TEXT) = $1";
static const char sql_list[] = "SELECT " COLUMNS " FROM api_keys ORDER BY created_at DESC, id";
static const char sql_update[] =
    "UPDATE api_keys SET secret_hash = $3, name = $4, status = $5, expires_at = $6, limits = $7, "
    "permissions = $8, priority = $9, metadata = $10, old_secret_hash = $11, old_secret_until = "
    "$12, signing_secret = $13, old_signing_secret = $14, version = version + 1 "
    "WHERE id = $1 AND version = $2 AND status <> 'revoked' RETURNING " COLUMNS;
static const char sql_revoke[] =
    "UPDATE api_keys SET status = 'revoked', old_secret_hash = NULL, old_secret_until = NULL, "
    "signing_secret = NULL, old_signing_secret = NULL, version = version + 1 "
    "WHERE public_id = $1 OR CAST(id AS TEXT) = $1 RETURNING " COLUMNS;
static const char sql_touch[] = "UPDATE api_keys SET last_used_at = $2 "
                                "WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2)";

/* --- the struct --------------------------------------------------------------------------- */

static char **models_copy(char **models)
{
    size_t count = 0;
    while (models && models[count])
        count++;
    char **copy = x_calloc(count + 1, sizeof(*copy));
    for (size_t i = 0; i < count; i++)
        copy[i] = x_strdup(models[i]);
    return copy;
}

static char *dup_or_null(const char *s)
{
    return s ? x_strdup(s) : NULL;
}

void api_key_copy(struct api_key *dst, const struct api_key *src)
{
    *dst = *src;
    dst->secret_hash = dup_or_null(src->secret_hash);
    dst->name = dup_or_null(src->name);
    dst->status = dup_or_null(src->status);
    dst->metadata = dup_or_null(src->metadata);
    dst->old_secret_hash = dup_or_null(src->old_secret_hash);
    dst->signing_secret = dup_or_null(src->signing_secret);
    dst->old_signing_secret = dup_or_null(src->old_signing_secret);
    dst->permissions.models = models_copy(src->permissions.models);
}

void api_key_release(struct api_key *key)
{
    free(key->secret_hash);
    free(key->name);
    free(key->status);
    free(key->metadata);
    free(key->old_secret_hash);
    free(key->signing_secret);
    free(key->old_signing_secret);
    key_models_free(key->permissions.models);
    *key = (struct api_key){0};
}

bool api_key_allows_model(const struct api_key *key, const char *model)
{
    for (char **m = key->permissions.models; m && *m; m++) {
        if (str_glob(*m, str_c(model)))
            return true;
    }
    return false;
}

static int read_key(const struct db_result *r, size_t row, struct api_key *ret_key, struct err *err)
{
    struct api_key key = {
        .secret_hash = row_text(r, row, 2),
        .name = row_text(r, row, 4),
        .status = row_text(r, row, 5),
        .created_at = db_int(r, row, 6),
        .expires_at = db_int(r, row, 7),
        .last_used_at = db_int(r, row, 8),
        .priority = (int)db_int(r, row, 11),
        .metadata = row_text(r, row, 12),
        .version = db_int(r, row, 13),
        .old_secret_hash = row_text(r, row, 14),
        .old_secret_until = db_int(r, row, 15),
        .signing_secret = row_text(r, row, 16),
        .old_signing_secret = row_text(r, row, 17),
    };
    ROW_FIXED(key.id, r, row, 0);
    ROW_FIXED(key.public_id, r, row, 1);
    ROW_FIXED(key.user_id, r, row, 3);
    if (key_limits_read(db_text(r, row, 9), &key.limits, err) != 0 ||
        key_permissions_read(db_text(r, row, 10), &key.permissions, err) != 0) {
        err_prefix(err, "api key %s", key.public_id);
        api_key_release(&key);
        return -1;
    }
    *ret_key = key;
    return 0;
}

/* --- one key ------------------------------------------------------------------------------ */

#define KEY_CALL_TAG TAG4('k', 'e', 'y', 'c')
struct key_call {
    uint32_t tag;
    const char *missing; /* what it means when there is no row; NULL: nothing */
    enum err_code code;  /* of that */
    api_key_done_fn *done;
    void *ctx;
};

static struct key_call *key_call_new(api_key_done_fn *done, void *ctx)
{
    struct key_call *call = x_calloc(1, sizeof(*call));
    *call = (struct key_call){.tag = KEY_CALL_TAG, .done = done, .ctx = ctx};
    return call;
}

static struct key_call *must_exist(struct key_call *call)
{
    call->code = ERR_NOT_FOUND;
    call->missing = "there is no such key";
    return call;
}

static void give_key(const struct key_call *call, const struct db_result *r)
{
    struct api_key key;
    struct err err;
    if (read_key(r, 0, &key, &err) != 0) {
        call->done(call->ctx, NULL, &err);
        return;
    }
    call->done(call->ctx, &key, NULL);
    api_key_release(&key);
}

static void key_row(void *ctx, const struct db_result *r, const struct err *err)
{
    struct key_call *call = OBJ(ctx, struct key_call, KEY_CALL_TAG);
    struct err own;
    if (err && err->code == ERR_CONFLICT) {
        err_set(&own, ERR_CONFLICT, "a key with this id already exists");
        err = &own;
    } else if (!err && db_rows(r) == 0 && call->missing) {
        err_set(&own, call->code, "%s", call->missing);
        err = &own;
    }
    if (err || db_rows(r) == 0)
        call->done(call->ctx, NULL, err);
    else
        give_key(call, r);
    free(call);
}

void api_key_insert(struct db *db, const struct api_key *key, api_key_done_fn *done, void *ctx)
{
    struct buf limits, permissions;
    buf_init(&limits, KEY_JSON_MAX);
    buf_init(&permissions, KEY_JSON_MAX);
    key_limits_write(&limits, &key->limits);
    key_permissions_write(&permissions, &key->permissions); /* too long: refused by json_valid */
    const struct db_param params[] = {
        DBP_S(key->id),
        DBP_S(key->public_id),
        DBP_S(key->secret_hash),
        DBP_S(key->user_id),
        DBP_S(key->name),
        DBP_S(key->status),
        DBP_I(key->created_at),
        time_or_null(key->expires_at),
        time_or_null(key->last_used_at),
        DBP_STR(buf_str(&limits)),
        DBP_STR(buf_str(&permissions)),
        DBP_I(key->priority ? key->priority : 1),
        DBP_S(key->metadata),
        DBP_S(key->old_secret_hash),
        time_or_null(key->old_secret_until),
        DBP_S(key->signing_secret),
        DBP_S(key->old_signing_secret),
    };
    db_query(db, sql_insert, params, ARRAY_SIZE(params), key_row, key_call_new(done, ctx));
    buf_release(&limits);
    buf_release(&permissions);
}

void api_key_find(struct db *db, const char *public_id, api_key_done_fn *done, void *ctx)
{
    const struct db_param params[] = {DBP_S(public_id)};
    db_query(db, sql_find, params, ARRAY_SIZE(params), key_row, key_call_new(done, ctx));
}

void api_key_get(struct db *db, const char *id, api_key_done_fn *done, void *ctx)
{
    const struct db_param params[] = {DBP_S(id)};
    db_query(db, sql_get, params, ARRAY_SIZE(params), key_row, must_exist(key_call_new(done, ctx)));
}

void api_key_update(struct db *db, const struct api_key *key, api_key_done_fn *done, void *ctx)
{
    struct key_call *call = key_call_new(done, ctx);
    struct buf limits, permissions;
    buf_init(&limits, KEY_JSON_MAX);
    buf_init(&permissions, KEY_JSON_MAX);
    key_limits_write(&limits, &key->limits);
    key_permissions_write(&permissions, &key->permissions);
    const struct db_param params[] = {
        DBP_S(key->id),
        DBP_I(key->version),
        DBP_S(key->secret_hash),
        DBP_S(key->name),
        DBP_S(key->status),
        time_or_null(key->expires_at),
        DBP_STR(buf_str(&limits)),
        DBP_STR(buf_str(&permissions)),
        DBP_I(key->priority),
        DBP_S(key->metadata),
        DBP_S(key->old_secret_hash),
        time_or_null(key->old_secret_until),
        DBP_S(key->signing_secret),
        DBP_S(key->old_signing_secret),
    };
    call->code = ERR_CONFLICT;
    call->missing = "the key was changed by somebody else in this moment, or is revoked";
    db_query(db, sql_update, params, ARRAY_SIZE(params), key_row, call);
    buf_release(&limits);
    buf_release(&permissions);
}

void api_key_revoke(struct db *db, const char *id, api_key_done_fn *done, void *ctx)
{
    const struct db_param params[] = {DBP_S(id)};
    db_query(db, sql_revoke, params, ARRAY_SIZE(params), key_row,
             must_exist(key_call_new(done, ctx)));
}

/* --- all keys ----------------------------------------------------------------------------- */

#define KEY_LIST_TAG TAG4('k', 'e', 'y', 'l')
struct list_call {
    uint32_t tag;
    api_key_list_fn *done;
    void *ctx;
};

/* A key that cannot be read (edited by hand) must not hide the others. */
static size_t read_keys(const struct db_result *r, struct api_key *keys)
{
    size_t count = 0;
    for (size_t row = 0; row < db_rows(r); row++) {
        struct err err;
        if (read_key(r, row, &keys[count], &err) == 0)
            count++;
        else
            log_error("an API key cannot be read, ignoring it", LF_S("error", err.msg));
    }
    return count;
}

static void key_rows(void *ctx, const struct db_result *r, const struct err *err)
{
    struct list_call *call = OBJ(ctx, struct list_call, KEY_LIST_TAG);
    if (err) {
        call->done(call->ctx, NULL, 0, err);
    } else {
        struct api_key *keys = x_calloc(db_rows(r) + 1, sizeof(*keys));
        size_t count = read_keys(r, keys);
        call->done(call->ctx, keys, count, NULL);
        for (size_t i = 0; i < count; i++)
            api_key_release(&keys[i]);
        free(keys);
    }
    free(call);
}

void api_key_list(struct db *db, api_key_list_fn *done, void *ctx)
{
    struct list_call *call = x_calloc(1, sizeof(*call));
    *call = (struct list_call){.tag = KEY_LIST_TAG, .done = done, .ctx = ctx};
    db_query(db, sql_list, NULL, 0, key_rows, call);
}

/* --- last use ----------------------------------------------------------------------------- */

static void touched(void *ctx, const struct db_result *r, const struct err *err)
{
    (void)ctx;
    (void)r;
    if (err)
        log_warn("cannot note when keys were used, ignoring", LF_S("error", err->msg));
}

void api_key_touch(struct db *db, const struct api_key_use *uses, size_t count)
{
    if (count == 0)
        return;
    struct db_stmt *stmts = x_calloc(count, sizeof(*stmts));
    struct db_param *params = x_calloc(count * 2, sizeof(*params));
    for (size_t i = 0; i < count; i++) {
        params[2 * i] = DBP_S(uses[i].id);
        params[2 * i + 1] = DBP_I(uses[i].at);
        stmts[i] = (struct db_stmt){.sql = sql_touch, .params = &params[2 * i], .param_count = 2};
    }
    db_batch(db, stmts, count, touched, NULL);
    free(params);
    free(stmts);
}
