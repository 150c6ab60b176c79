/* usage.c - how fast usage rows become durable: `bench-usage DATABASE_URL JOURNAL_DIR`.
 *
 * Three measurements on one database, each with rows of twenty keys and three models:
 *   plain   batches of 500 rows straight to the database, no journal, no roll-up
 *   flat    through the journal as fast as it takes them
 *   paced   10,000 rows a second through the journal: how many wait at most, and how long the rest
 *           takes at the end
 * One line of JSON: rows per second, rows, milliseconds. */
#include "core/clock.h"
#include "core/log.h"
#include "limit/journal.h"

#include <event2/event.h>
#include <stdio.h>

#define ROWS       100000
#define BATCH      500
#define KEYS       20
#define PACE       10000
#define PACE_S     20
#define TICK_MS    5
#define WAITING    20000 /* flat: rows that may wait */
#define COLUMNS    25
#define USER       "00000000-0000-7000-8000-000000000000"
#define KEY_FORMAT "%08d-1111-7111-8111-111111111111"

static const char sql_plain[] =
    "INSERT INTO usage_logs (id, request_id, api_key_id, session_id, timestamp, endpoint, method, "
    "model, request_tokens, response_tokens, total_tokens, input_tokens, output_tokens, "
    "cache_creation_tokens, cache_read_tokens, estimated, upstream_calls, retries, "
    "response_time_ms, ttft_ms, queue_ms, status_code, error, cost_nano, cost_usd) "
    "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, "
    "$19, $20, $21, $22, $23, $24, $25) ON CONFLICT (request_id) DO NOTHING";

static struct loop *loop;
static struct db *db;
static struct journal *journal;
static int made;

static void die(const char *what, const struct err *err)
{
    fprintf(stderr, "bench-usage: %s: %s\n", what, err->msg);
    exit(1);
}

static void must(int rc, const char *what, const struct err *err)
{
    if (rc != 0)
        die(what, err);
}

static void turn_loop(bool wait)
{
    event_base_loop(loop_base(loop), wait ? EVLOOP_ONCE : EVLOOP_NONBLOCK);
}

static void run_sql(const char *sql)
{
    struct err err;
    must(db_query_wait(db, sql, NULL, 0, NULL, NULL, &err), sql, &err);
}

static void make_keys(void)
{
    run_sql("INSERT INTO users (id, name, role, created_at) VALUES ('" USER
            "', 'bench', 'owner', 1)");
    for (int i = 0; i < KEYS; i++) {
        AUTO(free_charp)
        char *sql = x_printf(
            "INSERT INTO api_keys (id, public_id, secret_hash, user_id, name, status, created_at, "
            "limits, permissions) VALUES ('" KEY_FORMAT "', 'bench%07d', 'h', '" USER
            "', 'k', 'active', 1, '{}', '{}')",
            i, i);
        run_sql(sql);
    }
}

static struct usage_row next_row(void)
{
    static const char *const models[] = {"claude-sonnet-4-5", "claude-haiku-4-5",
                                         "claude-opus-4-5"};
    int n = made++;
    struct usage_row row = {.timestamp = clock_wall_ms(),
                            .endpoint = "/api/chat",
                            .method = "POST",
                            .input_tokens = 1000 + n % 977,
                            .output_tokens = n % 499,
                            .cache_read_tokens = n % 3 * 10000,
                            .upstream_calls = 1,
                            .response_time_ms = 900 + n % 400,
                            .ttft_ms = 300,
                            .queue_ms = 1,
                            .status_code = 200,
                            .cost_nano = 3000000 + n};
    id_request(row.request_id);
    id_uuid(row.session_id);
    snprintf(row.api_key_id, sizeof(row.api_key_id), KEY_FORMAT, n % KEYS);
    snprintf(row.model, sizeof(row.model), "%s", models[n % 3]);
    return row;
}

static double per_second(int rows, int64_t from_us)
{
    return rows * 1e6 / (double)(clock_mono_us() - from_us);
}

/* --- plain -------------------------------------------------------------------------------- */

static void plain_done(void *ctx, const struct db_result *r, const struct err *err)
{
    (void)r;
    if (err)
        die("plain insert", err);
    *(bool *)ctx = true;
}

