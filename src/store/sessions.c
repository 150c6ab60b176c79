/* sessions.c - the table sessions. Every statement for a client names the owner: an id guessed or
 * taken over from another key finds nothing and overwrites nothing. */
#include "store/row.h"
#include "store/store.h"

#define COLUMNS                                                                                 \
    "id, api_key_id, conversation_id, model, sealed_with, message_count, version, created_at, " \
    "last_accessed_at"

static const char sql_find[] =
    "SELECT " COLUMNS ", context FROM sessions WHERE id = $1 AND api_key_id = $2";
static const char sql_use[] =
    "UPDATE sessions SET last_accessed_at = $3 WHERE id = $1 AND api_key_id = $2 "
    "AND last_accessed_at >= $4 RETURNING " COLUMNS ", context";
static const char sql_touch[] =
    "UPDATE sessions SET last_accessed_at = $3 WHERE id = $1 AND api_key_id = $2 "
    "AND last_accessed_at >= $4 AND version = $5";
static const char sql_check[] =
    "SELECT COUNT(*) FROM sessions WHERE id = $1 AND api_key_id = $2 AND last_accessed_at >= $3 "
    "AND version = $4";
/* The same save once more, after an answer that was lost, finds its own version. */
static const char sql_insert[] =
    "INSERT INTO sessions (id, api_key_id, conversation_id, model, sealed_with, message_count, "
    "version, last_accessed_at, context, created_at) "
    "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) "
    "ON CONFLICT (id) DO UPDATE SET last_accessed_at = excluded.last_accessed_at "
    "WHERE sessions.api_key_id = excluded.api_key_id AND sessions.version = excluded.version";
static const char sql_update[] =
    "UPDATE sessions SET conversation_id = $3, model = $4, sealed_with = $5, message_count = $6, "
    "version = $7, last_accessed_at = $8, context = $9 "
    "WHERE id = $1 AND api_key_id = $2 AND version IN ($7, $10)";
static const char sql_delete[] =
    "DELETE FROM sessions WHERE id = $1 AND api_key_id = $2 AND last_accessed_at >= $3";
static const char sql_count[] = "SELECT COUNT(*) FROM sessions WHERE id = $1";
static const char sql_delete_expired[] = "DELETE FROM sessions WHERE last_accessed_at < $1";
static const char sql_list[] =
    "SELECT " COLUMNS " FROM sessions WHERE api_key_id = $1 AND last_accessed_at >= $2 "
    "AND (created_at < $3 OR (created_at = $3 AND id < $4)) "
    "ORDER BY created_at DESC, id DESC LIMIT $5";
static const char sql_seal_counts[] =
    "SELECT sealed_with, COUNT(*) FROM sessions GROUP BY sealed_with ORDER BY sealed_with";
static const char sql_list_unsealed[] =
    "SELECT " COLUMNS " FROM sessions WHERE (sealed_with IS NULL OR sealed_with <> $1) AND id > $2 "
    "ORDER BY id LIMIT $3";
static const char sql_reseal[] =
    "UPDATE sessions SET context = $3, sealed_with = $4 WHERE id = $1 AND version = $2";

enum {
    COL_ID,
    COL_KEY,
    COL_CONVERSATION,
    COL_MODEL,
    COL_SEALED,
    COL_MESSAGES,
    COL_VERSION,
    COL_CREATED,
    COL_ACCESSED,
    COL_CONTEXT
};

#define CALL_TAG TAG4('s', 'e', 's', 'c')
struct call {
    uint32_t tag;
    session_done_fn *found; /* one of these */
    store_done_fn *saved;
    count_done_fn *counted;
    session_list_fn *listed;
    void *ctx;
};

static struct call *call_new(void *ctx)
{
    struct call *call = x_calloc(1, sizeof(*call));
    *call = (struct call){.tag = CALL_TAG, .ctx = ctx};
    return call;
}

/* --- one row ----------------------------------------------------------------------------- */

static void read_row(const struct db_result *r, size_t i, struct session_row *row)
{
    *row = (struct session_row){
        .conversation_id = db_text(r, i, COL_CONVERSATION),
        .model = db_text(r, i, COL_MODEL),
        .sealed_with = db_text(r, i, COL_SEALED),
        .message_count = db_is_null(r, i, COL_MESSAGES) ? -1 : db_int(r, i, COL_MESSAGES),
        .version = db_int(r, i, COL_VERSION),
        .created_at = db_int(r, i, COL_CREATED),
        .last_accessed_at = db_int(r, i, COL_ACCESSED),
    };
    ROW_FIXED(row->id, r, i, COL_ID);
    ROW_FIXED(row->api_key_id, r, i, COL_KEY);
}

static void find_done(void *ctx, const struct db_result *r, const struct err *err)
{
    struct call *call = OBJ(ctx, struct call, CALL_TAG);
    struct session_row row;
    if (err || db_rows(r) == 0) {
        call->found(call->ctx, NULL, err);
    } else {
        read_row(r, 0, &row);
        row.context = db_text(r, 0, COL_CONTEXT);
        call->found(call->ctx, &row, NULL);
    }
    free(call);
}

void session_find(struct db *db, const char *id, const char *api_key_id, session_done_fn *done,
                  void *ctx)
{
    const struct db_param params[] = {DBP_S(id), DBP_S(api_key_id)};
    struct call *call = call_new(ctx);
    call->found = done;
    db_query(db, sql_find, params, ARRAY_SIZE(params), find_done, call);
}

