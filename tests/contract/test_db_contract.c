/* test_db_contract.c - what db.h promises, asked of each engine: of SQLite, or of the PostgreSQL
 * server of tools/with-postgres.sh where that is running. What only a server can suffer (it is
 * killed, frozen, too slow) stands in db_server_cases.h. */
#include "../unit/db_fx.h"

#include "db/migrate.h"

#include <float.h>
#include <math.h>
#include <spawn.h>
#include <sys/wait.h>

#define CREATE_T "CREATE TABLE t (k TEXT PRIMARY KEY, v BIGINT)"
#define INSERT_T "INSERT INTO t (k, v) VALUES ($1, $2)"

static int set_up(void **state)
{
    fx_set_up(state);
    run(*state, CREATE_T);
    return 0;
}

static void insert(struct fx *fx, const char *k, int64_t v, struct probe *p)
{
    const struct db_param params[] = {DBP_S(k), DBP_I(v)};
    query(fx, INSERT_T, params, 2, p);
}

static void wait_all(struct fx *fx, const struct probe *p, size_t count)
{
    for (size_t i = 0; i < count; i++)
        wait_for(fx, &p[i]);
}

static void batch(struct fx *fx, const struct db_stmt *stmts, size_t count, struct probe *p)
{
    submitting = true;
    db_batch(fx->db, stmts, count, probe_done, p);
    submitting = false;
}

#include "db_server_cases.h"
#include "db_value_cases.h"

/* --- one statement ------------------------------------------------------------------------ */

static void test_once_and_later(void **state)
{
    enum { N = 3000 };
    struct fx *fx = *state;
    struct probe *p = x_calloc(N, sizeof(*p));
    for (int i = 0; i < N; i++) {
        char k[16];
        snprintf(k, sizeof(k), "k%d", i);
        if (i % 2)
            query(fx, "SELECT count(*) FROM t", NULL, 0, &p[i]);
        else
            insert(fx, k, i, &p[i]);
    }
    wait_all(fx, p, N);
    for (int i = 0; i < N; i++) {
        assert_false(p[i].failed);
        assert_int_equal(p[i].calls, 1);
        assert_int_equal(p[i].changes, i % 2 == 0);
        if (i % 2)
            assert_in_range(p[i].first, 0, N / 2);
    }
    assert_int_equal(run(fx, "SELECT count(*) FROM t"), N / 2);
    free(p);
}

static void test_ten_thousand_at_once(void **state)
{
    enum { N = 10000 };
    struct fx *fx = *state;
    struct probe *p = x_calloc(N, sizeof(*p));
    int64_t start = clock_mono_us();
    for (int i = 0; i < N; i++) {
        char k[16];
        snprintf(k, sizeof(k), "k%d", i);
        insert(fx, k, i, &p[i]);
    }
    wait_all(fx, p, N);
    print_message("           %d inserts submitted at once: %.0f/s\n", N,
                  N * 1e6 / (double)(clock_mono_us() - start));
    for (int i = 0; i < N; i++)
        assert_true(p[i].calls == 1 && !p[i].failed && p[i].changes == 1);
    assert_int_equal(run(fx, "SELECT count(*) FROM t WHERE k = 'k' || v"), N);
    free(p);
}

/* What done() told is there for everybody: each link of a chain reads what the last one wrote. */
struct chain {
    struct fx *fx;
    int id, links, *left;
    char k[32];
};

static void chain_write(struct chain *c);

static void chain_read_done(void *ctx, const struct db_result *r, const struct err *err)
{
    struct chain *c = ctx;
    assert_null(err);
    assert_int_equal(db_rows(r), 1);
    assert_int_equal(db_int(r, 0, 0), c->links);
    --c->links;
    chain_write(c);
}

