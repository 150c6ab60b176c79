/* test_db.c - the database driver against real SQLite files: what db.h promises about order,
 * failures, other processes, crashes and schema versions. Other processes are this program
 * started again with a mode as first argument (see child_main), because SQLite does not survive
 * fork(). */
#include "db_fx.h"

#include "db_open_cases.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define BATCH_ROWS 50
#define CREATE_T   "CREATE TABLE t (k TEXT PRIMARY KEY, v INTEGER)"
#define INSERT_T   "INSERT INTO t (k, v) VALUES ($1, $2)"

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

/* --- the contract of one statement -------------------------------------------------------- */

static void test_order_once_later(void **state)
{
    enum { N = 3000 }; /* more than one group */
    struct fx *fx = *state;
    struct probe *p = x_calloc(N, sizeof(*p));
    for (int i = 0; i < N; i++) {
        char k[16];
        snprintf(k, sizeof(k), "k%d", i / 2);
        if (i % 2)
            query(fx, "SELECT count(*) FROM t", NULL, 0, &p[i]);
        else
            insert(fx, k, i, &p[i]);
    }
    wait_for(fx, &p[N - 1]);
    for (int i = 0; i < N; i++) {
        assert_false(p[i].failed);
        assert_int_equal(p[i].calls, 1);
        assert_int_equal(p[i].at, p[0].at + i);
        if (i % 2) /* a read sees exactly the writes submitted before it */
            assert_int_equal(p[i].first, i / 2 + 1);
        else
            assert_int_equal(p[i].changes, 1);
    }
    free(p);
}

static void check_values(void *ctx, const struct db_result *r, const struct err *err)
{
    bool *seen = ctx;
    assert_null(err);
    *seen = true;
    assert_int_equal(db_rows(r), 1);
    assert_true(db_is_null(r, 0, 0));
    assert_int_equal(db_text(r, 0, 0).len, 0);
    assert_int_equal(db_int(r, 0, 0), 0);
    assert_true(db_int(r, 0, 1) == INT64_MIN);
    assert_true(db_int(r, 0, 2) == INT64_MAX);
    assert_true(db_real(r, 0, 3) == 0.1);
    assert_true(str_eq(db_text(r, 0, 4), str_n("a\0b\0", 4)));
    assert_string_equal(db_text(r, 0, 5).p, "Grüße, 世界 🙂"); /* NUL-terminated too */
    assert_false(db_is_null(r, 0, 6));
    assert_int_equal(db_text(r, 0, 6).len, 0);
    assert_true(db_int(r, 0, 7) == INT64_MIN); /* $2 once more */
    assert_int_equal(db_int(r, 0, 8), 4);
    assert_true(db_real(r, 0, 2) == (double)INT64_MAX);
}

static void test_values(void **state)
{
    struct fx *fx = *state;
    bool seen = false;
    struct err err;
    const struct db_param params[] = {DBP_S((const char *)NULL),
                                      DBP_I(INT64_MIN),
                                      DBP_I(INT64_MAX),
                                      DBP_D(0.1),
                                      DBP_STR(str_n("a\0b\0", 4)),
                                      DBP_S("Grüße, 世界 🙂"),
                                      DBP_STR(str_n(NULL, 0))};
    assert_int_equal(db_query_wait(fx->db,
                                   "SELECT $1, $2, $3, $4, $5, $6, $7, $2, "
                                   "length(CAST($5 AS BLOB))",
                                   params, 7, check_values, &seen, &err),
                     0);
    assert_true(seen);
}