static void plain_batch(void)
{
    static struct usage_row rows[BATCH];
    static struct db_param params[BATCH][COLUMNS];
    static struct db_stmt stmts[BATCH];
    static char ids[BATCH][ID_UUID_SIZE];
    bool done = false;
    for (int i = 0; i < BATCH; i++) {
        struct usage_row *u = &rows[i];
        *u = next_row();
        int64_t in = u->input_tokens + u->cache_creation_tokens + u->cache_read_tokens;
        const struct db_param p[COLUMNS] = {DBP_S(id_uuid(ids[i])),
                                            DBP_S(u->request_id),
                                            DBP_S(u->api_key_id),
                                            DBP_S(u->session_id),
                                            DBP_I(u->timestamp),
                                            DBP_S(u->endpoint),
                                            DBP_S(u->method),
                                            DBP_S(u->model),
                                            DBP_I(in),
                                            DBP_I(u->output_tokens),
                                            DBP_I(in),
                                            DBP_I(u->input_tokens),
                                            DBP_I(u->output_tokens),
                                            DBP_I(0),
                                            DBP_I(u->cache_read_tokens),
                                            DBP_I(0),
                                            DBP_I(u->upstream_calls),
                                            DBP_I(0),
                                            DBP_I(u->response_time_ms),
                                            DBP_I(u->ttft_ms),
                                            DBP_I(u->queue_ms),
                                            DBP_I(u->status_code),
                                            DBP_NULL,
                                            DBP_I(u->cost_nano),
                                            DBP_D((double)u->cost_nano / 1e9)};
        memcpy(params[i], p, sizeof(p));
        stmts[i] = (struct db_stmt){.sql = sql_plain, .params = params[i], .param_count = COLUMNS};
    }
    db_batch(db, stmts, BATCH, plain_done, &done);
    while (!done)
        turn_loop(true);
}

static double plain(void)
{
    int64_t start = clock_mono_us();
    for (int n = 0; n < ROWS; n += BATCH)
        plain_batch();
    return per_second(ROWS, start);
}

/* --- through the journal ------------------------------------------------------------------ */

static void append(void)
{
    struct err err;
    struct usage_row row = next_row();
    must(journal_append(journal, &row, &err), "journal", &err);
}

static void flush_done(void *ctx, const struct err *err)
{
    if (err)
        die("flush", err);
    *(bool *)ctx = true;
}

static void flush(void)
{
    bool done = false;
    journal_flush(journal, flush_done, &done);
    while (!done)
        turn_loop(true);
}

static double flat(void)
{
    int64_t start = clock_mono_us();
    for (int n = 0; n < ROWS; n++) {
        append();
        if (n % 100 == 0)
            turn_loop(false);
        while (journal_pending(journal) > WAITING)
            turn_loop(true);
    }
    flush();
    return per_second(ROWS, start);
}

struct paced {
    size_t most_waiting;
    double drain_ms, per_second;
};

static struct paced paced(void)
{
    struct paced p = {0};
    int64_t start = clock_mono_us(), end = start + PACE_S * INT64_C(1000000);
    int appended = 0;
    for (int64_t now = start; now < end; now = clock_mono_us()) {
        int due = (int)((now - start) * PACE / 1000000);
        for (; appended < due; appended++)
            append();
        struct timeval tick = {.tv_usec = TICK_MS * 1000};
        event_base_loopexit(loop_base(loop), &tick);
        event_base_dispatch(loop_base(loop));
        if (journal_pending(journal) > p.most_waiting)
            p.most_waiting = journal_pending(journal);
    }
    int64_t last = clock_mono_us();
    flush();
    p.drain_ms = (double)(clock_mono_us() - last) / 1000;
    p.per_second = per_second(appended, start);
    return p;
}

int main(int argc, char **argv)
{
    struct err err;
    const struct log_opts quiet = {.level = LOG_ERROR, .console = true};
    if (argc != 3) {
        fprintf(stderr, "usage: bench-usage DATABASE_URL JOURNAL_DIR\n");
        return 2;
    }
    id_init();
    must(log_open(&quiet, &err), "log", &err);
    loop = loop_new();
    db = db_open(loop, argv[1], &err);
    if (!db)
        die("database", &err);
    journal = journal_open(loop, db, argv[2], &err);
    if (!journal)
        die("journal", &err);
    make_keys();
    double plain_rate = plain(), flat_rate = flat();
    struct paced p = paced();
    printf("{\"plain\":%.0f,\"flat\":%.0f,\"paced\":{\"asked\":%d,\"perSecond\":%.0f,"
           "\"mostWaiting\":%zu,\"drainMs\":%.0f}}\n",
           plain_rate, flat_rate, PACE, p.per_second, p.most_waiting, p.drain_ms);
    journal_close(journal);
    db_close(db);
    loop_free(loop);
    return 0;
}