static void chain_written(void *ctx, const struct db_result *r, const struct err *err)
{
    struct chain *c = ctx;
    const struct db_param key = DBP_S(c->k);
    assert_null(err);
    assert_int_equal(db_changes(r), 1);
    db_query(c->fx->db, "SELECT v FROM t WHERE k = $1", &key, 1, chain_read_done, c);
}

static void chain_write(struct chain *c)
{
    const struct db_param params[] = {DBP_S(c->k), DBP_I(c->links)};
    if (c->links == 0) {
        --*c->left;
        return;
    }
    db_query(c->fx->db,
             "INSERT INTO t (k, v) VALUES ($1, $2) ON CONFLICT (k) DO UPDATE SET v = excluded.v",
             params, 2, chain_written, c);
}

static void test_done_is_committed_and_seen(void **state)
{
    enum { N = 50 };
    struct fx *fx = *state;
    struct chain chains[N];
    int left = N;
    for (int i = 0; i < N; i++) {
        chains[i] = (struct chain){.fx = fx, .id = i, .links = 20, .left = &left};
        snprintf(chains[i].k, sizeof(chains[i].k), "chain%d", i);
        chain_write(&chains[i]);
    }
    int64_t deadline = clock_mono_ms() + 60000;
    while (left) {
        assert_true(clock_mono_ms() < deadline);
        event_base_loop(loop_base(fx->loop), EVLOOP_ONCE);
    }
}

static void test_misuse_is_refused(void **state)
{
    struct fx *fx = *state;
    static const char *const bad[] = {"SELEC 1",
                                      "SELECT 1; SELECT 2",
                                      "BEGIN",
                                      "COMMIT",
                                      " rollback",
                                      "SAVEPOINT x",
                                      "SELECT $1",
                                      "",
                                      "INSERT INTO nowhere VALUES (1)",
                                      " ;",
                                      "END",
                                      "INSERT INTO t (k, v) VALUES ($1, $2)"};
    struct probe p[ARRAY_SIZE(bad)] = {0}, last = {0};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        query(fx, bad[i], NULL, 0, &p[i]);
    insert(fx, "a", 1, &last);
    wait_all(fx, p, ARRAY_SIZE(bad));
    wait_for(fx, &last);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        if (!p[i].failed || p[i].err.code != ERR_INTERNAL)
            fail_msg("'%s': %s", bad[i], p[i].failed ? p[i].err.msg : "taken");
    }
    assert_false(last.failed);
    assert_int_equal(run(fx, "SELECT count(*) FROM t"), 1);
}

static int64_t changes_of(struct fx *fx, const char *sql)
{
    struct probe p = {0};
    query(fx, sql, NULL, 0, &p);
    wait_for(fx, &p);
    if (p.failed)
        fail_msg("%s: %s", sql, p.err.msg);
    return p.changes;
}

static void test_changes(void **state)
{
    struct fx *fx = *state;
    struct probe p = {0};
    assert_int_equal(changes_of(fx, "INSERT INTO t VALUES ('a', 1), ('b', 2), ('c', 3)"), 3);
    assert_int_equal(changes_of(fx, "SELECT k FROM t"), 0);
    assert_int_equal(changes_of(fx, "UPDATE t SET v = v + 1 WHERE v < 3"), 2);
    assert_int_equal(changes_of(fx, "UPDATE t SET v = 0 WHERE k = 'none'"), 0);
    assert_int_equal(changes_of(fx, "INSERT INTO t VALUES ('a', 1) ON CONFLICT (k) DO NOTHING"), 0);
    assert_int_equal(changes_of(fx, "INSERT INTO t VALUES ('a', 9) ON CONFLICT (k) DO UPDATE "
                                    "SET v = excluded.v WHERE t.v > 100"),
                     0);
    assert_int_equal(changes_of(fx, "INSERT INTO t VALUES ('a', 9) ON CONFLICT (k) DO UPDATE "
                                    "SET v = excluded.v"),
                     1);
    query(fx, "UPDATE t SET v = 7 WHERE k IN ('a', 'b') RETURNING v", NULL, 0, &p);
    wait_for(fx, &p);
    assert_int_equal(p.rows, 2);
    assert_int_equal(p.first, 7);
    assert_int_equal(p.changes, 2);
    assert_int_equal(changes_of(fx, "DELETE FROM t"), 3);
    assert_int_equal(changes_of(fx, "DELETE FROM t"), 0);
}