static void test_misuse_is_refused(void **state)
{
    struct fx *fx = *state;
    static const char *const bad[] = {
        "SELEC 1",  "SELECT 1; SELECT 2", "BEGIN",     "COMMIT",
        "ROLLBACK", "SAVEPOINT x",        "SELECT $1", "INSERT INTO nowhere VALUES (1)",
        ""};
    struct probe p[ARRAY_SIZE(bad)] = {0}, last = {0};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        query(fx, bad[i], NULL, 0, &p[i]);
    insert(fx, "a", 1, &last);
    wait_for(fx, &last);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_true(p[i].failed);
        assert_int_equal(p[i].err.code, ERR_INTERNAL);
    }
    assert_false(last.failed);
    assert_int_equal(run(fx, "SELECT count(*) FROM t"), 1);
}

static void test_query_wait(void **state)
{
    struct fx *fx = *state;
    const struct db_param params[] = {DBP_S("a"), DBP_I(1)};
    struct probe p = {0};
    struct err err = {0};
    assert_int_equal(db_query_wait(fx->db, INSERT_T, params, 2, probe_done, &p, &err), 0);
    assert_int_equal(p.calls, 1);
    assert_int_equal(p.changes, 1);
    assert_int_equal(db_query_wait(fx->db, INSERT_T, params, 2, NULL, NULL, &err), -1);
    assert_int_equal(err.code, ERR_CONFLICT);
    assert_int_equal(run(fx, "UPDATE t SET v = 2 WHERE k = 'none'"), -1);
    assert_int_equal(db_query_wait(fx->db, "DELETE FROM t", NULL, 0, probe_done, &p, &err), 0);
    assert_int_equal(p.changes, 1);
    assert_int_equal(
        db_query_wait(fx->db, "DELETE FROM t WHERE k = 'a'", NULL, 0, probe_done, &p, &err), 0);
    assert_int_equal(p.changes, 0); /* not the count of the statement before */
}

static void sum_rows(void *ctx, const struct db_result *r, const struct err *err)
{
    assert_null(err);
    for (size_t i = 0; i < db_rows(r); i++) {
        char want[32];
        snprintf(want, sizeof(want), "row-%lld", (long long)db_int(r, i, 1));
        assert_string_equal(db_text(r, i, 0).p, want);
        *(int64_t *)ctx += db_int(r, i, 1);
    }
}

static void check_wal(void *ctx, const struct db_result *r, const struct err *err)
{
    assert_null(err);
    *(bool *)ctx = str_eq_c(db_text(r, 0, 0), "wal");
}

static void test_set_up(void **state)
{
    struct fx *fx = *state;
    struct err err;
    bool wal = false;
    assert_int_equal(run(fx, "PRAGMA foreign_keys"), 1);
    assert_int_equal(run(fx, "PRAGMA synchronous"), 1); /* NORMAL */
    assert_int_equal(run(fx, "PRAGMA temp_store"), 2);  /* MEMORY */
    assert_int_equal(run(fx, "PRAGMA busy_timeout"), 5000);
    assert_int_equal(db_query_wait(fx->db, "PRAGMA journal_mode", NULL, 0, check_wal, &wal, &err),
                     0);
    assert_true(wal);
}

static void test_many_rows(void **state)
{
    struct fx *fx = *state;
    int64_t sum = 0;
    struct err err;
    run(fx, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000) "
            "INSERT INTO t SELECT 'row-' || i, i FROM n");
    assert_int_equal(db_query_wait(fx->db, "SELECT k, v FROM t", NULL, 0, sum_rows, &sum, &err), 0);
    assert_int_equal(sum, 50000LL * 50001 / 2);
}

static void test_result_has_a_limit(void **state)
{
    struct fx *fx = *state;
    struct probe p = {0};
    query(fx,
          "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) "
          "SELECT zeroblob(1048576) FROM n",
          NULL, 0, &p);
    wait_for(fx, &p);
    assert_true(p.failed);
    assert_int_equal(p.err.code, ERR_TOO_LARGE);
}

