/* test_usage.c - cost and roll-up of usage in the database: SQLite, or PostgreSQL where
 * tools/with-postgres.sh is running. */
#include "db_fx.h"
#include "store/store.h"

#include <stdlib.h>

#define USER_ID "11111111-1111-4111-8111-111111111111"
#define KEY_ID  "22222222-2222-4222-8222-222222222222"
#define KEY2_ID "33333333-3333-4333-8333-333333333333"
#define HOUR    USAGE_HOUR_MS
#define T0      (INT64_C(490000) * HOUR) /* a whole hour, not a whole day */

struct got {
    int calls;
    bool failed;
    struct err err;
    size_t count;
    struct usage_total totals[16];
    struct usage_row rows[16];
    struct usage_sum sums[4];
};

static void note(struct got *got, size_t count, const struct err *err)
{
    assert_false(submitting);
    got->calls++;
    got->count = count;
    got->failed = err != NULL;
    if (err)
        got->err = *err;
}

static void got_done(void *ctx, const struct err *err)
{
    note(ctx, 0, err);
}

static void got_totals(void *ctx, const struct usage_total *totals, size_t count,
                       const struct err *err)
{
    struct got *got = ctx;
    note(got, count, err);
    for (size_t i = 0; i < count && i < ARRAY_SIZE(got->totals); i++)
        got->totals[i] = totals[i];
}

static void got_rows(void *ctx, const struct usage_row *rows, size_t count, const struct err *err)
{
    struct got *got = ctx;
    note(got, count, err);
    for (size_t i = 0; i < count && i < ARRAY_SIZE(got->rows); i++)
        got->rows[i] = rows[i];
}