static void test_constraints(void **state)
{
    static const struct {
        const char *sql;
        enum err_code code;
    } cases[] = {
        {"INSERT INTO c VALUES ('a', 1, 'x')", ERR_CONFLICT}, /* primary key */
        {"INSERT INTO c VALUES ('b', 1, 'k')", ERR_CONFLICT}, /* unique */
        {"UPDATE c SET id = 'a' WHERE id = 'z'", ERR_CONFLICT},
        {"INSERT INTO c VALUES ('b', 5, 'x')", ERR_INTERNAL}, /* check */
        {"INSERT INTO c VALUES ('b', NULL, 'x')", ERR_INTERNAL},
        {"UPDATE c SET parent = 'nobody'", ERR_INTERNAL}, /* foreign key */
    };
    struct fx *fx = *state;
    run(fx, "INSERT INTO t VALUES ('p', 1)");
    run(fx, "CREATE TABLE c (id TEXT PRIMARY KEY, n INTEGER NOT NULL CHECK (n < 5), "
            "u TEXT UNIQUE, parent TEXT REFERENCES t (k))");
    run(fx, "INSERT INTO c (id, n, u) VALUES ('a', 1, 'k'), ('z', 1, 'l')");
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct probe p = {0};
        char sql[128];
        snprintf(sql, sizeof(sql), "%s", cases[i].sql);
        if (strncmp(sql, "INSERT INTO c", 13) == 0)
            snprintf(sql, sizeof(sql), "INSERT INTO c (id, n, u)%s", cases[i].sql + 13);
        query(fx, sql, NULL, 0, &p);
        wait_for(fx, &p);
        assert_true(p.failed);
        if (p.err.code != cases[i].code)
            fail_msg("%s: %s", sql, p.err.msg);
    }
}

/* --- transactions ------------------------------------------------------------------------- */

static void test_failures_stay_alone(void **state)
{
    enum { N = 40 };
    struct fx *fx = *state;
    struct probe p[N] = {0}, group = {0};
    const struct db_param c_params[] = {DBP_S("c"), DBP_I(1)};
    const struct db_param a_params[] = {DBP_S("k0"), DBP_I(1)};
    const struct db_stmt stmts[] = {{INSERT_T, c_params, 2}, {INSERT_T, a_params, 2}};
    run(fx, "INSERT INTO t VALUES ('k0', 0), ('k10', 0), ('k20', 0)");
    for (int i = 0; i < N; i++) {
        char k[16];
        snprintf(k, sizeof(k), "k%d", i);
        insert(fx, k, i, &p[i]);
        if (i == N / 2)
            batch(fx, stmts, 2, &group);
    }
    wait_all(fx, p, N);
    wait_for(fx, &group);
    for (int i = 0; i < N; i++) {
        assert_int_equal(p[i].calls, 1);
        assert_true(p[i].failed == (i == 0 || i == 10 || i == 20));
        if (p[i].failed)
            assert_int_equal(p[i].err.code, ERR_CONFLICT);
    }
    assert_int_equal(group.err.code, ERR_CONFLICT);
    assert_int_equal(run(fx, "SELECT count(*) FROM t"), N);
    assert_int_equal(run(fx, "SELECT count(*) FROM t WHERE k = 'c'"), 0);
}

