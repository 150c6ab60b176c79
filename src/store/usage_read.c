/* usage_read.c - the tables usage_logs and usage_hourly, as their owner reads them.
 *
 * Sums come from the roll-up: a year of one key is some ten thousand rows there, whatever the key's
 * traffic. Rows come by pages; a page is named by the last row before it, so that it stays the same
 * while new rows arrive. */
#include "store/row.h"
#include "store/store.h"

#define SUMS                                                                              \
    "sum(requests), sum(errors), sum(input_tokens), sum(output_tokens), "                 \
    "sum(cache_creation_tokens), sum(cache_read_tokens), sum(cost_nano), sum(unpriced), " \
    "sum(cached) "                                                                        \
    "FROM usage_hourly WHERE api_key_id = $1 AND hour >= $2 AND hour < $3 "
#define ROWS                                                                                    \
    "SELECT request_id, session_id, timestamp, endpoint, method, model, input_tokens, "         \
    "output_tokens, cache_creation_tokens, cache_read_tokens, estimated, upstream_calls, "      \
    "retries, response_time_ms, ttft_ms, queue_ms, status_code, error, cost_nano, api_key_id, " \
    "cached "                                                                                   \
    "FROM usage_logs WHERE api_key_id = $1 "

static const char *const sql_totals[] = {
    [USAGE_IN_ALL] = "SELECT 0, ''," SUMS "HAVING count(*) > 0",
    [USAGE_BY_HOUR] = "SELECT hour, ''," SUMS "GROUP BY hour ORDER BY hour",
    [USAGE_BY_DAY] = "SELECT hour / 24 * 24, ''," SUMS "GROUP BY 1 ORDER BY 1",
    [USAGE_BY_MODEL] = "SELECT 0, model," SUMS "GROUP BY model ORDER BY model",
};
static const char sql_newest[] = ROWS "ORDER BY timestamp DESC, id DESC LIMIT $2";
static const char sql_find[] =
    "SELECT timestamp, id FROM usage_logs WHERE request_id = $1 AND api_key_id = $2";
static const char sql_older[] = ROWS "AND timestamp <= $2 AND (timestamp < $2 OR id < $3) "
                                     "ORDER BY timestamp DESC, id DESC LIMIT $4";

/* --- sums --------------------------------------------------------------------------------- */

#define TOTALS_TAG TAG4('u', 's', 'g', 't')
struct totals_call {
    uint32_t tag;
    usage_totals_fn *done;
    void *ctx;
};

static void totals_rows(void *ctx, const struct db_result *r, const struct err *err)
{
    struct totals_call *call = OBJ(ctx, struct totals_call, TOTALS_TAG);
    size_t count = err ? 0 : db_rows(r);
    struct usage_total *totals = x_calloc(count + 1, sizeof(*totals));
    for (size_t i = 0; i < count; i++) {
        struct usage_total *t = &totals[i];
        int64_t *const values[] = {&t->requests,
                                   &t->errors,
                                   &t->input_tokens,
                                   &t->output_tokens,
                                   &t->cache_creation_tokens,
                                   &t->cache_read_tokens,
                                   &t->cost_nano,
                                   &t->unpriced,
                                   &t->cached};
        t->start = db_int(r, i, 0) * USAGE_HOUR_MS;
        ROW_FIXED(t->model, r, i, 1);
        for (size_t v = 0; v < ARRAY_SIZE(values); v++)
            *values[v] = db_int(r, i, v + 2);
    }
    call->done(call->ctx, totals, count, err);
    free(totals);
    free(call);
}

void usage_totals(struct db *db, const char *api_key_id, int64_t from, int64_t to,
                  enum usage_group group, usage_totals_fn *done, void *ctx)
{
    const struct db_param params[] = {DBP_S(api_key_id), DBP_I(from), DBP_I(to)};
    struct totals_call *call = x_calloc(1, sizeof(*call));
    *call = (struct totals_call){.tag = TOTALS_TAG, .done = done, .ctx = ctx};
    db_query(db, sql_totals[group], params, ARRAY_SIZE(params), totals_rows, call);
}

