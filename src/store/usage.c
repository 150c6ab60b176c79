/* usage.c - the tables usage_logs and usage_hourly, written.
 *
 * Rows come in batches from the journal, which offers a batch again until it is stored, and finds
 * out by itself which single row the database will never take.
 *
 * The roll-up must count each row once, though a batch may hold rows that are there already. So the
 * ids of one try are one random id with a number in its last four digits, and the last statement of
 * the transaction adds up what stands between the first and the last of them: the rows that this
 * try has really inserted, found through the primary key. */
#include "core/buf.h"
#include "store/row.h"
#include "store/store.h"

#define COUNTED_TOKENS \
    "input_tokens + output_tokens + cache_creation_tokens + cache_read_tokens / 10"

#define COLUMNS_OF_INSERT                                                                    \
    "INSERT INTO usage_logs (id, request_id, api_key_id, session_id, timestamp, endpoint, "  \
    "method, "                                                                               \
    "model, request_tokens, response_tokens, total_tokens, input_tokens, output_tokens, "    \
    "cache_creation_tokens, cache_read_tokens, estimated, upstream_calls, retries, "         \
    "response_time_ms, ttft_ms, queue_ms, status_code, error, cost_nano, cost_usd, cached) " \
    "VALUES "
#define COLUMN_COUNT 26
/* Half the time of one statement each; more would cost SQLite more: it finds names by walking. */
#define GROUP_ROWS 4
/* In the order of the key, so that two servers lock rows in the same order. */
static const char sql_roll_up[] =
    "INSERT INTO usage_hourly (api_key_id, hour, model, requests, errors, input_tokens, "
    "output_tokens, cache_creation_tokens, cache_read_tokens, counted_tokens, cost_nano, "
    "unpriced, cached) SELECT api_key_id, timestamp / 3600000, COALESCE(model, ''), count(*), "
    "sum(CASE WHEN status_code >= 400 THEN 1 ELSE 0 END), sum(input_tokens), sum(output_tokens), "
    "sum(cache_creation_tokens), sum(cache_read_tokens), sum(" COUNTED_TOKENS "), "
    "COALESCE(sum(cost_nano), 0), sum(CASE WHEN cost_nano IS NULL THEN 1 ELSE 0 END), "
    "sum(cached) "
    "FROM usage_logs WHERE id BETWEEN $1 AND $2 GROUP BY 1, 2, 3 ORDER BY 1, 2, 3 "
    "ON CONFLICT (api_key_id, hour, model) DO UPDATE SET "
    "requests = usage_hourly.requests + excluded.requests, "
    "errors = usage_hourly.errors + excluded.errors, "
    "input_tokens = usage_hourly.input_tokens + excluded.input_tokens, "
    "output_tokens = usage_hourly.output_tokens + excluded.output_tokens, "
    "cache_creation_tokens = usage_hourly.cache_creation_tokens + excluded.cache_creation_tokens, "
    "cache_read_tokens = usage_hourly.cache_read_tokens + excluded.cache_read_tokens, "
    "counted_tokens = usage_hourly.counted_tokens + excluded.counted_tokens, "
    "cost_nano = usage_hourly.cost_nano + excluded.cost_nano, "
    "unpriced = usage_hourly.unpriced + excluded.unpriced, "
    "cached = usage_hourly.cached + excluded.cached";
/* Whole hours from the roll-up, the part of an hour before them from the rows. */
static const char sql_sums_since[] =
    "SELECT api_key_id, sum(requests), sum(tokens), sum(day_cost), sum(month_cost) FROM ("
    "SELECT api_key_id, sum(requests) AS requests, sum(counted_tokens) AS tokens, "
    "sum(cost_nano) AS day_cost, 0 AS month_cost "
    "FROM usage_hourly WHERE hour >= $2 GROUP BY api_key_id UNION ALL "
    "SELECT api_key_id, count(*), sum(" COUNTED_TOKENS "), COALESCE(sum(cost_nano), 0), 0 "
    "FROM usage_logs WHERE timestamp >= $1 AND timestamp < $3 GROUP BY api_key_id UNION ALL "
    "SELECT api_key_id, 0, 0, 0, sum(cost_nano) "
    "FROM usage_hourly WHERE hour >= $5 GROUP BY api_key_id UNION ALL "
    "SELECT api_key_id, 0, 0, 0, COALESCE(sum(cost_nano), 0) "
    "FROM usage_logs WHERE timestamp >= $4 AND timestamp < $6 GROUP BY api_key_id"
    ") AS parts GROUP BY api_key_id";

int64_t usage_counted_tokens(const struct usage_row *row)
{
    return row->input_tokens + row->output_tokens + row->cache_creation_tokens +
           row->cache_read_tokens / 10;
}

#define BATCH_TAG TAG4('u', 's', 'g', 'b')

struct batch {
    uint32_t tag;
    store_done_fn *done;
    void *ctx;
};