static void test_of_two_alike_one_wins(void **state)
{
    struct fx *fx = *state;
    for (int round = 0; round < 20; round++) {
        struct probe p[8] = {0};
        int won = 0;
        char k[16];
        snprintf(k, sizeof(k), "r%d", round);
        for (size_t i = 0; i < ARRAY_SIZE(p); i++)
            insert(fx, k, (int64_t)i, &p[i]);
        wait_all(fx, p, ARRAY_SIZE(p));
        for (size_t i = 0; i < ARRAY_SIZE(p); i++) {
            won += !p[i].failed;
            if (p[i].failed)
                assert_int_equal(p[i].err.code, ERR_CONFLICT);
        }
        assert_int_equal(won, 1);
    }
}

static void test_batch(void **state)
{
    struct fx *fx = *state;
    struct probe p = {0}, empty = {0}, bad = {0};
    const struct db_param params[] = {DBP_S("a"), DBP_I(7)};
    const struct db_stmt stmts[] = {
        {INSERT_T, params, 2}, {"UPDATE t SET v = v + 1", NULL, 0}, {"SELECT v FROM t", NULL, 0}};
    const struct db_stmt failing[] = {
        {"DELETE FROM t", NULL, 0}, {"SELECT nonsense", NULL, 0}, {"DELETE FROM t", NULL, 0}};
    batch(fx, stmts, 3, &p);
    batch(fx, NULL, 0, &empty);
    wait_for(fx, &p);
    wait_for(fx, &empty);
    assert_false(p.failed);
    assert_int_equal(p.first, 8);
    assert_int_equal(p.changes, 0); /* of the last statement */
    assert_false(empty.failed);
    assert_int_equal(empty.rows, 0);
    batch(fx, failing, 3, &bad);
    wait_for(fx, &bad);
    assert_int_equal(bad.err.code, ERR_INTERNAL);
    assert_int_equal(run(fx, "SELECT v FROM t"), 8);
}

/* A deferred foreign key is checked by COMMIT. */
static void test_failed_commit(void **state)
{
    struct fx *fx = *state;
    struct probe p = {0}, later = {0};
    const struct db_param params[] = {DBP_S("a"), DBP_I(7)};
    const struct db_stmt stmts[] = {{INSERT_T, params, 2},
                                    {"INSERT INTO child VALUES ('nobody')", NULL, 0}};
    run(fx, "CREATE TABLE child (k TEXT REFERENCES t (k) DEFERRABLE INITIALLY DEFERRED)");
    batch(fx, stmts, 2, &p);
    wait_for(fx, &p);
    assert_true(p.failed);
    assert_true(p.err.code == ERR_INTERNAL || p.err.code == ERR_UNAVAILABLE);
    assert_int_equal(run(fx, "SELECT count(*) FROM t"), 0);
    assert_int_equal(run(fx, "SELECT count(*) FROM child"), 0);
    insert(fx, "later", 1, &later); /* and life goes on */
    wait_for(fx, &later);
    assert_false(later.failed);
}

static void test_large_batch(void **state)
{
    enum { N = 5000 };
    struct fx *fx = *state;
    struct probe p = {0};
    char(*k)[16] = x_calloc(N, sizeof(*k));
    struct db_param(*params)[2] = x_calloc(N, sizeof(*params));
    struct db_stmt *stmts = x_calloc(N, sizeof(*stmts));
    for (int i = 0; i < N; i++) {
        snprintf(k[i], sizeof(k[i]), "k%d", i);
        params[i][0] = DBP_S(k[i]);
        params[i][1] = DBP_I(i);
        stmts[i] = (struct db_stmt){INSERT_T, params[i], 2};
    }
    batch(fx, stmts, N, &p);
    free(params);
    free(k); /* parameters were copied */
    free(stmts);
    wait_for(fx, &p);
    assert_false(p.failed);
    assert_int_equal(run(fx, "SELECT count(*) FROM t WHERE k = 'k' || v"), N);
}

/* --- limits ------------------------------------------------------------------------------- */

