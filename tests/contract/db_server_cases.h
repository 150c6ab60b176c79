/* db_server_cases.h - part of test_db_contract.c: what happens to a server: it is killed, frozen,
 * slow, full of strangers. The server is tools/with-postgres.sh's, which also gives the program
 * that stops and starts it. */
#ifndef CG_TESTS_CONTRACT_DB_SERVER_CASES_H
#define CG_TESTS_CONTRACT_DB_SERVER_CASES_H

#include "db/pg_open.h"

#include <sys/wait.h>

#define CONNECT_MS 1500
#define QUERY_MS   1000

static void control(const char *what)
{
    char command[512];
    snprintf(command, sizeof(command), "%s %s", getenv("TEST_POSTGRES_CONTROL"), what);
    assert_int_equal(system(command), 0); /* NOLINT: our own script */
}

static int set_up_server(void **state)
{
    fx_set_up_closed(state);
    struct fx *fx = *state;
    open_db_with(fx, (struct db_opts){.pool_size = 3,
                                      .connect_timeout_ms = CONNECT_MS,
                                      .query_timeout_ms = QUERY_MS});
    run(fx, CREATE_T);
    return 0;
}

/* For tests that a busy machine must not turn into one of a time-out. */
static void reopen_patient(struct fx *fx)
{
    close_db(fx);
    open_db_with(fx, (struct db_opts){
                         .pool_size = 3, .connect_timeout_ms = 20000, .query_timeout_ms = 20000});
}

static void turn(struct fx *fx, int64_t ms)
{
    int64_t until = clock_mono_ms() + ms;
    struct timeval tick = {0, 5000};
    while (clock_mono_ms() < until) {
        event_base_loopexit(loop_base(fx->loop), &tick);
        event_base_loop(loop_base(fx->loop), 0);
    }
}

/* Until one statement succeeds: recovered without being opened anew. */
static void wait_until_back(struct fx *fx)
{
    int64_t deadline = clock_mono_ms() + 20000;
    for (;;) {
        struct probe p = {0};
        query(fx, "SELECT 1", NULL, 0, &p);
        wait_for(fx, &p);
        if (!p.failed)
            return;
        assert_int_equal(p.err.code, ERR_UNAVAILABLE);
        assert_true(clock_mono_ms() < deadline);
    }
}

/* --- killed ------------------------------------------------------------------------------- */

#define BATCH_ROWS 20

struct storm {
    struct fx *fx;
    int submitted, ok, unavailable, in_flight;
    bool stopping;
    bool committed[20000];
};
struct storm_call {
    struct storm *s;
    int n;
};

static void storm_more(struct storm *s);

static void storm_done(void *ctx, const struct db_result *r, const struct err *err)
{
    struct storm_call *call = ctx;
    struct storm *s = call->s;
    (void)r;
    s->in_flight--;
    if (err && err->code != ERR_UNAVAILABLE)
        fail_msg("%s", err->msg);
    s->ok += !err;
    s->unavailable += err != NULL;
    s->committed[call->n] = !err;
    free(call);
    if (!s->stopping)
        storm_more(s);
}

static void storm_more(struct storm *s)
{
    char k[BATCH_ROWS][32];
    struct db_param params[BATCH_ROWS][2];
    struct db_stmt stmts[BATCH_ROWS];
    struct storm_call *call = x_malloc(sizeof(*call));
    *call = (struct storm_call){s, s->submitted++};
    BUG_ON(call->n >= (int)ARRAY_SIZE(s->committed));
    for (int i = 0; i < BATCH_ROWS; i++) {
        snprintf(k[i], sizeof(k[i]), "%d-%d", call->n, i);
        params[i][0] = DBP_S(k[i]);
        params[i][1] = DBP_I(call->n);
        stmts[i] = (struct db_stmt){INSERT_T, params[i], 2};
    }
    s->in_flight++;
    db_batch(s->fx->db, stmts, BATCH_ROWS, storm_done, call);
}