static void row_params(const struct usage_row *row, const char *id,
                       struct db_param out[COLUMN_COUNT])
{
    bool priced = row->cost_nano >= 0;
    int64_t in = row->input_tokens + row->cache_creation_tokens + row->cache_read_tokens;
    const struct db_param params[COLUMN_COUNT] = {
        DBP_S(id),
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
        priced ? DBP_I(row->cost_nano) : DBP_NULL,
        priced ? DBP_D((double)row->cost_nano / 1e9) : DBP_NULL,
        DBP_I(row->cached),
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

#define ID_DIGITS 4 /* at the end of an id: which row of the batch; the rest is common to all */

static void number_id(char id[ID_UUID_SIZE], const char *common, size_t n)
{
    snprintf(id, ID_UUID_SIZE, "%.*s%04x", ID_UUID_SIZE - 1 - ID_DIGITS, common,
             (unsigned)n & 0xFFFF);
}

/* The text for that many rows at once; made at its first use, kept. */
static const char *insert_sql(size_t rows)
{
    static char *texts[GROUP_ROWS + 1];
    if (texts[rows])
        return texts[rows];
    struct buf b;
    buf_init(&b, 65536);
    buf_adds(&b, COLUMNS_OF_INSERT);
    for (size_t n = 1; n <= rows * COLUMN_COUNT; n++) {
        bool first = n % COLUMN_COUNT == 1, last = n % COLUMN_COUNT == 0;
        buf_printf(&b, "%s$%zu%s", first ? n > 1 ? ", (" : "(" : "", n, last ? ")" : ", ");
    }
    buf_adds(&b, " ON CONFLICT (request_id) DO NOTHING");
    texts[rows] = buf_take(&b);
    return texts[rows];
}

/* Whole groups, and the rest one by one. Returns how many statements. */
static size_t insert_stmts(struct db_param (*params)[COLUMN_COUNT], size_t count,
                           struct db_stmt *stmts)
{
    size_t n = 0;
    for (size_t i = 0, rows; i < count; i += rows) {
        rows = count - i >= GROUP_ROWS ? GROUP_ROWS : 1;
        stmts[n++] = (struct db_stmt){
            .sql = insert_sql(rows), .params = params[i], .param_count = rows * COLUMN_COUNT};
    }
    return n;
}

void usage_insert(struct db *db, const struct usage_row *rows, size_t count, store_done_fn *done,
                  void *ctx)
{
    BUG_ON(count > USAGE_BATCH_MAX);
    struct batch *batch = x_calloc(1, sizeof(*batch));
    struct db_stmt *stmts = x_calloc(count + 1, sizeof(*stmts));
    struct db_param(*params)[COLUMN_COUNT] = x_calloc(count + 1, sizeof(*params));
    char(*ids)[ID_UUID_SIZE] = x_calloc(count + 1, sizeof(*ids));
    char common[ID_UUID_SIZE];
    *batch = (struct batch){.tag = BATCH_TAG, .done = done, .ctx = ctx};
    id_uuid(common);
    for (size_t i = 0; i < count; i++) {
        number_id(ids[i], common, i);
        row_params(&rows[i], ids[i], params[i]);
    }
    size_t n = insert_stmts(params, count, stmts);
    if (count) {
        params[count][0] = DBP_S(ids[0]);
        params[count][1] = DBP_S(ids[count - 1]);
        stmts[n++] =
            (struct db_stmt){.sql = sql_roll_up, .params = params[count], .param_count = 2};
    }
    db_batch(db, stmts, n, batch_done, batch);
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
        sums[i].day_cost = db_int(r, i, 3);
        sums[i].month_cost = db_int(r, i, 4);
    }
    call->done(call->ctx, sums, count, err);
    free(sums);
    free(call);
}

/* The first whole hour that begins at `at` or later. */
static int64_t hour_from(int64_t at)
{
    const int64_t last = INT64_MAX / USAGE_HOUR_MS;
    int64_t hour = at / USAGE_HOUR_MS;
    return hour >= last ? last : hour + (at % USAGE_HOUR_MS != 0);
}

void usage_sums_since(struct db *db, int64_t day, int64_t month, usage_sums_fn *done, void *ctx)
{
    int64_t day_hour = hour_from(day), month_hour = hour_from(month);
    const struct db_param params[] = {
        DBP_I(day),   DBP_I(day_hour),   DBP_I(day_hour * USAGE_HOUR_MS),
        DBP_I(month), DBP_I(month_hour), DBP_I(month_hour * USAGE_HOUR_MS),
    };
    struct sums_call *call = x_calloc(1, sizeof(*call));
    *call = (struct sums_call){.tag = SUMS_TAG, .done = done, .ctx = ctx};
    db_query(db, sql_sums_since, params, ARRAY_SIZE(params), sums_rows, call);
}
