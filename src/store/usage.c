/* usage.c - the table usage_logs.
 *
 * Rows come in batches from the journal, which offers a batch again until it is stored, and finds
 * out by itself which single row the database will never take. */
#include "store/row.h"
#include "store/store.h"

static const char sql_insert[] =
    "INSERT INTO usage_logs (id, request_id, api_key_id, session_id, timestamp, endpoint, method, "
    "model, request_tokens, response_tokens, total_tokens, input_tokens, output_tokens, "
    "cache_creation_tokens, cache_read_tokens, estimated, upstream_calls, retries, "
    "response_time_ms, ttft_ms, queue_ms, status_code, error) "
    "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, "
    "$19, $20, $21, $22, $23) ON CONFLICT (request_id) DO NOTHING";
static const char sql_sums_since[] =
    "SELECT api_key_id, count(*), sum(input_tokens + output_tokens + cache_creation_tokens + "
    "cache_read_tokens / 10) FROM usage_logs WHERE timestamp >= $1 GROUP BY api_key_id";

int64_t usage_counted_tokens(const struct usage_row *row)
{
    return row->input_tokens + row->output_tokens + row->cache_creation_tokens +
           row->cache_read_tokens / 10;
}

#define COLUMN_COUNT 23
#define BATCH_TAG    TAG4('u', 's', 'g', 'b')

struct batch {
    uint32_t tag;
    store_done_fn *done;
    void *ctx;
};

static void row_params(const struct usage_row *row, char id[ID_UUID_SIZE],
                       struct db_param out[COLUMN_COUNT])
{
    int64_t in = row->input_tokens + row->cache_creation_tokens + row->cache_read_tokens;
    const struct db_param params[COLUMN_COUNT] = {
        DBP_S(id_uuid(id)),
        DBP_S(row->request_id),
        DBP_S(row->api_key_id),
        text_or_null(row->session_id),
        DBP_I(row->timestamp),
        DBP_S(row->endpoint),
        DBP_S(row->method),
        text_or_null(row->model),
        DBP_I(in),
        DBP_I(row->output_tokens),
        DBP_I(in + row->output_tokens),
        DBP_I(row->input_tokens),
        DBP_I(row->output_tokens),
        DBP_I(row->cache_creation_tokens),
        DBP_I(row->cache_read_tokens),
        DBP_I(row->estimated),
        DBP_I(row->upstream_calls),
        DBP_I(row->retries),
        DBP_I(row->response_time_ms),
        row->ttft_ms < 0 ? DBP_NULL : DBP_I(row->ttft_ms),
        DBP_I(row->queue_ms),
        DBP_I(row->status_code),
        text_or_null(row->error),
    };
    memcpy(out, params, sizeof(params));
}

static void batch_done(void *ctx, const struct db_result *r, const struct err *err)
{
    struct batch *batch = OBJ(ctx, struct batch, BATCH_TAG);
    (void)r;
    batch->done(batch->ctx, err);
    free(batch);
}

void usage_insert(struct db *db, const struct usage_row *rows, size_t count, store_done_fn *done,
                  void *ctx)
{
    struct batch *batch = x_calloc(1, sizeof(*batch));
    struct db_stmt *stmts = x_calloc(count + 1, sizeof(*stmts));
    struct db_param(*params)[COLUMN_COUNT] = x_calloc(count + 1, sizeof(*params));
    char(*ids)[ID_UUID_SIZE] = x_calloc(count + 1, sizeof(*ids));
    *batch = (struct batch){.tag = BATCH_TAG, .done = done, .ctx = ctx};
    for (size_t i = 0; i < count; i++) {
        row_params(&rows[i], ids[i], params[i]);
        stmts[i] =
            (struct db_stmt){.sql = sql_insert, .params = params[i], .param_count = COLUMN_COUNT};
    }
    db_batch(db, stmts, count, batch_done, batch);
    free(ids);
    free(params);
    free(stmts);
}

/* --- sums --------------------------------------------------------------------------------- */

#define SUMS_TAG TAG4('u', 's', 'g', 'n')
struct sums_call {
    uint32_t tag;
    usage_sums_fn *done;
    void *ctx;
};

static void sums_rows(void *ctx, const struct db_result *r, const struct err *err)
{
    struct sums_call *call = OBJ(ctx, struct sums_call, SUMS_TAG);
    size_t count = err ? 0 : db_rows(r);
    struct usage_sum *sums = x_calloc(count + 1, sizeof(*sums));
    for (size_t i = 0; i < count; i++) {
        ROW_FIXED(sums[i].api_key_id, r, i, 0);
        sums[i].requests = db_int(r, i, 1);
        sums[i].tokens = db_int(r, i, 2);
    }
    call->done(call->ctx, sums, count, err);
    free(sums);
    free(call);
}

void usage_sums_since(struct db *db, int64_t since, usage_sums_fn *done, void *ctx)
{
    const struct db_param params[] = {DBP_I(since)};
    struct sums_call *call = x_calloc(1, sizeof(*call));
    *call = (struct sums_call){.tag = SUMS_TAG, .done = done, .ctx = ctx};
    db_query(db, sql_sums_since, params, ARRAY_SIZE(params), sums_rows, call);
}
