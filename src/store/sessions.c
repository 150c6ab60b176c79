/* sessions.c - the table sessions. Every statement names the owner: an id guessed or taken over
 * from another key finds nothing and overwrites nothing. */
#include "store/row.h"
#include "store/store.h"

static const char sql_find[] =
    "SELECT id, api_key_id, conversation_id, context, created_at, last_accessed_at FROM sessions "
    "WHERE id = $1 AND api_key_id = $2";
static const char sql_save[] =
    "INSERT INTO sessions (id, api_key_id, conversation_id, context, created_at, "
    "last_accessed_at) VALUES ($1, $2, $3, $4, $5, $6) "
    "ON CONFLICT (id) DO UPDATE SET conversation_id = excluded.conversation_id, "
    "context = excluded.context, last_accessed_at = excluded.last_accessed_at "
    "WHERE sessions.api_key_id = excluded.api_key_id";
static const char sql_count[] = "SELECT COUNT(*) FROM sessions WHERE id = $1";
static const char sql_delete_expired[] = "DELETE FROM sessions WHERE last_accessed_at < $1";

#define CALL_TAG TAG4('s', 'e', 's', 'c')
struct call {
    uint32_t tag;
    session_done_fn *found; /* one of the three */
    store_done_fn *saved;
    count_done_fn *counted;
    void *ctx;
};

static struct call *call_new(void *ctx)
{
    struct call *call = x_calloc(1, sizeof(*call));
    *call = (struct call){.tag = CALL_TAG, .ctx = ctx};
    return call;
}

static void find_done(void *ctx, const struct db_result *r, const struct err *err)
{
    struct call *call = OBJ(ctx, struct call, CALL_TAG);
    if (err || db_rows(r) == 0) {
        call->found(call->ctx, NULL, err);
    } else {
        struct session_row row = {
            .conversation_id = db_text(r, 0, 2),
            .context = db_text(r, 0, 3),
            .created_at = db_int(r, 0, 4),
            .last_accessed_at = db_int(r, 0, 5),
        };
        ROW_FIXED(row.id, r, 0, 0);
        ROW_FIXED(row.api_key_id, r, 0, 1);
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

static void save_done(void *ctx, const struct db_result *r, const struct err *err)
{
    struct call *call = OBJ(ctx, struct call, CALL_TAG);
    struct err conflict;
    if (!err && db_changes(r) == 0) {
        err_set(&conflict, ERR_CONFLICT, "a session with this id belongs to another key");
        err = &conflict;
    }
    call->saved(call->ctx, err);
    free(call);
}

void session_save(struct db *db, const struct session_row *row, store_done_fn *done, void *ctx)
{
    const struct db_param params[] = {
        DBP_S(row->id),
        DBP_S(row->api_key_id),
        row->conversation_id.len ? DBP_STR(row->conversation_id) : DBP_NULL,
        row->context.len ? DBP_STR(row->context) : DBP_NULL,
        DBP_I(row->created_at),
        DBP_I(row->last_accessed_at),
    };
    struct call *call = call_new(ctx);
    call->saved = done;
    db_query(db, sql_save, params, ARRAY_SIZE(params), save_done, call);
}

static void delete_done(void *ctx, const struct db_result *r, const struct err *err)
{
    struct call *call = OBJ(ctx, struct call, CALL_TAG);
    call->counted(call->ctx, err ? 0 : db_changes(r), err);
    free(call);
}

void session_delete_expired(struct db *db, int64_t last_accessed_before, count_done_fn *done,
                            void *ctx)
{
    const struct db_param params[] = {DBP_I(last_accessed_before)};
    struct call *call = call_new(ctx);
    call->counted = done;
    db_query(db, sql_delete_expired, params, ARRAY_SIZE(params), delete_done, call);
}

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
