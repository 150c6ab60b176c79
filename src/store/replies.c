/* replies.c - the table replies. Whoever writes says as whom and for which request: what was taken
 * over meanwhile stays as it is. */
#include "store/row.h"
#include "store/store.h"

#define COLUMNS "id, fingerprint, request_id, state, sealed_with, content, lease_until"

static const char sql_claim[] =
    "INSERT INTO replies (id, api_key_id, fingerprint, request_id, state, owner, lease_until, "
    "expires_at) VALUES ($1, $2, $3, $4, 'running', $5, $7, $8) "
    "ON CONFLICT (id) DO UPDATE SET fingerprint = excluded.fingerprint, "
    "request_id = excluded.request_id, state = 'running', owner = excluded.owner, "
    "lease_until = excluded.lease_until, expires_at = excluded.expires_at, sealed_with = NULL, "
    "content = NULL "
    "WHERE replies.expires_at <= $6 OR (replies.state = 'running' AND "
    "(replies.owner = excluded.owner OR "
    "(replies.lease_until < 0 AND -replies.lease_until <= $6)))";
static const char sql_doubt[] = "UPDATE replies SET lease_until = $3 WHERE id = $1 AND state = "
                                "'running' AND lease_until BETWEEN 0 AND $2";
static const char sql_find[] = "SELECT " COLUMNS " FROM replies WHERE id = $1 AND expires_at > $2";
#define MINE " WHERE id = $1 AND owner = $2 AND request_id = $3"
static const char sql_renew[] =
    "UPDATE replies SET lease_until = $4, expires_at = $5" MINE " AND state = 'running'";
static const char sql_finish[] =
    "UPDATE replies SET state = $4, content = $5, sealed_with = $6, lease_until = 0, "
    "expires_at = $7" MINE;
static const char sql_drop[] = "DELETE FROM replies" MINE " AND state = 'running'";
static const char sql_delete_expired[] = "DELETE FROM replies WHERE expires_at <= $1";
static const char sql_seal_counts[] =
    "SELECT sealed_with, COUNT(*) FROM replies WHERE state = 'done' GROUP BY sealed_with "
    "ORDER BY sealed_with";
static const char sql_list_unsealed[] =
    "SELECT " COLUMNS " FROM replies WHERE state = 'done' "
    "AND (sealed_with IS NULL OR sealed_with <> $1) AND id > $2 ORDER BY id LIMIT $3";
static const char sql_reseal[] =
    "UPDATE replies SET content = $3, sealed_with = $4 WHERE id = $1 AND request_id = $2 "
    "AND state = 'done'";

static const char *const states[] = {
    [REPLY_RUNNING] = "running", [REPLY_DONE] = "done", [REPLY_LOST] = "lost"};

#define CALL_TAG TAG4('r', 'e', 'p', 'c')
struct call {
    uint32_t tag;
    reply_done_fn *found; /* one of these */
    reply_list_fn *listed;
    void *ctx;
};

static struct call *call_new(void *ctx)
{
    struct call *call = x_calloc(1, sizeof(*call));
    *call = (struct call){.tag = CALL_TAG, .ctx = ctx};
    return call;
}

static enum reply_state state_of(struct str text)
{
    return str_eq_c(text, states[REPLY_DONE])   ? REPLY_DONE
           : str_eq_c(text, states[REPLY_LOST]) ? REPLY_LOST
                                                : REPLY_RUNNING;
}

static void read_row(const struct db_result *r, size_t i, struct reply_row *row)
{
    *row = (struct reply_row){.state = state_of(db_text(r, i, 3)),
                              .sealed_with = db_text(r, i, 4),
                              .content = db_text(r, i, 5),
                              .lease_until = db_int(r, i, 6)};
    ROW_FIXED(row->id, r, i, 0);
    ROW_FIXED(row->fingerprint, r, i, 1);
    ROW_FIXED(row->request_id, r, i, 2);
}

static void find_done(void *ctx, const struct db_result *r, const struct err *err)
{
    struct call *call = OBJ(ctx, struct call, CALL_TAG);
    struct reply_row row;
    bool found = !err && db_rows(r) > 0;
    if (found)
        read_row(r, 0, &row);
    call->found(call->ctx, found ? &row : NULL, err);
    free(call);
}