struct found {
    const struct storm *s;
    int whole;
};

static void check_storm(void *ctx, const struct db_result *r, const struct err *err)
{
    struct found *found = ctx;
    bool *seen = x_calloc(ARRAY_SIZE(found->s->committed), sizeof(*seen));
    assert_null(err);
    for (size_t i = 0; i < db_rows(r); i++) {
        assert_int_equal(db_int(r, i, 1), BATCH_ROWS); /* all or none */
        seen[db_int(r, i, 0)] = true;
        found->whole++;
    }
    for (int i = 0; i < found->s->submitted; i++) /* what was told is there */
        assert_true(seen[i] || !found->s->committed[i]);
    free(seen);
}

static void test_server_killed(void **state)
{
    struct fx *fx = *state;
    struct storm *s = x_calloc(1, sizeof(*s));
    struct err err;
    s->fx = fx;
    for (int i = 0; i < 12; i++)
        storm_more(s);
    for (int round = 0; round < 3; round++) {
        int ok = s->ok;
        turn(fx, 300 + round * 37);
        assert_true(s->ok > ok);
        control("stop");
        turn(fx, 400);
        control("start");
        turn(fx, 300);
        wait_until_back(fx);
    }
    s->stopping = true;
    int64_t deadline = clock_mono_ms() + 20000;
    while (s->in_flight) {
        assert_true(clock_mono_ms() < deadline);
        event_base_loop(loop_base(fx->loop), EVLOOP_ONCE);
    }
    print_message("           batches: %d stored, %d failed\n", s->ok, s->unavailable);
    assert_int_equal(s->ok + s->unavailable, s->submitted);
    assert_true(s->unavailable > 0);
    struct found found = {.s = s};
    assert_int_equal(db_query_wait(fx->db, "SELECT v, count(*) FROM t GROUP BY v", NULL, 0,
                                   check_storm, &found, &err),
                     0);
    assert_true(found.whole >= s->ok);
    free(s);
}

static void test_away_for_long(void **state)
{
    struct fx *fx = *state;
    struct probe p[5] = {0}, late = {0};
    control("stop");
    turn(fx, 200);
    int64_t start = clock_mono_ms();
    for (int i = 0; i < 5; i++) {
        char k[16];
        snprintf(k, sizeof(k), "k%d", i);
        insert(fx, k, i, &p[i]);
    }
    wait_all(fx, p, 5);
    assert_in_range(clock_mono_ms() - start, CONNECT_MS - 300, CONNECT_MS + 5000);
    for (int i = 0; i < 5; i++)
        assert_int_equal(p[i].err.code, ERR_UNAVAILABLE);
    insert(fx, "late", 1, &late); /* waits for the server, which comes in time */
    turn(fx, 300);
    assert_int_equal(late.calls, 0);
    control("start");
    wait_for(fx, &late);
    wait_until_back(fx);
    assert_int_equal(run(fx, "SELECT count(*) FROM t"), !late.failed);
}