static void test_queue_has_a_limit(void **state)
{
    struct fx *fx = *state;
    size_t size = 90u << 20;
    char *big = x_calloc(1, size);
    const struct db_param params[] = {DBP_STR(str_n(big, size))};
    struct probe p[4] = {0};
    for (int i = 0; i < 3; i++)
        query(fx, "SELECT length(CAST($1 AS BLOB))", params, 1, &p[i]);
    free(big); /* parameters were copied */
    insert(fx, "small", 1, &p[3]);
    wait_for(fx, &p[3]);
    assert_int_equal(p[0].first, size);
    assert_int_equal(p[1].first, size);
    assert_true(p[2].failed);
    assert_int_equal(p[2].err.code, ERR_UNAVAILABLE);
    assert_false(p[3].failed);
    assert_true(p[2].at < p[3].at);
}

/* --- groups and transactions -------------------------------------------------------------- */

/* The first statement occupies the thread, so that those that follow form one group. */
static void occupy(struct fx *fx)
{
    static struct probe p;
    query(fx, "SELECT 1", NULL, 0, &p);
}

static void test_failures_stay_alone(void **state)
{
    struct fx *fx = *state;
    struct probe a = {0}, dup = {0}, batch = {0}, bad = {0}, fk = {0}, b = {0};
    const struct db_param c_params[] = {DBP_S("c"), DBP_I(1)};
    const struct db_param a_params[] = {DBP_S("a"), DBP_I(1)};
    const struct db_stmt stmts[] = {{INSERT_T, c_params, 2}, {INSERT_T, a_params, 2}};
    run(fx, "CREATE TABLE child (k TEXT REFERENCES t (k))");
    occupy(fx);
    insert(fx, "a", 1, &a);
    insert(fx, "a", 2, &dup);
    db_batch(fx->db, stmts, 2, probe_done, &batch);
    query(fx, "INSERT INTO t VALUES (1, 2, 3, 4)", NULL, 0, &bad);
    query(fx, "INSERT INTO child VALUES ('nobody')", NULL, 0, &fk);
    insert(fx, "b", 1, &b);
    wait_for(fx, &b);
    assert_false(a.failed);
    assert_false(b.failed);
    assert_int_equal(dup.err.code, ERR_CONFLICT);
    assert_int_equal(batch.err.code, ERR_CONFLICT);
    assert_int_equal(bad.err.code, ERR_INTERNAL);
    assert_int_equal(fk.err.code, ERR_INTERNAL);
    assert_non_null(strstr(fk.err.msg, "FOREIGN KEY"));
    sqlite3 *raw = raw_open(fx); /* what was reported is committed: others see it */
    assert_int_equal(raw_int(raw, "SELECT group_concat(k || v, ' ') = 'a1 b1' FROM t"), 1);
    assert_int_equal(raw_int(raw, "SELECT count(*) FROM child"), 0);
    sqlite3_close(raw);
}

static void test_batch(void **state)
{
    struct fx *fx = *state;
    struct probe p = {0}, empty = {0};
    const struct db_param params[] = {DBP_S("a"), DBP_I(7)};
    const struct db_stmt stmts[] = {
        {INSERT_T, params, 2}, {"UPDATE t SET v = v + 1", NULL, 0}, {"SELECT v FROM t", NULL, 0}};
    submitting = true;
    db_batch(fx->db, stmts, 3, probe_done, &p);
    db_batch(fx->db, NULL, 0, probe_done, &empty);
    submitting = false;
    wait_for(fx, &empty);
    assert_false(p.failed);
    assert_int_equal(p.first, 8);
    assert_false(empty.failed);
    assert_int_equal(empty.rows, 0);
}