static void got_sums(void *ctx, const struct usage_sum *sums, size_t count, const struct err *err)
{
    struct got *got = ctx;
    note(got, count, err);
    for (size_t i = 0; i < count && i < ARRAY_SIZE(got->sums); i++)
        got->sums[i] = sums[i];
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

#define DO(call)                      \
    do {                              \
        memset(&got, 0, sizeof(got)); \
        submitting = true;            \
        call;                         \
        submitting = false;           \
        wait_got(fx, &got);           \
    } while (0)

static void assert_ok(const struct got *got)
{
    if (got->failed)
        fail_msg("%s", got->err.msg);
}

static int set_up(void **state)
{
    fx_set_up(state);
    struct fx *fx = *state;
    run(fx,
        "INSERT INTO users (id, name, role, created_at) VALUES ('" USER_ID "', 'u', 'owner', 1)");
    run(fx, "INSERT INTO api_keys (id, public_id, secret_hash, user_id, name, status, created_at, "
            "limits, permissions) VALUES ('" KEY_ID "', 'aaaaaaaaaaaa', 'h', '" USER_ID
            "', 'k', 'active', 1, '{}', '{}'), ('" KEY2_ID "', 'bbbbbbbbbbbb', 'h', '" USER_ID
            "', 'k2', 'active', 1, '{}', '{}')");
    return 0;
}

static struct usage_row make_row(const char *key_id, int n)
{
    struct usage_row row = {.timestamp = T0 + n,
                            .endpoint = "/api/chat",
                            .method = "POST",
                            .model = "claude-x",
                            .input_tokens = 1,
                            .output_tokens = 20,
                            .cache_creation_tokens = 300,
                            .cache_read_tokens = 4009,
                            .status_code = 200,
                            .cost_nano = 1000};
    snprintf(row.request_id, sizeof(row.request_id), "req_%024d", n);
    snprintf(row.api_key_id, sizeof(row.api_key_id), "%s", key_id);
    return row;
}

/* The roll-up as it would be if it were made now from the rows. */
static void assert_rolled_up(struct fx *fx)
{
    static const char made[] =
        "SELECT count(*) FROM (SELECT api_key_id, hour, model, requests, errors, input_tokens, "
        "output_tokens, cache_creation_tokens, cache_read_tokens, counted_tokens, cost_nano, "
        "unpriced, cached FROM usage_hourly %s SELECT api_key_id, timestamp / 3600000, "
        "COALESCE(model, ''), count(*), sum(CASE WHEN status_code >= 400 THEN 1 ELSE 0 END), "
        "sum(input_tokens), sum(output_tokens), sum(cache_creation_tokens), "
        "sum(cache_read_tokens), sum(input_tokens + output_tokens + cache_creation_tokens + "
        "cache_read_tokens / 10), COALESCE(sum(cost_nano), 0), "
        "sum(CASE WHEN cost_nano IS NULL THEN 1 ELSE 0 END), sum(cached) "
        "FROM usage_logs GROUP BY 1, 2, 3) AS d";
    char sql[1024];
    snprintf(sql, sizeof(sql), made, "EXCEPT");
    assert_int_equal(run(fx, sql), 0);
    snprintf(sql, sizeof(sql), made, "INTERSECT");
    assert_int_equal(run(fx, sql), run(fx, "SELECT count(*) FROM usage_hourly"));
}

static void test_cost(void **state)
{
    struct fx *fx = *state;
    struct got got;
    struct usage_row rows[] = {make_row(KEY_ID, 1), make_row(KEY_ID, 2), make_row(KEY_ID, 3)};
    rows[0].cost_nano = 12345678901;
    rows[1].cost_nano = 0;
    rows[2].cost_nano = -1;
    DO(usage_insert(fx->db, rows, 3, got_done, &got));
    assert_ok(&got);
    assert_int_equal(run(fx, "SELECT CASE WHEN cost_nano = 12345678901 AND "
                             "cost_usd = 12.345678901 THEN 1 ELSE 0 END FROM usage_logs "
                             "WHERE request_id LIKE '%1'"),
                     1);
    assert_int_equal(run(fx, "SELECT CASE WHEN cost_nano = 0 AND cost_usd = 0 THEN 1 ELSE 0 END "
                             "FROM usage_logs WHERE request_id LIKE '%2'"),
                     1);
    assert_int_equal(run(fx, "SELECT CASE WHEN cost_nano IS NULL AND cost_usd IS NULL THEN 1 "
                             "ELSE 0 END FROM usage_logs WHERE request_id LIKE '%3'"),
                     1);
    assert_rolled_up(fx);
    DO(usage_totals(fx->db, KEY_ID, 0, T0, USAGE_IN_ALL, got_totals, &got));
    assert_int_equal(got.count, 1);
    assert_int_equal(got.totals[0].requests, 3);
    assert_int_equal(got.totals[0].unpriced, 1);
    assert_int_equal(got.totals[0].cost_nano, 12345678901);
}

/* Rows offered again, alone and among new ones, in one batch and in a later one: each counts once.
 */
static void test_roll_up_once(void **state)
{
    enum { N = 400 };
    struct fx *fx = *state;
    struct got got;
    struct usage_row *rows = x_calloc(N + 1, sizeof(*rows));
    for (int i = 0; i < N; i++) {
        rows[i] = make_row(i % 3 ? KEY_ID : KEY2_ID, i);
        rows[i].timestamp = T0 + i % 7 * HOUR / 2;
        rows[i].status_code = i % 5 ? 200 : 502;
        rows[i].cost_nano = i % 11 ? i : -1;
        rows[i].cached = i % 4 == 0;
        if (i % 13 == 0)
            rows[i].model[0] = '\0';
    }
    unsigned seed = 7;
    for (int round = 0; round < 12; round++) {
        size_t from = (size_t)rand_r(&seed) % N, count = 1 + (size_t)rand_r(&seed) % (N - from);
        rows[from + count - 1] = rows[from]; /* twice in one batch */
        DO(usage_insert(fx->db, rows + from, count, got_done, &got));
        assert_ok(&got);
        assert_rolled_up(fx);
    }
    DO(usage_insert(fx->db, rows, N, got_done, &got));
    assert_ok(&got);
    assert_rolled_up(fx);
    assert_int_equal(run(fx, "SELECT sum(requests) FROM usage_hourly"),
                     run(fx, "SELECT count(*) FROM usage_logs"));
    /* A batch that fails leaves no trace. */
    rows[N] = make_row("99999999-9999-4999-8999-999999999999", N);
    rows[0] = make_row(KEY_ID, N + 1);
    memcpy(&rows[1], &rows[N], sizeof(*rows));
    DO(usage_insert(fx->db, rows, 2, got_done, &got));
    assert_int_equal(got.err.code, ERR_INTERNAL);
    assert_rolled_up(fx);
    free(rows);
}

static void test_totals(void **state)
{
    struct fx *fx = *state;
    struct got got;
    struct usage_row rows[8];
    for (int i = 0; i < 8; i++) {
        rows[i] = make_row(i == 7 ? KEY2_ID : KEY_ID, i);
        rows[i].timestamp = T0 + i * 5 * HOUR;
        snprintf(rows[i].model, sizeof(rows[i].model), "claude-%c", i % 2 ? 'b' : 'a');
    }
    rows[2].status_code = 429;
    rows[3].cost_nano = -1;
    rows[4].cached = rows[5].cached = rows[7].cached = true;
    DO(usage_insert(fx->db, rows, 8, got_done, &got));
    assert_ok(&got);
    int64_t from = T0 / HOUR;
    DO(usage_totals(fx->db, KEY_ID, from, from + 1000, USAGE_IN_ALL, got_totals, &got));
    assert_int_equal(got.count, 1);
    assert_int_equal(got.totals[0].requests, 7);
    assert_int_equal(got.totals[0].errors, 1);
    assert_int_equal(got.totals[0].cached, 2);
    assert_int_equal(got.totals[0].input_tokens, 7);
    assert_int_equal(got.totals[0].output_tokens, 140);
    assert_int_equal(got.totals[0].cache_creation_tokens, 2100);
    assert_int_equal(got.totals[0].cache_read_tokens, 7 * 4009);
    assert_int_equal(got.totals[0].cost_nano, 6000);
    assert_int_equal(got.totals[0].unpriced, 1);
    DO(usage_totals(fx->db, KEY_ID, from, from + 10, USAGE_IN_ALL, got_totals, &got));
    assert_int_equal(got.totals[0].requests, 2); /* the end is not in it */
    DO(usage_totals(fx->db, KEY_ID, from + 1000, from + 2000, USAGE_IN_ALL, got_totals, &got));
    assert_int_equal(got.count, 0);
    DO(usage_totals(fx->db, KEY_ID, from, from + 1000, USAGE_BY_MODEL, got_totals, &got));
    assert_int_equal(got.count, 2);
    assert_string_equal(got.totals[0].model, "claude-a");
    assert_int_equal(got.totals[0].requests, 4);
    assert_string_equal(got.totals[1].model, "claude-b");
    DO(usage_totals(fx->db, KEY_ID, from, from + 1000, USAGE_BY_HOUR, got_totals, &got));
    assert_int_equal(got.count, 7);
    assert_int_equal(got.totals[6].start, T0 + 30 * HOUR);
    DO(usage_totals(fx->db, KEY_ID, from, from + 1000, USAGE_BY_DAY, got_totals, &got));
    /* T0 is 16:00 of a day of UTC: 16 and 21 | 2 7 12 17 22 */
    assert_int_equal(T0 / HOUR % 24, 16);
    assert_int_equal(got.count, 2);
    assert_int_equal(got.totals[0].start, T0 - 16 * HOUR);
    assert_int_equal(got.totals[0].requests, 2);
    assert_int_equal(got.totals[1].requests, 5);
}

static void test_list(void **state)
{
    struct fx *fx = *state;
    struct got got;
    struct usage_row rows[9];
    for (int i = 0; i < 9; i++) {
        rows[i] = make_row(i == 8 ? KEY2_ID : KEY_ID, i);
        rows[i].timestamp = T0 + i / 3; /* three of the same time */
    }
    rows[7].ttft_ms = -1;
    rows[7].cost_nano = -1;
    rows[7].estimated = rows[7].cached = true;
    rows[7].status_code = 499;
    rows[7].queue_ms = 5;
    rows[7].response_time_ms = 6;
    rows[7].upstream_calls = 1;
    rows[7].retries = 2;
    snprintf(rows[7].error, sizeof(rows[7].error), "client_gone: the client left");
    DO(usage_insert(fx->db, rows, 9, got_done, &got));
    assert_ok(&got);
    char seen[9] = {0}, before[ID_REQUEST_SIZE];
    DO(usage_list(fx->db, KEY_ID, NULL, 3, got_rows, &got));
    for (int page = 0; got.count; page++) {
        assert_int_equal(got.count, page < 2 ? 3 : 2);
        for (size_t i = 0; i < got.count; i++) {
            const struct usage_row *row = &got.rows[i];
            int n = row->request_id[27] - '0';
            assert_false(seen[n]);
            seen[n] = 1;
            struct usage_row want = rows[n];
            want.timestamp = row->timestamp;
            assert_memory_equal(row, &want, sizeof(want));
            assert_true(i == 0 || row->timestamp <= got.rows[i - 1].timestamp);
        }
        snprintf(before, sizeof(before), "%s", got.rows[got.count - 1].request_id);
        DO(usage_list(fx->db, KEY_ID, before, 3, got_rows, &got));
        assert_ok(&got);
    }
    assert_memory_equal(seen, "\1\1\1\1\1\1\1\1\0", 9); /* not the other key's */
    DO(usage_list(fx->db, KEY_ID, rows[8].request_id, 3, got_rows, &got));
    assert_int_equal(got.err.code, ERR_NOT_FOUND);
    DO(usage_list(fx->db, KEY_ID, "' OR 1=1 --", 3, got_rows, &got));
    assert_int_equal(got.err.code, ERR_NOT_FOUND);
}

/* Days and months that begin within an hour, as they do in some time zones. */
static void test_sums(void **state)
{
    struct fx *fx = *state;
    struct got got;
    const int64_t half = HOUR / 2;
    struct usage_row rows[] = {make_row(KEY_ID, 0), make_row(KEY_ID, 1), make_row(KEY_ID, 2),
                               make_row(KEY_ID, 3), make_row(KEY_ID, 4)};
    const int64_t at[] = {T0 - 50 * HOUR, T0 - 40 * HOUR - 1, T0 - 40 * HOUR + half, T0 + half - 1,
                          T0 + half};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        rows[i].timestamp = at[i];
        rows[i].cost_nano = 1 << i;
    }
    DO(usage_insert(fx->db, rows, ARRAY_SIZE(rows), got_done, &got));
    assert_ok(&got);
    DO(usage_sums_since(fx->db, T0 + half, T0 - 40 * HOUR, got_sums, &got));
    assert_int_equal(got.count, 1);
    assert_string_equal(got.sums[0].api_key_id, KEY_ID);
    assert_int_equal(got.sums[0].requests, 1);
    assert_int_equal(got.sums[0].tokens, usage_counted_tokens(&rows[4]));
    assert_int_equal(got.sums[0].day_cost, 16);
    assert_int_equal(got.sums[0].month_cost, 4 + 8 + 16);
    DO(usage_sums_since(fx->db, T0, T0 - 50 * HOUR + 1, got_sums, &got));
    assert_int_equal(got.sums[0].requests, 2);
    assert_int_equal(got.sums[0].tokens, 2 * usage_counted_tokens(&rows[4]));
    assert_int_equal(got.sums[0].day_cost, 8 + 16);
    assert_int_equal(got.sums[0].month_cost, 2 + 4 + 8 + 16);
    DO(usage_sums_since(fx->db, INT64_MAX, INT64_MAX, got_sums, &got));
    assert_ok(&got);
    assert_int_equal(got.count, 0);
}

#define FX(f) cmocka_unit_test_setup_teardown(f, set_up, fx_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {FX(test_cost), FX(test_roll_up_once), FX(test_totals),
                                       FX(test_list), FX(test_sums)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