static void wait_for_sleepers(struct fx *fx, int64_t count)
{
    int64_t deadline = clock_mono_ms() + 20000;
    while (pg_once(fx->url, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") !=
           count) {
        turn(fx, 20);
        assert_true(clock_mono_ms() < deadline);
    }
}

/* Reads that were on their way are answered all the same. */
static void test_reads_survive_a_restart(void **state)
{
    struct fx *fx = *state;
    struct probe read = {0}, write = {0};
    reopen_patient(fx);
    query(fx, "SELECT pg_sleep(4), count(*) FROM t", NULL, 0, &read);
    turn(fx, 100);
    query(fx, "INSERT INTO t SELECT 'x', 1 FROM pg_sleep(10)", NULL, 0, &write);
    wait_for_sleepers(fx, 2);
    control("stop");
    control("start");
    wait_for(fx, &read);
    wait_for(fx, &write);
    assert_false(read.failed);
    assert_int_equal(write.err.code, ERR_UNAVAILABLE);
    assert_int_equal(run(fx, "SELECT count(*) FROM t"), 0);
}

static void test_close_while_away(void **state)
{
    struct fx *fx = *state;
    struct probe p[4] = {0};
    int64_t start;
    reopen_patient(fx);
    query(fx, "INSERT INTO t SELECT 'x', 1 FROM pg_sleep(4)", NULL, 0, &p[0]);
    turn(fx, 50);
    control("stop");
    insert(fx, "a", 1, &p[1]);
    turn(fx, 100);
    query(fx, "SELECT 1", NULL, 0, &p[2]);
    query(fx, "COMMIT", NULL, 0, &p[3]);
    start = clock_mono_ms();
    close_db(fx);
    assert_in_range(clock_mono_ms() - start, 0, 10000);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(p[i].calls, 1);
        assert_true(p[i].failed);
    }
    struct err err;
    assert_null(db_open(fx->loop, fx->url, &err));
    assert_int_equal(err.code, ERR_UNAVAILABLE);
    control("start");
    open_db(fx);
}

static void test_connection_killed(void **state)
{
    struct fx *fx = *state;
    struct probe slow = {0}, other = {0};
    reopen_patient(fx);
    query(fx, "INSERT INTO t SELECT 'x', 1 FROM pg_sleep(6)", NULL, 0, &slow);
    turn(fx, 100);
    query(fx, "SELECT count(*) FROM t, pg_sleep(1)", NULL, 0, &other);
    turn(fx, 100);
    assert_int_equal(pg_once(fx->url, "SELECT count(pg_terminate_backend(pid)) FROM "
                                      "pg_stat_activity WHERE query LIKE '%''x'', 1%' AND "
                                      "pid <> pg_backend_pid()"),
                     1);
    wait_for(fx, &slow);
    assert_int_equal(slow.err.code, ERR_UNAVAILABLE);
    wait_for(fx, &other);
    assert_false(other.failed);   /* on a connection of its own */
    for (int i = 0; i < 5; i++) { /* all of them, while they are idle */
        pg_once(fx->url, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                         "WHERE pid <> pg_backend_pid() AND application_name = 'claudegate'");
        assert_int_equal(run(fx, "SELECT count(*) FROM t"), 0);
    }
}

/* --- slow --------------------------------------------------------------------------------- */

static void test_slow_statement(void **state)
{
    struct fx *fx = *state;
    struct probe slow = {0};
    int64_t start = clock_mono_ms();
    query(fx, "INSERT INTO t SELECT 'x', 1 FROM pg_sleep(20)", NULL, 0, &slow);
    turn(fx, 50);
    assert_int_equal(run(fx, "SELECT count(*) FROM t"), 0); /* nobody waits for it */
    assert_int_equal(slow.calls, 0);
    wait_for(fx, &slow);
    assert_int_equal(slow.err.code, ERR_UNAVAILABLE);
    assert_non_null(strstr(slow.err.msg, "timeout"));
    assert_in_range(clock_mono_ms() - start, QUERY_MS - 100, QUERY_MS + 8000);
    assert_int_equal(run(fx, "SELECT count(*) FROM t"), 0);
}

/* It keeps its connections and answers nothing. */
static void test_server_frozen(void **state)
{
    struct fx *fx = *state;
    struct probe p[6] = {0};
    run(fx, "SELECT 1");
    control("pause");
    int64_t start = clock_mono_ms();
    for (int i = 0; i < 6; i++) {
        char k[16];
        snprintf(k, sizeof(k), "k%d", i);
        insert(fx, k, i, &p[i]);
        turn(fx, 20);
    }
    wait_all(fx, p, 6);
    int64_t took = clock_mono_ms() - start;
    control("resume");
    assert_in_range(took, QUERY_MS, QUERY_MS + 2000 + CONNECT_MS + 9000);
    for (int i = 0; i < 6; i++)
        assert_int_equal(p[i].err.code, ERR_UNAVAILABLE);
    wait_until_back(fx);
}