static void test_queue_has_a_limit(void **state)
{
    struct fx *fx = *state;
    size_t size = 90u << 20;
    char *big = x_malloc(size);
    memset(big, 'x', size);
    const struct db_param params[] = {DBP_STR(str_n(big, size))};
    struct probe p[4] = {0};
    for (int i = 0; i < 3; i++)
        query(fx, "SELECT length(CAST($1 AS TEXT))", params, 1, &p[i]);
    free(big);
    insert(fx, "small", 1, &p[3]);
    wait_all(fx, p, 4);
    assert_int_equal(p[0].first, size);
    assert_int_equal(p[1].first, size);
    assert_int_equal(p[2].err.code, ERR_UNAVAILABLE);
    assert_false(p[3].failed);
}

/* Texts made on the fly: a mistake, but none that may grow memory or fail. */
static void test_many_statement_texts(void **state)
{
    struct fx *fx = *state;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 600; i++) {
            char sql[64];
            snprintf(sql, sizeof(sql), "SELECT %d", i);
            assert_int_equal(run(fx, sql), i);
        }
    }
}

/* --- closing ------------------------------------------------------------------------------ */

struct again {
    struct fx *fx;
    int left;
};

static void submit_again(void *ctx, const struct db_result *r, const struct err *err)
{
    struct again *again = ctx;
    char k[16];
    assert_non_null(r);
    assert_null(err);
    snprintf(k, sizeof(k), "again%d", again->left);
    const struct db_param params[] = {DBP_S(k), DBP_I(1)};
    if (again->left-- > 0)
        db_query(again->fx->db, INSERT_T, params, 2, submit_again, again);
}

static void test_close_finishes_everything(void **state)
{
    enum { N = 5000 };
    struct fx *fx = *state;
    struct probe *p = x_calloc(N, sizeof(*p)), bad = {0};
    struct again again = {.fx = fx, .left = 20};
    for (int i = 0; i < N; i++) {
        char k[16];
        snprintf(k, sizeof(k), "k%d", i);
        insert(fx, k, i, &p[i]);
    }
    query(fx, "COMMIT", NULL, 0, &bad);
    db_query(fx->db, "SELECT 1", NULL, 0, submit_again, &again);
    close_db(fx); /* the loop did not run at all */
    for (int i = 0; i < N; i++) {
        assert_int_equal(p[i].calls, 1);
        assert_false(p[i].failed);
    }
    assert_int_equal(bad.err.code, ERR_INTERNAL);
    assert_int_equal(again.left, -1);
    open_db(fx);
    assert_int_equal(run(fx, "SELECT count(*) FROM t"), N + 20);
    free(p);
}

static void test_close_at_once(void **state)
{
    struct fx *fx = *state;
    for (int i = 0; i < 10; i++) {
        close_db(fx);
        open_db(fx);
    }
    close_db(fx);
    close_db(fx); /* nothing is open: fine */
}

/* --- other processes ---------------------------------------------------------------------- */

static void note_changed(void *ctx, bool changed)
{
    assert_false(submitting);
    *(int *)ctx = changed;
}

static bool poll_changed(struct fx *fx)
{
    int answer = -1;
    submitting = true;
    db_poll_changed(fx->db, note_changed, &answer);
    submitting = false;
    for (int i = 0; answer < 0 && i < 1000; i++)
        event_base_loop(loop_base(fx->loop), EVLOOP_ONCE);
    assert_true(answer >= 0);
    return answer;
}

#define ADA   "11111111-1111-4111-8111-111111111111"
#define KEY_A "22222222-2222-4222-8222-222222222222"