/* A deferred foreign key is checked by COMMIT: everything in the group must be reported lost. */
static void test_failed_commit_fails_all(void **state)
{
    struct fx *fx = *state;
    struct probe before = {0}, a = {0}, dup = {0}, read = {0}, bad = {0};
    run(fx, "CREATE TABLE child (k TEXT REFERENCES t (k) DEFERRABLE INITIALLY DEFERRED)");
    occupy(fx);
    query(fx, "SELECT count(*) FROM t", NULL, 0, &before);
    insert(fx, "a", 1, &a);
    insert(fx, "a", 1, &dup);
    query(fx, "SELECT count(*) FROM t", NULL, 0, &read);
    query(fx, "INSERT INTO child VALUES ('nobody')", NULL, 0, &bad);
    wait_for(fx, &bad);
    assert_false(before.failed); /* read before the first write: nothing to do with it */
    assert_int_equal(a.err.code, ERR_UNAVAILABLE);
    assert_int_equal(dup.err.code, ERR_UNAVAILABLE);
    assert_int_equal(read.err.code, ERR_UNAVAILABLE);
    assert_int_equal(bad.err.code, ERR_UNAVAILABLE);
    assert_int_equal(run(fx, "SELECT count(*) FROM t"), 0);
    run(fx, "INSERT INTO t VALUES ('later', 1)"); /* and life goes on */
}

/* SQLite answers a full disk in the middle of a transaction by throwing all of it away. */
static void test_full_takes_nobody_with_it(void **state)
{
    struct fx *fx = *state;
    struct probe a = {0}, dup = {0}, big = {0}, b = {0};
    int64_t pages = run(fx, "PRAGMA page_count");
    char sql[64];
    snprintf(sql, sizeof(sql), "PRAGMA max_page_count = %d", (int)pages + 3);
    run(fx, sql);
    occupy(fx);
    insert(fx, "a", 1, &a);
    insert(fx, "a", 2, &dup);
    query(fx, "INSERT INTO t VALUES ('big', zeroblob(1000000))", NULL, 0, &big);
    insert(fx, "b", 1, &b);
    wait_for(fx, &b);
    assert_int_equal(big.err.code, ERR_UNAVAILABLE);
    assert_non_null(strstr(big.err.msg, "full"));
    assert_false(a.failed);
    assert_false(b.failed);
    assert_int_equal(dup.err.code, ERR_CONFLICT);
    assert_int_equal(run(fx, "SELECT count(*) FROM t"), 2);
    assert_int_equal(a.calls + dup.calls + big.calls + b.calls, 4);
}