static void test_close_while_frozen(void **state)
{
    struct fx *fx = *state;
    struct probe p = {0};
    run(fx, "SELECT 1");
    control("pause");
    insert(fx, "a", 1, &p);
    int64_t start = clock_mono_ms();
    close_db(fx);
    int64_t took = clock_mono_ms() - start;
    control("resume");
    assert_in_range(took, 0, QUERY_MS + 2000 + 9000);
    assert_int_equal(p.calls, 1);
    assert_int_equal(p.err.code, ERR_UNAVAILABLE);
}

static void test_deadlock_is_repeated(void **state)
{
    struct fx *fx = *state;
    struct probe p[2] = {0}, warm[2] = {0};
    const struct db_stmt one[] = {{"UPDATE t SET v = v + 1 WHERE k = 'a'", NULL, 0},
                                  {"SELECT pg_sleep(0.5)", NULL, 0},
                                  {"UPDATE t SET v = v + 1 WHERE k = 'b'", NULL, 0}};
    const struct db_stmt two[] = {{"UPDATE t SET v = v + 1 WHERE k = 'b'", NULL, 0},
                                  {"SELECT pg_sleep(0.5)", NULL, 0},
                                  {"UPDATE t SET v = v + 1 WHERE k = 'a'", NULL, 0}};
    reopen_patient(fx);
    run(fx, "INSERT INTO t VALUES ('a', 0), ('b', 0)");
    query(fx, "SELECT pg_sleep(1)", NULL, 0, &warm[0]); /* two connections */
    turn(fx, 50);
    query(fx, "SELECT pg_sleep(1)", NULL, 0, &warm[1]);
    wait_all(fx, warm, 2);
    batch(fx, one, 3, &p[0]);
    batch(fx, two, 3, &p[1]);
    wait_all(fx, p, 2);
    assert_false(p[0].failed);
    assert_false(p[1].failed);
    assert_int_equal(run(fx, "SELECT sum(v) FROM t"), 4);
    int64_t deadline = clock_mono_ms() + 10000; /* it counts in its own time */
    while (!pg_once(fx->url, "SELECT deadlocks FROM pg_stat_database "
                             "WHERE datname = current_database()")) {
        assert_true(clock_mono_ms() < deadline);
        turn(fx, 100);
    }
}

/* --- changed behind our back -------------------------------------------------------------- */

static void test_prepared_statements_go_stale(void **state)
{
    struct fx *fx = *state;
    struct probe p = {0};
    for (int i = 0; i < 8; i++)
        run(fx, "SELECT * FROM t");
    run(fx, "ALTER TABLE t ADD COLUMN more BIGINT");
    for (int i = 0; i < 8; i++)
        assert_int_equal(run(fx, "SELECT * FROM t"), -1);
    insert(fx, "a", 1, &p);
    wait_for(fx, &p);
    run(fx, "DEALLOCATE ALL");
    for (int i = 0; i < 8; i++) {
        struct probe q = {0};
        insert(fx, "a", 1, &q);
        wait_for(fx, &q);
        assert_int_equal(q.err.code, ERR_CONFLICT);
    }
}

static void test_pool_has_a_limit(void **state)
{
    enum { N = 40 };
    struct fx *fx = *state;
    struct probe p[N] = {0};
    for (int i = 0; i < N; i++) {
        query(fx, "SELECT pg_sleep(0.01)", NULL, 0, &p[i]);
        turn(fx, 5);
    }
    wait_all(fx, p, N);
    int64_t open = pg_once(fx->url, "SELECT count(*) FROM pg_stat_activity WHERE "
                                    "application_name = 'claudegate'");
    assert_in_range(open, 2, 3);
}