static void test_poll_changed(void **state)
{
    struct fx *fx = *state, other = *fx;
    assert_false(poll_changed(fx));
    open_db(&other);
    assert_false(poll_changed(fx));
    run(&other, "SELECT count(*) FROM users");
    assert_false(poll_changed(fx));
    run(&other, "INSERT INTO users (id, name, role, created_at) "
                "VALUES ('" ADA "', 'ada', 'owner', 1)");
    assert_true(poll_changed(fx));
    assert_false(poll_changed(fx));
    run(&other, "INSERT INTO api_keys (id, public_id, secret_hash, user_id, name, created_at, "
                "limits, permissions) VALUES ('" KEY_A "', 'aaaaaaaaaaaa', 'h', '" ADA "', 'n', 1, "
                "'{}', '{}')");
    assert_true(poll_changed(fx));
    run(&other, "UPDATE api_keys SET status = 'revoked'");
    assert_true(poll_changed(fx));
    run(&other, "UPDATE api_keys SET limits = '{\"a\":1}', last_used_at = 5");
    assert_true(poll_changed(fx));
    assert_false(poll_changed(fx));
    if (fx->postgres) { /* SQLite cannot tell these from changes */
        run(&other, "UPDATE api_keys SET last_used_at = 7");
        run(&other, "INSERT INTO t VALUES ('theirs', 1)");
        assert_false(poll_changed(fx));
    }
    run(&other, "DELETE FROM api_keys");
    assert_true(poll_changed(fx));
    close_db(&other);
}

static pid_t start_child(const char *mode, const char *url)
{
    char *const env[] = {NULL};
    char self[] = "/proc/self/exe", m[32], u[256];
    char *argv[] = {self, m, u, NULL};
    pid_t pid;
    snprintf(m, sizeof(m), "%s", mode);
    snprintf(u, sizeof(u), "%s", url);
    assert_int_equal(posix_spawn(&pid, self, NULL, NULL, argv, env), 0);
    return pid;
}