static void test_disk_refuses_writes(void **state)
{
    struct fx *fx = *state;
    struct probe a = {0};
    struct rlimit old, small;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = (struct rlimit){.rlim_cur = 8192, .rlim_max = old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    insert(fx, "a", 1, &a);
    wait_for(fx, &a);
    int64_t readable = run(fx, "SELECT count(*) FROM t");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_true(a.failed);
    assert_int_equal(a.err.code, ERR_UNAVAILABLE);
    assert_int_equal(readable, 0);
    run(fx, "INSERT INTO t VALUES ('a', 1)"); /* room again */
}

struct again {
    struct fx *fx;
    int left;
};

static void submit_again(void *ctx, const struct db_result *r, const struct err *err)
{
    struct again *again = ctx;
    assert_non_null(r);
    assert_null(err);
    if (again->left-- > 0)
        db_query(again->fx->db, "INSERT INTO t (v) VALUES (1)", NULL, 0, submit_again, again);
}

static void test_close_finishes_everything(void **state)
{
    enum { N = 5000 };
    struct fx *fx = *state;
    struct probe *p = x_calloc(N, sizeof(*p));
    struct again again = {.fx = fx, .left = 20};
    for (int i = 0; i < N; i++) {
        char k[16];
        snprintf(k, sizeof(k), "k%d", i);
        insert(fx, k, i, &p[i]);
    }
    db_query(fx->db, "SELECT 1", NULL, 0, submit_again, &again);
    close_db(fx); /* the loop did not run at all */
    for (int i = 0; i < N; i++) {
        assert_int_equal(p[i].calls, 1);
        assert_false(p[i].failed);
    }
    assert_int_equal(again.left, -1);
    open_db(fx);
    assert_int_equal(run(fx, "SELECT count(*) FROM t"), N + 20);
    free(p);
}

/* --- other connections and processes ------------------------------------------------------ */

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

static void test_poll_changed(void **state)
{
    struct fx *fx = *state;
    sqlite3 *raw = raw_open(fx);
    assert_false(poll_changed(fx));
    run(fx, "INSERT INTO t VALUES ('own', 1)");
    assert_false(poll_changed(fx)); /* our own writes are no news */
    raw_int(raw, "SELECT count(*) FROM t");
    assert_false(poll_changed(fx));
    raw_run(raw, "INSERT INTO t VALUES ('theirs', 1)");
    run(fx, "INSERT INTO t VALUES ('own again', 1)");
    assert_true(poll_changed(fx));
    assert_false(poll_changed(fx));
    sqlite3_close(raw);
}

static void test_lock_held_too_long(void **state)
{
    struct fx *fx = *state;
    struct probe read = {0}, a = {0}, batch_read = {0}, b = {0};
    sqlite3 *raw = raw_open(fx);
    raw_run(raw, "BEGIN IMMEDIATE");
    int64_t start = clock_mono_ms();
    query(fx, "SELECT count(*) FROM t", NULL, 0, &read);
    wait_for(fx, &read);
    assert_true(clock_mono_ms() - start < 2000); /* readers do not care */
    insert(fx, "a", 1, &a);
    wait_for(fx, &a);
    assert_int_equal(a.err.code, ERR_UNAVAILABLE);
    assert_in_range(clock_mono_ms() - start, 4000, 20000);
    raw_run(raw, "COMMIT");
    sqlite3_close(raw);
    insert(fx, "b", 1, &b);
    query(fx, "SELECT count(*) FROM t", NULL, 0, &batch_read);
    wait_for(fx, &batch_read);
    assert_false(b.failed);
    assert_int_equal(batch_read.first, 1);
}

static pid_t start_child(const char *mode, struct fx *fx)
{
    static char *const env[] = {NULL};
    char self[] = "/proc/self/exe", m[32];
    char *argv[] = {self, m, fx->path, NULL};
    pid_t pid;
    snprintf(m, sizeof(m), "%s", mode);
    assert_int_equal(posix_spawn(&pid, self, NULL, NULL, argv, env), 0);
    return pid;
}

static int end_of(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void test_two_writers(void **state)
{
    enum { N = 2000 };
    struct fx *fx = *state;
    struct probe *p = x_calloc(N, sizeof(*p));
    pid_t pid = start_child("insert", fx);
    while (run(fx, "SELECT count(*) FROM t") == 0) /* it is at it; bounded by the test's timeout */
        ;
    for (int i = 0; i < N; i++) {
        char k[16];
        snprintf(k, sizeof(k), "own%d", i);
        insert(fx, k, i, &p[i]);
        wait_for(fx, &p[i]);
        assert_false(p[i].failed);
    }
    assert_int_equal(end_of(pid), 0);
    assert_int_equal(run(fx, "SELECT count(*) FROM t WHERE k LIKE 'child%'"), N);
    assert_int_equal(run(fx, "SELECT count(*) FROM t WHERE k LIKE 'own%'"), N);
    assert_true(poll_changed(fx));
    free(p);
}

static void test_kill_leaves_no_half_batch(void **state)
{
    struct fx *fx = *state;
    for (int round = 0; round < 6; round++) {
        int64_t before = run(fx, "SELECT count(*) FROM t"), deadline = clock_mono_ms() + 20000;
        pid_t pid = start_child("batches", fx);
        while (run(fx, "SELECT count(*) FROM t") == before && clock_mono_ms() < deadline)
            usleep(500);
        usleep((unsigned)round * 1700);
        kill(pid, SIGKILL);
        assert_int_equal(end_of(pid), 128 + SIGKILL);
        close_db(fx);
        open_db(fx);
        int64_t after = run(fx, "SELECT count(*) FROM t");
        assert_true(after > before);
        assert_int_equal(after % BATCH_ROWS, 0);
        assert_int_equal(run(fx, "SELECT count(*) FROM (SELECT v FROM t GROUP BY v HAVING "
                                 "count(*) <> 50)"),
                         0);
        run(fx, "INSERT INTO t SELECT 'x' || max(v), -1 FROM t");
        run(fx, "DELETE FROM t WHERE v = -1");
    }
    assert_int_equal(run(fx, "SELECT integrity_check = 'ok' FROM pragma_integrity_check"), 1);
}

static void test_first_start_of_many(void **state)
{
    struct fx *fx = *state;
    pid_t pids[6];
    for (size_t i = 0; i < ARRAY_SIZE(pids); i++)
        pids[i] = start_child("open", fx);
    for (size_t i = 0; i < ARRAY_SIZE(pids); i++)
        assert_int_equal(end_of(pids[i]), 0);
    open_db(fx);
    assert_int_equal(run(fx, COUNT_APPLIED), (int64_t)db_migrations_sqlite_count);
}

/* --- checkpoints and speed ---------------------------------------------------------------- */

static off_t size_of(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? st.st_size : 0;
}

static void test_wal_is_moved_while_running(void **state)
{
    struct fx *fx = *state;
    int64_t deadline = clock_mono_ms() + 60000;
    for (int i = 0; i < 400; i++) /* about 2000 pages, one commit after the other */
        run(fx, "INSERT INTO t VALUES (NULL, zeroblob(20000))");
    while (size_of(fx->path) < (2 << 20)) { /* nobody writes now, nobody closes it */
        assert_true(clock_mono_ms() < deadline);
        usleep(10000);
    }
    assert_false(poll_changed(fx)); /* the checkpoint's connection is not "another process" */
}

static void test_wal_has_a_limit(void **state)
{
    struct fx *fx = *state;
    char wal[256];
    snprintf(wal, sizeof(wal), "%s-wal", fx->path);
    for (int i = 0; i < 12; i++) { /* 12 x 10 MB, without a pause */
        run(fx, "INSERT INTO t VALUES (NULL, zeroblob(10000000))");
        run(fx, "DELETE FROM t");
    }
    assert_true(size_of(wal) < (100 << 20));
}

struct flood {
    struct fx *fx;
    int to_submit, done;
};

static void flood_more(struct flood *f);

static void flood_done(void *ctx, const struct db_result *r, const struct err *err)
{
    struct flood *f = ctx;
    assert_null(err);
    assert_int_equal(db_changes(r), 1);
    f->done++;
    flood_more(f);
}

static void flood_more(struct flood *f)
{
    if (f->to_submit == 0)
        return;
    char k[32];
    snprintf(k, sizeof(k), "k%d", f->to_submit--);
    const struct db_param params[] = {DBP_S(k), DBP_I(1)};
    db_query(f->fx->db, INSERT_T, params, 2, flood_done, f);
}

static double flood(struct fx *fx, int total, int in_flight)
{
    struct flood f = {.fx = fx, .to_submit = total};
    int64_t start = clock_mono_us();
    run(fx, "DELETE FROM t");
    for (int i = 0; i < in_flight; i++)
        flood_more(&f);
    while (f.done < total)
        event_base_loop(loop_base(fx->loop), EVLOOP_ONCE);
    return total * 1e6 / (double)(clock_mono_us() - start);
}

static void test_speed(void **state)
{
    struct fx *fx = *state;
    double one = flood(fx, 5000, 1), some = flood(fx, 50000, 64), many = flood(fx, 50000, 1000);
    print_message("           inserts/s, one by one: %.0f with 1 in flight, %.0f with 64, "
                  "%.0f with 1000\n",
                  one, some, many);
    assert_int_equal(run(fx, "SELECT count(*) FROM t"), 50000);
}

/* --- the other processes ------------------------------------------------------------------ */

static void must_succeed(void *ctx, const struct db_result *r, const struct err *err)
{
    (void)r;
    if (err) {
        fprintf(stderr, "child: %s\n", err->msg);
        _exit(3);
    }
    ++*(int *)ctx;
}

static void child_insert(struct fx *fx)
{
    for (int i = 0, done = 0; i < 2000; i++) {
        char k[32];
        snprintf(k, sizeof(k), "child%d", i);
        const struct db_param params[] = {DBP_S(k), DBP_I(i)};
        db_query(fx->db, INSERT_T, params, 2, must_succeed, &done);
        while (i % 10 == 9 && done <= i)
            event_base_loop(loop_base(fx->loop), EVLOOP_ONCE);
    }
}

static void child_batches(struct fx *fx)
{
    static char k[BATCH_ROWS][48];
    struct db_param params[BATCH_ROWS][2];
    struct db_stmt stmts[BATCH_ROWS];
    for (int n = 0, done = 0; n < 20000; n++) { /* until killed */
        int64_t id = (int64_t)getpid() * 100000 + n;
        for (int i = 0; i < BATCH_ROWS; i++) {
            snprintf(k[i], sizeof(k[i]), "%lld-%d", (long long)id, i);
            params[i][0] = DBP_S(k[i]);
            params[i][1] = DBP_I(id);
            stmts[i] = (struct db_stmt){INSERT_T, params[i], 2};
        }
        db_batch(fx->db, stmts, BATCH_ROWS, must_succeed, &done);
        while (n - done > 20)
            event_base_loop(loop_base(fx->loop), EVLOOP_ONCE);
    }
}

static int child_main(const char *mode, const char *path)
{
    struct fx fx = {.loop = loop_new()};
    struct err err;
    snprintf(fx.url, sizeof(fx.url), "sqlite:%s", path);
    fx.db = db_open(fx.loop, fx.url, &err);
    if (!fx.db) {
        fprintf(stderr, "child: %s\n", err.msg);
        return 2;
    }
    if (strcmp(mode, "insert") == 0)
        child_insert(&fx);
    else if (strcmp(mode, "batches") == 0)
        child_batches(&fx);
    db_close(fx.db);
    loop_free(fx.loop);
    return 0;
}

#define OPEN(f)   cmocka_unit_test_setup_teardown(f, set_up, fx_tear_down)
#define CLOSED(f) cmocka_unit_test_setup_teardown(f, fx_set_up_closed, fx_tear_down)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        OPEN(test_order_once_later),
        OPEN(test_values),
        OPEN(test_misuse_is_refused),
        OPEN(test_query_wait),
        OPEN(test_set_up),
        OPEN(test_many_rows),
        OPEN(test_result_has_a_limit),
        OPEN(test_queue_has_a_limit),
        OPEN(test_failures_stay_alone),
        OPEN(test_batch),
        OPEN(test_failed_commit_fails_all),
        OPEN(test_full_takes_nobody_with_it),
        OPEN(test_disk_refuses_writes),
        OPEN(test_close_finishes_everything),
        OPEN(test_poll_changed),
        OPEN(test_lock_held_too_long),
        OPEN(test_two_writers),
        OPEN(test_kill_leaves_no_half_batch),
        CLOSED(test_first_start_of_many),
        CLOSED(test_files_are_private),
        CLOSED(test_bad_places),
        CLOSED(test_newer_schema),
        CLOSED(test_changed_migration),
        CLOSED(test_failing_migration_undone),
        CLOSED(test_keys_of_version_1_get_a_priority),
        OPEN(test_wal_is_moved_while_running),
        OPEN(test_wal_has_a_limit),
        OPEN(test_speed),
    };
    if (argc == 3)
        return child_main(argv[1], argv[2]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