/* --- rows --------------------------------------------------------------------------------- */

#define LIST_TAG TAG4('u', 's', 'g', 'l')
struct list_call {
    uint32_t tag;
    struct db *db;
    char api_key_id[ID_UUID_SIZE];
    size_t limit;
    usage_rows_fn *done;
    void *ctx;
};

static void read_row(const struct db_result *r, size_t i, struct usage_row *row)
{
    ROW_FIXED(row->request_id, r, i, 0);
    ROW_FIXED(row->session_id, r, i, 1);
    row->timestamp = db_int(r, i, 2);
    ROW_FIXED(row->endpoint, r, i, 3);
    ROW_FIXED(row->method, r, i, 4);
    ROW_FIXED(row->model, r, i, 5);
    row->input_tokens = db_int(r, i, 6);
    row->output_tokens = db_int(r, i, 7);
    row->cache_creation_tokens = db_int(r, i, 8);
    row->cache_read_tokens = db_int(r, i, 9);
    row->estimated = db_int(r, i, 10) != 0;
    row->upstream_calls = db_int(r, i, 11);
    row->retries = db_int(r, i, 12);
    row->response_time_ms = db_int(r, i, 13);
    row->ttft_ms = db_is_null(r, i, 14) ? -1 : db_int(r, i, 14);
    row->queue_ms = db_int(r, i, 15);
    row->status_code = (int)db_int(r, i, 16);
    ROW_FIXED(row->error, r, i, 17);
    row->cost_nano = db_is_null(r, i, 18) ? -1 : db_int(r, i, 18);
    ROW_FIXED(row->api_key_id, r, i, 19);
    row->cached = db_int(r, i, 20) != 0;
}

static void list_rows(void *ctx, const struct db_result *r, const struct err *err)
{
    struct list_call *call = OBJ(ctx, struct list_call, LIST_TAG);
    size_t count = err ? 0 : db_rows(r);
    struct usage_row *rows = x_calloc(count + 1, sizeof(*rows));
    for (size_t i = 0; i < count; i++)
        read_row(r, i, &rows[i]);
    call->done(call->ctx, rows, count, err);
    free(rows);
    free(call);
}

static void list_from(void *ctx, const struct db_result *r, const struct err *err)
{
    struct list_call *call = OBJ(ctx, struct list_call, LIST_TAG);
    struct err none;
    if (err || db_rows(r) == 0) {
        err_set(&none, ERR_NOT_FOUND, "this key has no request with this id");
        call->done(call->ctx, NULL, 0, err ? err : &none);
        free(call);
        return;
    }
    const struct db_param params[] = {DBP_S(call->api_key_id), DBP_I(db_int(r, 0, 0)),
                                      DBP_STR(db_text(r, 0, 1)), DBP_I(call->limit)};
    db_query(call->db, sql_older, params, ARRAY_SIZE(params), list_rows, call);
}

void usage_list(struct db *db, const char *api_key_id, const char *before, size_t limit,
                usage_rows_fn *done, void *ctx)
{
    struct list_call *call = x_calloc(1, sizeof(*call));
    *call = (struct list_call){.tag = LIST_TAG, .db = db, .limit = limit, .done = done, .ctx = ctx};
    snprintf(call->api_key_id, sizeof(call->api_key_id), "%s", api_key_id);
    if (before) {
        const struct db_param params[] = {DBP_S(before), DBP_S(api_key_id)};
        db_query(db, sql_find, params, ARRAY_SIZE(params), list_from, call);
    } else {
        const struct db_param params[] = {DBP_S(api_key_id), DBP_I(limit)};
        db_query(db, sql_newest, params, ARRAY_SIZE(params), list_rows, call);
    }
}