static void test_waiting_has_a_limit(void **state)
{
    enum { N = 10050 };
    struct fx *fx = *state;
    struct probe *p = x_calloc(N, sizeof(*p));
    int refused = 0;
    for (int i = 0; i < N; i++)
        query(fx, "SELECT 1", NULL, 0, &p[i]);
    wait_all(fx, p, N);
    for (int i = 0; i < N; i++) {
        refused += p[i].failed;
        if (p[i].failed)
            assert_int_equal(p[i].err.code, ERR_UNAVAILABLE);
    }
    assert_int_equal(refused, 50);
    free(p);
}

/* What waits for a lock takes the connections, and what waits behind it is told in time. */
static void test_a_locked_table_is_no_end(void **state)
{
    enum { N = 40 };
    struct fx *fx = *state;
    struct probe p[N] = {0}, other = {0};
    struct err err;
    PGconn *holder = pg_connect(fx->url, 5000, &err);
    assert_non_null(holder);
    PQclear(PQexec(holder, "BEGIN; LOCK TABLE t"));
    for (int i = 0; i < N; i++) {
        char k[16];
        snprintf(k, sizeof(k), "k%d", i);
        insert(fx, k, i, &p[i]);
        turn(fx, 1);
    }
    int64_t start = clock_mono_ms();
    query(fx, "SELECT 1", NULL, 0, &other);
    wait_for(fx, &other);
    wait_all(fx, p, N);
    assert_in_range(clock_mono_ms() - start, 0, 3 * (CONNECT_MS + QUERY_MS) + 8000);
    for (int i = 0; i < N; i++)
        assert_int_equal(p[i].err.code, ERR_UNAVAILABLE);
    PQfinish(holder);
    wait_until_back(fx);
    assert_int_equal(run(fx, "SELECT count(*) FROM t"), 0);
}

/* --- opening ------------------------------------------------------------------------------ */

static void refuse_url(struct fx *fx, const char *url, enum err_code code, const char *secret)
{
    struct err err = {0};
    const struct db_opts opts = {.url = url, .connect_timeout_ms = 2000};
    assert_null(db_open_with(fx->loop, &opts, &err));
    if (err.code != code)
        fail_msg("%s: %s", url, err.msg);
    if (strstr(err.msg, secret))
        fail_msg("tells '%s': %s", secret, err.msg);
}

static void test_refused_urls(void **state)
{
    struct fx *fx = *state;
    char url[256];
    const char *at = strchr(fx->url, '@');
    snprintf(url, sizeof(url), "postgres://claudegate:wr0ng%s", at);
    refuse_url(fx, url, ERR_UNAVAILABLE, "wr0ng");
    refuse_url(fx, "postgres://me:wr0ng@127.0.0.1:9/x", ERR_UNAVAILABLE, "wr0ng");
    refuse_url(fx, "postgres://me:wr0ng@host.invalid/x", ERR_UNAVAILABLE, "wr0ng");
    refuse_url(fx, "postgres://me:wr0ng%@h/x", ERR_CONFIG, "wr0ng");
    refuse_url(fx, "postgres://me:wr0ng@h/x?nonsense=1", ERR_CONFIG, "wr0ng");
    refuse_url(fx, "postgres://me:wr0ng@[::1/x", ERR_CONFIG, "wr0ng");
    refuse_url(fx, "postgres://me:wr0ng/x@h/db", ERR_CONFIG, "wr0ng");
    refuse_url(fx, "postgres://me:x@wr0ng@h/db", ERR_CONFIG, "wr0ng");
    snprintf(url, sizeof(url), "postgresql%s", strchr(fx->url, ':'));
    struct err err;
    fx->db = db_open(fx->loop, url, &err);
    assert_non_null(fx->db);
    run(fx, "SELECT 1");
}

