/* db_fx.h - a database of its own for each test of db and store: an SQLite file in a directory, or
 * a new database in the PostgreSQL server of tools/with-postgres.sh where that is running. */
#ifndef CG_TESTS_UNIT_DB_FX_H
#define CG_TESTS_UNIT_DB_FX_H

#include "core/clock.h"
#include "db/db.h"

#include <event2/event.h>
#include <libpq-fe.h>
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>

struct fx {
    bool postgres;
    char dir[128], path[192], url[256];
    char name[64]; /* of the database, on PostgreSQL */
    struct loop *loop;
    struct db *db;
};

/* --- PostgreSQL: databases come and go through the maintenance database ------------------- */

static inline bool with_postgres(void)
{
    const char *url = getenv("TEST_DATABASE_URL");
    return url && *url;
}

static inline void pg_fail(PGconn *pq, const char *sql)
{
    char why[512];
    snprintf(why, sizeof(why), "%s: %s", sql, PQerrorMessage(pq));
    PQfinish(pq);
    fail_msg("%s", why);
}

static void no_notice(void *ctx, const char *message)
{
    (void)ctx;
    (void)message;
}

static inline PGconn *pg_raw(const char *url)
{
    PGconn *pq = PQconnectdb(url);
    PQsetNoticeProcessor(pq, no_notice, NULL);
    if (PQstatus(pq) != CONNECTION_OK)
        pg_fail(pq, "connect");
    return pq;
}

static inline int64_t pg_run(PGconn *pq, const char *sql)
{
    PGresult *r = PQexec(pq, sql);
    ExecStatusType status = PQresultStatus(r);
    int64_t v = -1;
    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
        pg_fail(pq, sql);
    if (PQntuples(r))
        v = strtoll(PQgetvalue(r, 0, 0), NULL, 10);
    PQclear(r);
    return v;
}

/* One statement from outside. */
static inline int64_t pg_once(const char *url, const char *sql)
{
    PGconn *pq = pg_raw(url);
    int64_t v = pg_run(pq, sql);
    PQfinish(pq);
    return v;
}

static inline int64_t pg_admin(const char *before, const char *name, const char *after)
{
    char sql[256];
    snprintf(sql, sizeof(sql), "%s%s%s", before, name, after);
    return pg_once(getenv("TEST_DATABASE_URL"), sql);
}

static inline void make_pg_database(struct fx *fx)
{
    static int last;
    const char *admin = getenv("TEST_DATABASE_URL");
    snprintf(fx->name, sizeof(fx->name), "cg_%d_%d", (int)getpid(), ++last);
    snprintf(fx->url, sizeof(fx->url), "%.*s/%s", (int)(strrchr(admin, '/') - admin), admin,
             fx->name);
    pg_admin("CREATE DATABASE ", fx->name, " TEMPLATE template0");
}

/* --- callbacks ---------------------------------------------------------------------------- */

static int sequence;    /* numbers callbacks as they come */
static bool submitting; /* inside a call that submits: no callback may come */

struct probe {
    int calls, at;
    size_t rows;
    int64_t changes, first; /* first: cell 0,0 as an integer */
    bool failed;
    struct err err;
};

static inline void probe_done(void *ctx, const struct db_result *r, const struct err *err)
{
    struct probe *p = ctx;
    assert_false(submitting);
    p->calls++;
    p->at = ++sequence;
    assert_true((r == NULL) == (err != NULL));
    p->failed = err != NULL;
    if (err) {
        p->err = *err;
        return;
    }
    p->rows = db_rows(r);
    p->changes = db_changes(r);
    p->first = p->rows ? db_int(r, 0, 0) : -1;
}

static inline void query(struct fx *fx, const char *sql, const struct db_param *params,
                         size_t count, struct probe *p)
{
    submitting = true;
    db_query(fx->db, sql, params, count, probe_done, p);
    submitting = false;
}

static inline void wait_for(struct fx *fx, const struct probe *p)
{
    int64_t deadline = clock_mono_ms() + 30000;
    while (!p->calls) {
        assert_true(clock_mono_ms() < deadline);
        event_base_loop(loop_base(fx->loop), EVLOOP_ONCE);
    }
}

/* One statement, waited for; it must succeed. Returns cell 0,0. */
static inline int64_t run(struct fx *fx, const char *sql)
{
    struct probe p = {0};
    query(fx, sql, NULL, 0, &p);
    wait_for(fx, &p);
    if (p.failed)
        fail_msg("%s: %s", sql, p.err.msg);
    return p.first;
}

static inline void make_dir(struct fx *fx)
{
    const char *base = getenv("TMPDIR");
    snprintf(fx->dir, sizeof(fx->dir), "%.80s/cg-db-XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(fx->dir));
    snprintf(fx->path, sizeof(fx->path), "%s/sub/gate.db", fx->dir);
    snprintf(fx->url, sizeof(fx->url), "sqlite:%s", fx->path);
}

/* opts->url is filled in. */
static inline void open_db_with(struct fx *fx, struct db_opts opts)
{
    struct err err;
    opts.url = fx->url;
    fx->db = db_open_with(fx->loop, &opts, &err);
    if (!fx->db)
        fail_msg("%s", err.msg);
}

static inline void open_db(struct fx *fx)
{
    open_db_with(fx, (struct db_opts){0});
}

static inline void close_db(struct fx *fx)
{
    db_close(fx->db);
    fx->db = NULL;
}

static inline int fx_set_up_closed(void **state)
{
    struct fx *fx = x_calloc(1, sizeof(*fx));
    make_dir(fx);
    fx->postgres = with_postgres();
    if (fx->postgres)
        make_pg_database(fx);
    fx->loop = loop_new();
    sequence = 0;
    *state = fx;
    return 0;
}

static inline int fx_set_up(void **state)
{
    fx_set_up_closed(state);
    open_db(*state);
    return 0;
}

static inline int fx_tear_down(void **state)
{
    static const char *const ends[] = {"", "-wal", "-shm"};
    struct fx *fx = *state;
    close_db(fx);
    loop_free(fx->loop);
    if (fx->postgres)
        pg_admin("DROP DATABASE IF EXISTS ", fx->name, " WITH (FORCE)");
    for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
        char name[256];
        snprintf(name, sizeof(name), "%s%s", fx->path, ends[i]);
        unlink(name);
    }
    char sub[256];
    snprintf(sub, sizeof(sub), "%s/sub", fx->dir);
    rmdir(sub);
    assert_int_equal(rmdir(fx->dir), 0);
    free(fx);
    return 0;
}

/* A connection of a stranger, who knows nothing of ours. SQLite only. */
static inline sqlite3 *raw_open(struct fx *fx)
{
    sqlite3 *raw;
    assert_int_equal(sqlite3_open_v2(fx->path, &raw, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    sqlite3_busy_timeout(raw, 10000);
    return raw;
}

static inline void raw_run(sqlite3 *raw, const char *sql)
{
    if (sqlite3_exec(raw, sql, NULL, NULL, NULL) != SQLITE_OK)
        fail_msg("%s: %s", sql, sqlite3_errmsg(raw));
}

static inline int64_t raw_int(sqlite3 *raw, const char *sql)
{
    sqlite3_stmt *stmt;
    assert_int_equal(sqlite3_prepare_v2(raw, sql, -1, &stmt, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
    int64_t v = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    return v;
}

#endif