void reply_find(struct db *db, const char *id, int64_t now, reply_done_fn *done, void *ctx)
{
    const struct db_param params[] = {DBP_S(id), DBP_I(now)};
    struct call *call = call_new(ctx);
    call->found = done;
    db_query(db, sql_find, params, ARRAY_SIZE(params), find_done, call);
}

/* --- writing ----------------------------------------------------------------------------- */

void reply_claim(struct db *db, const struct reply_claim *c, count_done_fn *done, void *ctx)
{
    const struct db_param params[] = {
        DBP_S(c->id),    DBP_S(c->api_key_id), DBP_S(c->fingerprint), DBP_S(c->request_id),
        DBP_S(c->owner), DBP_I(c->now),        DBP_I(c->lease_until), DBP_I(c->expires_at)};
    write_counted(db, sql_claim, params, ARRAY_SIZE(params), done, ctx);
}

void reply_doubt(struct db *db, const char *id, int64_t now, int64_t until, count_done_fn *done,
                 void *ctx)
{
    const struct db_param params[] = {DBP_S(id), DBP_I(now), DBP_I(-until)};
    write_counted(db, sql_doubt, params, ARRAY_SIZE(params), done, ctx);
}

void reply_renew(struct db *db, const struct reply_claim *c, count_done_fn *done, void *ctx)
{
    const struct db_param params[] = {DBP_S(c->id), DBP_S(c->owner), DBP_S(c->request_id),
                                      DBP_I(c->lease_until), DBP_I(c->expires_at)};
    write_counted(db, sql_renew, params, ARRAY_SIZE(params), done, ctx);
}

void reply_finish(struct db *db, const struct reply_claim *c, struct str content,
                  const char *sealed_with, count_done_fn *done, void *ctx)
{
    const struct db_param params[] = {
        DBP_S(c->id),
        DBP_S(c->owner),
        DBP_S(c->request_id),
        DBP_S(states[content.len ? REPLY_DONE : REPLY_LOST]),
        content.len ? DBP_STR(content) : DBP_NULL,
        content.len ? DBP_S(sealed_with) : DBP_NULL,
        DBP_I(c->expires_at),
    };
    write_counted(db, sql_finish, params, ARRAY_SIZE(params), done, ctx);
}

void reply_drop(struct db *db, const struct reply_claim *c, count_done_fn *done, void *ctx)
{
    const struct db_param params[] = {DBP_S(c->id), DBP_S(c->owner), DBP_S(c->request_id)};
    write_counted(db, sql_drop, params, ARRAY_SIZE(params), done, ctx);
}

void reply_delete_expired(struct db *db, int64_t now, count_done_fn *done, void *ctx)
{
    const struct db_param params[] = {DBP_I(now)};
    write_counted(db, sql_delete_expired, params, ARRAY_SIZE(params), done, ctx);
}

/* --- master keys ------------------------------------------------------------------------- */

void reply_seal_counts(struct db *db, seal_counts_fn *done, void *ctx)
{
    read_seal_counts(db, sql_seal_counts, done, ctx);
}

static void list_done(void *ctx, const struct db_result *r, const struct err *err)
{
    struct call *call = OBJ(ctx, struct call, CALL_TAG);
    size_t n = err ? 0 : db_rows(r);
    struct reply_row *rows = x_calloc(n + 1, sizeof(*rows));
    for (size_t i = 0; i < n; i++)
        read_row(r, i, &rows[i]);
    call->listed(call->ctx, rows, n, err);
    free(rows);
    free(call);
}

void reply_list_unsealed(struct db *db, const char *key, const char *after, int limit,
                         reply_list_fn *done, void *ctx)
{
    const struct db_param params[] = {DBP_S(key), DBP_S(after), DBP_I(limit)};
    struct call *call = call_new(ctx);
    call->listed = done;
    db_query(db, sql_list_unsealed, params, ARRAY_SIZE(params), list_done, call);
}

void reply_reseal(struct db *db, const char *id, const char *request_id, struct str content,
                  const char *key, count_done_fn *done, void *ctx)
{
    const struct db_param params[] = {DBP_S(id), DBP_S(request_id), DBP_STR(content), DBP_S(key)};
    write_counted(db, sql_reseal, params, ARRAY_SIZE(params), done, ctx);
}