/* Everything above goes in the clear; the same over TLS. */
static void test_tls(void **state)
{
    enum { N = 2000 };
    struct fx *fx = *state;
    struct probe *p = x_calloc(N, sizeof(*p));
    char url[256];
    snprintf(url, sizeof(url), "%s?sslmode=verify-full", fx->url); /* its certificate is nobody's */
    refuse_url(fx, url, ERR_UNAVAILABLE, ":claudegate:");
    snprintf(url, sizeof(url), "%s?sslmode=verify-ca&sslrootcert=%s/server.crt", fx->url,
             getenv("TEST_POSTGRES_DIR"));
    snprintf(fx->url, sizeof(fx->url), "%s", url);
    open_db(fx);
    assert_int_equal(run(fx, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"), 1);
    run(fx, CREATE_T);
    for (int i = 0; i < N; i++) {
        char k[16];
        snprintf(k, sizeof(k), "k%d", i);
        insert(fx, k, i, &p[i]);
    }
    wait_all(fx, p, N);
    assert_int_equal(run(fx, "SELECT count(*) FROM t"), N);
    struct probe large = {0};
    query(fx, "SELECT repeat('x', 5000000) FROM generate_series(1, 5)", NULL, 0, &large);
    wait_for(fx, &large);
    assert_int_equal(large.rows, 5);
    close_db(fx);
    free(p);
}

static void test_refused_databases(void **state)
{
    struct fx *fx = *state;
    struct err err;
    pg_admin("ALTER DATABASE ", fx->name, " SET default_transaction_read_only = on");
    assert_null(db_open(fx->loop, fx->url, &err));
    assert_int_equal(err.code, ERR_UNAVAILABLE); /* a standby: the primary may be back soon */
    pg_admin("DROP DATABASE ", fx->name, "");
    pg_admin("CREATE DATABASE ", fx->name,
             " TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'");
    assert_null(db_open(fx->loop, fx->url, &err));
    assert_int_equal(err.code, ERR_CONFIG);
    assert_non_null(strstr(err.msg, "UTF8"));
}

/* The schema is somebody else's; the server may only read and write. */
static void test_role_without_schema_rights(void **state)
{
    struct fx *fx = *state;
    struct fx weak = *fx;
    struct err err;
    open_db(fx);
    pg_admin("CREATE ROLE ", fx->name, " LOGIN PASSWORD 'weak'");
    snprintf(weak.url, sizeof(weak.url), "postgres://%s:weak%s", fx->name, strchr(fx->url, '@'));
    assert_null(db_open(weak.loop, weak.url, &err)); /* not even reading */
    run(fx, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO PUBLIC");
    open_db(&weak);
    run(&weak, "INSERT INTO users (id, name, role, created_at) VALUES "
               "('11111111-1111-4111-8111-111111111111', 'ada', 'owner', 1)");
    close_db(&weak);
    run(fx, "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC");
    pg_admin("DROP ROLE ", fx->name, "");
}

#define SERVER(f) cmocka_unit_test_setup_teardown(f, set_up_server, fx_tear_down)
#define SHUT(f)   cmocka_unit_test_setup_teardown(f, fx_set_up_closed, fx_tear_down)

#define DB_SERVER_TESTS                                                                           \
    SERVER(test_server_killed), SERVER(test_away_for_long), SERVER(test_reads_survive_a_restart), \
        SERVER(test_close_while_away), SERVER(test_connection_killed),                            \
        SERVER(test_slow_statement), SERVER(test_server_frozen), SERVER(test_close_while_frozen), \
        SERVER(test_deadlock_is_repeated), SERVER(test_prepared_statements_go_stale),             \
        SERVER(test_pool_has_a_limit), SERVER(test_waiting_has_a_limit),                          \
        SERVER(test_a_locked_table_is_no_end), SHUT(test_refused_urls), SHUT(test_tls),           \
        SHUT(test_refused_databases), SHUT(test_role_without_schema_rights)

#endif