void session_use(struct db *db, const struct session_ref *ref, int64_t now, session_done_fn *done,
                 void *ctx)
{
    const struct db_param params[] = {DBP_S(ref->id), DBP_S(ref->api_key_id), DBP_I(now),
                                      DBP_I(ref->not_before)};
    struct call *call = call_new(ctx);
    call->found = done;
    db_query(db, sql_use, params, ARRAY_SIZE(params), find_done, call);
}

/* --- writing ----------------------------------------------------------------------------- */

void session_touch(struct db *db, const struct session_ref *ref, int64_t version, int64_t now,
                   count_done_fn *done, void *ctx)
{
    const struct db_param params[] = {DBP_S(ref->id), DBP_S(ref->api_key_id), DBP_I(now),
                                      DBP_I(ref->not_before), DBP_I(version)};
    write_counted(db, sql_touch, params, ARRAY_SIZE(params), done, ctx);
}

static void save_done(void *ctx, const struct db_result *r, const struct err *err)
{
    struct call *call = OBJ(ctx, struct call, CALL_TAG);
    struct err conflict;
    if (!err && db_changes(r) == 0) {
        err_set(&conflict, ERR_CONFLICT, "the session was changed or ended elsewhere");
        err = &conflict;
    }
    call->saved(call->ctx, err);
    free(call);
}

static struct db_param optional(struct str s)
{
    return s.len ? DBP_STR(s) : DBP_NULL;
}

void session_save(struct db *db, const struct session_row *row, int64_t replaces,
                  store_done_fn *done, void *ctx)
{
    const struct db_param params[] = {
        DBP_S(row->id),
        DBP_S(row->api_key_id),
        optional(row->conversation_id),
        optional(row->model),
        optional(row->sealed_with),
        row->message_count < 0 ? DBP_NULL : DBP_I(row->message_count),
        DBP_I(row->version),
        DBP_I(row->last_accessed_at),
        optional(row->context),
        DBP_I(replaces ? replaces : row->created_at),
    };
    struct call *call = call_new(ctx);
    call->saved = done;
    db_query(db, replaces ? sql_update : sql_insert, params, ARRAY_SIZE(params), save_done, call);
}

void session_delete(struct db *db, const struct session_ref *ref, count_done_fn *done, void *ctx)
{
    const struct db_param params[] = {DBP_S(ref->id), DBP_S(ref->api_key_id),
                                      DBP_I(ref->not_before)};
    write_counted(db, sql_delete, params, ARRAY_SIZE(params), done, ctx);
}

void session_delete_expired(struct db *db, int64_t last_accessed_before, count_done_fn *done,
                            void *ctx)
{
    const struct db_param params[] = {DBP_I(last_accessed_before)};
    write_counted(db, sql_delete_expired, params, ARRAY_SIZE(params), done, ctx);
}

void session_reseal(struct db *db, const char *id, int64_t version, struct str context,
                    const char *key, count_done_fn *done, void *ctx)
{
    const struct db_param params[] = {DBP_S(id), DBP_I(version), DBP_STR(context), DBP_S(key)};
    write_counted(db, sql_reseal, params, ARRAY_SIZE(params), done, ctx);
}

/* --- many rows --------------------------------------------------------------------------- */

static void count_done(void *ctx, const struct db_result *r, const struct err *err)
{
    struct call *call = OBJ(ctx, struct call, CALL_TAG);
    call->counted(call->ctx, err ? 0 : db_int(r, 0, 0), err);
    free(call);
}

void session_count(struct db *db, const char *id, count_done_fn *done, void *ctx)
{
    const struct db_param params[] = {DBP_S(id)};
    struct call *call = call_new(ctx);
    call->counted = done;
    db_query(db, sql_count, params, ARRAY_SIZE(params), count_done, call);
}

void session_check(struct db *db, const struct session_ref *ref, int64_t version,
                   count_done_fn *done, void *ctx)
{
    const struct db_param params[] = {DBP_S(ref->id), DBP_S(ref->api_key_id),
                                      DBP_I(ref->not_before), DBP_I(version)};
    struct call *call = call_new(ctx);
    call->counted = done;
    db_query(db, sql_check, params, ARRAY_SIZE(params), count_done, call);
}

static void list_done(void *ctx, const struct db_result *r, const struct err *err)
{
    struct call *call = OBJ(ctx, struct call, CALL_TAG);
    size_t n = err ? 0 : db_rows(r);
    struct session_row *rows = x_calloc(n + 1, sizeof(*rows));
    for (size_t i = 0; i < n; i++)
        read_row(r, i, &rows[i]);
    call->listed(call->ctx, rows, n, err);
    free(rows);
    free(call);
}

void session_list(struct db *db, const struct session_page *page, session_list_fn *done, void *ctx)
{
    const struct db_param params[] = {DBP_S(page->api_key_id), DBP_I(page->not_before),
                                      DBP_I(page->made_before), DBP_S(page->id_before),
                                      DBP_I(page->limit)};
    struct call *call = call_new(ctx);
    call->listed = done;
    db_query(db, sql_list, params, ARRAY_SIZE(params), list_done, call);
}

void session_list_unsealed(struct db *db, const char *key, const char *after, int limit,
                           session_list_fn *done, void *ctx)
{
    const struct db_param params[] = {DBP_S(key), DBP_S(after), DBP_I(limit)};
    struct call *call = call_new(ctx);
    call->listed = done;
    db_query(db, sql_list_unsealed, params, ARRAY_SIZE(params), list_done, call);
}

void session_seal_counts(struct db *db, seal_counts_fn *done, void *ctx)
{
    read_seal_counts(db, sql_seal_counts, done, ctx);
}