static void test_first_start_of_many(void **state)
{
    struct fx *fx = *state;
    pid_t pids[6];
    for (size_t i = 0; i < ARRAY_SIZE(pids); i++)
        pids[i] = start_child("open", fx->url);
    for (size_t i = 0; i < ARRAY_SIZE(pids); i++) {
        int status;
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    open_db(fx);
    assert_int_equal(run(fx, "SELECT count(*) FROM schema_migrations"),
                     (int64_t)db_migrations_sqlite_count);
}

/* --- migrations --------------------------------------------------------------------------- */

static void refuse_open(struct fx *fx, enum err_code code, const char *words)
{
    struct err err = {0};
    assert_null(db_open(fx->loop, fx->url, &err));
    if (err.code != code || !strstr(err.msg, words))
        fail_msg("'%s' (%s) does not say '%s'", err.msg, err_info(err.code)->name, words);
}

static void test_same_migrations(void **state)
{
    (void)state;
    assert_int_equal(db_migrations_sqlite_count, db_migrations_postgres_count);
    for (size_t i = 0; i < db_migrations_sqlite_count; i++) {
        assert_int_equal(db_migrations_sqlite[i].version, db_migrations_postgres[i].version);
        assert_string_equal(db_migrations_sqlite[i].name, db_migrations_postgres[i].name);
    }
}

struct listed {
    size_t count, applied;
    int64_t first_at;
};

static void list_one(void *ctx, int version, const char *name, int64_t applied_at)
{
    struct listed *l = ctx;
    l->count++;
    l->applied += applied_at > 0;
    assert_int_equal(version, l->count);
    assert_string_equal(name, db_migrations_sqlite[version - 1].name);
    if (version == 1)
        l->first_at = applied_at;
}

static struct listed list_migrations(struct fx *fx, bool apply)
{
    const struct db_opts opts = {.url = fx->url};
    struct listed l = {0};
    struct err err;
    if (db_migrations(&opts, apply, list_one, &l, &err) != 0)
        fail_msg("%s", err.msg);
    assert_int_equal(l.count, db_migrations_sqlite_count);
    return l;
}

static void test_migrations_are_listed(void **state)
{
    struct fx *fx = *state;
    struct listed l = list_migrations(fx, false);
    assert_int_equal(l.applied, 0);
    assert_int_equal(list_migrations(fx, false).applied, 0); /* looking changed nothing */
    l = list_migrations(fx, true);
    assert_int_equal(l.applied, l.count);
    assert_in_range(l.first_at, clock_wall_ms() - 60000, clock_wall_ms());
    open_db(fx);
    assert_int_equal(run(fx, "SELECT count(*) FROM schema_migrations"), (int64_t)l.count);
    assert_int_equal(list_migrations(fx, true).first_at, l.first_at); /* nothing twice */
    run(fx, "DELETE FROM schema_migrations WHERE version > 1");
    assert_int_equal(list_migrations(fx, false).applied, 1);
}

static void test_newer_schema(void **state)
{
    struct fx *fx = *state;
    const struct db_opts opts = {.url = fx->url};
    struct listed l = {0};
    struct err err;
    open_db(fx);
    run(fx, "INSERT INTO schema_migrations VALUES (99, 'later', 1, 'x')");
    close_db(fx);
    refuse_open(fx, ERR_CONFIG, "schema version 99");
    assert_int_equal(db_migrations(&opts, false, list_one, &l, &err), -1);
    assert_int_equal(err.code, ERR_CONFIG);
}

static void test_changed_migration(void **state)
{
    struct fx *fx = *state;
    open_db(fx);
    run(fx, "UPDATE schema_migrations SET checksum = 'other' WHERE version = 1");
    close_db(fx);
    refuse_open(fx, ERR_CONFIG, "0001_init was changed");
}

static void test_failing_migration_undone(void **state)
{
    struct fx *fx = *state;
    open_db(fx);
    run(fx, "DELETE FROM schema_migrations"); /* its first statement will now fail */
    run(fx, "ALTER TABLE sessions RENAME TO hidden");
    close_db(fx);
    refuse_open(fx, ERR_INTERNAL, "migration 0001_init");
    assert_int_equal(list_migrations(fx, false).applied, 0);
}

/* --- the other process -------------------------------------------------------------------- */

static int child_main(const char *url)
{
    struct loop *loop = loop_new();
    struct err err;
    struct db *db = db_open(loop, url, &err);
    if (!db) {
        fprintf(stderr, "child: %s\n", err.msg);
        return 2;
    }
    db_close(db);
    loop_free(loop);
    return 0;
}

#define OPEN(f)   cmocka_unit_test_setup_teardown(f, set_up, fx_tear_down)
#define CLOSED(f) cmocka_unit_test_setup_teardown(f, fx_set_up_closed, fx_tear_down)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        OPEN(test_once_and_later),
        OPEN(test_ten_thousand_at_once),
        OPEN(test_done_is_committed_and_seen),
        OPEN(test_misuse_is_refused),
        OPEN(test_changes),
        OPEN(test_constraints),
        OPEN(test_values),
        OPEN(test_columns),
        OPEN(test_types_may_vary),
        OPEN(test_large_texts),
        OPEN(test_texts_that_are_none),
        OPEN(test_many_rows),
        OPEN(test_result_has_a_limit),
        OPEN(test_failures_stay_alone),
        OPEN(test_of_two_alike_one_wins),
        OPEN(test_batch),
        OPEN(test_failed_commit),
        OPEN(test_large_batch),
        OPEN(test_queue_has_a_limit),
        OPEN(test_many_statement_texts),
        OPEN(test_close_finishes_everything),
        OPEN(test_close_at_once),
        OPEN(test_poll_changed),
        CLOSED(test_first_start_of_many),
        cmocka_unit_test(test_same_migrations),
        CLOSED(test_migrations_are_listed),
        CLOSED(test_newer_schema),
        CLOSED(test_changed_migration),
        CLOSED(test_failing_migration_undone),
    };
    const struct CMUnitTest server_tests[] = {DB_SERVER_TESTS};
    if (argc == 3)
        return child_main(argv[2]);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (with_postgres())
        failed += cmocka_run_group_tests(server_tests, NULL, NULL);
    return failed;
}
